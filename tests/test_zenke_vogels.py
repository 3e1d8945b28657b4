"""Zenke and Vogels 2021: the paper's network and its laws, those that need training by the results that are kept."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import few

from spikegrad import training
from spikegrad._compat import in_double_precision
from spikegrad.cli import main
from spikegrad.cli import zenke_vogels as task
from spikegrad.cli.zenke_vogels import Condition, Grid
from spikegrad.training._callbacks import jsonable

KEPT = Path(__file__).parent.parent / "benchmarks" / "results" / "zenke-vogels.json"
FEW = Grid(betas=(1.0, 10.0), pilots=(1.0,), lrs=(0.05, 0.1), seeds=1, samples=20, epochs=1, batch=40)
HARD = Condition(recurrent=False, detached=False, asymptotic=True)


@pytest.fixture(autouse=True, scope="module")
def optax_promotes():
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # of all threads
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module")
def some():
    """Few examples, ``(n, steps, inputs)`` and labels."""
    x, y, _ = task.examples(20)[0].stacked()
    return np.moveaxis(x, 1, 0), y


def reference(weights, x):
    """The paper's equations, in NumPy and float64: logits and hidden spikes, of a sequence ``(steps, inputs)``."""
    to_hidden, to_readout, *recurrent = (np.asarray(w, np.float64) for w in weights)
    a, b, r = np.exp(-1 / 5), np.exp(-1 / 10), np.exp(-1 / 20)
    i, u, s, o = np.zeros(100), np.zeros(100), np.zeros(100), np.zeros(10)
    spikes, outputs = [], []
    for now in x.astype(np.float64):
        i = a * i + now @ to_hidden + sum(s @ w for w in recurrent)
        u = (b * u + (1 - b) * i) * 1.0
        s = (u >= 1).astype(np.float64)
        u = u * (1 - s)
        o = r * o + (1 - r) * (s @ to_readout)
        spikes.append(s)
        outputs.append(o)
    return np.max(outputs, 0), np.array(spikes)


def awake(recurrent, dtype=jnp.float32):
    """Weights with which neurons fire."""
    weights = task.start(jax.random.key(1), recurrent)
    return [weights[0].astype(dtype) * 12, *(w.astype(dtype) for w in weights[1:])]


@pytest.mark.parametrize("recurrent", few((False, True), True))
def test_the_network_is_that_of_the_paper(recurrent, some, x64):
    x = some[0][:3]
    weights = awake(recurrent, jnp.float64)
    logits, spikes = jax.jit(lambda w: task.run(w, jnp.moveaxis(x, 0, 1), task.SHAPES["Esser"](3.0), False))(weights)
    for n, example in enumerate(x):
        expected, fired = reference(weights, example)
        assert fired.any()
        np.testing.assert_array_equal(spikes[:, n], fired)
        np.testing.assert_allclose(logits[n], expected, rtol=1e-12, atol=1e-14)


def test_weights_at_the_start():
    for w, n in zip(task.start(jax.random.key(0), True), (20, 100, 100), strict=True):
        assert w.shape[0] == n
        assert abs(w).max() <= n**-0.5
        assert abs(w.std() * (3 * n) ** 0.5 - 1) < 0.06  # evenly: the deviation is the bound by the root of 3
    assert len(task.start(jax.random.key(0), False)) == 2


@pytest.mark.parametrize("shape", task.SHAPES)
def test_shapes_have_the_peak_1(shape, x64):
    x = jnp.linspace(-2, 2, 41)
    beta = 3.0
    z = beta * np.abs(np.asarray(x))
    sigma = 1 / (1 + np.exp(-z))
    formula = {"SuperSpike": (1 + z) ** -2.0, "sigmoid": 4 * sigma * (1 - sigma), "Esser": np.maximum(0, 1 - z)}[shape]
    np.testing.assert_allclose(task.SHAPES[shape](beta).surrogate_grad(x), formula, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("recurrent", few((False, True), True))
def test_it_is_silent_before_it_is_trained(recurrent, some):
    x, y = some
    for seed in range(3):
        found = task.scores(task.start(jax.random.key(seed), recurrent), np.moveaxis(x, 0, 1), y)
        assert found["accuracy"] == np.float32(0.1)
        assert found["spikes"] == 0
        assert found["silent"] == 1


def test_without_a_slope_nothing_is_learnt_and_the_bound_wakes_what_is_silent(some):
    setting = {"shape": "SuperSpike", "beta": 1.0, "recurrent": False, "detached": False}
    before = task.start(jax.random.key(0), False)

    def score(weights, setting):
        found = task.scores(weights, np.moveaxis(some[0], 0, 1), some[1])
        moved = abs(weights[0] - before[0]).max()
        return {"right": found["accuracy"], "spikes": found["spikes"], "silent": found["silent"], "moved": moved}

    flat, sloped, by_the_bound = training.sweep(
        task.loss,
        lambda key, setting: [before[0], setting["readout"] * before[1]],  # of 0: what is silent learns no class
        lambda seed: training.ShuffledBatches(some, 40, seed),
        [setting | {"height": height, "readout": readout} for height, readout in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.0))],
        optimizer=optax.adam(0.05),
        steps=20,
        at_once=1,
        score=score,
    )
    assert (flat["right"], flat["spikes"], flat["moved"]) == (pytest.approx(0.1), 0, 0)
    assert sloped["moved"] > 0.1
    assert sloped["spikes"] > 0
    assert by_the_bound["silent"] < 0.05
    assert by_the_bound["spikes"] > 0.5


