"""The networks of the command: leaky integrate-and-fire layers, and their non-spiking counterpart."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp

from ..data import latency_coding, rate_coding
from ..network import Layer, Network
from ..neurons import LIF, LeakyReadout

Params: TypeAlias = list[dict[str, jax.Array]]
"""One ``{"weight": (inputs, outputs), "bias": (outputs,)}`` for each layer, the readout last."""

CODINGS = ("current", "rate", "latency")


class Model(Protocol):
    """A network of the command."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of inputs, of neurons of each hidden layer, and of classes."""
        ...

    def __call__(self, params: Params, x: jax.Array, key: jax.Array) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run on examples ``(n, ...)``.

        Returns the logits, ``(n, classes)``; which neurons of each hidden layer are active, as 0 and 1,
        ``(steps, n, neurons)``; and the readout over time, ``(steps, n, classes)``.
        """
        ...


def init(sizes: tuple[int, ...], key: jax.Array, gain: float = 1.0) -> Params:
    """Weights drawn from a normal distribution of standard deviation ``gain * sqrt(2 / inputs)``, biases 0."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"weight": gain * math.sqrt(2 / n) * jax.random.normal(k, (n, m)), "bias": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def count(sizes: tuple[int, ...]) -> int:
    """Number of parameters: weights and biases."""
    return sum((n + 1) * m for n, m in itertools.pairwise(sizes))


def _dense(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["weight"] + layer["bias"][None]


@dataclasses.dataclass(frozen=True)
class SpikingNetwork:
    """Fully connected layers of leaky integrate-and-fire neurons and a leaky readout.

    The logits are the mean over time of the readout's potential.

    Parameters
    ----------
    sizes : tuple of int
        Number of inputs, of neurons of each hidden layer, and of classes.
    cell : LIF
        The neurons of every hidden layer.
    steps : int
        Time steps.
    coding : {"current", "rate", "latency"}
        How a value ``x`` from 0 to 1 becomes an input over time. ``"current"``: the constant ``x`` at every step.
        ``"rate"``: a spike at each step with probability ``x``. ``"latency"``: one spike, at the first step for 1, at
        the last for values just above 0, and none for 0. Values beyond 0 and 1 are clipped for the latter two.
    """

    sizes: tuple[int, ...]
    cell: LIF
    steps: int
    coding: str

    def __call__(self, params: Params, x: jax.Array, key: jax.Array) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run the network on examples ``x`` of shape ``(n, ...)``.

        Returns
        -------
        logits : jax.Array
            ``(n, classes)``.
        spikes : list of jax.Array
            Of each hidden layer, ``(steps, n, neurons)``.
        potentials : jax.Array
            Of the readout, ``(steps, n, classes)``.
        """
        inputs, weights = self._coded(x.reshape(len(x), -1), params, key)
        cells = [*[self.cell] * (len(params) - 1), LeakyReadout(self.cell.decay)]
        layers = [
            Layer(weight, cell, bias=layer["bias"]) for weight, cell, layer in zip(weights, cells, params, strict=True)
        ]
        _, (*spikes, potentials) = Network(layers)(inputs, all_layers=True)
        return potentials.mean(0), spikes, potentials

    def _coded(self, x, params, key):
        """The inputs over time, and the weights of each layer."""
        weights = [layer["weight"] for layer in params]
        if self.coding == "current":  # the same at every step: one product, and inputs that are not looked at
            constant = jax.tree_util.Partial(lambda current, _: current, x @ weights[0])
            return jnp.zeros((self.steps, len(x)), bool), [constant, *weights[1:]]
        if self.coding == "rate":
            return rate_coding(x, self.steps, key), weights
        return latency_coding(x, self.steps), weights


@dataclasses.dataclass(frozen=True)
class ReluNetwork:
    """The same layers with rectified linear units in place of spiking neurons, and without time."""

    sizes: tuple[int, ...]

    def __call__(self, params: Params, x: jax.Array, key: jax.Array) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run the network on examples ``x`` of shape ``(n, ...)``; ``key`` is not used.

        Returns
        -------
        logits : jax.Array
            ``(n, classes)``.
        active : list of jax.Array
            Which units of each hidden layer are above 0, ``(1, n, units)``.
        readout : jax.Array
            The logits as one step, ``(1, n, classes)``.
        """
        del key
        active = []
        y = _dense(params[0], x.reshape(len(x), -1))
        for layer in params[1:]:
            active.append((y > 0).astype(y.dtype)[None])
            y = _dense(layer, jax.nn.relu(y))
        return y, active, y[None]
