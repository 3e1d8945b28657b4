"""The command in several processes: all compute together, and only process 0 reads, prints and writes."""

from __future__ import annotations

import functools
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

import click
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..training import _processes, distributed
from ..training._consensus import gathered
from . import signals
from .options import WholeRange

NAMES = ("joining", "coordinator_address", "num_processes", "process_id")
"""The options that do not change a result."""


def options(function: Callable[..., int]) -> Callable[..., int]:
    """Add options for several processes to a command with an option ``quiet``."""

    @click.option(
        "--distributed",
        "joining",
        is_flag=True,
        help="Train on all devices of several processes. Start each with this option. SLURM, Open MPI and Kubernetes "
        "are recognized.",
    )
    @click.option(
        "--coordinator-address",
        metavar="HOST:PORT",
        help="For other launchers: a free port of the machine of process 0.",
    )
    @click.option("--num-processes", type=WholeRange(1), help="With --coordinator-address: number of processes.")
    @click.option(
        "--process-id", type=WholeRange(0), help="With --coordinator-address: number of this process, from 0."
    )
    @functools.wraps(function)
    def run(*args: Any, joining: bool, quiet: bool, **rest: Any) -> int:
        addressed = {f"--{name.replace('_', '-')}": rest.pop(name) for name in NAMES[1:]}
        if not joining:
            for name, value in addressed.items():
                if value is not None:
                    raise click.BadParameter("it requires --distributed", param_hint=f"'{name}'")
            return function(*args, quiet=quiet, **rest)
        with ExitStack() as stack:
            try:
                stack.enter_context(distributed(*addressed.values()))
            except (ValueError, RuntimeError) as error:
                raise click.BadParameter(f"{error}", param_hint="'--distributed'") from None
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX would only record the signal
            _check_alike({"quiet": None, **rest}, click.get_current_context())
            if jax.process_index():
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                quiet = True
            return function(*args, quiet=quiet, **rest)

    return run


def _check_alike(values: dict[str, Any], context: click.Context) -> None:
    """Raise in every process if the options differ, because training uses the options of process 0 only."""
    names = sorted(name for name in values if name != "quiet")
    rows = gathered(*(zlib.crc32(repr(values[name]).encode("utf-8", "surrogateescape")) >> 1 for name in names))
    for name, column in zip(names, rows.T, strict=True):
        if len(set(column.tolist())) > 1:
            option = next(parameter for parameter in context.command.params if parameter.name == name)
            raise click.BadParameter("must be equal in all processes", param_hint=f"'{option.opts[0]}'")


@contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Like :func:`signals.deferred` for signals to any process. All processes must call its result."""
    with signals.deferred() as came:
        yield lambda: int(gathered(came()).max())


def batch_sharding(batch: int) -> NamedSharding | None:
    """Return the sharding of batches of this size, or None without ``--distributed``."""
    if not jax.distributed.is_initialized():
        return None
    if batch % jax.device_count():
        raise click.BadParameter(
            f"batches of {batch} examples cannot be sharded over {jax.device_count()} devices", param_hint="'--batch'"
        )
    return NamedSharding(Mesh(jax.devices(), ("batch",)), PartitionSpec("batch"))


def leave(code: int) -> None:
    """End one of several processes after an error, without waiting for other processes."""
    if jax.distributed.is_initialized():
        _processes.leave(code, of_its_own=code < 128)
