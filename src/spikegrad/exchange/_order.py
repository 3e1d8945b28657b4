"""The order of dependence in graphs, from the sources of each node."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Sources = Mapping[Name, Collection[Name]]


def reached(sources: Sources[Name], known: Collection[Name]) -> list[tuple[Name, Name]]:
    """Return each node with a source that is known or comes before it."""
    known = {*known}
    waiting = {name: None for name in sources if name not in known}
    order: list[tuple[Name, Name]] = []
    while waiting:
        # The first in the order of the graph, so the result does not depend on hashes.
        ready = [
            (name, source)
            for name in waiting
            for source in sources[name]
            if source in known
        ]
        if not ready:
            raise ValueError(
                f"no input reaches {', '.join(map(repr, waiting))}; remove them"
            )
        order.append(ready[0])
        known.add(ready[0][0])
        del waiting[ready[0][0]]
    return order


def ancestors(sources: Sources[Name], name: Name) -> set[Name]:
    """Return the nodes on the paths to a node."""
    # A node is its own ancestor only within a loop.
    before: set[Name] = set()
    waiting = [name]
    while waiting:
        new = {*sources.get(waiting.pop(), ())} - before
        before |= new
        waiting += new
    return before
