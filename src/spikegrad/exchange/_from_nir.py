"""A graph of NIR as a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import nir
import numpy as np

from ..network import Layer, Network
from ..neurons import LIF, Cell, LeakyReadout, SynapticLIF
from ._functions import Chain, Convolution, Flatten, Product, Scale, Shift
from ._leak import Leak, make_leak

_NEURONS = (nir.LIF, nir.IF, nir.CubaLIF, nir.LI, nir.I, nir.CubaLI, nir.Threshold)


def from_nir(
    graph: nir.NIRGraph,
    *,
    dt: float,
    discretization: str,
    surrogate: Callable[[jax.Array], jax.Array] = LIF.surrogate,
) -> Network:
    r"""A graph of NIR, the neuromorphic intermediate representation, as a network.

    Parameters
    ----------
    graph : nir.NIRGraph
        Layers, one on the other, as ``nir.read`` returns them: weights, neurons, and weights from these neurons
        back to themselves if they are recurrent.
    dt : float
        Length :math:`\Delta t` of a step of the network, in seconds.
    discretization : {"exact", "euler"}
        How a time constant becomes a decay: :math:`e^{-\Delta t/\tau}` or :math:`1 - \Delta t/\tau`. To compute what
        another simulator does, state what that one does: Euler for snnTorch and norse.
    surrogate : callable, default Sigmoid()
        For all neurons: NIR has none.

    Returns
    -------
    Network
        Weights are matrices, or functions that are pytrees of their kernels. Images have channels first. Where
        :math:`R = 1`, cells have ``norm_input``; any other factor of the input is in the weights.

    Raises
    ------
    ValueError
        For nodes that have no counterpart here, a graph that is not one layer on the other, and a time constant that is
        shorter than a step of Euler's method.
    TypeError
        If ``graph`` is no NIRGraph, or ``dt`` no number.

    See Also
    --------
    to_nir : The way there, and what becomes what.

    Notes
    -----
    Neurons start at ``v_leak``, from which potentials are counted here, as are ``v_threshold`` and ``v_reset``. What
    comes back to a layer by its recurrent weights comes one step later. A neuron fires above its threshold in NIR: the
    threshold here is the next number, which is reached by the same potentials.

    Examples
    --------
    >>> import nir, numpy as np
    >>> from spikegrad.exchange import from_nir
    >>> linear, ones = nir.Linear(np.ones((2, 3))), np.ones(2)
    >>> graph = nir.NIRGraph.from_list(linear, nir.LIF(tau=0.01 * ones, r=ones, v_leak=0 * ones, v_threshold=ones))
    >>> (layer,) = from_nir(graph, dt=1e-3, discretization="euler").layers
    >>> layer.weight.shape, layer.cell.decay, layer.cell.reset, layer.cell.norm_input
    ((3, 2), 0.9, 'value', True)
    """
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"from_nir: graph must be a NIRGraph, got {type(graph).__name__}")
    leak = make_leak("from_nir", dt, discretization)
    layers = []
    for part in _parts(graph):
        if part.neurons is None:
            cell, gain = LeakyReadout(decay=0.0), np.ones(())
        else:
            cell, gain = _cell(part, leak, surrogate)
        weight, bias = _weight(part.operations, gain)
        recurrent = None
        if part.recurrent is not None:
            recurrent, more = _weight([part.recurrent], gain)
            bias = more if bias is None else bias if more is None else bias + more
        layers.append(Layer(weight, cell, recurrent, bias))
    return Network(layers)


class _Part(NamedTuple):
    """What becomes a layer."""

    operations: list[tuple[str, Any]]
    """Names and nodes of what is done to the inputs."""
    neurons: tuple[str, Any] | None = None
    threshold: Any = None
    """A Threshold that follows a node of neurons which do not fire."""
    recurrent: tuple[str, Any] | None = None


def _parts(graph: nir.NIRGraph) -> Iterator[_Part]:
    nodes, edges = _flat(graph)
    after: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        after[source].append(target)
    inputs = [name for name in graph.nodes if isinstance(graph.nodes[name], nir.Input)]
    outputs = [name for name in graph.nodes if isinstance(graph.nodes[name], nir.Output)]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"from_nir: the graph must have one Input and one Output, got {inputs} and {outputs}")

    def only(name: str, leave_out: str | None = None) -> str:
        others = [other for other in after[name] if other != leave_out]
        if len(others) != 1:
            onward = ", ".join(map(repr, others)) or "nothing"
            raise ValueError(f"from_nir: a network is one layer on the other, but after {name!r} comes {onward}")
        return others[0]

    operations: list[tuple[str, Any]] = []
    seen, name = 0, only(inputs[0])
    while name != outputs[0]:
        seen += 1
        if seen > len(nodes):
            raise ValueError(f"from_nir: a network is one layer on the other, but the graph comes back to {name!r}")
        node = nodes[name]
        if not isinstance(node, _NEURONS):
            if not isinstance(node, (nir.Input, nir.Output)):  # those of a graph within the graph do nothing
                operations.append((name, node))
            name = only(name)
            continue
        first, threshold = name, None
        if isinstance(node, (nir.LI, nir.I, nir.CubaLI)) and [type(nodes[n]) for n in after[name]] == [nir.Threshold]:
            name = after[name][0]
            threshold = nodes[name]
        loops = [other for other in after[name] if after[other] == [first]]
        if len(loops) > 1:
            raise ValueError(
                f"from_nir: {first!r} comes back to itself by several nodes, {loops}; add their weights up"
            )
        loop = loops[0] if loops else None
        yield _Part(operations, (first, node), threshold, None if loop is None else (loop, nodes[loop]))
        name, operations = only(name, loop), []
    if operations or not seen:
        yield _Part(operations)


def _flat(graph: nir.NIRGraph, prefix: str = "") -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Nodes and edges, with those of graphs within it."""
    nodes: dict[str, Any] = {}
    edges = []
    ends: dict[str, tuple[str, str]] = {}
    for key, node in graph.nodes.items():
        name = prefix + key
        if not isinstance(node, nir.NIRGraph):
            nodes[name], ends[key] = node, (name, name)
            continue
        inner_nodes, inner_edges = _flat(node, f"{name}/")
        nodes |= inner_nodes
        edges += inner_edges
        if len(node.inputs) != 1 or len(node.outputs) != 1:
            raise ValueError(f"from_nir: the graph {name!r} must have one Input and one Output")
        ends[key] = f"{name}/{next(iter(node.inputs))}", f"{name}/{next(iter(node.outputs))}"
    edges += [(ends[source][1], ends[target][0]) for source, target in graph.edges]
    return nodes, edges


