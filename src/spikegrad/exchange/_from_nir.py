"""Import of networks from NIR."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import nir
import numpy as np

from .. import neurons
from .._checks import brief, shorten
from ..network import Delayed, Join, Layer, Network, Window
from ..network._connections import is_matrix
from ..neurons import LIF, Cell, LeakyReadout
from ._functions import Chain, Convolution, Flatten, Product, Scale, Shift, add
from ._leak import Leak, make_leak
from ._loops import in_order
from ._parameters import Shape, axes, check_finite, numbers, of_signal, owner_of, shape_of
from ._parts import FIRE, NEURONS, Part, Parts, late_edges

_CELLS: dict[str, Any] = {
    node: cls for cls in vars(neurons).values() if isinstance(cls, type) and (node := vars(cls).get("nir_node"))
}


def from_nir(
    graph: nir.NIRGraph,
    *,
    dt: float,
    discretization: str,
    surrogate: Callable[[jax.Array], jax.Array] = LIF.surrogate,
) -> Network:
    r"""Convert a graph of NIR, the neuromorphic intermediate representation, to a network.

    Parameters
    ----------
    graph : nir.NIRGraph
        Weights, neurons, delays, sums and loops, for example from ``nir.read``.
    dt : float
        Length :math:`\Delta t` of a time step of the network, in seconds.
    discretization : {"exact", "euler"}
        Conversion of a time constant to a decay factor: :math:`e^{-\Delta t/\tau}` or :math:`1 - \Delta t/\tau`. To
        reproduce another simulator, pass its method, such as Euler for snnTorch and norse.
    surrogate : callable, default Sigmoid()
        The surrogate of all neurons. NIR does not define surrogates.

    Returns
    -------
    Network
        Weights are matrices, or functions that are pytrees of their kernels. Images have channels first. If
        :math:`R = 1`, cells have ``norm_input``. Other factors of the input are in the weights. Layers have the names
        of their neurons. If each layer reads the previous layer, the network is a list without names, unless the nodes
        have the names that :func:`to_nir` gives to a graph.

    Raises
    ------
    ValueError
        If spikegrad does not support a node, or if a node is not on a path from an input to an output. If a parameter
        is not finite or has another shape than its input. If a time constant is shorter than a time step of Euler's
        method, or if a delay is not a multiple of ``dt`` or needs more than :math:`2^{31} - 1` stored values of an
        example. If the graph does not define the edge of a loop that takes a step.
    TypeError
        If ``graph`` is not a NIRGraph, ``dt`` is not a number, or a parameter is not an array of real numbers.

    See Also
    --------
    to_nir : Export a network, with a table of the nodes.

    Notes
    -----
    Neurons start at ``v_leak``. Potentials, ``v_threshold`` and ``v_reset`` are converted to differences from it. A
    neuron fires above its threshold in NIR, so the threshold of the cell is the next larger number.

    Each loop takes one time step more than its delays. The step is on the edge with nodes called ``a.recurrent``,
    for the target ``a``. Without such names it is on the edge that leads back towards the inputs.

    Examples
    --------
    >>> import nir, numpy as np
    >>> from spikegrad.exchange import from_nir
    >>> linear, ones = nir.Linear(np.ones((2, 3))), np.ones(2)
    >>> graph = nir.NIRGraph.from_list(
    ...     linear,
    ...     nir.LIF(tau=0.01 * ones, r=ones, v_leak=0 * ones, v_threshold=ones),
    ... )
    >>> (layer,) = from_nir(graph, dt=1e-3, discretization="euler").layers
    >>> (
    ...     layer.weight.shape,
    ...     layer.cell.decay,
    ...     layer.cell.reset,
    ...     layer.cell.norm_input,
    ... )
    ((3, 2), 0.9, 'value', True)
    """
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"from_nir: graph must be a NIRGraph, got {type(graph).__name__}")
    leak = make_leak("from_nir", dt, discretization)
    try:
        nodes, edges = _flat(graph)
    except RecursionError:
        raise ValueError("from_nir: graph must not contain itself or a hundred nested graphs") from None
    parts = Parts(graph.nodes, nodes, edges)
    read = _Read(parts, late_edges(parts), leak, surrogate)
    entries: dict[str, Layer | Join] = {name: Join(add, of) for name, of in parts.joins.items()}
    entries |= {name: read.layer(name) for name in parts.layers}
    outputs = read.outputs()
    if (stack := _stack(parts, entries)) is not None:
        return Network(stack)
    ends = {"inputs": parts.inputs, "outputs": outputs}
    return Network(entries, **{what: names[0] if len(names) == 1 else names for what, names in ends.items()})


class _Read:
    """The cells of the layers, and the functions and shapes of their weights."""

    def __init__(self, parts: Parts, late: frozenset[tuple[str, str]], leak: Leak, surrogate: Any) -> None:
        self.parts, self.late, self.leak = parts, late, leak
        self.signals = {
            name: shape_of(owner_of(name, parts.nodes[name]), parts.nodes[name].input_type, "input")
            for name in parts.inputs
        }
        self.cells: dict[str, tuple[Cell, np.ndarray]] = {}
        self.functions: dict[str, dict[int, list]] = {name: {} for name in parts.layers}
        for name in in_order(parts.sources, late):
            if name in parts.joins:
                shapes = {self.signals[source] for source in parts.joins[name]} - {None}
                if len(shapes) > 1:
                    raise ValueError(f"from_nir: outputs must have one shape to be added, got {shapes} of {name!r}")
                self.signals[name] = next(iter(shapes), None)
                continue
            for n, source in enumerate(parts.read[name]):
                if source in self.signals and source != name:
                    signal = self._read(name, n)
                    if name not in self.cells:
                        self.cells[name], self.signals[name] = _cell(parts.layers[name], leak, surrogate, signal)
            if name not in self.cells:  # all its weights arrive later
                part = parts.layers[name]
                _, signal = _functions(part.chains[0].operations, None)
                self.cells[name], self.signals[name] = _cell(part, leak, surrogate, signal)

    def _read(self, name: str, n: int) -> Shape | None:
        chain = self.parts.layers[name].chains[n]
        source = self.signals[self.parts.read[name][n]]
        self.functions[name][n], signal = _functions(chain.operations, source)
        if name in self.cells and self.signals[name] not in (None, signal):
            neurons = self.parts.layers[name].neurons
            owner = owner_of(*[*([neurons] if neurons else []), *chain.operations][-1])
            raise ValueError(f"{owner}: the output must have shape {self.signals[name]}, got {signal}")
        return signal

    def layer(self, name: str) -> Layer:
        part, (cell, gain) = self.parts.layers[name], self.cells[name]
        weights: dict[str, dict[int, list]] = {}
        bias = None
        for n, (chain, source) in enumerate(zip(part.chains, self.parts.read[name], strict=True)):
            if n not in self.functions[name]:
                self._read(name, n)
            named = [*chain.delays, *chain.operations, *([part.neurons] if part.neurons else [])]
            weight, more = _weight(owner_of(*named[-1]) if named else "from_nir", self.functions[name][n], gain)
            bias = more if bias is None else bias if more is None else bias + more
            lag = _lag(chain.delays, self.leak, self.signals[source]) + ((source, name) in self.late)
            weights.setdefault(source, {}).setdefault(lag, []).append(weight)
        own = {source: _combined(name, source, lags) for source, lags in weights.items()}
        recurrent = own.pop(name, None) if len(own) > 1 else None
        if isinstance(recurrent, Delayed) and recurrent.delay == 1:
            recurrent = recurrent.weight
        if len(own) == 1:
            ((source, weight),) = own.items()
            return Layer(weight, cell, recurrent, bias, of=source)
        return Layer(own, cell, recurrent, bias)

    def outputs(self) -> list[str]:
        """Return the names of the outputs, with checked shapes."""
        for end, name in self.parts.outputs.items():
            shape = shape_of(owner_of(end, self.parts.nodes[end]), self.parts.nodes[end].output_type, "output")
            if None not in (self.signals[name], shape) and self.signals[name] != shape:
                raise ValueError(
                    "from_nir: the shape of the Output must equal the shape of the last node, "
                    f"{self.signals[name]}, got {shape}"
                )
        names = [*self.parts.outputs.values()]
        if len({*names}) < len(names):
            raise ValueError(f"from_nir: each Output must read another node, got {brief(self.parts.outputs)}")
        return names


def _stack(parts: Parts, entries: dict[str, Layer | Join]) -> list[Layer] | None:
    """Return the layers as a list if each reads the previous layer and nodes are not named by layers, or else None."""
    reader = {entry.of: name for name, entry in entries.items() if isinstance(entry, Layer)}
    layers: list[Layer] = []
    name = parts.inputs[0]
    while (name := reader.pop(name, "")) and isinstance(entry := entries[name], Layer):
        if isinstance(entry.weight, (Mapping, Delayed, Window)):
            return None
        layers.append(dataclasses.replace(entry, of=None))
    names = [
        [node.startswith(f"{name}.") for node, _ in (*chain.delays, *chain.operations)]
        for name, part in parts.layers.items()
        for chain in part.chains
        if part.neurons is not None and name not in chain.sources
    ]
    named = any(names) and all(map(all, names))
    whole = len(layers) == len(entries) and len(parts.inputs) == len(parts.outputs) == 1
    return layers if whole and not named else None


def _lag(delays: list[tuple[str, Any]], leak: Leak, signal: Shape | None) -> int:
    """Return the sum of delays in time steps. A network stores the signals of all these steps."""
    steps, most = 0, _LARGEST // math.prod(signal or ())
    for name, node in delays:
        owner = owner_of(name, node)
        steps += _steps(owner, node, leak)
        if steps > most:
            raise ValueError(
                f"{owner}: delay must be at most {most:,} time steps of dt={leak.dt:g}, because a network stores a "
                f"signal of shape {signal} for each, got {steps:,}"
            )
    return steps


def _steps(owner: str, node: nir.Delay, leak: Leak) -> int:
    """Return the delay in time steps."""
    delays = numbers(owner, node, "delay")
    if not delays.size or (delays != delays.flat[0]).any():
        raise ValueError(f"{owner}: delay must be one number for all, got {brief(node.delay)}")
    steps = float(delays.flat[0]) / leak.dt
    if round(steps) < 0 or abs(steps - round(steps)) > 1e-6 * max(1.0, steps):
        raise ValueError(f"{owner}: delay must be a multiple of dt, 0 or more, got {delays.flat[0]} for dt={leak.dt}")
    return round(steps)


def _combined(name: str, source: str, lags: dict[int, list]) -> Any:
    """Combine the weights of a source, given by delay, into one weight."""
    (lag, weights), *others = lags.items()
    if not others and len(weights) == 1:
        return Delayed(weights[0], lag) if lag else weights[0]
    if not all(is_matrix(weight) for weights in lags.values() for weight in weights):
        raise ValueError(
            f"from_nir: {brief(name)} reads {brief(source)} by several nodes; add up their weights, or use only Linear"
        )
    first, last = min(lags), max(lags)
    matrices = [sum(lags.get(lag, [])) + jnp.zeros_like(weights[0]) for lag in range(first, last + 1)]
    if first == last:
        return Delayed(matrices[0], first) if first else matrices[0]
    return Window(jnp.stack(matrices), delay=first)


def _flat(graph: nir.NIRGraph, prefix: str = "") -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return nodes and edges, including subgraphs."""
    owner = f"from_nir: {brief(prefix[:-1])} (NIRGraph)" if prefix else "from_nir: graph"
    found = getattr(graph, "nodes", None)
    if not isinstance(found, dict):
        raise TypeError(f"{owner}: nodes must be a dict, got {type(found).__name__}")
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    ends: dict[str, tuple[str, str]] = {}
    for key, node in found.items():
        if not isinstance(key, str) or not isinstance(node, nir.NIRNode):
            raise TypeError(f"{owner}: nodes must be NIR nodes by their names, got {brief(node)} by {brief(key)}")
        name = prefix + key
        inner: dict[str, Any] = {name: node}
        ends[key] = name, name
        if isinstance(node, nir.NIRGraph):
            inner, more = _flat(node, f"{name}/")
            edges += more
            if len(node.inputs) != 1 or len(node.outputs) != 1:
                raise ValueError(f"from_nir: the graph {brief(name)} must have one Input and one Output")
            ends[key] = f"{name}/{next(iter(node.inputs))}", f"{name}/{next(iter(node.outputs))}"
        if twice := sorted(inner.keys() & nodes.keys()):
            raise ValueError(f"{owner}: two nodes have the name {brief(twice[0])}; rename one")
        nodes |= inner
    return nodes, edges + [(ends[source][1], ends[target][0]) for source, target in _edges(owner, graph)]


