"""One layer over one chunk of steps, forward and back.

A layer is used as eight functions, each with the arrays that it closes over as an argument (see ``_functions``):

=========  ======================================  ==============================================
weight     inputs -> ``W x``                       waits for nothing
bias       ``W x`` -> ``W x + b``                  waits for nothing
recurrent  output -> ``R s``                       waits for the step before, in the forward pass
integrate  state, current -> pre-spike state       waits for the step before
fire       pre-spike state, keys -> state, output  elementwise; keys of spikes that are drawn, or None
encode     pre-spike state -> distance, rest       elementwise; see ``_storage``
decode     distance, rest -> pre-spike state       elementwise
at_rest    rest -> distance of a neuron at rest    elementwise; see ``_storage``
=========  ======================================  ==============================================

What waits for nothing is computed for all steps of a chunk at once, as one product of ``(chunk, batch, inputs)`` and a
matrix. The backward pass has two phases. Step by step, from the last one, it computes the cotangents of states and
currents; for these only the transposed recurrent product must wait. Then, for the chunk as a whole, it computes the
gradients of the weights, each a sum over all steps and examples, and the cotangents of the inputs.

A convolution is no matrix product: many steps of it at once are no faster, take more memory, and would merge the axis
of the examples, over which devices may share the work, with that of the steps. A layer that contains one takes its
products step by step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from .._checks import is_float
from .._compat import contract_leading, zeros_like
from .._surrogate import forwards
from ..neurons import State, says_how_to_encode
from . import _storage
from ._convolution import canonical, has_convolution
from ._functions import Arrays, close, pullback
from ._layer import (
    Layer,
    LayerState,
    example_keys,
    fire,
    keys_of,
    matrix_of,
    plus_bias,
    times_matrix,
    times_weight,
)
from ._masks import Masks, cut_off, tree_keep, tree_where

Gradients: TypeAlias = dict[str, Any]
"""By function, a gradient for each of its arrays; None for integers."""


_PRODUCTS = ("weight", "recurrent", "bias")
GRADIENTS = (*_PRODUCTS, "integrate", "fire")
"""The functions whose arrays get a gradient."""
KEYS = "threefry2x32"
"""The kind of key: one whose numbers are the same whatever is drawn beside them."""


class TracedLayer(NamedTuple):
    """A layer as equations. A function that a layer has not is missing."""

    calls: dict[str, Callable]
    matrices: frozenset[str]
    """The products with a matrix."""
    convolutional: frozenset[str]
    """The functions that contain a convolution."""
    encoded: Any
    """Shapes and dtypes of what ``encode`` returns; None if the cell has none."""
    beyond_sign: bool
    """Whether spikes depend on more of the distance to the threshold than its sign."""
    number: int
    """The layer's own, counted from the inputs."""
    examples: int | None
    """For how many examples it draws spikes, if it does."""

    @property
    def per_step(self) -> bool:
        """Whether products are taken step by step."""
        return bool(self.convolutional)


def trace(
    layer: Layer, x: jax.Array, state: Any, number: int, key: jax.Array | None, examples: int | None
) -> tuple[TracedLayer, dict[str, Arrays], Any]:
    """The layer, its arrays, and a pre-spike state that it can have: made of the inputs and the state of one step.

    Where spikes are drawn, the key is one of the arrays.
    """
    calls, arrays, matrices, convolutional = {}, {}, set(), set()

    def add(name, function, *example):
        calls[name], arrays[name], jaxpr = close(function, *example)
        if has_convolution(jaxpr):
            convolutional.add(name)

    v, out = state
    current = layer.current(x, out)
    for name, given in (("weight", x), ("recurrent", out)):
        weight = getattr(layer, name)
        if weight is None:
            continue
        if (matrix := matrix_of(weight)) is not None and is_float(matrix):
            dtype = matrix.dtype if name == "weight" else current.dtype
            calls[name], arrays[name] = functools.partial(_matrix_product, dtype), [jnp.asarray(matrix)]
            matrices.add(name)
        elif name == "weight":
            add(name, lambda x: times_weight(layer, x), given)
        else:
            add(name, lambda out: layer.feedback(out).astype(current.dtype), given)
    add("bias", lambda product: plus_bias(layer, product).astype(current.dtype), times_weight(layer, x))
    add("integrate", layer.cell.integrate, v, current)
    u = jax.lax.stop_gradient(layer.cell.integrate(v, zeros_like(current)))
    keys = keys_of(layer, key, number, examples)
    if key is not None and keys is not None:
        arrays["key"] = [key]
    add("fire", lambda u, keys: fire(layer.cell, u, keys), u, keys)
    encoded = None
    if says_how_to_encode(layer.cell):
        add("encode", layer.cell.encode, u)
        encoded = layer.cell.encode(u)
        add("decode", layer.cell.decode, *encoded)
        if encoded[0] is not None:
            add("at_rest", _storage.distance_at_rest(layer.cell, encoded), encoded[1])
        encoded = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), encoded)
    beyond_sign = any(forward.beyond_sign for forward in forwards(layer.cell))
    traced = TracedLayer(calls, frozenset(matrices), frozenset(convolutional), encoded, beyond_sign, number, examples)
    return traced, arrays, u


