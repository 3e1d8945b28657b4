"""The schedule of a sequence: parts, segments and chunks of its steps.

What is not optimal: the default lengths follow from sizes only, and were measured on one processor.
Steps that no length near the default divides need a second part, which takes as long to compile.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..._device import CPU, Device, Work
from ..graph._connections import Name
from ._modes import Backward
from ._storage import Storage

RESIDUALS = "spikegrad_residuals"
"""The name of the residuals of a loop for ``jax.checkpoint``."""


class Plan(NamedTuple):
    """The static options of a call. A program is compiled for each plan and shape."""

    backward: Backward
    outputs: tuple[Name, ...]
    """The names of the outputs and other parts of the activity that are returned."""
    device: Device
    """The defaults for the device on which the program runs."""
    staged: bool = False
    """If True, the network runs in stages, and later stages read outputs of earlier ones.

    See ``_stages``.
    """

    @property
    def storage(self) -> Storage:
        return self.backward.row.storage

    def unroll_of_chunk(self, chunk: int, layers: int) -> int:
        """Return the number of steps that the loop over a chunk unrolls per iteration."""
        # A scan cannot unroll by more than its length.
        if self.backward.unroll:
            return min(self.backward.unroll, chunk)
        return self.device.unroll_of_chunk(chunk, layers)


class Part(NamedTuple):
    """Consecutive steps that one loop runs over: equal segments of equal chunks."""

    start: int
    steps: int
    segment: int
    """The number of steps between stored states.

    Other values are recomputed. With all steps, no value is recomputed.
    """
    chunk: int
    """The number of steps that compute their independent products together."""

    @property
    def has_segments(self) -> bool:
        """True if states are stored between segments, and recomputed within them."""
        return self.segment < self.steps


def schedule(
    steps: int, backward: Backward, device: Device = CPU, work: Work | None = None
) -> list[Part]:
    """Return one part, and a second part for the remaining steps if segments or chunks do not
    divide the steps.

    >>> from spikegrad import Backward
    >>> schedule(250, Backward()), schedule(250, Backward("recompute"))
    ([Part(start=0, steps=250, segment=250, chunk=10)],
    [Part(start=0, steps=250, segment=10, chunk=5)])
    >>> schedule(11, Backward(chunk=4))
    [Part(start=0, steps=8, segment=8, chunk=4),
    Part(start=8, steps=3, segment=3, chunk=3)]
    """
    encodes = backward.row.storage.encodes
    recompute = backward.row.recompute
    chunk = backward.chunk
    segment = backward.segment
    saves = encodes or recompute
    work = work or Work()
    # ``near`` is the length of a chunk that suits the device. A divisor near it is chosen.
    most = device.longest_chunk(encodes, work.layers)
    near = min(device.length_of_chunk(saves, work), most)
    if saves and segment is None and device.captures_chunks:
        # A chunk of all steps would recompute nothing, and keep its states in full precision.
        root = max(1, round(math.sqrt(steps)))
        near = min(near, root)
    longest_near = min(most, 2 * near)
    if chunk is None and segment is not None:
        chunk = _divisor(segment, near, least=1, most=longest_near)
    elif chunk is None:
        near = _divisor(steps, near, least=_half(near), most=longest_near)
        chunk = min(near, steps)
    if recompute and segment is None:
        # About the square root of the number of steps: one state is stored per segment and all
        # states of one segment at a time, and their sum is least there.
        near = max(1, round(math.sqrt(steps) / chunk))
        chunks = _divisor(steps // chunk, near, least=_half(near), most=2 * near)
        segment = chunk * chunks
    # A scan needs equal chunks. The remaining steps become a part with a scan of its own.
    remaining = steps % (segment or chunk)
    divisible = steps - remaining
    parts = []
    if divisible:
        parts.append(Part(0, divisible, segment or divisible, chunk))
    if remaining:
        # The largest chunk that divides the remaining steps. 1 always does.
        longest = min(2 * chunk, max(chunk, most))
        divisors = [d for d in range(1, longest + 1) if remaining % d == 0]
        last_chunk = divisors[-1]
        parts.append(Part(divisible, remaining, remaining, last_chunk))
    return parts


def _half(n: int) -> int:
    """Return half of a number, rounded up."""
    return -(-n // 2)


def _divisor(n: int, near: int, *, least: int, most: int) -> int:
    """Return the divisor of n nearest to ``near`` within these bounds, or ``near`` without one."""
    divisors = [d for d in range(least, most + 1) if n % d == 0]

    # As a ratio: 5 and 20 are equally far from 10.
    def distance(divisor: int) -> float:
        return abs(math.log(divisor / near))

    return min(divisors, key=distance, default=near)
