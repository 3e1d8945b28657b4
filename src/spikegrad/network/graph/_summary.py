"""The text of ``print(network)``: the parameters that are trained, and the constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ..._checks import is_float
from ..._pytree import StaticFunction, is_array, name_of
from ..._struct import Struct
from ._connections import Join, Name


def summary(nodes: Mapping[Name, Any]) -> str:
    """Return a text with the arrays and constants of each node, by their names in a pytree."""
    # ``fit`` and ``partition`` train arrays of floats.
    leaves = [x for x in jax.tree.leaves(nodes) if is_array(x) and is_float(x)]
    numbers = sum(leaf.size for leaf in leaves)
    count = "1 array" if len(leaves) == 1 else f"{len(leaves)} arrays"
    lines = [
        f"Network: fit trains {count} with {numbers:,} numbers, and all else is constant"
    ]
    for name, node in nodes.items():
        kind = "Join" if isinstance(node, Join) else type(node.cell).__name__
        # Arrays of closures are missing here, as they are no leaves.
        paths = jax.tree_util.tree_leaves_with_path(node)
        arrays = {name_of(path): leaf for path, leaf in paths if is_array(leaf)}
        trained = []
        constant = []
        for path, leaf in arrays.items():
            text = f"{path} {leaf.dtype}{list(leaf.shape)}"
            if is_float(leaf):
                trained.append(text)
            else:
                constant.append(text)
        constant += [f"{path}={value}" for path, value in _constants(node, "")]
        lines.append(f"{name}: {kind}")
        for label, parts in (("trained", trained), ("constant", constant)):
            if parts:
                lines.append(f"    {label + ':':9} {', '.join(parts)}")
    return "\n".join(lines)


def _constants(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the numbers and functions in a node, without its arrays."""
    fields: Mapping[str, Any] = {}
    if isinstance(value, Struct):
        fields = value._values()
    elif isinstance(value, Mapping):
        fields = value
    elif isinstance(value, StaticFunction):
        function = value.function
        yield path, getattr(function, "__name__", type(function).__name__)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value
    for name, field in fields.items():
        yield from _constants(field, f"{path}/{name}" if path else name)
