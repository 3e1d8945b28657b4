"""Tables as text."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest


def aligned(
    rows: Iterable[Sequence[str]], sides: str = "", gap: str = "  "
) -> list[str]:
    """Return a line for each row. ``sides`` has ``"<"`` or ``">"`` for columns, by default left."""
    by_column = zip(*rows, strict=True)
    columns = []
    for cells, side in zip_longest(by_column, sides, fillvalue="<"):
        width = max(map(len, cells))
        columns.append([f"{cell:{side}{width}}" for cell in cells])
    lines = zip(*columns, strict=True)
    return [gap.join(line).rstrip() for line in lines]
