"""Rules that derive issues and fixes from the statistics of the layers.

Each rule is a function of a few statistics. Their bounds are at the top. A rule uses only the
behavior of one layer by itself, so it names the layer with the fault instead of layers that suffer
from it. ``docs/diagnose.md`` has the gain of each fix in deliberately broken networks.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ._fixes import Fix, is_idle
from ._look import ALL, LEAST_UPDATE, MANY, NetworkReport
from ._numbers import SMALL, LayerReport, norm_of_sources
from ._proposals import (
    UNUSUAL,
    Case,
    against_activity,
    against_growth,
    against_inputs,
    against_recurrence,
    fit_slope,
    higher_slopes,
    larger_units,
    longer_memory,
    resets,
    rounded,
    smaller_weights,
    to_defaults,
    to_scale,
    unusual_scale,
    unusual_slopes,
    wider_dtype,
)
from ._recorder import PARTS

SILENT, QUIET, FAINT, STARVED = 0.95, 0.9, 0.02, 0.8
"""A layer is silent if no neuron fires, or if two fractions are reached: of neurons that never
fire, and of examples
without any spike. It is also silent if one of them is reached and the mean slope, over its peak, is
below the last bound. Sparse networks learn while a few neurons fire. But a layer below a silent
layer is silent too if the last
fraction of its neurons never fires, because it may be the cause."""
FAR, ALWAYS, BUSY, AT_REST = 35.0, 0.5, 0.8, 0.2
"""Bounds of a saturated layer: distance of the potentials in thresholds, fraction of neurons that
always fire, fraction
of steps with a spike, and fraction of neurons that fire at rest."""
HELD, CONSTANT = 10.0, 0.8
"""A layer is also saturated if its potentials are this many thresholds away, and the mean of each
neuron is this part
of its potential without spikes. In healthy layers the distance is at most 4."""
DRIVEN = 4.0
"""A layer is also saturated if its potentials are farther from the threshold than its currents
explain, by this factor.
Its own spikes then drive them, through an adaptation or a reset. The ratio is 0.2 to 1.3 in healthy
layers of every
cell."""
REACHED, NARROW, SPARSE = 0.02, 1e-3, 0.01
"""A slope is out of reach if it reaches a smaller fraction of the potentials.

It is also out of reach if its mean over
its peak is below the second bound, although neurons fire at the third. It is then too narrow, even
with long tails."""
GROWTH = 17.0
"""The gradient explodes if it grows by this factor within a layer: backward over steps, or from
outputs to currents.

In
the second case the factor must also exceed the gain of the memory, and another layer must be below.
In networks that
learn it hardly grows."""
ARRIVES, UNSEEN = 1e-3, 0.9
"""The gradient vanishes if a smaller fraction than the first reaches the steps in which the
examples differ.

It also
vanishes if it is smaller than this fraction of its largest in steps with the second part of the
differences."""
UNFED = 1e-6
"""A last layer has no input while its gradient is large, if its weight gradient is below this
fraction of it.
"""
UPDATE, GOOD_UPDATE = 2.5, 0.1
"""A first update overshoots if it exceeds the weights of a layer by the first factor and raises the
loss.

Without a
loss it must exceed the weights in every layer, because small initial weights change by more than
their size. In
networks that learn, Adam's first update is about a tenth. It stalls below ``LEAST_UPDATE``."""
SLOWER = 10.0
RATES = SLOWER, 100.0, 1000.0, 0.1, 0.01
"""Factors of the learning rate of a network that fails.

A rate that is ten times too low often only takes longer.
"""
ROUNDED = 0.85
"""An update also stalls if every layer's dtype rounds away this part of it."""
SLOWED, SLOW_UPDATE = 10.0, 3e-4
"""An update also stalls if it is below the second bound, and larger by the first factor without the
optimizer's
epsilon."""
SHRUNK, MORE = 0.01, 3.0
"""Weight decay is too large if an update changes this fraction of a weight, and this multiple of
the change by the
gradient. For every gradient the weight then shrinks below a third, or grows if the decay has the
wrong sign. Usual
weight decays change less than 1/1000."""
ASCENT = 0.1
"""The first update raises the loss if its cosine with the gradient exceeds this value."""
SAFE, LOWERED = 0.3, 0.1
"""The fraction of the best first update that is safe for later updates.

The second value limits the reduction of the
learning rate if only some layers overshoot, because the other layers must still learn."""
WEAK = 0.02
"""A slope is weak if its peak times the distance of the threshold is smaller.

It is an issue if the first update of a
layer below is smaller than ``LEAST_UPDATE``."""
COARSE = 0.25
"""The error of the slopes above which 8 bits are too few."""


