"""Statistics of one layer over time, computed from recorded arrays and independent of a network.

NumPy computes the statistics. Their compilation would take longer than the compilation of the
network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._surrogate import Surrogate
from ...surrogates import measure

SMALL = 1e-6
"""The smallest relevant slope, as a fraction of its peak.

In float32, smaller gradients are lost in a sum.
"""
_SAMPLED, _BINS = 65536, 60


class Recorded(NamedTuple):
    """Recorded arrays of one layer, ``(steps, examples, neurons)`` or with more axes.

    None if unknown.
    """

    potential: Any
    """The potential before the spike."""
    distance: Any
    """The potential minus the threshold."""
    out: Any
    slope: Any
    """The derivative of the output with respect to the potential."""
    current: Any = None
    """The current from other layers and inputs, without feedback."""
    free: Any = None
    """The potential of neurons that never fire."""
    gradient: Any = None
    """The gradient of the loss with respect to the currents."""
    received: Any = None
    """The gradient with respect to the outputs, from the layers above."""
    lagged: Any = None
    """The gradient with respect to the currents, of the layer's outputs in the last step of each
    example, added with
    random signs."""
    narrow: Any = None
    """For mode "8-bit": a mask of distances stored as zero or the smallest magnitude, and the
    slopes after storage.
    """
    feedback: Any = None
    """The currents from earlier spikes of the layer, and of layers in a loop with it."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerReport:
    """Statistics of one layer. Unknown values are None. Means are over steps, examples and neurons.

    Potentials are from before the spike. If the cell defines :meth:`~spikegrad.Cell.encode`, they
    are relative to the threshold.
    """

    name: str
    """``"layer 2"``, counted from 1, or ``"layer 'a'"`` in a network with names."""
    cell: str
    """Name of the class of its cell."""
    fires: bool
    """True for neurons with a threshold, False for a readout."""
    neurons: int
    """Number of neurons."""
    finite: bool
    """True if all potentials are finite."""
    rate: float
    """Mean output. For spikes, their number per neuron and step."""
    silent: float
    """Fraction of neurons that never fire, or with an output of 0 in every step.

    A soft spike counts from 1/2.
    """
    always: float
    """Fraction of neurons that fire in every step of every example."""
    mean: float
    """Mean of the potential, or of its distance to the threshold."""
    std: float
    """Standard deviation of the potential."""
    firing: float = 0.0
    """Fraction of steps with a spike, over all neurons and examples."""
    quiet: float = 0.0
    """Fraction of examples without any spike."""
    alike: bool = False
    """If True, all neurons have the same potentials and gradients, and no update makes them differ.
    """
    scale: float | None = None
    """Distance of a neuron at rest to its threshold."""
    surrogate: Surrogate | None = None
    """The surrogate, with the means of parameters that differ between neurons."""
    half_width: float | None = None
    """Half-width of the slope at half maximum."""
    peak: float | None = None
    """Peak of the slope."""
    at: float | None = None
    """Position of the peak of the slope."""
    area: float | None = None
    """Area of the slope."""
    at_threshold: float | None = None
    """Slope at the threshold."""
    within: float | None = None
    """Fraction of potentials with a slope of at least half of the peak, which is within the
    half-width.
    """
    reached: float | None = None
    """Fraction of potentials with a slope above a millionth of the peak."""
    slope: float | None = None
    """Mean slope, in units of the peak."""
    current: float | None = None
    """Mean of the currents from other layers and inputs."""
    currents: tuple[float, ...] = ()
    """Mean of the currents of each neuron, if neurons have one axis."""
    drive: float | None = None
    """Root mean square of the currents from other layers and inputs."""
    feedback: float | None = None
    """Root mean square of the currents from earlier spikes of the layer, and of layers in a loop
    with it.

    None without
    such weights."""
    at_rest: float | None = None
    """Fraction of neurons at or above their threshold at rest."""
    channels: tuple[float, ...] = ()
    """Root mean square of the currents from each input channel, if the weight is a matrix."""
    offset: float | None = None
    """Mean of the input weights, if they are a matrix."""
    recurrent_offset: float | None = None
    """Mean of the recurrent weights, if they are a matrix of mostly one sign."""
    free: float | None = None
    """Root mean square of the potential without spikes, relative to its value at rest."""
    free_mean: float | None = None
    """Mean of the potential without spikes."""
    free_means: float | None = None
    """Root mean square, over neurons, of the means of the potential without spikes."""
    free_each: tuple[float, ...] = ()
    """Root mean square of the potential without spikes of each neuron, if neurons have one axis."""
    gain: float | None = None
    """Mean square of the potential without spikes, over the mean square of the input currents: the
    memory's gain.
    """
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of each weight:

    ``"weight"``, or ``"weight['a']"`` for each source, ``"recurrent"`` and ``"bias"``.
    """
    dtype: str | None = None
    """The narrowest dtype of its weights and bias."""
    weight_gradients: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the gradient of each weight."""
    updates: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the first update of each weight."""
    decays: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the part along the weight in its first update for a gradient of 0, which is the
    weight decay.
    """
    learned: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the first update of each weight, without the weight decay."""
    rounded: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the part of the first update that the dtype of each weight rounds away."""
    without_epsilon: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the first update of each weight for an optimizer with negligible epsilon."""
    current_gradient: float | None = None
    """Norm of the gradient with respect to the currents."""
    output_gradient: float | None = None
    """Norm of the gradient with respect to the outputs, from readers other than the layer itself.
    """
    no_gradient: float | None = None
    """Fraction of neurons with a gradient of exactly 0 with respect to the currents, in all steps
    and examples.
    """
    by_step: tuple[float, ...] = ()
    """Norm of the gradient with respect to the currents of each step."""
    by_lag: tuple[float, ...] = ()
    """Norm of the gradient of the layer's outputs in the last step with respect to its currents, by
    lag in steps.
    """
    factor: float | None = None
    """Factor of this norm per step of lag: a least-squares fit of its logarithm."""
    eight_bit_lost: float | None = None
    """Fraction of distances that mode "8-bit" stores as zero or as the smallest magnitude."""
    eight_bit_error: float | None = None
    """Error of the slopes in mode "8-bit": mean absolute difference over mean absolute slope."""
    edges: tuple[float, ...] = ()
    """Edges of a histogram of the potentials."""
    shares: tuple[float, ...] = ()
    """Fraction of potentials between two edges."""

    @property
    def off(self) -> float:
        """Root mean square distance of the potential from its threshold."""
        return math.hypot(self.mean, self.std)

    @property
    def widths(self) -> float | None:
        """Standard deviation of the potential in units of the slope's half-width."""
        return self.std / self.half_width if self.half_width else None

    @property
    def update(self) -> float | None:
        """Norm of the first update over the norm of the weight: the maximum over weights.

        Biases are excluded.
        """
        return self._largest_of_weights(self.updates)

    @property
    def update_without_epsilon(self) -> float | None:
        """``update`` for an optimizer with negligible epsilon."""
        return self._largest_of_weights(self.without_epsilon)

    @property
    def update_from_zero(self) -> float:
        """Norm of the first update of weights that are zero, over the norm of usual weights: the
        maximum over weights.

        With n inputs, usual weights have a deviation of 1/sqrt(n), and so a norm of the square root
        of the neurons.
        """
        norms = [
            self.updates[name] for name, w in self.weights.items() if not w and name in self.updates
        ]
        return max(norms, default=0.0) / math.sqrt(self.neurons)

    @property
    def rounded_away(self) -> float:
        """Norm of the part of the first update that is rounded away, over the norm of the
        update."""
        return norm([*self.rounded.values()]) / (norm([*self.updates.values()]) or 1.0)

    def _largest_of_weights(self, norms: Mapping[str, float]) -> float | None:
        ratios = [
            norms[name] / w
            for name, w in self.weights.items()
            if name in norms and name != "bias" and w
        ]
        return max(ratios, default=None)


