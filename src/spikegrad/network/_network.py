"""Networks: layers over time, as a stack or a graph."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief, order_of_axes
from .._compat import in_reverse_mode_alone, is_forward_mode_error, match_varying_axes, shard_as
from .._pytree import Entries
from .._struct import Struct, is_pure, parameter, wiring
from .._surrogate import as_key
from ..neurons import Cell, LeakyReadout
from ._connections import Delayed, Join, Name, Window
from ._graph import INPUT, Graph, make_graph
from ._initial import Initializer
from ._layer import Layer
from ._masks import Masks, make_masks
from ._modes import MODES, check_mode
from ._nodes import initial_states, nodes_of
from ._schedule import Plan, check_length
from ._stages import is_over_time, of_stage, run_stages, stages_of
from ._step import KEYS, LayerState, examples_of, graph_step, is_stochastic


class Network(Struct):
    """Layers over time, as a stack or a graph.

    A network is a pytree of its layers. The arrays that you differentiate are the ones you train.

    Parameters
    ----------
    layers : sequence of Layer, or mapping of Layer and Join
        A list runs from the inputs to the outputs. In a mapping, layers have names and read sources
        by name, see ``of`` and ``weight`` of :class:`Layer`, :class:`Join`, :class:`Delayed` and
        :class:`Window`. By default a layer reads the previous entry, and the first layer reads the
        inputs.
    inputs : str or sequence of str, default "input"
        The name of the inputs, for a mapping. A network with several names takes a dict of arrays.
    outputs : str or sequence of str, optional
        The output layer or join, for a mapping. By default the last entry, which no other entry may
        then read in the same step. A network with several names returns a dict of arrays.

    Raises
    ------
    TypeError, ValueError
        For entries other than layers and joins, unknown sources or outputs, duplicate names, and
        layers that read each other in the same step.

    Notes
    -----
    The order of a mapping sets the default sources and the default output. To change an entry, use
    ``dataclasses.replace(network, layers={**network.layers, name: layer})``, which keeps inputs and
    outputs.

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
    >>> half = jax.grad(loss)(weights, inputs, mode="half")
    >>> bool(jnp.allclose(exact[0], half[0], rtol=1e-2))
    True
    """

    layers: Sequence[Layer] | Mapping[str, Layer | Join] = parameter(kind=Collection)
    inputs: str | Sequence[str] = wiring(INPUT)
    outputs: str | Sequence[str] | None = wiring(None)

    def __post_init__(self) -> None:
        if isinstance(self.layers, (Layer, Join)):
            raise TypeError(
                "Network: layers must be a list or a mapping, got a layer; write Network([first, "
                "second])"
            )
        super().__post_init__()
        named = isinstance(self.layers, Mapping)
        entries = self._nodes()
        if not entries or not all(
            isinstance(entry, (Layer, Join) if named else Layer) for entry in entries
        ):
            raise TypeError(
                f"Network: layers must be one or more Layer objects, got {self.layers!r}"
            )
        if named:
            self._name_sources()
        else:
            self._check_chain(entries)
            object.__setattr__(self, "layers", tuple(entries))

    def _name_sources(self) -> None:
        """Fill in the default sources and the default output of named layers, and check the
        graph."""
        for name in self.layers:
            if not isinstance(name, str):
                raise TypeError(f"Network: names of layers must be strings, got {name!r}")
        inputs = self._names("inputs", self.inputs)
        default = [*self.layers][-1] if self.outputs is None else None
        outputs = self._names("outputs", self.outputs if default is None else default)
        nodes: dict[str, Any] = {}
        above: str | None = inputs[0] if len(inputs) == 1 else None
        for name, node in self.layers.items():  # type: ignore[union-attr]
            if name in inputs:
                raise ValueError(
                    f"Network: {name!r} names both an entry and inputs; rename one of them"
                )
            if isinstance(node, Layer) and node.of is None and not isinstance(node.weight, Mapping):
                if above is None:
                    raise ValueError(
                        f"Network: {name!r} must name one source of {list(inputs)}; pass of= to "
                        "the layer"
                    )
                node = dataclasses.replace(node, of=above)
            nodes[name], above = node, name
        object.__setattr__(self, "layers", Entries(nodes))
        object.__setattr__(self, "inputs", self.inputs if isinstance(self.inputs, str) else inputs)
        object.__setattr__(
            self, "outputs", outputs[0] if isinstance(self.outputs, str | None) else outputs
        )
        for name in outputs:
            if name not in nodes:
                raise ValueError(f"Network: outputs must be names of {[*nodes]}, got {name!r}")
        graph = self.graph
        stages_of(graph)  # raises if the graph is invalid
        for name, edges in graph.edges.items():
            if any(edge.source == default and 0 in edge.lags for edge in edges):
                raise ValueError(
                    f"Network: the last entry {default!r} is the output by default, but {name!r} "
                    "reads it in the same "
                    "step; name the outputs, as in outputs='out'"
                )

    def _nodes(self) -> list[Any]:
        """Return all layers and joins."""
        return [*self.layers.values()] if isinstance(self.layers, Mapping) else [*self.layers]

    def _names(self, field: str, names: Any) -> tuple[str, ...]:
        checked: Any = (names,) if isinstance(names, str) else names
        if (
            not isinstance(checked, Sequence)
            or not checked
            or not all(isinstance(name, str) for name in checked)
        ):
            raise TypeError(f"Network: {field} must be a name or names, got {names!r}")
        if len({*checked}) < len(checked):
            raise ValueError(f"Network: {field} must be different names, got {names!r}")
        return tuple(checked)

    def _check_chain(self, layers: Sequence[Any]) -> None:
        if self.inputs != INPUT or self.outputs is not None:
            raise TypeError(
                "Network: inputs and outputs require named layers, got a list; pass a mapping of "
                "layers"
            )
        for n, layer in enumerate(layers):
            if layer.of is not None or isinstance(layer.weight, Mapping):
                raise TypeError(
                    f"Network: layer {n} names its source, so all layers need names; pass a mapping"
                )
        if any(edge.source == INPUT and max(edge.lags) for edge in layers[0].edges(0, INPUT)):
            raise TypeError(
                "Network: layer 0 reads inputs of earlier steps, which needs named layers; pass a "
                "mapping, "
                "Network({'first': ...})"
            )

    @property
    def graph(self) -> Graph:
        """The nodes and edges of the network. Layers of a list are named by position."""
        if isinstance(self.layers, Mapping):
            inputs = (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)
            return make_graph(dict(self.layers.items()), inputs, {})
        above: dict[Name, Name] = {n: n - 1 if n else INPUT for n in range(len(self.layers))}
        return make_graph(dict(enumerate(self.layers)), (INPUT,), above)

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
        std: Any = None,
        weight: Initializer | None = None,
        recurrent: bool | Initializer = False,
        bias: bool = False,
        dtype: Any = None,
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
            The neurons of all other layers.
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
        >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.05, (50, 8, 20))
        >>> network = Network.init(
        ...     jax.random.key(0), spikes, (64, 64, 10), LIF(0.9), LeakyReadout(0.95)
        ... )
        >>> _, (first, second, potentials) = network(spikes, all_layers=True)
        >>> bool(0.01 < second.mean() < 0.5), bool(0.3 < potentials.std() < 3)
        (True, True)
        """
        if np.ndim(sizes) != 1 or not len(sizes):
            raise TypeError(
                "Network.init: sizes must be a sequence of integers, one for each layer, got "
                f"{sizes!r}"
            )
        counts: list[Any] = [*sizes] if np.ndim(inputs) else [inputs, *sizes]
        for size in counts:
            if not hasattr(size, "__index__") or size < 1:
                raise ValueError(
                    "Network.init: numbers of inputs and neurons must be integers above 0, got "
                    f"{size!r}"
                )
        key = as_key("Network.init", key)
        layers, measured = [], np.ndim(inputs) > 0 and weight is None
        for n, (size, layer_key) in enumerate(
            zip(sizes, jax.random.split(key, len(sizes)), strict=True)
        ):
            drawing, spiking = jax.random.split(layer_key)
            last = n == len(sizes) - 1
            hidden = {} if last else {"std": std, "recurrent": recurrent}
            try:
                layer = Layer.init(
                    drawing,
                    inputs,
                    size,
                    readout if last else cell,
                    rate=rate,
                    mask=mask,
                    weight=weight,
                    bias=bias,
                    dtype=dtype,
                    **hidden,
                )
            except ValueError as error:
                raise ValueError(f"Network.init: layer {n}: {error}") from None
            layers.append(layer)
            spiking = spiking if is_stochastic(cell) else None
            inputs = (
                cls([layer])(inputs, mask=mask, key=spiking)[1] if measured and not last else size
            )
        return cls(layers)

    def initial_state(self, inputs: ArrayLike | jax.ShapeDtypeStruct) -> list[LayerState]:
        """Return the states before the first step: neurons at rest, no spikes.

        Parameters
        ----------
        inputs : array_like or jax.ShapeDtypeStruct
            The inputs of one step. Only shape and dtype matter.

        Returns
        -------
        list or dict
            A tuple for each layer: the state of its cell and its last output. If a layer has
            readers with a longer delay, its past replaces the last output: ``(steps, batch,
            neurons)``, the oldest first. Joins and inputs with such readers have an entry with
            their past.
        """
        graph = self.graph
        _check_steps(graph)
        return _as_entries(self, *initial_states(graph, self._named_inputs(inputs)))

    def _named_inputs(self, inputs: Any) -> dict[Name, Any]:
        """Return the inputs by name, as arrays."""

        def real(x):
            return x if isinstance(x, jax.ShapeDtypeStruct) else real_inputs(x)

        if isinstance(self.inputs, str):
            return {self.inputs: real(inputs)}
        if not isinstance(inputs, Mapping) or {*inputs} != {*self.inputs}:
            got = [*inputs] if isinstance(inputs, Mapping) else brief(inputs)
            raise TypeError(
                f"Network: inputs must be a dict of arrays with the keys {list(self.inputs)}, got "
                f"{got}"
            )
        return {name: real(inputs[name]) for name in self.inputs}

    def _of_outputs(self, outputs: Mapping[Name, jax.Array]) -> Any:
        """Select the outputs of a call from the outputs of all nodes."""
        if not isinstance(self.layers, Mapping):
            return outputs[len(self.layers) - 1]
        if isinstance(self.outputs, str):
            return outputs[self.outputs]
        return {name: outputs[name] for name in self.outputs or ()}

    def step(self, states: Any, inputs: Any, *, key: Any = None) -> tuple[Any, Any]:
        """Run one time step, for inference on a stream.

        The spikes equal those of a call on all steps.

        Parameters
        ----------
        states : list or dict
            From :meth:`initial_state`, the previous step, or a call.
        inputs : array_like or dict
            Inputs of the step, without the time axis.
        key : array of jax.random.key, optional
            The key of the step, for :func:`stochastic` spikes. ``jax.random.fold_in(key, t)`` gives
            the spikes of step ``t`` in a call with ``key``.

        Returns
        -------
        states : list or dict
            The states after the step.
        out : jax.Array or dict
            The output of the last layer, or the outputs named by ``outputs``.

        Raises
        ------
        ValueError
            If the states do not fit the inputs, for example for a sequence instead of one step.
        """
        graph, x = self.graph, self._named_inputs(inputs)
        _check_steps(graph)
        before = _as_arrays(self, graph, states)
        try:
            after, out = self._advance(graph, before, x, key)
        except (TypeError, ValueError):
            after = out = None
        if after is None or _shapes(after) != _shapes(before):
            _check_states(graph, before, _as_entries(self, *initial_states(graph, x)))
            after, out = self._advance(graph, before, x, key)  # raises the error again
        return after, out

    def _advance(
        self, graph: Graph, before: Any, x: dict[Name, jax.Array], key: Any
    ) -> tuple[Any, Any]:
        key = None if key is None else checked_key(key)
        nodes = nodes_of(graph, key, examples_of(next(iter(x.values()))))
        new = graph_step(nodes, *_as_named(graph, before), x, {}, Masks())
        return _as_entries(self, new.states, new.pasts), self._of_outputs(new.outputs)

    def __call__(
        self,
        inputs: Any,
        states: Any = None,
        *,
        key: Any = None,
        mode: str = "exact",
        segment: int | None = None,
        chunk: int | None = None,
        mask: ArrayLike | None = None,
        truncate: int | None = None,
        all_layers: bool = False,
        pre_spike: bool | Sequence[Any] = False,
        unroll: int | None = None,
    ) -> Any:
        """Run a sequence.

        Parameters
        ----------
        inputs : array_like or dict
            Time first, then the examples: ``(steps, batch, inputs)`` for matrices. Booleans and
            integers take less memory, because they are cast step by step. A dict if the network has
            several inputs.
        states : list or dict, optional
            The states before the first step. By default :meth:`initial_state`. To continue a
            sequence, pass the states that an earlier call returned.
        key : array of jax.random.key, optional
            For :func:`stochastic` spikes. The backward pass draws them again, so they need no
            memory. To continue a sequence, pass another key.
        mode : {"exact", "half", "8-bit", "recompute", "scan"}
            The residuals stored for the backward pass. Outputs are equal in all modes.

            - ``"exact"``: the pre-spike state of each neuron and step.
            - ``"half"``: this state in 16 bits. Spikes stay exact. Slopes get a relative error of
              up to 0.4%.
            - ``"8-bit"``: the distance to the threshold in 8 bits, other states in 16.
            - ``"recompute"``: one state per segment. A segment is about the square root of the
              number of steps. States within it are recomputed.
            - ``"scan"``: the residuals that JAX chooses for a plain ``jax.lax.scan``. It supports
              forward mode. Convolutions are slow in it on CPUs.
        segment : int, optional
            Number of steps in a segment. Other modes than ``"recompute"`` use segments only if you
            pass it.
        chunk : int, optional
            Number of steps that compute their independent products together, forward and backward.
            Longer chunks are faster and take more memory. The default is about 10 in mode
            ``"exact"`` and about 5 in other modes. It is 1 if a layer or join is a convolution and
            the other weights have fewer elements than the states of a step. Convolutions are not
            faster together. It must divide ``segment``, and should divide the number of steps.
        mask : array_like of bool, optional
            ``(steps, batch)`` or ``(steps,)``: False for padding, such as steps after the end of a
            shorter sequence. Masked steps do not change states, and their outputs are 0.
        truncate : int, optional
            Window length of truncated backpropagation. Derivatives of states end at the first
            unmasked step of each window.
        all_layers : bool, default False
            If True, return the outputs of all layers and joins.
        pre_spike : bool or sequence of int or str, default False
            The layers whose pre-spike states are returned, by name, or by position in a list. True
            selects all.
        unroll : int, optional
            Steps unrolled per iteration of a compiled loop. The default depends on the platform,
            see the notes.

        Returns
        -------
        states : list or dict
            The states after the last step, in the form of :meth:`initial_state`. Joins over time
            have an entry with their second result, such as statistics. The next call ignores it. If
            a later step reads the join, the entry is a pair of its past and this result.
        outputs : jax.Array, tuple or dict
            The outputs of all steps, ``(steps, batch, neurons)``. A tuple or dict for several
            layers.
        pre_spike : tuple or dict
            If requested, the states before the spike of the selected layers, ``(steps, batch,
            neurons)`` for a state of one array. Masked steps have zeros.

        Raises
        ------
        ValueError, TypeError
            If the mode is unknown, if a length is not an integer from 1 to the number of steps, if
            ``chunk`` does not divide ``segment``, if shapes do not fit, or if the number of steps
            is unknown when JAX traces.

        Notes
        -----
        With a key, example ``b`` of layer ``n`` draws its spikes of step ``t`` from ``key`` folded
        by ``jax.random.fold_in`` with ``t``, then ``n``, then ``b``. So every mode and :meth:`step`
        draw equal spikes, independent of other examples.

        ``mode="scan"`` is differentiable in forward and reverse mode. The other modes define a
        custom reverse-mode derivative, and ``jax.jvp`` raises a TypeError. The modes support
        derivatives of all orders, including ``jax.hessian``. Only ``"half"`` and ``"8-bit"`` are
        limited to the first order, and raise a TypeError for higher orders.

        ``unroll`` is 1 on CPUs, because more steps only cost compilation time. It is 4 on other
        platforms, because an iteration of a loop costs microseconds there.
        """
        graph, x = self.graph, self._named_inputs(inputs)
        key = None if key is None else checked_key(key)
        mask = None if mask is None else jnp.asarray(mask)
        states = None if states is None else _as_arrays(self, graph, states)
        steps = check_shapes(x, mask)
        check_mode("Network", mode)
        row = MODES[mode]
        check_length("truncate", truncate, steps)
        _check_windows(graph, steps)
        selected = _chosen(self, graph, pre_spike)
        plan = Plan(
            mode=mode,
            storage=row.storage,
            recompute=row.recompute,
            chunk=chunk,
            segment=segment,
            truncate=truncate,
            outputs=tuple(graph.nodes) if all_layers else self._output_names,
            pre_spike=selected,
            unroll=_checked_unroll(unroll),
        )
        if row.engine.cuts:
            plan.parts(steps)  # raises if the lengths are invalid
            _check_coupled(graph, mask, mode)
        elif chunk is not None or segment is not None:
            raise ValueError(
                f"Network: mode {mode!r} does not take chunk or segment, got {chunk} and "
                f"{segment}; leave them out"
            )
        try:
            if is_pure_network(self):
                # Marked outside the compiled function. It then stores these arrays instead of
                # copies.
                network, x, states = _marked(plan, (self, x, states))
                ends, (outs, pre_spikes) = _run_compiled(network, plan, x, states, mask, key)
            else:
                ends, (outs, pre_spikes) = _run(
                    self, plan, x, states, mask, key, mark=functools.partial(_marked, plan)
                )
        except TypeError as error:
            if row.engine.cuts and is_forward_mode_error(error):
                raise TypeError(_no_forward_mode(mode)) from error
            raise
        if isinstance(self.layers, Mapping):
            outputs = outs if all_layers else self._of_outputs(outs)
            return (
                (ends, outputs, {name: pre_spikes[name] for name in selected})
                if selected
                else (ends, outputs)
            )
        outputs = (
            tuple(outs[n] for n in range(len(self.layers)))
            if all_layers
            else self._of_outputs(outs)
        )
        return (
            (ends, outputs, tuple(pre_spikes[n] for n in selected)) if selected else (ends, outputs)
        )

    @property
    def _output_names(self) -> tuple[Name, ...]:
        if not isinstance(self.layers, Mapping):
            return (len(self.layers) - 1,)
        return (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs or ())


