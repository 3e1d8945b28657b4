"""The measures of each layer: ratios with a band, outside of which a layer fails to learn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._compat import called, equations
from .._optimizer import updates_of
from .._pytree import PyTree, is_array, is_real_array, merge, name_of, split
from ..network import Activity, Join, Layer, Network, is_unchanged, tree_where
from ..neurons import Cell, State, quiet_cell, surrogate_of
from ..surrogates import measure
from .moves import Moves, apply_moves, has_arrays, has_width, is_function
from .trial import Problem, better_constant, compiled

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
    # Gradient of the loss in the outputs, over that at outputs of 0. Outputs that are far too large
    # for a loss with a bound, such as the probability of a class, saturate it.
    "response": (1 / 30, math.inf),
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


def outside(name: str, value: Measure) -> int:
    """Return -1 for a value below its band, 1 above it and 0 within."""
    low, high = BANDS[name]
    return 0 if value is None else int(value > high) - int(value < low)


Measure: TypeAlias = float | None
"""None if unknown."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerReport:
    """The measured values of one layer, over all valid time steps, examples and neurons.

    ``Diagnosis.layers`` has one for each layer. The *distance* is the threshold minus the potential
    at rest, 1 for the default neuron. The *potential without spikes* is computed without resets and
    adaptation, so it depends on the inputs only. If it diverges, as that of a QIF neuron, the
    potential with spikes replaces it. A value is None if it could not be measured.
    """

    place: str
    neurons: int
    fires: bool
    rate: Measure = None
    """Spikes per neuron and time step. Usually at most 0.7."""
    firing: Measure = None
    """Fraction of the neurons that spike at least once. Usually at least 0.05."""
    drive: Measure = None
    """Standard deviation of the potential without spikes, divided by the distance. Usually 0.1 to
    10. Below, inputs hardly reach the threshold.
    """
    offset: Measure = None
    """Mean of the potential without spikes above rest, divided by its standard deviation. Usually
    -1 to 1. 0 if the mean is below the threshold.
    """
    recoil: Measure = None
    """Standard deviation of the potential with spikes, divided by its standard deviation without
    spikes. Usually at most 3.
    """
    reach: Measure = None
    """Mean of the slope at the potentials that occur, divided by its peak. Usually at least 0.005.
    Near 0, the layer passes no gradient.
    """
    steepness: Measure = None
    """Peak of the slope, multiplied by the distance. Usually 0.1 to 3. Above, gradients grow in
    each layer.
    """
    feedback: Measure = None
    """Largest absolute eigenvalue of the recurrent matrix, divided by the distance. Usually at most
    3. Measured only if ``drive`` is above 3.
    """
    gradient: Measure = None
    """Norm of the gradient of the weights, divided by the norm of the weights. 0 if no gradient
    reaches the layer.
    """
    update: Measure = None
    """Norm of the first update, divided by the norm of the weights. Usually 0.0001 to 1."""
    scale: Measure = None
    """The distance: the threshold minus the potential at rest. Negative if neurons spike without
    inputs.
    """
    distance: tuple[float, float] | None = None
    """Mean and standard deviation of the potential minus the threshold."""
    samples: np.ndarray | None = dataclasses.field(default=None, repr=False)
    """Some values of the potential minus the threshold, which the figure shows."""
    surrogate: Any = dataclasses.field(default=None, repr=False)
    current: np.ndarray | None = dataclasses.field(default=None, repr=False)
    """The constant part of the current, of the shape of the neurons, if the weight is a function.
    """


class Derivatives(NamedTuple):
    """Sizes of the derivative of a weight function, along a random direction of its outputs."""

    arrays: jax.Array
    """In its arrays."""
    inputs: jax.Array | float
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
    response: float
    """The size of this gradient, over that at outputs of 0. NaN if both are 0."""

    @property
    def is_finite(self) -> bool:
        """True if loss, arrays and gradients are finite."""
        return not self.not_finite and math.isfinite(self.loss)


class Potentials(NamedTuple):
    """The distances of a layer to its threshold, in float32. Each is potential minus threshold."""

    distance: jax.Array
    """With spikes, ``(steps, examples, neurons...)``."""
    quiet: jax.Array
    """Without spikes, in the same shape."""
    rest: jax.Array
    """At rest, ``(examples, neurons...)``. All examples are equal."""
    slope: jax.Array
    """The slope of the surrogate at ``distance``."""


