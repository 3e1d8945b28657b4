"""Spiking neural networks in JAX with surrogate gradients: neurons, layers, networks over time,
surrogates, and :func:`~spikegrad.diagnose`. A spike is a step in the forward pass. The backward
pass uses a smooth slope instead of its derivative.

>>> import jax, jax.numpy as jnp
>>> from spikegrad import LIF, LeakyReadout, Network
>>> spikes = jax.random.bernoulli(jax.random.key(0), 0.1, (50, 8, 20))
>>> cells = LIF(0.9), LeakyReadout(0.9)
>>> network = Network.init(jax.random.key(1), spikes, (30, 3), *cells)
>>> states, potentials = network(spikes)
>>> potentials.shape  # steps, examples, outputs
(50, 8, 3)
"""

import contextlib
import importlib
import operator
import pkgutil
import sys
import typing
import warnings

from . import surrogates as surrogates
from ._bounded import bounded
from ._rule import spike
from ._settings import keep_slope, learnable
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
    get,
    measure,
    names,
    rescaled,
    shifted,
    stretched,
    truncated,
)

if typing.TYPE_CHECKING:
    from . import (
        conversion as conversion,
        data as data,
        exchange as exchange,
        losses as losses,
        network as network,
        neurons as neurons,
        reports as reports,
        testing as testing,
        training as training,
    )
    from .diagnosis import diagnose
    from .network import Backward, Delayed, Join, Layer, Network, Window
    from .neurons import (
        LIF,
        AdaptiveLIF,
        Cell,
        LeakyReadout,
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
    "Cell",
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
    "ReluGrad",
    "Sigmoid",
    "SlayerGrad",
    "SoftSign",
    "SquarewaveFourierSeries",
    "Surrogate",
    "SynapticLIF",
    "Window",
    "bounded",
    "decay_from_tau",
    "diagnose",
    "get",
    "keep_slope",
    "learnable",
    "measure",
    "multi_spike",
    "names",
    "parameter",
    "rescaled",
    "shifted",
    "signed",
    "soft",
    "spike",
    "stochastic",
    "stretched",
    "strict",
    "truncated",
    "unroll",
]


# These modules define names of ``__all__`` that the lines above do not import.
_ON_DEMAND = "neurons", "network", "reports", "diagnosis"
_RENAMED: dict[str, tuple[str, str]] = {}
"""Old public names: the new name within the package, and the version that removes the old one."""

if not typing.TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name):
        """Import modules at their first use, because they take as long as all other imports."""
        if name in __all__:
            # Not a table of names: each module lists its names itself, in __all__.
            for module in _ON_DEMAND:
                imported = importlib.import_module(f".{module}", __name__)
                # Remembered as an attribute, so Python does not call this function again.
                if hasattr(imported, name):
                    return globals().setdefault(name, getattr(imported, name))
        if name in _RENAMED:
            new, version = _RENAMED[name]
            text = f"{name} is now {__name__}.{new}. Version {version} removes the old name"
            warnings.warn(f"{__name__}.{text}", DeprecationWarning, stacklevel=2)
            # The new name may be in a module, which this function imports again.
            return operator.attrgetter(new)(sys.modules[__name__])
        if name in _modules():
            try:
                return importlib.import_module(f".{name}", __name__)
            # Its extra is not installed, which help() and hasattr() survive.
            except ModuleNotFoundError as error:
                raise AttributeError(str(error)) from error
        home = _home_of(name)
        # ``from spikegrad import name`` hides the message of an AttributeError. Python first looks
        # for the name in this function of importlib, where an ImportError keeps its message.
        if home and sys._getframe(1).f_code.co_name == "_handle_fromlist":
            raise ImportError(
                f"cannot import name {name!r} from {__name__!r}. Write from {home} import {name}"
            )
        hint = f". Write {home}.{name}" if home else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")

    def __dir__():
        return sorted([*__all__, *_modules(), "__version__"])

    def _modules():
        return [
            module.name
            for module in pkgutil.iter_modules(__path__)
            if not module.name.startswith("_")
        ]

    def _home_of(name):
        """Return the module that has a public name, or an empty text."""
        # Python itself looks for private names, such as ``__wrapped__``.
        if name.startswith("_"):
            return ""
        for module in _modules():
            # A module may need an extra that is not installed.
            with contextlib.suppress(ImportError):
                imported = importlib.import_module(f".{module}", __name__)
                if name in getattr(imported, "__all__", ()):
                    return imported.__name__
        return ""
