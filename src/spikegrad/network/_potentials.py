"""The potentials of all layers before the spike, and their mean and standard deviation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._checks import compute_dtype
from ..neurons import Cell, says_how_to_encode
from ._connections import Name
from ._masks import tree_keep
from ._network import Network


class LayerActivity(NamedTuple):
    """The activity of a layer over time, each ``(steps, batch, neurons)``.

    Masked steps are zeros.
    """

    potential: jax.Array
    """The potential before the spike."""
    distance: jax.Array | None
    """The distance to the current threshold, which is the argument of a surrogate.

    None for a cell that does not fire,
    and for a custom cell that does not define its threshold (:meth:`Cell.encode`)."""
    output: jax.Array


def activity_of_layers(network: Network, inputs: Any, **options: Any) -> dict[Name, LayerActivity]:
    """Return the activity of each layer in a call with these options (``mask``, ``key``, ``mode``,
    ...).
    """
    _, activity = network.observe(inputs, parts=("output", "pre_spike"), **options)
    mask = None if options.get("mask") is None else jnp.asarray(options["mask"])
    return {
        name: LayerActivity(
            activity[name].potential,
            tree_keep(mask, distance(layer.cell, activity[name].pre_spike)),
            activity[name].output,
        )
        for name, layer in network.graph.layers.items()
    }


def potential(u: Any) -> jax.Array:
    """Return the potential, which is the first array of a state."""
    return jax.tree.leaves(u)[0]


def distance(cell: Cell, u: Any) -> jax.Array | None:
    """Return the distance of pre-spike states, which may have additional leading axes.

    None if it is unknown.
    """
    return cell.encode(u)[0] if says_how_to_encode(cell) else None


def moments(x: jax.Array, mask: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
    """Return mean and standard deviation of ``(steps, batch, ...)`` over all valid steps, examples
    and neurons.
    """
    x = x.astype(compute_dtype(x.dtype))
    if mask is None:
        return x.mean(), x.std()
    mask = jnp.asarray(mask)
    count = tree_keep(mask, jnp.ones_like(x)).sum()
    mean = tree_keep(mask, x).sum() / count
    return mean, jnp.sqrt(tree_keep(mask, (x - mean) ** 2).sum() / count)
