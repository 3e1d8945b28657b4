"""The figures of a run and of a sweep."""

from __future__ import annotations

import math
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
from .networks import NO_ENCODING, Params, SpikingNetwork
from .sources import examples
from .streams import spelt

_SHOWN = 60  # neurons of a layer that fit a raster
_GAP = 4  # rows between two layers


def run_figure(
    network: SpikingNetwork, surrogate: Surrogate, params: Params, test: Sequences, results: dict[str, Any], title: str
) -> Figure:
    """Draw learning curves, one test example in the network, and the step, primal and slope of the surrogate."""
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    figure.suptitle(spelt(title, "utf-8"), fontsize=11, parse_math=False)
    top, middle, bottom = np.asarray(figure.subfigures(3, 1, height_ratios=(1, 1.25, 1)))
    _curves(top.subplots(1, 3), results)
    picture, raster, readout = middle.subplots(1, 3, width_ratios=(0.7, 1.6, 1))
    _example(picture, raster, readout, network, params, test)
    bottom.suptitle(repr(surrogate), fontsize=9)
    left, right = bottom.subplots(1, 2)
    draw(left, right, (surrogate,))
    return figure


def _curves(panels: Any, results: dict[str, Any]) -> None:
    loss, accuracy, rate = panels
    for name, key, color in (("spiking", "spiking", "C0"), ("ReLU", "relu", "0.55")):
        if results[key] is None:
            continue
        curves = results[key]["curves"]
        epochs = np.arange(1, len(curves["loss"]) + 1)
        style = {"color": color, "marker": "." if len(epochs) == 1 else ""}
        loss.plot(epochs, curves["loss"], label=name, **style)
        accuracy.plot(epochs, np.multiply(100, curves["test"]), label=f"{name}, test", **style)
        accuracy.plot(epochs, np.multiply(100, curves["accuracy"]), ls=":", label=f"{name}, training", **style)
        if key == "spiking":
            for i, values in enumerate(zip(*curves["rates"], strict=True)):
                marker = style["marker"]
                rate.plot(epochs, values, color=f"C{i + 1}", marker=marker, label=f"layer {i + 1}")
    loss.set_yscale("log")
    accuracy.set_ylim(top=100.5)
    rate.set_ylim(bottom=0)
    tidy(loss, "loss", "epoch", "cross-entropy, nats")
    tidy(accuracy, "accuracy", "epoch", "%")
    tidy(rate, "firing rate", "epoch", "per neuron and step")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7, frameon=False)


