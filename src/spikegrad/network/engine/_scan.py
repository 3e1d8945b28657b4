"""The loop over time as a plain scan.

JAX differentiates it in both modes and chooses the residuals.

What is not optimal: JAX stores about three arrays of ``(steps, batch, neurons)`` per layer.
Convolutions are slow in it on CPUs, because their derivatives are in another order (see
``_convolution``).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..graph._connections import NamedArrays, NamedTrees, select
from ..graph._graph import Graph
from ..step._masks import Masks
from ..step._nodes import nodes_of
from ..step._states import StatesAndPasts
from ..step._step import examples_of, graph_step
from ._schedule import Plan


def run(
    graph: Graph,
    inputs: NamedArrays,
    starts: StatesAndPasts,
    masks: Masks,
    key: jax.Array | None,
    plan: Plan,
) -> tuple[StatesAndPasts, NamedTrees, dict]:
    """Return the states and pasts after the last step, and the requested outputs of each step.

    The third value is empty, because JAX stores the outputs that a later stage reads.

    The scan runs over the time steps. Its carry is the state ``(v, out)`` of each layer, arrays of
    ``(batch, neurons)``, and the pasts, ``(depth, batch, neurons)``.
    """
    # The number of examples comes from the first step, ``(batch, features)``, because keys are
    # drawn per example.
    first_step = next(iter(inputs.values()))[0]
    nodes = nodes_of(graph, key, examples_of(first_step))
    length = len(masks.started)
    # All examples share the number of the step, because spikes of masked steps are discarded.
    masks = masks._replace(number=jnp.arange(length))

    def step(carry, now):
        x, mask = now
        states, pasts = carry
        # No product is hoisted: JAX differentiates the complete step.
        new = graph_step(nodes, states, pasts, x, hoisted={}, mask=mask)
        after = new.states, new.pasts
        return after, select(new.outputs, plan.outputs)

    unroll = min(plan.backward.unroll or plan.device.unroll, length)
    ends, outputs = jax.lax.scan(step, starts, (inputs, masks), unroll=unroll)
    return ends, outputs, {}
