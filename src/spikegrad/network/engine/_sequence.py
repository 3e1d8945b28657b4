"""The forward pass over one segment, and the reads of each node in a chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._pytree import PyTree
from ...neurons import State
from ..graph._connections import Edge, Name, reads_of, select
from ..step._masks import Masks, tree_keep, tree_where, with_finite_padding, young
from ..step._past import Places, lagged, places_of, push
from ..step._step import LayerState
from ._component import Carry, Component
from ._late_scan import late_scan
from ._layer_vjp import JoinVjp, LayerVjp
from ._schedule import Part, Plan


class Sources(NamedTuple):
    """The outputs that the nodes of a chunk read. ``past`` and ``outs`` are functions of a name."""

    past: Callable
    outs: Callable
    masks: Masks
    places: Places | None

    def reads(self, edges):
        """Return the reads of edges in all steps of a chunk, by label."""
        # Each: (chunk, batch, neurons), or a tuple of these for a window.
        return reads_of(edges, self.lagged)

    def lagged(self, source: Name, lag: int) -> jax.Array:
        """Return the outputs ``lag`` steps before each step, ``(chunk, batch, neurons)``."""
        if lag == 0:
            return self.outs(source)
        # Outputs at least a chunk old are in the past. They do not need ``outs``, whose steps may
        # not have run yet.
        recent = None if lag >= len(self.masks.started) else self.outs(source)
        return self.view(self.past(source), recent, lag)

    def view(self, past: jax.Array, outs: Any, lag: int) -> jax.Array:
        """Return these outputs, a linear function of the past and the outputs of a source."""
        chunk = len(self.masks.started)
        return young(self.masks, lag, lagged(past, outs, lag, chunk, self.places))


class Span(NamedTuple):
    """A segment, as the backward pass needs it. It has all steps of a part without segments."""

    first: int | jax.Array
    """The number of its first step in the part."""
    us: dict[Name, State]
    """The pre-spike states of the step before it, ``(batch, neurons)``."""
    pasts: dict[Name, jax.Array]
    """The outputs of sources before it, ``(depth, batch, neurons)``."""
    residuals: dict[Name, PyTree]
    """The stored pre-spike states of its steps, ``(chunks, chunk, batch, neurons)``."""


@dataclasses.dataclass(eq=False)
class Sequence:
    """The arguments of both passes. A pass runs over one segment of the part."""

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
        unroll = self.plan.unroll_of_chunk(chunk, len(self.layers))
        self.loops = [
            Component(select(self.nodes, n), select(self.edges, n), chunk, unroll)
            for n in self.components
        ]

    def window(self, start):
        """Return the inputs and masks of a chunk."""
        # Inputs: (steps, batch, features) of all parts, so the slice starts at the first step of
        # the part. Masks belong to the part.
        masks = window_of(self.masks, start, self.part.chunk)
        inputs = window_of(self.inputs, self.part.start + start, self.part.chunk)
        return with_finite_padding(masks.active, inputs), masks

    def when_ready(self, tree: PyTree, start: int = 0) -> PyTree:
        """Return a chunk of a sequence, for a loop over chunks to wait for (see ``late_scan``)."""
        if not self.plan.device.allocates_early:
            return None
        return window_of(tree, start, self.part.chunk)

    def state_before(self, name, step, u):
        """Return state and output of a layer before a step, from the pre-spike state ``u`` of the
        step before.
        """
        # The number of the last active step. Without one, it is unused.
        number = self.masks.number
        last = None if number is None else number[jnp.maximum(step - 1, 0)]
        return self.fired(name, u, self.masks.started[step], last)

    def fired(self, name, u, started, number):
        """Return state and output of a layer after the step of this number."""
        after = self.layers[name].fire(u, Masks(number=number))
        # An example without an active step so far still has its initial state.
        return tree_where(started, after, self.starts[name])

    def forward(
        self, first: int | jax.Array, carry: Carry, *, stores: bool
    ) -> tuple[Carry, dict[Name, PyTree], dict[Name, PyTree]]:
        """Run a segment. Return its last carry, the requested outputs, and the residuals.

        ``first`` is the number of its first step. The outputs and residuals are ``(chunks, chunk,
        batch, neurons)``. The residuals are empty if it does not store them.
        """

        # Scan over chunks. Carry: pre-spike state and state of each layer, each (batch, neurons),
        # and the pasts. ``outs`` are the outputs of all sources, (chunk, batch, ...). Stacked:
        # (chunks, chunk, batch, neurons).
        def chunk(
            carry: Carry, start: jax.Array
        ) -> tuple[Carry, tuple[dict[Name, PyTree], dict[Name, PyTree]]]:
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
                # Masked outputs of a join are zeros, like those of a layer, so a reader need
                # not know the mask.
                if component.at_once:
                    ((name, edges),) = component.hoisted.items()
                    out = self.joins[name].over_chunk(sources.reads(edges))
                    outs[name] = tree_keep(masks.active, out)
                    continue
                # The steps carry only the outputs that they read. The complete past is updated
                # once per chunk, below.
                depths = component.depths.items()
                newest = {name: pasts[name][-depth:] for name, depth in depths}
                layers = component.layers
                results = component.forward(
                    Carry(select(us, layers), select(before, layers), newest),
                    component.arguments(sources.reads),
                    masks=masks,
                    stores=stores,
                    recorded=self.plan.outputs,
                )
                # Later components of the chunk read these outputs, (chunk, batch, ...).
                us |= results.us
                states |= results.states
                outs |= results.outs
                residuals |= results.residuals
            # A past has the outputs of earlier chunks only, so it is updated after all
            # components have read it.
            pasts = {
                source: push(past, outs[source], sources.places)
                for source, past in pasts.items()
            }
            recorded = select(outs, self.plan.outputs)
            return Carry(us, states, pasts), (recorded, residuals)

        # The scan runs over the first steps of the chunks, (chunks,). ``window`` slices inputs and
        # masks by them.
        starts = first + self.part.chunk * jnp.arange(
            self.part.segment // self.part.chunk
        )
        carry, (recorded, residuals) = late_scan(
            chunk, carry, starts, ready=self.when_ready(self.inputs, self.part.start)
        )
        return carry, recorded, residuals


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
