"""Common decisions of several processes. All processes must call these functions equally often."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

T = TypeVar("T")


def gathered(*values: int) -> np.ndarray:
    """Gather integers from all processes, a row for each process: ``(processes, values)``."""
    # 32 bits, because JAX would cut wider integers without its 64-bit mode.
    row = np.asarray(values, np.int32)
    if jax.process_count() == 1:
        return row[None]
    from jax.experimental import multihost_utils  # noqa: PLC0415  (rarely needed)

    rows = np.asarray(multihost_utils.process_allgather(row))
    return rows.reshape(-1, len(row))


def agreed(wish: bool) -> bool:
    """Return True if ``wish`` is true in any process."""
    return bool(gathered(wish).any())


def from_first(make: Callable[[], T]) -> T:
    """Call a function in process 0, and return its result, or raise its error, in all processes."""
    if jax.process_count() == 1:
        return make()
    from jax.experimental import multihost_utils  # noqa: PLC0415

    message = b""
    if jax.process_index() == 0:
        try:
            message = pickle.dumps((make(), None))
        except Exception as error:
            message = pickle.dumps((None, error))

    parts = divmod(len(message), 1 << 30)
    high, low = map(int, gathered(*parts)[0])
    length = high << 30 | low
    numbers = np.frombuffer(message or bytes(length), np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(numbers))
    # JAX 0.6 returns whole numbers of more bytes.
    sent = sent.astype(np.uint8)
    value, error = pickle.loads(sent.tobytes())
    if error is not None:
        raise error
    return value
