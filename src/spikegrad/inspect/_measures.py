"""Measures of a slope: how high it is, and how much it passes on the whole."""

from __future__ import annotations

import math

import numpy as np

from .._surrogate import Surrogate


def peak(surrogate: Surrogate) -> float:
    """The greatest slope within 20 of the threshold."""
    return float(surrogate.surrogate_grad(np.linspace(-20, 20, 80001, dtype=np.float32)).max())


def area(surrogate: Surrogate) -> float:
    """The integral of the slope: the rise of the primal from one end of the line to the other.

    Infinite if the primal rises without end, NaN if the slope is periodic.
    """
    far = np.linspace(1000, 2000, 10001, dtype=np.float32)
    if np.count_nonzero(np.diff(np.sign(surrogate.surrogate_grad(far)))) > 2:
        return math.nan
    near, end = (
        float(surrogate.surrogate_fun(np.float32(r)) - surrogate.surrogate_fun(np.float32(-r))) for r in (1e15, 1e30)
    )
    return end if abs(end - near) < 1e-3 else math.inf
