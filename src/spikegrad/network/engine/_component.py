"""Nodes that run step by step together, over one chunk of steps, forward and backward.

In a chain each component has one layer. The backward pass has two phases. The first runs step by
step, from the last step, and computes the cotangents of states and currents. Only transposed
products within the component depend on later steps. The second phase computes the gradients of the
weights for the complete chunk (see ``_layer_vjp``).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._pytree import PyTree, is_inexact
from ...neurons import State
from ..graph._connections import Edge, Name, Read, depths_of, select
from ..step._masks import Masks, tree_where
from ..step._step import LayerState, Nodes, graph_step, parts_of
from ._convolution import canonical
from ._functions import known, pullback
from ._layer_vjp import Gradients, JoinVjp, LayerVjp, plus


class Carry(NamedTuple):
    """The arrays that the loops of the forward pass carry from step to step, by name."""

    us: dict[Name, State]
    """The last pre-spike state of each layer, ``(batch, neurons)``."""
    states: dict[Name, LayerState]
    """The state and the output of each layer after this step, each ``(batch, neurons)``."""
    pasts: dict[Name, jax.Array]
    """The last outputs of sources with longer delays, ``(depth, batch, neurons)``."""


class ChunkResults(NamedTuple):
    """The results of a component over a chunk, by name."""

    us: dict[Name, State]
    """The pre-spike states of the last step, ``(batch, neurons)``."""
    states: dict[Name, LayerState]
    """The states after the chunk, ``(batch, neurons)``."""
    outs: dict[Name, PyTree]
    """The outputs of all steps, ``(chunk, batch, neurons)``."""
    residuals: dict[Name, PyTree]
    """The stored pre-spike states, ``(chunk, batch, neurons)``. Empty if they are not stored."""


class StepSlices(NamedTuple):
    """The arrays that the backward pass reads in each step of a chunk, stacked, by name."""

    step: jax.Array
    """The number of the step in the chunk, ``(chunk,)``."""
    ct_outs: dict[Name, jax.Array]
    """The cotangents of outputs, ``(chunk, batch, neurons)``."""
    states: dict[Name, LayerState]
    """The states before each step, ``(chunk, batch, neurons)``."""
    pasts: dict[Name, jax.Array]
    """The pasts before each step, ``(chunk, depth, batch, neurons)``."""
    hoisted: dict[Name, dict[str, Read]]
    """The arguments of the steps that no step computes, see :meth:`Component.arguments`."""
    currents: dict[Name, jax.Array]
    """The currents of layers in a loop, ``(chunk, batch, neurons)``, from one product for all
    steps. The derivative of ``integrate`` needs them.
    """
    mask: Masks


class StepCotangents(NamedTuple):
    """The results of the backward steps of a component over a chunk, by name."""

    states: dict[Name, LayerState]
    """The cotangents of the states before the chunk, ``(batch, neurons)``."""
    pasts: dict[Name, jax.Array]
    """The cotangents of the pasts before the chunk, ``(depth, batch, neurons)``."""
    grads: dict[Name, Gradients]
    """The gradients so far, with those of ``stepwise`` added."""
    hoisted: dict[Name, dict[str, Read]]
    """The cotangents of the hoisted arguments, ``(chunk, batch, ...)``."""


@dataclasses.dataclass(eq=False)
class Component:
    """Layers, and the joins between them."""

    nodes: dict[Name, LayerVjp | JoinVjp]
    edges: dict[Name, tuple[Edge, ...]]
    chunk: int
    unroll: int

    def __post_init__(self) -> None:
        # An edge with several lags belongs to the loop if its shortest lag does, because one
        # read returns all its lags.
        self.within = {
            name: tuple(
                e for e in edges if e.source in self.nodes and min(e.lags) < self.chunk
            )
            for name, edges in self.edges.items()
        }
        """The edges that are read step by step, for each node."""
        self.hoisted = {
            name: tuple(edge for edge in edges if edge not in self.within[name])
            for name, edges in self.edges.items()
        }
        """The edges that are read for all steps of a chunk at once."""
        self.layers = {
            n: node for n, node in self.nodes.items() if isinstance(node, LayerVjp)
        }
        self.depths = depths_of(itertools.chain(*self.within.values()), self.layers)
        """The number of past outputs that the steps carry."""
        self.convolves = any(node.per_step for node in self.nodes.values())
        self.at_once = not (self.layers or self.convolves or len(self.nodes) > 1)
        """True for a join whose steps run at once, because it does not have a state."""

    def arguments(self, reads: Callable) -> dict[Name, dict[str, Read]]:
        """Return the arguments of the steps of a chunk that no step computes, by node."""
        # Products of a layer: (chunk, batch, neurons). Reads of a join: (chunk, batch, ...).
        return {
            name: node.hoisted(reads(self.hoisted[name]), self.chunk)
            for name, node in self.nodes.items()
        }

    def _fast(self, step: Callable) -> Callable:
        """Convert the convolutions of a step to the form that is fast inside a loop."""
        return canonical(step) if self.convolves else step

    def _as_steps(self, nodes: Mapping[Name, Any]) -> Nodes:
        # Only the edges within the component are read in a step. The products of all other edges
        # are in ``hoisted``.
        return {name: (node, self.within[name]) for name, node in nodes.items()}

    def forward(
        self,
        carry: Carry,
        hoisted: dict[Name, dict[str, Read]],
        *,
        masks: Masks,
        stores: bool,
        recorded: tuple[Name, ...],
    ) -> ChunkResults:
        """Run the steps of a chunk. ``recorded`` has the parts of the activity to return."""
        nodes = self._as_steps(self.nodes)

        # Scan over the steps of a chunk. Carry: ``u``, ``v`` and ``out`` of each layer, each
        # (batch, neurons), and the pasts that are read within the steps, (depth, batch, neurons).
        # Slices: the drive (batch, neurons), or the inputs (batch, ...) if ``per_step``, and the
        # masks of the step. Stacked: outputs, with other parts that are requested, and residuals,
        # each (chunk, batch, neurons).
        def step(
            carry: Carry, now: tuple[dict[Name, dict[str, Read]], Masks]
        ) -> tuple[Carry, tuple[dict[Name, PyTree], dict[Name, PyTree]]]:
            # ``graph_step`` gets no inputs, because every read of an input is hoisted.
            hoisted, mask = now
            new = graph_step(nodes, carry.states, carry.pasts, {}, hoisted, mask)
            # A masked step holds the pre-spike state like the state, because the backward pass
            # rebuilds the state from it.
            us = {
                name: tree_where(mask.active, new.outputs[parts_of(name)[1]], u)
                for name, u in carry.us.items()
            }
            # ``mask.number`` selects the keys, so stochastic spikes repeat when the storage checks
            # them.
            residuals = {
                name: self.layers[name].store(u, mask)
                for name, u in us.items()
                if stores
            }
            outs = select(new.outputs, new.outputs.keys() & {*nodes, *recorded})
            return Carry(us, new.states, new.pasts), (outs, residuals)

        ends, (outs, residuals) = jax.lax.scan(
            self._fast(step),
            carry,
            (hoisted, masks),
            length=self.chunk,
            unroll=self.unroll,
        )
        return ChunkResults(ends.us, ends.states, outs, residuals)

    def backward_steps(
        self,
        ct_states: dict[Name, LayerState],
        grads: dict[Name, Gradients],
        slices: StepSlices,
        load: Callable[[Name, jax.Array], State],
    ) -> StepCotangents:
        """Run the steps of a chunk backward.

        ``ct_states`` are the cotangents of the states after the chunk, ``(batch, neurons)``.
        ``load(name, step)`` returns the stored pre-spike state of a step.
        """
        # Only these gradients are in the carry. Phase 2 adds the gradients of products that run for
        # a chunk at once.
        trained = {
            name: select(grads[name], node.stepwise)
            for name, node in self.nodes.items()
        }
        # The cotangent of the pasts after the chunk starts at zero, because the caller has already
        # added it to the pasts before the chunk and to the outputs.
        ct_pasts = {name: jnp.zeros_like(slices.pasts[name][0]) for name in self.depths}

        # Scan over the steps of a chunk, from last to first. Carry: the cotangents of the states
        # after the step, each (batch, neurons), cotangents of the pasts, and the accumulated
        # gradients of ``stepwise``, in the shapes of their arrays. Slices: the cotangents of
        # outputs, the states before the step and ``hoisted``, each (batch, neurons). Stacked: the
        # cotangents of ``hoisted``, each (chunk, batch, neurons), for phase 2.
        def step(
            carry: tuple[dict, dict, dict], now: StepSlices
        ) -> tuple[tuple[dict, dict, dict], dict]:
            ct_states, ct_pasts, grads = carry
            # the stored pre-spike states of this step, (batch, neurons)
            us = {name: load(name, now.step) for name in self.layers}

            # This is the step of the forward pass, but only its derivative is used. ``_Rebuilt``
            # replaces the computed values by known ones, so XLA removes their computation. Only the
            # transposed products within the step remain sequential (Appleyard, Kocisky, Blunsom
            # 2016).
            def again(arrays, states, pasts, hoisted):
                nodes: dict[Name, Any] = {
                    name: node._replace(arrays=node.arrays | arrays[name])
                    for name, node in self.nodes.items()
                }
                nodes |= {
                    # ``currents`` lacks layers with a convolution. Their current is computed again
                    # in the step.
                    name: _Rebuilt(nodes[name], us[name], now.currents.get(name))
                    for name in self.layers
                }
                new = graph_step(
                    self._as_steps(nodes), states, pasts, {}, hoisted, now.mask
                )
                return new.states, new.pasts, select(new.outputs, now.ct_outs)

            # Differentiate with respect to the arrays in the carry only. All other arrays are
            # constants of the step.
            differentiated = {
                name: select(self.nodes[name].arrays, node_grads)
                for name, node_grads in grads.items()
            }
            new, ct_states, ct_pasts, ct_hoisted = pullback(
                again,
                (ct_states, ct_pasts, now.ct_outs),
                differentiated,
                now.states,
                now.pasts,
                now.hoisted,
            )
            # The cotangents of ``hoisted`` leave the scan as stacked outputs, (chunk, batch,
            # neurons). Phase 2 multiplies them by the reads of all steps at once.
            return (ct_states, ct_pasts, plus(grads, new)), ct_hoisted

        (ct_states, ct_pasts, trained), ct_hoisted = jax.lax.scan(
            self._fast(step),
            (ct_states, ct_pasts, trained),
            slices,
            reverse=True,
            unroll=self.unroll,
        )
        grads = {name: grads[name] | trained[name] for name in grads}
        return StepCotangents(ct_states, ct_pasts, grads, ct_hoisted)


class _Rebuilt(NamedTuple):
    """A layer in the backward pass, with known values of the pre-spike state and the current."""

    layer: LayerVjp
    u: State
    known_current: jax.Array | None

    def current(self, arguments: tuple) -> jax.Array:
        hoisted, reads = arguments
        # If the current is known, only the derivative of this sum is used, and XLA removes its
        # value.
        current = self.layer.current((hoisted, jax.tree.map(_summed, reads)))
        if self.known_current is None:
            return current
        return known(self.known_current, current)

    def integrate(self, v: State, current: jax.Array) -> State:
        return jax.tree.map(known, self.u, self.layer.integrate(_summed(v), current))

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
