"""Gradients that are computed forward in time, in memory that does not grow with the steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from .._pytree import PyTree, inexact, is_array, merge, split
from .._struct import Struct, parameter, wiring
from .._surrogate import as_key, fold_in
from ..network import (
    MODES,
    CellSteps,
    Edge,
    Join,
    Layer,
    Masks,
    Network,
    as_entries,
    as_parts,
    graph_step,
    named_inputs,
    nodes_of,
    tree_where,
)
from ..neurons import Cell, LeakyReadout, fire, linear_response
from ..reports import residual_report
from ._partition import combine, is_float_array, partition

RULES = ("eprop", "ottt", "local")
StepLoss = Callable[[Any, Any], jax.Array]
"""``loss(outputs, target)`` of one step, a scalar."""


class Carry(NamedTuple):
    """The state between two steps."""

    states: Mapping[str, Any]
    """The states of the network, in the form of :meth:`spikegrad.Network.initial_state`."""
    traces: dict[str, Any]
    """The traces of each layer."""


class Traces(NamedTuple):
    """Derivatives of a layer for rule ``"eprop"``, ``(batch, rows, neurons)``.

    A row for each source, one for the bias, and one for each array of the cell.
    """

    state: Any
    """Of the state of the cell."""
    filtered: dict[str, jax.Array]
    """Of the output, as each readout integrates it."""


class Cost(NamedTuple):
    """Bytes of a rule and of backpropagation, without the temporaries of a step."""

    traces: int
    """Bytes of the traces. They do not grow with the steps."""
    residuals: dict[str, int]
    """Bytes that backpropagation stores for these steps, in each mode."""
    crossover: int
    """Steps at which the residuals of mode ``"exact"`` need the bytes of the traces."""


class Moved(NamedTuple):
    """A layer in one step."""

    current: jax.Array
    rows: jax.Array
    """What the weights read, and 1 for the bias: ``(batch, rows)``."""
    trace: Any
    """The traces of the rows, for rule ``"ottt"``."""
    keys: jax.Array | None


class Held(Edge):
    """An edge without a derivative."""

    def read(self, read_lag: Callable) -> Any:
        return stop_gradient(super().read(read_lag))


@dataclasses.dataclass(frozen=True)
class Probed(CellSteps):
    """A layer with a zero in its output, whose derivative is the learning signal."""

    zero: jax.Array

    def fire(self, u: Any, mask: Masks) -> tuple[Any, jax.Array]:
        state, out = super().fire(u, mask)
        return state, out + self.zero


class Online(Struct):
    r"""Gradients forward in time: an update can follow each step of a stream without an end.

    The gradient of a weight is a sum over steps. Each term is the learning signal of the neuron,
    the derivative of the step's loss by its output, times an eligibility trace. The signal passes
    through edges without a delay, within one step. Outputs that a node reads in a later step, such
    as recurrent spikes, are constants.

    Parameters
    ----------
    network : Network
        The network, without joins over time.
    rule : {"eprop", "ottt", "local"}, default "eprop"
        ``"eprop"``: a trace for each weight and array of the state, with the derivative through the
        neuron's state. A :class:`~spikegrad.LeakyReadout` also filters the traces of layers that it
        reads by a matrix. ``"ottt"``: a trace for each source, filtered by the neuron's leak,
        without its reset. ``"local"``: no traces, so the gradients are those of
        ``Backward(truncate=1)``.
    feedback : mapping, optional
        ``{"readout": {"hidden": matrix}}``: the learning signal of ``"hidden"`` comes only from
        ``"readout"``, through this matrix ``(hidden, readout)`` in place of the weights.

    Raises
    ------
    TypeError, ValueError
        If the rule has no trace for a layer. The message names the layer.

    Notes
    -----
    For one hidden layer and a leaky readout, ``"eprop"`` gives the gradients of backpropagation
    with ``stop_gradient`` on the recurrent spikes. In deeper networks it leaves out the memory of
    the layers above.

    Rule ``"eprop"`` takes any cell with elementwise ``integrate`` and ``fire``. Arrays of the cell
    get gradients too.

    References
    ----------
    Bellec et al. 2020, "A solution to the learning dilemma for recurrent networks of spiking
    neurons", Nature Communications (e-prop). Xiao et al. 2022, "Online training through time for
    spiking neural networks", NeurIPS (OTTT).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, LeakyReadout, Network
    >>> from spikegrad.training import Online
    >>> network = Network([
    ...     Layer(jnp.full((3, 8), 0.4), LIF(0.9), recurrent=jnp.eye(8)),
    ...     Layer(jnp.ones((8, 2)), LeakyReadout(0.9)),
    ... ])
    >>> online = Online(network)
    >>> inputs = jnp.ones((16, 3))  # one step
    >>> carry = online.start(inputs)
    >>> def squares(outputs, target):
    ...     return ((outputs - target) ** 2).sum()
    >>> step = jax.jit(lambda carry, x: online.step(carry, x, 1.0, squares))
    >>> for _ in range(5):
    ...     carry, outputs, gradients = step(carry, inputs)
    >>> gradients.layers["0"].recurrent.shape
    (8, 8)
    """

    network: Network = parameter(kind=Network)
    rule: str = wiring("eprop")
    feedback: Any = parameter(default=None, kind=object)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in RULES:
            raise ValueError(f"Online: rule must be one of {RULES}, got {self.rule!r}")
        object.__setattr__(self, "feedback", dict(self.feedback or {}))
        graph = self.network.graph
        order = [*graph.layers]
        for readout, matrices in self.feedback.items():
            below = order[: order.index(readout)] if readout in order else []
            for name in matrices:
                if name not in below:
                    raise ValueError(
                        f"Online: feedback[{readout!r}] must name layers below {readout!r}, here "
                        f"{below}, got {name!r}"
                    )
        for name, node in graph.nodes.items():
            if reason := self._obstacle(name, node):
                kind = type(node).__name__.lower()
                raise TypeError(f"Online: {kind} {name!r}: {reason}")

    def _obstacle(self, name: str, node: Layer | Join) -> str | None:
        """Return the reason why the rule has no trace for a node, or None."""
        no_trace, local = f"rule {self.rule!r} has no trace for", self.rule == "local"
        if isinstance(node, Join):
            if local or not _has_arrays(node):
                return None
            return f"{no_trace} the arrays of its function; pass rule='local'"
        cell = type(node.cell).__name__
        if node.cell.couples_examples:
            return f"{cell} reads all examples of a step; pass a cell with fixed statistics"
        reason = None
        for edge, weight in () if local else self.network.graph.connections(name):
            if not is_array(weight) and _has_arrays(weight):
                reason = (
                    f"{no_trace} the arrays of the function {edge.label}; pass a matrix"
                )
            if is_array(weight) and weight.ndim > 2:
                reason = f"{no_trace} the receptors of {cell}; pass rule='local'"
        numbers = linear_response(node.cell) and not _has_arrays(node.cell)
        if self.rule == "ottt" and not numbers:
            reason = (
                f"rule 'ottt' needs a linear response and numbers as parameters, which {cell} "
                "does not have; pass rule='eprop'"
            )
        if self._filtered_by(name) and jnp.size(getattr(node.cell, "decay", 0)) > 1:
            reason = "rule 'eprop' filters traces by one decay; pass a number as decay"
        return reason

    def _fed_back(self) -> set[str]:
        """Return the layers with feedback."""
        return {name for matrices in self.feedback.values() for name in matrices}

    def _filtered_by(self, readout: str) -> dict[str, Any]:
        """Return the layers whose traces a readout filters, with the matrices of their signals."""
        graph = self.network.graph
        cell = getattr(graph.nodes[readout], "cell", None)
        if self.rule != "eprop" or not isinstance(cell, LeakyReadout):
            return {}
        direct = {*graph.layers} - self._fed_back()
        matrices = {
            edge.source: weight
            for edge, weight in graph.connections(readout)
            if edge.lags == (0,) and is_array(weight) and edge.source in direct
        }
        return {**matrices, **self.feedback.get(readout, {})}

    def start(self, inputs: Any) -> Carry:
        """Return the carry before the first step: neurons at rest, and traces of zeros.

        Parameters
        ----------
        inputs : array_like, jax.ShapeDtypeStruct or dict
            The inputs of one step, ``(batch, inputs)``. Only shape and dtype matter.

        Returns
        -------
        Carry
            The states of the network and the traces, a pytree.
        """
        graph, states = self.network.graph, self.network.initial_state(inputs)
        traces: dict[str, Any] = {}
        for name, layer in graph.layers.items() if self.rule != "local" else ():
            v = inexact(states[name][0])
            like = jax.tree.leaves(v)[0]
            if like.ndim != 2:
                raise ValueError(
                    f"Online: layer {name!r} must have a state of shape (batch, neurons), got "
                    f"{like.shape}; pass inputs of shape (batch, inputs)"
                )
            rows = sum(len(weight) for _, weight in _matrices(graph, name)) + 1
            if self.rule == "ottt":
                zeros = jnp.zeros((len(like), rows), like.dtype)
                traces[name] = zeros, zeros
                continue
            _check_elementwise(name, layer.cell, like)
            rows += len(jax.tree.leaves(_arrays_of(layer.cell)))
            zeros = jax.tree.map(
                lambda x, n=rows: jnp.stack([jnp.zeros_like(x)] * n, 1), v
            )
            readouts = [r for r in graph.layers if name in self._filtered_by(r)]
            traces[name] = Traces(
                zeros, {r: jax.tree.leaves(zeros)[0] for r in readouts}
            )
        return Carry(states, traces)

    def step(
        self,
        carry: Carry,
        inputs: Any,
        target: Any,
        loss: StepLoss,
        *,
        active: ArrayLike | None = None,
        key: jax.Array | None = None,
    ) -> tuple[Carry, Any, PyTree]:
        """Run one step, and return its share of the gradients.

        Parameters
        ----------
        carry : Carry
            From :meth:`start` or the previous step.
        inputs : array_like or dict
            The inputs of the step, ``(batch, inputs)``.
        target : pytree
            The second argument of ``loss``.
        loss : callable
            ``loss(outputs, target)`` returns the loss of the step, a scalar.
        active : array_like of bool, optional
            ``(batch,)`` or a scalar: False for padding, which changes neither states nor traces.
        key : array of jax.random.key, optional
            The key of the step, for stochastic spikes, as in :meth:`spikegrad.Network.step`.

        Returns
        -------
        carry : Carry
            The carry after the step.
        outputs : jax.Array or dict
            The outputs of the network.
        gradients : pytree
            In the structure of ``partition(network)[0]``. Their sum over the steps is the gradient
            of the sum of the losses.
        """
        return self._step(carry, inputs, target, loss, active, key)[:3]

    def scan(
        self,
        carry: Carry,
        inputs: Any,
        targets: Any,
        loss: StepLoss,
        *,
        mask: ArrayLike | None = None,
        key: jax.Array | None = None,
    ) -> tuple[Carry, jax.Array, PyTree]:
        """Run a sequence, and return the sums of the losses and gradients of its steps.

        Parameters
        ----------
        carry : Carry
            From :meth:`start`, a step or a scan.
        inputs, targets : pytree
            As in :meth:`step`, with the axis of the steps first.
        loss : callable
            As in :meth:`step`.
        mask : array_like of bool, optional
            ``(steps, batch)`` or ``(steps,)``, False for padding. The outputs of these steps are 0,
            and the loss reads them.
        key : array of jax.random.key, optional
            For stochastic spikes. Step ``t`` uses ``jax.random.fold_in(key, t)``, so spikes equal
            those of a call of the network.

        Returns
        -------
        carry : Carry
            The carry after the last step.
        value : jax.Array
            The sum of the losses.
        gradients : pytree
            In the structure of ``partition(network)[0]``.
        """

        def run(carry, now):
            x, target, active, t = now
            folded = None if key is None else fold_in(key, t)
            after, _, *terms = self._step(carry, x, target, loss, active, folded)
            return after, terms

        def step(carry, now):
            after, terms = run(carry[0], now)
            return (after, jax.tree.map(jnp.add, carry[1], terms)), None

        steps = len(jax.tree.leaves(inputs)[0])
        xs = jax.tree.map(jnp.asarray, (inputs, targets, mask, jnp.arange(steps)))
        _, terms = jax.eval_shape(run, carry, jax.tree.map(lambda x: x[0], xs))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), terms)
        (after, (gradients, value)), _ = jax.lax.scan(step, (carry, zeros), xs)
        return after, value, gradients

    def loss(
        self,
        inputs: Any,
        targets: Any,
        loss: StepLoss,
        *,
        mask: ArrayLike | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Return the sum of the losses of a sequence, with the gradients of the rule.

        ``jax.grad`` of it, and :func:`fit`, then learn by the rule. The forward pass computes the
        gradients.

        Parameters
        ----------
        inputs, targets, loss, mask, key
            As in :meth:`scan`.

        Returns
        -------
        jax.Array
            The sum of the losses.

        Examples
        --------
        >>> import jax, jax.numpy as jnp
        >>> from spikegrad import LIF, Layer, Network
        >>> from spikegrad.training import Online, combine, partition
        >>> network = Network([Layer(jnp.full((3, 2), 0.4), LIF(0.9))])
        >>> trainable, static = partition(network)
        >>> def loss(trainable):
        ...     online = Online(combine(trainable, static))
        ...     squares = lambda outputs, target: ((outputs - target) ** 2).mean()
        ...     return online.loss(jnp.ones((50, 8, 3)), jnp.ones(50), squares)
        >>> jax.jit(jax.grad(loss))(trainable).layers["0"].weight.shape
        (3, 2)
        """
        _, value, gradients = stop_gradient(self)._whole(
            inputs, targets, loss, mask=mask, key=key
        )
        # Differences that are zero and have the gradients of the rule as derivative.
        trainable = partition(self.network)[0]
        shares = jax.tree.map(
            lambda x, g: jnp.vdot(x - stop_gradient(x), g).astype(value.dtype),
            trainable,
            gradients,
        )
        return sum(jax.tree.leaves(shares), value)

    def cosine(
        self,
        inputs: Any,
        targets: Any,
        loss: StepLoss,
        *,
        mask: ArrayLike | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Return the cosine between the gradients of the rule and of backpropagation.

        Parameters
        ----------
        inputs, targets, loss, mask, key
            As in :meth:`scan`.

        Returns
        -------
        jax.Array
            A scalar: 1 for gradients of equal direction.
        """
        trainable, static = partition(self.network)

        def through_time(trainable):
            network = combine(trainable, static)
            outputs = network(inputs, mask=mask, key=key)[1]
            return jax.vmap(loss)(outputs, targets).sum()

        gradients = self._whole(inputs, targets, loss, mask=mask, key=key)[2]
        a, b = (
            ravel_pytree(tree)[0]
            for tree in (gradients, jax.grad(through_time)(trainable))
        )
        return a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)

    def cost(self, inputs: Any, *, key: jax.Array | None = None) -> Cost:
        """Return the bytes of the traces, and of the residuals of backpropagation in each mode.

        Parameters
        ----------
        inputs : pytree of arrays or jax.ShapeDtypeStruct
            Inputs of a sequence, with the axis of the steps first. Only shapes and dtypes matter.
        key : array of jax.random.key, optional
            For stochastic spikes.

        Returns
        -------
        Cost
            Compiled programs also need memory for temporaries.
        """
        trainable, static = partition(self.network)
        first = jax.eval_shape(partial(jax.tree.map, lambda x: x[0]), inputs)
        traces = jax.tree.leaves(jax.eval_shape(self.start, first).traces)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in traces)

        def run(trainable, inputs, mode):
            return combine(trainable, static)(inputs, key=key, backward=mode)[1]

        residuals = {
            mode: residual_report(partial(run, mode=mode), trainable, inputs).bytes
            for mode in MODES
        }
        steps = len(jax.tree.leaves(inputs)[0])
        return Cost(size, residuals, round(steps * size / residuals["exact"]))

    def _whole(
        self, inputs: Any, *arguments: Any, **options: Any
    ) -> tuple[Carry, jax.Array, PyTree]:
        """Run a sequence from rest."""
        first = jax.tree.map(lambda x: jnp.asarray(x)[0], inputs)
        return self.scan(self.start(first), inputs, *arguments, **options)

    def _step(
        self,
        carry: Carry,
        inputs: Any,
        target: Any,
        loss: StepLoss,
        active: Any,
        key: Any,
    ) -> tuple[Carry, Any, PyTree, jax.Array]:
        trainable, static = partition(self.network)
        graph = self.network.graph
        x = named_inputs(self.network.inputs, inputs)
        states, pasts = as_parts(graph, carry.states)
        active = jax.tree.map(jnp.asarray, active)
        key = None if key is None else as_key("Online", key)
        fed_back = self._fed_back()
        zeros = {name: jnp.zeros_like(out) for name, (_, out) in states.items()}

        def forward(trainable, probes):
            of_output = probes if self.rule == "eprop" else zeros
            live, moved = combine(trainable, static).graph, {}
            nodes: dict[str, Any] = dict(
                nodes_of(live, key, len(jax.tree.leaves(x)[0]))
            )
            for name, (node, edges) in nodes.items():
                reads = [Held(*e) if e.source in fed_back else e for e in edges]
                if name in graph.layers:
                    for source in self.feedback.get(name, {}):
                        reads.append(Edge(f"feedback {source}", source, (0,)))
                    current = partial(
                        self._current, node, name, carry, probes[name], moved
                    )
                    node = Probed(node.cell, current, node.keys, of_output[name])
                nodes[name] = node, tuple(reads)
            new = graph_step(nodes, states, pasts, x, {}, Masks(active))
            chosen: Any = {name: new.outputs[name] for name in graph.outputs}
            if isinstance(self.network.outputs, str | None):
                chosen = chosen[graph.outputs[0]]
            return loss(chosen, target), (chosen, new, moved)

        differentiate = jax.value_and_grad(
            forward, int(self.rule != "local"), has_aux=True
        )
        (value, (chosen, new, moved)), gradients = differentiate(trainable, zeros)
        traces, shares = {}, {}  # the gradients of the zeros are learning signals
        for name, before in carry.traces.items():
            if self.rule == "ottt":
                traces[name] = moved[name].trace
                shares[name] = traces[name][1].T @ gradients[name]
                continue
            v = states[name][0]
            traces[name], of_output = self._carried(name, before, v, moved[name])
            share = gradients[name][:, None] * of_output
            for readout, trace in before.filtered.items():
                # The signal of this step has passed the readout. Its memory is left.
                memory = graph.layers[readout].cell.integrate(
                    trace, jnp.zeros_like(trace)
                )
                matrix = jnp.asarray(self._filtered_by(readout)[name], share.dtype)
                signal = gradients[readout].astype(share.dtype) @ matrix.T
                share += signal[:, None] * memory
            shares[name] = share.sum(0)

        def layout(trainable):
            now = combine(trainable, static).graph
            return {n: _quantities(now, n, share) for n, share in shares.items()}

        if shares:
            (gradients,) = jax.vjp(layout, trainable)[1](shares)
        traces = tree_where(active, traces, carry.traces)
        after = Carry(as_entries(graph, (new.states, new.pasts)), traces)
        return after, chosen, gradients, value

    def _current(
        self,
        node: Any,
        name: str,
        carry: Carry,
        probe: jax.Array,
        moved: dict[str, Moved],
        arguments: tuple,
    ) -> jax.Array:
        """Return the current of a layer, with the derivative of the feedback."""
        reads, total = arguments[1], node.current(arguments)
        graph, dtype, trace = self.network.graph, total.dtype, None
        rows = [jnp.ones((len(total), 1), dtype)]
        if self.rule != "local":
            labels = [edge.label for edge, _ in _matrices(graph, name)]
            rows = [*(reads[label].astype(dtype) for label in labels), *rows]
        rows = stop_gradient(jnp.concatenate(rows, -1))
        if self.rule == "ottt":
            response: Any = linear_response(graph.layers[name].cell)
            synapse, leak = carry.traces[name]
            synapse = response.synaptic_decay * synapse + rows
            trace = synapse, response.decay * leak + synapse
            total += probe.astype(dtype)
        for source, matrix in self.feedback.get(name, {}).items():
            read = reads[f"feedback {source}"].astype(dtype)
            shadow = read @ jnp.asarray(matrix, dtype)
            total += shadow - stop_gradient(shadow)  # zero, with a derivative
        moved[name] = Moved(total, rows, trace, node.keys(None))
        return total

    def _carried(
        self, name: str, before: Traces, v: Any, moved: Moved
    ) -> tuple[Traces, jax.Array]:
        """Return the traces after a step, and the derivatives of the output of the step."""
        graph = self.network.graph
        current, cell = moved.current, graph.layers[name].cell
        arrays, real = _arrays_of(cell), inexact(v)

        def move(arrays, real, current):
            learner = combine(arrays, cell)
            u = learner.integrate(merge(real, v), current)
            state, out = fire(learner, u, moved.keys)
            return inexact(state), out

        def by_row(of_arrays, of_state, row):
            of_current = jnp.broadcast_to(row[:, None], current.shape)
            return jax.jvp(
                move, (arrays, real, current), (of_arrays, of_state, of_current)
            )[1]

        leaves, tree = jax.tree.flatten(arrays)
        rows = jnp.pad(moved.rows, ((0, 0), (0, len(leaves))))
        n = rows.shape[1]
        of_arrays = tree.unflatten(
            jnp.multiply.outer(
                jax.nn.one_hot(k, n, dtype=leaf.dtype), jnp.ones_like(leaf)
            )
            for k, leaf in enumerate(leaves, n - len(leaves))
        )
        state, output = jax.vmap(by_row, (0, 1, 1), 1)(of_arrays, before.state, rows)
        filtered = {
            # A leaky readout is linear, so it integrates a derivative as it does a current.
            readout: graph.layers[readout].cell.integrate(trace, output)
            for readout, trace in before.filtered.items()
        }
        return Traces(state, filtered), output


def _arrays_of(cell: Cell) -> Any:
    """Return the arrays of a cell that learn."""
    return split(cell, lambda _, leaf: is_float_array(leaf))[0]


def _has_arrays(tree: PyTree) -> bool:
    return any(map(is_float_array, jax.tree.leaves(tree)))


def _matrices(graph: Any, name: str) -> list[Any]:
    """Return the connections of a layer that learn a matrix."""
    return [
        (edge, weight)
        for edge, weight in graph.connections(name)
        if is_array(weight) and is_float_array(weight)
    ]


def _quantities(graph: Any, name: str, like: jax.Array) -> jax.Array:
    """Return all that a layer learns, as the rows of its traces: ``(rows, neurons)``."""
    layer = graph.layers[name]
    bias = jnp.zeros(()) if layer.bias is None else jnp.asarray(layer.bias)
    single = [bias, *jax.tree.leaves(_arrays_of(layer.cell))]
    rows = [weight for _, weight in _matrices(graph, name)]
    rows += [jnp.broadcast_to(x, (1, like.shape[1])) for x in single]
    return jnp.concatenate([row.astype(like.dtype) for row in rows])


def _check_elementwise(name: str, cell: Cell, like: jax.Array) -> None:
    """Raise if a neuron of a cell depends on another one. NaN marks the dependence."""
    with jax.ensure_compile_time_eval():
        half = partial(jax.tree.map, lambda x: np.full(x.shape, 0.5, x.dtype))
        cell = combine(half(_arrays_of(cell)), cell)
        v = cell.initial_state(like.shape, like.dtype)
        keys = jax.random.split(jax.random.key(0), len(like))

        def move(real, current):
            state, out = fire(cell, cell.integrate(merge(real, v), current), keys)
            return inexact(state), out

        values = half((inexact(v), like))
        marks = jax.tree.map(
            lambda x: np.where(np.arange(x.shape[1]) == 0, np.nan, 0 * x), values
        )
        for value, mark in zip(
            *map(jax.tree.leaves, jax.jvp(move, values, marks)), strict=True
        ):
            if value.shape != like.shape or jnp.any(jnp.isnan(mark)[:, 1:]):
                raise TypeError(
                    f"Online: layer {name!r}: rule 'eprop' needs elementwise integrate and fire, "
                    f"and {type(cell).__name__} mixes neurons; pass rule='local'"
                )
