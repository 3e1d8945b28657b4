"""The measures of each layer: ratios with a band, outside of which a layer fails to learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._optimizer import updates_of
from .._pytree import is_array, is_real_array, merge, split
from ..network import Activity, Network
from ..neurons import parameters_of, with_parameters
from ..surrogates import measure
from .moves import Move, apply_moves, has_width, surrogate_field
from .trial import Problem, constant_loss, standardized


class Band(NamedTuple):
    """The range of a measure. Outside of it, a layer may fail to learn."""

    low: float
    target: float
    high: float


BANDS = {
    # Spread of the potential without spikes, in distances from rest to the threshold. The target is
    # that of fluctuation-driven initialization. Below the band no fluctuation reaches the
    # threshold, above it every input decides the output.
    "drive": Band(0.1, 1.0, 10.0),
    # Mean of this potential over its spread. A larger one keeps neurons silent, or always firing.
    "offset": Band(-1.0, 0.0, 1.0),
    # Neurons that ever fire. Training wakes some silent neurons, but rarely a layer.
    "firing": Band(0.05, 1.0, 1.0),
    # Spikes per neuron and step. A neuron that fires in most steps tells little.
    "rate": Band(0.0, 0.1, 0.7),
    # Spread of the potential with spikes, over that without: an adaptation or a far reset.
    "recoil": Band(0.0, 1.0, 3.0),
    # Mean slope over its peak: the part of a gradient that passes a spike.
    "reach": Band(0.005, 0.3, 1.0),
    # Peak of the slope times the threshold, 1 for usual surrogates.
    "steepness": Band(0.1, 1.0, 3.0),
    # Largest eigenvalue of the recurrent weights, over the threshold.
    "feedback": Band(0.0, 0.7, 2.0),
    # Size of the nonzero inputs of a channel. Spikes have 1.
    "inputs": Band(0.03, 1.0, 30.0),
    # Mean of a channel over its spread, for inputs that are not spikes.
    "input offset": Band(-3.0, 0.0, 3.0),
    # The loss at the start, over the loss of constant outputs.
    "readout": Band(0.0, 1.0, 3.0),
    # The first update over the weights. Most training rates give about a hundredth.
    "update": Band(1e-4, 0.03, 1.0),
    # Cosine of the first update and the gradient. Momentum of noise may give a small one.
    "ascent": Band(-1.0, -1.0, 0.1),
    # Weights that do not change because their dtype rounds the first update away.
    "lost": Band(0.0, 0.0, 0.5),
    # Part of the weights that an update without gradients removes.
    "decay": Band(0.0, 0.0, 0.01),
    # Steps from the inputs to the outputs that the loss reads, over the longest time constant.
    "memory": Band(0.0, 1.0, 5.0),
}


SMALLER = tuple(10.0**-k for k in range(7))
"""Factors of a readout that is too large."""


def outside(name: str, value: Any) -> int:
    """Return -1 for a value below its band, 1 above it and 0 within."""
    band = BANDS[name]
    return 0 if value is None else int(value > band.high) - int(value < band.low)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerReport:
    """The measures of a layer, over all valid steps, examples and neurons. None if unknown."""

    place: str
    neurons: int
    fires: bool
    rate: float | None = None
    """Spikes per neuron and step."""
    firing: float | None = None
    """Neurons that fire at least once."""
    drive: float | None = None
    """Spread of the potential without spikes, in distances from rest to the threshold."""
    offset: float | None = None
    """Mean of this potential, over its spread. 0 if the mean is below the threshold."""
    recoil: float | None = None
    """Spread of the potential with spikes, over its spread without them."""
    reach: float | None = None
    """Mean slope over its peak."""
    steepness: float | None = None
    """Peak of the slope times the distance from rest to the threshold."""
    feedback: float | None = None
    """Largest eigenvalue of the recurrent matrix, over the same distance."""
    gradient: float | None = None
    """Norm of the gradient of the loss, over the norm of the weights."""
    update: float | None = None
    """Norm of the first update, over the norm of the weights."""
    scale: float | None = None
    """Distance from rest to the threshold. Negative for neurons that fire at rest."""
    distance: tuple[float, float] | None = None
    """Mean and standard deviation of the potential minus the threshold."""
    samples: Any = dataclasses.field(default=None, repr=False)
    """Some of these differences, for the figure."""
    surrogate: Any = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The measures of a network."""

    layers: dict[str, LayerReport]
    loss: float
    constant: float
    """The loss of the better of two constant outputs."""
    not_finite: tuple[str, ...]
    """Arrays of the network, the inputs or gradients with NaN or infinite numbers."""
    update: float | None
    """The first update over the weights: the largest ratio of a layer."""
    ascent: float | None
    """Cosine of the first update and the gradient."""
    decay: float | None
    """Part of the weights that an update without gradients removes."""
    lost: float | None
    """Weights that the first update does not change, because their dtype rounds it away."""
    readout: float
    """The largest of a tenth, a hundredth, ... of the outputs with a usual loss."""
    reads: np.ndarray
    """Gradient of the loss in the outputs of each step."""

    @property
    def is_finite(self) -> bool:
        """If True, no array, gradient or loss is NaN or infinite."""
        return not self.not_finite and bool(np.isfinite(self.loss))


