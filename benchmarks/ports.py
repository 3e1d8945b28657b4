"""Convolutional networks of public programs as integers: accuracy of the replay, and the program in C.

    python benchmarks/ports.py --json FILE
    python benchmarks/ports.py --only csnn --bits 8

- ``csnn``: the network of snnTorch's tutorial 6: two convolutions, each with a maximum of windows before its neurons,
  and a matrix. MNIST (5,000 images, a fifth to test on) with 16 gray levels as inputs of each step.
- ``sew``: a stem and two blocks of SEW-ResNet (Fang et al. 2021, "Deep residual learning in spiking neural networks"),
  which add spikes, each followed by a maximum of windows, and a matrix of real outputs.
- ``gesture``: DVSGestureNet of SpikingJelly: five convolutions, each with neurons and a maximum of windows, two
  matrices and a vote. Both have batch normalization, fewer channels than the originals, and no dropout.

The last two have synthetic events: a bar of random brightness, width and speed moves in one of eight directions, and
some events are missing or noise. Each network is trained in real numbers, its normalization is folded into the weights
with the statistics of some training batches, and ``quantize`` makes integers for the target "fixed", without more
training. Columns: accuracy on the test of the folded network and of the replay of the integers, their difference in
points, if training has the outputs of the replay, if the program in C has those of ``C examples`` examples, and the
bytes and the operations of a step that ``to_c`` reports.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import integers
import jax
import jax.numpy as jnp
import numpy as np
from _convolutional import convolve
from _measure import arguments, chosen, keep_memory, report
from jax.tree_util import Partial

from spikegrad import LIF, Arctan, Join, Layer, LeakyReadout, Network, get
from spikegrad.data import Sequences, load, scale
from spikegrad.integers import quantize, replay, to_c
from spikegrad.network import fold_normalization

LEVELS = 15
"""The largest gray level of an image. Few levels keep the weights of the first layer large in 16 bits of a state."""
IMAGE_STEPS, EVENT_STEPS = 5, 6
EVENT_COUNTS = 1600, 1000
"""The examples to train and to test on."""
DIRECTIONS, VOTES = 8, 10
CHANNELS = 8
"""Of the networks with events. The originals have 32 and 128."""
C_EXAMPLES = 20
STATISTICS_BATCHES = 20

SNNTORCH = LIF(0.5, surrogate=get("snntorch.fast_sigmoid(slope=25)"), detach_reset=True, delay_reset=True)
SPIKINGJELLY = LIF(0.5, 1.0, Arctan(2.0), "value", detach_reset=True, norm_input=True)
INTEGRATE_AND_FIRE = LIF(1.0, 1.0, Arctan(2.0), "value", detach_reset=True)

Apply = Callable[[Any, jax.Array], jax.Array]
"""A function of a weight and inputs ``(batch, height, width, channels)``."""


class Block(NamedTuple):
    """A convolution with batch normalization, and the neurons behind it."""

    source: str
    apply: Apply
    cell: LIF
    kernel: jax.Array


class Port(NamedTuple):
    """A network and its training."""

    nodes: dict[str, Block | Join | Layer]
    data: integers.Data
    rate: float
    gain: float
    """The factor of the mean outputs before the cross-entropy."""


# --- operations -----------------------------------------------------------------------------------


def pool(x: jax.Array) -> jax.Array:
    """Halve both sides of images ``(batch, height, width, channels)``."""
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def after_convolution(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return convolve(x, kernel)


def after_pool(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return convolve(pool(x), kernel)


def pooled_convolution(largest: int, weight: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """Return the current of a layer of the CSNN, for inputs from 0 to ``largest``."""
    kernel, bias = weight
    return pool(convolve(x / largest, kernel, "VALID") + bias)


def product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1) @ matrix


def pooled_product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return product(matrix, pool(x))


def pooled_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """Add the spikes of a block to its inputs, as a SEW block does, and take the maxima of windows."""
    return pool(x + y)


def vote(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1, VOTES).mean(-1)


def drawing(seed: int) -> Callable[..., jax.Array]:
    """Return a function that draws an array of a shape as PyTorch draws weights."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, inputs: int = 0) -> jax.Array:
        bound = 1 / math.sqrt(inputs or math.prod(shape[:-1]))
        return jnp.asarray(rng.uniform(-bound, bound, shape), jnp.float32)

    return draw


# --- normalization --------------------------------------------------------------------------------


