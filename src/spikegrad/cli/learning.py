"""How the command trains its networks, as a user of :func:`spikegrad.training.fit`, and how it scores them."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import training
from .._struct import lifted
from .._system import device_memory, release_memory
from ..data import Sequences, Split
from ..training._consensus import agreed
from ..training._json_lines import jsonable
from .networks import NO_ENCODING, Params, SpikingNetwork, with_surrogate
from .options import Options
from .processes import batch_sharding
from .sources import examples, spaced


def random_shift(x: jax.Array, pixels: int, key: jax.Array) -> jax.Array:
    """Each image of ``(n, height, width, ...)`` moved by up to ``pixels`` in each direction, zeros moving in."""
    n, height, width, *rest = x.shape
    padded = jnp.pad(x, [(0, 0), (pixels, pixels), (pixels, pixels)] + [(0, 0)] * len(rest))
    offsets = jax.random.randint(key, (n, 2), 0, 2 * pixels + 1)

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (*offset, *[0] * len(rest)), (height, width, *rest))

    return jax.vmap(crop)(padded, offsets)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


Reporter: TypeAlias = Callable[[training.Report, float | None], None]
"""Called after each compiled call with its report, and with the latest accuracy on the test set, if there is one."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a network makes of examples.

    ``logits`` is ``(n, classes)``. For each hidden layer, ``rates`` has the spikes per neuron and step, and ``silent``
    the share of neurons that never fire; of rectified linear units, the share that is active, and that never is.
    """

    logits: np.ndarray
    rates: list[float]
    silent: list[float]

    @property
    def answers(self) -> np.ndarray:
        """The class of the greatest logit, ``(n,)``."""
        return self.logits.argmax(1)

    def accuracy(self, y: np.ndarray) -> float:
        """Share of the answers that equal the labels."""
        return float((self.answers == y).mean())


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained network: parameters, scores of the held-out examples, and one value per epoch of each curve.

    ``failures`` says what went wrong on the way: a file that could not be written, or that it diverged; the parameters
    are then the last good ones.
    """

    params: Params
    scores: Scores
    curves: dict[str, list]
    seconds: float
    interrupted: bool
    failures: tuple[str, ...] = ()


def forget_programs() -> None:
    """Give back the memory of what has been compiled and is out of use, such as the training of a network before."""
    gc.collect()  # a compiled function is part of circles
    release_memory()


def make_evaluator(network: SpikingNetwork, call: Callable[..., tuple] | None = None) -> Callable[..., Scores]:
    """A function that runs a network on any number of examples, compiled once for its own size of batch.

    It takes parameters and :class:`spikegrad.data.Sequences`. ``call`` is used instead of the network, with other
    parameters.
    """
    call = network if call is None else call

    @jax.jit
    def run(params, x, lengths, valid, key):
        logits, spikes, _ = call(params, network.prepare(x), key, lengths)
        return logits, [(s * valid[None, :, None]).sum((0, 1)) / s.shape[0] for s in spikes]

    def score(params: Any, source: Sequences) -> Scores:
        size = min(len(source), 512)
        logits, counts = [], []
        for i, start in enumerate(range(0, len(source), size)):
            part, _, lengths = examples(source, slice(start, start + size))
            valid = (np.arange(size) < len(part)).astype(np.float32)
            padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            steps = None if lengths is None else np.resize(lengths, size)
            out, n = run(params, padded, steps, valid, jax.random.fold_in(jax.random.key(0), i))
            logits.append(np.asarray(out)[: len(part)])
            counts.append([np.asarray(c) for c in n])
        share = source.lengths.mean() / source.steps if source.masked else 1.0  # of the steps that take place
        layers = [np.sum(layer, 0) / (len(source) * share) for layer in zip(*counts, strict=True)]
        return Scores(
            np.concatenate(logits), [float(r.mean()) for r in layers], [float((r == 0).mean()) for r in layers]
        )

    return score


