"""From a network of real numbers to one of integers."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import is_float
from .._spike_types import Strict
from .._surrogate import spike_types
from .._table import aligned
from .._weights import Factor, MaxPooling, Shape, SumPooling
from ..network import (
    Delayed,
    Edge,
    Join,
    Layer,
    Network,
    Window,
    function_of,
    inner_of,
    map_kernels,
    with_inner,
    with_weights,
)
from ..neurons import (
    LIF,
    AdaptiveLIF,
    LeakyReadout,
    LinearResponse,
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
from ._replay import by_name, integer_layers, largest_sums, whole_inputs

TARGETS: dict[str, IntegerCell] = {
    "fixed": FixedLIF(0, 1),
    "loihi": Loihi(0, 0, 0),
    "xylo": Xylo(1, 1, 1),
}
"""A cell for each target. Its formats stay, and its decays and threshold are replaced."""
Scale: TypeAlias = float | np.ndarray
"""The integer that stands for 1: one number, or one for each neuron or channel."""
FIRING = LIF, SynapticLIF, AdaptiveLIF, SynapticAdaptiveLIF
"""The cells with spikes, also with a refractory period."""
ROUNDING = 0.99
"""The room for weights that are rounded up, where a scale must keep a sum in 24 bits."""


class QuantizedLayer(NamedTuple):
    """The effects of :func:`quantize` on one layer. "Before and after" are the values in real
    numbers and in integers.
    """

    name: str
    scale: float
    """The scale: the factor from real numbers to integers. With several in a layer, their mean."""
    zeros: float
    """Fraction of the weights that became 0, from 0 to 1."""
    clipped: int
    """Number of weights that were too large and became the largest integer."""
    error: float
    """Root mean square of the rounding errors of the weights, divided by the root mean square of
    the weights.
    """
    tau: tuple[float, ...]
    """Time constant of the potential in time steps, before and after."""
    synaptic_tau: tuple[float, ...]
    """Time constant of the synaptic current in time steps, before and after. 0 without a synaptic
    current.
    """
    adaptation_tau: tuple[float, ...]
    """Time constant of the adaptation in time steps, before and after. 0 without an adaptation."""
    threshold: tuple[float, ...] | None
    """Mean threshold, before and after. None for a readout."""
    peak: float
    """Largest potential or current for the inputs, divided by the largest integer of a state."""
    rate: tuple[float, float] | None
    """Spikes per neuron and valid time step, before and after. None for a readout."""


class QuantizationReport(NamedTuple):
    """The effects of :func:`quantize` on each layer. ``print`` shows them as a table."""

    layers: tuple[QuantizedLayer, ...]

    def __str__(self) -> str:
        def is_shown(name: str) -> bool:
            # A network without synapses or adaptation has no column for them.
            if name not in ("synaptic_tau", "adaptation_tau"):
                return True
            return any(any(getattr(layer, name)) for layer in self.layers)

        shown = [name for name in QuantizedLayer._fields if is_shown(name)]
        rows = [[name.replace("_", " ") for name in shown]]
        rows += [
            [_text(getattr(layer, name)) for name in shown] for layer in self.layers
        ]
        return "\n".join(aligned(rows))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " -> ".join(map(_text, value))
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
    """Convert a trained network to a network of integers for a target: C programs and FPGAs, or a
    chip.

    The spikes of the result are equal in JAX, in NumPy (:func:`replay`) and in C (:func:`to_c`).
    You can train it further like any network, which reduces the effects of rounding. Its weights
    (:class:`Fixed`) are real numbers that each call rounds to integers.

    The weights, the bias and the threshold of a layer have one *scale*, the factor from real
    numbers to integers. ``quantize`` chooses the scale with the smallest squared error of the
    weights. Two limits bound the scale. The states for ``inputs`` must fit into their bits. And all
    sums of inputs times weights must be exact in float32, which has integers of 24 bits.

    Parameters
    ----------
    network : Network
        The network, with the cells :class:`~spikegrad.LIF`, :class:`~spikegrad.SynapticLIF` and
        :class:`~spikegrad.LeakyReadout`. The target ``"fixed"`` also supports
        :class:`~spikegrad.AdaptiveLIF`, :class:`~spikegrad.neurons.SynapticAdaptiveLIF`,
        :class:`~spikegrad.neurons.Refractory`, and joins without weights. ``"xylo"`` supports
        :class:`~spikegrad.SynapticLIF` only. A weight is a matrix, :class:`~spikegrad.Delayed` or
        :class:`~spikegrad.Window`, or a function. A function may have one product or convolution,
        sums and averages over windows, changes of shape, and biases. A
        :class:`~spikegrad.network.DelayKernel` becomes its array of weights, so its delays are no
        longer trained. Round them with :func:`~spikegrad.network.rounded_delays` before.
    target : {"fixed", "loihi", "xylo"} or IntegerCell
        ``"fixed"`` for C programs and FPGAs (:class:`FixedLIF`), ``"loihi"`` for Intel's chip
        (:class:`Loihi`), or ``"xylo"`` for SynSense's chip (:class:`Xylo`). To choose the bits of
        states and decay factors, pass a cell, such as ``FixedLIF(0, 1, bits=12, fraction=8)``. Its
        decays and its threshold, here 0 and 1, are replaced by those of the network.
    inputs : array or dict
        A batch of typical inputs of the network, ``(steps, batch, ...)``, to measure how large the
        states become. The numbers must be integers: spikes or counts.
    bits : int, default 8
        The number of bits of a weight with its sign, from 2 to 8 for the chips, and from 2 to 16
        for ``"fixed"``.
    per_channel : bool, default False
        If True, each neuron of a matrix, or each output channel of a convolution, has its own scale
        and threshold. Use it for 2 or 3 bits, because rounding errors become smaller.
    powers_of_two : bool, default False
        If True, all scales are powers of two, so hardware can convert integers by bit shifts.
    mask : array of bool, optional
        The valid time steps of ``inputs``, as in a call of the network. Masked time steps are not
        measured.

    Returns
    -------
    network : Network
        The network of integers, with the names of ``network``. Its weights contain the real weights
        of ``network``.
    report : QuantizationReport
        Scales, rounding errors, time constants, largest states and spike rates of each layer.

    Raises
    ------
    TypeError
        For functions, joins and cells that the target does not support. The message names the
        layer.
    ValueError
        For resets and sizes of layers that the target does not support, and for inputs that are not
        integers.

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
    # Learned delays are constants from now on.
    network = map_kernels(jnp.asarray, network)
    graph = network.graph
    whole = jax.tree.map(lambda x: whole_inputs("quantize", x, mask), inputs)
    valid_inputs = by_name(graph.inputs, whole)
    # All layers are checked before the network runs.
    owner = f"quantize: layer %r on {type(cell).__name__}"
    options = {
        name: _options(owner % name, x, cell) for name, x in graph.layers.items()
    }
    # A convolution of the user may not take integers.
    inputs = jax.tree.map(lambda x: jnp.asarray(x, float), inputs)
    # A state is largest before its spike.
    _, real = network.observe(inputs, parts=("output", "pre_spike"), mask=mask)
    # The axes in front are the steps and the examples.
    sequences = by_name(graph.inputs, inputs)
    shapes = {name: np.shape(x)[2:] for name, x in sequences.items()}
    shapes |= {name: real[name].output.shape[2:] for name in network.layers}
    _check_sizes(network, cell, shapes)
    if cell.is_synaptic:  # its outputs fire once a step
        for name in graph.outputs:
            options[name]["n"] = 1
    nodes = _with_operations(network, cell, shapes)
    choice = _Choice(bits, per_channel, powers_of_two)

    def quantized(name: str, most: Scale = np.inf) -> Layer:
        cell_with_options = cell._replaced(**options[name])
        states = real[name].pre_spike
        return _quantized(nodes[name], cell_with_options, choice, states, most)

    layers: dict[str, Any] = {
        name: node if isinstance(node, Join) else quantized(name)
        for name, node in nodes.items()
    }
    result = dataclasses.replace(network, layers=layers)
    # Where sums of products may need more bits than float32 has, the scale becomes smaller. A
    # current is proportional to the scale, but for the rounding of the weights.
    sums = largest_sums(integer_layers("quantize", result), valid_inputs)
    for name in graph.layers:
        if sums[name] > LARGEST:
            scale = np.asarray(layers[name].cell.unit) / cell.state_scale
            reduction = ROUNDING * LARGEST / sums[name]
            layers[name] = quantized(name, most=scale * reduction)
    result = dataclasses.replace(network, layers=layers)
    _, integer = result.observe(inputs, parts=("output", "pre_spike"), mask=mask)
    # The outputs of masked steps are 0.
    valid = 1.0 if mask is None else float(np.mean(mask))
    rows = tuple(
        _row(name, nodes[name], layers[name], real[name], integer[name], valid)
        for name in graph.layers
    )
    return result, QuantizationReport(rows)