def _run(
    network: Network,
    plan: Plan,
    inputs: dict[Name, jax.Array],
    states: Any,
    mask: jax.Array | None,
    key: Any,
    mark: Callable[[Any], Any] = lambda arrays: arrays,
):
    """Return the states after the last step, and the requested outputs and pre-spike states of each
    step.
    """
    layers, inputs, states, mask, key = match_varying_axes(
        (network.layers, inputs, states, mask, key)
    )
    graph = dataclasses.replace(network, layers=layers).graph

    def start(part, inputs):
        at_rest = match_varying_axes(
            initial_states(part, {name: x[0] for name, x in inputs.items()}), like=inputs
        )
        if states is None:
            return at_rest
        initial = (
            states
            if part is graph
            else _as_entries(network, *of_stage(part, *_as_named(graph, states)))
        )
        at_rest = _as_entries(network, *at_rest)
        _check_states(part, initial, at_rest, next(iter(inputs.values())).shape)
        return _as_named(part, jax.tree.map(shard_as, initial, at_rest))

    masks = match_varying_axes(
        make_masks(len(next(iter(inputs.values()))), mask, plan.truncate), like=inputs
    )
    engine = MODES[plan.mode].engine
    ran = run_stages(
        graph,
        inputs,
        start,
        masks,
        key,
        plan,
        functools.partial(engine.run, mark=mark),
        lean=engine.cuts,
    )
    ends = _as_entries(network, ran.states, ran.pasts)
    for name, statistics in ran.statistics.items():
        ends[name] = (ran.pasts[name], statistics) if name in ran.pasts else statistics
    return ends, (ran.outputs, ran.pre_spike)


