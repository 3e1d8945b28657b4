"""The command: what it writes, what it prints, and one line for everything that a user can get wrong."""

import contextlib
import dataclasses
import errno
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import images, options
from conftest import MODES

import spikegrad
from spikegrad import Layer, data, names, training
from spikegrad.cli import commands, diagnosis, figure, main, networks, runs, sources, tables, trainer
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
    assert " left" not in lines[0]  # before the pace is known
    assert lines[-1].endswith(" 0:00 left")
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
    network = runs.read(folder).network
    with np.load(folder / "parameters.npz") as arrays:
        params = tuple(
            Layer(arrays[f"weight_{i}"], cell, bias=arrays[f"bias_{i}"]) for i, cell in enumerate(network.cells)
        )
    expected, _, _ = network(params, network.prepare(jnp.asarray(examples.test.x)), jax.random.key(0))
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


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", 0, "at least 1"),
        ("lr", 0.0, "above 0"),
        ("lr", 1e39, "at most 3e+38"),
        ("input_noise", 1e39, "at most 3e+38"),
        ("decay", 1.5, "at most 1"),
        ("reset", "soft", "one of subtract, value, none"),
        ("encoding", "phase", "one of current, rate, latency, none"),
    ],
)
def test_a_record_has_the_domains_of_the_command_line(name, value, wanted):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name} must be {wanted}, got {value!r}')}$"):
        options(**{name: value})
    assert (options(bin=0.0).bin, options(encoding="none").encoding) == (0, "none")  # of data without events, or images


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
def test_ctrl_c_keeps_what_was_learnt(tmp_path, monkeypatch, capsys):
    folder, fit = tmp_path / "run", commands.trainer.fit

    def interrupted(*args, report, **settings):
        def told(*now):
            report(*now)
            os.kill(os.getpid(), signal.SIGINT)

        return fit(*args, report=told, **settings)

    monkeypatch.setattr(commands.trainer, "fit", interrupted)
    assert main(["train", *QUICK, "--epochs", "1000000", "--output", str(folder)]) == 130
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
        if isinstance(network, networks.ReluNetwork):
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
    "too many epochs": (["train", "--data", "digits", "--epochs", str(10**20)], f"{10**20} are more than 2^31 updates"),
    "too many neurons": (
        ["train", "--data", "digits", "--hidden", "1000000000"],
        "takes at least 5,296.0 GB of memory",
    ),
    "too many steps": (["train", "--data", "digits", "--steps", "1000000000"], "takes at least 262,144.0 GB of memory"),
    "steps beyond 64 bits": (
        ["train", "--data", "digits", "--steps", str(2**64)],
        "GB are free: --hidden, --steps or --batch is too large",
    ),
    "a shift out of sight": (["train", "--data", "digits", "--shift", "1000000000"], "moves an image of 8 x 8 out of"),
    "epochs": (["train", "--epochs", "-1"], "Invalid value for '--epochs': -1 is not in the range x>=1"),
    "no number": (["train", "--steps", "many"], "'many' is not a whole number"),
    "no whole number": (["train", "--steps", "2.5"], "'2.5' is not a whole number"),
    "lr": (["train", "--lr", "nan"], "Invalid value for '--lr': nan is not finite"),
    "zero lr": (["train", "--lr", "0"], "Invalid value for '--lr': 0.0 is not in the range 0<x<=3e+38"),
    "decay": (["train", "--decay", "1.1"], "1.1 is not in the range 0<=x<=1"),
    "encoding": (["train", "--encoding", "phase"], "'phase' is not one of 'current', 'rate', 'latency'"),
    "reset": (["train", "--reset", "soft"], "'soft' is not one of 'subtract', 'value', 'none'"),
    "hidden": (["train", "--hidden", "256,,256"], "'256,,256': pass the neurons of each layer, such as 256,256"),
    "a number of thousands of digits": (["train", "--hidden", "9" * 5000], "pass the neurons of each layer"),
    "empty layer": (["train", "--hidden", "256,0"], "'256,0': pass the neurons of each layer"),
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
        "'--encoding': rate: only images support it, and randman has a time axis",
    ),
    "shift of recordings": (
        ["train", "--data", "events.npz", "--shift", "1"],
        "1: only images support it, and events.npz",
    ),
    "noise on images": (
        ["train", "--input-noise", "0.1"],
        "0.1: only recordings support it, and mnist5k lacks a time axis",
    ),
    "bins without events": (
        ["train", "--data", "sequences.npz", "--bin", "2"],
        "2.0: only events support it (shd, ssc, nmnist, dvs128, FILE.npz with times), and sequences.npz has other "
        "values. Remove --bin, or pass other --data",
    ),
    "pools without events": (
        ["train", "--data", "randman", "--pool", "2"],
        "'--pool': 2: only events support it (shd,",
    ),
    "steps of sequences": (
        ["train", "--data", "japanese_vowels", "--steps", "9"],
        "9: japanese_vowels defines its steps",
    ),
    "a bin too long": (
        ["train", "--data", "events.npz", "--bin", "1e308"],
        "'--bin': Binning: step_us must be a number above 0 and finite, got inf",
    ),
    "a rate beyond float32": (["train", "--lr", "1e308"], "'--lr': 1e+308 is not in the range 0<x<=3e+38"),
    "rates beyond float32": (
        ["sweep", "--lr", "0.1,1e39"],
        "'0.1,1e39': pass numbers above 0 and up to 3e+38, such as",
    ),
    "a surrogate beyond float32": (
        ["train", "--surrogate", "0.5 * sigmoid(alpha=1e300)"],
        "'--surrogate': 0.5 * sigmoid(alpha=1e300): parameters must be at most 3e+38, got 1e+300",
    ),
    "surrogates beyond float32": (
        ["sweep", "--surrogate", "arctan,sigmoid(alpha=1e39)"],
        "'--surrogate': sigmoid(alpha=1e39): parameters must be at most 3e+38, got 1e+39",
    ),
    "noise beyond float32": (
        ["train", "--data", "sequences.npz", "--input-noise", "1e39"],
        "'--input-noise': 1e+39 is not in the range 0<=x<=3e+38",
    ),
    "a null character": (["predict", "a\0b"], "an argument must not contain a null character, got 'a\\x00b'"),
    "too many nested folders": (
        ["train", "--data", "table.npz", "--batch", "4", "--output", "a/" * 2000],
        "cannot be written: it is in too many nested folders",
    ),
    "no bin": (["train", "--bin", "0"], "'--bin': 0.0 is not in the range x>0"),
    "cell": (["train", "--cell", "izhikevich"], "'izhikevich' is not one of 'lif', 'synaptic', 'adaptive'"),
    "readout": (["train", "--readout", "sum"], "'sum' is not one of 'mean', 'max', 'last'"),
    "mode": (["train", "--mode", "fast"], f"'fast' is not one of {', '.join(map(repr, MODES))}"),
    "no taus": (["train", "--taus", "a,2"], "'--taus': 'a,2': pass time constants above 0, in steps, such as 20"),
    "a tau of 0": (["train", "--taus", "0"], "'--taus': '0': pass time constants above 0"),
    "too many taus": (["train", "--taus", "1,2,3"], "'--taus': taus must have 1 or 2 values for the cell lif, got 3"),
    "taus and decay": (["train", "--taus", "9", "--decay", "0.9"], "'--decay': 0.9: --taus already sets the decay"),
    "one class": (
        ["train", "--data", "events.npz"],
        "training recordings must have at least two classes, got only class 0",
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
    "output is a file": (["train", "--data", "digits", "--output", "table.npz"], "table.npz cannot be written"),
    "output in use": (["train", "--data", "digits", "--output", "used"], "used is not empty; choose an empty folder"),
    "no name": (["plot", "-o", "a.png"], "Missing argument 'NAME...'"),
    "no output": (["plot", "sigmoid"], "Missing option '--output'"),
    "plot unknown": (["plot", "sigmoid", "sigmoit", "-o", "a.png"], "did you mean 'sigmoid'?"),
    "plot over a file": (["plot", "sigmoid", "-o", "used.png"], "used.png exists; pass --force to overwrite it"),
    "plot format": (["plot", "sigmoid", "-o", "a.docx"], "a.docx must end in .png, .svg or .pdf"),
    "plot nowhere": (["plot", "sigmoid", "-o", "no/a.png"], "no/a.png cannot be written: No such file or directory"),
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
    copy = tmp_path / "copy"
    copy.mkdir()
    about = record(folder)
    with np.load(folder / "parameters.npz") as file:
        arrays = dict(file)
    change(about, arrays)
    (copy / "run.json").write_text(json.dumps(about))
    np.savez(copy / "parameters.npz", **arrays)
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, a: a.pop("bias_1"), r"bias_1 must hold floats of shape \(16,\), it is missing"),
        (lambda r, a: a.update(weight_0=np.zeros((3, 4))), r"weight_0 must hold .* \(64, 32\), got float64 of"),
        (lambda r, a: a.update(bias_0=np.full(32, "a")), r"bias_0 must hold floats of shape \(32,\), got <U1"),
        (lambda r, a: a.update(bias_0=np.full(32, None)), r"bias_0: cannot be read: Object arrays"),
        (lambda r, a: a["weight_1"].fill(np.nan), r"parameters.npz: weight_1 has NaN or infinite values"),
        (lambda r, a: a.update(bias_0=np.full(32, 1e300)), r"parameters.npz: bias_0 has NaN or infinite values"),
        (lambda r, a: r.update(format=3), r"run.json is not a run in format 4"),
        (lambda r, a: r.pop("data"), r"run.json is damaged: 'data' is missing"),
        (lambda r, a: r.update(data=[1]), r"run.json is damaged: \[1\] must be a table"),
        (lambda r, a: r["data"].update(shape=[8, 1e999]), r"shape must be a list of whole numbers .*, got \[8, inf\]"),
        (lambda r, a: r["data"].update(classes="10"), r"classes must be a whole number from 0 to .*, got '10'"),
        (lambda r, a: r["data"].update(high=float("nan")), r"high must be a finite number, got nan"),
        (lambda r, a: r["data"].update(high=10**400), r"high must be a finite number, got 1000"),
        (lambda r, a: r["data"].update(high=-1), r"low must be less than high, got 0 and -1"),
        (lambda r, a: r["options"].update(encoding="phase"), r"encoding must be one of current, .*, got 'phase'"),
        (lambda r, a: r["options"].update(hidden=7), r"hidden must be a list of whole numbers .*, got 7"),
        (lambda r, a: r["options"].update(steps=True), r"steps must be a whole number .*, got True"),
        (lambda r, a: r["options"].update(seed=-1), r"seed must be a whole number .*, got -1"),
        (lambda r, a: r["options"].update(decay=7), r"run.json is damaged: decay must be at most 1, got 7"),
        (lambda r, a: r["options"].update(detach_reset=[[[]]]), r"detach_reset must be true or false, got \[\["),
        (lambda r, a: r["options"].update(depth=2), r"is not a run of spikegrad [\w.]+: unknown option 'depth'"),
        (lambda r, a: r["options"].update(surrogate="nope"), r"run.json is damaged: .*unknown surrogate 'nope'"),
        (lambda r, a: r["options"].pop("steps"), r"run.json is not a run of spikegrad [\w.]+: no option 'steps'"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_one_line(run, tmp_path, capsys, change, message):
    copy = damaged(run[0], tmp_path, change)
    assert main(["predict", str(copy), "digits"]) == 2
    assert re.search(message, only_line(capsys))


def test_predict_rejects_other_shapes_and_damaged_files(run, tmp_path, capsys):
    folder = str(run[0])
    assert main(["predict", folder, "mnist5k"]) == 2
    assert "of shape (28, 28), the network was trained on (8, 8)" in only_line(capsys)
    assert main(["predict", folder, "digits", "-o", "a.csv"]) == 2
    assert "a.csv must end in .npz" in only_line(capsys)
    assert main(["predict", folder, "digits", "-o", str(tmp_path / "no" / "a.npz")]) == 2
    captured = capsys.readouterr()
    assert "cannot be written: No such file or directory" in captured.err
    assert "359 examples" in captured.out  # the scores are not lost
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "parameters.npz").write_bytes((run[0] / "parameters.npz").read_bytes()[:100])
    assert main(["predict", str(tmp_path), "digits"]) == 2
    assert "run.json is not JSON" in only_line(capsys)
    for content, message in (
        (b"[]", "run.json is not a run in format 4"),
        (b"", "run.json is not JSON"),
        (b"[" * 10**5, "run.json is not JSON"),
        (b'{"format": ' + b"1" * 5000 + b"}", "run.json is not JSON"),
        (b"\xff\xfe\x00", "run.json is not text in UTF-8"),
        ((run[0] / "run.json").read_bytes(), "parameters.npz: not a .npz file, or one that was cut off"),
    ):
        (tmp_path / "run.json").write_bytes(content)
        assert main(["predict", str(tmp_path), "digits"]) == 2
        assert message in only_line(capsys)
    (tmp_path / "parameters.npz").unlink()
    assert main(["predict", str(tmp_path), "digits"]) == 2
    assert "contains no trained run: parameters.npz is missing" in only_line(capsys)


