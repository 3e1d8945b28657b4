import jax
import optax

from spikegrad import LIF, Network
from spikegrad.data import load, rate_encoding
from spikegrad.integers import quantize, to_c
from spikegrad.training import fit

train = load("mnist5k").train.batches(100, seed=0)


def spikes(batch, key):  # a bright pixel fires in many of 20 time steps
    pixels = batch.x[0].reshape(-1, 784)
    return rate_encoding(pixels, 20, key)


def loss(network, batch, key):
    _, potentials = network(spikes(batch, key))
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return entropy(potentials.mean(0), batch.y).mean(), {}


key, adam = jax.random.key(0), optax.adam(2e-3)
inputs = spikes(next(iter(train)), key)
network = Network.init(key, inputs, (100, 10), LIF(0.9, reset="value"))
state = fit(loss, network, train, optimizer=adam, key=key, epochs=8)
network, report = quantize(state.trainable, "fixed", inputs, bits=4)
print(to_c(network, "digits"))