def _edges(owner: str, graph: nir.NIRGraph) -> list[tuple[str, str]]:
    """Return the checked edges of a graph."""
    found: dict[tuple[str, str], None] = {}
    given: Any = getattr(graph, "edges", None)
    try:
        edges = [tuple(edge) for edge in given]
    except TypeError:
        raise TypeError(f"{owner}: edges must be pairs of names of nodes, got {brief(given)}") from None
    for edge in edges:
        if len(edge) != 2 or not all(isinstance(name, str) for name in edge):
            raise TypeError(f"{owner}: edges must be pairs of names of nodes, got {brief(edge)}")
        for name in edge:
            if name not in graph.nodes:
                raise ValueError(
                    f"{owner}: edges must be between nodes of the graph, got {brief(edge)} without a node {brief(name)}"
                )
        if isinstance(graph.nodes[edge[0]], nir.Output):
            raise ValueError(
                f"{owner}: the Output {brief(edge[0])} must be the end of a path, got an edge to {brief(edge[1])}"
            )
        if isinstance(graph.nodes[edge[1]], nir.Input):
            raise ValueError(
                f"{owner}: the Input {brief(edge[1])} must be the start of a path, got an edge from {brief(edge[0])}"
            )
        if edge in found:
            raise ValueError(f"{owner}: the edge {brief(edge)} occurs twice")
        found[edge] = None
    return list(found)


