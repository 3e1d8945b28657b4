"""The folder of a run: claimed, written, read and checked."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_type_hints

import click
import jax
import jax.numpy as jnp
import numpy as np

from .. import __version__, training
from .. import data as datasets
from .._files import PARTIAL, fcntl, regular_size, write_atomically
from .._system import device_memory, free_disk, processors
from ..data import DataError, Sequences, Split
from ..data._npz import read_arrays
from ..training._partition import name_of
from . import outputs, sources, streams, tables
from .networks import NO_ENCODING, Params, SpikingNetwork
from .options import Options, adapted, check_network

T = TypeVar("T")

FORMAT = 4
RECORD, PARAMETERS, FIGURE = "run.json", "parameters.npz", "figure.png"


class RunError(DataError):
    """A folder or a run cannot be used. The message names it."""


def claim(output: Path | None, record: dict[str, Any], name: str = RECORD) -> Path:
    """Create the folder of a run before training. If several processes try, one succeeds.

    Parameters
    ----------
    output : Path, optional
        A new or empty folder. By default ``runs/<date>-<time>``, with a number if that is taken.
    record : dict
        The first record. The process that creates it owns the folder.

    Raises
    ------
    RunError
        If the folder is in use or cannot be written.
    """
    for folder in _default_folders() if output is None else (output,):
        try:
            folder.mkdir(parents=True, exist_ok=output is not None)
            if any(not path.name.endswith(PARTIAL) for path in folder.iterdir()):
                raise FileExistsError
            write_atomically(folder / name, lambda stream: stream.write(_text(record)), new=True)
            return folder
        except FileExistsError:
            if output is not None and folder.is_dir():
                raise RunError(f"output folder {folder} is not empty; choose an empty folder") from None
            if output is not None:
                raise RunError(f"output folder {folder} cannot be written: it is a file") from None
        except OSError as error:
            raise RunError(f"output folder {folder} cannot be written: {error.strerror or error}") from None
        except RecursionError:  # Python creates parents by recursion
            raise RunError(f"output folder {folder} cannot be written: it is in too many nested folders") from None
    raise AssertionError  # the default folders are infinitely many


def _default_folders() -> Iterator[Path]:
    name = Path("runs", datetime.now().strftime("%Y%m%d-%H%M%S"))
    yield name
    yield from (Path(f"{name}-{i}") for i in itertools.count(2))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a run against other processes. The system releases the lock when the process ends.

    Raises
    ------
    RunError
        If another process has locked it, or it cannot be written.
    """
    if jax.process_index() or not folder.exists():
        yield
        return
    if not os.access(folder, os.W_OK):  # a resumed run would train for nothing
        raise RunError(f"{folder} cannot be written; make it writable to continue the run")
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use: another process is training it") from None
        except OSError:  # some file systems lack locks
            pass
        yield
    finally:
        os.close(descriptor)


def require(package: str) -> None:
    """Fail before training if a package is missing that is imported after it to save memory.

    Raises
    ------
    ModuleNotFoundError
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def _description(options: Options, data: Split) -> dict[str, Any]:
    is_image = options.encoding != NO_ENCODING
    return {
        "shape": data.shape,
        "classes": data.classes,
        **{name: getattr(data, name) for name in ("low", "high", "mean", "std")},
        "training": len(data.train),
        "test": len(data.test),
        "test_from": data.test_from,
        "training_sha256": sha256(data.train, is_image),
        "test_sha256": sha256(data.test, is_image),
    }


CONFIGURATION = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
"""The configuration of JAX on which the bits of a training depend."""


def environment() -> dict[str, Any]:
    """Return the versions, the machine and the configuration of JAX for a record."""
    return {
        "versions": {
            "spikegrad": __version__,
            "commit": _commit(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "jaxlib", "numpy", "optax")},
        },
        "machine": {
            "system": platform.platform(),
            "processors": processors(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        },
        "jax": {name: getattr(jax.config, name) for name in CONFIGURATION},
    }


def check_configuration(run: Run) -> None:
    """Raise if JAX has another configuration than at the start of a run. The bits would differ, or the dtypes."""
    saved = run.record.get("jax")
    if not isinstance(saved, dict):
        return
    for name in CONFIGURATION:
        now = getattr(jax.config, name)
        if saved.get(name, now) != now:
            raise RunError(
                f"{run.folder} was started with {name.upper()}={saved[name]!r:.40}, now it is {now!r}; "
                "set it as before to resume"
            )


def sha256(source: Sequences, is_image: bool) -> str:
    """Return a hash of the dtypes, shapes and values of examples. Images have no time axis here."""
    found = hashlib.sha256()
    shape = (len(source), *(() if is_image else (source.steps,)), *source.shape)
    found.update(f"{source.padded(slice(0)).dtype.str} {shape} ".encode())
    for start in range(0, len(source), 1024):  # they may be read from files
        found.update(np.ascontiguousarray(source.padded(slice(start, start + 1024))).data)
    for array in (source.y, *([source.lengths] if source.masked else [])):
        found.update(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()


def _commit() -> str | None:
    """Return the commit of a clone, with ``-dirty`` if it has changes. None for an installed package."""
    clone = Path(__file__).resolve().parents[3]
    if not (clone / ".git").exists():
        return None
    git = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _text(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()


def save(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file of a run atomically, in process 0. ``write`` receives a stream.

    Raises
    ------
    OSError
        If the file cannot be written. The message names it, and an earlier file stays.
    """
    if jax.process_index():
        return
    try:
        write_atomically(path, write)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from None


