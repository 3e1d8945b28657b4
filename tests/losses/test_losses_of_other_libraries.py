"""The functions of ``examples/losses_of_other_libraries.py``, compared with the losses of the
libraries.

``scripts/record_losses.py`` recorded values and gradients in ``tests/recorded/losses/``.
"""

import functools
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, enable_x64

pytestmark = pytest.mark.slow

FUNCTIONS = runpy.run_path(str(ROOT / "examples" / "losses_of_other_libraries.py"))


def recorded():
    found = {}
    for path in sorted((ROOT / "tests" / "recorded" / "losses").glob("*.npz")):
        with np.load(path) as file:
            found |= {
                f"{path.stem}_{case}": {n: file[case][n] for n in file[case].dtype.names}
                for case in file.files
            }
    return found


RECORDED = recorded()
SINGLE = ("sparx_readout", "sparx_rate")  # in 32 bits there


def function(case):
    return case.partition("/")[0]


@functools.cache
def computed():
    """Value and gradient of every case, in one program."""

    def run(inputs):
        found = {}
        for case, (x, second) in inputs.items():
            given = {n: jnp.asarray(a) if a.ndim else a.item() for n, a in RECORDED[case].items()}
            numbers = {
                n: a for n, a in given.items() if n not in ("x", "labels", "targets", "loss", "d_x")
            }
            found[case] = jax.value_and_grad(FUNCTIONS[function(case)])(x, second, **numbers)
        return found

    inputs = {
        case: (
            jnp.asarray(record["x"], float),
            jnp.asarray(record.get("labels", record.get("targets"))),
        )
        for case, record in RECORDED.items()
    }
    with enable_x64():
        inputs = jax.tree.map(lambda a: a.astype(int if a.dtype.kind == "i" else float), inputs)
        return jax.jit(run)(inputs)


@pytest.mark.parametrize("case", RECORDED)
def test_values_and_gradients_are_those_of_the_library(case):
    value, gradient = computed()[case]
    tolerance = 1e-5 if case.startswith(SINGLE) else 1e-6
    np.testing.assert_allclose(value, RECORDED[case]["loss"], rtol=tolerance)
    expected = RECORDED[case]["d_x"]
    np.testing.assert_allclose(
        gradient, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()
    )


def test_every_function_was_recorded():
    libraries = {case.partition("_")[0] for case in RECORDED}
    shown = {name for name in FUNCTIONS if name.partition("_")[0] in libraries} - {
        "snntorch_spike_time"
    }
    assert shown == {function(case) for case in RECORDED}
    assert libraries == {"snntorch", "spikingjelly", "sparx", "braintools", "spyx"}
