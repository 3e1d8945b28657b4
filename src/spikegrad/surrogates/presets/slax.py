"""slax 0.0.1, ``slax``."""

from ..._struct import Real
from ..._surrogate import Surrogate
from .. import Arctan, InvSquareGrad, MultiGaussianGrad


def fast_sigmoid(slope: Real = 25) -> Surrogate:
    """SuperSpike, Zenke and Ganguli 2018."""
    return InvSquareGrad(slope)


def atan(alpha: Real = 2.0) -> Surrogate:
    """Arctangent of area 1, Fang et al. 2021."""
    return Arctan(alpha)


def multi_gauss(
    gamma: Real = 0.5, lens: Real = 0.3, scale: Real = 6.0, height: Real = 0.15
) -> Surrogate:
    """Gaussian with flanks, Yin et al. 2021."""
    return MultiGaussianGrad(height, scale, lens, gamma)
