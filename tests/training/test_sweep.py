"""Sweeps: each run is that of ``fit`` alone, results survive a kill, and the best is chosen by validation."""

import dataclasses
import importlib
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cli_helpers import options
from rich.console import Console

from spikegrad import Arctan, Sigmoid, rescaled
from spikegrad.cli import main, sources, sweeping, tables, trainer
from spikegrad.cli.figure import sweep_figure
from spikegrad.cli.networks import SpikingNetwork
from spikegrad.data import DataError, Sequences, load
from spikegrad.neurons import LIF
from spikegrad.training import ShuffledBatches, fit, sweep
from spikegrad.training._sweep import _Programs

QUICK_COMPILATION = True
sweeps = importlib.import_module("spikegrad.training._sweep")
X = np.random.default_rng(0).uniform(size=(40, 3)).astype(np.float32)
Y = (X.sum(1) > 1.5).astype(np.float32)
SETTINGS = [
    {"surrogate": rescaled(shape, half_width=width), "lr": lr, "power": 2}
    for shape in (Sigmoid(), Arctan())
    for width in (0.1, 0.4)
    for lr in (0.1, 0.3)
]
traced = []


@pytest.fixture(autouse=True, scope="module")
def optax_promotes():
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # of all threads
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


def loss(weight, batch, key, setting):
    traced.append(setting)
    x, y = batch
    noise = 0.1 * jax.random.normal(key, x.shape)
    spikes = setting["surrogate"]((x + noise) @ weight - 1.0)
    return (jnp.abs(spikes - y) ** setting["power"]).mean(), {"rate": spikes.mean()}


def start(key, setting):
    return jax.random.normal(key, (3,))


def test_only_one_run_compiles_the_shared_program(monkeypatch):
    """The first call of a program compiles it. Other runs wait for this call, and then run at the same time."""
    running, most, both = [], [], threading.Barrier(2, timeout=10)

    def advance(number):
        running.append(number)
        most.append(len(running))
        if number:  # after the first call
            both.wait()
        else:
            time.sleep(0.1)
        running.remove(number)

    @dataclasses.dataclass
    class Program:
        advance: object
        bound: object = None

    monkeypatch.setattr("spikegrad.training._sweep.compiled", lambda *_: Program(advance))
    program = _Programs(loss, optax.sgd(0.1), {"lr": 0.1}, 1, lambda *_: None).call({"lr": 0.2})
    first, *others = (threading.Thread(target=program.advance, args=(number,)) for number in range(3))
    first.start()
    while not running:
        time.sleep(0.001)
    for thread in others:
        thread.start()
    for thread in (first, *others):
        thread.join()
    assert most[0] == 1
    assert max(most) == 2  # the two that waited, and never the first with one of them


def batches(seed):
    return ShuffledBatches((X, Y), 8, seed)


def adam(setting):
    return optax.adam(setting["lr"])


def run(settings=SETTINGS, loss=loss, **options):
    given = {"optimizer": adam, "seeds": (3, 4), "epochs": 3, "updates_per_call": 2}
    given["score"] = lambda weight, setting: {"weight": weight}
    return sweep(loss, start, batches, settings, **given | options)


def of(results):
    """By setting and seed, whatever their order, and without the time they took."""
    return {(r["surrogate"], r["lr"], r["seed"]): {**r, "seconds": 0} for r in results}


def test_each_run_is_that_of_fit_and_each_shape_is_compiled_once():
    traced.clear()
    results = of(run(jobs=1))
    assert len(traced) == 4  # of two shapes; that of what a loss returns is asked for once more
    assert len(results) == 16
    assert of(run(jobs=3)) == results  # to the bit
    for setting, seed in ((SETTINGS[0], 3), (SETTINGS[7], 4)):
        alone = dict(setting)
        lr = alone.pop("lr")
        state = fit(
            lambda *arguments, alone=alone: loss(*arguments, alone),
            start(jax.random.key(seed), setting),
            batches(seed),
            optimizer=optax.adam(lr),
            key=jax.random.key(seed),
            epochs=3,
            updates_per_call=2,
        )
        found = results[repr(setting["surrogate"]), lr, seed]
        np.testing.assert_allclose(found["weight"], state.trainable, rtol=1e-5)
        assert found["step"] == state.step == 15


def test_parallel_runs_compile_each_program_once():
    traced = []

    def power(weight, batch, key, setting):
        traced.append(threading.get_ident())
        time.sleep(0.1)  # in which the other runs would begin to trace it too
        return (batch[0] @ weight - batch[1]).mean() ** setting["power"], {}

    settings = [{"lr": lr, "power": power} for power in (2, 4) for lr in (0.1, 0.3)]
    results = list(sweep(power, start, batches, settings, optimizer=adam, seeds=(3, 4), steps=2, jobs=4))
    assert len(results) == 8
    assert len(traced) == 2


