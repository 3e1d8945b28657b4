"""Measures of a slope, and surrogates with a given peak and half-width."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._checks import brief
from .._compat import in_double_precision
from .._struct import Domain, Real, as_real, is_pure
from .._surrogate import Surrogate
from ._algebra import shifted, stretched

# Points evaluated together, in one shape, so a surrogate compiles once.
_BLOCK = 2048
# Each narrows the interval to a thousandth, down to the last bits of a double.
_ZOOMS = 5


class Measures(NamedTuple):
    """The properties of the slope of a surrogate, which :func:`~spikegrad.measure` returns."""

    peak: float
    """The value of the slope with the largest absolute value. It may be negative."""
    at: float
    """The place of the peak in ``x``, the potential minus the threshold: 0 is at the threshold.

    It has an accuracy of 13 digits. If several peaks are equal, it is the peak nearest to the
    threshold.
    """
    area: float
    """The integral of the slope over all ``x``, which is the rise of the smooth step.

    It is infinite if the smooth step has no bounds. It is NaN if the surrogate has no smooth step,
    or if the slope changes its sign up to infinity.
    """
    half_width: float
    """Half of the width of the slope at half of its peak, in the unit of ``x``.

    Around the peak, the slope is at least half of the peak in an interval of twice this length. The
    half-width of ``Sigmoid(4)`` is 0.44.
    """
    support: tuple[float, float]
    """The interval of ``x`` outside of which the slope is exactly 0."""
    symmetric: bool
    """True if the slope is symmetric about the threshold."""
    tails: tuple[float, float]
    """The exponents p of the slope far below and far above the threshold, where it falls like
    :math:`|x|^{-p}`.

    They are 0 if the slope is constant there, infinite if it falls faster than any power, and NaN
    if it oscillates.
    """


def measure(surrogate: Surrogate) -> Measures:
    """Measure the slope of a surrogate: its peak, its area, its width, and how it falls far from
    the threshold.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate. Each of its parameters must be one number, and not a traced array.

    Returns
    -------
    Measures
        A record with the floats ``peak``, ``at`` (the place of the peak), ``area`` and
        ``half_width``. Also with the pairs ``support`` (the interval in which the slope is not 0)
        and ``tails`` (exponents), and the boolean ``symmetric``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, or if a parameter is traced.
    ValueError
        If a parameter is an array of several numbers.

    Notes
    -----
    All surrogates are measured numerically, in double precision. The slope is computed at distances
    from 1e-9 to 1e9 on both sides of the threshold, and then in smaller and smaller intervals. The
    area is extrapolated from the smooth step at 1e50, 1e100 and 1e150.

    Examples
    --------
    >>> from spikegrad import Arctan, measure
    >>> found = measure(Arctan(alpha=2.0))
    >>> print(f"{found.peak:.4f} {found.area:.4f} {found.half_width:.4f}")
    1.0000 1.0000 0.3183
    >>> found.support, found.symmetric
    ((-inf, inf), True)
    >>> print(*(f"{p:.4f}" for p in found.tails))
    2.0000 2.0000
    """
    if not isinstance(surrogate, Surrogate):
        raise TypeError(
            f"measure: surrogate must be a Surrogate, got {brief(surrogate)}"
        )
    for leaf in jax.tree.leaves(surrogate):
        if isinstance(leaf, Tracer):
            raise TypeError(
                f"measure: parameters must be known, got traced ones in {brief(surrogate)}"
            )
        if not isinstance(leaf, Surrogate) and np.ndim(leaf):
            raise ValueError(
                f"measure: each parameter must be one number, got {brief(surrogate)}"
            )
    # Surrogates of users may change, so only others are keys of the cache.
    if is_pure(surrogate):
        return _remembered(cast(Any, surrogate))
    return _measure(surrogate)


# Slopes underflow far from the threshold, and users may turn this into errors.
@np.errstate(under="ignore")
def _measure(surrogate: Surrogate) -> Measures:
    with in_double_precision(), jax.disable_jit(False):
        return _measured(_evaluator(surrogate), surrogate._landmarks())


# Compiling takes a tenth of a second.
_remembered = functools.lru_cache(maxsize=256)(_measure)


def _evaluator(surrogate: Surrogate) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """Return a function that evaluates slope, its derivative, and smooth step at any number of
    points.
    """
    has_smooth_step = not surrogate._without_smooth_step()

    def curves(x: jax.Array) -> tuple[jax.Array, ...]:
        # The slope is elementwise, so the direction of ones gives the derivative of each point.
        ones = jnp.ones_like(x)
        slope, second = jax.jvp(surrogate.surrogate_grad, (x,), (ones,))
        smooth_step = jnp.full_like(x, jnp.nan)
        if has_smooth_step:
            smooth_step = surrogate.surrogate_fun(x)
        return slope, second, smooth_step

    # Compiled ahead of time, so it also runs while JAX traces.
    example = jax.ShapeDtypeStruct((_BLOCK,), np.float64)
    compiled = jax.jit(curves).lower(example).compile()

    def evaluate(x: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(x, np.float64)
        # Blocks of one size, because another number of points would compile again.
        missing = -len(x) % _BLOCK
        padded = np.pad(x, (0, missing), mode="edge")
        blocks = padded.reshape(-1, _BLOCK)
        results = [jax.device_get(compiled(block)) for block in blocks]
        # From results by block and curve to one array for each curve.
        by_curve = zip(*results, strict=True)
        return tuple(np.concatenate(parts)[: len(x)] for parts in by_curve)

    return evaluate


class _Tail(NamedTuple):
    """The slope far from the threshold, on one side."""

    oscillates: bool
    """True if the sign of the slope changes up to infinity."""
    exponent: float
    """The exponent p if the slope falls like :math:`|x|^{-p}`."""


def _measured(look: Callable, x: np.ndarray) -> Measures:
    slope = look(x)[0]
    if not slope.any():
        return Measures(
            peak=0.0,
            at=0.0,
            area=0.0,
            half_width=math.nan,
            support=(0.0, 0.0),
            symmetric=True,
            tails=(math.inf, math.inf),
        )
    at, peak = _peak(look, x, slope)
    width = _reach(look, at, -1, peak) + _reach(look, at, 1, peak)
    half_width = width / 2

    def end(side: int) -> float:
        # Searched in the direction of growing distance.
        outward = side * x[::side]
        distance = _edge(look, outward, at * side, side, peak)
        return side * distance + 0.0  # adding 0 turns -0.0 into 0.0

    unit = half_width if math.isfinite(half_width) else 1.0
    below = _tail(look, at, -1, unit)
    above = _tail(look, at, 1, unit)
    oscillates = below.oscillates or above.oscillates
    area = math.nan if oscillates else _limit(look, 1) - _limit(look, -1)
    odd_part = look(x)[0] - look(-x)[0]  # 0 for a symmetric slope
    is_symmetric = (abs(odd_part) <= 1e-12 * abs(peak)).all()
    return Measures(
        peak=peak,
        at=at,
        area=area,
        half_width=half_width,
        support=(end(-1), end(1)),
        symmetric=bool(is_symmetric),
        tails=(below.exponent, above.exponent),
    )


def _last(low: Any, high: Any, holds: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the last position for which ``holds``, if it does for ``low`` and not for ``high``."""
    for _ in range(_ZOOMS):
        points = np.linspace(low, high, _BLOCK)
        held = np.flatnonzero(holds(points[:-1]))
        i = max(held, default=0)
        low, high = points[i], points[i + 1]
    return _clean(low)


