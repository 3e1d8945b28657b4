"""The arithmetic of chips, written once for training and replay.

A cell calls these functions with

- arrays of JAX: floats with integer values, in training. They have the derivative of the
  real-valued operation.
- arrays of NumPy: int64, in :func:`~spikegrad.integers.replay`.

A float32 has 24 bits, so integers up to ``LARGEST`` are exact in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._spike_types import multi_spike
from ..surrogates import stretched

LARGEST = 2**24
"""All integers up to this one are exact in float32."""

Number: TypeAlias = Any
"""An array of JAX or NumPy."""
Factor: TypeAlias = Any
"""A parameter: an integer, or a tuple of one for each neuron."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _straight_through(exact: Callable, real: Callable, x: jax.Array) -> jax.Array:
    """Return ``exact(x)`` with the derivative of ``real(x)``."""
    del real
    return exact(x)


@_straight_through.defjvp
def _(exact, real, primals, tangents):
    return _straight_through(exact, real, *primals), jax.jvp(real, primals, tangents)[1]


def _exact(exact: Callable, real: Callable, x: Number) -> Number:
    return _straight_through(exact, real, x) if isinstance(x, jax.Array) else exact(x)


def rounded(x: jax.Array) -> jax.Array:
    """Round to the nearest integer, ties to even, with the derivative 1."""
    return _straight_through(jnp.round, lambda x: x, x)


def like(x: Number, factor: Factor) -> np.ndarray:
    """Return a parameter as a factor of ``x``."""
    # An array of NumPy is never traced, so the functions below may close over it.
    return np.array(factor, x.dtype, ndmin=x.ndim)


def scaled(x: Number, factor: Factor, fraction: int, rounding: str) -> Number:
    """Return ``factor x / 2**fraction``, rounded to the ``"floor"`` or toward ``"zero"``.

    The factor is from 0 to ``2**fraction``, and ``fraction`` at most 12.
    """
    factor, one = like(x, factor), 2**fraction

    def exact(x):
        # The product has up to 36 bits. Its high part is a whole number of units, and its low
        # part, below 2**fraction, has a product of 24 bits.
        size = abs(x) if rounding == "zero" else x
        high = _floor(size, one)
        size = high * factor + _floor((size - high * one) * factor, one)
        return _numpy(x).sign(x) * size if rounding == "zero" else size

    return _exact(exact, lambda x: x * (factor / one), x)


def leaked(x: Number, shift: Factor) -> Number:
    """Return ``x - (x >> shift)``, where a positive number loses at least 1."""
    power = like(x, 2 ** np.asarray(shift))

    def exact(x):
        loss = _floor(x, power)
        return x - _numpy(x).where((x > 0) & (loss == 0), 1, loss)

    return _exact(exact, lambda x: x * (1 - 1 / power), x)


def wrapped(x: Number, y: Number, bits: int) -> Number:
    """Return the lowest bits of ``x + y``, as two's complement. ``x`` has no more bits."""
    half = 2 ** (bits - 1)

    def wrap(x):
        # Halves first, because x + half may need 25 bits.
        return x - _floor(_floor(x, half) + 1, 2) * (2 * half)

    # The sum of two numbers of 24 bits is exact in float32, that of y itself may not be.
    return _exact(wrap, lambda x: x, x + _exact(wrap, lambda y: y, y))


def clipped(x: Number, low: int, high: int) -> Number:
    """Saturate. The derivative is 0 beyond the limits."""
    # Not clip, whose derivative at a limit is 1/2.
    where = _numpy(x).where
    return where(x < low, low, where(x > high, high, x))


def fired(
    distance: Number, threshold: Factor, most: int, unit: float, surrogate: Any
) -> Number:
    """Return how often a potential reaches its threshold in a step, up to ``most``.

    ``distance`` is the potential minus the threshold.
    """
    if not isinstance(distance, jax.Array):
        return np.clip(distance // threshold + 1, 0, most)
    if most == 1:
        # A quotient keeps the sign of an integer, however it is rounded.
        return surrogate(distance / unit)
    # Counted in integers, because XLA rounds a quotient by a constant otherwise than a division.
    curve = stretched(surrogate, unit) * (1 / unit)
    threshold = jnp.broadcast_to(like(distance, threshold), distance.shape)
    return multi_spike(curve, most, threshold)(distance)


def in_units(x: Number, unit: float) -> Number:
    """Return the potential of a readout as a real number."""
    dtype = np.float32 if x.dtype == np.int64 else x.dtype
    # The reciprocal is rounded once, because XLA rounds a quotient by a constant otherwise.
    return x.astype(dtype) * np.asarray(1 / unit, dtype)


def _floor(x: Number, power: Any) -> Number:
    """Return ``x / power``, rounded down. A quotient by a power of two is exact in floats."""
    return jnp.floor(x / power) if isinstance(x, jax.Array) else x // power


def _numpy(x: Number) -> Any:
    return jnp if isinstance(x, jax.Array) else np