def _over_time(graph: Graph) -> list[Name]:
    return [name for name, node in graph.nodes.items() if is_over_time(node)]


def _check_steps(graph: Graph) -> None:
    """Raise if the network cannot run step by step."""
    for name in _over_time(graph):
        raise TypeError(
            f"Network: join {name!r} takes all steps at once and needs a complete sequence; for a "
            "stream, "
            "fold a normalization into the weights with its running statistics"
        )


def with_nodes(network: Network, changed: Mapping[Any, Layer | Join]) -> Network:
    """Return the network with some nodes replaced, by name or by position."""
    if isinstance(network.layers, Mapping):
        return dataclasses.replace(network, layers={**network.layers, **changed})
    layers: list[Any] = [changed.get(n, layer) for n, layer in enumerate(network.layers)]
    return Network(layers)


def _marked(plan: Plan, arrays: Any) -> Any:
    """Mark arrays.

    Forward-mode differentiation of them raises an error unless the mode supports it.
    """
    return (
        in_reverse_mode_alone(_no_forward_mode(plan.mode), arrays)
        if MODES[plan.mode].engine.cuts
        else arrays
    )


def _no_forward_mode(mode: str) -> str:
    return f"Network: for forward-mode differentiation use mode='scan', not {mode!r}"


@functools.partial(jax.jit, static_argnums=1)
def _run_compiled(network, plan, inputs, states, mask, key):
    return _run(network, plan, inputs, states, mask, key)


