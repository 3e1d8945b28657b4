"""The state of training, and its reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import brief, needed
from .._pytree import NOTHING_TO_TRAIN, PyTree, is_array, name_of
from ._partition import is_float_array

with needed("spikegrad.training", "optax", "train"):
    import optax


@dataclasses.dataclass(frozen=True)
class State:
    """The state of training: parameters, optimizer state, random key and counters. :func:`fit`
    returns it.

    Together with the batches, it determines all later updates. Pass it to :func:`fit` to resume
    training.

    Parameters
    ----------
    trainable : pytree
        The trained parameters.
    optimizer_state : pytree
        The state of the optimizer, such as the moments of Adam.
    key : jax.Array
        The random key of the training, which never changes. Update i uses ``jax.random.fold_in(key,
        i)``.
    step : int, default 0
        Number of updates so far.
    epoch : int, default 0
        Number of finished epochs.
    batches : int, default 0
        Number of batches of the current epoch that are used already.
    sums : dict of numpy.ndarray, default {}
        The sum of each metric over these batches, in float64, for the means of an epoch. A metric
        that is a pytree has an entry for each array, such as ``"norm[0]"``.
    seconds : float, default 0.0
        Training time in seconds.
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
        """Return the state before the first update, for :func:`fit` or :meth:`Checkpoints.restore`.

        :func:`fit` accepts a state whose ``trainable`` has floating-point arrays only. For your own
        training loop, ``trainable`` may have arrays of any dtype, which :class:`Checkpoints` saves
        too.

        Raises
        ------
        TypeError
            If a leaf of ``trainable`` is not an array, or if ``optimizer`` is not an optimizer of
            optax.
        ValueError
            If ``trainable`` has no arrays.
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
        is_weak = getattr(x, "weak_type", False)  # keys lack it
        keeps_type = isinstance(x, jax.Array) and not is_weak
        return x if keeps_type else jnp.asarray(x, jnp.result_type(x))

    return jax.tree.map(leaf, tree)


class DivergedError(ArithmeticError):
    """The error of :func:`fit` if the loss or a parameter becomes NaN or infinite.

    Attributes
    ----------
    state : State
        The last state with finite parameters and a finite loss. Without one, the initial state.
    """

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message)
        self.state = state


@dataclasses.dataclass(frozen=True)
class Report:
    """The progress of training, which :func:`fit` passes to callbacks after each call of the
    compiled program.

    Parameters
    ----------
    state : State
        The state after the last update of the call.
    epoch : int
        The number of the current epoch, from 1.
    epoch_ended : bool
        If True, the epoch ended with this call.
    metrics : dict
        ``"loss"`` and the metrics of the loss function, as means over the updates of this call.
        Each is a float64 array of NumPy, or a pytree of them if the metric is a pytree.
    epoch_metrics : dict
        ``"loss"`` and the metrics as means over the updates of the epoch so far.
    updates : int
        Number of updates in this call, at most ``updates_per_call``.
    total : int or None
        Number of updates of the complete training, or None if it is unknown.
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
        """Number of updates since the start of training."""
        return self.state.step

    @property
    def seconds(self) -> float:
        """Training time in seconds. A resumed training includes its earlier time."""
        return self.state.seconds


Callback = Callable[[Report], object]
"""A function that :func:`fit` calls with a :class:`Report` after each call of the compiled program.

If it returns a :class:`State`, training continues from this state. If it returns another true
value, training ends. If the object has a method ``end(state)``, it is called once at the end of
training.
"""
