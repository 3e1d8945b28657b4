"""Trials of fixes: run the network with each and drop the useless ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from ...network import Network
from ._fixes import CHANGES, Fix
from ._issues import Issue, issues
from ._look import Look, Seen
from ._numbers import LayerReport

BETTER, NEARLY = 1.5, 0.1
"""A fix that does not end a fault helps if the health of the layer grows by this factor. Fixes come last if they
leave the layer with less than this part of the best health."""
ENOUGH = 0.1
"""A mean slope that passes gradients. A tiny threshold brings all potentials to the peak, and is no better for that."""


class Outcome(NamedTuple):
    """The state of a network, seen from one of its layers."""

    faulty: bool
    """If True, the layer still has a fault, or a layer below has one."""
    faults: int
    health: float


def checked(network: Network, look: Look, seen: Seen) -> tuple[Issue, ...]:
    """Return the issues of a network with the fixes that help, the best first and each once."""
    found, result = issues(*seen), []
    for issue in found:
        offered = [other for earlier in result for other in earlier.fixes]
        fixes = _ordered(network, look, _outcome(seen, found, issue.index), issue)
        new = (fix for fix in fixes if all(dataclasses.replace(other, text=fix.text) != fix for other in offered))
        result.append(dataclasses.replace(issue, fixes=tuple(new)))
    return tuple(result)


def _ordered(network: Network, look: Look, before: Outcome, issue: Issue) -> list[Fix]:
    """The fixes that help, the best first; those that end the issue alone, if there are any."""
    tried = [(fix, _outcome_with(fix, network, look, issue.index)) for fix in issue.fixes]
    helpful = [(fix, after) for fix, after in tried if after is not None and _helps(before, after)]
    ending = [(fix, after) for fix, after in helpful if not after.faulty] or helpful
    best = max((after.health for _, after in ending), default=0.0)
    ending.sort(key=lambda pair: (pair[1].faults, pair[1].health < NEARLY * best))
    return [fix for fix, _ in ending]


def _outcome_with(fix: Fix, network: Network, look: Look, index: int) -> Outcome | None:
    if fix.change not in CHANGES:  # a learning rate or a mode
        return Outcome(faulty=False, faults=0, health=1.0)
    try:
        changed = fix.apply(network)
    except (TypeError, ValueError):  # a custom cell may have a constant of this name, or a narrower domain
        return None
    after = look(changed)
    return _outcome(after, issues(*after), index)


def _helps(before: Outcome, after: Outcome) -> bool:
    return not after.faulty or (after.health > BETTER * before.health and after.faults <= before.faults)


def _outcome(seen: Seen, found: Sequence[Issue], index: int) -> Outcome:
    return Outcome(any(v.index <= index for v in found), len(found), health(seen.layers[index]))


def health(layer: LayerReport) -> float:
    """The share of the neurons that sometimes fire, times the mean slope over its peak, up to ``ENOUGH``."""
    if not (layer.fires and layer.finite):
        return 0.0
    return max(1 - layer.silent - layer.always, 0.0) * min(layer.slope or 0.0, ENOUGH)
