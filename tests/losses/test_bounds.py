"""Bounds on spikes and potentials against NumPy, and that they wake a silent network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import observed

from spikegrad import InvSquareGrad, Layer, LeakyReadout, Network, SynapticLIF, decay_from_tau
from spikegrad.data import randman
from spikegrad.losses import lower_bound, upper_bound, voltage_bound

RNG = np.random.default_rng(0)
SPIKES = (RNG.random((30, 4, 5)) < RNG.random(5)).astype(np.float32)
IMAGES = (RNG.random((30, 4, 3, 3, 2)) < 0.2).astype(np.float32)
MASK = np.arange(30)[:, None] < np.array([30, 3, 11, 20])


def expected(spikes, bound, strength, power, population, sign):
    z = np.asarray(spikes, np.float64).sum(0)
    z = z.reshape(len(z), -1).mean(1) if population else z
    return strength * np.mean(np.maximum(sign * (z - bound), 0) ** power)


@pytest.mark.parametrize("spikes", [SPIKES, IMAGES], ids=["dense", "images"])
def test_counts(spikes):
    for power in (1, 2):
        for population in (False, True):
            options = {"power": power, "population": population}
            lower, upper = (
                lower_bound(spikes, 9.5, 3.0, **options),
                upper_bound(spikes, 6.5, 0.2, **options),
            )
            assert float(lower) == pytest.approx(
                expected(spikes, 9.5, 3.0, power, population, -1), rel=1e-5
            )
            assert float(upper) == pytest.approx(
                expected(spikes, 6.5, 0.2, power, population, 1), rel=1e-5, abs=1e-7
            )


def test_the_constants_of_the_papers_are_the_defaults():
    silent = np.zeros_like(SPIKES)
    assert float(lower_bound(silent)) == pytest.approx(100 * 1e-3**2)
    assert float(upper_bound(SPIKES, 4)) == pytest.approx(
        expected(SPIKES, 4, 0.1, 2, True, 1), rel=1e-5
    )
    assert float(lower_bound(SPIKES + 1)) == 0
    assert (
        lower_bound(jnp.ones((30, 4, 5)), np.full(5, 31), 1.0) == 1
    )  # integers, where nothing is promoted


def test_several_layers_bounds_of_each_sequence_and_few_bits():
    layers = (SPIKES, IMAGES)
    assert float(upper_bound(layers, 4.0)) == pytest.approx(
        sum(float(upper_bound(s, 4.0)) for s in layers), rel=1e-6
    )
    rates = 0.5 * MASK.sum(0).astype(np.float32)
    masked = SPIKES * MASK[:, :, None]
    assert float(upper_bound(masked, rates)) == pytest.approx(
        expected(masked, rates, 0.1, 2, True, 1), rel=1e-5
    )
    low = np.ones((300, 2, 3), jnp.bfloat16)
    assert jax.jit(lambda low: upper_bound(low, 299.0, 1.0))(low) == 1  # 300 is no bfloat16
    assert jax.eval_shape(lambda low: voltage_bound(low, high=0.0), low).dtype == jnp.float32


@pytest.mark.slow
def test_potentials():
    u = RNG.normal(size=(30, 4, 5)).astype(np.float32)
    beyond = np.maximum(-1 - u, 0) ** 2 + np.maximum(u - 0.5, 0) ** 2
    assert float(voltage_bound(u, -1.0, 0.5, 3.0)) == pytest.approx(3 * beyond.mean(), rel=1e-5)
    assert float(voltage_bound((u, None), -1.0, 0.5, mask=MASK)) == pytest.approx(
        beyond[MASK].mean(), rel=1e-5
    )
    one = np.maximum(u - 0.5, 0)
    assert float(voltage_bound(u, high=0.5, power=1, mask=MASK[:, 0])) == pytest.approx(
        one.mean(), rel=1e-5
    )
    assert float(voltage_bound(u, -1.0, mask=np.zeros_like(MASK))) == 0
    assert float(voltage_bound(u, high=0.5, power=1, mask=MASK[:, 2])) == pytest.approx(
        one[:11].mean(), rel=1e-5
    )


@pytest.mark.slow
def test_the_lower_bound_wakes_a_network_that_starts_silent():
    """In the setting of Zenke and Vogels, smaller: their neurons, and weights uniform in 1 /
    sqrt(inputs).
    """
    decays = {"decay": decay_from_tau(10.0), "synaptic_decay": decay_from_tau(5.0)}
    reset = {"reset": "value", "delay_reset": True, "detach_reset": True}
    cell = SynapticLIF(**decays, **reset, norm_input=True, surrogate=InvSquareGrad(10.0))
    uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    layer = Layer.init(jax.random.key(0), 20, 40, cell, weight=uniform)
    source = randman(classes=3, samples=8, seed=0)
    x = np.moveaxis(np.stack([source.sequence(i) for i in range(len(source))]), 1, 0)
    readout = Layer.init(
        jax.random.key(1), 40, 3, LeakyReadout(), weight=jax.nn.initializers.lecun_normal()
    )

    def loss(weight):
        spikes, out = observed(Network([Layer(weight, layer.cell), readout]), x)[1].values()
        crossed = optax.softmax_cross_entropy_with_integer_labels(out.max(0), source.y).mean()
        return crossed + lower_bound(spikes), spikes.sum(0)

    optimizer = optax.adam(0.05)

    @jax.jit
    def step(weight, state):
        (_, counts), gradient = jax.value_and_grad(loss, has_aux=True)(weight)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(weight, change), state, counts, gradient

    with jax.numpy_dtype_promotion("standard"):
        weight, state, counts, gradient = step(layer.weight, optimizer.init(layer.weight))
        assert not counts.any()
        assert jnp.abs(gradient).max() > 0
        for _ in range(40):
            weight, state, counts, _ = step(weight, state)
    assert (counts.sum(0) > 0).mean() > 0.9
