"""What both engines share: which steps count, where a loop starts, and what it needs to run in ``jax.shard_map``."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Flags(NamedTuple):
    """Of one step, or of all of them, stacked. A flag is a bool for all examples, or one for each: ``(batch,)``."""

    active: Any
    """Whether the step takes place. If not, states are held and the output is 0. None: all take place."""
    begun: Any
    """Whether a step has taken place before this one. If not, the state is the initial one."""
    cut: Any
    """Whether the derivative of the state ends here. None: nowhere."""


def flags(steps: int, mask: jax.Array | None, truncate: int | None) -> Flags:
    """Of a sequence of this many steps; ``mask`` is ``(steps, batch)``, ``truncate`` the length of a window."""
    t = jnp.arange(steps)
    cut = None if truncate is None else (t > 0) & (t % truncate == 0)
    return Flags(mask, _begun(mask, steps), cut)


def part(flags: Flags, start: int, stop: int) -> Flags:
    """Of a part of the sequence, as a sequence of its own."""
    active, _, cut = jax.tree.map(lambda flag: flag[start:stop], flags)
    return Flags(active, _begun(active, stop - start), cut)


def _begun(active: jax.Array | None, steps: int) -> jax.Array:
    if active is None:
        return jnp.arange(steps) > 0
    seen = jax.lax.associative_scan(jnp.logical_or, active)
    return jnp.concatenate([jnp.zeros_like(active[:1]), seen[:-1]])


def tree_where(flag: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the flag is set, ``no`` elsewhere, leaf by leaf. A flag of None is set."""
    if flag is None:
        return yes

    def leaf(a, b):
        return jnp.where(flag.reshape(flag.shape + (1,) * (a.ndim - flag.ndim)), a, b)

    return jax.tree.map(leaf, yes, no)


def zero_pre_spike_states(layers: Any, states: Any, x: jax.Array) -> list:
    """States before the spike, of zeros: those of each layer before its first step, whose spike is never used."""

    def once(layers, states, x):
        inputs = [x, *(out for _, out in states[:-1])]
        return [layer.integrate(state, x) for layer, state, x in zip(layers, states, inputs, strict=True)]

    return zeros(jax.eval_shape(once, layers, states, x), x)


def match_varying_axes(tree: Any) -> Any:
    """All arrays as varying over the same devices.

    In ``jax.shard_map`` the type of an array says over which axes of the mesh it varies, and a loop may not change the
    type of what it carries. With weights that vary as the inputs do, everything has one type; the derivative adds the
    gradients of all devices up.
    """
    return _vary(tree, _axes(tree))


def zeros(tree: Any, like: Any) -> Any:
    """Zeros in the shapes of a tree, varying as the arrays of another do."""
    return _vary(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree), _axes(like))


def _axes(tree: Any) -> frozenset[str]:
    """The axes of a mesh over which any of the arrays varies."""

    def leaf(x):
        kind: Any = jax.typeof(x)
        kind = getattr(kind, "manual_axis_type", kind)  # JAX moved it, and what makes an array vary
        return getattr(kind, "varying", getattr(kind, "vma", frozenset()))

    return frozenset().union(*(leaf(x) for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)))


def _vary(tree: Any, axes: frozenset[str]) -> Any:
    lax: Any = jax.lax  # which has had pvary, and later pcast

    def leaf(x):
        more = tuple(axes - _axes(x)) if isinstance(x, jax.Array) else ()
        if not more:
            return x
        return lax.pcast(x, more, to="varying") if hasattr(lax, "pcast") else lax.pvary(x, more)

    return jax.tree.map(leaf, tree)
