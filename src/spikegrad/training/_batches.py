"""Batches of examples in memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._compat import take
from .._pytree import PyTree


class ShuffledBatches:
    """Batches of examples in memory, in a new random order for each epoch, for :func:`fit`.

    All batches have ``size`` examples. If the number of examples is not a multiple of ``size``, a
    few examples are skipped in each epoch.

    Parameters
    ----------
    examples : pytree of numpy.ndarray
        Arrays whose first axis is the examples, such as ``(x, y)``.
    size : int
        Number of examples in a batch, at least 1 and at most the number of examples.
    seed : int
        Seed of the random order. The order of an epoch depends only on ``seed`` and the number of
        the epoch, so resumed training gets equal batches.

    Raises
    ------
    ValueError
        If the arrays have different numbers of examples, or if ``size`` is outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.training import ShuffledBatches
    >>> batches = ShuffledBatches(np.arange(7), 3, seed=0)
    >>> (
    ...     len(batches),
    ...     [batch.tolist() for batch in batches(0)],
    ...     [batch.tolist() for batch in batches(1)],
    ... )
    (2, [...], [...])
    """

    def __init__(self, examples: PyTree, size: int, seed: int) -> None:
        counts = {len(leaf) for leaf in jax.tree.leaves(examples)}
        if len(counts) != 1:
            raise ValueError(
                f"ShuffledBatches: arrays must have one number of rows, got {sorted(counts)}"
            )
        (self.count,) = counts
        if not 1 <= size <= self.count:
            raise ValueError(
                f"ShuffledBatches: size must be 1 to {self.count} (all examples), got {size}"
            )
        self.examples = examples
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.count // self.size

    def __call__(self, epoch: int) -> Iterator[PyTree]:
        """Return an iterator over the batches of an epoch. Epochs count from 0."""
        # A generator of its own for each epoch, so a resumed training has the order of an
        # uninterrupted one without the draws of earlier epochs.
        rng = np.random.default_rng((self.seed, epoch))
        # Examples after the last full batch are left out.
        used = len(self) * self.size
        order = rng.permutation(self.count)[:used]
        for rows in order.reshape(-1, self.size):
            yield jax.tree.map(operator.itemgetter(rows), self.examples)


def with_device_data(loss: Callable, examples: PyTree) -> Callable:
    """Copy a data set to the device once, and return a loss function whose batches are row numbers.

    Without it, :func:`fit` copies each batch to the device. Use it if all data fit into the memory
    of the device, and pass batches of row numbers, such as ``ShuffledBatches(np.arange(count),
    size, seed)``.

    Parameters
    ----------
    loss : callable
        The loss function ``loss(trainable, batch, key)`` for a batch of examples.
    examples : pytree of arrays
        Arrays whose first axis is the examples.

    Returns
    -------
    callable
        The loss function for batches of row numbers, arrays of integers of shape ``(size,)``. If
        ``loss`` has the setting as fourth argument, pass the result to :func:`sweep`.

    Examples
    --------
    >>> import jax, numpy as np, optax
    >>> from spikegrad.training import ShuffledBatches, fit, with_device_data
    >>> def loss(center, batch, key):
    ...     return ((batch - center) ** 2).mean(), {}
    >>> x = np.random.default_rng(0).normal(5, 1, 100)
    >>> rows = ShuffledBatches(np.arange(100), 20, seed=0)
    >>> loss_of_rows, optimizer = with_device_data(loss, x), optax.sgd(0.1)
    >>> state = fit(
    ...     loss_of_rows,
    ...     np.zeros(1),
    ...     rows,
    ...     optimizer=optimizer,
    ...     key=jax.random.key(0),
    ...     epochs=20,
    ... )
    >>> bool(abs(state.trainable[0] - x.mean()) < 0.1)
    True
    """

    def of_rows(
        examples: PyTree,
        trainable: PyTree,
        rows: jax.Array,
        key: jax.Array,
        *setting: Any,
    ) -> Any:
        batch = jax.tree.map(lambda array: take(array, rows), examples)
        return loss(trainable, batch, key, *setting)

    # Arguments of a Partial are arguments of the compiled program. Arrays in a closure would be
    # constants of it, copied at each compilation.
    on_device = jax.tree.map(jnp.asarray, examples)
    return jax.tree_util.Partial(of_rows, on_device)