def _cell(part: _Part, leak: Leak, surrogate: Any) -> tuple[Cell, np.ndarray]:
    """The cell of a node of neurons, and the factor of its input."""
    assert part.neurons is not None
    name, node = part.neurons
    owner = f"from_nir: {name!r} ({type(node).__name__})"
    if isinstance(node, nir.Threshold):
        return LIF(0.0, _above(node.threshold), surrogate, "none"), np.ones(())
    rest = np.asarray(getattr(node, "v_leak", 0.0), np.float64)
    threshold = getattr(node, "v_threshold", None) if part.threshold is None else part.threshold.threshold
    gain = np.asarray(node.r, np.float64)
    values: dict[str, Any] = {}
    if type(node) in (nir.IF, nir.I):
        values["decay"], gain = 1.0, gain * leak.dt
    else:
        decay = _decay(node.tau_mem if hasattr(node, "tau_mem") else node.tau, leak, owner)
        values["decay"] = _parameter(decay)
        if (gain == 1).all():
            values["norm_input"], gain = True, np.ones(())
        else:
            gain = gain * (1 - decay)
    if threshold is None:
        if rest.any():
            raise ValueError(f"{owner}: v_leak must be 0 for neurons that do not fire, whose potential is the output")
        if hasattr(node, "tau_syn"):
            raise ValueError(f"{owner}: a synapse needs neurons that fire, a CubaLIF, or a Threshold after it")
        return LeakyReadout(**values), gain
    cls: Any = LIF
    if hasattr(node, "tau_syn"):
        cls, synapse = SynapticLIF, _decay(node.tau_syn, leak, owner)
        values["synaptic_decay"], gain = _parameter(synapse), gain * node.w_in * (1 - synapse)
    values |= {"threshold": _above(threshold, rest), "surrogate": surrogate, "reset": "none"}
    if part.threshold is None:
        values |= {"reset": "value", "reset_value": _parameter(node.v_reset - rest)}
    return cls(**values), gain


