"""The backward pass over one segment. It rebuilds outputs and adds each cotangent to its source."""

from __future__ import annotations

import functools
from collections.abc import Callable

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
from ._sequence import Sequence, window_of


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
    back = _Rebuilding(over, first, us, pasts, residuals)

    # Scan over chunks, from last to first. Carry: the cotangents of the states after the chunk,
    # (batch, neurons), cotangents of the pasts, (depth, batch, neurons), and the gradients.
    # Cotangents of inputs are stacked: (chunks, chunk, batch, inputs).
    def body(carry, i):
        ct_states, ct_ends, grads = carry
        recorded = window_of(ct_recorded, first + i * chunk, chunk)
        cts = _Cotangents(back, i, ct_states, grads, *recorded)
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

    def __init__(self, back, i, ct_states, grads, ct_outs, ct_pre_spike):
        self.back = back
        self.i = i
        self.over = back.over
        self.masks = back.masks(i)
        self.places = back.places(i)
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
                lambda past, outs: after(past, outs, self.places),
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
            view, ct, self.back.past(source, self.i), self.back.outs(source, self.i)
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
                        self.masks,
                        self.places,
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
        ct = tree_keep(self.masks.active, _total(self.outs[name]))
        self.grads[name], ct_reads = self.over.joins[name].backward(
            self.grads[name], self.back.reads(edges, self.i), ct
        )
        self._send(edges, ct_reads)

    def _of_steps(self, component):
        """Run phase 1, the steps one by one, see :meth:`Component.backward_steps`."""
        over = self.over
        back = self.back
        i = self.i
        layers = component.layers
        hoisted = over.step_arguments(
            {name: back.reads(over.hoisted[name], i) for name in component.nodes}
        )
        # All outputs of the chunk are known here. One product of (chunk, batch, inputs) and a
        # matrix computes the currents of all steps, (chunk, batch, neurons).
        currents = {
            name: layer.current(
                (hoisted[name], back.reads(over.within[name], i)), layer.call_chunk
            )
            for name, layer in layers.items()
            if over.within[name] and not layer.per_step
        }
        # States before each step, (chunk, batch, neurons), and pasts, (chunk, depth, batch,
        # neurons).
        befores = (
            {name: back.steps(name, i)[0] for name in layers},
            {
                name: back.befores(name, i, depth)
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
            functools.partial(back.pre_spike, i=i),
            self.masks,
        )
        self.states |= states
        self.grads |= grads
        for source, ct in pasts.items():
            # The steps carry only the newest outputs of a past. Older outputs get zeros.
            self.pasts[source].append(_padded(ct, back.pasts[source]))
        return ct_hoisted

    def _of_weights(self, name, ct):
        """Run phase 2, the weights of a layer, for all steps of the chunk at once."""
        over = self.over
        layer = self.over.layers[name]
        # Each matmul below needs a temporary of the size of its gradient, and rebuilt states and
        # outputs of (chunk, batch, neurons). Without barriers, XLA may run the matmuls in parallel
        # and keep all of these arrays alive. The first barrier delays the recurrent weights until
        # phase 1 has ended. Rebuilding from ``late`` instead of ``i`` prevents XLA from sharing
        # arrays with phase 1.
        late, ct = jax.lax.optimization_barrier((self.i, ct))
        grads = self.grads[name]
        if not layer.per_step:
            grads = layer.backward_looped(
                grads, self.back.reads(over.within[name], late), ct[DRIVE]
            )
        # The second barrier delays the input weights until the recurrent weights are done.
        late, ct, grads = jax.lax.optimization_barrier((late, ct, grads))
        edges = over.hoisted[name]
        self.grads[name], ct_reads = layer.backward_hoisted(
            grads, self.back.reads(edges, late), ct
        )
        self._send(edges, ct_reads)

    def of_states(self):
        """Return the cotangents of the states before the chunk, including reads by other layers."""
        ct_states = dict(self.states)
        for name, (ct_v, ct_out) in self.states.items():
            if name not in self.back.pasts and self.pasts[name]:
                # A past with depth 1 is the last output in the state: (1, batch, neurons) ->
                # (batch, neurons).
                ct_states[name] = ct_v, ct_out + _total(self.pasts[name])[0]
        return ct_states


def _once(method: Callable) -> Callable:
    """Remember what a method rebuilds of a source in a chunk, because each reader of the source
    asks for it.

    A chunk is the tracer of its number. Behind a barrier it is another one, so nothing is shared
    across barriers.
    """

    @functools.wraps(method)
    def rebuild(self, source, i):
        key = method.__name__, source, id(i)
        if key not in self.rebuilt:
            # With ``i``, whose id must not be used again.
            self.rebuilt[key] = i, method(self, source, i)
        return self.rebuilt[key][1]

    return rebuild


class _Rebuilding:
    """Rebuilds the states, outputs and pasts of a segment from the residuals."""

    def __init__(
        self,
        over: Sequence,
        first: int | jax.Array,
        us: dict,
        pasts: dict[Name, jax.Array],
        residuals: dict[Name, PyTree],
    ):
        # ``first`` is the number of the segment's first step. ``us`` and ``pasts`` belong to the
        # step before it: (batch, neurons) and (depth, batch, neurons). ``residuals`` has those of
        # all steps, (chunks, chunk, batch, neurons) in the dtypes of the storage.
        self.over = over
        self.first = first
        self.us = us
        self.pasts = pasts
        self.residuals = residuals
        self.rebuilt: dict[tuple, tuple] = {}
        # Traced once for each layer, because all its readers call it.
        self._fired = jax.jit(self._fire_again, static_argnums=0)

    def masks(self, i):
        return self.over.masks_of(self.first + i * self.over.part.chunk)

    def places(self, i):
        return places_of(self.masks(i).active)

    def pre_spike(self, name, t, i):
        """Return the pre-spike state of a layer at step t of chunk i."""
        # (chunks, chunk, batch, neurons) -> (batch, neurons), from the residual of this step only.
        residual = jax.tree.map(lambda a: a[i, t], self.residuals[name])
        return self.over.layers[name].load(self.over.plan.storage, residual)

    @_once
    def steps(self, name, i):
        """Return states and outputs of a layer before each step of chunk i, and the outputs of each
        step.
        """
        return self._fired(name, i)

    def _fire_again(self, name, i):
        over = self.over
        chunk = self.over.part.chunk
        start = over.starts[name]
        fire = over.layers[name].fire
        masks = self.masks(i)

        # Before its first valid step, an example has the initial state.
        def ended(t, mask):
            started = None if mask.active is None else mask.active | mask.started
            return tree_where(
                started, fire(self.pre_spike(name, t, i), mask.number), start
            )

        # The step before the chunk is the last one of the previous chunk, or of the previous
        # segment (``us``).
        last = tree_where(
            i > 0, self.pre_spike(name, -1, jnp.maximum(i - 1, 0)), self.us[name]
        )
        before = tree_where(
            masks.started[0],
            fire(last, over.number_before(self.first + i * chunk)),
            start,
        )
        # vmap over the steps of the chunk. ``ended`` is elementwise: (batch, neurons) -> (chunk,
        # batch, neurons).
        after = jax.vmap(ended)(jnp.arange(chunk), masks)
        befores = jax.tree.map(
            lambda a, b: jnp.concatenate([a[None], b[:-1]]), before, after
        )
        return befores, after[1]

    @_once
    def outs(self, source, i):
        """Return the outputs of a source in chunk i. Outputs of masked steps are unused."""
        over = self.over
        # The inputs are residuals of the complete loop, so a chunk slices them again: (chunk,
        # batch, ...).
        if source in over.inputs:
            return over.window(self.first + i * over.part.chunk)[0][source]
        if source in over.layers:
            return self.steps(source, i)[1]
        return over.joins[source].over_chunk(self.reads(over.edges[source], i))

    @_once
    def past(self, source, i):
        """Return the past of a source before chunk i."""
        if source not in self.pasts:
            return self.steps(source, i)[0][1][:1]
        over = self.over
        old = self.pasts[source]
        depth = len(old)
        at = self.first + i * over.part.chunk
        # Outputs are not stored. The pre-spike states fire again.
        # Relative places -depth to -1, the oldest first.
        back = jnp.arange(depth) - depth
        # Each example has separate last active steps: (depth,) or (depth, batch).
        active = over.masks.active
        before = steps_before(active, len(over.masks.started))
        order = before if active is None else active_first(active)
        since = before[self.first][None]
        # Count from the start of the segment. Earlier outputs are in the stored past.
        steps = before[at][None] + append_axes(back, before.ndim) - since
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

    def reads(self, edges, i):
        """Return the reads of edges in chunk i, by label."""
        return self.over.reads(edges, *self._views(i))

    def _views(self, i):
        """Return the arguments of reads in chunk i."""
        past, outs = (functools.partial(f, i=i) for f in (self.past, self.outs))
        return past, outs, self.masks(i), self.places(i)

    def befores(self, source, i, depth):
        """Return the past of a source before each step of chunk i, ``(chunk, depth, batch,
        neurons)``.
        """
        # One read for each place of the past, the oldest first, as ``push`` orders them. The new
        # axis is second, because the scan over steps slices the first axis.
        lags = range(depth, 0, -1)
        views = self._views(i)
        return jnp.stack([self.over.read(source, lag, *views) for lag in lags], 1)


def _padded(ct: jax.Array, past: jax.Array) -> jax.Array:
    """Fill the cotangent of a past with zeros for older outputs."""
    return jnp.concatenate(
        [zeros_like(past[: len(past) - len(ct)]).astype(ct.dtype), ct]
    )


def _total(cts: list[jax.Array]) -> jax.Array:
    return sum(cts[1:], cts[0])
