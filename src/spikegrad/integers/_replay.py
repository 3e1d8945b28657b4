"""A network in integers of NumPy, without JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._checks import named
from ..network import Network
from ._arithmetic import LARGEST
from ._cells import CHIPS, IntegerCell
from ._fixed import Fixed


class IntegerEdge(NamedTuple):
    """A matrix of integers, and the delay of its inputs."""

    source: str
    lag: int
    weight: np.ndarray
    """``(inputs, neurons)``."""


class IntegerLayer(NamedTuple):
    """A layer without JAX."""

    name: str
    cell: Any
    edges: tuple[IntegerEdge, ...]
    bias: np.ndarray
    """``(neurons,)``."""


def integer_layers(owner: str, network: Network) -> list[IntegerLayer]:
    """Return the layers in the order of a step, or raise for the first that has no integers."""
    layers, graph = [], network.graph
    readouts = {
        name
        for name, layer in graph.layers.items()
        if getattr(layer.cell, "threshold", 1) is None
    }
    for name, node in graph.nodes.items():
        place = f"{owner}: layer {name!r}"
        cell = getattr(node, "cell", node)  # a join has none
        if not isinstance(cell, IntegerCell):
            raise TypeError(
                f"{place} has a {type(cell).__name__}, not a cell on integers; call quantize first"
            )
        edges = tuple(
            IntegerEdge(edge.source, edge.lags[0], _integers(place, weight))
            for edge, weight in graph.connections(name)
        )
        for edge in edges:
            if edge.source in readouts:
                raise TypeError(
                    f"{place} reads the real outputs of the readout {edge.source!r}"
                )
        bias = _integers(place, 0 if node.bias is None else node.bias)
        neurons = edges[0].weight.shape[1:]
        with named(place):
            bias = np.broadcast_to(bias, neurons)
        layers.append(IntegerLayer(name, cell, edges, bias))
    _check_sizes(owner, layers, graph.inputs)
    return layers


def chip_layers(owner: str, network: Network) -> list[IntegerLayer]:
    """Return the layers, or raise for a cell whose rule only its own class knows."""
    layers = integer_layers(owner, network)
    for layer in layers:
        # A subclass may have other equations.
        if type(layer.cell) not in CHIPS:
            raise TypeError(
                f"{owner}: layer {layer.name!r} has a {type(layer.cell).__name__}; use "
                f"{', '.join(cell.__name__ for cell in CHIPS)}"
            )
    return layers


def _check_sizes(
    owner: str, layers: list[IntegerLayer], inputs: tuple[str, ...]
) -> None:
    """Raise for the first weight or parameter that does not fit the numbers of neurons."""
    sizes = {layer.name: layer.bias.size for layer in layers}
    for name, cell, edges, _ in layers:
        place = f"{owner}: layer {name!r}"
        for source, _, weight in edges:
            # The first layer that reads an input sets the number of inputs.
            shape = sizes.setdefault(source, len(weight)), sizes[name]
            if weight.shape != shape:
                raise ValueError(
                    f"{place} must read {source!r} by a matrix of shape {shape}, got "
                    f"{weight.shape}"
                )
        for field in cell.integer_names:
            count = np.size(getattr(cell, field))
            if count not in (1, sizes[name]):
                raise ValueError(
                    f"{place} must have one {field} for each of {sizes[name]} neurons, got {count}"
                )
    if unread := [name for name in inputs if name not in sizes]:
        raise ValueError(f"{owner}: no layer reads {unread[0]!r}; remove these inputs")


def _integers(place: str, weight: Any) -> np.ndarray:
    if isinstance(weight, Fixed):
        return weight.integers
    if callable(weight):
        raise TypeError(
            f"{place} must have weights of integers, fixed(weight), got a function"
        )
    array = np.asarray(weight)
    refused = array[(array % 1 != 0) | _is_large(array)]
    if refused.size:
        raise TypeError(
            f"{place} must have weights of integers up to {LARGEST} in size, fixed(weight), got "
            f"{refused[0]:g}"
        )
    return array.astype(np.int64)


def whole_inputs(owner: str, inputs: Any, mask: Any = None) -> np.ndarray:
    """Return the inputs of valid steps as int64, or raise if float32 has not these integers."""
    array = np.asarray(inputs)
    # Padding may be NaN.
    array = array if mask is None else array[np.asarray(mask, bool)]
    refused = array[(array % 1 != 0) | _is_large(array)]
    if refused.size:
        raise ValueError(
            f"{owner}: inputs must be integers up to {LARGEST} in size, such as spikes or counts, "
            f"got {refused[0]:g}; see spikegrad.data.rate_encoding and latency_encoding"
        )
    return array.astype(np.int64)


def _is_large(array: np.ndarray) -> np.ndarray:
    # Without abs, because the least number of int64 has no positive one.
    return (array > LARGEST) | (array < -LARGEST)


def replay(network: Network, inputs: Any) -> tuple[dict[str, Any], Any]:
    """Run a network of integers in NumPy, as a chip or a program in C does.

    Parameters
    ----------
    network : Network
        Layers of integer cells, with weights of :class:`Fixed` or integers. From :func:`quantize`,
        :func:`load`, or written by hand.
    inputs : array of int or dict
        As in a call of the network: ``(steps, batch, inputs)``, spikes or counts.

    Returns
    -------
    states : dict
        The last state of each cell, int64.
    outputs : array or dict
        As the network returns them: spikes as int64, and potentials of a readout as float32.

    Raises
    ------
    OverflowError
        If a state leaves its width and neither wraps nor saturates, or if the sizes of the
        products of a current add up to more than :math:`2^{24}`, so that their sum in float32
        depends on its order. The message names the layer, the step and the value.
    TypeError
        If a layer has a join, a cell or a weight that is not made of integers.
    ValueError
        If an input is not an integer up to :math:`2^{24}` in size, or if sizes of layers differ.

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
    first, outputs = network.graph.inputs[0], network.graph.outputs
    inputs = {first: inputs} if isinstance(network.inputs, str) else inputs
    inputs = {name: whole_inputs("replay", x) for name, x in inputs.items()}
    # Outputs of all steps by source, (batch, neurons) each.
    history = {name: [*x] for name, x in inputs.items()}
    batch, states = history[first][0].shape[:-1], {}
    for name, cell, _, bias in layers:
        zeros = np.zeros(batch + bias.shape, np.int64)
        states[name] = (zeros, zeros) if len(cell.state_names) > 1 else zeros
        history[name] = []
    largest = {name: int(np.abs(x).max(initial=0)) for name, x in inputs.items()}
    largest |= {layer.name: layer.cell.n for layer in layers}
    is_exact = {layer.name: _has_exact_sums(layer, largest) for layer in layers}
    for step in range(len(history[first])):
        for layer in layers:
            name, cell, edges, bias = layer
            # Outputs before the first step are zeros.
            reads = [
                (history[edge.source][step - edge.lag], edge.weight)
                for edge in edges
                if edge.lag <= step
            ]
            current = sum((x @ weight for x, weight in reads), bias)
            where = f"replay: layer {name!r}, step {step}:"
            if not is_exact[name]:
                _check_sums(where, reads, bias)
            u = cell.integrate(states[name], current)
            _check_state(where, u, *cell.limits)
            states[name], out = cell.fire(u)
            history[name].append(out)
    sequences = {name: np.stack(history[name]) for name in outputs}
    is_single = isinstance(network.outputs, str | None)
    return states, sequences[outputs[0]] if is_single else sequences