def is_pure_network(network: Network) -> bool:
    """Return True if arrays, numbers and classes determine the network completely."""
    return all(
        isinstance(node, Layer)
        and is_pure(node.cell)
        and all(_is_pure_weight(weight) for weight in (*node.weights.values(), node.bias))
        for node in network._nodes()
    )


def _is_pure_weight(weight: Any) -> bool:
    if isinstance(weight, (Delayed, Window)):
        weight = weight.weight
    return (
        weight is None or isinstance(weight, (jax.Array, np.ndarray, float, int)) or is_pure(weight)
    )


def real_inputs(inputs: ArrayLike) -> jax.Array:
    """Convert inputs to an array. Booleans and integers keep their dtype."""
    inputs = jnp.asarray(inputs)
    if jnp.issubdtype(inputs.dtype, jnp.complexfloating):
        raise TypeError(
            f"Network: inputs must be real, got {inputs.dtype}; pass real and imaginary parts "
            "separately"
        )
    return inputs


def checked_key(key: Any) -> jax.Array:
    key = as_key("Network", key)
    if (
        key.shape or str(jax.random.key_impl(key)) != KEYS
    ):  # other kinds draw other numbers in jax.vmap
        raise TypeError(
            f"Network: key must be one of jax.random.key(seed, impl={KEYS!r}), got "
            f"{key.dtype}{key.shape}"
        )
    return key