@pytest.fixture(scope="module")
def gradient(some):
    """Of the loss by the hidden weights, in float64."""

    def of(weights, setting, height, beta):
        setting = setting | {"height": height, "beta": beta}
        return jax.grad(lambda w: task.loss(w, [part[:12] for part in some], None, setting)[0])(weights)[0]

    compiled = {}

    def call(recurrent, detached, height, beta):
        with in_double_precision():
            key = recurrent, detached
            setting = {"shape": "SuperSpike", "detached": detached}
            compiled.setdefault(key, jax.jit(lambda w, height, beta: of(w, setting, height, beta)))
            return np.asarray(compiled[key](awake(recurrent, jnp.float64), jnp.float64(height), jnp.float64(beta)))

    return call


@pytest.mark.parametrize("beta", [3.0, 100.0])
def test_the_peak_is_an_exact_factor_where_neither_reset_nor_recurrence_has_a_gradient(gradient, beta):
    one, steep = gradient(False, True, 1.0, beta), gradient(False, True, beta, beta)
    assert np.count_nonzero(one) > one.size / 2
    np.testing.assert_allclose(steep, beta * one, rtol=1e-10, atol=1e-10 * abs(steep).max())


@pytest.mark.parametrize(("recurrent", "detached"), [(False, False), pytest.param(True, True, marks=pytest.mark.every)])
def test_and_it_is_none_elsewhere(gradient, recurrent, detached):
    one, steep = gradient(recurrent, detached, 1.0, 10.0), gradient(recurrent, detached, 10.0, 10.0)
    away = abs(steep - 10 * one)
    assert np.median(away) > 0.1 * np.median(abs(10 * one))  # Adam sees that


def result(condition, shape, beta, lr, seed, validation, held_out):
    scores = {"validation": validation, "held_out": held_out, "spikes": 1.0, "silent": 0.0, "diverged": None}
    return {**task._setting(condition, shape, beta, lr), "seed": seed, **scores}


def test_a_grid_has_each_run_once():
    grid = Grid()
    lrs = dict.fromkeys(task._groups(), 0.05)
    planned = [tuple(setting.items()) for setting in task.settings(lrs, grid.betas)]
    assert (
        len(set(planned)) == len(planned) == 75
    )  # 3 shapes, 7 conditions, 4 β, less 9 of β = 1 where both peaks are one
    assert grid.runs == 3 * 75 + 21
    assert grid.updates == 800


def test_learning_rates_are_chosen_by_validation_with_seed_0():
    found = [
        result(HARD, "Esser", 10.0, 0.05, 0, 0.9, 0.1),
        result(HARD, "Esser", 10.0, 0.1, 0, 0.2, 0.8),
        result(HARD._replace(asymptotic=False), "Esser", 1.0, 0.1, 0, 0.6, 0.4),  # at β = 1 it is one of both
        result(HARD._replace(asymptotic=False), "Esser", 1.0, 0.05, 0, 0.5, 0.4),
        result(HARD, "Esser", 10.0, 0.05, 1, 0.7, 0.3),
        result(HARD, "Esser", 10.0, 0.1, 1, 1.0, 1.0),
    ]
    grid = Grid(betas=(1.0, 10.0), pilots=(1.0, 10.0))
    chosen = task.learning_rates(grid, found[:4])
    assert chosen[HARD, "Esser"] == 0.05
    assert chosen[HARD._replace(asymptotic=False), "Esser"] == 0.1
    rows = task.summary(grid, found)
    steep = next(row for row in rows if row["beta"] == 10)
    assert (steep["lr"], steep["validation"], steep["held_out"]) == (0.05, [0.9, 0.7], [0.1, 0.3])
    flat = [row for row in rows if row["beta"] == 1]
    assert [row["asymptotic"] for row in flat] == [False, True]
    assert [row["lr"] for row in flat] == [0.1, 0.1]
    best = next(row for row in task.chosen(rows) if "peak β" in row["condition"])
    assert best["beta"] == 10
    assert (best["mean"], best["lowest"]) == (pytest.approx(0.2), pytest.approx(0.2))


