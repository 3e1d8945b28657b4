"""The command: what it writes, what it prints, and one line for everything that a user can get
wrong.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import DEFAULTS, images, only_line
from conftest import few
from matplotlib.figure import Figure

import spikegrad
from spikegrad import data
from spikegrad.cli import commands, figure, main, runs, sources, tables, tasks, trainer
from spikegrad.cli.options import Options, options_of
from spikegrad.cli.sweeping import Grid

pytestmark = pytest.mark.newest

QUICK = ["--data", "digits", "--epochs", "2", "--hidden", "32,16", "--steps", "4", "--lr", "0.02"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, and all that it printed."""
    folder = tmp_path_factory.mktemp("run") / "new" / "digits"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["train", *QUICK, "--output", str(folder)]) == 0
    return folder, SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.mark.slow
def test_a_run_is_written_in_full(run):
    folder, done = run
    assert {p.name for p in folder.iterdir()} == {
        "parameters.npz",
        "run.json",
        "figure.png",
        "metrics.jsonl",
    }
    about = record(folder)
    assert about["options"]["hidden"] == [32, 16]
    assert spikegrad.get(about["options"]["surrogate"]) == spikegrad.LIF().surrogate
    assert about["versions"]["jax"] == jax.__version__
    assert about["machine"]["processors"] == len(os.sched_getaffinity(0))
    digits = data.load("digits", 0)
    assert about["data"]["test_sha256"] == sources.sha256(digits.test)
    reversed_labels = images(digits.train.x[:, 0], digits.train.y[::-1])
    assert about["data"]["training_sha256"] != sources.sha256(reversed_labels)
    assert about["data"]["test"] == 359
    assert not about["interrupted"]
    spiking, relu = about["results"]["spiking"], about["results"]["ReLU"]
    assert len(spiking["curves"]["loss"]) == len(relu["curves"]["test"]) == 2
    assert min(spiking["test"], relu["test"]) > 0.5
    png = (folder / "figure.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    with np.load(folder / "parameters.npz", allow_pickle=False) as arrays:
        shapes = {key: arrays[key].shape for key in arrays.files}
    assert shapes == {
        "weight_0": (64, 32), "bias_0": (32,),
        "weight_1": (32, 16), "bias_1": (16,),
        "weight_2": (16, 10), "bias_2": (10,),
    }  # fmt: skip
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    for part in (
        f"{spiking['test']:.1%}"[:-1],
        f"{relu['test']:.1%}"[:-1],
        f"{total:,}",
        str(folder),
    ):
        assert part in done.stdout
    assert "\nFor more checks, run spikegrad diagnose" in done.stdout
    *lines, drawing = done.stderr.splitlines()
    assert drawing == f"drawing {folder / 'figure.png'}"
    assert 2 <= len(lines) <= 24
    lines.remove("counting synaptic operations")
    assert lines.pop(0) == f"digits of 8x8, (64, 32, 16, 10) neurons, {folder}"
    assert all(re.match(r"(spiking|ReLU) .*loss .* train .* active ", line) for line in lines)
    assert (
        max(
            map(
                len,
                [*lines, *(line for line in done.stdout.splitlines() if str(folder) not in line)],
            )
        )
        <= 80
    )


def test_synaptic_operations_per_example(run, capsys):
    folder, done = run
    assert main(["predict", str(folder)]) == 0
    pattern = (
        r"^synaptic operations per example: ([\d,]+) \(([\d,]+) multiplications\), dense ([\d,]+)$"
    )
    trained, saved = (
        re.search(pattern, text, re.MULTILINE) for text in (done.stdout, capsys.readouterr().out)
    )
    assert trained[0] == saved[0]
    total, products, dense = (int(number.replace(",", "")) for number in saved.groups())
    pixels = np.asarray(data.load("digits", 0).test.x)[np.linspace(0, 358, 128).astype(int)]
    real = (pixels % 1 != 0).sum() / 128 * 4 * 32
    assert products == round(real)  # four steps of 32 neurons
    assert dense == 4 * (64 * 32 + 32 * 16 + 16 * 10)
    spikes = (pixels == 1).sum() / 128 * 4 * 32
    params = runs.read(folder).params
    rates = trainer.score(runs.read(folder).network, params, data.load("digits", 0).test).rates
    hidden = 4 * (rates[0] * 32 * 16 + rates[1] * 16 * 10)  # of all examples, so about the same
    assert total - products == pytest.approx(spikes + hidden, rel=0.05)


def test_every_option_reaches_the_network(tmp_path, monkeypatch):
    seen = {}

    def spy(network, params, *, data, options, **settings):
        seen.update(network=network, data=data, options=options)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.trainer, "fit", spy)
    given = {
        "data": "digits",
        "surrogate": "arctan(alpha=2)",
        "epochs": 7,
        "seed": 5,
        "batch": 33,
        "hidden": "11, 12",
        "steps": 6,
        "encoding": "rate",
        "lr": 0.125,
        "shift": 1,
        "taus": 4,
        "reset": "value",
    }
    options = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    assert main(["train", *options, "--detach-reset", "--output", str(tmp_path / "r")]) == 130
    network = seen["network"]
    assert network.sizes == (64, 11, 12, 10)
    assert (network.steps, network.encoding) == (6, "rate")
    assert network.cell == spikegrad.LIF(
        math.exp(-1 / 4), surrogate=spikegrad.Arctan(2.0), reset="value", detach_reset=True
    )
    assert {k: getattr(seen["options"], k) for k in ("epochs", "batch", "lr", "shift", "seed")} == {
        "epochs": 7, "batch": 33, "lr": 0.125, "shift": 1, "seed": 5,
    }  # fmt: skip
    assert np.array_equal(seen["data"].test.x, data.load("digits", 5).test.x)


