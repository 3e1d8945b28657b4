"""sparx (the package sparxml) 0.1.1, ``sparx.surrogate``."""

from ..._struct import Real
from ..._surrogate import Surrogate
from .. import (
    Arctan,
    GaussianGrad,
    InvSquareGrad,
    LeakyRelu,
    PiecewiseLeakyRelu,
    ReluGrad,
    Sigmoid as _Sigmoid,
)
from ._ratio import ratio


def ATan(alpha: Real = 2.0) -> Surrogate:
    """Arctangent of area 1, Fang et al. 2021."""
    return Arctan(alpha)


def Sigmoid(alpha: Real = 4.0) -> Surrogate:
    """Logistic function."""
    return _Sigmoid(alpha)


def FastSigmoid(slope: Real = 25.0) -> Surrogate:
    """SuperSpike, Zenke and Ganguli 2018."""
    return InvSquareGrad(slope)


def Triangle(width: Real = 1.0, scale: Real = 1.0) -> Surrogate:
    """Triangle of height scale, Bellec et al. 2018."""
    return ReluGrad(ratio(scale, width), width)


def Rectangle(width: Real = 1.0) -> Surrogate:
    """Box of area 1, Wu et al. 2018. At its edges, sparx has 0."""
    return PiecewiseLeakyRelu(0, width / 2)


def Gaussian(sigma: Real = 0.5) -> Surrogate:
    """Gaussian of area 1, Wu et al. 2018."""
    return GaussianGrad(sigma, 1)


def StraightThrough() -> Surrogate:
    """Straight-through estimator."""
    return LeakyRelu(1, 1)