def test_programs_take_turns():
    order = [(setting["surrogate"], setting["lr"]) for setting in SETTINGS[::4] + SETTINGS[1::4]]
    begun = []

    def callbacks(setting, seed):
        begun.append((setting["surrogate"], setting["lr"]))
        return ()

    settings = [SETTINGS[i] for i in (0, 1, 4, 5)]  # two of each shape
    list(run(settings, seeds=[3], steps=1, jobs=1, callbacks=callbacks))
    assert begun == order


def test_a_sweep_that_was_killed_is_gone_on_with(tmp_path):
    path = tmp_path / "runs.jsonl"
    whole = of(run(path=path))
    lines = path.read_text().splitlines()
    assert of(map(json.loads, lines)) == whole
    with pytest.raises(FileExistsError, match="already exists; pass resume=True"):
        run(path=path)
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])
    begun = []
    again = list(run(path=path, resume=True, callbacks=lambda setting, seed: begun.append((setting, seed)) or ()))
    known = [json.loads(line) for line in lines[:5]]
    assert all(result in known for result in again[:5])
    assert of(again) == whole  # to the bit
    assert len(begun) == 11
    assert of(map(json.loads, path.read_text().splitlines())) == whole
    few = list(run(SETTINGS[:1], path=path, resume=True, seeds=(4, 3), callbacks=lambda *_: pytest.fail("made again")))
    assert [result["seed"] for result in few] == [4, 3]
    assert len(path.read_text().splitlines()) == 16


def test_closing_the_results_ends_the_runs(tmp_path):
    path, threads, steps = tmp_path / "runs.jsonl", threading.active_count(), [0]

    def quick(now):
        return now.step >= 4

    def callbacks(setting, seed):
        return [quick if (setting, seed) == (SETTINGS[0], 3) else lambda now: steps.append(now.step)]

    results = run(path=path, epochs=10**4, seeds=range(3, 200), jobs=2, callbacks=callbacks)
    assert next(results)["step"] == 4  # of a run that its own callback has ended
    results.close()
    assert threading.active_count() == threads
    assert len(path.read_text().splitlines()) == 1
    assert max(steps) < 5 * 10**4  # the run under way did not come to its end
    asked = iter([False] * 5 + [True] * 10**6)
    assert len(list(run(epochs=10**6, jobs=1, stop=lambda: next(asked)))) == 0


def test_divergence_is_a_result():
    results = list(run([{**SETTINGS[0], "lr": lr} for lr in (0.1, np.inf)], seeds=[3]))
    good, bad = sorted(results, key=lambda result: result["diverged"] or "")
    assert good["diverged"] is None
    assert "the loss is nan at update 2" in bad["diverged"]
    np.testing.assert_allclose(bad["weight"], start(jax.random.key(3), None), rtol=1e-6)  # the last good state


