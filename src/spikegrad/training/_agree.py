"""What several processes have to decide alike."""

from __future__ import annotations

import jax
import numpy as np


def agreed(wish: bool) -> bool:
    """Whether any process wishes something: all get the same answer. Each must ask, and as often."""
    if jax.process_count() == 1:
        return wish
    from jax.experimental import multihost_utils  # noqa: PLC0415  (rarely needed)

    return bool(np.any(multihost_utils.process_allgather(np.asarray(wish))))
