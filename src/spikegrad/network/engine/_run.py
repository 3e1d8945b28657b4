"""A graph over a sequence, from checked arguments."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from ..._compat import match_varying_axes, shard_as
from ..._pytree import Entries, PyTree
from ..graph._connections import Name
from ..graph._graph import Graph
from ..step._masks import make_masks
from ..step._nodes import initial_states
from ..step._states import Parts, as_entries, as_parts, check_entries, entries_of_part
from ._schedule import Plan
from ._stages import run_stages


def run_sequence(
    plan: Plan,
    graph: Graph,
    inputs: dict[Name, jax.Array],
    states: Mapping[Name, PyTree],
    mask: jax.Array | None,
    key: jax.Array | None,
) -> tuple[Entries, dict[Name, PyTree]]:
    """Return the states after the last step, and the outputs that ``plan`` names.

    Layers that ``states`` leaves out start at rest. All arrays vary over equal mesh axes.
    """

    def start(part: Graph, inputs: dict[Name, jax.Array]) -> Parts:
        # (steps, batch, features) -> (batch, features)
        first_step = {name: x[0] for name, x in inputs.items()}
        at_rest = match_varying_axes(initial_states(part, first_step), like=inputs)
        at_rest = as_entries(part, at_rest)
        entries = entries_of_part(part, graph, states)
        check_entries(part, entries, at_rest)
        return as_parts(part, jax.tree.map(shard_as, at_rest | entries, at_rest))

    steps = len(next(iter(inputs.values())))
    masks = match_varying_axes(
        make_masks(steps, mask, plan.backward.truncate), like=inputs
    )
    ran, outputs = run_stages(graph, inputs, start, masks, key, plan)
    ends = as_entries(graph, (ran.states, ran.pasts))
    # Statistics are for the caller. The next call reads the past of such a join, if it has one.
    for name, statistics in ran.statistics.items():
        entry = (ran.pasts[name], statistics) if name in ran.pasts else statistics
        ends |= {name: entry}
    return ends, outputs
