"""Functions of integers: a sum of arrays, then products, convolutions and sums of windows.

A function of the user becomes an :class:`IntegerFunction`, see ``_weights.py``. The factors of
averages move into its weights, so all its numbers are integers. Training calls it with floats, and
:func:`~spikegrad.integers.replay` runs its operations in int64 by :func:`run`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .._checks import is_float
from .._struct import Struct, parameter, wiring
from .._weights import (
    Bias,
    Convolution,
    Factor,
    Move,
    Operation,
    Product,
    Shape,
    SumPooling,
    read_function,
)

WEIGHTED = Product, Convolution
"""The operations whose weights are arrays of the user. A function has at most one of them."""


class IntegerFunction(Struct, pure=True):
    """A sum of arrays ``(batch, ...)``, and operations of each example."""

    operations: tuple[Operation, ...] = parameter(kind=tuple)
    shape: Shape = wiring()
    """The shape of one example of an argument, with an axis of length 1 in front."""

    def __call__(self, *arrays: jax.Array) -> jax.Array:
        x = sum(arrays[1:], arrays[0])
        # Convolutions of JAX do not take spikes as integers.
        return jax.vmap(self._example)(x if is_float(x) else x.astype(float))

    def _example(self, x: jax.Array) -> jax.Array:
        x = x[None]
        for operation in self.operations:
            x = operation(x)
        return x[0]

    @property
    def output_shape(self) -> Shape:
        """The shape of the result for one example."""
        zeros = with_weights(self.operations, lambda x: np.zeros(np.shape(x), np.int64))
        return run(zeros, np.zeros((1, *self.shape), np.int64)).shape[2:]


def weight_name(operation: Operation) -> str | None:
    """Return the field with the weight of an operation, or None."""
    names = {Product: "weight", Convolution: "weight", Factor: "factor"}
    return names.get(type(operation))


def with_weights(
    operations: Sequence[Operation], convert: Callable[[Any], Any]
) -> tuple[Operation, ...]:
    """Return the operations with a function of each weight."""
    changed = []
    for operation in operations:
        name = weight_name(operation)
        if name is not None:
            weight = convert(getattr(operation, name))
            operation = dataclasses.replace(operation, **{name: weight})
        changed.append(operation)
    return tuple(changed)


# --- from functions of users ----------------------------------------------------------------------


@dataclasses.dataclass
class Reading:
    """A function of a user as a function of integers, before its weights are rounded."""

    function: IntegerFunction
    factor: float
    """The factor of the result. It is 1 if the weights have it."""
    bias: np.ndarray | None
    """An array that is added to the result, with as few numbers as it has."""


def read(function: Callable, shapes: Sequence[Shape], factor: float) -> Reading:
    """Read a function of arrays with these shapes of an example.

    ``factor`` is that of the arrays: they are integers, and stand for their product with it.
    Raise ValueError with the reason if integers cannot compute the function.
    """
    examples = [jax.ShapeDtypeStruct((1, *shape), np.float32) for shape in shapes]
    value = read_function(function, *examples)
    if sorted(value.sources) != [*range(len(shapes))]:
        raise ValueError("a sum that does not add each argument once")
    operations, bias = _without_bias(_without_orders(value.operations))
    rest = [x for x in operations if not isinstance(x, Factor)]
    for operation in operations:
        if isinstance(operation, Factor):
            factor *= _one_number(operation)
    places = [n for n, x in enumerate(rest) if isinstance(x, WEIGHTED)]
    if len(places) > 1:
        raise ValueError("two products without neurons between them")
    # All operations are linear, so a factor may move to the weights from anywhere.
    scale = np.float32(factor)
    return Reading(
        IntegerFunction(
            with_weights(rest, lambda weight: np.asarray(weight) * scale),
            (1, *shapes[0]),
        ),
        1.0 if places else factor,
        None if bias is None else without_repeats(bias, value.shape)[0],
    )


def _one_number(operation: Factor) -> float:
    numbers = np.unique(np.asarray(operation.factor))
    if numbers.size > 1:
        raise ValueError("a factor that differs between the numbers of an example")
    return float(numbers[0])


def _without_orders(operations: Sequence[Operation]) -> list[Operation]:
    """Move each transposition into the rows or columns of a product beside it."""
    done: list[Operation] = []
    order: np.ndarray | None = None  # of a transposition before a product
    for operation in operations:
        if isinstance(operation, Move) and operation.order is not None:
            places = np.array(operation.order)
            if done and isinstance(done[-1], Product):
                weight = np.asarray(done[-1].weight)[:, places]
                done[-1] = Product(weight, operation.shape)
            else:
                order = places if order is None else order[places]
        elif order is None:
            done.append(operation)
        elif isinstance(operation, Product):
            weight = np.empty_like(operation.weight)
            weight[order] = operation.weight
            done.append(Product(weight, operation.shape))
            order = None
        elif not isinstance(operation, Move):
            break
    if order is not None:
        raise ValueError("a transposition that no product follows")
    return done


def _without_bias(
    operations: Sequence[Operation],
) -> tuple[list[Operation], np.ndarray | None]:
    """Split the biases off, which must come last."""
    biases = [np.asarray(x.bias) for x in operations if isinstance(x, Bias)]
    count = len(operations) - len(biases)
    if any(isinstance(x, Bias) for x in operations[:count]):
        raise ValueError("a bias before another operation")
    return [*operations[:count]], sum(biases[1:], biases[0]) if biases else None


def without_repeats(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Return an array that broadcasts to a shape, with length 1 along axes of equal numbers."""
    array = np.broadcast_to(array, shape)
    for axis in range(array.ndim):
        first = array.take([0], axis)
        if (array == first).all():
            array = first
    return array


