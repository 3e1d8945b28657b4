"""rockpool 3.1.0, ``rockpool.nn.modules``: several spikes a step.

Within a cell, multiples are those of its threshold. The derivative in the threshold is −1 times the slope here, and
−v/threshold times it there, which is the same where v is the threshold.
"""

from ..._spike_types import multi_spike
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import LeakyRelu, SlayerGrad
from .._algebra import shifted
from ._ratio import ratio

ABSENT = {
    "sigmoid": "an output and no spike",
    "dynapse": "its step_pwl fires with the logarithm of a current",
}


def StepPWL(threshold: Real = 1.0, window: Real = 0.5, max_spikes_per_dt: int = 2**16) -> Surrogate:
    """A step that begins below the threshold, of LIFTorch."""
    return multi_spike(
        ratio(1, threshold) * shifted(LeakyRelu(0, 1), -1 * window), int(max_spikes_per_dt), slopes="first"
    )


def step_pwl(threshold: Real, window: Real = 0.5, max_spikes_per_dt: int = 2**16) -> Surrogate:
    """The same, of LIFJax; it was read and not run."""
    return StepPWL(threshold, window, max_spikes_per_dt)


def PeriodicExponential(threshold: Real = 1.0, window: Real = 0.5, max_spikes_per_dt: int = 2**16) -> Surrogate:
    """An exponential about each multiple of the threshold, Weidel and Sheik 2021."""
    return multi_spike(ratio(1, threshold) * SlayerGrad(ratio(1, window)), int(max_spikes_per_dt), slopes="nearest")
