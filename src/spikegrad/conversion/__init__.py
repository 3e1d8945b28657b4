"""Conversion of ReLU networks to spiking networks, without training. The spike rates of the spiking
network approximate the outputs of the ReLU neurons.

>>> import jax.numpy as jnp
>>> from spikegrad import Layer, LeakyReadout, Network
>>> from spikegrad.conversion import to_spiking
>>> from spikegrad.neurons import Relu
>>> relu, out = Layer(jnp.eye(3), Relu()), Layer(jnp.eye(3), LeakyReadout(0.0))
>>> images = jnp.array([[[0.0, 0.5, 1.0]]])  # one step, examples, inputs
>>> spiking = to_spiking(Network([relu, out]), images, 8)
>>> outputs = spiking(jnp.broadcast_to(images, (8, 1, 3)))[1]
>>> outputs.shape
(8, 1, 3)
"""

from ._relu import to_spiking

__all__ = ["to_spiking"]
