"""Training with any optimizer of optax: the loop :func:`~spikegrad.training.fit`, callbacks,
checkpoints and sweeps. Also gradients that are computed forward in time.

>>> import jax, jax.numpy as jnp, optax
>>> from spikegrad.training import fit
>>> def loss(w, batch, key):
...     return ((batch @ w - 1) ** 2).mean(), {}
>>> batches, adam, key = [jnp.ones((4, 3))], optax.adam(0.1), jax.random.key(0)
>>> state = fit(loss, jnp.zeros(3), batches, optimizer=adam, key=key, epochs=9)
>>> state.step
9
"""

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
