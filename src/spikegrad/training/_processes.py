"""Several processes: join them, and end all with one line if one fails."""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import jax

from . import _log_filter

_HEARTBEAT = 30  # seconds without a heartbeat until a process counts as failed
_GRACE = 5  # seconds that the coordinator waits for other processes, because JAX aborts them when it ends
_LOST = re.compile(r"gloo|nccl|rccl|coordination service|heartbeat|\bUNAVAILABLE\b", re.IGNORECASE)


class ProcessLostError(SystemExit):
    """Another process has ended or does not answer. It ends the program with exit code 1.

    Its message is already printed when it is raised. The failed operation is its ``__cause__``.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def __str__(self) -> str:
        return _log_filter.LOST


@contextmanager
def distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    **options: Any,
) -> Iterator[None]:
    """Join the processes of a run: ``jax.distributed.initialize()`` with an orderly end.

    Each process enters it before it uses a device. All processes must run equal code in it, and wait for each other at
    the end. If one is killed or fails, all remaining processes end within a minute. They print one line on standard
    error instead of JAX's log and have a nonzero exit code. A failing process ends within seconds and does not wait.

    Parameters
    ----------
    coordinator_address, num_processes, process_id : optional
        ``"host:port"`` of process 0 with a free port, the number of processes, and the number of this process, from 0.
        JAX finds them under SLURM, Open MPI, Kubernetes and on TPUs.
    **options
        Further options of ``jax.distributed.initialize``. A process counts as failed after
        ``heartbeat_timeout_seconds=30`` without a heartbeat, if JAX has this option (0.7 or so).

    Yields
    ------
    None

    Raises
    ------
    ProcessLostError
        In the context, if an operation over all processes fails.
    ValueError
        If you pass no processes and JAX finds none, or if the address lacks a port.
    RuntimeError
        If a device has been used before, or if the coordinator cannot be reached.

    Notes
    -----
    In the context, a small program filters the output of compiled code and recognizes a failed process. All of this
    output goes to standard error. ``sys.stdout`` and ``sys.stderr`` do not change.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.training import distributed
    >>> with distributed():  # doctest: +SKIP
    ...     print(jax.process_index(), jax.process_count(), jax.devices())
    """
    if coordinator_address is not None and not re.fullmatch(r".+:\d+", coordinator_address):
        raise ValueError(f"distributed: coordinator_address must be host:port, got {coordinator_address!r}")
    if "heartbeat_timeout_seconds" in inspect.signature(jax.distributed.initialize).parameters:
        options = {"heartbeat_timeout_seconds": _HEARTBEAT} | options
    restore = _filter_log()
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id, **options)
    except ValueError as error:
        restore()
        raise ValueError(f"distributed: no processes found; pass all three arguments: {error}") from None
    several = False
    try:
        several = jax.process_count() > 1  # all processes must be alive for this call, so it comes before any error
        yield
    except BaseException as error:
        failed = isinstance(error, Exception)
        lost = failed and several and bool(_LOST.search(str(error)))
        end = functools.partial(leave, 1, failed and not lost)
        atexit.register(end)  # earlier than JAX, which would wait for processes that wait for this one
        threading.Thread(target=_with_main_thread, args=[end], daemon=True).start()  # atexit comes after other threads
        if lost:
            os.write(2, f"{_log_filter.LOST}\n".encode())
            raise ProcessLostError from error
        raise
    jax.distributed.shutdown()
    restore()


def _with_main_thread(end: Callable[[], None]) -> None:
    threading.main_thread().join()
    end()


def leave(code: int, of_its_own: bool) -> None:
    """End the process without waiting for other processes.

    If the coordinator itself fails, it gives them time to report this error too.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(AssertionError, RuntimeError):  # raised by JAX without a device
        if of_its_own and jax.process_index() == 0:
            time.sleep(_GRACE)
    os._exit(code)


def _filter_log() -> Callable[[], None]:
    """Send the output of compiled code through :mod:`_log_filter`, except for ``sys.stdout`` and ``sys.stderr``.

    Returns
    -------
    callable
        Restores the streams. It is not called after an error, because JAX may still print.
    """
    kept = {"stdout": os.dup(1), "stderr": os.dup(2)}
    before = {name: getattr(sys, name) for name in kept}
    program = [sys.executable, "-I", "-S", _log_filter.__file__]
    log_filter = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=kept["stderr"])
    pipe: Any = log_filter.stdin
    for number, (name, descriptor) in enumerate(kept.items(), 1):
        if _leads_to(before[name], number):
            before[name].flush()
            setattr(sys, name, _like(before[name], descriptor))
        os.dup2(pipe.fileno(), number)
    pipe.close()

    def restore() -> None:
        for number, (name, descriptor) in enumerate(kept.items(), 1):
            getattr(sys, name).flush()
            os.dup2(descriptor, number)
            setattr(sys, name, before[name])
            os.close(descriptor)
        with contextlib.suppress(subprocess.TimeoutExpired):  # its input has ended, unless a child process has it
            log_filter.wait(1)

    return restore


def _leads_to(stream: Any, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # not a stream of the system
        return False


def _like(stream: Any, descriptor: int) -> TextIO:
    buffering = 1 if stream.line_buffering else -1
    return open(descriptor, "w", buffering, encoding=stream.encoding, errors=stream.errors, closefd=False)
