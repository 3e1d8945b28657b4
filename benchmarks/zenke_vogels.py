"""Shapes and widths of surrogates on Randman, in many networks of one hidden layer: a reproduction of a paper.

Zenke, Vogels 2021, "The remarkable robustness of surrogate gradient learning for instilling complex function in spiking
neural networks", Neural Computation 33(4):899-925. All constants are from the paper, except those of the grid: most
runs here are shorter.

    python benchmarks/zenke_vogels.py --quick
    python benchmarks/zenke_vogels.py --folder runs/zenke-vogels \\
        --json benchmarks/results/zenke-vogels.json

``--quick`` trains a small part of the grid and takes less than two minutes. The whole grid takes half an hour on two
cores. The folder gets ``runs.jsonl``, a line for each run, and ``figure.png``. Runs that it already has are not
repeated, so an interrupted benchmark continues, and ``--seeds`` may add runs. Learning rates and the best β are chosen
on the validation examples. The accuracies are those of the test set.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, kept_in, setting
from matplotlib.axes import Axes
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console
from rich.table import Table

from spikegrad import (
    InvSquareGrad,
    Layer,
    LeakyReadout,
    Network,
    PiecewiseQuadratic,
    Sigmoid,
    Surrogate,
    SynapticLIF,
    decay_from_tau,
    losses,
    training,
)
from spikegrad.data import Sequences, randman, train_test_split

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
"""To the hidden neurons, ``(20, 100)``; to the readout, ``(100, 10)``; if recurrent, among neurons, ``(100, 100)``."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is trained: briefly, where the paper has 50 to 100 epochs, and more of β and η; and one panel at length."""

    betas: tuple[float, ...] = (1.0, 3.0, 10.0, 100.0)
    lrs: tuple[float, ...] = (0.01, 0.05, 0.1)
    seeds: int = 3
    samples: int = 1000
    """In each class: 8 of 10 to train on, one to choose by, one to report."""
    epochs: int = 10
    batch: int = 100
    long_epochs: int = 100
    """Those of :data:`AT_LENGTH`; 0 leaves them out."""
    long_batch: int = 250

    @property
    def runs(self) -> int:
        """All of them: the first seed with each learning rate, the others with the one that it chooses."""
        at_length = len(self.betas) if self.long_epochs else 0
        return len(_points(self, _groups())) * (len(self.lrs) + self.seeds - 1) + at_length * self.seeds


QUICK = Grid(betas=(1.0, 10.0), lrs=(0.1,), seeds=1, epochs=4, long_epochs=0)


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
Group = tuple[Condition, str]
"""A condition and a shape."""
Point = tuple[Group, float]
"""A group at a β, which has a learning rate of its own."""
AT_LENGTH: Group = Condition(recurrent=False, detached=False, asymptotic=True), "SuperSpike"
"""Where it is known what the paper's number of epochs comes to."""


def _groups() -> list[Group]:
    return list(itertools.product(CONDITIONS, SHAPES))


def _points(grid: Grid, groups: Iterable[Group]) -> list[Point]:
    """Each network once: see :func:`_point`."""
    return [_point(*at) for at in itertools.product(groups, grid.betas) if at == _point(*at)]


def _point(group: Group, beta: float) -> Point:
    """At β = 1 both peaks are one, and the networks of peak 1 are those of both."""
    condition, shape = group
    return (condition._replace(asymptotic=condition.asymptotic and beta != 1), shape), beta


