"""Runs that are damaged, and errors after training: one line for each, and no result is lost."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import only_line, options
from matplotlib.figure import Figure

from spikegrad import data
from spikegrad.cli import commands, figure, main
from spikegrad.training import Checkpoints

SIZES = ["--hidden", "3", "--steps", "2", "--epochs", "2", "--batch", "16"]
ARGS = [*SIZES, "--encoding", "rate", "--no-baseline", "--quiet"]


def train(folder, source):
    """A run as a kill in its second epoch leaves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "shutil", SimpleNamespace(rmtree=lambda *args: None))
        patch.setattr(figure, "run_figure", lambda *_: Figure())
        assert (
            main(["train", "--data", str(source), *ARGS, "--checkpoint", "0", "-o", str(folder)])
            == 0
        )
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
    place = tmp_path_factory.mktemp("runs")
    train(place / "run", source)
    return place


@pytest.fixture
def copy(killed, tmp_path):
    return shutil.copytree(killed / "run", tmp_path / "run")


@pytest.mark.slow
def test_changed_data_is_named(copy, tmp_path, capsys):
    other = tmp_path / "other.npz"
    np.savez(other, x_train=np.eye(40, 3), y_train=np.arange(40) % 2)
    change_record(lambda record: record["options"].update(data=str(other)))(copy)
    assert main(["train", "--resume", str(copy)]) == 2
    assert (
        f"other.npz has changed since {copy} was started. Restore the original data"
        in only_line(capsys)
    )


def test_damaged_checkpoint_is_one_line(copy, capsys):
    newest(copy).write_bytes(newest(copy).read_bytes()[:99])
    assert main(["train", "--resume", str(copy), "--quiet"]) == 2
    assert newest(copy).name in only_line(capsys)


@pytest.mark.slow
def test_resumed_run_has_the_bits_of_the_whole_and_removes_partial_files(copy, killed):
    for name in (
        ".run.json.0123abcd.part",
        "checkpoints/spiking/.step-000000009.npz.0123abcd.part",
    ):
        (copy / name).touch()
    lines = (copy / "metrics.jsonl").read_bytes()
    (copy / "metrics.jsonl").write_bytes(b'{"network": "spiking"}\n' + lines + b'{"network": "spi')
    assert main(["train", "--resume", str(copy), "--quiet"]) == 0
    whole = killed / "run-whole"
    with np.load(copy / "parameters.npz") as found, np.load(whole / "parameters.npz") as expected:
        assert set(found) == set(expected)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    record, before = (json.loads((folder / "run.json").read_text()) for folder in (copy, whole))
    assert record["results"]["spiking"]["curves"] == before["results"]["spiking"]["curves"]
    assert record["data"] == before["data"]
    written = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert written[0] == {"network": "spiking"}
    assert [line["step"] for line in written[1:]] == [2, 4]  # two updates to a call
    assert {path.name for path in copy.rglob("*")} == {
        "run.json",
        "parameters.npz",
        "metrics.jsonl",
        "figure.png",
    }


def test_held_out_examples_get_their_random_spikes_again(killed, source, tmp_path):
    assert (
        main(["predict", str(killed / "run-whole"), str(source), "-o", str(tmp_path / "p.npz")])
        == 0
    )
    results = json.loads((killed / "run-whole" / "run.json").read_text())["results"]
    with np.load(tmp_path / "p.npz") as predictions:
        accuracy = (predictions["y_pred"] == data.load(str(source), 0).test.y).mean()
    assert {name: result["test"] for name, result in results.items()} == {"spiking": accuracy}


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("x_train", "y_train")])
def test_a_class_without_examples_is_refused(tmp_path, capsys, x, y):
    path = tmp_path / "few.npz"
    np.savez(path, **{x: np.ones((20, 4, 3), np.float32).cumsum(0), y: np.tile([0, 9_999], 10)})
    for command in ("train", "sweep"):
        assert main([command, "--data", str(path), "-o", str(tmp_path / "run")]) == 2
        assert (
            f"every label from 0 to the greatest, but lacks 1. Number the classes with "
            f"numpy.unique({y}, return_inverse=True)[1]" in only_line(capsys)
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stochastic_spikes_are_drawn_with_the_key(source):
    network = options(
        surrogate="stochastic(arctan)", hidden=(4,), steps=3, encoding="current"
    ).network(data.load(str(source), 0))
    hidden, readout = network.init(jax.random.key(0))
    # The potential is at the threshold.
    params = dataclasses.replace(hidden, weight=jnp.zeros((3, 4)), bias=jnp.ones(4)), readout
    run = jax.jit(lambda key: network(params, jnp.zeros((1, 500, 3)), key)[1][0])
    first, again, other = (np.asarray(run(jax.random.key(seed))) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(np.unique(first)) == {0.0, 1.0}
    assert abs(float(first[0].mean()) - 0.5) < 0.05
