"""Export to NIR and import from it. NIR is an exchange format of many simulators and chips for
spiking networks. It needs the extra ``nir``.

>>> import jax.numpy as jnp
>>> from spikegrad import LIF, Layer, Network
>>> from spikegrad.exchange import from_nir, to_nir
>>> network = Network([Layer(jnp.eye(3), LIF(0.9, reset="value"))])
>>> graph = to_nir(network, dt=1e-3, discretization="euler")
>>> type(graph).__name__
'NIRGraph'
"""

from .._checks import needed as _needed

with _needed("spikegrad.exchange", "nir", "nir"):
    from ._read import from_nir
    from ._write import to_nir

__all__ = ["from_nir", "to_nir"]
