"""snnax 0.0.1, ``snnax.functional.surrogate``."""

from ..._struct import Real
from ..._surrogate import Surrogate
from .. import NonzeroSignLog, PiecewiseLeakyRelu
from ._ratio import ratio

ABSENT = {
    "sigmoid_surrogate": "its derivative raises a TypeError in snnax. Use Sigmoid(beta)"
}


def superspike_surrogate(beta: Real = 10.0) -> Surrogate:
    """Slope 1/(1 + beta·|x|). Unlike SuperSpike, it is not squared."""
    return ratio(1, beta) * NonzeroSignLog(beta)


def piecewise_surrogate(beta: Real = 0.5) -> Surrogate:
    """Box of height 1. At its edges, snnax has 0."""
    return 2 * beta * PiecewiseLeakyRelu(0, beta)
