"""Sweeps: many settings, each with several seeds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import operator
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._files import Record
from .._pytree import PyTree, jsonable
from .._struct import lifted
from .._system import processors
from ._fit import check_counts, check_loss, run
from ._json_lines import append, merged, plain, resumed
from ._partition import combine, is_float_array
from ._source import Source
from ._state import Callback, DivergedError, Report, State, check_trainable
from ._update import Call, Value, arrays_apart, compiled

Setting: TypeAlias = Mapping[str, PyTree]
LossOfSetting: TypeAlias = Callable[[PyTree, PyTree, jax.Array, Setting], Value]
Optimizer: TypeAlias = (
    Callable[[Setting], optax.GradientTransformation] | optax.GradientTransformation
)
Score: TypeAlias = Callable[[PyTree, Setting], Setting]


def sweep(
    loss: LossOfSetting,
    start: Callable[[jax.Array, Setting], PyTree],
    batches: Callable[[int], PyTree],
    settings: Iterable[Setting],
    *,
    optimizer: Optimizer,
    seeds: Iterable[int] = (0,),
    epochs: int | None = None,
    steps: int | None = None,
    updates_per_call: int = 1,
    score: Score = lambda trainable, setting: {},
    callbacks: Callable[[Setting, int], Sequence[Callback]] = lambda setting, seed: (),
    stop: Callable[[], object] = lambda: False,
    path: str | os.PathLike | None = None,
    resume: bool = False,
    jobs: int | None = None,
) -> Iterator[Record]:
    """Train once for each setting and each seed, in parallel, and yield the result of each run when
    it ends.

    A *setting* is a dict of hyperparameters, such as ``{"lr": 0.01, "decay": 0.9}``. Each run is
    one :func:`fit` with one setting and one seed. Settings that differ only in floating-point
    numbers share compiled programs.

    Parameters
    ----------
    loss : callable
        A function ``loss(trainable, batch, key, setting) -> (scalar, {name: metric})``: the loss
        function of :func:`fit` with the setting as fourth argument. Floating-point numbers and
        arrays in the setting are traced. Other values, such as strings, integers and the class of a
        surrogate, are constants, so another value compiles again.
    start : callable
        A function ``start(key, setting)`` that returns the initial parameters, a pytree of
        floating-point arrays. ``key`` is ``jax.random.key(seed)``.
    batches : callable
        A function ``batches(seed)`` that returns the batches of a run in a form that :func:`fit`
        accepts, such as :class:`ShuffledBatches`.
    settings : iterable of dict
        The settings, dicts from names to values. A value is a number, a string or a pytree, such as
        a surrogate. All settings must have equal names. Equal settings run once.
    optimizer : callable, or optax.GradientTransformation
        An optimizer of optax for all runs, or a function ``optimizer(setting)`` that returns one,
        for example ``lambda setting: optax.adam(setting["lr"])``.
    seeds : iterable of int, default (0,)
        The seeds. Each setting runs once for each seed, with the random key
        ``jax.random.key(seed)``.
    epochs, steps, updates_per_call : int, optional
        As in :func:`fit`: the numbers of epochs and of updates after which a run ends, and the
        number of updates in one call of the compiled program.
    score : callable, optional
        A function ``score(trainable, setting)`` that returns a dict of numbers, such as the
        accuracies on a validation set and a test set. It is called at the end of each run with the
        trained parameters, outside ``jax.jit``. The default function, a ``lambda`` in the
        signature, returns an empty dict.
    callbacks : callable, optional
        A function ``callbacks(setting, seed)`` that returns the callbacks of a run, as in
        :func:`fit`. They are called in the thread of the run. The default function, a ``lambda`` in
        the signature, returns no callbacks.
    stop : callable, optional
        A function without arguments, which is called after each call of the compiled program. If it
        returns True, the sweep ends, and unfinished runs are discarded. The default function, a
        ``lambda`` in the signature, returns False.
    path : path, optional
        A file for the results, with one line of JSON for each run. By default no file is written.
    resume : bool, default False
        If True, ``path`` may exist. Runs with a line in the file are not repeated, and lines of
        other settings stay. Only the values of the settings are compared, so after a change of the
        loss use a new file.
    jobs : int, optional
        Number of runs in parallel, each in a thread. The default is the number of processors on a
        CPU, and 1 on other devices.

    Yields
    ------
    dict
        The result of one run, as in the file. Its entries are the values of the setting (their
        ``repr`` if JSON cannot store them), ``seed``, the number of updates ``step``, and their
        time ``seconds``. ``loss`` and the other metrics are means over the last epoch. The entries
        of ``score`` follow. ``diverged`` is None, or the message of a :class:`DivergedError`. A
        diverged run is scored at its last finite state.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``resume`` is False.
    TypeError, ValueError
        If a value of a setting, other than floating-point numbers and arrays, is not hashable. Also
        in the cases of :func:`fit`.

    Notes
    -----
    A run is bit-identical to :func:`fit` with the numbers of the setting as arrays, whatever the
    number of parallel runs.

    Parallel runs are faster for small networks, which leave much of a CPU idle. On two cores, two
    parallel runs take 0.5 to 0.7 of the time of two runs one after the other
    (``benchmarks/sweep.py``).

    The threads see the global configuration of JAX, but not the configuration of a ``with`` block
    around the sweep.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from spikegrad import Arctan, Sigmoid, rescaled
    >>> from spikegrad.training import sweep
    >>> x = jax.random.uniform(jax.random.key(0), (100,))
    >>> def loss(weight, batch, key, setting):
    ...     spikes = setting["surrogate"](batch * weight - 1.0)
    ...     return (spikes.mean() - 0.5) ** 2, {}  # half of them must fire
    >>> results = sweep(
    ...     loss,
    ...     lambda key, setting: jnp.array(0.5),
    ...     lambda seed: [x],
    ...     [
    ...         {"surrogate": rescaled(s, half_width=width)}
    ...         for s in (Sigmoid(), Arctan())
    ...         for width in (0.1, 0.3)
    ...     ],
    ...     optimizer=optax.sgd(1.0),
    ...     epochs=20,
    ...     score=lambda weight, setting: {"fire": (x * weight >= 1).mean()},
    ... )
    >>> for result in sorted(
    ...     results, key=lambda result: (result["fire"], result["surrogate"])
    ... ):
    ...     print(f"{result['fire']:.2f} {result['surrogate']}")
    0.00 stretched(Arctan(alpha=1.0), 0.157...)
    0.00 stretched(Sigmoid(alpha=4.0), 0.226...)
    0.45 stretched(Arctan(alpha=1.0), 0.471...)
    0.50 stretched(Sigmoid(alpha=4.0), 0.680...)
    """
    check_loss("sweep", loss, "trainable", "batch", "key", "setting")
    check_counts(
        "sweep",
        epochs=epochs,
        steps=steps,
        updates_per_call=updates_per_call,
        jobs=jobs,
    )
    runs = _runs(settings, seeds)
    # The checks and the file come before the first run, not when its results are read.
    path = None if path is None else Path(path)
    # Finished runs are known by their setting and seed, so a resumed sweep may add settings.
    done = _read(path, resume, runs) if path and runs else {}
    ended = threading.Event()

    def is_stopped() -> bool:
        return ended.is_set() or bool(stop())

    def train(setting: Setting, seed: int, programs: _Programs) -> Record | None:
        key = jax.random.key(seed)
        diverged = None
        means: Record = {"loss": np.nan}

        def note(now: Report) -> bool:
            means.update(plain(now.epoch_metrics))
            return is_stopped()

        trainable = start(key, setting)
        check_trainable(trainable)
        state = State.create(trainable, _optimizer_of(optimizer, setting), key)
        try:
            call = programs.call(setting)
            source = Source(batches(seed))
            notified = [note, *callbacks(setting, seed)]
            state = run(call, state, source, epochs, steps, notified)
        # A diverged run is a result too: its last finite state is scored.
        except DivergedError as error:
            state = error.state
            diverged = str(error)
        if is_stopped():
            return None
        seconds = round(state.seconds, 3)
        about = {
            "seed": seed,
            "step": state.step,
            "seconds": seconds,
            "diverged": diverged,
        }
        scores = programs.score(state.trainable, setting)
        return merged("sweep", setting, about, means, scores)

    def results() -> Iterator[Record]:
        # Results of the file first, in the order of the settings.
        yield from (done[name] for name in runs if name in done)
        by_program: dict[PyTree, list[SeededSetting]] = defaultdict(list)
        for name, seeded in runs.items():
            if name not in done:
                # Settings that differ only in floating-point numbers share one compiled program,
                # which takes the numbers as arguments.
                by_program[_constants(seeded.setting)].append(seeded)
        missing = []
        for group in by_program.values():
            first = group[0].setting
            programs = _Programs(loss, optimizer, first, updates_per_call, score)
            # Arguments of ``train``.
            missing.append([(*seeded, programs) for seeded in group])
        # The programs take turns, so that runs of one do not wait while it compiles.
        turns = itertools.chain.from_iterable(itertools.zip_longest(*missing))
        arguments = filter(None, turns)
        default = processors() if jax.default_backend() == "cpu" else 1
        for result in _in_threads(train, arguments, jobs or default, ended):
            if result is None:  # the sweep was stopped
                break
            line = _line(result)
            # A line for each run as it ends, so that a kill loses no finished run.
            if path:
                append(path, line)
            # Through JSON, so a new result equals the same result read from the file.
            yield json.loads(line)

    return results()


def _in_threads(
    train: Callable, runs: Iterable[tuple], jobs: int, ended: threading.Event
) -> Iterator[Record | None]:
    """Yield the results of runs as they finish. Closing the iterator ends unfinished runs."""
    # A single run at a time needs no thread, and has the configuration of JAX of its caller.
    if jobs == 1:
        yield from itertools.starmap(train, runs)
        return
    with ThreadPoolExecutor(jobs, "sweep") as pool:
        # Threads and not processes: JAX releases the interpreter lock while a program runs, and
        # compiled programs are shared.
        futures = [pool.submit(train, *run) for run in runs]
        try:
            for future in as_completed(futures):
                yield future.result()
        # Runs look at the event after each call, so an error or an early end stops them all.
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


class _Programs:
    """Compiled update and score for settings that differ only in floating-point numbers.

    The first run compiles them while the others wait, because JAX would compile in each thread.
    """

    def __init__(
        self,
        loss: LossOfSetting,
        optimizer: Optimizer,
        setting: Setting,
        updates_per_call: int,
        score: Score,
    ) -> None:
        self.loss = loss
        self.score = _first_alone(score)
        arrays, static = self._apart(setting)

        def problem(arrays: PyTree) -> tuple[Callable, optax.GradientTransformation]:
            loss, setting = combine(arrays, static)

            def loss_of_setting(*arguments: PyTree) -> PyTree:
                return loss(*arguments, setting)

            return loss_of_setting, _optimizer_of(optimizer, setting)

        first = compiled(problem, arrays, updates_per_call)
        advance = _first_alone(first.advance)
        self.first = dataclasses.replace(first, advance=advance)

    def call(self, setting: Setting) -> Call:
        bound, _ = self._apart(setting)
        return dataclasses.replace(self.first, bound=bound)

    def _apart(self, setting: Setting) -> tuple[PyTree, PyTree]:
        def traced(leaf: PyTree) -> PyTree:
            return jnp.asarray(leaf) if _is_number(leaf) else leaf

        # Numbers of records become leaves, so they are arguments of the program too.
        leaves = lifted(dict(setting))
        return arrays_apart((self.loss, jax.tree.map(traced, leaves)))


def _first_alone(function: Callable) -> Callable:
    """Delay other calls until the first call, which compiles, has returned."""
    first = threading.Lock()
    returned = threading.Event()

    def call(*arguments: PyTree) -> PyTree:
        # One thread gets the lock, and never releases it.
        if not first.acquire(blocking=False):
            returned.wait()
            return function(*arguments)
        try:
            return function(*arguments)
        finally:
            returned.set()

    return call


def _optimizer_of(
    optimizer: Optimizer, setting: Setting
) -> optax.GradientTransformation:
    return optimizer(setting) if callable(optimizer) else optimizer


def _is_number(leaf: object) -> bool:
    return isinstance(leaf, (float, np.floating)) or is_float_array(leaf)


def _constants(setting: Setting) -> tuple:
    """Return a setting without its floating-point numbers, as a dict key."""
    leaves, structure = jax.tree.flatten(lifted(dict(setting)))
    # with the type, because 1 == True
    constants = [None if _is_number(leaf) else (type(leaf), leaf) for leaf in leaves]
    return structure, tuple(constants)


class SeededSetting(NamedTuple):
    """The setting and the seed of a run."""

    setting: Setting
    seed: int


def _runs(
    settings: Iterable[Setting], seeds: Iterable[int]
) -> dict[str, SeededSetting]:
    """Return setting and seed of each run by name: all settings with the first seed come first."""
    numbers = map(operator.index, seeds)
    return {
        _name({**setting, "seed": seed}): SeededSetting(setting, seed)
        for seed, setting in itertools.product(numbers, settings)
    }


def _line(result: Setting) -> str:
    return json.dumps(jsonable(dict(result)), default=repr)


def _name(run: Setting) -> str:
    # Twice, so numbers and texts of a new run are those that a file returns.
    return json.dumps(json.loads(_line(run)), sort_keys=True)


def _read(path: Path, resume: bool, runs: dict[str, SeededSetting]) -> Record:
    """Return the results in a file by the names of their runs."""
    first = next(iter(runs.values()))
    names = {*first.setting, "seed"}
    results = {}
    for row in resumed(path, "sweep", resume, lambda row: True):
        # runs of other settings stay in the file
        if names <= row.keys():
            run_of_row = {name: row[name] for name in names}
            results[_name(run_of_row)] = row
    return results
