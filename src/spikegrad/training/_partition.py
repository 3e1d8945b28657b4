"""Trainable parameters and the static part of a pytree."""

from __future__ import annotations

import contextlib
import dis
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from .._pytree import (
    FIX_OF_HIDDEN,
    PyTree,
    StaticFunction,
    is_array,
    merge,
    name_of,
    split,
    split_by_path,
)

reported: weakref.WeakSet[Any] = weakref.WeakSet()
"""Functions that :func:`partition` has warned about. :func:`fit` does not warn again."""


def partition(
    tree: PyTree, filter: Callable[[str, PyTree], bool] = lambda path, leaf: True
) -> tuple[PyTree, PyTree]:
    """Split a pytree, such as a network, into its trainable arrays and its static part.

    Pass the trainable arrays to :func:`fit`. In the loss function, :func:`combine` puts both parts
    together again.

    Parameters
    ----------
    tree : pytree
        A network, a dict of parameters, or a model of another library that is a pytree.
    filter : callable, optional
        A function ``filter(path, leaf)`` that returns True for a floating-point array to train.
        ``path`` is the place of the array, such as ``"layers/0/weight"``. By default all
        floating-point arrays are trained: the default function, a ``lambda`` in the signature,
        returns True. Integers, Python numbers and functions are never trained.

    Returns
    -------
    trainable, static : pytree
        Two pytrees with the structure of ``tree``. ``trainable`` has the arrays to train, and None
        in all other places. ``static`` has all other leaves, and None in the places of the arrays
        to train. JAX does not count None as a leaf, so gradients and optimizers see the arrays of
        ``trainable`` only.

    Notes
    -----
    Arrays that a function in the pytree closes over are not leaves, so they are not trained. A
    warning names the function. To train a module of Equinox, write ``eqx.filter_vmap(module)``,
    which is a pytree, instead of ``jax.vmap(module)``. If the arrays are constants, write
    ``jax.lax.stop_gradient(array)`` in the function, which avoids the warning.

    ``LIF(decay=0.9)`` has a Python number as decay, so the decay is a constant. The decay of
    ``LIF(decay=jnp.array(0.9))`` is trained.

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
        if not callable(leaf) or is_array(leaf):
            continue
        if _Search().finds_arrays(leaf):
            function = leaf.function if isinstance(leaf, StaticFunction) else leaf
            with contextlib.suppress(TypeError):  # a class may forbid weak references
                reported.add(function)
            warnings.warn(
                f"partition: the function at {name_of(path) or 'the root'} holds arrays that are "
                f"not trained. {FIX_OF_HIDDEN}",
                stacklevel=2,
            )

    def is_trained(path: tuple, leaf: PyTree) -> bool:
        return is_float_array(leaf) and filter(name_of(path), leaf)

    return split_by_path(tree, is_trained)


def split_trainable(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Return all arrays that :func:`partition` trains and the static part, without a warning."""
    return split(tree, is_float_array)


def combine(trainable: PyTree, static: PyTree) -> PyTree:
    """Merge the two parts that :func:`partition` returns into one pytree, such as a network.

    Parameters
    ----------
    trainable, static : pytree
        Two pytrees of equal structure. Each has None in the places of the leaves of the other.

    Returns
    -------
    pytree
        The pytree with the leaves of both parts. If both have a leaf in one place, the leaf of
        ``trainable`` is used.

    Examples
    --------
    >>> from spikegrad.training import combine
    >>> combine({"weight": 1.0, "size": None}, {"weight": None, "size": 3})
    {'size': 3, 'weight': 1.0}
    """
    return merge(trainable, static)


_PARTS = "__self__", "__dict__", "__defaults__", "func", "args", "keywords"
"""Attributes of functions, methods and partials that may hold arrays."""


class _Search:
    """Search a function for floating-point arrays, which JAX does not see in it."""

    def __init__(self) -> None:
        # By id, with the object, because a new object may get the id of a deleted one.
        self.visited: dict[int, object] = {}
        self.module: Any = None
        """The global variables of the first function of Python that was visited."""

    def finds_arrays(self, function: Callable) -> bool:
        """Return True if a function refers to an array that it does not mark as a constant."""
        if id(function) in self.visited or isinstance(function, type):
            return False
        self.visited[id(function)] = function
        parts = [getattr(function, name, None) for name in _PARTS]
        for cell in getattr(function, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a variable without a value yet
                parts.append(cell.cell_contents)
        if isinstance(function, types.FunctionType):
            codes = [*_codes_in(function.__code__)]
            if any("stop_gradient" in code.co_names for code in codes):
                return False
            # Functions of libraries have global arrays too. Only those of the user's module count.
            self.module = self.module or function.__globals__
            if function.__globals__ is self.module:
                parts += [self.module.get(name) for name in _globals_of(codes)]
        for leaf in jax.tree.leaves(parts):
            if is_float_array(leaf):
                return True
            if callable(leaf) and self.finds_arrays(leaf):
                return True
        return False


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """Return the code of a function, and of the functions within it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes_in(const)


def _globals_of(codes: Iterable[types.CodeType]) -> set[str]:
    """Return the names of the global variables that codes read."""
    # ``co_names`` has attributes too.
    return {
        instruction.argval
        for code in codes
        for instruction in dis.get_instructions(code)
        if instruction.opname == "LOAD_GLOBAL"
    }


def is_float_array(leaf: object) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
