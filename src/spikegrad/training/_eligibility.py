r"""One step of learning forward in time, in three functions.

A layer computes in step :math:`t`, for each example,

.. math:: I_t = x_t W + b, \qquad u_t = \operatorname{integrate}(v_{t-1}, I_t), \qquad
          (v_t, s_t) = \operatorname{fire}(u_t)

Its matrices read :math:`x_t`. A 1 at the end of :math:`x_t` represents the bias, so all weights of
a neuron are the rows of one matrix. The gradient of row :math:`i` of neuron :math:`j` is the sum
over steps and examples of a learning signal of the neuron times a trace of the row.

1. :func:`forward` runs the step, and differentiates its loss. The derivatives by the output or the
   current of each layer are the signals.
2. :func:`next_traces` moves the traces by one step. They need no signal.
3. :func:`shares` multiplies the signals by the traces, and sums over the examples.

Not optimal: rule ``"eprop"`` also computes the rows of sources that have never fired, and a layer
that several readouts read has a filtered trace for each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from .._compat import evaluated
from .._pytree import PyTree, inexact, merge
from ..network import (
    CellSteps,
    Edge,
    Masks,
    Network,
    activity_names,
    graph_step,
    matrix_of,
    nodes_of,
    tree_where,
)
from ..neurons import Cell, LeakyReadout, fire as fire_cell, linear_response
from ._partition import combine, is_float_array, split_trainable

StepLoss: TypeAlias = Callable[[PyTree, PyTree], jax.Array]
"""``loss(outputs, target)`` of one step, a scalar."""


class Eligibility(NamedTuple):
    """The traces of a layer for rule ``"eprop"``.

    The axis of the rows has one for each source, one for the bias, and one for each array of the
    cell.
    """

    state: PyTree
    """Derivatives of the state of the cell, each ``(batch, rows, neurons)``."""
    filtered: dict[str, PyTree]
    """The state of each readout that filters this layer, for the derivatives of the layer's output
    as inputs. Each array is ``(batch, rows, neurons)``.
    """


class Presynaptic(NamedTuple):
    """The traces of a layer for rule ``"ottt"``: ``(batch, rows)``, without arrays of the cell."""

    synapse: jax.Array
    """The rows, filtered by the decay of the synapse."""
    leak: jax.Array
    """``synapse``, filtered by the decay of the potential."""


class Rule(NamedTuple):
    """A rule for a network."""

    network: Network
    name: str
    """``"eprop"``, ``"ottt"`` or ``"local"``."""
    feedback: Mapping[str, Mapping[str, PyTree]]
    """A matrix ``(neurons of the layer, neurons of the readout)`` by readout and layer."""

    @property
    def fed_back(self) -> set[str]:
        """The layers that get their signals through feedback only."""
        return {name for layers in self.feedback.values() for name in layers}

    def filters(self) -> dict[str, dict[str, PyTree]]:
        """Return the matrices through which a signal reaches a layer whose traces a readout
        filters, by readout and layer.
        """
        if self.name != "eprop":
            return {}
        graph = self.network.graph
        filters = {}
        for readout, layer in graph.layers.items():
            if not is_readout(layer.cell):
                continue
            # Only within a step, because no signal passes a delay.
            direct = {}
            for edge, matrix in matrices_of(self.network, readout):
                reads_layer = edge.lags == (0,) and edge.source in graph.layers
                # A layer with feedback gets no signal through the weights.
                if reads_layer and edge.source not in self.fed_back:
                    direct[edge.source] = matrix
            feedback = self.feedback.get(readout, {})
            filters[readout] = {**direct, **feedback}
        return filters


class Arguments(NamedTuple):
    """The arguments of a step, checked and by name."""

    states: dict[str, PyTree]
    """State of the cell and last output of each layer."""
    pasts: dict[str, jax.Array]
    """The outputs of earlier steps, for longer delays."""
    inputs: dict[str, jax.Array]
    target: PyTree
    loss: StepLoss
    active: jax.Array | None
    """``(batch,)`` or a scalar: False for padding."""
    key: jax.Array | None


class LayerStep(NamedTuple):
    """A layer in one step, for its traces."""

    state: PyTree
    """The state before the step: arrays ``(batch, neurons)``."""
    current: jax.Array
    """``(batch, neurons)``"""
    rows: jax.Array
    """The reads of the matrices, and 1 for the bias: ``(batch, rows)``."""
    keys: jax.Array | None
    """The keys of stochastic spikes."""


class Forward(NamedTuple):
    """The results of :func:`forward`."""

    value: jax.Array
    """The loss of the step."""
    outputs: PyTree
    states: dict[str, PyTree]
    """The states after the step, as in :class:`Arguments`."""
    pasts: dict[str, jax.Array]
    layers: dict[str, LayerStep]
    """The layers with traces."""
    gradients: PyTree
    """Rule ``"local"``: the gradients of the trainable arrays. Other rules: the signals of the
    layers by name, ``(batch, neurons)``.
    """


class Moved(NamedTuple):
    """The traces of a layer after a step."""

    traces: Eligibility | Presynaptic
    factor: jax.Array
    """The factor of the signal. Rule ``"eprop"``: the derivatives of the output of the step,
    ``(batch, rows, neurons)``. Rule ``"ottt"``: the trace of the rows, ``(batch, rows)``.
    """


class Connection(NamedTuple):
    """An edge with a matrix."""

    edge: Edge
    matrix: jax.Array
    """``(sources, neurons)``"""


# --- the three functions of a step ----------------------------------------------------------------


def forward(rule: Rule, step: Arguments) -> Forward:
    """Run a step and differentiate its loss.

    Outputs of earlier steps are constants, because the derivative does not have the states before
    the step as arguments. So a signal reaches a layer only through edges within the step.
    """
    trainable, static = split_trainable(rule.network)
    graph = rule.network.graph
    # The arguments of the derivative: dL/dzero is dL/ds of a layer, or dL/dI, (batch, neurons).
    zeros = {name: jnp.zeros_like(out) for name, (_, out) in step.states.items()}

    def run(trainable: PyTree, zeros: dict[str, jax.Array]) -> tuple[jax.Array, PyTree]:
        network = combine(trainable, static)
        nodes = _learning_nodes(rule, network, step, zeros)
        masks = Masks(step.active)
        after = graph_step(
            nodes, step.states, step.pasts, step.inputs, hoisted={}, mask=masks
        )
        outputs: PyTree = {name: after.outputs[name] for name in graph.outputs}
        if isinstance(rule.network.outputs, str | None):
            outputs = outputs[graph.outputs[0]]
        return step.loss(outputs, step.target), (outputs, after)

    # "local" is the derivative by the arrays themselves. For the other rules the derivative by the
    # zeros is the signal, and the traces replace the way from a signal to the arrays.
    argument = 0 if rule.name == "local" else 1
    differentiate = jax.value_and_grad(run, argument, has_aux=True)
    (value, (outputs, after)), gradients = differentiate(trainable, zeros)
    layers = {}
    if rule.name != "local":
        layers = _layer_steps(rule, step, after.outputs)
    return Forward(value, outputs, after.states, after.pasts, layers, gradients)


def next_traces(
    rule: Rule, before: Mapping[str, PyTree], layers: Mapping[str, LayerStep]
) -> dict[str, Moved]:
    """Return the traces of all layers after a step, and the factors of their signals.

    ``before`` has the :class:`Eligibility` or the :class:`Presynaptic` of each layer. Masked
    examples are computed too, and :func:`hold` discards them.
    """
    graph = rule.network.graph
    moved = {}
    for name, step in layers.items():
        cell = graph.layers[name].cell
        if rule.name == "ottt":
            traces = _next_presynaptic(cell, before[name], step)
            moved[name] = Moved(traces, traces.leak)
            continue
        state, output = _next_eligibility(cell, before[name].state, step)
        # f_t = kappa f_{t-1} + g ds_t/dw: a readout is linear, so it integrates the derivative of
        # an output as it integrates the output.
        filtered = {
            readout: _integrated(graph.layers[readout].cell, trace, output).state
            for readout, trace in before[name].filtered.items()
        }
        moved[name] = Moved(Eligibility(state, filtered), output)
    return moved


def shares(
    rule: Rule,
    before: Mapping[str, PyTree],
    moved: Mapping[str, Moved],
    signals: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Return the gradients of the rows of each layer in this step: ``(rows, neurons)``.

    ``signals`` are ``(batch, neurons)``. Those of masked examples are zero, like their outputs.
    """
    graph = rule.network.graph
    filters = rule.filters()
    by_layer = {}
    for name, (_, factor) in moved.items():
        if rule.name == "ottt":
            # dL_t/dw_ij = sum over examples of a_i dL_t/dI_j
            by_layer[name] = factor.T @ signals[name]
            continue
        # dL_t/dw_ij = sum over examples of dL_t/ds_j ds_j/dw_ij, with a signal (batch, neurons)
        # and a derivative (batch, rows, neurons).
        share = signals[name][:, None] * factor
        for readout, trace in before[name].filtered.items():
            # The signal above has passed the readout in this step. The memory of the readout is
            # added: its state from earlier steps, without a new input.
            nothing = jnp.zeros_like(jax.tree.leaves(trace)[0])
            readout_cell = graph.layers[readout].cell
            memory = _integrated(readout_cell, trace, nothing).output
            matrix = jnp.asarray(filters[readout][name], share.dtype)
            readout_signal = signals[readout].astype(share.dtype)
            # dL_t/dy W^T: (batch, readouts) and (neurons, readouts) -> (batch, neurons)
            signal = readout_signal @ matrix.T
            share += signal[:, None] * memory
        by_layer[name] = share.sum(0)
    return by_layer


