"""Files that ``--output`` names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from .._files import write_atomically
from . import streams

PATH = click.Path(path_type=Path)
force = click.option("--force", is_flag=True, help="Overwrite the file that --output names.")


def of_run(output: str) -> Callable[[Callable], Callable]:
    """Add the arguments of a command that reads a run and data, and may write a file. ``output`` is a help text."""

    def add(function: Callable) -> Callable:
        function = click.option("--output", "-o", type=PATH, help=output)(force(function))
        function = click.argument("data", metavar="[DATA]", required=False)(function)
        return click.argument("run", type=PATH)(function)

    return add


def check(path: Path, endings: tuple[str, ...], force: bool, reads: tuple[Path, ...] = ()) -> None:
    """Raise before the work if a file may not be written: without ``--force``, or because it is also read."""
    *others, last = endings
    problem = None
    if path.suffix not in endings:
        problem = f"{path} must end in {', '.join(others)} or {last}" if others else f"{path} must end in {last}"
    elif path.exists() and any(other.exists() and path.samefile(other) for other in reads):
        problem = f"{path} is also an input. Choose another file"
    elif path.exists() and not force:
        problem = f"{path} exists; pass --force to overwrite it"
    if problem:
        raise click.BadParameter(problem, param_hint="'--output'")


def drawn(figure: Any, path: Path, dpi: int) -> Callable[[BinaryIO], Any]:
    """Return a function that saves a figure to a stream, in the format of the path."""
    return lambda stream: figure.savefig(stream, dpi=dpi, format=path.suffix[1:])


@contextmanager
def drawing(path: Path) -> Iterator[None]:
    """Turn any error of a figure into one line. Matplotlib reads settings that can need LaTeX or another program."""
    try:
        yield
    except (OSError, click.ClickException):
        raise
    except Exception as error:
        raise click.ClickException(f"{path} cannot be drawn: {streams.brief(error)}") from None


def write(path: Path, contents: Callable[[BinaryIO], Any]) -> None:
    """Write a file atomically. ``contents`` receives a stream."""
    try:
        write_atomically(path, contents)
    except OSError as error:
        raise click.BadParameter(
            f"{path} cannot be written: {error.strerror or error}", param_hint="'--output'"
        ) from None
