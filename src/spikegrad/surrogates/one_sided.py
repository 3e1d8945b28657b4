"""Slopes that treat the two sides of the threshold differently."""

from __future__ import annotations

import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import exp, logistic_slope


class S2NN(Surrogate, pure=True):
    r"""Logistic below the threshold, logarithmic above: g(x) = α σ(αx) σ(−αx) for x < 0, β/(1 + x) for x ≥ 0.

    .. math:: g(x) = \begin{cases} \alpha\,\sigma(\alpha x)\,\sigma(-\alpha x) & x < 0 \\ \frac{\beta}{1 + x} & x \ge 0
              \end{cases} \qquad
              f(x) = \begin{cases} \sigma(\alpha x) & x < 0 \\ \beta \ln(1 + x + \epsilon) + \frac12 & x \ge 0
              \end{cases}

    Parameters
    ----------
    alpha : float or array, default 4.0
        Steepness below the threshold, > 0, dimensionless.
    beta : float or array, default 1.0
        Slope just above the threshold, finite, dimensionless.
    epsilon : float or array, default 1e-8
        Offset inside the logarithm of the primal, >= 0.

    Notes
    -----
    Jumps from :math:`\alpha/4` to :math:`\beta` at the threshold. Peak :math:`\max(\alpha/4, \beta)`, area unbounded,
    tails exponential below and :math:`\beta/x` above.

    References
    ----------
    Suetake et al. 2022, "S2NN: time step reduction of spiking surrogate gradients for training energy efficient
    single-step neural networks", arXiv:2201.10879.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import S2NN
    >>> float(jax.grad(S2NN())(0.0)), float(jax.grad(S2NN(beta=2.0))(1.0))
    (1.0, 1.0)
    """

    _formula = "α σ(αx) σ(−αx) for x < 0, β/(1 + x) for x ≥ 0"
    alpha: Real = parameter(default=4.0, above=0)
    beta: Real = parameter(default=1.0)
    epsilon: Real = parameter(default=1e-8, at_least=0)

    def surrogate_fun(self, x):
        e = exp(self.alpha * jnp.where(x < 0, x, 0))
        above = self.beta * jnp.log1p(jnp.where(x < 0, 0, x) + self.epsilon) + 0.5
        return jnp.where(x < 0, e / (1 + e), above)

    def surrogate_grad(self, x):
        below = self.alpha * logistic_slope(self.alpha * x)
        return jnp.where(x < 0, below, self.beta / (1 + jnp.where(x < 0, 0, x)))


s2nn = functional(S2NN)


class LeakyRelu(Surrogate, pure=True):
    r"""A constant on each side: g(x) = α for x < 0, β for x ≥ 0.

    .. math:: g(x) = \begin{cases} \alpha & x < 0 \\ \beta & x \ge 0 \end{cases} \qquad
              f(x) = \begin{cases} \alpha x & x < 0 \\ \beta x & x \ge 0 \end{cases}

    Parameters
    ----------
    alpha : float or array, default 0.1
        Slope below the threshold, finite, dimensionless.
    beta : float or array, default 1.0
        Slope above it, finite, dimensionless.

    Notes
    -----
    Peak :math:`\max(\alpha, \beta)`, area unbounded, no decay. Its primal is 0 at the threshold. ``LeakyRelu(1, 1)``
    is the straight-through estimator.

    References
    ----------
    Bengio, Léonard, Courville 2013, "Estimating or propagating gradients through stochastic neurons for conditional
    computation", arXiv:1308.3432 (the straight-through estimator).

    Examples
    --------
    >>> import jax
    >>> from spikegrad import LeakyRelu
    >>> slope = jax.grad(LeakyRelu(alpha=0.25, beta=1.0))
    >>> float(slope(-3.0)), float(slope(3.0))
    (0.25, 1.0)
    """

    _formula = "α for x < 0, β for x ≥ 0"
    alpha: Real = parameter(default=0.1)
    beta: Real = parameter(default=1.0)

    def surrogate_fun(self, x):
        return jnp.where(x < 0, self.alpha * x, self.beta * x)

    def surrogate_grad(self, x):
        return jnp.where(x < 0, self.alpha, self.beta)


leaky_relu = functional(LeakyRelu)


class LogTailedRelu(Surrogate, pure=True):
    r"""Straight-through near the threshold, 1/x above 1: g(x) = α for x ≤ 0, 1 for 0 < x ≤ 1, 1/x for x > 1.

    .. math:: g(x) = \begin{cases} \alpha & x \le 0 \\ 1 & 0 < x \le 1 \\ 1/x & x > 1 \end{cases} \qquad
              f(x) = \begin{cases} \alpha x & x \le 0 \\ x & 0 < x \le 1 \\ 1 + \ln x & x > 1 \end{cases}

    Parameters
    ----------
    alpha : float or array, default 0.0
        Slope at and below the threshold, finite, dimensionless. At the default a silent neuron learns nothing.

    Notes
    -----
    Peak :math:`\max(\alpha, 1)`, area unbounded. Its primal is 0 at the threshold, and has a continuous derivative at
    :math:`x = 1`.

    References
    ----------
    Cai et al. 2017, "Deep learning with low precision by half-wave Gaussian quantization", CVPR, 5406-5414.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import LogTailedRelu
    >>> slope = jax.grad(LogTailedRelu(alpha=0.5))
    >>> float(slope(0.0)), float(slope(1.0)), float(slope(4.0))
    (0.5, 1.0, 0.25)
    """

    _formula = "α for x ≤ 0, 1 for 0 < x ≤ 1, 1/x for x > 1"
    alpha: Real = parameter(default=0.0)

    def surrogate_fun(self, x):
        tail = 1 + jnp.log(jnp.where(x > 1, x, 1))
        return jnp.where(x > 1, tail, jnp.where(x > 0, x, self.alpha * x))

    def surrogate_grad(self, x):
        return jnp.where(x > 0, 1 / jnp.where(x > 1, x, 1), self.alpha)


log_tailed_relu = functional(LogTailedRelu)
