"""Functions of integers: a sum of arrays, then products, convolutions and windows.

A function of the user becomes an :class:`IntegerFunction`, see ``_weights.py``. The factors of
averages move into its weights, so all its numbers are integers. Training calls it with floats, and
:func:`~spikegrad.integers.replay` runs its operations in int64 by :func:`run`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import is_float
from .._struct import Struct, parameter, wiring
from .._weights import (
    Bias,
    Convolution,
    Factor,
    MaxPooling,
    Operation,
    Product,
    Rearrangement,
    Shape,
    SumPooling,
    read_function,
)

WEIGHTED = Product, Convolution
"""The operations whose weights are arrays of the user. A function has at most one of them."""


class Argument(Struct, pure=True):
    """An array within the sum of a function."""

    shape: Shape = wiring()
    """The shape of one example, with an axis of length 1 in front."""
    operations: tuple[Operation, ...] = parameter(default=(), kind=tuple)
    """Operations before the sum, without weights."""


class IntegerFunction(Struct, pure=True):
    """A sum of arrays ``(batch, ...)``, and operations of each example of the sum."""

    arguments: tuple[Argument, ...] = parameter(kind=tuple)
    operations: tuple[Operation, ...] = parameter(kind=tuple)

    def __call__(self, *arrays: jax.Array) -> jax.Array:
        # Convolutions of JAX do not take spikes as integers.
        floats = [x if is_float(x) else x.astype(float) for x in arrays]
        return jax.vmap(self._example)(*floats)

    def _example(self, *arrays: jax.Array) -> jax.Array:
        # Operations read one example with an axis of length 1 in front, see ``_weights.py``.
        parts = [
            _after(argument.operations, x[None])
            for argument, x in zip(self.arguments, arrays, strict=True)
        ]
        total = sum(parts[1:], parts[0])
        return _after(self.operations, total)[0]

    @property
    def output_shape(self) -> Shape:
        """The shape of the result for one example."""
        # The axis of length 1 in front of an example is a batch of one.
        examples = [jax.ShapeDtypeStruct(x.shape, np.float32) for x in self.arguments]
        return jax.eval_shape(self, *examples).shape[1:]


def _after(operations: Sequence[Operation], x: jax.Array) -> jax.Array:
    """Return the result for one example, with an axis of length 1 in front."""
    for operation in operations:
        x = operation(x)
    return x


def _shape_after(operations: Sequence[Operation], shape: Shape) -> Shape:
    """Return the shape of the result, from that of the argument."""
    example = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.eval_shape(functools.partial(_after, operations), example).shape


def weight_name(operation: Operation) -> str | None:
    """Return the field with the weight of an operation, or None."""
    names = {Product: "weight", Convolution: "weight", Factor: "factor"}
    return names.get(type(operation))


def with_weights(
    operations: Sequence[Operation], convert: Callable[[Any], Any]
) -> tuple[Operation, ...]:
    """Return the operations with a function of each weight."""
    changed: list[Operation] = []
    for operation in operations:
        name = weight_name(operation)
        if name is not None:
            weight = convert(getattr(operation, name))
            operation = dataclasses.replace(operation, **{name: weight})
        changed.append(operation)
    return tuple(changed)


class Channels(NamedTuple):
    """The outputs of a weight that may have scales of their own."""

    axis: int
    """Their axis in the array of the weight."""
    of_neuron: np.ndarray
    """The number of the channel that each neuron reads, in the shape of the neurons."""

    def of_channels(self, values: np.ndarray) -> np.ndarray:
        """Return a value for each channel, from those of the neurons."""
        of_channel = np.ones(self.of_neuron.max() + 1, values.dtype)
        neurons = np.broadcast_to(values, self.of_neuron.shape)
        of_channel[self.of_neuron.ravel()] = neurons.ravel()
        return of_channel

    def along(self, values: np.ndarray, rank: int) -> np.ndarray:
        """Return values of the channels as an array that broadcasts to a weight."""
        shape = [1] * rank
        if rank:
            shape[self.axis] = len(values)
        return values.reshape(shape)


def channels_of(function: IntegerFunction) -> Channels:
    """Return the channels of a function with one weight.

    It is one channel if the operations behind the weight mix the outputs.
    """
    names = [weight_name(operation) for operation in function.operations]
    place = next(n for n, name in enumerate(names) if name)
    weighted: Any = function.operations[place]
    after = function.operations[place + 1 :]
    until = dataclasses.replace(function, operations=function.operations[: place + 1])
    numbers, axis = _channel_numbers(weighted, (1, *until.output_shape))
    count = int(numbers.max()) + 1
    # Send the numbers of the channels through the later operations, which are sums and maxima. An
    # output reads one channel c if it is n * c, n for ones and n * c**2 for squares: by Cauchy and
    # Schwarz, n * sum of c**2 is (sum of c)**2 only if all c are equal. A maximum of several c
    # passes this test. But then the maximum of count - c is not count minus the maximum of c.
    ones = np.ones_like(numbers)
    examples = np.stack([ones, numbers, numbers**2, count - numbers])
    n, total, squares, others = run(after, examples)[:, 0]
    is_mixed = n * squares != total**2
    has_maximum = total + others != n * count
    if is_mixed.any() or has_maximum.any():
        return Channels(0, np.zeros(n.shape, int))
    # An output beyond all windows reads nothing, and may have any channel.
    return Channels(axis, total // np.maximum(n, 1))


def _channel_numbers(operation: Operation, shape: Shape) -> tuple[np.ndarray, int]:
    """Return the channel of each number of a result, and the axis of the channels in the weight.

    ``shape`` is that of the result. A product has as many channels as outputs, and a factor one.
    """
    if isinstance(operation, Product):
        return np.arange(operation.weight.shape[1]).reshape(shape), 1
    count = 1
    along = 0
    if isinstance(operation, Convolution):
        count = operation.weight.shape[0]
        along = operation.output_axes[1]
    sizes = [1] * len(shape)
    sizes[along] = count
    return np.broadcast_to(np.arange(count).reshape(sizes), shape), 0


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
    terms = sorted(value.terms, key=lambda term: term.source)
    before = [term.operations for term in terms]
    operations = value.operations
    if len(terms) == 1:  # nothing is added, so all operations follow the sum
        operations = before[0] + operations
        before = [()]
    shape = _shape_after(before[0], examples[0].shape)  # of the sum
    operations, bias = _without_bias(operations, shape)
    operations = _without_orders(operations, shape)
    operations, own_factor = _without_factors(operations)
    arguments, factors = zip(*map(_without_factors, before), strict=True)
    if len({*factors}) > 1:
        raise ValueError("a sum whose parts have different factors")
    factor *= own_factor * factors[0]
    _check_operations(arguments, operations, factor)
    has_weight = any(isinstance(x, WEIGHTED) for x in operations)
    # A positive factor of all numbers commutes with sums and maxima, so it may move to the weights
    # from anywhere. Without weights, the layers that read the result get it.
    scale = np.float32(factor)
    function = IntegerFunction(
        tuple(
            Argument((1, *shape), each)
            for shape, each in zip(shapes, arguments, strict=True)
        ),
        with_weights(operations, lambda weight: np.asarray(weight) * scale),
    )
    if bias is not None:
        bias = without_repeats(bias, value.shape)[0]
    return Reading(function, 1.0 if has_weight else factor, bias)


def _check_operations(
    arguments: Iterable[Sequence[Operation]],
    operations: Sequence[Operation],
    factor: float,
) -> None:
    """Raise for operations that a sum of integers with one rounded weight cannot be."""
    before = [*itertools.chain(*arguments)]
    if any(isinstance(x, (*WEIGHTED, Bias)) for x in before):
        raise ValueError("a product or a bias before a sum")
    if any(map(_changes_order, before)):
        raise ValueError("a transposition or a slice before a sum")
    if factor < 0 and any(isinstance(x, MaxPooling) for x in operations):
        raise ValueError("a maximum with a negative factor")
    if sum(isinstance(x, WEIGHTED) for x in operations) > 1:
        raise ValueError("two products without neurons between them")


def _changes_order(operation: Operation) -> TypeGuard[Rearrangement]:
    """Return True for a transposition or a slice, and False for a reshape."""
    return isinstance(operation, Rearrangement) and operation.order is not None


def _without_factors(
    operations: Sequence[Operation],
) -> tuple[tuple[Operation, ...], float]:
    """Return the operations without factors, and the product of these."""
    others = tuple(x for x in operations if not isinstance(x, Factor))
    factors = [_one_number(x) for x in operations if isinstance(x, Factor)]
    return others, math.prod(factors)


def _one_number(operation: Factor) -> float:
    numbers = np.unique(np.asarray(operation.factor))
    if numbers.size > 1:
        raise ValueError("a factor that differs between the numbers of an example")
    return float(numbers[0])


def _without_orders(operations: Sequence[Operation], shape: Shape) -> list[Operation]:
    """Move each transposition or slice into the rows or columns of a product beside it.

    A chip has no transposition: its connections are the product. Behind a product, the columns of
    the weight ``(inputs, outputs)`` get the new order. Before one, the rows get the old one back.
    ``shape`` is that of the argument of the operations.
    """
    done: list[Operation] = []
    order: np.ndarray | None = None  # of a transposition or slice before a product
    for operation in operations:
        if _changes_order(operation):
            places = np.array(operation.order)
            if done and isinstance(done[-1], Product):
                weight = np.asarray(done[-1].weight)[:, places]
                done[-1] = Product(weight, operation.shape)
            else:  # places of the first argument, also after several transpositions
                order = places if order is None else order[places]
        elif order is None:
            done.append(operation)
        elif isinstance(operation, Product):
            # The number n of the product is the number order[n] of its argument.
            inputs = math.prod(_shape_after(done, shape))
            matrix = np.asarray(operation.weight)
            # Numbers that a slice leaves out keep rows of zeros.
            weight = np.zeros((inputs, matrix.shape[1]), matrix.dtype)
            weight[order] = matrix
            done.append(Product(weight, operation.shape))
            order = None
        elif not isinstance(operation, Rearrangement):  # a reshape keeps the order
            break
    if order is not None:
        raise ValueError("a transposition or a slice that no product follows")
    return done


def _without_bias(
    operations: Sequence[Operation], shape: Shape
) -> tuple[list[Operation], np.ndarray | None]:
    """Return the operations without biases, and the bias that follows them all.

    ``shape`` is that of their argument.
    """
    others: list[Operation] = []
    bias: np.ndarray | None = None  # of the result of the operations so far
    for operation in operations:
        if isinstance(operation, Bias):
            earlier = 0 if bias is None else bias
            bias = np.asarray(operation.bias) + earlier
            continue
        others.append(operation)
        if bias is not None:
            # f(x + b) is f(x) + f(b) for linear operations. A maximum is one for equal biases.
            bias = np.broadcast_to(bias, shape).astype(np.float32)
            if isinstance(operation, MaxPooling) and not _is_constant(operation, bias):
                raise ValueError(
                    "a maximum of a window after a bias that differs in it"
                )
            bias = np.asarray(operation(jnp.asarray(bias)))
        shape = _shape_after([operation], shape)
    return others, bias


def _is_constant(pooling: MaxPooling, bias: np.ndarray) -> bool:
    """Return True if the bias is one number in each window, as that of a channel is."""
    numbers = without_repeats(bias, bias.shape)
    return all(
        size == 1 or length == 1
        for size, length in zip(pooling.window, numbers.shape, strict=True)
    )


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
        x = RULES[type(operation)](operation, x)
    return x


def _product(product: Product, x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1) @ product.weight
    return flat.reshape(len(x), *product.shape)


def _convolution(convolution: Convolution, x: np.ndarray) -> np.ndarray:
    weight = convolution.weight  # (outputs, inputs of a group, *sizes)
    groups = convolution.groups
    sizes = weight.shape[2:]
    # The axis in front is the batch. The convolution has its own axis of examples, of length 1.
    axes = [1 + axis for axis in convolution.input_axes]
    x = x.transpose(0, *axes)[:, 0]  # (batch, channels, *places)
    not_padded = (0, 0)
    x = np.pad(x, [not_padded, not_padded, *convolution.padding])
    grouped = x.reshape(len(x), groups, -1, *x.shape[2:])
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    # One product for each place of the kernel, with all the inputs that it reads at once. NumPy has
    # no convolution of integers. (batch, groups, outputs of a group, *places)
    reads = _reads(grouped, sizes, convolution.stride, convolution.dilation)
    products = (
        np.einsum("ngi...,goi->ngo...", part, by_group[(..., *place)])
        for place, part in reads
    )
    out = functools.reduce(np.add, products)
    places = out.shape[3:]
    out = out.reshape(len(x), 1, len(weight), *places)
    # From (examples, channels, *places) to the order of the user.
    back = np.argsort(convolution.output_axes)
    return out.transpose(0, *(1 + axis for axis in back))


def _pooling(
    pooling: Any, x: np.ndarray, *, combine: np.ufunc, beyond: int
) -> np.ndarray:
    """Return the combination of the numbers of each window. ``beyond`` is outside of the array."""
    x = np.pad(x, [(0, 0), *pooling.padding], constant_values=beyond)
    no_gaps = (1,) * len(pooling.window)
    reads = _reads(x, pooling.window, pooling.stride, no_gaps)
    return functools.reduce(combine, (part for _, part in reads))


def _reads(
    x: np.ndarray, sizes: Shape, strides: Shape, dilation: Shape
) -> Iterator[tuple[Shape, np.ndarray]]:
    """Yield each place of a window, and the numbers that all windows have there.

    The window has these sizes along the last axes.
    """
    # Window o reads the number o * stride + k * dilation at its place k. The first place reads the
    # numbers that have a whole window behind them, and place k those k * dilation later.
    lengths = x.shape[-len(sizes) :]
    spans = np.multiply(dilation, np.subtract(sizes, 1))
    count = np.subtract(lengths, spans)
    for place in itertools.product(*map(range, sizes)):
        first = np.multiply(place, dilation)
        slices = map(slice, first, first + count, strides)
        yield place, x[(..., *slices)]


def _rearrangement(rearrangement: Rearrangement, x: np.ndarray) -> np.ndarray:
    shape = rearrangement.shape
    if math.prod(shape) != x[0].size or rearrangement.order is not None:
        raise ValueError(f"a move of {x.shape[1:]} to {shape} with another order")
    return x.reshape(len(x), *shape)


RULES: dict[type[Operation], Callable[[Any, np.ndarray], np.ndarray]] = {
    Product: _product,
    Convolution: _convolution,
    SumPooling: functools.partial(_pooling, combine=np.add, beyond=0),
    # A number that every other one exceeds, so it does not count.
    MaxPooling: functools.partial(
        _pooling, combine=np.maximum, beyond=np.iinfo(np.int64).min
    ),
    Factor: lambda factor, x: x * factor.factor,
    Rearrangement: _rearrangement,
}
"""The rule of each operation. :func:`read` moves biases behind them, so a bias has none."""