@dataclasses.dataclass
class Run:
    """The folder of a run or of a sweep: its record, parameters, figure and failures.

    ``about`` is the description of the data in the record.
    """

    folder: Path
    options: Options
    about: DataRecord
    record: dict[str, Any]
    name: str = RECORD
    failures: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def prepared(
        cls,
        before: Run | None,
        output: Path | None,
        options: Options,
        data: Split,
        name: str = RECORD,
        surrogates: tuple[str, ...] = (),
        jobs: int = 1,
        **more: Any,
    ) -> Run:
        """Check and return a new run, or an interrupted run to resume.

        Parameters
        ----------
        before : Run, optional
            The interrupted run.
        surrogates : tuple of str
            The surrogates of the run. By default the surrogate of the options.
        jobs : int
            Number of networks that are trained in parallel.
        **more
            More values for the record of a new run.
        """
        description = _description(options, data)
        about = _typed(DataRecord, json.loads(json.dumps(description)))
        if before is not None and about != before.about:
            raise RunError(
                f"{options.data} has changed since {before.folder} was started; restore the original data to resume"
            )
        if before is not None:
            check_configuration(before)
        check = functools.partial(adapted, options, data)
        options, doubts = check() if before is None else or_damaged(before.folder / name, check)
        folder = output or (before.folder if before else Path("runs"))
        together = dataclasses.replace(options, batch=options.batch * jobs)
        size = options.network(data).count * jobs
        doubts += check_resources(folder, together, data, size, checkpoints=0 if surrogates else 3)
        for surrogate in surrogates or (options.surrogate,):  # after the sizes, which JAX would report otherwise
            check_network(dataclasses.replace(options, surrogate=surrogate).network(data), data)
        if before is not None:
            before.options = options
            before.record["data"] = description  # also has numbers that are not compared, but printed
            return before
        for line in doubts:
            tables.console(stderr=True).print(f"warning: {line}", soft_wrap=True)
        record = {"format": FORMAT, "options": dataclasses.asdict(options), "data": description}
        record |= environment() | more
        return cls(claim(output, record, name), options, about, record, name)

    @property
    def network(self) -> SpikingNetwork:
        """The spiking network."""
        return self.options.network(self.about)

    def save_record(self) -> None:
        """Write the record."""
        save(self.folder / self.name, lambda stream: stream.write(_text(self.record)))

    def save_parameters(self, params: Params) -> None:
        """Write ``parameters.npz``, with ``weight_0``, ``bias_0``, ... for the layers."""
        arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _named(params).items()}
        save(self.folder / PARAMETERS, lambda stream: np.savez(stream, **arrays))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Record failures, and show the results after them."""
        try:
            yield
        except (training.DivergedError, OSError) as error:
            self.failures.append(str(error))

    def draw(self, make: Callable[[], Any], quiet: bool) -> None:
        """Draw and save the figure. Record any error as one line, so the results are not lost."""
        path = self.folder / FIGURE
        tables.note(f"drawing {path}", quiet)
        try:
            with outputs.drawing(path):
                save(path, outputs.drawn(make(), path, 130))
        except (OSError, click.ClickException) as error:
            self.failures.append(str(error))

    def end(self, out: Any, files: tuple[str, ...], began: float, signal: int) -> int:
        """Print the last lines of a command: its files, its time and its failures. Return the exit code."""
        there = [name for name in files if (self.folder / name).is_file()]
        out.print(f"saved in {self.folder}: {', '.join(there) or 'nothing'}", soft_wrap=True)
        out.print(f"{time.perf_counter() - began:.1f} s in all")
        for failure in dict.fromkeys(self.failures):
            streams.fail(failure, 1)
        return 128 + signal if signal else 1 if self.failures else 0


def _named(params: Params) -> dict[str, Any]:
    """Return the arrays of layers by their names in ``parameters.npz``."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"_".join(reversed(name_of(path).split("/"))): leaf for path, leaf in leaves}


