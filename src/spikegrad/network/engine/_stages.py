"""Stages: the nodes of a network before and after its functions of complete sequences.

A join over time, such as a batch normalization, needs all steps of its sources. The network
therefore runs in stages. A stage evaluates the joins over time with complete sources. It then runs
all nodes that depend on them in one loop over time. A network without such joins is a single stage.

::

    inputs ──> loop of stage 0 ──> joins over time ──> loop of stage 1 ──> ...

A loop stores the pre-spike states of its layers, and ``jax.checkpoint`` stores no other arrays. The
backward pass computes the outputs that a later stage reads from these states (see
``engine._loop``), and then the joins over time.

What is not optimal: outputs that several later stages read are recomputed for each of them. Joins
over time keep JAX's residuals within their stage, so several joins of a stage hold more than one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._checks import append_axes, is_float, takes
from ..._pytree import PyTree
from ..graph._connections import Join, Name, NamedArrays, NamedTrees, select
from ..graph._graph import Graph
from ..step._masks import Masks, tree_keep, with_finite_padding
from ..step._nodes import states_before
from ..step._states import is_over_time
from ..step._step import LayerStates, activity_names
from . import _loop, _scan
from ._functions import with_derivative_of
from ._schedule import RESIDUALS, Plan


class NetworkStage(NamedTuple):
    """The nodes that one loop runs, and the joins over time before it."""

    over_time: tuple[Name, ...]
    graph: Graph
    """The nodes of the loop. Its inputs are their sources in earlier stages."""


class StageResults(NamedTuple):
    """The results of one stage, or of all stages so far, by name."""

    states: LayerStates
    """The states after the last step, ``(batch, neurons)``."""
    pasts: NamedArrays
    """The outputs that a later call reads, ``(depth, batch, neurons)``."""
    statistics: NamedTrees
    """The second values that joins over time returned, such as running statistics."""


def stages_of(graph: Graph) -> list[NetworkStage]:
    """Return the stages of a graph, in the order in which they run."""
    if not any(map(is_over_time, graph.nodes.values())):
        return [NetworkStage((), graph)]
    sources = {
        name: [edge.source for edge in edges] for name, edges in graph.edges.items()
    }
    # Components come sources first, so every source outside of the group has its number
    # already. A join over time starts a new stage.
    number = dict.fromkeys(graph.inputs, 0)
    for group in graph.components():
        over_time = [name for name in group if is_over_time(graph.nodes[name])]
        if over_time and len(group) > 1:
            others = [repr(name) for name in group if name != over_time[0]]
            raise ValueError(
                f"Network: join {over_time[0]!r} takes all steps at once, and its sources depend "
                f"on its outputs through {', '.join(others)}; normalize the inputs of the loop, or "
                "each step by itself"
            )
        read = {source for name in group for source in sources[name]}
        stage_number = max(number[source] for source in read if source in number)
        if over_time:
            stage_number += 1
        number |= dict.fromkeys(group, stage_number)
    stages = []
    for n in range(max(number.values()) + 1):
        members = [name for name in graph.nodes if number[name] == n]
        over_time = tuple(name for name in members if is_over_time(graph.nodes[name]))
        steps = [name for name in members if name not in over_time]
        # A dict and not a set, because the order of the inputs must not depend on hashes.
        outside = dict.fromkeys(
            source for name in steps for source in sources[name] if source not in steps
        )
        loop_graph = graph._replace(
            nodes=select(graph.nodes, steps),
            edges=select(graph.edges, steps),
            inputs=tuple(outside),
        )
        stages.append(NetworkStage(over_time, loop_graph))
    return stages


def run_stages(
    graph: Graph,
    inputs: NamedArrays,
    entries: Mapping[Name, PyTree],
    masks: Masks,
    key: jax.Array | None,
    plan: Plan,
) -> tuple[StageResults, NamedTrees]:
    """Run a network. Return its states and statistics, and the requested outputs, ``(steps, batch,
    ...)``.

    ``entries`` has the states before the first step, of layers that do not start at rest.
    """
    stages = stages_of(graph)
    done = StageResults({}, {}, {})
    # The backward pass of several stages stores only the residuals of the engine. That of a single
    # stage has nothing to compute again.
    staged = plan.backward.row.cuts and len(stages) > 1
    # The sequences of all sources so far: inputs, layers and joins, each (steps, batch, ...).
    values = dict(inputs)
    recomputes: dict[Name, Callable] = {}
    # The sources that each stage reads.
    read = []
    for stage in stages:
        nodes = *stage.over_time, *stage.graph.nodes
        read.append({edge.source for name in nodes for edge in graph.edges[name]})
    for n, stage in enumerate(stages):
        # A loop returns only outputs that a later stage or the caller reads. All others would
        # occupy ``(steps, batch, neurons)`` each.
        read_later = read[n + 1 :]
        needed = {*plan.outputs}.union(*read_later)
        activities = itertools.chain(*map(activity_names, stage.graph.nodes))
        returned = tuple(name for name in activities if name in needed)
        stage_plan = plan._replace(outputs=returned, staged=staged)
        names = read[n].union(stage.graph.inputs)
        # In the order of ``values``. The order of a set differs between Python processes.
        sources = {name: out for name, out in values.items() if name in names}
        run_stage = functools.partial(_run_stage, graph, stage, entries, stage_plan)
        if staged:
            # The policy saves the named residuals of the loop. Everything else in the stage,
            # such as the normalized sequences, is computed again in the backward pass.
            run_stage = jax.checkpoint(
                run_stage,
                policy=jax.checkpoint_policies.save_only_these_names(RESIDUALS),
            )
        ran, outputs, functions = run_stage(sources, recomputes, masks, key)
        done = StageResults(
            done.states | ran.states,
            done.pasts | ran.pasts,
            done.statistics | ran.statistics,
        )
        values |= outputs
        recomputes |= functions
    return done, select(values, plan.outputs)


def _run_stage(
    graph: Graph,
    stage: NetworkStage,
    entries: Mapping[Name, PyTree],
    plan: Plan,
    sources: NamedArrays,
    recomputes: Mapping[Name, Callable],
    masks: Masks,
    key: jax.Array | None,
) -> tuple[StageResults, NamedTrees, dict[Name, Callable]]:
    """Return the results of one stage, the outputs of its nodes, ``(steps, batch, ...)``, and
    functions that recompute them from residuals.

    ``recomputes`` has these functions of earlier stages.
    """
    # The sequences that the stage reads, (steps, batch, ...).
    values: NamedArrays = {}
    statistics: NamedTrees = {}
    outputs: NamedTrees = {}
    for name, out in sources.items():
        # The backward pass stores only sources that residuals do not determine.
        rebuilt = _recomputed(graph, recomputes, masks, name)
        if rebuilt is not None:
            out = with_derivative_of(out, value=rebuilt)
        values[name] = out
    for name in stage.over_time:
        join = graph.nodes[name]
        sequences = [values[source] for source in join.of]
        values[name], extra = over_time(name, join, sequences, masks.active)
        outputs[name] = values[name]
        if extra is not None:
            statistics[name] = extra
    if not stage.graph.nodes:
        return StageResults({}, {}, statistics), outputs, {}
    stage_inputs = select(values, stage.graph.inputs)
    starts = states_before(stage.graph, stage_inputs, graph, entries)
    engine = _loop if plan.backward.row.cuts else _scan
    (states, pasts), outs, functions = engine.run(
        stage.graph, stage_inputs, starts, masks, key, plan
    )
    # Stages need different numbers of past outputs of a source. Only the longest past is a state of
    # the network.
    depths = graph.depths
    longest = {
        name: past for name, past in pasts.items() if len(past) == depths.get(name)
    }
    return StageResults(states, longest, statistics), outputs | outs, functions


def _recomputed(
    graph: Graph, recomputes: Mapping[Name, Callable], masks: Masks, name: Name
) -> jax.Array | None:
    """Return the outputs of an earlier stage from the residuals of its loop.

    None if the residuals do not determine them.
    """
    if name in recomputes:
        return recomputes[name](masks)
    node = graph.nodes.get(name)
    # A join over time needs complete sequences, so a function of one step cannot recompute it.
    if not isinstance(node, Join) or node.over_time:
        return None
    sources = [_recomputed(graph, recomputes, masks, source) for source in node.of]
    if any(source is None for source in sources):
        return None
    # A plain join is a function of one step, (batch, ...). vmap applies it to all steps at
    # once.
    return tree_keep(masks.active, jax.vmap(node.function)(*sources))


def over_time(
    name: Name, join: Join, sequences: list[jax.Array], active: jax.Array | None
) -> tuple[jax.Array, PyTree]:
    """Return the outputs of a join over time, zeros in masked steps, and its statistics or None."""
    options = {}
    # (steps, batch), or (steps,) for a sequence without examples.
    lead = sequences[0].shape[:-1][:2]
    if active is not None:
        # A mask for all examples is (steps,). The join always gets (steps, batch).
        mask = append_axes(active, len(lead))
        options = {"mask": jnp.broadcast_to(mask, lead)}
        sequences = with_finite_padding(active, sequences)
        if not takes(join.function, len(sequences), **options):
            raise TypeError(
                f"Network: join {name!r}: function must take the mask of the call; write it as "
                f"function({', '.join(join.of)}, mask=None), with mask of shape (steps, batch)"
            )
    result = join.function(*sequences, **options)
    out, statistics = result if isinstance(result, tuple) else (result, None)
    is_one_array = isinstance(out, jax.Array) and is_float(out)
    if not is_one_array or out.shape[: len(lead)] != lead:
        raise TypeError(
            f"Network: join {name!r}: a function over time must return an array of floats with the "
            f"leading axes steps and examples, {lead}, or a pair of it and statistics, got "
            f"{jax.tree.map(jax.typeof, result)}"
        )
    return tree_keep(options.get("mask"), out), statistics
