"""A graph over a sequence, from checked arguments.

What is not optimal: each trace evaluates the shapes of all functions twice, once for the states at
rest and once in the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

from ..._compat import match_varying_axes
from ..._pytree import Entries, PyTree
from ..graph._connections import Name, NamedArrays, NamedTrees
from ..graph._graph import Graph
from ..step._masks import make_masks
from ..step._states import as_entries
from ._schedule import Plan
from ._stages import run_stages


class CallArrays(NamedTuple):
    """The checked arrays of a call. They vary over equal mesh axes."""

    inputs: NamedArrays
    """``(steps, batch, ...)``, by name."""
    states: Mapping[Name, PyTree]
    """The entries that the call got. Layers without an entry start at rest."""
    mask: jax.Array | None
    """``(steps, batch)`` or ``(steps,)``."""
    key: jax.Array | None


def run_sequence(
    plan: Plan, graph: Graph, arrays: CallArrays
) -> tuple[Entries, NamedTrees]:
    """Return the states after the last step, and the outputs that ``plan`` names, ``(steps, batch,
    neurons)``.
    """
    inputs, states, mask, key = arrays
    steps = len(next(iter(inputs.values())))
    masks = make_masks(steps, mask, plan.backward.truncate)
    masks = match_varying_axes(masks, like=inputs)
    ran, outputs = run_stages(graph, inputs, states, masks, key, plan)
    ends = as_entries(graph, (ran.states, ran.pasts))
    # Statistics are for the caller. The next call reads the past of such a join, if it has one.
    for name, statistics in ran.statistics.items():
        entry = statistics
        if name in ran.pasts:
            entry = ran.pasts[name], statistics
        ends |= {name: entry}
    return ends, outputs
