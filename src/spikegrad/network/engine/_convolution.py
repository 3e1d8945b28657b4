"""Convolutions in the form that is fast inside a loop.

XLA's fast convolution on CPU takes images in the order ``NHWC`` and kernels in the order ``HWIO``.
The compiler transposes other orders to this one, but only in the outermost computation of a
program. It does not change the body of a loop, and a convolution in another order then runs in
plain nested loops. The derivatives of a convolution always use other orders: the gradient of a
kernel swaps the axes of channels and examples. Inside a loop over time they take 20 to 100 times as
long as outside.

So this module inserts the transposes, into the equations of a layer's function and of its
derivatives:

==================  ===============================  ==============================
convolution         canonical form                   results
==================  ===============================  ==============================
in any order        transposed, then in order        bit-identical
in groups of the    the groups as groups of          equal up to rounding, because
batch               channels, which is as fast       the order of the sum differs
==================  ===============================  ==============================

The gradient of the kernel of a grouped convolution has groups of the batch. On other platforms the
equations do not change. The platform is known when JAX lowers a program, so the choice costs
nothing at run time.

What is not optimal: a program contains both forms until it is lowered for a platform, so tracing
takes longer. The limit ``_FEW`` was measured on one processor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..._compat import CALLS, bind, equations, evaluate
from ..._pytree import PyTree
from ._functions import as_equations

_CONVOLUTION = "conv_general_dilated"
_NESTED = CALLS | {"cond", "scan", "while"}
"""Primitives that accept replaced jaxprs of equal types."""
_FEW = 4
"""Up to this number of channels per group, plain nested loops are faster: by a factor of 2 at 4,
and of 40 at 1.
"""


def canonical(function: Callable) -> Callable:
    """Convert each convolution of a function to canonical form.

    Arguments and results are pytrees of arrays.
    """

    def rewritten(*args: PyTree) -> PyTree:
        equations = as_equations(function, *args, run=_bind_canonical)
        return equations.call(equations.arrays, *args)

    return rewritten


def has_convolution(jaxpr: Any) -> bool:
    """Return True if any equation is a convolution, including nested jaxprs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == _CONVOLUTION:
            return True
        params = jax.tree.leaves(list(equation.params.values()))
        if any(hasattr(param, "eqns") and has_convolution(param) for param in params):
            return True
    return False


def _bind_canonical(equation: Any, operands: list) -> list:
    """Apply an equation to its operands, with convolutions in canonical form."""
    name = equation.primitive.name
    if name == _CONVOLUTION:
        return [_convolve(equation.primitive.bind, equation.params, *operands)]
    if name in _NESTED:
        params = jax.tree.map(_rewrite_nested, equation.params)
        return bind(equation, operands, **params)
    return bind(equation, operands)


def _rewrite_nested(param: Any) -> Any:
    """Convert the convolutions of a parameter that is a jaxpr. Its types do not change."""
    if not hasattr(param, "eqns") or not has_convolution(param):
        return param
    program, consts = equations(param)
    rewritten = functools.partial(evaluate, program, *consts, run=_bind_canonical)
    types = [var.aval for var in program.inputs[len(consts) :]]
    new = jax.make_jaxpr(rewritten)(*types)
    # A closed jaxpr has constants.
    return new if hasattr(param, "consts") else new.jaxpr


def _convolve(
    bind: Callable, params: dict, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    unchanged = functools.partial(bind, **params)
    if not _gains(params, x, kernel):
        return unchanged(x, kernel)
    # Both forms are in the traced program. JAX keeps one of them when it lowers for a platform,
    # so a program can also be exported for another one.
    canonical_form = functools.partial(_canonical, bind, params)
    return jax.lax.platform_dependent(x, kernel, cpu=canonical_form, default=unchanged)


def _gains(params: dict, x: jax.Array, kernel: jax.Array) -> bool:
    """Return True if the canonical form differs and is faster."""
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] > 1:
        return True
    is_grouped = params["feature_group_count"] > 1
    channels = kernel.shape[numbers.rhs_spec[1]]
    is_narrow = is_grouped and channels <= _FEW
    return not is_narrow and numbers != _numbers(x.ndim - 2)


def _numbers(spatial: int) -> jax.lax.ConvDimensionNumbers:
    """Return ``NHWC, HWIO -> NHWC``, for any number of spatial axes."""
    image = (0, spatial + 1, *range(1, spatial + 1))
    kernel = (spatial + 1, spatial, *range(spatial))
    return jax.lax.ConvDimensionNumbers(image, kernel, image)


def _canonical(
    bind: Callable, params: dict, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Apply a convolution in canonical form. Transpose its operands and its result."""
    # The positions of the axes: examples, channels and space, and those of the kernel.
    numbers = params["dimension_numbers"]
    n, c, *space = numbers.lhs_spec
    o, i, *window = numbers.rhs_spec
    out_n, out_c, *out_space = numbers.out_spec
    # (n, *space, c) and (*window, i, o)
    x = x.transpose(n, *space, c)
    kernel = kernel.transpose(*window, i, o)
    changed: dict = {"dimension_numbers": _numbers(len(space))}
    if (groups := params["batch_group_count"]) > 1:
        # A group of the batch becomes a group of channels: (groups * n, *space, c) ->
        # (n, *space, groups * c). The groups must vary slowest among the channels, because XLA
        # splits channels into consecutive blocks.
        x = x.reshape(groups, -1, *x.shape[1:])
        x = jnp.moveaxis(x, 0, -2)
        x = x.reshape(*x.shape[:-2], -1)
        changed |= {"batch_group_count": 1, "feature_group_count": groups}
    # The canonical result has the axes in this order.
    order = (out_n, *out_space, out_c)
    if (sharding := params.get("out_sharding")) is not None:  # on an Explicit mesh
        # A specification may leave out its last axes.
        omitted = (None,) * (x.ndim - len(sharding.spec))
        axes = (*sharding.spec, *omitted)
        spec = PartitionSpec(*(axes[axis] for axis in order))
        changed["out_sharding"] = NamedSharding(sharding.mesh, spec)
    out = bind(x, kernel, **params | changed)
    inverse = np.argsort(order).tolist()
    return jnp.transpose(out, tuple(inverse))
