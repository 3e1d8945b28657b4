"""Parts of formulas, accurate to the last bits and fast enough to be memory-bound.

Three rules keep the formulas accurate in every dtype. A curve from 0 to 1 is computed from its
tail, ``f(-|x|)``, so neither end is a difference of nearly equal numbers. If a formula has two
branches, each of them stays finite in value and derivative outside of its domain. A value that
would overflow on the way to 0 is bounded first.

Polynomials in float32 replace functions of JAX that are slower on CPUs: ``jnp.sin`` by a factor of
50, ``jnp.exp`` by 3 and ``jnp.log1p`` by 2, with equal or lower accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._rule import derivative


def odd(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the odd function with the positive half ``y``: ``y`` for ``x >= 0``, else ``-y``."""
    return jnp.where(x < 0, -y, y)


def from_tail(x: jax.Array, tail: jax.Array) -> jax.Array:
    """Return the curve that is ``tail`` for negative x and symmetric about one half."""
    return jnp.where(x < 0, tail, 1 - tail)


def bounded(z: jax.Array, limit: float | None = None) -> jax.Array:
    """Clip ``z`` to numbers with finite squares, or to a limit beyond which the curve is 0."""
    if limit is None:
        limit = math.sqrt(float(jnp.finfo(z.dtype).max)) / 4
    return jnp.clip(z, -limit, limit)


def shortcut(
    when: jax.Array, special: Callable[[], jax.Array], general: Callable[[], jax.Array]
) -> jax.Array:
    """Use a faster formula for some values of a parameter, if it is one number for all elements."""
    if when.ndim:
        return general()
    return jax.lax.cond(when, special, general)


