"""A file is written whole, or the old one stays."""

import contextlib
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from spikegrad import _files
from spikegrad._files import write_atomically

OLD = b"old"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "numbers.npz"
    path.write_bytes(OLD)
    return path


def names(path):
    return [p.name for p in path.parent.iterdir()]


def test_the_new_file_takes_the_place_of_the_old_one_when_it_is_whole(path):
    def write(stream):
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == OLD

    write_atomically(path, write)
    assert path.read_bytes() == b"new"
    assert names(path) == ["numbers.npz"]


def test_a_link_is_followed(path):
    link = path.with_name("link.npz")
    link.symlink_to(path)
    write_atomically(link, lambda stream: stream.write(b"new"))
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


def test_a_pipe_or_a_device_is_neither_replaced_nor_opened(path):
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="must be a regular file"):
        write_atomically(path, lambda stream: stream.write(b"new"))
    assert path.is_fifo()


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_failing_write_leaves_only_the_old_file(path, error):
    def write(stream):
        stream.write(b"new")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_bytes() == OLD
    assert names(path) == ["numbers.npz"]


@contextlib.contextmanager
def small_disk():
    """No file can grow beyond a page: the error of a full disk comes at the same calls."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_old_file(path):
    # A fixture would stop the writes of coverage between the fixture and the test.
    with small_disk(), pytest.raises(OSError, match="File too large"):
        write_atomically(
            path, lambda stream: np.savez(stream, a=np.zeros(10**5), b=np.zeros(10**5))
        )
    assert path.read_bytes() == OLD
    assert names(path) == ["numbers.npz"]


KILLED = """
import os, runpy, sys
from pathlib import Path

# Without JAX, which takes seconds to import.
write_atomically = runpy.run_path(sys.argv[1])["write_atomically"]

def write(stream):
    stream.write(b"n")
    stream.flush()
    os.kill(os.getpid(), 9)

write_atomically(Path(sys.argv[2]), write)
"""


def test_a_kill_leaves_the_old_file(path):
    done = subprocess.run([sys.executable, "-c", KILLED, _files.__file__, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == OLD
    (partial,) = set(names(path)) - {"numbers.npz"}
    assert partial.endswith(".part")


def test_contents_reach_the_disk_before_the_name(path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_size))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace"))
    write_atomically(path, lambda stream: stream.write(b"new"))
    assert done == [3, "replace"]


def test_partial_files_of_killed_processes_are_removed(path):
    subprocess.run([sys.executable, "-c", KILLED, _files.__file__, str(path)], check=False)
    other = path.with_name(".other.npz.0123abcd.part")
    other.touch()
    write_atomically(path, lambda stream: stream.write(b"new"))
    assert set(names(path)) == {"numbers.npz", other.name}
    _files.remove_partials(path.parent)
    assert names(path) == ["numbers.npz"]


def test_of_two_writers_of_a_file_one_gets_an_error(path):
    def write(stream):
        write_atomically(path, lambda inner: inner.write(b"first"))
        stream.write(b"second")

    with pytest.raises(FileNotFoundError):
        write_atomically(path, write)
    assert path.read_bytes() == b"first"
    assert names(path) == ["numbers.npz"]
