"""Slopes with edges: triangles, which are 0 outside a window, and the box, which is a constant
there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._functional import functional
from .._struct import Real, parameter
from .._surrogate import Surrogate
from ._math import from_tail, reciprocal


def _distance(x: jax.Array, edge: Real, lack: Real = 0.0) -> jax.Array:
    """Return the distance from ``|x|`` to the edge of a triangle, 0 outside.

    ``lack`` is the edge's rounding error.
    """
    distance = (edge - jnp.abs(x)) + lack
    return jnp.where(distance > 0, distance, 0)


class PiecewiseQuadratic(Surrogate, pure=True):
    r"""Triangle of area 1: g(x) = max(0, α − α²|x|).

    .. math:: g(x) = \max(0,\ \alpha - \alpha^2 |x|), \qquad
              f(x) = \begin{cases} 0 & x < -1/\alpha \\
              \alpha x (1 - \alpha |x| / 2) + \frac12 & |x| \le 1/\alpha \\
              1 & x > 1/\alpha \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 1.0
        Height :math:`\alpha` of the slope, above 0, without a unit. The slope is 0 at distances
        above :math:`1/\alpha`, so a larger number makes it narrower and higher. An array must
        broadcast to ``x``.

    Notes
    -----
    The peak of the slope is :math:`\alpha` at the threshold, with a kink. Its area is 1. It is 0 at
    distances above :math:`1/\alpha`. So a neuron whose potential stays further below the threshold
    learns nothing. :class:`ReluGrad` has height and width as two parameters.

    References
    ----------
    Esser et al. 2016, "Convolutional networks for fast, energy-efficient neuromorphic computing",
    PNAS 113(41):11441-11446. Bellec et al. 2018, "Long short-term memory and learning-to-learn in
    networks of spiking neurons", NeurIPS 31. Panda, Aketi, Roy 2020, "Toward scalable, efficient,
    and accurate deep spiking neural networks with backward residual connections, stochastic
    softmax, and hybridization", Frontiers in Neuroscience 14.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import PiecewiseQuadratic
    >>> (
    ...     float(jax.grad(PiecewiseQuadratic(alpha=2.0))(0.25)),
    ...     float(jax.grad(PiecewiseQuadratic(alpha=2.0))(0.5)),
    ... )
    (1.0, 0.0)
    """

    _formula = "max(0, α − α²|x|)"
    alpha: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        # The distance from the edge of the triangle, 1 at the threshold and 0 beyond the edge.
        side = self.alpha * self._distance(x)
        return from_tail(x, side * side / 2)

    def surrogate_grad(self, x):
        return self.alpha * (self.alpha * self._distance(x))

    def _distance(self, x):
        # The rounding of the edge would be felt near it.
        edge, lack = reciprocal(jnp.asarray(self.alpha, x.dtype))
        return _distance(x, edge, lack)


piecewise_quadratic = functional(PiecewiseQuadratic)


class ReluGrad(Surrogate, pure=True):
    r"""Triangle of any height and width: g(x) = max(0, α(w − |x|)).

    .. math:: g(x) &= \alpha \max(0,\ w - |x|), \\
              f(x) &= \frac12 + \alpha\left(w u - \frac{u |u|}{2}\right), \quad
              u = \mathrm{clip}(x, -w, w)

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    alpha : float or array, default 0.3
        Steepness :math:`\alpha` of both sides of the triangle, any finite number, without a unit. A
        larger number makes the slope higher. An array must broadcast to ``x``.
    width : float or array, default 1.0
        Half of the width of the triangle, :math:`w`, above 0, in the unit of ``x``. The slope is 0
        at larger distances from the threshold.

    Notes
    -----
    The peak of the slope is :math:`\alpha w` at the threshold, with a kink. Its area is
    :math:`\alpha w^2`. It is 0 at distances above :math:`w`. So a neuron whose potential stays
    further below the threshold learns nothing. A negative ``alpha`` gives a negative slope.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE
    Signal Processing Magazine 36(6):51-63.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import ReluGrad
    >>> print(f"{jax.grad(ReluGrad(alpha=0.3, width=1.0))(-0.5):.2f}")
    0.15
    """

    _formula = "max(0, α(w − |x|))"
    alpha: Real = parameter(default=0.3)
    width: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        area = self.alpha * self.width * self.width
        high = jnp.abs(area) > 2
        # A high curve is not near 0 at its ends, and the squares below may be infinite: infinity
        # minus infinity.
        reach = jnp.minimum(jnp.abs(x), self.width)
        steep = 0.5 - self.alpha * reach * (self.width - reach / 2)
        alpha = jnp.where(high, 1, self.alpha)
        width = jnp.where(high, 1, self.width)
        distance = _distance(x, width)
        flat = (1 - alpha * width * width) / 2 + alpha * distance * distance / 2
        return from_tail(x, jnp.where(high, steep, flat))

    def surrogate_grad(self, x):
        return self.alpha * _distance(x, self.width)


relu_grad = functional(ReluGrad)


class PiecewiseLeakyRelu(Surrogate, pure=True):
    r"""Box with a floor: g(x) = 1/(2w) for |x| ≤ w, c outside.

    .. math:: g(x) = \begin{cases} \frac{1}{2w} & |x| \le w \\ c & |x| > w \end{cases} \qquad
              f(x) = \begin{cases} cx + cw & x < -w \\ \frac{x}{2w} + \frac12 & |x| \le w \\
              cx - cw + 1 & x > w
              \end{cases}

    ``x`` is the potential minus the threshold. A call returns the spike: 1 if ``x`` is at least 0,
    and 0 otherwise. The backward pass uses the *slope* :math:`g` instead of the derivative of the
    spike. The *smooth step* :math:`f` is a function with the derivative :math:`g`. Ordinary spikes
    do not use it, but :func:`~spikegrad.soft` and :func:`~spikegrad.learnable` do.

    Parameters
    ----------
    c : float or array, default 0.01
        Slope :math:`c` outside of the window, any finite number, without a unit. 0 gives a box.
    w : float or array, default 1.0
        Half of the width of the window, :math:`w`, above 0, in the unit of ``x``. A larger number
        makes the box wider and lower.

    Notes
    -----
    The slope is :math:`1/(2w)` within the window, whose two ends belong to it. It jumps to
    :math:`c` outside. The box has the area 1. If :math:`c` is not 0, the area of the complete slope
    is infinite.

    References
    ----------
    Wu et al. 2018, "Spatio-temporal backpropagation for training high-performance spiking neural
    networks", Frontiers in Neuroscience 12:331. Huh, Sejnowski 2018, "Gradient descent for spiking
    neural networks", NeurIPS 31. Kaiser, Mostafa, Neftci 2020, "Synaptic plasticity dynamics for
    deep continuous local learning (DECOLLE)", Frontiers in Neuroscience 14:424.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import PiecewiseLeakyRelu
    >>> slope = jax.grad(PiecewiseLeakyRelu(c=0.25, w=1.0))
    >>> float(slope(1.0)), float(slope(1.5))
    (0.5, 0.25)
    """

    _formula = "1/(2w) for |x| ≤ w, c outside"
    c: Real = parameter(default=0.01)
    w: Real = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        a = jnp.abs(x)
        # The line through (w, 0) on each side: slope 1/(2w) within the box, c beyond it, continuous
        # at w.
        return from_tail(x, (self.w - a) * self._slope(a))

    def surrogate_grad(self, x):
        return self._slope(jnp.abs(x))

    def _slope(self, a):
        inside = a <= self.w
        height = 1 / (2 * self.w)
        return jnp.where(inside, height, self.c)


piecewise_leaky_relu = functional(PiecewiseLeakyRelu)
