"""The activity of the nodes of a network, and the currents as nodes of its graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import NamedTuple

import jax

from ..neurons import Cell, State
from ._connections import Edge, Name
from ._graph import Graph
from ._layer import Layer


class Activity(NamedTuple):
    """The activity of a layer or join over time, each array of shape ``(steps, batch, ...)``.

    Masked steps are zeros. A join has outputs only. A part that was not asked for is None.
    """

    output: jax.Array | None
    pre_spike: State | None = None
    """The state before the spike, an array or a tuple of arrays, as the cell has it."""
    current: jax.Array | None = None
    """The current that the neurons integrate: weights times inputs, recurrence and bias."""

    @property
    def potential(self) -> jax.Array:
        """The potential before the spike, which is the first array of the state."""
        if self.pre_spike is None:
            raise ValueError(
                "Activity: potential is missing; observe a layer with 'pre_spike' among the parts"
            )
        return jax.tree.leaves(self.pre_spike)[0]


class _Current(Cell, pure=True):
    """Passes its current on. Its state before the spike is the current, so a loop stores it."""

    def integrate(self, v: State, current: jax.Array) -> State:
        return current

    def fire(self, u: State, key: jax.Array | None = None) -> tuple[State, jax.Array]:
        return u, u


def current_of(name: Name) -> Name:
    """Return the name of the node that computes the current of a layer."""
    return f"current of {name!r}"


def with_currents(graph: Graph, names: Collection[Name]) -> Graph:
    """Return a graph in which the currents of some layers are the outputs of nodes.

    ::

        sources ── weights ──> layer     becomes     sources ── weights ──> current ──> layer

    All products and sums stay the same, so all outputs do.
    """
    nodes = {}
    edges = {}
    looped = {}
    for name, node in graph.nodes.items():
        nodes[name] = node
        edges[name], looped[name] = graph.edges[name], graph.looped[name]
        if name in names:
            current = current_of(name)
            edge = Edge("weight", current_of(name), (0,))
            # It has the same weights, so the sum of products is in the same order and has the
            # same bits.
            nodes[current] = dataclasses.replace(node, cell=_Current())
            # After its current, as a step runs.
            nodes[name] = Layer(None, nodes.pop(name).cell)
            edges[current], edges[name] = edges[name], (edge,)
            looped[current] = looped[name]
            # If the current depends on the layer, the edge between them is part of that loop.
            looped[name] = frozenset({"weight"} if looped[name] else ())
    # They draw nothing.
    numbers = graph.numbers | {current_of(name): 0 for name in names}
    return graph._replace(nodes=nodes, edges=edges, looped=looped, numbers=numbers)
