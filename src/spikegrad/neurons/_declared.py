"""Properties that cells declare.

Other modules read them instead of the class, also through wrappers of cells.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._bounded import Bounded
from .._checks import brief
from .._pytree import is_real_array
from ._cell import Cell, LinearResponse


def parameters_of(cell: Any) -> Any:
    """Return the cell with the parameters: the cell itself, or the innermost cell of a wrapper."""
    inner = getattr(cell, "inner", None)
    return cell if inner is None else parameters_of(inner)


def with_parameters(cell: Any, /, **changed: Any) -> Any:
    """Return the cell with changed parameters. For a wrapper, the innermost cell gets them."""
    inner = getattr(cell, "inner", None)
    if inner is None:
        return cell._replaced(**changed)
    names = [name for name, value in vars(cell).items() if value is inner]
    if not names:
        raise TypeError(
            f"{type(cell).__name__}: inner must be the value of a field, got {brief(inner)}"
        )
    changed_inner = with_parameters(inner, **changed)
    return cell._replaced(**{names[0]: changed_inner})


def says_how_to_encode(cell: Cell) -> bool:
    """Return True if ``encode`` fits the state of the cell.

    A class that redefines the state must redefine it too.
    """
    inner = getattr(cell, "inner", None)
    if inner is not None and not says_how_to_encode(inner):
        return False
    return _declares(cell, "encode", "fire")


def linear_response(cell: Any) -> LinearResponse | None:
    """Return the linear response of a cell, or of the cell in a wrapper.

    None if it is not declared.

    Parameters are first converted to JAX's default float, the dtype for the computation of weights.
    """
    cell = parameters_of(cell)
    if not (isinstance(cell, Cell) and _declares(cell, "linear_response", "integrate")):
        return None

    def is_bounded(leaf: object) -> bool:
        return isinstance(leaf, Bounded)

    def as_default(leaf: Any) -> Any:
        if is_bounded(leaf) or is_real_array(leaf):
            return jnp.asarray(leaf, jnp.result_type(float))
        return leaf

    # A bounded number counts as one leaf here, because its unconstrained number is not the
    # parameter.
    cell = jax.tree.map(as_default, cell, is_leaf=is_bounded)
    return cell.linear_response()


def _declares(cell: Cell, name: str, *others: str) -> bool:
    """Return True if a subclass of Cell defines the method, and none below it redefines the methods
    it describes.
    """
    # The place of a class in the order tells which of two methods was written last.
    order = type(cell).__mro__

    def depth(name: str) -> int:
        return next(n for n, cls in enumerate(order) if name in vars(cls))

    is_last = depth(name) <= min(map(depth, others))
    is_declared = depth(name) < order.index(Cell)
    return is_last and is_declared
