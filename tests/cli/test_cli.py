"""The command: what it writes, what it prints, and one line for everything that a user can get wrong."""

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import images
from conftest import MODES, few

import spikegrad
from spikegrad import Layer, data, training
from spikegrad.cli import commands, main, networks, runs, sources, trainer
from spikegrad.cli.options import Options
from spikegrad.cli.sweeping import Grid

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


def test_a_run_is_written_in_full(run):
    folder, done = run
    assert {p.name for p in folder.iterdir()} == {"parameters.npz", "run.json", "figure.png", "metrics.jsonl"}
    about = record(folder)
    assert about["options"]["hidden"] == [32, 16]
    assert spikegrad.get(about["options"]["surrogate"]) == spikegrad.LIF().surrogate
    assert about["versions"]["jax"] == jax.__version__
    assert about["jax"]["jax_enable_x64"] is False
    assert about["jax"]["jax_default_prng_impl"] == jax.config.jax_default_prng_impl
    assert about["machine"]["processors"] == len(os.sched_getaffinity(0))
    digits = data.load("digits", 0)
    assert about["data"]["test_sha256"] == runs.sha256(digits.test, True)
    reversed_labels = images(digits.train.x[:, 0], digits.train.y[::-1])
    assert about["data"]["training_sha256"] != runs.sha256(reversed_labels, True)
    assert about["data"]["test"] == 359
    assert not about["interrupted"]
    spiking, relu = about["results"]["spiking"], about["results"]["relu"]
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
    for part in (f"{spiking['test']:.1%}"[:-1], f"{relu['test']:.1%}"[:-1], f"{total:,}", str(folder)):
        assert part in done.stdout
    assert "\nFor more checks, run spikegrad diagnose" in done.stdout
    *lines, drawing = done.stderr.splitlines()
    assert drawing == f"drawing {folder / 'figure.png'}"
    assert 2 <= len(lines) <= 24
    lines.remove("counting synaptic operations")
    assert all(re.match(r"(spiking|ReLU) .*loss .* train .* (firing|active) ", line) for line in lines)
    assert max(map(len, [*lines, *(line for line in done.stdout.splitlines() if str(folder) not in line)])) <= 80


def test_a_saved_run_gives_the_same_answers(run, tmp_path, capsys):
    folder, _ = run
    out = tmp_path / "predictions.npz"
    assert main(["predict", str(folder), "digits", "-o", str(out)]) == 0
    spiking = record(folder)["results"]["spiking"]
    examples = data.load("digits", 0)
    with np.load(out) as predictions:
        answers, logits = predictions["y_pred"], predictions["logits"]
    assert (answers == examples.test.y).mean() == spiking["test"]
    network, x = runs.read(folder).network, jnp.asarray(examples.test.x)
    cells = [network.cell, network.cell, spikegrad.LeakyReadout(network.cell.decay)]
    with np.load(folder / "parameters.npz") as arrays:
        params = tuple(Layer(arrays[f"weight_{i}"], cell, bias=arrays[f"bias_{i}"]) for i, cell in enumerate(cells))
    expected, _, _ = network(params, x, jax.random.key(0))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    printed = capsys.readouterr().out
    wrong = (answers != examples.test.y) & (examples.test.y == 3)
    assert main(["predict", str(folder)]) == 0  # the data of the run
    assert capsys.readouterr() == (printed, "")
    row = next(line for line in printed.splitlines() if re.match(r"│\s+3 ", line))
    count = int((examples.test.y == 3).sum())
    assert [cell.strip() for cell in row.split("│")[2:4]] == [str(count), str(count - wrong.sum())]


