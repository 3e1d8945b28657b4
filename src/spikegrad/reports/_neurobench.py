"""The numbers of NeuroBench for a network, by the definitions of its harness."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._pytree import PyTree, is_array
from ..network import (
    Edge,
    LayerFields,
    Network,
    Weight,
    hidden_arrays,
    inner_of,
    matrix_of,
    named_inputs,
)
from ..neurons import LeakyReadout, parameters_of
from ._costs import connections_of_weight, examples_in, reads_of_edge


class NeuroBenchReport(NamedTuple):
    """The measures of the benchmark NeuroBench. ``report._asdict()`` returns them with the names of
    NeuroBench.
    """

    Footprint: int
    """Bytes of all arrays of the network."""
    ConnectionSparsity: float
    """The fraction of weights that are 0, without biases, rounded to 4 digits."""
    ActivationSparsity: float
    """The fraction of zeros among the outputs of all spiking neurons, over time steps and examples.
    """
    SynapticOperations: dict[str, float]
    """Numbers of operations per example: ``Effective_MACs`` (multiply-accumulates without zeros),
    ``Effective_ACs`` (additions without zeros) and ``Dense`` (all operations, with zeros).
    """
    MembraneUpdates: float
    """Number of potentials that change in a time step, summed over time steps, per example. In the
    first time step all count.

    The potential is the one that a neuron carries to the next time step: after the reset, or before
    it with ``delay_reset=True``.
    """


def neurobench(
    network: Network, inputs: PyTree, *, key: jax.Array | None = None
) -> NeuroBenchReport:
    """Compute the measures of the benchmark NeuroBench 2.3.0 [1]_ for a network, such as its
    operations and its sparsity.

    NeuroBench itself runs models of PyTorch only. Tests compare this function with the program of
    NeuroBench on three networks of snnTorch.

    Parameters
    ----------
    network : Network
        The network. Its weights must be matrices or linear functions, as in :func:`cost_report`.
    inputs : array_like or dict
        One batch of inputs, ``(steps, batch, ...)``, or one example, ``(steps, inputs)``.
    key : array of jax.random.key, optional
        Random key for :func:`~spikegrad.stochastic` spikes.

    Returns
    -------
    NeuroBenchReport

    Raises
    ------
    TypeError, ValueError
        If inputs or key do not fit the network, or if a weight is not linear.

    Warns
    -----
    UserWarning
        If functions in the network close over arrays. These are not leaves of the network, so the
        footprint and the sparsity do not count them.

    Notes
    -----
    NeuroBench counts additions (accumulates, AC) and multiplications with additions
    (multiply-accumulates, MAC). The operations of a weight in one time step count as AC if all
    inputs of the batch are -1, 0 or 1, and otherwise as MAC. So one input of 2 changes the kind of
    the operations of all examples. :func:`cost_report` counts each input separately.

    Differences from the program of NeuroBench:

    - Footprint: modules of snnTorch also have buffers, such as thresholds and potentials.
    - Numbers of operations are exact. NeuroBench sums in float32, which is exact up to 16,777,216
      in a time step.
    - :class:`~spikegrad.LeakyReadout` never fires, so it has no activations and membrane updates.
    - Operations of joins and within cells are not counted. In functions as weights, arrays with one
      axis longer than 1 are biases.

    References
    ----------
    .. [1] J. Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing
       algorithms and systems", Nature Communications 16:1545 (2025).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.reports import neurobench
    >>> network = Network([Layer(jnp.array([[0.5, 0.0], [0.5, 0.5]]), LIF(0.9))])
    >>> # two steps, one example, two inputs
    >>> spikes = jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])
    >>> report = neurobench(network, spikes)
    >>> report.SynapticOperations
    {'Effective_MACs': 0.0, 'Effective_ACs': 4.0, 'Dense': 8.0}
    >>> report.ConnectionSparsity, report.MembraneUpdates
    (0.25, 4.0)

    All potentials change here. Without a leak, a neuron changes only if it gets input. One that
    fires and returns to the potential of the step before counts as unchanged:

    >>> network = Network([Layer(jnp.array([[0.5, 1.0]]), LIF(decay=1.0))])
    >>> spikes = jnp.array([1.0, 0.0, 1.0, 0.0]).reshape(4, 1, 1)
    >>> neurobench(network, spikes).MembraneUpdates
    3.0
    """
    graph = network.graph
    x = named_inputs(network.inputs, inputs)
    # ``x`` is a dict also for one input, so the network must read its inputs by name.
    network = dataclasses.replace(network, inputs=graph.inputs)
    # Not only those of weights, because a user who cites the footprint means all of the network.
    if hidden := hidden_arrays(network, x, key=key):
        warnings.warn(
            "neurobench: Footprint and ConnectionSparsity leave out arrays that functions hold: "
            f"{', '.join(map(str, hidden))}. Bind them with jax.tree_util.Partial",
            stacklevel=2,
        )
    _, activity = network.observe(x, parts="output", key=key)
    values = x | {name: node.output for name, node in activity.items()}
    first_step = {name: value[0] for name, value in values.items()}
    examples = examples_in(network, first_step)
    counts = [
        _operations(weight, edge, values[edge.source])
        for name in graph.layers
        for edge, weight in graph.connections(name)
    ]
    outputs = [values[name] for name, layer in graph.layers.items() if _fires(layer)]
    weights: list[np.ndarray] = []
    for layer in graph.layers.values():
        weights += _arrays_of_weights(layer)
    arrays = filter(is_array, jax.tree.leaves(network))
    return NeuroBenchReport(
        Footprint=sum(array.nbytes for array in arrays),
        ConnectionSparsity=round(_share_of_zeros(weights), 4),
        ActivationSparsity=_share_of_zeros(outputs),
        SynapticOperations={
            "Effective_MACs": sum(count.multiplied for count in counts) / examples,
            "Effective_ACs": sum(count.added for count in counts) / examples,
            "Dense": sum(count.dense for count in counts) / examples,
        },
        MembraneUpdates=_changed_potentials(network, x, key) / examples,
    )


def _share_of_zeros(arrays: Sequence[Any]) -> float:
    zeros = sum(int((array == 0).sum()) for array in arrays)
    size = sum(array.size for array in arrays)
    # 0 without any array: a network of readouts has no outputs that fire.
    return zeros / max(1, size)


class _Counts(NamedTuple):
    """Operations of all examples and steps."""

    multiplied: int
    added: int
    dense: int


def _operations(weight: Weight, edge: Edge, value: jax.Array) -> _Counts:
    """Count the operations of one weight. ``value`` is the output of its source."""
    # (lags, steps, batch, ...)
    reads = np.stack(reads_of_edge(edge, value))
    steps = len(value)
    # (steps, ...), for a window (steps, lags, ...)
    reads = np.moveaxis(reads, 0, 1) if edge.windowed else reads[0]
    of_step = jax.ShapeDtypeStruct(reads.shape[1:], value.dtype)
    fan_out, effective = connections_of_weight(weight, of_step)
    # One number for each step: the nonzero connections of inputs that are not 0. float64 is exact
    # up to 2^53.
    used = np.where(reads != 0, effective.astype(np.float64), 0)
    per_step = used.reshape(steps, -1).sum(1)
    # A step is one of accumulates only if all of its values are spikes.
    is_spike = np.isin(reads, (-1, 0, 1))
    is_spiking = is_spike.reshape(steps, -1).all(1)
    connections = np.broadcast_to(fan_out, reads.shape)
    total = connections.sum(dtype=np.int64)
    return _Counts(
        multiplied=int(per_step[~is_spiking].sum()),
        added=int(per_step[is_spiking].sum()),
        dense=int(total),
    )


def _fires(layer: LayerFields) -> bool:
    return not isinstance(parameters_of(layer.cell), LeakyReadout)


def _arrays_of_weights(layer: LayerFields) -> list[np.ndarray]:
    """Return the matrices and kernels of a layer, without biases."""
    weights = []
    for weight in layer.weights.values():
        inner = inner_of(weight)
        matrix = matrix_of(inner)
        if matrix is not None:
            weights.append(np.asarray(matrix))
            continue
        # A function has arrays of any kind. Those with one long axis are biases.
        leaves = filter(is_array, jax.tree.leaves(inner))
        arrays = [np.asarray(leaf) for leaf in leaves]
        weights += [array for array in arrays if np.squeeze(array).ndim > 1]
    return weights


def _changed_potentials(
    network: Network, x: dict[str, jax.Array], key: jax.Array | None
) -> int:
    """Count the potentials that differ from those of the step before, of neurons that fire."""
    layers = network.graph.layers
    names = [name for name, layer in layers.items() if _fires(layer)]

    def potentials(states: PyTree) -> list[jax.Array]:
        # A layer has a pair, its state and its outputs. A state starts with the potential.
        return [jax.tree.leaves(states[name][0])[0] for name in names]

    def step(states: PyTree, now: PyTree) -> tuple[PyTree, Any]:
        number, values = now
        # The key of this step in ``observe``, so both runs have the same spikes.
        drawn = None if key is None else jax.random.fold_in(key, number)
        after, _ = network.step(states, values, key=drawn)
        pairs = zip(potentials(states), potentials(after), strict=True)
        changed = sum((old != new).sum() for old, new in pairs)
        return after, changed

    steps = len(next(iter(x.values())))
    first_step: Any = {name: value[0] for name, value in x.items()}
    rest = network.initial_state(first_step)
    _, changed = jax.lax.scan(step, rest, (jnp.arange(steps), x))
    # As the harness does, the first step counts all potentials.
    first = sum(potential.size for potential in potentials(rest))
    # The number of a step fits into int32, and their sum may not.
    later = np.asarray(changed[1:]).sum(dtype=np.int64)
    return first + int(later)
