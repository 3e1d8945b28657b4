"""The function :func:`diagnose`: measures, then trials of the moves that bring them into bands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._optimizer import in_structure
from .._pytree import NOTHING_TO_TRAIN, PyTree, is_real_array, split
from ..network import Network, named_inputs
from .moves import ScaleRate, moves_of
from .propose import finite, observe, shrunk, tamed
from .report import Diagnosis, Issue
from .search import LONGER, SearchResult, Study, other_rate, search
from .trial import (
    LEARNS,
    RATE,
    UPDATES,
    Budget,
    Loss,
    Outcome,
    Problem,
    with_moves,
)

if TYPE_CHECKING:
    from optax import GradientTransformation

MENDED = "once its numbers are finite, "
"""The beginning of the verdict if changes make numbers finite before the first training."""


def diagnose(
    network: Network,
    inputs: PyTree,
    loss: Loss | None = None,
    *,
    optimizer: GradientTransformation | None = None,
    key: jax.Array | None = None,
    mask: ArrayLike | None = None,
    train: bool = True,
    budget: float | None = None,
    progress: Callable[[str], object] | None = None,
) -> Diagnosis:
    """Find out why a network does not learn, and return a repaired network.

    A layer can learn under three conditions. Its potentials must sometimes reach the threshold, so
    its neurons spike. The slope of its surrogate must not be 0 at these potentials. And each update
    must change its weights by about 1% of their size. ``diagnose`` measures these conditions in
    each layer. If one fails, it tries changes, such as another threshold. It keeps a change only if
    the network then learns more in a training of 60 updates. Pass ``loss`` and ``optimizer``,
    because without them it only measures.

    Parameters
    ----------
    network : Network
        The network, with any weights and cells. The object itself does not change.
    inputs : array_like or dict
        Inputs of the network, ``(steps, batch, ...)``. A hundred examples are enough. Pass at least
        30, because a third of them is not used for training, to notice overfitting.
    loss : callable, optional
        A function from the outputs of the network, ``(steps, batch, neurons)``, to one number, a
        mean over examples. It closes over the labels of ``inputs``.
    optimizer : optax.GradientTransformation, optional
        The optimizer of your training, with its learning rate, such as ``optax.adam(1e-3)``.
    key : array of jax.random.key, optional
        Random key for :func:`stochastic` spikes.
    mask : array_like of bool, optional
        The valid time steps, ``(steps, batch)`` or ``(steps,)``: False for padding.
    train : bool, default True
        If True, train the network for 60 updates, and again with changes. This needs ``loss`` and
        ``optimizer``. If False, only measure. The report may then list issues of a network that
        learns.
    budget : float, optional
        Time limit of the trainings in seconds. A training with changes starts only if it is
        expected to end in time. By default there is no limit. For a slow network, also pass fewer
        examples.
    progress : callable, optional
        A function that is called with a text at each stage, for example ``print``.

    Returns
    -------
    Diagnosis
        The report. ``report.issues`` are the problems with their fixes, empty if the network
        learns. ``report.repaired`` is the network with all fixes, and ``report.optimizer`` the
        optimizer with all fixes. ``report.layers`` has the measures of each layer.
        ``print(report)`` shows all of this, and ``report.plot()`` draws the potentials.

    Raises
    ------
    TypeError, ValueError
        If ``network`` is not a network, or has no array. Also in the cases of a call of the
        network.

    Notes
    -----
    ``diagnose`` compares losses with two numbers: 0% is the loss of the best constant outputs,
    which ignore the inputs, and 100% is the lowest possible loss. A network has no issue if 60
    updates reduce the loss by 60% or more, also for the examples that are not used for training.
    With fewer than 30 examples, all are used for training.

    A network may need more than 60 updates. If it learns in 240 updates, it has an issue only if
    fixes make it learn in 60 updates, or at least twice as fast.

    All trainings run in one compiled program. The optimizer must fit the arrays of the network. If
    it has masks or labels for parameters, such as ``optax.masked``, they must fit the network too.

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
    if not (loss is None or callable(loss)):
        raise TypeError(
            f"diagnose: loss must be a function of the outputs, got {brief(loss)}. Pass "
            "lambda outputs: loss(outputs, labels)"
        )
    clock = Budget(budget)
    say = progress or (lambda stage: None)
    mask = None if mask is None else np.asarray(mask)
    if optimizer is not None:
        parameters, _ = split(network, is_real_array)
        optimizer = in_structure(optimizer, jax.tree.structure(parameters))
    problem = Problem(
        network, named_inputs(network.inputs, inputs), loss, optimizer, key, mask
    )
    # Users may forbid promotion in their own code.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return _diagnosed(problem, clock, say, train)


