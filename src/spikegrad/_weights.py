"""Weights that are functions, read as operations: products, convolutions, pooling, and so on.

:func:`read_function` traces a function with one example, and translates each equation of JAX that
depends on the example. The operations compute the function, one after the other. They are pytrees
of their arrays, which are known numbers. Exports and integers read them.

Another operation needs a class with ``read`` and ``__call__``, the names of its primitives in
``PRIMITIVES``, and a place in ``LINEAR`` if it is linear. Integers and exports know each class, so
it also needs:

- ``integers/_functions.py``: its rule in ``RULES``, and an entry in ``weight_name`` if it has
  weights.
- ``integers/_c_tables.py``: its row in a C program, see ``_edge_row`` and ``window_of``.
- ``integers/_save.py``: its name in ``_OPERATIONS``, and ``_operation`` to read it from a file.
- ``exchange/_nodes.py``: its entry in ``AFTER``, which may raise the reason that NIR has no such
  node.

An operation that becomes another one here, as an average becomes :class:`SumPooling` and
:class:`Factor`, needs none of these.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ._compat import Equation, bind, equations, evaluate_values
from ._struct import Struct, parameter, wiring

Shape: TypeAlias = tuple[int, ...]
Array: TypeAlias = Any
"""Known numbers, an array of NumPy or JAX."""
Operands: TypeAlias = list[Any]
"""Of an equation: known numbers, and values that depend on the arguments of a function."""


class Term(NamedTuple):
    """An argument of a function within a sum."""

    source: int
    """The number of the argument."""
    operations: tuple[Operation, ...] = ()
    """Operations before the sum, such as the zeros around a part of a concatenation."""


class Value(NamedTuple):
    """An array that depends on the arguments of a function.

    It is a sum of arguments, and the result of operations on the sum.
    """

    shape: Shape
    """The shape for one example. The axis of the examples has length 1, wherever it is."""
    dtype: np.dtype
    operations: tuple[Operation, ...] = ()
    """The operations that follow the sum."""
    terms: tuple[Term, ...] = (Term(0),)

    @property
    def is_moved_only(self) -> bool:
        return all(
            isinstance(operation, Rearrangement) for operation in self.operations
        )

    def then(self, operation: Operation | None, output: Any) -> Value:
        """Return the value after another operation, with the shape and dtype of ``output``."""
        operations = self.operations
        if operation is not None:
            operations = *operations, operation
        return Value(output.shape, output.dtype, operations, self.terms)


class Operation(Struct):
    """A function of an array of one example, in the order of axes that the user wrote."""

    @classmethod
    def read(
        cls, equation: Equation, operands: Operands, value: Value
    ) -> Operation | None:
        """Return the operation of an equation, or None if it changes nothing.

        ``operands`` has ``value`` and known numbers. Raise ValueError with the reason if there is
        no such operation.
        """
        raise NotImplementedError

    def __call__(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError


class Product(Operation, pure=True):
    """A product with all numbers of an example."""

    weight: Array = parameter(kind=object)
    """``(inputs, outputs)``, both in the order of the flat arrays."""
    shape: Shape = wiring()
    """The shape of the result."""

    @classmethod
    def read(cls, equation: Equation, operands: Operands, value: Value) -> Product:
        # Axes of the batch have one example, or they would be missing in the sum.
        axes, _ = equation.params["dimension_numbers"]
        # The value may be the left or the right factor of the product.
        place = int(operands[1] is value)
        summed = axes[place]
        rows = axes[1 - place]
        size = math.prod(value.shape)
        if math.prod(value.shape[axis] for axis in summed) != size:
            raise ValueError("a product along some of the axes of an example")
        # The rows of the matrix follow the axes of the value.
        pairs = sorted(zip(summed, rows, strict=True))
        rows = [row for _, row in pairs]
        weight = np.asarray(operands[1 - place])
        matrix = np.moveaxis(weight, rows, range(len(rows)))
        # matrix: (*shape of the value, *axes of the result) -> (inputs, outputs)
        return cls(matrix.reshape(size, -1), _output_of(equation).shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = x.reshape(-1) @ jnp.asarray(self.weight)
        return outputs.reshape(self.shape)


class Convolution(Operation, pure=True):
    """A convolution of one or two dimensions."""

    weight: Array = parameter(kind=object)
    """``(output channels, input channels of a group, *sizes)``."""
    stride: Shape = wiring()
    padding: tuple[tuple[int, int], ...] = wiring()
    dilation: Shape = wiring()
    groups: int = wiring()
    input_axes: Shape = wiring()
    """The axes of the array that are the examples, the channels and the places."""
    output_axes: Shape = wiring()
    """These axes in the result."""

    @classmethod
    def read(cls, equation: Equation, operands: Operands, value: Value) -> Convolution:
        params = equation.params
        input_axes, kernel_axes, output_axes = params["dimension_numbers"]
        is_transposed = {*params["lhs_dilation"]} != {1}
        if is_transposed or len(input_axes) > 4:
            raise ValueError(
                "a convolution of three dimensions or a transposed convolution"
            )
        if operands[1] is value or params["batch_group_count"] != 1:
            raise ValueError("a convolution with a kernel from the inputs")
        kernel = np.asarray(operands[1])
        return cls(
            # The kernel gets the order of PyTorch and NIR, whatever order the user has. The axes of
            # the arrays stay in the user's order, so the operation computes the same function.
            weight=kernel.transpose(kernel_axes),
            stride=params["window_strides"],
            padding=params["padding"],
            dilation=params["rhs_dilation"],
            groups=params["feature_group_count"],
            input_axes=input_axes,
            output_axes=output_axes,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            jnp.asarray(self.weight),
            self.stride,
            self.padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
            dimension_numbers=self._axes(x.ndim),
        )

    def _axes(self, rank: int) -> jax.lax.ConvDimensionNumbers:
        # The kernel has its outputs, inputs and places in this order.
        return jax.lax.ConvDimensionNumbers(
            self.input_axes, (*range(rank),), self.output_axes
        )


class _Pooling(Operation, pure=True):
    """A number for each window of an array."""

    window: Shape = wiring()
    """The size of the window, for each axis of the array."""
    stride: Shape = wiring()
    padding: tuple[tuple[int, int], ...] = wiring()

    @classmethod
    def read(cls, equation: Equation, operands: Operands, value: Value) -> _Pooling:
        params = equation.params
        # Gaps between the numbers or within a window, which no exporter has.
        dilations = {*params["base_dilation"], *params["window_dilation"]}
        if dilations != {1}:
            raise ValueError("a pooling with gaps")
        return cls(
            window=params["window_dimensions"],
            stride=params["window_strides"],
            padding=params["padding"],
        )


class SumPooling(_Pooling, pure=True):
    """The sum of a window. An average is this sum and a factor.

    Zeros around an array are the sums of windows of one number, with a padding.
    """

    @classmethod
    def read(cls, equation: Equation, operands: Operands, value: Value) -> SumPooling:
        params = equation.params
        name = equation.primitive.name
        ones = (1,) * len(value.shape)
        # The sum of whole axes is that of one window. Its axes stay, with length 1.
        if name == "reduce_sum":
            axes = params["axes"]
            window = tuple(
                length if axis in axes else 1 for axis, length in enumerate(value.shape)
            )
            no_padding = ((0, 0),) * len(ones)
            return cls(window, ones, no_padding)
        if name == "pad":
            config = params["padding_config"]
            sides = [(int(low), int(high)) for low, high, _ in config]
            # A negative side would cut numbers off, and a gap is one between the numbers.
            gaps = [gap for *_, gap in config]
            # The operands are an array and the number around it.
            is_padded = operands[0] is value and not np.any(operands[1])
            if not is_padded or np.min(sides) < 0 or any(gaps):
                raise ValueError(
                    "a padding with other numbers than zeros around an array"
                )
            return cls(ones, ones, tuple(sides))
        return super().read(equation, operands, value)  # type: ignore[return-value]

    def __call__(self, x: jax.Array) -> jax.Array:
        zero = np.zeros((), x.dtype)
        return jax.lax.reduce_window(
            x, zero, jax.lax.add, self.window, self.stride, self.padding
        )


class MaxPooling(_Pooling, pure=True):
    """The largest number of a window, which for spikes is an or."""

    def __call__(self, x: jax.Array) -> jax.Array:
        # Numbers beyond the array do not count, also if all within it are negative.
        lowest = np.asarray(-np.inf, x.dtype)
        return jax.lax.reduce_window(
            x, lowest, jax.lax.max, self.window, self.stride, self.padding
        )


class Factor(Operation, pure=True):
    """A product of each number with a constant."""

    factor: Array = parameter(kind=object)
    """One number, or an array of the shape of the value."""

    @classmethod
    def read(cls, equation: Equation, operands: Operands, value: Value) -> Factor:
        left, right = operands
        if equation.primitive.name == "mul":
            constant = right if left is value else left
            return cls(np.asarray(constant))
        if right is value:
            raise ValueError("a division by a value that depends on the inputs")
        divisor = np.asarray(right)
        # In float64, so the factor is the float32 number nearest to the quotient.
        factor = 1 / divisor.astype(np.float64)
        return cls(factor.astype(divisor.dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * jnp.asarray(self.factor, x.dtype)


class Bias(Operation, pure=True):
    """A sum of each number and a constant."""

    bias: Array = parameter(kind=object)
    """One number, or an array of the shape of the value."""

    @classmethod
    def read(cls, equation: Equation, operands: Operands, value: Value) -> Bias | None:
        left, right = operands
        is_difference = equation.primitive.name == "sub"
        # The value would need the factor -1.
        if is_difference and right is value:
            raise ValueError("a difference from a constant")
        constant = right if left is value else left
        bias = np.asarray(constant)
        if value.is_moved_only and not bias.any():
            return None  # Python's sum starts at 0
        # x - b is x + (-b).
        return cls(-bias if is_difference else bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + jnp.asarray(self.bias, x.dtype)


class Rearrangement(Operation, pure=True):
    """Another shape or order of the numbers, or a part of them, such as of a reshape, a
    transposition or a slice.
    """

    order: tuple[int, ...] | None = wiring()
    """For each number of the flat result, its place before. None: all places stay."""
    shape: Shape = wiring()
    """The shape of the result."""

    @classmethod
    def read(
        cls, equation: Equation, operands: Operands, value: Value
    ) -> Rearrangement:
        # The equation moves the places as it moves the numbers.
        size = math.prod(value.shape)
        before = np.arange(size).reshape(value.shape)
        _, *others = operands
        (moved,) = bind(equation, [jnp.asarray(before), *others])
        places = np.asarray(moved)
        # A broadcast repeats numbers.
        if places.size > size:
            raise ValueError(f"{equation.primitive.name} to another number of values")
        order = places.ravel()
        is_same = np.array_equal(order, before.ravel())
        numbers = None if is_same else tuple(order.tolist())
        return cls(numbers, places.shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.order is None:
            return x.reshape(self.shape)
        numbers = x.reshape(-1)[np.array(self.order)]
        return numbers.reshape(self.shape)


PRIMITIVES: dict[str, type[Operation]] = {
    "dot_general": Product,
    "conv_general_dilated": Convolution,
    **dict.fromkeys(("reduce_window_sum", "reduce_sum", "pad"), SumPooling),
    "reduce_window_max": MaxPooling,
    **dict.fromkeys(("mul", "div"), Factor),
    **dict.fromkeys(("add", "add_any", "sub"), Bias),
    **dict.fromkeys(
        ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose"),
        Rearrangement,
    ),
    **dict.fromkeys(("slice", "rev"), Rearrangement),
}
LINEAR = Product, Convolution, SumPooling, Factor, Rearrangement
"""The operations whose result for a sum is the sum of their results."""
COPIES = frozenset({"convert_element_type", "copy", "copy_p"})
"""Primitives that change at most the dtype."""


def read_function(
    function: Callable[..., Array], *arguments: jax.ShapeDtypeStruct
) -> Value:
    """Return the result of a function as a sum of its arguments and operations.

    Parameters
    ----------
    function : callable
        A function of JAX, of one array or of several.
    *arguments : jax.ShapeDtypeStruct
        Shapes and dtypes of the arrays, with one example each.

    Returns
    -------
    Value
        The operations, and the arguments that are added before them.

    Raises
    ------
    ValueError
        If an equation is not one of the operations, or if the sum does not add each argument once.
        The message is the reason: the primitive of the equation, such as ``tanh``, or a sentence.
    """
    values = [
        Value(x.shape, x.dtype, terms=(Term(n),)) for n, x in enumerate(arguments)
    ]
    # partial creates a new function, because JAX caches the traces of functions
    trace = jax.make_jaxpr(functools.partial(function))
    jaxpr, consts = equations(trace(*arguments))
    result, *_ = evaluate_values(
        jaxpr, *consts, *values, kind=Value, rule=_read_equation
    )
    if not isinstance(result, Value):
        raise ValueError("a result that does not depend on the input")
    sources = sorted(term.source for term in result.terms)
    if sources != [*range(len(arguments))]:
        raise ValueError("a sum that does not add each argument once")
    return result


def _read_equation(equation: Equation, operands: Operands) -> list[Value]:
    """Return the output of an equation: a value with one more operation."""
    values = [x for x in operands if isinstance(x, Value)]
    value = values[0]
    name = equation.primitive.name
    output = _output_of(equation)
    if name in COPIES:
        return [value._replace(dtype=output.dtype)]
    if name == "concatenate":
        return [_concatenated(equation, operands)]
    if name not in PRIMITIVES:
        raise ValueError(name)
    if len(values) > 1:
        return [_sum(name, values)]
    operation = PRIMITIVES[name].read(equation, operands, value)
    result = value.then(operation, output)
    if name == "reduce_sum":  # the axes of length 1 go
        result = result.then(Rearrangement(None, output.shape), output)
    return [result]


def _sum(name: str, values: list[Value]) -> Value:
    """Return the sum of two values, as of a join. Only moves may come before it."""
    left, right = values
    # A reshape of both arguments is one of the sum. Other operations would need two results.
    is_sum = PRIMITIVES[name] is Bias and name != "sub"
    has_equal_moves = left.is_moved_only and left.operations == right.operations
    if not (is_sum and has_equal_moves):
        raise ValueError(f"{name} of two values that depend on the inputs")
    return left._replace(terms=left.terms + right.terms)


def _concatenated(equation: Equation, operands: Operands) -> Value:
    """Return a concatenation as the sum of its parts, each with zeros in the places of others."""
    axis = equation.params["dimension"]
    output = _output_of(equation)
    terms: list[Term] = []
    low = 0
    for part in operands:
        if not isinstance(part, Value):
            raise ValueError("a concatenation with a constant")
        # The operations of a part move before the sum of all parts. For a sum of several arguments,
        # f(a + b) must be f(a) + f(b).
        is_linear = all(isinstance(operation, LINEAR) for operation in part.operations)
        if len(part.terms) > 1 and not is_linear:
            raise ValueError("a concatenation of a sum with a bias or a maximum")
        length = part.shape[axis]
        behind = output.shape[axis] - length - low
        # Zeros before and behind the part: a padding, as the sum of windows of one number.
        sides = [(0, 0)] * len(part.shape)
        sides[axis] = low, behind
        ones = (1,) * len(part.shape)
        zeros = SumPooling(ones, ones, tuple(sides))
        for term in part.terms:
            operations = *term.operations, *part.operations, zeros
            terms.append(Term(term.source, operations))
        low += length
    return Value(output.shape, output.dtype, (), tuple(terms))


def _output_of(equation: Equation) -> Any:
    """Return the shape and dtype of the only output of an equation."""
    return equation.outvars[0].aval