def numbers(seen: Recorded, active: np.ndarray, fires: bool, peak: float | None) -> dict[str, Any]:
    """Return the statistics of one layer over the ``active`` steps, ``(steps, examples)``."""
    one_axis = seen.potential.ndim == 3
    seen = jax.tree.map(lambda a: np.asarray(a, bool if a.dtype == bool else np.float32), seen)
    seen = jax.tree.map(lambda a: a.reshape(*a.shape[:2], -1), seen)
    whole = active.all()

    def those(x):
        """Select the active steps."""
        return x if whole else x[active]

    def mean(x):
        return float(np.mean(those(x), dtype=np.float64))

    def of_neurons(x):
        return those(x).reshape(-1, x.shape[-1]).mean(0, dtype=np.float64)

    at = seen.potential if seen.distance is None else seen.distance
    rest = {} if whole else {"where": active[:, :, None]}
    fired = abs(seen.out) >= 0.5 if fires else seen.out != 0
    found: dict[str, Any] = {
        "fires": fires,
        "neurons": at.shape[-1],
        "finite": bool(np.isfinite(those(at)).all()),
        "rate": mean(seen.out),
        "silent": float((~fired.any((0, 1), **rest)).mean()),
        "always": float(fired.all((0, 1), **rest).mean()),
        "firing": mean(fired),
        "quiet": float((~fired.any((0, 2), **rest)).mean()),
        "mean": mean(at),
        "std": float(np.std(those(at), dtype=np.float64)),
    }
    found["edges"], found["shares"] = _histogram(those(at))
    slope = abs(seen.slope)
    if fires:
        peak = float(those(slope).max()) if peak is None else abs(peak)
        found |= {"reached": mean(slope > SMALL * peak), "within": mean(slope >= peak / 2)}
        found["slope"] = mean(slope) / peak if peak else 0.0
    if seen.current is not None:
        found["current"] = mean(seen.current)
        # With receptors, a neuron has several currents.
        alone = one_axis and seen.current.shape == seen.potential.shape
        found["currents"] = tuple(of_neurons(seen.current).tolist()) if alone else ()
        found["drive"] = math.sqrt(mean(seen.current.astype(np.float64) ** 2))
    if seen.feedback is not None:
        found["feedback"] = math.sqrt(mean(seen.feedback.astype(np.float64) ** 2))
    if seen.free is not None:
        power = mean(seen.free.astype(np.float64) ** 2)
        found |= {"free": math.sqrt(power), "free_mean": mean(seen.free)}
        found["free_means"] = math.sqrt(float(np.mean(of_neurons(seen.free) ** 2)))
        found["free_each"] = (
            tuple(np.sqrt(of_neurons(seen.free.astype(np.float64) ** 2)).tolist())
            if one_axis
            else ()
        )
        given = found.get("drive", 0.0) ** 2
        found["gain"] = power / given if given else None
    if seen.gradient is not None:
        found["current_gradient"] = norm(those(seen.gradient))
        found["no_gradient"] = float((seen.gradient == 0).all((0, 1), **rest).mean())
        found["by_step"] = tuple(map(norm, seen.gradient * active[:, :, None]))
        found["alike"] = at.shape[-1] > 1 and all(map(_same, (at, seen.gradient)))
    if seen.received is not None:
        found["output_gradient"] = norm(those(seen.received))
    if seen.lagged is not None:
        by_lag = [norm(lagged) for lagged in _by_lag(seen.lagged, active)]
        found |= {"by_lag": tuple(by_lag), "factor": factor_per_step(by_lag)}
    if seen.narrow is not None:
        below, narrow = seen.narrow
        found["eight_bit_lost"] = mean(below)
        found["eight_bit_error"] = (
            mean(abs(narrow - seen.slope)) / mean(slope) if slope.any() else 0.0
        )
    return found