def _diagnosed(
    problem: Problem, budget: Budget, say: Callable[[str], object], train: bool
) -> Diagnosis:
    """Measure the network, and search for changes with which it learns."""
    # The measurement and one training run whatever the budget is.
    say("measuring")
    study = Study(observe(problem), budget, say)
    if obstacles := tuple(_obstacles(study)):
        text = "not trained: mend this first"
        report = _diagnosis(study, SearchResult(obstacles, None), text)
        if not (moves := moves_of(obstacles)):
            return report
        # Numbers that are not finite hide all other faults.
        mended = _diagnosed(with_moves(problem, moves.values()), budget, say, train)
        return dataclasses.replace(
            mended,
            layers=report.layers,
            issues=obstacles + mended.issues,
            # Another array may have been mended before.
            verdict=MENDED + mended.verdict.removeprefix(MENDED),
            outcome=None,
            outcome_repaired=mended.outcome_repaired or mended.outcome,
            loss=report.loss,
        )
    if not (train and problem.loss is not None and problem.optimizer is not None):
        reason = "pass loss= and optimizer= to see if the network learns"
        return _diagnosis(study, _estimated(study), f"not trained: {reason}")
    if reason := _doubt(study):
        return _diagnosis(study, _estimated(study), f"not trained: {reason}")
    result = search(study)
    return _diagnosis(study, result, verdict(study, result), study.initial)


def _doubt(study: Study) -> str:
    """Return the reason against a loss that no training should lower, or no text."""
    attainable = study.network.attainable
    is_positive = not study.network.first.constant <= 0  # also if it is NaN
    # A likelihood with a learned scale has no limit either, and networks learn it.
    if not (attainable.is_bounded or (is_positive and study.initial.learned >= LEARNS)):
        return "the loss falls without limit as outputs grow, so check its sign"
    if not (attainable.has_room or is_positive):
        return "no outputs lower the loss, so check it"
    return ""


def _estimated(study: Study) -> SearchResult:
    """Return the issues of all measures, with moves that no training has tried."""
    # Without a training the rate can only be judged by the size of the first update.
    rate = other_rate(study.changes.report)
    return SearchResult((*study.hidden, *study.changes.issues, *rate), None)


def _diagnosis(
    study: Study, result: SearchResult, text: str, initial: Outcome | None = None
) -> Diagnosis:
    moves = moves_of(result.issues)
    problem = with_moves(study.network.problem, moves.values())
    return Diagnosis(
        study.network.first.layers,
        result.issues,
        text,
        initial,
        result.repaired,
        problem.network,
        moves.get(RATE, ScaleRate(None, 1.0)).value,
        problem.optimizer,
        None if problem.loss is None else study.network.first.loss,
    )


def verdict(study: Study, result: SearchResult) -> str:
    """Return what the network learned, and what is left to check outside of it."""
    initial, repaired, longer = study.initial, result.repaired, study.longer
    # The network with all accepted changes, or as it was.
    last = repaired or initial

    def learned(outcome: Outcome) -> str:
        text = f"{outcome.trained:.0%} of the loss"
        if study.trials.is_split:
            text += f", and {outcome.held_out:.0%} for other examples"
        return text

    texts = [f"{UPDATES} updates remove {learned(initial)}"]
    tried = f" (tried: {', '.join(result.tried)})"
    if repaired is not None:
        texts.append(f"with these changes {learned(repaired)}")
    if result.is_by_heart or last.is_by_heart:
        texts.append(
            f"it learns by heart at best{tried}: check the labels, or pass more examples"
        )
    elif last.trained < LEARNS and not study.learns(moves_of(result.issues)):
        texts.append(_advice(study, result))
    elif repaired is None and longer is None:
        texts.append("it learns")
    elif repaired is None and longer is not None:
        later = f"{LONGER * UPDATES} updates remove {learned(longer)}"
        if study.is_slow:
            texts.append(f"it learns, slowly: {later}")
        elif study.learns_in_part:
            texts.append(
                f"{later}: it learns a part, also of other examples, and the rest may be noise of "
                "the targets. Check the inputs and labels, or pass more examples"
            )
        else:
            texts.append(
                f"{later}: it learns, and other examples less. Check the inputs and labels, or "
                "pass more examples"
            )
    if last.learned >= LEARNS and last.is_too_sure:
        texts.append(
            "its outputs are too sure for other examples, where constants have a lower loss: pass "
            "more examples"
        )
    return "; ".join(texts)