def check_shapes(inputs: Mapping[Name, jax.Array], mask: jax.Array | None) -> int:
    """Return the number of steps. Raise if the shapes of inputs or mask do not fit."""
    for name, x in inputs.items():
        shape, label = x.shape, f"inputs {name!r}" if len(inputs) > 1 else "inputs"
        if x.ndim and not isinstance(shape[0], int):
            raise TypeError(
                f"Network: the number of steps must be known when JAX traces, got {shape[0]} in "
                f"{label} of shape "
                f"{shape}; only the number of examples may be symbolic"
            )
        if x.ndim < 2 or not shape[0]:
            raise ValueError(f"Network: {label} must be of shape (steps, ..., inputs), got {shape}")
    shapes = {name: x.shape for name, x in inputs.items()}
    if len({shape[: min(2, len(shape) - 1)] for shape in shapes.values()}) > 1:
        raise ValueError(f"Network: all inputs must agree in steps and examples, got {shapes}")
    shape = next(iter(shapes.values()))
    if mask is None:
        return shape[0]
    if (
        mask.dtype != bool
        or mask.ndim not in (1, min(2, len(shape) - 1))
        or mask.shape != shape[: mask.ndim]
    ):
        expected = (
            f"(steps,), here {shape[:1]}"
            if len(shape) < 3
            else f"(steps,) or (steps, batch), here {shape[:2]}"
        )
        hint = order_of_axes("inputs", shape, "masks", mask.shape) if len(shape) > 2 else ""
        got = f"{mask.dtype}{list(mask.shape)}"
        raise ValueError(f"Network: mask must be of bool and of shape {expected}, got {got}{hint}")
    return shape[0]


