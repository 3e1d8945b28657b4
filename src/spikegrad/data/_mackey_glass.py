"""The Mackey-Glass series, a chaotic series to predict."""

from __future__ import annotations

import math

import numpy as np

from ._forms import FORMS, TARGETS, Form
from ._sequences import Sequences
from ._windows import series_windows

LYAPUNOV_TIME = 197.0
"""For a delay of 17, in the unit of time: errors grow by a factor of e."""
POINTS_PER_LYAPUNOV_TIME = 75
LONGEST_STEP = 0.1
"""Of the integration. The error of a step is of order 5."""


def mackey_glass(
    points: int = 1501,
    *,
    tau: float = 17.0,
    past: float = 0.7206597,
    interval: float = LYAPUNOV_TIME / POINTS_PER_LYAPUNOV_TIME,
    beta: float = 0.2,
    gamma: float = 0.1,
    exponent: float = 10.0,
) -> np.ndarray:
    r"""Generate the Mackey-Glass series [1]_, a chaotic time series to forecast, as in the
    benchmark NeuroBench [2]_.

    .. math:: \dot x(t) = \beta\, \frac{x(t - \tau)}{1 + x(t - \tau)^n} - \gamma\, x(t)

    Parameters
    ----------
    points : int, default 1501
        Number of points. NeuroBench trains on 750 points to predict the next point. The network
        then forecasts the following points from its own predictions.
    tau : float, default 17.0
        Delay :math:`\tau`, above 0. NeuroBench has series with delays from 17 to 30. Each has other
        values of ``past`` and ``interval``.
    past : float, default 0.7206597
        The value of :math:`x` at all times up to 0.
    interval : float, default 197 / 75
        Time between two points. The first point is at time 0. By default, a Lyapunov time (197 for
        a delay of 17) has 75 points. In a Lyapunov time, small errors grow by a factor of e.
    beta, gamma, exponent : float
        The numbers :math:`\beta`, :math:`\gamma` and :math:`n` of the equation.

    Returns
    -------
    numpy.ndarray
        The series ``(points,)``, float64. :func:`series_windows` cuts it into sequences.

    Notes
    -----
    Rounding errors grow by a factor of e in each Lyapunov time. So the series of two programs are
    equal for a few Lyapunov times only. To compare with published numbers, use the series that
    NeuroBench provides.

    References
    ----------
    .. [1] M. C. Mackey and L. Glass, "Oscillation and chaos in physiological control systems",
       Science 197, 287-289 (1977).
    .. [2] J. Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing
       algorithms and systems", Nature Communications 16:1545 (2025).

    Examples
    --------
    >>> from spikegrad.data import mackey_glass
    >>> series = mackey_glass(200)
    >>> print(f"{series[0]:.4f} {series.min():.2f} {series.max():.2f}")
    0.7207 0.43 1.31
    """
    # A whole number of steps for the delay, so delayed values are at steps or between two.
    lag = math.ceil(tau / LONGEST_STEP)
    step = tau / lag
    count = math.ceil((points - 1) * interval / step) + 1

    def slope(now: float, delayed: float) -> float:
        return beta * delayed / (1 + delayed**exponent) - gamma * now

    # Values and slopes at the steps, with the constant past before them. Lists, because reading a
    # number of an array takes longer.
    x = [past] * (lag + count + 1)
    slopes = [0.0] * (lag + count + 1)
    for n in range(lag, lag + count):
        now = x[n]
        then = n - lag
        delayed, next_delayed = x[then], x[then + 1]
        # The past is constant up to time 0, where the slope jumps.
        next_slope = slopes[then + 1] if n >= 2 * lag else 0.0
        middle = (delayed + next_delayed) / 2 + step / 8 * (slopes[then] - next_slope)
        slopes[n] = slope(now, delayed)
        # The classical Runge-Kutta method.
        second = slope(now + step / 2 * slopes[n], middle)
        third = slope(now + step / 2 * second, middle)
        fourth = slope(now + step * third, next_delayed)
        x[n + 1] = now + step / 6 * (slopes[n] + 2 * second + 2 * third + fourth)
    slopes[-1] = slope(x[-1], x[-1 - lag])
    x = np.array(x[lag:])
    slopes = np.array(slopes[lag:])
    # The cubic polynomial with the values and slopes at both ends of a step.
    position = np.arange(points) * interval / step
    start = np.minimum(position.astype(int), count - 1)
    t = position - start
    end = start + 1
    low, high = x[start], x[end]
    rise, fall = slopes[start], slopes[end]
    return (
        (1 + 2 * t) * (1 - t) ** 2 * low
        + t**2 * (3 - 2 * t) * high
        + step * (t * (1 - t) ** 2 * rise - t**2 * (1 - t) * fall)
    )


def _halves(path: str, steps: int, seed: int) -> tuple[Sequences, Sequences]:
    """Return windows of the first and of the second half, for any seed."""
    series = mackey_glass()
    half = len(series) // 2
    name = "Mackey-Glass"
    # The targets of the first half include the first input of the second half. Windows for the
    # training overlap, because ten windows would be too few.
    train = series_windows(name, series[: half + 1], steps, stride=1)
    return train, series_windows(name, series[half:], steps)


FORMS.append(
    Form(
        "mackey_glass",
        "a chaotic series, to predict its next values",
        _halves,
        options=TARGETS | {"steps": POINTS_PER_LYAPUNOV_TIME},
    )
)
