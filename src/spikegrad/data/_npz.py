"""The arrays of ``.npz`` files, which are read without pickle."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ._accepted import DataError
from ._reading import reading


def read_arrays(
    path: str | os.PathLike, required: Sequence[str], optional: Sequence[str]
) -> dict[str, np.ndarray]:
    """Read all arrays of a file.

    Parameters
    ----------
    path : str or path-like
        The file.
    required, optional : sequence of str
        Keys that the file must have, and other keys that it may have.

    Raises
    ------
    DataError
        If it cannot be read, is not a ``.npz`` file, or has other keys.
    """
    keys = keys_of(path)
    # A key in another case, such as Y for y, would be ignored without an error.
    known = dict.fromkeys((*required, *optional))
    if not {*required} <= keys <= known.keys():
        raise DataError(
            f"{path}: keys must be {', '.join(known)}, at least {', '.join(required)}, "
            f"got {', '.join(sorted(keys))}; {_change(keys, required, known)}"
        )
    with reading(path), np.load(path, allow_pickle=False) as file:
        return {key: _array(path, file, key) for key in file}


def _change(keys: set[str], required: Sequence[str], known: Collection[str]) -> str:
    """Return the change of the keys, as the end of a message."""
    missing = ", ".join(key for key in required if key not in keys)
    unknown = ", ".join(sorted(keys.difference(known)))
    changes = []
    if missing:
        changes.append(f"add {missing}")
    if unknown:
        changes.append(f"rename or remove {unknown}")
    return " and ".join(changes)


def _array(path: str | os.PathLike, file: Mapping, key: str) -> np.ndarray:
    try:
        return file[key]
    except ValueError as error:
        # NumPy pickles lists of arrays of different lengths as objects.
        if "Object arrays" not in str(error):
            raise
        raise DataError(
            f"{path}: {key} must be an array of numbers, got Python objects; convert it with "
            "numpy.asarray(..., float), or pad sequences of different lengths with "
            "Sequences(...).padded() and save their lengths"
        ) from None


def keys_of(path: str | os.PathLike) -> set[str]:
    """Return the keys of a file."""
    # The names of its members, because the errors of np.load are about pickle.
    with reading(path), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}
