"""From the numbers of the layers to what is wrong with them, in words, and to what helps.

Each rule is a function of a few numbers, whose bounds stand first. A rule looks at what a layer does by itself, so that
the layer is named in which the fault lies and not one that suffers from it. ``docs/diagnose.md`` has what each fix
gained in networks that were broken on purpose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from ._fixes import Fix, is_idle
from ._look import MANY, NetworkReport
from ._numbers import SMALL, LayerReport, norm_of_sources
from ._proposals import Case, against_activity, against_growth, fit_slope, larger_units, rounded, to_scale
from ._recorder import PARTS

SILENT, QUIET, FAINT = 0.95, 0.9, 0.02
"""A layer is silent if none of its neurons fires. It is also silent if this share of them never fires, or the
second share of the examples makes none of them fire, and the mean slope, over its peak, is below the last bound: sparse
networks learn while a few neurons fire."""
FAR, ALWAYS, BUSY, AT_REST = 35.0, 0.5, 0.8, 0.5
"""Bounds of a saturated layer: distance of the potentials in thresholds, share of the neurons that always fire, share
of the steps with a spike, and share of the neurons that fire at rest."""
DRIVEN = 4.0
"""A layer is also saturated if its potentials are this many times as far from the threshold as currents drive them:
then its own spikes do, through an adaptation or a reset. The ratio is 0.2 to 1.3 in healthy layers of every cell."""
REACHED, NARROW, SPARSE = 0.02, 1e-3, 0.01
"""A slope is out of reach if it reaches a smaller share of the potentials. It also is if its mean over its peak is
below the second bound, although neurons fire at the third: then it is too narrow, however long its tails are."""
GROWTH = 17.0
"""The gradient explodes if it grows by so much within a layer: back over steps, or from outputs to currents
unless the neurons' memory adds up as much. In networks that learn it hardly grows."""
ARRIVES = 1e-3
"""It vanishes if so little of it arrives at the steps in which the examples differ."""
UPDATE, GOOD_UPDATE, LEAST_UPDATE = 2.5, 0.1, 1e-4
"""A first update overshoots if it is so many times the weights of a layer and raises the loss. Without a loss, it
overshoots if it is as large in each layer: weights that begin small change by more than their size.
In networks that learn, Adam's first update is about a tenth. It stalls if weights need 10,000 such updates."""
SLOWED, SLOW_UPDATE = 10.0, 3e-4
"""An update also stalls if it is below the second bound, and would be this many times as large without the epsilon of
the optimizer."""
SHRUNK, MORE = 0.01, 3.0
"""Weight decay is too large if an update takes away this part of a weight, and this many times what its gradient
changes. Whatever the gradient is, the weight then shrinks below a third. Usual weight decays take less than 1/1000."""
SAFE, LOWERED = 0.3, 0.1
"""The part of the best first update that later updates bear. The learning rate becomes at most so much smaller, if
only some layers are overshot: the others must still learn."""
COARSE = 0.25
"""Error of the slopes from which on 8 bits are too few."""


@dataclasses.dataclass(frozen=True)
class Issue:
    """What is wrong with a layer, and what helps. Its text says both in words."""

    kind: str
    """``"not finite"``, ``"silent"``, ``"alike"``, ``"saturated"``, ``"out of reach"``, ``"explodes"``, ``"vanishes"``,
    ``"overshoots"``, ``"stalls"``, ``"shrinks"``, ``"too few bits"`` or ``"cut off"``."""
    index: int | str
    """Index into ``network.layers``: a position in a list, counted from 0, or a name. The words count from 1."""
    description: str
    """What was found, in words."""
    fixes: tuple[Fix, ...] = ()
    """The best first."""

    @property
    def fix(self) -> Fix | None:
        """The best of the fixes; None if the numbers tell none."""
        return self.fixes[0] if self.fixes else None

    def __str__(self) -> str:
        return f"{self.description}: {', or '.join(map(str, self.fixes))}" if self.fixes else self.description


