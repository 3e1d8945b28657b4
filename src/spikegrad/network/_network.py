"""Layers, one on the other, over time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._compat import in_reverse_mode_alone, is_forward_mode_error, match_varying_axes, shard_as
from .._struct import Struct, is_pure, parameter
from .._surrogate import as_key
from ..neurons import Cell, LeakyReadout
from . import _layer
from ._initial import Initializer
from ._layer import Layer, steps_of
from ._masks import Masks, make_masks
from ._modes import MODES, check_mode
from ._schedule import Plan, check_length
from ._step import KEYS, LayerState, examples_of, is_stochastic, layer_step


class Network(Struct):
    """Layers, one on the other, over time.

    A network is a pytree of its layers; which of its arrays are trained is decided by what you differentiate.

    Parameters
    ----------
    layers : sequence of Layer
        From the inputs to the outputs.

    Notes
    -----
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

    layers: Sequence[Layer] = parameter(kind=Sequence)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or not all(isinstance(layer, Layer) for layer in self.layers):
            raise TypeError(f"Network: layers must be one or more Layer objects, got {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))

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
        list of tuple
            The state of the cell and the output of each layer.
        """
        states, x = [], inputs if isinstance(inputs, jax.ShapeDtypeStruct) else real_inputs(inputs)
        for n, layer in enumerate(self.layers):
            with _layer_named(n):
                states.append(_layer.initial_state(layer, x))
            x = states[-1][1]
        return states

    def step(
        self, states: Sequence[LayerState], inputs: ArrayLike, *, key: Any = None
    ) -> tuple[list[LayerState], jax.Array]:
        """One step, for inference on a stream: the same spikes as in a call on the whole sequence.

        Parameters
        ----------
        states : list of tuple
            From :meth:`initial_state`, the step before, or a call.
        inputs : array_like
            Inputs of the step, without the time axis.
        key : array of jax.random.key, optional
            The key of the step, for :func:`stochastic` spikes: ``jax.random.fold_in(key, t)`` draws what step ``t`` of
            a call with ``key`` draws.

        Returns
        -------
        states : list of tuple
            After the step.
        out : jax.Array
            Output of the last layer.

        Raises
        ------
        ValueError
            If the states are not those of such inputs: a whole sequence given for one step, say.
        """
        x, before = real_inputs(inputs), _as_arrays(states)
        if len(before) != len(self.layers):
            raise ValueError(f"Network: states must be of {len(self.layers)} layers, got {len(before)}")
        try:
            after = self._advance(before, x, key)
        except (TypeError, ValueError):
            after = None
        if after is None or _shapes(after) != _shapes(before):
            if _shapes(before) != (fitting := _shapes(self.initial_state(x))):
                raise ValueError(
                    f"Network: step takes the inputs of one step, got {x.shape}, which fit states {fitting}, "
                    f"not {_shapes(before)}; a sequence is given to the network itself"
                )
            after = self._advance(before, x, key)  # whatever it raised
        return after, after[-1][1]

    def _advance(self, before: list[LayerState], x: jax.Array, key: Any) -> list[LayerState]:
        after, examples = [], examples_of(x)
        key = None if key is None else checked_key(key)
        for n, (layer, state) in enumerate(zip(self.layers, before, strict=True)):
            state, x, _ = layer_step(steps_of(layer, n, key, examples), state, x, Masks())
            after.append(state)
        return after

    def __call__(
        self,
        inputs: ArrayLike,
        states: Sequence[LayerState] | None = None,
        *,
        key: Any = None,
        mode: str = "exact",
        segment: int | None = None,
        chunk: int | None = None,
        mask: ArrayLike | None = None,
        truncate: int | None = None,
        all_layers: bool = False,
        pre_spike: bool | Sequence[int] = False,
        unroll: int | None = None,
    ) -> Any:
        """Run a sequence.

        Parameters
        ----------
        inputs : array_like
            Time first, then the examples: ``(steps, batch, inputs)`` for matrices. Booleans and integers serve as
            well, and take less memory: they are cast step by step.
        states : list of tuple, optional
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
            Whether to return the outputs of every layer and not those of the last one alone.
        pre_spike : bool or sequence of int, default False
            The layers, counted from 0 or from -1 backwards, whose pre-spike states are returned as well; True: all.
        unroll : int, optional
            Steps that one turn of a compiled loop makes. By default what is best on the platform, see the notes.

        Returns
        -------
        states : list of tuple
            After the last step.
        outputs : jax.Array or tuple of jax.Array
            Those of every step, ``(steps, batch, neurons)``, of the last layer or of each.
        pre_spike : tuple
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
        inputs = real_inputs(inputs)
        key = None if key is None else checked_key(key)
        mask = None if mask is None else jnp.asarray(mask)
        states = None if states is None else _as_arrays(states)
        check_shapes(inputs, mask)
        steps = len(inputs)
        check_mode("Network", mode)
        how = MODES[mode]
        check_length("truncate", truncate, steps)
        depth = len(self.layers)
        shown = _chosen(pre_spike, depth)
        plan = Plan(
            mode=mode,
            storage=how.storage,
            recompute=how.recompute,
            chunk=chunk,
            segment=segment,
            truncate=truncate,
            outputs=(*[all_layers] * (depth - 1), True),
            pre_spike=tuple(n in shown for n in range(depth)),
            unroll=_checked_unroll(unroll),
        )
        if how.engine.cuts:
            plan.parts(steps)  # or an error
        elif chunk is not None or segment is not None:
            raise ValueError(f"Network: mode {mode!r} has no chunk and no segment, got {chunk} and {segment}")
        try:
            if is_pure_network(self):
                # marked outside the compiled function, which then stores these arrays and no copies of them
                network, inputs, states = _marked(plan, (self, inputs, states))
                ends, of_steps = _run_compiled(network, plan, inputs, states, mask, key)
            else:
                ends, of_steps = _run(self, plan, inputs, states, mask, key, mark=functools.partial(_marked, plan))
        except TypeError as error:
            if how.engine.cuts and is_forward_mode_error(error):
                raise TypeError(_no_forward_mode(mode)) from error
            raise
        outputs = tuple(out for out, _ in of_steps) if all_layers else of_steps[-1][0]
        return (ends, outputs, tuple(of_steps[n][1] for n in shown)) if shown else (ends, outputs)


@contextlib.contextmanager
def _layer_named(n: int) -> Iterator[None]:
    """Name the layer in the message of an error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) in (TypeError, ValueError) and len(error.args) == 1:
            error.args = (f"Network: layer {n}: {error}",)
        raise


def _run(
    network: Network,
    plan: Plan,
    inputs: jax.Array,
    states: Any,
    mask: jax.Array | None,
    key: Any,
    mark: Callable[[Any], Any] = lambda arrays: arrays,
):
    """States after the last step; of each layer outputs and pre-spike states over time, or None."""
    layers, inputs, states, mask, key = match_varying_axes((network.layers, inputs, states, mask, key))
    at_rest = match_varying_axes(Network(layers).initial_state(inputs[0]), like=inputs)
    states = at_rest if states is None else _checked_states(states, at_rest)
    masks = match_varying_axes(make_masks(len(inputs), mask, plan.truncate), like=inputs)
    return MODES[plan.mode].engine.run(layers, inputs, states, masks, key, plan, mark)


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
        is_pure(layer.cell)
        and all(
            w is None or isinstance(w, (jax.Array, np.ndarray, float, int))
            for w in (layer.weight, layer.recurrent, layer.bias)
        )
        for layer in network.layers
    )


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


def check_shapes(inputs: jax.Array, mask: jax.Array | None) -> None:
    shape = inputs.shape
    if inputs.ndim and not isinstance(shape[0], int):
        raise TypeError(
            f"Network: the number of steps must be known when JAX traces, got {shape[0]} in inputs of shape {shape}; "
            "the number of examples may be left open"
        )
    if inputs.ndim < 2 or not shape[0]:
        raise ValueError(f"Network: inputs must be of shape (steps, ..., inputs), got {shape}")
    if mask is None:
        return
    if mask.dtype != bool or mask.ndim not in (1, min(2, inputs.ndim - 1)) or mask.shape != shape[: mask.ndim]:
        wanted = f"(steps,), here {shape[:1]}" if inputs.ndim < 3 else f"(steps,) or (steps, batch), here {shape[:2]}"
        raise ValueError(f"Network: mask must be of bool and of shape {wanted}, got {mask.dtype}{list(mask.shape)}")


def _checked_states(given: list[LayerState], at_rest: list[LayerState]) -> list[LayerState]:
    """The states, or an error if they are not those of the network."""
    if jax.tree.structure(given) != jax.tree.structure(at_rest) or _shapes(given) != _shapes(at_rest):
        raise ValueError(f"Network: states must be {_shapes(at_rest)}, got {_shapes(given)}")
    return jax.tree.map(shard_as, given, at_rest)


def _as_arrays(states: Sequence[LayerState]) -> list[LayerState]:
    if not isinstance(states, Sequence):
        raise TypeError(f"Network: states must be a sequence, one entry a layer, got {brief(states)}")
    return jax.tree.map(jnp.asarray, list(states))


def _shapes(states: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", states)


def _chosen(layers: bool | Sequence[int], depth: int) -> tuple[int, ...]:
    """The numbers of the layers that are meant, from 0 on."""
    if isinstance(layers, bool):
        return tuple(range(depth)) if layers else ()
    if not isinstance(layers, Sequence):
        raise TypeError(f"Network: pre_spike must be a bool or a sequence of layers, got {layers!r}")
    for n in layers:
        if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or not -depth <= n < depth:
            raise ValueError(f"Network: pre_spike must name layers from {-depth} to {depth - 1}, got {n!r}")
    return tuple(int(n) % depth for n in layers)


def _checked_unroll(unroll: int | None) -> int:
    if unroll is None:
        return 1 if jax.default_backend() == "cpu" else 4
    check_length("unroll", unroll, None)
    return int(unroll)
