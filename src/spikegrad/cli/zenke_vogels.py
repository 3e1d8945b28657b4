"""The task of Zenke and Vogels 2021: shapes and widths of surrogates on Randman, in many networks of one hidden layer.

Zenke, Vogels 2021, "The remarkable robustness of surrogate gradient learning for instilling complex function in spiking
neural networks", Neural Computation 33(4):899-925. All constants are the paper's, but for those of :class:`Grid`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import training
from .._surrogate import Surrogate
from ..data import hold_out, randman
from ..data._sequences import Sequences
from ..network import Layer, Network
from ..neurons import LeakyReadout, SynapticLIF, decay_from_tau
from ..surrogates import InvSquareGrad, PiecewiseQuadratic, Sigmoid
from . import learning

INPUTS, HIDDEN, CLASSES, STEPS = 20, 100, 10, 100
MEMBRANE, SYNAPSE, READOUT = (decay_from_tau(tau) for tau in (10.0, 5.0, 20.0))  # ms, in steps of 1 ms
SHAPES: dict[str, Callable[[Any], Surrogate]] = {
    "SuperSpike": InvSquareGrad,  # 1 / (β|x| + 1)²
    "sigmoid": lambda beta: 4 / beta * Sigmoid(beta),  # 4 σ(βx) (1 - σ(βx))
    "Esser": lambda beta: 1 / beta * PiecewiseQuadratic(beta),  # max(0, 1 - β|x|)
}
"""The paper's, each with its steepness β and the peak 1."""

_UPDATES_PER_CALL = 8  # a tenth of a second or so: an interrupt is soon noticed

Weights = list[jax.Array]
"""Of the inputs, ``(20, 100)``, of the readout, ``(100, 10)``, and in recurrent networks ``(100, 100)``."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is trained. The paper has more of everything: 50 to 100 epochs, batches of 250, and more of β and η."""

    betas: tuple[float, ...] = (1.0, 3.0, 10.0, 100.0)
    pilots: tuple[float, ...] = (3.0,)
    """Of β, those by which a learning rate is chosen."""
    lrs: tuple[float, ...] = (0.05, 0.1)
    seeds: int = 3
    samples: int = 1000
    """Of each class, 8 of 10 to train on, one to choose by, one to report."""
    epochs: int = 10
    batch: int = 100

    @property
    def updates(self) -> int:
        """Of a run."""
        return self.samples * CLASSES * 8 // 10 // self.batch * self.epochs

    @property
    def runs(self) -> int:
        """All of them; those by which a learning rate is chosen belong to the others where it was chosen."""
        lrs = dict.fromkeys(_groups(), self.lrs[0])
        return len(settings(lrs, self.betas)) * self.seeds + len(settings(lrs, self.pilots)) * (len(self.lrs) - 1)


QUICK = Grid(betas=(1.0, 10.0), pilots=(1.0,), lrs=(0.1,), seeds=1, epochs=4)


class Condition(NamedTuple):
    """A panel of the figure."""

    recurrent: bool
    detached: bool
    asymptotic: bool

    def __str__(self) -> str:
        return ", ".join(
            (
                "recurrent" if self.recurrent else "feed-forward",
                "reset detached" if self.detached else "reset differentiated",
                "peak β" if self.asymptotic else "peak 1",
            )
        )


CONDITIONS = [
    Condition(recurrent, detached, asymptotic)
    for recurrent, detached, asymptotic in itertools.product((False, True), (True, False), (False, True))
    if recurrent or not detached or not asymptotic  # there Adam does not see the peak: a constant factor
]


def settings(lrs: dict[tuple[Condition, str], float], betas: Iterable[float]) -> list[dict[str, Any]]:
    """What :func:`spikegrad.training.sweep` takes, of the learning rates of each condition and shape."""
    return [
        _setting(condition, shape, beta, lr)
        for ((condition, shape), lr), beta in itertools.product(lrs.items(), betas)
        if not (condition.asymptotic and beta == 1)  # where both peaks are one
    ]


def _groups() -> list[tuple[Condition, str]]:
    return list(itertools.product(CONDITIONS, SHAPES))


def _setting(condition: Condition, shape: str, beta: float, lr: float) -> dict[str, Any]:
    return {
        "shape": shape,
        "beta": beta,
        "height": beta if condition.asymptotic else 1.0,
        "recurrent": condition.recurrent,
        "detached": condition.detached,
        "lr": lr,
    }


