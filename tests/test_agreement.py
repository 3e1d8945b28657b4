"""The benchmark of agreement between gradients: its estimates where the truth is known, and what its page says."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from spikegrad import LIF, Sigmoid, soft

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import agreement

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "agreement.json"
QUICK_COMPILATION = True
SMALL = {"size": 8, "batch": 4}


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_potentials_vary_by_a_threshold():
    """What the weights are drawn for, in every layer: potentials without resets, over time and examples."""
    weights, x, _ = agreement.draw(jax.random.key(0), depth=2, steps=200)
    for w in weights[:2]:
        v, potentials = 0.0, []
        for current in np.asarray(x @ w, np.float64):
            v = agreement.DECAY * v + current
            potentials.append(v)
        away = np.square(potentials[50:]).mean() ** 0.5  # of zero: a neuron's mean is drawn as well
        assert 0.5 < np.std(potentials[50:]) <= away < 2.5
        x = agreement.neurons(LIF(agreement.DECAY))(w, x)


def test_cosines_and_ratios():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 7))
    found = agreement.compared([a, 3 * b], [b, b])
    each = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
    assert found["cosine"] == pytest.approx([np.mean(each), 1], abs=1e-3)
    assert found["error"] == pytest.approx([np.std(each, ddof=1) / 5**0.5, 0], abs=1e-3)
    sizes = [np.log(np.linalg.norm(x) / np.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    assert found["ratio"] == pytest.approx([np.exp(np.mean(sizes)), 3], rel=1e-3)
    silent = agreement.compared([0 * a], [b])
    assert silent["cosine"] == [None]
    assert silent["ratio"] == [0.0]


def test_estimates_lose_their_own_noise():
    """Of halves that are the truth and twice as much noise, the cosine and the ratio are those of the truth."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(20, 5000))
    got = true + rng.normal(size=true.shape)
    halves = [[true + 2 * rng.normal(size=true.shape)] for _ in range(2)]
    found, exact = agreement.against_estimates([got], halves, [np.ones(20)]), agreement.compared([got], [true])
    assert found["cosine"][0] == pytest.approx(exact["cosine"][0], abs=0.03)
    assert found["ratio"][0] == pytest.approx(exact["ratio"][0], rel=0.03)
    mean = agreement.compared([got], [(halves[0][0] + halves[1][0]) / 2])
    assert mean["cosine"][0] < exact["cosine"][0] - 0.2  # as they are, they would not


def test_antithetic_pairs_find_the_gradient_of_a_smooth_loss():
    """With soft spikes it is known, but for what the noise rounds off."""
    layer = agreement.neurons(LIF(agreement.DECAY, surrogate=soft(Sigmoid(2.0))))
    data = agreement.draw(jax.random.key(3), 2, 5, **SMALL)

    @jax.jit
    def both(data):
        exact = jax.grad(lambda weights: agreement.loss(weights, *data[1:], layer)[0])(data[0])
        return exact, agreement.smoothed_gradient(data, layer, spread=0.05, pairs=4096)

    exact, halves = jax.tree.map(lambda g: agreement.flat(g[None]), both(data))
    for n, g in enumerate(exact):
        (a, b), size = (half[n] for half in halves), np.linalg.norm(g)
        assert abs((g * (a + b)).sum() / (2 * size**2) - 1) < 0.1
        assert abs((a * b).sum() / size**2 - 1) < 0.15
        assert np.linalg.norm((a + b) / 2 - g) < 0.5 * size


@pytest.fixture(scope="module")
def published():
    return json.loads(RESULTS.read_text())["rows"]
