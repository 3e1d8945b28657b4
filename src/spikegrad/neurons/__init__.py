"""The cells a spiking network is built of: plain functions of a state and an input current.

A cell is a pytree of its parameters. Called with its state and the current of one step, it returns the new state and
its output; :func:`unroll` does so for every step of a sequence. Weights, delays and the layout of the network are
yours: any JAX code can stand between two cells.
"""

from ._cell import Cell, State, Step, check_initial, fire
from ._lif import LIF, AdaptiveLIF, SynapticLIF
from ._readout import LeakyReadout
from ._refractory import Refractory, parameters_of, says_how_to_encode, with_parameters
from ._time import decay_from_tau, unroll

__all__ = [
    "LIF",
    "AdaptiveLIF",
    "Cell",
    "LeakyReadout",
    "Refractory",
    "State",
    "Step",
    "SynapticLIF",
    "check_initial",
    "decay_from_tau",
    "fire",
    "parameters_of",
    "says_how_to_encode",
    "unroll",
    "with_parameters",
]
