"""Checks of arguments, labels and events, with messages of one line."""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import as_shape, brief
from .._system import available_memory

_LONGEST = 300
_SMALL = 2**26


class DataError(ValueError):
    """Data is missing or invalid. The message names the file, the key and the shape, in one line.

    Parameters
    ----------
    message : str
        Control characters are escaped. Messages above 300 characters lose their middle.
    """

    def __init__(self, message: str) -> None:
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2 - 3]} ... {message[3 - _LONGEST // 2 :]}"
        super().__init__(message)


def some(names: Iterable[Any], most: int = 10) -> str:
    """Join up to ``most`` names for a message."""
    names = list(map(str, names))
    return ", ".join(names[:most]) + (f", ... ({len(names):,} in all)" if len(names) > most else "") or "none"


def path_of(owner: str, path: Any) -> str:
    """Return a path as text."""
    found = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(found, str):
        raise TypeError(f"{owner}: path must be a str or a path, got {brief(path)}")
    return found


def integer(owner: str, name: str, value: Any, least: int = 0, most: float = float("inf")) -> int:
    """Return an integer. Raise if it is outside of the bounds."""
    try:
        found = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        found = None
    if found is None or not least <= found <= most:
        bounds = f"from {least} to {most}" if most < float("inf") else f"of at least {least}"
        raise (TypeError if found is None else ValueError)(
            f"{owner}: {name} must be an integer {bounds}, got {brief(value)}"
        )
    return found


def real(owner: str, name: str, value: Any) -> float:
    """Return a real number. Arrays without axes are accepted."""
    try:
        return math.nan if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value) else float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: {name} must be a real number, got {brief(value)}") from None


def positive(owner: str, name: str, value: Any, most: float = sys.float_info.max) -> float:
    """Return a real number above 0 and up to a bound."""
    found = real(owner, name, value)
    if not 0 < found <= most:
        bounds = "finite" if most == sys.float_info.max else f"at most {most:g}"
        raise ValueError(f"{owner}: {name} must be a number above 0 and {bounds}, got {brief(value)}")
    return found


def check_memory(name: str, size: int) -> None:
    """Raise if ``size`` exceeds the free bytes of the system."""
    available = available_memory() if size > _SMALL else None
    if available is not None and size > available:
        raise DataError(f"{name} would take {size / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are free")


def native(array: np.ndarray) -> np.ndarray:
    """Convert to a dtype of JAX: native byte order, and floats of at most 64 bits."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # readers report values that are not finite
            return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_array(owner: str, name: str, value: Any, kinds: str, wanted: str) -> np.ndarray:
    """Convert to an array. Raise unless its dtype is of one of the kinds."""
    try:
        array = native(np.asarray(value))
    except (TypeError, ValueError):  # nested lists of different lengths
        array = np.asarray(None)
    kind = "f" if jnp.issubdtype(array.dtype, np.floating) else array.dtype.kind  # NumPy lacks a kind for bfloat16
    if kind not in kinds:
        found = brief(value) if array.dtype == object else array.dtype
        raise DataError(f"{owner}: {name} must hold {wanted}, got {found}")
    return array


def check_array(owner: str, key: str, array: np.ndarray, kinds: str, shape: tuple[int, ...] | None = None) -> None:
    """Raise unless the dtype of an array is of one of the kinds and its shape fits. By default it needs one axis."""
    if array.dtype.kind not in kinds or (array.ndim != 1 if shape is None else array.shape != shape):
        wanted = "one axis" if shape is None else f"shape {shape}"
        numbers = "numbers" if "f" in kinds else "integers"
        raise DataError(f"{owner}: {key} must hold {numbers} of {wanted}, got {array.dtype} of {brief(array.shape)}")


_CLASSES = 1_000_000
"""An upper limit, because each label up to the largest is a class with a name and an output."""


def check_labels(owner: str, key: str, y: Any, count: int | None = None) -> np.ndarray:
    """Return labels in int32. ``count`` is the number of examples."""
    y = as_array(owner, key, y, "ui", "integers")
    if y.ndim != 1 or not y.size or (count is not None and len(y) != count):
        wanted = "shape (n,)" if count is None else f"shape ({count},)"
        raise DataError(f"{owner}: {key} must have {wanted}, one label for each example, got {y.shape}")
    if y.min() < 0 or y.max() >= _CLASSES:
        wrong = y.min() if y.min() < 0 else y.max()
        raise DataError(f"{owner}: {key} must hold labels from 0 to {_CLASSES - 1:,}, got {wrong}")
    return y.astype(np.int32)


def check_classes(owner: str, key: str, y: np.ndarray) -> None:
    """Raise if a label below the largest is unused, or if all examples have one class."""
    present = np.unique(y)
    missing = np.flatnonzero(present != np.arange(len(present)))
    if missing.size:
        raise DataError(
            f"{owner}: {key} must hold every label from 0 to the greatest, {present[-1]}, but lacks {missing[0]}"
        )
    if len(present) < 2:
        raise DataError(f"{owner}: {key} must hold at least two classes, got one")


def chosen_of_each(y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a fraction of the examples of each class, as a mask."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        chosen[members[: round(share * len(members))]] = True
    return chosen


def shape_of(owner: str, shape: Any) -> tuple[int, ...]:
    """Return a shape of at least one axis, each of at least 1."""
    found = as_shape(shape)
    if not found:
        raise DataError(f"{owner}: shape must be integers above 0, got {brief(shape)}")
    return found


def check_events(owner: str, events: Any, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return times in float64 and units in int64. Raise if they are not events of this shape."""
    try:
        times, units = events
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: events must be times and units, got {brief(events)}") from None
    times = as_array(owner, "times", times, "uif", "numbers")
    units = as_array(owner, "units", units, "ui", "integers")
    if times.ndim != 1 or times.shape != units.shape:
        raise DataError(f"{owner} must have one time and one unit for each event, got {times.shape} and {units.shape}")
    if not np.isfinite(times).all():
        raise DataError(f"{owner} has a time that is not finite")
    size = 1
    for length in shape:  # not math.prod, which is slow for integers of NumPy
        size *= int(length)
    wrong = (units < 0) | (units >= size)
    if wrong.any():
        raise DataError(f"{owner} has unit {units[wrong][0]}, not within {tuple(shape)}")
    return times.astype(np.float64, copy=False), units.astype(np.int64, copy=False)
