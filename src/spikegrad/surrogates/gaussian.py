"""Bells: Gaussians, with and without flanks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.lax import erfc

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import bounded, exp, from_tail

_FAR = 40  # every bell is exactly 0 from here


def _bell(z, rate):
    """Return ``exp(-rate z^2)`` for a rate of 1 or 1/2. A product with these rates is exact."""
    z = bounded(z, _FAR)
    return exp(-rate * z * z)


@jax.custom_jvp
def _bell_tail(z):
    """Return the fraction of the area of ``exp(-z^2)`` above z."""
    return erfc(bounded(z, _FAR)) / 2


# This is JAX's own rule, which raises in JAX 0.12 inside jax.shard_map.
_bell_tail.defjvps(lambda dz, y, z: -_bell(z, 1) / math.sqrt(math.pi) * dz)


def _normal(z):
    """Return the density of the standard normal distribution."""
    return _bell(z, 0.5) / math.sqrt(2 * math.pi)


def _normal_tail(z):
    """Return the probability that a standard normal variable is above z."""
    return _bell_tail(z / math.sqrt(2))


class ERF(Surrogate, pure=True):
    r"""Slope of the error function: g(x) = (α/√π) exp(−α²x²).

    .. math:: g(x) = \frac{\alpha}{\sqrt\pi}\, e^{-\alpha^2 x^2}, \qquad
              f(x) = \frac12\,\mathrm{erfc}(-\alpha x)

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness :math:`\alpha` of the slope, above 0, without a unit. A larger number makes the
        slope narrower and higher. An array must broadcast to ``x``.

    Notes
    -----
    The slope is a Gaussian with the standard deviation :math:`1/(\alpha\sqrt2)`. Its peak is
    :math:`\alpha/\sqrt\pi` at the threshold, and its area is 1. It falls very fast to 0.
    :class:`GaussianGrad` has width and area as two parameters.

    References
    ----------
    Esser et al. 2015, "Backpropagation for energy-efficient neuromorphic computing", NeurIPS
    28:1117-1125. Yin, Corradi, Bohté 2020, "Effective and efficient computation with
    multiple-timescale spiking recurrent neural networks", ICONS.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import ERF
    >>> print(f"{jax.grad(ERF(alpha=1.0))(0.0):.6f}")
    0.564190
    """

    _formula = "(α/√π) exp(−α²x²)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return from_tail(x, _bell_tail(self.alpha * jnp.abs(x)))

    def surrogate_grad(self, x):
        return self.alpha / math.sqrt(math.pi) * _bell(self.alpha * x, 1)


erf = functional(ERF)


class GaussianGrad(Surrogate, pure=True):
    r"""Gaussian of any width and height: g(x) = α/(σ√(2π)) exp(−x²/(2σ²)).

    .. math:: g(x) = \frac{\alpha}{\sigma\sqrt{2\pi}}\, e^{-x^2/(2\sigma^2)}, \qquad
              f(x) = \frac12 + \alpha\left(\Phi\left(\frac{x}{\sigma}\right) - \frac12\right)

    Here :math:`\Phi` is the cumulative distribution of the standard normal distribution.

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    sigma : float or array, default 0.5
        Standard deviation :math:`\sigma` of the Gaussian, above 0, in the unit of ``x``. A larger
        number makes the slope wider and lower.
    alpha : float or array, default 0.5
        Area :math:`\alpha` of the slope, any finite number, without a unit.

    Notes
    -----
    The peak of the slope is :math:`\alpha/(\sigma\sqrt{2\pi})` at the threshold, and its area is
    :math:`\alpha`.

    References
    ----------
    Yin, Corradi, Bohté 2021, "Accurate and efficient time-domain classification with adaptive
    spiking recurrent neural networks", Nature Machine Intelligence 3:905-913.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import GaussianGrad
    >>> print(f"{jax.grad(GaussianGrad(sigma=0.5, alpha=0.5))(0.0):.6f}")
    0.398942
    """

    _formula = "α/(σ√(2π)) exp(−x²/(2σ²))"
    sigma: Real = parameter(default=0.5, above=0)
    alpha: Real = parameter(default=0.5)

    def surrogate_fun(self, x):
        # The integral from |x| to infinity, so small values far below the threshold keep their
        # digits.
        tail = self.alpha * _normal_tail(jnp.abs(x) / self.sigma)
        return from_tail(x, (1 - self.alpha) / 2 + tail)

    def surrogate_grad(self, x):
        return self.alpha / self.sigma * _normal(x / self.sigma)


gaussian_grad = functional(GaussianGrad)


class MultiGaussianGrad(Surrogate, pure=True):
    r"""Gaussian with negative flanks: g(x) = scale·[(1+h) N(x;0,σ²) − h N(x;σ,(sσ)²) − h
    N(x;−σ,(sσ)²)].

    .. math:: g(x) &= \mathrm{scale}\left[(1 + h)\,\mathcal N(x; 0, \sigma^2) - h\,\mathcal N(x;
              \sigma, (s\sigma)^2)
              - h\,\mathcal N(x; -\sigma, (s\sigma)^2)\right] \\
              f(x) &= \frac12 + \mathrm{scale}\left[(1 + h)\left(\Phi\left(\tfrac{x}{\sigma}\right)
              - \tfrac12\right)
              - h\left(\Phi\left(\tfrac{x - \sigma}{s\sigma}\right) + \Phi\left(\tfrac{x +
              \sigma}{s\sigma}\right)
              - 1\right)\right]

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    h : float or array, default 0.15
        Weight :math:`h` of the two negative flanks, any finite number, without a unit.
    s : float or array, default 6.0
        Width :math:`s` of the flanks as a multiple of ``sigma``, above 0.
    sigma : float or array, default 0.5
        Standard deviation :math:`\sigma` of the central Gaussian, above 0, in the unit of ``x``.
    scale : float or array, default 0.5
        Factor of the complete slope, any finite number, without a unit.

    Notes
    -----
    The area of the slope is :math:`\mathrm{scale}\,(1 - h)`. For :math:`h > 0` and :math:`s > 1`,
    the slope is negative far from the threshold. The smooth step then falls there.

    References
    ----------
    Yin, Corradi, Bohté 2021, "Accurate and efficient time-domain classification with adaptive
    spiking recurrent neural networks", Nature Machine Intelligence 3:905-913.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import MultiGaussianGrad
    >>> slope = jax.grad(MultiGaussianGrad())
    >>> print(f"{slope(0.0):.4f} {slope(2.0):.4f}")
    0.4391 -0.0157
    """

    _formula = "scale·[(1+h) N(x;0,σ²) − h N(x;σ,(sσ)²) − h N(x;−σ,(sσ)²)]"
    h: Real = parameter(default=0.15)
    s: Real = parameter(default=6.0, above=0)
    sigma: Real = parameter(default=0.5, above=0)
    scale: Real = parameter(default=0.5)

    def surrogate_fun(self, x):
        a = jnp.abs(x)
        wide = self.s * self.sigma
        center = _normal_tail(a / self.sigma)
        near_flank = _normal_tail((a - self.sigma) / wide)
        far_flank = _normal_tail((a + self.sigma) / wide)
        flanks = near_flank + far_flank
        tail = self.scale * ((1 + self.h) * center - self.h * flanks)
        # Of all three: (1 + h) - 2 h = 1 - h, times the scale.
        area = self.scale * (1 - self.h)
        return from_tail(x, (1 - area) / 2 + tail)

    def surrogate_grad(self, x):
        a = jnp.abs(x)  # even to the last bit
        wide = self.s * self.sigma
        end = _FAR * (self.sigma + wide)  # all three have long been 0
        a = jnp.where(a > end, end, a)

        def bump(offset, width):
            z = (a + offset) / width
            return exp(-0.5 * z * z)

        flanks = bump(-self.sigma, wide) + bump(self.sigma, wide)
        of_center = (1 + self.h) / self.sigma
        of_flanks = self.h / wide
        factor = self.scale / math.sqrt(2 * math.pi)
        return factor * of_center * bump(0, self.sigma) - factor * of_flanks * flanks


multi_gaussian_grad = functional(MultiGaussianGrad)
