"""Import of networks from NIR."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import nir
import numpy as np

from .._checks import checked_shape, named
from .._struct import Struct, parameter
from ..network import Delayed, Join, Layer, Network, Window
from ..neurons import LIF, LeakyReadout
from ._nodes import (
    MARK,
    NEURONS,
    OPERATIONS,
    WITHOUT_SPIKES,
    Array,
    Linear,
    Node,
    Operation,
    Scale,
    Shape,
    Surrogate,
    Time,
    delay_of,
    output_shape,
    scaled,
)
from ._order import ancestors, reached


def from_nir(
    graph: nir.NIRGraph,
    *,
    dt: float,
    discretization: str,
    surrogate: Surrogate = LIF.surrogate,
) -> Network:
    r"""Import a network from NIR, an exchange format of many libraries for spiking networks.

    Parameters
    ----------
    graph : nir.NIRGraph
        The graph, for example from ``nir.read``, with weights, neurons, delays, sums and loops.
    dt : float
        Length :math:`\Delta t` of a time step of the network in seconds, above 0.
    discretization : {"exact", "euler"}
        Conversion of a time constant to a decay factor. ``"exact"`` is :math:`e^{-\Delta t/\tau}`,
        and ``"euler"`` is :math:`1 - \Delta t/\tau`. To reproduce another simulator, pass its
        method: ``"euler"`` for snnTorch and norse.
    surrogate : callable, default Sigmoid()
        The surrogate of all neurons, because NIR does not contain surrogates.

    Returns
    -------
    Network
        The network. Its layers have the names of the neurons in the graph. Weights are matrices, or
        functions such as convolutions, which are pytrees and can be trained. Images have their
        channels first. If the resistance :math:`R` of a neuron is 1, its cell has
        ``norm_input=True``. For another :math:`R`, the weights contain the factor of the input.

    Raises
    ------
    TypeError, ValueError
        If spikegrad does not support a node, if a node is not on a path from an input, or if the
        shape of a parameter does not fit. Also if a time constant is below ``dt`` with ``"euler"``,
        or if a delay is not a multiple of ``dt``. Also if the graph does not define which
        connection of a loop takes a time step.

    See Also
    --------
    to_nir : Export a network, with a table of the nodes.

    Notes
    -----
    In NIR, the potential at rest is ``v_leak``. In spikegrad it is 0. So ``v_leak`` is subtracted
    from ``v_threshold`` and ``v_reset``. A neuron of NIR spikes only above its threshold, so the
    threshold of the cell is the next larger number.

    Each loop takes one time step in addition to its delays. In a layer, the recurrent weights take
    this time step. In a loop through several layers, the weights after a ``Delay`` node take it,
    also after a delay of 0 s. Graphs of :func:`to_nir` contain this in the metadata of the weights.

    Examples
    --------
    >>> import nir, numpy as np
    >>> from spikegrad.exchange import from_nir
    >>> linear, ones = nir.Linear(np.ones((2, 3))), np.ones(2)
    >>> graph = nir.NIRGraph.from_list(
    ...     linear,
    ...     nir.LIF(tau=0.01 * ones, r=ones, v_leak=0 * ones, v_threshold=ones),
    ... )
    >>> layer = from_nir(graph, dt=1e-3, discretization="euler").layers[0]
    >>> (
    ...     layer.weight.shape,
    ...     layer.cell.decay,
    ...     layer.cell.reset,
    ...     layer.cell.norm_input,
    ... )
    ((3, 2), 0.9, 'value', True)
    """
    with named("from_nir"):
        # nir names edges without a node and edges that occur twice.
        graph.validate_structure()
        return _Reader(graph, Time(dt, discretization), surrogate).network()


def _add(*outputs: Array) -> Array:
    return sum(outputs[1:], outputs[0])


def _plain(names: list[str]) -> str | list[str]:
    """Return one name as such, for a network that takes or returns one array."""
    return names[0] if len(names) == 1 else names


class _Sequence(Struct, pure=True):
    """Functions one after the other."""

    functions: tuple[Operation, ...] = parameter(kind=tuple)

    def __call__(self, x: Array) -> Array:
        for function in self.functions:
            x = function(x)
        return x


_SUPPORTED = (*OPERATIONS, nir.Delay, *NEURONS)


class _Reader:
    """The nodes of a graph, and the layers and joins that they become."""

    def __init__(self, graph: nir.NIRGraph, time: Time, surrogate: Surrogate) -> None:
        self.time = time
        self.surrogate = surrogate
        self.nodes: dict[str, Node] = {}
        self.before: dict[str, list[str]] = {}
        self.after: dict[str, list[str]] = {}
        self.names: dict[str, str] = {}
        """The names of layers in the network, if they differ from the last node."""
        self._add(graph)
        self.inputs = self._of_type(nir.Input)
        self.joins: dict[str, Join] = {}
        self.functions: dict[str, Operation] = {}
        self.delays: dict[str, int] = {}
        self.shapes: dict[str, Shape] = {}
        """The shape of one example after each node."""
        for name in self.inputs:
            shape = self.nodes[name].input_type["input"]
            self.shapes[name] = checked_shape(f"{name!r} (Input): the shape", shape)
        # In a loop a node has a shape before all of its sources do.
        for name, source in reached(self.before, self.inputs):
            with self._named(name):
                self.shapes[name] = self._read_node(name, self.shapes[source])

    def _add(
        self, graph: nir.NIRGraph, prefix: str = ""
    ) -> tuple[list[str], list[str]]:
        """Add nodes and edges. Return the nodes after the Input and before the Output."""
        ends: dict[str, tuple[list[str], list[str]]] = {}
        """The first and last nodes of each entry."""
        for name, node in graph.nodes.items():
            path = prefix + name
            if isinstance(node, nir.NIRGraph):
                ends[name] = self._add(node, f"{path}/")
                _, last = ends[name]
                # Recurrent neurons have the name of their subgraph.
                if len(last) == 1:
                    self.names[last[0]] = path
            elif prefix and isinstance(node, (nir.Input, nir.Output)):
                # In a subgraph they pass on their sources.
                ends[name] = [], []
            elif type(node) not in (*_SUPPORTED, nir.Input, nir.Output):
                known = ", ".join(kind.__name__ for kind in _SUPPORTED)
                raise ValueError(
                    f"{path!r} ({type(node).__name__}) is not supported. Use {known}"
                )
            else:
                self.nodes[path] = node
                self.before[path] = []
                self.after[path] = []
                ends[name] = [path], [path]
        # An edge of subgraphs connects the last nodes of the one with the first nodes of the other.
        first: list[str] = []
        last: list[str] = []
        for source, target in graph.edges:
            _, sources = ends[source]
            targets, _ = ends[target]
            for name in targets:
                self.before[name] += sources
            for name in sources:
                self.after[name] += targets
            if source in graph.inputs:
                first += targets
            if target in graph.outputs:
                last += sources
        return first, last

    def _named(self, name: str) -> AbstractContextManager[None]:
        return named(f"{name!r} ({type(self.nodes[name]).__name__})")

    def _of_type(self, kind: type) -> list[str]:
        return [name for name, node in self.nodes.items() if isinstance(node, kind)]

    def _read_node(self, name: str, shape: Shape) -> Shape:
        """Read an operation or a delay, for an input of this shape. Return the shape after it."""
        node = self.nodes[name]
        if type(node) in OPERATIONS:
            self.functions[name] = OPERATIONS[type(node)].read(node, shape)
            return output_shape(self.functions[name], shape)
        if isinstance(node, nir.Delay):
            self.delays[name] = delay_of(node, self.time.dt)
        return shape

    def network(self) -> Network:
        nodes: dict[str, Layer | Join] = {
            self.names.get(name, name): self._read_layer(name)
            for name, node in self.nodes.items()
            if type(node) in _SUPPORTED and not self._is_inner(name)
        }
        outputs = [
            self._source(self.before[end], [end]) for end in self._of_type(nir.Output)
        ]
        nodes |= self.joins
        with named("a loop of several layers needs a Delay, of 0 s for one step"):
            network = Network(
                nodes, inputs=_plain(self.inputs), outputs=_plain(outputs)
            )
        # A file sorts names, and positions such as network.layers[-1] need the order of a time
        # step.
        ordered = {name: nodes[name] for name in network.graph.nodes}
        return dataclasses.replace(network, layers=ordered)

    def _is_inner(self, name: str) -> bool:
        """If True, a node belongs to the layer of its only reader."""
        if len(self.after[name]) != 1 or name in self.inputs:
            return False
        # Weights of several sources add up in the neurons.
        (reader,) = self.after[name]
        kind = type(self.nodes[name])
        next_kind = type(self.nodes[reader])
        if next_kind in NEURONS and kind not in NEURONS:
            return True
        if self.before[reader] != [name]:
            return False
        # to_nir writes neurons without a reset as neurons that do not fire, and a Threshold.
        if kind in NEURONS:
            return next_kind is nir.Threshold and kind in WITHOUT_SPIKES
        # A delay also delays a bias before it, so it starts a layer, unlike other operations.
        return next_kind in OPERATIONS

    def _chain(self, sources: list[str], path: list[str]) -> tuple[str, list[str]]:
        """Return the input, layer or join before a path, and the path with all nodes after it."""
        # An operation of several sources or for several readers ends the path.
        while len(sources) == 1 and self._is_inner(sources[0]):
            path = [*sources, *path]
            sources = self.before[path[0]]
        return self._source(sources, path), path

    def _source(self, nodes: list[str], path: list[str]) -> str:
        """Return the input, layer or join of these nodes. A join is a sum of several."""
        names = [self.names.get(name, name) for name in nodes]
        if len(names) == 1:
            return names[0]
        # to_nir keeps the name of a join here, since NIR has no node for it.
        join = self._name_of(" + ".join(names), path)
        self.joins[join] = Join(_add, names)
        return join

    def _name_of(self, source: str, path: list[str]) -> str:
        """Return the name of a source in the network that :func:`to_nir` wrote."""
        if not path:
            return source
        return self._mark(path[0]).get("source", source)

    def _mark(self, name: str) -> dict[str, Any]:
        """Return what :func:`to_nir` writes beside the weights of a node."""
        return self.nodes[name].metadata.get(MARK, {})

    def _renamed(self, source: str, path: list[str]) -> str:
        """Return a second name of a source, because a layer has one function for each name."""
        name = self._name_of(source, path)
        if name == source:
            name = path[0]
        self.joins[name] = Join(_add, [source])
        return name

    def _read_layer(self, last: str) -> Layer:
        """Return the layer with this last node."""
        name = self.names.get(last, last)
        shape = self.shapes[last]
        # A layer ends in neurons, or in an operation whose result several nodes read. The latter
        # gets a readout without a memory.
        if type(self.nodes[last]) in NEURONS:
            before = [n for n in self.before[last] if type(self.nodes[n]) in NEURONS]
            neurons = [*filter(self._is_inner, before), last]
            nodes = [self.nodes[node] for node in neurons]
            with self._named(neurons[0]):
                read = NEURONS[type(nodes[0])]
                cell, gain = read(nodes, shape, self.time, self.surrogate)
            chains = [self._chain([end], []) for end in self.before[neurons[0]]]
        else:
            cell = LeakyReadout(0.0)
            gain = np.ones(shape)
            chains = [self._chain(self.before[last], [last])]

        def is_renamed(chain: tuple[str, list[str]]) -> bool:
            source, path = chain
            return self._name_of(source, path) != source

        # The weights that keep the name of their source come first.
        chains.sort(key=is_renamed)
        weights: dict[str, dict[int, Operation]] = {}  # by source, then by delay
        biases: list[Array] = []
        for source, path in chains:
            weight, bias = _weight(scaled(self._functions_of(path), gain))
            biases += bias
            lag = sum(self.delays.get(node, 0) for node in path)
            if self._is_late(name, source, path):
                lag += 1
            # Matrices of one source add up. Functions do not, so they need a source of their own.
            others = weights.get(source, {}).values()
            has_function = any(map(callable, (weight, *others)))
            if others and has_function:
                source = self._renamed(source, path)
            lags = weights.setdefault(source, {})
            if lag in lags:  # several matrices between two layers add up
                weight = lags[lag] + weight
            lags[lag] = weight
        bias = _add(*biases) if biases else None
        # A layer that only reads itself has these weights as its input weights.
        recurrent = None
        if name in weights and len(weights) > 1:
            # A recurrent weight without ``Delayed`` has a delay of one step.
            recurrent = _combined(weights.pop(name), plain=1)
        combined = {source: _combined(lags) for source, lags in weights.items()}
        # One source keeps its plain form.
        if len(combined) == 1:
            ((source, weight),) = combined.items()
            return Layer(weight, cell, recurrent, bias, of=source)
        return Layer(combined, cell, recurrent, bias)

    def _functions_of(self, path: list[str]) -> list[Operation]:
        """Return the operations of the nodes on a path."""
        functions: list[Operation] = []
        for node in path:
            function = self.functions.get(node)
            if isinstance(function, Scale):
                # Weights with the factor are trained as one array.
                functions = scaled(functions, function.factor)
            elif function is not None:
                functions.append(function)
        return functions

    def _is_late(self, name: str, source: str, path: list[str]) -> bool:
        """If True, the weights have the step that each loop takes in addition to its delays."""
        if source == name or not path:
            return source == name
        # The nodes of a join may come before the weights with this mark.
        marks = [self._mark(node) for node in path]
        if any(marks):
            return any(mark.get("late") for mark in marks)
        # In a graph of another library, the Delay in a loop states the weights with this step.
        first = path[0]
        return first in self.delays and first in ancestors(self.before, first)


def _weight(functions: list[Operation]) -> tuple[Operation, list[Array]]:
    """Return functions as a matrix or as one function, and the bias of the last, if any."""
    dtype = jnp.result_type(float)
    # Rounded once, from the float64 of the file and its factors.
    functions = jax.tree.map(lambda values: jnp.asarray(values, dtype), functions)
    biases = []
    # The bias of the last function becomes the bias of the layer, which is trained as such.
    if functions and getattr(functions[-1], "bias", None) is not None:
        biases = [functions[-1].bias]
        functions[-1] = dataclasses.replace(functions[-1], bias=None)
    if len(functions) != 1:
        return _Sequence(tuple(functions)), biases
    (function,) = functions
    # A matrix of a layer is (inputs, neurons), and NIR has the outputs first.
    if isinstance(function, Linear):
        return function.weight.T, biases
    return function, biases


def _combined(lags: dict[int, Operation], plain: int = 0) -> Operation:
    """Combine the weights of a source, by their delays. One with the plain delay is unchanged."""
    first, last = min(lags), max(lags)
    if first == last == plain:
        return lags[first]
    if first == last:
        return Delayed(lags[first], first)
    # A window has a matrix for each delay between the first and the last.
    zeros = jnp.zeros_like(lags[first])
    matrices = [lags.get(lag, zeros) for lag in range(first, last + 1)]
    return Window(jnp.stack(matrices), delay=first)
