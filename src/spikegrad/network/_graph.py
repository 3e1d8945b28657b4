"""Who reads whom: the order of a step, loops, and how many outputs of each source are remembered.

A list of layers is a chain: a graph whose nodes have their places for names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ._connections import Connection, Edge, Join, Name, weights_of

if TYPE_CHECKING:
    from ._layer import Layer

INPUT = "input"
"""The name of the inputs, unless a network gives others."""


class Graph(NamedTuple):
    """The nodes of a network and their edges. Its objects hold arrays, so that it is made anew for each call."""

    nodes: dict[Name, Any]
    """Layers and joins, in the order of a step."""
    edges: dict[Name, tuple[Edge, ...]]
    """What each node reads: a layer first what it need not wait for, then what is part of a loop."""
    looped: dict[Name, frozenset[str]]
    """The labels of the edges of each node that are part of a loop."""
    inputs: tuple[Name, ...]
    numbers: dict[Name, int]
    """The number of each layer, which its random keys depend on."""

    def connections(self, name: Name) -> tuple[Connection, ...]:
        """The edges of a layer and their weights."""
        weights = {
            k: w for label, weight in self.nodes[name].weights.items() for k, w in weights_of(label, weight).items()
        }
        return tuple(Connection(edge, weights[edge.label]) for edge in self.edges[name])

    @property
    def layers(self) -> dict[Name, Layer]:
        return {name: node for name, node in self.nodes.items() if not isinstance(node, Join)}

    @property
    def depths(self) -> dict[Name, int]:
        """How many outputs of a source are remembered, where that is another number than a layer's last one."""
        deepest: dict[Name, int] = {}
        for edges in self.edges.values():
            for edge in edges:
                deepest[edge.source] = max(deepest.get(edge.source, 0), *edge.lags)
        layers = self.layers
        return {name: depth for name, depth in deepest.items() if depth > (1 if name in layers else 0)}

    def components(self, chunk: int) -> list[tuple[Name, ...]]:
        """Sets of nodes that must run step by step together, each after those that it waits for.

        An output of as many steps before as a chunk has is known when the chunk starts, so no node waits for it.
        """
        waits = {
            name: [edge.source for edge in edges if min(edge.lags) < chunk and edge.source in self.nodes]
            for name, edges in self.edges.items()
        }
        place = {name: n for n, name in enumerate(self.nodes)}
        return [tuple(sorted(found, key=place.__getitem__)) for found in strongly_connected(waits)]


def make_graph(nodes: Mapping[Name, Any], inputs: tuple[Name, ...], above: Mapping[Name, Name]) -> Graph:
    """The graph of layers and joins, or an error that names the nodes at fault.

    ``above`` has the source of a layer that names none.
    """
    edges = {
        name: tuple(Edge(f"{k:03}", source, (0,)) for k, source in enumerate(node.of))
        if isinstance(node, Join)
        else node.edges(name, above.get(name))
        for name, node in nodes.items()
    }
    for name, own in edges.items():
        for edge in own:
            if edge.source not in nodes and edge.source not in inputs:
                known = ", ".join(map(repr, (*inputs, *nodes)))
                raise ValueError(f"Network: {name!r} reads {edge.source!r}, which is none of {known}")
    now = {name: [e.source for e in own if 0 in e.lags and e.source in nodes] for name, own in edges.items()}
    groups = strongly_connected(now)
    for group in groups:
        if len(group) > 1 or group[0] in now[group[0]]:
            raise ValueError(
                f"Network: {_cycle(group, now)} read each other in the same step; give one of these edges a delay: "
                "Delayed(weight, 1)"
            )
    order = [name for (name,) in groups]
    everything = {name: [e.source for e in own if e.source in nodes] for name, own in edges.items()}
    loop_of = {name: n for n, group in enumerate(strongly_connected(everything)) for name in group}
    looped = {
        name: frozenset(e.label for e in own if loop_of.get(e.source) == loop_of[name]) for name, own in edges.items()
    }

    def in_order(name: Name) -> tuple[Edge, ...]:
        if isinstance(nodes[name], Join):
            return edges[name]
        return tuple(sorted(edges[name], key=lambda edge: edge.label in looped[name]))

    layers = [name for name, node in nodes.items() if not isinstance(node, Join)]
    return Graph(
        {name: nodes[name] for name in order},
        {name: in_order(name) for name in order},
        looped,
        inputs,
        {name: n for n, name in enumerate(layers)},
    )


def strongly_connected(sources: Mapping[Name, Iterable[Name]]) -> list[list[Name]]:
    """Groups of nodes that reach each other, each group after those that it reads (Tarjan 1972)."""
    number: dict[Name, int] = {}
    lowest: dict[Name, int] = {}
    stack: list[Name] = []
    groups: list[list[Name]] = []
    for root in sources:
        if root in number:
            continue
        # an explicit stack, since a network may be deeper than Python's recursion
        work = [(root, iter(sources[root]))]
        number[root] = lowest[root] = len(number)
        stack.append(root)
        while work:
            name, rest = work[-1]
            for source in rest:
                if source not in number:
                    number[source] = lowest[source] = len(number)
                    stack.append(source)
                    work.append((source, iter(sources[source])))
                    break
                if source in stack:
                    lowest[name] = min(lowest[name], number[source])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[name])
                if lowest[name] == number[name]:
                    at = stack.index(name)
                    groups.append(stack[at:])
                    del stack[at:]
    return groups


def _cycle(group: list[Name], sources: Mapping[Name, list[Name]]) -> str:
    """A cycle within a group, in words, in the direction of the signals."""
    path = [group[0]]
    while True:
        path.append(next(source for source in sources[path[-1]] if source in group))
        if path[-1] in path[:-1]:
            return " -> ".join(map(repr, reversed(path[path.index(path[-1]) :])))
