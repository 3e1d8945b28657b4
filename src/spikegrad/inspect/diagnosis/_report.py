"""A diagnosis: the numbers of each layer and the verdicts, as text, as data and as a figure."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from ._figure import draw
from ._numbers import LayerReport
from ._verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = (
    *("layer", "neurons", "rate", "silent", "always", "potential"),
    *("half-width", "within", "slope", "weights", "currents", "no gradient", "per step"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """What :func:`~spikegrad.diagnose` found. Its text is a table with the verdicts below."""

    layers: tuple[LayerReport, ...]
    """The numbers of each layer, from the inputs."""
    verdicts: tuple[Verdict, ...]
    """What is wrong; empty if nothing is amiss."""
    loss: float | None = None
    """The loss of the examples; None without one."""
    loss_after: float | None = None
    """The loss after the first update; None without an optimiser, or without a loss."""

    def rows(self) -> list[tuple[str, ...]]:
        """The table, a row of text for each layer, under the headings of the text."""
        return [_row(layer) for layer in self.layers]

    def __str__(self) -> str:
        rows = [HEADINGS, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
        table = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([*(line.rstrip() for line in table), "", *self.lines()])

    def lines(self) -> list[str]:
        """The verdicts in words."""
        return [str(verdict) for verdict in self.verdicts] or ["nothing is amiss"]

    def to_dict(self) -> dict[str, Any]:
        """All of it as what JSON has: numbers that are NaN or infinite are None."""
        return _plain(
            {
                "loss": self.loss,
                "loss_after": self.loss_after,
                "layers": [
                    {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
                    for layer in self.layers
                ],
                "verdicts": [
                    {
                        "fault": v.fault,
                        "index": v.index,
                        "finding": v.finding,
                        "remedies": [
                            {"index": r.index, "change": r.change, "value": r.value, "text": r.text} for r in v.remedies
                        ],
                    }
                    for v in self.verdicts
                ],
            }
        )

    def plot(self) -> Figure:
        """Potentials of each layer against its slope, gradients over lags, and shares of neurons. Needs matplotlib."""
        return draw(self.layers)


def _row(layer: LayerReport) -> tuple[str, ...]:
    def number(x, form="{:.2g}"):
        return "" if x is None else form.format(x)

    def share(x):
        return "" if x is None else f"{100 * x:.1f} %"

    gradients = layer.weight_gradients.values()
    return (
        layer.name,
        str(layer.neurons),
        number(layer.rate if layer.fires else None, "{:.3f}"),
        share(layer.silent if layer.fires else None),
        share(layer.always if layer.fires else None),
        f"{layer.mean:.2g} ± {layer.deviation:.2g}",
        number(layer.half_width),
        share(layer.within),
        number(layer.slope),
        number(math.hypot(*gradients), "{:.1e}") if gradients else "",
        number(layer.current_gradient, "{:.1e}"),
        share(layer.no_gradient),
        number(layer.factor, "{:.3g}"),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else repr(value)
