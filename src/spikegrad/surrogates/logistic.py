"""Slopes of the logistic function."""

from __future__ import annotations

import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import exp, from_tail, logistic, logistic_slope


class Sigmoid(Surrogate, pure=True):
    r"""Slope of the logistic function: g(x) = α σ(αx) σ(−αx).

    .. math:: g(x) = \alpha\,\sigma(\alpha x)\,\sigma(-\alpha x), \qquad f(x) = \sigma(\alpha x),
              \qquad \sigma(z) = \frac{1}{1 + e^{-z}}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 4.0
        Steepness :math:`\alpha` of the slope, above 0, without a unit. A larger number makes the
        slope narrower and higher. An array must broadcast to ``x``.

    Notes
    -----
    The peak of the slope is :math:`\alpha/4` at the threshold, and its area is 1. Far from the
    threshold, it is about :math:`\alpha e^{-\alpha |x|}`.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE
    Signal Processing Magazine 36(6):51-63. Zenke, Vogels 2021, "The remarkable robustness of
    surrogate gradient learning for instilling complex function in spiking neural networks", Neural
    Computation 33(4):899-925.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import Sigmoid
    >>> fire = Sigmoid(alpha=4.0)
    >>> float(fire(-0.1)), float(fire(0.0)), float(jax.grad(fire)(0.0))
    (0.0, 1.0, 1.0)
    """

    _formula = "α σ(αx) σ(−αx)"
    alpha: Real = parameter(default=4.0, above=0)

    def surrogate_fun(self, x):
        return logistic(self.alpha * x)

    def surrogate_grad(self, x):
        return self.alpha * logistic_slope(self.alpha * x)


sigmoid = functional(Sigmoid)


class Dspike(Surrogate, pure=True):
    r"""Logistic slope of area 1 within a window of width 1: g(x) = b/(2 tanh(b/2)) sech²(bx) for
    |x| ≤ 1/2, else 0.

    .. math:: g(x) &= \begin{cases} \frac{b}{2 \tanh(b/2)}\,\mathrm{sech}^2(bx) & |x| \le \frac12 \\
              0 & |x| > \frac12
              \end{cases} \\
              f(x) &= \frac12 + \frac{\tanh(b u)}{2 \tanh(b/2)}, \quad
              u = \mathrm{clip}(x, -\tfrac12, \tfrac12)

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    b : float or array, default 1.0
        Temperature :math:`b`, above 0, without a unit. The slope is close to a box of height 1 for
        a small number, and narrow and high for a large number. An array must broadcast to ``x``.

    Notes
    -----
    The peak of the slope is :math:`b / (2 \tanh(b/2))` at the threshold, and its area is 1. At
    :math:`\pm\frac12` it jumps to 0. These two points belong to the window. For a wider window, use
    :func:`~spikegrad.stretched`. In the paper, inputs are from 0 to 1 and the threshold is 1/2.

    References
    ----------
    Li, Guo, Zhang, Deng, Hai, Gu 2021, "Differentiable spike: rethinking gradient-descent for
    training spiking neural networks", NeurIPS 34.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import Dspike
    >>> slope = jax.grad(Dspike(b=2.0))
    >>> print(f"{slope(0.0):.4f} {slope(0.5):.4f} {slope(0.75):.4f}")
    1.3130 0.5514 0.0000
    """

    _formula = "b/(2 tanh(b/2)) sech²(bx) for |x| ≤ 1/2, else 0"
    b: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        # Beyond the edge the curve is constant, and so is its argument.
        inside = jnp.abs(x) <= 0.5
        a = jnp.where(inside, jnp.abs(x), 0.5)
        e = exp(-2 * self.b * a)
        # Near the edge, a difference of two hyperbolic tangents would cancel. This is their
        # quotient.
        edge = (
            e
            / (1 + e)
            * jnp.expm1(-2 * self.b * (0.5 - a))
            / jnp.expm1(-self.b * jnp.ones_like(a))
        )
        middle = 0.5 - jnp.tanh(self.b * a) / (
            2 * jnp.tanh(self.b / 2 * jnp.ones_like(a))
        )
        is_near = (a < 0.25) & (self.b * a < 0.5)
        return from_tail(x, jnp.where(is_near, middle, edge))

    def surrogate_grad(self, x):
        height = -2 * self.b / jnp.expm1(-self.b) * (1 + jnp.exp(-self.b))
        inside = jnp.abs(x) <= 0.5
        return jnp.where(inside, height * logistic_slope(2 * self.b * x), 0)
