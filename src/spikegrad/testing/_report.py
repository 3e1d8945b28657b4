"""A report of properties, and how one of them is judged."""

from __future__ import annotations

import builtins
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

from .._struct import as_arrays, parts_of
from .._surrogate import spike_types

HALVES = ("float16", "bfloat16")
DTYPES = (*HALVES, "float32", "float64")


class CheckResult(NamedTuple):
    """The result for one property.

    Attributes
    ----------
    property : str
        The property.
    error : float or None
        The largest error, in the unit of ``note``. It is infinite for NaN and for missing values. It is None if the
        property does not apply, with the reason in ``note``.
    limit : float
        The largest accepted error.
    at : str
        Position of the largest error.
    note : str
        The reference of the error, or the reason why the property does not apply.
    """

    property: str
    error: float | None = 0.0
    limit: float = 0.0
    at: str = ""
    note: str = ""

    @builtins.property
    def passed(self) -> bool:
        """True if the property holds."""
        return self.error is None or self.error <= self.limit


class Report(NamedTuple):
    """The results for all properties. It prints as a table.

    Attributes
    ----------
    subject : str
        The surrogate or cell.
    results : tuple of CheckResult
        One result for each property, in the order of the checks.
    """

    subject: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """True if all properties hold."""
        return all(result.passed for result in self.results)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", "property", "error", "limit", "", "")]
        for result in self.results:
            law, error, limit, at, note = result
            numbers = ("", "") if error is None else (f"{error:.1e}", f"{limit:.1e}")
            mark = "-" if error is None else "ok" if result.passed else "BROKEN"
            rows.append((mark, law, *numbers, at if error else "", note))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self.subject, *map(str.rstrip, lines)])


class CheckFailedError(AssertionError):
    """A property does not hold. The message names the first one, ``report`` has all properties."""

    def __init__(self, report: Report) -> None:
        self.report = report
        first = next(result for result in report.results if not result.passed)
        where = f" at {first.at}" if first.at else ""
        note = f", {first.note}" if first.note else ""
        super().__init__(
            f"{report.subject}: {first.property}: error {first.error:.2g}, limit {first.limit:.2g}{where}{note}"
        )

    def __reduce__(self) -> tuple[type, tuple[Report]]:
        return type(self), (self.report,)

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.report}"


def refuse_noise(owner: str, subject: Any) -> None:
    if any(kind.draws for kind in spike_types(subject)):
        raise TypeError(
            f"{owner}: {subject!r} must not be stochastic, because the check is exact; check the surrogate inside it"
        )


def reported(subject: str, results: Iterator[CheckResult], raises: bool) -> Report:
    report = Report(subject, tuple(results))
    if raises and not report.passed:
        raise CheckFailedError(report)
    return report


def compare(law: str, got: Any, expected: Any, limit: float, at: Any = None, scale: Any = 1.0, note: str = ""):
    """Return the largest difference in units of ``scale``. ``at`` has ``x`` for each entry of the leading axis.

    If a value is an error of the user's code, the result reports this error.
    """
    if broken := next((value for value in (got, expected) if isinstance(value, Exception)), None):
        return CheckResult(law, math.inf, limit, note=f"{type(broken).__name__}: {broken}".partition("\n")[0])
    got, expected = (np.asarray(v, np.float64) for v in (got, expected))
    if got.shape != expected.shape:
        return CheckResult(law, math.inf, limit, note=f"shape {got.shape} instead of {expected.shape}")
    with np.errstate(all="ignore"):
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        error = np.where(same, 0, np.abs(got - expected) / scale)
    error = np.where(np.isnan(error), np.inf, error)
    if not error.size:
        return CheckResult(law, 0.0, limit, note=note)
    worst = np.unravel_index(np.argmax(error), error.shape)
    where = "" if at is None else place(at[worst[0]])
    return CheckResult(law, float(error[worst]), limit, where, note)


def place(at: Any) -> str:
    return at if isinstance(at, str) else f"x = {float(at):.6g}"


def trainable(subject: Any) -> tuple[list, Callable[[Any], Any]]:
    """Return all parameters as float64 arrays, and a function that rebuilds the subject from such arrays."""
    leaves, tree = jax.tree.flatten(as_arrays(subject))
    which = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating)]

    def rebuild(values):
        given = dict(zip(which, values, strict=True))
        return tree.unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)])

    return [jnp.asarray(leaves[i], jnp.float64) for i in which], rebuild


def attempt(f: Callable, *args: Any) -> Any:
    """Call a function. Return its result, or the error that it raises."""
    try:
        return f(*args)
    except Exception as error:
        return error


def evaluated(curves: dict[str, Callable], x: Any) -> dict[str, Any]:
    """Evaluate all curves in one program. If it fails, evaluate each curve, and return errors as values."""
    together = attempt(jax.jit(lambda x: {name: curve(x) for name, curve in curves.items()}), x)
    if isinstance(together, Exception):
        together = {name: attempt(jax.jit(curve), x) for name, curve in curves.items()}
    return jax.device_get(together)


def peak_of(values: Any) -> float:
    if isinstance(values, Exception):
        return 1.0
    finite = np.abs(np.asarray(values, np.float64))
    return float(max(finite[np.isfinite(finite)], default=0.0)) or 1.0


def copies(subject: Any, owner: type, value: Callable[[Any], Any]) -> Iterator[CheckResult]:
    """Check that a copy, a pickle and the ``repr`` reproduce the subject. Pickles are compared by ``value``."""
    by_value = subject._frozen and not jax.tree.leaves(subject)
    why_not = "its parameters are arrays" if subject._frozen else f"{owner.__name__} has a custom __init__"
    types = {type(part).__name__: type(part) for part in parts_of(subject)}

    def is_equal(other):
        return other == subject and hash(other) == hash(subject)

    for law, again in (
        ("a copy has an equal value and hash", lambda: copy.deepcopy(subject)),
        ("the repr evaluates to an equal object", lambda: eval(repr(subject), vars(spikegrad) | types)),
    ):
        same = attempt(lambda again=again: is_equal(again()))
        yield compare(law, same, True, 0.0) if by_value else CheckResult(law, None, note=why_not)
    law, cls = "a pickle preserves values", type(subject)
    if getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is not cls:
        yield CheckResult(law, None, note=f"{cls.__qualname__} cannot be imported by its name")
        return
    pickled = attempt(lambda: value(pickle.loads(pickle.dumps(subject))))
    expected = value(subject)
    yield compare(law, pickled, expected, 1e-14, scale=peak_of(expected))
