"""Your sequences and recordings in ``.npz`` files of NumPy."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from .._checks import brief
from ._accepted import DataError, check_array, check_labels, integer, path_of
from ._events import Events, Recordings
from ._forms import own_file
from ._npz import missing_key, read_arrays
from ._sequences import Sequences

MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0}
"""Microseconds in each unit of time that a file may name."""


def read_npz(path: str | os.PathLike, *, label: int | None = None) -> Sequences:
    """Read sequences from your ``.npz`` file.

    ===========  ================================================================================================
    array        contents
    ===========  ================================================================================================
    ``x``        ``(n, steps, channels)`` or ``(n, steps, height, width, channels)``: bools, integers or floats, finite.
                 Values after the length of a sequence are ignored.
    ``y``        ``(n,)``, integer labels from 0
    ``lengths``  optional, ``(n,)``, integers, the number of steps of each example
    ===========  ================================================================================================

    Parameters
    ----------
    path : str or path-like
        The file.
    label : int, optional
        Label of all examples if the file has no ``y``. By default ``y`` is required.

    Returns
    -------
    Sequences
        In the dtype of the file.

    Raises
    ------
    DataError
        If the file is malformed. Files are read without pickle.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from spikegrad.data import read_npz
    >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
    >>> np.savez_compressed(
    ...     path,
    ...     x=np.zeros((4, 50, 3), np.uint8),
    ...     y=[0, 1, 0, 1],
    ...     lengths=[50, 20, 30, 50],
    ... )
    >>> x, y, mask = next(iter(read_npz(path).batches(4)))
    >>> x.shape, mask.sum(0).tolist()
    ((50, 4, 3), [50, 20, 30, 50])
    """
    name = path_of("read_npz", path)
    arrays = _arrays(name, ("x",), label, ("lengths",))
    x, lengths = arrays["x"], arrays.get("lengths")
    if x.dtype.kind not in "buif" or x.ndim < 3 or not x.size:
        raise DataError(
            f"{name}: x must hold numbers of shape (n, steps, channels...), got {x.dtype} of shape {brief(x.shape)}"
        )
    y = check_labels(name, "y", arrays.get("y", np.repeat(label or 0, len(x))), len(x))
    if lengths is not None and (lengths.dtype.kind not in "ui" or lengths.shape != x.shape[:1]):
        raise DataError(f"{name}: lengths must be {len(x)} integers, got {lengths.dtype} of shape {lengths.shape}")
    sequences = Sequences(name, x, y, lengths=lengths, steps=x.shape[1])
    for index in range(len(sequences)):
        if not np.isfinite(sequences.sequence(index)).all():
            raise DataError(f"{name}: x has NaN or infinite values in sequence {index}")
    return sequences


def read_npz_events(path: str | os.PathLike, *, label: int | None = None) -> Recordings:
    """Read recordings of events from your ``.npz`` file, with the events of all recordings in one array.

    =============  ==============================================================================================
    array          contents
    =============  ==============================================================================================
    ``times``      ``(events,)``, floats or integers, finite, from the start of the recording
    ``time_unit``  ``"s"``, ``"ms"`` or ``"us"``, the unit of ``times``
    ``units``      ``(events,)``, integers, the unit of each event, from 0, in C order of ``shape``
    ``shape``      ``(1,)`` or ``(3,)``, integers: number of units, or height, width and polarities of a camera
    ``offsets``    ``(n + 1,)``, integers: recording i has the events from ``offsets[i]`` on, before ``offsets[i + 1]``
    ``y``          ``(n,)``, integer labels from 0
    ``speakers``   optional, ``(n,)``, integers
    =============  ==============================================================================================

    Parameters
    ----------
    path : str or path-like
        The file.
    label : int, optional
        Label of all examples if the file has no ``y``. By default ``y`` is required.

    Returns
    -------
    Recordings
        Times are converted to microseconds, in float64.

    Raises
    ------
    DataError
        If the file is malformed. Files are read without pickle.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from spikegrad.data import Binning, read_npz_events
    >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
    >>> events = {
    ...     "times": [0.0, 1.5, 0.2],
    ...     "time_unit": "ms",
    ...     "units": [4, 0, 2],
    ...     "shape": [5],
    ... }
    >>> np.savez_compressed(path, **events, offsets=[0, 2, 3], y=[0, 1])
    >>> read_npz_events(path)[0]
    Events(times=array([   0., 1500.]), units=array([4, 0]))
    >>> read_npz_events(path).binned(Binning(steps=2, step_us=1000))[0].x.tolist()
    [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]
    """
    name = path_of("read_npz_events", path)
    arrays = _arrays(name, ("times", "time_unit", "units", "shape", "offsets"), label, ("speakers",))
    times, units, shape, offsets = (arrays[key] for key in ("times", "units", "shape", "offsets"))
    speakers = arrays.get("speakers")
    y = check_labels(name, "y", arrays.get("y", np.repeat(label or 0, max(1, offsets.size - 1))))
    for key, array, kinds, wanted in (
        ("times", times, "uif", None),
        ("units", units, "ui", times.shape),
        ("shape", shape, "ui", None),
        ("offsets", offsets, "ui", (len(y) + 1,)),
        ("speakers", speakers, "ui", y.shape),
    ):
        if array is not None:
            check_array(name, key, array, kinds, wanted)
    unit = arrays["time_unit"].tolist()
    if not isinstance(unit, str) or unit not in MICROSECONDS:
        raise DataError(f"{name}: time_unit must be one of {', '.join(MICROSECONDS)}, got {brief(unit)}")
    if len(shape) not in (1, 3) or shape.min() < 1:
        raise DataError(f"{name}: shape must be 1 or 3 integers above 0, got {brief(shape.tolist())}")
    bounds = offsets.astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != len(times) or (np.diff(bounds) < 0).any():
        raise DataError(f"{name}: offsets must rise from 0 to the number of events, {len(times)}")
    return Recordings(
        name, shape.tolist(), y, functools.partial(_part, times, units, bounds, MICROSECONDS[unit]), speakers=speakers
    )


def _arrays(
    name: str, required: tuple[str, ...], label: int | None, optional: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Read these arrays and ``y``, which is required without ``label``."""
    if label is not None:
        integer(name, "label", label)
    arrays = read_arrays(Path(name), (*required, "y", *optional))
    for key in required if label is not None else (*required, "y"):
        if key not in arrays:
            raise missing_key(name, key, arrays)
    return arrays


def _part(times: np.ndarray, units: np.ndarray, bounds: np.ndarray, microseconds: float, number: int) -> Events:
    """Return the events of one recording from the arrays of all recordings."""
    part = slice(bounds[number], bounds[number + 1])
    with np.errstate(over="ignore"):  # infinite times raise later
        return Events(times[part].astype(np.float64) * microseconds, units[part])  # float16 would overflow


FORMS = (
    own_file("x, y: sequences (n, steps, channels)", "x", read_npz),
    own_file("times, units, ...: events", "times", read_npz_events, steps=100, bin_ms=14),
)