def normalized(apply: Apply, parameters: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the normalized currents of all steps ``(steps, batch, ...)``, and their statistics."""
    y = apply(parameters["kernel"], x.reshape(-1, *x.shape[2:]))
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    y = parameters["gain"] * (y - mean) / jnp.sqrt(var + 1e-5) + parameters["shift"]
    return y.reshape(*x.shape[:2], *y.shape[1:]), {"mean": mean, "var": var}


def trainable(nodes: dict[str, Block | Join | Layer]) -> Network:
    """Return the network with the statistics of each batch."""
    built: dict[str, Any] = {}
    for name, node in nodes.items():
        if not isinstance(node, Block):
            built[name] = node
            continue
        channels = jnp.ones(node.kernel.shape[-1])
        parameters = {"kernel": node.kernel, "gain": channels, "shift": 0 * channels}
        function = Partial(functools.partial(normalized, node.apply), parameters)
        built[f"{name} norm"] = Join(function, node.source, over_time=True)
        built[name] = Layer(None, node.cell)
    return Network(built)


def folded(nodes: dict[str, Block | Join | Layer], trained: Network, batches: list[Any]) -> Network:
    """Return the trained network with the mean statistics of batches in its weights."""
    blocks = [name for name, node in nodes.items() if isinstance(node, Block)]
    found = [trained(batch)[0] for batch in batches] if blocks else []
    built: dict[str, Any] = {}
    for name, node in nodes.items():
        if not isinstance(node, Block):
            built[name] = trained.layers[name]
            continue
        join: Any = trained.layers[f"{name} norm"]
        (parameters,) = join.function.args
        statistics = [states[f"{name} norm"] for states in found]
        running = jax.tree.map(lambda *arrays: sum(arrays) / len(arrays), *statistics)
        kernel, bias = fold_normalization(
            parameters["kernel"], gain=parameters["gain"], shift=parameters["shift"], **running
        )
        built[name] = Layer({node.source: Partial(node.apply, kernel)}, node.cell, bias=bias)
    return Network(built)


# --- data -----------------------------------------------------------------------------------------


def moving_bars(count: int, size: int, steps: int, seed: int) -> Sequences:
    """Return events ``(steps, size, size, 2)``: pixels that become brighter, and those that become darker."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % DIRECTIONS
    angle = 2 * np.pi * labels / DIRECTIONS + rng.uniform(-0.3, 0.3, count)
    # As shares of the image: the width, the way in all steps, and the place in the middle of them.
    width, speed = rng.uniform(0.15, 0.3, count), rng.uniform(0.5, 1.0, count)
    start = rng.uniform(-0.1, 0.1, count)
    y, x = np.mgrid[:size, :size] / size - 0.5
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    bright = []
    for step in range(steps + 1):
        center = start + speed * (step / steps - 0.5)
        bright.append(np.abs(along - center[:, None, None]) < width[:, None, None] / 2)
    change = np.diff(np.stack(bright, 1).astype(np.int8), axis=1)
    change *= rng.choice(np.array([-1, 1], np.int8), (count, 1, 1, 1))  # bright and dark bars
    events = np.stack([change > 0, change < 0], -1)
    is_kept, is_noise = rng.random(events.shape) < 0.5, rng.random(events.shape) < 0.05
    return Sequences(f"bars {seed}", (events & is_kept) | is_noise, labels)


def as_floats(x: Any, key: jax.Array) -> jax.Array:
    del key
    return jnp.asarray(x, jnp.float32)


def event_data(seed: int, size: int, epochs: int) -> integers.Data:
    train, test = (moving_bars(count, size, EVENT_STEPS, 2 * seed + n) for n, count in enumerate(EVENT_COUNTS))
    return integers.Data(train, test, as_floats, 0, epochs, 50)


# --- networks -------------------------------------------------------------------------------------


def csnn(seed: int) -> Port:
    split, draw = load("mnist5k", seed), drawing(seed)

    def encode(x: Any, key: jax.Array) -> jax.Array:
        del key
        gray = jnp.round(LEVELS * scale(jnp.asarray(x[0]), split.low, split.high))
        return jnp.broadcast_to(gray[..., None], (IMAGE_STEPS, *gray.shape, 1))

    def layer(largest: int, *shape: int) -> Layer:
        weight = draw(*shape), draw(shape[-1], inputs=math.prod(shape[:-1]))
        return Layer(Partial(functools.partial(pooled_convolution, largest), weight), SNNTORCH)

    nodes = {
        "first": layer(LEVELS, 5, 5, 1, 12),
        "second": layer(1, 5, 5, 12, 64),
        "out": Layer(Partial(product, draw(1024, 10)), SNNTORCH, bias=draw(10, inputs=1024)),
    }
    return Port(nodes, integers.Data(split.train, split.test, encode, 0, 4, 100), 2e-3, 10.0)


def sew(seed: int, channels: int = CHANNELS) -> Port:
    draw = drawing(seed)

    def block(source: str, inputs: int = channels) -> Block:
        return Block(source, after_convolution, INTEGRATE_AND_FIRE, draw(3, 3, inputs, channels))

    nodes: dict[str, Any] = {"stem": block("input", 2)}
    above = "stem"
    for number in range(2):
        first, second, total = (f"{name} {number}" for name in ("first", "second", "sum"))
        nodes |= {first: block(above), second: block(first), total: Join(pooled_sum, (above, second))}
        above = total
    nodes["out"] = Layer(Partial(product, draw(16 * channels, DIRECTIONS)), LeakyReadout(0.0))
    return Port(nodes, event_data(seed, size=16, epochs=8), 5e-3, 1.0)


def gesture(seed: int, channels: int = CHANNELS) -> Port:
    draw = drawing(seed)
    nodes: dict[str, Any] = {}
    above = "input"
    for number in range(5):
        name, inputs = f"block {number}", channels if number else 2
        apply = after_pool if number else after_convolution
        nodes[name] = Block(above, apply, SPIKINGJELLY, draw(3, 3, inputs, channels))
        above = name
    nodes["hidden"] = Layer(Partial(pooled_product, draw(channels, 64)), SPIKINGJELLY)
    nodes["votes"] = Layer(Partial(product, draw(64, VOTES * DIRECTIONS)), SPIKINGJELLY)
    nodes["out"] = Join(vote, "votes")
    return Port(nodes, event_data(seed, size=32, epochs=12), 5e-3, 10.0)


PORTS = {"csnn": csnn, "sew": sew, "gesture": gesture}


# --- measurements ---------------------------------------------------------------------------------


def is_equal_in_c(folder: Path) -> bool:
    """Compile the test that ``to_c`` has written, and return True if all outputs are equal."""
    flags = "-std=c99", "-O2", "-DNET_TEST_MAIN"
    subprocess.run(["cc", *flags, "net.c", "net_test.c", "-o", "net"], cwd=folder, check=True)
    return subprocess.run([folder / "net"], check=False).returncode == 0


def measure(name: str, options: Any, seed: int) -> list[dict[str, Any]]:
    port = PORTS[name](seed)
    data = port.data
    if options.examples:
        train, test = (source.subset(range(options.examples)) for source in (data.train, data.test))
        data = dataclasses.replace(data, train=train, test=test)
    epochs = data.epochs if options.epochs is None else options.epochs
    key = jax.random.key(seed)
    trained = integers.train(trainable(port.nodes), data, epochs, port.rate, seed, port.gain)
    batches = [data.encode(batch.x, key) for batch in data.train.batches(data.batch, seed)]
    real = folded(port.nodes, trained, batches[:STATISTICS_BATCHES])
    batch = data.test.as_batch()
    spikes = data.encode(batch.x, key)
    expected = integers.accuracy(real(spikes)[1], batch)
    rows = []
    for bits in options.bits:
        network, _ = quantize(real, "fixed", batches[0], bits=bits, per_channel=options.per_channel)
        outputs = replay(network, np.asarray(spikes))[1]
        found = integers.accuracy(outputs, batch)
        with tempfile.TemporaryDirectory() as folder:
            examples = np.asarray(spikes[:, :C_EXAMPLES], int)
            size = to_c(network, Path(folder) / "net", examples=examples)
            is_equal = is_equal_in_c(Path(folder))
        rows.append(
            {
                "network": name,
                "seed": seed,
                "bits": bits,
                "float": expected,
                "replay": found,
                "difference": 100 * (found - expected),
                "training equal": np.array_equal(network(spikes)[1], outputs),
                "C examples": examples.shape[1],
                "C equal": is_equal,
                "flash": size.tables,
                "RAM": size.state,
                "operations": size.operations,
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    keep_memory()
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NAMES", help="some of " + ",".join(PORTS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--per-channel", action="store_true", help="a scale for each channel")
    parser.add_argument("--epochs", type=int, help="instead of those of each network")
    parser.add_argument("--examples", type=int, help="use only so many of each set")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in chosen(PORTS, options.only):
        for seed in range(options.seeds):
            rows += measure(name, options, seed)
            # After each seed, because a run may be stopped.
            report(rows, options.json)


if __name__ == "__main__":
    main()
