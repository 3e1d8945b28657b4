"""From a ReLU network to a spiking network.

A neuron without a leak fires about ``steps * a / threshold`` times for a constant current ``a``. So
the spikes of a layer, times its threshold, are its activations: each reader multiplies by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import brief
from .._pytree import PyTree, as_static, is_array, merge, split
from .._struct import Struct, parameter, wiring
from .._surrogate import Surrogate
from ..network import (
    Delayed,
    Edge,
    Join,
    Layer,
    Network,
    Window,
    matrix_of,
    named_inputs,
)
from ..neurons import LIF, LeakyReadout, Relu
from ..reports import NotLinearError, check_linear
from ..surrogates import Sigmoid, stretched

BINS = 4096
"""Bins of a layer's activations. A threshold is then exact to about 1/4096 of the largest one."""
CANDIDATES = 200
"""Thresholds to compare, evenly up to the largest activation. The error is flat at its minimum."""


def to_spiking(
    network: Network,
    inputs: PyTree,
    steps: int,
    *,
    percentile: float | None = None,
    surrogate: Surrogate = Sigmoid(),  # noqa: B008  (nothing changes it)
) -> Network:
    r"""Convert a trained ReLU network to a spiking network with nearly equal outputs.

    Pass the same inputs to the spiking network in each of ``steps`` time steps. The number of
    spikes of a neuron then represents the output of the ReLU neuron.

    Each :class:`~spikegrad.neurons.Relu` layer becomes a layer of :class:`~spikegrad.LIF` neurons
    with ``decay=1`` and ``reset="subtract"``. Layer :math:`l` has the threshold :math:`\theta_l`.
    For :math:`T` time steps, its current in a time step is

    .. math:: I_t = W\, (\theta_{l-1}\, s_t) + b + \frac{\theta_l}{2T}

    Here :math:`W` and :math:`b` are weight and bias of the ReLU network, and :math:`s_t` are the
    spikes of the previous layer. For a constant current :math:`a`, the last term makes the number
    of spikes the rounded :math:`T a / \theta_l`, instead of the number rounded down. After the
    first layer, currents are not constant, so the mean number of spikes differs. ``to_spiking``
    measures this difference for ``inputs`` and corrects the biases, from the first layer to the
    last.

    Parameters
    ----------
    network : Network
        The trained network. Its cells are :class:`~spikegrad.neurons.Relu`, and
        ``LeakyReadout(0.0)`` for linear layers such as the last one. Weights and joins must be
        linear: matrices, convolutions, average pooling, sums of layers, and batch normalization
        with running statistics.
    inputs : array_like or dict
        Inputs of ``network``, ``(steps, batch, ...)``, to measure its activations: for example a
        batch of training data with one time step.
    steps : int
        The number :math:`T` of time steps for which the spiking network will run, at least 1. More
        time steps give outputs closer to the ReLU network.
    percentile : float, optional
        The threshold of a layer is this percentile of its activations, such as 99.9 in Rueckauer et
        al. 2017. By default, it is the threshold for which the activations, rounded to ``steps``
        spikes, have the smallest squared error.
    surrogate : Surrogate, default Sigmoid()
        The surrogate of the spiking network, for further training. Its argument is divided by the
        threshold of its layer.

    Returns
    -------
    Network
        The spiking network. Call it with the inputs of ``network`` repeated for ``steps`` time
        steps. The mean of its outputs over the time steps represents the outputs of ``network``. If
        the last layer is a ``Relu`` layer, multiply this mean by the threshold of its cell.

    Raises
    ------
    TypeError
        For other cells, recurrent or delayed weights, joins with ``over_time=True``, and functions
        that are not linear, such as max pooling.
    ValueError
        If ``steps`` is below 1, or if all activations of a layer are 0.

    Notes
    -----
    A matrix of the result is multiplied by the threshold of its source. A function as weight gets
    its inputs multiplied by this threshold. You can train weights and biases further. A bias that
    is added to several places, such as one for each channel, is corrected by the mean difference. A
    layer without a bias gets a bias of one number for all neurons.

    References
    ----------
    Diehl et al. 2015, "Fast-classifying, high-accuracy spiking deep networks through weight and
    threshold balancing", IJCNN. Rueckauer et al. 2017, "Conversion of continuous-valued deep
    networks to efficient event-driven networks for image classification", Frontiers in Neuroscience
    11:682. Deng, Gu 2021, "Optimal conversion of conventional artificial neural networks to spiking
    neural networks", ICLR: half a threshold. Li et al. 2021, "A free lunch from ANN: Towards
    efficient, accurate spiking neural networks calibration", ICML: the correction of biases.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Layer, LeakyReadout, Network
    >>> from spikegrad.conversion import to_spiking
    >>> from spikegrad.neurons import Relu
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> network = Network([
    ...     Layer(jax.random.normal(keys[0], (20, 50)), Relu()),
    ...     Layer(jax.random.normal(keys[1], (50, 3)), LeakyReadout(0.0)),
    ... ])
    >>> images = jax.random.uniform(keys[2], (1, 100, 20))  # one step, examples
    >>> spiking = to_spiking(network, images, 8)
    >>> _, expected = network(images)
    >>> _, outputs = spiking(jnp.broadcast_to(images, (8, 100, 20)))
    >>> error = outputs.mean(0) - expected[0]
    >>> print(f"{error.std() / expected.std():.1%}")
    14.3%
    """
    if steps < 1:
        raise ValueError(f"to_spiking: steps must be >= 1, got {steps}")
    # All cells and delays are checked before the network runs.
    for name, node in network.layers.items():
        _check_node(f"to_spiking: {name!r}", node)
    # Examples of all steps as one step, because each step of a ReLU network stands for itself.
    x = {
        name: value.reshape(1, -1, *value.shape[2:])
        for name, value in named_inputs(network.inputs, inputs).items()
    }
    # (1, examples, ...) of the ReLU network, by node.
    values = _outputs(network, x)
    thresholds = {
        name: _threshold(f"to_spiking: layer {name!r}", values[name], steps, percentile)
        for name, node in network.layers.items()
        if _is_rectified(node)
    }
    # The number that a spike of a source stands for. Inputs and linear layers stand for themselves.
    units = dict.fromkeys(values, 1.0) | thresholds
    nodes = {}
    for name, node in network.layers.items():
        owner = f"to_spiking: {name!r}"
        node = _in_units(owner, node, network.graph.edges[name], values, units)
        if name in thresholds:
            node = _with_spikes(node, thresholds[name], steps, surrogate)
        nodes[name] = node
    spiking = dataclasses.replace(network, layers=nodes)
    # A constant input: each step of the spiking network gets the image again.
    over_time = {
        name: jnp.broadcast_to(value, (steps, *value.shape[1:]))
        for name, value in x.items()
    }
    # The layers change in their biases alone, so all runs share one compiled program.
    _, functions = split(spiking, is_array)
    run = jax.jit(lambda arrays, x: _outputs(merge(arrays, functions), x))
    for name, threshold in thresholds.items():
        # One layer after the other: a layer reads corrected spikes.
        arrays, _ = split(spiking, is_array)
        spikes = run(arrays, over_time)[name]
        # Not the error of rounding itself, which a bias would only move to other examples.
        rounded = _rounded(values[name].mean(0), threshold, steps)
        error = rounded - threshold * spikes.mean(0)
        spiking = _with_bias(spiking, name, error)
    return spiking


