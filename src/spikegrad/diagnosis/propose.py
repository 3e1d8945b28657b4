"""Proposals: the measures outside of their bands, each with moves that bring it back.

Everything goes from the inputs to the outputs. A layer is measured with the moves of the layers
below, because the spikes below are the inputs above.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._pytree import is_real_array
from .._struct import domain
from ..network import Join, Layer, Network, is_kernel
from ..neurons import Cell, Refractory, parameters_of
from ..surrogates import Sigmoid, measure
from .attainable import Attainable, attainable_loss
from .measures import BANDS, LayerReport, NetworkReport, measuring, outside
from .moves import (
    PARTS,
    AddBias,
    CellMove,
    DrawDelays,
    DrawWeights,
    FitSlope,
    Move,
    Moves,
    ReplaceNaN,
    ReplaceSlope,
    ScaleEntry,
    ScalePart,
    SetParameter,
    ShortenDelays,
    ShortenRest,
    Standardize,
    by_slot,
    centering,
    has_equal_neurons,
    has_mean,
    has_width,
    is_function,
    kernels_of,
    matrices_of,
    moves_of,
    neutral_moves,
    numbers_of,
    present_number,
    rounded,
)
from .report import Issue
from .trial import LEARNS, LITTLE, Problem, symbols_of

UNUSUAL = 5.0
"""A parameter is unusual if it is this factor from its default, or has the other sign."""
SHIFTED = 3.0
"""A mean is a shift if it exceeds this number of spreads. The mean of a matrix of weights counts
from a third of its spread on, because many inputs add it up."""
STEP, SPIKING_STEP = 10.0, 3.0
"""Factors of weights if the measures do not tell the factor. Spikes show the effect of a smaller
one."""
SMALLER = (0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Factors of weights that are too large."""
HUGE, SMALLEST = 1e15, 1.2e-38
"""Weights that are larger overflow float32 in products of a few layers. The second number is the
smallest factor against it."""
TOO_LARGE = 3.0
"""The first loss over that of constant outputs, from which on a readout is too large. Both are
measured from the lowest loss on. Other scales learn more slowly and do not fail."""
FREE = 0.5
"""A readout whose outputs saturate the loss is scaled until the gradient in its outputs is this
part of that at outputs of 0. With less, outputs that grow in the first updates saturate it again
before they differ between examples."""
WIDEST = 2.0
"""Slopes are fitted to the spread of the potential up to this number of thresholds, because wider
ones are less specific."""
NARROWEST = 0.1
"""Slopes are not fitted to less than this part of the widest, which would miss the potentials."""
FADING = 0.7
"""The feedback of scaled recurrent weights. From 1 on, activity grows, and far below it has no
memory."""
SHOWN, HARDLY = 0.9, 0.1
"""The inputs are shown by the step that has this first part of their differences, so noise at the
end does not hide a gap. The loss reads from the step on that has the second part of its
gradient."""
LASTING = 3.0
"""A gap may have this number of time constants. After three, a twentieth of an input is left."""
SHORTER = 0.1
"""A memory that is too long gets this part of the sequence."""
SHORT_REST = 2
"""Steps of a refractory period that are usual."""
QUIET_BIAS = 0.01
"""Biases that differ by more than the threshold get this part of it, which a leak of a hundredth
adds up to the threshold."""
FEW_FIRE = 0.1
"""A layer is silent and not saturated if fewer of its neurons ever fire."""
ATTEMPTS = 5
"""The largest number of moves of one layer."""
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


@dataclasses.dataclass(frozen=True)
class Observed:
    """A network with its measures."""

    problem: Problem
    slots: Moves
    """Every move that is an argument of compiled programs, with its neutral value."""
    measure: Callable[[Moves], NetworkReport]
    """Measures the network with moves."""
    first: NetworkReport
    """The measures without moves."""

    @functools.cached_property
    def attainable(self) -> Attainable:
        """The loss that perfect outputs attain."""
        return attainable_loss(self.problem, self.first)


def observe(problem: Problem) -> Observed:
    """Measure a network."""
    problem = problem._replace(symbols=symbols_of(problem))
    # All moves with their neutral values are arguments of one program, so trying other values does
    # not compile.
    numbers = {n: x for n, x in problem.inputs.items() if n not in problem.symbols}
    slots = by_slot(neutral_moves(problem.network, numbers))
    measure = measuring(problem, slots)
    return Observed(problem, slots, measure, measure({}))


class Proposal(NamedTuple):
    """Issues with their moves, and the measures with these moves."""

    issues: tuple[Issue, ...]
    moves: Moves
    report: NetworkReport


