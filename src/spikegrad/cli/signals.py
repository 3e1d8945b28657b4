"""Ctrl-C and SIGTERM during training."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_TWICE = 0.5  # seconds. `timeout` and other launchers send one signal to the process and to its group


@contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Store Ctrl-C and SIGTERM instead of ending the program. A second signal ends it immediately.

    Yields
    ------
    callable
        Called without arguments, it returns the number of the signal, or 0. The exit code is 128 plus this number.
    """
    number, when = 0, 0.0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal number, when
        del frame
        if not number:
            number, when = signum, time.monotonic()
        elif time.monotonic() > when + _TWICE:
            signal.signal(signum, before[signal.Signals(signum)])
            os.kill(os.getpid(), signum)

    if threading.current_thread() is not threading.main_thread():  # other threads cannot handle signals
        yield lambda: 0
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    before = {s: handler for s, handler in before.items() if handler is not signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, handle)
    try:
        yield lambda: number
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