NASTY = [
    None,
    True,
    -1,
    2**70,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "9" * 9,
    [],
    [[]],
    {},
    [1, "a"],
]


def test_no_record_makes_a_traceback(run, tmp_path, monkeypatch):
    whole, refused = record(run[0]), 0
    deep = json.loads("[" * 500 + "]" * 500)
    for part in ("options", "data"):
        for name in (None, *whole[part]):
            for value in (*NASTY, deep):
                changed = {**whole, part: value if name is None else {**whole[part], name: value}}
                (tmp_path / "run.json").write_text(json.dumps(changed))
                try:
                    runs.read(tmp_path)
                except runs.RunError as error:
                    refused += 1
                    assert len(str(error)) < 500  # noqa: PT017
    assert refused > 200


def test_scoring_that_takes_more_memory_than_there_is(run, tmp_path, capsys):
    copy = damaged(run[0], tmp_path, lambda r, a: r["options"].update(steps=10**9))
    assert main(["predict", str(copy)]) == 2
    assert "scoring 359 examples takes at least 68,928.0 GB of memory" in only_line(capsys)


def test_parameters_of_another_byte_order_are_read(run, tmp_path):
    copy = damaged(run[0], tmp_path, lambda r, a: a.update({key: value.astype(">f4") for key, value in a.items()}))
    params = (runs.read_parameters(runs.read(folder)) for folder in (copy, run[0]))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *params)))


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


