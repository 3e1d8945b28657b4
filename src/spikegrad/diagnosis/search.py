"""The search: moves that bring each measure into its band, judged by short trainings."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .._pytree import is_array
from .._struct import domain
from ..network import Delayed, Window
from ..neurons import parameters_of
from ..surrogates import Sigmoid, measure
from .measures import BANDS, LayerReport, Measuring, outside
from .moves import (
    Center,
    FitSlope,
    Move,
    Scale,
    SetParameter,
    Standardize,
    has_width,
    neutral_moves,
    numbers_of,
    rounded,
)
from .trial import Problem

LEARNS = 0.75
"""A network that has learned this part, also of other examples, has no issue."""
FITS = 0.5
"""A network that removes this part of the loss of the examples that it trains on can learn."""
GOOD = 0.95
"""A network that removes this part needs no other learning rate."""
MUCH, LITTLE = 0.1, 0.03
"""Changes must add the first part, and each decade of the learning rate too. A change without which
the network learns as much, up to the second part, is left out."""
UNUSUAL = 5.0
"""A parameter is unusual if it is this factor from its default, or has the other sign."""
WIDTHS = 0.2, 2.0
"""The area of a fitted slope over its peak is the spread of the potential, within these parts of
the threshold. Wider slopes are less specific, narrower ones miss the potentials."""
BALANCE = 0.3
"""The mean of a matrix over its spread. A larger one shifts the potentials of all neurons."""
FED_BACK = 3.0
"""Recurrent weights that amplify matter if the drive exceeds this number of thresholds."""
STEP, ATTEMPTS = 3.0, 5
"""Factor of a scale if the drive does not tell it, and the largest number of moves of one layer."""
EDGE = 0.1
"""The part of the differences of the inputs, or of the reading of the loss, at its ends."""
RATES = 1.0, 0.1, 10.0, 0.01, 100.0, 0.001, 1000.0
"""Factors of the learning rate to try, the smallest change first."""
ADAM = 1e-3, 1e-2, 1e-1
"""Learning rates of Adam as a last resort."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """A measure outside of its band, and the moves that bring it back."""

    kind: str
    place: str | None
    evidence: str
    moves: tuple[Move, ...] = ()

    def without_moves(self) -> Finding:
        return dataclasses.replace(self, moves=())


def inspect_inputs(problem: Problem, valid: np.ndarray) -> Iterator[Finding]:
    """Yield inputs with an unusual size or mean, channel by channel."""
    for name, x in problem.inputs.items():
        # In float32, because sums over half precision or uint8 would overflow.
        values = np.asarray(x, np.float32)[valid]  # (valid steps, ...)
        if not values.size or not np.isfinite(values).all() or not values.any():
            continue
        # Zeros do not count, because the size of a rare spike should not depend on its rate.
        count = np.maximum((values != 0).sum(0), 1)
        size = np.sqrt((values**2).sum(0) / count)
        mean, spread = values.mean(0), values.std(0)
        is_spikes = np.isin(values, (0, 1)).all()
        varies = spread > 0
        # A channel may hardly vary. Its mean is compared with the spread of a usual channel too,
        # so such a channel does not count as shifted.
        usual = np.median(spread[varies]) if varies.any() else 0.0
        offset = np.abs(mean) > BANDS["input offset"].high * np.maximum(spread, usual)
        # The mean of spikes is their rate, which is no shift.
        offset &= varies & ~is_spikes
        # Once the mean is subtracted, the spread is the size that the weights get.
        size = np.where(offset, spread, size)
        used = size > 0
        off = used & ((size < BANDS["inputs"].low) | (size > BANDS["inputs"].high))
        if not (off | offset).any():
            continue
        usual = np.median(size[used & ~off]) if (used & ~off).any() else 1.0
        # Only channels outside of the band are divided, and to the usual size, so the channels
        # within it stay.
        factor = np.where(off, size / usual, 1.0).astype(np.float32)
        shift = np.where(offset, mean, 0.0).astype(np.float32)
        evidence = (
            f"{int((off | offset).sum())} of {size.size} channels have a size from "
            f"{size[used].min():.2g} to {size.max():.2g}"
        )
        yield Finding("unscaled", name, evidence, (Standardize(name, (shift, factor)),))


def state_of(layer: LayerReport) -> tuple[str, str]:
    """Return the kind and the evidence of an activity outside of its band, or empty strings."""
    return next(_states_of(layer), ("", "")) if layer.fires else ("", "")


def _states_of(layer: Any) -> Iterator[tuple[str, str]]:
    drive = (
        f"without spikes, the spread of its potential is {layer.drive:.2g} times the distance to "
        "the threshold"
    )
    offset = f"the mean of its potential is {layer.offset:.2g} times its spread"
    if not np.isfinite([layer.drive, *layer.distance]).all():
        yield "not finite", "its potentials are NaN or infinite"
    # Before the other kinds, because neurons that fire at rest explain the measures below.
    if layer.scale < 0:
        yield (
            "saturated",
            "its neurons fire at rest, because the threshold is below the rest",
        )
    if outside("firing", layer.firing) < 0 or outside("drive", layer.drive) < 0:
        reason = offset if layer.offset else drive
        yield "silent", f"{layer.firing:.0%} of its neurons ever fire; {reason}"
    if outside("rate", layer.rate) > 0 or outside("drive", layer.drive) > 0:
        yield "saturated", f"it fires at {layer.rate:.2g} per step; {drive}"
    if outside("recoil", layer.recoil) > 0:
        text = f"its own spikes spread its potential to {layer.recoil:.2g} times that without them"
        yield "saturated", text
    if outside("offset", layer.offset):
        yield "silent" if layer.offset < 0 else "saturated", offset
    # A neuron fires at most once per step, which bounds the feedback. It counts only with a strong
    # drive.
    if outside("feedback", layer.feedback) > 0 and layer.drive > FED_BACK:
        yield (
            "explodes",
            f"its recurrent weights amplify by {layer.feedback:.2g} per step",
        )


def reset_parameters(layer: Any, report: Any) -> Iterator[Move]:
    """Yield unusual numbers of a cell with their defaults, except for time constants."""
    for field in numbers_of(parameters_of(layer.cell)):
        value, default = getattr(parameters_of(layer.cell), field.name), field.default
        # Decay factors have an upper bound of 1. Their ratio to a default says nothing, since 0.9
        # and 0.999 differ by a factor of 100 in time.
        if not isinstance(default, float) or domain(field).at_most is not None:
            continue
        ratio = value / default if default else 0.0
        differs = not 1 / UNUSUAL < ratio < UNUSUAL if default else abs(value) > UNUSUAL
        if value and differs:
            yield SetParameter(report.place, default, field.name)


def activity_moves(layer: Any, report: Any, slots: Mapping) -> Iterator[Move]:
    """Yield moves against too few or too many spikes, the most specific first."""
    place, size = report.place, abs(report.scale or 1.0)
    # The most specific move first: a single wrong number explains more than a scale of all
    # weights.
    yield from (move for move in reset_parameters(layer, report) if move.slot in slots)
    for part in [slot[2] for slot in slots if slot[:2] == (Center, place)]:
        array = np.asarray(_array(layer, part), np.float32)
        # A bias acts on the potential itself, so it is compared with the threshold. The mean of a
        # matrix matters relative to its spread.
        if report.offset and abs(array.mean()) > (
            size if part == "bias" else BALANCE * array.std()
        ):
            yield Center(place, 1.0, part)
    if (
        outside("feedback", report.feedback) > 0
        and (Scale, place, "recurrent") in slots
    ):
        yield Scale(place, BANDS["feedback"].target / report.feedback, "recurrent")
    kind, _ = state_of(report)
    # The potential without spikes is linear in the weights, so this factor reaches the target at
    # once.
    factor = BANDS["drive"].target / report.drive if report.drive else 1.0
    # The drive is fine but the rate is not. The measure does not give a factor then, so the search
    # takes fixed steps.
    if not outside("drive", report.drive):  # as in cells that rise by themselves
        factor = STEP if kind == "silent" else 1 / STEP
    for kind_of_move, name, *part in slots:
        is_weight = issubclass(kind_of_move, Scale) and part[0] not in (
            "recurrent",
            "bias",
        )
        # All sources get one factor, which keeps their ratio. Recurrent weights and the bias have
        # moves of their own.
        if name == place and is_weight and report.drive:
            yield kind_of_move(place, factor, part[0])


class Search:
    """The search for the moves of one network."""

    def __init__(
        self,
        problem: Problem,
        budget: float | None,
        progress: Callable[[str], Any] | None,
    ) -> None:
        self.problem, self.graph = problem, problem.network.graph
        # All moves with their neutral values are arguments of one program, so trying other values
        # does not compile.
        self.slots = neutral_moves(problem.network, problem.inputs)
        self.measure = Measuring(problem, self.slots)
        self.trial: Any = None
        self.deadline = None if budget is None else time.monotonic() + budget
        self.progress = progress
        self.findings: list[Finding] = []
        self.moves: dict[tuple, Move] = {}
        self.valid = np.asarray(problem.valid)
        self.say("measuring")
        self.first = self.report = self.measure({})

    def say(self, stage: str) -> None:
        """Report a stage, unless the budget leaves it out."""
        if self.progress and not self.is_late:
            self.progress(stage)

    def add(self, finding: Finding) -> None:
        """Take the moves of a finding, and measure the network with them."""
        self.findings.append(finding)
        if finding.moves:
            # Later layers are measured with the moves of earlier ones, because the spikes below
            # are the inputs above.
            self.moves |= {move.slot: move for move in finding.moves}
            self.report = self.measure(self.moves)

    def propose(self) -> None:
        """Collect all measures outside of their bands, from the inputs to the outputs."""
        for finding in inspect_inputs(self.problem, self.valid):
            self.add(
                dataclasses.replace(finding, place=self.first_reader(finding.place))
            )
        for finding in self.alike():
            self.add(finding)
        self.mend_activity()
        # A longer memory raises the potentials, so the activity is brought back afterwards.
        for finding in self.forgotten():
            self.add(finding)
            self.mend_activity()
        for finding in self.slopes():
            self.add(finding)
        for finding in self.readout():
            self.add(finding)
        if outside("decay", self.first.decay) > 0:
            evidence = f"an update without gradients removes {self.first.decay:.0%} of the weights"
            self.add(Finding("shrinks", None, evidence))

    def first_reader(self, source: str | None) -> str | None:
        """Return the first layer that reads these inputs."""
        edges = self.graph.edges
        return next(
            (n for n in edges if any(e.source == source for e in edges[n])), None
        )

    def alike(self) -> Iterator[Finding]:
        """Yield layers of neurons with equal weights, which get equal updates."""
        for name, layer in self.graph.layers.items():
            arrays = [
                np.asarray(w)
                for w in layer.weights.values()
                if is_array(w) and w.ndim == 2
            ]
            # w: (inputs, neurons). Rows that are constant over the neurons mean equal weights for
            # all of them. Matrices of zeros and of one neuron are not a symptom.
            if arrays and all(
                w.any() and w.shape[1] > 1 and not np.ptp(w, 1).any() for w in arrays
            ):
                yield Finding(
                    "alike", name, "its neurons have equal weights, and equal updates"
                )

    def mend_activity(self) -> None:
        """Bring the activity of each layer into its band, in the order of a step."""
        for name, layer in self.graph.layers.items():
            kind, evidence = state_of(self.report.layers[name])
            if not kind or any(
                f.kind == "alike" and f.place == name for f in self.findings
            ):
                continue
            finding = Finding(kind, name, evidence)
            if not self.report.layers[name].drive and kind == "silent":
                # Currents are zero here, so no scale of this layer can help.
                below = {edge.source for edge in self.graph.edges[name]} - {name}
                sources = [
                    self.report.layers[source]
                    for source in below & {*self.graph.layers}
                ]
                if any(source.fires and not source.rate for source in sources):
                    continue  # the silence comes from the layer below
                self.add(
                    dataclasses.replace(finding, evidence=self.source_of_silence(name))
                )
                continue
            # The moves of one layer are collected first and are one finding, because two of them
            # may help only together.
            tried: dict[tuple, Move] = {}
            before, report = dict(self.moves), self.report
            for _ in range(ATTEMPTS):
                now = report.layers[name]
                if not state_of(now)[0]:
                    break
                # Each kind of move is tried once. Only scales repeat, since the drive of a
                # nonlinear cell needs several steps.
                moves = [*activity_moves(layer, now, self.slots)]
                new = [move for move in moves if move.slot not in tried]
                scales = [move for move in moves if isinstance(move, Scale)]
                if not (move := next(iter(new or scales), None)):
                    break
                if isinstance(move, Scale):
                    old = tried.get(move.slot) or before.get(move.slot) or move
                    old_value = old.value if old is not move else 1.0
                    move = dataclasses.replace(
                        move, value=rounded(move.value * old_value)
                    )
                tried[move.slot] = move
                report = self.measure({**before, **tried})
            self.add(dataclasses.replace(finding, moves=tuple(tried.values())))

    def source_of_silence(self, name: str) -> str:
        """Return the reason for currents of zero."""
        texts = []
        for edge in self.graph.edges[name]:
            if edge.source == name:
                continue
            if min(edge.lags) >= len(self.valid):
                texts.append(
                    f"its delay of {min(edge.lags)} steps is longer than the sequence"
                )
            elif edge.source in self.problem.inputs:
                x = np.asarray(self.problem.inputs[edge.source])
                if x.any() and not x[self.valid].any():
                    texts.append(
                        "the mask excludes every step with inputs that are not zero"
                    )
                elif not x.any():
                    texts.append("its inputs are zero")
        return (
            "; ".join(texts)
            or "its currents are zero, because its sources or weights are"
        )

    def forgotten(self) -> Iterator[Finding]:
        """Yield a memory that is shorter than the time from the inputs to what the loss reads."""
        gap, longest = self.gap(), 0.0
        moves = []
        for name, layer in self.graph.layers.items():
            for field in numbers_of(parameters_of(layer.cell)):
                # Numbers from 0 to 1 are decay factors. The time constant of d is about 1 / (1 -
                # d) steps.
                if (domain(field).at_least, domain(field).at_most) != (0, 1):
                    continue
                value = getattr(parameters_of(layer.cell), field.name)
                longest = max(longest, 1 / max(1 - value, 1e-6))
                moves.append(SetParameter(name, rounded_decay(gap), field.name))
        if longest and outside("memory", gap / longest) > 0:
            evidence = (
                f"the inputs differ {gap} steps before the loss reads the outputs, and the longest "
                f"time constant is {longest:.2g} steps"
            )
            # The membrane is preferred, because every kind of neuron has it.
            first = [move for move in moves if move.parameter == "decay"] or moves
            yield Finding("forgets", first[0].place, evidence, tuple(first))

    def gap(self) -> int:
        """Return the steps from the last differences of the inputs to the first reading of them."""
        # (steps, examples, ...): the spread over the examples. Inputs that are equal for all
        # examples carry no information.
        differ: Any = sum(
            np.asarray(x, np.float32).std(1).reshape(len(self.valid), -1).sum(1)
            for x in self.problem.inputs.values()
        )
        reads = np.nan_to_num(self.report.reads)
        if not differ.any() or not reads.any():
            return 0
        # The step by which the inputs have shown all but the last tenth of their differences, so
        # that noise at the end does not hide a gap.
        shown = int(np.searchsorted(differ.cumsum(), (1 - EDGE) * differ.sum()))
        read = int(np.searchsorted(reads.cumsum(), EDGE * reads.sum()))
        return max(read - shown, 0)

    def slopes(self, anyway: bool = False) -> Iterator[Finding]:
        """Yield slopes that miss the potentials, or are too steep or flat."""
        for name, layer in self.report.layers.items():
            if not layer.fires or layer.distance is None:
                continue
            size = abs(layer.scale or 0.0) or 1.0
            spread = float(
                np.clip(layer.distance[1], WIDTHS[0] * size, WIDTHS[1] * size)
            )
            # Chosen by the area and not the half-width, so slopes with long tails do not reach all
            # potentials.
            width = spread * width_of_area(layer.surrogate)
            # A peak of one over the threshold is the usual slope in units of the threshold.
            move = FitSlope(name, (rounded(1 / size), rounded(width)))
            steep = outside("steepness", layer.steepness)
            if outside("reach", layer.reach) < 0:
                kind, text = (
                    "out of reach",
                    f"the mean slope is {layer.reach:.2g} times its peak",
                )
            elif steep:
                kind = "explodes" if steep > 0 else "vanishes"
                text = f"the peak of its slope times the threshold is {layer.steepness:.2g}"
            elif layer.reach is None:
                kind, text = (
                    "out of reach",
                    "its slope is 0 everywhere, or has no width",
                )
            elif anyway:
                kind, text = (
                    "unfit",
                    "its slope may not fit the spread of its potential",
                )
            else:
                continue
            if move.slot in self.slots:
                yield Finding(kind, name, text, (move,))

    def readout(self) -> Iterator[Finding]:
        """Yield a readout that is too large at the start."""
        ratio = self.report.loss / self.report.constant if self.report.constant else 0.0
        if outside("readout", ratio) <= 0:
            return
        for name in self.outputs:
            slots = [
                s for s in self.slots if s[:2] == (Scale, name) and s[2] != "recurrent"
            ]
            if slots and not self.report.layers[name].fires:
                evidence = (
                    f"the first loss is {ratio:.2g} times that of constant outputs"
                )
                moves = tuple(
                    Scale(name, self.report.readout, slot[2]) for slot in slots
                )
                yield Finding("too large", name, evidence, moves)

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def outputs(self) -> list[str]:
        """The names of the output layers."""
        return [name for name in self.graph.outputs if name in self.graph.layers]


def width_of_area(surrogate: Any) -> float:
    """Return the half-width of a slope with an area of its peak. Long tails make it narrow."""
    shape = measure(surrogate if has_width(surrogate) else Sigmoid())
    # Some slopes have an infinite area. They are treated like a sigmoid.
    shape = shape if math.isfinite(shape.area) else measure(Sigmoid())
    return shape.half_width * shape.peak / shape.area


def rounded_decay(steps: int) -> float:
    """Return the decay factor with a time constant of these steps."""
    return round(1 - 1 / max(steps, 2), 3)


def _array(layer: Any, part: str) -> Any:
    field, _, source = part.partition("[")
    value = getattr(layer, field)
    value = value[source.strip("[]'\"")] if source else value
    return value.weight if isinstance(value, (Delayed, Window)) else value
