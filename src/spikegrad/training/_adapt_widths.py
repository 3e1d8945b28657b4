"""A callback that matches the widths of slopes to the spread of potentials."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
from jax.typing import ArrayLike

from .._pytree import PyTree
from ..network import Network, match_widths
from ._partition import combine
from ._sharding import spread_like
from ._state import Report, State


class AdaptWidths:
    """Callback of :func:`fit` that sets the widths of surrogates to the spread of the potentials
    during training.

    After each call of the compiled program, it runs the network on ``inputs`` and sets the widths
    as :func:`spikegrad.network.match_widths` does. So first call ``match_widths``, then
    :func:`partition`. The widths are arrays among the trainable parameters, so another width does
    not recompile, and checkpoints contain them. The optimizer does not change them, because their
    gradient is 0, unless the surrogate is :func:`spikegrad.learnable`.

    Parameters
    ----------
    static : pytree
        The static part that :func:`partition` returned for the network.
    inputs : array_like
        Inputs of the network for the measurement, ``(steps, examples, inputs)``.
    ratio, keep, mask, key
        As in :func:`spikegrad.network.match_widths`. ``ratio`` is the half-width of a slope divided
        by the standard deviation of the potentials. ``keep`` is the property of the slope that
        stays constant, ``"peak"`` or ``"area"``. ``mask`` has the valid time steps of ``inputs``,
        and ``key`` is the random key of stochastic spikes. Pass the values that you passed to
        ``match_widths``.
    each_epoch : bool, default False
        If True, set the widths only at the end of each epoch. If False, after each call.

    Raises
    ------
    ValueError
        At the first call, if the trainable parameters contain no widths, because ``match_widths``
        was not called.

    Notes
    -----
    In the list of callbacks, put :class:`Checkpoints` after this callback, so the checkpoints
    contain the new widths.

    References
    ----------
    Jiang et al. 2025, "Adaptive gradient learning for spiking neural networks by exploiting
    membrane potential dynamics", IJCAI. Their widths follow the potentials of each batch.

    Examples
    --------
    >>> import jax, optax
    >>> from spikegrad import LIF, Network
    >>> from spikegrad.network import match_widths
    >>> from spikegrad.training import AdaptWidths, combine, fit, partition
    >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.1, (50, 8, 20))
    >>> network = match_widths(
    ...     Network.init(jax.random.key(0), spikes, (30, 3), LIF(0.9)), spikes
    ... )
    >>> trainable, static = partition(network)
    >>> def loss(trainable, batch, key):
    ...     return (combine(trainable, static)(batch)[1] ** 2).mean(), {}
    >>> state = fit(
    ...     loss,
    ...     trainable,
    ...     [spikes],
    ...     optimizer=optax.sgd(0.1),
    ...     key=jax.random.key(2),
    ...     epochs=3,
    ...     callbacks=[AdaptWidths(static, spikes)],
    ... )
    >>> before, after = (
    ...     n.layers[0].cell.surrogate.width
    ...     for n in (network, combine(state.trainable, static))
    ... )
    >>> bool(before != after)
    True
    """

    def __init__(
        self,
        static: PyTree,
        inputs: ArrayLike,
        *,
        ratio: float = 1.0,
        keep: str = "peak",
        mask: ArrayLike | None = None,
        key: jax.Array | None = None,
        each_epoch: bool = False,
    ) -> None:
        self.static = static
        self.each_epoch = each_epoch
        self.match = partial(
            match_widths, inputs=inputs, ratio=ratio, keep=keep, mask=mask, key=key
        )

    def __call__(self, now: Report) -> State | None:
        """Return the state with new widths."""
        if self.each_epoch and not now.epoch_ended:
            return None
        before = now.state.trainable
        new = self.match(combine(before, self.static))
        return dataclasses.replace(now.state, trainable=_trainable(before, new))


def _trainable(before: PyTree, new: Network) -> PyTree:
    """Replace the widths by those of the new network, in the old dtypes and shardings."""
    # ``before`` has None in the places of the static part, so None counts as a leaf.
    olds, structure = jax.tree.flatten(before, is_leaf=_is_none)
    news, other = jax.tree.flatten(new, is_leaf=_is_none)
    # ``match_widths`` returns all other arrays as they are.
    pairs = zip(olds, news, strict=False)
    stays = [old is None or new_leaf is old for old, new_leaf in pairs]
    if structure != other or all(stays):
        raise ValueError(
            "AdaptWidths: trainable contains no widths. Call match_widths before partition"
        )
    leaves = [
        old if same else spread_like(leaf.astype(old.dtype), old)
        for old, leaf, same in zip(olds, news, stays, strict=True)
    ]
    return structure.unflatten(leaves)


def _is_none(leaf: object) -> bool:
    return leaf is None
