"""The loop over updates, independent of network, data, loss and optimizer."""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from .._checks import brief, takes
from .._consensus import gathered
from .._pytree import PyTree
from .._struct import Domain
from .._surrogate import as_key
from ._partition import combine
from ._sharding import is_spread, replicated
from ._source import Source
from ._state import (
    Callback,
    DivergedError,
    Report,
    State,
    check_optimizer,
    check_trainable,
)
from ._update import Call, Loss, Result, arrays_apart, compiled, values_of


def fit(
    loss: Loss,
    trainable: PyTree,
    batches: Iterable[PyTree] | Callable[[int], Iterable[PyTree]],
    *,
    optimizer: optax.GradientTransformation,
    key: jax.Array | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    updates_per_call: int = 1,
    batch_sharding: PyTree = None,
    callbacks: Sequence[Callback] = (),
) -> State:
    """Train parameters with a loss function and an optimizer of optax, and return the state after
    training.

    In each *update*, ``fit`` computes the gradient of the loss for one batch, and the optimizer
    changes the parameters. An *epoch* uses all batches once.

    Parameters
    ----------
    loss : callable
        A function ``loss(trainable, batch, key) -> (scalar, {name: metric})``. It gets the
        parameters, one batch and the random key of the update. It returns the value to minimize,
        and a dict of metrics to report, such as the accuracy. The dict may be empty. A metric is a
        number, an array or a pytree of arrays. JAX traces the function, so use ``jax.numpy`` in it.
        Large arrays that the function closes over become constants of the compiled program, which
        cost memory and compile time. Pass ``jax.tree_util.Partial(loss, array)`` instead, which
        calls ``loss(array, trainable, batch, key)``.
    trainable : pytree of arrays, or State
        The initial parameters: a pytree whose leaves are floating-point arrays, such as a
        :class:`~spikegrad.Network`. For a pytree with other leaves, pass the first result of
        :func:`partition`. To resume training, pass a :class:`State`. With equal batches and
        arguments, the result is then bit-identical to uninterrupted training.
    batches : iterable, or callable
        The batches of an epoch: pytrees of NumPy or JAX arrays, such as ``(x, y)``. An iterable,
        such as a list, is used once per epoch. A generator lasts one epoch only. A function
        ``batches(epoch)``, with epochs from 0, returns the iterable of an epoch. Use a function for
        random orders, so that a resumed training gets the order of its epoch. If ``batches`` has a
        length, it is the number of batches in an epoch.
    optimizer : optax.GradientTransformation
        An optimizer of optax, such as ``optax.adam(1e-3)``. Optimizers that need the loss at other
        parameters, such as ``optax.lbfgs`` and ``optax.contrib.sam``, work too.
    key : jax.Array
        The random key of the training, such as ``jax.random.key(0)``. Update i gets
        ``jax.random.fold_in(key, i)``. It is required, unless ``trainable`` is a :class:`State`,
        which contains it.
    epochs, steps : int, optional
        Maximum number of epochs, and maximum number of updates. Training ends when it reaches one
        of them. Both count from the first update, also if training is resumed. By default training
        lasts one epoch. If ``trainable`` is a :class:`State` after its first epoch, pass one of
        them.
    updates_per_call : int, default 1
        Number of updates in one call of the compiled program, at least 1. Callbacks run after each
        call. A larger number makes training of small networks faster, and does not change the
        result. A call ends early at the end of an epoch, or before a batch of another shape.
    batch_sharding : jax.sharding.NamedSharding, or pytree of them, optional
        The sharding of batches over several devices, such as ``NamedSharding(Mesh(jax.devices(),
        ("batch",)), P("batch"))``. A pytree has a sharding for each part of a batch. Each process
        must make the complete batch, and puts its part onto its devices. All other arrays are
        copied to all devices, except for parameters that are sharded already. For several processes
        see :func:`distributed`. By default training uses one device.
    callbacks : sequence of callable, default ()
        Functions that are called in this order after each call of the compiled program, with a
        :class:`Report`. If one returns a :class:`State`, as :class:`AdaptWidths` does, training
        continues from this state. If one returns another true value, such as True, training ends.
        All processes must return equal states. If a callback has a method ``end``, it is called
        with the last state, also before a :class:`DivergedError`.

    Returns
    -------
    State
        The state after the last update. The trained parameters are ``state.trainable``.

    Raises
    ------
    DivergedError
        If the loss or a parameter becomes NaN or infinite. Its attribute ``state`` is the last
        state with finite numbers.
    TypeError, ValueError
        If an argument is invalid. Also if several processes have different initial states or
        numbers of batches.

    Warns
    -----
    UserWarning
        If a function in a trained network closes over a floating-point array. This array is not a
        leaf of the network, so the optimizer does not change it. The warning names the layer and
        the shape of the array. For a constant, write ``jax.lax.stop_gradient(array)`` in the
        function, which avoids the warning.

    Notes
    -----
    ``fit`` reads the batches of the next call while the device computes. It stores the state before
    a call until the loss is known, so the memory of the device contains parameters and optimizer
    state three times.

    Each call of ``fit`` compiles the loss again, because variables that it closes over may have
    changed.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from spikegrad.training import fit
    >>> def loss(weight, batch, key):
    ...     x, y = batch
    ...     error = (x @ weight - y) ** 2
    ...     return error.mean(), {"worst": error.max()}
    >>> x = jax.random.normal(jax.random.key(0), (8, 2))
    >>> state = fit(
    ...     loss,
    ...     jnp.zeros(2),
    ...     [(x, x @ jnp.array([1.0, -2.0]))],
    ...     optimizer=optax.sgd(0.3),
    ...     key=jax.random.key(1),
    ...     epochs=100,
    ... )
    >>> print(state.step, state.trainable.round(3))
    100 [ 1. -2.]
    """
    check_loss("fit", loss, "trainable", "batch", "key")
    state = _first_state(trainable, optimizer, key)
    check_counts("fit", epochs=epochs, steps=steps, updates_per_call=updates_per_call)
    if state.epoch and epochs is None and steps is None:
        raise TypeError(
            f"fit: epochs= and steps= are missing, and the State has {state.epoch} epochs. Pass "
            "one of them, counted from the first update"
        )
    source = Source(batches, batch_sharding)
    mesh = None
    if batch_sharding is not None:
        mesh = jax.tree.leaves(batch_sharding)[0].mesh
        state = _on(mesh, state)
    bound, static = arrays_apart(loss)

    def problem(bound: PyTree) -> tuple[Loss, optax.GradientTransformation]:
        return combine(bound, static), optimizer

    # The arrays of the loss are arguments of the program, so JAX does not copy them into it as
    # constants.
    call = compiled(problem, bound, updates_per_call, mesh, state, source.length)
    return run(call, state, source, epochs, steps, callbacks)


