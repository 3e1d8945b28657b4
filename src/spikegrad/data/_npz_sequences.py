"""Your sequences and recordings in ``.npz`` files of NumPy."""

from __future__ import annotations

import functools
import os

import numpy as np

from ._accepted import DataError, as_array, check_finite
from ._events import Events, Recordings
from ._forms import EVENTS, FORMS, Form
from ._npz import read_arrays
from ._sequences import Sequences

MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0}
"""Microseconds in each unit of time that a file may name."""


def read_npz(path: str | os.PathLike, *, label: int | None = None) -> Sequences:
    """Read your sequences from a ``.npz`` file, which ``numpy.savez`` writes.

    ===========  ===============================================================================
    array        contents
    ===========  ===============================================================================
    ``x``        ``(n, steps, channels)`` or ``(n, steps, height, width, channels)``: bools,
                 integers or floats, finite. Values after the length of a sequence are ignored.
    ``y``        ``(n,)``, integer labels from 0
    ``lengths``  optional, ``(n,)``, integers, the number of steps of each example
    ===========  ===============================================================================

    The file has these arrays, with n examples:

    Parameters
    ----------
    path : str or path-like
        The file to read.
    label : int, optional
        Label of all examples if the file has no ``y``. By default the file must have ``y``.

    Returns
    -------
    Sequences
        The sequences, in the dtype of the file.

    Raises
    ------
    DataError
        If the file has a wrong form. Files are read without pickle, so you can read files of
        others.

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
    required = ("x", "y") if label is None else ("x",)
    arrays = read_arrays(path, required, ("y", "lengths"))
    x = arrays["x"]
    name = str(path)
    # One label for all, for a file that is only scored.
    y = arrays["y"] if "y" in arrays else np.full(x.shape[:1], label)
    # The steps of the array and not of its longest sequence, so files of one shape are alike.
    # An array with too few axes gets the message of ``Sequences``.
    steps = x.shape[1] if x.ndim > 1 else None
    sequences = Sequences(name, x, y, lengths=arrays.get("lengths"), steps=steps)
    # One by one, because values after the end of a sequence may be NaN.
    for index in range(len(sequences)):
        check_finite(name, f"x[{index}]", sequences.sequence(index))
    return sequences


def read_npz_events(path: str | os.PathLike, *, label: int | None = None) -> Recordings:
    """Read your event recordings from a ``.npz`` file, which ``numpy.savez`` writes.

    =============  =============================================================================
    array          contents
    =============  =============================================================================
    ``times``      ``(events,)``, floats or integers, finite, from the start of the recording
    ``time_unit``  ``"s"``, ``"ms"`` or ``"us"``, the unit of ``times``
    ``units``      ``(events,)``, integers, the unit of each event, from 0, in C order of ``shape``
    ``shape``      ``(1,)`` or ``(3,)``, integers: number of units, or height, width and
                   polarities of a camera
    ``offsets``    ``(n + 1,)``, integers: recording i has the events from ``offsets[i]`` on,
                   before ``offsets[i + 1]``
    ``y``          ``(n,)``, integer labels from 0
    ``speakers``   optional, ``(n,)``, integers
    =============  =============================================================================

    Parameters
    ----------
    path : str or path-like
        The file to read.
    label : int, optional
        Label of all recordings if the file has no ``y``. By default the file must have ``y``.

    Returns
    -------
    Recordings
        The recordings. Times are converted to microseconds, in float64.

    Raises
    ------
    DataError
        If the file has a wrong form. Files are read without pickle, so you can read files of
        others.

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
    required = ("times", "time_unit", "units", "shape", "offsets")
    if label is None:
        required += ("y",)
    arrays = read_arrays(path, required, ("y", "speakers"))
    name = str(path)
    # Milliseconds and microseconds look equal, so the file must name the unit.
    unit = str(arrays["time_unit"])
    if unit not in MICROSECONDS:
        raise DataError(
            f"{name}: time_unit must be one of {', '.join(MICROSECONDS)}, got {unit!r}"
        )
    times = arrays["times"]
    units = arrays["units"]
    offsets = as_array(name, "offsets", arrays["offsets"], "ui")
    # Signed, because differences of unsigned integers are not negative.
    bounds = offsets.astype(np.int64)
    if bounds.ndim != 1 or len(bounds) < 2:
        raise DataError(
            f"{name}: offsets must have shape (n + 1,) for at least one recording, got "
            f"{bounds.shape}"
        )
    read = functools.partial(_part, times, units, bounds, MICROSECONDS[unit])
    y = arrays["y"] if "y" in arrays else np.full(len(bounds) - 1, label)
    shape = arrays["shape"].tolist()
    speakers = arrays.get("speakers")
    recordings = Recordings(name, shape, y, read, speakers=speakers)
    is_rising = (np.diff(bounds) >= 0).all()
    # All offsets are checked here, so no recording can reach into another one.
    ends = [len(bounds) - 1, bounds[0], bounds[-1]]
    if ends != [len(recordings), 0, len(times)] or not is_rising:
        raise DataError(
            f"{name}: offsets must be {len(recordings) + 1} integers that rise from 0 to the "
            f"number of events, {len(times)}"
        )
    return recordings


def _part(
    times: np.ndarray,
    units: np.ndarray,
    bounds: np.ndarray,
    microseconds: float,
    number: int,
) -> Events:
    """Return the events of one recording from the arrays of all recordings."""
    part = slice(bounds[number], bounds[number + 1])
    # float64 first: times in float16 would overflow.
    return Events(times[part].astype(np.float64) * microseconds, units[part])


FORMS += [
    Form(
        "FILE.npz",
        "x, y: sequences (n, steps, channels)",
        lambda path, *_: (read_npz(path, label=0), None),
        key="x",
    ),
    Form(
        "FILE.npz",
        "times, units, ...: events",
        lambda path, *_: (read_npz_events(path, label=0), None),
        key="times",
        options=EVENTS,
    ),
]
