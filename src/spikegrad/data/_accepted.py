"""Checks of arrays, labels and events, with messages of one line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOST_CLASSES = 2**16


class DataError(ValueError):
    """The error for missing or invalid data. The message names the file, the key and the shape."""


def as_array(
    owner: str,
    key: str,
    value: npt.ArrayLike,
    kinds: str = "buif",
    shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Convert to an array in native byte order, which JAX accepts.

    Parameters
    ----------
    owner, key : str
        The file or function, and the array, for the message.
    value : array_like
        The values.
    kinds : str
        The accepted kinds of dtypes, as NumPy abbreviates them.
    shape : tuple of int, optional
        The required shape. By default any.
    """
    array = np.asarray(value)
    if array.dtype.kind not in kinds or shape not in (None, array.shape):
        numbers = "numbers" if "f" in kinds else "integers"
        required = numbers if shape is None else f"{numbers} of shape {shape}"
        raise DataError(
            f"{owner}: {key} must hold {required}, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_labels(
    owner: str, key: str, y: npt.ArrayLike, count: int | None = None
) -> np.ndarray:
    """Return labels in int32. ``count`` is the number of examples."""
    y = np.asarray(y)
    renumber = f"numpy.unique({key}, return_inverse=True)[1] numbers other labels"
    expected = y.size if count is None else count
    if y.dtype.kind not in "ui" or y.shape != (expected,):
        shape = "(n,)" if count is None else f"({count},)"
        raise DataError(
            f"{owner}: {key} must have shape {shape}, an integer label from 0 to "
            f"{MOST_CLASSES - 1} for each example, got {y.dtype} of shape {y.shape}; "
            f"{renumber}, {key}.argmax(1) one-hot rows"
        )
    if not y.size:
        raise DataError(f"{owner}: {key} must have a label for each example, got none")
    # A readout has a unit for each label up to the greatest, so an identifier as label would need
    # all memory.
    is_outside = (y < 0) | (y >= MOST_CLASSES)
    for index in np.flatnonzero(is_outside):
        raise DataError(
            f"{owner}: {key} must hold labels from 0 to {MOST_CLASSES - 1}, got {y[index]} at "
            f"index {index}; {renumber}"
        )
    # The integers of JAX, which would convert wider ones for each batch.
    return y.astype(np.int32)


def check_finite(owner: str, key: str, array: np.ndarray) -> None:
    """Raise if an array has NaN or infinite values. The message has the place of the first."""
    # Nearly all arrays are finite, so places are looked for only after a failure.
    if not np.isfinite(array).all():
        places = np.argwhere(~np.isfinite(array))
        place = tuple(places[0].tolist())
        raise DataError(
            f"{owner}: {key} must be finite, got {array[place]} at index {place}; replace or "
            "remove missing values"
        )


def chosen_of_each(owner: str, y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a fraction of the examples of each class as a test set, as a mask."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(y), bool)
    # Class by class, so the fractions of the classes are equal in both parts.
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        count = round(share * len(members))
        chosen[members[:count]] = True
    if chosen.all() or not chosen.any():
        raise DataError(
            f"{owner}: too few examples for a part of {share:g} of each class"
        )
    return chosen


def check_events(
    owner: str, events: tuple[npt.ArrayLike, npt.ArrayLike], shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return times in float64 and units in int64. Raise if they are not events of this shape."""
    times = as_array(owner, "times", events[0], "uif")
    units = as_array(owner, "units", events[1], "ui", times.shape)
    # A NaN belongs to no time step, and would be lost without an error.
    if not np.isfinite(times).all():
        raise DataError(f"{owner} has a time that is not finite")
    # A unit beyond the shape would count as a unit of the next time step.
    outside = (units < 0) | (units >= math.prod(shape))
    if outside.any():
        raise DataError(
            f"{owner} has unit {units[outside][0]}, not within {tuple(shape)}"
        )
    return times.astype(np.float64, copy=False), units.astype(np.int64, copy=False)
