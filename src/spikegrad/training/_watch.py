"""A program of its own: it reads what JAX prints of several processes, and says in one line that one was lost.

JAX ends a process whose coordinator is gone by ``abort``, after dozens of lines, and no code of Python can come in
between. So its messages lead through this program, which outlives it. It needs the standard library alone.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterable, Iterator

LOST = "spikegrad: error: another process was lost; this one ends too"

_ENTRY = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")  # the beginning of an entry in the log
_ABOUT_PROCESSES = re.compile(
    rb"coordination.?service|JAX distributed service|Check failure stack trace", re.IGNORECASE
)
_FATAL = re.compile(rb"JAX distributed service detected fatal errors|Polled an error from coordination service")
_GREETING = re.compile(rb"\[Gloo\] Rank |connected peer ranks")


def passed_on(lines: Iterable[bytes]) -> Iterator[bytes]:
    """What is passed on of lines: all but those about lost processes, for which there is one."""
    inside = lost = False
    for line in lines:
        if _GREETING.search(line):
            continue
        if _ENTRY.match(line) or line.startswith(b"*** "):
            inside = bool(_ABOUT_PROCESSES.search(line))
        known = line.rstrip() == LOST.encode()  # by Python, which may notice it first
        if known or (inside and _FATAL.search(line)):
            if not lost:
                yield f"{LOST}\n".encode()
            lost = True
        elif not inside:
            yield line


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # which are sent to groups of processes; the end of input ends this
        signal.signal(signum, signal.SIG_IGN)
    for line in passed_on(iter(sys.stdin.buffer.readline, b"")):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
