"""Trainable parameters and the static part of a pytree."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp

from .._pytree import PyTree, StaticFunction, is_array, merge, split


def partition(
    tree: PyTree, filter: Callable[[str, PyTree], bool] = lambda path, leaf: True
) -> tuple[PyTree, PyTree]:
    """Split a pytree into trainable arrays and a static part.

    Parameters
    ----------
    tree : pytree
        Parameters, a network, or a model of another library that is a pytree.
    filter : callable, optional
        ``filter(path, leaf)`` returns true for floating-point arrays to train. By default all are
        trained. ``path`` has the names of the tree, such as ``"layers/0/weight"``. Integers, Python
        numbers and functions are never trained.

    Returns
    -------
    trainable, static : pytree
        Both have the structure of ``tree``, with None for each missing leaf. JAX does not count
        None as a leaf, so gradients, optimizers and :func:`fit` only see the arrays of
        ``trainable``. :func:`combine` is the inverse.

    Notes
    -----
    Arrays that a function closes over are not leaves of the pytree and are not trained. A warning
    names the function. For a module of Equinox write ``eqx.filter_vmap(module)``, a pytree, instead
    of ``jax.vmap(module)``.

    A cell's ``decay=0.9`` is a Python number, a constant. ``decay=jnp.array(0.9)`` is trained.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.training import combine, partition
    >>> network = {"hidden": jnp.ones(2), "readout": jnp.zeros(2), "steps": 8}
    >>> trainable, static = partition(network)
    >>> trainable
    {'hidden': Array([1., 1.], dtype=float32),
    'readout': Array([0., 0.], dtype=float32), 'steps': None}
    >>> static
    {'hidden': None, 'readout': None, 'steps': 8}
    >>> partition(network, lambda path, leaf: path == "readout")[0]
    {'hidden': None, 'readout': Array([0., 0.], dtype=float32), 'steps': None}
    >>> combine(trainable, static)["steps"]
    8
    """
    with_functions = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda part: isinstance(part, StaticFunction)
    )
    for path, leaf in with_functions:
        if callable(leaf) and not is_array(leaf) and _closes_over_arrays(leaf, {}):
            warnings.warn(
                f"partition: the function at {name_of(path) or 'the root'} closes over arrays, "
                "which are not trained; pass jax.tree_util.Partial(function, array), or for a "
                "module of Equinox eqx.filter_vmap(module)",
                stacklevel=2,
            )
    return split(
        tree, lambda path, leaf: is_float_array(leaf) and filter(name_of(path), leaf)
    )


def combine(trainable: PyTree, static: PyTree) -> PyTree:
    """Merge the two parts that :func:`partition` returns.

    Parameters
    ----------
    trainable, static : pytree
        Pytrees of equal structure, with None for leaves that are in the second tree.

    Returns
    -------
    pytree
        The pytree with the leaves of both parts. If both have a leaf in one place, it is that of
        ``trainable``.

    Examples
    --------
    >>> from spikegrad.training import combine
    >>> combine({"weight": 1.0, "size": None}, {"weight": None, "size": 3})
    {'size': 3, 'weight': 1.0}
    """
    return merge(trainable, static)


_PARTS = "__self__", "__dict__", "__defaults__", "func", "args", "keywords"
"""Attributes of functions, methods and partials that may hold arrays."""


def _closes_over_arrays(function: Callable, visited: dict[int, Callable]) -> bool:
    """Return True if a function refers to floating-point arrays, which JAX does not see in it."""
    if id(function) in visited or isinstance(function, type):
        return False
    visited[id(function)] = function  # a new object may get the id of a deleted one
    parts = [getattr(function, name, None) for name in _PARTS]
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a variable without a value yet
            parts.append(cell.cell_contents)
    return any(
        is_float_array(leaf) or (callable(leaf) and _closes_over_arrays(leaf, visited))
        for leaf in jax.tree.leaves(parts)
    )


def is_float_array(leaf: object) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def name_of(path: tuple) -> str:
    """Return the path of a leaf as names."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
