"""Weights drawn for a network that is built: what each source adds to a potential, simulated in
NumPy.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises, observed

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network, Window
from spikegrad.network import DelayKernel, draw_weights

N, STEPS = 150, 60
KEY = jax.random.key(3)
SPIKES = jnp.asarray(np.random.default_rng(0).random((STEPS, 20, N)) < 0.1)
ZEROS, ONES = jnp.zeros((N, N)), jnp.ones(N)
CELL = LIF(0.9)


def leaked(current, decay=0.9):
    """The potential without spikes."""
    u, out = np.zeros(current.shape[1:]), []
    for one in np.asarray(current, np.float64):
        u = decay * u + one
        out.append(u)
    return np.stack(out)


def later(x, lag):
    return (
        np.concatenate([np.zeros_like(x[:lag]), np.asarray(x, float)[:-lag]])
        if lag
        else np.asarray(x, float)
    )


@functools.cache
def network():
    sources = {"stem": ZEROS, "input": Delayed(ZEROS, 3), "top": Delayed(ZEROS, 2)}
    built = Network(
        {
            "stem": Layer(ZEROS, CELL),
            "branch": Layer(sources, CELL, bias=ONES),
            "window": Layer(Window(jnp.zeros((3, N, N))), CELL, recurrent=ZEROS, of="branch"),
            "top": Layer({"branch": ZEROS}, CELL),
            "sum": Join(lambda a, b: a + b, ("window", "top")),
            "out": Layer(ZEROS, LeakyReadout(0.9)),
        }
    )

    @jax.jit
    def run():
        drawn = draw_weights(built, KEY, SPIKES)
        return drawn, {**observed(drawn, SPIKES)[1]}

    drawn, outs = run()
    return jax.tree.map(np.asarray, drawn), {
        **jax.device_get(outs),
        "input": np.asarray(SPIKES, float),
    }


def of_std(potential, wanted, rel=0.15):
    """About: neurons that fire together give potentials that differ more from draw to draw."""
    assert potential.std() == pytest.approx(wanted, rel=rel)


@pytest.mark.slow
def test_each_source_has_its_share_of_the_variance():
    drawn, outs = network()
    layers = drawn.layers
    of_std(
        leaked(outs["input"] @ layers["stem"].weight), 1.0, rel=0.03
    )  # of independent inputs, and without a loop
    branch = layers["branch"].weight
    of_std(leaked(outs["stem"] @ branch["stem"]), 0.45**0.5)  # 0.9 for two sources
    of_std(leaked(later(outs["input"], 3) @ branch["input"].weight), 0.45**0.5)
    window = layers["window"]
    for lag in range(3):
        of_std(leaked(later(outs["branch"], lag) @ window.weight.weight[lag]), 0.3**0.5)
    of_std(leaked(outs["sum"] @ layers["out"].weight), 1.0)
    np.testing.assert_array_equal(layers["branch"].bias, ONES)


@pytest.mark.slow
def test_loops_have_a_tenth_of_the_variance():
    """By the outputs of the loop before its delayed edges have weights."""
    drawn, outs = network()
    branch = drawn.layers["branch"].weight["top"].weight
    # about: with these weights the loop fires at other times
    of_std(leaked(later(outs["top"], 2) @ branch), 0.1**0.5, rel=0.35)
    of_std(leaked(later(outs["window"], 1) @ drawn.layers["window"].recurrent), 0.1**0.5, rel=0.35)


@pytest.mark.slow
def test_parts_add_up_over_draws_for_correlated_sources():
    """One signal for all inputs, which hardly changes between lags: the largest scatter of single
    draws.
    """
    n, draws = 20, 200
    signal = np.repeat(np.random.default_rng(1).random((6, 4, 1)) < 0.5, 10, 0)
    x = np.broadcast_to(signal, (60, 4, n)).astype(np.float32)
    zeros = jnp.zeros((n, n))
    built = Network(
        {"a": Layer({"x": zeros, "y": Window(jnp.zeros((3, n, n)))}, CELL)}, inputs=("x", "y")
    )

    def weights(key):
        weight = draw_weights(built, key, {"x": x, "y": x}).layers["a"].weight
        return jnp.concatenate([weight["x"][None], weight["y"].weight])

    drawn = np.asarray(jax.jit(jax.vmap(weights))(jax.random.split(KEY, draws)), np.float64)
    parts = [
        leaked(np.einsum("tbi,dij->tdbj", later(x, lag), drawn[:, n]))
        for n, lag in enumerate((0, 0, 1, 2))
    ]
    for potential, wanted in ((parts[0], 0.25), (sum(parts[1:]), 0.75), (sum(parts), 1.0)):
        variances = (potential**2).mean(
            (0, 2, 3)
        )  # of each draw: a chi-squared with a degree for each neuron
        assert variances.std() == pytest.approx(wanted * (2 / n) ** 0.5, rel=0.3)
        assert variances.mean() == pytest.approx(wanted, abs=3 * variances.std() / draws**0.5)


@pytest.mark.slow
def test_lists_kernels_of_delays_and_a_deviation_for_each_layer():
    kernel = DelayKernel(ZEROS, jnp.full((N, N), 2.0), length=5, width=0.0)
    wide = dataclasses.replace(kernel, width=jnp.array(1.0))
    networks = (
        Network({"a": Layer(Window(kernel), CELL)}),
        Network({"a": Layer(Window(wide), LIF(0.2))}),
        Network([Layer(ZEROS, CELL, ZEROS), Layer(lambda x: x, CELL)]),
        Network({"top": Layer(ZEROS, CELL), "out": Layer(ZEROS, LeakyReadout(0.9))}),
    )

    @jax.jit
    def run():
        stds = None, None, None, {"top": 0.5, "out": 3.0}
        drawn = [
            draw_weights(network, KEY, SPIKES, std=std)
            for network, std in zip(networks, stds, strict=True)
        ]
        currents = observed(drawn[3], SPIKES)[1]["top"] @ drawn[3].layers["out"].weight
        return drawn, jnp.asarray(drawn[1].layers["a"].weight.weight), currents

    (drawn, _, chain, two), parts, currents = run()
    spikes, new = np.asarray(SPIKES, float), drawn.layers["a"].weight.weight
    of_std(leaked(later(SPIKES, 2) @ new.weight), 1.0)
    assert jnp.array_equal(new.delay, kernel.delay)
    of_std(leaked(sum(later(SPIKES, lag) @ parts[lag] for lag in range(5)), 0.2), 1.0)
    of_std(leaked(spikes @ chain.layers[0].weight), 0.9**0.5)
    assert chain.layers[0].recurrent.std() > 0
    of_std(leaked(spikes @ two.layers["top"].weight), 0.5, rel=0.03)
    of_std(leaked(currents), 3.0)


@pytest.mark.slow
def test_bad_input():
    w, x = jnp.zeros((4, 4)), SPIKES[:5, :2, :4] | True
    silent = Network({"a": Layer(w, LIF(threshold=50.0)), "b": Layer(w, LIF())})
    refused = {
        "ValueError: Network: layer 'b': fluctuation_driven: inputs must be finite and not all 0": (
            KEY,
            0.1,
        ),
        "ValueError: draw_weights: std must name layers of ['a', 'b'], got ['c']": (
            KEY,
            {"c": 1.0},
        ),
        "TypeError: draw_weights: key must be": (3, 0.1),
    }
    for message, (key, std) in refused.items():
        assert_raises(lambda key=key, std=std: draw_weights(silent, key, x, std=std), message)
