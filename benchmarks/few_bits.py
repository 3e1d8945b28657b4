"""Weights of 4, 3 and 2 bits: one scale for a layer, one for each neuron, and learned scales.

    python benchmarks/few_bits.py --json FILE
    python benchmarks/few_bits.py --only digits --seeds 1 --bits 2

The digits of scikit-learn (1,797 images of 8 x 8) and MNIST (5,000 images), a fifth to test on, have spikes at a rate
of the gray value for 20 steps. A real network of one hidden layer is trained, then quantized for the target "fixed",
then trained on for a third of the epochs at a third of the learning rate:

- ``one scale`` and ``per neuron``: ``quantize``, without and with ``per_channel``, and the integer network is trained.
- ``learned``: the real network is trained on with rounded weights and a learned scale for each neuron (LSQ, Esser et
  al. 2020, "Learned step size quantization", ICLR), which start at those of ``per neuron``. Then it is quantized.

Columns: mean accuracy on the test over the seeds of the real network, after quantization, and after training on, and
the least of the seeds. The replay in NumPy of each last network has its outputs, or the program stops.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from typing import Any

import integers
import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, chosen, keep_memory, report

from spikegrad import LeakyReadout, Network
from spikegrad._struct import Struct, parameter
from spikegrad.data import load, rate_encoding, scale
from spikegrad.integers import quantize, replay

METHODS = "one scale", "per neuron", "learned"
HIDDEN, EPOCHS = 128, 9


class Learned(Struct):
    """A rounded weight with a learned step for each neuron."""

    value: Any = parameter(kind=object)
    step: Any = parameter(kind=object)
    low: int = parameter(integer=True)
    high: int = parameter(integer=True)

    def __jax_array__(self) -> jax.Array:
        # The factor of the gradient in the paper, and the derivative 1 of the rounding.
        factor = 1 / math.sqrt(len(self.value) * self.high)
        held = jax.lax.stop_gradient(self.step)
        step = held + factor * (self.step - held)
        steps = jnp.clip(self.value / step, self.low, self.high)
        return (steps + jax.lax.stop_gradient(jnp.round(steps) - steps)) * step

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape


def images(name: str, seed: int) -> integers.Data:
    split = load(name, seed)

    def encode(x: Any, key: jax.Array) -> jax.Array:
        gray = scale(jnp.asarray(x[0]), split.low, split.high)
        return rate_encoding(gray.reshape(len(gray), -1), integers.STEPS, key)

    epochs = EPOCHS if name == "mnist5k" else 4 * EPOCHS
    return integers.Data(split.train, split.test, encode, HIDDEN, epochs, 100)


def with_weights(network: Network, change: Any) -> Network:
    """Return the network with another weight of each layer, from its name and its layer."""
    layers = {name: dataclasses.replace(layer, weight=change(name, layer)) for name, layer in network.layers.items()}
    return dataclasses.replace(network, layers=layers)


def learned(real: Network, integer: Network, further: Any) -> Network:
    """Train the real network on with rounded weights, and return it with these weights."""

    def start(name: str, layer: Any) -> Learned:
        form = integer.layers[name].weight
        step = jnp.asarray(1 / np.asarray(form.scale), jnp.float32)
        return Learned(layer.weight, step * jnp.ones(layer.weight.shape[1]), form.low, form.high)

    trained = further(with_weights(real, start))
    return with_weights(trained, lambda _, layer: layer.weight.__jax_array__())


def measure(name: str, bits: list[int], seed: int) -> list[dict[str, Any]]:
    data = images(name, seed)
    batch = data.test.as_batch()
    spikes = data.encode(batch.x, jax.random.key(99))
    start = data.encode(next(iter(data.train.batches(128, seed))).x, jax.random.key(98))
    network = Network.init(
        jax.random.key(seed),
        start,
        (data.hidden, data.train.classes),
        integers.LIF_CELL,
        LeakyReadout(0.9),
        bias=True,
    )
    real = integers.train(network, data, data.epochs, 2e-3, seed, 1.0)

    def further(network: Network) -> Network:
        return integers.train(network, data, data.epochs // 3, 7e-4, seed, 1.0)

    def accuracy(network: Network) -> float:
        return integers.accuracy(network(spikes)[1], batch)

    rows = []
    for n, method in itertools.product(bits, METHODS):
        options = {"bits": n, "per_channel": method != "one scale"}
        rounded, _ = quantize(real, "fixed", start, **options)
        if method == "learned":
            trained, _ = quantize(learned(real, rounded, further), "fixed", start, **options)
        else:
            trained = further(rounded)
        if not np.array_equal(replay(trained, np.asarray(spikes))[1], trained(spikes)[1]):
            raise AssertionError(f"{name}, {n} bits, {method}: the replay has other outputs")
        rows.append(
            {
                "data": name,
                "bits": n,
                "scales": method,
                "float": accuracy(real),
                "quantized": accuracy(rounded),
                "trained on": accuracy(trained),
            }
        )
        print(seed, rows[-1], flush=True)
    return rows


def main() -> None:
    keep_memory()
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NAMES", help="some of digits,mnist5k")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in chosen(dict.fromkeys(["digits", "mnist5k"]), options.only):
        runs = []
        for seed in range(options.seeds):
            runs.append(measure(name, options.bits, seed))
            means = []
            for parts in zip(*runs, strict=True):
                mean = {
                    key: statistics.mean(part[key] for part in parts) for key in ("float", "quantized", "trained on")
                }
                worst = min(part["trained on"] for part in parts)
                means.append(parts[0] | mean | {"least": worst, "seeds": len(runs)})
            # After each seed, because a run may be stopped.
            report(rows + means, options.json)
        rows += means


if __name__ == "__main__":
    main()