def fit(
    network: SpikingNetwork,
    params: Params,
    data: Split,
    options: Options,
    *,
    name: str = "spiking",
    report: Reporter = lambda now, test: None,
    stop: Callable[[], Any] = lambda: False,
    folder: Path | None = None,
    minutes: float = 1.0,
    identity: dict[str, Any] | None = None,
    callbacks: Sequence[training.Callback] = (),
) -> Fit:
    """Train by Adam, with a learning rate that falls to 0 along a cosine, on the cross-entropy of the logits.

    The held-out examples are scored after each epoch, to be drawn; nothing is chosen by them.

    Parameters
    ----------
    network : SpikingNetwork
        What to train.
    params : tuple of Layer
        Its parameters at the start.
    data : Split
        At least ``batch`` training examples.
    options : Options
        Of them count ``epochs``, ``batch``, ``lr``, ``shift``, ``input_noise`` and ``seed``: the order, the shifts, the
        noise and a random input encoding depend on the seed alone.
    name : str
        Of the network, in messages and files.
    report : Reporter
        Told of each compiled call.
    stop : callable
        Asked as often; true ends training, and what was learnt so far is returned.
    folder : Path, optional
        Where ``metrics.jsonl`` and checkpoints are written. Training goes on from the newest checkpoint that is there.
    minutes : float
        Between checkpoints.
    identity : dict, optional
        Everything that the result depends on, as JSON. Checkpoints store it, and one of another run raises an error.
    callbacks : sequence of Callback
        Told more of it.

    Returns
    -------
    Fit

    Raises
    ------
    DivergedError
        If the loss is not finite before anything has been learnt.
    CheckpointError
        If the newest checkpoint in ``folder`` cannot be read, or belongs to another run.
    """
    epochs, per_epoch = options.epochs, len(data.train) // options.batch
    schedule = jax.jit(optax.cosine_decay_schedule(options.lr, per_epoch * epochs))
    optimizer = optax.adam(schedule)
    loss, batches = _placed(_loss(network, options), data.train, options.batch)
    course = _Course(data.test, make_evaluator(network), report)
    told: list[training.Callback] = [course, *callbacks, lambda now: stop()]
    failures: list[str] = []
    diverged = False
    state = training.State.create(params, optimizer, jax.random.key(options.seed))
    if folder is not None:
        of = jsonable({"network": name, **(identity or {})})
        extra = {"run": of, "curves": course.curves}
        checkpoints = training.Checkpoints(folder / CHECKPOINTS / name, minutes=minutes, extra=extra)
        state = checkpoints.restore(state)
        course.curves = extra["curves"] = _curves_of(extra, of, state.epoch, checkpoints.folder)
        lines = training.JsonLines(
            folder / METRICS,
            of={"network": name},
            more=lambda now: {"learning_rate": schedule(now.step - 1)} | course.test_accuracy(now),
            resume=True,
        )
        told[1:1] = [_Tolerant(lines, failures), _Tolerant(checkpoints, failures)]
    forget_programs()
    try:
        state = training.fit(
            loss,
            state,
            batches(options.seed),
            optimizer=optimizer,
            epochs=epochs,
            updates_per_call=_updates_per_call(network, options.batch, per_epoch),
            batch_sharding=batch_sharding(options.batch),
            callbacks=told,
        )
    except training.DivergedError as error:
        failures.append(f"the {name} network diverged: {error}; a smaller learning rate may help")
        if course.last is None and not course.curves["loss"]:
            raise training.DivergedError(failures[-1], error.state) from None
        state, diverged = error.state, True
    scores = course.scores(state.trainable)
    course.close(scores)
    interrupted = not diverged and state.epoch < epochs
    return Fit(state.trainable, scores, course.curves, state.seconds, interrupted, tuple(failures))


