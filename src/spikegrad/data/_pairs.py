"""Recordings from pairs of a structured array and a label, such as the datasets of Tonic."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._accepted import DataError
from ._events import Events, Recordings


def read_pairs(
    source: Any,
    sensor_size: Sequence[int] | None = None,
    *,
    y: npt.ArrayLike | None = None,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Recordings:
    """Use a data set of another library as event recordings, such as a data set of Tonic.

    The data set must return pairs (events, label). Events are a structured array of NumPy with the
    fields ``t``, the time in microseconds, and ``x``, the place. Cameras also have ``y``, the
    second axis, and ``p``, the polarity.

    Parameters
    ----------
    source : object
        The data set: an object with ``len(source)`` and ``source[i]``, a pair (events, label).
    sensor_size : sequence of int, optional
        Width, height and number of polarities of the sensor. By default ``source.sensor_size``,
        which data sets of Tonic have.
    y : array_like, optional
        The labels ``(examples,)``, such as ``source.targets``. By default each recording is read
        once for its label, which may take long.
    name : str, optional
        A name for messages. By default the name of the class of ``source``.
    class_names : sequence of str, optional
        The names of the classes, in the order of the labels.

    Returns
    -------
    Recordings
        Recordings with units of shape ``(height, width, polarities)``, without axes of length 1.
        Events are read from ``source`` when a recording is needed.

    Raises
    ------
    DataError
        If the size of the sensor is missing, or if labels are not integers from 0. When a recording
        is read, also if it is not a structured array, or if an event is outside of the sensor.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import read_pairs
    >>> kind = [("x", int), ("y", int), ("t", int), ("p", int)]
    >>> pairs = [
    ...     (np.array([(3, 0, 10, 1)], kind), 0),
    ...     (np.array([(2, 1, 20, 0)], kind), 1),
    ... ]
    >>> recordings = read_pairs(pairs, (4, 2, 2), name="mine")
    >>> recordings
    <mine: 2 recordings, units (2, 4, 2), 2 classes>
    >>> [int(axis) for axis in np.unravel_index(recordings[0].units[0], (2, 4, 2))]
    [0, 3, 1]
    """
    name = type(source).__name__ if name is None else name
    size = sensor_size
    if size is None:
        size = getattr(source, "sensor_size", None)
    if size is None or len(size) != 3:
        raise DataError(
            f"{name}: sensor_size must be (width, height, polarities), got {size}; pass "
            "sensor_size=, with 1 for axes that the events lack"
        )
    if y is None:
        y = [source[number][1] for number in range(len(source))]
    width, height, polarities = size
    fields = {"y": height, "x": width, "p": polarities}
    # An axis of size 1 has no information. Tonic's polarity of SHD is 1, not 0.
    fields = {field: count for field, count in fields.items() if count > 1}
    read = functools.partial(_events_of, source, name, fields)
    # A sensor with a single unit keeps one axis.
    shape = tuple(fields.values()) or (1,)
    return Recordings(name, shape, y, read, class_names=class_names)


def _events_of(source: Any, name: str, fields: dict[str, int], number: int) -> Events:
    events = source[number][0]
    dtype = getattr(events, "dtype", None)
    present = getattr(dtype, "names", None) or ()
    missing = [field for field in ("t", *fields) if field not in present]
    if missing:
        raise DataError(
            f"{name}: recording {number} must be a structured array with the fields "
            f"{', '.join(('t', *fields))}, got a {type(events).__name__} without "
            f"{', '.join(missing)}; leave out transforms to frames or tensors"
        )
    times = np.asarray(events["t"]).astype(np.float64)
    units = np.zeros(len(times), np.int64)
    for field, count in fields.items():
        axis = np.asarray(events[field]).astype(np.int64)
        # An x beyond the width would otherwise be a unit of the next row.
        is_inside = (axis >= 0) & (axis < count)
        if not is_inside.all():
            raise DataError(
                f"{name}: recording {number} must have {field} from 0 to {count - 1}, got "
                f"{axis.min()} to {axis.max()}; check sensor_size"
            )
        # The index in C order: each later field changes faster.
        units = units * count + axis
    return Events(times, units)