class ScaledInputs(Struct, pure=True):
    """A function of inputs that are multiplied by a number each."""

    function: Callable = parameter(kind=object)
    factors: tuple[float, ...] = wiring()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "function", as_static(self.function))

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        factors = zip(inputs, self.factors, strict=True)
        return self.function(*(x * factor for x, factor in factors))


def _is_rectified(node: Layer | Join) -> bool:
    return isinstance(node, Layer) and type(node.cell) is Relu


def _check_node(owner: str, node: Layer | Join) -> None:
    """Raise for a node that has no spiking counterpart. Functions are checked later."""
    if isinstance(node, Join):
        if node.over_time:
            raise TypeError(
                f"{owner} must not be a join over time. Use running statistics, or "
                "fold_normalization"
            )
        return
    cell = node.cell
    is_linear = type(cell) is LeakyReadout and not np.any(np.asarray(cell.decay))
    if not (is_linear or _is_rectified(node)):
        raise TypeError(
            f"{owner} must have Relu or LeakyReadout(0.0) cells, got {brief(cell)}"
        )
    is_delayed = any(isinstance(w, (Delayed, Window)) for w in node.weights.values())
    if is_delayed or node.recurrent is not None:
        raise TypeError(
            f"{owner} must read outputs of the same step, not recurrent or delayed ones"
        )


