"""snnTorch 1.0.0, ``snntorch.surrogate``.

It fires for x > 0, and its spikes are float32 for any input dtype.
"""

from ..._spike_types import strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import Arctan, InvSquareGrad, LeakyRelu, OneSidedInvSquare, Sigmoid, SlayerGrad
from .._algebra import shifted
from ._ratio import ratio

ABSENT = {
    "LSO": "it raises a TypeError in snnTorch. Use strict(LeakyRelu(alpha=slope, beta=1))",
    "SSO": "its slope below the threshold is drawn at random in each backward pass",
    "custom_surrogate": "it takes a custom function: subclass Surrogate",
}


def straight_through_estimator() -> Surrogate:
    """Straight-through estimator."""
    return strict(LeakyRelu(1, 1))


def triangular(threshold: Real = 1) -> Surrogate:
    """Constant that changes its sign, and is negative above the threshold. It is not a triangle."""
    return strict(LeakyRelu(threshold, -1 * threshold))


def fast_sigmoid(slope: Real = 25) -> Surrogate:
    """SuperSpike, Zenke and Ganguli 2018, the source in its docstring."""
    return strict(InvSquareGrad(slope))


def atan(alpha: Real = 2.0) -> Surrogate:
    """Arctangent of area 1. Its docstring states another height than the code, 1/π."""
    return strict(Arctan(alpha))


def heaviside() -> Surrogate:
    """The spike itself as the slope. At the threshold it is 0 in snnTorch and 1 here."""
    return strict(LeakyRelu(0, 1))


def sigmoid(slope: Real = 25) -> Surrogate:
    """Logistic function.

    For slope·x < −709, in float32 −88, snnTorch has NaN and spikegrad has 0.
    """
    return strict(Sigmoid(slope))


def spike_rate_escape(beta: Real = 1, slope: Real = 25) -> Surrogate:
    """Exponential about x = 1, one unit above the threshold."""
    return strict(slope * shifted(SlayerGrad(beta), 1))


def SFS(slope: Real = 25, B: Real = 1) -> Surrogate:
    """SuperSpike for x > B ≥ 0, and 0 for smaller x, including the threshold.

    At x = B, snnTorch has 0.
    """
    # With u = x − B > 0 the slope is height² / (1 + slope·height·u)².
    height = ratio(1, 1 + slope * B)
    above, below = InvSquareGrad(slope * height), OneSidedInvSquare(slope * height)
    return strict(height**2 * shifted(above + -1 * below + LeakyRelu(0, 1), B))
