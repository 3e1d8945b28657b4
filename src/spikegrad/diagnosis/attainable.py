"""The two losses between which learning is judged.

The upper one is the loss of the best constant outputs, which ignore the inputs. The lower one is
the loss that outputs can attain. Many losses cannot reach 0: a softmax over rates of spikes,
smoothed or soft labels, a likelihood with a constant. Others go below 0. So outputs are moved
freely along the gradient of the loss, on the same examples. Outputs that are spikes stay between
none and one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._pytree import PyTree
from ..network import tree_where
from .measures import FAST_COMPILATION, LayerReport, NetworkReport
from .trial import LITTLE, Constant, Loss, Problem, better_constant, between, lower

SIZES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
"""Sizes of the first step of outputs, because their unit is unknown. The smallest loss counts."""
CONSTANT_SIZES = (*SIZES, 1e4, 1e5)
"""Sizes of the first step of constant outputs, because targets such as prices are far from 0. The
outputs of examples start from the best constants, so they need no larger sizes. Float32 rounds
likelihoods of such large outputs too much."""
STEPS = 60
"""Steps of outputs. They add up to thirty times the first one, and end at a sixtieth of it."""
NEAR = 0.9
"""The part of the way to the best outputs that counts. A loss such as the logarithm of an error is
without a bound at the exact outputs, which no network reaches."""
HALF = 0.5
"""A loss that falls less on the first half of the way to the best outputs than on the second is
the logarithm of an error. Its fall near the best outputs does not measure learning, so half of the
way counts."""
FALLING = 0.5
"""A loss without a bound falls by more than this part of its last fall if outputs move ten times as
far again."""
LOGARITHM = 3.0
"""If outputs move ten times as far again, a logarithm falls by an equal amount, and a linear loss
by ten times as much. A loss that falls by less than this number of its last fall is a logarithm."""

ROUNDING = 1e-6
"""A low loss is due to rounding in float32 if it rises when outputs change by this part, ten times
the precision of float32."""


class Attainable(NamedTuple):
    """The outputs that the loss asks for."""

    constant: float
    """The loss of the best constant outputs."""
    constant_outputs: PyTree
    """These outputs, each ``(steps, 1, ...)``."""
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
    start: jax.Array
    """The loss of the constant outputs at the start of the way."""
    half: jax.Array
    """The loss halfway from these constants to the best outputs."""
    near: jax.Array
    """The loss near the best outputs."""


class _Chosen(NamedTuple):
    """The way to the best outputs, and the losses of all sizes."""

    way: _Moved
    """The one of the size with the smallest loss near its best outputs."""
    losses: jax.Array
    """The loss near the best outputs for each of ``SIZES``, ``(sizes,)``."""
    shared: jax.Array
    """The loss of the best constant outputs for each size, ``(sizes,)``."""
    number: jax.Array
    """The number of this size in ``SIZES``."""
    constant: Constant
    """The best constant outputs."""
    first: Constant
    """The better one of zeros and the means of the network."""


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

    reach = functools.partial(_reached, loss, arranged(boxes))

    @jax.jit
    def moved(outputs: PyTree) -> _Chosen:
        first = better_constant(loss, outputs)
        constant, shared = _best_constant(loss, reach, first)
        # Means of outputs that are too large may saturate a bounded loss.
        zeros = jax.tree.map(jnp.zeros_like, first.outputs)

        def way_of(size: jax.Array) -> _Moved:
            """Return the best outputs that steps of this size reach, and the losses on the way."""
            # Of the size of the last step. A loss that compares examples may have no gradient
            # while all of them have equal outputs.
            noise = functools.partial(_with_noise, size=size / STEPS)
            starts = jax.tree.map(noise, constant.outputs), jax.tree.map(noise, zeros)
            # (2, steps, examples, ...)
            stacked = jax.tree.map(lambda *o: jnp.stack(o), *starts)
            bests = jax.lax.map(lambda start: reach(start, size, False), stacked)
            number = jnp.nanargmin(jax.lax.map(loss, bests))
            best = jax.tree.map(lambda o: o[number], bests)
            # From the best constants, because the way to them needs no inputs, or from constants
            # of this size, because the best ones may saturate a bounded loss.
            first_way, second_way = (
                _Moved(
                    best,
                    first.loss,
                    loss(between(first.outputs, best, HALF)),
                    loss(between(first.outputs, best, NEAR)),
                )
                for first in (constant, better_constant(loss, best))
            )
            return tree_where(second_way.half < first_way.half, second_way, first_way)

        ways = jax.lax.map(way_of, jnp.asarray(SIZES, jnp.float32))
        losses = jnp.where(jnp.isfinite(ways.near), ways.near, jnp.inf)
        number = jnp.argmin(losses)
        way = jax.tree.map(lambda leaf: leaf[number], ways)
        return _Chosen(way, losses, shared, number, constant, first)

    outputs = arranged(named)
    run = moved.lower(outputs).compile(compiler_options=FAST_COMPILATION)
    found: _Chosen = jax.device_get(run(outputs))
    return _judged(found)


def _reached(
    loss: Loss, boxes: PyTree, start: PyTree, size: jax.Array, is_shared: bool
) -> PyTree:
    """Return outputs after all steps of this size from the start.

    They are as good as steps of this size can make them. If ``is_shared``, all examples and steps
    of time move equally.
    """

    def step(n: int, outputs: PyTree) -> PyTree:
        gradient = jax.grad(loss)(outputs)
        # The sign, because gradients of saturated outputs are tiny, and steps that shrink, so that
        # the last ones are as precise as the first ones are wide.
        length = size * (1 - n / STEPS)

        def moved(
            output: jax.Array, gradient: jax.Array, box: tuple[float, float]
        ) -> jax.Array:
            gradient = jnp.nan_to_num(gradient)  # (steps, examples, ...)
            if is_shared:
                gradient = gradient.mean((0, 1), keepdims=True)
            change = length * jnp.sign(gradient)
            return jnp.clip(output - change, *box).astype(output.dtype)

        return jax.tree.map(moved, outputs, gradient, boxes)

    return jax.lax.fori_loop(0, STEPS, step, start)


def _best_constant(
    loss: Loss, reach: Callable[[PyTree, jax.Array, bool], PyTree], first: Constant
) -> tuple[Constant, jax.Array]:
    """Return the best constant outputs, and the losses of constants for each size of steps.

    ``first`` are constants of the network.
    """
    sizes = jnp.asarray(CONSTANT_SIZES, jnp.float32)

    def constant_of(start: PyTree, size: jax.Array) -> Constant:
        outputs = reach(start, size, True)
        # Float32 rounds the logarithm of a sum of exponentials of large logits, so their
        # cross-entropy may be 0. Logits that differ by a few last bits show a higher loss.
        noisy = jax.tree.map(_with_other_bits, outputs)
        return Constant(jnp.maximum(loss(outputs), loss(noisy)), outputs)

    # Equal over time too, because the number of steps may differ between examples.
    start = jax.tree.map(_over_time, first.outputs)
    shared = jax.lax.map(functools.partial(constant_of, start), sizes)
    number = jnp.nanargmin(shared.loss)
    found = jax.tree.map(lambda leaf: leaf[number], shared)

    def refined(constant: Constant, size: jax.Array) -> tuple[Constant, None]:
        return lower(constant, constant_of(constant.outputs, size)), None

    # The smaller steps make the constants precise.
    found, _ = jax.lax.scan(refined, found, sizes[::-1])
    return lower(first, found._replace(loss=loss(found.outputs))), shared.loss


def _judged(found: _Chosen) -> Attainable:
    """Return the attainable loss. The losses of ``found`` are NumPy arrays."""
    constant = float(found.constant.loss)
    start, half = float(found.way.start), float(found.way.half)
    losses = np.asarray(found.losses, np.float64)
    shared = np.asarray(found.shared, np.float64)
    number = int(found.number)
    near = attained = float(losses[number])
    if LITTLE * abs(start) < start - half < HALF * (start - near):
        attained = half
    little = LITTLE * abs(constant - float(losses[-1]))
    is_bounded = number < len(SIZES) - 1 or _ends(losses, FALLING, little)
    # Some likelihoods, such as the likelihood of an angle, fall as a logarithm while right outputs
    # grow. A loss with the wrong sign also falls if outputs ignore the inputs.
    if not is_bounded and _ends(losses, LOGARITHM, little):
        is_bounded = _ends(shared, FALLING, little)
        attained = constant - HALF * (constant - near)
    # Constants of a loss without a bound mean nothing.
    outputs = (found.constant if is_bounded else found.first).outputs
    # (steps, 1, ...)
    outputs = jax.tree.map(lambda output: output[:, :1], outputs)
    return Attainable(constant, outputs, attained, near, found.way.best, is_bounded)


def _ends(losses: np.ndarray, part: float, little: float) -> bool:
    """Return True if the loss stops falling: the largest size of steps lowers it by at most
    ``little``, or by at most ``part`` of its last fall.

    ``losses`` has a loss for each of ``SIZES``, ``(sizes,)``.
    """
    fall, last_fall = losses[-3:-1] - losses[-2:]
    return bool(last_fall <= max(part * fall, little))


def _over_time(output: jax.Array) -> jax.Array:
    """Return the mean over the steps, at each step."""
    return jnp.broadcast_to(output.mean(0), output.shape)


def _with_other_bits(output: jax.Array) -> jax.Array:
    """Return outputs that differ in their last bits, equally at each step."""
    # Noise that differs between steps would vanish in the rounding of a sum over them.
    noise = jax.random.normal(jax.random.key(0), output[:1].shape)
    return (output * (1 + ROUNDING * noise)).astype(output.dtype)


def _with_noise(output: jax.Array, size: jax.Array) -> jax.Array:
    noise = size * jax.random.normal(jax.random.key(0), output.shape)
    return output + noise.astype(output.dtype)


def _range_of(layer: LayerReport | None, output: np.ndarray) -> tuple[float, float]:
    """Return the range of an output: the range of its spikes, or no limits."""
    # A join passes spikes on if all of its outputs look so.
    looks_so = layer is None and output.any() and bool(np.isin(output, (0, 1)).all())
    is_spikes = looks_so or (layer is not None and layer.rate is not None)
    if not is_spikes or not np.isfinite(output).all():
        return -np.inf, np.inf
    # Spikes may be counts or negative, if the network shows so.
    return min(float(output.min()), 0.0), max(float(output.max()), 1.0)