def _same(x: np.ndarray) -> bool:
    """If True, all neurons have equal values, except for rounding."""
    return bool((x.max(-1) - x.min(-1)).max() <= SMALL * abs(x).max())


def of_matrix(x: np.ndarray, matrix: np.ndarray, active: np.ndarray) -> dict[str, Any]:
    """Return the statistics of a weight matrix and its inputs, ``(steps, examples, channels)``."""
    power = np.mean(np.asarray(x, np.float64)[active] ** 2, 0)
    matrix = np.asarray(matrix, np.float64).reshape(
        len(matrix), -1
    )  # with receptors: (inputs, neurons, receptors)
    return {
        "channels": tuple(np.sqrt(power * np.mean(matrix**2, 1)).tolist()),
        "offset": float(matrix.mean()),
    }


def offset_of_one_sign(matrix: np.ndarray) -> float | None:
    """Return the mean of recurrent weights if it is larger than three standard errors of a neuron's
    mean weight.
    """
    matrix = np.asarray(matrix, np.float64)
    mean = float(matrix.mean())
    return mean if abs(mean) * math.sqrt(len(matrix)) > 3 * matrix.std() else None


def of_slope(surrogate: Surrogate) -> dict[str, Any]:
    """Return the measures of a slope."""
    found = measure(surrogate)
    here = float(surrogate.surrogate_grad(jnp.zeros((), jnp.float32)))
    return {
        "half_width": found.half_width,
        "peak": found.peak,
        "at": found.at,
        "area": found.area,
        "at_threshold": here,
    }