def start(key: jax.Array, recurrent: bool) -> Weights:
    """Weights drawn evenly from -1/√n to 1/√n, with n the inputs."""
    draw = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    shapes = [(INPUTS, HIDDEN), (HIDDEN, CLASSES), *([(HIDDEN, HIDDEN)] if recurrent else [])]
    return [draw(key, shape) for key, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)]


def run(weights: Weights, x: jax.Array, surrogate: Surrogate, detached: bool) -> tuple[jax.Array, jax.Array]:
    """Logits ``(n, 10)``, the maximum of the readout over time, and hidden spikes ``(steps, n, 100)``."""
    to_hidden, to_readout, *recurrent = weights
    cell = SynapticLIF(
        MEMBRANE, 1.0, surrogate, "value", detached, norm_input=True, synaptic_decay=SYNAPSE  # U <- (bU + (1-b)I)(1-S)
    )  # fmt: skip
    layers = [Layer(to_hidden, cell, *recurrent), Layer(to_readout, LeakyReadout(READOUT, norm_input=True))]
    _, (spikes, potentials) = Network(layers)(x, all_layers=True)
    return potentials.max(0), spikes


def loss(weights: Weights, batch: Any, key: jax.Array, setting: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy, and the bound below which neurons are woken."""
    del key
    x, y = batch
    surrogate = setting["height"] * SHAPES[setting["shape"]](setting["beta"])
    logits, spikes = run(weights, jnp.moveaxis(x, 0, 1), surrogate, setting["detached"])
    of_classes = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return of_classes + training.lower_bound(spikes), {"accuracy": (logits.argmax(-1) == y).mean()}


def examples(samples: int) -> tuple[Sequences, Sequences, Sequences]:
    """To train on, to choose by, and to report."""
    rest, test = hold_out(randman(CLASSES, INPUTS, samples, steps=STEPS), 0.1)
    train, validation = hold_out(rest, 1 / 9)
    return train, validation, test


@jax.jit
def scores(weights: Weights, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """Accuracy; spikes of a hidden neuron in a sequence; share of neurons without any."""
    logits, spikes = run(weights, x, Sigmoid(), True)
    of_neurons = spikes.sum(0)
    return {
        "accuracy": (logits.argmax(-1) == y).mean(),
        "spikes": of_neurons.mean(),
        "silent": (of_neurons.sum(0) == 0).mean(),
    }


def results(
    grid: Grid,
    path: Path,
    *,
    stop: Callable[[], Any] = lambda: False,
    report: Callable[[int], Any] = lambda updates: None,
    at_once: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The runs, as they come: first those by which learning rates are chosen, then with these all others, of networks
    without recurrence and then of those with it.

    The file is gone on with if it is there.
    """
    train, *others = examples(grid.samples)
    x, y, _ = train.stacked()
    validation, held_out = ([jnp.asarray(array) for array in part.stacked()[:2]] for part in others)

    def score(weights: Weights, setting: dict[str, Any]) -> dict[str, Any]:
        to_choose, to_tell = scores(weights, *validation), scores(weights, *held_out)
        return {
            "validation": to_choose["accuracy"],
            "held_out": to_tell["accuracy"],
            "spikes": to_tell["spikes"],
            "silent": to_tell["silent"],
        }

    of_rows = training.staged(loss, (np.moveaxis(x, 1, 0), y))
    rows = np.arange(len(y), dtype=np.int32)
    sweep = functools.partial(
        training.sweep,
        of_rows,
        lambda key, setting: start(key, setting["recurrent"]),
        lambda seed: training.ShuffledBatches(rows, grid.batch, seed),
        optimizer=lambda setting: optax.adam(setting["lr"]),
        epochs=grid.epochs,
        updates_per_call=_UPDATES_PER_CALL,
        score=score,
        callbacks=lambda setting, seed: [learning.reporting(report), _stuck(setting, seed)],
        stop=stop,
        path=path,
        resume=True,
        at_once=at_once,
    )
    for recurrent in (False, True):
        groups = [group for group in _groups() if group[0].recurrent == recurrent]
        pilot = []
        for result in sweep([s for lr in grid.lrs for s in settings(dict.fromkeys(groups, lr), grid.pilots)]):
            pilot.append(result)
            yield result
        if stop():
            return
        lrs = learning_rates(grid, pilot)
        for result in sweep(settings({group: lrs[group] for group in groups}, grid.betas), seeds=range(grid.seeds)):
            if result not in pilot:
                yield result


def _stuck(setting: dict[str, Any], seed: int) -> training.Callback:
    """Ends a run whose hidden weights have not moved in an epoch: all slopes are 0, or are lost in the epsilon of Adam,
    and stay what they are.
    """
    before = start(jax.random.key(seed), setting["recurrent"])[0]
    return lambda now: now.epoch_ended and bool((now.state.trainable[0] == before).all())


def learning_rates(grid: Grid, pilot: Sequence[dict[str, Any]]) -> dict[tuple[Condition, str], float]:
    """Of each condition and shape, that with the highest mean accuracy on the validation examples."""

    def mean(group: tuple[Condition, str], lr: float) -> float:
        return _mean(r["validation"] for r in pilot if r["lr"] == lr and _belongs(r, *group))

    return {group: max(grid.lrs, key=functools.partial(mean, group)) for group in _groups()}


def _belongs(result: dict[str, Any], condition: Condition, shape: str) -> bool:
    """Whether a run is one of a group; at β = 1 it is one of two, as both peaks are one there."""
    setting = _setting(condition, shape, result["beta"], result["lr"])
    return all(result[name] == value for name, value in setting.items())


def summary(grid: Grid, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each condition, shape and β: the accuracies of its seeds, with the learning rate that was chosen."""
    lrs = learning_rates(grid, [r for r in found if r["seed"] == 0 and r["beta"] in grid.pilots])
    rows = []
    for condition, shape in _groups():
        for beta in grid.betas:
            lr = lrs[condition._replace(asymptotic=condition.asymptotic and beta != 1), shape]
            mine = [r for r in found if r["lr"] == lr and r["beta"] == beta and _belongs(r, condition, shape)]
            mine.sort(key=lambda r: r["seed"])
            if mine:
                rows.append(
                    {
                        **condition._asdict(),
                        "shape": shape,
                        "beta": beta,
                        "lr": lr,
                        "diverged": sum(r["diverged"] is not None for r in mine),
                        **{name: [round(r[name], 4) for r in mine] for name in ("validation", "held_out")},
                        **{name: round(_mean(r[name] for r in mine), 4) for name in ("spikes", "silent")},
                    }
                )
    return rows


def title(grid: Grid) -> str:
    return (
        f"Randman, {HIDDEN} hidden neurons, {grid.epochs} epochs of {grid.samples * CLASSES * 8 // 10:,} examples, "
        f"{grid.seeds} {'seed' if grid.seeds == 1 else 'seeds'}"
    )


def chosen(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each condition and shape, the row with the best β by validation, and how it does on held-out examples."""
    found = []
    for condition, shape in _groups():
        if mine := [row for row in rows if _of(row) == condition and row["shape"] == shape]:
            best = max(mine, key=lambda row: _mean(row["validation"]))
            accuracies = best["held_out"]
            found.append(
                {
                    "condition": str(condition),
                    "shape": shape,
                    **{name: best[name] for name in ("beta", "lr", "spikes")},
                    "mean": _mean(accuracies),
                    "deviation": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else math.nan,
                    "lowest": min(_mean(row["held_out"]) for row in mine),
                    "seeds": len(accuracies),
                }
            )
    return found


class Laws(NamedTuple):
    """Two statements of the paper in numbers: means over seeds of accuracies on held-out examples."""

    moderate: float
    """SuperSpike with the peak β and a differentiated reset, feed-forward: the mean over β from 1 to 5."""
    steep: float
    """The same over β from 10 on."""
    over_beta: float
    """The same: the spread, highest less lowest, over all β of at least 1."""
    over_shapes: dict[str, float]
    """The spread over shapes, each with its best β, of each condition."""


def laws(rows: Sequence[dict[str, Any]]) -> Laws:
    """What the rows say of them; NaN where there are none."""
    hard = Condition(recurrent=False, detached=False, asymptotic=True)
    mine = [row for row in rows if _of(row) == hard and row["shape"] == "SuperSpike"]
    means = {row["beta"]: _mean(row["held_out"]) for row in mine}
    of_best: dict[str, list[float]] = {}
    for row in chosen(rows):
        of_best.setdefault(row["condition"], []).append(row["mean"])
    return Laws(
        _mean(mean for beta, mean in means.items() if 1 <= beta <= 5),
        _mean(mean for beta, mean in means.items() if beta >= 10),
        _spread(mean for beta, mean in means.items() if beta >= 1),
        {condition: _spread(means) for condition, means in of_best.items()},
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values) or [math.nan]))


def _spread(values: Iterable[float]) -> float:
    return float(np.ptp(list(values) or [math.nan]))


def _of(row: dict[str, Any]) -> Condition:
    return Condition(*(row[name] for name in Condition._fields))
