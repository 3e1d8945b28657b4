"""Conversion of the function of a layer to nodes of NIR, from the equations of the function.

A function runs with a :class:`Signal` instead of its input array. Equations of constants are computed. Equations of the
signal must be products with a matrix, convolutions, sums with a bias, or changes of shape that keep the order of the
numbers in memory. The batch has one example, so the axes of the batch do not matter.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import nir
import numpy as np

from .._compat import bind, equations, evaluate


@dataclasses.dataclass(frozen=True)
class Signal:
    """An array that depends on the inputs."""

    shape: tuple[int, ...]
    """The shape in the function, with the axes of the batch."""
    example: tuple[int, ...]
    """The shape of one example, as in the function."""
    channels_last: bool | None = None
    """If True, channels are last in memory. In NIR they are first. None before any convolution."""
    nodes: tuple[Any, ...] = ()

    def to_nir(self, values: np.ndarray) -> np.ndarray:
        """Return values of one example in the order of NIR."""
        return np.moveaxis(values, -1, 0) if self.channels_last else values


class UnknownError(ValueError):
    """The function has an operation without a node in NIR."""


def read_operations(function: Callable, signal: Signal, dtype: Any) -> Signal:
    """Return the output signal of a function, with the nodes that compute it from the input signal."""
    # partial creates a new function, because JAX caches the traces of functions
    traced = jax.make_jaxpr(functools.partial(function))(jax.ShapeDtypeStruct((1, *signal.example), dtype))
    of, consts = equations(traced)
    given = dataclasses.replace(signal, shape=(1, *signal.example), nodes=())
    (out,) = evaluate(of, *consts, given, run=_apply)
    if not isinstance(out, Signal):
        raise UnknownError("a result that does not depend on the input")
    if out.shape[0] != 1:
        raise UnknownError(f"a result of shape {out.shape} without examples as its first axis")
    return dataclasses.replace(out, example=out.shape[1:])


def is_sum(function: Callable, examples: Sequence[Any]) -> bool:
    """If True, a function adds its arguments, each once, and does nothing else."""
    traced, out = jax.make_jaxpr(functools.partial(function), return_shape=True)(*examples)
    of, consts = equations(traced)
    given = [_Summands((n,)) for n in range(len(examples))]
    try:
        (total,) = evaluate(of, *consts, *given, run=_add)
    except UnknownError:
        return False
    once = isinstance(total, _Summands) and sorted(total.places) == list(range(len(examples)))
    return once and all(example.shape == out.shape for example in examples)


class _Summands(NamedTuple):
    """A sum of arguments of a function."""

    places: tuple[int, ...]


def _add(equation: Any, operands: list) -> list:
    name, params = equation.primitive.name, equation.params
    if not any(isinstance(x, _Summands) for x in operands):
        return bind(equation, operands)
    for inner in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if inner in params and name in _CALLS:
            of, consts = equations(params[inner])
            return evaluate(of, *consts, *operands, run=_add)
    # Python's sum starts at 0
    others = [x for x in operands if not isinstance(x, _Summands)]
    if name not in ("add", "add_any", "convert_element_type", "copy", "copy_p") or np.any([np.any(x) for x in others]):
        raise UnknownError(f"{name} is not a sum")
    return [_Summands(tuple(place for x in operands if isinstance(x, _Summands) for place in x.places))]


def _apply(equation: Any, operands: list) -> list:
    signals = [x for x in operands if isinstance(x, Signal)]
    if not signals:
        return bind(equation, operands)
    name, params = equation.primitive.name, equation.params
    for inner in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if inner in params and name in _CALLS:
            of, consts = equations(params[inner])
            return evaluate(of, *consts, *operands, run=_apply)
    if name not in _RULES:
        raise UnknownError(name)
    if len(signals) > 1:
        raise UnknownError(f"{name} of two values that depend on the inputs")
    return [_RULES[name](equation, operands, signals[0])]


_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat2"}


def _same(equation: Any, operands: list, signal: Signal) -> Signal:
    del operands
    dtype = equation.outvars[0].aval.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UnknownError(f"a conversion to {dtype}")
    return signal


def _reshaped(equation: Any, operands: list, signal: Signal) -> Signal:
    places = np.arange(np.prod(signal.shape, dtype=int)).reshape(signal.shape)
    moved = np.asarray(bind(equation, [jnp.asarray(places), *operands[1:]])[0])
    if not np.array_equal(moved.ravel(), places.ravel()):
        raise UnknownError(f"{equation.primitive.name} to another order of values")
    return dataclasses.replace(signal, shape=moved.shape)


def _product(equation: Any, operands: list, signal: Signal) -> Signal:
    (left, right), batched = equation.params["dimension_numbers"]
    mine, axes = (left, right) if operands[0] is signal else (right, left)
    matrix = np.asarray(operands[1] if operands[0] is signal else operands[0])
    sizes = [matrix.shape[axis] for axis in batched[1 if operands[0] is signal else 0]]
    summed = np.prod([signal.shape[axis] for axis in mine], dtype=int)
    if any(size != 1 for size in sizes) or summed != np.prod(signal.shape, dtype=int):
        raise UnknownError("a product along some of the axes of an example")
    axes = [axis for _, axis in sorted(zip(mine, axes, strict=True))]
    rest = [axis for axis in range(matrix.ndim) if axis not in axes]
    matrix = matrix.transpose(*axes, *rest).reshape(summed, -1)
    nodes = signal.nodes
    shape = _shape_in_nir(signal)
    if len(shape) > 1:
        nodes = (*nodes, nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1))
        if signal.channels_last:
            matrix = np.moveaxis(matrix.reshape(*shape[1:], shape[0], -1), -2, 0).reshape(summed, -1)
    linear = nir.Linear(weight=_writable(matrix.T))
    return Signal(equation.outvars[0].aval.shape, (matrix.shape[1],), None, (*nodes, linear))


def _convolution(equation: Any, operands: list, signal: Signal) -> Signal:
    params, kernel = equation.params, operands[1]
    if operands[0] is not signal:
        raise UnknownError("a convolution of a constant")
    images, kernels, outputs = params["dimension_numbers"]
    spatial, strides, spread = images[2:], params["window_strides"], params["rhs_dilation"]
    last = bool(images[1] > max(spatial))
    in_order = (
        list(spatial) == sorted(spatial) and (last or images[1] < min(spatial)) and tuple(images) == tuple(outputs)
    )
    if not in_order or signal.channels_last not in (None, last):
        raise UnknownError("axes in another order than channels first or last, or in several orders")
    if len(spatial) > 2 or params["batch_group_count"] != 1 or set(params["lhs_dilation"]) - {1}:
        raise UnknownError("a convolution of three dimensions, of groups of the batch or transposed")
    kernel = np.asarray(kernel).transpose(kernels)
    padding: Any = tuple(low for low, _ in params["padding"])
    if any(low != high for low, high in params["padding"]):
        wanted = [step * (size - 1) for step, size in zip(spread, kernel.shape[2:], strict=True)]
        same = [(total // 2, total - total // 2) for total in wanted]
        if set(strides) != {1} or list(params["padding"]) != same:
            raise UnknownError(f"a padding of {params['padding']}")
        padding = "same"
    shape = tuple(signal.shape[axis] for axis in (images[1], *spatial))
    out = equation.outvars[0].aval.shape
    weight, groups = _writable(kernel), params["feature_group_count"]
    common: dict[str, Any] = {"weight": weight, "groups": groups, "bias": np.zeros(len(kernel), weight.dtype)}
    if len(spatial) == 2:
        node: Any = nir.Conv2d(shape[1:], stride=strides, padding=padding, dilation=spread, **common)
    else:
        single = padding if isinstance(padding, str) else padding[0]
        node = nir.Conv1d(shape[1], stride=strides[0], padding=single, dilation=spread[0], **common)
    # nir infers wrong types for groups and for kernels that are not square
    node.input_type = {"input": np.array(shape)}
    node.output_type = {"output": np.array([out[axis] for axis in (outputs[1], *outputs[2:])])}
    example = tuple(size for axis, size in enumerate(out) if axis != outputs[0])
    return Signal(out, example, last, (*signal.nodes, node))


def _biased(equation: Any, operands: list, signal: Signal) -> Signal:
    bias = np.asarray(operands[1] if operands[0] is signal else operands[0])
    if equation.primitive.name == "sub":
        if operands[0] is not signal:
            raise UnknownError("a difference from a constant")
        bias = -bias
    if not signal.nodes or isinstance(signal.nodes[-1], nir.Flatten):
        raise UnknownError("a sum without a product before it")
    *nodes, last = signal.nodes
    bias = np.broadcast_to(bias, signal.shape)
    if isinstance(last, nir.Linear):
        node: Any = nir.Affine(weight=last.weight, bias=_writable(bias.reshape(-1)))
    elif isinstance(last, nir.Affine):
        node = nir.Affine(weight=last.weight, bias=last.bias + bias.reshape(-1))
    else:
        shape = _shape_in_nir(signal)
        whole = bias.reshape(*shape[1:], shape[0]).T if signal.channels_last else bias.reshape(shape)
        whole = whole.reshape(shape[0], -1)
        if (whole != whole[:, :1]).any():
            raise UnknownError("a bias that differs within a channel")
        node = last
        node.bias = node.bias + whole[:, 0]
    return dataclasses.replace(signal, nodes=(*nodes, node))


def _shape_in_nir(signal: Signal) -> tuple[int, ...]:
    """Return the shape of one example after the last node, or of the input."""
    for node in reversed(signal.nodes):
        return tuple(int(size) for size in node.output_type["output"])
    return tuple(np.moveaxis(np.empty(signal.example), -1, 0).shape) if signal.channels_last else signal.example


def _writable(values: Any) -> np.ndarray:
    """Return a copy in a dtype of HDF5."""
    values = np.array(values, order="C")
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


_RULES: dict[str, Callable[[Any, list, Signal], Signal]] = {
    **dict.fromkeys(("convert_element_type", "copy", "copy_p"), _same),
    **dict.fromkeys(("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose"), _reshaped),
    **dict.fromkeys(("add", "add_any", "sub"), _biased),
    "dot_general": _product,
    "conv_general_dilated": _convolution,
}