def test_list_has_every_surrogate_with_peak_and_area(capsys):
    assert main(["list"]) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = {row[0]: row[1:] for row in rows if row}
    assert set(rows) == set(names())
    assert all(len(formula) > 4 for formula, *_ in rows.values())
    assert rows["relu_grad"][:2] == ["max(0, α(w − |x|))", "alpha=0.3, width=1"]
    expected = {  # by hand, from the formulas
        "arctan": (1 / 2, 1),
        "erf": (1 / np.sqrt(np.pi), 1),
        "inv_square_grad": (1, 2 / 100),
        "q_pseudo_spike": (1, 3),
        "relu_grad": (0.3, 0.3),
        "multi_gaussian_grad": (0.5 * (1.15 - 0.3 * np.exp(-1 / 72) / 6) / (0.5 * np.sqrt(2 * np.pi)), 0.5 * 0.85),
        "leaky_relu": (1, "unbounded"),
        "piecewise_leaky_relu": (0.5, "unbounded"),
        "nonzero_sign_log": (1, "unbounded"),
        "squarewave_fourier_series": (1, "periodic"),
    }
    for name, (peak, area) in expected.items():
        assert float(rows[name][2]) == pytest.approx(peak, rel=1e-3), name
        assert rows[name][3] == area if isinstance(area, str) else float(rows[name][3]) == pytest.approx(area, rel=1e-3)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_writes_a_picture(tmp_path, suffix, magic, capsys):
    path = tmp_path / f"a.{suffix}"
    assert main(["plot", "sigmoid", "Arctan(alpha=2)", "-o", str(path)]) == 0
    assert path.read_bytes().startswith(magic)


