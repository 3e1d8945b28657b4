"""A pytree taken apart into what is trained and the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._pytree import is_array, split


def partition(tree: Any, filter: Callable[[str, Any], bool] = lambda path, leaf: True) -> tuple[Any, Any]:
    """Take a pytree apart into the arrays that are trained, and the rest.

    Parameters
    ----------
    tree : pytree
        Parameters, a network, a model of another library that is a pytree.
    filter : callable, optional
        ``filter(path, leaf)`` says whether a floating-point array is trained; by default all of them are. ``path`` has
        the names on the way to it, such as ``"layers/0/weight"``. It is not asked of anything else: integers, Python
        numbers and functions are never trained.

    Returns
    -------
    trainable, static : pytree
        Both look like ``tree``. Where one has a leaf, the other has None, which is no leaf to JAX: gradients,
        optimizers and :func:`fit` see of ``trainable`` nothing but its arrays. :func:`combine` is the inverse.

    Notes
    -----
    A cell's ``decay=0.9`` is a Python number, a constant; ``decay=jnp.array(0.9)`` is trained.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.training import combine, partition
    >>> network = {"hidden": jnp.ones(2), "readout": jnp.zeros(2), "steps": 8}
    >>> trainable, static = partition(network)
    >>> trainable
    {'hidden': Array([1., 1.], dtype=float32), 'readout': Array([0., 0.], dtype=float32), 'steps': None}
    >>> static
    {'hidden': None, 'readout': None, 'steps': 8}
    >>> partition(network, lambda path, leaf: path == "readout")[0]
    {'hidden': None, 'readout': Array([0., 0.], dtype=float32), 'steps': None}
    >>> combine(trainable, static)["steps"]
    8
    """
    return split(tree, lambda path, leaf: is_float_array(leaf) and filter(name_of(path), leaf))


def combine(trainable: Any, static: Any) -> Any:
    """Put together again what :func:`partition` took apart.

    Parameters
    ----------
    trainable, static : pytree
        Two of one structure, if None counts as a leaf.

    Returns
    -------
    pytree
        With the leaf that one of the two has in each place.

    Raises
    ------
    ValueError
        If both have one.

    Examples
    --------
    >>> from spikegrad.training import combine
    >>> combine({"weight": 1.0, "size": None}, {"weight": None, "size": 3})
    {'size': 3, 'weight': 1.0}
    """

    def either(path, mine, rest):
        if mine is not None and rest is not None:
            raise ValueError(f"combine: both trees have a leaf at {name_of(path)}")
        return rest if mine is None else mine

    return jax.tree_util.tree_map_with_path(either, trainable, static, is_leaf=lambda leaf: leaf is None)


def is_float_array(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def name_of(path: Any) -> str:
    """The names on the way to a leaf."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
