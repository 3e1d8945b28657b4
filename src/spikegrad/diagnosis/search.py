"""The search: stages of short trainings with proposed moves. It keeps the best moves.

A stage is a row of :data:`STAGES`. Each of its trials is a set of issues, tried at each of its
learning rates. A :class:`Candidate` is one of them with its outcome, and the best one is pruned in
the end.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from .._pytree import FIX_OF_HIDDEN, is_real_array
from ..network import hidden_arrays
from .measures import NetworkReport, outside
from .moves import (
    FitSlope,
    Move,
    Moves,
    ReplaceOptimizer,
    ScaleRate,
    ShiftOutput,
    WidenDtype,
    moves_of,
    rounded,
)
from .propose import Observed, Proposal, equal_inputs, memories, observe, propose
from .report import Issue
from .trial import (
    LEARNS,
    LITTLE,
    MUCH,
    RATE,
    UPDATES,
    Budget,
    Outcome,
    Trials,
    rate_of,
    with_moves,
)

LATER, LONGER = 0.75, 4
"""A slow network has no issue if it removes this part in so many times the updates. The part is
larger than ``LEARNS``, because a network with a fault may learn a little too."""
REST = 0.5
"""A network that learns, but less than ``LATER``, has an issue if the fixes of measured faults
leave less than this part of the rest of its loss."""
FASTER = 2.0
"""A slow network also has an issue if changes let the usual updates learn this number of times as
much. A deep network may take more updates, and a silent layer in it many more."""
SPEED = "too large", "stalls", "overshoots", "optimizer"
"""The kinds of issues that slow the learning down."""
NEARLY = 0.95
"""Other learning rates are tried with changes up to this part of the loss, because the measured
rate is only the nearest half decade."""
RATES = (1.0, 0.1, 10.0, 0.01, 100.0, 0.001, 1000.0)
"""Factors of the learning rate to try, the smallest change first."""
NEAR_RATES = (3.0, 1 / 3.0)
"""Factors of a measured learning rate. A first update tells the rate up to half a decade."""
ADAM = (1e-2, 1e-3, 1e-1)
"""Learning rates of Adam as a last resort. The first one learns most in the updates of a short
training, and another one must add more than noise."""
SHIFTED_TARGETS = 10.0
"""Outputs that a loss asks for are shifted if their mean is this number of their spreads, so that
almost all of the loss is the mean."""
WIDER = 3.0
"""Slopes are also tried at this number of their widths. An output neuron that should fire first for
a class, but has never fired, may be farther from the threshold than its potential varies."""
USUAL_UPDATE = 0.03
"""The first update over the weights at usual learning rates, such as Adam at 1e-3 to 1e-2."""


class Candidate(NamedTuple):
    """Issues with the outcome of their moves."""

    issues: tuple[Issue, ...]
    outcome: Outcome
    worth: float
    """The score, less the price of another learning rate."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Everything that the stages read. It does not change during a search."""

    network: Observed
    budget: Budget
    say: Callable[[str], object]
    """Reports a stage when it starts."""

    @functools.cached_property
    def trials(self) -> Trials:
        """The short trainings."""
        attainable = self.network.attainable
        problem = self.network.problem._replace(
            floor=attainable.floor, constant=attainable.constant_outputs
        )
        return Trials(problem, self.network.slots, self.budget)

    @functools.cached_property
    def hidden(self) -> tuple[Issue, ...]:
        """Arrays that no optimizer finds, and surrogates that cannot be measured."""
        evidence = "its surrogate is not a field of the cell that it uses"
        unmeasured = tuple(
            Issue("not measured", layer.place, evidence)
            for layer in self.network.first.layers.values()
            if layer.rate is not None and not layer.fires
        )
        return self.untrained + unmeasured

    @functools.cached_property
    def untrained(self) -> tuple[Issue, ...]:
        """Arrays that functions hide from the optimizer."""
        problem = self.network.problem
        if problem.optimizer is None:
            return ()
        arrays = hidden_arrays(
            problem.network,
            problem.arguments(problem.inputs),
            key=problem.key,
            mask=problem.mask,
        )
        return tuple(
            Issue(
                "not trained",
                array.node,
                f"an array of shape {list(array.shape)} is hidden in the function of its "
                f"{array.label}. {FIX_OF_HIDDEN}",
            )
            for array in arrays
        )

    @functools.cached_property
    def frozen(self) -> tuple[Issue, ...]:
        """Layers that the optimizer leaves out."""
        evidence = (
            "its first update is exactly 0, although its gradient is not, as with a mask or labels "
            "of the optimizer"
        )
        return tuple(
            Issue("stalls", layer.place, evidence)
            for layer in self.network.first.layers.values()
            if layer.update == 0 and layer.gradient
        )

    @functools.cached_property
    def shifted_targets(self) -> tuple[Issue, ...]:
        """A loss that asks for outputs with a mean far above their spread."""
        attainable = self.network.attainable
        constant = self.network.first.constant
        fall = constant - attainable.constant
        room = constant - attainable.loss
        # Outputs for classes that no example has are far from 0 too, and their means add little.
        if not (attainable.is_bounded and fall >= LEARNS * room):
            return ()
        targets, names = attainable.outputs, self.network.problem.network.graph.outputs
        # The loss gets the output alone, or a dict of several.
        by_name = targets if isinstance(targets, dict) else {names[0]: targets}
        return tuple(
            issue
            for name, target in by_name.items()
            if (issue := self._shifted_target(name, target))
        )

    def _shifted_target(self, name: str, targets: np.ndarray) -> Issue | None:
        """Return the issue of one output. Its ``targets`` are ``(steps, examples, ...)``."""
        outputs = np.float32(self.network.first.outputs[name])
        # A number for each output in the lines below.
        means, spreads = targets.mean((0, 1)), targets.std(1).mean(0)
        usual = np.maximum(spreads, outputs.std((0, 1)))
        is_shifted = (abs(means) > SHIFTED_TARGETS * usual) & (usual > 0)
        if not is_shifted.any():
            return None
        evidence = (
            f"the loss asks for outputs {name!r} with a mean of {means[is_shifted].mean():.3g} and "
            f"a spread of {spreads[is_shifted].mean():.2g} over examples"
        )
        # A join would change the name of one of several outputs, which the loss reads.
        has_fix = isinstance(self.network.problem.network.outputs, str | None)
        shift = np.where(is_shifted, means, 0).astype(np.float32)
        fixes = (ShiftOutput(name, shift),) if has_fix else ()
        return Issue("unscaled", None, evidence, fixes)

    @functools.cached_property
    def half_precision(self) -> tuple[Issue, ...]:
        """The issue of weights of half precision."""
        arrays = filter(is_real_array, jax.tree.leaves(self.network.problem.network))
        if all(array.dtype.itemsize >= 4 for array in arrays):
            return ()
        is_finite = math.isfinite(self.network.first.update)
        kind = "stalls" if is_finite else "overshoots"
        evidence = "half precision rounds updates away, or makes them infinite"
        return (Issue(kind, None, evidence, (WidenDtype(None, "float32"),)),)

    @functools.cached_property
    def has_equal_inputs(self) -> bool:
        """True if the inputs of all examples are equal."""
        return any(equal_inputs(self.network))

    @functools.cached_property
    def changes(self) -> Proposal:
        """The changes that the measures propose."""
        return propose(self.network)

    @functools.cached_property
    def silent(self) -> tuple[Issue, ...]:
        """The layers that never fire."""
        return tuple(issue for issue in self.changes.issues if issue.kind == "silent")

    @functools.cached_property
    def memories(self) -> tuple[Issue, ...]:
        """The changes if the first inputs count until the end."""
        # A measured fault explains more than a memory that is tried anyway, and its consequences.
        measured = {issue.kind for issue in self.changes.issues}
        lasting = propose(self.network, lasting=True).issues
        return tuple(sorted(lasting, key=lambda issue: issue.kind not in measured))

    @functools.cached_property
    def memories_alone(self) -> tuple[Issue, ...]:
        """The changes of memories, without those of their consequences."""
        return tuple(memories(self.network, lasting=True))

    @functools.cached_property
    def slopes(self) -> tuple[Issue, ...]:
        """The changes with all slopes fitted."""
        return propose(self.network, all_slopes=True).issues

    @functools.cached_property
    def initial(self) -> Outcome:
        """The outcome without changes."""
        return self.trials({})

    @functools.cached_property
    def is_slow(self) -> bool:
        """True if the network learns, in more updates. An issue must make it learn in the usual."""
        return self.learns({})

    @property
    def is_sound(self) -> bool:
        """True if the network learns a part, and its outputs are not too sure."""
        return self.initial.is_partial and not self.initial.is_too_sure

    @functools.cached_property
    def is_held_back(self) -> bool:
        """True if measured faults leave a rest of the loss of a network that learns."""
        initial = self.initial
        if initial.learned >= LATER:
            return False
        # Other rates and smaller readouts let most networks learn faster.
        faults = [i for i in self.changes.issues if i.kind not in SPEED]
        moves = moves_of(faults)
        if not (moves and self.trials.allows(moves)):
            return False
        return 1 - self.trials(moves).score < REST * (1 - initial.score)

    @property
    def is_stuck(self) -> bool:
        """True if the network learns no more in more updates."""
        longer = self.longer
        return longer is not None and longer.score < self.initial.score + LITTLE

    @property
    def is_only_slow(self) -> bool:
        """True if no other rate and optimizer is tried: the network learns in more updates, or a
        part at a usual rate.
        """
        return self.is_slow or (self.is_sound and not self.rate)

    @functools.cached_property
    def longer(self) -> Outcome | None:
        """The outcome of a longer training without changes, or None if it needs none."""
        return self._longer_of({})

    @functools.cached_property
    def rate(self) -> tuple[Issue, ...]:
        """The issue of the measured learning rate. A network that learns slowly has none."""
        return () if self.is_slow else tuple(other_rate(self.changes.report))

    @functools.cached_property
    def learns_in_part(self) -> bool:
        """True if the network learns a part of the loss, in the usual or in more updates.

        More updates may learn the noise of the examples by heart, so either of them counts.
        """
        outcomes = [self.initial, self.longer]
        return any(outcome is not None and outcome.is_partial for outcome in outcomes)

    def helps(self, outcome: Outcome) -> bool:
        """Return True if changes with this outcome add enough for other examples too."""
        initial = self.initial
        # At least as fast as a network that learns, or much faster than without changes. The rest
        # of the loss may be noise, and larger rates learn it by heart.
        enough = min(LEARNS, FASTER * initial.learned)
        least = enough if self.learns_in_part else initial.learned - LITTLE
        # Less than this of other examples is learned by heart.
        adds = outcome.score >= initial.score + MUCH and outcome.learned >= MUCH
        return adds and outcome.learned >= least

    def learns(self, moves: Moves) -> bool:
        """Return True if the network with moves learns, also if it takes more updates."""
        longer = self._longer_of(moves)
        if longer is None:
            return self.trials(moves).learned >= LEARNS
        return longer.learned >= LATER

    def _longer_of(self, moves: Moves) -> Outcome | None:
        updates = LONGER * UPDATES
        is_partial = MUCH < self.trials(moves).learned < LEARNS
        if not (is_partial and self.trials.allows(moves, updates)):
            return None
        return self.trials(moves, updates)

    @functools.cached_property
    def measured_rates(self) -> tuple[float, float]:
        """The factors of the learning rate that are measured with the changes and without them."""
        alone = other_rate(self.network.first)
        return rate_of(moves_of(self.rate).values()), rate_of(moves_of(alone).values())

    def candidate(self, issues: Iterable[Issue]) -> Candidate:
        """Train with the moves of these issues."""
        moves = moves_of(issues)
        outcome = self.trials(moves)
        # A change of the optimizer must be worth it: a decade of the learning rate must add as
        # much as another change, so small changes win. A factor that is measured costs nothing.
        decades = 0.0
        if _has_last_resort(moves):
            decades = 1.0
        elif RATE in moves:
            factors = [moves[RATE].value / measured for measured in self.measured_rates]
            decades = min(abs(math.log10(abs(factor))) for factor in factors)
        return Candidate(tuple(issues), outcome, outcome.score - MUCH * decades)