@dataclasses.dataclass(frozen=True)
class Issue:
    """An issue of a layer with its fixes. ``str`` returns both as text."""

    kind: str
    """``"not finite"``, ``"silent"``, ``"alike"``, ``"saturated"``, ``"out of reach"``,
    ``"explodes"``, ``"vanishes"``,
    ``"slow"``, ``"ascends"``, ``"overshoots"``, ``"stalls"``, ``"shrinks"``, ``"too few bits"`` or
    ``"cut off"``."""
    index: int | str
    """Index into ``network.layers``: a position in a list, counted from 0, or a name.

    Texts count from 1.
    """
    description: str
    """Text of the finding."""
    fixes: tuple[Fix, ...] = ()
    """The fixes, the best first."""

    @property
    def fix(self) -> Fix | None:
        """The best fix, or None if the statistics suggest no fix."""
        return self.fixes[0] if self.fixes else None

    def __str__(self) -> str:
        return (
            f"{self.description}: {', or '.join(map(str, self.fixes))}"
            if self.fixes
            else self.description
        )


def issues(layers: Sequence[LayerReport], network: NetworkReport) -> tuple[Issue, ...]:
    """Return the issues in order from the inputs, without consequences of other issues."""
    cases = [Case(n, layers, network) for n in range(len(layers))]
    broken = next((case for case in cases if not case.layer.finite), None)
    if broken:
        fixes = [*to_defaults(broken), *against_inputs(broken), *smaller_weights(broken)]
        return (_issue(broken, "not finite", "has potentials that are NaN or infinite", fixes),)
    found: list[Issue | None] = []
    ends: set[int] = set()
    for case in cases:
        if ends & case.place.below:
            continue
        if is_silent(
            case.layer
        ):  # no spike reaches the layers above, and no learning rate changes that
            judged = {issue.index for issue in found if issue}
            below = [
                cases[n]
                for n in sorted(case.place.below - {case.index})
                if cases[n].place.name not in judged
            ]
            starved = [
                other for other in below if other.layer.fires and other.layer.silent >= STARVED
            ]
            found += map(_silent, [*starved, case])
            ends.add(case.index)
            continue
        if case.layer.fires and case.layer.alike:
            found.append(_alike(case))
            ends.add(case.index)
            continue
        found += [_saturated(case) or _out_of_reach(case) or _explodes(case), _too_few_bits(case)]
    found = [issue for issue in found if issue and not _follows(issue, cases, found)]
    # A gradient comes from the loss. Layers that it reaches later cannot learn from one that has
    # exploded.
    growing = [issue for issue in found if issue and issue.kind == "explodes"]
    found = [growing.pop() if issue and issue.kind == "explodes" else issue for issue in found]
    if any(is_silent(layer) for layer in layers):
        found.append(_not_finite(cases))
    else:
        found.append(_ascends(cases) or _shrinks(cases) or _overshoots(cases))
    if not any(found):  # a gradient that vanishes makes small updates
        found.append(
            _not_finite(cases)
            or _vanishes(cases)
            or _weak(cases)
            or _stalls(cases)
            or _cut_off(cases)
        )
    return tuple(filter(None, found))


