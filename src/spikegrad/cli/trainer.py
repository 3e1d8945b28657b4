"""Training and scores of the networks of the command, with :func:`spikegrad.training.fit`."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import training
from .._files import Record
from .._struct import Real
from ..data import Sequences, Split, scale
from . import tables
from .networks import (
    NO_ENCODING,
    Params,
    SpikingNetwork,
    sample,
)
from .options import Options
from .processes import batch_sharding

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
_SCORED = 512
"""Number of examples of a compiled call that scores."""
_WORK = 1.6e10
"""Additions and multiplications of a compiled call: a tenth of a second on two cores."""

Batch: TypeAlias = tuple[jax.Array, jax.Array, jax.Array | None]
"""Sequences, labels or targets, and mask of a traced :class:`spikegrad.data.Example`."""


def schedule_of(lr: Real, data: Split, options: Options) -> optax.Schedule:
    """Return the learning rate of every run, which falls to 0 along a cosine."""
    updates = len(data.train) // options.batch * options.epochs
    return optax.cosine_decay_schedule(lr, updates)


def random_shift(x: jax.Array, pixels: int, key: jax.Array) -> jax.Array:
    """Move each image of ``(n, height, width, ...)`` by up to ``pixels`` in each direction."""
    channel_axes = x.ndim - 3  # which do not move
    margins = [(pixels, pixels)] * 2 + [(0, 0)] * channel_axes

    def moved(image: jax.Array, offsets: jax.Array) -> jax.Array:
        # Zeros move in: the smallest value of an image.
        starts = (*offsets, *[0] * channel_axes)
        padded = jnp.pad(image, margins)
        return jax.lax.dynamic_slice(padded, starts, image.shape)

    # A start of ``pixels`` in the padded image is no shift.
    offsets = jax.random.randint(key, (len(x), 2), 0, 2 * pixels + 1)
    return jax.vmap(moved)(x, offsets)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Predictions and firing statistics for a set of examples.

    ``predictions`` and the ``metric`` are those of the task. For each hidden layer, ``rates`` has
    the spikes per neuron and time step, and ``silent`` the fraction of neurons that never fire.
    """

    predictions: np.ndarray
    metric: float
    rates: list[float]
    silent: list[float]


@partial(jax.jit, static_argnums=0)
def _run(
    network: SpikingNetwork,
    params: Params,
    x: jax.Array,
    mask: jax.Array | None,
    key: jax.Array,
) -> tuple[jax.Array, list[jax.Array]]:
    """Return the predictions, and the spikes of each neuron, summed over examples."""
    predictions, spikes, _ = network(params, x, key, mask)
    # (steps, batch, neurons) -> (neurons,), because the activity of all examples would need more
    # memory than the data.
    sums = [(layer > 0).mean(0).sum(0) for layer in spikes]
    return predictions, sums


def score(network: SpikingNetwork, params: Params, source: Sequences) -> Scores:
    """Return the scores of a set of examples."""
    # Parts of one size if possible, because another size is another program.
    count = len(source)
    number_of_parts = math.ceil(count / _SCORED)
    size = math.ceil(count / number_of_parts)
    key = jax.random.key(0)
    parts = []
    for i, (x, _, mask) in enumerate(source.batches(size)):
        part_key = jax.random.fold_in(key, i)
        part = _run(network, params, x, mask, part_key)
        parts.append(jax.device_get(part))
    outputs, sums = zip(*parts, strict=True)
    axis = network.task.axis
    predictions = np.concatenate(outputs, axis)
    # Labels (n,), or targets in the order of a batch: (n, steps, outputs) -> (steps, n, outputs).
    y = np.moveaxis(source.y, 0, axis)
    mask = None
    if source.masked:
        mask = np.arange(source.steps)[:, None] < source.lengths  # (steps, n)
    metric = network.task.score(predictions, y, mask)
    # Masked steps have no spikes, so a mean over all steps is too small.
    padding = source.steps / source.lengths.mean()
    # From the sums of all layers in each part to those of all parts in each layer, (neurons,) each.
    sums_of_layers = zip(*sums, strict=True)
    rates = [np.sum(layer, 0) / count * padding for layer in sums_of_layers]
    return Scores(
        predictions,
        float(metric),
        [float(layer.mean()) for layer in rates],
        [float((layer == 0).mean()) for layer in rates],
    )


