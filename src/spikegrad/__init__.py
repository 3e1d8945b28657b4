"""Surrogate gradients for spiking neural networks in JAX: a step forward, a smooth slope
backward."""

import contextlib
import importlib
import pkgutil
import typing

from . import surrogates as surrogates
from ._bounded import Bounded, bounded
from ._functional import functional
from ._settings import keep_slope, learnable
from ._spike import spike
from ._spike_types import multi_spike, signed, soft, stochastic, strict
from ._struct import parameter
from ._surrogate import Surrogate
from .surrogates import (
    ERF,
    S2NN,
    Arctan,
    GaussianGrad,
    InvSquareGrad,
    LeakyRelu,
    LogTailedRelu,
    MultiGaussianGrad,
    NonzeroSignLog,
    PiecewiseExp,
    PiecewiseLeakyRelu,
    PiecewiseQuadratic,
    QPseudoSpike,
    ReluGrad,
    Sigmoid,
    SlayerGrad,
    SoftSign,
    SquarewaveFourierSeries,
    arctan,
    erf,
    gaussian_grad,
    inv_square_grad,
    leaky_relu,
    log_tailed_relu,
    multi_gaussian_grad,
    nonzero_sign_log,
    piecewise_exp,
    piecewise_leaky_relu,
    piecewise_quadratic,
    q_pseudo_spike,
    relu_grad,
    s2nn,
    sigmoid,
    slayer_grad,
    soft_sign,
    squarewave_fourier_series,
)
from .surrogates._algebra import shifted, stretched, truncated
from .surrogates._measures import measure, rescaled
from .surrogates._registry import get, names

if typing.TYPE_CHECKING:
    from . import data as data
    from . import exchange as exchange
    from . import inspect as inspect
    from . import losses as losses
    from . import network as network
    from . import neurons as neurons
    from . import testing as testing
    from . import training as training
    from .inspect import residual_report
    from .inspect.diagnosis import diagnose, diagnose_layer
    from .network import (
        Backward,
        Delayed,
        DelayKernel,
        Join,
        Layer,
        Network,
        Window,
        draw_weights,
        fluctuation_driven,
        fold_normalization,
        match_widths,
        rounded_delays,
    )
    from .neurons import (
        LIF,
        AdaptiveLIF,
        Cell,
        LeakyReadout,
        Refractory,
        SynapticLIF,
        decay_from_tau,
        unroll,
    )

__version__ = "0.1.0"
__all__ = [
    "ERF",
    "LIF",
    "S2NN",
    "AdaptiveLIF",
    "Arctan",
    "Backward",
    "Bounded",
    "Cell",
    "DelayKernel",
    "Delayed",
    "GaussianGrad",
    "InvSquareGrad",
    "Join",
    "Layer",
    "LeakyReadout",
    "LeakyRelu",
    "LogTailedRelu",
    "MultiGaussianGrad",
    "Network",
    "NonzeroSignLog",
    "PiecewiseExp",
    "PiecewiseLeakyRelu",
    "PiecewiseQuadratic",
    "QPseudoSpike",
    "Refractory",
    "ReluGrad",
    "Sigmoid",
    "SlayerGrad",
    "SoftSign",
    "SquarewaveFourierSeries",
    "Surrogate",
    "SynapticLIF",
    "Window",
    "arctan",
    "bounded",
    "decay_from_tau",
    "diagnose",
    "diagnose_layer",
    "draw_weights",
    "erf",
    "fluctuation_driven",
    "fold_normalization",
    "functional",
    "gaussian_grad",
    "get",
    "inv_square_grad",
    "keep_slope",
    "leaky_relu",
    "learnable",
    "log_tailed_relu",
    "match_widths",
    "measure",
    "multi_gaussian_grad",
    "multi_spike",
    "names",
    "nonzero_sign_log",
    "parameter",
    "piecewise_exp",
    "piecewise_leaky_relu",
    "piecewise_quadratic",
    "q_pseudo_spike",
    "relu_grad",
    "rescaled",
    "residual_report",
    "rounded_delays",
    "s2nn",
    "shifted",
    "sigmoid",
    "signed",
    "slayer_grad",
    "soft",
    "soft_sign",
    "spike",
    "squarewave_fourier_series",
    "stochastic",
    "stretched",
    "strict",
    "truncated",
    "unroll",
]


_ON_DEMAND = "neurons", "network", "inspect", "inspect.diagnosis"

if not typing.TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name):
        """Import modules at their first use, because they take as long as all other imports."""
        for module in _ON_DEMAND if name in __all__ else ():
            imported = importlib.import_module(f".{module}", __name__)
            if hasattr(imported, name):
                return globals().setdefault(name, getattr(imported, name))
        if name in _modules():
            try:
                return importlib.import_module(f".{name}", __name__)
            except (
                ModuleNotFoundError
            ) as error:  # its extra is not installed, which help() and hasattr() survive
                raise AttributeError(str(error)) from error
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_home_of(name)}")

    def __dir__():
        return sorted([*__all__, *_modules(), "__version__"])

    def _modules():
        return [
            module.name
            for module in pkgutil.iter_modules(__path__)
            if not module.name.startswith("_")
        ]

    def _home_of(name):
        """Return the end of a message that names the module of a public name, or nothing."""
        for module in _modules() if not name.startswith("_") else ():
            with contextlib.suppress(ImportError):
                if name in getattr(importlib.import_module(f".{module}", __name__), "__all__", ()):
                    return f"; write {__name__}.{module}.{name}"
        return ""
