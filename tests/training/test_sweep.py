"""Sweeps: each run is that of ``fit`` alone, and results survive a kill."""

import importlib
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spikegrad import Arctan, Sigmoid, rescaled
from spikegrad.training import ShuffledBatches, fit, sweep

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


pytestmark = pytest.mark.usefixtures("default_promotion")  # of all threads


def loss(weight, batch, key, setting):
    traced.append(setting)
    x, y = batch
    noise = 0.1 * jax.random.normal(key, x.shape)
    spikes = setting["surrogate"]((x + noise) @ weight - 1.0)
    return (jnp.abs(spikes - y) ** setting["power"]).mean(), {"rate": spikes.mean()}


def start(key, setting):
    return jax.random.normal(key, (3,))


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


@pytest.mark.slow
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
    results = list(
        sweep(power, start, batches, settings, optimizer=adam, seeds=(3, 4), steps=2, jobs=4)
    )
    assert len(results) == 8
    assert len(traced) == 2


@pytest.mark.slow
def test_a_sweep_that_was_killed_is_gone_on_with(tmp_path):
    path = tmp_path / "runs.jsonl"
    whole = of(run(path=path))
    lines = path.read_text().splitlines()
    assert of(map(json.loads, lines)) == whole
    with pytest.raises(FileExistsError, match=r"already exists\. Pass resume=True"):
        run(path=path)
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])
    begun = []
    again = list(
        run(
            path=path,
            resume=True,
            callbacks=lambda setting, seed: begun.append((setting, seed)) or (),
        )
    )
    known = [json.loads(line) for line in lines[:5]]
    assert all(result in known for result in again[:5])
    assert of(again) == whole  # to the bit
    assert len(begun) == 11
    assert of(map(json.loads, path.read_text().splitlines())) == whole
    few = list(
        run(
            SETTINGS[:1],
            path=path,
            resume=True,
            seeds=(4, 3),
            callbacks=lambda *_: pytest.fail("made again"),
        )
    )
    assert [result["seed"] for result in few] == [4, 3]
    assert len(path.read_text().splitlines()) == 16


def test_closing_the_results_ends_the_runs(tmp_path):
    path, threads, steps = tmp_path / "runs.jsonl", threading.active_count(), [0]

    def quick(now):
        return now.step >= 4

    def callbacks(setting, seed):
        return [
            quick if (setting, seed) == (SETTINGS[0], 3) else lambda now: steps.append(now.step)
        ]

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
    np.testing.assert_allclose(
        bad["weight"], start(jax.random.key(3), None), rtol=1e-6
    )  # the last good state


def test_an_error_of_ones_own_comes_through():
    def bad(trainable, setting):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        list(run(score=bad))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": [{"a": np.arange(3)}]}, "unhashable"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"jobs": 0}, "jobs must be >= 1, got 0"),
        ({"seeds": [0.5]}, "float"),
        (
            {"loss": lambda weight, batch, setting: (weight.sum(), {})},
            r"loss must take \(trainable, batch, key, se",
        ),
    ],
)
def test_sweep_rejects_invalid_arguments_before_any_run(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        next(run(**change))