def _outputs(network: Network, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the inputs and the outputs of all nodes, ``(steps, batch, ...)``."""
    named = dataclasses.replace(network, inputs=network.graph.inputs)
    _, activity = named.observe(x, parts="output")
    return x | {name: node.output for name, node in activity.items()}


def _with_bias(network: Network, name: str, error: jax.Array) -> Network:
    """Return the network with the mean of ``error``, ``(batch, ...)``, added to a bias."""
    layer = network.layers[name]
    bias = jnp.asarray(layer.bias)
    # The bias of a channel gets the mean over all examples and places.
    # (1, ..., channels, 1, 1): axes of length 1 are those that the bias repeats over.
    shape = (1,) * (error.ndim - bias.ndim) + bias.shape
    axes = tuple(n for n, size in enumerate(shape) if size == 1)
    mean = error.mean(axes, keepdims=True)
    layer = dataclasses.replace(layer, bias=bias + mean.reshape(bias.shape))
    return dataclasses.replace(network, layers=network.layers | {name: layer})


def _threshold(
    owner: str, activations: jax.Array, steps: int, percentile: float | None
) -> float:
    """Return the threshold of a layer: the activation that ``steps`` spikes stand for."""
    values = np.asarray(activations, np.float64)
    largest = float(values.max())
    share = 100 if percentile is None else percentile
    activation = float(np.percentile(values, share))
    # NaN activations fail both comparisons.
    if not 0 < activation < np.inf:
        raise ValueError(
            f"{owner} must have finite activations above 0 at percentile {share}. Pass other "
            "inputs or a higher percentile"
        )
    if percentile is not None:
        return activation
    # A histogram, because each candidate passes all values. Zeros are exact for every threshold.
    positive = values[values > 0]
    counts, edges = np.histogram(positive, BINS, (0, largest))
    centers = (edges[1:] + edges[:-1]) / 2
    candidates = largest * np.arange(1, CANDIDATES + 1) / CANDIDATES
    rounded = _rounded(centers, candidates[:, None], steps)  # (candidates, bins)
    errors = (rounded - centers) ** 2 @ counts
    return float(candidates[errors.argmin()])


def _rounded(activations: Any, threshold: Any, steps: int) -> Any:
    """Return the activations that whole numbers of spikes stand for."""
    # One spike in all steps is this activation, and a spike in each step is the threshold.
    unit = threshold / steps
    return unit * (activations / unit).round().clip(0, steps)


def _in_units(
    owner: str,
    node: Any,
    edges: Sequence[Edge],
    values: Mapping[str, jax.Array],
    units: Mapping[str, float],
) -> Any:
    """Return a node that reads outputs in units of their sources."""
    sources = [edge.source for edge in edges]
    examples = {
        name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in values.items()
    }

    def function_of(function: Callable, *sources: str) -> Callable:
        try:
            check_linear(function, *(examples[source] for source in sources))
        except NotLinearError as error:
            raise TypeError(
                f"{owner} must be linear except for its cells: {error}"
            ) from None
        factors = tuple(units[source] for source in sources)
        if {*factors} == {1.0}:
            return function
        return ScaledInputs(function, factors)

    def weight_of(weight: Any, source: str) -> Any:
        matrix = matrix_of(weight)
        if matrix is None:
            return function_of(weight, source)
        # A spike of the source is 1, and stands for its threshold.
        return jnp.asarray(matrix) * units[source]

    if isinstance(node, Join):
        return dataclasses.replace(node, function=function_of(node.function, *sources))
    if isinstance(node.weight, Mapping):
        weight = {source: weight_of(node.weight[source], source) for source in sources}
    else:
        weight = weight_of(node.weight, sources[0])
    return dataclasses.replace(node, weight=weight)


def _with_spikes(
    layer: Layer, threshold: float, steps: int, surrogate: Surrogate
) -> Layer:
    """Return a layer with neurons that fire instead of rectified units."""
    bias = 0.0 if layer.bias is None else jnp.asarray(layer.bias)
    bias = bias + threshold / (2 * steps)  # half a threshold, spread over the steps
    # Slope and width in units of the threshold: a spike stands for this many units of the current.
    curve = (1 / threshold) * stretched(surrogate, threshold)
    cell = LIF(1.0, threshold, curve)
    return dataclasses.replace(layer, cell=cell, bias=jnp.asarray(bias))
