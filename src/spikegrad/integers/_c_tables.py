"""The tables of a program in C.

Each record here is a struct of the same fields in ``_c_text.py``, in this order. A program runs one
operation for each edge. A weight with several operations, such as a convolution and the sums of its
windows, has a layer without neurons for each result between them.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._weights import (
    Convolution,
    Factor,
    MaxPooling,
    Operation,
    Product,
    Rearrangement,
    Shape,
)
from ..network import Network
from ._arithmetic import LARGEST
from ._c_text import ADDS, InputFormat
from ._cells import FixedLIF
from ._functions import run, without_repeats
from ._replay import INNER, IntegerEdge, IntegerLayer, chip_layers

# --- rows -----------------------------------------------------------------------------------------


class Place(NamedTuple):
    """The numbers of a parameter in its table: ``count`` of them from ``first``.

    Neuron ``n`` has the number ``first + n // run % count``. So one number of a layer has a count
    of 1, those of channels a run of ``rows * columns`` neurons, and those of neurons a run of 1.
    """

    first: int
    count: int  # type: ignore[assignment]  # the method of a tuple is not used
    run: int


class SourceRow(NamedTuple):
    """Inputs or a layer."""

    size: int
    """Its outputs in one step."""
    rows: int
    """The steps that its longest delay needs."""
    past: int
    """Where these outputs start in the array of past outputs."""
    first: int
    """Where its outputs of this step start, among all inputs or all layers."""


class LayerRow(NamedTuple):
    """A layer. Words are constants of the program."""

    edges: int
    states: int
    """Arrays of states, each with one number for each neuron."""
    most: int
    """The most spikes in a step, 0 for a readout or a join."""
    rule: str
    bits: int
    fraction: int
    rounding: str | int
    overflow: str | int
    reset: str | int
    offset: int
    """The bias of the cell, which all neurons share."""
    memory: int
    """The row of the table of adapting neurons."""
    leak: Place
    current_leak: Place
    threshold: Place
    bias: Place


FORMATS = "bits", "fraction", "rounding", "overflow", "reset"
"""The fields of a layer with the formats of its neurons, by their names in the cells."""


class MemoryRow(NamedTuple):
    """The parameters of neurons with an adaptation or a refractory period."""

    has_current: int
    adapts: int
    shift: int
    rest: int
    adaptation: Place
    adaptation_decay: Place


class EdgeRow(NamedTuple):
    """One operation on the outputs of a source."""

    source: int
    lag: int
    kind: str
    """``"DENSE"``, ``"SAME"``, ``"WINDOW"`` or ``"MAXIMUM"``."""
    bits: int = 0
    """The width of a weight."""
    first: int = 0
    """The place of the first weight in the table of this width."""
    factor: int = 1
    """A common factor of all weights."""
    window: int = 0
    """The row of the table of windows."""


class WindowRow(NamedTuple):
    """The geometry of a convolution or of a sum of windows."""

    inputs: list[int]
    """Channels, rows and columns, as in the next three fields."""
    in_step: list[int]
    """The distance of neighbours in the flat array."""
    outputs: list[int]
    out_step: list[int]
    kernel: list[int]
    """Rows and columns, as in the next three fields."""
    stride: list[int]
    padding: list[int]
    """Before the first row and column."""
    dilation: list[int]
    groups: int
    """0 for a sum."""


def count_numbers(rows: Any) -> int:
    """Return how many numbers of C the rows of a table have."""
    if not isinstance(rows, (list, tuple)):
        return 1
    return sum(map(count_numbers, rows))


class Parameters:
    """A table with a parameter of all layers: one number for a layer, a channel or a neuron."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def add(self, values: Any, shape: Shape) -> Place:
        """Add the numbers of a layer with neurons of this shape. Return their place."""
        first = sum(part.size for part in self.parts)
        values = without_repeats(np.asarray(values), shape)
        # Axes in front of the first that differs repeat all numbers, and those behind the last
        # repeat each number. For a number of each channel of (channels, rows, columns), ``begin``
        # is 0 and ``end`` is 1, so each is that of a run of rows * columns neurons.
        differing = [axis for axis, length in enumerate(values.shape) if length > 1]
        begin = end = 0  # one number for all neurons
        if differing:
            begin = differing[0]
            end = differing[-1] + 1
        # The axes between have their full length, so their numbers repeat in the table too.
        in_front = values.shape[:begin]
        behind = values.shape[end:]
        stored_shape = (*in_front, *shape[begin:end], *behind)
        numbers = np.broadcast_to(values, stored_shape).ravel()
        self.parts.append(numbers)
        return Place(first, numbers.size, math.prod(shape[end:]))

    def table(self) -> np.ndarray:
        """Return all numbers in the smallest type that has them."""
        numbers = np.concatenate(self.parts)
        # ~x is -1 - x: a signed type of the least number has also the largest, if both fit.
        least = min(numbers.min(initial=0), ~numbers.max(initial=0))
        return numbers.astype(np.min_scalar_type(least))


