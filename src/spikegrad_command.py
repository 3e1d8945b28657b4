"""The program ``spikegrad``. It stands beside the package, whose import takes seconds in which Ctrl-C must work."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command on the arguments of the process, and return its exit code."""
    # As an exception Ctrl-C would be swallowed by what is being imported or compiled. Who ignores it, goes on to.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _fill_standard_streams()
    try:
        from spikegrad.cli import main  # noqa: PLC0415
    except Exception as error:
        # JAX is imported first, and reads its environment variables then. It is no module if its import failed.
        if "jax" in sys.modules or str(getattr(error, "name", None)).startswith("spikegrad"):
            raise
        reason, again = " ".join(str(error).split()).rstrip("."), "pip install --force-reinstall jax jaxlib numpy"
        fix = "" if isinstance(error, ValueError) else f". Install it and NumPy again: {again}"
        print(f"spikegrad: error: JAX cannot be imported: {reason}{fix}", file=sys.stderr)
        return 2
    return main()


def _fill_standard_streams() -> None:
    """Whoever closed a standard stream did not mean that the next file should take its number, and the messages."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
