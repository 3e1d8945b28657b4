"""A separate program that copies the log of several processes and reports a failed process in one line.

Without its coordinator, JAX prints dozens of lines and aborts the process. No code in the process can change this: a
Python ``missed_heartbeat_callback`` ends in ``std::bad_cast`` (JAX 0.6 to 0.12), and ``TF_CPP_MIN_LOG_LEVEL`` is read
before a library can set it. Only a program that outlives the abort can report it. It needs only the standard library.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterable, Iterator

LOST = "spikegrad: error: another process failed, so this process ends too"

_GREETING = re.compile(rb"\[Gloo\] Rank |connected peer ranks")
_ENTRY = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")  # the first line of an entry in the log
_NOTICED = re.compile(rb"[WE]\d{4} .* preemption_sync_manager.*Failed")  # noticed by another part of JAX
# an error of the coordination service, which JAX logs before it aborts, or LOST, if Python notices the failure first
_FAILURE = re.compile(rb"[EF]\d{4} .*coordination.?service|" + LOST.encode())


def filtered(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Copy the lines up to the first one about a failed process. Later lines are only consequences.

    Another part of JAX may notice the failure earlier. Its entries are dropped with all of their lines.
    """
    is_dropped = False
    for line in lines:
        if _FAILURE.match(line):
            yield f"{LOST}\n".encode()
            return
        if _ENTRY.match(line):
            is_dropped = bool(_NOTICED.match(line))
        if not is_dropped and not _GREETING.search(line):
            yield line


def main() -> None:
    # launchers send these signals to process groups, but only EOF ends this program
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    for line in filtered(sys.stdin.buffer):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    sys.stdin.buffer.read()  # JAX must never write to a closed pipe


if __name__ == "__main__":
    main()
