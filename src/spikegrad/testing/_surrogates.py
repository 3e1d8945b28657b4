"""The properties of surrogates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._surrogate import Surrogate, spike_types
from ._report import (
    DTYPES,
    CheckResult,
    Laws,
    NotApplicable,
    Report,
    Results,
    broken,
    compare,
    equality_of_copies,
    evaluated,
    peak_of,
    report_of,
    trainable,
)


@np.errstate(
    under="ignore"
)  # slopes underflow far from the threshold, and users may turn this into errors
def check_surrogate(surrogate: Surrogate, *, scale: float = 1.0, raises: bool = True) -> Report:
    r"""Check all properties that the library promises for a surrogate.

    The check has these properties:

    - Shapes and dtypes are preserved.
    - The spike is the step. Its derivative is the slope, in forward and reverse mode and to the
      second order.
    - The slope is the derivative of the primal, for other values of the parameters too. The primal
      is continuous.
    - The slope rises by the integral of its derivative.
    - Values are finite, and NaN only for NaN. The slope is accurate in float32.
    - Every parameter has a gradient (see :func:`spikegrad.learnable`).
    - ``jit`` and ``vmap`` change nothing. Copies are equal.

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
    Errors are relative to the largest value of the curve, unless the note defines another
    reference. The report gives reasons for properties that do not apply, such as properties of an
    undefined primal.

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
    return report_of("check_surrogate", surrogate, lambda: _laws(surrogate, scale), raises)


def _forward(f: Callable) -> Callable:
    return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def _reverse(f: Callable) -> Callable:
    def derivative(x):
        y, pull = jax.vjp(f, x)
        return pull(jnp.ones_like(y))[0]

    return derivative


def _grid(scale: float) -> np.ndarray:
    """Return numbers of float32.

    Each second one is in the middle of its neighbors, to integrate.
    """
    far = np.geomspace(4, 2**10, 23)
    edges = np.concatenate([-far[::-1], np.arange(-128, 129) / 32.1, far])
    points = np.empty(2 * len(edges) - 1)
    points[::2], points[1::2] = edges, (edges[1:] + edges[:-1]) / 2
    return (points * scale).astype(np.float32).astype(np.float64)


def _extremes(dtype: str, scale: float) -> np.ndarray:
    info = jnp.finfo(dtype)
    sizes = np.array([0, float(info.tiny), scale, float(info.max), np.inf])
    return np.concatenate([sizes, -sizes, [np.nan]]).astype(dtype)


class _Curves(NamedTuple):
    """A surrogate and the values of its curves."""

    surrogate: Surrogate
    parameters: list[str]
    points: dict[str, np.ndarray]
    """Points with the trailing axes of the parameters: the grid, and the extremes of each dtype."""
    near: np.ndarray
    """True for points of the grid near the threshold."""
    values: Results
    """The values on the grid by name, and a dictionary of curves at the extremes of each dtype."""

    @property
    def at(self) -> np.ndarray:
        x = self.points["grid"]
        return x.reshape(len(x), -1)[:, 0]


