"""The arithmetic of chips, written once for three kinds of numbers.

A cell calls these functions with

- arrays of JAX: floats with integer values, in training. They have the derivative of the
  real-valued operation.
- arrays of NumPy: int64, in :func:`~spikegrad.integers.replay`.
- :class:`Term`: the text of an expression of C, in :func:`~spikegrad.integers.to_c`.

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
from .._surrogate import Surrogate
from ..surrogates import stretched

LARGEST = 2**24
"""All integers up to this one are exact in float32."""

Number: TypeAlias = Any
"""An array of JAX or NumPy, or a :class:`Term`."""
Factor: TypeAlias = Any
"""A parameter: an integer, or a tuple of one for each neuron."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _straight_through(
    exact: Callable[..., jax.Array], real: Callable[..., jax.Array], *x: jax.Array
) -> jax.Array:
    """Return ``exact(*x)`` with the derivative of ``real(*x)``."""
    del real
    return exact(*x)


@_straight_through.defjvp
def _(exact, real, primals, tangents):
    return _straight_through(exact, real, *primals), jax.jvp(real, primals, tangents)[1]


def _exact(exact: Callable, real: Callable, *x: Number) -> Number:
    # Parameters are arguments, because a closure must not hold a traced array.
    if isinstance(x[0], jax.Array):
        return _straight_through(exact, real, *x)
    return exact(*x)


def rounded(x: jax.Array) -> jax.Array:
    """Round to the nearest integer, ties to even, with the derivative 1."""
    return _straight_through(jnp.round, lambda x: x, x)


def like(x: Number, factor: Factor) -> Number:
    """Return a parameter as a factor of ``x``."""
    if isinstance(x, jax.Array):
        return jnp.broadcast_to(jnp.asarray(factor, x.dtype), x.shape)
    return factor if isinstance(x, Term) else np.asarray(factor)


def scaled(x: Number, factor: Factor, fraction: int, rounding: str) -> Number:
    """Return ``factor x / 2**fraction``, rounded to the ``"floor"`` or toward ``"zero"``.

    The factor is from 0 to ``2**fraction``, and ``fraction`` at most 12.
    """
    if isinstance(x, Term):
        return x.call(f"scaled_{rounding}", factor, fraction)

    def exact(x, factor):
        # The product has up to 36 bits. Its high part is a whole number of units, and its low
        # part, below 2**fraction, has a product of 24 bits.
        size = abs(x) if rounding == "zero" else x
        high = _over(size, fraction)
        low = size - high * 2**fraction
        size = high * factor + _over(low * factor, fraction)
        return _sign(x) * size if rounding == "zero" else size

    def real(x, factor):
        return x * (factor / 2**fraction)

    return _exact(exact, real, x, like(x, factor))


def leaked(x: Number, shift: Factor) -> Number:
    """Return ``x - (x >> shift)``, where a positive number loses at least 1."""
    if isinstance(x, Term):
        return x.call("leaked", shift)

    def exact(x, power):
        xp = jnp if isinstance(x, jax.Array) else np
        loss = xp.floor_divide(x, power)
        return x - xp.where(x > 0, xp.maximum(loss, 1), loss)

    return _exact(
        exact, lambda x, power: x * (1 - 1 / power), x, like(x, 2 ** np.asarray(shift))
    )


def wrapped(x: Number, bits: int) -> Number:
    """Keep the lowest bits, as two's complement."""
    if isinstance(x, Term):
        return x.call("wrapped", bits)

    def exact(x):
        half = 1 << (bits - 1)
        if isinstance(x, jax.Array):
            # A quotient by a power of two is exact, and x + half may need 25 bits.
            return x - jnp.floor(x / (2 * half) + 0.5) * (2 * half)
        if (abs(x) > LARGEST).any():
            raise OverflowError(
                f"a sum of {abs(x).max()} is above {LARGEST} and not exact in float32"
            )
        return (x + half) % (2 * half) - half

    return _exact(exact, lambda x: x, x)