def test_an_error_of_ones_own_comes_through():
    def bad(trainable, setting):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        list(run(score=bad))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": [{"a": np.arange(3)}]}, "unhashable"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"loss": lambda weight, batch, key: 0}, r"sweep: loss must take \(trainable, batch, key, setting\), got"),
        ({"seeds": [0.5]}, "float"),
    ],
)
def test_sweep_rejects_invalid_arguments_before_any_run(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        next(run(**change))


# --- the command ---

QUICK = ["--data", "digits", "--epochs", "2", "--hidden", "16", "--steps", "4", "--quiet"]
GRID = ["--surrogate", "arctan,rescaled(sigmoid(4), peak=1)", "--half-width", "0.2:0.4:x2", "--lr", "0.02"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "out"
    assert main(["sweep", *QUICK, *GRID, "--seeds", "2", "--seed", "5", "-o", str(folder)]) == 0
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_a_sweep_is_written_in_full(swept):
    assert {path.name for path in swept.iterdir()} == {"runs.jsonl", "sweep.json", "figure.png"}
    assert (swept / "figure.png").read_bytes().startswith(b"\x89PNG")
    results, record = lines(swept), json.loads((swept / "sweep.json").read_text())
    assert len(results) == 2**3
    assert {(r["surrogate"], r["half_width"], r["lr"], r["seed"]) for r in results} == {
        (s, w, 0.02, seed) for s in ("arctan", "rescaled(sigmoid(4), peak=1)") for w in (0.2, 0.4) for seed in (5, 6)
    }
    rows = record["results"]["settings"]
    for row in rows:
        mine = [r for r in results if all(r[name] == value for name, value in row["setting"].items())]
        for name in ("validation", "test"):
            values = [r[name] for r in mine]
            assert row[name] == pytest.approx([sum(values) / 2, abs(values[0] - values[1]) / 2**0.5])
    assert record["results"]["best"] == max(rows, key=lambda row: row["validation"][0])


def test_a_run_of_the_command_is_that_of_train_alone(swept):
    data, validation = sources.for_validation(load("digits", 5), 0.1, 5)
    setting = {"surrogate": "arctan", "half_width": 0.4, "lr": 0.02, "seed": 6}
    found = next(r for r in lines(swept) if setting.items() <= r.items())  # they stand as they ended
    network = SpikingNetwork((64, 16, 10), LIF(surrogate=rescaled(Arctan(), half_width=0.4)), 4, "current", high=16.0)
    params = network.init(jax.random.key(6))
    alone = trainer.fit(network, params, data, options(encoding="current", epochs=2, batch=128, lr=0.02, seed=6))
    assert found["loss"] == pytest.approx(alone.curves["loss"][-1], rel=1e-4)
    assert found["accuracy"] == pytest.approx(alone.curves["accuracy"][-1], abs=2 / 1300)
    assert found["test"] == pytest.approx(alone.scores.accuracy(data.test.y), abs=2 / 359)
    scores = trainer.make_evaluator(network)(alone.params, validation.test)
    assert found["validation"] == pytest.approx(scores.accuracy(validation.test.y), abs=2 / 143)


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
        (["--resume", str(folder), "--epochs", "3"], "remove --epochs"),
        (["--resume", str(tmp_path)], "sweep.json is missing"),
        ([*QUICK, "-o", str(folder)], "is not empty"),
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
        [result("a", 0, 0.9, 0.1), result("b", 0, 0.8, 0.99), result("a", 1, 0.7, 0.3), result("b", 1, 0.75, 0.99)]
    )
    chosen = sweeping.best(rows)
    assert chosen.setting["surrogate"] == "a"
    assert chosen.test == pytest.approx((0.2, np.std([0.1, 0.3], ddof=1)))
    assert chosen.n == 2


def test_means_do_not_depend_on_which_run_ended_first():
    results = [result("arctan", seed, v, 1 - v) for seed, v in enumerate(np.random.default_rng(0).random(9))]
    (expected,) = summaries(results)
    assert all(summaries(results[n:] + results[:n]) == [expected] for n in range(9))


RECORD = {"options": {"data": "mine"}, "data": {"test": 9, "test_from": "the test set", "classes": 10}}


@pytest.mark.parametrize(
    ("validation", "line"),
    [
        (0.5, "best by validation: surrogate arctan, with 40.0 % of the test set, one run"),
        (0.1, "no setting learned: the highest validation accuracy, 10.0 %, is close to guessing one of 10 classes"),
    ],
)
def test_guessing_is_not_called_best(validation, line):
    rows = summaries([result("arctan", 0, validation, 0.4)])
    assert tables.sweep(rows, ["surrogate"], RECORD, 9)[-1] == line


def test_no_surrogate_is_cut_off_on_a_narrow_screen(capsys):
    spec = "snntorch.fast_sigmoid(slope=25.0)"
    rows = summaries([result(spec, 0, 0.9, 0.1), result(spec, 1, 0.7, 0.3)])
    for table in tables.sweep(rows, ["surrogate", "peak", "half_width", "lr"], RECORD, 9)[:2]:
        Console(width=80).print(table)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        cells = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
        assert "".join(cells) == spec


@pytest.mark.parametrize("at", [0, 5])
def test_heat_map_shows_each_mean_and_frames_the_best(at):
    lrs, specs = (0.01, 0.02, 0.04), ("arctan", "sigmoid")
    accuracies = np.linspace(0.2, 0.7, 6)
    accuracies[at] = 0.9
    pairs = [(spec, lr) for spec in specs for lr in lrs]
    rows = summaries([{**result(spec, 0, v, 0.5), "lr": lr} for (spec, lr), v in zip(pairs, accuracies, strict=True)])
    panel = sweep_figure(rows, sweeping.best(rows), "mine").axes[0]
    (image,), (frame,) = panel.get_images(), panel.patches
    np.testing.assert_allclose(image.get_array(), 100 * accuracies.reshape(2, 3))
    assert np.add(frame.get_xy(), 0.5).tolist() == [at % 3, at // 3]
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
    rest, validation = sources.for_validation(data, 0.1, 3)
    trained_on, chosen_by = (part.padded().ravel().astype(int) for part in (rest.train, validation.test))
    assert sorted([*trained_on, *chosen_by]) == list(range(len(y)))
    assert rest.test is data.test
    assert validation.train is rest.train
    assert np.array_equal(y[chosen_by], validation.test.y)
    assert np.array_equal(y[trained_on], rest.train.y)
    share = np.bincount(validation.test.y) / np.bincount(y)
    assert abs(share - 0.1).max() < 0.005
    assert not np.array_equal(chosen_by, sources.for_validation(data, 0.1, 4)[1].test.padded().ravel())
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
    text = "sigmoid, snntorch.fast_sigmoid(slope=25),relu_grad(alpha=0.3, width=1),sigmoid"
    specs = ("sigmoid", "snntorch.fast_sigmoid(slope=25)", "relu_grad(alpha=0.3, width=1)")
    assert sweeping.parse_surrogates(text) == specs
