"""Free memory and processors of the machine."""

from __future__ import annotations

import os
from pathlib import Path


def processors() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (
        AttributeError,
        OSError,
    ):  # other systems, and those that forbid the question
        return os.cpu_count() or 1


def available_memory() -> int | None:
    """Return the free bytes of memory, within the limit of a container, or None if unknown."""
    return min([*_of_the_system(), *_of_the_container()], default=None)


def _of_the_system() -> list[int]:
    lines = _text(Path("/proc/meminfo")).splitlines()
    return [
        1024 * int(line.split()[1])
        for line in lines
        if line.startswith("MemAvailable:")
    ]


def _of_the_container() -> list[int]:
    """Return the limits minus the usage of the process's control groups, version 2, and of their
    parents.
    """
    free = []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        group = Path("/sys/fs/cgroup", line.partition("::")[2].lstrip("/"))
        for folder in (group, *group.parents):
            limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
            if limit.strip().isdigit() and used.strip().isdigit():
                counts = dict(
                    map(str.split, _text(folder / "memory.stat").splitlines())
                )
                cache = int(counts.get("inactive_file", 0))
                free.append(max(0, int(limit) - int(used) + cache))
    return free


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
