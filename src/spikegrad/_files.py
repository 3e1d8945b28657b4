"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".part"
"""How the name of a file ends that is not whole: what a killed process leaves behind, beside the old file."""


def write_atomically(path: Path, write: Callable[[BinaryIO], Any], *, new: bool = False) -> None:
    """Write a file so that at any moment, also of a kill or a full disk, the old one or the new one is there, whole.

    Parameters
    ----------
    path : Path
        The file. Its folder must exist.
    write : callable
        Given a binary stream, it writes the contents.
    new : bool, default False
        Whether there must be no old one: of several who write it at once, a single one does.

    Raises
    ------
    FileExistsError
        If there is an old one, and ``new`` was asked for.
    OSError
        If it cannot be written; an old file is left as it was. What ``write`` raises is passed on, with the same
        promise.
    """
    path = Path(os.path.realpath(path))  # through a link, or the link would be replaced
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        (_rename_to_new if new else os.replace)(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _sync_folder(path.parent)


def _rename_to_new(partial: Path, path: Path) -> None:
    """Unlike a renaming, a link replaces nothing."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: an empty file takes the name first
        path.open("xb").close()
        os.replace(partial, path)
    else:
        partial.unlink()


def _sync_folder(folder: Path) -> None:
    """The new name, too, outlives a power cut. Not every system can; the file is whole all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
