"""From a network of real numbers to one of integers."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._spike_types import Strict
from .._surrogate import spike_types
from .._table import aligned
from .._weights import Factor, MaxPooling, Shape, SumPooling
from ..network import Delayed, Edge, Join, Layer, Network, Window
from ..neurons import (
    LIF,
    AdaptiveLIF,
    LeakyReadout,
    Refractory,
    SynapticAdaptiveLIF,
    SynapticLIF,
)
from ._arithmetic import LARGEST, like
from ._cells import FixedLIF, IntegerCell, Loihi, WeightFormat, Xylo
from ._fixed import Fixed, best_scales, checked_bits
from ._functions import (
    WEIGHTED,
    Channels,
    IntegerFunction,
    Reading,
    channels_of,
    read,
    without_repeats,
)
from ._replay import integer_layers, largest_sums, whole_inputs

TARGETS: dict[str, IntegerCell] = {
    "fixed": FixedLIF(0, 1),
    "loihi": Loihi(0, 0, 0),
    "xylo": Xylo(1, 1, 1),
}
"""A cell for each target. Its formats stay, and its decays and threshold are replaced."""
FIRING = LIF, SynapticLIF, AdaptiveLIF, SynapticAdaptiveLIF
"""The cells with spikes, also with a refractory period."""
ROUNDING = 0.99
"""The room for weights that are rounded up, where a scale must keep a sum in 24 bits."""


class QuantizedLayer(NamedTuple):
    """The effects of the quantization on a layer."""

    name: str
    scale: float
    """The integer of a weight that stands for 1. The mean of all channels."""
    zeros: float
    """Share of the weights that became 0."""
    clipped: int
    """Number of weights beyond the largest integer."""
    error: float
    """Root of the mean square of the rounding errors, over that of the weights."""
    tau: tuple[float, ...]
    """Time constant of the potential in steps, before and after."""
    synaptic_tau: tuple[float, ...]
    """Time constant of the current in steps, before and after. 0 without a synapse."""
    adaptation_tau: tuple[float, ...]
    """Time constant of the adaptation in steps, before and after. 0 without an adaptation."""
    threshold: tuple[float, ...] | None
    """Mean threshold, before and after. None for a readout."""
    peak: float
    """The largest potential or current on the inputs, as a share of its width."""
    rate: tuple[float, float] | None
    """Spikes per neuron and valid step, before and after. None for a readout."""


class QuantizationReport(NamedTuple):
    """The report of :func:`quantize`. Printed, it is a table."""

    layers: tuple[QuantizedLayer, ...]

    def __str__(self) -> str:
        rows = [[name.replace("_", " ") for name in QuantizedLayer._fields]]
        rows += [[*map(_text, layer)] for layer in self.layers]
        return "\n".join(aligned(rows))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " > ".join(map(_text, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def quantize(
    network: Network,
    target: str | IntegerCell,
    inputs: Any,
    *,
    bits: int = 8,
    per_channel: bool = False,
    powers_of_two: bool = False,
    mask: ArrayLike | None = None,
) -> tuple[Network, QuantizationReport]:
    """Convert a network of real numbers to the integers of a target.

    All weights, the bias and the threshold of a layer share one scale, or those of an output
    channel do. It has the least squared error of the weights, among the scales that keep the states
    on ``inputs`` within their width, and all sums of products of such inputs within the 24 bits of
    float32. The network that results is trained like any other. Its weights stay real numbers that
    are rounded in each call, and their scales do not move.

    Parameters
    ----------
    network : Network
        Layers of :class:`~spikegrad.LIF` or :class:`~spikegrad.SynapticLIF`, and
        :class:`~spikegrad.LeakyReadout`. ``"fixed"`` also has :class:`~spikegrad.AdaptiveLIF`,
        :class:`~spikegrad.neurons.SynapticAdaptiveLIF` and
        :class:`~spikegrad.neurons.Refractory`. A weight is a matrix, also
        :class:`~spikegrad.Delayed` or :class:`~spikegrad.Window`, or a function with one product or
        convolution, sums and averages of windows, changes of shape and biases. ``"fixed"`` also has
        joins of these without weights.
    target : {"fixed", "loihi", "xylo"} or IntegerCell
        A cell sets formats, such as ``FixedLIF(0, 1, bits=12, fraction=8)`` for states of 12 bits
        and decay factors of 8. Its decays and thresholds are replaced.
    inputs : array or dict
        Integers to measure states, in the form of a call: spikes or counts.
    bits : int, default 8
        The bits of a weight with its sign, from 2 to 8 on chips and to 16 in fixed-point numbers.
    per_channel : bool, default False
        If True, each neuron of a matrix and each output channel of a convolution has its own scale,
        and its own threshold. Errors of 2 and 3 bits become smaller.
    powers_of_two : bool, default False
        If True, all scales are powers of two.
    mask : array of bool, optional
        The valid steps, as in a call. Other steps do not count.

    Returns
    -------
    network : Network
        The network of integers, with the names and weights of ``network``.
    report : QuantizationReport
        Scales, rounding errors, time constants, peaks of states and rates, before and after.

    Raises
    ------
    TypeError
        For other functions and joins, and for cells without a counterpart on the target.
    ValueError
        For resets and sizes that the target lacks, and for inputs that are not integers.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, LeakyReadout, Network
    >>> from spikegrad.integers import quantize, replay
    >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.1, (50, 8, 20))
    >>> spikes = spikes.astype(float)
    >>> cell = LIF(0.9, reset="value")
    >>> network = Network.init(
    ...     jax.random.key(0), 20, (30, 3), cell, LeakyReadout(0.9), rate=0.1
    ... )
    >>> integers, report = quantize(network, "loihi", spikes)
    >>> bool((integers(spikes)[1] == replay(integers, spikes)[1]).all())
    True
    """
    cell: Any = TARGETS.get(target, target)  # type: ignore[arg-type]
    if not isinstance(cell, IntegerCell):
        raise ValueError(
            f"quantize: target must be one of {', '.join(TARGETS)}, got {target!r}"
        )
    bits = checked_bits("quantize", bits, cell.weight_bits)
    for sequence in jax.tree.leaves(inputs):
        whole_inputs("quantize", sequence, mask)
    # All layers are checked before the network runs.
    owner = f"quantize: layer %r on {type(cell).__name__}"
    options = {
        name: _options(owner % name, x, cell)
        for name, x in network.graph.layers.items()
    }
    # A convolution of the user may not take integers.
    inputs = jax.tree.map(lambda x: jnp.asarray(x, float), inputs)
    # A state is largest before its spike.
    _, real = network.observe(inputs, parts=("output", "pre_spike"), mask=mask)
    by_name = {network.inputs: inputs} if isinstance(network.inputs, str) else inputs
    shapes = {name: np.shape(x)[2:] for name, x in by_name.items()}
    sizes = (
        sum(math.prod(shape) for shape in shapes.values()),
        sum(
            math.prod(real[x].output.shape[2:])
            for x in network.layers
            if x not in network.graph.outputs
        ),
    )
    if np.greater(sizes, cell.sizes).any():
        raise ValueError(
            f"quantize: {type(cell).__name__} has %s inputs and %s hidden neurons, the network "
            "has %s and %s" % (*cell.sizes, *sizes)
        )
    if cell.is_synaptic:  # its outputs fire once a step
        options |= {name: options[name] | {"n": 1} for name in network.graph.outputs}
    shapes |= {name: real[name].output.shape[2:] for name in network.layers}
    nodes = _with_operations(network, cell, shapes)
    choice = _Choice(bits, per_channel, powers_of_two)

    def quantized(name: str, most: Any = np.inf) -> Layer:
        cell_with_options = cell._replaced(**options[name])
        return _quantized(
            nodes[name], cell_with_options, choice, real[name].pre_spike, most
        )

    layers: dict[str, Any] = {
        name: node if isinstance(node, Join) else quantized(name)
        for name, node in nodes.items()
    }
    result = dataclasses.replace(network, layers=layers)
    # Where sums of products may need more bits than float32 has, the scale becomes smaller.
    valid_inputs = {
        name: whole_inputs("quantize", x, mask) for name, x in by_name.items()
    }
    sums = largest_sums(integer_layers("quantize", result), valid_inputs)
    for name in network.graph.layers:
        if sums[name] > LARGEST:
            scale = np.asarray(layers[name].cell.unit) / cell.state_scale
            layers[name] = quantized(name, scale * (ROUNDING * LARGEST / sums[name]))
    result = dataclasses.replace(network, layers=layers)
    _, integer = result.observe(inputs, parts=("output", "pre_spike"), mask=mask)
    # The outputs of masked steps are 0.
    valid = 1.0 if mask is None else float(np.mean(mask))
    rows = tuple(
        _row(name, nodes[name], layers[name], real[name], integer[name], valid)
        for name in network.graph.layers
    )
    return result, QuantizationReport(rows)


def _options(owner: str, layer: Any, target: IntegerCell) -> dict[str, Any]:
    """Return the parameters that stay, or raise for a property that the target lacks."""
    for weight in layer.weights.values():
        if target.is_synaptic and _function_of(weight) is not None:
            raise TypeError(
                f"{owner}: a weight is a function; only matrices have integers"
            )
        if target.is_synaptic and isinstance(weight, (Delayed, Window)):
            raise ValueError(
                f"{owner}: it has no delays, got a {type(weight).__name__} as weight"
            )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(layer.weights)):
        raise ValueError(f"{owner}: a weight is NaN or infinite")
    steps, cell = _without_rest(layer.cell)
    if type(cell) not in (*FIRING, LeakyReadout):
        names = ", ".join(kind.__name__ for kind in FIRING)
        raise TypeError(
            f"{owner}: a {type(cell).__name__} has no counterpart; use {names}, Refractory or "
            "LeakyReadout"
        )
    is_adaptive = isinstance(cell, AdaptiveLIF)
    if (steps or is_adaptive) and not isinstance(target, FixedLIF):
        lacks = "refractory period" if steps else "adaptation"
        raise ValueError(
            f"{owner}: it has no {lacks}; use LIF, SynapticLIF or the target 'fixed'"
        )
    if target.is_synaptic and not isinstance(cell, SynapticLIF):
        raise ValueError(
            f"{owner}: each neuron has a synapse and fires, also as readout: use SynapticLIF"
        )
    if isinstance(cell, LeakyReadout):
        return {}
    surrogate: Any = cell.surrogate
    kinds = spike_types(surrogate)
    # An integer cell counts its spikes itself, and has one rule at the threshold.
    if (kinds and isinstance(kinds[0], Strict)) or (
        target.is_synaptic and [kind.multiple for kind in kinds] == [True]
    ):
        surrogate = surrogate.surrogate
    is_late = cell.delay_reset and cell.reset != "none"
    reset = f"late_{cell.reset}" if is_late else cell.reset
    for refused, problem in (
        (
            np.any(jnp.asarray(cell.threshold) <= 0),
            f"needs a threshold above 0, not {np.min(cell.threshold):g}",
        ),
        (
            cell.reset not in target.resets,
            f"needs reset={target.resets[0]!r}, not {cell.reset!r}",
        ),
        (
            is_late and (is_adaptive or reset not in target.resets),
            "resets in the step of a spike, without delay_reset",
        ),
        (np.any(cell.reset_value), "resets to 0, without reset_value"),
        (spike_types(surrogate), f"lacks the spike type of {cell.surrogate}"),
        (
            is_adaptive and np.any(jnp.asarray(cell.adaptation) < 0),
            "needs an adaptation of at least 0",
        ),
    ):
        if refused:
            raise ValueError(
                f"{owner}: it {problem}; train with the properties of the target"
            )
    options = {"surrogate": surrogate, "detach_reset": cell.detach_reset}
    if len(target.resets) > 1:  # a target with one has no parameter for it
        options["reset"] = reset
    return options | ({"refractory": steps} if steps else {})


def _without_rest(cell: Any) -> tuple[int, Any]:
    """Return the refractory period and the cell without it."""
    return (cell.steps, cell.cell) if isinstance(cell, Refractory) else (0, cell)


def _function_of(weight: Any) -> Callable | None:
    """Return the function of a weight, or None for a matrix."""
    inner: Any = weight.weight if isinstance(weight, (Delayed, Window)) else weight
    is_function = callable(inner) and not hasattr(inner, "__jax_array__")
    return inner if is_function else None


def _with_operations(
    network: Network, target: IntegerCell, shapes: dict[str, Shape]
) -> dict[str, Layer | Join]:
    """Return the nodes with functions of integers, whose weights are still real.

    A sum of a window is an integer, and its average is not. So the factor of a join moves to the
    weights of the layers that read it.
    """
    factors = dict.fromkeys(shapes, 1.0)
    nodes: dict[str, Any] = dict(network.layers)
    chip = type(target).__name__
    for name, node in network.graph.nodes.items():
        if not isinstance(node, Join):
            continue
        owner = f"quantize: join {name!r} on {chip}"
        if not isinstance(target, FixedLIF):
            raise TypeError(f"{owner}: it has no joins; read the layers themselves")
        if node.over_time:
            raise TypeError(
                f"{owner}: it takes complete sequences; fold a normalization into the weights "
                "(fold_normalization)"
            )
        several = {factors[source] for source in node.of}
        if len(several) > 1:
            raise TypeError(f"{owner}: it adds averages and sums")
        reading = _reading(
            owner, node.function, [shapes[source] for source in node.of], several.pop()
        )
        has_weights = any(isinstance(x, WEIGHTED) for x in reading.function.operations)
        if has_weights or reading.bias is not None:
            raise TypeError(
                f"{owner}: it has weights; put them into the layer that reads it"
            )
        factors[name] = reading.factor
        nodes[name] = Join(reading.function, node.of)
    for name in network.graph.layers:
        owner, layer = f"quantize: layer {name!r} on {chip}", network.layers[name]
        nodes[name] = _layer_with_operations(
            owner, layer, target, network.graph.edges[name], shapes, factors
        )
    return nodes


def _reading(
    owner: str, function: Callable, shapes: list[Shape], factor: float
) -> Reading:
    try:
        return read(function, shapes, factor)
    except ValueError as error:
        raise TypeError(
            f"{owner}: a function has no integers: {error}; use products, convolutions, sums, "
            "averages and maxima of windows"
        ) from error


def _layer_with_operations(
    owner: str,
    layer: Layer,
    target: IntegerCell,
    edges: tuple[Edge, ...],
    shapes: dict[str, Shape],
    factors: dict[str, float],
) -> Layer:
    biases = [] if layer.bias is None else [jnp.asarray(layer.bias)]

    def converted(label: str, weight: Any) -> Any:
        # The edges of a window have their numbers behind the label.
        source = next(
            e.source
            for e in edges
            if e.label == label or e.label.startswith(f"{label}[")
        )
        is_delayed, function = (
            isinstance(weight, (Delayed, Window)),
            _function_of(weight),
        )
        if function is None:
            if factors[source] == 1:
                return weight
            scaled = jnp.asarray(weight.weight if is_delayed else weight)
            scaled = scaled * factors[source]
            return dataclasses.replace(weight, weight=scaled) if is_delayed else scaled
        if isinstance(weight, Window):
            raise TypeError(
                f"{owner}: a window has a function; use a matrix for each step"
            )
        reading = _reading(owner, function, [shapes[source]], factors[source])
        operations = reading.function.operations
        # On a chip each weight is a connection, and a sum of windows would need more bits.
        has_windows = any(isinstance(x, (SumPooling, MaxPooling)) for x in operations)
        if has_windows and not isinstance(target, FixedLIF):
            raise TypeError(
                f"{owner}: it has no sums or maxima of windows; use a convolution with strides"
            )
        if not any(isinstance(x, WEIGHTED) for x in operations):
            # An array, because a number would be a constant of the network.
            operations = *operations, Factor(np.array(reading.factor, np.float32))
        if reading.bias is not None:
            biases.append(jnp.asarray(reading.bias))
        inner = IntegerFunction(reading.function.arguments, tuple(operations))
        return dataclasses.replace(weight, weight=inner) if is_delayed else inner

    weights = {label: converted(label, x) for label, x in layer.weights.items()}
    bias = sum(biases[1:], biases[0]) if biases else None
    return _with_weights(layer, weights, bias=bias)


def _with_weights(layer: Layer, weights: dict[str, Any], **changed: Any) -> Layer:
    """Return the layer with other weights, by the labels of ``layer.weights``."""
    others = dict(weights)
    recurrent = others.pop("recurrent", None)
    weight: Any = (
        dict(zip(layer.weight, others.values(), strict=True))
        if isinstance(layer.weight, Mapping)
        else others["weight"]
    )
    return dataclasses.replace(layer, weight=weight, recurrent=recurrent, **changed)


class _Choice(NamedTuple):
    """The scales that a user allows."""

    bits: int
    per_channel: bool
    powers_of_two: bool


def _channels(weight: Any) -> Channels:
    """Return the outputs of a weight, which for a matrix are neurons."""
    function: Any = _function_of(weight)
    if function is not None:
        return channels_of(function)
    (array,) = jax.tree.leaves(weight, is_leaf=_is_fixed)
    return Channels(-1, np.arange(array.shape[-1]))


def _groups(channels: list[Channels], shape: Shape) -> np.ndarray:
    """Return the number of a group for each neuron.

    Neurons that share a channel of any weight are in one group.
    """
    first = np.arange(math.prod(shape))  # the first neuron of the group
    while True:
        before = first
        for each in channels:
            of_neuron = each.of_neuron.ravel()
            least = np.full(of_neuron.max() + 1, first.size)
            np.minimum.at(least, of_neuron, first)
            first = least[of_neuron]
        if (first == before).all():
            return np.unique(first, return_inverse=True)[1].reshape(shape)


def _of_neurons(states: Any, shape: Shape) -> np.ndarray:
    """Return the largest size of each neuron's state, of arrays ``(steps, batch, ...)``."""
    sizes = [np.abs(np.asarray(x)).max((0, 1)) for x in states]
    return np.max([np.broadcast_to(x, shape) for x in sizes], axis=0)


