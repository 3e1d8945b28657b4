"""Checks of inputs, conversion to one dtype and shape, and short forms for messages."""

from __future__ import annotations

import contextlib
import inspect
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


@contextlib.contextmanager
def needed(owner: str, package: str, extra: str) -> Iterator[None]:
    """Name the extra that installs a package if its import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{owner} needs {package}: pip install '.[{extra}]' in a clone of spikegrad",
            name=error.name,
        ) from error


@contextlib.contextmanager
def named(owner: str) -> Iterator[None]:
    """Put the name of a node, a layer or a file before the message of an error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # The error stays, because subclasses have different arguments.
        error.args = (f"{owner}: {error}",)
        raise


def real_array(x: Any, owner: str, name: str = "x") -> jax.Array:
    """Convert to a floating-point array.

    Ints and bools become the default float. Raise TypeError if not real.
    """
    # Arrays stay unchanged, because every eager operation costs time.
    if not isinstance(x, jax.Array):
        if hasattr(x, "__jax_array__"):
            x = x.__jax_array__()
        elif not isinstance(x, (np.ndarray, np.generic, float, int)):
            raise TypeError(
                f"{owner}: {name} must be a real number or array, got {type(x).__name__}"
            )
        elif np.asarray(x).dtype.kind in "iuO":
            # JAX would truncate integers to 32 bits or raise.
            x = np.asarray(x, jnp.result_type(float))
        x = jnp.asarray(x)
    is_float_of_numpy = getattr(x.dtype, "kind", "") == "f"  # the faster test
    if is_float_of_numpy or jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_:
        return x.astype(jnp.result_type(float))
    raise TypeError(f"{owner}: {name} must be real, got {x.dtype}")


def is_float(array: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def broadcast_checked(
    value: jax.Array,
    dtype: DTypeLike,
    shape: tuple[int, ...],
    owner: str,
    name: str,
    target: str = "x",
) -> jax.Array:
    """Convert ``value`` to this dtype and rank. Raise if it does not broadcast to this shape."""
    if not broadcasts(value.shape, shape):
        raise ValueError(
            f"{owner}: {name} of shape {value.shape} does not broadcast to {target} of shape "
            f"{shape}"
        )
    # Scalars need no axes, and other ranks must not be promoted silently.
    if value.ndim:
        leading = (1,) * (len(shape) - value.ndim)
        value = value.reshape(leading + value.shape)
    return value.astype(dtype)


def broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Return True if an array of this shape broadcasts to another shape."""
    # More axes than the target leave ``padded`` longer than it.
    padded = (1,) * (len(target) - len(shape)) + shape
    if len(padded) != len(target):
        return False
    pairs = zip(padded, target, strict=True)
    return all(size in (1, wanted) for size, wanted in pairs)


def append_axes(x: jax.Array, ndim: int) -> jax.Array:
    """Append axes of length 1 up to a number of axes."""
    # Such as (steps, examples) -> (steps, examples, 1).
    trailing = (1,) * (ndim - x.ndim)
    return x.reshape(x.shape + trailing)


def order_of_axes(
    name: str,
    shape: tuple[int, ...],
    other: str,
    other_shape: tuple[int, ...],
    at: int = 0,
) -> str:
    """Return the end of a message if another array has steps and examples in the other order.

    Otherwise it is empty. The axes of the other array begin with the steps, or for ``at=1`` with
    the examples.
    """
    count = len(other_shape)
    expected = shape[at:2][:count]
    # For at=0: (examples, steps), cut to the axes of the other array. For at=1: (steps,).
    swapped = shape[1 - at :: -1][:count]
    if other_shape[: 2 - at] != swapped or swapped == expected:
        return ""
    return (
        f". The {name} are (steps, examples, ...): {shape[0]} steps, {shape[1]} examples. The "
        f"{other} of shape {other_shape} fit the other order: move the axis with "
        "jnp.swapaxes(x, 0, 1)"
    )


def takes(function: Callable, count: int, **options: object) -> bool:
    """Return False if a function does not take this number of arguments and these options."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # Some functions written in C do not have one.
        return True
    try:
        signature.bind(*[None] * count, **options)
    except TypeError:
        return False
    return True


def compute_dtype(dtype: DTypeLike) -> DTypeLike:
    """Return the dtype of computations for an ``x`` of this dtype: float32 for half precision."""
    is_half = jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if is_half else dtype


def checked_shape(owner: str, value: Any) -> tuple[int, ...]:
    """Return integers above 0 as a shape. Raise for other values."""
    try:
        shape = tuple(operator.index(size) for size in value)
    except TypeError:
        shape = ()  # refused below, by one message for all wrong values
    if not shape or min(shape) < 1:
        fix = f". Write ({value},)" if isinstance(value, int) else ""
        raise ValueError(f"{owner} must be integers above 0, got {brief(value)}{fix}")
    return shape


def brief(value: object) -> str:
    """Return ``repr`` for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]}... ({len(text):,} characters)"


def hint_of_name(value: object) -> str:
    """Return the end of a message if a value is a text instead of the surrogate with this name."""
    return f". Write get({value!r})" if isinstance(value, str) else ""


def snake_case(name: str) -> str:
    """Convert ``SoftSign`` to ``soft_sign``, ``QPseudoSpike`` to ``q_pseudo_spike``, ``S2NN`` to
    ``s2nn``.
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
