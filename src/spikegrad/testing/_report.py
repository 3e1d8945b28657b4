"""Reports of properties, and tools for the functions that check one property each."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from .._compat import in_double_precision
from .._pytree import PyTree, is_real_array
from .._struct import as_arrays
from .._surrogate import spike_types

DTYPES = ("float16", "bfloat16", "float32", "float64")


class CheckResult(NamedTuple):
    """The result of a check for one property of a surrogate or a cell.

    Attributes
    ----------
    property : str
        The property, as text.
    error : float or None
        The largest error, measured as ``note`` says. It is infinite for NaN and for missing values.
        It is None if the property does not apply.
    limit : float
        The largest accepted error. The property holds if ``error`` is at most this number.
    at : str
        Place of the largest error, such as a value of x.
    note : str
        The reference of the error, such as the largest value, or the reason why the property does
        not apply.
    """

    property: str
    error: float | None = 0.0
    limit: float = 0.0
    at: str = ""
    note: str = ""

    # The field ``property`` hides the decorator of this name in the class.
    @builtins.property
    def passed(self) -> bool:
        """True if the property holds."""
        return self.error is None or self.error <= self.limit

    @builtins.property
    def verdict(self) -> str:
        """``"ok"``, ``"BROKEN"``, or ``"n/a"`` if the property does not apply."""
        if self.error is None:
            return "n/a"
        return "ok" if self.passed else "BROKEN"

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.property}: {self.note}"
        sizes = f"error {self.error:.2g}, limit {self.limit:.2g}"
        place = f" at {self.at}" if self.at else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.property}: {sizes}{place}{note}"


class CheckReport(NamedTuple):
    """The results of :func:`check_surrogate` and :func:`check_cell`. ``print`` shows a line for
    each property.

    Attributes
    ----------
    subject : str
        The surrogate or cell that was checked.
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
        lines = (f"{result.verdict:6}  {result}" for result in self.results)
        return "\n".join([self.subject, *lines])


class CheckFailedError(AssertionError):
    """The error of :func:`check_surrogate` and :func:`check_cell` if a property does not hold.
    ``report`` has all results.
    """

    def __init__(self, report: CheckReport) -> None:
        self.report = report
        first = next(result for result in report.results if not result.passed)
        super().__init__(f"{report.subject}: {first}")

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.report}"


Laws: TypeAlias = Iterator[tuple[str, Callable[[], CheckResult]]]
"""Names of properties, each with the function that checks it."""


class NotApplicable(Exception):  # noqa: N818 (it is a result, not an error)
    """A property does not apply to a class, for this reason."""


def report_of(
    kind: type, subject: PyTree, laws: Callable[[], Laws], raises: bool
) -> CheckReport:
    """Check laws one after another. If the first one does not hold, the others cannot run."""
    name = kind.__name__.lower()
    if not isinstance(subject, kind):
        raise TypeError(
            f"check_{name}: {name} must be a {kind.__name__}, got {subject!r}"
        )
    if any(spike.draws for spike in spike_types(subject)):
        raise TypeError(
            f"check_{name}: {subject!r} must not be stochastic, because the check is exact. Check "
            "the surrogate inside it"
        )
    results = []
    # Rounding in float32 would hide mistakes.
    # A user may have turned rank promotion into an error, and the checks need it.
    with in_double_precision(), jax.numpy_rank_promotion("allow"):
        for text, law in laws():
            result = _result(law)
            results.append(result._replace(property=text))
            if not results[0].passed:
                break
    report = CheckReport(repr(subject), tuple(results))
    if raises and not report.passed:
        raise CheckFailedError(report)
    return report


def _result(law: Callable[[], CheckResult]) -> CheckResult:
    try:
        return law()
    except NotApplicable as reason:
        return CheckResult("", None, note=str(reason))
    except Exception as error:  # a user's method may raise any error
        message = f"{type(error).__name__}: {error}"
        # Messages of JAX have many lines, and a report has one for each property.
        return broken(message.partition("\n")[0])


def broken(note: str, at: str = "") -> CheckResult:
    """Return the result of a property that does not hold by any measure."""
    return CheckResult("", math.inf, at=at, note=note)


def compare(
    got: PyTree,
    expected: PyTree,
    limit: float,
    *,
    at: np.ndarray | None = None,
    scale: np.ndarray | float | None = None,
    note: str = "",
) -> CheckResult:
    """Return the largest difference of two pytrees, in units of ``scale``.

    By default the unit is the largest value of each expected array. ``at`` has ``x`` for each entry
    of the leading axis. Equal infinities are equal, and so are two NaN.
    """
    worst = CheckResult("", 0.0, limit, note=note)
    expected, structure = jax.tree.flatten(expected)
    # flatten_up_to raises for another structure, which the report shows as a broken property.
    pairs = zip(structure.flatten_up_to(got), expected, strict=True)
    for a, b in pairs:
        a = _real(a)
        b = _real(b)
        unit = peak_of(b) if scale is None else scale
        # The difference of equal infinities is NaN.
        with np.errstate(all="ignore"):
            are_nan = np.isnan(a) & np.isnan(b)
            is_equal = (a == b) | are_nan
            difference = np.abs(a - b) / unit
            errors = np.where(is_equal, 0, difference)
        # No comparison with NaN is true, so a NaN error would not be found below.
        errors = np.where(np.isnan(errors), np.inf, errors)
        if errors.size and errors.max() > worst.error:
            index = np.unravel_index(np.argmax(errors), errors.shape)
            first = index[:1]  # ``at`` has a number for each index of the first axis
            place = "" if at is None else f"x = {at[first][()]:.6g}"
            worst = worst._replace(error=float(errors.max()), at=place)
    return worst


def _real(values: ArrayLike) -> np.ndarray:
    """Return the values in float64, and complex ones as pairs of their parts on a last axis."""
    array = np.asarray(values)
    if np.iscomplexobj(array):
        parts = np.real(array), np.imag(array)
        array = np.stack(parts, axis=-1)
    return np.asarray(array, np.float64)


def peak_of(values: ArrayLike) -> float:
    """Return the largest finite magnitude, or 1 without one."""
    sizes = np.abs(np.asarray(values, np.float64))
    # An infinite unit would turn all errors into 0.
    finite = sizes[np.isfinite(sizes)]
    return float(max(finite, default=0.0)) or 1.0


def trainable(
    subject: PyTree,
) -> tuple[dict[str, jax.Array], Callable[[PyTree], PyTree]]:
    """Return all parameters by name, and a function that rebuilds the subject from such arrays."""
    paths, tree = jax.tree_util.tree_flatten_with_path(as_arrays(subject))
    # A path begins with a dot: ``.alpha``.
    leaves = {jax.tree_util.keystr(path)[1:]: leaf for path, leaf in paths}
    floats = {
        name: leaf.astype(jnp.float64)
        for name, leaf in leaves.items()
        if is_real_array(leaf)
    }

    def rebuild(values: PyTree) -> PyTree:
        changed = leaves | values
        return tree.unflatten(changed.values())

    return floats, rebuild
