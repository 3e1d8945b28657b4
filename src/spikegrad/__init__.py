"""Surrogate gradients for spiking neural networks on JAX: the step forward, a smooth slope backward."""

from . import surrogates
from ._functional import functional
from ._kinds import levels, signed, soft, stochastic
from ._spike import spike
from ._struct import Bounded, bounded, parameter
from ._surrogate import Surrogate, keep_slope, learnable
from .inspect import residual_report
from .network import Layer, Network
from .neurons import LIF, AdaptiveLIF, Cell, LeakyReadout, Refractory, SynapticLIF, decay_from_tau, unroll
from .surrogates import *  # noqa: F403
from .surrogates._registry import get, names

__version__ = "0.1.0"
__all__ = [
    "LIF",
    "AdaptiveLIF",
    "Bounded",
    "Cell",
    "Layer",
    "LeakyReadout",
    "Network",
    "Refractory",
    "Surrogate",
    "SynapticLIF",
    "bounded",
    "decay_from_tau",
    "functional",
    "get",
    "keep_slope",
    "learnable",
    "levels",
    "names",
    "parameter",
    "residual_report",
    "signed",
    "soft",
    "spike",
    "stochastic",
    "unroll",
]
__all__ += surrogates.__all__