def _has_last_resort(moves: Moves) -> bool:
    """Return True if moves replace the optimizer or the dtype."""
    return any(
        isinstance(move, (ReplaceOptimizer, WidenDtype)) for move in moves.values()
    )


# --- stages --------------------------------------------------------------------------------------


class SearchStage(NamedTuple):
    """A row of the table of stages."""

    name: str
    when: Callable[[Study, Candidate], bool]
    """If True for the best candidate so far, another trial of this stage follows."""
    trials: Callable[[Study], Iterator[tuple[Issue, ...]]]
    """Yields the issues of each trial."""
    rates: tuple[float, ...] | None = (1.0,)
    """Factors of the proposed learning rate. None keeps the rate of the optimizer."""
    accepts: Callable[[Outcome], bool] = lambda outcome: True
    """If False, a trial is not a candidate, however much it adds."""
    margin: float = 0.0
    """A trial that adds this much less is still better. If negative, it must add more."""

    def attempts(self, study: Study) -> Iterator[tuple[Issue, ...]]:
        """Yield the issues of each trial at each learning rate."""
        report = study.changes.report
        for issues in self.trials(study):
            if self.rates is None or study.is_only_slow:
                yield issues
                continue
            for factor in self.rates:
                yield *issues, *other_rate(report, factor)