def run(
    call: Call,
    state: State,
    source: Source,
    epochs: int | None,
    steps: int | None,
    callbacks: Sequence[Callback],
) -> State:
    """Make all calls of :func:`fit`."""
    if not isinstance(callbacks, Iterable):
        raise TypeError(
            f"fit: callbacks must be a sequence, got {brief(callbacks)}. Pass a list of functions"
        )
    epochs = 1 if epochs is None and steps is None else epochs
    last_epoch = epochs or math.inf
    last_step = steps or math.inf
    began = time.perf_counter() - state.seconds  # for display
    # The last state whose loss was finite, for callbacks and errors after a divergence.
    good = state
    stopped = False
    while not stopped and state.epoch < last_epoch and state.step < last_step:
        if source.once and state.epoch:
            warnings.warn(
                "fit: batches is an iterator, which lasts one epoch, and ended after update "
                f"{state.step}. Pass a list or a function",
                stacklevel=3,
            )
            break
        groups = source.groups(state, steps, call.size)
        group = next(groups, None)
        _any_stops(state, group, False)  # all processes call it equally often
        if group is None and not state.batches:
            raise ValueError(f"fit: batches is empty in epoch {state.epoch + 1}")
        # An earlier fit ended by ``steps`` with the last batch of the epoch.
        if group is None:
            state = _in_next_epoch(state)
        while group is not None and not stopped:
            # The call returns before the device has finished. ``values_of`` below waits for it.
            result = call(state, group)
            following = next(groups, None)  # read while the device computes
            call.watch.warn(stacklevel=3)  # after the first call, which traces the loss
            values, finite = values_of(result)  # waits for the device
            if np.isfinite(values["loss"][0]):  # the loss of the state before the call
                good = state
            if not finite:
                # Callbacks such as checkpoints save the last good state before the error ends
                # training.
                _end(callbacks, good)
                raise DivergedError(_diverged(state, values["loss"]), good)
            used = state.batches + len(group)
            # A group of another shape also ends a call. Only the end of the source ends the epoch.
            epoch_ended = following is None and source.has_ended(used)
            length = source.length or math.inf
            total = min(last_step, last_epoch * length)
            report = _report(state, result, values, epoch_ended, began, total)
            report, stop = _call_all(callbacks, report)
            state = report.state
            stopped = _any_stops(state, following, stop)
            group = following
    _end(callbacks, state)
    return state


def _in_next_epoch(state: State) -> State:
    """Return the state at the start of the next epoch."""
    return dataclasses.replace(state, epoch=state.epoch + 1, batches=0, sums={})


def _end(callbacks: Sequence[Callback], state: State) -> None:
    for callback in callbacks:
        if hasattr(callback, "end"):
            callback.end(state)  # type: ignore[attr-defined]


def _call_all(callbacks: Sequence[Callback], report: Report) -> tuple[Report, bool]:
    """Call every callback. Return the report with the new state, and True to stop."""
    stop = False
    for callback in callbacks:
        answer = callback(report)
        # Later callbacks, such as checkpoints, get the new state.
        if isinstance(answer, State):
            report = dataclasses.replace(report, state=answer)
        elif answer:
            stop = True
    return report, stop


