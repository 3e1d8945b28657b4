"""The function :func:`diagnose`: measures, then trials of the moves that bring them into bands."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._pytree import NOTHING_TO_TRAIN, is_real_array
from ..network import Network, named_inputs
from .measures import FACTOR, USUAL_UPDATE, Report, outside
from .moves import (
    Freeze,
    Move,
    ReplaceOptimizer,
    ScaleRate,
    WidenDtype,
    number,
    path_of,
    rounded,
)
from .report import Diagnosis, Issue
from .search import ADAM, LATER, LEARNS, LONGER, MUCH, RATES, Search
from .trial import LITTLE, UPDATES, Outcome, Problem, Trial, rate_of


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
        If ``network`` is not a network or has no array for the optimizer, if ``mask`` has no valid
        step, and as in a call of it.

    Notes
    -----
    A third of the examples is not used by the updates. With fewer than 30 examples, none is held
    out. A network that removes most of the loss of constant outputs, also for these examples, has
    no issue, and neither has one that needs four times the updates. All trainings run in one
    compiled program. An optimizer must fit the arrays of the network, so masks and labels must fit
    it too.

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
    mask = None if mask is None else jnp.asarray(mask)
    if mask is not None and not mask.any():
        raise ValueError(
            "diagnose: mask leaves no step of any example; True marks a valid step"
        )
    problem = Problem(
        network, named_inputs(network.inputs, inputs), loss, optimizer, key, mask
    )
    # Users may forbid promotion in their own code.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        best = Best(problem, budget, progress)
        is_trained = train and loss is not None and optimizer is not None
        if not best.issues:  # numbers that are not finite
            is_trained &= best.first.constant > 0
            (best.train if is_trained else best.estimate)()
        return best.result()


def score(outcome: Outcome) -> float:
    """Return the mean of what was learned of examples that the updates use, and of others.

    The second is noisy for few examples, the first says little for networks with many weights.
    """
    return (max(outcome.trained, 0.0) + max(outcome.held_out, 0.0)) / 2


def by_heart(outcome: Outcome) -> bool:
    """Return True if a network learns the examples that the updates use, and no others."""
    return outcome.trained >= LEARNS and outcome.learned < MUCH


class Best(Search):
    """The best changes of a search so far."""

    initial: Any = None
    """The outcome of a training without changes."""
    outcome: Any = None
    worth = -math.inf
    is_by_heart = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.issues = [*_not_finite(self)]

    def estimate(self) -> None:
        """Take the moves of all measures, without a training."""
        issues = self.propose()
        rate = _other_rate(self.report, _likely_rates(self.report)[0])
        self.issues = [*self.hidden, *issues, *rate]

    def train(self) -> None:
        """Train the network, and with changes if it does not learn."""
        self.used = self.trial = Trial(self.problem, self.slots)
        self.say("training")
        self.initial = self.outcome = self.trial({})
        self.worth = score(self.initial)
        # No measure counts against a network that learns: unusual numbers are no fault by
        # themselves.
        if self.learns({}):
            return
        self.changes = self.propose()
        for stage, issues, trial in self.attempts():
            if self.is_late:
                break
            self.say(stage)
            self.attempt(issues, trial)
        self.accept()

    def learns(self, moves: dict[tuple, Move]) -> bool:
        """Return True if the network with moves learns, also if it takes more updates."""
        outcome = self.used(moves)
        if MUCH < outcome.learned < LEARNS and not self.is_late:
            outcome = self.used(moves, LONGER * UPDATES)
            return outcome.learned >= LATER
        return outcome.learned >= LEARNS

    def attempts(self) -> Iterator[tuple[str, list[Issue], Trial | None]]:
        """Yield sets of changes to train with, until the network learns."""
        problem, changes, report = self.problem, self.changes, self.report
        # All changes at once. With two faults, the mending of one alone may not help, so single
        # trials would reject both. ``prune`` removes the needless ones.
        yield "training with all changes", changes, None
        if self.initial.trained >= LEARNS:
            return
        leaves = jax.tree_util.tree_leaves_with_path(problem.network)
        if not self.initial.finite and any("/cell/" in path_of(p) for p, _ in leaves):
            # Arrays of cells may leave the domain of a formula.
            evidence = "arrays of cells make the training NaN or infinite"
            yield self.other(Freeze(None, "/cell/"), "not finite", evidence)
        # The likely rates first, each once, because the budget may end the search.
        rates = [*dict.fromkeys([*_likely_rates(report), *RATES])]
        slopes = [*self.slopes(anyway=True)]
        fitted = {move.slot for issue in slopes for move in issue.fixes}
        others = [i for i in changes if fitted.isdisjoint(m.slot for m in i.fixes)]
        # The network may need another learning rate only, so the rates are tried without the
        # changes too. Other slopes and memories change the size of the gradients, so the nearest
        # rates are tried with them.
        for name, issues, factors, enough in (
            ("learning rates", changes, rates, 1 - MUCH / 2),
            ("learning rates", [], rates, LEARNS),
            ("slopes", [*others, *slopes], RATES[:3], LEARNS),
            ("memories", self.propose(lasting=True), RATES[:3], LEARNS),
        ):
            for rate in factors:
                if self.outcome.trained < enough:
                    with_rate = [*issues, *_other_rate(report, rate)]
                    yield f"training with other {name}", with_rate, None
        lost, update = self.first.lost or 0.0, self.first.update or 0.0
        is_infinite = not math.isfinite(update)
        if self.outcome.trained < LEARNS and (is_infinite or outside("lost", lost)):
            kind = "stalls", f"the dtype rounds {lost:.0%} of the first update away"
            if is_infinite:
                evidence = "the first update is infinite, so eps may be too small for the dtype"
                kind = "overshoots", evidence
            yield self.other(WidenDtype(None, "float32"), *kind)
        import optax  # noqa: PLC0415  (an extra, which the optimizer shows to be there)

        # A learning rate of 1, which ``ReplaceOptimizer`` scales as an argument of the program.
        trial = Trial(problem._replace(optimizer=optax.adam(1.0)), self.slots)
        evidence = "no other change helps, and a plain optimizer does"
        for issues, rate in itertools.product((changes, []), ADAM):
            if self.outcome.trained < LEARNS:
                adam = Issue(
                    "optimizer", None, evidence, (ReplaceOptimizer(None, rate),)
                )
                yield "training with Adam", [*issues, adam], trial

    def other(
        self, move: Move, kind: str, evidence: str
    ) -> tuple[str, list[Issue], Trial]:
        """Return an attempt with a move that needs another program."""
        trial = Trial(_repaired(self.problem, [move]), self.slots)
        issue = Issue(kind, None, evidence, (move,))
        return f"trying to {move.text}", [*self.changes, issue], trial

    def attempt(self, issues: list[Issue], trial: Trial | None) -> None:
        """Train with the moves of these issues."""
        used, moves = trial or self.trial, _moves_of(issues)
        outcome = used(moves)
        # A change of the optimizer must be worth it: a decade of the learning rate must add as
        # much as another change, so small changes win.
        price = 1.0 if trial else abs(np.log10(abs(rate_of(moves.values()))))
        if (worth := score(outcome) - MUCH * price) > self.worth:
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
            outcome = self.used(moves)
            # A network that learns, slowly, needs no other learning rate.
            if score(outcome) >= score(self.outcome) - LITTLE or (
                issue.place is None and self.learns(moves)
            ):
                self.outcome = outcome
                self.issues = [f for f in self.issues if f is not issue]

    def accept(self) -> None:
        """Keep changes that add enough, and all issues of a network that does not learn."""
        initial = self.initial
        self.is_by_heart = by_heart(self.outcome)
        learns = initial.trained >= LEARNS or self.is_by_heart
        added = score(self.outcome) - score(initial)
        if added >= (MUCH / 2 if learns else MUCH) and not self.is_by_heart:
            self.prune()
        elif not learns:
            issues = [dataclasses.replace(f, fixes=()) for f in self.changes]
            self.issues = [*self.hidden, *issues]
            self.outcome, self.used = None, self.trial
        else:
            # A layer that never fires is worth a word, although the layers above it learn. Other
            # changes that help the examples of the updates only are not believed.
            self.issues = [f for f in self.changes if f.kind == "silent" and f.fixes]
            self.outcome = self.trial(_moves_of(self.issues))
            if score(self.outcome) < score(initial) - MUCH:
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

    def verdict(self, repaired: Outcome | None, moves: dict[tuple, Move]) -> str:
        """Return what the network learned, and what is left to check outside of it."""
        if self.initial is None:
            is_broken = any(issue.kind == "not finite" for issue in self.issues)
            reason = "pass loss= and optimizer= to see if the network learns"
            return f"not trained: {'numbers are not finite' if is_broken else reason}"
        is_split, last = self.trial.is_split, repaired or self.initial

        def learned(outcome):
            others = f", and {max(outcome.held_out, 0):.0%} for other examples"
            return f"{max(outcome.trained, 0):.0%} of the loss{others * is_split}"

        texts = [f"{UPDATES} updates remove {learned(self.initial)}"]
        if not is_split:
            texts[0] += " (too few to hold some out)"
        if repaired is not None:
            texts.append(f"with these changes {learned(repaired)}")
        if self.is_by_heart or by_heart(last):
            texts.append(
                "it learns by heart at best: check the labels, or pass more examples"
            )
        elif last.trained < LEARNS and not self.learns(moves):
            texts.append(
                "the budget ended the search"
                if self.is_late
                else "no change lets it learn: check what is outside of the network, as labels, "
                "loss, mask, dropout and the order of the data"
            )
        elif last.learned > 1 + MUCH:
            texts.append("more than all of it: check the labels and the loss")
        elif repaired is None:
            texts.append("it learns")
        return "; ".join(texts)


def _repaired(problem: Problem, moves: Iterable[Move]) -> Problem:
    """Return the problem after the moves."""
    for move in moves:
        network, optimizer = move.apply(problem.network), problem.optimizer
        optimizer = None if optimizer is None else move.change_optimizer(optimizer)
        problem = problem._replace(network=network, optimizer=optimizer)
    return problem


def _moves_of(issues: Iterable[Issue]) -> dict[tuple, Move]:
    return {move.slot: move for issue in issues for move in issue.fixes}


def _likely_rates(report: Report) -> list[float]:
    """Return factors of the learning rate that make the first update usual."""
    if outside("ascent", report.ascent) > 0:
        return [-1.0]
    update = report.update or math.inf
    if not math.isfinite(update) or not outside("update", update):
        return [1.0]
    # The first update is proportional to the rate, so this factor gives it the usual size.
    factor = USUAL_UPDATE / update
    return [rounded(factor), rounded(FACTOR * factor), rounded(factor / FACTOR)]


def _other_rate(report: Report, rate: float) -> Iterator[Issue]:
    """Yield the issue for another learning rate."""
    if rate == 1:
        return
    kind = "ascends" if rate < 0 else "overshoots" if rate < 1 else "stalls"
    evidence = f"the network learns more at {number(rate)} times the learning rate"
    if outside("update", report.update):
        evidence = f"the first update is {report.update:.2g} times the weights"
    if rate < 0:
        evidence = (
            f"the cosine of the first update and the gradient is {report.ascent:.2g}"
        )
    yield Issue(kind, None, evidence, (ScaleRate(None, rate),))


def _not_finite(search: Search) -> Iterator[Issue]:
    """Yield NaN and infinite numbers, which smaller weights may mend."""
    first = search.first
    is_finite = np.isfinite(first.loss)
    # A loss that is not finite spoils every gradient. The first array of a layer is enough.
    names = {
        name.partition("layers/")[2].partition("/")[0] or name: name
        for name in reversed(first.not_finite)
        if is_finite or "gradient" not in name
    }
    for place, name in reversed(names.items()):
        place = place if place in search.graph.layers else None
        yield Issue("not finite", place, f"{name} has NaN or infinite numbers")
    if not np.isfinite(first.constant):
        text = (
            "the loss of constant outputs is NaN or infinite, so check labels and loss"
        )
        yield Issue("not finite", None, text)
    elif not (names or is_finite):
        # The first node in the order of a step is the cause of all others.
        nodes = [
            name
            for name, output in first.outputs.items()
            if not np.isfinite(np.float32(output)).all()
        ]
        text = "its outputs are the first that are NaN or infinite"
        if not nodes:
            nodes = search.graph.outputs
            text = "the loss of its outputs is NaN or infinite, that of constant outputs is not"
        yield Issue("not finite", nodes[0], text, search.shrunk(nodes[0], math.inf))
