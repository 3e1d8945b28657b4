"""States of training on disk, from which it goes on with the same bits."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._files import remove_partials, write_atomically
from ._consensus import agreed, from_first
from ._json_lines import jsonable
from ._partition import name_of
from ._sharding import is_spread, unwrap_key, wrap_like
from ._state import Report, State

FORMAT = 1
_ABOUT = "about"
_DEVICE = ("trainable", "optimizer_state", "key")  # the parts of a state that are arrays of JAX


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or is not one of this training; the message names the file."""


class Checkpoints:
    """Save the state of training in a folder, and go on from there: a callback of :func:`fit`.

    A checkpoint is one file of NumPy, ``step-000001240.npz``, of arrays alone: nothing is pickled. It is written whole
    or not at all, through kills, full disks and power cuts. It is taken at the end of each epoch, or in intervals of
    time, and when training ends.

    Parameters
    ----------
    folder : path
        Where they go; it is made if it does not exist. The first of several processes writes and reads, and sends the
        others what it has read: they need not see the folder.
    minutes : float, optional
        Save after the first call that ends so many minutes after the last checkpoint, and not at each epoch's end.
    keep : int, default 2
        How many of the newest are kept, at least 1.
    extra : dict, optional
        Anything of one's own that JSON can hold, such as learning curves. It is saved with each checkpoint, as it is
        then, and :meth:`restore` fills it with what was saved.

    Raises
    ------
    CheckpointError
        In training, if the folder has a checkpoint of a later step than the first that is reported: that of another
        training, or of steps that would be made again.

    Examples
    --------
    >>> import tempfile, jax, jax.numpy as jnp, optax
    >>> from spikegrad.training import Checkpoints, State, fit
    >>> def train(folder, epochs):
    ...     optimizer = optax.sgd(0.1, momentum=0.9)
    ...     checkpoints = Checkpoints(folder)
    ...     state = checkpoints.restore(State.create(jnp.array(1.0), optimizer, jax.random.key(0)))
    ...     return fit(lambda w, batch, key: ((w - batch) ** 2, {}), state, [1.0, 2.0], optimizer=optimizer,
    ...                epochs=epochs, callbacks=[checkpoints])
    >>> folder = tempfile.mkdtemp()
    >>> train(folder, 2).step, train(folder, 5).step  # the second goes on from the first
    (4, 10)
    >>> bool(train(folder, 5).trainable == train(tempfile.mkdtemp(), 5).trainable)
    True
    """

    _suffix = ".npz"

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        minutes: float | None = None,
        keep: int = 2,
        extra: dict[str, Any] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints: keep must be at least 1, got {keep}")
        if minutes is not None and not minutes >= 0:
            raise ValueError(f"Checkpoints: minutes must be at least 0, got {minutes}")
        self.folder, self.minutes, self.keep = Path(folder), minutes, keep
        self.extra = {} if extra is None else extra
        self._saved: int | None = None
        self._begun = False
        self._when = time.monotonic()

    def __call__(self, report: Report) -> None:
        """Save, if it is time."""
        if not self._begun:
            self._begin(report.step)
        due = report.epoch_ended
        if self.minutes is not None:
            due = agreed(time.monotonic() >= self._when + 60 * self.minutes)
        if due:
            self.save(report.state)

    def end(self, state: State) -> None:
        """Save the last state, unless it or a later one is there."""
        if self._saved is None or self._saved < state.step:
            self.save(state)

    def _begin(self, step: int) -> None:
        """Raise if the newest checkpoint is not to be one of this training."""
        self._begun = True
        newest = from_first(lambda: self.all()[-1:])
        if newest and self._step_of(newest[0]) > step:
            raise CheckpointError(
                f"{newest[0]} is of a later step than {step}: go on from it with latest, or take another folder"
            )

    def save(self, state: State) -> None:
        """Save a state, and remove what is older than the newest few.

        Raises
        ------
        OSError
            If it cannot be written; earlier checkpoints stay as they are.
        """
        path = self.folder / f"step-{state.step:09}{self._suffix}"
        try:
            self._write(path, state)
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
        self._saved, self._when = state.step, time.monotonic()
        self._prune()

    def restore(self, start: State) -> State:
        """The newest state that was saved, or ``start`` if there is none.

        Parameters
        ----------
        start : State
            The result of :meth:`State.create` for equal parameters, optimizer and key. Names, shapes, dtypes and the
            key are compared with it. Arrays get its sharding.

        Raises
        ------
        CheckpointError
            If the file cannot be read, does not match ``start``, or has another key. The message names the checkpoint
            before it, if there is one.
        """
        found = from_first(self.all)  # the others may see fewer of them, or older ones
        if not found:
            return start
        try:
            state, extra = self._read(found[-1], start)
        except CheckpointError as error:
            older = f"; remove it to resume from {found[-2].name}" if len(found) > 1 else ""
            raise CheckpointError(f"{error}{older}") from None
        self.extra.clear()
        self.extra.update(extra)
        self._saved = state.step
        return state

    def all(self) -> list[Path]:
        """The checkpoints that are there, the newest last."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((path for path in found if self._step_of(path) is not None), key=self._step_of)

    def _step_of(self, path: Path) -> Any:
        """The step of a checkpoint; None of another file."""
        match = re.fullmatch(rf"step-(\d+){re.escape(self._suffix)}", path.name)
        return None if match is None else int(match[1])

    def _prune(self) -> None:
        if jax.process_index() != 0:
            return
        for path in self.all()[: -self.keep]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        remove_partials(self.folder)

    def _write(self, path: Path, state: State) -> None:
        named = _named(state)
        for name, leaf in named.items():
            if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
                raise CheckpointError(f"{path}: {name} is sharded over several processes: use OrbaxCheckpoints")
        if jax.process_index() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {name: _plain(np.asarray(unwrap_key(leaf))) for name, leaf in named.items()}
        arrays[_ABOUT] = np.asarray(json.dumps(_about(state, self.extra)))
        write_atomically(path, lambda stream: np.savez(stream, **arrays))

    def _read(self, path: Path, start: State) -> tuple[State, dict[str, Any]]:
        arrays, about = from_first(lambda: _arrays_of(path))
        wanted = _named(start)
        _compare(path, arrays, about["dtypes"], wanted)
        return _state(path, start, {name: _like(arrays[name], leaf) for name, leaf in wanted.items()}, about)


def _arrays_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with _readable(path):
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, _checked(path, json.loads(str(arrays.pop(_ABOUT))))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A file that is no checkpoint fails in every way."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:
        raise CheckpointError(f"{path} is no checkpoint, or is damaged: {error!r}") from None


def _checked(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} is in format {about['format']}, and not {FORMAT}, which is read here")
    if missing := {"dtypes", "progress", "extra"} - set(about):
        raise KeyError(min(missing))
    for name in ("dtypes", "progress", "extra"):
        if not isinstance(about[name], dict):
            raise TypeError(f"{name} must be a table, got {about[name]!r:.40}")
    return about


def _named(state: State) -> dict[str, jax.Array]:
    """The arrays of a state by their names, such as ``trainable/0/weight``."""
    tree = {part: getattr(state, part) for part in _DEVICE}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {name_of(path): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        names = [name_of(path) for path, _ in leaves]
        raise CheckpointError(f"two arrays have the name {next(n for n in names if names.count(n) > 1)}")
    return named


def _state(path: Path, start: State, leaves: dict[str, Any], about: dict[str, Any]) -> tuple[State, dict[str, Any]]:
    """Return the saved state and ``extra``. Raise if another training saved them."""
    if not np.array_equal(unwrap_key(leaves["key"]), unwrap_key(start.key)):
        raise CheckpointError(f"{path} has another key: it was saved by training with another seed")
    tree = {part: getattr(start, part) for part in _DEVICE}
    tree = jax.tree.unflatten(jax.tree.structure(tree), list(leaves.values()))
    with _readable(path):
        progress = about["progress"]
        for name in ("step", "epoch", "batches"):
            if type(progress[name]) is not int or not 0 <= progress[name] < 2**32:
                raise ValueError(f"{name} must be an integer from 0 to 2^32 - 1, got {progress[name]!r:.40}")
        if not float(progress["seconds"]) >= 0:
            raise ValueError(f"seconds must be at least 0, got {progress['seconds']!r:.40}")
        sums = {name: np.asarray(value).astype(np.float64) for name, value in progress["sums"].items()}
        return State(**tree, **progress | {"sums": sums}), about["extra"]


def _about(state: State, extra: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint has beside arrays. JSON brings back each float64; sums are texts, since it has no infinity."""
    progress = {
        field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name not in _DEVICE
    }
    progress["sums"] = {name: np.asarray(value).astype(str).tolist() for name, value in state.sums.items()}
    dtypes = {name: str(leaf.dtype) for name, leaf in _named(state).items()}
    return {"format": FORMAT, "progress": jsonable(progress), "dtypes": dtypes, "extra": jsonable(extra)}


