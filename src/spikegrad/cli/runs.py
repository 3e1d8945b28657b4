"""The folder of a run or of a sweep: claimed, written and read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from .. import __version__
from .._files import Record, write_atomically
from .._pytree import PyTree
from .._system import processors
from ..data import DataError, Sequences, Split
from . import sources
from .networks import Params, SpikingNetwork
from .options import Options

FORMAT = 6
RECORD, PARAMETERS, FIGURE = "run.json", "parameters.npz", "figure.png"


class RunError(DataError):
    """A folder or a run cannot be used. The message names it."""


def describe(split: Split) -> Record:
    """Return the record of the data of a run."""
    names = "shape", "classes", "low", "high", "mean", "std", "test_from"
    return {
        **{name: getattr(split, name) for name in names},
        "training": len(split.train),
        "test": len(split.test),
        "training_sha256": sha256(split.train),
        "test_sha256": sha256(split.test),
    }


@dataclasses.dataclass
class Run:
    """The folder of a run or of a sweep with its record. ``name`` is the file of the record."""

    folder: Path
    options: Options
    record: Record
    name: str = RECORD

    @property
    def data(self) -> SimpleNamespace:
        """The record of the data."""
        return as_object(SimpleNamespace, self.record["data"])

    @property
    def network(self) -> SpikingNetwork:
        """The spiking network."""
        return self.options.network(self.data)

    def check_resumable(self, split: Split) -> None:
        """Raise if the data differs from the start of the run, because its bits would differ."""
        if SimpleNamespace(**describe(split)) != self.data:
            raise RunError(
                f"{self.options.data} has changed since {self.folder} was started; restore the "
                "original data to resume"
            )

    def save(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file atomically, in process 0. ``write`` receives a stream."""
        # All processes have the same values, and one file.
        if jax.process_index() == 0:
            write_atomically(self.folder / name, write)

    def save_record(self) -> None:
        """Write the record."""
        self.save(self.name, lambda stream: stream.write(_text(self.record)))

    def save_parameters(self, params: Params) -> None:
        """Write ``parameters.npz``, with ``weight_0``, ``bias_0``, ... for the layers."""
        arrays: Record = {
            name: np.asarray(leaf) for name, leaf in _named(params).items()
        }
        self.save(PARAMETERS, lambda stream: np.savez(stream, **arrays))

    def save_figure(self, figure: Figure) -> None:
        """Write the figure."""
        self.save(FIGURE, partial(figure.savefig, dpi=130, format="png"))


def start(
    output: Path | None, options: Options, split: Split, name: str = RECORD, **more: Any
) -> Run:
    """Claim a folder and return a new run. ``more`` are further values of its record.

    ``options`` are adapted to the data already, because a resumed run takes them from the record.
    """
    record = {
        "format": FORMAT,
        "options": dataclasses.asdict(options),
        "data": describe(split),
        "versions": {
            "spikegrad": __version__,
            "python": platform.python_version(),
            **{
                package: version(package)
                for package in ("jax", "jaxlib", "numpy", "optax")
            },
        },
        "machine": {
            "system": platform.platform(),
            "processors": processors(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        },
    } | more
    return Run(claim(output, record, name), options, record, name)


def claim(output: Path | None, record: Record, name: str = RECORD) -> Path:
    """Create the folder of a run before training. If several processes try, one succeeds.

    Parameters
    ----------
    output : Path, optional
        A new or empty folder. By default ``runs/<date>-<time>`` with microseconds.
    record : dict
        The first record. The process that creates it owns the folder.
    """
    # Microseconds, because a loop in a shell starts several runs in a second.
    folder = output or Path(datetime.now().strftime("runs/%Y%m%d-%H%M%S-%f"))
    try:
        folder.mkdir(parents=True, exist_ok=output is not None)
        if any(folder.iterdir()):
            raise FileExistsError
        write_atomically(
            folder / name, lambda stream: stream.write(_text(record)), new=True
        )
    except FileExistsError:
        raise RunError(
            f"output folder {folder} is not empty; choose an empty folder"
        ) from None
    return folder


def read(folder: Path, name: str = RECORD) -> Run:
    """Read a saved run."""
    path = folder / name
    if not path.exists():
        raise RunError(f"{folder} contains no run: {name} is missing")
    record = json.loads(path.read_text(encoding="utf-8"))
    try:
        if record["format"] != FORMAT:
            raise TypeError(f"it has format {record['format']}, not {FORMAT}")
        options = as_object(Options, record["options"])
    except TypeError as error:  # also of a missing or an unknown option
        raise RunError(
            f"{path} is not a run of spikegrad {__version__}: {error}"
        ) from None
    return Run(folder, options, record, name)


def as_object(kind: type, values: Record) -> Any:
    """Return an object with the values of a record, which has lists instead of tuples."""
    return kind(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    )


def read_parameters(run: Run) -> Params:
    """Read saved parameters."""
    path, shapes = run.folder / PARAMETERS, run.network.shapes
    if not path.exists():
        raise RunError(f"{run.folder} contains no trained run: {PARAMETERS} is missing")
    with np.load(path) as arrays:
        leaves = [jnp.asarray(arrays[name]) for name in _named(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


class Trained(NamedTuple):
    """A saved run with its parameters, and examples of data that a command reads for it."""

    run: Run
    params: Params
    source: str
    examples: Sequences
    labelled: bool


def read_trained(folder: Path, data: str | None = None) -> Trained:
    """Read a trained run and examples on its scale, by default its test set."""
    run = read(folder)
    params = read_parameters(run)
    source = data or run.options.data
    examples, labelled = sources.load_to_score(source, run.options, run.data)
    return Trained(run, params, source, examples, labelled)


def sha256(source: Sequences) -> str:
    """Return a hash of examples: dtype, shape, values, labels and lengths."""
    # No example yet: only the dtype, so sequences that differ only in their dtype have different
    # hashes.
    values = source.padded(slice(0))
    digest = hashlib.sha256(f"{values.dtype} {source.steps} {source.shape}".encode())
    for first in range(0, len(source), 1024):  # they may be read from files
        digest.update(
            np.ascontiguousarray(source.padded(slice(first, first + 1024))).data
        )
    for array in (source.y, source.lengths):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _named(params: Params) -> dict[str, PyTree]:
    """Return the arrays of layers by their names in a file, in the order of the pytree."""
    return {
        f"{name}_{i}": getattr(layer, name)
        for i, layer in enumerate(params)
        for name in ("weight", "recurrent", "bias")
        if getattr(layer, name) is not None
    }


def _text(record: Record) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()