# --- checks ---------------------------------------------------------------------------------------


def _check_sizes(
    network: Network, target: IntegerCell, shapes: Mapping[str, Shape]
) -> None:
    """Raise if a chip has fewer inputs or hidden neurons than the network."""
    graph = network.graph
    hidden = [name for name in network.layers if name not in graph.outputs]
    inputs = sum(math.prod(shapes[name]) for name in graph.inputs)
    neurons = sum(math.prod(shapes[name]) for name in hidden)
    sizes = inputs, neurons
    if np.greater(sizes, target.sizes).any():
        raise ValueError(
            f"quantize: {type(target).__name__} has %s inputs and %s hidden neurons, the network "
            "has %s and %s" % (*target.sizes, *sizes)
        )


def _options(owner: str, layer: Layer, target: IntegerCell) -> dict[str, Any]:
    """Return the parameters that stay, or raise for a property that the target lacks."""
    _check_weights(owner, layer, target)
    steps, cell = _without_rest(layer.cell)
    _check_kind(owner, cell, steps, target)
    if isinstance(cell, LeakyReadout):
        return {}
    surrogate = _check_spikes(owner, cell, target)
    options = {"surrogate": surrogate, "detach_reset": cell.detach_reset}
    if len(target.resets) > 1:  # a target with one has no parameter for it
        options["reset"] = _reset_of(cell)
    if steps:
        options["refractory"] = steps
    return options


