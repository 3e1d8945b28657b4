"""Changes that may help a network to learn. Each can be applied, also to traced values.

A move has a place, a value and a neutral value. All moves of a network with their neutral values
are one pytree, so one compiled program tries any of their values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from .._pytree import is_real_array
from .._struct import domain
from .._surrogate import Surrogate
from ..network import Delayed, Join, Layer, Network, Window
from ..neurons import parameters_of, with_parameters
from ..surrogates import measure, rescaled, shifted

M = TypeVar("M", bound="Move")


def number(value: Any) -> str:
    """Two digits, without exponents for usual sizes."""
    return f"{float(value):.2g}"


def rounded(value: float) -> float:
    """Return a value of two digits, for code that one can read."""
    return float(number(value))


@dataclass_transform(frozen_default=True)
def _move(cls: type[M]) -> type[M]:
    """Make a class a frozen dataclass, and a pytree with its value as leaf."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    static = [f.name for f in dataclasses.fields(cls) if f.name != "value"]
    return jax.tree_util.register_dataclass(cls, ["value"], static)


@_move
class Move:
    """A change of one part of a network."""

    place: Any
    """The name of a layer or of inputs. None for the optimizer."""
    value: Any

    @property
    def in_forward(self) -> bool:
        """If True, it replaces constants. Otherwise it changes arrays before the training."""
        is_number = isinstance(self, SetParameter) and np.ndim(self.value) == 0
        return is_number or isinstance(self, FitSlope)

    @property
    def slot(self) -> tuple:
        """The part that it changes. A network has one move for each part."""
        # The value is not part of the slot, so a new value of a part replaces the old one.
        static = [f.name for f in dataclasses.fields(self) if f.name != "value"]
        return type(self), *(getattr(self, name) for name in static)

    def apply(self, network: Network) -> Network:
        """Return the changed network."""
        if self.place is None:
            return network
        layer = self.change(network.graph.nodes[self.place])
        return dataclasses.replace(network, layers=network.layers | {self.place: layer})

    def change(self, layer: Layer) -> Layer:
        return layer

    def change_optimizer(self, optimizer: Any) -> Any:
        """Return the optimizer, changed by moves without a place."""
        return optimizer

    @property
    def text(self) -> str:
        """The change as a sentence."""
        return ""

    @property
    def argument(self) -> str:
        """The changed argument of the layer or its cell."""
        return ""

    @property
    def code(self) -> str:
        """Statements that change ``network``, to paste after its construction."""
        argument, old = self.argument, "dataclasses.replace(layer"
        changes = [f"layer = {old}, {argument})"]
        if isinstance(self, (FitSlope, SetParameter)):
            changes = [f"cell = {old}.cell, {argument})", f"layer = {old}, cell=cell)"]
        return "\n".join(
            [
                f"layer = network.layers[{self.place!r}]",
                *changes,
                f"layers = network.layers | {{{self.place!r}: layer}}",
                "network = dataclasses.replace(network, layers=layers)",
            ]
        )


@_move
class Scale(Move):
    """Scale a weight: ``weight``, one source of it, ``recurrent`` or ``bias``."""

    part: str

    def change(self, layer: Layer) -> Layer:
        return _with_part(layer, self.part, lambda w: scaled(w, self.value))

    @property
    def text(self) -> str:
        return f"scale its {_named(self.part)} by {number(self.value)}"

    @property
    def argument(self) -> str:
        return _changed(
            self.part, f"jax.tree.map(lambda w: {number(self.value)} * w, {{}})"
        )


@_move
class ScaleOutput(Scale):
    """Scale the output of a function that hides its arrays."""

    @property
    def argument(self) -> str:
        return _changed(self.part, f"lambda x, f={{}}: {number(self.value)} * f(x)")


@_move
class Center(Move):
    """Subtract the mean from the matrices and kernels of a weight, or from the bias."""

    part: str

    def change(self, layer: Layer) -> Layer:
        # A mean is a common current of all neurons, which shifts their potentials.
        def centered(w):
            if not has_mean(self.part, w):
                return w
            return (w - self.value * jnp.float32(w).mean()).astype(w.dtype)

        return _with_part(layer, self.part, lambda w: jax.tree.map(centered, w))

    @property
    def text(self) -> str:
        return f"subtract the mean from its {_named(self.part)}"

    @property
    def argument(self) -> str:
        mean = "w.mean()" if self.part == "bias" else "(w.ndim > 1) * w.mean()"
        return _changed(self.part, f"jax.tree.map(lambda w: w - {mean}, {{}})")


