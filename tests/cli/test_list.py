"""The list of surrogates, against numbers by hand."""

import contextlib
import io

import numpy as np
import pytest

from spikegrad import get, names

pytest.importorskip("rich")
pytest.importorskip("click")

from spikegrad.cli import main


@pytest.fixture(scope="module")
def listed():
    """The lines of each surrogate by its name."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["list"]) == 0
    entries = zip(*[iter(out.getvalue().splitlines())] * 3, strict=True)
    return {
        first.partition("(")[0]: (first, formula.strip(), sizes.strip())
        for first, formula, sizes in entries
    }


@pytest.mark.slow
def test_list_has_every_surrogate_with_its_parameters(listed):
    assert list(listed) == names()
    assert all(get(first) == get(name) for name, (first, _, _) in listed.items())
    assert listed["relu_grad"][:2] == ("relu_grad(alpha=0.3, width=1.0)", "max(0, α(w − |x|))")
    assert all(len(formula) > 4 for _, formula, _ in listed.values())


def test_list_has_peak_area_and_half_width(listed):
    expected = {  # by hand, from the formulas
        "arctan": (1 / 2, 1),
        "erf": (1 / np.sqrt(np.pi), 1),
        "inv_square_grad": (1, 2 / 100),
        "q_pseudo_spike": (1, 3),
        "relu_grad": (0.3, 0.3),
        "multi_gaussian_grad": (
            0.5 * (1.15 - 0.3 * np.exp(-1 / 72) / 6) / (0.5 * np.sqrt(2 * np.pi)),
            0.5 * 0.85,
        ),
        "leaky_relu": (1, "unbounded"),
        "piecewise_leaky_relu": (0.5, "unbounded"),
        "nonzero_sign_log": (1, "unbounded"),
        "squarewave_fourier_series": (1, "periodic"),
    }
    sizes = {
        name: dict(part.split() for part in line.split(", "))
        for name, (_, _, line) in listed.items()
    }
    for name, (peak, area) in expected.items():
        assert float(sizes[name]["peak"]) == pytest.approx(peak, rel=1e-3), name
        found = sizes[name]["area"]
        assert (
            found == area
            if isinstance(area, str)
            else float(found) == pytest.approx(area, rel=1e-3)
        )
    assert sizes["sigmoid"] == {"peak": "1", "area": "1", "half-width": "0.4407"}
