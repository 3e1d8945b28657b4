"""The properties of surrogates."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._pytree import PyTree
from .._rule import derivative
from .._surrogate import Surrogate, spike_types
from ._report import (
    DTYPES,
    CheckReport,
    CheckResult,
    Laws,
    NotApplicable,
    broken,
    compare,
    peak_of,
    report_of,
    trainable,
)

Curve: TypeAlias = Callable[[jax.Array], jax.Array]


# Slopes underflow far from the threshold, and users may turn this into errors.
@np.errstate(under="ignore")
def check_surrogate(
    surrogate: Surrogate, *, scale: float = 1.0, raises: bool = True
) -> CheckReport:
    r"""Check that a custom surrogate has all properties that spikegrad needs. Call it in a test of
    your surrogate.

    It checks these properties. The *slope* is the method ``surrogate_grad``, and the *smooth step*
    is ``surrogate_fun``:

    - Results have the shape and the dtype of ``x``.
    - The spike is the step. Its derivative is the slope, in forward and reverse mode, also for the
      second derivative.
    - The slope is the derivative of the smooth step, also for other values of the parameters. The
      smooth step is continuous.
    - Values are finite, except that a NaN gives NaN. The slope is accurate in float32.
    - Every parameter has a gradient (see :func:`spikegrad.learnable`).
    - Results are equal within ``jit`` and ``vmap``.

    Parameters
    ----------
    surrogate : Surrogate
        An instance of the surrogate, such as ``MySurrogate()``. Its parameters may be arrays.
    scale : float, default 1.0
        The unit of :math:`x`. Most of the slope should be at distances between about 0.02 and 4
        units from 0. So pass a larger number for a wider slope.
    raises : bool, default True
        If True, raise an error for a property that does not hold. If False, only report it.

    Returns
    -------
    CheckReport
        The result for each property, with its largest error and the place of this error. ``print``
        shows them.

    Raises
    ------
    CheckFailedError
        An ``AssertionError`` that names the first property that does not hold.
    TypeError
        If ``surrogate`` is not a surrogate, or if its spikes are random.

    Notes
    -----
    Errors are relative to the largest value of the curve, unless the note defines another
    reference. Properties that do not apply, such as those of an undefined smooth step, have the
    verdict ``n/a`` and a reason.

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
    Logistic(alpha=4.0): the slope is the derivative of the smooth step: error 3
    """
    laws = partial(_laws, surrogate, scale)
    return report_of(Surrogate, surrogate, laws, raises)


def _forward(f: Curve) -> Curve:
    return lambda x: derivative(f, x)


def _reverse(f: Curve) -> Curve:
    return jax.grad(lambda x: f(x).sum())


# Half precision is computed in float32.
_HIGHER = ("float32", "float64")


def _grid(scale: float) -> np.ndarray:
    """Return numbers of float32.

    Each second one is in the middle of its neighbors, to integrate.
    """
    # Dense near the threshold, where kinks and edges are, and sparse in the tails.
    far = np.geomspace(4, 2**10, 23)
    # Divided by 32.1, so that no point is on the edges of usual curves, such as 1/2 or 1, at which
    # two derivatives are right.
    near = np.arange(-128, 129) / 32.1
    edges = np.concatenate([-far[::-1], near, far])
    middles = (edges[1:] + edges[:-1]) / 2
    points = np.empty(len(edges) + len(middles))
    points[::2] = edges
    points[1::2] = middles
    rounded = (points * scale).astype(np.float32)
    return rounded.astype(np.float64)


def _extremes(dtype: str, scale: float) -> np.ndarray:
    info = jnp.finfo(dtype)
    smallest = float(info.tiny)  # a normal number
    largest = float(info.max)
    sizes = np.array([0, smallest, scale, largest, np.inf])
    points = np.concatenate([sizes, -sizes, [np.nan]])
    return points.astype(dtype)


class _Curves:
    """A surrogate, and its curves on a grid and at the extremes of each dtype."""

    def __init__(self, surrogate: Surrogate, scale: float) -> None:
        self.surrogate = surrogate
        self.parameters, self.rebuild = trainable(surrogate)
        self.curves = {
            "spike": surrogate,
            "slope": surrogate.surrogate_grad,
            "derivative": _reverse(surrogate),
        }
        self.without_smooth_step = surrogate._without_smooth_step()
        if not self.without_smooth_step:
            self.curves["smooth step"] = surrogate.surrogate_fun
        # Parameters may be arrays, such as one for each neuron.
        shapes = map(np.shape, self.parameters.values())
        self.trailing = np.broadcast_shapes(*shapes)
        self.at = _grid(scale)
        # The part with dense points, where an integral is exact enough.
        self.near = np.abs(self.at) <= 4 * scale
        self.points = self._with_axes(self.at)
        self.extremes = {
            dtype: self._with_axes(_extremes(dtype, scale)) for dtype in _HIGHER
        }

    def _with_axes(self, x: np.ndarray) -> np.ndarray:
        """Append the axes of the parameters."""
        ones = (1,) * len(self.trailing)
        columns = x.reshape(x.shape + ones)
        return np.broadcast_to(columns, x.shape + self.trailing)

    @cached_property
    def values(self) -> dict[str, PyTree]:
        """The values on the grid and at the extremes, and the derivatives in the parameters."""
        s = self.surrogate

        def changed(values: jax.Array) -> jax.Array:
            # A parameter of 0 changes too.
            return values + 0.01 * jnp.maximum(jnp.abs(values), 1e-3)

        # A slope that ignores one of the parameters is wrong by about 1% with other values.
        others = {name: changed(values) for name, values in self.parameters.items()}
        other = self.rebuild(others)

        def square(x):
            """Its second derivative has the first and the second derivative of the spike."""
            return s(x) ** 2 + s(x)

        def spike_and_derivative(x):
            return s(x), _reverse(s)(x)

        # A slope without smooth step may depend on the parameter itself.
        curve = "surrogate_grad" if self.without_smooth_step else "surrogate_fun"

        def influence(name, x):
            def of_parameter(value):
                surrogate = self.rebuild(others | {name: value})
                return getattr(surrogate, curve)(x)

            derivative = _forward(of_parameter)(others[name])
            return jnp.abs(derivative).max()

        # All curves that a law compares, by name.
        functions = self.curves | {
            "forward": _forward(s),
            "bend": _forward(s.surrogate_grad),
            "second": _reverse(_reverse(square)),
            "vmap": jax.vmap(spike_and_derivative),
            "in float32": lambda x: s.surrogate_grad(x.astype("float32")),
        }
        if not self.without_smooth_step:
            functions["of smooth step"] = _forward(s.surrogate_fun)
            functions["other slope"] = other.surrogate_grad
            functions["of other smooth step"] = _forward(other.surrogate_fun)
        functions |= {
            f"parameter {name}": partial(influence, name) for name in self.parameters
        }

        # One program takes less time than one for each curve.
        @jax.jit
        def run(points, extremes):
            values = {name: f(points) for name, f in functions.items()}
            for dtype, x in extremes.items():
                values[dtype] = {name: f(x) for name, f in self.curves.items()}
            return values

        return jax.device_get(run(self.points, self.extremes))


def _laws(surrogate: Surrogate, scale: float) -> Laws:
    curves = _Curves(surrogate, scale)
    for name, law in _LAWS.items():
        yield name, partial(law, curves)


def _types(c: _Curves) -> CheckResult:
    """Trace all curves. A formula that cannot be traced or differentiated fails here."""
    for dtype in DTYPES:
        x = jax.ShapeDtypeStruct((2, 3, *c.trailing), dtype)
        for name, curve in c.curves.items():
            y = jax.eval_shape(curve, x)
            if (y.shape, y.dtype) != (x.shape, x.dtype):
                return broken(
                    f"the {name} of {dtype} {list(x.shape)} is {y.dtype} {list(y.shape)}"
                )
    return CheckResult("") if c.values else broken("")


def _step(c: _Curves) -> CheckResult:
    if spike_types(c.surrogate):
        raise NotApplicable("it has another spike type")
    step = c.points >= 0
    return compare(c.values["spike"], step, 0.0, at=c.at)


def _derivative(c: _Curves) -> CheckResult:
    slope = c.values["slope"]
    # In reverse and forward mode.
    both = c.values["derivative"], c.values["forward"]
    return compare(both, (slope, slope), 1e-13, at=c.at)


def _second_derivative(c: _Curves) -> CheckResult:
    """Compare the second derivative of s**2 + s, reverse over reverse."""
    spike = c.values["spike"]
    slope = c.values["slope"]
    bend = c.values["bend"]
    # The chain rule for s^2 + s, with s' the slope and s'' its derivative.
    expected = 2 * slope**2 + (2 * spike + 1) * bend
    return compare(c.values["second"], expected, 1e-12, at=c.at)


def _smooth_step(slope: str, smooth_step: str, limit: float, c: _Curves) -> CheckResult:
    values = _with_smooth_step(c).values
    return compare(values[smooth_step], values[slope], limit, at=c.at)


def _with_smooth_step(c: _Curves) -> _Curves:
    if c.without_smooth_step:
        raise NotApplicable(f"{c.without_smooth_step} defines no surrogate_fun")
    return c


def _continuous(c: _Curves) -> CheckResult:
    """Compare the rise of the smooth step near the threshold with that of the slope, by intervals.

    The integral is Simpson's. Its error is below the width times the second difference, also where
    the slope has a kink or a jump. Far away the intervals are too wide for periodic slopes.
    """
    values = _with_smooth_step(c).values
    x = c.points[c.near]
    smooth_step = values["smooth step"][c.near]
    slope = values["slope"][c.near]
    # Simpson's rule takes two neighboring intervals together.
    left = slope[:-1:2]
    middle = slope[1::2]
    right = slope[2::2]
    width = x[2::2] - x[:-1:2]
    # From left to right of each pair of intervals.
    rise = np.diff(smooth_step[::2], axis=0)
    integral = width * (left + 4 * middle + right) / 6
    unknown = width * np.abs(left - 2 * middle + right)
    excess = np.maximum(np.abs(rise - integral) - unknown, 0)
    starts = c.at[c.near][:-1:2]
    peak = peak_of(smooth_step)
    return compare(excess, 0 * excess, 1e-6, at=starts, scale=peak)


def _parameters_matter(c: _Curves) -> CheckResult:
    """Look for parameters without a derivative of the smooth step, or of a slope without one."""
    if not c.parameters:
        raise NotApplicable(f"{type(c.surrogate).__name__} declares no parameters")
    # Not <= 0, because a derivative of NaN is wrong too.
    still = [name for name in c.parameters if not c.values[f"parameter {name}"] > 0]
    return broken(", ".join(still)) if still else CheckResult("")


def _finite(c: _Curves) -> CheckResult:
    for dtype, x in c.extremes.items():
        for name, y in c.values[dtype].items():
            is_number = ~np.isnan(y)
            # The smooth step of some surrogates grows without bound, so it may be infinite.
            is_good = is_number if name == "smooth step" else np.isfinite(y)
            is_wrong = np.where(np.isnan(x), is_number, ~is_good)
            if is_wrong.any():
                return broken(f"the {name} in {dtype}", f"x = {x[is_wrong][0]:.6g}")
    return CheckResult("")


def _accurate(c: _Curves) -> CheckResult:
    """Compare with float64 at the same numbers. Errors far below the peak do not matter."""
    exact = c.values["slope"]
    scale = np.abs(exact) + peak_of(exact) / 100
    rounded = c.values["in float32"]
    return compare(rounded, exact, 1e-4, at=c.at, scale=scale, note="relative")


def _transforms(c: _Curves) -> CheckResult:
    """Compare the spike and its derivative with those of an eager call."""
    x = jnp.asarray(c.points)
    eager = c.surrogate(x), _reverse(c.surrogate)(x)
    jit = c.values["spike"], c.values["derivative"]
    vmap = c.values["vmap"]
    return compare((jit, vmap), (eager, eager), 1e-13, at=c.at)


_LAWS = {
    "shapes and dtypes are preserved": _types,
    "the spike is the step": _step,
    "the derivative is the slope": _derivative,
    "the second derivative is the derivative of the slope": _second_derivative,
    "the slope is the derivative of the smooth step": partial(
        _smooth_step, "slope", "of smooth step", 1e-6
    ),
    "the slope is the derivative of the smooth step for other parameters": partial(
        _smooth_step, "other slope", "of other smooth step", 1e-4
    ),
    "the smooth step is continuous": _continuous,
    "every parameter has a gradient": _parameters_matter,
    "all is finite, and NaN for NaN only": _finite,
    "in float32 the slope equals float64": _accurate,
    "jit and vmap change nothing": _transforms,
}
