"""Loops of a graph. In NIR, each loop takes one time step by itself.

NIR does not define which edge of a loop has this step. An export takes the step off one delayed edge of each loop, and
an import adds it to one. A set of such edges must meet each loop exactly once.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ..network._graph import strongly_connected

Edge: TypeAlias = tuple[Any, Any]
"""A source and a target."""
_MOST = 10_000
"""Limit for the number of loops."""


def loops(owner: str, edges: Iterable[Edge]) -> list[tuple[Edge, ...]]:
    """Return all simple cycles of a graph, each as its edges."""
    edges = [*dict.fromkeys(edges)]
    sources: dict[Any, list[Any]] = {name: [] for edge in edges for name in edge}
    targets: dict[Any, list[Any]] = {name: [] for name in sources}
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    found: list[tuple[Edge, ...]] = []
    for group in strongly_connected(sources):
        place = {name: n for n, name in enumerate(group)}
        for start in group:
            # Each cycle once, from its first node, with an explicit stack, because a graph may be deep.
            paths: list[tuple[Any, ...]] = [(start,)]
            while paths:
                path = paths.pop()
                for target in targets[path[-1]]:
                    if target == start:
                        found.append(tuple(zip(path, (*path[1:], start), strict=True)))
                    elif place.get(target, -1) > place[start] and target not in path:
                        paths.append((*path, target))
                if len(found) + len(paths) > _MOST:
                    raise ValueError(f"{owner}: the graph has more than {_MOST:,} loops between {group[:3]}")
    return found


def cuts(cycles: Sequence[tuple[Edge, ...]], allowed: Collection[Edge]) -> Iterator[frozenset[Edge]]:
    """Yield all sets of allowed edges with exactly one edge in each cycle."""
    chosen: tuple[Edge, ...] = ()
    stack = [chosen]
    seen = set()
    while stack:
        chosen = stack.pop()
        counts = [sum(edge in cycle for edge in chosen) for cycle in cycles]
        if max(counts, default=0) > 1 or frozenset(chosen) in seen:
            continue
        seen.add(frozenset(chosen))
        open_cycle = next((cycle for cycle, count in zip(cycles, counts, strict=True) if not count), None)
        if open_cycle is None:
            yield frozenset(chosen)
            continue
        stack += [(*chosen, edge) for edge in reversed(open_cycle) if edge in allowed]


def returning(inputs: Sequence[Any], edges: Iterable[Edge], cycles: Iterable[Any], allowed: Collection[Edge]) -> set:
    """The allowed edges that close a loop: they do not lead farther from the inputs, or are the last before those."""
    edges, front = [*edges], [*inputs]
    depth = dict.fromkeys(front, 0)
    while front:
        new = [*dict.fromkeys(target for source, target in edges if source in front and target not in depth)]
        depth |= dict.fromkeys(new, depth[front[0]] + 1)
        front = new
    found = set()
    for cycle in cycles:
        for n, (source, target) in enumerate(cycle):
            if depth.get(target, 0) <= depth.get(source, 0):
                before = (cycle[k % len(cycle)] for k in range(n, n - len(cycle), -1))
                found |= {*itertools.islice((edge for edge in before if edge in allowed), 1)}
    return found


def in_order(sources: Mapping[Any, Iterable[Any]], late: Collection[Edge]) -> list[Any]:
    """Return the targets of all edges, sources first, except for edges that take a step."""
    now = {
        name: [source for source in read if source in sources and (source, name) not in late]
        for name, read in sources.items()
    }
    return [name for (name,) in strongly_connected(now)]
