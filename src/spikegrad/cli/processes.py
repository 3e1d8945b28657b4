"""The command in several processes: all compute together, only process 0 reads and writes."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from .._consensus import gathered
from ..data import Example, Sequences
from ..training import distributed
from . import tables
from .options import COUNT


def options(function: Callable[..., int]) -> Callable[..., int]:
    """Add options for several processes to a command."""

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
        type=COUNT,
        help="With --coordinator-address: number of processes.",
    )
    @click.option(
        "--process-id",
        type=click.IntRange(0),
        help="With --coordinator-address: number of this process, from 0.",
    )
    @functools.wraps(function)
    def run(
        joining: bool,
        coordinator_address: str | None,
        num_processes: int | None,
        process_id: int | None,
        **values: Any,
    ) -> int:
        needs_address = num_processes is not None or process_id is not None
        if needs_address and not coordinator_address:
            raise click.UsageError(
                "--num-processes and --process-id need --coordinator-address"
            )
        if not (joining or coordinator_address):
            return function(**values)
        with distributed(coordinator_address, num_processes, process_id):
            # JAX would only record the signal.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # All processes have the same results.
            tables.OUT.quiet = jax.process_index() > 0
            # Process 0 stays quiet with --quiet.
            tables.NOTES.quiet |= tables.OUT.quiet
            return function(**values)

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

    def handle(signum: int, _: FrameType | None) -> None:
        nonlocal number
        # The first signal decides the exit code.
        number = number or signum
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signums = signal.SIGINT, signal.SIGTERM
    before = {signum: signal.signal(signum, handle) for signum in signums}
    try:
        # All processes ask after the same call, so all stop after the same update.
        yield lambda: int(gathered(number).max())
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def batch_sharding(source: Sequences) -> Example | None:
    """Return the sharding of batches, or None without ``--distributed``."""
    if not jax.distributed.is_initialized():
        return None
    # Sequences and targets are (steps, n, ...), so the second axis is sharded. Labels are (n,).
    mesh = Mesh(jax.devices(), ("batch",))
    sequences = NamedSharding(mesh, P(None, "batch"))
    labels = NamedSharding(mesh, P("batch")) if source.classes else sequences
    mask = sequences if source.masked else None
    return Example(sequences, labels, mask)  # type: ignore[arg-type]
