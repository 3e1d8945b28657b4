"""Two-sided exponentials."""

from __future__ import annotations

import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import exp, from_tail, odd


def _decay(alpha, x):
    return exp(-alpha * jnp.abs(x))


class PiecewiseExp(Surrogate, pure=True):
    r"""Two-sided exponential of area 1: g(x) = (α/2) exp(−α|x|).

    .. math:: g(x) = \frac\alpha2 e^{-\alpha |x|}, \qquad
              f(x) = \begin{cases} \frac12 e^{\alpha x} & x < 0 \\
              1 - \frac12 e^{-\alpha x} & x \ge 0 \end{cases}

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
    The peak of the slope is :math:`\alpha/2` at the threshold, with a kink. Its area is 1. It falls
    exponentially. :class:`SlayerGrad` is this slope with a peak of 1.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE
    Signal Processing Magazine 36(6):51-63.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import PiecewiseExp
    >>> float(jax.grad(PiecewiseExp(alpha=2.0))(0.0))
    1.0
    """

    _formula = "(α/2) exp(−α|x|)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return from_tail(x, _decay(self.alpha, x) / 2)

    def surrogate_grad(self, x):
        return self.alpha / 2 * _decay(self.alpha, x)


piecewise_exp = functional(PiecewiseExp)


class SlayerGrad(Surrogate, pure=True):
    r"""Two-sided exponential of peak 1: g(x) = exp(−α|x|).

    .. math:: g(x) = e^{-\alpha |x|}, \qquad
              f(x) = \frac12 + \mathrm{sgn}(x)\,\frac{1 - e^{-\alpha |x|}}{\alpha}

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
    The peak of the slope is 1 at the threshold, with a kink. Its area is :math:`2/\alpha`.
    :class:`PiecewiseExp` is this slope with an area of 1.

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

    _formula = "exp(−α|x|)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        fall = jnp.expm1(-self.alpha * jnp.abs(x))
        return 0.5 - odd(x, fall) / self.alpha

    def surrogate_grad(self, x):
        return _decay(self.alpha, x)


slayer_grad = functional(SlayerGrad)
