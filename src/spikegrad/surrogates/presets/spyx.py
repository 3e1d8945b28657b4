"""spyx 1.0.0, ``spyx.axn``. It fires for x > 0."""

import math

from ..._spike_types import strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import (
    Arctan,
    HardTanhGrad,
    InvSquareGrad,
    LeakyRelu,
    PiecewiseLeakyRelu,
    ReluGrad,
    Sigmoid,
)
from ._ratio import ratio

ABSENT = {
    "sigmoid_bernoulli": "its slope is the probability, max_prob * Softplus(k). "
    "stochastic(Sigmoid(k)) has the derivative of the probability",
    "refractory_sigmoid_bernoulli": "its slope is the probability instead of its derivative, "
    "and is not a curve here",
}


def custom() -> Surrogate:
    """Default of spyx, documented as straight-through.

    The slope is x, here up to |x| = 64 and constant beyond.
    """
    return strict(64 * HardTanhGrad(1 / 64) + LeakyRelu(-64, -64))


def tanh(k: Real = 1) -> Surrogate:
    """1 − tanh(k·x)², with peak 1 for any steepness."""
    return strict(ratio(2, k) * Sigmoid(2 * k))


def boxcar(width: Real = 2, height: Real = 0.5) -> Surrogate:
    """Box. At its edges, spyx has 0."""
    return strict(height * width * PiecewiseLeakyRelu(0, width / 2))


def triangular(k: Real = 2) -> Surrogate:
    """Triangle of height 1, Esser et al. 2016."""
    return strict(ReluGrad(k, ratio(1, k)))


def arctan(k: Real = 2) -> Surrogate:
    """Arctangent of height 1/π for any steepness."""
    return strict(ratio(1 / math.pi, k) * Arctan(2 * k))


def superspike(k: Real = 25) -> Surrogate:
    """SuperSpike, Zenke and Ganguli 2018."""
    return strict(InvSquareGrad(k))