def _plain(array: np.ndarray) -> np.ndarray:
    """An array of a dtype that the format knows: of bfloat16 and its like, the bits."""
    return array if array.dtype.kind in "?biufc" else array.view(f"u{array.dtype.itemsize}")


def _compare(path: Path, arrays: dict[str, Any], dtypes: dict[str, str], wanted: dict[str, jax.Array]) -> None:
    """Whether a checkpoint has the arrays of the state that goes on from it."""
    for name in wanted:
        if name not in arrays:
            raise CheckpointError(f"{path} has no {name}: parameters or optimizer are not those that it was made with")
    for name, array in arrays.items():
        if name not in wanted:
            raise CheckpointError(f"{path} has {name}, which these parameters and this optimizer have not")
        shape, dtype = unwrap_key(wanted[name]).shape, str(wanted[name].dtype)
        if array.shape != shape or dtypes.get(name) != dtype:
            raise CheckpointError(
                f"{path}: {name} is {dtypes.get(name)} of shape {array.shape}, and must be {dtype} of shape {shape}"
            )


def _like(array: np.ndarray, leaf: jax.Array) -> jax.Array:
    """The saved array as one of JAX, of the dtype and the sharding of another."""
    numbers = unwrap_key(leaf)
    placed: Any = array.view(numbers.dtype) if array.dtype != numbers.dtype else array
    return wrap_like(jax.device_put(placed, numbers.sharding) if is_spread(numbers) else jnp.asarray(placed), leaf)