def _quantized(
    layer: Any, target: Any, choice: _Choice, states: Any, most: Any
) -> Layer:
    """Return a layer of integers. ``most`` is the largest scale of each neuron."""
    real: Any = _without_rest(layer.cell)[1]
    # The steps of rest come last.
    parts = dict(zip(real.state_names, jax.tree.leaves(states), strict=False))
    adapted = parts.pop("adaptation", None)
    shape = np.shape(parts["potential"])[2:]
    response = real.linear_response()
    decay, real_gain, synaptic_decay, threshold = jax.tree.map(np.float64, response)
    *leak_names, threshold_name = target.integer_names
    leaks = jax.tree.map(
        lambda x: np.clip(np.rint(x), 0, target.most_leak),
        target.leaks_of(decay, synaptic_decay),
    )
    cell = target._replaced(**dict(zip(leak_names, leaks, strict=True)))
    # A current in units of a weight has the gain of the real one.
    gain = real_gain * (cell.state_scale / cell.linear_response().gain)
    channels = {label: _channels(weight) for label, weight in layer.weights.items()}
    # Each weight with the gain of its channels.
    weights = {
        label: _with_gain(weight, channels[label], gain)
        for label, weight in layer.weights.items()
    }
    groups = np.zeros(shape, int)
    if choice.per_channel:
        groups = _groups([*channels.values()], shape)
    largest = _of_neurons([*parts.values()], shape)
    if threshold is not None:
        # A threshold is a state that a quiet neuron would reach.
        largest = np.maximum(largest, threshold)
    # The scale at which the largest state on the inputs fills its width. The threshold of Loihi
    # has no bits for a part of a weight.
    widest = cell.limits[1] // cell.state_scale
    with np.errstate(divide="ignore"):
        room = np.broadcast_to(np.minimum(widest / largest, most), shape)
    form = cell.weight_format(choice.bits)
    scale = _scale_of_neurons(
        weights, channels, groups, room, form, powers_of_two=choice.powers_of_two
    )
    scales = without_repeats(scale, shape)
    scales = scales.item() if scales.size == 1 else scales
    if threshold is not None:
        threshold = np.maximum(np.rint(threshold * scales), 1)
    settings = {threshold_name: threshold, "unit": scales * cell.state_scale}
    if adapted is not None:
        settings |= _adaptation(real, cell, adapted, scales)

    def fix(label: str, value: Any) -> Fixed:
        if isinstance(scales, float):
            return Fixed(value, scales, *form)
        of_channels = channels[label].of_channels(scale)
        return Fixed(value, channels[label].along(of_channels, np.ndim(value)), *form)

    bias = layer.bias
    if bias is not None:
        # A bias has no connections. It is as wide as a state.
        value = jnp.asarray(bias) * like(bias, gain)
        bias_shape = np.broadcast_shapes(np.shape(value), np.shape(scales))
        bias = Fixed(jnp.broadcast_to(value, bias_shape), scales, *cell.limits)
    integers = {
        label: jax.tree.map(functools.partial(fix, label), weight)
        for label, weight in weights.items()
    }
    return _with_weights(layer, integers, bias=bias, cell=cell._replaced(**settings))


