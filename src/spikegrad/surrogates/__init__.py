"""The catalogue: one file per family of shapes, one class and its function per surrogate."""

from .exponential import PiecewiseExp, SlayerGrad, piecewise_exp, slayer_grad
from .gaussian import ERF, GaussianGrad, MultiGaussianGrad, erf, gaussian_grad, multi_gaussian_grad
from .logistic import Sigmoid, sigmoid
from .one_sided import S2NN, LeakyRelu, LogTailedRelu, leaky_relu, log_tailed_relu, s2nn
from .periodic import SquarewaveFourierSeries, squarewave_fourier_series
from .piecewise import (
    PiecewiseLeakyRelu,
    PiecewiseQuadratic,
    ReluGrad,
    piecewise_leaky_relu,
    piecewise_quadratic,
    relu_grad,
)
from .power_law import (
    Arctan,
    InvSquareGrad,
    NonzeroSignLog,
    QPseudoSpike,
    SoftSign,
    arctan,
    inv_square_grad,
    nonzero_sign_log,
    q_pseudo_spike,
    soft_sign,
)

__all__ = [
    "ERF",
    "S2NN",
    "Arctan",
    "GaussianGrad",
    "InvSquareGrad",
    "LeakyRelu",
    "LogTailedRelu",
    "MultiGaussianGrad",
    "NonzeroSignLog",
    "PiecewiseExp",
    "PiecewiseLeakyRelu",
    "PiecewiseQuadratic",
    "QPseudoSpike",
    "ReluGrad",
    "Sigmoid",
    "SlayerGrad",
    "SoftSign",
    "SquarewaveFourierSeries",
    "arctan",
    "erf",
    "gaussian_grad",
    "inv_square_grad",
    "leaky_relu",
    "log_tailed_relu",
    "multi_gaussian_grad",
    "nonzero_sign_log",
    "piecewise_exp",
    "piecewise_leaky_relu",
    "piecewise_quadratic",
    "q_pseudo_spike",
    "relu_grad",
    "s2nn",
    "sigmoid",
    "slayer_grad",
    "soft_sign",
    "squarewave_fourier_series",
]