def suspects(layers: Sequence[LayerReport], network: NetworkReport) -> Iterator[Fix]:
    """Yield fixes of layers without a fault. Only training shows if they matter."""
    cases, seen = [Case(n, layers, network) for n in range(len(layers))], set()
    for case in cases:
        candidates = (
            to_defaults(case, UNUSUAL),
            against_inputs(case),
            against_recurrence(case),
            unusual_scale(case),
        )
        for fix in itertools.chain(*candidates):
            if (fix.change, case.place.name) not in seen:
                seen |= {(one.change, one.index) for one in (fix, *fix.others)}
                yield fix
    yield from resets(cases)
    yield from unusual_slopes(cases)
    yield from longer_memory(cases)
    case, largest = _most_updated(cases)
    without = case.layer.update_without_epsilon or 0.0
    if math.isfinite(without) and without > SLOWED * largest > 0:
        for part in (1, 1000):  # later gradients are smaller
            yield _epsilon(case, GOOD_UPDATE * largest / without / part)
    if math.isfinite(largest):
        yield from (fix for factor in RATES for fix in _learning_rate(case, factor))


def slow(case: Case, learned: float, better: float, fix: Fix) -> Issue:
    """Return the issue of a network that learns much more of its inputs with a fix."""
    description = (
        f"slows the learning: in {ALL} updates, the network learns {_percent(max(learned, 0.0))} "
        "of examples that the "
        f"updates do not use, and {_percent(better)} with this fix"
    )
    return _issue(case, "slow", description, [fix])


def is_silent(layer: LayerReport) -> bool:
    """If True, a layer of spiking neurons passes too few spikes to learn from."""
    few, rare = layer.silent >= SILENT, layer.quiet >= QUIET
    faint = (layer.slope or 0) < FAINT
    return layer.fires and (layer.silent == 1 or (few and rare) or ((few or rare) and faint))


def _issue(case: Case, kind: str, description: str, fixes: Iterable[Fix] = ()) -> Issue:
    return Issue(
        kind,
        case.place.name,
        f"{case.layer.name} {description}",
        tuple(r for r in fixes if not is_idle(r)),
    )


# --- rules about one layer by itself, of which the first applies ----------------------------------


def _silent(case: Case) -> Issue:
    layer = case.layer
    if layer.drive == 0:
        inputs = case.network.inputs.get(case.index)
        of = "inputs" if inputs is not None and inputs.largest == 0 else "currents"
        return _issue(case, "silent", f"is silent: its {of} are zero")
    share = f"{_percent(layer.silent)} of its neurons never fire"
    if layer.quiet > layer.silent:
        share = f"no neuron fires in {_percent(layer.quiet)} of the examples"
    description = f"is silent: {share}; {_where(layer)}"
    return _issue(case, "silent", description, against_activity(case))


def _alike(case: Case) -> Issue:
    description = (
        "has neurons with equal potentials and gradients in every update: draw its weights at "
        "random"
    )
    return _issue(case, "alike", description)


def _saturated(case: Case) -> Issue | None:
    layer = case.layer
    scale = layer.scale or 0.0
    held = (layer.free_means or 0.0) > CONSTANT * (layer.free or 0.0)
    far = scale > 0 and layer.off >= (HELD if held else FAR) * scale
    driven = _driven(case)
    at_rest = scale > 0 and (layer.at_rest or 0) > AT_REST and hasattr(case.cell, "threshold")
    if not (
        layer.fires
        and (far or driven >= DRIVEN or at_rest or layer.always >= ALWAYS or layer.firing >= BUSY)
    ):
        return None
    description = f"is saturated: it fires at {layer.rate:.2g} per step; {_where(layer)}"
    if driven >= DRIVEN:
        description += f", {driven:.2g} times as far as its currents drive them"
    if at_rest:
        description += f", and {_percent(layer.at_rest or 0)} of its neurons fire at rest"
    return _issue(case, "saturated", description, against_activity(case, driven=driven >= DRIVEN))


def _driven(case: Case) -> float:
    """Return the distance of the potentials from the threshold, over the distance that the currents
    explain.

    Without spikes, the distance from rest is ``free`` for the potentials and ``scale`` for the
    threshold. Feedback adds to the input currents.
    """
    layer = case.layer
    if not layer.drive or not layer.free or not math.isfinite(layer.free):
        return 0.0
    return layer.off / math.hypot(layer.scale or 0.0, layer.free * (1 + case.feedback))