def propose(
    network: Observed, *, lasting: bool = False, all_slopes: bool = False
) -> Proposal:
    """Return all measures outside of their bands, from the inputs to the outputs.

    With ``lasting``, the first inputs of a sequence count until its end, and with ``all_slopes``,
    all slopes are fitted.
    """
    # Other memories change the potentials, so the activity is brought back afterwards.
    proposal = _extended(
        network,
        Proposal((), {}, network.first),
        [
            *inspect_inputs(network.problem),
            *_idle(network),
            *equal_inputs(network),
            *_cut_off(network),
            *_alike(network),
            *memories(network, lasting),
        ],
    )
    # A measurement shows the effect of moves in slots only.
    hopeless = [
        issue.place
        for issue in proposal.issues
        if not any(
            move.slot in network.slots or not move.needs_measure for move in issue.fixes
        )
    ]
    for name, node in network.problem.network.graph.nodes.items():
        if name not in hopeless:
            blocked = tuple(_blocked(network, proposal, name, node))
            proposal = _extended(network, proposal, blocked)
            if isinstance(node, Layer):
                proposal = _brought_in_reach(network, proposal, name, node)
                proposal = _mended(network, proposal, name, node)
    proposal = _extended(
        network,
        proposal,
        [*_slopes(proposal.report, all_slopes), *_readout(network, proposal)],
    )
    return proposal._replace(issues=proposal.issues + _left_over(network, proposal))


def _extended(
    network: Observed, proposal: Proposal, issues: Iterable[Issue]
) -> Proposal:
    """Return the proposal with more issues and their moves."""
    added = moves_of(issues)
    moves = proposal.moves | added
    report = network.measure(moves) if added else proposal.report
    return Proposal((*proposal.issues, *issues), moves, report)


def _left_over(network: Observed, proposal: Proposal) -> tuple[Issue, ...]:
    """Return issues of the whole network that no other issue tells."""
    first = network.first
    issues = []
    if outside("decay", first.decay) > 0:
        evidence = (
            f"an update without gradients removes {first.decay:.0%} of the weights"
        )
        issues.append(Issue("shrinks", None, evidence))
    if not (proposal.issues or issues) and first.reads.any():
        # Gradients flow from the outputs, so they are lost at the last of these layers.
        lost = [layer.place for layer in first.layers.values() if layer.gradient == 0]
        issues += [
            Issue("vanishes", name, "the gradient of its weights is 0")
            for name in lost[-1:]
        ]
        issues += [
            Issue("vanishes", None, f"the inputs {name!r} of all examples are equal")
            for name in network.problem.inputs
            if _are_equal(network.problem, name)
        ]
    return tuple(issues)


# --- inputs, mask and loss -----------------------------------------------------------------------


def inspect_inputs(problem: Problem) -> Iterator[Issue]:
    """Yield inputs with an unusual size or mean, channel by channel."""
    edges = problem.network.graph.edges
    for name, x in problem.inputs.items():
        reader = next(
            (n for n in edges if any(e.source == name for e in edges[n])), None
        )
        if reader is None:
            evidence = (
                f"no layer reads the inputs {name!r}. Name them in of=, or among the weights of a "
                "layer"
            )
            yield Issue("silent", None, evidence)
            continue
        # In float32, because sums over half precision or uint8 would overflow.
        values = np.asarray(x, np.float32)[problem.valid]  # (valid steps, ...)
        if not values.any() and name not in problem.symbols:
            evidence = "its inputs are zero"
            if x.any():
                evidence = "the mask excludes every step with inputs that are not zero"
            yield Issue("silent", reader, evidence)
        # The size of a symbol, such as the index of a word, means nothing.
        if name not in problem.symbols:
            yield from _unscaled(name, reader, values)


def _unscaled(name: str, reader: str, values: np.ndarray) -> Iterator[Issue]:
    """Yield the issue of inputs ``(valid steps, ...)`` with channels of unusual size or mean."""
    mean, spread = values.mean(0), values.std(0)
    # Zeros do not count, because the size of a rare spike should not depend on its rate.
    count = np.maximum((values != 0).sum(0), 1)
    size = np.sqrt((values**2).sum(0) / count)
    # A channel may hardly vary. Its mean is compared with the spread of a usual channel too, so
    # such a channel does not count as shifted.
    least = np.maximum(spread, np.median(spread))
    offset = (spread > 0) & (np.abs(mean) > SHIFTED * least)
    # The mean of spikes is their rate, which is no shift.
    offset &= not np.isin(values, (0, 1)).all()
    # Once the mean is subtracted, the spread is the size that the weights get.
    size = np.where(offset, spread, size)
    used = size > 0
    off = used & (size != np.clip(size, *BANDS["inputs"]))
    if not (off | offset).any():
        return
    # Only channels outside of the band are divided, so the channels within it stay.
    scale = np.where(off, size, 1.0)
    shift = np.where(offset, mean, 0.0)
    means, sizes = (f"{x.min():.2g} to {x.max():.2g}" for x in (mean, size[used]))
    evidence = (
        f"{(off | offset).sum()} of {size.size} input channels are unusual. Means are from "
        f"{means}, sizes from {sizes}"
    )
    move = Standardize(name, (np.float32(shift), np.float32(scale)))
    yield Issue("unscaled", reader, evidence, (move,))


