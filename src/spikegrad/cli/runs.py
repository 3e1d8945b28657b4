"""A run of the command: its options, its network, and the folder that it is saved to and loaded from."""

from __future__ import annotations

import dataclasses
import json
import platform
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import __version__
from ..data import Data
from ..neurons import LIF
from ..surrogates._registry import get
from ..training import Params, SpikingNetwork

FORMAT = 1


class RunError(ValueError):
    """A folder that cannot be used; the message names it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a run: all that it depends on."""

    data: str
    surrogate: str
    epochs: int
    seed: int
    batch: int
    hidden: tuple[int, ...]
    steps: int
    coding: str
    lr: float
    shift: int
    decay: float
    reset: str
    detach_reset: bool

    def network(self, shape: tuple[int, ...], classes: int) -> SpikingNetwork:
        """The network for examples of this shape."""
        cell = LIF(decay=self.decay, surrogate=get(self.surrogate), reset=self.reset, detach_reset=self.detach_reset)
        return SpikingNetwork((int(np.prod(shape)), *self.hidden, classes), cell, self.steps, self.coding)


def claim(folder: Path) -> None:
    """Make sure that a run can be written to a folder, before the work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunError(f"output folder {folder} is not empty; nothing is overwritten, choose another")
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"output folder {folder} cannot be written: {error.strerror or error}") from None


def save(folder: Path, options: Options, data: Data, params: Params, results: dict[str, Any]) -> None:
    """Write ``parameters.npz`` (``weight_0``, ``bias_0``, ... of each layer) and ``run.json``."""
    arrays: dict[str, Any] = {f"{name}_{i}": np.asarray(v) for i, p in enumerate(params) for name, v in p.items()}
    np.savez(folder / "parameters.npz", **arrays)
    record = {
        "format": FORMAT,
        "options": dataclasses.asdict(options),
        "data": {
            "shape": data.shape,
            "classes": data.classes,
            "low": data.low,
            "high": data.high,
            "training": len(data.x_train),
            "held_out": len(data.x_test),
            "held_out_from": data.held_out,
        },
        "versions": {
            "spikegrad": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "numpy", "optax")},
            "device": jax.devices()[0].device_kind,
        },
        **results,
    }
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Saved:
    """A run that was loaded."""

    options: Options
    data: dict[str, Any]
    network: SpikingNetwork
    params: Params


def load(folder: Path) -> Saved:
    """Read what :func:`save` wrote, and check that it fits together.

    Raises
    ------
    RunError
        If the folder holds no run, or one that is damaged or of another version's format.
    """
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        with (folder / "parameters.npz").open("rb") as stream:  # np.load leaves the file of a path open when it fails
            arrays = dict(np.load(stream, allow_pickle=False))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"{folder} holds no run: no {Path(error.filename).name}") from None
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise RunError(f"{folder / 'run.json'} is not JSON: {error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise RunError(f"{folder / 'parameters.npz'} is not a .npz file of numbers") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RunError(f"{folder / 'run.json'} is not a run in format {FORMAT}, which spikegrad {__version__} reads")
    try:
        options = Options(**{**record["options"], "hidden": tuple(record["options"]["hidden"])})
        about = record["data"]
        data: dict[str, Any] = {"shape": tuple(map(int, about["shape"])), "classes": int(about["classes"])}
        data |= {key: float(about[key]) for key in ("low", "high")}
        network = options.network(data["shape"], data["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / 'run.json'} is damaged: {error!r}") from None
    params = []
    for i, (n, m) in enumerate(zip(network.sizes[:-1], network.sizes[1:], strict=True)):
        layer = {}
        for name, shape in (("weight", (n, m)), ("bias", (m,))):
            array = arrays.get(f"{name}_{i}")
            if array is None or array.shape != shape or array.dtype.kind != "f":
                found = "it is missing" if array is None else f"got {array.dtype} of shape {array.shape}"
                raise RunError(f"{folder / 'parameters.npz'}: {name}_{i} must hold floats of shape {shape}, {found}")
            layer[name] = jnp.asarray(array)
        params.append(layer)
    return Saved(options, data, network, params)
