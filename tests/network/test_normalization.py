"""Dropout and batch normalization within a layer, by modules of frameworks: the way that the
documentation shows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_close

from spikegrad import LIF, Layer, Network

pytestmark = pytest.mark.ci

STEPS, BATCH, INPUTS, HIDDEN, NEURONS = 6, 4, 5, 6, 7
rng = np.random.default_rng(0)


def array(*shape, scale=1.0):
    return jnp.asarray(rng.normal(0, scale, shape), jnp.float32)


X = jnp.asarray(rng.uniform(0, 1.5, (STEPS, BATCH, INPUTS)), jnp.float32)
W, R, WEIGHTS = (
    array(INPUTS, HIDDEN, scale=0.7),
    array(NEURONS, NEURONS, scale=0.3),
    array(STEPS, BATCH, NEURONS),
)
KERNEL, BIAS, SCALE = (
    array(HIDDEN, NEURONS),
    array(NEURONS, scale=0.1),
    1 + array(NEURONS, scale=0.2),
)
MEAN, VAR = array(NEURONS, scale=0.5), 0.5 + jnp.abs(array(NEURONS))
LOWER, UPPER = LIF(0.9), LIF(0.8, threshold=0.5)


def build(function):
    return Network([Layer(W, LOWER), Layer(function, UPPER, R)])


def gradient(function, params):
    """Of ``function(params, x)`` as the weight of the upper layer."""
    return jax.jit(
        jax.grad(lambda params: (WEIGHTS * build(lambda x: function(params, x))(X)[1]).sum())
    )(params)


def by_steps(function, params):
    """Of the same function in a loop that is written out: the gradient, and the outputs of the
    lower layer.
    """

    def loss(params):
        (v, _), (u, s) = ((jnp.zeros((BATCH, n)),) * 2 for n in (HIDDEN, NEURONS))
        total, below = 0.0, []
        for x, weights in zip(X, WEIGHTS, strict=True):
            v, lower = LOWER(v, x @ W)
            u, s = UPPER(u, function(params, lower) + s @ R)
            total += (weights * s).sum()
            below.append(lower)
        return total, jnp.stack(below)

    return jax.jit(jax.grad(loss, has_aux=True))(params)


def dropped(mask):
    """Dropout by half and a product, of a mask that is the same in every step."""
    return lambda params, x: jnp.where(mask, 2 * (x @ params[0] + params[1][None]), 0)


def normalised(params, x):
    kernel, bias, scale, shift = params
    y = x @ kernel + bias[None]
    return (y - MEAN[None]) / jnp.sqrt(VAR[None] + 1e-5) * scale[None] + shift[None]


def check_statistics(after, before, below, momentum=0.9):
    """Running mean and variance after an update, against NumPy: of the currents of all steps and
    examples.
    """
    y = np.asarray(below, np.float64) @ np.asarray(KERNEL, np.float64) + np.asarray(
        BIAS, np.float64
    )
    for new, old, of_these in zip(after, before, (y.mean((0, 1)), y.var((0, 1))), strict=True):
        np.testing.assert_allclose(
            new, momentum * old + (1 - momentum) * of_these, rtol=1e-5, atol=1e-6
        )


@pytest.fixture
def nnx():
    return pytest.importorskip("flax.nnx")


def nnx_linear(nnx):
    linear = nnx.Linear(HIDDEN, NEURONS, rngs=nnx.Rngs(0))
    linear.kernel[...], linear.bias[...] = KERNEL, BIAS
    return linear


@pytest.mark.slow
def test_dropout(nnx):
    """One mask a sequence, in the forward and the backward pass."""
    graph, params = nnx.split(nnx_linear(nnx))
    dropout, key = nnx.Dropout(0.5), jax.random.key(1)

    def mask(key):
        return dropout(jnp.ones((BATCH, NEURONS)), rngs=key) > 0

    expected, _ = by_steps(dropped(mask(key)), (KERNEL, BIAS))
    got = gradient(lambda params, x: dropout(nnx.merge(graph, params)(x), rngs=key), params)
    assert_close((got["kernel"][...], got["bias"][...]), expected)
    assert not jnp.array_equal(
        mask(key), mask(jax.random.fold_in(key, 1))
    )  # and another one for the next sequence


@pytest.mark.slow
def test_batch_normalisation(nnx):
    linear, norm = nnx_linear(nnx), nnx.BatchNorm(NEURONS, momentum=0.9, rngs=nnx.Rngs(0))
    norm.mean[...], norm.var[...], norm.scale[...], norm.bias[...] = MEAN, VAR, SCALE, BIAS
    model = nnx.List([linear, norm]) if hasattr(nnx, "List") else [linear, norm]
    graph, params, statistics = nnx.split(model, nnx.Param, ...)

    def function(params, x):
        linear, norm = nnx.merge(graph, params, statistics)
        return norm(linear(x), use_running_average=True)

    expected, below = by_steps(normalised, (KERNEL, BIAS, SCALE, BIAS))
    got = gradient(function, params)
    found = got[0]["kernel"], got[0]["bias"], got[1]["scale"], got[1]["bias"]
    assert_close([part[...] for part in found], expected)
    observed = nnx.jit(
        lambda linear, norm: build(lambda x: norm(linear(x), use_running_average=True)).observe(X)[
            1
        ]
    )
    out = observed(linear, norm)[0].output
    nnx.jit(lambda linear, norm: norm(linear(out), use_running_average=False))(linear, norm)
    check_statistics((norm.mean[...], norm.var[...]), (MEAN, VAR), below)


def test_a_module_that_changes_within_the_loop_is_refused(nnx):
    """By its own framework, and stays as it was: a loop with a derivative of its own has no side
    effects.
    """
    norm = nnx.BatchNorm(HIDDEN, rngs=nnx.Rngs(0))
    with pytest.raises(Exception, match="Cannot mutate BatchStat from a different trace level"):
        Network([Layer(W, LOWER), Layer(norm, UPPER)])(X)
    assert not jnp.any(norm.mean[...])
