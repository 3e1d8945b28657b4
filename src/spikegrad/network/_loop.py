"""One derivative over the whole loop: what is kept may be narrow, and products of many steps are taken as one.

The forward pass keeps the state of each layer before the spike, from which spikes, resets and slopes are computed
again. The backward pass takes a chunk of steps at a time, the last one first, in two phases for each layer: step by
step, the cotangents of states and currents, for which only the product with the recurrent weights must wait; then,
for the chunk as a whole, the gradients of the weights and the cotangents of what the layer below gave.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._struct import new_unchecked
from ..neurons import Cell, State
from ._masks import Flags, part, tree_where, zero_pre_spike_states, zeros


def run(
    layers: Any,
    inputs: jax.Array,
    states: Any,
    flags: Flags,
    keep: str,
    chunk: int,
    segment: int | None,
    collect: tuple[bool, ...],
):
    """States after the last step, and the outputs over time of each layer to collect (None for the others)."""
    steps = len(inputs)
    whole = steps - steps % (segment or chunk)
    if whole == steps:
        return _run(layers, inputs, 0, states, flags, keep, chunk, segment, collect)
    # what is left over is a part of its own
    few = max(d for d in range(1, 2 * chunk + 1) if (steps - whole) % d == 0)
    states, outs = _run(layers, inputs, 0, states, part(flags, 0, whole), keep, chunk, segment, collect)
    states, more = _run(layers, inputs, whole, states, part(flags, whole, steps), keep, few, None, collect)
    return states, jax.tree.map(lambda *a: jnp.concatenate(a), outs, more)


def _run(layers, inputs, offset, states, flags, keep, chunk, segment, collect):
    """From the step ``offset`` of the inputs on, as many steps as ``flags`` says."""
    arrays, builds = zip(*map(_split, layers), strict=True)
    steps = len(flags.begun)
    plan = _Plan(keep, chunk, (segment or steps) // chunk, collect, offset)
    firsts = np.arange(0, steps, segment or steps)

    def sequence(arrays, inputs, starts, flags):
        layers = [build(*a) for build, a in zip(builds, arrays, strict=True)]
        return _Sequence(plan, layers, inputs, starts, flags), zero_pre_spike_states(layers, starts, inputs[0])

    def forward(arrays, inputs, starts, flags, keep):
        run, us = sequence(arrays, inputs, starts, flags)
        if segment is None:
            _, ends, outs, kept = run.advance(0, us, keep)
            return (ends, _flat(outs)), kept

        def body(carry, first):
            us, _ = carry
            new, ends, outs, _ = run.advance(first, us, None)
            return (new, ends), (outs, us)

        (_, ends), (outs, kept) = jax.lax.scan(body, (us, starts), firsts)
        return (ends, _flat(_flat(outs))), kept

    @jax.custom_vjp
    def loop(arrays, inputs, starts, flags):
        return forward(arrays, inputs, starts, flags, None)[0]

    def loop_forward(arrays, inputs, starts, flags):
        out, kept = forward(arrays, inputs, starts, flags, keep)
        return out, (arrays, inputs, starts, flags, kept)

    def loop_backward(residuals, cotangents):
        if keep != "exact":
            residuals, cotangents = jax.tree.map(functools.partial(_once, keep), (residuals, cotangents))
        arrays, inputs, starts, flags, kept = residuals
        ct_ends, ct_outs = cotangents
        run, us = sequence(arrays, inputs, starts, flags)
        carry = list(zip(ct_ends, zeros(arrays, inputs), strict=True))
        if segment is None:
            carry, ct_inputs = run.retreat(0, us, kept, carry, ct_outs)
        else:

            def body(carry, now):
                first, us = now
                *_, kept = run.advance(first, us, keep)
                return run.retreat(first, us, kept, carry, ct_outs)

            carry, ct_inputs = jax.lax.scan(body, carry, (firsts, kept), reverse=True)
            ct_inputs = _flat(ct_inputs)
        if ct_inputs is not None:
            ct_inputs = _flat(ct_inputs)
            if steps < len(inputs):
                ct_inputs = jnp.zeros_like(inputs).at[offset : offset + steps].set(ct_inputs)
        ct_starts, grads = zip(*carry, strict=True)
        return grads, ct_inputs, list(ct_starts), None

    loop.defvjp(loop_forward, loop_backward)
    return loop(arrays, inputs, states, flags)


class _Plan(NamedTuple):
    """What does not change from call to call."""

    keep: str
    chunk: int
    chunks: int  # in a segment, or in all
    collect: tuple[bool, ...]
    offset: int


class _Sequence(NamedTuple):
    """What both passes are given. They go over one segment at a time, from the step ``first`` on.

    ``us`` are the states before the spike of the step before it.
    """

    plan: _Plan
    layers: list
    inputs: jax.Array
    starts: list
    flags: Flags

    def window(self, start):
        """Inputs and flags of a chunk."""
        offset, chunk = self.plan.offset, self.plan.chunk
        return _window(self.inputs, offset + start, chunk), _window(self.flags, start, chunk)

    def advance(self, first, us, mode):
        """States before and after the last spike of the segment, what is collected, and what is kept."""

        def body(carry, start):
            x, flag = self.window(start)
            outs, kept = [], []
            for n, layer in enumerate(self.layers):
                u, state = carry[n]
                carry[n], x, k = _forward(layer, u, state, x, flag, mode)
                outs.append(x if self.plan.collect[n] else None)
                kept.append(k)
            return carry, (outs, kept)

        begun = self.flags.begun[first]
        fired = [layer.cell.fire(u) for layer, u in zip(self.layers, us, strict=True)]
        carry = list(zip(us, tree_where(begun, fired, self.starts), strict=True))
        carry, (outs, kept) = jax.lax.scan(body, carry, first + self.plan.chunk * jnp.arange(self.plan.chunks))
        us, ends = zip(*carry, strict=True)
        return list(us), list(ends), outs, kept

    def retreat(self, first, us, kept, carry, ct_outs):
        """Back over the segment; the carry: of each layer, cotangents of the state after it, gradients added up."""
        keep, chunk, chunks, *_ = self.plan
        spare = keep != "exact" or len(self.flags.begun) > chunk * chunks  # what is kept does not outweigh a product

        def state(n, i, t):
            """Of layer n at step t of chunk i, before the spike."""
            return _read(keep, self.layers[n].cell, jax.tree.map(lambda k: k[i, t], kept[n]), us[n])

        def replay(n, i):
            """Of layer n in chunk i, the states and outputs before each step, and the outputs of each step."""
            start, fire = self.starts[n], self.layers[n].cell.fire
            flag = _window(self.flags, first + i * chunk, chunk)

            def ended(t, flag):
                begun = None if flag.active is None else flag.active | flag.begun
                return tree_where(begun, fire(state(n, i, t)), start)

            last = tree_where(i > 0, state(n, jnp.maximum(i - 1, 0), -1), us[n])
            before = tree_where(flag.begun[0], fire(last), start)
            after = jax.vmap(ended)(jnp.arange(chunk), flag)
            return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), before, after), after[1]

        def below(n, i):
            """What layer n is given in chunk i."""
            return replay(n - 1, i)[1] if n else self.window(first + i * chunk)[0]

        def body(carry, i):
            flag, ct_out = _window((self.flags, ct_outs), first + i * chunk, chunk)
            above = None
            for n, layer in reversed(list(enumerate(self.layers))):
                back = _Backward(layer, spare)
                ct_end, (cell_grad, grad) = carry[n]
                ct_given = [ct for ct in (ct_out[n], above) if ct is not None]
                ct_start, cell_grad, ct_currents = back.steps(
                    ct_end,
                    cell_grad,
                    sum(ct_given[1:], ct_given[0]),
                    replay(n, i)[0],
                    below(n, i),
                    functools.partial(state, n, i),
                    flag,
                )
                # each product needs room for a gradient: one after the other, and what they need no earlier
                late, ct_currents = jax.lax.optimization_barrier((i, ct_currents))
                grad = back.outs(grad, replay(n, late)[0][1], ct_currents)
                late, ct_currents, grad = jax.lax.optimization_barrier((late, ct_currents, grad))
                grad, above = back.inputs(grad, below(n, late), ct_currents)
                carry[n] = ct_start, (cell_grad, grad)
            return carry, above

        return jax.lax.scan(body, carry, jnp.arange(chunks), reverse=True)


def _forward(layer: Any, u: State, state: Any, inputs: jax.Array, flags: Flags, mode: str | None):
    """One layer over one chunk: its states at the end, its outputs, and what is kept."""

    def step(carry, now):
        u, state = carry
        drive, flag = now
        new = layer.cell.integrate(state[0], drive + layer.feedback(state[1]))
        new = new, layer.cell.fire(new)
        u, state = tree_where(flag.active, new, carry)
        out = tree_where(flag.active, state[1], jnp.zeros_like(state[1]))
        return (u, state), (out, None if mode is None else _write(mode, layer.cell, u))

    end, (outs, kept) = jax.lax.scan(step, (u, state), (_at_once(layer.drive, layer.weight, inputs), flags))
    return end, outs, kept


def _at_once(product: Callable, linear: Any, x: jax.Array) -> jax.Array:
    """A product of a layer, of many steps: of a matrix, as one; of a function, which knows one step, step by step."""
    return jax.vmap(product)(x) if callable(linear) else product(x)


class _Backward:
    """One layer over one chunk, from its end to its start."""

    def __init__(self, layer: Any, spare: bool) -> None:
        self.layer = layer
        self.add = _add_in_parts if spare else _add_product
        (self.cell_arrays, self.arrays), self.build = _split(layer)

    def drive(self, arrays, inputs):
        layer = self.build(self.cell_arrays, arrays)
        return _at_once(layer.drive, layer.weight, inputs)

    def feedback(self, arrays, outs):
        layer = self.build(self.cell_arrays, arrays)
        return _at_once(layer.feedback, layer.recurrent, outs)

    def steps(self, ct_end, grad, ct_outs, befores, inputs, read, flags):
        """Cotangents of the state before the chunk, of the cell's arrays, of the currents."""
        layer, arrays, build = self.layer, self.arrays, self.build
        currents = self.drive(arrays, inputs)
        if layer.recurrent is not None:
            currents = currents + self.feedback(arrays, befores[1])

        def step(carry, now):
            ct_state, grad = carry
            t, ct_out, (v, out), current, flag = now
            ct_v, ct_fed = tree_where(flag.active, ct_state, jax.tree.map(jnp.zeros_like, ct_state))
            ct_out = tree_where(flag.active, ct_out, jnp.zeros_like(ct_out))
            _, back = jax.vjp(lambda a, u: build(a, arrays).cell.fire(u), self.cell_arrays, read(t))
            fired, ct_u = back((ct_v, ct_fed + ct_out))
            _, back = jax.vjp(lambda a, v, i: build(a, arrays).cell.integrate(v, i), self.cell_arrays, v, current)
            integrated, ct_v, ct_current = back(ct_u)
            _, back = jax.vjp(lambda out: current + layer.feedback(out), out)
            ct_before = ct_v, *back(ct_current)
            if flag.cut is not None:
                ct_before = tree_where(flag.cut, jax.tree.map(jnp.zeros_like, ct_before), ct_before)
            if flag.active is not None:
                held = tree_where(flag.active, jax.tree.map(jnp.zeros_like, ct_state), ct_state)
                ct_before = jax.tree.map(jnp.add, ct_before, held)
            return (ct_before, jax.tree.map(lambda *g: sum(g[1:], g[0]), grad, fired, integrated)), ct_current

        xs = jnp.arange(len(ct_outs)), ct_outs, befores, currents, flags
        (ct_start, grad), ct_currents = jax.lax.scan(step, (ct_end, grad), xs, reverse=True)
        return ct_start, grad, ct_currents

    def outs(self, grad, outs, ct_currents):
        """Add the gradients of the recurrent weights."""
        weight, recurrent, bias = grad
        if self.layer.recurrent is None:
            return grad
        if not callable(self.layer.recurrent):
            return weight, [self.add(recurrent[0], outs, ct_currents)], bias
        _, back = jax.vjp(lambda arrays: self.feedback(arrays, outs), self.arrays)
        return jax.tree.map(jnp.add, grad, *back(ct_currents))

    def inputs(self, grad, inputs, ct_currents):
        """Add the gradients of the other weights; the cotangent of the inputs."""
        _, back = jax.vjp(self.drive, self.arrays, inputs)
        new, ct_inputs = back(ct_currents)
        ct_inputs = ct_inputs if jnp.issubdtype(inputs.dtype, jnp.floating) else None
        (weight, *others), (new_weight, *new_others) = grad, new
        if callable(self.layer.weight):
            weight = jax.tree.map(jnp.add, weight, new_weight)
        else:
            weight = [self.add(weight[0], inputs, ct_currents)]
        return (weight, *jax.tree.map(jnp.add, others, new_others)), ct_inputs


