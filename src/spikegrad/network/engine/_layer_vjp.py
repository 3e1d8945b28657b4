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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ..._checks import is_float
from ..._compat import contract_leading, in_reverse_mode_alone, zeros_like
from ..._pytree import is_inexact
from ..._surrogate import spike_types
from ...neurons import State, says_how_to_encode
from .._layer import Layer, matrix_of, plus_bias, times_matrix, times_weight
from .._masks import Masks, tree_where
from .._step import LayerState, examples_of, fire, is_stochastic, keys_of, layer_step
from .._storage import Storage, distance_at_rest
from ._convolution import canonical, has_convolution
from ._functions import Arrays, close, pullback

Gradients: TypeAlias = dict[str, Any]
"""By function, a gradient for each of its arrays; None for integers."""


_PRODUCTS = ("weight", "recurrent", "bias")
GRADIENTS = (*_PRODUCTS, "integrate", "fire")
"""The functions whose arrays get a gradient."""


class TracedLayer(NamedTuple):
    """A layer as equations. A function that a layer has not is missing."""

    calls: dict[str, Callable]
    matrices: frozenset[str]
    """The products with a matrix."""
    per_step: bool
    """If True, the layer contains a convolution and computes its products step by step."""
    encoded: Any
    """Shapes and dtypes of what ``encode`` returns; None if the cell has none."""
    needs_magnitude: bool
    """Whether spikes depend on more of the distance to the threshold than its sign."""
    number: int
    """The layer's own, counted from the inputs."""
    examples: int | None
    """For how many examples it draws spikes, if it does."""


def trace(
    layer: Layer, x: jax.Array, state: Any, number: int, key: jax.Array | None, examples: int | None
) -> tuple[TracedLayer, dict[str, Arrays], Any]:
    """The layer, its arrays, and a pre-spike state that it can have: made of the inputs and the state of one step.

    Where spikes are drawn, the key is one of the arrays.
    """
    calls, arrays, matrices, convolutional = {}, {}, set(), []

    def add(name, function, *example):
        calls[name], arrays[name], jaxpr = close(function, *example)
        convolutional.append(has_convolution(jaxpr))

    v, out = state
    current = layer.current(x, out)  # for its dtype: that of the sum of both products
    for name, given in (("weight", x), ("recurrent", out)):
        weight = getattr(layer, name)
        if weight is None:
            continue
        if (matrix := matrix_of(weight)) is not None and is_float(matrix):
            # A known matrix is not traced. Its gradient is added in place, as one product per chunk (see ``_add``).
            dtype = matrix.dtype if name == "weight" else current.dtype
            calls[name], arrays[name] = functools.partial(_matrix_product, dtype), [jnp.asarray(matrix)]
            matrices.add(name)
        elif name == "weight":
            add(name, lambda x: times_weight(layer, x), given)
        else:
            add(name, lambda out: layer.feedback(out).astype(current.dtype), given)
    add("bias", lambda product: plus_bias(layer, product).astype(current.dtype), times_weight(layer, x))
    add("integrate", layer.cell.integrate, v, current)
    # The loop carries the last pre-spike state, so it needs a first value. No step reads it (``Masks.started``).
    u = jax.lax.stop_gradient(layer.cell.integrate(v, zeros_like(current)))
    keys = None
    if key is not None and is_stochastic(layer.cell):
        arrays["key"], keys = [key], keys_of(key, None, number, examples)
    add("fire", lambda u, keys: fire(layer.cell, u, keys), u, keys)
    encoded = None
    if says_how_to_encode(layer.cell):
        add("encode", layer.cell.encode, u)
        encoded = layer.cell.encode(u)
        add("decode", layer.cell.decode, *encoded)
        if encoded[0] is not None:
            add("at_rest", distance_at_rest(layer.cell, encoded), encoded[1])
        encoded = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), encoded)
    needs_magnitude = any(kind.needs_magnitude for kind in spike_types(layer.cell))
    traced = TracedLayer(calls, frozenset(matrices), any(convolutional), encoded, needs_magnitude, number, examples)
    return traced, arrays, u


