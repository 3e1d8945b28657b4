"""The networks of the command: leaky integrate-and-fire layers, and their non-spiking counterpart."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from .._struct import parameter
from ..data import constant_encoding, latency_encoding, rate_encoding, scale
from ..network import Layer, Network
from ..network._step import KEYS, is_stochastic
from ..neurons import LIF, AdaptiveLIF, Cell, LeakyReadout, SynapticLIF
from ..training import partition

Params: TypeAlias = tuple[Layer, ...]
"""The trainable part of the layers, from :func:`spikegrad.training.partition`. The readout is last."""

ENCODINGS = ("current", "rate", "latency")
NO_ENCODING = "none"
"""The encoding of recordings, because they have a time axis."""
READOUTS = ("mean", "max", "last")
CELLS: dict[str, tuple[type[LIF], tuple[str, ...]]] = {
    "lif": (LIF, ("decay",)),
    "synaptic": (SynapticLIF, ("decay", "synaptic_decay")),
    "adaptive": (AdaptiveLIF, ("decay", "adaptation_decay")),
}
"""Cells by name, with their decay factors."""


def mask_of(lengths: jax.Array | None, steps: int) -> jax.Array | None:
    """Return the mask of valid time steps for recordings of these lengths, ``(steps, n)``. None if all are valid."""
    return None if lengths is None else jnp.arange(steps)[:, None] < lengths[None]


def _time_first(x: jax.Array) -> jax.Array:
    """Convert recordings ``(n, steps, ...)`` to inputs ``(steps, n, inputs)``."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], -1), 1, 0)