def _check_weights(owner: str, layer: Layer, target: IntegerCell) -> None:
    for weight in layer.weights.values():
        if target.is_synaptic and function_of(weight) is not None:
            raise TypeError(
                f"{owner}: a weight is a function, and only matrices have integers"
            )
        if target.is_synaptic and isinstance(weight, (Delayed, Window)):
            raise ValueError(
                f"{owner}: it has no delays, got a {type(weight).__name__} as weight"
            )
    arrays = jax.tree.leaves(layer.weights)
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"{owner}: a weight is NaN or infinite")


def _check_kind(owner: str, cell: Any, steps: int, target: IntegerCell) -> None:
    """Raise for a cell with equations that the target lacks. ``steps`` are those of rest."""
    if type(cell) not in (*FIRING, LeakyReadout):
        names = ", ".join(kind.__name__ for kind in FIRING)
        raise TypeError(
            f"{owner}: a {type(cell).__name__} has no counterpart. Use {names}, Refractory or "
            "LeakyReadout"
        )
    has_memory = steps > 0 or isinstance(cell, AdaptiveLIF)
    if has_memory and not isinstance(target, FixedLIF):
        lacks = "refractory period" if steps else "adaptation"
        raise ValueError(
            f"{owner}: it has no {lacks}. Use LIF, SynapticLIF or the target 'fixed'"
        )
    if target.is_synaptic and not isinstance(cell, SynapticLIF):
        raise ValueError(
            f"{owner}: each neuron has a synapse and fires, also as readout. Use SynapticLIF"
        )


def _check_spikes(owner: str, cell: Any, target: IntegerCell) -> Callable:
    """Return the surrogate for the target, or raise if it has other spikes and resets."""
    surrogate: Any = cell.surrogate
    kinds = spike_types(surrogate)
    is_strict = bool(kinds) and isinstance(kinds[0], Strict)
    counts_spikes = [kind.multiple for kind in kinds] == [True]
    # An integer cell counts its spikes itself, and has one rule at the threshold.
    if is_strict or (target.is_synaptic and counts_spikes):
        surrogate = surrogate.surrogate
    is_adaptive = isinstance(cell, AdaptiveLIF)
    reset = _reset_of(cell)
    is_late = reset != cell.reset
    can_be_late = reset in target.resets and not is_adaptive
    if np.any(jnp.asarray(cell.threshold) <= 0):
        problem = f"needs a threshold above 0, not {np.min(cell.threshold):g}"
    elif cell.reset not in target.resets:
        problem = f"needs reset={target.resets[0]!r}, not {cell.reset!r}"
    elif is_late and not can_be_late:
        problem = "resets in the step of a spike, without delay_reset"
    elif np.any(cell.reset_value):
        problem = "resets to 0, without reset_value"
    elif spike_types(surrogate):
        problem = f"lacks the spike type of {cell.surrogate}"
    elif is_adaptive and np.any(jnp.asarray(cell.adaptation) < 0):
        problem = "needs an adaptation of at least 0"
    else:
        return surrogate
    raise ValueError(f"{owner}: it {problem}. Train with the properties of the target")


