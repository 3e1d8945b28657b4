"""From a network of real numbers to one of integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._surrogate import spike_types
from ..network import Delayed, Layer, Network, Window
from ..neurons import LIF, LeakyReadout, SynapticLIF
from ._cells import FixedLIF, IntegerCell, Loihi, RealNeuron, WeightFormat, Xylo
from ._fixed import Fixed, best_scale
from ._replay import integer_layers, whole_inputs

TARGETS: dict[str, IntegerCell] = {
    "fixed": FixedLIF(decay=0, threshold=1),
    "loihi": Loihi(du=0, dv=0, vth=0),
    "xylo": Xylo(dash_mem=1, dash_syn=1, threshold=1),
}
"""A cell for each target. Its formats stay, and its decays and threshold are replaced."""


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
    tau: tuple[float, float]
    """Time constant of the potential in steps, before and after."""
    synaptic_tau: tuple[float, float]
    """Time constant of the current in steps, before and after. 0 without a synapse."""
    peak: float
    """The largest state on the inputs, as a share of its width."""
    rate: tuple[float, float] | None
    """Spikes per neuron and step, before and after. None for a readout."""


class QuantizationReport(NamedTuple):
    """The report of :func:`quantize`. Printed, it is a table."""

    layers: tuple[QuantizedLayer, ...]

    def __str__(self) -> str:
        rows = [[name.replace("_", " ") for name in QuantizedLayer._fields]]
        for layer in self.layers:
            rows.append([])
            for value in layer:
                pair = value if isinstance(value, tuple) else (value,)
                texts = [f"{x:.3g}" if isinstance(x, float) else str(x) for x in pair]
                rows[-1].append("-" if value is None else " > ".join(texts))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows
        )


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
        Layers of :class:`~spikegrad.LIF` or :class:`~spikegrad.SynapticLIF` with matrices as
        weights, also :class:`~spikegrad.Delayed` and :class:`~spikegrad.Window`, and
        :class:`~spikegrad.LeakyReadout`.
    target : {"fixed", "loihi", "xylo"} or IntegerCell
        A cell sets formats, such as ``FixedLIF(0, 1, bits=12, fraction=8)`` for states of 12 bits
        and decay factors of 8. Its decays and thresholds are replaced.
    inputs : array or dict
        Integers to measure states, in the form of a call: spikes or counts.
    bits : int, default 8
        The bits of a weight with its sign, from 2 to 8 on chips and to 16 in fixed-point numbers.
    mask : array of bool, optional
        As in a call.

    Returns
    -------
    network : Network
        The network of integers, with the names and weights of ``network``.
    report : QuantizationReport
        Scales, rounding errors, time constants, peaks of states and rates, before and after.

    Raises
    ------
    TypeError
        For joins, functions as weights, and cells without a counterpart on the target.
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
    ...     jax.random.key(0), spikes, (30, 3), cell, LeakyReadout(0.9)
    ... )
    >>> integers, report = quantize(network, "loihi", spikes)
    >>> bool((integers(spikes)[1] == replay(integers, spikes)[1]).all())
    True
    """
    if isinstance(target, str):
        if target not in TARGETS:
            raise ValueError(
                f"quantize: target must be one of {', '.join(TARGETS)}, got {target!r}"
            )
        target = TARGETS[target]
    most = 16 if isinstance(target, FixedLIF) else 8
    if not 2 <= bits <= most:
        raise ValueError(f"quantize: bits must be from 2 to {most}, got {bits}")
    jax.tree.map(lambda x: whole_inputs("quantize", x), inputs)
    neurons, layers = {}, {}
    # All layers are checked before the network runs.
    for name, layer in network.layers.items():
        try:
            neurons[name] = _real_neuron(layer, isinstance(target, Xylo))
            target.check(neurons[name])
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"quantize: layer {name!r} on {type(target).__name__}: {error}"
            ) from None
    _, real = network.observe(inputs, parts=("output", "pre_spike"), mask=mask)
    for name, layer in network.layers.items():
        states = real[name].pre_spike
        layers[name] = _quantized(layer, target, bits, neurons[name], states)
    if isinstance(target, Xylo):
        for name in network.graph.outputs:  # they fire once a step
            cell = dataclasses.replace(layers[name].cell, n=1)
            layers[name] = dataclasses.replace(layers[name], cell=cell)
    result = dataclasses.replace(network, layers=layers)
    if isinstance(target, Xylo):
        _check_xylo(result)
    _, integer = result.observe(inputs, parts=("output", "pre_spike"), mask=mask)
    rows = [
        _row(name, neurons[name], layer, real[name], integer[name])
        for name, layer in layers.items()
    ]
    return result, QuantizationReport(tuple(rows))


