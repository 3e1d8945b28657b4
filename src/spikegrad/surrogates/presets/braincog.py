"""BrainCog 0.2.7, ``braincog.base.strategy.surrogate``.

Most surrogates fire for x > 0, some for x ≥ 0.

With ``requires_grad``, ``AtanGrad`` and ``ReLUGrad`` train their parameter. All other surrogates
ignore it, as in BrainCog.
"""

from ..._settings import learnable
from ..._spike_types import multi_spike, strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import Arctan, LeakyRelu, PiecewiseLeakyRelu, PiecewiseQuadratic, Sigmoid
from .._algebra import shifted, truncated
from ._ratio import ratio

ABSENT = {
    "EIGrad": "it fires 1 above the threshold, -1 below and 0 at it. Except at 0, it is 2 * "
    "fire(x) - 1 with fire = strict(0.5 * PiecewiseLeakyRelu(0, 0.5))"
}


def SigmoidGrad(alpha: Real = 1.0, requires_grad: bool = False) -> Surrogate:
    """Logistic function. It fires for x ≥ 0."""
    return Sigmoid(alpha)


def AtanGrad(alpha: Real = 2.0, requires_grad: bool = True) -> Surrogate:
    """Arctangent of area 1. By default its steepness is trained."""
    return learnable(strict(Arctan(alpha))) if requires_grad else strict(Arctan(alpha))


def GateGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """Box of height 1. Its docstring states a logarithm. At its edges, BrainCog has 0."""
    return strict(ratio(2, alpha) * PiecewiseLeakyRelu(0, ratio(1, alpha)))


def QGateGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """Triangle of area 1."""
    return strict(PiecewiseQuadratic(alpha))


def ReLUGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """Constant above the threshold. It fires for x ≥ 0. At x = 0, the slope of BrainCog is 0."""
    return learnable(LeakyRelu(0, alpha)) if requires_grad else LeakyRelu(0, alpha)


def RoundGrad() -> Surrogate:
    """Up to 5 spikes, straight-through from −1/2 to 4.5.

    BrainCog excludes the multiples and the ends.
    """
    return multi_spike(shifted(truncated(LeakyRelu(1, 1), 2.5), 2), 5, slopes="first")


def straight_through_estimator() -> Surrogate:
    """Straight-through estimator. It fires for x ≥ 0."""
    return LeakyRelu(1, 1)


def STDPGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """The spike itself as the slope. At the threshold, BrainCog has 0. It ignores alpha."""
    return strict(LeakyRelu(0, 1))


def BackEIGateGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """Box of width and height 1. At its edges, BrainCog has 0. It ignores alpha."""
    return strict(PiecewiseLeakyRelu(0, 0.5))