def _reset_of(cell: Any) -> str:
    """Return the name of the reset of a real cell in an integer cell."""
    # Without a reset, delay_reset has no effect.
    is_late = cell.delay_reset and cell.reset != "none"
    return f"late_{cell.reset}" if is_late else cell.reset


def _without_rest(cell: Any) -> tuple[int, Any]:
    """Return the refractory period and the cell without it."""
    if isinstance(cell, Refractory):
        return cell.steps, cell.cell
    return 0, cell


# --- functions of the user ------------------------------------------------------------------------


def _with_operations(
    network: Network, target: IntegerCell, shapes: dict[str, Shape]
) -> dict[str, Layer | Join]:
    """Return the nodes with functions of integers, whose weights are still real.

    A sum of a window is an integer, and its average is not. So the factor of a join moves to the
    weights of the layers that read it.
    """
    # Inputs and spikes are integers, so they stand for themselves.
    factors = dict.fromkeys(shapes, 1.0)  # by source
    nodes: dict[str, Any] = dict(network.layers)
    chip = type(target).__name__
    for name, node in network.graph.nodes.items():
        if isinstance(node, Join):
            owner = f"quantize: join {name!r} on {chip}"
            reading = _reading_of_join(owner, node, target, shapes, factors)
            if reading.factor < 0 and name in network.graph.outputs:
                raise TypeError(
                    f"{owner}: an output loses its factor of {reading.factor:g}, also the sign. "
                    "Multiply the outputs by it outside of the network"
                )
            factors[name] = reading.factor
            nodes[name] = Join(reading.function, node.of)
    # After all joins, because a delayed edge may read a join that comes later in a step.
    for name, layer in network.graph.layers.items():
        owner = f"quantize: layer {name!r} on {chip}"
        edges = network.graph.edges[name]
        nodes[name] = _layer_with_operations(
            owner, layer, target, edges, shapes, factors
        )
    return nodes


def _reading_of_join(
    owner: str,
    join: Join,
    target: IntegerCell,
    shapes: Mapping[str, Shape],
    factors: Mapping[str, float],
) -> Reading:
    if not isinstance(target, FixedLIF):
        raise TypeError(f"{owner}: it has no joins. Read the layers themselves")
    if join.over_time:
        raise TypeError(
            f"{owner}: it takes complete sequences. Fold a normalization into the weights "
            "(fold_normalization)"
        )
    # One factor of all sources is that of their sum too.
    source_factors = {factors[source] for source in join.of}
    if len(source_factors) > 1:
        raise TypeError(f"{owner}: it adds averages and sums")
    of_sources = [shapes[source] for source in join.of]
    reading = _reading(owner, join.function, of_sources, source_factors.pop())
    has_weights = any(isinstance(x, WEIGHTED) for x in reading.function.operations)
    if has_weights or reading.bias is not None:
        raise TypeError(
            f"{owner}: it has weights. Put them into the layer that reads it"
        )
    return reading


def _reading(
    owner: str, function: Callable, shapes: list[Shape], factor: float
) -> Reading:
    try:
        return read(function, shapes, factor)
    except ValueError as error:
        raise TypeError(
            f"{owner}: a function has no integers: {error}. Use products, convolutions, sums, "
            "averages and maxima of windows"
        ) from error


