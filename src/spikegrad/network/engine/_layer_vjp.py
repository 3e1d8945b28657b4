"""Layers and joins as equations, over one chunk of steps.

A layer consists of these functions. Each takes the arrays that it closes over as an argument (see
``_functions``):

=========  ======================================  ===========================================
a label    read of an edge -> ``W x``              one for each edge, such as ``recurrent``
bias       ``W x`` -> ``W x + b``                  on the first edge outside loops
integrate  state, current -> pre-spike state       depends on the previous step
fire       pre-spike state, keys -> state, output  elementwise; keys of stochastic spikes, or None
encode     pre-spike state -> distance, rest       elementwise, see ``_storage``
decode     distance, rest -> pre-spike state       elementwise
at_rest    rest -> distance of a neuron at rest    elementwise, see ``_storage``
=========  ======================================  ===========================================

Products that do not depend on earlier steps are computed for a chunk at once, as one product of
``(chunk, batch, inputs)`` and a matrix. The gradient of a weight is a sum over steps and examples.
It is also computed for a chunk at once, after the steps (see ``_component``).

A convolution is not a matrix product. Many steps of it together are not faster and take more
memory. They would also merge the axis of examples with the axis of steps, and devices may shard the
examples. So a layer with a convolution computes its products step by step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ..._checks import is_float
from ..._compat import contract_leading, zeros_like
from ..._pytree import PyTree
from ..._surrogate import spike_types
from ...neurons import State, says_how_to_encode
from .._connections import Join, Name, Read, matrix_of, product
from .._graph import Graph
from .._layer import plus_bias, sum_of
from .._step import LayerState, examples_of, fire, keys_of
from .._storage import Storage, distance_at_rest
from ._convolution import canonical, has_convolution
from ._functions import Arrays, close, pullback

Gradients: TypeAlias = dict[str, Arrays]
"""Gradients by function, one for each of its arrays. None for integers."""


WITHOUT_GRADIENT = {"encode", "decode", "at_rest", "key"}
"""Functions with arrays that do not get a gradient."""
DRIVE = ""
"""The label of the current from edges outside loops."""


class JoinVjp(NamedTuple):
    """A join as equations, with its arrays."""

    arrays: dict[str, Arrays]
    call: Callable
    per_step: bool
    """If True, it contains a convolution. It then runs step by step, because XLA would merge the
    axes of steps and examples.
    """

    # A join between the layers of a loop runs in the steps, and the loop over steps adds its
    # gradients, as for a layer.
    stepwise = ("function",)

    def function(self, reads: dict[str, Read]) -> jax.Array:
        return self.call(self.arrays["function"], reads)

    def over_chunk(self, reads: dict[str, Read]) -> jax.Array:
        """Return the outputs of a chunk, ``(chunk, batch, ...)``."""
        if self.per_step:
            return jax.lax.map(canonical(self.function), reads)
        return self._at_once(self.arrays["function"], reads)

    @property
    def _at_once(self):
        # vmap over the steps: (chunk, batch, ...) -> (chunk, batch, ...). All steps share the
        # arrays.
        return jax.vmap(self.call, in_axes=(None, 0))

    def backward(
        self, grads: Gradients, reads: dict[str, Read], ct: jax.Array
    ) -> tuple[Gradients, dict[str, Read]]:
        """Add the gradients of a chunk, and return the cotangents of its reads."""
        arrays = self.arrays["function"]

        # reads and ct: (chunk, batch, ...), or (batch, ...) in a step. A join has no state, so one
        # pullback can cover all steps. Otherwise the scan carries the gradients. The derivative is
        # taken within its body, because only then ``canonical`` includes the convolutions of the
        # derivative.
        def add(call, grads, now):
            new, ct_reads = pullback(call, now[0], arrays, now[1])
            return plus(grads, new), ct_reads

        if self.per_step:
            step = canonical(functools.partial(add, self.call))
            total, ct_reads = jax.lax.scan(
                step, grads["function"], (ct, reads), reverse=True
            )
        else:
            total, ct_reads = add(self._at_once, grads["function"], (ct, reads))
        return {"function": total}, ct_reads


class LayerVjp(NamedTuple):
    """A layer as equations, with its arrays. Missing functions are left out."""

    arrays: dict[str, Arrays]
    calls: dict[str, Callable]
    outside: tuple[str, ...]
    """The labels of the edges outside loops, in the order of the sum of products."""
    inside: tuple[str, ...]
    """The labels of the edges within a loop. They follow in the sum."""
    began: jax.ShapeDtypeStruct
    """The type of the first product. Zeros of it replace the product if all edges are within loops.
    """
    matrices: frozenset[str]
    """The labels of products with a matrix."""
    per_step: bool
    """If True, the layer contains a convolution and computes its products step by step."""
    encoded: PyTree
    """Shapes and dtypes of the result of ``encode``. None if the cell does not define it."""
    needs_magnitude: bool
    """If True, spikes depend on the value of the distance to the threshold, besides its sign."""
    graded: bool
    """If True, outputs are real numbers instead of counts."""
    number: int
    """The number of the layer, used for its keys."""
    examples: int | None
    """The number of examples, for stochastic spikes."""
    low_memory: bool = False
    """If True, the gradients of large matrices are added in parts."""

    @property
    def stepwise(self) -> tuple[str, ...]:
        """The functions whose gradients the loop over steps adds.

        All other gradients are added once per chunk.
        """
        products = (*self.outside, *self.inside, "bias") if self.per_step else ()
        return "fire", "integrate", *products

    def call(self, name: str, *args: PyTree) -> PyTree:
        return self.calls[name](self.arrays[name], *args)

    def call_chunk(self, name: str, x: Read) -> jax.Array:
        return self._over_chunk(name)(self.arrays[name], x)

    def _over_chunk(self, name):
        # vmap over the steps of a chunk: (chunk, batch, inputs) -> (chunk, batch, neurons). All
        # steps share the arrays.
        return jax.vmap(self.calls[name], in_axes=(None, 0))

    def _first(self, call, reads, chunk=()):
        """Return the product to which the bias is added, for one step or for a chunk."""
        # (batch, neurons), or (chunk, batch, neurons)
        for label in self.outside[:1]:
            return call(label, reads[label])
        return jnp.zeros((*chunk, *self.began.shape), self.began.dtype)

    def drive(
        self, call: Callable, reads: dict[str, Read], chunk: tuple[int, ...] = ()
    ) -> jax.Array:
        """Return the current from edges outside loops, ``W x + b``, for one step or a chunk."""
        # The bias is added to the first product, before the other products, so the order of the sum
        # is equal in all modes.
        total = call("bias", self._first(call, reads, chunk))
        for label in self.outside[1:]:
            total = total + call(label, reads[label])
        return total

    def hoisted(self, reads: dict[str, Read], chunk: int) -> dict[str, Read]:
        """Return the arguments of the steps of a chunk: products, or their inputs if
        ``per_step``."""
        if self.per_step:
            return reads
        # A product within a loop is hoisted too if its source is at least a chunk behind. These
        # products stay separate from the drive, because the sum must keep its order.
        looped = [label for label in reads if label in self.inside]
        return {
            DRIVE: self.drive(self.call_chunk, reads, (chunk,)),
            **{label: self.call_chunk(label, reads[label]) for label in looped},
        }

    def current(self, arguments: tuple, call: Callable | None = None) -> jax.Array:
        """Return the current, from hoisted products and the reads of one step, or of a chunk with
        ``call_chunk``.
        """
        hoisted, reads = arguments
        call = self.call if call is None else call
        if DRIVE not in hoisted:  # products step by step
            reads = {**hoisted, **reads}
            hoisted = {DRIVE: self.drive(call, reads)}
        # The order of the sum is the order of the edges in every mode. Rounding could otherwise
        # change a spike.
        total = hoisted[DRIVE]
        for label in self.inside:
            total = total + (
                hoisted[label] if label in hoisted else call(label, reads[label])
            )
        return total

    def integrate(self, v: State, current: jax.Array) -> State:
        return self.call("integrate", v, current)

    def fire(
        self, u: State, number: jax.Array | None, active: jax.Array | None = None
    ) -> LayerState:
        """Return state and output after a step. Only stochastic spikes depend on its number."""
        # Examples of a cell that couples them have one mask, see ``check_coupled``.
        del active
        # u: (batch, neurons). number: a scalar, or (batch,) with a mask per example. The backward
        # pass calls this again and draws equal spikes, because the keys depend only on these
        # numbers.
        keys = None
        for key in self.arrays.get("key", ()):
            keys = keys_of(key, number, self.number, self.examples)
        return self.call("fire", u, keys)

    @property
    def _at_rest(self):
        is_known = "at_rest" in self.calls
        return functools.partial(self.call, "at_rest") if is_known else None

    def store(self, storage: Storage, u: State, number: jax.Array | None) -> PyTree:
        """Return the residual of a pre-spike state."""
        # u, and both results of ``encode``: (batch, neurons). A cell without ``encode`` is stored
        # unchanged.
        if not storage.encodes or self.encoded is None:
            return u
        residual = storage.write(self.call("encode", u), self._at_rest)
        # A step depends only on the sign of the distance, and every storage preserves signs. Graded
        # and stochastic spikes depend on its value, so the stored value may have to move until the
        # backward pass fires these spikes too.
        if not self.needs_magnitude:
            return residual
        # Equal keys make both calls draw the same random numbers, so a difference comes from
        # rounding only.
        spikes = self.fire(u, number)[1]
        return storage.settle(
            residual, lambda code: self.outputs(storage, code, number) == spikes
        )

    def load(self, storage: Storage, residual: PyTree) -> State:
        """Restore the pre-spike state from its residual."""
        if not storage.encodes or self.encoded is None:
            return residual
        # ``encoded`` has the shapes and dtypes of the cell, because the stored arrays have fewer
        # bits.
        return self.call("decode", *storage.read(residual, self.encoded, self._at_rest))

    def outputs(
        self, storage: Storage, residual: PyTree, number: jax.Array | None
    ) -> jax.Array:
        """Return the outputs of a step from its residual."""
        return self.fire(self.load(storage, residual), number)[1]

    def is_rebuilt_exactly(self, storage: Storage) -> bool:
        """Return True if the residuals determine the outputs exactly, for example the spikes."""
        # A storage preserves the sign of the distance, which determines a spike. Graded outputs and
        # stochastic spikes depend on its value. A cell without a distance, such as a readout,
        # outputs other arrays. Both are rounded.
        if not storage.encodes or self.encoded is None:
            return True
        return not (self.encoded[0] is None or self.needs_magnitude or self.graded)

    def backward_looped(
        self, grads: Gradients, reads: dict[str, Read], ct_current: jax.Array
    ) -> Gradients:
        """Add the gradients of the weights within loops."""
        # read: (chunk, batch, inputs). ct_current: (chunk, batch, neurons). The steps have already
        # sent the cotangents of these reads to their sources, so only the gradients are used.
        return grads | {
            label: self._add(label, grads[label], read, ct_current)[0]
            for label, read in reads.items()
        }

    def backward_hoisted(
        self, grads: Gradients, reads: dict[str, Read], cts: dict[str, Read]
    ) -> tuple[Gradients, dict[str, Read]]:
        """Add the gradients of the hoisted weights, and return the cotangents of their reads."""
        if self.per_step:
            # The loop over steps has added these gradients, and ``cts`` belong to the reads.
            return grads, cts
        # All arrays are (chunk, batch, ...). One product per weight sums over steps and examples.
        # The first product also passes the bias, which may change its dtype.
        first = self._first(self.call_chunk, reads, cts[DRIVE].shape[:1])
        bias, ct_first = pullback(
            self._over_chunk("bias"), cts[DRIVE], self.arrays["bias"], first
        )
        # All products outside of loops are terms of one sum, so each gets the cotangent of the sum.
        # A hoisted product within a loop was a separate argument of the steps, so ``cts`` has its
        # cotangent.
        cts = cts | dict.fromkeys(self.outside, cts[DRIVE])
        cts |= dict.fromkeys(self.outside[:1], ct_first)
        grads = {**grads, "bias": plus(grads["bias"], bias)}
        ct_reads = {}
        for label, read in reads.items():
            grads[label], ct_reads[label] = self._add(
                label, grads[label], read, cts[label]
            )
        return grads, ct_reads

    def _add(self, name, grad, x, ct):
        """Add the gradient of the arrays of a product to ``grad``.

        Return the sum and the cotangent of the inputs.
        """
        # x: (chunk, batch, inputs). ct: (chunk, batch, neurons).
        if name not in self.matrices:
            # A function: JAX's gradient of the vmapped call is already summed over the steps.
            new, ct_x = pullback(self._over_chunk(name), ct, self.arrays[name], x)
            return plus(grad, new), ct_x
        # The gradient of a matrix is added in place, in parts if memory is scarce. ct_x: (chunk,
        # batch, inputs). XLA removes this product if the caller does not use it.
        (ct_x,) = pullback(functools.partial(self.call_chunk, name), ct, x)
        (matrix,) = self.arrays[name]
        add = _add_in_parts if self.low_memory else _add_product
        return [add(grad[0], matrix, x.astype(matrix.dtype), ct)], ct_x


def _add_product(
    grad: jax.Array, matrix: jax.Array, x: jax.Array, ct: jax.Array
) -> jax.Array:
    """Return ``grad`` plus the sum of ``x^T ct`` over all leading axes, without merging them
    (``times_matrix``).
    """
    # (chunk, batch, inputs) and (chunk, batch, neurons) -> (inputs, neurons)
    return grad + contract_leading(x, ct.astype(matrix.dtype), like=matrix)


def _add_in_parts(
    grad: jax.Array, matrix: jax.Array, x: jax.Array, ct: jax.Array
) -> jax.Array:
    """Like :func:`_add_product`, with a temporary of some rows of a large matrix."""
    # The temporary of a smaller matrix is small compared with the residuals, so one part is enough.
    most = 4 if grad.size >= 1 << 20 else 2 if grad.size >= 1 << 18 else 1
    parts = math.gcd(len(grad), most)
    rows = len(grad) // parts

    # Carry: the gradient (inputs, neurons). Each iteration updates ``rows`` rows.
    def add(i, grad):
        part, some = (
            jax.lax.dynamic_slice_in_dim(a, i * rows, rows) for a in (grad, matrix)
        )
        read = jax.lax.dynamic_slice_in_dim(x, i * rows, rows, axis=-1)
        part = _add_product(part, some, read, ct)
        return jax.lax.dynamic_update_slice_in_dim(grad, part, i * rows, axis=0)

    if parts == 1:
        return _add_product(grad, matrix, x, ct)
    return jax.lax.fori_loop(0, parts, add, grad)


def trace(
    graph: Graph,
    name: Name,
    reads: dict[str, Read],
    state: LayerState,
    key: jax.Array | None,
    examples: int | None,
) -> tuple[LayerVjp, dict[str, Arrays], State]:
    """Trace a layer. Return its equations, its arrays, and an example of its pre-spike state.

    The arrays are separate, because the loop must get them as arguments. For stochastic spikes,
    they contain the key.
    """
    # reads: {label: (batch, inputs)}. state: (v, output), each (batch, neurons).
    layer = graph.nodes[name]
    looped = graph.looped[name]
    calls = {}
    arrays = {}
    matrices = set()
    convolutional = []

    def add(name, function, *example):
        # The arrays become arguments, because the custom derivative of the loop gives gradients
        # only to arguments.
        calls[name], arrays[name], jaxpr = close(function, *example)
        convolutional.append(has_convolution(jaxpr))

    for (label, *_), weight in graph.connections(name):
        matrix = matrix_of(weight)
        if matrix is not None and is_float(matrix) and matrix.ndim == 2:
            # A known matrix is not traced. Its gradient is added in place, as one product per chunk
            # (see ``_add``).
            calls[label] = functools.partial(_matrix_product, label)
            arrays[label] = [jnp.asarray(matrix)]
            matrices.add(label)
        else:
            add(label, functools.partial(product, weight, name=label), reads[label])
    # The products run once on the example step, because their dtypes determine the dtype of the
    # current.
    v, _ = state
    products = {label: calls[label](arrays[label], reads[label]) for label in calls}
    outside = tuple(label for label in products if label not in looped)
    # (batch, neurons), in the dtype of the complete sum.
    current = sum_of(layer, products, looped)
    # The bias is added to the first product. Without an edge outside loops, zeros replace it. The
    # order of the sum is then equal in all modes.
    first, *_ = products
    began = products[first] if outside else zeros_like(products[first])
    # All later products are added to the current, so they are cast to its dtype first. The cast is
    # part of the product, so its transpose brings the cotangent of the current to the dtype of the
    # matrix.
    for label, call in calls.items():
        if label not in outside[:1]:
            calls[label] = functools.partial(_cast, call, current.dtype)
    add("bias", lambda began: plus_bias(layer, began).astype(current.dtype), began)
    add("integrate", layer.cell.integrate, v, current)
    # The loop carries the last pre-spike state, so it needs a first value. No step reads it
    # (``Masks.started``).
    u = jax.lax.stop_gradient(layer.cell.integrate(v, zeros_like(current)))
    number = graph.numbers[name]
    keys = None
    if key is not None and layer.cell.draws:
        # One key of the call is an argument like an array. ``fire`` derives the keys of a step from
        # it, (batch,).
        arrays["key"], keys = [key], keys_of(key, None, number, examples)
    add("fire", lambda u, keys: fire(layer.cell, u, keys), u, keys)
    encoded = None
    if says_how_to_encode(layer.cell):
        add("encode", layer.cell.encode, u)
        encoded = layer.cell.encode(u)
        add("decode", layer.cell.decode, *encoded)
        if encoded[0] is not None:
            # A cell without a threshold has no distance, and the storage needs no distance at rest.
            at_rest = distance_at_rest(layer.cell, encoded, current.shape)
            add("at_rest", at_rest, encoded[1])
    kinds = spike_types(layer.cell)
    traced = LayerVjp(
        {},
        calls,
        outside,
        tuple(label for label in products if label in looped),
        _type(began),
        frozenset(matrices),
        any(convolutional),
        jax.tree.map(_type, encoded),
        any(kind.needs_magnitude for kind in kinds),
        any(kind.graded for kind in kinds),
        number,
        examples,
    )
    return traced, arrays, u


def trace_all(
    graph: Graph,
    outputs: dict[Name, jax.Array],
    states: dict[Name, LayerState],
    pasts: dict[Name, jax.Array],
    key: jax.Array | None,
) -> tuple[dict[Name, LayerVjp | JoinVjp], dict, dict[Name, State]]:
    """Trace all nodes.

    Return their equations, their arrays, and an example of each pre-spike state.

    ``outputs`` are the inputs of one step, each ``(batch, inputs)``.
    """
    traced = {}
    arrays = {}
    pre_spike = {}
    examples = examples_of(next(iter(outputs.values())))
    # A layer may read the last output of a later layer, so all of them are known before the loop
    # below.
    outputs = {**outputs, **{name: out for name, (_, out) in states.items()}}

    # Examples of all reads, (batch, ...). Only their shapes and dtypes matter.
    def read(source, lag):
        return pasts[source][-lag] if lag and source in pasts else outputs[source]

    for name, node in graph.nodes.items():
        reads = {
            edge.label: edge.read(functools.partial(read, edge.source))
            for edge in graph.edges[name]
        }
        if isinstance(node, Join):
            # Later nodes read the output of a join in this step, so it runs once on the examples.
            outputs[name] = node.function(*reads.values())
            call, consts, jaxpr = close(
                lambda reads, node=node: node.function(*reads.values()), reads
            )
            arrays[name] = {"function": consts}
            traced[name] = JoinVjp({}, call, has_convolution(jaxpr))
        else:
            traced[name], arrays[name], pre_spike[name] = trace(
                graph, name, reads, states[name], key, examples
            )
    return traced, arrays, pre_spike


def _matrix_product(label, arrays, x):
    return product(arrays[0], x, label)


def _cast(call, dtype, arrays, x):
    return call(arrays, x).astype(dtype)


def _type(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def plus(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, a, b)
