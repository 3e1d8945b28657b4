"""What this library holds its own surrogates and cells to, for yours: one line of a test.

>>> from spikegrad import Sigmoid
>>> from spikegrad.testing import check_surrogate
>>> check_surrogate(Sigmoid(4.0)).passed
True
"""

from __future__ import annotations

import copy
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spikegrad

from ._compat import in_double_precision
from ._forward import Stochastic
from ._struct import parts_of
from ._surrogate import Surrogate, forwards, learnable
from .network import Layer, Network
from .network._storage import read, write
from .neurons import Cell, unroll

__all__ = ["BrokenLawError", "Finding", "Report", "check_cell", "check_surrogate"]

HALVES = ("float16", "bfloat16")
DTYPES = (*HALVES, "float32", "float64")


class Finding(NamedTuple):
    """What was found of one law.

    Attributes
    ----------
    law : str
        What must hold.
    error : float or None
        The largest error, in the unit that ``note`` says; infinite if something is no number, or missing. None if the
        law does not apply, for the reason that ``note`` says.
    limit : float
        What it may be.
    at : str
        Where it was.
    note : str
        What the error is relative to, or why the law does not apply.
    """

    law: str
    error: float | None = 0.0
    limit: float = 0.0
    at: str = ""
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the law holds."""
        return self.error is None or self.error <= self.limit


class Report(NamedTuple):
    """What was found of all laws; printed, a table.

    Attributes
    ----------
    subject : str
        What was checked.
    findings : tuple of Finding
        One for each law, in the order in which they were checked.
    """

    subject: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether all laws hold."""
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", "law", "error", "limit", "", "")]
        for finding in self.findings:
            law, error, limit, at, note = finding
            numbers = ("", "") if error is None else (f"{error:.1e}", f"{limit:.1e}")
            mark = "-" if error is None else "ok" if finding.passed else "BROKEN"
            rows.append((mark, law, *numbers, at if error else "", note))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self.subject, *map(str.rstrip, lines)])


class BrokenLawError(AssertionError):
    """A law does not hold: the message names the first such law, and ``report`` has all."""

    def __init__(self, report: Report) -> None:
        self.report = report
        first = next(finding for finding in report.findings if not finding.passed)
        where = f" at {first.at}" if first.at else ""
        note = f", {first.note}" if first.note else ""
        super().__init__(
            f"{report.subject}: {first.law}: error {first.error:.2g}, limit {first.limit:.2g}{where}{note}"
        )

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.report}"


def _refuse_noise(owner: str, subject: Any) -> None:
    if any(isinstance(forward, Stochastic) for forward in forwards(subject)):
        raise TypeError(f"{owner}: {subject!r} draws its spikes, of which no law is exact: check what it is made of")


def _reported(subject: str, findings: Iterator[Finding], raises: bool) -> Report:
    report = Report(subject, tuple(findings))
    if raises and not report.passed:
        raise BrokenLawError(report)
    return report


def _compare(law: str, got: Any, expected: Any, limit: float, at: Any = None, scale: Any = 1.0, note: str = ""):
    """The largest difference in units of ``scale``; ``at`` has x of each entry of the leading axis.

    An error in place of a value, raised by the user's code, is the finding.
    """
    if broken := next((value for value in (got, expected) if isinstance(value, Exception)), None):
        return Finding(law, math.inf, limit, note=f"{type(broken).__name__}: {broken}".partition("\n")[0])
    got, expected = (np.asarray(v, np.float64) for v in (got, expected))
    if got.shape != expected.shape:
        return Finding(law, math.inf, limit, note=f"shape {got.shape} in place of {expected.shape}")
    with np.errstate(all="ignore"):
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        error = np.where(same, 0, np.abs(got - expected) / scale)
    error = np.where(np.isnan(error), np.inf, error)
    if not error.size:
        return Finding(law, 0.0, limit, note=note)
    worst = np.unravel_index(np.argmax(error), error.shape)
    where = "" if at is None else _place(at[worst[0]])
    return Finding(law, float(error[worst]), limit, where, note)


