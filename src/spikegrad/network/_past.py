"""The past of a source: its last outputs, ``(depth, batch, neurons)``, the oldest first.

Only steps that take place count. An example that a mask leaves out at a step keeps its past, so that in a chunk of
steps the examples may read outputs of different steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._masks import steps_before


def push(past: jax.Array, out: jax.Array) -> jax.Array:
    """The past after a step."""
    return jnp.concatenate([past[1:], out[None].astype(past.dtype)])


class Places(NamedTuple):
    """Where the outputs of a chunk stand among those that take place."""

    before: Any
    """The number of steps of the chunk that take place before each: ``(chunk,)`` or ``(chunk, batch)``."""
    order: Any
    """The steps that take place, one after the other, then the others; of the same shape."""
    count: Any
    """The number of steps that take place: a scalar, or ``(batch,)``."""


def places_of(active: jax.Array | None) -> Places | None:
    """The places for a mask of a chunk. None if all steps take place, when nothing has to be looked up."""
    if active is None:
        return None
    return Places(
        steps_before(active, len(active)), jnp.argsort(~active, axis=0, stable=True), active.sum(0, dtype=int)
    )


def lagged(past: jax.Array, outs: jax.Array | None, lag: int, chunk: int, places: Places | None) -> jax.Array:
    """The outputs so many steps before each of a chunk, ``(chunk, batch, neurons)``.

    ``past`` is that before the chunk. The outputs of the chunk are not needed for a lag of its length or more.
    """
    if lag == 0:
        assert outs is not None
        return outs
    depth = len(past)
    if places is None or chunk == 1:
        old = past[depth - lag : depth - lag + chunk]
        return old if lag >= chunk or outs is None else jnp.concatenate([old, outs[: chunk - lag].astype(old.dtype)])
    known = past if lag >= chunk or outs is None else jnp.concatenate([past, pick(outs, places.order)])
    return pick(known, places.before + (depth - lag))


def after(past: jax.Array, outs: jax.Array, places: Places | None) -> jax.Array:
    """The past after a chunk."""
    depth = len(past)
    if places is None:
        return jnp.concatenate([past[len(outs) :], outs[-depth:].astype(past.dtype)])
    known = jnp.concatenate([past, pick(outs, places.order)])
    steps = jnp.arange(depth, dtype=int)
    return pick(known, steps.reshape(-1, *[1] * places.count.ndim) + places.count[None])


def pick(tree: Any, steps: jax.Array) -> Any:
    """Entries of a sequence. ``steps`` is ``(n,)``, or ``(n, batch)`` with other steps for each example."""
    if steps.ndim == 1:
        return jax.tree.map(lambda a: a[steps], tree)
    # vmap over the examples, which devices may share
    return jax.tree.map(lambda a: jax.vmap(lambda one, steps: one[steps], 1, 1)(a, steps), tree)
