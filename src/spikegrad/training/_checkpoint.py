"""Training states on disk. Training resumes from them bit-identically."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from .._consensus import agreed, from_first
from .._files import Record, remove_partials, write_atomically
from .._pytree import name_of
from .._struct import Domain
from ._sharding import spread_like, unwrap_key, wrap_like
from ._state import Report, State

FORMAT = 3
_ABOUT = "about"  # the name of the JSON data among the arrays of a file
_DEVICE = ("trainable", "optimizer_state", "key")
"""The parts of a state that are arrays of JAX."""
_PROGRESS = ("step", "epoch", "batches", "seconds", "sums")


class CheckpointError(ValueError):
    """The error if a checkpoint cannot be read or belongs to another training. The message names
    the file.
    """


class Checkpoints:
    """Callback of :func:`fit` that saves the state of training to a folder, to resume after an
    interruption.

    To resume, call :meth:`restore` before :func:`fit`, as in the example. The resumed training is
    bit-identical to an uninterrupted one.

    Each checkpoint is one NumPy file, such as ``step-000001240.npz`` after 1240 updates. It
    contains arrays only, without pickle. A checkpoint is written completely or not at all, also if
    the process is killed or the disk is full. Checkpoints are saved at the end of each epoch, or
    every ``minutes``, and when training ends.

    Parameters
    ----------
    folder : path
        Folder of the checkpoints, which is created if it does not exist. With several processes,
        only process 0 reads and writes it, and sends the contents to the others.
    minutes : float, optional
        Minimum time between two checkpoints, in minutes. It replaces saving at the end of each
        epoch.
    keep : int, default 2
        Number of checkpoints to keep, at least 1. Older ones are deleted.
    extra : dict, optional
        More data that JSON can store, such as learning curves. Each checkpoint stores the contents
        of this dict at its time, and :meth:`restore` puts them back into the dict.

    Raises
    ------
    CheckpointError
        During training, if the folder contains a checkpoint of a later update than the current one.
        The checkpoint then belongs to another training, or you forgot to call :meth:`restore`.

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

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        minutes: float | None = None,
        keep: int = 2,
        extra: Record | None = None,
    ) -> None:
        Domain(integer=True, at_least=1).check("Checkpoints", "keep", keep)
        self.folder = Path(folder)
        self.minutes = minutes
        self.keep = keep
        self.extra = {} if extra is None else extra
        # The step of the last state that was saved or restored.
        self._last_step: int | None = None
        self._when = time.monotonic()

    def __call__(self, report: Report) -> None:
        """Save the state at the end of an epoch, or if ``minutes`` have passed since the last
        checkpoint.
        """
        if self._last_step is None:
            self._check_folder(report.step)
        # All processes agree on the end of an epoch without asking each other.
        due = report.epoch_ended
        if self.minutes is not None:  # the clocks of processes differ
            next_time = self._when + 60 * self.minutes
            due = agreed(time.monotonic() >= next_time)
        if due:
            self.save(report.state)

    def end(self, state: State) -> None:
        """Save the last state, unless it is saved already."""
        # The end of the last epoch may have saved this state already.
        if self._last_step is None or self._last_step < state.step:
            self.save(state)

    def _check_folder(self, step: int) -> None:
        """Raise if the newest checkpoint belongs to other training, which would be overwritten."""
        newest = from_first(lambda: self.all()[-1:])
        if newest and _step_of(newest[0]) > step:
            raise CheckpointError(
                f"{newest[0]} is of a later step than {step}. Resume from it with restore, or "
                "choose another folder"
            )
        self._last_step = 0

    def save(self, state: State) -> None:
        """Save a state now, and delete the checkpoints that are older than the newest ``keep``.

        Raises
        ------
        OSError
            If the checkpoint cannot be written. Earlier checkpoints stay unchanged.
        """
        path = self.folder / f"step-{state.step:09}.npz"
        if jax.process_index() == 0:
            self._write(path, state)
        self._last_step = state.step
        self._when = time.monotonic()

    def restore(self, start: State) -> State:
        """Return the newest state in the folder, or ``start`` if the folder has no checkpoints.

        Parameters
        ----------
        start : State
            The state before the first update: the result of :meth:`State.create` with the
            parameters, the optimizer and the key of the training. Names, shapes, dtypes and key
            must equal those of the checkpoint. Restored arrays get the sharding of ``start``.

        Raises
        ------
        CheckpointError
            If the file cannot be read, or if its names, shapes, dtypes or key differ from
            ``start``.
        """
        paths = from_first(self.all)  # other processes may see other files
        if not paths:
            return start
        path = paths[-1]
        try:
            arrays, about = from_first(lambda: _read(path))
        except Exception as error:  # a damaged file can fail in any way
            raise CheckpointError(
                f"{path} is not a checkpoint or is damaged: {error!r}. Remove it to resume from "
                "the previous one"
            ) from error
        _compare(path, about, _about(start, {}))
        leaves = [_like(arrays[name], leaf) for name, leaf in _named(start).items()]
        # The structure comes from ``start``, because files contain arrays only. Classes and
        # functions are not saved.
        structure = jax.tree.structure(_parts(start))
        parts = jax.tree.unflatten(structure, leaves)
        saved_key = unwrap_key(parts["key"])
        if not np.array_equal(saved_key, unwrap_key(start.key)):
            raise CheckpointError(
                f"{path} has another key: it was saved by training with another seed"
            )
        progress = about["progress"]
        sums = {
            name: np.asarray(value, np.float64)
            for name, value in progress["sums"].items()
        }
        # In place, because the caller holds the same dict and reads its curves from it.
        self.extra.clear()
        self.extra.update(about["extra"])
        self._last_step = progress["step"]
        return State(**parts, **progress | {"sums": sums})

    def all(self) -> list[Path]:
        """List the checkpoints in the folder, the newest last."""
        paths = [
            path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name)
        ]
        return sorted(paths, key=_step_of)  # names of ten digits do not sort by step

    def _write(self, path: Path, state: State) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays: Record = {}
        # By name and not by position, so a message names the array that differs.
        for name, leaf in _named(state).items():
            array = np.asarray(unwrap_key(leaf))
            # NumPy writes dtypes that it does not know, such as bfloat16, without their names.
            arrays[name] = array.view(_plain(array.dtype))
        about = _about(state, self.extra)
        text = json.dumps(about, default=lambda x: np.asarray(x).tolist())
        arrays[_ABOUT] = np.asarray(text)
        # Old checkpoints are removed only after the new one is on the disk.
        write_atomically(path, lambda stream: np.savez(stream, **arrays))
        for old in self.all()[: -self.keep]:
            old.unlink(missing_ok=True)
        remove_partials(self.folder)


