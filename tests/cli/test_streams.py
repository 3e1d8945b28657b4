"""Streams that cannot be written and signals that come early or twice: nothing is lost and nothing goes on unasked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import spikegrad_command
from spikegrad import cli
from spikegrad.cli import signals


@pytest.fixture
def without_jax(tmp_path):
    """Starts code beside the command's modules, in a package that does not take seconds to import."""
    (tmp_path / "spikegrad").mkdir()
    (tmp_path / "spikegrad" / "__init__.py").touch()
    (tmp_path / "spikegrad" / "cli").symlink_to(Path(cli.__file__).parent)
    (tmp_path / "spikegrad_command.py").symlink_to(spikegrad_command.__file__)

    def start(code, shell='"$@"', **options):
        return subprocess.Popen(
            ["bash", "-c", f"exec {shell}", "bash", sys.executable, "-c", code],
            env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C", "PYTHONUTF8": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start


PRINTS = r"""
import sys
from spikegrad.cli import streams
streams.prepare()
out, progress = streams.Output(sys.stdout, False), streams.Output(sys.stderr, True)
for i in range(1000):
    progress.write(f"step {i} " + 100 * "." + chr(10))
    progress.flush()
    out.write(f"5 \u00b1 1, \u03b1(w \u2212 |x|)\u00b2, \u4e00 {i}" + chr(10))
out.flush()
sys.exit(7)
"""


@pytest.mark.parametrize(
    "shell",
    [
        '"$@" 2>&-',
        '"$@" >&-',
        '"$@" >&- 2>&- <&-',
        '"$@" 2>/dev/full',
        '"$@" 2> >(head -n 1)',
        '"$@" > >(head -n 1)',
    ],
)
def test_failing_progress_output_does_not_stop_training(without_jax, shell):
    with without_jax(PRINTS, shell) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "Traceback" not in err
    assert "Exception" not in err
    if "head" not in shell and ">&-" not in shell.replace("2>&-", ""):
        assert out.splitlines()[-1] == "5 +- 1, alpha(w - |x|)^2, ? 999"


def test_a_full_disk_under_standard_output_is_an_error(without_jax):
    with without_jax(PRINTS, '"$@" > /dev/full') as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "OSError: standard output cannot be written: No space left on device"


FAILS = """
import sys
from spikegrad.cli import streams
streams.prepare()
sys.exit(streams.fail("a" * 1000 + chr(10) + "the end", 2))
"""


@pytest.mark.parametrize("shell", ['"$@"', '"$@" 2>/dev/full', '"$@" 2> >(true)'])
def test_an_error_is_one_line_of_moderate_length_and_its_exit_code_stays(without_jax, shell):
    with without_jax(FAILS, shell) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    if shell == '"$@"':
        (line,) = err.splitlines()
        assert line.startswith("spikegrad: error: aaa")
        assert line.endswith("a the end")
        assert len(line) < 700


def test_jax_that_cannot_be_imported_is_one_line(without_jax, tmp_path):
    package, starts = tmp_path / "spikegrad" / "__init__.py", "import spikegrad_command; spikegrad_command.main()"
    exits = starts.replace("; ", "; raise SystemExit(") + ")"
    (tmp_path / "jax.py").write_text("raise RuntimeError('jaxlib is too old.')")
    package.write_text("import jax")
    with without_jax(exits) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        2,
        "spikegrad: error: JAX cannot be imported: jaxlib is too old. "
        "Install it and NumPy again: pip install --force-reinstall jax jaxlib numpy\n",
    )
    (tmp_path / "jax.py").write_text("")
    package.write_text("import jax\nimport jax.numpy")
    with without_jax(exits) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (2, 1)
    assert err.startswith(
        "spikegrad: error: JAX cannot be imported: No module named 'jax.numpy'; 'jax' is not a package"
    )
    for mistake in ("import jax\nraise RuntimeError('mistake')", "import jax\nimport mistake", "from . import mistake"):
        package.write_text(mistake)
        with without_jax(starts) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert err.startswith("Traceback")


STREAMS = """
import os, sys, spikegrad.cli, spikegrad_command

def main():
    spikegrad.cli.streams.prepare()
    print("lost")
    assert os.open("kept", os.O_CREAT | os.O_RDWR) > 2
    return 5

spikegrad.cli.main = main
sys.exit(spikegrad_command.main())
"""


def test_no_file_takes_the_number_of_a_closed_stream(without_jax, tmp_path):
    with without_jax(STREAMS, '"$@" >&- 2>&- <&-', cwd=tmp_path) as process:
        assert process.wait(60) == 5


SWALLOWS = """
import os, signal, sys, time, spikegrad.cli, spikegrad_command

def main():
    try:
        print("ready", flush=True)
        time.sleep(10)
    except BaseException:  # as in an import that has something else to try
        pass
    return 0

spikegrad.cli.main = main
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
sys.exit(spikegrad_command.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_ends_at_once(without_jax, number):
    with without_jax(SWALLOWS) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(5) == -number


def test_ignored_ctrl_c_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(cli, "main", lambda: 3)
        assert spikegrad_command.main() == 3
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with signals.deferred() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_training_is_stored(number):
    before = signal.signal(number, lambda *args: None)
    try:
        with signals.deferred() as stop:
            assert stop() == 0
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # a launcher's second one, of the same moment
            assert stop() == number
    finally:
        now = signal.signal(number, before)
    assert now.__name__ == "<lambda>"
    assert stop() == number


TWICE = """
import time
from spikegrad.cli import signals
with signals.deferred() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(20)
"""


def test_a_second_signal_ends_at_once(without_jax):
    with without_jax(TWICE) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        time.sleep(0.6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM
