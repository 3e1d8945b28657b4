"""Networks to and from NIR, the neuromorphic intermediate representation."""

from .._checks import needed as _needed

with _needed("spikegrad.exchange", "nir", "nir"):
    from ._read import from_nir
    from ._write import to_nir

__all__ = ["from_nir", "to_nir"]