class Observation(NamedTuple):
    """One forward and backward pass, from which NumPy computes the measures.

    The arrays are those of JAX in the compiled program, and those of NumPy afterwards.
    """

    loss: jax.Array
    constant: jax.Array
    """The loss of constant outputs."""
    layers: dict[str, Potentials | None]
    """None for layers that do not fire."""
    outputs: dict[str, Any]
    """Of each layer and join, ``(steps, examples, neurons...)``."""
    joins: dict[str, Any]
    """The size of the derivative of each join."""
    functions: dict[str, list[Derivatives]]
    currents: dict[str, Any]
    """The constant part of the current of each layer, ``(neurons...)``."""
    weights: PyTree
    """The trainable arrays of the network, and None for its other leaves."""
    gradient: PyTree
    """The gradient of the loss in them."""
    inputs: Mapping[str, jax.Array]
    reads: Any
    """Size of the gradient of the loss in the outputs of each step, ``(steps,)``."""
    reads_of_zeros: Any
    """Size of the gradient at outputs of 0, ``(steps,)``."""
    decay: PyTree | None
    """The update for a gradient of zero. None without an optimizer."""
    update: PyTree | None
    """The first update."""


def observe_layer(
    cell: Cell, activity: Activity, active: np.ndarray | None
) -> Potentials | None:
    """Return the distances to the threshold of a layer that fires.

    ``activity`` has arrays ``(steps, examples, neurons...)``, and ``active`` is the mask of valid
    steps, ``(steps, examples)``. Returns None for a cell that never fires, or that calls another
    surrogate than the one in its field.
    """
    if surrogate_of(cell) is None:
        return None
    silenced = quiet_cell(cell)
    # In float32, because 16 bits would lose small currents in a potential without resets.
    activity = jax.tree.map(
        lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a,
        activity,
    )
    current = activity.current
    assert current is not None
    # vmap over the steps, because a cell takes the state of one step.
    _, distance = jax.vmap(silenced.state_and_distance)(activity.pre_spike, active)
    if distance is None:
        return None
    start = cell.initial_state(current.shape[1:], current.dtype)
    start = jax.tree.map(jnp.asarray, start)

    # Without spikes there are no resets and no adaptation. The potential is then linear in the
    # weights, so its spread tells by which factor to scale them. A delayed reset fires in
    # ``integrate``, so that part is quiet too.
    def step(
        v: State, now: tuple[jax.Array, jax.Array | None]
    ) -> tuple[State, jax.Array]:
        current, active = now
        u = silenced.cell.integrate(v, current)
        after, distance = silenced.state_and_distance(u, active)
        # A masked step holds the state, as in the network.
        return tree_where(active, after, v), distance

    valid = None if active is None else jnp.asarray(active)
    _, quiet = jax.lax.scan(step, start, (current, valid))
    _, rest = silenced.state_and_distance(start)
    return Potentials(distance, quiet, rest, slope_at(surrogate_of(cell), distance))


def slope_at(surrogate: Any, x: ArrayLike) -> jax.Array:
    """Return the slope of a surrogate, or of a function with a custom derivative."""
    if hasattr(surrogate, "surrogate_grad"):
        return surrogate.surrogate_grad(x)
    return jax.jvp(surrogate, (x,), (jnp.ones_like(x),))[1]


def measuring(problem: Problem, neutral: Moves) -> Callable[[Moves], NetworkReport]:
    """Return the compiled measurement of a network with moves."""
    # It runs a few times only, so compiling it is most of its time.
    run = compiled(_observed, problem, neutral, compiler_options=FAST_COMPILATION)
    return lambda moves: _report(problem, moves, run(moves))


