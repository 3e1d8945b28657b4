"""Neuron models (cells) without weights: functions from a state and an input current to a new state
and spikes. A :class:`~spikegrad.Layer` adds the weights.

>>> import jax.numpy as jnp
>>> from spikegrad.neurons import Izhikevich, unroll
>>> state, spikes = unroll(Izhikevich(), jnp.full((100, 1), 10.0))
>>> spikes.shape  # steps, neurons
(100, 1)

A cell is a pytree of its parameters. If you call it with a state and the input current of one time
step, it returns the new state and its output. :func:`unroll` calls it for all time steps of a
sequence. You can use cells in a :class:`~spikegrad.Network`, or write your own JAX code between two
cells.

To add a cell to the library, write a class in the file of its family, and add its name below.
``CONTRIBUTING.md`` lists its tests and pages. :class:`Cell` lists the methods and attributes that a
cell defines.
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
