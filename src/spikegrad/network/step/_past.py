"""The past of a source: its last outputs, ``(depth, batch, neurons)``, the oldest first.

Masked steps do not count: a masked example keeps its past. Therefore the examples of a chunk may
read outputs of different steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._checks import append_axes
from ..._pytree import PyTree
from ._masks import steps_before


class Places(NamedTuple):
    """The positions of the outputs of a chunk among the active steps."""

    before: jax.Array
    """The number of active steps of the chunk before each step, ``(chunk,)`` or ``(chunk,
    batch)``.
    """
    order: jax.Array
    """The active steps in order, followed by the masked steps. Same shape."""
    active_count: jax.Array
    """The number of active steps: a scalar, or ``(batch,)``."""


def places_of(active: jax.Array | None) -> Places | None:
    """Return the places for the mask of a chunk, or None without a mask."""
    if active is None:
        return None
    return Places(
        before=steps_before(active, len(active)),
        order=active_first(active),
        active_count=active.sum(0, dtype=int),
    )


def active_first(active: jax.Array) -> jax.Array:
    """Return the active steps in order, followed by the masked steps, for a mask of any steps."""
    # A mask may be a constant of the program. Without a barrier, XLA sorts it while it compiles.
    # This takes seconds for 100,000 entries.
    active = jax.lax.optimization_barrier(active)
    return jnp.argsort(~active, axis=0, stable=True)


def lagged(
    past: jax.Array,
    outs: Any,
    lag: int,
    chunk: int,
    places: Places | None,
) -> jax.Array:
    """Return the outputs ``lag`` steps before each step of a chunk, ``(chunk, batch, neurons)``.

    ``past`` is the past before the chunk. A lag of at least a chunk does not need ``outs``.
    """
    if lag == 0:
        return outs
    # The place of the first output in the past.
    first = len(past) - lag
    # Without a mask all examples read the same steps, so slices suffice. A chunk of one step
    # reads the past only, which has no masked steps.
    if places is None or chunk == 1:
        old = past[first : first + chunk]
        if lag >= chunk:
            return old
        recent = outs[: chunk - lag].astype(old.dtype)
        return jnp.concatenate([old, recent])
    packed = past
    if lag < chunk:
        packed = jnp.concatenate([past, pick(outs, places.order)])
    # Active steps are packed together here, so ``lag`` counts active steps and skips masked
    # ones.
    return pick(packed, places.before + first)


def lagged_sequence(x: jax.Array, lag: int, mask: jax.Array | None = None) -> jax.Array:
    """Return the outputs ``lag`` steps before each step of a sequence, ``(steps, batch, ...)``.

    Zeros precede the first step.
    """
    past = jnp.zeros((lag, *x.shape[1:]), x.dtype)
    # All steps are one chunk.
    return lagged(past, x, lag, len(x), places_of(mask))


def push(past: jax.Array, outs: jax.Array, places: Places | None = None) -> jax.Array:
    """Return the past after a chunk, or after one step."""
    depth = len(past)
    if places is None:
        # The oldest outputs leave. The past keeps its dtype, since it is in the carry of a scan.
        remaining = past[len(outs) :]
        newest = outs[-depth:].astype(past.dtype)
        return jnp.concatenate([remaining, newest])
    # (depth + chunk, batch, neurons): the active steps are together, the masked ones last.
    packed = jnp.concatenate([past, pick(outs, places.order)])
    steps = jnp.arange(depth, dtype=int)
    steps = append_axes(steps, 1 + places.active_count.ndim)
    return pick(packed, steps + places.active_count[None])


def pick(tree: PyTree, steps: jax.Array) -> PyTree:
    """Select steps of a sequence, ``(n,)``, or ``(n, batch)`` for separate steps of each
    example.
    """
    if steps.ndim == 1:
        return jax.tree.map(lambda a: a[steps], tree)
    # vmap over the examples, because devices may shard them
    pick_for_each = jax.vmap(lambda example, steps: example[steps], 1, 1)
    return jax.tree.map(lambda a: pick_for_each(a, steps), tree)
