"""The folder of a run or of a sweep: claimed, written and read."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from .. import __version__
from .._files import fcntl, write_atomically
from .._system import processors
from ..data import DataError, Sequences, Split
from . import tables
from .networks import NO_ENCODING, Params, SpikingNetwork
from .options import Options, adapted

FORMAT = 4
RECORD, PARAMETERS, FIGURE = "run.json", "parameters.npz", "figure.png"
CONFIGURATION = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
"""The configuration of JAX on which the bits of a training depend."""


class RunError(DataError):
    """A folder or a run cannot be used. The message names it."""


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """The data of a run in its record."""

    shape: tuple[int, ...]
    classes: int
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    training: int
    test: int
    test_from: str
    training_sha256: str
    test_sha256: str

    @classmethod
    def create(cls, options: Options, split: Split) -> DataRecord:
        names = ("shape", "classes", "low", "high", "mean", "std", "test_from")
        return cls(
            **{name: getattr(split, name) for name in names},
            training=len(split.train),
            test=len(split.test),
            training_sha256=sha256(split.train, options.encoding != NO_ENCODING),
            test_sha256=sha256(split.test, options.encoding != NO_ENCODING),
        )


@dataclasses.dataclass
class Run:
    """The folder of a run or of a sweep with its record. ``name`` is the file of the record."""

    folder: Path
    options: Options
    data: DataRecord
    record: dict[str, Any]
    name: str = RECORD

    @property
    def network(self) -> SpikingNetwork:
        """The spiking network."""
        return self.options.network(self.data)

    def check_resumable(self, split: Split) -> None:
        """Raise if data or JAX differ from the start of the run, because its bits would differ."""
        if DataRecord.create(self.options, split) != self.data:
            raise RunError(
                f"{self.options.data} has changed since {self.folder} was started; restore the "
                "original data to resume"
            )
        for name, value in self.record["jax"].items():
            if (now := getattr(jax.config, name)) != value:
                raise RunError(
                    f"{self.folder} was started with {name.upper()}={value!r}, now it is {now!r}; "
                    "set it as before to resume"
                )

    def save(self, name: str, write: Callable[[BinaryIO], Any]) -> None:
        """Write a file atomically, in process 0. ``write`` receives a stream."""
        # All processes have the same values, and one file.
        if jax.process_index() == 0:
            write_atomically(self.folder / name, write)

    def save_record(self) -> None:
        """Write the record."""
        self.save(self.name, lambda stream: stream.write(_text(self.record)))

    def save_parameters(self, params: Params) -> None:
        """Write ``parameters.npz``, with ``weight_0``, ``bias_0``, ... for the layers."""
        arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _named(params).items()}
        self.save(PARAMETERS, lambda stream: np.savez(stream, **arrays))

    def save_figure(self, figure: Any) -> None:
        """Write the figure."""
        if jax.process_index() == 0:
            tables.save_figure(figure, self.folder / FIGURE, 130)


def start(
    output: Path | None, options: Options, split: Split, name: str = RECORD, **more: Any
) -> Run:
    """Claim a folder and return a new run. ``more`` are further values of its record."""
    # The record has the options that are used, so a resumed run needs no adaption.
    options, warnings = adapted(options, split)
    for line in warnings:
        tables.note(f"warning: {line}")
    data = DataRecord.create(options, split)
    record = {
        "format": FORMAT,
        "options": dataclasses.asdict(options),
        "data": dataclasses.asdict(data),
        "versions": {
            "spikegrad": __version__,
            "commit": _commit(),
            "python": platform.python_version(),
            **{package: version(package) for package in ("jax", "jaxlib", "numpy", "optax")},
        },
        "machine": {
            "system": platform.platform(),
            "processors": processors(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        },
        "jax": {setting: getattr(jax.config, setting) for setting in CONFIGURATION},
    } | more
    return Run(claim(output, record, name), options, data, record, name)


def claim(output: Path | None, record: dict[str, Any], name: str = RECORD) -> Path:
    """Create the folder of a run before training. If several processes try, one succeeds.

    Parameters
    ----------
    output : Path, optional
        A new or empty folder. By default ``runs/<date>-<time>``, with a number if that is in use.
    record : dict
        The first record. The process that creates it owns the folder.
    """
    default = datetime.now().strftime("runs/%Y%m%d-%H%M%S")
    numbered = (Path(f"{default}-{i}" if i > 1 else default) for i in itertools.count(1))
    for folder in numbered if output is None else (output,):
        try:
            # A default folder that exists belongs to a run of the same second.
            folder.mkdir(parents=True, exist_ok=output is not None)
            if any(folder.iterdir()):
                raise FileExistsError
            write_atomically(folder / name, lambda stream: stream.write(_text(record)), new=True)
            return folder
        except FileExistsError:
            if output is not None:
                raise RunError(
                    f"output folder {output} is not empty; choose an empty folder"
                ) from None
        except OSError as error:
            raise RunError(f"output folder {folder} cannot be written: {error.strerror}") from None
    raise AssertionError  # the default folders are infinitely many


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a run against other processes. The system releases the lock when the process ends."""
    if jax.process_index() or fcntl is None:  # process 0 locks for all
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use: another process is training it") from None
        except OSError:  # some network file systems lack locks
            pass
        yield
    finally:
        os.close(descriptor)


