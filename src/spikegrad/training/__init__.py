"""Training of anything that has a differentiable loss, by any optimizer of optax."""

from ._adapt_widths import AdaptWidths
from ._batches import ShuffledBatches, with_device_data
from ._callbacks import JsonLines, TensorBoard
from ._checkpoint import CheckpointError, Checkpoints
from ._fit import fit
from ._online import Online
from ._partition import combine, partition
from ._processes import distributed
from ._shrink_delays import ShrinkDelays
from ._state import Callback, DivergedError, Report, State
from ._sweep import sweep
from ._update import Loss

__all__ = [
    "AdaptWidths",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "DivergedError",
    "JsonLines",
    "Loss",
    "Online",
    "Report",
    "ShrinkDelays",
    "ShuffledBatches",
    "State",
    "TensorBoard",
    "combine",
    "distributed",
    "fit",
    "partition",
    "sweep",
    "with_device_data",
]
