"""The loop over time as a plain scan, which JAX differentiates, in forward mode too. What is kept is JAX's choice."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ._layer import Layer, LayerState, examples_of, fire, keys_of
from ._masks import Masks, cut_off, tree_keep, tree_where


def run(
    layers: Sequence[Layer],
    inputs: jax.Array,
    states: Sequence[LayerState],
    masks: Masks,
    outputs: Sequence[bool],
    pre_spike: Sequence[bool],
    unroll: int,
    key: jax.Array | None = None,
) -> tuple[list[LayerState], list]:
    """States after the last step; of each layer outputs and pre-spike states over time, or None where not asked for."""

    def step(states, now):
        x, mask, t = now
        step_key = None if key is None else jax.random.fold_in(key, t)
        examples = examples_of(x)
        new, shown = [], []
        for n, (layer, state) in enumerate(zip(layers, states, strict=True)):
            v, out = cut_off(mask, state)
            u = layer.cell.integrate(v, layer.current(x, out))
            after = fire(layer.cell, u, keys_of(layer, step_key, n, examples))
            new.append(tree_where(mask.active, after, state))
            x = tree_keep(mask.active, after[1])
            shown.append((x if outputs[n] else None, tree_keep(mask.active, u) if pre_spike[n] else None))
        return new, shown

    t = None if key is None else jnp.arange(len(inputs))
    return jax.lax.scan(step, list(states), (inputs, masks, t), unroll=min(unroll, len(inputs)))
