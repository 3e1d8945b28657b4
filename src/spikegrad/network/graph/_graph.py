"""The graph of a network: the order of a step, loops, and the length of each past."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from jax.typing import ArrayLike

from ...neurons import Cell
from ._connections import Edge, Join, Name, Weight, depths_of, weights_of

INPUT = "input"
"""The default name of the inputs."""


class LayerFields(Protocol):
    """The fields of a :class:`~spikegrad.Layer` that the folders of this package read.

    The class itself is above them, because ``Layer.init`` runs a network.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def cell(self) -> Cell: ...

    @property
    def weight(self) -> Weight: ...

    @property
    def bias(self) -> ArrayLike | None: ...

    @property
    def weights(self) -> Mapping[str, Weight]: ...


LayerT = TypeVar("LayerT", bound=LayerFields)


def with_weights(
    layer: LayerT, weights: Mapping[str, Weight], **changed: Any
) -> LayerT:
    """Return a layer with other weights, by the labels of ``layer.weights``.

    ``changed`` has other fields to replace.
    """
    others = dict(weights)
    recurrent = others.pop("recurrent", None)
    # All other weights are in the order of their sources.
    weight: Weight = others.get("weight")
    if isinstance(layer.weight, Mapping):
        weight = dict(zip(layer.weight, others.values(), strict=True))
    return dataclasses.replace(layer, weight=weight, recurrent=recurrent, **changed)


class Graph(NamedTuple):
    """The nodes of a network and their edges."""

    nodes: dict[Name, Any]
    """Layers and joins, in the order of a step."""
    edges: dict[Name, tuple[Edge, ...]]
    """The edges of each node. In a layer, edges within a loop are last."""
    looped: dict[Name, frozenset[str]]
    """The labels of the edges within a loop, for each node."""
    inputs: tuple[Name, ...]
    outputs: tuple[Name, ...]
    numbers: dict[Name, int]
    """The number of each layer, used for its random keys."""

    def connections(self, name: Name) -> list[tuple[Edge, Weight]]:
        """The edges of a layer and their weights."""
        weights: dict[str, Weight] = {}
        for label, weight in self.nodes[name].weights.items():
            weights |= weights_of(label, weight)
        return [(edge, weights[edge.label]) for edge in self.edges[name]]

    @property
    def layers(self) -> dict[Name, Any]:
        """The nodes that are no joins, each a :class:`~spikegrad.Layer`."""
        return {
            name: node
            for name, node in self.nodes.items()
            if not isinstance(node, Join)
        }

    @property
    def depths(self) -> dict[Name, int]:
        """The number of past outputs that are needed, for each source that needs more than a
        layer's last one.
        """
        all_edges = itertools.chain.from_iterable(self.edges.values())
        return depths_of(all_edges, self.layers)

    def components(self, chunk: float = math.inf) -> list[tuple[Name, ...]]:
        """Return the sets of nodes that run step by step together, in the order of their
        dependence. By default these are all loops.

        Outputs with a delay of at least a chunk are known when the chunk starts, so no node waits
        for them.
        """

        def must_wait(edge: Edge) -> bool:
            return edge.source in self.nodes and min(edge.lags) < chunk

        waits = {
            name: [edge.source for edge in self.edges[name] if must_wait(edge)]
            for name in self.nodes
        }
        # The nodes of a component have the order of the graph, which a step needs.
        return strongly_connected(waits)


