"""The networks of the command: a Network with an encoding of examples and logits of a readout."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._pytree import PyTree
from .._struct import Real, parameter
from ..data import (
    Sequences,
    constant_encoding,
    latency_encoding,
    rate_encoding,
    scale,
)
from ..network import Layer, Network
from ..neurons import LIF, AdaptiveLIF, LeakyReadout, Relu, SynapticLIF
from ..training import partition
from .tasks import Task, task_of

Params: TypeAlias = tuple[Layer, ...]
"""The trainable part of the layers, from :func:`spikegrad.training.partition`."""

SAMPLE = 128
"""Number of examples that are measured. More hardly change a mean or a diagnosis."""
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


class Rectified(Relu, pure=True):
    """A rectified unit with a leak. Its output is the positive part of its potential.

    Its gain is 1 for any decay factor, so recurrent units with long memory are stable.
    """

    decay: Real = parameter(default=0.9, at_least=0, at_most=1)

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        # The potential itself is kept, so a negative one still decays instead of starting again
        # from 0.
        return self.decay * v + (1 - self.decay) * current


class Sampled(NamedTuple):
    """A network and some of its examples, as reports take them."""

    network: Network
    """The layers with arrays of NumPy, because each process computes separately."""
    inputs: jax.Array
    """The examples over time."""
    y: np.ndarray
    """Labels, or targets."""
    mask: jax.Array | None
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class SpikingNetwork:
    """Fully connected layers and a leaky readout, from examples to predictions.

    Parameters
    ----------
    sizes : tuple of int
        Numbers of inputs, of neurons in each hidden layer, and of outputs.
    cell : LIF or Rectified
        The neurons of all hidden layers.
    steps : int
        Number of time steps.
    encoding : {"current", "rate", "latency", "none"}
        The function of :mod:`spikegrad.data` that encodes images over time: ``constant_encoding``,
        ``rate_encoding`` or ``latency_encoding``. ``"none"``: examples are recordings.
    readout : {"mean", "max", "last", "each"}
        Logits from the potentials of the readout, as in :func:`spikegrad.losses.reduce_time`.
        ``"each"``: the potentials of each time step are predicted values.
    mode : str
        Memory mode of the backward pass, as in :class:`spikegrad.Network`.
    recurrent : bool
        If True, hidden layers have recurrent connections.
    readout_decay : float
        Decay factor of the readout.
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
    readout_decay: Real = 0.9
    low: float = 0.0
    high: float = 1.0

    def __call__(
        self,
        params: Params,
        x: jax.Array,
        key: jax.Array,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Run the layers on a batch of :class:`spikegrad.data.Sequences`, ``(steps, n, ...)``.

        Returns
        -------
        predictions : jax.Array
            Logits ``(n, classes)``, or values ``(steps, n, outputs)``.
        spikes : list of jax.Array
            Outputs of each hidden layer, ``(steps, n, neurons)``, above 0 for active units.
        potentials : jax.Array
            Potentials of the readout, ``(steps, n, outputs)``.
        """
        if self.encoding == "current":
            # The current is constant, so one product serves all time steps.
            first, *others = params
            current = self.images(x) @ jnp.asarray(first.weight)
            # Bound by Partial, the current is a leaf of the network, as weights are.
            weight = jax.tree_util.Partial(lambda current, _: current, current)
            params = (dataclasses.replace(first, weight=weight), *others)
            # (steps, n): the values are never read, but a network takes its number of steps from
            # its inputs.
            inputs = jnp.zeros((self.steps, len(current)), bool)
        else:
            inputs = self.inputs(x, key)
        _, activity = Network(params).observe(
            inputs,
            parts=("output",),
            mask=mask,
            backward=self.mode,
            # Another key than for the encoding, so both draw independent numbers.
            key=jax.random.fold_in(key, 1),
        )
        # The readout does not spike.
        *spikes, potentials = (layer.output for layer in activity.values())
        predictions = self.task.predictions(potentials, self.readout, mask)
        return predictions, spikes, potentials

    def sampled(self, params: Params, source: Sequences) -> Sampled:
        """Return the network with some examples, from the first to the last."""
        x, y, mask = sample(source).as_batch()
        x, mask = jax.tree.map(jnp.asarray, (x, mask))
        # One key for all reports, so that they describe the same spikes.
        key = jax.random.key(0)
        network = Network(jax.tree.map(np.asarray, params))
        inputs = self.inputs(x, key)
        return Sampled(network, inputs, y, mask, jax.random.fold_in(key, 1))

    def images(self, x: jax.Array) -> jax.Array:
        """Return the scaled features of images, ``(n, features)``."""
        images = x[0]  # (n, ...), because an image is a single step
        values = scale(images, self.low, self.high)
        return values.reshape(len(images), -1)

    def inputs(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """Return examples over time, ``(steps, n, inputs)``."""
        if self.encoding == NO_ENCODING:
            return x.reshape(*x.shape[:2], -1)
        encoders = {
            "current": constant_encoding,
            "rate": partial(rate_encoding, key=key),
            "latency": latency_encoding,
        }
        return encoders[self.encoding](self.images(x), self.steps)

    def init(
        self, key: jax.Array, x: jax.Array | None = None, mask: jax.Array | None = None
    ) -> Params:
        """Draw weights for potentials that fluctuate by a threshold on recordings ``x``.

        Without recordings they are normal, with a variance of 2 / inputs for rectified units.
        Neurons that sum constant inputs over time steps need smaller weights.
        """
        # He et al. 2015 for rectified units. Spiking neurons sum a constant current over steps.
        variance = 2.0 if isinstance(self.cell, Rectified) else 0.5
        if self.encoding == NO_ENCODING:
            variance = 1.0
        normal = partial(
            jax.nn.initializers.variance_scaling, mode="fan_in", distribution="normal"
        )
        inputs: Any = self.sizes[0]
        weight: Any = normal(variance)
        recurrent: Any = normal(0.25)
        if x is not None:  # the weights follow from the recordings
            inputs = self.inputs(x, key)
            weight = None
            recurrent = True
        start = Network.init(
            key,
            inputs,
            self.sizes[1:],
            self.cell,
            LeakyReadout(self.readout_decay),
            mask=mask,
            weight=weight,
            recurrent=self.recurrent and recurrent,
            bias=True,
        )
        # The arrays alone, because an optimizer cannot update the constants of a cell.
        trainable, _ = partition(tuple(start.layers.values()))
        return trainable

    @property
    def task(self) -> Task:
        """The task, which the readout decides."""
        return task_of(self.readout)

    @property
    def name(self) -> str:
        """The name in results and messages."""
        return "ReLU" if isinstance(self.cell, Rectified) else "spiking"

    @property
    def shapes(self) -> Params:
        """Shapes and dtypes of the parameters."""
        # Without drawing them, for the size of a network that may not fit into memory.
        return jax.eval_shape(self.init, jax.random.key(0))

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes))

    def without_spikes(self) -> SpikingNetwork:
        """Return a non-spiking network with an equal number of weights.

        For recordings it has equal leaks, for images a single time step.
        """
        if self.encoding == NO_ENCODING:
            # The comparison keeps the memory over time, and lacks only the spikes.
            return dataclasses.replace(self, cell=Rectified(self.cell.decay))
        # Without a leak, one time step of a rectified unit is a ReLU.
        return dataclasses.replace(
            self,
            cell=Rectified(0.0),
            steps=1,
            encoding="current",
            recurrent=False,
            readout="mean",
        )


def sample(source: Sequences) -> Any:
    """Return up to ``SAMPLE`` examples, evenly from the first to the last."""
    count = len(source)
    # Not the first ones, because examples are often sorted by class.
    places = np.linspace(0, count - 1, min(count, SAMPLE))
    return source.subset(places.astype(int))


def with_surrogate(params: Params, surrogate: PyTree) -> Params:
    """Replace the surrogate of each hidden layer."""
    # All hidden layers have the cell of the first.
    *hidden, readout = params
    cell = dataclasses.replace(hidden[0].cell, surrogate=surrogate)
    replaced = [dataclasses.replace(layer, cell=cell) for layer in hidden]
    return (*replaced, readout)
