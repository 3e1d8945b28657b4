"""snnax 0.0.1, ``snnax.functional.surrogate``."""

from ..._struct import Real
from ..._surrogate import Surrogate
from .. import NonzeroSignLog, PiecewiseLeakyRelu
from ._ratio import ratio

ABSENT = {"sigmoid_surrogate": "its derivative raises a TypeError there; what it means is Sigmoid(beta)"}


def superspike_surrogate(beta: Real = 10.0) -> Surrogate:
    """No SuperSpike: 1/(1 + beta·|x|), not squared."""
    return ratio(1, beta) * NonzeroSignLog(beta)


def piecewise_surrogate(beta: Real = 0.5) -> Surrogate:
    """Box of height 1; at its edges it is 0 there."""
    return 2 * beta * PiecewiseLeakyRelu(0, beta)
