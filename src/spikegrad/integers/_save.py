"""Networks of integers as files of JSON.

A file has one form, which ``save`` writes and ``load`` checks::

    {"format": 3, "inputs": "input", "outputs": ["out"], "layers": [
        {"name": "out",
         "cell": {"class": "FixedLIF", "decay": 4000, "threshold": 100, ...},
         "weights": [{"source": null, "delay": 0, "is_window": false, "array": ARRAY}],
         "recurrent": {"delay": 1, "is_window": false, "array": ARRAY},
         "bias": ARRAY}]}

with ``null`` for a missing part. An ``ARRAY`` has ``integers``, nested lists with the inputs first.
That of a :class:`Fixed` also has its ``scale``, ``low``, ``high`` and ``step``. Instead of an
array, a weight may have a ``function``, and a join is a layer of another form::

    {"name": "sum", "of": ["a", "b"], "function": {
        "arguments": [{"shape": [1, 4, 8, 8], "operations": []}, ...],
        "operations": [{"class": "SumPooling", "window": [1, 1, 2, 2], ...}]}}

It adds the arguments after their operations, one for each source, and has operations of the sum.
``shape`` is that of an example of a source. The operations have the fields of their classes, see
``_weights.py``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax.numpy as jnp
import numpy as np

from .._checks import brief, named
from .._files import Record, write_atomically
from .._weights import (
    Convolution,
    Factor,
    MaxPooling,
    Operation,
    Product,
    Rearrangement,
    SumPooling,
)
from ..network import Delayed, Join, Layer, Network, Window
from ._arithmetic import LARGEST
from ._cells import CHIPS
from ._fixed import Fixed
from ._functions import Argument, IntegerFunction, weight_name
from ._replay import chip_layers

T = TypeVar("T")
_FORMAT = 3
_CELLS = {cell.__name__: cell for cell in CHIPS}
# Names in files are fixed here, so that a class can be renamed without another format.
_OPERATIONS: dict[str, type[Operation]] = {
    "Product": Product,
    "Convolution": Convolution,
    "SumPooling": SumPooling,
    "MaxPooling": MaxPooling,
    "Factor": Factor,
    "Move": Rearrangement,
}
_NAME_OF_OPERATION = {kind: name for name, kind in _OPERATIONS.items()}
_FIXED = "scale", "low", "high", "step"
"""The fields of a :class:`Fixed` beside its integers."""


def save(network: Network, path: str | Path) -> None:
    """Save a network of integers as a JSON file.

    The file contains the integers of all weights, whose first axis is the inputs. It also contains
    the parameters of all cells, and the names of layers, inputs and outputs. It does not contain
    the surrogates and the real weights.

    Parameters
    ----------
    network : Network
        A network as in :func:`replay`, with the cells :class:`FixedLIF`, :class:`Loihi` and
        :class:`Xylo`.
    path : str or Path
        The file to write.

    Raises
    ------
    TypeError, ValueError
        As in :func:`replay`, and for other cells.

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
    chip_layers("save", network)  # raises for what is not integers
    record = {
        "format": _FORMAT,
        "inputs": network.inputs,
        "outputs": network.outputs,
        "layers": [_node_record(name, x) for name, x in network.layers.items()],
    }
    # Python would write NaN and Infinity, which JSON does not have.
    data = json.dumps(record, allow_nan=False).encode()
    write_atomically(Path(path), lambda stream: stream.write(data))


def load(path: str | Path) -> Network:
    """Load a network of integers from a file of :func:`save`. Its spikes equal those of the saved
    network.

    The file does not contain surrogates, so the cells have the default surrogate. The real weights
    are the integers divided by their scale. No code in the file is run, so you can load files of
    others.

    Parameters
    ----------
    path : str or Path
        The file to read.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If the file is not one that :func:`save` writes. The message names the place in the file.
    """
    data = Path(path).read_bytes()
    try:
        return _network(_parsed(data))
    # A class raises TypeError for a parameter of another type, which here is a value of a file.
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {path}: {error}") from error


# --- writing --------------------------------------------------------------------------------------


def _node_record(name: str, node: Layer | Join) -> Record:
    if isinstance(node, Join):
        return {
            "name": name,
            "of": list(node.of),
            "function": _function_record(node.function),
        }
    return _layer_record(name, node)


def _layer_record(name: str, layer: Layer) -> Record:
    # A single weight reads one source, which is None for the layer before.
    weights = layer.weight
    if not isinstance(weights, Mapping):
        weights = {layer.of: weights}
    recurrent = layer.recurrent
    return {
        "name": name,
        "cell": _cell_record(layer.cell),
        "weights": [
            {"source": source, **_weight_record(weight, 0)}
            for source, weight in weights.items()
        ],
        "recurrent": None if recurrent is None else _weight_record(recurrent, 1),
        "bias": None if layer.bias is None else _array_record(layer.bias),
    }


