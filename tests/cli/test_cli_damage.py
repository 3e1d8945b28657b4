"""Runs that are damaged, and errors after training: one line for each, and no result is lost."""

import dataclasses
import errno
import itertools
import json
import os
import shutil
from types import SimpleNamespace

import click
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import options
from click.testing import CliRunner

from spikegrad import data
from spikegrad.cli import commands, diagnosis, figure, main, processes, runs, trainer
from spikegrad.training import Checkpoints

ARGS = ["--hidden", "3", "--steps", "2", "--epochs", "2", "--batch", "16", "--no-baseline", "--quiet"]


def train(folder, source, *more):
    """A run as a kill in its second epoch leaves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "shutil", SimpleNamespace(rmtree=lambda *args, **options: None))
        patch.setattr(figure, "run_figure", lambda *args: SimpleNamespace(savefig=lambda *a, **o: None))
        patch.setattr(diagnosis, "reasons", lambda *args: lambda params: [])
        assert main(["train", "--data", str(source), *ARGS, "--checkpoint", "0", "-o", str(folder), *more]) == 0
    whole = folder.with_name(f"{folder.name}-whole")
    shutil.copytree(folder, whole)
    change_record(lambda record: record.update(finished=False))(folder)
    Checkpoints(folder / "checkpoints" / "spiking").all()[-1].unlink()
    return whole


def change_record(change):
    def changed(folder):
        record = json.loads((folder / "run.json").read_text())
        change(record)
        (folder / "run.json").write_text(json.dumps(record))

    return changed


def newest(folder):
    return Checkpoints(folder / "checkpoints" / "spiking").all()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng, y = np.random.default_rng(0), np.arange(40) % 2
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, x_train=rng.normal(size=(40, 3)) + 3 * np.eye(2, 3)[y], y_train=y)
    return path


@pytest.fixture(scope="module")
def killed(tmp_path_factory, source):
    """Three runs with the same shapes: one with each of two seeds, one with another learning rate."""
    place = tmp_path_factory.mktemp("runs")
    for name, more in (("run", []), ("seed", ["--seed", "1"]), ("lr", ["--lr", "0.1"])):
        train(place / name, source, *more)
    return place


@pytest.fixture
def copy(killed, tmp_path):
    return shutil.copytree(killed / "run", tmp_path / "run")


def only_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("spikegrad: error: ")
    return line


CONTENTS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "first half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "all but a byte": lambda path: path.write_bytes(path.read_bytes()[:-1].rstrip()[:-1]),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "null bytes": lambda path: path.write_bytes(b"\0" * 999),
    "a number": lambda path: path.write_text("3"),
    "a list": lambda path: path.write_text("[1]"),
    "deep": lambda path: path.write_text("[" * 10**5),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
}
FILES = {"run.json": lambda folder: folder / "run.json", "checkpoint": newest, "parameters.npz": None}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pair
        for pair in itertools.product(FILES, CONTENTS)
        if pair not in (("checkpoint", "missing"), ("parameters.npz", "pipe"))  # NumPy waits for a writer
    ],
)
def test_damaged_file_is_one_line(copy, capsys, name, content):
    path = (FILES[name] or (lambda folder: folder / name))(copy)
    older = newest(copy).name if name == "checkpoint" else None
    CONTENTS[content](path)
    assert main(["train", "--resume", str(copy)] if name != "parameters.npz" else ["predict", str(copy)]) == 2
    line = only_line(capsys)
    assert (older or name) in line or "contains no run" in line


OPTIONS = {
    "lr": [-1, 0, float("nan"), float("inf"), "a", None, [], {}],
    "epochs": [0, -1, 2**31, 2**32, 1.5, True, "3", None],
    "batch": [0, 10**9],
    "hidden": [[], [0], [-1], [2**31], [1e9], 3, "3"],
    "steps": [0, 2**31, -1],
    "seed": [-1, 2**32],
    "surrogate": ["nope", "", "sigmoid(", "sigmoid(1e999)", "soft(nope)", None],
    "input_noise": [-1, float("nan")],
    "shift": [-1, 10**6],
    "decay": [-1, 2],
    "taus": [[0], [-1], [1, 2, 3], "a"],
    "bin": [-1],
    "pool": [0],
    "data": ["nowhere.npz", "mnist", "\udcff.npz", "a\0b.npz", "shd:", ""],
    **{name: ["x", None, 1] for name in ("cell", "encoding", "mode", "readout", "reset", "recurrent", "detach_reset")},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_invalid_option_in_a_record_is_one_line(copy, capsys, name):
    for value in OPTIONS[name]:
        text = (copy / "run.json").read_text()
        change_record(lambda record: record["options"].update({name: value}))(copy)  # noqa: B023
        assert main(["train", "--resume", str(copy)]) == 2, value
        assert len(only_line(capsys)) < 600
        (copy / "run.json").write_text(text)


@pytest.mark.parametrize("name", runs.CONFIGURATION)
def test_another_configuration_of_jax_is_named(copy, capsys, name):
    """Without it, the checkpoints would have other dtypes, keys or bits."""
    change_record(lambda record: record["jax"].update({name: "rbg"}))(copy)
    assert main(["train", "--resume", str(copy)]) == 2
    line = only_line(capsys)
    assert f"{copy} was started with {name.upper()}='rbg', now it is {getattr(jax.config, name)!r}" in line


@pytest.mark.parametrize("name", ["shape", "classes", "low", "high", "mean", "std", "training_sha256"])
def test_invalid_data_in_a_record_is_one_line(copy, capsys, name):
    for value in (None, -1, 2**40, [4], "x", {}):
        text = (copy / "run.json").read_text()
        change_record(lambda record: record["data"].update({name: value}))(copy)  # noqa: B023
        assert main(["train", "--resume", str(copy)]) == 2, value
        line = only_line(capsys)
        assert "run.json is damaged" in line or "has changed since" in line
        (copy / "run.json").write_text(text)


@pytest.mark.parametrize("name", ["format", "options", "data", "baseline", "finished"])
def test_invalid_part_of_a_record_is_one_line(copy, capsys, name):
    for value in (None, [], 3, "x", {}, "missing"):
        text = (copy / "run.json").read_text()
        change_record(lambda record: record.pop(name) if value == "missing" else record.update({name: value}))(copy)  # noqa: B023
        assert main(["train", "--resume", str(copy)]) == 2, value
        assert "run.json is" in only_line(capsys)
        (copy / "run.json").write_text(text)


@pytest.mark.parametrize(("other", "what"), [("seed", "another key"), ("lr", "belongs to another run")])
def test_checkpoint_of_another_run_is_refused(copy, killed, capsys, other, what):
    shutil.copy(newest(killed / other), newest(copy))
    assert main(["train", "--resume", str(copy)]) == 2
    assert what in only_line(capsys)


def test_resumed_run_has_the_bits_of_the_whole_and_removes_partial_files(copy, killed):
    for name in (
        ".run.json.0123abcd.part",
        ".parameters.npz.0123abcd.part",
        "checkpoints/spiking/.step-000000009.npz.0123abcd.part",
    ):
        (copy / name).touch()
    change_record(lambda record: record["data"].update(training=None, test=0, test_from=3))(copy)
    lines = (copy / "metrics.jsonl").read_bytes()
    (copy / "metrics.jsonl").write_bytes(b'[1]\n{"network": "spiking"}\n' + lines + b'{"network": "spi')
    assert main(["train", "--resume", str(copy), "--quiet"]) == 0
    whole = killed / "run-whole"
    with np.load(copy / "parameters.npz") as found, np.load(whole / "parameters.npz") as expected:
        assert set(found) == set(expected)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    record, before = (json.loads((folder / "run.json").read_text()) for folder in (copy, whole))
    assert record["results"]["spiking"]["curves"] == before["results"]["spiking"]["curves"]
    assert record["data"] == before["data"]
    written = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert written[:2] == [[1], {"network": "spiking"}]
    assert [line["step"] for line in written[2:]] == [2, 4]  # two updates to a call
    assert {path.name for path in copy.rglob("*")} == {"run.json", "parameters.npz", "metrics.jsonl", "figure.png"}


def test_checkpoints_and_parameters_have_the_names_of_runs_that_were_saved_before(copy):
    with np.load(newest(copy)) as file:
        assert {name for name in file.files if name.startswith("trainable")} == {
            f"trainable/{layer}/{name}" for layer in range(2) for name in ("weight", "bias")
        }
    with np.load(copy / "parameters.npz") as file:
        assert set(file.files) == {"weight_0", "bias_0", "weight_1", "bias_1"}


def test_run_is_held_by_one_process_at_a_time(tmp_path):
    message = "is in use: another process is training it"
    with runs.held(tmp_path), pytest.raises(runs.RunError, match=message), runs.held(tmp_path):
        pass
    with runs.held(tmp_path):
        pass


def test_file_systems_without_locks_can_be_trained_in(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(runs.fcntl, "flock", flock)
    with runs.held(tmp_path):
        pass


def test_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))  # root may write anywhere
    with pytest.raises(runs.RunError, match="cannot be written; make it writable"), runs.held(tmp_path):
        pass


@pytest.fixture
def trained(monkeypatch, killed):
    """Training that is over at once, with the results of the whole run."""
    params = runs.read_parameters(runs.read(killed / "run-whole"))
    curves = {"loss": [9.0], "accuracy": [0.5], "rates": [[0.1]], "test": [0.25]}  # a loss that is diagnosed
    scores = trainer.Scores(np.zeros((8, 2)), [0.1], [0.0])
    monkeypatch.setattr(trainer, "fit", lambda *args, **options: trainer.Fit(params, scores, curves, 1.0, False))


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    "error", [ValueError("a $ in\nthe title"), KeyError("x"), OverflowError(), RuntimeError("no font")]
)
def test_failing_figure_and_diagnosis_lose_no_result(source, tmp_path, monkeypatch, capsys, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(figure, "run_figure", fail)
    monkeypatch.setattr(diagnosis, "examine", fail)
    folder = tmp_path / "run"
    assert main(["train", "--data", str(source), *ARGS, "-o", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "spiking layers, on the test set" in captured.out
    assert f"warning: the diagnosis failed: {type(error).__name__}" in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith(f"spikegrad: error: {folder}/figure.png cannot be drawn: {type(error).__name__}")
    record = json.loads((folder / "run.json").read_text())
    assert record["finished"]
    assert record["results"]["spiking"]["test"] == 0.25
    assert runs.read(folder).network.sizes == (3, 3, 2)
    assert main(["train", "--resume", str(folder)]) == 2
    assert "is already finished" in only_line(capsys)


@pytest.mark.usefixtures("trained")
def test_any_file_name_and_any_backend_leave_a_figure(source, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    monkeypatch.setattr(diagnosis, "reasons", lambda *args: lambda params: [])
    path = tmp_path / "$x_$ 5 %_{ [red] \udcff\n.npz"
    shutil.copy(source, path)
    folder = tmp_path / "run"
    assert main(["train", "--data", str(path), *ARGS, "-o", str(folder)]) == 0
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert runs.read(folder).options.data == str(path)
    assert os.environ["MPLBACKEND"] == "agg"


def test_classes_far_beyond_the_recordings_are_refused(tmp_path, capsys):
    path = tmp_path / "few.npz"
    np.savez(path, x=np.zeros((20, 4, 3), np.float32), y=np.tile([0, 999_999], 10))
    for command in ("train", "sweep"):
        assert main([command, "--data", str(path), "-o", str(tmp_path / "run")]) == 2
        assert "labels must be below 1,000 for 20 recordings, got 999,999; number the classes" in only_line(capsys)
    assert not (tmp_path / "run").exists()


def test_sweep_refuses_damaged_results(source, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "sweep"
    args = ["--data", str(source), *ARGS[:-2], "--surrogate", "sigmoid", "--lr", "0.1", "--seeds", "1"]
    monkeypatch.setattr(trainer, "sweep", lambda *args, **options: iter(()))
    assert main(["sweep", *args, "--quiet", "-o", str(folder)]) == 0
    monkeypatch.undo()
    text = (folder / "sweep.json").read_text()
    for name, value in {
        "surrogates": [], "lrs": [-1.0], "half_widths": [0.0], "seeds": 0, "validation_fraction": 1.0,
        "peaks": [float("nan")],
    }.items():  # fmt: skip
        record = json.loads(text)
        record["sweep"][name] = value
        (folder / "sweep.json").write_text(json.dumps(record))
        capsys.readouterr()
        assert main(["sweep", "--resume", str(folder), "--quiet"]) == 2
        assert "sweep.json is damaged" in only_line(capsys)
    (folder / "sweep.json").write_text(text)
    line = {"surrogate": "sigmoid", "peak": None, "half_width": None, "lr": 0.1, "spike": "Sigmoid(alpha=4.0)",
            "seed": 0, "step": 4, "seconds": 1.0, "diverged": None, "loss": 1.0, "validation": 0.5}  # fmt: skip
    for change in (
        {},
        {"test": "x"},
        {"test": None},
        {"test": 0.5, "seconds": "x"},
        {"test": 0.5, "rates": 3},
        {"test": 0.5, "rates": []},
        {"test": float("inf")},
        {"test": 10**400},
        {"test": 0.5, "half_width": float("nan")},
    ):
        (folder / "runs.jsonl").write_text(json.dumps(line | change) + "\n")
        assert main(["sweep", "--resume", str(folder), "--quiet"]) == 2
        assert "runs.jsonl has a damaged line" in only_line(capsys)


def test_processes_with_other_options_are_refused(monkeypatch):
    """As in two processes, of which each has its own command line."""
    lines, sent = (["--lr", "0.1"], ["--lr", "0.2", "--quiet"]), []

    def values_of(arguments):
        def gathered(*numbers):
            sent.append(numbers)
            return np.asarray([sent[0], numbers])

        monkeypatch.setattr(processes, "gathered", gathered)

        @click.command()
        @click.option("--lr", type=float, default=0.5)
        @click.option("--quiet", is_flag=True)
        @click.pass_context
        def command(context, **values):
            processes._check_alike(values, context)

        return CliRunner().invoke(command, arguments)

    first, again, other = (values_of(arguments) for arguments in (lines[0], [*lines[0], "--quiet"], lines[1]))
    assert (first.exit_code, again.exit_code, other.exit_code) == (0, 0, 2)
    assert "Invalid value for '--lr': must be equal in all processes" in other.output


def test_stochastic_spikes_are_drawn_with_the_seed(source):
    loaded = data.load(str(source), 0)
    given = options(surrogate="stochastic(arctan)", batch=16, hidden=(4,), steps=3, encoding="current", lr=0.1)

    def fit(seed):
        network = given.network(loaded)
        start = trainer.starts(network, loaded.train)(jax.random.key(0))
        return trainer.fit(network, start, loaded, dataclasses.replace(given, seed=seed)), network

    (first, network), (again, _), (other, _) = fit(0), fit(0), fit(1)
    assert np.array_equal(first.params[0].weight, again.params[0].weight)
    assert not np.array_equal(first.params[0].weight, other.params[0].weight)
    x = np.zeros((500, 3), np.float32)
    hidden = dataclasses.replace(first.params[0], weight=jnp.zeros((3, 4)), bias=jnp.ones(4))
    params = (hidden, first.params[1])
    _, (spikes,), _ = network(params, jnp.asarray(x), jax.random.key(2))
    assert set(np.unique(spikes)) == {0.0, 1.0}
    assert abs(float(spikes[0].mean()) - 0.5) < 0.05  # the potential is at the threshold