def check_result(path: Path, result: dict[str, Any]) -> None:
    """Raise RunError if a line of results, possibly of an earlier attempt, lacks the numbers of a run."""
    rates = result.get("rates", [0])
    numbers = (result.get("validation"), result.get("test"), result["seconds"], result.get("spikes", 0))
    _, is_finite, _ = _KINDS[float]
    right = isinstance(rates, list) and rates and all(is_finite(x) for x in (*numbers, *rates))
    if not right or not all(is_finite(x) for x in result.values() if type(x) in (int, float)):
        raise RunError(f"{path} has a damaged line: {result!s:.100}. Remove the line")


def check_resources(folder: Path, options: Options, data: Split, parameters: int, checkpoints: int = 0) -> list[str]:
    """Estimate the memory and the disk that training needs, before it starts.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    parameters : int
        Number of parameters of the largest network.
    checkpoints : int
        Number of stored checkpoints, with parameters and the two moments of Adam.

    Returns
    -------
    list of str
        Warnings of resources that may not suffice.

    Raises
    ------
    RunError
        If the resources cannot suffice.
    """
    weights = 4 * parameters
    arrays = sum(
        array.nbytes for part in (data.train, data.test) for array in (part.x, part.y) if isinstance(array, np.ndarray)
    )
    states = _states(options, options.batch)
    # At least parameters, gradients and Adam's two moments. Measured: three times that during an update.
    least, likely = arrays + 4 * weights + states, arrays + 12 * weights + 3 * states
    memory, disk = device_memory(), free_disk(folder)
    _require(
        f"training {parameters:,} parameters", least, memory, "memory", "--hidden, --steps or --batch is too large"
    )
    _require(f"saving {parameters:,} parameters", weights, disk, "disk space", "choose another --output")
    return [
        f"training may take {_size(needed)} of {what}, and {_size(free)} are free"
        for needed, free, what in (
            (likely, memory, "memory"),
            (10**7 + (1 + 3 * checkpoints) * weights, disk, "disk space"),
        )
        if free is not None and needed > free
    ]


def to_score(run: Run, source: str) -> tuple[Sequences, bool]:
    """Read the examples of a value of ``--data`` to score. Return them, and True if they have labels."""
    options, about = run.options, run.about
    if options.encoding == NO_ENCODING:
        found = sources.load_to_score(source, options.data, options.seed, options.binning, about)
    else:
        form = sources.form_of(source)
        if form.read is not None and form not in sources.OWN:
            raise RunError(f"{source} has a time axis, but the network was trained on {options.data} without one")
        found = datasets.load_for_prediction(source, options.seed, about.shape, about.classes, about.low, about.high)
    _require(
        f"scoring {len(found[0]):,} examples", _states(options, min(len(found[0]), 512)), device_memory(), "memory",
        f"its {options.steps:,} steps are too many",
    )  # fmt: skip
    return found


def _states(options: Options, examples: int) -> int:
    """Return the bytes of the potentials of all hidden neurons at all time steps."""
    return 4 * examples * options.steps * sum(options.hidden)


def _require(work: str, needed: int, free: int | None, what: str, fix: str) -> None:
    if free is not None and needed > free:
        raise RunError(f"{work} takes at least {_size(needed)} of {what}, and {_size(free)} are free: {fix}")


def _size(count: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if count >= u), (1e3, "kB"))
    return f"{count / unit:,.1f} {name}"


@dataclasses.dataclass(frozen=True)
class Stage:
    """Part of a record: if True, the run trains a baseline, and has finished."""

    baseline: bool
    finished: bool


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """The data of a run in its record, as required to score other data."""

    shape: tuple[int, ...]
    classes: int
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    training_sha256: str
    test_sha256: str