def _setting(point: Point, lr: float, epochs: int) -> dict[str, Any]:
    """What :func:`spikegrad.training.sweep` takes."""
    (condition, shape), beta = point
    return {
        "shape": shape,
        "beta": beta,
        "height": beta if condition.asymptotic else 1.0,
        "recurrent": condition.recurrent,
        "detached": condition.detached,
        "lr": lr,
        "epochs": epochs,
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
    _, activity = Network(layers).observe(x, parts=("output",))
    return activity[-1].output.max(0), activity[0].output


def loss(weights: Weights, batch: Any, key: jax.Array, setting: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy, and the bound below which neurons are woken."""
    del key
    x, y = batch
    surrogate = setting["height"] * SHAPES[setting["shape"]](setting["beta"])
    logits, spikes = run(weights, jnp.moveaxis(x, 0, 1), surrogate, setting["detached"])
    of_classes = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return of_classes + losses.lower_bound(spikes), {"accuracy": (logits.argmax(-1) == y).mean()}


def examples(samples: int) -> tuple[Sequences, Sequences, Sequences]:
    """To train on, to choose by, and to report."""
    rest, test = train_test_split(randman(CLASSES, INPUTS, samples, steps=STEPS), 0.1)
    train, validation = train_test_split(rest, 1 / 9)
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


def results(grid: Grid, path: Path, jobs: int | None = None) -> Iterator[dict[str, Any]]:
    """Train, and yield each run when it ends. Runs that the file already has are not repeated.

    Feed-forward networks come first: the runs that choose the learning rates, then all other seeds with these rates,
    then the runs at length. Recurrent networks follow, without runs at length.
    """
    train, *others = examples(grid.samples)
    x, y, _ = train.as_batch()
    validation, test = ([jnp.asarray(array) for array in part.as_batch()[:2]] for part in others)

    def score(weights: Weights, setting: dict[str, Any]) -> dict[str, Any]:
        to_choose, to_tell = scores(weights, *validation), scores(weights, *test)
        return {
            "validation": to_choose["accuracy"],
            "test": to_tell["accuracy"],
            "spikes": to_tell["spikes"],
            "silent": to_tell["silent"],
        }

    rows = np.arange(len(y), dtype=np.int32)
    sweep = functools.partial(
        training.sweep,
        training.with_device_data(loss, (np.moveaxis(x, 1, 0), y)),
        lambda key, setting: start(key, setting["recurrent"]),
        optimizer=lambda setting: optax.adam(setting["lr"]),
        updates_per_call=_UPDATES_PER_CALL,
        score=score,
        callbacks=lambda setting, seed: [_stuck(setting, seed)],
        path=path,
        resume=True,
        jobs=jobs,
    )
    short = functools.partial(sweep, lambda seed: training.ShuffledBatches(rows, grid.batch, seed), epochs=grid.epochs)
    long = functools.partial(
        sweep, lambda seed: training.ShuffledBatches(rows, grid.long_batch, seed), epochs=grid.long_epochs
    )
    for recurrent in (False, True):
        points = _points(grid, [group for group in _groups() if group[0].recurrent == recurrent])
        first = []
        for result in short([_setting(point, lr, grid.epochs) for lr in grid.lrs for point in points]):
            first.append(result)
            yield result
        lrs = learning_rates(grid, first)
        others = range(1, grid.seeds)
        yield from short([_setting(point, lrs[point], grid.epochs) for point in points], seeds=others)
        if grid.long_epochs and not recurrent:
            at_length = [_point(AT_LENGTH, beta) for beta in grid.betas]
            settings = [_setting(point, lrs[point], grid.long_epochs) for point in at_length]
            yield from long(settings, seeds=range(grid.seeds))


def _stuck(setting: dict[str, Any], seed: int) -> training.Callback:
    """Ends a run whose hidden weights have not moved in an epoch: all slopes are 0, or are lost in the epsilon of Adam,
    and stay what they are.
    """
    before = start(jax.random.key(seed), setting["recurrent"])[0]
    return lambda now: now.epoch_ended and bool((now.state.trainable[0] == before).all())


def learning_rates(grid: Grid, found: Iterable[dict[str, Any]]) -> dict[Point, float]:
    """The one with which a group, at a β, has the highest accuracy on the validation examples with the first seed."""
    first = [result for result in found if result["seed"] == 0]

    def accuracy(point: Point, lr: float) -> float:
        return _mean(result["validation"] for result in first if _is(result, point, lr, grid.epochs))

    return {point: max(grid.lrs, key=functools.partial(accuracy, point)) for point in _points(grid, _groups())}


def _is(result: dict[str, Any], *setting: Any) -> bool:
    return all(result[name] == value for name, value in _setting(*setting).items())


def summary(grid: Grid, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each group and β: the accuracies of its seeds, with the learning rate that was chosen."""
    return _rows(grid, found, _groups(), grid.epochs)


def at_length(grid: Grid, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each β of the runs at length."""
    return _rows(grid, found, [AT_LENGTH], grid.long_epochs)


def _rows(grid: Grid, found: Sequence[dict[str, Any]], groups: list[Group], epochs: int) -> list[dict[str, Any]]:
    """None where there is no run."""
    lrs, rows = learning_rates(grid, found), []
    for group, beta in itertools.product(groups, grid.betas):
        point = _point(group, beta)
        mine = sorted((r for r in found if _is(r, point, lrs[point], epochs)), key=lambda r: r["seed"])
        if mine:
            rows.append(
                {
                    **group[0]._asdict(),
                    "shape": group[1],
                    "beta": beta,
                    "lr": lrs[point],
                    "diverged": sum(r["diverged"] is not None for r in mine),
                    **{name: [round(r[name], 4) for r in mine] for name in ("validation", "test")},
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
    """The β that validation examples choose for each condition and shape, and how it does on held-out ones."""
    found = []
    for condition, shape in _groups():
        if mine := [row for row in rows if condition_of(row) == condition and row["shape"] == shape]:
            best = max(mine, key=lambda row: _mean(row["validation"]))
            accuracies = best["test"]
            found.append(
                {
                    "condition": str(condition),
                    "shape": shape,
                    **{name: best[name] for name in ("beta", "lr", "spikes")},
                    "mean": _mean(accuracies),
                    "deviation": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else math.nan,
                    "lowest": min(_mean(row["test"]) for row in mine),
                    "seeds": len(accuracies),
                }
            )
    return found


class Law(NamedTuple):
    """What training must bear out, in numbers: accuracies on held-out examples, means over seeds."""

    statement: str
    expected: str
    found: str
    met: bool


def laws(rows: Sequence[dict[str, Any]], long: Sequence[dict[str, Any]]) -> list[Law]:
    """What the rows, and those at length, say of each law; none of those of which they have nothing.

    The ranges are what another reproduction reached with as many epochs, but for the upper end of the first.
    """
    condition, shape = AT_LENGTH
    at = {row["beta"]: _mean(row["test"]) for row in long}
    found = []
    for words, betas, low, high in (
        ("from 1 to 5", [beta for beta in at if 1 <= beta <= 5], 0.95, 1.0),
        ("of 10 and more", [beta for beta in at if beta >= 10], 0.53, 0.87),
    ):
        if betas:
            statement = f"{shape}, {condition}, trained at length: β {words}"
            reached = ", ".join(f"{_percent(at[beta])} at {beta:g}" for beta in betas)
            met = all(low <= at[beta] <= high for beta in betas)
            found.append(Law(statement, f"{_percent(low)} to {_percent(high)}", reached, met))
    of_shapes: dict[str, list[float]] = {}
    for row in chosen(rows):
        of_shapes.setdefault(row["condition"], []).append(row["mean"])
    for recurrent in (False, True):
        steep = condition._replace(recurrent=recurrent)
        over_beta = [_mean(row["test"]) for row in rows if (condition_of(row), row["shape"]) == (steep, shape)]
        panels = [str(panel) for panel in CONDITIONS if panel.recurrent == recurrent]
        over_shapes = {panel: np.ptp(of_shapes[panel]) for panel in panels if panel in of_shapes}
        if over_beta and over_shapes:
            most = max(over_shapes, key=over_shapes.__getitem__)
            statement = f"spread over shapes, each with its best β, against that over β of {shape}, {steep}"
            least = np.ptp(over_beta)
            reached = f"at most {_percent(over_shapes[most])} ({most})"
            found.append(Law(statement, f"below {_percent(least)}", reached, bool(over_shapes[most] < least)))
    return found


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values) or [math.nan]))


def condition_of(row: dict[str, Any]) -> Condition:
    return Condition(*(row[name] for name in Condition._fields))


_SHOWN = ("shape", "beta", "height", "recurrent", "detached", "lr", "epochs", "seed", "validation")
"""The values of a run that are printed when it ends."""


def figure(rows: Iterable[dict[str, Any]], long: Iterable[dict[str, Any]], title: str) -> Figure:
    """A panel for each network, reset and peak; in it, over β, the accuracy of each shape on held-out examples.

    Lines are means over seeds, dots the seeds; dashed, what was trained at length.
    """
    rows, long = list(rows), list(long)
    drawn = Figure(figsize=(7.4, 9), layout="constrained")
    drawn.suptitle(title, fontsize=10)
    axes = drawn.subplots(4, 2, sharex=True, sharey=True)
    for panel, flags in zip(axes.ravel(), np.ndindex(2, 2, 2), strict=True):
        recurrent, differentiated, asymptotic = map(bool, flags)
        condition = Condition(recurrent, not differentiated, asymptotic)
        if condition in CONDITIONS:
            _accuracies(panel, [row for row in rows if condition_of(row) == condition])
            if long and condition == AT_LENGTH[0]:
                _accuracies(panel, long, ls="--")
        else:
            text = "as with peak 1:\na factor that Adam\ndoes not see"
            panel.text(0.5, 0.7, text, ha="center", va="center", fontsize=8, transform=panel.transAxes)
        network, reset, peak = str(condition).split(", ")
        panel.set_title(f"{network}, {peak}\n{reset}", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.axhline(100 / CLASSES, color="0.7", lw=0.8, ls=":")
    for panel in axes[-1]:
        panel.set_xlabel("steepness β", fontsize=8)
    for panel in axes[:, 0]:
        panel.set_ylabel("held-out accuracy, %", fontsize=8)
    axes[0, 0].set_ylim(0, 101)
    lines = [Line2D([], [], color=color, label=shape) for color, shape in zip(TABLEAU_COLORS, SHAPES, strict=False)]
    if long:
        lines.append(Line2D([], [], color="0.4", ls="--", label="trained at length"))
    axes[0, 0].set_xticks(betas := sorted({row["beta"] for row in rows}), [f"{beta:g}" for beta in betas])
    axes[0, 0].minorticks_off()
    axes[0, 1].legend(handles=lines, fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.1))
    return drawn


def _accuracies(panel: Axes, rows: list[dict[str, Any]], ls: str = "-") -> None:
    panel.set_xscale("log")
    for color, shape in zip(TABLEAU_COLORS, SHAPES, strict=False):
        mine = sorted((row for row in rows if row["shape"] == shape), key=lambda row: row["beta"])
        betas = [row["beta"] for row in mine]
        panel.plot(betas, [100 * np.mean(row["test"]) for row in mine], color=color, lw=1.4, ls=ls)
        for row in mine:
            seeds = row["test"]
            panel.plot([row["beta"]] * len(seeds), np.multiply(100, seeds), ".", color=color, ms=3.5, alpha=0.6)


def chosen_tables(chosen: list[dict[str, Any]]) -> Iterator[Table]:
    """A table for each kind of network, reset and slope, whose names would not fit a screen beside the numbers."""
    for condition, rows in itertools.groupby(chosen, key=lambda row: row["condition"]):
        table = Table(title=condition)
        table.add_column("shape")
        for heading in ("best β", "held out", "lowest over β", "spikes", "lr", "seeds"):
            table.add_column(heading, justify="right")
        for row in rows:
            deviation = "" if math.isnan(row["deviation"]) else f" ± {100 * row['deviation']:.1f}"
            table.add_row(
                row["shape"],
                f"{row['beta']:g}",
                f"{100 * row['mean']:.1f}{deviation} %",
                _percent(row["lowest"]),
                f"{row['spikes']:.1f}",
                f"{row['lr']:g}",
                str(row["seeds"]),
            )
        yield table


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None  # JSON has no NaN


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main(args: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/zenke-vogels"), help="where runs and figure are")
    parser.add_argument("--quick", action="store_true", help="a small part of the grid")
    parser.add_argument("--seeds", type=int, help="runs of each setting")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (all processors)")
    options = parser.parse_args(args)
    grid = QUICK if options.quick else Grid()
    grid = dataclasses.replace(grid, seeds=options.seeds or grid.seeds)
    found = []
    for run in results(grid, kept_in(options.folder), options.jobs):
        found.append(run)
        about = "  ".join(f"{name} {run[name]}" for name in _SHOWN)
        print(f"{len(found)}/{grid.runs}  {about}", file=sys.stderr)
    rows, long = summary(grid, found), at_length(grid, found)
    best, met_or_not = chosen(rows), laws(rows, long)
    figure(rows, long, title(grid)).savefig(options.folder / "figure.png", dpi=130)
    out = Console(markup=False, highlight=False)
    out.print(title(grid), *chosen_tables(best), "β of the best mean accuracy on the validation examples", sep="\n")
    for law in met_or_not:
        met = "met" if law.met else "not met"
        out.print(f"{met}: {law.statement}: {law.found}, expected {law.expected}", soft_wrap=True)
    if options.json:
        about = {"setting": setting(), "reproduction": "zenke-vogels", "grid": dataclasses.asdict(grid)}
        about["results"] = {
            "runs": len(found),
            "seconds_of_runs": round(sum(run["seconds"] for run in found)),
            "laws": [law._asdict() for law in met_or_not],
            "best": [row | {"deviation": _finite(row["deviation"])} for row in best],
            "rows": rows,
            "at_length": long,
        }
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