def _observed(
    problem: Problem, network: Network, inputs: Mapping[str, jax.Array], moves: Moves
) -> Observation:
    """Run the network with moves once, forward and backward.

    ``problem`` has the structure, and ``network``, ``inputs`` and ``moves`` are traced.
    """
    trainable, static = apply_moves(network, moves)
    # Without a loss, some number of the outputs still shows if gradients reach each layer.
    loss = problem.loss or mean_size

    def outputs_of(trainable: PyTree) -> tuple[PyTree, dict[str, Activity]]:
        network = merge(trainable, static)
        _, activity = network.observe(problem.arguments(inputs), **problem.options)
        outputs = {name: activity[name].output for name in network.graph.outputs}
        is_dict = isinstance(network.outputs, tuple)
        return outputs if is_dict else outputs.popitem()[1], dict(activity)

    # In two parts, so that the gradient in the outputs is seen on the way.
    out, pullback, activity = jax.vjp(outputs_of, trainable, has_aux=True)
    value, read = jax.value_and_grad(loss)(out)
    read_of_zeros = jax.grad(loss)(jax.tree.map(jnp.zeros_like, out))
    (gradient,) = pullback(read)
    decay, update = None, None
    if (optimizer := problem.optimizer) is not None:
        state = optimizer.init(trainable)

        def updates(gradient: PyTree) -> PyTree:
            again = (state, trainable, value, lambda t: loss(outputs_of(t)[0]))
            return updates_of(optimizer, gradient, *again)[0]

        # The update for a gradient of zero is the weight decay alone.
        decay = updates(jax.tree.map(jnp.zeros_like, gradient))
        update = updates(gradient)

    graph = merge(trainable, static).graph
    outputs = {name: activity[name].output for name in graph.nodes}
    sources = {**outputs, **inputs}
    layers = problem.network.graph.layers
    active = None if problem.mask is None else problem.valid
    return Observation(
        value,
        better_constant(loss, out).loss,
        {
            name: observe_layer(layer.cell, activity[name], active)
            for name, layer in graph.layers.items()
        },
        outputs,
        {
            name: derivative_of(
                node, [sources[edge.source] for edge in graph.edges[name]], problem
            )
            for name, node in graph.nodes.items()
            if isinstance(node, Join)
        },
        {
            name: [
                derivatives_of(layer.weights[edge.label], sources[edge.source])
                for edge in graph.edges[name]
                if _has_own_arrays(layer.weights.get(edge.label))
            ]
            for name, layer in graph.layers.items()
        },
        {
            name: constant_current(
                layer,
                sources[graph.edges[name][0].source],
                # A move may wrap the weight.
                problem.valid if is_unchanged(layers[name].weight) else None,
            )
            for name, layer in graph.layers.items()
        },
        trainable,
        gradient,
        inputs,
        _sizes_of_steps(read),
        _sizes_of_steps(read_of_zeros),
        decay,
        update,
    )


def _sizes_of_steps(read: PyTree) -> jax.Array:
    """Return the size of a gradient in the outputs of each step, ``(steps,)``."""
    # Several outputs add up, as do the examples and neurons of each.
    sizes = [
        abs(jnp.float32(r)).reshape(len(r), -1).sum(1) for r in jax.tree.leaves(read)
    ]
    return sum(sizes, jnp.zeros(()))


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


def _has_own_arrays(weight: object) -> bool:
    """Return True for a function with arrays. Matrices have a derivative, and so have delays."""
    return is_function(weight) and has_arrays(weight)


def constant_current(
    layer: Layer, source: jax.Array, valid: np.ndarray | None
) -> jax.Array | None:
    """Return the current of a function and a bias for inputs of zero, ``(neurons...)``.

    ``source`` has its inputs, ``(steps, examples, ...)``. With the valid steps, ``(steps,
    examples)``, return the current for the mean of its inputs. None for a matrix, and for integers.
    """
    is_number = jnp.issubdtype(source.dtype, jnp.floating)
    if not (is_function(layer.weight) and is_number):
        return None
    if valid is not None:
        # Without weights, only the source can shift the current, such as a normalization with a
        # bias. So its mean counts.
        is_valid = valid.reshape(valid.shape + (1,) * (source.ndim - 2))
        mean = jnp.float32(source).mean((0, 1), keepdims=True, where=is_valid)
        return jnp.float32(layer.drive(mean[0])[0])
    # All examples, because a function may have an array for each of them.
    return jnp.float32(layer.drive(jnp.zeros_like(source[0]))[0])


def derivatives_of(weight: Callable, x: jax.Array) -> Derivatives:
    """Return the sizes of the derivatives of a weight function. ``x`` has the inputs of all
    steps.
    """
    arrays, others = split(weight, is_real_array)
    # Below a silent layer all inputs are 0, and no product has a derivative in its weights.
    x = jnp.where(x.any(), x, jnp.ones_like(x))
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
        sum(
            (abs(jnp.float32(g)).sum() for g in jax.tree.leaves(gradient)),
            jnp.zeros(()),
        )
        for gradient in gradients
    ]
    # A weight of zeros has no derivative in its inputs either, and may learn.
    passes = jnp.where(jnp.any(out != 0), sizes[-1], jnp.inf)
    return Derivatives(sizes[0], passes if len(sizes) > 1 else jnp.inf)