@dataclasses.dataclass(frozen=True)
class SpikingNetwork:
    """Fully connected layers of leaky integrate-and-fire neurons and a leaky readout, from examples to logits.

    Parameters
    ----------
    sizes : tuple of int
        Numbers of inputs, of neurons in each hidden layer, and of classes.
    cell : LIF or Rectified
        The neurons of all hidden layers.
    steps : int
        Number of time steps.
    encoding : {"current", "rate", "latency", "none"}
        Encoding of a value ``x`` from 0 to 1 over time. ``"current"``: the constant ``x`` at every time step.
        ``"rate"``: a spike at each time step with probability ``x``. ``"latency"``: one spike, at the first step for 1,
        at the last for values just above 0, and no spike for 0. ``"rate"`` and ``"latency"`` clip values to 0 and 1.
        ``"none"``: examples are recordings, ``(steps, ...)`` each, without encoding.
    readout : {"mean", "max", "last"}
        Logits from the potentials of the readout: the mean or the maximum over valid time steps, or the last one.
    mode : str
        Memory mode of the backward pass, as in :class:`spikegrad.Network`.
    recurrent : bool
        If True, hidden layers have recurrent connections.
    readout_decay : float, optional
        Decay factor of the readout. By default the decay factor of the cells' potential.
    low, high : float
        For images: the values that are scaled to 0 and 1.
    """

    sizes: tuple[int, ...]
    cell: LIF | Rectified
    steps: int
    encoding: str
    readout: str = "mean"
    mode: str = "exact"
    recurrent: bool = False
    readout_decay: float | None = None
    low: float = 0.0
    high: float = 1.0

    def __call__(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run the layers on examples ``x`` of shape ``(n, ...)``, as :meth:`prepare` returns them.

        Time steps of a recording after its length in ``lengths``, ``(n,)``, are masked.

        Returns
        -------
        logits : jax.Array
            ``(n, classes)``.
        spikes : list of jax.Array
            Spikes of each hidden layer, ``(steps, n, neurons)``.
        potentials : jax.Array
            Potentials of the readout, ``(steps, n, classes)``.
        """
        layers, inputs = self._encoded(params, x, key)
        mask = mask_of(lengths, len(inputs))
        states, (*spikes, potentials) = Network(layers)(
            inputs, mask=mask, mode=self.mode, all_layers=True, key=spike_key(params, key)
        )
        return self.logits(states[-1][0], potentials, mask), spikes, potentials

    def prepare(self, x: jax.Array) -> jax.Array:
        """Prepare examples of :class:`spikegrad.data.Sequences`, ``(n, steps, ...)``, on the device.

        Images lose their single time step and are scaled. Recordings are scaled already.
        """
        return x if self.encoding == NO_ENCODING else scale(x[:, 0], self.low, self.high)

    def taken_apart(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None
    ) -> tuple[Network, jax.Array, jax.Array | None]:
        """Return the layers with matrices as weights, their inputs over time, and the mask of valid time steps."""
        if self.encoding == "current":
            layers, inputs = params, constant_encoding(x.reshape(len(x), -1), self.steps)
        else:
            layers, inputs = self._encoded(params, x, key)
        return Network(layers), inputs, mask_of(lengths, len(inputs))

    def init(self, key: jax.Array, gain: float = 1.0) -> Params:
        """Draw weights from a normal distribution. Biases are 0.

        The standard deviation is ``gain * sqrt(2 / inputs)``, or ``0.5 / sqrt(neurons)`` for recurrent weights. Each
        layer uses one key, unlike :meth:`spikegrad.Layer.init`, which would split it into three.
        """
        layers, depth = [], len(self.cells)
        for i, (own, n, m) in enumerate(zip(jax.random.split(key, depth), self.sizes, self.sizes[1:], strict=False)):
            weight = gain * math.sqrt(2 / n) * jax.random.normal(own, (n, m))
            recurrent = None
            if self.recurrent and i < depth - 1:
                recurrent = 0.5 / math.sqrt(m) * jax.random.normal(jax.random.fold_in(own, 0), (m, m))
            layers.append(Layer(weight, self.cells[i], recurrent, jnp.zeros(m)))
        return partition(tuple(layers))[0]

    def init_driven(self, x: jax.Array, lengths: jax.Array | None, key: jax.Array) -> Params:
        """Draw weights for potentials that fluctuate by a threshold on these recordings. Biases are 0.

        Weights that ignore the inputs would leave the network silent on sparse events. Recordings without events give
        NaN.
        """
        inputs, (*hidden, readout) = _time_first(x), self.cells
        mask = mask_of(lengths, len(inputs))
        drawn = Network.init(
            key, inputs, self.sizes[1:], hidden[0], readout, mask=mask, recurrent=self.recurrent, bias=True
        )
        return partition(drawn.layers)[0]

    @property
    def shapes(self) -> Params:
        """Shapes and dtypes of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.shapes))

    def check(self, shape: tuple[int, ...]) -> None:
        """Trace the network, without computing it, for an image of this shape or a recording of such channels.

        Raises
        ------
        ValueError, TypeError
            If the network cannot run, for example if a surrogate has more levels than float32 can count.
        """
        time = (self.steps,) if self.encoding == NO_ENCODING else ()
        x = jax.ShapeDtypeStruct((1, *time, *shape), jnp.result_type(float))
        jax.eval_shape(self, self.shapes, x, jax.random.key(0))

    @property
    def cells(self) -> list[Cell]:
        """The cell of each layer, the readout last."""
        readout = LeakyReadout(self.cell.decay if self.readout_decay is None else self.readout_decay)
        return [*[self.cell] * (len(self.sizes) - 2), readout]

    def logits(self, last: jax.Array, potentials: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Return logits from the last potentials of the readout and from its potentials over time."""
        if self.readout == "last":
            return last  # from the states, which masked steps do not change
        if mask is None:
            return potentials.mean(0) if self.readout == "mean" else potentials.max(0)
        if self.readout == "mean":
            return potentials.sum(0) / mask.sum(0, dtype=potentials.dtype)[:, None]
        return jnp.where(mask[:, :, None], potentials, -jnp.inf).max(0)

    def _encoded(self, params: Params, x: jax.Array, key: jax.Array) -> tuple[Params, jax.Array]:
        """Return the layers and their inputs over time."""
        if self.encoding == NO_ENCODING:
            return params, _time_first(x)
        x = x.reshape(len(x), -1)
        if self.encoding == "current":  # constant over time: one product, and the inputs of the loop are not used
            first, *rest = params
            constant = jax.tree_util.Partial(lambda current, _: current, x @ jnp.asarray(first.weight))
            return (dataclasses.replace(first, weight=constant), *rest), jnp.zeros((self.steps, len(x)), bool)
        return params, rate_encoding(x, self.steps, key) if self.encoding == "rate" else latency_encoding(x, self.steps)


def spike_key(params: Params, key: jax.Array) -> jax.Array | None:
    """Return the key for stochastic spikes, independent of the key of the input encoding, or None for other spikes."""
    if not any(is_stochastic(layer.cell) for layer in params):
        return None
    return jax.random.key(jax.random.bits(jax.random.fold_in(key, 1)), impl=KEYS)


def with_surrogate(params: Params, surrogate: Any) -> Params:
    """Replace the surrogate of each hidden layer."""
    *hidden, readout = params
    cell = dataclasses.replace(hidden[0].cell, surrogate=surrogate)
    return (*(dataclasses.replace(layer, cell=cell) for layer in hidden), readout)


class Rectified(Cell, pure=True):
    """A leaky unit without spikes and resets. Its output is the positive part of its potential.

    Its gain is 1 for any decay factor, so recurrent units with long memory are stable.
    """

    decay: Any = parameter(default=0.9, at_least=0, at_most=1)

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        return self.decay * v + (1 - self.decay) * current

    def fire(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return u, jnp.maximum(u, 0)


class RectifiedNetwork(SpikingNetwork):
    """Layers of :class:`Rectified` units over time."""

    def __call__(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        logits, outputs, potentials = super().__call__(params, x, key, lengths)
        return logits, [(out > 0).astype(out.dtype) for out in outputs], potentials


def without_spikes(network: SpikingNetwork) -> SpikingNetwork:
    """Return a non-spiking network with an equal number of weights, and with equal leaks for recordings."""
    fields: dict[str, Any] = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    fields["cell"] = Rectified(network.cell.decay)
    if network.encoding == NO_ENCODING:
        return RectifiedNetwork(**fields)
    return ReluNetwork(**fields | {"steps": 1, "recurrent": False})


class ReluNetwork(SpikingNetwork):
    """Layers of rectified linear units instead of spiking neurons, without time."""

    def __call__(
        self, params: Params, x: jax.Array, key: jax.Array, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run the network on images ``x`` of shape ``(n, ...)``. It does not use ``key`` and ``lengths``.

        Returns
        -------
        logits : jax.Array
            ``(n, classes)``.
        active : list of jax.Array
            Units above 0 in each hidden layer, ``(1, n, units)``.
        readout : jax.Array
            The logits as one step, ``(1, n, classes)``.
        """
        del key, lengths
        active = []
        y = params[0].drive(x.reshape(len(x), -1))
        for layer in params[1:]:
            active.append((y > 0).astype(y.dtype)[None])
            y = layer.drive(jax.nn.relu(y))
        return y, active, y[None]
