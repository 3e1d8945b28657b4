"""Random networks against a plain loop over time: values and gradients of everything, in float64.

A graph has layers of every cell and spike type, joins, joins over time, delays, windows and
feedback. It is called, or observed with some parts of the activity, once or twice in sequence, with
a mask of any form, NaN in the padding, initial states of some layers, or truncation. The loop knows
no chunks, stages or masks: each example has a state and a history, and only its unmasked steps
exist.

A row of the table counts the graphs with a feature, and those that disagree with the loop. The
last column has the largest error of all others, as a share of its tolerance: 1e-9 for values. For
gradients it is 1e-9 or the error of the storage, relative to the norm of the whole gradient.
``--seed N --count 1`` repeats graph N.
"""

from __future__ import annotations

import functools
import math
import sys
import traceback
from collections import defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, report

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Backward,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    Window,
    keep_slope,
    learnable,
    multi_spike,
    neurons,
    signed,
    soft,
    stochastic,
    strict,
)
from spikegrad.network import DelayKernel
from spikegrad.neurons import Refractory

BATCH, UNITS, LONGEST, MEMBERS, WIDTH = 3, 4, 6, 2, 0.7
TRANSFORMS = {"jit": 0.3, "eager": 0.1, "jvp": 0.1, "vmap of grad": 0.25, "grad of vmap": 0.25}
TOLERANCES = {"half": 1e-2, "8-bit": 0.1}  # of gradients
PARTS = ("output", "pre_spike", "current")

# --- the parts of a graph ------------------------------------------------------------------------
# p(low, high) draws an array of parameters. d and t are decays and thresholds, s is a surrogate.

SPIKES = {
    "step": lambda p: Sigmoid(3.0),
    "strict": lambda p: strict(Arctan(2.0)),
    "soft": lambda p: soft(Sigmoid(2.0)),
    "stochastic": lambda p: stochastic(Sigmoid(4.0)),
    "multi_spike": lambda p: multi_spike(Sigmoid(3.0), 3, p(0.7, 1.3)),
    "multi_spike, nearest": lambda p: multi_spike(Arctan(2.0), 2, p(0.7, 1.3), slopes="nearest"),
    "signed": lambda p: signed(Arctan(2.0), p(0.7, 1.3)),
    "learnable": lambda p: learnable(Sigmoid(p(2, 4))),
    "learnable multi_spike": lambda p: learnable(multi_spike(Sigmoid(p(2, 4)), 2)),
    "learnable soft": lambda p: learnable(soft(Arctan(p(2, 4)))),
    "keep_slope": lambda p: keep_slope(Sigmoid(3.0), jnp.bfloat16),
}


def izhikevich(order):
    def build(d, t, p, s):
        a, b, c, e = p(0.02, 0.1), p(0.2, 0.25), p(-65, -55), p(2, 8)
        return neurons.Izhikevich(a, b, c, e, p(25, 30), s, p(8, 12), order=order)

    return build


def adaptive(cell, *last):
    return lambda d, t, p, s: cell(d / 2, p(0.8, 0.95), p(0.1, 0.5), p(0.1, 0.5), p(1, 3), t / 2, s, *last)


def escaping(cell, *sharpness):
    return lambda d, t, p, s: cell(p(1.5, 3), p(0.6, 0.9), *(p(*one) for one in sharpness), t, p(-0.1, 0.1), s)


def resonating(cell):
    return lambda d, t, p, s: cell(p(3, 8), p(0.5, 1), 0.1, d, t / 6, s)