def _always(study: Study, best: Candidate) -> bool:
    return True


def _is_learned_by_heart(study: Study, best: Candidate) -> bool:
    is_trained = not study.is_slow and study.initial.trained >= LEARNS
    return is_trained and best.outcome.learned < LEARNS


def _below(enough: float) -> Callable[[Study, Candidate], bool]:
    """Return a condition for networks that are not trained this much, or only by heart."""

    def when(study: Study, best: Candidate) -> bool:
        if study.is_slow or study.initial.trained >= LEARNS:
            return False
        # A rate may learn the examples by heart, and a longer memory understand them.
        return best.outcome.trained < enough or best.outcome.is_by_heart

    return when


def _near(study: Study, best: Candidate) -> bool:
    return bool(study.rate) and _below(NEARLY)(study, best)


def _not_trained(study: Study, best: Candidate) -> bool:
    is_open = not study.is_slow and study.initial.trained < LEARNS
    return is_open and best.outcome.trained < LEARNS


def _not_trained_or_with_adam(study: Study, best: Candidate) -> bool:
    moves = moves_of(best.issues).values()
    # Another rate of Adam may learn more.
    is_replaced = any(isinstance(move, ReplaceOptimizer) for move in moves)
    return is_replaced or _not_trained(study, best)


def _changes(study: Study) -> Iterator[tuple[Issue, ...]]:
    yield *study.changes.issues, *study.shifted_targets


