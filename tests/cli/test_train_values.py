"""The command on values at each time step: loss, metric, predictions, a resumed run, diagnosis."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from cli_helpers import only_line
from jax.sharding import PartitionSpec as P

from spikegrad.cli import main, processes, runs, trainer
from spikegrad.data import Sequences, mackey_glass

pytestmark = [pytest.mark.ci, pytest.mark.slow]

OPTIONS = ["--data", "mackey_glass", "--hidden", "6", "--taus", "5,2", "--batch", "169"]
OPTIONS += ["--steps", "30", "--epochs", "2", "--lr", "0.01", "--quiet", "--no-baseline"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("values") / "run"
    with jax.numpy_dtype_promotion("standard"):
        assert main(["train", *OPTIONS, "-o", str(folder)]) == 0
    return folder


def predictions(folder, x):
    """The outputs of the saved network, step by step in float64, ``(n, steps)``."""
    with np.load(folder / "parameters.npz") as saved:
        w = {name: array.astype(np.float64) for name, array in saved.items()}
    membrane, readout = math.exp(-1 / 5), math.exp(-1 / 2)
    v, potential, outputs = np.zeros((len(x), 6)), np.zeros((len(x), 1)), []
    for t in range(x.shape[1]):
        u = membrane * v + x[:, t] @ w["weight_0"] + w["bias_0"]
        spikes = (u >= 1).astype(float)
        v = u - spikes
        potential = readout * potential + spikes @ w["weight_1"] + w["bias_1"]
        outputs.append(potential[:, 0])
    return np.stack(outputs, 1)


@pytest.mark.slow
def test_a_run_predicts_the_next_values(run, tmp_path, capsys):
    series = mackey_glass()
    # windows of 30 points of the second half, scaled by all windows of the first half
    starts = np.arange(750, 1500 - 29, 30)
    windows = np.stack([series[start : start + 30] for start in starts])
    right = np.stack([series[start + 1 : start + 31] for start in starts])
    trained = np.stack([series[start : start + 30] for start in range(721)])
    expected = predictions(run, ((windows - trained.mean()) / trained.std())[..., None])
    error = 2 * abs(expected - right) / (abs(expected) + abs(right))
    record = json.loads((run / "run.json").read_text())
    result = record["results"]["spiking"]
    assert result["test"] == pytest.approx(error.mean(), rel=1e-3)
    assert result["curves"]["test"][-1] == result["test"]
    assert result["smape"] == result["curves"]["smape"][-1]
    assert record["options"]["readout"] == "each"
    assert (run / "figure.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    out = tmp_path / "predicted.npz"
    assert main(["predict", str(run), "-o", str(out)]) == 0
    assert f"sMAPE: {error.mean():.1%}" in capsys.readouterr().out
    with np.load(out) as saved:
        assert saved.files == ["y_pred"]
        np.testing.assert_allclose(saved["y_pred"][..., 0], expected, rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_squared_error_and_padding_has_no_part_in_it(run):
    saved = runs.read(run)
    network, params = saved.network, saved.params
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 8, 5, 1)).astype(np.float32)
    mask = np.arange(8)[:, None] < [8, 3, 5, 8, 1]
    loss = jax.jit(trainer.loss_of(network, saved.options))
    value, metrics = loss(params, (x, y, mask), jax.random.key(0))
    expected = predictions(run, x.swapaxes(0, 1).astype(np.float64)).T
    squares, errors = [], []
    for example, steps in enumerate(mask.sum(0)):
        p, target = expected[:steps, example], y[:steps, example, 0]
        squares.append(((p - target) ** 2).mean())
        errors.append((2 * abs(p - target) / (abs(p) + abs(target))).mean())
    assert float(value) == pytest.approx(np.mean(squares), rel=1e-4)
    assert float(metrics["smape"]) == pytest.approx(np.mean(errors), rel=1e-4)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits(run, tmp_path):
    saved = runs.read(run)
    network, data = saved.network, saved.options.load()
    start = trainer.starts(network, data.train)(jax.random.key(0))
    more = {"folder": tmp_path, "minutes": 0.0}
    # After the first compiled call, which is an epoch.
    _, stopped = trainer.fit(network, start, data, saved.options, stop=lambda: True, **more)
    assert (stopped["interrupted"], stopped["epochs"]) == (True, 1)
    params, result = trainer.fit(network, start, data, saved.options, **more)
    assert result["curves"] == saved.record["results"]["spiking"]["curves"]
    for mine, its in zip(jax.tree.leaves(params), jax.tree.leaves(saved.params), strict=True):
        assert np.array_equal(mine, its)


def test_options_without_an_effect_are_refused(capsys):
    assert main(["train", *OPTIONS, "--readout", "max"]) == 2
    assert "--data mackey_glass does not support it. Remove --readout" in only_line(capsys)
    assert main(["sweep", "--data", "mackey_glass"]) == 2
    assert "sweep: data must have classes, got mackey_glass" in only_line(capsys)


@pytest.mark.every
def test_a_run_that_does_not_learn_is_diagnosed(run, tmp_path, capsys):
    broken = runs.read(run)
    hidden, readout = broken.params
    params = dataclasses.replace(hidden, weight=0 * hidden.weight, bias=0 * hidden.bias), readout
    broken.folder = tmp_path / "broken"
    broken.folder.mkdir()
    broken.save_parameters(params)
    broken.save_record()
    assert main(["diagnose", str(broken.folder)]) == 0
    assert "silent" in capsys.readouterr().out


def test_targets_are_sharded_by_their_examples(monkeypatch):
    """Time is the first axis of targets, and labels have none."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    for y, spec in ((np.zeros((4, 6, 1)), P(None, "batch")), (np.arange(4) % 2, P("batch"))):
        sharding = processes.batch_sharding(Sequences("some", np.zeros((4, 6, 2)), y))
        assert (sharding.x.spec, sharding.y.spec, sharding.mask) == (P(None, "batch"), spec, None)
