"""The defaults of the loops over time and of training, for each kind of device.

On a CPU, an iteration of a compiled loop costs nothing. Unrolled steps only take longer to compile,
and chunks of convolutions need more memory and no less time. A chunk reads the weights once for all
of its steps. Its own arrays leave the cache of the processor if it is long, and then take more time
than the weights (:meth:`Device.length_of_chunk`).

On a GPU, the host starts each kernel, and this takes longer than many kernels run. XLA compiles the
unrolled steps of a layer to one kernel. It captures a sequence of kernels as one CUDA graph, which
the host starts once, unless the sequence contains a loop. So a chunk is unrolled completely, and
nothing in it is a loop. ``benchmarks/gpu.py --described h100`` counts kernels and starts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax


class Work(NamedTuple):
    """The work of one time step of a network. It determines the length of a chunk."""

    layers: int = 1
    convolves: bool = False
    """If True, convolutions outweigh the products that a chunk computes together."""
    weights: int = 0
    """The number of elements of the weights of these products."""
    states: int = 1
    """The number of elements of the states of all layers and examples."""


class Device(NamedTuple):
    """The defaults for one kind of device."""

    chunk: int
    """The length of a chunk, the number of steps that compute their products together."""
    saving_chunk: int
    """The length of a chunk in the modes that save memory. A chunk holds its rebuilt arrays."""
    image_chunk: int
    """The largest length of a chunk if convolutions outweigh the other products."""
    unroll: int
    """The number of steps that a loop unrolls per iteration, if no graph captures it."""
    captures_chunks: bool
    """If True, a chunk is unrolled completely and contains no loop."""
    cached: int
    """The largest number of elements of an array of a chunk that stays in the cache."""
    allocates_early: bool
    """If True, XLA allocates the results of all loops at the start of a program."""
    layer_steps: int
    """The largest number of steps of a chunk, added over all layers.

    It bounds the compile time of unrolled chunks.
    """
    copies_ahead: bool
    """If True, ``fit`` copies the batches of the next call while the device computes."""

    def length_of_chunk(self, saves: bool, work: Work) -> int:
        """Return the usual length of a chunk. ``saves`` is True in modes that save memory."""
        length = self.saving_chunk if saves else self.chunk
        if work.convolves:
            length = min(length, self.image_chunk)
        # The arrays of a chunk, such as its rebuilt states, are (chunk, batch, neurons). They cost
        # little while they stay in the cache. They also cost little beside the weights, which a
        # chunk reads forward and backward, and their gradients, which it reads and writes.
        elements = max(self.cached, 4 * work.weights)
        fitting = elements // max(1, work.states)
        return max(1, min(length, fitting))

    def longest_chunk(self, encodes: bool, layers: int) -> int:
        """Return the largest default length of a chunk in a network of this many layers."""
        # A shorter chunk is still one graph. A loop over its steps would not be. A step has about
        # twice as many instructions in modes that encode states in few bits.
        # A stage may have joins only, which count as one layer.
        layers = max(1, layers)
        cost = 2 * layers if encodes else layers
        return max(1, self.layer_steps // cost)

    def unroll_of_chunk(self, chunk: int, layers: int) -> int:
        """Return the number of steps that the loop over a chunk unrolls per iteration."""
        if not self.captures_chunks:
            return min(self.unroll, chunk)
        # Equal iterations, because a remainder would be a second copy of the steps.
        # A stage of joins only counts as one layer.
        most = max(1, self.layer_steps // max(1, layers))
        longest = min(most, chunk)
        return max(n for n in range(1, longest + 1) if chunk % n == 0)


CPU = Device(
    chunk=10,
    saving_chunk=5,
    image_chunk=1,
    unroll=1,
    captures_chunks=False,
    # About five such arrays of float32 exist at a time. A core has 1 to 2 MB of cache.
    cached=1 << 16,
    allocates_early=True,
    layer_steps=1 << 30,
    copies_ahead=False,
)
# An iteration of a loop costs microseconds. Programs with more unrolled steps compile slowly for
# TPUs. Shorter chunks would be more iterations, so no array bounds them.
OTHER = CPU._replace(unroll=4, cached=1 << 62, allocates_early=False, copies_ahead=True)
GPU = OTHER._replace(
    # More steps start fewer graphs, but take memory and compile time.
    saving_chunk=10,
    image_chunk=8,
    captures_chunks=True,
    # Ten steps of eight layers and a readout, which compile in about four times the time of a
    # plain scan.
    layer_steps=90,
)


def this_device() -> Device:
    """Return the defaults for the device on which JAX runs programs."""
    return {"cpu": CPU, "gpu": GPU}.get(jax.default_backend(), OTHER)
