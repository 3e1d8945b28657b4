"""Networks that are broken on purpose, each in one way, with a healthy twin, and two small tasks for them to learn.

Timing: the classes are random curves of spike times (``spikegrad.data.randman``), and the largest potential answers.
Memory: the first steps say the class, then nothing comes, and the last steps of the readout answer.
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

from spikegrad import LIF, AdaptiveLIF, Layer, LeakyReadout, Network, PiecewiseQuadratic, Sigmoid, SoftSign
from spikegrad.data import randman

STEPS, CUE, UNITS, CLASSES, HIDDEN, EXAMPLES, UPDATES = 40, 5, 20, 4, 48, 200, 60
LEARNING_RATE = 1e-2


class Task(NamedTuple):
    """Inputs ``(steps, examples, units)`` and labels, to train on and to test with; scores of the outputs."""

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    scores: Callable[[jax.Array], jax.Array]

    @property
    def loss(self) -> jax.tree_util.Partial:
        """A function of the outputs."""
        return jax.tree_util.Partial(_LOSSES[self.scores], jnp.asarray(self.labels))


def _largest(out):
    return out.max(0)


def _last(out):
    return out[-CUE:].mean(0)


def _cross_entropy(scores):
    return lambda labels, out: optax.softmax_cross_entropy_with_integer_labels(scores(out), labels).mean()


_LOSSES = {scores: _cross_entropy(scores) for scores in (_largest, _last)}


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


# --- networks ---------------------------------------------------------------------------------------------------------


def feedforward(decay: float = 0.9, seed: int = 0) -> Network:
    """Two layers of LIF neurons and a readout."""
    keys = jax.random.split(jax.random.key(seed), 3)
    cell = LIF(decay, surrogate=Sigmoid(4.0))
    return Network(
        [
            Layer(_normal(keys[0], 3.0, UNITS, HIDDEN), cell),
            Layer(_normal(keys[1], 1.5, HIDDEN, HIDDEN), cell),
            Layer(_normal(keys[2], 1.0, HIDDEN, CLASSES), LeakyReadout(decay)),
        ]
    )


def recurrent(decay: float = 0.9, seed: int = 0) -> Network:
    """A recurrent layer of AdaptiveLIF neurons and a readout."""
    keys = jax.random.split(jax.random.key(seed), 3)
    cell = AdaptiveLIF(decay, surrogate=Sigmoid(4.0))
    return Network(
        [
            Layer(_normal(keys[0], 3.0, UNITS, HIDDEN), cell, _normal(keys[1], 0.5, HIDDEN, HIDDEN)),
            Layer(_normal(keys[2], 1.0, HIDDEN, CLASSES), LeakyReadout(decay)),
        ]
    )


def _normal(key, gain, n, m):
    return gain / np.sqrt(n) * jax.random.normal(key, (n, m))


def with_cell(network: Network, index: int, **changed: Any) -> Network:
    """The network with other neurons in one of its layers."""
    layers = list(network.layers)
    layers[index] = dataclasses.replace(layers[index], cell=dataclasses.replace(layers[index].cell, **changed))
    return Network(layers)


def with_weights(network: Network, index: int, factor: float) -> Network:
    """The network with the weights of one layer, recurrent ones too, times a factor."""
    layers, layer = list(network.layers), network.layers[index]
    feedback = None if layer.recurrent is None else factor * layer.recurrent
    layers[index] = dataclasses.replace(layer, weight=factor * layer.weight, recurrent=feedback)
    return Network(layers)


class Case(NamedTuple):
    """A network that is broken, and what has to be found."""

    network: Network
    fault: str
    index: int
    healthy: Network
    task: Task
    learning_rate: float = LEARNING_RATE


ARCHITECTURES: dict[str, tuple[Callable[..., Network], int]] = {
    "feedforward": (feedforward, 1),
    "recurrent": (recurrent, 0),
}
"""Each with the layer that is broken."""
BROKEN = (
    "threshold x 20",
    "weights x 100",
    "compact slope far away",
    "asymptotic slope, beta 100",
    "decay 0.5, long lags",
    "learning rate x 1000",
)


def broken(what: str, architecture: str, seed: int = 0) -> Case:
    """One of the faults in one of the architectures."""
    make, n = ARCHITECTURES[architecture]
    healthy, task = make(seed=seed), timing(seed)
    match BROKEN.index(what):
        case 0:
            return Case(with_cell(healthy, n, threshold=20.0), "silent", n, healthy, task)
        case 1:
            return Case(with_weights(healthy, n, 100.0), "saturated", n, healthy, task)
        case 2:
            return Case(with_cell(healthy, n, surrogate=PiecewiseQuadratic(100.0)), "out of reach", n, healthy, task)
        case 3:
            return Case(with_cell(healthy, n, surrogate=SoftSign(200.0)), "explodes", n, healthy, task)
        case 4:
            healthy, forgetful = make(0.97, seed), make(0.5, seed)
            if architecture == "recurrent":
                forgetful = with_cell(forgetful, n, adaptation_decay=0.5)
            return Case(forgetful, "vanishes", len(healthy.layers) - 1, healthy, memory(seed))
        case _:
            largest = {"feedforward": 2, "recurrent": 0}[architecture]
            return Case(healthy, "overshoots", largest, healthy, task, 1000 * LEARNING_RATE)


# --- learning ---------------------------------------------------------------------------------------------------------


def accuracy(network: Network, task: Task, learning_rate: float = LEARNING_RATE, updates: int = UPDATES) -> float:
    """Accuracy on examples that were not trained on, after so many updates of Adam on all the others."""
    return float(_trained(network, task.loss, task.scores, *map(jnp.asarray, task[:4]), learning_rate, updates))


@functools.partial(jax.jit, static_argnums=(2, 8))
def _trained(network, loss, scores, x, y, test_x, test_y, learning_rate, updates):
    names = "weight", "recurrent"
    weights = [{name: getattr(layer, name) for name in names} for layer in network.layers]
    optimizer = optax.adam(learning_rate)

    def run(weights, x):
        layers = zip(network.layers, weights, strict=True)
        return Network([dataclasses.replace(layer, **own) for layer, own in layers])(x)[1]

    def update(state, _):
        weights, moments = state
        gradients = jax.grad(lambda weights: loss(run(weights, x)))(weights)
        changes, moments = optimizer.update(gradients, moments, weights)
        return (optax.apply_updates(weights, changes), moments), None

    (weights, _), _ = jax.lax.scan(update, (weights, optimizer.init(weights)), None, updates)
    return (scores(run(weights, test_x)).argmax(-1) == test_y).mean()