def make_graph(
    nodes: Mapping[Name, Any], inputs: tuple[Name, ...], outputs: tuple[Name, ...]
) -> Graph:
    """Build the graph of layers and joins. Errors name the nodes."""
    edges: dict[Name, tuple[Edge, ...]] = {}
    known = *inputs, *nodes
    # What a layer without a named source reads.
    above = inputs[0] if len(inputs) == 1 else None
    for name, node in nodes.items():
        if name in inputs:
            raise ValueError(
                f"Network: {name!r} names both an entry and inputs; rename one of them"
            )
        if isinstance(node, Join):
            # Labels sort like the arguments of the join, because JAX sorts the keys of dicts.
            # Three digits keep 10 behind 9.
            edges[name] = tuple(
                Edge(f"{k:03}", source, (0,)) for k, source in enumerate(node.of)
            )
        else:
            edges[name] = node.edges(name, above)
        for edge in edges[name]:
            if edge.source not in known:
                raise ValueError(
                    f"Network: {name!r} reads {edge.source!r}, which is not one of "
                    f"{', '.join(map(repr, known))}; name one of them in of= or in the weights"
                )
        above = name
    graph = Graph(
        dict(nodes),
        edges,
        looped={},
        inputs=inputs,
        outputs=outputs,
        numbers={},
    )
    # Only reads without a delay order the nodes of a step. A cycle of them would have no first
    # node.
    order = []
    for group in graph.components(1):
        order += group
        read_in_step = {e.source for n in group for e in edges[n] if 0 in e.lags}
        if not read_in_step.isdisjoint(group):
            raise ValueError(
                f"Network: {', '.join(map(repr, group))} form a cycle without a delay; give one of "
                "these edges a delay: Delayed(weight, 1)"
            )
    # Here all edges count, also those with a delay, because a recurrent weight closes a loop
    # through time.
    looped: dict[Name, frozenset[str]] = {}
    for group in graph.components():
        for name in group:
            labels = [edge.label for edge in edges[name] if edge.source in group]
            looped[name] = frozenset(labels)

    def in_order(name: Name) -> tuple[Edge, ...]:
        if isinstance(nodes[name], Join):
            return edges[name]

        def is_looped(edge: Edge) -> bool:
            return edge.label in looped[name]

        # Edges outside of loops come first, so their sum can be computed for a complete chunk.
        # ``sorted`` is stable, so edges of equal kind keep the order of the user.
        return tuple(sorted(edges[name], key=is_looped))

    return graph._replace(
        nodes={name: nodes[name] for name in order},
        edges={name: in_order(name) for name in order},
        looped=looped,
        numbers={name: n for n, name in enumerate(graph.layers)},
    )


def strongly_connected(
    sources: Mapping[Name, Collection[Name]],
) -> list[tuple[Name, ...]]:
    """Return the strongly connected components, sources first.

    The nodes of a component have the order of ``sources``. The algorithm is from Tarjan 1972
    ("Depth-first search and linear graph algorithms", SIAM Journal on Computing 1(2):146-160). Its
    stack is a list, because Python limits the depth of recursion and so the length of a chain.
    """
    places = {name: place for place, name in enumerate(sources)}
    entered: dict[Name, int] = {}
    # The earliest open node that a node reaches: its index in ``entered``.
    lowest: dict[Name, int] = {}
    # Nodes of components that are not complete yet, in the order in which they were entered.
    open_nodes: dict[Name, None] = {}
    components: list[tuple[Name, ...]] = []

    def enter(name: Name) -> tuple[Name, Iterator[Name]]:
        entered[name] = lowest[name] = len(entered)
        open_nodes[name] = None
        return name, iter(sources[name])

    def complete(name: Name) -> None:
        """Close a node. It is the first node of a component if it reaches no earlier open node."""
        if lowest[name] < entered[name]:
            return
        component = []
        while name in open_nodes:
            component.append(open_nodes.popitem()[0])
        components.append(tuple(sorted(component, key=places.__getitem__)))

    for start in sources:
        path = [] if start in entered else [enter(start)]
        while path:
            name, remaining = path[-1]
            source = next(remaining, None)
            if source is None:
                path.pop()
                complete(name)
                if path:
                    reader = path[-1][0]
                    lowest[reader] = min(lowest[reader], lowest[name])
            elif source not in entered:
                path.append(enter(source))
            elif source in open_nodes:
                lowest[name] = min(lowest[name], entered[source])
    return components
