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
    dtype = jnp.result_type(float)

    def out() -> jax.Array:
        v = cell.initial_state((1, *shape[-2:]), dtype)
        return fire(cell, v, jax.random.key(0))[1]

    return len(shape) > 2 and jax.eval_shape(out).shape == (1, shape[-2])


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
            u = cell.integrate(v, jnp.where(n == 0, pulse, 0))
            v, out = fire(cell, u, jax.random.fold_in(jax.random.key(0), n))
            # 0.5 is between silence and one spike. Graded outputs near 0 do not end a response.
            return v, (look(u, out), abs(out) >= 0.5)

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
        # traced once for three calls
        run_pulse = jax.jit(lambda pulse: run(resting, pulse, steps, potential)[1])
        base, fired = run_pulse(silence)

        def response(size):  # (receptors, neurons)
            # one example for each receptor: (receptors, neurons, receptors)
            pulse = size[..., None] * jnp.eye(receptors, dtype=dtype)[:, None]
            after, also = run_pulse(pulse.reshape(shape))
            # The run without a pulse is subtracted, because a cell may drift without input.
            kernel = (after - base) / size[None]
            if threshold is None:
                return kernel
            # After a spike in either run the difference shows the reset and not the response.
            return jnp.where(jnp.cumsum(fired | also, 0) == 0, kernel, 0)

        # (receptors, neurons)
        gap = jnp.ones(base.shape[1:], dtype)
        if threshold is not None:
            gap = jnp.where(threshold == 0, gap, jnp.abs(threshold) * gap)
        # A smaller current would be inaccurate, because the difference rounds. A larger one may
        # leave the linear range.
        peak = jnp.abs(response(0.1 * _SMALL * gap)).max(0)
        kernel = response(_SMALL * gap / jnp.where(peak > 0, peak, 1))
        return Response(kernel, None if threshold is None else threshold[0])

    return respond(resting, threshold)


def _threshold_of(cell: Cell, u: State) -> tuple[Any, Any]:
    """Return the distance of the threshold, and whether the cell may fire.

    ``u`` is the state at rest, before a spike.
    """
    if says_how_to_encode(cell):
        # The distance to the threshold moves like the potential, also in cells with an adaptive
        # threshold. A readout has none.
        distance = cell.encode(u)[0]
        may_fire = distance is not None
        return -jnp.asarray(distance) if may_fire else None, may_fire
    # The potential is the first array of the state, or its real part. It is raised until the cell
    # fires.
    (potential, *others), structure = jax.tree.flatten(u)

    def fires(level):
        raised = structure.unflatten(
            [potential + level.astype(potential.dtype), *others]
        )
        out = fire(cell, raised, jax.random.key(0))[1]
        if out.shape != potential.shape:
            raise TypeError(
                f"fluctuation_driven: the first array of the state of {type(cell).__name__} must "
                f"have the output's shape, {out.shape}; define encode, or pass another initializer"
            )
        # excludes readouts, because their outputs are not integers
        return (abs(out) >= 0.5) & (out == jnp.round(out))

    def halve(_, bounds):
        low, high = bounds
        middle = jnp.sqrt(low * high)
        fired = fires(middle)
        return jnp.where(fired, low, middle), jnp.where(fired, middle, high)

    ones = jnp.ones_like(jnp.real(potential))
    # Half of the interval of exponents in each turn, down to the precision of float32.
    bounds = ones / _HIGHEST, ones * _HIGHEST
    _, level = jax.lax.fori_loop(0, 40, halve, bounds)
    reached = fires(bounds[1])
    return jnp.where(reached, level, 1), reached.any()
