"""From the numbers of the layers to what is wrong with them, in words, and to what helps.

Each rule is a function of a few numbers, whose bounds stand first. A rule looks at what a layer does by itself, so that
the layer is named in which the fault lies and not one that suffers from it. ``docs/diagnose.md`` has what each remedy
gained in networks that were broken on purpose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...network import Network
from ...neurons import Cell, parameters_of
from ...surrogates._algebra import shifted
from ...surrogates._measures import fitted
from ._changes import CHANGES
from ._numbers import LayerReport

SILENT, FAINT = 0.95, 0.02
"""A layer is silent if so many of its neurons never fire, and its mean slope, over the peak, is too small to wake them:
many networks are silent at the start, and learn."""
FAR, ALWAYS = 10.0, 0.5
"""It is saturated if its potentials are so many thresholds away, or if so many of its neurons fire in every step."""
REACHED = 0.02
"""The slope has to reach so many of the potentials."""
GROWTH = 8.0
"""The gradient explodes if it grows by so much within a layer: back over steps, or from outputs to currents
unless the neurons' memory adds up as much. In networks that learn it hardly grows."""
ARRIVES = 1e-3
"""It vanishes if so little of it arrives at the steps in which the examples differ."""
UPDATE, GOOD_UPDATE = 1.0, 0.1
"""A first update overshoots if it is as large as the weights. In networks that learn, Adam's is about a tenth."""
COARSE = 0.25
"""Error of the slopes from which on 8 bits are too few."""
_WIDENED = 5
"""A slope is widened by this factor at most."""


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A change of one layer that helps against what was found. Its text says it in words."""

    index: int
    """Which layer of ``network.layers``, counted from 0."""
    change: str
    """What is changed: ``"feedforward weights"``, ``"weights"``, ``"recurrent weights"``, ``"threshold"`` and
    ``"learning rate"`` are multiplied by ``value``; to ``"bias"`` it is added; ``"surrogate"``, ``"decay"``,
    ``"detach_reset"`` and ``"mode"`` become it."""
    value: Any
    """By how much or to what: a number, a surrogate, or the name of a mode."""
    text: str
    """What to do, in words, with the number."""

    def __str__(self) -> str:
        return self.text

    def apply(self, network: Network) -> Network:
        """The network with the change made.

        Raises
        ------
        ValueError
            For what is no part of a network: the learning rate, and the mode.
        """
        if self.change not in CHANGES:
            raise ValueError(f"Remedy: a network has no {self.change}: {self.text}")
        layers = list(network.layers)
        layers[self.index] = CHANGES[self.change](layers[self.index], self.value)
        return dataclasses.replace(network, layers=layers)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is wrong with a layer, and what helps. Its text says both in words."""

    fault: str
    """``"not finite"``, ``"silent"``, ``"saturated"``, ``"out of reach"``, ``"explodes"``, ``"vanishes"``,
    ``"overshoots"``, ``"too few bits"`` or ``"cut off"``."""
    index: int
    """Which layer of ``network.layers``, counted from 0; in words it is counted from 1."""
    finding: str
    """What was found, in words."""
    remedies: tuple[Remedy, ...] = ()
    """The best first."""

    @property
    def remedy(self) -> Remedy | None:
        """The best of the remedies; None if the numbers tell none."""
        return self.remedies[0] if self.remedies else None

    def __str__(self) -> str:
        return f"{self.finding}: {', or '.join(map(str, self.remedies))}" if self.remedies else self.finding


@dataclasses.dataclass(frozen=True)
class Whole:
    """What is known of a network beside the numbers of its layers."""

    cells: Sequence[Cell | None]
    recurrent: Sequence[bool]
    mode: str = "exact"
    reads: Sequence[float] = ()
    """Norm of the gradient of the loss in the outputs of each step."""
    differ: Sequence[float] = ()
    """How much the inputs of the examples differ in each step."""


