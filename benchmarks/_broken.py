"""Networks that are broken on purpose, their healthy twins, and small tasks for them to learn.

Timing: the classes are random curves of spike times (``spikegrad.data.randman``), and the largest potential answers.
Memory: the first steps show the class, then nothing comes, and the last steps of the readout answer. Currents: each
class is a pattern of constant inputs, and the mean potential answers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Cell,
    Layer,
    LeakyReadout,
    Network,
    PiecewiseQuadratic,
    Sigmoid,
    SoftSign,
    SynapticLIF,
    parameter,
)
from spikegrad._struct import lifted  # so that other numbers do not compile again
from spikegrad.data import randman
from spikegrad.neurons import Refractory
from spikegrad.training import combine, partition

STEPS, CUE, UNITS, CLASSES, HIDDEN, EXAMPLES, UPDATES = 40, 5, 20, 4, 48, 200, 60
LEARNING_RATE = 1e-2


# --- tasks ------------------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """Inputs ``(steps, examples, units)`` and labels of the training set and of the test set."""

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    scores: Callable[[jax.Array], jax.Array]
    """The scores of the classes, from the outputs over time."""
    scale: float = 1.0
    """A factor of the loss."""

    def first(self, count: int) -> Task:
        """The task with fewer training examples, drawn at random."""
        chosen = np.random.default_rng(0).permutation(len(self.labels))[:count]
        return self._replace(inputs=self.inputs[:, chosen], labels=self.labels[chosen])

    @property
    def loss(self) -> jax.tree_util.Partial:
        """A function of the outputs."""
        return jax.tree_util.Partial(_LOSSES[self.scores], jnp.asarray(self.labels), jnp.asarray(self.scale))


def _largest(out):
    return out.max(0)


def _last(out):
    return out[-CUE:].mean(0)


def _mean(out):
    return out.mean(0)


def _cross_entropy(scores):
    def loss(labels, scale, out):
        of_examples = optax.softmax_cross_entropy_with_integer_labels(scores(out).astype(jnp.float32), labels)
        return scale * of_examples.mean()

    return loss


_LOSSES = {scores: _cross_entropy(scores) for scores in (_largest, _last, _mean)}


@functools.cache
def timing(seed: int = 0) -> Task:
    source = randman(CLASSES, UNITS, 2 * EXAMPLES // CLASSES, steps=STEPS, fraction=1.0, seed=seed)
    x = np.stack([source.sequence(i) for i in range(len(source))], 1).astype(np.float32)
    return Task(x[:, ::2], source.y[::2], x[:, 1::2], source.y[1::2], _largest)


@functools.cache
def memory(seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    y = np.arange(2 * EXAMPLES) % CLASSES
    rates = np.where(np.arange(UNITS) % CLASSES == y[:, None], 0.5, 0.15)
    x = np.zeros((STEPS, len(y), UNITS), np.float32)
    x[:CUE] = rng.random((CUE, *rates.shape)) < rates
    return Task(x[:, :EXAMPLES], y[:EXAMPLES], x[:, EXAMPLES:], y[EXAMPLES:], _last)


@functools.cache
def currents(seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    y = np.arange(2 * EXAMPLES) % CLASSES
    patterns = rng.random((CLASSES, UNITS))
    values = 0.2 * (patterns[y] + rng.normal(0, 0.35, (len(y), UNITS)))
    x = np.broadcast_to(values.astype(np.float32), (STEPS, *values.shape))
    return Task(x[:, :EXAMPLES], y[:EXAMPLES], x[:, EXAMPLES:], y[EXAMPLES:], _mean)


# --- networks ---------------------------------------------------------------------------------------------------------


class TwoCompartments(Cell):
    """A dendrite takes the current and drives a soma, which fires. The dendrite comes first in the state."""

    dendrite: float = parameter(default=0.7, at_least=0)
    soma: float = parameter(default=0.8, at_least=0)
    surrogate: Callable = parameter(default=Sigmoid(4.0), kind=Callable)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def integrate(self, v, current):
        dendrite = self.dendrite * v[0] + current
        return dendrite, self.soma * v[1] + 0.5 * dendrite

    def fire(self, u):
        s = self.surrogate(u[1] - 1)
        return (u[0], u[1] - s), s


SYNAPTIC = SynapticLIF(0.9, synaptic_decay=0.6)


def feedforward(decay: float = 0.9, seed: int = 0, cell: Any = None, dtype: Any = jnp.float32) -> Network:
    """Two layers of neurons, LIF by default, and a readout."""
    keys = jax.random.split(jax.random.key(seed), 3)
    cell = LIF(decay, surrogate=Sigmoid(4.0)) if cell is None else cell
    return Network(
        [
            Layer(_normal(keys[0], 3.0, UNITS, HIDDEN).astype(dtype), cell),
            Layer(_normal(keys[1], 1.5, HIDDEN, HIDDEN).astype(dtype), cell),
            Layer(_normal(keys[2], 1.0, HIDDEN, CLASSES).astype(dtype), LeakyReadout(decay)),
        ]
    )


def recurrent(decay: float = 0.9, seed: int = 0, cell: Any = None) -> Network:
    """A recurrent layer of neurons, AdaptiveLIF by default, and a readout."""
    keys = jax.random.split(jax.random.key(seed), 3)
    cell = AdaptiveLIF(decay, surrogate=Sigmoid(4.0)) if cell is None else cell
    return Network(
        [
            Layer(_normal(keys[0], 3.0, UNITS, HIDDEN), cell, _normal(keys[1], 0.5, HIDDEN, HIDDEN)),
            Layer(_normal(keys[2], 1.0, HIDDEN, CLASSES), LeakyReadout(decay)),
        ]
    )


def _convolved(kernel, x):
    """A convolution over the units of one step, flattened."""
    out = jax.lax.conv_general_dilated(x[:, None, :], kernel, (1,), "SAME", dimension_numbers=("NCH", "OIH", "NCH"))
    return out.reshape(len(x), -1)


def convolutional(seed: int = 0) -> Network:
    """A convolution with four filters, whose weight is a function, and a readout."""
    keys = jax.random.split(jax.random.key(seed), 2)
    kernel = 1.5 * jax.random.normal(keys[0], (4, 1, 5))
    out = _normal(keys[1], 1.0, 4 * UNITS, CLASSES)
    cell = LIF(0.9, surrogate=Sigmoid(4.0))
    return Network([Layer(jax.tree_util.Partial(_convolved, kernel), cell), Layer(out, LeakyReadout(0.9))])


def _normal(key, gain, n, m):
    return gain / np.sqrt(n) * jax.random.normal(key, (n, m))


NETWORKS: dict[str, tuple[Callable[..., Network], Callable[[int], Task]]] = {
    "feedforward": (feedforward, timing),
    "recurrent": (recurrent, timing),
    "bfloat16": (lambda seed: feedforward(seed=seed, dtype=jnp.bfloat16), timing),
    "synaptic": (
        lambda seed: scaled(0, 0.4)(feedforward(seed=seed, cell=SYNAPTIC)),
        timing,
    ),
    "refractory": (lambda seed: feedforward(seed=seed, cell=Refractory(LIF(0.9, surrogate=Arctan(2.0)), 2)), timing),
    "delayed": (lambda seed: feedforward(seed=seed, cell=LIF(0.9, delay_reset=True, reset="value")), timing),
    "compartments": (lambda seed: feedforward(seed=seed, cell=TwoCompartments()), timing),
    "convolutional": (convolutional, timing),
    "memory": (lambda seed: feedforward(0.97, seed=seed), memory),
    "adaptive memory": (lambda seed: recurrent(0.97, seed=seed), memory),
    "currents": (lambda seed: feedforward(seed=seed, cell=LIF(0.9, reset="value")), currents),
}
"""Healthy networks, each with the task that it learns."""


# --- faults -----------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A network and how it is trained."""

    network: Network
    task: Task
    learning_rate: float = LEARNING_RATE


