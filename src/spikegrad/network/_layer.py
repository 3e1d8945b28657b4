"""A layer: neurons, and the weights of what comes in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief, broadcast_checked, is_float
from .._compat import shard_as, zeros_like
from .._struct import Struct, parameter
from ..neurons import Cell, check_initial
from ._initial import Initializer, draw
from ._step import CellSteps, LayerState, fire, is_stochastic, keys_of

Linear: TypeAlias = ArrayLike | Callable[[jax.Array], jax.Array]


class Layer(Struct):
    r"""Neurons, and the weights of what comes in.

    The current of a step is :math:`I_t = W x_t + R s_{t-1} + b`, with :math:`x` the inputs, or the outputs of the layer
    below, and :math:`s` the layer's own outputs.

    Parameters
    ----------
    weight : array or callable
        :math:`W`, a matrix ``(inputs, neurons)``, or any function of the inputs of one step that JAX can trace: a
        convolution, a lambda, a module of Equinox, Flax NNX or brainstate. Gradients reach what it closes over.
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

    Notes
    -----
    A matrix of floats computes in its own dtype, to which the inputs are cast. One of integers or bools, a mask of
    connections say, is cast to that of the inputs. Where :math:`W x` and :math:`R s` differ in dtype, the current has
    the wider one. A class derived from this one is refused: what else a layer shall do is a function or a cell.

    A function takes all examples of a step and has no side effects. A key for dropout and running statistics are values
    that it closes over, and are changed outside of the network.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer
    >>> dense = Layer(jnp.ones((3, 2)), LIF(0.95), recurrent=jnp.zeros((2, 2)))
    >>> kernel = jnp.ones((4, 1, 3, 3))
    >>> convolutional = Layer(lambda x: jax.lax.conv(x, kernel, (1, 1), "SAME"), LIF(0.95))
    """

    weight: Linear = parameter(kind=object)
    cell: Cell = parameter(kind=Cell)
    recurrent: Linear | None = parameter(default=None, kind=object)
    bias: ArrayLike | None = parameter(default=None, kind=object)

    def __init_subclass__(cls, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{cls.__name__}: Layer cannot be derived from; give it a function as weight, or a Cell")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight", "recurrent"):
            value = getattr(self, name)
            if name == "recurrent" and value is None:
                continue
            matrix = matrix_of(value)
            if matrix is None and not callable(value):
                raise TypeError(f"Layer: {name} must be a matrix or callable, got {value!r}")
            if matrix is not None and matrix.ndim != 2:
                raise TypeError(f"Layer: {name} must be a matrix or callable, got an array of shape {matrix.shape}")
            if matrix is not None and name == "recurrent" and matrix.shape[0] != matrix.shape[1]:
                raise ValueError(f"Layer: recurrent must be square, got a matrix of shape {matrix.shape}")

    @classmethod
    def init(
        cls,
        key: jax.Array,
        inputs: int | ArrayLike,
        neurons: int,
        cell: Cell,
        *,
        rate: float | None = None,
        mask: ArrayLike | None = None,
        mean: float = 0.0,
        std: Any = None,
        weight: Initializer | None = None,
        recurrent: bool | Initializer = False,
        bias: bool = False,
        dtype: Any = None,
    ) -> Layer:
        """A layer of matrices that are drawn: fluctuation-driven, or by any initializer of ``jax.nn.initializers``.

        Parameters
        ----------
        key : array of jax.random.key
            Draws the weights, and the spikes of neurons that are :func:`stochastic`.
        inputs : int or array
            The number of inputs, or inputs to measure, as a :class:`Network` takes them: ``(steps, examples, inputs)``.
        neurons : int
            Their number.
        cell : Cell
            The neurons.
        rate : float, optional
            With a number of inputs: the probability of a spike of an input in a step, above 0, at most 1.
        mask : array of bool, optional
            The steps of measured inputs that take place, as a :class:`Network` takes it.
        mean, std : float, optional
            Those of the potential without spikes: see :func:`fluctuation_driven`, which has the defaults.
        weight : callable, optional
            ``weight(key, shape, dtype)``, such as ``jax.nn.initializers.he_normal()``, in place of fluctuation-driven
            weights. It needs no rate.
        recurrent : bool or callable, default False
            Whether the neurons are connected with each other: True, by weights like those of the inputs, or by those of
            another initializer, ``jax.nn.initializers.orthogonal()`` say.
        bias : bool, default False
            Whether there is a bias, zeros at the start.
        dtype : dtype, optional
            The dtype of all of them; by default JAX's default float.

        Returns
        -------
        Layer

        Raises
        ------
        TypeError
            If neither a rate nor inputs to measure nor ``weight`` are given, or too many of them.
        ValueError
            As in :func:`fluctuation_driven`; and if no neuron fires, whose spikes recurrent weights go by.

        Notes
        -----
        Recurrent weights that are fluctuation-driven give 0.1 of the variance of the potential, and those of the inputs
        0.9; the mean comes of the inputs alone. The rate of the neurons is that of the inputs where it is a number;
        else it is measured as well, without the recurrent weights.

        Zenke and Vogels 2021 draw all weights evenly from -1/sqrt(n) to 1/sqrt(n), with n the inputs of a neuron:
        ``weight=jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")``.

        Examples
        --------
        >>> import jax
        >>> from spikegrad import LIF, Layer
        >>> layer = Layer.init(jax.random.key(0), 700, 128, LIF(0.9), rate=0.02, recurrent=True)
        >>> layer.weight.shape, layer.recurrent.shape
        ((700, 128), (128, 128))
        >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.02, (50, 8, 700))
        >>> Layer.init(jax.random.key(0), spikes, 128, LIF(0.9), bias=True).bias.shape
        (128,)
        >>> he = jax.nn.initializers.he_normal()
        >>> Layer.init(jax.random.key(0), 700, 128, LIF(0.9), weight=he).weight.shape
        (700, 128)
        """
        drawn = draw(
            key,
            inputs,
            neurons,
            cell,
            rate=rate,
            mask=mask,
            mean=mean,
            std=std,
            weight=weight,
            recurrent=recurrent,
            dtype=dtype,
        )
        matrix, own = drawn
        return cls(matrix, cell, own, jnp.zeros(neurons, matrix.dtype) if bias else None)

    def drive(self, inputs: jax.Array) -> jax.Array:
        """The part of the current that does not depend on the neurons: ``W x + b``."""
        return plus_bias(self, times_weight(self, inputs))

    def feedback(self, out: jax.Array) -> jax.Array:
        """The part of the current that does: ``R s``, or zeros for a layer that is not recurrent."""
        return zeros_like(out) if self.recurrent is None else _product(self.recurrent, out, "recurrent")

    def current(self, inputs: jax.Array, out: jax.Array) -> jax.Array:
        """The current of one step, of its inputs and of the outputs of the step before."""
        drive = self.drive(inputs)
        if self.recurrent is None:
            return drive
        feedback = self.feedback(out)
        if drive.shape != feedback.shape:
            raise ValueError(
                f"Layer: weight gives a current of shape {drive.shape}, recurrent one of shape {feedback.shape}"
            )
        with jax.numpy_dtype_promotion("standard"):  # asked for here, whatever a user's arithmetic shall refuse
            dtype = jnp.promote_types(drive.dtype, feedback.dtype)
        return drive.astype(dtype) + feedback.astype(dtype)


def times_weight(layer: Layer, inputs: jax.Array) -> jax.Array:
    """``W x``."""
    return _product(layer.weight, inputs, "weight")


def plus_bias(layer: Layer, current: jax.Array) -> jax.Array:
    """``W x + b``, of ``W x``."""
    if layer.bias is None:
        return current
    bias = broadcast_checked(jnp.asarray(layer.bias), current.dtype, current.shape, "Layer", "bias", "the current")
    return current + bias


def times_matrix(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """``x W`` in the dtype of the matrix. Leading axes stay apart, since devices may share one of them."""
    return jax.lax.dot_general(x.astype(matrix.dtype), matrix, (((x.ndim - 1,), (0,)), ((), ())))


def matrix_of(weight: Any) -> Any:
    """The array that a weight is, or None: a variable of a framework can be called, and is an array all the same."""
    if isinstance(weight, (jax.Array, np.ndarray)):
        return weight
    return weight.__jax_array__() if hasattr(weight, "__jax_array__") else None


def steps_of(layer: Layer, n: int, key: jax.Array | None, examples: int | None) -> CellSteps:
    """Layer ``n`` for :func:`layer_step`, evaluated as its user wrote it. It has keys if its spikes are drawn."""

    def keys(number):
        return None if key is None or not is_stochastic(layer.cell) else keys_of(key, number, n, examples)

    return CellSteps(layer.cell, layer.current, keys)


def initial_state(layer: Layer, x: Any) -> LayerState:
    """State and output before the first step, in the dtype of the current. Only the type of the inputs matters."""
    # partial makes a new function, since JAX looks up a method by a hash of all weights
    drive, whole = functools.partial(layer.drive), functools.partial(layer.current)
    current = jax.eval_shape(drive, x)
    check_examples(layer, "weight", x)
    key = jax.random.key(0) if is_stochastic(layer.cell) else None
    while True:
        v = layer.cell.initial_state(current.shape, current.dtype)
        v = jax.tree.map(lambda leaf, current=current: shard_as(jnp.asarray(leaf), current), v)
        check_initial(layer.cell, v, current, key)
        out = zeros_like(fire(layer.cell, v, key)[1])
        if layer.recurrent is not None:
            check_examples(layer, "recurrent", out)
        wider = jax.eval_shape(whole, x, out)
        if wider.dtype == current.dtype:
            return v, out
        current = wider


def check_examples(layer: Layer, name: str, x: Any) -> None:
    """Raise if a weight is a function of one example, which some shapes of a batch let pass.

    ``x`` is the input, or its shape and dtype. One more example must give one more row. A function that closes over an
    array for each example may raise instead. It is accepted, because it does not take a single example either.
    """
    weight = getattr(layer, name)
    if matrix_of(weight) is not None or len(x.shape) < 2:
        return

    def shape_of(*shape):
        try:
            return jax.eval_shape(functools.partial(weight), jax.ShapeDtypeStruct(shape, x.dtype)).shape
        except Exception:  # any function, any error
            return None

    rows, *one = x.shape
    out = shape_of(*x.shape)
    if out is None:
        return  # another check has a better message
    wrong = out[:1] != (rows,)
    if not wrong and out == x.shape and (shape_of(rows + 1, *one) or ())[:1] != (rows + 1,):
        wrong = len(shape_of(*one) or x.shape) == len(one)
    if wrong:
        raise ValueError(
            f"Layer: {name} must return a row for each of {rows} examples, got shape {out} for an input of shape "
            f"{x.shape}; for a function of one example pass jax.vmap({name})"
        )


def _product(weight: Any, x: jax.Array, name: str) -> jax.Array:
    matrix = matrix_of(weight)
    if matrix is None:
        if not isinstance(out := weight(x), jax.Array):
            raise TypeError(f"Layer: {name} must return one array, got {type(out).__name__} from {brief(weight)}")
        return out
    if x.ndim == 0 or x.shape[-1] != matrix.shape[0]:
        raise ValueError(f"Layer: {name} of shape {matrix.shape} does not take an input of shape {x.shape}")
    matrix = jnp.asarray(matrix)
    if not is_float(matrix):
        matrix = matrix.astype(x.dtype if is_float(x) else jnp.result_type(float))
    return times_matrix(x, matrix)
