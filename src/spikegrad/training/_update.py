"""The compiled call: a fixed number of updates."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._checks import order_of_axes
from .._compat import of_mesh
from .._optimizer import updates_of
from .._pytree import PyTree, is_array, split
from ._sharding import replicated
from ._state import State
from ._watch import NetworkWatch

Value: TypeAlias = tuple[jax.typing.ArrayLike, dict[str, PyTree]]
Loss = Callable[[PyTree, PyTree, jax.Array], Value]
"""The loss function of :func:`fit`: ``loss(trainable, batch, key) -> (scalar, {name: metric})``. A
metric is a pytree of arrays.
"""
Problem: TypeAlias = Callable[[PyTree], tuple[Loss, optax.GradientTransformation]]
"""The loss and the optimizer for the arrays that they depend on."""


class Learned(NamedTuple):
    """The parts of a state that an update changes."""

    trainable: PyTree
    optimizer_state: PyTree


class CallArguments(NamedTuple):
    """Arguments of a compiled call, on the device."""

    bound: PyTree
    """The arrays that the loss and the optimizer depend on."""
    learned: Learned
    key: jax.Array
    """The key of the run, from which each update gets its own."""
    step: np.uint32
    """The number of updates before this call."""
    batches: list[PyTree]
    """One for each update, and repetitions of the last one that are not used."""
    updates: int
    """The number of batches to use."""


class Result(NamedTuple):
    """Result of a call, on the device."""

    learned: Learned
    metrics: dict[str, PyTree]
    """Each array has a row for each update, then unused rows."""
    finite: jax.Array
    """False if a trainable array has a NaN or infinite number."""
    updates: int
    """The number of updates."""


@dataclasses.dataclass
class Room:
    """The number of batches that a program takes, up to ``size`` of a call.

    It grows with the groups. All runs of a program share it, because each number costs a compile.
    """

    batches: int


@dataclasses.dataclass(frozen=True)
class Call:
    """The compiled updates of a group of batches.

    Another number of batches does not recompile. Neither do other values of the arrays ``bound``,
    further arguments of the loss and the optimizer.
    """

    advance: Callable[[CallArguments], Result]
    bound: PyTree
    size: int
    room: Room
    watch: NetworkWatch
    """The networks that the loss has called while JAX traced it."""

    def __call__(self, state: State, group: list) -> Result:
        # The next power of two, so groups of unknown lengths need few programs: at most one for
        # each power up to ``size``.
        power = 1 << (len(group) - 1).bit_length()
        needed = max(self.room.batches, power)
        self.room.batches = min(self.size, needed)
        # Unused places repeat the last batch, so that a short group needs no program of its own.
        unused = self.room.batches - len(group)
        filled = group + [group[-1]] * unused
        arguments = CallArguments(
            bound=self.bound,
            learned=Learned(state.trainable, state.optimizer_state),
            key=state.key,
            step=np.uint32(state.step),
            batches=filled,
            updates=len(group),
        )
        result = self.advance(arguments)
        # As a number that needs no transfer.
        return result._replace(updates=len(group))


def compiled(
    problem: Problem,
    bound: PyTree,
    size: int,
    mesh: Mesh | None = None,
    state: State | None = None,
    length: int | None = None,
) -> Call:
    """Compile a call for the loss and the optimizer that ``problem`` returns for arrays ``bound``.

    On a mesh the state keeps its sharding, and the metrics are on all devices. If the ``length`` of
    an epoch is known, the program takes up to an epoch and is compiled once.
    """
    if length is not None:
        size = min(size, max(1, length))
    shardings = None
    if mesh is not None and state is not None:
        bound = replicated(bound, mesh, "loss")
        everywhere = NamedSharding(mesh, PartitionSpec())
        # Outputs with the sharding of the inputs can be the inputs of the next call without a
        # transfer.
        learned = Learned(state.trainable, state.optimizer_state)
        kept = jax.tree.map(lambda x: x.sharding, learned)
        # In the structure of a result.
        shardings = Result._make((kept, everywhere, everywhere, everywhere))
    # The watch notes the calls of networks while JAX traces the loss, once for each program.
    updates = _Updates(problem, NetworkWatch())
    # A loop of one turn would trace the loss twice.
    function = updates.single if size == 1 else updates.loop
    advance = jax.jit(function, out_shardings=shardings)

    def on_mesh(arguments: CallArguments) -> Result:
        with of_mesh(mesh):
            return advance(arguments)

    room = Room(1 if length is None else size)
    return Call(on_mesh, bound, size, room, updates.watch)


class _Updates(NamedTuple):
    """The functions of a compiled call, which JAX traces."""

    problem: Problem
    watch: NetworkWatch

    def evaluate(
        self, bound: PyTree, trainable: PyTree, batch: PyTree, key: jax.Array
    ) -> Value:
        """Return the loss and the metrics."""
        loss, _ = self.problem(bound)
        try:
            with self.watch.watching():
                result = loss(trainable, batch, key)
        except Exception as error:
            # Batches of images have the examples first, too, so other errors say nothing of axes.
            hint = _order_of(batch) if "shape" in str(error) else ""
            error.add_note(
                "fit: the loss raised this error. In inputs and outputs of a Network, axis 0 is "
                f"time and axis 1 the examples{hint}"
            )
            raise
        return _checked(result)

    def update(
        self,
        arguments: CallArguments,
        learned: Learned,
        batch: PyTree,
        i: jax.typing.ArrayLike,
    ) -> tuple[Learned, dict[str, PyTree]]:
        """Make update ``i`` of a call. Return the changed arrays and the metrics."""
        # The number of the update in the run, so a key does not depend on how updates are grouped
        # into calls.
        number = arguments.step + jnp.uint32(i)
        key = jax.random.fold_in(arguments.key, number)

        def value_of(trainable: PyTree) -> Value:
            return self.evaluate(arguments.bound, trainable, batch, key)

        differentiate = jax.value_and_grad(value_of, has_aux=True)
        (value, metrics), gradient = differentiate(learned.trainable)
        _, optimizer = self.problem(arguments.bound)
        change, optimizer_state = updates_of(
            optimizer,
            gradient,
            learned.optimizer_state,
            learned.trainable,
            value,
            # Some optimizers evaluate the loss elsewhere, such as line searches.
            lambda trainable: value_of(trainable)[0],
        )
        with jax.numpy_dtype_promotion("standard"):  # optax promotes
            trainable = optax.apply_updates(learned.trainable, change)
        return Learned(trainable, optimizer_state), {"loss": value, **metrics}

    def single(self, arguments: CallArguments) -> Result:
        """Make one update. Metrics get the axis of the updates."""
        learned, metrics = self.update(
            arguments, arguments.learned, arguments.batches[0], 0
        )
        rows = jax.tree.map(lambda x: jnp.asarray(x)[None], metrics)
        finite = _all_finite(learned.trainable)
        return Result(learned, rows, finite, arguments.updates)

    def loop(self, arguments: CallArguments) -> Result:
        """Make the updates. The program has room for more batches."""
        # (batches, ...): a loop can index one array, not a list of arrays.
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arguments.batches)

        def turn(i: jax.Array, carry: tuple[Learned, PyTree]) -> tuple[Learned, PyTree]:
            learned, rows = carry

            def batch_of_turn(batches: jax.Array) -> jax.Array:
                return jax.lax.dynamic_index_in_dim(batches, i, keepdims=False)

            batch = jax.tree.map(batch_of_turn, stacked)
            learned, metrics = self.update(arguments, learned, batch, i)

            def with_row(rows: jax.Array, metric: jax.Array) -> jax.Array:
                # rows: (batches, ...), metric: (...)
                return jax.lax.dynamic_update_index_in_dim(rows, metric, i, 0)

            return learned, jax.tree.map(with_row, rows, metrics)

        # The carry of a loop needs the shapes of the metrics before the first update.
        value, metrics = jax.eval_shape(
            self.evaluate,
            arguments.bound,
            arguments.learned.trainable,
            arguments.batches[0],
            arguments.key,
        )
        count = len(arguments.batches)
        rows = jax.tree.map(
            lambda metric: jnp.zeros((count, *metric.shape), metric.dtype),
            {"loss": value, **metrics},
        )
        # The number of updates is traced, so a shorter group runs the same program. The loop
        # never reads the repeated batches.
        learned, rows = jax.lax.fori_loop(
            0, arguments.updates, turn, (arguments.learned, rows)
        )
        finite = _all_finite(learned.trainable)
        return Result(learned, rows, finite, arguments.updates)


def arrays_apart(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Split the arrays off a pytree, such as a Partial as a loss."""
    arrays, static = split(tree, is_array)
    return jax.tree.map(jnp.asarray, arrays), static