def _layer_with_operations(
    owner: str,
    layer: Layer,
    target: IntegerCell,
    edges: tuple[Edge, ...],
    shapes: Mapping[str, Shape],
    factors: Mapping[str, float],
) -> Layer:
    """Return a layer whose functions are operations, with the factors of its sources.

    The biases of its functions become a bias of the layer.
    """
    biases = [] if layer.bias is None else [jnp.asarray(layer.bias)]
    weights: dict[str, Any] = {}
    for label, weight in layer.weights.items():
        # The edges of a window have their numbers behind the label.
        source = next(
            edge.source
            for edge in edges
            if edge.label == label or edge.label.startswith(f"{label}[")
        )
        function = function_of(weight)
        if function is None:
            weights[label] = _times(weight, factors[source])
            continue
        if isinstance(weight, Window):
            raise TypeError(
                f"{owner}: a window has a function. Use a matrix for each step"
            )
        reading = _reading(owner, function, [shapes[source]], factors[source])
        if reading.bias is not None:
            biases.append(jnp.asarray(reading.bias))
        inner = _integer_function(owner, reading, target)
        weights[label] = with_inner(weight, inner)
    bias = sum(biases[1:], biases[0]) if biases else None
    return with_weights(layer, weights, bias=bias)


def _times(weight: Any, factor: float) -> Any:
    """Return a matrix times the factor of its source."""
    if factor == 1:
        return weight
    return with_inner(weight, jnp.asarray(inner_of(weight)) * factor)


def _integer_function(
    owner: str, reading: Reading, target: IntegerCell
) -> IntegerFunction:
    """Return the function of a weight, with one array to round."""
    operations = reading.function.operations
    # On a chip each weight is a connection, and a sum of windows would need more bits.
    has_windows = any(isinstance(x, (SumPooling, MaxPooling)) for x in operations)
    if has_windows and not isinstance(target, FixedLIF):
        raise TypeError(
            f"{owner}: it has no sums or maxima of windows. Use a convolution with strides"
        )
    if not any(isinstance(x, WEIGHTED) for x in operations):
        # The factor is the weight. It is an array, because a number would be a constant of the
        # network.
        factor = np.array(reading.factor, np.float32)
        operations = *operations, Factor(factor)
    return IntegerFunction(reading.function.arguments, tuple(operations))


# --- one layer ------------------------------------------------------------------------------------


class _Choice(NamedTuple):
    """The scales that a user allows."""

    bits: int
    per_channel: bool
    powers_of_two: bool


def _channels(weight: Any) -> Channels:
    """Return the outputs of a weight, which for a matrix are neurons."""
    function: Any = function_of(weight)
    if function is not None:
        return channels_of(function)
    (array,) = jax.tree.leaves(weight, is_leaf=_is_fixed)
    return Channels(-1, np.arange(array.shape[-1]))


def _groups(channels: Iterable[Channels], shape: Shape) -> np.ndarray:
    """Return the number of a group for each neuron.

    Neurons that share a channel of any weight are in one group, because they need one scale. With
    several weights, neurons are also in one group if a chain of shared channels connects them.
    """
    # The first neuron of the group, as far as it is known. Each pass gives all neurons of a channel
    # the least of their groups, until no group changes.
    first = np.arange(math.prod(shape))
    while True:
        before = first
        for each in channels:
            of_neuron = each.of_neuron.ravel()
            least = np.full(of_neuron.max() + 1, first.size)
            np.minimum.at(least, of_neuron, first)
            first = least[of_neuron]
        if (first == before).all():
            _, numbers = np.unique(first, return_inverse=True)
            return numbers.reshape(shape)