def gradients_of(network: Network, by_layer: dict[str, jax.Array]) -> PyTree:
    """Return the gradients of all trainable arrays, in the structure of ``partition(network)[0]``.

    ``by_layer`` has the gradients of the rows of each layer, ``(rows, neurons)``.
    """
    trainable, static = split_trainable(network)

    def rows(trainable: PyTree) -> dict[str, jax.Array]:
        now = combine(trainable, static)
        return {name: _rows(now, name, share) for name, share in by_layer.items()}

    # The rows are a linear function of matrices and biases, and any function of other parameters,
    # such as a bounded decay or a rounded weight. Its transpose brings each share to its array.
    _, transpose = jax.vjp(rows, trainable)
    (gradients,) = transpose(by_layer)
    return gradients


# --- the nodes of a step --------------------------------------------------------------------------


def _layer_steps(
    rule: Rule, step: Arguments, outputs: Mapping[str, PyTree]
) -> dict[str, LayerStep]:
    """Return each layer in a step, from the outputs of all nodes.

    ``outputs`` also have the currents of the layers, and the reads of their matrices: a tuple of
    arrays ``(batch, sources)`` for each layer.
    """
    graph = rule.network.graph
    nodes: PyTree = nodes_of(graph, step.key, _examples(step))
    layers = {}
    for name in graph.layers:
        current = outputs[activity_names(name).current]
        # The bias reads 1. Without a bias, its row is computed in vain.
        ones = jnp.ones((len(current), 1), current.dtype)
        reads = [read.astype(current.dtype) for read in outputs[_rows_of(name)]]
        state, _ = step.states[name]
        cell_steps, _ = nodes[name]
        layers[name] = LayerStep(
            state=state,
            current=current,
            rows=jnp.concatenate([*reads, ones], -1),
            keys=cell_steps.keys(None),
        )
    return layers


