"""The loop over time, with a derivative of its own.

``jax.lax.scan`` saves for its backward pass the inputs of its body and what the derivative of its body needs: of
leaky integrate-and-fire neurons three arrays of ``(steps, batch, neurons)`` for each layer. One is enough. All that
happens at a spike (the spike, the reset, the slope) is an elementwise function of the state before it, and cheap to
compute again; the product that led to this state is dear, and is not needed again. So the forward pass keeps the
pre-spike state of each step, in as many bits as the mode says, and the backward pass rebuilds the rest from it.

::

    forward    for each segment                 segments: what is kept is the pre-spike state at their start alone,
                 for each chunk                           and the backward pass runs them forward again
                   for each component, upwards
                     weight products of the chunk, then its steps one by one

    backward   for each segment, from the last
                 for each chunk, from the last
                   for each component, downwards
                     rebuild states and outputs; steps one by one; weight gradients of the chunk

=========================  ==============================================================================
``inputs``                 ``(steps, batch, features)``
kept, of each layer        ``(chunks, chunk, batch, neurons)``, or with segments ``(segments, batch, neurons)``
outputs, of each layer     ``(chunks, chunk, batch, neurons)``, merged at the end into ``(steps, ...)``
carry, forward             of each layer the last pre-spike state, and the state and output after it; the pasts
carry, backward            the cotangents of these states and pasts, and the gradients so far
=========================  ==============================================================================

A component is one layer, one join, or several of them that read each other (see ``_component``). Joins, and outputs of
former steps, are rebuilt from the pre-spike states of the layers; nothing else is kept of them. Only where a segment
begins, the outputs that are still read later are kept as well.

Why the pre-spike state and not the potential after the reset: a reset cannot be undone, a spike can be repeated.
Rebuilding from checkpoints is Griewank and Walther 2000 ("Algorithm 799: revolve", ACM TOMS 26) with one level;
chunks of products that need not wait are those of cuDNN's recurrent networks (Appleyard, Kocisky, Blunsom 2016,
arXiv:1604.01946).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.tree_util import Partial

from ..._compat import match_varying_axes, merge_leading, zeros_like
from ..._pytree import inexact, is_inexact
from .._connections import Name
from .._graph import Graph
from .._masks import Masks, tree_keep
from .._schedule import KEPT, Plan
from .._step import LayerState
from .._storage import Storage
from ._backward import backward
from ._functions import zero_cotangent
from ._layer_vjp import WITHOUT_GRADIENT, JoinVjp, LayerVjp, TracedLayer, trace_all
from ._sequence import Sequence


def run(
    graph: Graph,
    inputs: dict[Name, jax.Array],
    states: dict[Name, LayerState],
    pasts: dict[Name, jax.Array],
    masks: Masks,
    key: jax.Array | None,
    plan: Plan,
    mark: Callable[[Any], Any],
) -> tuple[tuple[dict, dict], tuple[dict, dict], dict[Name, Callable]]:
    """Return the states and pasts after the last step, and of each step the outputs and pre-spike states asked for.

    If the network runs in stages, the third value has a function for each layer whose outputs follow from its
    residuals. It takes the masks. ``mark`` is applied to all arrays with a derivative.
    """
    traced, arrays, pre_spike = trace_all(graph, {name: x[0] for name, x in inputs.items()}, states, pasts, key)
    length = len(masks.started)
    layers = [equations for equations in traced.values() if isinstance(equations, TracedLayer)]
    parts = plan.parts(length, per_step=all(equations.per_step for equations in layers))
    arrays, inputs, starts = mark((match_varying_axes(arrays, like=inputs), inputs, (states, pasts)))
    # A second part takes the remaining steps if the number of steps is not a multiple of a chunk or segment.
    collected, kept = [], []
    for part in parts:
        starts, shown, residuals = _run_part(plan, graph, traced, part, arrays, inputs, pre_spike, starts, masks)
        collected.append(shown)
        kept.append(residuals)
    again = {
        name: Partial(functools.partial(_outputs, equations, plan.storage), arrays[name], [own[name] for own in kept])
        for name, equations in traced.items()
        if name in kept[0] and _is_rebuilt_exactly(equations, plan)
    }
    if len(parts) == 1:
        return starts, collected[0], again
    return starts, jax.tree.map(lambda *a: jnp.concatenate(a), *collected), again


def _is_rebuilt_exactly(equations: TracedLayer, plan: Plan) -> bool:
    """Whether the outputs of a layer follow from its residuals without an error, as spikes do."""
    if not plan.storage.encodes or equations.encoded is None:
        return True
    distance, _ = equations.encoded
    return distance is not None and not equations.needs_magnitude and not equations.graded


def _outputs(equations: TracedLayer, storage: Storage, arrays: dict, kept: list, masks: Masks) -> jax.Array:
    """Return the outputs of a layer in all steps, ``(steps, batch, ...)``, from its residuals."""
    layer = LayerVjp(equations, arrays)

    # Scan over chunks, because all steps at once would need several temporaries of their size. Each residual is
    # (chunks, chunk, batch, neurons). The number of a step selects its keys.
    def chunk(now):
        return jax.vmap(lambda kept, number: layer.fire(layer.load(storage, kept), number)[1])(*now)

    outs, start = [], 0
    for part in kept:
        chunks, length, *_ = jax.tree.leaves(part)[0].shape
        numbers = start + jnp.arange(chunks * length).reshape(chunks, length)
        outs.append(merge_leading(jax.lax.map(chunk, (part, numbers))))
        start += chunks * length
    return tree_keep(masks.active, jnp.concatenate(outs) if len(outs) > 1 else outs[0])


def _run_part(plan, graph, traced, part, arrays, inputs, pre_spike, starts, masks):
    segmented = part.segment < part.steps
    firsts = np.arange(0, part.steps, part.segment)
    onward = plan.staged and not segmented
    whole = part.steps == len(masks.started)
    masks = masks if whole else masks.part(part.start, part.start + part.steps)

    # Both passes build this from their own arguments, because a function with a custom derivative must not close over
    # arrays.
    def sequence(arrays, inputs, starts, masks):
        if any("key" in own for own in arrays.values()):
            masks = masks.numbered(part.start)
        low_memory = plan.storage.encodes or segmented
        nodes = {
            name: LayerVjp(equations, arrays[name], low_memory)
            if isinstance(equations, TracedLayer)
            else JoinVjp(equations, arrays[name])
            for name, equations in traced.items()
        }
        return Sequence(plan, part, graph, nodes, inputs, starts, masks)

    def forward(arrays, inputs, pre_spike, starts, masks, storage):
        over = sequence(arrays, inputs, starts, masks)
        if not segmented:
            # shown: (chunks, chunk, batch, neurons) -> (steps, batch, neurons). The residuals keep the axis of chunks,
            # because the backward pass reads them by chunk.
            _, ends, shown, kept = over.forward(0, pre_spike, starts[1], storage)
            return (ends, jax.tree.map(merge_leading, shown)), kept

        # Scan over segments. Carry: pre-spike state and state of each layer, each (batch, neurons), and the pasts.
        # Stacked: outputs (segments, chunks, chunk, batch, neurons), and the residuals: pre-spike states (segments,
        # batch, neurons) and pasts (segments, depth, batch, neurons), unrounded.
        def segment(carry, first):
            us, (_, pasts) = carry
            new, ends, shown, _ = over.forward(first, us, pasts, None)
            return (new, ends), (shown, (us, pasts))

        (_, ends), (shown, kept) = jax.lax.scan(segment, (pre_spike, starts), firsts)
        return (ends, jax.tree.map(lambda a: merge_leading(merge_leading(a)), shown)), kept

    @jax.custom_vjp
    def loop(arrays, inputs, pre_spike, starts, masks):
        out, kept = forward(arrays, inputs, pre_spike, starts, masks, plan.storage if onward else None)
        return *out, kept if onward else {}

    def loop_forward(arrays, inputs, pre_spike, starts, masks):
        out, kept = forward(arrays, inputs, pre_spike, starts, masks, plan.storage)
        if plan.staged:
            kept = jax.tree.map(lambda a: checkpoint_name(a, KEPT), kept)
        return (*out, kept if onward else {}), (arrays, inputs, pre_spike, starts, masks, kept)

    def loop_backward(residuals, cotangents):
        # A second derivative would treat the codes as constants and be silently wrong.
        if plan.storage.orders < 2:
            residuals, cotangents = _first_order_only(plan.mode, (residuals, cotangents))
        arrays, inputs, pre_spike, starts, masks, kept = residuals
        (ct_states, ct_pasts), ct_shown, _ = inexact(cotangents)
        over = sequence(arrays, inputs, starts, masks)
        # The gradients of each part start at zero, because JAX adds the cotangents of both parts.
        trained = {
            name: {label: a for label, a in own.items() if label not in WITHOUT_GRADIENT}
            for name, own in arrays.items()
        }
        grads = match_varying_axes(zero_cotangent(trained), like=inputs)
        carry = ct_states, ct_pasts, grads
        if not segmented:
            carry, ct_inputs = backward(over, 0, pre_spike, starts[1], kept, carry, ct_shown)
        else:
            # Scan over segments, from last to first. Carry: the cotangents of states and pasts, (batch, neurons) and
            # (depth, batch, neurons), and the gradients. Each segment is recomputed from the pre-spike states at its
            # start. Firing them again gives the states, so the residuals do not contain these (Griewank and Walther
            # 2000).
            def segment(carry, now):
                first, (us, pasts) = now
                *_, kept = over.forward(first, us, pasts, plan.storage)
                return backward(over, first, us, pasts, kept, carry, ct_shown)

            carry, ct_inputs = jax.lax.scan(segment, carry, (firsts, kept), reverse=True)
            ct_inputs = jax.tree.map(merge_leading, ct_inputs)
        ct_inputs = jax.tree.map(merge_leading, ct_inputs)
        if not whole:
            # The argument of the loop is the whole sequence, because a slice of the inputs would be a copy.
            ct_inputs = {
                name: jax.lax.dynamic_update_slice_in_dim(zeros_like(inputs[name]), ct, part.start, 0)
                for name, ct in ct_inputs.items()
            }
        ct_states, ct_pasts, grads = carry
        ct_arrays = {name: {label: grads[name].get(label) for label in own} for name, own in arrays.items()}
        ct_starts = ct_states, {name: ct_pasts.get(name) for name in starts[1]}
        return ct_arrays, {name: ct_inputs.get(name) for name in inputs}, None, ct_starts, None

    loop.defvjp(loop_forward, loop_backward)
    return loop(arrays, inputs, pre_spike, starts, masks)


def _first_order_only(mode: str, tree: Any) -> Any:
    """Identity that raises when differentiated: quantised residuals would pass as constants."""
    return jax.tree.map(lambda leaf: _no_derivative(mode, leaf) if is_inexact(leaf) else leaf, tree)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _no_derivative(mode, x):
    return x


@_no_derivative.defjvp
def _no_derivative_jvp(mode, primals, tangents):
    raise TypeError(f"Network: mode {mode!r} has a first derivative only; for higher ones use mode 'exact'")