def _place(at: Any) -> str:
    return at if isinstance(at, str) else f"x = {float(at):.6g}"


def _attempt(f: Callable, *args: Any) -> Any:
    """What it returns, or the error that it raises."""
    try:
        return f(*args)
    except Exception as error:
        return error


def _peak(values: Any) -> float:
    if isinstance(values, Exception):
        return 1.0
    finite = np.abs(np.asarray(values, np.float64))
    return float(max(finite[np.isfinite(finite)], default=0.0)) or 1.0


# --- surrogates ------------------------------------------------------------------------------------------------------


def check_surrogate(surrogate: Surrogate, *, scale: float = 1.0, raises: bool = True) -> Report:
    r"""Check all that the library promises of a surrogate.

    The spike is the step; the derivative is the slope, in forward and reverse mode and to the second order; the slope
    is the derivative of the primal, which has no jumps; nothing is infinite or NaN that should not be; shapes and
    dtypes are kept, and the half precisions are as accurate as they can be; ``jit``, ``vmap``, ``scan`` and
    ``checkpoint`` change nothing; parameters matter, and get the gradients that :func:`spikegrad.learnable` promises;
    copies are equal.

    Parameters
    ----------
    surrogate : Surrogate
        An instance. Its parameters may be arrays.
    scale : float, default 1.0
        The unit of :math:`x`: the slope should live between about 0.02 and 4 of it.
    raises : bool, default True
        Whether a broken law raises. Otherwise it is in the report alone.

    Returns
    -------
    Report
        Each law with its largest error and where that was; print it.

    Raises
    ------
    BrokenLawError
        An ``AssertionError`` that names the first broken law.
    TypeError
        If ``surrogate`` is no surrogate, or stochastic.

    Notes
    -----
    Errors are relative to the largest value of the same curve, unless the note says otherwise. What does not apply,
    such as laws of a primal that is not defined, is in the report with the reason.

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
    _refuse_noise("check_surrogate", surrogate)
    with in_double_precision(), jax.numpy_rank_promotion("allow"):
        return _reported(repr(surrogate), _laws_of_surrogate(surrogate, scale), raises)


def _forward(f: Callable) -> Callable:
    return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def _reverse(f: Callable) -> Callable:
    return lambda x: (y := jax.vjp(f, x))[1](jnp.ones_like(y[0]))[0]


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


class _Points(NamedTuple):
    """Where the laws are looked at, each with the trailing axes of the parameters."""

    x: np.ndarray  # near the threshold and far away, in float64
    edges: np.ndarray  # of intervals, one after the other
    nodes: np.ndarray  # within them, to integrate
    halves: dict[str, np.ndarray]  # numbers of the half precisions, as float64
    extremes: dict[str, np.ndarray]  # of each dtype


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

    return jax.tree.map(spread, _Points(x, edges, nodes, halves, extremes))


def _laws_of_surrogate(s: Surrogate, scale: float) -> Iterator[Finding]:
    leaves = jax.tree.leaves(s) if s._frozen else []
    points = _points(scale, np.broadcast_shapes(*map(np.shape, leaves)))
    x, at = points.x, points.x.reshape(len(points.x), -1)[:, 0]
    primal = not s._without_primal()

    dtypes = _dtypes_of(s, x, primal)
    yield dtypes
    found = _run(_curves(s, points, primal), x)
    g, bend = found["slope"], found["of slope"]
    if isinstance(g, Exception) or isinstance(bend, Exception):
        yield _compare("the slope can be differentiated", bend, g, 0.0)
        return  # there is nothing to compare with
    if forwards(s):
        yield Finding("the spike is the step", None, note="it is of another kind")
    else:
        yield _compare("the spike is the step", found["spike"], x >= 0, 0.0, at, note="absolute")
    yield _compare("the derivative is the slope", found["reverse"], g, 1e-13, at, _peak(g))
    yield _compare("forward mode is reverse mode", found["forward"], found["reverse"], 1e-13, at, _peak(g))
    for way in ("second, reverse", "second, mixed"):
        yield _compare(
            f"the derivative of the derivative ({way[8:]}) is that of the slope",
            found[way],
            bend,
            1e-12,
            at,
            _peak(bend),
        )
    spike = found["spike"]
    square = spike if isinstance(spike, Exception) else 2 * g**2 + 2 * spike * bend
    yield _compare("the square has its second derivative", found["square"], square, 1e-12, at, _peak(square))
    if primal:
        yield _compare("the slope is the derivative of the primal", found["of primal"], g, 1e-6, at, _peak(g))
        yield _without_jumps(found, points)
    else:
        for law in ("the slope is the derivative of the primal", "the primal has no jumps"):
            yield Finding(law, None, note=f"{s._without_primal()} defines no surrogate_fun")
    yield from _extremes(s, points, primal)
    yield from _precisions(s, points, found)
    near = np.abs(at) <= 4 * scale  # far away, a small change of a period or a width is no small change of a curve
    yield from _parameters(s, x[near], at[near], primal)
    yield from _transforms(s, found, x, at)
    yield from _copies(s, type(s), lambda other: np.asarray(other.surrogate_grad(x)))


def _run(curves: dict[str, Callable], x: Any) -> dict[str, Any]:
    """All curves in one program, or if that fails each in its own: one that fails is answered by its error."""
    together = _attempt(jax.jit(lambda x: {name: curve(x) for name, curve in curves.items()}), x)
    if isinstance(together, Exception):
        together = {name: _attempt(jax.jit(curve), x) for name, curve in curves.items()}
    return jax.device_get(together)


def _curves(s: Surrogate, points: _Points, primal: bool) -> dict[str, Callable]:
    """All that is compared in double precision."""
    curves = {
        "spike": s,
        "slope": s.surrogate_grad,
        "forward": _forward(s),
        "reverse": _reverse(s),
        "of slope": _forward(s.surrogate_grad),
        "second, reverse": _reverse(_reverse(s)),
        "second, mixed": _forward(_reverse(s)),
        "square": _reverse(_reverse(lambda x: s(x) ** 2)),
    }
    curves |= {dtype: lambda x, at=at: s.surrogate_grad(at) for dtype, at in points.halves.items()}
    if primal:
        curves |= {
            "of primal": _forward(s.surrogate_fun),
            "primal at edges": lambda x: s.surrogate_fun(points.edges),
            "slope at edges": lambda x: s.surrogate_grad(points.edges),
            "slope at nodes": lambda x: s.surrogate_grad(points.nodes),
        }
    return curves


def _dtypes_of(s: Surrogate, x: np.ndarray, primal: bool) -> Finding:
    law = "shapes and dtypes are kept"
    curves = {"the spike": s, "the slope": s.surrogate_grad, "the gradient": _reverse(s)}
    if primal:
        curves["the primal"] = s.surrogate_fun
    for dtype in DTYPES:
        like = jax.ShapeDtypeStruct((2, *x.shape), dtype)
        for name, curve in curves.items():
            out = _attempt(jax.eval_shape, curve, like)
            if isinstance(out, Exception):
                return _compare(law, out, out, 0.0)
            if (out.shape, out.dtype) != (like.shape, like.dtype):
                where = f"{name} of {dtype} {list(like.shape)} is {out.dtype} {list(out.shape)}"
                return Finding(law, math.inf, note=where)
    return Finding(law)


def _without_jumps(found: dict, points: _Points) -> Finding:
    """Between any two edges the primal rises by the integral of the slope."""
    half = np.diff(points.edges, axis=0) / 2
    weights = _WEIGHTS.reshape(-1, *[1] * (points.nodes.ndim - 2))
    area = (found["slope at nodes"] * weights).sum(1) * half
    ends, within = found["slope at edges"], found["slope at nodes"]
    highest = np.maximum(within.max(1), np.maximum(ends[1:], ends[:-1]))
    lowest = np.minimum(within.min(1), np.minimum(ends[1:], ends[:-1]))
    rise = np.diff(found["primal at edges"], axis=0)
    # where the slope itself jumps, or changes within less than an interval, the integral is only so well known
    unknown = 2 * half * (highest - lowest)
    beyond = np.maximum(np.abs(rise - area) - unknown, 0)
    at = points.edges.reshape(len(ends), -1)[:-1, 0]
    size = max(_peak(found["primal at edges"]), _peak(within))
    return _compare("the primal has no jumps", beyond, np.zeros_like(beyond), 1e-6, at, size)


def _extremes(s: Surrogate, points: _Points, primal: bool) -> Iterator[Finding]:
    """At zeros, the least and the largest numbers, infinities and NaN, in every dtype."""
    curves = {"spike": s, "slope": s.surrogate_grad, "bend": _forward(s.surrogate_grad), "gradient": _reverse(s)}
    curves |= {"primal": s.surrogate_fun} if primal else {}
    at = points.extremes
    found = _run({f"{n} in {d}": lambda x, f=f, d=d: f(x[d]) for d in at for n, f in curves.items()}, at)
    nan_stays = finite = None
    for name, value in found.items():
        x = at[name.split()[-1]].astype(np.float64)
        value = np.full(x.shape, np.nan) if isinstance(value, Exception) else np.asarray(value, np.float64)
        stays = np.isnan(value) | name.startswith("bend") | ~np.isnan(x)
        good = np.isnan(x) | (~np.isnan(value) if name.startswith("primal") else np.isfinite(value))
        nan_stays = nan_stays or _first(~stays, name, x)
        finite = finite or _first(~good, name, x)
    yield _yes_or_no("NaN stays NaN", nan_stays)
    yield _yes_or_no("all is finite at zero, the largest numbers and infinity", finite)


def _first(wrong: np.ndarray, what: str, x: np.ndarray) -> tuple[str, str] | None:
    return (what, _place(x[wrong].flat[0])) if wrong.any() else None


def _yes_or_no(law: str, broken: tuple[str, str] | None) -> Finding:
    return Finding(law) if broken is None else Finding(law, math.inf, at=broken[1], note=broken[0])


def _precisions(s: Surrogate, points: _Points, found: dict) -> Iterator[Finding]:
    """The slope in fewer bits, against double precision."""
    xs = {dtype: x.astype(jnp.dtype(dtype)) for dtype, x in points.halves.items()}
    xs["float32"] = points.x.astype(np.float32)
    curves = {dtype: lambda xs, dtype=dtype: s.surrogate_grad(xs[dtype]) for dtype in xs}
    slopes = _run(curves | {"float64": lambda xs: s.surrogate_grad(xs["float32"].astype(jnp.float64))}, xs)
    exact, peak = slopes["float64"], _peak(slopes["float64"])
    law = "in float32 the slope is that of float64"
    at = points.x.reshape(len(points.x), -1)[:, 0]
    yield _compare(law, slopes["float32"], exact, 1e-4, at, np.abs(exact) + peak / 1000, "relative")
    for dtype, x in points.halves.items():
        exact, info = found[dtype], jnp.finfo(dtype)
        unit = np.ldexp(float(info.eps), np.frexp(np.maximum(np.abs(exact), float(info.tiny)))[1] - 1)
        allowed = unit + 1e-5 * peak  # float32, in which it is computed, has its own error where curves cancel
        law = f"in {dtype} the slope is that of float64, rounded"
        yield _compare(law, slopes[dtype], exact, 1.0, x.reshape(len(x), -1)[:, 0], allowed, "units in the last place")


def _parameters(s: Surrogate, x: np.ndarray, at: np.ndarray, primal: bool) -> Iterator[Finding]:
    matter, learn = "every parameter matters", "learnable parameters get the derivative of the primal"
    leaves, tree = jax.tree.flatten(s) if s._frozen else ([], None)
    if not leaves or tree is None:
        why = "no parameters" if s._frozen else f"{type(s).__name__} has its own __init__: JAX sees no parameters"
        yield from (Finding(law, None, note=why) for law in (matter, learn))
        return
    names = [jax.tree_util.keystr(path)[1:] for path, _ in jax.tree_util.tree_flatten_with_path(s)[0]]
    values = [jnp.asarray(leaf, jnp.float64) for leaf in leaves]
    steps = [1e-5 * jnp.maximum(jnp.abs(value), 1e-3) for value in values]

    def moved(i, by, others=0.0):
        """The surrogate with one parameter moved by so many of its steps, and all others."""
        far = (by if j == i else others for j in range(len(values)))
        return tree.unflatten([value + n * step for value, n, step in zip(values, far, steps, strict=True)])

    def changes(i):
        """How far the curves move, and the derivative of the primal between its differences to both sides."""
        less, here, more = (moved(i, by) for by in (-1.0, 0.0, 1.0))
        pairs = (here, more), (moved(i, 0.0, 1.0), moved(i, 1.0, 1.0))  # a factor of 0 hides what it multiplies
        change = jnp.stack([jnp.abs(a.surrogate_grad(x) - b.surrogate_grad(x)).max() for a, b in pairs]).max()
        if not primal:
            return change, ()
        below, middle, above = (curve.surrogate_fun(x) for curve in (less, here, more))
        change = jnp.maximum(change, jnp.abs(above - middle).max())
        one = jnp.ones_like(values[i])
        learnt = jax.jvp(lambda by: learnable(moved(i, by / steps[i]))(x), (0 * one,), (one,))[1]
        sides = (above - middle) / steps[i], (middle - below) / steps[i]
        rounding = jnp.finfo(jnp.float64).eps * jnp.abs(middle) / steps[i]  # below that of the sides it is as good as 0
        return change, (learnt, jnp.clip(learnt, jnp.minimum(*sides), jnp.maximum(*sides)), rounding)

    found = _run({name: lambda _, i=i: changes(i) for i, name in enumerate(names)}, 0.0)
    if broken := next((value for value in found.values() if isinstance(value, Exception)), None):
        yield _compare(matter, broken, broken, 0.0)
        return
    still = [name for name, (change, _) in found.items() if not change > 0]
    yield Finding(matter, math.inf if still else 0.0, note=", ".join(still))
    if not primal:
        yield Finding(learn, None, note=f"{s._without_primal()} defines no surrogate_fun")
        return
    worst = (
        _compare(learn, got, near, 1e-4, at, np.maximum(_peak(got), 1e4 * rounding), name)
        for name, (_, (got, near, rounding)) in found.items()
    )
    yield max(worst, key=lambda finding: finding.error or 0.0)


def _transforms(s: Surrogate, found: dict, x: np.ndarray, at: np.ndarray) -> Iterator[Finding]:
    """Each way of running it, against JAX without any."""
    both = lambda fire: lambda x: (fire(x), _reverse(fire)(x))  # noqa: E731
    eager = _attempt(both(s), jnp.asarray(x))
    ways = {
        "vmap": jax.vmap(both(s)),
        "scan": lambda x: jax.lax.scan(lambda carry, x: (carry, both(s)(x)), 0, x)[1],
        "checkpoint": both(jax.checkpoint(s)),
    }
    for way, got in {"jit": (found["spike"], found["reverse"]), **_run(ways, x)}.items():
        law, error = f"{way} changes nothing", next((v for v in (got, eager) if isinstance(v, Exception)), None)
        if error is not None:
            yield _compare(law, error, error, 0.0)
            continue
        spikes = _compare(law, got[0], eager[0], 0.0, at)
        yield _compare(law, got[1], eager[1], 1e-13, at, _peak(eager[1])) if spikes.passed else spikes


def _copies(subject: Any, owner: type, value: Callable[[Any], Any]) -> Iterator[Finding]:
    """A copy, a pickle and what is printed are the same again; ``value`` is what they are compared by."""
    by_value = subject._frozen and all(isinstance(leaf, (float, int)) for leaf in jax.tree.leaves(subject))
    why_not = "its parameters are arrays" if subject._frozen else f"{owner.__name__} has its own __init__"
    types = {type(part).__name__: type(part) for part in parts_of(subject)}

    def is_equal(other):
        return other == subject and hash(other) == hash(subject)

    for law, again in (
        ("a copy is equal and has the same hash", lambda: copy.deepcopy(subject)),
        ("what is printed evaluates back", lambda: eval(repr(subject), vars(spikegrad) | types)),
    ):
        same = _attempt(lambda again=again: is_equal(again()))
        yield _compare(law, same, True, 0.0) if by_value else Finding(law, None, note=why_not)
    law, cls = "a pickle gives the same values", type(subject)
    if getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is not cls:
        yield Finding(law, None, note=f"{cls.__qualname__} cannot be imported by its name")
        return
    pickled = _attempt(lambda: value(pickle.loads(pickle.dumps(subject))))
    expected = value(subject)
    yield _compare(law, pickled, expected, 1e-14, scale=_peak(expected))


# --- cells -----------------------------------------------------------------------------------------------------------


def check_cell(
    cell: Cell, *, features: int | tuple[int, ...] = 5, drive: float = 1.0, steps: int = 12, raises: bool = True
) -> Report:
    r"""Check all that the library promises of a cell.

    A step is ``integrate``, then ``fire``; shapes and dtypes are kept, from the initial state on; examples of a batch
    do not see each other, nor does a NaN pass from one to the other; ``jit``, ``vmap`` and ``scan`` change nothing;
    forward mode is reverse mode; what ``encode`` makes of a state keeps the spike, and ``decode`` gives the state back;
    and in every mode of a :class:`spikegrad.Network`, recurrent, outputs and gradients are those of an explicit loop.

    Parameters
    ----------
    cell : Cell
        An instance. Its parameters may be arrays.
    features : int or tuple of int, default 5
        The neurons, ``features`` or of shape ``features``, to which arrays among the parameters must broadcast.
    drive : float, default 1.0
        Size of the currents, in the unit of the potential: such that the cell fires in some steps and not in others.
    steps : int, default 12
        Length of the sequences.
    raises : bool, default True
        Whether a broken law raises. Otherwise it is in the report alone.

    Returns
    -------
    Report
        Each law with its largest error; print it.

    Raises
    ------
    BrokenLawError
        An ``AssertionError`` that names the first broken law.
    TypeError
        If ``cell`` is no cell, or stochastic.

    Notes
    -----
    Errors are those of float64, relative to the largest value. Modes that keep states in few bits are off by more, and
    are compared by norm: ``"half"`` within 1 %, ``"8-bit"`` within 10 %.

    Examples
    --------
    >>> from spikegrad import LIF
    >>> from spikegrad.testing import check_cell
    >>> check_cell(LIF(0.9), steps=3).passed
    True
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"check_cell: cell must be a Cell, got {cell!r}")
    _refuse_noise("check_cell", cell)
    shape = (features,) if isinstance(features, int) else tuple(features)
    with in_double_precision(), jax.numpy_rank_promotion("allow"):
        return _reported(repr(cell), _laws_of_cell(cell, shape, drive, steps), raises)


