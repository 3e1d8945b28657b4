"""Bumps around the threshold whose area is not fixed: Gaussians, exponentials and power laws."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.lax import erfc

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import bounded, exp, from_tail, log1p, shortcut, signed


def _normal(z):
    """Density of the standard normal distribution."""
    z = bounded(z, 40)
    return exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _normal_tail(z):
    """Probability that a standard normal variable is above z."""
    return erfc(bounded(z, 40) / math.sqrt(2)) / 2


class GaussianGrad(Surrogate, pure=True):
    r"""Gaussian of any width and height: g(x) = α/(σ√(2π)) exp(−x²/(2σ²)).

    .. math:: g(x) = \frac{\alpha}{\sigma\sqrt{2\pi}}\, e^{-x^2/(2\sigma^2)}, \qquad
              f(x) = \frac12 + \alpha\left(\Phi\left(\frac{x}{\sigma}\right) - \frac12\right)

    with :math:`\Phi` the cumulative distribution of the standard normal distribution.

    Parameters
    ----------
    sigma : float or array, default 0.5
        Standard deviation, > 0, in the units of ``x``.
    alpha : float or array, default 0.5
        Area, finite, dimensionless.

    Notes
    -----
    Peak :math:`\alpha/(\sigma\sqrt{2\pi})` at 0, area :math:`\alpha`.

    References
    ----------
    Yin, Corradi, Bohté 2021, "Accurate and efficient time-domain classification with adaptive spiking recurrent neural
    networks", Nature Machine Intelligence 3:905-913.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import GaussianGrad
    >>> print(f"{jax.grad(GaussianGrad(sigma=0.5, alpha=0.5))(0.0):.6f}")
    0.398942
    """

    sigma: Real = parameter(default=0.5, above=0)
    alpha: Real = parameter(default=0.5)

    def surrogate_fun(self, x):
        tail = self.alpha * _normal_tail(jnp.abs(x) / self.sigma)
        return from_tail(x, (1 - self.alpha) / 2 + tail)

    def surrogate_grad(self, x):
        return self.alpha / self.sigma * _normal(x / self.sigma)


gaussian_grad = functional(GaussianGrad)


class MultiGaussianGrad(Surrogate, pure=True):
    r"""Gaussian with negative flanks: g(x) = scale·[(1+h) N(x;0,σ²) − h N(x;σ,(sσ)²) − h N(x;−σ,(sσ)²)].

    .. math:: g(x) &= \mathrm{scale}\left[(1 + h)\,\mathcal N(x; 0, \sigma^2) - h\,\mathcal N(x; \sigma, (s\sigma)^2)
              - h\,\mathcal N(x; -\sigma, (s\sigma)^2)\right] \\
              f(x) &= \frac12 + \mathrm{scale}\left[(1 + h)\left(\Phi\left(\tfrac{x}{\sigma}\right) - \tfrac12\right)
              - h\left(\Phi\left(\tfrac{x - \sigma}{s\sigma}\right) + \Phi\left(\tfrac{x + \sigma}{s\sigma}\right)
              - 1\right)\right]

    Parameters
    ----------
    h : float or array, default 0.15
        Weight of the flanks, finite, dimensionless.
    s : float or array, default 6.0
        Width of the flanks, in units of ``sigma``, > 0.
    sigma : float or array, default 0.5
        Standard deviation of the central bump, > 0, in the units of ``x``.
    scale : float or array, default 0.5
        Factor of the whole, finite, dimensionless.

    Notes
    -----
    Area :math:`\mathrm{scale}\,(1 - h)`. For :math:`h > 0` and :math:`s > 1` the slope is negative far from the
    threshold, and the primal is not monotone.

    References
    ----------
    Yin, Corradi, Bohté 2021, "Accurate and efficient time-domain classification with adaptive spiking recurrent neural
    networks", Nature Machine Intelligence 3:905-913.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import MultiGaussianGrad
    >>> print(f"{jax.grad(MultiGaussianGrad())(0.0):.4f} {jax.grad(MultiGaussianGrad())(2.0):.4f}")
    0.4391 -0.0157
    """

    h: Real = parameter(default=0.15)
    s: Real = parameter(default=6.0, above=0)
    sigma: Real = parameter(default=0.5, above=0)
    scale: Real = parameter(default=0.5)

    def surrogate_fun(self, x):
        a = jnp.abs(x)
        wide = self.s * self.sigma
        center = _normal_tail(a / self.sigma)
        flanks = _normal_tail((a - self.sigma) / wide) + _normal_tail((a + self.sigma) / wide)
        tail = self.scale * ((1 + self.h) * center - self.h * flanks)
        return from_tail(x, (1 - self.scale * (1 - self.h)) / 2 + tail)

    def surrogate_grad(self, x):
        a = jnp.abs(x)  # even to the last bit
        wide = self.s * self.sigma
        end = 40 * (self.sigma + wide)  # all three have long been 0
        a = jnp.where(a > end, end, a)

        def bump(offset, width):
            z = (a + offset) / width
            return exp(-0.5 * z * z)

        flanks = bump(-self.sigma, wide) + bump(self.sigma, wide)
        of_center, of_flanks = (1 + self.h) / self.sigma, self.h / wide
        factor = self.scale / math.sqrt(2 * math.pi)
        return factor * of_center * bump(0, self.sigma) - factor * of_flanks * flanks


multi_gaussian_grad = functional(MultiGaussianGrad)


class SlayerGrad(Surrogate, pure=True):
    r"""Two-sided exponential of peak 1: g(x) = exp(−α|x|).

    .. math:: g(x) = e^{-\alpha |x|}, \qquad f(x) = \frac12 + \mathrm{sgn}(x)\,\frac{1 - e^{-\alpha |x|}}{\alpha}

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness, > 0, dimensionless. An array broadcasts to ``x``.

    Notes
    -----
    Peak 1 at 0, a kink there; area :math:`2/\alpha`. :class:`PiecewiseExp` is the same shape with area 1.

    References
    ----------
    Shrestha, Orchard 2018, "SLAYER: spike layer error reassignment in time", NeurIPS 31:1412-1421.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import SlayerGrad
    >>> print(f"{jax.grad(SlayerGrad(alpha=2.0))(-0.5):.4f}")
    0.3679
    """

    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return 0.5 - signed(x, jnp.expm1(-self.alpha * jnp.abs(x))) / self.alpha

    def surrogate_grad(self, x):
        return exp(-self.alpha * jnp.abs(x))


slayer_grad = functional(SlayerGrad)


class InvSquareGrad(Surrogate, pure=True):
    r"""Inverse square of peak 1, SuperSpike: g(x) = 1/(1 + α|x|)².

    .. math:: g(x) = \frac{1}{(1 + \alpha |x|)^2}, \qquad f(x) = \frac12 + \frac{x}{1 + \alpha |x|}

    Parameters
    ----------
    alpha : float or array, default 100.0
        Steepness, > 0, dimensionless. An array broadcasts to ``x``.

    Notes
    -----
    Peak 1 at 0, a kink there; area :math:`2/\alpha`, so that the strength falls with the steepness; tails
    :math:`1/(\alpha x)^2`. Known as SuperSpike or fast sigmoid, with other defaults (25, 10) elsewhere.
    :class:`SoftSign` is the same shape with area 1.

    References
    ----------
    Zenke, Ganguli 2018, "SuperSpike: supervised learning in multilayer spiking neural networks", Neural Computation
    30(6):1514-1541.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import InvSquareGrad
    >>> float(jax.grad(InvSquareGrad(alpha=1.0))(1.0))
    0.25
    """

    alpha: Real = parameter(default=100.0, above=0)

    def surrogate_fun(self, x):
        t = bounded(self.alpha * jnp.abs(x))
        return 0.5 + signed(x, t / (1 + t) / self.alpha)

    def surrogate_grad(self, x):
        r = 1 / (1 + self.alpha * jnp.abs(x))
        return r * r


inv_square_grad = functional(InvSquareGrad)


class QPseudoSpike(Surrogate, pure=True):
    r"""Power law with a free exponent: g(x) = (1 + 2|x|/(α+1))^(−α).

    .. math:: g(x) = \left(1 + \frac{2 |x|}{\alpha + 1}\right)^{-\alpha}, \qquad
              f(x) = \frac12 + \mathrm{sgn}(x)\,\frac{\alpha + 1}{2 (1 - \alpha)}
              \left[\left(1 + \frac{2 |x|}{\alpha + 1}\right)^{1 - \alpha} - 1\right]

    and at :math:`\alpha = 1` the limit :math:`f(x) = \frac12 + \mathrm{sgn}(x) \ln(1 + |x|)`.

    Parameters
    ----------
    alpha : float or array, default 2.0
        Exponent of the tail, > 0, dimensionless. An array broadcasts to ``x``.

    Notes
    -----
    Peak 1 at 0, a kink there; area :math:`(\alpha + 1)/(\alpha - 1)` for :math:`\alpha > 1`, else unbounded; tails
    :math:`|x|^{-\alpha}`. The paper, and SpikingJelly, divide by :math:`\alpha - 1` instead, which needs
    :math:`\alpha > 1`: a different curve. This one is finite for every positive exponent.

    References
    ----------
    Herranz-Celotti, Rouat 2022, "Stabilizing spiking neuron training", arXiv:2202.00282.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import QPseudoSpike
    >>> print(f"{jax.grad(QPseudoSpike(alpha=2.0))(1.5):.4f}")
    0.2500
    """

    alpha: Real = parameter(default=2.0, above=0)

    def surrogate_fun(self, x):
        t = 2 / (self.alpha + 1) * jnp.abs(x)
        log = jnp.log1p(jnp.minimum(t, jnp.finfo(t.dtype).max))
        return 0.5 + signed(x, (self.alpha + 1) / 2 * log * _expm1_over((1 - self.alpha) * log))

    def surrogate_grad(self, x):
        t = 2 / (self.alpha + 1) * jnp.abs(x)
        t = jnp.minimum(t, jnp.finfo(t.dtype).max)
        return _power_tail(t, jnp.asarray(self.alpha, t.dtype))


q_pseudo_spike = functional(QPseudoSpike)


@jax.custom_jvp
def _power_tail(t, alpha):
    """``(1 + t)^-alpha``; at the default exponent, where it is the same for every element, without ``pow``."""

    def square():
        r = 1 / (1 + t)
        return r * r

    def general():
        return exp(-alpha * log1p(t))

    return shortcut(alpha == 2, square, general)


@_power_tail.defjvp
def _power_tail_jvp(primals, tangents):
    (t, alpha), (dt, dalpha) = primals, tangents
    y = _power_tail(t, alpha)  # a branch that has no exponent in it would have no derivative in it
    return y, -y * (alpha / (1 + t) * dt + log1p(t) * dalpha)


def _expm1_over(y):
    """``expm1(y)/y``, through 0, accurate in its derivatives too, where the quotient would cancel."""
    small = jnp.abs(y) < 0.5
    near = jnp.where(small, y, 0)
    series = jnp.ones_like(y)
    for k in range(16, 1, -1):
        series = 1 + near / k * series
    far = jnp.where(small, 1, y)
    return jnp.where(small, series, jnp.expm1(far) / far)


class NonzeroSignLog(Surrogate, pure=True):
    r"""Slope of a logarithm: g(x) = α/(1 + α|x|).

    .. math:: g(x) = \frac{\alpha}{1 + \alpha |x|}, \qquad f(x) = s \ln(1 + \alpha |x|), \quad
              s = -1\ \text{for}\ x < 0,\ +1\ \text{for}\ x \ge 0

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness, > 0, dimensionless. An array broadcasts to ``x``.

    Notes
    -----
    Peak :math:`\alpha` at 0, a kink there; area unbounded; tails :math:`1/|x|`, the heaviest of the bumps. Its primal
    is unbounded and 0 at the threshold.

    References
    ----------
    Fang et al. 2023, "SpikingJelly: an open-source machine learning infrastructure platform for spike-based
    intelligence", Science Advances 9(40).

    Examples
    --------
    >>> import jax
    >>> from spikegrad import NonzeroSignLog
    >>> float(jax.grad(NonzeroSignLog(alpha=2.0))(-0.5))
    1.0
    """

    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        a = jnp.abs(x)
        far = a > 1e20  # where the product may overflow and the 1 has long been lost
        tail = jnp.log(self.alpha) + jnp.log(jnp.where(far, a, 1))
        return signed(x, jnp.where(far, tail, jnp.log1p(self.alpha * jnp.where(far, 0, a))))

    def surrogate_grad(self, x):
        return self.alpha / (1 + self.alpha * jnp.abs(x))


nonzero_sign_log = functional(NonzeroSignLog)