def _quantized(
    layer: Layer, target: IntegerCell, bits: int, neuron: RealNeuron, states: Any
) -> Layer:
    form, gain = target.weight_format(bits), target.gain(neuron)
    weights = [np.asarray(_array(w)) * gain for w in layer.weights.values()]
    # A threshold is a state that a quiet neuron would reach.
    largest = max(
        *(float(jnp.abs(x).max()) for x in jax.tree.leaves(states)),
        0.0 if neuron.threshold is None else float(np.max(neuron.threshold)),
    )
    # The scale at which the largest state on the inputs fills its width.
    widest = target.limits[1] / target.state_scale
    if isinstance(target, Loihi) and neuron.threshold is not None:
        widest = min(widest, (2**17 - 1) / float(np.max(neuron.threshold)) * largest)
    scale = best_scale(weights, form, widest / largest if largest else np.inf)

    def fix(weight):
        value = jnp.asarray(weight)
        # A bias has no connections. It is as wide as a state.
        limits = form if value.ndim > 1 else WeightFormat(*target.limits)
        return Fixed(value * jnp.asarray(gain, value.dtype), scale, *limits)

    return dataclasses.replace(
        _converted(layer, fix), cell=target.converted(neuron, scale)
    )


def _real_neuron(layer: Any, several: bool) -> RealNeuron:
    """Return the parameters of the cell, or raise for what has no integers."""
    if not isinstance(layer, Layer):
        raise TypeError("a join is a function, not integers")
    for weight in map(_array, layer.weights.values()):
        if callable(weight) and not hasattr(weight, "__jax_array__"):
            raise TypeError("a weight is a function; only matrices have integers")
    cell: Any = layer.cell
    if type(cell) not in (LIF, SynapticLIF, LeakyReadout):
        raise TypeError(
            f"a {type(cell).__name__} has no counterpart; use LIF, SynapticLIF or LeakyReadout"
        )
    decay = np.asarray(cell.decay, np.float64)
    gain = 1 - decay if cell.norm_input else np.ones(())
    if isinstance(cell, LeakyReadout):
        return RealNeuron(decay, None, None, "none", gain, {})
    surrogate = cell.surrogate
    if several and [kind.multiple for kind in spike_types(surrogate)] == [True]:
        surrogate = surrogate.surrogate
    for refused, problem in (
        (cell.delay_reset, "resets in the step of a spike, not with delay_reset"),
        (
            np.any(np.asarray(cell.reset_value)),
            f"resets to 0, not to {cell.reset_value}",
        ),
        (spike_types(surrogate), f"lacks the spike type of {cell.surrogate}"),
    ):
        if refused:
            raise ValueError(f"it {problem}")
    synapse = getattr(cell, "synaptic_decay", None)
    return RealNeuron(
        decay,
        None if synapse is None else np.asarray(synapse, np.float64),
        np.asarray(cell.threshold, np.float64),
        cell.reset,
        gain,
        {"surrogate": surrogate, "detach_reset": cell.detach_reset},
    )


def _array(weight: Any) -> Any:
    return weight.weight if isinstance(weight, (Delayed, Window)) else weight


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
        Layers of :class:`~spikegrad.LIF`, :class:`~spikegrad.SynapticLIF` and
        :class:`~spikegrad.LeakyReadout`. Their rounded weights are arrays.

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
    _ = [
        *integer_layers("dequantize", network)
    ]  # raises for what is not made of integers
    return dataclasses.replace(
        network, layers={name: _real(layer) for name, layer in network.layers.items()}
    )


