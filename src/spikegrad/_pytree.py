"""The leaves of a pytree that a caller wants, the other leaves, and the tree again.

Both parts have the structure of the tree, with None in place of each leaf of the other part. JAX does not count None as
a leaf, so a derivative in one part has exactly the leaves of that part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def split(tree: Any, wanted: Callable[[Any, Any], bool]) -> tuple[Any, Any]:
    """Return the leaves for which ``wanted(path, leaf)`` is True, and the other leaves."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    chosen = [bool(wanted(path, leaf)) for path, leaf in leaves]  # once for each leaf: a user's function may count
    parts = (
        [leaf if mine is kept else None for (_, leaf), mine in zip(leaves, chosen, strict=True)]
        for kept in (True, False)
    )
    first, second = map(structure.unflatten, parts)
    return first, second


def merge(first: Any, second: Any) -> Any:
    """Return ``second`` with each leaf of ``first`` in its place."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray))


def is_inexact(leaf: Any) -> bool:
    """If True, the array can have a derivative. Integers, bools and random keys cannot."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def inexact(tree: Any) -> Any:
    """Return the arrays that can have a derivative, with None in place of the others."""
    return split(tree, lambda _, leaf: is_inexact(leaf))[0]
