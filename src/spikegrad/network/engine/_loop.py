"""The loop over time, with a derivative of its own.

``jax.lax.scan`` saves for its backward pass the inputs of its body and what the derivative of its body needs: of
leaky integrate-and-fire neurons three arrays of ``(steps, batch, neurons)`` for each layer. One is enough. All that
happens at a spike (the spike, the reset, the slope) is an elementwise function of the state before it, and cheap to
compute again; the product that led to this state is dear, and is not needed again. So the forward pass keeps the
pre-spike state of each step, in as many bits as the mode says, and the backward pass rebuilds the rest from it.

::

    forward    for each segment                 segments: what is kept is the pre-spike state at their start alone,
                 for each chunk                           and the backward pass runs them forward again
                   for each layer, upwards
                     weight products of the chunk, then its steps one by one

    backward   for each segment, from the last
                 for each chunk, from the last
                   for each layer, downwards
                     rebuild states and outputs; steps one by one; weight gradients of the chunk

=========================  ==============================================================================
``inputs``                 ``(steps, batch, features)``
kept, of each layer        ``(chunks, chunk, batch, neurons)``, or with segments ``(segments, batch, neurons)``
outputs, of each layer     ``(chunks, chunk, batch, neurons)``, merged at the end into ``(steps, ...)``
carry, forward             of each layer the last pre-spike state, and the state and output after it
carry, backward            of each layer the cotangent of state and output, and the gradients so far
=========================  ==============================================================================

Why the pre-spike state and not the potential after the reset: a reset cannot be undone, a spike can be repeated.
Rebuilding from checkpoints is Griewank and Walther 2000 ("Algorithm 799: revolve", ACM TOMS 26) with one level;
chunks of products that need not wait are those of cuDNN's recurrent networks (Appleyard, Kocisky, Blunsom 2016,
arXiv:1604.01946).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._compat import match_varying_axes, merge_leading, zeros_like
from ..._pytree import inexact, is_inexact
from .._layer import Layer
from .._masks import Masks, cut_off, tree_where
from .._schedule import Part, Plan
from .._step import LayerState
from ._functions import zero_cotangent
from ._layer_vjp import GRADIENTS, LayerVjp, trace_all


def run(
    layers: Sequence[Layer],
    inputs: jax.Array,
    states: list[LayerState],
    masks: Masks,
    key: jax.Array | None,
    plan: Plan,
    mark: Callable[[Any], Any],
) -> tuple[list[LayerState], list]:
    """Return the states after the last step, and for each layer its outputs and pre-spike states, or None.

    ``mark`` is applied to all arrays with a derivative.
    """
    traced, arrays, pre_spike = map(list, zip(*trace_all(layers, inputs[0], states, key), strict=True))
    parts = plan.parts(len(inputs), per_step=all(equations.per_step for equations in traced))
    arrays, inputs, states = mark((match_varying_axes(arrays, like=inputs), inputs, states))
    # A second part takes the remaining steps if the number of steps is not a multiple of a chunk or segment.
    collected = []
    for part in parts:
        states, shown = _run_part(plan, traced, part, arrays, inputs, pre_spike, states, masks)
        collected.append(shown)
    if len(parts) == 1:
        return states, collected[0]
    return states, jax.tree.map(lambda *a: jnp.concatenate(a), *collected)


def _run_part(plan, traced, part, arrays, inputs, pre_spike, states, masks):
    segmented = part.segment < part.steps
    firsts = np.arange(0, part.steps, part.segment)
    whole = part.steps == len(inputs)
    masks = masks if whole else masks.part(part.start, part.start + part.steps)

    # Both passes build this from their own arguments, because a function with a custom derivative must not close over
    # arrays.
    def sequence(arrays, inputs, starts, masks):
        if any("key" in own for own in arrays):
            masks = masks.numbered(part.start)
        layers = [
            LayerVjp(equations, own, plan.unroll, low_memory=plan.storage.encodes or segmented)
            for equations, own in zip(traced, arrays, strict=True)
        ]
        return _Sequence(plan, part, layers, inputs, starts, masks)

    def forward(arrays, inputs, pre_spike, starts, masks, storage):
        over = sequence(arrays, inputs, starts, masks)
        if not segmented:
            # shown: (chunks, chunk, batch, neurons) -> (steps, batch, neurons). The residuals keep the axis of chunks,
            # because the backward pass reads them by chunk.
            _, ends, shown, kept = over.forward(0, pre_spike, storage)
            return (ends, jax.tree.map(merge_leading, shown)), kept

        # Scan over segments. Carry: pre-spike state and state of each layer, each (batch, neurons). Stacked: outputs
        # (segments, chunks, chunk, batch, neurons), and the residuals ``us``, (segments, batch, neurons), unrounded.
        def segment(carry, first):
            us, _ = carry
            new, ends, shown, _ = over.forward(first, us, None)
            return (new, ends), (shown, us)

        (_, ends), (shown, kept) = jax.lax.scan(segment, (pre_spike, starts), firsts)
        return (ends, jax.tree.map(lambda a: merge_leading(merge_leading(a)), shown)), kept

    @jax.custom_vjp
    def loop(arrays, inputs, pre_spike, starts, masks):
        return forward(arrays, inputs, pre_spike, starts, masks, None)[0]

    def loop_forward(arrays, inputs, pre_spike, starts, masks):
        out, kept = forward(arrays, inputs, pre_spike, starts, masks, plan.storage)
        return out, (arrays, inputs, pre_spike, starts, masks, kept)

    def loop_backward(residuals, cotangents):
        # A second derivative would treat the codes as constants and be silently wrong.
        if plan.storage.orders < 2:
            residuals, cotangents = _first_order_only(plan.mode, (residuals, cotangents))
        arrays, inputs, pre_spike, starts, masks, kept = residuals
        ct_ends, ct_shown = cotangents
        over = sequence(arrays, inputs, starts, masks)
        ct_ends, ct_shown = inexact((ct_ends, ct_shown))
        # The gradients of each part start at zero, because JAX adds the cotangents of both parts.
        trained = [{name: a for name, a in own.items() if name in GRADIENTS} for own in arrays]
        grads = match_varying_axes(zero_cotangent(trained), like=inputs)
        carry = list(zip(ct_ends, grads, strict=True))
        if not segmented:
            carry, ct_inputs = over.backward(0, pre_spike, kept, carry, ct_shown)
        else:
            # Scan over segments, from last to first. Carry: for each layer the cotangents of its state, (batch,
            # neurons), and its gradients. Each segment is recomputed from the pre-spike states at its start. Firing
            # them again gives the states, so the residuals do not contain these (Griewank and Walther 2000).
            def segment(carry, now):
                first, us = now
                *_, kept = over.forward(first, us, plan.storage)
                return over.backward(first, us, kept, carry, ct_shown)

            carry, ct_inputs = jax.lax.scan(segment, carry, (firsts, kept), reverse=True)
            ct_inputs = jax.tree.map(merge_leading, ct_inputs)
        if ct_inputs is not None:
            ct_inputs = merge_leading(ct_inputs)
            if not whole:
                # The argument of the loop is the whole sequence, because a slice of the inputs would be a copy.
                ct_inputs = jax.lax.dynamic_update_slice_in_dim(zeros_like(inputs), ct_inputs, part.start, 0)
        ct_starts, grads = zip(*carry, strict=True)
        ct_arrays = [{name: new.get(name) for name in own} for own, new in zip(arrays, grads, strict=True)]
        return ct_arrays, ct_inputs, None, list(ct_starts), None

    loop.defvjp(loop_forward, loop_backward)
    return loop(arrays, inputs, pre_spike, states, masks)


class _Sequence(NamedTuple):
    """What both passes are given. They go over one segment at a time, from the step ``first`` of the part on.

    ``us`` are the pre-spike states of the step before it.
    """

    plan: Plan
    part: Part
    layers: list[LayerVjp]
    inputs: jax.Array
    starts: list
    masks: Masks

    def window(self, start):
        """Inputs and masks of a chunk."""
        return _window(self.inputs, self.part.start + start, self.part.chunk), self.masks_of(start)

    def masks_of(self, start):
        return _window(self.masks, start, self.part.chunk)

    def number_before(self, step):
        """The number of the last step that had taken place before this one; if there is none, it does not matter."""
        return None if self.masks.number is None else self.masks.number[jnp.maximum(step - 1, 0)]

    def forward(self, first, us, storage):
        """Pre-spike states and states after the segment, what is returned of its steps, and what is kept."""

        # Scan over chunks. Carry: pre-spike state and state of each layer, each (batch, neurons). ``x`` passes upwards:
        # (chunk, batch, inputs), then (chunk, batch, neurons) of each layer. Stacked: (chunks, chunk, batch, neurons).
        def chunk(carry, start):
            x, masks = self.window(start)
            shown, kept = [], []
            for n, layer in enumerate(self.layers):
                u, state = carry[n]
                carry[n], (x, pre_spike, k) = layer.forward(u, state, x, masks, storage, self.plan.pre_spike[n])
                shown.append((x if self.plan.outputs[n] else None, pre_spike))
                kept.append(k)
            return carry, (shown, kept)

        # The states at the start of a segment follow from the pre-spike states one step before. An example without an
        # active step so far still has its initial state.
        started = self.masks.started[first]
        last = self.number_before(first)
        fired = [layer.fire(u, last) for layer, u in zip(self.layers, us, strict=True)]
        carry = list(zip(us, tree_where(started, fired, self.starts), strict=True))
        starts = first + self.part.chunk * jnp.arange(self.part.segment // self.part.chunk)
        carry, (shown, kept) = jax.lax.scan(chunk, carry, starts)
        us, ends = zip(*carry, strict=True)
        return list(us), list(ends), shown, kept

    def backward(self, first, us, kept, carry, ct_shown):
        """Back over the segment; the carry: of each layer, cotangents of the state after it, gradients so far."""
        storage, chunk = self.plan.storage, self.part.chunk

        def pre_spike(n, i, t):
            """The pre-spike state of layer n at step t of chunk i."""
            return self.layers[n].load(storage, jax.tree.map(lambda k: k[i, t], kept[n]))

        def rebuild(n, i):
            """States and outputs of layer n before each step of chunk i, and the outputs of each step."""
            start, fire = self.starts[n], self.layers[n].fire
            masks = self.masks_of(first + i * chunk)

            def ended(t, mask):
                started = None if mask.active is None else mask.active | mask.started
                return tree_where(started, fire(pre_spike(n, i, t), mask.number), start)

            # The step before the chunk is the last one of the previous chunk, or of the previous segment (``us``).
            last = tree_where(i > 0, pre_spike(n, jnp.maximum(i - 1, 0), -1), us[n])
            before = tree_where(masks.started[0], fire(last, self.number_before(first + i * chunk)), start)
            # vmap over the steps of the chunk. ``ended`` is elementwise: (batch, neurons) -> (chunk, batch, neurons).
            after = jax.vmap(ended)(jnp.arange(chunk), masks)
            befores = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), before, after)
            # A second derivative must stop at the start of a window here too, as in the forward pass.
            return cut_off(masks, befores), after[1]

        def inputs_of(n, i):
            """What layer n is given in chunk i. Outputs of steps that do not take place do not matter."""
            return rebuild(n - 1, i)[1] if n else self.window(first + i * chunk)[0]

        # Scan over chunks, from last to first. Carry: for each layer the cotangents of its state after the chunk,
        # (batch, neurons), and its gradients. ``ct_above``, (chunk, batch, neurons), passes downwards. The cotangents
        # of the inputs are stacked: (chunks, chunk, batch, inputs).
        def body(carry, i):
            masks = self.masks_of(first + i * chunk)
            cts = _window(ct_shown, first + i * chunk, chunk)
            ct_above = None
            for n, layer in reversed(list(enumerate(self.layers))):
                ct_end, grads = carry[n]
                ct_out, ct_pre_spike = cts[n]
                ct_outs = [ct for ct in (ct_out, ct_above) if ct is not None]
                ct_start, grads, ct_steps = layer.backward_steps(
                    ct_end,
                    grads,
                    (sum(ct_outs[1:], ct_outs[0]) if ct_outs else None, ct_pre_spike),
                    rebuild(n, i)[0],
                    inputs_of(n, i),
                    functools.partial(pre_spike, n, i),
                    masks,
                )
                # Each matmul below needs a temporary of the size of its gradient, and rebuilt states and outputs of
                # (chunk, batch, neurons). Without barriers, XLA may run the matmuls in parallel and keep all of these
                # arrays alive. The first barrier delays the recurrent weights until phase 1 has ended. Rebuilding from
                # ``late`` instead of ``i`` prevents XLA from sharing arrays with phase 1.
                late, ct_steps = jax.lax.optimization_barrier((i, ct_steps))
                grads = layer.backward_recurrent(grads, rebuild(n, late)[0][1], ct_steps)
                # The second barrier delays the input weights until the recurrent weights are done.
                late, ct_steps, grads = jax.lax.optimization_barrier((late, ct_steps, grads))
                grads, ct_above = layer.backward_weight(grads, inputs_of(n, late), ct_steps)
                carry[n] = ct_start, grads
            return carry, ct_above

        return jax.lax.scan(body, carry, jnp.arange(self.part.segment // chunk), reverse=True)


def _first_order_only(mode: str, tree: Any) -> Any:
    """Identity that raises when differentiated: quantised residuals would pass as constants."""
    return jax.tree.map(lambda leaf: _no_derivative(mode, leaf) if is_inexact(leaf) else leaf, tree)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _no_derivative(mode, x):
    return x


@_no_derivative.defjvp
def _no_derivative_jvp(mode, primals, tangents):
    raise TypeError(f"Network: mode {mode!r} has a first derivative only; for higher ones use mode 'exact'")


def _window(tree: Any, start: Any, length: int) -> Any:
    """Some steps of a sequence, looked up where they are used, since another layout of it may be a copy."""
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, length), tree)
