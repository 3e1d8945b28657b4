"""The modes: names for combinations of storage, recomputation and engine.

To add a storage, write a class in ``_storage`` and add a row here. Argument checks, messages, the
CLI and the tests read this table. The docstring of :class:`Backward` describes each mode, and so
does ``docs/memory.md``.

What is not optimal: a network has one mode. Large layers could store fewer bits than small ones.
"""

from __future__ import annotations

import dataclasses
import numbers
from typing import NamedTuple

from ._storage import EIGHT_BIT, EXACT, HALF, Storage


class Mode(NamedTuple):
    """A named combination."""

    storage: Storage = EXACT
    recompute: bool = False
    """If True, states are stored at the start of each segment and recomputed within it."""
    cuts: bool = True
    """If True, the engine of ``_loop`` splits the steps into chunks and segments, and supports
    reverse-mode derivatives only. Otherwise ``_scan`` runs the steps.
    """


MODES = {
    "exact": Mode(),
    "half": Mode(HALF),
    "8-bit": Mode(EIGHT_BIT),
    "recompute": Mode(recompute=True),
    "scan": Mode(cuts=False),
}


@dataclasses.dataclass(frozen=True)
class Backward:
    """How the backward pass of a network computes its derivatives, and what it stores for them.

    A call takes it as ``backward=``. The name of a mode alone is short for ``Backward(mode)``.
    Outputs are equal in all modes.

    Parameters
    ----------
    mode : {"exact", "half", "8-bit", "recompute", "scan"}
        The residuals stored for the backward pass.

        - ``"exact"``: the pre-spike state of each neuron and step.
        - ``"half"``: this state in 16 bits. Spikes stay exact. Slopes get a relative error of up to
          0.4%.
        - ``"8-bit"``: the distance to the threshold in 8 bits, other states in 16.
        - ``"recompute"``: one state per segment. A segment is about the square root of the number
          of steps. States within it are recomputed.
        - ``"scan"``: the residuals that JAX chooses for a plain ``jax.lax.scan``. It supports
          forward mode. Convolutions are slow in it on CPUs.
    chunk : int, optional
        Number of steps that compute their independent products together, forward and backward.
        Longer chunks read the weights less often and take more memory. The default is about 10 in
        mode ``"exact"`` and about 5 in other modes. On CPUs it is shorter if the states of a chunk
        would have more than 65,536 elements and more than four times as many as the weights. It is
        1 if a layer or join is a convolution and the other weights have fewer elements than the
        states of a step. Convolutions are not faster together. On GPUs it is about 10 in all modes
        and 8 for convolutions, and less in networks of more than 9 layers. It must divide
        ``segment``, and should divide the number of steps.
    segment : int, optional
        Number of steps in a segment. Other modes than ``"recompute"`` use segments only if you
        pass it.
    truncate : int, optional
        Window length of truncated backpropagation. Derivatives of states end at the first unmasked
        step of each window.
    unroll : int, optional
        Steps unrolled per iteration of a compiled loop. The default is 1 on CPUs, because more
        steps only cost compilation time. It is the length of a chunk on GPUs, which then run a
        chunk as one CUDA graph, and 4 in mode ``"scan"``. It is 4 on TPUs, because an iteration of
        a loop costs microseconds there.

    Raises
    ------
    ValueError
        If the mode is unknown, if a length is not an integer above 0, if ``chunk`` does not divide
        ``segment``, and for a chunk or segment in mode ``"scan"``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Backward, Layer, Network
    >>> network = Network([Layer(jnp.ones((3, 2)), LIF(0.9))])
    >>> inputs = jnp.ones((100, 4, 3))
    >>> states, spikes = network(inputs, backward="8-bit")
    >>> backward = Backward("recompute", truncate=20)
    >>> states, spikes = network(inputs, backward=backward)
    """

    mode: str = "exact"
    chunk: int | None = None
    segment: int | None = None
    truncate: int | None = None
    unroll: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(
                f"Backward: mode must be one of {', '.join(map(repr, MODES))}, got {self.mode!r}"
            )
        for name in ("chunk", "segment", "truncate", "unroll"):
            length = getattr(self, name)
            if length is None:
                continue
            # NumPy's integers too, which a computed length is.
            if not (isinstance(length, numbers.Integral) and int(length) > 0):
                raise ValueError(
                    f"Backward: {name} must be an integer >= 1, got {length!r}"
                )
            object.__setattr__(self, name, int(length))
        if (self.chunk or self.segment) and not self.row.cuts:
            raise ValueError(
                f"Backward: mode {self.mode!r} does not take chunk or segment, got {self.chunk} "
                f"and {self.segment}; leave them out"
            )
        if self.chunk and self.segment and self.segment % self.chunk:
            raise ValueError(
                f"Backward: chunk must divide segment, got {self.chunk} and {self.segment}"
            )

    @property
    def row(self) -> Mode:
        """The row of the table of modes."""
        return MODES[self.mode]
