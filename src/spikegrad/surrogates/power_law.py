"""Power laws: slopes whose tails are powers of the distance to the threshold."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import bounded, cauchy, exp, from_tail, log1p, shortcut, signed


def _inverse_square(alpha, x):
    """``(1 + alpha |x|)^-2``, squared after the division: the square of the sum would overflow long before."""
    r = 1 / (1 + alpha * jnp.abs(x))
    return r * r


class SoftSign(Surrogate, pure=True):
    r"""Slope of the soft sign: g(x) = α / (2(1 + α|x|)²).

    .. math:: g(x) = \frac{\alpha}{2\,(1 + \alpha |x|)^2}, \qquad
              f(x) = \frac12\left(\frac{\alpha x}{1 + \alpha |x|} + 1\right)

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness, > 0, dimensionless. An array broadcasts to ``x``.

    Notes
    -----
    Peak :math:`\alpha/2` at 0, a kink there; area 1; tails :math:`1/(2\alpha x^2)`, which still pass a gradient far
    from the threshold. :class:`InvSquareGrad` is the same shape with peak 1.

    References
    ----------
    Zenke, Ganguli 2018, "SuperSpike: supervised learning in multilayer spiking neural networks", Neural Computation
    30(6):1514-1541.

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
        return self.alpha / 2 * _inverse_square(self.alpha, x)


soft_sign = functional(SoftSign)


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

    _formula = "1/(1 + α|x|)²"
    alpha: Real = parameter(default=100.0, above=0)

    def surrogate_fun(self, x):
        t = bounded(self.alpha * jnp.abs(x))
        return 0.5 + signed(x, t / (1 + t) / self.alpha)

    def surrogate_grad(self, x):
        return _inverse_square(self.alpha, x)


inv_square_grad = functional(InvSquareGrad)


class Arctan(Surrogate, pure=True):
    r"""Slope of the arctangent: g(x) = α / (2(1 + (παx/2)²)).

    .. math:: g(x) = \frac{\alpha}{2\left(1 + (\frac{\pi}{2}\alpha x)^2\right)}, \qquad
              f(x) = \frac1\pi \arctan\left(\frac{\pi}{2}\alpha x\right) + \frac12

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness, > 0, dimensionless. An array broadcasts to ``x``. Other libraries' arctangents often have 2.

    Notes
    -----
    Peak :math:`\alpha/2` at 0, area 1, tails :math:`2/(\pi^2 \alpha x^2)`.

    References
    ----------
    Fang et al. 2021, "Incorporating learnable membrane time constant to enhance learning of spiking neural networks",
    ICCV, 2661-2671.

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
        return from_tail(x, jnp.arctan2(jnp.ones_like(w), w) / math.pi)

    def surrogate_grad(self, x):
        return self.alpha / 2 * cauchy(math.pi / 2 * self.alpha * x)


arctan = functional(Arctan)


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

    _formula = "(1 + 2|x|/(α+1))^(−α)"
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
    Peak :math:`\alpha` at 0, a kink there; area unbounded; tails :math:`1/|x|`, the heaviest of these. Its primal
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

    _formula = "α/(1 + α|x|)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        a = jnp.abs(x)
        far = a > 1e20  # where the product may overflow and the 1 has long been lost
        tail = jnp.log(self.alpha) + jnp.log(jnp.where(far, a, 1))
        return signed(x, jnp.where(far, tail, jnp.log1p(self.alpha * jnp.where(far, 0, a))))

    def surrogate_grad(self, x):
        return self.alpha / (1 + self.alpha * jnp.abs(x))


nonzero_sign_log = functional(NonzeroSignLog)
