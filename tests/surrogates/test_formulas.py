"""Slope and primal of every surrogate against the closed form, and the step itself."""

import inspect
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import enable_x64, few
from reference import CASES, DEFAULTS, ROWS, STANDING, mp

import spikegrad

pytestmark = pytest.mark.ci

# A default of 1 hides a mistake in its powers, so the first other parameters stand for all.
OTHERS = [case for case in CASES if case.setting == case.row.settings[0]]
cases = pytest.mark.parametrize("case", few(CASES, *OTHERS), ids=repr)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# relative error where the slope is above a thousandth of its peak, and below; what counts as zero
OPTIMISED = True
TARGETS = {np.float32: (1e-6, 2e-5, 1e-30), np.float64: (1e-14, 1e-12, 1e-300)}


def precision(dtype):
    return enable_x64() if dtype is np.float64 else nullcontext()


@jax.jit
def curves(surrogate, x):
    """The primal, the slope, and the gradient of the spike."""
    return (
        surrogate.surrogate_fun(x),
        surrogate.surrogate_grad(x),
        jax.grad(lambda x: surrogate(x).sum())(x),
    )


@jax.jit
def three_curves(surrogate, x):
    """The primal, the slope, and the slope's derivative."""
    return surrogate.surrogate_fun(x), *jax.jvp(surrogate.surrogate_grad, (x,), (jnp.ones_like(x),))


def worst(got, truth, allowed, x):
    """The point with the largest error in units of the error that is allowed there: (ratio, x, got,
    truth).
    """
    assert got.dtype == x.dtype
    assert np.isfinite(got).all(), x[~np.isfinite(got)]
    ratios = [
        float(abs(mp.mpf(float(g)) - t) / a) for g, t, a in zip(got, truth, allowed, strict=True)
    ]
    i = int(np.argmax(ratios))
    return ratios[i], float(x[i]), float(got[i]), float(truth[i])


def test_every_public_surrogate_has_a_row():
    assert {type(spikegrad.get(name)).__name__ for name in spikegrad.names()} == set(ROWS)


@cases
def test_the_oracle_agrees_with_itself(case):
    """Two formulas were copied: the slope is the derivative of the primal."""
    x = case.near_grid()
    x = x[~np.isin(x, [float(knot) for knot in case.knots()])]
    slope, truth = case.fun_slope(x), case.grad(x)
    peak = max(abs(truth))
    epsilon = case.parameters.get("epsilon", 0)  # in one published primal, and not in its slope
    for v, a, b in zip(x, slope, truth, strict=True):
        assert abs(a - b) <= epsilon * abs(b) + mp.mpf(10) ** -25 * peak, v


@pytest.mark.parametrize("case", DEFAULTS, ids=repr)
def test_parameters_and_defaults(case):
    signature = inspect.signature(case.kind)
    assert {name: p.default for name, p in signature.parameters.items()} == case.row.defaults
    assert list(signature.parameters) == list(case.row.defaults)


@cases
@dtypes
def test_slope_and_primal_are_the_closed_forms(case, dtype):
    x = case.grid(dtype)
    primal, slope, kink = case.fun(x), case.grad(x), case.grad(x, order=1)
    peak, steepest = max(abs(slope)), max(abs(kink))
    far_left, middle = case.fun(np.array([-1e60, 0.0]))
    vanishes = (
        abs(far_left) < mp.mpf(10) ** -50 and not case.signed
    )  # then small values on the left count too
    near, far, zero = TARGETS[dtype]
    eps = float(np.finfo(dtype).eps)

    def of_slope(x, g, bend):
        # one rounding of the phase comes to this where it is large, and is never more than the
        # curve
        if case.signed:
            return near * peak + min(eps * abs(float(x)) * steepest, 2 * peak)
        # and one rounding of the product of x and a parameter
        return (near if abs(g) >= peak / 1000 else far) * abs(g) + eps * abs(float(x) * bend) + zero

    def of_primal(x, f, g):
        floor = 0 if vanishes else abs(middle)
        relative = max(near * floor, (near if abs(f) >= 1e-3 else far) * abs(f))
        if case.signed:
            return relative + min(eps * abs(float(x)) * peak, 2)
        return relative + eps * abs(float(x) * g) + zero

    with precision(dtype):
        f, g, of_spike = map(np.asarray, curves(case.make(), jnp.asarray(x)))
    np.testing.assert_array_equal(of_spike, g)
    for got, truth, derivative, allowed in (
        (g, slope, kink, of_slope),
        (f, primal, slope, of_primal),
    ):
        bound = [allowed(*at) for at in zip(x, truth, derivative, strict=True)]
        ratio, *where = worst(got, truth, bound, x)
        assert ratio <= 1, where


@pytest.mark.parametrize("case", DEFAULTS, ids=repr)
def test_the_spike_is_the_step(case):
    x = np.array([-np.inf, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, np.inf], np.float32)
    expected = np.array([0, 0, 0, 1, 1, 1, 1, 1], np.float32)
    surrogate = case.make()
    for fire in (surrogate, jax.jit(surrogate), spikegrad.surrogates.functional(type(surrogate))):
        np.testing.assert_array_equal(fire(jnp.asarray(x)), expected)


@pytest.mark.parametrize(
    "case",
    few([c for c in CASES if c.even], *(c for c in DEFAULTS if c.name in STANDING)),
    ids=repr,
)
def test_symmetry_is_exact(case):
    """Of slope and curvature; the primal is odd about its middle but for the rounding of the sum of
    two.
    """
    x = np.abs(case.grid(np.float32))
    x = np.where(x == 0, np.float32(1), x)
    right, left = (three_curves(case.make(), jnp.asarray(side)) for side in (x, -x))
    np.testing.assert_array_equal(left[1], right[1])
    np.testing.assert_array_equal(left[2], -right[2])
    middle = float(case.fun(np.array([0.0]))[0])
    rounding = 2 * np.finfo(np.float32).eps * max(1.0, np.abs(right[0]).max())
    np.testing.assert_allclose(left[0] + right[0], 2 * middle, rtol=0, atol=rounding)


# where the count of periods is rounded, in float32
def test_half_way_between_the_peaks_of_a_period():
    x = np.float32(30.874998)  # just below 9.5 periods
    got = spikegrad.surrogates.PeriodicExp(0.5, 4.0, 3.25).surrogate_grad(x)
    np.testing.assert_allclose(got, np.exp(-4 * (float(x) - 9 * 3.25)), rtol=2e-6)


def test_relu_grad_of_a_large_area_is_finite():
    """Its area overflows float32, the values of the primal do not."""
    x = np.array([-3e19, -2e19, -1e19, -1.0, 0.0, 1.0, 1e19, 3e19], np.float32)
    u = np.clip(x.astype(float), -2e19, 2e19)
    expected = 0.5 + 2e19 * u - u * np.abs(u) / 2
    np.testing.assert_allclose(
        spikegrad.ReluGrad(1.0, 2e19).surrogate_fun(jnp.asarray(x)), expected, rtol=1e-6
    )
