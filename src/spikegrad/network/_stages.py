"""Stages: the parts of a network before and after its functions of complete sequences.

A join over time, such as a batch normalization, needs all steps of its sources. The network
therefore runs in stages. A stage evaluates the joins over time with complete sources. It then runs
all nodes that depend on them in one loop over time. A network without such joins is a single stage.

::

    inputs ──> loop of stage 0 ──> joins over time ──> loop of stage 1 ──> ...

A loop stores the pre-spike states of its layers, and ``jax.checkpoint`` stores no other arrays. The
backward pass computes the outputs that a later stage reads from these states (see
``engine._loop``), and then the joins over time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._checks import append_axes, is_float, takes
from ._connections import Join, Name
from ._graph import Graph, strongly_connected
from ._masks import Masks, tree_keep, with_finite_padding
from ._schedule import RESIDUALS, Plan
from ._states import is_over_time
from ._step import LayerState
from .engine._functions import known


class Stage(NamedTuple):
    """The nodes that one loop runs, and the joins over time before it."""

    over_time: tuple[Name, ...]
    graph: Graph
    """The nodes of the loop. Its inputs are their sources in earlier stages."""


class Run(NamedTuple):
    """The results of a network."""

    states: dict[Name, LayerState]
    pasts: dict[Name, jax.Array]
    statistics: dict[Name, Any]
    """The second values that joins over time returned, such as running statistics."""
    outputs: dict[Name, jax.Array]
    pre_spike: dict[Name, Any]


def stages_of(graph: Graph) -> list[Stage]:
    """Return the stages of a graph, in the order in which they run."""
    if not any(map(is_over_time, graph.nodes.values())):
        return [Stage((), graph)]
    sources = {
        name: [edge.source for edge in edges] for name, edges in graph.edges.items()
    }
    # Components come sources first, so every source outside of the group has its number
    # already. A join over time starts a new stage, hence the increase by one.
    number = dict.fromkeys(graph.inputs, 0)
    for group in strongly_connected(
        {name: [s for s in read if s in graph.nodes] for name, read in sources.items()}
    ):
        over_time = [name for name in group if is_over_time(graph.nodes[name])]
        if over_time and (len(group) > 1 or group[0] in sources[group[0]]):
            raise ValueError(
                f"Network: join {over_time[0]!r} takes all steps at once, and its sources depend "
                "on its outputs "
                f"through {', '.join(repr(name) for name in group if name != over_time[0])}; "
                "normalize the inputs of the loop, or each step by itself"
            )
        before = max(
            number[source]
            for name in group
            for source in sources[name]
            if source in number
        )
        number |= dict.fromkeys(group, before + bool(over_time))
    stages = []
    for n in range(max(number.values()) + 1):
        members = [name for name in graph.nodes if number[name] == n]
        steps = [name for name in members if not is_over_time(graph.nodes[name])]
        # A dict and not a set, because the order of the inputs must not depend on hashes.
        outside = dict.fromkeys(
            source for name in steps for source in sources[name] if source not in steps
        )
        part = Graph(
            {name: graph.nodes[name] for name in steps},
            {name: graph.edges[name] for name in steps},
            {name: graph.looped[name] for name in steps},
            tuple(outside),
            (),
            graph.numbers,
        )
        stages.append(
            Stage(
                tuple(name for name in members if is_over_time(graph.nodes[name])), part
            )
        )
    return stages


def run_stages(
    graph: Graph,
    inputs: dict[Name, jax.Array],
    start: Callable[[Graph, dict[Name, jax.Array]], tuple[dict, dict]],
    masks: Masks,
    key: jax.Array | None,
    plan: Plan,
    run: Callable[..., Any],
    lean: bool,
) -> Run:
    """Run a network.

    ``start`` returns the states and pasts of a graph before its first step, from its inputs.

    ``run`` is the engine, as a function of a graph, its inputs, states and pasts, the masks, the
    key and the plan. With ``lean``, the backward pass of several stages stores only the residuals
    of the engine.
    """
    stages = stages_of(graph)
    if len(stages) == 1:
        (states, pasts), (outputs, pre_spike), _ = run(
            graph, inputs, *start(graph, inputs), masks, key, plan
        )
        return Run(states, pasts, {}, outputs, pre_spike)
    done: Any = Run({}, {}, {}, {}, {})
    values, again = dict(inputs), {}
    read = [
        {
            edge.source
            for name in (*s.over_time, *s.graph.nodes)
            for edge in graph.edges[name]
        }
        for s in stages
    ]
    for n, stage in enumerate(stages):
        # A loop returns only outputs that a later stage or the caller reads. All others would
        # occupy ``(steps, batch, neurons)`` each.
        needed = {*plan.outputs}.union(*read[n + 1 :])
        stage_plan = plan._replace(
            outputs=tuple(name for name in stage.graph.nodes if name in needed),
            pre_spike=tuple(
                name for name in plan.pre_spike if name in stage.graph.nodes
            ),
            staged=lean,
        )
        # Sorted, because the order of a set of names differs between Python processes.
        sources = {
            name: values[name] for name in sorted(read[n], key=str) if name in values
        }
        run_stage = functools.partial(_run_stage, graph, stage, start, run, stage_plan)
        if lean:
            # The policy saves the named residuals of the loop. Everything else in the stage,
            # such as the normalized sequences, is computed again in the backward pass.
            run_stage = jax.checkpoint(
                run_stage,
                policy=jax.checkpoint_policies.save_only_these_names(RESIDUALS),
            )
        ran, outputs, functions = run_stage(sources, again, masks, key)
        done = Run(*({**total, **new} for total, new in zip(done, ran, strict=True)))
        values |= outputs
        again |= functions
    done.outputs.update({name: values[name] for name in plan.outputs})
    return done


def _run_stage(graph, stage, start, run, plan, sources, again, masks, key):
    """Return the results of one stage, the outputs of its nodes, and functions that recompute
    outputs.
    """
    values = _Again(graph, again, masks).of(sources)
    statistics, outputs = {}, {}
    for name in stage.over_time:
        join = graph.nodes[name]
        outputs[name], extra = over_time(
            name, join, [values[source] for source in join.of], masks.active
        )
        values[name] = outputs[name]
        if extra is not None:
            statistics[name] = extra
    if not stage.graph.nodes:
        return Run({}, {}, statistics, {}, {}), outputs, {}
    stage_inputs = {name: values[name] for name in stage.graph.inputs}
    (states, pasts), (outs, pre_spike), again = run(
        stage.graph, stage_inputs, *start(stage.graph, stage_inputs), masks, key, plan
    )
    # Stages need different numbers of past outputs of a source. Only the longest past is a state of
    # the network.
    pasts = {
        name: past
        for name, past in pasts.items()
        if len(past) == graph.depths.get(name)
    }
    return Run(states, pasts, statistics, {}, pre_spike), outputs | outs, again


class _Again(NamedTuple):
    """Recomputes outputs of earlier stages from the residuals of their loops."""

    graph: Graph
    functions: Mapping[Name, Callable]
    masks: Masks

    def of(self, sources: Mapping[Name, jax.Array]) -> dict[Name, jax.Array]:
        """Return the sources of a stage.

        The backward pass stores only sources that residuals do not determine.
        """
        return {
            name: known(self.output(name), out) if self.has(name) else out
            for name, out in sources.items()
        }

    def has(self, name: Name) -> bool:
        if name in self.functions:
            return True
        node = self.graph.nodes.get(name)
        # A join over time needs complete sequences, so a function of one step cannot recompute it.
        return (
            isinstance(node, Join)
            and not node.over_time
            and all(map(self.has, node.of))
        )

    def output(self, name: Name) -> jax.Array:
        if name in self.functions:
            return self.functions[name](self.masks)
        # A plain join is a function of one step, (batch, ...). vmap applies it to all steps at
        # once.
        node = self.graph.nodes[name]
        return tree_keep(
            self.masks.active, jax.vmap(node.function)(*map(self.output, node.of))
        )


def over_time(
    name: Name, join: Join, sequences: list[jax.Array], active: jax.Array | None
) -> tuple[jax.Array, Any]:
    """Return the outputs of a join over time, zeros in masked steps, and its statistics or None."""
    owner, options = f"Network: join {name!r}", {}
    # (steps, batch), or (steps,) for a sequence without examples.
    lead = sequences[0].shape[: min(2, sequences[0].ndim - 1)]
    if active is not None:
        # A mask for all examples is (steps,). The join always gets (steps, batch).
        options = {"mask": jnp.broadcast_to(append_axes(active, len(lead)), lead)}
        sequences = with_finite_padding(active, sequences)
        if not takes(join.function, len(sequences), mask=None):
            raise TypeError(
                f"{owner}: the call has a mask, so a function over time must take it: "
                "function(..., mask)"
            )
    result: Any = join.function(*sequences, **options)
    out, statistics = (
        result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    )
    if (
        not isinstance(out, jax.Array)
        or not is_float(out)
        or out.shape[: len(lead)] != lead
    ):
        raise TypeError(
            f"{owner}: a function over time must return an array of floats with the leading axes "
            "steps and examples, "
            f"{lead}, or a pair of it and statistics, got {jax.tree.map(jax.typeof, result)}"
        )
    return tree_keep(options.get("mask"), out), statistics
