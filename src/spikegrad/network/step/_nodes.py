"""The nodes of a graph as user code, and their states before the first step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from ..._checks import is_float, named
from ..._compat import match_varying_axes, shard_as, zeros_like
from ..._pytree import PyTree
from ...neurons import warn_of_lost_leaks
from ..graph._connections import Join, Name, NamedArrays, matrix_of, reads_of, select
from ..graph._graph import Graph
from ._currents import current_of, initial_state
from ._states import (
    StatesAndPasts,
    as_entries,
    as_states_and_pasts,
    check_entries,
    entries_of_stage,
)
from ._step import CellSteps, Nodes, keys_of


def nodes_of(graph: Graph, key: jax.Array | None, examples: int | None) -> Nodes:
    """Return the nodes for :func:`graph_step`, with keys for stochastic layers."""

    def steps(name: Name) -> CellSteps | Callable:
        node = graph.nodes[name]
        if isinstance(node, Join):
            return lambda reads: node.function(*reads.values())

        connections = graph.connections(name)

        def current(_, reads):  # no product is hoisted
            return current_of(node, connections, graph.looped[name], reads)

        def keys(number):
            if key is None or not node.cell.draws:
                return None
            return keys_of(key, number, graph.numbers[name], examples)

        return CellSteps(node.cell, current, keys)

    return {name: (steps(name), graph.edges[name]) for name in graph.nodes}


def initial_states(graph: Graph, inputs: NamedArrays) -> StatesAndPasts:
    """Return the states of the layers at rest, and pasts of zeros, for inputs of this shape and
    dtype.

    A loop may widen the dtype of a current and of outputs, so its nodes are evaluated until all
    types are stable.
    """
    outs = dict(inputs)
    states = {}
    for names in graph.components():
        sources = {edge.source for name in names for edge in graph.edges[name]}
        is_reached = not sources.isdisjoint(outs)
        is_loop = any(graph.looped[name] for name in names)
        by_matrix = False
        after = []
        # Each turn can only widen dtypes and complete shapes, and both are bounded, so the loop
        # ends.
        while True:
            for name in names:
                with node_named(name, graph):
                    state = _evaluate(graph, name, outs, by_matrix)
                if state is not None:
                    _, out = state
                    states[name] = state
                    outs[name] = out
            before = after
            after = [_type(outs.get(name)) for name in names]
            is_stable = after == before or not is_loop
            if is_stable and None not in after:
                break
            if is_stable and (by_matrix or not is_reached):
                raise ValueError(
                    f"Network: {', '.join(map(repr, names))} read only each other and no inputs"
                )
            by_matrix = is_stable
    states = select(states, graph.layers)
    for name, (v, _) in states.items():
        warn_of_lost_leaks(f"Network: layer {name!r}", graph.layers[name].cell, v)
    # (depth, batch, neurons), zeros because no output precedes the first step.
    pasts = {
        name: jnp.stack([zeros_like(outs[name])] * depth)
        for name, depth in graph.depths.items()
    }
    return states, pasts


def states_before(
    stage: Graph, inputs: NamedArrays, graph: Graph, entries: Mapping[Name, PyTree]
) -> StatesAndPasts:
    """Return the states of a stage before a sequence, from the entries of the complete graph.

    Layers without an entry start at rest. ``inputs`` are the inputs of the stage, ``(steps, batch,
    features)``.
    """
    first_step = {name: x[0] for name, x in inputs.items()}
    at_rest = match_varying_axes(initial_states(stage, first_step), like=inputs)
    at_rest = as_entries(stage, at_rest)
    entries = entries_of_stage(stage, graph, entries)
    check_entries(stage, entries, at_rest)
    entries = jax.tree.map(shard_as, at_rest | entries, at_rest)
    return as_states_and_pasts(stage, entries)


def _evaluate(
    graph: Graph, name: Name, outs: Mapping[Name, jax.Array], by_matrix: bool
) -> tuple[Any, jax.Array] | None:
    """Return the state and the output of a node before the first step, or None if too few of its
    sources are known.

    With ``by_matrix``, a matrix shows the number of neurons of a source, for a layer that only
    reads earlier outputs of a loop through a join.
    """
    node = graph.nodes[name]
    edges = graph.edges[name]
    # A read without a delay must be known, but a delayed read of a loop may follow in a later turn.
    read_in_step = {edge.source for edge in edges if edge.lags == (0,)}
    if not read_in_step <= outs.keys():
        return None
    if isinstance(node, Join):
        sources = [outs[edge.source] for edge in edges]
        return None, _joined(node, sources)
    connections = graph.connections(name)
    if by_matrix and not any(edge.source in outs for edge in edges):
        first = next(iter(outs.values()))
        examples = first.shape[:-1][:1]
        outs = {
            edge.source: jnp.zeros((*examples, len(matrix)))
            for edge, weight in connections
            if (matrix := matrix_of(weight)) is not None
        }
    connections = [(edge, w) for edge, w in connections if edge.source in outs]
    # A layer without any known source has no dtype yet.
    if not connections:
        return None
    # All lags of an edge have one shape, so the lag is ignored.
    known_edges = [edge for edge, _ in connections]
    reads = reads_of(known_edges, lambda source, _: outs[source])
    # partial makes a new function, since JAX looks up a method by a hash of all weights
    current = functools.partial(current_of, node, connections, graph.looped[name])
    return initial_state(node, jax.eval_shape(current, reads))


def _joined(join: Join, sources: list[jax.Array]) -> jax.Array:
    out: jax.Array = jax.eval_shape(functools.partial(join.function), *sources)
    # The only axis of an input without examples is the features, which a join may change.
    examples = next((source.shape[:1] for source in sources if source.ndim > 1), None)
    is_one_array = isinstance(out, jax.ShapeDtypeStruct) and is_float(out)
    if not is_one_array or not out.ndim or examples not in (None, out.shape[:1]):
        raise TypeError(
            f"Join: function must return one array of floats with the examples in front, got {out}"
        )
    return zeros_like(out)


def _type(x):
    return None if x is None else (x.shape, x.dtype)


def node_named(name: Name, graph: Graph) -> AbstractContextManager:
    """Name the layer or join in the message of an error."""
    kind = "layer" if name in graph.layers else "join"
    return named(f"Network: {kind} {name!r}")