def test_a_figure_that_cannot_be_drawn_is_one_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    path = tmp_path / "a.pdf"
    for command in (["plot", "sigmoid"], ["diagnose", str(run[0]), "--examples", "2"]):
        assert main([*command, "-o", str(path)]) == 1
        captured = capsys.readouterr()
        *notes, error = captured.err.splitlines()
        assert notes == ([] if command[0] == "plot" else ["diagnosing", f"drawing {path}"])
        assert error.startswith(f"spikegrad: error: {path} cannot be drawn: ")
        assert ("layer 1" in captured.out) == (command[0] == "diagnose")  # the diagnosis is not lost
        assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("empty", [False, True])
def test_one_of_several_runs_claims_a_folder(tmp_path, empty):
    for i in range(20):
        folder = tmp_path / str(i)
        if empty:
            folder.mkdir()
            (folder / ".run.json.0123abcd.part").touch()  # what a kill left
        refused = [error for error in together(2, lambda: runs.claim(folder, {})) if error != folder]  # noqa: B023
        assert record(folder) == {}
        assert [str(e) for e in refused] == [f"output folder {folder} is not empty; choose an empty folder"]


@pytest.fixture(scope="module")
def untrained():
    """Parameters of a network and its scores."""
    network = networks.ReluNetwork((64, 32, 16, 10), spikegrad.LIF(), 1, "current", high=16.0)
    params = network.init(jax.random.key(0))
    return params, trainer.make_evaluator(network)(params, data.load("digits").test)