@_move
class FitSlope(Move):
    """Set peak and half-width of the slope, and shift it: ``value`` has all three."""

    def change(self, layer: Layer) -> Layer:
        field = surrogate_field(layer.cell)
        base = getattr(parameters_of(layer.cell), field)
        peak, half_width, shift = self.value
        slope = rescaled(base, peak=peak, half_width=half_width)
        # Most slopes have their peak at the threshold, where it stays.
        if measure(base).at:
            slope = shifted(slope, shift)
        return dataclasses.replace(
            layer, cell=with_parameters(layer.cell, **{field: slope})
        )

    @property
    def text(self) -> str:
        peak, half_width, _ = map(number, self.value)
        where = " at the threshold" * bool(self.value[2])
        return f"rescale its slope to a peak of {peak}{where} and a half-width of {half_width}"

    @property
    def argument(self) -> str:
        peak, half_width, shift = map(number, self.value)
        slope = f"rescaled(layer.cell.surrogate, peak={peak}, half_width={half_width})"
        return "surrogate=" + (f"shifted({slope}, {shift})" if self.value[2] else slope)


@_move
class SetParameter(Move):
    """Set a number of the cell, or an array of it before the training."""

    parameter: str

    def change(self, layer: Layer) -> Layer:
        cell = with_parameters(layer.cell, **{self.parameter: self.value})
        return dataclasses.replace(layer, cell=cell)

    @property
    def text(self) -> str:
        return f"set its {self.parameter} to {np.mean(self.value):.3g}"

    @property
    def argument(self) -> str:
        number = f"{np.mean(self.value):.3g}"
        if np.ndim(self.value):
            number = f"np.full({np.shape(self.value)}, {number}, np.float32)"
        return f"{self.parameter}={number}"


@_move
class Standardize(Move):
    """Subtract a shift from each channel of the inputs and divide by a scale: ``value`` has both.

    ``place`` is the name of the inputs. A weight cannot replace it, because each update acts
    through the inputs.
    """

    def of_inputs(self, x: jax.Array) -> jax.Array:
        shift, scale = self.value
        return _standardized(x, shift, scale)

    def apply(self, network: Network) -> Network:
        shift, scale = self.value
        name = f"{self.place} standardized"
        # A join, because any kind of weight may read it. Its numbers are in the closure, where no
        # optimizer trains them.
        join = Join(lambda x: _standardized(x, shift, scale), of=(self.place,))

        def renamed(names):
            return tuple(name if n == self.place else n for n in names)

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
        shift, scale = map(_brief, self.value)
        return f"standardize the inputs: subtract {shift} and divide by {scale}"

    @property
    def code(self) -> str:
        shift, scale = (f"np.array({np.round(v, 6).tolist()})" for v in self.value)
        return f"inputs = (inputs - {shift}) / {scale}"


@_move
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


@_move
class ScaleRate(Move):
    """Scale the learning rate of the optimizer."""

    def change_optimizer(self, optimizer: Any) -> Any:
        import optax  # noqa: PLC0415  (an extra)

        # After the optimizer, since Adam would normalize a scaled gradient back.
        return optax.chain(optimizer, optax.scale(self.value))

    @property
    def text(self) -> str:
        return f"multiply the learning rate by {number(self.value)}"

    @property
    def code(self) -> str:
        return f"optimizer = optax.chain(optimizer, optax.scale({number(self.value)}))"


@_move
class ReplaceOptimizer(ScaleRate):
    """Train with Adam, at the learning rate ``value``."""

    def change_optimizer(self, optimizer: Any) -> Any:
        import optax  # noqa: PLC0415  (an extra)

        return optax.adam(self.value)

    @property
    def text(self) -> str:
        return f"as a last resort, train with Adam at a learning rate of {number(self.value)}"

    @property
    def code(self) -> str:
        return f"optimizer = optax.adam({number(self.value)})"


Moves: TypeAlias = dict[tuple, Move]
"""Moves by slot."""


