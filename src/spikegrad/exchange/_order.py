"""The order of dependence in graphs, from the sources of each node."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

Sources: TypeAlias = Mapping[str, Collection[str]]


def reached(sources: Sources, known: Collection[str]) -> list[tuple[str, str]]:
    """Return each node with a source that is known or comes before it."""
    known = {*known}
    order: list[tuple[str, str]] = []

    def first_ready() -> tuple[str, str] | None:
        # In the order of the graph, so the result does not depend on hashes.
        for name in sources:
            if name in known:
                continue
            for source in sources[name]:
                if source in known:
                    return name, source
        return None

    while ready := first_ready():
        order.append(ready)
        known.add(ready[0])
    if missing := [name for name in sources if name not in known]:
        raise ValueError(
            f"no input reaches {', '.join(map(repr, missing))}. Remove them"
        )
    return order


def ancestors(sources: Sources, name: str) -> set[str]:
    """Return the nodes on the paths to a node."""
    # A node is its own ancestor only within a loop.
    before = {*sources[name]}
    waiting = [*before]
    while waiting:
        new = {*sources[waiting.pop()]} - before
        before |= new
        waiting += new
    return before
