"""The backward pass over one segment. It rebuilds outputs and adds each cotangent to its source.

Three objects take part. :class:`RebuiltChunk` computes the states and outputs of a chunk from the
residuals, each at its first use. :class:`ChunkCotangents` collects the cotangents of the outputs
and pasts of the chunk. :class:`Cotangents` is the carry from chunk to chunk.

What is not optimal: the layers of a chunk fire twice, once for the steps and once for the gradients
of the weights, because XLA would otherwise keep their outputs in between. The outputs before a
chunk are fired again for each chunk that reads them.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ..._checks import append_axes
from ..._compat import merge_leading
from ..._pytree import PyTree, is_inexact
from ...neurons import State
from ..graph._connections import (
    Edge,
    Name,
    NamedArrays,
    NamedTrees,
    Reads,
    reads_of,
    select,
)
from ..step._masks import steps_before, tree_keep, tree_where
from ..step._past import active_first, pick, places_of, push
from ..step._step import LayerState, LayerStates, activity_names
from ._component import Component, Cotangents, StepSlices
from ._functions import pullback
from ._late_scan import late_scan
from ._layer_vjp import DRIVE
from ._part_loop import PartLoop, Segment, Sources, window_of


def backward(
    loop: PartLoop,
    segment: Segment,
    after: Cotangents,
    ct_recorded: NamedTrees,
) -> tuple[Cotangents, NamedArrays]:
    """Run backward over a segment.

    ``after`` has the cotangents of the states and pasts after the segment, and the gradients so
    far. ``ct_recorded`` are the cotangents of the outputs of the part, ``(steps, batch, neurons)``.
    Return the cotangents before the segment, and those of its inputs, ``(chunks, chunk, batch,
    ...)``.
    """
    length = loop.part.chunk

    def body(
        carry: tuple[jax.Array, Cotangents], _: None
    ) -> tuple[tuple[jax.Array, Cotangents], NamedArrays]:
        index, after = carry
        rebuilt = RebuiltChunk(loop, segment, index)
        recorded = window_of(ct_recorded, rebuilt.start, length)
        cts = ChunkCotangents(rebuilt, after.states, after.grads, recorded)
        # The order matters: a source needs all cotangents of its outputs before its own steps run.
        # Its readers are in later components. A reader of a past adds to the cotangent of earlier
        # chunks.
        cts.add_pasts_after(after.pasts)
        # Components are sorted with sources first, so the reverse order runs all readers before a
        # source.
        for component in reversed(loop.components):
            cts.run(component)
        ct_inputs = {
            name: _total(cts.ct_outputs[name])
            for name, x in loop.inputs.items()
            if cts.ct_outputs[name] and is_inexact(x)
        }
        pasts = {source: _total(cts.ct_pasts[source]) for source in after.pasts}
        before = Cotangents(cts.states_before(), pasts, cts.grads)
        return (index - 1, before), ct_inputs

    chunks = loop.part.segment // length
    # The carry counts the chunks, because XLA reads a slice of numbers by a copy, and a GPU then
    # cannot capture the body as one graph.
    last_chunk = jnp.asarray(chunks - 1)
    (_, before), ct_inputs = late_scan(
        body,
        (last_chunk, after),
        None,
        ready=loop.awaited_by_chunks(ct_recorded),
        length=chunks,
        reverse=True,
    )
    return before, ct_inputs


class ChunkCotangents:
    """The cotangents of one chunk, collected by source while its components run backward.

    ``ct_states`` and ``grads`` belong to the end of the chunk at first, and to its start at the
    end.
    """

    def __init__(
        self,
        rebuilt: RebuiltChunk,
        ct_states: LayerStates,
        grads: dict[Name, Any],
        ct_outputs: NamedArrays,
    ) -> None:
        self.rebuilt = rebuilt
        self.loop = rebuilt.loop
        # Copies, because the methods below replace entries, and the arguments belong to the carry
        # of the scan.
        self.ct_states = dict(ct_states)
        self.grads = dict(grads)
        # Lists, because a source may have several readers. They are added when the source runs,
        # so nothing is added to zeros.
        self.ct_outputs: dict[Name, list[jax.Array]] = collections.defaultdict(list)
        """The cotangents of each source's outputs, ``(chunk, batch, ...)``, to be added."""
        for name, ct in ct_outputs.items():
            if ct is not None:  # integers do not have a cotangent
                self.ct_outputs[name].append(ct)
        self.ct_pasts: dict[Name, list[jax.Array]] = collections.defaultdict(list)
        """The cotangents of each source's past before the chunk, ``(depth, batch, ...)``, to be
        added.
        """

    def add_pasts_after(self, ct_pasts: NamedArrays) -> None:
        """Add the cotangents of the pasts after the chunk, ``(depth, batch, ...)``."""
        # A past after the chunk contains outputs of this chunk and, if it is longer, of the past
        # before.
        past_after = functools.partial(push, places=self.rebuilt.sources.places)
        for source, ct in ct_pasts.items():
            self._add_view(source, past_after, ct, reads_chunk=True)

    def _add_view(
        self,
        source: Name,
        view: Callable[[jax.Array, jax.Array], jax.Array],
        ct: jax.Array,
        *,
        reads_chunk: bool,
    ) -> None:
        """Add the cotangent of ``view(past, outputs)`` of a source to both arguments.

        ``reads_chunk`` is False if the view contains no outputs of this chunk.
        """
        # A view is linear, so the rebuilt values are unused and XLA removes them. Only their shapes
        # matter.
        past = self.rebuilt.past(source)
        outputs = self.rebuilt.outputs(source)
        ct_past, ct_outputs = pullback(view, ct, past, outputs)
        self.ct_pasts[source].append(ct_past)
        if reads_chunk:
            self.ct_outputs[source].append(ct_outputs)

    def _add_to_sources(self, edges: Iterable[Edge], ct_reads: Reads) -> None:
        """Add the cotangents of reads, ``(chunk, batch, ...)``, to their sources."""
        for edge in edges:
            ct_read = ct_reads[edge.label]
            cts = ct_read if edge.windowed else (ct_read,)
            for lag, ct in zip(edge.lags, cts, strict=True):
                if ct is None:  # integers do not have a cotangent
                    continue
                if lag == 0:  # all of ct belongs to outputs of this chunk
                    self.ct_outputs[edge.source].append(ct)
                    continue
                # ct: (chunk, batch, neurons). The first ``lag`` steps belong to the past, (depth,
                # batch, neurons). Later steps belong to outputs of this chunk.
                view = functools.partial(self.rebuilt.sources.view, lag=lag)
                reads_chunk = lag < self.loop.part.chunk
                self._add_view(edge.source, view, ct, reads_chunk=reads_chunk)

    def run(self, component: Component) -> None:
        """Run a component backward. All cotangents of its outputs must be there."""
        if component.at_once:
            ((name, edges),) = component.hoisted.items()
            self._run_join(name, edges)
            return
        ct_hoisted = self._run_steps(component)
        # ct_hoisted: (chunk, batch, neurons) for the products of a layer, and (chunk, batch, ...)
        # for reads.
        for name, node in reversed(component.nodes.items()):
            if name in component.layers and not node.per_step:
                self._add_products(component, name, ct_hoisted[name])
            else:  # the steps have added its gradients
                self._add_to_sources(component.hoisted[name], ct_hoisted[name])

    def _run_join(self, name: Name, edges: tuple[Edge, ...]) -> None:
        """Run a join backward, for all steps of the chunk at once."""
        if not self.ct_outputs[name]:
            return  # no reader has a cotangent, so its own is zero
        # Outputs of masked steps are zeros, so their cotangents are dropped.
        ct = tree_keep(self.rebuilt.masks.active, _total(self.ct_outputs[name]))
        join = self.loop.joins[name]
        reads = self.rebuilt.sources.reads(edges)
        self.grads[name], ct_reads = join.backward(self.grads[name], reads, ct)
        self._add_to_sources(edges, ct_reads)

    def _run_steps(self, component: Component) -> dict[Name, Reads]:
        """Run phase 1, the steps one by one, see :meth:`Component.backward_steps`.

        Return the cotangents of the hoisted arguments, ``(chunk, batch, ...)``.
        """
        rebuilt = self.rebuilt
        reads = rebuilt.sources.reads
        layers = component.layers
        hoisted = component.arguments(reads)
        # All outputs of the chunk are known here. One product of (chunk, batch, inputs) and a
        # matrix computes the currents of all steps, (chunk, batch, neurons).
        currents = {}
        for name, layer in layers.items():
            stepped = component.stepped[name]
            if stepped and not layer.per_step:
                currents[name] = jax.vmap(layer.current)(hoisted[name], reads(stepped))
        # The caller may differentiate states and currents too, hence all names of the activity.
        cts = {}
        for name in component.nodes:
            for activity in activity_names(name):
                if self.ct_outputs[activity]:
                    cts[activity] = _total(self.ct_outputs[activity])
        # States before each step, (chunk, batch, neurons), and pasts, (chunk, depth, batch,
        # neurons).
        states = {name: rebuilt.states_before(name) for name in layers}
        pasts = {
            name: rebuilt.pasts_before(name, depth)
            for name, depth in component.depths.items()
        }
        slices = StepSlices(
            step=jnp.arange(self.loop.part.chunk),
            ct_outputs=cts,
            states=states,
            pasts=pasts,
            hoisted=hoisted,
            currents=currents,
            mask=rebuilt.masks,
        )
        before, ct_hoisted = component.backward_steps(
            select(self.ct_states, layers),
            select(self.grads, component.nodes),
            slices,
            rebuilt.pre_spike,
        )
        self.ct_states |= before.states
        self.grads |= before.grads
        for source, ct in before.pasts.items():
            # The steps carry only the newest outputs of a past. Older outputs get zeros.
            newest = operator.itemgetter(slice(-len(ct), None))
            (ct_past,) = pullback(newest, ct, rebuilt.segment.pasts[source])
            self.ct_pasts[source].append(ct_past)
        return ct_hoisted

    def _add_products(self, component: Component, name: Name, ct: Reads) -> None:
        """Run phase 2, the weights of a layer, for all steps of the chunk at once.

        ``ct`` are the cotangents of its hoisted products, ``(chunk, batch, neurons)``, by label.
        """
        layer = component.layers[name]
        # Each matmul below needs a temporary of the size of its gradient, and rebuilt outputs of
        # (chunk, batch, neurons). Without barriers, XLA may run the matmuls in parallel and keep
        # all of these arrays alive. The first barrier delays the recurrent weights until phase 1
        # has ended. Layers fire again behind it, so XLA does not keep arrays of phase 1.
        index, ct = jax.lax.optimization_barrier((self.rebuilt.index, ct))
        rebuilt = self.rebuilt.fire_again(index)
        grads = self.grads[name]
        if component.stepped[name]:
            # The steps have already sent the cotangents of these reads to their sources, so only
            # the gradients are used.
            reads = rebuilt.sources.reads(component.stepped[name])
            # The drive is one term of the sum that has these products as its other terms, so all
            # have its cotangent, (chunk, batch, neurons).
            cts = {label: ct[DRIVE] for label in reads}
            grads, _ = layer.backward_products(grads, reads, cts)
            # The second barrier delays the input weights until the recurrent weights are done.
            # Without recurrent weights it would only keep gradients that no caller needs.
            ct, grads = jax.lax.optimization_barrier((ct, grads))
        edges = component.hoisted[name]
        self.grads[name], ct_reads = layer.backward_hoisted(
            grads, rebuilt.sources.reads(edges), ct
        )
        self._add_to_sources(edges, ct_reads)

    def states_before(self) -> LayerStates:
        """Return the cotangents of the states before the chunk, including reads by other layers."""
        ct_states = dict(self.ct_states)
        for name, (ct_v, ct_out) in self.ct_states.items():
            has_past = name in self.rebuilt.segment.pasts
            if not has_past and self.ct_pasts[name]:
                # A past with depth 1 is the last output in the state: (1, batch, neurons) ->
                # (batch, neurons).
                ct_last = _total(self.ct_pasts[name])[0]
                ct_states[name] = ct_v, ct_out + ct_last
        return ct_states


