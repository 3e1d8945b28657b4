"""Zenke and Vogels 2021: the paper's network, its exact laws, and the results that are kept, which the page shows."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, few

from spikegrad._compat import in_double_precision
from spikegrad._pytree import jsonable

sys.path.insert(0, str(ROOT / "benchmarks"))
import zenke_vogels as task
from zenke_vogels import Condition, Grid

KEPT = ROOT / "benchmarks" / "results" / "zenke-vogels.json"
examples = functools.cache(task.examples)
HARD = Condition(recurrent=False, detached=False, asymptotic=True)


pytestmark = pytest.mark.usefixtures("default_promotion")


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
