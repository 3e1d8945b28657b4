"""The figure of a diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._checks import needed
from .measures import slope_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .report import Diagnosis


def draw(diagnosis: Diagnosis) -> Figure:
    """Draw the potentials of each layer that fires, with its slope."""
    with needed("Diagnosis.plot", "matplotlib", "plot"):
        from matplotlib import rc_context  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

    spiking = [layer for layer in diagnosis.layers.values() if layer.fires]
    columns = max(len(spiking), 1)
    with rc_context({"font.size": 8}):
        figure = Figure(figsize=(2.6 * columns, 2.5), layout="constrained")
        panels = figure.subplots(1, columns, squeeze=False)[0]
        for n, (axes, layer) in enumerate(zip(panels, spiking, strict=False)):
            assert layer.samples is not None
            samples = layer.samples[np.isfinite(layer.samples)]
            axes.set_title(
                f"layer {layer.place!r}, {layer.rate:.2g} spikes per neuron and step",
                fontsize=7,
            )
            axes.set_xlabel("potential − threshold")
            # As far as the resting potential on both sides, so that the threshold, 0, is visible in
            # a layer that is far below it, and without a finite sample.
            to_rest = abs(layer.scale or 0.0) or 1.0
            low, high = samples.min(initial=-to_rest), samples.max(initial=to_rest)
            axes.hist(samples, 60, range=(low, high), density=True, color=f"C{n}")
            x = np.linspace(low, high, 600, dtype=np.float32)
            slope = np.asarray(slope_at(layer.surrogate, x))
            right = axes.twinx()
            (line,) = right.plot(x, slope, color="k")
            if n == 0:
                axes.set_ylabel("density of potentials (bars)")
            if n == len(spiking) - 1:
                right.set_ylabel("slope (line)")
            # A slope of 0 lies on the lower edge, like the bars.
            line.sticky_edges.y.append(0)
    return figure
