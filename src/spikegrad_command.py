"""The program ``spikegrad``. This module is outside the package, so Ctrl-C works during the import of the package."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command on the arguments of the process, and return its exit code."""
    # An exception for Ctrl-C can get lost in an import or a compilation. A process that ignores Ctrl-C still does.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _fill_standard_streams()
    try:
        from spikegrad.cli import main  # noqa: PLC0415
    except Exception as error:
        # The package imports JAX first, and JAX reads its environment variables. A failed import leaves no module. A
        # local jax.py leaves one, but lacks the modules of JAX.
        missing = str(getattr(error, "name", None)).partition(".")[0]
        if missing != "jax" and ("jax" in sys.modules or missing == "spikegrad"):
            raise
        reason, again = " ".join(str(error).split()).rstrip("."), "pip install --force-reinstall jax jaxlib numpy"
        fix = "" if isinstance(error, ValueError) else f". Install it and NumPy again: {again}"
        print(f"spikegrad: error: JAX cannot be imported: {reason}{fix}", file=sys.stderr)
        return 2
    return main()


def _fill_standard_streams() -> None:
    """Open closed standard streams. Otherwise the next file gets the number of one, and then its messages."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
