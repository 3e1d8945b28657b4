"""What the machine has left, read from a system that is made up."""

import os

import pytest

from spikegrad import _system

FILES = {
    "/proc/meminfo": "MemTotal:       2000 kB\nMemFree:        500 kB\nMemAvailable:   1000 kB\n",
    "/proc/self/cgroup": "0::/job/step\n",
    "/sys/fs/cgroup/job/step/memory.max": "max\n",
    "/sys/fs/cgroup/job/step/memory.current": "300000\n",
    "/sys/fs/cgroup/job/memory.max": "700000\n",
    "/sys/fs/cgroup/job/memory.current": "400000\n",
    "/sys/fs/cgroup/job/memory.stat": "anon 5\ninactive_file 100000\n",
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 400_000),  # the limit of the job, and its cache can go
        ({"/sys/fs/cgroup/job/memory.stat": ""}, 300_000),
        ({"/sys/fs/cgroup/job/memory.max": "max"}, 1_024_000),
        ({"/sys/fs/cgroup/job/step/memory.max": "200000"}, 0),
        ({"/proc/meminfo": ""}, 400_000),
        ({"/proc/self/cgroup": "", "/proc/meminfo": ""}, None),
    ],
)
def test_memory_is_what_system_and_container_leave(monkeypatch, change, expected):
    monkeypatch.setattr(_system, "_text", lambda path: (FILES | change).get(str(path), ""))
    assert _system.available_memory() == expected


def test_system_that_forbids_questions(monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
    assert _system.processors() == os.cpu_count()


def test_this_machine():
    assert 1 <= _system.processors() <= os.cpu_count()
    free = _system.available_memory()
    assert free is None or 2**20 < free < 2**50
