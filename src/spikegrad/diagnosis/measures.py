"""The measures of each layer: ratios with a band, outside of which a layer fails to learn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._optimizer import updates_of
from .._pytree import is_array, is_real_array, merge, split
from .._surrogate import Surrogate
from ..network import Activity, Join, Network
from ..neurons import parameters_of, with_parameters
from ..surrogates import measure
from .moves import Moves, apply_moves, has_width, path_of, surrogate_field
from .trial import DECADE, FACTOR, Problem, Program, constant_loss, standardized


class Band(NamedTuple):
    """The range of a measure. Outside of it, a layer may fail to learn."""

    low: float
    high: float


BANDS = {
    # Distance from rest to the threshold.
    "scale": Band(0.0, math.inf),
    # Spread of the potential without spikes, in distances from rest to the threshold. It is 1 after
    # fluctuation-driven initialization. Below the band no fluctuation reaches the
    # threshold, above it every input decides the output.
    "drive": Band(1 / DECADE, DECADE),
    # Mean of this potential over its spread. A larger one keeps neurons silent, or always firing.
    "offset": Band(-1.0, 1.0),
    # Neurons that ever fire. Training wakes some silent neurons, but rarely a layer.
    "firing": Band(0.05, 1.0),
    # Spikes per neuron and step. A neuron that fires in most steps tells little.
    "rate": Band(0.0, 0.7),
    # Spread of the potential with spikes, over that without: an adaptation or a far reset.
    "recoil": Band(0.0, FACTOR),
    # Mean slope over its peak: the part of a gradient that passes a spike.
    "reach": Band(0.005, 1.0),
    # Peak of the slope times the threshold, 1 for usual surrogates.
    "steepness": Band(1 / DECADE, FACTOR),
    # Largest eigenvalue of the recurrent weights, over the threshold. From 1 on, activity grows.
    "feedback": Band(0.0, FACTOR),
    # Size of the nonzero inputs of a channel. Spikes have 1.
    "inputs": Band(1 / DECADE / FACTOR, DECADE * FACTOR),
    # Mean of a channel over its spread, for inputs that are not spikes.
    "input offset": Band(-FACTOR, FACTOR),
    # The loss at the start, over the loss of constant outputs.
    "readout": Band(0.0, FACTOR),
    # The first update over the weights. With a smaller one, a thousand updates change less than a
    # tenth, and a larger one replaces the weights.
    "update": Band(DECADE**-4, 1.0),
    # Cosine of the first update and the gradient. Momentum of noise may give a small one.
    "ascent": Band(-1.0, 1 / DECADE),
    # Most weights do not change because their dtype rounds the first update away.
    "lost": Band(0.0, 0.5),
    # Part of the weights that an update without gradients removes: most of them in 100 updates.
    "decay": Band(0.0, 1 / DECADE**2),
    # Steps from the inputs to the outputs that the loss reads, over the longest time constant.
    # After three of them a twentieth is left.
    "memory": Band(0.0, FACTOR),
}


SMALLER = tuple(DECADE**-k for k in range(1, 7))
"""Factors of weights that are too large."""
USUAL_UPDATE = FACTOR / DECADE**2
"""The first update over the weights at usual learning rates, such as Adam at 1e-3 to 1e-2."""
FAST_COMPILATION = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""Options of XLA that halve the time of a compilation."""


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
    """Largest eigenvalue of the recurrent matrix, over the same distance, for a drive above 3."""
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


class Report(NamedTuple):
    """The measures of a network."""

    layers: dict[str, LayerReport]
    outputs: dict[str, np.ndarray]
    """The outputs of each layer and join."""
    joins: dict[str, float]
    """The size of the derivative of each join."""
    loss: float
    constant: float
    """The loss of the better of two constant outputs."""
    not_finite: list[str]
    """Arrays of the network, the inputs or gradients with NaN or infinite numbers."""
    update: float | None
    """The first update over the weights: the largest ratio of a layer."""
    ascent: float | None
    """Cosine of the first update and the gradient."""
    decay: float | None
    """Part of the weights that an update without gradients removes."""
    lost: float | None
    """Weights that the first update does not change, because their dtype rounds it away."""
    reads: np.ndarray
    """Size of the gradient of the loss in the outputs of each step."""

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.loss)) and not self.not_finite


