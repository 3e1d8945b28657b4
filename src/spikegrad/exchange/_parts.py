"""The parts of a NIR graph that become layers and joins."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import nir

from .._checks import brief
from ._loops import cuts, loops, returning
from ._parameters import owner_of

FIRE = (nir.LIF, nir.IF, nir.CubaLIF)
NEURONS = (*FIRE, nir.LI, nir.I, nir.CubaLI, nir.Threshold)


class Chain(NamedTuple):
    """Operations one after the other."""

    sources: tuple[str, ...]
    """The inputs and layers whose outputs are added before the first operation."""
    delays: list[tuple[str, Any]]
    """Names and nodes of the delays, which come first."""
    operations: list[tuple[str, Any]]
    """Names and nodes of the other operations."""

    def named(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name, _ in (*self.delays, *self.operations))


class Part(NamedTuple):
    """The part of a graph that becomes a layer."""

    chains: list[Chain]
    neurons: tuple[str, Any] | None = None
    threshold: tuple[str, Any] | None = None
    """A Threshold after neurons that do not fire."""


class Parts:
    """All parts of a graph, by the names of entries of a network."""

    def __init__(self, top: Iterable[str], nodes: dict[str, Any], edges: list[tuple[str, str]]) -> None:
        top = {*top}
        self.nodes = nodes
        self.before, self.after = _neighbors(nodes, _without_inner_ends(top, nodes, edges))
        self.inputs = [name for name in nodes if name in top and isinstance(nodes[name], nir.Input)]
        ends = [name for name in nodes if name in top and isinstance(nodes[name], nir.Output)]
        self._check(ends)
        self._values: dict[str, str] = {name: name for name in self.inputs}
        """For each node with an output of a layer or input, its name in the network."""
        self.layers: dict[str, Part] = {}
        self.joins: dict[str, tuple[str, ...]] = {}
        self._add_layers()
        self.outputs: dict[str, str] = {end: self._output(end) for end in ends}
        """For each Output, the name of the layer or join."""
        self.read = {name: [self._source(name, chain) for chain in part.chains] for name, part in self.layers.items()}
        """For each layer, the input, layer or join that each of its chains reads."""

    def _check(self, ends: list[str]) -> None:
        if not self.inputs or not ends:
            raise ValueError(
                f"from_nir: the graph must have an Input and an Output, got {brief(self.inputs)} and {brief(ends)}"
            )
        reached = _reached(self.inputs, self.after) & _reached(ends, self.before)
        for name in self.before:
            if name not in reached:
                raise ValueError(
                    f"{owner_of(name, self.nodes[name])} is not on the way from Input to Output; remove the node"
                )

    def _is_operation(self, name: str) -> bool:
        return not isinstance(self.nodes[name], (*NEURONS, nir.Input, nir.Output))

    def _continues(self, name: str) -> bool:
        """If True, the operation belongs to the chain of the node before it."""
        before = self.before[name]
        if not self._is_operation(name) or len(before) != 1 or not self._is_operation(before[0]):
            return False
        # Delays come first in a chain, because a bias before a delay arrives later.
        late = isinstance(self.nodes[name], nir.Delay) and not isinstance(self.nodes[before[0]], nir.Delay)
        return len(self.after[before[0]]) == 1 and not late

    def _add_layers(self) -> None:
        integrators = nir.LI, nir.I, nir.CubaLI
        thresholds: dict[str, str] = {}
        for name, node in self.nodes.items():
            before = self.before[name] if isinstance(node, nir.Threshold) else []
            if [self.after[one] for one in before] == [[name]] and isinstance(self.nodes[before[0]], integrators):
                thresholds[before[0]] = name
        neurons = [name for name in self.before if isinstance(self.nodes[name], NEURONS)]
        neurons = [name for name in neurons if name not in thresholds.values()]
        paths: dict[str, list[str]] = {}  # by the last node of each chain
        for name in self.before:
            if self._is_operation(name) and not self._continues(name):
                path = [name]
                while len(self.after[path[-1]]) == 1 and self._continues(self.after[path[-1]][0]):
                    path += self.after[path[-1]]
                paths[path[-1]] = path
        # A chain into neurons is one of their weights. Any other chain is a layer without neurons.
        alone = [last for last in paths if len(self.after[last]) > 1 or self.after[last][0] not in neurons]
        outputs = {name: thresholds.get(name, name) for name in neurons} | {last: last for last in alone}
        for name in outputs.values():
            self._values[name] = self._free(name.removesuffix("/neurons").removesuffix("/threshold"), name)
        for name, output in outputs.items():
            if name in alone:
                chains, own, fires = [self._chain(paths[name])], None, None
            else:
                before = self.before[name]
                own, fires = name, thresholds.get(name)
                chains = [
                    self._chain(paths[one])
                    if one in paths and one not in alone
                    else Chain((self._values[one],), [], [])
                    for one in before
                ]
            self.layers[self._values[output]] = Part(chains, self._named(own), self._named(fires))

    def _named(self, name: str | None) -> tuple[str, Any] | None:
        return None if name is None else (name, self.nodes[name])

    def _chain(self, path: list[str]) -> Chain:
        sources = tuple(self._values[name] for name in self.before[path[0]])
        split = next((n for n, name in enumerate(path) if not isinstance(self.nodes[name], nir.Delay)), len(path))
        named = [(name, self.nodes[name]) for name in path]
        return Chain(sources, named[:split], named[split:])

    def _free(self, name: str, other: str) -> str:
        taken = {*self._values.values(), *self.joins}
        return other if name in taken else name

    @property
    def sources(self) -> dict[str, list[str]]:
        """The inputs, layers and joins that each layer and join reads."""
        return {name: [*dict.fromkeys(read)] for name, read in (self.read | self.joins).items()}

    def _source(self, layer: str, chain: Chain) -> str:
        """Return the input, layer or join that a chain reads. A join is made for a sum."""
        # to_nir calls the nodes of a weight by the layer, the kind and the source
        first = next((name for name, _ in (*chain.delays, *chain.operations)), "")
        _, _, name = first.removeprefix(f"{layer}.").partition(".") if first.startswith(f"{layer}.") else ("", "", "")
        return self._sum(chain.sources, name)

    def _sum(self, sources: tuple[str, ...], name: str) -> str:
        if len(sources) == 1:
            return sources[0]
        known = next((join for join, of in self.joins.items() if {*of} == {*sources}), None)
        if known is None:
            known = self._free(name or " + ".join(sources), " + ".join(sources))
            self.joins[known] = sources
        return known

    def _output(self, end: str) -> str:
        name = self._sum(tuple(self._values[one] for one in self.before[end]), end.removesuffix(".output"))
        if name in self.inputs:  # an entry of the network must be its output
            self.layers[end] = Part([Chain((name,), [], [])])
            return end
        return name


def late_edges(parts: Parts) -> frozenset[tuple[str, str]]:
    """Return the sources and targets of edges that get a step, which each loop takes by itself."""
    edges = [(source, name) for name, read in parts.sources.items() for source in read]
    cycles = loops("from_nir", edges)
    into_layers = [edge for edge in edges if edge[1] in parts.layers]
    named = [
        (source, name)
        for name, part in parts.layers.items()
        for source, chain in zip(parts.read[name], part.chains, strict=True)
        if chain.named(f"{name}.recurrent")
    ]
    others = [cycle for cycle in cycles if not {*cycle} & {*named}]
    back = returning(parts.inputs, edges, others, into_layers)
    for allowed in ({*named, *back}, into_layers):
        found = [*itertools.islice(cuts(cycles, allowed), 2)]
        if len(found) == 1:
            return found[0]
        if found:
            break
    names = brief(sorted({name for cycle in cycles for name, _ in cycle}))
    if not found:
        raise ValueError(
            f"from_nir: each loop takes one step by itself, and no choice of weights between {names} has one in each "
            "loop"
        )
    raise ValueError(
        f"from_nir: NIR does not define which weights between {names} arrive one step later; begin the name of a node "
        "of each with its target, as in 'target.recurrent'"
    )


def _reached(names: list[str], after: dict[str, list[str]]) -> set[str]:
    found, waiting = {*names}, [*names]
    while waiting:
        new = {*after[waiting.pop()]} - found
        found |= new
        waiting += new
    return found


def _without_inner_ends(top: set[str], nodes: dict[str, Any], edges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the edges without the Inputs and Outputs of subgraphs, which pass on what they get."""
    for name, node in nodes.items():
        if name not in top and isinstance(node, (nir.Input, nir.Output)):
            into = [source for source, target in edges if target == name]
            onward = [target for source, target in edges if source == name]
            edges = [edge for edge in edges if name not in edge] + [*itertools.product(into, onward)]
    return edges


def _neighbors(
    nodes: dict[str, Any], edges: list[tuple[str, str]]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The nodes before and after each node."""
    kept = {name for edge in edges for name in edge}
    inner = (nir.Input, nir.Output)
    names = [name for name in nodes if name in kept or not (isinstance(nodes[name], inner) and "/" in name)]
    before: dict[str, list[str]] = {name: [] for name in names}
    after: dict[str, list[str]] = {name: [] for name in names}
    for edge, count in collections.Counter(edges).items():
        if count > 1:
            raise ValueError(f"from_nir: the edge {brief(edge)} occurs twice")
        before[edge[1]].append(edge[0])
        after[edge[0]].append(edge[1])
    return before, after
