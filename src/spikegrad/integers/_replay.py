"""A network in integers of NumPy, without JAX.

:func:`integer_layers` checks a network and returns its layers as plain records. The replay, the
programs in C, the files and the report of :func:`~spikegrad.integers.quantize` all read these, so
they agree on what a network of integers is.

All numbers are int64. A state has up to 24 bits, and the sizes of the products of a current add up
to at most 2**24, so no sum here comes near 2**63.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._checks import broadcasts
from .._weights import LINEAR, Operation, Product, Shape
from ..network import Edge, Join, Layer, Network
from ._arithmetic import LARGEST
from ._cells import CHIPS, IntegerCell
from ._fixed import Fixed
from ._functions import IntegerFunction, run, with_weights

INNER = "\0"
"""A part of the name of a sum within a join. No layer of a user has it."""


class IntegerEdge(NamedTuple):
    """A weight as operations of integers, and the delay of its inputs."""

    source: str
    lag: int
    operations: tuple[Operation, ...]
    """With weights of int64, such as the product with a matrix."""
    shape: Shape
    """The shape of one example of the source, with an axis of length 1 in front."""

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the current ``(batch, ...)`` for outputs of the source."""
        examples = x.reshape(len(x), *self.shape)
        return run(self.operations, examples)[:, 0]

    @property
    def neurons(self) -> Shape:
        """The shape of the neurons that it drives."""
        # The operations have no rule for shapes without JAX, so a run on zeros shows it.
        zeros = np.zeros((1, *self.shape), np.int64)
        return self.run(zeros).shape[1:]

    def absolute(self) -> IntegerEdge:
        """Return the edge with the sizes of its weights.

        For inputs of at least 0, its currents are the sums of the sizes of the products.
        """
        return self._replace(operations=with_weights(self.operations, np.abs))


class IntegerLayer(NamedTuple):
    """A layer or a join without JAX."""

    name: str
    cell: Any
    """None for a join, whose output is the sum of its edges."""
    edges: tuple[IntegerEdge, ...]
    bias: np.ndarray
    """One number for each neuron, in their shape."""


def integer_layers(owner: str, network: Network) -> list[IntegerLayer]:
    """Return the nodes in the order of a step, or raise for the first that has no integers."""
    layers: list[IntegerLayer] = []
    graph = network.graph
    for name, node in graph.nodes.items():
        if isinstance(node, Join):
            place = f"{owner}: join {name!r}"
            layers += _join_layers(place, name, node, graph.edges[name])
        else:
            place = f"{owner}: layer {name!r}"
            connections = graph.connections(name)
            layers.append(_integer_layer(place, name, node, connections))
    # A readout divides its potential by a unit, so its outputs are no integers.
    readouts = {name for name, layer in graph.layers.items() if is_readout(layer.cell)}
    for layer in layers:
        if read := readouts & {edge.source for edge in layer.edges}:
            raise TypeError(
                f"{owner}: {_described(layer)} reads the real outputs of the readout {min(read)!r}"
            )
    _check_sizes(owner, layers, graph.inputs)
    return layers


def is_readout(cell: object) -> bool:
    """Return True for an integer cell that never fires."""
    # The cell of a join is None, which has no threshold and is no readout.
    return getattr(cell, "threshold", 1) is None


def _integer_layer(
    place: str, name: str, layer: Layer, connections: Iterable[tuple[Edge, Any]]
) -> IntegerLayer:
    cell = layer.cell
    if not isinstance(cell, IntegerCell):
        raise TypeError(
            f"{place} has a {type(cell).__name__}, not a cell on integers. Call quantize first"
        )
    edges = tuple(
        IntegerEdge(edge.source, edge.lags[0], *_operations(place, weight))
        for edge, weight in connections
    )
    bias = _integers(place, 0 if layer.bias is None else layer.bias)
    neurons = edges[0].neurons
    try:
        bias = np.broadcast_to(bias, neurons)
    except ValueError:
        raise ValueError(
            f"{place} must have a bias for {neurons} neurons, got shape {bias.shape}"
        ) from None
    return IntegerLayer(name, cell, edges, bias)


