"""Zenke and Vogels 2021: the paper's network, its exact laws, and the results that are kept, which the page shows."""

import dataclasses
import functools
import itertools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, few
from rich.console import Console

from spikegrad import training
from spikegrad._compat import in_double_precision
from spikegrad.data import Sequences
from spikegrad.training._json_lines import jsonable

sys.path.insert(0, str(ROOT / "benchmarks"))
import zenke_vogels as task
from zenke_vogels import Condition, Grid, chosen_tables, figure

KEPT = ROOT / "benchmarks" / "results" / "zenke-vogels.json"
FEW = Grid(
    betas=(1.0, 10.0),
    lrs=(0.05, 0.1),
    seeds=1,
    samples=20,
    epochs=2,
    batch=40,
    long_epochs=6,
    long_batch=80,
)
examples = functools.cache(task.examples)
HARD = Condition(recurrent=False, detached=False, asymptotic=True)


@pytest.fixture(autouse=True, scope="module")
def optax_promotes():
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # of all threads
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module")
def some():
    """Few examples, ``(n, steps, inputs)`` and labels."""
    x, y, _ = examples(20)[0].as_batch()
    return np.moveaxis(x, 1, 0), y


def reference(weights, x):
    """The paper's equations, in NumPy and float64: logits, hidden spikes and the potentials before them, of a sequence
    ``(steps, inputs)``.
    """
    to_hidden, to_readout, *recurrent = (np.asarray(w, np.float64) for w in weights)
    a, b, r = np.exp(-1 / 5), np.exp(-1 / 10), np.exp(-1 / 20)
    i, u, s, o = np.zeros(100), np.zeros(100), np.zeros(100), np.zeros(10)
    spikes, outputs, potentials = [], [], []
    for now in x.astype(np.float64):
        i = a * i + now @ to_hidden + sum(s @ w for w in recurrent)
        u = b * u + (1 - b) * i
        potentials.append(u)
        s = (u >= 1).astype(np.float64)
        u = u * (1 - s)
        o = r * o + (1 - r) * (s @ to_readout)
        spikes.append(s)
        outputs.append(o)
    return np.max(outputs, 0), np.array(spikes), np.array(potentials)


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
        expected, fired, _ = reference(weights, example)
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


@pytest.mark.parametrize("recurrent", few((False, True), False))
def test_it_is_silent_before_it_is_trained(recurrent, some):
    x, y = some
    for seed in range(3):
        found = task.scores(task.start(jax.random.key(seed), recurrent), np.moveaxis(x, 0, 1), y)
        assert found["accuracy"] == np.float32(0.1)
        assert found["spikes"] == 0
        assert found["silent"] == 1


def test_untrained_potentials_are_beyond_the_reach_of_a_compact_slope(some):
    highest = [
        reference(task.start(jax.random.key(seed), False), x)[2].max() for seed in range(3) for x in some[0][::16]
    ]
    assert 0.3 < max(highest) < 0.5  # Esser's slope begins at 1 - 1/β, 0.67 for β = 3


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
        jobs=1,
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


def result(group, beta, lr, seed, validation, test, epochs=10):
    scores = {"validation": validation, "test": test, "spikes": 1.0, "silent": 0.0, "diverged": None}
    return {**task._setting((group, beta), lr, epochs), "seed": seed, **scores}


def test_a_grid_has_each_run_once():
    grid = Grid()
    planned = [tuple(task._setting(point, 0.05, 10).items()) for point in task._points(grid, task._groups())]
    # 3 shapes, 7 conditions, 4 β; less 9 of β = 1, which two peaks share
    assert len(set(planned)) == len(planned) == 75
    assert grid.runs == 75 * 3 + 75 * 2 + 3 * 4
    assert dataclasses.replace(grid, long_epochs=0, seeds=1).runs == 75 * 3


