"""The networks of the command: leaky integrate-and-fire layers, and their non-spiking counterpart."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from .._struct import parameter
from ..data import constant_coding, latency_coding, rate_coding
from ..network import Layer, Network
from ..network._layer import is_stochastic
from ..network._step import KEYS
from ..neurons import LIF, AdaptiveLIF, Cell, LeakyReadout, SynapticLIF

Params: TypeAlias = list[dict[str, jax.Array]]
"""One ``{"weight": (inputs, outputs), "bias": (outputs,)}`` for each layer, the readout last. A recurrent layer has
``"recurrent": (neurons, neurons)`` beside."""

CODINGS = ("current", "rate", "latency")
NO_CODING = "none"
"""The coding of recordings, which have a time axis."""
READOUTS = ("mean", "max", "last")
CELLS: dict[str, tuple[type[LIF], tuple[str, ...]]] = {
    "lif": (LIF, ("decay",)),
    "synaptic": (SynapticLIF, ("decay", "synaptic_decay")),
    "adaptive": (AdaptiveLIF, ("decay", "adaptation_decay")),
}
"""Cells by name, with their leaks, each of which has a time constant."""


class Model(Protocol):
    """A network of the command."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of inputs, of neurons of each hidden layer, and of classes."""
        ...

    @property
    def steps(self) -> int:
        """Time steps."""
        ...

    @property
    def recurrent(self) -> bool:
        """Whether the neurons of a hidden layer are connected with each other."""
        ...

    def __call__(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run on examples ``(n, ...)``, of recordings ``(n, steps, ...)`` with their ``lengths``, ``(n,)``.

        Returns the logits, ``(n, classes)``; which neurons of each hidden layer are active, as 0 and 1,
        ``(steps, n, neurons)``; and the readout over time, ``(steps, n, classes)``.
        """
        ...


def shapes(sizes: tuple[int, ...], recurrent: bool = False) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of the parameters of each layer."""
    layers: list[dict[str, tuple[int, ...]]] = [{"weight": (n, m), "bias": (m,)} for n, m in itertools.pairwise(sizes)]
    for layer, m in zip(layers[:-1], sizes[1:-1], strict=True):
        layer |= {"recurrent": (m, m)} if recurrent else {}
    return layers


def init(sizes: tuple[int, ...], key: jax.Array, gain: float = 1.0, recurrent: bool = False) -> Params:
    """Weights drawn from a normal distribution, biases 0.

    Its standard deviation is ``gain * sqrt(2 / inputs)``, and ``0.5 / sqrt(neurons)`` within a recurrent layer.
    """

    def draw(name: str, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
        if name == "bias":
            return jnp.zeros(shape)
        if name == "weight":
            return gain * math.sqrt(2 / shape[0]) * jax.random.normal(key, shape)
        return 0.5 / math.sqrt(shape[0]) * jax.random.normal(jax.random.fold_in(key, 0), shape)

    layers = shapes(sizes, recurrent)
    return [
        {name: draw(name, shape, key) for name, shape in layer.items()}
        for key, layer in zip(jax.random.split(key, len(layers)), layers, strict=True)
    ]


def init_driven(network: SpikingNetwork, x: jax.Array, lengths: jax.Array | None, key: jax.Array) -> Params:
    """Weights by which recordings make the potentials fluctuate by a threshold, biases 0.

    Weights for any inputs would leave a network silent on sparse events. Recordings without any give NaN.
    """
    inputs = _time_first(x)
    mask = mask_of(lengths, len(inputs))
    *hidden, readout = network.cells
    drawn = Network.init(
        key, inputs, network.sizes[1:], hidden[0], readout, mask=mask, recurrent=network.recurrent, bias=True
    )
    names = shapes(network.sizes, network.recurrent)
    return [{name: getattr(layer, name) for name in own} for layer, own in zip(drawn.layers, names, strict=True)]


def count(sizes: tuple[int, ...], recurrent: bool = False) -> int:
    """Number of parameters."""
    return sum(math.prod(shape) for layer in shapes(sizes, recurrent) for shape in layer.values())


def mask_of(lengths: jax.Array | None, steps: int) -> jax.Array | None:
    """Which steps take place in recordings of these lengths, ``(steps, n)``; None if all do."""
    return None if lengths is None else jnp.arange(steps)[:, None] < lengths[None]


def _dense(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["weight"] + layer["bias"][None]


def _time_first(x: jax.Array) -> jax.Array:
    """Recordings ``(n, steps, ...)`` as inputs ``(steps, n, inputs)``."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], -1), 1, 0)


@dataclasses.dataclass(frozen=True)
class SpikingNetwork:
    """Fully connected layers of leaky integrate-and-fire neurons and a leaky readout.

    Parameters
    ----------
    sizes : tuple of int
        Number of inputs, of neurons of each hidden layer, and of classes.
    cell : LIF or Rectified
        The neurons of every hidden layer.
    steps : int
        Time steps.
    coding : {"current", "rate", "latency", "none"}
        How a value ``x`` from 0 to 1 becomes an input over time. ``"current"``: the constant ``x`` at every step.
        ``"rate"``: a spike at each step with probability ``x``. ``"latency"``: one spike, at the first step for 1, at
        the last for values just above 0, and none for 0. Values beyond 0 and 1 are clipped for the latter two.
        ``"none"``: examples are recordings, ``(steps, ...)`` each, and go in as they are.
    readout : {"mean", "max", "last"}
        How the readout's potentials become logits: their mean or maximum over the steps that there are, or the last.
    mode : str
        What a backward pass keeps, as in :class:`spikegrad.Network`.
    recurrent : bool
        Whether neurons of a hidden layer are connected with each other.
    readout_decay : float, optional
        Leak of the readout; by default that of the cells' potential.
    """

    sizes: tuple[int, ...]
    cell: LIF | Rectified
    steps: int
    coding: str
    readout: str = "mean"
    mode: str = "exact"
    recurrent: bool = False
    readout_decay: float | None = None

    def __call__(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run the network on examples ``x`` of shape ``(n, ...)``.

        Steps of a recording beyond its length, of ``lengths``, ``(n,)``, do not take place.

        Returns
        -------
        logits : jax.Array
            ``(n, classes)``.
        spikes : list of jax.Array
            Those of each hidden layer, ``(steps, n, neurons)``.
        potentials : jax.Array
            Those of the readout, ``(steps, n, classes)``.
        """
        inputs, weights = self._coded(x, params, key)
        mask = mask_of(lengths, len(inputs))
        network = self._layers(params, weights)
        states, (*spikes, potentials) = network(
            inputs, mask=mask, mode=self.mode, all_layers=True, key=self.spike_key(key)
        )
        return self.logits(states[-1][0], potentials, mask), spikes, potentials

    def taken_apart(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None
    ) -> tuple[Network, jax.Array, jax.Array | None]:
        """The layers, what they are given over time, and which steps take place; every weight is a matrix."""
        weights = [layer["weight"] for layer in params]
        constant = self.coding == "current"
        inputs = constant_coding(x.reshape(len(x), -1), self.steps) if constant else self._coded(x, params, key)[0]
        return self._layers(params, weights), inputs, mask_of(lengths, len(inputs))

    def check(self, shape: tuple[int, ...]) -> None:
        """Trace the network, without computing it, for an image of this shape or a recording of such channels.

        Raises
        ------
        ValueError, TypeError
            If the network cannot run, such as for a surrogate with more levels than float32 can count.
        """
        time = (self.steps,) if self.coding == NO_CODING else ()
        array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.result_type(float))
        params = [{name: array(own) for name, own in layer.items()} for layer in shapes(self.sizes, self.recurrent)]
        jax.eval_shape(self, params, array((1, *time, *shape)), jax.random.key(0))

    def spike_key(self, key: jax.Array) -> jax.Array | None:
        """The key for stochastic spikes, independent of the key of the input coding. None for other spikes."""
        if not is_stochastic(self.cell):
            return None
        return jax.random.key(jax.random.bits(jax.random.fold_in(key, 1)), impl=KEYS)

    @property
    def cells(self) -> list[Cell]:
        """The cell of each layer, the readout last."""
        readout = LeakyReadout(self.cell.decay if self.readout_decay is None else self.readout_decay)
        return [*[self.cell] * (len(self.sizes) - 2), readout]

    def _layers(self, params: Params, weights: list) -> Network:
        return Network(
            [
                Layer(weight, cell, layer.get("recurrent"), layer["bias"])
                for weight, cell, layer in zip(weights, self.cells, params, strict=True)
            ]
        )

    def logits(self, last: jax.Array, potentials: jax.Array, mask: jax.Array | None) -> jax.Array:
        """The logits, of the readout's last potentials and of those over time."""
        if self.readout == "last":
            return last  # it is that of the states, which masked steps leave as they are
        if mask is None:
            return potentials.mean(0) if self.readout == "mean" else potentials.max(0)
        if self.readout == "mean":
            return potentials.sum(0) / mask.sum(0, dtype=potentials.dtype)[:, None]
        return jnp.where(mask[:, :, None], potentials, -jnp.inf).max(0)

    def _coded(self, x, params, key):
        """The inputs over time, and the weights of each layer."""
        weights = [layer["weight"] for layer in params]
        if self.coding == NO_CODING:
            return _time_first(x), weights
        x = x.reshape(len(x), -1)
        if self.coding == "current":  # the same at every step: one product, and inputs that are not looked at
            constant = jax.tree_util.Partial(lambda current, _: current, x @ weights[0])
            return jnp.zeros((self.steps, len(x)), bool), [constant, *weights[1:]]
        if self.coding == "rate":
            return rate_coding(x, self.steps, key), weights
        return latency_coding(x, self.steps), weights


class Rectified(Cell, pure=True):
    """A leaky unit that does not spike: it puts out its potential where that is above 0, and is not reset.

    Its gain is 1, whatever the decay, so that recurrent units with long memory are stable.
    """

    decay: Any = parameter(default=0.9, at_least=0, at_most=1)

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        return self.decay * v + (1 - self.decay) * current

    def fire(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return u, jnp.maximum(u, 0)


class RectifiedNetwork(SpikingNetwork):
    """The same layers over time, of :class:`Rectified` units."""

    def __call__(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        logits, outputs, potentials = super().__call__(params, x, key, lengths)
        return logits, [(out > 0).astype(out.dtype) for out in outputs], potentials


def without_spikes(network: SpikingNetwork) -> Model:
    """The network to compare a spiking one with: as many weights, and of recordings the same leaks."""
    if network.coding != NO_CODING:
        return ReluNetwork(network.sizes)
    fields: dict[str, Any] = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    fields["cell"] = Rectified(network.cell.decay)
    return RectifiedNetwork(**fields)


@dataclasses.dataclass(frozen=True)
class ReluNetwork:
    """The same layers with rectified linear units in place of spiking neurons, and without time."""

    sizes: tuple[int, ...]
    steps: int = dataclasses.field(default=1, init=False)
    recurrent: bool = dataclasses.field(default=False, init=False)

    def __call__(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run the network on examples ``x`` of shape ``(n, ...)``; ``key`` and ``lengths`` are not used.

        Returns
        -------
        logits : jax.Array
            ``(n, classes)``.
        active : list of jax.Array
            Which units of each hidden layer are above 0, ``(1, n, units)``.
        readout : jax.Array
            The logits as one step, ``(1, n, classes)``.
        """
        del key, lengths
        active = []
        y = _dense(params[0], x.reshape(len(x), -1))
        for layer in params[1:]:
            active.append((y > 0).astype(y.dtype)[None])
            y = _dense(layer, jax.nn.relu(y))
        return y, active, y[None]
