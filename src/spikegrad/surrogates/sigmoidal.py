"""Slopes of smooth steps from 0 to 1: area 1, tails that never reach 0."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax.lax import erfc

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import bounded, cauchy, exp, from_tail, logistic_slope


class Sigmoid(Surrogate, pure=True):
    r"""Slope of the logistic function: g(x) = α σ(αx) σ(−αx).

    .. math:: g(x) = \alpha\,\sigma(\alpha x)\,\sigma(-\alpha x), \qquad f(x) = \sigma(\alpha x),
              \qquad \sigma(z) = \frac{1}{1 + e^{-z}}

    Parameters
    ----------
    alpha : float or array, default 4.0
        Steepness, > 0, dimensionless. An array broadcasts to ``x``.

    Notes
    -----
    Peak :math:`\alpha/4` at 0, area 1, tails :math:`\alpha e^{-\alpha |x|}`.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE Signal Processing
    Magazine 36(6):51-63. Zenke, Vogels 2021, "The remarkable robustness of surrogate gradient learning for instilling
    complex function in spiking neural networks", Neural Computation 33(4):899-925.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import Sigmoid
    >>> fire = Sigmoid(alpha=4.0)
    >>> float(fire(-0.1)), float(fire(0.0)), float(jax.grad(fire)(0.0))
    (0.0, 1.0, 1.0)
    """

    alpha: Real = parameter(default=4.0, above=0)

    def surrogate_fun(self, x):
        e = exp(-self.alpha * jnp.abs(x))
        return from_tail(x, e / (1 + e))

    def surrogate_grad(self, x):
        return self.alpha * logistic_slope(self.alpha * x)


sigmoid = functional(Sigmoid)


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

    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return from_tail(x, 0.5 / (1 + self.alpha * jnp.abs(x)))

    def surrogate_grad(self, x):
        r = 1 / (1 + self.alpha * jnp.abs(x))  # squared after the division: (1 + a|x|)^2 would overflow long before
        return self.alpha / 2 * (r * r)


soft_sign = functional(SoftSign)


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

    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        w = math.pi / 2 * self.alpha * jnp.abs(x)
        return from_tail(x, jnp.arctan2(jnp.ones_like(w), w) / math.pi)

    def surrogate_grad(self, x):
        return self.alpha / 2 * cauchy(math.pi / 2 * self.alpha * x)


arctan = functional(Arctan)


class ERF(Surrogate, pure=True):
    r"""Slope of the error function: g(x) = (α/√π) exp(−α²x²).

    .. math:: g(x) = \frac{\alpha}{\sqrt\pi}\, e^{-\alpha^2 x^2}, \qquad f(x) = \frac12\,\mathrm{erfc}(-\alpha x)

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness, > 0, dimensionless. An array broadcasts to ``x``.

    Notes
    -----
    A Gaussian of standard deviation :math:`1/(\alpha\sqrt2)`: peak :math:`\alpha/\sqrt\pi` at 0, area 1, tails that
    vanish fast. :class:`GaussianGrad` has the width and the height as two parameters.

    References
    ----------
    Esser et al. 2015, "Backpropagation for energy-efficient neuromorphic computing", NeurIPS 28:1117-1125. Yin,
    Corradi, Bohté 2020, "Effective and efficient computation with multiple-timescale spiking recurrent neural
    networks", ICONS.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import ERF
    >>> print(f"{jax.grad(ERF(alpha=1.0))(0.0):.6f}")
    0.564190
    """

    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return from_tail(x, erfc(bounded(self.alpha * jnp.abs(x), 40)) / 2)

    def surrogate_grad(self, x):
        z = bounded(self.alpha * x, 40)
        return self.alpha / math.sqrt(math.pi) * exp(-(z * z))


erf = functional(ERF)


class PiecewiseExp(Surrogate, pure=True):
    r"""Two-sided exponential of area 1: g(x) = (α/2) exp(−α|x|).

    .. math:: g(x) = \frac\alpha2 e^{-\alpha |x|}, \qquad
              f(x) = \begin{cases} \frac12 e^{\alpha x} & x < 0 \\ 1 - \frac12 e^{-\alpha x} & x \ge 0 \end{cases}

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness, > 0, dimensionless. An array broadcasts to ``x``.

    Notes
    -----
    Peak :math:`\alpha/2` at 0, a kink there; area 1; exponential tails. :class:`SlayerGrad` is the same shape with
    peak 1.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE Signal Processing
    Magazine 36(6):51-63.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import PiecewiseExp
    >>> float(jax.grad(PiecewiseExp(alpha=2.0))(0.0))
    1.0
    """

    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return from_tail(x, exp(-self.alpha * jnp.abs(x)) / 2)

    def surrogate_grad(self, x):
        return self.alpha / 2 * exp(-self.alpha * jnp.abs(x))


piecewise_exp = functional(PiecewiseExp)
