"""Cells with several receptors: currents with one more axis than the outputs, in calls, over time and in networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GRADIENT_ERRORS, MODES, few

from spikegrad import LIF, Cell, Delayed, Layer, LeakyReadout, Network, SynapticLIF, parameter, unroll
from spikegrad.neurons import MultiSynapticLIF
from spikegrad.surrogates import sigmoid
from spikegrad.testing import CheckFailedError, check_cell

rng = np.random.default_rng(0)
GAMMA = np.array([0.3, 0.6, 0.95])
CURRENTS = rng.normal(0, 0.4, (40, 4, 5, 3))  # steps, examples, neurons, receptors


def f32(x):
    return jnp.asarray(x, jnp.float32)


def test_potential_is_a_sum_of_double_exponentials(x64):
    decay, gain = 0.9, 0.1
    cell = MultiSynapticLIF(decay, threshold=1e9, synaptic_decay=GAMMA, norm_input=True)
    (v, i), _ = unroll(cell, CURRENTS)
    k = np.arange(40)[:, None]
    kernel = gain * (decay ** (k + 1) - GAMMA ** (k + 1)) / (decay - GAMMA)  # steps since an input, receptors
    np.testing.assert_allclose(v, np.einsum("tbnr,tr->bn", CURRENTS[::-1], kernel), rtol=1e-12)
    np.testing.assert_allclose(i, np.einsum("tbnr,tr->bnr", CURRENTS[::-1], GAMMA**k), rtol=1e-12)


@pytest.mark.parametrize(
    ("reset", "after"),
    [
        ("subtract", lambda u, s: u - 0.7 * s),
        ("value", lambda u, s: np.where(s > 0, -0.2, u)),
        ("none", lambda u, s: u),
    ],
)
def test_spikes_and_resets(reset, after, x64):
    value = {"reset_value": -0.2} if reset == "value" else {}
    decay = rng.uniform(0.7, 0.9, 5)
    gamma = rng.uniform(0.2, 0.9, (5, 3))
    cell = MultiSynapticLIF(decay, 0.7, reset=reset, synaptic_decay=gamma, **value)
    v, i, expected = np.zeros((4, 5)), np.zeros((4, 5, 3)), []
    for current in CURRENTS:
        i = gamma * i + current
        u = decay * v + i.sum(-1)
        expected.append((u >= 0.7).astype(float))
        v = after(u, expected[-1])
    states, spikes = unroll(cell, CURRENTS)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(states[0], v, rtol=1e-12)
    assert 100 < spikes.sum() < 700
    step, state, outs = jax.jit(cell), cell.initial_state((4, 5, 3), jnp.float64), []
    for current in CURRENTS:
        state, out = step(state, current)
        outs.append(out)
    np.testing.assert_array_equal(np.stack(outs), expected)


@pytest.mark.every
def test_one_receptor_is_a_synaptic_neuron():
    w, x = f32(rng.normal(size=(6, 5))), f32(rng.random((20, 4, 6)) < 0.3)

    def loss(w, gamma, several):
        cell = MultiSynapticLIF(0.8, synaptic_decay=gamma[None]) if several else SynapticLIF(0.8, synaptic_decay=gamma)
        network = Network([Layer(w[..., None] if several else w, cell), Layer(jnp.ones((5, 2)), LeakyReadout(0.9))])
        return (network(x)[1] ** 2).mean()

    for a, b in zip(*(jax.grad(loss, (0, 1))(w, f32(0.6), several) for several in (True, False)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# --- networks --------------------------------------------------------------------------------------------------------

INPUTS = f32(rng.random((23, 4, 6)) < 0.4)
PARAMS = {
    "w": f32(rng.normal(0, 0.7, (6, 5, 2))),
    "r": f32(rng.normal(0, 0.4, (5, 5, 2))),
    "b": f32(rng.normal(0, 0.1, (5, 2))),
    "out": f32(rng.normal(size=(5, 3))),
    "gamma": f32([0.4, 0.8]),
}


class Conductances(Cell):
    """A neuron with excitatory and inhibitory conductances and their reversal potentials."""

    reversal: float = parameter(default=2.0)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape[:-1], dtype), jnp.zeros(shape, dtype)

    def integrate(self, v, current):
        v, g = v
        g = 0.5 * g + 0.1 * jnp.maximum(current, 0)
        return 0.9 * v + g[..., 0] * (self.reversal - v) + g[..., 1] * (-self.reversal - v), g

    def fire(self, u):
        u, g = u
        s = sigmoid(4 * (u - 0.5))
        return (u - 0.5 * s, g), s


def cell_of(params, name):
    return Conductances() if name == "conductances" else MultiSynapticLIF(0.9, synaptic_decay=params["gamma"])


def by_hand(params, name, mask):
    """The layer and its readout, by a loop."""
    cell = cell_of(params, name)

    def step(state, now):
        x, there = now
        v, out, readout = state
        current = jnp.einsum("bi,inr->bnr", x, params["w"]) + jnp.einsum("bi,inr->bnr", out, params["r"])
        new, fired = cell.fire(cell.integrate(v, current + params["b"][None]))
        after = new, fired, 0.9 * readout + fired @ params["out"]
        after = jax.tree.map(lambda a, b: jnp.where(there.reshape(-1, *[1] * (a.ndim - 1)), a, b), after, state)
        return after, jnp.where(there[:, None], after[2], 0)

    start = cell.initial_state((4, 5, 2), jnp.float32), jnp.zeros((4, 5)), jnp.zeros((4, 3))
    return jax.lax.scan(step, start, (INPUTS, mask))[1]


def network_of(params, name):
    layer = Layer(params["w"], cell_of(params, name), recurrent=params["r"], bias=params["b"])
    return Network([layer, Layer(params["out"], LeakyReadout(0.9))])


@pytest.mark.parametrize("mode", few(MODES, "exact"))
@pytest.mark.parametrize(
    ("name", "masked"), [("multisynaptic", True), pytest.param("conductances", False, marks=pytest.mark.every)]
)
def test_arrays_of_three_axes_as_weights(name, mode, masked):
    mask = jnp.asarray(np.random.default_rng(1).random((23, 4)) < (0.8 if masked else 1))

    def value(params, run):
        out = run(params)
        return (out**2).mean(), out

    graded = jax.jit(jax.value_and_grad(value, has_aux=True), static_argnums=1)
    (_, expected), slopes = graded(PARAMS, lambda p: by_hand(p, name, mask))
    (_, found), gradients = graded(
        PARAMS, lambda p: network_of(p, name)(INPUTS, mask=mask if masked else None, backward=mode)[1]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    limit = max(1e-5, GRADIENT_ERRORS.get(mode, 0.0))
    for label, slope in slopes.items():
        error = np.linalg.norm(gradients[label] - slope)
        assert error <= limit * np.linalg.norm(slope), label
    assert name == "conductances" or all(np.any(slope) for slope in slopes.values())


def test_a_stream_and_a_delay():
    layer = Layer(PARAMS["w"], cell_of(PARAMS, "multisynaptic"), recurrent=Delayed(PARAMS["r"], 3))
    network = Network([layer, Layer(PARAMS["out"], LeakyReadout(0.9))])
    inputs = np.asarray(INPUTS)
    step, states, outs = jax.jit(network.step), network.initial_state(inputs[0]), []
    for x in inputs:
        states, out = step(states, x)
        outs.append(out)
    np.testing.assert_allclose(np.stack(outs), jax.jit(network)(inputs)[1], rtol=1e-4, atol=1e-5)


def test_each_source_of_a_graph_may_have_its_own_receptor():
    """Two matrices that end at two receptors are two synaptic neurons that share a potential."""
    a, b = f32(rng.normal(size=(6, 5))), f32(rng.normal(size=(2, 5)))
    x = {"a": INPUTS, "b": f32(rng.random((23, 4, 2)) < 0.4)}

    def to(receptor, w):
        return lambda x: (x @ w)[..., None] * jax.nn.one_hot(receptor, 2)[None, None]

    cell = MultiSynapticLIF(0.9, threshold=1e9, synaptic_decay=PARAMS["gamma"])
    layers = {"n": Layer({"a": to(0, a), "b": to(1, b)}, cell)}

    @jax.jit
    def run():
        parts = [
            Network([Layer(w, SynapticLIF(0.9, threshold=1e9, synaptic_decay=gamma))])(x[name])[0][0][0][0]
            for name, w, gamma in (("a", a, 0.4), ("b", b, 0.8))
        ]
        return Network(layers, inputs=("a", "b"))(x)[0]["n"][0][0], parts

    v, parts = run()
    np.testing.assert_allclose(v, sum(parts), rtol=1e-4, atol=1e-5)


def test_check_of_receptors_names_their_axis():
    cell = MultiSynapticLIF(synaptic_decay=np.array([0.5, 0.8]))
    with pytest.raises(CheckFailedError, match="2 receptors of synaptic_decay as last axis"):
        check_cell(cell)


REFUSED = {
    "TypeError: synaptic_decay": MultiSynapticLIF,
    "ValueError: synaptic_decay must be an array with a number for": lambda: MultiSynapticLIF(synaptic_decay=0.5),
    "ValueError: synaptic_decay must be <= 1": lambda: MultiSynapticLIF(synaptic_decay=np.array([0.5, 1.5])),
    "ValueError: currents must have the 3 receptors of synaptic_decay as last axis, got shape (4, 5); use weights": (
        lambda: Network([Layer(PARAMS["w"][..., 0], MultiSynapticLIF(synaptic_decay=GAMMA))])(INPUTS)
    ),
    "ValueError: current of shape (4, 5) does not broadcast to the receptors of shape (4, 5, 3)": (
        lambda: MultiSynapticLIF(synaptic_decay=GAMMA)((jnp.zeros((4, 5)), jnp.zeros((4, 5, 3))), jnp.ones((4, 5)))
    ),
    "TypeError: weight must be a matrix or callable, got an array of": lambda: Layer(PARAMS["w"][None], LIF()),
    "ValueError: recurrent must be square": lambda: Layer(PARAMS["w"], LIF(), PARAMS["w"]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_arguments(message):
    error, _, text = message.partition(": ")
    with pytest.raises((TypeError, ValueError)) as raised:
        REFUSED[message]()
    assert type(raised.value).__name__ == error
    assert text in str(raised.value)
