"""Differences between versions of JAX, and all uses of its private API."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.core
import jax.numpy as jnp
from jax.interpreters import partial_eval
from jax.sharding import NamedSharding, PartitionSpec

T = TypeVar("T")

# --- types of arrays: the axes of a mesh over which they vary (in shard_map) or are sharded -------


def varying_axes(tree: object) -> frozenset[str]:
    """Return the mesh axes of variation of all arrays.

    Outside of ``jax.shard_map`` the set is empty.
    """

    def leaf(x: jax.Array) -> frozenset[str]:
        kind: Any = jax.typeof(x)
        kind = getattr(kind, "manual_axis_type", kind)  # JAX moved and renamed it
        return getattr(kind, "varying", getattr(kind, "vma", frozenset()))

    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    return frozenset().union(*map(leaf, arrays))


def vary(tree: T, axes: frozenset[str]) -> T:
    """Make the arrays vary over these axes too."""
    lax: Any = jax.lax  # has pvary or, in later versions, pcast

    def leaf(x):
        # Other leaves have no mesh axes.
        if not isinstance(x, jax.Array):
            return x
        missing = tuple(axes - varying_axes(x))
        if not missing:
            return x
        if hasattr(lax, "pcast"):
            return lax.pcast(x, missing, to="varying")
        return lax.pvary(x, missing)

    return jax.tree.map(leaf, tree)


def match_varying_axes(tree: T, like: object = None) -> T:
    """Make all arrays vary over equal axes: the axes of ``like``, or of any array of the tree.

    In ``jax.shard_map`` a loop must not change the type of its carry. If weights vary like the
    inputs, all arrays have one type. The derivative of this conversion sums the gradients of all
    devices.
    """
    return vary(tree, varying_axes(tree if like is None else like))


def explicit_sharding(x: jax.Array | jax.ShapeDtypeStruct) -> Any:
    """Return the sharding in the type of an array or shape on an Explicit mesh, None otherwise."""
    kind = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    mesh = getattr(kind.sharding, "mesh", None)
    return kind.sharding if getattr(mesh, "_any_axis_explicit", False) else None


def of_mesh(mesh: Any) -> AbstractContextManager:
    """Return a context for tracing on a mesh. JAX needs an Explicit mesh before it traces."""
    is_explicit = getattr(mesh, "_any_axis_explicit", False)
    if is_explicit and hasattr(jax, "set_mesh"):
        return jax.set_mesh(mesh)
    return nullcontext()


def shard_as(x: jax.Array, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Give ``x`` the sharding in the type of ``like``, if all leading axes that both have are
    equal.
    """
    sharding = explicit_sharding(like)
    common = min(x.ndim, len(like.shape))
    has_equal_axes = x.shape[:common] == like.shape[:common]
    if sharding is None or not has_equal_axes:
        return x
    # Axes that only ``x`` has are not sharded.
    unsharded = [None] * x.ndim
    spec = [*sharding.spec, *unsharded][: x.ndim]
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    if explicit_sharding(x) == sharding:
        return x
    return jax.sharding.reshard(x, sharding)


