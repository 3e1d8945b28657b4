"""The arguments of a call of a network: inputs, mask and key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._checks import brief, order_of_axes
from .._surrogate import as_key
from ._connections import Name
from ._graph import Graph
from ._step import KEYS


def named_inputs(names: str | Sequence[Name], inputs: Any) -> dict[Name, Any]:
    """Return the inputs by name, as arrays or shapes."""
    if isinstance(names, str):
        return {names: real_inputs(inputs)}
    if not isinstance(inputs, Mapping) or {*inputs} != {*names}:
        got = [*inputs] if isinstance(inputs, Mapping) else brief(inputs)
        raise TypeError(
            f"Network: inputs must be a dict of arrays with the keys {[*names]}, got {got}"
        )
    return {name: real_inputs(inputs[name]) for name in names}


def real_inputs(inputs: ArrayLike | jax.ShapeDtypeStruct) -> Any:
    """Convert inputs to an array. Booleans and integers keep their dtype."""
    if isinstance(inputs, jax.ShapeDtypeStruct):
        return inputs
    inputs = jnp.asarray(inputs)
    if jnp.issubdtype(inputs.dtype, jnp.complexfloating):
        raise TypeError(
            f"Network: inputs must be real, got {inputs.dtype}; pass real and imaginary parts "
            "separately"
        )
    return inputs


def checked_key(key: Any) -> jax.Array | None:
    if key is None:
        return None
    key = as_key("Network", key)
    # other kinds draw other numbers in jax.vmap
    if key.shape or str(jax.random.key_impl(key)) != KEYS:
        raise TypeError(
            f"Network: key must be one of jax.random.key(seed, impl={KEYS!r}), got "
            f"{key.dtype}{key.shape}"
        )
    return key


def check_shapes(inputs: Mapping[Name, jax.Array], mask: jax.Array | None) -> int:
    """Return the number of steps. Raise if the shapes of inputs or mask do not fit."""
    for name, x in inputs.items():
        shape, label = x.shape, f"inputs {name!r}" if len(inputs) > 1 else "inputs"
        if x.ndim and not isinstance(shape[0], int):
            raise TypeError(
                f"Network: the number of steps must be known when JAX traces, got {shape[0]} in "
                f"{label} of shape {shape}; only the number of examples may be symbolic"
            )
        if x.ndim < 2 or not shape[0]:
            raise ValueError(
                f"Network: {label} must be of shape (steps, ..., inputs), got {shape}"
            )
    shapes = {name: x.shape for name, x in inputs.items()}
    if len({shape[: min(2, len(shape) - 1)] for shape in shapes.values()}) > 1:
        raise ValueError(
            f"Network: all inputs must agree in steps and examples, got {shapes}"
        )
    shape = next(iter(shapes.values()))
    if mask is not None:
        _check_mask(mask, shape)
    return shape[0]


def _check_mask(mask: jax.Array, shape: tuple[int, ...]) -> None:
    axes = min(2, len(shape) - 1)
    if (
        mask.dtype == bool
        and mask.ndim in (1, axes)
        and mask.shape == shape[: mask.ndim]
    ):
        return
    expected = (
        f"(steps,), here {shape[:1]}"
        if axes < 2
        else f"(steps,) or (steps, batch), here {shape[:2]}"
    )
    hint = order_of_axes("inputs", shape, "masks", mask.shape) if axes > 1 else ""
    raise ValueError(
        f"Network: mask must be of bool and of shape {expected}, got "
        f"{mask.dtype}{list(mask.shape)}{hint}"
    )


def check_windows(graph: Graph, steps: int) -> None:
    """Raise if a window is longer than the inputs."""
    for name, edges in graph.edges.items():
        for edge in edges:
            if edge.windowed and len(edge.lags) > steps:
                raise ValueError(
                    f"Network: {name!r} reads a window of {len(edge.lags)} outputs of "
                    f"{edge.source!r}, longer than the {steps} steps of the inputs; shorten the "
                    "window or pass more steps"
                )


def check_coupled(graph: Graph, mask: jax.Array | None, mode: str) -> None:
    """Raise if the backward pass cannot fire a cell again, because its examples were active in
    different steps.
    """
    for name, layer in graph.layers.items():
        if layer.cell.couples_examples and mask is not None and mask.ndim > 1:
            raise ValueError(
                f"Network: {type(layer.cell).__name__} of layer {name!r} couples the examples of a "
                f"step, which a mask (steps, batch) cannot combine with mode {mode!r}; pass "
                "backward='scan', or a mask (steps,)"
            )
