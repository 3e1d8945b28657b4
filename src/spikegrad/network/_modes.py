"""The modes: names for combinations of storage, recomputation and engine.

To add a storage, write a class in ``_storage`` and add a row here. Argument checks, messages, the
CLI and the tests read this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ._storage import EIGHT_BIT, EXACT, HALF, Storage
from .engine import _loop, _scan


class Engine(NamedTuple):
    """A loop over time."""

    run: Callable
    """``run(graph, inputs, states, pasts, masks, key, plan, mark)``, see ``engine._loop``."""
    cuts: bool
    """If True, the engine splits the steps into chunks and segments, and supports reverse-mode
    derivatives only.
    """


LOOP = Engine(_loop.run, cuts=True)
SCAN = Engine(_scan.run, cuts=False)


class Mode(NamedTuple):
    """A named combination."""

    storage: Storage = EXACT
    recompute: bool = False
    """If True, states are stored at the start of each segment and recomputed within it."""
    engine: Engine = LOOP


MODES = {
    "exact": Mode(),
    "half": Mode(HALF),
    "8-bit": Mode(EIGHT_BIT),
    "recompute": Mode(recompute=True),
    "scan": Mode(engine=SCAN),
}


def check_mode(owner: str, mode: str) -> None:
    """Raise if the mode is unknown."""
    if mode not in MODES:
        raise ValueError(
            f"{owner}: mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}"
        )
