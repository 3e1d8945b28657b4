"""The states of a network between two calls, in the form that users pass and get.

An entry is a tuple for each layer: the state of its cell, and its last output. If a node reads
earlier outputs of the layer, its past, ``(steps, batch, neurons)``, replaces the last output. Joins
and inputs have an entry only if a node reads earlier outputs of them, and the entry is their past.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from .._checks import brief, order_of_axes
from .._pytree import Entries
from ._connections import Join, Name
from ._graph import Graph
from ._step import LayerState

Parts: TypeAlias = tuple[dict[Name, LayerState], dict[Name, jax.Array]]
"""The states of the layers and the pasts, by name, in the form of the engine."""

FIX = "; initial_state(inputs of one step) returns states that fit"


def is_over_time(node: Any) -> bool:
    return isinstance(node, Join) and node.over_time


def as_entries(graph: Graph, parts: Parts) -> Entries:
    """Return the entries of all layers in the order in which they were written, then the pasts of
    joins and inputs.
    """
    states, pasts = parts
    layers = {
        # A past ends with the last output, so an entry with a past need not contain it twice.
        name: (states[name][0], pasts.get(name, states[name][1]))
        for name in graph.numbers
        if name in states
    }
    return Entries(
        {**layers, **{name: past for name, past in pasts.items() if name not in layers}}
    )


def as_parts(graph: Graph, entries: Mapping[Name, Any]) -> Parts:
    """Return states and pasts by name. The inverse of :func:`as_entries`."""
    depths, states, pasts = graph.depths, {}, {}
    for name, entry in entries.items():
        if name in graph.layers:
            v, out = entry
            # (depth, batch, neurons) -> (batch, neurons): the newest output is last.
            states[name] = v, out[-1] if name in depths else out
            entry = out
        if name in depths:
            pasts[name] = entry
    return states, pasts


def checked_entries(graph: Graph, entries: Any) -> dict[Name, Any]:
    """Return the entries of a user as arrays, without the statistics of joins over time, which no
    step reads.
    """
    if not isinstance(entries, Mapping):
        raise TypeError(
            f"Network: states must be a mapping, one entry for each name, got {brief(entries)}"
            + FIX
        )
    depths, known = graph.depths, {}
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
        known[name] = jax.tree.map(jnp.asarray, entry)
    return known


def entries_of_part(
    part: Graph, graph: Graph, entries: Mapping[Name, Any]
) -> dict[Name, Any]:
    """Return the entries that the loop of a part of the graph starts with, in its own form.

    A part may read fewer earlier outputs of a source than the whole graph.
    """
    if part is graph:
        return dict(entries)
    states, pasts = as_parts(graph, entries)
    chosen: dict[Name, Any] = {
        name: states[name] for name in part.layers if name in states
    }
    for name, depth in part.depths.items():
        if name not in entries:
            continue
        # A part may read less far back than the complete graph, so it takes the newest outputs
        # only.
        past = (pasts[name] if name in pasts else states[name][1][None])[-depth:]
        chosen[name] = (states[name][0], past) if name in part.layers else past
    return chosen


def check_entries(
    graph: Graph,
    entries: Mapping[Name, Any],
    at_rest: Mapping[Name, Any],
    inputs: tuple[int, ...] | None = None,
) -> None:
    """Raise for the first array of the entries that does not fit.

    ``inputs`` is the shape of the inputs of a call, or None for one step.
    """
    for name, entry in entries.items():
        layer, expected = graph.layers.get(name), at_rest[name]
        owner = f"Network: states of {'' if layer is None else 'layer '}{name!r}"
        if jax.tree.structure(entry) != jax.tree.structure(expected):
            raise ValueError(
                f"{owner} must be {shapes_of(expected)}, got {shapes_of(entry)}{FIX}"
            )
        labels = ("past",) if layer is None else (*layer.cell.state_names, "output")
        pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(entry), strict=True)
        for n, (leaf, array) in enumerate(pairs):
            if shapes_of(array) != shapes_of(leaf):
                label = labels[n] if n < len(labels) else f"array {n}"
                raise ValueError(
                    f"{owner}: {label} must be {shapes_of(leaf)}, got {shapes_of(array)}"
                    + _fix(leaf, array, inputs)
                )


def _fix(leaf: Any, array: Any, inputs: tuple[int, ...] | None) -> str:
    if array.shape[1:] == leaf.shape:
        return "; pass the inputs of one step to initial_state, such as inputs[0]"
    if inputs is None and leaf.shape[1:] == array.shape:
        return "; step takes the inputs of one step; for a sequence, call the network"
    if inputs is not None and len(inputs) > 2:
        return order_of_axes("inputs", inputs, "states", array.shape, at=1) or FIX
    return FIX


def shapes_of(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
