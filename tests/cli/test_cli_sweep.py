"""The command ``sweep``: a run is that of ``train``, a killed one goes on, and the best is chosen
by validation.
"""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from cli_helpers import options
from rich.console import Console

from spikegrad import LIF, Arctan, rescaled
from spikegrad.cli import main, sources, sweeping, tables, trainer
from spikegrad.cli.figure import sweep_figure
from spikegrad.cli.networks import SpikingNetwork
from spikegrad.data import DataError, Sequences, load

QUICK = ["--data", "digits", "--epochs", "2", "--hidden", "16", "--steps", "4", "--quiet"]
GRID = ["--surrogate", "arctan", "--half-width", "0.2:0.4:x2", "--lr", "0.02"]


@pytest.fixture(autouse=True, scope="module")
def optax_promotes():
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # of all threads
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "out"
    assert main(["sweep", *QUICK, *GRID, "--seeds", "2", "--seed", "5", "-o", str(folder)]) == 0
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_sweep_is_written_in_full(swept):
    assert {path.name for path in swept.iterdir()} == {"runs.jsonl", "sweep.json", "figure.png"}
    assert (swept / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert sorted((r["surrogate"], r["half_width"], r["lr"], r["seed"]) for r in lines(swept)) == [
        ("arctan", width, 0.02, seed) for width in (0.2, 0.4) for seed in (5, 6)
    ]


@pytest.mark.slow
def test_a_run_of_the_command_is_that_of_train_alone(swept):
    data = sources.for_validation(load("digits", 5), 0.1, 5)
    setting = {"surrogate": "arctan", "half_width": 0.4, "lr": 0.02, "seed": 6}
    found = next(
        r for r in lines(swept) if setting.items() <= r.items()
    )  # they stand as they ended
    network = SpikingNetwork(
        (64, 16, 10), LIF(surrogate=rescaled(Arctan(), half_width=0.4)), 4, "current", high=16.0
    )
    params = network.init(jax.random.key(6))
    params, alone = trainer.fit(
        network, params, data, options(encoding="current", epochs=2, batch=128, lr=0.02, seed=6)
    )
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert found["accuracy"] == pytest.approx(alone["accuracy"], abs=2 / 1300)
    assert found["test"] == pytest.approx(alone["test"], abs=2 / 359)
    scores = trainer.score(network, params, data.validation)
    assert found["validation"] == pytest.approx(scores.metric, abs=2 / 143)


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill(swept, tmp_path, capsys):
    folder, before = tmp_path / "killed", lines(swept)
    folder.mkdir()
    record = json.loads((swept / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(record | {"results": {}}))
    text = (swept / "runs.jsonl").read_text()
    (folder / "runs.jsonl").write_text(text[: text.rindex('{"surrogate"') + 50])
    assert main(["sweep", "--resume", str(folder), "--quiet"]) == 0
    timeless = [[{**r, "seconds": 0} for r in results] for results in (lines(folder), before)]
    assert timeless[0][:-1] == timeless[1][:-1]
    assert timeless[0][-1] == timeless[1][-1]
    assert json.loads((folder / "sweep.json").read_text())["results"] == record["results"]
    out = capsys.readouterr().out
    assert "best by validation" in out
    for arguments, message in (
        (["--resume", str(folder), "--epochs", "3"], "Remove --epochs"),
        (["--resume", str(tmp_path)], "sweep.json"),
        ([*QUICK, "-o", str(folder)], "exists. Choose a new output folder"),
    ):
        assert main(["sweep", *arguments]) == 2
        assert message in capsys.readouterr().err


def result(surrogate, seed, validation, test):
    axes = {"surrogate": surrogate, "peak": None, "half_width": 0.1, "lr": 0.1}
    scores = {"validation": validation, "test": test}
    return {**axes, "seed": seed, **scores, "seconds": 1.0, "diverged": None, "rates": [0.1]}


def summaries(results):
    return sweeping.summaries(results, [row for row in results if row["seed"] == 0])


def test_the_best_is_chosen_by_validation_alone():
    rows = summaries(
        [
            result("a", 0, 0.9, 0.1),
            result("b", 0, 0.8, 0.99),
            result("a", 1, 0.7, 0.3),
            result("b", 1, 0.75, 0.99),
        ]
    )
    chosen = sweeping.best(rows)
    assert chosen.setting["surrogate"] == "a"
    assert chosen.test == pytest.approx((0.2, np.std([0.1, 0.3], ddof=1)))
    assert chosen.n == 2


def test_means_do_not_depend_on_which_run_ended_first():
    results = [
        result("arctan", seed, v, 1 - v)
        for seed, v in enumerate(np.random.default_rng(0).random(9))
    ]
    (expected,) = summaries(results)
    assert all(summaries(results[n:] + results[:n]) == [expected] for n in range(9))


RECORD = {
    "options": {"data": "mine"},
    "data": {"test": 9, "test_from": "the test set", "outputs": 10},
}


@pytest.mark.parametrize(
    ("validation", "line"),
    [
        (0.5, "best by validation: surrogate arctan, with 40.0% of the test set, runs: 1"),
        (
            0.1,
            "no setting learned: the highest validation accuracy, 10.0%, is close to guessing "
            "one of 10 classes",
        ),
    ],
)
def test_guessing_is_not_called_best(validation, line):
    rows = summaries([result("arctan", 0, validation, 0.4)])
    assert tables.sweep(rows, ["surrogate"], RECORD, 9)[-1] == line


def test_no_surrogate_is_cut_off_on_a_narrow_screen(capsys):
    spec = "snntorch.fast_sigmoid(slope=25.0)"
    rows = summaries([result(spec, 0, 0.9, 0.1), result(spec, 1, 0.7, 0.3)])
    table, _ = tables.sweep(rows, ["surrogate", "peak", "half_width", "lr"], RECORD, 9)
    Console(width=80).print(table)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = lines[1 + max(i for i, line in enumerate(lines) if line.startswith("─")) :]
    cells = [re.match(r"\S*", line)[0] for line in rows]
    assert "".join(cells).startswith(spec)


@pytest.mark.parametrize("at", [0, 5])
def test_heat_map_shows_each_mean_and_frames_the_best(at):
    lrs, specs = (0.01, 0.02, 0.04), ("arctan", "sigmoid")
    accuracies = np.linspace(0.2, 0.7, 6)
    accuracies[at] = 0.9
    pairs = [(spec, lr) for spec in specs for lr in lrs]
    rows = summaries(
        [
            {**result(spec, 0, v, 0.5), "lr": lr}
            for (spec, lr), v in zip(pairs, accuracies, strict=True)
        ]
    )
    panel = sweep_figure(rows, ["surrogate", "lr"], "mine").axes[0]
    (image,), (frame,) = panel.get_images(), panel.patches
    np.testing.assert_allclose(image.get_array(), 100 * accuracies.reshape(2, 3))
    assert np.add(frame.get_xy(), 0.5).tolist() == [at % 3, at // 3]
    assert (frame.get_width(), frame.get_height()) == (1, 1)
    assert {text.get_position(): text.get_text() for text in panel.texts} == {
        (j, i): f"{100 * accuracies[3 * i + j]:.1f}" for i, j in np.ndindex(2, 3)
    }
    assert [text.get_text() for text in panel.get_xticklabels()] == [f"{lr:g}" for lr in lrs]
    assert [text.get_text() for text in panel.get_yticklabels()] == list(specs)


def test_examples_to_choose_by_are_neither_trained_on_nor_held_out():
    data = load("digits", 0)
    y = data.train.y
    numbered = Sequences("numbered", np.arange(len(y))[:, None, None], y)
    data = dataclasses.replace(data, train=numbered)
    rest = sources.for_validation(data, 0.1, 3)
    trained_on, chosen_by = (
        part.padded().ravel().astype(int) for part in (rest.train, rest.validation)
    )
    assert sorted([*trained_on, *chosen_by]) == list(range(len(y)))
    assert rest.test is data.test
    assert np.array_equal(y[chosen_by], rest.validation.y)
    assert np.array_equal(y[trained_on], rest.train.y)
    share = np.bincount(rest.validation.y) / np.bincount(y)
    assert abs(share - 0.1).max() < 0.005
    assert not np.array_equal(
        chosen_by, sources.for_validation(data, 0.1, 4).validation.padded().ravel()
    )
    with pytest.raises(DataError, match="too few examples"):
        sources.for_validation(data, 0.001, 0)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.05:3.2:x2", (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)),
        ("1:1:x2, 3,0.1:0.35:x3", (1.0, 3.0, 0.1, 0.3)),
        ("0.1,0.1", (0.1, 0.1)),
    ],
)
def test_ranges(text, numbers):
    (field,) = [field for field in dataclasses.fields(sweeping.Grid) if field.name == "lr"]
    assert field.metadata["click"]["type"](text) == numbers


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--half-width", w] for w in ("", "0", "a", "1:2", "1:2:x1", "2:1:x2")),
        ["--surrogate", "arctan,,sigmoid"],
        ["--surrogate", "arctan(alpha=2"],
        ["--surrogate", "leaky_relu", "--half-width", "0.1"],
        ["--validation-fraction", "1"],
    ],
)
def test_a_wrong_value_is_one_line_and_exit_code_2(arguments, capsys):
    assert main(["sweep", *QUICK, *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_surrogates_may_have_commas_in_brackets():
    text = "sigmoid, snntorch.fast_sigmoid(slope=25),relu_grad(alpha=0.3, width=1)"
    specs = ("sigmoid", "snntorch.fast_sigmoid(slope=25)", "relu_grad(alpha=0.3, width=1)")
    assert sweeping.parse_surrogates(text) == specs
