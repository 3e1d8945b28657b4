"""The coefficients of the elementary functions are those of a fit, made here once more."""

import runpy

import pytest
from conftest import ROOT, few

pytestmark = pytest.mark.ci

fitting = runpy.run_path(str(ROOT / "scripts" / "fit_coefficients.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", few(fitting["FUNCTIONS"], "exp"))
def test_coefficients_are_as_good_as_the_fit(name):
    _, least, used = fitting["compare"](fitting["FUNCTIONS"][name])
    assert least <= used < fitting["ALLOWED"]
