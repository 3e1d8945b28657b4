"""States in few bits: the stated errors, the signs of distances, and no gradient at rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import STORAGES, few

from spikegrad import LIF, AdaptiveLIF, Cell, Layer, Network, Sigmoid, SynapticLIF, parameter
from spikegrad.neurons import Refractory

OWN = [1e-3, 0.3, 1.0, 1.06, 1.41421356, 1.5, 7.3]  # a threshold for each neuron
THRESHOLDS = np.array([[0.3] * 7, [1.0] * 7, [1.06] * 7, [7.3] * 7, OWN])
STEPS, BATCH, NEURONS = 40, 2, 7
ADAPTATIONS = np.linspace(0.01, 0.9, BATCH * NEURONS).reshape(BATCH, NEURONS)


class Offset(Cell):
    """Rests at another potential than 0."""

    decay: float = parameter(default=0.9)
    threshold: float = parameter(default=-50.3)

    def initial_state(self, shape, dtype):
        return jnp.full(shape, -65.7, dtype)

    def integrate(self, v, current):
        rest = self.initial_state(v.shape, v.dtype)
        return rest + self.decay * (v - rest) + current

    def fire(self, u):
        s = Sigmoid()(u - self.threshold)
        return jnp.where(s > 0, self.initial_state(u.shape, u.dtype), u), s

    def encode(self, u):
        return u - self.threshold, ()

    def decode(self, distance, rest):
        return distance + self.threshold


CELLS = {
    "LIF": LIF,
    "LIF to a value": lambda decay, threshold: LIF(
        decay, threshold, reset="value", reset_value=-0.17
    ),
    "SynapticLIF": SynapticLIF,
    "AdaptiveLIF": AdaptiveLIF,
    "Refractory": lambda decay, threshold: Refractory(LIF(decay, threshold), 3),
    "Offset": lambda decay, _: Offset(decay),
}


def gradients_of_decay(cell, dtype, mode):
    """Of neurons without input, whose potentials rest all the time, in the sum of all potentials
    and spikes.
    """

    def loss(decay, threshold):
        network = Network([Layer(jnp.ones((1, NEURONS), dtype), CELLS[cell](decay, threshold))])
        inputs = jnp.zeros((STEPS, BATCH, 1), dtype)
        states = network.initial_state(inputs[0])
        if cell == "AdaptiveLIF":  # of neurons that have fired before
            states |= {"0": ((states[0][0][0], jnp.asarray(ADAPTATIONS, dtype)), states[0][1])}
        layer = network.observe(inputs, states, backward=mode)[1][0]
        return layer.output.sum() + layer.potential.sum()

    return jax.vmap(jax.grad(loss), (None, 0))(
        jnp.asarray(0.95, dtype), jnp.asarray(THRESHOLDS, dtype)
    )


@pytest.mark.parametrize("mode", STORAGES)
def test_errors_of_distances_are_the_stated_ones(mode):
    distance = jnp.asarray(10 ** np.random.default_rng(0).uniform(-1, 1, (4, 4096)), jnp.float32)
    storage, encoded = STORAGES[mode], (distance, ())
    found = jax.jit(lambda: storage.read(storage.write(encoded), encoded)[0])()
    assert 0.8 * storage.error < jnp.abs(found / distance - 1).max() <= storage.error


BITS = {"half": 8, "8-bit": 4}
"""The first bits of a magnitude that each storage keeps, of a float without an implicit bit."""


@pytest.mark.parametrize("mode", STORAGES)
def test_magnitudes_are_rounded_to_their_first_bits(mode):
    distance = 10 ** np.random.default_rng(1).uniform(-1, 1, (4, 512)).astype(np.float32)
    fraction, exponent = np.frexp(distance)
    one = 2 ** BITS[mode]
    expected = np.ldexp(np.rint(fraction * one) / one, exponent)
    storage, encoded = STORAGES[mode], (jnp.asarray(distance), ())
    found = jax.jit(lambda: storage.read(storage.write(encoded), encoded)[0])()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", STORAGES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stored_distances_keep_their_sign_and_know_no_other_example(mode, dtype, x64):
    """Of any size beside each other, down to numbers that fewer bits cannot tell from zero."""
    rng = np.random.default_rng(0)
    least = np.log10(float(jnp.finfo(dtype).tiny)) + 1
    size = 10 ** rng.uniform([least, -12, -3], [0, 0, 3], (64, 3)).T
    distance = jnp.asarray(np.where(rng.uniform(size=size.shape) < 0.5, -size, size), dtype)
    distance = distance.at[:, 0].set(-jnp.finfo(dtype).tiny).at[:, 1].set(0.0)

    @jax.jit
    def stored(distance):
        encoded = distance, ()
        storage = STORAGES[mode]
        return storage.read(storage.write(encoded), encoded)[0]

    found = stored(distance)
    np.testing.assert_array_equal(found >= 0, distance >= 0)
    for n in range(3):
        np.testing.assert_array_equal(found[n], stored(distance[n : n + 1])[0])
    np.testing.assert_allclose(
        found[2], distance[2], rtol=1 / 15, atol=5e-5 * float(jnp.abs(distance[2]).max())
    )


# An adaptation of 0 does not leak, so the warning of bfloat16 does not matter here.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*changes the state by less than bfloat16 resolves")
@pytest.mark.parametrize("cell", few(CELLS, "Offset", ci=["AdaptiveLIF"]))
def test_resting_neuron_gives_its_decay_no_gradient(cell):
    """The potential is 0 at every time step, and so is the derivative of the next one in
    the decay.
    """
    cases = [("float32", "half"), ("float32", "8-bit"), ("bfloat16", "8-bit")]
    gradients = jax.jit(lambda: [gradients_of_decay(cell, *each) for each in cases])()
    for case, found in zip(cases, gradients, strict=True):
        assert not np.any(found), (case, found)