def test_synaptic_operations_per_example(run, capsys):
    folder, done = run
    assert main(["predict", str(folder)]) == 0
    pattern = r"^synaptic operations per example: ([\d,]+) \(([\d,]+) multiplications\), dense ([\d,]+)$"
    trained, saved = (re.search(pattern, text, re.MULTILINE) for text in (done.stdout, capsys.readouterr().out))
    assert trained[0] == saved[0]
    total, products, dense = (int(number.replace(",", "")) for number in saved.groups())
    pixels = np.asarray(data.load("digits", 0).test.x)[np.linspace(0, 358, 128).astype(int)]
    real = (pixels % 1 != 0).sum() / 128 * 4 * 32
    assert products == round(real)  # four steps of 32 neurons
    assert dense == 4 * (64 * 32 + 32 * 16 + 16 * 10)
    spikes = (pixels == 1).sum() / 128 * 4 * 32
    params = runs.read_parameters(runs.read(folder))
    rates = trainer.make_evaluator(runs.read(folder).network)(params, data.load("digits", 0).test).rates
    hidden = 4 * (rates[0] * 32 * 16 + rates[1] * 16 * 10)  # of all examples, so about the same
    assert total - products == pytest.approx(spikes + hidden, rel=0.05)


def test_data_of_ones_own_is_trained_on_and_scored(tmp_path, capsys):
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = rng.normal(size=(300, 5)) + 4 * np.eye(3, 5)[y]
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y)
    np.savez(tmp_path / "more.npz", x=x[:50])
    folder, mine = str(tmp_path / "run"), str(tmp_path / "mine.npz")
    args = ["--batch", "16", "--epochs", "12", "--hidden", "30", "--lr", "0.02", "--encoding", "rate", "--no-baseline"]
    assert main(["train", "--data", mine, *args, "--output", folder]) == 0
    about = record(Path(folder))
    assert about["results"]["relu"] is None
    assert about["results"]["spiking"]["test"] > 0.8
    assert "not trained" in capsys.readouterr().out
    # the held-out examples again, and a random input encoding is drawn alike
    assert main(["predict", folder, mine, "-o", str(tmp_path / "p.npz")]) == 0
    with np.load(tmp_path / "p.npz") as predictions:
        assert (predictions["y_pred"] == data.load(mine, 0).test.y).mean() == about["results"]["spiking"]["test"]
    capsys.readouterr()
    assert main(["predict", folder, str(tmp_path / "more.npz")]) == 0
    printed = capsys.readouterr().out
    assert "answers" in printed
    assert "accuracy" not in printed


def test_every_option_reaches_the_network(tmp_path, monkeypatch):
    seen = {}

    def spy(network, params, data, options, **settings):
        seen.update(network=network, data=data, options=options)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.trainer, "fit", spy)
    given = {
        "data": "digits", "surrogate": "arctan(alpha=2)", "epochs": 7, "seed": 5, "batch": 33, "hidden": "11, 12",
        "steps": 6, "encoding": "rate", "lr": 0.125, "shift": 1, "decay": 0.75, "reset": "value",
    }  # fmt: skip
    options = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    assert main(["train", *options, "--detach-reset", "--output", str(tmp_path / "r")]) == 130
    network = seen["network"]
    assert network.sizes == (64, 11, 12, 10)
    assert (network.steps, network.encoding) == (6, "rate")
    assert network.cell == spikegrad.LIF(0.75, surrogate=spikegrad.Arctan(2.0), reset="value", detach_reset=True)
    assert {k: getattr(seen["options"], k) for k in ("epochs", "batch", "lr", "shift", "seed")} == {
        "epochs": 7, "batch": 33, "lr": 0.125, "shift": 1, "seed": 5,
    }  # fmt: skip
    assert np.array_equal(seen["data"].test.x, data.load("digits", 5).test.x)


def test_every_declared_option_is_an_option_of_train_and_sweep_and_of_a_record(run):
    declared = {field.name for field in dataclasses.fields(Options)}
    assert declared <= {parameter.name for parameter in commands.train.params}
    of_grid = {field.name for field in dataclasses.fields(Grid)}
    assert (declared | of_grid) - {"surrogate", "lr"} <= {parameter.name for parameter in commands.sweep.params}
    assert declared == set(record(run[0])["options"])


