"""Export of networks to NIR."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import nir
import numpy as np

from .._checks import checked_shape
from .._surrogate import spike_types
from ..network import Layer, Network
from ..network._connections import matrix_of
from ..network._network import chain_of
from ._leak import Leak, make_leak
from ._operations import Signal, UnknownError, read_operations
from ._parameters import check_finite


def to_nir(
    network: Network,
    *,
    dt: float,
    discretization: str,
    input_shape: Sequence[int] | None = None,
    unit_resistance: bool = False,
) -> nir.NIRGraph:
    r"""Convert a network to a graph of NIR, the neuromorphic intermediate representation.

    NIR has differential equations, :math:`\tau \dot v = v_\mathrm{leak} - v + R I`, and a network has time steps. The
    time constants of the graph give equal time steps in a simulator with this ``dt`` and ``discretization``.

    Parameters
    ----------
    network : Network
        A network of the cells :class:`~spikegrad.LIF` and :class:`~spikegrad.SynapticLIF`, with an immediate reset to a
        value or no reset, and :class:`~spikegrad.LeakyReadout`.
    dt : float
        Length :math:`\Delta t` of a time step of the simulator that will read the graph, in seconds.
    discretization : {"exact", "euler"}
        Integration method of this simulator. ``"exact"``: :math:`\tau = -\Delta t / \ln \beta`, the exact solution for
        a constant input during the time step. ``"euler"``: :math:`\tau = \Delta t / (1 - \beta)`, Euler's method,
        which snnTorch and norse use.
    input_shape : sequence of int, optional
        Shape of one time step of one example. It is required if the weight of the first layer is a function.
    unit_resistance : bool, default False
        By default :math:`R = 1 / (1 - \beta)` compensates the factor :math:`1 - \beta` of the input, which cells only
        have with ``norm_input``. If True, :math:`R = 1` and the weights have this factor. Some importers ignore
        :math:`R`, such as norse's for LIF.

    Returns
    -------
    nir.NIRGraph
        Nodes ``input``, ``layer0.drive``, ``layer0.neurons`` and so on, and ``output``. Recurrent neurons are a
        subgraph with nodes ``input``, ``neurons``, ``recurrent`` and ``output``.

    Raises
    ------
    ValueError
        If NIR does not support the network: spike types other than the step, a reset by subtraction, a delayed reset,
        an adaptive threshold, a refractory period, or a function other than products, convolutions and changes of
        shape. Also if a decay factor of 1, or with ``"exact"`` of 0, has no node.
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
    ``LIF``                                 ``LIF``, or ``IF`` if the decay is 1
    ``SynapticLIF``                         ``CubaLIF``, with :math:`w_\mathrm{in} = 1 / (1 - \gamma)`
    ``reset="none"``                        ``LI``, ``I`` or ``CubaLI``, and a ``Threshold``
    ``LeakyReadout``                        ``LI``, or ``I`` if the decay is 1, or no node if it is 0
    ======================================  ==========================================================================

    A neuron fires above its threshold in NIR, and at its threshold in spikegrad. So the graph has the largest number
    below the threshold, such as 0.99999994 for 1. Images have channels first in NIR.

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
    leak = make_leak("to_nir", dt, discretization)
    layers = chain_of("to_nir", network)
    shape = _input_shape(layers[0], input_shape)
    dtype = jnp.result_type(float)
    states = network.initial_state(jax.ShapeDtypeStruct((1, *shape), dtype))
    signal = Signal((1, *shape), shape)
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    before = "input"  # files sort names, so the alphabetical order must be the order of the layers
    for number, (layer, (_, spikes)) in enumerate(zip(layers, states, strict=True)):
        name = f"layer{number:0{len(str(len(states) - 1))}}"
        try:
            into = read_operations(layer.drive, signal, dtype)
            if number == 0:  # a convolution determines the order of the inputs
                start = Signal(signal.shape, shape, into.channels_last and len(shape) > 1)
                nodes["input"] = nir.Input(input_type={"input": np.array(start.to_nir(np.empty(shape)).shape)})
            signal = Signal(spikes.shape, spikes.shape[1:], into.channels_last)
            back = None if layer.recurrent is None else read_operations(layer.feedback, signal, spikes.dtype)
        except UnknownError as error:
            raise ValueError(f"to_nir: layer {number} has a function that NIR cannot say: {error}") from None
        neurons = _neurons(layer.cell, signal, spikes.dtype, leak, number)
        if unit_resistance and neurons:
            factor, neurons[0].r = neurons[0].r, np.ones_like(neurons[0].r)
            for read in (into, back) if back else (into,):
                _scale(read.nodes, factor, number)
        if back is not None:
            if not neurons or not back.nodes:
                raise ValueError(f"to_nir: layer {number} is recurrent without neurons, or without weights, in between")
            neurons = [_recurrent(_named("neurons", neurons), _named("recurrent", back.nodes))]
        chain = {**_named(f"{name}.drive", into.nodes), **_named(f"{name}.neurons", neurons)}
        edges += itertools.pairwise([before, *chain])
        nodes |= chain
        before = next(reversed(nodes))
    nodes["output"] = nir.Output(output_type={"output": np.array(signal.to_nir(np.empty(signal.example)).shape)})
    edges.append((before, "output"))
    _check_finite(nodes)
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata={"dt": leak.dt, "discretization": leak.discretization})


