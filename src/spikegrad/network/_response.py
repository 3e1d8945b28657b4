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
import numpy as np
from jax.core import Tracer

from .._pytree import is_inexact
from ..neurons import Cell, State, fire, says_how_to_encode
from ._masks import tree_where

_SETTLE = 1000
"""Time steps from the initial state to rest."""
_SMALL = 0.01
"""The peak of the potential in a measurement, relative to the distance of the threshold."""
_LEVELS = 100
"""The number of potentials per step of the search for a threshold."""


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

    def out(like: tuple[int, ...]) -> tuple[int, ...]:
        dtype = jnp.result_type(float)
        return jax.eval_shape(
            lambda: fire(
                cell, cell.initial_state((1, *like), dtype), jax.random.key(0)
            )[1]
        ).shape

    try:
        return len(shape) > 2 and out(shape[-2:]) == (1, shape[-2])
    except (
        TypeError,
        ValueError,
    ):  # parameters of neurons, which do not fit these two axes
        return False


def measure_response(cell: Cell, like: tuple[int, ...], steps: int) -> Response:
    """Measure the response over a number of steps.

    ``like`` is ``(neurons,)`` or ``(neurons, receptors)``.
    """
    # Known within jax.jit too, unless parameters are traced.
    with jax.ensure_compile_time_eval():
        return _measured(cell, like, steps)


def _measured(cell: Cell, like: tuple[int, ...], steps: int) -> Response:
    dtype = jnp.result_type(float)
    # Each receptor gets an example of its own, so one run measures all of them.
    receptors = like[1] if len(like) > 1 else 1  # examples, one for each receptor
    shape = receptors, *like

    def run(
        v: State, pulse: jax.Array, numbers: jax.Array, look: Callable
    ) -> tuple[State, Any]:
        def step(v, n):
            u = cell.integrate(v, jnp.where(n == 0, pulse, 0))
            v, out = fire(cell, u, jax.random.fold_in(jax.random.key(0), n))
            # 0.5 is between silence and one spike. Graded outputs near 0 do not end a response.
            return v, (look(u, out), abs(out) >= 0.5)

        return jax.lax.scan(step, v, numbers)

    silence = jnp.zeros(shape, dtype)

    # Each part is compiled as a whole, because un-jitted operations would compile one by one.
    @jax.jit
    def settle() -> tuple[State, State, jax.Array]:
        start = jax.tree.map(jnp.asarray, cell.initial_state(shape, dtype))
        resting, (_, fired) = run(
            start, silence, jnp.arange(_SETTLE), lambda u, out: None
        )
        # A cell that fires without inputs never rests. It starts from its initial state, and a
        # spike ends the response.
        resting = tree_where(fired.any(), start, resting)
        u = cell.integrate(resting, silence)
        return resting, u, fire(cell, u, jax.random.key(0))[1]

    resting, u, out = settle()
    potential, threshold = _potential_of(cell, u, out)
    # one example for each receptor: (receptors, neurons, receptors)
    unit = (
        jnp.ones(shape, dtype)
        if len(like) == 1
        else jnp.broadcast_to(jnp.eye(receptors, dtype=dtype)[:, None], shape)
    )

    @jax.jit
    def respond(resting: State, threshold: jax.Array | None) -> jax.Array:
        # traced once for three calls
        run_pulse = jax.jit(
            lambda pulse: run(resting, pulse, jnp.arange(steps), potential)[1]
        )
        base, fired = run_pulse(silence)

        def response(size):  # size: (receptors, neurons)
            after, also = run_pulse(
                unit * (size if len(like) == 1 else size[..., None])
            )
            # The run without a pulse is subtracted, because a cell may drift without input.
            kernel = (after - base) / size[None]
            return (
                kernel
                if threshold is None
                # After a spike in either run the difference shows the reset and not the
                # response.
                else jnp.where(jnp.cumsum(fired | also, 0) == 0, kernel, 0)
            )

        # (receptors, neurons)
        gap = jnp.ones(base.shape[1:], dtype)
        gap = (
            gap
            if threshold is None
            else jnp.where(threshold == 0, gap, jnp.abs(threshold) * gap)
        )
        # A smaller current would be inaccurate, because the difference rounds. A larger one may
        # leave the linear range.
        peak = jnp.abs(response(0.1 * _SMALL * gap)).max(0)
        return response(_SMALL * gap / jnp.where(peak > 0, peak, 1))

    kernel = respond(resting, threshold)
    responds = (kernel != 0).any((0, 1))
    if not isinstance(responds, Tracer) and not np.all(responds):
        raise ValueError(
            f"fluctuation_driven: {type(cell).__name__} must respond to a current before it fires; "
            "pass another "
            "initializer"
        )
    return Response(kernel, None if threshold is None else threshold[0])


