"""What one layer did over time, in numbers. Nothing here knows a network: a layer is the arrays that were recorded.

The numbers are taken on the host. Compiled, they would take longer to compile than the network itself.
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
from ...surrogates._measures import measure

SMALL = 1e-6
"""A slope below this part of its peak passes nothing: its gradient is lost beside that of others in float32."""
_SAMPLED, _BINS = 65536, 60


class Recorded(NamedTuple):
    """One layer as arrays over time, ``(steps, examples, neurons)`` or with more axes; None where nobody knows."""

    potential: Any
    """Before the spike."""
    distance: Any
    """The potential less the threshold."""
    out: Any
    slope: Any
    """The derivative of the output in the potential."""
    current: Any = None
    """From below, without feedback."""
    free: Any = None
    """The potential as it would be without a spike."""
    gradient: Any = None
    """The gradient of the loss in the currents."""
    received: Any = None
    """That in the outputs, as it comes from the layer above."""
    lagged: Any = None
    """The gradient in the currents of the layer's own outputs in the last step of each example, added with random
    signs."""
    narrow: Any = None
    """In mode "8-bit": which distances are below the least that is kept; and the slope."""
    feedback: Any = None
    """The currents from earlier spikes of the layer, and of layers in a loop with it."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerReport:
    """What one layer did, in numbers; None where nobody knows. Means are over steps, examples and neurons.

    Potentials are those before the spike, as a distance to the threshold where the cell says it (see
    :meth:`~spikegrad.Cell.encode`), and as they are elsewhere.
    """

    name: str
    """``"layer 2"``, counted from 1, or ``"layer 'a'"`` in a network with names."""
    cell: str
    """Name of the class of its cell."""
    fires: bool
    """Whether these are neurons with a threshold, and not a readout."""
    neurons: int
    """Number of neurons."""
    finite: bool
    """Whether no potential is NaN or infinite."""
    rate: float
    """Mean output: of spikes, how many there are per neuron and step."""
    silent: float
    """Share of the neurons that never fire, or whose output is always 0. A soft spike is one from a half on."""
    always: float
    """Share of the neurons that fire in every step of every example."""
    mean: float
    """Mean of the potential, or of its distance to the threshold."""
    std: float
    """Standard deviation of the potential."""
    firing: float = 0.0
    """Share of the steps with at least one spike of a neuron."""
    quiet: float = 0.0
    """Share of the examples without a spike of any neuron."""
    alike: bool = False
    """If True, all neurons have the same potentials and gradients, and no update makes them differ."""
    scale: float | None = None
    """Distance of a neuron at rest to its threshold."""
    surrogate: Surrogate | None = None
    """What makes the spikes; of parameters that differ from neuron to neuron, their means."""
    half_width: float | None = None
    """Half of the slope's width at half of its peak."""
    peak: float | None = None
    """The slope's peak."""
    at: float | None = None
    """Where the slope has its peak."""
    area: float | None = None
    """The slope's area."""
    at_threshold: float | None = None
    """The slope at the threshold."""
    within: float | None = None
    """Share of the potentials whose slope is at least half of the peak: they are within its half-width."""
    reached: float | None = None
    """Share of the potentials whose slope is more than a millionth of the peak."""
    slope: float | None = None
    """Mean slope, in units of the peak."""
    current: float | None = None
    """Mean of the currents from below."""
    currents: tuple[float, ...] = ()
    """Mean of the currents of each neuron, if neurons have one axis."""
    drive: float | None = None
    """Root mean square of the currents from below."""
    feedback: float | None = None
    """Root mean square of the currents from earlier spikes of the layer, and of layers in a loop with it. None without
    such weights."""
    at_rest: float | None = None
    """Share of the neurons that are not below their threshold at rest."""
    channels: tuple[float, ...] = ()
    """Root mean square of the currents from each input channel, if the weight is a matrix."""
    offset: float | None = None
    """Mean of the weights from below, if they are a matrix."""
    free: float | None = None
    """Root mean square of the potential as it would be without a spike, from its value at rest."""
    free_mean: float | None = None
    """Its mean."""
    free_means: float | None = None
    """Root mean square of the means of each neuron."""
    free_each: tuple[float, ...] = ()
    """Root mean square of each neuron, if neurons have one axis."""
    gain: float | None = None
    """Mean square of this potential over that of the currents from below: what the neurons' memory adds up."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of each weight: ``"weight"``, or ``"weight['a']"`` for each source, ``"recurrent"`` and ``"bias"``."""
    weight_gradients: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the gradient of each weight."""
    updates: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the first update of each weight."""
    decays: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the part of each weight that the first update takes away without a gradient: the weight decay."""
    learned: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the first update of each weight, less the update without a gradient."""
    without_epsilon: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of the first update of each weight if the optimizer's epsilon were small beside the gradient."""
    current_gradient: float | None = None
    """Norm of the gradient in the currents."""
    output_gradient: float | None = None
    """Norm of the gradient in the outputs from their readers, without the layer's own recurrent weights."""
    no_gradient: float | None = None
    """Share of the neurons whose currents have a gradient of exactly 0, in all steps and examples."""
    by_step: tuple[float, ...] = ()
    """Norm of the gradient in the currents of each step."""
    by_lag: tuple[float, ...] = ()
    """Norm of the gradient that goes back from the layer's outputs of the last step to its currents so much before."""
    factor: float | None = None
    """By which the norm changes from one lag to the next: a least-squares fit of its logarithm."""
    eight_bit_lost: float | None = None
    """Share of the distances that mode "8-bit" cannot tell from the least that it keeps."""
    eight_bit_error: float | None = None
    """Error of the slopes in mode "8-bit": mean size of the difference over mean size of the slope."""
    edges: tuple[float, ...] = ()
    """Edges of a histogram of the potentials."""
    shares: tuple[float, ...] = ()
    """Share of the potentials between two edges."""

    @property
    def off(self) -> float:
        """Root mean square of the potential about its threshold."""
        return math.hypot(self.mean, self.std)

    @property
    def widths(self) -> float | None:
        """Standard deviation of the potential in units of the slope's half-width."""
        return self.std / self.half_width if self.half_width else None

    @property
    def update(self) -> float | None:
        """Norm of the first update, in units of the norm of what it changes; biases, often 0, are left out."""
        return self._largest_of_weights(self.updates)

    @property
    def update_without_epsilon(self) -> float | None:
        """Norm of the first update in these units, if the optimizer's epsilon were small."""
        return self._largest_of_weights(self.without_epsilon)

    def _largest_of_weights(self, norms: Mapping[str, float]) -> float | None:
        ratios = [norms[name] / w for name, w in self.weights.items() if name in norms and name != "bias" and w]
        return max(ratios, default=None)


