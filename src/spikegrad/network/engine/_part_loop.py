"""The loop over the steps of one part: the arguments of both passes, and the forward pass.

:class:`PartLoop` has the arrays that both passes read. :class:`Sources` returns the outputs that a
node reads in a chunk, also those of earlier chunks. The forward pass and the backward pass differ
in the origin of these outputs: computed a moment ago, or rebuilt from residuals.

What is not optimal: the outputs of a source with a delay are joined with its past at each read.
Several edges with different lags build several arrays of ``(chunk, batch, neurons)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._pytree import PyTree
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
from ..step._masks import Masks, tree_keep, tree_where, with_finite_padding, young
from ..step._past import Places, lagged, places_of, push
from ..step._states import StatesAndPasts
from ..step._step import LayerState
from ._component import Component, ForwardCarry, ForwardResults
from ._functions import Arrays
from ._late_scan import late_scan
from ._layer_vjp import JoinVjp, LayerVjp
from ._schedule import Part, Plan


class Sources(NamedTuple):
    """The outputs that the nodes of a chunk read."""

    past: Callable[[Name], jax.Array]
    """Returns the outputs of a source before the chunk, ``(depth, batch, neurons)``."""
    outputs: Callable[[Name], jax.Array]
    """Returns the outputs of a source in the chunk, ``(chunk, batch, neurons)``."""
    masks: Masks
    places: Places | None

    def reads(self, edges: Iterable[Edge]) -> Reads:
        """Return the reads of edges in all steps of a chunk, by label.

        Each is ``(chunk, batch, neurons)``, or a tuple of these for a window.
        """
        return reads_of(edges, self.lagged)

    def lagged(self, source: Name, lag: int) -> jax.Array:
        """Return the outputs ``lag`` steps before each step, ``(chunk, batch, neurons)``."""
        if lag == 0:
            return self.outputs(source)
        chunk = len(self.masks.started)
        # Outputs at least a chunk old are in the past. They do not need the outputs of the chunk,
        # whose steps may not have run yet.
        recent = None if lag >= chunk else self.outputs(source)
        return self.view(self.past(source), recent, lag)

    def view(self, past: jax.Array, outputs: jax.Array | None, lag: int) -> jax.Array:
        """Return :meth:`lagged` as a linear function of the past and the outputs of a source.

        The backward pass transposes it. ``outputs`` may be None if ``lag`` is at least a chunk.
        """
        chunk = len(self.masks.started)
        read = lagged(past, outputs, lag, chunk, self.places)
        # Reads across the start of a window of truncated backpropagation have no derivative.
        return young(self.masks, lag, read)


class Segment(NamedTuple):
    """A segment as the backward pass needs it. Without segments it has all steps of the part."""

    first: int | jax.Array
    """The number of its first step in the part."""
    pre_spike: dict[Name, State]
    """The pre-spike states of the step before it, ``(batch, neurons)``."""
    pasts: NamedArrays
    """The outputs of sources before it, ``(depth, batch, neurons)``."""
    residuals: NamedTrees
    """The stored pre-spike states of its steps, ``(chunks, chunk, batch, neurons)``."""


class LoopArguments(NamedTuple):
    """The arrays of the loop over a part.

    A function with a custom derivative gives gradients only to its arguments, so the loop closes
    over no array.
    """

    arrays: dict[Name, dict[str, Arrays]]
    """The arrays of each node, by function."""
    inputs: NamedArrays
    """``(steps, batch, ...)``, with the steps of all parts."""
    pre_spike: dict[Name, State]
    """Values for the pre-spike states of the step before, ``(batch, neurons)``. No step reads them.
    """
    starts: StatesAndPasts
    """The states before the part, ``(batch, neurons)``, and pasts, ``(depth, batch, neurons)``."""
    masks: Masks
    """The masks of the part, ``(steps of the part, ...)``."""


@dataclasses.dataclass(eq=False)
class PartLoop:
    """The loop over one part, with its arrays. A pass runs over one segment of the part."""

    plan: Plan
    part: Part
    groups: list[tuple[Name, ...]]
    """The nodes of each component, sources first.

    They depend on the length of a chunk: outputs with a delay of at least a chunk are known when
    the chunk starts, so they do not close a loop.
    """
    edges: dict[Name, tuple[Edge, ...]]
    traced: dict[Name, LayerVjp | JoinVjp]
    """The equations of each node, without arrays."""
    arguments: LoopArguments

    def __post_init__(self) -> None:
        arrays = self.arguments.arrays
        # Of all parts, (steps, batch, ...), because a slice would be a copy.
        self.inputs = self.arguments.inputs
        # The states of the layers before the part, (batch, neurons).
        self.starts, _ = self.arguments.starts
        self.masks = self.arguments.masks
        # Only the keys of stochastic spikes need the numbers of the steps.
        if any("keys" in functions for functions in arrays.values()):
            self.masks = self.masks.numbered(self.part.start)
        self.nodes = {
            name: node._replace(arrays=arrays[name])
            for name, node in self.traced.items()
        }
        # A later stage may compute outputs from residuals. Segments do not have them for all steps.
        self.returns_residuals = self.plan.staged and not self.part.has_segments
        # Layers have states and residuals. Joins are functions of one step.
        nodes = self.nodes.items()
        self.layers = {n: node for n, node in nodes if isinstance(node, LayerVjp)}
        self.joins = {n: node for n, node in nodes if isinstance(node, JoinVjp)}
        unroll = self.plan.unroll_of_chunk(self.part.chunk, len(self.layers))
        self.components = [
            Component(
                nodes=select(self.nodes, names),
                edges=select(self.edges, names),
                chunk=self.part.chunk,
                unroll=unroll,
            )
            for names in self.groups
        ]

    def window(self, start: int | jax.Array) -> tuple[NamedArrays, Masks]:
        """Return the inputs and masks of the chunk that begins with a step of the part."""
        # The inputs have the steps of all parts, so their slice is shifted by the start of the
        # part: (steps, batch, ...) -> (chunk, batch, ...).
        masks = window_of(self.masks, start, self.part.chunk)
        inputs = window_of(self.inputs, self.part.start + start, self.part.chunk)
        return with_finite_padding(masks.active, inputs), masks

    def first_chunk(self, tree: PyTree, start: int = 0) -> PyTree:
        """Return a chunk of arrays that a loop over chunks waits for (see ``late_scan``).

        None on devices that allocate the results of a loop when it starts.
        """
        if not self.plan.device.allocates_early:
            return None
        return window_of(tree, start, self.part.chunk)

    def awaited_by_chunks(self, tree: PyTree, start: int = 0) -> PyTree:
        """Return :meth:`first_chunk` for the loop over the chunks of a segment."""
        # The loop over segments contains the loops over their chunks. Their results are as short as
        # a segment, and exist within an iteration only, so they need not wait.
        return None if self.part.has_segments else self.first_chunk(tree, start)

    def state_before(
        self, name: Name, step: int | jax.Array, pre_spike: State
    ) -> LayerState:
        """Return the state of a layer before a step, from the pre-spike state one step earlier."""
        # The number of the last active step. Without one, it is unused.
        number = self.masks.number
        if number is not None:
            previous = jnp.maximum(step - 1, 0)
            number = number[previous]
        return self.fire(name, pre_spike, self.masks.started[step], number)

    def fire(
        self,
        name: Name,
        pre_spike: State,
        started: jax.Array | None,
        number: jax.Array | None,
    ) -> LayerState:
        """Return the state of a layer after the step of this number, ``(batch, neurons)``."""
        after = self.layers[name].fire(pre_spike, Masks(number=number))
        # An example without an active step so far still has its initial state.
        return tree_where(started, after, self.starts[name])

    def forward(
        self, first: int | jax.Array, carry: ForwardCarry, *, stores: bool
    ) -> ForwardResults:
        """Run a segment. ``first`` is the number of its first step."""

        def chunk(
            carry: ForwardCarry, start: jax.Array
        ) -> tuple[ForwardCarry, tuple[NamedTrees, NamedTrees]]:
            # ``outputs`` starts with the inputs. Components add their outputs to it, so later
            # components read both alike: (chunk, batch, ...).
            outputs, masks = self.window(start)
            pre_spike = dict(carry.pre_spike)
            states = dict(carry.states)
            residuals = {}

            def past(source: Name) -> jax.Array:
                if source in carry.pasts:
                    return carry.pasts[source]
                # A layer with a delay of 1 has its past in its state. It is read from ``carry``,
                # because components replace ``states``: (batch, neurons) -> (1, batch, neurons).
                return carry.states[source][1][None]

            places = places_of(masks.active)
            sources = Sources(past, outputs.__getitem__, masks, places)
            for component in self.components:
                # Masked outputs of a join are zeros, like those of a layer, so a reader need
                # not know the mask.
                if component.at_once:
                    ((name, edges),) = component.hoisted.items()
                    out = self.joins[name].over_chunk(sources.reads(edges))
                    outputs[name] = tree_keep(masks.active, out)
                    continue
                # The steps carry only the outputs that they read. The complete past is updated
                # once per chunk, below.
                newest = {
                    name: carry.pasts[name][-depth:]
                    for name, depth in component.depths.items()
                }
                layers = component.layers
                before = ForwardCarry(
                    select(pre_spike, layers), select(carry.states, layers), newest
                )
                results = component.forward(
                    before,
                    component.arguments(sources.reads),
                    masks=masks,
                    stores=stores,
                    recorded=self.plan.outputs,
                )
                pre_spike |= results.ends.pre_spike
                states |= results.ends.states
                outputs |= results.outputs
                residuals |= results.residuals
            # A past has the outputs of earlier chunks only, so it is updated after all
            # components have read it.
            pasts = {
                source: push(past, outputs[source], places)
                for source, past in carry.pasts.items()
            }
            recorded = select(outputs, self.plan.outputs)
            return ForwardCarry(pre_spike, states, pasts), (recorded, residuals)

        # The scan runs over the first steps of the chunks, (chunks,), and stacks the results of
        # each chunk: (chunk, batch, neurons) -> (chunks, chunk, batch, neurons).
        chunks = self.part.segment // self.part.chunk
        starts = first + self.part.chunk * jnp.arange(chunks)
        carry, (recorded, residuals) = late_scan(
            chunk,
            carry,
            starts,
            ready=self.awaited_by_chunks(self.inputs, self.part.start),
        )
        return ForwardResults(carry, recorded, residuals)


def window_of(tree: PyTree, start: int | jax.Array, length: int) -> PyTree:
    """Slice a sequence at its place of use, because another layout may need a copy."""
    # (steps, ...) -> (length, ...). A scan over (chunks, chunk, ...) would need the inputs in this
    # shape. Steps count from 0, so no equations are needed for negative indices.
    return jax.tree.map(
        lambda a: jax.lax.dynamic_slice_in_dim(
            a, start, length, allow_negative_indices=False
        ),
        tree,
    )
