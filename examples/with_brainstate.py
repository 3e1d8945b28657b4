"""The network of ``plain_jax.py`` in brainstate: neurons keep their potential
in a state, as its modules do.

Run with ``python examples/with_brainstate.py``.
"""

import brainstate
import jax
import jax.numpy as jnp
from task import LAYERS, LEARNING_RATE, SAMPLES, data, initial_weights

from spikegrad import LIF, Arctan, LeakyReadout


class Neurons(brainstate.nn.Module):
    """A layer of spikegrad's cells around brainstate's kind of state.

    A neuron written by hand uses the surrogate directly:
    ``self.surrogate(self.v.value - threshold)``.
    """

    def __init__(self, size, cell):
        super().__init__()
        self.size, self.cell = size, cell

    def init_state(self, batch_size=None, **kwargs):
        self.v = brainstate.HiddenState(jnp.zeros((batch_size, self.size)))

    def update(self, current):
        self.v.value, out = self.cell(self.v.value, current)
        return out


class SpikingNetwork(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [
            brainstate.nn.Linear(n, m, b_init=None) for n, m in LAYERS
        ]
        hidden = LIF(decay=0.9, threshold=1.0, surrogate=Arctan(alpha=2.0))
        cells = [hidden] * (len(LAYERS) - 1) + [LeakyReadout(decay=0.9)]
        self.neurons = [
            Neurons(m, cell) for (_, m), cell in zip(LAYERS, cells, strict=True)
        ]

    def update(self, x):
        """One step: potentials of the readout ``(samples, classes)`` for spikes
        ``(samples, inputs)``."""
        for layer, neurons in zip(self.layers, self.neurons, strict=True):
            x = neurons(layer(x))
        return x


def initial_model():
    """A network with the weights of the task."""
    model = SpikingNetwork()
    for layer, weights in zip(model.layers, initial_weights(), strict=True):
        layer.weight.value = {"weight": jnp.asarray(weights)}
    return model


def loss_of(model, spikes, labels):
    brainstate.nn.init_all_states(model, batch_size=SAMPLES)
    scores = jax.nn.log_softmax(
        brainstate.transform.for_loop(model, jnp.asarray(spikes)).mean(axis=0)
    )
    return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()


def gradients():
    """Gradient of the loss at the initial weights, one matrix ``(inputs,
    outputs)`` per layer."""
    model = initial_model()
    weights = [layer.weight for layer in model.layers]
    grads = brainstate.transform.jit(
        brainstate.transform.grad(lambda: loss_of(model, *data()), weights)
    )()
    return [g["weight"] for g in grads]


def main(fast: bool = False):
    model, losses = initial_model(), []
    weights = model.states(brainstate.ParamState)

    @brainstate.transform.jit
    def train_step(spikes, labels):
        grad = brainstate.transform.grad(
            lambda: loss_of(model, spikes, labels), weights, return_value=True
        )
        grads, value = grad()
        for name, state in weights.items():
            state.value = jax.tree.map(
                lambda w, g: w - LEARNING_RATE * g, state.value, grads[name]
            )
        return value

    for epoch in range(10 if fast else 50):
        losses.append(float(train_step(*data())))
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()
