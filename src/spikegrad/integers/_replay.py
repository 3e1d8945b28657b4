"""A network in integers of NumPy, without JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..network import Network
from ._arithmetic import LARGEST
from ._cells import IntegerCell
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
        layers.append(IntegerLayer(name, cell, edges, np.broadcast_to(bias, neurons)))
    return layers


def _integers(place: str, weight: Any) -> np.ndarray:
    if isinstance(weight, Fixed):
        return weight.integers
    array = np.asarray(weight)
    if callable(weight) or (array % 1 != 0).any():
        raise TypeError(
            f"{place} must have weights of integers, fixed(weight), got "
            f"{'a function' if callable(weight) else 'real numbers'}"
        )
    return array.astype(np.int64)


def whole_inputs(owner: str, inputs: Any) -> Any:
    """Return the inputs as int64, or raise if they are not whole numbers."""
    array = np.asarray(inputs)
    fractions = array[array % 1 != 0]
    if fractions.size:
        raise ValueError(
            f"{owner}: inputs must be integers, such as spikes or counts, got {fractions[0]:g}; "
            "see spikegrad.data.rate_encoding and latency_encoding"
        )
    return array.astype(np.int64)


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
        If a state leaves its width and neither wraps nor saturates, or if a sum is not exact in
        float32. The message names the layer, the step and the value.
    TypeError
        If a layer has a join, a cell or a weight that is not made of integers.
    ValueError
        If an input is not an integer.

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
    # Outputs of all steps by source, (batch, neurons) each.
    history = {name: [*whole_inputs("replay", x)] for name, x in inputs.items()}
    batch, states = history[first][0].shape[:-1], {}
    for name, cell, _, bias in layers:
        zeros = np.zeros(batch + bias.shape, np.int64)
        states[name] = (zeros, zeros) if len(cell.state_names) > 1 else zeros
        history[name] = []
    for step in range(len(history[first])):
        for name, cell, edges, bias in layers:
            reads = (
                history[e.source][step - e.lag] @ e.weight
                for e in edges
                if e.lag <= step
            )
            current = sum(reads, bias)
            where = f"replay: layer {name!r}, step {step}: the"
            _check(f"{where} current", current, -LARGEST, LARGEST)
            u = cell.integrate(states[name], current)
            _check(f"{where} state", u, *cell.limits)
            states[name], out = cell.fire(u)
            history[name].append(out)
    sequences = {name: np.stack(history[name]) for name in outputs}
    is_single = isinstance(network.outputs, str | None)
    return states, sequences[outputs[0]] if is_single else sequences


def _check(text: str, values: Any, low: int, high: int) -> None:
    values = np.asarray(values)  # a state of two arrays too
    outside = values[(values < low) | (values > high)]
    if outside.size:
        raise OverflowError(
            f"{text} {outside[0]} is outside of {low} to {high}; use a smaller scale"
        )
