"""The network of ``plain_jax.py`` as a Flax NNX module, trained with optax.

Run with ``python examples/with_flax_nnx.py``.
"""

import jax.numpy as jnp
import optax
from flax import nnx
from task import LAYERS, LEARNING_RATE, data, initial_weights

from spikegrad import LIF, Arctan, LeakyReadout, unroll


class SpikingNetwork(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first, self.second, self.third = (
            nnx.Linear(n, m, use_bias=False, rngs=rngs) for n, m in LAYERS
        )
        # Cells of Python numbers are values that compare and hash, and so
        # static attributes, no variables.
        self.hidden = LIF(decay=0.9, threshold=1.0, surrogate=Arctan(alpha=2.0))
        self.readout = LeakyReadout(decay=0.9)

    def __call__(self, spikes):
        """Class scores ``(samples, classes)`` of input spikes ``(steps,
        samples, inputs)``."""
        for layer in (self.first, self.second):
            _, spikes = unroll(self.hidden, layer(spikes))
        _, potentials = unroll(self.readout, self.third(spikes))
        return potentials.mean(axis=0)


def loss(model, spikes, labels):
    return optax.softmax_cross_entropy_with_integer_labels(
        model(spikes), labels
    ).mean()


@nnx.jit
def train_step(model, optimizer, spikes, labels):
    value, grads = nnx.value_and_grad(loss)(model, spikes, labels)
    optimizer.update(model, grads)
    return value


def initial_model():
    """A network with the weights of the task."""
    model = SpikingNetwork(nnx.Rngs(0))
    for layer, weights in zip(
        (model.first, model.second, model.third), initial_weights(), strict=True
    ):
        layer.kernel[...] = jnp.asarray(weights)
    return model


def gradients():
    """Gradient of the loss at the initial weights, one matrix ``(inputs,
    outputs)`` per layer."""
    grads = nnx.jit(nnx.grad(loss))(initial_model(), *data())
    return [grads[name]["kernel"][...] for name in ("first", "second", "third")]


def main(fast: bool = False):
    model, losses = initial_model(), []
    optimizer = nnx.Optimizer(model, optax.sgd(LEARNING_RATE), wrt=nnx.Param)
    for epoch in range(10 if fast else 50):
        losses.append(float(train_step(model, optimizer, *data())))
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()