def _clean(x: Any) -> float:
    return 0.0 if abs(x) < 1e-18 else float(x)


def _peak(look: Callable, x: np.ndarray, slope: np.ndarray) -> tuple[float, float]:
    def best(x: np.ndarray, size: np.ndarray) -> int:
        # Of points that are equal but for rounding, the one nearest to the threshold.
        ties = np.flatnonzero(size >= size.max() * (1 - 1e-13))
        return ties[np.argmin(abs(x[ties]))]

    i = best(x, abs(slope))
    sign = np.sign(slope[i])
    low = x[max(i - 1, 0)]
    high = x[min(i + 1, len(x) - 1)]
    # Towards a larger slope, and for a smooth peak to a zero of its derivative.
    for _ in range(_ZOOMS):
        between = np.linspace(low, high, _BLOCK - 1)
        points = np.sort(np.append(between, x[i]))
        g, second, _ = look(points)
        j = best(points, abs(g))
        # A corner or a jump on a landmark: no point beside it is larger.
        is_largest = abs(g[j]) <= abs(slope[i]) * (1 + 1e-15)
        if is_largest and x[i] in (0.0, points[j]):
            height = abs(slope).max()
            return _clean(x[i]), float(sign * height)
        rises = sign * second[:-1] > 0
        falls_after = sign * second[1:] <= 0
        maxima = np.flatnonzero(rises & falls_after)
        if maxima.size:
            nearest = np.argmin(abs(points[maxima] - points[j]))
            j = maxima[nearest]
        low = points[max(j - 1, 0)]
        high = points[min(j + 2, _BLOCK - 1)]
    # The interval is a few bits wide now.
    points = np.array([low, (low + high) / 2, high])
    g, *_ = look(points)
    height = abs(g).max()
    return _clean(points[1]), float(sign * height)


def _reach(look: Callable, at: float, side: int, peak: float) -> float:
    """Return the distance from the peak within which the slope is at least half of it."""

    def within(distance):
        return look(at + side * distance)[0] / peak >= 0.5

    # Equal steps of the logarithm, because the width is unknown by orders of magnitude.
    distance = np.geomspace(1e-12, 1e12, _BLOCK)
    outside = np.flatnonzero(~within(distance))
    if not outside.size:
        return math.inf
    first = outside[0]
    inside = distance[first - 1] if first else 0.0
    return _last(inside, distance[first], within)