class Constant(Edge):
    """An edge without a derivative."""

    def read(self, read_lag: Callable) -> PyTree:
        return stop_gradient(super().read(read_lag))


@dataclasses.dataclass(frozen=True)
class Probed(CellSteps):
    """A layer with a zero in its output, whose derivative is the learning signal."""

    zero: jax.Array

    def fire(self, u: PyTree, mask: Masks) -> tuple[PyTree, jax.Array]:
        state, out = super().fire(u, mask)
        return state, out + self.zero


def _learning_nodes(
    rule: Rule, network: Network, step: Arguments, zeros: Mapping[str, jax.Array]
) -> dict[str, PyTree]:
    """Return the nodes of a step, with zeros for the signals and with the feedback of the rule.

    Before each layer is a node with the reads of its matrices, because its traces need them.
    """
    nodes: dict[str, PyTree] = {}
    fed_back = rule.fed_back
    plain = nodes_of(network.graph, step.key, _examples(step))
    for name, (node, edges) in plain.items():
        # A layer with feedback gets its signal only through the feedback.
        edges = [Constant(*e) if e.source in fed_back else e for e in edges]
        if isinstance(node, CellSteps):
            feedback = rule.feedback.get(name, {})
            edges += [Edge(_feedback_from(source), source, (0,)) for source in feedback]
            current = partial(_current_with_feedback, node.current, feedback)
            if rule.name == "ottt":
                # The signal of "ottt" is the derivative by the current.
                current = partial(_plus_zero, current, zeros[name])
            # The signal of "eprop" is the derivative by the output, after the neuron.
            if rule.name == "eprop":
                node = Probed(node.cell, current, node.keys, zeros[name])
            else:
                node = CellSteps(node.cell, current, node.keys)
            if rule.name != "local":
                reads = tuple(c.edge for c in learned_matrices_of(network, name))
                nodes[_rows_of(name)] = _values, reads
        nodes[name] = node, tuple(edges)
    return nodes


