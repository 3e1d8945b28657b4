"""The arguments of a call of a network: inputs, mask and key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ..._checks import brief, order_of_axes
from ..._pytree import PyTree, is_array
from ..._surrogate import as_key
from ..graph._connections import Name, NamedTrees
from ..graph._graph import Graph
from ._step import KEYS


def named_inputs(names: str | Sequence[Name], inputs: PyTree) -> NamedTrees:
    """Return the inputs by name, as arrays or shapes. Booleans and integers keep their dtype."""
    if isinstance(names, str):
        if isinstance(inputs, Mapping):
            raise TypeError(
                f"Network: inputs must be an array, got a dict with the keys {[*inputs]}; pass the "
                "array itself, or give the network a tuple of names: inputs=("
                f"{names!r},)"
            )
        # From here on, one input is a dict of one.
        inputs = {names: inputs}
        names = (names,)
    if not isinstance(inputs, Mapping) or {*inputs} != {*names}:
        got = [*inputs] if isinstance(inputs, Mapping) else brief(inputs)
        raise TypeError(
            f"Network: inputs must be a dict of arrays with the keys {[*names]}, got {got}"
        )
    return {name: _as_input(name, inputs[name]) for name in names}


def _as_input(name: Name, x: Any) -> jax.Array | jax.ShapeDtypeStruct:
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    # A sequence of arrays would be stacked along a new axis, which then counts as the steps.
    is_sequence = isinstance(x, (tuple, list))
    if is_sequence and any(map(is_array, jax.tree.leaves(x))):
        raise TypeError(
            f"Network: inputs must be one array, got a {type(x).__name__} of {len(x)} arrays for "
            f"{name!r}; stack the steps with jnp.stack, or name several inputs and pass a dict"
        )
    return jnp.asarray(x)


def checked_key(key: jax.Array | None) -> jax.Array | None:
    if key is None:
        return None
    key = as_key("Network", key)
    # other kinds draw other numbers in jax.vmap
    kind = str(jax.random.key_impl(key))
    if key.shape or kind != KEYS:
        raise TypeError(
            f"Network: key must be one of jax.random.key(seed, impl={KEYS!r}), got "
            f"{key.dtype}{key.shape}"
        )
    return key


def checked_mask(
    mask: ArrayLike | None, inputs: Mapping[Name, jax.Array]
) -> jax.Array | None:
    """Return a mask as an array. Raise if its shape, or those of several inputs, do not fit."""
    for name, x in inputs.items():
        if x.ndim < 2 or not x.shape[0]:
            raise ValueError(
                f"Network: inputs must be of shape (steps, ..., inputs), got {x.shape} for {name!r}"
            )
    # Steps and examples, or steps alone without an axis of examples.
    leading = {x.shape[:-1][:2] for x in inputs.values()}
    if len(leading) > 1:
        raise ValueError(
            f"Network: all inputs must agree in steps and examples, got {leading}"
        )
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    (axes,) = leading
    fits_inputs = mask.ndim > 0 and mask.shape == axes[: mask.ndim]
    if mask.dtype != bool or not fits_inputs:
        raise ValueError(
            "Network: mask must be of bool and of shape (steps,) or (steps, batch), here of "
            f"{axes}, got {mask.dtype}{list(mask.shape)}"
            + order_of_axes("inputs", axes, "masks", mask.shape)
        )
    return mask


def check_coupled(graph: Graph, mask: jax.Array | None, mode: str) -> None:
    """Raise if the backward pass cannot fire a cell again, because its examples were active in
    different steps.
    """
    if mask is None or mask.ndim < 2:
        return
    for name, layer in graph.layers.items():
        if layer.cell.couples_examples:
            raise ValueError(
                f"Network: {type(layer.cell).__name__} of layer {name!r} couples the examples of a "
                f"step, which a mask (steps, batch) cannot combine with mode {mode!r}; pass "
                "backward='scan', or a mask (steps,)"
            )
