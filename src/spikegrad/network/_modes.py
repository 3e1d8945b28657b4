"""The modes: the user's words for what is kept, whether it is computed again, and which engine runs.

A new storage is a class in ``_storage`` and a line here. Checks, messages, the command's choices and the tests take the
modes from this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ._storage import EIGHT_BIT, EXACT, HALF, Storage
from .engine import _loop, _scan


class Engine(NamedTuple):
    """A loop over time."""

    run: Callable
    """``run(layers, inputs, states, masks, key, plan, mark)``, see ``engine._loop``."""
    cuts: bool
    """If True, it cuts the steps into chunks and segments, and has a derivative of its own, in reverse mode alone."""


OWN = Engine(_loop.run, cuts=True)
SCAN = Engine(_scan.run, cuts=False)


class Mode(NamedTuple):
    """A combination that has a name."""

    storage: Storage = EXACT
    recompute: bool = False
    """If True, states are kept once in a segment, and computed again in between."""
    engine: Engine = OWN


MODES = {
    "exact": Mode(),
    "half": Mode(HALF),
    "8-bit": Mode(EIGHT_BIT),
    "recompute": Mode(recompute=True),
    "scan": Mode(engine=SCAN),
}


def check_mode(owner: str, mode: str) -> None:
    """Raise for an unknown mode."""
    if mode not in MODES:
        raise ValueError(f"{owner}: mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
