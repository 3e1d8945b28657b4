"""The figures of a run and of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .._files import Record
from ..data import Sequences
from ..reports.plot import draw_activity, tidy
from . import tables
from .networks import Params
from .runs import RunFolder
from .tables import Summary
from .tasks import Task


def run_figure(run: RunFolder, params: Params, test: Sequences, title: str) -> Figure:
    """Draw learning curves, and a test example in the network."""
    network = run.network
    heights = 2.5, 1.2 * len(network.sizes)  # of the curves, and of all layers
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    # A surrogate may have a $.
    figure.suptitle(title, fontsize=11, parse_math=False)
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=heights))
    _draw_curves(top.subplots(1, 3), run.record["results"], network.task)
    # Files often have the classes in order, so the middle is not always of the first class.
    i = len(test) // 2
    x, y, mask = test.subset([i]).as_batch()
    _, spikes, potentials = jax.jit(network)(params, x, jax.random.key(0), mask)
    # An image is a single step, which is encoded over all steps of the network.
    steps = test.lengths[i] if test.masked else len(potentials)
    names = [f"layer {k + 1}" for k in range(len(spikes))]
    of_readout = f"with label {y[0]}" if test.classes else "and its targets (dotted)"
    names.append(f"readout, test example {i} {of_readout}")
    arrays = [np.asarray(layer)[:steps, 0] for layer in (*spikes, potentials)]
    panels = bottom.subplots(len(names), 1, sharex=True)
    draw_activity(panels, names, arrays)
    if not test.classes:
        panels[-1].plot(y[:steps, 0], ":", color="0.3")
    return figure


def _draw_curves(panels: Sequence[Axes], results: Record, task: Task) -> None:
    loss, metric, rate = panels
    # The baseline is grey, as it is there for comparison.
    colors = "C0", "0.55"
    for (name, result), color in zip(results.items(), colors, strict=False):
        curves = result["curves"]
        epochs = np.arange(1, result["epochs"] + 1)
        # Shares, drawn in percent.
        test = np.multiply(100, curves["test"])
        training = np.multiply(100, curves[task.metric])
        loss.plot(epochs, curves["loss"], ".-", color=color, label=name)
        metric.plot(epochs, test, ".-", color=color, label=f"{name}, test")
        metric.plot(epochs, training, ".:", color=color, label=f"{name}, training")
    rates = np.asarray(results["spiking"]["curves"]["rates"])
    labels = [f"layer {k + 1}" for k in range(rates.shape[1])]
    epochs = np.arange(1, len(rates) + 1)
    rate.plot(epochs, rates, ".-", label=labels)
    rate.set_ylim(bottom=0)
    tidy(loss, "loss", "epoch", task.loss_title)
    tidy(metric, task.title, "epoch", "%")
    tidy(rate, "firing rate", "epoch", "per neuron and step")
    for axes in panels:
        # There is no half epoch.
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7, frameon=False)


def sweep_figure(rows: list[Summary], varying: list[str], title: str) -> Figure:
    """Draw a heat map of the mean validation accuracy, with the best setting framed.

    The half-width is the horizontal axis if it varies, else the learning rate or the peak.
    """
    # In the order in which users vary them.
    axes = [axis for axis in ("half_width", "lr", "peak") if axis in varying]
    x, *others = axes or ["lr"]
    named = ["surrogate", *others]
    labels = [tables.setting_label(row.setting, named) for row in rows]
    # Every line has a surrogate, so the word would only repeat.
    names = [label.removeprefix("surrogate ") for label in labels]
    best = tables.best(rows)
    # In the order of the options, so that a number grows to the right.
    lines = list(dict.fromkeys(names))
    columns = list(dict.fromkeys(row.setting[x] for row in rows))
    width = max(4.8, 2.5 + 0.62 * len(columns))
    height = 1.9 + 0.45 * len(lines)
    figure = Figure(figsize=(width, height), layout="constrained")
    panel = figure.subplots()
    # Settings without a finished run stay empty.
    grid = np.full((len(lines), len(columns)), np.nan)
    for row, name in zip(rows, names, strict=True):
        i = lines.index(name)
        j = columns.index(row.setting[x])
        mean, _ = row.validation
        grid[i, j] = 100 * mean
        panel.text(j, i, f"{grid[i, j]:.1f}", ha="center", va="center", fontsize=7)
        if row is best:
            corner = j - 0.5, i - 0.5
            panel.add_patch(Rectangle(corner, 1, 1, fill=False, ec="C3", lw=2.5))
    # The darkest green would hide the numbers.
    image = panel.imshow(grid, cmap="YlGn", aspect="auto", alpha=0.6)
    panel.set_xticks(range(len(columns)), map(tables.label, columns))
    panel.set_yticks(range(len(lines)), lines)
    panel.set_xlabel(x)
    figure.colorbar(image).set_label("mean validation accuracy, %")
    framed = (
        "framed: the highest validation accuracy, "
        f"{tables.spread(*best.test)} of the test set"
    )
    figure.suptitle(f"{title}\n{framed}", fontsize=9, parse_math=False)
    return figure
