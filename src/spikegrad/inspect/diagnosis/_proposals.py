"""Proposals of fixes, with their numbers.

``_trials.py`` tries each fix and keeps the helpful fixes.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...neurons import linear_response, parameters_of
from ...surrogates import rescaled, shifted
from ...surrogates.logistic import Sigmoid
from ._fixes import CHANGES, Fix
from ._look import NetworkReport
from ._numbers import LayerReport, norm_of_sources, of_slope
from ._places import Place

_WIDENED = 5
"""A slope is widened by at most this factor."""
_THIN = 0.1
"""A slope becomes wider with the threshold if it is narrower than this part of the potentials."""
_SMALL = 0.1
"""A slope does not become narrower if the norm of a neuron's weights is smaller: one update would
leave the slope.
"""
_ONE_SIGN = 0.8
"""Currents have one sign if the mean of the potential is this part of its root mean square."""
_OUTLIER = 30.0
"""An input channel is an outlier if its currents are this many times as large as the median."""
_LIMIT = 2.0
"""Inputs are limited to this multiple of their usual size if the largest is an outlier."""
_SHIFTED = 1.0
"""An input channel is far from 0 if its mean is larger than its standard deviation by this factor.
"""
_USUAL_INPUTS = 0.05, 50.0
"""Inputs are scaled if the largest is out of this range.

Images may be divided by 255 twice, or not at all.
"""
_USUAL_DEVIATIONS = 0.1, 10.0
"""The same for the standard deviation of inputs without their means."""
_UNEVEN = 3.0
"""Neurons are scaled one by one if their potentials, on average, are larger than the median by this
factor.
"""
UNUSUAL, TINY = 2.0, 30.0
"""A parameter may become its default if it is larger by the first factor, or smaller by the second.
"""
_FORGETS = 5
"""A time constant is short if the inputs have more than so many times its steps."""
WIDE = 32
"""The number of bits of a dtype that keeps small updates."""
_SMALLER = 0.3, 0.1, 0.03, 0.01, 0.001
_LARGER = 3.0, 10.0, 30.0, 100.0
"""Factors of weights, if potentials are not finite and so have no scale."""
STEP = Sigmoid(4.0)
"""Replacement for a step without a slope."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer within its network."""

    index: int
    layers: Sequence[LayerReport]
    network: NetworkReport

    @property
    def place(self) -> Place:
        return self.network.places[self.index]

    @property
    def layer(self) -> LayerReport:
        return self.layers[self.index]

    @property
    def cell(self) -> Any:
        """The cell with the parameters of the neurons."""
        return parameters_of(self.network.cells[self.index])

    def values(self, parameter: str) -> np.ndarray:
        """Return a parameter of the cell, which may be a number, an array or a bounded array."""
        found = getattr(self.cell, parameter)
        found = found.__jax_array__() if hasattr(found, "__jax_array__") else found
        return np.asarray(found, np.float64)

    @property
    def feedback(self) -> float:
        """The ratio of the feedback currents to the currents from below."""
        return (self.layer.feedback or 0.0) / (self.layer.drive or 1.0)

    def all_of_its_cell(self, parameter: str) -> list[Case]:
        """Return this layer, and all others whose cell has the class and the value of a
        parameter."""
        others = (dataclasses.replace(self, index=n) for n in range(len(self.layers)))
        same = (other for other in others if type(other.cell) is type(self.cell))
        return [
            other
            for other in same
            if np.array_equal(other.values(parameter), self.values(parameter))
        ]

    def shares_loop_with(self, other: Case) -> bool:
        return self.index in other.place.below and other.index in self.place.below

    def fix(self, change: str, value: Any, text: str) -> Fix:
        return Fix(self.place.name, change, value, text)


def against_activity(case: Case, *, driven: bool = False) -> Iterator[Fix]:
    """Propose fixes for too few or too many spikes: first for specific causes, then for the scale
    of the potential.

    If spikes drive the potential of their own neuron, the cause is a parameter of the cell.
    """
    if driven:
        yield from to_defaults(case)
    yield from _sign(case)
    yield from against_recurrence(case)
    yield from _adaptation(case)
    yield from _reset(case)
    yield from against_inputs(case)
    yield from _channels(case)
    yield from _offset(case)
    yield from _bias(case)
    yield from _input_gain(case)
    yield from to_scale(case)
    yield from _reaching(case)
    if not driven:
        yield from to_defaults(case)