CELLS = {
    "LIF": lambda d, t, p, s: LIF(d, t, s),
    "LIF, value": lambda d, t, p, s: LIF(d, t, s, "value", reset_value=p(-0.3, 0.1)),
    "LIF, none": lambda d, t, p, s: LIF(d / 2, 2 * t, s, "none"),
    "LIF, detached": lambda d, t, p, s: LIF(d, t / 3, s, detach_reset=True, norm_input=True),
    "LIF, delayed reset": lambda d, t, p, s: LIF(d, t, s, delay_reset=True),
    "SynapticLIF": lambda d, t, p, s: SynapticLIF(d, t, s, synaptic_decay=p(0.3, 0.8)),
    "MultiSynapticLIF": lambda d, t, p, s: neurons.MultiSynapticLIF(d, t, s, synaptic_decay=p(0.2, 0.8, (UNITS, 2))),
    "AdaptiveLIF": lambda d, t, p, s: AdaptiveLIF(d, t, s, adaptation=p(0.1, 0.4)),
    "SynapticAdaptiveLIF": lambda d, t, p, s: neurons.SynapticAdaptiveLIF(
        d, t, s, adaptation=p(0.1, 0.4), synaptic_decay=p(0.3, 0.8)
    ),
    "AdLIF": lambda d, t, p, s: neurons.AdLIF(d, p(0.8, 0.95), p(0, 0.5), p(0.1, 0.5), t, s),
    "SymplecticAdLIF": adaptive(neurons.SymplecticAdLIF, False),
    "EulerAdLIF": adaptive(neurons.EulerAdLIF),
    "RF": lambda d, t, p, s: neurons.RF(p(3, 8), p(-2, -1), 0.1, t / 6, s),
    "BRF": resonating(neurons.BRF),
    "HRF": resonating(neurons.HRF),
    "TCLIF": lambda d, t, p, s: neurons.TCLIF(d / 2, d / 2, t, p(0.2, 0.5), s),
    "CLIF": lambda d, t, p, s: neurons.CLIF(d / 2, t, s),
    "QIF": escaping(neurons.QIF, (-0.1, 0.1), (0.8, 1.2)),
    "EIF": escaping(neurons.EIF, (0.8, 1.2), (-0.1, 0.1)),
    "AdEx": lambda d, t, p, s: neurons.AdEx(
        d, p(0.3, 0.8), p(0.9, 0.99), p(0.5, 1), p(0.02, 0.1), p(0.4, 0.6), t, p(-0.1, 0.1), s
    ),
    "Izhikevich": izhikevich("published"),
    "Izhikevich, semi-implicit": izhikevich("semi-implicit"),
    "MPBN": lambda d, t, p, s: neurons.MPBN(d / 2, t, s, gain=p(0.8, 1.2), bias=p(-0.1, 0.1)),
    "MPBN, subtract": lambda d, t, p, s: neurons.MPBN(d / 2, t, s, "subtract", gain=p(0.8, 1.2)),
    "MPBN, running": lambda d, t, p, s: neurons.MPBN(d / 2, t, s, mean=p(0, 0.5), var=p(0.5, 1)),
    "Refractory": lambda d, t, p, s: Refractory(LIF(d, t, s), 2),
    "Refractory, adaptive": lambda d, t, p, s: Refractory(AdaptiveLIF(d, t, s), 1),
    "Refractory, MPBN": lambda d, t, p, s: Refractory(neurons.MPBN(d / 2, t, s), 1),
    "LeakyReadout": lambda d, t, p, s: LeakyReadout(d),
}
COUPLED = ("MPBN", "MPBN, subtract", "Refractory, MPBN")
"""Cells that take a mask of each example in mode "scan" only."""
LAG = ("matrix", "matrix", "function")  # forms of a weight that reads one output
FORMS = (*LAG, "window", "kernel", "window function")


def total(x):
    return sum(jnp.asarray(one, float) for one in x)


def valid(x, mask):
    return total(x) if mask is None else jnp.where(mask[..., None], total(x), 0)


def interleave(p, *x):
    return p * jnp.concatenate([total(x[:1]), total(x[-1:])], -1)[..., ::2]


def normalize(p, *x, mask=None, axes=(0, 1)):
    """Normalize over all unmasked steps and examples, or over the examples of each step."""
    x = total(x)
    mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
    weights = jnp.broadcast_to(mask[..., None], x.shape).astype(float)
    count = jnp.maximum(weights.sum(axes, keepdims=True), 1)
    mean = (weights * x).sum(axes, keepdims=True) / count
    var = (weights * (x - mean) ** 2).sum(axes, keepdims=True) / count
    return p * (x - mean) / jnp.sqrt(var + 1e-3), {"mean": mean, "var": var}


JOINS = {  # functions of a gain and of the sources
    "add": lambda p, *x: p * total(x),
    "gate": lambda p, *x: total(x[:1]) * (1 - p * total(x[1:]) / 2),
    "tanh": lambda p, *x: jnp.tanh(p * total(x)),
    "attend": lambda p, *x: total(x) * jax.nn.softmax(p * x[-1], -1),
    "interleave": interleave,
}
OVER_TIME = {
    "normalize": normalize,
    "normalize each step": lambda p, *x, mask=None: normalize(p, *x, mask=mask, axes=(1,))[0],
    "scale": lambda p, *x, mask=None: p * total(x),
    "cumulate": lambda p, *x, mask=None: p * jnp.cumsum(valid(x, mask), 0),
    "reverse": lambda p, *x, mask=None: p * valid(x, mask)[::-1],
}
MASKS = {
    "no mask": lambda rng, steps: None,
    "steps": lambda rng, steps: rng.uniform(size=steps) < 0.7,
    "padding": lambda rng, steps: np.arange(steps)[:, None] < rng.integers(1, steps + 1, BATCH),
    "late start": lambda rng, steps: np.arange(steps)[:, None] >= rng.integers(0, steps, BATCH),
    "holes": lambda rng, steps: rng.uniform(size=(steps, BATCH)) < 0.7,
    "masked example": lambda rng, steps: np.arange(BATCH) * rng.uniform(size=(steps, BATCH)) > 0.2,
    "nothing": lambda rng, steps: np.zeros((steps, BATCH), bool),
}


