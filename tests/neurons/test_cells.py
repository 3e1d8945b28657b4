"""Delayed resets, the gain of the input and the refractory period: in every mode of a network, and
beside loops.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GRADIENT_ERRORS, MODES, few
from networks import assert_raises, observed, value_and_gradient

import spikegrad
from spikegrad import (
    LIF,
    AdaptiveLIF,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    decay_from_tau,
    unroll,
)
from spikegrad.neurons import Refractory

pytestmark = pytest.mark.ci

STEPS, BATCH, INPUTS, NEURONS = 12, 2, 4, 5
rng = np.random.default_rng(0)
X = rng.uniform(0, 1.2, (STEPS, BATCH, INPUTS))
P = {
    "w": [rng.normal(0.3, 0.6, (n, NEURONS)) for n in (INPUTS, NEURONS, NEURONS)],
    "r": rng.normal(0, 0.3, (NEURONS, NEURONS)),
    "decay": np.linspace(0.6, 0.9, NEURONS),
    "threshold": np.linspace(0.5, 0.9, NEURONS),
    "value": np.linspace(-0.2, 0.1, NEURONS),
    "second": np.linspace(0.5, 0.8, NEURONS),
}
COTANGENTS = rng.normal(size=(3, STEPS, BATCH, NEURONS))

# each three layers, the first of them recurrent; what they add to spikes and resets at once
NETWORKS = {
    "delayed": [
        (SynapticLIF, {"reset": "value", "delay_reset": True, "norm_input": True}, 0),
        (LIF, {"delay_reset": True, "detach_reset": True}, 0),
        (AdaptiveLIF, {"delay_reset": True}, 0),
    ],
    "refractory": [
        (LIF, {"reset": "value", "norm_input": True}, 1),
        (SynapticLIF, {"detach_reset": True}, 3),
        (AdaptiveLIF, {}, 2),
    ],
}


def build(layers, p):
    made = []
    for n, (cell, options, rest) in enumerate(layers):
        own = {"reset_value": p["value"]} if options.get("reset") == "value" else {}
        if cell is SynapticLIF:
            own["synaptic_decay"] = p["second"]
        if cell is AdaptiveLIF:
            own |= {"adaptation": 0.3, "adaptation_decay": p["second"]}
        neuron = cell(p["decay"], p["threshold"], Sigmoid(3.0), **options, **own)
        made.append(
            Layer(p["w"][n], Refractory(neuron, rest) if rest else neuron, None if n else p["r"])
        )
    return Network(made)


def loop(layers, p, x):
    """The same in a loop of its own: spikes of all layers."""
    zeros = jnp.zeros((BATCH, NEURONS))

    def step(states, below):
        new = []
        for n, ((cell, options, rest), (v, second, s, left)) in enumerate(
            zip(layers, states, strict=True)
        ):
            delayed = options.get("delay_reset")
            before = v
            current = below @ p["w"][n] + (0 if n else s @ p["r"])
            if cell is SynapticLIF:
                current = second = p["second"] * second + current

            def threshold(second, cell=cell):
                return p["threshold"] + (second if cell is AdaptiveLIF else 0)

            def fire(u, second, left):
                u = u - threshold(second)
                return jnp.where(left > 0, 0, spikegrad.spike(u, Sigmoid(3.0).surrogate_grad(u)))

            def reset(u, s, second, options=options):
                s = jax.lax.stop_gradient(s) if options.get("detach_reset") else s
                return (
                    u + s * (p["value"] - u)
                    if options.get("reset") == "value"
                    else u - threshold(second) * s
                )

            def adapt(second, s, cell=cell):
                return p["second"] * second + 0.3 * s if cell is AdaptiveLIF else second

            u = p["decay"] * v + (1 - p["decay"] if options.get("norm_input") else 1) * current
            if delayed:
                s = fire(v, second, left)
                u, second = reset(u, s, second), adapt(second, s)
            u = jnp.where(left > 0, before, u)
            s = fire(u, second, left)
            v = u if delayed else reset(u, s, second)
            second = second if delayed else adapt(second, s)
            left = jnp.where(s > 0, rest, jnp.maximum(left - 1, 0))
            new.append((v, second, s, left))
            below = s
        return new, jnp.stack([s for _, _, s, _ in new])

    # of each layer: potential, second state, spike, steps to rest
    return jax.lax.scan(step, [(zeros, zeros, zeros, zeros)] * 3, x)[1].swapaxes(0, 1)


@functools.cache
def expected_of(name):
    with jax.numpy_rank_promotion("allow"):
        return value_and_gradient(
            functools.partial(loop, NETWORKS[name]), P, jnp.asarray(X), COTANGENTS
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"), few(itertools.product(NETWORKS, MODES), ("refractory", "exact"))
)
def test_every_mode_is_the_loop(x64, name, mode):
    expected, expected_gradient = expected_of(name)

    def run(p, x):
        return jnp.stack([*observed(build(NETWORKS[name], p), x, backward=mode)[1].values()])

    spikes, gradient = value_and_gradient(run, P, jnp.asarray(X), COTANGENTS)
    assert np.array_equal(spikes, expected)
    assert all(0.05 < layer.mean() < 0.7 for layer in spikes)
    for got, want in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True
    ):
        assert np.any(want)
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert error < GRADIENT_ERRORS.get(mode, 1e-12)


def test_a_reset_to_a_value_is_exact():
    """Whatever the potential was: no difference of large numbers."""
    v, s = LIF(1.0, reset="value", reset_value=0.1)(jnp.float32(0), jnp.float32(1e8))
    assert (v, s) == (np.float32(0.1), 1)


@pytest.mark.parametrize("cell", [LIF, SynapticLIF, AdaptiveLIF])
def test_delayed_reset_without_a_leak_is_a_reset(cell):
    """Input and reset are then sums, whose order does not matter. The numbers add without
    rounding.
    """
    currents = jnp.asarray(np.random.default_rng(0).integers(-4, 17, (10, 20)) / 8, jnp.float32)
    halves = {
        SynapticLIF: {"synaptic_decay": 0.5},
        AdaptiveLIF: {"adaptation_decay": 0.5, "adaptation": 0.75},
    }
    now, later = (
        unroll(cell(1.0, delay_reset=delay, **halves.get(cell, {})), currents)[1]
        for delay in (False, True)
    )
    assert 0.1 < now.mean() < 0.9
    assert jnp.array_equal(now, later)


def test_norm_input_drives_to_the_current():
    for cell in (
        LIF(decay_from_tau(30.0), 9.0, norm_input=True),
        LeakyReadout(decay_from_tau(3.0), norm_input=True),
    ):
        v, _ = unroll(cell, jnp.full(1000, 0.75))
        np.testing.assert_allclose(v, 0.75, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 300])
def test_no_two_spikes_in_a_refractory_period(steps):
    currents = jnp.asarray(rng.uniform(0.5, 3, (1000, 3)), jnp.float32)
    (_, left), spikes = unroll(Refractory(LIF(0.9), steps), currents)
    apart = np.diff(np.flatnonzero(spikes[:, 0]))
    assert apart.min() == steps + 1
    assert left.dtype == (np.uint8 if steps < 256 else np.uint16)


def test_neurons_with_negative_spikes_are_odd():
    """Currents of the opposite sign give spikes of the opposite sign, after a spike of either sign
    too.
    """
    currents = jnp.asarray(np.random.default_rng(0).normal(0, 1, (50, 20)), jnp.float32)
    for steps in (0, 1, 3):
        cell = LIF(0.9, 0.5, spikegrad.signed(Sigmoid()))
        cell = Refractory(cell, steps) if steps else cell
        spikes, opposite = (unroll(cell, sign * currents)[1] for sign in (1, -1))
        assert jnp.array_equal(spikes, -opposite)
        assert set(np.unique(spikes)) == {-1, 0, 1}
        apart = [np.diff(np.flatnonzero(one)).min() for one in np.asarray(spikes).T]
        assert min(apart) == steps + 1


def test_what_rests_and_what_goes_on():
    """The potential is held, though it is above the threshold; the synaptic current is not."""
    cell = Refractory(SynapticLIF(decay=0.5, synaptic_decay=0.5), steps=2)
    state = cell.initial_state((), jnp.float32)
    seen = []
    for current in (4.0, 1.0, 0.0, 0.0):
        (((v, i), left), s) = cell(state, current)
        state = (v, i), left
        seen.append((float(v), float(i), int(left), float(s)))
    assert seen == [
        (3.0, 4.0, 2, 1.0),
        (3.0, 3.0, 1, 0.0),
        (3.0, 1.5, 0, 0.0),
        (1.25, 0.75, 2, 1.0),
    ]


def test_gradients_pass_a_resting_neuron():
    """Its potential is what it was, and its input does not matter."""

    def end(v, currents):
        cell = Refractory(LIF(0.5, 1.0, reset="none"), steps=2)
        return unroll(cell, currents, (v, jnp.uint8(2)))[0][0]

    of_v, of_currents = jax.grad(end, (0, 1))(jnp.float32(0.2), jnp.full(3, 0.1))
    assert of_v == 0.5
    assert of_currents.tolist() == [0, 0, 1]


def test_decay_from_tau():
    assert decay_from_tau(20.0) == np.exp(-1 / 20)
    assert decay_from_tau(20, dt=5, discretization="euler") == 0.75
    assert decay_from_tau(np.inf) == decay_from_tau(np.inf, discretization="euler") == 1
    taus = np.array([2.0, 4.0])
    np.testing.assert_array_equal(decay_from_tau(taus, 1.0, "euler"), [0.5, 0.75])
    np.testing.assert_allclose(jax.grad(decay_from_tau)(4.0, 2.0), np.exp(-0.5) * 2 / 16, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(decay_from_tau)(jnp.asarray(taus)), np.exp(-1 / taus), rtol=1e-6
    )
    # of a step n times as long, the exact decay is the n-th power
    np.testing.assert_allclose(decay_from_tau(7.0, 3.0), decay_from_tau(7.0) ** 3, rtol=1e-15)


def pair(cell):
    """Not a state of two parts, even if it has two rows."""
    return lambda: cell(jnp.ones(2), jnp.ones(2))


REFUSED = {
    "TypeError: Refractory: cell must be a LIF, got LeakyReadout": lambda: Refractory(
        LeakyReadout(), 2
    ),
    "ValueError: Refractory: steps must be >= 1, got 0": lambda: Refractory(LIF(), 0),
    "TypeError: Refractory: steps must be an integer, got 2.0": lambda: Refractory(LIF(), 2.0),
    "ValueError: Refractory: cell must reset with its spike, got delay_reset=True": (
        lambda: Refractory(LIF(delay_reset=True), 2)
    ),
    "TypeError: SynapticLIF: v must be a tuple (potential, synaptic current), as returned by "
    "initial_state, got one": (pair(SynapticLIF())),
    "TypeError: AdaptiveLIF: v must be a tuple (potential, adaptation), as": pair(AdaptiveLIF()),
    "TypeError: Refractory: v must be a tuple (the state of the cell, steps left), as": pair(
        Refractory(LIF(), 2)
    ),
    "ValueError: LIF: reset_value requires reset='value', got": lambda: LIF(
        reset_value=np.array([0.0, 0.5])
    ),
    "ValueError: LIF: reset_value requires reset='value', got Array([": lambda: LIF(
        reset_value=jnp.ones(2)
    ),
    "ValueError: LIF: reset_value requires reset='value'": (
        lambda: jax.jit(lambda v: LIF(reset_value=v)(v, v))(jnp.ones(2))
    ),
    "TypeError: LIF: v must be one array, as returned by initial_state, got a tuple of 2": (
        lambda: LIF()((jnp.zeros(2), jnp.zeros(2)), jnp.ones(2))
    ),
    "TypeError: unroll: v must be a tuple (potential, synaptic current), as returned by "
    "initial_state, got one array": (lambda: unroll(SynapticLIF(), jnp.ones((5, 2)), jnp.zeros(2))),
    "ValueError: unroll: v must have the shapes [(2, 3)] for currents of shape (5, 2, 3), got "
    "[(2, 4)]; leave v out": (lambda: unroll(LIF(), jnp.ones((5, 2, 3)), jnp.zeros((2, 4)))),
    "TypeError: unroll: v must be one array, as returned by initial_state, got {'0': ": (
        lambda: unroll(
            LIF(),
            jnp.ones((5, 2, 3)),
            Network([Layer(jnp.ones((3, 3)), LIF())])(jnp.ones((5, 2, 3)))[0],
        )
    ),
    "TypeError: LIF: no parameter tau. Give decay=decay_from_tau(tau, dt)": lambda: LIF(tau=1.0),
    'TypeError: LIF: no parameter v_reset. Give reset="value", reset_value=v_reset': lambda: LIF(
        v_reset=1.0
    ),
    "TypeError: LIF: no parameter reset_delay. Give delay_reset": lambda: LIF(reset_delay=1.0),
    "TypeError: LIF: no parameter decay_input. Give norm_input": lambda: LIF(decay_input=1.0),
    "ValueError: decay_from_tau: tau must be > 0, got": lambda: decay_from_tau(
        np.array([1.0, np.nan])
    ),
    "ValueError: decay_from_tau: dt must be > 0, got -1.0": lambda: decay_from_tau(2.0, -1.0),
    "ValueError: decay_from_tau: dt must be <= tau for discretization 'euler', got dt=3.0 and "
    "tau=2.0": (lambda: decay_from_tau(2.0, 3.0, "euler")),
    "ValueError: discretization must be one of 'exact', 'euler', got": lambda: decay_from_tau(
        2.0, 1.0, "midpoint"
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_cells_that_are_refused(message):
    assert_raises(REFUSED[message], message)