def _input_shape(first: Layer, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None:
        return checked_shape("to_nir: input_shape", given)
    matrix = matrix_of(first.weight)
    if matrix is None:
        raise ValueError("to_nir: the weight of layer 0 is a function: give input_shape, of one step of one example")
    return (matrix.shape[0],)


def _check_finite(nodes: dict[str, Any]) -> None:
    """Raise if a parameter is not finite, because importers do not check this."""
    for name, node in nodes.items():
        if isinstance(node, nir.NIRGraph):
            _check_finite({f"{name}/{inner}": of for inner, of in node.nodes.items()})
            continue
        for field, values in vars(node).items():
            if isinstance(values, np.ndarray) and values.dtype.kind == "f":
                check_finite(f"to_nir: {name!r} ({type(node).__name__})", field, values)


def _named(name: str, nodes: Sequence[nir.NIRNode]) -> dict[str, nir.NIRNode]:
    """Name the nodes of a part of a layer. Flatten and Threshold have their own names."""
    named: dict[str, nir.NIRNode] = {}
    for node in nodes:
        other = {nir.Flatten: "flatten", nir.Threshold: "threshold"}.get(type(node))
        own = ".".join([*name.split(".")[:-1], other]) if other else name
        named[f"{own}{sum(key.startswith(own) for key in named) or ''}"] = node
    return named


def _recurrent(neurons: dict[str, nir.NIRNode], weights: dict[str, nir.NIRNode]) -> nir.NIRGraph:
    """Return recurrent neurons as a subgraph, as importers expect."""
    first, last = next(iter(neurons)), next(reversed(neurons))
    shape = neurons[first].input_type["input"]
    ends = {"input": nir.Input(input_type={"input": shape}), "output": nir.Output(output_type={"output": shape})}
    edges = itertools.pairwise(["input", *neurons, *weights, first])  # norse depends on this order
    nodes = {"input": ends["input"], **neurons, **weights, "output": ends["output"]}
    return nir.NIRGraph(nodes=nodes, edges=[*edges, (last, "output")])


def _neurons(cell: Any, signal: Signal, dtype: Any, leak: Leak, number: int) -> list[Any]:
    """Return the nodes of a cell. The first node receives the current."""
    owner = f"to_nir: layer {number}: {type(cell).__name__}"
    kind = vars(type(cell)).get("nir_node")
    if kind is None:
        raise ValueError(f"{owner} has no node in NIR; train with LIF or SynapticLIF to exchange the network")
    fires, has_synapse = kind != "LI", kind == "CubaLIF"
    if fires and spike_types(cell):
        raise ValueError(f"{owner} has {cell.surrogate!r}, and neurons in NIR spike once or not at all")
    resets = fires and cell.reset == "value"
    if fires and cell.reset == "subtract":
        raise ValueError(f"{owner} resets by subtraction, and neurons in NIR to a value; train with reset='value'")
    if resets and cell.delay_reset:
        raise ValueError(f"{owner} resets a step late, and neurons in NIR at once; train with delay_reset=False")

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
            raise ValueError(f"{owner}: decay must be below 1 with norm_input, which leaves nothing of the input else")
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
            f"{owner}: {name} must be below 1, or 1 for all neurons of a LIF: without a leak there is no tau"
        )
    if leak.discretization == "exact" and (decay <= 0).any():
        raise ValueError(f"{owner}: {name} must be above 0 with discretization='exact', whose tau would be 0")
    if (decay < 0).any():
        raise ValueError(f"{owner}: {name} must be 0 or more, got {decay.min()}")
    with np.errstate(over="ignore"):  # checked with the graph
        return leak.tau(decay), 1 / (1 - decay)


def _below(threshold: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the largest number below the threshold in the dtype of the potential."""
    dtype = np.float64 if dtype == np.float64 else np.float32
    return np.nextafter(threshold.astype(dtype), dtype(-np.inf))


def _scale(nodes: Sequence[nir.NIRNode], factor: np.ndarray, number: int) -> None:
    """Multiply the weights of each neuron by a factor."""
    last: Any = nodes[-1] if nodes else None
    of_channels = factor.reshape(len(factor), -1)
    if isinstance(last, (nir.Linear, nir.Affine)):
        factor = factor.reshape(-1)
    elif isinstance(last, (nir.Conv1d, nir.Conv2d)) and (of_channels == of_channels[:, :1]).all():
        factor = of_channels[:, 0]
    else:
        raise ValueError(
            f"to_nir: layer {number} has no weight of each neuron that could take unit_resistance's factor"
        )
    last.weight = (last.weight * factor.reshape(-1, *[1] * (last.weight.ndim - 1))).astype(last.weight.dtype)
    if not isinstance(last, nir.Linear):
        last.bias = (last.bias * factor).astype(last.bias.dtype)