def _single_changes(study: Study) -> Iterator[tuple[Issue, ...]]:
    issues = [issue for issue in study.changes.issues if issue.fixes]
    if len(issues) > 1:
        for issue in issues:
            yield (issue,)


def _rate_alone(study: Study) -> Iterator[tuple[Issue, ...]]:
    kinds = {issue.kind for issue in study.changes.issues}
    rate = tuple(other_rate(study.network.first))
    if kinds == {"too large"} and rate:
        yield rate


def _memories(study: Study) -> Iterator[tuple[Issue, ...]]:
    yield study.memories


def _shorter_memories(study: Study) -> Iterator[tuple[Issue, ...]]:
    long = tuple(issue for issue in study.memories_alone if issue.kind != "forgets")
    if not long:
        return
    # It changes its layer and those above, so it does not explain an issue below.
    places = {issue.place for issue in long}
    layers = study.network.first.layers
    below = [*itertools.takewhile(lambda name: name not in places, layers)]
    measured = {issue.place for issue in study.changes.issues}
    if not measured.isdisjoint(below):
        return
    # A long memory may only slow a sound network. The budget may be too small to see this.
    updates = LONGER * UPDATES
    is_known = study.trials.allows({}, updates)
    is_slow = is_known and study.trials({}, updates).learned >= LATER
    if not is_slow or not measured.isdisjoint(places):
        yield long


def _longer_memories(study: Study) -> Iterator[tuple[Issue, ...]]:
    short = tuple(issue for issue in study.memories_alone if issue.kind == "forgets")
    if short:
        yield short