def _with_gain(weight: Any, channels: Channels, gain: np.ndarray) -> Any:
    """Return a weight times the gain of the neurons that it drives."""
    if np.size(gain) == 1:
        return jax.tree.map(
            lambda x: jnp.asarray(x) * like(x, np.ravel(gain)[0]), weight
        )
    of_channels = channels.of_channels(gain)
    if (of_channels[channels.of_neuron] != gain).any():
        raise ValueError(
            "quantize: neurons with a function as weight must have one decay for each output "
            "channel, or no norm_input"
        )
    return jax.tree.map(
        lambda x: jnp.asarray(x) * like(x, channels.along(of_channels, np.ndim(x))),
        weight,
    )


def _scale_of_neurons(
    weights: dict[str, Any],
    channels: dict[str, Channels],
    groups: np.ndarray,
    room: np.ndarray,
    form: WeightFormat,
    *,
    powers_of_two: bool,
) -> np.ndarray:
    """Return the scale of each neuron, one for a group. ``room`` is the largest of each neuron."""
    values, of_values = [], []
    for label, weight in weights.items():
        each = channels[label]
        (array,) = map(np.asarray, jax.tree.leaves(weight))
        of_channels = each.along(each.of_channels(groups), array.ndim)
        values.append(array.ravel())
        of_values.append(np.broadcast_to(of_channels, array.shape).ravel())
    limits = np.full(groups.max() + 1, np.inf)
    np.minimum.at(limits, groups.ravel(), room.ravel())
    scales = best_scales(
        np.concatenate(values).astype(np.float64),
        np.concatenate(of_values),
        form,
        limits,
        powers_of_two=powers_of_two,
    )
    return scales[groups]