class Recorder(Surrogate):
    """A surrogate that never fires and remembers its argument."""

    def __init__(self) -> None:
        self.x: Any = None

    def __call__(self, x: Any, **options: Any) -> jax.Array:
        self.x = x
        return jnp.zeros_like(x)


def quieted(cell: Any) -> tuple[Any, Recorder]:
    """Return a cell that never fires, and the recorder of its distances to the threshold."""
    # The cell itself computes the distance, whatever its threshold. A surrogate that records its
    # argument shows it without a rule for each class.
    recorder = Recorder()
    return with_parameters(cell, **{surrogate_field(cell): recorder}), recorder


def distance_of(cell: Any, u: Any) -> tuple[jax.Array, Any]:
    """Return the distance to the threshold, and the state after no spike.

    The distance is the argument that the cell passes to its surrogate.
    """
    quiet, recorder = quieted(cell)
    v, _ = quiet.fire(u)
    return recorder.x, v


def quiet_distance(cell: Any, currents: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the distance to the threshold if no neuron fires, and this distance at rest."""
    # Without spikes there are no resets and no adaptation. The potential is then linear in the
    # weights, so its spread tells by which factor to scale them.
    start = jax.tree.map(
        jnp.asarray, cell.initial_state(currents.shape[1:], currents.dtype)
    )

    # A delayed reset fires in ``integrate``, so that part is quiet too.
    quiet, _ = quieted(cell)

    def step(v, current):
        distance, v = distance_of(cell, quiet.integrate(v, current))
        return v, distance

    return jax.lax.scan(step, start, currents)[1], distance_of(cell, start)[0]


def observe_layer(cell: Any, activity: Activity) -> dict[str, jax.Array]:
    """Return distances to the threshold of a layer that fires, and its slopes, in float32.

    The result is empty for a cell that does not pass its distance to a field.
    """
    if surrogate_field(cell) is None:
        return {}
    _, pre_spike, current = jax.tree.map(
        lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a,
        activity,
    )
    # vmap over the steps, because ``fire`` takes the state of one step.
    distance = jax.vmap(lambda u: distance_of(cell, u)[0])(pre_spike)
    if distance is None:
        return {}
    quiet, rest = quiet_distance(cell, current)
    slope = slope_of(getattr(parameters_of(cell), surrogate_field(cell)), distance)
    return {"distance": distance, "quiet": quiet, "rest": rest, "slope": slope}


def slope_of(surrogate: Any, x: Any) -> jax.Array:
    """Return the slope of a surrogate, or of a function with a custom derivative."""
    if hasattr(surrogate, "surrogate_grad"):
        return surrogate.surrogate_grad(x)
    return jax.jvp(surrogate, (x,), (jnp.ones_like(x),))[1]


def measuring(problem: Problem, neutral: Moves) -> Callable[[Moves], Report]:
    """Return the compiled measurement of a network with moves."""
    # It runs a few times only, so compiling it is most of its time.
    program = Program(_observed, problem, neutral, compiler_options=FAST_COMPILATION)
    return lambda moves: _report(problem, moves, program.run(moves))


def _observed(problem: Problem, network: Network, inputs: Any, moves: Any):
    """Return the arrays of all measures. NumPy reduces them, which takes no compilation."""
    moves = {move.slot: move for move in moves}
    inputs = standardized(inputs, moves)
    network = apply_moves(network, moves, in_forward=False)
    trainable, static = split(network, lambda _, leaf: is_real_array(leaf))

    def moved(trainable):
        return apply_moves(merge(trainable, static), moves, in_forward=True)

    # Without a loss, some number of the outputs still shows if gradients reach each layer.
    loss = problem.loss or mean_size

    def outputs_of(trainable):
        _, activity = moved(trainable).observe(
            problem.arguments(inputs), **problem.options
        )
        outputs = {name: activity[name].output for name in network.graph.outputs}
        is_dict = isinstance(network.outputs, tuple)
        return outputs if is_dict else outputs.popitem()[1], dict(activity)

    out, pullback, activity = jax.vjp(outputs_of, trainable, has_aux=True)
    value, read = jax.value_and_grad(loss)(out)
    (gradient,) = pullback(read)
    graph = moved(trainable).graph
    outputs = {name: activity[name].output for name in graph.nodes}
    arrays: dict[str, Any] = {
        "loss": value,
        "constant": constant_loss(loss, out)[0],
        "layers": {
            name: observe_layer(layer.cell, activity[name])
            for name, layer in graph.layers.items()
        },
        "outputs": outputs,
        "joins": {
            name: derivative_of(
                node, [(outputs | inputs)[e.source] for e in graph.edges[name]], problem
            )
            for name, node in graph.nodes.items()
            if isinstance(node, Join)
        },
        "weights": trainable,
        "gradients": gradient,
        "inputs": inputs,
        "reads": sum(
            abs(jnp.float32(r)).reshape(len(r), -1).sum(1)
            for r in jax.tree.leaves(read)
        ),
    }
    if problem.optimizer is not None:
        state = problem.optimizer.init(trainable)

        def updates(size):
            return updates_of(
                problem.optimizer,
                jax.tree.map(lambda g: jnp.where(size > 0, g, 0), gradient),
                state,
                trainable,
                value,
                lambda t: loss(outputs_of(t)[0]),
            )[0]

        # The update for a gradient of zero is the weight decay alone.
        both = jax.lax.map(updates, jnp.arange(2))
        arrays["updates"] = [jax.tree.map(lambda u, k=k: u[k], both) for k in (0, 1)]
    return arrays


def derivative_of(join: Join, sources: list[jax.Array], problem: Problem) -> jax.Array:
    """Return the size of the derivative of a join, or 1 of functions of integers."""
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in sources):
        return jnp.ones(())
    function = join.function if join.over_time else jax.vmap(join.function)
    is_masked = join.over_time and problem.mask is not None
    options = {"mask": problem.valid} if is_masked else {}
    # A join over time may return statistics after the sequence.
    out, pullback = jax.vjp(
        lambda *x: jax.tree.leaves(function(*x, **options))[0], *sources
    )
    # At random, because ones have no derivative through a normalization.
    along = jax.random.normal(jax.random.key(0), out.shape, out.dtype)
    return sum((abs(g).sum() for g in pullback(along)), jnp.zeros(()))


def mean_size(outputs: Any) -> jax.Array:
    """Return a number of the outputs, for networks without a loss."""
    return sum((abs(o).mean() for o in jax.tree.leaves(outputs)), jnp.zeros(()))


def _norm(tree: Any) -> float:
    # In float64, because half precision would overflow.
    return math.hypot(*(np.linalg.norm(np.float64(a)) for a in jax.tree.leaves(tree)))


def _report(problem: Problem, moves: Moves, arrays: dict[str, Any]) -> Report:
    network = apply_moves(problem.network, moves, in_forward=False)
    network = apply_moves(network, moves, in_forward=True)
    weights, gradient, outputs = (
        arrays[name] for name in ("weights", "gradients", "outputs")
    )
    still, first = arrays.get("updates", (None, None))
    ascent = lost = None
    if first is not None:
        pairs = [*zip(*map(jax.tree.leaves, (weights, first, gradient)), strict=True)]
        dot = sum(np.vdot(np.float64(u), np.float64(g)) for _, u, g in pairs)
        ascent = float(dot) / (_norm(first) * _norm(gradient) or 1.0)
        # In bfloat16 an update below about 1/256 of a weight is rounded away.
        same = [np.ravel((w + u == w) & (u != 0)) for w, u, _ in pairs]
        lost = float(np.concatenate(same).mean())

    def ratio(tree, name):
        size = _norm(weights.layers[name])
        return None if tree is None or not size else _norm(tree.layers[name]) / size

    def largest(tree):
        ratios = [r for name in layers if (r := ratio(tree, name)) is not None]
        return float(np.max(ratios)) if ratios else None

    layers = {}
    for name, layer in network.graph.layers.items():
        observed, output = arrays["layers"][name], outputs[name]
        activity = _activity_of(layer, observed, problem) if observed else {}
        if observed or _hides_spikes(layer.cell, output):
            fired = output[np.asarray(problem.valid)] != 0
            activity |= {"rate": fired.mean(), "firing": fired.any(0).mean()}
        layers[name] = LayerReport(
            name,
            output[0, 0].size,
            bool(observed),
            gradient=ratio(gradient, name),
            update=ratio(first, name),
            **activity,
        )
    trees = {"": weights, "inputs ": arrays["inputs"], "the gradient of ": gradient}
    not_finite = [
        prefix + path_of(path)
        for prefix, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(np.float32(leaf)).all()
    ]
    return Report(
        layers,
        outputs,
        arrays["joins"],
        float(arrays["loss"]),
        float(arrays["constant"]),
        not_finite,
        largest(first),
        ascent,
        largest(still),
        lost,
        arrays["reads"],
    )


def _hides_spikes(cell: Any, output: np.ndarray) -> bool:
    """Return True for spikes of a cell that makes its surrogate in ``fire``."""
    if not np.isin(output, (0, 1)).all():
        return False
    # A readout has no derivative of its own, although it may be 0 too.
    state = cell.initial_state(output.shape[1:], output.dtype)
    return "custom_" in str(jax.make_jaxpr(cell.fire)(state))


@np.errstate(invalid="ignore")  # potentials may be infinite
def _activity_of(layer: Any, arrays: Any, problem: Problem) -> dict[str, Any]:
    """Return the fields of a :class:`LayerReport` for neurons that fire."""
    surrogate = getattr(parameters_of(layer.cell), surrogate_field(layer.cell))
    peak = measure(surrogate).peak if has_width(surrogate) else None
    valid = np.asarray(problem.valid)
    # (valid steps, neurons), without the steps that a mask excludes, whose outputs are 0.
    distance, quiet, slope = (
        arrays[name][valid].astype(np.float64)
        for name in ("distance", "quiet", "slope")
    )
    rest = arrays["rest"].astype(np.float64)
    quiet -= rest[0]
    scale, center, spread = -rest.mean(), quiet.mean(), quiet.std()
    # A distance of 0 from rest to the threshold would divide by 0.
    size, matrix, feedback = abs(scale) or 1.0, layer.recurrent, None
    # A neuron fires at most once per step, which bounds the feedback. It counts only with a strong
    # drive.
    if is_array(matrix) and np.ndim(matrix) == 2 and spread > FACTOR * size:
        # Activity grows from step to step along the eigenvector with the largest magnitude. Over
        # the threshold, because a spike needs a potential of that size.
        feedback = abs(np.linalg.eigvals(np.float32(matrix))).max() / size
    deviation = distance.std()
    return {
        "drive": spread / size,
        # A mean that is nearer to rest than the threshold neither silences neurons nor makes them
        # fire.
        "offset": center / (spread or 1e-30) if abs(center) > size else 0.0,
        # A tiny spread without spikes is a fault of its own, and its ratio would be noise.
        "recoil": deviation / spread if spread > BANDS["drive"].low * size else None,
        "reach": None if peak is None else abs(slope).mean() / peak,
        "steepness": None if peak is None else peak * size,
        "feedback": feedback,
        "scale": scale,
        "distance": (distance.mean(), deviation),
        # At most 10,000, evenly spaced, because a figure needs no more.
        "samples": distance.ravel()[:: -(-distance.size // 10_000)],
        "surrogate": surrogate,
    }