def _join_layers(
    place: str, name: str, join: Join, edges: Sequence[Edge]
) -> list[IntegerLayer]:
    """Return a join as a layer. A maximum of a sum needs another one for the sum."""
    function = join.function
    if not isinstance(function, IntegerFunction):
        raise TypeError(
            f"{place} must have a function of integers. Call quantize first"
        )
    convert = functools.partial(_integers, place)
    last = with_weights(function.operations, convert)
    before = [
        IntegerEdge(edge.source, edge.lags[0], argument.operations, argument.shape)
        for edge, argument in zip(edges, function.arguments, strict=True)
    ]
    is_linear = all(isinstance(x, LINEAR) for x in last)
    if len(before) == 1 or is_linear:
        # f(a + b) is f(a) + f(b), so each source may have the operations before the sum.
        each = [edge._replace(operations=edge.operations + last) for edge in before]
        return [_sum_layer(name, each)]
    total = _sum_layer(f"{name}{INNER}", before)
    edge = IntegerEdge(total.name, 0, last, (1, *total.bias.shape))
    return [total, _sum_layer(name, [edge])]


def _sum_layer(name: str, edges: list[IntegerEdge]) -> IntegerLayer:
    zeros = np.zeros(edges[0].neurons, np.int64)
    return IntegerLayer(name, None, tuple(edges), zeros)


def _described(layer: IntegerLayer) -> str:
    kind = "join" if layer.cell is None else "layer"
    return f"{kind} {layer.name.removesuffix(INNER)!r}"


def chip_layers(owner: str, network: Network) -> list[IntegerLayer]:
    """Return the layers, or raise for a cell whose rule only its own class knows."""
    layers = integer_layers(owner, network)
    for layer in layers:
        # A subclass may have other equations.
        if layer.cell is not None and type(layer.cell) not in CHIPS:
            raise TypeError(
                f"{owner}: layer {layer.name!r} has a {type(layer.cell).__name__}. Use "
                f"{', '.join(cell.__name__ for cell in CHIPS)}"
            )
    return layers


def _check_sizes(
    owner: str, layers: list[IntegerLayer], inputs: tuple[str, ...]
) -> None:
    """Raise for the first weight or parameter that does not fit the numbers of neurons."""
    shapes = {layer.name: layer.bias.shape for layer in layers}
    for layer in layers:
        place = f"{owner}: {_described(layer)}"
        for edge in layer.edges:
            # The first layer that reads an input sets its shape.
            expected = shapes.setdefault(edge.source, edge.shape[1:])
            _check_edge(place, edge, expected, shapes[layer.name])
        if layer.cell is not None:
            _check_parameters(place, layer.cell, shapes[layer.name])
    if unread := [name for name in inputs if name not in shapes]:
        raise ValueError(f"{owner}: no layer reads {unread[0]!r}. Remove these inputs")


def _check_edge(place: str, edge: IntegerEdge, inputs: Shape, neurons: Shape) -> None:
    if edge.shape[1:] != inputs:
        raise ValueError(
            f"{place} must read {edge.source!r} by a weight for {inputs} inputs, got one for "
            f"{edge.shape[1:]}"
        )
    if edge.neurons != neurons:
        raise ValueError(
            f"{place} must read {edge.source!r} by a weight for {neurons} neurons, got one for "
            f"{edge.neurons}"
        )


def _check_parameters(place: str, cell: Any, neurons: Shape) -> None:
    for field in (*cell.integer_domains, "unit"):
        parameters = np.shape(getattr(cell, field))
        if not broadcasts(parameters, neurons):
            raise ValueError(
                f"{place} must have one {field} for all of {neurons} neurons, or an array that "
                f"broadcasts to them, got shape {parameters}"
            )


def _operations(place: str, weight: Any) -> tuple[tuple[Operation, ...], Shape]:
    """Return a weight as operations of integers, and the shape of its input."""
    if isinstance(weight, IntegerFunction):
        convert = functools.partial(_integers, place)
        return with_weights(weight.operations, convert), weight.arguments[0].shape
    # An array is a matrix (inputs, neurons), as a call of the network takes it.
    matrix = _integers(place, weight)
    if matrix.ndim != 2:
        raise ValueError(f"{place} must have matrices, got shape {matrix.shape}")
    inputs, neurons = matrix.shape
    # Shapes of an example have an axis of length 1 in front, as functions have.
    product = Product(matrix, (1, neurons))
    return (product,), (1, inputs)