def _cell(part: Part, leak: Leak, surrogate: Any, signal: Shape | None) -> tuple[tuple[Cell, np.ndarray], Shape | None]:
    """Return the cell of a layer and the factor of its input, and the shape of its output."""
    if part.neurons is None:
        return (LeakyReadout(decay=0.0), np.ones(())), signal
    cell, gain, signal = _neurons(part.neurons, part.threshold, leak, surrogate, signal)
    return (cell, gain), signal


def _neurons(
    neurons: tuple[str, Any], with_threshold: tuple[str, Any] | None, leak: Leak, surrogate: Any, signal: Shape | None
) -> tuple[Cell, np.ndarray, Shape | None]:
    """Return the cell for a node of neurons, the factor of its input, and the shape of its output."""
    name, node = neurons
    owner = owner_of(name, node)
    if signal is None:  # not defined by the Input or a weight
        signal = shape_of(owner, node.input_type, "input")

    def values(parameter: str) -> np.ndarray:
        return of_signal(owner, node, parameter, signal)

    if isinstance(node, nir.Threshold):
        return LIF(0.0, _above(owner, values("threshold")), surrogate, "none"), np.ones(()), signal
    fires, rest = isinstance(node, FIRE), np.zeros(())
    cell: dict[str, Any] = {}
    gain = values("r")
    if isinstance(node, (nir.IF, nir.I)):
        cell["decay"], gain = 1.0, gain * leak.dt
    else:
        rest = values("v_leak")
        decay = _decay(values("tau_mem" if hasattr(node, "tau_mem") else "tau"), leak, owner)
        cell["decay"] = _parameter(owner, "decay", decay)
        if (gain == 1).all():
            cell["norm_input"], gain = True, np.ones(())
        else:
            gain = gain * (1 - decay)
    if not fires and with_threshold is None:
        if rest.any():
            raise ValueError(
                f"{owner}: v_leak must be 0 for neurons that do not fire, because their potential is the output"
            )
        if hasattr(node, "tau_syn"):
            raise ValueError(f"{owner}: a synapse needs neurons that fire, a CubaLIF, or a Threshold after it")
        return _CELLS["LI"](**cell), gain, signal
    if hasattr(node, "tau_syn"):
        synapse = _decay(values("tau_syn"), leak, owner)
        cell["synaptic_decay"] = _parameter(owner, "synaptic_decay", synapse)
        gain = gain * values("w_in") * (1 - synapse)
    cell |= {"surrogate": surrogate, "reset": "none"}
    if with_threshold is None:
        reset = _parameter(owner, "v_reset - v_leak", values("v_reset") - rest)
        cell |= {"threshold": _above(owner, values("v_threshold"), rest), "reset": "value", "reset_value": reset}
    else:
        of = owner_of(*with_threshold)
        cell["threshold"] = _above(of, of_signal(of, with_threshold[1], "threshold", signal), rest)
    return _CELLS["CubaLIF" if hasattr(node, "tau_syn") else "LIF"](**cell), gain, signal