def clipped(x: Number, low: int, high: int) -> Number:
    """Saturate. The derivative is 0 beyond the limits."""
    if isinstance(x, Term):
        return x.call("clipped", low, high)
    if isinstance(x, jax.Array):
        # Not jnp.clip, whose derivative at a limit is 1/2.
        return jax.lax.clamp(jnp.asarray(low, x.dtype), x, jnp.asarray(high, x.dtype))
    return np.clip(x, low, high)


def counted(distance: Number, threshold: Factor, most: int, surrogate: Any) -> Number:
    """Return the number of spikes: how often a potential reaches its threshold, up to ``most``.

    ``distance`` is the potential minus the threshold.
    """
    if isinstance(distance, Term):
        return distance.call("counted", threshold, most)
    threshold = like(distance, threshold)
    if isinstance(distance, jax.Array):
        if not isinstance(surrogate, Surrogate):  # a function with a custom derivative
            return surrogate(distance / threshold)
        # Counted in integers. XLA rounds a quotient by a constant otherwise than a division.
        curve = stretched(surrogate, threshold) * (1 / threshold)
        return multi_spike(curve, most, threshold)(distance)
    return np.clip(distance // threshold + 1, 0, most)


def fired(distance: Number, unit: float, surrogate: Callable[..., Any]) -> Number:
    """Return a spike where the distance to the threshold is not negative."""
    if isinstance(distance, Term):
        return distance.call("fired")
    if isinstance(distance, jax.Array):
        # A quotient keeps the sign of an integer, however it is rounded.
        return surrogate(distance / unit)
    return (distance >= 0).astype(np.int64)


def in_units(x: Number, unit: float) -> Number:
    """Return the potential of a readout as a real number. C reads the integers."""
    if isinstance(x, Term):
        return x
    dtype = np.float32 if x.dtype == np.int64 else x.dtype
    # The reciprocal is rounded once, because XLA rounds a quotient by a constant otherwise.
    return x.astype(dtype) * np.asarray(1 / unit, dtype)


def _over(x: Number, bits: int) -> Number:
    """Return ``x / 2**bits``, rounded down."""
    return jnp.floor(x / 2**bits) if isinstance(x, jax.Array) else x >> bits


def _sign(x: Number) -> Number:
    return jnp.sign(x) if isinstance(x, jax.Array) else np.sign(x)


class Block:
    """Lines of C for neuron ``i``, and tables of constants."""

    def __init__(self, name: str) -> None:
        self.name, self.lines = name, []
        self.tables: dict[tuple[int, ...], str] = {}

    def define(self, expression: str) -> Term:
        """Define a variable."""
        term = Term(f"x{len(self.lines)}", self)
        self.lines.append(f"const int32_t {term} = {expression};")
        return term

    def constant(self, value: Any) -> str:
        """Return a term or number as text. Numbers of each neuron become a table."""
        if not isinstance(value, tuple):
            return str(value)
        name = f"{self.name}_c{len(self.tables)}"
        return f"{self.tables.setdefault(value, name)}[i]"


class Term:
    """A variable of C. Each operation on it defines the next variable."""

    def __init__(self, text: str, block: Block) -> None:
        self.text, self.block = text, block

    def __str__(self) -> str:
        return self.text

    def call(self, function: str, *arguments: Any) -> Term:
        """Call a function of C."""
        text = ", ".join(map(self.block.constant, (self, *arguments)))
        return self.block.define(f"{function}({text})")

    def __add__(self, other: Any) -> Term:
        return self.block.define(f"{self} + {self.block.constant(other)}")

    def __sub__(self, other: Any) -> Term:
        return self.block.define(f"{self} - {self.block.constant(other)}")

    def __rsub__(self, other: Any) -> Term:
        return self.block.define(f"{self.block.constant(other)} - {self}")

    def __mul__(self, other: Any) -> Term:
        return self.block.define(f"{self} * {self.block.constant(other)}")
