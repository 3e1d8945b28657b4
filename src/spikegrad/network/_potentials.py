"""The potentials of all layers before the spike, and their mean and standard deviation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._checks import compute_dtype
from ..neurons import Cell, says_how_to_encode
from ._connections import Name
from ._network import Network


class LayerActivity(NamedTuple):
    """The activity of a layer over time, each ``(steps, batch, neurons)``. Masked steps are zeros."""

    potential: jax.Array
    """The potential before the spike."""
    distance: jax.Array | None
    """The distance to the current threshold, which is the argument of a surrogate. None for a cell that does not fire,
    and for a custom cell that does not define its threshold (:meth:`Cell.encode`)."""
    output: jax.Array


def activity_of_layers(network: Network, inputs: Any, **options: Any) -> dict[Name, LayerActivity]:
    """Return the activity of each layer in a call with these options (``mask``, ``key``, ``mode``, ...)."""
    _, outputs, pre_spike = network(inputs, **options, all_layers=True, pre_spike=True)
    mask = options.get("mask")
    return {
        name: LayerActivity(
            potential(pre_spike[name]), _masked(mask, distance(layer.cell, pre_spike[name])), outputs[name]
        )
        for name, layer in network.graph.layers.items()
    }


def potential(u: Any) -> jax.Array:
    """Return the potential, which is the first array of a state."""
    return jax.tree.leaves(u)[0]


def distance(cell: Cell, u: Any) -> jax.Array | None:
    """Return the distance of pre-spike states, which may have additional leading axes. None if it is unknown."""
    return cell.encode(u)[0] if says_how_to_encode(cell) else None


def moments(x: jax.Array, mask: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
    """Return mean and standard deviation of ``(steps, batch, ...)`` over all valid steps, examples and neurons."""
    x = x.astype(compute_dtype(x.dtype))
    if mask is None:
        return x.mean(), x.std()
    count = where_active(mask, jnp.ones_like(x)).sum()
    mean = where_active(mask, x).sum() / count
    return mean, jnp.sqrt(where_active(mask, (x - mean) ** 2).sum() / count)


def where_active(mask: ArrayLike, x: jax.Array) -> jax.Array:
    """Return ``x`` in valid steps and zeros in masked steps."""
    return jnp.where(_like(mask, x), x, 0)


def _masked(mask: ArrayLike | None, x: jax.Array | None) -> jax.Array | None:
    return x if mask is None or x is None else where_active(mask, x)


def _like(mask: ArrayLike, x: jax.Array) -> jax.Array:
    """Reshape a mask ``(steps, batch)`` or ``(steps,)`` to the axes of ``x``."""
    mask = jnp.asarray(mask)
    return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
