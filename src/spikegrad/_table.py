"""Tables as text."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest


def aligned(
    rows: Iterable[Sequence[str]], sides: str = "", gap: str = "  "
) -> list[str]:
    """Return a line for each row. ``sides`` has ``"<"`` or ``">"`` for columns, by default left."""
    columns = [
        [f"{cell:{side}{max(map(len, column))}}" for cell in column]
        for column, side in zip_longest(zip(*rows, strict=True), sides, fillvalue="<")
    ]
    return [gap.join(row).rstrip() for row in zip(*columns, strict=True)]