# --- in int64 -------------------------------------------------------------------------------------


def run(operations: Sequence[Operation], x: np.ndarray) -> np.ndarray:
    """Return the result for examples ``(batch, 1, ...)``. All numbers are int64."""
    for operation in operations:
        x = _RULES[type(operation)](operation, x)
    return x


def _product(product: Product, x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1) @ product.weight
    return flat.reshape(len(x), *product.shape)


def _convolution(convolution: Convolution, x: np.ndarray) -> np.ndarray:
    weight = convolution.weight
    # (batch, channels, *places)
    axes = [1 + axis for axis in convolution.input_axes]
    x = x.transpose(0, *axes)[:, 0]
    x = np.pad(x, [(0, 0), (0, 0), *convolution.padding])
    sizes, places = weight.shape[2:], x.shape[2:]
    counts = [
        (place - dilation * (size - 1) - 1) // stride + 1
        for place, size, stride, dilation in zip(
            places, sizes, convolution.stride, convolution.dilation, strict=True
        )
    ]
    groups, (outputs, inputs) = convolution.groups, weight.shape[:2]
    grouped = x.reshape(len(x), groups, inputs, *places)
    by_group = weight.reshape(groups, outputs // groups, inputs, *sizes)
    out = np.zeros((len(x), groups, outputs // groups, *counts), np.int64)
    for tap in itertools.product(*map(range, sizes)):
        seen = tuple(
            slice(k * dilation, k * dilation + stride * (count - 1) + 1, stride)
            for k, count, stride, dilation in zip(
                tap, counts, convolution.stride, convolution.dilation, strict=True
            )
        )
        part = grouped[(slice(None),) * 3 + seen]
        out += np.einsum("ngi...,goi->ngo...", part, by_group[(..., *tap)])
    out = out.reshape(len(x), 1, outputs, *counts)
    back = np.argsort(convolution.output_axes)
    return out.transpose(0, *(1 + axis for axis in back))


def _sum_pooling(pooling: SumPooling, x: np.ndarray) -> np.ndarray:
    x = np.pad(x, [(0, 0), *pooling.padding])
    counts = [
        (length - size) // stride + 1
        for length, size, stride in zip(
            x.shape[1:], pooling.window, pooling.stride, strict=True
        )
    ]
    out = np.zeros((len(x), *counts), np.int64)
    for tap in itertools.product(*map(range, pooling.window)):
        seen = tuple(
            slice(k, k + stride * (count - 1) + 1, stride)
            for k, count, stride in zip(tap, counts, pooling.stride, strict=True)
        )
        out += x[(slice(None), *seen)]
    return out


def _factor(factor: Factor, x: np.ndarray) -> np.ndarray:
    return x * factor.factor


def _move(move: Move, x: np.ndarray) -> np.ndarray:
    if math.prod(move.shape) != x[0].size or move.order is not None:
        raise ValueError(f"a move of {x.shape[1:]} to {move.shape} with another order")
    return x.reshape(len(x), *move.shape)


_RULES: dict[type[Operation], Callable[[Any, np.ndarray], np.ndarray]] = {
    Product: _product,
    Convolution: _convolution,
    SumPooling: _sum_pooling,
    Factor: _factor,
    Move: _move,
}
