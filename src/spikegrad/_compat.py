"""Differences between versions of JAX, and what of JAX is not public API: all of it stands here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, partial_eval

# --- types of arrays: the axes of a mesh over which they vary (in shard_map) or are sharded (on an Explicit mesh) -----


def varying_axes(tree: Any) -> frozenset[str]:
    """The axes of a mesh over which any of the arrays varies. Outside of ``jax.shard_map`` none does."""

    def leaf(x):
        kind: Any = jax.typeof(x)
        kind = getattr(kind, "manual_axis_type", kind)  # JAX moved it, and what makes an array vary
        return getattr(kind, "varying", getattr(kind, "vma", frozenset()))

    return frozenset().union(*(leaf(x) for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)))


def vary(tree: Any, axes: frozenset[str]) -> Any:
    """The arrays, as varying over these axes too."""
    lax: Any = jax.lax  # which has had pvary, and later pcast

    def leaf(x):
        more = tuple(axes - varying_axes(x)) if isinstance(x, jax.Array) else ()
        if not more:
            return x
        return lax.pcast(x, more, to="varying") if hasattr(lax, "pcast") else lax.pvary(x, more)

    return jax.tree.map(leaf, tree)


def match_varying_axes(tree: Any, like: Any = None) -> Any:
    """All arrays as varying over the same axes: those over which any of ``like`` varies, or any of the tree's own.

    In ``jax.shard_map`` a loop may not change the type of what it carries. With weights that vary as the inputs do,
    everything has one type; the derivative of the change adds up the gradients of all devices.
    """
    return vary(tree, varying_axes(tree if like is None else like))


def explicit_sharding(x: Any) -> Any:
    """The sharding in the type of an array, or of its shape alone, on an Explicit mesh; None elsewhere."""
    sharding = getattr(x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x), "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    if mesh is None or getattr(mesh, "empty", True) or not getattr(mesh, "_any_axis_explicit", False):
        return None
    return sharding


def of_mesh(mesh: Any) -> AbstractContextManager:
    """The context in which functions are traced that compute on a mesh: an Explicit one is to be known beforehand."""
    explicit = getattr(mesh, "_any_axis_explicit", False) and hasattr(jax, "set_mesh")
    return jax.set_mesh(mesh) if explicit else nullcontext()


def shard_as(x: jax.Array, like: Any) -> jax.Array:
    """``x`` with the sharding that ``like`` has in its type, if it is of the same shape."""
    sharding = explicit_sharding(like)
    if sharding is None or x.shape != like.shape or explicit_sharding(x) == sharding:
        return x
    return jax.sharding.reshard(x, sharding)


def spread_as(x: jax.Array, like: Any) -> jax.Array:
    """``x`` in the shape of ``like``, spread over devices as that is: a parameter as a potential, say."""
    return match_varying_axes(shard_as(jnp.broadcast_to(x, like.shape), like), like=like)


def zeros_like(x: jax.Array) -> jax.Array:
    """``jnp.zeros_like``, which leaves out the sharding where no mesh has been set."""
    return shard_as(jnp.zeros_like(x), x)


def take(x: jax.Array, rows: jax.Array) -> jax.Array:
    """``x[rows]``, spread over a mesh as ``rows`` are, while all devices have ``x``."""
    sharding = explicit_sharding(rows)
    if sharding is None:
        return x[rows]
    spec = jax.sharding.PartitionSpec(*sharding.spec, *[None] * (x.ndim - 1))
    return x.at[rows].get(out_sharding=jax.sharding.NamedSharding(sharding.mesh, spec))


def merge_leading(x: jax.Array) -> jax.Array:
    """The first two axes as one. On an Explicit mesh the others keep their sharding."""
    shape = (x.shape[0] * x.shape[1], *x.shape[2:])
    sharding = explicit_sharding(x)
    if sharding is None:
        return jax.lax.reshape(x, shape)
    spec = jax.sharding.PartitionSpec(None, *tuple(sharding.spec)[2:])
    return jnp.reshape(x, shape, out_sharding=jax.sharding.NamedSharding(sharding.mesh, spec))


def contract_leading(a: jax.Array, b: jax.Array, like: jax.Array) -> jax.Array:
    """``a^T b`` with all leading axes summed over. On an Explicit mesh the sharding is that of ``like``."""
    leading = tuple(range(a.ndim - 1))
    sharding = explicit_sharding(like)
    if sharding is None and (summed := explicit_sharding(a)) is not None:
        sharding = jax.sharding.NamedSharding(summed.mesh, jax.sharding.PartitionSpec(None, None))
    options: Any = {} if sharding is None else {"out_sharding": sharding}
    if jax.device_count() == 1:  # nothing is shared, and XLA makes a transposed copy before it sums over two axes
        a, b, leading = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), (0,)
    return jax.lax.dot_general(a, b, ((leading, leading), ((), ())), **options)


# --- jaxprs ----------------------------------------------------------------------------------------------------------


class Equations(NamedTuple):
    """A jaxpr whose constants are variables like its inputs: it can outlive the trace that they belong to."""

    inputs: list
    equations: list
    outputs: list


def equations(jaxpr: Any) -> tuple[Equations, list]:
    """The equations of a jaxpr, closed or not, and the constants that it holds, which are the first inputs."""
    consts = list(getattr(jaxpr, "consts", ()))
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return Equations([*jaxpr.constvars, *jaxpr.invars], jaxpr.eqns, jaxpr.outvars), consts


def evaluate(of: Equations, *inputs: Any, run: Callable[[Any, list], list]) -> list:
    """The outputs, of these inputs. ``run`` applies one equation to its operands."""
    values: dict[Any, Any] = dict(zip(of.inputs, inputs, strict=True))

    def read(var):
        return var.val if hasattr(var, "val") else values[var]

    for equation in of.equations:
        with equation.ctx.manager:
            out = run(equation, [read(var) for var in equation.invars])
        values.update(zip(equation.outvars, out, strict=True))
    return [read(var) for var in of.outputs]


def used_inputs(closed: Any) -> list[bool]:
    """For each input of a closed jaxpr, True if any output depends on it. True if JAX cannot compute this."""
    eliminate = getattr(partial_eval, "dce_jaxpr", None)
    if eliminate is None:
        return [True] * len(closed.jaxpr.invars)
    return list(eliminate(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[1])


def bind(equation: Any, operands: list, **changed: Any) -> list:
    """Apply the primitive of an equation, with its parameters but for those that are changed."""
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params | changed)
    functions, params = params if isinstance(params, tuple) else ((), params)  # JAX had both forms
    out = primitive.bind(*functions, *operands, **params)
    return out if primitive.multiple_results else [out]


def bind_over_any_axes(equation: Any, operands: list) -> list:
    """The same, of operands that may vary over other axes of a mesh than those that the equation was made of.

    Calls of compiled functions are run equation by equation, since their types are fixed; an array that varies over an
    axis already is not made to.
    """
    name, params = equation.primitive.name, equation.params
    if name in ("jit", "pjit"):
        inner, consts = equations(params["jaxpr"])
        return evaluate(inner, *consts, *operands, run=bind_over_any_axes)
    if name in ("pvary", "pcast") and params.get("to", "varying") == "varying":
        return [vary(jnp.asarray(x), frozenset(params["axes"])) for x in operands]
    return bind(equation, operands)


# --- derivatives ------------------------------------------------------------------------------------------------------


def in_reverse_mode_alone(message: str, tree: Any) -> Any:
    """Identity whose derivative raises in forward mode, with this message: of what has one in reverse mode alone.

    JAX raises as well, and says nothing of the way out. A tangent that is never computed, because it is transposed,
    raises nothing; and a function that has been differentiated once has all further derivatives.
    """
    return jax.tree.map(lambda x: _reversible(message, x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reversible(message: str, x: jax.Array) -> jax.Array:
    del message
    return x


@_reversible.defjvp
def _reversible_jvp(message, primals, tangents):
    return primals[0], _tangent.bind(tangents[0], message=message)


def is_forward_mode_error(error: TypeError) -> bool:
    """Whether JAX was the first to refuse, which it says in words alone: where ``jax.vmap`` is around forward mode."""
    return "custom_vjp" in str(error)


def _refuse(*_: Any, message: str, **__: Any) -> NoReturn:
    raise TypeError(message)


_tangent = Primitive("tangent_in_reverse_mode_alone")
_tangent.def_abstract_eval(lambda x, **_: x)
ad.deflinear2(_tangent, lambda cotangent, _, **__: [cotangent])
_tangent.def_impl(_refuse)
mlir.register_lowering(_tangent, _refuse)
batching.primitive_batchers[_tangent] = lambda xs, axes, **params: (_tangent.bind(*xs, **params), *axes)


# --- precision --------------------------------------------------------------------------------------------------------


def in_double_precision() -> Any:
    """The context in which float64 is float64; JAX moved it."""
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()  # type: ignore[attr-defined]
