"""Training and scores of the networks of the command, with :func:`spikegrad.training.fit`."""

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
from ..inspect.diagnosis._look import forget_programs as forget_diagnoses
from ..training._consensus import agreed
from ..training._json_lines import jsonable
from .networks import NO_ENCODING, Params, SpikingNetwork, with_surrogate
from .options import Options
from .processes import batch_sharding
from .sources import Examples, examples, spaced


def random_shift(x: jax.Array, pixels: int, key: jax.Array) -> jax.Array:
    """Move each image of ``(n, height, width, ...)`` by up to ``pixels`` in each direction and fill in zeros."""
    n, height, width, *rest = x.shape
    padded = jnp.pad(x, [(0, 0), (pixels, pixels), (pixels, pixels)] + [(0, 0)] * len(rest))
    offsets = jax.random.randint(key, (n, 2), 0, 2 * pixels + 1)

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (*offset, *[0] * len(rest)), (height, width, *rest))

    return jax.vmap(crop)(padded, offsets)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the cross-entropy of each example, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def learning_rate(lr: Any, updates: int) -> optax.Schedule:
    """Return a learning rate that falls to 0 along a cosine."""
    return optax.cosine_decay_schedule(lr, updates)


def optimizer_of(lr: Any, updates: int) -> optax.GradientTransformation:
    """Return the optimizer of every run of the command."""
    return optax.adam(learning_rate(lr, updates))


Reporter: TypeAlias = Callable[[training.Report, float | None], None]
"""Receives the report of each compiled call and the latest test accuracy, None before the first epoch has ended."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Predictions and firing statistics for a set of examples.

    ``logits`` is ``(n, classes)``. For each hidden layer, ``rates`` has the spikes per neuron and time step, and
    ``silent`` the fraction of neurons that never fire. For rectified units they are the fractions of active units and
    of units that are never active.
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


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained network: parameters, test scores and one value per epoch of each learning curve.

    ``failures`` lists files that could not be written, and divergence. After divergence the parameters are the last
    finite ones.
    """

    params: Params
    scores: Scores
    curves: dict[str, list]
    seconds: float
    interrupted: bool
    failures: tuple[str, ...] = ()


def forget_programs() -> None:
    """Free the memory of compiled programs that are no longer used, such as programs of an earlier network."""
    forget_diagnoses()
    gc.collect()  # compiled functions are in reference cycles
    release_memory()


def make_evaluator(network: SpikingNetwork, call: Callable[..., tuple] | None = None) -> Callable[..., Scores]:
    """Return a function of parameters and :class:`spikegrad.data.Sequences` that returns their :class:`Scores`.

    It is compiled once for a fixed batch size. ``call`` replaces the network if parameters have another form.
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
        share = source.lengths.mean() / source.steps if source.masked else 1.0  # of the time steps, the valid ones
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
    """Train on the cross-entropy of the logits.

    The test set is scored after each epoch for the learning curves, and is not used for any decision.

    Parameters
    ----------
    network : SpikingNetwork
        The network.
    params : tuple of Layer
        Initial parameters.
    data : Split
        At least ``batch`` training examples.
    options : Options
        ``epochs``, ``batch``, ``lr``, ``shift``, ``input_noise`` and ``seed`` are used. The order of the examples, the
        shifts, the noise and a random input encoding depend only on the seed.
    name : str
        Name of the network in messages and files.
    report : Reporter
        Called after each compiled call.
    stop : callable
        Called after each compiled call. If it returns true, training ends and its current state is returned.
    folder : Path, optional
        Folder of ``metrics.jsonl`` and checkpoints. Training resumes from the newest checkpoint in it.
    minutes : float
        Minimum time between checkpoints.
    identity : dict, optional
        Everything that determines the result, as JSON. Checkpoints store it. A checkpoint with another one raises.
    callbacks : sequence of Callback
        More callbacks of :func:`spikegrad.training.fit`.

    Returns
    -------
    Fit

    Raises
    ------
    DivergedError
        If the loss is not finite in the first compiled call.
    CheckpointError
        If the newest checkpoint in ``folder`` cannot be read or belongs to another run.
    """
    epochs, per_epoch = options.epochs, len(data.train) // options.batch
    optimizer = optimizer_of(options.lr, per_epoch * epochs)
    rate = jax.jit(learning_rate(options.lr, per_epoch * epochs))
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
        if extra.get("run") != of:
            raise training.CheckpointError(
                f"the newest checkpoint in {checkpoints.folder} belongs to another run. Remove it"
            )
        course.curves = extra["curves"]
        lines = training.JsonLines(
            folder / METRICS,
            of={"network": name},
            more=lambda now: {"learning_rate": rate(now.step - 1)} | course.test_accuracy(now),
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
        failures.append(f"the {name} network diverged: {error}. A smaller learning rate may help")
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
    """Train and score a network with several settings and seeds, as :func:`fit` does for one.

    Parameters
    ----------
    data, validation : Split
        Both have the training set. ``data`` has the test set, ``validation`` has the validation set instead.
    options : Options
        ``epochs``, ``batch``, ``shift`` and ``input_noise`` are used.
    settings : list of dict
        Each has the surrogate ``spike``, the learning rate ``lr``, and values for the results.
    report : callable
        Called in the threads of the runs with the number of updates since its last call.
    **more
        Further arguments of :func:`spikegrad.training.sweep`.

    Yields
    ------
    dict
        Results of :func:`spikegrad.training.sweep` with the accuracies ``validation`` and ``test``, and with
        ``silent`` of :class:`Scores`.
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
        optimizer=lambda setting: optimizer_of(setting["lr"], per_epoch * epochs),
        seeds=seeds,
        epochs=epochs,
        updates_per_call=_updates_per_call(network, options.batch, per_epoch),
        score=score,
        callbacks=lambda setting, seed: [lambda now: report(now.updates)],
        **more,
    )