def _adaptation(
    real: Any, cell: FixedLIF, adapted: jax.Array, scale: Any
) -> dict[str, Any]:
    """Return the parameters of an adaptation that had these values on the inputs."""
    increase = np.asarray(real.adaptation) * scale
    # One more spike than on the inputs. As many bits as there is room for, because a decay is
    # rounded down.
    peaks = np.abs(np.asarray(adapted)).max((0, 1))
    largest = float(np.max(peaks * scale + increase))
    fraction = int(np.clip(np.log2(cell.limits[1] / max(largest, 1)), 0, 12))
    increase = np.minimum(np.rint(increase * 2**fraction), cell.limits[1])
    decay = np.rint(np.asarray(real.adaptation_decay) * cell.most_leak)
    return {
        "adaptation": increase,
        "adaptation_decay": decay,
        "adaptation_fraction": fraction,
    }


def _is_fixed(weight: Any) -> bool:
    return isinstance(weight, Fixed)


def dequantize(network: Network) -> Network:
    """Return the real network that an integer network rounds, with its weights and time constants.

    :func:`spikegrad.exchange.to_nir` takes it, since NIR has no integers.

    Parameters
    ----------
    network : Network
        As in :func:`replay`, with weights of :class:`Fixed`.

    Returns
    -------
    Network
        Layers of the cells that :func:`quantize` takes. Their rounded weights are arrays.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import Layer, Network
    >>> from spikegrad.integers import FixedLIF, dequantize, fixed
    >>> weight = fixed(jnp.full((3, 2), 0.123), scale=64.0)
    >>> network = Network([Layer(weight, FixedLIF(4000, 64))])
    >>> layer = dequantize(network).layers["0"]
    >>> layer.weight[0, 0].item(), layer.cell.decay, layer.cell.threshold
    (0.125, 0.9765625, 1.0)
    """
    integer_layers("dequantize", network)  # raises for what is not integers
    layers = {
        name: node if isinstance(node, Join) else _dequantized(node)
        for name, node in network.layers.items()
    }
    return dataclasses.replace(network, layers=layers)


