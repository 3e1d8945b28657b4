"""What the machine has left, read from a system that is made up."""

import os
import subprocess
import sys

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


def test_system_that_forbids_questions(monkeypatch, tmp_path):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
    monkeypatch.setattr(_system.shutil, "disk_usage", refuse)
    assert _system.processors() == os.cpu_count()
    assert _system.free_disk(tmp_path) is None


def test_this_machine(tmp_path):
    assert 1 <= _system.processors() <= os.cpu_count()
    free = _system.available_memory()
    assert free is None or 2**20 < free < 2**50
    assert _system.free_disk(tmp_path / "not" / "yet") == pytest.approx(_system.free_disk(tmp_path), abs=2**30)


@pytest.mark.skipif(not hasattr(_system.LIBC, "mallopt"), reason="GNU's allocator alone")
def test_command_gives_back_what_other_threads_freed_while_compiling():
    """A thread has filled and freed a heap, behind a block that stays. A trim leaves the end of its own heap."""
    program = """
import ctypes, os, sys, threading
import jax
from spikegrad import _system
from spikegrad.cli import allocator

def used():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "tuned":
    allocator.tune()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def work():
    blocks = [libc.malloc(100_000) for _ in range(300)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in reversed(blocks[1:]):
        libc.free(block)

libc.free(libc.malloc(31 << 20))  # after which the allocator keeps as much
_system.release_memory()
before = used()
thread = threading.Thread(target=work)
thread.start()
thread.join()
jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 1.0)
print(used() - before)
"""
    kept = {
        name: int(subprocess.run([sys.executable, "-c", program, name], capture_output=True, check=True).stdout)
        for name in ("tuned", "not")
    }
    assert kept["not"] - kept["tuned"] > 10e6  # of 30 that were freed