def _out_of_reach(case: Case) -> Issue | None:
    layer = case.layer
    far = layer.reached is not None and layer.reached < REACHED
    beside = layer.peak and abs(layer.at_threshold or 0.0) < SMALL * abs(layer.peak)
    if not (
        far or beside or (layer.slope is not None and layer.slope < NARROW and layer.rate >= SPARSE)
    ):
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
        f"passes no gradient: it fires at {layer.rate:.2g} per step, but its slope {its_slope}; "
        f"{_where(layer)}"
    )
    fixes = [*against_recurrence(case), *fit_slope(case, "fit its slope to them"), *to_scale(case)]
    return _issue(case, "out of reach", description, fixes)


def _explodes(case: Case) -> Issue | None:
    layer = case.layer
    over_steps, through = growth(layer), growth_through(layer)
    found = []
    if over_steps >= GROWTH:
        found.append(f"{over_steps:.2g} times from the last step back")
    if through >= max(GROWTH, layer.gain or 0.0) and case.place.below - {case.index}:
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
        other
        for other in found
        if other and other.index != issue.index and case.shares_loop_with(at[other.index])
    ]
    if issue.kind != "explodes" or not others:
        return False
    return any(
        other.kind != "explodes" or at[other.index].feedback > case.feedback for other in others
    )


# --- further rules --------------------------------------------------------------------------------


def _too_few_bits(case: Case) -> Issue | None:
    layer = case.layer
    if case.network.mode != "8-bit" or (layer.eight_bit_error or 0) < COARSE:
        return None
    description = (
        f"has too few bits: its slopes are off by {_percent(layer.eight_bit_error or 0)}, and "
        f"{_percent(layer.eight_bit_lost or 0)} of its distances to the threshold are too small "
        "for 8 bits"
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
    fixes = [
        *([] if all_large else larger_units(cases, GOOD_UPDATE)),
        *_learning_rate(case, factor),
    ]
    return _issue(case, "overshoots", finding, fixes) if overshot else None


def _ascends(cases: Sequence[Case]) -> Issue | None:
    """Return an issue for updates along the gradient instead of against it."""
    if not cases[0].network.cosine > ASCENT:
        return None
    case, _ = _most_updated(cases)
    text = "change the sign of the learning rate (multiply it by -1)"
    description = "is updated along the gradient, like all other layers, so the loss rises"
    return _issue(case, "ascends", description, [case.fix("learning rate", -1.0, text)])


def _learning_rate(case: Case, factor: float) -> list[Fix]:
    factor = rounded(factor)
    return [case.fix("learning rate", factor, f"multiply the learning rate by {factor:g}")]


def _epsilon(case: Case, factor: float) -> Fix:
    factor = rounded(factor)
    return case.fix("epsilon", factor, f"multiply the epsilon by {factor:g}")


def _stalls(cases: Sequence[Case]) -> Issue | None:
    """Return an issue for an update that hardly changes the weights.

    A rising schedule may start with updates of 0.
    """
    case, largest = _most_updated(cases)
    later = case.network.later_update
    if largest == 0 and case.network.idle_updates >= MANY:
        description = (
            f"does not move, like all other layers: the first {MANY} updates are 0, but the "
            "gradients are not"
        )
        return _issue(
            case, "stalls", f"{description}. Look for a factor or a mask of 0 in the optimizer"
        )
    if largest == 0 and 0 < later < LEAST_UPDATE:
        description = (
            f"hardly moves, like all other layers: {MANY} updates are at most {later:.3g} times "
            "the weights"
        )
        return _issue(case, "stalls", description, _learning_rate(case, GOOD_UPDATE / later))
    from_zero = max(cases, key=lambda case: case.layer.update_from_zero)
    of_its_weights = "times its weights"
    if from_zero.layer.update_from_zero > largest:
        case, largest = from_zero, from_zero.layer.update_from_zero
        of_its_weights = "times weights of usual size, and its weights are zero"
    without = case.layer.update_without_epsilon or 0.0
    slowed = without >= max(SLOWED * largest, SLOW_UPDATE) and math.isfinite(without)
    rounded_away = min(
        (case.layer.rounded_away for case in cases if case.layer.update), default=0.0
    )
    if largest and rounded_away >= ROUNDED:
        description = (
            f"hardly moves: the dtype of its weights rounds away {_percent(rounded_away)} of the "
            "first update"
        )
        fixes = [*wider_dtype(cases), *_learning_rate(case, GOOD_UPDATE / largest)]
        return _issue(case, "stalls", description, fixes)
    if not 0 < largest < (SLOW_UPDATE if slowed else LEAST_UPDATE):
        return None
    description = f"hardly moves: the first update is {largest:.3g} {of_its_weights}"
    fixes = []
    if slowed:
        description += (
            f", and {without:.3g} times with an optimizer's epsilon (`eps`) that is small compared "
            "with its gradient"
        )
        fixes = [_epsilon(case, GOOD_UPDATE * largest / without)]
    return _issue(
        case, "stalls", description, [*fixes, *_learning_rate(case, GOOD_UPDATE / largest)]
    )


def _shrinks(cases: Sequence[Case]) -> Issue | None:
    """Return an issue for weight decay that changes weights faster than gradients do."""
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
        f"is shrunk: weight decay changes its {weight} by {_percent(part)} in one update, and the "
        "gradient by "
        f"{_percent(learned)}"
    )
    factor = rounded(LEAST_UPDATE / part)
    return _issue(
        case,
        "shrinks",
        description,
        [case.fix("weight decay", factor, f"multiply the weight decay by {factor:g}")],
    )


