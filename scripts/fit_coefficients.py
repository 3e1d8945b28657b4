"""Fit the coefficients of the elementary functions in ``spikegrad/surrogates/_math.py``.

Each is a polynomial ``p`` within a formula, fitted so that the largest relative error of the formula is least (Remez's
exchange, in 50 digits). Printed are the fit, the coefficients in use, and the error of both before any rounding of the
arithmetic:

    exp       e^r        = 1 + r + r^2 p(r)           |r| <= 0.35
    log1p     log(1 + f) = f - f^2/2 + f^3 p(f)       sqrt(1/2) <= 1 + f <= sqrt(2)
    sin_turn  sin(2 pi t) = t (2 pi + t^2 p(t^2))     |t| <= 1/4

    python scripts/fit_coefficients.py
    python scripts/fit_coefficients.py --check

The coefficients in use are rounded to float32, which costs more than the fit is off by. With ``--check`` the exit code
is 1 where their error is more than a quarter of the rounding of one float32 operation.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mpmath
import numpy as np

from spikegrad.surrogates import _math

mp = mpmath.mp.clone()
mp.dps = 50
ALLOWED = 2.0**-26


class Function(NamedTuple):
    """``target`` is what the polynomial stands for, ``weight`` how much of its error the formula has, relatively."""

    target: Callable[[Any], Any]
    weight: Callable[[Any], Any]
    low: Any
    high: Any
    in_use: Sequence[float]


FUNCTIONS = {
    "exp": Function(
        lambda r: (mp.expm1(r) - r) / r**2,
        lambda r: r**2 / mp.exp(r),
        mp.mpf("-0.35"),
        mp.mpf("0.35"),
        _math.EXP,
    ),
    "log1p": Function(
        lambda f: (mp.log1p(f) - f + f**2 / 2) / f**3,
        lambda f: f**3 / mp.log1p(f),
        mp.sqrt(0.5) - 1,
        mp.sqrt(2) - 1,
        _math.LOG1P,
    ),
    "sin_turn": Function(
        lambda u: (mp.sin(2 * mp.pi * mp.sqrt(u)) / mp.sqrt(u) - 2 * mp.pi) / u,
        lambda u: u * mp.sqrt(u) / mp.sin(2 * mp.pi * mp.sqrt(u)),
        mp.mpf(0),
        mp.mpf(1) / 16,
        _math.SIN_TURN,
    ),
}


def fit(function: Function) -> tuple[list[Any], Any]:
    """Coefficients, the highest power first, and the least maximum of the relative error."""
    count = len(function.in_use)
    points = chebyshev(function, count + 1)
    for _ in range(50):
        rows = [[w * x**k for k in reversed(range(count))] + [(-1) ** i] for i, (x, w) in enumerate(points)]
        *coefficients, level = mp.lu_solve(mp.matrix(rows), mp.matrix([w * function.target(x) for x, w in points]))
        extremes = alternation(errors(function, coefficients))
        if max(abs(e) for e, _ in extremes) < abs(level) * (1 + mp.mpf("1e-6")):
            return coefficients, abs(level)
        points = best(extremes, count + 1)
    raise ArithmeticError("Remez's exchange did not converge")


def chebyshev(function: Function, count: int) -> list[tuple[Any, Any]]:
    """Points, dense towards the ends, and their weights."""
    middle, half = (function.low + function.high) / 2, (function.high - function.low) / 2
    points = [middle - half * mp.cos(mp.pi * (i + mp.mpf(1) / 2) / count) for i in range(count)]
    return [(x, function.weight(x)) for x in points]


def errors(function: Function, coefficients: Sequence[Any]) -> list[tuple[Any, tuple[Any, Any]]]:
    """The relative error of the formula at points over the whole interval."""
    return [(w * (function.target(x) - polynomial(coefficients, x)), (x, w)) for x, w in chebyshev(function, 1500)]


def polynomial(coefficients: Sequence[Any], x: Any) -> Any:
    return functools.reduce(lambda p, c: p * x + c, coefficients)


def alternation(found: list) -> list:
    """The largest error of each stretch of one sign."""
    extremes: list = []
    for error in found:
        if extremes and extremes[-1][0] * error[0] >= 0:
            extremes[-1] = max(extremes[-1], error, key=lambda e: abs(e[0]))
        else:
            extremes.append(error)
    return extremes


def best(extremes: list, count: int) -> list[tuple[Any, Any]]:
    """As many neighboring extremes, the smaller end left out."""
    while len(extremes) > count:
        extremes = extremes[1:] if abs(extremes[0][0]) < abs(extremes[-1][0]) else extremes[:-1]
    return [point for _, point in extremes]


def compare(function: Function) -> tuple[list[Any], float, float]:
    """The fit, its error, and the error of the coefficients in use, rounded to float32 as they are there."""
    coefficients, least = fit(function)
    used = [mp.mpf(float(np.float32(c))) for c in function.in_use]
    return coefficients, float(least), float(max(abs(e) for e, _ in errors(function, used)))


def main() -> int:
    far = []
    for name, function in FUNCTIONS.items():
        coefficients, least, used = compare(function)
        print(f"{name}: relative error {least:.2e} at least, {used:.2e} in use")
        for c, u in zip(coefficients, function.in_use, strict=True):
            print(f"  fitted {float(c):+.9e}  in use {u:+.9e}")
        if used > ALLOWED:
            far.append(name)
    print(f"further off than {ALLOWED:.1e}: {', '.join(far) or 'none'}")
    return 1 if far and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
