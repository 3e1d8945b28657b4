"""The response of a cell to small currents, measured by running it.

A cell that does not declare its linear response runs from rest, once without a current and once
with a small current in the first step. The difference of the potentials over the current is the
response. It is exact for cells that are linear between spikes. For other cells it is the response
to small fluctuations around rest. If a cell fires without inputs, it is the response until the
first spike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from ..._compat import evaluated
from ..._pytree import PyTree
from ...neurons import Cell, State, fire, says_how_to_encode
from ..step._masks import tree_where

_SETTLE = 1000
"""Time steps from the initial state to rest."""
_SMALL = 0.01
"""The peak of the potential in a measurement, relative to the distance of the threshold."""
_HIGHEST = 10**5.5
"""The highest threshold of a search. It is not a whole number, so a readout, whose output is its
potential, does not seem to spike there.
"""


class Response(NamedTuple):
    """The potential after a current of 1 in the first step."""

    kernel: jax.Array
    """``(steps, receptors, neurons)``, with one receptor for cells without an axis of receptors."""
    threshold: jax.Array | None
    """The distance of the threshold from the potential at rest, ``(neurons,)``, or None if the cell
    never fires.
    """


def receptors_of(cell: Cell, shape: tuple[int, ...]) -> bool:
    """If True, the last axis of weights of this shape contains receptors, which the cell
    combines."""
    if len(shape) < 3:
        return False
    *_, neurons, receptors = shape
    dtype = jnp.result_type(float)

    def spikes() -> jax.Array:
        v = cell.initial_state((1, neurons, receptors), dtype)
        _, out = fire(cell, v, jax.random.key(0))
        return out

    return jax.eval_shape(spikes).shape == (1, neurons)


@evaluated
def measure_response(cell: Cell, like: tuple[int, ...], steps: int) -> Response:
    """Measure the response over a number of steps.

    ``like`` is ``(neurons,)`` or ``(neurons, receptors)``.
    """
    dtype = jnp.result_type(float)
    # Each receptor gets an example of its own, so one run measures all of them.
    receptors = like[1] if len(like) > 1 else 1
    shape = receptors, *like

    def run(
        v: State,
        pulse: jax.Array,
        steps: int,
        look: Callable[[State, jax.Array], PyTree],
    ) -> tuple[State, tuple[PyTree, jax.Array]]:
        """Return the last state, and for each step what ``look`` reads and whether neurons fire."""

        def step(v, n):
            current = jnp.where(n == 0, pulse, 0)
            u = cell.integrate(v, current)
            key = jax.random.fold_in(jax.random.key(0), n)
            v, out = fire(cell, u, key)
            seen = look(u, out)
            # 0.5 is between silence and one spike. Graded outputs near 0 do not end a response.
            has_fired = abs(out) >= 0.5
            return v, (seen, has_fired)

        return jax.lax.scan(step, v, jnp.arange(steps))

    silence = jnp.zeros(shape, dtype)

    # Each part is compiled as a whole, because un-jitted operations would compile one by one.
    @jax.jit
    def settle():
        start = jax.tree.map(jnp.asarray, cell.initial_state(shape, dtype))
        resting, (_, fired) = run(start, silence, _SETTLE, lambda u, out: None)
        # A cell that fires without inputs never rests. It starts from its initial state, and a
        # spike ends the response.
        resting = tree_where(fired.any(), start, resting)
        u = cell.integrate(resting, silence)
        return resting, *_threshold_of(cell, u)

    resting, threshold, may_fire = settle()
    if not isinstance(may_fire, Tracer) and not may_fire:
        threshold = None

    def potential(u, out):
        if threshold is None:
            return out
        if says_how_to_encode(cell):
            return jnp.asarray(cell.encode(u)[0])
        # The search of the threshold raises the real part of a complex state.
        return jnp.real(jax.tree.leaves(u)[0])

    @jax.jit
    def respond(resting, threshold):
        @jax.jit  # traced once for three calls
        def run_pulse(pulse):
            _, seen_and_fired = run(resting, pulse, steps, potential)
            return seen_and_fired

        base, fired = run_pulse(silence)

        def response(size):  # (receptors, neurons)
            # one example for each receptor: (receptors, neurons, receptors)
            own_receptor = jnp.eye(receptors, dtype=dtype)[:, None]
            pulse = size[..., None] * own_receptor
            after, also = run_pulse(pulse.reshape(shape))
            # The run without a pulse is subtracted, because a cell may drift without input.
            kernel = (after - base) / size[None]
            if threshold is None:
                return kernel
            # After a spike in either run the difference shows the reset and not the response.
            is_before_spike = jnp.cumsum(fired | also, 0) == 0
            return jnp.where(is_before_spike, kernel, 0)

        # (receptors, neurons)
        gap = jnp.ones(base.shape[1:], dtype)
        if threshold is not None:
            gap = jnp.where(threshold == 0, gap, jnp.abs(threshold) * gap)
        # A smaller current would be inaccurate, because the difference rounds. A larger one may
        # leave the linear range.
        trial = response(0.1 * _SMALL * gap)
        peak = jnp.abs(trial).max(0)
        safe_peak = jnp.where(peak > 0, peak, 1)
        kernel = response(_SMALL * gap / safe_peak)
        return Response(kernel, None if threshold is None else threshold[0])

    return respond(resting, threshold)


def _threshold_of(cell: Cell, u: State) -> tuple[Any, Any]:
    """Return the distance of the threshold, and whether the cell may fire.

    ``u`` is the state at rest, before a spike.
    """
    if says_how_to_encode(cell):
        # The distance to the threshold moves like the potential, also in cells with an adaptive
        # threshold. A readout has none.
        distance, _ = cell.encode(u)
        if distance is None:
            return None, False
        return -jnp.asarray(distance), True
    # The potential is the first array of the state, or its real part. It is raised until the cell
    # fires.
    (potential, *others), structure = jax.tree.flatten(u)

    def fires(level):
        raised = potential + level.astype(potential.dtype)
        state = structure.unflatten([raised, *others])
        _, out = fire(cell, state, jax.random.key(0))
        if out.shape != potential.shape:
            raise TypeError(
                f"fluctuation_driven: the first array of the state of {type(cell).__name__} must "
                f"have the output's shape, {out.shape}; define encode, or pass another initializer"
            )
        is_large = abs(out) >= 0.5
        # excludes readouts, because their outputs are not integers
        is_whole = out == jnp.round(out)
        return is_large & is_whole

    def halve(_, bounds):
        low, high = bounds
        middle = jnp.sqrt(low * high)
        fired = fires(middle)
        low = jnp.where(fired, low, middle)
        high = jnp.where(fired, middle, high)
        return low, high

    ones = jnp.ones_like(jnp.real(potential))
    lowest = ones / _HIGHEST
    highest = ones * _HIGHEST
    # Half of the interval of exponents in each turn, down to the precision of float32.
    _, level = jax.lax.fori_loop(0, 40, halve, (lowest, highest))
    reached = fires(highest)
    return jnp.where(reached, level, 1), reached.any()
