"""Eighteen convolutional layers on MNIST digits, with residual sums of spikes and as a plain stack.

A stem, eight blocks of two layers and a readout: 16 channels on 14 x 14 positions, and 32 channels on 7 x 7 from the
fifth block on. In the residual network each block adds its outputs to its inputs, as SEW-ResNet does (Fang et al.
2021). The plain stack has the same layers and weights, without the sums. Four fifths of 5,000 images train the
networks, shifted by up to two pixels, and accuracies are of the others. ``diagnose`` says what holds the plain stack
back. Training ends if three epochs leave the loss as it is.

    python benchmarks/deep.py --json FILE
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, report

from spikegrad import LIF, Arctan, Join, Layer, LeakyReadout, Network, diagnose
from spikegrad.cli.trainer import random_shift
from spikegrad.data import load, scale
from spikegrad.training import ShuffledBatches, fit, with_device_data

BLOCKS, CHANNELS, STEPS, BATCH, EPOCHS, SHIFT = 8, (16, 32), 4, 50, 30, 2
CELL = LIF(0.5, surrogate=Arctan(2.0), detach_reset=True)
NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolved(kernel: jax.Array, stride: int = 1) -> Any:
    return lambda x: jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=NUMBERS)


def shape_of(block: int) -> tuple[int, int, int]:
    """Channels of the inputs and outputs of a block, and its stride."""
    half = BLOCKS // 2
    return CHANNELS[block > half], CHANNELS[block >= half], 2 if block == half else 1


def weights(seed: int) -> dict[str, jax.Array]:
    keys = (jax.random.key(seed + n) for n in itertools.count(100))
    he = jax.nn.initializers.he_normal()
    found = {"stem": 2 * he(next(keys), (3, 3, 1, CHANNELS[0]))}
    for n in range(BLOCKS):
        inputs, outputs, stride = shape_of(n)
        found[f"{n}a"] = he(next(keys), (3, 3, inputs, outputs))
        found[f"{n}b"] = he(next(keys), (3, 3, outputs, outputs))
        if stride > 1:
            found[f"{n}s"] = he(next(keys), (1, 1, inputs, outputs))
    return found | {"out": 0.1 * jax.random.normal(next(keys), (CHANNELS[1], 10))}


def network(w: dict[str, jax.Array], residual: bool) -> Network:
    nodes: dict[str, Any] = {"stem": Layer(convolved(w["stem"], 2), CELL)}
    above = "stem"
    for n in range(BLOCKS):
        stride = shape_of(n)[2]
        nodes[f"{n}a"] = Layer(convolved(w[f"{n}a"], stride), CELL, of=above)
        nodes[f"{n}b"] = Layer(convolved(w[f"{n}b"]), CELL)
        if residual and stride > 1:
            nodes[f"{n}s"] = Layer(convolved(w[f"{n}s"], stride), CELL, of=above)
            above = f"{n}s"
        if residual:
            nodes[f"{n}"] = Join(jnp.add, (above, f"{n}b"))
        above = f"{n}" if residual else f"{n}b"
    nodes["out"] = Layer(lambda x: x.mean((1, 2)) @ w["out"], LeakyReadout(0.9), of=above)
    return Network(nodes)


def scores(w: dict[str, jax.Array], images: jax.Array, residual: bool) -> jax.Array:
    """Class scores of images ``(batch, 28, 28)``, which are constant currents."""
    current = jnp.broadcast_to(images[..., None], (STEPS, *images.shape, 1))
    return network(w, residual)(current)[1].mean(0)


def measured(residual: bool, epochs: int, examples: int) -> dict[str, Any]:
    split = load("mnist5k")
    (x, y), (x_test, y_test) = (
        (jnp.asarray(scale(part.padded()[:n, 0], split.low, split.high)), jnp.asarray(part.y[:n]))
        for part, n in ((split.train, examples), (split.test, examples // 4))
    )
    updates = epochs * (len(x) // BATCH)

    def loss(w, batch, key):
        images, labels = batch
        out = scores(w, random_shift(images, SHIFT, key), residual)
        return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean(), {
            "accuracy": (out.argmax(-1) == labels).mean()
        }

    of_batch = jax.jit(functools.partial(scores, residual=residual))
    accuracies: list[float] = []
    losses: list[float] = []

    def accuracy(w):
        parts = np.split(np.arange(len(x_test)), range(200, len(x_test), 200))
        return float(np.mean(np.concatenate([of_batch(w, x_test[part]).argmax(-1) == y_test[part] for part in parts])))

    def look(now):
        if now.epoch_ended:
            accuracies.append(round(accuracy(now.state.trainable), 4))
            losses.append(float(now.epoch_metrics["loss"]))
            print(
                f"residual {residual}, epoch {now.epoch}: loss {losses[-1]:.3f}, "
                f"test accuracy {accuracies[-1]:.1%}, {time.monotonic() - started:.0f} s",
                flush=True,
            )
        return len(losses) > 3 and abs(losses[-1] - losses[-4]) < 1e-4

    started = time.monotonic()
    fit(
        with_device_data(loss, (x, y)),
        weights(0),
        ShuffledBatches(np.arange(len(x)), BATCH, seed=0),
        optimizer=optax.adam(optax.cosine_decay_schedule(3e-3, updates)),
        key=jax.random.key(0),
        epochs=epochs,
        callbacks=[look],
    )
    current = jnp.broadcast_to(x[:BATCH, ..., None], (STEPS, BATCH, 28, 28, 1))
    hidden = "stem", *(f"{n}b" for n in range(BLOCKS))
    _, activity = network(weights(0), residual).observe(current, layers=hidden, parts=("output",))
    rates = {name: round(float(layer.output.mean()), 4) for name, layer in activity.items()}
    row = {"network": "residual" if residual else "plain", "accuracies": accuracies, "rates at the start": rates}
    if not residual:
        row["diagnosis"] = diagnose(network(weights(0), residual), current).lines()
    return row


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--only", choices=("residual", "plain"))
    options = parser.parse_args()
    kinds = [kind for kind in ("residual", "plain") if options.only in (None, kind)]
    report([measured(kind == "residual", options.epochs, options.examples) for kind in kinds], options.json)


if __name__ == "__main__":
    main()
