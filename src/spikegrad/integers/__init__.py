"""Networks that compute with integers, for chips, FPGAs and C programs.
:func:`~spikegrad.integers.quantize` converts a trained network, and
:func:`~spikegrad.integers.replay` runs it in NumPy with equal spikes.

>>> import jax
>>> from spikegrad import LIF, Network
>>> from spikegrad.integers import quantize, replay
>>> spikes = jax.random.bernoulli(jax.random.key(0), 0.1, (50, 8, 20))
>>> cell = LIF(0.9, reset="value")
>>> network = Network.init(jax.random.key(1), spikes, (30, 3), cell)
>>> integers, report = quantize(network, "fixed", spikes, bits=8)
>>> bool((integers(spikes)[1] == replay(integers, spikes)[1]).all())
True
"""

from ._c import ProgramReport, to_c
from ._cells import FixedLIF, IntegerCell, Loihi, Xylo
from ._chips import to_netx, to_xylo
from ._fixed import Fixed, fixed
from ._quantize import (
    TARGETS,
    QuantizationReport,
    QuantizedLayer,
    dequantize,
    quantize,
)
from ._replay import replay
from ._save import load, save

__all__ = [
    "TARGETS",
    "Fixed",
    "FixedLIF",
    "IntegerCell",
    "Loihi",
    "ProgramReport",
    "QuantizationReport",
    "QuantizedLayer",
    "Xylo",
    "dequantize",
    "fixed",
    "load",
    "quantize",
    "replay",
    "save",
    "to_c",
    "to_netx",
    "to_xylo",
]