def _most_updated(cases: Sequence[Case]) -> tuple[Case, float]:
    updates = [case.layer.update or 0.0 for case in cases]
    return cases[int(np.argmax(updates))], max(updates)


def _vanishes(cases: Sequence[Case]) -> Issue | None:
    """Return an issue if the gradient from the steps that the loss reads does not reach the steps
    that differ.
    """
    network = cases[0].network
    gradients = [np.array(case.layer.by_step) for case in cases if case.place.enters]
    differ, reads = np.array(network.differ), np.array(network.reads)
    if not all(
        of_steps.any() and np.isfinite(of_steps).all() for of_steps in (*gradients, differ, reads)
    ):
        return None
    lasts = [case for case in cases if case.place.leaves]
    # With hardly any weight gradient, these layers have no input in the steps that the loss reads.
    idle = all(_is_unfed(case.layer) for case in lasts)
    arrive = [
        float((gradient / gradient.max()) @ (differ / differ.sum())) for gradient in gradients
    ]
    arrives = 0.0 if idle else max(arrive, default=0.0)
    unseen = [
        float(differ[of_steps < ARRIVES * of_steps.max()].sum() / differ.sum())
        for of_steps in gradients
    ]
    leaky = [
        (float(case.values("decay").mean()), case) for case in cases if hasattr(case.cell, "decay")
    ]
    if (arrives >= ARRIVES and min(unseen) < UNSEEN) or not leaky:
        return None
    time = np.arange(len(differ))
    lag = float(time @ reads / reads.sum() - time @ differ / differ.sum())
    if lag <= -1:
        description = (
            f"gets a gradient too early: the loss reads the outputs {-lag:.0f} steps before the "
            "inputs differ most"
        )
        return _issue(lasts[0], "vanishes", description)
    if idle and lag < 1:
        description = (
            "gets a gradient for its currents, but none for its weights: its weight function may "
            "round them, or no "
            "spikes arrive in the steps that the loss reads"
        )
        return _issue(lasts[0], "cut off", description)
    better = rounded(math.exp(-1 / max(lag, 1.0)), 3)
    # A readout with a long memory keeps what the layers below have passed on, so it comes first.
    short = [pair for pair in leaky if pair[0] < better] or leaky
    decay, case = max(short, key=lambda pair: (not pair[1].layer.fires, pair[0], pair[1].index))
    arrival = (
        f"Only {arrives:.1e} of the gradient arrives there"
        if arrives < ARRIVES
        else f"{_percent(min(unseen))} of the differences get less than a thousandth of the "
        "gradient"
    )
    description = (
        f"forgets: the inputs differ {lag:.0f} steps before the loss reads the outputs. {arrival}, "
        "and it keeps "
        f"{decay:.2g} per step"
    )
    text = f"raise its decay to {better:g} (`decay={better:g}`, a time constant of {lag:.0f} steps)"
    return _issue(case, "vanishes", description, [case.fix("decay", better, text)])


