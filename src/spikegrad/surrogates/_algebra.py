"""Surrogates made of others: scaled, added, shifted, stretched, truncated.

Each is a curve like any: a slope, and a primal that has it for its derivative. Settings of the rule stand around the
whole, wherever they were given.

A primal is determined up to a constant, and these keep that of what they are made of: its value where that has its
threshold, 1/2 mostly. So a primal is computed as ``varying + constant``, with all constants of a composition collected
before they meet what varies: where they cancel, as in ``0.3 * s + 0.7 * t``, a small tail stays as accurate as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._compat import zeros_like
from .._struct import Real, is_pure, parameter, shown
from .._surrogate import Surrogate, curve_of, finite, with_curve
from ._math import signed


class _Primal(NamedTuple):
    """A primal at x: ``varying + constant``, and its value at the threshold of the curve."""

    varying: Any
    constant: Any
    middle: Any

    def scaled(self, factor: Real) -> _Primal:
        return _Primal(factor * self.varying, factor * self.constant + (1 - factor) * self.middle, self.middle)


def _inner(curve: Surrogate, name: str, x: jax.Array) -> jax.Array:
    """A curve within another one, whose formula keeps the contract of both where that of the inner one is known."""
    formula = getattr(getattr(type(curve), name), "__wrapped__", None)
    if formula is None or not is_pure(curve):
        return getattr(curve, name)(x)
    return jnp.asarray(formula(curve._fitted(x.dtype, x.shape), x), x.dtype)


def _slope(curve: Surrogate, x: jax.Array) -> jax.Array:
    return _inner(curve, "surrogate_grad", x)


def _primal(curve: Surrogate, x: jax.Array) -> _Primal:
    if isinstance(curve, Composition):
        return curve._fitted(x.dtype, x.shape)._primal(x)
    numbers = all(jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves(curve)) if curve._frozen else False
    threshold = jnp.zeros((), x.dtype) if numbers else zeros_like(x)
    return _Primal(_inner(curve, "surrogate_fun", x), 0.0, curve.surrogate_fun(threshold))


class Composition(Surrogate):
    """A curve made of curves."""

    @classmethod
    def _called(cls):
        return cls.__name__.lower()  # the public function that makes it

    def _primal(self, x: jax.Array) -> _Primal:
        raise NotImplementedError

    def _fitted(self, dtype, shape, of="x"):
        for name in self._objects:
            getattr(self, name)._fitted(dtype, shape, of)  # raises where a parameter does not broadcast
        return super()._fitted(dtype, shape, of)

    def _without_primal(self):
        return next(filter(None, (getattr(self, name)._without_primal() for name in self._objects)), "")

    def surrogate_fun(self, x):
        varying, constant, _ = self._primal(x)
        return varying + constant


class Scaled(Composition, pure=True):
    factor: Real = parameter()
    surrogate: Surrogate = parameter(kind=Surrogate)

    @classmethod
    def _called(cls):
        return "*"

    def _primal(self, x):
        return _primal(self.surrogate, x).scaled(self.factor)

    def surrogate_grad(self, x):
        return self.factor * _slope(self.surrogate, x)

    def __repr__(self) -> str:
        return f"{shown(self.factor)} * {_bracketed(self.surrogate, Scaled, Sum)}"


class Sum(Composition, pure=True):
    first: Surrogate = parameter(kind=Surrogate)
    second: Surrogate = parameter(kind=Surrogate)

    @classmethod
    def _called(cls):
        return "+"

    def _primal(self, x):
        a, b = _primal(self.first, x), _primal(self.second, x)
        middle = jnp.maximum(a.middle, b.middle)  # 1/2 where either has it
        constant = a.constant + b.constant + (middle - a.middle - b.middle)
        return _Primal(a.varying + b.varying, constant, middle)

    def surrogate_grad(self, x):
        return _slope(self.first, x) + _slope(self.second, x)

    def __repr__(self) -> str:
        return f"{self.first!r} + {_bracketed(self.second, Sum)}"


class Shifted(Composition, pure=True):
    surrogate: Surrogate = parameter(kind=Surrogate)
    center: Real = parameter()

    def _primal(self, x):
        return _primal(self.surrogate, finite(x - self.center))

    def surrogate_grad(self, x):
        return _slope(self.surrogate, finite(x - self.center))

    def _landmarks(self):
        return super()._landmarks() + float(self.center)

    def __repr__(self) -> str:
        return f"shifted({self.surrogate!r}, {shown(self.center)})"


class Stretched(Composition, pure=True):
    surrogate: Surrogate = parameter(kind=Surrogate)
    width: Real = parameter(above=0)

    def _primal(self, x):
        return _primal(self.surrogate, finite(x / self.width)).scaled(self.width)

    def surrogate_grad(self, x):
        return _slope(self.surrogate, finite(x / self.width))

    def _landmarks(self):
        return super()._landmarks() * float(self.width)

    def __repr__(self) -> str:
        return f"stretched({self.surrogate!r}, {shown(self.width)})"


class Truncated(Composition, pure=True):
    surrogate: Surrogate = parameter(kind=Surrogate)
    half_width: Real = parameter(above=0)

    def _primal(self, x):
        edge = signed(x, jnp.asarray(self.half_width, x.dtype))  # clip would halve the derivative there
        return _primal(self.surrogate, jnp.where(jnp.abs(x) <= self.half_width, x, edge))

    def surrogate_grad(self, x):
        return jnp.where(jnp.abs(x) <= self.half_width, _slope(self.surrogate, x), 0)

    def _landmarks(self):
        h = float(self.half_width)
        return np.union1d(super()._landmarks(), [-2 * h, -h, h, 2 * h])

    def __repr__(self) -> str:
        return f"truncated({self.surrogate!r}, {shown(self.half_width)})"


def _bracketed(curve: Surrogate, *kinds: type) -> str:
    return f"({curve!r})" if isinstance(curve, kinds) else repr(curve)


def _composed(owner: str, build: Callable[..., Surrogate], *surrogates: Surrogate) -> Surrogate:
    """What is built of the curves, under the settings of the rule that the surrogates have."""
    whole = build(*(curve_of(owner, surrogate) for surrogate in surrogates))
    first, *others = (with_curve(surrogate, whole) for surrogate in surrogates)
    if any(other != first for other in others):
        given = " and ".join(map(repr, surrogates))
        raise TypeError(f"{owner}: {given} have different settings: set them around the whole")
    return first


def scaled(surrogate: Surrogate, factor: Real) -> Surrogate:
    return _composed("*", lambda curve: Scaled(factor, curve), surrogate)


def added(surrogate: Surrogate, other: Surrogate) -> Surrogate:
    return _composed("+", Sum, surrogate, other)


Surrogate._scaled, Surrogate._added = staticmethod(scaled), staticmethod(added)


def shifted(surrogate: Surrogate, center: Real) -> Surrogate:
    r"""The same curves about another center.

    .. math:: g(x) = g_s(x - c), \qquad f(x) = f_s(x - c)

    The step stays where it is, at :math:`x = 0`.

    Parameters
    ----------
    surrogate : Surrogate
        With or without settings of the rule.
    center : float or array
        :math:`c`, where the curves are as those of ``surrogate`` at the threshold; finite, in the units of ``x``. An
        array broadcasts to ``x``.

    Returns
    -------
    Surrogate
        With the settings that ``surrogate`` has.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate or overrides ``__call__``, or if ``center`` is not real.
    ValueError
        If ``center`` is not finite.

    Notes
    -----
    The primal moves with the slope: one that rises from 0 to 1 does so still, and is 1/2 at the center.

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
    return _composed("shifted", lambda curve: Shifted(curve, center), surrogate)