def _decay(tau: np.ndarray, leak: Leak, owner: str) -> np.ndarray:
    if not (tau > 0).all():
        raise ValueError(f"{owner}: time constants must be > 0, got {tau.min()}")
    if leak.discretization == "euler":
        if (tau < leak.dt * (1 - 1e-6)).any():
            raise ValueError(
                f"{owner}: Euler's method needs a dt of at most the time constant, {tau.min()}, got {leak.dt}; "
                "pass a smaller dt or discretization='exact'"
            )
        tau = np.maximum(tau, leak.dt)  # the time constant may be rounded
    return leak.decay(tau)


def _parameter(owner: str, name: str, values: np.ndarray) -> float | jax.Array:
    """Return one number if all neurons have equal values, or else an array."""
    check_finite(owner, name, values)
    return float(values.flat[0]) if (values == values.flat[0]).all() else jnp.asarray(values, jnp.result_type(float))


def _above(owner: str, threshold: np.ndarray, rest: Any = 0.0) -> float | jax.Array:
    """Return the smallest potential above the threshold, relative to rest."""
    dtype = np.dtype(jnp.result_type(float)).type
    check_finite(owner, "v_threshold - v_leak", threshold - rest)
    above = np.nextafter(np.asarray(threshold - rest, dtype), dtype(np.inf))
    return _parameter(owner, "v_threshold - v_leak", above.astype(np.float64))


