"""Power laws: slopes with tails that are powers of the distance to the threshold."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import (
    bounded,
    cauchy,
    exp,
    expm1_over,
    from_tail,
    inverse_hypotenuse,
    inverse_square,
    log1p,
    odd,
    reciprocal,
    shortcut,
)


class SoftSign(Surrogate, pure=True):
    r"""Slope of the soft sign: g(x) = α / (2(1 + α|x|)²).

    .. math:: g(x) = \frac{\alpha}{2\,(1 + \alpha |x|)^2}, \qquad
              f(x) = \frac12\left(\frac{\alpha x}{1 + \alpha |x|} + 1\right)

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
    The peak of the slope is :math:`\alpha/2` at the threshold, with a kink. Its area is 1. Far from
    the threshold, it is about :math:`1/(2\alpha x^2)`, so distant potentials still get a gradient.
    :class:`InvSquareGrad` is this slope with a peak of 1.

    References
    ----------
    Zenke, Ganguli 2018, "SuperSpike: supervised learning in multilayer spiking neural networks",
    Neural Computation 30(6):1514-1541.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import SoftSign
    >>> float(jax.grad(SoftSign(alpha=2.0))(0.5))
    0.25
    """

    _formula = "α / (2(1 + α|x|)²)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return from_tail(x, 0.5 / (1 + self.alpha * jnp.abs(x)))

    def surrogate_grad(self, x):
        return self.alpha / 2 * inverse_square(self.alpha, x)


soft_sign = functional(SoftSign)


class InvSquareGrad(Surrogate, pure=True):
    r"""Inverse square of peak 1, SuperSpike: g(x) = 1/(1 + α|x|)².

    .. math:: g(x) = \frac{1}{(1 + \alpha |x|)^2}, \qquad f(x) = \frac12 + \frac{x}{1 + \alpha |x|}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 100.0
        Steepness :math:`\alpha` of the slope, above 0, without a unit. A larger number makes the
        slope narrower, and keeps its height. An array must broadcast to ``x``.

    Notes
    -----
    The peak of the slope is 1 at the threshold, with a kink. Its area is :math:`2/\alpha`, so a
    steeper slope passes less gradient in total. Far from the threshold, it is about
    :math:`1/(\alpha x)^2`. Papers call it SuperSpike, and some libraries call it fast sigmoid, with
    the defaults 25 or 10. :class:`SoftSign` is this slope with an area of 1.

    References
    ----------
    Zenke, Ganguli 2018, "SuperSpike: supervised learning in multilayer spiking neural networks",
    Neural Computation 30(6):1514-1541.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import InvSquareGrad
    >>> float(jax.grad(InvSquareGrad(alpha=1.0))(1.0))
    0.25
    """

    _formula = "1/(1 + α|x|)²"
    alpha: Real = parameter(default=100.0, above=0)

    def surrogate_fun(self, x):
        t = bounded(self.alpha * jnp.abs(x))
        return 0.5 + odd(x, t / (1 + t) / self.alpha)

    def surrogate_grad(self, x):
        return inverse_square(self.alpha, x)


inv_square_grad = functional(InvSquareGrad)


class Arctan(Surrogate, pure=True):
    r"""Slope of the arctangent: g(x) = α / (2(1 + (παx/2)²)).

    .. math:: g(x) = \frac{\alpha}{2\left(1 + (\frac{\pi}{2}\alpha x)^2\right)}, \qquad
              f(x) = \frac1\pi \arctan\left(\frac{\pi}{2}\alpha x\right) + \frac12

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness :math:`\alpha` of the slope, above 0, without a unit. A larger number makes the
        slope narrower and higher. An array must broadcast to ``x``. Many other libraries have the
        default 2.

    Notes
    -----
    The peak of the slope is :math:`\alpha/2` at the threshold, and its area is 1. Far from the
    threshold, it is about :math:`2/(\pi^2 \alpha x^2)`, so distant potentials still get a gradient.

    References
    ----------
    Fang et al. 2021, "Incorporating learnable membrane time constant to enhance learning of spiking
    neural networks", ICCV, 2661-2671.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import Arctan
    >>> float(jax.grad(Arctan(alpha=2.0))(0.0))
    1.0
    """

    _formula = "α / (2(1 + (παx/2)²))"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        w = math.pi / 2 * self.alpha * jnp.abs(x)
        # 1/2 - arctan(w)/pi is arctan(1/w)/pi, without a difference of equal numbers far away.
        angle = jnp.arctan2(jnp.ones_like(w), w)
        return from_tail(x, angle / math.pi)

    def surrogate_grad(self, x):
        return self.alpha / 2 * cauchy(math.pi / 2 * self.alpha * x)


arctan = functional(Arctan)


class QPseudoSpike(Surrogate, pure=True):
    r"""Power law with a free exponent: g(x) = (1 + 2|x|/(α+1))^(−α).

    .. math:: g(x) &= \left(1 + \frac{2 |x|}{\alpha + 1}\right)^{-\alpha}, \\
              f(x) &= \frac12 + \mathrm{sgn}(x)\,\frac{\alpha + 1}{2 (1 - \alpha)}
              \left[\left(1 + \frac{2 |x|}{\alpha + 1}\right)^{1 - \alpha} - 1\right]

    and at :math:`\alpha = 1` the limit :math:`f(x) = \frac12 + \mathrm{sgn}(x) \ln(1 + |x|)`.

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 2.0
        Exponent :math:`\alpha` of the tails of the slope, above 0, without a unit. With a larger
        number, the slope falls faster far from the threshold. An array must broadcast to ``x``.

    Notes
    -----
    The peak of the slope is 1 at the threshold, with a kink. Its area is :math:`(\alpha +
    1)/(\alpha - 1)` for :math:`\alpha > 1`, and infinite otherwise. Far from the threshold, it
    falls like :math:`|x|^{-\alpha}`.

    The paper and SpikingJelly divide by :math:`\alpha - 1` instead of :math:`\alpha + 1`. Their
    slope needs :math:`\alpha > 1` and is :class:`~spikegrad.surrogates.PowerTail`. The slope of
    this class is finite for every positive exponent.

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

    _formula = "(1 + 2|x|/(α+1))^(−α)"
    alpha: Real = parameter(default=2.0, above=0)

    def surrogate_fun(self, x):
        t = 2 / (self.alpha + 1) * jnp.abs(x)
        largest = jnp.finfo(t.dtype).max
        log = jnp.log1p(jnp.minimum(t, largest))
        # ((1 + t)^(1 - a) - 1) / (1 - a) = log * expm1(z) / z with z = (1 - a) log, which is also
        # exact at a = 1, where the curve is a logarithm.
        scaled_log = (self.alpha + 1) / 2 * log
        z = (1 - self.alpha) * log
        return 0.5 + odd(x, scaled_log * expm1_over(z))

    def surrogate_grad(self, x):
        t = 2 / (self.alpha + 1) * jnp.abs(x)
        t = jnp.minimum(t, jnp.finfo(t.dtype).max)
        return _power_tail(t, jnp.asarray(self.alpha, t.dtype))


