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
    """A spiking network: layers that run over time, as a list or as a graph.

    Call the network with inputs of shape ``(steps, batch, inputs)``. It returns the states after
    the last time step, and the outputs of all time steps. The network is a pytree: its weights are
    leaves, so ``jax.grad`` and optimizers work with it.

    Parameters
    ----------
    layers : mapping of Layer and Join, or sequence of Layer
        A list of layers, or a mapping from names to layers and joins (a graph). In a list, each
        layer reads the layer before it. The layers of a list have the names "0", "1", and so on. In
        a mapping, an entry may read any other by its name, see ``of`` and ``weight`` of
        :class:`Layer`, :class:`Join`, :class:`Delayed` and :class:`Window`. By default, a layer
        reads the previous entry, and the first layer reads the inputs.
    inputs : str or sequence of str, default "input"
        The name of the inputs, by which entries read them. With several names, call the network
        with a dict of arrays.
    outputs : str or sequence of str, optional
        The name of the layer or join whose outputs the network returns. By default the last entry.
        No other entry may then read this entry in the same time step. With several names, the
        network returns a dict of arrays.

    Raises
    ------
    TypeError, ValueError
        For entries other than layers and joins, unknown sources or outputs, and duplicate names.
        Also for layers that read each other in the same time step: put :class:`Delayed` around one
        of their weights.

    Notes
    -----
    ``network.layers["hidden"]`` returns an entry by its name, and ``network.layers[-1]`` by its
    place. To change an entry, use ``dataclasses.replace(network, layers=network.layers | {name:
    layer})``, which keeps inputs and outputs. The entries keep their order, which sets the default
    sources and the default output.

    A layer reads its sources in the same time step, except through ``recurrent``, :class:`Delayed`
    and :class:`Window`. Outputs before the first time step are zeros.

    Put ``jax.jit`` around calls. Without it, a network of matrices and cells of the library is
    compiled at its first call only. A network with your functions, cells or surrogates is compiled
    at each call, because they may have changed. To avoid this for a cell, define it as ``class
    MyCell(Cell, pure=True)``, which states that it depends only on its fields and arguments.

    A network is callable. Some functions of other libraries accept a pytree or a function, such as
    the labels of ``optax.multi_transform``, and would call a network. Pass ``lambda params:
    labels`` to these.

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
        are_nodes = all(isinstance(node, (Layer, Join)) for node in nodes)
        if not nodes or not are_nodes:
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
        if self.outputs is not None:
            return
        # A default output that another layer reads in the same step is usually a forgotten name.
        (last,) = self._output_names
        for name, edges in graph.edges.items():
            sources_in_step = [edge.source for edge in edges if 0 in edge.lags]
            if last in sources_in_step:
                raise ValueError(
                    f"Network: the last entry {last!r} is the output by default, but {name!r} "
                    "reads it in the same step; name the outputs, as in outputs='out'"
                )

    # A network never changes, so it builds its graph once.
    @functools.cached_property
    def graph(self) -> Graph:
        """The nodes and connections of the network, which the library uses."""
        return make_graph(self.layers, as_names(self.inputs), self._output_names)

    def __str__(self) -> str:
        """Return a table of the trained arrays and the constants of each node. ``repr`` has all
        values.
        """
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
        """Create a network of fully connected layers with random weights, scaled such that its
        neurons spike before training.

        The last layer is a readout, which never spikes. Pass a batch of training data as
        ``inputs``. The statistics of the batch scale the weights of the first layer, and the
        outputs of each layer scale the weights of the next layer. You can also pass the number of
        inputs and their spike rate. All layers are then assumed to spike at this rate.

        Parameters
        ----------
        key : array of jax.random.key
            Random key for the weights.
        inputs : int or array
            A batch of inputs to measure, ``(steps, examples, inputs)``, or the number of inputs.
        sizes : sequence of int
            Number of neurons of each layer, the readout last: ``(100, 10)`` is a layer of 100
            neurons and a readout of 10.
        cell : Cell
            The neurons of all layers except the readout, such as ``LIF(0.9)``. For layers with
            different neurons, use :func:`~spikegrad.network.draw_weights`.
        readout : Cell, default LeakyReadout()
            The neurons of the last layer.
        rate, mask, std, weight, recurrent, bias, dtype
            As in :meth:`Layer.init`: ``rate`` is the spike probability if ``inputs`` is a number,
            ``mask`` the valid time steps, ``std`` the standard deviation of potentials, ``weight``
            another initializer. With ``recurrent=True``, all layers except the readout get
            recurrent weights. With ``bias=True``, all layers get a bias. ``std`` does not apply to
            the readout.

        Returns
        -------
        Network

        Raises
        ------
        TypeError, ValueError
            As in :meth:`Layer.init`. Also if no neuron of a layer spikes, because the weights of
            the next layer are scaled to its spikes.

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
        is_recurrent = bool(recurrent)
        layers = [
            Layer.zeros(*pair, cell, is_recurrent, bias, dtype) for pair in hidden
        ]
        layers.append(Layer.zeros(*last, readout, bias=bias, dtype=dtype))
        network = cls(layers)
        # The readout keeps its default, because it has no threshold.
        *spiking, _ = network.layers
        initializer = None if isinstance(recurrent, bool) else recurrent
        return draw_weights(
            network,
            key,
            inputs if is_measured else None,
            rate=rate,
            mask=mask,
            std=dict.fromkeys(spiking, std),
            weight=weight,
            recurrent=initializer,
        )

    def initial_state(self, inputs: PyTree) -> Entries:
        """Return the states before the first time step: neurons at rest, and no spikes.

        Parameters
        ----------
        inputs : array_like, jax.ShapeDtypeStruct or dict
            The inputs of one time step, ``(batch, inputs)``, or a dict of them if the network has
            several inputs. Only shapes and dtypes matter.

        Returns
        -------
        mapping
            For each layer by name, a pair: the state of its cell and its last output. If another
            layer reads this layer with a delay above 1, the last outputs replace the last output.
            They have the shape ``(steps, batch, neurons)``, the oldest first. Joins and inputs that
            are read with a delay have an entry with their last outputs. To set the state of one
            layer, use ``states | {name: (v, out)}``.
        """
        graph = self.graph
        _check_steps(graph)
        x = named_inputs(self.inputs, inputs)
        return as_entries(graph, initial_states(graph, x))

    def step(
        self,
        states: Mapping[str, PyTree],
        inputs: PyTree,
        *,
        key: jax.Array | None = None,
    ) -> tuple[Entries, PyTree]:
        """Run one time step, for data that arrive step by step.

        The spikes equal the spikes of a call with all time steps.

        Parameters
        ----------
        states : mapping
            The states from :meth:`initial_state`, from the previous step, or from a call.
        inputs : array_like or dict
            Inputs of one time step, without the time axis: ``(batch, inputs)``. A dict if the
            network has several inputs.
        key : array of jax.random.key, optional
            Random key of the time step, for :func:`stochastic` spikes. With
            ``jax.random.fold_in(key, t)``, the spikes equal the spikes of time step ``t`` in a call
            with ``key``.

        Returns
        -------
        states : mapping
            The states after the time step, for the next one.
        out : jax.Array or dict
            The output of the network in this time step, ``(batch, neurons)``. A dict if the network
            has several ``outputs``.

        Raises
        ------
        ValueError
            If the states do not fit the inputs, for example if ``inputs`` has a time axis.
        """
        graph = self.graph
        x = named_inputs(self.inputs, inputs)
        _check_steps(graph)
        before = checked_entries(graph, states)
        examples = examples_of(next(iter(x.values())))
        nodes = nodes_of(graph, checked_key(key), examples)

        def at_rest() -> Entries:
            return as_entries(graph, initial_states(graph, x))

        # Layers that the states leave out start at rest.
        if {*before} != {*graph.layers, *graph.depths}:
            before = at_rest() | before
        # The states are checked only if the step fails or changes their types, because the states
        # at rest take as long as a step.
        try:
            old_states, pasts = as_states_and_pasts(graph, before)
            new = graph_step(nodes, old_states, pasts, x, hoisted={}, mask=Masks())
        except (TypeError, ValueError):
            check_entries(graph, before, at_rest())
            raise
        after = as_entries(graph, (new.states, new.pasts))
        if types_of(after) != types_of(before):
            check_entries(graph, before, at_rest())
        # (batch, inputs) -> (1, batch, inputs)
        sequence = jax.tree.map(lambda x: jnp.asarray(x)[None], inputs)
        report_call(self, sequence, key)
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
        """Run the network over all time steps of a sequence.

        Parameters
        ----------
        inputs : array_like or dict
            Inputs with the time steps on the first axis and the examples on the second: ``(steps,
            batch, inputs)``. Booleans and integers take less memory than floats, because each time
            step is cast separately. A dict if the network has several inputs.
        states : mapping, optional
            The states before the first time step. By default all neurons are at rest. To continue a
            sequence, pass the states that an earlier call returned. Layers that are missing in the
            mapping start at rest.
        key : array of jax.random.key, optional
            Random key for :func:`stochastic` spikes. The backward pass draws the spikes again
            instead of storing them. To continue a sequence, pass another key.
        mask : array_like of bool, optional
            The valid time steps, ``(steps, batch)`` or ``(steps,)``: False for padding, such as
            time steps after the end of a shorter sequence. In masked time steps, states do not
            change and outputs are 0.
        backward : str or Backward, default "exact"
            The memory mode of the backward pass: ``"exact"``, ``"half"``, ``"8-bit"``,
            ``"recompute"`` or ``"scan"``. Pass a :class:`Backward` for more options, such as
            truncated backpropagation. The outputs are equal in all modes.

        Returns
        -------
        states : mapping
            The states after the last time step, in the form of :meth:`initial_state`. A join with
            ``over_time=True`` has an entry with its statistics, if its function returns some. The
            next call ignores this entry. If a layer reads the join with a delay, the entry is a
            pair of the last outputs and the statistics.
        outputs : jax.Array or dict
            The outputs of all time steps, ``(steps, batch, neurons)``. A dict if the network has
            several ``outputs``.

        Raises
        ------
        ValueError, TypeError
            If the mode is unknown, or if shapes do not fit.

        Notes
        -----
        :func:`stochastic` spikes depend only on the key, the time step ``t``, the number ``n`` of
        the layer and the number ``b`` of the example. The key is folded by ``jax.random.fold_in``
        with ``t``, then ``n``, then ``b``. So all modes and :meth:`step` draw equal spikes,
        whatever the other examples are.

        For ``jax.jvp`` and other forward-mode derivatives, use the mode ``"scan"``. The other modes
        have a reverse-mode derivative only, so ``jax.jvp`` raises a TypeError. The modes ``"half"``
        and ``"8-bit"`` have first derivatives only, and raise a TypeError for higher ones. The
        other modes have derivatives of all orders.
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
        """Run the network over a sequence like a call, and return the spikes, potentials and
        currents of all layers.

        Gradients flow through all results, so a loss may use the activity of hidden layers.

        Parameters
        ----------
        inputs, states, key, mask, backward
            As in a call of the network: the inputs ``(steps, batch, inputs)``, the states before
            the first time step, the random key, the valid time steps, and the memory mode.
        layers : str or sequence of str, optional
            The names of layers and joins to return. By default all.
        parts : {"output", "pre_spike", "current"} or sequence of them
            The parts of the activity to return: the outputs, the states before the spike, or the
            input currents. By default all. Each part needs the memory of one array ``(steps, batch,
            neurons)`` per layer, so leave out parts that you do not need.

        Returns
        -------
        states : mapping
            As in a call.
        activity : mapping
            An :class:`~spikegrad.network.Activity` for each layer and join, by name:
            ``activity["0"].output`` has the spikes of the first layer of a list.

        Raises
        ------
        ValueError, TypeError
            As in a call, and for unknown names of layers or parts.

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
        parts = as_names(parts)
        for label, values, allowed in (
            ("layers", names, [*self.layers]),
            ("parts", parts, [*Activity._fields]),
        ):
            if not {*values} <= {*allowed}:
                raise ValueError(
                    f"Network: {label} must be names of {allowed}, got {values!r}"
                )
        observed: list[Name] = []
        for name in names:
            labels = dict(zip(Activity._fields, activity_names(name), strict=True))
            # A join has its output only, so it is asked for neither state nor current.
            if isinstance(self.layers[name], Join):
                labels = {"output": name}
            observed += [label for part, label in labels.items() if part in parts]
        ends, outputs = _call(
            self, tuple(observed), inputs, states, key, mask, backward
        )
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
    if not isinstance(backward, Backward):
        backward = Backward(backward)
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

    for node in network.layers.values():
        # The function of a join may have changed since the last call.
        if isinstance(node, Join) or not is_pure(node.cell):
            return False
        weights = *node.weights.values(), node.bias
        if not all(map(is_pure_weight, weights)):
            return False
    return True
