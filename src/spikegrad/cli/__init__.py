"""The command ``spikegrad``. A mistake of the user's is one line and exit code 2."""

from __future__ import annotations

import sys

_EXTRA = ("click", "matplotlib", "optax", "rich")


def main(args: list[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    args : list of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        Exit code: 0, 1 if something failed on the way, 2 for a wrong value, 130 after Ctrl-C.
    """
    try:
        import click  # noqa: PLC0415  (the imports are those of an extra)

        from ..data import DataError  # noqa: PLC0415
        from ..training import DivergedError  # noqa: PLC0415
        from .commands import command  # noqa: PLC0415
        from .runs import RunError  # noqa: PLC0415

        try:
            return command.main(args, prog_name="spikegrad", standalone_mode=False) or 0
        except click.exceptions.NoArgsIsHelpError as error:
            print(error.format_message())
            code = 2
        except click.Abort:
            raise KeyboardInterrupt from None
        except click.ClickException as error:
            code = _fail(error.format_message(), error.exit_code)
        except (DataError, RunError) as error:
            code = _fail(str(error), 2)
        except (DivergedError, OSError) as error:
            code = _fail(str(error), 1)
    except ModuleNotFoundError as error:
        code = _missing(error)
    except KeyboardInterrupt:
        code = _fail("interrupted", 130)
    return code


def _fail(message: str, code: int) -> int:
    print(f"spikegrad: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _missing(error: ModuleNotFoundError) -> int:
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRA:
        raise error
    return _fail(f"the command needs {package}, which is not installed: pip install 'spikegrad[train]'", 2)