q_pseudo_spike = functional(QPseudoSpike)


@jax.custom_jvp
def _power_tail(t, alpha):
    """Return ``(1 + t)^-alpha``, without ``pow`` if the default exponent applies to all
    elements."""

    def square():
        r = 1 / (1 + t)
        return r * r

    def general():
        return exp(-alpha * log1p(t))

    return shortcut(alpha == 2, square, general)


@_power_tail.defjvp
def _power_tail_jvp(primals, tangents):
    t, alpha = primals
    dt, dalpha = tangents
    # A branch without the exponent would not give it a derivative.
    y = _power_tail(t, alpha)
    change_of_log = alpha / (1 + t) * dt + log1p(t) * dalpha
    return y, -y * change_of_log


class NonzeroSignLog(Surrogate, pure=True):
    r"""Slope of a logarithm: g(x) = α/(1 + α|x|).

    .. math:: g(x) = \frac{\alpha}{1 + \alpha |x|}, \qquad f(x) = s \ln(1 + \alpha |x|), \quad
              s = -1\ \text{for}\ x < 0,\ +1\ \text{for}\ x \ge 0

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
    The peak of the slope is :math:`\alpha` at the threshold, with a kink. Far from the threshold,
    it is about :math:`1/|x|`, so very distant potentials still get a gradient. Therefore its area
    is infinite. The smooth step has no bounds, and is 0 at the threshold.

    References
    ----------
    Fang et al. 2023, "SpikingJelly: an open-source machine learning infrastructure platform for
    spike-based intelligence", Science Advances 9(40).

    Examples
    --------
    >>> import jax
    >>> from spikegrad import NonzeroSignLog
    >>> float(jax.grad(NonzeroSignLog(alpha=2.0))(-0.5))
    1.0
    """

    _formula = "α/(1 + α|x|)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        a = jnp.abs(x)
        far = a > 1e20  # the product may overflow, and the 1 is below rounding
        far_log = jnp.log(self.alpha) + jnp.log(jnp.where(far, a, 1))
        near_log = jnp.log1p(self.alpha * jnp.where(far, 0, a))
        return odd(x, jnp.where(far, far_log, near_log))

    def surrogate_grad(self, x):
        return self.alpha / (1 + self.alpha * jnp.abs(x))


