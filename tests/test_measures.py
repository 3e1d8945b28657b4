"""Measures of a slope, and the list that prints them, with docstrings or without."""

import math
import subprocess
import sys

import numpy as np
import pytest
from reference import DEFAULTS

import spikegrad
from spikegrad import Arctan, GaussianGrad, LeakyRelu, ReluGrad, Sigmoid, SquarewaveFourierSeries
from spikegrad.inspect._measures import area, peak


@pytest.mark.parametrize("case", DEFAULTS, ids=repr)
def test_peak_is_the_greatest_slope(case):
    x = np.linspace(-20, 20, 4001)
    np.testing.assert_allclose(peak(case.make()), case.grad(x).astype(float).max(), rtol=1e-5)


def test_area():
    for surrogate, want in [
        (Sigmoid(2.0), 1),
        (Arctan(3.0), 1),
        (GaussianGrad(2.0, 0.25), 0.25),
        (ReluGrad(2.0, 0.5), 0.5),
    ]:
        np.testing.assert_allclose(area(surrogate), want, rtol=1e-6)
    assert area(LeakyRelu()) == math.inf
    assert math.isnan(area(SquarewaveFourierSeries()))


@pytest.mark.parametrize("name", spikegrad.names())
def test_the_formula_listed_is_that_of_the_docstring(name):
    cls = type(spikegrad.get(name))
    assert cls.__doc__.splitlines()[0].partition("g(x) = ")[2] == f"{cls._formula}."


def test_the_list_without_docstrings():
    pytest.importorskip("rich")
    pytest.importorskip("click")
    code = "from spikegrad.cli import main; main(['list'])"
    without = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True).stdout
    assert Sigmoid._formula in without
