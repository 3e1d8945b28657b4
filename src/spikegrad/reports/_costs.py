"""Costs: the events and operations of a network for given inputs."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import append_axes
from .._pytree import PyTree, is_array, is_inexact, merge, split
from .._table import aligned
from ..network import (
    Edge,
    Name,
    Network,
    Weight,
    is_unchanged,
    lagged_sequence,
    matrix_of,
    named_inputs,
    weights_of,
)
from ._connections import NotLinearError, connections_of
from ._energy import EnergyPrices, EnergyReport, energy_of


class Operations(NamedTuple):
    """Events of one kind, and their synaptic operations."""

    events: int = 0
    """Values other than 0 that arrive."""
    fan_out: int = 0
    """Connections of these values, weights of zero included."""
    effective: int = 0
    """Connections of these values without weights of zero."""


class Cost(NamedTuple):
    """Counts of operations of a connection, of a layer, or of a network, as exact integers over all
    examples and valid time steps.
    """

    spikes: Operations = Operations()
    """Events with the value 1 or -1. Each operation is one addition."""
    graded: Operations = Operations()
    """Events with another whole number, such as 2 spikes in a time step. Each operation is one
    multiplication, or several additions.
    """
    real: Operations = Operations()
    """Events with other numbers. Each operation is one multiplication."""
    connections: int = 0
    """Number of connections of one example, without padding."""
    dense: int = 0
    """Operations if every value is other than 0: connections times valid time steps of all
    examples.
    """
    updates: int = 0
    """Number of updates of neurons: neurons times valid time steps of all examples."""
    state_words: int = 0
    """Number of values of states that these updates read and write."""

    @property
    def synaptic_operations(self) -> int:
        """Effective operations of all kinds of values."""
        return self.spikes.effective + self.graded.effective + self.real.effective


class CostRow(NamedTuple):
    """The counts of one connection, or of the neurons of one layer."""

    layer: Name
    """The name of the layer."""
    part: str
    """``"weight"``, ``"weight['a']"`` or ``"recurrent"``, or ``"neurons"``."""
    cost: Cost | None
    """The counts, or None if the weight cannot be counted."""
    message: str = ""
    """The reason if the weight cannot be counted, or else an empty text."""


class CostReport(NamedTuple):
    """The counts of operations of a network, from :func:`cost_report`. ``print`` shows them as a
    table.
    """

    rows: tuple[CostRow, ...]
    """A row for each connection, and one for the neurons of each layer."""
    examples: int
    """The number of examples."""
    steps: int
    """The number of valid time steps of all examples together."""
    uncounted: tuple[Name, ...]
    """The names of the joins, whose operations are not counted."""

    @property
    def total(self) -> Cost:
        """The sum of the counts of all rows."""
        return _sum(row.cost for row in self.rows)

    @property
    def complete(self) -> bool:
        """If False, some weights cannot be counted, and ``total`` does not include them."""
        return all(row.cost is not None for row in self.rows)

    @property
    def layers(self) -> dict[Name, Cost]:
        """The sum of the counts of the rows of each layer, by its name."""
        # groupby joins neighbors only. The rows of a layer follow each other.
        by_layer = itertools.groupby(self.rows, operator.attrgetter("layer"))
        return {name: _sum(row.cost for row in rows) for name, rows in by_layer}

    def energy(
        self,
        *prices: str | EnergyPrices,
        dense: str | EnergyPrices = "45nm int8",
        passes: int = 1,
    ) -> EnergyReport:
        """Return the energy per example for named prices, and for a quantized dense network of
        equal size.

        Parameters
        ----------
        *prices : str or EnergyPrices
            Prices of the spiking network: names of presets, or your own. See :class:`EnergyPrices`.
        dense : str or EnergyPrices, default "45nm int8"
            Prices of the dense network, which makes one multiply-add per connection.
        passes : int, default 1
            Runs of the dense network per example: 1 for a constant input, the number of time steps
            for a sequence.

        Returns
        -------
        EnergyReport
            A range in picojoules for each. Its text is a table with all assumptions.

        Raises
        ------
        TypeError, ValueError
            If no prices are passed, if a preset is unknown, if the prices lack multiplications that
            the network needs, or if a weight cannot be counted.
        """
        if not self.complete:
            raise ValueError(
                f"energy: all weights must have counts: {self._messages()[0]}"
            )
        return energy_of(self.total, self.examples, prices, dense, passes)

    def _messages(self) -> list[str]:
        return [
            f"{row.part} of layer {row.layer!r} cannot be counted: {row.message}. Move it into the "
            "cell or a Join"
            for row in self.rows
            if row.message
        ]

    def __str__(self) -> str:
        titles = (
            "layer",
            "part",
            "events",
            "fan-out",
            "effective",
            "graded",
            "real",
            "dense",
            "updates",
            "words",
        )
        rows = [_cells(str(row.layer), row.part, row.cost) for row in self.rows]
        total = _cells("total", "", self.total)
        lines = aligned([titles, *rows, total], "<<" + ">" * 8, gap=" ")
        lines.append(
            f"examples: {self.examples:,}, valid time steps of all examples together: "
            f"{self.steps:,}"
        )
        if self.uncounted:
            joins = ", ".join(f"join {name!r}" for name in self.uncounted)
            lines.append(f"not counted: {joins}")
        return "\n".join([*lines, *self._messages()])


def _sum(costs: Iterable[Cost | None]) -> Cost:
    return jax.tree.map(
        # ``Cost()`` has zeros, so the sum of no costs is defined too.
        lambda *counts: sum(counts),
        Cost(),
        *(cost for cost in costs if cost is not None),
    )


def _cells(layer: str, part: str, cost: Cost | None) -> tuple[str, ...]:
    if cost is None:
        unknown = ["?"] * 6
        return layer, part, *unknown, "", ""
    counts = (
        *cost.spikes,  # three columns: events, fan-out and effective
        cost.graded.effective,
        cost.real.effective,
        cost.dense,
        cost.updates,
        cost.state_words,
    )
    cells = [f"{count:,}" for count in counts]
    # Neurons have updates and no operations, and connections have no updates.
    if part == "neurons":
        cells[:6] = [""] * 6
    elif part:  # the total has all columns
        cells[6:] = "", ""
    return layer, part, *cells


def cost_report(
    network: Network,
    inputs: PyTree,
    *,
    key: jax.Array | None = None,
    mask: ArrayLike | None = None,
) -> CostReport:
    r"""Count the spikes, the synaptic operations and the neuron updates of a network, to estimate
    its cost on hardware.

    ``print`` the result to see a table. For each weight, the report has four counts. A *value* is a
    number that the weight reads in a time step, such as a spike. The *fan-out* :math:`c` of a value
    is the number of products of this value with numbers of the weight, such as the number of
    neurons for a matrix.

    - events: the number of values that are not 0, such as spikes,
    - fan-out: the sum of :math:`c` over these values,
    - effective: this sum without weights of zero, the operations that event-based hardware needs,
    - dense: the sum of :math:`c` over all values and time steps, the operations without using
      zeros.

    Parameters
    ----------
    network : Network
        The network, a list or a graph of layers.
    inputs : array_like or dict
        A batch of inputs of the network, ``(steps, batch, ...)``.
    key : array of jax.random.key, optional
        Random key for :func:`~spikegrad.stochastic` spikes.
    mask : array_like of bool, optional
        The valid time steps, ``(steps, batch)`` or ``(steps,)``: False for padding, which costs
        nothing.

    Returns
    -------
    CostReport
        The counts: exact integers, summed over examples and valid time steps. For counts per
        example, divide them by ``report.examples``.

    Raises
    ------
    TypeError, ValueError
        If inputs, key or mask do not fit the network. Also if the function is called within
        ``jax.jit``.

    Notes
    -----
    Each value counts separately: 1 and -1 as spikes, other whole numbers as graded spikes, and all
    others as real numbers. The counts of a batch are the sums of the counts of its examples.

    A weight may be a matrix, or a linear function: a convolution, average pooling, a mask, or
    several of these with at most one matrix or kernel. For another function, the row of the table
    has a message instead of counts. Put a max pooling into a :class:`~spikegrad.Join`. The weight
    that reads the join then counts the pooled values.

    Biases, padding, and operations within cells and joins are not counted. A layer without a weight
    has no operations. A :class:`~spikegrad.Window` counts each event once, and the operations for
    each delay.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.reports import cost_report
    >>> network = Network([Layer(jnp.array([[0.5, 0.0], [0.5, 0.5]]), LIF(0.9))])
    >>> # two steps, one example, two inputs
    >>> spikes = jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])
    >>> cost = cost_report(network, spikes).total
    >>> cost.spikes, cost.dense
    (Operations(events=3, fan_out=6, effective=4), 8)
    """
    graph = network.graph
    x = named_inputs(network.inputs, inputs)
    mask = None if mask is None else jnp.asarray(mask)
    arrays, functions = split(network, is_array)

    @jax.jit
    def run(
        arrays: Network, x: dict[Name, jax.Array], mask: jax.Array | None
    ) -> tuple[PyTree, PyTree, dict[Name, jax.Array]]:
        named = dataclasses.replace(merge(arrays, functions), inputs=graph.inputs)
        states, activity = named.observe(x, parts=("output",), key=key, mask=mask)
        values = x | {name: node.output for name, node in activity.items()}

        def counts_of(name: Name) -> dict[str, jax.Array]:
            return {
                edge.label: _counts(edge, values[edge.source], mask)
                for edge in graph.edges[name]
            }

        counts = {name: counts_of(name) for name in graph.layers}
        first_step = {name: value[0] for name, value in values.items()}
        return states, counts, first_step

    states, counts, values = jax.device_get(run(arrays, x, mask))
    length = len(next(iter(x.values())))
    examples = examples_in(network, values)
    active = np.ones(length, bool) if mask is None else np.asarray(mask)
    active = active.reshape(length, -1)
    # A mask (steps,) holds for all examples.
    active = np.broadcast_to(active, (length, examples))
    steps = int(active.sum())

    def size_of_example(a: np.ndarray) -> int:
        # (batch, neurons), or numbers that all examples share
        has_examples = a.shape[:1] == (examples,)
        return a.size // examples if has_examples else a.size

    rows = []
    for name, layer in graph.layers.items():
        edges = {edge.label: edge for edge in graph.edges[name]}
        for label, weight in layer.weights.items():
            # several edges for a window of matrices, one for each lag
            weights = weights_of(label, weight)
            parts = [(weights[part], edges[part]) for part in weights]
            try:
                cost = _cost_of(parts, values, counts[name], examples, steps)
                rows.append(CostRow(name, label, cost))
            except NotLinearError as error:
                rows.append(CostRow(name, label, None, str(error)))
        arrays_of_state = jax.tree.leaves(states[name][0])
        words = sum(map(size_of_example, arrays_of_state))
        # Every neuron is updated in every valid step, whether it gets an input or not.
        updates = values[name].size // examples * steps
        # A state is read and written in each step.
        neurons = Cost(updates=updates, state_words=2 * words * steps)
        rows.append(CostRow(name, "neurons", neurons))
    joins = tuple(name for name in graph.nodes if name not in graph.layers)
    return CostReport(tuple(rows), examples, steps, joins)


def examples_in(network: Network, values: Mapping[Name, jax.Array]) -> int:
    """Return the number of examples, from the outputs of all nodes in one step."""
    # By the output of a layer, (batch, ...), because inputs of tokens, (steps, batch), look like
    # those of one example, (steps, inputs).
    output = values[next(iter(network.graph.layers))]
    return len(output) if output.ndim > 1 else 1


def reads_of_edge(
    edge: Edge, x: jax.Array, mask: jax.Array | None = None
) -> list[jax.Array]:
    """Return the values ``(steps, batch, ...)`` that an edge reads in all steps, for each lag."""
    return [lagged_sequence(x, lag, mask) for lag in edge.lags]


def _counts(edge: Edge, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Count spikes, graded and real values over the steps, for each position that an edge reads:
    ``(3, ...)``.
    """
    # (3, batch, ...) for each lag, because a delayed value may fall outside of the sequence. A
    # window has its lags on the axis after the kinds.
    by_lag = [_kinds(read, mask) for read in reads_of_edge(edge, x, mask)]
    return jnp.stack(by_lag, 1) if edge.windowed else by_lag[0]


