"""Files of one JSON value a line, which grow while training runs and which a kill may leave with part of a line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._files import write_atomically


def resumed(path: Path, owner: str, resume: bool, keep: Callable[[Any], bool]) -> list[Any]:
    """The values of a file that is to be continued, reduced to the complete lines whose values are to be kept.

    Raises
    ------
    FileExistsError
        If there is a file, and ``resume`` is false.
    """
    if not path.exists():
        return []
    if not resume:
        raise FileExistsError(f"{owner}: {path} exists; with resume=True it is gone on with")
    lines, kept, values = path.read_bytes().splitlines(keepends=True), [], []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # a kill left a part of it
            continue
        if keep(value):
            kept.append(line.rstrip(b"\r\n") + b"\n")
            values.append(value)
    if kept != lines:
        write_atomically(path, lambda stream: stream.write(b"".join(kept)))
    return values


def append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def jsonable(value: Any) -> Any:
    """A value as JSON knows it: arrays as lists, NaN and infinities as null."""
    if isinstance(value, dict):
        return {name: jsonable(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return jsonable(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
