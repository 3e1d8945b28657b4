"""The coefficients of the elementary functions are those of a fit, made here once more."""

import runpy

import pytest
from conftest import ROOT, few

fitting = runpy.run_path(str(ROOT / "scripts" / "fit_coefficients.py"))


@pytest.mark.parametrize("name", few(fitting["FUNCTIONS"], "exp"))
def test_coefficients_are_as_good_as_the_fit(name):
    _, least, used = fitting["compare"](fitting["FUNCTIONS"][name])
    assert least <= used < fitting["ALLOWED"]


@pytest.mark.parametrize("name", fitting["FUNCTIONS"])
def test_another_digit_would_be_seen(name):
    function = fitting["FUNCTIONS"][name]
    *others, last = function.in_use
    errors = fitting["errors"](function, [*others, last * (1 + 2e-6)])
    assert max(abs(error) for error, _ in errors) > fitting["ALLOWED"]