def _decay(tau: Any, leak: Leak, owner: str) -> np.ndarray:
    tau = np.asarray(tau, np.float64)
    if not (tau > 0).all():
        raise ValueError(f"{owner}: time constants must be > 0, got {tau.min()}")
    if leak.discretization == "euler":
        if (tau < leak.dt * (1 - 1e-6)).any():
            raise ValueError(
                f"{owner}: Euler's method needs a dt of at most the time constant, {tau.min()}, got {leak.dt}; "
                "give a smaller dt, or discretization='exact'"
            )
        tau = np.maximum(tau, leak.dt)  # a time constant may have been rounded
    return leak.decay(tau)


def _parameter(values: np.ndarray) -> float | jax.Array:
    """One number if it is the same for all neurons."""
    values = np.asarray(values, np.float64)
    return float(values.flat[0]) if (values == values.flat[0]).all() else jnp.asarray(values, jnp.result_type(float))


def _above(threshold: Any, rest: Any = 0.0) -> float | jax.Array:
    """The least potential, counted from rest, that is above the threshold."""
    dtype = np.dtype(jnp.result_type(float)).type
    return _parameter(np.nextafter(np.asarray(threshold - rest, dtype), dtype(np.inf)))


def _weight(nodes: Sequence[tuple[str, Any]], gain: np.ndarray) -> tuple[Any, jax.Array | None]:
    """A matrix or a function, and a bias, of what nodes do and of the factor of what comes out."""
    done: list[Any] = []
    for name, node in nodes:
        if isinstance(node, nir.Scale):
            _multiply(done, node.scale)
        else:
            done += _functions(name, node)
    _multiply(done, gain)
    done = jax.tree.map(lambda values: jnp.asarray(values, jnp.result_type(float)), done)
    bias = done.pop().bias if done and isinstance(done[-1], Shift) else None
    if len(done) == 1:
        return (done[0].weight.T if isinstance(done[0], Product) else done[0]), bias
    return Chain(tuple(done)), bias


def _functions(name: str, node: Any) -> list[Any]:
    """What a node does: a function, and one more for its bias."""
    owner = f"from_nir: {name!r} ({type(node).__name__})"
    axes = 0
    if isinstance(node, (nir.Linear, nir.Affine)):
        if node.weight.ndim != 2:
            raise ValueError(f"{owner}: the weight must be a matrix, got shape {node.weight.shape}")
        function = Product(node.weight)
    elif isinstance(node, nir.Flatten):
        return [Flatten(int(node.start_dim), int(node.end_dim))]
    elif isinstance(node, (nir.Conv1d, nir.Conv2d)):
        axes = node.weight.ndim - 2
        padding: Any = node.padding.decode() if isinstance(node.padding, bytes) else node.padding
        padding = padding.upper() if isinstance(padding, str) else tuple((n, n) for n in _each(padding, axes))
        stride, dilation = _each(node.stride, axes), _each(node.dilation, axes)
        function = Convolution(node.weight, stride, padding, dilation, int(node.groups))
    else:
        raise ValueError(
            f"{owner} has no counterpart here; known are Affine, Linear, Scale, Conv1d, Conv2d, Flatten and, as "
            f"neurons, {', '.join(kind.__name__ for kind in _NEURONS)}"
        )
    bias = getattr(node, "bias", None)
    return [function] if bias is None else [function, Shift(np.reshape(bias, (-1, *[1] * axes)))]


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(int(n) for n in np.broadcast_to(value, (axes,)))


def _multiply(done: list[Any], factor: Any) -> None:
    """Multiply what comes out: within the last weight and bias if it can be, else by one function more."""
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
