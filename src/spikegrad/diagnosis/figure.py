"""The figure of a diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import needed
from .measures import BANDS, LayerReport, slope_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = "drive", "firing", "rate", "recoil", "reach", "steepness", "update"
SHOWN = 1e-4, 1e4


def draw(diagnosis: Any) -> Figure:
    """Draw the potentials of each layer with its slope, and the measures within their bands."""
    with needed("Diagnosis.plot", "matplotlib", "plot"):
        from matplotlib import rc_context  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

    spiking = [layer for layer in diagnosis.layers.values() if layer.fires]
    columns = max(len(spiking), 1)
    with rc_context({"font.size": 8}):
        figure = Figure(figsize=(max(2.6 * columns, 7), 5), layout="constrained")
        panels = figure.subplot_mosaic([[*range(columns)], [-1] * columns])
        for n, layer in enumerate(spiking):
            _draw_potentials(panels[n], layer, f"C{n}")
        _draw_measures(panels[-1], spiking)
    return figure


def _draw_potentials(axes: Axes, layer: Any, color: str) -> None:
    samples = layer.samples[np.isfinite(layer.samples)]
    axes.set_title(f"layer {layer.place!r}, rate {layer.rate:.2g}")
    axes.set_xlabel("potential − threshold")
    axes.set_yticks([])
    size = abs(layer.scale) or 1.0
    low, high = np.quantile(samples, (0.002, 0.998)) if samples.size else (0, 0)
    low, high = min(low, -size), max(high, size)
    axes.hist(samples, bins=60, range=(low, high), density=True, color=color, alpha=0.5)
    axes.axvline(0, color="0.6", lw=0.8)
    x = np.linspace(low, high, 600, dtype=np.float32)
    slope = axes.twinx()
    slope.plot(x, np.asarray(slope_of(layer.surrogate, x)), color="k", lw=1.2)
    slope.set_ylabel("slope")
    slope.set_ylim(bottom=0)


def _draw_measures(axes: Axes, layers: list[LayerReport]) -> None:
    for n, name in enumerate(MEASURES):
        low, high = np.clip(BANDS[name], *SHOWN)
        axes.bar(n, high - low, 0.8, low, color="0.5", alpha=0.25, zorder=0)
        for k, layer in enumerate(layers):
            value = getattr(layer, name)
            if value is not None:
                place = n + 0.6 * ((k + 0.5) / len(layers) - 0.5)
                axes.plot(place, np.clip(value, *SHOWN), "o", color=f"C{k}", ms=5)
    axes.set_yscale("log")
    axes.set_ylim(*SHOWN)
    axes.set_xticks(range(len(MEASURES)), MEASURES)
    axes.set_title("measures of each layer, and the bands of layers that learn")