def norm_of_sources(norms: Mapping[str, float]) -> float | None:
    """Return the norm of the weights of all sources, or None if unknown."""
    known = [norm for weight, norm in norms.items() if weight not in ("recurrent", "bias")]
    return math.hypot(*known) if known else None


def norm(x: Any) -> float:
    """Return the Euclidean norm of all values of a pytree."""
    return math.sqrt(
        sum(float(np.sum(np.asarray(leaf, np.float64) ** 2)) for leaf in jax.tree.leaves(x))
    )


def last_steps(active: np.ndarray) -> np.ndarray:
    """Return the last active step of each example, ``(examples,)``."""
    return len(active) - 1 - np.argmax(active[::-1], 0)


def _by_lag(lagged: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Reverse time from the last active step of each example, with zeros before its first step."""
    steps = last_steps(active)[None] - np.arange(len(lagged))[:, None]
    there = np.take_along_axis(lagged, np.maximum(steps, 0)[:, :, None], 0)
    return there * (steps >= 0)[:, :, None]


def factor_per_step(by_lag: Iterable[float]) -> float | None:
    """Return the factor of a norm per step of lag, from a least-squares line through its logarithm.

    Norms of 0 and infinite norms are excluded. A vanishing or exploding gradient soon has such
    norms.
    """
    sizes = np.array([*by_lag])
    lags = np.flatnonzero(np.isfinite(sizes) & (sizes > 0))
    return math.exp(np.polyfit(lags, np.log(sizes[lags]), 1)[0]) if len(lags) > 1 else None


def _histogram(x: np.ndarray) -> tuple[tuple, tuple]:
    """Return edges and fractions of a histogram. Large arrays are sampled."""
    x = x.ravel()
    if len(x) > _SAMPLED:
        x = x[np.random.default_rng(0).integers(len(x), size=_SAMPLED)]
    x = x[np.isfinite(x)].astype(np.float64)
    if not len(x):
        return (), ()
    low, high = float(x.min()), float(x.max())
    around = SMALL * max(abs(low), abs(high))
    if high - low <= around:  # NumPy raises if the bins are too narrow for the dtype
        low, high = low - max(around, 0.5), high + max(around, 0.5)
    counts, edges = np.histogram(x, _BINS, (low, high))
    return tuple(edges.tolist()), tuple((counts / len(x)).tolist())
