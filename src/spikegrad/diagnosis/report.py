"""The result of a diagnosis: the measures of each layer, the issues and the repaired network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from .._pytree import PyTree, jsonable
from .._table import aligned
from ..network import Network
from .measures import LayerReport
from .moves import Move, number
from .trial import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optax import GradientTransformation

COLUMNS = (
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
        # A kind is a verb or an adjective.
        verb = "" if self.kind.endswith("s") else "is "
        place = "" if self.place is None else f"layer {self.place!r} {verb}"
        fixes = "".join(f"\n    {self._text_of(move)}" for move in self.fixes)
        return f"{place}{self.kind}: {self.description}{fixes}"

    def _text_of(self, move: Move) -> str:
        # A change of inputs has the name of the inputs.
        if move.place in (self.place, None) or self.kind == "unscaled":
            return move.text
        return f"{move.text} in layer {move.place!r}"


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
    repaired: Network = dataclasses.field(repr=False)
    """The network with the changes of all issues."""
    rate: float
    """The factor of the learning rate in the changes of all issues, usually 1."""
    optimizer: GradientTransformation | None = dataclasses.field(repr=False)
    """The optimizer with the changes of all issues, or None without one."""
    loss: float | None
    """The loss at the start, or None without a loss."""

    @property
    def code(self) -> str:
        """All fixes as statements to paste, of ``network``, ``inputs`` and ``optimizer``."""
        return "\n".join(fix.code for issue in self.issues for fix in issue.fixes)

    def lines(self) -> list[str]:
        """Return the issues and the verdict as text."""
        return [*map(str, self.issues), self.verdict]

    def __str__(self) -> str:
        """Return a table of the measures, the issues and the verdict."""
        table = [("layer", "neurons", *COLUMNS)] + [
            (
                name,
                str(layer.neurons),
                *(
                    "" if (v := getattr(layer, c)) is None else number(v)
                    for c in COLUMNS
                ),
            )
            for name, layer in self.layers.items()
        ]
        return "\n".join([*aligned(table), "", *self.lines()])

    def to_dict(self) -> dict[str, Any]:
        """Return the measures, the issues, the outcomes and the verdict in JSON types."""
        return jsonable(_shown(self))

    def plot(self) -> Figure:
        """Draw the potentials of each layer with its slope. Needs matplotlib."""
        from .figure import draw  # noqa: PLC0415  (matplotlib is an extra)

        return draw(self)


def _shown(value: object) -> PyTree:
    """Return the fields of dataclasses that ``repr`` shows, and changes as text and code."""
    if isinstance(value, Move):
        return {"text": value.text, "code": value.code}
    if isinstance(value, dict):
        return {name: _shown(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return [*map(_shown, value)]
    if not dataclasses.is_dataclass(value):
        return value
    names = [field.name for field in dataclasses.fields(value) if field.repr]
    return {name: _shown(getattr(value, name)) for name in names}