@pytest.fixture
def learnt(untrained, monkeypatch):
    """Training that has been done: every network is what a short one gave, unless a test replaces it."""
    params, scores = untrained
    fits = {}

    def fit(network, *args, **settings):
        found = fits.get(type(network).__name__)
        if found:
            raise found
        curves = {"loss": [1.0], "accuracy": [0.5], "rates": [[0.1, 0.2]], "test": [0.4]}
        return trainer.Fit(params, scores, curves, 1.0, False)

    monkeypatch.setattr(commands.trainer, "fit", fit)
    return fits


def test_a_baseline_that_diverges_leaves_the_tables(learnt, tmp_path, capsys):
    learnt["ReluNetwork"] = training.DivergedError("the loss is nan in epoch 1", None)
    assert main(["train", *QUICK, "-o", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert "spiking layers, on the test set" in captured.out
    assert "parameters.npz, run.json, figure.png" in captured.out
    assert captured.err.splitlines()[-1] == "spikegrad: error: the loss is nan in epoch 1"
    assert record(tmp_path / "run")["results"]["relu"] is None


@pytest.mark.usefixtures("learnt")
def test_training_data_are_gone_when_it_is_said_how_it_went(tmp_path, monkeypatch):
    held, load = [], sources.load
    there: dict[str, bool] = {}
    found = SimpleNamespace(issues=["something is amiss"])

    def loading(*args):
        loaded = load(*args)
        held.append(weakref.ref(loaded.train.x))
        return loaded

    def looking(name, function):
        def look(*args, **options):
            there[name] = held[0]() is not None
            return function(*args, **options)

        return look

    monkeypatch.setattr(sources, "load", loading)
    monkeypatch.setattr(diagnosis, "examine", looking("diagnosis", lambda *args, **options: found))
    monkeypatch.setattr(figure, "run_figure", looking("figure", figure.run_figure))
    monkeypatch.setattr(tables, "warnings", lambda *args: found.issues)
    assert main(["train", *QUICK, "--quiet", "-o", str(tmp_path / "run")]) == 0
    assert there == {"diagnosis": False, "figure": False}


@pytest.mark.parametrize("full", ["figure.png", "parameters.npz", "run.json"])
@pytest.mark.usefixtures("learnt")
def test_a_full_disk_leaves_the_tables_and_what_was_saved(tmp_path, monkeypatch, capsys, full):
    write, calls = runs.write_atomically, []

    def full_disk(path, content, **options):
        calls.append(path.name)
        if path.name == full and (full != "run.json" or calls.count(full) == 3):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content, **options)

    monkeypatch.setattr(runs, "write_atomically", full_disk)
    folder = tmp_path / "run"
    assert main(["train", *QUICK, "--quiet", "-o", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "spiking layers, on the test set" in captured.out
    assert captured.err == f"spikegrad: error: {folder / full} cannot be written: No space left on device\n"
    assert calls.count("parameters.npz") == 1
    about = record(folder)
    assert about["options"]["steps"] == 4
    if full != "parameters.npz":
        assert runs.read(folder).network.sizes == (64, 32, 16, 10)
        assert about["results"]["spiking"]["loss"] == 1.0


@pytest.mark.usefixtures("learnt")
def test_a_folder_that_vanishes_is_one_line(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    claim = runs.claim
    monkeypatch.setattr(runs, "claim", lambda *args: (claim(*args), shutil.rmtree(folder))[0])
    assert main(["train", *QUICK, "--quiet", "-o", str(folder)]) == 1
    captured = capsys.readouterr()
    assert f"saved in {folder}: nothing" in captured.out
    assert captured.err.splitlines()[0] == (
        f"spikegrad: error: {folder}/parameters.npz cannot be written: No such file or directory"
    )


def test_resources_are_estimated(monkeypatch, capsys, tmp_path, learnt):
    digits = data.load("digits")
    given = options(data="digits", epochs=1, batch=128, hidden=(256, 256), steps=8, encoding="current")
    assert runs.check_resources(tmp_path, given, digits, 10**5) == []
    # parameters, gradients and two moments; states of 128 examples, 512 neurons, 8 steps; the data
    least = 4 * 4 * 10**5 + 4 * 128 * 512 * 8 + 1797 * (64 * 4 + 4)
    monkeypatch.setattr(runs, "device_memory", lambda: least - 1)
    with pytest.raises(
        runs.RunError, match=r"training 100,000 parameters takes at least 4\.2 MB of memory, and 4\.2 MB"
    ):
        runs.check_resources(tmp_path, given, digits, 10**5)
    monkeypatch.setattr(runs, "device_memory", lambda: least)
    assert "of memory, and 4.2 MB are free" in runs.check_resources(tmp_path, given, digits, 10**5)[0]
    monkeypatch.setattr(runs, "device_memory", lambda: None)
    monkeypatch.setattr(runs, "free_disk", lambda path: 10**6)
    assert "of disk space, and 1.0 MB are free" in runs.check_resources(tmp_path, given, digits, 10**5)[0]
    assert main(["train", *QUICK, "--quiet", "-o", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.startswith("warning: training may take ")
    monkeypatch.setattr(runs, "free_disk", lambda path: 10**3)
    assert main(["train", *QUICK, "-o", str(tmp_path / "other")]) == 2
    assert "of disk space, and 1.0 kB are free" in only_line(capsys)
    assert not (tmp_path / "other").exists()


def test_memory_that_runs_out_is_one_line(monkeypatch, tmp_path, capsys):
    def fit(*args, **settings):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nand more")

    monkeypatch.setattr(commands.trainer, "fit", fit)
    assert main(["train", *QUICK, "--quiet", "-o", str(tmp_path / "run")]) == 1
    assert only_line(capsys) == "spikegrad: error: out of memory: Out of memory allocating 1 bytes."


def test_a_help_that_nobody_reads_is_no_error(monkeypatch, capsys):
    """Printing to a closed pipe, click exits with 1."""

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        assert main(["train", "--help"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(commands.command, "main", lambda *args, **options: sys.exit(3))
    with pytest.raises(SystemExit, match="3"):
        main(["list"])


def test_a_limit_of_threads_is_one_line(monkeypatch, tmp_path, capsys):
    def fit(*args, **settings):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(commands.trainer, "fit", fit)
    assert main(["train", *QUICK, "--quiet", "-o", str(tmp_path / "run")]) == 1
    assert "the system allows no more threads. Raise the limit of processes" in only_line(capsys)


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


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ("raise ImportError('libfoo.so.3: no such file')", "ImportError: libfoo.so.3: no such file"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise OSError('no text')", "OSError: no text"),
        ("raise AttributeError('no attribute float')", "AttributeError: no attribute float"),
        ("raise RuntimeError('another ABI')", "RuntimeError: another ABI"),
    ],
)
def test_package_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, capsys, contents, reason):
    (tmp_path / "click.py").write_text(contents)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "click")
    assert main(["list"]) == 2
    assert only_line(capsys) == (
        f"spikegrad: error: the command needs click, which cannot be imported ({reason}): "
        "pip install --force-reinstall click"
    )


def test_package_that_lacks_something_is_one_line(tmp_path, monkeypatch, capsys):
    """A folder that an uninstallation has left is an empty package."""
    (tmp_path / "click.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "click")
    assert main(["no such command"]) == 2
    assert re.fullmatch(
        r"spikegrad: error: the command needs click\.\w+, which is missing: "
        r"pip install '\.\[train\]' in a clone of spikegrad",
        only_line(capsys),
    )


def test_warnings_of_matplotlib_about_its_settings_are_not_shown(caplog, capsys):
    logging.getLogger("matplotlib").setLevel(logging.NOTSET)
    assert main(["--version"]) == 0
    logging.getLogger("matplotlib.font_manager").warning("findfont: Font family 'none' not found.")
    assert not caplog.records
    assert not capsys.readouterr().err


def test_error_of_the_machine_during_an_import_is_not_of_the_package(tmp_path, monkeypatch, capsys):
    (tmp_path / "click.py").write_text("raise OSError(24, 'Too many open files')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "click")
    assert main(["list"]) == 1
    assert only_line(capsys) == "spikegrad: error: [Errno 24] Too many open files"


@pytest.mark.parametrize(
    "error", [ImportError("cannot import name 'x'"), ModuleNotFoundError("none", name="spikegrad.x"), ValueError("x")]
)
def test_error_of_spikegrad_keeps_its_traceback(monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(commands.command, "main", fail)
    with pytest.raises(type(error)) as caught:
        main(["list"])
    assert caught.value is error


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("JAX_PLATFORMS", "cpu,foo", "JAX finds no device of JAX_PLATFORMS=cpu,foo"),
        pytest.param("JAX_PLATFORMS", "foo", "JAX finds no device of JAX_PLATFORMS=foo", marks=pytest.mark.every),
        pytest.param("JAX_NO_TRACING", "1", "JAX_NO_TRACING must not be set, because", marks=pytest.mark.every),
        ("JAX_ENABLE_X64", "maybe", "JAX cannot be imported: invalid truth value 'maybe' for environment"),
    ],
)
def test_invalid_configuration_of_jax_is_one_line(variable, value, message):
    program = "import sys, spikegrad_command; sys.exit(spikegrad_command.main())"
    call, changed = [sys.executable, "-c", program, "list"], {variable: value}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ | changed)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"spikegrad: error: {message}")


def test_the_library_imports_none_of_it():
    code = (
        "import sys, spikegrad; print([m for m in ('click', 'rich', 'optax', 'matplotlib', 'spikegrad.cli', "
        "'spikegrad.data', 'spikegrad.training', 'spikegrad.inspect.plot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