def _edge(look: Callable, x: np.ndarray, at: float, side: int, peak: float) -> float:
    """Return the end of the slope in the direction ``side``."""

    def within(points):
        return look(side * points)[0] != 0

    last = np.flatnonzero(within(x))[-1]
    if last == len(x) - 1:
        return math.inf
    edge = _last(x[last], x[last + 1], within)
    # A slope that ends is of usual size just inside of its end. One that underflows is tiny there.
    inside = edge - 1e-6 * max(abs(edge - at), 1e-12)
    (slope,), *_ = look(np.array([side * inside]))
    return math.inf if abs(slope / peak) < 1e-60 else edge


def _tail(look: Callable, at: float, side: int, unit: float) -> _Tail:
    def oscillates(curve: np.ndarray) -> bool:
        changes = np.diff(np.sign(curve))
        # A few changes of sign may come from rounding.
        return bool(np.count_nonzero(changes) > 4)

    # Far outside, from 100 to 300 half-widths, a slope that falls monotonically has no change of
    # sign.
    distances = np.linspace(100, 300, _BLOCK)
    g, second, _ = look(at + side * unit * distances)
    if oscillates(g) or oscillates(second):
        return _Tail(oscillates(g), math.nan)
    for distance in (1e12, 1e9, 1e6):  # as far as the slope does not underflow
        far = at + side * unit * distance * np.array([1.0, 2.0])
        g, second, _ = look(far)
        if g.all():
            # For a slope x^-p the quotient -x g'(x) / g(x) is p.
            near, twice = -far * second / g
            # The error halves with twice the distance, so this combination cancels it.
            return _Tail(False, float(2 * twice - near) + 0.0)
    return _Tail(False, math.inf)


def _limit(look: Callable, side: int) -> float:
    """Return the limit of the smooth step."""
    distances = np.array([1e50, 1e100, 1e150])
    _, _, smooth_step = look(side * distances)
    a, b, c = smooth_step
    has_converged = abs(c - b) <= 1e-13 * abs(c)
    if has_converged or math.isnan(c):
        return float(c)
    # At distances that grow by a constant factor, a power law approaches its limit geometrically.
    # The sum of the geometric series is the rest of the way.
    ratio = (c - b) / (b - a)  # constant for a power law
    if ratio < 1 - 1e-6:
        remainder = (c - b) * ratio / (1 - ratio)
        return float(c + remainder)
    return math.copysign(math.inf, c - b)


def rescaled(
    surrogate: Surrogate, peak: Real | None = None, half_width: Real | None = None
) -> Surrogate:
    """Return a surrogate of the same shape with another height (peak) or width (half-width) of its
    slope.

    Use it to compare shapes of equal height and width. The half-width is the distance from the peak
    at which the slope has half of its peak. Papers call changes of the height dampening, and
    changes of the width sharpness.

    Parameters
    ----------
    surrogate : Surrogate
        A surrogate whose slope falls below half of its peak on both sides. :func:`measure` must
        support it.
    peak : float or array, optional
        The new peak of the slope, any finite number, without a unit. By default the peak does not
        change. It may be traced.
    half_width : float or array, optional
        The new half-width of the slope, above 0, in the unit of ``x``. By default the half-width
        does not change. It may be traced.

    Returns
    -------
    Surrogate
        The new surrogate: ``surrogate`` multiplied by a number, and :func:`stretched` about its
        peak. Its spikes do not change.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate, has traced parameters, or overrides ``__call__``.
    ValueError
        If the slope is 0, if its half-width is not finite, or if a parameter is an array of several
        numbers.

    References
    ----------
    Herranz-Celotti, Rouat 2022, "Stabilizing spiking neuron training", arXiv:2202.00282.

    Examples
    --------
    >>> from spikegrad import Arctan, SlayerGrad, measure, rescaled
    >>> for shape in (Arctan(), SlayerGrad()):
    ...     measured = measure(rescaled(shape, peak=1.0, half_width=0.3))
    ...     print(f"{measured.peak:.4f} {measured.half_width:.4f}")
    1.0000 0.3000
    1.0000 0.3000
    """
    measured = measure(surrogate)
    if half_width is not None:
        width = Domain(above=0).check("rescaled", "half_width", half_width)
        if not 0 < measured.half_width < math.inf:
            raise ValueError(
                f"rescaled: surrogate must have a finite half-width > 0, got {brief(surrogate)}"
            )
        # Of g(x / c), the half-width is c times that of g.
        factor = width / measured.half_width
        surrogate = stretched(surrogate, factor)
        if measured.at:  # keep the position of the peak
            # Stretching about the threshold moves a peak at ``at`` to ``at * factor``.
            surrogate = shifted(surrogate, measured.at * (1 - factor))
    if peak is not None:
        if not measured.peak:
            raise ValueError(
                f"rescaled: surrogate must have a slope other than 0, got {brief(surrogate)}"
            )
        surrogate = as_real("rescaled", "peak", peak) / measured.peak * surrogate
    return surrogate