def _checked(result: object) -> Value:
    """Return the result of a loss function. Raise if it has another form."""
    if not (
        isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
    ):
        raise TypeError(
            "fit: loss must return (scalar, {name: metric}), got a value of the type "
            f"{type(result).__name__}. Without metrics return (scalar, {{}})"
        )
    value, metrics = result
    if "loss" in metrics:
        raise ValueError(
            "fit: a metric cannot be named 'loss', the name of the loss. Rename it"
        )

    def constant(metric: jax.typing.ArrayLike) -> jax.Array:
        return jax.lax.stop_gradient(jnp.asarray(metric))

    return value, jax.tree.map(constant, metrics)


def _order_of(batch: PyTree) -> str:
    """Return a hint if integer labels of a batch fit the first axis of its inputs, or nothing."""
    leaves = jax.tree.leaves(batch)
    inputs = next((leaf.shape for leaf in leaves if leaf.ndim > 2), None)
    if inputs is None:
        return ""
    vectors = [leaf for leaf in leaves if leaf.ndim == 1]
    labels = [v.shape for v in vectors if jnp.issubdtype(v.dtype, jnp.integer)]
    return "".join(
        order_of_axes("inputs", inputs, "labels", shape, at=1) for shape in labels
    )


def _all_finite(tree: PyTree) -> jax.Array:
    """Return a scalar: True if no parameter is NaN or infinite."""
    are_finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, are_finite)


def values_of(result: Result) -> tuple[dict[str, PyTree], bool]:
    """Wait for a call. Return the metrics of each update, and True if all are finite.

    Each array of a metric is ``(updates, ...)``, in float64. Only the loss and the parameters need
    to be finite.
    """
    metrics, finite = jax.device_get((result.metrics, result.finite))
    # JAX sorts names, and reports begin with the loss.
    metrics = {"loss": metrics.pop("loss"), **metrics}

    # In float64, because an epoch sums thousands of these values.
    def used(rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows[: result.updates], np.float64)

    values = {name: jax.tree.map(used, rows) for name, rows in metrics.items()}
    has_finite_loss = np.isfinite(values["loss"]).all()
    return values, bool(finite and has_finite_loss)
