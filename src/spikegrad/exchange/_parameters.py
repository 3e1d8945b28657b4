"""Checks of the parameters of NIR nodes: real, finite, and of the right shape."""

from __future__ import annotations

import operator
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import brief, checked_shape

Shape = tuple[int, ...]


def owner_of(name: str, node: Any) -> str:
    """Return the start of a message about a node."""
    return f"from_nir: {brief(name)} ({type(node).__name__})"


def numbers(owner: str, node: Any, name: str) -> np.ndarray:
    """Return a parameter of a node in float64. Raise if it is not finite in JAX's default float."""
    value = getattr(node, name, None)
    try:
        values = np.asarray(value)
    except Exception:  # nested lists of different lengths, and objects that only look like an array
        raise TypeError(f"{owner}: {name} must be an array of real numbers, got {brief(value)}") from None
    if not any(jnp.issubdtype(values.dtype, kind) for kind in (np.floating, np.integer, np.bool_)):
        raise TypeError(f"{owner}: {name} must be an array of real numbers, got {values.dtype}")
    check_finite(owner, name, values)
    return values.astype(np.float64)


def check_finite(owner: str, name: str, values: Any) -> None:
    """Raise if values are not finite in JAX's default float, the dtype of networks."""
    values, dtype = np.asarray(values), jnp.result_type(float)
    with np.errstate(over="ignore"):
        wrong = ~np.isfinite(values.astype(dtype))
    if wrong.any():
        raise ValueError(f"{owner}: {name} must be finite in {dtype}, got {values[wrong].flat[0]}")


def of_signal(owner: str, node: Any, name: str, signal: Shape | None) -> np.ndarray:
    """Return a parameter with one value, or one value per neuron in the rank of the signal."""
    values = numbers(owner, node, name)
    if signal is None:
        return values
    padded = (1,) * (len(signal) - values.ndim) + values.shape
    if len(padded) != len(signal) or any(n not in (1, m) for n, m in zip(padded, signal, strict=True)):
        raise ValueError(f"{owner}: {name} must have the shape of the input, {signal}, got {values.shape}")
    return values.reshape(padded) if values.ndim else values


def axes(owner: str, node: Any, name: str, count: int, least: int) -> Shape:
    """Return a parameter with one integer for each axis. One integer is repeated."""
    value = getattr(node, name)
    try:
        found = tuple(operator.index(n) for n in np.broadcast_to(np.asarray(value), (count,)).tolist())
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: {name} must be an integer or {count} integers, got {brief(value)}") from None
    if min(found) < least:
        raise ValueError(f"{owner}: {name} must be {least} or more, got {brief(value)}")
    return found


def shape_of(owner: str, types: Any, name: str) -> Shape | None:
    """Return the shape that the input or output of a graph declares. None without a declaration."""
    value = types.get(name) if isinstance(types, dict) else None
    return None if value is None else checked_shape(f"{owner}: the shape", value)
