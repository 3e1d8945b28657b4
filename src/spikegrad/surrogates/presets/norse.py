"""norse 1.1.0: the values of a neuron's ``method``, with the ``alpha`` of its parameters.

It fires for x > 0.
"""

from ..._spike_types import strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import ERF, Circle, InvSquareGrad, ReluGrad, Sigmoid
from ._ratio import ratio

ABSENT = {
    "heaviside": "it lacks a derivative in norse",
    "sign": "it is 2 * fire(x) - 1, with any of these for fire",
    "logistic_fn": "its slope, 2 / k * Sigmoid(2 * k), is not the derivative of its "
    "probability: a pair is stochastic(Sigmoid(2 * k))",
    "circ_dist_fn": "its slope, Circle(k), is not the derivative of its probability, "
    "1 / (2 * k) * Circle(k)",
}


def super(alpha: Real = 100.0) -> Surrogate:
    """Inverse square of steepness 1. The release of 2024 ignores alpha, unlike super_git."""
    return strict(InvSquareGrad(1))


def super_git(alpha: Real = 100.0) -> Surrogate:
    """SuperSpike of later versions in its repository."""
    return strict(InvSquareGrad(alpha))


def triangle(alpha: Real = 100.0) -> Surrogate:
    """Triangle of width 1 and height alpha.

    The default is 0.3 in triangle_fn and 100 in a neuron.
    """
    return strict(ReluGrad(alpha, 1))


def tanh(alpha: Real = 100.0) -> Surrogate:
    """1 − tanh(alpha·x)², with peak 1 for any steepness."""
    return strict(ratio(2, alpha) * Sigmoid(2 * alpha))


def circ(alpha: Real = 100.0) -> Surrogate:
    """Circle. Here alpha is the width instead of the steepness."""
    return strict(Circle(alpha))


def heavi_erfc(alpha: Real = 100.0) -> Surrogate:
    """Gaussian of peak 2/√π for any steepness."""
    return strict(ratio(2, alpha) * ERF(alpha))