def _quantized(
    layer: Any,
    target: IntegerCell,
    choice: _Choice,
    states: Any,
    most: Scale,
) -> Layer:
    """Return a layer of integers.

    ``states`` are those before a spike on the inputs, ``(steps, batch, ...)`` each. ``most`` is the
    largest scale of each neuron.
    """
    _, real = _without_rest(layer.cell)
    # The steps of rest come last, and have no name in the cell without them.
    parts = dict(zip(real.state_names, jax.tree.leaves(states), strict=False))
    adapted = parts.pop("adaptation", None)
    shape = np.shape(parts["potential"])[2:]
    response = jax.tree.map(np.float64, real.linear_response())
    cell = _with_decays(target, response)
    # A current in units of a weight has the gain of the real one.
    gain = response.gain * (cell.state_scale / cell.linear_response().gain)
    channels = {label: _channels(weight) for label, weight in layer.weights.items()}
    # Each weight with the gain of its channels.
    weights = {
        label: _with_gain(weight, channels[label], gain)
        for label, weight in layer.weights.items()
    }
    groups = np.zeros(shape, int)
    if choice.per_channel:
        groups = _groups([*channels.values()], shape)
    room = _room(cell, parts, response.threshold, most)
    form = cell.weight_format(choice.bits)
    scale = _scale_of_neurons(
        weights, channels, groups, room, form, powers_of_two=choice.powers_of_two
    )
    # As few numbers as differ: one for the layer, or one for each channel.
    scales = without_repeats(scale, shape)
    scales = scales.item() if scales.size == 1 else scales
    settings = _threshold_settings(cell, response.threshold, scales)
    if adapted is not None:
        settings |= _adaptation(real, cell, adapted, scales)

    def fix(label: str, value: Any) -> Fixed:
        if isinstance(scales, float):
            return Fixed(value, scales, *form)
        outputs = channels[label]
        of_channels = outputs.of_channels(scale)
        of_weights = outputs.along(of_channels, np.ndim(value))
        return Fixed(value, of_weights, *form)

    integers = {
        label: jax.tree.map(functools.partial(fix, label), weight)
        for label, weight in weights.items()
    }
    bias = _fixed_bias(layer.bias, gain, scales, cell)
    return with_weights(layer, integers, bias=bias, cell=cell._replaced(**settings))


def _with_decays(target: IntegerCell, response: LinearResponse) -> IntegerCell:
    """Return the target with the decays of a real cell, rounded."""

    def rounded(leak: np.ndarray) -> np.ndarray:
        # Loihi has no potential with a decay of 0, and no current with a decay of 1.
        # These become its fastest and its slowest decay.
        return np.clip(np.rint(leak), 0, target.most_leak)

    decay = np.asarray(response.decay)
    synaptic_decay = np.asarray(response.synaptic_decay)
    leaks = jax.tree.map(rounded, target.leaks_of(decay, synaptic_decay))
    *names, _ = target.integer_names  # without the threshold
    return target._replaced(**dict(zip(names, leaks, strict=True)))


def _threshold_settings(
    cell: IntegerCell, threshold: np.ndarray | None, scales: Scale
) -> dict[str, Any]:
    if threshold is not None:
        # FixedLIF and Xylo spike at their threshold, so with 0 they would spike at rest.
        threshold = np.maximum(np.rint(threshold * scales), 1)
    *_, name = cell.integer_names
    return {name: threshold, "unit": scales * cell.state_scale}


def _room(
    cell: IntegerCell,
    parts: dict[str, jax.Array],
    threshold: np.ndarray | None,
    most: Scale,
) -> np.ndarray:
    """Return the scale at which the largest state of each neuron fills its width."""
    shape = np.shape(parts["potential"])[2:]
    peaks = [np.broadcast_to(_peaks(x), shape) for x in parts.values()]
    largest = np.max(peaks, axis=0)
    if threshold is not None:
        # A threshold is a state that a quiet neuron would reach.
        largest = np.maximum(largest, threshold)
    # The threshold of Loihi has no bits for a part of a weight.
    widest = cell.limits[1] // cell.state_scale
    # The states of a silent readout are 0, and any scale fits them.
    with np.errstate(divide="ignore"):
        return np.broadcast_to(np.minimum(widest / largest, most), shape)


def _peaks(state: jax.Array) -> np.ndarray:
    """Return the largest size in each neuron, over all steps and examples."""
    return np.abs(np.asarray(state)).max((0, 1))


def _fixed_bias(
    bias: Any, gain: np.ndarray, scales: Scale, cell: IntegerCell
) -> Fixed | None:
    """Return a bias of integers. It has no connections, so it is as wide as a state."""
    if bias is None:
        return None
    value = jnp.asarray(bias) * like(bias, gain)
    shape = np.broadcast_shapes(np.shape(value), np.shape(scales))
    return Fixed(jnp.broadcast_to(value, shape), scales, *cell.limits)


