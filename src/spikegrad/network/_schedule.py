"""The schedule of a sequence: parts, segments and chunks of its steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ._connections import Name
from ._storage import Storage

RESIDUALS = "spikegrad_residuals"
"""The name of the residuals of a loop for ``jax.checkpoint``."""


class Plan(NamedTuple):
    """The static options of a call. A program is compiled for each plan and shape."""

    mode: str
    """The name of the mode, for messages."""
    storage: Storage
    recompute: bool
    """If True, states are stored at the start of each segment and recomputed within it."""
    chunk: int | None
    segment: int | None
    truncate: int | None
    outputs: tuple[Name, ...]
    """The nodes whose outputs are returned."""
    pre_spike: tuple[Name, ...]
    """The layers whose states before the spike are returned."""
    unroll: int
    staged: bool = False
    """If True, the network runs in stages, and later stages read outputs of earlier ones.

    See ``_stages``.
    """

    def parts(self, steps: int, per_step: bool = False) -> tuple[Part, ...]:
        """Schedule this number of steps."""
        low_memory = self.storage.encodes or self.recompute
        return schedule(
            steps,
            self.chunk,
            self.segment,
            # A chunk holds its rebuilt arrays at once, so modes that save memory have shorter
            # ones.
            near=5 if low_memory else 10,
            recompute=self.recompute,
            per_step=per_step,
        )


class Part(NamedTuple):
    """Consecutive steps that one loop runs over: equal segments of equal chunks."""

    start: int
    steps: int
    segment: int
    """The number of steps between stored states.

    Other values are recomputed. With all steps, no value is
    recomputed."""
    chunk: int
    """The number of steps that compute their independent products together."""


def schedule(
    steps: int,
    chunk: int | None = None,
    segment: int | None = None,
    *,
    near: int = 10,
    recompute: bool = False,
    per_step: bool = False,
) -> tuple[Part, ...]:
    """Return one part, and a second part for the remaining steps if segments or chunks do not
    divide the steps.

    The default length of a chunk is about ``near`` steps. It is one step if ``per_step``, because
    chunks are then not faster.

    >>> schedule(250), schedule(250, near=5, recompute=True)
    ((Part(start=0, steps=250, segment=250, chunk=10),),
    (Part(start=0, steps=250, segment=10, chunk=5),))
    >>> schedule(11, chunk=4)
    (Part(start=0, steps=8, segment=8, chunk=4),
    Part(start=8, steps=3, segment=3, chunk=3))
    """
    check_length("chunk", chunk, steps)
    check_length("segment", segment, steps)
    if chunk is None and per_step:
        chunk = 1
    elif chunk is None and segment is not None:
        chunk = _divisor(segment, near, least=1)
    elif chunk is None:
        chunk = min(_divisor(steps, near), steps)
    if recompute and segment is None:
        # About the square root of the number of steps: one state is stored per segment and all
        # states of one segment at a time, and their sum is least there.
        segment = chunk * _divisor(
            steps // chunk, max(1, round(math.sqrt(steps) / chunk))
        )
    if segment is not None and segment % chunk:
        raise ValueError(
            f"Backward: chunk must divide segment, got {chunk} and {segment}"
        )
    # A scan needs equal chunks. The remaining steps become a part with a scan of its own.
    divisible = steps - steps % (segment or chunk)
    parts = (Part(0, divisible, segment or divisible, chunk),)
    if divisible == steps:
        return parts
    remaining = steps - divisible
    # The largest chunk that divides the remaining steps. 1 always does.
    last_chunk = max(d for d in range(1, 2 * chunk + 1) if remaining % d == 0)
    return (*parts, Part(divisible, remaining, remaining, last_chunk))


def check_length(name: str, value: int | None, steps: int | None = None) -> None:
    """Raise unless an optional number of steps is an integer from 1 to ``steps``, if known."""
    if value is None:
        return
    if not isinstance(value, int | np.integer):
        raise TypeError(f"Backward: {name} must be an integer, got {value!r}")
    if not 1 <= value <= (steps or value):
        domain = f"from 1 to the {steps} steps of the inputs" if steps else "at least 1"
        raise ValueError(f"Backward: {name} must be {domain}, got {value}")


def _divisor(n: int, near: int, least: int | None = None) -> int:
    """Return the divisor of n nearest to ``near``, or ``near`` if none is within a factor of two
    (or ``least``).
    """
    return min(
        (d for d in range(least or -(-near // 2), 2 * near + 1) if n % d == 0),
        # Nearest as a ratio: 5 and 20 are equally far from 10.
        key=lambda d: abs(math.log(d / near)),
        default=near,
    )
