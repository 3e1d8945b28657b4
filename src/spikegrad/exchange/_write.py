"""Export of networks to NIR."""

from __future__ import annotations

import collections
import functools
import graphlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import nir
import numpy as np

from .._checks import checked_shape, named
from ..network import Join, Layer, Network, function_of
from ._nodes import (
    MARK,
    AxisOrderError,
    Node,
    Scale,
    Shape,
    Signal,
    Time,
    after_function,
    kind_of,
    scaled,
    write_neurons,
    written,
)
from ._order import reached


def to_nir(
    network: Network,
    *,
    dt: float,
    discretization: str,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    unit_resistance: bool = False,
) -> nir.NIRGraph:
    r"""Export a network to NIR, an exchange format of many libraries for spiking networks.

    Write the result to a file with ``nir.write``. A neuron of NIR is a differential equation,
    :math:`\tau \dot v = v_\mathrm{leak} - v + R I`, but a network has time steps. So pass the
    length of a time step and the integration method of the simulator that will read the graph. The
    simulator then computes equal spikes.

    Parameters
    ----------
    network : Network
        The network, with the cells :class:`~spikegrad.LIF` and :class:`~spikegrad.SynapticLIF`,
        both with ``reset="value"`` or ``reset="none"``, and :class:`~spikegrad.LeakyReadout`.
    dt : float
        Length :math:`\Delta t` of a time step of this simulator, in seconds.
    discretization : {"exact", "euler"}
        Integration method of this simulator. ``"exact"`` exports :math:`\tau = -\Delta t / \ln
        \beta`, the exact solution for a constant input during a time step. ``"euler"`` exports
        :math:`\tau = \Delta t / (1 - \beta)`, for Euler's method, which snnTorch and norse use.
    input_shape : sequence of int or dict, optional
        Shape of one time step of one example, such as ``(1, 28, 28)``. A dict of shapes if the
        network has several inputs. It is required if no weight of an input is a matrix.
    unit_resistance : bool, default False
        Whether all neurons get the resistance :math:`R = 1`. By default, :math:`R` is :math:`1 / (1
        - \beta)` for cells without ``norm_input``, because NIR multiplies the input by :math:`1 -
        \beta`. With True, the weights contain this factor instead. Pass True for importers that
        ignore :math:`R`, such as norse's importer for LIF.

    Returns
    -------
    nir.NIRGraph
        The graph. Inputs and layers keep their names: ``0``, ``1`` and so on for a list. The
        weights of layer ``a`` that read layer ``b`` have the name ``a.drive.b``, and their delay
        ``a.delay.b``. The output has the name ``output``. Several outputs have names such as
        ``a.output``. A recurrent layer is a subgraph with the nodes ``input``, ``neurons``,
        ``recurrent`` and ``output``.

    Raises
    ------
    ValueError
        If NIR does not support a part of the network. The message names the layer or join. For
        cells, these are spikes other than 0 and 1, a reset by subtraction, a delayed reset, an
        adaptive threshold, and a refractory period. Some decay factors of 1, and of 0 with
        ``"exact"``, have no node either. A function as weight may have only products, convolutions,
        sums over windows, factors, biases and changes of shape. A join must add its sources first.
    TypeError
        If ``dt`` is not a number.

    See Also
    --------
    from_nir : Import a graph.

    Notes
    -----
    ===================================  =========================================================
    spikegrad                            NIR
    ===================================  =========================================================
    ``weight``, ``bias``, ``recurrent``  ``Linear``, ``Affine``, ``Conv1d``, ``Conv2d``,
                                         ``SumPool2d``, ``AvgPool2d``, ``Scale``, ``Flatten``
    several sources, joins that add      several edges into one node
    ``Delayed``, ``Window`` of matrices  ``Delay`` and ``Linear``
    ``LIF``                              ``LIF``, or ``IF`` if the decay is 1
    ``SynapticLIF``                      ``CubaLIF``, with :math:`w_\mathrm{in} = 1 / (1 - \gamma)`
    ``reset="none"``                     ``LI``, ``I`` or ``CubaLI``, and a ``Threshold``
    ``LeakyReadout``                     ``LI``, or ``I`` if the decay is 1, or no node if it is 0
    ===================================  =========================================================

    A neuron of NIR spikes only above its threshold, and a neuron of spikegrad also at its
    threshold. So the graph contains the largest number below the threshold, such as 0.99999994 for
    1. Images have their channels first in NIR.

    NIR does not define whether a loop takes a time step. As in the library nirtorch, each loop
    takes one time step here. So the export subtracts one time step from weights that lead back to
    an earlier layer. A delay of :math:`d` time steps becomes a ``Delay`` of :math:`(d - 1)\,\Delta
    t`, and no ``Delay`` if :math:`d` is 1. Such weights between two layers have names like
    ``a.recurrent.b``, and their metadata store the time step for :func:`from_nir`. If a loop
    contains several such weights, a simulator that does not read the metadata runs it with too
    short delays.

    References
    ----------
    Pedersen et al. 2024, "Neuromorphic intermediate representation: A unified instruction set for
    interoperable brain-inspired computing", Nature Communications 15:8122.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.exchange import to_nir
    >>> network = Network([Layer(jnp.ones((3, 2)), LIF(0.9, reset="value"))])
    >>> graph = to_nir(network, dt=1e-3, discretization="euler")
    >>> list(graph.nodes)
    ['input', '0.drive.input', '0', 'output']
    >>> graph.nodes["0"].tau.round(6).tolist()
    [0.01, 0.01]
    """
    with named("to_nir"):
        writer = _Writer(network, Time(dt, discretization), unit_resistance)
        shapes = writer.input_shapes(input_shape)
        # The first convolution shows the order of the axes of the inputs.
        try:
            writer.trace(shapes, channels_last=False)
        except AxisOrderError:
            writer.trace(shapes, channels_last=True)
        return writer.write()