def against_growth(case: Case) -> Iterator[Fix]:
    """Propose fixes for a gradient that grows within the layer."""
    layer = case.layer
    yield from _lower_slopes(case)
    if layer.feedback and (layer.factor or 0) > 1:
        factor = rounded((layer.factor or 1) ** -case.place.delay)
        yield case.fix("recurrent weights", factor, f"scale its {_feedback(case)} by {factor:g}")
    yield from against_recurrence(case)
    yield from _adaptation(case)
    yield from _reset(case)
    if (
        getattr(case.cell, "detach_reset", True) is False
        and getattr(case.cell, "reset", "") != "none"
    ):
        yield case.fix(
            "detach_reset", True, "pass no gradient through its reset (`detach_reset=True`)"
        )
    yield from to_defaults(case)
    yield from to_scale(case)


def to_defaults(case: Case, tiny: float = TINY) -> Iterator[Fix]:
    """Propose the default of each parameter that is much larger or smaller, or of the other sign,
    worst first.

    ``tiny`` is the factor of a smaller one, but not of a decay. A decay without a default gets a
    time constant of a fifth of the steps. Layers of the same cell with the same value change
    together.
    """
    found = []
    for name, declared in inspect.signature(type(case.cell)).parameters.items():
        default = declared.default
        if name == "decay" and default is inspect.Parameter.empty:
            default = max(rounded(1 - 5 / max(len(case.layer.by_lag), 1)), 0.5)
        number = isinstance(default, (int, float)) and not isinstance(default, bool)
        if number and name == "threshold" and default and case.layer.scale is None:
            factor = default / float(case.values(name).mean() or math.inf)
            yield case.fix(
                name,
                factor,
                f"set its threshold to its default, {default:g} (`threshold={default:g}`)",
            )
        elif number and name not in CHANGES and hasattr(case.cell, name):
            own, is_decay = case.values(name), name.endswith("decay")
            larger = np.abs(own).max() / (abs(default) or 1.0)
            zero_is_usual = case.layer.silent < 1 or is_decay  # as an adaptation of 0, on purpose
            smallest = np.abs(own).min() or (math.inf if zero_is_usual else 1e-300)
            smaller = abs(default) / smallest
            if is_decay:  # a time constant that is too long
                smaller = max(smaller, (1 - default) / max(1 - own.max(), 1e-9))
            least = TINY if is_decay else tiny
            if larger > UNUSUAL or smaller > least or (own * default).min() < 0:
                its = "its default, " if default is declared.default else ""
                text = f"set its {name} to {its}{default:g} (`{name}={default:g}`)"
                fixes = [other.fix(name, default, text) for other in case.all_of_its_cell(name)]
                fix = together(fixes, case.network.places) if len(fixes) > 1 else fixes[0]
                found.append((max(larger, smaller), fix))
    yield from (fix for _, fix in sorted(found, key=lambda pair: -pair[0]))


def _default(case: Case, name: str) -> float:
    """Return the default of a parameter of the cell, or 1 if it has none."""
    default = inspect.signature(type(case.cell)).parameters[name].default
    return float(default) if isinstance(default, (int, float)) and default else 1.0


def smaller_weights(case: Case) -> Iterator[Fix]:
    """Propose several factors of the weights."""
    for factor in _SMALLER:
        yield case.fix("feedforward weights", factor, f"scale its weights by {factor:g}")


def _lower_slopes(case: Case) -> Iterator[Fix]:
    """Lower the steep slopes of all layers, because each layer passes on the growth in other
    layers.
    """
    found: list[Fix] = []
    for n, layer in enumerate(case.layers):
        box = _box(layer)
        wide = n == case.index and (box or 0) > 1.1 * layer.std and _size(layer) > _SMALL
        if layer.fires and box is not None and (abs(layer.peak or 0) > _highest(layer) or wide):
            own = dataclasses.replace(case, index=n)
            found += fit_slope(own, "make its slope lower, and as wide as the potentials vary")
    yield from _of_all(found, [case])


