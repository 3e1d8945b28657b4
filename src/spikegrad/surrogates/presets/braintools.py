"""braintools 0.4.0, ``braintools.surrogate``: the same names, parameters and defaults as here."""

from ..exponential import PiecewiseExp, SlayerGrad
from ..gaussian import ERF, GaussianGrad, MultiGaussianGrad
from ..logistic import Sigmoid
from ..one_sided import S2NN, LeakyRelu, LogTailedRelu
from ..periodic import SquarewaveFourierSeries
from ..piecewise import PiecewiseLeakyRelu, PiecewiseQuadratic, ReluGrad
from ..power_law import Arctan, InvSquareGrad, NonzeroSignLog, QPseudoSpike, SoftSign

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
]
