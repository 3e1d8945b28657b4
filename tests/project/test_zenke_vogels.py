"""Zenke and Vogels 2021: the network of the paper, and the results that the page shows."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, few

from spikegrad._pytree import jsonable

sys.path.insert(0, str(ROOT / "benchmarks"))
import zenke_vogels as task
from zenke_vogels import Grid

KEPT = ROOT / "benchmarks" / "results" / "zenke-vogels.json"
examples = functools.cache(task.examples)


pytestmark = [pytest.mark.usefixtures("default_promotion"), pytest.mark.slow]


@pytest.fixture(scope="module")
def some():
    """Few examples, ``(n, steps, inputs)`` and labels."""
    x, y, _ = examples(20)[0].as_batch()
    return np.moveaxis(x, 1, 0), y


def reference(weights, x):
    """The paper's equations, in NumPy and float64: logits, hidden spikes and the potentials before
    them, of a sequence ``(steps, inputs)``.
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
    logits, spikes = jax.jit(
        lambda w: task.run(w, jnp.moveaxis(x, 0, 1), task.SHAPES["Esser"](3.0), False)
    )(weights)
    for n, example in enumerate(x):
        expected, fired, _ = reference(weights, example)
        assert fired.any()
        np.testing.assert_array_equal(spikes[:, n], fired)
        np.testing.assert_allclose(logits[n], expected, rtol=1e-12, atol=1e-14)


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
    assert results["laws"] == [
        law._asdict() for law in task.laws(results["rows"], results["at_length"])
    ]


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
