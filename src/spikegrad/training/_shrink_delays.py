"""A callback that narrows the kernels of learned delays."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from .._pytree import PyTree, is_array
from .._struct import new_unchecked
from ..network import DelayKernel
from ._state import Report, State


class ShrinkDelays:
    r"""Callback of :func:`fit` that shrinks the kernels of learned delays during training.

    A kernel, :class:`spikegrad.network.DelayKernel`, spreads a weight over the time steps around
    its delay. Wide kernels at the start find better delays. Narrow kernels at the end are close to
    integer delays. After update :math:`n`, the width of all kernels is

    .. math:: \sigma_n = \sigma_0\, (\sigma_N / \sigma_0)^{\min(1,\, n/N)} .

    So the width falls from :math:`\sigma_0` to :math:`\sigma_N` in the first :math:`N` updates, and
    then stays constant. Pass the width of each kernel as a JAX array, ``width=jnp.array(4.0)``, so
    that :func:`partition` puts it among the trainable parameters. New widths do not recompile.

    Parameters
    ----------
    start, end : float
        The widths :math:`\sigma_0` and :math:`\sigma_N`, above 0, in time steps.
    updates : int
        The number :math:`N` of updates in which the width falls, above 0.

    Raises
    ------
    ValueError
        If a number is outside its range. Also during training, if the trainable parameters contain
        no :class:`spikegrad.network.DelayKernel` with an array as width.

    References
    ----------
    Hammouamri, Khalfaoui-Hassani, Masquelier 2024, "Learning delays in spiking neural networks
    using dilated convolutions with learnable spacings", ICLR, shrinks the kernels in the first
    quarter of the training.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from spikegrad import Layer, LeakyReadout, Network, Window
    >>> from spikegrad.network import DelayKernel
    >>> from spikegrad import bounded
    >>> from spikegrad.training import ShrinkDelays, combine, fit, partition
    >>> kernel = DelayKernel(
    ...     jnp.ones((2, 1)),
    ...     bounded(jnp.full((2, 1), 3.0), 0, 8),
    ...     9,
    ...     width=jnp.array(4.0),
    ... )
    >>> trainable, static = partition(
    ...     Network({"out": Layer(Window(kernel), LeakyReadout(0.0))})
    ... )
    >>> def loss(trainable, batch, key):
    ...     return (combine(trainable, static)(batch)[1] ** 2).mean(), {}
    >>> state = fit(
    ...     loss,
    ...     trainable,
    ...     [jnp.ones((12, 4, 2))],
    ...     optimizer=optax.sgd(0.1),
    ...     key=jax.random.key(2),
    ...     epochs=3,
    ...     callbacks=[ShrinkDelays(4.0, 0.5, updates=2)],
    ... )
    >>> combine(state.trainable, static).layers["out"].weight.weight.width
    Array(0.5, dtype=float32)
    """

    def __init__(self, start: float, end: float, *, updates: int) -> None:
        if not (start > 0 and end > 0 and updates > 0):
            raise ValueError(
                f"ShrinkDelays: start, end and updates must be > 0, got {start}, {end}, {updates}"
            )
        self._start = start
        self._end = end
        self._updates = updates

    def __call__(self, now: Report) -> State:
        """Return the state with new widths."""
        progress = min(1.0, now.state.step / self._updates)
        # Geometric: each update narrows by one factor.
        width = self._start * (self._end / self._start) ** progress
        changed = 0

        def narrowed(leaf: PyTree) -> PyTree:
            nonlocal changed
            if not _has_width(leaf):
                return leaf
            changed += 1
            fields = vars(leaf) | {"width": jnp.full_like(leaf.width, width)}
            # Not checked again, because parameters that are not trained may be None.
            return new_unchecked(DelayKernel, fields)

        trainable = jax.tree.map(narrowed, now.state.trainable, is_leaf=_has_width)
        if not changed:
            raise ValueError(
                "ShrinkDelays: trainable must contain a DelayKernel with an array as width"
            )
        return dataclasses.replace(now.state, trainable=trainable)


def _has_width(leaf: object) -> bool:
    return isinstance(leaf, DelayKernel) and is_array(leaf.width)
