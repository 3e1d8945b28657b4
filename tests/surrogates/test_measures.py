"""Measures of a slope against arbitrary precision and closed forms, and the list that
prints them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises
from reference import DEFAULTS, ROWS, mp

import spikegrad
from spikegrad import Arctan, Sigmoid, Surrogate, measure, rescaled, shifted, stretched, truncated

INF, NAN = math.inf, math.nan
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
# what even slopes of exponents of their own, everywhere different from 0, do not have
TAILS = {
    "Arctan": 2,
    "ArctanApprox": 2,
    "CappedInverse": 1,
    "Circle": 3,
    "EscapeExp": (INF, 0),
    "HardTanhGrad": (INF, 0),
    "InvSquareGrad": 2,
    "LeakyRelu": 0,
    "LogTailedRelu": (INF, 1),
    "NonzeroSignLog": 1,
    "OneSidedExp": (INF, 0),
    "OneSidedInvSquare": (2, 0),
    "PeriodicExp": (INF, NAN),
    "PiecewiseLeakyRelu": 0,
    "PowerTail": 2,
    "QPseudoSpike": 2,
    "S2NN": (INF, 1),
    "SoftSign": 2,
    "Softplus": (INF, 0),
    "SquarewaveFourierSeries": NAN,
}
SUPPORT = {
    "Dspike": (-0.5, 0.5),
    "HardTanhGrad": (-1, INF),
    "LogTailedRelu": (0, INF),
    "PiecewiseQuadratic": (-1, 1),
    "ReluGrad": (-1, 1),
}
PEAK = {
    "EscapeExp": (0.01 / 0.133 * math.exp(10), 1.33),
    "HardTanhGrad": (2, 1),
    "Softplus": (1, None),
}
HALF_WIDTH = {
    "LogTailedRelu": 1.0,  # from 0 to 2
    "PeriodicExp": math.log(2) / 2,
    "S2NN": (1 + math.log(3 + 2 * math.sqrt(2)) / 4) / 2,
    **dict.fromkeys(
        ("EscapeExp", "HardTanhGrad", "LeakyRelu", "OneSidedExp", "OneSidedInvSquare", "Softplus"),
        INF,
    ),
}


@pytest.mark.parametrize("case", DEFAULTS, ids=repr)
def test_against_arbitrary_precision(case):
    found = measure(case.make())
    peak, at = PEAK.get(case.name, (float(case.grad(np.array([0.0]))[0]), 0.0))
    if case.name == "LogTailedRelu":  # 1 just above the threshold
        peak = 1.0
    np.testing.assert_allclose(found.peak, peak, **CLOSE)
    if at is not None:
        np.testing.assert_allclose(found.at, at, **CLOSE)
    assert found.symmetric == case.even

    whole = [case.row.fun(side * mp.mpf(10) ** 60, *case.values()) for side in (-1, 1)]
    area = NAN if case.name == "SquarewaveFourierSeries" else float(whole[1] - whole[0])
    np.testing.assert_allclose(found.area, area if not area > 100 else INF, **CLOSE)

    tails = TAILS.get(case.name, INF)
    np.testing.assert_allclose(
        found.tails, tails if isinstance(tails, tuple) else (tails, tails), **CLOSE
    )
    np.testing.assert_allclose(found.support, SUPPORT.get(case.name, (-INF, INF)), **CLOSE)
    if case.name in HALF_WIDTH:
        np.testing.assert_allclose(found.half_width, HALF_WIDTH[case.name], **CLOSE)
    else:  # even: it is where the slope falls below half of the peak
        within, beyond = case.grad(found.half_width * np.array([1 - 1e-9, 1 + 1e-9]))
        assert within >= peak / 2 >= beyond
        assert (case.grad(np.linspace(0, found.half_width * (1 - 1e-9), 33)) >= peak / 2).all()


COMPOSED = {  # peak, at, area, half-width, support
    shifted(spikegrad.GaussianGrad(0.001), 1.0): (
        0.5 / (0.001 * math.sqrt(2 * math.pi)),
        1.0,
        0.5,
        0.001 * math.sqrt(2 * math.log(2)),
        (-INF, INF),
    ),
    truncated(Sigmoid(), 0.3): (1, 0, math.tanh(0.6), 0.3, (-0.3, 0.3)),
    -0.5 * Arctan(): (-0.25, 0, -0.5, 2 / math.pi, (-INF, INF)),
    2.0 * stretched(spikegrad.SlayerGrad(), 5.0): (2, 0, 20, 5 * math.log(2), (-INF, INF)),
    shifted(stretched(spikegrad.PiecewiseQuadratic(), 1e-6), 3.0): (
        1,
        3,
        1e-6,
        5e-7,
        (3 - 1e-6, 3 + 1e-6),
    ),
    spikegrad.learnable(spikegrad.ReluGrad(2.0, 0.375)): (
        0.75,
        0,
        0.28125,
        0.1875,
        (-0.375, 0.375),
    ),
    spikegrad.InvSquareGrad(1e5): (1, 0, 2e-5, (math.sqrt(2) - 1) / 1e5, (-INF, INF)),
}


@pytest.mark.parametrize("surrogate", COMPOSED, ids=repr)
def test_measures_of_every_scale_and_of_compositions(surrogate):
    found = measure(surrogate)
    got = found.peak, found.at, found.area, found.half_width, *found.support
    *numbers, support = COMPOSED[surrogate]
    np.testing.assert_allclose(got, [*numbers, *support], **CLOSE)


def test_tails_of_any_exponent():
    for alpha in (1.01, 1.5, 7.25, 30.0):
        found = measure(spikegrad.QPseudoSpike(alpha))
        np.testing.assert_allclose(found.tails, alpha, rtol=1e-9)
        np.testing.assert_allclose(found.area, (alpha + 1) / (alpha - 1), rtol=1e-9)
    assert measure(spikegrad.QPseudoSpike(0.5)).area == INF


def test_a_summit_that_is_nowhere_special():
    found = measure(
        spikegrad.MultiGaussianGrad(-0.5, 0.75, 0.25, 2.0)
    )  # two, on both sides of the threshold
    slope = lambda x: ROWS["MultiGaussianGrad"].grad(x, -0.5, 0.75, 0.25, 2.0)  # noqa: E731
    at = mp.findroot(lambda x: mp.diff(slope, x), mp.mpf(0.13))
    np.testing.assert_allclose(abs(found.at), float(at), rtol=1e-9)
    np.testing.assert_allclose(found.peak, float(slope(at)), rtol=1e-12)


def test_a_slope_alone_has_no_area():
    class Box(Surrogate):
        w: float = spikegrad.parameter(default=0.5, above=0)

        def surrogate_grad(self, x):
            return abs(x) <= self.w

    found = measure(Box(0.3))
    np.testing.assert_allclose(
        (found.peak, found.half_width, *found.support), (1, 0.3, -0.3, 0.3), **CLOSE
    )
    assert math.isnan(found.area)
    assert math.isnan(measure(spikegrad.keep_slope(Box(0.3), "bfloat16")).area)


@pytest.mark.slow
def test_fitted():
    for shape in (
        Arctan(),
        spikegrad.keep_slope(Sigmoid(25.0), "bfloat16"),
        shifted(0.5 * spikegrad.PiecewiseQuadratic(), 0.5),
    ):
        surrogate = rescaled(shape, peak=2.0, half_width=0.125)
        found, before = measure(surrogate), measure(shape)
        np.testing.assert_allclose(
            (found.peak, found.half_width, found.at), (2, 0.125, before.at), **CLOSE
        )
    np.testing.assert_allclose(
        measure(rescaled(Sigmoid(), half_width=1.0))[:4:3], (1, 1), rtol=1e-9
    )
    np.testing.assert_allclose(
        measure(rescaled(Sigmoid(), peak=3.0)).half_width, measure(Sigmoid()).half_width
    )
    assert repr(rescaled(spikegrad.learnable(Arctan()), peak=1)).startswith(
        "learnable(2.0 * Arctan"
    )
    # traced: what is wanted, and not what is fitted
    slope = jax.jit(lambda h, w: rescaled(Arctan(), h, w).surrogate_grad(jnp.array([0.0, 0.25])))(
        3.0, 0.25
    )
    np.testing.assert_allclose(slope, [3.0, 1.5], rtol=1e-6)


def test_a_bounded_number_is_measured_as_its_value():
    assert measure(truncated(Sigmoid(), spikegrad.bounded(0.5))) == measure(
        truncated(Sigmoid(), 0.5)
    )


REFUSED = {
    "TypeError: measure: surrogate must be a Surrogate, got 'sigmoid'": lambda: measure("sigmoid"),
    "ValueError: measure: each parameter must be one number, got Sigmoid(alpha=jnp": lambda: (
        measure(Sigmoid(jnp.ones(2)))
    ),
    "TypeError: measure: parameters must be known, got traced ones in": (
        lambda: jax.jit(lambda a: measure(Sigmoid(a)).peak)(1.0)
    ),
    "ValueError: rescaled: surrogate must have a finite half-width > 0, got LeakyRelu(": (
        lambda: rescaled(spikegrad.LeakyRelu(), half_width=1.0)
    ),
    "ValueError: rescaled: half_width must be > 0, got -0.3": lambda: rescaled(
        Sigmoid(), half_width=-0.3
    ),
    "TypeError: rescaled: peak must be a real number or array, got 'high'": lambda: rescaled(
        Sigmoid(), peak="high"
    ),
    "ValueError: rescaled: surrogate must have a slope other than 0, got 0.0 * Sigmoid": (
        lambda: rescaled(0 * Sigmoid(), peak=1.0)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_measure_and_rescaled_reject_invalid_arguments(message):
    assert_raises(REFUSED[message], message)


@pytest.mark.parametrize("name", spikegrad.names())
def test_the_formula_listed_is_that_of_the_docstring(name):
    cls = type(spikegrad.get(name))
    summary = " ".join(cls.__doc__.partition("\n\n")[0].split())
    assert summary.partition("g(x) = ")[2] == f"{cls._formula}."


def test_underflow_is_no_error_for_users_who_raise_errors():
    with np.errstate(all="raise"):
        assert measure(spikegrad.get("escape_exp(d=0.37)")).peak > 0


def test_measure_works_without_jit():
    with jax.disable_jit():
        found = measure(Sigmoid(3.9))
    assert found.peak == pytest.approx(3.9 / 4, rel=1e-12)
    assert found.half_width == pytest.approx(math.log(3 + 8**0.5) / 3.9, rel=1e-12)
