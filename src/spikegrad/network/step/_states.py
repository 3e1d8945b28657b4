"""The states of a network between two calls, in the form that users pass and get.

An entry is a tuple for each layer: the state of its cell, and its last output. If a node reads
earlier outputs of the layer, its past, ``(steps, batch, neurons)``, replaces the last output. Joins
and inputs have an entry only if a node reads earlier outputs of them, and the entry is their past.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp

from ..._checks import brief
from ..._pytree import Entries, PyTree, is_array
from ..graph._connections import Join, Name, NamedArrays, NamedTrees
from ..graph._graph import Graph
from ._step import LayerStates

StatesAndPasts: TypeAlias = tuple[LayerStates, NamedArrays]
"""The states of the layers and the pasts, by name, in the form of the engine."""

FIX = "; initial_state(inputs[0]), with the inputs of one step, returns states that fit"


def is_over_time(node: object) -> bool:
    return isinstance(node, Join) and node.over_time


def as_entries(graph: Graph, states_and_pasts: StatesAndPasts) -> Entries:
    """Return the entries of all layers in the order in which they were written, then the pasts of
    joins and inputs.
    """
    states, pasts = states_and_pasts
    entries = {}
    for name in graph.numbers:
        if name in states:
            v, out = states[name]
            # A past ends with the last output, so an entry with a past need not contain it twice.
            entries[name] = v, pasts.get(name, out)
    for name, past in pasts.items():
        entries.setdefault(name, past)
    return Entries(entries)


def as_states_and_pasts(graph: Graph, entries: Mapping[Name, PyTree]) -> StatesAndPasts:
    """Return states and pasts by name. The inverse of :func:`as_entries`."""
    depths = graph.depths
    states = {}
    pasts = {}
    for name, entry in entries.items():
        if name in graph.layers:
            v, out = entry
            entry = out
            if name in depths:
                # (depth, batch, neurons) -> (batch, neurons): the newest output is last.
                out = out[-1]
            states[name] = v, out
        if name in depths:
            pasts[name] = entry
    return states, pasts


def checked_entries(graph: Graph, entries: PyTree) -> NamedTrees:
    """Return the entries of a user as arrays, without the statistics of joins over time, which no
    step reads.
    """
    if not isinstance(entries, Mapping):
        raise TypeError(
            f"Network: states must be a mapping, one entry for each name, got {brief(entries)}"
            + FIX
        )
    depths = graph.depths
    checked = {}
    for name, entry in entries.items():
        if is_over_time(graph.nodes.get(name)):
            if name not in depths:
                continue
            # A join over time has the pair (past, statistics), or only the past.
            entry = entry[0] if isinstance(entry, tuple) else entry
        elif name not in graph.layers and name not in depths:
            raise ValueError(
                f"Network: states must have the keys {sorted({*graph.layers, *depths})}, got "
                f"{name!r}" + FIX
            )
        if name in graph.layers and not is_pair(entry):
            raise ValueError(
                f"Network: states of layer {name!r} must be a pair (state of the cell, last "
                f"output), got {brief(types_of(entry))}{FIX}"
            )
        checked[name] = jax.tree.map(jnp.asarray, entry)
    return checked


def is_pair(entry: object) -> bool:
    return isinstance(entry, (tuple, list)) and len(entry) == 2


def entries_of_stage(
    stage: Graph, graph: Graph, entries: Mapping[Name, PyTree]
) -> Mapping[Name, PyTree]:
    """Return the entries that the loop of a stage starts with, in the form of its own graph.

    A stage may read fewer earlier outputs of a source than the whole graph.
    """
    if stage is graph:
        return entries
    states, pasts = as_states_and_pasts(graph, entries)
    # A past of depth 1 is the last output.
    # (batch, neurons) -> (1, batch, neurons)
    last_outputs = {name: out[None] for name, (_, out) in states.items()}
    pasts = last_outputs | pasts
    newest = {
        name: pasts[name][-depth:]
        for name, depth in stage.depths.items()
        if name in pasts
    }
    # Sources of other stages have a past here but no state.
    members = {name: states[name] for name in stage.layers if name in states}
    return as_entries(stage, (members, newest))


def check_entries(
    graph: Graph, entries: Mapping[Name, PyTree], at_rest: Mapping[Name, PyTree]
) -> None:
    """Raise for the first entry that does not fit."""
    for name, entry in entries.items():
        # Compared with the entries at rest, which follow from the inputs.
        expected = types_of(at_rest[name])
        got = types_of(entry)
        if got != expected:
            kind = "layer " if name in graph.layers else ""
            raise ValueError(
                f"Network: states of {kind}{name!r} must be {expected}, got {got}{FIX}"
            )


def types_of(tree: PyTree) -> PyTree:
    """Replace each array by a text with its dtype and shape."""
    return jax.tree.map(
        lambda leaf: f"{leaf.dtype}{list(leaf.shape)}" if is_array(leaf) else leaf, tree
    )