class OrbaxCheckpoints(Checkpoints):
    """Checkpoints of arrays that may be sharded over several processes, by Orbax: see :class:`Checkpoints`.

    A checkpoint is a folder, ``step-000001240``, that Orbax writes whole or not at all, each process its own part. The
    number of processes and devices may be another one when it is read. All processes must save and read alike.

    Parameters
    ----------
    folder, minutes, keep, extra
        As for :class:`Checkpoints`; the folder must be one that all processes see.

    Raises
    ------
    ModuleNotFoundError
        If orbax-checkpoint is not installed.
    """

    _suffix = ""

    def __init__(self, folder: str | os.PathLike, **options: Any) -> None:
        super().__init__(Path(folder).absolute(), **options)
        try:
            from orbax.checkpoint import v1  # noqa: PLC0415  (an extra)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "OrbaxCheckpoints needs orbax-checkpoint: pip install '.[orbax]' in a clone of spikegrad",
                name=error.name,
            ) from error
        self._orbax: Any = v1

    def _write(self, path: Path, state: State) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        named = _named(state)
        if empty := next((name for name, leaf in named.items() if not leaf.size), None):
            raise CheckpointError(f"{path}: {empty} has no elements, which Orbax does not save: use Checkpoints")
        arrays = {name: unwrap_key(leaf) for name, leaf in named.items()}
        self._orbax.save(path, arrays, custom_metadata=_about(state, self.extra), overwrite=True)

    def _read(self, path: Path, start: State) -> tuple[State, dict[str, Any]]:
        wanted = _named(start)
        with _readable(path):
            found = self._orbax.metadata(path)
            about = _checked(path, found.custom_metadata)
            _compare(path, found.metadata, about["dtypes"], wanted)
            like = {name: _abstract(unwrap_key(leaf)) for name, leaf in wanted.items()}
            arrays = self._orbax.load(path, like)
        return _state(path, start, {name: wrap_like(arrays[name], leaf) for name, leaf in wanted.items()}, about)


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """What Orbax is to make: an array sharded as this one is; of several processes, one that all of them have."""
    sharding: Any = leaf.sharding
    if jax.process_count() > 1 and not is_spread(leaf):
        sharding = NamedSharding(Mesh(np.asarray(jax.devices()), ("processes",)), PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
