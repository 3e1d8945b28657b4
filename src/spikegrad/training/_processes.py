"""Several processes: joining them, and ending with one line where one of them is lost."""

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

_HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost
_GRACE = 5  # seconds that the coordinator leaves to the others, which JAX aborts without it
_LOST = re.compile(r"gloo|nccl|rccl|coordination service|heartbeat|\bUNAVAILABLE\b", re.IGNORECASE)


class ProcessLostError(SystemExit):
    """Another process has ended, or does not answer. As it is no use to go on, it ends the program, with exit code 1.

    The line that says so has been printed when it is raised; what failed is its ``__cause__``.
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
    """Join the processes of a run: ``jax.distributed.initialize()``, and a good end.

    Each process calls it before it uses a device, and within it does what all do. At the end they wait for each other.
    If one is lost, killed or with an error of its own, the others end within a minute, with one line on standard error
    in place of JAX's log and an exit code other than 0. Whoever fails ends some seconds later, wherever the others are.

    Parameters
    ----------
    coordinator_address, num_processes, process_id : optional
        ``"host:port"`` of process 0, with a port that is free there; the number of processes; which one this is, from
        0. Under SLURM, Open MPI, Kubernetes and on TPUs JAX finds them itself.
    **options
        Others of ``jax.distributed.initialize``. A process counts as lost after
        ``heartbeat_timeout_seconds=30`` without a sign of life, where JAX has this option (0.7 or so).

    Yields
    ------
    None

    Raises
    ------
    ProcessLostError
        Within it, where an operation over all processes fails.
    ValueError
        If processes are neither given nor found, or the address has no port.
    RuntimeError
        If a device has been used before, or the coordinator cannot be reached.

    Notes
    -----
    While it lasts, what compiled code prints goes through a small program that tells a lost process from other
    messages; it goes to standard error, that for standard output too. ``sys.stdout`` and ``sys.stderr`` are as before.

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
        raise ValueError(f"distributed: processes are neither given nor found: {error}") from None
    several = False
    try:
        several = jax.process_count() > 1  # for which all must be there: now, and not after an error
        yield
    except BaseException as error:
        failed = isinstance(error, Exception)
        lost = failed and several and bool(_LOST.search(str(error)))
        end = functools.partial(leave, 1, failed and not lost)
        atexit.register(end)  # before JAX would wait for the others, who wait for this one
        threading.Thread(target=_with_main_thread, args=[end], daemon=True).start()  # other threads may do, before that
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
    """End the process without waiting for the others; after an error of its own, which they may find as well, in a
    moment in which they can say so.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(AssertionError, RuntimeError):  # of JAX, where there is no device
        if of_its_own and jax.process_index() == 0:
            time.sleep(_GRACE)
    os._exit(code)


def _filter_log() -> Callable[[], None]:
    """Send what compiled code prints through :mod:`_log_filter`. ``sys.stdout`` and ``sys.stderr`` stay as they are.

    Returns
    -------
    callable
        What restores them. It is not called after an error, when JAX may still print.
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
        with contextlib.suppress(subprocess.TimeoutExpired):  # its input has ended, unless a child process has it too
            log_filter.wait(1)

    return restore


def _leads_to(stream: Any, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # none, or none of the system
        return False


def _like(stream: Any, descriptor: int) -> TextIO:
    buffering = 1 if stream.line_buffering else -1
    return open(descriptor, "w", buffering, encoding=stream.encoding, errors=stream.errors, closefd=False)