@dataclasses.dataclass(frozen=True)
class _Case:
    """A layer, and where it stands."""

    index: int
    layers: Sequence[LayerReport]
    whole: Whole

    @property
    def layer(self) -> LayerReport:
        return self.layers[self.index]

    @property
    def cell(self) -> Any:
        """What has the parameters of the neurons."""
        return parameters_of(self.whole.cells[self.index])

    def verdict(self, fault: str, finding: str, *remedies: Remedy) -> Verdict:
        return Verdict(fault, self.index, f"{self.layer.name} {finding}", remedies)

    def remedy(self, change: str, value: Any, text: str) -> Remedy:
        return Remedy(self.index, change, value, text)


def verdicts(layers: Sequence[LayerReport], whole: Whole) -> tuple[Verdict, ...]:
    """What is wrong, from the inputs on, without what follows from that."""
    cases = [_Case(n, layers, whole) for n in range(len(layers))]
    broken = next((case for case in cases if not case.layer.finite), None)
    if broken:
        return (broken.verdict("not finite", "has potentials that are NaN or infinite"),)
    found: list[Verdict] = []
    for case in cases:
        found += next(filter(None, ([*rule(case)] for rule in _RULES)), [])
        found += _too_few_bits(case)
    found += _overshoots(cases)
    return tuple(found or [*_not_finite(cases)] or [*_vanishes(cases)] or [*_cut_off(cases)])


# --- rules: what a layer does wrong by itself, the first that holds ---------------------------------------------------


def _silent(case: _Case) -> Iterator[Verdict]:
    layer = case.layer
    if not layer.fires or layer.silent < SILENT or (layer.slope or 0) >= FAINT:
        return
    if layer.free == 0:
        if case.index == 0:
            yield case.verdict("silent", "is silent: its inputs are zero")
        return  # the layer below is the silent one
    finding = f"is silent: {_percent(layer.silent)} of its neurons never fire; {_where(layer)}"
    remedies = [*_lifted(case)] or [*_to_scale(case, "feedforward weights")]
    yield case.verdict("silent", finding, *remedies, *_reaching(case))


def _saturated(case: _Case) -> Iterator[Verdict]:
    layer = case.layer
    far = layer.scale is not None and layer.off >= FAR * layer.scale
    if layer.fires and (far or layer.always >= ALWAYS):
        finding = f"is saturated: it fires at {layer.rate:.2g} per step; {_where(layer)}"
        yield case.verdict("saturated", finding, *_to_scale(case, "weights"))


def _out_of_reach(case: _Case) -> Iterator[Verdict]:
    layer = case.layer
    if layer.reached is not None and layer.reached < REACHED:
        finding = (
            f"passes no gradient: it fires at {layer.rate:.2g} per step, but its slope reaches "
            f"{_percent(layer.reached)} of its potentials; {_where(layer)}"
        )
        yield case.verdict("out of reach", finding, *_fitted(case, "fit its slope to them"))


def _explodes(case: _Case) -> Iterator[Verdict]:
    layer = case.layer
    over_steps, through = _growth(layer), _growth_through(layer)
    found = []
    if over_steps >= GROWTH:
        found.append(f"{over_steps:.2g} times from the last step back")
    if through >= max(GROWTH, layer.gain or 0.0):
        found.append(f"{through:.2g} times from its outputs to its currents")
    if found:
        finding = f"makes the gradient explode: it grows {' and '.join(found)}; {_peak(layer)}"
        yield case.verdict("explodes", finding, *_calmed(case))


_RULES = (_silent, _saturated, _out_of_reach, _explodes)


# --- rules beside these -----------------------------------------------------------------------------------------------


def _too_few_bits(case: _Case) -> Iterator[Verdict]:
    layer = case.layer
    if case.whole.mode == "8-bit" and (layer.eight_bit_error or 0) >= COARSE:
        finding = (
            f"has too few bits: its slopes are off by {_percent(layer.eight_bit_error or 0)}, and "
            f"{_percent(layer.eight_bit_lost or 0)} of its distances to the threshold are too small for 8 bits"
        )
        yield case.verdict("too few bits", finding, case.remedy("mode", "half", 'take mode="half"'))