def _check_coupled(graph: Graph, mask: jax.Array | None, mode: str) -> None:
    """Raise if the backward pass cannot fire a cell again, because its examples were active in
    different steps.
    """
    for name, layer in graph.layers.items():
        if layer.cell.couples_examples and mask is not None and mask.ndim > 1:
            raise ValueError(
                f"Network: {type(layer.cell).__name__} of layer {name!r} couples the examples of a "
                "step, which a mask "
                f"(steps, batch) cannot combine with mode {mode!r}; pass mode='scan', or a mask "
                "(steps,)"
            )


def _check_windows(graph: Graph, steps: int) -> None:
    for name, edges in graph.edges.items():
        for edge in edges:
            if edge.windowed and len(edge.lags) > steps:
                raise ValueError(
                    f"Network: {name!r} reads a window of {len(edge.lags)} outputs of "
                    f"{edge.source!r}, longer than the "
                    f"{steps} steps of the inputs; shorten the window or pass more steps"
                )


def _as_entries(network: Network, states: dict, pasts: dict) -> Any:
    """Return states and pasts in the user's form, a list or dict with an entry per node."""
    layers = {name: (v, pasts.get(name, out)) for name, (v, out) in states.items()}
    if isinstance(network.layers, Mapping):
        return {**pasts, **layers}
    return [layers[n] for n in range(len(network.layers))]


