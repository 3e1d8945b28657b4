"""The function :func:`diagnose`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from ..network import Network
from .measures import BANDS, Report, outside
from .moves import ReplaceOptimizer, ScaleRate, number, rounded
from .report import Diagnosis, Issue, verdict_of
from .search import ADAM, FITS, GOOD, LEARNS, MUCH, PRICE, RATES, Finding, Search
from .trial import Outcome, Problem, Trial


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
    if not isinstance(network, Network):
        raise TypeError(f"diagnose: network must be a Network, got {brief(network)}")
    named = {network.inputs: inputs} if isinstance(network.inputs, str) else dict(inputs)
    problem = Problem(
        network,
        {name: jnp.asarray(x) for name, x in named.items()},
        loss,
        optimizer,
        key,
        None if mask is None else jnp.asarray(mask),
    )
    search = Search(problem, budget, progress)
    if findings := [*_unusable(search)]:
        return _result(search, findings)
    if not train or loss is None or optimizer is None or not search.first.constant > 0:
        search.propose()
        (rate, *_) = _likely_rates(search.report)
        return _result(search, [*search.findings, *_of_optimizer(rate, None)], rate=rate)
    search.trial = Trial(problem, search.slots)
    search.say("training")
    own = search.trial({})
    if own.learned >= LEARNS:
        return _result(search, [], own)
    search.propose()
    best = Best(search, own, own)
    best.find()
    return best.result()


def score(outcome: Outcome) -> float:
    """Return the mean of what was learned of examples that the updates use, and of others.

    The second is noisy for few examples, the first says little for networks with many weights.
    """
    return (max(outcome.trained, 0.0) + max(outcome.held_out, 0.0)) / 2


@dataclasses.dataclass
class Best:
    """The best findings and learning rate so far."""

    search: Search
    own: Outcome
    outcome: Outcome
    findings: list[Finding] = dataclasses.field(default_factory=list)
    rate: float = 1.0
    adam: float | None = None

    @property
    def worth(self) -> float:
        """A score that prefers small changes of the learning rate."""
        return score(self.outcome) - PRICE * abs(np.log10(abs(self.rate)))

    def find(self) -> None:
        """Train with all moves, then at other learning rates, with other slopes, and with Adam."""
        search, everything = self.search, self.search.findings
        rates = [*dict.fromkeys([*_likely_rates(search.report), *RATES])]
        changes = any(finding.moves for finding in everything)
        if changes:
            search.say("training with all changes")
            self.attempt(everything, (1.0,))
        if self.own.trained >= FITS:
            return
        for findings in [everything, []][not changes :]:
            if self.outcome.trained < (GOOD if findings or not changes else FITS):
                search.say("training at other learning rates")
                self.attempt(findings, rates)
        slopes = [*search.slopes(anyway=True)]
        if self.outcome.trained < FITS and slopes:
            search.say("training with other slopes")
            places = {finding.place for finding in slopes}
            others = [f for f in everything if not (f.kind in OF_SLOPES and f.place in places)]
            self.attempt([*others, *slopes], (1.0, 10.0, 0.1))
        if self.outcome.trained < FITS:
            import optax  # noqa: PLC0415  (an extra, which the optimizer shows to be there)

            search.say("training with Adam")
            adam = Trial(search.problem._replace(optimizer=optax.adam(1.0)), search.slots)
            for findings in [everything, []][not changes :]:
                self.attempt(findings, ADAM, adam)

    def attempt(self, findings: list[Finding], rates: Any, adam: Trial | None = None) -> None:
        """Train with the moves of these findings, at each rate until the network learns."""
        moves = {move.slot: move for finding in findings for move in finding.moves}
        for rate in rates:
            if self.search.is_late:
                return
            outcome = (adam or self.search.trial)(moves, rate)
            other = Best(self.search, self.own, outcome, findings, 1.0 if adam else rate)
            if other.worth > self.worth + (MUCH if adam else 0.0):
                self.outcome, self.findings, self.rate = outcome, findings, other.rate
                self.adam = rate if adam else None
                if outcome.trained >= GOOD:
                    return

    def result(self) -> Diagnosis:
        """Return the changes that add enough, and all issues of a network that does not learn."""
        added, learns = score(self.outcome) - score(self.own), self.own.trained >= FITS
        if added >= (MUCH / 2 if learns else MUCH):
            findings = [*self.findings, *_of_optimizer(self.rate, self.adam)]
            outside = [f for f in self.search.findings if f not in self.findings and not learns]
            findings += [dataclasses.replace(f, moves=()) for f in outside]
            return _result(self.search, findings, self.own, self.outcome, self.rate, self.adam)
        if not learns:
            findings = [dataclasses.replace(f, moves=()) for f in self.search.findings]
            return _result(self.search, findings, self.own)
        # A layer that never fires is worth a word, although the layers above it learn.
        silent = [f for f in self.search.findings if f.kind == "silent" and f.moves]
        moves = {move.slot: move for finding in silent for move in finding.moves}
        outcome = self.search.trial(moves) if silent else None
        if outcome is None or score(outcome) < score(self.own) - MUCH:
            return _result(self.search, [], self.own)
        return _result(self.search, silent, self.own, outcome)


OF_SLOPES = "out of reach", "explodes", "vanishes"


def _likely_rates(report: Report) -> list[float]:
    """Return factors of the learning rate that make the first update usual."""
    if report.ascent is not None and report.ascent > BANDS["ascent"].high:
        return [-1.0]
    if not report.update or not outside("update", report.update):
        return [1.0]
    factor = BANDS["update"].target / report.update
    return [rounded(factor), rounded(3 * factor), rounded(factor / 3)]


def _of_optimizer(rate: float, adam: float | None) -> list[Finding]:
    """Return the finding for another learning rate or another optimizer."""
    if adam is not None:
        evidence = "no other change helps, and a plain optimizer does"
        return [Finding("optimizer", None, evidence, (ReplaceOptimizer(None, adam),))]
    if rate == 1:
        return []
    kind = "ascends" if rate < 0 else "overshoots" if rate < 1 else "stalls"
    evidence = f"{kind}: the network learns more at {number(rate)} times the learning rate"
    return [Finding("optimizer", None, evidence, (ScaleRate(None, rate),))]


def _unusable(search: Search) -> Iterator[Finding]:
    """Yield numbers that are not finite, which no change of a layer mends."""
    report, problem = search.first, search.problem
    if report.not_finite:
        names = ", ".join(report.not_finite)
        yield Finding("not finite", None, f"NaN or infinite numbers in {names}")
    if problem.loss is not None and not np.isfinite(report.constant):
        yield Finding("not finite", None, "the loss of constant outputs is NaN or infinite")


def _result(
    search: Search,
    findings: list[Finding],
    own: Outcome | None = None,
    repaired: Outcome | None = None,
    rate: float = 1.0,
    adam: float | None = None,
) -> Diagnosis:
    problem = search.problem
    moves = {move.slot: move for finding in findings for move in finding.moves}
    network = problem.network
    for move in moves.values():
        network = move.apply(network)
    optimizer = problem.optimizer
    if adam is not None or (optimizer is not None and rate != 1):
        import optax  # noqa: PLC0415

        other = optimizer and optax.chain(optimizer, optax.scale(rate))
        optimizer = other if adam is None else optax.adam(adam)
    issues = tuple(Issue(f.kind, f.place, f.evidence, f.moves) for f in findings)
    return Diagnosis(
        search.first.layers,
        issues,
        verdict_of(own, repaired if moves else None, search.trial and search.trial.is_split),
        own,
        repaired if moves else None,
        network,
        rate,
        optimizer,
        None if problem.loss is None else search.first.loss,
    )