def _matrix_product(dtype, arrays, x):
    return times_matrix(x, arrays[0]).astype(dtype)


class LayerVjp:
    """A traced layer with its arrays."""

    def __init__(self, traced: TracedLayer, arrays: dict[str, Arrays], unroll: int, low_memory: bool = False) -> None:
        self.traced, self.arrays, self.unroll, self.low_memory = traced, arrays, unroll, low_memory
        self.recurrent = "recurrent" in arrays
        self.stepwise = ("fire", "integrate", *(_PRODUCTS if traced.per_step else ()))  # gradients added step by step

    @property
    def _at_rest(self):
        return functools.partial(self.call, "at_rest") if "at_rest" in self.arrays else None

    def call(self, name: str, *args: Any) -> Any:
        function = self.traced.calls[name]
        if name in self.traced.convolutional:
            function = canonical(function)
        return function(self.arrays[name], *args)

    def call_chunk(self, name: str, *args: Any) -> Any:
        return self._over_chunk(name, len(args))(self.arrays[name], *args)

    def _over_chunk(self, name, count=1):
        return jax.vmap(self.traced.calls[name], in_axes=(None, *[0] * count))

    def _pull(self, name, cotangent, *args):
        """Cotangents of the arrays of a function, and of its arguments, in one step."""
        back = functools.partial(pullback, self.traced.calls[name])
        if name in self.traced.convolutional:
            back = canonical(back)  # the derivative of a convolution is another one
        return back(cotangent, self.arrays[name], *args)

    def fire(self, u: State, number: Any) -> LayerState:
        """State and output after a step, of which the number matters where spikes are drawn."""
        return self.call("fire", u, self._keys(number))

    def _keys(self, number):
        if "key" not in self.arrays:
            return None
        draw = functools.partial(jax.random.fold_in, self.arrays["key"][0])
        step_key = jax.vmap(draw)(number) if number.ndim else draw(number)
        return example_keys(step_key, self.traced.number, self.traced.examples)

    def store(self, mode: str, u: State, number: Any) -> Any:
        """What is kept of a pre-spike state."""
        encoded = None if mode == "exact" or self.traced.encoded is None else self.call("encode", u)
        kept = _storage.write(mode, encoded, u, self._at_rest)
        if encoded is None or not self.traced.beyond_sign:
            return kept
        spikes = self.fire(u, number)[1]

        def same(kept):
            return self.fire(self.load(mode, kept), number)[1] == spikes

        return _storage.settle(kept, same)

    def load(self, mode: str, kept: Any) -> State:
        """The pre-spike state again."""
        if mode == "exact" or self.traced.encoded is None:
            return kept
        return self.call("decode", *_storage.read(mode, kept, self.traced.encoded, self._at_rest))

    def forward(self, u: State, state: LayerState, x: jax.Array, masks: Masks, mode: str | None, pre_spike: bool):
        """Pre-spike state and state after the chunk; of each step the output, the pre-spike state, what is kept.

        The last two are None if not asked for: without a ``mode``, nothing is kept.
        """
        per_step = self.traced.per_step

        def step(carry, now):
            given, mask = now
            v, out = cut_off(mask, carry[1])  # for derivatives of the second order: this pass is differentiated then
            current = self.call("bias", self.call("weight", given)) if per_step else given
            if self.recurrent:
                current = current + self.call("recurrent", out)
            u = self.call("integrate", v, current)
            u, state = carry = tree_where(mask.active, (u, self.fire(u, mask.number)), carry)
            shown = tree_keep(mask.active, u) if pre_spike else None
            kept = None if mode is None else self.store(mode, u, mask.number)
            return carry, (tree_keep(mask.active, state[1]), shown, kept)

        given = x if per_step else self.call_chunk("bias", self.call_chunk("weight", x))
        return jax.lax.scan(step, (u, state), (given, masks), unroll=min(self.unroll, len(x)))

    def backward_steps(self, ct_end: Any, grads: Gradients, cts: Any, befores: LayerState, x: Any, load, masks: Masks):
        """Phase 1: cotangents of the state before the chunk, gradients added up, and a cotangent of each step.

        The latter is that of the current, or if the layer takes its products step by step that of the inputs.
        """
        per_step = self.traced.per_step
        given = x
        if not per_step:
            given = self.call_chunk("bias", self.call_chunk("weight", x))
            if self.recurrent:
                given = given + self.call_chunk("recurrent", befores[1])

        def step(carry, now):
            ct_state, grads = carry
            t, (ct_out, ct_shown), (v, out), given, mask = now
            new = {}
            ct_v, ct_fed = tree_keep(mask.active, ct_state)
            if ct_out is not None:
                ct_fed = ct_fed + tree_keep(mask.active, ct_out)
            new["fire"], ct_u, _ = self._pull("fire", (ct_v, ct_fed), load(t), self._keys(mask.number))
            if ct_shown is not None:
                ct_u = jax.tree.map(jnp.add, ct_u, tree_keep(mask.active, ct_shown))
            current = product = given
            if per_step:
                product = self.call("weight", given)
                current = self.call("bias", product)
                if self.recurrent:
                    current = current + self.call("recurrent", out)
            new["integrate"], ct_v, ct_current = self._pull("integrate", ct_u, v, current)
            ct_out = zeros_like(out)
            if self.recurrent:
                new["recurrent"], ct_out = self._pull("recurrent", ct_current, out)
            ct_step = ct_current
            if per_step:
                new["bias"], ct_product = self._pull("bias", ct_current, product)
                new["weight"], ct_step = self._pull("weight", ct_product, given)
            ct_before = ct_v, ct_out
            if mask.cut is not None:
                ct_before = tree_keep(~mask.cut, ct_before)
            if mask.active is not None:
                ct_before = jax.tree.map(jnp.add, ct_before, tree_keep(~mask.active, ct_state))
            return (ct_before, _plus(grads, {name: new[name] for name in grads})), ct_step

        some = {name: grads[name] for name in self.stepwise if name in grads}
        xs = jnp.arange(len(masks.started)), cts, befores, given, masks
        (ct_start, some), ct_steps = jax.lax.scan(
            step, (ct_end, some), xs, reverse=True, unroll=min(self.unroll, len(masks.started))
        )
        return ct_start, {**grads, **some}, ct_steps

    def backward_recurrent(self, grads: Gradients, outs: jax.Array, ct_currents: jax.Array) -> Gradients:
        """Phase 2: add the gradients of the recurrent weights."""
        if not self.recurrent or self.traced.per_step:
            return grads
        return {**grads, "recurrent": self._add("recurrent", grads["recurrent"], outs, ct_currents)[0]}

    def backward_weight(self, grads: Gradients, x: jax.Array, ct_steps: jax.Array) -> tuple[Gradients, Any]:
        """Phase 2: add the gradients of the other weights; the cotangent of the inputs."""
        if self.traced.per_step:
            return grads, ct_steps
        product = self.call_chunk("weight", x)
        bias, ct_product = pullback(self._over_chunk("bias"), ct_steps, self.arrays["bias"], product)
        weight, ct_x = self._add("weight", grads["weight"], x, ct_product)
        return {**grads, "weight": weight, "bias": _plus(grads["bias"], bias)}, ct_x

    def _add(self, name, grad, x, ct):
        """The gradient of the arrays of a product, added to another, and the cotangent of its inputs."""
        new, ct_x = pullback(self._over_chunk(name), ct, self.arrays[name], x)
        if name not in self.traced.matrices:
            return _plus(grad, new), ct_x
        add = _add_in_parts if self.low_memory else _add_product
        return [add(grad[0], self.arrays[name][0], x, ct)], ct_x


def _plus(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _add_product(grad: jax.Array, matrix: jax.Array, x: jax.Array, ct: jax.Array) -> jax.Array:
    """``grad`` plus the sum of ``x^T ct`` over all leading axes, which stay apart as in ``times_matrix``."""
    return grad + contract_leading(x.astype(matrix.dtype), ct.astype(matrix.dtype), like=matrix)


def _add_in_parts(grad: jax.Array, matrix: jax.Array, x: jax.Array, ct: jax.Array) -> jax.Array:
    """The same. A large product is made a part at a time, which takes room for a part, and a little more time."""
    parts = math.gcd(len(grad), 4 if grad.size >= 1 << 20 else 2 if grad.size >= 1 << 18 else 1)
    if parts == 1:
        return _add_product(grad, matrix, x, ct)
    rows = len(grad) // parts

    def add(i, grad):
        part, some = (jax.lax.dynamic_slice_in_dim(a, i * rows, rows) for a in (grad, matrix))
        part = _add_product(part, some, jax.lax.dynamic_slice_in_dim(x, i * rows, rows, axis=-1), ct)
        return jax.lax.dynamic_update_slice_in_dim(grad, part, i * rows, axis=0)

    return jax.lax.fori_loop(0, parts, add, grad)