def check_loss(owner: str, loss: Callable, *arguments: str) -> None:
    """Raise if a loss does not take these arguments."""
    if not takes(loss, len(arguments)):
        raise TypeError(
            f"{owner}: loss must take ({', '.join(arguments)}), got {inspect.signature(loss)}. "
            "Add the missing arguments, even if the loss does not use them"
        )


def check_counts(owner: str, **counts: int | None) -> None:
    # A number of steps is often the result of a division, which is a float.
    for name, value in counts.items():
        if value is not None:
            Domain(integer=True, at_least=1).check(owner, name, value)


def _first_state(
    trainable: PyTree, optimizer: optax.GradientTransformation, key: jax.Array | None
) -> State:
    if not isinstance(trainable, State):
        check_trainable(trainable)
        return State.create(trainable, optimizer, as_key("fit", key))
    state = trainable
    if key is not None:
        raise TypeError("fit: a State contains a key. Leave key out")
    check_trainable(state.trainable)
    check_optimizer(optimizer)
    # Of shapes only, because the numbers of the state have changed since its start.
    expected = jax.eval_shape(optimizer.init, state.trainable)
    if _form_of(expected) != _form_of(state.optimizer_state):
        raise ValueError(
            "fit: optimizer must be the one that made the State, got one with another state. Pass "
            "that optimizer, or State.create(state.trainable, optimizer, key) to start a new one"
        )
    return state


def _form_of(tree: PyTree) -> tuple:
    """Return the structure of a pytree and the shapes of its arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [np.shape(leaf) for leaf in leaves]


def _on(mesh: Mesh, state: State) -> State:
    """Put the state on all devices of a mesh."""
    names = "trainable", "optimizer_state", "key"
    parts = {name: replicated(getattr(state, name), mesh, name) for name in names}
    return dataclasses.replace(state, **parts)


def _any_stops(state: State, group: list | None, stop: bool) -> bool:
    """Return True if any process requests a stop.

    Raise if processes differ in their next calls, because they would wait for each other forever.
    """
    # Without a sharding each process would train a network of its own.
    arrays = jax.tree.leaves((group, state.trainable))
    if jax.process_count() > 1 and not any(map(is_spread, arrays)):
        raise ValueError(
            f"fit: batch_sharding is missing, but training has {jax.process_count()} processes. "
            "Pass batch_sharding"
        )
    # Every process calls this once per group, even if it does not stop. A collective operation
    # waits for all of them.
    wishes, counts = gathered(stop, len(group or ())).T
    if len(set(counts)) > 1:
        raise ValueError(
            f"fit: processes have different numbers of batches after update {state.step}: {counts}"
        )
    return bool(wishes.any())


def _diverged(state: State, losses: np.ndarray) -> str:
    # A loss is computed before its update. If all are finite, the parameters after the last update
    # are not.
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        message = f"the loss is {losses[bad[0]]} at update {state.step + bad[0] + 1}"
    else:
        message = (
            f"parameters are NaN or infinite after update {state.step + len(losses)}"
        )
    return f"{message}, in epoch {state.epoch + 1}"


def _report(
    state: State,
    result: Result,
    values: dict[str, PyTree],
    epoch_ended: bool,
    began: float,
    total: float,
) -> Report:
    # Sums instead of means, because a resumed epoch then has the bits of an uninterrupted one. They
    # have the names of their arrays, because a checkpoint contains arrays but no pytrees.
    sums = {}
    for metric, tree in values.items():
        for name, rows in _named(metric, tree):
            before = state.sums.get(name, 0.0)
            # rows: one for each update of the call.
            sums[name] = before + rows.sum(0)
    batches = state.batches + result.updates
    step = state.step + result.updates

    def mean_of_epoch(metric: str, tree: PyTree) -> PyTree:
        means = [sums[name] / batches for name, _ in _named(metric, tree)]
        return jax.tree.structure(tree).unflatten(means)

    after = dataclasses.replace(
        state,
        **result.learned._asdict(),
        step=step,
        batches=batches,
        sums=sums,
        seconds=time.perf_counter() - began,
    )
    if epoch_ended:
        after = _in_next_epoch(after)
    metrics = {
        metric: jax.tree.map(lambda rows: rows.mean(0), tree)
        for metric, tree in values.items()
    }
    epoch_metrics = {
        metric: mean_of_epoch(metric, tree) for metric, tree in values.items()
    }
    return Report(
        state=after,
        epoch=state.epoch + 1,
        epoch_ended=epoch_ended,
        metrics=metrics,
        epoch_metrics=epoch_metrics,
        updates=result.updates,
        total=None if total == math.inf else int(total),
    )


def _named(metric: str, tree: PyTree) -> list[tuple[str, np.ndarray]]:
    """Return the arrays of a metric with a name for each, such as ``norm[0]``."""
    return [
        (f"{metric}{jax.tree_util.keystr(path)}", rows)
        for path, rows in jax.tree_util.tree_leaves_with_path(tree)
    ]