def read(folder: Path, name: str = RECORD) -> Run:
    """Read a saved run."""
    path = folder / name
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"it has format {record['format']}, not {FORMAT}")
        options, data = (
            as_dataclass(Options, record["options"]),
            as_dataclass(DataRecord, record["data"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} contains no run: {name} is missing") from None
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise RunError(f"{path} is not a run of spikegrad {__version__}: {reason}") from None
    return Run(folder, options, data, record, name)


def as_dataclass(kind: type, values: dict[str, Any]) -> Any:
    """Return a dataclass with the values of a record, which has lists instead of tuples."""
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def read_parameters(run: Run) -> Params:
    """Read saved parameters."""
    path, shapes = run.folder / PARAMETERS, run.network.shapes
    if not path.exists():
        raise RunError(f"{run.folder} contains no trained run: {PARAMETERS} is missing")
    with np.load(path) as arrays:
        leaves = {name: arrays[name] for name in arrays.files}
    for name, leaf in _named(shapes).items():
        if name not in leaves or leaves[name].shape != leaf.shape:
            raise RunError(f"{path}: {name} must have shape {leaf.shape}, as in {RECORD}")
    parameters = [jnp.asarray(leaves[name]) for name in _named(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), parameters)


def sha256(source: Sequences, is_image: bool) -> str:
    """Return a hash of examples: dtypes, shapes and values. Images have no time axis here."""
    digest = hashlib.sha256()
    shape = (len(source), *(() if is_image else (source.steps,)), *source.shape)
    digest.update(f"{source.padded(slice(0)).dtype.str} {shape} ".encode())
    for first in range(0, len(source), 1024):  # they may be read from files
        rows = source.padded(slice(first, first + 1024))
        digest.update(np.ascontiguousarray(rows).data)
    for array in (source.y, *([source.lengths] if source.masked else [])):
        digest.update(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def _named(params: Params) -> dict[str, Any]:
    """Return the arrays of layers by their names in a file, in the order of the pytree."""
    return {
        f"{name}_{i}": getattr(layer, name)
        for i, layer in enumerate(params)
        for name in ("weight", "recurrent", "bias")
        if getattr(layer, name) is not None
    }


def _text(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()


def _commit() -> str | None:
    """Return the commit of a clone, with ``-dirty`` if it has changes. None without a clone."""
    clone = Path(__file__).resolve().parents[3]
    if not (clone / ".git").exists():
        return None
    git = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
