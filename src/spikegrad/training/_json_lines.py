"""Files with one JSON value per line. They grow during training, and a kill may leave a part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .._files import Record, write_atomically


def resumed(
    path: Path, owner: str, resume: bool, stays: Callable[[Record], bool]
) -> list[Record]:
    """Return the values of a file that is continued, after other lines are removed from it.

    A line stays if it is complete and ``stays(value)`` is true.

    Raises
    ------
    FileExistsError
        If the file exists and ``resume`` is false.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    if not resume:
        raise FileExistsError(
            f"{owner}: {path} already exists; pass resume=True to continue it"
        )
    lines = path.read_bytes().splitlines(keepends=True)
    values = {line: _value(line) for line in lines}
    remaining = [line for line in lines if values[line] and stays(values[line])]
    # Lines that will be written again would otherwise occur twice.
    content = b"".join(line.rstrip() + b"\n" for line in remaining)
    write_atomically(path, lambda stream: stream.write(content))
    return [values[line] for line in remaining]


def _value(line: bytes) -> Record:
    try:
        return json.loads(line)
    except ValueError:  # incomplete after a kill
        return {}


def append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