def _add_product(grad: jax.Array, x: jax.Array, ct: jax.Array) -> jax.Array:
    """``grad + x^T ct``, over many steps."""
    x, ct = (a.reshape(-1, a.shape[-1]).astype(grad.dtype) for a in (x, ct))
    return grad + x.T @ ct


def _add_in_parts(grad: jax.Array, x: jax.Array, ct: jax.Array) -> jax.Array:
    """The same. The product needs room of its own: of a large one, for a part at a time, which costs a little time."""
    parts = math.gcd(len(grad), 4 if grad.size >= 1 << 20 else 2 if grad.size >= 1 << 18 else 1)
    if parts == 1:
        return _add_product(grad, x, ct)
    rows = len(grad) // parts

    def add(i, grad):
        part = jax.lax.dynamic_slice_in_dim(grad, i * rows, rows)
        part = _add_product(part, jax.lax.dynamic_slice_in_dim(x, i * rows, rows, axis=-1), ct)
        return jax.lax.dynamic_update_slice_in_dim(grad, part, i * rows, axis=0)

    return jax.lax.fori_loop(0, parts, add, grad)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _once(mode, x):
    """``x``, of which there is no derivative: what is kept in few bits has lost it, and would pass as a constant."""
    return x


@_once.defjvp
def _once_jvp(mode, primals, tangents):
    raise TypeError(f"Network: mode {mode!r} has a first derivative only; for higher ones use mode 'exact'")


