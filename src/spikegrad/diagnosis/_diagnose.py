"""The function :func:`diagnose`: measures, then trials of the moves that bring them into bands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._pytree import NOTHING_TO_TRAIN, is_real_array, split
from ..network import Network, named_inputs
from .measures import BANDS, Report, outside
from .moves import (
    Freeze,
    Move,
    OptimizerMove,
    ReplaceOptimizer,
    ScaleRate,
    WidenDtype,
    number,
    rounded,
)
from .report import Diagnosis, Issue, verdict_of
from .search import ADAM, FITS, GOOD, LEARNS, LITTLE, MUCH, RATES, Finding, Search
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
    out. A network that removes three quarters of the loss of constant outputs, also for these
    examples, has no issue. All trainings run in one compiled program. An optimizer must fit the
    arrays of the network, so masks and labels must fit it too.

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
    leaves = jax.tree.leaves(network)
    if optimizer is not None and not any(map(is_real_array, leaves)):
        raise ValueError(f"diagnose: network {NOTHING_TO_TRAIN}")
    named = named_inputs(network.inputs, inputs)
    mask = None if mask is None else jnp.asarray(mask)
    if mask is not None and not mask.any():
        raise ValueError(
            "diagnose: mask leaves no step of any example; True marks a valid step"
        )
    problem = Problem(network, named, loss, optimizer, key, mask)
    # Users may forbid promotion in their own code.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        best = Best(Search(problem, budget, progress))
        is_trained = train and loss is not None and optimizer is not None
        if best.findings:  # numbers that are not finite
            pass
        elif is_trained and best.search.first.constant > 0:
            best.train()
        else:
            best.estimate()
        return best.result()


def score(outcome: Outcome) -> float:
    """Return the mean of what was learned of examples that the updates use, and of others.

    The second is noisy for few examples, the first says little for networks with many weights.
    """
    return (max(outcome.trained, 0.0) + max(outcome.held_out, 0.0)) / 2


class Best:
    """The best changes so far."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.initial: Any = None  # an Outcome, after a training
        self.outcome: Any = None
        self.worth, self.used = -math.inf, search.trial
        self.findings = [*_not_finite(search)]

    def estimate(self) -> None:
        """Take the moves of all measures, without a training."""
        self.search.propose()
        (rate, *_) = _likely_rates(self.search.report)
        self.findings = [*self.search.findings, *_other_rate(self.search, rate)]

    def train(self) -> None:
        """Train the network, and with changes if it does not learn."""
        search = self.search
        search.trial = Trial(search.problem, search.slots)
        search.say("training")
        self.initial = self.outcome = initial = search.trial({})
        self.worth = score(initial)
        # No measure counts against a network that learns: unusual numbers are no fault by
        # themselves.
        if initial.learned >= LEARNS:
            return
        search.propose()
        if any(finding.moves for finding in search.findings):
            search.say("training with all changes")
            # All changes at once. With two faults, the mending of one alone may not help, so
            # single trials would reject both. ``prune`` removes the needless ones.
            self.attempt(search.findings)
        if initial.trained < FITS:
            self.try_more()
        self.accept(initial)

    def try_more(self) -> None:
        """Try learning rates, other slopes, a wider dtype and Adam, until the network learns."""
        search, changes = self.search, self.search.findings
        if not self.initial.finite:
            self.freeze()
        # The network may need another learning rate only, so the rates are tried without the
        # changes too.
        sets = [changes, []] if any(finding.moves for finding in changes) else [changes]
        for findings in sets:
            if self.outcome.trained < (GOOD if findings is changes else FITS):
                search.say("training at other learning rates")
                # The likely rates first, each once, because the budget may end the search.
                for rate in dict.fromkeys([*_likely_rates(search.report), *RATES]):
                    self.attempt([*findings, *_other_rate(search, rate)])
        slopes = [*search.slopes(anyway=True)]
        if self.outcome.trained < FITS and slopes:
            search.say("training with other slopes")
            slots = {move.slot for finding in slopes for move in finding.moves}
            others = [
                f for f in changes if not any(move.slot in slots for move in f.moves)
            ]
            # Another slope changes the size of the gradients, so the nearest rates are tried with
            # it.
            for rate in RATES[:3]:
                self.attempt([*others, *slopes, *_other_rate(search, rate)])
        if (
            self.outcome.trained < FITS
            and (search.first.lost or 0) > BANDS["lost"].high
        ):
            search.say("training in float32")
            wide = WidenDtype(None, "float32")
            trial = Trial(
                search.problem._replace(network=wide.apply(search.problem.network)),
                search.slots,
            )
            evidence = (
                f"the dtype rounds {search.first.lost:.0%} of the first update away"
            )
            self.attempt([*changes, Finding("stalls", None, evidence, (wide,))], trial)
        if self.outcome.trained < LEARNS:
            import optax  # noqa: PLC0415  (an extra, which the optimizer shows to be there)

            search.say("training with Adam")
            # A learning rate of 1, which ``ReplaceOptimizer`` scales as an argument of the
            # program.
            trial = Trial(
                search.problem._replace(optimizer=optax.adam(1.0)), search.slots
            )
            evidence = "no other change helps, and a plain optimizer does"
            for findings in sets:
                for rate in ADAM:
                    adam = (ReplaceOptimizer(None, rate),)
                    self.attempt(
                        [*findings, Finding("optimizer", None, evidence, adam)], trial
                    )

    def freeze(self) -> None:
        """Keep arrays of cells out of the training, which may leave the domain of a formula."""
        network, optimizer = self.search.problem.network, self.search.problem.optimizer
        arrays = split(network, lambda _, leaf: is_real_array(leaf))[0]
        frozen = []
        for path, _ in jax.tree_util.tree_leaves_with_path(arrays):
            _, place, *part = jax.tree_util.keystr(
                path, simple=True, separator="/"
            ).split("/")
            if part[0] == "cell":
                move = Freeze(place, "/".join(["layers", place, *part]))
                optimizer = move.change_optimizer(optimizer)
                evidence = f"its {part[-1]} makes the training NaN or infinite"
                frozen.append(Finding("not finite", place, evidence, (move,)))
        if frozen:
            self.search.say("training with constant cells")
            trial = Trial(
                self.search.problem._replace(optimizer=optimizer), self.search.slots
            )
            self.attempt([*self.search.findings, *frozen], trial)

    def attempt(self, findings: list[Finding], trial: Trial | None = None) -> None:
        """Train with the moves of these findings, unless the network learns already."""
        if self.search.is_late or (
            self.outcome and self.outcome.trained >= GOOD and trial
        ):
            return
        used, moves = trial or self.search.trial, _moves_of(findings)
        outcome = used(moves)
        rates = [move.value for move in moves.values() if isinstance(move, ScaleRate)]
        # A change of the optimizer must be worth it.
        price = 1.0 if trial else sum(abs(np.log10(abs(rate))) for rate in rates)
        # A decade of the learning rate must add as much as another change, so small changes win.
        if (worth := score(outcome) - MUCH * price) > self.worth:
            self.outcome, self.findings, self.worth, self.used = (
                outcome,
                findings,
                worth,
                used,
            )

    def prune(self) -> None:
        """Leave out changes without which the network learns as much, the last first."""
        # Arguments of the trial.
        compiled = {
            *self.search.slots,
            ScaleRate(None, 1.0).slot,
        }
        # The last first, because findings go from the inputs to the outputs, and faults near the
        # inputs cause those above.
        for finding in reversed(self.findings):
            others = [other for other in self.findings if other is not finding]
            slots = {move.slot for move in finding.moves}
            # Other moves, such as a wider dtype, would need another program.
            is_argument = slots and slots <= compiled
            if (
                is_argument
                and any(other.moves for other in others)
                and not self.search.is_late
            ):
                outcome = self.used(_moves_of(others))
                if score(outcome) >= score(self.outcome) - LITTLE:
                    self.outcome, self.findings = outcome, others

    def accept(self, initial: Outcome) -> None:
        """Keep changes that add enough, and all issues of a network that does not learn."""
        learns, added = initial.trained >= FITS, score(self.outcome) - score(initial)
        if added >= (MUCH / 2 if learns else MUCH):
            self.prune()
        elif not learns:
            self.findings, self.outcome = (
                [f.without_moves() for f in self.search.findings],
                None,
            )
        else:
            # A layer that never fires is worth a word, although the layers above it learn.
            self.findings = [
                f for f in self.search.findings if f.kind == "silent" and f.moves
            ]
            self.outcome = self.search.trial(_moves_of(self.findings))
            if score(self.outcome) < score(initial) - MUCH:
                self.findings = []

    def result(self) -> Diagnosis:
        problem, first = self.search.problem, self.search.first
        network, optimizer, rate = problem.network, problem.optimizer, 1.0
        moves = _moves_of(self.findings).values()
        for move in moves:
            network = move.apply(network)
            if isinstance(move, OptimizerMove) and optimizer is not None:
                optimizer = move.change_optimizer(optimizer)
                rate = move.value if type(move) is ScaleRate else rate
        repaired = self.outcome if moves else None
        is_split = self.search.trial is not None and self.search.trial.is_split
        learns = (
            self.initial is None
            or max(outcome.trained for outcome in (self.initial, repaired) if outcome)
            >= FITS
        )
        return Diagnosis(
            first.layers,
            tuple(Issue(f.kind, f.place, f.evidence, f.moves) for f in self.findings),
            verdict_of(
                self.initial,
                repaired,
                is_split,
                learns,
                self.search.is_late,
                first.is_finite,
            ),
            self.initial,
            repaired,
            network,
            rate,
            optimizer,
            None if problem.loss is None else first.loss,
        )