def spread_as(x: jax.Array, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Broadcast ``x`` to ``like``, with its shape and sharding: a parameter to a potential, for
    example.
    """
    spread = shard_as(jnp.broadcast_to(x, like.shape), like)
    return match_varying_axes(spread, like=like)


def zeros_like(x: jax.Array) -> jax.Array:
    """Return ``jnp.zeros_like`` with the sharding, which JAX drops if no mesh is set."""
    return shard_as(jnp.zeros_like(x), x)


def take(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Return ``x[rows]`` with the sharding of ``rows``. All devices have ``x``."""
    sharding = explicit_sharding(rows)
    if sharding is None:
        return x[rows]
    unsharded = [None] * (x.ndim - 1)
    spec = PartitionSpec(*sharding.spec, *unsharded)
    return x.at[rows].get(out_sharding=NamedSharding(sharding.mesh, spec))


def merge_leading(x: jax.Array) -> jax.Array:
    """Merge the first two axes. On an Explicit mesh the remaining axes keep their sharding."""
    first, second, *others = x.shape
    shape = (first * second, *others)
    sharding = explicit_sharding(x)
    if sharding is None:
        return jax.lax.reshape(x, shape)
    spec = PartitionSpec(None, *tuple(sharding.spec)[2:])
    return jnp.reshape(x, shape, out_sharding=NamedSharding(sharding.mesh, spec))


def contract_leading(a: jax.Array, b: jax.Array, like: jax.Array) -> jax.Array:
    """Return ``a^T b``, summed over all leading axes.

    On an Explicit mesh it has the sharding of ``like``.
    """
    leading = tuple(range(a.ndim - 1))
    sharding = explicit_sharding(like)
    if sharding is None and (summed := explicit_sharding(a)) is not None:
        sharding = NamedSharding(summed.mesh, PartitionSpec(None, None))
    options: Any = {} if sharding is None else {"out_sharding": sharding}
    # Not sharded, and XLA would make a transposed copy to sum over two axes.
    if jax.device_count() == 1:
        a = a.reshape(-1, a.shape[-1])
        b = b.reshape(-1, b.shape[-1])
        leading = (0,)
    # (rows, inputs) and (rows, outputs) -> (inputs, outputs)
    summed_axes = leading, leading
    batch_axes = (), ()
    return jax.lax.dot_general(a, b, (summed_axes, batch_axes), **options)


# --- jaxprs ---------------------------------------------------------------------------------------


Equation: TypeAlias = Any
"""An equation of a jaxpr: ``primitive``, ``params``, ``invars`` and ``outvars``."""


class Equations(NamedTuple):
    """A jaxpr with constants as inputs, so it can outlive the trace of its constants."""

    inputs: list
    equations: list
    outputs: list


def equations(jaxpr: Any) -> tuple[Equations, list]:
    """Return the equations of an open or closed jaxpr, and its constants, which are the first
    inputs.
    """
    consts = list(getattr(jaxpr, "consts", ()))
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    return Equations(inputs, jaxpr.eqns, jaxpr.outvars), consts


def evaluate(
    program: Equations, *inputs: Any, run: Callable[[Equation, list], list]
) -> list:
    """Return the outputs for these inputs. ``run`` applies one equation to its operands."""
    values: dict[Any, Any] = dict(zip(program.inputs, inputs, strict=True))

    def read(var):
        # Literals in a jaxpr are constants without a variable. They have a ``val``.
        return var.val if hasattr(var, "val") else values[var]

    for equation in program.equations:
        operands = [read(var) for var in equation.invars]
        # The context of the equation when it was traced, such as its mesh.
        with equation.ctx.manager:
            out = run(equation, operands)
        values.update(zip(equation.outvars, out, strict=True))
    return [read(var) for var in program.outputs]


def evaluate_values(
    program: Equations,
    *inputs: Any,
    kind: type,
    rule: Callable[[Equation, list], list],
) -> list:
    """Return the outputs for inputs of which some are no arrays, but values of another kind.

    The rule gets each equation with a value among its operands, and returns a list of values.
    Other equations have known numbers and are computed. Called functions are evaluated too.
    """

    def run(equation: Equation, operands: list) -> list:
        if not any(isinstance(operand, kind) for operand in operands):
            return bind(equation, operands)
        inner = called(equation)
        if inner is None:
            return rule(equation, operands)
        program, consts = equations(inner)
        return evaluate(program, *consts, *operands, run=run)

    return evaluate(program, *inputs, run=run)


def called(equation: Equation) -> Any:
    """Return the jaxpr that an equation runs once with its operands, such as a call of ``jit``, or
    None.
    """
    if equation.primitive.name not in CALLS:
        return None
    return next(
        equation.params[name]
        for name in ("jaxpr", "call_jaxpr", "fun_jaxpr")
        if name in equation.params
    )


CALLS = frozenset(
    {
        "jit",
        "pjit",
        "closed_call",
        "checkpoint",
        "remat2",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
    }
)
"""Primitives that run a jaxpr once, by their names in all supported versions of JAX."""


def used_inputs(closed: Any, outputs: list[bool] | None = None) -> list[bool]:
    """Return True for each input of a closed jaxpr that the selected outputs, or any, depend on."""
    outputs = outputs or [True] * len(closed.jaxpr.outvars)
    return partial_eval.dce_jaxpr(closed.jaxpr, outputs)[1]


def depends(function: Callable, first: Any, *others: Any) -> Any:
    """Return the structure of a function's outputs, with True for each output that depends on the
    first argument.
    """
    trace = jax.make_jaxpr(functools.partial(function), return_shape=True)
    closed, shape = trace(first, *others)
    # The arrays of the first argument are the first inputs of the jaxpr.
    inputs = len(jax.tree.leaves(first))
    structure = jax.tree.structure(shape)
    count = structure.num_leaves
    depending = []
    for output in range(count):
        is_selected = [n == output for n in range(count)]
        used = used_inputs(closed, is_selected)
        depending.append(any(used[:inputs]))
    return structure.unflatten(depending)


def bind(equation: Equation, operands: list, **changed: Any) -> list:
    """Apply the primitive of an equation, with some of its parameters changed."""
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params | changed)
    # JAX versions use both forms.
    functions, params = params if isinstance(params, tuple) else ((), params)
    out = primitive.bind(*functions, *operands, **params)
    return out if primitive.multiple_results else [out]