def _weight(owner: str, done: list[Any], gain: np.ndarray) -> tuple[Any, jax.Array | None]:
    """Combine functions and a factor of their output to a matrix or function, and a bias."""
    _multiply(done, gain)
    for values in jax.tree.leaves(done):
        check_finite(owner, "a weight times the factors after it", values)
    done = jax.tree.map(lambda values: jnp.asarray(values, jnp.result_type(float)), done)
    bias = done.pop().bias if done and isinstance(done[-1], Shift) else None
    if len(done) == 1:
        return (done[0].weight.T if isinstance(done[0], Product) else done[0]), bias
    return Chain(tuple(done)), bias


def _functions(nodes: Sequence[tuple[str, Any]], signal: Shape | None) -> tuple[list[Any], Shape | None]:
    """Return the functions of nodes, and the shape of their output."""
    done: list[Any] = []
    for name, node in nodes:
        owner = owner_of(name, node)
        if isinstance(node, nir.Scale):
            _multiply(done, of_signal(owner, node, "scale", signal))
            continue
        functions = _of_node(owner, node, signal)
        if signal is None and isinstance(functions[0], Product):
            signal = functions[0].weight.shape[1:]
        if signal is not None:
            signal = _output_shape(owner, functions, signal)
        done += functions
    return done, signal


