"""The figure of the reproduction of Zenke and Vogels 2021: accuracy over β."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .zenke_vogels import AT_LENGTH, CLASSES, CONDITIONS, SHAPES, Condition, condition_of


def figure(rows: Iterable[dict[str, Any]], long: Iterable[dict[str, Any]], title: str) -> Figure:
    """A panel for each network, reset and peak; in it, over β, the accuracy of each shape on held-out examples.

    Lines are means over seeds, dots the seeds; dashed, what was trained at length.
    """
    rows, long = list(rows), list(long)
    drawn = Figure(figsize=(11.5, 5.6), layout="constrained")
    drawn.suptitle(title, fontsize=10)
    axes = drawn.subplots(2, 4, sharex=True, sharey=True)
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
    for panel in axes[1]:
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
        panel.plot(betas, [100 * np.mean(row["held_out"]) for row in mine], color=color, lw=1.4, ls=ls)
        for row in mine:
            seeds = row["held_out"]
            panel.plot([row["beta"]] * len(seeds), np.multiply(100, seeds), ".", color=color, ms=3.5, alpha=0.6)