def _has_exact_sums(layer: IntegerLayer, largest: dict[str, int]) -> bool:
    """Return True if float32 adds the current in any order, for inputs up to these sizes."""
    sums = np.abs(layer.bias)
    for source, _, weight in layer.edges:
        sums = sums + largest[source] * np.abs(weight).sum(0)
    return sums.max(initial=0) <= LARGEST


def _check_sums(
    where: str, reads: list[tuple[np.ndarray, np.ndarray]], bias: np.ndarray
) -> None:
    """Raise if a part of the sum of a current may need more than 24 bits.

    Large products of both signs may cancel in the sum, but the order of a sum is unknown.
    """
    sums = sum((np.abs(x) @ np.abs(weight) for x, weight in reads), np.abs(bias))
    if sums.max(initial=0) > LARGEST:
        raise OverflowError(
            f"{where} the products of the current have sizes that add up to {sums.max()}, above "
            f"{LARGEST}, so float32 rounds them; use a smaller scale"
        )


def _check_state(where: str, state: Any, low: int, high: int) -> None:
    values = np.asarray(state)  # of two arrays too
    outside = values[(values < low) | (values > high)]
    if outside.size:
        raise OverflowError(
            f"{where} the state {outside[0]} is outside of {low} to {high}; use a smaller scale"
        )
