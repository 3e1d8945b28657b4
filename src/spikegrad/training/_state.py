"""The state of training, and its reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import brief, needed
from .._pytree import NOTHING_TO_TRAIN, PyTree, is_array
from ._partition import is_float_array, name_of

with needed("spikegrad.training", "optax", "train"):
    import optax


@dataclasses.dataclass(frozen=True)
class State:
    """The state of training. Together with the batches it determines all later updates.

    Parameters
    ----------
    trainable : pytree
        Trainable parameters.
    optimizer_state : pytree
        State of the optimizer.
    key : jax.Array
        The source of all randomness, which never changes. The key of an update is
        ``jax.random.fold_in(key, step)``.
    step : int, default 0
        Number of updates.
    epoch : int, default 0
        Number of finished epochs.
    batches : int, default 0
        Number of used batches of the current epoch.
    sums : dict of numpy.ndarray, default {}
        Sum of each array of the metrics over these batches, in float64. The arrays of a metric that
        is a pytree have names such as ``"norm[0]"``.
    seconds : float, default 0.0
        Training time.
    """

    trainable: PyTree
    optimizer_state: PyTree
    key: jax.Array
    step: int = 0
    epoch: int = 0
    batches: int = 0
    sums: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def create(
        cls, trainable: PyTree, optimizer: optax.GradientTransformation, key: jax.Array
    ) -> State:
        """Return the state before the first update.

        ``trainable`` may have arrays of any dtype, such as the counter of an optimizer of your own
        loop, and :class:`Checkpoints` saves them. :func:`fit` only takes floats.

        Raises
        ------
        TypeError
            If a leaf of ``trainable`` is not an array, or if ``optimizer`` is not one of optax.
        ValueError
            If ``trainable`` has no leaf.
        """
        check_optimizer(optimizer)
        _check_leaves(trainable, "arrays", is_array)
        trainable = _as_arrays(trainable)
        if not jax.tree.leaves(trainable):
            raise ValueError(f"fit: trainable {NOTHING_TO_TRAIN}")
        return cls(trainable, _as_arrays(optimizer.init(trainable)), key)


def check_trainable(trainable: PyTree) -> None:
    """Raise if a leaf is not a floating-point array."""
    _check_leaves(trainable, "floating-point arrays", is_float_array)


def _check_leaves(
    trainable: PyTree, kinds: str, is_valid: Callable[[object], bool]
) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(trainable):
        if not is_valid(leaf):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(
                f"fit: trainable must hold {kinds}, got {kind} at "
                f"{name_of(path) or 'its root'}. Separate these leaves with partition(tree)"
            )


def check_optimizer(optimizer: object) -> None:
    """Raise if an optimizer is not one of optax, for example the function that makes one."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"fit: optimizer must be one of optax, got {brief(optimizer)}. Pass for example "
            "optax.adam(1e-3)"
        )


def _as_arrays(tree: PyTree) -> PyTree:
    """Convert leaves to arrays with a type that an update keeps."""

    def leaf(x):
        # Keys lack it.
        keeps_type = isinstance(x, jax.Array) and not getattr(x, "weak_type", False)
        return x if keeps_type else jnp.asarray(x, jnp.result_type(x))

    return jax.tree.map(leaf, tree)


class DivergedError(ArithmeticError):
    """The loss or a parameter is NaN or infinite.

    Attributes
    ----------
    state : State
        The last state with finite parameters and a finite loss, or else the initial state.
    """

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message)
        self.state = state


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of a compiled call, for callbacks.

    Parameters
    ----------
    state : State
        State after the last update of the call.
    epoch : int
        Number of the epoch of these updates, from 1.
    epoch_ended : bool
        If True, the epoch ended with this call.
    metrics : dict
        ``"loss"`` and the metrics of the loss function, as means over the updates of this call.
        Each is a float64 array, or a pytree of them in the structure of the metric.
    epoch_metrics : dict
        Means over the updates of the epoch so far.
    updates : int
        Number of updates of this call.
    total : int or None
        Total number of updates, None if unknown.
    """

    state: State
    epoch: int
    epoch_ended: bool
    metrics: dict[str, Any]
    epoch_metrics: dict[str, Any]
    updates: int
    total: int | None

    @property
    def step(self) -> int:
        """Number of updates."""
        return self.state.step

    @property
    def seconds(self) -> float:
        """Training time. It includes earlier attempts of a resumed run."""
        return self.state.seconds


Callback = Callable[[Report], object]
"""Called after each compiled call. If it returns a :class:`State`, training continues from it.
Another true value ends training. A method ``end(state)`` is called last."""
