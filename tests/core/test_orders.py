"""Derivatives of every order, in both modes, and what is built on them.

At a kink of the slope its derivative does not exist. The convention: a value from one side to the
other, both included, at second order, and a finite one at third.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from reference import CASES, DEFAULTS, RULE, with_arrays

import spikegrad

pytestmark = pytest.mark.newest

x64 = pytest.mark.usefixtures("x64")


def reverse(f):
    return jax.grad(lambda x: f(x).sum())


@jax.jit
def orders(surrogate, x):
    """Second and third derivative of the spike."""
    second = reverse(reverse(surrogate))
    return second(x), reverse(second)(x)


@pytest.mark.ci
@pytest.mark.parametrize(
    "case", few(CASES, *(case for case in DEFAULTS if case.name in RULE)), ids=repr
)
@x64
def test_higher_orders_are_derivatives_of_the_closed_form(case):
    x = case.near_grid()
    # arrays, because XLA replaces a division by a constant by a product, which moves a point across
    # the kink of a wave
    for order, got in enumerate(
        map(np.asarray, orders(with_arrays(case.make()), jnp.asarray(x))), 2
    ):
        assert np.isfinite(got).all()
        left, right = (case.grad(x, order - 1, side).astype(float) for side in (-1, 1))
        scale = max(np.abs(left).max(), np.abs(right).max())
        kink = case.near_knot(x)
        truth = case.grad(x, order - 1).astype(float)
        np.testing.assert_allclose(
            got[~kink], truth[~kink], rtol=1e-11, atol=1e-13 * scale, err_msg=f"order {order}"
        )
        if order == 2:
            rounding = 1e-11 * scale
            assert (got[kink] >= np.minimum(left, right)[kink] - rounding).all()
            assert (got[kink] <= np.maximum(left, right)[kink] + rounding).all()


def unrolled(step, state, inputs):
    losses = []
    for current in inputs:
        state, loss = step(state, current)
        losses.append(loss)
    return state, jnp.stack(losses)


def network(fire, weights, inputs, loop):
    """Steps of a recurrent spiking layer with a reset, and a loss of all its spikes."""
    recurrent, readout = weights

    def step(state, current):
        v, s = state
        v = 0.9 * v + current + recurrent @ s - s
        s = fire(v - 0.5)
        return (v, s), jnp.sum(jnp.tanh(readout @ s) ** 2) + 0.1 * jnp.sum(s**2)

    silence = jnp.zeros(recurrent.shape[0], recurrent.dtype)
    return loop(step, (silence, silence), inputs)[1].sum()


def straight_through(primal):
    """The step as a primal that differentiates as itself plus a constant: no derivative rule
    anywhere.
    """

    def fire(x):
        smooth = primal(x)
        return smooth + jax.lax.stop_gradient((x >= 0).astype(x.dtype) - smooth)

    return fire


PRIMALS = {  # smooth at second order, by hand
    "Sigmoid": lambda x: 1 / (1 + jnp.exp(-4 * x)),
    "Arctan": lambda x: jnp.arctan(jnp.pi / 2 * x) / jnp.pi,
    "InvSquareGrad": lambda x: jnp.where(x < 0, x / (1 - 100 * x), x / (1 + 100 * x)),
    "SquarewaveFourierSeries": lambda x: (
        2 / jnp.pi * (jnp.sin(jnp.pi / 4 * x) + jnp.sin(3 * jnp.pi / 4 * x) / 3)
    ),
}


def forward_over_reverse(loss, at, direction):
    return jax.jvp(jax.grad(loss), (at,), (direction,))[1]


def reverse_over_forward(loss, at, direction):
    return jax.grad(lambda at: jax.jvp(loss, (at,), (direction,))[1])(at)


WAYS = {
    "unrolled, forward over reverse": (unrolled, forward_over_reverse),
    "unrolled, reverse over forward": (unrolled, reverse_over_forward),
    "scan, reverse over forward": (jax.lax.scan, reverse_over_forward),
}


@pytest.fixture(scope="module")
def recurrent():
    """Weights of a network, a direction in their space, and inputs."""
    draw = np.random.default_rng(0).normal
    return [
        (draw(size=(6, 6)) / 2, draw(size=(2, 6)) / 2),
        (draw(size=(6, 6)), draw(size=(2, 6))),
        draw(size=(3, 6)),
    ]


def compare_with_straight_through(name, recurrent, ways):
    # stop_gradient is second-order right here: the spike enters the network by its value and smooth
    # derivatives alone
    weights, direction, inputs = jax.tree.map(jnp.asarray, recurrent)

    @jax.jit
    def derivatives(weights, direction):
        def of(fire, loop, product):
            loss = lambda w: network(fire, w, inputs, loop)  # noqa: E731
            return *jax.value_and_grad(loss)(weights), product(loss, weights, direction)

        found = {way: of(getattr(spikegrad, name)(), *how) for way, how in ways.items()}
        return found, of(straight_through(PRIMALS[name]), jax.lax.scan, forward_over_reverse)

    found, truth = derivatives(weights, direction)
    assert all(float(abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(truth))
    for way, got in found.items():
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(truth), strict=True):
            np.testing.assert_allclose(
                a, b, rtol=1e-10, atol=1e-10 * float(abs(b).max()), err_msg=way
            )


STANDING_FOR_ALL = (
    "Sigmoid",
    "InvSquareGrad",
)  # one smooth and one with a kink: the rule is the same for every curve
of_two_curves = pytest.mark.parametrize("name", few(PRIMALS, *STANDING_FOR_ALL))


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", few(PRIMALS, STANDING_FOR_ALL[0]))
@x64
def test_hessian_vector_product_of_a_recurrent_network(name, recurrent):
    compare_with_straight_through(name, recurrent, WAYS)


@pytest.mark.slow
@of_two_curves
@x64
def test_hessian_vector_product_by_forward_over_reverse_mode_of_a_scan(name, recurrent):
    compare_with_straight_through(name, recurrent, {"scan": (jax.lax.scan, forward_over_reverse)})
