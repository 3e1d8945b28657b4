"""The measures of each layer: ratios with a band, outside of which a layer fails to learn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._compat import called, equations
from .._optimizer import updates_of
from .._pytree import is_array, is_real_array, merge, split
from ..network import Activity, Delayed, Join, Network, Window
from ..neurons import quiet_cell, surrogate_of
from ..surrogates import measure
from .moves import Moves, apply_moves, has_arrays, has_width
from .trial import Problem, compiled, constant_loss

BANDS = {
    # Distance from rest to the threshold.
    "scale": (0.0, math.inf),
    # Spread of the potential without spikes, in distances from rest to the threshold. It is 1 after
    # fluctuation-driven initialization. Below the band no fluctuation reaches the
    # threshold, above it every input decides the output.
    "drive": (0.1, 10.0),
    # Mean of this potential over its spread. A larger one keeps neurons silent, or always firing.
    "offset": (-1.0, 1.0),
    # Neurons that ever fire. Training wakes some silent neurons, but rarely a layer.
    "firing": (0.05, 1.0),
    # Spikes per neuron and step. A neuron that fires in most steps tells little.
    "rate": (0.0, 0.7),
    # Spread of the potential with spikes, over that without: an adaptation or a far reset.
    "recoil": (0.0, 3.0),
    # Mean slope over its peak: the part of a gradient that passes a spike.
    "reach": (0.005, 1.0),
    # Peak of the slope times the threshold, 1 for usual surrogates.
    "steepness": (0.1, 3.0),
    # Largest eigenvalue of the recurrent weights, over the threshold. From 1 on, activity grows.
    "feedback": (0.0, 3.0),
    # Size of the nonzero inputs of a channel. Spikes have 1.
    "inputs": (1 / 30, 30.0),
    # The first update over the weights. With a smaller one, a thousand updates change less than a
    # tenth, and a larger one replaces the weights.
    "update": (1e-4, 1.0),
    # Cosine of the first update and the gradient. Momentum of noise may give a small one.
    "ascent": (-1.0, 0.1),
    # Part of the weights that an update without gradients removes: most of them in 100 updates.
    "decay": (0.0, 0.01),
}
"""The range of each measure. Outside of it, a layer may fail to learn."""
STRONG_DRIVE = 3.0
"""The drive from which spikes limit the potential, so feedback cannot hide in a weak one."""
WEAK_DRIVE = 0.1
"""Below this drive, the spread of the potential with spikes over that without is noise."""
SAMPLES = 10_000
"""The largest number of potentials of a layer for the figure, which needs no more."""
FAST_COMPILATION = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""Options of XLA that halve the time of a compilation."""


def outside(name: str, value: Any) -> int:
    """Return -1 for a value below its band, 1 above it and 0 within."""
    low, high = BANDS[name]
    return 0 if value is None else int(value > high) - int(value < low)


