"""Layers of neurons over time, and what the backward pass keeps of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import broadcast_checked
from .._struct import Struct, parameter
from ..neurons import Cell, State
from . import _loop, _masks, _skewed

Linear: TypeAlias = ArrayLike | Callable[[jax.Array], jax.Array]
LayerState: TypeAlias = tuple[State, jax.Array]
"""What a layer takes from one step to the next: the state of its cell, and its output."""

MODES = ("exact", "half", "8-bit", "recompute")


class Layer(Struct):
    r"""Neurons, and the weights of what comes in.

    The current of a step is :math:`I_t = W x_t + R s_{t-1} + b`, with :math:`x` the inputs, or the outputs of the layer
    below, and :math:`s` the layer's own outputs.

    Parameters
    ----------
    weight : array or callable
        :math:`W`, a matrix ``(inputs, neurons)``, or a function of the inputs of one step, such as a convolution. A
        function that has parameters must be a pytree: ``jax.tree_util.Partial(f, parameters)``, or a module of a
        framework whose modules are pytrees.
    cell : Cell
        The neurons.
    recurrent : array or callable, optional
        :math:`R`, a matrix ``(neurons, neurons)``, or a function of the layer's outputs. None: not recurrent.
    bias : array, optional
        :math:`b`, which broadcasts to the current.

    Raises
    ------
    TypeError, ValueError
        If ``cell`` is no :class:`Cell`, or a weight neither a matrix nor callable.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Layer
    >>> layer = Layer(jnp.ones((3, 2)), LIF(0.95), recurrent=jnp.zeros((2, 2)))
    """

    weight: Linear = parameter(kind=object)
    cell: Cell = parameter(kind=Cell)
    recurrent: Linear | None = parameter(default=None, kind=object)
    bias: ArrayLike | None = parameter(default=None, kind=object)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight", "recurrent"):
            value = getattr(self, name)
            if callable(value) or (name == "recurrent" and value is None):
                continue
            if getattr(value, "ndim", None) != 2:
                given = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
                raise TypeError(f"Layer: {name} must be a matrix or callable, got {given}")
        shape = getattr(self.recurrent, "shape", (0, 0))
        if not callable(self.recurrent) and shape[0] != shape[1]:
            raise ValueError(f"Layer: recurrent must be square, got a matrix of shape {shape}")

    def drive(self, inputs: jax.Array) -> jax.Array:
        """The part of the current that does not depend on the neurons: ``W x + b``."""
        current = _product(self.weight, inputs, "weight")
        if self.bias is None:
            return current
        return current + broadcast_checked(
            jnp.asarray(self.bias), current.dtype, current.shape, "Layer", "bias", "the current"
        )

    def feedback(self, out: jax.Array) -> jax.Array | float:
        """The part of the current that does: ``R s``, or 0 for a layer that is not recurrent."""
        return 0.0 if self.recurrent is None else _product(self.recurrent, out, "recurrent")

    def integrate(self, state: LayerState, inputs: jax.Array) -> State:
        """The state of the neurons before the spike of this step."""
        v, out = state
        return self.cell.integrate(v, self.drive(inputs) + self.feedback(out))


def _product(weight: Any, x: jax.Array, name: str) -> Any:
    if callable(weight):
        return weight(x)
    if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"Layer: {name} of shape {weight.shape} does not take an input of shape {x.shape}")
    # of rows in one axis: a sum over two axes, which a gradient would be, is a copy first
    rows = x.reshape(-1, x.shape[-1]).astype(weight.dtype)
    return (rows @ weight).reshape(*x.shape[:-1], weight.shape[1])


class Network(Struct):
    """Layers, one on the other, over time.

    A network is a pytree of its layers; which of its arrays are trained is decided by what you differentiate.

    Parameters
    ----------
    layers : sequence of Layer
        From the inputs to the outputs.

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

    def initial_state(self, inputs: ArrayLike | jax.ShapeDtypeStruct) -> list[LayerState]:
        """The states before the first step: neurons at rest, no spikes.

        Parameters
        ----------
        inputs : array_like or jax.ShapeDtypeStruct
            The inputs of one step, of which the shape and dtype matter.

        Returns
        -------
        list of tuple
            Of each layer, the state of its cell and its output.
        """
        states, x = [], inputs
        for layer in self.layers:
            current = jax.eval_shape(layer.drive, x)
            v = layer.cell.initial_state(current.shape, current.dtype)
            x = jax.eval_shape(lambda v, layer=layer: layer.cell.fire(v)[1], v)
            states.append((v, jnp.zeros(x.shape, x.dtype)))
        return states

    def step(self, states: Sequence[LayerState], inputs: ArrayLike) -> tuple[list[LayerState], jax.Array]:
        """One step, for inference on a stream: the same spikes as in a call on the whole sequence.

        Parameters
        ----------
        states : list of tuple
            From :meth:`initial_state`, the step before, or a call.
        inputs : array_like
            Inputs of the step, without the time axis.

        Returns
        -------
        states : list of tuple
            After the step.
        out : jax.Array
            Output of the last layer.
        """
        new, out = [], jnp.asarray(inputs)
        for layer, state in zip(self.layers, states, strict=True):
            new.append(layer.cell.fire(layer.integrate(state, out)))
            out = new[-1][1]
        return new, out

    def __call__(
        self,
        inputs: ArrayLike,
        states: Sequence[LayerState] | None = None,
        *,
        mode: str = "exact",
        segment: int | None = None,
        chunk: int | None = None,
        mask: ArrayLike | None = None,
        truncate: int | None = None,
        all_layers: bool = False,
    ) -> tuple[list[LayerState], Any]:
        """Run a sequence.

        Parameters
        ----------
        inputs : array_like
            Time first, then the examples: ``(steps, batch, inputs)`` for matrices. Booleans and integers serve as
            well, and take less memory: they are cast step by step.
        states : list of tuple, optional
            Of each layer, before the first step. By default :meth:`initial_state`. Give what a former call returned
            to go on with a sequence.
        mode : {"exact", "half", "8-bit", "recompute"}
            What the backward pass keeps of each neuron and step. ``"exact"``: its state, once. ``"half"``: its state
            in 16 bits; spikes stay exact, slopes get a relative error of up to 0.4 %. ``"8-bit"``: in 8 bits.
            ``"recompute"``: its state once in a segment of about the square root of the number of steps; the rest is
            computed again. Outputs are the same in all modes.
        segment : int, optional
            Steps of a segment. Given for another mode, it makes segments there.
        chunk : int, optional
            Steps whose products are taken at a time where they need not wait for each other, in the backward pass too.
            More is faster and takes more memory; by default about 10 in mode ``"exact"``, about 5 in the others. Best a
            divisor of the number of steps, and it must be one of ``segment``. 1 in mode ``"exact"`` is a plain scan.
        mask : array_like of bool, optional
            ``(steps, batch)`` or ``(steps,)``: False for steps that do not take place, such as those after the end of
            a shorter sequence. They leave states as they are, and their outputs are 0.
        truncate : int, optional
            Length of a window of truncated backpropagation: derivatives of states end at its start.
        all_layers : bool, default False
            Whether to return the outputs of every layer and not those of the last one alone.

        Returns
        -------
        states : list of tuple
            After the last step.
        outputs : jax.Array or tuple of jax.Array
            Of every step, ``(steps, batch, neurons)``, of the last layer or of each.

        Raises
        ------
        ValueError, TypeError
            For an unknown mode, a length that is no integer from 1 to the number of steps, a ``chunk`` that does not
            divide ``segment``, and shapes that do not fit.

        Notes
        -----
        ``mode="exact", chunk=1`` is a plain scan, differentiable in forward and reverse mode. All else has a derivative
        of its own, in reverse mode, and forward mode raises a TypeError. Both give derivatives of all orders, except
        that ``"half"`` and ``"8-bit"`` have the first alone, and raise a TypeError for others.
        """
        inputs = jnp.asarray(inputs)
        if mode not in MODES:
            raise ValueError(f"Network: mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
        if inputs.ndim < 2 or not len(inputs):
            raise ValueError(f"Network: inputs must be of shape (steps, ..., inputs), got {inputs.shape}")
        steps = len(inputs)
        for name, value in (("segment", segment), ("chunk", chunk), ("truncate", truncate)):
            _check_length(name, value, steps)
        if mask is not None:
            mask = jnp.asarray(mask)
            if mask.dtype != bool or mask.ndim not in (1, 2) or mask.shape != inputs.shape[: mask.ndim]:
                raise ValueError(
                    f"Network: mask must be of bool and of shape (steps,) or (steps, batch), here {inputs.shape[:2]}, "
                    f"got {mask.dtype}{list(mask.shape)}"
                )
        at_rest = self.initial_state(jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype))
        begin = at_rest if states is None else _checked(states, at_rest)
        collect = (all_layers,) * (len(self.layers) - 1) + (True,)
        flags = _masks.flags(steps, mask, truncate)
        layers, x, begin, flags = _masks.match_varying_axes((self.layers, inputs, begin, flags))
        if mode == "exact" and chunk == 1:
            ends, outs = _skewed.run(layers, x, begin, flags, segment, collect)
        else:
            if chunk is None:
                near = 10 if mode == "exact" else 5
                chunk = min(_divisor(steps, near), steps) if segment is None else _divisor(segment, near, least=1)
            if mode == "recompute" and segment is None:
                segment = chunk * _divisor(steps // chunk, max(1, round(math.sqrt(steps) / chunk)))
            if segment is not None and segment % chunk:
                raise ValueError(f"Network: chunk must divide segment, got {chunk} and {segment}")
            keep = "exact" if mode == "recompute" else mode
            try:
                ends, outs = _loop.run(layers, x, begin, flags, keep, chunk, segment, collect)
            except TypeError as error:
                if "forward-mode" in str(error):
                    raise TypeError("Network: for forward-mode differentiation use mode='exact', chunk=1") from error
                raise
        return ends, tuple(outs) if all_layers else outs[-1]


def _check_length(name: str, value: Any, steps: int) -> None:
    if value is None:
        return
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"Network: {name} must be an integer, got {value!r}")
    if not 1 <= value <= steps:
        raise ValueError(f"Network: {name} must be from 1 to the {steps} steps of the inputs, got {value}")


def _checked(states: Any, at_rest: Any) -> list:
    """The states, as arrays, or an error if they are not those of the network."""

    def shapes(tree):
        return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)

    states = jax.tree.map(jnp.asarray, list(states))
    if jax.tree.structure(states) != jax.tree.structure(at_rest) or shapes(states) != shapes(at_rest):
        raise ValueError(f"Network: states must be {shapes(at_rest)}, got {shapes(states)}")
    return states


def _divisor(n: int, near: int, least: int | None = None) -> int:
    """The divisor of n nearest to a number, or the number itself if none is within a factor of two (or ``least``)."""
    return min(
        (d for d in range(least or -(-near // 2), 2 * near + 1) if n % d == 0),
        key=lambda d: abs(math.log(d / near)),
        default=near,
    )
