"""A task for networks of images, the direction of a line in noise, and training
with running statistics."""

import jax
import jax.numpy as jnp
import numpy as np

from spikegrad import Join

LEARNING_RATE = 1.0


def lines(steps=4, samples=32, size=8):
    """Spikes ``(steps, samples, size, size, 1)`` and directions ``(samples,)``,
    which are one of four."""
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % 4
    across, down = np.meshgrid(*[np.arange(size)] * 2)
    position = np.stack([across, down, across + down, across - down])[labels]
    rates = np.where(
        (position - rng.integers(0, size, (samples, 1, 1))) % size == 0,
        0.8,
        0.05,
    )
    return jnp.asarray(rng.random((steps, *rates.shape)) < rates, jnp.float32)[
        ..., None
    ], jnp.asarray(labels)


def cross_entropy(outputs, labels):
    """Of the mean of the outputs ``(steps, samples, classes)`` over the
    steps."""
    scores = jax.nn.log_softmax(outputs.mean(0))
    return -jnp.take_along_axis(scores, labels[:, None], 1).mean()


def train(network, params, fast):
    """Gradient descent on ``network(params)``. Its running statistics are for
    ``network(params, running)``."""
    x, labels = lines()
    normalized = [
        name
        for name, node in network(params).layers.items()
        if isinstance(node, Join) and node.over_time
    ]

    @jax.jit
    def update(params):
        def loss(params):
            states, outputs = network(params)(x)
            # the states of joins over time are the statistics of the batch
            return cross_entropy(outputs, labels), {
                name: states[name] for name in normalized
            }

        (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(
            params
        )
        return (
            value,
            statistics,
            jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, grads),
        )

    losses, running = [], None
    for _ in range(20 if fast else 100):
        loss, statistics, params = update(params)
        losses.append(float(loss))
        running = jax.tree.map(
            lambda old, new: 0.9 * old + 0.1 * new,
            running or statistics,
            statistics,
        )
    report(losses, network(params, running)(x)[1], labels)
    return losses


def report(losses, outputs, labels):
    print(
        f"loss {losses[-1]:.4f}, accuracy by running statistics "
        f"{(outputs.mean(0).argmax(-1) == labels).mean():.1%}"
    )
