"""The order of dependence in graphs, from the sources of each node."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

Sources: TypeAlias = Mapping[str, Collection[str]]


def reached(sources: Sources, known: Collection[str]) -> list[tuple[str, str]]:
    """Return each node with a source that is known or comes before it."""
    known = {*known}
    order: list[tuple[str, str]] = []
    # The first in the order of the graph, so the result does not depend on hashes.
    while ready := [
        (name, source)
        for name in sources
        if name not in known
        for source in sources[name]
        if source in known
    ]:
        order.append(ready[0])
        known.add(ready[0][0])
    if missing := [name for name in sources if name not in known]:
        raise ValueError(
            f"no input reaches {', '.join(map(repr, missing))}. Remove them"
        )
    return order


def ancestors(sources: Sources, name: str) -> set[str]:
    """Return the nodes on the paths to a node."""
    # A node is its own ancestor only within a loop.
    before = {*sources[name]}
    while new := {source for node in before for source in sources[node]} - before:
        before |= new
    return before
