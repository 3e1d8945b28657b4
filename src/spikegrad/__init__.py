"""Surrogate gradients for spiking neural networks on JAX: the step forward, a smooth slope backward."""

from . import surrogates
from ._functional import functional
from ._record import parameter
from ._registry import get, names
from ._spike import spike
from ._surrogate import Surrogate, learnable
from .neurons import LIF, Cell, LeakyReadout, unroll
from .surrogates import *  # noqa: F403

__version__ = "0.1.0"
__all__ = [
    "LIF",
    "Cell",
    "LeakyReadout",
    "Surrogate",
    "functional",
    "get",
    "learnable",
    "names",
    "parameter",
    "spike",
    "unroll",
]
__all__ += surrogates.__all__
