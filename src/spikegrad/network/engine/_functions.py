"""Functions as equations, so that whatever they close over becomes an argument.

A weight may be any function: a lambda, a module of a framework, a bound method. The loop has a derivative of its own,
and a function with a derivative of its own gets gradients for its arguments alone: an array that a user's function
closes over would get none. So each function is traced once, and the arrays found in it are handed to the loop as
arguments. The equations are then run wherever the function is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._compat import bind_over_any_axes, equations, evaluate, zeros_like
from ..._pytree import inexact, is_inexact, merge, split

Arrays = list
"""What a function closes over, in the order of its equations."""


def close(function: Callable, *example: Any) -> tuple[Callable, Arrays, Any]:
    """``call`` and ``arrays`` such that ``call(arrays, *args)`` is ``function(*args)`` for arguments like these.

    The third value is the jaxpr.
    """
    # partial makes a new function: JAX keeps what it traced for one that it has seen, and a user's may have changed
    closed, shape = jax.make_jaxpr(functools.partial(function), return_shape=True)(*example)
    of, consts = equations(closed)
    structure = jax.tree.structure(shape)

    def call(arrays, *args):
        return structure.unflatten(evaluate(of, *arrays, *jax.tree.leaves(args), run=bind_over_any_axes))

    return call, [jnp.asarray(array) for array in consts], closed


def depends(function: Callable, first: Any, *others: Any) -> Any:
    """The structure of the outputs of a function, with True for each that depends on its first argument."""
    closed, shape = jax.make_jaxpr(functools.partial(function), return_shape=True)(first, *others)
    given = [True] * len(jax.tree.leaves(first)) + [False] * len(jax.tree.leaves(others))
    return jax.tree.structure(shape).unflatten(_follow(closed, given))


def _follow(jaxpr: Any, given: list[bool]) -> list[bool]:
    """The outputs of equations that depend on any of the inputs for which ``given`` is True."""
    of, consts = equations(jaxpr)
    reached = {var for var, yes in zip(of.inputs[len(consts) :], given, strict=True) if yes}
    for equation in of.equations:
        operands = [not hasattr(var, "val") and var in reached for var in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            outputs = _follow(equation.params["jaxpr"], operands)
        else:
            outputs = [any(operands)] * len(equation.outvars)
        reached |= {var for var, yes in zip(equation.outvars, outputs, strict=True) if yes}
    return [not hasattr(var, "val") and var in reached for var in of.outputs]


def zero_cotangent(tree: Any) -> Any:
    return jax.tree.map(zeros_like, inexact(tree))


def pullback(function: Callable, cotangent: Any, *args: Any) -> tuple:
    """Cotangents of the arguments, with None for what has no derivative, which ``cotangent`` has as well."""
    given, others = split(args, lambda _, leaf: is_inexact(leaf))
    _, back = jax.vjp(lambda *given: inexact(function(*merge(given, others))), *given)
    return back(cotangent)


def known(value: jax.Array, computed: jax.Array) -> jax.Array:
    """Return ``value`` with the derivative of ``computed``. XLA removes the computation of ``computed``."""
    return _with_derivative_of(value, computed) if is_inexact(value) else value


# A forward-mode rule, because JAX can transpose it and differentiate it again. In a second derivative, ``value`` also
# has a derivative with respect to the residuals, from which it was read.
@jax.custom_jvp
def _with_derivative_of(value, computed):
    del computed
    return value


@_with_derivative_of.defjvp
def _with_derivative_of_jvp(primals, tangents):
    return primals[0], tangents[1]