nonzero_sign_log = functional(NonzeroSignLog)


class PowerTail(Surrogate, pure=True):
    r"""Power law of peak 1 and area 1: g(x) = (1 + 2|x|/(q−1))^(−q).

    .. math:: g(x) = \left(1 + \frac{2 |x|}{q - 1}\right)^{-q}, \qquad
              f(x) = \begin{cases} \frac12 \left(1 + \frac{2 |x|}{q - 1}\right)^{1 - q} & x < 0 \\
              1 - \frac12 \left(1 + \frac{2 |x|}{q - 1}\right)^{1 - q} & x \ge 0 \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    q : float or array, default 2.0
        Exponent :math:`q` of the tails of the slope, above 1, without a unit. With a smaller
        number, more gradient passes far from the threshold. An array must broadcast to ``x``.

    Notes
    -----
    The peak of the slope is 1 at the threshold, with a kink. Its area is 1 for every exponent. Far
    from the threshold, it falls like :math:`|x|^{-q}`.

    This is the q-PseudoSpike of the paper and of SpikingJelly. :class:`~spikegrad.QPseudoSpike`
    divides by :math:`\alpha + 1` instead. For the dampening :math:`\gamma` and the sharpness
    :math:`\beta` of the paper, write ``gamma * stretched(PowerTail(q), 1 / beta)``.

    References
    ----------
    Herranz-Celotti, Rouat 2022, "Stabilizing spiking neuron training", arXiv:2202.00282.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import PowerTail
    >>> float(jax.grad(PowerTail(q=2.0))(0.5))
    0.25
    """

    _formula = "(1 + 2|x|/(q−1))^(−q)"
    q: Real = parameter(default=2.0, above=1)

    def surrogate_fun(self, x):
        steepness = 2 / (jnp.asarray(self.q, x.dtype) - 1)
        a = jnp.abs(x)
        far = a > 1e20  # the product may overflow, and the 1 is below rounding
        far_log = jnp.log(steepness) + jnp.log(jnp.where(far, a, 1))
        near_log = log1p(steepness * jnp.where(far, 0, a))
        log = jnp.where(far, far_log, near_log)
        power = exp((1 - self.q) * log)
        return from_tail(x, power / 2)

    def surrogate_grad(self, x):
        t = 2 / (self.q - 1) * jnp.abs(x)
        t = jnp.minimum(t, jnp.finfo(x.dtype).max)
        return _power_tail(t, jnp.asarray(self.q, x.dtype))


class Circle(Surrogate, pure=True):
    r"""Slope of an algebraic sigmoid: g(x) = (1 + (x/α)²)^(−3/2).

    .. math:: g(x) = \left(1 + \left(\frac{x}{\alpha}\right)^2\right)^{-3/2}, \qquad
              f(x) = \frac12 + \frac{x}{\sqrt{1 + (x/\alpha)^2}}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 1.0
        Width :math:`\alpha` of the slope, above 0, in the unit of ``x``. A larger number makes the
        slope wider. An array must broadcast to ``x``.

    Notes
    -----
    The peak of the slope is 1 at the threshold, without a kink. Its area is :math:`2 \alpha`. Far
    from the threshold, it is about :math:`(\alpha / |x|)^3`.

    References
    ----------
    Pehle, Pedersen 2021, "Norse - a deep learning library for spiking neural networks", Zenodo
    (``heavi_circ``).

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import Circle
    >>> print(f"{jax.grad(Circle(alpha=0.5))(0.5):.4f}")
    0.3536
    """

    _formula = "(1 + (x/α)²)^(−3/2)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        z = bounded(x / self.alpha)
        # For an infinite x, z is bounded and the product is 1.
        return 0.5 + self.alpha * (z * inverse_hypotenuse(z))

    def surrogate_grad(self, x):
        # The cube of (1 + z^2)^(-1/2), which needs no power of a fraction.
        y = inverse_hypotenuse(bounded(x / self.alpha))
        return y * y * y


