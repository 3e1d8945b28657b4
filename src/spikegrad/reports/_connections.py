"""The connections of a linear function: the number of paths from each input to the outputs.

A weight may be any function. Its equations run on a :class:`_Signal` instead of an input. Every
kernel becomes its pattern, ones or the places of its nonzero numbers, and biases become zeros. The
result is linear, and the transpose of it applied to ones is the number of connections of each input
(``jax.linear_transpose``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._compat import (
    Equation,
    Equations,
    bind,
    equations,
    evaluate_values,
    in_double_precision,
)


class NotLinearError(ValueError):
    """The function has no connections that could be counted."""


class _Signal(NamedTuple):
    """A value that depends on the input."""

    value: jax.Array
    products: int
    """The largest number of products on the way from the input."""


def check_linear(function: Callable, *inputs: jax.ShapeDtypeStruct) -> None:
    """Raise :class:`NotLinearError` for a function that is not linear, except for a bias.

    The inputs have the shapes and dtypes of its arguments.
    """
    trace = jax.make_jaxpr(functools.partial(function))
    program, consts = equations(trace(*inputs))

    def raise_if_nonlinear(*arrays: jax.Array) -> None:
        signals = [_Signal(x, 0) for x in arrays]
        _evaluate(program, *consts, *signals)

    with in_double_precision():
        arrays = (jax.ShapeDtypeStruct(x.shape, jnp.float64) for x in inputs)
        # The rules raise while they are traced, so no number is computed.
        jax.eval_shape(raise_if_nonlinear, *arrays)


def connections_of(
    function: Callable, like: jax.ShapeDtypeStruct
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of paths from each input to the outputs, and that number without weights of
    zero.

    ``like`` has the shape and dtype of the inputs. Both arrays have this shape. A function that is
    not linear, except for a bias, raises :class:`NotLinearError`.
    """
    # partial makes a new function, because JAX caches the traces of functions
    trace = jax.make_jaxpr(functools.partial(function))
    program, consts = equations(trace(like))

    def reached(pattern: Callable, consts: list) -> jax.Array:
        """Return the number of paths from each input, of kernels replaced by their pattern."""

        def ones(x: jax.Array) -> jax.Array:
            (out,) = _evaluate(program, *consts, _Signal(x, 0), pattern=pattern)
            if out.products > 1:
                raise NotLinearError(
                    "two products in series have operations that depend on the values between them"
                )
            return out.value

        # linear_transpose needs shapes only, so no array of the inputs is made.
        x = jax.ShapeDtypeStruct(like.shape, jnp.float64)
        out = jax.eval_shape(ones, x)
        # With kernels of ones, an output is the sum over its paths. The transpose applied to ones
        # sums over the outputs, which leaves the paths of each input.
        transpose = jax.linear_transpose(ones, x)
        (paths,) = transpose(jnp.ones(out.shape, out.dtype))
        return paths

    def is_nonzero(kernel: jax.Array) -> jax.Array:
        return kernel != 0

    @jax.jit
    def both(consts: list) -> tuple[jax.Array, jax.Array]:
        return reached(jnp.ones_like, consts), reached(is_nonzero, consts)

    with in_double_precision():  # exact up to 2^53
        all_paths, effective = jax.device_get(both(consts))
    return all_paths.astype(np.int64), effective.astype(np.int64)


def _evaluate(
    program: Equations, *inputs: Any, pattern: Callable = jnp.ones_like
) -> list[_Signal]:
    """Return the outputs for signals. Kernels are replaced by their ``pattern``."""
    rule = functools.partial(_apply, pattern=pattern)
    return evaluate_values(program, *inputs, kind=_Signal, rule=rule)


def _apply(equation: Equation, operands: list, pattern: Callable) -> list[_Signal]:
    """Return the outputs of an equation with signals among its operands."""
    signals = [x for x in operands if isinstance(x, _Signal)]
    name = equation.primitive.name
    if name in _MAXIMA:
        raise NotLinearError(f"max pooling ({name}) is not linear")
    if name not in _RULES:
        raise NotLinearError(f"{name} is not linear")
    if name in _PRODUCTS:
        if len(signals) > 1:
            raise NotLinearError(
                f"{name} of two values that depend on the input is not linear"
            )

        def with_pattern(x: Any) -> Any:
            if isinstance(x, _Signal):
                return x
            kernel = pattern(jnp.asarray(x))
            return kernel.astype(jnp.float64)

        operands = [with_pattern(x) for x in operands]
    return _RULES[name](equation, operands, signals)


