"""The arrays of ``.npz`` files, which are read without pickle."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence

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
            f"got {', '.join(sorted(keys))}"
        )
    with reading(path), np.load(path, allow_pickle=False) as file:
        return dict(file)


def keys_of(path: str | os.PathLike) -> set[str]:
    """Return the keys of a file."""
    # The names of its members, because the errors of np.load are about pickle.
    with reading(path), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}
