"""Networks of rectified units, converted to spiking networks."""

from ._relu import to_spiking

__all__ = ["to_spiking"]
