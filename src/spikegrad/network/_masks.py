"""Which steps of a sequence count, and selecting by it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._compat import zeros_like


class Masks(NamedTuple):
    """The masks of one step, or of all, stacked. Each is a bool for all examples, or one for each: ``(batch,)``."""

    active: Any = None
    """Whether the step takes place. If not, states are held and the output is 0. None: all take place."""
    started: Any = None
    """Whether a step has taken place before this one. If not, the state is the initial one. None if unused."""
    cut: Any = None
    """Whether the derivative of the state ends here, at the first step of a window that takes place. None: nowhere."""
    number: Any = None
    """The number of the last step that has taken place, which is this one if it does. None if no key needs it."""
    age: Any = None
    """The steps of the window that took place before this one, a large number in the first window. Outputs of more
    steps before have no derivative here. None: all have."""

    def part(self, start: int, stop: int) -> Masks:
        """The masks of a part of the sequence, as of a sequence of its own."""
        active, cut, age = jax.tree.map(lambda mask: mask[start:stop], (self.active, self.cut, self.age))
        return Masks(active, _started(active, stop - start), cut, age=age)

    def numbered(self, start: int) -> Masks:
        """With numbers, of a part that begins with step ``start``. What is kept for the backward pass has none."""
        t = jnp.arange(len(self.started))
        if self.active is not None:
            t = jnp.where(self.active, t.reshape(-1, *[1] * (self.active.ndim - 1)), 0)
            t = jax.lax.associative_scan(jnp.maximum, t)
        return self._replace(number=start + t)


def make_masks(steps: int, active: jax.Array | None, truncate: int | None) -> Masks:
    """Masks of a whole sequence; ``active`` is ``(steps,)`` or ``(steps, batch)``, ``truncate`` a window's length."""
    started = _started(active, steps)
    if truncate is None:
        return Masks(active, started)
    cut = _cut(active, jnp.arange(steps) // truncate)
    before = steps_before(active, steps)
    age = before - jax.lax.associative_scan(jnp.maximum, jnp.where(cut, before, -(2**30)))
    return Masks(active, started, cut, age=age)


def steps_before(active: jax.Array | None, steps: int) -> jax.Array:
    """The number of steps that took place before each: ``(steps,)`` or ``(steps, batch)``."""
    if active is None:
        return jnp.arange(steps)
    return jnp.cumsum(active, 0, dtype=int) - active.astype(int)


def _cut(active: jax.Array | None, window: jax.Array) -> jax.Array:
    """Whether a step begins with a state of another window, be it one of several steps before."""
    if active is not None:
        window = jnp.where(active, window.reshape(-1, *[1] * (active.ndim - 1)), 0)
        window = jax.lax.associative_scan(jnp.maximum, window)  # that of the last step that did
    return jnp.concatenate([zeros_like(window[:1]), window[:-1]]) < window


def _started(active: jax.Array | None, steps: int) -> jax.Array:
    if active is None:
        return jnp.arange(steps) > 0
    seen = jax.lax.associative_scan(jnp.logical_or, active)
    return jnp.concatenate([jnp.zeros_like(active[:1]), seen[:-1]])


def tree_where(mask: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the mask is set, ``no`` elsewhere, leaf by leaf. A mask of None is set."""
    if mask is None:
        return yes

    def leaf(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a, b)

    return jax.tree.map(leaf, yes, no)


def young(mask: Masks, lag: int, x: Any) -> Any:
    """An output of so many steps before, without a derivative if it belongs to another window."""
    return x if mask.age is None or not lag else tree_where(mask.age >= lag, x, jax.lax.stop_gradient(x))


def cut_off(mask: Masks, states: Any) -> Any:
    """The states before a step, or before each of many, without a derivative where that ends."""
    return states if mask.cut is None else tree_where(mask.cut, jax.lax.stop_gradient(states), states)


def tree_keep(mask: Any, tree: Any) -> Any:
    """The tree where the mask is set, zeros elsewhere."""
    return tree if mask is None else tree_where(mask, tree, jax.tree.map(zeros_like, tree))
