"""Yin-Yang: one hidden layer of spiking neurons, a readout without one, and two non-spiking networks, five seeds each.

The points are the published ones: 5,000 to train on, 1,000 to test. The settings were chosen on the published 1,000
for validation, except for the number of epochs. Accuracies are those after the last update.

A point is five spikes in 60 steps of 0.5 ms. Time constants are 5 ms for membranes, 2.5 ms for synapses and 10 ms for
the readout. Logits are the maxima of the readout over time. The non-spiking networks get spike times as numbers.

    python benchmarks/yin_yang.py --json FILE

`processor seconds` are those of all seeds on all cores.
"""

import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, report

from spikegrad import Layer, LeakyReadout, Network, SynapticLIF, decay_from_tau
from spikegrad.data import yin_yang
from spikegrad.network import draw_weights
from spikegrad.training import ShuffledBatches, combine, partition, sweep, with_device_data

STEP, MEMBRANE, SYNAPSE, OUTPUT = 0.5, 5.0, 2.5, 10.0  # ms
STEPS, LAST, CLASSES, BATCH = 60, 30, 3, 100
NEURON = SynapticLIF(decay_from_tau(MEMBRANE, STEP), synaptic_decay=decay_from_tau(SYNAPSE, STEP), reset="value")
READOUT = LeakyReadout(decay_from_tau(OUTPUT, STEP))


def points(samples, seed):
    x, y, _ = yin_yang(samples, steps=STEPS, last=LAST, seed=seed).as_batch()
    return x.swapaxes(0, 1).astype(np.float32), y


def spiking(hidden):
    """Logits of a network whose layers have these widths, and its initial weights for a key."""
    widths = [5, *hidden, CLASSES]
    layers = [Layer(jnp.zeros(shape), NEURON) for shape in itertools.pairwise(widths[:-1])]
    layers.append(Layer(jnp.zeros(widths[-2:]), READOUT, bias=jnp.zeros(CLASSES)))
    network = Network(layers)
    _, static = partition(network)
    some = jnp.asarray(points(250, 42)[0].swapaxes(0, 1))

    def logits(trainable, x):
        return combine(trainable, static)(x.swapaxes(0, 1))[1].max(0)

    return logits, lambda key: partition(draw_weights(network, key, some))[0]


def non_spiking(hidden):
    """As :func:`spiking`: layers of rectified linear units, with the times of spikes as inputs, from 0 to 1."""
    widths = [4, *hidden, CLASSES]

    def start(key):
        draw = jax.nn.initializers.he_normal()
        keys = jax.random.split(key, len(widths) - 1)
        return [(draw(k, shape), jnp.zeros(shape[1])) for k, *shape in zip(keys, widths[:-1], widths[1:], strict=True)]

    def logits(layers, x):
        h = x.argmax(1)[:, :4] / LAST
        for weight, bias in layers[:-1]:
            h = jax.nn.relu(h @ weight + bias)
        weight, bias = layers[-1]
        return h @ weight + bias

    return logits, start


def accuracies(network, hidden, seeds, epochs):
    logits, start = network(hidden)
    train, test = points(5000, 42), points(1000, 40)

    def loss(trainable, batch, key, setting):
        x, y = batch
        return optax.softmax_cross_entropy_with_integer_labels(logits(trainable, x), y).mean(), {}

    updates = epochs * (len(train[1]) // BATCH)
    runs = sweep(
        with_device_data(loss, train),
        lambda key, setting: start(key),
        lambda seed: ShuffledBatches(np.arange(len(train[1])), BATCH, seed),
        [{"hidden": str(hidden)}],
        optimizer=optax.adam(optax.cosine_decay_schedule(1e-2, updates)),
        seeds=range(seeds),
        epochs=epochs,
        score=lambda trainable, setting: {"test": float((logits(trainable, test[0]).argmax(-1) == test[1]).mean())},
    )
    return [run["test"] for run in runs]


NETWORKS = {
    "spiking, 120 hidden": functools.partial(accuracies, spiking, [120]),
    "spiking, no hidden": functools.partial(accuracies, spiking, []),
    "non-spiking, 120 hidden": functools.partial(accuracies, non_spiking, [120]),
    "non-spiking, no hidden": functools.partial(accuracies, non_spiking, []),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--only", default="", help="a part of the names to run")
    options = parser.parse_args()
    rows = []
    for name, run in NETWORKS.items():
        if options.only in name:
            began = time.process_time()
            found = run(options.seeds, options.epochs)
            rows.append(
                {
                    "network": name,
                    "mean": float(np.mean(found)),
                    "min": min(found),
                    "max": max(found),
                    "deviation": float(np.std(found)),
                    "processor seconds": time.process_time() - began,
                }
            )
    report(rows, options.json)


if __name__ == "__main__":
    main()
