"""Networks to and from NIR, the neuromorphic intermediate representation."""

try:
    import nir as _nir  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "spikegrad.exchange needs nir: pip install '.[nir]' in a clone of spikegrad", name="nir"
    ) from error

from ._from_nir import from_nir
from ._to_nir import to_nir

__all__ = ["from_nir", "to_nir"]