def issues(layers: Sequence[LayerReport], network: NetworkReport) -> tuple[Issue, ...]:
    """Return the faults, from the inputs on, without the consequences of other faults."""
    cases = [Case(n, layers, network) for n in range(len(layers))]
    broken = next((case for case in cases if not case.layer.finite), None)
    if broken:
        return (_issue(broken, "not finite", "has potentials that are NaN or infinite"),)
    found: list[Issue | None] = []
    ends: set[int] = set()
    for case in cases:
        if ends & case.place.below:
            continue
        if is_silent(case.layer):  # no spike reaches the layers above, and no learning rate changes that
            found.append(_silent(case))
            ends.add(case.index)
            continue
        if case.layer.fires and case.layer.alike:
            found.append(_alike(case))
            ends.add(case.index)
            continue
        found += [_saturated(case) or _out_of_reach(case) or _explodes(case), _too_few_bits(case)]
    found = [issue for issue in found if issue and not _follows(issue, cases, found)]
    # A gradient comes from the loss. Layers that it reaches later cannot learn from one that has exploded.
    growing = [issue for issue in found if issue and issue.kind == "explodes"]
    found = [growing.pop() if issue and issue.kind == "explodes" else issue for issue in found]
    if not any(is_silent(layer) for layer in layers):
        found.append(_shrinks(cases) or _overshoots(cases))
    if not any(found):  # a gradient that vanishes makes small updates
        found.append(_not_finite(cases) or _vanishes(cases) or _stalls(cases) or _cut_off(cases))
    return tuple(filter(None, found))


def is_silent(layer: LayerReport) -> bool:
    """If True, a layer of spiking neurons passes too few spikes to learn from."""
    few = layer.silent >= SILENT or layer.quiet >= QUIET
    return layer.fires and (layer.silent == 1 or (few and (layer.slope or 0) < FAINT))


def _issue(case: Case, kind: str, description: str, fixes: Iterable[Fix] = ()) -> Issue:
    return Issue(kind, case.place.name, f"{case.layer.name} {description}", tuple(r for r in fixes if not is_idle(r)))


# --- rules: what a layer does wrong by itself, the first that applies ------------------------------------------------


def _silent(case: Case) -> Issue:
    layer = case.layer
    if layer.drive == 0:
        inputs = case.network.inputs.get(case.index)
        of = "inputs" if inputs is not None and inputs.largest == 0 else "currents"
        return _issue(case, "silent", f"is silent: its {of} are zero")
    share = f"{_percent(layer.silent)} of its neurons never fire"
    if layer.quiet > layer.silent:
        share = f"none of its neurons fires in {_percent(layer.quiet)} of the examples"
    description = f"is silent: {share}; {_where(layer)}"
    return _issue(case, "silent", description, against_activity(case))


def _alike(case: Case) -> Issue:
    description = "has neurons that are alike, in potentials and gradients, and stay so: draw its weights at random"
    return _issue(case, "alike", description)


def _saturated(case: Case) -> Issue | None:
    layer = case.layer
    scale = layer.scale or 0.0
    far = scale > 0 and layer.off >= FAR * scale
    driven = _driven(case)
    at_rest = scale > 0 and (layer.at_rest or 0) > AT_REST and hasattr(case.cell, "threshold")
    if not (layer.fires and (far or driven >= DRIVEN or at_rest or layer.always >= ALWAYS or layer.firing >= BUSY)):
        return None
    description = f"is saturated: it fires at {layer.rate:.2g} per step; {_where(layer)}"
    if driven >= DRIVEN:
        description += f", {driven:.2g} times as far as its currents drive them"
    if at_rest:
        description += f", and {_percent(layer.at_rest or 0)} of its neurons fire at rest"
    return _issue(case, "saturated", description, against_activity(case))


def _driven(case: Case) -> float:
    """The distance of the potentials from the threshold, in units of the distance that the currents explain.

    Without a spike, the potentials are ``free`` away from rest, and the threshold ``scale``. Feedback adds to the
    currents from below.
    """
    layer = case.layer
    if not layer.drive or not layer.free or not math.isfinite(layer.free):
        return 0.0
    return layer.off / math.hypot(layer.scale or 0.0, layer.free * (1 + case.feedback))


def _out_of_reach(case: Case) -> Issue | None:
    layer = case.layer
    far = layer.reached is not None and layer.reached < REACHED
    beside = layer.peak and abs(layer.at_threshold or 0.0) < SMALL * abs(layer.peak)
    if not (far or beside or (layer.slope is not None and layer.slope < NARROW and layer.rate >= SPARSE)):
        return None
    reached = f"reaches {_percent(layer.reached or 0)} of its potentials"
    its_slope = (
        "is 0 at the threshold"
        if beside and not far
        else reached
        if far
        else f"has {_percent(layer.slope or 0)} of its peak on average"
    )
    description = (
        f"passes no gradient: it fires at {layer.rate:.2g} per step, but its slope {its_slope}; {_where(layer)}"
    )
    return _issue(case, "out of reach", description, [*fit_slope(case, "fit its slope to them"), *to_scale(case)])