class CappedInverse(Surrogate, pure=True):
    r"""Inverse distance, capped: g(x) = min(1/|x|, α).

    .. math:: g(x) = \min\left(\frac{1}{|x|}, \alpha\right), \qquad
              f(x) = \begin{cases} \frac12 + \alpha x & |x| \le 1/\alpha \\
              \frac12 + \mathrm{sgn}(x)\,(1 + \ln(\alpha |x|)) & |x| > 1/\alpha \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 0.3
        Height :math:`\alpha` of the slope, above 0, without a unit. An array must broadcast to
        ``x``.

    Notes
    -----
    The slope is constant, :math:`\alpha`, at distances up to :math:`1/\alpha`, with kinks at both
    ends. Beyond, it is :math:`1/|x|`, so its area is infinite.

    References
    ----------
    Fang et al. 2023, "SpikingJelly: an open-source machine learning infrastructure platform for
    spike-based intelligence", Science Advances 9(40) (``FakeNumericalGradient``).

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import CappedInverse
    >>> slope = jax.grad(CappedInverse(alpha=0.5))
    >>> float(slope(1.0)), float(slope(4.0))
    (0.5, 0.25)
    """

    _formula = "min(1/|x|, α)"
    alpha: Real = parameter(default=0.3, above=0)

    def surrogate_fun(self, x):
        level = self._level(x)
        distance = jnp.where(level, 1, jnp.abs(x))
        # 1 + ln(alpha |x|), as a sum of logarithms, because the product may overflow.
        tail = 1 + (jnp.log(self.alpha) + jnp.log(distance))
        line = self.alpha * jnp.where(level, x, 0)
        return 0.5 + jnp.where(level, line, odd(x, tail))

    def surrogate_grad(self, x):
        level = self._level(x)
        distance = jnp.where(level, 1, jnp.abs(x))
        return jnp.where(level, self.alpha, 1 / distance)

    def _level(self, x):
        # |x| <= 1/alpha, with the quotient as a sum of two numbers, so no rounding moves the edge.
        edge, lack = reciprocal(jnp.asarray(self.alpha, x.dtype))
        return (jnp.abs(x) - edge) - lack <= 0


class ArctanApprox(Surrogate, pure=True):
    r"""Slope of a rational approximation of the arctangent: g(x) = (1 − 0.28α²x²)/(1 + 0.28α²x²)².

    .. math:: g(x) = \frac{1 - 0.28\,\alpha^2 x^2}{(1 + 0.28\,\alpha^2 x^2)^2}, \qquad
              f(x) = \frac12 + \frac{x}{1 + 0.28\,\alpha^2 x^2}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness :math:`\alpha` of the slope, above 0, without a unit. A larger number makes the
        slope narrower, and keeps its height. An array must broadcast to ``x``.

    Notes
    -----
    The peak of the slope is 1 at the threshold, without a kink. The slope is negative at distances
    above :math:`1.89/\alpha`, where the approximation ends, and about :math:`-1/(0.28\,\alpha^2
    x^2)` far from the threshold. So the smooth step falls there, and the area of the slope is 0.

    References
    ----------
    Rajan, Wang, Inkol, Joyal 2006, "Efficient approximations for the arctangent function", IEEE
    Signal Processing Magazine 23(3):108-111.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import ArctanApprox
    >>> slope = jax.grad(ArctanApprox(alpha=1.0))
    >>> print(f"{slope(1.0):.4f} {slope(3.0):.4f}")
    0.4395 -0.1227
    """

    _formula = "(1 − 0.28α²x²)/(1 + 0.28α²x²)²"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return 0.5 + x * self._cauchy(x)

    def surrogate_grad(self, x):
        y = self._cauchy(x)
        # With y = 1 / (1 + 0.28 a^2 x^2), the derivative of x y is 2 y^2 - y.
        return y * (2 * y - 1)

    def _cauchy(self, x):
        return cauchy(math.sqrt(0.28) * self.alpha * x)
