"""Learned delays: neurons without memory tell the order in which channels fire.

Six channels fire once each, in one of four orders. The neurons forget
everything between two steps, so only delays bring spikes of different steps
together. Kernels start wide, and narrow while the network learns.

Run with ``python examples/learned_delays.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spikegrad import LIF, Arctan, Layer, LeakyReadout, Network, Window, bounded
from spikegrad.network import DelayKernel, rounded_delays
from spikegrad.training import ShrinkDelays, combine, fit, partition

CHANNELS, CLASSES, STEPS, LONGEST, HIDDEN = 6, 4, 24, 10, 32
RNG = np.random.default_rng(0)
ORDERS = np.stack([RNG.permutation(CHANNELS) for _ in range(CLASSES)])


def data(samples=64):
    """Spikes ``(steps, samples, channels)``, one channel in every second step
    from a random start, and orders."""
    labels, starts = (
        RNG.integers(0, CLASSES, samples),
        RNG.integers(0, STEPS - 2 * CHANNELS - LONGEST + 1, samples),
    )
    spikes = np.zeros((STEPS, samples, CHANNELS), np.float32)
    for place in range(CHANNELS):
        spikes[
            starts + 2 * place, np.arange(samples), ORDERS[labels, place]
        ] = 1
    return spikes, labels.astype(np.int32)


def network():
    weight, out = (
        RNG.normal(0, 0.8, (CHANNELS, HIDDEN)),
        RNG.normal(0, 0.2, (HIDDEN, CLASSES)),
    )
    delays = bounded(
        jnp.asarray(RNG.uniform(0.5, LONGEST - 0.5, weight.shape), jnp.float32),
        0,
        LONGEST,
    )
    kernel = DelayKernel(
        jnp.asarray(weight, jnp.float32),
        delays,
        LONGEST + 1,
        width=jnp.asarray(LONGEST / 2),
    )
    cell = LIF(0.0, surrogate=Arctan(2.0), reset="value")
    return Network(
        {
            "hidden": Layer(Window(kernel), cell),
            "out": Layer(jnp.asarray(out, jnp.float32), LeakyReadout(0.0)),
        }
    )


def main(fast: bool = False):
    updates, losses = 200 if fast else 600, []
    trainable, static = partition(network())

    def loss(trainable, batch, key):
        spikes, labels = batch
        scores = combine(trainable, static)(spikes)[1].sum(0)
        return optax.softmax_cross_entropy_with_integer_labels(
            scores, labels
        ).mean(), {}

    # delays are in steps, so their learning rate is larger than the one of the
    # weights
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: (
            "delays" if ".delay" in jax.tree_util.keystr(path) else "weights"
        ),
        trainable,
    )
    rates = {
        "delays": optax.adam(optax.cosine_decay_schedule(0.1, updates)),
        "weights": optax.adam(1e-2),
    }
    state = fit(
        loss,
        trainable,
        [data() for _ in range(updates)],
        optimizer=optax.multi_transform(rates, lambda _: labels),
        key=jax.random.key(0),
        callbacks=[
            ShrinkDelays(LONGEST / 2, 0.25, updates=updates // 2),
            lambda now: losses.append(float(now.metrics["loss"])),
        ],
    )
    spikes, labels = data(1000)
    scores = rounded_delays(combine(state.trainable, static))(spikes)[1].sum(0)
    print(
        f"loss {losses[-1]:.4f}, accuracy with whole delays "
        f"{(scores.argmax(-1) == labels).mean():.1%}"
    )
    return losses


if __name__ == "__main__":
    main()
