"""Several processes: join them, and end all if one fails."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

_HEARTBEAT = 30  # seconds without a heartbeat until a process counts as failed
_GRACE = 5  # seconds in which other processes can report their error, as JAX aborts them afterwards


@contextmanager
def distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    **options: Any,
) -> Iterator[None]:
    """Context manager that joins the processes of a training, and ends all of them if one fails.

    It calls ``jax.distributed.initialize``. Start one process for each machine, each with the same
    program, and write ``with distributed():`` before the first use of a device. Within it, call
    :func:`fit` with ``batch_sharding``. At the end, the processes wait for each other. If a process
    is killed or fails, all others end within a minute with messages of JAX and a nonzero exit code.

    Parameters
    ----------
    coordinator_address, num_processes, process_id : optional
        The address ``"host:port"`` of process 0 with a free port, the number of processes, and the
        number of this process, from 0. Leave them out under SLURM, Open MPI and Kubernetes and on
        TPUs, because JAX finds them there.
    **options
        Further options of ``jax.distributed.initialize``. The default here is
        ``heartbeat_timeout_seconds=30``, if the version of JAX has this option: a process without a
        sign of life for 30 seconds counts as failed.

    Yields
    ------
    None

    Raises
    ------
    ValueError
        If you pass no arguments and JAX does not find the processes.
    RuntimeError
        If a device has been used before, or if process 0 cannot be reached.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.training import distributed
    >>> with distributed():  # doctest: +SKIP
    ...     print(jax.process_index(), jax.process_count(), jax.devices())
    """
    accepted = inspect.signature(jax.distributed.initialize).parameters
    if "heartbeat_timeout_seconds" in accepted:
        options = {"heartbeat_timeout_seconds": _HEARTBEAT} | options
    jax.distributed.initialize(
        coordinator_address, num_processes, process_id, **options
    )
    try:
        # The first call connects the devices, so all processes must be alive in it.
        jax.process_count()
        yield
    except BaseException as error:
        # It runs before JAX's own exit, which waits for processes that wait for this one.
        atexit.register(leave, isinstance(error, Exception))
        raise
    jax.distributed.shutdown()


def leave(of_its_own: bool) -> None:
    """End the process without waiting for other processes.

    If the coordinator itself fails, it gives them time to report this error too.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or a broken pipe
            stream.flush()
    # Raised by JAX without a device.
    with contextlib.suppress(AssertionError, RuntimeError):
        if of_its_own and jax.process_index() == 0:
            time.sleep(_GRACE)
    os._exit(1)
