"""A spiking network in plain JAX: parameters are a list of matrices, the
network is a function of them.

Run with ``python examples/plain_jax.py``.
"""

import jax
import jax.numpy as jnp
from task import LEARNING_RATE, data, initial_weights

from spikegrad import LIF, Arctan, LeakyReadout, unroll

# Cells are values: closed over here, they are constants; passed as arguments,
# their numbers could be trained.
hidden = LIF(decay=0.9, threshold=1.0, surrogate=Arctan(alpha=2.0))
readout = LeakyReadout(decay=0.9)


def network(weights, spikes):
    """Class scores ``(samples, classes)`` of input spikes ``(steps, samples,
    inputs)``."""
    *hidden_weights, last = weights
    for w in hidden_weights:
        _, spikes = unroll(hidden, spikes @ w)
    _, potentials = unroll(readout, spikes @ last)
    return potentials.mean(axis=0)


def loss(weights, spikes, labels):
    scores = jax.nn.log_softmax(network(weights, spikes))
    return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()


@jax.jit
def train_step(weights, spikes, labels):
    value, grads = jax.value_and_grad(loss)(weights, spikes, labels)
    return value, jax.tree.map(
        lambda w, g: w - LEARNING_RATE * g, weights, grads
    )


def gradients():
    """Gradient of the loss at the initial weights, one matrix ``(inputs,
    outputs)`` per layer."""
    return jax.jit(jax.grad(loss))(initial_weights(), *data())


def main(fast: bool = False):
    weights, losses = initial_weights(), []
    for epoch in range(10 if fast else 50):
        value, weights = train_step(weights, *data())
        losses.append(float(value))
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()
