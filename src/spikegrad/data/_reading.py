"""What all readers do alike: errors in one line that name the file, and files of installed packages."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from ._npz import DataError


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Errors of the file system, and of HDF5, as a DataError of one line that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise DataError(f"{path}: cannot be read: {reason}") from None


def whole_rows(path: Path, row: int) -> bytes:
    """All of a file that consists of rows of so many bytes."""
    with reading(path):
        data = path.read_bytes()
    if len(data) % row:
        raise DataError(f"{path}: truncated: {len(data)} bytes are no multiple of {row}")
    return data


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