def _learns(outcome: Outcome) -> bool:
    return outcome.learns


def _slopes(study: Study) -> Iterator[tuple[Issue, ...]]:
    yield study.slopes


def _wider_slopes(study: Study) -> Iterator[tuple[Issue, ...]]:
    yield study.slopes

    def wider(move: Move) -> Move:
        if not isinstance(move, FitSlope):
            return move
        peak, half_width = move.value
        return dataclasses.replace(move, value=(peak, rounded(WIDER * half_width)))

    yield tuple(
        dataclasses.replace(issue, fixes=tuple(map(wider, issue.fixes)))
        for issue in study.slopes
    )


def _nothing(study: Study) -> Iterator[tuple[Issue, ...]]:
    yield ()


def _wider_dtypes(study: Study) -> Iterator[tuple[Issue, ...]]:
    if study.half_precision:
        yield *study.changes.issues, *study.half_precision
        yield study.half_precision


def _other_optimizers(study: Study) -> Iterator[tuple[Issue, ...]]:
    if study.is_only_slow:
        return
    kind = "optimizer"
    evidence = "no other change helps, and a plain optimizer does"
    if study.frozen:
        kind = "stalls"
        layers = ", ".join(repr(issue.place) for issue in study.frozen)
        evidence = (
            f"the first update of layers {layers} is exactly 0, although their gradient is not, "
            "and an optimizer without a mask helps"
        )
    for rate in ADAM:
        issue = Issue(kind, None, evidence, (ReplaceOptimizer(None, rate),))
        # The epsilon of Adam is 0 in float16.
        yield *study.changes.issues, *study.half_precision, issue
        yield *study.half_precision, issue


STAGES = (
    # All changes at once. With two faults, the mending of one alone may not help, so single trials
    # would reject both. ``pruned`` removes the needless ones.
    SearchStage("all changes", _always, _changes),
    # Smaller weights of a readout make up for a rate that is too small, and the other way around.
    # The rate is the cause if it is measured without them and enough alone.
    SearchStage("all changes", _always, _rate_alone, None, _learns, LITTLE),
    # A memory that is too long makes outputs large, updates too, and layers fire at all steps. So
    # its consequences may be proposed and help, although it is the one cause.
    SearchStage("shorter memories", _always, _shorter_memories, None, _learns, MUCH),
    # A memory that is too short may be the one fault of unusual layers that learn.
    SearchStage("other memories", _below(LEARNS), _longer_memories, None, _learns),
    # Noise after a cue may be learned by heart, and it hides the length of the needed memory.
    # Memories without a measured fault must make the network learn.
    SearchStage(
        "other memories",
        _is_learned_by_heart,
        _memories,
        None,
        _learns,
    ),
    # A large enough rate may make up for a short memory, so memories come first.
    SearchStage("other memories", _below(LEARNS), _memories),
    # A fault has consequences, and a change against one may do harm after the fault is mended.
    SearchStage("single changes", _below(LEARNS), _single_changes),
    SearchStage("other learning rates", _near, _changes, NEAR_RATES),
    SearchStage("other learning rates", _below(NEARLY), _changes, RATES),
    # The network may need another learning rate only.
    SearchStage("other learning rates", _below(LEARNS), _nothing, RATES),
    # Other slopes change the size of the gradients, so the nearest rates are tried with them.
    SearchStage("other slopes", _below(LEARNS), _slopes, RATES[:3]),
    # Neurons may be out of reach for a part of the examples only.
    SearchStage("other slopes", _below(NEARLY), _wider_slopes, margin=-MUCH),
    SearchStage("float32", _not_trained, _wider_dtypes, RATES),
    # All of its rates are tried.
    SearchStage(
        "Adam",
        _not_trained_or_with_adam,
        _other_optimizers,
        None,
        margin=-LITTLE,
    ),
)
"""The stages of a search, in their order."""


# --- search --------------------------------------------------------------------------------------


class SearchResult(NamedTuple):
    """The result of a search."""

    issues: tuple[Issue, ...]
    repaired: Outcome | None
    """The outcome with the moves of the issues, or None without moves."""
    tried: tuple[str, ...] = ()
    """The names of the stages."""
    is_by_heart: bool = False
    """True if the network learns the examples of the updates only."""
    is_cut: bool = False
    """True if the budget ended the search."""


