"""Files that are written atomically, and a check for regular files."""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

Record: TypeAlias = dict[str, Any]
"""Values by name, as in a file of JSON."""
PARTIAL = ".part"
"""Ending of the name of an incomplete file.

A killed process leaves an incomplete file next to the old one.
"""


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file atomically: a kill or a full disk leaves the complete old file or the complete
    new file.

    Parameters
    ----------
    path : Path
        The file. Its folder must exist.
    write : callable
        Writes the contents to a binary stream.

    Raises
    ------
    OSError
        If it cannot be written. An old file stays, also if ``write`` raises an error. A device or a
        pipe stays, too.
    """
    path = Path(os.path.realpath(path))  # follow links instead of replacing them
    if path.exists() and not path.is_file():
        raise OSError(f"{path} must be a regular file, to be replaced by a new one")
    remove_partials(path.parent, glob.escape(path.name))
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partials(folder: Path, name: str = "*") -> None:
    """Remove the partial files of killed processes, of files with this name pattern.

    A process that still writes such a file gets an error.
    """
    for partial in folder.glob(f".{name}.{'[0-9a-f]' * 8}{PARTIAL}"):
        partial.unlink(missing_ok=True)
