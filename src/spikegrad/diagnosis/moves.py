"""Changes that may help a network to learn. Each can be applied, also to traced values.

A move has a place and a value. The values of the moves of :func:`neutral_moves` are arguments of
one compiled program, which measures or trains with any of them. Any other move needs a program of
its own for each training, and no measure shows its effect.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._bounded import Bounded, bounded
from .._pytree import PyTree, is_real_array, split_by_path
from .._struct import by_value, domain
from .._surrogate import Surrogate, with_curve
from ..network import (
    Delayed,
    DelayKernel,
    Join,
    Layer,
    Network,
    Window,
    is_kernel,
    map_kernels,
)
from ..neurons import (
    Cell,
    parameters_of,
    surrogate_of,
    with_parameters,
    with_surrogate,
)
from ..surrogates import Sigmoid, measure, rescaled

if TYPE_CHECKING:
    from optax import GradientTransformation

    from .report import Issue

PARTS = {"weight": "weights", "recurrent": "recurrent weights", "bias": "bias"}
"""The fields of a layer with arrays, and their names in texts."""
Slope: TypeAlias = Callable[[jax.Array], jax.Array]
"""A surrogate, or a function with a custom derivative."""


def number(value: SupportsFloat) -> str:
    """Two digits, without exponents for usual sizes."""
    return f"{float(value):.2g}"


def rounded(value: float) -> float:
    """Return a value of two digits, for code that one can read."""
    return float(number(value))


@dataclasses.dataclass(frozen=True)
class Move:
    """A change of one part of a network, such as another threshold of a layer: a fix of a
    diagnosis.
    """

    place: Any
    """The name of the layer or of the inputs that it changes. None for the optimizer."""
    value: Any
    """The new value: a number, an array, or a pair of them."""
    needs_measure: ClassVar[bool] = True
    """False if the change does not affect the measured potentials, so other changes can be proposed
    for the layer without a measure of this one."""

    @property
    def slot(self) -> Move:
        """The part that it changes: this change without a value."""
        return dataclasses.replace(self, value=None)

    def apply(self, network: Network) -> Network:
        """Return the network with this change."""
        # A move of the optimizer.
        if self.place is None:
            return network
        layer = self.change(network.graph.nodes[self.place])
        return dataclasses.replace(network, layers=network.layers | {self.place: layer})

    def change(self, layer: Layer) -> Layer:
        return layer

    def change_optimizer(
        self, optimizer: GradientTransformation
    ) -> GradientTransformation:
        """Return the optimizer with this change, if it is a change of the optimizer."""
        return optimizer

    @property
    def text(self) -> str:
        """The change as a sentence, such as "set its threshold to 1"."""
        return ""

    @property
    def argument(self) -> str:
        """The changed argument of the layer or of its cell, as Python code."""
        return ""

    @property
    def code(self) -> str:
        """The change as Python statements, to paste after the construction of ``network``."""
        return "\n".join(
            [
                f"layer = network.layers[{self.place!r}]",
                *self.layer_code(),
                f"layers = network.layers | {{{self.place!r}: layer}}",
                "network = dataclasses.replace(network, layers=layers)",
            ]
        )

    def layer_code(self) -> list[str]:
        """Return statements that change ``layer``."""
        return [f"layer = dataclasses.replace(layer, {self.argument})"]

    @property
    def key(self) -> Hashable:
        """The change as a value that can be hashed and compared."""
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return type(self), *map(by_value, fields)


def constants(values: PyTree) -> PyTree:
    """Return arrays in a function as constants, about which a partition does not warn."""
    return jax.tree.map(lambda a: jax.lax.stop_gradient(jnp.asarray(a)), values)


class CellMove(Move):
    """A change of the cell of a layer."""

    def layer_code(self) -> list[str]:
        return [
            f"cell = dataclasses.replace(layer.cell, {self.argument})",
            "layer = dataclasses.replace(layer, cell=cell)",
        ]


@dataclasses.dataclass(frozen=True)
class ScalePart(Move):
    """Scale ``weight``, ``recurrent`` or ``bias``."""

    part: str

    def change(self, layer: Layer) -> Layer:
        changed = with_factor(getattr(layer, self.part), self.value)
        return dataclasses.replace(layer, **{self.part: changed})

    @property
    def text(self) -> str:
        return f"scale its {PARTS[self.part]} by {number(self.value)}"

    @property
    def argument(self) -> str:
        change = f"lambda w: {number(self.value)} * w"
        return f"{self.part}=jax.tree.map({change}, layer.{self.part})"


def _kernel_code(part: str, change: str, other: str) -> str:
    """Return the code that changes an argument of each ``DelayKernel``, and all other arrays."""
    return (
        f"{part}=jax.tree.map(lambda w: dataclasses.replace(w, {change}) "
        f"if isinstance(w, DelayKernel) else {other}, layer.{part}, "
        "is_leaf=lambda w: isinstance(w, DelayKernel))"
    )


class ScaleKernels(ScalePart):
    """Scale the weights of learned delays, and not the delays."""

    @property
    def argument(self) -> str:
        factor = number(self.value)
        scaled = f"weight={factor} * w.weight"
        return _kernel_code(self.part, scaled, f"{factor} * w")


class ScaleOutput(ScalePart):
    """Scale the output of a function that hides its arrays."""

    @property
    def argument(self) -> str:
        factor = number(self.value)
        return f"{self.part}=lambda x, f=layer.{self.part}: {factor} * f(x)"


@dataclasses.dataclass(frozen=True)
class ScaleEntry(Move):
    """Scale the weights of one source of a layer that has several."""

    source: str

    def change(self, layer: Layer) -> Layer:
        # Standardized inputs have another name.
        names = self.source, standardized(self.source)
        (source,) = [name for name in names if name in layer.weight]
        changed = with_factor(layer.weight[source], self.value)
        return dataclasses.replace(layer, weight=layer.weight | {source: changed})

    @property
    def text(self) -> str:
        return f"scale its weights of {self.source!r} by {number(self.value)}"

    @property
    def argument(self) -> str:
        scaled = f"jax.tree.map(lambda w: {number(self.value)} * w, layer.weight[{self.source!r}])"
        return f"weight=layer.weight | {{{self.source!r}: {scaled}}}"


@dataclasses.dataclass(frozen=True)
class Center(Move):
    """Subtract the mean from the matrices and kernels of a weight, or from the bias."""

    part: str

    def change(self, layer: Layer) -> Layer:
        # A mean is a common current of all neurons, which shifts their potentials.
        def centered(w: jax.Array) -> jax.Array:
            if not has_mean(self.part, w):
                return w
            return (w - self.value * jnp.float32(w).mean()).astype(w.dtype)

        changed = map_weights(centered, getattr(layer, self.part))
        return dataclasses.replace(layer, **{self.part: changed})

    @property
    def text(self) -> str:
        return f"subtract the mean from its {PARTS[self.part]}"

    @property
    def argument(self) -> str:
        # As ``has_mean`` chooses, without a private name in the user's program.
        mean = "w.mean()" if self.part == "bias" else "(w.ndim > 1) * w.mean()"
        return f"{self.part}=jax.tree.map(lambda w: w - {mean}, layer.{self.part})"


class CenterKernels(Center):
    """Subtract the mean from the weights of learned delays, and not from the delays."""

    @property
    def argument(self) -> str:
        centered = "weight=w.weight - w.weight.mean()"
        return _kernel_code(self.part, centered, "w - (w.ndim > 1) * w.mean()")


def centering(place: str, weights: PyTree, part: str, value: float) -> Center:
    """Return the move that subtracts ``value`` times the mean from the weights of a part."""
    center = CenterKernels if kernels_of(weights) else Center
    return center(place, value, part)


class DrawWeights(Move):
    """Add random numbers to the matrices of weights, with this standard deviation, the value.

    It is for neurons with equal weights, such as weights of 0.
    """

    def change(self, layer: Layer) -> Layer:
        def drawn(w: jax.Array) -> jax.Array:
            if not (is_real_array(w) and w.ndim > 1):
                return w
            normal = jax.random.normal(jax.random.key(0), w.shape)
            return w + (self.value * normal).astype(w.dtype)

        weight = jax.tree.map(drawn, layer.weight)
        return dataclasses.replace(layer, weight=weight)

    @property
    def text(self) -> str:
        return (
            f"add random numbers with a spread of {number(self.value)} to its weights"
        )

    @property
    def argument(self) -> str:
        normal = "jax.random.normal(jax.random.key(0), w.shape)"
        drawn = f"lambda w: (w.ndim > 1) * {number(self.value)} * {normal} + w"
        return f"weight=jax.tree.map({drawn}, layer.weight)"


@dataclasses.dataclass(frozen=True)
class ReplaceNaN(Move):
    """Replace NaN and infinite numbers of ``weight``, ``recurrent`` or ``bias`` by random numbers
    with this standard deviation, the value.
    """

    part: str

    def change(self, layer: Layer) -> Layer:
        def replaced(w: jax.Array) -> jax.Array:
            if not is_real_array(w):
                return w
            drawn = self.value * jax.random.normal(jax.random.key(0), w.shape)
            return jnp.where(jnp.isfinite(w), w, drawn.astype(w.dtype))

        changed = jax.tree.map(replaced, getattr(layer, self.part))
        return dataclasses.replace(layer, **{self.part: changed})

    @property
    def text(self) -> str:
        return (
            f"replace NaN and infinite numbers of its {PARTS[self.part]} by random ones with a "
            f"spread of {number(self.value)}, or load an earlier checkpoint"
        )

    @property
    def argument(self) -> str:
        drawn = f"{number(self.value)} * jax.random.normal(jax.random.key(0), w.shape)"
        change = f"lambda w: jax.numpy.where(jax.numpy.isfinite(w), w, {drawn})"
        return f"{self.part}=jax.tree.map({change}, layer.{self.part})"


@dataclasses.dataclass(frozen=True)
class AddBias(Move):
    """Add the value to the bias, against the constant part of the current of a function.

    A bias inside of a function may be hidden, or cannot be told from other vectors in it.
    """

    def change(self, layer: Layer) -> Layer:
        bias = 0.0 if layer.bias is None else layer.bias
        return dataclasses.replace(layer, bias=bias + self.value)

    @property
    def text(self) -> str:
        size = number(np.mean(self.value))
        return f"add {size} to its bias, against the constant part of its current"

    @property
    def argument(self) -> str:
        numbers = f"np.array({np.round(self.value, 6).tolist()}, np.float32)"
        return f"bias={numbers} + (0 if layer.bias is None else layer.bias)"


class FitSlope(CellMove):
    """Set peak and half-width of the slope: ``value`` has both."""

    base, verb = "layer.cell.surrogate", "rescale its slope to"

    def base_of(self, surrogate: Surrogate) -> Surrogate:
        return surrogate

    def change(self, layer: Layer) -> Layer:
        base = self.base_of(surrogate_of(layer.cell))
        # Neither number is one of the surrogate, whose parameter has another meaning in each class.
        peak, half_width = self.value
        slope = rescaled(base, peak=peak, half_width=half_width)
        return dataclasses.replace(layer, cell=with_surrogate(layer.cell, slope))

    @property
    def text(self) -> str:
        peak, half_width = map(number, self.value)
        return f"{self.verb} a peak of {peak} and a half-width of {half_width}"

    @property
    def argument(self) -> str:
        peak, half_width = map(number, self.value)
        return f"surrogate=rescaled({self.base}, peak={peak}, half_width={half_width})"


class ReplaceSlope(FitSlope):
    """Replace a slope that cannot be rescaled by the default, under the same settings."""

    base, verb = "Sigmoid()", "replace its slope by a sigmoid with"

    def base_of(self, surrogate: Slope) -> Surrogate:
        # A function with a custom derivative has no settings to keep.
        is_curve = isinstance(surrogate, Surrogate)
        return with_curve(surrogate, Sigmoid()) if is_curve else Sigmoid()


@dataclasses.dataclass(frozen=True)
class SetParameter(CellMove):
    """Set a number of the cell, or an array of it before the training."""

    parameter: str

    @property
    def number(self) -> ArrayLike:
        """The number, or the array of numbers."""
        return self.value

    def allows(self, number: float) -> bool:
        """Return False if the bounds of the parameter exclude this number."""
        return True

    def with_number(self, number: float) -> SetParameter:
        """Return the move to one number, in the shape of the present one."""
        return dataclasses.replace(self, value=number + 0 * self.value)

    def change(self, layer: Layer) -> Layer:
        cell = with_parameters(layer.cell, **{self.parameter: self.value})
        return dataclasses.replace(layer, cell=cell)

    @property
    def text(self) -> str:
        return f"set its {self.parameter} to {np.mean(self.number):.3g}"

    @property
    def argument(self) -> str:
        return f"{self.parameter}={self._expression}"

    @property
    def _expression(self) -> str:
        number = f"{np.mean(self.number):.3g}"
        if np.ndim(self.value):
            return f"np.full({np.shape(self.value)}, {number}, np.float32)"
        return number


@dataclasses.dataclass(frozen=True)
class SetBounded(SetParameter):
    """Set a :func:`~spikegrad.bounded` number. ``value`` is its ``raw`` number."""

    low: float
    high: float

    @property
    def number(self) -> ArrayLike:
        return np.asarray(Bounded(self.value, self.low, self.high).value)

    def allows(self, number: float) -> bool:
        return self.low < number < self.high

    def with_number(self, number: float) -> SetBounded:
        # Not in terms of the present number, which may be infinite where it is saturated.
        numbers = np.full(np.shape(self.value), number, np.float32)
        raw = bounded(numbers, self.low, self.high).raw
        return dataclasses.replace(self, value=np.asarray(raw))

    def change(self, layer: Layer) -> Layer:
        # The raw leaf is replaced and not the number, so it stays the leaf that is trained.
        present = getattr(parameters_of(layer.cell), self.parameter)
        raw = jnp.asarray(self.value).astype(present.raw.dtype)
        changed = dataclasses.replace(present, raw=raw)
        cell = with_parameters(layer.cell, **{self.parameter: changed})
        return dataclasses.replace(layer, cell=cell)

    @property
    def argument(self) -> str:
        return f"{self.parameter}=bounded({self._expression}, {self.low}, {self.high})"


def standardized(name: str) -> str:
    """Return the name of the join that standardizes these inputs."""
    return f"{name} standardized"


class Standardize(Move):
    """Subtract a shift from each channel of the inputs and divide by a scale: ``value`` has both.

    ``place`` is the name of the inputs. A weight cannot replace it, because each update acts
    through the inputs.
    """

    def standardize(self, x: jax.Array) -> jax.Array:
        """Return these inputs with the change."""
        shift, scale = constants(self.value)
        # Integer inputs would be truncated after the division.
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
        return ((x.astype(jnp.float32) - shift) / scale).astype(dtype)

    def apply(self, network: Network) -> Network:
        name = standardized(self.place)
        # A join, because any kind of weight may read it. Its numbers are in the closure, where no
        # optimizer trains them.
        join = Join(self.standardize, of=(self.place,))

        def renamed(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(name if n == self.place else n for n in names)

        # First, because the entries are in the order of a step. Every reader of the inputs must
        # read the join instead: by name, by the keys of its weights, or by default as the first
        # layer.
        layers = {name: join, **network.layers}
        for reader, node in network.layers.items():
            change = {}
            if isinstance(node, Join):
                change = {"of": renamed(node.of)}
            elif isinstance(node.weight, Mapping):
                weights = zip(renamed(node.weight), node.weight.values(), strict=True)
                change = {"weight": dict(weights)}
            elif self.place in [e.source for e in network.graph.edges[reader]]:
                change = {"of": name}
            layers[reader] = dataclasses.replace(node, **change)
        return dataclasses.replace(network, layers=layers)

    @property
    def text(self) -> str:
        return f"standardize the inputs {self.place!r} by their means and sizes"

    @property
    def code(self) -> str:
        # (channels,) each, as an expression to paste.
        shift, scale = (f"np.array({np.round(v, 6).tolist()})" for v in self.value)
        return f"inputs = (inputs - {shift}) / {scale}"


class WidenDtype(Move):
    """Cast all arrays of the network to a wider dtype, the value."""

    def apply(self, network: Network) -> Network:
        return jax.tree.map(
            lambda a: a.astype(self.value) if is_real_array(a) else a, network
        )

    @property
    def text(self) -> str:
        return f"keep the weights in {self.value}"

    @property
    def code(self) -> str:
        return f"network = jax.tree.map(lambda a: a.astype({self.value!r}), network)"


@dataclasses.dataclass(frozen=True)
class ShortenDelays(Move):
    """Set delays of at least ``longest`` steps to the value."""

    longest: int

    def change(self, layer: Layer) -> Layer:
        # A mapping has a weight for each source, and only some of them may be too late.
        def shortened(weight: Any) -> Any:
            if isinstance(weight, Mapping):
                return {name: shortened(entry) for name, entry in weight.items()}
            is_long = isinstance(weight, (Delayed, Window)) and (
                weight.delay >= self.longest
            )
            return dataclasses.replace(weight, delay=self.value) if is_long else weight

        return dataclasses.replace(layer, weight=shortened(layer.weight))

    @property
    def text(self) -> str:
        return f"set its delay to {self.value}"

    @property
    def argument(self) -> str:
        return f"weight=dataclasses.replace(layer.weight, delay={self.value})"


class DrawDelays(Move):
    """Draw learned delays again, between one step and the value."""

    def change(self, layer: Layer) -> Layer:
        def drawn(kernel: DelayKernel) -> DelayKernel:
            shape = jnp.asarray(kernel.delay).shape
            delays = jax.random.uniform(
                jax.random.key(0), shape, minval=1.0, maxval=self.value
            )
            delay = bounded(delays, 0, kernel.length - 1)
            return dataclasses.replace(kernel, delay=delay)

        return dataclasses.replace(layer, weight=map_kernels(drawn, layer.weight))

    @property
    def text(self) -> str:
        return f"draw its learned delays again, between 1 and {self.value} steps"

    @property
    def argument(self) -> str:
        numbers = "jax.random.key(0), jax.numpy.asarray(w.delay).shape"
        drawn = f"jax.random.uniform({numbers}, minval=1.0, maxval={self.value})"
        delay = f"delay=bounded({drawn}, 0, w.length - 1)"
        return _kernel_code("weight", delay, "w")


class ShortenRest(CellMove):
    """Set the refractory period of a :class:`~spikegrad.neurons.Refractory` cell."""

    # Measures read the potential without spikes, so no neuron rests in them.
    needs_measure = False

    def change(self, layer: Layer) -> Layer:
        cell = dataclasses.replace(layer.cell, steps=self.value)
        return dataclasses.replace(layer, cell=cell)

    @property
    def text(self) -> str:
        return f"set its refractory period to {self.value}"

    @property
    def argument(self) -> str:
        return f"steps={self.value}"


class ShiftOutput(Move):
    """Add the value to an output of the network, by a join after it."""

    def apply(self, network: Network) -> Network:
        name = f"{self.place} shifted"
        # Its numbers are in the closure, where no optimizer trains them.
        join = Join(
            lambda x: x + constants(self.value).astype(x.dtype), of=(self.place,)
        )
        # By default the last entry is the output, and the join is appended.
        outputs = network.outputs if network.outputs is None else name
        return dataclasses.replace(
            network, layers=network.layers | {name: join}, outputs=outputs
        )

    @property
    def text(self) -> str:
        return f"add {number(np.mean(self.value))} to the outputs of {self.place!r}"

    @property
    def code(self) -> str:
        numbers = f"np.array({np.round(self.value, 6).tolist()}, np.float32)"
        name, out = f"{self.place} shifted", self.place
        return "\n".join(
            [
                f"shift = {numbers}",
                f"join = Join(lambda x: x + jax.lax.stop_gradient(shift), of={out!r})",
                f"layers = network.layers | {{{name!r}: join}}",
                "network = dataclasses.replace(network, layers=layers, outputs=None)",
            ]
        )


class ScaleRate(Move):
    """Scale the learning rate of the optimizer."""

    def change_optimizer(
        self, optimizer: GradientTransformation
    ) -> GradientTransformation:
        import optax  # noqa: PLC0415  (an extra)

        # After the optimizer, since Adam would normalize a scaled gradient back.
        # In float32, because the factor may be out of the range of float16.
        return optax.chain(optimizer, optax.scale(np.float32(self.value)))

    @property
    def text(self) -> str:
        return f"multiply the learning rate by {number(self.value)}"

    @property
    def code(self) -> str:
        factor = f"np.float32({number(self.value)})"
        return f"optimizer = optax.chain(optimizer, optax.scale({factor}))"


class ReplaceOptimizer(ScaleRate):
    """Train with Adam, at the learning rate ``value``."""

    def change_optimizer(
        self, optimizer: GradientTransformation
    ) -> GradientTransformation:
        import optax  # noqa: PLC0415  (an extra)

        return optax.adam(self.value)

    @property
    def text(self) -> str:
        return f"as a last resort, train with Adam at a learning rate of {number(self.value)}"

    @property
    def code(self) -> str:
        return f"optimizer = optax.adam({number(self.value)})"


Moves: TypeAlias = dict[Move, Move]
"""Moves by slot."""


def by_slot(moves: Iterable[Move]) -> Moves:
    """Return the moves by slot. The last of a slot counts."""
    return {move.slot: move for move in moves}


def moves_of(issues: Iterable[Issue]) -> Moves:
    """Return the moves of all issues by slot."""
    return by_slot(move for issue in issues for move in issue.fixes)


def keys_of(moves: Iterable[Move]) -> frozenset:
    """Return the keys of moves, whatever their order."""
    return frozenset(move.key for move in moves)


def neutral_moves(network: Network, inputs: Mapping[str, jax.Array]) -> Iterator[Move]:
    """Yield the moves that a measure can follow, with the values that change nothing.

    After a move that is missing here, the measures are those without it. So a layer gets no further
    moves against its activity.
    """
    for name, x in inputs.items():
        shape = x.shape[2:]
        yield Standardize(
            name, (np.zeros(shape, np.float32), np.ones(shape, np.float32))
        )
    for name, layer in network.graph.layers.items():
        # Before the scale of these weights. Weights of 0 would have nothing to scale.
        if has_equal_neurons(layer.weight):
            yield DrawWeights(name, 0.0)
        for part in PARTS:
            weight = getattr(layer, part)
            # A function with its arrays in a closure can only be scaled as a whole.
            if has_arrays(weight):
                scale = ScaleKernels if kernels_of(weight) else ScalePart
                yield scale(name, 1.0, part)
                yield centering(name, weight, part, 0.0)
            elif callable(weight):
                yield ScaleOutput(name, 1.0, part)
        if isinstance(layer.weight, Mapping) and len(layer.weight) > 1:
            for source, weight in layer.weight.items():
                # The text of the move scales arrays that are no delays.
                if has_arrays(weight) and not kernels_of(weight):
                    yield ScaleEntry(name, 1.0, source)
        if is_function(layer.weight):
            yield AddBias(name, 0.0)
        surrogate = surrogate_of(layer.cell)
        if surrogate is not None and has_width(surrogate):
            shape = measure(surrogate)
            # Its own numbers rescale a slope to itself.
            yield FitSlope(name, (shape.peak, shape.half_width))
        cell = parameters_of(layer.cell)
        for field in numbers_of(cell):
            yield present_number(name, cell, field.name)


def present_number(place: str, cell: Cell, name: str) -> SetParameter:
    """Return the move of a number of a cell with the value that it has."""
    value = getattr(parameters_of(cell), name)
    if isinstance(value, Bounded):
        return SetBounded(place, value.raw, name, value.low, value.high)
    return SetParameter(place, value, name)


def numbers_of(cell: object) -> list[dataclasses.Field]:
    """Return the fields of a cell that hold one number, or an array of them."""
    fields = dataclasses.fields(cell) if dataclasses.is_dataclass(cell) else ()
    return [
        field
        for field in fields
        if "domain" in field.metadata
        and domain(field).number
        and (
            isinstance(value := getattr(cell, field.name), (float, Bounded))
            or is_real_array(value)
        )
    ]


def apply_moves(network: Network, moves: Moves) -> tuple[PyTree, PyTree]:
    """Apply moves to a network. Return its arrays that an optimizer trains, and everything else."""
    # Numbers of the moves are arrays in a compiled program, and must stay constants.
    leaves = jax.tree_util.tree_leaves_with_path(network)
    trained = {path for path, leaf in leaves if is_real_array(leaf)}
    for move in moves.values():
        network = move.apply(network)
    return split_by_path(network, lambda path, _: path in trained)


def has_width(surrogate: Any) -> bool:
    """Return True if :func:`rescaled` can fit the slope, which is largest near the threshold."""
    # A program would trace a trained parameter, which cannot be measured.
    if has_arrays(surrogate):
        return False
    try:
        shape = measure(surrogate)
    except (TypeError, ValueError):
        return False
    # A largest slope far from the threshold, or at all potentials, has no width around it.
    is_near = abs(shape.at) <= shape.half_width < math.inf
    return is_near and shape.half_width > 0 and 0 < abs(shape.peak) < math.inf


def has_mean(part: str, leaf: Any) -> bool:
    """Return True for a leaf whose mean is a current: a matrix, a kernel or the bias.

    The mean of another vector, such as a gain in a module, has its purpose.
    """
    return is_real_array(leaf) and (leaf.ndim > 1 or part == "bias")


def is_function(weight: object) -> bool:
    """Return True for a function of one step, which is neither a matrix nor has delays."""
    is_other = isinstance(weight, (jax.Array, np.ndarray, Mapping, Delayed, Window))
    return callable(weight) and not is_other


def has_arrays(weight: PyTree) -> bool:
    """Return True for a weight with arrays to scale. A function may hide them in its closure."""
    return any(map(is_real_array, jax.tree.leaves(weight)))


def matrices_of(weights: PyTree) -> list[np.ndarray]:
    """Return the matrices and kernels of weights, with the neurons last."""
    # In NumPy, because JAX would compile each operation.
    leaves = jax.tree.leaves(weights)
    return [np.asarray(a) for a in leaves if is_real_array(a) and a.ndim > 1]


def has_equal_neurons(weights: PyTree) -> bool:
    """Return True if all neurons have equal weights, as before they are drawn.

    A single neuron counts if its weights are 0.
    """
    if kernels_of(weights):
        return False
    matrices = matrices_of(weights)
    varies = [
        (w != w[..., :1]).any() or (w.shape[-1] == 1 and w.any()) for w in matrices
    ]
    return bool(matrices) and not any(varies)


def kernels_of(weight: PyTree) -> list[DelayKernel]:
    """Return the learned delays of a weight."""
    return [*filter(is_kernel, jax.tree.leaves(weight, is_leaf=is_kernel))]


def map_weights(change: Callable[[Any], Any], weight: PyTree) -> PyTree:
    """Change the leaves of a weight, except learned delays, which are no weights."""

    def changed(leaf: Any) -> Any:
        if not is_kernel(leaf):
            return change(leaf)
        return dataclasses.replace(leaf, weight=jax.tree.map(change, leaf.weight))

    return jax.tree.map(changed, weight, is_leaf=is_kernel)


def with_factor(weight: PyTree, factor: ArrayLike) -> PyTree:
    """Scale the arrays of a weight, in which it counts as linear, or else its output."""
    if not has_arrays(weight):
        # The dtype stays, so the types of the network do.
        return lambda x: (factor * weight(x)).astype(weight(x).dtype)
    # In float32, because a factor may be out of the range of float16.
    return map_weights(
        lambda a: (factor * jnp.float32(a)).astype(a.dtype) if is_real_array(a) else a,
        weight,
    )
