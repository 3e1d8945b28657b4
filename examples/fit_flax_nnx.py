"""A recurrent network of adaptive neurons held by Flax NNX, trained by
``spikegrad.training.fit`` to remember.

A cue of a few steps says which of four answers is wanted, and then there is
only noise until the end, where the answer is read. Neurons whose threshold
rises with their spikes carry it there.

Run with ``python examples/fit_flax_nnx.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from spikegrad import AdaptiveLIF, Arctan, Layer, LeakyReadout, Network
from spikegrad.training import ShuffledBatches, fit

STEPS, CUE, CHANNELS, NEURONS, ANSWERS = 40, 5, 12, 48, 4


class RecurrentNetwork(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.inputs = nnx.Linear(CHANNELS, NEURONS, rngs=rngs)
        self.recurrent = nnx.Linear(NEURONS, NEURONS, use_bias=False, rngs=rngs)
        self.outputs = nnx.Linear(NEURONS, ANSWERS, rngs=rngs)
        self.cell = AdaptiveLIF(
            decay=0.8,
            adaptation=0.3,
            adaptation_decay=0.97,
            surrogate=Arctan(alpha=2.0),
        )

    def __call__(self, spikes):
        """Scores ``(samples, answers)`` of spikes ``(steps, samples,
        channels)``, read in the last steps."""
        network = Network(
            [
                Layer(self.inputs, self.cell, recurrent=self.recurrent),
                Layer(self.outputs, LeakyReadout(decay=0.8)),
            ]
        )
        return network(spikes)[1][-CUE:].mean(0)


def data(samples=256):
    """Spikes ``(samples, steps, channels)``: a fourth of the channels fires in
    the cue, and any at times after it."""
    rng = np.random.default_rng(0)
    labels = np.arange(samples, dtype=np.int32) % ANSWERS
    rates = np.full((samples, STEPS, CHANNELS), 0.05)
    rates[:, :CUE] = np.where(
        np.arange(CHANNELS) % ANSWERS == labels[:, None], 0.8, 0.05
    )[:, None]
    return (rng.random(rates.shape) < rates).astype(np.float32), labels


def main(fast: bool = False):
    graph, trainable, rest = nnx.split(
        RecurrentNetwork(nnx.Rngs(0)), nnx.Param, ...
    )

    def loss(trainable, batch, key):
        spikes, labels = batch
        scores = nnx.merge(graph, trainable, rest)(jnp.swapaxes(spikes, 0, 1))
        right = (scores.argmax(-1) == labels).mean()
        return optax.softmax_cross_entropy_with_integer_labels(
            scores, labels
        ).mean(), {"accuracy": right}

    losses = []

    def report(now):
        if now.epoch_ended:
            losses.append(float(now.epoch_metrics["loss"]))
            if now.epoch % 5 == 0:
                print(
                    f"epoch {now.epoch:3}  loss {losses[-1]:.4f}  "
                    f"accuracy {now.epoch_metrics['accuracy']:.1%}"
                )

    fit(
        loss,
        trainable,
        ShuffledBatches(data(), 32, seed=0),
        optimizer=optax.adam(5e-3),
        key=jax.random.key(0),
        epochs=10 if fast else 40,
        updates_per_call=8,
        callbacks=[report],
    )
    return losses


if __name__ == "__main__":
    main()