# --- the graph of NIR -----------------------------------------------------------------------------


class _Nodes:
    """Nodes and edges of NIR."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.links: list[tuple[list[str], str]] = []
        """Sources and a target. Sources that come later are added to the list."""

    def add(self, node: Node, name: str) -> str:
        """Add a node. Return its name, with a number if another node has this name."""
        # A layer may be called "output", and a weight may need several nodes.
        names = (f"{name}{n or ''}" for n in itertools.count())
        name = next(name for name in names if name not in self.nodes)
        self.nodes[name] = node
        return name

    def extend(
        self, nodes: list[Node], kind: str, owner: str = "", suffix: str = ""
    ) -> list[str]:
        """Add nodes of one kind. Return their names."""
        return [
            self.add(node, f"{owner}{_KINDS.get(type(node), kind)}{suffix}")
            for node in nodes
        ]

    def connect(self, sources: list[str], path: list[str]) -> list[str]:
        """Add edges along a path. Return its end."""
        for name in path:
            self.links.append((sources, name))
            sources = [name]
        return sources

    def graph(self) -> nir.NIRGraph:
        edges = [
            (source, target) for sources, target in self.links for source in sources
        ]
        return nir.NIRGraph(self.nodes, edges)


class _Edge(NamedTuple):
    source: str
    delay: int
    is_late: bool
    """If True, the edge leads back in a loop. It loses the step that the loop has in NIR."""
    layer: Layer
    """A layer with only this weight."""


class _Writer(_Nodes):
    """The nodes of a network, and the outputs of its layers and joins as signals."""

    def __init__(self, network: Network, time: Time, unit_resistance: bool) -> None:
        super().__init__()
        graph = network.graph
        self.net = graph
        self.time = time
        self.unit_resistance = unit_resistance
        self.ends: dict[str, list[str]] = collections.defaultdict(list)
        """The nodes that add up to the output of an input, layer or join."""
        self.sources = {
            n: [edge.source for edge in edges] for n, edges in graph.edges.items()
        }
        # One edge for each weight, whose function is traced apart from the others.
        self.edges: dict[str, list[_Edge]] = {}
        order = [*graph.inputs, *graph.nodes]
        for name, node in graph.nodes.items():
            if isinstance(node, Join):
                if node.over_time:
                    raise ValueError(
                        f"the join {name!r} takes complete sequences, which NIR does not support. "
                        "Fold a normalization into the weights (fold_normalization)"
                    )
                continue
            # Before any function is traced, because a cell may need weights of another form.
            with named(f"layer {name!r}"), named(type(node.cell).__name__):
                kind_of(node.cell)
            bias = node.bias
            self.edges[name] = []
            for edge, weight in graph.connections(name):
                if edge.windowed:
                    raise ValueError(
                        f"layer {name!r} has a function of a window, which NIR does not support"
                    )
                # Each loop leads back at least once in the order of a time step.
                is_back = order.index(edge.source) >= order.index(name)
                is_late = is_back and edge.label in graph.looped[name]
                part = Layer(weight, node.cell, bias=bias)
                self.edges[name].append(_Edge(edge.source, edge.lags[0], is_late, part))
                bias = None  # the first weight has it

    def input_shapes(self, input_shape: Any) -> dict[str, Shape]:
        """Return the shape of one step of one example for each input."""
        shapes: dict[str, Any] = {}
        if isinstance(input_shape, Mapping):
            shapes = {**input_shape}
        elif input_shape is not None:
            shapes = dict.fromkeys(self.net.inputs, input_shape)
        else:
            for edge in itertools.chain(*self.edges.values()):
                if function_of(edge.layer.weight) is None:
                    shapes[edge.source] = jnp.asarray(edge.layer.weight).shape[:1]
        for name in self.net.inputs:
            if name not in shapes:
                raise ValueError(
                    f"no weight of {name!r} is a matrix: give input_shape, of one step of one "
                    "example, or a dict with the shape of each input"
                )
        # In the order of the inputs of the network, which is that of the nodes in the file.
        return {k: checked_shape("input_shape", shapes[k]) for k in self.net.inputs}

    def trace(self, shapes: dict[str, Shape], channels_last: bool) -> None:
        """Set the signals, and the currents of each layer, one for each weight."""
        self.signals: dict[str, Signal] = {}
        self.currents: dict[str, list[Signal]] = {}
        self.joined: dict[str, Signal] = {}
        # Numbers of an input in NIR's order: channels, rows, columns.
        for name, shape in shapes.items():
            if channels_last:
                *sizes, channels = shape
                shape = channels, *sizes
            places = np.arange(np.prod(shape)).reshape(shape)
            if channels_last:
                # The array in the function has its channels last, and ``places`` says where each
                # number is in NIR's array.
                places = np.moveaxis(places, 0, -1)
            # Functions are traced for one example, with an axis of length 1 in front.
            self.signals[name] = Signal(shape, places[None], jnp.result_type(float))

        # The trace of a function may take a second.
        @functools.cache
        def current(name: str, n: int) -> Signal:
            text = f"layer {name!r} has a function that NIR does not support"
            edge = self.edges[name][n]
            with named(text):
                return after_function(edge.layer.drive, self.signals[edge.source])

        # In a loop a layer has an output before all of its sources do.
        # ``reached`` yields a node with the first source that has an output, so a loop is entered
        # by its input.
        for name, source in reached(self.sources, self.net.inputs):
            self.signals[name] = self.signals[source]
            if name in self.edges:  # each current has the shape of the output
                n = self.sources[name].index(source)
                self.signals[name] = current(name, n)
            # A layer may read an output of another shape.
            elif self.signals.keys() >= {*self.sources[name]}:
                self.signals[name] = self.after_join(name)
        # Now the signals of sources that come later are known too.
        for name, node in self.net.nodes.items():
            if isinstance(node, Join):
                self.joined[name] = self.after_join(name)
                if not self.joined[name].is_like(self.signals[name]):
                    raise ValueError(
                        f"the join {name!r} in a loop must keep the shape of its sources"
                    )
                continue
            currents = [current(name, n) for n in range(len(self.edges[name]))]
            if not all(signal.is_like(self.signals[name]) for signal in currents):
                raise ValueError(
                    f"{name!r} must add arrays with their axes in one order"
                )
            self.currents[name] = currents

    def after_join(self, name: str) -> Signal:
        """Return the output of a join."""
        node = self.net.nodes[name]
        text = (
            f"the join {name!r} must add its sources once each, as in lambda a, b: a + b. Put "
            "other functions into the weights of the layer that reads it"
        )
        with named(text):
            return after_function(node.function, *(self.signals[n] for n in node.of))

    def write(self) -> nir.NIRGraph:
        for name in self.net.inputs:
            node = nir.Input({"input": np.array(self.signals[name].shape)})
            self.ends[name].append(self.add(node, name))
        # Without the edges that lead back, the nodes have an order: each follows its sources.
        undelayed = self.sources | {
            name: [edge.source for edge in edges if not edge.is_late]
            for name, edges in self.edges.items()
        }
        for name in graphlib.TopologicalSorter(undelayed).static_order():
            if name in self.edges:
                with named(f"layer {name!r}"):
                    self.add_layer(name)
                continue
            # An input has no sources, and a join adds its sources.
            if name in self.joined:
                self.add_join(name)
        for name in self.net.outputs:
            node = nir.Output({"output": np.array(self.signals[name].shape)})
            node.metadata[MARK] = {"source": name}
            # Importers expect the name "output".
            label = f"{name}.output" if len(self.net.outputs) > 1 else "output"
            output = self.add(node, label)
            self.connect(self.ends[name], [output])
        return self.graph()

    def add_join(self, name: str) -> None:
        sources = [self.signals[source] for source in self.sources[name]]
        nodes = written(self.joined[name].functions, sources[0].shape)
        for node in nodes[:1]:
            node.metadata[MARK] = {"source": name}
        # NIR adds all edges into a node, so a join without a function needs no node: the ends of
        # its sources are its own.
        ends = [end for source in self.sources[name] for end in self.ends[source]]
        path = self.extend(nodes, "join", f"{name}.")
        self.ends[name] += self.connect(ends, path)

    def add_layer(self, name: str) -> None:
        cell = self.net.nodes[name].cell
        signal = self.signals[name]
        with named(type(cell).__name__):
            neurons = write_neurons(cell, signal, self.time)
        # The weights get the factor that R would have compensated.
        factor = np.ones(signal.shape)
        if self.unit_resistance and neurons:
            factor, neurons[0].r = neurons[0].r, factor
        # The weights of other sources, each with its nodes in the order of the signal.
        chains: list[tuple[_Edge, list[Node]]] = []
        recurrent: list[list[Node]] = []
        for edge, current in zip(self.edges[name], self.currents[name], strict=True):
            shape = self.signals[edge.source].shape
            steps = edge.delay - 1 if edge.is_late else edge.delay
            nodes: list[Node] = []
            if steps:
                nodes.append(nir.Delay(np.full(shape, steps * self.time.dt)))
            nodes += written(scaled(current.functions, factor), shape)
            # Weights of a layer on itself are inside of the subgraph of recurrent neurons.
            if edge.source == name:
                recurrent.append(nodes)
                continue
            # from_nir needs the name of a join, and the weights of loops.
            for node in nodes[:1]:
                node.metadata[MARK] = {"source": edge.source, "late": edge.is_late}
            chains.append((edge, nodes))
        if recurrent:
            neurons = [_recurrent(neurons, recurrent)]
        elif not neurons:
            # One node adds the sources, but the last weights of a single source need no other.
            neurons = [Scale(factor).write(signal.shape)]
            only, *more = [nodes for _, nodes in chains]
            if only and not more:
                neurons = [only.pop()]
        paths = []
        for edge, nodes in chains:
            kind = "recurrent" if edge.is_late else "drive"
            paths.append(self.extend(nodes, kind, f"{name}.", f".{edge.source}"))
        # The last node has the name of the layer.
        *others, last = neurons
        path = self.extend(others, "neurons", f"{name}.")
        path.append(self.add(last, name))
        first, *after = path
        for (edge, _), weights in zip(chains, paths, strict=True):
            self.connect(self.ends[edge.source], [*weights, first])
        self.ends[name] += self.connect([first], after)


_KINDS = {
    nir.Input: "input",
    nir.Flatten: "flatten",
    nir.Threshold: "threshold",
    nir.Delay: "delay",
}
"""The names of nodes in a layer that differ from the name of their part."""


def _recurrent(neurons: list[Node], weights: list[list[Node]]) -> nir.NIRGraph:
    """Return recurrent neurons as a subgraph, as importers expect."""
    inner = _Nodes()
    shape = neurons[0].input_type["input"]
    start = nir.Input({"input": shape})
    output = nir.Output({"output": shape})
    path = inner.extend([start, *neurons], "neurons")
    _, first, *_ = path
    # norse depends on the order of these edges.
    end = inner.connect([], path)
    for nodes in weights:
        recurrent = inner.extend(nodes, "recurrent")
        inner.connect(end, [*recurrent, first])
    inner.connect(end, inner.extend([output], "output"))
    return inner.graph()
