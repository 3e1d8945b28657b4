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

What is not optimal: steps that remain after equal chunks or segments are a second loop, which takes
as long to compile as the first. The cotangent of the inputs of each part has the steps of all
parts. Checkpoints have one level, so their memory grows with the square root of the steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.tree_util import Partial

from ..._compat import match_varying_axes, merge_leading, spread_as, zeros_like
from ..._device import Device, Work
from ..._pytree import PyTree, inexact, is_inexact
from ...neurons import State
from ..graph._connections import Name, NamedArrays, NamedTrees
from ..graph._graph import Graph
from ..step._masks import Masks, tree_keep, tree_where
from ..step._states import StatesAndPasts
from ._backward import at_index, backward
from ._component import Cotangents, ForwardCarry
from ._functions import Arrays
from ._late_scan import late_scan
from ._layer_vjp import JoinVjp, LayerVjp, trace_all
from ._part_loop import LoopArguments, PartLoop, Segment
from ._schedule import RESIDUALS, Plan, schedule


class LoopResults(NamedTuple):
    """The results of the loop over a part."""

    ends: StatesAndPasts
    """The states and pasts after the part, in the shapes of ``LoopArguments.starts``."""
    recorded: NamedTrees
    """The requested outputs, ``(steps of the part, batch, neurons)``."""
    residuals: NamedTrees
    """The stored pre-spike states, ``(chunks, chunk, batch, neurons)``, if a later stage may
    compute outputs from them. Otherwise empty.
    """


def run(
    graph: Graph,
    inputs: NamedArrays,
    starts: StatesAndPasts,
    masks: Masks,
    key: jax.Array | None,
    plan: Plan,
) -> tuple[StatesAndPasts, NamedTrees, dict[Name, Callable]]:
    """Return the states and pasts after the last step, and the requested outputs of each step.

    If the network runs in stages, the third value has a function of the masks for some layers. It
    recomputes the outputs of a layer from the residuals, and exists if they determine these outputs
    exactly.
    """
    # Traced on the first step, because all steps have equal shapes: (steps, batch, features) ->
    # (batch, features).
    first_step = {name: x[0] for name, x in inputs.items()}
    states, pasts = starts
    traced, arrays, pre_spike = trace_all(graph, first_step, states, pasts, key, plan)
    work = _work_of(traced, arrays, pre_spike)
    # In ``shard_map`` the inputs differ between devices. The weights get their type, because the
    # gradients are in the carry of the backward scan, and a scan must not change the types of its
    # carry.
    arrays = match_varying_axes(arrays, like=inputs)
    # A second part takes the remaining steps if the number of steps is not a multiple of a chunk or
    # segment.
    # The states after one part start the next. Their derivatives pass between the parts as
    # those of ordinary arrays.
    parts = schedule(len(masks.started), plan.backward, plan.device, work)
    results: list[LoopResults] = []
    for part in parts:
        part_masks = masks.part(part.start, part.start + part.steps)
        groups = graph.components(part.chunk)
        # Both passes get the arrays as arguments. The loop does not have the graph, because JAX
        # keeps the backward pass, and functions of the graph may refer to tracers of the caller.
        loop_of = functools.partial(PartLoop, plan, part, groups, graph.edges, traced)
        arguments = LoopArguments(arrays, inputs, pre_spike, starts, part_masks)
        results.append(run_part(plan, loop_of, arguments))
        starts = results[-1].ends
    recomputes = {}
    for name, layer in traced.items():
        if not isinstance(layer, LayerVjp) or name not in results[0].residuals:
            continue
        if layer.is_rebuilt_exactly:
            recompute = functools.partial(_recompute_outputs, layer, plan.device)
            residuals = [result.residuals[name] for result in results]
            # ``Partial`` is a pytree, so a stage inside ``jax.checkpoint`` can return it.
            recomputes[name] = Partial(recompute, arrays[name], residuals)
    # (steps of one part, batch, neurons) -> (steps, batch, neurons)
    recorded = [result.recorded for result in results]
    outputs = jax.tree.map(lambda *by_part: jnp.concatenate(by_part), *recorded)
    return starts, outputs, recomputes


def _work_of(
    traced: dict[Name, LayerVjp | JoinVjp],
    arrays: dict[Name, dict[str, Arrays]],
    states: dict[Name, State],
) -> Work:
    """Return the work of a step, from sizes only, so it is fixed when the program is traced."""

    def size_of_leaf(leaf: jax.Array) -> int:
        # An exported program may have a symbolic number of examples, which counts as one.
        return math.prod(n for n in leaf.shape if isinstance(n, int))

    def size(tree: PyTree) -> int:
        return sum(map(size_of_leaf, jax.tree.leaves(tree)))

    # A chunk reads the weights of its products once instead of once per step. For convolutions it
    # only adds arrays of (chunk, batch, neurons), which a single step keeps in the cache.
    at_once = [arrays[name] for name, node in traced.items() if not node.per_step]
    weights = size(at_once)
    neurons = size(states)
    has_convolution = len(at_once) < len(traced)
    convolves = has_convolution and weights <= neurons
    return Work(len(states), convolves, weights, neurons)