def _potential_of(
    cell: Cell, u: State, out: jax.Array
) -> tuple[Callable[[State, jax.Array], jax.Array], jax.Array | None]:
    """Return the potential as a function of state and output, and the distance of the threshold.

    ``u`` is the state at rest, before a spike. The distance is None if the cell never fires.
    """
    if says_how_to_encode(cell):
        # The distance to the threshold moves like the potential, also in cells with an adaptive
        # threshold.
        if (distance := cell.encode(u)[0]) is None:
            return lambda u, out: out, None
        return lambda u, out: jnp.asarray(cell.encode(u)[0]), -distance
    leaves = jax.tree.leaves(u)
    places = [
        n
        for n, leaf in enumerate(leaves)
        if is_inexact(leaf) and leaf.shape == out.shape
    ]
    if not places:
        raise TypeError(
            f"fluctuation_driven: the state of {type(cell).__name__} must include an array of the "
            "output's shape, "
            f"{out.shape}; define encode, or pass another initializer"
        )
    # The state does not show which of its arrays the threshold applies to. Each is raised by
    # itself until the cell fires.
    levels = [_level(cell, u, n) for n in places]
    # If several arrays of the state can cause a spike, use the array with the lowest threshold.
    lowest = jnp.argmin(jnp.stack([level.mean() for level in levels]))
    chosen = jax.lax.select_n(lowest, *levels) if len(levels) > 1 else levels[0]

    def potential(u, out):
        arrays = [jax.tree.leaves(u)[n] for n in places]
        return jax.lax.select_n(lowest, *arrays) if len(arrays) > 1 else arrays[0]

    finite = jnp.isfinite(chosen)
    if not isinstance(finite, Tracer) and not np.any(finite):
        return lambda u, out: out, None
    return potential, jnp.where(finite, chosen, 1)


def _level(cell: Cell, u: State, place: int) -> jax.Array:
    """Return the rise above rest that causes a spike, in the shape of the output.

    Infinite without a spike.
    """
    leaves, structure = jax.tree.flatten(u)
    # From 1/100 to 1: the lower end is excluded, since it is known not to fire.
    portions = jnp.linspace(1 / _LEVELS, 1, _LEVELS, dtype=leaves[place].dtype)

    def fires(levels: jax.Array, leaves: list) -> jax.Array:  # (levels, ...)
        # One at a time, because a cell may use the axis of examples.
        def fires_at(
            level,
        ):
            shifted = [*leaves[:place], leaves[place] + level, *leaves[place + 1 :]]
            return fire(cell, structure.unflatten(shifted), jax.random.key(0))[1]

        out = jax.lax.map(fires_at, levels)
        # excludes readouts, because their outputs are not integers
        return (abs(out) >= 0.5) & (out == jnp.round(out)).all(0)[None]

    @jax.jit
    def find(leaves: list) -> jax.Array:
        resting = leaves[place]
        along = ..., *[None] * resting.ndim  # the levels come first

        def refine(n, carry):
            low, _, high, ever = carry
            fired = fires(high, leaves)
            # argmax of bools returns the first level that fires. (1, *shape of the output)
            first = jnp.argmax(fired, 0)[None]
            below = jnp.where(
                first[0] > 0,
                jnp.take_along_axis(high, jnp.maximum(first - 1, 0), 0)[0],
                low,
            )
            top = jnp.take_along_axis(high, first, 0)[0]
            return (
                below,
                top,
                below[None] + (top - below)[None] * portions[along],
                jnp.where(n == 0, fired.any(0), ever),
            )

        # from a thousandth to a million in steps of about a quarter, and then between two of these
        # steps
        high = (
            10 ** jnp.linspace(-3, 6, _LEVELS, dtype=resting.dtype)[along]
            * jnp.ones_like(resting)[None]
        )
        zero = jnp.zeros_like(resting)
        # The first turn finds the step of the coarse scale. Each further turn divides the
        # interval by 100, so three of them come close to the precision of float32.
        _, top, _, ever = jax.lax.fori_loop(0, 4, refine, (zero, zero, high, zero != 0))
        return jnp.where(ever, top, jnp.inf)

    return find(leaves)
