"""The current of a layer in one step, and its state before the first step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp

from ..._checks import broadcast_checked
from ..._compat import shard_as, zeros_like
from ...neurons import State, check_initial
from ..graph._connections import Edge, Read, Weight, product
from ..graph._graph import LayerFields
from ._step import fire


def plus_bias(layer: LayerFields, current: jax.Array) -> jax.Array:
    """Add the bias to ``W x``."""
    if layer.bias is None:
        return current
    bias = broadcast_checked(
        jnp.asarray(layer.bias),
        current.dtype,
        current.shape,
        "Layer",
        "bias",
        "the current",
    )
    return current + bias


def current_of(
    layer: LayerFields,
    connections: Sequence[tuple[Edge, Weight]],
    looped: Collection[str],
    reads: Mapping[str, Read],
) -> jax.Array:
    """Return the current of one step, from the reads of each connection."""
    products = {
        edge.label: product(weight, reads[edge.label], edge.label)
        for edge, weight in connections
    }
    return sum_of(layer, products, looped)


def sum_of(
    layer: LayerFields, products: Mapping[str, jax.Array], looped: Collection[str]
) -> jax.Array:
    """Return the current of one step, from the product of each connection.

    All modes add the products in the order of the connections. The bias is added to the first
    product, before any product within a loop.
    """
    (first, current), *others = products.items()
    for label, other in others:
        if other.shape != current.shape:
            raise ValueError(
                f"Layer: {first} gives a current of shape {current.shape}, {label} one of shape "
                f"{other.shape}"
            )
    if first in looped:
        # The engine adds the drive outside of loops first. Zeros take its place, so the order
        # of the sum is equal in all modes.
        others = [(first, current), *others]
        current = zeros_like(current)
    # In the dtype of the first product, before the promotion below. The engine casts in this
    # order too.
    current = plus_bias(layer, current)
    dtypes = [other.dtype for _, other in others]
    with jax.numpy_dtype_promotion("standard"):  # A user may have set strict promotion.
        dtype = jnp.result_type(current.dtype, *dtypes)
    total = current.astype(dtype)
    for _, other in others:
        total = total + other.astype(dtype)
    return total


def initial_state(layer: LayerFields, current: jax.Array) -> tuple[State, jax.Array]:
    """Return state and output before the first step, for a current of this shape and dtype."""
    key = jax.random.key(0) if layer.cell.draws else None
    # On an Explicit mesh the sharding is part of the type of an array, and a scan must not
    # change the types of its carry.
    v = layer.cell.initial_state(current.shape, current.dtype)
    v = jax.tree.map(lambda leaf: shard_as(jnp.asarray(leaf), current), v)
    check_initial(layer.cell, v, current, key)
    _, out = fire(layer.cell, v, key)
    return v, zeros_like(out)