def _recompute_outputs(
    layer: LayerVjp,
    device: Device,
    arrays: dict[str, Arrays],
    residuals: list[PyTree],
    masks: Masks,
) -> jax.Array:
    """Return the outputs of a layer in all steps, ``(steps, batch, ...)``.

    ``residuals`` has the stored pre-spike states of each part, ``(chunks, chunk, batch, ...)``.
    """
    layer = layer._replace(arrays=arrays)

    # One chunk at a time, because all steps at once would need several temporaries of their size.
    # The number of a step selects its keys.
    def chunk(carry: None, now: tuple[PyTree, jax.Array]) -> tuple[None, jax.Array]:
        return carry, jax.vmap(layer.outputs)(*now)

    outs = []
    start = 0
    for part in residuals:
        # chunk: (chunk, batch, neurons) per iteration, stacked to (chunks, chunk, batch, neurons)
        # and merged.
        shape = jax.tree.leaves(part)[0].shape[:2]
        steps = math.prod(shape)
        numbers = start + jnp.arange(steps).reshape(shape)
        first = jax.tree.map(lambda a: a[0], part)
        _, chunks = late_scan(
            chunk,
            None,
            (part, numbers),
            ready=first if device.allocates_early else None,
        )
        outs.append(merge_leading(chunks))
        start += steps
    return tree_keep(masks.active, jnp.concatenate(outs))


def run_part(
    plan: Plan,
    loop_of: Callable[[LoopArguments], PartLoop],
    arguments: LoopArguments,
) -> LoopResults:
    """Run the loop over a part, with a custom derivative."""

    # Without differentiation JAX runs ``loop``, which stores residuals only for a later stage.
    # To differentiate, JAX runs ``loop_forward`` and ``loop_backward``.
    @jax.custom_vjp
    def loop(arguments: LoopArguments) -> LoopResults:
        part_loop = loop_of(arguments)
        results, _ = forward_of_part(part_loop, stores=part_loop.returns_residuals)
        return results

    def loop_forward(arguments: LoopArguments) -> tuple[LoopResults, tuple]:
        results, residuals = forward_of_part(loop_of(arguments), stores=True)
        return results, (arguments, residuals)

    def loop_backward(
        saved: tuple[LoopArguments, PyTree], ct_results: LoopResults
    ) -> tuple[LoopArguments]:
        # A second derivative would treat the codes as constants and be silently wrong.
        if plan.storage.orders < 2:
            saved, ct_results = _first_order_only(
                plan.backward.mode, (saved, ct_results)
            )
        arguments, residuals = saved
        # Integers have cotangents of type float0, which ``inexact`` replaces by None.
        ct_results = inexact(ct_results)
        return (backward_of_part(loop_of(arguments), residuals, ct_results),)

    loop.defvjp(loop_forward, loop_backward)
    return loop(arguments)


def forward_of_part(loop: PartLoop, *, stores: bool) -> tuple[LoopResults, PyTree]:
    """Return the results and the residuals. ``stores`` is False if no pass reads them.

    The residuals are the stored pre-spike states of each layer, ``(chunks, chunk, batch,
    neurons)``. With segments they are the pre-spike states and the pasts after each segment,
    ``(segments, batch, neurons)`` and ``(segments, depth, batch, neurons)``, unrounded.
    """
    arguments = loop.arguments
    part = loop.part
    carry = ForwardCarry(arguments.pre_spike, *arguments.starts)
    if part.has_segments:
        # They are stored after a segment, where they are computed. To store the carry, XLA
        # would start a copy on its own.
        def segment(
            carry: ForwardCarry, first: jax.Array
        ) -> tuple[ForwardCarry, tuple[PyTree, PyTree]]:
            carry, recorded, _ = loop.forward(first, carry, stores=False)
            return carry, (recorded, (carry.pre_spike, carry.pasts))

        first_steps = np.arange(0, part.steps, part.segment)
        ends, (recorded, residuals) = late_scan(
            segment,
            carry,
            first_steps,
            ready=loop.first_chunk(loop.inputs, part.start),
        )
        # (segments, chunks, chunk, batch, neurons) -> (all chunks, chunk, batch, neurons)
        recorded = jax.tree.map(merge_leading, recorded)
    else:
        ends, recorded, residuals = loop.forward(0, carry, stores=stores)
    # (chunks, chunk, batch, neurons) -> (steps, batch, neurons). The residuals keep the axis of
    # chunks, because the backward pass reads them by chunk.
    recorded = jax.tree.map(merge_leading, recorded)
    # No step reads the first pre-spike states, so no output depends on them.
    used = arguments._replace(pre_spike={})
    states_and_pasts = ends.states, ends.pasts
    states_and_pasts, recorded = _batched_alike((states_and_pasts, recorded), used)
    if loop.plan.staged:
        # The checkpoint of a stage saves the arrays with this name, and recomputes all others.
        name_residual = functools.partial(checkpoint_name, name=RESIDUALS)
        residuals = jax.tree.map(name_residual, residuals)
    returned = residuals if loop.returns_residuals else {}
    return LoopResults(states_and_pasts, recorded, returned), residuals


