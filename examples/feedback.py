"""Feedback from above: a network of two layers that remembers a cue.

One of four channels fires in the first two steps. The network names it at the
end, after steps without a signal. The neurons forget everything between two
steps, so only the loop through both layers can hold the cue.

Run with ``python examples/feedback.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spikegrad import LIF, Arctan, Delayed, Layer, LeakyReadout, Network
from spikegrad.training import ShuffledBatches, combine, fit, partition

CLASSES, STEPS, HIDDEN = 4, 12, 32
RNG = np.random.default_rng(0)


def data(samples=256):
    """Spikes ``(samples, steps, classes)`` of the cue and of noise, and labels
    ``(samples,)``."""
    labels = np.arange(samples, dtype=np.int32) % CLASSES
    spikes = RNG.random((samples, STEPS, CLASSES)) < 0.02
    spikes[np.arange(samples), :2, labels] = True
    return spikes.astype(np.float32), labels


def network():
    def weight(inputs, neurons, scale):
        return jnp.asarray(
            RNG.normal(0, scale / inputs**0.5, (inputs, neurons)), jnp.float32
        )

    # each neuron of a layer starts with a connection to one of the other layer,
    # so that spikes go around the loop
    up, down = (
        weight(HIDDEN, HIDDEN, 0.3) + 0.6 * jnp.eye(HIDDEN) for _ in range(2)
    )
    cell = LIF(0.0, 0.5, surrogate=Arctan(2.0))
    return Network(
        {
            "below": Layer(
                {
                    "input": weight(CLASSES, HIDDEN, 2.0),
                    "above": Delayed(down, 1),
                },
                cell,
            ),
            "above": Layer(up, cell, of="below"),
            "out": Layer(weight(HIDDEN, CLASSES, 1.0), LeakyReadout(0.0)),
        }
    )


def main(fast: bool = False):
    spikes, labels = data()
    losses = []
    trainable, static = partition(network())

    def loss(trainable, batch, key):
        spikes, labels = batch
        _, scores = combine(trainable, static)(spikes.swapaxes(0, 1))
        right = (scores[-1].argmax(-1) == labels).mean()
        return optax.softmax_cross_entropy_with_integer_labels(
            scores[-1], labels
        ).mean(), {"accuracy": right}

    def report(now):
        losses.append(float(now.metrics["loss"]))
        accuracy.append(float(now.metrics["accuracy"]))

    accuracy: list[float] = []
    fit(
        loss,
        trainable,
        ShuffledBatches((spikes, labels), 64, seed=0),
        optimizer=optax.adam(5e-3),
        key=jax.random.key(0),
        epochs=30 if fast else 100,
        callbacks=[report],
    )
    print(
        f"loss {losses[-1]:.4f}, accuracy {accuracy[-1]:.1%} "
        f"after {STEPS - 2} steps without the cue"
    )
    return losses


if __name__ == "__main__":
    main()
