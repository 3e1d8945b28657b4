"""Residuals: the arrays that a backward pass keeps."""

from __future__ import annotations

import math
import operator
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from .._compat import used_inputs
from .._pytree import PyTree
from .._table import aligned


class ResidualReport(NamedTuple):
    """The arrays that a function stores for its backward pass, from :func:`residual_report`.
    ``print`` shows them as a table.
    """

    arrays: tuple[jax.ShapeDtypeStruct, ...]
    """Shape and dtype of each array, the largest array first."""

    @property
    def bytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(map(_bytes, self.arrays))

    def __str__(self) -> str:
        rows = [
            (f"{a.dtype.name}{list(a.shape)}", f"{_bytes(a):,}") for a in self.arrays
        ]
        rows.append(("total", f"{self.bytes:,}"))
        lines = [f"{line} bytes" for line in aligned(rows, "<>")]
        return "\n".join([*lines, *textwrap.wrap(NOT_COUNTED, 80)])


NOT_COUNTED = (
    "The temporary arrays of a pass are not counted. In a sequence of few steps they may be larger "
    "than the residuals. For their size, compile the gradient and call memory_analysis()."
)
"""The last lines of a report."""


def _bytes(array: jax.ShapeDtypeStruct) -> int:
    return math.prod(array.shape) * array.dtype.itemsize


def residual_report(fun: Callable, *args: PyTree) -> ResidualReport:
    """Return the arrays that the backward pass of a function stores (its residuals), without
    running the function.

    Use it to see how much memory a network needs for its gradient. ``print`` the result to see a
    table with bytes.

    Parameters
    ----------
    fun : callable
        A function that JAX can differentiate, such as a loss.
    *args
        The arguments of the function: arrays or ``jax.ShapeDtypeStruct``. The gradient is the
        gradient by the first argument.

    Returns
    -------
    ResidualReport
        The arrays that the forward pass stores for the backward pass, without the arguments
        themselves. The compiled program also needs temporary arrays of a few time steps. For short
        sequences, these may be larger than the residuals. To get the memory of both, compile the
        gradient:
        ``jax.jit(jax.grad(fun)).lower(*args).compile().memory_analysis().temp_size_in_bytes``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.reports import residual_report
    >>> def loss(w, inputs, **options):
    ...     return Network([Layer(w, LIF())])(inputs, **options)[1].sum()
    >>> w, inputs = jnp.ones((3, 8)), jnp.ones((100, 16, 3))
    >>> residual_report(loss, w, inputs).bytes / (100 * 16 * 8 * 4) < 1.1
    True
    """

    def backward(first, *others):
        def of_first(first):
            return fun(first, *others)

        out, pullback = jax.vjp(of_first, first)
        return pullback, out

    trace = jax.make_jaxpr(backward, return_shape=True)
    closed, (pullback, out) = trace(*args)
    jaxpr: Any = closed.jaxpr
    # The leaves of the pullback are the residuals. Some of them may not be read, and XLA does not
    # keep those.
    reads = used_inputs(jax.make_jaxpr(operator.call)(pullback, out))
    count = len(jax.tree.leaves(pullback))
    # arguments and constants are there anyway; a number takes no room, nor does an array of one
    # number repeated
    known = {*jaxpr.invars, *jaxpr.constvars}
    for eqn in jaxpr.eqns:
        # Literals have a ``val``.
        read = {var for var in eqn.invars if not hasattr(var, "val")}
        is_repeated = eqn.primitive.name == "broadcast_in_dim" and not read
        is_known = _is_identity(eqn) and read <= known
        if is_repeated or is_known:
            known |= {*eqn.outvars}
    candidates = zip(jaxpr.outvars[:count], reads[:count], strict=True)
    residuals: dict[Any, jax.ShapeDtypeStruct] = {
        var: jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)
        for var, is_read in candidates
        if is_read and not hasattr(var, "val") and var not in known
    }
    arrays = sorted(residuals.values(), key=_bytes, reverse=True)
    return ResidualReport(tuple(arrays))


def _is_identity(eqn: Any) -> bool:
    """Return True if an equation only marks an array. XLA removes it."""
    return (
        eqn.primitive.name == "custom_jvp_call"
        and not eqn.params["call_jaxpr"].jaxpr.eqns
    )
