"""The backward pass over one segment. It rebuilds outputs and adds each cotangent to its source."""

from __future__ import annotations

import collections
import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._checks import append_axes
from ..._compat import merge_leading
from ..._pytree import PyTree, is_inexact
from ..graph._connections import reads_of, select
from ..step._masks import steps_before, tree_keep, tree_where
from ..step._past import active_first, pick, places_of, push
from ..step._step import parts_of
from ._component import StepSlices
from ._functions import pullback
from ._late_scan import late_scan
from ._layer_vjp import DRIVE
from ._sequence import Sequence, Sources, Span, window_of


def backward(over: Sequence, span: Span, carry: tuple, ct_recorded: dict) -> tuple:
    """Run backward over a segment, see ``_Chunk``.

    Carry: the cotangents of states and pasts after it, and the gradients.
    """
    chunk = over.part.chunk

    # Scan over chunks, from last to first. Carry: the number of the chunk, the cotangents of the
    # states after it, (batch, neurons), cotangents of the pasts, (depth, batch, neurons), and the
    # gradients. Cotangents of inputs are stacked: (chunks, chunk, batch, inputs).
    def body(carry, _):
        i, ct_states, ct_ends, grads = carry
        back = _Chunk(over, span, i)
        recorded = window_of(ct_recorded, back.start, chunk)
        cts = _Cotangents(back, ct_states, grads, recorded)
        # The order matters: a source needs all cotangents of its outputs before its own steps run.
        # Its readers are in later components. A reader of a past adds to the cotangent of earlier
        # chunks.
        cts.ended(ct_ends)
        # Components are sorted with sources first, so the reverse order runs all readers before a
        # source.
        for component in reversed(over.loops):
            cts.of_component(component)
        ct_inputs = {
            name: _total(cts.outs[name])
            for name, x in over.inputs.items()
            if cts.outs[name] and is_inexact(x)
        }
        return (
            i - 1,
            cts.of_states(),
            {source: _total(cts.pasts[source]) for source in ct_ends},
            cts.grads,
        ), ct_inputs

    chunks = over.part.segment // chunk
    # The carry counts the chunks, because XLA reads a slice of numbers by a copy, and a GPU then
    # cannot capture the body as one graph.
    (_, ct_states, ct_ends, grads), ct_inputs = late_scan(
        body,
        (jnp.asarray(chunks - 1), *carry),
        None,
        ready=over.when_ready(ct_recorded),
        length=chunks,
        reverse=True,
    )
    return (ct_states, ct_ends, grads), ct_inputs