_BATCH = 3


def _laws_of_cell(cell: Cell, features: tuple[int, ...], drive: float, steps: int) -> Iterator[Finding]:
    dtypes = _dtypes_of_cell(cell, features)
    yield dtypes
    if not dtypes.passed:
        return  # it would not run
    currents = drive * np.random.default_rng(0).uniform(-0.5, 1.5, (steps, _BATCH, *features))
    start = cell.initial_state((_BATCH, *features), jnp.dtype("float64"))
    first, currents = jnp.asarray(currents[0]), jnp.asarray(currents)
    states, (outs, before) = loop = jax.jit(lambda v, currents: _loop(cell, v, currents))(start, currents)
    varied = len(np.unique(outs)) > 1
    yield Finding("it fires and is silent", 0.0 if varied else math.inf, note="" if varied else "set drive")

    def without_first(v, outs):
        return jax.tree.map(lambda a: a[1:], v), outs[:, 1:]

    def broken():
        v, (outs, _) = _loop(cell, start, currents.at[steps // 2, 0].set(jnp.nan))
        return without_first(v, outs)

    def alone(v, currents):
        v, (outs, _) = _loop(cell, v, currents)
        return v, outs

    for law, got, expected in (
        ("a step is integrate, then fire", lambda: cell(start, first), cell.fire(cell.integrate(start, first))),
        ("jit changes nothing", lambda: _loop(cell, start, currents), loop),
        ("scan changes nothing", lambda: unroll(cell, currents, start), (states, outs)),
        (
            "vmap changes nothing: examples do not see each other",
            lambda: jax.vmap(alone, (0, 1), (0, 1))(start, currents),
            (states, outs),
        ),
        ("a NaN stays in its example", broken, without_first(states, outs)),
    ):
        yield _equal(law, _attempt(got), expected)
    yield from _derivatives(cell, start, currents)
    yield from _encoding(cell, before, outs)
    yield from _modes(cell, features, drive, currents)
    yield from _copies(cell, type(cell), lambda other: np.asarray(unroll(other, currents, start)[1]))


def _loop(cell: Cell, v: Any, currents: Any) -> tuple[Any, tuple[Any, Any]]:
    """The states at the end; the outputs and the states before the spike, of all steps."""
    outs, before = [], []
    for current in currents:
        before.append(cell.integrate(v, current))
        v, out = cell.fire(before[-1])
        outs.append(out)
    return v, (jnp.stack(outs), jax.tree.map(lambda *us: jnp.stack(us), *before))


def _equal(law: str, got: Any, expected: Any) -> Finding:
    if isinstance(got, Exception):
        return _compare(law, got, expected, 1e-13)
    if jax.tree.structure(got) != jax.tree.structure(expected):
        return Finding(law, math.inf, note=f"{jax.tree.structure(got)} in place of {jax.tree.structure(expected)}")
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max((_compare(law, a, b, 1e-13, scale=_peak(b)) for a, b in pairs), key=lambda finding: finding.error or 0.0)


def _dtypes_of_cell(cell: Cell, features: tuple[int, ...]) -> Finding:
    law, shape = "shapes and dtypes are kept", (2, *features)

    def types(tree):
        return jax.tree.map(lambda leaf: f"{jnp.dtype(leaf.dtype)} {list(leaf.shape)}", tree)

    for dtype in DTYPES:

        def step(current):
            v = cell.initial_state(current.shape, current.dtype)
            return v, *cell.fire(cell.integrate(v, current))

        found = _attempt(jax.eval_shape, step, jax.ShapeDtypeStruct(shape, dtype))
        if isinstance(found, Exception):
            return _compare(law, found, found, 0.0)
        before, after, out = map(types, found)
        if after != before:
            return Finding(law, math.inf, note=f"in {dtype} the state {before} becomes {after}")
        if out != f"{dtype} {list(shape)}":
            return Finding(law, math.inf, note=f"in {dtype} the output is {out}")
    return Finding(law)


def _derivatives(cell: Cell, start: Any, currents: jax.Array) -> Iterator[Finding]:
    weights = np.cos(np.arange(currents.size)).reshape(currents.shape)
    trained, rebuild = _trained(cell)
    inputs = currents, trained
    direction = jax.tree.map(lambda a: jnp.asarray(np.cos(np.arange(a.size) + 1.0).reshape(a.shape)), inputs)

    def run(inputs):
        return (weights * _loop(rebuild(inputs[1]), start, inputs[0])[1][0]).sum()

    def along(inputs):
        return sum(map(jnp.vdot, jax.tree.leaves(jax.grad(run)(inputs)), jax.tree.leaves(direction)))

    curves = {"gradient": jax.grad(run), "reverse": along, "forward": lambda p: jax.jvp(run, (p,), (direction,))[1]}
    found = _run(curves, inputs)
    law, gradient = "gradients are finite", found["gradient"]
    if isinstance(gradient, Exception):
        yield _compare(law, gradient, gradient, 0.0)
        return
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    yield Finding(law, 0.0 if finite else math.inf)
    law, forward, reverse = "forward mode is reverse mode", found["forward"], found["reverse"]
    yield _compare(law, forward, reverse, 1e-9, scale=_peak(reverse))


def _trained(cell: Cell) -> tuple[list, Callable]:
    """The parameters as arrays, and the cell made of others."""
    leaves, tree = jax.tree.flatten(cell)
    which = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating)
    ]

    def rebuild(values):
        given = dict(zip(which, values, strict=True))
        return tree.unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)])

    return [jnp.asarray(leaves[i], jnp.float64) for i in which], rebuild