def _is_unfed(layer: LayerReport) -> bool:
    size = norm_of_sources(layer.weight_gradients)
    return size is not None and (size == 0 or size < UNFED * (layer.current_gradient or 0.0))


def _not_finite(cases: Sequence[Case]) -> Issue | None:
    """Return an issue for a gradient that the loss makes infinite or NaN, usually by the logarithm
    of 0.

    The optimizer may also make an update infinite, because its epsilon is 0 in a narrow dtype.
    """
    for case in reversed(cases):
        if not math.isfinite(case.layer.current_gradient or 0.0):
            return _issue(
                case,
                "not finite",
                "gets a gradient of the loss that is NaN or infinite",
                wider_dtype(cases),
            )
    for case in cases:
        if not all(map(math.isfinite, case.layer.updates.values())):
            return _issue(
                case,
                "not finite",
                "gets a first update that is NaN or infinite",
                wider_dtype(cases),
            )
    return None


def _weak(cases: Sequence[Case]) -> Issue | None:
    """Return an issue for slopes whose peak is so small that some layers below hardly change."""
    weak = [
        case
        for case in cases
        if case.layer.peak and abs(case.layer.peak) * (case.layer.scale or 1.0) < WEAK
    ]
    updates = {n: cases[n].layer.update or 0.0 for case in weak for n in case.place.below}
    moving = {n: update for n, update in updates.items() if update}
    if not moving or not min(moving.values()) < LEAST_UPDATE:
        return None
    least = min(moving, key=lambda n: moving[n])
    weakest = min(weak, key=lambda case: abs(case.layer.peak or 0.0))
    description = (
        f"passes hardly any gradient: {_peak(weakest.layer)}, and the first update of "
        f"{cases[least].layer.name} is "
        f"{moving[least]:.3g} times its weights"
    )
    return _issue(weakest, "vanishes", description, higher_slopes(weak))


def _cut_off(cases: Sequence[Case]) -> Issue | None:
    """Return an issue for a layer without a gradient, unless only zero weights above it block the
    gradient.
    """
    for case in reversed(cases):
        if case.layer.no_gradient == 1:
            description = "gets no gradient of the loss"
            if all(cases[n].layer.no_gradient == 1 for n in case.place.below):
                description += ", like the layers below"
            held = any(cases[n].layer.weights.get(weight) == 0 for n, weight in case.place.readers)
            return None if held else _issue(case, "cut off", description)
    return None


# --- numbers and text -----------------------------------------------------------------------------


def growth(layer: LayerReport) -> float:
    """Return the maximum growth of the gradient from a lag to a longer lag.

    Infinite and NaN norms count as growth.

    If the gradient decays on the whole, growth counts from the first lag. The gradient of an
    oscillator has zeros.
    """
    sizes = np.array([size for size in layer.by_lag if size != 0])
    sizes = np.where(np.isfinite(sizes), sizes, np.inf)
    if not len(sizes) or sizes[0] == np.inf:
        return 1.0
    decays = layer.factor is not None and layer.factor <= 1
    return float(np.max(sizes / (sizes[0] if decays else np.minimum.accumulate(sizes))))


def growth_through(layer: LayerReport) -> float:
    """Return the ratio of the gradients with respect to currents and outputs."""
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