Change = Callable[[Case], Case]


def _on_layer(index: int, change: Callable[[Layer], Layer]) -> Callable[[Network], Network]:
    def changed(network):
        name = [*network.layers][index]
        return dataclasses.replace(network, layers=network.layers | {name: change(network.layers[name])})

    return changed


def with_cell(index: int, **changed: Any) -> Callable[[Network], Network]:
    """Other parameters of the neurons in one layer."""

    def change(cell):
        if isinstance(cell, Refractory):
            return dataclasses.replace(cell, cell=change(cell.cell))
        return dataclasses.replace(cell, **changed)

    return _on_layer(index, lambda layer: dataclasses.replace(layer, cell=change(layer.cell)))


def scaled(index: int, factor: float) -> Callable[[Network], Network]:
    """The weights of one layer times a factor, those of a function too."""
    return _on_layer(
        index,
        lambda layer: dataclasses.replace(
            layer, weight=jax.tree.map(lambda w: (factor * w).astype(w.dtype), layer.weight)
        ),
    )


def recurrence(index: int, change: Callable[[Any], Any]) -> Callable[[Network], Network]:
    return _on_layer(index, lambda layer: dataclasses.replace(layer, recurrent=change(layer.recurrent)))


def shifted(index: int, by: float) -> Callable[[Network], Network]:
    """A number added to each weight: inhibition or excitation that dominates."""
    return _on_layer(index, lambda layer: dataclasses.replace(layer, weight=layer.weight + by))