def _sign(case: Case) -> Iterator[Fix]:
    """Set a threshold above rest.

    In absolute units, as -50 mV with a reset to -65 mV, threshold and reset change.

    If the thresholds of the neurons have both signs, all get the default.
    """
    layer = case.layer
    if layer.at_rest and hasattr(case.cell, "threshold"):
        own = case.values("threshold")
        if own.size > 1 and own.min() < 0 < own.max() and own.all():
            default = _default(case, "threshold")
            text = (
                f"set its threshold to {default:g} for all neurons, because {len(own[own < 0])} "
                "fire at rest"
            )
            yield case.fix("threshold", tuple((default / own).ravel().tolist()), text)
    if (layer.at_rest or 0) > 0.5 and layer.scale and hasattr(case.cell, "threshold"):
        text = "change the sign of its threshold, because neurons fire at rest"
        yield case.fix("threshold", -1.0, text)
        free = layer.free if layer.free and math.isfinite(layer.free) else layer.scale
        factor = rounded(free / layer.scale)
        text = (
            f"set its threshold to {layer.scale * factor:.3g}, above the potential at rest, which "
            "is 0"
        )
        scaled = dataclasses.replace(layer, scale=layer.scale * factor, std=free)
        for reset in _reset(case):
            parts = [
                case.fix("threshold", -factor, text),
                reset,
                *fit_slope(case, "fit its slope to this threshold", scaled),
            ]
            yield joined(parts, ", and ".join(map(str, parts)))


def against_recurrence(case: Case) -> Iterator[Fix]:
    layer = case.layer
    if layer.feedback and layer.drive and layer.feedback > layer.drive:
        if offset := rounded(-(layer.recurrent_offset or 0.0)):
            text = f"add {offset:g} to each of its recurrent weights to make their mean 0"
            yield case.fix("recurrent offset", offset, text)
        cause = "they" if case.place.feedback else "its own spikes"
        for part in (3, 30):  # fewer spikes reduce the currents further
            factor = rounded(layer.drive / layer.feedback / part)
            text = (
                f"scale its {_feedback(case)} by {factor:g}, because {cause} cause "
                f"{case.feedback:.2g} times the "
                "current from below"
            )
            yield case.fix("recurrent weights", factor, text)


def _feedback(case: Case) -> str:
    sources = case.place.feedback
    return (
        f"weights of feedback from {', '.join(map(repr, sources))}"
        if sources
        else "recurrent weights"
    )


def _adaptation(case: Case) -> Iterator[Fix]:
    """Set an adaptation that doubles the threshold after ten spikes within its time constant."""
    layer, cell = case.layer, case.cell
    if not hasattr(cell, "adaptation") or not layer.scale:
        return
    lasts = 1 / max(
        1 - float(case.values("adaptation_decay").mean()), 1 / max(len(layer.by_lag), 10)
    )
    value = rounded(10 * layer.scale / lasts)
    own = case.values("adaptation")
    if own.min() < 0 or own.max() > 2 * value:
        yield case.fix(
            "adaptation", value, f"set its adaptation to {value:g} (`adaptation={value:g}`)"
        )


def _reset(case: Case) -> Iterator[Fix]:
    """Replace a reset value at least as far from rest as the threshold.

    Resets would exceed the effect of currents.
    """
    layer, cell = case.layer, case.cell
    scale = layer.scale or math.inf
    far = (
        getattr(cell, "reset", "") == "value" and np.abs(case.values("reset_value")).max() >= scale
    )
    if far:
        yield case.fix(
            "reset_value", 0.0, "reset its potential to 0, the potential at rest (`reset_value=0`)"
        )