def _kinds(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Count spikes, graded and real values over the steps, ``(3, batch, ...)``."""
    # jnp.round does not accept booleans, such as spikes of a data set.
    if not is_inexact(x):
        x = x.astype(jnp.int32)
    is_spike = abs(x) == 1
    # Infinity equals its rounded value, but counts as a real number.
    is_integer = (jnp.round(x) == x) & jnp.isfinite(x)
    is_graded = is_integer & ~is_spike & (x != 0)
    kinds = jnp.stack([is_spike, is_graded, ~is_integer])
    if mask is not None:
        kinds &= append_axes(mask, x.ndim)[None]
    # Over the steps only. The product with the connections of each position follows in NumPy with
    # 64 bits.
    return kinds.sum(1, dtype=jnp.int32)


def _cost_of(
    parts: list[tuple[Weight, Edge]],
    values: Mapping[Name, jax.Array],
    counts_by_edge: Mapping[str, np.ndarray],
    examples: int,
    steps: int,
) -> Cost:
    """Return the cost of one weight. It may read several lags as separate edges."""
    costs = []
    for n, (weight, edge) in enumerate(parts):
        value = values[edge.source]
        # the values that the edge reads in one step
        shape = (len(edge.lags), *value.shape) if edge.windowed else value.shape
        like = jax.ShapeDtypeStruct(shape, value.dtype)
        fan_out, effective = connections_of_weight(weight, like)
        counts = counts_by_edge[edge.label].astype(np.int64)
        # A window counts an event at its smallest lag.
        # (3, lags, ...) -> (3, ...)
        arriving = counts[:, 0] if edge.windowed else counts
        kinds = [
            Operations(
                # All parts of a weight read equal events, which count once.
                events=0 if n else int(events.sum()),
                fan_out=int((count * fan_out).sum()),
                effective=int((count * effective).sum()),
            )
            for events, count in zip(arriving, counts, strict=True)
        ]
        # ``shape`` has the axis of the examples, (batch, ...), and connections are those of one
        # example.
        of_all_examples = np.broadcast_to(fan_out, shape).sum()
        connections = int(of_all_examples) // examples
        costs.append(Cost(*kinds, connections=connections, dense=connections * steps))
    return _sum(costs)


def connections_of_weight(
    weight: Weight, like: jax.ShapeDtypeStruct
) -> tuple[np.ndarray, np.ndarray]:
    """Return the connections of each value, for all and for nonzero weights.

    Both broadcast to ``like``.
    """
    if is_unchanged(weight):
        # A layer without a weight adds its inputs to the potential, as part of the update.
        none = np.zeros(like.shape, np.int64)
        return none, none
    matrix = matrix_of(weight)
    if matrix is None:
        return connections_of(weight, like)
    flat = np.asarray(matrix).reshape(len(matrix), -1)
    # (inputs, neurons): an input has one connection to each neuron. Receptors are further neurons
    # here.
    inputs, neurons = flat.shape
    all_of_input = np.full(inputs, neurons, np.int64)
    return all_of_input, (flat != 0).sum(1, dtype=np.int64)
