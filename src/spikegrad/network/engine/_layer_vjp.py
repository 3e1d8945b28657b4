"""Layers and joins as equations, over one chunk of steps.

A layer consists of these functions. Each takes the arrays that it closes over as an argument (see
``_functions``):

=========  ======================================  ===========================================
a label    read of an edge -> ``W x``              one for each edge, such as ``recurrent``
bias       ``W x`` -> ``W x + b``                  on the first edge outside loops
integrate  state, current -> pre-spike state       depends on the previous step
fire       pre-spike state, keys -> state, output  elementwise; keys of stochastic spikes, or None
keys       number of a step -> keys of this step   for stochastic spikes
encode     pre-spike state -> distance, remainder  elementwise, see ``_storage``
decode     distance, remainder -> pre-spike state  elementwise
at_rest    remainder -> distance at rest           elementwise, see ``_storage``
=========  ======================================  ===========================================

Products that do not depend on earlier steps are computed for a chunk at once, as one product of
``(chunk, batch, inputs)`` and a matrix. The gradient of a weight is a sum over steps and examples.
It is also computed for a chunk at once, after the steps (see ``_component``).

A convolution is not a matrix product. Many steps of it together are not faster and take more
memory. They would also merge the axis of examples with the axis of steps, and devices may shard the
examples. So a layer with a convolution computes its products step by step.

What is not optimal: each trace of a network traces all its functions again. The gradients of a
function that is not a matrix product are JAX's, so their temporaries have the size of its arrays,
in every mode.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..._checks import is_float
from ..._compat import contract_leading, zeros_like
from ..._pytree import PyTree
from ..._surrogate import spike_types
from ...neurons import State, method, says_how_to_encode
from ..graph._connections import (
    Join,
    Name,
    NamedArrays,
    Read,
    Reads,
    matrix_of,
    product,
    reads_of,
)
from ..graph._graph import Graph
from ..step._currents import plus_bias, sum_of
from ..step._masks import Masks
from ..step._step import LayerState, LayerStates, examples_of, fire, keys_of
from ._convolution import canonical, has_convolution
from ._functions import Arrays, as_equations, pullback
from ._schedule import Plan
from ._storage import Storage, distance_at_rest

Gradients: TypeAlias = dict[str, Arrays]
"""Gradients by function, one for each of its arrays. None for integers."""


DRIVE = ""
"""The label of the current from edges outside loops."""
_LARGE = 1 << 18
"""The number of elements from which a matrix is large. Its gradient is then added in parts."""


class JoinVjp(NamedTuple):
    """A join as equations, with its arrays."""

    arrays: dict[str, Arrays]
    call: Callable
    per_step: bool
    """If True, it contains a convolution. It then runs step by step, because XLA would merge the
    axes of steps and examples.
    """
    unrolls: bool
    """If True, these steps are not a loop."""

    # A join with a convolution, or between the layers of a loop, runs in the steps, and the loop
    # over steps adds its gradients, as for a layer.
    stepwise = ("function",)

    def __call__(self, reads: Reads) -> jax.Array:
        return self.call(self.arrays["function"], reads)

    def hoisted(self, reads: Reads, chunk: int) -> Reads:
        """Return the arguments of the steps of a chunk, which are the reads."""
        return reads

    def over_chunk(self, reads: Reads) -> jax.Array:
        """Return the outputs of a chunk, ``(chunk, batch, ...)``."""
        if not self.per_step:
            return jax.vmap(self)(reads)
        step = canonical(self)

        def run(_: None, now: Reads) -> tuple[None, jax.Array]:
            return None, step(now)

        _, outs = jax.lax.scan(run, None, reads, unroll=self.unrolls)
        return outs

    def backward(
        self, grads: Gradients, reads: Reads, ct: jax.Array
    ) -> tuple[Gradients, Reads]:
        """Add the gradients of a chunk, and return the cotangents of its reads."""
        # vmap over the steps: (chunk, batch, ...) -> (chunk, batch, ...). All steps share the
        # arrays.
        call = jax.vmap(self.call, in_axes=(None, 0))
        new, ct_reads = pullback(call, ct, self.arrays["function"], reads)
        return {"function": plus(grads["function"], new)}, ct_reads


class LayerVjp(NamedTuple):
    """A layer as equations, with its arrays. Missing functions are left out."""

    arrays: dict[str, Arrays]
    calls: dict[str, Callable]
    outside: tuple[str, ...]
    """The labels of the edges outside loops, in the order of the sum of products."""
    inside: tuple[str, ...]
    """The labels of the edges within a loop. They follow in the sum."""
    first_product: jax.ShapeDtypeStruct
    """The type of the first product, ``(batch, neurons)``. Zeros of it replace the product if all
    edges are within loops.
    """
    matrices: frozenset[str]
    """The labels of products with a matrix."""
    per_step: bool
    """If True, the layer contains a convolution and computes its products step by step."""
    storage: Storage
    encoded: PyTree
    """Shapes and dtypes of the result of ``encode``. None if states are stored unchanged."""
    needs_magnitude: bool
    """If True, spikes depend on the value of the distance to the threshold, besides its sign."""
    graded: bool
    """If True, outputs are real numbers instead of counts."""
    low_memory: bool
    """If True, the gradients of large matrices are added in parts, by a loop."""

    @property
    def stepwise(self) -> tuple[str, ...]:
        """The functions whose gradients the loop over steps adds.

        All other gradients are added once per chunk.
        """
        products = (*self.outside, *self.inside, "bias") if self.per_step else ()
        return "fire", "integrate", *products

    def call(self, name: str, *args: PyTree) -> PyTree:
        """Evaluate one of the functions, such as a product or ``fire``, with its arrays."""
        return self.calls[name](self.arrays[name], *args)

    def _over_chunk(self, name: str) -> Callable[[Arrays, PyTree], jax.Array]:
        """Return a function of its arrays and of all steps of a chunk.

        It maps ``(chunk, batch, inputs)`` to ``(chunk, batch, neurons)``.
        """
        # All steps share the arrays.
        return jax.vmap(self.calls[name], in_axes=(None, 0))

    def _first(self, reads: Reads) -> jax.Array:
        """Return the product to which the bias is added, ``(batch, neurons)``."""
        if self.outside:
            label = self.outside[0]
            return self.call(label, reads[label])
        return jnp.zeros(self.first_product.shape, self.first_product.dtype)

    def drive(self, reads: Reads) -> jax.Array:
        """Return the current from edges outside loops, ``W x + b``, for one step."""
        # The bias is added to the first product, before the other products, so the order of the sum
        # is equal in all modes.
        total = self.call("bias", self._first(reads))
        for label in self.outside[1:]:
            total = total + self.call(label, reads[label])
        return total

    def hoisted(self, reads: Reads, chunk: int) -> Reads:
        """Return the arguments of the steps of a chunk: products, or their inputs if
        ``per_step``."""
        if self.per_step:
            return reads

        # A product within a loop is hoisted too if its source is at least a chunk behind. These
        # products stay separate from the drive, because the sum must keep its order.
        def products(reads: Reads) -> dict[str, jax.Array]:
            hoisted = {DRIVE: self.drive(reads)}
            for label, read in reads.items():
                if label in self.inside:
                    hoisted[label] = self.call(label, read)
            return hoisted

        return jax.vmap(products, axis_size=chunk)(reads)

    def current(self, hoisted: Reads, reads: Reads) -> jax.Array:
        """Return the current of one step, ``(batch, neurons)``.

        ``hoisted`` are products, ``(batch, neurons)``, and ``reads`` those of the step, ``(batch,
        ...)``, both by label. If ``per_step``, the first are reads too.
        """
        if DRIVE not in hoisted:  # products step by step
            reads = {**hoisted, **reads}
            hoisted = {DRIVE: self.drive(reads)}
        # The order of the sum is the order of the edges in every mode. Rounding could otherwise
        # change a spike.
        total = hoisted[DRIVE]
        for label in self.inside:
            product = hoisted.get(label)
            if product is None:  # its source is less than a chunk behind
                product = self.call(label, reads[label])
            total = total + product
        return total

    def integrate(self, v: State, current: jax.Array) -> State:
        """Return the pre-spike state, ``(batch, neurons)``."""
        return self.call("integrate", v, current)

    def fire(self, u: State, mask: Masks) -> LayerState:
        """Return state and output after a step. Only stochastic spikes depend on its number."""
        # Examples of a cell that couples them have one mask, see ``check_coupled``. u: (batch,
        # neurons). The number is a scalar, or (batch,) with a mask per example. The backward pass
        # calls this again and draws equal spikes, because the keys depend only on these numbers.
        keys = self.call("keys", mask.number) if "keys" in self.calls else None
        return self.call("fire", u, keys)

    def _at_rest(self, remainder: PyTree) -> jax.Array:
        """Return the distance to the threshold of a neuron at rest, ``(batch, neurons)``."""
        return self.call("at_rest", remainder)

    def store(self, u: State, mask: Masks) -> PyTree:
        """Return the residual of a pre-spike state."""
        # u, and both results of ``encode``: (batch, neurons).
        if self.encoded is None:
            return u
        encoded = self.call("encode", u)
        residual = self.storage.write(encoded, self._at_rest)
        # A step depends only on the sign of the distance, and every storage preserves signs. Graded
        # and stochastic spikes depend on its value, so the stored value may have to move until the
        # backward pass fires these spikes too.
        if not self.needs_magnitude:
            return residual
        # Equal keys make both calls draw the same random numbers, so a difference comes from
        # rounding only.
        _, spikes = self.fire(u, mask)

        def fires_alike(residual: PyTree) -> jax.Array:
            return self.outputs(residual, mask.number) == spikes

        return self.storage.settle(residual, fires_alike)

    def load(self, residual: PyTree) -> State:
        """Restore the pre-spike state from its residual."""
        if self.encoded is None:
            return residual
        # ``encoded`` has the shapes and dtypes of the cell, because the stored arrays have fewer
        # bits.
        encoded = self.storage.read(residual, self.encoded, self._at_rest)
        return self.call("decode", *encoded)

    def outputs(self, residual: PyTree, number: jax.Array | None) -> jax.Array:
        """Return the outputs of a step from its residual."""
        pre_spike = self.load(residual)
        _, out = self.fire(pre_spike, Masks(number=number))
        return out

    @property
    def is_rebuilt_exactly(self) -> bool:
        """True if the residuals determine the outputs exactly, for example the spikes."""
        # A storage preserves the sign of the distance, which determines a spike. Graded outputs and
        # stochastic spikes depend on its value. A cell without a distance, such as a readout,
        # outputs other arrays. Both are rounded.
        if self.encoded is None:
            return True
        distance, *_ = self.encoded
        return distance is not None and not (self.needs_magnitude or self.graded)

    def backward_hoisted(
        self, grads: Gradients, reads: Reads, cts: Reads
    ) -> tuple[Gradients, Reads]:
        """Add the gradients of the hoisted weights, and return the cotangents of their reads."""
        # All arrays are (chunk, batch, ...), by label. One product per weight sums over steps and
        # examples. The first product also passes the bias, which may change its dtype.
        ct = cts[DRIVE]
        first = jax.vmap(self._first, axis_size=len(ct))(reads)
        add_bias = self._over_chunk("bias")
        bias, ct_first = pullback(add_bias, ct, self.arrays["bias"], first)
        # All products outside of loops are terms of one sum, so each gets the cotangent of the sum.
        # A hoisted product within a loop was a separate argument of the steps, so ``cts`` has its
        # cotangent.
        cts = cts | dict.fromkeys(self.outside, ct)
        cts |= dict.fromkeys(self.outside[:1], ct_first)
        grads = grads | {"bias": plus(grads["bias"], bias)}
        return self.backward_products(grads, reads, cts)

    def backward_products(
        self, grads: Gradients, reads: Reads, cts: Mapping[str, jax.Array]
    ) -> tuple[Gradients, Reads]:
        """Add the gradients of products, and return the cotangents of their reads."""
        grads = dict(grads)
        ct_reads = {}
        # x: (chunk, batch, inputs). ct: (chunk, batch, neurons).
        for label, x in reads.items():
            ct = cts[label]
            arrays = self.arrays[label]
            call = self._over_chunk(label)
            if label in self.matrices:
                # The gradient of a matrix is added in place. XLA removes the product for the
                # cotangent of the reads if the caller does not use it.
                multiply = functools.partial(call, arrays)
                (ct_reads[label],) = pullback(multiply, ct, x)
                (grad,) = grads[label]
                grads[label] = [_add_product(grad, x, ct, low_memory=self.low_memory)]
            else:
                # A function: JAX's gradient of the vmapped call is already summed over the steps.
                new, ct_reads[label] = pullback(call, ct, arrays, x)
                grads[label] = plus(grads[label], new)
        return grads, ct_reads


def _add_product(
    grad: jax.Array, x: jax.Array, ct: jax.Array, *, low_memory: bool
) -> jax.Array:
    """Return ``grad`` plus the sum of ``x^T ct`` over all leading axes.

    With ``low_memory``, the temporary of a large matrix has some of its rows.
    """
    # More parts for larger matrices. The temporary of a small matrix is small compared with the
    # residuals, so one part is enough. Parts have equal numbers of rows.
    parts = 1
    if low_memory and grad.size >= _LARGE:
        most = 4 if grad.size >= 4 * _LARGE else 2
        parts = math.gcd(len(grad), most)
    if parts == 1:
        x = x.astype(grad.dtype)
        ct = ct.astype(grad.dtype)
        # (chunk, batch, inputs) and (chunk, batch, neurons) -> (inputs, neurons)
        return grad + contract_leading(x, ct, like=grad)
    rows = len(grad) // parts

    # Each iteration updates some rows of the gradient, (inputs, neurons), from as many inputs.
    def add(i: jax.Array, grad: jax.Array) -> jax.Array:
        first = i * rows
        block = jax.lax.dynamic_slice_in_dim(grad, first, rows)
        inputs = jax.lax.dynamic_slice_in_dim(x, first, rows, axis=-1)
        block = _add_product(block, inputs, ct, low_memory=False)
        return jax.lax.dynamic_update_slice_in_dim(grad, block, first, axis=0)

    return jax.lax.fori_loop(0, parts, add, grad)


def trace_layer(
    graph: Graph,
    name: Name,
    reads: Reads,
    state: LayerState,
    key: jax.Array | None,
    examples: int | None,
    plan: Plan,
) -> tuple[LayerVjp, dict[str, Arrays], State]:
    """Trace a layer. Return its equations, its arrays, and an example of its pre-spike state.

    The arrays are separate, because the loop must get them as arguments. For stochastic spikes,
    they contain the key.
    """
    # reads: {label: (batch, inputs)}. state: (v, output), each (batch, neurons).
    layer = graph.nodes[name]
    cell = layer.cell
    looped = graph.looped[name]
    calls = {}
    arrays = {}
    matrices = set()
    convolutional = []

    def add(name: str, function: Callable, *example: PyTree) -> None:
        # The arrays become arguments, because the custom derivative of the loop gives gradients
        # only to arguments.
        equations = as_equations(function, *example)
        calls[name] = equations.call
        arrays[name] = equations.arrays
        convolutional.append(has_convolution(equations.jaxpr))

    for (label, *_), weight in graph.connections(name):
        matrix = matrix_of(weight)
        if matrix is not None and is_float(matrix) and matrix.ndim == 2:
            # An array, because ``Fixed`` and ``Bounded`` compute one from the values they train.
            weight = jnp.asarray(matrix)
            matrices.add(label)
        add(label, functools.partial(product, weight, name=label), reads[label])
    # The dtypes of the products determine the dtype of the current. Only types are computed.
    v, _ = state
    products = {
        label: jax.eval_shape(call, arrays[label], reads[label])
        for label, call in calls.items()
    }
    outside = tuple(label for label in products if label not in looped)
    # (batch, neurons), in the dtype of the complete sum.
    total = functools.partial(sum_of, layer, looped=looped)
    current = jax.eval_shape(total, products)
    # The bias is added to the first product. Without an edge outside loops, zeros replace it. The
    # order of the sum is then equal in all modes.
    first_product = next(iter(products.values()))
    # All later products are added to the current, so they are cast to its dtype first. The cast is
    # part of the product, so its transpose brings the cotangent of the current to the dtype of the
    # matrix.
    for label, call in calls.items():
        if label not in outside[:1]:
            calls[label] = functools.partial(_cast, call, current.dtype)
    add(
        "bias",
        lambda first: plus_bias(layer, first).astype(current.dtype),
        first_product,
    )
    integrate = method(cell, "integrate")
    add("integrate", integrate, v, current)
    # The loop carries the last pre-spike state, so it needs a first value. No step reads it
    # (``Masks.started``).
    u = jax.lax.stop_gradient(integrate(v, zeros_like(current)))
    number = graph.numbers[name]
    keys = None
    if key is not None and cell.draws:
        # The key of the call is an argument like an array. It gives the keys of a step, (batch,).
        arrays["keys"] = [key]
        calls["keys"] = lambda keys, step: keys_of(keys[0], step, number, examples)
        keys = calls["keys"]([key], None)
    add("fire", functools.partial(fire, cell), u, keys)
    encoded = None
    if plan.storage.encodes and says_how_to_encode(cell):
        encode = method(cell, "encode")
        add("encode", encode, u)
        encoded = jax.eval_shape(encode, u)
        add("decode", method(cell, "decode"), *encoded)
        distance, remainder = encoded
        # A cell without a threshold has no distance, and the storage needs no distance at rest.
        if distance is not None:
            at_rest = distance_at_rest(cell, encoded, current.shape)
            add("at_rest", at_rest, remainder)
    # These modes trade time for memory. A captured graph of a GPU contains no loop.
    saves_memory = (
        plan.storage.encodes
        or plan.backward.row.recompute
        or plan.backward.segment is not None
    )
    types = spike_types(cell)
    traced = LayerVjp(
        arrays={},
        calls=calls,
        outside=outside,
        inside=tuple(label for label in products if label in looped),
        first_product=first_product,
        matrices=frozenset(matrices),
        per_step=any(convolutional),
        storage=plan.storage,
        encoded=encoded,
        needs_magnitude=any(spikes.needs_magnitude for spikes in types),
        graded=any(spikes.graded for spikes in types),
        low_memory=saves_memory and not plan.device.captures_chunks,
    )
    return traced, arrays, u


def trace_all(
    graph: Graph,
    outputs: NamedArrays,
    states: LayerStates,
    pasts: NamedArrays,
    key: jax.Array | None,
    plan: Plan,
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
    last_outputs = {name: out for name, (_, out) in states.items()}
    outputs = outputs | last_outputs

    # Examples of all reads, (batch, ...). Only their shapes and dtypes matter.
    def read(source: Name, lag: int) -> jax.Array:
        if lag and source in pasts:
            return pasts[source][-lag]
        return outputs[source]

    for name, node in graph.nodes.items():
        reads = reads_of(graph.edges[name], read)
        if isinstance(node, Join):
            equations = as_equations(
                lambda reads, node=node: node.function(*reads.values()), reads
            )
            # Later nodes read the output of a join in this step.
            outputs[name] = jax.eval_shape(equations.call, equations.arrays, reads)
            arrays[name] = {"function": equations.arrays}
            traced[name] = JoinVjp(
                arrays={},
                call=equations.call,
                per_step=has_convolution(equations.jaxpr),
                unrolls=plan.device.captures_chunks,
            )
        else:
            traced[name], arrays[name], pre_spike[name] = trace_layer(
                graph, name, reads, states[name], key, examples, plan
            )
    return traced, arrays, pre_spike


def _cast(call: Callable, dtype: DTypeLike, arrays: Arrays, x: Read) -> jax.Array:
    """Return ``call(arrays, x)`` in a dtype."""
    return call(arrays, x).astype(dtype)


def plus(a: PyTree, b: PyTree) -> PyTree:
    """Return the sum of two trees of arrays, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)