def search(study: Study) -> SearchResult:
    """Train the network, and with changes if it does not learn."""
    study.say("training")
    # A network that learns has no issue, although its numbers may be unusual.
    if study.initial.learns and not study.is_held_back:
        return SearchResult((), None)
    best = Candidate((), study.initial, study.initial.score)
    # No change can help if all examples have equal inputs.
    if study.has_equal_inputs:
        return accepted(study, best)
    tried: dict[str, None] = {}
    for stage in STAGES:
        if not stage.when(study, best):
            continue
        for issues in stage.attempts(study):
            if not stage.when(study, best):
                continue
            if not study.trials.allows(moves_of(issues)):
                return accepted(study, best)._replace(tried=(*tried,), is_cut=True)
            if stage.name not in tried:
                study.say(f"training with {stage.name}")
            tried[stage.name] = None
            candidate = study.candidate(issues)
            outcome = candidate.outcome
            is_better = candidate.worth > best.worth - stage.margin
            # A trial that adds to the examples of the updates only learns them by heart.
            generalizes = outcome.learned >= best.outcome.learned - LITTLE
            if is_better and generalizes and stage.accepts(outcome):
                best = candidate
    return accepted(study, best)._replace(tried=(*tried,))


def accepted(study: Study, best: Candidate) -> SearchResult:
    """Keep changes that add enough, and all issues of a network that does not learn."""
    initial, outcome = study.initial, best.outcome
    if study.helps(outcome):
        best = in_order(study, without_consequences(study, pruned(study, best)))
        # A smaller readout, another rate and Adam change how fast a network learns. One that learns
        # a part is sound, unless it learns much faster with them.
        is_speed = all(issue.kind in SPEED for issue in best.issues if issue.fixes)
        is_faster = best.outcome.score >= FASTER * initial.score
        # More updates help a network that is only slow.
        is_mended = study.is_stuck and best.outcome.learned >= LATER
        if not (is_speed and study.is_sound) or is_faster or is_mended:
            # Changes that help in part may make up for another fault: arrays that are not trained,
            # or a layer that never fires, as larger rates do.
            others = ()
            if best.outcome.trained < LEARNS:
                others = *study.untrained, *_silent_still(study, best)
            return SearchResult((*others, *best.issues), best.outcome)
    if study.is_slow:
        return SearchResult((), None)
    if initial.trained < LEARNS and not outcome.is_by_heart:
        issues = *study.hidden, *study.frozen, *study.shifted_targets
        # If the rest of the loss may be noise, measures that no change mends are no causes.
        if not study.learns_in_part:
            issues = *issues, *study.changes.issues, *study.rate
        return SearchResult(
            tuple(dataclasses.replace(issue, fixes=()) for issue in issues), None
        )
    # Changes that help only the examples of the updates are not believed. A layer that never fires
    # is worth a word, although the layers above it learn.
    silent, repaired = study.silent, None
    if moves := moves_of(silent):
        if not study.trials.allows(moves):
            silent = ()
        elif (repaired := study.trials(moves)).score < initial.score - MUCH:
            silent, repaired = (), None
    return SearchResult(silent, repaired, is_by_heart=outcome.is_by_heart)


def _silent_still(study: Study, best: Candidate) -> tuple[Issue, ...]:
    """Return the layers that never fire and that the candidate does not change."""
    changed = {issue.place for issue in best.issues}
    return tuple(
        dataclasses.replace(issue, fixes=())
        for issue in study.silent
        if issue.place not in changed
    )


