"""Training and scores of the networks of the command, with :func:`spikegrad.training.fit`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import training
from .._files import Record
from .._struct import Real, lifted
from ..data import Sequences, Split, scale
from . import tables
from .networks import NO_ENCODING, Params, SpikingNetwork, with_surrogate
from .options import Options
from .processes import batch_sharding
from .sources import sample

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
_MEASURED = 128
"""Number of recordings that scale the initial weights."""
_SCORED = 512
"""Number of examples of a compiled call that scores."""
_WORK = 1.6e10
"""Additions and multiplications of a compiled call: a tenth of a second on two cores."""

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def optimizer_of(lr: Real, updates: int) -> optax.GradientTransformation:
    """Return the optimizer of every run. Its learning rate falls to 0 along a cosine."""
    return optax.adam(optax.cosine_decay_schedule(lr, updates))


def random_shift(x: jax.Array, pixels: int, key: jax.Array) -> jax.Array:
    """Move each image of ``(n, height, width, ...)`` by up to ``pixels`` in each direction."""
    channel_axes = x.ndim - 3
    padded = jnp.pad(
        x, [(0, 0), (pixels, pixels), (pixels, pixels), *[(0, 0)] * channel_axes]
    )
    # (n, 2): one offset for height and width of each image. Channels do not move.
    offsets = jax.random.randint(key, (len(x), 2), 0, 2 * pixels + 1)
    offsets = jnp.pad(offsets, [(0, 0), (0, channel_axes)])
    return jax.vmap(partial(jax.lax.dynamic_slice, slice_sizes=x.shape[1:]))(
        padded, offsets
    )


@dataclasses.dataclass(frozen=True)
class Scores:
    """Predictions and firing statistics for a set of examples.

    ``logits`` is ``(n, classes)``. For each hidden layer, ``rates`` has the spikes per neuron and
    time step, and ``silent`` the fraction of neurons that never fire.
    """

    logits: np.ndarray
    rates: list[float]
    silent: list[float]

    @property
    def answers(self) -> np.ndarray:
        """The class with the largest logit, ``(n,)``."""
        return self.logits.argmax(1)

    def accuracy(self, y: np.ndarray) -> float:
        """Return the fraction of answers that equal the labels."""
        return float((self.answers == y).mean())


def make_evaluator(network: SpikingNetwork) -> Callable[..., Scores]:
    """Return a function of parameters and :class:`spikegrad.data.Sequences` that scores them."""

    @jax.jit
    def run(params, x, mask, key):
        logits, spikes, _ = network(params, x, key, mask)
        return logits, [layer.mean(0) for layer in spikes]

    key = jax.random.key(0)

    def score(params: Params, source: Sequences) -> Scores:
        # Parts of one size if possible, because another size is another program.
        count = len(source)
        size = math.ceil(count / math.ceil(count / _SCORED))
        parts = [
            jax.device_get(run(params, x, mask, jax.random.fold_in(key, i)))
            for i, (x, _, mask) in enumerate(source.batches(size))
        ]
        logits, means = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        # Masked steps have no spikes, so a mean over all steps is too small.
        padding = source.steps / source.lengths.mean() if source.masked else 1.0
        rates = [layer.mean(0) * padding for layer in means]
        return Scores(
            logits,
            [float(layer.mean()) for layer in rates],
            [float((layer == 0).mean()) for layer in rates],
        )

    return score


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained network: parameters, test scores and one value per epoch of each learning curve.

    ``failure`` is the message of a divergence. The parameters are then the last finite ones.
    """

    params: Params
    scores: Scores
    curves: dict[str, list]
    seconds: float
    interrupted: bool
    failure: str = ""

    def summary(self) -> Record:
        """Return the results of the last epoch, as in ``run.json``."""
        return {
            **{name: self.curves[name][-1] for name in ("test", "accuracy", "loss")},
            "rates": self.scores.rates,
            "silent": self.scores.silent,
            "epochs": len(self.curves["loss"]),
            "interrupted": self.interrupted,
            "seconds": self.seconds,
            "curves": self.curves,
        }


