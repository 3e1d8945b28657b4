"""The folder of a run or of a sweep: claimed, written and read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import click
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from .. import __version__
from .._files import Record, write_atomically
from .._pytree import PyTree, jsonable
from .._system import processors
from ..data import DataError, Split
from . import sources, tables
from .networks import Params, SpikingNetwork
from .options import Options, options_of, refuse

# A higher number for each change of the record, so older folders get a message of one line.
FORMAT = 7
PARAMETERS = "parameters.npz"
FIGURE = "figure.png"


def describe(split: Split) -> Record:
    """Return the record of the data of a run, as it is in JSON."""
    names = "shape", "outputs", "low", "high", "mean", "std", "test_from"
    record = {name: getattr(split, name) for name in names}
    for name, part in (("training", split.train), ("test", split.test)):
        record |= {name: len(part), f"{name}_sha256": sources.sha256(part)}
    # With lists instead of tuples it equals the record that a resumed run reads from JSON.
    return jsonable(record)


@dataclasses.dataclass
class RunFolder:
    """The folder of a run or of a sweep, with its record."""

    folder: Path
    options: Any
    record: Record

    @property
    def data(self) -> SimpleNamespace:
        """The record of the data."""
        return SimpleNamespace(**self.record["data"])

    @property
    def network(self) -> SpikingNetwork:
        """The spiking network."""
        return self.options.network(self.data)

    @property
    def params(self) -> Params:
        """The saved parameters."""
        shapes = self.network.shapes
        with np.load(self.folder / PARAMETERS) as arrays:
            # By name, because the order in a file is not that of a pytree.
            leaves = [jnp.asarray(arrays[name]) for name in _named(shapes)]
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    def save(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file atomically, in process 0. ``write`` receives a stream."""
        # All processes have the same values, and one file.
        if jax.process_index() == 0:
            write_atomically(self.folder / name, write)

    def save_record(self, **values: Any) -> None:
        """Add values to the record, and write it."""
        self.record |= values
        text = json.dumps(self.record, indent=1) + "\n"
        self.save(self.options.file, lambda stream: stream.write(text.encode()))

    def save_parameters(self, params: Params) -> None:
        """Write ``parameters.npz``, with ``weight_0``, ``bias_0``, ... for the layers."""
        self.save(PARAMETERS, lambda stream: np.savez(stream, **_named(params)))

    def save_figure(self, figure: Figure) -> None:
        """Write the figure, in process 0."""
        tables.note(f"drawing {self.folder / FIGURE}")
        if jax.process_index() == 0:
            tables.save_figure(figure, self.folder / FIGURE)


def begin(
    context: click.Context,
    kind: type[Options],
    output: Path | None,
    resume: Path | None,
    values: Record,
    **more: Any,
) -> tuple[RunFolder, Any]:
    """Start a run in a new folder, or resume the run of a folder, and read its data.

    Parameters
    ----------
    context : click.Context
        The command line.
    kind : type of Options
        The class of the options.
    output, resume : Path, optional
        The new folder, and the folder to resume.
    values : dict
        The options of a new run.
    **more
        Further values of the record.
    """
    if resume is None:
        options = options_of(context, kind, **values)
        split = options.load()
        # Before they are recorded, because a resumed run takes its options from the record.
        options = options.adapted(split)
        # The record is complete before the folder exists, so an error leaves no folder.
        record = _new_record(options, split) | more
        run = RunFolder(claim(output), options, record)
        # A kill in the first epoch leaves a run that can be resumed.
        run.save_record()
        return run, split
    # ``more`` has options of ``train`` that are in the record too, such as --baseline.
    recorded = {field.name for field in dataclasses.fields(kind)} | more.keys()
    refuse(
        context,
        {"output", *recorded},
        "--resume uses the options of the original run",
    )
    run = read(resume, kind)
    # Its checkpoints are removed, so it would start again and replace its results.
    if run.record.get("finished"):
        raise DataError(f"{resume} is already finished. Start a new run")
    split = run.options.load()
    if describe(split) != run.record["data"]:  # the bits would differ
        raise DataError(
            f"{run.options.data} has changed since {resume} was started. Restore the original "
            "data to resume"
        )
    return run, split


def _new_record(options: Options, split: Split) -> Record:
    # Another version may change the last bits of a result.
    packages = ("jax", "jaxlib", "numpy", "optax")
    return {
        "format": FORMAT,
        "options": dataclasses.asdict(options),
        "data": describe(split),
        "versions": {
            "spikegrad": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "machine": {
            "system": platform.platform(),
            "processors": processors(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            # They change the last bits of a result.
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        },
    }


def claim(output: Path | None) -> Path:
    """Create the folder of a run. If several processes try, one succeeds."""
    # Microseconds, because a loop in a shell starts several runs in a second.
    folder = output or Path(datetime.now().strftime("runs/%Y%m%d-%H%M%S-%f"))
    try:
        # One call that tests and creates, so no other process can claim the folder in between.
        folder.mkdir(parents=True)
    except FileExistsError:
        raise DataError(f"{folder} exists. Choose a new output folder") from None
    return folder


@contextlib.contextmanager
def claimed(output: Path) -> Iterator[Path]:
    """Claim a folder, and remove it if its files are not finished."""
    folder = claim(output)
    try:
        yield folder
    # Also after Ctrl-C, or a retry would find that the folder exists.
    except BaseException:
        shutil.rmtree(folder)
        raise


def read(folder: Path, kind: type[Options] = Options) -> RunFolder:
    """Read a saved run."""
    path = folder / kind.file
    if not path.exists():
        raise DataError(f"{folder} is not the folder of a run: it has no {kind.file}")
    record = json.loads(path.read_text(encoding="utf-8"))
    try:
        if record["format"] != FORMAT:
            raise TypeError(f"it has format {record['format']}, not {FORMAT}")
        options = kind(**record["options"])
    except TypeError as error:  # also of a missing or an unknown option
        raise DataError(
            f"{path} is not a run of spikegrad {__version__}: {error}"
        ) from None
    return RunFolder(folder, options, record)


def _named(params: Params) -> dict[str, PyTree]:
    """Return the arrays of layers by their names in a file, in the order of the pytree."""
    return {
        f"{name}_{i}": getattr(layer, name)
        for i, layer in enumerate(params)
        for name in ("weight", "recurrent", "bias")
        if getattr(layer, name) is not None
    }
