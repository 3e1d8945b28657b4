"""Pytrees: splitting the leaves of one into two trees, entries in the order they were written, and
static functions.

Both trees of a split keep the structure, with None for each leaf that is only in the second tree.
JAX does not count None as a leaf, so a derivative with respect to one tree has exactly its leaves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")
PyTree: TypeAlias = Any
"""Nested containers of arrays and other leaves, as in JAX."""

_TO_TRAIN = (
    "jax.tree_util.Partial(function, array), or for a module of Equinox "
    "eqx.filter_vmap(module)"
)
NOTHING_TO_TRAIN = (
    "has no floating-point array to train. Functions hide the arrays of their closures: "
    f"pass arrays, {_TO_TRAIN}"
)
FIX_OF_HIDDEN = (
    f"To train them, pass {_TO_TRAIN}. For constants, write jax.lax.stop_gradient(array) in the "
    "function"
)


def split(tree: T, is_selected: Callable[[Any], bool]) -> tuple[T, T]:
    """Return a tree of the leaves with ``is_selected(leaf)``, and a tree of all other leaves."""
    return split_by_path(tree, lambda _, leaf: is_selected(leaf))


def split_by_path(tree: T, is_selected: Callable[[Any, Any], bool]) -> tuple[T, T]:
    """Return :func:`split` for a function ``is_selected(path, leaf)``."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    # called once per leaf, because it may be a user's function
    chosen = [bool(is_selected(path, leaf)) for path, leaf in leaves]
    # Both trees have the structure of the whole one. None stands for a leaf of the other tree, so
    # ``merge`` needs no bookkeeping, and JAX sees no leaf there.
    pairs = [*zip(leaves, chosen, strict=True)]
    first = [leaf if selected else None for (_, leaf), selected in pairs]
    second = [None if selected else leaf for (_, leaf), selected in pairs]
    return structure.unflatten(first), structure.unflatten(second)


def name_of(path: tuple) -> str:
    """Return the path of a leaf as names."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def merge(first: T, second: T) -> T:
    """Return ``second`` with the leaves of ``first`` filled in."""
    return jax.tree.map(
        lambda a, b: b if a is None else a,
        first,
        second,
        is_leaf=lambda leaf: leaf is None,
    )


def is_array(leaf: object) -> TypeGuard[jax.Array | np.ndarray]:
    return isinstance(leaf, (jax.Array, np.ndarray))


def is_inexact(leaf: Any) -> bool:
    """Return True if the array can have a derivative. Integers, bools and random keys cannot."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def is_real_array(leaf: Any) -> bool:
    """Return True for an array that can have a derivative, and False for any other leaf."""
    return is_array(leaf) and is_inexact(leaf)


def inexact(tree: T) -> T:
    """Return the arrays that can have a derivative, and None for all other leaves."""
    return split(tree, is_inexact)[0]


class Entries(Mapping):
    """Named entries in the order in which they were written. JAX would sort the keys of a dict.

    ``entries["name"]`` and ``entries[-1]`` read an entry by name and by place, ``entries |
    {"name": value}`` replaces or adds entries.
    """

    def __init__(
        self, entries: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()
    ) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self._entries[key]
        return [*self._entries.values()][key]

    def __or__(self, changed: Mapping[str, Any]) -> Entries:
        return Entries({**self._entries, **changed})

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return repr(self._entries)


def _flatten_entries(entries: Entries) -> tuple[list, tuple]:
    # Paths look like those of a dict. The names are part of the structure, so their order is kept.
    keyed = [(jax.tree_util.DictKey(name), value) for name, value in entries.items()]
    return keyed, tuple(entries)


jax.tree_util.register_pytree_with_keys(
    Entries,
    _flatten_entries,
    lambda names, values: Entries(zip(names, values, strict=True)),
)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, repr=False)
class StaticFunction:
    """A function as part of the structure of a pytree, so a tree with functions can be an argument
    of ``jax.jit``.
    """

    function: Callable

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self.function)

    @property
    def __wrapped__(self) -> Callable:
        return self.function  # for inspect.signature


def as_static(value: Any) -> Any:
    """Return a function that is no pytree as a static one, and everything else unchanged."""
    # A variable of a framework may be callable, and is an array here. A callable pytree, such as a
    # Partial, keeps its arrays as leaves.
    is_function = callable(value) and not hasattr(value, "__jax_array__")
    if is_function and jax.tree_util.all_leaves([value]):
        return StaticFunction(value)
    return value


def jsonable(value: Any) -> Any:
    """Convert a value to JSON: arrays to lists, NaN and infinity to null."""
    if isinstance(value, dict):
        return {name: jsonable(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return jsonable(np.asarray(value).tolist())
    is_null = isinstance(value, float) and not math.isfinite(value)
    return None if is_null else value
