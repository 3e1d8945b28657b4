"""Asymmetric slopes: the two sides of the threshold differ."""

from __future__ import annotations

import math

import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import (
    bounded,
    exp,
    inverse_square,
    logistic,
    logistic_slope,
    reciprocal,
    rise_of_exp,
)


class S2NN(Surrogate, pure=True):
    r"""Logistic below the threshold, logarithmic above: g(x) = α σ(αx) σ(−αx) for x < 0, β/(1 + x)
    for x ≥ 0.

    .. math:: g(x) = \begin{cases} \alpha\,\sigma(\alpha x)\,\sigma(-\alpha x) & x < 0 \\
              \frac{\beta}{1 + x} & x \ge 0
              \end{cases} \qquad
              f(x) = \begin{cases} \sigma(\alpha x) & x < 0 \\
              \beta \ln(1 + x + \epsilon) + \frac12 & x \ge 0
              \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 4.0
        Steepness :math:`\alpha` below the threshold, above 0, without a unit. A larger number makes
        this part of the slope narrower and higher.
    beta : float or array, default 1.0
        Slope :math:`\beta` at the threshold and just above it, any finite number, without a unit.
    epsilon : float or array, default 1e-8
        Small number :math:`\epsilon` in the logarithm of the smooth step, at least 0. The slope
        does not use it.

    Notes
    -----
    At the threshold, the slope jumps from :math:`\alpha/4` to :math:`\beta`, and the larger one is
    its peak. Below the threshold it falls exponentially, and above it like :math:`\beta/x`. So its
    area is infinite.

    References
    ----------
    Suetake et al. 2022, "S2NN: time step reduction of spiking surrogate gradients for training
    energy efficient single-step neural networks", arXiv:2201.10879.

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
        # Each side gets arguments of its own, so the side that is not taken stays finite. The
        # derivative of the last ``where`` multiplies it by 0, and 0 times infinity is NaN. All
        # shapes below do this too.
        below = jnp.where(x < 0, x, 0)
        above = jnp.where(x < 0, 0, x)
        e = exp(self.alpha * below)
        log = self.beta * jnp.log1p(above + self.epsilon) + 0.5
        return jnp.where(x < 0, e / (1 + e), log)

    def surrogate_grad(self, x):
        slope_below = self.alpha * logistic_slope(self.alpha * x)
        above = jnp.where(x < 0, 0, x)
        return jnp.where(x < 0, slope_below, self.beta / (1 + above))


s2nn = functional(S2NN)


class LeakyRelu(Surrogate, pure=True):
    r"""A constant on each side: g(x) = α for x < 0, β for x ≥ 0.

    .. math:: g(x) = \begin{cases} \alpha & x < 0 \\ \beta & x \ge 0 \end{cases} \qquad
              f(x) = \begin{cases} \alpha x & x < 0 \\ \beta x & x \ge 0 \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 0.1
        Slope :math:`\alpha` below the threshold, any finite number, without a unit.
    beta : float or array, default 1.0
        Slope :math:`\beta` at the threshold and above it, any finite number, without a unit.

    Notes
    -----
    The peak of the slope is the larger one of both parameters. The slope does not fall, so its area
    is infinite. The smooth step is 0 at the threshold. ``LeakyRelu(1, 1)`` is the straight-through
    estimator, which passes gradients unchanged.

    References
    ----------
    Bengio, Léonard, Courville 2013, "Estimating or propagating gradients through stochastic neurons
    for conditional computation", arXiv:1308.3432 (the straight-through estimator).

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
    r"""Straight-through near the threshold, 1/x above 1: g(x) = α for x ≤ 0, 1 for 0 < x ≤ 1, 1/x
    for x > 1.

    .. math:: g(x) = \begin{cases} \alpha & x \le 0 \\ 1 & 0 < x \le 1 \\
              1/x & x > 1 \end{cases} \qquad
              f(x) = \begin{cases} \alpha x & x \le 0 \\ x & 0 < x \le 1 \\
              1 + \ln x & x > 1 \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 0.0
        Slope :math:`\alpha` at the threshold and below it, any finite number, without a unit. With
        the default 0, a neuron that never spikes learns nothing, so pass a positive number.

    Notes
    -----
    The peak of the slope is :math:`\max(\alpha, 1)`, and its area is infinite. The smooth step is 0
    at the threshold.

    References
    ----------
    Cai et al. 2017, "Deep learning with low precision by half-wave Gaussian quantization", CVPR,
    5406-5414.

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
        distance = jnp.where(x > 1, x, 1)
        lines = jnp.where(x > 0, x, self.alpha * x)
        return jnp.where(x > 1, 1 + jnp.log(distance), lines)

    def surrogate_grad(self, x):
        distance = jnp.where(x > 1, x, 1)
        return jnp.where(x > 0, 1 / distance, self.alpha)


log_tailed_relu = functional(LogTailedRelu)


class OneSidedInvSquare(Surrogate, pure=True):
    r"""Inverse square below the threshold, 1 above: g(x) = 1/(1 + α·max(−x, 0))².

    .. math:: g(x) = \begin{cases} \frac{1}{(1 + \alpha |x|)^2} & x < 0 \\
              1 & x \ge 0 \end{cases} \qquad
              f(x) = \begin{cases} \frac12 + \frac{x}{1 + \alpha |x|} & x < 0 \\
              \frac12 + x & x \ge 0 \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 20.0
        Steepness :math:`\alpha` below the threshold, above 0, without a unit. With a larger number,
        the slope falls faster below the threshold. An array must broadcast to ``x``.

    Notes
    -----
    The slope is 1 at the threshold and above it, with a kink at the threshold, so its area is
    infinite. Far below the threshold, it is about :math:`1/(\alpha x)^2`. It equals
    :class:`~spikegrad.InvSquareGrad` below the threshold.

    References
    ----------
    Rossbroich, Gygax, Zenke 2022, "Fluctuation-driven initialization for spiking neural network
    training", Neuromorphic Computing and Engineering 2(4):044016 (``SuperSpike_MemClamp`` in their
    library stork).

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import OneSidedInvSquare
    >>> slope = jax.grad(OneSidedInvSquare(alpha=4.0))
    >>> float(slope(-0.25)), float(slope(2.0))
    (0.25, 1.0)
    """

    _formula = "1/(1 + α·max(−x, 0))²"
    alpha: Real = parameter(default=20.0, above=0)

    def surrogate_fun(self, x):
        distance = jnp.where(x < 0, -x, 0)
        # ``bounded`` keeps t / (1 + t) finite for an infinite distance.
        t = bounded(self.alpha * distance)
        below = 0.5 - t / (1 + t) / self.alpha
        return jnp.where(x < 0, below, 0.5 + x)

    def surrogate_grad(self, x):
        below = jnp.where(x < 0, x, 0)
        return inverse_square(self.alpha, below)


class OneSidedExp(Surrogate, pure=True):
    r"""Exponential below the threshold, 1 above: g(x) = exp(α·min(x, 0)).

    .. math:: g(x) = \begin{cases} e^{\alpha x} & x < 0 \\ 1 & x \ge 0 \end{cases} \qquad
              f(x) = \begin{cases} \frac12 + \frac{e^{\alpha x} - 1}{\alpha} & x < 0 \\
              \frac12 + x & x \ge 0
              \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness :math:`\alpha` below the threshold, above 0, without a unit. With a larger number,
        the slope falls faster below the threshold. An array must broadcast to ``x``.

    Notes
    -----
    The slope is 1 at the threshold and above it, with a kink at the threshold, so its area is
    infinite. It falls exponentially below the threshold. Use it for graded spikes, whose height is
    the potential.

    References
    ----------
    Shrestha, Orchard 2018, "SLAYER: spike layer error reassignment in time", NeurIPS 31:1412-1421.
    Intel's library lava-dl uses this side with ``graded_spike=True``.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import OneSidedExp
    >>> slope = jax.grad(OneSidedExp(alpha=2.0))
    >>> print(f"{slope(-0.5):.4f} {slope(3.0):.4f}")
    0.3679 1.0000
    """

    _formula = "exp(α·min(x, 0))"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        below = jnp.where(x < 0, x, 0)
        rise = rise_of_exp(self.alpha, below)
        return jnp.where(x < 0, rise, 0.5 + x)

    def surrogate_grad(self, x):
        below = jnp.where(x < 0, x, 0)
        return exp(self.alpha * below)


class EscapeExp(Surrogate, pure=True):
    r"""Slope of an exponential escape rate: g(x) = (p/d) exp(min(x/d, 10)).

    .. math:: g(x) = \frac{p}{d}\, e^{u}, \qquad f(x) = p\,e^{u} \left(1 + \frac{x}{d} - u\right),
              \qquad u = \min\left(\frac{x}{d}, 10\right)

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    p : float or array, default 0.01
        Probability :math:`p` of a spike at the threshold, above 0, without a unit.
    d : float or array, default 0.133
        Width :math:`d`, above 0, in the unit of ``x``. The slope rises by a factor of e over this
        difference of potentials.

    Notes
    -----
    The smooth step is the probability of a spike, :math:`p\,e^{x/d}`, until it reaches 1. It is
    :math:`p` at the threshold. The slope still grows above, as published, so its area is infinite.
    At :math:`x = 10 d` and above, the slope is constant and the smooth step is a straight line, so
    that no number overflows. Below the threshold, the slope falls exponentially.

    References
    ----------
    Gygax, Zenke 2025, "Elucidating the theoretical underpinnings of surrogate gradient learning in
    spiking neural networks", Neural Computation 37: the slope should be the derivative of the
    probability. Defaults of stork.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import EscapeExp
    >>> fire = EscapeExp(p=0.1, d=0.5)
    >>> print(f"{fire.surrogate_fun(0.5):.4f} {jax.grad(fire)(0.5):.4f}")
    0.2718 0.5437
    """

    _formula = "(p/d) exp(min(x/d, 10))"
    p: Real = parameter(default=0.01, above=0)
    d: Real = parameter(default=0.133, above=0)

    def surrogate_fun(self, x):
        grows = self._grows(x)
        beyond = jnp.where(grows, 0, x)
        # The tangent at u = 10: p e^10 (1 + x/d - 10).
        line = self.p * math.exp(10) * (beyond / self.d - 9)
        return jnp.where(grows, self.p * self._rise(x, grows), line)

    def surrogate_grad(self, x):
        grows = self._grows(x)
        rise = jnp.where(grows, self._rise(x, grows), math.exp(10))
        return self.p / self.d * rise

    def _grows(self, x):
        return x <= 10 * self.d

    def _rise(self, x, grows):
        growing = jnp.where(grows, x, 0)
        # exp(-1000) is 0 in every dtype, and -inf / d would have a derivative of NaN.
        growing = jnp.maximum(growing, -1000 * self.d)
        return exp(growing / self.d)


class Softplus(Surrogate, pure=True):
    r"""The probability itself as the slope: g(x) = σ(αx).

    .. math:: g(x) = \sigma(\alpha x), \qquad
              f(x) = \frac12 + \frac{\ln(1 + e^{\alpha x}) - \ln 2}{\alpha}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 10.0
        Steepness :math:`\alpha` of the slope, above 0, without a unit. With a larger number, the
        slope rises faster at the threshold. An array must broadcast to ``x``.

    Notes
    -----
    The slope is 1/2 at the threshold, and rises to 1 above it, so its area is infinite. It falls
    exponentially below the threshold. For :func:`~spikegrad.stochastic` spikes with the probability
    :math:`\sigma(\alpha x)`, the derivative of the probability is :class:`~spikegrad.Sigmoid`. This
    slope is the probability itself.

    References
    ----------
    Heckel, Nowotny 2024, "Spyx: a library for just-in-time compiled optimization of spiking neural
    networks", arXiv:2402.18994. Their ``sigmoid_bernoulli`` has this slope with the height
    ``max_prob``.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import Softplus
    >>> slope = jax.grad(Softplus(alpha=10.0))
    >>> print(f"{slope(-0.2):.4f} {slope(0.0):.4f} {slope(0.2):.4f}")
    0.1192 0.5000 0.8808
    """

    _formula = "σ(αx)"
    alpha: Real = parameter(default=10.0, above=0)

    def surrogate_fun(self, x):
        # ln(1 + e^ax) - ln 2 is max(ax, 0) + ln((1 + e^-|ax|) / 2), without an overflow, and the
        # last logarithm is ln(1 + (e^-|ax| - 1) / 2), exact near 0.
        fall = jnp.expm1(-self.alpha * jnp.abs(x))
        flank = jnp.log1p(fall / 2) / self.alpha
        ramp = jnp.where(x < 0, 0, x)
        return 0.5 + (ramp + flank)

    def surrogate_grad(self, x):
        return logistic(self.alpha * x)


class HardTanhGrad(Surrogate, pure=True):
    r"""Ramp from 0 to 2: g(x) = 1 + clip(αx, −1, 1).

    .. math:: g(x) = 1 + \mathrm{clip}(\alpha x, -1, 1), \qquad
              f(x) = \begin{cases} \frac12 - \frac{1}{2\alpha} & x < -1/\alpha \\
              \frac12 + x + \frac{\alpha x^2}{2} & |x| \le 1/\alpha \\
              \frac12 + 2x - \frac{1}{2\alpha} & x > 1/\alpha \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 1.0
        Steepness :math:`\alpha` of the slope, above 0, without a unit. With a larger number, the
        slope rises faster at the threshold. An array must broadcast to ``x``.

    Notes
    -----
    The slope is 1 at the threshold, 0 at and below :math:`-1/\alpha`, and 2 at and above
    :math:`1/\alpha`, with kinks at these two points. So its area is infinite. For the slope
    :math:`1 + \mathrm{sech}^2(\alpha x)` without kinks, write ``LeakyRelu(1, 1) + 2 / alpha *
    Sigmoid(2 * alpha)``.

    References
    ----------
    Rossbroich, Gygax, Zenke 2022, "Fluctuation-driven initialization for spiking neural network
    training", Neuromorphic Computing and Engineering 2(4):044016 (``HardTanhSpike`` in their
    library stork, with 100).

    Examples
    --------
    >>> import jax
    >>> from spikegrad.surrogates import HardTanhGrad
    >>> slope = jax.grad(HardTanhGrad(alpha=2.0))
    >>> float(slope(-1.0)), float(slope(-0.25)), float(slope(3.0))
    (0.0, 0.5, 2.0)
    """

    _formula = "1 + clip(αx, −1, 1)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        w, distance, past = self._places(x)
        ramp = (1 - w) / 2 + self.alpha * distance * distance / 2
        line = 2 * x + (1 - w) / 2
        return jnp.where(past, line, ramp)

    def surrogate_grad(self, x):
        _, distance, past = self._places(x)
        return jnp.where(past, 2, self.alpha * distance)

    def _places(self, x):
        """Return half-width, distance from the start of the ramp (0 outside), and True if x is
        above the ramp.
        """
        w, lack = reciprocal(jnp.asarray(self.alpha, x.dtype))
        past = (x - w) - lack > 0
        within = jnp.where(past, 0, x)
        distance = (within + w) + lack
        return w, jnp.where(distance > 0, distance, 0), past
