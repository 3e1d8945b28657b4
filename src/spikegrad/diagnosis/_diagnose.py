"""The function :func:`diagnose`: measures, then trials of the moves that bring them into bands."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._pytree import NOTHING_TO_TRAIN, is_real_array
from ..network import Network, named_inputs
from .measures import SMALLER, Report, outside
from .moves import (
    Move,
    Moves,
    ReplaceOptimizer,
    ScaleRate,
    WidenDtype,
    by_slot,
    rounded,
)
from .report import Diagnosis, Issue
from .search import Search
from .trial import (
    DECADE,
    FACTOR,
    LEARNS,
    LITTLE,
    MUCH,
    UPDATES,
    Outcome,
    Problem,
    Trial,
    rate_of,
)

LATER, LONGER = 0.75, 4
"""Neither has a slow network that removes this part in this number of times the updates. It must be
more, because a network with a fault may learn a little too."""
RATES = tuple(DECADE**k for k in (0, -1, 1, -2, 2, -3, 3))
"""Factors of the learning rate to try, the smallest change first."""
ADAM = SMALLER[2::-1]
"""Learning rates of Adam as a last resort."""
USUAL_UPDATE = FACTOR / DECADE**2
"""The first update over the weights at usual learning rates, such as Adam at 1e-3 to 1e-2."""
RATE = ScaleRate(None, None)
"""The slot of the learning rate."""


def diagnose(
    network: Network,
    inputs: Any,
    loss: Callable[[Any], Any] | None = None,
    *,
    optimizer: Any = None,
    key: Any = None,
    mask: ArrayLike | None = None,
    train: bool = True,
    budget: float | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Diagnosis:
    """Diagnose why a network does not learn, and repair it.

    A layer can learn if its potentials reach the threshold sometimes, if its slope reaches the
    potentials, and if an update changes its weights by about a hundredth. ``diagnose`` measures
    this, moves each layer there by the least change, from the inputs to the outputs, and believes
    the changes only if a short training with them learns more.

    Parameters
    ----------
    network : Network
        The network, with any weights and cells. It does not change.
    inputs : array_like or dict
        Inputs of the network, ``(steps, batch, ...)``. A hundred examples are enough.
    loss : callable, optional
        A function from the outputs of the network to one number, a mean over examples.
    optimizer : optax.GradientTransformation, optional
        The optimizer of the training, learning rate included.
    key : array of jax.random.key, optional
        For :func:`stochastic` spikes.
    mask : array_like of bool, optional
        The valid steps, ``(steps, batch)`` or ``(steps,)``.
    train : bool, default True
        Train the network for 60 updates, and again with changes. It needs ``loss`` and
        ``optimizer``. If False, the measures decide. They may list issues of a network that learns.
    budget : float, optional
        Seconds after which no other training starts. Use fewer examples for slow networks.
    progress : callable, optional
        Called with a text at each stage, for example ``print``.

    Returns
    -------
    Diagnosis
        The measures of each layer, ``layers``, the ``issues`` with their fixes, a ``verdict``, and
        ``repaired`` and ``optimizer`` with all fixes. It prints as a table and has ``plot()`` and
        ``to_dict()``.

    Raises
    ------
    TypeError, ValueError
        If ``network`` is not a network or has no array for the optimizer, and as in a call of it.

    Notes
    -----
    A third of the examples is not used by the updates. With fewer than 30 examples, none is held
    out. A network that removes most of the loss of constant outputs, also for these examples, has
    no issue. One that needs four times the updates has an issue only if changes make it as fast.
    All trainings run in one compiled program. An optimizer must fit the arrays of the network, so
    masks and labels must fit it too.

    References
    ----------
    Rossbroich, Gygax, Zenke 2022, "Fluctuation-driven initialization for spiking neural network
    training", Neuromorphic Computing and Engineering 2(4):044016, for the scale of the potential.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, LeakyReadout, Network, diagnose
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> w = jax.random.normal(keys[0], (20, 30))
    >>> out = jax.random.normal(keys[1], (30, 2))
    >>> network = Network([
    ...     Layer(w, LIF(0.9, threshold=60.0)),
    ...     Layer(out, LeakyReadout(0.9)),
    ... ])
    >>> spikes = jax.random.bernoulli(keys[2], 0.1, (25, 16, 20))
    >>> report = diagnose(network, spikes, lambda out: (out[-1] ** 2).mean())
    >>> [(issue.kind, issue.place) for issue in report.issues]
    [('silent', '0')]
    >>> report.issues[0].fixes[0].text
    'set its threshold to 1'
    >>> diagnose(report.repaired, spikes).issues
    ()
    """
    if not isinstance(network, Network):
        raise TypeError(f"diagnose: network must be a Network, got {brief(network)}")
    if optimizer is not None and not any(map(is_real_array, jax.tree.leaves(network))):
        raise ValueError(f"diagnose: network {NOTHING_TO_TRAIN}")
    mask = None if mask is None else np.asarray(mask)
    problem = Problem(
        network, named_inputs(network.inputs, inputs), loss, optimizer, key, mask
    )
    # Users may forbid promotion in their own code.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        best = Best(problem, budget, progress)
        is_trained = train and loss is not None and optimizer is not None
        if not best.is_blocked:
            is_trained &= best.first.constant > 0
            (best.train if is_trained else best.estimate)()
        return best.result()


class Best(Search):
    """The best changes of a search so far."""

    initial: Any = None
    """The outcome of a training without changes."""
    outcome: Any = None
    longer: Any = None
    """The outcome of a longer training of a network that learns slowly."""
    worth = -math.inf
    is_slow = False
    """True if a network learns, in more updates. An issue must then make it learn in the usual."""
    is_by_heart = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tried = {}
        self.trials = {}
        self.issues = [*_obstacles(self)]
        self.is_blocked = bool(self.issues)

    def estimate(self) -> None:
        """Take the moves of all measures, without a training."""
        self.issues = [*self.hidden, *self.changes, *_other_rate(self.report)]

    def train(self) -> None:
        """Train the network, and with changes if it does not learn."""
        self.say("training")
        self.initial = self.outcome = self.outcome_of({})
        self.worth = self.initial.score
        # No measure counts against a network that learns: unusual numbers are no fault by
        # themselves.
        if self.initial.learned >= LEARNS:
            return
        self.is_slow = self.learns({})
        # The report is the one with these changes.
        changes = self.changes
        self.rate = [*_other_rate(self.report)] * (not self.is_slow)
        for stage, issues in self.attempts(changes):
            if self.is_late:
                break
            if stage not in self.tried:
                self.say(f"training with {stage}")
            self.tried[stage] = None
            self.attempt(issues)
        self.accept()

    def outcome_of(self, moves: Moves, updates: int = UPDATES) -> Outcome:
        """Train the network with moves."""
        # Other moves than arguments of a program need a program of their own. The learning rate of
        # a replaced optimizer is an argument too.
        others = [
            dataclasses.replace(move, value=1.0)
            if isinstance(move, ScaleRate)
            else move
            for slot, move in moves.items()
            if slot not in {*self.slots, RATE}
        ]
        name = str(others)
        if name not in self.trials:
            self.trials[name] = Trial(_repaired(self.problem, others), self.slots)
        return self.trials[name](moves, updates)

    def learns(self, moves: Moves) -> bool:
        """Return True if the network with moves learns, also if it takes more updates."""
        outcome = self.outcome_of(moves)
        if MUCH < outcome.learned < LEARNS and not self.is_late:
            self.longer = outcome = self.outcome_of(moves, LONGER * UPDATES)
            return outcome.learned >= LATER
        return outcome.learned >= LEARNS

    def attempts(self, changes: list[Issue]) -> Iterator[tuple[str, list[Issue]]]:
        """Yield sets of changes to train with, until the network learns."""
        report = self.report
        # All changes at once. With two faults, the mending of one alone may not help, so single
        # trials would reject both. ``prune`` removes the needless ones.
        yield "all changes", [*changes, *self.rate]
        if self.is_slow:
            return
        lasting = self.propose(lasting=True)
        # A measured fault tells more than a memory that is tried anyway, and its consequences.
        kinds = {issue.kind for issue in changes}
        lasting.sort(key=lambda issue: issue.kind not in kinds)
        if self.initial.trained >= LEARNS:
            # Noise after a cue may be learned by heart, and hides how long the cue must last.
            measured = self.outcome, self.issues
            yield "other memories", lasting
            # Memories that no measure asked for must make the network learn.
            if self.outcome.learned < LEARNS:
                self.outcome, self.issues = measured
            return
        # The network may need another learning rate only, so the rates are tried without the
        # changes too. Other slopes and memories change the size of the gradients, so the nearest
        # rates are tried with them.
        # A first update tells the rate up to half a decade.
        near = (FACTOR, 1 / FACTOR) * bool(self.rate)
        for name, issues, factors, enough in (
            # A large enough rate may make up for what a memory forgets.
            ("memories", lasting, RATES[:1], LEARNS),
            ("learning rates", changes, (*near, *RATES), 1 - MUCH / 2),
            ("learning rates", [], RATES, LEARNS),
            ("slopes", self.propose(anyway=True), RATES[:3], LEARNS),
        ):
            for rate in factors:
                # A rate may learn by heart what a longer memory understands.
                if self.outcome.trained < enough or self.outcome.is_by_heart:
                    yield f"other {name}", [*issues, *_other_rate(report, rate)]
        evidence = "no other change helps, and a plain optimizer does"
        others = [
            ("Adam", "optimizer", evidence, ReplaceOptimizer(None, r)) for r in ADAM
        ]
        arrays = filter(is_real_array, jax.tree.leaves(self.problem.network))
        if any(array.dtype.itemsize < 4 for array in arrays):
            kind = "stalls" if math.isfinite(self.first.update) else "overshoots"
            evidence = "half precision rounds updates away, or makes them infinite"
            others = [("float32", kind, evidence, WidenDtype(None, "float32")), *others]
        for (stage, kind, evidence, move), issues in itertools.product(
            others, (changes, [])
        ):
            if self.outcome.trained < LEARNS:
                yield stage, [*issues, Issue(kind, None, evidence, (move,))]

    def attempt(self, issues: list[Issue]) -> None:
        """Train with the moves of these issues."""
        moves = _moves_of(issues)
        outcome = self.outcome_of(moves)
        # A change of the optimizer must be worth it: a decade of the learning rate must add as
        # much as another change, so small changes win. The factor that is measured costs nothing.
        measured = [*_moves_of(self.rate).values()]
        ratio = rate_of([*moves.values(), *measured]) / rate_of(measured)
        is_last = {ReplaceOptimizer, WidenDtype} & {*map(type, moves)}
        price = 1.0 if is_last else abs(np.log10(abs(ratio)))
        if (worth := outcome.score - MUCH * price) > self.worth:
            self.outcome, self.issues, self.worth = outcome, issues, worth

    def prune(self) -> None:
        """Leave out changes without which the network learns as much, the last first."""
        # The last first, because issues go from the inputs to the outputs, and faults near the
        # inputs cause those above.
        for issue in reversed(self.issues):
            others = [other for other in self.issues if other is not issue]
            moves = _moves_of(others)
            if not (moves and issue.fixes) or self.is_late:
                continue
            # A larger rate makes up for small weights, so it must not replace a measured silence.
            is_free = moves.get(RATE) in (None, *_moves_of(self.rate).values())
            if issue.kind == "silent" and not is_free:
                continue
            outcome = self.outcome_of(moves)
            # A network that learns, slowly, needs no other learning rate.
            if outcome.score >= self.outcome.score - LITTLE or (
                issue.place is None and self.learns(moves)
            ):
                self.outcome, self.issues = outcome, others

    def accept(self) -> None:
        """Keep changes that add enough, and all issues of a network that does not learn."""
        initial = self.initial
        if self.is_slow and self.outcome.learned < LEARNS:
            self.issues = []
            return
        self.is_by_heart = self.outcome.is_by_heart
        if self.outcome.score >= initial.score + MUCH and not self.is_by_heart:
            self.prune()
        elif initial.trained < LEARNS and not self.is_by_heart:
            issues = *self.hidden, *self.changes, *self.rate
            self.issues = [dataclasses.replace(issue, fixes=()) for issue in issues]
        else:
            # Changes that help only the examples of the updates are not believed. A layer that
            # never fires is worth a word, although the layers above it learn.
            self.issues = [issue for issue in self.changes if issue.kind == "silent"]
            self.outcome = self.outcome_of(_moves_of(self.issues))
            if self.outcome.score < initial.score - MUCH:
                self.issues = []

    def result(self) -> Diagnosis:
        moves = _moves_of(self.issues)
        problem = _repaired(self.problem, moves.values())
        repaired = self.outcome if moves else None
        return Diagnosis(
            self.first.layers,
            tuple(self.issues),
            self.verdict(repaired, moves),
            self.initial,
            repaired,
            problem.network,
            moves.get(RATE, ScaleRate(None, 1.0)).value,
            problem.optimizer,
            None if problem.loss is None else self.first.loss,
        )

    def verdict(self, repaired: Outcome | None, moves: Moves) -> str:
        """Return what the network learned, and what is left to check outside of it."""
        if self.initial is None:
            reason = "pass loss= and optimizer= to see if the network learns"
            if self.is_blocked:
                reason = "mend this first"
            elif self.problem.loss and self.first.constant <= 0:
                reason = (
                    "the loss of constant outputs is not positive, so check its sign"
                )
            return f"not trained: {reason}"
        is_split, last = self.trials["[]"].is_split, repaired or self.initial

        def learned(outcome):
            others = f", and {outcome.held_out:.0%} for other examples"
            return f"{outcome.trained:.0%} of the loss{others * is_split}"

        texts = [f"{UPDATES} updates remove {learned(self.initial)}"]
        tried = f" (tried: {', '.join(self.tried)})"
        if repaired is not None:
            texts.append(f"with these changes {learned(repaired)}")
        if self.is_by_heart or last.is_by_heart:
            texts.append(
                f"it learns by heart at best{tried}: check the labels, or pass more examples"
            )
        elif last.trained < LEARNS and not self.learns(moves):
            texts.append(
                f"no change lets it learn{tried}: check what is outside of the network, as labels, "
                "loss, mask, dropout and the order of the data"
            )
        elif last.learned > 1 + MUCH:
            texts.append("more than all of it: check the labels and the loss")
        elif repaired is None and self.longer is None:
            texts.append("it learns")
        elif repaired is None:
            longer = f"{LONGER * UPDATES} updates remove {learned(self.longer)}"
            texts.append(
                f"it learns, slowly: {longer}"
                if self.is_slow
                else f"{longer}: check the inputs and labels, or pass more examples"
            )
        return "; ".join(texts)


def _repaired(problem: Problem, moves: Iterable[Move]) -> Problem:
    """Return the problem after the moves."""
    for move in moves:
        network, optimizer = move.apply(problem.network), problem.optimizer
        optimizer = None if optimizer is None else move.change_optimizer(optimizer)
        problem = problem._replace(network=network, optimizer=optimizer)
    return problem


def _moves_of(issues: Iterable[Issue]) -> Moves:
    return by_slot(move for issue in issues for move in issue.fixes)


def _other_rate(report: Report, factor: float = 1.0) -> Iterator[Issue]:
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


def _obstacles(search: Search) -> Iterator[Issue]:
    """Yield a mask without a step, and NaN and infinite numbers. None of them can be trained."""
    first, mask = search.first, search.problem.mask
    kind, place, fixes = "not finite", None, ()
    arrays = [name for name in first.not_finite if "gradient" not in name]
    joins = [name for name, size in first.joins.items() if not np.isfinite(size)]
    if mask is not None and not mask.any():
        kind = "silent"
        text = "the mask leaves no step of any example; True marks a valid step"
    # NaN inputs behind a mask do no harm.
    elif np.isfinite(first.loss) and len(arrays) == len(first.not_finite):
        return
    elif arrays:
        place, text = _place_of(arrays[0]), f"{arrays[0]} has NaN or infinite numbers"
    elif not np.isfinite(first.constant):
        text = (
            "the loss of constant outputs is NaN or infinite, so check labels and loss"
        )
    # Measures outside of their bands explain more, such as a steep slope or inputs that are too
    # large for the dtype.
    elif (
        search.changes
        and not search.report.not_finite
        and np.isfinite(search.report.loss)
    ):
        return
    elif not np.isfinite(first.loss):
        # The first node in the order of a step is the cause of all others.
        nodes = [
            name
            for name in search.graph.nodes
            if not np.isfinite(np.float32(first.outputs[name])).all()
        ]
        text = (
            "its outputs are the first that are NaN or infinite, or lead to such a loss"
        )
        place, *_ = *nodes, *search.graph.outputs
        fixes = search.shrunk(place, math.inf)
    elif joins:
        place, text = joins[-1], "the derivative of this join is NaN or infinite"
    else:
        # Gradients flow from the outputs, so the last layer with NaN is the cause.
        name = first.not_finite[-1]
        place, text = _place_of(name), f"{name} has NaN or infinite numbers"
    yield Issue(kind, place, text, fixes)


def _place_of(name: str) -> str | None:
    """Return the layer of an array, or None for the inputs."""
    return name.partition("layers/")[2].partition("/")[0] or None
