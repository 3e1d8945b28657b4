"""Layers: neurons and the weights of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from .._pytree import StaticFunction, as_static
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
    r"""A layer of neurons: a cell with the weights of its inputs. A :class:`Network` runs layers
    over time.

    The input current of the neurons in time step :math:`t` is :math:`I_t = W x_t + R s_{t-1} + b`.
    Here :math:`x_t` is the output of the previous layer, or the input of the network.
    :math:`s_{t-1}` is the output of the layer itself in the previous time step. A layer may read
    several *sources* (layers, joins or inputs of the network). Its current is then the sum over all
    sources.

    Parameters
    ----------
    weight : array, callable, Delayed, Window, mapping or None
        The weight :math:`W` of the inputs, in one of these forms:

        - A matrix ``(inputs, neurons)``. For a cell with receptors, such as
          :class:`~spikegrad.neurons.MultiSynapticLIF`, an array ``(inputs, neurons, receptors)``.
        - A function of the inputs of one time step, ``(batch, ...)``, that JAX can trace: a
          convolution, a lambda, or a module of Equinox, Flax NNX or brainstate. Arrays that the
          function closes over get gradients.
        - :class:`Delayed` or :class:`Window`, which read outputs of earlier time steps.
        - A mapping from the name of each source to its weight, if the layer has several sources.
        - None: the output of the source is the current, for example after a :class:`Join` that adds
          currents.
    cell : Cell
        The neurons, such as ``LIF(0.9)``.
    recurrent : array, callable, Delayed or Window, optional
        The recurrent weight :math:`R`: a matrix ``(neurons, neurons)``, or a function of the
        outputs of the layer in the previous time step. By default the layer has no recurrent
        connections.
    bias : array, optional
        The bias :math:`b`, of shape ``(neurons,)`` or another shape that broadcasts to the current.
        By default the layer has no bias.
    of : str, optional
        The name of the source, in a network with named layers. By default the source is the
        previous entry of the network, or the input for the first entry. With several sources, pass
        a mapping as ``weight`` and leave ``of`` out.

    Raises
    ------
    TypeError, ValueError
        If ``cell`` is not a :class:`Cell`, or if a weight has none of the forms above.

    Notes
    -----
    The dtype of a matrix of floats is the dtype of the current, because inputs are cast to it. A
    matrix of integers or booleans, such as a mask of connections, is cast to the dtype of the
    inputs. If :math:`W x` and :math:`R s` have different dtypes, the current has the wider one.

    For another kind of layer, pass a function as weight, or define a custom cell.

    A function as weight gets all examples of one time step and must not have side effects. It
    closes over the key of a dropout or over running statistics. Change these outside of the
    network, and build the layer again.

    A function that is not a pytree, such as a lambda, is a constant of the network. ``jax.jit``
    compiles again for another function.

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
        """All weights except the bias, by name: ``weight`` and ``recurrent``.

        With several sources, one name for each source, such as ``weight['a']``, replaces
        ``weight``.
        """
        weights = {"weight": self.weight}
        if isinstance(self.weight, Mapping):
            weights = {f"weight[{name!r}]": w for name, w in self.weight.items()}
        if self.recurrent is not None:
            weights["recurrent"] = self.recurrent
        return weights

    def edges(self, name: Name, above: Name | None = None) -> tuple[Edge, ...]:
        """Return the connections from the sources to this layer. ``name`` is the name of the layer,
        and ``above`` its default source.
        """
        # An omitted source is the entry above, or the only inputs for the first entry.
        source: Any = above if self.of is None else self.of
        sources = [*self.weight] if isinstance(self.weight, Mapping) else [source]
        weights = self.weights
        recurrent = weights.pop("recurrent", None)
        edges = []
        for (label, weight), source in zip(weights.items(), sources, strict=True):
            edges += edges_of(label, source, weight)
        if recurrent is not None:
            # A layer cannot read its output of the present step, so a plain recurrent weight
            # has a delay of 1.
            if not isinstance(recurrent, (Delayed, Window)):
                recurrent = Delayed(recurrent, 1)
            edges += edges_of("recurrent", name, recurrent)
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
        """Create a layer with random weights, scaled such that its neurons spike before training.

        By default, :func:`spikegrad.network.fluctuation_driven` draws the weights. It needs the
        statistics of the inputs: pass a batch of them as ``inputs``, or their number together with
        ``rate``. With ``weight``, an initializer of ``jax.nn.initializers`` draws the weights
        instead.

        Parameters
        ----------
        key : array of jax.random.key
            Random key for the weights, and for the spikes of :func:`stochastic` neurons.
        inputs : int or array
            The number of inputs of the layer, or a batch of inputs to measure, ``(steps, examples,
            inputs)``.
        neurons : int, or pair of int
            The number of neurons. For a cell with receptors, the pair of the numbers of neurons and
            of receptors.
        cell : Cell
            The neurons, such as ``LIF(0.9)``.
        rate : float, optional
            The probability of an input spike per time step, above 0 and at most 1. Pass it only if
            ``inputs`` is a number.
        mask : array of bool, optional
            The valid time steps of measured inputs, ``(steps, examples)``: False for padding.
        mean, std : float, optional
            Mean and standard deviation of the potential without spikes, in the unit of the
            potential. By default, the standard deviation is the threshold minus the mean, or 1 for
            a readout.
        weight : callable, optional
            An initializer ``weight(key, shape, dtype)``, such as
            ``jax.nn.initializers.he_normal()``. It replaces the default weights, and then ``rate``
            is not needed.
        recurrent : bool or callable, default False
            If True, add recurrent weights, which are drawn like the input weights. Pass an
            initializer, such as ``jax.nn.initializers.orthogonal()``, to draw them in another way.
        bias : bool, default False
            If True, add a bias, initially zeros.
        dtype : dtype, optional
            The dtype of all weights. By default the default float of JAX, usually float32.

        Returns
        -------
        Layer

        Raises
        ------
        TypeError
            If you pass neither ``weight``, nor ``rate``, nor inputs to measure. Also if you pass
            both a rate and inputs to measure.
        ValueError
            As in :func:`~spikegrad.network.fluctuation_driven`. Also if no neuron spikes, because
            recurrent weights are scaled to the spikes of the layer.

        Notes
        -----
        By default, 90% of the variance of the potential comes from the input weights, and 10% from
        the recurrent weights. The mean comes only from the input weights. To scale the recurrent
        weights, the number ``rate`` is also taken as the spike rate of the neurons. With measured
        inputs, the spike rate of the neurons is measured too, without recurrent weights.

        Zenke and Vogels 2021 draw all weights from a uniform distribution between -1/sqrt(n) and
        1/sqrt(n), with the number n of inputs of a neuron. For this, pass
        ``weight=jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")``.

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
        graph = make_graph({"0": layer}, inputs=(INPUT,), outputs=("0",))
        initializer = None if isinstance(recurrent, bool) else recurrent
        drawn = draw_layers(
            graph,
            named_inputs(INPUT, inputs) if is_measured else None,
            key,
            rate=rate,
            mask=mask,
            mean=mean,
            std=std,
            weight=weight,
            recurrent=initializer,
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
            weight=zeros(inputs, *axes),
            cell=cell,
            # (neurons, neurons), or (neurons, neurons, receptors)
            recurrent=zeros(axes[0], *axes) if recurrent else None,
            bias=zeros(*axes) if bias else None,
        )

    def drive(self, inputs: jax.Array) -> jax.Array:
        """Return the part of the current that does not depend on the neurons: ``W x + b``, without
        recurrent weights.
        """
        return plus_bias(self, product(self.weight, inputs, "weight"))


def unchanged(x: jax.Array) -> jax.Array:
    """Return the output of a source as the current of a layer without a weight."""
    return x


def is_unchanged(weight: Weight) -> bool:
    """Return True if a layer was made without a weight."""
    return isinstance(weight, StaticFunction) and weight.function is unchanged


def _as_weight(weight: Weight) -> Weight:
    return as_static(unchanged if weight is None else weight)
