"""A run of the command: its options, its network, and the folder that it is saved to and loaded from."""

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

try:
    import fcntl
except ModuleNotFoundError:  # it is on Unix alone
    fcntl = None

from .. import __version__
from .. import data as datasets
from .._files import PARTIAL, write_atomically
from .._system import device_memory, free_disk, processors
from ..data import Data, DataError
from ..data._npz import read_arrays
from . import sources, streams
from .networks import NO_CODING, Params, SpikingNetwork, shapes
from .options import Options
from .sources import Timed, lengths_of

T = TypeVar("T")

FORMAT = 3
RECORD, PARAMETERS, FIGURE = "run.json", "parameters.npz", "figure.png"


class RunError(DataError):
    """A folder that cannot be used, or a run that cannot be made; the message names it."""


def claim(output: Path | None, record: dict[str, Any], name: str = RECORD) -> Path:
    """Take a folder for a run, before the work is done. If several want it, a single one gets it.

    Parameters
    ----------
    output : Path, optional
        A folder that is new or empty. If not given, ``runs/<date>-<time>``, with a number where that is taken.
    record : dict
        What :func:`save_record` is to write first: who has written it has the folder.

    Raises
    ------
    RunError
        If it is in use, or cannot be written.
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
                raise RunError(f"output folder {folder} is not empty; nothing is overwritten, choose another") from None
            if output is not None:
                raise RunError(f"output folder {folder} cannot be written: it is a file") from None
        except OSError as error:
            raise RunError(f"output folder {folder} cannot be written: {error.strerror or error}") from None
    raise AssertionError  # the default folders have no end


def _default_folders() -> Iterator[Path]:
    name = Path("runs", datetime.now().strftime("%Y%m%d-%H%M%S"))
    yield name
    yield from (Path(f"{name}-{i}") for i in itertools.count(2))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Work on a run, which no other process may do meanwhile; the system ends this when the process ends.

    Raises
    ------
    RunError
        If another process works on it.
    """
    if fcntl is None or jax.process_index() or not folder.exists():
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use: another process is training it") from None
        yield
    finally:
        os.close(descriptor)


def require(package: str) -> None:
    """Fail before the work if a package is missing that is imported after it, since it takes memory of its own.

    Raises
    ------
    ModuleNotFoundError
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def describe(options: Options, data: Data) -> dict[str, Any]:
    """What is recorded of a run before it starts: all that its result depends on."""
    return {
        "format": FORMAT,
        "options": dataclasses.asdict(options),
        "data": _description(data),
        **environment(),
    }


def _description(data: Data) -> dict[str, Any]:
    return {
        "shape": data.shape,
        "classes": data.classes,
        "low": data.low,
        "high": data.high,
        "mean": data.mean if isinstance(data, Timed) else (),
        "deviation": data.deviation if isinstance(data, Timed) else (),
        "training": len(data.x_train),
        "held_out": len(data.x_test),
        "held_out_from": data.held_out,
        "training_sha256": sha256(data.x_train, data.y_train, lengths_of(data)[0]),
        "held_out_sha256": sha256(data.x_test, data.y_test, lengths_of(data)[1]),
    }


def check_unchanged(folder: Path, source: str, data: Data, before: DataRecord) -> None:
    """Raise RunError unless the data is still the data that the run in the folder records."""
    now = _typed(DataRecord, json.loads(json.dumps(_description(data))))
    if now != before:
        raise RunError(f"{source} has changed since {folder} was started; restore the original data to resume")


def environment() -> dict[str, Any]:
    """What is recorded of versions, of the machine, and of how JAX computes."""
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
        "jax": {
            name: getattr(jax.config, name)
            for name in (
                "jax_enable_x64",
                "jax_default_matmul_precision",
                "jax_default_prng_impl",
                "jax_threefry_partitionable",
            )
        },
    }


def sha256(*arrays: Any) -> str:
    """A hash of arrays: of dtypes, shapes and values. None is none."""
    found = hashlib.sha256()
    for array in arrays:
        if array is None:
            continue
        found.update(f"{array.dtype.str} {array.shape} ".encode())
        for start in range(0, len(array), 1024):  # they may have to be read
            found.update(np.ascontiguousarray(array[start : start + 1024]).data)
    return found.hexdigest()


def _commit() -> str | None:
    """The commit of the clone that this is, with ``-dirty`` if it was changed; None if it was installed."""
    clone = Path(__file__).resolve().parents[3]
    if not (clone / ".git").exists():
        return None
    git = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def save_record(folder: Path, record: dict[str, Any], name: str = RECORD) -> None:
    """Write ``run.json``, or another record, whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written; the message names it, and what was saved before stays.
    """
    save(folder / name, lambda stream: stream.write(_text(record)))


def _text(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()


def save_parameters(folder: Path, params: Params) -> None:
    """Write ``parameters.npz`` (``weight_0``, ``bias_0``, ... of each layer), as :func:`save_record` does."""
    arrays: dict[str, Any] = {f"{name}_{i}": np.asarray(v) for i, p in enumerate(params) for name, v in p.items()}
    save(folder / PARAMETERS, lambda stream: np.savez(stream, **arrays))


def save(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file of a run by a function that is given a stream, as :func:`save_record` does.

    The first of several processes does it.
    """
    if jax.process_index():
        return
    try:
        write_atomically(path, write)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from None