def against_inputs(case: Case) -> Iterator[Fix]:
    """Subtract means far from 0, and scale channels of very different sizes, or all channels.

    Scaled weights would not help, because each update still acts through the unchanged inputs.
    """
    if case.index not in case.network.inputs:
        return
    inputs = case.network.inputs[case.index]
    its_inputs = f"its inputs from {inputs.source!r}" if inputs.source else "its inputs"

    def fix(change: str, value: Any, text: str) -> Fix:
        return dataclasses.replace(case.fix(change, value, text), source=inputs.source)

    if inputs.usual and inputs.largest > _OUTLIER * inputs.usual:
        limit = rounded(_LIMIT * inputs.usual)
        text = (
            f"limit {its_inputs} to {limit:g}, because the largest is {inputs.largest:.2g}, and "
            "most are smaller"
        )
        yield fix("input limit", limit, text)
    means, deviations = np.array(inputs.means), np.array(inputs.stds)
    if (far := abs(means) > _SHIFTED * deviations).any():
        offsets = tuple(np.where(far, means, 0.0).tolist())
        text = f"subtract the mean of each channel, up to {abs(means).max():.3g}, from {its_inputs}"
        centered = fix("input offset", offsets, text)
        deviation = float(np.sqrt(np.mean(deviations[far] ** 2)))
        if deviation and not _USUAL_DEVIATIONS[0] <= deviation <= _USUAL_DEVIATIONS[1]:
            factor = rounded(1 / deviation)
            scaled = fix("input scale", factor, "")  # the last change acts first
            yield joined([scaled, centered], f"{text}, then multiply {its_inputs} by {factor:g}")
        yield from _then_scaled(case, centered)
    if case.layer.channels and (pairs := _outliers(inputs.channels)):
        text = f"scale channels of its inputs: {_named(pairs)}, because the others are much smaller"
        yield case.fix("inputs", pairs, text)
    elif (
        not far.any()
        and inputs.largest
        and not _USUAL_INPUTS[0] <= inputs.largest <= _USUAL_INPUTS[1]
    ):
        factor = 1 / inputs.largest
        if factor > 1 and case.layer.free:  # the potential might stay far below the threshold
            factor = max(factor, (case.layer.scale or 0.0) / case.layer.free)
        factor = rounded(factor)
        text = f"multiply {its_inputs} by {factor:g}, because the largest is {inputs.largest:.2g}"
        yield fix("input scale", factor, text)


def _channels(case: Case) -> Iterator[Fix]:
    if pairs := _outliers(case.layer.channels):
        text = f"scale its input channel {_named(pairs)}, because the usual current is much smaller"
        yield case.fix("input channels", pairs, text)


