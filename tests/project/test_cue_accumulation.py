"""Cue accumulation: the network against NumPy, and the kept results."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, enable_x64

sys.path.insert(0, str(ROOT / "benchmarks"))
import cue_accumulation as task

pytestmark = [pytest.mark.usefixtures("default_promotion"), pytest.mark.slow]

KEPT = ROOT / "benchmarks" / "results" / "cue-accumulation.json"
STEPS = 160


def reference(weights, x, adaptive):
    """The equations in NumPy: outputs and spikes of all steps."""
    to_hidden, recurrent, to_readout = (np.asarray(w) for w in weights)
    recurrent = recurrent * (1 - np.eye(100))
    alpha, rho = np.exp(-1 / 20), np.exp(-1 / 2000)
    beta = np.where(np.arange(100) < 100 - adaptive, 0, 1.7 * (1 - rho) / (1 - alpha))
    v, a, s, o = (np.zeros((x.shape[1], n)) for n in (100, 100, 100, 2))
    rest = np.zeros_like(v)
    outputs, spikes = [], []
    for now in x:
        u = np.where(rest > 0, v, alpha * v + now @ to_hidden + s @ recurrent)
        s = ((u >= 0.6 + a) & (rest == 0)) * 1.0
        v, a = u - 0.6 * s, rho * a + beta * s
        rest = np.where(s > 0, 4, np.maximum(rest - 1, 0))
        o = alpha * o + (1 - alpha) * s @ to_readout
        outputs.append(o)
        spikes.append(s)
    return np.array(outputs), np.array(spikes)


@pytest.mark.parametrize(
    ("adaptive", "gradient"), [(50, "e-prop"), pytest.param(0, "all", marks=pytest.mark.every)]
)
def test_the_network_is_its_equations(adaptive, gradient):
    x = np.random.default_rng(0).random((STEPS, 3, 40)) < 0.03
    y = np.array([0, 1, 1])
    with enable_x64():
        weights = task.start(jax.random.key(0))
        setting = {"adaptive": adaptive, "gradient": gradient}
        value, found = jax.jit(
            lambda w: task.loss(w, (jnp.asarray(x), jnp.asarray(y)), None, setting)
        )(weights)
        outputs, spikes = map(
            np.asarray, jax.jit(lambda w: task.run(w, jnp.asarray(x), adaptive, gradient))(weights)
        )
    expected, all_spikes = reference(weights, x, adaptive)
    assert 0.01 < all_spikes.mean() < 0.2
    assert (spikes == all_spikes).all()
    expected = expected[-150:]
    assert outputs == pytest.approx(expected, abs=1e-9)
    log_shares = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
    rates = all_spikes.mean((0, 1))
    of_classes = -log_shares[:, np.arange(3), y].mean()
    assert value == pytest.approx(of_classes + ((rates - 0.01) ** 2).sum(), rel=1e-9)
    assert found["error"] == pytest.approx((expected.mean(0).argmax(-1) != y).mean())


def test_kept_results_show_the_need_of_adaptation():
    kept = json.loads(KEPT.read_text())
    adaptive, alone = kept["rows"]
    assert {row["seeds"] for row in kept["rows"]} == {kept["size"]["seeds"]}
    assert adaptive["max"] < 0.07
    assert alone["min"] > 0.4
