"""The arithmetic of chips, written once for training and replay.

A cell calls these functions with

- arrays of JAX: floats with integer values, in training. They have the derivative of the
  real-valued operation.
- arrays of NumPy: int64, in :func:`~spikegrad.integers.replay`.

A float32 has 24 bits, so integers up to ``LARGEST`` are exact in it.
"""

from __future__ import annotations

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


def _exact(function: Callable, slope: Any, x: Number) -> Number:
    """Return ``function(x)`` with the derivative ``slope``, that of the real operation.

    ``slope`` is a number or an array that broadcasts to ``x``.
    """
    if not isinstance(x, jax.Array):  # integers of NumPy, in a replay
        return function(x)
    sloped = jax.custom_jvp(function)

    @sloped.defjvp
    def derivative(primals: tuple, tangents: tuple) -> tuple:
        (x,) = primals
        (tangent,) = tangents
        return sloped(x), slope * tangent

    return sloped(x)


def rounded(x: jax.Array) -> jax.Array:
    """Round to the nearest integer, ties to even, with the derivative 1."""
    return _exact(jnp.rint, 1, x)


def like(x: Number, factor: Factor) -> np.ndarray:
    """Return a parameter as a factor of ``x``."""
    # An array of NumPy is never traced, so the functions below may close over it.
    return np.array(factor, x.dtype, ndmin=x.ndim)


def scaled(x: Number, factor: Factor, fraction: int, rounding: str) -> Number:
    """Return ``factor x / 2**fraction``, rounded to the ``"floor"`` or toward ``"zero"``.

    The factor is from 0 to ``2**fraction``, and ``fraction`` at most 12.
    """
    factor = like(x, factor)
    one = 2**fraction

    def floor_of_product(x: Number) -> Number:
        # The product has up to 36 bits. Its high part is a whole number of units, and its low
        # part, below 2**fraction, has a product of 24 bits.
        high = _floor(x, one)
        low = x - high * one
        return high * factor + _floor(low * factor, one)

    def exact(x: Number) -> Number:
        if rounding == "floor":
            return floor_of_product(x)
        size = floor_of_product(abs(x))
        return _numpy(x).sign(x) * size

    return _exact(exact, factor / one, x)


def leaked(x: Number, shift: Factor) -> Number:
    """Return ``x - (x >> shift)``, where a positive number loses at least 1."""
    power = like(x, 2 ** np.asarray(shift))

    def exact(x: Number) -> Number:
        # An arithmetic shift rounds down, so a negative number always loses at least 1.
        loss = _floor(x, power)
        return x - where((x > 0) & (loss == 0), 1, loss)

    return _exact(exact, 1 - 1 / power, x)


def wrapped(x: Number, y: Number, bits: int) -> Number:
    """Return the lowest bits of ``x + y``, as two's complement. ``x`` has no more bits."""
    half = 2 ** (bits - 1)

    def wrap(x: Number) -> Number:
        # Halves first, because x + half may need 25 bits.
        turns = _floor(_floor(x, half) + 1, 2)
        return x - turns * (2 * half)

    # The sum of two numbers of 24 bits is exact in float32, that of y itself may not be.
    return _exact(wrap, 1, x + _exact(wrap, 1, y))


def clipped(x: Number, low: int, high: int) -> Number:
    """Saturate. The derivative is 0 beyond the limits."""
    # Not clip, whose derivative at a limit is 1/2.
    return where(x < low, low, where(x > high, high, x))


def fired(v: Number, threshold: Number, most: int, unit: Any, surrogate: Any) -> Number:
    """Return how often a potential reaches its threshold in a step, up to ``most``.

    The threshold is above 0.
    """
    if not isinstance(v, jax.Array):
        return np.clip(v // threshold, 0, most)
    distance = v - threshold
    unit = like(v, unit)
    if most == 1:
        # A quotient keeps the sign of an integer, however it is rounded.
        return surrogate(distance / unit)
    # Counted in integers, because XLA rounds a quotient by a constant otherwise than a division.
    curve = stretched(surrogate, unit) * (1 / unit)
    thresholds = jnp.broadcast_to(threshold, v.shape)
    return multi_spike(curve, most, thresholds)(distance)


def in_units(x: Number, unit: Any) -> Number:
    """Return the potential of a readout as a real number."""
    dtype = np.float32 if x.dtype == np.int64 else x.dtype
    # The reciprocal is rounded once, because XLA rounds a quotient by a constant otherwise.
    reciprocal = np.array(1 / np.asarray(unit), dtype, ndmin=x.ndim)
    return x.astype(dtype) * reciprocal


def where(condition: Number, x: Number, y: Number) -> Number:
    """Choose between two arrays, or an array and a number."""
    return _numpy(condition).where(condition, x, y)


def _floor(x: Number, power: Any) -> Number:
    """Return ``x / power``, rounded down. A quotient by a power of two is exact in floats."""
    return jnp.floor(x / power) if isinstance(x, jax.Array) else x // power


def _numpy(x: Number) -> Any:
    return jnp if isinstance(x, jax.Array) else np