def _curves(s: Surrogate, scale: float) -> _Curves:
    """Compute all curves in one program, which takes less time than one for each property."""
    parameters, rebuild = trainable(s)
    trailing = np.broadcast_shapes(*map(np.shape, parameters.values()))
    # other values of all parameters: a slope that ignores one of them is wrong by about 1%
    others = {name: a + 0.01 * jnp.maximum(jnp.abs(a), 1e-3) for name, a in parameters.items()}
    other = rebuild(others)
    has_primal = not s._without_primal()

    def square(x):
        """Its second derivative has the first and the second derivative of the spike as terms."""
        return s(x) ** 2 + s(x)

    def influence(name, x):
        """Return the largest derivative in a parameter."""

        def curve(value):
            changed = rebuild(others | {name: value})
            return (changed.surrogate_fun if has_primal else changed.surrogate_grad)(x)

        return jnp.abs(_forward(curve)(others[name])).max()

    curves = {"spike": s, "slope": s.surrogate_grad, "derivative": _reverse(s)}
    functions = curves | {
        "forward": _forward(s),
        "bend": _forward(s.surrogate_grad),
        "second": lambda x: (_reverse(_reverse(square))(x), _forward(_reverse(square))(x)),
        "vmap": jax.vmap(lambda x: (s(x), _reverse(s)(x))),
        "in float32": lambda x: s.surrogate_grad(x.astype("float32")),
    }
    if has_primal:
        curves["primal"] = s.surrogate_fun
        functions |= {
            "primal": s.surrogate_fun,
            "of primal": _forward(s.surrogate_fun),
            "other slope": other.surrogate_grad,
            "of other primal": _forward(other.surrogate_fun),
        }
    functions |= {f"parameter {name}": partial(influence, name) for name in parameters}

    points = {"grid": _grid(scale)} | {dtype: _extremes(dtype, scale) for dtype in _HIGHER}
    near = np.abs(points["grid"]) <= 4 * scale
    for name, x in points.items():
        columns = x.reshape(x.shape + (1,) * len(trailing))
        points[name] = np.broadcast_to(columns, x.shape + trailing)
    calls: dict[str, Callable] = {
        name: lambda points, f=f: f(points["grid"]) for name, f in functions.items()
    }
    for dtype in _HIGHER:
        calls[dtype] = lambda points, d=dtype: {name: f(points[d]) for name, f in curves.items()}
    return _Curves(s, list(parameters), points, near, evaluated(calls, points))


_HIGHER = ("float32", "float64")  # half precision is computed in float32


def _laws(s: Surrogate, scale: float) -> Laws:
    yield "shapes and dtypes are preserved", partial(_types, s)
    curves = _curves(s, scale)
    for name, law in _LAWS.items():
        yield name, partial(law, curves)


def _types(s: Surrogate) -> CheckResult:
    """Trace all curves. A formula that cannot be traced fails here."""
    curves = {"the spike": s, "the slope": s.surrogate_grad, "the gradient": _reverse(s)}
    if not s._without_primal():
        curves["the primal"] = s.surrogate_fun
    trailing = np.broadcast_shapes(*map(np.shape, trainable(s)[0].values()))
    for dtype in DTYPES:
        x = jax.ShapeDtypeStruct((2, 3, *trailing), dtype)
        for name, curve in curves.items():
            y = jax.eval_shape(curve, x)
            if (y.shape, y.dtype) != (x.shape, x.dtype):
                return broken(f"{name} of {dtype} {list(x.shape)} is {y.dtype} {list(y.shape)}")
    return CheckResult("")


def _step(c: _Curves) -> CheckResult:
    if spike_types(c.surrogate):
        raise NotApplicable("it has another spike type")
    return compare(c.values["spike"], c.points["grid"] >= 0, 0.0, at=c.at)


def _derivative(way: str, c: _Curves) -> CheckResult:
    return compare(c.values[way], c.values["slope"], 1e-13, at=c.at)


def _second_derivative(c: _Curves) -> CheckResult:
    """Compare the second derivatives of s**2 + s, reverse over reverse and forward over reverse."""
    spike, slope, bend = (c.values[name] for name in ("spike", "slope", "bend"))
    expected = 2 * slope**2 + (2 * spike + 1) * bend
    return compare(c.values["second"], (expected, expected), 1e-12, at=c.at)


def _smooth(c: _Curves) -> CheckResult:
    """Count intervals of the slope that its derivative does not explain. It may have a few jumps.

    A slope without derivative, like one behind ``stop_gradient`` or a staircase, has many.
    """
    slope = c.values["slope"]
    excess = _excess(c, slope, c.values["bend"])
    jumps = (excess > 1e-6 * peak_of(slope)).reshape(len(excess), -1).sum(0).max()
    return CheckResult("", float(jumps), _MOST_JUMPS, note="jumps")


_MOST_JUMPS = 12.0


def _continuous(c: _Curves) -> CheckResult:
    """Compare the rise of the primal with the integral of the slope."""
    primal = _with_primal(c).values["primal"]
    excess = _excess(c, primal, c.values["slope"])
    return compare(excess, 0 * excess, 1e-6, at=c.at[c.near][:-1:2], scale=peak_of(primal))