def starts(network: SpikingNetwork, train: Sequences) -> Callable[[jax.Array], Params]:
    """Return a function that draws initial parameters. For recordings, a sample of them scales the weights."""

    def plain(key: jax.Array) -> Params:
        return network.init(key, gains(network)[0])

    if network.encoding != NO_ENCODING:
        return plain
    x, _, lengths = examples(train, spaced(len(train), _MEASURED))
    driven = jax.jit(network.init_driven)

    def start(key: jax.Array) -> Params:
        params = driven(x, lengths, key)
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
        return params if finite else plain(key)  # not finite if the sample has no events

    return start


_MEASURED = 128
"""Size of the sample: a default batch, which must fit into memory anyway."""


def gains(network: SpikingNetwork) -> tuple[float, float]:
    """Return the gains of the initial weights, with and without spikes.

    A membrane sums constant inputs over time steps, so it needs smaller weights than a ReLU. Recordings vary.
    """
    return (math.sqrt(0.5), math.sqrt(0.5)) if network.encoding == NO_ENCODING else (0.5, 1.0)


CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
_WORK = 1.6e10  # additions and multiplications of one compiled call: about a tenth of a second on two cores


def _updates_per_call(network: SpikingNetwork, batch: int, per_epoch: int) -> int:
    """Return enough updates to amortize a call, but few enough to notice an interrupt soon. It is deterministic."""
    of_update = 6.0 * batch * network.steps * network.count
    return max(1, min(per_epoch, int(_WORK / of_update)))


def _placed(loss: Callable[..., Any], train: Sequences, size: int) -> tuple[Any, Callable[[int], Any]]:
    """Return the loss, and batches by seed: row numbers if the examples fit the device, or else examples."""
    if agreed(not _fits_the_device(train)):
        return loss, functools.partial(training.ShuffledBatches, _Rows(train), size)
    rows = np.arange(len(train), dtype=np.int32)
    loss = training.with_device_data(loss, jax.device_put(examples(train)))
    return loss, functools.partial(training.ShuffledBatches, rows, size)


def _fits_the_device(train: Sequences) -> bool:
    """Return True if half of the free memory of the device holds the examples."""
    if not isinstance(train.x, np.ndarray):  # read from files, because the examples exceed the memory of the system
        return False
    free = device_memory()
    return free is None or train.x.nbytes <= free / 2


class _Rows:
    """Examples that are read by row numbers, for batches."""

    def __init__(self, train: Sequences) -> None:
        self.train = train

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, rows: np.ndarray) -> Examples:
        return examples(self.train, rows)


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
        if lengths is not None:  # padding has no spikes
            rates = rates * (x.shape[1] / lengths.mean())
        return cross_entropy(logits, y).mean(), {"accuracy": (logits.argmax(-1) == y).mean(), "rates": rates}

    return loss


_CURVES = ("loss", "accuracy", "rates", "test")


class _Tolerant:
    """A callback that continues if its file cannot be written, and records the first such error."""

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
    """A callback that scores the test set, stores learning curves and reports progress."""

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
        """Return the scores of the test set."""
        return self.score(params, self.test)

    def close(self, scores: Scores) -> None:
        """Append an unfinished epoch to the curves."""
        if self.last is not None and not self.last.epoch_ended:
            self._append(self.last, scores)

    def test_accuracy(self, now: training.Report) -> dict[str, float]:
        return {"test": self.curves["test"][-1]} if now.epoch_ended else {}

    def _append(self, now: training.Report, scores: Scores) -> None:
        for name in ("loss", "accuracy", "rates"):
            self.curves[name].append(now.epoch_metrics[name].tolist())
        self.curves["test"].append(scores.accuracy(self.test.y))