def _real(layer: Layer) -> Layer:
    cell: Any = layer.cell
    decay, synaptic_decay, gain = cell.factors()
    gain = gain / cell.state_scale

    def array(weight):
        value = weight.integers * (gain / weight.scale)
        return jnp.asarray(value, weight.value.dtype)

    scale = next(map(_array, layer.weights.values())).scale * cell.state_scale
    options = {"decay": decay}
    kind: Any = LeakyReadout
    if cell.threshold is not None:
        kind = SynapticLIF if np.any(synaptic_decay) else LIF
        options |= {name: getattr(cell, name) for name in ("surrogate", "detach_reset")}
        options |= {
            "threshold": np.asarray(cell.threshold) / scale,
            "reset": cell.reset,
        }
        if kind is SynapticLIF:
            options["synaptic_decay"] = synaptic_decay
    return dataclasses.replace(_converted(layer, array), cell=kind(**options))


def _converted(layer: Layer, convert: Callable[[Any], Any]) -> Layer:
    """Return the layer with a function of each matrix and of the bias."""

    def apply(weight):
        if weight is None:
            return None
        if isinstance(weight, Mapping):
            return {name: apply(w) for name, w in weight.items()}
        if isinstance(weight, (Delayed, Window)):
            return dataclasses.replace(weight, weight=apply(weight.weight))
        return convert(weight)

    return dataclasses.replace(
        layer,
        weight=apply(layer.weight),
        recurrent=apply(layer.recurrent),
        bias=apply(layer.bias),
    )


def _check_xylo(network: Network) -> None:
    """Raise for delays and sizes that Xylo lacks."""
    *hidden, _ = layers = [*integer_layers("quantize", network)]
    sources = {edge.source: len(edge.weight) for x in layers for edge in x.edges}
    for text, size, most in (
        ("inputs", sum(sources[name] for name in network.graph.inputs), 16),
        ("hidden neurons", sum(layer.neurons for layer in hidden), 1000),
    ):
        if size > most:
            raise ValueError(
                f"quantize: Xylo has {most} {text}, the network has {size}"
            )
    for layer in layers:
        for edge in layer.edges:
            if edge.lag > (edge.source == layer.name):
                raise ValueError(
                    f"quantize: layer {layer.name!r} has a delay of {edge.lag}, Xylo has none"
                )


def _row(
    name: str, neuron: RealNeuron, after: Layer, real: Any, integer: Any
) -> QuantizedLayer:
    weights = [*map(_array, after.weights.values())]
    errors = np.concatenate(
        [(w.integers / w.scale - np.asarray(w.value)).ravel() for w in weights]
    )
    values = np.concatenate([np.asarray(w.value).ravel() for w in weights])
    cell: Any = after.cell
    decay, synaptic_decay, _ = cell.factors()
    synapse = 0.0 if neuron.synaptic_decay is None else neuron.synaptic_decay
    peaks = [np.abs(np.asarray(x)).max() for x in jax.tree.leaves(integer.pre_spike)]
    rates = None
    if neuron.threshold is not None:
        rates = float(real.output.mean()), float(integer.output.mean())
    return QuantizedLayer(
        name,
        weights[0].scale,
        float(np.mean([(w.integers == 0).mean() for w in weights])),
        sum(w.clipped for w in weights),
        float(np.sqrt(np.mean(errors**2) / max(np.mean(values**2), 1e-300))),
        (_tau(neuron.decay), _tau(decay)),
        (_tau(synapse), _tau(synaptic_decay)),
        float(max(peaks) / cell.limits[1]),
        rates,
    )


def _tau(decay: Any) -> float:
    """Return the mean time constant in steps."""
    decay = np.asarray(decay, np.float64)
    with np.errstate(divide="ignore"):
        return float(np.mean(-1 / np.log(decay)))