def _as_named(graph: Graph, entries: Any) -> tuple[dict[Name, LayerState], dict[Name, jax.Array]]:
    """Return states and pasts by name. The inverse of :func:`_as_entries`."""
    named: dict[Name, Any] = (
        dict(entries) if isinstance(entries, Mapping) else dict(enumerate(entries))
    )
    states = {name: named[name] for name in graph.layers}
    pasts = {name: states[name][1] if name in states else named[name] for name in graph.depths}
    return {
        name: (v, out[-1] if name in pasts else out) for name, (v, out) in states.items()
    }, pasts


def _check_states(
    graph: Graph, states: Any, at_rest: Any, inputs: tuple[int, ...] | None = None
) -> None:
    """Raise for the first array of the states that does not fit.

    ``inputs`` is the shape of the inputs of a call, or None for one step.
    """
    entries = at_rest.items() if isinstance(at_rest, Mapping) else enumerate(at_rest)
    for name, expected in entries:
        layer, got = graph.layers.get(name), states[name]
        owner = f"Network: states of {'' if layer is None else 'layer '}{name!r}"
        fix = "; initial_state(inputs of one step) returns states that fit"
        if jax.tree.structure(got) != jax.tree.structure(expected):
            raise ValueError(f"{owner} must be {_shapes(expected)}, got {_shapes(got)}{fix}")
        names = ("past",) if layer is None else (*layer.cell.state_names, "output")
        pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True)
        for n, (leaf, array) in enumerate(pairs):
            if _shapes(array) == _shapes(leaf):
                continue
            if array.shape[1:] == leaf.shape:
                fix = "; pass the inputs of one step to initial_state, such as inputs[0]"
            elif inputs is None and leaf.shape[1:] == array.shape:
                fix = "; step takes the inputs of one step; for a sequence, call the network"
            elif inputs is not None and len(inputs) > 2:
                fix = order_of_axes("inputs", inputs, "states", array.shape, at=1) or fix
            part = names[n] if n < len(names) else f"array {n}"
            raise ValueError(f"{owner}: {part} must be {_shapes(leaf)}, got {_shapes(array)}{fix}")