def _write(mode: str, cell: Cell, u: State) -> Any:
    return u if mode == "exact" else jax.tree.map(_NARROW[mode][0], cell.encode(u))


def _read(mode: str, cell: Cell, kept: Any, like: State) -> State:
    if mode == "exact":
        return kept
    return cell.decode(jax.tree.map(lambda k, u: _NARROW[mode][1](k, u.dtype), kept, like))


def _to_half(x: jax.Array) -> jax.Array:
    if jnp.finfo(x.dtype).bits <= 16:
        return x
    # to the nearest, but never to a zero of the other side: the sign may be the spike
    tiny = jnp.asarray(-jnp.finfo(jnp.bfloat16).tiny, x.dtype)
    x = jnp.where((x < 0) & (x > tiny), tiny, x)
    # as an integer: compilers for processors that do not compute in bfloat16 would keep a float32 copy beside it
    return jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)


def _from_half(kept: jax.Array, dtype: Any) -> jax.Array:
    return kept if kept.dtype == dtype else jax.lax.bitcast_convert_type(kept, jnp.bfloat16).astype(dtype)


# A byte holds the sign, 3 bits of exponent and 4 of mantissa: magnitudes from 1/32 to just below 8, within 1/32 of
# themselves. What is smaller or larger is moved to the next of these.
_SHIFT, _LEAST = 19, (127 - 5) << 4