class Edge(NamedTuple):
    form: str
    lag: int
    length: int


class Entry(NamedTuple):
    kind: str  # "layer", "join" or "over time"
    name: str  # of the cell or function
    edges: dict[str, Edge]
    spike: str = ""
    recurrent: Edge | None = None
    bias: bool = False

    @property
    def weights(self):
        return {**self.edges, "recurrent": self.recurrent} if self.recurrent else self.edges

    @property
    def receptors(self):
        return (2,) * (self.name == "MultiSynapticLIF")

    @property
    def draws(self):
        return self.spike == "stochastic" and self.name != "LeakyReadout"


# --- a random graph ------------------------------------------------------------------------------


class Graph:
    """A network in plain data, and its arrays for each member of a ``vmap``."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.inputs = ("x", "y") if rng.uniform() < 0.6 else ("x",)
        self.is_bool = {name: bool(rng.uniform() < 0.15) for name in self.inputs}
        self.steps = steps = int(rng.integers(5, 8))
        cut = 3 if steps > 5 and rng.uniform() < 0.4 else steps
        self.parts = ((0, cut), (cut, steps))[: 1 + (cut < steps)]
        self.shortest = min(stop - start for start, stop in self.parts)
        count = int(rng.choice([1, 2, 3, 4, 5], p=[0.25, 0.3, 0.3, 0.1, 0.05]))
        self.entries: dict[str, Entry] = {}
        self._draw_entries([f"n{k}" for k in rng.permutation(count)])
        self.layers = sorted(name for name, entry in self.entries.items() if entry.kind == "layer")
        outputs = rng.choice([*self.entries], size=int(rng.integers(1, count + 1)), replace=False)
        self.outputs = tuple(outputs.tolist())
        shows_all = bool(rng.uniform() < 0.5)
        some = [name for name in self.layers if shows_all or rng.uniform() < 0.3]
        self.truncate = int(rng.integers(1, self.shortest + 1)) if rng.uniform() < 0.3 else None
        self.mask = str(rng.choice([*MASKS], p=[0.25, 0.15, 0.15, 0.12, 0.15, 0.15, 0.03]))
        self.has_nan = self.mask != "no mask" and bool(rng.uniform() < 0.4)
        self.has_states = bool(rng.uniform() < 0.4)
        self.depth = dict.fromkeys((*self.inputs, *self.entries), 0)
        for name, entry in self.entries.items():
            for source, edge in entry.weights.items():
                source = name if source == "recurrent" else source
                self.depth[source] = max(self.depth[source], edge.lag + edge.length - 1)
        self.transform = str(rng.choice([*TRANSFORMS], p=[*TRANSFORMS.values()]))
        self.options = self._options()
        self.observed = tuple(sorted(self.entries if shows_all else {*self.outputs, *some} if some else ()))
        rng = np.random.default_rng([seed, 1])  # another stream, so seeds keep the graphs that they found
        chosen = [part for part in PARTS if rng.uniform() < 0.7]
        self.shown = tuple(chosen) if {*self.observed} & {*self.layers} and chosen else ("output",)
        self.at_rest = {name for name in self.depth if rng.uniform() < 0.2}
        self._draw_members()

    def _draw_entries(self, names):
        rng, shares = self.rng, [0.55, 0.1, 0.35] if self.rng.uniform() < 0.5 else [0.8, 0.2, 0]
        kinds = {name: str(rng.choice(["layer", "join", "over time"], p=shares)) for name in names}
        for n, name in enumerate(names):
            earlier = [*self.inputs, *names[:n]]
            if kinds[name] != "layer":
                function = str(rng.choice([*(JOINS if kinds[name] == "join" else OVER_TIME)]))
                sources = rng.choice(earlier, min(len(earlier), int(rng.integers(1, 4))), False)
                edges = dict.fromkeys(sources.tolist(), Edge("", 0, 1))
                self.entries[name] = Entry(kinds[name], function, edges)
                continue
            # Later entries feed back, except from beyond a join over time: it cannot be in a loop.
            stop = next((k for k in range(n, len(names)) if kinds[names[k]] == "over time"), None)
            cell, spike = self._cell()
            edges = {str(rng.choice(earlier)): self._edge(cell, 0)}
            for source in rng.choice([*earlier, *names[n:stop]], int(rng.integers(0, 3))).tolist():
                lag = int(rng.integers(0 if source in earlier else 1, 4))
                edges.setdefault(source, self._edge(cell, lag))
            loops = name not in edges and rng.uniform() < 0.3
            recurrent = self._edge(cell, int(rng.integers(1, 4))) if loops else None
            biased = bool(rng.uniform() < 0.4)
            self.entries[name] = Entry("layer", cell, edges, spike, recurrent, biased)

    def _cell(self):
        while True:
            cell, spike = str(self.rng.choice([*CELLS])), str(self.rng.choice([*SPIKES]))
            try:
                self._build(cell, spike, self.rng)
            except ValueError:
                continue  # a spike type without a meaning for this cell
            return cell, spike

    def _build(self, cell, spike, rng):
        p = _parameters(rng)
        return CELLS[cell](p(0.5, 0.9), p(0.4, 0.8), p, SPIKES[spike](p))

    def _edge(self, cell, lag):
        form = str(self.rng.choice(LAG if cell == "MultiSynapticLIF" else FORMS))
        return Edge(form, lag, 1 if form in LAG else int(self.rng.integers(1, 4)))

    def _options(self):
        rng = self.rng
        mode = str(rng.choice(["exact", "exact", "half", "8-bit", "recompute", "scan"]))
        couples = any(entry.name in COUPLED for entry in self.entries.values())
        if self.transform == "jvp" or (couples and self.mask not in ("no mask", "steps")):
            mode = "scan"
        options: dict[str, Any] = {"mode": mode}
        if mode != "scan":
            chunk = int(rng.integers(1, self.shortest + 1))
            options["chunk"] = chunk if rng.uniform() < 0.6 else None
            if rng.uniform() < 0.4:
                options["segment"] = chunk * int(rng.integers(1, self.shortest // chunk + 1))
        if rng.uniform() < 0.2:
            options["unroll"] = int(rng.integers(2, 4))
        return options

    def _draw_members(self):
        rng = self.rng
        first, second = (self._arrays() for _ in range(MEMBERS))
        self.mapped = set(rng.choice([*first], int(rng.integers(1, 4))).tolist())
        self.mapped |= {"x"} - ({"params", "x"} & self.mapped and {"x"})
        shared = {kind: a for kind, a in first.items() if kind not in self.mapped}
        self.members = [first, {**second, **shared}]
        if self.has_nan:  # in the steps that no member has
            masks = [np.reshape(member["mask"], (self.steps, -1, 1)) for member in self.members]
            active = np.logical_or(*masks)
            for member in self.members:
                for name, a in member["x"].items():
                    if a.dtype != bool:
                        member["x"] = {**member["x"], name: jnp.where(active, a, jnp.nan)}

    def _arrays(self):
        rng, shape = np.random.default_rng(self.rng.integers(2**31)), (BATCH, UNITS)
        params, cells, states = {}, {}, {}
        for name, entry in self.entries.items():
            params[name] = _parameters(rng)(0.5, 1.5)
            if entry.kind != "layer":
                continue
            scale = 30.0 if "Izhikevich" in entry.name else 1.0
            for source, edge in entry.weights.items():
                size = (*(edge.length,) * (edge.form == "window"), UNITS, UNITS, *entry.receptors)
                w = jnp.asarray(rng.normal(0.3, 0.7, size) * scale)
                delays = _parameters(rng)(0, edge.length - 1, (UNITS, UNITS))
                params[f"{name} of {source}"] = (w, delays) if edge.form == "kernel" else w
            if entry.bias:
                bias = _parameters(rng)(-0.3, 0.3, (UNITS, *entry.receptors))
                params[f"{name} bias"] = scale * bias
            cells[name] = self._build(entry.name, entry.spike, rng)
            rest = cells[name].initial_state((*shape, *entry.receptors), jnp.result_type(float))
            states[name] = jax.tree.map(lambda a: a + _noise(rng, a.shape, a.dtype), rest)
        for name, depth in self.depth.items():
            past = _noise(rng, (depth, *shape), bool if self.is_bool.get(name) else float)
            if name in cells:
                last = past if depth > 1 else _noise(rng, shape, float)
                states[name] = states[name], last
            elif depth:
                has_statistics = name in self.entries and self.entries[name].name == "normalize"
                states[name] = (past, {}) if has_statistics else past
        mask, x_shape = MASKS[self.mask](rng, self.steps), (self.steps, *shape)
        draws = any(entry.draws for entry in self.entries.values())
        return {
            "params": params,
            "cells": cells,
            "x": {n: _noise(rng, x_shape, bool if self.is_bool[n] else float) for n in self.inputs},
            "states": {n: v for n, v in states.items() if n not in self.at_rest} if self.has_states else None,
            "mask": None if mask is None else jnp.asarray(mask),
            "key": jax.random.key(rng.integers(2**31)) if draws else None,
        }

    def features(self):
        """The properties by which the table counts."""
        entries = self.entries.values()
        edges = [edge for entry in entries for edge in entry.weights.values() if edge.form]
        names = ["all", f"{self.transform}, {self.options['mode']}", f"mask: {self.mask}"]
        names += [name for name in ("chunk", "segment", "unroll") if self.options.get(name)]
        if "vmap" in self.transform:
            mapped = [kind for kind in self.mapped if self.members[0][kind] is not None]
            names += [f"vmap over {kind}" for kind in mapped]
        flags = {
            "NaN in padding": self.has_nan,
            "truncate": self.truncate,
            "two calls": len(self.parts) > 1,
            "states": self.has_states,
            "states of some layers": self.has_states and self.at_rest & {*self.layers},
            "inputs of bool": any(self.is_bool.values()),
            "recurrent": any(entry.recurrent for entry in entries),
        }
        names += [name for name, holds in flags.items() if holds]
        names += [f"observed: {part}" for part in self.shown] if self.observed else ["call"]
        names += [f"weight: {edge.form}{', delayed' * (edge.lag > 0)}" for edge in edges]
        names += [f"{entry.kind}: {entry.name}" for entry in entries]
        names += [f"spike: {e.spike}" for e in entries if e.spike and e.name != "LeakyReadout"]
        return {*names}


def _parameters(rng):
    return lambda low, high, shape=(UNITS,): jnp.asarray(rng.uniform(low, high, shape))


def _noise(rng, shape, dtype):
    is_real = jnp.issubdtype(dtype, jnp.floating)
    return jnp.asarray(rng.uniform(0, 1.5, shape) if is_real else rng.integers(0, 2, shape), dtype)


def stack(*trees):
    return jax.tree.map(lambda *a: jnp.stack(a), *trees)


# --- the network ---------------------------------------------------------------------------------


def mixed(past):
    """A function of a window that is not linear, so its derivative depends on the outputs."""
    return jnp.sin(sum((k + 1) * jnp.asarray(one, float) for k, one in enumerate(past)))


def product(edge, w, x):
    x = jnp.asarray(x, float)
    return jnp.tensordot(x if edge.form == "matrix" else jnp.tanh(x), w, 1)


def weight_of(edge, w):
    if edge.form in LAG:
        weight = w if edge.form == "matrix" else functools.partial(product, edge, w)
        return Delayed(weight, edge.lag) if edge.lag else weight
    if edge.form == "window function":
        return Window(lambda past: mixed(past) @ w, edge.length, edge.lag)
    return Window(DelayKernel(*w, edge.length, WIDTH) if edge.form == "kernel" else w, None, edge.lag)


def by_network(graph, arrays, **options):
    layers: dict[str, Any] = {}
    for name, entry in sorted(graph.entries.items()):
        params = arrays["params"]
        if entry.kind != "layer":
            function = {**JOINS, **OVER_TIME}[entry.name]
            function = functools.partial(function, params[name])
            layers[name] = Join(function, [*entry.edges], entry.kind == "over time")
            continue
        weights = {s: weight_of(e, params[f"{name} of {s}"]) for s, e in entry.weights.items()}
        recurrent = weights.pop("recurrent", None)
        bias = params.get(f"{name} bias")
        layers[name] = Layer(weights, arrays["cells"][name], recurrent, bias)
    several = len(graph.inputs) > 1
    network = Network(layers, graph.inputs if several else "x", graph.outputs)
    states, shown = arrays["states"], []
    backward = Backward(**options, truncate=graph.truncate)
    for n, (start, stop) in enumerate(graph.parts):
        x = {name: a[start:stop] for name, a in arrays["x"].items()}
        called = functools.partial(
            network.observe if graph.observed else network,
            x if several else x["x"],
            states,
            mask=None if arrays["mask"] is None else arrays["mask"][start:stop],
            key=None if arrays["key"] is None else jax.random.fold_in(arrays["key"], n),
            backward=backward,
        )
        if graph.observed:
            states, activity = called(layers=graph.observed, parts=graph.shown)
            shown.append({name: _present(node._asdict()) for name, node in activity.items()})
        else:
            states, outputs = called()
            shown.append({name: {"output": out} for name, out in outputs.items()})
    return dict(states), jax.tree.map(lambda *parts: jnp.concatenate(parts), *shown)


def _present(parts):
    return {name: part for name, part in parts.items() if part is not None}


# --- the loop ------------------------------------------------------------------------------------


class Loop:
    """The network as a loop over steps and examples.

    ``states[name][b]`` is the state of example ``b``. ``history[name][b]`` has the outputs of its
    unmasked steps, the oldest first.
    """

    def __init__(self, graph: Graph, arrays: dict[str, Any]) -> None:
        self.graph, self.arrays = graph, arrays
        self.states, self.history, self.statistics = {}, {}, {}
        for name, depth in graph.depth.items():
            dtype = bool if graph.is_bool.get(name) else float
            past = jnp.zeros((max(depth, 1), BATCH, UNITS), dtype)
            start = arrays["states"].get(name) if graph.has_states else None
            if name in graph.layers:
                cell, receptors = arrays["cells"][name], graph.entries[name].receptors
                rest = cell.initial_state((BATCH, UNITS, *receptors), jnp.result_type(float))
                v, start = (rest, past) if start is None else start
                self.states[name] = [jax.tree.map(lambda a, b=b: a[b], v) for b in range(BATCH)]
            elif isinstance(start, tuple):
                start, _ = start
            past = past if start is None else start.reshape(-1, BATCH, UNITS)
            self.history[name] = [[step[b] for step in past] for b in range(BATCH)]

    def call(self, n, mask, x):
        """Run call ``n``, and return the activity: of each node a dict of parts."""
        graph = self.graph
        outs = {name: [[*step] for step in a] for name, a in x.items()}
        before, currents, left = {}, {}, dict(graph.entries)
        self.start = {name: [[*one] for one in past] for name, past in self.history.items()}
        while left:
            ready = {name: entry for name, entry in left.items() if entry.kind != "over time"}
            while waiting := [n for n in ready if {*left[n].edges} - {*outs, *ready}]:
                ready = {name: entry for name, entry in ready.items() if name not in waiting}
            self._run_steps(n, mask, ready, outs, before, currents)
            left = {name: entry for name, entry in left.items() if name not in ready}
            for name, entry in [*left.items()]:
                if entry.kind == "over time" and {*entry.edges} <= {*outs}:
                    outs[name] = [[*step] for step in self._over_time(name, mask, outs)]
                    del left[name]
        for name in {*outs} - {n for n, e in graph.entries.items() if e.kind != "over time"}:
            for t, b in np.argwhere(mask):
                self.history[name][b].append(outs[name][t][b])
        parts = dict(zip(PARTS, (outs, before, currents), strict=True))
        return {
            name: {part: _stacked(parts[part][name], mask) for part in graph.shown if name in parts[part]}
            for name in graph.observed or graph.outputs
        }

    def _over_time(self, name, mask, outs):
        entry = self.graph.entries[name]
        sources = [_stacked(outs[source], mask) for source in entry.edges]
        options = {} if self.arrays["mask"] is None else {"mask": jnp.asarray(mask)}
        out = OVER_TIME[entry.name](self.arrays["params"][name], *sources, **options)
        if isinstance(out, tuple):
            out, self.statistics[name] = out
        return out

    def _run_steps(self, n, mask, ready, outs, before, currents):
        """Run some entries over all steps. The sources outside of them have run to their end."""
        graph, window = self.graph, np.zeros(BATCH, int)
        past = {name: [[*one] for one in self.start[name]] for name in outs}
        past |= {name: self.history[name] for name in ready}
        windows = [[0] * LONGEST for _ in range(BATCH)]  # of the outputs in the past
        for name in ready:
            self._fill_zeros(name, len(mask), outs, before, currents)
        for t, active in enumerate(mask):
            rows = np.flatnonzero(active).tolist()
            for b in rows:
                if graph.truncate and window[b] < t // graph.truncate:
                    window[b] = t // graph.truncate
                    for name in {*ready} & {*self.states}:
                        self.states[name][b] = jax.lax.stop_gradient(self.states[name][b])

            def output(source, lag, b, t=t):
                if not lag:
                    return outs[source][t][b]
                old = past[source][b][-lag]
                return old if windows[b][-lag] == window[b] else jax.lax.stop_gradient(old)

            def read(source, lag, rows=rows, output=output):
                return jnp.stack([output(source, lag, b) for b in rows])

            for name, entry in ready.items() if rows else ():
                if entry.kind == "layer":
                    u, out, current = self._fire(name, read, rows, (n, t))
                    for i, b in enumerate(rows):
                        before[name][t][b] = jax.tree.map(lambda a, i=i: a[i], u)
                        currents[name][t][b] = current[i]
                else:
                    sources = [read(source, 0) for source in entry.edges]
                    out = JOINS[entry.name](self.arrays["params"][name], *sources)
                for i, b in enumerate(rows):
                    outs[name][t][b] = out[i]
            for b in rows:
                windows[b].append(window[b])
                for name, one in past.items():
                    one[b].append(outs[name][t][b])

    def _fill_zeros(self, name, steps, outs, before, currents):
        """Set the activity of all steps to zeros. A join has outputs only."""
        parts, zeros = [outs], [jnp.zeros(UNITS)]
        if name in self.states:
            parts += [before, currents]
            zeros.append(jax.tree.map(jnp.zeros_like, self.states[name][0]))
            zeros.append(jnp.zeros((UNITS, *self.graph.entries[name].receptors)))
        for part, zero in zip(parts, zeros, strict=True):
            part[name] = [[zero] * BATCH for _ in range(steps)]

    def _fire(self, name, read, rows, place):
        """Make a step of a layer in some examples. Return its pre-spike state, output and current."""
        entry, params = self.graph.entries[name], self.arrays["params"]
        cell, current = self.arrays["cells"][name], params.get(f"{name} bias", 0.0)
        for source, edge in entry.weights.items():
            of_source = functools.partial(read, name if source == "recurrent" else source)
            current += _current(edge, params[f"{name} of {source}"], of_source)
        v = stack(*[self.states[name][b] for b in rows])
        u = cell.integrate(v, current)
        if entry.draws:
            numbers = *place, self.graph.layers.index(name)
            key = functools.reduce(jax.random.fold_in, numbers, self.arrays["key"])
            keys = jnp.stack([jax.random.fold_in(key, b) for b in rows])
            v, out = cell(v, current, key=keys)
        else:
            v, out = cell.fire(u)
        for i, b in enumerate(rows):
            self.states[name][b] = jax.tree.map(lambda a, i=i: a[i], v)
        return u, out, current

    def ends(self):
        """Return the states after the last step, in the form of a network."""
        ends = dict(self.statistics)
        for name, depth in self.graph.depth.items():
            last = [stack(*one[len(one) - max(depth, 1) :]) for one in self.history[name]]
            past = jnp.stack(last, 1)
            if name in self.states:
                ends[name] = stack(*self.states[name]), past if depth > 1 else past[0]
            elif depth:
                ends[name] = (past, ends[name]) if name in ends else past
        return ends


def by_loop(graph, arrays):
    loop, shown, mask = Loop(graph, arrays), [], np.ones((graph.steps, 1), bool)
    if arrays["mask"] is not None:
        mask = np.reshape(arrays["mask"], (graph.steps, -1))
    mask = np.broadcast_to(mask, (graph.steps, BATCH))
    for n, (start, stop) in enumerate(graph.parts):
        x = {name: a[start:stop] for name, a in arrays["x"].items()}
        shown.append(loop.call(n, mask[start:stop], x))
    return loop.ends(), jax.tree.map(lambda *parts: jnp.concatenate(parts), *shown)


def _current(edge, w, read):
    if edge.form in LAG:
        return product(edge, w, read(edge.lag))
    past = [read(edge.lag + k) for k in range(edge.length)]
    if edge.form == "window function":
        return mixed(past) @ w
    if edge.form == "kernel":
        w, delays = w
        spread = [jnp.exp(-((k - delays) ** 2) / (2 * WIDTH**2)) for k in range(edge.length)]
        w = [w * one / sum(spread) for one in spread]
    return sum(jnp.asarray(one, float) @ matrix for one, matrix in zip(past, w, strict=True))


def _stacked(steps, mask):
    """Return an array of all steps and examples, with zeros in masked steps."""
    zeros = jax.tree.map(jnp.zeros_like, steps[0][0])
    rows = [
        stack(*[one if valid else zeros for one, valid in zip(row, active, strict=True)])
        for row, active in zip(steps, mask, strict=True)
    ]
    return stack(*rows)


# --- the comparison ------------------------------------------------------------------------------


class Result(NamedTuple):
    error: float
    """The largest error, as a share of its tolerance. Infinite for an exception and NaN."""
    message: str


def is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def loss(results):
    """Sum all floats of a pytree and their squares, with a different factor for each."""
    leaves = [leaf for leaf in jax.tree.leaves(results) if is_float(leaf)]
    factors = [np.cos(np.arange(a.size) + n).reshape(a.shape) for n, a in enumerate(leaves)]
    return sum((f * (a + 0.3 * a * a)).sum() for f, a in zip(factors, leaves, strict=True))


def compare(graph: Graph) -> Result:
    """Compare values and gradients of a graph with the loop."""
    paths, structure = jax.tree_util.tree_flatten_with_path(graph.members[0])
    members = [jax.tree.leaves(member) for member in graph.members]
    floats = [n for n, leaf in enumerate(members[0]) if is_float(leaf)]
    axes = [0 if path[0].key in graph.mapped else None for path, _ in paths]
    names = [jax.tree_util.keystr(paths[n][0]) for n in floats]

    def split(leaves):
        return [leaves[n] for n in floats], leaves

    def value(run, trained, leaves):
        merged = [*leaves]
        for n, leaf in zip(floats, trained, strict=True):
            merged[n] = leaf
        results = run(graph, structure.unflatten(merged))
        return loss(results), results

    is_mapped = "vmap" in graph.transform
    of_loop = jax.grad(functools.partial(value, by_loop), has_aux=True)
    wanted = [of_loop(*split(leaves)) for leaves in members[: MEMBERS if is_mapped else 1]]
    of_network = functools.partial(value, functools.partial(by_network, **graph.options))
    try:
        if graph.transform == "jvp":
            return _compare_tangents(of_network, *split(members[0]), wanted[0][0])
        if is_mapped:
            each = zip(axes, zip(*members, strict=True), strict=True)
            together = [jnp.stack(a) if axis == 0 else a[0] for axis, a in each]
            got = _run_members(of_network, graph.transform, split(together), split(axes))
        else:
            run = jax.grad(of_network, has_aux=True)
            got = [(run if graph.transform == "eager" else jax.jit(run))(*split(members[0]))]
    except Exception as error:  # any exception of a network is a disagreement
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        return Result(math.inf, f"{type(error).__name__} at {where}: {error}"[:300])
    if graph.transform == "grad of vmap":  # an array that members share has the sum of gradients
        sums = [sum(a) for a in zip(*(gradient for gradient, _ in wanted), strict=True)]
        of_member = split(axes)[0]
        wanted = [
            ([s if axis is None else a for axis, s, a in zip(of_member, sums, g, strict=True)], v) for g, v in wanted
        ]
    tolerance = TOLERANCES.get(graph.options["mode"], 1e-9)
    pairs = enumerate(zip(got, wanted, strict=True))
    errors = [(m, one) for m, pair in pairs for one in _errors(*pair, tolerance, names)]
    return max(Result(error, f"{name} of member {m}") for m, (error, name) in errors)


def _run_members(function, transform, together, axes):
    """Return the gradient and the results of each member."""
    if transform == "vmap of grad":
        run = jax.vmap(jax.grad(function, has_aux=True), axes)
        of_member = [0] * len(axes[0])
    else:

        def summed(*args):
            values, results = jax.vmap(function, axes)(*args)
            return values.sum(), results

        run, of_member = jax.grad(summed, has_aux=True), axes[0]
    gradient, results = jax.jit(run)(*together)
    return [
        (
            [a if axis is None else a[m] for axis, a in zip(of_member, gradient, strict=True)],
            jax.tree.map(lambda a, m=m: a[m], results),
        )
        for m in range(MEMBERS)
    ]


def _compare_tangents(function, floats, leaves, gradient):
    """Compare a derivative in forward mode."""
    waves = [jnp.cos(jnp.arange(a.size)).reshape(a.shape) for a in floats]
    tangents = [jnp.where(jnp.isnan(a), 0, wave) for a, wave in zip(floats, waves, strict=True)]
    run = jax.jit(lambda f, t: jax.jvp(lambda f: function(f, leaves)[0], (f,), (t,))[1])
    error = float(run(floats, tangents) - sum(map(jnp.vdot, gradient, tangents)))
    error = abs(error) / max(_norm(gradient), 1e-9) / 1e-9
    return Result(math.inf if math.isnan(error) else error, "tangent")


def _errors(got, wanted, tolerance, names):
    """Yield errors as shares of their tolerances, with their names."""
    (gradient, results), (slopes, values) = got, wanted
    if jax.tree.structure(results) != jax.tree.structure(values):
        yield math.inf, f"structure {jax.tree.structure(results)}"
        return
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(results), strict=True)
    places = [f"value {jax.tree_util.keystr(path)}" for path in paths]
    rows = [*zip(places, leaves, jax.tree.leaves(values), strict=True)]
    rows = [(*row, 1e-9 * max(1.0, _norm([row[2]]))) for row in rows]
    size = max(_norm(slopes), 1e-9)
    names = [f"gradient {name}" for name in names]
    rows += [(*row, tolerance * size) for row in zip(names, gradient, slopes, strict=True)]
    for name, a, b, allowed in rows:
        error = math.inf
        if a.shape == b.shape:
            error = _norm([np.subtract(a, b, dtype=float)]) / allowed
        yield math.inf if math.isnan(error) else error, name


def _norm(arrays):
    return math.sqrt(sum(float((np.asarray(a, float) ** 2).sum()) for a in arrays))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=300, help="number of graphs")
    parser.add_argument("--seed", type=int, default=0, help="the first graph")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # each program runs once
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"graphs": 0, "disagree": 0, "error": 0.0})
    for seed in range(options.seed, options.seed + options.count):
        graph = Graph(seed)
        error, message = compare(graph)
        if error > 1:
            run = f"graph {seed}, {graph.transform}, {graph.options}"
            print(f"{run}: {error:.3g} {message}", file=sys.stderr)
        for feature in graph.features():
            row = rows[feature]
            row["graphs"] += 1
            row["disagree"] += error > 1
            row["error"] = max(row["error"], error if error <= 1 else 0.0)
        if seed % 25 == 24:
            jax.clear_caches()  # hundreds of compiled graphs exceed what one process may map
    report([{"feature": name, **rows[name]} for name in sorted(rows)], options.json)


if __name__ == "__main__":
    main()
