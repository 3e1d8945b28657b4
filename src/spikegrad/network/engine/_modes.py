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

from ..._struct import Domain
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
    """Options of the backward pass of a network: the arrays that it stores, and how far gradients
    flow back in time.

    Pass it to a call: ``network(inputs, backward=Backward("exact", truncate=20))``. If you need the
    mode only, pass its name, such as ``backward="half"``. The outputs of the network are equal with
    all options. Start with the default, and choose another mode if the memory of the device does
    not suffice.

    Parameters
    ----------
    mode : {"exact", "half", "8-bit", "recompute", "scan"}
        The memory mode: the arrays that the forward pass stores for the backward pass.

        - ``"exact"`` stores the state before the spike, for each neuron and time step.
        - ``"half"`` stores this state in 16 bits, which takes half of the memory of float32. The
          spikes in the backward pass stay exact. The slopes get a relative error of at most 0.4%.
        - ``"8-bit"`` stores the distance between potential and threshold in 8 bits, and other
          arrays of the state in 16 bits.
        - ``"recompute"`` stores the states at the start of each segment only. The backward pass
          computes the states within a segment again, which takes more time.
        - ``"scan"`` runs ``jax.lax.scan``, and JAX chooses the arrays to store, usually more than
          ``"exact"``. Use it for forward-mode derivatives (``jax.jvp``). Convolutions are slow in
          it on CPUs.
    chunk : int, optional
        Number of successive time steps that a layer computes together, in the forward and in the
        backward pass, if they do not depend on each other. For example, one matrix product
        multiplies the inputs of 10 time steps by the weights. With a longer chunk, the weights are
        read less often, and more memory is needed. It must divide ``segment``, and should divide
        the number of time steps. The section Notes has the default.
    segment : int, optional
        Number of time steps in a segment. Only the states at the start of each segment are stored,
        and the backward pass computes the other states again. In the mode ``"recompute"``, the
        default is about the square root of the number of time steps. The other modes have segments
        only if you pass this number.
    truncate : int, optional
        Number of time steps in a window of truncated backpropagation, such as 20. Gradients then do
        not flow through states from one window to the window before it. By default gradients flow
        through all time steps.
    unroll : int, optional
        Number of time steps that one iteration of a compiled loop contains. The section Notes has
        the default, which you rarely need to change.

    Raises
    ------
    ValueError
        If the mode is unknown, if another argument is not an integer above 0, or if ``chunk`` does
        not divide ``segment``. Also for ``chunk`` or ``segment`` in the mode ``"scan"``.

    Notes
    -----
    The default of ``chunk`` is about 10 in the mode ``"exact"``, and about 5 in the other modes. On
    CPUs, it is shorter if the states of a chunk would have more than 65,536 elements and more than
    four times as many elements as the weights. It is 1 for convolutions, which are not faster
    together, unless other weights have more elements than the states of one time step. On GPUs, it
    is about 10 in all modes and 8 for convolutions. It is less in networks of more than 9 layers.

    The default of ``unroll`` is 1 on CPUs, because more time steps only take more time to compile.
    On GPUs, it is the length of a chunk, and the GPU runs a chunk as one CUDA graph. It is 4 in the
    mode ``"scan"``. On TPUs, it is 4, because an iteration of a loop takes microseconds there.

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
        Domain(choices=tuple(MODES)).check("Backward", "mode", self.mode)
        for name in ("chunk", "segment", "truncate", "unroll"):
            length = getattr(self, name)
            if length is None:
                continue
            # NumPy's integers too, which a computed length is.
            is_count = isinstance(length, numbers.Integral) and int(length) > 0
            if not is_count:
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
        """The properties of the memory mode, which the library uses."""
        return MODES[self.mode]
