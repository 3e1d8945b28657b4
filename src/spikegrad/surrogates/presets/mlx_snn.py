"""mlx-snn 0.5.0, ``mlxsnn.surrogate``.

``get_surrogate`` passes its ``scale``, 25, as the first parameter.
"""

import math

from ..._struct import Real
from ..._surrogate import Surrogate
from .. import Arctan, LeakyRelu, ReluGrad, Sigmoid, SoftSign

ABSENT = {"custom_surrogate": "it takes a custom function: subclass Surrogate"}


def fast_sigmoid_surrogate(scale: Real = 25.0) -> Surrogate:
    """Inverse square of area 1. It claims to match snnTorch, but is scale/2 times as high."""
    return SoftSign(scale)


def arctan_surrogate(alpha: Real = 2.0) -> Surrogate:
    """Arctangent of area 1 and height alpha/π."""
    return Arctan(2 * alpha / math.pi)


def straight_through_surrogate(scale: Real = 1.0) -> Surrogate:
    """Straight-through estimator. The scale is ignored."""
    return LeakyRelu(1, 1)


def sigmoid_surrogate(slope: Real = 25.0) -> Surrogate:
    """Logistic function."""
    return Sigmoid(slope)


def triangular_surrogate(scale: Real = 1.0) -> Surrogate:
    """Triangle of height and width 1. The scale is ignored."""
    return ReluGrad(1, 1)
