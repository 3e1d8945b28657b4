"""Trials of fixes: run the network with each fix and drop useless fixes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...network import Network
from ...neurons import linear_response
from ._fixes import OF_TRAINING, Fix
from ._issues import (
    GROWTH,
    HELD,
    SLOWER,
    Issue,
    growth,
    growth_through,
    is_silent,
    issues,
    slow,
    suspects,
)
from ._look import Look, Seen, Trained
from ._numbers import LayerReport
from ._places import Place
from ._proposals import Case, together

BETTER, NEARLY = 1.5, 0.1
"""A fix that does not end a fault helps if the health of the layer grows by the first factor.

A fix comes last if the
health after it is below the second factor times the best health."""
ENOUGH = 0.1
"""A mean slope that passes gradients.

Larger slopes do not add to the health, because a tiny threshold brings all
potentials to the peak."""


OF_LAYERS = "silent", "saturated", "out of reach", "explodes"
"""Faults of a single layer."""
OF_UPDATES = "ascends", "overshoots", "stalls", "shrinks"
"""Faults of the optimizer, which the fix of a layer does not have to end."""
OF_LEARNING = *OF_UPDATES, "explodes", "out of reach", "vanishes"
"""Faults that hinder the learning and nothing else, so a network that learns does not have them."""
BACKWARD = "surrogate", "detach_reset"
"""Changes that do not affect the spikes, so other layers keep this fault.

Only all layers together end it.
"""
SCALES = ("feedforward weights",), ("weights",), ("threshold",), ("threshold", "surrogate")
"""Changes of a scale.

It depends on the layer below, so these changes are found for one layer after the other.
"""
RARE = 0.1
"""A saturated layer of a network that learns is no issue below this fraction of steps with a spike,
if its potentials
are nearer than ``HELD``."""
VARIED, FALLEN = 0.05, 0.8
"""A silent layer is not an issue if its potentials vary by the first part of the threshold, and if
some updates make it
fire and reduce the loss to the second part."""
LEARNED, FAILS, HARDLY = 0.1, 0.3, 0.9
"""A network learns the given inputs if updates leave less than the first part of the loss.

It fails if they leave more
than the second part. Only then the learning rate may be to blame, and one that is ten times too low
only if they leave
more than the third part."""
GENERALIZES, PERFECT = 0.45, 0.95
"""A network learns for other examples too if it has learned the first part of them.

Its saturated layers do no harm if
it has learned the second part."""
LEAST_ADDED, MOST_ADDED, FITS = 0.1, 0.2, 1 / 3
"""A fix lets a network learn much more if it adds half of what is missing.