def backward_of_part(
    loop: PartLoop, residuals: PyTree, ct_results: LoopResults
) -> LoopArguments:
    """Return the cotangents of the arguments, from those of the results.

    None is a zero cotangent. The cotangent of the residuals among the results is zero, because
    a later stage gives recomputed outputs the derivative of the outputs.
    """
    arguments = loop.arguments
    inputs = loop.inputs
    # The gradients of each part start at zero, because JAX adds the cotangents of both parts.
    zeros = jax.tree.map(zeros_like, inexact(arguments.arrays))
    zeros = match_varying_axes(zeros, like=inputs)
    after = Cotangents(*ct_results.ends, zeros)
    if loop.part.has_segments:
        before, ct_inputs = backward_of_segments(
            loop, residuals, after, ct_results.recorded
        )
    else:
        _, pasts = arguments.starts
        segment = Segment(0, arguments.pre_spike, pasts, residuals)
        before, ct_inputs = backward(loop, segment, after, ct_results.recorded)
    # Inputs of integers have no cotangent.
    ct_sequences: dict[Name, jax.Array | None] = dict.fromkeys(inputs)
    # The loop takes the complete inputs, because a slice would be a copy. So the cotangent has
    # their shape (steps, batch, features), with zeros outside of this part.
    for name, ct in ct_inputs.items():
        zeros = zeros_like(inputs[name])
        ct_sequences[name] = jax.lax.dynamic_update_slice_in_dim(
            zeros, merge_leading(ct), loop.part.start, 0
        )
    # Masks are bools and integers, and no step reads the first pre-spike state.
    return arguments._replace(
        arrays=before.grads,
        inputs=ct_sequences,
        pre_spike=None,
        starts=(before.states, before.pasts),
        masks=None,
    )


def backward_of_segments(
    loop: PartLoop,
    residuals: PyTree,
    after: Cotangents,
    ct_recorded: NamedTrees,
) -> tuple[Cotangents, NamedArrays]:
    """Run each segment forward again and then backward, from last to first.

    Return the cotangents before the part, and those of its inputs, ``(chunks, chunk, batch,
    ...)``.
    """
    part = loop.part
    _, pasts_at_start = loop.arguments.starts
    start = loop.arguments.pre_spike, pasts_at_start

    # Each segment starts from the pre-spike states and pasts after the previous one. Firing
    # them again gives the states, so the residuals do not contain these (Griewank and Walther
    # 2000). The carry also has the number of the segment.
    def body(
        carry: tuple[jax.Array, Cotangents], _: None
    ) -> tuple[tuple[jax.Array, Cotangents], NamedArrays]:
        number, after = carry
        first = number * part.segment
        pre_spike, pasts = _before(number, residuals, start)
        states = {
            name: loop.state_before(name, first, pre_spike[name])
            for name in loop.layers
        }
        carry_before = ForwardCarry(pre_spike, states, pasts)
        stored = loop.forward(first, carry_before, stores=True).residuals
        segment = Segment(first, pre_spike, pasts, stored)
        before, ct_inputs = backward(loop, segment, after, ct_recorded)
        return (number - 1, before), ct_inputs

    segments = part.steps // part.segment
    last_segment = jnp.asarray(segments - 1)
    (_, before), ct_inputs = late_scan(
        body,
        (last_segment, after),
        None,
        ready=loop.first_chunk(ct_recorded),
        length=segments,
        reverse=True,
    )
    return before, jax.tree.map(merge_leading, ct_inputs)


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

    def tagged(out: jax.Array) -> jax.Array:
        tags = spread_as(tag.astype(out.dtype), out)
        return jnp.where(nowhere, tags, out)

    return jax.tree.map(tagged, outputs)


def _first_order_only(mode: str, tree: PyTree) -> PyTree:
    """Return the tree, and raise if it is differentiated.

    Quantized residuals would otherwise act as constants.
    """
    # Leaf by leaf, so JAX still removes leaves that no pass reads.
    return jax.tree.map(
        lambda leaf: _no_derivative(mode, leaf) if is_inexact(leaf) else leaf, tree
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _no_derivative(mode: str, x: jax.Array) -> jax.Array:
    return x


@_no_derivative.defjvp
def _no_derivative_jvp(
    mode: str, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> Any:
    raise TypeError(
        f"Network: mode {mode!r} has a first derivative only; for higher orders use mode 'exact'"
    )