def path_of(keys: Any) -> str:
    """Return the path of a leaf, such as ``layers/0/weight``."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def neutral_moves(network: Network, inputs: Mapping[str, Any]) -> Moves:
    """Return every move of a network, by slot, with the value that changes nothing."""
    of_inputs = [
        Standardize(
            name, tuple(f(x.shape[2:], np.float32) for f in (np.zeros, np.ones))
        )
        for name, x in inputs.items()
    ]
    return {move.slot: move for move in (*_neutral_of_layers(network), *of_inputs)}


def _neutral_of_layers(network: Network) -> Iterator[Move]:
    for name, layer in network.graph.layers.items():
        for part, weight in {**layer.weights, "bias": layer.bias}.items():
            if has_arrays(weight):
                yield Scale(name, 1.0, part)
                yield Center(name, 0.0, part)
            elif callable(weight):
                yield ScaleOutput(name, 1.0, part)
        field = surrogate_field(layer.cell)
        cell = parameters_of(layer.cell)
        if field is not None and has_width(getattr(cell, field)):
            shape = measure(getattr(cell, field))
            # Its own numbers rescale a slope to itself.
            yield FitSlope(name, (shape.peak, shape.half_width, 0.0))
        for parameter in numbers_of(cell):
            yield SetParameter(name, getattr(cell, parameter.name), parameter.name)


def numbers_of(cell: Any) -> list[dataclasses.Field]:
    """Return the fields of a cell that hold one number, or an array of them."""
    fields = dataclasses.fields(cell) if dataclasses.is_dataclass(cell) else ()
    return [
        field
        for field in fields
        if "domain" in field.metadata
        and domain(field).number
        and (
            isinstance(value := getattr(cell, field.name), float)
            or (is_real_array(value) and value.ndim > 0)
        )
    ]


def apply_moves(network: Network, moves: Moves, in_forward: bool) -> Network:
    """Apply the moves of constants, or all other moves, to a network."""
    for move in moves.values():
        # Moves of inputs have other places, and ``standardized`` applies them.
        if move.in_forward is in_forward and move.place in network.layers:
            network = move.apply(network)
    return network


def surrogate_field(cell: Any) -> Any:
    """Return the name of the field with the surrogate, or None for a cell that never fires."""
    cell = parameters_of(cell)
    values = getattr(cell, "__dict__", {})
    if getattr(cell, "threshold", 1) is None:
        return None
    if callable(values.get("surrogate")):
        return "surrogate"
    return next(
        (name for name, value in values.items() if isinstance(value, Surrogate)), None
    )


def has_width(surrogate: Any) -> bool:
    """Return True if :func:`rescaled` can change the slope."""
    try:
        shape = measure(surrogate)
    except (TypeError, ValueError):
        return False
    return 0 < shape.half_width < math.inf and 0 < abs(shape.peak) < math.inf


def has_mean(part: str, leaf: Any) -> bool:
    """Return True for a leaf whose mean is a current: a matrix, a kernel or the bias.

    The mean of another vector, such as a gain in a module, has its purpose.
    """
    return is_real_array(leaf) and (leaf.ndim > 1 or part == "bias")


def has_arrays(weight: Any) -> bool:
    """Return True for a weight with arrays to scale. A function may hide them in its closure."""
    return any(map(is_real_array, jax.tree.leaves(weight)))


def scaled(weight: Any, factor: Any) -> Any:
    """Scale the arrays of a weight, in which it counts as linear, or else its output."""
    if not has_arrays(weight):
        # The dtype stays, so the types of the network do.
        return lambda x: (factor * weight(x)).astype(weight(x).dtype)
    # In float32, because a factor may be out of the range of float16.
    return jax.tree.map(
        lambda a: (factor * jnp.float32(a)).astype(a.dtype) if is_real_array(a) else a,
        weight,
    )


def _standardized(x, shift, scale):
    # Integer inputs would be truncated after the division.
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
    return ((x.astype(jnp.float32) - shift) / scale).astype(dtype)


def _with_part(layer: Layer, part: str, change: Any) -> Layer:
    """Change one weight of a layer, within a delay or a window."""

    def inner(weight):
        if isinstance(weight, (Delayed, Window)):
            return dataclasses.replace(weight, weight=change(weight.weight))
        return change(weight)

    field, _, source = part.partition("[")
    new = getattr(layer, field)
    if isinstance(new, Mapping):
        source = source.strip("[]'\"")
        new = {name: inner(w) if name == source else w for name, w in new.items()}
    else:
        new = inner(new)
    return dataclasses.replace(layer, **{field: new})


def _named(part: str) -> str:
    field, _, source = part.partition("[")
    names = {"weight": "weights", "recurrent": "recurrent weights", "bias": "bias"}
    return names[field] + (f" of {source.rstrip(']')}" if source else "")


def _changed(part: str, code: str) -> str:
    """Return the argument of a layer with one part changed by code of its old value."""
    field, _, source = part.partition("[")
    if not source:
        return f"{field}={code.format(f'layer.{field}')}"
    return f"{field}=layer.{field} | {{{source[:-1]}: {code.format(f'layer.{part}')}}}"


def _brief(value: Any) -> str:
    array = np.unique(np.asarray(value))
    if len(array) == 1:
        return number(array[0])
    return f"[{number(array[0])} ... {number(array[-1])}]"