def _encoding(cell: Cell, before: Any, outs: Any) -> Iterator[Finding]:
    """What a network makes of the states of all steps in few bits, and back."""
    laws = [
        "decode is the inverse of encode",
        *(f"in mode {mode!r} the same neurons fire" for mode in ("half", "8-bit")),
    ]
    if not _encodes(cell):
        why = f"{type(cell).__name__} defines no encode: it is kept as it is"
        yield from (Finding(law, None, note=why) for law in laws)
        return
    yield _equal(laws[0], _attempt(lambda: cell.decode(*cell.encode(before))), before)
    for mode, law in zip(("half", "8-bit"), laws[1:], strict=True):

        def again(mode=mode):
            encoded = cell.encode(before)
            return cell.fire(cell.decode(*read(mode, write(mode, encoded, before), encoded)))[1]

        fires = bool(np.isin(outs, (-1, 0, 1)).all())
        yield _equal(law, _attempt(again), outs) if fires else Finding(law, None, note="it does not fire")


def _encodes(cell: Cell) -> bool:
    return type(cell).encode is not Cell.encode


def _modes(cell: Cell, features: tuple[int, ...], drive: float, currents: jax.Array) -> Iterator[Finding]:
    """A recurrent layer in a network against a loop, with the gradient of inputs, weights and parameters."""
    rng = np.random.default_rng(1)
    scale = drive * rng.uniform(0.5, 1.0, features), drive * rng.uniform(-0.5, 0.5, features)
    weights = np.cos(np.arange(currents.size)).reshape(currents.shape)
    trained, rebuild = _trained(cell)
    inputs = currents / drive, *map(jnp.asarray, scale), trained

    def by_hand(inputs):
        x, w, r, parameters = inputs
        mine = rebuild(parameters)
        v, out, outs = mine.initial_state(x.shape[1:], x.dtype), jnp.zeros_like(x[0]), []
        for current in x:
            v, out = mine.fire(mine.integrate(v, w * current + r * out))
            outs.append(out)
        return jnp.stack(outs)

    def by_network(mode):
        def run(inputs):
            x, w, r, parameters = inputs
            multiply = jax.tree_util.Partial(jnp.multiply)
            layer = Layer(jax.tree_util.Partial(multiply, w), rebuild(parameters), jax.tree_util.Partial(multiply, r))
            return Network([layer])(x, mode=mode)[1]

        return run

    def value_and_gradient(run):
        def loss(inputs):
            outs = run(inputs)
            return (weights * outs).sum(), outs

        (_, outs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)
        return np.asarray(outs), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

    expected, slopes = value_and_gradient(by_hand)
    modes = {"exact": 1e-9, "recompute": 1e-9, "scan": 1e-9} | ({"half": 1e-2, "8-bit": 0.1} if _encodes(cell) else {})
    for mode, limit in modes.items():
        values, gradients = (f"in mode {mode!r} {what} are those of a loop" for what in ("outputs", "gradients"))
        found = _attempt(value_and_gradient, by_network(mode))
        if isinstance(found, Exception):
            yield _compare(values, found, expected, 1e-9)
            continue
        yield _compare(values, found[0], expected, 1e-9, scale=_peak(expected))
        size = np.linalg.norm(slopes) or 1.0
        yield _compare(gradients, np.linalg.norm(found[1] - slopes) / size, 0.0, limit, note="by norm")
