"""The cells of the page "from other libraries" against what these libraries computed themselves.

``tests/recorded/`` holds their spikes and gradients, made by ``scripts/record_neurons.py``.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "from-other-libraries.md"
SPIKES_ONLY = {"norse_lif_refractory", "sinabs_alif"}


def recorded():
    found = {}
    for path in sorted((ROOT / "tests" / "recorded").glob("*.npz")):
        with np.load(path) as file:
            for case in file.files:
                found[f"{path.stem}_{case}"] = {name: file[case][name] for name in file[case].dtype.names}
    return found


RECORDED = recorded()
FUNCTIONS: dict = {}
exec("\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)), FUNCTIONS)


def compute(case):
    """Spikes, and the gradients that were recorded."""
    arrays = {n: a.astype(np.float64) for n, a in RECORDED[case].items() if a.ndim and n != "spikes" and n[:2] != "d_"}
    numbers = {n: float(a) for n, a in RECORDED[case].items() if not a.ndim and n[:2] != "d_"}
    cotangent = arrays.pop("cotangent")
    values = {n: jnp.asarray({**arrays, **numbers}[n]) for n in [*arrays, *numbers] if f"d_{n}" in RECORDED[case]}

    def run(values):
        given = {**arrays, **numbers, **values}
        data = [given.pop(name) for name in ("weight", "inputs", "recurrent") if name in given]
        return FUNCTIONS[case](*data, **given)

    spikes, back = jax.vjp(run, values)
    return np.asarray(spikes), back(jnp.asarray(cotangent))[0]


def test_every_case_of_the_page_was_recorded():
    libraries = {case.partition("_")[0] for case in RECORDED}
    shown = {name for name in FUNCTIONS if name.partition("_")[0] in libraries and name != "norse_decay"}
    assert shown == set(RECORDED)
    assert libraries == {"snntorch", "spikingjelly", "norse", "sinabs", "spyx", "jaxpike"}


def test_page_imports_by_name():
    """Both libraries are imported during a migration, and a star import would replace names of the other one."""
    assert "import *" not in PAGE.read_text()


BY_DEFAULT = SPIKES_ONLY | {
    "snntorch_leaky_subtract",
    "spikingjelly_plif",
    "norse_lif_recurrent",
    "spyx_alif",
    "jaxpike_lif",
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in BY_DEFAULT else pytest.mark.every) for case in RECORDED]
)
def test_spikes_and_gradients_are_those_of_the_library(x64, case):
    spikes, gradients = compute(case)
    np.testing.assert_array_equal(spikes, RECORDED[case]["spikes"])
    agree = True
    for name, got in gradients.items():
        expected = RECORDED[case][f"d_{name}"]
        agree &= bool(np.abs(np.asarray(got) - expected).max() <= 1e-5 * np.abs(expected).max())
    assert agree != (case in SPIKES_ONLY)
