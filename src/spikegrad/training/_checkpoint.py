"""Training states on disk. Training resumes from them bit-identically."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._checks import brief, needed
from .._files import regular_size, remove_partials, write_atomically
from ._consensus import agreed, from_first
from ._json_lines import jsonable
from ._partition import name_of
from ._sharding import is_spread, unwrap_key, wrap_like
from ._state import Report, State

FORMAT = 2
_ABOUT, _CHECKSUM = "about", "checksum"
_DEVICE = ("trainable", "optimizer_state", "key")  # the parts of a state that are arrays of JAX


class CheckpointError(ValueError):
    """A checkpoint cannot be read or belongs to other training. The message names the file."""


class _DamagedError(CheckpointError):
    """A checkpoint cannot be read, so an older one may help."""


class Checkpoints:
    """Save the training state to a folder and resume from it: a callback for :func:`fit`.

    Each checkpoint is one NumPy file, ``step-000001240.npz``, that contains only arrays (no pickle). Writes are atomic:
    a kill, a full disk or a power failure never leaves a partial file. Checkpoints are saved at the end of each epoch,
    or every ``minutes``, and when training ends.

    Parameters
    ----------
    folder : path
        Checkpoint folder. It is created if it does not exist. With several processes only process 0 reads and writes it
        and sends the contents to all other processes, so they do not need access to it.
    minutes : float, optional
        Minimum time between checkpoints, checked after each call. Replaces saving at the end of each epoch.
    keep : int, default 2
        Number of most recent checkpoints to keep, at least 1.
    extra : dict, optional
        Additional JSON data, such as learning curves. Each checkpoint stores its current contents, and :meth:`restore`
        restores them.

    Raises
    ------
    CheckpointError
        During training, if the folder contains a checkpoint of a later step than the first reported step. That
        checkpoint belongs to another training run, or training would repeat saved steps.

    Examples
    --------
    >>> import tempfile, jax, jax.numpy as jnp, optax
    >>> from spikegrad.training import Checkpoints, State, fit
    >>> def train(folder, epochs):
    ...     optimizer = optax.sgd(0.1, momentum=0.9)
    ...     checkpoints = Checkpoints(folder)
    ...     state = checkpoints.restore(
    ...         State.create(jnp.array(1.0), optimizer, jax.random.key(0))
    ...     )
    ...     return fit(
    ...         lambda w, batch, key: ((w - batch) ** 2, {}),
    ...         state,
    ...         [1.0, 2.0],
    ...         optimizer=optimizer,
    ...         epochs=epochs,
    ...         callbacks=[checkpoints],
    ...     )
    >>> folder = tempfile.mkdtemp()
    >>> train(folder, 2).step, train(folder, 5).step  # the second resumes the first
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
        """Save the state at the end of an epoch, or if ``minutes`` have passed."""
        if not self._begun:
            self._begin(report.step)
        due = report.epoch_ended
        if self.minutes is not None:
            due = agreed(time.monotonic() >= self._when + 60 * self.minutes)
        if due:
            self.save(report.state)

    def end(self, state: State) -> None:
        """Save the last state, unless it is saved already."""
        if self._saved is None or self._saved < state.step:
            self.save(state)

    def _begin(self, step: int) -> None:
        """Raise if the newest checkpoint belongs to other training."""
        self._begun = True
        newest = from_first(lambda: self.all()[-1:])
        if newest and self._step_of(newest[0]) > step:
            raise CheckpointError(
                f"{newest[0]} is of a later step than {step}; resume from it with restore, or choose another folder"
            )

    def save(self, state: State) -> None:
        """Save a state, and remove old checkpoints.

        Raises
        ------
        OSError
            If the checkpoint cannot be written. Earlier checkpoints stay unchanged.
        """
        path = self.folder / f"step-{state.step:09}{self._suffix}"
        try:
            self._write(path, state)
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
        self._saved, self._when = state.step, time.monotonic()
        self._prune()

    def restore(self, start: State) -> State:
        """Return the newest saved state, or ``start`` without checkpoints.

        Parameters
        ----------
        start : State
            The result of :meth:`State.create` for equal parameters, optimizer and key. The checkpoint must have equal
            names, shapes, dtypes and key. Arrays get its sharding.

        Raises
        ------
        CheckpointError
            If the file cannot be read, does not match its checksum or ``start``, or has another key. For a file that
            cannot be read, the message names the previous checkpoint, if it exists.
        """
        found = from_first(self.all)  # other processes may see other files
        if not found:
            return start
        try:
            state, extra = self._read(found[-1], start)
        except _DamagedError as error:
            older = f"; remove it to resume from {found[-2].name}" if len(found) > 1 else ""
            raise CheckpointError(f"{error}{older}") from None
        self.extra.clear()
        self.extra.update(extra)
        self._saved = state.step
        return state

    def all(self) -> list[Path]:
        """List the checkpoints in the folder, the newest last."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((path for path in found if self._step_of(path) is not None), key=self._step_of)

    def _step_of(self, path: Path) -> Any:
        """Return the step of a checkpoint, None for other files."""
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
                raise CheckpointError(f"{path}: {name} is sharded over several processes; use OrbaxCheckpoints")
        if jax.process_index() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {name: np.asarray(unwrap_key(leaf)) for name, leaf in named.items()}
        arrays: dict[str, Any] = {name: array.view(_plain(array.dtype)) for name, array in found.items()}
        arrays[_ABOUT] = np.asarray(json.dumps(_about(state, self.extra)))
        arrays[_CHECKSUM] = np.asarray(_checksum(arrays))
        write_atomically(path, lambda stream: np.savez(stream, **arrays))

    def _read(self, path: Path, start: State) -> tuple[State, dict[str, Any]]:
        arrays, about = from_first(lambda: _arrays_of(path))
        wanted = _named(start)
        _compare(path, arrays, about["dtypes"], wanted)
        return _state(path, start, {name: _like(arrays[name], wanted[name]) for name in wanted}, about)


def _arrays_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with _readable(path):
        regular_size(path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = _checked(path, json.loads(str(arrays[_ABOUT])))
        if arrays.pop(_CHECKSUM).tolist() != _checksum(arrays):
            raise _DamagedError(f"{path} is damaged: its contents do not match its checksum")
        del arrays[_ABOUT]
        return arrays, about


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    """Return the CRC-32 of dtypes, shapes and values. Programs that edit a file renew the checksums of zip."""
    found = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found = zlib.crc32(array, zlib.crc32(f"{array.dtype.str} {array.shape}".encode(), found))
    return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn any error of reading into a CheckpointError: a damaged file can fail in any way."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise _DamagedError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:
        raise _DamagedError(f"{path} is not a checkpoint or is damaged: {error!r}") from None


def _checked(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} must be in format {FORMAT}, got format {brief(about['format'])}")
    if missing := {"dtypes", "progress", "extra"} - set(about):
        raise KeyError(min(missing))
    for name in ("dtypes", "progress", "extra"):
        if not isinstance(about[name], dict):
            raise TypeError(f"{name} must be a table, got {about[name]!r:.40}")
    return about


def _named(state: State) -> dict[str, jax.Array]:
    """Return the arrays of a state by name, such as ``trainable/0/weight``."""
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
    """Return the JSON data of a checkpoint. JSON restores each float64, except for infinity, so sums are texts."""
    progress = {
        field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name not in _DEVICE
    }
    progress["sums"] = {name: np.asarray(value).astype(str).tolist() for name, value in state.sums.items()}
    dtypes = {name: str(leaf.dtype) for name, leaf in _named(state).items()}
    return {"format": FORMAT, "progress": jsonable(progress), "dtypes": dtypes, "extra": jsonable(extra)}


def _plain(dtype: np.dtype) -> np.dtype:
    """Return the dtype of the format for arrays of this dtype: bfloat16 and similar dtypes are saved as bits."""
    return dtype if dtype.kind in "?biufc" else np.dtype(f"u{dtype.itemsize}")


def _compare(path: Path, arrays: dict[str, Any], dtypes: dict[str, str], wanted: dict[str, jax.Array]) -> None:
    """Raise if a checkpoint does not have the arrays of the state that resumes from it."""
    for name in wanted:
        if name not in arrays:
            raise CheckpointError(f"{path} lacks {name}; resume with the original parameters and optimizer")
    for name, array in arrays.items():
        if name not in wanted:
            raise CheckpointError(f"{path} has {name}, which parameters and optimizer lack")
        shape, dtype = unwrap_key(wanted[name]).shape, str(wanted[name].dtype)
        if array.shape != shape or dtypes.get(name) != dtype:
            raise CheckpointError(
                f"{path}: {name} must be {dtype} of shape {shape}, got {dtypes.get(name)} of shape {array.shape}"
            )


def _like(array: np.ndarray, leaf: jax.Array) -> jax.Array:
    """Return the saved array as a JAX array with the dtype and the sharding of ``leaf``."""
    numbers = unwrap_key(leaf)
    placed: Any = array.view(numbers.dtype)
    return wrap_like(jax.device_put(placed, numbers.sharding) if is_spread(numbers) else jnp.asarray(placed), leaf)


class OrbaxCheckpoints(Checkpoints):
    """Save arrays that may be sharded over several processes, with Orbax: see :class:`Checkpoints`.

    A checkpoint is a folder, ``step-000001240``. Orbax writes it atomically, each process its part. The number of
    processes and devices may change before it is read. All processes must save and read together.

    Parameters
    ----------
    folder, minutes, keep, extra
        As for :class:`Checkpoints`. All processes must have access to the folder.

    Raises
    ------
    ModuleNotFoundError
        If orbax-checkpoint is not installed.
    """

    _suffix = ""

    def __init__(self, folder: str | os.PathLike, **options: Any) -> None:
        super().__init__(Path(folder).absolute(), **options)
        with needed("OrbaxCheckpoints", "orbax-checkpoint", "orbax"):
            from orbax.checkpoint import v1  # noqa: PLC0415
        self._orbax: Any = v1

    def _write(self, path: Path, state: State) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        named = _named(state)
        if empty := next((name for name, leaf in named.items() if not leaf.size), None):
            raise CheckpointError(f"{path}: {empty} is empty, and Orbax cannot save empty arrays; use Checkpoints")
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
    """Describe the array that Orbax restores: sharded as ``leaf``, or on all processes if ``leaf`` is on one."""
    sharding: Any = leaf.sharding
    if jax.process_count() > 1 and not is_spread(leaf):
        sharding = NamedSharding(Mesh(np.asarray(jax.devices()), ("processes",)), PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