def bind_over_any_axes(equation: Equation, operands: list) -> list:
    """Apply an equation to operands that may vary over other mesh axes than its inputs.

    Compiled functions have fixed types, so they run equation by equation for other types. They also
    lose the sharding of cotangents on an Explicit mesh. Arrays that vary over an axis stay
    unchanged.
    """
    name = equation.primitive.name
    params = equation.params
    if name in ("jit", "pjit"):
        traced_types = [var.aval for var in equation.invars]
        types = [jax.typeof(operand) for operand in operands]
        if types != traced_types or any(map(explicit_sharding, operands)):
            inner, consts = equations(params["jaxpr"])
            return evaluate(inner, *consts, *operands, run=bind_over_any_axes)
    if name in ("pvary", "pcast") and params.get("to", "varying") == "varying":
        axes = frozenset(params["axes"])
        return [vary(jnp.asarray(x), axes) for x in operands]
    return bind(equation, operands)


def evaluated(function: Callable) -> Callable:
    """Run a function of known numbers at once, also while JAX traces, so its results are known.

    ``jax.ensure_compile_time_eval`` cannot run ``jax.lax.scan`` before JAX 0.8.
    """

    @functools.wraps(function)
    def run(*args):
        core: Any = jax.core
        leaves = jax.tree.leaves(args)
        is_traced = any(isinstance(leaf, core.Tracer) for leaf in leaves)
        with nullcontext() if is_traced else core.eval_context():
            return function(*args)

    return run


# --- derivatives ----------------------------------------------------------------------------------


def with_jvp(function: Callable, rule: Callable) -> Callable:
    """Return a function with this forward-mode rule, ``rule(primals, tangents)``.

    Before JAX 0.12, the derivative of a ``jax.lax.scan`` drops the rules of ``jax.custom_jvp`` in
    its body: it looks for values that do not depend on the step, and runs all other functions
    without their rules. A second derivative would then differentiate ``function`` itself, and be
    wrong without an error. ``jax.checkpoint`` keeps the rule. Where JAX has already unpacked the
    checkpoint, the ``jax.custom_vjp`` inside still has the rule for reverse mode. It raises in
    forward mode.
    """
    # Three layers: the jvp of ``ruled`` is the rule, its checkpoint keeps it in loops, and the vjp
    # within serves reverse mode after JAX has unpacked the checkpoint.
    if jax.__version_info__ >= (0, 12):
        ruled = jax.custom_jvp(function)
        ruled.defjvp(rule)
        return ruled

    @jax.custom_vjp
    def with_vjp(*args):
        return function(*args)

    def forward(*args):
        return checkpointed(*args), args

    def backward(args, cotangent):
        def tangent(*tangents):
            return rule(args, tangents)[1]

        # The rule is linear in the tangents, so its transpose is the reverse rule.
        return jax.linear_transpose(tangent, *args)(cotangent)

    with_vjp.defvjp(forward, backward)
    ruled = jax.custom_jvp(with_vjp)
    ruled.defjvp(rule)
    # It stores the arguments that the rule needs, and nothing else.
    checkpointed = jax.checkpoint(ruled, prevent_cse=False)
    return checkpointed


# --- precision ------------------------------------------------------------------------------------


def in_double_precision() -> Any:
    """Return a context with 64-bit types. JAX moved it."""
    api: Any = jax
    if not hasattr(api, "enable_x64"):
        api = api.experimental
    return api.enable_x64(True)
