"""CPU seconds to trace and compile a training step, over a plain ``jax.lax.scan`` of the same layers.

A step is ``jax.jit(jax.value_and_grad(loss))`` of 64 neurons a layer, 8 examples and 100 steps. A chain has equal
layers. A residual chain adds the outputs of each layer to its inputs, as SEW-ResNet does (Fang et al. 2021). The
seconds are of the whole process, so a busy machine lengthens both sides alike.

    python benchmarks/compile.py --json benchmarks/results/compile.json
    python benchmarks/compile.py --only "residual 8" --mode exact
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from _measure import arguments, report

from spikegrad import LIF, Arctan, Backward, Join, Layer, LeakyReadout, Network

STEPS, BATCH, INPUTS, NEURONS, CLASSES = 100, 8, 16, 64, 10
CELL, READOUT = LIF(0.9, surrogate=Arctan(2.0)), LeakyReadout(0.9)
CASES = {f"chain {n}": (n, False) for n in (2, 4, 8)} | {f"residual {n}": (n, True) for n in (2, 4, 8, 16)}
SINGLE = "exact, chunk=1"
Weights = list[jax.Array]


def weights_of(depth: int) -> Weights:
    shapes = [(INPUTS, NEURONS), *[(NEURONS, NEURONS)] * (depth - 1), (NEURONS, CLASSES)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def in_network(weights: Weights, x: jax.Array, residual: bool, mode: str) -> jax.Array:
    *hidden, last = weights
    nodes: dict[str, Any] = {"0": Layer(hidden[0], CELL)}
    above = "0"
    for n, weight in enumerate(hidden[1:], 1):
        nodes[f"{n}"] = Layer(weight, CELL, of=above)
        if residual:
            nodes[f"sum {n}"] = Join(jnp.add, (above, f"{n}"))
        above = f"sum {n}" if residual else f"{n}"
    network = Network({**nodes, "out": Layer(last, READOUT, of=above)})
    return network(x, backward=Backward(chunk=1) if mode == SINGLE else mode)[1]


def in_scan(weights: Weights, x: jax.Array, residual: bool) -> jax.Array:
    *hidden, last = weights

    def step(states, x):
        after = []
        for n, weight in enumerate(hidden):
            v, out = CELL(states[n], x @ weight)
            x = x + out if residual and n else out
            after.append(v)
        v, out = READOUT(states[-1], x @ last)
        return [*after, v], out

    return jax.lax.scan(step, [jnp.zeros((BATCH, weight.shape[1])) for weight in weights], x)[1]


def equations_of(jaxpr: Any) -> int:
    """The number of equations, with those of nested programs, each time that they are called."""
    inner = [leaf for equation in jaxpr.eqns for leaf in jax.tree.leaves(list(equation.params.values()))]
    return len(jaxpr.eqns) + sum(equations_of(getattr(p, "jaxpr", p)) for p in inner if hasattr(p, "eqns"))


def cost(run: Callable, weights: Weights, x: jax.Array, rounds: int) -> dict[str, float]:
    """The least CPU seconds to trace and lower, and to compile, of several rounds."""
    tracing, compiling, size = [], [], 0
    for _ in range(rounds):
        jax.clear_caches()
        # a new function each time, because JAX caches the trace of a function
        step = jax.jit(jax.value_and_grad(lambda weights, x: (run(weights, x) ** 2).mean()))
        start = time.process_time()
        traced = step.trace(weights, x)
        lowered = traced.lower()
        middle = time.process_time()
        lowered.compile()
        compiling.append(time.process_time() - middle)
        tracing.append(middle - start)
        size = equations_of(traced.jaxpr.jaxpr)
    return {"equations": size, "trace": min(tracing), "compile": min(compiling)}


def rows(cases: list[str], modes: list[str], rounds: int) -> list[dict[str, Any]]:
    found = []
    for case in cases:
        depth, residual = CASES[case]
        arrays = weights_of(depth), jnp.ones((STEPS, BATCH, INPUTS))
        scan = cost(functools.partial(in_scan, residual=residual), *arrays, rounds)
        for mode in modes:
            ours = cost(functools.partial(in_network, residual=residual, mode=mode), *arrays, rounds)
            over_scan = (ours["trace"] + ours["compile"]) / (scan["trace"] + scan["compile"])
            found.append({"case": case, "mode": mode, **ours, "over a scan": over_scan})
        found.append({"case": case, "mode": "plain scan", **scan, "over a scan": 1.0})
    return found


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=[*CASES], action="append", help="a case (default: all)")
    parser.add_argument("--mode", action="append", help="a mode of the network (default: exact, 8-bit and chunk=1)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report(rows(options.only or [*CASES], options.mode or ["exact", SINGLE, "8-bit"], options.rounds), options.json)
