"""Batches, epoch by epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import numpy as np

from .._device import this_device
from .._pytree import PyTree
from ._sharding import spread
from ._state import State


class Source:
    """The ``batches`` of ``fit``, an iterable or a function of the epoch, in groups."""

    def __init__(self, batches: PyTree, batch_sharding: PyTree = None) -> None:
        self.batches = batches
        self.sharding = batch_sharding
        self.length: int | None = len(batches) if hasattr(batches, "__len__") else None
        # An iterator is its own iterator, so a second loop over it would continue instead of
        # starting again.
        self.once = not callable(batches) and iter(batches) is batches
        # The number of batches until ``steps`` cuts the epoch short.
        self.last: int | None = None

    def groups(self, state: State, steps: int | None, size: int) -> Iterator[list]:
        """Read the remaining batches of the epoch, at most up to ``steps``."""
        epoch: PyTree = self.batches
        if callable(self.batches):
            epoch = self.batches(state.epoch)
        self.last = None if steps is None else state.batches + steps - state.step
        # A resumed epoch skips the batches that it has used. The order of batches depends only on
        # the epoch.
        remaining = itertools.islice(iter(epoch), state.batches, self.last)
        return _grouped(map(self._arrays, remaining), size)

    def _arrays(self, batch: PyTree) -> PyTree:
        if self.sharding is not None:
            return spread(batch, self.sharding)
        ahead = this_device().copies_ahead

        def leaf(x):
            if isinstance(x, jax.Array):
                return x
            array = np.asarray(x)
            # The copy starts now, and the device goes on with the present call.
            return jax.device_put(array) if ahead else array

        return jax.tree.map(leaf, batch)

    def has_ended(self, used: int) -> bool:
        """Return True if the epoch is used up, False if ``steps`` may have cut it short."""
        # If ``steps`` ends exactly with the epoch, the epoch has ended, but only a known length
        # shows this.
        if used == self.last and used != self.length:
            return False
        # Only a complete epoch shows the length of an iterable without one.
        self.length = used
        return True


def _grouped(batches: Iterator[PyTree], size: int) -> Iterator[list]:
    """Group up to ``size`` consecutive batches of one shape."""
    # A compiled call stacks its batches, so they need one shape.
    for _, alike in itertools.groupby(batches, _type):
        while group := [*itertools.islice(alike, size)]:
            yield group


def _type(batch: PyTree) -> tuple:
    leaves, structure = jax.tree.flatten(batch)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
