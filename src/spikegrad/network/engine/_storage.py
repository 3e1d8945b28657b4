"""Storage of pre-spike states for the backward pass: unchanged, in 16 bits, or in 8 bits.

Each storage is an object that declares its errors and the orders of derivatives that it supports.
``_modes`` lists them.

A cell's ``encode`` splits a state into the distance to the threshold and a remainder. The sign of
the distance is the spike. :class:`Half` stores both in bfloat16. :class:`EightBit` stores the
distance in a byte. It stores the remainder in bfloat16, because a readout's potential or a trace
may have any size. Integers and bools are stored unchanged, and so is the state of a cell without
``encode``.

Graded and stochastic spikes depend on the value of the distance too. :meth:`Storage.settle`
preserves them.

A byte holds a sign and one of 128 codes. All neurons of one example in one step share a unit. It is
the smallest power of two that makes the largest finite magnitude representable. In this unit, a
code means

=========  ===================================================================================
0          zero, which fires
1 to 125   4 bits of exponent and 3 of mantissa: magnitudes from 9/8 to 53,248, within 1/16
126, 127   infinity, NaN
=========  ===================================================================================

A wide range matters more than the last bit. A neuron far from its threshold must not round the
distances of other neurons to zero, because their slopes carry the gradient. With 3 bits of exponent
and 4 of mantissa, the gradient of synaptic layers had an error of one half.

A neuron at rest stays at one distance for many time steps. A rounding error of this distance does
not average out. It acts as a potential that the neuron does not have, and the gradient of a decay
adds it up. So distances are divided by a factor near 1 that makes the distance at rest a power of
two (:func:`_factor`). Both formats store powers of two exactly.

What is not optimal: all storages encode a state at a time, so they use no similarity of consecutive
steps. In 8 bits, one neuron far from its threshold coarsens the distances of its example. Graded
and stochastic spikes fire up to three more times, to find the code that repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ..._checks import compute_dtype
from ..._compat import depends, shard_as
from ..._pytree import PyTree, is_inexact
from ...neurons import Cell

BFLOAT16 = jnp.finfo(jnp.bfloat16)

AtRest: TypeAlias = Callable[[PyTree], jax.Array]
"""The distance to the threshold of a neuron at rest, as a function of the second value of
``encode``.
"""


def distance_at_rest(cell: Cell, encoded: PyTree, shape: tuple[int, ...]) -> AtRest:
    """Return the :data:`AtRest` of a cell.

    It is derived from ``encode``, ``decode`` and ``initial_state``.

    ``shape`` is the shape of the current, which may have an axis of receptors after the neurons.
    The arrays of a state that ``decode`` computes from the distance get their initial values. All
    other arrays are unchanged.
    """
    distance, remainder = encoded
    # distance: (batch, neurons). In an AdaptiveLIF the potential depends on the distance. The
    # adaptation does not, so it keeps its value.
    of_distance = depends(cell.decode, distance, remainder)

    def at_rest(remainder):
        # The distance passed to ``decode`` is arbitrary, because the arrays that depend on it are
        # replaced below.
        zeros = jnp.zeros(distance.shape, distance.dtype)
        u = cell.decode(zeros, remainder)
        resting = cell.initial_state(shape, distance.dtype)

        def replaced(part: jax.Array, initial: ArrayLike, varies: bool) -> jax.Array:
            return jnp.asarray(initial, part.dtype) if varies else part

        u = jax.tree.map(replaced, u, resting, of_distance)
        resting_distance, _ = cell.encode(u)
        return shard_as(jnp.asarray(resting_distance), distance)

    return at_rest


class Storage:
    """Storage of the unchanged state, and the base of all storages.

    A storage that encodes has the distance to the threshold in low precision, and the remainder of
    the state in 16 bits. It declares its errors, and its number format by :meth:`pack`,
    :meth:`unpack`, ``sign`` and ``largest``.

    A format must keep the sign of a distance, and powers of two exactly, see the module's text. So
    a format of 4 bits is not possible: 3 bits cannot have the powers of two of a useful range. The
    loops, :func:`~spikegrad.testing.check_cell` and the tests read everything else from here.
    """

    orders: ClassVar[float] = math.inf
    """The highest order of derivatives that a network supports."""
    encodes: ClassVar[bool] = False
    """If True, the network calls ``encode`` of the cell and passes the result to :meth:`write`."""
    error: ClassVar[float] = 0.0
    """The largest relative error of a stored distance, unless it is tiny compared with others of
    its example.
    """
    gradient_error: ClassVar[float] = 0.0
    """The tolerance of ``check_cell`` and the tests for gradients, relative to their norm."""

    sign: ClassVar[int]
    """The sign bit of a code. All lower bits increase with the magnitude."""
    largest: ClassVar[int]
    """The code of the largest finite magnitude."""

    def pack(self, distance: jax.Array) -> tuple[jax.Array, ...]:
        """Return the codes, and other arrays that :meth:`unpack` needs.

        There is a code for each distance, in an array of its shape, because :meth:`settle` moves
        codes one by one. They are unsigned integers, or the unchanged distances if :meth:`holds`
        is True.
        """
        raise NotImplementedError

    def unpack(self, packed: tuple[jax.Array, ...], dtype: DTypeLike) -> jax.Array:
        raise NotImplementedError

    def holds(self, dtype: DTypeLike) -> bool:
        """Return True if the format stores this dtype without error."""
        return False

    def write(self, encoded: PyTree, at_rest: AtRest | None = None) -> PyTree:
        """Store ``encoded``, the distance and the remainder of a state."""
        # distance: (batch, neurons). remainder: all arrays of the state that the distance does not
        # determine.
        distance, remainder = encoded
        if distance is not None:
            if at_rest is not None and not self.holds(distance.dtype):
                # The distance at rest, from the exact remainder and, as in the backward pass, from
                # the rounded one.
                resting = at_rest(remainder)
                read_resting = at_rest(jax.tree.map(_rounded, remainder))
                # Rounding an adaptation can shift the distance at rest by more than the neuron is
                # away from rest.
                away = jnp.abs(distance - resting)
                shift = jnp.abs(read_resting - resting)
                is_near = away <= shift
                # Replace the distance only if the sign is unchanged, because the sign is the spike.
                keeps_sign = (resting < 0) == (read_resting < 0)
                distance = jnp.where(is_near & keeps_sign, read_resting, distance)
                # This factor makes the distance at rest a power of two, which all formats store
                # exactly.
                factor = _factor(read_resting)
                # Division or rounding may give zero, and a distance of zero fires. A tiny negative
                # distance does not.
                scaled = distance.astype(factor.dtype) / factor
                tiny = jnp.asarray(-BFLOAT16.tiny, scaled.dtype)
                would_fire = (distance < 0) & (scaled > tiny)
                distance = jnp.where(would_fire, tiny, scaled)
            distance = self.pack(distance)
        return distance, jax.tree.map(_to_half, remainder)

    def read(
        self, residual: PyTree, like: PyTree, at_rest: AtRest | None = None
    ) -> PyTree:
        """Restore ``(distance, remainder)``, the result of ``encode``.

        ``like`` has the shapes and dtypes of that result.
        """
        packed, stored_remainder = residual
        distance_like, remainder_like = like
        remainder = jax.tree.map(
            lambda stored, like: _from_half(stored, like.dtype),
            stored_remainder,
            remainder_like,
        )
        if packed is None:
            return None, remainder
        dtype = distance_like.dtype
        if at_rest is None or self.holds(dtype):
            return self.unpack(packed, dtype), remainder
        # ``write`` computed the factor from the rounded remainder too, so both factors are equal.
        factor = _factor(at_rest(remainder))
        distance = self.unpack(packed, factor.dtype) * factor
        return distance.astype(dtype), remainder

    def settle(self, residual: PyTree, same: Callable[[PyTree], jax.Array]) -> PyTree:
        """Move a stored distance to the next number above or below if only that number gives the
        right spike, which ``same(residual)`` tests.

        A state is between two numbers of the format. The output increases with the distance, so at
        least one of the two has the output of the state. It may be the farther one.
        """
        distance, remainder = residual
        # Half has only codes, (batch, neurons). EightBit also has the exponent of the unit, (batch,
        # 1).
        codes, *unit = distance
        if not jnp.issubdtype(codes.dtype, jnp.unsignedinteger):
            return residual  # the state has 16 bits itself, and is stored exactly

        def with_codes(codes):
            return (codes, *unit), remainder

        # codes, fits: (batch, neurons). The three candidates fire in turn: the stored code, the
        # next above, the next below.
        fits = same(residual)
        for by in (1, -1):
            # A candidate replaces only codes that do not give the right spike so far.
            other = self._next(codes, by)
            better = ~fits & same(with_codes(other))
            codes = jnp.where(better, other, codes)
            fits = fits | better
        return with_codes(codes)

    def _next(self, codes: jax.Array, by: int) -> jax.Array:
        """Return the next codes above or below, and unchanged codes for infinity and NaN."""
        # Signed integers have the order of the numbers. This skips -0.
        code = codes.astype(jnp.int32)
        # size: the code of the magnitude, without the sign bit.
        size = code % self.sign
        number = jnp.where(code < self.sign, size, -size)
        moved = jnp.clip(number + by, -self.largest, self.largest)
        moved = jnp.where(moved < 0, self.sign - moved, moved)
        is_not_finite = size > self.largest
        return jnp.where(is_not_finite, code, moved).astype(codes.dtype)


def _factor(at_rest: jax.Array) -> jax.Array:
    """Return the magnitude of the distance at rest over the nearest power of two.

    It is between 0.71 and 1.41, and 1 for a distance of 0.
    """
    size = jnp.abs(at_rest).astype(compute_dtype(at_rest.dtype))
    # The factor jumps at the square root of two. Few thresholds are close to it, so both passes
    # compute equal factors even if compilers round differently. The bit mask keeps only the
    # exponent of a float32, which is a power of two.
    bits = _bits((size * 2**0.5).astype(jnp.float32))
    power = _float(bits & jnp.uint32(0x7F800000))
    is_normal = (power > 0) & (power < jnp.inf)
    return jnp.where(is_normal, size / power.astype(size.dtype), 1)


def _rounded(x: jax.Array) -> jax.Array:
    """Return ``x`` rounded to 16 bits. Compilers may remove a conversion to bfloat16 and back."""
    # 8 bits of exponent and 7 of mantissa are the format of bfloat16.
    return jax.lax.reduce_precision(x, 8, 7) if _is_long(x) else x


def _is_long(x: jax.Array) -> bool:
    return is_inexact(x) and jnp.finfo(x.dtype).bits > 16


def _to_half(x: jax.Array) -> jax.Array:
    if not _is_long(x):
        return x
    # Round to the nearest number, but never from below zero to zero, because the sign may be the
    # spike.
    tiny = jnp.asarray(-BFLOAT16.tiny, x.dtype)
    would_fire = (x < 0) & (x > tiny)
    half = jnp.where(would_fire, tiny, x).astype(jnp.bfloat16)
    # Stored as an integer. For processors without bfloat16 arithmetic, compilers would add a
    # float32 copy.
    return jax.lax.bitcast_convert_type(half, jnp.uint16)


def _from_half(stored: jax.Array, dtype: DTypeLike) -> jax.Array:
    if stored.dtype == dtype:
        return stored
    return jax.lax.bitcast_convert_type(stored, jnp.bfloat16).astype(dtype)


class Half(Storage):
    """Storage in bfloat16."""

    orders = 1
    encodes = True
    error = 2.0**-8
    gradient_error = 1e-2
    sign = 0x8000
    largest = 0x7F7F

    def holds(self, dtype: DTypeLike) -> bool:
        return jnp.finfo(dtype).bits <= 16

    def pack(self, distance: jax.Array) -> tuple[jax.Array, ...]:
        return (_to_half(distance),)

    def unpack(self, packed: tuple[jax.Array, ...], dtype: DTypeLike) -> jax.Array:
        return _from_half(packed[0], dtype)


_LARGEST = 53248.0
_INFINITY = 126
_NAN = 127
_ONE = 127 << 3  # the exponent and the mantissa's first 3 bits of 1.0
_SHIFT = 23 - 3  # the bits of a float32's mantissa that a code does not have


class EightBit(Storage):
    """Storage in bytes, in the format of the module's text."""

    orders = 1
    encodes = True
    error = 2.0**-4
    gradient_error = 0.1
    sign = 0x80
    largest = _INFINITY - 1

    def pack(self, distance: jax.Array) -> tuple[jax.Array, ...]:
        """Return the bytes, and the biased float32 exponent of the unit for each example."""
        x = distance
        # A code is a float32 with a shorter mantissa, so integer arithmetic on the bits of a
        # float32 computes it. size, scaled, code: (batch, neurons). largest, exponent: (batch, 1),
        # because devices may shard the examples.
        size = jnp.abs(x.astype(jnp.float32))
        # Infinity and NaN have their own codes and must not set the unit.
        finite = jnp.where(size < jnp.inf, size, 0)
        over = tuple(range(1, x.ndim)) if x.ndim > 1 else None
        largest = jnp.max(finite, axis=over, keepdims=True, initial=0)
        # To the next power of two, with mantissa 0.
        up = _bits(largest / _LARGEST) + jnp.uint32(0x7FFFFF)
        # From 1 to 253, so the unit and its inverse, with exponent 254 minus this one, are normal
        # float32 numbers.
        exponent = jnp.clip(up >> 23, 1, 253)
        inverse_unit = _float((jnp.uint32(254) - exponent) << 23)
        scaled = size * inverse_unit
        # The exponent and 3 bits of the mantissa. Adding half of the last bit first rounds to the
        # nearest code.
        half_of_last_bit = jnp.uint32(1 << (_SHIFT - 1))
        bits = _bits(jnp.maximum(scaled, 1)) + half_of_last_bit
        code = (bits >> _SHIFT) - jnp.uint32(_ONE)
        # Smaller magnitudes are between 0 and 9/8, the least nonzero magnitude. 9/16 is the middle.
        is_small = code == 0
        small_code = (scaled > 9 / 16).astype(jnp.uint32)
        code = jnp.where(is_small, small_code, code)
        would_fire = (x < 0) & (code == 0)
        code = jnp.where(would_fire, 1, code)
        is_infinite = size == jnp.inf
        code = jnp.where(jnp.isnan(size), _NAN, code)
        code = jnp.where(is_infinite, _INFINITY, code)
        # The sign is bit 7. A NaN and a distance of -0 have sign 0, because neither is less than
        # zero.
        sign = (x < 0).astype(jnp.uint32) << 7
        return (code | sign).astype(jnp.uint8), exponent.astype(jnp.uint8)

    def unpack(self, packed: tuple[jax.Array, ...], dtype: DTypeLike) -> jax.Array:
        # byte: (batch, neurons). exponent: (batch, 1), the unit of each example.
        # uint32, because the shifts below exceed 8 bits.
        byte, exponent = (part.astype(jnp.uint32) for part in packed)
        code = byte & jnp.uint32(127)
        # The product of the code as a float32 and its unit is exact, because the unit is a power of
        # two.
        size = _float((code + jnp.uint32(_ONE)) << _SHIFT)
        unit = _float(exponent << 23)
        size = size * unit
        is_zero = code == 0
        is_finite = code < _INFINITY
        other = jnp.where(code == _NAN, jnp.nan, jnp.inf)
        size = jnp.where(is_finite, size, other)
        size = jnp.where(is_zero, 0, size)
        is_negative = byte >> 7 > 0
        return jnp.where(is_negative, -size, size).astype(dtype)


EXACT = Storage()
HALF = Half()
EIGHT_BIT = EightBit()


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