def _idle(network: Observed) -> Iterator[Issue]:
    """Yield a mask, a delay and a loss that pass nothing on."""
    problem, first = network.problem, network.first
    examples = problem.valid.any(0)
    steps = len(problem.valid)
    if not examples.all():
        evidence = (
            f"the mask leaves no step of {(~examples).sum()} of {examples.size} examples. "
            "True marks a valid step"
        )
        yield Issue("silent", None, evidence)
    graph = problem.network.graph
    for name, edges in graph.edges.items():
        lag = min((min(edge.lags) for edge in edges if edge.source != name), default=0)
        if lag >= steps:
            evidence = f"its delay of {lag} steps is longer than the sequence"
            fixes = ()
            if isinstance(graph.nodes[name], Layer):
                fixes = (ShortenDelays(name, 1, steps),)
            yield Issue("silent", name, evidence, fixes)
        elif delays := _learned_delays(graph.nodes[name]):
            left = steps - lag
            if min(delays) >= left:
                evidence = (
                    f"its learned delays of {min(delays):.3g} to {max(delays):.3g} steps are "
                    f"longer than the sequence, which has {steps}"
                )
                fix = DrawDelays(name, max(left // 2, 2))
                yield Issue("silent", name, evidence, (fix,))
    differ = _differences(problem)
    last = np.flatnonzero(first.reads).max(initial=-1)
    is_late = differ[: last + 1].sum() <= HARDLY * differ.sum()
    if last >= 0 and is_late and examples.size > 1 and differ.any():
        evidence = (
            f"the loss reads no outputs after step {last}, when the inputs have hardly "
            "differed between examples"
        )
        yield Issue("vanishes", None, evidence)


def _learned_delays(node: Layer | Join) -> list[float]:
    """Return the learned delays of a layer in steps."""
    kernels = kernels_of(node.weight) if isinstance(node, Layer) else []
    arrays = [jnp.asarray(kernel.delay) for kernel in kernels]
    return [delay for array in arrays for delay in np.ravel(array).tolist()]


def equal_inputs(network: Observed) -> Iterator[Issue]:
    """Yield inputs that are equal for all examples of a loss."""
    if network.first.reads.any() and _are_equal(
        network.problem, *network.problem.inputs
    ):
        yield Issue("vanishes", None, "the inputs of all examples are equal")


def _are_equal(problem: Problem, *names: str) -> bool:
    """Return True if the inputs of these names are equal for all examples."""
    chosen = {name: problem.inputs[name] for name in names}
    differ = _differences(problem._replace(inputs=chosen))
    return problem.valid.shape[1] > 1 and not differ.any()


def _cut_off(network: Observed) -> Iterator[Issue]:
    """Yield functions without a derivative, and neurons that rest until the end."""
    for name, derivatives in network.first.functions.items():
        if any(weight.arrays == 0 for weight in derivatives):
            evidence = (
                "the gradient of its weights is 0, because its function has no derivative in its "
                "arrays, as after stop_gradient"
            )
            yield Issue("vanishes", name, evidence)
        elif any(weight.inputs == 0 for weight in derivatives):
            evidence = (
                "its weights pass no gradient on, because their function has no derivative in its "
                "inputs, as after stop_gradient"
            )
            yield Issue("vanishes", name, evidence)
    steps = len(network.problem.valid)
    for name, layer in network.problem.network.graph.layers.items():
        if isinstance(layer.cell, Refractory) and layer.cell.steps >= steps:
            evidence = (
                f"its neurons rest for {layer.cell.steps} steps after a spike, and the sequence "
                f"has {steps}"
            )
            yield Issue("silent", name, evidence, (ShortenRest(name, SHORT_REST),))


def _alike(network: Observed) -> Iterator[Issue]:
    """Yield layers of neurons with equal weights, which get equal updates."""
    for name, layer in network.problem.network.graph.layers.items():
        # The matrices of a function may have another meaning.
        if is_function(layer.weight):
            continue
        # Weights of 0 are usual for a readout, and other layers are then silent. The sum of random
        # numbers over the inputs should be as large as the sum of the equal weights.
        sizes = [
            abs(w).mean(dtype=np.float64) * math.sqrt(w.size / w.shape[-1])
            for w in matrices_of(layer.weight)
        ]
        if any(sizes) and has_equal_neurons((layer.weight, layer.recurrent)):
            evidence = "its neurons have equal weights, and equal updates"
            draw = DrawWeights(name, rounded(max(sizes)))
            yield Issue("alike", name, evidence, (draw,))


# --- memory --------------------------------------------------------------------------------------


def memories(network: Observed, lasting: bool) -> Iterator[Issue]:
    """Yield memories that grow, or do not fit the steps from the inputs to the loss."""
    problem = network.problem
    steps = len(problem.valid)
    decays = [
        present_number(name, layer.cell, field.name)
        for name, layer in problem.network.graph.layers.items()
        for field in numbers_of(parameters_of(layer.cell))
        # Numbers from 0 to 1 are decay factors.
        if domain(field).bounds == (0, 1)
    ]
    # Readouts without leak are usual, and a memory longer than the sequence may be.
    longest = 1 - 1 / steps if lasting else 1.0
    for move in decays:
        if (decay := np.max(move.number)) > longest:
            # With a normalized input, the potential is small instead.
            state = state_of(network.first.layers[move.place])[0] or "saturated"
            kind = "explodes" if decay > 1 else state
            evidence = f"its {move.parameter} of {decay:.6g} forgets no input"
            shorter = _remembering(move, steps * SHORTER)
            if _fits(network, by_slot([shorter])):
                yield Issue(kind, move.place, evidence, (shorter,))
    # The membrane is preferred, because every kind of neuron has it.
    membranes = [move for move in decays if move.parameter == "decay"] or decays
    membranes = sorted(membranes, key=_time_constant)
    gap = steps if lasting else _gap(network)
    short = [move for move in membranes if _time_constant(move) < gap]
    if short and (lasting or gap > LASTING * _time_constant(membranes[-1])):
        evidence = (
            f"the loss may read an input {gap} steps later, and its time constant is "
            f"{_time_constant(short[0]):.2g} steps"
        )
        moves: Moves = {}
        for move in short:
            longer = moves | by_slot([_remembering(move, gap)])
            moves = longer if _fits(network, longer) else moves
        if moves:
            yield Issue("forgets", short[0].place, evidence, tuple(moves.values()))


def _remembering(move: SetParameter, time: float) -> SetParameter:
    """Return the decay factor with a time constant of these steps."""
    decay = round(1 - 1 / max(time, 2), 3)
    return move.with_number(decay)


def _time_constant(move: SetParameter) -> float:
    # The time constant of d is about 1 / (1 - d) steps.
    return 1 / max(1 - float(np.max(move.number)), 1e-6)


def _gap(network: Observed) -> int:
    """Return the steps from the last differences of the inputs to the first reading of them."""
    differ = _differences(network.problem)
    reads = np.nan_to_num(network.first.reads)
    if not differ.any():
        return 0
    end = np.searchsorted(differ.cumsum(), SHOWN * differ.sum())
    read = np.searchsorted(reads.cumsum(), HARDLY * reads.sum())
    return max(int(read - end), 0)


def _differences(problem: Problem) -> np.ndarray:
    """Return the spread of the inputs over the examples, ``(steps,)``.

    Inputs that are equal for all examples carry no information.
    """
    spreads = []
    for x in problem.inputs.values():
        values = np.asarray(x, np.float32)  # (steps, examples, ...)
        # The mean of equal numbers is rounded, so their spread is not exactly 0.
        spread = np.where(np.ptp(values, 1) > 0, values.std(1), 0)
        spreads.append(spread.reshape(len(x), -1).sum(1))
    return np.sum(spreads, 0)


# --- activity ------------------------------------------------------------------------------------


def state_of(layer: LayerReport) -> tuple[str, str]:
    """Return the kind and the evidence of an activity outside of its band, or empty strings."""
    values = {name: getattr(layer, name) for name in TEXTS}
    sides = {name: outside(name, value) for name, value in values.items()}
    name = next((name for name, side in sides.items() if side), None)
    if name is None:
        return "", ""
    # A mean far below the threshold silences neurons, however large the spread around it is.
    is_low = (sides[name] < 0 or sides["offset"] < 0) and name != "scale"
    # A few neurons that always fire spread the potential, although most neurons are silent.
    is_sparse = layer.firing is not None and layer.firing <= FEW_FIRE
    # Spikes that lower the potential silence the neurons afterwards, as an adaptation does.
    is_lowered = name == "recoil" and _is_lowered(layer)
    is_low = is_low or is_lowered or (is_sparse and name != "scale")
    return "silent" if is_low else "saturated", "; ".join(
        TEXTS[name].format(value)
        for name, value in values.items()
        if sides[name]
        or (name == "drive" and value is not None and not math.isnan(value))
        or (name == "firing" and is_sparse)
    )


def _is_lowered(layer: LayerReport) -> bool:
    """Return True if the potential with spikes is below that at rest."""
    assert layer.distance is not None
    mean, spread = layer.distance
    return mean + (layer.scale or 0.0) < -spread / SHIFTED


def _blocked(
    network: Observed, proposal: Proposal, name: str, node: Layer | Join
) -> Iterator[Issue]:
    """Yield a node that passes nothing on, although its sources do."""
    report = proposal.report
    outputs = {**report.outputs, **network.problem.inputs}
    edges = network.problem.network.graph.edges[name]
    below = {edge.source for edge in edges} - {name}
    if not all(outputs[source].any() for source in below):
        return
    if not isinstance(node, Join):
        layer = report.layers[name]
        if layer.drive == 0:
            fixes = _drawn(network, proposal, name, node)
            yield Issue("silent", name, "its currents are 0, as its weights are", fixes)
        # Weights of 0 are usual for a readout, but not below a normalization, for example.
        elif _is_stuck(layer) and not outputs[name].any():
            evidence = "its outputs are 0, and the gradient of its weights is 0 or NaN"
            fixes = _drawn(network, proposal, name, node)
            yield Issue("vanishes", name, evidence, fixes)
    elif not outputs[name].any():
        evidence = "the outputs of this join are 0, and those of its sources are not"
        fixes = _opened(network, proposal, name, below)
        yield Issue("silent", name, evidence, fixes)
    elif not report.joins[name]:
        yield Issue("vanishes", name, "the derivative of this join is 0")


def _is_stuck(layer: LayerReport) -> bool:
    """Return True for a readout with a gradient of 0 or NaN."""
    has_gradient = layer.gradient is None or layer.gradient > 0
    return layer.rate is None and not has_gradient


def _drawn(
    network: Observed, proposal: Proposal, name: str, layer: Layer
) -> tuple[DrawWeights, ...]:
    """Return the move that draws weights of 0, if there are such, at the scale of the threshold."""
    draw = DrawWeights(name, 1.0)
    if draw.slot not in network.slots:
        return ()
    drive = network.measure(proposal.moves | by_slot([draw])).layers[name].drive
    if drive and math.isfinite(drive):
        # The potential without spikes is linear in the weights.
        return (dataclasses.replace(draw, value=rounded(1 / drive)),)
    # Nonlinear cells and readouts have no such measure. The sum over the inputs is then about as
    # large as one of them.
    inputs = max(w.size / w.shape[-1] for w in matrices_of(layer.weight))
    return (dataclasses.replace(draw, value=rounded(1 / math.sqrt(inputs))),)


def _opened(
    network: Observed, proposal: Proposal, name: str, below: Iterable[str]
) -> tuple[Move, ...]:
    """Return the move of one layer below a join with which the outputs of the join are not 0.

    The join may have a gate that the bias of this layer closes.
    """
    layers = network.problem.network.graph.layers
    for source in below:
        if source not in layers:
            continue
        for move in _specific(layers[source], proposal.report.layers[source]):
            moves = proposal.moves | by_slot([move])
            if _fits(network, moves) and network.measure(moves).outputs[name].any():
                return (move,)
    return ()


def _brought_in_reach(
    network: Observed, proposal: Proposal, name: str, layer: Layer
) -> Proposal:
    """Return the proposal with the move of one number or mean that puts the slope out of reach.

    Some neurons may fire although the threshold is far above most potentials. Then the number
    explains more than the slope, and the layers above get too few spikes because of it.
    """
    before = proposal.report.layers[name]
    kind, evidence = slope_state_of(before)
    # Activity outside of its band has other moves too.
    if not kind or state_of(before)[0]:
        return proposal
    for move in _specific(layer, before):
        moves = proposal.moves | by_slot([move])
        if _fits(network, moves):
            report = network.measure(moves)
            if not slope_state_of(report.layers[name])[0]:
                issue = Issue(kind, name, evidence, (move,))
                return Proposal((*proposal.issues, issue), moves, report)
    return proposal


def _mended(network: Observed, proposal: Proposal, name: str, layer: Layer) -> Proposal:
    """Return the proposal with moves that bring the activity of a layer into its band."""
    kind, evidence = state_of(proposal.report.layers[name])
    if not kind or proposal.report.layers[name].drive == 0:
        return proposal
    for move in _entries(network, proposal, name):
        moves = proposal.moves | by_slot([move])
        report = network.measure(moves)
        if not state_of(report.layers[name])[0]:
            issue = Issue(kind, name, evidence, (move,))
            return Proposal((*proposal.issues, issue), moves, report)
    # The moves of one layer are one issue, because two of them may help only together.
    fixes: Moves = {}
    tried: set[Move] = set()
    moves, report = proposal.moves, proposal.report
    for _ in range(ATTEMPTS):
        now = report.layers[name]
        # Each kind of move is tried once. Only scales repeat, since the drive of a nonlinear cell
        # needs several steps.
        candidates = [
            move
            for move in activity_moves(layer, now, network.slots)
            if _fits(network, moves | by_slot([move]))
            if isinstance(move, ScalePart) or move.slot not in tried
        ]
        if not (state_of(now)[0] and candidates):
            break
        move = min(candidates, key=lambda move: move.slot in tried)
        if isinstance(move, ScalePart):
            value = moves.get(move.slot, network.slots[move.slot]).value
            move = dataclasses.replace(move, value=rounded(move.value * value))
        tried.add(move.slot)
        changed = network.measure(moves | by_slot([move]))
        # A number that only moves the drive farther from its target is no cause. A threshold below
        # the rest is one, whatever the drive is.
        after = changed.layers[name].drive or 1.0
        farther = abs(math.log(after)) > abs(math.log(now.drive or 1.0)) + LITTLE
        is_worse = outside("drive", after) and farther
        is_mended = outside("scale", now.scale) != outside(
            "scale", changed.layers[name].scale
        )
        if is_mended or not (is_worse and isinstance(move, SetParameter)):
            fixes[move.slot] = move
            moves, report = moves | by_slot([move]), changed
    issue = Issue(kind, name, evidence, tuple(fixes.values()))
    return Proposal((*proposal.issues, issue), moves, report)


def _entries(network: Observed, proposal: Proposal, name: str) -> Iterator[Move]:
    """Yield the scales of the weights of single sources that are far larger or smaller than those
    of the others.
    """
    layer = proposal.report.layers[name]
    slots = [
        slot
        for slot in network.slots
        if slot.place == name and isinstance(slot, ScaleEntry)
    ]
    if layer.drive is None or not slots:
        return
    if outside("drive", layer.drive) > 0:
        for slot in slots:
            yield dataclasses.replace(slot, value=rounded(1 / layer.drive))
    elif state_of(layer)[0] == "silent":
        drives = {}
        for slot in slots:
            others = [dataclasses.replace(o, value=0.0) for o in slots if o is not slot]
            report = network.measure(proposal.moves | by_slot(others))
            drives[slot] = report.layers[name].drive or 0.0
        # The neurons may need coincident spikes of several sources.
        weakest = min(slots, key=drives.__getitem__)
        if 0 < STEP * drives[weakest] < max(drives.values()):
            factor = max(drives.values()) / drives[weakest]
            yield dataclasses.replace(weakest, value=rounded(factor))


def activity_moves(layer: Layer, report: LayerReport, slots: Moves) -> Iterator[Move]:
    """Yield moves against too few or too many spikes, the most specific first."""
    place = report.place
    yield from _specific(layer, report)
    if report.feedback is not None and outside("feedback", report.feedback) > 0:
        yield from scales(slots, place, FADING / report.feedback, "weight", "bias")
    if report.drive == 0:
        return
    # The potential without spikes is linear in the weights, so this factor reaches the target at
    # once. If the drive is fine but the rate is not, as in cells that rise by themselves, the
    # measure does not give a factor, so the search takes fixed steps.
    if report.drive is not None and outside("drive", report.drive):
        factor = 1 / report.drive
    else:
        factor = SPIKING_STEP if report.fires else STEP
        factor = factor if state_of(report)[0] == "silent" else 1 / factor
    # Recurrent weights and the bias have moves of their own.
    yield from scales(slots, place, factor, "recurrent", "bias")


def _specific(layer: Layer, report: LayerReport) -> Iterator[Move]:
    """Yield moves of one number or mean, which explain more than a scale of all weights."""
    yield from _unusual_numbers(report.place, parameters_of(layer.cell))
    yield from _shifts(layer, report)


def _shifts(layer: Layer, report: LayerReport) -> Iterator[Move]:
    """Yield moves against the mean of the potential, of the current, the weights and the bias."""
    # A distance of 0 from rest to the threshold would count any current.
    size = abs(report.scale or 1.0)
    current = report.current
    # It acts on the potential itself, as a bias, so it is compared with the threshold.
    # A cell without a threshold, such as Relu, has no offset to measure.
    is_off = report.offset is None or report.offset != 0
    if is_off and current is not None and abs(current).mean() > size:
        yield AddBias(report.place, -current)
    for part in PARTS:
        weights = getattr(layer, part)
        leaves = jax.tree.leaves(weights, is_leaf=is_kernel)
        # Delays are no weights.
        leaves = [leaf.weight if is_kernel(leaf) else leaf for leaf in leaves]
        arrays = [np.float32(leaf) for leaf in leaves if has_mean(part, leaf)]
        # A bias acts on the potential itself, so it is compared with the threshold. The mean of a
        # matrix or a kernel matters relative to its spread.
        is_shifted = any(
            abs(a.mean()) > (size if part == "bias" else a.std() / SHIFTED)
            for a in arrays
        )
        if part == "bias" and any(np.ptp(a) > size for a in arrays):
            # The mean of such biases would only move the silent neurons into saturation.
            largest = max(float(abs(a).max()) for a in arrays)
            yield ScalePart(report.place, rounded(QUIET_BIAS * size / largest), part)
        elif is_shifted and is_off:
            yield centering(report.place, weights, part, 1.0)


def _unusual_numbers(place: str, cell: Cell) -> Iterator[Move]:
    """Yield the defaults of unusual numbers of a cell, the most unusual first."""
    numbers: list[tuple[float, Move]] = []
    for field in numbers_of(cell):
        present, default = present_number(place, cell, field.name), field.default
        # Decay factors have an upper bound of 1. Their ratio to a default says nothing, since 0.9
        # and 0.999 differ by a factor of 100 in time.
        if not isinstance(default, float) or domain(field).at_most is not None:
            continue
        if not present.allows(default):
            continue
        # Numbers that differ between neurons, such as frequencies, are meant to cover a range. So
        # one that is usual is enough.
        ratios = np.asarray(present.number, np.float32) / (default or 1.0)
        is_usual = (ratios == 0) | ((ratios > 1 / UNUSUAL) & (ratios < UNUSUAL))
        if not is_usual.any():
            size = float(abs(np.log(abs(ratios))).mean())
            numbers.append((-size, present.with_number(default)))
    for _, move in sorted(numbers, key=operator.itemgetter(0)):
        yield move


def scales(slots: Moves, place: str, factor: float, *excluded: str) -> tuple[Move, ...]:
    """Return moves that scale the parts of a layer except the excluded ones, all by one factor."""
    return tuple(
        dataclasses.replace(slot, value=factor)
        for slot in slots
        if slot.place == place
        and isinstance(slot, ScalePart)
        and slot.part not in excluded
    )


def _fits(network: Observed, moves: Moves) -> bool:
    """Return False if a cell refuses these numbers together, such as a frequency for its dt."""
    layers = dict(network.problem.network.graph.layers)
    try:
        for move in moves.values():
            if isinstance(move, CellMove):
                layers[move.place] = move.change(layers[move.place])
    except ValueError:
        return False
    return True


# --- slopes and readouts -------------------------------------------------------------------------


def _slopes(report: NetworkReport, all_slopes: bool) -> Iterator[Issue]:
    """Yield slopes that miss the potentials, or are too steep or flat."""
    for name, layer in report.layers.items():
        is_nan = layer.reach is not None and math.isnan(layer.reach)
        # The slope does not cause potentials of NaN.
        if is_nan and _has_potentials(layer):
            slope = ReplaceSlope(name, fitted_slope(layer).value)
            evidence = "its slope is NaN at some of its potentials"
            yield Issue("not finite", name, evidence, (slope,))
            continue
        kind, evidence = slope_state_of(layer, all_slopes)
        if kind:
            yield Issue(kind, name, evidence, (fitted_slope(layer),))


def slope_state_of(layer: LayerReport, all_slopes: bool = False) -> tuple[str, str]:
    """Return the kind and the evidence of a slope outside of its bands, or empty strings.

    With ``all_slopes``, every slope has a kind.
    """
    steep = outside("steepness", layer.steepness)
    is_missed = outside("reach", layer.reach) < 0
    if not (_has_potentials(layer) and (is_missed or steep or all_slopes)):
        return "", ""
    kind = "explodes" if steep > 0 else "vanishes"
    kind = kind if steep and not is_missed else "out of reach"
    return kind, (
        f"its mean slope is {layer.reach:.2g} times its peak, which is {layer.steepness:.2g} over "
        "the threshold"
    )


def _has_potentials(layer: LayerReport) -> bool:
    """Return True for a layer with a threshold and finite potentials."""
    return layer.distance is not None and all(map(math.isfinite, layer.distance))


def fitted_slope(layer: LayerReport) -> FitSlope:
    """Return the slope that is as wide as the potentials of a layer vary."""
    assert layer.distance is not None
    size = abs(layer.scale or 0.0) or 1.0
    widest = WIDEST * size
    spread = np.clip(layer.distance[1], widest * NARROWEST, widest)
    fit = FitSlope if has_width(layer.surrogate) else ReplaceSlope
    shape = measure(layer.surrogate if fit is FitSlope else Sigmoid())
    # Chosen by the area and not the half-width, so slopes with long tails do not reach all
    # potentials. The area of some slopes is infinite, or too small for a number.
    ratio = shape.half_width * shape.peak / shape.area if shape.area else 0.0
    width = spread * (ratio or 0.5)
    # A peak of one over the threshold is the usual slope in units of the threshold.
    return fit(layer.place, (rounded(1 / size), rounded(width)))


def _readout(network: Observed, proposal: Proposal) -> Iterator[Issue]:
    """Yield a readout that is too large at the start."""
    if network.problem.loss is None:
        return
    least = FREE if _is_saturated(proposal.report) else 0.0

    def is_usual(report: NetworkReport) -> bool:
        # Halfway, so the next diagnosis finds nothing.
        is_small = not excess_of(network, report, TOO_LARGE / 2)
        return is_small and not report.response < least  # also if it is NaN

    if evidence := excess_of(network, proposal.report):
        names = _readouts(network.problem.network, proposal.report)
        smaller = shrunk(network, proposal.moves, names, is_usual)
        for name in smaller or names:
            yield Issue("too large", name, evidence, smaller.get(name, ()))


def _readouts(network: Network, report: NetworkReport) -> list[str]:
    """Return the layers that reach an output without a spike on the way.

    A smaller layer below spikes makes outputs small too, once it silences them.
    """
    graph = network.graph
    reached, waiting = set(), [*graph.outputs]
    while waiting:
        name = waiting.pop()
        if name in graph.nodes and name not in reached:
            layer = report.layers.get(name)
            if layer is None or not layer.fires:
                reached.add(name)
                waiting += [edge.source for edge in graph.edges[name]]
    return [name for name in report.layers if name in reached]


def _is_saturated(report: NetworkReport) -> bool:
    """Return True if the loss has almost no gradient in the outputs."""
    return outside("response", report.response) < 0


def excess_of(
    network: Observed, report: NetworkReport, too_large: float = TOO_LARGE
) -> str:
    """Return the evidence of outputs that are too large for the loss, or an empty string."""
    first, constant = report.loss, report.constant
    is_saturated = _is_saturated(report)
    # The lowest loss needs another program, so most networks end here.
    if first <= constant and not is_saturated:
        return ""
    lowest = network.attainable.floor
    if 0 < too_large * (constant - lowest) < first - lowest:
        ratio = (first - lowest) / (constant - lowest)
        evidence = f"the first loss is {ratio:.2g} times that of constants"
        if lowest:
            evidence += f", both from the lowest loss of {lowest:.3g} on"
        return evidence
    # The gradient is also small near the lowest loss. Then nothing is wrong.
    if is_saturated and first - lowest > (1 - LEARNS) * (constant - lowest):
        return (
            "the outputs saturate the loss, whose gradient in them is "
            f"{report.response:.2g} times that at outputs of 0"
        )
    return ""


def finite(network: Network, place: str | None) -> Iterator[Move]:
    """Yield moves that replace NaN and infinite numbers of the weights of a layer."""
    layer = network.graph.layers.get(place or "")
    # Inputs have no fix.
    if layer is None:
        return
    for part in PARTS:
        arrays = [*filter(is_real_array, jax.tree.leaves(getattr(layer, part)))]
        if not all(np.isfinite(np.float32(a)).all() for a in arrays):
            # The usual spread for this number of inputs.
            inputs = max(a.size / np.atleast_1d(a).shape[-1] for a in arrays)
            yield ReplaceNaN(place, rounded(1 / math.sqrt(inputs)), part)


def tamed(network: Observed) -> Iterator[Issue]:
    """Yield layers with weights so large that their products overflow."""
    for name, layer in network.problem.network.graph.layers.items():
        leaves = filter(is_real_array, jax.tree.leaves(layer.weight))
        sizes = [float(abs(np.float32(a)).max(initial=0.0)) for a in leaves]
        largest = max(sizes, default=0.0)
        if HUGE < largest < math.inf:
            # Not smaller than normal numbers of float32, which computers may flush to 0.
            factor = max(rounded(1 / largest), SMALLEST)
            evidence = f"its weights are as large as {largest:.2g}"
            moves = scales(network.slots, name, factor, "recurrent", "bias")
            yield Issue("not finite", name, evidence, moves)


def shrunk(
    network: Observed,
    moves: Moves,
    names: list[str],
    is_small: Callable[[NetworkReport], bool],
) -> dict[str, tuple[Move, ...]]:
    """Return the moves of layers by the first factor with small outputs.

    The layer with the smallest change is the cause, and of equal changes the one with the lowest
    loss. If no single layer is enough, all are scaled.
    """
    for factor in SMALLER:
        smaller = {
            name: scales(network.slots, name, factor, "recurrent") for name in names
        }
        reports = {
            name: network.measure(moves | by_slot(fixes))
            for name, fixes in smaller.items()
        }
        if alone := [name for name in names if is_small(reports[name])]:
            cause = min(alone, key=lambda name: reports[name].loss)
            return {cause: smaller[cause]}
        together = by_slot(move for fixes in smaller.values() for move in fixes)
        if len(names) > 1 and is_small(network.measure(moves | together)):
            return smaller
    return {}
