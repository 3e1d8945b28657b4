"""The network of ``plain_jax.py`` as an Equinox module, trained with optax; its
decays are trained as well.

Run with ``python examples/with_equinox.py``.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from task import LAYERS, LEARNING_RATE, data, initial_weights

from spikegrad import LIF, Arctan, LeakyReadout, bounded, unroll


class SpikingNetwork(eqx.Module):
    layers: list[eqx.nn.Linear]
    hidden: LIF
    readout: LeakyReadout

    def __init__(self, key):
        keys = jax.random.split(key, len(LAYERS))
        self.layers = [
            eqx.nn.Linear(n, m, use_bias=False, key=k)
            for (n, m), k in zip(LAYERS, keys, strict=True)
        ]
        # A cell is a pytree, like a module. Its Python numbers are no arrays,
        # so that Equinox's filters leave them
        # alone; a bounded number holds one, is trained along with the weights,
        # and stays between 0 and 1.
        self.hidden = LIF(
            decay=bounded(0.9), threshold=1.0, surrogate=Arctan(alpha=2.0)
        )
        self.readout = LeakyReadout(decay=bounded(0.9))

    def __call__(self, spikes):
        """Class scores of the spikes of one sample, ``(steps, inputs)``."""
        *hidden_layers, last = self.layers
        for layer in hidden_layers:
            _, spikes = unroll(self.hidden, jax.vmap(layer)(spikes))
        _, potentials = unroll(self.readout, jax.vmap(last)(spikes))
        return potentials.mean(axis=0)


def loss(model, spikes, labels):
    scores = jax.vmap(model, in_axes=1)(spikes)
    return optax.softmax_cross_entropy_with_integer_labels(
        scores, labels
    ).mean()


optimizer = optax.sgd(LEARNING_RATE)


@eqx.filter_jit
def train_step(model, state, spikes, labels):
    value, grads = eqx.filter_value_and_grad(loss)(model, spikes, labels)
    updates, state = optimizer.update(grads, state)
    return value, eqx.apply_updates(model, updates), state


def initial_model():
    """A network with the weights of the task, which Equinox holds as
    ``(outputs, inputs)``."""
    model = SpikingNetwork(jax.random.key(0))
    weights = [jnp.asarray(w.T) for w in initial_weights()]
    return eqx.tree_at(
        lambda m: [layer.weight for layer in m.layers], model, weights
    )


def gradients():
    """Gradient of the loss at the initial weights, one matrix ``(inputs,
    outputs)`` per layer."""
    return [
        layer.weight.T
        for layer in eqx.filter_jit(eqx.filter_grad(loss))(
            initial_model(), *data()
        ).layers
    ]


def main(fast: bool = False):
    model, losses = initial_model(), []
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    for epoch in range(10 if fast else 50):
        value, model, state = train_step(model, state, *data())
        losses.append(float(value))
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()
