"""Export of networks to NIR."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import nir
import numpy as np

from .._checks import checked_shape
from .._surrogate import spike_types
from ..network import Join, Network
from ..network._connections import Edge, Name, matrix_of, product
from ..network._graph import Graph
from ..network._layer import plus_bias
from ..network._nodes import initial_states
from ._leak import Leak, make_leak
from ._loops import cuts, in_order, loops, returning
from ._operations import Signal, UnknownError, is_sum, read_operations
from ._parameters import check_finite


def to_nir(
    network: Network,
    *,
    dt: float,
    discretization: str,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    unit_resistance: bool = False,
) -> nir.NIRGraph:
    r"""Convert a network to a graph of NIR, the neuromorphic intermediate representation.

    NIR has differential equations, :math:`\tau \dot v = v_\mathrm{leak} - v + R I`, and a network has time steps. The
    time constants of the graph give equal time steps in a simulator with this ``dt`` and ``discretization``.

    Parameters
    ----------
    network : Network
        A list or a graph of the cells :class:`~spikegrad.LIF` and :class:`~spikegrad.SynapticLIF`, with an immediate
        reset to a value or no reset, and :class:`~spikegrad.LeakyReadout`.
    dt : float
        Length :math:`\Delta t` of a time step of the simulator that will read the graph, in seconds.
    discretization : {"exact", "euler"}
        Integration method of this simulator. ``"exact"``: :math:`\tau = -\Delta t / \ln \beta`, the exact solution for
        a constant input during the time step. ``"euler"``: :math:`\tau = \Delta t / (1 - \beta)`, Euler's method,
        which snnTorch and norse use.
    input_shape : sequence of int or dict, optional
        Shape of one time step of one example, or a dict of shapes for several inputs. It is required if no weight of
        an input is a matrix.
    unit_resistance : bool, default False
        By default :math:`R = 1 / (1 - \beta)` compensates the factor :math:`1 - \beta` of the input, which cells only
        have with ``norm_input``. If True, :math:`R = 1` and the weights have this factor. Some importers ignore
        :math:`R`, such as norse's for LIF.

    Returns
    -------
    nir.NIRGraph
        For a list, nodes ``input``, ``layer0.drive``, ``layer0.neurons`` and so on, and ``output``. For a graph, inputs
        and layers keep their names. The weights of layer ``a`` from source ``b`` are ``a.drive.b``, with the delay
        ``a.delay.b``. Several outputs are ``a.output`` and so on. Recurrent neurons are a subgraph with nodes
        ``input``, ``neurons``, ``recurrent`` and ``output``.

    Raises
    ------
    ValueError
        If NIR does not support a cell: spike types other than the step, a reset by subtraction, a delayed reset, an
        adaptive threshold or a refractory period. If a function is not a product, a convolution or a change of shape,
        or if a join does more than add its sources. If NIR does not have a node for a decay factor of 1, or of 0 with
        ``"exact"``.
    TypeError
        If ``network`` is not a :class:`~spikegrad.Network` or ``dt`` is not a number.

    See Also
    --------
    from_nir : Import a graph.

    Notes
    -----
    ======================================  ==========================================================================
    spikegrad                               NIR
    ======================================  ==========================================================================
    ``weight``, ``bias``, ``recurrent``     ``Linear``, ``Affine``, ``Conv1d``, ``Conv2d``, ``Flatten``
    several sources, joins that add         several edges into one node
    ``Delayed``, ``Window`` of matrices     ``Delay`` and ``Linear``
    ``LIF``                                 ``LIF``, or ``IF`` if the decay is 1
    ``SynapticLIF``                         ``CubaLIF``, with :math:`w_\mathrm{in} = 1 / (1 - \gamma)`
    ``reset="none"``                        ``LI``, ``I`` or ``CubaLI``, and a ``Threshold``
    ``LeakyReadout``                        ``LI``, or ``I`` if the decay is 1, or no node if it is 0
    ======================================  ==========================================================================

    A neuron fires above its threshold in NIR, and at its threshold in spikegrad. So the graph has the largest number
    below the threshold, such as 0.99999994 for 1. Images have channels first in NIR.

    Each loop takes one time step by itself, as in nirtorch. NIR does not define this. So one delayed edge of each loop
    loses one step: its ``Delay`` is :math:`(d - 1)\,\Delta t`, and is omitted for a delay of 1. The weights of such an
    edge are called ``a.recurrent.b``. If loops overlap and no choice of edges meets each loop once, an error is raised.

    References
    ----------
    Pedersen et al. 2024, "Neuromorphic intermediate representation: A unified instruction set for interoperable
    brain-inspired computing", Nature Communications 15:8122.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.exchange import to_nir
    >>> network = Network([Layer(jnp.ones((3, 2)), LIF(0.9, reset="value"))])
    >>> graph = to_nir(network, dt=1e-3, discretization="euler")
    >>> list(graph.nodes)
    ['input', 'layer0.drive', 'layer0.neurons', 'output']
    >>> graph.nodes["layer0.neurons"].tau.round(6).tolist()
    [0.01, 0.01]
    """
    if not isinstance(network, Network):
        raise TypeError(f"to_nir: network must be a Network, got {type(network).__name__}")
    leak, graph = make_leak("to_nir", dt, discretization), network.graph
    _check_joins(graph)
    signals, reads = _read_all(graph, _input_shapes(graph, input_shape))
    off, made = _steps_off(graph), _Made(isinstance(network.layers, Mapping), len(graph.layers))
    for name in graph.inputs:
        made.add(name, nir.Input(input_type={"input": np.array(signals[name].in_nir)}))
        made.ends[name] = [str(name)]
    read_by = {name: [edge.source for edge in edges] for name, edges in graph.edges.items()}
    for name in in_order(read_by, off):
        node = graph.nodes[name]
        if isinstance(node, Join):
            made.ends[name] = [end for source in node.of for end in made.ends[source]]
            continue
        own = signals[name]
        neurons = _neurons(node.cell, own.signal, own.dtype, leak, text_of(name))
        if unit_resistance and neurons:
            factor, neurons[0].r = neurons[0].r, np.ones_like(neurons[0].r)
            for _, read in reads[name]:
                _scale(read.nodes, factor, text_of(name))
        chains, back = [], []
        for edge, read in reads[name]:
            steps = edge.lags[0] - ((edge.source, name) in off)
            delay = [nir.Delay(np.full(signals[edge.source].in_nir, steps * leak.dt))] if steps else []
            if edge.source != name:
                kind = "recurrent" if (edge.source, name) in off else "drive"
                chains.append((edge.source, kind, [*delay, *read.nodes]))
            elif neurons and read.nodes:
                back.append([*delay, *read.nodes])
            else:
                raise ValueError(
                    f"to_nir: {text_of(name)} is recurrent without neurons, or without weights, in between"
                )
        if made.named and not neurons and (len(chains) > 1 or not chains[0][2]):
            neurons = [nir.Scale(np.ones(own.in_nir))]  # has the name of the layer and adds its sources
        made.add_layer(name, chains, neurons, back)
    outputs = network._output_names
    for name in outputs:
        output = nir.Output(output_type={"output": np.array(signals[name].in_nir)})
        # from_nir gives a join its name by its Output
        single = len(outputs) == 1 and name in graph.layers
        made.link(name, [made.add("output" if single else f"{name}.output", output)])
    _check_finite(made.nodes)
    metadata = {"dt": leak.dt, "discretization": leak.discretization}
    return nir.NIRGraph(nodes=made.nodes, edges=made.finished(), metadata=metadata)


def _check_joins(graph: Graph) -> None:
    for name, node in graph.nodes.items():
        if isinstance(node, Join) and node.over_time:
            raise ValueError(
                f"to_nir: the join {name!r} takes complete sequences, which NIR does not support; fold a normalization "
                "into the weights (fold_normalization)"
            )


def _input_shapes(graph: Graph, given: Any) -> dict[Name, tuple[int, ...]]:
    """Return the shape of one step of one example for each input."""
    if isinstance(given, Mapping):
        if {*given} != {*graph.inputs}:
            raise ValueError(f"to_nir: input_shape must have the keys {list(graph.inputs)}, got {list(given)}")
        return {name: checked_shape(f"to_nir: input_shape[{name!r}]", given[name]) for name in graph.inputs}
    if given is not None:
        if len(graph.inputs) > 1:
            raise TypeError(f"to_nir: input_shape must be a dict with the keys {list(graph.inputs)}, got {given!r}")
        return dict.fromkeys(graph.inputs, checked_shape("to_nir: input_shape", given))
    shapes: dict[Name, tuple[int, ...]] = {}
    for name in graph.layers:
        for edge, weight in graph.connections(name):
            if (matrix := matrix_of(weight)) is not None:
                shapes[edge.source] = matrix.shape[:1]
    for name, node in reversed(graph.nodes.items()):
        if isinstance(node, Join) and name in shapes:  # the sources of a sum have its shape
            shapes |= dict.fromkeys(node.of, shapes[name])
    for name in graph.inputs:
        if name not in shapes:
            raise ValueError(f"to_nir: no weight of {name!r} is a matrix: give input_shape, of one step of one example")
    return {name: shapes[name] for name in graph.inputs}


class _Output(NamedTuple):
    """The output of a node: the place of a signal."""

    signal: Signal
    dtype: Any

    @property
    def in_nir(self) -> tuple[int, ...]:
        return self.signal.to_nir(np.empty(self.signal.example)).shape


def _read_all(graph: Graph, shapes: dict[Name, tuple[int, ...]]) -> tuple[dict, dict]:
    """Return the output of each node, and the edges of each layer with the NIR nodes of their weights."""
    dtype = jnp.result_type(float)
    states, _ = initial_states(graph, {n: jax.ShapeDtypeStruct((1, *shape), dtype) for n, shape in shapes.items()})
    found = {name: _Output(Signal((1, *shape), shape), dtype) for name, shape in shapes.items()}

    def read(name: Name, edge: Edge, weight: Any) -> Signal:
        layer, source = graph.nodes[name], found[edge.source]
        first = edge == graph.edges[name][0]
        if edge.windowed:
            raise ValueError(f"to_nir: {text_of(name)} has a function of a window, which NIR does not support")

        def current(x):
            out = product(weight, x, edge.label)
            return plus_bias(layer, out) if first else out

        try:
            return read_operations(current, source.signal, source.dtype)
        except UnknownError as error:
            raise ValueError(f"to_nir: {text_of(name)} has a function that NIR does not support: {error}") from None

    for name in graph.layers:  # a convolution determines the order of the axes of the inputs
        for edge, weight in graph.connections(name):
            if edge.source in shapes and len(shapes[edge.source]) > 1:
                known, last = found[edge.source], read(name, edge, weight).channels_last
                if known.signal.channels_last is None:
                    found[edge.source] = known._replace(signal=dataclasses.replace(known.signal, channels_last=last))
    reads: dict[Name, dict[str, tuple[Edge, Signal]]] = {name: {} for name in graph.layers}
    for name, node in graph.nodes.items():
        if isinstance(node, Join):
            found[name] = _summed(name, node, [found[source] for source in node.of])
            continue
        for edge, weight in graph.connections(name):
            if edge.source in found:
                reads[name][edge.label] = edge, read(name, edge, weight)
        orders = {one.channels_last for _, one in reads[name].values()}
        _, spikes = states[name]
        found[name] = _Output(Signal(spikes.shape, spikes.shape[1:], _order(text_of(name), orders)), spikes.dtype)
    for name in graph.layers:  # edges from nodes that come later
        for edge, weight in graph.connections(name):
            if edge.label not in reads[name]:
                reads[name][edge.label] = edge, read(name, edge, weight)
    return found, {name: [own[edge.label] for edge in graph.edges[name]] for name, own in reads.items()}


def _summed(name: Name, join: Join, sources: list[_Output]) -> _Output:
    """Return the output of a join. Raise if it is not the sum of its sources."""
    examples = [jax.ShapeDtypeStruct(source.signal.shape, source.dtype) for source in sources]
    if not is_sum(join.function, examples):
        raise ValueError(f"to_nir: the join {name!r} must add outputs of one shape, as in lambda a, b: a + b")
    order = _order(f"the join {name!r}", {source.signal.channels_last for source in sources})
    signal = dataclasses.replace(sources[0].signal, channels_last=order)
    return _Output(signal, jnp.result_type(*(source.dtype for source in sources)))


def _order(owner: str, orders: set[bool | None]) -> bool | None:
    known = orders - {None}
    if len(known) > 1:
        raise ValueError(f"to_nir: {owner} must add arrays of one order of axes, got channels first and last")
    return next(iter(known), None)


def _steps_off(graph: Graph) -> frozenset[tuple[Name, Name]]:
    """Return the sources and targets of edges that lose a step, which each loop in NIR takes by itself."""
    edges: dict[tuple[Name, Name], bool] = {}
    for name, own in graph.edges.items():
        for edge in own:
            if edge.source in graph.nodes:
                edges[edge.source, name] = edges.get((edge.source, name), True) and min(edge.lags) > 0
    cycles = loops("to_nir", edges)
    delayed = {edge for edge, late in edges.items() if late}
    read_by = [(edge.source, name) for name, own in graph.edges.items() for edge in own]
    back = returning(graph.inputs, read_by, cycles, delayed)
    found = next(cuts(cycles, back), next(cuts(cycles, delayed), None))
    if found is None:
        names = sorted({repr(name) for cycle in cycles for name, _ in cycle})
        raise ValueError(
            f"to_nir: each loop in NIR takes one step by itself, and no choice of delayed weights of "
            f"{', '.join(names)} has one in each loop; delay other weights"
        )
    return found


class _Made:
    """The nodes and edges so far."""

    def __init__(self, named: bool, count: int) -> None:
        self.named, self.digits = named, len(str(count - 1))
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.ends: dict[Name, list[str]] = {}
        """The nodes that add up to the output of a layer, join or input."""
        self.waiting: list[tuple[Name, str]] = []
        """Edges from layers that come later."""

    def add(self, name: Any, node: Any) -> str:
        if name in self.nodes:
            raise ValueError(f"to_nir: two nodes would have the name {name!r}; rename an entry of the network")
        if "\0" in name:  # the format of the file ends names there
            raise ValueError(
                f"to_nir: the name {name!r} must not have a null character; rename an entry of the network"
            )
        self.nodes[name] = node
        return name

    def link(self, source: Name, path: list[str]) -> None:
        """Add edges from the output of a layer, join or input along nodes."""
        if source in self.ends:
            self.edges += [(end, path[0]) for end in self.ends[source]]
        else:
            self.waiting.append((source, path[0]))
        self.edges += itertools.pairwise(path)

    def add_layer(self, name: Name, chains: list[tuple[Name, str, list]], neurons: list, back: list[list]) -> None:
        """Add the weights of each source, the neurons, and their recurrent weights."""
        # In a file the names are sorted. The order of the layers of a list is alphabetical.
        prefix = name if self.named else f"layer{name:0{self.digits}}"
        paths = []
        for source, kind, nodes in chains:
            suffix = f".{source}" if self.named else ""
            taken = _named(nodes, lambda kind, n, suffix=suffix: f"{prefix}.{kind}{n}{suffix}", kind, self.nodes)
            if self.named and not neurons:  # the last node has the name of the layer
                *others, last = taken
                taken = {one: taken[one] for one in others} | {str(name): taken[last]}
            paths.append((source, [self.add(one, node) for one, node in taken.items()]))
        inner = _named(neurons, lambda kind, n: f"{kind}{n}", "neurons", {})
        if back:
            body = _recurrent(inner, back)
            ends = [self.add(name if self.named else f"{prefix}.neurons", body)]
        else:
            names = [f"{prefix}.{one}" for one in inner]
            if self.named and names:
                names[-1] = str(name)
            ends = [self.add(one, node) for one, node in zip(names, neurons, strict=True)]
        for source, path in paths:
            if path or ends:
                self.link(source, [*path, *ends[:1]])
        self.edges += itertools.pairwise(ends)
        last = [end for source, path in paths for end in (path[-1:] or self.ends[source])]
        self.ends[name] = ends[-1:] or last

    def finished(self) -> list[tuple[str, str]]:
        """Return all edges. Raise if NIR does not support them."""
        edges = [*self.edges, *((end, target) for source, target in self.waiting for end in self.ends[source])]
        (edge, count), *_ = collections.Counter(edges).most_common(1)
        if count > 1:
            raise ValueError(
                f"to_nir: {edge[0]!r} enters {edge[1]!r} twice, because joins add it twice, but NIR has each edge once"
            )
        sources = {source for source, _ in edges}
        for name, node in self.nodes.items():
            if name not in sources and not isinstance(node, nir.Output):
                raise ValueError(f"to_nir: {name!r} must have readers or be an output; remove it")
        return edges


def text_of(name: Name) -> str:
    return f"layer {name!r}"


def _check_finite(nodes: dict[str, Any]) -> None:
    """Raise if a parameter is not finite, because importers do not check this."""
    for name, node in nodes.items():
        if isinstance(node, nir.NIRGraph):
            _check_finite({f"{name}/{inner}": of for inner, of in node.nodes.items()})
            continue
        for field, values in vars(node).items():
            if isinstance(values, np.ndarray) and values.dtype.kind == "f":
                check_finite(f"to_nir: {name!r} ({type(node).__name__})", field, values)


def _named(nodes: Sequence[Any], form: Callable[..., str], kind: str, taken: Mapping[str, Any]) -> dict[str, Any]:
    """Name nodes by ``form(kind, number)``. Delay, Flatten and Threshold have their own kinds."""
    kinds = {nir.Flatten: "flatten", nir.Threshold: "threshold", nir.Delay: "delay"}
    named: dict[str, Any] = {}
    for node in nodes:
        forms = (form(kinds.get(type(node), kind), n or "") for n in itertools.count())
        named[next(name for name in forms if name not in named and name not in taken)] = node
    return named


def _recurrent(neurons: dict[str, Any], back: list[list]) -> nir.NIRGraph:
    """Return recurrent neurons as a subgraph, as importers expect."""
    first, last = next(iter(neurons)), next(reversed(neurons))
    shape = neurons[first].input_type["input"]
    nodes = {"input": nir.Input(input_type={"input": shape}), **neurons}
    edges = [*itertools.pairwise(["input", *neurons])]  # norse depends on this order
    for chain in back:
        weights = _named(chain, lambda kind, n: f"{kind}{n}", "recurrent", nodes)
        nodes |= weights
        edges += itertools.pairwise([last, *weights, first])
    nodes["output"] = nir.Output(output_type={"output": shape})
    return nir.NIRGraph(nodes=nodes, edges=[*edges, (last, "output")])


def _neurons(cell: Any, signal: Signal, dtype: Any, leak: Leak, layer: str) -> list[Any]:
    """Return the nodes of a cell. The first node receives the current."""
    owner = f"to_nir: {layer}: {type(cell).__name__}"
    kind = vars(type(cell)).get("nir_node")
    if kind is None:
        raise ValueError(f"{owner} is not supported by NIR; train with LIF or SynapticLIF to exchange the network")
    fires, has_synapse = kind != "LI", kind == "CubaLIF"
    if fires and spike_types(cell):
        raise ValueError(f"{owner} has {cell.surrogate!r}, and neurons in NIR spike once or not at all")
    resets = fires and cell.reset == "value"
    if fires and cell.reset == "subtract":
        raise ValueError(f"{owner} resets by subtraction, but NIR resets to a value; train with reset='value'")
    if resets and cell.delay_reset:
        raise ValueError(f"{owner} resets a step late, but NIR resets at once; train with delay_reset=False")

    def values(name: str) -> np.ndarray:
        value = getattr(cell, name)
        value = np.asarray(value if isinstance(value, float) else jnp.asarray(value), np.float64)
        check_finite(owner, name, value)
        return np.ascontiguousarray(signal.to_nir(np.broadcast_to(value, (1, *signal.example))[0]))

    decay = values("decay")
    if not fires and not decay.any():
        return []
    ends: dict[str, Any] = {}
    if resets:
        ends = {"v_threshold": _below(values("threshold"), dtype), "v_reset": values("reset_value")}
    if (decay == 1).all() and not has_synapse:
        if cell.norm_input:
            raise ValueError(f"{owner}: decay must be below 1 with norm_input, or the input would be scaled to 0")
        node = (nir.IF if resets else nir.I)(r=np.full_like(decay, 1 / leak.dt), **ends)
    else:
        tau, r = _time_constant(leak, decay, owner, "decay")
        if cell.norm_input:
            r = np.ones_like(decay)
        ends |= {"r": r, "v_leak": np.zeros_like(decay)}
        if has_synapse:
            tau_syn, w_in = _time_constant(leak, values("synaptic_decay"), owner, "synaptic_decay")
            node = (nir.CubaLIF if resets else nir.CubaLI)(tau_syn=tau_syn, tau_mem=tau, w_in=w_in, **ends)
        else:
            node = (nir.LIF if resets else nir.LI)(tau=tau, **ends)
    return [node, nir.Threshold(_below(values("threshold"), dtype))] if fires and not resets else [node]


def _time_constant(leak: Leak, decay: np.ndarray, owner: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the time constant, and the factor that compensates the factor of the input."""
    if (decay >= 1).any():
        raise ValueError(
            f"{owner}: {name} must be below 1, or 1 for all neurons of a LIF, because tau would be infinite"
        )
    if leak.discretization == "exact" and (decay <= 0).any():
        raise ValueError(f"{owner}: {name} must be above 0 with discretization='exact', because tau would be 0")
    if (decay < 0).any():
        raise ValueError(f"{owner}: {name} must be 0 or more, got {decay.min()}")
    with np.errstate(over="ignore"):  # the check of the graph reports infinite values
        return leak.tau(decay), 1 / (1 - decay)


def _below(threshold: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the largest number below the threshold in the dtype of the potential."""
    dtype = np.float64 if dtype == np.float64 else np.float32
    return np.nextafter(threshold.astype(dtype), dtype(-np.inf))


def _scale(nodes: Sequence[nir.NIRNode], factor: np.ndarray, layer: str) -> None:
    """Multiply the weights of each neuron by a factor."""
    last: Any = nodes[-1] if nodes else None
    of_channels = factor.reshape(len(factor), -1)
    if isinstance(last, (nir.Linear, nir.Affine)):
        factor = factor.reshape(-1)
    elif isinstance(last, (nir.Conv1d, nir.Conv2d)) and (of_channels == of_channels[:, :1]).all():
        factor = of_channels[:, 0]
    else:
        raise ValueError(f"to_nir: {layer} must have a weight for each neuron, to apply the factor of unit_resistance")
    last.weight = (last.weight * factor.reshape(-1, *[1] * (last.weight.ndim - 1))).astype(last.weight.dtype)
    if not isinstance(last, nir.Linear):
        last.bias = (last.bias * factor).astype(last.bias.dtype)
