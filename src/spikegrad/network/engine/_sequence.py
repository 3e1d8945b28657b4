"""The forward pass over one segment, and the reads of each node in a chunk."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

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


class Sources(NamedTuple):
    """The outputs that the nodes of a chunk read. ``past`` and ``outs`` are functions of a name."""

    past: Callable
    outs: Callable
    masks: Masks
    places: Places | None

    def reads(self, edges):
        """Return the reads of edges in all steps of a chunk, by label."""
        # Each: (chunk, batch, neurons), or a tuple of these for a window.
        return {
            edge.label: edge.read(functools.partial(self.lagged, edge.source))
            for edge in edges
        }

    def lagged(self, source: Name, lag: int) -> jax.Array:
        """Return the outputs ``lag`` steps before each step, ``(chunk, batch, neurons)``."""
        if lag == 0:
            return self.outs(source)
        chunk = len(self.masks.started)
        # Outputs at least a chunk old are in the past. They do not need ``outs``, whose steps may
        # not have run yet.
        recent = None if lag >= chunk else self.outs(source)
        old = lagged(self.past(source), recent, lag, chunk, self.places)
        return young(self.masks, lag, old)


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
        chunk = self.part.chunk
        # A scan cannot unroll by more than its length.
        unroll = min(self.plan.unroll, chunk)
        self.loops = [
            Component(select(self.nodes, n), select(self.edges, n), chunk, unroll)
            for n in self.components
        ]

    def step_arguments(self, reads):
        """Return the arguments of the steps of a chunk, computed from its reads."""
        # Products of a layer: (chunk, batch, neurons). Reads of a join: unchanged, (chunk, batch,
        # ...).
        return {
            n: self.layers[n].hoisted(node_reads, self.part.chunk)
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

    def state_before(self, name, step, u):
        """Return state and output of a layer before a step, from the pre-spike state ``u`` of the
        step before.
        """
        # The number of the last active step. Without one, it is unused.
        number = self.masks.number
        last = None if number is None else number[jnp.maximum(step - 1, 0)]
        fired = self.layers[name].fire(u, Masks(number=last))
        # An example without an active step so far still has its initial state.
        return tree_where(self.masks.started[step], fired, self.starts[name])

    def forward(self, first, us, pasts, stores):
        """Return pre-spike states, states and pasts after the segment, the requested outputs, and
        the residuals, which are empty unless it ``stores`` them.
        """

        # Scan over chunks. Carry: pre-spike state and state of each layer, each (batch, neurons),
        # and the pasts. ``outs`` are the outputs of all sources, (chunk, batch, ...). Stacked:
        # (chunks, chunk, batch, neurons).
        def chunk(carry, start):
            # ``outs`` starts with the inputs. Components add their outputs to it, so later
            # components read both alike.
            us, states, pasts = carry
            outs, masks = self.window(start)
            # Edges with a delay read the states before the chunk, so ``before`` keeps them while
            # components update ``states``.
            before = states
            us = dict(us)
            states = dict(states)
            residuals = {}

            def past(source):
                # A layer with a delay of 1 has its past in its state.
                return pasts[source] if source in pasts else before[source][1][None]

            sources = Sources(past, outs.__getitem__, masks, places_of(masks.active))
            for component in self.loops:
                reads = {n: sources.reads(e) for n, e in component.hoisted.items()}
                # Masked outputs of a join are zeros, like those of a layer, so a reader need
                # not know the mask.
                if component.at_once:
                    (name,) = component.nodes
                    outs[name] = tree_keep(
                        masks.active, self.joins[name].over_chunk(reads[name])
                    )
                    continue
                # The steps carry only the outputs that they read. The complete past is updated
                # once per chunk, below.
                depths = component.depths.items()
                newest = {name: pasts[name][-depth:] for name, depth in depths}
                layers = component.layers
                results = component.forward(
                    (select(us, layers), select(before, layers), newest),
                    self.step_arguments(reads),
                    masks,
                    stores,
                    self.plan.outputs,
                )
                # Later components of the chunk read these outputs, (chunk, batch, ...).
                for known, new in zip(
                    (us, states, outs, residuals), results, strict=True
                ):
                    known |= new
            # A past has the outputs of earlier chunks only, so it is updated after all
            # components have read it.
            pasts = {
                source: after(past, outs[source], sources.places)
                for source, past in pasts.items()
            }
            recorded = select(outs, self.plan.outputs)
            return (us, states, pasts), (recorded, residuals)

        # The states at the start of a later segment follow from the pre-spike states one step
        # before.
        states = self.starts
        if isinstance(first, jax.Array):
            states = {n: self.state_before(n, first, us[n]) for n in self.layers}
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