def _dequantized(layer: Layer) -> Layer:
    integer: Any = layer.cell
    decay, gain, synaptic_decay, threshold = integer.linear_response()
    channels = {label: _channels(weight) for label, weight in layer.weights.items()}
    label, each = next(iter(channels.items()))
    (first,) = jax.tree.leaves(layer.weights[label], is_leaf=_is_fixed)
    unit = np.float64(first.scale)
    if unit.ndim:  # one for each channel
        unit = without_repeats(unit.ravel()[each.of_neuron], each.of_neuron.shape)
    unit = unit * integer.state_scale
    cell = LeakyReadout(decay)
    if threshold is not None:
        options = {"surrogate": integer.surrogate, "detach_reset": integer.detach_reset}
        options["reset"] = integer.reset.removeprefix("late_")
        options["delay_reset"] = integer.reset != options["reset"]
        options |= {"decay": decay, "threshold": np.asarray(threshold) / unit}
        adaptation = getattr(integer, "adaptation", None)
        kinds = (LIF, SynapticLIF) if adaptation is None else FIRING[2:]
        if np.any(synaptic_decay):
            options["synaptic_decay"] = synaptic_decay
        if adaptation is not None:
            steps = unit * 2**integer.adaptation_fraction
            options["adaptation"] = np.asarray(adaptation) / steps
            leak = np.asarray(integer.adaptation_decay) / integer.most_leak
            options["adaptation_decay"] = leak
        cell = kinds["synaptic_decay" in options](**options)
        if steps := getattr(integer, "refractory", 0):
            cell = Refractory(cell, steps)

    def real(weight: Any) -> jax.Array:
        factor = gain / (np.asarray(weight.scale) * integer.state_scale)
        return jnp.asarray(weight.integers * factor, weight.value.dtype)

    weights = {
        label: jax.tree.map(real, weight, is_leaf=_is_fixed)
        for label, weight in layer.weights.items()
    }
    bias = None if layer.bias is None else real(layer.bias)
    return _with_weights(layer, weights, bias=bias, cell=cell)