def test_laws_in_numbers():
    accuracies = {0.3: 0.1, 1.0: 0.9, 3.0: 0.8, 10.0: 0.4, 100.0: 0.2}
    rows = [
        {**HARD._asdict(), "shape": shape, "beta": beta, "lr": 1.0, "spikes": 1.0, "validation": [a], "held_out": [a]}
        for shape, more in (("SuperSpike", 0.0), ("Esser", 0.05))
        for beta, a in ((beta, a + more) for beta, a in accuracies.items())
    ]
    laws = task.laws(rows)
    assert laws[:3] == pytest.approx((0.85, 0.3, 0.7))
    assert laws.over_shapes == {str(HARD): pytest.approx(0.05)}


def test_the_command_goes_on_and_adds_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(task, "QUICK", FEW)
    monkeypatch.setattr(task, "SHAPES", {"Esser": task.SHAPES["Esser"]})
    monkeypatch.setattr(task, "CONDITIONS", [HARD, HARD._replace(asymptotic=False)])
    folder = tmp_path / "out"
    assert main(["reproduce", "zenke-vogels", "--quick", "--quiet", "-o", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "feed-forward, reset differentiated, peak 1" in out
    assert {path.name for path in folder.iterdir()} == {"runs.jsonl", "reproduction.json", "figure.png"}
    lines = (folder / "runs.jsonl").read_text().splitlines()
    runs = list(map(json.loads, lines))
    assert len(runs) == FEW.runs == 4
    assert {(run["beta"], run["height"]) for run in runs} == {(1.0, 1.0), (10.0, 1.0), (10.0, 10.0)}
    record = json.loads((folder / "reproduction.json").read_text())
    assert record["results"]["runs"] == 4
    assert len(record["results"]["rows"]) == 4
    (folder / "runs.jsonl").write_text("\n".join(lines[:2]) + "\n" + lines[2][:30])
    assert main(["reproduce", "zenke-vogels", "--quiet", "--resume", str(folder), "--seeds", "2"]) == 0
    after = list(map(json.loads, (folder / "runs.jsonl").read_text().splitlines()))
    assert after[:2] == runs[:2]
    assert len(after) == 7
    timeless = [{**run, "seconds": 0} for run in after]
    assert all({**run, "seconds": 0} in timeless for run in runs)  # to the bit
    assert json.loads((folder / "reproduction.json").read_text())["grid"]["seeds"] == 2
    capsys.readouterr()
    assert main(["reproduce", "zenke-vogels", "--quick", "--resume", str(folder)]) == 2
    assert "leave out --quick" in capsys.readouterr().err
    assert main(["reproduce", "zenke-vogels", "--resume", str(tmp_path)]) == 2
    assert "no reproduction.json" in capsys.readouterr().err


# --- what needs training: by the results that are kept, which the documentation shows ---


@pytest.fixture(scope="module")
def kept():
    return json.loads(KEPT.read_text())


def test_the_results_are_those_of_the_grid(kept):
    assert kept["grid"] == json.loads(json.dumps(Grid().__dict__))
    assert kept["results"]["best"] == jsonable(task.chosen(kept["results"]["rows"]))
    assert kept["results"]["laws"] == jsonable(task.laws(kept["results"]["rows"])._asdict())


def test_steep_slopes_with_a_peak_of_beta_fail_where_the_reset_is_differentiated(kept):
    laws = task.laws(kept["results"]["rows"])
    assert laws.moderate > laws.steep + 0.2
    best = next(row for row in kept["results"]["best"] if row["condition"] == str(HARD))
    assert best["shape"] == "SuperSpike"
    assert 1 <= best["beta"] <= 5
    assert best["mean"] > 0.9


def test_shapes_matter_less_than_the_peak(kept):
    laws = task.laws(kept["results"]["rows"])
    feed_forward = {name: spread for name, spread in laws.over_shapes.items() if name.startswith("feed-forward")}
    assert len(feed_forward) == 3
    assert max(feed_forward.values()) < laws.over_beta / 2


@pytest.mark.every
def test_that_it_fails_when_it_is_trained_here(tmp_path):
    """The two ends of the law, trained with the seed and learning rate of the results."""
    x, y, _ = task.examples(1000)[0].stacked()
    settings = [task._setting(HARD, "SuperSpike", beta, 0.05) for beta in (3.0, 100.0)]
    moderate, steep = training.sweep(
        task.loss,
        lambda key, setting: task.start(key, False),
        lambda seed: training.ShuffledBatches((np.moveaxis(x, 1, 0), y), 100, seed),
        settings,
        optimizer=lambda setting: optax.adam(setting["lr"]),
        epochs=3,
        updates_per_call=8,
        at_once=1,
    )
    assert moderate["accuracy"] > steep["accuracy"] + 0.1