def _overshoots(cases: Sequence[_Case]) -> Iterator[Verdict]:
    updates = [case.layer.update or 0.0 for case in cases]
    case, largest = cases[int(np.argmax(updates))], max(updates)
    if largest >= UPDATE:
        factor = _round(GOOD_UPDATE / largest)
        remedy = case.remedy("learning rate", factor, f"multiply the learning rate by {factor:g}")
        yield case.verdict("overshoots", f"is overshot: the first update is {largest:.3g} times its weights", remedy)


def _vanishes(cases: Sequence[_Case]) -> Iterator[Verdict]:
    """Whether what comes from where the loss looks arrives where the examples differ."""
    whole, layer = cases[0].whole, cases[0].layer
    gradient, differ, reads = (np.array(of_steps) for of_steps in (layer.by_step, whole.differ, whole.reads))
    if not all(of_steps.any() and np.isfinite(of_steps).all() for of_steps in (gradient, differ, reads)):
        return
    arrives = float((gradient / gradient.max()) @ (differ / differ.sum()))
    leaky = [(float(jnp.mean(case.cell.decay)), case) for case in cases if hasattr(case.cell, "decay")]
    if arrives >= ARRIVES or not leaky:
        return
    time = np.arange(len(differ))
    lag = float(time @ reads / reads.sum() - time @ differ / differ.sum())
    decay, case = max(leaky, key=lambda pair: (pair[0], pair[1].index))
    better = _round(math.exp(-1 / max(lag, 1.0)), 3)
    finding = (
        f"forgets: the inputs differ {lag:.0f} steps before the loss looks at the outputs, where {arrives:.1e} of the "
        f"gradient arrives, and no layer keeps more than its {decay:.2g} per step"
    )
    text = f"raise its decay to {better:g} (`decay={better:g}`, a time constant of {lag:.0f} steps)"
    yield case.verdict("vanishes", finding, case.remedy("decay", better, text))


def _not_finite(cases: Sequence[_Case]) -> Iterator[Verdict]:
    """Where no layer makes it so, it comes of the loss: the logarithm of 0 is the usual cause."""
    for case in reversed(cases):
        if not math.isfinite(case.layer.current_gradient or 0.0):
            yield case.verdict("not finite", "gets a gradient of the loss that is NaN or infinite")
            return


def _cut_off(cases: Sequence[_Case]) -> Iterator[Verdict]:
    for case in reversed(cases):
        if case.layer.no_gradient == 1:
            yield case.verdict("cut off", "gets no gradient of the loss, nor do the layers below")
            return


# --- remedies ---------------------------------------------------------------------------------------------------------


def _lifted(case: _Case) -> Iterator[Remedy]:
    """Against currents that hold all neurons down."""
    layer = case.layer
    if layer.free and layer.free_mean is not None and layer.current is not None and layer.free_mean < -0.8 * layer.free:
        bias = _round(-layer.current)
        yield case.remedy("bias", bias, f"add {bias:g} to its bias, since its mean current is {layer.current:.2g}")


def _to_scale(case: _Case, weights: str) -> Iterator[Remedy]:
    """Weights or threshold, so that without a spike the potential's root mean square were the threshold.

    It is fluctuation-driven initialisation (Rossbroich, Gygax, Zenke 2022, Neuromorphic Computing and Engineering 2)
    with a target of one standard deviation. First comes what leaves the potential nearest to the slope's half-width.
    """
    layer = case.layer
    if not layer.free or not layer.scale:
        return
    gain, factor = _round(layer.scale / layer.free), _round(layer.free / layer.scale)
    found = [(layer.scale, case.remedy(weights, gain, f"scale its weights by {gain:g}"))]
    if hasattr(case.cell, "threshold"):
        verb, to = "lower" if factor < 1 else "raise", layer.scale * factor
        text = f"{verb} its threshold to {to:.3g}, by a factor of {factor:g}"
        found.append((layer.free, case.remedy("threshold", factor, text)))
    if layer.half_width:
        found.sort(key=lambda pair: abs(math.log(pair[0] / (layer.half_width or 1))))
    yield from (remedy for _, remedy in found)