def _excess(c: _Curves, values: np.ndarray, derivative: np.ndarray) -> np.ndarray:
    """Return the change in each interval near the threshold beyond the integral of the derivative.

    The integral is Simpson's. Its error is below the width times the second difference, also where
    the derivative has a kink or a jump. Far away the intervals are too wide for periodic slopes.
    """
    x, values, derivative = (a[c.near] for a in (c.points["grid"], values, derivative))
    left, middle, right = derivative[:-1:2], derivative[1::2], derivative[2::2]
    width = x[2::2] - x[:-1:2]
    unknown = np.abs(left - 2 * middle + right)
    mean = (left + 4 * middle + right) / 6
    return np.maximum(np.abs(np.diff(values[::2], axis=0) - width * mean) - width * unknown, 0)


def _primal(slope: str, primal: str, limit: float, c: _Curves) -> CheckResult:
    return compare(_with_primal(c).values[primal], c.values[slope], limit, at=c.at)


def _with_primal(c: _Curves) -> _Curves:
    if name := c.surrogate._without_primal():
        raise NotApplicable(f"{name} defines no surrogate_fun")
    return c


def _parameters_matter(c: _Curves) -> CheckResult:
    """Look for parameters in which the primal, or a slope without primal, has no derivative."""
    if not c.parameters:
        raise NotApplicable(f"{type(c.surrogate).__name__} declares no parameters")
    still = [name for name in c.parameters if not c.values[f"parameter {name}"] > 0]
    return broken(", ".join(still)) if still else CheckResult("")


def _nan_stays(c: _Curves) -> CheckResult:
    return _at_extremes(c, lambda x, name, y: ~np.isnan(x) | np.isnan(y))


def _finite(c: _Curves) -> CheckResult:
    """The primal of some surrogates grows without bound, so that it may be infinite."""

    def is_good(x, name, y):
        return np.isnan(x) | (~np.isnan(y) if name == "primal" else np.isfinite(y))

    return _at_extremes(c, is_good)


def _at_extremes(c: _Curves, is_good: Callable[[np.ndarray, str, np.ndarray], Any]) -> CheckResult:
    for dtype in _HIGHER:
        x = c.points[dtype]
        for name, y in c.values[dtype].items():
            good = is_good(x, name, y)
            if not good.all():
                return broken(f"the {name} in {dtype}", f"x = {x[~good][0]:.6g}")
    return CheckResult("")


def _accurate(c: _Curves) -> CheckResult:
    """Compare with float64 at the same numbers. Errors far below the peak do not matter."""
    exact = c.values["slope"]
    scale = np.abs(exact) + peak_of(exact) / 100
    return compare(c.values["in float32"], exact, 1e-4, at=c.at, scale=scale, note="relative")


def _transforms(c: _Curves) -> CheckResult:
    """Compare the spike and its derivative with those of an eager call."""
    x = jnp.asarray(c.points["grid"])
    eager = c.surrogate(x), _reverse(c.surrogate)(x)
    jit = c.values["spike"], c.values["derivative"]
    return compare((jit, c.values["vmap"]), (eager, eager), 1e-13, at=c.at)


_LAWS = {
    "the spike is the step": _step,
    "the derivative is the slope": partial(_derivative, "derivative"),
    "the derivative in forward mode is the slope": partial(_derivative, "forward"),
    "the second derivative is the derivative of the slope": _second_derivative,
    "the slope rises by the integral of its derivative": _smooth,
    "the slope is the derivative of the primal": partial(_primal, "slope", "of primal", 1e-6),
    "the slope is the derivative of the primal for other parameters": partial(
        _primal, "other slope", "of other primal", 1e-4
    ),
    "the primal is continuous": _continuous,
    "every parameter has a gradient": _parameters_matter,
    "NaN stays NaN": _nan_stays,
    "all is finite at zero, the largest numbers and infinity": _finite,
    "in float32 the slope equals float64": _accurate,
    "jit and vmap change nothing": _transforms,
    "a copy has an equal value and hash": lambda c: equality_of_copies(c.surrogate),
}
