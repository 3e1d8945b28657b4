"""Import of networks from NIR."""

from __future__ import annotations

import dataclasses
import graphlib
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import nir
import numpy as np

from .._checks import checked_shape
from .._struct import Struct, parameter
from ..network import Delayed, Join, Layer, Network, Window
from ..neurons import LIF, LeakyReadout
from ._nodes import (
    MARK,
    NEURONS,
    OPERATIONS,
    Array,
    Delay,
    Linear,
    Node,
    Operation,
    Scale,
    Shape,
    Surrogate,
    Time,
    named,
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
    r"""Convert a graph of NIR, the neuromorphic intermediate representation, to a network.

    Parameters
    ----------
    graph : nir.NIRGraph
        Weights, neurons, delays, sums and loops, for example from ``nir.read``.
    dt : float
        Length :math:`\Delta t` of a time step of the network, in seconds.
    discretization : {"exact", "euler"}
        Conversion of a time constant to a decay factor: :math:`e^{-\Delta t/\tau}` or
        :math:`1 - \Delta t/\tau`. To reproduce another simulator, pass its method, such as Euler
        for snnTorch and norse.
    surrogate : callable, default Sigmoid()
        The surrogate of all neurons. NIR does not define surrogates.

    Returns
    -------
    Network
        Weights are matrices, or functions that are pytrees of their kernels. Images have channels
        first. If :math:`R = 1`, cells have ``norm_input``. Other factors of the input are in the
        weights. Layers have the names of their neurons, in the order of a time step.

    Raises
    ------
    ValueError
        If spikegrad does not support a node, or if a node is not on a path from an input. If the
        shape of a parameter does not fit. If a time constant is shorter than a time step of Euler's
        method, or if a delay is not a multiple of ``dt``. If the graph does not define the edge of
        a loop that takes a step.

    See Also
    --------
    to_nir : Export a network, with a table of the nodes.

    Notes
    -----
    Neurons start at ``v_leak``. Potentials, ``v_threshold`` and ``v_reset`` are converted to
    differences from it. A neuron fires above its threshold in NIR, so the threshold of the cell is
    the next larger number.

    Each loop takes one time step more than its delays. The recurrent weights of a layer have this
    step. In a loop through several layers the weights after a ``Delay`` have it, which may be a
    delay of 0 s. In a graph of :func:`to_nir` the metadata of the weights state it.

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
    time = Time.checked("from_nir", dt, discretization)
    # nir names edges without a node and edges that occur twice.
    with named("from_nir"):
        graph.validate_structure()
    reader = _Reader(graph, time, surrogate)
    reader.read_shapes()
    layers = {name: reader.read_layer(name) for name in reader.layers}
    joins = {name: Join(_add, sources) for name, sources in reader.joins.items()}
    # A file sorts names, and positions such as network.layers[-1] need the order of a time step.
    nodes = layers | joins
    ordered = {name: nodes[name] for name in reader.order() if name in nodes}
    return Network(
        ordered, inputs=_plain(reader.inputs), outputs=_plain(reader.outputs)
    )


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


class _Chain(NamedTuple):
    """The weights of a layer for one source."""

    source: str
    """An input, a layer or a join."""
    nodes: list[str]
    """Delays, and the operations after them."""


class _Part(NamedTuple):
    """The nodes of a layer."""

    chains: list[_Chain]
    neurons: list[str]
    """Neurons, or neurons and their Threshold, or nothing."""


class _Reader:
    """The nodes of a graph, and the layers and joins that they become."""

    def __init__(self, graph: nir.NIRGraph, time: Time, surrogate: Surrogate) -> None:
        self.time, self.surrogate = time, surrogate
        self.nodes, edges = _flat(graph)
        self.names: dict[str, str] = {}
        """The names of layers in the network, if they differ from the last node."""
        ends = self._of_type(nir.Input) + self._of_type(nir.Output)
        for name in (name for name in ends if name not in graph.nodes):
            # The Input and Output of a subgraph pass on their sources.
            sources = [source for source, target in edges if target == name]
            targets = [target for source, target in edges if source == name]
            edges = [edge for edge in edges if name not in edge]
            edges += itertools.product(sources, targets)
            # Recurrent neurons have the name of their subgraph.
            if isinstance(self.nodes.pop(name), nir.Output) and len(sources) == 1:
                self.names[sources[0]] = name.rpartition("/")[0]
        self.before: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.after: dict[str, list[str]] = {name: [] for name in self.nodes}
        for source, target in edges:
            self.before[target].append(source)
            self.after[source].append(target)
        self.inputs, ends = self._of_type(nir.Input), self._of_type(nir.Output)
        supported = (*OPERATIONS, nir.Delay, *NEURONS)
        for name, node in self.nodes.items():
            if type(node) not in (*supported, nir.Input, nir.Output):
                known = ", ".join(kind.__name__ for kind in supported)
                raise ValueError(f"{self.owner(name)} is not supported; use {known}")
            if not self.before[name] and name not in self.inputs:
                raise ValueError(
                    f"{self.owner(name)} is not on a path from an Input; remove it"
                )
        self.layers: dict[str, _Part] = {}
        self.joins: dict[str, list[str]] = {}
        for name in self.nodes:
            if name not in (*self.inputs, *ends) and not self._is_inner(name):
                self.layers[self.names.get(name, name)] = self._part(name)
        self.outputs = [self._source(self.before[end], self.nodes[end]) for end in ends]
        self.sources = {
            name: [c.source for c in p.chains] for name, p in self.layers.items()
        }
        self.sources |= self.joins
        self.undelayed = dict(self.joins)
        self.shapes: dict[str, Shape] = {}
        """The shape of one example of each input, layer and join."""

    def owner(self, name: str) -> str:
        return f"from_nir: {name!r} ({type(self.nodes[name]).__name__})"

    def _of_type(self, kind: type) -> list[str]:
        return [name for name, node in self.nodes.items() if isinstance(node, kind)]

    def _is_inner(self, name: str) -> bool:
        """If True, a node belongs to the layer of its only reader."""
        if len(self.after[name]) != 1 or name in self.inputs:
            return False
        # Weights of several sources add up in the neurons.
        (reader,) = self.after[name]
        kind, next_kind = type(self.nodes[name]), type(self.nodes[reader])
        if next_kind in NEURONS and kind not in NEURONS:
            return True
        if self.before[reader] != [name]:
            return False
        # to_nir writes neurons without a reset as neurons that do not fire, and a Threshold.
        if kind in NEURONS:
            return next_kind is nir.Threshold and not NEURONS[kind].fires
        # A delay also delays a bias before it, so it starts a layer, unlike other operations.
        return next_kind in OPERATIONS or kind is next_kind is nir.Delay

    def _part(self, last: str) -> _Part:
        """Return the nodes of the layer with this last node."""
        if type(self.nodes[last]) not in NEURONS:
            return _Part([self._chain(last, is_last=True)], [])
        neurons = [last]
        for name in self.before[last]:
            if type(self.nodes[name]) in NEURONS and self._is_inner(name):
                neurons = [name, last]
        return _Part([self._chain(name) for name in self.before[neurons[0]]], neurons)

    def _chain(self, end: str, is_last: bool = False) -> _Chain:
        """Return the operations up to this node, or none if the node is another layer."""
        path: list[str] = []
        sources = [end]
        # An operation of several sources or for several readers ends the path.
        while is_last or (len(sources) == 1 and self._is_inner(sources[0])):
            path = [*sources, *path]
            sources, is_last = self.before[path[0]], False
        return _Chain(
            self._source(sources, *(self.nodes[name] for name in path[:1])), path
        )

    def _source(self, nodes: list[str], *reader: Node) -> str:
        """Return the input, layer or join of these nodes. A join is a sum of several."""
        names = [self.names.get(name, name) for name in nodes]
        if len(names) == 1:
            return names[0]
        # to_nir keeps the name of a join here, since NIR has no node for it.
        join = reader[0].metadata.get(MARK, {"source": " + ".join(names)})["source"]
        self.joins[join] = names
        return join

    def read_shapes(self) -> None:
        for name in self.inputs:
            shape = self.nodes[name].input_type["input"]
            self.shapes[name] = checked_shape(f"{self.owner(name)}: the shape", shape)
        # In a loop a layer has a shape before all of its sources do.
        with named("from_nir"):
            order = reached(self.sources, self.inputs)
        for name, source in order:
            chains = self.layers[name].chains if name in self.layers else ()
            chain = next((chain for chain in chains if chain.source == source), None)
            self.shapes[name] = (
                self._functions(chain)[1] if chain else self.shapes[source]
            )

    def _functions(self, chain: _Chain) -> tuple[list[Operation], Shape, int]:
        """Return the functions of a chain, the shape of their output, and the delay in steps."""
        functions: list[Operation] = []
        shape, steps = self.shapes[chain.source], 0
        for name in chain.nodes:
            node = self.nodes[name]
            with named(self.owner(name)):
                if isinstance(node, nir.Delay):
                    steps += Delay.read(node, self.time.dt)
                    continue
                function = OPERATIONS[type(node)].read(node, shape)
                shape = output_shape(function, shape)
            # Weights with the factor are trained as one array.
            if isinstance(function, Scale):
                functions = scaled(functions, function.factor)
            else:
                functions.append(function)
        return functions, shape, steps

    def read_layer(self, name: str) -> Layer:
        part, shape = self.layers[name], self.shapes[name]
        cell, gain = LeakyReadout(0.0), np.ones(shape)
        if part.neurons:
            nodes = [self.nodes[node] for node in part.neurons]
            with named(self.owner(part.neurons[0])):
                read = NEURONS[type(nodes[0])].read
                cell, gain = read(nodes, shape, self.time, self.surrogate)
        weights: dict[str, dict[int, Operation]] = {}
        biases: list[Array] = []
        for chain in part.chains:
            functions, out, lag = self._functions(chain)
            lag += self._is_late(name, chain)
            with named(self.owner([*part.neurons, *chain.nodes][-1])):
                if out != shape:
                    raise ValueError(f"the output must have shape {shape}, got {out}")
                weight, bias = _weight(scaled(functions, gain))
            biases += bias
            lags = weights.setdefault(chain.source, {})
            # Several nodes between two layers add up.
            lags[lag] = lags[lag] + weight if lag in lags else weight
        self.undelayed[name] = [source for source, lags in weights.items() if 0 in lags]
        bias = _add(*biases) if biases else None
        # A layer that only reads itself has these weights as its input weights.
        recurrent = None
        if name in weights and len(weights) > 1:
            recurrent = _combined(weights.pop(name), plain=1)
        combined = {source: _combined(lags) for source, lags in weights.items()}
        # One source keeps its plain form.
        if len(combined) == 1:
            ((source, weight),) = combined.items()
            return Layer(weight, cell, recurrent, bias, of=source)
        return Layer(combined, cell, recurrent, bias)

    def _is_late(self, name: str, chain: _Chain) -> bool:
        """If True, the weights have the step that each loop takes in addition to its delays."""
        first = self.nodes[chain.nodes[0]] if chain.nodes else None
        if chain.source == name or first is None:
            return chain.source == name
        if MARK in first.metadata:
            return bool(first.metadata[MARK]["late"])
        # In a graph of another library, the Delay in a loop states the weights with this step.
        return isinstance(first, nir.Delay) and name in ancestors(
            self.sources, chain.source
        )

    def order(self) -> list[str]:
        """Return the order of a time step. The network would raise too, without the fix in NIR."""
        try:
            return [*graphlib.TopologicalSorter(self.undelayed).static_order()]
        except graphlib.CycleError as error:
            loop = " -> ".join(map(repr, error.args[1]))
            raise ValueError(
                f"from_nir: NIR does not define which weights of the loop {loop} arrive one step "
                "later; insert a Delay before them, of 0 s for a delay of one step"
            ) from None


def _flat(
    graph: nir.NIRGraph, prefix: str = ""
) -> tuple[dict[str, Node], list[tuple[str, str]]]:
    """Return the nodes and edges of a graph and its subgraphs."""
    nodes: dict[str, Node] = {}
    edges: list[tuple[str, str]] = []
    for name, node in graph.nodes.items():
        inner = {prefix + name: node}
        if isinstance(node, nir.NIRGraph):
            if len(node.inputs) != 1 or len(node.outputs) != 1:
                raise ValueError(
                    f"from_nir: the graph {name!r} must have one Input and one Output"
                )
            inner, inner_edges = _flat(node, f"{prefix}{name}/")
            edges += inner_edges
        nodes |= inner

    def end(name: str, kind: str) -> str:
        """Return the name of a node, or of the Input or Output of a subgraph."""
        return "/".join([prefix + name, *getattr(graph.nodes[name], kind, ())])

    return nodes, edges + [
        (end(a, "outputs"), end(b, "inputs")) for a, b in graph.edges
    ]


def _weight(functions: list[Operation]) -> tuple[Operation, list[Array]]:
    """Return functions as a matrix or as one function, and the bias of the last, if any."""
    dtype, biases = jnp.result_type(float), []
    functions = jax.tree.map(lambda values: jnp.asarray(values, dtype), functions)
    # The bias of the last function becomes the bias of the layer, which is trained as such.
    if functions and getattr(functions[-1], "bias", None) is not None:
        biases = [functions[-1].bias]
        functions[-1] = dataclasses.replace(functions[-1], bias=None)
    if len(functions) != 1:
        return _Sequence(tuple(functions)), biases
    (function,) = functions
    return (function.weight.T if isinstance(function, Linear) else function), biases


def _combined(lags: dict[int, Operation], plain: int = 0) -> Operation:
    """Combine the weights of a source, by their delays. One with the plain delay is unchanged."""
    first, last = min(lags), max(lags)
    if first == last:
        return lags[first] if first == plain else Delayed(lags[first], first)
    # A window has a matrix for each delay between the first and the last.
    zeros = jnp.zeros_like(lags[first])
    matrices = [lags.get(lag, zeros) for lag in range(first, last + 1)]
    return Window(jnp.stack(matrices), delay=first)