def stretched(surrogate: Surrogate, width: Real) -> Surrogate:
    r"""The same slope, wider: its height stays, and its area grows with its width.

    .. math:: g(x) = g_s(x / w), \qquad f(x) = m + w\,(f_s(x / w) - m)

    with :math:`m` the value of :math:`f_s` at the threshold, 1/2 mostly.

    Parameters
    ----------
    surrogate : Surrogate
        With or without settings of the rule.
    width : float or array
        :math:`w`, how many times as wide; > 0, dimensionless. An array broadcasts to ``x``.

    Returns
    -------
    Surrogate
        With the settings that ``surrogate`` has.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate or overrides ``__call__``, or if ``width`` is not real.
    ValueError
        If ``width`` is not finite and > 0.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import ReluGrad, stretched
    >>> fire = stretched(ReluGrad(alpha=1.0, width=1.0), 2.0)
    >>> float(jax.grad(fire)(0.0)), float(jax.grad(fire)(1.0)), float(jax.grad(fire)(2.0))
    (1.0, 0.5, 0.0)

    The area stays as well with a factor:

    >>> float(jax.grad(0.5 * fire)(0.0))
    0.5
    """
    return _composed("stretched", lambda curve: Stretched(curve, width), surrogate)


def truncated(surrogate: Surrogate, half_width: Real) -> Surrogate:
    r"""The same slope within a window about the threshold, and 0 outside.

    .. math:: g(x) = \begin{cases} g_s(x) & |x| \le h \\ 0 & |x| > h \end{cases} \qquad
              f(x) = f_s(\mathrm{clip}(x, -h, h))

    Parameters
    ----------
    surrogate : Surrogate
        With or without settings of the rule.
    half_width : float or array
        :math:`h`, > 0, in the units of ``x``. An array broadcasts to ``x``.

    Returns
    -------
    Surrogate
        With the settings that ``surrogate`` has.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate or overrides ``__call__``, or if ``half_width`` is not real.
    ValueError
        If ``half_width`` is not finite and > 0.

    References
    ----------
    Perez-Nieves, Goodman 2021, "Sparse spiking gradient descent", NeurIPS 34: neurons whose slope is 0 need no
    computation backward.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import InvSquareGrad, truncated
    >>> fire = truncated(InvSquareGrad(alpha=4.0), 0.25)
    >>> float(jax.grad(fire)(0.25)), float(jax.grad(fire)(0.5))
    (0.25, 0.0)
    """
    return _composed("truncated", lambda curve: Truncated(curve, half_width), surrogate)