def fit(
    network: SpikingNetwork,
    params: Params,
    data: Split,
    options: Options,
    *,
    quiet: bool = True,
    stop: Callable[[], object] = lambda: False,
    folder: Path | None = None,
    minutes: float = 1.0,
    callbacks: Sequence[training.Callback] = (),
) -> Fit:
    """Train on the cross-entropy of the logits.

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
    quiet : bool
        If False, print the progress.
    stop : callable
        Called after each compiled call. If it returns true, training ends.
    folder : Path, optional
        Folder of ``metrics.jsonl`` and checkpoints. Training resumes from the newest checkpoint.
    minutes : float
        Minimum time between checkpoints.
    callbacks : sequence of Callback
        More callbacks of :func:`spikegrad.training.fit`.

    Raises
    ------
    DivergedError
        If the loss is not finite in the first compiled call.
    """
    per_epoch = len(data.train) // options.batch
    updates = per_epoch * options.epochs
    optimizer = optimizer_of(options.lr, updates)
    score = make_evaluator(network)
    curves: dict[str, list] = {
        name: [] for name in ("loss", "accuracy", "rates", "test")
    }
    last: training.Report | None = None

    def append(now: training.Report) -> None:
        test = score(now.state.trainable, data.test).accuracy(data.test.y)
        for metric, value in (now.epoch_metrics | {"test": np.asarray(test)}).items():
            curves[metric].append(value.tolist())

    def course(now: training.Report) -> bool:
        nonlocal last
        last = now
        if now.epoch_ended:
            append(now)
        line = tables.training_line(now, network.name, options.epochs, curves["test"])
        show(line, now.step, now.total or now.step)
        return bool(stop())

    def values(now: training.Report) -> Record:
        # The rate of the last update: the schedule counts from 0, and ``step`` is the number of
        # updates made.
        rate = optax.cosine_decay_schedule(options.lr, updates)(now.step - 1)
        return {"learning_rate": rate} | (
            {"test": curves["test"][-1]} if now.epoch_ended else {}
        )

    state = training.State.create(params, optimizer, jax.random.key(options.seed))
    files = []
    if folder is not None:
        path = folder / CHECKPOINTS / network.name
        checkpoints = training.Checkpoints(path, minutes=minutes, extra=curves)
        state = checkpoints.restore(state)
        labels = {"network": network.name}
        metrics = training.JsonLines(
            folder / METRICS, of=labels, more=values, resume=True
        )
        files = [metrics, checkpoints]
    failure = ""
    try:
        with tables.progress(quiet) as show:
            state = training.fit(
                _loss(network, options),
                state,
                data.train.batches(options.batch, options.seed),
                optimizer=optimizer,
                epochs=options.epochs,
                updates_per_call=_updates_per_call(network, options.batch, per_epoch),
                batch_sharding=batch_sharding(options.batch, data.train.masked),
                callbacks=[course, *files, *callbacks],
            )
    except training.DivergedError as error:
        failure = f"the {network.name} network diverged: {error}. A smaller learning rate may help"
        # Without any finite update there is nothing to save.
        if last is None and not curves["loss"]:
            raise training.DivergedError(failure, error.state) from None
        state = error.state
    # An interrupted epoch is the last point of the curves.
    if last is not None and not last.epoch_ended:
        append(dataclasses.replace(last, state=state))
    scores = score(state.trainable, data.test)
    interrupted = not failure and state.epoch < options.epochs
    return Fit(state.trainable, scores, curves, state.seconds, interrupted, failure)


def sweep(
    network: SpikingNetwork,
    data: Split,
    validation: Split,
    options: Options,
    settings: list[Record],
    seeds: Sequence[int],
    **more: Any,
) -> Iterator[Record]:
    """Train and score a network with several settings and seeds.

    Parameters
    ----------
    data, validation : Split
        Both have the training set. ``data`` has the test set, ``validation`` the validation set.
    options : Options
        Settings of the training, as for :func:`fit`.
    settings : list of dict
        Each has the surrogate ``spike``, the learning rate ``lr``, and values for the results.
    **more
        Further arguments of :func:`spikegrad.training.sweep`.

    Yields
    ------
    dict
        Results of :func:`spikegrad.training.sweep` with the accuracies ``validation`` and
        ``test``, and with ``silent`` of :class:`Scores`.
    """
    per_epoch = len(data.train) // options.batch
    loss_of_one = _loss(network, options)

    def loss(params, batch, key, setting):
        return loss_of_one(with_surrogate(params, setting["spike"]), batch, key)

    evaluate = make_evaluator(network)

    def score(params: Params, setting: Mapping) -> Record:
        # lifted numbers are arguments of the compiled function
        params = with_surrogate(params, lifted(setting["spike"]))
        chosen, reported = (
            evaluate(params, split.test) for split in (validation, data)
        )
        return {
            "validation": chosen.accuracy(validation.test.y),
            "test": reported.accuracy(data.test.y),
            "silent": reported.silent,
        }

    start = starts(network, data.train)
    return training.sweep(
        loss,
        lambda key, setting: start(key),
        partial(data.train.batches, options.batch),
        settings,
        optimizer=lambda setting: optimizer_of(
            setting["lr"], per_epoch * options.epochs
        ),
        seeds=seeds,
        epochs=options.epochs,
        updates_per_call=_updates_per_call(network, options.batch, per_epoch),
        score=score,
        **more,
    )


def starts(network: SpikingNetwork, train: Sequences) -> Callable[[jax.Array], Params]:
    """Return a function that draws initial parameters, scaled by a sample of recordings."""
    if network.encoding != NO_ENCODING:
        return network.init
    x, _, mask = jax.tree.map(jnp.asarray, sample(train, _MEASURED).as_batch())
    return jax.jit(lambda key: network.init(key, x, mask))


def _updates_per_call(network: SpikingNetwork, batch: int, per_epoch: int) -> int:
    """Return enough updates to amortize a call, but few enough to notice an interrupt soon."""
    # A forward pass and twice as much backward, with two operations for each connection and step.
    work_of_update = 6.0 * batch * network.steps * network.count
    return max(1, min(per_epoch, int(_WORK / work_of_update)))


def _loss(network: SpikingNetwork, options: Options) -> training.Loss:
    def loss(params, batch, key):
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
        logits, spikes, _ = network(params, x, encoding, mask)
        rates = jnp.stack([layer.mean() for layer in spikes])
        if mask is not None:  # padding has no spikes
            rates = rates / mask.mean()
        accuracy = (logits.argmax(-1) == y).mean()
        return cross_entropy(logits, y).mean(), {"accuracy": accuracy, "rates": rates}

    return loss