def _outliers(sizes: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """Return the channels above ``_OUTLIER`` times the median, and the factors that bring them to
    the median.
    """
    found = np.array(sizes)
    if not (found > 0).any():
        return ()
    usual = float(np.median(found[found > 0]))
    return tuple(
        (int(i), rounded(usual / found[i])) for i in np.flatnonzero(found > _OUTLIER * usual)
    )


def _named(pairs: Sequence[tuple[int, float]]) -> str:
    first = ", ".join(f"{i} by {factor:g}" for i, factor in pairs[:5])
    return first + (f" and {len(pairs) - 5} more" if len(pairs) > 5 else "")


def _offset(case: Case) -> Iterator[Fix]:
    layer, offset = case.layer, rounded(-(case.layer.offset or 0.0))
    if layer.current and layer.offset is None and _of_one_sign(layer):  # the weight is a function
        yield case.fix(
            "mean current",
            0.0,
            "subtract from its currents in each step their mean over the neurons",
        )
    if offset and _of_one_sign(layer):
        yield case.fix(
            "weight offset", offset, f"add {offset:g} to each of its weights to make their mean 0"
        )


def _bias(case: Case) -> Iterator[Fix]:
    layer = case.layer
    if _of_one_sign(layer) and layer.current:
        bias = rounded(-layer.current)
        yield case.fix(
            "bias",
            bias,
            f"add {bias:g} to its bias, because its mean current is {layer.current:.2g}",
        )
    elif layer.currents and (layer.free_means or 0.0) > max(
        _ONE_SIGN * (layer.free or 0.0), layer.scale or 0.0
    ):
        means = np.array(layer.currents)
        text = (
            f"subtract from its bias the mean current of each neuron, from {means.min():.2g} to "
            f"{means.max():.2g}"
        )
        yield from _then_scaled(case, case.fix("bias", tuple((-means).tolist()), text))


def _input_gain(case: Case) -> Iterator[Fix]:
    """Turn off an input gain of 1 - decay if the potentials are nearer to the threshold without
    it."""
    layer, cell = case.layer, case.cell
    if getattr(cell, "norm_input", False) is not True or not layer.free or not layer.scale:
        return
    ratio, gain = layer.free / layer.scale, 1 - float(case.values("decay").mean())
    if gain > 0 and math.isfinite(ratio) and abs(math.log(ratio / gain)) < abs(math.log(ratio)):
        text = f"leave out its input gain of {gain:.2g} (`norm_input=False`)"
        fixes = [
            other.fix("norm_input", False, text) for other in case.all_of_its_cell("norm_input")
        ]
        yield together(fixes, case.network.places) if len(fixes) > 1 else fixes[0]


def _then_scaled(case: Case, centered: Fix) -> Iterator[Fix]:
    """Yield a fix that subtracts means, and a second one that also scales the remaining potential
    to the threshold.
    """
    layer = case.layer
    left = (
        1 - float(np.mean(np.square(layer.currents or 0.0))) / (layer.drive or 1.0) ** 2
    )  # fraction of the power
    yield centered
    if layer.scale and layer.free and left > 0:
        gain = rounded(layer.scale / layer.free / math.sqrt(left))
        yield joined(
            [centered, case.fix("feedforward weights", gain, "")],
            f"{centered}, then scale its weights by {gain:g}",
        )


def _of_one_sign(layer: LayerReport) -> bool:
    return bool(layer.free) and abs(layer.free_mean or 0.0) > _ONE_SIGN * (layer.free or 0.0)


def to_scale(case: Case) -> Iterator[Fix]:
    """Scale weights or threshold until the root mean square of the potential without spikes equals
    the threshold.

    This is fluctuation-driven initialization (Rossbroich, Gygax, Zenke 2022, Neuromorphic Computing
    and Engineering 2) with a target of one standard deviation. The weights come first if the change
    brings the norm of a neuron's weights nearer to 1, because learning rates fit this size. If the
    weight is a function, the threshold comes first if the change brings it nearer to 1.
    """
    layer = case.layer
    if not layer.free or not layer.scale:
        return
    if not math.isfinite(
        layer.free
    ):  # without spikes, the potentials of some neurons have no limit
        yield from smaller_weights(case)
        return
    gain, factor = rounded(layer.scale / layer.free), rounded(layer.free / layer.scale)
    weights = "weights" if gain < 1 and layer.feedback else "feedforward weights"
    found = [case.fix(weights, gain, f"scale its weights by {gain:g}")]
    each = np.array(layer.free_each)
    if len(each) and layer.free > _UNEVEN * np.median(each):
        factors = layer.scale / np.where(each > 0, each, layer.scale)
        text = f"scale the weights of each neuron, by {factors.min():.2g} to {factors.max():.2g}"
        yield case.fix(weights, tuple(factors.tolist()), text)
    if (
        gain > 1 and linear_response(case.cell) is None
    ):  # the potential does not grow with the weights alone
        factors = [rounded(gain * more) for more in _LARGER]
        found += [
            case.fix(weights, factor, f"scale its weights by {factor:g}") for factor in factors
        ]
    if hasattr(case.cell, "threshold"):
        verb, to = "lower" if factor < 1 else "raise", layer.scale * factor
        text = f"{verb} its threshold to {to:.3g}, by a factor of {factor:g}"
        found.append(case.fix("threshold", factor, text))
        scaled = dataclasses.replace(layer, scale=layer.scale * factor, std=layer.free)
        narrow = (
            factor > 1
            and not _of_one_sign(layer)
            and (_box(layer) or math.inf) < _THIN * layer.free
        )
        steep = factor < 1 and abs(layer.peak or 0) > 5 * _highest(
            scaled
        )  # the gradient of the reset would grow
        if narrow or steep:
            slopes = fit_slope(case, "fit its slope to this threshold", scaled)
            found += [joined([found[-1], slope], f"{text}, and {slope.text}") for slope in slopes]
    size = _size(layer)
    if layer.channels and size:
        keep_weights = abs(math.log(size * gain)) > abs(math.log(size))
    else:
        keep_weights = abs(math.log(layer.free)) < abs(math.log(layer.scale))
    yield from [*found[1:], found[0]] if keep_weights else found


def larger_units(cases: Sequence[Case], size: float) -> Iterator[Fix]:
    """Scale weights and a small threshold together.

    Spikes do not change. Updates become ``size`` times the weights.
    """
    found: list[Fix] = []
    for case in cases:
        factor = rounded((case.layer.update or 0.0) / size)
        if (
            factor > 1
            and hasattr(case.cell, "threshold")
            and factor * (case.layer.scale or math.inf) <= 1
        ):
            text = f"scale its weights and its threshold by {factor:g}"
            found.append(
                joined([case.fix(part, factor, "") for part in ("weights", "threshold")], text)
            )
    if found:
        yield together(found, cases[0].network.places)


def higher_slopes(cases: Sequence[Case]) -> Iterator[Fix]:
    """Raise the slopes of several layers.

    A slope that is much wider than the potentials also becomes narrower.
    """
    found = []
    for case in cases:
        layer = case.layer
        if layer.surrogate is not None and layer.half_width:
            sizes = {"peak": _highest(layer)}
            if layer.half_width > _WIDENED * layer.std > 0:
                sizes["half_width"] = rounded(layer.std)
            arguments = "".join(f", {name}={value:g}" for name, value in sizes.items())
            text = f"raise its slope (`rescaled({layer.surrogate!r}{arguments})`)"
            found.append(case.fix("surrogate", rescaled(layer.surrogate, **sizes), text))
    yield from _of_all(found, cases)


def longer_memory(cases: Sequence[Case]) -> Iterator[Fix]:
    """Raise decays that forget within a small part of the steps: that of the readouts, and those of
    all layers.
    """
    short = []
    for case in cases:
        steps = len(case.layer.by_lag)
        if (
            hasattr(case.cell, "decay")
            and 1 / max(1 - case.values("decay").max(), 1e-9) < steps / _FORGETS
        ):
            decay = rounded(math.exp(-1 / steps), 3)
            text = (
                f"raise its decay to {decay:g} (`decay={decay:g}`, a time constant of {steps} "
                "steps)"
            )
            short.append((case, case.fix("decay", decay, text)))
    readouts = [fix for case, fix in short if not case.layer.fires]
    yield from _of_all(readouts, cases)
    if len(readouts) < len(short):
        yield from _of_all([fix for _, fix in short], cases)


def resets(cases: Sequence[Case]) -> Iterator[Fix]:
    """Reset the potentials of all layers that are never reset."""
    text = "reset its potential (`reset='subtract'`)"
    without = [
        case for case in cases if case.layer.fires and getattr(case.cell, "reset", "") == "none"
    ]
    yield from _of_all([case.fix("reset", "subtract", text) for case in without], cases)


def unusual_scale(case: Case) -> Iterator[Fix]:
    """Scale a layer whose potential without spikes is far below or above the threshold."""
    ratio = (case.layer.free or 0.0) / (case.layer.scale or math.inf)
    if case.layer.fires and ratio and not 1 / UNUSUAL <= ratio <= UNUSUAL:
        yield from itertools.islice(to_scale(case), 1)


def unusual_slopes(cases: Sequence[Case]) -> Iterator[Fix]:
    """Fit all slopes that are much narrower or wider than the potentials, and raise the wide ones.

    Slopes as wide as the potentials vary may make the gradient of a deep network grow, so narrow
    ones get two widths.
    """
    narrow, wide = [], []
    for case in cases:
        if width := case.layer.half_width:
            narrow += [case] if width < _THIN * case.layer.std else []
            wide += [case] if width > _WIDENED * case.layer.std > 0 else []
    for part in (1.0, 0.3):
        layers = [
            (case, dataclasses.replace(case.layer, std=part * case.layer.std)) for case in narrow
        ]
        fixes = [
            fix
            for case, layer in layers
            for fix in fit_slope(case, "fit its slope to its potentials", layer)
        ]
        yield from _of_all(fixes, cases)
    yield from higher_slopes(wide)


def wider_dtype(cases: Sequence[Case]) -> Iterator[Fix]:
    """Store narrow weights in float32."""
    narrow = [
        case for case in cases if case.layer.dtype and jnp.finfo(case.layer.dtype).bits < WIDE
    ]
    yield from _of_all(
        [case.fix("dtype", "float32", "store its weights in float32") for case in narrow], cases
    )


def _of_all(found: Sequence[Fix], cases: Sequence[Case]) -> Iterator[Fix]:
    """Yield one fix for all layers."""
    if len(found) > 1:
        yield together(found, cases[0].network.places)
    else:
        yield from found


def together(found: Sequence[Fix], places: Sequence[Place]) -> Fix:
    """Combine fixes of several layers into one."""
    names = {place.name: place.text for place in places}
    return joined(found, "; ".join(f"in {names[one.index]}, {one}" for one in found))


def joined(parts: Sequence[Fix], text: str) -> Fix:
    """Combine several changes into one fix."""
    first, *others = (
        one for part in parts for one in (dataclasses.replace(part, others=()), *part.others)
    )
    return dataclasses.replace(first, text=text, others=tuple(others))


def _reaching(case: Case) -> Iterator[Fix]:
    """Widen a slope to the distance of the potentials, by at most ``_WIDENED``."""
    layer, surrogate = case.layer, case.layer.surrogate
    if surrogate is not None and layer.half_width and 1 < layer.off / layer.half_width <= _WIDENED:
        width = rounded(layer.off)
        text = f"widen its slope to {width:g} (`rescaled({surrogate!r}, half_width={width:g})`)"
        yield case.fix("surrogate", rescaled(surrogate, half_width=width), text)


def fit_slope(case: Case, words: str, layer: LayerReport | None = None) -> Iterator[Fix]:
    """Fit a slope to the potentials: centered at the threshold, of limited height, as wide as the
    potentials vary.

    Area over height becomes one standard deviation. This ratio compares a box and a curve with
    heavy tails. The box of Jiang et al. 2025, "Adaptive gradient learning for spiking neural
    networks by exploiting membrane potential dynamics", IJCAI, has twice this width. Recurrent
    networks did not learn with it here.
    """
    layer = layer or case.layer
    if layer.peak == 0 or not math.isfinite(
        layer.half_width or 0.0
    ):  # a step, or a slope without an end
        layer = dataclasses.replace(layer, surrogate=STEP, **of_slope(STEP))
    surrogate, box = layer.surrogate, _box(layer)
    if (
        surrogate is None
        or box is None
        or not layer.half_width
        or not layer.std
        or not math.isfinite(layer.std)
    ):
        return
    width = rounded(layer.std * (layer.half_width / box if math.isfinite(box) else 0.5))
    peak = {"peak": _highest(layer)} if abs(layer.peak or 0) > _highest(layer) else {}
    if abs(layer.at or 0) > layer.std:
        surrogate = shifted(surrogate, -(layer.at or 0))
    arguments = "".join(
        f", {name}={value:g}" for name, value in [*peak.items(), ("half_width", width)]
    )
    text = f"{words} (`rescaled({surrogate!r}{arguments})`)"
    yield case.fix("surrogate", rescaled(surrogate, half_width=width, **peak), text)


def _box(layer: LayerReport) -> float | None:
    """Return area over height, the width of an equal box.

    It is infinite for a slope without an area.
    """
    if not layer.peak or layer.area is None:
        return None
    return math.inf if math.isnan(layer.area) else abs(layer.area / layer.peak)


def _size(layer: LayerReport) -> float:
    """Return the norm of a neuron's weights."""
    return (norm_of_sources(layer.weights) or 0.0) / math.sqrt(layer.neurons)


def _highest(layer: LayerReport) -> float:
    """Return the largest height that keeps height times threshold, the slope of a subtractive
    reset, at most 1.
    """
    return rounded(1 / max(layer.scale or 1.0, 1.0))


def rounded(x: float, digits: int = 2) -> float:
    """Round to the printed digits, to apply exactly the printed number."""
    return float(f"{x:.{digits}g}")