def _rows_of(name: str) -> str:
    """Return the name of the node with the reads of a layer's matrices."""
    return f"rows of {name!r}"


def _values(reads: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Return the reads of the matrices of a layer, each ``(batch, sources)``, in their order."""
    return tuple(reads.values())


def _feedback_from(source: str) -> str:
    """Return the label of the edge from a layer to the readout that gives it feedback."""
    return f"feedback {source}"


def _plus_zero(
    current: Callable[..., jax.Array], zero: jax.Array, hoisted: PyTree, reads: PyTree
) -> jax.Array:
    """Return the current of a layer plus a zero of its shape, ``(batch, neurons)``."""
    total = current(hoisted, reads)
    return total + zero.astype(total.dtype)


def _current_with_feedback(
    current: Callable[..., jax.Array],
    feedback: Mapping[str, PyTree],
    hoisted: PyTree,
    reads: PyTree,
) -> jax.Array:
    """Return the current of a layer, ``(batch, neurons)``, with the derivative of its feedback.

    A single step has no hoisted products. ``reads`` are by label. ``feedback`` has a matrix
    ``(neurons of the source, neurons)`` for each source.
    """
    total = current(hoisted, reads)
    for source, matrix in feedback.items():
        read = reads[_feedback_from(source)].astype(total.dtype)
        shadow = read @ jnp.asarray(matrix, total.dtype)
        # A zero with the derivative of the feedback matrix in place of the weight.
        total += shadow - stop_gradient(shadow)
    return total


def _examples(step: Arguments) -> int:
    """Return the number of examples in a step."""
    return len(jax.tree.leaves(step.inputs)[0])


# --- the traces of one layer ----------------------------------------------------------------------


def _next_presynaptic(cell: Cell, before: Presynaptic, step: LayerStep) -> Presynaptic:
    """Return the traces of ``"ottt"``: the rows after both leaks of a cell, ``(batch, rows)``."""
    response: PyTree = linear_response(cell)
    # i_t = gamma i_{t-1} + x_t
    synapse = response.synaptic_decay * before.synapse + step.rows
    # a_t = beta a_{t-1} + i_t. The gain of the cell is in the signal.
    return Presynaptic(synapse, response.decay * before.leak + synapse)


def _next_eligibility(
    cell: Cell, before: PyTree, step: LayerStep
) -> tuple[PyTree, jax.Array]:
    """Return the derivatives of state and output after a step, ``(batch, rows, neurons)``.

    The cell is elementwise, so the derivative of a neuron depends on its own state and current. For
    weight ``w`` of row ``i``:

        dv_t/dw = dv_t/dv_{t-1} dv_{t-1}/dw + dv_t/dI_t x_i

    and ds_t/dw alike. For a parameter ``p`` of the cell, the last term is the partial derivative
    dv_t/dp.
    """
    arrays = arrays_of(cell)
    # Counters, as of a neuron that rests, are integers and have no derivative.
    floats = inexact(step.state)

    # The step of the network once more, only for its derivative.
    def move(
        arrays: PyTree, floats: PyTree, current: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        traced_cell = combine(arrays, cell)
        u = traced_cell.integrate(merge(floats, step.state), current)
        state, out = fire_cell(traced_cell, u, step.keys)
        return inexact(state), out

    def by_row(of_arrays: PyTree, of_state: PyTree, row: jax.Array) -> tuple:
        # (batch,) -> (batch, neurons): a source is equal for all neurons.
        of_current = jnp.broadcast_to(row[:, None], step.current.shape)
        values = arrays, floats, step.current
        tangents = of_arrays, of_state, of_current
        _, derivatives = jax.jvp(move, values, tangents)
        return derivatives

    leaves, tree = jax.tree.flatten(arrays)
    # The rows of the arrays follow those of the weights. No source acts on them.
    rows_after = (0, len(leaves))
    rows = jnp.pad(step.rows, ((0, 0), rows_after))
    count = rows.shape[1]
    first = count - len(leaves)
    # dp/dp = 1 in the row of p, and 0 in all others: (rows, *shape of p)
    tangents = []
    for place, leaf in enumerate(leaves, first):
        is_row = jax.nn.one_hot(place, count, dtype=leaf.dtype)
        tangents.append(jnp.multiply.outer(is_row, jnp.ones_like(leaf)))
    of_arrays = tree.unflatten(tangents)
    # The axis of the rows: 0 of the arrays, 1 of the traces, of the reads, and of the results.
    by_rows = jax.vmap(by_row, in_axes=(0, 1, 1), out_axes=1)
    return by_rows(of_arrays, before, rows)


class Integrated(NamedTuple):
    """State and output of a linear readout, for derivatives: ``(batch, rows, neurons)``."""

    state: PyTree
    """One array, or two with a synapse."""
    output: jax.Array


def _integrated(cell: Cell, state: PyTree, current: jax.Array) -> Integrated:
    """Return one step of a readout for derivatives instead of values.

    ``state`` and ``current`` are ``(batch, rows, neurons)``, with the neurons of the layer that the
    readout reads. A readout has one decay, so the number of neurons does not matter. It is linear,
    so its derivative at rest is its step. A readout of integers rounds values, but not derivatives.
    """

    def step(state: PyTree, current: jax.Array) -> tuple[PyTree, jax.Array]:
        return cell.fire(cell.integrate(state, current))

    at_rest = jax.tree.map(jnp.zeros_like, (state, current))
    _, derivatives = jax.jvp(step, at_rest, (state, current))
    return Integrated(*derivatives)


def start_traces(
    rule: Rule, name: str, state: PyTree, readouts: list[str]
) -> Eligibility | Presynaptic:
    """Return traces of zeros for a layer.

    ``state`` is its state, arrays ``(batch, neurons)``. ``readouts`` filter its traces.
    """
    layers = rule.network.graph.layers
    cell = layers[name].cell
    real = inexact(state)
    like = jax.tree.leaves(real)[0]  # (batch, neurons)
    matrices = [c.matrix for c in learned_matrices_of(rule.network, name)]
    rows = sum(map(len, matrices)) + 1  # and the bias
    if rule.name == "ottt":
        zeros = jnp.zeros((len(like), rows), like.dtype)
        return Presynaptic(zeros, zeros)
    # One row for each array of the cell, however many neurons share a number of it.
    rows += len(jax.tree.leaves(arrays_of(cell)))

    def zeros_of(x: jax.Array) -> jax.Array:
        # (batch, neurons) -> (batch, rows, neurons), on the devices of x
        zeros = jnp.zeros_like(x)[:, None]
        return jnp.broadcast_to(zeros, (len(x), rows, *x.shape[1:]))

    filtered = {}
    for readout in readouts:
        # The state of the readout has one array, or two with a synapse.
        of_readout = layers[readout].cell.initial_state(like.shape, like.dtype)
        filtered[readout] = jax.tree.map(lambda _: zeros_of(like), of_readout)
    return Eligibility(jax.tree.map(zeros_of, real), filtered)


def hold(
    active: jax.Array | None, moved: Mapping[str, Moved], before: PyTree
) -> PyTree:
    """Return the traces after a step. A masked example holds those before it."""
    after = {name: layer.traces for name, layer in moved.items()}
    return tree_where(active, after, before)


# --- learned arrays -------------------------------------------------------------------------------


def is_readout(cell: Cell) -> bool:
    """Return True for a linear cell that never fires: a leaky readout, or one of integers, which
    has a threshold of None.
    """
    return isinstance(cell, LeakyReadout) or getattr(cell, "threshold", 0) is None


def arrays_of(cell: Cell) -> PyTree:
    """Return the arrays of a cell that learn, and None for everything else."""
    return split_trainable(cell)[0]


def matrices_of(network: Network, name: str) -> list[Connection]:
    """Return the connections of a layer that have a matrix."""
    connections = []
    for edge, weight in network.graph.connections(name):
        matrix = matrix_of(weight)
        if matrix is not None:
            connections.append(Connection(edge, jnp.asarray(matrix)))
    return connections


def learned_matrices_of(network: Network, name: str) -> list[Connection]:
    """Return the connections of a layer that learn a matrix. One of integers is a constant."""
    return [c for c in matrices_of(network, name) if is_float_array(c.matrix)]


def _rows(network: Network, name: str, like: jax.Array) -> jax.Array:
    """Return all that a layer learns, as the rows of its traces: ``(rows, neurons)``."""
    layer = network.graph.layers[name]
    # In the order of the traces: matrices, bias, arrays of the cell. A missing bias has a row of
    # zeros.
    bias = jnp.zeros(()) if layer.bias is None else jnp.asarray(layer.bias)
    single = [bias, *jax.tree.leaves(arrays_of(layer.cell))]
    shape_of_row = 1, like.shape[1]
    rows = [c.matrix for c in learned_matrices_of(network, name)]
    rows += [jnp.broadcast_to(array, shape_of_row) for array in single]
    return jnp.concatenate([row.astype(like.dtype) for row in rows])


def check_elementwise(name: str, cell: Cell, like: jax.Array) -> None:
    """Raise if a neuron of a cell depends on another one.

    ``like`` is an array of the state, ``(batch, neurons)``.
    """
    # Numbers replace the arrays of the cell, because those may be tracers.
    cell = combine(_halves(arrays_of(cell)), cell)
    zeros = np.zeros(like.shape, like.dtype)
    values, derivatives = _step_from_first_neuron(cell, zeros)
    values = jax.tree.leaves(values)
    derivatives = jax.tree.leaves(derivatives)
    for value, derivative in zip(values, derivatives, strict=True):
        is_dependent = np.isnan(derivative)
        if value.shape != like.shape or is_dependent[:, 1:].any():
            raise TypeError(
                f"Online: layer {name!r}: rule 'eprop' needs elementwise integrate and fire, "
                f"and {type(cell).__name__} mixes neurons. Pass rule='local'"
            )


@evaluated
def _step_from_first_neuron(cell: Cell, like: np.ndarray) -> tuple[PyTree, PyTree]:
    """Return state and output of a step, and their derivatives in the direction of the first
    neuron, which is NaN there and 0 elsewhere.

    The derivative of each neuron that depends on the first one is NaN.
    """
    v = cell.initial_state(like.shape, like.dtype)
    keys = jax.random.split(jax.random.key(0), len(like))

    def move(real: PyTree, current: jax.Array) -> tuple[PyTree, jax.Array]:
        u = cell.integrate(merge(real, v), current)
        state, out = fire_cell(cell, u, keys)
        return inexact(state), out

    def first_is_nan(x: np.ndarray) -> np.ndarray:
        is_first = np.arange(x.shape[1]) == 0
        return np.where(is_first, np.nan, 0 * x)

    # NaN times 0 is NaN, so no dependence hides behind a derivative of 0.
    values = _halves((inexact(v), like))
    directions = jax.tree.map(first_is_nan, values)
    return jax.jvp(move, values, directions)


def _halves(tree: PyTree) -> PyTree:
    """Return arrays of 0.5, a number in the domain of most parameters and states."""
    return jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), tree)