def read(folder: Path, name: str = RECORD) -> Run:
    """Read a saved run and check its record.

    Raises
    ------
    RunError
        If the folder does not contain a run, or if the run is damaged or from another version.
    """
    path = folder / name
    record = _read_json(path, f"{folder} contains no run: {name} is missing")
    given, known = record.get("options"), {field.name for field in dataclasses.fields(Options)}
    if isinstance(given, dict) and (other := given.keys() ^ known):
        differs = f"{'no' if min(other) in known else 'unknown'} option {min(other)!r:.40}"
        raise RunError(f"{path} is not a run of spikegrad {__version__}: {differs}")

    def checked() -> Run:
        options, data = _typed(Options, record["options"]), _typed(DataRecord, record["data"])
        if not data.low < data.high:
            raise ValueError(f"low must be less than high, got {data.low:g} and {data.high:g}")
        if not len(data.mean) == len(data.std) in (0, math.prod(data.shape)) or 0 in data.std:
            raise ValueError(f"mean and std must be numbers for each of {data.shape}, with std other than 0")
        _ = options.binning  # raises if invalid
        _check_network(options.network(data), data.shape)
        return Run(folder, options, data, record, name)

    return or_damaged(path, checked)


@functools.cache
def _check_network(network: SpikingNetwork, shape: tuple[int, ...]) -> None:
    network.check(shape)


def read_part(run: Run, part: str | None, kind: type[T]) -> T:
    """Read a dataclass from one part of a record, or from the record itself. Raises like :func:`read`."""
    return or_damaged(run.folder / run.name, lambda: _typed(kind, run.record if part is None else run.record[part]))


def or_damaged(path: Path, read: Callable[[], T]) -> T:
    """Call a function that reads a record and raises if a value is invalid. Raises like :func:`read`."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, RecursionError, click.BadParameter) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "message", error)
        raise RunError(f"{path} is damaged: {what}") from None


def _read_json(path: Path, missing: str) -> dict[str, Any]:
    try:
        regular_size(path)
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(missing) from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise RunError(f"{path} does not fit into memory") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is not text in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RunError(f"{path} is not a run in format {FORMAT}, which spikegrad {__version__} reads")
    return record


_KINDS: dict[Any, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    str: ("text without null characters", lambda v: isinstance(v, str) and "\0" not in v, str),
    bool: ("true or false", lambda v: isinstance(v, bool), bool),
    int: ("a whole number from 0 to 2^32 - 1", lambda v: type(v) is int and 0 <= v < 2**32, int),
    float: ("a finite number", lambda v: type(v) in (int, float) and abs(v) <= sys.float_info.max, float),
    tuple[int, ...]: (
        "a list of whole numbers from 1 to 2^32 - 1",
        lambda v: isinstance(v, list) and all(type(n) is int and 0 < n < 2**32 for n in v),
        tuple,
    ),
    tuple[str, ...]: ("a list of texts", lambda v: isinstance(v, list) and all(isinstance(n, str) for n in v), tuple),
    tuple[float, ...]: (
        "a list of finite numbers",
        lambda v: isinstance(v, list) and all(_KINDS[float][1](n) for n in v),
        lambda v: tuple(map(float, v)),
    ),
}


def _typed(kind: Any, values: Any) -> Any:
    """Read a dataclass from a record. Raise if a field is not of its annotated type."""
    if not isinstance(values, dict):
        raise TypeError(f"{values!r:.40} must be a table")
    fields = {}
    for name, annotation in get_type_hints(kind).items():
        wanted, fits, convert = _KINDS[annotation]
        if not fits(values[name]):
            raise TypeError(f"{name} must be {wanted}, got {values[name]!r:.40}")
        fields[name] = convert(values[name])
    return kind(**fields)


def read_parameters(run: Run) -> Params:
    """Read saved parameters and compare them with the network. Raises like :func:`read`."""
    path, shapes = run.folder / PARAMETERS, run.network.shapes
    if not path.exists():
        raise RunError(f"{run.folder} contains no trained run: {PARAMETERS} is missing")
    try:
        arrays = read_arrays(path)
    except DataError as error:
        raise RunError(str(error)) from None
    expected = _named(shapes)
    params = []
    for name, leaf in expected.items():
        array = arrays.get(name)
        if array is None or array.shape != leaf.shape or array.dtype.kind != "f":
            found = "it is missing" if array is None else f"got {array.dtype} of shape {array.shape}"
            raise RunError(f"{path}: {name} must hold floats of shape {leaf.shape}, {found}")
        with np.errstate(over="ignore"):
            array = array.astype(leaf.dtype)  # the byte order of the file may differ
        if not np.isfinite(array).all():
            raise RunError(f"{path}: {name} has NaN or infinite values")
        params.append(jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(shapes), params)
