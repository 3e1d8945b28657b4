"""Nodes that run step by step together, over one chunk of steps, forward and backward.

In a chain each component has one layer. The backward pass has two phases. The first runs step by
step, from the last step, and computes the cotangents of states and currents. Only transposed
products within the component depend on later steps. The second phase computes the gradients of the
weights for the complete chunk (see ``_layer_vjp``).

What is not optimal: the layers of a loop run in one scan, step by step, also if only one of them
closes the loop. The stacked results of a chunk exist from the start of a program on CPUs, for all
components together (see ``_late_scan``). They are small, because chunks are short.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._pytree import PyTree, is_inexact
from ...neurons import State
from ..graph._connections import (
    Edge,
    Name,
    NamedArrays,
    NamedTrees,
    Reads,
    depths_of,
    select,
)
from ..step._masks import Masks, tree_where
from ..step._step import LayerState, LayerStates, Nodes, activity_names, graph_step
from ._convolution import canonical
from ._functions import Arrays, pullback, with_derivative_of
from ._layer_vjp import Gradients, JoinVjp, LayerVjp, plus


class ForwardCarry(NamedTuple):
    """The arrays that the loops of the forward pass carry from step to step, by name."""

    pre_spike: dict[Name, State]
    """The last pre-spike state of each layer, ``(batch, neurons)``."""
    states: LayerStates
    """The state and the output of each layer after this step, each ``(batch, neurons)``."""
    pasts: NamedArrays
    """The last outputs of sources with longer delays, ``(depth, batch, neurons)``."""


class ForwardResults(NamedTuple):
    """The results of a component over a chunk, or of a loop over chunks."""

    ends: ForwardCarry
    """The carry after the last step."""
    outputs: NamedTrees
    """The outputs of all steps, by name, ``(chunk, batch, neurons)``, or ``(chunks, chunk, batch,
    neurons)``.
    """
    residuals: NamedTrees
    """The stored pre-spike states in this form. Empty if they are not stored."""


class StepSlices(NamedTuple):
    """The arrays that the backward pass reads in each step of a chunk, stacked, by name."""

    step: jax.Array
    """The number of the step in the chunk, ``(chunk,)``."""
    ct_outputs: NamedArrays
    """The cotangents of outputs, ``(chunk, batch, neurons)``."""
    states: LayerStates
    """The states before each step, ``(chunk, batch, neurons)``."""
    pasts: NamedArrays
    """The pasts before each step, ``(chunk, depth, batch, neurons)``."""
    hoisted: dict[Name, Reads]
    """What each step gets instead of computing it, see :meth:`Component.arguments`."""
    currents: NamedArrays
    """The currents of layers in a loop, ``(chunk, batch, neurons)``, from one product for all
    steps. The derivative of ``integrate`` needs them.
    """
    mask: Masks


class Cotangents(NamedTuple):
    """The arrays that the loops of the backward pass carry to earlier steps, by name."""

    states: LayerStates
    """The cotangents of the states before a step or chunk, ``(batch, neurons)``."""
    pasts: NamedArrays
    """The cotangents of the pasts before it, ``(depth, batch, neurons)``."""
    grads: dict[Name, Gradients]
    """The gradients so far, in the shapes of their arrays."""


@dataclasses.dataclass(eq=False)
class Component:
    """One layer, one join, or several nodes that read each other in a loop of the graph."""

    nodes: dict[Name, LayerVjp | JoinVjp]
    """The nodes, in the order of a step."""
    edges: dict[Name, tuple[Edge, ...]]
    """The edges of each node, also those from other components."""
    chunk: int
    """The number of steps of a chunk."""
    unroll: int
    """The number of steps per iteration of the compiled loops."""

    def __post_init__(self) -> None:
        # One read returns all lags of an edge, so the shortest one decides.
        def is_stepped(edge: Edge) -> bool:
            return edge.source in self.nodes and min(edge.lags) < self.chunk

        self.stepped = {
            name: tuple(filter(is_stepped, edges)) for name, edges in self.edges.items()
        }
        """The edges that each step reads, for each node: those from this component with a lag that
        is shorter than a chunk.
        """
        self.hoisted = {
            name: tuple(itertools.filterfalse(is_stepped, edges))
            for name, edges in self.edges.items()
        }
        """The edges that are read for all steps of a chunk at once."""
        self.layers = {
            n: node for n, node in self.nodes.items() if isinstance(node, LayerVjp)
        }
        all_stepped = itertools.chain.from_iterable(self.stepped.values())
        self.depths = depths_of(all_stepped, self.layers)
        """The number of past outputs that the steps carry, by source. A layer that is read with a
        lag of 1 only is missing, because its state has its last output.
        """
        self.convolves = any(node.per_step for node in self.nodes.values())
        is_one_join = len(self.nodes) == 1 and not self.layers
        self.at_once = is_one_join and not self.convolves
        """True for a join whose steps run at once, because it does not have a state."""

    def arguments(self, reads: Callable[[Iterable[Edge]], Reads]) -> dict[Name, Reads]:
        """Return what the steps of a chunk get instead of computing it, by node."""
        # Products of a layer: (chunk, batch, neurons). Reads of a join: (chunk, batch, ...).
        return {
            name: node.hoisted(reads(self.hoisted[name]), self.chunk)
            for name, node in self.nodes.items()
        }

    def _fast(self, step: Callable) -> Callable:
        """Convert the convolutions of a step to the form that is fast inside a loop."""
        return canonical(step) if self.convolves else step

    def _as_steps(self, nodes: Mapping[Name, Any]) -> Nodes:
        """Return nodes with their edges, as :func:`graph_step` takes them."""
        # Only the edges within the component are read in a step. The products of all other edges
        # are in ``hoisted``.
        return {name: (node, self.stepped[name]) for name, node in nodes.items()}

    def forward(
        self,
        carry: ForwardCarry,
        hoisted: dict[Name, Reads],
        *,
        masks: Masks,
        stores: bool,
        recorded: tuple[Name, ...],
    ) -> ForwardResults:
        """Run the steps of a chunk. ``recorded`` has the parts of the activity to return."""
        nodes = self._as_steps(self.nodes)

        # A step gets the hoisted products (batch, neurons), or the inputs (batch, ...) if
        # ``per_step``, and its masks. The scan stacks the outputs, with other parts that are
        # requested, and the residuals: (chunk, batch, neurons).
        def step(
            carry: ForwardCarry, now: tuple[dict[Name, Reads], Masks]
        ) -> tuple[ForwardCarry, tuple[NamedTrees, NamedTrees]]:
            # ``graph_step`` gets no inputs, because every read of an input is hoisted.
            hoisted, mask = now
            new = graph_step(
                nodes,
                carry.states,
                carry.pasts,
                outputs={},
                hoisted=hoisted,
                mask=mask,
            )
            pre_spike = {}
            for name, before in carry.pre_spike.items():
                u = new.outputs[activity_names(name).pre_spike]
                # A masked step holds the pre-spike state like the state, because the backward pass
                # rebuilds the state from it.
                pre_spike[name] = tree_where(mask.active, u, before)
            residuals = {}
            if stores:
                # ``mask.number`` selects the keys, so stochastic spikes repeat when the storage
                # checks them.
                residuals = {
                    name: self.layers[name].store(u, mask)
                    for name, u in pre_spike.items()
                }
            requested = new.outputs.keys() & {*nodes, *recorded}
            outputs = select(new.outputs, requested)
            after = ForwardCarry(pre_spike, new.states, new.pasts)
            return after, (outputs, residuals)

        ends, (outputs, residuals) = jax.lax.scan(
            self._fast(step),
            carry,
            (hoisted, masks),
            length=self.chunk,
            unroll=self.unroll,
        )
        return ForwardResults(ends, outputs, residuals)

    def backward_steps(
        self,
        ct_states: LayerStates,
        grads: dict[Name, Gradients],
        slices: StepSlices,
        load: Callable[[Name, jax.Array], State],
    ) -> tuple[Cotangents, dict[Name, Reads]]:
        """Run the steps of a chunk backward.

        ``ct_states`` are the cotangents of the states after the chunk, ``(batch, neurons)``.
        ``load(name, step)`` returns the stored pre-spike state of a step. The second result has
        the cotangents of the hoisted arguments, ``(chunk, batch, ...)``.
        """
        # They start at zero, because the caller has already added the cotangents of the pasts after
        # the chunk to the pasts before it and to the outputs.
        zeros = {name: jnp.zeros_like(slices.pasts[name][0]) for name in self.depths}
        # The steps add only these gradients. Phase 2 adds those of products that run for a chunk at
        # once.
        stepwise = {
            name: select(grads[name], node.stepwise)
            for name, node in self.nodes.items()
        }
        after = Cotangents(ct_states, zeros, stepwise)

        # From the last step to the first. A step gets its slices, (batch, neurons). The scan
        # stacks the cotangents of the hoisted arguments, (chunk, batch, neurons).
        def step(
            after: Cotangents, now: StepSlices
        ) -> tuple[Cotangents, dict[Name, Reads]]:
            pre_spike = {name: load(name, now.step) for name in self.layers}

            # This is the step of the forward pass, but only its derivative is used. ``_Rebuilt``
            # replaces the computed values by stored ones, so XLA removes their computation. Only
            # the transposed products within the step remain sequential (Appleyard, Kocisky,
            # Blunsom 2016).
            def forward_step(
                arrays: dict[Name, dict[str, Arrays]],
                states: LayerStates,
                pasts: NamedArrays,
                hoisted: dict[Name, Reads],
            ) -> tuple[LayerStates, NamedArrays, NamedTrees]:
                nodes: dict[Name, Any] = {
                    name: node._replace(arrays=node.arrays | arrays[name])
                    for name, node in self.nodes.items()
                }
                for name in self.layers:
                    # ``currents`` lacks layers with a convolution. Their current is computed again
                    # in the step.
                    current = now.currents.get(name)
                    nodes[name] = _Rebuilt(nodes[name], pre_spike[name], current)
                new = graph_step(
                    self._as_steps(nodes),
                    states,
                    pasts,
                    outputs={},
                    hoisted=hoisted,
                    mask=now.mask,
                )
                return new.states, new.pasts, select(new.outputs, now.ct_outputs)

            # Differentiate with respect to the arrays in the carry only. All other arrays are
            # constants of the step.
            differentiated = {
                name: select(self.nodes[name].arrays, node_grads)
                for name, node_grads in after.grads.items()
            }
            ct_results = after.states, after.pasts, now.ct_outputs
            new_grads, ct_states, ct_pasts, ct_hoisted = pullback(
                forward_step,
                ct_results,
                differentiated,
                now.states,
                now.pasts,
                now.hoisted,
            )
            grads = plus(after.grads, new_grads)
            return Cotangents(ct_states, ct_pasts, grads), ct_hoisted

        before, ct_hoisted = jax.lax.scan(
            self._fast(step),
            after,
            slices,
            reverse=True,
            unroll=self.unroll,
        )
        grads = {name: grads[name] | before.grads[name] for name in grads}
        return before._replace(grads=grads), ct_hoisted


class _Rebuilt(NamedTuple):
    """A layer in the backward pass, with the values of the pre-spike state and the current.

    Its functions return these values, with the derivatives of the functions of the layer.
    """

    layer: LayerVjp
    pre_spike: State
    """``(batch, neurons)``."""
    rebuilt_current: jax.Array | None
    """``(batch, neurons)``. If None, the step computes the current."""

    def current(self, hoisted: Reads, reads: Reads) -> jax.Array:
        current = self.layer.current(hoisted, _summed(reads))
        if self.rebuilt_current is None:
            return current
        # Only the derivative of the sum is used, and XLA removes its value.
        return with_derivative_of(current, value=self.rebuilt_current)

    def integrate(self, v: State, current: jax.Array) -> State:
        computed = self.layer.integrate(_summed(v), current)
        return jax.tree.map(
            lambda value, computed: with_derivative_of(computed, value=value),
            self.pre_spike,
            computed,
        )

    def fire(self, u: State, mask: Masks) -> LayerState:
        # A cell reads ``u`` several times, for the spike and for the reset. The outer identity
        # does the same for the state and the output, which also have several readers.
        return _summed(self.layer.fire(_summed(u), mask))


def _summed(tree: PyTree) -> PyTree:
    """Identity that sums the cotangents of its uses before JAX passes them on.

    It fixes the order of sums in the backward pass, so rounding does not depend on the number of
    times that a function of a cell uses its argument. XLA removes the product.
    """
    return jax.tree.map(lambda x: x * 1 if is_inexact(x) else x, tree)
