"""Files with one JSON value per line. They grow during training, and a kill may leave a part."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from .._files import Record, write_atomically
from .._pytree import PyTree, name_of


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
            f"{owner}: {path} already exists. Pass resume=True to continue it"
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


def merged(owner: str, *records: Mapping[str, Any]) -> Record:
    """Return one record of all entries. Raise if two of them have one name."""
    line: Record = {}
    for record in records:
        for name, value in record.items():
            if name in line:
                raise ValueError(
                    f"{owner}: {name!r} has two values, {line[name]} and {value}. Rename the "
                    "metric, or the other entry that you pass"
                )
            line[name] = value
    return line


def plain(metric: PyTree) -> Any:
    """Return a metric as dicts, lists and arrays. Other pytrees become dicts of named leaves."""
    if isinstance(metric, Mapping):
        return {str(name): plain(part) for name, part in metric.items()}
    if isinstance(metric, (list, tuple)):
        return [plain(part) for part in metric]
    if jax.tree_util.all_leaves([metric]):
        return metric
    leaves = jax.tree_util.tree_leaves_with_path(metric)
    return {name_of(path): leaf for path, leaf in leaves}


def append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