def _reaching(case: _Case) -> Iterator[Remedy]:
    """A slope that is as wide as the potentials are away, if that is not too far."""
    layer, surrogate = case.layer, case.layer.surrogate
    if surrogate is not None and layer.half_width and 1 < layer.off / layer.half_width <= _WIDENED:
        width = _round(layer.off)
        text = f"widen its slope to {width:g} (`fitted({surrogate!r}, width={width:g})`)"
        yield case.remedy("surrogate", fitted(surrogate, width=width), text)


def _fitted(case: _Case, words: str) -> Iterator[Remedy]:
    """A slope about the threshold, not too high, and as wide as the potentials vary.

    Area over height, which compares a box and a curve with heavy tails, becomes one standard deviation. The box of
    Jiang et al. 2025, "Adaptive gradient learning for spiking neural networks by exploiting membrane potential
    dynamics", IJCAI, is twice as wide, with which recurrent networks did not learn here.
    """
    layer, surrogate, box = case.layer, case.layer.surrogate, _box(case.layer)
    if surrogate is None or box is None or not layer.half_width or not layer.deviation:
        return
    width = _round(layer.deviation * (layer.half_width / box if math.isfinite(box) else 0.5))
    height = {"height": _highest(layer)} if abs(layer.peak or 0) > _highest(layer) else {}
    if abs(layer.at or 0) > layer.deviation:
        surrogate = shifted(surrogate, -(layer.at or 0))
    arguments = "".join(f", {name}={value:g}" for name, value in [*height.items(), ("width", width)])
    text = f"{words} (`fitted({surrogate!r}{arguments})`)"
    yield case.remedy("surrogate", fitted(surrogate, width=width, **height), text)


def _calmed(case: _Case) -> Iterator[Remedy]:
    layer, box = case.layer, _box(case.layer)
    if box is not None and (abs(layer.peak or 0) > _highest(layer) or box > 1.1 * layer.deviation):
        yield from _fitted(case, "make its slope lower, and as wide as the potentials vary")
    if case.whole.recurrent[case.index] and (layer.factor or 0) > 1:
        factor = _round(1 / (layer.factor or 1))
        yield case.remedy("recurrent weights", factor, f"scale its recurrent weights by {factor:g}")
    if getattr(case.cell, "detach_reset", True) is False and case.cell.reset != "none":
        yield case.remedy("detach_reset", True, "pass no gradient through its reset (`detach_reset=True`)")


# --- numbers and words ------------------------------------------------------------------------------------------------


def _growth(layer: LayerReport) -> float:
    """By how much the gradient grows at most, from any lag to a longer one. What is not finite has grown."""
    sizes = np.array([size for size in layer.by_lag if size != 0])
    sizes = np.where(np.isfinite(sizes), sizes, np.inf)
    if not len(sizes) or sizes[0] == np.inf:
        return 1.0
    return float(np.max(sizes / np.minimum.accumulate(sizes)))


def _growth_through(layer: LayerReport) -> float:
    """How much larger the gradient is in the currents than in the outputs."""
    inner, outer = layer.current_gradient, layer.output_gradient
    return inner / outer if layer.fires and inner and outer and math.isfinite(outer) else 1.0


def _box(layer: LayerReport) -> float | None:
    """Area over height: the width of a box of the same area and height, infinite for a slope without an area."""
    if not layer.peak or layer.area is None:
        return None
    return math.inf if math.isnan(layer.area) else abs(layer.area / layer.peak)


def _highest(layer: LayerReport) -> float:
    """The height of a slope that times the threshold, as a reset by subtraction has it, is 1 at most."""
    return _round(1 / max(layer.scale or 1.0, 1.0))


def _where(layer: LayerReport) -> str:
    known = layer.half_width and not math.isnan(layer.half_width)
    width = f", the slope's half-width is {layer.half_width:.2g}" if known else ""
    origin = "" if layer.scale is None else " from the threshold"
    return f"its potentials are at {layer.mean:.2g} ± {layer.deviation:.2g}{origin}{width}"


def _peak(layer: LayerReport) -> str:
    return "its slope is unknown" if layer.peak is None else f"the slope's peak is {layer.peak:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _round(x: float, digits: int = 2) -> float:
    """To as many digits as are said, so that what is done is what was said."""
    return float(f"{x:.{digits}g}")
