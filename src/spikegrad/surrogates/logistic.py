"""Slopes of the logistic function."""

from __future__ import annotations

import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import exp, from_tail, logistic_slope


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

    _formula = "α σ(αx) σ(−αx)"
    alpha: Real = parameter(default=4.0, above=0)

    def surrogate_fun(self, x):
        e = exp(-self.alpha * jnp.abs(x))
        return from_tail(x, e / (1 + e))

    def surrogate_grad(self, x):
        return self.alpha * logistic_slope(self.alpha * x)


sigmoid = functional(Sigmoid)
