"""Composed surrogates: shifted, stretched, truncated. Sums and multiples are in ``_surrogate.py``.

Each is a curve: a slope, and a smooth step with the slope as its derivative. Settings of
the gradient rule apply to the composition.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from .._struct import Real, parameter
from .._surrogate import (
    Composition,
    Surrogate,
    composed,
    finite,
    slope_of,
    smooth_step_of,
)
from ._math import odd


class Shifted(Composition, pure=True):
    """The curve of :func:`shifted`."""

    surrogate: Surrogate = parameter(kind=Surrogate)
    center: Real = parameter()

    def _smooth_step(self, x):
        return smooth_step_of(self.surrogate, finite(x - self.center))

    def surrogate_grad(self, x):
        return slope_of(self.surrogate, finite(x - self.center))

    def _landmarks(self):
        return super()._landmarks() + float(self.center)


class Stretched(Composition, pure=True):
    """The curve of :func:`stretched`."""

    surrogate: Surrogate = parameter(kind=Surrogate)
    width: Real = parameter(above=0)

    def _smooth_step(self, x):
        # The integral of g(x / c) is c times that of g.
        unit_step = smooth_step_of(self.surrogate, finite(x / self.width))
        return unit_step.scaled(self.width)

    def surrogate_grad(self, x):
        return slope_of(self.surrogate, finite(x / self.width))

    def _landmarks(self):
        return super()._landmarks() * float(self.width)


class Truncated(Composition, pure=True):
    """The curve of :func:`truncated`."""

    surrogate: Surrogate = parameter(kind=Surrogate)
    half_width: Real = parameter(above=0)

    def _smooth_step(self, x):
        # The function jnp.clip halves the derivative at the edge.
        edge = odd(x, jnp.asarray(self.half_width, x.dtype))
        inside = jnp.abs(x) <= self.half_width
        return smooth_step_of(self.surrogate, jnp.where(inside, x, edge))

    def surrogate_grad(self, x):
        inside = jnp.abs(x) <= self.half_width
        return jnp.where(inside, slope_of(self.surrogate, x), 0)

    def _landmarks(self):
        h = float(self.half_width)
        # Points on both sides of each edge, so a measurement sees the jump.
        around_edges = [-2 * h, -h, h, 2 * h]
        return np.union1d(super()._landmarks(), around_edges)


def shifted(surrogate: Surrogate, center: Real) -> Surrogate:
    r"""Return a surrogate whose slope is moved along the axis of potentials. Its spikes do not
    change.

    .. math:: g(x) = g_s(x - c), \qquad f(x) = f_s(x - c)

    Here :math:`g_s` and :math:`f_s` are the slope and the smooth step of ``surrogate``, and ``x``
    is the potential minus the threshold. The spike is still at :math:`x = 0`.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate.
    center : float or array
        The new center :math:`c`, any finite number, in the unit of ``x``. With a negative number,
        the largest gradient is at potentials below the threshold. An array must broadcast to ``x``.

    Returns
    -------
    Surrogate
        The new surrogate. It has the spike type and the other settings of ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate or overrides ``__call__``, or if ``center`` is not real.
    ValueError
        If ``center`` is not finite.

    Notes
    -----
    The smooth step moves with the slope. A smooth step that rises from 0 to 1 and is 1/2 at the
    threshold is then 1/2 at the center.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import Sigmoid, shifted
    >>> fire = shifted(Sigmoid(4.0), 0.5)
    >>> fire
    shifted(Sigmoid(alpha=4.0), 0.5)
    >>> float(fire(0.25)), float(jax.grad(fire)(0.5))
    (1.0, 1.0)
    """
    return composed("shifted", lambda curve: Shifted(curve, center), surrogate)


def stretched(surrogate: Surrogate, width: Real) -> Surrogate:
    r"""Return a surrogate with a wider slope of equal height. Its spikes do not change.

    .. math:: g(x) = g_s(x / w), \qquad f(x) = m + w\,(f_s(x / w) - m)

    Here ``x`` is the potential minus the threshold. :math:`g_s` and :math:`f_s` are the slope and
    the smooth step of ``surrogate``, and :math:`m` is the value of :math:`f_s` at the threshold,
    usually 1/2. The area of the slope grows by the factor :math:`w`.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate.
    width : float or array
        The factor :math:`w` of the width, above 0, without a unit: 2 makes the slope twice as wide.
        An array must broadcast to ``x``.

    Returns
    -------
    Surrogate
        The new surrogate. It has the spike type and the other settings of ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate or overrides ``__call__``, or if ``width`` is not real.
    ValueError
        If ``width`` is not a finite number above 0.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import ReluGrad, stretched
    >>> fire = stretched(ReluGrad(alpha=1.0, width=1.0), 2.0)
    >>> (
    ...     float(jax.grad(fire)(0.0)),
    ...     float(jax.grad(fire)(1.0)),
    ...     float(jax.grad(fire)(2.0)),
    ... )
    (1.0, 0.5, 0.0)

    A factor also keeps the area:

    >>> float(jax.grad(0.5 * fire)(0.0))
    0.5
    """
    return composed("stretched", lambda curve: Stretched(curve, width), surrogate)


def truncated(surrogate: Surrogate, half_width: Real) -> Surrogate:
    r"""Return a surrogate whose slope is 0 far from the threshold. Its spikes do not change.

    .. math:: g(x) = \begin{cases} g_s(x) & |x| \le h \\ 0 & |x| > h \end{cases} \qquad
              f(x) = f_s(\mathrm{clip}(x, -h, h))

    Here :math:`g_s` and :math:`f_s` are the slope and the smooth step of ``surrogate``, and ``x``
    is the potential minus the threshold.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate.
    half_width : float or array
        The distance :math:`h` from the threshold, above 0, in the unit of ``x``. The slope is 0 at
        larger distances. An array must broadcast to ``x``.

    Returns
    -------
    Surrogate
        The new surrogate. It has the spike type and the other settings of ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate or overrides ``__call__``, or if ``half_width`` is not
        real.
    ValueError
        If ``half_width`` is not a finite number above 0.

    References
    ----------
    Perez-Nieves, Goodman 2021, "Sparse spiking gradient descent", NeurIPS 34: neurons with a slope
    of 0 need no computation backward.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import InvSquareGrad, truncated
    >>> fire = truncated(InvSquareGrad(alpha=4.0), 0.25)
    >>> float(jax.grad(fire)(0.25)), float(jax.grad(fire)(0.5))
    (0.25, 0.0)
    """
    return composed("truncated", lambda curve: Truncated(curve, half_width), surrogate)
