"""The place of each layer in its network: layers below, readers and feedback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...network import Layer
from ...network._connections import Name, edges_of
from ...network._graph import Graph

EVERY_DELAY = 2**31
"""A chunk longer than any delay. With it, all edges count for the components of a graph."""


class Place(NamedTuple):
    """The place of a layer. Other layers are given by their positions in the report."""

    name: Name
    """The name of the layer in ``network.layers``, or its position in a list."""
    below: frozenset[int]
    """The layers with a path to this one, and the layer itself."""
    readers: tuple[tuple[int, str], ...] = ()
    """The layers that read this one, directly or through joins, each with its weight."""
    enters: bool = True
    """If True, the layer reads inputs."""
    leaves: bool = True
    """If True, the layer is an output, or a part of one by joins."""
    feedback: tuple[Name, ...] = ()
    """The other sources of the layer's feedback."""
    delay: int = 1
    """The shortest delay of the feedback, in steps."""

    @property
    def text(self) -> str:
        return f"layer {self.name + 1}" if isinstance(self.name, int) else f"layer {self.name!r}"


def chain(count: int) -> list[Place]:
    """The places of the layers of a list."""
    return [
        Place(
            n,
            frozenset(range(n + 1)),
            ((n + 1, "weight"),) * (n + 1 < count),
            n == 0,
            n + 1 == count,
        )
        for n in range(count)
    ]


def places_of(graph: Graph, outputs: Iterable[Name]) -> list[Place]:
    """The places of the layers of a graph."""
    position = {name: n for n, name in enumerate(graph.layers)}
    sources = {name: {*_layers_of(graph, name)} for name in graph.nodes}
    ends = {
        name for output in outputs for name in ([output] if output in position else sources[output])
    }
    readers: dict[Name, list[tuple[int, str]]] = {name: [] for name in position}
    for name, layer in graph.layers.items():
        weight_of = weights_of_edges(layer)
        for edge in graph.edges[name]:
            for source in (
                [edge.source] if edge.source in position else _layers_of(graph, edge.source)
            ):
                if source in position and source != name:
                    readers[source].append((position[name], weight_of[edge.label]))
    found = []
    for name in graph.layers:
        below, waiting = {name}, [name]
        while waiting:
            new = {s for s in sources[waiting.pop()] if s in position} - below
            below |= new
            waiting += new
        labels = feedback_edges(graph, name)
        edges = [edge for edge in graph.edges[name] if edge.label in labels]
        found.append(
            Place(
                name,
                frozenset(position[other] for other in below),
                tuple(dict.fromkeys(readers[name])),
                any(source in graph.inputs for source in sources[name]),
                name in ends,
                tuple(dict.fromkeys(edge.source for edge in edges if edge.source != name)),
                min((lag for edge in edges for lag in edge.lags), default=1),
            )
        )
    return found


def _layers_of(graph: Graph, name: Name) -> Iterator[Name]:
    """The layers and inputs that a node reads, directly or through joins."""
    waiting, seen = [name], set()
    while waiting:
        for edge in graph.edges.get(waiting.pop(), ()):
            if edge.source in graph.layers or edge.source in graph.inputs:
                yield edge.source
            elif edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)


def feedback_edges(graph: Graph, name: Name) -> frozenset[str]:
    """The labels of a layer's edges of feedback, see :func:`feedback_weights`."""
    weights = feedback_weights(graph, name)
    return frozenset(
        edge for edge, weight in weights_of_edges(graph.nodes[name]).items() if weight in weights
    )


def feedback_weights(graph: Graph, name: Name) -> frozenset[str]:
    """The labels of a layer's feedback weights, which read earlier outputs of a loop with the
    layer.

    If a layer does not have other weights, only its own outputs are feedback.
    """
    layer, edges = graph.nodes[name], graph.edges[name]
    weight_of = weights_of_edges(layer)
    now = {weight_of[edge.label] for edge in edges if 0 in edge.lags}
    delayed = {
        weight_of[edge.label]: edge.source for edge in edges if edge.label in graph.looped[name]
    }
    delayed = {label: source for label, source in delayed.items() if label not in now}
    own = frozenset(label for label, source in delayed.items() if source == name)
    return own if len(delayed) == len(layer.weights) else frozenset(delayed)


def weights_of_edges(layer: Layer) -> dict[str, str]:
    """The weight of each edge. A window of matrices has several edges."""
    return {
        edge.label: label
        for label, weight in layer.weights.items()
        for edge in edges_of(label, "", weight)
    }