def test_every_declared_option_is_an_option_of_train_and_sweep_and_of_a_record(run):
    declared = {field.name for field in dataclasses.fields(Options)}
    assert declared <= {parameter.name for parameter in commands.train.params}
    of_grid = {field.name for field in dataclasses.fields(Grid)}
    assert (declared | of_grid) - {"surrogate", "lr"} <= {
        parameter.name for parameter in commands.sweep.params
    }
    assert declared == set(record(run[0])["options"])


def test_default_options_depend_on_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = {"images": ("x_train", "y_train"), "sequences": ("x", "y"), "events": ("times", "units")}
    for name, given in keys.items():
        np.savez(f"{name}.npz", **dict.fromkeys(given, np.zeros(1)))
    plain = {"encoding": "none", "shift": 0, "bin": 0.0, "pool": 1, "readout": "mean"}
    images, counted = (
        plain | {"encoding": "current", "steps": 8},
        plain | {"steps": 100, "bin": 14.0},
    )
    expected = {
        "mnist5k": images | {"shift": 2},
        "digits": images,
        "images.npz": images,
        "shd:a": counted,
        "ssc:a": counted,
        "nmnist:a": counted | {"bin": 3.5},
        "dvs128:a": counted | {"bin": 60.0, "pool": 4},
        "ts:a": plain,
        "japanese_vowels": plain,
        "self_regulation_scp1": plain,
        "randman": plain | {"steps": 100},
        "yin_yang": plain | {"steps": 60},
        "binary_adding": plain | {"steps": 100},
        "cue_accumulation": plain,
        "mackey_glass": plain | {"steps": 75, "readout": "each"},
        "sequences.npz": plain,
        "events.npz": counted,
    }
    for source, defaults in expected.items():
        context = commands.train.make_context("train", ["--data", source])
        given = {name: value for name, value in context.params.items() if name in DEFAULTS}
        found = options_of(context, Options, **given)
        assert {name: getattr(found, name) for name in defaults} == defaults, source


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", few([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_ctrl_c_keeps_what_was_learnt(number, tmp_path, monkeypatch, capsys):
    folder, fit = tmp_path / "run", commands.trainer.fit

    def interrupt(now):
        if now.step == now.updates:  # of the first call, because a second Ctrl-C ends the process
            os.kill(os.getpid(), number)

    def interrupted(*args, callbacks, **settings):
        return fit(*args, callbacks=[*callbacks, interrupt], **settings)

    monkeypatch.setattr(commands.trainer, "fit", interrupted)
    monkeypatch.setattr(figure, "run_figure", lambda *_: Figure())
    assert main(["train", *QUICK, "--epochs", "1000000", "--output", str(folder)]) == 128 + number
    monkeypatch.undo()
    out, err = capsys.readouterr()
    assert " 1/1000000" in err
    assert "interrupted: results so far are saved" in out
    assert {p.name for p in folder.iterdir()} == {
        "parameters.npz", "run.json", "figure.png", "metrics.jsonl", "checkpoints"
    }  # fmt: skip
    about = record(folder)
    assert about["interrupted"]
    assert list(about["results"]) == ["spiking"]
    assert 1 <= about["results"]["spiking"]["epochs"] < 1000000
    assert main(["predict", str(folder), "digits"]) == 0