def _with_gain(weight: Any, channels: Channels, gain: np.ndarray) -> Any:
    """Return a weight times the gain of the neurons that it drives."""
    of_channels = channels.of_channels(gain)
    shared_gain = of_channels[channels.of_neuron]
    if (shared_gain != gain).any():
        raise ValueError(
            "quantize: neurons with a function as weight must have one decay for each output "
            "channel, or no norm_input"
        )

    def scaled(x: ArrayLike) -> jax.Array:
        # A gain may be below 1, which a matrix of integers would round to 0.
        x = jnp.asarray(x)
        x = x if is_float(x) else x.astype(float)
        return x * like(x, channels.along(of_channels, x.ndim))

    return jax.tree.map(scaled, weight)


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
    values: list[np.ndarray] = []
    groups_of_values: list[np.ndarray] = []
    for label, weight in weights.items():
        each = channels[label]
        (array,) = map(np.asarray, jax.tree.leaves(weight))
        # The group of each channel, then of each weight: (channels,) -> (1, ..., channels, ...).
        of_channels = each.along(each.of_channels(groups), array.ndim)
        values.append(array.ravel())
        of_weights = np.broadcast_to(of_channels, array.shape)
        groups_of_values.append(of_weights.ravel())
    # A group has the room of its neuron with the largest states.
    limits = np.full(groups.max() + 1, np.inf)
    np.minimum.at(limits, groups.ravel(), room.ravel())
    scales = best_scales(
        np.concatenate(values).astype(np.float64),
        np.concatenate(groups_of_values),
        form,
        limits,
        powers_of_two=powers_of_two,
    )
    return scales[groups]


def _adaptation(
    real: Any, cell: IntegerCell, adapted: jax.Array, scale: Scale
) -> dict[str, Any]:
    """Return the parameters of an adaptation that had these values on the inputs."""
    _, most = cell.limits
    increase = np.asarray(real.adaptation) * scale
    # One more spike than on the inputs. As many bits as there is room for, because a decay is
    # rounded down: an adaptation loses at least 1 in each step.
    largest = float(np.max(_peaks(adapted) * scale + increase))
    room = np.log2(most / max(largest, 1))
    fraction = int(np.clip(room, 0, 12))
    rounded = np.rint(increase * 2**fraction)
    decay = np.rint(np.asarray(real.adaptation_decay) * cell.most_leak)
    return {
        "adaptation": np.minimum(rounded, most),
        "adaptation_decay": decay,
        "adaptation_fraction": fraction,
    }


def _is_fixed(weight: Any) -> bool:
    return isinstance(weight, Fixed)


# --- back to real numbers -------------------------------------------------------------------------


