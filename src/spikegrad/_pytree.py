"""Split the leaves of a pytree into two trees, and merge them again.

Both trees keep the structure, with None for each leaf that is only in the second tree. JAX does not count None as a
leaf, so a derivative with respect to one tree has exactly its leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NOTHING_TO_TRAIN = (
    "has no floating-point array to train. Functions hide the arrays of their closures: pass arrays, "
    "jax.tree_util.Partial(function, array), or for a module of Equinox eqx.filter_vmap(module)"
)


def split(tree: Any, wanted: Callable[[Any, Any], bool]) -> tuple[Any, Any]:
    """Return a tree of the leaves with ``wanted(path, leaf)``, and a tree of all remaining leaves."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    # called once per leaf, because it may be a user's function
    chosen = [bool(wanted(path, leaf)) for path, leaf in leaves]
    parts = (
        [leaf if mine is kept else None for (_, leaf), mine in zip(leaves, chosen, strict=True)]
        for kept in (True, False)
    )
    first, second = map(structure.unflatten, parts)
    return first, second


def merge(first: Any, second: Any) -> Any:
    """Return ``second`` with the leaves of ``first`` filled in."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray))


def is_inexact(leaf: Any) -> bool:
    """Return True if the array can have a derivative. Integers, bools and random keys cannot."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def inexact(tree: Any) -> Any:
    """Return the arrays that can have a derivative, and None for all other leaves."""
    return split(tree, lambda _, leaf: is_inexact(leaf))[0]
