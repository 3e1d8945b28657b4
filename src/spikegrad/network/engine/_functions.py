"""Functions as equations. The arrays that a function closes over become an argument.

A weight may be any function: a lambda, a module of a framework, a bound method. The loop over time
defines a custom derivative. JAX gives a function with a custom derivative gradients only for its
arguments. An array that a user's function closes over would get no gradient. So each function is
traced once, and its arrays are passed to the loop as arguments. The loop evaluates the equations
instead of the function.

What is not optimal: the equations are evaluated one by one in Python, at each trace of a loop. They
keep the shapes of their examples, so a call in other shapes needs another trace.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ..._compat import bind_over_any_axes, equations, evaluate, with_jvp
from ..._pytree import PyTree, inexact, is_inexact, merge, split

Arrays: TypeAlias = list[jax.Array]
"""The arrays that a function closes over, in the order of its equations."""


class TracedFunction(NamedTuple):
    """A function as equations. ``call(arrays, *args)`` equals ``function(*args)``."""

    call: Callable
    arrays: Arrays
    """The arrays that the function closes over."""
    jaxpr: Any


def as_equations(
    function: Callable, *example: PyTree, run: Callable = bind_over_any_axes
) -> TracedFunction:
    """Trace a function, for arguments with the shapes and dtypes of the examples.

    ``run`` applies one equation to its operands.
    """
    # JAX may cache the trace of a function object, and a user's function may have changed.
    # ``partial`` makes a new one.
    trace = jax.make_jaxpr(functools.partial(function), return_shape=True)
    closed, shape = trace(*example)
    program, consts = equations(closed)
    structure = jax.tree.structure(shape)

    def call(arrays: Arrays, *args: PyTree) -> PyTree:
        operands = *arrays, *jax.tree.leaves(args)
        out = evaluate(program, *operands, run=run)
        return structure.unflatten(out)

    # Constants may be NumPy arrays. The loop differentiates with respect to them, so they
    # become JAX arrays.
    arrays = [jnp.asarray(array) for array in consts]
    return TracedFunction(call, arrays, closed)


def pullback(function: Callable, cotangent: PyTree, *args: PyTree) -> tuple:
    """Return the cotangents of the arguments.

    Leaves without a derivative are None, also in ``cotangent``.
    """
    # Integers and keys would need cotangents of dtype float0, which cannot be added or carried
    # by a scan. Splitting them off avoids these.
    differentiable, others = split(args, is_inexact)

    def of_differentiable(*differentiable: PyTree) -> PyTree:
        out = function(*merge(differentiable, others))
        return inexact(out)

    _, back = jax.vjp(of_differentiable, *differentiable)
    return back(cotangent)


def with_derivative_of(computed: jax.Array, *, value: jax.Array) -> jax.Array:
    """Return ``value`` with the derivative of ``computed``.

    XLA removes the computation of ``computed``.
    """
    return _value_of_first(value, computed) if is_inexact(value) else value


# A forward-mode rule, because JAX can transpose it and differentiate it again. In a second
# derivative, ``value`` also has a derivative with respect to its residual.
_value_of_first = with_jvp(
    lambda value, computed: value,
    lambda primals, tangents: (primals[0], tangents[1]),
)
