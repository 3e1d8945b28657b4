"""Gradients that are computed forward in time, in memory that does not grow with the steps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from .._checks import brief
from .._pytree import PyTree, inexact, is_array, name_of
from .._struct import Struct, parameter, wiring
from .._surrogate import as_key, fold_in
from ..network import (
    MODES,
    Join,
    Layer,
    Network,
    as_entries,
    as_states_and_pasts,
    matrix_of,
    named_inputs,
    report_call,
)
from ..neurons import Cell, linear_response
from ..reports import residual_report
from ._eligibility import (
    Arguments,
    Rule,
    StepLoss,
    check_elementwise,
    forward,
    gradients_of,
    hold,
    next_traces,
    shares,
    start_traces,
)
from ._partition import combine, is_float_array, split_trainable

RULES = ("eprop", "ottt", "local")


class Carry(NamedTuple):
    """The state of :class:`Online` between two time steps."""

    states: Mapping[str, Any]
    """The states of the network, in the form of :meth:`spikegrad.Network.initial_state`."""
    traces: dict[str, Any]
    """The traces of each layer."""


class OnlineStep(NamedTuple):
    """The results of a step, for :meth:`Online.step` and :meth:`Online.scan`."""

    carry: Carry
    outputs: Any
    value: jax.Array
    """The loss of the step."""
    gradients: PyTree


class OnlineCost(NamedTuple):
    """The memory of :class:`Online` and of backpropagation in bytes, without the temporary arrays
    of a time step.
    """

    traces: int
    """Bytes of the traces. They do not grow with the number of time steps."""
    residuals: dict[str, int]
    """Bytes that backpropagation stores for these time steps, in each memory mode."""
    crossover: int
    """Number of time steps at which backpropagation in the mode ``"exact"`` needs as many bytes as
    the traces. With more time steps, the traces need less.
    """


class Online(Struct):
    r"""Gradients that are computed forward in time, without a backward pass, in memory that does
    not grow with the number of time steps.

    After each time step, you get the part of the gradient that belongs to this time step. So you
    can train on an endless stream, and update the weights at any time. For a stream, call
    :meth:`start`, and then :meth:`step` for each time step. For sequences, use :meth:`loss` in the
    loss function of :func:`fit`.

    The gradient of a weight is a sum over time steps. Each term is the product of two factors. The
    *learning signal* is the derivative of the loss of the time step by the output of the neuron.
    The *eligibility trace* is a decaying sum of the past inputs of the weight. The gradient is an
    approximation: it ignores effects of outputs that a layer reads in a later time step, such as
    recurrent spikes.

    Parameters
    ----------
    network : Network
        The network. Joins with ``over_time=True`` are not supported.
    rule : {"eprop", "ottt", "local"}, default "eprop"
        The approximation of the gradient, by the traces that it stores. Start with ``"eprop"``.

        - ``"eprop"`` has a trace for each weight and each array of the state. It follows the
          complete state of a neuron, with its reset, and of a leaky readout that reads the neuron.
        - ``"ottt"`` has one trace for each input of a layer, so it needs less memory. It follows
          the decay of the potential without the reset.
        - ``"local"`` has no traces. It equals backpropagation with ``Backward(truncate=1)``:
          effects within one time step only.
    feedback : mapping, optional
        Random feedback: ``{"readout": {"hidden": matrix}}``. The learning signal of the layer
        ``"hidden"`` then comes from ``"readout"`` through this matrix, ``(hidden neurons, readout
        neurons)``, instead of the weights. By default the weights are used.

    Raises
    ------
    TypeError, ValueError
        If the rule does not support a layer. The message names the layer and a rule to use.

    Notes
    -----
    For one hidden layer and a leaky readout, ``"eprop"`` equals backpropagation with
    ``stop_gradient`` on the recurrent spikes. With several hidden layers, it also ignores effects
    through the states of later hidden layers. :meth:`cosine` compares a rule with backpropagation
    in your task.

    The rule ``"eprop"`` supports each cell that computes its neurons separately. Arrays in the
    fields of the cell, such as decays, get gradients too. Networks of integers from
    :func:`spikegrad.integers.quantize` learn with the rules ``"eprop"`` and ``"local"``.

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
        self._check_names()
        filters = self._traced.filters()
        filtering = {readout for readout, layers in filters.items() if layers}
        # Here and not in the first step, because a step runs in a compiled program, far from the
        # line that chose the rule.
        for name, node in self.network.graph.nodes.items():
            if isinstance(node, Join):
                kind = "join"
                reason = self._obstacle_of_join(node)
            else:
                kind = "layer"
                reason = self._obstacle_of_layer(name, node, name in filtering)
            if reason is not None:
                raise TypeError(f"Online: {kind} {name!r}: {reason}")

    def _check_names(self) -> None:
        """Raise if the feedback names other layers than those below a readout."""
        order = [*self.network.graph.layers]
        for readout, matrices in self.feedback.items():
            if not isinstance(matrices, Mapping):
                raise TypeError(
                    f"Online: feedback[{readout!r}] must be a dict of matrices by layer, got "
                    f"{brief(matrices)}"
                )
            # A readout reads the outputs of this step, so its layers come before it in the step.
            below = []
            if readout in order:
                below = order[: order.index(readout)]
            for name in matrices:
                if name not in below:
                    raise ValueError(
                        f"Online: feedback[{readout!r}] must name layers below {readout!r}, here "
                        f"{below}, got {name!r}"
                    )

    @property
    def _traced(self) -> Rule:
        """The rule, for the functions of a step."""
        return Rule(self.network, self.rule, self.feedback)

    def _obstacle_of_join(self, join: Join) -> str | None:
        """Return the reason why the rule cannot learn a join, or None."""
        # A join passes signals by its derivative, but its arrays would need traces of their own.
        if self.rule == "local" or not _array_names(join):
            return None
        return f"{self._no_trace} the arrays of its function. Pass rule='local'"

    def _obstacle_of_layer(
        self, name: str, layer: Layer, filters_traces: bool
    ) -> str | None:
        """Return the reason why the rule cannot learn a layer, or None."""
        cell = type(layer.cell).__name__
        # The statistics of a step are those of a few examples, and differ from those of a sequence.
        if layer.cell.couples_examples:
            return f"{cell} reads all examples of a step. Pass a cell with fixed statistics"
        if self.rule == "local":
            return None
        # A trace has the neurons of the layer below, so it cannot decay like each readout neuron.
        if filters_traces and _differs_between_neurons(layer.cell):
            return f"rule 'eprop' filters traces by one decay. Pass numbers as parameters of {cell}"
        return self._obstacle_of_weights(name, cell) or self._obstacle_of_cell(layer)

    def _obstacle_of_weights(self, name: str, cell_name: str) -> str | None:
        """Return the reason why the rule has no trace for a weight, or None."""
        for edge, weight in self.network.graph.connections(name):
            matrix = matrix_of(weight)
            # A trace belongs to a source and a neuron. An array of a function may act on several
            # of both, like the kernel of a convolution.
            if matrix is None and _array_names(weight):
                return (
                    f"{self._no_trace} the arrays of the function {edge.label}. Pass a matrix, or "
                    "rule='local'"
                )
            # The third axis of a matrix has the receptors of each neuron.
            if matrix is not None and matrix.ndim > 2:
                return (
                    f"{self._no_trace} the receptors of {cell_name}. Pass rule='local'"
                )
        return None

    def _obstacle_of_cell(self, layer: Layer) -> str | None:
        """Return the reason why ``"ottt"`` has no leak for its traces, or None."""
        if self.rule != "ottt":
            return None
        cell = type(layer.cell).__name__
        # The trace of a source is one for all neurons, so it leaks by one decay, and the decay gets
        # no gradient.
        if linear_response(layer.cell) is None:
            return (
                f"rule 'ottt' needs a linear response, which {cell} does not declare. Pass "
                "rule='eprop'"
            )
        arrays = _array_names(layer.cell)
        if arrays:
            return (
                f"rule 'ottt' needs numbers as parameters of {cell}, got arrays as "
                f"{', '.join(arrays)}. Pass numbers, or rule='eprop'"
            )
        return None

    @property
    def _no_trace(self) -> str:
        return f"rule {self.rule!r} has no trace for"

    def start(self, inputs: Any) -> Carry:
        """Return the carry for the first time step: neurons at rest, and traces of zeros.

        Parameters
        ----------
        inputs : array_like, jax.ShapeDtypeStruct or dict
            The inputs of one time step, ``(batch, inputs)``. Only shape and dtype matter.

        Returns
        -------
        Carry
            The states of the network and the traces, a pytree. Pass it to :meth:`step` or
            :meth:`scan`.
        """
        graph = self.network.graph
        entries = self.network.initial_state(inputs)
        states, _ = as_states_and_pasts(graph, entries)
        self._check_feedback(states)
        traces: dict[str, Any] = {}
        if self.rule == "local":
            return Carry(entries, traces)
        filters = self._traced.filters()
        for name, layer in graph.layers.items():
            state, _ = states[name]
            # Integers of the state, such as counters of a refractory period, have no derivative.
            like = jax.tree.leaves(inexact(state))[0]
            if like.ndim != 2:
                raise ValueError(
                    f"Online: layer {name!r} must have a state of shape (batch, neurons), got "
                    f"{like.shape}. Pass inputs of shape (batch, inputs)"
                )
            if self.rule == "eprop":
                check_elementwise(name, layer.cell, like)
            readouts = [r for r, layers in filters.items() if name in layers]
            traces[name] = start_traces(self._traced, name, state, readouts)
        return Carry(entries, traces)

    def _check_feedback(self, states: Mapping[str, Any]) -> None:
        """Raise if a matrix of the feedback does not fit the neurons of its layers."""

        def neurons(name: str) -> int:
            _, out = states[name]
            return out.shape[-1]

        for readout, matrices in self.feedback.items():
            for name, matrix in matrices.items():
                sizes = neurons(name), neurons(readout)
                if jnp.shape(matrix) != sizes:
                    raise ValueError(
                        f"Online: feedback[{readout!r}][{name!r}] must be of shape {sizes}, the "
                        f"neurons of {name!r} and {readout!r}, got {jnp.shape(matrix)}"
                    )

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
        """Run one time step, and return the outputs and the part of the gradients that belongs to
        it.

        Parameters
        ----------
        carry : Carry
            The result of :meth:`start`, or the carry of the previous time step.
        inputs : array_like or dict
            The inputs of the time step, ``(batch, inputs)``. A dict if the network has several
            inputs.
        target : pytree
            The desired output, which ``loss`` gets as second argument.
        loss : callable
            A function ``loss(outputs, target)`` that returns the loss of the time step, a scalar.
        active : array_like of bool, optional
            The valid examples, ``(batch,)``, or one boolean for all: False for padding, which
            changes neither states nor traces. By default all are valid.
        key : array of jax.random.key, optional
            The random key of the time step, for stochastic spikes, as in
            :meth:`spikegrad.Network.step`.

        Returns
        -------
        carry : Carry
            The carry for the next time step.
        outputs : jax.Array or dict
            The outputs of the network in this time step.
        gradients : pytree
            The gradients, in the structure of ``partition(network)[0]``. Their sum over the time
            steps approximates the gradient of the sum of the losses.
        """
        result = self._step(carry, inputs, target, loss, active, key)
        return result.carry, result.outputs, result.gradients

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
        """Run a sequence, and return the sums of the losses and of the gradients over its time
        steps.

        Parameters
        ----------
        carry : Carry
            The result of :meth:`start`, or the carry of an earlier step or scan.
        inputs, targets : pytree
            As in :meth:`step`, with the time steps on the first axis.
        loss : callable
            The loss of one time step, as in :meth:`step`.
        mask : array_like of bool, optional
            The valid time steps, ``(steps, batch)`` or ``(steps,)``: False for padding. The outputs
            of masked time steps are 0, and ``loss`` reads them.
        key : array of jax.random.key, optional
            The random key, for stochastic spikes. Time step ``t`` uses ``jax.random.fold_in(key,
            t)``, so the spikes equal the spikes of a call of the network with ``key``.

        Returns
        -------
        carry : Carry
            The carry after the last time step.
        value : jax.Array
            The sum of the losses of all time steps.
        gradients : pytree
            The sum of the gradients, in the structure of ``partition(network)[0]``.
        """

        def terms(carry: Carry, now: tuple) -> tuple[Carry, tuple]:
            x, target, active, t = now
            # The key of step t in a call of the network.
            key_of_step = None if key is None else fold_in(key, t)
            result = self._step(carry, x, target, loss, active, key_of_step)
            return result.carry, (result.gradients, result.value)

        def step(before: tuple, now: tuple) -> tuple[tuple, None]:
            carry, sums = before
            carry, new = terms(carry, now)
            sums = jax.tree.map(jnp.add, sums, new)
            return (carry, sums), None

        numbers = jnp.arange(len(jax.tree.leaves(inputs)[0]))
        xs = jax.tree.map(jnp.asarray, (inputs, targets, mask, numbers))
        # The carry of the scan has the sums, so it needs their shapes before the first step.
        first = jax.tree.map(lambda x: x[0], xs)
        _, shapes = jax.eval_shape(terms, carry, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (after, sums), _ = jax.lax.scan(step, (carry, zeros), xs)
        gradients, value = sums
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
        """Return the sum of the losses of a sequence. ``jax.grad`` of it gives the gradients of the
        rule.

        Use it in the loss function of :func:`fit` instead of a call of the network. The forward
        pass computes the gradients, so no arrays of time steps are stored.

        Parameters
        ----------
        inputs, targets, loss, mask, key
            As in :meth:`scan`: ``inputs`` and ``targets`` have the time steps on the first axis.
            ``loss(outputs, target)`` returns the loss of one time step. ``mask`` is False for
            padding, ``(steps, batch)`` or ``(steps,)``. ``key`` is the random key of stochastic
            spikes.

        Returns
        -------
        jax.Array
            The sum of the losses of all time steps.

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
        # Without a derivative, so JAX stores nothing of the steps.
        _, value, gradients = stop_gradient(self)._from_rest(
            inputs, targets, loss, mask=mask, key=key
        )
        trainable, _ = split_trainable(self.network)

        def zero(x: jax.Array, gradient: jax.Array) -> jax.Array:
            # <x - stop(x), g> is zero, and its derivative by x is g.
            nothing = x - stop_gradient(x)
            return jnp.vdot(nothing, gradient).astype(value.dtype)

        zeros = jax.tree.map(zero, trainable, gradients)
        return sum(jax.tree.leaves(zeros), value)

    def cosine(
        self,
        inputs: Any,
        targets: Any,
        loss: StepLoss,
        *,
        mask: ArrayLike | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Return the cosine of the angle between the gradients of the rule and of backpropagation.

        Parameters
        ----------
        inputs, targets, loss, mask, key
            As in :meth:`scan`: ``inputs`` and ``targets`` have the time steps on the first axis.
            ``loss(outputs, target)`` returns the loss of one time step. ``mask`` is False for
            padding, ``(steps, batch)`` or ``(steps,)``. ``key`` is the random key of stochastic
            spikes.

        Returns
        -------
        jax.Array
            A scalar: 1 for gradients of equal direction, and 0 for unrelated directions.

        Notes
        -----
        It runs backpropagation, so the sequence must fit into memory.
        """
        trainable, static = split_trainable(self.network)

        def through_time(trainable: PyTree) -> jax.Array:
            network = combine(trainable, static)
            _, outputs = network(inputs, mask=mask, key=key)
            return jax.vmap(loss)(outputs, targets).sum()

        _, _, gradients = self._from_rest(inputs, targets, loss, mask=mask, key=key)
        exact = jax.grad(through_time)(trainable)
        # Both as one vector, so large arrays count most.
        a, _ = ravel_pytree(gradients)
        b, _ = ravel_pytree(exact)
        return a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)

    def cost(self, inputs: Any, *, key: jax.Array | None = None) -> OnlineCost:
        """Return the bytes of the traces, and the bytes that backpropagation stores in each memory
        mode.

        Parameters
        ----------
        inputs : pytree of arrays or jax.ShapeDtypeStruct
            Inputs of a sequence, with the time steps on the first axis. Only shapes and dtypes
            matter.
        key : array of jax.random.key, optional
            The random key, for stochastic spikes.

        Returns
        -------
        OnlineCost
            The numbers of bytes. Compiled programs need more memory for temporary arrays.
        """
        trainable, static = split_trainable(self.network)

        def first_step(inputs: Any) -> Any:
            return jax.tree.map(lambda x: x[0], inputs)

        # The shapes of one step, also from shapes of a sequence.
        first = jax.eval_shape(first_step, inputs)
        start = jax.eval_shape(self.start, first)
        traces = jax.tree.leaves(start.traces)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in traces)

        def run(trainable: PyTree, inputs: Any, mode: str) -> Any:
            network = combine(trainable, static)
            _, outputs = network(inputs, key=key, backward=mode)
            return outputs

        residuals = {
            mode: residual_report(partial(run, mode=mode), trainable, inputs).bytes
            for mode in MODES
        }
        steps = len(jax.tree.leaves(inputs)[0])
        # Residuals grow with the steps, so equal bytes are at size / (residuals of one step).
        crossover = round(steps * size / residuals["exact"])
        return OnlineCost(size, residuals, crossover)

    def _from_rest(
        self, inputs: Any, *arguments: Any, **options: Any
    ) -> tuple[Carry, jax.Array, PyTree]:
        """Run a sequence from rest, as :meth:`scan`."""
        first = jax.tree.map(lambda x: jnp.asarray(x)[0], inputs)
        at_rest = self.start(first)
        return self.scan(at_rest, inputs, *arguments, **options)

    def _step(
        self,
        carry: Carry,
        inputs: Any,
        target: Any,
        loss: StepLoss,
        active: Any,
        key: Any,
    ) -> OnlineStep:
        """Run one step, as :meth:`step`, and return its loss too."""
        graph = self.network.graph
        rule = self._traced
        states, pasts = as_states_and_pasts(graph, carry.states)
        self._check_feedback(states)
        active = jax.tree.map(jnp.asarray, active)
        step = Arguments(
            states=states,
            pasts=pasts,
            inputs=named_inputs(self.network.inputs, inputs),
            target=target,
            loss=loss,
            active=active,
            key=None if key is None else as_key("Online", key),
        )
        ran = forward(rule, step)
        traces = carry.traces
        gradients = ran.gradients
        if self.rule != "local":
            # Rows first and arrays at the end, because a trace belongs to a row.
            moved = next_traces(rule, carry.traces, ran.layers)
            signals = ran.gradients
            of_rows = shares(rule, carry.traces, moved, signals)
            gradients = gradients_of(self.network, of_rows)
            traces = hold(active, moved, carry.traces)
        # This step runs the graph without a call of the network, so ``fit`` learns of it here.
        sequence = jax.tree.map(lambda x: jnp.asarray(x)[None], inputs)  # of one step
        report_call(self.network, sequence, key)
        entries = as_entries(graph, (ran.states, ran.pasts))
        after = Carry(entries, traces)
        return OnlineStep(after, ran.outputs, ran.value, gradients)


def _differs_between_neurons(cell: Cell) -> bool:
    """Return True if a cell has a parameter with a value for each neuron."""
    values = [*jax.tree.leaves(cell), *vars(cell).values()]
    # Cells of integers have tuples.
    parameters = [v for v in values if is_array(v) or isinstance(v, tuple)]
    return any(np.size(value) > 1 for value in parameters)


def _array_names(tree: PyTree) -> list[str]:
    """Return the names of the floating-point arrays in a node, a weight or a cell."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [name_of(path) for path, leaf in leaves if is_float_array(leaf)]
