"""Cells of users: every state and wrapper that a network takes, and what the messages say about the
others.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises

from spikegrad import LIF, Arctan, Cell, Layer, Network, Sigmoid, SynapticLIF, parameter, unroll
from spikegrad.network import match_widths
from spikegrad.neurons import Refractory, parameters_of, says_how_to_encode, with_parameters
from spikegrad.reports import residual_report
from spikegrad.surrogates import sigmoid

rng = np.random.default_rng(0)
X = jnp.asarray(rng.uniform(0, 2, (6, 3, 5)), jnp.float32)


def fired(u):
    s = Sigmoid()(u - 1)
    return u - s, s


class Receptors(Cell):
    """Sums over several receptors, the last axis of its currents."""

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape[:-1], dtype)

    def integrate(self, v, current):
        return 0.9 * v + current.sum(-1)

    def fire(self, u):
        return fired(u)


class Compartments(Receptors):
    """Has two potentials for each neuron, in one array."""

    def initial_state(self, shape, dtype):
        return jnp.zeros((*shape, 2), dtype)

    def integrate(self, v, current):
        return jnp.stack([0.9 * v[..., 0] + current, 0.5 * v.sum(-1)], -1)

    def fire(self, u):
        v, s = fired(u[..., 1])
        return jnp.stack([u[..., 0], v], -1), s


class Named(Cell):
    def initial_state(self, shape, dtype):
        return {"v": jnp.zeros(shape, dtype), "above": jnp.zeros(shape, bool)}

    def integrate(self, v, current):
        return {"v": 0.9 * v["v"] + current, "above": v["above"]}

    def fire(self, u):
        v, s = fired(u["v"])
        return {"v": v, "above": s > 0}, s


class WithNumbers(Named):
    def initial_state(self, shape, dtype):
        return np.zeros(shape), 0

    def integrate(self, v, current):
        return 0.9 * v[0] + current, v[1]

    def fire(self, u):
        v, s = fired(u[0])
        return (v, u[1]), s


@pytest.mark.parametrize("cell", [Receptors(), Compartments(), Named(), WithNumbers()], ids=repr)
def test_unroll_and_call_take_every_state_that_a_network_takes(cell):
    spread = (lambda x: jnp.stack([x, x / 2], -1)) if type(cell) is Receptors else (lambda x: x)
    currents = spread(X)
    expected, outs = jax.jit(
        lambda: (Network([Layer(spread, cell)])(X)[1], unroll(cell, currents)[1])
    )()
    assert expected.sum() > 10
    np.testing.assert_array_equal(outs, expected)
    call, v = jax.jit(cell), cell.initial_state(currents.shape[1:], jnp.float32)
    for current, out in zip(np.asarray(currents), expected, strict=True):
        v, found = call(v, current)
        np.testing.assert_array_equal(found, out)


def test_unroll_takes_lists():
    assert unroll(LIF(), X.tolist())[1].sum() == unroll(LIF(), X)[1].sum()


class Held(Cell):
    """A wrapper of a user's, with a trace of the outputs beside the state of the inner cell."""

    cell: Cell = parameter(kind=Cell)

    @property
    def inner(self):
        return self.cell

    def initial_state(self, shape, dtype):
        return self.cell.initial_state(shape, dtype), jnp.zeros(shape, dtype)

    def integrate(self, v, current):
        v, trace = v
        return self.cell.integrate(v, current - 0.1 * trace), trace

    def fire(self, u):
        u, trace = u
        v, s = self.cell.fire(u)
        return (v, 0.5 * trace + s), s

    def encode(self, u):
        u, trace = u
        distance, rest = self.cell.encode(u)
        return distance, (rest, trace)

    def decode(self, distance, rest):
        rest, trace = rest
        return self.cell.decode(distance, rest), trace


class InField(Held):
    """The field itself has the name, and the class an ``__init__`` of its own."""

    def __init__(self, inner):
        self.inner = inner

    inner = None

    cell = property(lambda self: self.inner)


class Silent(Cell):
    """Does not encode."""

    def integrate(self, v, current):
        return 0.9 * v + current

    def fire(self, u):
        return fired(u)


W = jnp.asarray(rng.normal(0.2, 0.5, (5, 7)), jnp.float32)


def loss(w, cell, mode):
    outs = Network([Layer(w, cell, 0.1 * jnp.eye(7))])(X, backward=mode)[1]
    return (outs * jnp.arange(7.0)[None, None]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [Held, InField])
def test_wrapper_of_a_user_hands_on_its_inner_cell(wrap):
    cell = wrap(LIF(0.8, surrogate=Arctan(3.0)))
    assert says_how_to_encode(cell)
    assert not says_how_to_encode(wrap(Silent()))
    assert not says_how_to_encode(wrap(Refractory(Delayed(), 2)))
    assert parameters_of(wrap(wrap(cell))) == LIF(0.8, surrogate=Arctan(3.0))
    changed = with_parameters(wrap(cell), decay=0.5, surrogate=Sigmoid())
    assert type(changed) is wrap
    assert parameters_of(changed) == LIF(0.5, surrogate=Sigmoid())
    assert parameters_of(cell).decay == 0.8
    assert wrap(Drawing()).draws
    assert not cell.draws
    kept = residual_report(lambda w: loss(w, cell, "8-bit"), W).arrays
    assert any(a.dtype == jnp.uint8 for a in kept)
    exact, few = jax.jit(lambda: [jax.grad(loss)(W, cell, mode) for mode in ("exact", "8-bit")])()
    assert 0 < np.linalg.norm(few - exact) < 0.1 * np.linalg.norm(exact)


class Drawing(LIF):
    draws = True


class Delayed(LIF):
    def fire(self, u):
        return super().fire(u)


