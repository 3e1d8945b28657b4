"""BrainCog 0.2.7, ``braincog.base.strategy.surrogate``. Most of them fire where x > 0, some where x ≥ 0.

With ``requires_grad``, ``AtanGrad`` and ``ReLUGrad`` train their parameter; it has no effect on the others, nor there.
"""

from ..._settings import learnable
from ..._spike_types import multi_spike, strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import Arctan, LeakyRelu, PiecewiseLeakyRelu, PiecewiseQuadratic, Sigmoid
from .._algebra import shifted, truncated
from ._ratio import ratio

ABSENT = {
    "EIGrad": "it fires 1 above the threshold, -1 below and 0 at it: but there, it is 2 * fire(x) - 1 with "
    "fire = strict(0.5 * PiecewiseLeakyRelu(0, 0.5))"
}


def SigmoidGrad(alpha: Real = 1.0, requires_grad: bool = False) -> Surrogate:
    """Logistic function; it fires where x ≥ 0."""
    del requires_grad
    return Sigmoid(alpha)


def AtanGrad(alpha: Real = 2.0, requires_grad: bool = True) -> Surrogate:
    """Arctangent of area 1, whose steepness is trained by default."""
    return learnable(strict(Arctan(alpha))) if requires_grad else strict(Arctan(alpha))


def GateGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """Box of height 1, where its docstring has a logarithm; at its edges it is 0 there."""
    del requires_grad
    return strict(ratio(2, alpha) * PiecewiseLeakyRelu(0, ratio(1, alpha)))


def QGateGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """Triangle of area 1."""
    del requires_grad
    return strict(PiecewiseQuadratic(alpha))


def ReLUGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """A constant above the threshold; it fires where x ≥ 0, and at 0 the slope is 0 there."""
    return learnable(LeakyRelu(0, alpha)) if requires_grad else LeakyRelu(0, alpha)


def RoundGrad() -> Surrogate:
    """Up to 5 spikes, straight through from −1/2 to 4.5; there neither a multiple itself nor an end counts."""
    return multi_spike(shifted(truncated(LeakyRelu(1, 1), 2.5), 2), 5, slopes="first")


def straight_through_estimator() -> Surrogate:
    """Straight-through estimator; it fires where x ≥ 0."""
    return LeakyRelu(1, 1)


def STDPGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """The spike itself as the slope, which at the threshold is 0 there; alpha has no effect."""
    del alpha, requires_grad
    return strict(LeakyRelu(0, 1))


def BackEIGateGrad(alpha: Real = 2.0, requires_grad: bool = False) -> Surrogate:
    """Box of width and height 1; at its edges it is 0 there; alpha has no effect."""
    del alpha, requires_grad
    return strict(PiecewiseLeakyRelu(0, 0.5))