def sweep(
    network: SpikingNetwork,
    data: Split,
    validation: Split,
    options: Options,
    settings: list[dict[str, Any]],
    seeds: Sequence[int],
    *,
    report: Callable[[int], Any],
    **more: Any,
) -> Iterator[dict[str, Any]]:
    """Train a network with each of several settings and seeds as :func:`fit` does, and score it, by
    :func:`spikegrad.training.sweep`.

    Parameters
    ----------
    data, validation : Split
        The training and the test set; and the training and the validation set.
    options : Options
        Of them count ``epochs``, ``batch``, ``shift`` and ``input_noise``.
    settings : list of dict
        Each has a ``spike``, the surrogate; ``lr``; and whatever else is to be told of it.
    report : callable
        Told of the updates that have been made since it was last called, in the threads of the runs.
    **more
        For :func:`spikegrad.training.sweep`.

    Yields
    ------
    dict
        With the accuracies ``validation`` and ``test``, and ``silent`` as :class:`Scores` has it.
    """
    epochs, per_epoch = options.epochs, len(data.train) // options.batch
    one_loss = _loss(network, options)

    def loss(params, batch, key, setting):
        return one_loss(with_surrogate(params, setting["spike"]), batch, key)

    @functools.cache
    def evaluator(shape: Any) -> Callable[..., Scores]:
        def call(params_and_numbers, *given):
            params, numbers = params_and_numbers
            return network(with_surrogate(params, jax.tree.unflatten(shape, numbers)), *given)

        return make_evaluator(network, call)

    def score(params: Params, setting: dict[str, Any]) -> dict[str, Any]:
        numbers, shape = jax.tree.flatten(lifted(setting["spike"]))
        to_choose, to_tell = (evaluator(shape)((params, numbers), part.test) for part in (validation, data))
        return {
            "validation": to_choose.accuracy(validation.test.y),
            "test": to_tell.accuracy(data.test.y),
            "silent": to_tell.silent,
        }

    placed, batches = _placed(loss, data.train, options.batch)
    start = starts(network, data.train)
    return training.sweep(
        placed,
        lambda key, setting: start(key),
        batches,
        settings,
        optimizer=lambda setting: optax.adam(optax.cosine_decay_schedule(setting["lr"], per_epoch * epochs)),
        seeds=seeds,
        epochs=epochs,
        updates_per_call=_updates_per_call(network, options.batch, per_epoch),
        score=score,
        callbacks=lambda setting, seed: [lambda now: report(now.updates)],
        **more,
    )


def starts(network: SpikingNetwork, train: Sequences) -> Callable[[jax.Array], Params]:
    """What draws the parameters of a spiking network at the start: of recordings, by how much they drive it."""

    def plain(key: jax.Array) -> Params:
        return network.init(key, gains(network)[0])

    if network.encoding != NO_ENCODING:
        return plain
    x, _, lengths = examples(train, spaced(len(train), _MEASURED))
    driven = jax.jit(network.init_driven)

    def start(key: jax.Array) -> Params:
        params = driven(x, lengths, key)
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
        return params if finite else plain(key)  # there are no events to go by

    return start


_MEASURED = 128
"""Recordings of which it is measured how much they drive: no more than are in a batch by default, which must fit."""


def gains(network: SpikingNetwork) -> tuple[float, float]:
    """Of the weights at the start, in a spiking network and in one without spikes.

    A membrane sums an input that stays over steps, so that it needs smaller weights than a ReLU; a recording varies.
    """
    return (math.sqrt(0.5), math.sqrt(0.5)) if network.encoding == NO_ENCODING else (0.5, 1.0)


CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
_WORK = 1.6e10  # additions and multiplications of one compiled call: a tenth of a second or so on two cores


def _updates_per_call(network: SpikingNetwork, batch: int, per_epoch: int) -> int:
    """So many that starting a call costs little, and so few that an interrupt is soon noticed; counted, not timed."""
    of_update = 6.0 * batch * network.steps * network.count
    return max(1, min(per_epoch, int(_WORK / of_update)))


def _placed(loss: Callable[..., Any], train: Sequences, size: int) -> tuple[Any, Callable[[int], Any]]:
    """The loss, and batches by their seed: of row numbers if the examples fit the device, else of examples."""
    rows = np.arange(len(train), dtype=np.int32)
    numbers = functools.partial(training.ShuffledBatches, rows, size)
    if agreed(not _fits_the_device(train)):
        return loss, lambda seed: _Read(train, numbers(seed))
    return training.with_device_data(loss, jax.device_put(examples(train))), numbers


