"""The cells a spiking network is built of: plain functions of a state and an input current. A cell
is a neuron model without weights, and a :class:`~spikegrad.Layer` adds the weights.

>>> import jax.numpy as jnp
>>> from spikegrad.neurons import Izhikevich, unroll
>>> state, spikes = unroll(Izhikevich(), jnp.full((100, 1), 10.0))
>>> spikes.shape  # steps, neurons
(100, 1)

A cell is a pytree of its parameters. Called with its state and the current of one step, it returns
the new state and its output; :func:`unroll` does so for every step of a sequence. Weights, delays
and the layout of the network are yours: any JAX code can stand between two cells.

One file per family. A new cell is a class in the file of its family, and its name below.
``CONTRIBUTING.md`` names its tests and pages. Class and base class declare everything that the rest
of the library asks: see :class:`Cell`.
"""

from ._adaptive import (
    AdaptiveLIF,
    AdLIF,
    EulerAdLIF,
    SymplecticAdLIF,
    SynapticAdaptiveLIF,
)

# Names with an alias are for the library itself.
from ._cell import (
    Cell,
    LinearResponse,
    State,
    Step,
    check_initial as check_initial,
    fire as fire,
    method as method,
    warn_of_lost_leaks as warn_of_lost_leaks,
)
from ._compartments import TCLIF
from ._declared import (
    linear_response as linear_response,
    parameters_of as parameters_of,
    says_how_to_encode as says_how_to_encode,
    with_parameters as with_parameters,
)
from ._lif import LIF, MultiSynapticLIF, SynapticLIF
from ._nonlinear import CLIF, EIF, QIF, AdEx, Izhikevich
from ._normalized import MPBN
from ._oscillators import BRF, HRF, RF
from ._quiet import (
    quiet_cell as quiet_cell,
    surrogate_arguments as surrogate_arguments,
    surrogate_of as surrogate_of,
    with_surrogate as with_surrogate,
)
from ._readout import LeakyReadout, Relu
from ._refractory import Refractory
from ._time import decay_from_tau, unroll

__all__ = [
    "BRF",
    "CLIF",
    "EIF",
    "HRF",
    "LIF",
    "MPBN",
    "QIF",
    "RF",
    "TCLIF",
    "AdEx",
    "AdLIF",
    "AdaptiveLIF",
    "Cell",
    "EulerAdLIF",
    "Izhikevich",
    "LeakyReadout",
    "LinearResponse",
    "MultiSynapticLIF",
    "Refractory",
    "Relu",
    "State",
    "Step",
    "SymplecticAdLIF",
    "SynapticAdaptiveLIF",
    "SynapticLIF",
    "decay_from_tau",
    "unroll",
]
