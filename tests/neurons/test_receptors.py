"""Cells with several receptors: currents with one more axis than the outputs, in calls, over time
and in networks.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises

from spikegrad import LIF, Layer, LeakyReadout, Network, SynapticLIF, unroll
from spikegrad.neurons import MultiSynapticLIF, Refractory

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
    kernel = (
        gain * (decay ** (k + 1) - GAMMA ** (k + 1)) / (decay - GAMMA)
    )  # steps since an input, receptors
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


INPUTS = f32(rng.random((23, 4, 6)) < 0.4)
PARAMS = {
    "w": f32(rng.normal(0, 0.7, (6, 5, 2))),
    "r": f32(rng.normal(0, 0.4, (5, 5, 2))),
    "b": f32(rng.normal(0, 0.1, (5, 2))),
    "out": f32(rng.normal(size=(5, 3))),
    "gamma": f32([0.4, 0.8]),
}


def by_hand(params, cell, mask):
    """The layer and its readout, by a loop."""

    def step(state, now):
        x, there = now
        v, out, readout = state
        current = jnp.einsum("bi,inr->bnr", x, params["w"]) + jnp.einsum(
            "bi,inr->bnr", out, params["r"]
        )
        new, fired = cell.fire(cell.integrate(v, current + params["b"][None]))
        after = new, fired, 0.9 * readout + fired @ params["out"]
        after = jax.tree.map(
            lambda a, b: jnp.where(there.reshape(-1, *[1] * (a.ndim - 1)), a, b), after, state
        )
        return after, jnp.where(there[:, None], after[2], 0)

    start = cell.initial_state((4, 5, 2), jnp.float32), jnp.zeros((4, 5)), jnp.zeros((4, 3))
    return jax.lax.scan(step, start, (INPUTS, mask))[1]


def by_network(params, cell, mask):
    layer = Layer(params["w"], cell, recurrent=params["r"], bias=params["b"])
    return Network([layer, Layer(params["out"], LeakyReadout(0.9))])(INPUTS, mask=mask)[1]


@pytest.mark.parametrize("steps", [1, 3])
def test_receptors_go_on_while_neurons_rest(steps, x64):
    cell = MultiSynapticLIF(0.9, 0.7, synaptic_decay=GAMMA)
    v, i, left, expected = np.zeros((4, 5)), np.zeros((4, 5, 3)), np.zeros((4, 5)), []
    for current in CURRENTS:
        i = GAMMA * i + current
        u = np.where(left > 0, v, 0.9 * v + i.sum(-1))
        expected.append(np.where(left > 0, 0, u >= 0.7))
        v = u - 0.7 * expected[-1]
        left = np.where(expected[-1], steps, np.maximum(left - 1, 0))
    resting = Refractory(cell, steps)
    ((potential, synapse), rests), spikes = unroll(resting, CURRENTS)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(potential, v, rtol=1e-12)
    np.testing.assert_allclose(synapse, i, rtol=1e-12)
    np.testing.assert_array_equal(rests, left)
    assert 50 < spikes.sum() < 400
    # Each receptor is an input of its own.
    weight = jnp.eye(15).reshape(15, 5, 3)
    network = Network([Layer(weight, resting)])
    np.testing.assert_array_equal(network(CURRENTS.reshape(40, 4, 15))[1], expected)


@pytest.mark.slow
def test_arrays_of_three_axes_as_weights():
    mask = jnp.asarray(np.random.default_rng(1).random((23, 4)) < 0.8)

    def value(params, run):
        out = run(params, MultiSynapticLIF(0.9, synaptic_decay=params["gamma"]), mask)
        return (out**2).mean(), out

    runs = jax.jit(
        lambda params: [jax.grad(value, has_aux=True)(params, run) for run in (by_network, by_hand)]
    )
    (gradients, found), (slopes, expected) = runs(PARAMS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for label, slope in slopes.items():
        assert np.any(slope)
        assert np.linalg.norm(gradients[label] - slope) <= 1e-5 * np.linalg.norm(slope), label


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
            Network([Layer(w, SynapticLIF(0.9, threshold=1e9, synaptic_decay=gamma))])(x[name])[0][
                0
            ][0][0]
            for name, w, gamma in (("a", a, 0.4), ("b", b, 0.8))
        ]
        return Network(layers, inputs=("a", "b"))(x)[0]["n"][0][0], parts

    v, parts = run()
    np.testing.assert_allclose(v, sum(parts), rtol=1e-4, atol=1e-5)


REFUSED = {
    "TypeError: synaptic_decay": MultiSynapticLIF,
    "ValueError: synaptic_decay must be an array with a number for": lambda: MultiSynapticLIF(
        synaptic_decay=0.5
    ),
    "ValueError: synaptic_decay must be <= 1": lambda: MultiSynapticLIF(
        synaptic_decay=np.array([0.5, 1.5])
    ),
    "ValueError: currents must have the 3 receptors of synaptic_decay as last axis, got shape "
    "(4, 5); use weights": (
        lambda: Network([Layer(PARAMS["w"][..., 0], MultiSynapticLIF(synaptic_decay=GAMMA))])(
            INPUTS
        )
    ),
    "ValueError: current of shape (4, 5) does not broadcast to the receptors of shape (4, 5, 3)": (
        lambda: MultiSynapticLIF(synaptic_decay=GAMMA)(
            (jnp.zeros((4, 5)), jnp.zeros((4, 5, 3))), jnp.ones((4, 5))
        )
    ),
    "TypeError: weight must be a matrix or callable, got": lambda: Layer(PARAMS["w"][None], LIF()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_arguments(message):
    assert_raises(REFUSED[message], message)