def test_learning_rates_are_chosen_by_validation_with_seed_0():
    hard, mild = (HARD, "sigmoid"), (HARD._replace(asymptotic=False), "sigmoid")
    grid = Grid(betas=(1.0, 10.0), lrs=(0.05, 0.1))
    found = [
        result(hard, 10.0, 0.05, 0, 0.9, 0.1),
        result(hard, 10.0, 0.1, 0, 0.2, 0.8),
        result(hard, 10.0, 0.05, 1, 0.1, 0.3),
        result(hard, 10.0, 0.1, 1, 1.0, 1.0),
        result(mild, 10.0, 0.05, 0, 0.4, 0.9),
        result(mild, 10.0, 0.1, 0, 0.5, 0.4),
        result(mild, 1.0, 0.05, 0, 1.0, 0.6),
        result(mild, 1.0, 0.1, 0, 0.8, 0.3),  # at β = 1 it is one of both peaks
    ]
    lrs = task.learning_rates(grid, found)
    assert (lrs[hard, 10.0], lrs[mild, 10.0], lrs[mild, 1.0]) == (0.05, 0.1, 0.05)
    assert (hard, 1.0) not in lrs
    rows = [row for row in task.summary(grid, found) if row["shape"] == "sigmoid"]
    assert [(row["asymptotic"], row["beta"], row["lr"], row["test"]) for row in rows] == [
        (False, 1.0, 0.05, [0.6]),
        (False, 10.0, 0.1, [0.4]),
        (True, 1.0, 0.05, [0.6]),
        (True, 10.0, 0.05, [0.1, 0.3]),
    ]
    chosen = {row["condition"]: row for row in task.chosen(rows)}
    assert [(row["beta"], row["mean"], row["lowest"], row["seeds"]) for row in chosen.values()] == [
        (1.0, 0.6, 0.4, 1),
        (1.0, 0.6, pytest.approx(0.2), 1),
    ]


def test_runs_at_length_are_rows_of_their_own():
    group = HARD, "SuperSpike"
    grid = Grid(betas=(3.0,), lrs=(0.1,))
    found = [result(group, 3.0, 0.1, 0, 0.5, 0.4), *(result(group, 3.0, 0.1, n, 0.9, 0.1 * n, 100) for n in (2, 1))]
    assert [row["test"] for row in task.summary(grid, found)] == [[0.4]]
    assert [row["test"] for row in task.at_length(grid, found)] == [[0.1, 0.2]]


def row(condition, shape, beta, *accuracies):
    about = {"shape": shape, "beta": beta, "lr": 1.0, "spikes": 1.0}
    return {**condition._asdict(), **about, "validation": accuracies, "test": accuracies}


@pytest.mark.parametrize(("at_3", "at_10", "of_esser", "met"), [
    (0.97, 0.55, 0.7, (True, True, True)),
    (0.99, 0.55, 0.7, (True, True, True)),
    (0.94, 0.55, 0.7, (False, True, True)),
    (0.97, 0.52, 0.7, (True, False, True)),
    (0.97, 0.88, 0.7, (True, False, True)),
    (0.97, 0.55, 0.2, (True, True, False)),
])  # fmt: skip
def test_laws_are_met_or_not(at_3, at_10, of_esser, met):
    long = [row(HARD, "SuperSpike", beta, a) for beta, a in ((0.3, 0.0), (1.0, 0.95), (10.0, 0.6), (100.0, at_10))]
    long.append(row(HARD, "SuperSpike", 3.0, at_3 - 0.01, at_3 + 0.01))
    rows = [row(HARD, "SuperSpike", beta, a) for beta, a in ((1.0, 0.4), (3.0, 0.8), (10.0, 0.3))]
    rows += [row(HARD, "Esser", beta, a) for beta, a in ((1.0, of_esser), (3.0, 0.1))]
    rows.append(row(HARD._replace(detached=True), "Esser", 1.0, 0.1))  # the only shape there
    laws = task.laws(rows, long)
    assert tuple(law.met for law in laws) == met
    assert "95.0 % at 1" in laws[0].found
    assert (laws[2].expected, laws[2].found[:14]) == ("below 50.0 %", f"at most {100 * (0.8 - of_esser):.1f} %")
    assert task.laws([], []) == []


def test_examples_are_apart(monkeypatch):
    number = np.arange(10_000)
    numbered = Sequences("numbers", number[:, None, None], np.repeat(np.arange(10), 1000))
    monkeypatch.setattr(task, "randman", lambda classes, inputs, samples, *, steps: numbered)
    found = [part.as_batch() for part in task.examples(1000)]
    assert [len(y) for _, y, _ in found] == [8000, 1000, 1000]
    assert np.array_equal(np.sort(np.concatenate([x.ravel() for x, _, _ in found])), number)
    assert all(len(set(np.bincount(y))) == 1 for _, y, _ in found)


def slope_alone(weights, batch, key, setting):
    """A loss that costs nothing: Adam takes its rate off each weight, except at the first neuron, and at β = 1."""
    return (setting["beta"] != 1) * setting["height"] * weights[0][:, 1:].sum(), {"accuracy": jnp.float32(0.5)}


def code_of(x, *weights):
    return float(x[25].sum() / 1000 - sum(w.mean() for w in weights))


