"""Files with one JSON value per line. They grow during training, and a kill may leave an incomplete line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._files import regular_size, write_atomically


def resumed(path: Path, owner: str, resume: bool, keep: Callable[[Any], bool]) -> list[Any]:
    """Remove incomplete lines and lines without ``keep(value)`` from a file to be continued. Return its values.

    Raises
    ------
    FileExistsError
        If the file exists and ``resume`` is false.
    OSError
        If it cannot be read, or is not a regular file.
    """
    if not path.exists():
        return []
    if not resume:
        raise FileExistsError(f"{owner}: {path} already exists; pass resume=True to continue it")
    regular_size(path)
    lines, kept, values = path.read_bytes().splitlines(keepends=True), [], []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # incomplete after a kill
            continue
        if keep(value):
            kept.append(line.rstrip(b"\r\n") + b"\n")
            values.append(value)
    if kept != lines:
        write_atomically(path, lambda stream: stream.write(b"".join(kept)))
    return values


def append(path: Path, line: str) -> None:
    """Append a line. It starts a new line if an earlier write failed and left a part of one."""
    try:
        with path.open("ab+") as file:
            end = b"\n"
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                end = file.read(1)
            file.write(b"" if end == b"\n" else b"\n")
            file.write(f"{line}\n".encode())
    except OSError as error:  # of a full disk, it does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None


def jsonable(value: Any) -> Any:
    """Convert a value to JSON: arrays to lists, NaN and infinity to null."""
    if isinstance(value, dict):
        return {name: jsonable(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return jsonable(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
