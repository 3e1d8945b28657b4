"""Networks on the integers of chips: cells, weights, quantization, replay and programs in C."""

from ._c import ProgramReport, to_c
from ._cells import FixedLIF, IntegerCell, Loihi, Xylo
from ._fixed import Fixed, fixed
from ._quantize import (
    TARGETS,
    QuantizationReport,
    QuantizedLayer,
    dequantize,
    quantize,
)
from ._replay import replay
from ._save import load, save

__all__ = [
    "TARGETS",
    "Fixed",
    "FixedLIF",
    "IntegerCell",
    "Loihi",
    "ProgramReport",
    "QuantizationReport",
    "QuantizedLayer",
    "Xylo",
    "dequantize",
    "fixed",
    "load",
    "quantize",
    "replay",
    "save",
    "to_c",
]