class _Cotangents:
    """The cotangents of one chunk, collected per source."""

    def __init__(self, back, ct_states, grads, ct_outs):
        self.back = back
        self.over = back.over
        # copies, because the methods below replace entries, and the arguments belong to the carry
        # of the scan
        self.states = dict(ct_states)
        self.grads = dict(grads)
        # Lists, because a source may have several readers. They are added when the source runs,
        # so nothing is added to zeros.
        self.outs = collections.defaultdict(list)
        """The cotangents of each source's outputs, (chunk, batch, ...), to be added."""
        for name, ct in ct_outs.items():
            if ct is not None:  # integers do not have a cotangent
                self.outs[name].append(ct)
        self.pasts = collections.defaultdict(list)
        """The cotangents of each source's past before the chunk, (depth, batch, ...), to be added.
        """

    def ended(self, ct_ends):
        """Add the cotangents of the pasts after the chunk."""
        # A past after the chunk contains outputs of this chunk and, if it is longer, of the past
        # before.
        for source, ct in ct_ends.items():
            self._to_source(
                source,
                lambda past, outs: push(past, outs, self.back.sources.places),
                ct,
                within=True,
            )

    def _to_source(self, source, view, ct, within):
        """Add the cotangent of a view of a source.

        ``within``: the view contains outputs of this chunk.
        """
        # A view is linear, so the rebuilt values are unused and XLA removes them. Only their shapes
        # matter.
        ct_past, ct_out = pullback(
            view, ct, self.back.past(source), self.back.outs(source)
        )
        self.pasts[source].append(ct_past)
        if within:
            self.outs[source].append(ct_out)

    def _send(self, edges, ct_reads):
        """Add the cotangents of reads to their sources."""
        for edge in edges:
            cts = ct_reads[edge.label] if edge.windowed else (ct_reads[edge.label],)
            for lag, ct in zip(edge.lags, cts, strict=True):
                if ct is None:  # integers do not have a cotangent
                    continue
                if lag == 0:  # all of ct belongs to outputs of this chunk
                    self.outs[edge.source].append(ct)
                    continue
                # ct: (chunk, batch, neurons). The first ``lag`` steps belong to the past, (depth,
                # batch, neurons). Later steps belong to outputs of this chunk.
                view = functools.partial(self.back.sources.view, lag=lag)
                self._to_source(
                    edge.source, view, ct, within=lag < self.over.part.chunk
                )

    def of_component(self, component):
        if component.at_once:
            ((name, edges),) = component.hoisted.items()
            self._of_join(name, edges)
            return
        ct_hoisted = self._of_steps(component)
        # ct_hoisted: (chunk, batch, neurons) for the products of a layer, and (chunk, batch, ...)
        # for reads.
        for name, node in reversed(component.nodes.items()):
            if name in component.layers and not node.per_step:
                self._of_weights(component, name, ct_hoisted[name])
            else:  # the steps have added its gradients
                self._send(component.hoisted[name], ct_hoisted[name])

    def _of_join(self, name, edges):
        if not self.outs[name]:
            return  # it has no readers, so its cotangent is zero
        # Outputs of masked steps are zeros, so their cotangents are dropped.
        ct = tree_keep(self.back.masks.active, _total(self.outs[name]))
        self.grads[name], ct_reads = self.over.joins[name].backward(
            self.grads[name], self.back.sources.reads(edges), ct
        )
        self._send(edges, ct_reads)

    def _of_steps(self, component):
        """Run phase 1, the steps one by one, see :meth:`Component.backward_steps`."""
        back = self.back
        reads = back.sources.reads
        layers = component.layers
        hoisted = component.arguments(reads)
        # All outputs of the chunk are known here. One product of (chunk, batch, inputs) and a
        # matrix computes the currents of all steps, (chunk, batch, neurons).
        currents = {
            name: jax.vmap(layer.current)(
                (hoisted[name], reads(component.within[name]))
            )
            for name, layer in layers.items()
            if component.within[name] and not layer.per_step
        }
        cts = {
            part: _total(self.outs[part])
            for name in component.nodes
            for part in parts_of(name)
            if self.outs[part]
        }
        # States before each step, (chunk, batch, neurons), and pasts, (chunk, depth, batch,
        # neurons).
        states = {name: back.steps(name) for name in layers}
        pasts = {name: back.befores(name, n) for name, n in component.depths.items()}
        steps = jnp.arange(self.over.part.chunk)
        results = component.backward_steps(
            select(self.states, layers),
            select(self.grads, component.nodes),
            StepSlices(steps, cts, states, pasts, hoisted, currents, back.masks),
            back.pre_spike,
        )
        self.states |= results.states
        self.grads |= results.grads
        for source, ct in results.pasts.items():
            # The steps carry only the newest outputs of a past. Older outputs get zeros.
            newest = operator.itemgetter(slice(-len(ct), None))
            self.pasts[source] += pullback(newest, ct, back.span.pasts[source])
        return results.hoisted

    def _of_weights(self, component, name, ct):
        """Run phase 2, the weights of a layer, for all steps of the chunk at once."""
        layer = component.layers[name]
        # Each matmul below needs a temporary of the size of its gradient, and rebuilt outputs of
        # (chunk, batch, neurons). Without barriers, XLA may run the matmuls in parallel and keep
        # all of these arrays alive. The first barrier delays the recurrent weights until phase 1
        # has ended. Layers fire again behind it, so XLA does not keep arrays of phase 1.
        i, ct = jax.lax.optimization_barrier((self.back.i, ct))
        back = self.back.again(i)
        grads = self.grads[name]
        if component.within[name]:
            # The steps have already sent the cotangents of these reads to their sources, so only
            # the gradients are used.
            reads = back.sources.reads(component.within[name])
            cts = dict.fromkeys(reads, ct[DRIVE])
            grads, _ = layer.backward_products(grads, reads, cts)
            # The second barrier delays the input weights until the recurrent weights are done.
            # Without recurrent weights it would only keep gradients that no caller needs.
            ct, grads = jax.lax.optimization_barrier((ct, grads))
        edges = component.hoisted[name]
        self.grads[name], ct_reads = layer.backward_hoisted(
            grads, back.sources.reads(edges), ct
        )
        self._send(edges, ct_reads)

    def of_states(self):
        """Return the cotangents of the states before the chunk, including reads by other layers."""
        ct_states = dict(self.states)
        for name, (ct_v, ct_out) in self.states.items():
            if name not in self.back.span.pasts and self.pasts[name]:
                # A past with depth 1 is the last output in the state: (1, batch, neurons) ->
                # (batch, neurons).
                ct_states[name] = ct_v, ct_out + _total(self.pasts[name])[0]
        return ct_states


def _once(method: Callable) -> Callable:
    """Remember what a method rebuilds of a source, because each reader of the source asks."""

    @functools.wraps(method)
    def rebuild(self, source):
        key = method.__name__, source
        if key not in self.rebuilt:
            self.rebuilt[key] = method(self, source)
        return self.rebuilt[key]

    return rebuild


