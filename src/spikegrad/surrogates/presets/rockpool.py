"""rockpool 3.1.0, ``rockpool.nn.modules``: several spikes per step.

In a cell, multiples are of its threshold. The derivative with respect to the threshold is −1 times
the slope here, and −v/threshold times the slope in rockpool. Both are equal if v equals the
threshold.
"""

from ..._spike_types import multi_spike
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import LeakyRelu, SlayerGrad
from .._algebra import shifted
from ._ratio import ratio

ABSENT = {
    "sigmoid": "it is an output function without spikes",
    "dynapse": "its step_pwl fires with the logarithm of a current",
}


def StepPWL(
    threshold: Real = 1.0, window: Real = 0.5, max_spikes_per_dt: int = 2**16
) -> Surrogate:
    """Step that starts below the threshold, from LIFTorch."""
    return multi_spike(
        ratio(1, threshold) * shifted(LeakyRelu(0, 1), -1 * window),
        int(max_spikes_per_dt),
        slopes="first",
    )


def step_pwl(
    threshold: Real, window: Real = 0.5, max_spikes_per_dt: int = 2**16
) -> Surrogate:
    """StepPWL of LIFJax. Its code was read but never run."""
    return StepPWL(threshold, window, max_spikes_per_dt)


def PeriodicExponential(
    threshold: Real = 1.0, window: Real = 0.5, max_spikes_per_dt: int = 2**16
) -> Surrogate:
    """Exponential about each multiple of the threshold, Weidel and Sheik 2021."""
    return multi_spike(
        ratio(1, threshold) * SlayerGrad(ratio(1, window)),
        int(max_spikes_per_dt),
        slopes="nearest",
    )
