"""The activity of the nodes of a network."""

from __future__ import annotations

from typing import NamedTuple

import jax

from ..neurons import State


class Activity(NamedTuple):
    """The activity of a layer or join over time, each array of shape ``(steps, batch, ...)``.

    Masked steps are zeros. A join has outputs only. A part that was not asked for is None.
    """

    output: jax.Array | None
    pre_spike: State | None = None
    """The state before the spike, an array or a tuple of arrays, as the cell has it."""
    current: jax.Array | None = None
    """The current that the neurons integrate: weights times inputs, recurrence and bias."""

    @property
    def potential(self) -> jax.Array:
        """The potential before the spike, which is the first array of the state."""
        if self.pre_spike is None:
            raise ValueError(
                "Activity: potential is missing; observe a layer with 'pre_spike' among the parts"
            )
        return jax.tree.leaves(self.pre_spike)[0]
