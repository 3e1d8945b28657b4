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
    """A problem of a network in one place, with the changes that repair it. ``print`` shows it as
    text.
    """

    kind: str
    """The kind of the problem, such as ``"silent"`` for a layer that never spikes. The page
    "Diagnose training" lists all kinds.
    """
    place: str | None
    """The name of the layer, such as ``"0"`` for the first layer of a list. None for the optimizer
    and the loss.
    """
    description: str
    """The measured values that show the problem, as text."""
    fixes: tuple[Move, ...] = ()
    """The changes that repair it, to be applied together. Empty if no change helped."""

    def apply(self, network: Network) -> Network:
        """Return the network with the changes of this issue. It does not change the optimizer."""
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
    """The report of :func:`~spikegrad.diagnose`. ``print`` shows a table of measures, the issues
    and a verdict.
    """

    layers: dict[str, LayerReport]
    """The measured values of each layer by its name (``"0"`` for the first layer of a list), in the
    order in which the network computes them.
    """
    issues: tuple[Issue, ...]
    """The problems of the network. Empty if it learns. First those without whose fixes it learns
    least, and equal ones from the inputs to the outputs.
    """
    verdict: str
    """A text: the parts of the loss that short trainings removed, and the things to check if no
    change helped.
    """
    outcome: Outcome | None
    """How far the loss fell in a short training of the unchanged network. None without a training.
    """
    outcome_repaired: Outcome | None
    """How far the loss fell in a short training with all fixes. None without fixes or without a
    training.
    """
    repaired: Network = dataclasses.field(repr=False)
    """The network with all fixes, to train further."""
    rate: float
    """The factor by which the fixes change the learning rate, usually 1."""
    optimizer: GradientTransformation | None = dataclasses.field(repr=False)
    """The optimizer with all fixes, for ``repaired``. None if you passed none."""
    loss: float | None
    """The loss before training. None if you passed none."""

    @property
    def code(self) -> str:
        """All fixes as Python statements to paste into your program, which change ``network``,
        ``inputs`` and ``optimizer``.
        """
        return "\n".join(fix.code for issue in self.issues for fix in issue.fixes)

    def lines(self) -> list[str]:
        """Return the issues and the verdict as lines of text."""
        return [*map(str, self.issues), self.verdict]

    def __str__(self) -> str:
        """Return the table of measures, the issues and the verdict."""
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
        """Return all measures, issues and trainings as a dict of JSON types, to save it."""
        return jsonable(_shown(self))

    def plot(self) -> Figure:
        """Draw the potentials of each layer with its slope. It needs the package matplotlib."""
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
