"""The command ``spikegrad``. Errors of the user are one line and exit code 2."""

from __future__ import annotations

import sys


def main(args: list[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    args : list of str, optional
        Arguments. By default the arguments of the process.

    Returns
    -------
    int
        Exit code: 0, 1 after a failure, 2 for an invalid value, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    try:
        # click and optax are from an extra, and the commands create arrays, which needs a device
        import click  # noqa: PLC0415
        import jax  # noqa: PLC0415

        from ..data import DataError  # noqa: PLC0415
        from ..training import CheckpointError, DivergedError  # noqa: PLC0415
        from .commands import command  # noqa: PLC0415
    except ModuleNotFoundError as error:
        package = f"{error.name}".partition(".")[0]
        install = "pip install '.[train]' in a clone of spikegrad"
        return fail(
            f"the command needs {package}, which is not installed: {install}", 2
        )
    try:
        return command.main(args, prog_name="spikegrad", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.Abort:  # of a KeyboardInterrupt
        message, code = "interrupted", 130
    except click.ClickException as error:
        message, code = error.format_message(), error.exit_code
    # A path that is wrong is a value of the user, and any other failure is one of the system. A
    # reader of data may need another package.
    except (
        DataError,
        CheckpointError,
        ModuleNotFoundError,
        FileNotFoundError,
        NotADirectoryError,
    ) as error:
        message, code = str(error), 2
    except (DivergedError, jax.errors.JaxRuntimeError, OSError) as error:
        message, code = str(error).splitlines()[0], 1
    return fail(message, code)


def fail(message: str, code: int) -> int:
    """Print an error in one line, and return the exit code."""
    print("spikegrad: error:", *message.split(), file=sys.stderr)
    return code