def split(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Split ``a`` into a sum of two numbers with half of the bits, so products of halves are
    exact."""
    info = jnp.finfo(a.dtype)
    high = jax.lax.reduce_precision(a, info.nexp, info.nmant // 2)
    high = jax.lax.stop_gradient(high)
    return high, a - high


def reciprocal(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return ``1/a`` as a sum of two numbers: the rounded quotient and its error."""
    w = 1 / a
    a1, a2 = split(a)
    w1, w2 = split(w)
    # 1 - a w, summed from exact products of halves, the largest first. It is the error that the
    # rounded quotient leaves.
    lack = (((1 - a1 * w1) - a1 * w2) - a2 * w1) - a2 * w2
    return w, jax.lax.stop_gradient(lack * w)


def inverse_square(alpha: Any, x: jax.Array) -> jax.Array:
    """Return ``(1 + alpha |x|)^-2``, squared after the division.

    The square of the sum would overflow earlier.
    """
    r = 1 / (1 + alpha * jnp.abs(x))
    return r * r


# Coefficients, the highest power first. ``scripts/fit_coefficients.py`` defines and fits them by
# least maximum.
EXP = (1.38131448e-3, 8.36941879e-3, 4.16684560e-2, 0.166665152, 0.49999994)
LOG1P = (
    -0.0763438419,
    0.127654269,
    -0.131620049,
    0.142013684,
    -0.166231439,
    0.200012356,
    -0.250008255,
    0.333333313,
)
SIN_TURN = (
    -14.394304275512695,
    42.009830474853516,
    -76.70428466796875,
    81.605224609375,
    -41.34170150756836,
)

# ln 2 as a sum: few bits, so products with a count are exact, and the remainder.
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.1219444005469057e-4


def _polynomial(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """Evaluate a polynomial in float32, the highest power first."""
    first, *others = coefficients
    total = jnp.float32(first)
    for coefficient in others:
        total = total * x + coefficient
    return total


def _bits(a: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(a, jnp.int32)


def _power_of_two(k: jax.Array) -> jax.Array:
    """Return ``2^k`` from its bits, if it is a normal float32."""
    return jax.lax.bitcast_convert_type((k + 127) << 23, jnp.float32)


@jax.custom_jvp
def exp(z: jax.Array) -> jax.Array:
    """Return ``e^z`` for ``z <= 88``.

    In float32 the error is within 1 ulp, at half the cost of ``jnp.exp``.

    ``z = k ln 2 + r``, with ``ln 2`` in two parts to make ``r`` exact, a polynomial for ``e^r``
    (relative error 5e-9 on ``|r| <= 0.35``), and ``2^k`` by its bits. ``k`` is read as an integer
    from the last bits of a sum with ``1.5 * 2^23``. A compiler may cancel a sum and a difference of
    floats.
    """
    if z.dtype != jnp.float32:
        return jnp.exp(z)
    shift = jnp.float32(1.5 * 2**23)
    # log2(e), so k is the nearest integer to z / ln 2.
    count = _bits(z * 1.4426950408889634 + shift) - _bits(shift)
    k = count.astype(jnp.float32)
    r = (z - k * _LN2_HIGH) - k * _LN2_LOW
    p = _polynomial(r, (*EXP, 1, 1))
    # Below the normal numbers, 0.
    return jnp.where(z < -87.336545, 0, p * _power_of_two(count))


# e^z is its own derivative. The polynomial's derivative would be less accurate and cost more.
exp.defjvps(lambda dz, y, z: y * dz)


def _expm1_over(y):
    # The series 1 + y/2! + y^2/3! + ... in Horner's form, to y^15 / 16!, below 2^-53 for y < 1/2.
    # The quotient is inexact in its derivative there, as a difference of large terms.
    small = jnp.abs(y) < 0.5
    near = jnp.where(small, y, 0)
    series = jnp.ones_like(y)
    for k in range(16, 1, -1):
        series = 1 + near / k * series
    far = jnp.where(small, 1, y)
    return jnp.where(small, series, jnp.expm1(far) / far)


@jax.custom_jvp
def expm1_over(y: jax.Array) -> jax.Array:
    """Return ``expm1(y)/y``, also at 0.

    Its derivatives are accurate near 0 too, unlike those of the quotient.
    """
    return _expm1_over(y)


def _slope_of_expm1_over(y: jax.Array) -> jax.Array:
    # One number, at most 1/2 for y <= 0. The product of its terms with a large tangent would
    # overflow.
    return derivative(_expm1_over, y)


expm1_over.defjvps(lambda dy, out, y: _slope_of_expm1_over(y) * dy)


def rise_of_exp(alpha: Any, x: jax.Array) -> jax.Array:
    """Return ``1/2 + (e^(alpha x) - 1)/alpha`` for ``x <= 0``, accurate also in a tail that goes to
    0.
    """
    z = alpha * x
    # For alpha = 2 the constant of the tail is 0, and the exponential keeps all of its bits.
    tail = (0.5 - 1 / alpha) + exp(z) / alpha
    near = 0.5 + jnp.expm1(z) / alpha
    return jnp.where(z < -1, tail, near)


@jax.custom_jvp
def log1p(t: jax.Array) -> jax.Array:
    """Return ``log(1 + t)`` for finite ``t >= 0``.

    In float32 the error is within 1.5 ulp, from 1e-37 on.

    ``1 + t = 2^k (1 + f)``, with ``f`` between ``sqrt(1/2) - 1`` and ``sqrt(2) - 1`` and rounded
    once, and a polynomial for ``log(1 + f) - (f - f^2/2)`` (relative error of the sum 7e-9).
    """
    if t.dtype != jnp.float32:
        return jnp.log1p(t)
    # The bits of a float32 grow with it, and its exponent starts at bit 23. So k is the number of
    # octaves of 1 + t above sqrt(1/2).
    lowest = jnp.float32(math.sqrt(0.5))
    k = (_bits(1 + t) - _bits(lowest)) >> 23
    scale = _power_of_two(2 - k)  # because 2^-k may be subnormal
    # f = (1 + t) / 2^k - 1, without the rounding of 1 + t.
    f = (scale / 4 - 1) + t / 4 * scale
    p = _polynomial(f, LOG1P)
    k = k.astype(jnp.float32)
    return k * _LN2_HIGH + (f + (f * f * (f * p - 0.5) + k * _LN2_LOW))


log1p.defjvps(lambda dt, y, t: dt / (1 + t))


@jax.custom_jvp
def logistic_slope(z: jax.Array) -> jax.Array:
    """Return ``sigma(z) sigma(-z)``, without the cancellation of ``sigma(z) (1 - sigma(z))``."""
    e = exp(-jnp.abs(z))  # at most 1
    r = 1 / (1 + e)
    return e * (r * r)


# The derivative of the formula above would cancel near 0.
logistic_slope.defjvps(lambda dz, y, z: -y * jnp.tanh(z / 2) * dz)


@jax.custom_jvp
def logistic(z: jax.Array) -> jax.Array:
    """Return ``sigma(z)``, with small values as accurate as large values."""
    e = exp(-jnp.abs(z))
    return jnp.where(z < 0, e, 1) / (1 + e)


logistic.defjvps(lambda dz, y, z: logistic_slope(z) * dz)


@jax.custom_jvp
def cauchy(w: jax.Array) -> jax.Array:
    """Return ``1/(1 + w^2)``."""
    return 1 / (1 + w * w)  # 0 if the square is infinite


# The product of y and y would underflow first.
cauchy.defjvps(lambda dw, y, w: -2 * (y * bounded(w)) * y * dw)


@jax.custom_jvp
def inverse_hypotenuse(w: jax.Array) -> jax.Array:
    """Return ``(1 + w^2)^(-1/2)`` for finite squares."""
    return 1 / jnp.sqrt(1 + w * w)


# -w y^3. The first product is at most 1, so none of them overflows.
inverse_hypotenuse.defjvps(lambda dw, y, w: -(y * w) * y * y * dw)


def turns(x: jax.Array, period: Any) -> jax.Array:
    """Return ``x/period`` minus the nearest integer.

    It is accurate to rounding up to 2^24 periods. There the spacing of float32 is one period. For
    periods that are powers of two it is accurate everywhere.
    """
    period = jnp.asarray(period, x.dtype)
    q = bounded(x / period)

    def exact():  # for an exact quotient
        return q - jax.lax.stop_gradient(jnp.round(q))

    def reduced():
        # x - k period, in products without rounding: the period is a sum of two halves of its bits.
        near = jnp.abs(q) < 1 << 24
        remainder = jnp.where(near, x, 0)
        high, low = split(period)
        for many in (4096, 1):  # a count of 12 bits times a half of the period is exact
            k = jnp.round(remainder / (many * period))
            k = jax.lax.stop_gradient(k)
            # Two stages, because a count of up to 24 bits would not be exact in a product with a
            # half of the period.
            remainder = (remainder - k * (many * high)) - k * (many * low)
        return jnp.where(near, remainder / period, exact())

    mantissa, _ = jnp.frexp(jax.lax.stop_gradient(period))
    return shortcut(mantissa == 0.5, exact, reduced)


def multiple(t: jax.Array, k: int) -> jax.Array:
    """Return ``k t`` minus the nearest integer, for ``|t| <= 1/2``, without the rounding of the
    product.
    """
    # The product of k and the high half is exact, so is its distance from the nearest integer.
    high, low = split(t)
    product = k * high
    return (product - jnp.round(product)) + k * low


@jax.custom_jvp
def sin_turn(t: jax.Array) -> jax.Array:
    """Return ``sin(2 pi t)`` for ``|t| <= 1/2``."""
    return _sin_quarter(_to_quarter(t))


@jax.custom_jvp
def cos_turn(t: jax.Array) -> jax.Array:
    """Return ``cos(2 pi t)`` for ``|t| <= 1/2``."""
    return _sin_quarter(0.25 - jnp.abs(t))


sin_turn.defjvps(lambda dt, y, t: 2 * math.pi * cos_turn(t) * dt)
cos_turn.defjvps(lambda dt, y, t: -2 * math.pi * sin_turn(t) * dt)


def _to_quarter(t: jax.Array) -> jax.Array:
    # The sine of half a turn minus an angle is the sine of the angle.
    is_beyond = jnp.abs(t) > 0.25
    mirrored = jnp.copysign(0.5, t) - t
    return jnp.where(is_beyond, mirrored, t)


def _sin_quarter(t: jax.Array) -> jax.Array:
    """Return ``sin(2 pi t)`` for ``|t| <= 1/4``, in float32 by a polynomial in t (relative error
    8e-9).
    """
    if t.dtype != jnp.float32:
        return jnp.sin(2 * math.pi * t)
    u = t * t
    p = _polynomial(u, SIN_TURN)
    # 2 pi in two parts, because its rounding would be the largest error
    return t * (p * u - 1.7484555e-7) + t * 6.2831854820251465