def _example(
    picture: Axes, raster: Axes, readout: Axes, network: SpikingNetwork, params: Params, test: Sequences
) -> None:
    i = len(test) // 2
    (x,), (label,), lengths = examples(test, slice(i, i + 1))
    x = x if lengths is None else x[: lengths[0]]
    logits, spikes, potentials = jax.jit(network)(params, network.prepare(jnp.asarray(x)[None]), jax.random.key(0))
    timed = network.encoding == NO_ENCODING
    x = x if timed else x[0]
    if timed:
        picture.imshow(
            x.reshape(len(x), -1).T,
            cmap="gray_r",
            aspect="auto",
            extent=(-0.5, len(x) - 0.5, math.prod(x.shape[1:]), 0),
        )
        picture.yaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(picture, f"test recording {i}, label {label}", "time step", "channel")
    elif x.ndim == 1:
        picture.plot(x, lw=1)
        tidy(picture, f"test example {i}, label {label}", "feature")
    else:
        picture.imshow(x if x.ndim == 2 or x.shape[-1] in (3, 4) else x[..., 0], cmap="gray_r")
        picture.set_title(f"test image {i}, label {label}", fontsize=9)
        picture.set_xticks([])
        picture.set_yticks([])

    columns, colors, ticks = [], [], []
    for k, layer in enumerate(spikes):
        every = -(-layer.shape[-1] // _SHOWN)
        shown = np.asarray(layer[:, 0, ::every])
        name = f"layer {k + 1}\n1 in {every}" if every > 1 else f"layer {k + 1}"
        ticks.append((len(colors) + shown.shape[1] / 2, name))
        columns += [shown, np.zeros((len(shown), _GAP))]
        colors += [f"C{k + 1}"] * (shown.shape[1] + _GAP)
    draw_spikes(raster, np.concatenate(columns, 1), colors)
    raster.set_yticks(*zip(*ticks, strict=True))
    raster.set_ylabel("")
    raster.set_xlim(-0.5, len(potentials) - 0.5)
    raster.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(raster, "spikes", "time step")

    answer = int(logits[0].argmax())
    time = np.arange(len(potentials))
    for k, course in enumerate(np.asarray(potentials)[:, 0].T):
        named = {label: "label", answer: "answer"} | ({label: "label and answer"} if label == answer else {})
        color = {label: "C2", answer: "C3"} | ({label: "C2"} if label == answer else {})
        text = f"{k}, {named[k]}" if k in named else None
        readout.plot(
            time, course, color=color.get(k, "0.75"), lw=1.8 if k in named else 1, label=text, zorder=k in named
        )
    readout.xaxis.set_major_locator(MaxNLocator(integer=True))
    readout.legend(fontsize=7, frameon=False, loc="upper left")
    tidy(readout, "readout, a line per class", "time step", "potential")


def sweep_figure(rows: list[Any], best: Any, title: str) -> Figure:
    """Draw heat maps of the mean validation accuracy.

    ``rows`` are summaries of settings. The half-width is the horizontal axis if it varies, else the learning rate or
    the peak. The surrogate is the vertical axis if it varies, else another varying axis. Each value of the remaining
    axis has a separate map. The best setting is framed.
    """
    values = {axis: list(dict.fromkeys(row.setting[axis] for row in rows)) for axis in best.setting}
    varying = [axis for axis in ("half_width", "lr", "peak") if len(values[axis]) > 1]
    x = varying[0] if varying else "half_width"
    y = "surrogate" if len(values["surrogate"]) > 1 or len(varying) < 2 else varying[1]
    rest = [axis for axis in values if axis not in (x, y) and len(values[axis]) > 1]
    panels = list(dict.fromkeys(tuple(row.setting[axis] for axis in rest) for row in rows))
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    width, height = max(4.0, 1.9 + 0.62 * len(values[x])), 1.5 + 0.45 * len(values[y])
    figure = Figure(figsize=(width * columns + 0.8, height * lines + 0.8), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    accuracies = [row.validation[0] for row in rows]
    low, high = min(accuracies), max(accuracies)
    image = None
    for panel, where in zip(axes, panels, strict=False):
        grid = np.full((len(values[y]), len(values[x])), np.nan)
        for row in rows:
            if tuple(row.setting[axis] for axis in rest) != where:
                continue
            i, j = values[y].index(row.setting[y]), values[x].index(row.setting[x])
            grid[i, j] = 100 * row.validation[0]
            dark = (row.validation[0] - low) < 0.6 * (high - low)
            panel.text(j, i, f"{grid[i, j]:.1f}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
            if row is best:
                panel.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="C3", lw=2.5, clip_on=False))
        panel.set_facecolor("0.9")
        image = panel.imshow(grid, vmin=100 * low, vmax=max(100 * high, 100 * low + 0.1), cmap="viridis", aspect="auto")
        panel.set_xticks(range(len(values[x])), [_wrapped(v) for v in values[x]], fontsize=8)
        panel.set_yticks(range(len(values[y])), [_wrapped(v) for v in values[y]], fontsize=8)
        panel.set_xlabel(_AXES[x], fontsize=8)
        if y != "surrogate":
            panel.set_ylabel(_AXES[y], fontsize=8)
        panel.set_title(", ".join(f"{_AXES[a]} {_wrapped(v)}" for a, v in zip(rest, where, strict=True)), fontsize=8)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes))
        bar.set_label("mean accuracy on the validation examples, %", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    reached = tables.spread(*best.test)
    shown = spelt(f"{title}\nframed: the highest validation accuracy, {reached} of the test set", "utf-8")
    figure.suptitle(shown, fontsize=9, parse_math=False)
    return figure


_AXES = {"half_width": "half-width", "lr": "learning rate", "peak": "peak", "surrogate": "surrogate"}


def _wrapped(value: Any) -> str:
    return textwrap.fill(tables.label(value), 28)
