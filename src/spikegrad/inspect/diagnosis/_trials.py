"""Trials of fixes: run the network with each fix and drop useless fixes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...network import Network
from ...neurons import linear_response
from ._fixes import OF_TRAINING, Fix
from ._issues import GROWTH, HELD, Issue, growth, growth_through, is_silent, issues, slow, suspects
from ._look import Look, Seen, Trained
from ._numbers import LayerReport
from ._places import Place
from ._proposals import Case, together

BETTER, NEARLY = 1.5, 0.1
"""A fix that does not end a fault helps if the health of the layer grows by the first factor. A fix comes last if the
health after it is below the second factor times the best health."""
ENOUGH = 0.1
"""A mean slope that passes gradients. Larger slopes do not add to the health, because a tiny threshold brings all
potentials to the peak."""


OF_LAYERS = "silent", "saturated", "out of reach", "explodes"
"""Faults of a single layer."""
OF_UPDATES = "ascends", "overshoots", "stalls", "shrinks"
"""Faults of the optimizer, which the fix of a layer does not have to end."""
OF_LEARNING = *OF_UPDATES, "explodes", "out of reach", "vanishes"
"""Faults that hinder the learning and nothing else, so a network that learns does not have them."""
BACKWARD = "surrogate", "detach_reset"
"""Changes that do not affect the spikes, so other layers keep this fault. Only all layers together end it."""
SCALES = ("feedforward weights",), ("weights",), ("threshold",), ("threshold", "surrogate")
"""Changes of a scale. It depends on the layer below, so these changes are found for one layer after the other."""
RARE = 0.1
"""A saturated layer of a network that learns is no issue below this fraction of steps with a spike, if its potentials
are nearer than ``HELD``."""
VARIED, FALLEN = 0.05, 0.8
"""A silent layer is not an issue if its potentials vary by the first part of the threshold, and if some updates make it
fire and reduce the loss to the second part."""
LEARNED, FAILS, BETTER_LEARNED = 0.05, 0.12, 3.0
"""A network learns the given inputs if updates reduce the loss to the first part of the loss for outputs of other
examples. An unusual parameter is an issue if this part exceeds the second value, and is smaller by the third factor
with a usual one."""
TRAINED, AS_GOOD = 3, 0.8
"""The first fixes of an issue are compared by training, up to this number. A fix that reduces the loss by this part of
the largest reduction is as good as the best."""
MUCH = 3.0
"""A fix is rejected if it makes the gradient of any layer explode, and multiplies its growth by more than this."""


class Outcome(NamedTuple):
    """The state of a network for one of its layers."""

    faulty: bool
    """If True, the layer has a fault, or a layer that must be healthy first has a fault."""
    faults: int
    health: float


class Judged(NamedTuple):
    """A network with its numbers and its issues."""

    network: Network
    look: Look
    seen: Seen
    found: Sequence[Issue]

    @property
    def places(self) -> Sequence[Place]:
        return self.seen.network.places

    @property
    def at(self) -> dict[int | str, int]:
        """The position of each layer in the report."""
        return _positions(self.seen)

    def with_fix(self, fix: Fix) -> Judged:
        """Return the network after a fix.

        Raises
        ------
        TypeError, ValueError
            If a custom cell has a constant of this name, or a narrower domain.
        """
        network = fix.apply(self.network)
        seen = self.look(network)
        return Judged(network, self.look, seen, issues(*seen))


def checked(network: Network, look: Look, seen: Seen) -> tuple[Issue, ...]:
    """Return the issues of a network with the fixes that help, best first and each fix once."""
    found, result = issues(*seen), []
    if not found:
        return _slow(network, look, seen)
    trained = look.trained(network)
    if trained is not None:
        found = _without_trained(found, look, seen, trained)
    judged = Judged(network, look, seen, found)
    for issue in found:
        offered = [other for earlier in result for other in earlier.fixes]
        fixes = _ordered(judged, issue, trained)
        new = (r for r in fixes if all(dataclasses.replace(other, text=r.text) != r for other in offered))
        if fixes or issue.kind != "explodes" or not _amplifies(seen, judged.at[issue.index]):
            result.append(dataclasses.replace(issue, fixes=tuple(new)))
    return tuple(result)


def _slow(network: Network, look: Look, seen: Seen) -> tuple[Issue, ...]:
    """Return an issue for the first unusual parameter without which the network learns much more."""
    fixes = [*suspects(*seen)][:TRAINED]
    trained = look.trained(network) if fixes else None
    if trained is None or not trained.left > FAILS:
        return ()
    for fix in fixes:
        try:
            after = look.trained(fix.apply(network))
        except (TypeError, ValueError):  # two parameters may have to fit each other
            continue
        if after is not None and BETTER_LEARNED * after.left < trained.left:
            case = Case(_positions(seen)[fix.index], *seen)
            return (slow(case, trained.left, after.left, fix),)
    return ()


def _positions(seen: Seen) -> dict[int | str, int]:
    return {place.name: n for n, place in enumerate(seen.network.places)}


def _amplifies(seen: Seen, n: int) -> bool:
    """Return True for a cell that is not linear and has no feedback, as a QIF neuron. Its potential rises by itself.

    Batch normalization divides by deviations that may be small.
    """
    layer, linear = seen.layers[n], linear_response(seen.network.cells[n]) is not None
    return not layer.feedback and (not linear or (layer.fires and layer.scale is None))


def _without_trained(found: Sequence[Issue], look: Look, seen: Seen, trained: Trained) -> Sequence[Issue]:
    """Leave out issues of a network that learns, and silent layers that fire after some updates.

    The loss must have fallen by then. A wide slope passes gradients to neurons that never fire. So a silent layer may
    begin to fire if its inputs matter.
    """
    at = _positions(seen)
    if trained.left < LEARNED:
        found = [
            issue
            for issue in found
            if issue.kind not in OF_LEARNING and not _is_moderate(issue, seen.layers[at[issue.index]])
        ]
    silent = [issue.index for issue in found if issue.kind == "silent"]
    varied = [n for n in silent if seen.layers[at[n]].std >= VARIED * (seen.layers[at[n]].scale or math.inf)]
    if not varied:
        return found
    after = look(trained.network)
    loss = after.network.loss
    if loss is None or not loss < FALLEN * (seen.network.loss or 0.0):
        return found
    woken = {index for index in varied if not is_silent(after.layers[at[index]])}
    return [issue for issue in found if issue.index not in woken]


def _is_moderate(issue: Issue, layer: LayerReport) -> bool:
    """Return True for a saturated layer that fires rarely and near its threshold, by a strong adaptation."""
    return issue.kind == "saturated" and layer.firing < RARE and layer.off < HELD * (layer.scale or 0.0)


def _ordered(judged: Judged, issue: Issue, trained: Trained | None) -> list[Fix]:
    """Return the fixes that help, best first. If some fixes end the fault, return only these."""
    before = _outcome(judged, issue)
    tried = [(fix, _outcome_with(fix, judged, issue)) for fix in _proposed(issue, judged)]
    tried = [
        _upwards(fix, after, judged)
        if after and not after.faulty and after.faults and _kind(fix) in SCALES
        else (fix, after)
        for fix, after in tried
    ]
    helpful = [(fix, after) for fix, after in tried if after is not None and _helps(before, after)]
    ending = [(fix, after) for fix, after in helpful if not after.faulty] or helpful
    best = max((after.health for _, after in ending), default=0.0)
    ending.sort(key=lambda pair: (pair[1].health < NEARLY * best, pair[1].faults))
    fixes = [fix for fix, _ in ending]
    return fixes if trained is None else _by_training(judged, fixes, trained)


def _by_training(judged: Judged, fixes: list[Fix], trained: Trained) -> list[Fix]:
    """Move the first fixes to the end if others, in training, reduce the loss much more."""
    first, others = fixes[:TRAINED], fixes[TRAINED:]
    if len(first) < 2 or any(fix.change in OF_TRAINING for fix in first):
        return fixes
    runs = [judged.look.trained(fix.apply(judged.network)) for fix in first]
    gains = [-math.inf if run is None or math.isnan(run.loss) else trained.loss - run.loss for run in runs]
    worse = [not gain >= AS_GOOD * max(gains) for gain in gains]
    return [fix for _, fix in sorted(zip(worse, first, strict=True), key=lambda pair: pair[0])] + others


def _proposed(issue: Issue, judged: Judged) -> Iterator[Fix]:
    """Yield the fixes of an issue. After the first fix of a kind, yield this kind in all its layers as one fix."""
    for fix in issue.fixes:
        firsts = [next((r for r in other.fixes if _kind(r) == _kind(fix)), None) for other in judged.found]
        shared = [first for first in firsts if first is not None]
        several = len({one.index for one in shared}) > 1 and fix.change not in OF_TRAINING and _kind(fix) not in SCALES
        if not several or fix.change not in BACKWARD:
            yield fix
        if several and shared[0] is fix:
            yield together(shared, judged.places)


def _upwards(fix: Fix, after: Outcome, judged: Judged) -> tuple[Fix, Outcome]:
    """Add fixes of the same kind for layers above that still have a fault, if all layers are healthy then."""
    parts, last = [fix], after
    while last.faults:
        judged = judged.with_fix(parts[-1])
        next_issue = judged.found[0]
        new = next((other for other in next_issue.fixes if _kind(other) == _kind(fix)), None)
        if new is None or new.index in {part.index for part in parts}:
            return fix, after
        outcome = _outcome_with(new, judged, next_issue)
        if outcome is None:
            return fix, after
        parts, last = [*parts, new], outcome
    return together(parts, judged.places), after._replace(faults=0)


def _kind(fix: Fix) -> tuple[str, ...]:
    return fix.change, *(other.change for other in fix.others)


def _outcome_with(fix: Fix, judged: Judged, issue: Issue) -> Outcome | None:
    """Return the outcome for one issue after a fix, or None if the fix cannot be applied or harms."""
    if fix.change in OF_TRAINING:
        return Outcome(faulty=False, faults=0, health=health(judged.seen.layers[judged.at[issue.index]]))
    try:
        after = judged.with_fix(fix)
    except (TypeError, ValueError):
        return None
    # Neurons that begin to fire may begin to amplify gradients.
    exploded = {other.index for other in judged.found if other.kind == "explodes"}
    found = [
        other
        for other in after.found
        if other.kind != "explodes" or other.index in exploded or not _amplifies(after.seen, after.at[other.index])
    ]
    after = after._replace(found=found)
    return None if _worsens(judged, after) else _outcome(after, issue)


def _worsens(before: Judged, after: Judged) -> bool:
    """Return True if a healthy layer gets a fault, or if numbers or gradients of any layer are out of bounds."""
    for n, (old, new) in enumerate(zip(before.seen.layers, after.seen.layers, strict=True)):
        grows = _grows(new) > max(GROWTH, MUCH * _grows(old)) and not _amplifies(after.seen, n)
        if (old.finite and not new.finite) or grows:
            return True
    silent = {n for n, layer in enumerate(before.seen.layers) if is_silent(layer)}
    new = {other.index for other in after.found if other.kind in OF_LAYERS} - {other.index for other in before.found}
    # faults above a silent layer do not count, because no spikes arrived there before
    return any(place.name in new and not silent & place.below for place in before.places)


def _grows(layer: LayerReport) -> float:
    return max(growth(layer), growth_through(layer) / max(layer.gain or 0.0, 1.0))


def _helps(before: Outcome, after: Outcome) -> bool:
    return not after.faulty or (after.health > BETTER * before.health and after.faults <= before.faults)


def _outcome(judged: Judged, issue: Issue) -> Outcome:
    """Return the outcome for one issue.

    The gradient comes from the layers above, so its growth needs healthy layers above. Activity needs healthy layers
    below.
    """
    at, places = judged.at, judged.places
    mine = at[issue.index]
    others = [at[other.index] for other in judged.found if other.kind not in OF_UPDATES or other.kind == issue.kind]
    if issue.kind == "explodes":
        faulty = any(mine in places[n].below for n in others)
    else:
        faulty = any(n in places[mine].below for n in others)
    return Outcome(faulty, len(judged.found), health(judged.seen.layers[mine]))


def health(layer: LayerReport) -> float:
    """Return the fraction of neurons that sometimes fire, times the mean slope over its peak, up to ``ENOUGH``."""
    if not (layer.fires and layer.finite):
        return 0.0
    return max(1 - layer.silent - layer.always, 0.0) * min(layer.slope or 0.0, ENOUGH)
