"""Windows of a series, to predict its next values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._accepted import DataError, as_array
from ._sequences import Sequences


def series_windows(
    name: str, series: npt.ArrayLike, steps: int, *, stride: int | None = None
) -> Sequences:
    """Cut a time series into sequences, with the next value as the target of each time step, to
    train forecasts.

    Parameters
    ----------
    name : str
        The path of the data, or another name for messages.
    series : array_like
        The series, ``(points,)`` or ``(points, channels)``.
    steps : int
        Number of time steps of a sequence, at least 1.
    stride : int, optional
        Number of points from the start of a sequence to the start of the next one. By default
        ``steps``, so sequences do not overlap. Points at the end that do not fill a sequence are
        left out.

    Returns
    -------
    Sequences
        Sequences with inputs and targets of shape ``(steps, channels)``.

    Raises
    ------
    DataError
        If ``steps`` or ``stride`` is below 1, or if the series has fewer than ``steps + 1`` points.

    Examples
    --------
    >>> from spikegrad.data import series_windows
    >>> windows = series_windows("numbers", [0.0, 1.0, 2.0, 3.0, 4.0], 2)
    >>> windows
    <numbers: 2 sequences, 2 steps, channels (1,), 1 targets a step>
    >>> x, y, _ = windows[1]
    >>> x[:, 0].tolist(), y[:, 0].tolist()
    ([2.0, 3.0], [3.0, 4.0])
    """
    values = as_array(name, "series", series)
    if values.ndim not in (1, 2):
        raise DataError(
            f"{name}: series must have shape (points,) or (points, channels), got {values.shape}"
        )
    stride = steps if stride is None else stride
    if min(steps, stride) < 1 or len(values) <= steps:
        raise DataError(
            f"{name}: steps must be from 1 to {len(values) - 1} and stride at least 1, got "
            f"steps={steps} and stride={stride}"
        )
    values = values.reshape(len(values), -1)
    # (windows, channels, steps + 1): a window and the value after it.
    views = np.lib.stride_tricks.sliding_window_view(values, steps + 1, axis=0)
    windows = views[::stride].swapaxes(1, 2)
    return Sequences(name, windows[:, :-1], windows[:, 1:])
