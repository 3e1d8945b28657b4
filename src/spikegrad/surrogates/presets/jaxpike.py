"""jaxpike 0.1.4, ``jaxpike.surrogate``. It fires for x > 0."""

from ..._spike_types import strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import Arctan, InvSquareGrad, PiecewiseLeakyRelu, PiecewiseQuadratic
from ._ratio import ratio


def FastSigmoid(slope: Real = 25.0) -> Surrogate:
    """SuperSpike."""
    return strict(InvSquareGrad(slope))


def ATan(alpha: Real = 2.0) -> Surrogate:
    """Arctangent of area 1."""
    return strict(Arctan(alpha))


def Triangular(width: Real = 1.0) -> Surrogate:
    """Triangle of area 1."""
    return strict(PiecewiseQuadratic(ratio(1, width)))


def Boxcar(width: Real = 1.0) -> Surrogate:
    """Box of area 1. At its edges, jaxpike has half of the height."""
    return strict(PiecewiseLeakyRelu(0, width / 2))