def trace_all(
    layers: Sequence[Layer], x: jax.Array, states: Sequence[LayerState], key: jax.Array | None
) -> list[tuple[TracedLayer, dict[str, Arrays], Any]]:
    """Trace each layer, from the lowest. ``x`` are the inputs of one step, ``(batch, inputs)``."""
    inputs = [x, *(out for _, out in states[:-1])]
    return [
        trace(layer, given, state, n, key, examples_of(x))
        for n, (layer, given, state) in enumerate(zip(layers, inputs, states, strict=True))
    ]


def _matrix_product(dtype, arrays, x):
    return times_matrix(x, arrays[0]).astype(dtype)


class LayerVjp:
    """A traced layer with its arrays."""

    def __init__(self, traced: TracedLayer, arrays: dict[str, Arrays], unroll: int, low_memory: bool = False) -> None:
        self.traced, self.arrays, self.unroll, self.low_memory = traced, arrays, unroll, low_memory
        self.recurrent = "recurrent" in arrays
        # Phase 1 adds the gradients of these functions step by step. Phase 2 adds the others, a chunk at a time.
        self.stepwise = ("fire", "integrate", *(_PRODUCTS if traced.per_step else ()))

    def with_arrays(self, arrays: dict[str, Arrays]) -> LayerVjp:
        return LayerVjp(self.traced, {**self.arrays, **arrays}, self.unroll, self.low_memory)

    @property
    def _at_rest(self):
        return functools.partial(self.call, "at_rest") if "at_rest" in self.arrays else None

    def call(self, name: str, *args: Any) -> Any:
        return self.traced.calls[name](self.arrays[name], *args)

    def call_chunk(self, name: str, *args: Any) -> Any:
        return self._over_chunk(name, len(args))(self.arrays[name], *args)

    def _over_chunk(self, name, count=1):
        # vmap over the steps of a chunk: (chunk, batch, inputs) -> (chunk, batch, neurons). All steps share the arrays.
        return jax.vmap(self.traced.calls[name], in_axes=(None, *[0] * count))

    def fast(self, step: Callable) -> Callable:
        """Convert the convolutions of a step to the form that is fast inside a loop."""
        return canonical(step) if self.traced.per_step else step

    def drive(self, x: jax.Array) -> jax.Array:
        """The part of the current that does not depend on the layer's own spikes, ``W x + b`` of one step."""
        return self.call("bias", self.call("weight", x))

    def current(self, drive: jax.Array, out: jax.Array) -> jax.Array:
        return drive + self.call("recurrent", out) if self.recurrent else drive

    def integrate(self, v: State, current: jax.Array) -> State:
        return self.call("integrate", v, current)

    def fire(self, u: State, number: Any) -> LayerState:
        """State and output after a step, of which the number matters where spikes are drawn."""
        key = self.arrays.get("key")
        keys = None if key is None else keys_of(key[0], number, self.traced.number, self.traced.examples)
        return self.call("fire", u, keys)

    def store(self, storage: Storage, u: State, number: Any) -> Any:
        """What is kept of a pre-spike state."""
        if not storage.encodes or self.traced.encoded is None:
            return u
        kept = storage.write(self.call("encode", u), self._at_rest)
        # A step depends only on the sign of the distance, and every storage preserves signs. Graded and stochastic
        # spikes depend on its value, so the stored value may have to move for the backward pass to fire the same
        # spikes.
        if not self.traced.needs_magnitude:
            return kept
        spikes = self.fire(u, number)[1]
        return storage.settle(kept, lambda kept: self.fire(self.load(storage, kept), number)[1] == spikes)

    def load(self, storage: Storage, kept: Any) -> State:
        """The pre-spike state again."""
        if not storage.encodes or self.traced.encoded is None:
            return kept
        return self.call("decode", *storage.read(kept, self.traced.encoded, self._at_rest))

    def forward(
        self, u: State, state: LayerState, x: jax.Array, masks: Masks, storage: Storage | None, pre_spike: bool
    ):
        """Pre-spike state and state after the chunk; of each step the output, the pre-spike state, what is kept.

        The last two are None if not asked for: without a ``storage``, nothing is kept.
        """
        per_step = self.traced.per_step

        # Scan over the steps of a chunk. Carry: ``u``, ``v`` and ``out``, each (batch, neurons). Slices: the drive
        # (batch, neurons), or the inputs (batch, ...) if ``per_step``, and the masks of the step.
        def step(carry, now):
            u, state = carry
            given, mask = now
            state, out, new = layer_step(self, state, self.drive(given) if per_step else given, mask)
            u = tree_where(mask.active, new, u)  # held like the state: the backward pass rebuilds the state from it
            kept = None if storage is None else self.store(storage, u, mask.number)
            return (u, state), (out, new if pre_spike else None, kept)

        given = x if per_step else self.call_chunk("bias", self.call_chunk("weight", x))
        return jax.lax.scan(self.fast(step), (u, state), (given, masks), unroll=min(self.unroll, len(x)))

    def backward_steps(self, ct_end: Any, grads: Gradients, cts: Any, befores: LayerState, x: Any, load, masks: Masks):
        """Phase 1: cotangents of the state before the chunk, gradients added up, and a cotangent of each step.

        The latter is that of the current, or if the layer takes its products step by step that of the inputs.
        """
        per_step = self.traced.per_step
        given, known = x, False
        # The derivative of ``integrate`` needs the current of the forward pass. The outputs of the whole chunk are
        # known here, so one product of (chunk, batch, inputs) and a matrix computes the currents of all steps.
        if not per_step:
            given = self.call_chunk("bias", self.call_chunk("weight", x))
            if self.recurrent:
                given, known = given + self.call_chunk("recurrent", befores[1]), True

        # Scan over the steps of a chunk, from last to first. Carry: the cotangents of the state after the step, each
        # (batch, neurons), and the accumulated gradients of ``stepwise``, in the shapes of their arrays. Slices: the
        # cotangents of output and pre-spike state, the state before the step and ``given``, each (batch, neurons).
        def step(carry, now):
            ct_state, grads = carry
            t, (ct_out, ct_shown), before, given, mask = now
            u = load(t)

            # This is the step of the forward pass, but only its derivative is used. ``_Rebuilt`` replaces the computed
            # values by known ones, so XLA removes their computation. Only the transposed recurrent product remains
            # sequential (Appleyard, Kocisky, Blunsom 2016).
            def again(arrays, state, given):
                layer = _Rebuilt(self.with_arrays(arrays), u, given if known else None)
                new = layer_step(layer, state, layer.layer.drive(given) if per_step else given, mask)
                return new.state, None if ct_out is None else new.output, None if ct_shown is None else new.pre_spike

            mine = {name: self.arrays[name] for name in grads}
            new, ct_before, ct_step = pullback(again, (ct_state, ct_out, ct_shown), mine, before, given)
            return (ct_before, _plus(grads, new)), ct_step

        some = {name: grads[name] for name in self.stepwise if name in grads}
        xs = jnp.arange(len(masks.started)), cts, befores, given, masks
        (ct_start, some), ct_steps = jax.lax.scan(
            self.fast(step), (ct_end, some), xs, reverse=True, unroll=min(self.unroll, len(masks.started))
        )
        return ct_start, {**grads, **some}, ct_steps

    def backward_recurrent(self, grads: Gradients, outs: jax.Array, ct_currents: jax.Array) -> Gradients:
        """Phase 2: add the gradients of the recurrent weights."""
        # outs: outputs one step before each step of the chunk. Both arrays are (chunk, batch, neurons).
        if not self.recurrent or self.traced.per_step:
            return grads
        return {**grads, "recurrent": self._add("recurrent", grads["recurrent"], outs, ct_currents)[0]}

    def backward_weight(self, grads: Gradients, x: jax.Array, ct_steps: jax.Array) -> tuple[Gradients, Any]:
        """Phase 2: add the gradients of the other weights; the cotangent of the inputs."""
        if self.traced.per_step:
            return grads, ct_steps
        # All arrays are (chunk, batch, ...). One product per weight sums over steps and examples.
        product = self.call_chunk("weight", x)
        bias, ct_product = pullback(self._over_chunk("bias"), ct_steps, self.arrays["bias"], product)
        weight, ct_x = self._add("weight", grads["weight"], x, ct_product)
        return {**grads, "weight": weight, "bias": _plus(grads["bias"], bias)}, ct_x

    def _add(self, name, grad, x, ct):
        """The gradient of the arrays of a product, added to another, and the cotangent of its inputs."""
        new, ct_x = pullback(self._over_chunk(name), ct, self.arrays[name], x)
        # For a matrix, ``new`` is unused and XLA removes it. ``add`` computes the same product and adds it in place, in
        # parts if memory is scarce.
        if name not in self.traced.matrices:
            return _plus(grad, new), ct_x
        add = _add_in_parts if self.low_memory else _add_product
        return [add(grad[0], self.arrays[name][0], x, ct)], ct_x


