"""The command ``spikegrad``. Errors of the user are one line and exit code 2."""

from __future__ import annotations

import os
import sys

from . import streams

_EXTRA = ("click", "matplotlib", "optax", "rich")


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
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, which is not an error
        streams.discard(sys.stdout)
        code = 0
    except KeyboardInterrupt:
        code = streams.fail("interrupted", 130)
    except ModuleNotFoundError as error:
        code = _missing(error)
    except MemoryError as error:
        code = streams.fail(f"out of memory: {error}", 1)
    except OSError as error:
        streams.discard(sys.stdout)
        code = streams.fail(str(error), 1)
    if code and (processes := sys.modules.get(f"{__package__}.processes")):
        processes.leave(code)
    return code


def _run(args: list[str] | None) -> int:
    import click  # noqa: PLC0415  (from an extra)
    import jax  # noqa: PLC0415

    from ..data import DataError  # noqa: PLC0415
    from ..training import CheckpointError, DivergedError  # noqa: PLC0415

    os.environ["MPLBACKEND"] = "agg"  # notebooks export a backend that may be missing, and figures are files
    try:
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


def _missing(error: ModuleNotFoundError) -> int:
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRA:
        raise error
    return streams.fail(
        f"the command needs {package}, which is not installed: pip install '.[train]' in a clone of spikegrad", 2
    )
