"""The loss that outputs can attain, against which learning is judged.

Many losses cannot reach 0: a softmax over rates of spikes, smoothed or soft labels, a likelihood
with a constant. Others go below 0. So outputs are moved freely along the gradient of the loss, from
constant outputs, on the same examples. Outputs that are spikes stay between none and one.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._pytree import PyTree
from .measures import FAST_COMPILATION, LayerReport, NetworkReport
from .trial import LITTLE, Problem, between, constant_loss

SIZES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
"""Sizes of the first step of outputs, because their unit is unknown. The smallest loss counts."""
STEPS = 60
"""Steps of outputs. They add up to thirty times the first one, and end at a sixtieth of it."""
NEAR = 0.9
"""The part of the way to the best outputs that counts. A loss such as the logarithm of an error is
without a bound at the exact outputs, which no network reaches."""
HALF = 0.5
"""A loss that falls less on the first half of the way to the best outputs than on the second is
the logarithm of an error. Its fall near the best outputs says nothing of what is learned, so half
of the way counts."""
FALLING = 0.5
"""A loss without a bound falls by more than this part of its last fall if outputs move ten times as
far again."""
LOGARITHM = 3.0
"""If outputs move ten times as far again, a logarithm falls by an equal amount, and a linear loss
by ten times as much. A loss that falls by less than this number of its last fall is a logarithm."""


class Attainable(NamedTuple):
    """The outputs that the loss asks for."""

    constant: float
    """The loss of constant outputs, those of the network or the means of the best outputs."""
    loss: float
    """The loss of outputs near the best ones."""
    near: float
    """The same, also for the logarithm of an error, of which ``loss`` is that of half the way."""
    outputs: PyTree
    """The best outputs, in the structure that the loss takes, each ``(steps, examples, ...)``."""
    is_bounded: bool
    """If False, the loss falls without limit as outputs grow."""

    @property
    def has_room(self) -> bool:
        """True if outputs can lower the loss of constant outputs."""
        return self.constant - self.loss > LITTLE * abs(self.constant)

    @property
    def floor(self) -> float:
        """The loss of perfect outputs: 0 unless the loss stays above it, or goes below."""
        # Half of the way to a loss below 0 may end near 0.
        is_zero = abs(self.near) <= LITTLE * abs(self.constant)
        return self.loss if self.is_bounded and self.has_room and not is_zero else 0.0


class _Moved(NamedTuple):
    """The losses of outputs that were moved along the gradient."""

    best: PyTree
    """The best outputs."""
    constant: jax.Array
    """The lower loss of two constant outputs: the start of this way, and the constants of the
    network."""
    half: jax.Array
    """The loss on half of this way."""
    near: jax.Array
    """The loss near the best outputs."""
    shared: jax.Array
    """The loss of the best outputs that are equal for all examples."""


class _Chosen(NamedTuple):
    """The way to the best outputs, and the losses of all sizes."""

    way: _Moved
    """The one of the size with the smallest loss near its best outputs."""
    losses: jax.Array
    """The loss near the best outputs for each of ``SIZES``, ``(sizes,)``."""
    shared: jax.Array
    """The loss of the best outputs that are equal for all examples, ``(sizes,)``."""
    number: jax.Array
    """The number of this size in ``SIZES``."""


def attainable_loss(problem: Problem, report: NetworkReport) -> Attainable:
    """Return the loss that freely moved outputs attain. ``report`` has those of the network."""
    loss = problem.loss
    assert loss is not None
    network = problem.network
    named = {name: report.outputs[name] for name in network.graph.outputs}
    boxes = {name: _range_of(report.layers.get(name), o) for name, o in named.items()}
    is_dict = isinstance(network.outputs, tuple)

    def arranged(by_name: dict[str, PyTree]) -> PyTree:
        return by_name if is_dict else next(iter(by_name.values()))

    @jax.jit
    def moved(outputs: PyTree) -> _Chosen:
        start_loss, start = constant_loss(loss, outputs)
        # Means of outputs that are too large may saturate a bounded loss.
        zeros = jax.tree.map(jnp.zeros_like, start)

        def step(
            n: int, now: tuple[PyTree, jax.Array, jax.Array]
        ) -> tuple[PyTree, jax.Array, jax.Array]:
            outputs, size, is_shared = now
            gradient = jax.grad(loss)(outputs)
            # The sign, because gradients of saturated outputs are tiny, and steps that shrink, so
            # that the last ones are as precise as the first ones are wide.
            length = size * (1 - n / STEPS)

            def moved_output(
                output: jax.Array, gradient: jax.Array, box: tuple[float, float]
            ) -> jax.Array:
                gradient = jnp.nan_to_num(gradient)
                # (steps, examples, ...)
                mean = gradient.mean(1, keepdims=True)
                change = length * jnp.sign(jnp.where(is_shared, mean, gradient))
                return jnp.clip(output - change, *box).astype(output.dtype)

            outputs = jax.tree.map(moved_output, outputs, gradient, arranged(boxes))
            return outputs, size, is_shared

        def way_of(size: jax.Array) -> _Moved:
            """Return the best outputs that steps of this size reach, and the losses on the way."""

            def reached(way: tuple[PyTree, jax.Array]) -> PyTree:
                start, is_shared = way
                return jax.lax.fori_loop(0, STEPS, step, (start, size, is_shared))[0]

            # Of the size of the last step. A loss that compares examples may have no gradient
            # while all of them have equal outputs.
            noise = functools.partial(_with_noise, size=size / STEPS)
            # The last start moves equally for all examples.
            starts = jax.tree.map(noise, start), jax.tree.map(noise, zeros), start
            is_shared = jnp.array([False, False, True])
            # (3, steps, examples, ...)
            stacked = jax.tree.map(lambda *o: jnp.stack(o), *starts)
            bests = jax.lax.map(reached, (stacked, is_shared))
            best_losses = jax.lax.map(loss, bests)
            shared = best_losses[-1]
            better = jnp.nanargmin(best_losses[:-1])
            best = jax.tree.map(lambda o: o[better], bests)
            # From constant outputs of this size. A part of the way to a mean far from the start
            # would count what constant outputs can do.
            first_loss, first = constant_loss(loss, best)
            half, near = (loss(between(first, best, part)) for part in (HALF, NEAR))
            return _Moved(best, jnp.minimum(first_loss, start_loss), half, near, shared)

        ways = jax.lax.map(way_of, jnp.asarray(SIZES, jnp.float32))
        losses = jnp.where(jnp.isfinite(ways.near), ways.near, jnp.inf)
        number = jnp.argmin(losses)
        way = jax.tree.map(lambda leaf: leaf[number], ways)
        return _Chosen(way, losses, ways.shared, number)

    outputs = arranged(named)
    run = moved.lower(outputs).compile(compiler_options=FAST_COMPILATION)
    found: _Chosen = jax.device_get(run(outputs))
    return _judged(found)


def _judged(found: _Chosen) -> Attainable:
    """Return the attainable loss. The losses of ``found`` are NumPy arrays."""
    constant, half = float(found.way.constant), float(found.way.half)
    losses = np.asarray(found.losses, np.float64)
    shared = np.asarray(found.shared, np.float64)
    number = int(found.number)
    near = attained = float(losses[number])
    fall_to_half, fall_to_best = constant - half, constant - near
    if LITTLE * abs(constant) < fall_to_half < HALF * fall_to_best:
        attained = half
    little = LITTLE * abs(constant - float(losses[-1]))
    is_bounded = number < len(SIZES) - 1 or _ends(losses, FALLING, little)
    # Some likelihoods, such as the likelihood of an angle, fall as a logarithm while right outputs
    # grow. A loss with the wrong sign also falls if outputs ignore the inputs.
    if not is_bounded and _ends(losses, LOGARITHM, little):
        is_bounded = _ends(shared, FALLING, little)
        attained = constant - HALF * fall_to_best
    return Attainable(constant, attained, near, found.way.best, is_bounded)


def _ends(losses: np.ndarray, part: float, little: float) -> bool:
    """Return True if the loss stops falling: the largest size of steps lowers it by at most
    ``little``, or by at most ``part`` of its last fall.

    ``losses`` has a loss for each of ``SIZES``, ``(sizes,)``.
    """
    fall, last_fall = losses[-3:-1] - losses[-2:]
    return bool(last_fall <= max(part * fall, little))


def _with_noise(output: jax.Array, size: jax.Array) -> jax.Array:
    noise = size * jax.random.normal(jax.random.key(0), output.shape)
    return output + noise.astype(output.dtype)


def _range_of(layer: LayerReport | None, output: np.ndarray) -> tuple[float, float]:
    """Return the range of an output: that of its spikes, or no limits."""
    # A join passes spikes on if all of its outputs look so.
    looks_so = layer is None and output.any() and bool(np.isin(output, (0, 1)).all())
    is_spikes = looks_so or (layer is not None and layer.rate is not None)
    if not is_spikes or not np.isfinite(output).all():
        return -np.inf, np.inf
    # Spikes may be counts or negative, if the network shows so.
    return min(float(output.min()), 0.0), max(float(output.max()), 1.0)
