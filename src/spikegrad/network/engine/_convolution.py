"""Convolutions in the form that is fast within a loop.

XLA's fast convolution on CPU takes images in the order ``NHWC`` and kernels in the order ``HWIO``. The compiler brings
every other order into this one by transposes, but only in the outermost computation of a program: what stands in the
body of a loop is left as it is, and a convolution in another order then runs in plain nested loops. The derivatives of
a convolution are convolutions in other orders, whatever the order of the convolution itself: the gradient of a kernel
takes channels for examples, and examples for channels. Within a loop over time they cost 20 to 100 times what they
cost outside of one.

So the transposes are made here, where the function of a layer and its derivatives stand as equations:

==================  ===============================  ==============================
convolution         canonical form                   results
==================  ===============================  ==============================
in any order        transposed, then in order        the same bits
in groups of the    the groups as groups of          a sum in another order:
batch               channels, which is as fast       equal but for rounding
==================  ===============================  ==============================

The gradient of the kernel of a grouped convolution is the one that comes in groups of the batch. On other platforms
the equations stay as they were; which platform it is shows when a program is lowered, and costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..._compat import bind, equations, evaluate

_CONVOLUTION = "conv_general_dilated"
_NESTED = frozenset(
    {
        *("jit", "pjit", "closed_call", "checkpoint", "remat2"),
        *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
        *("cond", "scan", "while"),
    }
)
"""Primitives, by the names that versions of JAX gave them, whose jaxprs may be replaced by others of the same types."""
_FEW = 4
"""Up to so many channels in each group, plain nested loops are the faster ones: by a factor of 2 at 4, and 40 at 1."""


def canonical(function: Callable) -> Callable:
    """The function with each convolution in canonical form. Arguments and results are pytrees of arrays."""

    def rewritten(*args):
        # partial makes a new function, since JAX may keep what it traced for one that it has seen
        closed, shape = jax.make_jaxpr(functools.partial(function), return_shape=True)(*args)
        of, consts = equations(closed)
        out = evaluate(of, *consts, *jax.tree.leaves(args), run=_bind_canonical)
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return rewritten


def has_convolution(jaxpr: Any) -> bool:
    """Whether any equation is a convolution, those of nested jaxprs included."""
    return any(
        eqn.primitive.name == _CONVOLUTION or any(map(has_convolution, _jaxprs(list(eqn.params.values()))))
        for eqn in jaxpr.eqns
    )


def _jaxprs(params: Any) -> list:
    return [leaf for leaf in jax.tree.leaves(params) if hasattr(leaf, "eqns")]


def _bind_canonical(equation: Any, operands: list) -> list:
    """Apply an equation to its operands, with convolutions in canonical form."""
    name = equation.primitive.name
    if name == _CONVOLUTION:
        return [_convolve(equation.primitive.bind, equation.params, *operands)]
    if name in _NESTED:
        return bind(equation, operands, **jax.tree.map(_rewrite_nested, equation.params))
    return bind(equation, operands)


def _rewrite_nested(param: Any) -> Any:
    """A parameter with its convolutions in canonical form, if it is a jaxpr that has any; the types stay."""
    if not hasattr(param, "eqns") or not has_convolution(param):
        return param
    of, consts = equations(param)
    new = jax.make_jaxpr(functools.partial(evaluate, of, *consts, run=_bind_canonical))(
        *[var.aval for var in of.inputs[len(consts) :]]
    )
    return new if hasattr(param, "consts") else new.jaxpr  # JAX had jaxprs that hold their constants, and others


def _convolve(bind: Callable, params: dict, x: jax.Array, kernel: jax.Array) -> jax.Array:
    unchanged = functools.partial(bind, **params)
    if not _gains(params, x, kernel):
        return unchanged(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=functools.partial(_canonical, bind, params), default=unchanged)


def _gains(params: dict, x: jax.Array, kernel: jax.Array) -> bool:
    """Whether the canonical form is another one, and the faster one."""
    numbers, spatial = params["dimension_numbers"], x.ndim - 2
    known = x.dtype == kernel.dtype and jnp.issubdtype(x.dtype, jnp.floating) and 1 <= spatial <= 3
    if params["batch_group_count"] > 1:
        return known
    grouped = params["feature_group_count"] > 1
    few = grouped and kernel.shape[numbers.rhs_spec[1]] <= _FEW
    return known and not few and numbers != _numbers(spatial)


def _numbers(spatial: int) -> jax.lax.ConvDimensionNumbers:
    """``NHWC, HWIO -> NHWC``, for any number of spatial axes."""
    image = (0, spatial + 1, *range(1, spatial + 1))
    return jax.lax.ConvDimensionNumbers(image, (spatial + 1, spatial, *range(spatial)), image)


def _canonical(bind: Callable, params: dict, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution in canonical form, by transposes of its operands and of its result."""
    (n, c, *at), (o, i, *window), (out_n, out_c, *out_at) = params["dimension_numbers"]
    x, kernel = x.transpose(n, *at, c), kernel.transpose(*window, i, o)
    changed: dict = {"dimension_numbers": _numbers(len(at))}
    if (groups := params["batch_group_count"]) > 1:
        x = jnp.moveaxis(x.reshape(groups, -1, *x.shape[1:]), 0, -2)
        x = x.reshape(*x.shape[:-2], -1)
        changed |= {"batch_group_count": 1, "feature_group_count": groups}
    order = (out_n, *out_at, out_c)
    if (sharding := params.get("out_sharding")) is not None:  # on an Explicit mesh
        axes = (*sharding.spec, *(None,) * (x.ndim - len(sharding.spec)))
        changed["out_sharding"] = NamedSharding(sharding.mesh, PartitionSpec(*(axes[axis] for axis in order)))
    return jnp.transpose(bind(x, kernel, **params | changed), tuple(np.argsort(order).tolist()))
