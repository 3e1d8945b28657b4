"""Networks: layers over time, as a stack or a graph."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from .._checks import checked_shape
from .._compat import match_varying_axes
from .._device import this_device
from .._pytree import Entries, PyTree
from .._struct import Real, Struct, is_pure, parameter, wiring
from ..neurons import Cell, LeakyReadout
from ._layer import Layer
from .engine._modes import Backward
from .engine._run import CallArrays, run_sequence
from .engine._schedule import Plan
from .engine._stages import stages_of
from .graph._connections import (
    Join,
    Name,
    NamedTrees,
    Weight,
    as_names,
    inner_of,
    select,
)
from .graph._graph import INPUT, Graph, make_graph
from .graph._hidden_arrays import report_call
from .graph._summary import summary
from .start._draw_weights import draw_weights
from .start._initial import Initializer
from .step._arguments import check_coupled, checked_key, checked_mask, named_inputs
from .step._masks import Masks
from .step._nodes import initial_states, nodes_of
from .step._observe import Activity
from .step._states import (
    as_entries,
    as_states_and_pasts,
    check_entries,
    checked_entries,
    is_over_time,
    types_of,
)
from .step._step import activity_names, examples_of, graph_step


class Network(Struct):
    """Layers over time, as a stack or a graph.

    A network is a pytree of its layers. The arrays that you differentiate are the ones you train.

    Parameters
    ----------
    layers : mapping of Layer and Join, or sequence of Layer
        The nodes of a graph. They have names and read sources by name, see ``of`` and ``weight`` of
        :class:`Layer`, :class:`Join`, :class:`Delayed` and :class:`Window`. By default a layer
        reads the previous entry, and the first layer reads the inputs. A list is short for a graph
        with the names "0", "1", and so on.
    inputs : str or sequence of str, default "input"
        The name of the inputs. A network with several names takes a dict of arrays.
    outputs : str or sequence of str, optional
        The output layer or join. By default the last entry, which no other entry may then read in
        the same step. A network with several names returns a dict of arrays.

    Raises
    ------
    TypeError, ValueError
        For entries other than layers and joins, unknown sources or outputs, duplicate names, and
        layers that read each other in the same step.

    Notes
    -----
    The entries keep the order in which you wrote them. It sets the default sources and the default
    output. ``network.layers["hidden"]`` reads an entry by name, ``network.layers[-1]`` by place.
    To change an entry, use ``dataclasses.replace(network, layers=network.layers | {name: layer})``,
    which keeps inputs and outputs.

    An edge without a delay acts within the step. Outputs before the first step are zeros.

    Outside ``jax.jit``, a network of matrices, pure cells and pure surrogates is compiled at the
    first call and cached. The library's classes are pure, and so are your classes with
    ``pure=True``. A network with your functions is compiled at each call, because they may have
    changed. Put ``jax.jit`` around it.

    A network is callable. Some functions take a pytree or a callable, such as
    ``optax.multi_transform`` for its labels. Pass ``lambda params: labels`` to these.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, LeakyReadout, Network
    >>> def loss(weights, inputs, **options):
    ...     w, r, out = weights
    ...     network = Network([
    ...         Layer(w, LIF(0.95), recurrent=r),
    ...         Layer(out, LeakyReadout(0.95)),
    ...     ])
    ...     states, potentials = network(inputs, **options)
    ...     return (potentials**2).mean()
    >>> weights = jnp.full((3, 8), 0.4), jnp.eye(8), jnp.ones((8, 2))
    >>> inputs = jnp.ones((100, 16, 3))  # steps, examples, inputs
    >>> exact = jax.grad(loss)(weights, inputs)
    >>> half = jax.grad(loss)(weights, inputs, backward="half")
    >>> bool(jnp.allclose(exact[0], half[0], rtol=1e-2))
    True
    """

    layers: Any = parameter(kind=Collection)
    inputs: str | Sequence[str] = wiring(INPUT)
    outputs: str | Sequence[str] | None = wiring(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.layers
        # The layers of a list have their places for names.
        if not isinstance(layers, Mapping):
            layers = {str(n): node for n, node in enumerate(layers)}
        nodes = layers.values()
        if not nodes or not all(isinstance(node, (Layer, Join)) for node in nodes):
            raise TypeError(
                f"Network: layers must be one or more Layer objects, got {self.layers!r}"
            )
        object.__setattr__(self, "layers", Entries(layers))
        for field in ("inputs", "outputs"):
            names = getattr(self, field)
            if not isinstance(names, str | None):
                object.__setattr__(self, field, tuple(names))
        if not {*self._output_names} <= {*self.layers}:
            raise ValueError(
                f"Network: outputs must be names of {[*self.layers]}, got {self.outputs!r}"
            )
        # Both raise for an invalid graph, here instead of in the first call.
        graph = self.graph
        stages_of(graph)
        # A default output that another layer reads in the same step is usually a forgotten name.
        last = [*self.layers][-1] if self.outputs is None else None
        for name, edges in graph.edges.items():
            if any(edge.source == last and 0 in edge.lags for edge in edges):
                raise ValueError(
                    f"Network: the last entry {last!r} is the output by default, but {name!r} "
                    "reads it in the same step; name the outputs, as in outputs='out'"
                )

    # A network never changes, so it builds its graph once.
    @functools.cached_property
    def graph(self) -> Graph:
        """The nodes and edges of the network."""
        return make_graph(self.layers, as_names(self.inputs), self._output_names)

    def __str__(self) -> str:
        """Return the trained arrays and the constants of each node. ``repr`` has all values."""
        return summary(self.layers)

    @property
    def _output_names(self) -> tuple[Name, ...]:
        if self.outputs is None:
            return ([*self.layers][-1],)
        return as_names(self.outputs)

    @classmethod
    def init(
        cls,
        key: jax.Array,
        inputs: int | ArrayLike,
        sizes: Sequence[int],
        cell: Cell,
        readout: Cell = LeakyReadout(),  # noqa: B008  (nothing changes it)
        *,
        rate: float | None = None,
        mask: ArrayLike | None = None,
        std: Real | None = None,
        weight: Initializer | None = None,
        recurrent: bool | Initializer = False,
        bias: bool = False,
        dtype: DTypeLike | None = None,
    ) -> Network:
        """Create fully connected layers and a readout with random weights, as in
        :meth:`Layer.init`.

        An array of inputs is measured, and the outputs of each layer are measured for the next
        layer. With a number of inputs and a rate, all layers are assumed to fire at this rate.

        Parameters
        ----------
        key : array of jax.random.key
            Key for the weights.
        inputs : int or array
            The number of inputs, or inputs to measure: ``(steps, examples, inputs)``, for example a
            training batch.
        sizes : sequence of int
            Number of neurons of each layer. The readout is last.
        cell : Cell
            The neurons of all other layers. If layers have different neurons, use
            :func:`~spikegrad.network.draw_weights`.
        readout : Cell, default LeakyReadout()
            The neurons of the last layer.
        rate, mask, std, weight, recurrent, bias, dtype
            As in :meth:`Layer.init`. The readout is not recurrent, and uses its default standard
            deviation.

        Returns
        -------
        Network

        Raises
        ------
        TypeError, ValueError
            As in :meth:`Layer.init`, and if a silent layer leaves no spikes to measure for the next
            layer.

        Examples
        --------
        >>> import jax
        >>> from spikegrad import LIF, LeakyReadout, Network
        >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.1, (50, 8, 20))
        >>> network = Network.init(
        ...     jax.random.key(0), spikes, (30, 3), LIF(0.9), LeakyReadout(0.9)
        ... )
        >>> _, activity = network.observe(spikes)
        >>> bool(0.01 < activity["0"].output.mean() < 0.5)
        True
        >>> bool(0.3 < activity["1"].output.std() < 3)
        True
        """
        # A number says how many inputs there are. Anything else is an array to measure.
        is_measured = np.ndim(inputs) > 0
        count: Any = np.shape(inputs)[-1] if is_measured else inputs
        sizes = checked_shape("Network.init: sizes", sizes)
        # Pairs of inputs and neurons of each layer.
        *hidden, last = itertools.pairwise([count, *sizes])
        layers = [
            Layer.zeros(*pair, cell, bool(recurrent), bias, dtype) for pair in hidden
        ]
        network = cls([*layers, Layer.zeros(*last, readout, False, bias, dtype)])
        return draw_weights(
            network,
            key,
            inputs if is_measured else None,
            rate=rate,
            mask=mask,
            # The readout keeps its default, because it has no threshold.
            std=dict.fromkeys([*network.layers][:-1], std),
            weight=weight,
            recurrent=None if isinstance(recurrent, bool) else recurrent,
        )

    def initial_state(self, inputs: PyTree) -> Entries:
        """Return the states before the first step: neurons at rest, no spikes.

        Parameters
        ----------
        inputs : array_like, jax.ShapeDtypeStruct or dict
            The inputs of one step, a dict if the network has several inputs. Only shape and dtype
            matter.

        Returns
        -------
        mapping
            A tuple for each layer: the state of its cell and its last output. If a layer has
            readers with a longer delay, its past replaces the last output: ``(steps, batch,
            neurons)``, the oldest first. Joins and inputs with such readers have an entry with
            their past. ``states | {name: (v, out)}`` sets the state of one layer.
        """
        graph = self.graph
        _check_steps(graph)
        return as_entries(
            graph, initial_states(graph, named_inputs(self.inputs, inputs))
        )

    def step(
        self,
        states: Mapping[str, PyTree],
        inputs: PyTree,
        *,
        key: jax.Array | None = None,
    ) -> tuple[Entries, PyTree]:
        """Run one time step, for inference on a stream.

        The spikes equal those of a call on all steps.

        Parameters
        ----------
        states : mapping
            From :meth:`initial_state`, the previous step, or a call.
        inputs : array_like or dict
            Inputs of the step, without the time axis.
        key : array of jax.random.key, optional
            The key of the step, for :func:`stochastic` spikes. ``jax.random.fold_in(key, t)`` gives
            the spikes of step ``t`` in a call with ``key``.

        Returns
        -------
        states : mapping
            The states after the step.
        out : jax.Array or dict
            The output of the last layer, or the outputs named by ``outputs``.

        Raises
        ------
        ValueError
            If the states do not fit the inputs, for example for a sequence instead of one step.
        """
        graph = self.graph
        x = named_inputs(self.inputs, inputs)
        _check_steps(graph)
        before = checked_entries(graph, states)
        nodes = nodes_of(graph, checked_key(key), examples_of(next(iter(x.values()))))

        def at_rest() -> Entries:
            return as_entries(graph, initial_states(graph, x))

        # Layers that the states leave out start at rest.
        if {*before} != {*graph.layers, *graph.depths}:
            before = at_rest() | before
        # The states are checked only if the step fails or changes their types, because the states
        # at rest take as long as a step.
        try:
            new = graph_step(nodes, *as_states_and_pasts(graph, before), x, {}, Masks())
        except (TypeError, ValueError):
            check_entries(graph, before, at_rest())
            raise
        after = as_entries(graph, (new.states, new.pasts))
        if types_of(after) != types_of(before):
            check_entries(graph, before, at_rest())
        report_call(self, jax.tree.map(lambda x: jnp.asarray(x)[None], inputs), key)
        return after, self._select(new.outputs)

    def _select(self, outputs: Mapping[Name, jax.Array]) -> PyTree:
        """Select the outputs of a call from the outputs of all nodes."""
        names = self._output_names
        if isinstance(self.outputs, str | None):
            return outputs[names[0]]
        return select(outputs, names)

    def __call__(
        self,
        inputs: PyTree,
        states: Mapping[str, PyTree] | None = None,
        *,
        key: jax.Array | None = None,
        mask: ArrayLike | None = None,
        backward: str | Backward = "exact",
    ) -> tuple[Entries, PyTree]:
        """Run a sequence.

        Parameters
        ----------
        inputs : array_like or dict
            Time first, then the examples: ``(steps, batch, inputs)`` for matrices. Booleans and
            integers take less memory, because they are cast step by step. A dict if the network has
            several inputs.
        states : mapping, optional
            The states before the first step, in the form of :meth:`initial_state`. Layers that it
            leaves out start at rest. To continue a sequence, pass the states that an earlier call
            returned.
        key : array of jax.random.key, optional
            For :func:`stochastic` spikes. The backward pass draws them again, so they need no
            memory. To continue a sequence, pass another key.
        mask : array_like of bool, optional
            ``(steps, batch)`` or ``(steps,)``: False for padding, such as steps after the end of a
            shorter sequence. Masked steps do not change states, and their outputs are 0.
        backward : str or Backward, default "exact"
            The name of a mode of :class:`Backward`, such as ``"8-bit"``, or a :class:`Backward`:
            the memory of the backward pass, and truncated backpropagation. Outputs are equal in all
            modes.

        Returns
        -------
        states : mapping
            The states after the last step, in the form of :meth:`initial_state`. Joins over time
            have an entry with their second result, such as statistics. The next call ignores it. If
            a later step reads the join, the entry is a pair of its past and this result.
        outputs : jax.Array or dict
            The outputs of all steps, ``(steps, batch, neurons)``. A dict for several ``outputs``.

        Raises
        ------
        ValueError, TypeError
            If the mode is unknown, or if shapes do not fit.

        Notes
        -----
        With a key, example ``b`` of layer ``n`` draws its spikes of step ``t`` from ``key`` folded
        by ``jax.random.fold_in`` with ``t``, then ``n``, then ``b``. So every mode and :meth:`step`
        draw equal spikes, independent of other examples.

        Mode ``"scan"`` is differentiable in forward and reverse mode. The other modes define a
        custom reverse-mode derivative, and ``jax.jvp`` raises JAX's TypeError. The modes support
        derivatives of all orders, including ``jax.hessian``. Only ``"half"`` and ``"8-bit"`` are
        limited to the first order, and raise a TypeError for higher orders.
        """
        names = self._output_names
        ends, outputs = _call(self, names, inputs, states, key, mask, backward)
        return ends, self._select(outputs)

    def observe(
        self,
        inputs: PyTree,
        states: Mapping[str, PyTree] | None = None,
        *,
        layers: str | Sequence[str] | None = None,
        parts: str | Sequence[str] = Activity._fields,
        key: jax.Array | None = None,
        mask: ArrayLike | None = None,
        backward: str | Backward = "exact",
    ) -> tuple[Entries, Entries]:
        """Run a sequence and return the activity of all nodes, with gradients in every mode.

        Parameters
        ----------
        inputs, states, key, mask, backward
            As in a call.
        layers : str or sequence of str, optional
            The names of layers and joins to observe. By default all.
        parts : {"output", "pre_spike", "current"} or sequence of them
            The parts of the activity, by default all. Each takes memory of one array of ``(steps,
            batch, neurons)`` per layer.

        Returns
        -------
        states : mapping
            As in a call.
        activity : mapping
            An :class:`~spikegrad.network.Activity` for each node, by name, in the order of
            ``network.layers``.

        Raises
        ------
        ValueError, TypeError
            As a call, and for unknown names of layers or parts.

        Examples
        --------
        >>> import jax, jax.numpy as jnp
        >>> from spikegrad import LIF, Layer, LeakyReadout, Network
        >>> def loss(weight):
        ...     hidden = Layer(weight, LIF(0.9))
        ...     readout = Layer(jnp.ones((5, 2)), LeakyReadout())
        ...     network = Network({"hidden": hidden, "out": readout})
        ...     states, activity = network.observe(jnp.ones((20, 4, 3)))
        ...     rate = activity["hidden"].output.mean()
        ...     power = (activity["hidden"].current ** 2).mean()
        ...     return (rate - 0.1) ** 2 + 1e-3 * power
        >>> jax.jit(jax.grad(loss))(jnp.full((3, 5), 0.2)).shape
        (3, 5)
        """
        names = as_names(self.layers if layers is None else layers)
        for label, values, allowed in (
            ("layers", names, [*self.layers]),
            ("parts", as_names(parts), [*Activity._fields]),
        ):
            if not {*values} <= {*allowed}:
                raise ValueError(
                    f"Network: {label} must be names of {allowed}, got {values!r}"
                )
        # A join has its output only, so it is asked for neither state nor current.
        observed = tuple(
            label
            for name in names
            for part, label in zip(Activity._fields, activity_names(name), strict=True)
            if part in parts and (label == name or isinstance(self.layers[name], Layer))
        )
        ends, outputs = _call(self, observed, inputs, states, key, mask, backward)
        activity = {
            name: Activity(*map(outputs.get, activity_names(name))) for name in names
        }
        return ends, Entries(activity)


def _call(
    network: Network,
    outputs: tuple[Name, ...],
    inputs: PyTree,
    states: Mapping[Name, PyTree] | None,
    key: jax.Array | None,
    mask: ArrayLike | None,
    backward: str | Backward,
) -> tuple[Entries, NamedTrees]:
    """Check the arguments of a call and run it. Return the states after the last step, and outputs.

    The outputs may be any parts of the activity (``activity_names``).
    """
    graph = network.graph
    x = named_inputs(network.inputs, inputs)
    key = checked_key(key)
    states = {} if states is None else checked_entries(graph, states)
    mask = checked_mask(mask, x)
    backward = backward if isinstance(backward, Backward) else Backward(backward)
    if backward.row.cuts:
        check_coupled(graph, mask, backward.mode)
    plan = Plan(backward, outputs, this_device())
    arrays = CallArrays(x, states, mask, key)
    # A pure network is determined by its tree, so JAX can find the program that it compiled for an
    # equal one. Functions of a user may have changed since.
    if is_pure_network(network):
        return _run_compiled(plan, network, arrays)
    ran = _run(plan, network, arrays)
    report_call(network, inputs, key, mask)
    return ran


def _run(
    plan: Plan,
    network: Network,
    arrays: CallArrays,
) -> tuple[Entries, NamedTrees]:
    """Run a network over a sequence, from checked arguments."""
    # In shard_map, all arrays get the type of the inputs, because a loop must not change the types
    # of its carry.
    network, arrays = match_varying_axes((network, arrays))
    return run_sequence(plan, network.graph, arrays)


# The plan is static: it hashes by value, so equal modes share a program.
_run_compiled = jax.jit(_run, static_argnums=0)


def _check_steps(graph: Graph) -> None:
    """Raise if the network cannot run step by step."""
    for name, node in graph.nodes.items():
        if is_over_time(node):
            raise TypeError(
                f"Network: join {name!r} takes all steps at once and needs a complete sequence; "
                "for a stream, fold a normalization into the weights with its running statistics"
            )


def is_pure_network(network: Network) -> bool:
    """Return True if arrays, numbers and classes determine the network completely."""

    def is_pure_weight(weight: Weight) -> bool:
        weight = inner_of(weight)
        # Not ArrayLike: for a union, Python 3.11 asks the class of a tracer, which is no array.
        arrays = jax.Array, np.ndarray, float, int
        return weight is None or isinstance(weight, arrays) or is_pure(weight)

    return all(
        isinstance(node, Layer)
        and is_pure(node.cell)
        and all(map(is_pure_weight, (*node.weights.values(), node.bias)))
        for node in network.layers.values()
    )
