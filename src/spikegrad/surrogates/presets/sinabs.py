"""sinabs 3.1.3, ``sinabs.activation``.

In sinabs, slopes are separate functions of the potential and the threshold. Here the threshold is
their last parameter, if they depend on it. Without a spike type they fire like ``SingleSpike``, for
x ≥ 0. The default of sinabs neurons is ``MultiSpike``, with the slope of the first spike only.
"""

from ..._spike_types import multi_spike
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import GaussianGrad, LeakyRelu, MultiGaussianGrad, PeriodicExp, SlayerGrad
from .._algebra import shifted
from ._ratio import ratio

ABSENT = {
    "Quantize": "it rounds with a straight-through gradient, without spikes",
    "StochasticRounding": "it rounds with a straight-through gradient, without spikes",
}


def MultiSpike(surrogate_grad_fn: Surrogate | None = None) -> Surrogate:
    """Spike for each multiple of the threshold, at most 65536, with SingleExponential() by
    default."""
    return MaxSpike(2**16, surrogate_grad_fn)


def MaxSpike(
    max_num_spikes_per_bin: int | None = None,
    surrogate_grad_fn: Surrogate | None = None,
) -> Surrogate:
    """Spike for each multiple of the threshold, up to a number, with SingleExponential() by
    default.
    """
    return multi_spike(
        surrogate_grad_fn or SingleExponential(),
        max_num_spikes_per_bin or 2**16,
        slopes="first",
    )


def Heaviside(window: Real = 1.0, *, spike_threshold: Real = 1.0) -> Surrogate:
    """Step that starts below the threshold."""
    # 0 below -window and 1 above. Sinabs divides by the threshold.
    return ratio(1, spike_threshold) * shifted(LeakyRelu(0, 1), -1 * window)


def Gaussian(mu: Real = 0.0, sigma: Real = 0.5, grad_scale: Real = 1.0) -> Surrogate:
    """Gaussian of area grad_scale about mu."""
    return shifted(GaussianGrad(sigma, grad_scale), mu)


def MultiGaussian(
    mu: Real = 0.0,
    sigma: Real = 0.5,
    h: Real = 0.15,
    s: Real = 6,
    grad_scale: Real = 1.0,
) -> Surrogate:
    """Gaussian with flanks, Yin et al. 2021. Only the middle moves with mu."""
    if isinstance(mu, (int, float)) and mu == 0:
        return MultiGaussianGrad(h, s, sigma, grad_scale)
    middle, flank = (
        GaussianGrad(sigma, grad_scale * (1 + h)),
        GaussianGrad(s * sigma, -1 * grad_scale * h),
    )
    return shifted(middle, mu) + shifted(flank, sigma) + shifted(flank, -1 * sigma)


def SingleExponential(
    grad_width: Real = 0.5, grad_scale: Real = 1.0, *, spike_threshold: Real = 1.0
) -> Surrogate:
    """Two-sided exponential of area 2·grad_scale, Shrestha and Orchard 2018.

    Its width is relative to the threshold.
    """
    width = spike_threshold * grad_width
    return ratio(grad_scale, width) * SlayerGrad(ratio(1, width))


def PeriodicExponential(
    grad_width: Real = 0.5, grad_scale: Real = 1.0, *, spike_threshold: Real = 1.0
) -> Surrogate:
    """Exponentials at all multiples of the threshold, twice as steep above it as below, Weidel and
    Sheik 2021.
    """
    return grad_scale * PeriodicExp(
        ratio(1, grad_width), ratio(2, grad_width), spike_threshold
    )
