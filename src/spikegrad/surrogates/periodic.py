"""Periodic slopes."""

from __future__ import annotations

import math

import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import cos_turn, multiple, sin_turn, turns


class SquarewaveFourierSeries(Surrogate, pure=True):
    r"""Slope of a truncated square wave: g(x) = (4/T) Σᵢ cos((2i−1)2πx/T), i = 1…n.

    .. math:: g(x) = \frac4T \sum_{i=1}^{n} \cos\frac{(2i - 1)\,2\pi x}{T}, \qquad
              f(x) = \frac12 + \frac2\pi \sum_{i=1}^{n} \frac{1}{2i - 1} \sin\frac{(2i - 1)\,2\pi x}{T}

    Parameters
    ----------
    n : int, default 2
        Number of terms, from 1 to 128; static: another number compiles anew, the longer the more terms.
    t_period : float or array, default 8.0
        Period :math:`T`, > 0, in the units of ``x``.

    Notes
    -----
    Peak :math:`4n/T` at every multiple of :math:`T`, and its negative half-way between: the slope is negative over
    half of the line, and its area over a period is 0.

    References
    ----------
    Fang et al. 2023, "SpikingJelly: an open-source machine learning infrastructure platform for spike-based
    intelligence", Science Advances 9(40), whose ``n`` is one more than the number of terms.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import SquarewaveFourierSeries
    >>> float(jax.grad(SquarewaveFourierSeries(n=2, t_period=8.0))(0.0))
    1.0
    """

    _formula = "(4/T) Σᵢ cos((2i−1)2πx/T), i = 1…n"
    n: int = parameter(default=2, at_least=1, at_most=128, integer=True)
    t_period: Real = parameter(default=8.0, above=0)

    def surrogate_fun(self, x):
        t = turns(x, jnp.asarray(self.t_period, x.dtype))
        sine = sin_turn(t)
        total = sine
        for k in range(3, 2 * self.n, 2):  # the default's second term comes from the first, without another sine
            total += (sine * (3 - 4 * sine * sine) if k == 3 else sin_turn(multiple(t, k))) / k
        return 0.5 + 2 / math.pi * total

    def surrogate_grad(self, x):
        t = turns(x, jnp.asarray(self.t_period, x.dtype))
        cosine = cos_turn(t)
        total = cosine
        for k in range(3, 2 * self.n, 2):
            total += cosine * (4 * cosine * cosine - 3) if k == 3 else cos_turn(multiple(t, k))
        return 4 / self.t_period * total


squarewave_fourier_series = functional(SquarewaveFourierSeries)
