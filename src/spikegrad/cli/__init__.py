"""The command ``spikegrad``. Errors of the user are one line and exit code 2."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from . import streams

OURS = __name__.partition(".")[0]
INSTALL = "pip install '.[train]' in a clone of spikegrad"


def main(args: list[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    args : list of str, optional
        Arguments. By default the arguments of the process.

    Returns
    -------
    int
        Exit code: 0, 1 after a failure, 2 for an invalid value, 130 after Ctrl-C, 143 after SIGTERM.
    """
    streams.prepare()
    out = sys.stdout
    try:
        code = _run(args)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # the reader closed the pipe, which is not an error
        if isinstance(error, SystemExit) and sys.stdout is out:
            raise  # for a closed pipe, click replaces the stream and exits
        streams.discard(sys.stdout)
        code = 0
    except KeyboardInterrupt:
        code = streams.fail("interrupted", 130)
    except Exception as error:
        code = _failed(error)
    if code and (processes := sys.modules.get(f"{__package__}.processes")):
        processes.leave(code)
    return code


def _run(args: list[str] | None) -> int:
    import click  # noqa: PLC0415  (from an extra)
    import jax  # noqa: PLC0415

    from ..data import DataError  # noqa: PLC0415
    from ..training import CheckpointError, DivergedError  # noqa: PLC0415

    os.environ["MPLBACKEND"] = "agg"  # notebooks export a backend that may be missing, and figures are files
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # otherwise it warns of its own settings and fonts
    try:
        if null := [argument for argument in args or () if "\0" in argument]:  # files with such a name raise ValueError
            raise click.UsageError(f"an argument must not contain a null character, got {null[0]!r}")
        if jax.config.jax_no_tracing:
            raise click.UsageError("JAX_NO_TRACING must not be set, because the command compiles functions")
        from .commands import command  # noqa: PLC0415  (it creates arrays, which needs a device)

        return command.main(args, prog_name="spikegrad", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        return streams.fail(error.format_message(), error.exit_code)
    except (DivergedError, FloatingPointError, jax.errors.JaxRuntimeError) as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise MemoryError(str(error).partition(":")[2].splitlines()[0]) from None
        return streams.fail(str(error).splitlines()[0], 1)
    except (AssertionError, RuntimeError) as error:  # JAX raises both, with different messages
        if "can't start new thread" in str(error):
            raise OSError("the system allows no more threads. Raise the limit of processes (ulimit -u)") from None
        if "Unable to initialize backend" not in str(error) and _has_a_device():
            raise
        return streams.fail(f"JAX finds no device of JAX_PLATFORMS={jax.config.jax_platforms}", 2)
    except (DataError, CheckpointError) as error:
        return streams.fail(str(error), 2)


def _has_a_device() -> bool:
    import jax  # noqa: PLC0415

    try:
        return bool(jax.devices())
    except (AssertionError, RuntimeError):
        return False


def _failed(error: Exception) -> int:
    """Print an error of the machine or of an installed package, and return the exit code. Raise any other error."""
    of_the_machine = isinstance(error, MemoryError) or getattr(error, "errno", None)  # not the fault of a package
    if not of_the_machine and (package := _not_imported(error)):
        if isinstance(error, ModuleNotFoundError) and package == _top(error.name):
            fix = f"which is not installed: {INSTALL}"
        else:
            fix = f"which cannot be imported ({streams.brief(error)}): pip install --force-reinstall {package}"
        return streams.fail(f"the command needs {package}, {fix}", 2)
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType) and _top(error.obj.__name__) != OURS:
        return streams.fail(f"the command needs {error.obj.__name__}.{error.name}, which is missing: {INSTALL}", 2)
    if isinstance(error, MemoryError):
        return streams.fail(f"out of memory: {error}", 1)
    if isinstance(error, OSError):
        streams.discard(sys.stdout)
        return streams.fail(str(error), 1)
    raise error


def _not_imported(error: Exception) -> str:
    """Return the package of another project whose import raised an error, or else an empty text.

    The import of a broken package can raise any error. The error is the package's if the last line of spikegrad in the
    traceback imports it.
    """
    ours = str(Path(__file__).resolve().parents[1])
    found = traceback.extract_tb(error.__traceback__)
    lines = [entry.line or "" for entry in found if entry.filename.startswith(ours)]
    if lines and (statement := re.match(r"(?:from|import) (\w+)", lines[-1])):
        return statement[1]
    package = _top(error.name) if isinstance(error, ModuleNotFoundError) else ""
    return "" if package == OURS else package


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]