def _integers(place: str, weight: Any) -> np.ndarray:
    if isinstance(weight, Fixed):
        return weight.integers
    if callable(weight):
        raise TypeError(
            f"{place} must have weights of integers, fixed(weight), got a function. Call quantize"
        )
    array = np.asarray(weight)
    if (number := _first_refused(array)) is not None:
        raise TypeError(
            f"{place} must have weights of integers up to {LARGEST} in size, fixed(weight), got "
            f"{number:g}"
        )
    return array.astype(np.int64)


def by_name(names: Sequence[str], arrays: Any) -> Mapping[str, Any]:
    """Return the inputs or outputs of a network by name. A network with one has no dict of them."""
    return arrays if isinstance(arrays, Mapping) else {names[0]: arrays}


def whole_inputs(owner: str, inputs: Any, mask: Any = None) -> np.ndarray:
    """Return the inputs of valid steps as int64, or raise if float32 has not these integers."""
    array = np.asarray(inputs)
    if mask is not None:  # padding may be NaN
        # (steps, batch, ...) becomes (valid steps of all examples, ...).
        array = array[np.asarray(mask, bool)]
    if (number := _first_refused(array)) is not None:
        raise ValueError(
            f"{owner}: inputs must be integers up to {LARGEST} in size, such as spikes or counts, "
            f"got {number:g}. See spikegrad.data.rate_encoding and latency_encoding"
        )
    return array.astype(np.int64)


def _first_refused(array: np.ndarray) -> np.number | None:
    """Return the first number that is not an integer up to ``LARGEST`` in size, or None."""
    # Without abs, because the least number of int64 has no positive one.
    is_large = (array > LARGEST) | (array < -LARGEST)
    # The remainder of NaN and of infinity is NaN, which is not 0 either.
    refused = array[(array % 1 != 0) | is_large]
    return refused[0] if refused.size else None


def replay(network: Network, inputs: Any) -> tuple[dict[str, Any], Any]:
    """Run a network of integers in NumPy, with the integer arithmetic of a chip or a C program.

    Use it to check the network in JAX, whose spikes and states are equal, and to detect overflows.

    Parameters
    ----------
    network : Network
        A network of integer cells (:class:`FixedLIF`, :class:`Loihi`, :class:`Xylo`) with weights
        of :class:`Fixed` or integers. It comes from :func:`quantize` or :func:`load`, or you write
        it by hand. Joins and functions as weights are supported only in results of
        :func:`quantize`.
    inputs : array of int or dict
        The inputs of the network, integers such as spikes or counts: ``(steps, batch, inputs)``, or
        ``(steps, batch, ...)`` for functions as weights. A dict if the network has several inputs.

    Returns
    -------
    states : dict
        The state of each cell after the last time step, int64.
    outputs : array or dict
        The outputs of the network: spikes as int64, and potentials of a readout as float32.

    Raises
    ------
    OverflowError
        If a state does not fit into its bits in a cell with ``overflow="error"``. Also if the
        absolute values of inputs times weights of a neuron add up to more than :math:`2^{24}`,
        because float32 cannot add them exactly. The message names the layer, the time step and the
        value.
    TypeError
        If a join, a cell or a weight does not compute with integers.
    ValueError
        If an input is not an integer or its absolute value is above :math:`2^{24}`, or if the sizes
        of layers do not fit each other.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from spikegrad import Layer, Network
    >>> from spikegrad.integers import FixedLIF, fixed, replay
    >>> cell = FixedLIF(decay=4000, threshold=100)
    >>> network = Network([Layer(fixed(jnp.array([[0.6]]), scale=100.0), cell)])
    >>> states, spikes = replay(network, np.ones((4, 1, 1), int))
    >>> spikes[:, 0, 0].tolist(), states["0"].tolist()
    ([0, 1, 0, 1], [[0]])
    """
    layers = integer_layers("replay", network)
    integer_inputs = {
        name: whole_inputs("replay", x)
        for name, x in by_name(network.graph.inputs, inputs).items()
    }
    # Outputs of all steps by source, (batch, neurons) each.
    history: dict[str, list[np.ndarray]] = {
        name: [*x] for name, x in integer_inputs.items()
    }
    first = history[network.graph.inputs[0]]
    batch = len(first[0])
    states: dict[str, Any] = {}
    for layer in layers:
        history[layer.name] = []
        if layer.cell is not None:
            zeros = np.zeros((batch, *layer.bias.shape), np.int64)
            count = len(layer.cell.state_names)
            states[layer.name] = (zeros,) * count if count > 1 else zeros
    # A bound from the largest inputs avoids the check of each step for most layers.
    is_exact = {
        name: x <= LARGEST for name, x in largest_sums(layers, integer_inputs).items()
    }
    for step in range(len(first)):
        for layer in layers:
            # Layers are in the order of a step, so an edge without a delay finds its outputs.
            name = layer.name
            # Outputs before the first step are zeros.
            reads = [
                Read(edge, history[edge.source][step - edge.lag])
                for edge in layer.edges
                if edge.lag <= step
            ]
            # All edges may be delayed, and then the first steps have no current but the bias.
            current = np.broadcast_to(layer.bias, (batch, *layer.bias.shape))
            current = sum((edge.run(x) for edge, x in reads), current)
            where = f"replay: layer {name!r}, step {step}:"
            if not is_exact[name]:
                _check_sums(where, reads, layer.bias)
            if layer.cell is None:
                history[name].append(current)
                continue
            u = layer.cell.integrate(states[name], current)
            # With overflow="error" a potential may not fit, and the reset in fire could hide it.
            _check_state(where, layer.cell, u)
            states[name], out = layer.cell.fire(u)
            history[name].append(out)
    outputs = network.graph.outputs
    sequences = {name: np.stack(history[name]) for name in outputs}
    if isinstance(network.outputs, str | None):
        return states, sequences[outputs[0]]
    return states, sequences


