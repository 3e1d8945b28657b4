"""A diagnosis: the numbers of each layer and the issues, as text, as data and as a figure."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from ._figure import draw
from ._fixes import Fix
from ._issues import Issue
from ._numbers import LayerReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = (
    *("layer", "neurons", "rate", "silent", "always", "potential"),
    *("half-width", "within", "slope", "weights", "currents", "no gradient", "per step"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """The result of :func:`~spikegrad.diagnose`. It prints as a table, followed by the issues."""

    layers: tuple[LayerReport, ...]
    """The numbers of each layer, from the inputs."""
    issues: tuple[Issue, ...]
    """The issues. Empty if no issue was found."""
    loss: float | None = None
    """The loss of the examples, or None without a loss."""
    loss_after: float | None = None
    """The loss after the first update, or None without an optimizer or a loss."""

    def rows(self) -> list[tuple[str, ...]]:
        """The table, a row of text for each layer, under the headings of the text."""
        return [_row(layer) for layer in self.layers]

    def __str__(self) -> str:
        texts = [_text(table) for table in laid_out(self.rows(), width=80, between=2)]
        return "\n\n".join([*texts, "\n".join(self.lines())])

    def lines(self) -> list[str]:
        """Return the issues as text."""
        return [str(issue) for issue in self.issues] or ["no issues found"]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields in JSON types. NaN and infinite numbers become None."""
        own = {
            "loss": self.loss,
            "loss_after": self.loss_after,
            "layers": self.layers,
            "issues": self.issues,
        }
        return _plain(own)

    def plot(self) -> Figure:
        """Potentials of each layer against its slope, gradients over lags, and shares of neurons.

        Needs matplotlib.
        """
        return draw(self.layers)


def laid_out(rows: list[tuple[str, ...]], width: int, between: int) -> list[list[tuple[str, ...]]]:
    """Return the table with one row per layer, or, if it is too wide, tables with one column per
    layer.
    """
    whole = [HEADINGS, *rows]
    if sum(max(map(len, column)) + between for column in zip(*whole, strict=True)) < width:
        return [whole]
    first, each = (
        max(map(len, cells)) + between
        for cells in (HEADINGS, [cell for row in rows for cell in row])
    )
    beside = max(1, (width - first - 1) // each)
    parts = (rows[i : i + beside] for i in range(0, len(rows), beside))
    return [list(zip(HEADINGS, *part, strict=True)) for part in parts]


def _text(table: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])) for row in table)
    return "\n".join("  ".join(line).rstrip() for line in lines)


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
        f"{layer.mean:.2g} ± {layer.std:.2g}",
        number(layer.half_width),
        share(layer.within),
        number(layer.slope),
        number(math.hypot(*gradients), "{:.1e}") if gradients else "",
        number(layer.current_gradient, "{:.1e}"),
        share(layer.no_gradient),
        number(layer.factor, "{:.3g}"),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, (LayerReport, Issue, Fix)):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else repr(value)
