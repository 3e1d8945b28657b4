"""Binary adding: its surrogates against the published formulas, its sizes, and the kept results."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import binary_adding as task

pytestmark = [pytest.mark.usefixtures("default_promotion"), pytest.mark.slow]

KEPT = ROOT / "benchmarks" / "results" / "binary-adding.json"


def gaussian(x, mean, deviation):
    return np.exp(-(((x - mean) / deviation) ** 2) / 2) / deviation / np.sqrt(2 * np.pi)


SOURCE = {  # functions of the distance to the threshold, with the width 0.4
    "rectangle": lambda x: (abs(x) < 0.2) * 1.0,
    "triangle": lambda x: np.maximum(0.4 - abs(x), 0) / 0.4**2,
    "multi-Gaussian": lambda x: (
        0.2
        * (
            1.15 * gaussian(x, 0, 0.2)
            - 0.15 * gaussian(x, 0.2, 1.2)
            - 0.15 * gaussian(x, -0.2, 1.2)
        )
    ),
    "sigmoid": lambda x: 10 / (2 + np.exp(10 * x) + np.exp(-10 * x)),
    "arctan": lambda x: 2.5 / (1 + (2 / np.pi * 5 * x) ** 2),
}


@pytest.mark.parametrize("name", SOURCE)
def test_surrogates_are_those_of_the_source(name):
    x = np.linspace(-1, 1, 42)
    slope = jax.vmap(jax.grad(task.SURROGATES[name]))(jnp.asarray(x, jnp.float32))
    assert slope == pytest.approx(SOURCE[name](x), rel=1e-4, abs=1e-6)


def of(neuron, recurrent, surrogate="rectangle"):
    (found,) = (
        one
        for one in task.networks(task.Size())
        if (one["neuron"], one["recurrent"], one["surrogate"]) == (neuron, recurrent, surrogate)
    )
    return found


@pytest.mark.parametrize(("recurrent", "published"), [(True, 34_698), (False, 18_186)])
def test_it_has_the_published_number_of_parameters(recurrent, published):
    parameters = jax.eval_shape(
        lambda key: task.start(key, of("LIF", recurrent)), jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters)) == published


def test_kept_results_are_those_of_the_script():
    kept = json.loads(KEPT.read_text())
    assert kept["size"] == dataclasses.asdict(task.Size())
    assert kept["rank correlations"] == pytest.approx(task.correlations(kept["rows"]))
    settings = task.networks(task.Size())
    for row in kept["rows"]:
        assert {name: row[name] for name in settings[0]} in settings
        assert row["seeds"] == task.Size().seeds
        assert row["min"] <= row["mean"] <= row["max"]