def fit(
    network: SpikingNetwork,
    params: Params,
    data: Split,
    options: Options,
    *,
    stop: Callable[[], object] = lambda: False,
    folder: Path | None = None,
    minutes: float = 1.0,
    callbacks: Sequence[training.Callback] = (),
) -> tuple[Params, Record]:
    """Train on the loss of the task.

    The test set is scored after each epoch for the learning curves. It is not used for decisions.

    Parameters
    ----------
    network : SpikingNetwork
        The network.
    params : tuple of Layer
        Initial parameters.
    data : Split
        At least ``batch`` training examples.
    options : Options
        Settings of the training. Shuffling, shifts, noise and input encoding depend on the seed.
    stop : callable
        Called after each compiled call. If it returns true, training ends.
    folder : Path, optional
        Folder of ``metrics.jsonl`` and checkpoints. Training resumes from the newest checkpoint.
    minutes : float
        Minimum time between checkpoints.
    callbacks : sequence of Callback
        More callbacks of :func:`spikegrad.training.fit`.

    Returns
    -------
    params : tuple of Layer
        The trained parameters.
    results : dict
        The results of the last epoch as in ``run.json``, with one value per epoch of each learning
        curve.

    Raises
    ------
    DivergedError
        If the loss or a parameter is not finite. It has the last good state.
    """
    # The schedule needs the end, so a resumed run has the number of its first start.
    schedule = schedule_of(options.lr, data, options)
    optimizer = optax.adam(schedule)
    # A value of each epoch.
    curves: defaultdict[str, list] = defaultdict(list)

    def append(state: training.State, metrics: Record) -> None:
        test = score(network, state.trainable, data.test).metric
        for name, value in {**metrics, "test": test}.items():
            curves[name].append(np.asarray(value).tolist())

    def course(now: training.Report) -> bool:
        if now.epoch_ended:
            append(now.state, now.epoch_metrics)
        mean = now.epoch_metrics
        test = ""
        if curves["test"]:
            test = f"  test {curves['test'][-1]:.1%}"
        line = (
            f"{network.name:8}{now.epoch}/{options.epochs}  loss {mean['loss']:.3g}  "
            f"train {mean[network.task.metric]:.1%}{test}  active {mean['rates'].mean():.2f}"
        )
        show(line, now.step, now.total or now.step)
        return bool(stop())

    def values(now: training.Report) -> Record:
        # The rate of the last update: the schedule counts from 0, and ``step`` is the number of
        # updates made.
        rate = schedule(now.step - 1)
        # Scored by the callback before this one.
        test = {"test": curves["test"][-1]} if now.epoch_ended else {}
        return {"learning_rate": rate} | test

    state = training.State.create(params, optimizer, jax.random.key(options.seed))
    # Integers are trained on without a folder.
    files = []
    if folder is not None:
        path = folder / CHECKPOINTS / network.name
        checkpoints = training.Checkpoints(path, minutes=minutes, extra=curves)
        state = checkpoints.restore(state)
        metrics = training.JsonLines(
            folder / METRICS, of={"network": network.name}, more=values, resume=True
        )
        # The curves have the epoch before a checkpoint saves them.
        files = [metrics, checkpoints]
    with tables.progress() as show:
        state = training.fit(
            loss_of(network, options),
            state,
            data.train.batches(options.batch, options.seed),
            optimizer=optimizer,
            epochs=options.epochs,
            updates_per_call=updates_per_call(network, data, options),
            batch_sharding=batch_sharding(data.train),
            callbacks=[course, *files, *callbacks],
        )
    # An interrupted epoch is the last point of the curves.
    if state.batches:
        means = {name: total / state.batches for name, total in state.sums.items()}
        append(state, means)
    scores = score(network, state.trainable, data.test)
    return state.trainable, {
        "test": curves["test"][-1],
        network.task.metric: curves[network.task.metric][-1],
        "loss": curves["loss"][-1],
        "rates": scores.rates,
        "silent": scores.silent,
        "epochs": len(curves["loss"]),
        "interrupted": state.epoch < options.epochs,
        "seconds": state.seconds,
        "curves": curves,
    }


def starts(network: SpikingNetwork, train: Sequences) -> Callable[[jax.Array], Params]:
    """Return a function that draws initial parameters, scaled by a sample of recordings."""
    if network.encoding != NO_ENCODING:
        return network.init
    # Images have a known scale, recordings are measured.
    x, _, mask = jax.tree.map(jnp.asarray, sample(train).as_batch())
    return jax.jit(lambda key: network.init(key, x, mask))


def updates_per_call(network: SpikingNetwork, data: Split, options: Options) -> int:
    """Return enough updates to amortize a call, but few enough to notice an interrupt soon."""
    # A forward pass and twice as much backward, with two operations for each connection and step.
    work_of_update = 6.0 * options.batch * network.steps * network.count
    per_epoch = len(data.train) // options.batch
    return max(1, min(per_epoch, int(_WORK / work_of_update)))


def loss_of(network: SpikingNetwork, options: Options) -> training.Loss:
    """Return the loss of the task with its metric and the firing rates."""
    task = network.task

    def loss(
        params: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        x, y, mask = batch
        # Images are shifted and recordings get noise, never both, so one key serves for either.
        varying, encoding = jax.random.split(key)
        if options.shift:
            # The zeros that move in are the smallest value only after scaling.
            images = scale(x[0], network.low, network.high)
            # Sequences have the time first, and an image is one step: (1, n, height, width).
            x = random_shift(images, options.shift, varying)[None]
        if options.input_noise:
            x = x + options.input_noise * jax.random.normal(varying, x.shape)
        predictions, spikes, _ = network(params, x, encoding, mask)
        rates = jnp.stack([(layer > 0).mean() for layer in spikes])
        if mask is not None:  # padding has no spikes
            rates = rates / mask.mean()
        metric = task.score(predictions, y, mask)
        metrics = {task.metric: metric, "rates": rates}
        return task.loss(predictions, y, mask), metrics

    return loss