def test_wrapper_of_a_cell_that_does_not_encode_is_stored_unchanged():
    run = jax.jit(lambda: [jax.grad(loss)(W, Held(Silent()), mode) for mode in ("exact", "8-bit")])
    exact, few = run()
    np.testing.assert_allclose(few, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_weights_and_widths_of_a_wrapper_are_those_of_its_inner_cell():
    cells = LIF(0.8), Held(LIF(0.8)), InField(LIF(0.8))
    plain, *wrapped = jax.jit(
        lambda: [Network.init(jax.random.key(0), X, (7, 2), cell) for cell in cells]
    )()
    for wrap, network in zip((Held, InField), wrapped, strict=True):
        np.testing.assert_array_equal(network.layers[0].weight, plain.layers[0].weight)
        fitted = match_widths(network, X).layers[0].cell
        assert type(fitted) is wrap
        assert parameters_of(fitted).surrogate != LIF().surrogate


class Pair(Cell):
    """Has a state of two arrays, and no ``initial_state``."""

    def integrate(self, v, current):
        v, w = v
        return 0.9 * v + current - w, w

    def fire(self, u):
        u, w = u
        v, s = fired(u)
        return (v, 0.9 * w + s), s


class Grown(Cell):
    def integrate(self, v, current):
        return 0.9 * v + current

    def fire(self, u):
        return (u, u), fired(u)[1]


class Empty(Pair):
    def initial_state(self, shape, dtype):
        return ()


@pytest.mark.parametrize(
    "run",
    [lambda cell, x: Network([Layer(jnp.eye(5), cell)])(x), unroll],
    ids=["network", "unroll"],
)
def test_state_of_two_arrays_needs_an_initial_state(run):
    with pytest.raises(ValueError, match="too many values to unpack"):
        run(Pair(), X)
    with pytest.raises(
        TypeError, match=r"(initial_state must return|v must be the state).* arrays, got \(\)"
    ):
        run(Empty(), X)
    with pytest.raises(
        TypeError, match=r"fire must return a state like|must have the same (pytree|type) structure"
    ):
        run(Grown(), X)


REFUSED = {  # what users of other libraries write, and the fix that the message names
    "TypeError: LIF: surrogate must be a function, got 'arctan'. Write get('arctan')": lambda: LIF(
        surrogate="arctan"
    ),
    "TypeError: no parameter spike_grad. Give surrogate=Sigmoid()": lambda: LIF(spike_grad=abs),
    "TypeError: SynapticLIF: no parameter surrogate_fu": lambda: SynapticLIF(
        surrogate_function=abs
    ),
    "ValueError: LIF: reset must be one of 'subtract', 'value', 'none', got 'zero'": lambda: LIF(
        reset="zero"
    ),
    "TypeError: sigmoid: x is missing. Use Sigmoid()": lambda: LIF(surrogate=sigmoid(alpha=2.0)),
    "TypeError: got a Network; a Network runs over time by itself: network(inputs)": (
        lambda: unroll(Network([Layer(W, LIF())]), X)
    ),
    "TypeError: unroll: cell must be an instance, got the class LIF: write LIF()": lambda: unroll(
        LIF, X
    ),
    "TypeError: got a Sigmoid": lambda: unroll(Sigmoid(), X),
    "TypeError: Elsewhere: inner must be the value of a field, got LIF(": (
        lambda: with_parameters(Elsewhere(LIF()), decay=0.5)
    ),
    "ValueError: Network: layer '1': Layer: weight of shape (5, 7) does not take an input of "
    "shape (3, 7)": (lambda: Network([Layer(W, LIF()), Layer(W, LIF())])(X)),
    "ValueError: Network: layer '0': LIF: decay of shape (5,) does not broadcast to v of shape "
    "(3, 7)": (lambda: Network([Layer(W, LIF(jnp.ones(5)))])(X)),
}


class Elsewhere(Held):
    @property
    def inner(self):
        return LIF(0.5)


@pytest.mark.parametrize("message", REFUSED)
def test_messages_name_the_remedy_and_the_layer(message):
    assert_raises(REFUSED[message], message)


class Counting(Cell):
    """Three arrays that start at zeros."""

    state_names = "potential", "trace", "count"

    def integrate(self, v, current):
        v, trace, count = v
        return 0.9 * v + current, trace, count

    def fire(self, u):
        u, trace, count = u
        s = Sigmoid()(u - 1)
        return (u - s, 0.5 * trace + s, count + s), s


def test_state_names_make_the_initial_state():
    state = Counting().initial_state((2, 3), jnp.bfloat16)
    assert [(a.shape, a.dtype, float(abs(a).max())) for a in state] == [
        ((2, 3), jnp.bfloat16, 0.0)
    ] * 3
    (_, _, count), spikes = unroll(Counting(), jnp.full((9, 2), 0.7))
    np.testing.assert_array_equal(count, spikes.sum(0))


class Flagged(Cell, pure=True):
    """Flags in the three forms that users write."""

    training: bool = parameter(default=False)
    plain: bool = True
    typed: Any = parameter(default=False, kind=bool)

    def integrate(self, v, current):
        v = v / 2 if self.training else v
        return v + current if self.plain and not self.typed else v

    def fire(self, u):
        return fired(u)


def test_flags_are_static():
    assert jax.tree.leaves(jax.tree.map(jnp.asarray, Flagged(training=True))) == []
    v = jax.jit(lambda cell: unroll(cell, jnp.full((2, 1), 0.25))[0])
    assert [float(v(Flagged(training))[0]) for training in (False, True)] == [0.5, 0.375]
    for name in ("training", "plain", "typed"):
        with pytest.raises(ValueError, match=f"Flagged: {name} must be one of False, True, got 1"):
            Flagged(**{name: 1})