def _explodes(case: Case) -> Issue | None:
    layer = case.layer
    over_steps, through = growth(layer), growth_through(layer)
    found = []
    if over_steps >= GROWTH:
        found.append(f"{over_steps:.2g} times from the last step back")
    if through >= max(GROWTH, layer.gain or 0.0):
        found.append(f"{through:.2g} times from its outputs to its currents")
    if not found:
        return None
    description = f"makes the gradient explode: it grows {' and '.join(found)}; {_peak(layer)}"
    return _issue(case, "explodes", description, against_growth(case))


def _follows(issue: Issue, cases: Sequence[Case], found: Sequence[Issue | None]) -> bool:
    """If True, the gradient grows in a loop, and another layer of the loop has the cause."""
    at = {case.place.name: case for case in cases}
    case = at[issue.index]
    others = [
        other for other in found if other and other.index != issue.index and case.shares_loop_with(at[other.index])
    ]
    if issue.kind != "explodes" or not others:
        return False
    return any(other.kind != "explodes" or at[other.index].feedback > case.feedback for other in others)


# --- rules beside these -----------------------------------------------------------------------------------------------


def _too_few_bits(case: Case) -> Issue | None:
    layer = case.layer
    if case.network.mode != "8-bit" or (layer.eight_bit_error or 0) < COARSE:
        return None
    description = (
        f"has too few bits: its slopes are off by {_percent(layer.eight_bit_error or 0)}, and "
        f"{_percent(layer.eight_bit_lost or 0)} of its distances to the threshold are too small for 8 bits"
    )
    return _issue(case, "too few bits", description, [case.fix("mode", "half", 'take mode="half"')])


def _overshoots(cases: Sequence[Case]) -> Issue | None:
    sizes = [case.layer.update for case in cases if case.layer.update is not None]
    case, largest = _most_updated(cases)
    loss, after = case.network.loss, np.array(case.network.losses_after)
    if not sizes or not math.isfinite(largest):
        return None
    all_large = min(sizes) >= UPDATE
    if loss is None or not len(after):
        overshot, factor = all_large, GOOD_UPDATE / largest if largest else 1.0
    else:
        after = np.where(np.isfinite(after), after, np.inf)
        overshot = math.isfinite(loss) and after[0] > loss and largest >= UPDATE
        factor = SAFE * PARTS[int(np.argmin(after))] if all_large else LOWERED
        factor = factor if after.min() < loss else 1.0
    finding = f"is overshot: the first update is {largest:.3g} times its weights"
    fixes = [*([] if all_large else larger_units(cases, GOOD_UPDATE)), *_learning_rate(case, factor)]
    return _issue(case, "overshoots", finding, fixes) if overshot else None


def _learning_rate(case: Case, factor: float) -> list[Fix]:
    factor = rounded(factor)
    return [case.fix("learning rate", factor, f"multiply the learning rate by {factor:g}")]


def _stalls(cases: Sequence[Case]) -> Issue | None:
    """An update that hardly changes the weights. One of 0 may be the first of a schedule that rises."""
    case, largest = _most_updated(cases)
    if largest == 0 and case.network.idle_updates >= MANY:
        description = f"does not move, nor do the others: the first {MANY} updates are 0 for gradients that are not"
        return _issue(case, "stalls", f"{description}. Look for a factor or a mask of 0 in the optimizer")
    without = case.layer.update_without_epsilon or 0.0
    slowed = without >= max(SLOWED * largest, SLOW_UPDATE) and math.isfinite(without)
    if not 0 < largest < (SLOW_UPDATE if slowed else LEAST_UPDATE):
        return None
    description = f"hardly moves: the first update is {largest:.3g} times its weights"
    fixes = []
    if slowed:
        description += (
            f", and {without:.3g} times with an optimizer's epsilon (`eps`) that is small beside its gradient"
        )
        factor = rounded(GOOD_UPDATE * largest / without)
        fixes = [case.fix("epsilon", factor, f"multiply the epsilon by {factor:g}")]
    return _issue(case, "stalls", description, [*fixes, *_learning_rate(case, GOOD_UPDATE / largest)])


def _shrinks(cases: Sequence[Case]) -> Issue | None:
    """Weight decay that takes away weights faster than gradients change them."""
    found = [
        (layer.decays[weight] / size, weight, case)
        for case in cases
        for layer in (case.layer,)
        for weight, size in layer.weights.items()
        if weight in layer.decays and size and layer.decays[weight] >= MORE * layer.learned[weight]
    ]
    part, weight, case = max(found, key=lambda one: one[0], default=(0.0, "", cases[0]))
    if not part >= SHRUNK:
        return None
    learned = case.layer.learned[weight] / case.layer.weights[weight]
    description = (
        f"is shrunk: weight decay takes away {_percent(part)} of its {weight} in one update, and the gradient changes "
        f"{_percent(learned)}"
    )
    factor = rounded(LEAST_UPDATE / part)
    return _issue(
        case, "shrinks", description, [case.fix("weight decay", factor, f"multiply the weight decay by {factor:g}")]
    )


