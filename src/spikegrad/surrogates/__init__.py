"""All surrogates, and functions that measure, rescale and combine them. The 18 surrogates of the
library braintools are also functions here, so this module can replace ``braintools.surrogate``.

>>> from spikegrad import get, measure, rescaled
>>> from spikegrad.surrogates import Circle
>>> fire = rescaled(Circle(), peak=1.0, half_width=0.3)
>>> round(measure(fire).half_width, 2)
0.3
>>> get("arctan(alpha=2)")
Arctan(alpha=2.0)
"""

import importlib

from .._bounded import Bounded
from .._functional import functional
from .._surrogate import Surrogate
from ._algebra import (
    Stretched as Stretched,  # for the library itself
    shifted,
    stretched,
    truncated,
)
from ._measures import Measures, measure, rescaled
from ._registry import get, names
from .exponential import PiecewiseExp, SlayerGrad, piecewise_exp, slayer_grad
from .gaussian import (
    ERF,
    GaussianGrad,
    MultiGaussianGrad,
    erf,
    gaussian_grad,
    multi_gaussian_grad,
)
from .logistic import Dspike, Sigmoid, sigmoid
from .one_sided import (
    S2NN,
    EscapeExp,
    HardTanhGrad,
    LeakyRelu,
    LogTailedRelu,
    OneSidedExp,
    OneSidedInvSquare,
    Softplus,
    leaky_relu,
    log_tailed_relu,
    s2nn,
)
from .periodic import PeriodicExp, SquarewaveFourierSeries, squarewave_fourier_series
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
    inv_square_grad,
    nonzero_sign_log,
    q_pseudo_spike,
    soft_sign,
)

__all__ = [
    "ERF",
    "S2NN",
    "Arctan",
    "ArctanApprox",
    "Bounded",
    "CappedInverse",
    "Circle",
    "Dspike",
    "EscapeExp",
    "GaussianGrad",
    "HardTanhGrad",
    "InvSquareGrad",
    "LeakyRelu",
    "LogTailedRelu",
    "Measures",
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
    "Surrogate",
    "arctan",
    "erf",
    "functional",
    "gaussian_grad",
    "get",
    "inv_square_grad",
    "leaky_relu",
    "log_tailed_relu",
    "measure",
    "multi_gaussian_grad",
    "names",
    "nonzero_sign_log",
    "piecewise_exp",
    "piecewise_leaky_relu",
    "piecewise_quadratic",
    "q_pseudo_spike",
    "relu_grad",
    "rescaled",
    "s2nn",
    "shifted",
    "sigmoid",
    "slayer_grad",
    "soft_sign",
    "squarewave_fourier_series",
    "stretched",
    "truncated",
]


def __getattr__(name):
    """Import the presets of other libraries at their first use, because most programs do not need
    them.
    """
    if name == "presets":
        return importlib.import_module(".presets", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
