"""A convolutional network of Equinox modules, trained by
``spikegrad.training.fit`` on images of bars.

Run with ``python examples/fit_equinox.py``.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spikegrad import LIF, Arctan, Layer, LeakyReadout, Network
from spikegrad.data import rate_encoding
from spikegrad.training import (
    ShuffledBatches,
    combine,
    fit,
    partition,
    with_device_data,
)

STEPS, SIDE, DIRECTIONS = 10, 8, 4


class ConvolutionalNetwork(eqx.Module):
    convolution: eqx.nn.Conv2d
    readout: eqx.nn.Linear
    cell: LIF = LIF(decay=0.8, surrogate=Arctan(alpha=2.0))

    def __init__(self, key):
        keys = jax.random.split(key)
        self.convolution = eqx.nn.Conv2d(1, 8, 3, key=keys[0])
        self.readout = eqx.nn.Linear(
            8 * (SIDE - 2) ** 2, DIRECTIONS, key=keys[1]
        )

    def __call__(self, images):
        """Class scores ``(samples, classes)`` of spikes ``(steps, samples, 1,
        side, side)``."""
        network = Network(
            [
                Layer(lambda x: 4 * jax.vmap(self.convolution)(x), self.cell),
                Layer(
                    lambda x: jax.vmap(self.readout)(x.reshape(len(x), -1)),
                    LeakyReadout(decay=0.8),
                ),
            ]
        )
        return network(images)[1].mean(0)


def data(samples=256):
    """Bars in one of four directions, anywhere in the image, with noise:
    ``(samples, 1, side, side)`` and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(samples, dtype=np.int32) % DIRECTIONS
    row, column = np.mgrid[:SIDE, :SIDE]
    across = np.stack([row, column, row - column, row + column])[labels]
    middle = across.reshape(samples, -1)[
        np.arange(samples), rng.integers(SIDE * SIDE, size=samples)
    ]
    bars = (across == middle[:, None, None]) * 0.8 + rng.uniform(
        0, 0.2, across.shape
    )
    return bars[:, None].astype(np.float32), labels


def main(fast: bool = False):
    images, labels = data()
    trainable, static = partition(ConvolutionalNetwork(jax.random.key(0)))

    def loss(trainable, batch, key):
        images, labels = batch
        scores = combine(trainable, static)(
            rate_encoding(images, STEPS, key).astype(jnp.float32)
        )
        right = (scores.argmax(-1) == labels).mean()
        return optax.softmax_cross_entropy_with_integer_labels(
            scores, labels
        ).mean(), {"accuracy": right}

    losses = []

    def report(now):
        if now.epoch_ended:
            losses.append(float(now.epoch_metrics["loss"]))
            if now.epoch % 4 == 0:
                print(
                    f"epoch {now.epoch:3}  loss {losses[-1]:.4f}  "
                    f"accuracy {now.epoch_metrics['accuracy']:.1%}"
                )

    fit(
        # the images are on the device, batches are row numbers
        with_device_data(loss, (images, labels)),
        trainable,
        ShuffledBatches(np.arange(len(labels)), 32, seed=0),
        optimizer=optax.adam(3e-3),
        key=jax.random.key(1),
        epochs=8 if fast else 40,
        updates_per_call=8,
        callbacks=[report],
    )
    return losses


if __name__ == "__main__":
    main()