def check_result(path: Path, result: dict[str, Any]) -> None:
    """Raise RunError if a line of results, which an earlier attempt may have written, lacks the numbers of a run."""
    rates = result.get("rates", [0])
    numbers = (result.get("validation"), result.get("held_out"), result["seconds"], result.get("spikes", 0))
    if not isinstance(rates, list) or not all(isinstance(x, (int, float)) for x in (*numbers, *rates)):
        raise RunError(f"{path} has a damaged line: {result!s:.100}; remove the line")


@contextmanager
def drawing(folder: Path, failures: list[str]) -> Iterator[None]:
    """Draw and save the figure of a run. Any error is added to the failures as one line: the results are not lost."""
    try:
        yield
    except OSError as error:
        failures.append(str(error))
    except Exception as error:
        failures.append(f"{folder / FIGURE} cannot be drawn: {streams.brief(error)}")


def check_resources(folder: Path, options: Options, data: Data, parameters: int, checkpoints: int = 0) -> list[str]:
    """Estimate the memory and the disk that training needs, before it starts.

    Parameters
    ----------
    folder : Path
        Where the run is to be saved.
    parameters : int
        Number of parameters of the greatest network.
    checkpoints : int
        Number of checkpoints that are kept: parameters and the two moments of Adam.

    Returns
    -------
    list of str
        Warnings: what may not suffice.

    Raises
    ------
    RunError
        If what is needed in any case is not there.
    """
    weights = 4 * parameters
    arrays = sum(a.nbytes for a in (data.x_train, data.x_test, data.y_train, data.y_test) if isinstance(a, np.ndarray))
    states = _states(options, options.batch)
    # at least parameters, gradients and Adam's two moments; as measured, three times that while they are replaced
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


def check_scoring(saved: Saved, examples: int) -> None:
    """Estimate the memory that it takes to score so many examples, before it is done; :class:`RunError` if too much."""
    _require(
        f"scoring {examples:,} examples", _states(saved.options, min(examples, 512)), device_memory(), "memory",
        f"its {saved.options.steps:,} steps are too many",
    )  # fmt: skip


def to_score(saved: Saved, source: str) -> tuple:
    """Examples, labels or None, and lengths or None, of the data that ``--data`` names."""
    options, about = saved.options, saved.data
    if options.coding == NO_CODING:
        return sources.load_to_score(source, options.data, options.seed, options.binning, about)
    form = sources.form_of(source)
    if form.read is not None and form not in sources.OWN:
        raise RunError(f"{source} has a time axis, and the network was trained on {options.data}, which has none")
    return *datasets.load_for_prediction(source, options.seed, about.shape, about.classes, about.low, about.high), None


def _states(options: Options, examples: int) -> int:
    """Bytes of the potentials of all hidden neurons at all steps."""
    return 4 * examples * options.steps * sum(options.hidden)


def _require(work: str, needed: int, free: int | None, what: str, remedy: str) -> None:
    if free is not None and needed > free:
        raise RunError(f"{work} takes at least {_size(needed)} of {what}, and {_size(free)} are free: {remedy}")


