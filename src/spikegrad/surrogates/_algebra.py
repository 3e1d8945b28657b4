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
        return smooth_step_of(self.surrogate, finite(x / self.width)).scaled(self.width)

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
        return jnp.where(jnp.abs(x) <= self.half_width, slope_of(self.surrogate, x), 0)

    def _landmarks(self):
        h = float(self.half_width)
        # Points on both sides of each edge, so a measurement sees the jump.
        return np.union1d(super()._landmarks(), [-2 * h, -h, h, 2 * h])


def shifted(surrogate: Surrogate, center: Real) -> Surrogate:
    r"""Move the curves of a surrogate to another center.

    .. math:: g(x) = g_s(x - c), \qquad f(x) = f_s(x - c)

    The step stays at :math:`x = 0`.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate, with or without settings.
    center : float or array
        The new center :math:`c`, finite, in the unit of ``x``. An array broadcasts to ``x``.

    Returns
    -------
    Surrogate
        The composition, with the settings of ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate or overrides ``__call__``, or if ``center`` is not real.
    ValueError
        If ``center`` is not finite.

    Notes
    -----
    The smooth step moves with the slope. If it rises from 0 to 1 around the threshold, it now is
    1/2 at the center.

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
    r"""Widen the slope of a surrogate. Its peak stays, and its area grows with the width.

    .. math:: g(x) = g_s(x / w), \qquad f(x) = m + w\,(f_s(x / w) - m)

    with :math:`m` the value of :math:`f_s` at the threshold, usually 1/2.

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate, with or without settings.
    width : float or array
        The factor :math:`w` > 0, dimensionless. An array broadcasts to ``x``.

    Returns
    -------
    Surrogate
        The composition, with the settings of ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate or overrides ``__call__``, or if ``width`` is not real.
    ValueError
        If ``width`` is not finite and > 0.

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
    r"""Set the slope of a surrogate to 0 outside of a window about the threshold.

    .. math:: g(x) = \begin{cases} g_s(x) & |x| \le h \\ 0 & |x| > h \end{cases} \qquad
              f(x) = f_s(\mathrm{clip}(x, -h, h))

    Parameters
    ----------
    surrogate : Surrogate
        Any surrogate, with or without settings.
    half_width : float or array
        The half-width :math:`h` > 0 of the window, in the unit of ``x``. An array broadcasts to
        ``x``.

    Returns
    -------
    Surrogate
        The composition, with the settings of ``surrogate``.

    Raises
    ------
    TypeError
        If ``surrogate`` is not a surrogate or overrides ``__call__``, or if ``half_width`` is not
        real.
    ValueError
        If ``half_width`` is not finite and > 0.

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
