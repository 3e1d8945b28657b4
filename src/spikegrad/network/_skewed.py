"""Layers skewed in time: a plain scan that keeps one array for each layer and step, for every order of derivative.

A scan keeps for the backward pass what its body is given and what the derivative of its body needs. Two turns make
these one array:

- The state carried from step to step is the one *before* the spike. Spikes, resets and slopes are computed from it at
  the start of the next step, and once more in the backward pass. Nothing in the body needs the state that it ends
  with, so that no matrix product is computed again.
- At step k of the loop, layer l works on step k - l of the sequence. Its input, the output of the layer below, then
  comes from the carry too, and not from a product in the same body.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ._masks import Flags, tree_where, zero_pre_spike_states, zeros

_remat = functools.partial(
    jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.nothing_saveable
)  # in a scan nothing can be merged across the barrier, and the barrier costs


def run(layers: Any, inputs: jax.Array, states: Any, flags: Flags, segment: int | None, collect: tuple[bool, ...]):
    """States after the last step, and the outputs over time of each layer to collect (None for the others)."""
    depth = len(layers)

    def step(carry, now):
        us, delayed = carry  # delayed[l]: the flags of the step that layer l worked on one step of the loop before
        x, first = now
        fired = [layer.cell.fire(u) for layer, u in zip(layers, us, strict=True)]
        new = []
        for i, (layer, u) in enumerate(zip(layers, us, strict=True)):
            if i == 0 and x is None:  # the sequence has ended, and the layers above are still on their way to it
                new.append(u)
                continue
            flag = delayed[i - 1] if i else first
            before = tree_where(flag.begun, fired[i], states[i])
            if flag.cut is not None:
                before = tree_where(flag.cut, jax.lax.stop_gradient(before), before)
            after = layer.integrate(before, x if i == 0 else fired[i - 1][1])
            new.append(tree_where(flag.active, after, u))
        outs = [
            tree_where(flag.active, out, jnp.zeros_like(out)) if wanted else None
            for wanted, (_, out), flag in zip(collect, fired, delayed, strict=True)
        ]
        active = (first.begun | True) if first.active is None else first.active
        return (new, [first._replace(active=active), *delayed[:-1]]), outs

    idle = zeros(jax.tree.map(lambda flag: flag[0], flags._replace(active=flags.begun)), flags)
    carry = zero_pre_spike_states(layers, states, inputs[0]), [idle] * depth

    body = _remat(step)
    if segment is None:
        carry, outs = jax.lax.scan(body, carry, (inputs, flags))
    else:
        whole = len(inputs) // segment * segment
        parts, rest = _split((inputs, flags), whole)
        parts = jax.tree.map(lambda a: a.reshape(-1, segment, *a.shape[1:]), parts)
        carry, outs = jax.lax.scan(_remat(lambda c, part: jax.lax.scan(body, c, part)), carry, parts)
        outs = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), outs)
        if whole < len(inputs):
            carry, more = jax.lax.scan(body, carry, rest)
            outs = jax.tree.map(lambda *a: jnp.concatenate(a), outs, more)
    unroll = depth <= 2  # two steps, most of which is nothing, cost less to compile than one more loop
    (us, _), tail = jax.lax.scan(
        body, carry, (None, jax.tree.map(lambda f: jnp.stack([f] * depth), idle)), unroll=unroll
    )

    # layer l is l + 1 steps late: of what it gave before its first step, and what the tail held back, nothing is left
    outs = [
        jnp.concatenate([main[i + 1 :], late[: i + 1]]) if wanted else None
        for i, (wanted, main, late) in enumerate(zip(collect, outs, tail, strict=True))
    ]
    begun = None if flags.active is None else flags.begun[-1] | flags.active[-1]
    ends = [tree_where(begun, layer.cell.fire(u), start) for layer, u, start in zip(layers, us, states, strict=True)]
    return ends, outs


def _split(tree: Any, at: int) -> tuple[Any, Any]:
    """The first ``at`` steps, and the others. Nothing is copied if there are no others."""
    if all(len(leaf) == at for leaf in jax.tree.leaves(tree)):
        return tree, None
    return jax.tree.map(lambda leaf: leaf[:at], tree), jax.tree.map(lambda leaf: leaf[at:], tree)
