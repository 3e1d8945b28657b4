"""The nodes of a graph as user code, and their states before the first step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .._checks import is_float
from .._compat import zeros_like
from ._connections import Join, Name, matrix_of
from ._graph import Graph
from ._layer import current_of, initial_state
from ._step import CellSteps, LayerState, Nodes, keys_of


def nodes_of(graph: Graph, key: jax.Array | None, examples: int | None) -> Nodes:
    """Return the nodes for :func:`graph_step`, with keys for stochastic layers."""

    def steps(name: Name) -> CellSteps | Callable:
        node = graph.nodes[name]
        if isinstance(node, Join):
            return lambda reads: node.function(*reads.values())

        connections = graph.connections(name)

        def current(arguments):
            return current_of(node, connections, graph.looped[name], arguments[1])

        def keys(number):
            if key is None or not node.cell.draws:
                return None
            return keys_of(key, number, graph.numbers[name], examples)

        return CellSteps(node.cell, current, keys)

    return {name: (steps(name), graph.edges[name]) for name in graph.nodes}


def initial_states(
    graph: Graph, inputs: dict[Name, jax.Array]
) -> tuple[dict[Name, LayerState], dict[Name, jax.Array]]:
    """Return the states of the layers at rest, and pasts of zeros, for inputs of this shape and
    dtype.

    A loop may widen the dtype of a current and of outputs. The function repeats until all dtypes
    are stable.
    """
    outs = dict(inputs)
    results = {}
    changed = True
    # Each turn can only widen dtypes and complete shapes, and both are bounded, so the loop
    # ends.
    while changed:
        changed = False
        for name in graph.nodes:
            types = {e.label: _type(outs.get(e.source)) for e in graph.edges[name]}
            # A user's function runs again only if the types of its inputs have changed.
            if name in results and results[name].reads == types:
                continue
            with node_named(name, graph):
                result = results[name] = _evaluate(graph, name, outs, types)
            if result.output is not None and _type(result.output) != _type(
                outs.get(name)
            ):
                outs[name], changed = result.output, True
        # A last resort. A matrix shows the number of neurons of its source, but no further
        # axes.
        if not changed and (known := _input_of_matrix(graph, outs)):
            outs = outs | known
            changed = True
    missing = [name for name in graph.nodes if name not in outs]
    if missing:
        raise ValueError(
            f"Network: {', '.join(map(repr, missing))} read only each other and no inputs"
        )
    states = {name: results[name].state for name in graph.layers}
    # (depth, batch, neurons), zeros because no output precedes the first step.
    pasts = {
        name: jnp.stack([zeros_like(outs[name])] * depth)
        for name, depth in graph.depths.items()
    }
    return states, pasts


def _input_of_matrix(
    graph: Graph, outs: dict[Name, jax.Array]
) -> dict[Name, jax.Array]:
    """Return an unknown output that a matrix reads, whose shape follows from the matrix.

    A loop through a join needs it, if the layer before the join reads only outputs of the loop.
    """
    x = next(iter(outs.values()))

    def like(x, neurons):
        return jnp.broadcast_to(
            x.reshape(len(x), -1)[:, :1] if x.ndim > 1 else x[:1],
            (*x.shape[:-1][:1], neurons),
        )

    # As many turns as nodes suffice, since the longest path without a cycle visits each node
    # once.
    reached = {*graph.inputs}
    for _ in graph.nodes:
        reached |= {
            name
            for name, edges in graph.edges.items()
            if any(edge.source in reached for edge in edges)
        }
    for name in (name for name in graph.layers if name in reached):
        for edge, weight in graph.connections(name):
            matrix = matrix_of(weight)
            if matrix is not None and edge.source not in outs:
                out = jax.eval_shape(functools.partial(like, neurons=len(matrix)), x)
                return {edge.source: zeros_like(out).astype(jnp.result_type(float))}
    return {}


class _Result(NamedTuple):
    """A node before the first step, for reads of some types."""

    reads: dict
    output: jax.Array | None = None
    """None if a source is not known yet."""
    state: LayerState | None = None


def _evaluate(
    graph: Graph, name: Name, outs: dict[Name, jax.Array], types: dict
) -> _Result:
    node = graph.nodes[name]
    known = [edge for edge in graph.edges[name] if edge.source in outs]
    # A layer without any known source has no dtype yet. A read without a delay must be known,
    # but a delayed read of a loop may follow in a later turn.
    if not known or any(
        edge.lags == (0,) and edge.source not in outs for edge in graph.edges[name]
    ):
        return _Result(types)
    if isinstance(node, Join):
        return _Result(types, _joined(node, [outs[edge.source] for edge in known]))
    # All lags of an edge have one shape, so the lag is ignored.
    reads = {
        edge.label: edge.read(lambda _, edge=edge: outs[edge.source]) for edge in known
    }
    connections = [c for c in graph.connections(name) if c.edge.label in reads]
    # partial makes a new function, since JAX looks up a method by a hash of all weights
    current = jax.eval_shape(
        functools.partial(current_of, node, connections, graph.looped[name]), reads
    )
    state = initial_state(node, current)
    return _Result(types, state[1], state)


def _joined(join: Join, sources: list[jax.Array]) -> jax.Array:
    out: jax.Array = jax.eval_shape(functools.partial(join.function), *sources)
    if (
        not isinstance(out, jax.ShapeDtypeStruct)
        or not is_float(out)
        or out.shape[:1] != sources[0].shape[:1]
    ):
        shapes = ", ".join(str(source.shape) for source in sources)
        raise TypeError(
            f"Join: function must return one array of floats with the examples in front, got {out} "
            f"from {shapes}"
        )
    return zeros_like(out)


def _type(x):
    return None if x is None else (x.shape, x.dtype)


@contextlib.contextmanager
def node_named(name: Name, graph: Graph) -> Iterator[None]:
    """Name the layer or join in the message of an error."""
    kind = "layer" if name in graph.layers else "join"
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) in (TypeError, ValueError) and len(error.args) == 1:
            error.args = (f"Network: {kind} {name!r}: {error}",)
        raise
