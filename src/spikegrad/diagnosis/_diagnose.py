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
from .measures import USUAL_UPDATE, Report, outside
from .moves import (
    Move,
    Moves,
    ReplaceOptimizer,
    ScaleRate,
    WidenDtype,
    rounded,
)
from .report import Diagnosis, Issue
from .search import ADAM, LATER, LONGER, RATES, Search
from .trial import (
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
        self.tried: dict[str, None] = {}
        self.issues = [*_obstacles(self)]
        self.is_blocked = bool(self.issues)

    def estimate(self) -> None:
        """Take the moves of all measures, without a training."""
        issues = self.propose()
        self.issues = [*self.hidden, *issues, *_other_rate(self.report)]

    def train(self) -> None:
        """Train the network, and with changes if it does not learn."""
        self.used = self.trial = Trial(self.problem, self.slots)
        self.say("training")
        self.initial = self.outcome = self.trial({})
        self.worth = self.initial.score
        # No measure counts against a network that learns: unusual numbers are no fault by
        # themselves.
        if self.initial.learned >= LEARNS:
            return
        self.is_slow = self.learns({})
        self.changes = self.propose()
        self.rate = [*_other_rate(self.report)] * (not self.is_slow)
        for stage, issues, trial in self.attempts():
            if self.is_late:
                break
            self.say(f"training with {stage}")
            self.tried[stage] = None
            self.attempt(issues, trial)
        self.accept()

    def learns(self, moves: Moves) -> bool:
        """Return True if the network with moves learns, also if it takes more updates."""
        outcome = self.used(moves)
        if MUCH < outcome.learned < LEARNS and not self.is_late:
            self.longer = outcome = self.used(moves, LONGER * UPDATES)
            return outcome.learned >= LATER
        return outcome.learned >= LEARNS

    def attempts(self) -> Iterator[tuple[str, list[Issue], Trial | None]]:
        """Yield sets of changes to train with, until the network learns."""
        problem, changes, report = self.problem, self.changes, self.report
        # All changes at once. With two faults, the mending of one alone may not help, so single
        # trials would reject both. ``prune`` removes the needless ones.
        yield "all changes", [*changes, *self.rate], None
        if self.is_slow:
            return
        if self.initial.trained >= LEARNS:
            # Noise after a cue may be learned by heart, and hides how long the cue must last.
            if self.initial.is_by_heart:
                yield "other memories", self.propose(lasting=True), None
            return
        # The network may need another learning rate only, so the rates are tried without the
        # changes too. Other slopes and memories change the size of the gradients, so the nearest
        # rates are tried with them.
        # A first update tells the rate up to half a decade.
        near = (FACTOR, 1 / FACTOR) * bool(self.rate)
        lasting = self.propose(lasting=True)
        for name, issues, factors, enough in (
            # A large enough rate may make up for what a memory forgets.
            ("memories", lasting, RATES[:1], LEARNS),
            ("learning rates", changes, (*near, *RATES), 1 - MUCH / 2),
            ("learning rates", [], RATES, LEARNS),
            ("slopes", self.propose(anyway=True), RATES[:3], LEARNS),
            ("memories", lasting, RATES[:3], LEARNS),
        ):
            for rate in factors:
                # A rate may learn by heart what a longer memory understands.
                if self.outcome.trained < enough or self.outcome.is_by_heart:
                    with_rate = [*issues, *_other_rate(report, rate)]
                    yield f"other {name}", with_rate, None
        lost, update = self.first.lost or 0.0, self.first.update or 0.0
        is_infinite = not math.isfinite(update)
        if self.outcome.trained < LEARNS and (is_infinite or outside("lost", lost)):
            kind = "overshoots" if is_infinite else "stalls"
            evidence = f"the dtype rounds {lost:.0%} of the first update away"
            if is_infinite:
                evidence = "the first update is infinite, so eps may be too small for the dtype"
            move = WidenDtype(None, "float32")
            trial = Trial(_repaired(problem, [move]), self.slots)
            yield "float32", [*changes, Issue(kind, None, evidence, (move,))], trial
        import optax  # noqa: PLC0415  (an extra, which the optimizer shows to be there)

        # A learning rate of 1, which ``ReplaceOptimizer`` scales as an argument of the program.
        trial = Trial(problem._replace(optimizer=optax.adam(1.0)), self.slots)
        evidence = "no other change helps, and a plain optimizer does"
        for issues, rate in itertools.product((changes, []), ADAM):
            if self.outcome.trained < LEARNS:
                adam = Issue(
                    "optimizer", None, evidence, (ReplaceOptimizer(None, rate),)
                )
                yield "Adam", [*issues, adam], trial

    def attempt(self, issues: list[Issue], trial: Trial | None) -> None:
        """Train with the moves of these issues."""
        used, moves = trial or self.trial, _moves_of(issues)
        outcome = used(moves)
        # A change of the optimizer must be worth it: a decade of the learning rate must add as
        # much as another change, so small changes win. The factor that is measured costs nothing.
        rates = 1.0, rate_of(_moves_of(self.rate).values())
        distances = [abs(np.log10(abs(rate_of(moves.values()) / r))) for r in rates]
        price = 1.0 if trial else min(distances)
        if (worth := outcome.score - MUCH * price) > self.worth:
            self.outcome, self.issues = outcome, issues
            self.worth, self.used = worth, used

    def prune(self) -> None:
        """Leave out changes without which the network learns as much, the last first."""
        # Arguments of the trial. Other moves, such as a wider dtype, would need another program.
        compiled = {*self.slots, (ScaleRate, None)}
        # The last first, because issues go from the inputs to the outputs, and faults near the
        # inputs cause those above.
        for issue in reversed(self.issues):
            moves = _moves_of(f for f in self.issues if f is not issue)
            slots = {move.slot for move in issue.fixes}
            if not (moves and slots and slots <= compiled) or self.is_late:
                continue
            # A larger rate makes up for small weights, so it must not replace a measured silence.
            rate = moves.get((ScaleRate, None))
            is_free = rate is None or rate in _moves_of(self.rate).values()
            if issue.kind == "silent" and not is_free:
                continue
            outcome = self.used(moves)
            # A network that learns, slowly, needs no other learning rate.
            if outcome.score >= self.outcome.score - LITTLE or (
                issue.place is None and self.learns(moves)
            ):
                self.outcome = outcome
                self.issues = [f for f in self.issues if f is not issue]

    def accept(self) -> None:
        """Keep changes that add enough, and all issues of a network that does not learn."""
        initial = self.initial
        if self.is_slow and self.outcome.learned < LEARNS:
            self.issues = []
            return
        self.is_by_heart = self.outcome.is_by_heart
        learns = initial.trained >= LEARNS or self.is_by_heart
        added = self.outcome.score - initial.score
        if added >= (MUCH / 2 if learns else MUCH) and not self.is_by_heart:
            self.prune()
        elif not learns:
            issues = *self.hidden, *self.changes, *self.rate
            self.issues = [dataclasses.replace(f, fixes=()) for f in issues]
            self.outcome, self.used = None, self.trial
        else:
            # A layer that never fires is worth a word, although the layers above it learn. Other
            # changes that help the examples of the updates only are not believed.
            self.issues = [f for f in self.changes if f.kind == "silent" and f.fixes]
            self.outcome = self.trial(_moves_of(self.issues))
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
            moves.get((ScaleRate, None), ScaleRate(None, 1.0)).value,
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
        is_split, last = self.trial.is_split, repaired or self.initial

        def learned(outcome):
            others = f", and {max(outcome.held_out, 0):.0%} for other examples"
            return f"{max(outcome.trained, 0):.0%} of the loss{others * is_split}"

        texts = [f"{UPDATES} updates remove {learned(self.initial)}"]
        tried = f" (tried: {', '.join(self.tried)})"
        if not is_split:
            texts[0] += " (too few to hold some out)"
        if repaired is not None:
            texts.append(f"with these changes {learned(repaired)}")
        if self.is_by_heart or last.is_by_heart:
            texts.append(
                f"it learns by heart at best{tried}: check the labels, or pass more examples"
            )
        elif last.trained < LEARNS and not self.learns(moves):
            texts.append(
                "the budget ended the search"
                if self.is_late
                else f"no change lets it learn{tried}: check what is outside of the network, as "
                "labels, loss, mask, dropout and the order of the data"
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
    return {move.slot: move for issue in issues for move in issue.fixes}


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
        # The first array of a layer is enough.
        names = {_place_of(name): name for name in reversed(arrays)}
        for place, name in reversed(names.items()):
            yield Issue(kind, place, f"{name} has NaN or infinite numbers")
        return
    elif not np.isfinite(first.constant):
        text = (
            "the loss of constant outputs is NaN or infinite, so check labels and loss"
        )
    # Measures outside of their bands explain more, such as a steep slope or inputs that are too
    # large for the dtype.
    elif search.propose() and search.report.is_finite:
        return
    elif not np.isfinite(first.loss):
        # The first node in the order of a step is the cause of all others.
        nodes = [
            name
            for name in search.graph.nodes
            if not np.isfinite(np.float32(first.outputs[name])).all()
        ]
        text = "its outputs are the first that are NaN or infinite"
        if not nodes:
            nodes = search.graph.outputs
            text = "the loss of its outputs is NaN or infinite, that of constant outputs is not"
        place = nodes[0]
        fixes = search.shrunk(place, math.inf)
    elif joins:
        place, text = joins[-1], "the derivative of this join is NaN or infinite"
    else:
        # Gradients flow from the outputs, so the last layer with NaN is the cause.
        places = [_place_of(name) for name in first.not_finite]
        place = next(n for n in reversed(search.graph.layers) if n in places)
        name = first.not_finite[places.index(place)]
        text = f"{name} has NaN or infinite numbers"
    yield Issue(kind, place, text, fixes)


def _place_of(name: str) -> str | None:
    """Return the layer of an array, or None for the inputs."""
    return name.partition("layers/")[2].partition("/")[0] or None