Measure: TypeAlias = float | None
"""None if unknown."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerReport:
    """The measures of a layer, over all valid steps, examples and neurons."""

    place: str
    neurons: int
    fires: bool
    rate: Measure = None
    """Spikes per neuron and step."""
    firing: Measure = None
    """Neurons that fire at least once."""
    drive: Measure = None
    """Spread of the potential without spikes, in distances from rest to the threshold."""
    offset: Measure = None
    """Mean of this potential, over its spread. 0 if the mean is below the threshold."""
    recoil: Measure = None
    """Spread of the potential with spikes, over its spread without them."""
    reach: Measure = None
    """Mean slope over its peak."""
    steepness: Measure = None
    """Peak of the slope times the distance from rest to the threshold."""
    feedback: Measure = None
    """Largest eigenvalue of the recurrent matrix, over the same distance, for a drive above 3."""
    gradient: Measure = None
    """Norm of the gradient of the loss, over the norm of the weights."""
    update: Measure = None
    """Norm of the first update, over the norm of the weights."""
    scale: Measure = None
    """Distance from rest to the threshold. Negative for neurons that fire at rest."""
    distance: tuple[float, float] | None = None
    """Mean and standard deviation of the potential minus the threshold."""
    samples: Any = dataclasses.field(default=None, repr=False)
    """Some of these differences, for the figure."""
    surrogate: Any = dataclasses.field(default=None, repr=False)


class Derivatives(NamedTuple):
    """Sizes of the derivative of a weight function, along a random direction of its outputs."""

    arrays: Any
    """In its arrays."""
    inputs: Any
    """In its inputs, or infinite for integers."""


class NetworkReport(NamedTuple):
    """The measures of a network."""

    layers: dict[str, LayerReport]
    outputs: dict[str, np.ndarray]
    """The outputs of each layer and join."""
    joins: dict[str, float]
    """The size of the derivative of each join."""
    functions: dict[str, list[Derivatives]]
    """The derivatives of the weights of each layer that are functions with arrays."""
    loss: float
    constant: float
    """The loss of the better of two constant outputs."""
    not_finite: list[str]
    """Arrays of the network, the inputs or gradients with NaN or infinite numbers."""
    update: float
    """The first update over the weights: the largest ratio of a layer."""
    ascent: Measure
    """Cosine of the first update and the gradient."""
    decay: float
    """Part of the weights that an update without gradients removes."""
    reads: np.ndarray
    """Size of the gradient of the loss in the outputs of each step."""

    @property
    def is_finite(self) -> bool:
        """True if loss, arrays and gradients are finite."""
        return not self.not_finite and math.isfinite(self.loss)


def observe_layer(
    cell: Any, activity: Activity, active: np.ndarray | None
) -> dict[str, jax.Array]:
    """Return distances to the threshold of a layer that fires, and its slopes, in float32.

    The result is empty for a cell that does not pass its distance to a field.
    """
    if surrogate_of(cell) is None:
        return {}
    quiet = quiet_cell(cell)
    _, pre_spike, current = jax.tree.map(
        lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a,
        activity,
    )
    # vmap over the steps, because ``fire`` takes the state of one step.
    _, distance = jax.vmap(quiet.fire)(pre_spike, active)
    if distance is None:
        return {}
    start = cell.initial_state(current.shape[1:], current.dtype)
    start = jax.tree.map(jnp.asarray, start)

    # Without spikes there are no resets and no adaptation. The potential is then linear in the
    # weights, so its spread tells by which factor to scale them. A delayed reset fires in
    # ``integrate``, so that part is quiet too.
    def step(v, now):
        current, active = now
        return quiet.fire(quiet.cell.integrate(v, current), active)

    _, without = jax.lax.scan(step, start, (current, active))
    slope = slope_of(surrogate_of(cell), distance)
    _, rest = quiet.fire(start)
    return {"distance": distance, "quiet": without, "rest": rest, "slope": slope}


def slope_of(surrogate: Any, x: Any) -> jax.Array:
    """Return the slope of a surrogate, or of a function with a custom derivative."""
    if hasattr(surrogate, "surrogate_grad"):
        return surrogate.surrogate_grad(x)
    return jax.jvp(surrogate, (x,), (jnp.ones_like(x),))[1]


def measuring(problem: Problem, neutral: Moves) -> Callable[[Moves], NetworkReport]:
    """Return the compiled measurement of a network with moves."""
    # It runs a few times only, so compiling it is most of its time.
    run = compiled(_observed, problem, neutral, compiler_options=FAST_COMPILATION)
    return lambda moves: _report(problem, moves, run(moves))


def _observed(problem: Problem, network: Network, inputs: Any, moves: Any):
    """Return the arrays of all measures. NumPy reduces them, which takes no compilation."""
    trainable, static = apply_moves(network, moves)
    # Without a loss, some number of the outputs still shows if gradients reach each layer.
    loss = problem.loss or mean_size

    def outputs_of(trainable):
        network = merge(trainable, static)
        _, activity = network.observe(problem.arguments(inputs), **problem.options)
        outputs = {name: activity[name].output for name in network.graph.outputs}
        is_dict = isinstance(network.outputs, tuple)
        return outputs if is_dict else outputs.popitem()[1], dict(activity)

    out, pullback, activity = jax.vjp(outputs_of, trainable, has_aux=True)
    value, read = jax.value_and_grad(loss)(out)
    (gradient,) = pullback(read)
    graph = merge(trainable, static).graph
    outputs = {name: activity[name].output for name in graph.nodes}
    active = None if problem.mask is None else problem.valid
    arrays: dict[str, Any] = {
        "loss": value,
        "constant": constant_loss(loss, out)[0],
        "layers": {
            name: observe_layer(layer.cell, activity[name], active)
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
        "functions": {
            name: [
                derivatives_of(
                    layer.weights[edge.label], (outputs | inputs)[edge.source]
                )
                for edge in graph.edges[name]
                if _is_function(layer.weights.get(edge.label))
            ]
            for name, layer in graph.layers.items()
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

        def updates(gradient):
            again = (state, trainable, value, lambda t: loss(outputs_of(t)[0]))
            return updates_of(problem.optimizer, gradient, *again)[0]

        # The update for a gradient of zero is the weight decay alone.
        zeros = jax.tree.map(jnp.zeros_like, gradient)
        arrays["updates"] = updates(zeros), updates(gradient)
    return arrays


def derivative_of(join: Join, sources: list[jax.Array], problem: Problem) -> Any:
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
    return sum(abs(g).sum() for g in pullback(along))


def _is_function(weight: Any) -> bool:
    """Return True for a function with arrays. Matrices have a derivative, and so have delays."""
    is_plain = not isinstance(weight, (jax.Array, np.ndarray, Delayed, Window))
    return is_plain and callable(weight) and has_arrays(weight)


def derivatives_of(weight: Any, x: jax.Array) -> Derivatives:
    """Return the sizes of the derivatives of a weight function. ``x`` has the inputs of all
    steps.
    """
    arrays, others = split(weight, lambda _, leaf: is_real_array(leaf))
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        out, pullback = jax.vjp(
            lambda a: jax.vmap(merge(a, others))(x), jax.tree.map(jnp.asarray, arrays)
        )
    else:
        out, pullback = jax.vjp(
            lambda a, x: jax.vmap(merge(a, others))(x),
            *(jax.tree.map(jnp.asarray, arrays), x),
        )
    gradients = pullback(jax.random.normal(jax.random.key(0), out.shape, out.dtype))
    sizes = [
        sum(abs(jnp.float32(g)).sum() for g in jax.tree.leaves(gradient))
        for gradient in gradients
    ]
    # A weight of zeros has no derivative in its inputs either, and may learn.
    passes = jnp.where(jnp.any(out != 0), sizes[-1], jnp.inf)
    return Derivatives(sizes[0], passes if len(sizes) > 1 else jnp.inf)


def mean_size(outputs: Any) -> Any:
    """Return a number of the outputs, for networks without a loss."""
    return sum(abs(o).mean() for o in jax.tree.leaves(outputs))


def _norm(tree: Any) -> float:
    # In float64, because half precision would overflow.
    return math.hypot(*(np.linalg.norm(np.float64(a)) for a in jax.tree.leaves(tree)))


def _report(problem: Problem, moves: Moves, arrays: dict[str, Any]) -> NetworkReport:
    network = merge(*apply_moves(problem.network, moves))
    weights, gradient, outputs = (
        arrays[name] for name in ("weights", "gradients", "outputs")
    )
    still, first = arrays.get("updates", (None, None))
    ascent = None
    if first is not None:
        pairs = zip(*map(jax.tree.leaves, (first, gradient)), strict=True)
        dot = sum(np.vdot(np.float64(u), np.float64(g)) for u, g in pairs)
        ascent = float(dot) / (_norm(first) * _norm(gradient) or 1.0)

    def ratios(tree):
        """The size of the arrays of each layer, over that of its weights."""
        sizes = {name: _norm(weights.layers[name]) for name in network.graph.layers}
        return {
            name: _norm(tree.layers[name]) / size
            for name, size in sizes.items()
            if tree is not None and size
        }

    gradients, updates = ratios(gradient), ratios(first)
    layers = {}
    for name, layer in network.graph.layers.items():
        observed, output = arrays["layers"][name], outputs[name]
        activity = _activity_of(layer, observed, problem) if observed else {}
        if observed or _hides_spikes(layer.cell, output):
            fired = output[problem.valid] != 0
            activity |= {"rate": fired.mean(), "firing": fired.any(0).mean()}
        layers[name] = LayerReport(
            name,
            output[0, 0].size,
            bool(observed),
            gradient=gradients.get(name),
            update=updates.get(name),
            **activity,
        )
    trees = {"": weights, "inputs ": arrays["inputs"], "the gradient of ": gradient}
    not_finite = [
        prefix + jax.tree_util.keystr(path, simple=True, separator="/")
        for prefix, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(np.float32(leaf)).all()
    ]
    return NetworkReport(
        layers,
        outputs,
        arrays["joins"],
        arrays["functions"],
        float(arrays["loss"]),
        float(arrays["constant"]),
        not_finite,
        np.max([0, *updates.values()]),
        ascent,
        _norm(still) / (_norm(weights) or 1.0),
        arrays["reads"],
    )


def _hides_spikes(cell: Any, output: np.ndarray) -> bool:
    """Return True for spikes of a cell that makes its surrogate in ``fire``."""
    # A readout has no derivative of its own, although it may be 0 too.
    state = cell.initial_state(output.shape[1:], output.dtype)
    fire = jax.make_jaxpr(cell.fire)(state)
    return _has_custom_derivative(fire) and bool(np.isin(output, (0, 1)).all())


def _has_custom_derivative(jaxpr: Any) -> bool:
    """Return True if a function calls one with a custom derivative, as a surrogate has."""
    program, _ = equations(jaxpr)
    return any(
        equation.primitive.name.startswith("custom_")
        or ((inner := called(equation)) is not None and _has_custom_derivative(inner))
        for equation in program.equations
    )


@np.errstate(invalid="ignore")  # potentials may be infinite
def _activity_of(layer: Any, arrays: Any, problem: Problem) -> dict[str, Any]:
    """Return the fields of a :class:`LayerReport` for neurons that fire."""
    surrogate = surrogate_of(layer.cell)
    valid = problem.valid
    # (valid steps, neurons), without the steps that a mask excludes, whose outputs are 0.
    distance, quiet, slope = (
        arrays[name][valid].astype(np.float64)
        for name in ("distance", "quiet", "slope")
    )
    peak = measure(surrogate).peak if has_width(surrogate) else abs(slope).max()
    rest = arrays["rest"].astype(np.float64)
    quiet -= rest[0]
    scale, center, spread = -rest.mean(), quiet.mean(), quiet.std()
    # A distance of 0 from rest to the threshold would divide by 0.
    size, matrix, feedback = abs(scale) or 1.0, layer.recurrent, None
    # A neuron fires at most once per step, which bounds the feedback. It counts only with a strong
    # drive.
    if is_array(matrix) and np.ndim(matrix) == 2 and spread > STRONG_DRIVE * size:
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
        "recoil": deviation / spread if spread > WEAK_DRIVE * size else None,
        "reach": abs(slope).mean() / (peak or 1.0),
        "steepness": peak * size,
        "feedback": feedback,
        "scale": scale,
        "distance": (distance.mean(), deviation),
        # Evenly spaced.
        "samples": distance.ravel()[:: -(-distance.size // SAMPLES)],
        "surrogate": surrogate,
    }
