"""Periodic slopes."""

from __future__ import annotations

import math

import jax.numpy as jnp

from .._functional import functional
from .._record import Real, parameter
from .._surrogate import Surrogate
from ._parts import cos_turn, sin_turn, turns


class SquarewaveFourierSeries(Surrogate):
    r"""Slope of a truncated square wave: g(x) = (4/T) Σᵢ cos((2i−1)2πx/T), i = 1…n.

    .. math:: g(x) = \frac4T \sum_{i=1}^{n} \cos\frac{(2i - 1)\,2\pi x}{T}, \qquad
              f(x) = \frac12 + \frac2\pi \sum_{i=1}^{n} \frac{1}{2i - 1} \sin\frac{(2i - 1)\,2\pi x}{T}

    Parameters
    ----------
    n : int, default 2
        Number of terms, >= 1; static: another number compiles anew.
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

    n: int = parameter(default=2, at_least=1, integer=True)
    t_period: Real = parameter(default=8.0, above=0)

    def surrogate_fun(self, x):
        sine = sin_turn(turns(x, jnp.asarray(self.t_period, x.dtype)))
        terms = self._multiples(-sine, sine, 2 - 4 * sine * sine)
        return 0.5 + 2 / math.pi * sum((term / (2 * i + 1) for i, term in enumerate(terms)), jnp.zeros_like(x))

    def surrogate_grad(self, x):
        cosine = cos_turn(turns(x, jnp.asarray(self.t_period, x.dtype)))
        terms = self._multiples(cosine, cosine, 4 * cosine * cosine - 2)
        return 4 / self.t_period * sum(terms, jnp.zeros_like(x))

    def _multiples(self, before, at, twice):
        """Sines or cosines of the odd multiples of an angle, from those of -1 and 1 and ``2 cos`` of its double."""
        for _ in range(self.n):
            yield at
            before, at = at, twice * at - before


squarewave_fourier_series = functional(SquarewaveFourierSeries)