class Read(NamedTuple):
    """An edge in one step."""

    edge: IntegerEdge
    outputs: np.ndarray
    """``(batch, ...)``, of the source, ``edge.lag`` steps before."""


# --- bounds ---------------------------------------------------------------------------------------


def largest_sums(
    layers: list[IntegerLayer], inputs: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """Return the largest sum of sizes of products of each layer, for inputs up to these."""
    largest = {
        name: int(np.abs(sequence).max(initial=0)) for name, sequence in inputs.items()
    }
    # A neuron has up to n spikes in a step, whatever its current is.
    largest |= {layer.name: layer.cell.n for layer in layers if layer.cell is not None}
    sums = {}
    for layer in layers:
        # A delayed join may come later in the order of a step.
        sizes = [largest.get(edge.source, LARGEST) for edge in layer.edges]
        reads = [
            Read(edge, np.full((1, *edge.shape), size, np.int64))
            for edge, size in zip(layer.edges, sizes, strict=True)
        ]
        sums[layer.name] = _largest_sum(reads, layer.bias)
        # The outputs of a join are its sums.
        largest.setdefault(layer.name, sums[layer.name])
    return sums


def _largest_sum(reads: Iterable[Read], bias: np.ndarray) -> int:
    """Return the largest of |b| + sum of |w x| over the edges, among all neurons and examples."""
    sizes = (edge.absolute().run(np.abs(x)) for edge, x in reads)
    total = sum(sizes, np.abs(bias))
    return int(total.max(initial=0))


def _check_sums(where: str, reads: Iterable[Read], bias: np.ndarray) -> None:
    """Raise if a part of the sum of a current may need more than 24 bits.

    Large products of both signs may cancel in the sum, but the order of a sum is unknown.
    """
    largest = _largest_sum(reads, bias)
    if largest > LARGEST:
        raise OverflowError(
            f"{where} the products of the current have sizes that add up to {largest}, above "
            f"{LARGEST}, so float32 rounds them. Use a smaller scale"
        )


def _check_state(where: str, cell: IntegerCell, state: Any) -> None:
    low, high = cell.limits
    parts = cell.parts_of(state)
    # The counter of a refractory period has a type of its own, whatever the bits of the cell.
    parts.pop("steps left", None)
    values = np.stack([*parts.values()])
    outside = values[(values < low) | (values > high)]
    if outside.size:
        raise OverflowError(
            f"{where} the state {outside[0]} is outside of {low} to {high}. Use a smaller scale"
        )
