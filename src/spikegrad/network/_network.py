"""Layers over time: one on the other, or a graph of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._compat import in_reverse_mode_alone, is_forward_mode_error, match_varying_axes, shard_as
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
    """Layers over time: one on the other, or a graph of them.

    A network is a pytree of its layers; which of its arrays are trained is decided by what you differentiate.

    Parameters
    ----------
    layers : sequence of Layer, or mapping of Layer and Join
        A list is in order from the inputs to the outputs. In a mapping, layers have names and read sources by name, see
        ``of`` and ``weight`` of :class:`Layer`, :class:`Join`, :class:`Delayed` and :class:`Window`. By default a layer
        reads the previous entry, and the first layer reads the inputs.
    inputs : str or sequence of str, default "input"
        The name of the inputs, for a mapping. A network with several names takes a dict of arrays.
    outputs : str or sequence of str, optional
        The output layer or join, for a mapping; by default the last entry. A network with several names returns a dict
        of arrays.

    Raises
    ------
    TypeError, ValueError
        For entries other than layers and joins, unknown sources or outputs, duplicate names, and layers that read each
        other in the same step.

    Notes
    -----
    The order of a mapping only sets the default sources. An edge without a delay acts within the step. Outputs before
    the first step are zeros.

    Without ``jax.jit`` around it, a network of matrices and of cells and surrogates that are pure (the library's, and
    classes of your own that say so by ``pure=True``) is compiled at the first call and kept. One that holds functions
    of yours is compiled at each call, since these may have changed: put ``jax.jit`` around it.

    A network can be called. A function that takes either a pytree or a callable, such as ``optax.multi_transform``
    does for its labels, is best given ``lambda params: labels``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, LeakyReadout, Network
    >>> def loss(weights, inputs, **options):
    ...     w, r, out = weights
    ...     network = Network([Layer(w, LIF(0.95), recurrent=r), Layer(out, LeakyReadout(0.95))])
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
        super().__post_init__()
        named = isinstance(self.layers, Mapping)
        entries = self._nodes()
        if not entries or not all(isinstance(entry, (Layer, Join) if named else Layer) for entry in entries):
            raise TypeError(f"Network: layers must be one or more Layer objects, got {self.layers!r}")
        if not named:
            self._check_chain(entries)
            object.__setattr__(self, "layers", tuple(entries))
            return
        for name in self.layers:
            if not isinstance(name, str):
                raise TypeError(f"Network: names of layers must be strings, got {name!r}")
        inputs = self._names("inputs", self.inputs)
        outputs = self._names("outputs", [*self.layers][-1] if self.outputs is None else self.outputs)
        nodes: dict[str, Any] = {}
        above: str | None = inputs[0] if len(inputs) == 1 else None
        for name, node in self.layers.items():  # type: ignore[union-attr]
            if name in inputs:
                raise ValueError(f"Network: {name!r} names both an entry and inputs; rename one of them")
            if isinstance(node, Layer) and node.of is None and not isinstance(node.weight, Mapping):
                if above is None:
                    raise ValueError(f"Network: {name!r} must say which of {list(inputs)} it reads: give it of")
                node = dataclasses.replace(node, of=above)
            nodes[name], above = node, name
        # In the order of names, which JAX gives the keys of a dict when it rebuilds one.
        object.__setattr__(self, "layers", {name: nodes[name] for name in sorted(nodes)})
        object.__setattr__(self, "inputs", self.inputs if isinstance(self.inputs, str) else inputs)
        object.__setattr__(self, "outputs", outputs[0] if isinstance(self.outputs, str | None) else outputs)
        for name in outputs:
            if name not in nodes:
                raise ValueError(f"Network: outputs must be names of {[*nodes]}, got {name!r}")
        stages_of(self.graph)  # or an error

    def _nodes(self) -> list[Any]:
        """All layers and joins."""
        return [*self.layers.values()] if isinstance(self.layers, Mapping) else [*self.layers]

    def _names(self, what: str, names: Any) -> tuple[str, ...]:
        found: Any = (names,) if isinstance(names, str) else names
        if not isinstance(found, Sequence) or not found or not all(isinstance(name, str) for name in found):
            raise TypeError(f"Network: {what} must be a name or names, got {names!r}")
        if len({*found}) < len(found):
            raise ValueError(f"Network: {what} must be different names, got {names!r}")
        return tuple(found)

    def _check_chain(self, layers: Sequence[Any]) -> None:
        if self.inputs != INPUT or self.outputs is not None:
            raise TypeError("Network: inputs and outputs are names of a mapping of layers, and a list was given")
        for n, layer in enumerate(layers):
            if layer.of is not None or isinstance(layer.weight, Mapping):
                raise TypeError(f"Network: layer {n} names its source, so all layers need names: give a mapping")

    @property
    def graph(self) -> Graph:
        """The nodes and edges of the network. Layers of a list are named by position."""
        if isinstance(self.layers, Mapping):
            inputs = (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)
            return make_graph(dict(self.layers.items()), inputs, {})
        graph = make_graph(
            dict(enumerate(self.layers)), (INPUT,), {n: n - 1 if n else INPUT for n in range(len(self.layers))}
        )
        if INPUT in graph.depths:
            raise TypeError(
                "Network: layer 0 reads inputs of former steps, for which the states of a list have no place: give "
                "names, Network({'first': ...})"
            )
        return graph

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
        """Fully connected layers, and a readout, of matrices that are drawn as by :meth:`Layer.init`.

        Inputs that are given are measured, and the outputs of each layer are, for the one above it. With a number and a
        rate, all layers are taken to fire at this rate.

        Parameters
        ----------
        key : array of jax.random.key
            Draws the weights.
        inputs : int or array
            The number of inputs, or inputs to measure: ``(steps, examples, inputs)``, a batch of the training data say.
        sizes : sequence of int
            Neurons of each layer, the readout last.
        cell : Cell
            The neurons of the others.
        readout : Cell, default LeakyReadout()
            Those of the last layer.
        rate, mask, std, weight, recurrent, bias, dtype
            As in :meth:`Layer.init`. The readout is not recurrent, and has the deviation that is its default.

        Returns
        -------
        Network

        Raises
        ------
        TypeError, ValueError
            As :meth:`Layer.init` does, and if a layer is silent where that above it is to be measured.

        Examples
        --------
        >>> import jax
        >>> from spikegrad import LIF, LeakyReadout, Network
        >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.05, (50, 8, 20))
        >>> network = Network.init(jax.random.key(0), spikes, (64, 64, 10), LIF(0.9), LeakyReadout(0.95))
        >>> _, (first, second, potentials) = network(spikes, all_layers=True)
        >>> bool(0.01 < second.mean() < 0.5), bool(0.3 < potentials.std() < 3)
        (True, True)
        """
        if np.ndim(sizes) != 1 or not len(sizes):
            raise TypeError(f"Network.init: sizes must be a sequence of integers, one for each layer, got {sizes!r}")
        counts: list[Any] = [*sizes] if np.ndim(inputs) else [inputs, *sizes]
        for size in counts:
            if not hasattr(size, "__index__") or size < 1:
                raise ValueError(f"Network.init: numbers of inputs and neurons must be integers above 0, got {size!r}")
        layers, measured = [], np.ndim(inputs) > 0 and weight is None
        for n, (size, own) in enumerate(zip(sizes, jax.random.split(key, len(sizes)), strict=True)):
            drawing, spiking = jax.random.split(own)
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
            inputs = cls([layer])(inputs, mask=mask, key=spiking)[1] if measured and not last else size
        return cls(layers)

    def initial_state(self, inputs: ArrayLike | jax.ShapeDtypeStruct) -> list[LayerState]:
        """The states before the first step: neurons at rest, no spikes.

        Parameters
        ----------
        inputs : array_like or jax.ShapeDtypeStruct
            The inputs of one step, of which the shape and dtype matter.

        Returns
        -------
        list or dict
            A tuple for each layer, the state of its cell and its last output. If a layer has readers with a longer
            delay, its past replaces the last output: ``(steps, batch, neurons)``, the oldest first. Joins and inputs
            with such readers have an entry with their past.
        """
        graph = self.graph
        _check_steps(graph)
        return _as_given(self, graph, *initial_states(graph, self._named_inputs(inputs)))

    def _named_inputs(self, inputs: Any) -> dict[Name, Any]:
        """Return the inputs by name, as arrays."""

        def real(x):
            return x if isinstance(x, jax.ShapeDtypeStruct) else real_inputs(x)

        if isinstance(self.inputs, str):
            return {self.inputs: real(inputs)}
        if not isinstance(inputs, Mapping) or {*inputs} != {*self.inputs}:
            got = [*inputs] if isinstance(inputs, Mapping) else brief(inputs)
            raise TypeError(f"Network: inputs must be a dict of arrays with the keys {list(self.inputs)}, got {got}")
        return {name: real(inputs[name]) for name in self.inputs}

    def _of_outputs(self, outputs: Mapping[Name, jax.Array]) -> Any:
        """Select the outputs of a call from the outputs of all nodes."""
        if not isinstance(self.layers, Mapping):
            return outputs[len(self.layers) - 1]
        if isinstance(self.outputs, str):
            return outputs[self.outputs]
        return {name: outputs[name] for name in self.outputs or ()}

    def step(self, states: Any, inputs: Any, *, key: Any = None) -> tuple[Any, Any]:
        """One step, for inference on a stream: the same spikes as in a call on the whole sequence.

        Parameters
        ----------
        states : list or dict
            From :meth:`initial_state`, the step before, or a call.
        inputs : array_like or dict
            Inputs of the step, without the time axis.
        key : array of jax.random.key, optional
            The key of the step, for :func:`stochastic` spikes: ``jax.random.fold_in(key, t)`` draws what step ``t`` of
            a call with ``key`` draws.

        Returns
        -------
        states : list or dict
            After the step.
        out : jax.Array or dict
            The output of the last layer, or the outputs named by ``outputs``.

        Raises
        ------
        ValueError
            If the states are not those of such inputs: a whole sequence given for one step, say.
        """
        graph, x = self.graph, self._named_inputs(inputs)
        _check_steps(graph)
        before = _as_arrays(self, states)
        if not isinstance(self.layers, Mapping) and len(before) != len(self.layers):
            raise ValueError(f"Network: states must be of {len(self.layers)} layers, got {len(before)}")
        try:
            after, out = self._advance(graph, before, x, key)
        except (TypeError, ValueError, KeyError):
            after = out = None
        if after is None or _shapes(after) != _shapes(before):
            if _shapes(before) != (fitting := _shapes(_as_given(self, graph, *initial_states(graph, x)))):
                raise ValueError(
                    f"Network: step takes the inputs of one step, got {_shapes_of(x)}, which fit states {fitting}, "
                    f"not {_shapes(before)}; a sequence is given to the network itself"
                )
            after, out = self._advance(graph, before, x, key)  # whatever it raised
        return after, out

    def _advance(self, graph: Graph, before: Any, x: dict[Name, jax.Array], key: Any) -> tuple[Any, Any]:
        key = None if key is None else checked_key(key)
        nodes = nodes_of(graph, key, examples_of(next(iter(x.values()))))
        new = graph_step(nodes, *_as_named(graph, before), x, {}, Masks())
        return _as_given(self, graph, new.states, new.pasts), self._of_outputs(new.outputs)

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
            Time first, then the examples: ``(steps, batch, inputs)`` for matrices. Booleans and integers serve as
            well, and take less memory: they are cast step by step. A dict if the network has several inputs.
        states : list or dict, optional
            Those of each layer before the first step. By default :meth:`initial_state`. Give what a former call
            returned to go on with a sequence.
        key : array of jax.random.key, optional
            For :func:`stochastic` spikes, which are drawn again in the backward pass: nothing more is kept. To go on
            with a sequence, give another one.
        mode : {"exact", "half", "8-bit", "recompute", "scan"}
            What the backward pass keeps of each neuron and step. ``"exact"``: its pre-spike state, once. ``"half"``:
            in 16 bits; spikes stay exact, slopes get a relative error of up to 0.4 %. ``"8-bit"``: the distance to the
            threshold in 8 bits, other states in 16. ``"recompute"``: its state once in a segment of about the square
            root of the number of steps; the rest is computed again. ``"scan"``: what JAX keeps of a plain
            ``jax.lax.scan``, for forward mode; convolutions are slow in it on CPUs. Outputs are the same in all modes.
        segment : int, optional
            Steps of a segment. Given for another mode, it makes segments there.
        chunk : int, optional
            Steps whose products are taken at a time where they need not wait for each other, in the backward pass too.
            More is faster and takes more memory; by default about 10 in mode ``"exact"``, about 5 in the others, and 1
            if all layers are convolutions, which are no faster together. Best a divisor of the number of steps, and it
            must be one of ``segment``.
        mask : array_like of bool, optional
            ``(steps, batch)`` or ``(steps,)``: False for steps that do not take place, such as those after the end of
            a shorter sequence. They leave states as they are, and their outputs are 0.
        truncate : int, optional
            Length of a window of truncated backpropagation: derivatives of states end at its start, or where a mask
            leaves that out, at the first step of it that takes place.
        all_layers : bool, default False
            If True, return the outputs of all layers and joins.
        pre_spike : bool or sequence of int or str, default False
            Layers to return the pre-spike states of, by name, or by position in a list. True selects all.
        unroll : int, optional
            Steps that one turn of a compiled loop makes. By default what is best on the platform, see the notes.

        Returns
        -------
        states : list or dict
            After the last step, in the form of :meth:`initial_state`. Joins over time have an entry with what they
            return beside their outputs, which another call ignores.
        outputs : jax.Array, tuple or dict
            The outputs of all steps, ``(steps, batch, neurons)``. A tuple or dict for several layers.
        pre_spike : tuple or dict
            If asked for, the states before the spike of each of these layers, ``(steps, batch, neurons)`` for a state
            of one array; zeros for steps that did not take place.

        Raises
        ------
        ValueError, TypeError
            For an unknown mode, a length that is no integer from 1 to the number of steps, a ``chunk`` that does not
            divide ``segment``, shapes that do not fit, and a number of steps that is not known when JAX traces.

        Notes
        -----
        With a key, example ``b`` of layer ``n`` draws its spikes of step ``t`` from ``key`` folded by
        ``jax.random.fold_in`` with ``t``, then ``n``, then ``b``. So spikes are the same in every mode, in
        :meth:`step`, and whatever other examples there are.

        ``mode="scan"`` is differentiable in forward and reverse mode. The other modes have a derivative of their own in
        reverse mode, and ``jax.jvp`` raises a TypeError. All give derivatives of all orders, ``jax.hessian`` included,
        except that ``"half"`` and ``"8-bit"`` have the first alone, and raise a TypeError for others.

        ``unroll`` is 1 on CPUs, where more costs time of compilation and gains nothing, and 4 elsewhere, where a turn
        of a loop costs microseconds.
        """
        graph, x = self.graph, self._named_inputs(inputs)
        key = None if key is None else checked_key(key)
        mask = None if mask is None else jnp.asarray(mask)
        states = None if states is None else _as_arrays(self, states)
        steps = check_shapes(x, mask)
        check_mode("Network", mode)
        how = MODES[mode]
        check_length("truncate", truncate, steps)
        _check_windows(graph, steps)
        shown = _chosen(self, graph, pre_spike)
        plan = Plan(
            mode=mode,
            storage=how.storage,
            recompute=how.recompute,
            chunk=chunk,
            segment=segment,
            truncate=truncate,
            outputs=tuple(graph.nodes) if all_layers else self._output_names,
            pre_spike=shown,
            unroll=_checked_unroll(unroll),
        )
        if how.engine.cuts:
            plan.parts(steps)  # or an error
        elif chunk is not None or segment is not None:
            raise ValueError(f"Network: mode {mode!r} has no chunk and no segment, got {chunk} and {segment}")
        try:
            if is_pure_network(self):
                # marked outside the compiled function, which then stores these arrays and no copies of them
                network, x, states = _marked(plan, (self, x, states))
                ends, (outs, seen) = _run_compiled(network, plan, x, states, mask, key)
            else:
                ends, (outs, seen) = _run(self, plan, x, states, mask, key, mark=functools.partial(_marked, plan))
        except TypeError as error:
            if how.engine.cuts and is_forward_mode_error(error):
                raise TypeError(_no_forward_mode(mode)) from error
            raise
        if isinstance(self.layers, Mapping):
            outputs = outs if all_layers else self._of_outputs(outs)
            return (ends, outputs, {name: seen[name] for name in shown}) if shown else (ends, outputs)
        outputs = tuple(outs[n] for n in range(len(self.layers))) if all_layers else self._of_outputs(outs)
        return (ends, outputs, tuple(seen[n] for n in shown)) if shown else (ends, outputs)

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
    """Return the states after the last step, and the requested outputs and pre-spike states of each step."""
    layers, inputs, states, mask, key = match_varying_axes((network.layers, inputs, states, mask, key))
    graph = dataclasses.replace(network, layers=layers).graph
    if states is not None and (over_time := _over_time(graph)):
        states = {name: states[name] for name in states if name not in over_time}  # their statistics
        if {*states} != (names := {*graph.layers, *graph.depths}):
            raise ValueError(f"Network: states must have the keys {sorted(names)}, got {sorted(states)}")

    def start(part, inputs):
        at_rest = match_varying_axes(initial_states(part, {name: x[0] for name, x in inputs.items()}), like=inputs)
        if states is None:
            return at_rest
        given = states if part is graph else _as_given(network, part, *of_stage(part, *_as_named(graph, states)))
        return _as_named(part, _checked_states(given, _as_given(network, part, *at_rest)))

    masks = match_varying_axes(make_masks(len(next(iter(inputs.values()))), mask, plan.truncate), like=inputs)
    engine = MODES[plan.mode].engine
    ran = run_stages(graph, inputs, start, masks, key, plan, functools.partial(engine.run, mark=mark), lean=engine.cuts)
    ends = _as_given(network, graph, ran.states, ran.pasts)
    return ({**ends, **ran.statistics} if ran.statistics else ends), (ran.outputs, ran.pre_spike)


def _over_time(graph: Graph) -> list[Name]:
    return [name for name, node in graph.nodes.items() if is_over_time(node)]


def _check_steps(graph: Graph) -> None:
    """Raise if the network cannot run step by step."""
    for name in _over_time(graph):
        raise TypeError(
            f"Network: join {name!r} takes all steps at once, so the network takes whole sequences only; for a stream, "
            "use a function of one step, such as the normalization with its running statistics folded into the weights"
        )


def with_nodes(network: Network, changed: Mapping[Any, Layer | Join]) -> Network:
    """Return the network with some nodes replaced, by name or by position."""
    if isinstance(network.layers, Mapping):
        return dataclasses.replace(network, layers={**network.layers, **changed})
    layers: list[Any] = [changed.get(n, layer) for n, layer in enumerate(network.layers)]
    return Network(layers)


def _marked(plan: Plan, arrays: Any) -> Any:
    """The same arrays, which cannot be differentiated in forward mode unless the mode has that."""
    return in_reverse_mode_alone(_no_forward_mode(plan.mode), arrays) if MODES[plan.mode].engine.cuts else arrays


def _no_forward_mode(mode: str) -> str:
    return f"Network: for forward-mode differentiation use mode='scan', not {mode!r}"


@functools.partial(jax.jit, static_argnums=1)
def _run_compiled(network, plan, inputs, states, mask, key):
    return _run(network, plan, inputs, states, mask, key)


def is_pure_network(network: Network) -> bool:
    """Whether all that the network does is known from its arrays, numbers and classes."""
    return all(
        isinstance(node, Layer)
        and is_pure(node.cell)
        and all(_is_pure_weight(weight) for weight in (*node.weights.values(), node.bias))
        for node in network._nodes()
    )


def _is_pure_weight(weight: Any) -> bool:
    if isinstance(weight, (Delayed, Window)):
        weight = weight.weight
    return weight is None or isinstance(weight, (jax.Array, np.ndarray, float, int)) or is_pure(weight)


def real_inputs(inputs: ArrayLike) -> jax.Array:
    """Inputs as an array. Booleans and integers stay what they are."""
    inputs = jnp.asarray(inputs)
    if jnp.issubdtype(inputs.dtype, jnp.complexfloating):
        raise TypeError(f"Network: inputs must be real, got {inputs.dtype}")
    return inputs


def checked_key(key: Any) -> jax.Array:
    key = as_key("Network", key)
    if key.shape or str(jax.random.key_impl(key)) != KEYS:  # other kinds draw something else in jax.vmap
        raise TypeError(f"Network: key must be one of jax.random.key(seed, impl={KEYS!r}), got {key.dtype}{key.shape}")
    return key


def check_shapes(inputs: Mapping[Name, jax.Array], mask: jax.Array | None) -> int:
    """Return the number of steps. Raise if the shapes of inputs or mask do not fit."""
    for name, x in inputs.items():
        shape, which = x.shape, f"inputs {name!r}" if len(inputs) > 1 else "inputs"
        if x.ndim and not isinstance(shape[0], int):
            raise TypeError(
                f"Network: the number of steps must be known when JAX traces, got {shape[0]} in {which} of shape "
                f"{shape}; the number of examples may be left open"
            )
        if x.ndim < 2 or not shape[0]:
            raise ValueError(f"Network: {which} must be of shape (steps, ..., inputs), got {shape}")
    shapes = {name: x.shape for name, x in inputs.items()}
    if len({shape[: min(2, len(shape) - 1)] for shape in shapes.values()}) > 1:
        raise ValueError(f"Network: all inputs must have the same steps and examples, got {shapes}")
    shape = next(iter(shapes.values()))
    if mask is None:
        return shape[0]
    if mask.dtype != bool or mask.ndim not in (1, min(2, len(shape) - 1)) or mask.shape != shape[: mask.ndim]:
        wanted = f"(steps,), here {shape[:1]}" if len(shape) < 3 else f"(steps,) or (steps, batch), here {shape[:2]}"
        raise ValueError(f"Network: mask must be of bool and of shape {wanted}, got {mask.dtype}{list(mask.shape)}")
    return shape[0]


def _check_windows(graph: Graph, steps: int) -> None:
    for name, edges in graph.edges.items():
        for edge in edges:
            if edge.windowed and len(edge.lags) > steps:
                raise ValueError(
                    f"Network: {name!r} reads a window of {len(edge.lags)} outputs of {edge.source!r}, longer than the "
                    f"{steps} steps of the inputs"
                )


def _as_given(network: Network, graph: Graph, states: dict, pasts: dict) -> Any:
    """Return states and pasts in the user's form, a list or dict with an entry per node."""
    layers = {name: (v, pasts.get(name, out)) for name, (v, out) in states.items()}
    if isinstance(network.layers, Mapping):
        return {**pasts, **layers}
    return [layers[n] for n in range(len(network.layers))]


