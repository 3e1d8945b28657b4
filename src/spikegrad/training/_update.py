"""The compiled call: a fixed number of updates."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._checks import order_of_axes
from .._compat import of_mesh
from .._optimizer import updates_of
from .._pytree import is_array, split
from ._sharding import replicated
from ._state import State

Loss = Callable[[Any, Any, jax.Array], tuple[Any, dict[str, Any]]]
"""``loss(trainable, batch, key) -> (scalar, {name: metric})``."""


class Result(NamedTuple):
    """Result of a call, on the device. ``metrics`` has a row for each update, then unused rows."""

    trainable: Any
    optimizer_state: Any
    metrics: dict[str, jax.Array]
    finite: jax.Array
    updates: int


@dataclasses.dataclass(frozen=True)
class Call:
    """The compiled updates of a group of batches.

    Another number of batches does not recompile. Neither do other values of the arrays ``bound``,
    further arguments of the loss and the optimizer.
    """

    advance: Callable[..., tuple]
    bound: Any
    size: int
    room: list[int]
    """Number of batches that the program takes, up to ``size``. Each costs compile time."""

    def __call__(self, state: State, group: list) -> Result:
        self.room[0] = min(self.size, max(self.room[0], 1 << (len(group) - 1).bit_length()))
        # Unused places repeat the last batch, so that a short group needs no program of its own.
        filled = group + [group[-1]] * (self.room[0] - len(group))
        trainable, optimizer_state, metrics, finite = self.advance(
            self.bound,
            state.trainable,
            state.optimizer_state,
            state.key,
            np.uint32(state.step),
            filled,
            np.int32(len(group)),
        )
        return Result(trainable, optimizer_state, metrics, finite, len(group))


def compiled(
    problem: Callable[[Any], tuple[Loss, Any]],
    bound: Any,
    size: int,
    mesh: Mesh | None = None,
    state: State | None = None,
    length: int | None = None,
) -> Call:
    """Compile a call for the loss and the optimizer that ``problem`` returns for arrays ``bound``.

    On a mesh the state keeps its sharding, and the metrics are on all devices. If the ``length`` of
    an epoch is known, the program takes up to an epoch and is compiled once.
    """
    size = size if length is None else min(size, max(1, length))
    shardings: Any = None
    if mesh is not None and state is not None:
        bound, everywhere = replicated(bound, mesh, "loss"), NamedSharding(mesh, PartitionSpec())
        parts = jax.tree.map(lambda x: x.sharding, (state.trainable, state.optimizer_state))
        shardings = (*parts, everywhere, everywhere)

    def evaluate(bound, trainable, batch, key):
        try:
            return _checked(problem(bound)[0](trainable, batch, key))
        except (TypeError, ValueError) as error:
            if hint := _order_of(batch):
                error.add_note(f"fit: if the loss calls a Network{hint}")
            raise

    def update(bound, trainable, optimizer_state, batch, key):
        def value_of(trainable):
            return evaluate(bound, trainable, batch, key)

        (value, metrics), gradient = jax.value_and_grad(value_of, has_aux=True)(trainable)
        change, optimizer_state = updates_of(
            problem(bound)[1],
            gradient,
            optimizer_state,
            trainable,
            value,
            lambda trainable: value_of(trainable)[0],
        )
        with jax.numpy_dtype_promotion("standard"):  # optax promotes
            trainable = optax.apply_updates(trainable, change)
        return trainable, optimizer_state, {"loss": value, **metrics}

    @functools.partial(jax.jit, out_shardings=shardings)
    def advance(bound, trainable, optimizer_state, key, step, batches, count):
        def nth_key(i):
            return jax.random.fold_in(key, step + jnp.uint32(i))

        # A loop of one turn would trace the loss twice.
        if size == 1:
            *state, metrics = update(bound, trainable, optimizer_state, batches[0], nth_key(0))
            rows = jax.tree.map(lambda x: jnp.asarray(x)[None], metrics)
        else:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)

            def turn(i, carry):
                trainable, optimizer_state, rows = carry
                batch = jax.tree.map(
                    lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), stacked
                )
                *state, metrics = update(bound, trainable, optimizer_state, batch, nth_key(i))
                rows = jax.tree.map(
                    lambda r, m: jax.lax.dynamic_update_index_in_dim(r, m, i, 0), rows, metrics
                )
                return *state, rows

            value, metrics = jax.eval_shape(evaluate, bound, trainable, batches[0], nth_key(0))
            rows = jax.tree.map(
                lambda m: jnp.zeros((len(batches), *m.shape), m.dtype), {"loss": value, **metrics}
            )
            *state, rows = jax.lax.fori_loop(0, count, turn, (trainable, optimizer_state, rows))
        return *state, rows, _all_finite(state[0])

    def on_mesh(*arguments):
        with of_mesh(mesh):
            return advance(*arguments)

    return Call(on_mesh, bound, size, [1 if length is None else size])


def arrays_apart(tree: Any) -> tuple[Any, Any]:
    """Split the arrays off a pytree, such as a Partial as a loss."""
    arrays, static = split(tree, lambda _, leaf: is_array(leaf))
    return jax.tree.map(jnp.asarray, arrays), static


def _checked(result: Any) -> tuple[Any, dict[str, Any]]:
    """Return the result of a loss function. Raise if it has another form."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        shape = f"shape {result.shape}" if isinstance(result, jax.Array) else type(result).__name__
        raise TypeError(
            f"fit: loss must return (scalar, {{name: metric}}), got {shape}; "
            "without metrics return (scalar, {})"
        )
    value, metrics = result
    if "loss" in metrics:
        raise ValueError("fit: a metric cannot be named 'loss', the name of the loss; rename it")
    return value, jax.tree.map(lambda x: jax.lax.stop_gradient(jnp.asarray(x)), metrics)


def _order_of(batch: Any) -> str:
    """Return a hint if integer labels of a batch fit the first axis of its inputs, or nothing."""
    leaves = jax.tree.leaves(batch)
    inputs = [x.shape for x in leaves if x.ndim > 2][:1]
    labels = [y.shape for y in leaves if y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer)]
    hints = (order_of_axes("inputs", x, "labels", y, at=1) for x in inputs for y in labels)
    return next(filter(None, hints), "")


def _all_finite(tree: Any) -> jax.Array:
    """Return a scalar: True if no parameter is NaN or infinite."""
    leaves = jax.tree.leaves(tree)
    return functools.reduce(jnp.logical_and, [jnp.isfinite(x).all() for x in leaves])


def values_of(result: Result) -> tuple[dict[str, np.ndarray], bool]:
    """Wait for a call. Return the metrics of each update, and True if all are finite.

    Only the loss and the parameters need to be finite. Metrics are in float64.
    """
    metrics, finite = jax.device_get((result.metrics, result.finite))
    # JAX sorts names, and reports begin with the loss.
    metrics = {"loss": metrics.pop("loss"), **metrics}
    values = {
        name: np.asarray(rows[: result.updates], np.float64) for name, rows in metrics.items()
    }
    return values, bool(finite) and bool(np.isfinite(values["loss"]).all())
