"""Networks of integers as files of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._files import write_atomically
from .._struct import Struct
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
    integer_layers("save", network)  # raises for what is not integers
    record = {
        "format": _FORMAT,
        "inputs": network.inputs,
        "outputs": network.outputs,
        "layers": dict(network.layers),
    }
    data = json.dumps(record, default=_fields).encode()
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
    record = json.loads(Path(path).read_text(), object_hook=_object)
    if record.get("format") != _FORMAT:
        raise ValueError(f"load: {path} is no file of spikegrad.integers.save")
    return Network(record["layers"], record["inputs"], record["outputs"])


def _fields(value: Any) -> Any:
    """Return an object as JSON: its class and its parameters, or the lists of an array."""
    if not isinstance(value, Struct):
        return value.tolist()
    fields = {"class": type(value).__name__, **value._values()}
    fields.pop("surrogate", None)  # any function, which JSON has not
    if isinstance(value, Fixed):
        fields["value"] = value.integers
    return fields


def _object(fields: dict[str, Any]) -> Any:
    """Return the object of an entry of the file with a class."""
    if "class" not in fields:
        return fields
    kind = _CLASSES[fields.pop("class")]
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = np.array(value)
    if kind is Fixed:
        fields["value"] = jnp.asarray(fields["value"] / fields["scale"])
    return kind(**fields)