# --- operations of a program ----------------------------------------------------------------------

FREE = Factor, Rearrangement
"""Operations that an edge of a program does with its others: an array of C is flat, integers have
no transpositions, and an edge has a factor.
"""


def _nodes(layers: list[IntegerLayer]) -> list[IntegerLayer]:
    """Return the layers of the program, in the order of a step.

    An edge of the program has one operation with weights or windows, at most. Results between two
    of them are layers without neurons.
    """
    nodes: list[IntegerLayer] = []
    for layer in layers:
        edges = []
        for edge in layer.edges:
            *before, last = _parts(edge.operations)
            for operations in before:
                # The number makes the name unique, and INNER keeps it out of the header.
                name = f"{layer.name}{INNER}{len(nodes)}"
                part = edge._replace(operations=operations)
                shape = _shape_after(operations, edge.shape)
                zeros = np.zeros(shape, np.int64)
                nodes.append(IntegerLayer(name, None, (part,), zeros))
                # The delay is that of the first part. Later ones read the result of this step.
                edge = IntegerEdge(name, 0, (), shape)
            edges.append(edge._replace(operations=last))
        nodes.append(layer._replace(edges=tuple(edges)))
    return nodes


def _parts(operations: Sequence[Operation]) -> list[tuple[Operation, ...]]:
    """Return the operations in parts, each with one that is not free, at most."""
    parts: list[tuple[Operation, ...]] = [()]
    for operation in operations:
        is_full = not all(isinstance(x, FREE) for x in parts[-1])
        if is_full and not isinstance(operation, FREE):
            parts.append(())
        parts[-1] += (operation,)
    return parts


def _shape_after(operations: Sequence[Operation], shape: Shape) -> Shape:
    """Return the shape of the result. It has an axis of length 1, and so has ``shape``."""
    example = np.zeros((1, *shape), np.int64)
    return run(operations, example).shape[1:]


# --- windows --------------------------------------------------------------------------------------


def _axes_of_pooling(operation: Any) -> Shape:
    """Return the axes of channels and places of a sum or maximum of windows.

    Pooling has a window along each axis, and does not tell which one has the channels. Any axis
    with a window of 1 may be it, because no number of another channel is read.
    """
    axes = [*range(1, len(operation.window))]
    without_window = [
        axis
        for axis in axes
        if operation.window[axis] == operation.stride[axis] == 1
        and operation.padding[axis] == (0, 0)
    ]
    channels = without_window[:1] if len(axes) > 2 else []
    places = [axis for axis in axes if axis not in channels]
    if len(places) > 2 or operation.window[0] != 1:
        raise TypeError("to_c: a window must have at most two axes")
    # Without channels, the axis of length 1 in front is one channel.
    return (*(channels or (0,)), *places)


