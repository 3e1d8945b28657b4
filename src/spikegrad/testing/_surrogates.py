"""The properties of surrogates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._compat import in_double_precision
from .._settings import learnable
from .._struct import parts_of
from .._surrogate import Surrogate, spike_types
from ._report import (
    DTYPES,
    HALVES,
    CheckResult,
    Report,
    attempt,
    compare,
    copies,
    evaluated,
    peak_of,
    place,
    refuse_noise,
    reported,
    trainable,
)


@np.errstate(under="ignore")  # slopes underflow far from the threshold, and users may turn this into errors
def check_surrogate(surrogate: Surrogate, *, scale: float = 1.0, raises: bool = True) -> Report:
    r"""Check all properties that the library promises for a surrogate.

    The check has these properties:

    - The spike is the step. Its derivative is the slope, in forward and reverse mode and to the second order.
    - The slope is the derivative of the primal, for other values of the parameters too. The primal is continuous.
    - The slope has a derivative, which finite differences confirm, and is not a staircase.
    - Values are finite, and NaN only for NaN. Shapes and dtypes are preserved, and half precision is accurate.
    - ``jit``, ``vmap``, ``scan`` and ``checkpoint`` change nothing.
    - Parameters matter and get the gradients of :func:`spikegrad.learnable`. Copies are equal.

    Parameters
    ----------
    surrogate : Surrogate
        An instance. Its parameters may be arrays.
    scale : float, default 1.0
        The unit of :math:`x`. Most of the slope should be between about 0.02 and 4 units.
    raises : bool, default True
        If True, a property that does not hold raises. Otherwise it is only in the report.

    Returns
    -------
    Report
        Each property with its largest error and the position of this error. Print it.

    Raises
    ------
    CheckFailedError
        An ``AssertionError`` that names the first property that does not hold.
    TypeError
        If ``surrogate`` is not a surrogate, or stochastic.

    Notes
    -----
    Errors are relative to the largest value of the curve, unless the note defines another reference. The report gives
    reasons for properties that do not apply, such as properties of an undefined primal.

    Examples
    --------
    >>> from spikegrad import Surrogate, parameter
    >>> from spikegrad.testing import check_surrogate
    >>> import jax
    >>> class Logistic(Surrogate):
    ...     alpha: float = parameter(default=4.0, above=0)
    ...
    ...     def surrogate_fun(self, x):
    ...         return jax.nn.sigmoid(self.alpha * x)
    ...
    ...     def surrogate_grad(self, x):
    ...         y = jax.nn.sigmoid(self.alpha * x)
    ...         return y * (1 - y)
    >>> try:
    ...     check_surrogate(Logistic())
    ... except AssertionError as error:
    ...     print(str(error).partition(", limit")[0])
    Logistic(alpha=4.0): the slope is the derivative of the primal: error 3
    """
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"check_surrogate: surrogate must be a Surrogate, got {surrogate!r}")
    refuse_noise("check_surrogate", surrogate)
    with in_double_precision(), jax.numpy_rank_promotion("allow"):
        return reported(repr(surrogate), _laws_of_surrogate(surrogate, scale), raises)


def _forward(f: Callable) -> Callable:
    return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def _reverse(f: Callable) -> Callable:
    return lambda x: (y := jax.vjp(f, x))[1](jnp.ones_like(y[0]))[0]


_STEP = 1e-6  # relative step for finite differences
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


class _Points(NamedTuple):
    """Points at which the properties are tested, each with the trailing axes of the parameters."""

    x: np.ndarray  # near the threshold and far away, in float64
    below: np.ndarray  # next to each of them
    above: np.ndarray
    edges: np.ndarray  # ends of adjacent intervals
    nodes: np.ndarray  # within them, to integrate
    halves: dict[str, np.ndarray]  # numbers of the half precisions, as float64
    extremes: dict[str, np.ndarray]  # the extreme numbers of each dtype


def _points(scale: float, trailing: tuple[int, ...]) -> _Points:
    far = np.geomspace(2**-12, 2**10, 45)
    x = np.unique(np.concatenate([-far, np.linspace(-4, 4, 257), far])) * scale
    edges = np.unique(np.concatenate([-far[far >= 4], np.linspace(-4, 4, 513), far[far >= 4]])) * scale
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    nodes = middle[:, None] + half[:, None] * _NODES
    halves = {}
    for dtype in HALVES:
        with np.errstate(invalid="ignore"):
            numbers = np.arange(2**16, dtype=np.uint16)[::7].view(jnp.dtype(dtype)).astype(np.float64)
        size = np.abs(numbers)
        normal = size >= np.finfo(np.float32).tiny  # smaller ones are zero to XLA on a CPU
        halves[dtype] = numbers[normal & (size <= 2**10 * scale)]
    extremes = {}
    for dtype in DTYPES:
        info = jnp.finfo(dtype)
        sizes = np.array([0, float(info.tiny), scale, float(info.max), np.inf])
        extremes[dtype] = np.concatenate([sizes, -sizes, [np.nan]]).astype(jnp.dtype(dtype))

    def spread(a):
        return np.broadcast_to(a.reshape(a.shape + (1,) * len(trailing)), a.shape + trailing)

    step = _STEP * np.maximum(np.abs(x), scale)
    return jax.tree.map(spread, _Points(x, x - step, x + step, edges, nodes, halves, extremes))


def _laws_of_surrogate(s: Surrogate, scale: float) -> Iterator[CheckResult]:
    leaves = trainable(s)[0]
    points = _points(scale, np.broadcast_shapes(*map(np.shape, leaves)))
    x, at = points.x, points.x.reshape(len(points.x), -1)[:, 0]
    primal = not s._without_primal()

    dtypes = _dtypes_of(s, x, primal)
    yield dtypes
    found = evaluated(_curves(s, points, primal), x)
    g, bend = found["slope"], found["of slope"]
    if isinstance(g, Exception) or isinstance(bend, Exception):
        yield compare("the slope can be differentiated", bend, g, 0.0)
        return  # without a slope the other properties cannot be compared
    if spike_types(s):
        yield CheckResult("the spike is the step", None, note="it has another spike type")
    else:
        yield compare("the spike is the step", found["spike"], x >= 0, 0.0, at, note="absolute")
    yield compare("the derivative is the slope", found["reverse"], g, 1e-13, at, peak_of(g))
    yield compare("forward mode is reverse mode", found["forward"], found["reverse"], 1e-13, at, peak_of(g))
    yield from _of_slope(found, points, scale, at)
    for way in ("second, reverse", "second, mixed"):
        yield compare(
            f"the second derivative ({way[8:]}) is the derivative of the slope",
            found[way],
            bend,
            1e-12,
            at,
            peak_of(bend),
        )
    spike = found["spike"]
    square = spike if isinstance(spike, Exception) else 2 * g**2 + 2 * spike * bend
    yield compare("the square has its second derivative", found["square"], square, 1e-12, at, peak_of(square))
    if primal:
        yield compare("the slope is the derivative of the primal", found["of primal"], g, 1e-6, at, peak_of(g))
        yield _without_jumps(found, points)
    else:
        for law in ("the slope is the derivative of the primal", "the primal is continuous"):
            yield CheckResult(law, None, note=f"{s._without_primal()} defines no surrogate_fun")
    yield from _extremes(s, points, primal, scale)
    yield from _precisions(s, points, found)
    near = np.abs(at) <= 4 * scale  # far away, a small change of a period changes a curve a lot
    yield from _parameters(s, x[near], at[near], primal)
    yield from _transforms(s, found, x, at)
    yield from copies(s, type(s), lambda other: np.asarray(other.surrogate_grad(x)))


def _curves(s: Surrogate, points: _Points, primal: bool) -> dict[str, Callable]:
    """Return all functions for comparisons in double precision."""
    curves = {
        "spike": s,
        "slope": s.surrogate_grad,
        "forward": _forward(s),
        "reverse": _reverse(s),
        "of slope": _forward(s.surrogate_grad),
        "slope below": lambda x: s.surrogate_grad(points.below),
        "slope above": lambda x: s.surrogate_grad(points.above),
        "slope at edges": lambda x: s.surrogate_grad(points.edges),
        "bend at edges": lambda x: _forward(s.surrogate_grad)(jnp.asarray(points.edges)),
        "bend at nodes": lambda x: _forward(s.surrogate_grad)(jnp.asarray(points.nodes)),
        "second, reverse": _reverse(_reverse(s)),
        "second, mixed": _forward(_reverse(s)),
        "square": _reverse(_reverse(lambda x: s(x) ** 2)),
    }
    curves |= {dtype: lambda x, at=at: s.surrogate_grad(at) for dtype, at in points.halves.items()}
    if primal:
        curves |= {
            "of primal": _forward(s.surrogate_fun),
            "primal at edges": lambda x: s.surrogate_fun(points.edges),
            "slope at nodes": lambda x: s.surrogate_grad(points.nodes),
        }
    return curves


def _dtypes_of(s: Surrogate, x: np.ndarray, primal: bool) -> CheckResult:
    law = "shapes and dtypes are preserved"
    curves = {"the spike": s, "the slope": s.surrogate_grad, "the gradient": _reverse(s)}
    if primal:
        curves["the primal"] = s.surrogate_fun
    for dtype in DTYPES:
        like = jax.ShapeDtypeStruct((2, *x.shape), dtype)
        for name, curve in curves.items():
            out = attempt(jax.eval_shape, curve, like)
            if isinstance(out, Exception):
                return compare(law, out, out, 0.0)
            if (out.shape, out.dtype) != (like.shape, like.dtype):
                where = f"{name} of {dtype} {list(like.shape)} is {out.dtype} {list(out.shape)}"
                return CheckResult(law, math.inf, note=where)
    return CheckResult(law)


def _of_slope(found: dict, points: _Points, scale: float, at: np.ndarray) -> Iterator[CheckResult]:
    """Compare the slope with finite differences: to both sides, and from edge to edge."""
    law, staircase = "the derivative of the slope equals finite differences", "the slope is not a staircase"
    values = [found[name] for name in ("slope", "slope below", "slope above", "of slope")]
    if broken := next((value for value in values if isinstance(value, Exception)), None):
        yield compare(law, broken, broken, 0.0)
        return
    g, below, above, bend = values
    sides = (g - below) / (points.x - points.below), (above - g) / (points.above - points.x)
    # At a kink any derivative between both sides is valid. They are wrong by a small part of their difference.
    near = 0.01 * np.abs(sides[0] - sides[1])
    least, most = np.minimum(*sides) - near, np.maximum(*sides) + near
    rounding = 8 * np.finfo(float).eps * peak_of(g) / (points.above - points.x)
    size = np.maximum(peak_of(g) / np.maximum(np.abs(points.x), scale), peak_of(bend)) + rounding / 1e-4
    yield compare(law, bend, np.clip(bend, least, most), 1e-4, at, size)
    beyond = _unexplained(found["slope at edges"], found["bend at edges"], found["bend at nodes"], points)
    jumps = (beyond > 1e-6 * peak_of(g)).reshape(len(beyond), -1).sum(0).max()
    yield CheckResult(staircase, float(jumps), _MOST_JUMPS, note="jumps")


_MOST_JUMPS = 12.0


def _unexplained(values: np.ndarray, ends: np.ndarray, within: np.ndarray, points: _Points) -> np.ndarray:
    """Return the change of values from edge to edge, beyond the integral of their derivative."""
    half = np.diff(points.edges, axis=0) / 2
    weights = _WEIGHTS.reshape(-1, *[1] * (points.nodes.ndim - 2))
    area = (within * weights).sum(1) * half
    highest = np.maximum(within.max(1), np.maximum(ends[1:], ends[:-1]))
    lowest = np.minimum(within.min(1), np.minimum(ends[1:], ends[:-1]))
    # the integral is inexact if the derivative jumps or changes within less than an interval
    unknown = 2 * half * (highest - lowest)
    return np.maximum(np.abs(np.diff(values, axis=0) - area) - unknown, 0)


def _without_jumps(found: dict, points: _Points) -> CheckResult:
    """Check that between any two edges the primal rises by the integral of the slope."""
    primal, ends, within = (found[name] for name in ("primal at edges", "slope at edges", "slope at nodes"))
    beyond = _unexplained(primal, ends, within, points)
    at = points.edges.reshape(len(ends), -1)[:-1, 0]
    size = max(peak_of(primal), peak_of(within))
    return compare("the primal is continuous", beyond, np.zeros_like(beyond), 1e-6, at, size)


def _extremes(s: Surrogate, points: _Points, primal: bool, scale: float) -> Iterator[CheckResult]:
    """Check zeros, the smallest and the largest numbers, infinities and NaN, in every dtype."""
    curves = {"spike": s, "slope": s.surrogate_grad, "bend": _forward(s.surrogate_grad), "gradient": _reverse(s)}
    curves |= {"primal": s.surrogate_fun} if primal else {}
    at = points.extremes
    found = evaluated({f"{n} in {d}": lambda x, f=f, d=d: f(x[d]) for d in at for n, f in curves.items()}, at)
    wrong: dict[str, tuple[str, Any]] = {}
    nan_stays, is_finite = "NaN stays NaN", "all is finite at zero, the largest numbers and infinity"
    for name, value in found.items():
        x = at[name.split()[-1]].astype(np.float64)
        value = np.full(x.shape, np.nan) if isinstance(value, Exception) else np.asarray(value, np.float64)
        if name.startswith("bend"):  # the square of a large number is infinite, but no first derivative is
            x, value = x[np.abs(x) <= scale], value[np.abs(x) <= scale]
        stays = np.isnan(value) | name.startswith("bend") | ~np.isnan(x)
        good = np.isnan(x) | (~np.isnan(value) if name.startswith("primal") else np.isfinite(value))
        for law, holds in ((nan_stays, stays), (is_finite, good)):
            if not holds.all():
                wrong.setdefault(law, (name, x[~holds].flat[0]))
    for law in (nan_stays, is_finite):
        what, where = wrong.get(law, ("", None))
        yield CheckResult(law, math.inf, at=place(where), note=what) if what else CheckResult(law)


def _precisions(s: Surrogate, points: _Points, found: dict) -> Iterator[CheckResult]:
    """Compare the slope in lower precision with double precision."""
    xs = {dtype: x.astype(jnp.dtype(dtype)) for dtype, x in points.halves.items()}
    xs["float32"] = points.x.astype(np.float32)
    curves = {dtype: lambda xs, dtype=dtype: s.surrogate_grad(xs[dtype]) for dtype in xs}
    slopes = evaluated(curves | {"float64": lambda xs: s.surrogate_grad(xs["float32"].astype(jnp.float64))}, xs)
    exact, peak = slopes["float64"], peak_of(slopes["float64"])
    law = "in float32 the slope equals float64"
    at = points.x.reshape(len(points.x), -1)[:, 0]
    # automatic derivatives of a formula that levels off subtract nearly equal numbers
    automatic = any(type(part).surrogate_grad is Surrogate.surrogate_grad for part in parts_of(s) if _is_curve(part))
    floor = peak / (100 if automatic else 1000)
    yield compare(law, slopes["float32"], exact, 1e-4, at, np.abs(exact) + floor, "relative")
    for dtype, x in points.halves.items():
        exact, info = found[dtype], jnp.finfo(dtype)
        unit = np.ldexp(float(info.eps), np.frexp(np.maximum(np.abs(exact), float(info.tiny)))[1] - 1)
        allowed = unit + 1e-5 * peak  # it is computed in float32, which has a larger error if curves cancel
        law = f"in {dtype} the slope equals rounded float64"
        yield compare(law, slopes[dtype], exact, 1.0, x.reshape(len(x), -1)[:, 0], allowed, "units in the last place")


def _is_curve(part: object) -> bool:
    return isinstance(part, Surrogate)


def _parameters(s: Surrogate, x: np.ndarray, at: np.ndarray, primal: bool) -> Iterator[CheckResult]:
    matter, learn = "every parameter matters", "learnable parameters get the derivative of the primal"
    other = "the slope is the derivative of the primal for other parameters"
    values, rebuild = trainable(s)
    if not values:
        why = "no parameters" if s._frozen else f"{type(s).__name__} has a custom __init__, so JAX sees no parameters"
        yield from (CheckResult(law, None, note=why) for law in (matter, other, learn))
        return
    paths, _ = jax.tree_util.tree_flatten_with_path(rebuild(values))
    names = [
        jax.tree_util.keystr(path)[1:]
        for path, leaf in paths
        if jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating)
    ]
    steps = [1e-5 * jnp.maximum(jnp.abs(value), 1e-3) for value in values]

    def moved(i, by, others=0.0):
        """Return the surrogate with one parameter moved by ``by`` steps, and all others by ``others`` steps."""
        far = (by if j == i else others for j in range(len(values)))
        return rebuild([value + n * step for value, n, step in zip(values, far, steps, strict=True)])

    def changes(i):
        """Return the change of the curves, and the derivative of the primal between its differences to both sides."""
        less, here, more = (moved(i, by) for by in (-1.0, 0.0, 1.0))
        pairs = (here, more), (moved(i, 0.0, 1.0), moved(i, 1.0, 1.0))  # a factor of 0 hides other parameters
        change = jnp.stack([jnp.abs(a.surrogate_grad(x) - b.surrogate_grad(x)).max() for a, b in pairs]).max()
        if not primal:
            return change, (), ()
        away = moved(i, 1000.0)
        pair = _forward(away.surrogate_fun)(jnp.asarray(x)), away.surrogate_grad(x)
        below, middle, above = (curve.surrogate_fun(x) for curve in (less, here, more))
        change = jnp.maximum(change, jnp.abs(above - middle).max())
        one = jnp.ones_like(values[i])
        learnt = jax.jvp(lambda by: learnable(moved(i, by / steps[i]))(x), (0 * one,), (one,))[1]
        sides = (above - middle) / steps[i], (middle - below) / steps[i]
        rounding = jnp.finfo(jnp.float64).eps * jnp.abs(middle) / steps[i]  # smaller values are equivalent to 0
        return change, (learnt, jnp.clip(learnt, jnp.minimum(*sides), jnp.maximum(*sides)), rounding), pair

    found = evaluated({name: lambda _, i=i: changes(i) for i, name in enumerate(names)}, 0.0)
    if broken := next((value for value in found.values() if isinstance(value, Exception)), None):
        yield compare(matter, broken, broken, 0.0)
        return
    still = [name for name, (change, *_) in found.items() if not change > 0]
    yield CheckResult(matter, math.inf if still else 0.0, note=", ".join(still))
    if not primal:
        why = f"{s._without_primal()} defines no surrogate_fun"
        yield from (CheckResult(law, None, note=why) for law in (other, learn))
        return
    pairs = {name: pair for name, (_, _, pair) in found.items()}
    # parameters have moved by 1%, and a slope that ignores one of them is wrong by about 1%
    apart = (compare(other, got, g, 1e-4, at, peak_of(g), name) for name, (got, g) in pairs.items())
    yield max(apart, key=lambda result: result.error or 0.0)
    worst = (
        compare(learn, got, near, 1e-4, at, np.maximum(peak_of(got), 1e4 * rounding), name)
        for name, (_, (got, near, rounding), _) in found.items()
    )
    yield max(worst, key=lambda result: result.error or 0.0)


def _transforms(s: Surrogate, found: dict, x: np.ndarray, at: np.ndarray) -> Iterator[CheckResult]:
    """Compare each transformation with an eager call."""
    both = lambda fire: lambda x: (fire(x), _reverse(fire)(x))  # noqa: E731
    eager = attempt(both(s), jnp.asarray(x))
    ways = {
        "vmap": jax.vmap(both(s)),
        "scan": lambda x: jax.lax.scan(lambda carry, x: (carry, both(s)(x)), 0, x)[1],
        "checkpoint": both(jax.checkpoint(s)),
    }
    for way, got in {"jit": (found["spike"], found["reverse"]), **evaluated(ways, x)}.items():
        law, error = f"{way} changes nothing", next((v for v in (got, eager) if isinstance(v, Exception)), None)
        if error is not None:
            yield compare(law, error, error, 0.0)
            continue
        spikes = compare(law, got[0], eager[0], 0.0, at)
        yield compare(law, got[1], eager[1], 1e-13, at, peak_of(eager[1])) if spikes.passed else spikes
