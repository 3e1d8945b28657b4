"""MPBN against loops in NumPy, and against the neurons it folds into."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises

from spikegrad import LIF, Layer, Network, Sigmoid, soft, unroll
from spikegrad.neurons import MPBN

STEPS, BATCH, MODES = 9, 8, ("exact", "8-bit", "scan")
RNG = np.random.default_rng(0)


def mpbn(x, gain, bias, axis, mask=None):
    """Guo et al. 2023: the spike is of the normalized potential, the reset to zero of the potential
    itself.

    The examples that a mask leaves out of a step wait, and do not enter its statistics.
    """
    axes = tuple(n for n in range(x.ndim - 1) if n != axis % (x.ndim - 1))
    v, spikes, potentials = np.zeros(x.shape[1:]), np.zeros(x.shape, bool), np.zeros(x.shape)
    for t, current in enumerate(x):
        active = slice(None) if mask is None else np.flatnonzero(mask[t])
        u = 0.25 * v[active] + current[active]
        if not len(u):
            continue
        mean, var = u.mean(axes, keepdims=True), u.var(axes, keepdims=True)
        spikes[t, active] = s = gain * (u - mean) / np.sqrt(var + 1e-5) + bias >= 0.5
        potentials[t, active] = u
        v[active] = u * (1 - s)
    return spikes, potentials


@pytest.mark.parametrize(
    ("shape", "axis", "mask"), [((2, 4, 3), -1, None), ((3, 4, 2), 1, np.arange(STEPS) % 3 != 1)]
)
def test_spikes_are_those_of_the_paper(shape, axis, mask, x64):
    x = RNG.normal(0.3, 2, (STEPS, BATCH, *shape))
    wide = (3,) + (1,) * (len(shape) - 1 if axis == 1 else 0)
    gain, bias = RNG.normal(1, 0.5, wide), RNG.normal(0, 0.3, wide)
    of_examples = None if mask is None else np.broadcast_to(mask[:, None], x.shape[:2])
    spikes, potentials = mpbn(x, gain, bias, axis, of_examples)
    cell = MPBN(gain=jnp.asarray(gain), bias=jnp.asarray(bias), axis=axis)
    network = Network([Layer(lambda x: x, cell)])
    run = jax.jit(lambda x: [network.observe(x, mask=mask, backward=mode)[1][0] for mode in MODES])
    for out, us, _ in run(jnp.asarray(x)):
        np.testing.assert_array_equal(out, spikes)
        np.testing.assert_allclose(us, potentials, rtol=1e-12, atol=1e-12)
    assert 0.1 < spikes.mean() < 0.9


def test_statistics_are_those_of_the_unmasked_examples(x64):
    x = RNG.normal(0.3, 2, (STEPS, BATCH, 3))
    mask = RNG.random((STEPS, BATCH)) < 0.6
    mask[4] = False
    cell = MPBN(surrogate=soft(Sigmoid(2.0)))
    padded, identity = np.where(mask[..., None], x, np.nan), np.eye(3)
    spikes, potentials = mpbn(x, 1.0, 0.0, -1, mask)
    network = Network([Layer(identity, MPBN())])
    out, us, _ = jax.jit(lambda x: network.observe(x, mask=mask, backward="scan")[1][0])(padded)
    np.testing.assert_array_equal(out, spikes)
    np.testing.assert_allclose(us, potentials, rtol=1e-12, atol=1e-12)
    weights, direction = RNG.normal(size=x.shape), RNG.normal(size=x.shape)

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        return (weights * Network([Layer(identity, cell)])(x, mask=mask, backward="scan")[1]).sum()

    slope = (loss(padded + 1e-6 * direction)[0] - loss(padded - 1e-6 * direction)[0]) / 2e-6
    np.testing.assert_allclose(np.vdot(loss(padded)[1], direction), slope, rtol=1e-6)


def test_gradients_pass_through_the_statistics(x64):
    """With soft spikes the gradient is that of finite differences."""
    x = RNG.normal(0.3, 2, (STEPS, BATCH, 3))
    weights, direction = RNG.normal(size=x.shape), RNG.normal(size=x.shape)

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        return (
            weights
            * unroll(MPBN(surrogate=soft(Sigmoid(2.0)), gain=jnp.asarray([1.0, 2, -1])), x)[1]
        ).sum()

    slope = (loss(x + 1e-6 * direction)[0] - loss(x - 1e-6 * direction)[0]) / 2e-6
    gradient = np.asarray(loss(x)[1])
    np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-6)
    # what all examples share does not change what is normalized
    np.testing.assert_allclose(gradient[-1].sum(0), np.zeros(3), atol=1e-10)


def running(**changed):
    numbers = {
        "gain": [1.5, 0.5, 1.0],
        "bias": [0.1, 0, -0.2],
        "mean": [0.2, -0.3, 1],
        "var": [4.0, 0.5, 2.0],
    }
    given: dict[str, Any] = {name: jnp.asarray(value) for name, value in numbers.items()}
    given.update(changed)
    return MPBN(**given)


@pytest.mark.parametrize("reset", ["value", "none"])
def test_folded_neurons_fire_the_same_spikes(reset, x64):
    x = jnp.asarray(RNG.normal(0.3, 2, (STEPS, BATCH, 3)))
    cell = running(reset=reset)
    folded = cell.folded()
    assert type(folded) is LIF
    _, spikes = unroll(cell, x)
    np.testing.assert_array_equal(unroll(folded, x)[1], spikes)
    assert 0.1 < spikes.mean() < 0.9


REFUSED = {
    "ValueError: MPBN: folded needs running statistics; pass mean and var": lambda: MPBN().folded(),
    "ValueError: folded needs gains above 0, got 0": lambda: running(
        gain=jnp.asarray([1.0, 0.0, 1])
    ).folded(),
    "ValueError: folded needs reset='value' or 'none', got 'subtract'": lambda: running(
        reset="subtract"
    ).folded(),
    "TypeError: MPBN: pass both mean and var, or neither in training": lambda: MPBN(
        mean=jnp.zeros(3)
    ),
    "ValueError: MPBN: delay_reset must be False": lambda: MPBN(delay_reset=True),
    "ValueError: MPBN: states must be of shape (batch, ..., neurons), got": lambda: MPBN()(
        jnp.zeros(3), jnp.zeros(3)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input(message):
    assert_raises(REFUSED[message], message)