Result = TypeVar("Result")


def _once(
    method: Callable[[RebuiltChunk, Name], Result],
) -> Callable[[RebuiltChunk, Name], Result]:
    """Remember the arrays that a method rebuilds for a source, because all its readers ask."""

    @functools.wraps(method)
    def rebuild(self: RebuiltChunk, source: Name) -> Result:
        key = method.__name__, source
        if key not in self.remembered:
            self.remembered[key] = method(self, source)
        return self.remembered[key]

    return rebuild


@dataclasses.dataclass(eq=False)
class RebuiltChunk:
    """A chunk of a segment: states, outputs and pasts, rebuilt from the residuals."""

    loop: PartLoop
    segment: Segment
    index: jax.Array
    """The number of the chunk in the segment."""
    remembered: dict[tuple[str, Name], Any] = dataclasses.field(default_factory=dict)
    """The results of the methods, by method and source (see :func:`_once`)."""

    def __post_init__(self) -> None:
        start_in_segment = self.index * self.loop.part.chunk
        self.start = self.segment.first + start_in_segment
        """The number of the first step of the chunk in the part."""
        self.inputs, self.masks = self.loop.window(self.start)
        places = places_of(self.masks.active)
        self.sources = Sources(self.past, self.outputs, self.masks, places)

    def fire_again(self, index: jax.Array) -> RebuiltChunk:
        """Return the same chunk, whose layers fire again. Joins do not run again."""
        # The index is behind a barrier, so XLA does not share arrays with this chunk. For joins it
        # would have to run all layers below again.
        joins = {
            (method, source): result
            for (method, source), result in self.remembered.items()
            if source in self.loop.joins
        }
        return dataclasses.replace(self, index=index, remembered=joins)

    def pre_spike(self, name: Name, step: jax.Array) -> State:
        """Return the pre-spike state of a layer at a step of the chunk, ``(batch, neurons)``."""
        # (chunks, chunk, batch, neurons) -> (batch, neurons), from the residual of this step only,
        # because a chunk of residuals would be a copy.
        residuals = at_index(self.segment.residuals[name], self.index)
        residual = at_index(residuals, step)
        return self.loop.layers[name].load(residual)

    @_once
    def states_after(self, name: Name) -> LayerState:
        """Return the states of a layer after each step, ``(chunk, batch, neurons)``."""
        active, started, number, _ = self.masks
        # In a masked step before the first active one, the state is still the initial state.
        started = None if active is None else active | started
        residuals = at_index(self.segment.residuals[name], self.index)
        load = self.loop.layers[name].load
        fire = functools.partial(self.loop.fire, name)
        # vmap over the steps of the chunk. Its functions are elementwise: (batch, neurons) ->
        # (chunk, batch, neurons).
        pre_spike = jax.vmap(load)(residuals)
        return jax.vmap(fire)(pre_spike, started, number)

    @_once
    def states_before(self, name: Name) -> LayerState:
        """Return the states of a layer before each step, ``(chunk, batch, neurons)``."""
        # The step before the chunk is the last one of the previous chunk, or of the previous
        # segment.
        previous = jnp.maximum(self.index - 1, 0)
        residuals = at_index(self.segment.residuals[name], previous)
        last_residual = jax.tree.map(lambda a: a[-1], residuals)
        last = self.loop.layers[name].load(last_residual)
        last = tree_where(self.index > 0, last, self.segment.pre_spike[name])
        before_chunk = self.loop.state_before(name, self.start, last)

        def one_step_later(first: jax.Array, after: jax.Array) -> jax.Array:
            return jnp.concatenate([first[None], after[:-1]])

        return jax.tree.map(one_step_later, before_chunk, self.states_after(name))

    @_once
    def outputs(self, source: Name) -> Any:
        """Return the outputs of a source, ``(chunk, batch, ...)``. Those of masked steps are
        unused.
        """
        # The inputs are residuals of the complete loop, so a chunk slices them again.
        if source in self.loop.inputs:
            return self.inputs[source]
        if source in self.loop.layers:
            return self.states_after(source)[1]
        # A join of joins would be one kernel of all layers below. With a barrier each join is a
        # kernel that reads the one below, and XLA compiles equal kernels once.
        reads = self.sources.reads(self.loop.edges[source])
        outputs = self.loop.joins[source].over_chunk(reads)
        return jax.lax.optimization_barrier(outputs)

    @_once
    def past(self, source: Name) -> Any:
        """Return the past of a source before the chunk, ``(depth, batch, ...)``."""
        if source not in self.segment.pasts:
            # A layer that is read with a delay of 1 has its past in its state.
            return self.states_before(source)[1][:1]
        masks = self.loop.masks
        stored = self.segment.pasts[source]
        depth = len(stored)
        # A past has the outputs of the last ``depth`` active steps, the oldest first. They are not
        # stored. The pre-spike states fire again. Each example has separate active steps, so all
        # counts are (steps,) or (steps, batch), and (depth,) or (depth, batch) below.
        active_before = steps_before(masks.active, len(masks.started))
        # The steps, the active ones first. Without a mask, step n is the n-th active one, and has n
        # active steps before it.
        order = active_before if masks.active is None else active_first(masks.active)
        before_segment = active_before[self.segment.first][None]
        before_chunk = active_before[self.start][None]
        last = append_axes(jnp.arange(-depth, 0), active_before.ndim)
        # The number of the active step of each output, counted from the start of the segment. It is
        # negative for outputs of earlier segments, which are in the stored past.
        nth = before_chunk + last - before_segment
        is_in_segment = nth >= 0
        # The step itself, also counted from the start of the segment. ``where`` below computes both
        # sides, so an index must be valid in either.
        nth_in_part = jnp.maximum(nth + before_segment, 0)
        step = pick(order, nth_in_part) - self.segment.first
        step = jnp.where(is_in_segment, step, 0)
        place = jnp.clip(nth + depth, 0, depth - 1)
        stored = pick(stored, place)
        recent = self._outputs_at(source, step).astype(stored.dtype)
        return tree_where(is_in_segment, recent, stored)

    def _outputs_at(self, source: Name, steps: jax.Array) -> jax.Array:
        """Return the outputs of a source at steps of the segment, ``(n,)`` or ``(n, batch)``.

        They are ``(n, batch, ...)``.
        """
        loop = self.loop
        first = self.segment.first
        if source in loop.inputs:
            # The inputs have the steps of all parts.
            steps_of_call = loop.part.start + first + steps
            return pick(loop.inputs[source], steps_of_call)
        if source in loop.layers:
            # (chunks, chunk, batch, ...) -> (steps, batch, ...)
            residuals = jax.tree.map(merge_leading, self.segment.residuals[source])
            numbers = pick(loop.masks.number, first + steps)
            return jax.vmap(loop.layers[source].outputs)(
                pick(residuals, steps), numbers
            )
        # The outputs of a join follow from its sources at these steps. It reads no earlier ones, so
        # the lag is always 0.
        reads = reads_of(
            loop.edges[source], lambda other, _: self._outputs_at(other, steps)
        )
        return loop.joins[source].over_chunk(reads)

    def pasts_before(self, source: Name, depth: int) -> jax.Array:
        """Return the past of a source before each step, ``(chunk, depth, batch, neurons)``."""
        # One read for each place of the past, the oldest first, as ``push`` orders them. The new
        # axis is second, because the scan over steps slices the first axis.
        lags = range(depth, 0, -1)
        outputs = [self.sources.lagged(source, lag) for lag in lags]
        return jnp.stack(outputs, 1)


def at_index(tree: PyTree, i: jax.Array) -> PyTree:
    """Return ``a[i]`` of arrays, for an index that is not negative."""
    return jax.tree.map(
        lambda a: jax.lax.dynamic_index_in_dim(
            a, i, keepdims=False, allow_negative_indices=False
        ),
        tree,
    )


def _total(cts: list[jax.Array]) -> jax.Array:
    """Return the sum of cotangents of equal shapes, in the order in which they were added."""
    return sum(cts[1:], cts[0])
