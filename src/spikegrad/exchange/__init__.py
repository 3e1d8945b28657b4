"""Networks to and from NIR, the neuromorphic intermediate representation. It brings a network to
other simulators and chips, and their networks here. It needs the extra ``nir``.

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
