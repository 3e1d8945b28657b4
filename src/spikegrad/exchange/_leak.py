"""Decay factors per step, and the corresponding time constants."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import numpy as np

from .._checks import brief
from ..neurons import decay_from_tau

_DISCRETIZATIONS = ("exact", "euler")


class Leak(NamedTuple):
    r"""A discretization of the differential equation :math:`\tau \dot v = x - v`, with steps of :math:`\Delta t`.

    A step is :math:`v_t = \beta v_{t-1} + (1 - \beta) x_t`. The exact solution for an input that is constant over the
    step has :math:`\beta = e^{-\Delta t/\tau}`. Euler's method has :math:`\beta = 1 - \Delta t/\tau`.
    """

    dt: float
    discretization: str

    def tau(self, decay: np.ndarray) -> np.ndarray:
        """Return the time constant of a decay from 0, exclusive if exact, to below 1."""
        return self.dt / (1 - decay) if self.discretization == "euler" else -self.dt / np.log(decay)

    def decay(self, tau: np.ndarray) -> np.ndarray:
        """Return the decay of a time constant."""
        return np.asarray(decay_from_tau(tau, self.dt, self.discretization))


def make_leak(owner: str, dt: Any, discretization: Any) -> Leak:
    """Return the checked leak for arguments of a user."""
    if not isinstance(dt, numbers.Real) or isinstance(dt, bool):
        raise TypeError(f"{owner}: dt must be a number of seconds, got {brief(dt)}")
    try:
        seconds = float(dt)  # a comparison in float16 would overflow
    except OverflowError:
        seconds = math.inf
    if not 0 < seconds < math.inf:
        raise ValueError(f"{owner}: dt must be finite and > 0, got {brief(dt)}")
    if not isinstance(discretization, str) or discretization not in _DISCRETIZATIONS:
        allowed = " or ".join(map(repr, _DISCRETIZATIONS))
        raise ValueError(f"{owner}: discretization must be {allowed}, got {brief(discretization)}")
    return Leak(seconds, discretization)