@pytest.mark.slow
def test_divergence_is_one_line_after_its_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "cross_entropy", lambda logits, labels: logits.sum(-1) * jnp.nan)
    assert main(["train", *QUICK, "--quiet", "--output", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    reason, error = captured.err.splitlines()
    assert reason.startswith(
        "at the start, not finite: the loss of constant outputs is NaN or infinite, so check"
    )
    assert error == (
        "spikegrad: error: training diverged: the loss is nan at update 1, in epoch 1. "
        "Use a smaller learning rate, such as --lr 0.002"
    )


WRONG = {
    "no such command": (
        ["learn"],
        "unknown command 'learn': did you mean train? Else use train, predict, diagnose, ",
    ),
    "values with spaces": (
        ["train", "--seed", "1", "--hidden", "100", "50", "--recurrent"],
        "--hidden must have commas between its values, got 100 50. Write --hidden 100,50",
    ),
    "ranges with spaces": (["sweep", "--lr", "0.1", "0.2"], "Write --lr 0.1,0.2"),
    "data without its option": (
        ["train", "my.npz"],
        "unexpected argument my.npz. Write an option before it, such as",
    ),
    "a word too many": (
        ["train", "--recurrent", "2"],
        "unexpected argument 2. Write an option before it, such as",
    ),
    "labels below 0": (
        ["train", "--data", "negative.npz"],
        "y_train must hold labels from 0 to 65535, got -1 at index 3; numpy.unique(y_train, "
        "return_inverse=True)[1] n",
    ),
    "time first": (
        ["train", "--data", "time.npz"],
        "with 50 labels, got (50, 20, 2) with 20 labels: time seems to be the first axis; save "
        "numpy.swapaxes(x, 0, 1)",
    ),
    "objects": (
        ["train", "--data", "objects.npz"],
        "objects.npz: x must be an array of numbers, got Python objects; ",
    ),
    "NaN": (
        ["train", "--data", "nan.npz"],
        "nan.npz: x_train must be finite, got nan at index (7, 1); replace or",
    ),
    "keys": (
        ["train", "--data", "keys.npz"],
        "keys.npz: keys must be x_train, y_train: images or features, or x, y: sequences (n, "
        "steps, channels), or "
        "times, units, ...: events, got data, labels. Rename the arrays, as numpy.savez(file, "
        "x_train=x, y_train=y)",
    ),
    "a test set of another shape": (
        ["train", "--data", "test.npz"],
        "x_test must have shape (n, 2) like x_train, got (20, 3)",
    ),
    "no such option": (["train", "--epoch", "3"], "No such option"),
    "unknown surrogate": (
        ["train", "--surrogate", "arctang"],
        "unknown surrogate 'arctang', did you mean 'arctan'?",
    ),
    "parameter out of domain": (
        ["train", "--surrogate", "arctan(-1)"],
        "Arctan: alpha must be > 0, got -1.0",
    ),
    "epochs": (
        ["train", "--epochs", "-1"],
        "Invalid value for '--epochs': -1 is not in the range x>=1",
    ),
    "encoding": (
        ["train", "--encoding", "phase"],
        "'phase' is not one of 'current', 'rate', 'latency'",
    ),
    "hidden": (
        ["train", "--hidden", "256,,256"],
        "'256,,256': pass numbers above 0, such as 256,256",
    ),
    "near a name": (
        ["train", "--data", "mnist"],
        "unknown data 'mnist': did you mean nmnist:PATH or mnist5k? ",
    ),
    "a table": (["train", "--data", "my.csv"], "my.csv must be a .npz file. numpy.loadtxt(file, "),
    "labels of text": (
        ["train", "--data", "text.npz"],
        "got <U3 of shape (20,); numpy.unique(y_train, return_inverse=True)[1] numbers other "
        "labels",
    ),
    "no path": (["train", "--data", "shd"], "unknown data 'shd': did you mean shd:PATH"),
    "no folder": (["train", "--data", "nmnist:none"], "none: no folders 0 to 9 with .bin files"),
    "shift of recordings": (
        ["train", "--data", "events.npz", "--shift", "1"],
        "--data events.npz does not support it. Remove --shift",
    ),
    "noise on images": (
        ["train", "--input-noise", "0.1"],
        "--data mnist5k does not support it. Remove --input-noise",
    ),
    "steps of recordings": (
        ["train", "--data", "sequences.npz", "--steps", "2"],
        "--data sequences.npz does not",
    ),
    "taus": (
        ["train", "--taus", "9,slow"],
        "'--taus': '9,slow': pass numbers above 0, such as 20 or 20,10, in steps",
    ),
    "too many taus": (
        ["train", "--taus", "1,2,3"],
        "taus must have 1 or 2 values for the cell lif, got 3",
    ),
    "one class": (
        ["train", "--data", "events.npz"],
        "events.npz: y must hold at least two classes",
    ),
    "no file": (["train", "--data", "none.npz"], "none.npz: no such file"),
    "output in use": (
        ["train", "--data", "digits", "--output", "used"],
        "used exists. Choose a new output folder",
    ),
    "resume with an option": (
        ["train", "--resume", "used", "--lr", "1"],
        "options of the original run. Remove --lr",
    ),
    "no output": (["plot", "sigmoid"], "Missing option '--output'"),
    "plot format": (["plot", "sigmoid", "-o", "a.docx"], "a.docx must end in .png or .svg or .pdf"),
    "no run": (
        ["predict", "nowhere", "digits"],
        "nowhere is not the folder of a run: it has no run.json",
    ),
    "process": (
        ["train", "--num-processes", "2"],
        "--num-processes and --process-id need --coordinator-address",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line_and_exit_code_2(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.trainer, "fit", None)  # nothing may get as far as training
    labels = np.arange(20) % 2
    np.savez(
        "text.npz", x_train=np.arange(40.0).reshape(20, 2), y_train=np.array(["cat", "dog"])[labels]
    )
    np.savez("table.npz", x_train=np.arange(40.0).reshape(20, 2), y_train=labels)
    events = {"times": np.zeros(9), "time_unit": "ms", "units": np.zeros(9, int), "shape": [1]}
    np.savez("events.npz", **events, offsets=np.arange(10), y=np.zeros(9, int))
    np.savez("keys.npz", data=np.zeros((20, 2)), labels=labels)
    np.savez("negative.npz", x_train=np.eye(20), y_train=np.where(np.arange(20) == 3, -1, labels))
    np.savez("time.npz", x=np.zeros((50, 20, 2)), y=labels)
    np.savez(
        "objects.npz", x=np.array([np.zeros((n % 3 + 1, 2)) for n in range(20)], object), y=labels
    )
    np.savez(
        "nan.npz", x_train=np.where(np.arange(40) == 15, np.nan, 1).reshape(20, 2), y_train=labels
    )
    np.savez("test.npz", x_train=np.eye(20, 2), y_train=labels, x_test=np.eye(20, 3), y_test=labels)
    np.savez("sequences.npz", x=np.zeros((3, 2)), y=np.zeros(3, int))
    Path("used").mkdir()
    Path("used", "run.json").touch()
    args, message = WRONG[name]
    assert main(args) == 2
    assert message in only_line(capsys)


def test_predict_rejects_other_shapes_and_older_runs(run, tmp_path, capsys):
    folder, copy = run[0], tmp_path / "copy"
    for arguments, message in (
        (
            ["mnist5k"],
            "trained on channels of shape (8, 8) and 10 outputs, got (28, 28) and 10 outputs",
        ),
        (["-o", "a.csv"], "a.csv must end in .npz"),
    ):
        assert main(["predict", str(folder), *arguments]) == 2
        assert message in only_line(capsys)
    copy.mkdir()
    shutil.copy(folder / "run.json", copy)
    assert main(["predict", str(copy)]) == 2
    assert "parameters.npz" in only_line(capsys)
    shutil.copy(folder / "parameters.npz", copy)
    (copy / "run.json").write_text(
        (folder / "run.json").read_text().replace('"test_sha256": "', '"test_sha256": "0')
    )
    assert main(["predict", str(copy)]) == 2
    assert "digits is not the data of the run, or has changed" in only_line(capsys)
    for change, message in (
        (lambda options: {"format": 3}, "it has format 3, not 7"),
        (
            lambda options: {"options": options | {"depth": 2}},
            "unexpected keyword argument 'depth'",
        ),
        (
            lambda options: {"options": {"data": "digits"}},
            "missing 19 required positional arguments",
        ),
    ):
        about = record(folder)
        (copy / "run.json").write_text(json.dumps(about | change(about["options"])))
        assert main(["predict", str(copy)]) == 2
        assert f"run.json is not a run of spikegrad {spikegrad.__version__}: " in (
            line := only_line(capsys)
        )
        assert message in line


def test_hashes_differ_in_values_labels_and_shapes():
    x, y = np.arange(4, dtype=np.uint8).reshape(2, 2), np.arange(2)
    some = images(x, y)
    changes = (x + 1, y), (x, y + 1), (x / 1, y), (x.reshape(2, 2, 1), y), (x, np.zeros(2, int))
    hashes = {sources.sha256(some), *(sources.sha256(images(*changed)) for changed in changes)}
    assert len(hashes) == 6


@pytest.mark.slow
@pytest.mark.parametrize("suffix", few(["png", "svg", "pdf"], "png"))
def test_plot_writes_a_picture(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    assert main(["plot", "sigmoid", "Arctan(alpha=2)", "-o", str(path)]) == 0
    assert path.read_bytes().startswith(
        {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    )


def test_help_shows_the_defaults_and_the_data(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out
    assert max(map(len, lines.splitlines())) <= 80
    text = " ".join(lines.split())
    for default in (
        "mnist5k",
        "Sigmoid(alpha=4.0)",
        "40; x>=1",
        "256,256",
        "current",
        "0.002",
        "runs/<date>-<time>",
    ):
        assert f"[default: {default}" in text or f"[default: ({default}" in text
    heads = [line for line in lines.splitlines() if re.fullmatch("[A-Z].*:", line)]
    assert main(["sweep", "--help"]) == 0
    assert "[default: sigmoid,arctan,inv_square_grad]" in " ".join(capsys.readouterr().out.split())
    assert heads == ["Data:", "Network:", "Training:", "Output:", "Several machines:", "Other:"]
    assert main(["--help"]) == 0
    assert re.search(r"Commands:\s+train", capsys.readouterr().out)
    assert main(["data"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for form in sources.FORMS:
        assert f"{form.written} {form.about}" in text
    assert main(["--version"]) == 0
    assert spikegrad.__version__ in capsys.readouterr().out
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


def test_progress_in_a_log_is_a_line_for_each_tenth(capsys):
    with tables.progress() as show:
        for completed in range(201):
            show(f"{completed} of 200", completed, 200)
    assert capsys.readouterr().err.split("\n") == [*(f"{n} of 200" for n in range(0, 201, 20)), ""]


def together(times, function):
    """What as many threads make of a function that they call at the same moment: results or
    errors.
    """
    start = threading.Barrier(times)

    def one(_):
        start.wait()
        try:
            return function()
        except runs.DataError as error:
            return error

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(one, range(times)))


def test_a_default_folder_is_always_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [*together(8, lambda: runs.claim(None)), runs.claim(None)]
    assert len(set(made)) == 9
    assert {folder.parent for folder in made} == {Path("runs")}


def test_one_of_several_runs_claims_a_folder(tmp_path):
    for i in range(20):
        folder = tmp_path / str(i)
        refused = [error for error in together(2, lambda: runs.claim(folder)) if error != folder]  # noqa: B023
        assert [str(error) for error in refused] == [f"{folder} exists. Choose a new output folder"]


WITHOUT = """
import sys
for package in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "spikegrad"]:
        del sys.modules[name]  # as in a new process, but with JAX imported once
    there = sys.modules.get(package)
    sys.modules[package] = None
    from spikegrad.cli import main
    assert main(["train"]) == 2
    if there is None:
        del sys.modules[package]
    else:
        sys.modules[package] = there
"""


@pytest.mark.slow
def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    packages = ["click", "optax"]
    call = [sys.executable, "-c", WITHOUT, *packages]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"spikegrad: error: the command needs {package}, which is not installed: "
        "pip install '.[train]' in a clone of spikegrad"
        for package in packages
    ]
