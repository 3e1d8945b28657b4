"""What holds of a slope and its primal whatever the formula, and of the oracle itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import CASES, mp

cases = pytest.mark.parametrize("case", CASES, ids=repr)
pytestmark = pytest.mark.usefixtures("x64")


@jax.jit
def curves(surrogate, x):
    """The primal, its derivative and the slope."""
    f, backward = jax.vjp(surrogate.surrogate_fun, x)
    return f, backward(jnp.ones_like(x))[0], surrogate.surrogate_grad(x)


def away_from_knots(case, x, distance):
    return np.array([all(abs(v - float(k)) > distance for k in case.knots()) for v in x])


@cases
def test_the_oracle_agrees_with_itself(case):
    x = case.near_grid()
    x = x[away_from_knots(case, x, 0)]
    slope, truth = case.fun_slope(x), case.grad(x)
    peak = max(abs(truth))
    epsilon = case.parameters.get("epsilon", 0)  # in one published primal, and not in its slope
    for v, a, b in zip(x, slope, truth, strict=True):
        assert abs(a - b) <= epsilon * abs(b) + mp.mpf(10) ** -25 * peak, v


@cases
def test_primal_differentiates_to_the_slope(case):
    x = jnp.asarray(case.near_grid())  # knots included: there the primal's derivative takes the slope's side
    _, got, slope = curves(case.make(), x)
    epsilon = case.parameters.get("epsilon", 0)
    np.testing.assert_allclose(got, slope, rtol=1e-12 + epsilon, atol=1e-14 * float(abs(slope).max()))


@cases
def test_differences_of_the_primal_are_the_slope(case):
    steepness = max(1.0, *(float(v) for v in case.parameters.values()), 0.0)
    h = 2.0**-9 / steepness
    x = case.near_grid()
    away = away_from_knots(case, x, 3 * h)
    surrogate = case.make()
    step = lambda k: curves(surrogate, x + k * h)[0] - curves(surrogate, x - k * h)[0]  # noqa: E731
    got = np.asarray((45 * step(1) - 9 * step(2) + step(3)) / (60 * h))[away]
    slope = np.asarray(curves(surrogate, x)[2])[away]
    # the error of six differences is h^6/140 times the seventh derivative; and that of the primal's rounding, over h
    np.testing.assert_allclose(got, slope, rtol=1e-7, atol=1e-10 * max(1.0, abs(slope).max()))


@cases
def test_primal_is_continuous_across_its_knots(case):
    fun = case.make().surrogate_fun
    for knot in map(float, case.knots()):
        step = 1e-13 * max(abs(knot), 1.0)
        around = np.array([knot - step, knot, knot + step])
        below, at, above = np.asarray(fun(jnp.asarray(around)))
        jump = case.parameters.get("epsilon", 0) * abs(case.parameters.get("beta", 0))
        allowed = 4 * step * max(1.0, float(max(abs(case.grad(around))))) + jump
        assert abs(at - below) <= allowed
        assert abs(above - at) <= allowed


@cases
def test_primal_goes_where_the_slope_points(case):
    f, _, g = map(np.asarray, curves(case.make(), jnp.asarray(case.near_grid())))
    rounding = 1e-15 * np.abs(f).max()
    if (g >= 0).all():
        assert (np.diff(f) >= -rounding).all()
    if (g <= 0).all():
        assert (np.diff(f) <= rounding).all()


@cases
def test_primal_of_an_even_slope_is_odd_about_its_middle(case):
    x = np.abs(case.near_grid())
    if any(a != b for a, b, v in zip(case.grad(x), case.grad(-x), x, strict=True) if v):
        pytest.skip("not an even slope")
    middle = float(case.fun(np.array([0.0]))[0])
    left, right = (np.asarray(curves(case.make(), jnp.asarray(v))[0]) for v in (-x, x))
    np.testing.assert_allclose(left + right, 2 * middle, atol=4e-16 * max(1.0, np.abs(right).max()))
