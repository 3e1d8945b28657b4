"""``examples/parallel_neurons.py`` against SpikingJelly's neurons, which
``scripts/record_online.py`` recorded.
"""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

FUNCTIONS = runpy.run_path(str(ROOT / "examples" / "parallel_neurons.py"))
MATRICES = {
    "psn": lambda weight, steps: weight,
    "masked": lambda weight, steps: FUNCTIONS["masked"](weight, 5),
    "sliding": FUNCTIONS["sliding"],
}


@pytest.mark.parametrize("case", MATRICES)
def test_parallel_neurons_of_spikingjelly(x64, case):
    with np.load(ROOT / "tests" / "recorded" / "online" / "spikingjelly.npz") as file:
        arrays = {
            name.partition("/")[2]: file[name] for name in file.files if name.startswith(f"{case}/")
        }

    def loss(weight, bias, inputs):
        spikes = FUNCTIONS["parallel"](MATRICES[case](weight, len(inputs)), bias, inputs)
        return (arrays["cotangent"] * spikes).sum(), spikes

    values = [jnp.asarray(arrays[name]) for name in ("weight", "bias", "inputs")]
    gradients, spikes = jax.grad(loss, (0, 1, 2), has_aux=True)(*values)
    np.testing.assert_array_equal(spikes, arrays["spikes"])
    for name, gradient in zip(("weight", "bias", "inputs"), gradients, strict=True):
        np.testing.assert_allclose(gradient, arrays[f"d_{name}"], rtol=1e-12, atol=1e-12)
