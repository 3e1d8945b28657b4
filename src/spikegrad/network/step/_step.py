"""One time step, of layers and joins that read each other.

Every loop over time calls :func:`graph_step`: both engines, the backward pass and
:meth:`Network.step`. Each passes its own form of the layers, see :class:`Steps`.

::

    (v, out) ── cut ──> current(reads) ──> integrate(v, current) ──> u ── fire(u) ──> (v, out)

A masked step holds the state.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from ..._checks import is_float
from ..._compat import shard_as
from ..._surrogate import fold_in
from ...neurons import Cell, State, fire as fire_cell
from ..graph._connections import (
    Edge,
    Name,
    NamedArrays,
    NamedTrees,
    Reads,
    reads_of,
)
from ._masks import Masks, cut_off, tree_keep, tree_where, with_finite_padding, young
from ._past import push

LayerState: TypeAlias = tuple[State, jax.Array]
"""The state of a layer between two time steps: the state of its cell, and its output."""
LayerStates: TypeAlias = dict[Name, LayerState]
KEYS = "threefry2x32"
"""The supported key type. Its numbers do not depend on other draws in the same ``jax.vmap``."""


class Steps(Protocol):
    """The functions of a layer that a step calls."""

    def current(self, hoisted: Reads | None, reads: Reads, /) -> jax.Array:
        """The current, from hoisted products and the reads of the step."""
        ...

    def integrate(self, v: State, current: jax.Array, /) -> State:
        """The state before the spike."""
        ...

    def fire(self, u: State, mask: Masks, /) -> LayerState:
        """The state after the spike, and the output.

        The number of the step selects the keys of stochastic spikes. A cell that couples examples
        reads which of them are active.
        """
        ...


Nodes: TypeAlias = Mapping[Name, tuple[Steps | Callable, tuple[Edge, ...]]]
"""A layer or a function of the reads of a join, and the edges to read in the step."""


class StepResult(NamedTuple):
    """The results of a step of several nodes, by name."""

    states: LayerStates
    """The states after the step. A masked step holds the state before it."""
    pasts: NamedArrays
    outputs: NamedTrees
    """The outputs for other nodes, and all parts of the activity for the caller (see
    :func:`activity_names`). Zeros in a masked step.
    """


class ActivityNames(NamedTuple):
    """The names of the activity of a node among the outputs of a step. A join has only the first.

    The fields are those of :class:`~spikegrad.network.Activity`.
    """

    output: Name
    pre_spike: Name
    current: Name


def activity_names(name: Name) -> ActivityNames:
    """Return the names of the activity of a node. Its output has the name of the node itself."""
    # Names with spaces and quotes, so no node has them by chance.
    return ActivityNames(
        name, f"state of {name!r} before the spike", f"current of {name!r}"
    )


def graph_step(
    nodes: Nodes,
    states: dict,
    pasts: dict,
    outputs: dict,
    hoisted: Mapping[Name, Reads],
    mask: Masks,
) -> StepResult:
    """Make one step of several nodes, in the order of ``nodes``.

    ``states`` has the layers, ``pasts`` the sources with longer delays, ``outputs`` the inputs.
    ``hoisted`` has hoisted products for each layer.
    """
    # Truncated backpropagation: a window starts without a derivative.
    states = cut_off(mask, states)
    before = states
    outputs = dict(with_finite_padding(mask.active, outputs))
    states = {}

    def read(source: Name, lag: int) -> jax.Array:
        if lag == 0:
            # The nodes are in the order of their reads, so this output of the present step
            # exists.
            return outputs[source]
        if source in pasts:
            return young(mask, lag, pasts[source][-lag])
        # The output of the step before is in the state of the layer. It is read from
        # ``before``, because ``states`` may already contain the output of this step.
        return before[source][1]

    for name, (node, edges) in nodes.items():
        reads = reads_of(edges, read)
        if callable(node):
            out = node({**hoisted.get(name, {}), **reads})
            outputs[name] = tree_keep(mask.active, out)
            continue
        # u, current: (batch, neurons). Masked steps are computed too and then discarded, because
        # the examples of a batch may have different masks.
        current = node.current(hoisted.get(name), reads)
        u = node.integrate(before[name][0], current)
        after = node.fire(u, mask)
        states[name] = tree_where(mask.active, after, before[name])
        _, out = after
        activity = zip(activity_names(name), (out, u, current), strict=True)
        for part, value in activity:
            outputs[part] = tree_keep(mask.active, value)
    # A past has the axis of its outputs before the others.
    active = None if mask.active is None else mask.active[None]
    pasts = {
        source: tree_where(active, push(past, outputs[source][None]), past)
        for source, past in pasts.items()
    }
    return StepResult(states, pasts, outputs)


@dataclasses.dataclass(frozen=True)
class CellSteps:
    """A cell as its user wrote it. An invalid result of ``fire`` raises."""

    cell: Cell
    current: Callable[[Reads | None, Reads], jax.Array]
    keys: Callable[[jax.Array | None], jax.Array | None]
    """The keys of a step from its number, or None for a deterministic cell."""

    def integrate(self, v: State, current: jax.Array) -> State:
        return self.cell.integrate(v, current)

    def fire(self, u: State, mask: Masks) -> LayerState:
        return fire(self.cell, u, self.keys(mask.number), mask.active)


def fire(
    cell: Cell,
    u: State,
    keys: jax.Array | None = None,
    active: jax.Array | None = None,
) -> LayerState:
    """Call ``cell.fire`` and check that it returns a state and an array of floats.

    ``u`` and both results are ``(batch, neurons)``. ``keys`` is ``(batch,)``, or one key.
    """
    fired = fire_cell(cell, u, keys, active)
    is_pair = isinstance(fired, tuple) and len(fired) == 2
    if not (is_pair and isinstance(fired[1], jax.Array) and is_float(fired[1])):
        raise TypeError(
            f"{type(cell).__name__}: fire must return (state, output) with one array of floats as "
            f"output, got {fired!r}"
        )
    return fired


def keys_of(
    key: jax.Array, number: jax.Array | None, n: int, examples: int | None
) -> jax.Array:
    """Derive the keys of layer ``n`` in one step, one key per example.

    ``key`` is the key of a call and ``number`` the number of the step, a scalar or one number per
    example. With a number of None, ``key`` is already the key of the step. Separate keys let a
    masked example repeat its last active step independently of other examples.
    """
    if number is not None:
        draw = functools.partial(fold_in, key)
        # A mask per example gives each example its own step number, (batch,), and then its own
        # key.
        key = jax.vmap(draw)(number) if number.ndim else draw(number)
    key = fold_in(key, n)
    # An input without an axis of examples gets one key for all its neurons.
    if examples is None:
        return key
    axis_of_keys = 0 if key.ndim else None
    fold_in_numbers = jax.vmap(jax.random.fold_in, (axis_of_keys, 0))
    return fold_in_numbers(key, shard_as(jnp.arange(examples), key))


def examples_of(inputs: jax.Array) -> int | None:
    """The number of examples in the inputs of one step, or None if they have no such axis."""
    return inputs.shape[0] if len(inputs.shape) > 1 else None