def _advice(study: Study, result: SearchResult) -> str:
    """Return what to do about a network that does not learn."""
    tried = f" (tried: {', '.join(result.tried)})" if result.tried else ""
    if result.is_cut:
        return (
            f"the budget of {study.budget.seconds:g} seconds ended before all changes were "
            f"tried{tried}: pass a larger budget or fewer examples"
        )
    causes = "labels, loss, mask, dropout and the order of the data"
    # Not "no change", because the accepted ones do help.
    if result.repaired is not None:
        return (
            f"no other change adds to it{tried}: check what is left of the loss outside of the "
            f"network, as {causes}"
        )
    if study.learns_in_part:
        return (
            f"it learns this part, also of other examples, and no change adds enough{tried}: the "
            "rest may be noise of the targets"
        )
    return f"no change lets it learn{tried}: check what is outside of the network, as {causes}"


def _obstacles(study: Study) -> Iterator[Issue]:
    """Yield the faults that prevent a training: no visible array, a loss without a gradient, a mask
    without a step, and NaN and infinite numbers.
    """
    problem, first = study.network.problem, study.network.first
    is_trainable = any(map(is_real_array, jax.tree.leaves(problem.network)))
    if problem.optimizer is not None and not is_trainable:
        if not study.untrained:
            raise ValueError(f"diagnose: network {NOTHING_TO_TRAIN}")
        yield from study.untrained
        return
    # Outputs of NaN or zeros have no useful gradient. If outputs saturate the loss, it has a
    # gradient at outputs of 0.
    is_flat = not first.reads.any() and math.isnan(first.response)
    # Equal outputs of all examples may have such a loss, as a ranking has, and changes mend it.
    is_flat = is_flat and not study.changes.report.reads.any()
    if problem.mask is not None and not problem.mask.any():
        text = "the mask leaves no step of any example. True marks a valid step"
        yield Issue("silent", None, text)
    elif is_flat and any(
        abs(first.outputs[name]).max() > 0 for name in problem.network.graph.outputs
    ):
        text = "the gradient of the loss in the outputs is 0, as with an argmax in it"
        yield Issue("vanishes", None, text)
    else:
        yield from _not_finite(study)


def _not_finite(study: Study) -> Iterator[Issue]:
    """Yield NaN and infinite numbers."""
    first, graph = study.network.first, study.network.problem.network.graph
    place, fixes = None, ()
    # Gradients are also infinite if the loss is, so arrays tell more.
    arrays = [name for name in first.not_finite if "gradient" not in name]
    joins = [name for name, size in first.joins.items() if not np.isfinite(size)]
    # NaN inputs behind a mask do no harm.
    if np.isfinite(first.loss) and len(arrays) == len(first.not_finite):
        return
    # Before others, because a mean of such weights overflows too.
    if huge := [*tamed(study.network)]:
        yield from huge
        return
    if arrays:
        place, text = _place_of(arrays[0]), f"{arrays[0]} has NaN or infinite numbers"
        fixes = tuple(finite(study.network.problem.network, place))
    # Outputs of 0 may have such a loss, as a cosine has, and changes mend it.
    elif not (np.isfinite(first.constant) or study.changes.report.is_finite):
        text = (
            "the loss of constant outputs is NaN or infinite, so check labels and loss"
        )
    # Measures outside of their bands explain more, such as a steep slope or inputs that are too
    # large for the dtype.
    elif _may_mend(study):
        return
    elif not np.isfinite(first.loss):
        # The first node in the order of a step is the cause of all others.
        nodes = [
            name
            for name in graph.nodes
            if not np.isfinite(np.float32(first.outputs[name])).all()
        ]
        text = (
            "its outputs are the first that are NaN or infinite, or lead to such a loss"
        )
        place, *_ = *nodes, *graph.outputs
        smaller = shrunk(
            study.network,
            study.changes.moves,
            [place],
            lambda report: report.loss < math.inf,
        )
        fixes = smaller.get(place, ())
    elif not np.isfinite(first.reads).all():
        text = (
            "the gradient of the loss in the outputs is NaN or infinite, as of a square root at 0, "
            "so check the loss"
        )
    elif joins:
        place, text = joins[-1], "the derivative of this join is NaN or infinite"
    else:
        # Gradients flow from the outputs, so the last layer with NaN is the cause.
        name = first.not_finite[-1]
        place, text = _place_of(name), f"{name} has NaN or infinite numbers"
    yield Issue("not finite", place, text, fixes)


def _may_mend(study: Study) -> bool:
    """Return True if the proposed changes may make all numbers finite."""
    changes = study.changes
    # Another slope has a program of its own, so only a training shows its effect.
    has_slope = any(issue.kind == "not finite" for issue in changes.issues)
    return has_slope or bool(changes.issues and changes.report.is_finite)


def _place_of(name: str) -> str | None:
    """Return the layer of an array, or None for the inputs."""
    return name.partition("layers/")[2].partition("/")[0] or None