def test_default_options_depend_on_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = {"images": ("x_train", "y_train"), "sequences": ("x", "y"), "events": ("times", "units")}
    for name, given in keys.items():
        np.savez(f"{name}.npz", **dict.fromkeys(given, np.zeros(1)))
    plain = {"encoding": "none", "shift": 0, "bin": 0.0, "pool": 1}
    images, counted = plain | {"encoding": "current", "steps": 8}, plain | {"steps": 100, "bin": 14.0}
    expected = {
        "mnist5k": images | {"shift": 2}, "digits": images, "images.npz": images, "shd:a": counted, "ssc:a": counted,
        "nmnist:a": counted | {"bin": 3.5}, "dvs128:a": counted | {"bin": 60.0, "pool": 4}, "ts:a": plain,
        "japanese_vowels": plain, "self_regulation_scp1": plain, "randman": plain | {"steps": 100},
        "yin_yang": plain | {"steps": 60}, "binary_adding": plain | {"steps": 100}, "cue_accumulation": plain,
        "sequences.npz": plain, "events.npz": counted,
    }  # fmt: skip
    for source, defaults in expected.items():
        context = commands.train.make_context("train", ["--data", source])
        others = ("output", "checkpoint", "resume", "baseline", "quiet", *commands.processes.NAMES)
        given = {name: value for name, value in context.params.items() if name not in others}
        found = commands.options_of(context, **given)
        assert {name: getattr(found, name) for name in defaults} == defaults, source


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", few([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_ctrl_c_keeps_what_was_learnt(number, tmp_path, monkeypatch, capsys):
    folder, fit = tmp_path / "run", commands.trainer.fit

    def interrupted(*args, report, **settings):
        def told(*now):
            report(*now)
            os.kill(os.getpid(), number)

        return fit(*args, report=told, **settings)

    monkeypatch.setattr(commands.trainer, "fit", interrupted)
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
    assert about["results"]["relu"] is None
    assert 1 <= about["results"]["spiking"]["epochs"] < 1000000
    assert main(["predict", str(folder), "digits"]) == 0