def _moves_of(findings: Iterable[Finding]) -> dict[tuple, Move]:
    return {move.slot: move for finding in findings for move in finding.moves}


def _likely_rates(report: Report) -> list[float]:
    """Return factors of the learning rate that make the first update usual."""
    if outside("ascent", report.ascent) > 0:
        return [-1.0]
    if not report.update or not outside("update", report.update):
        return [1.0]
    # The first update is proportional to the rate, so this factor gives it the usual size.
    factor = BANDS["update"].target / report.update
    return [rounded(factor), rounded(3 * factor), rounded(factor / 3)]


def _other_rate(search: Search, rate: float) -> Iterator[Finding]:
    """Yield the finding for another learning rate."""
    if rate == 1:
        return
    kind = "ascends" if rate < 0 else "overshoots" if rate < 1 else "stalls"
    evidence = f"the network learns more at {number(rate)} times the learning rate"
    if outside("update", search.report.update):
        evidence = f"the first update is {search.report.update:.2g} times the weights"
    if rate < 0:
        evidence = f"the cosine of the first update and the gradient is {search.report.ascent:.2g}"
    yield Finding(kind, None, evidence, (ScaleRate(None, rate),))


def _not_finite(search: Search) -> Iterator[Finding]:
    """Yield NaN and infinite numbers, which no change of a layer mends."""
    first = search.first
    # A loss that is not finite spoils every gradient.
    names = first.not_finite
    if not np.isfinite(first.loss):
        names = [name for name in names if not name.startswith("the gradient of")]
    for name in names:
        place = name.partition("layers/")[2].partition("/")[0] or None
        text = f"{name} has NaN or infinite numbers"
        if name.startswith("the gradient of"):
            path = name.removeprefix("the gradient of ")
            fix = f"partition(network, lambda path, leaf: path != {path!r})"
            text += f"; keep it out of the training: {fix}"
        yield Finding("not finite", place, text)
    if search.problem.loss is None:
        return
    if not np.isfinite(first.constant):
        yield Finding(
            "not finite", None, "the loss of constant outputs is NaN or infinite"
        )
    elif not names and not np.isfinite(first.loss):
        # All arrays are finite, and so is the loss of other outputs, so these are at fault.
        place = search.problem.network.graph.outputs[0]
        text = "the loss of its outputs is NaN or infinite, that of constant outputs is not"
        yield Finding("not finite", place, text)