def _cell_record(cell: Any) -> Record:
    # A surrogate may be any function, and JSON has none.
    values = {k: v for k, v in cell._values().items() if k != "surrogate"}
    return {"class": type(cell).__name__, **values}


def _weight_record(weight: Any, plain_delay: int) -> Record:
    # A recurrent weight without ``Delayed`` has a delay of 1, and the others of 0.
    inner = weight
    delay = plain_delay
    if isinstance(weight, (Delayed, Window)):
        inner = weight.weight
        delay = weight.delay
    record: Record = {"delay": delay, "is_window": isinstance(weight, Window)}
    if isinstance(inner, IntegerFunction):
        return {**record, "function": _function_record(inner)}
    return {**record, "array": _array_record(inner)}


def _function_record(function: Any) -> Record:
    return {
        "arguments": [
            {"shape": list(x.shape), "operations": _operation_records(x.operations)}
            for x in function.arguments
        ],
        "operations": _operation_records(function.operations),
    }


def _operation_records(operations: Iterable[Operation]) -> list[Record]:
    return [_operation_record(x) for x in operations]


def _operation_record(operation: Operation) -> Record:
    name = weight_name(operation)
    values = operation._values()
    if name is not None:
        values[name] = _array_record(values[name])
    return {"class": _NAME_OF_OPERATION[type(operation)], **values}


def _array_record(array: Any) -> Record:
    # Integers that a user wrote by hand have no scale.
    if not isinstance(array, Fixed):
        return {"integers": np.asarray(array).astype(int).tolist()}
    numbers = {name: getattr(array, name) for name in _FIXED}
    return {"integers": array.integers.tolist(), **numbers}