def window_of(operation: Any, shape: Shape) -> WindowRow:
    """Return the geometry of a convolution or of windows, for inputs of this shape."""
    result = _shape_after([operation], shape)
    # The axes of the user in this order: channels, then up to two axes of places.
    if isinstance(operation, Convolution):
        # The first axis is that of the examples.
        in_axes = operation.input_axes[1:]
        out_axes = operation.output_axes[1:]
        kernel = operation.weight.shape[2:]
        stride = operation.stride
        padding = operation.padding
        dilation = operation.dilation
        groups = operation.groups
    else:
        in_axes = out_axes = _axes_of_pooling(operation)
        places = in_axes[1:]
        kernel = [operation.window[axis] for axis in places]
        stride = [operation.stride[axis] for axis in places]
        padding = [operation.padding[axis] for axis in places]
        dilation = [1] * len(places)
        groups = 0
    missing = 3 - len(in_axes)  # without rows, there is one

    def of_places(values: Iterable[int], filler: int) -> list[int]:
        """Return two numbers, for rows and columns."""
        return [filler] * missing + [*values]

    def of_axes(values: Shape, axes: Shape, filler: int) -> list[int]:
        """Return three numbers, for channels, rows and columns."""
        channels, *places = (values[axis] for axis in axes)
        return [channels, *of_places(places, filler)]

    return WindowRow(
        inputs=of_axes(shape, in_axes, 1),
        # The program divides by the steps of inputs, so that of a missing axis is 1. It multiplies
        # by the steps of outputs.
        in_step=of_axes(_steps(shape), in_axes, 1),
        outputs=of_axes(result, out_axes, 1),
        out_step=of_axes(_steps(result), out_axes, 0),
        kernel=of_places(kernel, 1),
        stride=of_places(stride, 1),
        padding=of_places((low for low, _ in padding), 0),
        dilation=of_places(dilation, 1),
        groups=groups,
    )