@dataclasses.dataclass(eq=False)
class _Chunk:
    """A chunk of a segment: states, outputs and pasts, rebuilt from the residuals."""

    over: Sequence
    span: Span
    i: jax.Array
    """The number of the chunk."""
    rebuilt: dict[tuple, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = self.span.first + self.i * self.over.part.chunk
        self.inputs, self.masks = self.over.window(self.start)
        places = places_of(self.masks.active)
        self.sources = Sources(self.past, self.outs, self.masks, places)

    def again(self, i):
        """Return the same chunk, whose layers fire again. Joins do not run again."""
        # The index is behind a barrier, so XLA does not share arrays with this chunk. For joins it
        # would have to run all layers below again.
        joins = {k: v for k, v in self.rebuilt.items() if k[1] in self.over.joins}
        return dataclasses.replace(self, i=i, rebuilt=joins)

    def pre_spike(self, name, t):
        """Return the pre-spike state of a layer at step t of the chunk."""
        # (chunks, chunk, batch, neurons) -> (batch, neurons), from the residual of this step only,
        # because a chunk of residuals would be a copy.
        residual = at_index(at_index(self.span.residuals[name], self.i), t)
        return self.over.layers[name].load(residual)

    @_once
    def fired(self, name):
        """Return states and outputs of a layer after each step."""
        active, started, number, _ = self.masks
        started = None if active is None else active | started
        # vmap over the steps of the chunk. Its functions are elementwise: (batch, neurons) ->
        # (chunk, batch, neurons).
        residuals = at_index(self.span.residuals[name], self.i)
        u = jax.vmap(self.over.layers[name].load)(residuals)
        return jax.vmap(functools.partial(self.over.fired, name))(u, started, number)

    @_once
    def steps(self, name):
        """Return states and outputs of a layer before each step."""
        over = self.over
        # The step before the chunk is the last one of the previous chunk, or of the previous
        # segment (``us``).
        residuals = at_index(self.span.residuals[name], jnp.maximum(self.i - 1, 0))
        last = over.layers[name].load(jax.tree.map(lambda a: a[-1], residuals))
        u = tree_where(self.i > 0, last, self.span.us[name])
        before = over.state_before(name, self.start, u)
        return jax.tree.map(
            lambda a, b: jnp.concatenate([a[None], b[:-1]]), before, self.fired(name)
        )

    @_once
    def outs(self, source):
        """Return the outputs of a source. Outputs of masked steps are unused."""
        over = self.over
        # The inputs are residuals of the complete loop, so a chunk slices them again: (chunk,
        # batch, ...).
        if source in over.inputs:
            return self.inputs[source]
        if source in over.layers:
            return self.fired(source)[1]
        # A join of joins would be one kernel of all layers below. With a barrier each join is a
        # kernel that reads the one below, and XLA compiles equal kernels once.
        reads = self.sources.reads(over.edges[source])
        return jax.lax.optimization_barrier(over.joins[source].over_chunk(reads))

    @_once
    def past(self, source):
        """Return the past of a source before the chunk."""
        if source not in self.span.pasts:
            return self.steps(source)[1][:1]
        over = self.over
        old = self.span.pasts[source]
        depth = len(old)
        # Outputs are not stored. The pre-spike states fire again.
        # Relative places -depth to -1, the oldest first.
        back = jnp.arange(depth) - depth
        # Each example has separate last active steps: (depth,) or (depth, batch).
        active = over.masks.active
        before = steps_before(active, len(over.masks.started))
        order = before if active is None else active_first(active)
        since = before[self.span.first][None]
        # Count from the start of the segment. Earlier outputs are in the stored past.
        steps = before[self.start][None] + append_axes(back, before.ndim) - since
        inside = steps >= 0
        when = pick(order, jnp.maximum(steps + since, 0)) - self.span.first
        when = jnp.where(inside, when, 0)
        # Clipped, because ``where`` below computes both sides and an index must be valid in
        # either.
        old = pick(old, jnp.clip(steps + depth, 0, depth - 1))
        return tree_where(inside, self._outputs_at(source, when).astype(old.dtype), old)

    def _outputs_at(self, source, steps):
        """Return the outputs of a source at steps of the segment, ``(n,)`` or ``(n, batch)``."""
        over = self.over
        if source in over.inputs:
            return pick(over.inputs[source], over.part.start + self.span.first + steps)
        if source in over.layers:
            # (chunks, chunk, batch, ...) -> (steps, batch, ...)
            chosen = pick(
                jax.tree.map(merge_leading, self.span.residuals[source]), steps
            )
            numbers = pick(over.masks.number, self.span.first + steps)
            # vmap over the chosen steps, (n,) or (n, batch).
            return jax.vmap(over.layers[source].outputs)(chosen, numbers)
        # The outputs of a join follow from its sources at these steps.
        reads = reads_of(over.edges[source], lambda of, _: self._outputs_at(of, steps))
        return over.joins[source].over_chunk(reads)

    def befores(self, source, depth):
        """Return the past of a source before each step, ``(chunk, depth, batch, neurons)``."""
        # One read for each place of the past, the oldest first, as ``push`` orders them. The new
        # axis is second, because the scan over steps slices the first axis.
        lags = range(depth, 0, -1)
        return jnp.stack([self.sources.lagged(source, lag) for lag in lags], 1)


def at_index(tree: PyTree, i: jax.Array) -> PyTree:
    """Return ``a[i]`` of arrays, for an index that is not negative."""
    return jax.tree.map(
        lambda a: jax.lax.dynamic_index_in_dim(
            a, i, keepdims=False, allow_negative_indices=False
        ),
        tree,
    )


def _total(cts: list[jax.Array]) -> jax.Array:
    return sum(cts[1:], cts[0])