def dequantize(network: Network) -> Network:
    """Convert a network of integers back to real numbers, with rounded weights and time constants.

    Use it to export a network of integers with :func:`spikegrad.exchange.to_nir`, because the
    format NIR has no integers.

    Parameters
    ----------
    network : Network
        A network of integer cells with weights of :class:`Fixed`, for example the first result of
        :func:`quantize`.

    Returns
    -------
    Network
        A network of the cells that :func:`quantize` accepts, such as ``LIF``. Its weights are
        arrays of the rounded weights.

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
    response = integer.linear_response()
    # A readout has no spikes, so its threshold is None and its unit is in the weights.
    cell = LeakyReadout(response.decay)
    if response.threshold is not None:
        cell = _real_neuron(integer, response, _unit_of(layer))

    def real(weight: Any) -> jax.Array:
        factor = response.gain / (np.asarray(weight.scale) * integer.state_scale)
        return jnp.asarray(weight.integers * factor, weight.value.dtype)

    weights = {
        label: jax.tree.map(real, weight, is_leaf=_is_fixed)
        for label, weight in layer.weights.items()
    }
    bias = None if layer.bias is None else real(layer.bias)
    return with_weights(layer, weights, bias=bias, cell=cell)


def _unit_of(layer: Layer) -> np.ndarray:
    """Return the integer of a state that stands for 1, one number or one for each channel."""
    # Any weight, because all weights of a neuron have one scale.
    weight = next(iter(layer.weights.values()))
    (first,) = jax.tree.leaves(weight, is_leaf=_is_fixed)
    scale = np.float64(first.scale)
    if scale.ndim:  # in the axes of the weight, so the channels lead to the neurons
        of_neuron = _channels(weight).of_neuron
        of_neurons = scale.ravel()[of_neuron]
        scale = without_repeats(of_neurons, of_neuron.shape)
    integer: Any = layer.cell
    return scale * integer.state_scale


def _real_neuron(
    integer: Any, response: LinearResponse, unit: np.ndarray
) -> LIF | SynapticLIF | Refractory:
    """Return the cell of FIRING whose rounded form is an integer cell."""
    reset = integer.reset.removeprefix("late_")
    options: dict[str, Any] = {
        "reset": reset,
        "delay_reset": integer.reset != reset,
        "surrogate": integer.surrogate,
        "detach_reset": integer.detach_reset,
    }
    options["decay"] = response.decay
    options["threshold"] = np.asarray(response.threshold) / unit
    has_synapse = np.any(response.synaptic_decay)
    if has_synapse:
        options["synaptic_decay"] = response.synaptic_decay
    # Chips have no adaptation and no refractory period.
    adaptation = getattr(integer, "adaptation", None)
    if adaptation is None:
        kind = SynapticLIF if has_synapse else LIF
    else:
        kind = SynapticAdaptiveLIF if has_synapse else AdaptiveLIF
        steps = unit * 2**integer.adaptation_fraction
        options["adaptation"] = np.asarray(adaptation) / steps
        leak = np.asarray(integer.adaptation_decay) / integer.most_leak
        options["adaptation_decay"] = leak
    cell = kind(**options)
    rest = getattr(integer, "refractory", 0)
    return Refractory(cell, rest) if rest else cell


# --- the report -----------------------------------------------------------------------------------


def _row(
    name: str, before: Any, after: Any, real: Any, integer: Any, valid: float
) -> QuantizedLayer:
    """Return the effects on a layer, ``before`` with real numbers and ``after`` with integers.

    ``real`` and ``integer`` have the outputs and states on the inputs. ``valid`` is the share of
    steps without a mask.
    """
    cell = after.cell
    # A window or a function also has one array, so each weight is one ``Fixed``.
    weights = jax.tree.leaves(after.weights, is_leaf=_is_fixed)
    integers = np.concatenate([w.integers.ravel() for w in weights])
    values = np.concatenate([np.ravel(w.value) for w in weights])
    # Weight by weight, because the scales of a weight have its number of axes.
    errors = [w.integers / np.asarray(w.scale) - w.value for w in weights]
    error = np.linalg.norm(np.concatenate([np.ravel(x) for x in errors]))
    size = max(np.linalg.norm(values), 1e-300)  # a layer of zeros has no error
    _, real_cell = _without_rest(before.cell)
    response = real_cell.linear_response()
    rounded = cell.linear_response()
    thresholds = rates = None
    if response.threshold is not None:
        after_rounding = np.asarray(rounded.threshold) / np.asarray(cell.unit)
        thresholds = (
            float(np.mean(response.threshold)),
            float(np.mean(after_rounding)),
        )
        rates = (
            float(real.output.mean()) / valid,
            float(integer.output.mean()) / valid,
        )
    # The potential and the current come first.
    compared = 2 if "synaptic current" in cell.state_names else 1
    states = jax.tree.leaves(integer.pre_spike)[:compared]
    largest = max(float(np.abs(x).max()) for x in states)
    _, most = cell.limits
    return QuantizedLayer(
        name=name,
        scale=float(np.mean(cell.unit)) / cell.state_scale,
        zeros=float((integers == 0).mean()),
        clipped=sum(w.clipped for w in weights),
        error=float(error / size),
        tau=(_tau(response.decay), _tau(rounded.decay)),
        synaptic_tau=(_tau(response.synaptic_decay), _tau(rounded.synaptic_decay)),
        adaptation_tau=tuple(map(_tau, _adaptation_decays(real_cell, cell))),
        threshold=thresholds,
        peak=largest / most,
        rate=rates,
    )


def _adaptation_decays(real: Any, cell: Any) -> tuple[Any, Any]:
    """Return the decay factors of the adaptation, before and after. 0 without one."""
    if getattr(cell, "adaptation", None) is None:
        return 0.0, 0.0
    return real.adaptation_decay, np.asarray(cell.adaptation_decay) / cell.most_leak


def _tau(decay: Any) -> float:
    """Return the mean time constant in steps."""
    decay = np.asarray(decay, np.float64)
    with np.errstate(divide="ignore"):
        # The logarithm is at most 0. Its size makes 1 / 0 the positive infinity.
        return float(np.mean(1 / abs(np.log(decay))))
