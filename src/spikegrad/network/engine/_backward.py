"""The backward pass over one segment. It rebuilds outputs and adds each cotangent to its source."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._checks import append_axes
from ..._compat import merge_leading, zeros_like
from ..._pytree import PyTree, is_inexact
from .._connections import Name, select
from .._masks import steps_before, tree_keep, tree_where
from .._past import active_first, after, pick, places_of
from ._functions import pullback
from ._layer_vjp import DRIVE
from ._sequence import Sequence, at_index, window_of


def backward(
    over: Sequence,
    first: int | jax.Array,
    us: dict,
    pasts: dict,
    residuals: dict,
    carry: tuple,
    ct_recorded: tuple,
) -> tuple:
    """Run backward over a segment.

    Carry: the cotangents of states and pasts after it, and the gradients.
    """
    chunk = over.part.chunk

    # Scan over chunks, from last to first. Carry: the cotangents of the states after the chunk,
    # (batch, neurons), cotangents of the pasts, (depth, batch, neurons), and the gradients.
    # Cotangents of inputs are stacked: (chunks, chunk, batch, inputs).
    def body(carry, i):
        ct_states, ct_ends, grads = carry
        back = _Chunk(over, first, i, us, pasts, residuals)
        recorded = window_of(ct_recorded, back.start, chunk)
        cts = _Cotangents(back, ct_states, grads, *recorded)
        # The order matters: a source needs all cotangents of its outputs before its own steps run.
        # Its readers are in later components. A reader of a past adds to the cotangent of earlier
        # chunks.
        cts.ended(ct_ends)
        # Components are sorted with sources first, so the reverse order runs all readers before a
        # source.
        for names in reversed(over.components):
            cts.of_component(names)
        ct_inputs = {
            name: _total(cts.outs[name])
            for name, x in over.inputs.items()
            if cts.outs[name] and is_inexact(x)
        }
        return (
            cts.of_states(),
            {source: _total(cts.pasts[source]) for source in ct_ends},
            cts.grads,
        ), ct_inputs

    return jax.lax.scan(
        body, carry, jnp.arange(over.part.segment // chunk), reverse=True
    )


class _Cotangents:
    """The cotangents of one chunk, collected per source."""

    def __init__(self, back, ct_states, grads, ct_outs, ct_pre_spike):
        self.back = back
        self.over = back.over
        # copies, because the methods below replace entries, and the arguments belong to the carry
        # of the scan
        self.states = dict(ct_states)
        self.grads = dict(grads)
        self.pre_spike = ct_pre_spike
        sources = (*self.over.inputs, *self.over.nodes)
        # Lists, because a source may have several readers. They are added when the source runs,
        # so nothing is added to zeros.
        self.outs = {
            source: [ct_outs[source]] if ct_outs.get(source) is not None else []
            for source in sources
        }
        """The cotangents of each source's outputs, (chunk, batch, ...), to be added."""
        self.pasts: dict[Name, list[jax.Array]] = {source: [] for source in sources}
        """The cotangents of each source's past before the chunk, (depth, batch, ...), to be added.
        """

    def ended(self, ct_ends):
        """Add the cotangents of the pasts after the chunk."""
        # A past after the chunk contains outputs of this chunk and, if it is longer, of the past
        # before.
        for source, ct in ct_ends.items():
            self._to_source(
                source,
                lambda past, outs: after(past, outs, self.back.places),
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
                def view(past, outs, source=edge.source, lag=lag):
                    return self.over.read(
                        source,
                        lag,
                        lambda _: past,
                        lambda _: outs,
                        self.back.masks,
                        self.back.places,
                    )

                self._to_source(
                    edge.source, view, ct, within=lag < self.over.part.chunk
                )

    def of_component(self, names):
        component = self.over.component(names)
        if component is None:
            self._of_join(*names)
            return
        ct_hoisted = self._of_steps(component)
        # ct_hoisted: (chunk, batch, neurons) for the products of a layer, and (chunk, batch, ...)
        # for the reads of a join.
        for name in reversed(names):
            if name in component.layers:
                self._of_weights(name, ct_hoisted[name])
            else:
                self._send(self.over.hoisted[name], ct_hoisted[name])

    def _of_join(self, name):
        if not self.outs[name]:
            return  # it has no readers, so its cotangent is zero
        edges = self.over.hoisted[name]
        # Outputs of masked steps are zeros, so their cotangents are dropped.
        ct = tree_keep(self.back.masks.active, _total(self.outs[name]))
        self.grads[name], ct_reads = self.over.joins[name].backward(
            self.grads[name], self.back.reads(edges), ct
        )
        self._send(edges, ct_reads)

    def _of_steps(self, component):
        """Run phase 1, the steps one by one, see :meth:`Component.backward_steps`."""
        over = self.over
        back = self.back
        layers = component.layers
        hoisted = over.step_arguments(
            {name: back.reads(over.hoisted[name]) for name in component.nodes}
        )
        # All outputs of the chunk are known here. One product of (chunk, batch, inputs) and a
        # matrix computes the currents of all steps, (chunk, batch, neurons).
        currents = {
            name: layer.current(
                (hoisted[name], back.reads(over.within[name])), layer.call_chunk
            )
            for name, layer in layers.items()
            if over.within[name] and not layer.per_step
        }
        # States before each step, (chunk, batch, neurons), and pasts, (chunk, depth, batch,
        # neurons).
        befores = (
            {name: back.steps(name) for name in layers},
            {
                name: back.befores(name, depth)
                for name, depth in component.depths.items()
            },
        )
        states, pasts, grads, ct_hoisted = component.backward_steps(
            select(self.states, layers),
            select(self.grads, component.nodes),
            (
                {
                    name: _total(self.outs[name])
                    for name in component.nodes
                    if self.outs[name]
                },
                {
                    name: self.pre_spike[name]
                    for name in layers
                    if self.pre_spike.get(name) is not None
                },
            ),
            befores,
            hoisted,
            currents,
            back.pre_spike,
            back.masks,
        )
        self.states |= states
        self.grads |= grads
        for source, ct in pasts.items():
            # The steps carry only the newest outputs of a past. Older outputs get zeros.
            self.pasts[source].append(_padded(ct, back.old[source]))
        return ct_hoisted

    def _of_weights(self, name, ct):
        """Run phase 2, the weights of a layer, for all steps of the chunk at once."""
        over = self.over
        layer = self.over.layers[name]
        # Each matmul below needs a temporary of the size of its gradient, and rebuilt outputs of
        # (chunk, batch, neurons). Without barriers, XLA may run the matmuls in parallel and keep
        # all of these arrays alive. The first barrier delays the recurrent weights until phase 1
        # has ended. Layers fire again behind it, so XLA does not keep arrays of phase 1.
        i, ct = jax.lax.optimization_barrier((self.back.i, ct))
        back = self.back.again(i)
        grads = self.grads[name]
        if not layer.per_step:
            grads = layer.backward_looped(
                grads, back.reads(over.within[name]), ct[DRIVE]
            )
        # The second barrier delays the input weights until the recurrent weights are done.
        ct, grads = jax.lax.optimization_barrier((ct, grads))
        edges = over.hoisted[name]
        self.grads[name], ct_reads = layer.backward_hoisted(
            grads, back.reads(edges), ct
        )
        self._send(edges, ct_reads)

    def of_states(self):
        """Return the cotangents of the states before the chunk, including reads by other layers."""
        ct_states = dict(self.states)
        for name, (ct_v, ct_out) in self.states.items():
            if name not in self.back.old and self.pasts[name]:
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


class _Chunk:
    """Chunk ``i`` of a segment: states, outputs and pasts, rebuilt from the residuals."""

    def __init__(
        self,
        over: Sequence,
        first: int | jax.Array,
        i: jax.Array,
        us: dict,
        pasts: dict[Name, jax.Array],
        residuals: dict[Name, PyTree],
    ):
        # ``first`` is the number of the segment's first step. ``us`` and ``pasts`` belong to the
        # step before it: (batch, neurons) and (depth, batch, neurons). ``residuals`` has those of
        # all steps, (chunks, chunk, batch, neurons) in the dtypes of the storage.
        self.over = over
        self.first = first
        self.i = i
        self.start = first + i * over.part.chunk
        self.us = us
        self.old = pasts
        self.residuals = residuals
        self.inputs, self.masks = over.window(self.start)
        self.places = places_of(self.masks.active)
        self.rebuilt: dict[tuple, Any] = {}

    def again(self, i):
        """Return the same chunk, whose layers fire again. Joins do not run again."""
        again = _Chunk(self.over, self.first, i, self.us, self.old, self.residuals)
        # The index is behind a barrier, so XLA does not share arrays with this chunk. For joins it
        # would have to run all layers below again.
        again.rebuilt = {
            key: value
            for key, value in self.rebuilt.items()
            if key[1] in self.over.joins
        }
        return again

    def pre_spike(self, name, t):
        """Return the pre-spike state of a layer at step t of the chunk."""
        # (chunks, chunk, batch, neurons) -> (batch, neurons), from the residual of this step only.
        residual = jax.tree.map(
            lambda a: at_index(at_index(a, self.i), t), self.residuals[name]
        )
        return self.over.layers[name].load(self.over.plan.storage, residual)

    @_once
    def fired(self, name):
        """Return states and outputs of a layer after each step."""
        layer = self.over.layers[name]

        # vmap over the steps of the chunk. Its function is elementwise: (batch, neurons) -> (chunk,
        # batch, neurons). Before its first valid step, an example has the initial state.
        def ended(residual, mask):
            started = None if mask.active is None else mask.active | mask.started
            u = layer.load(self.over.plan.storage, residual)
            return tree_where(
                started, layer.fire(u, mask.number), self.over.starts[name]
            )

        residual = jax.tree.map(lambda a: at_index(a, self.i), self.residuals[name])
        return jax.vmap(ended)(residual, self.masks)

    @_once
    def steps(self, name):
        """Return states and outputs of a layer before each step."""
        over = self.over
        layer = over.layers[name]
        # The step before the chunk is the last one of the previous chunk, or of the previous
        # segment (``us``).
        residual = jax.tree.map(
            lambda a: at_index(a, jnp.maximum(self.i - 1, 0))[-1], self.residuals[name]
        )
        last = layer.load(over.plan.storage, residual)
        before = tree_where(
            self.masks.started[0],
            layer.fire(
                tree_where(self.i > 0, last, self.us[name]),
                over.number_before(self.start),
            ),
            over.starts[name],
        )
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
        reads = self.reads(over.edges[source])
        return jax.lax.optimization_barrier(over.joins[source].over_chunk(reads))

    @_once
    def past(self, source):
        """Return the past of a source before the chunk."""
        if source not in self.old:
            return self.steps(source)[1][:1]
        over = self.over
        old = self.old[source]
        depth = len(old)
        # Outputs are not stored. The pre-spike states fire again.
        # Relative places -depth to -1, the oldest first.
        back = jnp.arange(depth) - depth
        # Each example has separate last active steps: (depth,) or (depth, batch).
        active = over.masks.active
        before = steps_before(active, len(over.masks.started))
        order = before if active is None else active_first(active)
        since = before[self.first][None]
        # Count from the start of the segment. Earlier outputs are in the stored past.
        steps = before[self.start][None] + append_axes(back, before.ndim) - since
        inside = steps >= 0
        when = pick(order, jnp.maximum(steps + since, 0)) - self.first
        when = jnp.where(inside, when, 0)
        # Clipped, because ``where`` below computes both sides and an index must be valid in
        # either.
        old = pick(old, jnp.clip(steps + depth, 0, depth - 1))
        return tree_where(inside, self._outputs_at(source, when).astype(old.dtype), old)

    def _outputs_at(self, source, steps):
        """Return the outputs of a source at steps of the segment, ``(n,)`` or ``(n, batch)``."""
        over = self.over
        if source in over.inputs:
            return pick(over.inputs[source], over.part.start + self.first + steps)
        if source in over.layers:
            # (chunks, chunk, batch, ...) -> (steps, batch, ...)
            chosen = pick(jax.tree.map(merge_leading, self.residuals[source]), steps)
            numbers = pick(over.masks.number, self.first + steps)
            # vmap over the chosen steps, (n,) or (n, batch).
            outputs = functools.partial(over.layers[source].outputs, over.plan.storage)
            return jax.vmap(outputs)(chosen, numbers)
        # The outputs of a join follow from its sources at these steps.
        edges = over.edges[source]
        return over.joins[source].over_chunk(
            {e.label: self._outputs_at(e.source, steps) for e in edges}
        )

    @property
    def _views(self):
        """The arguments of reads."""
        return self.past, self.outs, self.masks, self.places

    def reads(self, edges):
        """Return the reads of edges, by label."""
        return self.over.reads(edges, *self._views)

    def befores(self, source, depth):
        """Return the past of a source before each step, ``(chunk, depth, batch, neurons)``."""
        # One read for each place of the past, the oldest first, as ``push`` orders them. The new
        # axis is second, because the scan over steps slices the first axis.
        lags = range(depth, 0, -1)
        return jnp.stack([self.over.read(source, lag, *self._views) for lag in lags], 1)


def _padded(ct: jax.Array, past: jax.Array) -> jax.Array:
    """Fill the cotangent of a past with zeros for older outputs."""
    return jnp.concatenate(
        [zeros_like(past[: len(past) - len(ct)]).astype(ct.dtype), ct]
    )


def _total(cts: list[jax.Array]) -> jax.Array:
    return sum(cts[1:], cts[0])
