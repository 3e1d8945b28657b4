"""Networks of integers as files of JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._files import write_atomically
from ..network import Delayed, Layer, Network, Window
from ._cells import FixedLIF, Loihi, Xylo
from ._fixed import Fixed
from ._replay import integer_layers

_FORMAT = 1
_CLASSES = {
    cls.__name__: cls for cls in (Layer, Delayed, Window, Fixed, FixedLIF, Loihi, Xylo)
}


def save(network: Network, path: str | Path) -> None:
    """Save a network of integers as JSON.

    The file has ``format``, ``inputs``, ``outputs`` and ``layers``. Each layer, cell and weight has
    its ``class`` and the parameters of this class. The ``value`` of a :class:`Fixed` weight is
    its integers, the inputs first.

    Parameters
    ----------
    network : Network
        As in :func:`replay`.
    path : str or Path
        The file.

    Raises
    ------
    TypeError
        As :func:`replay`.

    Examples
    --------
    >>> import jax.numpy as jnp, tempfile
    >>> from spikegrad import Layer, Network
    >>> from spikegrad.integers import FixedLIF, fixed, load, save
    >>> network = Network([Layer(fixed(jnp.ones((3, 2))), FixedLIF(4000, 100))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(network, f"{folder}/net.json")
    ...     loaded = load(f"{folder}/net.json")
    >>> loaded.layers["0"].weight.integers.tolist()
    [[64, 64], [64, 64], [64, 64]]
    """
    _ = [*integer_layers("save", network)]  # raises for what is not made of integers
    record = {
        "format": _FORMAT,
        "inputs": network.inputs,
        "outputs": network.outputs,
        "layers": _written(network.layers),
    }
    data = json.dumps(record).encode()
    write_atomically(Path(path), lambda stream: stream.write(data))


def load(path: str | Path) -> Network:
    """Load a network from a file of :func:`save`. Its integers are equal.

    Its surrogates are those of the defaults, and its real weights are the integers over their
    scale.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If the file has another format.
    """
    record = json.loads(Path(path).read_text())
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ValueError(f"load: {path} is no file of spikegrad.integers.save")
    inputs, outputs = (
        tuple(names) if isinstance(names, list) else names
        for names in (record["inputs"], record["outputs"])
    )
    return Network(_read(record["layers"]), inputs, outputs)


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _written(entry) for name, entry in value.items()}
    if isinstance(value, Fixed):
        value = dataclasses.replace(value, value=value.integers)
    if not isinstance(value, tuple(_CLASSES.values())):
        return value.tolist() if hasattr(value, "tolist") else value
    fields = {
        field.name: getattr(value, field.name) for field in dataclasses.fields(value)
    }
    fields.pop("surrogate", None)
    return {"class": type(value).__name__, **_written(fields)}


def _read(value: Any) -> Any:
    if isinstance(value, list):
        array = np.array(value)
        return tuple(value) if array.ndim == 1 else array
    if not isinstance(value, dict):
        return value
    fields = {name: _read(entry) for name, entry in value.items()}
    if "class" not in fields:
        return fields
    cls = _CLASSES[fields.pop("class")]
    if cls is Fixed:
        value = np.asarray(fields["value"]) / fields["scale"]
        fields["value"] = jnp.asarray(value, jnp.result_type(float))
    return cls(**fields)