_NAME = re.compile(r"step-(\d+)\.npz")


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _read(path: Path) -> tuple[dict[str, np.ndarray], Record]:
    """Return arrays and JSON data of a file. NumPy compares the checksums of the zip archive."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays[_ABOUT]))


def _parts(state: State) -> Record:
    return {part: getattr(state, part) for part in _DEVICE}


def _named(state: State) -> dict[str, jax.Array]:
    """Return the arrays of a state by name, such as ``trainable/0/weight``."""
    return {
        name_of(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(_parts(state))
    }


def _about(state: State, extra: Record) -> Record:
    """Return the JSON data of a checkpoint. JSON of Python restores each float64."""
    types = {
        name: f"{leaf.dtype} of shape {unwrap_key(leaf).shape}"
        for name, leaf in _named(state).items()
    }
    progress = {name: getattr(state, name) for name in _PROGRESS}
    return {"format": FORMAT, "types": types, "progress": progress, "extra": extra}


def _compare(path: Path, saved: Record, expected: Record) -> None:
    """Raise if a checkpoint lacks an array of the state that resumes from it, or has others."""
    # Names before values: they say which network, optimizer or precision was another.
    if saved.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} must be in format {FORMAT}, got {saved.get('format')}"
        )
    for name in saved["types"] | expected["types"]:
        before = saved["types"].get(name)
        now = expected["types"].get(name)
        if before != now:
            raise CheckpointError(
                f"{path}: {name} must be {now or 'absent'}, got {before or 'nothing'}. Resume "
                "with the original parameters and optimizer"
            )


def _plain(dtype: np.dtype) -> np.dtype:
    """Return the dtype in the file: bfloat16 and similar dtypes are saved as bits."""
    return dtype if dtype.kind in "?biufc" else np.dtype(f"u{dtype.itemsize}")


def _like(array: np.ndarray, leaf: jax.Array) -> jax.Array:
    """Return a saved array as a JAX array with the dtype and the sharding of ``leaf``."""
    numbers = unwrap_key(leaf)
    saved = jnp.asarray(array.view(numbers.dtype))
    return wrap_like(spread_like(saved, numbers), leaf)
