"""The figures of a run and of a sweep."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .._files import Record
from .._surrogate import Surrogate
from ..data import Sequences
from ..inspect.plot import draw, draw_activity, tidy
from . import tables
from .networks import Params, SpikingNetwork
from .tables import Summary


def run_figure(
    network: SpikingNetwork,
    surrogate: Surrogate,
    params: Params,
    test: Sequences,
    results: Record,
    title: str,
) -> Figure:
    """Draw learning curves, a test example in the network, and the surrogate."""
    height = 1.2 * len(network.sizes)
    figure = Figure(figsize=(11, 5 + height), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    top, middle, bottom = np.asarray(
        figure.subfigures(3, 1, height_ratios=(2.5, height, 2.5))
    )
    _draw_curves(top.subplots(1, 3), results)
    names, arrays = _example(network, params, test)
    draw_activity(middle.subplots(len(names), 1, sharex=True), names, arrays)
    bottom.suptitle(repr(surrogate), fontsize=9)
    left, right = bottom.subplots(1, 2)
    draw(left, right, (surrogate,))
    return figure


def _draw_curves(panels: Sequence[Axes], results: Record) -> None:
    loss, accuracy, rate = panels
    for (name, result), color in zip(results.items(), ("C0", "0.55"), strict=False):
        curves = result["curves"]
        epochs = np.arange(1, len(curves["loss"]) + 1)
        test, training = (np.multiply(100, curves[key]) for key in ("test", "accuracy"))
        loss.plot(epochs, curves["loss"], ".-", color=color, label=name)
        accuracy.plot(epochs, test, ".-", color=color, label=f"{name}, test")
        accuracy.plot(epochs, training, ".:", color=color, label=f"{name}, training")
    for i, rates in enumerate(
        zip(*results["spiking"]["curves"]["rates"], strict=True), 1
    ):
        rate.plot(np.arange(1, len(rates) + 1), rates, f".-C{i}", label=f"layer {i}")
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")
    accuracy.set_ylim(top=100.5)
    rate.set_ylim(bottom=0)
    tidy(loss, "loss", "epoch", "cross-entropy, nats")
    tidy(accuracy, "accuracy", "epoch", "%")
    tidy(rate, "firing rate", "epoch", "per neuron and step")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7, frameon=False)


def _example(
    network: SpikingNetwork, params: Params, test: Sequences
) -> tuple[list[str], list[np.ndarray]]:
    """Return names, and the spikes and readout potentials of a test example."""
    i = len(test) // 2
    x, (y,), mask = test.subset([i]).as_batch()
    _, spikes, potentials = jax.jit(network)(
        params, jnp.asarray(x), jax.random.key(0), mask
    )
    steps = test.lengths[i] if test.masked else len(potentials)
    names = [*(f"layer {k}" for k in range(1, len(spikes) + 1)), f"readout, label {y}"]
    names[0] = f"test example {i}: {names[0]}"
    return names, [np.asarray(layer)[:steps, 0] for layer in (*spikes, potentials)]


def sweep_figure(rows: list[Summary], best: Summary, title: str) -> Figure:
    """Draw a heat map of the mean validation accuracy, with the best setting framed.

    The half-width is the horizontal axis if it varies, else the learning rate or the peak.
    """
    # In the order in which users vary them.
    numbers = ("half_width", "lr", "peak")
    varying = [
        axis for axis in numbers if len({row.setting[axis] for row in rows}) > 1
    ] or ["lr"]
    x, *others = varying

    def name(row: Summary) -> str:
        return tables.setting_label(row.setting, ["surrogate", *others]).removeprefix(
            "surrogate "
        )

    lines = list(dict.fromkeys(map(name, rows)))
    columns = list(dict.fromkeys(row.setting[x] for row in rows))
    size = max(4.8, 2.5 + 0.62 * len(columns)), 1.9 + 0.45 * len(lines)
    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    grid = np.full((len(lines), len(columns)), np.nan)
    for row in rows:
        i, j = lines.index(name(row)), columns.index(row.setting[x])
        grid[i, j] = 100 * row.validation[0]
        panel.text(j, i, f"{grid[i, j]:.1f}", ha="center", va="center", fontsize=7)
        if row is best:
            panel.add_patch(
                Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="C3", lw=2.5)
            )
    image = panel.imshow(grid, cmap="YlGn", aspect="auto")
    panel.set_xticks(range(len(columns)), map(tables.label, columns), fontsize=8)
    panel.set_yticks(
        range(len(lines)), [textwrap.fill(line, 28) for line in lines], fontsize=8
    )
    panel.set_xlabel(x.replace("_", "-"), fontsize=8)
    figure.colorbar(image).set_label(
        "mean accuracy on the validation examples, %", fontsize=8
    )
    reached = tables.spread(*best.test)
    text = (
        f"{title}\nframed: the highest validation accuracy, {reached} of the test set"
    )
    figure.suptitle(text, fontsize=9, parse_math=False)
    return figure
