"""SpikingJelly 2.0.0, ``spikingjelly.activation_based.surrogate``.

``spiking=False`` returns the smooth step.
"""

from ... import surrogates
from ..._spike_types import soft, stochastic
from ..._struct import Real
from ..._surrogate import Surrogate
from ._ratio import ratio

ABSENT = {
    "MultiLevelSpikeCount": "it rounds x, so the first spike is at 1/2. In a cell of threshold "
    "0.5 it is multi_spike(shifted(truncated(LeakyRelu(1, 1), n / 2), n / 2 - 0.5), n, 2.0, "
    "'first'), except that ties are rounded to even",
}


def _mode(curve: Surrogate, spiking: bool) -> Surrogate:
    return curve if spiking else soft(curve)


def PiecewiseQuadratic(alpha: Real = 1.0, spiking: bool = True) -> Surrogate:
    """Triangle of area 1."""
    return _mode(surrogates.PiecewiseQuadratic(alpha), spiking)


def PiecewiseExp(alpha: Real = 1.0, spiking: bool = True) -> Surrogate:
    """Two-sided exponential of area 1."""
    return _mode(surrogates.PiecewiseExp(alpha), spiking)


def Sigmoid(alpha: Real = 4.0, spiking: bool = True) -> Surrogate:
    """Logistic function, the default of its neurons."""
    return _mode(surrogates.Sigmoid(alpha), spiking)


def SoftSign(alpha: Real = 2.0, spiking: bool = True) -> Surrogate:
    """Inverse square of area 1."""
    return _mode(surrogates.SoftSign(alpha), spiking)


def SuperSpike(alpha: Real = 1.0, spiking: bool = True) -> Surrogate:
    """Inverse square of steepness 1 and height alpha.

    SpikingJelly does not define its smooth step.
    """
    # g(x) = alpha / (1 + |x|)^2: alpha is the height, and the steepness stays 1.
    return _mode(alpha * surrogates.InvSquareGrad(1), spiking)


def ATan(alpha: Real = 2.0, spiking: bool = True) -> Surrogate:
    """Arctangent of area 1, Fang et al. 2021."""
    return _mode(surrogates.Arctan(alpha), spiking)


def NonzeroSignLogAbs(alpha: Real = 1.0, spiking: bool = True) -> Surrogate:
    """Inverse distance, the slope of a logarithm."""
    return _mode(surrogates.NonzeroSignLog(alpha), spiking)


def Erf(alpha: Real = 2.0, spiking: bool = True) -> Surrogate:
    """Gaussian of area 1."""
    return _mode(surrogates.ERF(alpha), spiking)


def PiecewiseLeakyReLU(
    w: Real = 1.0, c: Real = 0.01, spiking: bool = True
) -> Surrogate:
    """Box with a floor. At |x| = w, SpikingJelly has the height of the floor."""
    return _mode(surrogates.PiecewiseLeakyRelu(c, w), spiking)


def SquarewaveFourierSeries(
    n: int = 2, T_period: Real = 8, spiking: bool = True
) -> Surrogate:
    """Square wave of n − 1 terms, n ≥ 2."""
    # SpikingJelly counts from 1 to n, exclusive.
    return _mode(surrogates.SquarewaveFourierSeries(n - 1, T_period), spiking)


def S2NN(alpha: Real = 4.0, beta: Real = 1.0, spiking: bool = True) -> Surrogate:
    """Logistic below the threshold, logarithmic above, Suetake et al. 2022."""
    return _mode(surrogates.S2NN(alpha, beta, 1e-5), spiking)


def QPseudoSpike(alpha: Real = 2.0, spiking: bool = True) -> Surrogate:
    """Power law of Herranz-Celotti and Rouat 2022, alpha > 1.

    The surrogate of braintools with this name differs.
    """
    return _mode(surrogates.PowerTail(alpha), spiking)


def LeakyKReLU(leak: Real = 0.0, k: Real = 1.0, spiking: bool = True) -> Surrogate:
    """Constant on each side of the threshold."""
    return _mode(surrogates.LeakyRelu(leak, k), spiking)


def FakeNumericalGradient(alpha: Real = 0.3) -> Surrogate:
    """Inverse distance, capped."""
    return surrogates.CappedInverse(alpha)


def LogTailedReLU(alpha: Real = 0.0, spiking: bool = True) -> Surrogate:
    """1 above the threshold, and 1/x above 1, Cai et al. 2017."""
    return _mode(surrogates.LogTailedRelu(alpha), spiking)


def DeterministicPass(spiking: bool = True) -> Surrogate:
    """Straight-through estimator."""
    return _mode(surrogates.LeakyRelu(1, 1), spiking)


def PoissonPass(spiking: bool = True) -> Surrogate:
    """Spike of probability x, between 0 and 1, straight-through.

    For other x, SpikingJelly raises an error.
    """
    # The smooth step x of the straight-through estimator is the probability.
    return (stochastic if spiking else soft)(surrogates.LeakyRelu(1, 1))


def Rect(alpha: Real = 1.0, spiking: bool = True) -> Surrogate:
    """Box of area 1. At its edges, SpikingJelly has 0."""
    # alpha is the height of a box of area 1, so its half-width is 0.5 / alpha.
    return _mode(surrogates.PiecewiseLeakyRelu(0, ratio(0.5, alpha)), spiking)
