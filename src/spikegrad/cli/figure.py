"""The figures of a run and of a sweep."""

from __future__ import annotations

import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .._surrogate import Surrogate
from ..data import Sequences
from ..inspect.plot import draw, draw_spikes, tidy
from . import tables
from .networks import Params, SpikingNetwork
from .sources import examples
from .tables import Summary

_SHOWN = 60
"""Number of neurons of a layer that fit a raster."""
_GAP = 4
"""Rows between two layers."""
_AXES = {
    "surrogate": "surrogate",
    "half_width": "half-width",
    "lr": "learning rate",
    "peak": "peak",
}


def run_figure(
    network: SpikingNetwork,
    surrogate: Surrogate,
    params: Params,
    test: Sequences,
    results: dict[str, Any],
    title: str,
) -> Figure:
    """Draw learning curves, a test example in the network, and the surrogate."""
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    top, middle, bottom = np.asarray(figure.subfigures(3, 1, height_ratios=(1, 1.25, 1)))
    _draw_curves(top.subplots(1, 3), results)
    raster, readout = middle.subplots(1, 2, width_ratios=(1.6, 1))
    _draw_example(raster, readout, network, params, test)
    bottom.suptitle(repr(surrogate), fontsize=9)
    left, right = bottom.subplots(1, 2)
    draw(left, right, (surrogate,))
    return figure


def _draw_curves(panels: Any, results: dict[str, Any]) -> None:
    loss, accuracy, rate = panels
    for name, result, color in zip(("spiking", "ReLU"), results.values(), ("C0", "0.55"), strict=True):
        if result is None:
            continue
        curves = result["curves"]
        epochs = np.arange(1, len(curves["loss"]) + 1)
        marker = "." if len(epochs) == 1 else ""
        style = {"color": color, "marker": marker}
        loss.plot(epochs, curves["loss"], label=name, **style)
        for key, line, part in (("test", "-", "test"), ("accuracy", ":", "training")):
            percents = np.multiply(100, curves[key])
            accuracy.plot(epochs, percents, ls=line, label=f"{name}, {part}", **style)
        if name == "spiking":
            for i, rates in enumerate(zip(*curves["rates"], strict=True), 1):
                rate.plot(epochs, rates, color=f"C{i}", marker=marker, label=f"layer {i}")
    loss.set_yscale("log")
    accuracy.set_ylim(top=100.5)
    rate.set_ylim(bottom=0)
    tidy(loss, "loss", "epoch", "cross-entropy, nats")
    tidy(accuracy, "accuracy", "epoch", "%")
    tidy(rate, "firing rate", "epoch", "per neuron and step")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7, frameon=False)


def _draw_example(
    raster: Axes,
    readout: Axes,
    network: SpikingNetwork,
    params: Params,
    test: Sequences,
) -> None:
    i = len(test) // 2
    x, (y,), lengths = examples(test, slice(i, i + 1))
    logits, spikes, potentials = jax.jit(network)(params, jnp.asarray(x), jax.random.key(0), lengths)
    steps = len(potentials) if lengths is None else lengths[0]
    columns, colors, ticks = [], [], []
    for k, layer in enumerate(spikes, 1):
        every = -(-layer.shape[-1] // _SHOWN)
        columns.append(np.asarray(layer[:steps, 0, ::every]))
        name = f"layer {k}\n1 in {every}" if every > 1 else f"layer {k}"
        count = columns[-1].shape[1]
        ticks.append((len(colors) + count / 2, name))
        columns.append(np.zeros((steps, _GAP)))
        colors += [f"C{k}"] * (count + _GAP)
    draw_spikes(raster, np.concatenate(columns, 1), colors)
    raster.set_yticks(*zip(*ticks, strict=True))
    tidy(raster, f"spikes of test example {i}", "time step")
    raster.set_xlim(-0.5, steps - 0.5)

    answer = int(logits[0].argmax())
    for k, line in enumerate(np.asarray(potentials)[:steps, 0].T):
        roles = [role for role, index in (("label", y), ("answer", answer)) if k == index]
        color = "C2" if k == y else "C3" if k == answer else "0.75"
        name = f"{k}, {' and '.join(roles)}" if roles else None
        width = 1.8 if roles else 1
        readout.plot(line, color=color, lw=width, label=name, zorder=len(roles))
    readout.legend(fontsize=7, frameon=False, loc="upper left")
    tidy(readout, "readout, a line per class", "time step", "potential")
    for axes in (raster, readout):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def sweep_figure(rows: list[Summary], best: Summary, title: str) -> Figure:
    """Draw heat maps of the mean validation accuracy.

    The half-width is the horizontal axis if it varies, else the learning rate or the peak. The
    surrogate is the vertical axis if it varies, else another varying axis. Each value of the
    remaining axes has a separate map. The best setting is framed.
    """
    values = {axis: list(dict.fromkeys(row.setting[axis] for row in rows)) for axis in best.setting}
    varying = [axis for axis in ("half_width", "lr", "peak") if len(values[axis]) > 1]
    x = varying[0] if varying else "half_width"
    y = "surrogate" if len(values["surrogate"]) > 1 or len(varying) < 2 else varying[1]
    others = [axis for axis in values if axis not in (x, y) and len(values[axis]) > 1]
    maps: dict[tuple, list[Summary]] = {}
    for row in rows:
        maps.setdefault(tuple(row.setting[axis] for axis in others), []).append(row)
    columns = min(len(maps), 3)
    lines = -(-len(maps) // columns)
    width, height = max(4.0, 1.9 + 0.62 * len(values[x])), 1.5 + 0.45 * len(values[y])
    size = width * columns + 0.8, height * lines + 0.8
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    percents = [100 * row.validation[0] for row in rows]
    low, high = min(percents), max(*percents, min(percents) + 0.1)
    for panel, (setting, summaries) in zip(panels, maps.items(), strict=False):
        grid = np.full((len(values[y]), len(values[x])), np.nan)
        for row in summaries:
            i, j = values[y].index(row.setting[y]), values[x].index(row.setting[x])
            grid[i, j] = percent = 100 * row.validation[0]
            color = "w" if percent - low < 0.6 * (high - low) else "k"
            panel.text(j, i, f"{percent:.1f}", ha="center", va="center", fontsize=7, color=color)
            if row is best:
                frame = {"fill": False, "ec": "C3", "lw": 2.5, "clip_on": False}
                panel.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **frame))
        panel.imshow(grid, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        panel.set_xticks(range(len(values[x])), map(_wrapped, values[x]), fontsize=8)
        panel.set_yticks(range(len(values[y])), map(_wrapped, values[y]), fontsize=8)
        panel.set_xlabel(_AXES[x], fontsize=8)
        panel.set_ylabel("" if y == "surrogate" else _AXES[y], fontsize=8)
        parts = (f"{_AXES[axis]} {_wrapped(v)}" for axis, v in zip(others, setting, strict=True))
        panel.set_title(", ".join(parts), fontsize=8)
    for panel in panels[len(maps) :]:
        panel.set_axis_off()
    bar = figure.colorbar(panels[0].get_images()[0], ax=list(panels))
    bar.set_label("mean accuracy on the validation examples, %", fontsize=8)
    reached = tables.spread(*best.test)
    text = f"{title}\nframed: the highest validation accuracy, {reached} of the test set"
    figure.suptitle(text, fontsize=9, parse_math=False)
    return figure


def _wrapped(value: Any) -> str:
    return textwrap.fill(tables.label(value), 28)