def _steps(shape: Shape) -> Shape:
    """Return the distance of neighbours along each axis of a flat array."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def rows_of_kernel(convolution: Convolution) -> np.ndarray:
    """Return the weights of a convolution as rows of a table.

    A row has the weights of an input channel and a place of the kernel, for all output channels of
    its group.
    """
    weight = convolution.weight  # (outputs, inputs of a group, *kernel)
    groups = convolution.groups
    outputs = len(weight) // groups
    grouped = weight.reshape(groups, outputs, *weight.shape[1:])
    rows = np.moveaxis(grouped, 1, -1)  # (groups, inputs, *kernel, outputs of a group)
    return rows.reshape(-1, rows.shape[-1])


# --- the program ----------------------------------------------------------------------------------


class Program:
    """The tables of a network, filled layer by layer."""

    def __init__(self, network: Network, form: InputFormat) -> None:
        self.form = form
        self.layers = chip_layers("to_c", network)
        self.with_cells = [layer for layer in self.layers if layer.cell is not None]
        """The layers that are no joins."""
        self.nodes = _nodes(self.layers)
        self.inputs = network.graph.inputs
        self.outputs = network.graph.outputs
        # The outputs of each source in one step. An edge has the size of the inputs that it reads.
        self.sizes = {
            edge.source: math.prod(edge.shape)
            for layer in self.layers
            for edge in layer.edges
        }
        # Nodes have their own sizes, also the inner ones of a weight.
        self.sizes |= {node.name: node.bias.size for node in self.nodes}
        self.sources = [*self.inputs, *(node.name for node in self.nodes)]
        edges = [edge for node in self.nodes for edge in node.edges]
        # Neurons with an adaptation or a refractory period add tables of their own.
        names = "leak", "threshold", "bias"
        self.parameters = collections.defaultdict(
            Parameters, {name: Parameters() for name in names}
        )
        self.memory_rows: list[MemoryRow] = []
        """The rows of neurons with an adaptation or a refractory period."""
        self.weights: dict[int, list[np.ndarray]] = {}
        """The weights of each width, of all edges."""
        self.windows: list[WindowRow] = []
        self.operations = 0
        """The most products and sums of a step, if no input is 0 and all neurons fire."""
        self.layer_rows = [self._layer_row(node) for node in self.nodes]
        self.edge_rows = [self._edge_row(edge) for edge in edges]
        self.source_rows = self._source_rows(edges)

    # --- layers

    def _layer_row(self, node: IntegerLayer) -> LayerRow:
        cell: Any = _Linear() if node.cell is None else node.cell
        shape = node.bias.shape
        fires = cell.threshold is not None
        rule = type(cell).__name__.strip("_").upper()
        memory = 0
        if getattr(cell, "has_memory_of_spikes", False):
            rule = "ADAPTING"
            memory = len(self.memory_rows)
            self.memory_rows.append(self._memory_row(cell, shape))
        leak, current_leak = cell.leaks
        return LayerRow(
            edges=len(node.edges),
            states=len(cell.state_names),
            most=cell.n if fires else 0,
            rule=rule,
            # The rules of chips do not read the formats that they lack. 0 is the first of each.
            **{name: getattr(cell, name, 0) for name in FORMATS},
            offset=getattr(cell, "bias", 0),
            memory=memory,
            leak=self.parameters["leak"].add(leak, shape),
            current_leak=self.parameters["leak"].add(current_leak, shape),
            threshold=self.parameters["threshold"].add(
                cell.threshold if fires else 0, shape
            ),
            bias=self.parameters["bias"].add(node.bias, shape),
        )

    def _memory_row(self, cell: FixedLIF, shape: Shape) -> MemoryRow:
        tables = self.parameters
        return MemoryRow(
            has_current=int(cell.synaptic_decay is not None),
            adapts=int(cell.adaptation is not None),
            shift=cell.adaptation_fraction,
            rest=cell.refractory,
            # A table without numbers would be an empty array, which C does not have.
            adaptation=tables["adaptation"].add(cell.adaptation or 0, shape),
            adaptation_decay=tables["adaptation_decay"].add(
                cell.adaptation_decay or 0, shape
            ),
        )

    def _source_rows(self, edges: list[IntegerEdge]) -> list[SourceRow]:
        rows: list[SourceRow] = []
        past = first = 0
        for name in self.sources:
            if name == self.nodes[0].name:
                first = 0  # the outputs of layers are an array of their own
            # A source remembers as many outputs as its longest delay.
            lags = [edge.lag for edge in edges if edge.source == name]
            longest = max(lags, default=0)
            row = SourceRow(self.sizes[name], longest, past, first)
            rows.append(row)
            past += row.size * row.rows
            first += row.size
        return rows

    # --- edges

    def _edge_row(self, edge: IntegerEdge) -> EdgeRow:
        source = self.sources.index(edge.source)
        factors = [int(x.factor) for x in edge.operations if isinstance(x, Factor)]
        row = EdgeRow(source, edge.lag, "SAME", factor=math.prod(factors))
        places = [n for n, x in enumerate(edge.operations) if not isinstance(x, FREE)]
        if not places:
            self.operations += math.prod(edge.shape)
            return row
        (place,) = places
        operation: Any = edge.operations[place]
        if isinstance(operation, Product):
            self.operations += operation.weight.size
            return self._with_weights(row._replace(kind="DENSE"), operation.weight)
        shape = _shape_after(edge.operations[:place], edge.shape)
        window = window_of(operation, shape)
        row = row._replace(kind="WINDOW", window=len(self.windows))
        self.windows.append(window)
        # The reads of all outputs of a channel.
        reads = math.prod(window.outputs[1:]) * math.prod(window.kernel)
        if isinstance(operation, Convolution):
            outputs, inputs = operation.weight.shape[:2]
            self.operations += reads * outputs * inputs
            return self._with_weights(row, rows_of_kernel(operation))
        self.operations += reads * window.outputs[0]
        if isinstance(operation, MaxPooling):
            self._check_maximum(edge)
            row = row._replace(kind="MAXIMUM")
        return row._replace(bits=8)  # a width that is always there, and no weights

    def _check_maximum(self, edge: IntegerEdge) -> None:
        """Raise for a maximum of present inputs in a packed form, which has no array of numbers."""
        is_present_input = edge.source in self.inputs and not edge.lag
        if is_present_input and self.form.kind != "int32":
            raise TypeError(
                f"to_c: maxima of the windows of {edge.source!r} need inputs='int32'"
            )

    def _with_weights(self, row: EdgeRow, weight: np.ndarray) -> EdgeRow:
        """Add a matrix to the table of its width, without the common factor of its numbers."""
        # Weights of Loihi are even, for example, so without their factor they need a bit less.
        common = int(np.gcd.reduce(weight, axis=None)) or 1
        numbers = weight // common
        # A width has the numbers from -half to half - 1.
        least, most = numbers.min(initial=0), numbers.max(initial=0)
        half = max(-int(least), int(most) + 1)
        width = next(n for n in ADDS if half <= 2 ** (n - 1))
        parts = self.weights.setdefault(width, [])
        first = sum(part.size for part in parts)
        elements = _packed(numbers, width) if width < 8 else numbers.ravel()
        parts.append(elements)
        return row._replace(bits=width, first=first, factor=row.factor * common)

    # --- sizes

    def tables(self) -> dict[str, np.ndarray]:
        """Return the tables of parameters and weights, in the types that they have in C."""
        tables = {name: x.table() for name, x in self.parameters.items()}
        for width, parts in sorted(self.weights.items()):
            tables[f"weight{width}"] = np.concatenate(parts).astype(kind_of(width))
        return tables

    @property
    def table_bytes(self) -> int:
        """The bytes of all tables."""
        rows = (
            self.source_rows,
            self.layer_rows,
            self.edge_rows,
            self.windows,
            self.memory_rows,
            [*self.outputs],
        )
        # The fields of structs are int32.
        tables = sum(table.nbytes for table in self.tables().values())
        return 4 * count_numbers(rows) + tables

    @property
    def state_bytes(self) -> int:
        """The bytes of the state."""
        # A struct starts and ends at multiples of 4 bytes.
        values = 4 * math.ceil(self.states * self.state_bits / 32)
        return values + 4 * (self.past + len(self.sources) + self.neurons)

    @property
    def input_size(self) -> int:
        return sum(self.sizes[name] for name in self.inputs)

    @property
    def input_length(self) -> int:
        """The elements of the array of inputs."""
        return math.ceil(self.input_size / self.form.per_element)

    @property
    def output_size(self) -> int:
        return sum(self.sizes[name] for name in self.outputs)

    @property
    def state_bits(self) -> int:
        """The bits of a number of the state, 16 if all states of all neurons have them."""
        # Steps of rest always have at most 16 bits.
        return 16 if all(layer.cell.bits <= 16 for layer in self.with_cells) else 32

    @property
    def neurons(self) -> int:
        return sum(node.bias.size for node in self.nodes)

    @property
    def states(self) -> int:
        """The numbers of all states. C has no empty arrays, so there is one at least."""
        sizes = (x.bias.size * len(x.cell.state_names) for x in self.with_cells)
        return max(sum(sizes), 1)

    @property
    def past(self) -> int:
        """The outputs of earlier steps that delays need, one at least."""
        return max(sum(row.size * row.rows for row in self.source_rows), 1)

    def largest_input(self) -> int:
        """Return the largest input for which float32 and 32 bits have all sums of a current."""
        # For inputs up to x, an output is at most constant + slope * x, and so is the sum of the
        # sizes of the products of a current. This sum must be up to LARGEST.
        # A delayed join may come later in the order of a step, so it starts with the largest.
        constants = {name: LARGEST for name in self.sources}
        constants |= {layer.name: layer.cell.n for layer in self.with_cells}
        constants |= dict.fromkeys(self.inputs, 0)
        slopes = dict.fromkeys(self.sources, 0)
        slopes |= dict.fromkeys(self.inputs, 1)
        largest = LARGEST
        for layer in self.layers:
            constant = np.abs(layer.bias)
            slope = np.zeros_like(layer.bias)
            for edge in layer.edges:
                # The sum of the sizes of the weights of each neuron, for an input of 1.
                ones = np.ones((1, *edge.shape), np.int64)
                sums = edge.absolute().run(ones)[0]
                constant = constant + constants[edge.source] * sums
                slope = slope + slopes[edge.source] * sums
            room = np.maximum(LARGEST - constant, 0) // np.maximum(slope, 1)
            limits = room[slope > 0]  # of the neurons that read inputs
            largest = min(largest, int(limits.min(initial=LARGEST)))
            if layer.cell is None:
                constants[layer.name] = int(constant.max(initial=0))
                slopes[layer.name] = int(slope.max(initial=0))
        return largest


class _Linear:
    """The parameters of a sum without neurons."""

    leaks = 0, 0
    threshold = None
    state_names = ()
    n = 0


def kind_of(width: int) -> str:
    """Return the type of an element with weights of this width, without ``_t``."""
    return "uint8" if width < 8 else f"int{width}"


def _packed(weight: np.ndarray, width: int) -> np.ndarray:
    """Return bytes with several weights each, the first in the low bits. A row starts a byte."""
    per_byte = 8 // width
    rows, size = weight.shape
    # Two's complement: -1 in 4 bits is 15. A row ends with zeros up to a full byte.
    padded_size = math.ceil(size / per_byte) * per_byte
    codes = np.zeros((rows, padded_size), np.int64)
    codes[:, :size] = weight & (2**width - 1)
    by_byte = codes.reshape(rows, -1, per_byte)
    shifts = width * np.arange(per_byte)
    return (by_byte << shifts).sum(-1).ravel()