def numbers(seen: Recorded, active: np.ndarray, fires: bool, peak: float | None) -> dict[str, Any]:
    """The numbers of one layer, of those steps that are ``active``, ``(steps, examples)``."""
    one_axis = seen.potential.ndim == 3
    seen = jax.tree.map(lambda a: np.asarray(a, bool if a.dtype == bool else np.float32), seen)
    seen = jax.tree.map(lambda a: a.reshape(*a.shape[:2], -1), seen)
    whole = active.all()

    def those(x):
        """The rows of steps that take place."""
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
        found["currents"] = tuple(of_neurons(seen.current).tolist()) if one_axis else ()
        found["drive"] = math.sqrt(mean(seen.current.astype(np.float64) ** 2))
    if seen.feedback is not None:
        found["feedback"] = math.sqrt(mean(seen.feedback.astype(np.float64) ** 2))
    if seen.free is not None:
        power = mean(seen.free.astype(np.float64) ** 2)
        found |= {"free": math.sqrt(power), "free_mean": mean(seen.free)}
        found["free_means"] = math.sqrt(float(np.mean(of_neurons(seen.free) ** 2)))
        found["free_each"] = tuple(np.sqrt(of_neurons(seen.free.astype(np.float64) ** 2)).tolist()) if one_axis else ()
        given = found.get("drive", 0.0) ** 2
        found["gain"] = power / given if given else None
    if seen.gradient is not None:
        found["current_gradient"] = norm(those(seen.gradient))
        found["no_gradient"] = float((seen.gradient == 0).all((0, 1), **rest).mean())
        found["by_step"] = tuple(map(norm, seen.gradient * active[:, :, None]))
        found["alike"] = at.shape[-1] > 1 and seen.gradient.any() and all(map(_same, (at, seen.gradient)))
    if seen.received is not None:
        found["output_gradient"] = norm(those(seen.received))
    if seen.lagged is not None:
        by_lag = [norm(lagged) for lagged in _by_lag(seen.lagged, active)]
        found |= {"by_lag": tuple(by_lag), "factor": factor_per_step(by_lag)}
    if seen.narrow is not None:
        below, narrow = seen.narrow
        found["eight_bit_lost"] = mean(below)
        found["eight_bit_error"] = mean(abs(narrow - seen.slope)) / mean(slope) if slope.any() else 0.0
    return found