def _of_node(owner: str, node: Any, signal: Shape | None) -> list[Any]:
    """Return the function of a node, and a second function for its bias."""
    if isinstance(node, nir.Flatten):
        count = None if signal is None else len(signal)
        first, last = (axes(owner, node, name, 1, -(10**6))[0] for name in ("start_dim", "end_dim"))
        if count is not None and not (
            -count <= first < count and -count <= last < count and first % count <= last % count
        ):
            raise ValueError(
                f"{owner}: start_dim and end_dim must be axes of {signal} in order, got {first} and {last}"
            )
        return [Flatten(first, last)]
    rank, function = 0, None
    if isinstance(node, (nir.Linear, nir.Affine)):
        weight = numbers(owner, node, "weight")
        if weight.ndim != 2 or not weight.size:
            raise ValueError(f"{owner}: the weight must be a matrix, got shape {weight.shape}")
        if signal is not None and signal != weight.shape[1:]:
            raise ValueError(f"{owner}: the input must have shape {weight.shape[1:]}, got {signal}")
        function = Product(weight)
    elif isinstance(node, (nir.Conv1d, nir.Conv2d)):
        rank = 1 if isinstance(node, nir.Conv1d) else 2
        weight = numbers(owner, node, "weight")
        if weight.ndim != rank + 2 or not weight.size:
            raise ValueError(f"{owner}: the weight must have {rank + 2} axes, got shape {weight.shape}")
        stride, dilation = axes(owner, node, "stride", rank, 1), axes(owner, node, "dilation", rank, 1)
        function = Convolution(
            weight, stride, _padding(owner, node, rank), dilation, axes(owner, node, "groups", 1, 1)[0]
        )
    else:
        raise ValueError(
            f"{owner} is not supported; use Affine, Linear, Scale, Conv1d, Conv2d, Flatten or, as "
            f"neurons, {', '.join(kind.__name__ for kind in NEURONS)}"
        )
    if getattr(node, "bias", None) is None:
        return [function]
    bias = numbers(owner, node, "bias")
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"{owner}: bias must have shape {weight.shape[:1]}, got {bias.shape}")
    return [function, Shift(bias.reshape(-1, *[1] * rank))]


def _padding(owner: str, node: Any, rank: int) -> Any:
    padding = node.padding.decode(errors="replace") if isinstance(node.padding, bytes) else node.padding
    if isinstance(padding, str):
        if padding.lower() not in ("same", "valid"):
            raise ValueError(f"{owner}: padding must be 'same', 'valid' or integers, got {brief(padding)}")
        return padding.upper()
    return tuple((n, n) for n in axes(owner, node, "padding", rank, 0))


def _output_shape(owner: str, functions: Sequence[Any], signal: Shape) -> Shape:
    """Return the shape of one example after functions. Raise if they do not take the input."""
    try:
        example = jax.ShapeDtypeStruct((1, *signal), jnp.result_type(float))
        out = jax.eval_shape(lambda chain, x: chain(x), Chain(tuple(functions)), example).shape[1:]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{owner} does not take an input of shape {signal}: {shorten(str(error).splitlines()[0])}"
        ) from None
    if not out or min(out) < 1 or math.prod(out) > _LARGEST:
        raise ValueError(
            f"{owner}: the output of an input of shape {signal} must have 1 to {_LARGEST:,} values, got shape {out}"
        )
    return out


_LARGEST = 2**31 - 1
"""Limit for the values of one example. XLA sometimes counts them in 32 bits, and aborts the process above it."""


def _multiply(done: list[Any], factor: Any) -> None:
    """Multiply the output: in the last weight and bias if possible, or else by another function."""
    factor = np.asarray(factor, np.float64)
    if (factor.astype(jnp.result_type(float)) == 1).all():
        return
    weights = [n for n, function in enumerate(done) if isinstance(function, (Product, Convolution))]
    if weights and all(isinstance(function, Shift) for function in done[weights[-1] + 1 :]):
        last = weights[-1]
        weight = done[last].weight
        of_outputs = np.broadcast_to(factor, (len(weight), *factor.shape[1:])).reshape(len(weight), -1)
        if (of_outputs == of_outputs[:, :1]).all():

            def scaled(values):
                return values * of_outputs[:, 0].reshape(-1, *[1] * (values.ndim - 1))

            done[last:] = [jax.tree.map(scaled, function) for function in done[last:]]
            return
    done.append(Scale(factor))