def _to_byte(x: jax.Array) -> jax.Array:
    size = jnp.clip(jnp.abs(x.astype(jnp.float32)), 2**-5, 7.75)
    bits = jax.lax.bitcast_convert_type(size, jnp.uint32) + jnp.uint32(1 << (_SHIFT - 1))  # to the nearest
    code = (bits >> _SHIFT) - jnp.uint32(_LEAST)
    return (code | ((x < 0).astype(jnp.uint32) << 7)).astype(jnp.uint8)


def _from_byte(kept: jax.Array, dtype: Any) -> jax.Array:
    bits = ((kept & jnp.uint8(127)).astype(jnp.uint32) + jnp.uint32(_LEAST)) << _SHIFT
    size = jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)
    return jnp.where(kept >> 7 > 0, -size, size)


_NARROW = {"half": (_to_half, _from_half), "8-bit": (_to_byte, _from_byte)}


def _window(tree: Any, start: Any, length: int) -> Any:
    """Some steps of a sequence, looked up where they are used, since another layout of it may be a copy."""
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, length), tree)


def _flat(tree: Any) -> Any:
    """The first two axes as one."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)


def _split(layer: Any) -> tuple[tuple[list, tuple[list, ...]], Callable]:
    """The arrays of a layer, those of the cell and of what else it has, and the function that builds it of such arrays.

    Python numbers stay what they are, constants.
    """
    cell, cell_of = _partition(layer.cell)
    names = ("weight", "recurrent", "bias")
    others, others_of = zip(*(_partition(getattr(layer, name)) for name in names), strict=True)

    def build(cell, others):
        built = {name: of(arrays) for name, of, arrays in zip(names, others_of, others, strict=True)}
        return new_unchecked(type(layer), {"cell": cell_of(cell), **built})

    return (cell, others), build


def _partition(tree: Any) -> tuple[list, Callable]:
    leaves, structure = jax.tree.flatten(tree)
    is_array = [isinstance(leaf, (jax.Array, np.ndarray, np.generic)) for leaf in leaves]
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    constants = [None if array else leaf for leaf, array in zip(leaves, is_array, strict=True)]

    def merge(arrays):
        given = iter(arrays)
        return structure.unflatten([next(given) if array else c for c, array in zip(constants, is_array, strict=True)])

    return arrays, merge