def _most_updated(cases: Sequence[Case]) -> tuple[Case, float]:
    updates = [case.layer.update or 0.0 for case in cases]
    return cases[int(np.argmax(updates))], max(updates)


def _vanishes(cases: Sequence[Case]) -> Issue | None:
    """Whether what comes from where the loss looks arrives where the examples differ."""
    network = cases[0].network
    gradients = [np.array(case.layer.by_step) for case in cases if case.place.enters]
    differ, reads = np.array(network.differ), np.array(network.reads)
    if not all(of_steps.any() and np.isfinite(of_steps).all() for of_steps in (*gradients, differ, reads)):
        return None
    lasts = [case for case in cases if case.place.leaves]
    # If their weights get no gradient, nothing enters them in the steps that the loss reads.
    idle = all(norm_of_sources(case.layer.weight_gradients) == 0 for case in lasts)
    arrive = [float((gradient / gradient.max()) @ (differ / differ.sum())) for gradient in gradients]
    arrives = 0.0 if idle else max(arrive, default=0.0)
    leaky = [
        (float(np.mean(np.asarray(case.cell.decay, float))), case) for case in cases if hasattr(case.cell, "decay")
    ]
    if arrives >= ARRIVES or not leaky:
        return None
    time = np.arange(len(differ))
    lag = float(time @ reads / reads.sum() - time @ differ / differ.sum())
    blind = idle or all(any(b < ARRIVES * a for a, b in pairwise(case.layer.by_lag[:2])) for case in lasts)
    decay, case = max(leaky, key=lambda pair: (blind and pair[1].place.leaves, pair[0], pair[1].index))
    better = rounded(math.exp(-1 / max(lag, 1.0)), 3)
    description = (
        f"forgets: the inputs differ {lag:.0f} steps before the loss looks at the outputs, where {arrives:.1e} of the "
        f"gradient arrives, and {'it keeps' if blind else 'no layer keeps more than its'} {decay:.2g} per step"
    )
    text = f"raise its decay to {better:g} (`decay={better:g}`, a time constant of {lag:.0f} steps)"
    return _issue(case, "vanishes", description, [case.fix("decay", better, text)])


def _not_finite(cases: Sequence[Case]) -> Issue | None:
    """Where no layer makes it so, it comes of the loss: the logarithm of 0 is the usual cause."""
    for case in reversed(cases):
        if not math.isfinite(case.layer.current_gradient or 0.0):
            return _issue(case, "not finite", "gets a gradient of the loss that is NaN or infinite")
    return None


def _cut_off(cases: Sequence[Case]) -> Issue | None:
    """A layer without a gradient, unless only zero weights above it hold the gradient back, which an update changes."""
    for case in reversed(cases):
        if case.layer.no_gradient == 1:
            description = "gets no gradient of the loss"
            if all(cases[n].layer.no_gradient == 1 for n in case.place.below):
                description += ", nor do the layers below"
            held = any(cases[n].layer.weights.get(weight) == 0 for n, weight in case.place.readers)
            return None if held else _issue(case, "cut off", description)
    return None


# --- numbers and words ------------------------------------------------------------------------------------------------


def growth(layer: LayerReport) -> float:
    """By how much the gradient grows at most, from any lag to a longer one. What is not finite has grown."""
    sizes = np.array([size for size in layer.by_lag if size != 0])
    sizes = np.where(np.isfinite(sizes), sizes, np.inf)
    if not len(sizes) or sizes[0] == np.inf:
        return 1.0
    return float(np.max(sizes / np.minimum.accumulate(sizes)))


def growth_through(layer: LayerReport) -> float:
    """How much larger the gradient is in the currents than in the outputs."""
    inner, outer = layer.current_gradient, layer.output_gradient
    return inner / outer if layer.fires and inner and outer and math.isfinite(outer) else 1.0


def _where(layer: LayerReport) -> str:
    known = layer.half_width and not math.isnan(layer.half_width)
    width = f", the slope's half-width is {layer.half_width:.2g}" if known else ""
    origin = "" if layer.scale is None else " from the threshold"
    return f"its potentials are at {layer.mean:.2g} ± {layer.std:.2g}{origin}{width}"


def _peak(layer: LayerReport) -> str:
    return "its slope is unknown" if layer.peak is None else f"the slope's peak is {layer.peak:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
