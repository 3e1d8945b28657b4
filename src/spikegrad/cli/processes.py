"""The command in several processes: all compute together, only process 0 reads and writes."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import FrameType
from typing import Any

import click
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..training import _processes, distributed
from ..training._consensus import gathered
from .options import WholeRange

NAMES = ("joining", "coordinator_address", "num_processes", "process_id")
"""The options that do not change a result."""


def options(function: Callable[..., int]) -> Callable[..., int]:
    """Add options for several processes to a command with an option ``quiet``."""

    @click.option(
        "--distributed",
        "joining",
        is_flag=True,
        help="Train on all devices of several processes. Start each with this option. SLURM, Open "
        "MPI and Kubernetes are recognized.",
    )
    @click.option(
        "--coordinator-address",
        metavar="HOST:PORT",
        help="For other launchers: a free port of the machine of process 0.",
    )
    @click.option(
        "--num-processes",
        type=WholeRange(1),
        help="With --coordinator-address: number of processes.",
    )
    @click.option(
        "--process-id",
        type=WholeRange(0),
        help="With --coordinator-address: number of this process, from 0.",
    )
    @functools.wraps(function)
    def run(*args: Any, joining: bool, quiet: bool, **values: Any) -> int:
        addresses = [values.pop(name) for name in NAMES[1:]]
        if not joining:
            if addresses != [None] * 3:
                raise click.UsageError("addresses and numbers of processes require --distributed")
            return function(*args, quiet=quiet, **values)
        with ExitStack() as stack:
            try:
                stack.enter_context(distributed(*addresses))
            except (ValueError, RuntimeError) as error:
                raise click.BadParameter(f"{error}", param_hint="'--distributed'") from None
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX would only record the signal
            if jax.process_index():
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
            return function(*args, quiet=quiet or jax.process_index() > 0, **values)

    return run


@contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Store Ctrl-C and SIGTERM to any process. A second Ctrl-C ends the program immediately.

    Yields
    ------
    callable
        Called without arguments in all processes, it returns the number of the signal, or 0. The
        exit code is 128 plus this number.
    """
    number = 0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal number
        del frame
        number = number or signum
        signal.signal(signal.SIGINT, signal.default_int_handler)

    # a process in the background of a shell ignores Ctrl-C
    signals = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, handle) for signum in signals}
    try:
        yield lambda: int(gathered(number).max())
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def batch_sharding(batch: int) -> NamedSharding | None:
    """Return the sharding of batches of this size, or None without ``--distributed``."""
    if not jax.distributed.is_initialized():
        return None
    if batch % jax.device_count():
        raise click.BadParameter(
            f"batches of {batch} examples cannot be sharded over {jax.device_count()} devices",
            param_hint="'--batch'",
        )
    return NamedSharding(Mesh(jax.devices(), ("batch",)), PartitionSpec("batch"))


def leave(code: int) -> None:
    """End one of several processes after an error, without waiting for other processes."""
    if jax.distributed.is_initialized():
        _processes.leave(code, of_its_own=code < 128)
