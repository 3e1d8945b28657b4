"""The catalogue: one file per family of shapes, one class and its function per surrogate."""

import importlib

from .exponential import PiecewiseExp, SlayerGrad, piecewise_exp, slayer_grad
from .gaussian import ERF, GaussianGrad, MultiGaussianGrad, erf, gaussian_grad, multi_gaussian_grad
from .logistic import Dspike, Sigmoid, dspike, sigmoid
from .one_sided import (
    S2NN,
    EscapeExp,
    HardTanhGrad,
    LeakyRelu,
    LogTailedRelu,
    OneSidedExp,
    OneSidedInvSquare,
    Softplus,
    escape_exp,
    hard_tanh_grad,
    leaky_relu,
    log_tailed_relu,
    one_sided_exp,
    one_sided_inv_square,
    s2nn,
    softplus,
)
from .periodic import PeriodicExp, SquarewaveFourierSeries, periodic_exp, squarewave_fourier_series
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
    ArctanApprox,
    CappedInverse,
    Circle,
    InvSquareGrad,
    NonzeroSignLog,
    PowerTail,
    QPseudoSpike,
    SoftSign,
    arctan,
    arctan_approx,
    capped_inverse,
    circle,
    inv_square_grad,
    nonzero_sign_log,
    power_tail,
    q_pseudo_spike,
    soft_sign,
)

__all__ = [
    "ERF",
    "S2NN",
    "Arctan",
    "ArctanApprox",
    "CappedInverse",
    "Circle",
    "Dspike",
    "EscapeExp",
    "GaussianGrad",
    "HardTanhGrad",
    "InvSquareGrad",
    "LeakyRelu",
    "LogTailedRelu",
    "MultiGaussianGrad",
    "NonzeroSignLog",
    "OneSidedExp",
    "OneSidedInvSquare",
    "PeriodicExp",
    "PiecewiseExp",
    "PiecewiseLeakyRelu",
    "PiecewiseQuadratic",
    "PowerTail",
    "QPseudoSpike",
    "ReluGrad",
    "Sigmoid",
    "SlayerGrad",
    "SoftSign",
    "Softplus",
    "SquarewaveFourierSeries",
    "arctan",
    "arctan_approx",
    "capped_inverse",
    "circle",
    "dspike",
    "erf",
    "escape_exp",
    "gaussian_grad",
    "hard_tanh_grad",
    "inv_square_grad",
    "leaky_relu",
    "log_tailed_relu",
    "multi_gaussian_grad",
    "nonzero_sign_log",
    "one_sided_exp",
    "one_sided_inv_square",
    "periodic_exp",
    "piecewise_exp",
    "piecewise_leaky_relu",
    "piecewise_quadratic",
    "power_tail",
    "q_pseudo_spike",
    "relu_grad",
    "s2nn",
    "sigmoid",
    "slayer_grad",
    "soft_sign",
    "softplus",
    "squarewave_fourier_series",
]


def __getattr__(name):
    """The presets of other libraries, which most programs do not need, are imported when they are asked for."""
    if name == "presets":
        return importlib.import_module(".presets", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
