"""A scan whose stacked results need no memory before it starts.

``jax.lax.scan`` writes its stacked results into arrays of zeros. Zeros depend on nothing, and XLA
for CPUs runs what depends on nothing first. So the stacked results of all loops of a program exist
from its start, also those of loops that run one after the other. :func:`late_scan` writes into
arrays that depend on an array that the loop reads. The loop overwrites all their elements, so the
results are those of ``jax.lax.scan``.

What is not optimal: JAX traces the body once, for the shapes of its results, and copies this trace
into the loop. The first values of states and cotangents are zeros too, and exist from the start of
the program, one time step of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from ..._checks import append_axes
from ..._compat import explicit_sharding, match_varying_axes
from ..._pytree import PyTree

Carry = TypeVar("Carry")


def late_scan(
    body: Callable[[Carry, PyTree], tuple[Carry, PyTree]],
    carry: Carry,
    slices: PyTree,
    *,
    ready: PyTree,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Carry, PyTree]:
    """Return the results of ``jax.lax.scan``.

    ``ready`` has the arrays to wait for, in the shapes that one iteration reads: ``(batch, ...)``
    or ``(chunk, batch, ...)``. The loop is a plain scan if it has none.
    """
    if length is None:
        length = len(jax.tree.leaves(slices)[0])
    seeds = [leaf for leaf in jax.tree.leaves(ready) if 0 not in leaf.shape]
    # On an Explicit mesh, JAX cannot index a sharded axis.
    has_explicit_axes = any(map(explicit_sharding, seeds))
    # XLA removes a loop of one iteration, and its zeros.
    if length == 1 or not seeds or has_explicit_axes:
        return jax.lax.scan(body, carry, slices, length=length, reverse=reverse)
    # JAX remembers the trace of a compiled function, and copies it into the loop below.
    body = jax.jit(body, inline=True)
    first = jax.tree.map(lambda a: a[0], slices)
    _, types = jax.eval_shape(body, carry, first)
    stacks = jax.tree.map(lambda like: _first_values(seeds, length, like), types)
    # In ``shard_map`` the carry must not change its type.
    stacks = match_varying_axes(stacks, like=(carry, slices, seeds))

    def step_and_write(
        now: tuple[Carry, PyTree], indexed: tuple[jax.Array, PyTree]
    ) -> tuple[tuple[Carry, PyTree], None]:
        carry, stacks = now
        i, step = indexed
        carry, results = body(carry, step)

        def written(stack: jax.Array, result: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_index_in_dim(stack, result, i, 0)

        return (carry, jax.tree.map(written, stacks, results)), None

    numbered = jnp.arange(length), slices
    ends, _ = jax.lax.scan(step_and_write, (carry, stacks), numbered, reverse=reverse)
    return ends


def _first_values(
    seeds: list[jax.Array], length: int, like: jax.ShapeDtypeStruct
) -> jax.Array:
    """Return an array ``(length, *like.shape)`` that depends on each seed."""
    total = jnp.zeros((), like.dtype)
    for seed in seeds:
        # Devices may share the examples, so the leading axes that both arrays have stay.
        kept = 0
        for n, m in zip(seed.shape[:-1], like.shape, strict=False):
            if n != m:
                break
            kept += 1
        kept_axes = (slice(None),) * kept
        first_of_others = (0,) * (seed.ndim - kept)
        element = seed[kept_axes + first_of_others].astype(like.dtype)
        total = total + append_axes(element, len(like.shape))
    return jnp.broadcast_to(total, (length, *like.shape))
