"""The arrays of ``.npz`` files, which are read without pickle."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ._accepted import DataError
from ._reading import reading


def read_arrays(
    path: str | os.PathLike,
    required: Sequence[str] = (),
    optional: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Read all arrays of a file.

    Parameters
    ----------
    path : str or path-like
        The file.
    required : sequence of str
        Keys that the file must have.
    optional : sequence of str, optional
        Other keys that it may have. By default any.

    Raises
    ------
    DataError
        If it cannot be read, is not a ``.npz`` file, or has other keys.
    """
    if Path(path).suffix != ".npz":
        raise DataError(f"{path}: must be a .npz file, as numpy.savez writes it")
    arrays = {}
    with reading(path), Path(path).open("rb") as stream:
        try:
            file = np.load(stream, allow_pickle=False)
        except (
            ValueError,
            EOFError,
            zipfile.BadZipFile,
        ):  # NumPy's text is about pickle
            raise DataError(
                f"{path}: not a .npz file, or one that was cut off"
            ) from None
        for key in file:
            # A key in another case, such as Y for y, would be ignored without an error.
            if optional is not None and key not in (*required, *optional):
                known = ", ".join((*required, *optional))
                raise DataError(f"{path}: unknown key {key!r}, known are {known}")
            with reading(f"{path}: {key}"):
                arrays[key] = file[key]
    for key in required:
        require(path, key, arrays)
    return arrays


def require(path: str | os.PathLike, key: str, arrays: dict[str, np.ndarray]) -> None:
    """Raise if a file lacks a key."""
    if key not in arrays:
        keys = ", ".join(sorted(arrays)) or "none"
        raise DataError(f"{path}: key {key!r} is missing, got {keys}")


def keys_of(path: Path) -> set[str]:
    """Return the keys of a file. If it cannot be read, the set is empty."""
    try:
        # The names of the members, because np.load raises more errors.
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
    ):  # the reader of the file reports it
        return set()
