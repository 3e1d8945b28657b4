"""The program as a process: interrupted at any moment, with streams that cannot be written, and its memory."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.every  # each starts Python and JAX, several times

# Ctrl-C works also where the tests run in the background, where it is ignored
PROGRAM = (
    "import signal, sys, spikegrad_command; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.exit(spikegrad_command.main())"
)
QUICK = ["train", "--data", "digits", "--hidden", "16", "--steps", "2", "--no-baseline"]
FILES = {"parameters.npz", "run.json", "figure.png", "metrics.jsonl"}


def program(*args):
    return [sys.executable, "-c", PROGRAM, *map(str, args)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_signal_is_swallowed_in_the_first_seconds(tmp_path, number):
    ended = []
    for i, delay in enumerate(np.linspace(0.05, 4, 12)):
        folder = tmp_path / str(i)
        args = program(*QUICK, "--epochs", 10**6, "-o", folder)
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            time.sleep(delay)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        ended.append(process.returncode)
        assert process.returncode in (-number, 128 + number), err
        assert b"Traceback" not in err
        if process.returncode > 0:
            assert {path.name for path in folder.iterdir()} == {*FILES, "checkpoints"}
            assert json.loads((folder / "run.json").read_text())["interrupted"]
    assert ended[0] == -number


@pytest.mark.parametrize("redirected", ["2>&-", ">&-", ">&- 2>&- <&-", "2>/dev/full", "2> >(head -n 1)", "| head -n 1"])
def test_a_stream_that_cannot_be_written_ends_no_training(tmp_path, redirected):
    args = program(*QUICK, "--epochs", 20, "-o", tmp_path / "run")
    bash = ["bash", "-c", f'set -o pipefail; "$@" {redirected}', "bash", *args]
    done = subprocess.run(bash, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(about["results"]["spiking"]["curves"]["loss"]) == 20


@pytest.mark.parametrize("args", [["list"], [*QUICK, "--epochs", "1"]])
def test_ascii_is_enough(tmp_path, args):
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(program(*args), capture_output=True, check=True, env=ascii_only, cwd=tmp_path)
    assert (b"alpha" if args == ["list"] else b" +- ") in done.stdout
    assert done.stdout.isascii()


def peak(args):
    """Of a process, in bytes."""
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_the_memory_of_training_is_bounded_by_that_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    small, large = tmp_path / "small.npz", tmp_path / "large.npz"
    for path, n in ((small, 600), (large, 60_000)):
        np.savez(
            path, x_train=rng.integers(0, 256, (n, 28, 28), np.uint8), y_train=(np.arange(n) % 10).astype(np.uint8)
        )
    used = [
        peak(
            program("train", "--data", p, "--epochs", 1, "--hidden", 8, "--steps", 2, "--no-baseline", "-o", f"{p}.run")
        )
        for p in (small, large)
    ]
    assert used[1] - used[0] <= 3 * large.stat().st_size
