"""The loop over time with a custom derivative.

For its backward pass, ``jax.lax.scan`` saves the inputs of its body and the residuals of its body.
Leaky integrate-and-fire neurons need three arrays of ``(steps, batch, neurons)`` per layer. One is
enough. The spike, the reset and the slope are elementwise functions of the pre-spike state, and
cheap to recompute. The product that led to this state is expensive, but its value is not needed
again. So the forward pass stores the pre-spike state of each step, in the precision of the mode.
The backward pass rebuilds all other values from it.

::

    forward    for each segment
                 for each chunk
                   for each component, upwards
                     weight products of the chunk, then its steps one by one

    backward   for each segment, from the last
                 for each chunk, from the last
                   for each component, downwards
                     rebuild states and outputs, then steps one by one,
                     then weight gradients of the chunk

With segments, only the pre-spike state at their start is stored. The backward pass runs each
segment forward again.

=======================  =====================================================================
``inputs``               ``(steps, batch, features)``
residuals of each layer  ``(chunks, chunk, batch, neurons)``; ``(segments, batch, neurons)``
outputs of each layer    ``(chunks, chunk, batch, neurons)``, merged into ``(steps, ...)``
carry, forward           the last pre-spike state of each layer, the state and output after it,
                         and the pasts
carry, backward          the cotangents of these states and pasts, and the gradients so far
=======================  =====================================================================

A component is one layer, one join, or several of them that read each other (see ``_component``).
Joins, and outputs of earlier steps, are rebuilt from the pre-spike states of the layers, and have
no residuals. There is one exception: the start of a segment stores the outputs that are still read
later.

The pre-spike state is stored instead of the potential after the reset, because a reset cannot be
undone and a spike can be repeated. Rebuilding from checkpoints is from Griewank and Walther 2000
("Algorithm 799: revolve", ACM TOMS 26), with one level. Chunks of independent products are from
cuDNN's recurrent networks (Appleyard, Kocisky, Blunsom 2016, arXiv:1604.01946).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.tree_util import Partial

from ..._compat import match_varying_axes, merge_leading, spread_as, zeros_like
from ..._device import Device, Work
from ..._pytree import PyTree, inexact, is_inexact
from ..graph._connections import Name
from ..graph._graph import Graph
from ..step._masks import Masks, tree_keep, tree_where
from ..step._states import Parts
from ._backward import at_index, backward
from ._component import Carry
from ._late_scan import late_scan
from ._layer_vjp import LayerVjp, trace_all
from ._schedule import RESIDUALS, Plan, schedule
from ._sequence import Sequence, Span


def run(
    graph: Graph,
    inputs: dict[Name, jax.Array],
    starts: Parts,
    masks: Masks,
    key: jax.Array | None,
    plan: Plan,
) -> tuple[Parts, dict[Name, PyTree], dict[Name, Callable]]:
    """Return the states and pasts after the last step, and the requested outputs of each step.

    If the network runs in stages, the third value has a function of the masks for some layers. It
    recomputes the outputs of a layer from the residuals, and exists if they determine these outputs
    exactly.
    """
    # Traced on the first step, because all steps have equal shapes: (steps, batch, features) ->
    # (batch, features).
    traced, arrays, pre_spike = trace_all(
        graph, {name: x[0] for name, x in inputs.items()}, *starts, key, plan
    )
    work = _work_of(traced, arrays, pre_spike)
    # In ``shard_map`` the inputs differ between devices. The weights get their type, because the
    # gradients are in the carry of the backward scan, and a scan must not change the types of its
    # carry.
    arrays = match_varying_axes(arrays, like=inputs)
    # A second part takes the remaining steps if the number of steps is not a multiple of a chunk or
    # segment.
    # The states after one part start the next. Their derivatives pass between the parts as
    # those of ordinary arrays.
    results = []
    for part in schedule(len(masks.started), plan.backward, plan.device, work):
        starts, *result = _run_part(
            plan, graph, traced, part, arrays, inputs, pre_spike, starts, masks
        )
        results.append(result)
    recorded, residuals = zip(*results, strict=True)
    # ``Partial`` is a pytree, so a stage inside ``jax.checkpoint`` can return it.
    again = {
        name: Partial(
            functools.partial(_outputs, layer, plan.device),
            arrays[name],
            [r[name] for r in residuals],
        )
        for name, layer in traced.items()
        if name in residuals[0]
        and isinstance(layer, LayerVjp)
        and layer.is_rebuilt_exactly
    }
    # (steps of one part, batch, neurons) -> (steps, batch, neurons)
    return starts, jax.tree.map(lambda *a: jnp.concatenate(a), *recorded), again


def _work_of(traced: dict, arrays: dict, states: dict) -> Work:
    """Return the work of a step, from sizes only, so it is fixed when the program is traced."""

    def size(tree):
        # An exported program may have a symbolic number of examples, which counts as one.
        shapes = (leaf.shape for leaf in jax.tree.leaves(tree))
        return sum(math.prod(n for n in s if isinstance(n, int)) for s in shapes)

    # A chunk reads the weights of its products once instead of once per step. For convolutions it
    # only adds arrays of (chunk, batch, neurons), which a single step keeps in the cache.
    at_once = [arrays[name] for name, node in traced.items() if not node.per_step]
    weights = size(at_once)
    convolves = len(at_once) < len(traced) and weights <= size(states)
    return Work(len(states), convolves, weights, size(states))


def _outputs(
    layer: LayerVjp, device: Device, arrays: dict, residuals: list, masks: Masks
) -> jax.Array:
    """Return the outputs of a layer in all steps, ``(steps, batch, ...)``, from its residuals."""
    layer = layer._replace(arrays=arrays)

    # Scan over chunks, because all steps at once would need several temporaries of their size. Each
    # residual is (chunks, chunk, batch, neurons). The number of a step selects its keys.
    def chunk(carry, now):
        return carry, jax.vmap(layer.outputs)(*now)

    outs = []
    start = 0
    for part in residuals:
        # chunk: (chunk, batch, neurons) per iteration, stacked to (chunks, chunk, batch, neurons)
        # and merged.
        shape = jax.tree.leaves(part)[0].shape[:2]
        numbers = start + jnp.arange(math.prod(shape)).reshape(shape)
        first = jax.tree.map(lambda a: a[0], part)
        _, chunks = late_scan(
            chunk,
            None,
            (part, numbers),
            ready=first if device.allocates_early else None,
        )
        outs.append(merge_leading(chunks))
        start += math.prod(shape)
    return tree_keep(masks.active, jnp.concatenate(outs))


def _run_part(plan, graph, traced, part, arrays, inputs, pre_spike, starts, masks):
    segmented = part.segment < part.steps
    firsts = np.arange(0, part.steps, part.segment)
    # The residuals are also a result of the loop if a later stage may rebuild outputs from them.
    onward = plan.staged and not segmented
    masks = masks.part(part.start, part.start + part.steps)

    # The components depend on the length of a chunk: outputs with a delay of at least a chunk are
    # known when the chunk starts, so they do not close a loop.
    components, edges = graph.components(part.chunk), graph.edges

    # Both passes build this from their own arguments, because a function with a custom derivative
    # must not hold other arrays, such as those of the graph.
    def sequence(arrays, inputs, starts, masks):
        if any("key" in node_arrays for node_arrays in arrays.values()):
            masks = masks.numbered(part.start)
        nodes = {n: node._replace(arrays=arrays[n]) for n, node in traced.items()}
        return Sequence(plan, part, components, edges, nodes, inputs, starts[0], masks)

    def results(stores, arrays, inputs, pre_spike, starts, masks):
        over = sequence(arrays, inputs, starts, masks)
        if segmented:
            # Scan over segments. Carry: pre-spike state and state of each layer, each (batch,
            # neurons), and the pasts. Stacked: outputs (segments, chunks, chunk, batch, neurons),
            # and the residuals: pre-spike states (segments, batch, neurons) and pasts (segments,
            # depth, batch, neurons), unrounded. They are stored after a segment, where they are
            # computed. To store the carry, XLA would start a copy on its own.
            def segment(carry, first):
                carry, recorded, _ = over.forward(first, carry, stores=False)
                return carry, (recorded, (carry.us, carry.pasts))

            ends, (recorded, residuals) = late_scan(
                segment,
                Carry(pre_spike, *starts),
                firsts,
                ready=over.when_ready(inputs, part.start),
            )
            recorded = jax.tree.map(merge_leading, recorded)
        else:
            ends, recorded, residuals = over.forward(
                0, Carry(pre_spike, *starts), stores=stores
            )
        # recorded: (chunks, chunk, batch, neurons) -> (steps, batch, neurons). The residuals keep
        # the axis of chunks, because the backward pass reads them by chunk.
        out = (ends.states, ends.pasts), jax.tree.map(merge_leading, recorded)
        out = _batched_alike(out, (arrays, inputs, starts, masks))
        if plan.staged:
            # The checkpoint of a stage saves the arrays with this name, and recomputes all others.
            residuals = jax.tree.map(lambda a: checkpoint_name(a, RESIDUALS), residuals)
        return (*out, residuals if onward else {}), residuals

    # Without differentiation JAX runs ``loop``, which stores residuals only for a later stage. To
    # differentiate, JAX runs ``loop_forward`` and ``loop_backward``.
    @jax.custom_vjp
    def loop(*args):
        return results(onward, *args)[0]

    def loop_forward(*args):
        out, residuals = results(True, *args)
        return out, (*args, residuals)

    def loop_backward(saved, cotangents):
        # A second derivative would treat the codes as constants and be silently wrong.
        if plan.storage.orders < 2:
            saved, cotangents = _first_order_only(
                plan.backward.mode, (saved, cotangents)
            )
        arrays, inputs, pre_spike, starts, masks, residuals = saved
        # Integers have cotangents of type float0, which ``inexact`` replaces by None. The third
        # cotangent belongs to the residuals. It is zero, because a later stage gives rebuilt
        # outputs the derivative of the outputs (``known``).
        (ct_states, ct_pasts), ct_recorded, _ = inexact(cotangents)
        over = sequence(arrays, inputs, starts, masks)
        # The gradients of each part start at zero, because JAX adds the cotangents of both parts.
        zeros = jax.tree.map(zeros_like, inexact(arrays))
        # Carry: cotangents of states, (batch, neurons), and of pasts, (depth, batch, neurons), and
        # the gradients.
        carry = ct_states, ct_pasts, match_varying_axes(zeros, like=inputs)
        if not segmented:
            carry, ct_inputs = backward(
                over, Span(0, pre_spike, starts[1], residuals), carry, ct_recorded
            )
        else:
            # Scan over segments, from last to first. Carry: also the number of the segment. Each
            # segment is recomputed from the pre-spike states and pasts after the previous one.
            # Firing them again gives the states, so the residuals do not contain these (Griewank
            # and Walther 2000).
            def segment(carry, _):
                number, carry = carry
                first = number * part.segment
                us, pasts = _before(number, residuals, (pre_spike, starts[1]))
                states = {n: over.state_before(n, first, us[n]) for n in over.layers}
                *_, stored = over.forward(first, Carry(us, states, pasts), stores=True)
                carry, ct_inputs = backward(
                    over, Span(first, us, pasts, stored), carry, ct_recorded
                )
                return (number - 1, carry), ct_inputs

            (_, carry), ct_inputs = late_scan(
                segment,
                (jnp.asarray(len(firsts) - 1), carry),
                None,
                ready=over.when_ready(ct_recorded),
                length=len(firsts),
                reverse=True,
            )
            ct_inputs = jax.tree.map(merge_leading, ct_inputs)
        # The loop takes the complete inputs, because a slice would be a copy. So the cotangent has
        # their shape (steps, batch, features), with zeros outside of this part.
        ct_inputs = {
            name: jax.lax.dynamic_update_slice_in_dim(
                zeros_like(inputs[name]), merge_leading(ct), part.start, 0
            )
            for name, ct in ct_inputs.items()
        }
        *ct_starts, ct_arrays = carry
        # None is a zero cotangent: masks are bools and integers, and no step reads the first
        # pre-spike state.
        ct_inputs = {name: ct_inputs.get(name) for name in inputs}
        return ct_arrays, ct_inputs, None, tuple(ct_starts), None

    loop.defvjp(loop_forward, loop_backward)
    return loop(arrays, inputs, pre_spike, starts, masks)


def _before(number: jax.Array, residuals: PyTree, start: PyTree) -> PyTree:
    """Return the stored arrays after the segment before a segment, or the start of the part."""
    previous = at_index(residuals, jnp.maximum(number - 1, 0))
    return tree_where(number > 0, previous, start)


def _batched_alike(outputs: PyTree, inputs: PyTree) -> PyTree:
    """Return the outputs, batched under ``jax.vmap`` if any input is.

    The networks of a ``vmap`` may share their first layers, whose outputs then have no batch axis.
    JAX adds the cotangent of such an output once for each network, or raises.
    """
    leaves = jax.tree.leaves(inputs)  # of any dtype, random keys too
    tags = [jnp.any(leaf != leaf) for leaf in leaves]  # noqa: PLR0124
    tag = functools.reduce(jnp.logical_or, tags)
    nowhere = jnp.zeros((), bool)  # XLA removes the select and the tag
    return jax.tree.map(
        lambda out: jnp.where(nowhere, spread_as(tag.astype(out.dtype), out), out),
        outputs,
    )


def _first_order_only(mode: str, tree: PyTree) -> PyTree:
    """Return the tree, and raise if it is differentiated.

    Quantized residuals would otherwise act as constants.
    """
    # Leaf by leaf, so JAX still removes leaves that no pass reads.
    return jax.tree.map(
        lambda leaf: _no_derivative(mode, leaf) if is_inexact(leaf) else leaf, tree
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _no_derivative(mode, x):
    return x


@_no_derivative.defjvp
def _no_derivative_jvp(mode, primals, tangents):
    raise TypeError(
        f"Network: mode {mode!r} has a first derivative only; for higher orders use mode 'exact'"
    )