def told(weights, x, y):
    """Scores that tell of what they are: greater with smaller weights."""
    return {"accuracy": code_of(x, weights[0][:, 1]), "spikes": weights[0][0, 1], "silent": len(weights)}


@pytest.fixture
def small(monkeypatch):
    """A few runs of three panels, which cost nothing."""
    for name, value in {
        "QUICK": FEW,
        "SHAPES": {"SuperSpike": task.SHAPES["SuperSpike"]},
        "CONDITIONS": [
            HARD._replace(asymptotic=False),
            HARD,
            Condition(recurrent=True, detached=True, asymptotic=False),
        ],
        "examples": examples,
        "loss": slope_alone,
        "scores": told,
        "_UPDATES_PER_CALL": 2,
    }.items():
        monkeypatch.setattr(task, name, value)


def results_in(folder):
    lines = (folder / "runs.jsonl").read_text().splitlines()
    return list(map(json.loads, lines)), json.loads((folder / "results.json").read_text())


def run_benchmark(folder, *more):
    folder.mkdir(exist_ok=True)
    task.main(["--quick", "--folder", str(folder), "--json", str(folder / "results.json"), *more])


def test_the_benchmark(small, tmp_path, capsys):
    run_benchmark(tmp_path)
    out = capsys.readouterr().out
    assert all(str(condition) in out for condition in task.CONDITIONS)
    assert "met: " in out
    assert {path.name for path in tmp_path.iterdir()} == {"runs.jsonl", "results.json", "figure.png"}
    runs, record = results_in(tmp_path)
    steps = {tuple(run[name] for name in ("recurrent", "beta", "height", "lr", "epochs")): run["step"] for run in runs}
    assert len(runs) == len(steps) == FEW.runs == 12
    assert steps == {
        (False, 10.0, 1.0, 0.05, 2): 8,
        (False, 10.0, 1.0, 0.1, 2): 8,
        (False, 1.0, 1.0, 0.05, 2): 4,  # an epoch in which no weight moves: none ever will
        (False, 1.0, 1.0, 0.1, 2): 4,
        (False, 10.0, 10.0, 0.05, 2): 8,
        (False, 10.0, 10.0, 0.1, 2): 8,
        (False, 1.0, 1.0, 0.05, 6): 2,
        (False, 10.0, 10.0, 0.1, 6): 12,
        (True, 10.0, 1.0, 0.05, 2): 8,
        (True, 10.0, 1.0, 0.1, 2): 8,
        (True, 1.0, 1.0, 0.05, 2): 4,
        (True, 1.0, 1.0, 0.1, 2): 4,
    }
    _, validation, test = (part.as_batch()[0] for part in examples(20))
    for run in runs:
        before = task.start(jax.random.key(0), run["recurrent"])
        moved = run["lr"] * run["step"] * (run["beta"] != 1)
        after = before[0][:, 1] - moved
        assert run["spikes"] == pytest.approx(float(after[0]), abs=1e-4)
        assert run["validation"] == pytest.approx(code_of(validation, after), abs=1e-4)
        assert run["test"] == pytest.approx(code_of(test, after), abs=1e-4)
        assert run["silent"] == len(before)
    rows, long = task.summary(FEW, runs), task.at_length(FEW, runs)
    laws = [law._asdict() for law in task.laws(rows, long)]
    expected = jsonable({"laws": laws, "best": task.chosen(rows), "rows": rows, "at_length": long})
    assert expected == {name: record["results"][name] for name in expected}
    assert (len(rows), len(long), len(laws)) == (6, 2, 3)
    assert record["grid"] == jsonable(dataclasses.asdict(FEW))


