"""The search: moves that bring each measure into its band, judged by short trainings."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .._pytree import is_array
from .._struct import domain
from ..network import Join
from ..neurons import parameters_of
from ..surrogates import Sigmoid, measure
from .measures import BANDS, SMALLER, measuring, outside
from .moves import (
    PARTS,
    Center,
    FitSlope,
    Move,
    Moves,
    ReplaceSlope,
    Scale,
    SetParameter,
    Standardize,
    by_slot,
    has_mean,
    has_width,
    neutral_moves,
    numbers_of,
    rounded,
)
from .report import Issue
from .trial import DECADE, FACTOR, LITTLE, Problem

UNUSUAL = 5.0
"""A parameter is unusual if it is this factor from its default, or has the other sign."""
WIDEST = 2.0
"""Slopes are fitted to the spread of the potential up to this number of thresholds, because wider
ones are less specific."""
FADING = 0.7
"""The feedback of scaled recurrent weights. From 1 on, activity grows, and far below it has no
memory."""
TEXTS = {
    # Neurons that fire at rest explain the measures below.
    "scale": "the threshold is {:.2g} above the rest, so it fires at rest",
    "firing": "{:.0%} of its neurons ever fire",
    "drive": "without spikes, the spread of its potential is {:.2g} times the distance to the "
    "threshold",
    "rate": "it fires at {:.2g} per step",
    "recoil": "its spikes spread its potential to {:.2g} times that without them",
    "offset": "the mean of its potential is {:.2g} times its spread",
    "feedback": "its recurrent weights amplify by {:.2g} per step",
}
"""The measures of an activity, in the order of their causes."""
ATTEMPTS = 5
"""The largest number of moves of one layer."""


def inspect_inputs(problem: Problem) -> Iterator[Issue]:
    """Yield inputs with an unusual size or mean, channel by channel."""
    for name, x in problem.inputs.items():
        # In float32, because sums over half precision or uint8 would overflow.
        values = np.asarray(x, np.float32)[problem.valid]  # (valid steps, ...)
        edges = problem.network.graph.edges
        reader = next(n for n in edges if any(e.source == name for e in edges[n]))
        if not values.any():
            evidence = "its inputs are zero"
            if x.any():
                evidence = "the mask excludes every step with inputs that are not zero"
            yield Issue("silent", reader, evidence)
        mean, spread = values.mean(0), values.std(0)
        # Zeros do not count, because the size of a rare spike should not depend on its rate.
        size = np.sqrt((values**2).sum(0) / np.maximum((values != 0).sum(0), 1))
        # A channel may hardly vary. Its mean is compared with the spread of a usual channel too,
        # so such a channel does not count as shifted.
        least = np.maximum(spread, np.median(spread))
        offset = (spread > 0) & (np.abs(mean) > FACTOR * least)
        # The mean of spikes is their rate, which is no shift.
        offset &= not np.isin(values, (0, 1)).all()
        # Once the mean is subtracted, the spread is the size that the weights get.
        size = np.where(offset, spread, size)
        used = size > 0
        off = used & (size != np.clip(size, *BANDS["inputs"]))
        if not (off | offset).any():
            continue
        # Only channels outside of the band are divided, so the channels within it stay.
        scale = np.where(off, size, 1.0)
        shift = np.where(offset, mean, 0.0)
        means, sizes = (f"{x.min():.2g} to {x.max():.2g}" for x in (mean, size[used]))
        evidence = (
            f"{(off | offset).sum()} of {size.size} input channels are unusual; means are from "
            f"{means}, sizes from {sizes}"
        )
        move = Standardize(name, (np.float32(shift), np.float32(scale)))
        yield Issue("unscaled", reader, evidence, (move,))


def state_of(layer: Any) -> tuple[str, str]:
    """Return the kind and the evidence of an activity outside of its band, or empty strings."""
    values = {name: getattr(layer, name) for name in TEXTS}
    sides = {name: outside(name, value) for name, value in values.items()}
    name = next((name for name, side in sides.items() if side), None)
    if name is None:
        return "", ""
    is_low = sides[name] < 0 and name != "scale"
    return "silent" if is_low else "saturated", "; ".join(
        TEXTS[name].format(value)
        for name, value in values.items()
        if sides[name] or (name == "drive" and value is not None)
    )


def activity_moves(layer: Any, report: Any, slots: Mapping) -> Iterator[Move]:
    """Yield moves against too few or too many spikes, the most specific first."""
    place, cell = report.place, parameters_of(layer.cell)
    # Unusual numbers of a cell first: one wrong number explains more than a scale of all weights.
    numbers: list[tuple[float, Move]] = []
    for field in numbers_of(cell):
        values, default = getattr(cell, field.name), field.default
        # Decay factors have an upper bound of 1. Their ratio to a default says nothing, since 0.9
        # and 0.999 differ by a factor of 100 in time.
        if not isinstance(default, float) or domain(field).at_most is not None:
            continue
        value = float(np.mean(values))
        ratio = value / (default or 1.0)
        if value and not 1 / UNUSUAL < ratio < UNUSUAL:
            move = SetParameter(place, default + 0 * values, field.name)
            numbers.append((-abs(math.log(abs(ratio))), move))
    for _, move in sorted(numbers, key=operator.itemgetter(0)):
        yield move
    for part in PARTS:
        leaves = jax.tree.leaves(getattr(layer, part))
        arrays = [np.float32(leaf) for leaf in leaves if has_mean(part, leaf)]
        # A bias acts on the potential itself, so it is compared with the threshold. The mean of a
        # matrix or a kernel matters relative to its spread.
        is_shifted = any(
            abs(a.mean())
            > (abs(report.scale or 1.0) if part == "bias" else a.std() / FACTOR)
            for a in arrays
        )
        if report.offset and is_shifted:
            yield Center(place, 1.0, part)
    if outside("feedback", report.feedback) > 0:
        yield Scale(place, FADING / report.feedback, "recurrent")
    if report.drive == 0:
        return
    # The potential without spikes is linear in the weights, so this factor reaches the target at
    # once. If the drive is fine but the rate is not, as in cells that rise by themselves, the
    # measure does not give a factor, so the search takes fixed steps.
    if outside("drive", report.drive):
        factor = 1 / report.drive
    else:
        factor = FACTOR if report.fires else DECADE
        factor = factor if state_of(report)[0] == "silent" else 1 / factor
    # Recurrent weights and the bias have moves of their own.
    yield from scales(slots, place, factor, "recurrent", "bias")


def scales(slots: Mapping, place: str, factor: float, *others: str) -> tuple[Move, ...]:
    """Return moves that scale the weights of a layer, all sources by one factor."""
    return tuple(
        dataclasses.replace(slot, value=factor)
        for slot in slots
        if slot.place == place and isinstance(slot, Scale) and slot.part not in others
    )


def fits(layer: Any, *moves: Move) -> bool:
    """Return False if the cell refuses these numbers together, such as a frequency for its dt."""
    try:
        for move in moves:
            layer = move.change(layer)
    except ValueError:
        return False
    return True


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
        self.slots = by_slot(neutral_moves(problem.network, problem.inputs))
        self.measure = measuring(problem, self.slots)
        self.deadline = time.monotonic() + (math.inf if budget is None else budget)
        self.progress = progress
        self.valid = problem.valid
        self.say("measuring")
        self.first = self.report = self.measure({})
        evidence = "its surrogate is not a field of the cell that it uses"
        self.hidden = [
            Issue("not measured", layer.place, evidence)
            for layer in self.first.layers.values()
            if layer.rate is not None and not layer.fires
        ]

    def say(self, stage: str) -> None:
        """Report a stage when it starts."""
        if self.progress:
            self.progress(stage)

    def add(self, issue: Issue) -> None:
        """Take an issue with its moves."""
        self.proposed.append(issue)
        if issue.fixes:
            self.take(issue.fixes)

    def take(self, moves: Sequence[Move]) -> None:
        """Measure the network with these moves too."""
        # Later layers are measured with the moves of earlier ones, because the spikes below are
        # the inputs above.
        self.moves = self.moves | by_slot(moves)
        self.report = self.measure(self.moves)

    @functools.cached_property
    def changes(self) -> list[Issue]:
        """The changes that the measures propose. Another training may propose more."""
        return self.propose()

    def propose(self, lasting: bool = False, anyway: bool = False) -> list[Issue]:
        """Return all measures outside of their bands, from the inputs to the outputs.

        With ``lasting``, the first inputs of a sequence count until its end, and with ``anyway``,
        all slopes are fitted.
        """
        self.proposed: list[Issue] = []
        self.moves, self.report = {}, self.first
        # Other memories change the potentials, so the activity is brought back afterwards.
        for issue in (
            *inspect_inputs(self.problem),
            *self.idle(),
            *self.alike(),
            *self.memories(lasting),
        ):
            self.add(issue)
        self.mend_activity()
        for issue in (*self.slopes(anyway), *self.readout()):
            self.add(issue)
        if outside("decay", self.first.decay) > 0:
            evidence = f"an update without gradients removes {self.first.decay:.0%} of the weights"
            self.add(Issue("shrinks", None, evidence))
        if not self.proposed and self.first.reads.any():
            # Gradients flow from the outputs, so they are lost at the last of these layers.
            layers = self.first.layers.values()
            for name in [r.place for r in layers if r.gradient == 0][-1:]:
                self.add(Issue("vanishes", name, "the gradient of its weights is 0"))
        return self.proposed

    def idle(self) -> Iterator[Issue]:
        """Yield a mask and a loss that pass nothing on."""
        examples = self.valid.any(0)
        if not examples.all():
            evidence = (
                f"the mask leaves no step of {(~examples).sum()} of {examples.size} examples; "
                "True marks a valid step"
            )
            yield Issue("silent", None, evidence)
        for name, edges in self.graph.edges.items():
            lag = min(
                (min(edge.lags) for edge in edges if edge.source != name), default=0
            )
            if lag >= len(self.valid):
                evidence = f"its delay of {lag} steps is longer than the sequence"
                yield Issue("silent", name, evidence)
        reads, differ = self.first.reads, self.differ
        last = np.flatnonzero(reads).max(initial=-1)
        is_late = differ[: last + 1].sum() <= differ.sum() / DECADE
        if last >= 0 and is_late and examples.size > 1:
            evidence = (
                f"the loss reads no outputs after step {last}, when the inputs have hardly "
                "differed between examples"
            )
            yield Issue("vanishes", None, evidence)
        # Not for outputs of NaN, whose gradient says nothing.
        elif last < 0 and any(
            abs(self.first.outputs[n]).max() > 0 for n in self.graph.outputs
        ):
            evidence = (
                "the gradient of the loss in the outputs is 0, as with an argmax in it"
            )
            yield Issue("vanishes", None, evidence)

    def alike(self) -> Iterator[Issue]:
        """Yield layers of neurons with equal weights, which get equal updates."""
        for name, layer in self.graph.layers.items():
            # In NumPy, because JAX would compile each operation.
            arrays = map(np.asarray, filter(is_array, layer.weights.values()))
            # w: (inputs, neurons). Matrices of zeros and of one neuron are not a symptom.
            varies = [
                np.ptp(w, 1).any() for w in arrays if w.ndim == 2 and w[:, 1:].any()
            ]
            if varies and not any(varies):
                evidence = "its neurons have equal weights, and equal updates"
                yield Issue("alike", name, evidence)

    def mend_activity(self) -> None:
        """Bring the activity of each node into its band, in the order of a step."""
        hopeless = [issue.place for issue in self.proposed if not issue.fixes]
        for name, node in self.graph.nodes.items():
            if name not in hopeless:
                self.proposed += [*self.blocked(name, node), *self.mended(name, node)]

    def blocked(self, name: str, node: Any) -> Iterator[Issue]:
        """Yield a node that passes nothing on, although its sources do."""
        outputs = {**self.report.outputs, **self.problem.inputs}
        below = {edge.source for edge in self.graph.edges[name]} - {name}
        if not all(outputs[source].any() for source in below):
            return
        if not isinstance(node, Join):
            if self.report.layers[name].drive == 0:
                yield Issue("silent", name, "its currents are 0, as its weights are")
        elif not outputs[name].any():
            evidence = (
                "the outputs of this join are 0, and those of its sources are not"
            )
            yield Issue("silent", name, evidence)
        elif not self.report.joins[name]:
            yield Issue("vanishes", name, "the derivative of this join is 0")

    def mended(self, name: str, layer: Any) -> Iterator[Issue]:
        """Yield the moves that bring the activity of a layer into its band."""
        if isinstance(layer, Join) or self.report.layers[name].drive == 0:
            return
        kind, evidence = state_of(self.report.layers[name])
        # The moves of one layer are one issue, because two of them may help only together.
        fixes: Moves = {}
        tried: set[Move] = set()
        for _ in range(ATTEMPTS):
            now, before = self.report.layers[name], self.moves
            # Each kind of move is tried once. Only scales repeat, since the drive of a
            # nonlinear cell needs several steps.
            moves = [
                move
                for move in activity_moves(layer, now, self.slots)
                if fits(layer, *fixes.values(), move)
                if isinstance(move, Scale) or move.slot not in tried
            ]
            if not (state_of(now)[0] and moves):
                break
            move = min(moves, key=lambda move: move.slot in tried)
            if isinstance(move, Scale):
                value = before.get(move.slot, self.slots[move.slot]).value
                move = dataclasses.replace(move, value=rounded(move.value * value))
            tried.add(move.slot)
            self.take([move])
            # A number that only moves the drive farther from its target is no cause.
            after = self.report.layers[name].drive or 1.0
            farther = abs(math.log(after)) > abs(math.log(now.drive or 1.0)) + LITTLE
            is_worse = outside("drive", after) and farther
            if is_worse and isinstance(move, SetParameter):
                self.moves = before
                self.take([])
            else:
                fixes[move.slot] = move
        if kind:
            yield Issue(kind, name, evidence, tuple(fixes.values()))

    def memories(self, lasting: bool) -> Iterator[Issue]:
        """Yield memories that grow, or do not fit the steps from the inputs to the loss."""
        steps = len(self.valid)
        gap = steps if lasting else self.gap()
        decays: list[Any] = [
            self.slots[SetParameter(name, None, field.name)]
            for name, layer in self.graph.layers.items()
            for field in numbers_of(parameters_of(layer.cell))
            # Numbers from 0 to 1 are decay factors.
            if domain(field).bounds == (0, 1)
        ]

        def remembering(move, time):
            # The decay factor with a time constant of these steps.
            decay = round(1 - 1 / max(time, 2), 3)
            return dataclasses.replace(move, value=decay + 0 * move.value)

        for move in decays:
            # Readouts without leak are usual, and a memory longer than the sequence may be.
            if (decay := np.max(move.value)) > 1 - lasting / steps:
                # With a normalized input, the potential is small instead.
                state = state_of(self.first.layers[move.place])[0] or "saturated"
                kind = "explodes" if decay > 1 else state
                evidence = f"its {move.parameter} of {decay:.6g} forgets no input"
                shorter = remembering(move, steps / DECADE)
                yield Issue(kind, move.place, evidence, (shorter,))

        def time_of(move):
            # The time constant of d is about 1 / (1 - d) steps.
            return 1 / max(1 - np.max(move.value), 1e-6)

        # The membrane is preferred, because every kind of neuron has it.
        membranes = [move for move in decays if move.parameter == "decay"] or decays
        membranes = sorted(membranes, key=time_of)
        short = [move for move in membranes if time_of(move) < gap]
        # After three time constants a twentieth of an input is left.
        if short and (lasting or gap > FACTOR * time_of(membranes[-1])):
            evidence = (
                f"the loss may read an input {gap} steps later, and its time constant is "
                f"{time_of(short[0]):.2g} steps"
            )
            moves = tuple(remembering(move, gap) for move in short)
            yield Issue("forgets", short[0].place, evidence, moves)

    def gap(self) -> int:
        """Return the steps from the last differences of the inputs to the first reading of them."""
        differ = self.differ
        reads = np.nan_to_num(self.report.reads)
        if not differ.any():
            return 0
        # The step by which the inputs have shown all but the last tenth of their differences, so
        # that noise at the end does not hide a gap.
        shown = np.searchsorted(differ.cumsum(), (1 - 1 / DECADE) * differ.sum())
        read = np.searchsorted(reads.cumsum(), reads.sum() / DECADE)
        return max(int(read - shown), 0)

    @property
    def differ(self) -> np.ndarray:
        """The spread of the inputs over the examples, ``(steps,)``.

        Inputs that are equal for all examples carry no information.
        """
        spreads = [
            np.asarray(x, np.float32).std(1).reshape(len(self.valid), -1).sum(1)
            for x in self.problem.inputs.values()
        ]
        return np.sum(spreads, 0)

    def slopes(self, anyway: bool) -> Iterator[Issue]:
        """Yield slopes that miss the potentials, or are too steep or flat."""
        for name, layer in self.report.layers.items():
            steep = outside("steepness", layer.steepness)
            is_missed = outside("reach", layer.reach) < 0
            if not (layer.distance and (is_missed or steep or anyway)):
                continue
            size = abs(layer.scale or 0.0) or 1.0
            # Narrower slopes than a tenth of the widest would miss the potentials.
            widest = WIDEST * size
            spread = np.clip(layer.distance[1], widest / DECADE, widest)
            fit = FitSlope if has_width(layer.surrogate) else ReplaceSlope
            shape = measure(layer.surrogate if fit is FitSlope else Sigmoid())
            # Chosen by the area and not the half-width, so slopes with long tails do not reach all
            # potentials. Some slopes have an infinite area.
            width = spread * (shape.half_width * shape.peak / shape.area or 0.5)
            kind = "explodes" if steep > 0 else "vanishes"
            kind = kind if steep and not is_missed else "out of reach"
            text = (
                f"its mean slope is {layer.reach:.2g} times its peak, which is "
                f"{layer.steepness:.2g} over the threshold"
            )
            # A peak of one over the threshold is the usual slope in units of the threshold.
            move = fit(name, (rounded(1 / size), rounded(width)))
            yield Issue(kind, name, text, (move,))

    def readout(self) -> Iterator[Issue]:
        """Yield a readout that is too large at the start."""
        first, constant = self.report.loss, self.report.constant
        if not 0 < FACTOR * constant < first:
            return
        # Also readouts below a join that is the output.
        for name, layer in self.report.layers.items():
            if not layer.fires:
                evidence = (
                    f"the first loss is {first / constant:.2g} times that of constants"
                )
                fixes = self.shrunk(name, constant * FACTOR / 2)
                yield Issue("too large", name, evidence, fixes)

    def shrunk(self, name: str, most: float) -> tuple[Move, ...]:
        """Return moves of a layer to a tenth, a hundredth, ..., with a loss of less than most."""
        for factor in SMALLER:
            moves = scales(self.slots, name, factor, "recurrent")
            if self.measure(self.moves | by_slot(moves)).loss < most:
                return moves
        return ()

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.deadline
