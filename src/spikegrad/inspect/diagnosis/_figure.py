"""The figure of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ._numbers import LayerReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARES = (
    ("silent", "never fire"),
    ("always", "always fire"),
    ("within", "within half-width"),
    ("no_gradient", "no gradient"),
)


def draw(layers: Sequence[LayerReport]) -> Figure:
    """Potentials of each layer against its slope; gradients over lags; shares of neurons and
    potentials.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (of an extra)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Diagnosis.plot needs matplotlib: pip install '.[plot]' in a clone of spikegrad",
            name="matplotlib",
        ) from error

    columns = min(len(layers), 4)
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(max(2.6 * columns, 7), 2.2 * rows + 2.6), layout="constrained")
    top, bottom = cast("Any", figure).subfigures(2, 1, height_ratios=(2.2 * rows, 2.6))
    panels = top.subplots(rows, columns, squeeze=False).ravel()
    for i, (axes, layer) in enumerate(zip(panels, layers, strict=False)):
        _potentials(axes, layer, f"C{i}")
    for axes in panels[len(layers) :]:
        axes.set_visible(False)
    lags, shares = bottom.subplots(1, 2)
    _lags(lags, layers)
    _shares(shares, layers)
    return figure


def _potentials(axes: Axes, layer: LayerReport, color: str) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.set_title(
        f"{layer.name}, rate {layer.rate:.2g}" if layer.fires else layer.name, fontsize=9
    )
    if layer.edges:  # of potentials that are finite
        axes.stairs(layer.shares, layer.edges, fill=True, color=color, alpha=0.5)
    axes.set_xlabel("potential − threshold" if layer.scale is not None else "potential", fontsize=8)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _tidy(axes)
    if layer.scale is None:
        return
    axes.axvline(0, color="0.6", lw=0.8)
    if layer.surrogate is None or not layer.peak or not layer.edges:
        return
    low, high = min(layer.edges[0], 0), max(layer.edges[-1], 0)
    at, half_width = layer.at or 0, layer.half_width or 0
    beside = min(
        2 * half_width, high - low
    )  # both flanks, but the bars keep at least a third of the panel
    low, high = min(low, at - beside), max(high, at + beside)
    near = at + 6 * half_width * np.linspace(-1, 1, 200)
    x = np.sort(np.concatenate([np.linspace(low, high, 500), near[(near >= low) & (near <= high)]]))
    slope = axes.twinx()
    slope.plot(
        x, np.asarray(layer.surrogate.surrogate_grad(x.astype(np.float32))), color="k", lw=1.2
    )
    slope.set_ylim(min(0, layer.peak) * 1.05, max(0, layer.peak) * 1.05)
    slope.set_ylabel("slope", fontsize=8)
    slope.spines["top"].set_visible(False)
    slope.tick_params(labelsize=7)


def _lags(axes: Axes, layers: Sequence[LayerReport]) -> None:
    for i, layer in enumerate(layers):
        norms = np.array(layer.by_lag)
        there = np.isfinite(norms) & (norms > 0)
        if there.any():
            shown = np.where(there, norms, np.nan) / norms[there][0]
            factor = "" if layer.factor is None else f", × {layer.factor:.3g} per step"
            axes.plot(shown, color=f"C{i}", lw=1.4, label=layer.name + factor)
    axes.set_yscale("log")
    axes.set_title("gradient over lags", fontsize=9)
    axes.set_xlabel("steps back from a layer's outputs to its currents", fontsize=8)
    _tidy(axes)
    if axes.lines:
        axes.legend(fontsize=7, frameon=False)


def _shares(axes: Axes, layers: Sequence[LayerReport]) -> None:
    width = 0.8 / len(layers)
    for i, layer in enumerate(layers):
        values = [
            getattr(layer, name) if layer.fires or name == "no_gradient" else None
            for name, _ in _SHARES
        ]
        for j, value in enumerate(values):
            if value is not None:
                axes.bar(
                    j + (i - (len(layers) - 1) / 2) * width, 100 * value, 0.9 * width, color=f"C{i}"
                )
    axes.set_xticks(range(len(_SHARES)), [text for _, text in _SHARES])
    axes.set_ylim(0, 100)
    axes.set_title("neurons, and potentials within the half-width, %", fontsize=9)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
