"""The few pieces that the formulas are built of.

Two rules keep them accurate in every dtype. A curve that runs from 0 to 1 is given by its tail, ``f(-|x|)``, so that
neither end is a difference of nearly equal numbers. And where a formula has two branches, each stays finite in value
and derivative on the other's side.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def magnitude(x: jax.Array) -> jax.Array:
    """``|x|``, with derivative +1 at 0, where that of ``jnp.abs`` is 0: a primal needs its slope there."""
    return jnp.where(x < 0, -x, x)


def signed(x: jax.Array, y: jax.Array) -> jax.Array:
    """``y`` where ``x >= 0``, ``-y`` elsewhere: the odd function of which ``y`` is the half for positive x."""
    return jnp.where(x < 0, -y, y)


def from_tail(x: jax.Array, tail: jax.Array) -> jax.Array:
    """The curve from 0 to 1 that is ``tail`` for negative x and symmetric about one half."""
    return jnp.where(x < 0, tail, 1 - tail)