def _same(x: np.ndarray) -> bool:
    """If True, all neurons have the same numbers, except for rounding."""
    return bool((x.max(-1) - x.min(-1)).max() <= SMALL * abs(x).max())


def of_matrix(x: np.ndarray, matrix: np.ndarray, active: np.ndarray) -> dict[str, Any]:
    """The numbers of a matrix of weights and its inputs, ``(steps, examples, channels)``."""
    power = np.mean(np.asarray(x, np.float64)[active] ** 2, 0)
    matrix = np.asarray(matrix, np.float64).reshape(len(matrix), -1)  # with receptors: (inputs, neurons, receptors)
    return {
        "channels": tuple(np.sqrt(power * np.mean(matrix**2, 1)).tolist()),
        "offset": float(matrix.mean()),
    }


def of_slope(surrogate: Surrogate) -> dict[str, Any]:
    """The numbers of a slope."""
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
    """The norm of the weights of all sources together, or None if it is unknown."""
    known = [norm for weight, norm in norms.items() if weight not in ("recurrent", "bias")]
    return math.hypot(*known) if known else None


def norm(x: Any) -> float:
    """The Euclidean norm of all numbers of a tree."""
    return math.sqrt(sum(float(np.sum(np.asarray(leaf, np.float64) ** 2)) for leaf in jax.tree.leaves(x)))


def last_steps(active: np.ndarray) -> np.ndarray:
    """The last step of each example that takes place, ``(examples,)``."""
    return len(active) - 1 - np.argmax(active[::-1], 0)


def _by_lag(lagged: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Backwards from the last step of each example, zeros beyond its first."""
    steps = last_steps(active)[None] - np.arange(len(lagged))[:, None]
    there = np.take_along_axis(lagged, np.maximum(steps, 0)[:, :, None], 0)
    return there * (steps >= 0)[:, :, None]


def factor_per_step(by_lag: Iterable[float]) -> float | None:
    """By how much a norm changes from one lag to the next: the least-squares line through its logarithm.

    A norm that is 0 or infinite, as that of a gradient that vanishes or explodes soon is, counts as not there.
    """
    sizes = np.array([*by_lag])
    lags = np.flatnonzero(np.isfinite(sizes) & (sizes > 0))
    return math.exp(np.polyfit(lags, np.log(sizes[lags]), 1)[0]) if len(lags) > 1 else None


def _histogram(x: np.ndarray) -> tuple[tuple, tuple]:
    """Edges and shares of a histogram, from a sample where there are many numbers."""
    x = x.ravel()
    if len(x) > _SAMPLED:
        x = x[np.random.default_rng(0).integers(len(x), size=_SAMPLED)]
    x = x[np.isfinite(x)]
    if not len(x):
        return (), ()
    counts, edges = np.histogram(x, _BINS)
    return tuple(edges.tolist()), tuple((counts / len(x)).tolist())