def mean_size(outputs: PyTree) -> jax.Array:
    """Return a number of the outputs, for networks without a loss."""
    sizes = [abs(output).mean() for output in jax.tree.leaves(outputs)]
    return sum(sizes, jnp.zeros(()))


def _norm(tree: PyTree) -> float:
    # In float64, because half precision would overflow.
    norms = [np.linalg.norm(np.float64(a)) for a in jax.tree.leaves(tree)]
    return math.hypot(*norms)


def _report(problem: Problem, moves: Moves, observation: Observation) -> NetworkReport:
    """Reduce the arrays of an observation, which are now those of NumPy, to the measures."""
    network: Network = merge(*apply_moves(problem.network, moves))
    ascent = None
    if observation.update is not None:
        pairs = zip(
            *map(jax.tree.leaves, (observation.update, observation.gradient)),
            strict=True,
        )
        dot = sum(np.vdot(np.float64(u), np.float64(g)) for u, g in pairs)
        ascent = float(dot) / (
            _norm(observation.update) * _norm(observation.gradient) or 1.0
        )

    def ratios(tree: PyTree | None) -> dict[str, float]:
        """Return the size of the arrays of each layer, over that of its weights."""
        if tree is None:
            return {}
        sizes = {
            name: (_norm(tree.layers[name]), _norm(observation.weights.layers[name]))
            for name in network.graph.layers
            if any(map(is_real_array, jax.tree.leaves(network.layers[name])))
        }
        # Over weights of 0, only a size of 0 or NaN says something.
        return {
            name: size / (weights or 1.0)
            for name, (size, weights) in sizes.items()
            if weights or not size > 0
        }

    gradients, updates = ratios(observation.gradient), ratios(observation.update)
    layers = {}
    for name, layer in network.graph.layers.items():
        potentials, output = observation.layers[name], observation.outputs[name]
        activity = {}
        if potentials is not None:
            activity = _activity_of(layer, potentials, problem)
        if potentials is not None or _hides_spikes(layer.cell, output):
            # Several spikes in one step count once.
            fired = output[problem.valid] != 0  # (valid steps, neurons...)
            activity |= {"rate": fired.mean(), "firing": fired.any(0).mean()}
        layers[name] = LayerReport(
            name,
            output[0, 0].size,
            potentials is not None,
            gradient=gradients.get(name),
            update=updates.get(name),
            current=observation.currents[name],
            **activity,
        )
    trees = {
        "": observation.weights,
        "inputs ": observation.inputs,
        "the gradient of ": observation.gradient,
    }
    not_finite = [
        prefix + name_of(path)
        for prefix, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(np.float32(leaf)).all()
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        response = observation.reads.sum() / observation.reads_of_zeros.sum()
    return NetworkReport(
        layers,
        observation.outputs,
        observation.joins,
        observation.functions,
        float(observation.loss),
        float(observation.constant),
        not_finite,
        np.max([0, *updates.values()]),
        ascent,
        _norm(observation.decay) / (_norm(observation.weights) or 1.0),
        observation.reads,
        float(response),
    )


def _hides_spikes(cell: Cell, output: np.ndarray) -> bool:
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
def _activity_of(
    layer: Layer, potentials: Potentials, problem: Problem
) -> dict[str, Any]:
    """Return the fields of a :class:`LayerReport` for neurons that fire."""
    surrogate = surrogate_of(layer.cell)
    # (valid steps, neurons), without the steps that a mask excludes, whose outputs are 0. In
    # float64, in which sums over many steps are exact enough.
    distance, quiet, slope = (
        np.asarray(array)[problem.valid].astype(np.float64)
        for array in (potentials.distance, potentials.quiet, potentials.slope)
    )
    peak = measure(surrogate).peak if has_width(surrogate) else abs(slope).max()
    rest = np.asarray(potentials.rest).astype(np.float64)
    # Cells such as QIF diverge without resets. Their potential with spikes shows the inputs too.
    if not np.isfinite(quiet).all():
        quiet = distance.copy()
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
        "offset": 0.0 if abs(center) <= size else center / (spread or 1e-30),
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