def biased(index: int, bias: float) -> Callable[[Network], Network]:
    return _on_layer(index, lambda layer: dataclasses.replace(layer, bias=jnp.full(HIDDEN, bias)))


def with_inputs(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Other inputs, in training and test."""

    def changed(case):
        task = case.task
        return case._replace(task=task._replace(inputs=change(task.inputs), test_inputs=change(task.test_inputs)))

    return changed


def _channel(x):
    return x * np.where(np.arange(UNITS) == 7, np.float32(3000), np.float32(1))


def at_rate(factor: float) -> Change:
    return lambda case: case._replace(learning_rate=factor * LEARNING_RATE)


def with_loss(scale: float) -> Change:
    return lambda case: case._replace(task=case.task._replace(scale=scale))


class Fault(NamedTuple):
    """A mistake in a healthy network."""

    of: str
    name: str
    layers: tuple[str | None, ...]
    """The layers that may be named. None for the optimizer and the loss."""
    network: Callable[[Network], Network] = lambda network: network
    case: Change = lambda case: case


FAULTS = (
    Fault("feedforward", "threshold x 20", ("1",), with_cell(1, threshold=20.0)),
    Fault("feedforward", "weights x 100", ("1",), scaled(1, 100.0)),
    Fault("feedforward", "compact slope far away", ("1",), with_cell(1, surrogate=PiecewiseQuadratic(100.0))),
    Fault("feedforward", "weights x 1e-4", ("0",), scaled(0, 1e-4)),
    Fault("feedforward", "norm_input, decay 0.99", ("1",), with_cell(1, decay=0.99, norm_input=True)),
    Fault("feedforward", "threshold -1", ("1",), with_cell(1, threshold=-1.0)),
    Fault("feedforward", "channel x 3000", ("0",), case=with_inputs(_channel)),
    Fault("feedforward", "inhibition", ("0",), shifted(0, -1.5)),
    Fault("feedforward", "excitation", ("1",), shifted(1, 1.0)),
    Fault("feedforward", "inhibition of half the size", ("1",), shifted(1, -0.3)),
    Fault("feedforward", "weights x 0.05", ("1",), scaled(1, 0.05)),
    Fault("feedforward", "bias -20", ("1",), biased(1, -20.0)),
    Fault("feedforward", "bias +20", ("0",), biased(0, 20.0)),
    Fault("feedforward", "inputs x 1e-3", ("0",), case=with_inputs(lambda x: 1e-3 * x)),
    Fault("feedforward", "inputs zero", ("0",), case=with_inputs(lambda x: 0 * x)),
    Fault("feedforward", "learning rate x 1000", (None,), case=at_rate(1000)),
    Fault("feedforward", "learning rate x 1e-6", (None,), case=at_rate(1e-6)),
    Fault("feedforward", "loss not a number", (None,), case=with_loss(np.nan)),
    Fault("recurrent", "threshold x 20", ("0",), with_cell(0, threshold=20.0)),
    Fault("recurrent", "asymptotic slope, beta 100", ("0",), with_cell(0, surrogate=SoftSign(200.0))),
    Fault("recurrent", "recurrent weights x 30", ("0",), recurrence(0, lambda r: 30 * r)),
    Fault("recurrent", "recurrent inhibition", ("0",), recurrence(0, lambda r: -20 * abs(r))),
    Fault("recurrent", "recurrent excitation", ("0",), recurrence(0, lambda r: 5 * abs(r))),
    Fault("recurrent", "adaptation 30", ("0",), with_cell(0, adaptation=30.0)),
    Fault("recurrent", "adaptation -0.5", ("0",), with_cell(0, adaptation=-0.5)),
    Fault("recurrent", "threshold -1", ("0",), with_cell(0, threshold=-1.0)),
    Fault("bfloat16", "weights x 1e-3", ("0",), scaled(0, 1e-3)),
    Fault("bfloat16", "weights x 100", ("1",), scaled(1, 100.0)),
    Fault("synaptic", "weights x 1e-3", ("1",), scaled(1, 1e-3)),
    Fault("refractory", "threshold x 30", ("0",), with_cell(0, threshold=30.0)),
    Fault("refractory", "compact slope far away", ("1",), with_cell(1, surrogate=PiecewiseQuadratic(200.0))),
    Fault("delayed", "weights x 300", ("0",), scaled(0, 300.0)),
    Fault("delayed", "weights x 1e-3", ("1",), scaled(1, 1e-3)),
    Fault("compartments", "weights x 1e-3", ("0",), scaled(0, 1e-3)),
    Fault("compartments", "weights x 300", ("1",), scaled(1, 300.0)),
    Fault("compartments", "slope nowhere", ("1",), with_cell(1, surrogate=PiecewiseQuadratic(1000.0))),
    Fault("convolutional", "kernel x 1e-3", ("0",), scaled(0, 1e-3)),
    Fault("convolutional", "kernel x 300", ("0",), scaled(0, 300.0)),
    Fault("memory", "decay 0.5", ("0", "1", "2"), lambda network: feedforward(0.5)),
    Fault(
        "adaptive memory", "decay 0.5", ("0", "1"), lambda network: with_cell(0, adaptation_decay=0.5)(recurrent(0.5))
    ),
    Fault("currents", "inputs x 1e-3", ("0",), case=with_inputs(lambda x: 1e-3 * x)),
    Fault("currents", "weights x 1000", ("1",), scaled(1, 1000.0)),
    Fault("currents", "bias -20", ("0",), biased(0, -20.0)),
)


def _all_layers(**changed: Any) -> Callable[[Network], Network]:
    return lambda network: with_cell(1, **changed)(with_cell(0, **changed)(network))


VARIANTS: dict[str, tuple[str, Callable[[Network], Network]]] = {
    "small readout": ("feedforward", scaled(2, 1e-3)),
    "zero readout": ("feedforward", scaled(2, 0.0)),
    "zero readout, recurrent": ("recurrent", scaled(1, 0.0)),
    "sparse": ("feedforward", _all_layers(threshold=1.8)),
    "few spikes": ("recurrent", with_cell(0, threshold=2.5)),
    "wide slope": ("feedforward", _all_layers(surrogate=Sigmoid(1.0))),
    "adaptation 0.6": ("recurrent", with_cell(0, adaptation=0.6)),
    "small recurrence": ("recurrent", recurrence(0, lambda r: 0.1 * r)),
    "detached reset": ("feedforward", _all_layers(detach_reset=True)),
}
"""More healthy networks: unusual, but they learn."""


def healthy(name: str, seed: int = 0) -> Case:
    """A healthy network, one of NETWORKS or of VARIANTS."""
    of, change = VARIANTS.get(name, (name, lambda network: network))
    make, task = NETWORKS[of]
    return Case(change(make(seed=seed)), task(seed))


def broken(fault: Fault, seed: int = 0) -> Case:
    """A healthy network with a fault."""
    case = healthy(fault.of, seed)
    return fault.case(case._replace(network=fault.network(case.network)))


# --- learning ---------------------------------------------------------------------------------------------------------


def accuracy(case: Case, updates: int = UPDATES) -> float:
    """Accuracy on the test set after this number of updates of Adam with all training examples."""
    task, (trained, rest) = case.task, partition(lifted(case.network))
    leaves, structure = jax.tree.flatten(rest)
    numbers = [leaf if isinstance(leaf, (int, float)) else None for leaf in leaves]
    others = tuple(None if isinstance(leaf, (int, float)) else leaf for leaf in leaves)
    given = (*map(jnp.asarray, task[:4]), case.learning_rate)
    return float(_trained(structure, others, task.scores, updates, trained, numbers, task.loss, *given))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _trained(structure, others, scores, updates, trained, numbers, loss, x, y, test_x, test_y, learning_rate):
    rest = structure.unflatten([n if o is None else o for n, o in zip(numbers, others, strict=True)])
    optimizer = optax.adam(learning_rate)

    def run(trained, x):
        return combine(trained, rest)(x)[1]

    def update(state, _):
        trained, moments = state
        gradients = jax.grad(lambda trained: loss(run(trained, x)))(trained)
        changes, moments = optimizer.update(gradients, moments, trained)
        return (optax.apply_updates(trained, changes), moments), None

    (trained, _), _ = jax.lax.scan(update, (trained, optimizer.init(trained)), None, updates)
    return (scores(run(trained, test_x)).argmax(-1) == test_y).mean()
