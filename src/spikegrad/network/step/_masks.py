"""Masks of the steps of a sequence, and selection by masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._checks import append_axes
from ..._compat import zeros_like
from ..._pytree import PyTree, is_inexact

_HUGE = 2**30
"""An age that no lag reaches: half of the range of int32, which leaves room for a subtraction."""


class Masks(NamedTuple):
    """The masks of one step, or of all steps, stacked.

    Each is one bool, or one per example: ``(batch,)``.
    """

    active: jax.Array | None = None
    """True for a valid step.

    A masked step holds the states, and its output is 0. None: all steps are valid.
    """
    started: Any = None
    """True after the first valid step.

    Before it, the state is the initial state. None if unused.
    """
    number: jax.Array | None = None
    """The number of the last valid step up to this one. None if no key needs it."""
    age: jax.Array | None = None
    """The number of valid steps of the window before this one, a large number in the first window.

    Older outputs have a zero derivative here. At an age of 0, the first valid step of a window, the
    derivative of the state ends. None: all outputs have a derivative.
    """

    def part(self, start: int, stop: int) -> Masks:
        """Return the masks of a part of the sequence, as for a separate sequence."""
        active, age = jax.tree.map(
            lambda mask: mask[start:stop], (self.active, self.age)
        )
        started = steps_before(active, stop - start) > 0
        return Masks(active, started, age=age)

    def numbered(self, start: int) -> Masks:
        """Add the numbers of the steps, for a part that begins with step ``start``.

        Residuals do not contain them.
        """
        t = jnp.arange(len(self.started))
        if self.active is not None:
            # Masked steps get 0, so the running maximum repeats the number of the last active
            # step.
            t = append_axes(t, self.active.ndim)
            t = jnp.where(self.active, t, 0)
            t = jax.lax.associative_scan(jnp.maximum, t)
        return self._replace(number=start + t)


def make_masks(steps: int, active: jax.Array | None, truncate: int | None) -> Masks:
    """Create masks.

    ``active`` is ``(steps,)`` or ``(steps, batch)``, ``truncate`` a window length.
    """
    before = steps_before(active, steps)
    if truncate is None:
        return Masks(active, before > 0)
    t = append_axes(jnp.arange(steps), before.ndim)
    starts = (t > 0) & (t % truncate == 0)
    # The running maximum is the number of valid steps before the window. In the first window the
    # start value makes the age huge, so outputs of an earlier call keep their derivative.
    before_window = jnp.where(starts, before, -_HUGE)
    before_window = jax.lax.associative_scan(jnp.maximum, before_window)
    age = before - before_window
    if active is not None:
        # A masked step holds a state with its derivative.
        age = jnp.where(active, age, _HUGE)
    return Masks(active, before > 0, age=age)


def steps_before(active: jax.Array | None, steps: int) -> jax.Array:
    """Return the number of valid steps before each step: ``(steps,)`` or ``(steps, batch)``."""
    if active is None:
        return jnp.arange(steps)
    # Exclusive: the step itself does not count.
    return jnp.cumsum(active, 0, dtype=int) - active.astype(int)


def tree_where(mask: jax.Array | None, yes: PyTree, no: PyTree) -> PyTree:
    """Select ``yes`` if the mask is True, otherwise ``no``, leaf by leaf.

    A mask of None is True.
    """
    if mask is None:
        return yes
    return jax.tree.map(
        lambda a, b: jnp.where(append_axes(mask, a.ndim), a, b), yes, no
    )


def young(mask: Masks, lag: int, x: jax.Array) -> jax.Array:
    """Stop the gradient of an output ``lag`` steps before if it belongs to another window."""
    if mask.age is None or not lag:
        return x
    return tree_where(mask.age >= lag, x, jax.lax.stop_gradient(x))


def cut_off(mask: Masks, states: PyTree) -> PyTree:
    """Stop the gradient of the states before each step at which a window starts."""
    if mask.age is None:
        return states
    return tree_where(mask.age == 0, jax.lax.stop_gradient(states), states)


def tree_keep(mask: jax.Array | None, tree: PyTree) -> PyTree:
    """Keep the tree if the mask is True, and replace it by zeros otherwise."""
    if mask is None:
        return tree
    return tree_where(mask, tree, jax.tree.map(zeros_like, tree))


def with_finite_padding(active: jax.Array | None, tree: PyTree) -> PyTree:
    """Replace values of masked steps that are not finite by zeros.

    Padding may be NaN, and a gradient of zero times NaN is NaN. Finite padding stays, because a
    function of the inputs may be singular at zero.
    """
    if active is None:
        return tree

    def leaf(x):
        if not is_inexact(x):
            return x
        stays = append_axes(active, x.ndim) | jnp.isfinite(x)
        return jnp.where(stays, x, zeros_like(x))

    return jax.tree.map(leaf, tree)
