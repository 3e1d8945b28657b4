"""Trials of fixes: run the network with each fix and drop useless fixes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...network import Network
from ...neurons import linear_response
from ._fixes import OF_TRAINING, Fix
from ._issues import GROWTH, Issue, growth, growth_through, is_silent, issues
from ._look import Look, Seen
from ._numbers import LayerReport
from ._places import Place, places_of
from ._proposals import together

BETTER, NEARLY = 1.5, 0.1
"""A fix that does not end a fault helps if the health of the layer grows by the first factor. A fix comes last if the
health after it is below the second factor times the best health."""
ENOUGH = 0.1
"""A mean slope that passes gradients. Larger slopes do not add to the health, because a tiny threshold brings all
potentials to the peak."""


OF_LAYERS = "silent", "saturated", "out of reach", "explodes"
"""Faults of a single layer."""
BACKWARD = "surrogate", "detach_reset"
"""Changes that do not affect the spikes, so other layers keep this fault. Only all layers together end it."""
SCALES = ("feedforward weights",), ("weights",), ("threshold",)
"""Changes of a scale. It depends on the layer below, so these changes are tried in one layer at a time."""
VARIED, FALLEN = 0.1, 0.8
"""A silent layer is not an issue if its potentials vary by the first part of the threshold, and if some updates make it
fire and reduce the loss to the second part."""
MUCH = 3.0
"""A fix is rejected if it makes the gradient of any layer explode, and multiplies its growth by more than this."""


class Outcome(NamedTuple):
    """The state of a network for one of its layers."""

    faulty: bool
    """If True, the layer has a fault, or a layer that must be healthy first has a fault."""
    faults: int
    health: float


def checked(network: Network, look: Look, seen: Seen) -> tuple[Issue, ...]:
    """Return the issues of a network with the fixes that help, best first and each fix once."""
    found, result = _without_waking(issues(*seen), network, look, seen), []
    places = places_of(network.graph, network._output_names)
    for issue in found:
        offered = [other for earlier in result for other in earlier.fixes]
        fixes = _ordered(network, look, seen, places, found, issue)
        new = (r for r in fixes if all(dataclasses.replace(other, text=r.text) != r for other in offered))
        if fixes or issue.kind != "explodes" or not _amplifies(seen, issue):
            result.append(dataclasses.replace(issue, fixes=tuple(new)))
    return tuple(result)


def _amplifies(seen: Seen, issue: Issue) -> bool:
    """Return True for a cell that is not linear and has no feedback, as a QIF neuron. Its potential rises by itself."""
    n = _positions(seen.network.places)[issue.index]
    return linear_response(seen.network.cells[n]) is None and not seen.layers[n].feedback


def _without_waking(found: Sequence[Issue], network: Network, look: Look, seen: Seen) -> Sequence[Issue]:
    """Leave out silent layers that fire after some updates, if the loss has fallen by then.

    A wide slope passes gradients to neurons that never fire. So a silent layer may begin to fire if its inputs matter.
    """
    silent = [issue.index for issue in found if issue.kind == "silent"]
    if not silent or look.optimizer is None or seen.network.loss is None:
        return found
    at = _positions(seen.network.places)
    varied = [n for n in silent if seen.layers[at[n]].std >= VARIED * (seen.layers[at[n]].scale or math.inf)]
    if not varied:
        return found
    after = look(look.trained(network))
    loss = after.network.loss
    if loss is None or not loss < FALLEN * seen.network.loss:
        return found
    woken = {index for index in varied if not is_silent(after.layers[at[index]])}
    return [issue for issue in found if issue.index not in woken]


def _ordered(
    network: Network, look: Look, seen: Seen, places: Sequence[Place], found: Sequence[Issue], issue: Issue
) -> list[Fix]:
    """Return the fixes that help, best first. If some fixes end the fault, return only these."""
    before = _outcome(seen, places, found, issue)
    proposed = _proposed(issue, places, found)
    tried = [(fix, _outcome_with(fix, network, look, seen, places, found, issue)) for fix in proposed]
    helpful = [(fix, after) for fix, after in tried if after is not None and _helps(before, after)]
    ending = [(fix, after) for fix, after in helpful if not after.faulty] or helpful
    best = max((after.health for _, after in ending), default=0.0)
    ending.sort(key=lambda pair: (pair[1].health < NEARLY * best, pair[1].faults))
    return [fix for fix, _ in ending]


def _proposed(issue: Issue, places: Sequence[Place], found: Sequence[Issue]) -> Iterator[Fix]:
    """Yield the fixes of an issue. After the first fix of a kind, yield this kind in all its layers as one fix."""
    for fix in issue.fixes:
        firsts = [next((r for r in other.fixes if _kind(r) == _kind(fix)), None) for other in found]
        shared = [first for first in firsts if first is not None]
        several = len({one.index for one in shared}) > 1 and fix.change not in OF_TRAINING and _kind(fix) not in SCALES
        if not several or fix.change not in BACKWARD:
            yield fix
        if several and shared[0] is fix:
            yield together(shared, places)


def _kind(fix: Fix) -> tuple[str, ...]:
    return fix.change, *(other.change for other in fix.others)


def _outcome_with(
    fix: Fix,
    network: Network,
    look: Look,
    seen: Seen,
    places: Sequence[Place],
    found: Sequence[Issue],
    issue: Issue,
) -> Outcome | None:
    if fix.change in OF_TRAINING:
        return Outcome(faulty=False, faults=0, health=health(seen.layers[_positions(places)[issue.index]]))
    try:
        changed = fix.apply(network)
    except (TypeError, ValueError):  # a custom cell may have a constant of this name, or a narrower domain
        return None
    after = look(changed)
    found_after = issues(*after)
    if _worsens(places, seen, found, after, found_after):
        return None
    return _outcome(after, places, found_after, issue)


def _positions(places: Sequence[Place]) -> dict[int | str, int]:
    """Return the position of each layer in the report."""
    return {place.name: n for n, place in enumerate(places)}


def _worsens(
    places: Sequence[Place], seen: Seen, found: Sequence[Issue], after: Seen, found_after: Sequence[Issue]
) -> bool:
    """Return True if a healthy layer gets a fault, or if numbers or gradients of any layer are out of bounds."""
    for old, new in zip(seen.layers, after.layers, strict=True):
        if (old.finite and not new.finite) or _grows(new) > max(GROWTH, MUCH * _grows(old)):
            return True
    silent = {n for n, layer in enumerate(seen.layers) if is_silent(layer)}
    new = {v.index for v in found_after if v.kind in OF_LAYERS} - {v.index for v in found}
    # faults above a silent layer do not count, because no spikes arrived there before
    return any(place.name in new and not silent & place.below for place in places)


def _grows(layer: LayerReport) -> float:
    return max(growth(layer), growth_through(layer) / max(layer.gain or 0.0, 1.0))


def _helps(before: Outcome, after: Outcome) -> bool:
    return not after.faulty or (after.health > BETTER * before.health and after.faults <= before.faults)


def _outcome(seen: Seen, places: Sequence[Place], found: Sequence[Issue], issue: Issue) -> Outcome:
    """Return the outcome for one issue.

    The gradient comes from the layers above, so its growth needs healthy layers above. Activity needs healthy layers
    below.
    """
    at = _positions(places)
    mine, others = at[issue.index], [at[other.index] for other in found]
    if issue.kind == "explodes":
        faulty = any(mine in places[n].below for n in others)
    else:
        faulty = any(n in places[mine].below for n in others)
    return Outcome(faulty, len(found), health(seen.layers[mine]))


def health(layer: LayerReport) -> float:
    """Return the fraction of neurons that sometimes fire, times the mean slope over its peak, up to ``ENOUGH``."""
    if not (layer.fires and layer.finite):
        return 0.0
    return max(1 - layer.silent - layer.always, 0.0) * min(layer.slope or 0.0, ENOUGH)