def _fits_the_device(train: Sequences) -> bool:
    """Whether half of its free memory holds the examples."""
    if not isinstance(train.x, np.ndarray):  # which do not even fit into that of the system
        return False
    free = device_memory()
    return free is None or train.x.nbytes <= free / 2


class _Read:
    """Batches of examples, read by their numbers."""

    def __init__(self, train: Sequences, numbers: training.ShuffledBatches) -> None:
        self.train, self.numbers = train, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __call__(self, epoch: int) -> Iterator[Any]:
        return (examples(self.train, rows) for rows in self.numbers(epoch))


def _loss(network: SpikingNetwork, options: Options) -> training.Loss:
    def loss(params, batch, key):
        x, y, lengths = batch
        varying, encoding = jax.random.split(key)
        x = network.prepare(x)
        if options.shift:
            x = random_shift(x, options.shift, varying)
        if options.input_noise:
            x = x + options.input_noise * jax.random.normal(varying, x.shape)
        logits, spikes, _ = network(params, x, encoding, lengths)
        rates = jnp.stack([s.mean() for s in spikes])
        if lengths is not None:  # beyond which nothing fires
            rates = rates * (x.shape[1] / lengths.mean())
        return cross_entropy(logits, y).mean(), {"accuracy": (logits.argmax(-1) == y).mean(), "rates": rates}

    return loss


def _curves_of(extra: dict[str, Any], of: dict[str, Any], epochs: int, folder: Path) -> dict[str, list]:
    """The learning curves that a checkpoint has, if it is one of this run."""
    if extra.get("run") != of:
        raise training.CheckpointError(f"the newest checkpoint in {folder} belongs to another run; remove it")
    try:
        curves = {name: list(extra["curves"][name]) for name in _CURVES}
        for name, curve in curves.items():
            values = np.asarray(curve, float)
            if len(values) != epochs or values.ndim > 1 + (name == "rates") or not np.isfinite(values).all():
                raise ValueError(name)
    except (KeyError, TypeError, ValueError):
        raise training.CheckpointError(f"the newest checkpoint in {folder} is damaged: its curves; remove it") from None
    return curves


_CURVES = ("loss", "accuracy", "rates", "test")


class _Tolerant:
    """A callback whose files may fail to be written: that is noted, once, and training goes on."""

    def __init__(self, callback: Any, failures: list[str]) -> None:
        self.callback, self.failures = callback, failures
        self.failed = False

    def __call__(self, now: training.Report) -> None:
        self._try(self.callback, now)

    def end(self, state: training.State) -> None:
        if hasattr(self.callback, "end"):
            self._try(self.callback.end, state)

    def _try(self, call: Callable, *arguments: Any) -> None:
        try:
            call(*arguments)
        except OSError as error:
            if not self.failed:
                named = f"{error.filename} cannot be written: {error.strerror}" if error.filename else str(error)
                self.failures.append(named)
            self.failed = True


class _Course:
    """How training goes: a callback that keeps a value per epoch of each curve, and tells where it stands."""

    def __init__(self, test: Sequences, score: Callable[..., Scores], report: Reporter) -> None:
        self.test, self.score, self.report = test, score, report
        self.curves: dict[str, list] = {name: [] for name in _CURVES}
        self.last: training.Report | None = None

    def __call__(self, now: training.Report) -> None:
        self.last = now
        if now.epoch_ended:
            self._append(now, self.scores(now.state.trainable))
        self.report(now, self.curves["test"][-1] if self.curves["test"] else None)

    def scores(self, params: Params) -> Scores:
        """Of the test set."""
        return self.score(params, self.test)

    def close(self, scores: Scores) -> None:
        """An epoch that was begun counts with what there is of it."""
        if self.last is not None and not self.last.epoch_ended:
            self._append(self.last, scores)

    def test_accuracy(self, now: training.Report) -> dict[str, float]:
        return {"test": self.curves["test"][-1]} if now.epoch_ended else {}

    def _append(self, now: training.Report, scores: Scores) -> None:
        for name in ("loss", "accuracy", "rates"):
            self.curves[name].append(now.epoch_metrics[name].tolist())
        self.curves["test"].append(scores.accuracy(self.test.y))
