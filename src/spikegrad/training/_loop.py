"""Training of the command's networks: a stack of leaky integrate-and-fire layers, and its non-spiking counterpart.

Both are trained by the same loop, :func:`fit`: many batches in one compiled call, short enough that progress is live
and an interrupt is noticed within about a second.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..data import Data, scale
from ..network import Layer, Network
from ..neurons import LIF, LeakyReadout

try:
    import optax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "spikegrad.training needs optax: pip install '.[train]' in a clone of spikegrad", name="optax"
    ) from error

Params: TypeAlias = list[dict[str, jax.Array]]
"""One ``{"weight": (inputs, outputs), "bias": (outputs,)}`` for each layer, the readout last."""

CODINGS = ("current", "rate", "latency")


class Model(Protocol):
    """What :func:`fit` trains."""

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
        x = jnp.clip(x, 0, 1)
        if self.coding == "rate":
            return jax.random.uniform(key, (self.steps, *x.shape)) < x[None], weights
        when = jnp.where(x > 0, jnp.floor((1 - x) * self.steps), -1).astype(int)
        return jnp.arange(self.steps)[:, None, None] == when[None], weights


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


def random_shift(x: jax.Array, pixels: int, key: jax.Array) -> jax.Array:
    """Each image of ``(n, height, width, ...)`` moved by up to ``pixels`` in each direction, zeros moving in."""
    n, height, width, *rest = x.shape
    padded = jnp.pad(x, [(0, 0), (pixels, pixels), (pixels, pixels)] + [(0, 0)] * len(rest))
    offsets = jax.random.randint(key, (n, 2), 0, 2 * pixels + 1)

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (*offset, *[0] * len(rest)), (height, width, *rest))

    return jax.vmap(crop)(padded, offsets)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


class DivergedError(ArithmeticError):
    """The loss is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training stands; means are over the current epoch so far."""

    epoch: int
    batches: int
    total: int
    loss: float
    accuracy: float
    firing_rate: float
    held_out: float | None
    seconds_left: float


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a network makes of examples.

    ``logits`` is ``(n, classes)``. For each hidden layer, ``rates`` has the spikes per neuron and step, and ``silent``
    the share of neurons that never fire; of rectified linear units, the share that is active, and that never is.
    """

    logits: np.ndarray
    rates: list[float]
    silent: list[float]

    @property
    def answers(self) -> np.ndarray:
        """The class of the greatest logit, ``(n,)``."""
        return self.logits.argmax(1)

    def accuracy(self, y: np.ndarray) -> float:
        """Share of the answers that equal the labels."""
        return float((self.answers == y).mean())


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained network: parameters, scores of the held-out examples, and one value per epoch of each curve."""

    params: Params
    scores: Scores
    curves: dict[str, list]
    seconds: float
    interrupted: bool


def make_evaluator(
    network: Model, prepare: Callable[[jax.Array], jax.Array] = lambda x: x
) -> Callable[[Params, np.ndarray], Scores]:
    """A function that runs a network on any number of examples, compiled once for its own size of batch.

    ``prepare`` makes of a batch of examples what the network takes, on the device.
    """

    @jax.jit
    def run(params, x, valid, key):
        logits, spikes, _ = network(params, prepare(x), key)
        return logits, [(s * valid[None, :, None]).sum((0, 1)) / s.shape[0] for s in spikes]

    def score(params: Params, x: np.ndarray) -> Scores:
        size = min(len(x), 512)
        logits, counts = [], []
        for i, start in enumerate(range(0, len(x), size)):
            part = x[start : start + size]
            valid = (np.arange(size) < len(part)).astype(np.float32)
            padded = np.concatenate([part, np.zeros((size - len(part), *x.shape[1:]), x.dtype)])
            out, n = run(params, padded, valid, jax.random.fold_in(jax.random.key(0), i))
            logits.append(np.asarray(out)[: len(part)])
            counts.append([np.asarray(c) for c in n])
        layers = [np.sum(layer, 0) / len(x) for layer in zip(*counts, strict=True)]
        return Scores(
            np.concatenate(logits), [float(r.mean()) for r in layers], [float((r == 0).mean()) for r in layers]
        )

    return score


def fit(
    network: Model,
    params: Params,
    data: Data,
    *,
    epochs: int,
    batch: int,
    lr: float,
    shift: int = 0,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], int] = lambda: False,
) -> Fit:
    """Train by Adam, with a learning rate that falls to 0 along a cosine, on the cross-entropy of the logits.

    The held-out examples are scored after each epoch, to be drawn; nothing is chosen by them.

    Parameters
    ----------
    network : Network
        What to train.
    params : list of dict
        Its parameters at the start.
    data : Data
        Examples, at least ``batch`` of them.
    epochs, batch : int
        Passes over the training data, and examples per update. What is left of an epoch after its last full batch is
        skipped; the order is drawn anew each time.
    lr : float
        Learning rate at the start.
    shift : int
        Images are moved by up to this many pixels in each direction, anew each time; 0 moves none.
    seed : int
        Of the order, the shifts and a random input coding: the same seed gives the same result.
    report : callable
        Called with a :class:`Progress` a few times a second.
    stop : callable
        Asked as often; true ends training, and what was learnt so far is returned.

    Returns
    -------
    Fit

    Raises
    ------
    DivergedError
        If the loss is no longer finite.
    """
    began = time.perf_counter()
    n = len(data.x_train)
    per_epoch = n // batch
    total = per_epoch * epochs
    optimizer = optax.adam(optax.cosine_decay_schedule(lr, total))
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    prepare = partial(scale, low=data.low, high=data.high)
    key = jax.random.key(seed)

    def loss(params, x, y, key):
        logits, spikes, _ = network(params, x, key)
        rates = jnp.stack([s.mean() for s in spikes])
        return cross_entropy(logits, y).mean(), ((logits.argmax(-1) == y).mean(), rates)

    @jax.jit
    def advance(state, sums, x, y, order, epoch, first, last):
        """Batches ``first`` to ``last`` of an epoch; how many they are is no reason to compile again."""

        def update(i, carry):
            (params, moments), sums = carry
            chosen = jax.lax.dynamic_slice(order, (i * batch,), (batch,))
            moving, coding = jax.random.split(jax.random.fold_in(key, epoch * per_epoch + i))
            images = prepare(x[chosen])
            images = random_shift(images, shift, moving) if shift else images
            (value, (right, rates)), grads = jax.value_and_grad(loss, has_aux=True)(params, images, y[chosen], coding)
            updates, moments = optimizer.update(grads, moments, params)
            sums = jax.tree.map(jnp.add, sums, (value, right, rates))
            return (optax.apply_updates(params, updates), moments), sums

        return jax.lax.fori_loop(first, last, update, (state, sums))

    score = make_evaluator(network, prepare)
    state = params, optimizer.init(params)
    curves: dict[str, list] = {"loss": [], "accuracy": [], "rates": [], "held_out": []}
    count, pace, interrupted, scores = 1, 0.0, False, None
    for epoch in range(epochs):
        order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, total), epoch), n)
        sums: Any = (jnp.zeros(()), jnp.zeros(()), jnp.zeros(len(params) - 1))
        done = 0
        while done < per_epoch and not interrupted:
            start, last = time.perf_counter(), min(done + count, per_epoch)
            state, sums = advance(state, sums, x, y, order, epoch, done, last)
            value, right, rates = (np.asarray(s) / last for s in sums)  # waits for the result
            if epoch or done:  # the first call also compiled
                pace = (time.perf_counter() - start) / (last - done)
                count = max(1, round(0.25 / pace))
            done = last
            if not np.isfinite(value):
                raise DivergedError(f"the loss is {value} in epoch {epoch + 1}: a smaller learning rate may help")
            interrupted = bool(stop())
            if interrupted or done == per_epoch:
                scores = score(state[0], data.x_test)
                for name, number in (("loss", float(value)), ("accuracy", float(right)), ("rates", rates.tolist())):
                    curves[name].append(number)
                curves["held_out"].append(scores.accuracy(data.y_test))
            report(
                Progress(
                    epoch=epoch + 1,
                    batches=epoch * per_epoch + done,
                    total=total,
                    loss=float(value),
                    accuracy=float(right),
                    firing_rate=float(rates.mean()),
                    held_out=curves["held_out"][-1] if curves["held_out"] else None,
                    seconds_left=pace * (total - epoch * per_epoch - done),
                )
            )
        if interrupted:
            break
    assert scores is not None
    return Fit(state[0], scores, curves, time.perf_counter() - began, interrupted)
