"""Networks as graphs: time and memory of a training step, against a plain scan and against the layers one by one.

A stack of three layers of 512 neurons over 100 steps; the same with residual sums; with an IAND gate, feedback from
above and recurrent weights; and a block of SEW-ResNet with 16 channels. ``in joins`` are networks with their
convolutions in joins instead of layers. ``temp_units`` are the temporary memory of the compiled program, in arrays of
one float32 for each step, example and neuron; ``kept_units``, in the same unit, are the arrays that the backward pass
is given. Times are ratios to ``scan`` of the same network, and to the stack in the same mode: the same layers without
the joins. ``normalized`` is the stack with batch normalization over all steps in each layer.

    python benchmarks/graphs.py --json FILE

With ``--short`` it compiles networks over few steps, and runs none of them: three layers of a graph network of 2,708
nodes; twelve convolutions with batch normalization over time; and the structure of SpikingJelly's DVSGestureNet, with
plain convolutions. ``temporary MB`` is the temporary memory, ``kept MB`` the arrays that the backward pass is given. In
DVSGestureNet, the gradient of the first normalization alone takes 338 MB, so no mode can take less.

    python benchmarks/graphs.py --short --json FILE
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


def convolve_and_normalize(weights: tuple[jax.Array, jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """Convolve the images of all steps and examples, and normalize each channel over them."""
    kernel, gain, shift = weights
    flat = x.reshape(-1, *x.shape[2:])
    current = jax.lax.conv_general_dilated(flat, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    mean, var = current.mean((0, 1, 2), keepdims=True), current.var((0, 1, 2), keepdims=True)
    current = (current - mean) * jax.lax.rsqrt(var + 1e-5) * gain + shift
    return current.reshape(*x.shape[:2], *current.shape[1:])


def normalized_convolutions(weights: list, pooled: bool) -> dict[str, Any]:
    """Blocks of a convolution, batch normalization over time, neurons and, if ``pooled``, a pooling of 2 x 2."""
    nodes: dict[str, Any] = {}
    above = "input"
    for n, block in enumerate(weights):
        norm = functools.partial(convolve_and_normalize, block)
        nodes[f"norm {n}"] = Join(norm, above, over_time=True)
        nodes[f"{n}"], above = Layer(lambda current: current, LIF(0.5)), f"{n}"
        if pooled:
            nodes[f"pool {n}"], above = Join(max_pool, above), f"pool {n}"
    return nodes


def max_pool(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def blocks(count: int, channels: int) -> list[tuple[jax.ShapeDtypeStruct, ...]]:
    """Kernels, gains and shifts of convolutions of images with two channels."""
    shapes = [((3, 3, channels if n else 2, channels), (channels,), (channels,)) for n in range(count)]
    return [tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in block) for block in shapes]


def short_networks() -> dict[str, tuple[Callable, Any, tuple[int, ...]]]:
    """Networks of few steps, the shapes of their weights, and the shape of their inputs."""
    rng = jax.random.split(jax.random.key(0))
    nodes, edges, features = 2708, 5400, (16, 64, 64, 64)
    source, target = (jax.random.randint(key, (edges,), 0, nodes) for key in rng)

    def aggregated(weight, x):
        return jax.ops.segment_sum((x @ weight)[source], target, num_segments=nodes)

    def graph(weights):
        return Network([Layer(functools.partial(aggregated, weight), CELL) for weight in weights])

    def twelve(weights):
        readout = Layer(lambda x: x.mean((1, 2)) @ weights[-1], OUT)
        return Network(normalized_convolutions(weights[:-1], False) | {"out": readout}, outputs="out")

    def gestures(weights):
        *convolutions, first, second = weights
        hidden = Layer(lambda x: x.reshape(len(x), -1) @ first, LIF(0.5))
        votes = Join(lambda x: x.reshape(len(x), 11, 10).mean(-1), "hidden 2")
        dense = {"hidden": hidden, "hidden 2": Layer(second, LIF(0.5)), "votes": votes}
        return Network(normalized_convolutions(convolutions, True) | dense, outputs="votes")

    def matrices(*shapes):
        return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    images, channels = 64, 64
    return {
        "graph network, 10 steps": (graph, matrices(*itertools.pairwise(features)), (10, nodes, features[0])),
        "12 normalized convolutions, 8 steps": (twelve, blocks(12, 32) + matrices((32, 10)), (8, 8, 32, 32, 2)),
        "DVSGestureNet, 16 steps": (
            gestures,
            blocks(5, channels) + matrices(((images // 32) ** 2 * channels, 512), (512, 110)),
            (16, 4, images, images, 2),
        ),
    }


def compiled_memory() -> list[dict[str, Any]]:
    """A row for each network of few steps and each mode."""
    rows = []
    for (name, (make, weights, shape)), mode in itertools.product(
        short_networks().items(), ("scan", "exact", "half", "8-bit")
    ):

        def loss(weights, x, make=make, mode=mode):
            return (make(weights)(x, backward=mode)[1] ** 2).mean()

        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        compiled = jax.jit(jax.value_and_grad(loss)).lower(weights, x).compile()
        row: dict[str, Any] = {"network": name, "mode": mode}
        row["temporary MB"] = compiled.memory_analysis().temp_size_in_bytes / 1e6
        rows.append(row | {"kept MB": residual_report(loss, weights, x).bytes / 1e6})
    return rows


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
    parser.add_argument("--short", action="store_true", help="compiled memory of networks of few steps")
    options = parser.parse_args()
    if options.short:
        return report(compiled_memory(), options.json)
    modes = "scan", "exact", "8-bit", "recompute"
    rows = measure(*dense(options.neurons, options.steps, options.batch), modes, options.rounds)
    rows += [
        row | {"network": f"{row['network']}, images"}
        for row in measure(*images(16, 12, max(1, options.steps // 12), options.batch // 4), modes, options.rounds)
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