def _moved(equation: Equation, operands: list, signals: list[_Signal]) -> list[_Signal]:
    """Operations that move or add values. Constants among them are biases."""
    # Moves keep the dtype of the signal.
    dtype = equation.outvars[0].aval.dtype

    def operand(x, var):
        if isinstance(x, _Signal):
            return x.value
        # A constant of this dtype is a bias or padding, which has no path from the input. Others
        # are indices.
        is_value = var.aval.dtype == dtype
        return jnp.zeros(var.aval.shape, jnp.float64) if is_value else x

    pairs = zip(operands, equation.invars, strict=True)
    values = [operand(x, var) for x, var in pairs]
    products = max(signal.products for signal in signals)
    return [_Signal(value, products) for value in bind(equation, values)]


def _same(equation: Equation, operands: list, signals: list[_Signal]) -> list[_Signal]:
    """A sign, a constant divisor or another float changes no connection."""
    # The divisor. Other operations have one operand.
    if any(isinstance(operand, _Signal) for operand in operands[1:]):
        raise NotLinearError(
            "a division by a value that depends on the input is not linear"
        )
    before = equation.invars[0].aval.dtype
    after = equation.outvars[0].aval.dtype
    was_float = jnp.issubdtype(before, jnp.floating)
    if was_float and not jnp.issubdtype(after, jnp.floating):
        raise NotLinearError(f"a conversion from {before} to {after} is not linear")
    return signals


def _sum(equation: Equation, operands: list, signals: list[_Signal]) -> list[_Signal]:
    """Sums and differences. Counts add up in both."""
    # Constants among the operands are biases, which have no path from the input.
    total = sum(signal.value for signal in signals)
    # ``sub`` too: a count of paths has no sign.
    total = jnp.broadcast_to(total, equation.outvars[0].aval.shape)
    products = max(signal.products for signal in signals)
    return [_Signal(total, products)]


def _scaled(
    equation: Equation, operands: list, signals: list[_Signal]
) -> list[_Signal]:
    """A product, number by number."""
    (signal,) = signals
    factor = operands[1] if operands[0] is signal else operands[0]
    # A scale of each value adds no product, because it can be folded into the kernel.
    # The factor is its pattern too, so a mask of zeros removes paths from the effective number.
    return [_Signal(signal.value * factor, signal.products)]


def _product(
    equation: Equation, operands: list, signals: list[_Signal]
) -> list[_Signal]:
    """A matrix product or a convolution."""
    (signal,) = signals
    # The kernel is a pattern of ones and zeros, so the product counts paths.
    values = [x.value if x is signal else x for x in operands]
    # The equation may add in float32, in which numbers of paths above 2**24 are rounded.
    outputs = bind(equation, values, preferred_element_type=np.dtype(np.float64))
    return [_Signal(out, signal.products + 1) for out in outputs]


_MOVES = (
    "broadcast_in_dim",
    "concatenate",
    "copy",
    "copy_p",
    "cumsum",
    "dynamic_slice",
    "dynamic_update_slice",
    "expand_dims",
    "gather",
    "pad",
    "reduce_sum",
    "reduce_window_sum",
    "reshape",
    "rev",
    "scatter",
    "scatter-add",
    "scatter_add",
    "select_n",
    "sharding_constraint",
    "slice",
    "split",
    "squeeze",
    "stack",
    "tile",
    "transpose",
    "unstack",
)
_MAXIMA = "reduce_max", "reduce_window_max"
"""Operations of max pooling."""
_PRODUCTS = "conv_general_dilated", "dot_general", "mul"
"""Operations whose kernels become their patterns."""
_RULES: dict[str, Callable[[Equation, list, list], list]] = {
    **dict.fromkeys(_MOVES, _moved),
    **dict.fromkeys(("convert_element_type", "div", "neg", "reduce_precision"), _same),
    **dict.fromkeys(("add", "add_any", "sub"), _sum),
    "mul": _scaled,
    **dict.fromkeys(("conv_general_dilated", "dot_general"), _product),
}
