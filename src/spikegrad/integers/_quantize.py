"""From a network of real numbers to one of integers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._surrogate import spike_types
from .._table import aligned
from .._weights import Factor, Shape, SumPooling
from ..network import Delayed, Edge, Join, Layer, Network, Window
from ..neurons import (
    LIF,
    AdaptiveLIF,
    LeakyReadout,
    Refractory,
    SynapticAdaptiveLIF,
    SynapticLIF,
)
from ._arithmetic import like
from ._cells import FixedLIF, IntegerCell, Loihi, Xylo
from ._fixed import Fixed, best_scale, checked_bits
from ._functions import WEIGHTED, IntegerFunction, Reading, read
from ._replay import integer_layers, whole_inputs

TARGETS: dict[str, IntegerCell] = {
    "fixed": FixedLIF(0, 1),
    "loihi": Loihi(0, 0, 0),
    "xylo": Xylo(1, 1, 1),
}
"""A cell for each target. Its formats stay, and its decays and threshold are replaced."""
FIRING = LIF, SynapticLIF, AdaptiveLIF, SynapticAdaptiveLIF
"""The cells with spikes, also with a refractory period."""


class QuantizedLayer(NamedTuple):
    """The effects of the quantization on a layer."""

    name: str
    scale: float
    """The integer of a weight that stands for 1."""
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
    mask: ArrayLike | None = None,
) -> tuple[Network, QuantizationReport]:
    """Convert a network of real numbers to the integers of a target.

    All weights, the bias and the threshold of a layer share one scale. It has the least squared
    error of the weights, among the scales that keep the states on ``inputs`` within their width.
    The network that results is trained like any other. Its weights stay real numbers that are
    rounded in each call, and their scales do not move.

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
    layers = {
        name: node
        if isinstance(node, Join)
        else _quantized(
            node, cell._replaced(**options[name]), bits, real[name].pre_spike
        )
        for name, node in nodes.items()
    }
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
    if target.is_synaptic and [kind.multiple for kind in spike_types(surrogate)] == [
        True
    ]:
        surrogate = surrogate.surrogate  # the cell counts spikes itself
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
            cell.delay_reset or np.any(cell.reset_value),
            "resets to 0 in the step of a spike, without reset_value or delay_reset",
        ),
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
        options["reset"] = cell.reset
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
            f"{owner}: a function has no integers: {error}; use products, convolutions, sums and "
            "averages of windows"
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
        has_windows = any(isinstance(x, SumPooling) for x in operations)
        if has_windows and not isinstance(target, FixedLIF):
            raise TypeError(
                f"{owner}: it has no sums of windows; use a convolution with strides"
            )
        if not any(isinstance(x, WEIGHTED) for x in operations):
            # An array, because a number would be a constant of the network.
            operations = *operations, Factor(np.array(reading.factor, np.float32))
        if reading.bias is not None:
            biases.append(jnp.asarray(reading.bias))
        inner = IntegerFunction(operations, reading.function.shape)
        return dataclasses.replace(weight, weight=inner) if is_delayed else inner

    weights = {label: converted(label, x) for label, x in layer.weights.items()}
    recurrent = weights.pop("recurrent", None)
    weight: Any = (
        dict(zip(layer.weight, weights.values(), strict=True))
        if isinstance(layer.weight, Mapping)
        else weights["weight"]
    )
    bias = sum(biases[1:], biases[0]) if biases else None
    return dataclasses.replace(layer, weight=weight, recurrent=recurrent, bias=bias)


def _quantized(layer: Layer, target: Any, bits: int, states: Any) -> Layer:
    real: Any = _without_rest(layer.cell)[1]
    # The steps of rest come last.
    parts = dict(zip(real.state_names, jax.tree.leaves(states), strict=False))
    adapted = parts.pop("adaptation", None)
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
    if np.size(gain) > 1 and any(
        map(callable, map(_function_of, layer.weights.values()))
    ):
        raise ValueError(
            "quantize: neurons with a function as weight must have one decay for all, or no "
            "norm_input"
        )
    weights = [np.asarray(w) * gain for w in jax.tree.leaves(layer.weights)]
    # A threshold is a state that a quiet neuron would reach.
    largest = _largest((threshold, [*parts.values()]))
    # The scale at which the largest state on the inputs fills its width. The threshold of Loihi
    # has no bits for a part of a weight.
    widest = cell.limits[1] // cell.state_scale
    form = cell.weight_format(bits)
    scale = best_scale(weights, form, widest / largest if largest else np.inf)
    if threshold is not None:
        threshold = np.maximum(np.rint(threshold * scale), 1)
    settings = {threshold_name: threshold, "unit": scale * cell.state_scale}
    if adapted is not None:
        settings |= _adaptation(real, cell, adapted, scale)

    def fix(value: jax.Array, limits: tuple[int, ...]) -> Fixed:
        return Fixed(jnp.asarray(value) * like(value, gain), scale, *limits)

    # A bias has no connections. It is as wide as a state.
    return _converted(
        layer,
        lambda weight: fix(weight, form),
        lambda bias: fix(bias, cell.limits),
        cell._replaced(**settings),
    )


def _adaptation(
    real: Any, cell: FixedLIF, adapted: jax.Array, scale: float
) -> dict[str, Any]:
    """Return the parameters of an adaptation that had these values on the inputs."""
    increase = np.asarray(real.adaptation) * scale
    # One more spike than on the inputs. As many bits as there is room for, because a decay is
    # rounded down.
    largest = float(np.max(np.abs(adapted))) * scale + np.max(increase)
    fraction = int(np.clip(np.log2(cell.limits[1] / max(largest, 1)), 0, 12))
    increase = np.minimum(np.rint(increase * 2**fraction), cell.limits[1])
    decay = np.rint(np.asarray(real.adaptation_decay) * cell.most_leak)
    return {
        "adaptation": increase,
        "adaptation_decay": decay,
        "adaptation_fraction": fraction,
    }


def _converted(
    layer: Layer,
    convert: Callable[[Any], Any],
    convert_bias: Callable[[Any], Any],
    cell: Any,
) -> Layer:
    """Return the layer with another cell and functions of each weight and of the bias."""
    weights = {"weight": layer.weight, "recurrent": layer.recurrent}
    changed = jax.tree.map(convert, weights, is_leaf=_is_fixed)
    bias = None if layer.bias is None else convert_bias(layer.bias)
    return dataclasses.replace(layer, cell=cell, bias=bias, **changed)


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
    unit = _fixed_weights(layer)[0].scale * integer.state_scale
    cell = LeakyReadout(decay)
    if threshold is not None:
        names = "reset", "surrogate", "detach_reset"
        options = {name: getattr(integer, name) for name in names}
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

    def real(weight):
        return jnp.asarray(weight.integers * (gain / unit), weight.value.dtype)

    return _converted(layer, real, real, cell)


def _row(
    name: str, before: Any, after: Any, real: Any, integer: Any, valid: float
) -> QuantizedLayer:
    """Return the effects on a layer. ``valid`` is the share of steps without a mask."""
    weights, cell = _fixed_weights(after), after.cell
    scale = weights[0].scale
    pairs = [np.stack([w.integers, w.value]).reshape(2, -1) for w in weights]
    integers, values = np.concatenate(pairs, axis=1)
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
        unit = scale * cell.state_scale
        thresholds = float(np.mean(threshold)), float(np.mean(integer_threshold)) / unit
    return QuantizedLayer(
        name,
        scale,
        float((integers == 0).mean()),
        sum(w.clipped for w in weights),
        float(np.linalg.norm(integers / scale - values) / size),
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