def _as_named(graph: Graph, given: Any) -> tuple[dict[Name, LayerState], dict[Name, jax.Array]]:
    """The inverse of :func:`_as_given`."""
    named: dict[Name, Any] = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
    states = {name: named[name] for name in graph.layers}
    pasts = {name: states[name][1] if name in states else named[name] for name in graph.depths}
    return {name: (v, out[-1] if name in pasts else out) for name, (v, out) in states.items()}, pasts


def _checked_states(given: Any, at_rest: Any) -> Any:
    """Return the states, or raise if their types do not fit the network."""
    if jax.tree.structure(given) != jax.tree.structure(at_rest) or _shapes(given) != _shapes(at_rest):
        raise ValueError(f"Network: states must be {_shapes(at_rest)}, got {_shapes(given)}")
    return jax.tree.map(shard_as, given, at_rest)


def _as_arrays(network: Network, states: Any) -> Any:
    named = isinstance(network.layers, Mapping)
    if not isinstance(states, Mapping if named else Sequence):
        kind = "a mapping, one entry for each name" if named else "a sequence, one entry a layer"
        raise TypeError(f"Network: states must be {kind}, got {brief(states)}")
    return jax.tree.map(jnp.asarray, dict(states) if named else list(states))


def _shapes(states: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", states)


def _shapes_of(inputs: Mapping[Name, jax.Array]) -> Any:
    shapes = {name: x.shape for name, x in inputs.items()}
    return shapes if len(shapes) > 1 else next(iter(shapes.values()))


def _chosen(network: Network, graph: Graph, layers: Any) -> tuple[Name, ...]:
    """Return the names of the selected layers, or their positions in a list."""
    named, depth = isinstance(network.layers, Mapping), len(network.layers)
    if isinstance(layers, bool):
        every = graph.layers if named else range(depth)
        return tuple(every) if layers else ()
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise TypeError(f"Network: pre_spike must be a bool or a sequence of layers, got {layers!r}")
    if named:
        for name in layers:
            if name not in graph.layers:
                raise ValueError(f"Network: pre_spike must name layers of {[*graph.layers]}, got {name!r}")
        return tuple(layers)
    for n in layers:
        if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or not -depth <= n < depth:
            raise ValueError(f"Network: pre_spike must name layers from {-depth} to {depth - 1}, got {n!r}")
    return tuple(int(n) % depth for n in layers)


def _checked_unroll(unroll: int | None) -> int:
    if unroll is None:
        return 1 if jax.default_backend() == "cpu" else 4
    check_length("unroll", unroll, None)
    return int(unroll)