@pytest.mark.every
def test_ctrl_c_in_the_baseline_keeps_both_and_the_same_seed_gives_the_same_parameters(
    run, tmp_path, monkeypatch, capsys
):
    fit = commands.trainer.fit

    def interrupt(network, *args, **settings):
        if isinstance(network.cell, networks.Rectified):
            os.kill(os.getpid(), signal.SIGINT)
        return fit(network, *args, **settings)

    monkeypatch.setattr(commands.trainer, "fit", interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert main(["train", *QUICK, "--quiet", "--output", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == ""
    results = record(tmp_path / "run")["results"]
    assert not results["spiking"]["interrupted"]
    assert results["relu"]["interrupted"]
    assert signal.getsignal(signal.SIGINT) is before
    with np.load(run[0] / "parameters.npz") as first, np.load(tmp_path / "run" / "parameters.npz") as again:
        assert np.array_equal(first["weight_1"], again["weight_1"])


def test_divergence_is_one_line_after_its_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "cross_entropy", lambda logits, labels: logits.sum(-1) * jnp.nan)
    assert main(["train", *QUICK, "--quiet", "--output", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "at the start, layer 3 gets a gradient of the loss that is NaN or infinite",
        "spikegrad: error: the spiking network diverged: the loss is nan at update 1, in epoch 1. A smaller learning "
        "rate may help",
    ]


def only_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


WRONG = {
    "no such command": (["learn"], "No such command 'learn'"),
    "no such option": (["train", "--epoch", "3"], "No such option"),
    "unknown surrogate": (["train", "--surrogate", "arctang"], "unknown surrogate 'arctang', did you mean 'arctan'?"),
    "malformed surrogate": (["train", "--surrogate", "arctan(alpha=2"], "malformed surrogate 'arctan(alpha=2'"),
    "parameter of none": (["train", "--surrogate", "arctan(beta=2)"], "its parameters are alpha"),
    "parameter out of domain": (["train", "--surrogate", "arctan(-1)"], "Arctan: alpha must be > 0, got -1.0"),
    "many epochs": (["train", "--epochs", "1e20"], "'1e20' must be in digits: 100000000000000000000"),
    "a batch in powers of ten": (["train", "--batch", "1e3"], "'--batch': '1e3' must be in digits: 1000"),
    "one dash": (["train", "-hidden", "3"], "No such option '-hidden', did you mean --hidden?"),
    "one dash and a value": (["sweep", "-lr=3"], "No such option '-lr=3', did you mean --lr?"),
    "epochs": (["train", "--epochs", "-1"], "Invalid value for '--epochs': -1 is not in the range x>=1"),
    "no number": (["train", "--steps", "many"], "'many' is not a whole number"),
    "no whole number": (["train", "--steps", "2.5"], "'2.5' is not a whole number"),
    "zero lr": (["train", "--lr", "0"], "Invalid value for '--lr': 0.0 is not in the range x>0"),
    "decay": (["train", "--decay", "1.1"], "1.1 is not in the range 0<=x<=1"),
    "encoding": (["train", "--encoding", "phase"], "'phase' is not one of 'current', 'rate', 'latency'"),
    "reset": (["train", "--reset", "soft"], "'soft' is not one of 'subtract', 'value', 'none'"),
    "hidden": (["train", "--hidden", "256,,256"], "'256,,256': pass numbers above 0, such as 256,256"),
    "empty layer": (["train", "--hidden", "256,0"], "'256,0': pass numbers above 0"),
    "near a name": (["train", "--data", "mnist"], "unknown data 'mnist', did you mean mnist5k or nmnist:PATH?"),
    "near another name": (["sweep", "--data", "digit"], "unknown data 'digit', did you mean digits?"),
    "near a form": (["train", "--data", "shdd:x"], "unknown data 'shdd:x', did you mean shd:PATH?"),
    "no data": (["train", "--data", "cifar"], "unknown data 'cifar': use mnist5k, digits, randman, "),
    "a table": (
        ["train", "--data", "my.csv"],
        "my.csv is not a .npz file. Save it as one: numpy.savez('my.npz', x_train=x, y_train=y)",
    ),
    "an array": (
        ["sweep", "--data", "my.npy"],
        "my.npy is not a .npz file. Save it as one: numpy.savez('my.npz', x_train=",
    ),
    "labels of text": (
        ["train", "--data", "text.npz"],
        "got <U3 of shape (20,); numpy.unique(y_train, return_inverse=True)[1] converts names",
    ),
    "labels of real numbers": (
        ["train", "--data", "real.npz"],
        "got float64 of shape (20,); numpy.unique(y_train, return_inverse=True)[1]",
    ),
    "one-hot labels": (
        ["train", "--data", "onehot.npz"],
        "got float64 of shape (20, 2); numpy.unique(y_train, return_inverse=True)[1] converts names, y_train.argmax(1)",
    ),
    "no path": (["train", "--data", "shd"], "unknown data 'shd': use shd:PATH"),
    "an empty path": (["train", "--data", "ts:"], "unknown data 'ts:': use ts:PATH"),
    "no .ts file": (
        ["train", "--data", "ts:used"],
        "used: no used_TRAIN.ts in this folder, got ['some.ts']. Pass the path of a .ts file",
    ),
    "a path too many": (["train", "--data", "randman:a"], "unknown data 'randman:a': use randman"),
    "no folder": (["train", "--data", "nmnist:none"], "none: no such file or folder"),
    "no recordings": (["train", "--data", "dvs128:used"], "used: must be an .aedat file or a list"),
    "encoding of recordings": (
        ["train", "--data", "randman", "--encoding", "rate"],
        "'--encoding': only images support it. Remove --encoding, or change --data randman",
    ),
    "shift of recordings": (
        ["train", "--data", "events.npz", "--shift", "1"],
        "'--shift': only images support it. Remove --shift, or change --data events.npz",
    ),
    "noise on images": (["train", "--input-noise", "0.1"], "'--input-noise': only recordings support it"),
    "bins without events": (
        ["train", "--data", "sequences.npz", "--bin", "2"],
        "'--bin': only events (nmnist, dvs128, shd, ssc, FILE.npz with times) support it. Remove --bin, or change",
    ),
    "pools without events": (["train", "--data", "randman", "--pool", "2"], "'--pool': only events (nmnist, dvs128, "),
    "steps of sequences": (
        ["train", "--data", "japanese_vowels", "--steps", "9"],
        "'--steps': only images, events and tasks of any length support it. Remove --steps, or change",
    ),
    "no bin": (["train", "--bin", "0"], "'--bin': 0.0 is not in the range x>0"),
    "cell": (["train", "--cell", "izhikevich"], "'izhikevich' is not one of 'lif', 'synaptic', 'adaptive'"),
    "readout": (["train", "--readout", "sum"], "'sum' is not one of 'mean', 'max', 'last'"),
    "mode": (["train", "--mode", "fast"], f"'fast' is not one of {', '.join(map(repr, MODES))}"),
    "no taus": (["train", "--taus", "a,2"], "'--taus': 'a,2': pass numbers above 0, such as 20 or 20,10, in steps"),
    "a tau of 0": (["train", "--taus", "0"], "'--taus': '0': pass numbers above 0"),
    "too many taus": (["train", "--taus", "1,2,3"], "'--taus': taus must have 1 or 2 values for the cell lif, got 3"),
    "taus and decay": (
        ["train", "--taus", "9", "--decay", "0.9"],
        "'--decay': only runs without --taus support it. Remove --decay",
    ),
    "one class": (
        ["train", "--data", "events.npz"],
        "events.npz: y must hold at least two classes",
    ),
    "no sequences": (["train", "--data", "sequences.npz"], "x must hold numbers of shape (n, steps, channels...)"),
    "no file": (["train", "--data", "none.npz"], "none.npz: no such file"),
    "bad file": (["train", "--data", "flat.npz"], "flat.npz: x_train must have shape (n, features)"),
    "no images": (
        ["train", "--data", "table.npz", "--shift", "1", "--batch", "5"],
        "table.npz has 2 features instead of images to move",
    ),
    "output below a file": (
        ["train", "--data", "digits", "--output", "table.npz/run"],
        "output folder table.npz/run cannot be written: Not a directory",
    ),
    "output is a file": (
        ["train", "--data", "digits", "--output", "table.npz"],
        "table.npz is not empty; choose an empty folder",
    ),
    "output in use": (["train", "--data", "digits", "--output", "used"], "used is not empty; choose an empty folder"),
    "no name": (["plot", "-o", "a.png"], "Missing argument 'NAME...'"),
    "no output": (["plot", "sigmoid"], "Missing option '--output'"),
    "plot unknown": (["plot", "sigmoid", "sigmoit", "-o", "a.png"], "did you mean 'sigmoid'?"),
    "plot over a file": (["plot", "sigmoid", "-o", "used.png"], "used.png exists; pass --force to overwrite it"),
    "plot format": (["plot", "sigmoid", "-o", "a.docx"], "a.docx must end in .png or .svg or .pdf"),
    "plot nowhere": (["plot", "sigmoid", "-o", "no/a.png"], "no/a.png cannot be written: the folder no does not exist"),
    "no run": (["predict", "nowhere", "digits"], "nowhere contains no run: run.json is missing"),
    "run is a file": (["predict", "table.npz", "digits"], "table.npz contains no run: run.json is missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line_and_exit_code_2(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.trainer, "fit", None)  # nothing may get as far as training
    np.savez("flat.npz", x_train=np.zeros(3), y_train=np.zeros(3, int))
    y = np.arange(20) % 2
    for kind, labels in {"text": np.array(["cat", "dog"])[y], "real": y / 1, "onehot": np.eye(2)[y]}.items():
        np.savez(f"{kind}.npz", x_train=np.arange(40.0).reshape(20, 2), y_train=labels)
    np.savez("table.npz", x_train=np.arange(40.0).reshape(20, 2), y_train=np.arange(20) % 2)
    events = {
        "times": np.zeros(9),
        "time_unit": "ms",
        "units": np.zeros(9, int),
        "shape": [1],
        "offsets": np.arange(10),
    }
    np.savez("events.npz", **events, y=np.zeros(9, int))
    np.savez("sequences.npz", x=np.zeros((3, 2)), y=np.zeros(3, int))
    Path("used").mkdir()
    Path("used", "run.json").touch()
    Path("used", "some.ts").touch()
    Path("used.png").touch()
    args, message = WRONG[name]
    assert main(args) == 2
    line = only_line(capsys)
    assert line.startswith("spikegrad: error: ")
    assert message in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main(["train", "--data", "digits", "--output", str(tmp_path)]) == 2
    assert "cannot be written: Permission denied" in only_line(capsys)


def damaged(folder, tmp_path, change):
    copy, folder = tmp_path / "copy", Path(folder)
    copy.mkdir(exist_ok=True)
    about = record(folder)
    with np.load(folder / "parameters.npz") as file:
        arrays = dict(file)
    change(about, arrays)
    (copy / "run.json").write_text(json.dumps(about))
    np.savez(copy / "parameters.npz", **arrays)
    return copy


def test_predict_rejects_other_shapes_and_damaged_runs(run, tmp_path, capsys):
    folder = str(run[0])
    for arguments, message in (
        (["mnist5k"], "of shape (28, 28), the network was trained on (8, 8)"),
        (["-o", "a.csv"], "a.csv must end in .npz"),
        (["-o", "no/a.npz"], "no/a.npz cannot be written: the folder no does not exist"),
    ):
        assert main(["predict", folder, *arguments]) == 2
        assert message in only_line(capsys)
    for change, message in (
        (lambda r, a: a.pop("bias_1"), "parameters.npz: bias_1 must have shape (16,), as in run.json"),
        (lambda r, a: a.update(weight_0=np.zeros((3, 4))), "weight_0 must have shape (64, 32)"),
        (lambda r, a: r.update(format=3), "it has format 3, not 4"),
        (lambda r, a: r.pop("data"), "'data' is missing"),
        (lambda r, a: r["options"].update(depth=2), "unexpected keyword argument 'depth'"),
        (lambda r, a: r["options"].pop("steps"), "missing 1 required positional argument: 'steps'"),
    ):
        copy = damaged(folder, tmp_path, change)
        assert main(["predict", str(copy)]) == 2
        assert message in only_line(capsys)
    for content in (b"{", b"", b"\xff\xfe"):
        (copy / "run.json").write_bytes(content)
        assert main(["predict", str(copy)]) == 2
        assert "run.json is not a run of spikegrad" in only_line(capsys)
    shutil.copy(run[0] / "run.json", copy)
    (copy / "parameters.npz").unlink()
    assert main(["predict", str(copy)]) == 2
    assert "contains no trained run: parameters.npz is missing" in only_line(capsys)


def test_predict_overwrites_nothing_unasked_and_never_what_it_reads(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    parameters, mine, link = folder / "parameters.npz", tmp_path / "mine.npz", tmp_path / "link.npz"
    np.savez(mine, x=np.zeros((2, 8, 8)))
    link.symlink_to(mine)
    content = parameters.read_bytes(), mine.read_bytes()
    for output, force, message in (
        (mine, [], "mine.npz is also an input"),
        (mine, ["--force"], "mine.npz is also an input"),
        (link, ["--force"], "link.npz is also an input"),
        (parameters, ["--force"], "parameters.npz is also an input"),
    ):
        assert main(["predict", str(folder), str(mine), "-o", str(output), *force]) == 2
        assert message in only_line(capsys)
    assert content == (parameters.read_bytes(), mine.read_bytes())
    other = tmp_path / "other.npz"
    other.write_text("mine")
    assert main(["predict", str(folder), str(mine), "-o", str(other)]) == 2
    assert "other.npz exists; pass --force to overwrite it" in only_line(capsys)
    assert main(["predict", str(folder), str(mine), "-o", str(other), "--force"]) == 0
    with np.load(other) as predictions:
        assert predictions["logits"].shape == (2, 10)


def test_predict_says_that_the_data_of_the_run_has_changed(run, monkeypatch, capsys):
    x, y = np.arange(4, dtype=np.uint8).reshape(2, 2), np.arange(2)
    some = images(x, y)
    hashes = {
        runs.sha256(some, True),
        runs.sha256(some, False),
        *(
            runs.sha256(images(*changed), True)
            for changed in ((x + 1, y), (x, y + 1), (x / 1, y), (x.reshape(2, 2, 1), y), (x, np.zeros(2, int)))
        ),
        runs.sha256(data.Sequences("some", x[:, None], y, lengths=[1, 1], masked=True), True),
    }
    assert len(hashes) == 8
    monkeypatch.setattr(runs, "sha256", lambda *given: "another")
    assert main(["predict", str(run[0])]) == 0
    assert capsys.readouterr().err == "warning: digits has changed since the run drew its test set\n"


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_writes_a_picture(tmp_path, suffix, magic, capsys):
    path = tmp_path / f"a.{suffix}"
    assert main(["plot", "sigmoid", "Arctan(alpha=2)", "-o", str(path)]) == 0
    assert path.read_bytes().startswith(magic)


def test_help_shows_the_defaults_and_the_data(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out
    assert max(map(len, lines.splitlines())) <= 80
    text = " ".join(lines.split())
    for default in ("mnist5k", "Sigmoid(alpha=4.0)", "40; x>=1", "256,256", "current", "0.002", "runs/<date>-<time>"):
        assert f"[default: {default}" in text or f"[default: ({default}" in text
    for form in sources.FORMS:
        assert f"{form.written} {form.about}" in text
    assert main(["--version"]) == 0
    assert spikegrad.__version__ in capsys.readouterr().out
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


def together(times, function):
    """What as many threads make of a function that they call at the same moment: results or errors."""
    start = threading.Barrier(times)

    def one(_):
        start.wait()
        try:
            return function()
        except runs.RunError as error:
            return error

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(one, range(times)))


def test_a_default_folder_is_always_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [*together(8, lambda: runs.claim(None, {})), runs.claim(None, {})]
    assert len(set(made)) == 9
    assert {folder.parent for folder in made} == {Path("runs")}


def test_one_of_several_runs_claims_a_folder(tmp_path):
    for i in range(20):
        folder = tmp_path / str(i)
        refused = [error for error in together(2, lambda: runs.claim(folder, {})) if error != folder]  # noqa: B023
        assert record(folder) == {}
        assert [str(e) for e in refused] == [f"output folder {folder} is not empty; choose an empty folder"]


def test_a_baseline_that_diverges_leaves_the_tables(tmp_path, monkeypatch, capsys):
    fit = trainer.fit

    def diverging(network, *args, **settings):
        if isinstance(network.cell, networks.Rectified):
            raise training.DivergedError("the loss is nan in epoch 1", None)
        return fit(network, *args, **settings)

    monkeypatch.setattr(trainer, "fit", diverging)
    assert main(["train", *QUICK, "--epochs", "1", "-o", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert "spiking layers, on the test set" in captured.out
    assert "figure.png, metrics.jsonl, parameters.npz, run.json" in captured.out
    assert captured.err.splitlines()[-1] == "spikegrad: error: the loss is nan in epoch 1"
    assert record(tmp_path / "run")["results"]["relu"] is None


def test_the_commit_of_a_clone(tmp_path, monkeypatch):
    git = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    place = tmp_path / "src" / "spikegrad" / "cli" / "runs.py"
    place.parent.mkdir(parents=True)
    monkeypatch.setattr(runs, "__file__", str(place))
    assert runs._commit() is None
    place.write_text("first")
    git(["git", "init"])
    git(["git", "add", "."])
    git(["git", "-c", "user.name=a", "-c", "user.email=a", "commit", "-m", "a"])
    head = git(["git", "rev-parse", "HEAD"]).stdout.decode().strip()
    assert runs._commit() == head
    place.write_text("second")
    assert runs._commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert runs._commit() is None


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


def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    packages = ["click", "rich", "optax", "matplotlib"]
    call = [sys.executable, "-c", WITHOUT, *packages]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"spikegrad: error: the command needs {package}, which is not installed: "
        "pip install '.[train]' in a clone of spikegrad"
        for package in packages
    ]


def test_the_library_imports_none_of_it():
    code = (
        "import sys, spikegrad; print([m for m in ('click', 'rich', 'optax', 'matplotlib', 'spikegrad.cli', "
        "'spikegrad.data', 'spikegrad.training', 'spikegrad.inspect.plot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