def test_an_interrupted_benchmark_continues_and_adds_seeds(small, tmp_path, monkeypatch):
    whole, folder = tmp_path / "whole", tmp_path / "out"
    run_benchmark(whole, "--seeds", "2", "--jobs", "1")
    score, calls = task.scores, itertools.count()

    def interrupted(*args):
        if next(calls) == 8:  # two a run
            raise KeyboardInterrupt
        return score(*args)

    monkeypatch.setattr(task, "scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(folder, "--jobs", "1")
    lines = (folder / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 4
    (folder / "runs.jsonl").write_text("".join(line + "\n" for line in lines[:-1]) + lines[-1][:30])
    run_benchmark(folder, "--seeds", "2", "--jobs", "1")
    of_whole, of_both = ([{**run, "seconds": 0} for run in results_in(path)[0]] for path in (whole, folder))
    assert len(of_both) == len(of_whole) == 19
    assert all(run in of_whole for run in of_both)  # to the bit
    assert results_in(folder)[1]["grid"]["seeds"] == 2
    assert results_in(folder)[1]["results"]["rows"] == results_in(whole)[1]["results"]["rows"]


def test_without_quick_the_benchmark_has_the_whole_grid(tmp_path, monkeypatch):
    grids = []
    monkeypatch.setattr(task, "results", lambda grid, *more: grids.append(grid) or [])
    monkeypatch.setattr(task, "figure", lambda *rows: task.Figure())
    for more in ([], ["--seeds", "5"]):
        task.main(["--folder", str(tmp_path), *more])
    assert grids == [Grid(), dataclasses.replace(Grid(), seeds=5)]


def test_the_figure_has_each_row_in_its_panel():
    other = Condition(recurrent=True, detached=True, asymptotic=False)
    rows = [row(HARD, "SuperSpike", 10.0, 0.2), row(HARD, "SuperSpike", 1.0, 0.3, 0.5), row(other, "Esser", 1.0, 0.6)]
    drawn = figure(rows, [row(HARD, "SuperSpike", 10.0, 0.9)], "title")
    lines = {
        panel.get_title(): [
            list(line.get_ydata()) for line in panel.lines if len(line.get_ydata()) and line.get_ls() != ":"
        ]
        for panel in drawn.axes
    }
    lines = {title: [line for line in drawn if line != [10.0, 10.0]] for title, drawn in lines.items()}
    hard = lines.pop("feed-forward, peak β\nreset differentiated")
    assert hard == [[40.0, 20.0], [30.0, 50.0], [20.0], [90.0], [90.0]]
    assert lines.pop("recurrent, peak 1\nreset detached") == [[60.0], [60.0]]
    assert len(lines) == 6
    assert not any(lines.values())


# --- what needs training: by the results that are kept, which the documentation shows ---


@pytest.fixture(scope="module")
def kept():
    return json.loads(KEPT.read_text())


def test_the_results_are_those_of_the_grid(kept):
    results = kept["results"]
    assert kept["grid"] == jsonable(dataclasses.asdict(Grid()))
    assert results["runs"] == Grid().runs
    assert all(len(row["test"]) == 3 for row in results["rows"] + results["at_length"])
    assert len(results["rows"]) == len(task._groups()) * 4
    assert len(results["at_length"]) == 4
    assert results["best"] == jsonable(task.chosen(results["rows"]))
    assert results["laws"] == [law._asdict() for law in task.laws(results["rows"], results["at_length"])]


def test_the_tables_fit_a_screen_of_80_columns(kept, capsys):
    for table in chosen_tables(kept["results"]["best"]):
        Console(width=80).print(table)
    out = capsys.readouterr().out
    assert "…" not in out
    assert out.count("recurrent, reset differentiated, peak β") == 1
    assert re.search(r"│ sigmoid +│ +10 │ 40.7 ± 11.8 % │ +10.0 % │ +77.4 │ 0.05 │ +3 │", out)


def test_what_the_page_says_of_the_results(kept):
    rows = kept["results"]["rows"]
    out_of_reach = [row for row in rows if (row["shape"], row["beta"] >= 3) == ("Esser", True)]
    out_of_reach += [row for row in rows if (row["shape"], row["beta"]) == ("sigmoid", 100)]
    for row in rows:
        assert (row["silent"] == 1 and set(row["test"]) == {0.1}) == (row in out_of_reach)
    of = {
        (row["asymptotic"], row["beta"]): np.mean(row["test"])
        for row in rows
        if (row["shape"], row["recurrent"], row["detached"]) == ("SuperSpike", False, False)
    }
    long = {row["beta"]: np.mean(row["test"]) for row in kept["results"]["at_length"]}
    for steep in (10.0, 100.0):
        assert of[True, steep] < of[True, 3.0] - 0.2
        assert of[True, steep] < of[False, steep] - 0.2
        assert long[steep] < long[3.0] - 0.2
    gained = {beta: long[beta] - of[True, beta] for beta in long}
    assert max(gained, key=gained.__getitem__) == 1


@pytest.mark.every
def test_that_steep_slopes_fail_when_they_are_trained_here(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "SHAPES", {"SuperSpike": task.SHAPES["SuperSpike"]})
    monkeypatch.setattr(task, "CONDITIONS", [HARD])
    grid = Grid(betas=(3.0, 100.0), lrs=(0.05,), seeds=1, epochs=3, long_epochs=0)
    moderate, steep = sorted(task.results(grid, tmp_path / "runs.jsonl"), key=lambda run: run["beta"])  # as they end
    assert moderate["test"] > steep["test"] + 0.1
