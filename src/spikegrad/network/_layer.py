"""Layers: neurons and the weights of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from .._pytree import as_static
from .._struct import Real, Struct, parameter, wiring
from ..neurons import Cell
from .graph._connections import (
    Delayed,
    Edge,
    Name,
    Weight,
    Window,
    check_real,
    check_weight,
    edges_of,
    matrix_of,
    product,
)
from .graph._graph import INPUT, make_graph
from .start._draw_weights import draw_layers
from .start._initial import Initializer
from .step._arguments import named_inputs
from .step._currents import plus_bias


class Layer(Struct):
    r"""Neurons and the weights of their inputs.

    The current of a step is :math:`I_t = W x_t + R s_{t-1} + b`. Here :math:`x` is the input, or
    the output of the layer below, and :math:`s` is the layer's own output. With several sources the
    current is the sum over all of them.

    Parameters
    ----------
    weight : array, callable, Delayed, Window, mapping or None
        :math:`W`, a matrix ``(inputs, neurons)``, or any function of the inputs of one step that
        JAX can trace: a convolution, a lambda, a module of Equinox, Flax NNX or brainstate. Arrays
        that the function closes over get gradients. A cell with receptors takes an array ``(inputs,
        neurons, receptors)``. :class:`Delayed` and :class:`Window` read outputs of earlier steps. A
        mapping has a weight for each source. None: the output of the source is the current, for
        example after a :class:`Join` that adds currents.
    cell : Cell
        The neurons.
    recurrent : array, callable, Delayed or Window, optional
        :math:`R`, a matrix ``(neurons, neurons)``, or a function of the layer's outputs. None: not
        recurrent.
    bias : array, optional
        :math:`b`, which broadcasts to the current.
    of : str, optional
        The name of the source, in a network with named layers. By default the previous entry, or
        the inputs.

    Raises
    ------
    TypeError, ValueError
        If ``cell`` is not a :class:`Cell`, or if a weight is neither a matrix nor callable.

    Notes
    -----
    Inputs are cast to the dtype of a float matrix. A matrix of integers or bools, such as a
    connection mask, is cast to the dtype of the inputs. If :math:`W x` and :math:`R s` differ in
    dtype, the current has the wider one. For other layers, pass a function as weight, or define a
    custom cell.

    A function takes all examples of a step and has no side effects. It closes over its dropout key
    or running statistics, and you change these outside of the network. A function that is no pytree
    is part of the structure of the tree, like a Python number. ``jax.jit`` compiles again for
    another function.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer
    >>> dense = Layer(jnp.ones((3, 2)), LIF(0.95), recurrent=jnp.zeros((2, 2)))
    >>> kernel = jnp.ones((4, 1, 3, 3))
    >>> convolutional = Layer(
    ...     lambda x: jax.lax.conv(x, kernel, (1, 1), "SAME"), LIF(0.95)
    ... )
    """

    weight: Weight = parameter(kind=object)
    cell: Cell = parameter(kind=Cell)
    recurrent: Weight = parameter(default=None, kind=object)
    bias: ArrayLike | None = parameter(default=None, kind=object)
    of: str | None = wiring(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = self.weight
        if isinstance(weight, Mapping):
            # JAX sorts the keys of a dict when it rebuilds one, so the names are sorted here too.
            weight = {name: _as_weight(weight[name]) for name in sorted(weight)}
        else:
            weight = _as_weight(weight)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "recurrent", as_static(self.recurrent))
        for label, weight in self.weights.items():
            if not isinstance(weight, (Delayed, Window)):
                check_weight("Layer", label, weight)
        if isinstance(self.bias, (bool, np.bool_)):
            raise TypeError(
                f"Layer: bias must be an array or None, got {self.bias}; Layer.init(..., "
                "bias=True) creates one"
            )
        bias = matrix_of(self.bias)
        if bias is not None:
            check_real("Layer", "bias", bias)

    @property
    def weights(self) -> dict[str, Weight]:
        """All weights except the bias:

        ``weight``, or ``weight['a']`` for each source, and ``recurrent``.
        """
        weights = {"weight": self.weight}
        if isinstance(self.weight, Mapping):
            weights = {f"weight[{name!r}]": w for name, w in self.weight.items()}
        if self.recurrent is not None:
            weights["recurrent"] = self.recurrent
        return weights

    def edges(self, name: Name, above: Name | None = None) -> tuple[Edge, ...]:
        """Return the edges of the layer with this name. ``above`` is the default source."""
        # An omitted source is the entry above, or the only inputs for the first entry.
        sources: list[Any] = [above if self.of is None else self.of]
        if isinstance(self.weight, Mapping):
            sources = [*self.weight]
        edges = []
        for (label, weight), source in zip(
            self.weights.items(), [*sources, name], strict=False
        ):
            # A layer cannot read its output of the present step, so a plain recurrent weight
            # has a delay of 1.
            if label == "recurrent" and not isinstance(weight, (Delayed, Window)):
                weight = Delayed(weight, 1)
            edges += edges_of(label, source, weight)
        return tuple(edges)

    @classmethod
    def init(
        cls,
        key: jax.Array,
        inputs: int | ArrayLike,
        neurons: int | tuple[int, int],
        cell: Cell,
        *,
        rate: float | None = None,
        mask: ArrayLike | None = None,
        mean: float = 0.0,
        std: Real | None = None,
        weight: Initializer | None = None,
        recurrent: bool | Initializer = False,
        bias: bool = False,
        dtype: DTypeLike | None = None,
    ) -> Layer:
        """Create a layer with random matrices: fluctuation-driven, or from any initializer of
        ``jax.nn.initializers``.

        Parameters
        ----------
        key : array of jax.random.key
            Key for the weights, and for the spikes of :func:`stochastic` neurons.
        inputs : int or array
            The number of inputs, or inputs to measure in the form of a :class:`Network`: ``(steps,
            examples, inputs)``.
        neurons : int, or pair of int
            The number of neurons. For a cell with receptors, the numbers of neurons and of
            receptors.
        cell : Cell
            The neurons.
        rate : float, optional
            With a number of inputs: the probability of an input spike per step, above 0, at most 1.
        mask : array of bool, optional
            The valid steps of measured inputs, in the form of a :class:`Network`.
        mean, std : float, optional
            Mean and standard deviation of the potential without spikes. For the defaults see
            :func:`~spikegrad.network.fluctuation_driven`.
        weight : callable, optional
            ``weight(key, shape, dtype)``, such as ``jax.nn.initializers.he_normal()``. It replaces
            the fluctuation-driven weights and does not need a rate.
        recurrent : bool or callable, default False
            If True, add recurrent weights, drawn like the input weights. A callable is their
            initializer, such as ``jax.nn.initializers.orthogonal()``.
        bias : bool, default False
            If True, add a bias, initially zero.
        dtype : dtype, optional
            The dtype of all weights. By default JAX's default float.

        Returns
        -------
        Layer

        Raises
        ------
        TypeError
            If ``weight`` is missing and you pass neither or both of a rate and inputs to measure.
        ValueError
            As in :func:`~spikegrad.network.fluctuation_driven`. Also if no neuron fires, because
            recurrent weights are scaled to its spikes.

        Notes
        -----
        Fluctuation-driven recurrent weights give 0.1 of the variance of the potential, and input
        weights give 0.9. The mean results only from the inputs. A number as rate is also the rate
        of the neurons. With measured inputs, the rate of the neurons is measured too, without the
        recurrent weights.

        Zenke and Vogels 2021 draw all weights evenly from -1/sqrt(n) to 1/sqrt(n), with n the
        inputs of a neuron: ``weight=jax.nn.initializers.variance_scaling(1 / 3, "fan_in",
        "uniform")``.

        Examples
        --------
        >>> import jax
        >>> from spikegrad import LIF, Layer
        >>> layer = Layer.init(
        ...     jax.random.key(0), 700, 128, LIF(0.9), rate=0.02, recurrent=True
        ... )
        >>> layer.weight.shape, layer.recurrent.shape
        ((700, 128), (128, 128))
        >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.02, (50, 8, 700))
        >>> Layer.init(jax.random.key(0), spikes, 128, LIF(0.9), bias=True).bias.shape
        (128,)
        >>> he = jax.nn.initializers.he_normal()
        >>> Layer.init(jax.random.key(0), 700, 128, LIF(0.9), weight=he).weight.shape
        (700, 128)
        """
        is_measured = np.ndim(inputs) > 0
        n: Any = np.shape(inputs)[-1] if is_measured else inputs
        layer = cls.zeros(n, neurons, cell, bool(recurrent), bias, dtype)
        # The graph of a network of this layer, because measured inputs run through it.
        graph = make_graph({"0": layer}, (INPUT,), ("0",))
        drawn = draw_layers(
            graph,
            named_inputs(INPUT, inputs) if is_measured else None,
            key,
            rate=rate,
            mask=mask,
            mean=mean,
            std=std,
            weight=weight,
            recurrent=None if isinstance(recurrent, bool) else recurrent,
        )
        return drawn["0"]

    @classmethod
    def zeros(
        cls,
        inputs: int,
        neurons: int | tuple[int, int],
        cell: Cell,
        recurrent: bool = False,
        bias: bool = False,
        dtype: DTypeLike | None = None,
    ) -> Layer:
        """Create a layer with matrices of zeros, for :func:`spikegrad.network.draw_weights`."""
        axes = tuple(np.atleast_1d(neurons).tolist())
        dtype = jnp.result_type(float) if dtype is None else dtype

        def zeros(*shape):
            # jnp.zeros compiles a program for each shape.
            return jax.device_put(np.zeros(shape, dtype))

        return cls(
            zeros(inputs, *axes),
            cell,
            # (neurons, neurons), or (neurons, neurons, receptors)
            zeros(axes[0], *axes) if recurrent else None,
            zeros(*axes) if bias else None,
        )

    def drive(self, inputs: jax.Array) -> jax.Array:
        """Return the part of the current that does not depend on the neurons: ``W x + b``."""
        return plus_bias(self, product(self.weight, inputs, "weight"))


def unchanged(x: jax.Array) -> jax.Array:
    """Return the output of a source as the current of a layer without a weight."""
    return x


def _as_weight(weight: Weight) -> Weight:
    return as_static(unchanged if weight is None else weight)