def _row(
    name: str, before: Any, after: Any, real: Any, integer: Any, valid: float
) -> QuantizedLayer:
    """Return the effects on a layer. ``valid`` is the share of steps without a mask."""
    weights, cell = _fixed_weights(after), after.cell
    integers, values, errors = (
        np.concatenate([np.ravel(part) for part in parts])
        for parts in zip(
            *(
                (w.integers, w.value, w.integers / np.asarray(w.scale) - w.value)
                for w in weights
            ),
            strict=True,
        )
    )
    size = max(np.linalg.norm(values), 1e-300)  # a layer of zeros has no error
    real_cell = _without_rest(before.cell)[1]
    responses = real_cell.linear_response(), cell.linear_response()
    decays, _, synaptic_decays, (threshold, integer_threshold) = zip(
        *responses, strict=True
    )
    rates = float(real.output.mean()) / valid, float(integer.output.mean()) / valid
    has_synapse = "synaptic current" in cell.state_names
    thresholds = None
    if threshold is not None:
        after_rounding = np.mean(np.asarray(integer_threshold) / np.asarray(cell.unit))
        thresholds = float(np.mean(threshold)), float(after_rounding)
    return QuantizedLayer(
        name,
        float(np.mean(cell.unit)) / cell.state_scale,
        float((integers == 0).mean()),
        sum(w.clipped for w in weights),
        float(np.linalg.norm(errors) / size),
        tuple(map(_tau, decays)),
        tuple(map(_tau, synaptic_decays)),
        tuple(map(_tau, _adaptation_decays(real_cell, cell))),
        thresholds,
        # The potential and the current, which come first.
        _largest(jax.tree.leaves(integer.pre_spike)[: 1 + has_synapse])
        / cell.limits[1],
        None if cell.threshold is None else rates,
    )


def _adaptation_decays(real: Any, cell: Any) -> tuple[Any, Any]:
    """Return the decay factors of the adaptation, before and after. 0 without one."""
    if getattr(cell, "adaptation", None) is None:
        return 0.0, 0.0
    return real.adaptation_decay, np.asarray(cell.adaptation_decay) / cell.most_leak


def _fixed_weights(layer: Layer) -> list[Fixed]:
    return jax.tree.leaves(layer.weights, is_leaf=_is_fixed)


def _largest(arrays: Any) -> float:
    return max(float(np.abs(x).max()) for x in jax.tree.leaves(arrays))


def _tau(decay: Any) -> float:
    """Return the mean time constant in steps."""
    with np.errstate(divide="ignore"):
        # The logarithm is at most 0. Its size makes 1 / 0 the positive infinity.
        return float(np.mean(1 / abs(np.log(np.asarray(decay, np.float64)))))
