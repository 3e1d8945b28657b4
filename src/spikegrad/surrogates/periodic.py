"""Periodic slopes."""

from __future__ import annotations

import math

import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import cos_turn, exp, expm1_over, multiple, rise_of_exp, sin_turn, turns


class SquarewaveFourierSeries(Surrogate, pure=True):
    r"""Slope of a truncated square wave: g(x) = (4/T) Σᵢ cos((2i−1)2πx/T), i = 1…n.

    .. math:: g(x) = \frac4T \sum_{i=1}^{n} \cos\frac{(2i - 1)\,2\pi x}{T}, \qquad
              f(x) = \frac12 + \frac2\pi \sum_{i=1}^{n} \frac{1}{2i - 1} \sin\frac{(2i - 1)\,2\pi
              x}{T}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    n : int, default 2
        Number of cosines :math:`n`, from 1 to 128. Another number recompiles, and more cosines take
        longer to compile.
    t_period : float or array, default 8.0
        Period :math:`T` of the slope, above 0, in the unit of ``x``.

    Notes
    -----
    The peak of the slope is :math:`4n/T` at the threshold and at each multiple of :math:`T`. Half a
    period away, it is :math:`-4n/T`. So the slope is negative at many potentials, and its area over
    a period is 0.

    References
    ----------
    Fang et al. 2023, "SpikingJelly: an open-source machine learning infrastructure platform for
    spike-based intelligence", Science Advances 9(40). Their ``n`` is one more than the number of
    terms.

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
        t = turns(x, self.t_period)
        sine = sin_turn(t)
        total = sine
        # Odd harmonics, as of a square wave: sin(k t) / k. The default's second term, the sine of
        # three times an angle, comes from the first without another sine.
        if self.n > 1:
            total += sine * (3 - 4 * sine * sine) / 3
        for k in range(5, 2 * self.n, 2):
            total += sin_turn(multiple(t, k)) / k
        return 0.5 + 2 / math.pi * total

    def surrogate_grad(self, x):
        t = turns(x, self.t_period)
        cosine = cos_turn(t)
        total = cosine
        if self.n > 1:  # cos(3 a) = 4 cos(a)^3 - 3 cos(a)
            total += cosine * (4 * cosine * cosine - 3)
        for k in range(5, 2 * self.n, 2):
            total += cos_turn(multiple(t, k))
        return 4 / self.t_period * total


squarewave_fourier_series = functional(SquarewaveFourierSeries)


class PeriodicExp(Surrogate, pure=True):
    r"""An exponential at each multiple of T: g(x) = exp(αx) for x < 0, exp(−βd) for x ≥ 0, d from
    the nearest kT.

    .. math:: g(x) &= \begin{cases} e^{\alpha x} & x < 0 \\
              e^{-\beta |r|} & x \ge 0 \end{cases} \qquad
              r = x - k T, \quad k = \mathrm{round}(x / T) \\
              f(x) &= \begin{cases} \frac12 + \frac{e^{\alpha x} - 1}{\alpha} & x < 0 \\
              \frac12 + \frac1\beta \left[2 k \left(1 - e^{-\beta T / 2}\right)
              + \mathrm{sgn}(r) \left(1 - e^{-\beta |r|}\right)\right] & x \ge 0 \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 2.0
        Steepness :math:`\alpha` below the threshold, above 0, without a unit. With a larger number,
        the slope falls faster below the threshold.
    beta : float or array, default 2.0
        Steepness :math:`\beta` above the threshold, above 0, without a unit. With a larger number,
        the peaks are narrower.
    t_period : float or array, default 1.0
        Distance :math:`T` of two peaks, above 0, in the unit of ``x``. For neurons that spike
        several times in a time step, it is the threshold.

    Notes
    -----
    The slope has peaks of 1 at the threshold and at each multiple of :math:`T` above it, with kinks
    there and halfway between. So its area is infinite. It falls exponentially below the threshold.

    With a window :math:`w`, rockpool uses :math:`\alpha = \beta = 1/w` and the height :math:`1/T`,
    up to its largest number of spikes. Sinabs uses :math:`\beta = 2\alpha = 2/w` and another
    parameter for the height.

    References
    ----------
    Weidel, Sheik 2021, "WaveSense: efficient temporal convolutions with spiking neural networks for
    keyword spotting", arXiv:2111.01456.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import PeriodicExp
    >>> slope = jax.grad(PeriodicExp())
    >>> print(f"{slope(-0.5):.4f} {slope(0.5):.4f} {slope(3.0):.4f}")
    0.3679 0.3679 1.0000
    """

    _formula = "exp(αx) for x < 0, exp(−βd) for x ≥ 0, d from the nearest kT"
    alpha: Real = parameter(default=2.0, above=0)
    beta: Real = parameter(default=2.0, above=0)
    t_period: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        above = jnp.where(x < 0, 0, x)
        r = self._offset(above)
        half = self.t_period / 2 * jnp.ones_like(r)
        # The integral of exp(-b |y|) from 0 to r is r expm1_over(-b |r|). Whole periods before r
        # contribute two halves each.
        of_half = expm1_over(-self.beta * half)
        of_part = expm1_over(-self.beta * jnp.abs(r))
        area = (above - r) * of_half + r * of_part
        rise = rise_of_exp(self.alpha, x - above)
        return jnp.where(x < 0, rise, 0.5 + area)

    def surrogate_grad(self, x):
        # Above the threshold, the distance from the nearest multiple of the period counts.
        above = -self.beta * jnp.abs(self._offset(x))
        return exp(jnp.where(x < 0, self.alpha * x, above))

    def _offset(self, x):
        """Return the distance from the nearest multiple of the period."""
        r = self.t_period * turns(x, self.t_period)
        # Half-way, the rounding of the count is felt, and the slope has a kink.
        half = self.t_period / 2
        raised = jnp.where(r <= -half, r + self.t_period, r)
        return jnp.where(r > half, r - self.t_period, raised)
