"""Where training stands, and what it tells of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._partition import is_float_array, name_of

try:
    import optax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "spikegrad.training needs optax: pip install '.[train]' in a clone of spikegrad", name="optax"
    ) from error


@dataclasses.dataclass(frozen=True)
class State:
    """Where training stands: all that the updates to come depend on, batches apart.

    Parameters
    ----------
    trainable : pytree
        What is trained.
    optimizer_state : pytree
        What the optimizer keeps.
    key : jax.Array
        The source of all randomness. It never changes; an update's key is ``jax.random.fold_in(key, step)``.
    step : int, default 0
        Updates made.
    epoch : int, default 0
        Epochs that have ended.
    batches : int, default 0
        Batches used of the epoch under way.
    sums : dict of numpy.ndarray, default {}
        The sum of each metric over these batches, in float64.
    seconds : float, default 0.0
        Time that training has taken.
    """

    trainable: Any
    optimizer_state: Any
    key: jax.Array
    step: int = 0
    epoch: int = 0
    batches: int = 0
    sums: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def create(cls, trainable: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> State:
        """The state before the first update.

        Raises
        ------
        TypeError
            If a leaf of ``trainable`` is not a floating-point array.
        """
        for path, leaf in jax.tree_util.tree_leaves_with_path(trainable):
            if not is_float_array(leaf):
                what = leaf.dtype if hasattr(leaf, "dtype") else type(leaf).__name__
                raise TypeError(
                    f"fit: trainable must hold floating-point arrays, got {what} at {name_of(path) or 'its root'}; "
                    "partition(tree) takes the rest apart"
                )
        trainable = _as_arrays(trainable)
        return cls(trainable, _as_arrays(optimizer.init(trainable)), key)


def _as_arrays(tree: Any) -> Any:
    """Leaves as arrays of a type that an update does not change."""

    def leaf(x):
        keeps_type = isinstance(x, jax.Array) and not getattr(x, "weak_type", False)  # which keys do not have
        return x if keeps_type else jnp.asarray(x, jnp.result_type(x))

    return jax.tree.map(leaf, tree)


class DivergedError(ArithmeticError):
    """The loss, or what it trains, is NaN or infinite.

    Attributes
    ----------
    state : State
        The last state known to be good: its parameters and its loss are finite. If there was none, that at the start.
    """

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message)
        self.state = state


@dataclasses.dataclass(frozen=True)
class Report:
    """What callbacks are told after each compiled call.

    Parameters
    ----------
    state : State
        After the last update of the call.
    epoch : int
        Number of the epoch that these updates belong to, from 1.
    epoch_ended : bool
        Whether it has ended with them.
    metrics : dict of numpy.ndarray
        ``"loss"`` and what else the loss function gives: the mean over the updates of this call.
    epoch_metrics : dict of numpy.ndarray
        The mean over those of the epoch so far.
    updates : int
        Updates of this call.
    total : int or None
        Updates in all, where it is known.
    seconds_left : float or None
        An estimate, from the second call on.
    """

    state: State
    epoch: int
    epoch_ended: bool
    metrics: dict[str, np.ndarray]
    epoch_metrics: dict[str, np.ndarray]
    updates: int
    total: int | None
    seconds_left: float | None

    @property
    def step(self) -> int:
        """Updates made."""
        return self.state.step

    @property
    def seconds(self) -> float:
        """Time that training has taken, earlier attempts of a resumed run included."""
        return self.state.seconds


Callback = Callable[[Report], Any]
"""Told after each compiled call. A :class:`State` as the answer is gone on from, any other true answer ends training. A
method ``end(state)``, if it has one, comes last."""