class _Rebuilt(NamedTuple):
    """A layer in the backward pass, with known values of the pre-spike state and the current."""

    layer: LayerVjp
    u: State
    known_current: jax.Array | None

    def current(self, drive: jax.Array, out: jax.Array) -> jax.Array:
        current = self.layer.current(drive, _summed(out))
        return current if self.known_current is None else _known(self.known_current, current)

    def integrate(self, v: State, current: jax.Array) -> State:
        return jax.tree.map(_known, self.u, self.layer.integrate(_summed(v), current))

    def fire(self, u: State, number: Any) -> LayerState:
        return _summed(self.layer.fire(_summed(u), number))


# Identity, whose cotangents are summed before JAX passes them on. It fixes the order of sums in the backward pass, so
# rounding does not depend on the number of times that a function of a cell uses its argument.
_summed = functools.partial(in_reverse_mode_alone, "Network: the backward pass has no forward mode")


def _known(value: jax.Array, computed: jax.Array) -> jax.Array:
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


def _plus(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _add_product(grad: jax.Array, matrix: jax.Array, x: jax.Array, ct: jax.Array) -> jax.Array:
    """``grad`` plus the sum of ``x^T ct`` over all leading axes, which stay apart as in ``times_matrix``."""
    return grad + contract_leading(x.astype(matrix.dtype), ct.astype(matrix.dtype), like=matrix)


def _add_in_parts(grad: jax.Array, matrix: jax.Array, x: jax.Array, ct: jax.Array) -> jax.Array:
    """The same. A large product is made a part at a time, which takes room for a part, and a little more time."""
    # Smaller matrices are done at once, because their temporary is small beside the residuals.
    parts = math.gcd(len(grad), 4 if grad.size >= 1 << 20 else 2 if grad.size >= 1 << 18 else 1)
    if parts == 1:
        return _add_product(grad, matrix, x, ct)
    rows = len(grad) // parts

    # Carry: the gradient (inputs, neurons). Each iteration updates ``rows`` rows and needs a temporary (rows, neurons).
    def add(i, grad):
        part, some = (jax.lax.dynamic_slice_in_dim(a, i * rows, rows) for a in (grad, matrix))
        part = _add_product(part, some, jax.lax.dynamic_slice_in_dim(x, i * rows, rows, axis=-1), ct)
        return jax.lax.dynamic_update_slice_in_dim(grad, part, i * rows, axis=0)

    return jax.lax.fori_loop(0, parts, add, grad)
