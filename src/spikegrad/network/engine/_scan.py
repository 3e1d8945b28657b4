"""The loop over time as a plain scan. JAX differentiates it in both modes and chooses the residuals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._layer import Layer, steps_of
from .._masks import Masks
from .._schedule import Plan
from .._step import LayerState, examples_of, layer_step


def run(
    layers: Sequence[Layer],
    inputs: jax.Array,
    states: list[LayerState],
    masks: Masks,
    key: jax.Array | None,
    plan: Plan,
    mark: Callable[[Any], Any],
) -> tuple[list[LayerState], list]:
    """Return the states after the last step, and for each layer its outputs and pre-spike states, or None.

    The scan runs over the time steps. Its carry is the state ``(v, out)`` of each layer, arrays of ``(batch,
    neurons)``.
    """
    del mark  # JAX differentiates this loop, so no array needs a mark
    steps = [steps_of(layer, n, key, examples_of(inputs[0])) for n, layer in enumerate(layers)]
    if key is not None:
        # All examples share the number of the step, because spikes of masked steps are discarded.
        masks = masks._replace(number=jnp.arange(len(inputs)))

    def step(states, now):
        x, mask = now
        new, shown = [], []
        for n, (layer, state) in enumerate(zip(steps, states, strict=True)):
            state, x, u = layer_step(layer, state, x, mask)
            new.append(state)
            shown.append((x if plan.outputs[n] else None, u if plan.pre_spike[n] else None))
        return new, shown

    return jax.lax.scan(step, states, (inputs, masks), unroll=min(plan.unroll, len(inputs)))