def distance_of(cell: Any, u: Any) -> tuple[jax.Array, Any]:
    """Return the distance to the threshold, and the state after no spike.

    The distance is the argument that the cell passes to its surrogate.
    """
    # The cell itself computes the distance, whatever its threshold. A surrogate that records its
    # argument shows it without a rule for each class.
    arguments: list[jax.Array] = []

    def silent(x, **options):
        arguments.append(x)
        return jnp.zeros_like(x)

    v, _ = with_parameters(cell, **{surrogate_field(cell): silent}).fire(u)
    return arguments[0], v


def quiet_distance(cell: Any, currents: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the distance to the threshold if no neuron fires, and this distance at rest."""
    # Without spikes there are no resets and no adaptation. The potential is then linear in the
    # weights, so its spread tells by which factor to scale them.
    quiet = with_parameters(
        cell, **{surrogate_field(cell): lambda x, **_: jnp.zeros_like(x)}
    )
    start = jax.tree.map(
        jnp.asarray, cell.initial_state(currents.shape[1:], currents.dtype)
    )

    def step(v, current):
        distance, v = distance_of(cell, quiet.integrate(v, current))
        return v, distance

    return jax.lax.scan(step, start, currents)[1], distance_of(cell, start)[0]


def measure_layer(
    cell: Any, activity: Activity, valid: jax.Array
) -> dict[str, jax.Array]:
    """Measure the activity of a layer that fires, within a compiled program, in float32."""
    output, pre_spike, current = jax.tree.map(
        lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a,
        activity,
    )

    def mean(x):
        weight = valid.reshape(valid.shape + (1,) * (x.ndim - 2))
        return jnp.where(weight, x, 0).sum() / jnp.broadcast_to(weight, x.shape).sum()

    def moments(x):
        center = mean(x)
        return center, jnp.sqrt(mean((x - center) ** 2))

    # (steps, examples, ...)
    fired = output != 0  # outputs of masked steps are 0
    # vmap over the steps, because ``fire`` takes the state of one step.
    distance = jax.vmap(lambda u: distance_of(cell, u)[0])(pre_spike)
    quiet, rest = quiet_distance(cell, current)
    center, spread = moments(quiet - rest)
    slope = slope_of(getattr(parameters_of(cell), surrogate_field(cell)), distance)
    return {
        "rate": mean(fired.astype(jnp.float32)),
        "firing": fired.any((0, 1)).mean(),
        "center": center,
        "spread": spread,
        "scale": -rest.mean(),
        "distance": jnp.stack(moments(distance)),
        "slope": mean(jnp.abs(slope)),
        # At most 10,000, evenly spaced, because a figure needs no more and the report stays small.
        "samples": distance.ravel()[:: -(-distance.size // 10_000)],
    }


def slope_of(surrogate: Any, x: Any) -> jax.Array:
    """Return the slope of a surrogate, or of a function with a custom derivative."""
    if hasattr(surrogate, "surrogate_grad"):
        return surrogate.surrogate_grad(x)
    return jax.jvp(surrogate, (x,), (jnp.ones_like(x),))[1]


class Measuring:
    """The compiled measurement of a network. Values of moves are its arguments."""

    def __init__(self, problem: Problem, neutral: Mapping[tuple, Move]) -> None:
        self.problem, self.neutral = problem, neutral
        self.arrays, others = split(problem.network, lambda _, leaf: is_array(leaf))

        @jax.jit
        def run(arrays, inputs, moves):
            return _measured(problem, merge(arrays, others), inputs, moves)

        self._run = run

    def __call__(self, moves: Mapping[tuple, Move]) -> Report:
        compiled = {slot: moves.get(slot, move) for slot, move in self.neutral.items()}
        numbers = self._run(
            self.arrays, dict(self.problem.inputs), [*compiled.values()]
        )
        return _report(self.problem.network, moves, jax.device_get(numbers))


def _measured(
    problem: Problem, network: Network, inputs: Any, moves: Any
) -> dict[str, Any]:
    moves = {move.slot: move for move in moves}
    inputs = standardized(inputs, moves)
    network = apply_moves(network, moves, in_forward=False)
    trainable, static = split(network, lambda _, leaf: is_real_array(leaf))
    valid = problem.valid

    def moved(trainable):
        return apply_moves(merge(trainable, static), moves, in_forward=True)

    # Without a loss, some number of the outputs still shows if gradients reach each layer.
    loss = problem.loss or (
        lambda out: sum(abs(o).mean() for o in jax.tree.leaves(out))
    )

    def loss_of(trainable):
        _, activity = moved(trainable).observe(
            problem.arguments(inputs), **problem.options
        )
        out = _outputs_of(network, activity)
        return loss(out), (dict(activity), out)

    (value, (activity, out)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
        trainable
    )
    read = jax.grad(loss)(out)
    numbers: dict[str, Any] = {
        "loss": value,
        "layers": {
            name: measure_layer(layer.cell, activity[name], valid)
            for name, layer in moved(trainable).graph.layers.items()
            if surrogate_field(layer.cell) is not None
        },
        "neurons": {
            name: activity[name].output[0, 0].size for name in network.graph.layers
        },
        "weights": _norms(trainable),
        "gradients": _norms(gradient),
        "finite": [
            jnp.isfinite(a).all()
            for a in jax.tree.leaves((trainable, inputs, gradient))
        ],
        # (steps,): where the loss reads the outputs, from the norm of its gradient at each step.
        "reads": sum(
            jnp.sqrt(jnp.square(r.astype(jnp.float32)).sum(range(1, r.ndim)))
            for r in jax.tree.leaves(read)
        ),
    }
    if problem.loss is not None:
        numbers["constant"] = constant_loss(problem.loss, out)[0]
        numbers["smaller"] = jnp.stack(
            [problem.loss(jax.tree.map(lambda o, k=k: o * k, out)) for k in SMALLER]
        )
    if problem.optimizer is not None:
        state = problem.optimizer.init(trainable)

        def updates(gradient):
            return updates_of(
                problem.optimizer,
                gradient,
                state,
                trainable,
                value,
                lambda t: loss_of(t)[0],
            )[0]

        # The update for a gradient of zero is the weight decay alone.
        first, still = (
            updates(gradient),
            updates(jax.tree.map(jnp.zeros_like, gradient)),
        )
        numbers["updates"], numbers["decay"] = _norms(first), _norms(still)
        pairs = [*zip(*map(jax.tree.leaves, (first, gradient)), strict=True)]
        dot = sum(
            jnp.vdot(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in pairs
        )
        numbers["ascent"] = dot / (_size(first) * _size(gradient))
        same = [
            # In bfloat16 an update below about 1/256 of a weight is rounded away.
            (w + u.astype(w.dtype) == w) & (u != 0)
            for w, u in zip(*map(jax.tree.leaves, (trainable, first)), strict=True)
        ]
        numbers["lost"] = sum(s.sum() for s in same) / sum(s.size for s in same)
    return numbers


def _size(tree: Any) -> jax.Array:
    return jnp.sqrt(
        # ``+ 0.0``, because the sum of no arrays is an integer.
        sum(jnp.square(a.astype(jnp.float32)).sum() for a in jax.tree.leaves(tree))
        + 0.0
    )


def _norms(network: Any) -> dict[str, jax.Array]:
    """Return the norm of the arrays of each layer, from a tree with the structure of a network."""
    return {name: _size(layer) for name, layer in network.layers.items()}


def _outputs_of(network: Network, activity: Mapping[str, Activity]) -> Any:
    """Return the outputs of a network as a call returns them."""
    outputs = {name: activity[name].output for name in network.graph.outputs}
    return outputs if isinstance(network.outputs, tuple) else outputs.popitem()[1]


def _report(
    network: Network, moves: Mapping[tuple, Move], numbers: dict[str, Any]
) -> Report:
    moved = apply_moves(
        apply_moves(network, moves, in_forward=False), moves, in_forward=True
    )

    def ratio(kind, name):
        norm = numbers["weights"][name]
        return (
            float(numbers[kind][name] / norm) if kind in numbers and norm > 0 else None
        )

    layers = {}
    for name, layer in moved.graph.layers.items():
        measured = numbers["layers"].get(name)
        layers[name] = LayerReport(
            name,
            int(numbers["neurons"][name]),
            fires=measured is not None,
            gradient=ratio("gradients", name),
            update=ratio("updates", name),
            **({} if measured is None else _activity_of(layer, measured)),
        )
    trees = split(network, lambda _, leaf: is_real_array(leaf))[0]
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(trees)
    ]
    # The leaves of a dict are in the order of its sorted keys.
    inputs = [f"inputs {name!r}" for name in sorted(network.graph.inputs)]
    places = [*paths, *inputs, *(f"the gradient of {path}" for path in paths)]
    updates = [layer.update for layer in layers.values() if layer.update is not None]
    decays = [ratio("decay", name) for name in layers]
    return Report(
        layers,
        float(numbers["loss"]),
        float(numbers.get("constant", np.nan)),
        tuple(
            p for p, finite in zip(places, numbers["finite"], strict=True) if not finite
        ),
        max(updates, default=None),
        float(numbers["ascent"]) if "ascent" in numbers else None,
        max((d for d in decays if d is not None), default=None),
        float(numbers["lost"]) if "lost" in numbers else None,
        _readout_scale(numbers),
        np.asarray(numbers["reads"]),
    )


def _readout_scale(numbers: dict[str, Any]) -> float:
    """Return the factor of the outputs that makes the loss usual, the least change first."""
    usual = [
        k
        for k, loss in zip(SMALLER, numbers.get("smaller", ()), strict=False)
        if loss < numbers["constant"] * BANDS["readout"].high / 2
    ]
    return next(iter(usual), SMALLER[-1])


def _activity_of(layer: Any, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a :class:`LayerReport` for neurons that fire."""
    surrogate = getattr(parameters_of(layer.cell), surrogate_field(layer.cell))
    peak = measure(surrogate).peak if has_width(surrogate) else None
    scale, center, spread = (
        float(numbers[key]) for key in ("scale", "center", "spread")
    )
    mean, deviation = map(float, numbers["distance"])
    # A distance of 0 from rest to the threshold would divide by 0.
    size, matrix, feedback = abs(scale) or 1.0, layer.recurrent, None
    if is_array(matrix) and np.ndim(matrix) == 2:
        # Activity grows from step to step along the eigenvector with the largest magnitude. Over
        # the threshold, because a spike needs a potential of that size.
        feedback = (
            float(abs(np.linalg.eigvals(np.asarray(matrix, np.float32))).max()) / size
        )
    return {
        "rate": float(numbers["rate"]),
        "firing": float(numbers["firing"]),
        "drive": spread / size,
        # A mean that is nearer to rest than the threshold neither silences neurons nor makes them
        # fire.
        "offset": center / (spread or 1e-30) if abs(center) > size else 0.0,
        # A tiny spread without spikes is a fault of its own, and its ratio would be noise.
        "recoil": deviation / spread if spread > BANDS["drive"].low * size else None,
        "reach": None if peak is None else float(numbers["slope"]) / peak,
        "steepness": None if peak is None else peak * size,
        "feedback": feedback,
        "scale": scale,
        "distance": (mean, deviation),
        "samples": numbers["samples"],
        "surrogate": surrogate,
    }