# --- reading --------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A value of the file, with its place for messages."""

    place: str
    value: Any

    def refuse(self, expected: str) -> NoReturn:
        raise ValueError(f"{self.place} must be {expected}, got {brief(self.value)}")

    def fields(self, *names: str) -> dict[str, _Entry]:
        """Return the entries of a record that has these names and no others."""
        # Also no further names: a misspelt one would otherwise leave a default in silence.
        if not isinstance(self.value, dict) or {*self.value} != {*names}:
            self.refuse(f"a record of {', '.join(names)}")
        return {
            name: _Entry(f"{self.place}.{name}", self.value[name]) for name in names
        }

    def has(self, name: str) -> bool:
        """Return True for a record with this name, among others."""
        return isinstance(self.value, dict) and name in self.value

    def kind(self, kinds: dict[str, type[T]]) -> type[T]:
        """Return the class that a record names."""
        name = self.value["class"] if self.has("class") else None
        if not isinstance(name, str) or name not in kinds:
            self.refuse(f"a record with a class of {', '.join(kinds)}")
        return kinds[name]

    def items(self) -> list[_Entry]:
        if not isinstance(self.value, list) or not self.value:
            self.refuse("a list that is not empty")
        return [_Entry(f"{self.place}[{n}]", x) for n, x in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            self.refuse("a text")
        return self.value

    def names(self) -> str | list[str]:
        """Return one name, or several."""
        if isinstance(self.value, list):
            return [entry.text() for entry in self.items()]
        return self.text()

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.refuse("true or false")
        return self.value

    def integer(self) -> int:
        # True is an int in Python.
        if type(self.value) is not int or abs(self.value) > LARGEST:
            self.refuse(f"an integer up to {LARGEST} in size")
        return self.value

    def integers(self, least: int, count: int | None = None) -> tuple[int, ...]:
        """Return a list of integers, each at least ``least``."""
        numbers = tuple(entry.integer() for entry in self.items())
        if min(numbers) < least or count not in (None, len(numbers)):
            self.refuse(f"{count or 'some'} integers of at least {least}")
        return numbers

    def scale(self) -> Any:
        """Return a number above 0, or an array of them."""
        # Of dtype object, the numbers keep the types of the file, so True stays apart from 1.
        array = np.array(self.value, object)
        numbers = [*array.flat]

        def is_positive(x: Any) -> bool:
            return type(x) in (int, float) and 0 < x < math.inf

        if not numbers or not all(map(is_positive, numbers)):
            self.refuse("a number above 0, or nested lists of them of one length")
        return array.astype(np.float64) if array.ndim else float(self.value)

    def array(self, least_axes: int, most_axes: int) -> np.ndarray:
        """Return integers, of this number of axes."""
        # Of dtype object as above. Lists of several lengths stay lists.
        array = np.array(self.value, object)
        is_whole = {*map(type, array.flat)} == {int}
        if not is_whole or not least_axes <= array.ndim <= most_axes:
            self.refuse(f"integers in nested lists of one length, {most_axes} deep")
        if max(map(abs, array.flat)) > LARGEST:
            self.refuse(f"integers up to {LARGEST} in size")
        return array.astype(np.int64)


def _parsed(data: bytes) -> _Entry:
    """Return the top of a file, or raise if it is no JSON."""

    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"must have finite numbers, got {name}")

    try:
        value = json.loads(
            data, parse_constant=refuse_constant, object_pairs_hook=_without_repeats
        )
    # Python raises a RecursionError for lists that are nested too deeply.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"it must be JSON of spikegrad.integers.save: {error}"
        ) from None
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise ValueError(
            f"it must be a file of spikegrad.integers.save with format {_FORMAT}. Save the network "
            "again"
        )
    return _Entry("the file", value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python keeps the last of two equal names, and other readers of JSON the first.
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError(f"a record must have each name once, got {[*dict(pairs)]}")
    return record


def _network(entry: _Entry) -> Network:
    top = entry.fields("format", "inputs", "outputs", "layers")
    layers: dict[str, Layer | Join] = {}
    for place in _Entry("layers", top["layers"].value).items():
        name, node = _node(place)
        if name.value in layers:
            name.refuse("a name of its own")
        layers[name.value] = node
    outputs = None
    # None stands for the last entry, the default of Network.
    if top["outputs"].value is not None:
        outputs = top["outputs"].names()
    network = Network(layers, top["inputs"].names(), outputs)
    chip_layers("its network", network)  # raises if sizes of layers differ
    return network


def _node(entry: _Entry) -> tuple[_Entry, Layer | Join]:
    """Return the entry of a name, and a layer or a join."""
    # A layer has its sources in its weights, so only a join has this field.
    if entry.has("of"):
        fields = entry.fields("name", "of", "function")
        node: Layer | Join = _join(fields)
    else:
        fields = entry.fields("name", "cell", "weights", "recurrent", "bias")
        node = _layer(fields)
    fields["name"].text()
    return fields["name"], node


def _join(fields: dict[str, _Entry]) -> Join:
    of = [entry.text() for entry in fields["of"].items()]
    return Join(_function(fields["function"], len(of)), of)


def _layer(fields: dict[str, _Entry]) -> Layer:
    weights: dict[Any, Any] = {}
    for place in fields["weights"].items():
        parts = place.fields("source", "delay", "is_window", _form(place))
        source = parts["source"]
        # One weight without a source reads the layer before.
        is_default = source.value is None and len(fields["weights"].value) == 1
        # None is the key of a weight without a name.
        key = None if is_default else source.text()
        if key in weights:
            source.refuse("a source of its own")
        weights[key] = _weight(parts, 0)
    recurrent = bias = None
    if fields["recurrent"].value is not None:
        place = fields["recurrent"]
        parts = place.fields("delay", "is_window", _form(place))
        recurrent = _weight(parts, 1)
    if fields["bias"].value is not None:
        # One number, or an array with up to channels, rows and columns.
        bias = _array(fields["bias"], 0, 3)
    cell = _cell(fields["cell"])
    if len(weights) == 1:
        ((source, weight),) = weights.items()
        return Layer(weight, cell, recurrent, bias, of=source)
    return Layer(weights, cell, recurrent, bias)


def _cell(entry: _Entry) -> Any:
    kind = entry.kind(_CELLS)
    # The parameters of the class are the fields of its record.
    names = [name for name in kind._domains if name != "surrogate"]
    fields = entry.fields("class", *names)
    values = {name: _cell_value(name, fields[name]) for name in names}
    # The class checks its parameters itself.
    with named(entry.place):
        return kind(**values)


def _cell_value(name: str, entry: _Entry) -> Any:
    """Return a number, a name or a flag, or the numbers of neurons or channels."""
    if isinstance(entry.value, list):
        # (neurons,), or (channels, rows, columns) with lengths of 1.
        return entry.scale() if name == "unit" else entry.array(1, 3)
    if not isinstance(entry.value, str | int | float | None):
        entry.refuse("a number, a text or a list of integers")
    return entry.value


def _form(entry: _Entry) -> str:
    """Return the name of the field with the weight."""
    return "function" if entry.has("function") else "array"


def _weight(fields: dict[str, _Entry], plain_delay: int) -> Any:
    delay = fields["delay"].integer()
    is_window = fields["is_window"].flag()
    # (inputs, neurons), and for a window the steps in front.
    axes = 3 if is_window else 2
    if "function" in fields:
        weight = _function(fields["function"])
        if is_window:
            fields["is_window"].refuse("false for a function")
    else:
        weight = _array(fields["array"], axes, axes)
    with named(fields["delay"].place):
        if is_window:
            return Window(weight, delay=delay)
        return weight if delay == plain_delay else Delayed(weight, delay)


def _function(entry: _Entry, count: int = 1) -> IntegerFunction:
    fields = entry.fields("arguments", "operations")
    arguments = []
    for place in fields["arguments"].items():
        parts = place.fields("shape", "operations")
        operations = _operations(parts["operations"])
        # The replay would run them, but a layer has one scale for one array of weights.
        if any(weight_name(x) for x in operations):
            parts["operations"].refuse("operations without weights")
        arguments.append(Argument(parts["shape"].integers(1), operations))
    if len(arguments) != count:
        fields["arguments"].refuse(f"one record for each of {count} sources")
    function = IntegerFunction(tuple(arguments), _operations(fields["operations"]))
    try:
        _ = function.output_shape  # JAX raises for shapes that do not fit
    except (TypeError, ValueError):
        fields["operations"].refuse("operations that fit each other and the shape")
    return function


def _operations(entry: _Entry) -> tuple[Operation, ...]:
    if entry.value == []:
        return ()
    return tuple(map(_operation, entry.items()))


def _operation(entry: _Entry) -> Operation:
    kind = entry.kind(_OPERATIONS)
    fields = entry.fields("class", *kind._domains)
    if kind is Product:
        return Product(_array(fields["weight"], 2, 2), fields["shape"].integers(1))
    if kind is Factor:
        return Factor(_array(fields["factor"], 0, 0))
    if kind is Rearrangement:
        if fields["order"].value is not None:
            # quantize moves transpositions into the products beside them.
            fields["order"].refuse("null")
        return Rearrangement(None, fields["shape"].integers(1))
    if kind is Convolution:
        return _convolution(fields)
    return _pooling(MaxPooling if kind is MaxPooling else SumPooling, fields)


def _pooling(
    kind: type[SumPooling | MaxPooling], fields: dict[str, _Entry]
) -> Operation:
    window = fields["window"].integers(1)
    strides = fields["stride"].integers(1, len(window))
    padding = _paddings(fields["padding"], len(window))
    is_beyond = any(
        max(sides) >= size for sides, size in zip(padding, window, strict=True)
    )
    # A window outside of the array has no maximum.
    if kind is MaxPooling and is_beyond:
        fields["padding"].refuse("less than the window")
    return kind(window, strides, padding)


def _convolution(fields: dict[str, _Entry]) -> Convolution:
    weight = _array(fields["weight"], 3, 4)  # (outputs, inputs of a group, *kernel)
    places = len(weight.shape) - 2
    groups = fields["groups"].integer()
    if groups < 1:
        fields["groups"].refuse("an integer of at least 1")
    return Convolution(
        weight,
        fields["stride"].integers(1, places),
        _paddings(fields["padding"], places),
        fields["dilation"].integers(1, places),
        groups,
        _axes(fields["input_axes"], places + 2),
        _axes(fields["output_axes"], places + 2),
    )


def _axes(entry: _Entry, count: int) -> tuple[int, ...]:
    """Return the places of examples, channels, rows and columns in an array."""
    axes = entry.integers(0, count)
    if sorted(axes) != [*range(count)]:
        entry.refuse("all axes of the array, once each")
    return axes


def _paddings(entry: _Entry, count: int) -> tuple[Any, ...]:
    pairs = tuple(place.integers(0, 2) for place in entry.items())
    if len(pairs) != count:
        entry.refuse(f"{count} pairs of integers")
    return pairs


def _array(entry: _Entry, least_axes: int, most_axes: int) -> Any:
    """Return a weight or a bias: a :class:`Fixed`, or plain integers."""
    if isinstance(entry.value, dict) and {*entry.value} == {"integers"}:
        return entry.fields("integers")["integers"].array(least_axes, most_axes)
    fields = entry.fields("integers", *_FIXED)
    integers = fields["integers"].array(least_axes, most_axes)
    scale = fields["scale"].scale()
    low, high, step = (fields[name].integer() for name in _FIXED[1:])
    with named(entry.place):
        # Twice: the first raises for a scale of a wrong shape, by which the division would fail.
        weight = Fixed(integers, scale, low, high, step)
        weight = dataclasses.replace(weight, value=jnp.asarray(integers / scale))
    # Real weights are float32, so rounding may not return numbers that are too large for their
    # scale.
    if not np.array_equal(weight.integers, integers):
        fields["integers"].refuse(f"multiples of {step} from {low} to {high}")
    return weight
