"""Files that are written atomically, and a check for regular files."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

try:
    import fcntl
except ModuleNotFoundError:  # only Unix has it
    fcntl = None

Record: TypeAlias = dict[str, Any]
"""Values by name, as in a file of JSON."""
PARTIAL = ".part"
"""Ending of the name of an incomplete file.

A killed process leaves an incomplete file next to the old one.
"""


def regular_size(path: Path) -> int:
    """Return the size of a regular file in bytes.

    Raises
    ------
    OSError
        If it does not exist or is not regular. Devices can be endless, and pipes can block.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(
            errno.EINVAL,
            "must be a regular file, got a device, a pipe or a socket",
            str(path),
        )
    return status.st_size


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
    if path.exists():
        regular_size(path)
    partial, stream = _new_partial(path)
    try:
        with stream:
            remove_partials(path.parent, path.name)
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _sync_folder(path.parent)


def remove_partials(folder: Path, name: str | None = None) -> None:
    """Remove the partial files of killed processes from a folder.

    Partial files that are being written stay.

    Parameters
    ----------
    folder : Path
        The folder. Its subfolders are not searched.
    name : str, optional
        Only partial files of the file with this name.
    """
    if fcntl is None:  # without locks, abandoned and active files look equal
        return
    for path in folder.glob(
        f".{'*' if name is None else glob.escape(name)}.{'[0-9a-f]' * 8}{PARTIAL}"
    ):
        with contextlib.suppress(OSError):
            regular_size(path)
            with path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _new_partial(path: Path) -> tuple[Path, BinaryIO]:
    """Create a partial file.

    Its lock, which ends with the process, shows other processes that it is being written.
    """
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        stream = partial.open("xb")
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some file systems lack locks
                fcntl.flock(stream, fcntl.LOCK_EX)
        if partial.exists():  # another process may remove it before it is locked
            return partial, stream
        stream.close()


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power failure. Systems without this still have complete files."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