This part has the first two bounds. If the
network fails, the fix may add less, but must reduce the loss that is left to the third part."""
TRAINED, SUSPECTED, AS_GOOD = 3, 12, 0.2
"""The first fixes of an issue are compared by training, up to the first number, and unusual
parameters up to the second
one. A fix is as good as the best if the network learns less with it, but not by more than the third
value, and at
least half as much."""
MUCH = 3.0
"""A fix is rejected if it makes the gradient of any layer explode, and multiplies its growth by
more than this.
"""


class Outcome(NamedTuple):
    """The state of a network for one of its layers."""

    faulty: bool
    """If True, the layer has a fault, or a layer that must be healthy first has a fault."""
    faults: int
    health: float


@dataclasses.dataclass(frozen=True)
class Judged:
    """A network with its numbers and its issues."""

    network: Network
    look: Look
    seen: Seen
    found: Sequence[Issue]
    runs: list[tuple[Fix, Trained | None]] = dataclasses.field(default_factory=list)
    """The fixes that the network was trained with. Several issues may share a fix."""

    @property
    def places(self) -> Sequence[Place]:
        return self.seen.network.places

    @property
    def at(self) -> dict[int | str, int]:
        """The position of each layer in the report."""
        return {place.name: n for n, place in enumerate(self.places)}

    def trained(self, fix: Fix) -> Trained | None:
        """Train the network with a fix, once. Return None if that is not possible."""
        for other, run in self.runs:
            if _same(other, fix):
                return run
        self.runs.append((fix, self._trained(fix)))
        return self.runs[-1][1]

    def _trained(self, fix: Fix) -> Trained | None:
        if fix.change in ("learning rate", "epsilon"):
            return self.look.trained(self.network, fix)
        try:
            return None if fix.change in OF_TRAINING else self.look.trained(fix.apply(self.network))
        except (TypeError, ValueError):  # two parameters may have to fit each other
            return None

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
    judged, result = Judged(network, look, seen, issues(*seen)), []
    if not judged.found:
        return _slow(judged)
    trained = look.trained(network)
    if trained is not None:
        judged = dataclasses.replace(judged, found=_without_trained(judged, trained))
    for issue in judged.found:
        offered = [other for earlier in result for other in earlier.fixes]
        fixes = _ordered(judged, issue, trained)
        new = (fix for fix in fixes if not any(_same(fix, other) for other in offered))
        if fixes or issue.kind != "explodes" or not _amplifies(seen, judged.at[issue.index]):
            result.append(dataclasses.replace(issue, fixes=tuple(new)))
    return tuple(result)


def _slow(judged: Judged) -> tuple[Issue, ...]:
    """Return an issue for the unusual parameter without which the network learns much more."""
    trained = judged.look.trained(judged.network)
    if trained is None or not trained.learned < GENERALIZES:
        return ()
    fixes = [fix for fix in suspects(*judged.seen) if _may_help(fix, trained)]
    runs = [(fix, judged.trained(fix)) for fix in fixes[:SUSPECTED]]
    better = [(fix, run) for fix, run in runs if run is not None and _learns_more(run, trained)]
    best = max((run.learned for _, run in better), default=0.0)
    for first, run in better:
        if _is_as_good(run.learned, best):
            same = [
                pair
                for pair in better
                if (pair[0].change, pair[0].index) == (first.change, first.index)
            ]
            fix, after = max(same, key=lambda pair: pair[1].learned)
            case = Case(judged.at[fix.index], *judged.seen)
            return (slow(case, trained.learned, after.learned, fix),)
    return ()


def _may_help(fix: Fix, trained: Trained) -> bool:
    slower = fix.change == "learning rate" and fix.value == SLOWER
    return fix.change not in OF_TRAINING or trained.left > (HARDLY if slower else FAILS)


def _learns_more(after: Trained, before: Trained) -> bool:
    fits = before.left > FAILS and after.left < FITS * before.left
    much = max(LEAST_ADDED, min(MOST_ADDED, (1 - before.learned) / 2))
    return after.learned > before.learned + (0.0 if fits else much)


def _amplifies(seen: Seen, n: int) -> bool:
    """Return True for a cell that is not linear and has no feedback, as a QIF neuron.

    Its potential rises by itself.

    Batch normalization divides by deviations that may be small.
    """
    layer, linear = seen.layers[n], linear_response(seen.network.cells[n]) is not None
    return not layer.feedback and (not linear or (layer.fires and layer.scale is None))


def _without_trained(judged: Judged, trained: Trained) -> Sequence[Issue]:
    """Leave out issues of a network that learns, unless a fix lets it learn much more, and silent
    layers that wake up.

    A network may know these examples by heart, because its last layer learns even if the others
    cannot. A wide slope passes gradients to neurons that never fire. So a silent layer may begin to
    fire if its inputs matter. The loss must have fallen by then.
    """
    seen, at = judged.seen, judged.at
    found = [issue for issue in judged.found if not _is_idle(issue, judged, trained)]
    silent = [issue.index for issue in found if issue.kind == "silent"]
    varied = [
        n
        for n in silent
        if seen.layers[at[n]].std >= VARIED * (seen.layers[at[n]].scale or math.inf)
    ]
    if not varied:
        return found
    after = judged.look(trained.network)
    loss = after.network.loss
    if loss is None or not loss < FALLEN * (seen.network.loss or 0.0):
        return found
    woken = {index for index in varied if not is_silent(after.layers[at[index]])}
    return [issue for issue in found if issue.index not in woken]


def _is_idle(issue: Issue, judged: Judged, trained: Trained) -> bool:
    """Return True for an issue that does not hinder the learning."""
    layer = judged.seen.layers[judged.at[issue.index]]
    moderate = layer.firing < RARE and layer.off < HELD * (
        layer.scale or 0.0
    )  # by a strong adaptation
    saturated = issue.kind == "saturated" and (moderate or trained.learned > PERFECT)
    if not trained.left < LEARNED or not (saturated or issue.kind in OF_LEARNING):
        return False
    first = next(iter(_ordered(judged, issue, trained)), None)
    better = judged.trained(first) if first else None
    return better is None or not _learns_more(better, trained)


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
    return _distinct(_by_training(judged, fixes) if trained else fixes)


def _distinct(fixes: list[Fix]) -> list[Fix]:
    """Keep the best factor of each scale."""
    best: dict[Any, Fix] = {}
    for n, fix in enumerate(fixes):
        best.setdefault(
            (fix.index, _kind(fix)) if _kind(fix) in SCALES and isinstance(fix.value, float) else n,
            fix,
        )
    return [*best.values()]


def _by_training(judged: Judged, fixes: list[Fix]) -> list[Fix]:
    """Move the first fixes to the end if the network learns much more with others."""
    first, others = fixes[:TRAINED], fixes[TRAINED:]
    if len(first) < 2 or any(fix.change in OF_TRAINING for fix in first):
        return fixes
    runs = [judged.trained(fix) for fix in first]
    learned = [-math.inf if run is None or math.isnan(run.learned) else run.learned for run in runs]
    worse = [not _is_as_good(part, max(learned)) for part in learned]
    return [
        fix for _, fix in sorted(zip(worse, first, strict=True), key=lambda pair: pair[0])
    ] + others


def _is_as_good(learned: float, best: float) -> bool:
    return learned >= max(best - AS_GOOD, best / 2)


def _proposed(issue: Issue, judged: Judged) -> Iterator[Fix]:
    """Yield the fixes of an issue.

    After the first fix of a kind, yield this kind in all its layers as one fix.
    """
    for fix in issue.fixes:
        firsts = [
            next((r for r in other.fixes if _kind(r) == _kind(fix)), None) for other in judged.found
        ]
        shared = [first for first in firsts if first is not None]
        several = (
            len({one.index for one in shared}) > 1
            and fix.change not in OF_TRAINING
            and _kind(fix) not in SCALES
        )
        if not several or fix.change not in BACKWARD:
            yield fix
        if several and shared[0] is fix:
            yield together(shared, judged.places)


def _upwards(fix: Fix, after: Outcome, judged: Judged) -> tuple[Fix, Outcome]:
    """Add fixes of the same kind for layers above that still have a fault, if all layers are
    healthy then.
    """
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


def _same(one: Fix, other: Fix) -> bool:
    return dataclasses.replace(one, text=other.text) == other


def _kind(fix: Fix) -> tuple[str, ...]:
    return fix.change, *(other.change for other in fix.others)


def _outcome_with(fix: Fix, judged: Judged, issue: Issue) -> Outcome | None:
    """Return the outcome for one issue after a fix, or None if the fix cannot be applied or
    harms."""
    if fix.change in OF_TRAINING:
        return Outcome(
            faulty=False, faults=0, health=health(judged.seen.layers[judged.at[issue.index]])
        )
    try:
        after = judged.with_fix(fix)
    except (TypeError, ValueError):
        return None
    # Neurons that begin to fire may begin to amplify gradients.
    exploded = {other.index for other in judged.found if other.kind == "explodes"}
    found = [
        other
        for other in after.found
        if other.kind != "explodes"
        or other.index in exploded
        or not _amplifies(after.seen, after.at[other.index])
    ]
    after = dataclasses.replace(after, found=found)
    return None if _worsens(judged, after) else _outcome(after, issue)


def _worsens(before: Judged, after: Judged) -> bool:
    """Return True if a healthy layer gets a fault, or if numbers or gradients of any layer are out
    of bounds.
    """
    for n, (old, new) in enumerate(zip(before.seen.layers, after.seen.layers, strict=True)):
        grows = _grows(new) > max(GROWTH, MUCH * _grows(old)) and not _amplifies(after.seen, n)
        if (old.finite and not new.finite) or grows:
            return True
    silent = {n for n, layer in enumerate(before.seen.layers) if is_silent(layer)}
    new = {other.index for other in after.found if other.kind in OF_LAYERS} - {
        other.index for other in before.found
    }
    # faults above a silent layer do not count, because no spikes arrived there before
    return any(place.name in new and not silent & place.below for place in before.places)


def _grows(layer: LayerReport) -> float:
    return max(growth(layer), growth_through(layer) / max(layer.gain or 0.0, 1.0))


def _helps(before: Outcome, after: Outcome) -> bool:
    return not after.faulty or (
        after.health > BETTER * before.health and after.faults <= before.faults
    )


def _outcome(judged: Judged, issue: Issue) -> Outcome:
    """Return the outcome for one issue.

    The gradient comes from the layers above, so its growth needs healthy layers above. Activity
    needs healthy layers below.
    """
    at, places = judged.at, judged.places
    mine = at[issue.index]
    others = [
        at[other.index]
        for other in judged.found
        if other.kind not in OF_UPDATES or other.kind == issue.kind
    ]
    if issue.kind == "explodes":
        faulty = any(mine in places[n].below for n in others)
    else:
        faulty = any(n in places[mine].below for n in others)
    return Outcome(faulty, len(judged.found), health(judged.seen.layers[mine]))


def health(layer: LayerReport) -> float:
    """Return the fraction of neurons that sometimes fire, times the mean slope over its peak, up to
    ``ENOUGH``.
    """
    if not (layer.fires and layer.finite):
        return 0.0
    return max(1 - layer.silent - layer.always, 0.0) * min(layer.slope or 0.0, ENOUGH)