def pruned(study: Study, best: Candidate) -> Candidate:
    """Leave out changes without which the network learns as much, the last first."""
    # The last first, because issues go from the inputs to the outputs, and faults near the inputs
    # cause those above.
    for issue in reversed(best.issues):
        others = tuple(other for other in best.issues if other is not issue)
        moves = moves_of(others)
        if not (moves and issue.fixes and study.trials.allows(moves)):
            continue
        # A larger rate makes up for small weights, so it must not replace a measured silence.
        is_free = moves.get(RATE) in (None, *moves_of(study.rate).values())
        if issue.kind == "silent" and not is_free:
            continue
        outcome = study.trials(moves)
        # A readout that is too large only slows the learning, unless the outputs are too sure.
        is_slower = issue.kind == "too large" and outcome.learns
        # A network that learns, slowly, needs no other learning rate, unless it is much faster, or
        # makes outputs less sure.
        is_faster = best.outcome.learned >= FASTER * outcome.learned
        is_surer = outcome.is_too_sure and not best.outcome.is_too_sure
        is_open = is_faster or is_surer
        is_needless = issue.place is None and study.learns(moves) and not is_open
        # Once the rate is left out, the network must still learn in more updates.
        is_equal = outcome.score >= best.outcome.score - LITTLE and (
            study.learns(moves) or not study.learns(moves_of(best.issues))
        )
        if is_equal or is_slower or is_needless:
            best = best._replace(issues=others, outcome=outcome)
    for issue in best.issues:
        # Moves of several layers are one change, such as a longer memory.
        if len({move.place for move in issue.fixes}) == 1:
            best = _with_fewer_moves(study, best, issue)
    return best


def _with_fewer_moves(study: Study, best: Candidate, issue: Issue) -> Candidate:
    """Leave out moves of one issue without which the network learns as much, the last first."""
    for move in reversed(issue.fixes):
        fixes = tuple(other for other in issue.fixes if other is not move)
        shorter = dataclasses.replace(issue, fixes=fixes)
        issues = tuple(shorter if i is issue else i for i in best.issues)
        if not (fixes and study.trials.allows(moves_of(issues))):
            continue
        outcome = study.trials(moves_of(issues))
        if outcome.score >= best.outcome.score - LITTLE:
            best = best._replace(issues=issues, outcome=outcome)
            issue = shorter
    return best


def without_consequences(study: Study, best: Candidate) -> Candidate:
    """Leave out issues without a fix that the fixes of the others mend."""
    moves = moves_of(best.issues)
    # Another optimizer mends whatever is wrong with it, such as its decay, which is the cause.
    if (
        not moves
        or all(issue.fixes for issue in best.issues)
        or _has_last_resort(moves)
    ):
        return best
    repaired = propose(observe(with_moves(study.network.problem, moves.values())))
    left = {(issue.kind, issue.place) for issue in repaired.issues}
    issues = tuple(
        issue
        for issue in best.issues
        if issue.fixes or (issue.kind, issue.place) in left
    )
    return best._replace(issues=issues)


def in_order(study: Study, best: Candidate) -> Candidate:
    """Sort the issues: those come first without whose fixes the network learns least."""

    def learned_without(issue: Issue) -> float:
        moves = moves_of(other for other in best.issues if other is not issue)
        # Other changes, such as a larger rate, may make up for a silent layer, which comes first.
        is_known = issue.fixes and issue.kind != "silent" and study.trials.allows(moves)
        score = study.trials(moves).score if is_known else 0.0
        # Issues that are all needed stay in the order from the inputs to the outputs.
        return score if score >= study.initial.score + MUCH else 0.0

    if len(best.issues) == 1:
        return best
    return best._replace(issues=tuple(sorted(best.issues, key=learned_without)))


def other_rate(report: NetworkReport, factor: float = 1.0) -> Iterator[Issue]:
    """Yield the issue for a factor of the learning rate that makes the first update usual."""
    rate, update = 1.0, report.update or math.inf
    is_ascent = outside("ascent", report.ascent) > 0
    evidence = f"the network learns more at {factor:.2g} times the learning rate"
    if is_ascent:
        rate = -1.0
        evidence = (
            f"the cosine of the first update and the gradient is {report.ascent:.2g}"
        )
    elif math.isfinite(update) and outside("update", update):
        # The first update is proportional to the rate, so this factor gives it the usual size.
        rate = USUAL_UPDATE / update
        evidence = f"the first update is {update:.2g} times the weights"
    rate = rounded(rate * factor)
    kind = "ascends" if is_ascent else "overshoots" if rate < 1 else "stalls"
    if rate != 1:
        yield Issue(kind, None, evidence, (ScaleRate(None, rate),))
