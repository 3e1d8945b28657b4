"""Arrays that the functions of a network hold outside of its leaves.

A weight or a join may be any function. An array in its closure is not a leaf of the network, so no
optimizer finds it. JAX makes it a constant of the function's trace, and this module reads the
constants of the traces.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from ..._checks import is_float
from ..._compat import equations
from ..._pytree import Entries, PyTree, StaticFunction, is_array, merge, split
from ._connections import Join, Name, function_of, with_inner
from ._graph import with_weights


class HiddenArray(NamedTuple):
    """A floating-point array that a function of a network holds outside of the leaves."""

    node: Name
    """The layer or join."""
    label: str
    """The function: ``"weight"``, ``"weight['source']"``, ``"recurrent"`` or ``"function"``."""
    function: Callable
    shape: tuple[int, ...]
    dtype: Any
    is_traced: bool
    """If True, the array depends on an argument of a transformation, such as a derivative."""

    def __str__(self) -> str:
        return f"{list(self.shape)} in {self.label} of {self.node!r}"


class NetworkCall(NamedTuple):
    """The arguments of a call of a network."""

    network: Any
    inputs: PyTree
    """``(steps, batch, inputs)``, or a dict of these."""
    key: jax.Array | None
    mask: jax.Array | None


Watch: TypeAlias = Callable[[NetworkCall], None]
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watch_calls(watch: Watch | None) -> Iterator[None]:
    """Call ``watch`` after each call of a network with functions in this context."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def report_call(
    network: Any,
    inputs: PyTree,
    key: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> None:
    """Pass a call of a network to the watch of the context, if there is one."""
    watch = _watch.get()
    if watch is not None:
        watch(NetworkCall(network, inputs, key, mask))


def hidden_arrays(
    network: Any,
    inputs: PyTree,
    *,
    key: jax.Array | None = None,
    mask: ArrayLike | None = None,
) -> list[HiddenArray]:
    """Return the floating-point arrays in functions of a network that are not its leaves.

    An array that the function only reads through ``jax.lax.stop_gradient`` is a constant by
    intention, and is left out.

    Parameters
    ----------
    network : Network
        The network.
    inputs : array_like or dict
        The inputs of a call, ``(steps, batch, inputs)``. Nothing is computed with them.
    key, mask
        As in a call.

    Returns
    -------
    list of HiddenArray
        In the order of the nodes. A function that several weights share appears for each of them.
    """
    # By node and label, in the order of the nodes. None for a function that has not been called.
    arrays: dict[tuple[Name, str], list[HiddenArray] | None] = {}

    def watched(node: Name, label: str, function: Callable) -> StaticFunction:
        arrays[node, label] = None

        def call(*args: Any, **options: Any) -> Any:
            # A loop or a window may call a function several times, always with its own arrays.
            if arrays[node, label] is None:
                arrays[node, label] = [
                    HiddenArray(
                        node,
                        label,
                        # The function of the user, if a wrapper makes it a leaf without arrays.
                        getattr(function, "function", function),
                        array.shape,
                        array.dtype,
                        is_traced=isinstance(array, Tracer),
                    )
                    for array in _constants_of(function, *args, **options)
                ]
            return function(*args, **options)

        return StaticFunction(call)

    nodes = {
        name: _with_functions(node, functools.partial(watched, name))
        for name, node in network.layers.items()
    }
    if not arrays:  # without functions, nothing needs a trace
        return []
    copy = dataclasses.replace(network, layers=Entries(nodes))

    def run() -> PyTree:
        # This mode calls every function as it is, and traces one step.
        _, outputs = copy(inputs, key=key, mask=mask, backward="scan")
        return outputs

    with watch_calls(None):  # the copy is not a call of the user
        # Shapes only, so nothing is computed, and every function is called once.
        jax.eval_shape(run)
    return [array for of_function in arrays.values() for array in of_function or ()]


def _with_functions(
    node: Any, replace: Callable[[str, Callable], StaticFunction]
) -> Any:
    """Return a layer or join with other functions, or the node itself if it has none."""
    if isinstance(node, Join):
        return dataclasses.replace(node, function=replace("function", node.function))
    changed = {
        label: with_inner(weight, replace(label, function))
        for label, weight in node.weights.items()
        if (function := function_of(weight)) is not None
    }
    return with_weights(node, node.weights | changed) if changed else node


def _constants_of(function: Callable, *args: Any, **options: Any) -> list[Any]:
    """Return the floating-point arrays that a function does not make itself."""
    # The leaves of the function become arguments, so the constants are all other arrays.
    leaves, static = split(function, is_array)

    def constants() -> list[Any]:
        # Another function each time, because JAX remembers traces.
        def call(leaves: PyTree, *args: Any, **options: Any) -> Any:
            return merge(leaves, static)(*args, **options)

        jaxpr = jax.make_jaxpr(call)(leaves, *args, **options)
        return _live_constants(jaxpr)

    # Two traces have equal arrays from outside. An array of numbers in the code is made in each.
    pairs = zip(constants(), constants(), strict=True)
    return [first for first, second in pairs if _is_same(first, second)]


def _is_same(first: Any, second: Any) -> bool:
    """Return True for one array, also if JAX has wrapped it twice."""
    if first is second or isinstance(first, Tracer):
        return first is second
    return np.shares_memory(np.asarray(first), np.asarray(second))


def _live_constants(jaxpr: Any) -> list[Any]:
    """Return the constants of a jaxpr, and of those within it, that not only ``stop_gradient``
    reads.
    """
    program, consts = equations(jaxpr)
    # A variable counts if an equation other than stop_gradient reads it, or if the function returns
    # it.
    live = {id(var) for var in program.outputs}
    inner = []
    for equation in program.equations:
        if equation.primitive.name != "stop_gradient":
            live |= {id(var) for var in equation.invars}
        for part in jax.tree.leaves([*equation.params.values()]):
            # A loop or a call within the function has constants of its own.
            if hasattr(part, "eqns"):
                inner += _live_constants(part)
    # The constants are the first inputs.
    outer = [
        const
        for var, const in zip(program.inputs, consts, strict=False)
        if id(var) in live and is_float(var.aval)
    ]
    return outer + inner