def _size(count: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if count >= u), (1e3, "kB"))
    return f"{count / unit:,.1f} {name}"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A run that was loaded: ``data`` has what it records of the data."""

    options: Options
    data: DataRecord
    network: SpikingNetwork
    params: Params


@dataclasses.dataclass(frozen=True)
class Stage:
    """Part of a run's record: whether the run trains a baseline, and whether the run has finished."""

    baseline: bool
    finished: bool


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """What a run records of its data, and needs to score other data."""

    shape: tuple[int, ...]
    classes: int
    low: float
    high: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    training_sha256: str
    held_out_sha256: str


def load(folder: Path) -> Saved:
    """Read what :func:`save_record` and :func:`save_parameters` wrote, and check that it fits together.

    Raises
    ------
    RunError
        If the folder holds no run, or one that is damaged or of another version's format.
    """
    options, data, _ = read_record(folder)
    network = options.network(data.shape, data.classes)
    return Saved(options, data, network, _read_parameters(folder, network))


def read_record(folder: Path, name: str = RECORD) -> tuple[Options, DataRecord, dict[str, Any]]:
    """The options of a run, what it records of its data, and the record as a whole; errors as those of :func:`load`."""
    record = read_any(folder, name)

    def read() -> tuple[Options, DataRecord]:
        options, data = _typed(Options, record["options"]), _typed(DataRecord, record["data"])
        if unknown := set(record["options"]) - {field.name for field in dataclasses.fields(Options)}:
            raise ValueError(f"unknown option {min(unknown)!r:.40}")
        if not data.low < data.high:
            raise ValueError(f"low must be less than high, got {data.low:g} and {data.high:g}")
        if not len(data.mean) == len(data.deviation) in (0, math.prod(data.shape)) or 0 in data.deviation:
            raise ValueError(f"mean and deviation must be numbers for each of {data.shape}, and no deviation 0")
        _ = options.binning  # or an error
        _check_network(options.network(data.shape, data.classes), data.shape)
        return options, data

    return *or_damaged(folder, read, name), record


@functools.cache
def _check_network(network: SpikingNetwork, shape: tuple[int, ...]) -> None:
    network.check(shape)


def read_part(folder: Path, name: str, record: dict[str, Any], part: str | None, kind: type[T]) -> T:
    """Read a dataclass from one part of a record, or from the record itself. Errors are those of :func:`load`."""
    return or_damaged(folder, lambda: _typed(kind, record if part is None else record[part]), name)


def or_damaged(folder: Path, read: Callable[[], T], name: str = RECORD) -> T:
    """Call a function that reads a record and raises if a value is invalid. Errors are those of :func:`load`."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, RecursionError, click.BadParameter) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "message", error)
        raise RunError(f"{folder / name} is damaged: {what}") from None


def read_any(folder: Path, name: str) -> dict[str, Any]:
    """A record, of whatever kind; errors as those of :func:`load`."""
    path = folder / name
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{folder} holds no run: no {name}") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from None
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
    """A dataclass from a record, with each field of the type that it is annotated with."""
    if not isinstance(values, dict):
        raise TypeError(f"{values!r:.40} is no table")
    fields = {}
    for name, annotation in get_type_hints(kind).items():
        wanted, fits, convert = _KINDS[annotation]
        if not fits(values[name]):
            raise TypeError(f"{name} must be {wanted}, got {values[name]!r:.40}")
        fields[name] = convert(values[name])
    return kind(**fields)


def _read_parameters(folder: Path, network: SpikingNetwork) -> Params:
    path = folder / PARAMETERS
    if not path.exists():
        raise RunError(f"{folder} holds no run that has begun to learn: no {PARAMETERS}")
    try:
        arrays = read_arrays(path)
    except DataError as error:
        raise RunError(str(error)) from None
    params = []
    for i, expected in enumerate(shapes(network.sizes, network.recurrent)):
        layer = {}
        for name, shape in expected.items():
            array = arrays.get(f"{name}_{i}")
            if array is None or array.shape != shape or array.dtype.kind != "f":
                found = "it is missing" if array is None else f"got {array.dtype} of shape {array.shape}"
                raise RunError(f"{path}: {name}_{i} must hold floats of shape {shape}, {found}")
            with np.errstate(over="ignore"):
                array = array.astype(jnp.result_type(float))  # the file's byte order may be another
            if not np.isfinite(array).all():
                raise RunError(f"{path}: {name}_{i} has NaN or infinite values")
            layer[name] = jnp.asarray(array)
        params.append(layer)
    return params
