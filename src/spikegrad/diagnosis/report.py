"""The result of a diagnosis: the measures of each layer, the issues and the repaired network."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..network import Network
from .measures import LayerReport
from .moves import Move
from .trial import LITTLE, UPDATES, Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "neurons",
    "rate",
    "firing",
    "drive",
    "offset",
    "reach",
    "steepness",
    "gradient",
    "update",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Issue:
    """A measure outside of its band, with the changes against it."""

    kind: str
    """Such as ``"silent"``, see the page of the diagnosis."""
    place: str | None
    """The name of the layer, or its position in a list. None for the optimizer and the loss."""
    description: str
    """The measures that show it."""
    fixes: tuple[Move, ...] = ()
    """The changes, which belong together. Empty if no change helps."""

    def apply(self, network: Network) -> Network:
        """Return the network with all changes of this issue."""
        for move in self.fixes:
            network = move.apply(network)
        return network

    def __str__(self) -> str:
        """Return the issue and its fixes as text."""
        place = "" if self.place is None else f"layer {self.place!r} "
        verb = "" if self.place is None else "is " if self.kind in ADJECTIVES else ""
        fixes = "".join(f"\n    {self._text_of(move)}" for move in self.fixes)
        return f"{place}{verb}{self.kind}: {self.description}{fixes}"

    def _text_of(self, move: Move) -> str:
        # A change of inputs has the name of the inputs.
        is_elsewhere = move.place not in (self.place, None) and self.kind != "unscaled"
        return move.text + f" in layer {move.place!r}" * is_elsewhere


ADJECTIVES = (
    "silent",
    "saturated",
    "unscaled",
    "out of reach",
    "too large",
    "alike",
    "not finite",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """The result of :func:`~spikegrad.diagnose`. It prints as a table, the issues and a verdict."""

    layers: dict[str, LayerReport]
    """The measures of each layer, by name or position, in the order of a step."""
    issues: tuple[Issue, ...]
    """The issues, from the inputs to the outputs. Empty if the network learns."""
    verdict: str
    """What a short training learned, and what to check if nothing helped."""
    outcome: Outcome | None
    """The parts of the loss that a short training removed, or None without a training."""
    outcome_repaired: Outcome | None
    """These parts with the changes of all issues, or None without changes or a training."""
    repaired: Network
    """The network with the changes of all issues."""
    rate: float
    """The factor of the learning rate in the changes of all issues, usually 1."""
    optimizer: Any
    """The optimizer with the changes of all issues, or None without one."""
    loss: float | None
    """The loss at the start, or None without a loss."""

    @property
    def code(self) -> str:
        """All fixes as statements to paste, of ``network``, ``inputs`` and ``optimizer``."""
        return "\n".join(fix.code for issue in self.issues for fix in issue.fixes)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table as text, one row for each layer, under ``COLUMNS``."""

        def cell(value):
            return (
                "" if value is None else f"{value:.2g}" if value % 1 else f"{value:.0f}"
            )

        return [
            (name, *(cell(getattr(layer, column)) for column in COLUMNS))
            for name, layer in self.layers.items()
        ]

    def lines(self) -> list[str]:
        """Return the issues and the verdict as text."""
        return [*map(str, self.issues), self.verdict]

    def __str__(self) -> str:
        """Return a table of the measures, the issues and the verdict."""
        table = [("layer", *COLUMNS), *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = [
            "  ".join(
                (row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))
            ).rstrip()
            for row in table
        ]
        return "\n".join([*rows, "", *self.lines()])

    def to_dict(self) -> dict[str, Any]:
        """Return the measures, the issues and the verdict in JSON types."""
        return _plain(
            {
                "verdict": self.verdict,
                "loss": self.loss,
                "learned": self.outcome and self.outcome._asdict(),
                "learned_repaired": self.outcome_repaired
                and self.outcome_repaired._asdict(),
                "rate": self.rate,
                "layers": [*self.layers.values()],
                "issues": [
                    {
                        "kind": issue.kind,
                        "place": issue.place,
                        "description": issue.description,
                        "fixes": [
                            {"text": m.text, "code": m.code} for m in issue.fixes
                        ],
                    }
                    for issue in self.issues
                ],
            }
        )

    def plot(self) -> Figure:
        """Draw the potentials of each layer with its slope, and the measures against their bands.

        Needs matplotlib.
        """
        from .figure import draw  # noqa: PLC0415  (matplotlib is an extra)

        return draw(self)


def verdict_of(
    initial: Outcome | None,
    repaired: Outcome | None,
    is_split: bool,
    learns: bool,
    is_late: bool,
    is_broken: bool,
    has_issues: bool,
) -> str:
    """Return what the network learned, and what is left to check outside of it."""
    if initial is None:
        reason = "pass loss= and optimizer= to see if the network learns"
        return f"not trained: {'numbers are not finite' if is_broken else reason}"

    def learned(outcome):
        others = (
            f", and {max(outcome.held_out, 0):.0%} for other examples"
            if is_split
            else ""
        )
        return f"{max(outcome.trained, 0):.0%} of the loss{others}"

    texts = [f"{UPDATES} updates remove {learned(initial)}"]
    if not is_split:
        texts[0] += " (too few to hold some out)"
    if repaired is not None:
        texts.append(f"with these changes {learned(repaired)}")
    if is_late and not learns:
        texts.append("the budget ended the search")
    elif not learns:
        texts.append("no change lets it learn")
        if not has_issues:
            texts[-1] += (
                ": check what is outside of the network, as labels, loss, mask, dropout and the "
                "order of the data"
            )
    elif is_split and (repaired or initial).held_out < LITTLE:
        texts.append("it learns by heart: check the labels, or pass more examples")
    elif repaired is None:
        texts.append("it learns")
    return "; ".join(texts)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value) if f.repr]
        return {name: _plain(getattr(value, name)) for name in fields}
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
