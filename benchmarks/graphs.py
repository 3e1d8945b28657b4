"""Networks as graphs: time and memory of a training step, against a plain scan and against the layers one by one.

A stack of three layers of 512 neurons over 100 steps; the same with residual sums; with an IAND gate, feedback from
above and recurrent weights; and a block of SEW-ResNet with 16 channels. ``in joins`` are networks with their
convolutions in joins instead of layers. ``temp_units`` are the temporary memory of the compiled program, in arrays of
one float32 for each step, example and neuron; ``kept_units``, in the same unit, are the arrays that the backward pass
is given. Times are ratios to ``scan`` of the same network, and to the stack in the same mode: the same layers without
the joins. ``normalized`` is the stack with batch normalization over all steps in each layer.

    python benchmarks/graphs.py --json FILE
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from _measure import arguments, interleave, ratio, report

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network
from spikegrad.reports import residual_report

CELL, OUT = LIF(0.9), LeakyReadout(0.9)


def dense(neurons: int, steps: int, batch: int) -> tuple[dict[str, Callable], list, jax.Array, int]:
    """Networks of matrices, their weights, the inputs and the number of neurons."""
    keys = iter(jax.random.split(jax.random.key(0), 6))
    shapes = (64, neurons), (neurons, neurons), (neurons, neurons), (neurons, 10), (neurons, neurons)
    scales = 0.2, 1.8 / neurons**0.5, 1.8 / neurons**0.5, 0.1, 0.4 / neurons**0.5
    weights = [jax.random.normal(next(keys), shape) * scale for shape, scale in zip(shapes, scales, strict=True)]
    inputs = jax.random.bernoulli(next(keys), 0.2, (steps, batch, 64)).astype(jnp.float32)

    def layers(w):
        return {"a": Layer(w[0], CELL), "b": Layer(w[1], CELL), "c": Layer(w[2], CELL), "out": Layer(w[3], OUT)}

    def residual(w):
        a, b, c, out = layers(w).values()
        joins = Join(jnp.add, ("a", "b")), Join(jnp.add, ("ab", "c"))
        return Network({"a": a, "b": b, "ab": joins[0], "c": c, "abc": joins[1], "out": out})

    def feedback(w):
        _, b, c, out = layers(w).values()
        a = Layer({"input": w[0], "c": Delayed(w[4], 1), "a": Delayed(w[4], 1)}, CELL)
        gate, total = Join(lambda a, b: a * (1 - b), ("a", "b")), Join(jnp.add, ("a", "c"))
        return Network({"a": a, "b": Layer(b.weight, CELL, of="a"), "ab": gate, "c": c, "ac": total, "out": out})

    def normalized(w):
        nodes, above = {}, "input"
        for name, weight in zip("abc", w, strict=False):
            function = functools.partial(normalization, weight)
            nodes[f"{name} norm"] = Join(function, above, over_time=True)
            nodes[name], above = Layer(lambda current: current, CELL), name
        return Network(nodes | {"out": Layer(w[3], OUT)})

    networks = {"stack": lambda w: Network(layers(w)), "residual": residual, "feedback": feedback}
    networks["normalized"] = normalized
    return networks, weights, inputs, 3 * neurons + 10


def normalization(weight: jax.Array, x: jax.Array) -> jax.Array:
    """Normalize the currents of all steps and examples, for each neuron."""
    current = x @ weight
    mean = current.mean((0, 1), keepdims=True)
    return (current - mean) * jax.lax.rsqrt(current.var((0, 1), keepdims=True) + 1e-5)


def images(channels: int, size: int, steps: int, batch: int) -> tuple[dict[str, Callable], list, jax.Array, int]:
    """Networks of convolutions."""
    keys = iter(jax.random.split(jax.random.key(0), 7))
    shapes = [(3, 3, 2, channels), *[(3, 3, channels, channels)] * 4, (channels, 10)]
    scales = 0.6, *[0.8 / channels**0.5] * 4, 0.3
    weights = [jax.random.normal(next(keys), shape) * scale for shape, scale in zip(shapes, scales, strict=True)]
    inputs = jax.random.bernoulli(next(keys), 0.2, (steps, batch, size, size, 2)).astype(jnp.float32)
    numbers = ("NHWC", "HWIO", "NHWC")

    def layers(w):
        def layer(kernel):
            return Layer(
                lambda x: jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers), CELL
            )

        names = "stem", "a1", "a2", "b1", "b2"
        found = {name: layer(kernel) for name, kernel in zip(names, w, strict=False)}
        return found | {"out": Layer(lambda x: x.mean((1, 2)) @ w[-1], OUT)}

    def sew(w):
        stem, a1, a2, b1, b2, out = layers(w).values()
        joins = {"a": Join(jnp.add, ("stem", "a2")), "b": Join(jnp.add, ("a", "b2"))}
        return Network(
            {"stem": stem, "a1": a1, "a2": a2, "a": joins["a"], "b1": b1, "b2": b2, "b": joins["b"], "out": out}
        )

    def in_joins(make):
        """Write each layer with a convolution as a join with the convolution and a layer without weights."""

        def network(w):
            nodes: dict[str, Any] = {}
            above = "input"
            for name, node in make(w).layers.items():
                if isinstance(node, Layer) and name != "out":
                    nodes[f"{name} conv"] = Join(node.weight, node.of or above)
                    node = Layer(None, CELL)
                nodes[name], above = node, name
            return Network(nodes, outputs="out")

        return network

    networks = {"stack": lambda w: Network(layers(w)), "sew": sew}
    networks |= {f"{name} in joins": in_joins(make) for name, make in networks.items()}
    return networks, weights, inputs, 5 * channels * size**2 + 10


def measure(
    networks: dict, weights: list, inputs: jax.Array, neurons: int, modes: tuple, rounds: int
) -> list[dict[str, Any]]:
    """A row for each network and mode."""
    unit = neurons * inputs.shape[0] * inputs.shape[1] * 4

    def loss(make, mode, weights, inputs):
        return (make(weights)(inputs, backward=mode)[1] ** 2).mean()

    losses = {key: functools.partial(loss, networks[key[0]], key[1]) for key in itertools.product(networks, modes)}
    compiled = {
        (name, mode): jax.jit(jax.value_and_grad(loss)).lower(weights, inputs).compile()
        for (name, mode), loss in losses.items()
    }
    runs = {k: (lambda run=run: jax.block_until_ready(run(weights, inputs))) for k, run in compiled.items()}
    seconds, rows = interleave(runs, rounds), []
    for (name, mode), run in compiled.items():
        kept = residual_report(losses[name, mode], weights, inputs).bytes
        to_scan = ratio(seconds[name, mode], seconds[name, "scan"])
        row = {"network": name, "mode": mode, "to scan": to_scan["ratio"], "min": to_scan["min"], "max": to_scan["max"]}
        row["to stack"] = ratio(seconds[name, mode], seconds["stack", mode])["ratio"]
        rows.append(row | {"kept_units": kept / unit, "temp_units": run.memory_analysis().temp_size_in_bytes / unit})
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--neurons", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    modes = "scan", "exact", "8-bit", "recompute"
    rows = measure(*dense(options.neurons, options.steps, options.batch), modes, options.rounds)
    rows += [
        row | {"network": f"{row['network']}, images"}
        for row in measure(*images(16, 12, max(1, options.steps // 12), options.batch // 4), modes, options.rounds)
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
