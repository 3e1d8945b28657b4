"""The forward pass over one segment, and the reads of each node in a chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..._pytree import PyTree
from .._connections import Edge, Name, select
from .._masks import Masks, tree_keep, tree_where, with_finite_padding, young
from .._past import Places, after, lagged, places_of
from .._schedule import Part, Plan
from .._step import LayerState
from ._component import Component
from ._layer_vjp import JoinVjp, LayerVjp


@dataclasses.dataclass(eq=False)
class Sequence:
    """The arguments of both passes.

    A pass runs over one segment, which starts at the step ``first`` of the part.

    ``us`` are the pre-spike states of the step before ``first``, and ``pasts`` are the outputs
    before it.
    """

    plan: Plan
    part: Part
    components: list[tuple[Name, ...]]
    edges: dict[Name, tuple[Edge, ...]]
    nodes: dict[Name, LayerVjp | JoinVjp]
    inputs: dict[Name, jax.Array]
    starts: dict[Name, LayerState]
    """The states of the layers before the part."""
    masks: Masks

    def __post_init__(self) -> None:
        # Layers have states and residuals. Joins are functions of one step.
        nodes = self.nodes.items()
        self.layers = {n: node for n, node in nodes if isinstance(node, LayerVjp)}
        self.joins = {n: node for n, node in nodes if isinstance(node, JoinVjp)}
        # An edge with several lags belongs to the loop if its shortest lag does, because one
        # read returns all its lags.
        self.within = {
            name: tuple(
                edge
                for edge in self.edges[name]
                if edge.source in names and min(edge.lags) < self.part.chunk
            )
            for names in self.components
            for name in names
        }
        """The edges that a component reads step by step, for each node."""
        self.hoisted = {
            name: tuple(edge for edge in node_edges if edge not in self.within[name])
            for name, node_edges in self.edges.items()
        }
        """The edges that are read for all steps of a chunk at once."""

    def component(self, names):
        """Return the loop over the steps of these nodes, or None for a single join."""
        # A join does not have a state, so its steps do not depend on each other and run at once.
        if len(names) == 1 and names[0] not in self.layers:
            return None
        return Component(
            select(self.nodes, names), select(self.within, names), self.plan.unroll
        )

    def step_arguments(self, reads):
        """Return the arguments of the steps of a chunk, computed from its reads."""
        # Products of a layer: (chunk, batch, neurons). Reads of a join: unchanged, (chunk, batch,
        # ...).
        chunk = self.part.chunk
        return {
            n: self.layers[n].hoisted(node_reads, chunk)
            if n in self.layers
            else node_reads
            for n, node_reads in reads.items()
        }

    def window(self, start):
        """Return the inputs and masks of a chunk."""
        # Inputs: (steps, batch, features) of all parts, so the slice starts at the first step of
        # the part. Masks belong to the part.
        masks = window_of(self.masks, start, self.part.chunk)
        inputs = window_of(self.inputs, self.part.start + start, self.part.chunk)
        return with_finite_padding(masks.active, inputs), masks

    def number_before(self, step):
        """Return the number of the last active step before this one.

        Without one, the value is unused.
        """
        number = self.masks.number
        return None if number is None else number[jnp.maximum(step - 1, 0)]

    def reads(self, edges, past, outs, masks, places):
        """Return the reads of edges in all steps of a chunk, by label.

        ``past`` and ``outs`` are functions of a source.
        """
        # Each: (chunk, batch, neurons), or a tuple of these for a window.
        return {
            edge.label: edge.read(
                lambda lag, source=edge.source: self.read(
                    source, lag, past, outs, masks, places
                )
            )
            for edge in edges
        }

    def read(
        self,
        source: Name,
        lag: int,
        past: Callable,
        outs: Callable,
        masks: Masks,
        places: Places | None,
    ) -> jax.Array:
        """Return the outputs ``lag`` steps before each step, ``(chunk, batch, neurons)``."""
        chunk = self.part.chunk
        if lag == 0:
            return outs(source)
        # Outputs at least a chunk old are in the past. They do not need ``outs``, whose steps may
        # not have run yet.
        recent = None if lag >= chunk else outs(source)
        return young(masks, lag, lagged(past(source), recent, lag, chunk, places))

    def forward(self, first, us, pasts, storage):
        """Return pre-spike states, states and pasts after the segment, the requested outputs, and
        the residuals.
        """

        # Scan over chunks. Carry: pre-spike state and state of each layer, each (batch, neurons),
        # and the pasts. ``outs`` are the outputs of all sources, (chunk, batch, ...). Stacked:
        # (chunks, chunk, batch, neurons).
        def chunk(carry, start):
            # ``outs`` starts with the inputs. Components add their outputs to it, so later
            # components read both alike.
            us, states, pasts = carry
            outs, masks = self.window(start)
            places = places_of(masks.active)
            # Edges with a delay read the states before the chunk, so ``before`` keeps them while
            # components update ``states``.
            before = states
            us = dict(us)
            states = dict(states)
            pre_spikes = {}
            residuals = {}

            def past(source):
                # A layer with a delay of 1 has its past in its state.
                return pasts[source] if source in pasts else before[source][1][None]

            for names in self.components:
                reads = {
                    name: self.reads(
                        self.hoisted[name], past, outs.__getitem__, masks, places
                    )
                    for name in names
                }
                component = self.component(names)
                # Masked outputs of a join are zeros, like those of a layer, so a reader need
                # not know the mask.
                if component is None:
                    (name,) = names
                    outs[name] = tree_keep(
                        masks.active, self.joins[name].over_chunk(reads[name])
                    )
                    continue
                results = component.forward(
                    select(us, component.layers),
                    select(before, component.layers),
                    # The steps carry only the outputs that they read. The complete past is updated
                    # once per chunk, below.
                    {
                        name: pasts[name][-depth:]
                        for name, depth in component.depths.items()
                    },
                    self.step_arguments(reads),
                    masks,
                    storage,
                    self.plan.pre_spike,
                )
                # Later components of the chunk read these outputs, (chunk, batch, ...).
                for known, new in zip(
                    (us, states, outs, pre_spikes, residuals), results, strict=True
                ):
                    known |= new
            # A past has the outputs of earlier chunks only, so it is updated after all
            # components have read it.
            pasts = {
                source: after(past, outs[source], places)
                for source, past in pasts.items()
            }
            recorded = select(outs, self.plan.outputs), pre_spikes
            return (us, states, pasts), (recorded, residuals)

        # The states at the start of a later segment follow from the pre-spike states one step
        # before. An example without an active step so far still has its initial state.
        states = self.starts
        if isinstance(first, jax.Array):
            last = self.number_before(first)
            fired = {
                name: layer.fire(us[name], last) for name, layer in self.layers.items()
            }
            states = tree_where(self.masks.started[first], fired, states)
        carry = us, states, pasts
        # The scan runs over the first steps of the chunks, (chunks,). ``window`` slices inputs and
        # masks by them.
        starts = first + self.part.chunk * jnp.arange(
            self.part.segment // self.part.chunk
        )
        (us, states, pasts), (recorded, residuals) = jax.lax.scan(chunk, carry, starts)
        # ``us`` is returned too, because the next segment derives its first states from it.
        return us, (states, pasts), recorded, residuals


def window_of(tree: PyTree, start: int | jax.Array, length: int) -> PyTree:
    """Slice a sequence at its place of use, because another layout may need a copy."""
    # (steps, ...) -> (length, ...). A scan over (chunks, chunk, ...) would need the inputs in this
    # shape. Steps count from 0, so no equations for negative ones.
    return jax.tree.map(
        lambda a: jax.lax.dynamic_slice_in_dim(
            a, start, length, allow_negative_indices=False
        ),
        tree,
    )


def at_index(array: jax.Array, i: jax.Array) -> jax.Array:
    """Return ``array[i]`` for an index that is not negative, without equations for the others."""
    return jax.lax.dynamic_index_in_dim(
        array, i, keepdims=False, allow_negative_indices=False
    )