def _as_arrays(network: Network, graph: Graph, states: Any) -> Any:
    """Return the states as arrays, without the statistics of joins over time."""
    named = isinstance(network.layers, Mapping)
    if not isinstance(states, Mapping if named else Sequence):
        kind = "a mapping, one entry for each name" if named else "a sequence, one entry a layer"
        raise TypeError(f"Network: states must be {kind}, got {brief(states)}")
    if isinstance(states, Mapping):
        over_time = _over_time(graph)
        states = {
            name: states[name] for name in states if name not in over_time or name in graph.depths
        }
        # without the statistics, which no step reads
        states |= {n: states[n][0] for n in over_time if isinstance(states.get(n), tuple)}
        if {*states} != (names := {*graph.layers, *graph.depths}):
            raise ValueError(
                f"Network: states must have the keys {sorted(names)}, got {sorted(states)}"
            )
    elif len(states) != len(network.layers):
        raise ValueError(
            f"Network: states must be of {len(network.layers)} layers, got {len(states)}"
        )
    return jax.tree.map(jnp.asarray, states if named else list(states))


def _shapes(states: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", states)


def _chosen(network: Network, graph: Graph, layers: Any) -> tuple[Name, ...]:
    """Return the names of the selected layers, or their positions in a list."""
    named, depth = isinstance(network.layers, Mapping), len(network.layers)
    if isinstance(layers, bool):
        every = graph.layers if named else range(depth)
        return tuple(every) if layers else ()
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise TypeError(
            f"Network: pre_spike must be a bool or a sequence of layers, got {layers!r}"
        )
    if named:
        for name in layers:
            if name not in graph.layers:
                raise ValueError(
                    f"Network: pre_spike must name layers of {[*graph.layers]}, got {name!r}"
                )
        return tuple(layers)
    for n in layers:
        if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or not -depth <= n < depth:
            raise ValueError(
                f"Network: pre_spike must name layers from {-depth} to {depth - 1}, got {n!r}"
            )
    return tuple(int(n) % depth for n in layers)


def _checked_unroll(unroll: int | None) -> int:
    if unroll is None:
        return 1 if jax.default_backend() == "cpu" else 4
    check_length("unroll", unroll, None)
    return int(unroll)
