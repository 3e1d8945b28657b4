"""Widths by the potential: against its standard deviation in NumPy, once and while training, compiled once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import compilations, few
from networks import observed

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    InvSquareGrad,
    Layer,
    LeakyReadout,
    LeakyRelu,
    Network,
    Sigmoid,
    SynapticLIF,
    learnable,
    measure,
    shifted,
    stochastic,
    stretched,
)
from spikegrad.network import match_widths
from spikegrad.neurons import Refractory
from spikegrad.training import AdaptWidths, Checkpoints, State, combine, fit, partition

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
X = (RNG.random((12, 6, 5)) < 0.3).astype(np.float32)
MASK = np.arange(12)[:, None] < np.array([12, 3, 7, 12, 1, 9])


def weight(n, m, scale=1.0):
    return jnp.asarray(scale * RNG.normal(size=(n, m)), jnp.float32)


def surrogate_of(cell):
    return getattr(cell, "cell", cell).surrogate


def network():
    return Network([
        Layer(weight(5, 8, 0.6), Refractory(AdaptiveLIF(surrogate=learnable(Arctan(5.0))), 2)),
        Layer(weight(8, 7, 2.0), SynapticLIF(threshold=jnp.linspace(0.5, 2, 7), surrogate=0.5 * Sigmoid(8.0))),
        Layer(weight(7, 2), LeakyReadout()),
    ])  # fmt: skip


def deviations(network, mask):
    """Of the distance to the threshold of each layer that has a surrogate here."""
    one, two, _ = observed(network, X, mask=mask)[2].values()
    ((u, a), _), (v, _) = jax.tree.map(np.asarray, (one, two))
    there = np.ones(X.shape[:2], bool) if mask is None else mask
    return [np.asarray(d, np.float64)[there].std() for d in (u - a - 1, v - np.linspace(0.5, 2, 7)[None, None])]


@pytest.mark.parametrize("keep", few(["peak", "area"], "area"))
def test_slopes_are_as_wide_as_potentials_are_spread(keep):
    mask = MASK if keep == "area" else None
    before = network()
    after = match_widths(before, X, ratio=0.7, keep=keep, mask=mask)
    assert after.layers[2].cell == before.layers[2].cell
    for n, deviation in enumerate(deviations(before, mask)):
        old, new = (measure(surrogate_of(net.layers[n].cell)) for net in (before, after))
        assert new.half_width == pytest.approx(0.7 * deviation, rel=1e-5)
        assert getattr(new, keep) == pytest.approx(getattr(old, keep), rel=1e-5)
        assert getattr(new, "area" if keep == "peak" else "peak") != pytest.approx(getattr(old, keep), rel=0.1)
    assert surrogate_of(after.layers[0].cell).learn
    np.testing.assert_array_equal(before(X, mask=mask)[1], after(X, mask=mask)[1])
    again = match_widths(match_widths(after, 2 * X, keep=keep), X, ratio=0.7, keep=keep, mask=mask)
    assert jax.tree.structure(again) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("surrogate", "keep"),
    [
        (3.0 * stretched(Arctan(3.0), jnp.array(2.0)), "area"),
        pytest.param(stretched(Arctan(3.0), 2.0), "area", marks=pytest.mark.every),
        (shifted(Arctan(), 1.0), "peak"),
    ],
)
def test_curves_that_have_been_stretched_or_shifted_before(surrogate, keep):
    one = Network([Layer(jnp.ones((5, 8)), LIF(surrogate=surrogate))])
    new = measure(match_widths(one, X, keep=keep).layers[0].cell.surrogate)
    assert new.half_width == pytest.approx(np.asarray(one.observe(X)[1][0].potential).std(), rel=1e-5)
    assert getattr(new, keep) == pytest.approx(getattr(measure(surrogate), keep), rel=1e-5)


def test_modules_with_functions_among_their_leaves():
    eqx = pytest.importorskip("equinox")
    module = eqx.filter_vmap(eqx.nn.MLP(5, 8, 4, 1, key=KEY))
    one = Network([Layer(module, LIF(surrogate=Arctan(3.0)))])
    new = measure(match_widths(one, X).layers[0].cell.surrogate)
    spread = jax.jit(lambda x: one.observe(x)[1][0].potential.std())(X)
    assert new.half_width == pytest.approx(float(spread), rel=1e-5)


def test_potentials_of_spikes_that_are_drawn_are_those_of_the_key():
    drawn = Network([Layer(weight(5, 8, 2.0), LIF(surrogate=stochastic(Arctan(3.0)))), Layer(weight(8, 6), LIF())])
    widths = []
    for seed in (1, 2):
        key = jax.random.key(seed)
        after = match_widths(drawn, X, key=key)
        for layer, u in zip(after.layers.values(), observed(drawn, X, key=key)[2].values(), strict=True):
            widths.append(measure(layer.cell.surrogate).half_width)
            assert widths[-1] == pytest.approx(np.asarray(u).std(), rel=1e-5)
    assert widths[1] != pytest.approx(widths[3], rel=1e-3)
    with pytest.raises(TypeError, match="key"):
        match_widths(drawn, X)


def test_what_has_no_spread_keeps_its_width():
    one = Network([Layer(jnp.zeros((5, 8)), LIF(surrogate=Arctan(3.0)))])
    after = match_widths(one, X)
    assert measure(after.layers[0].cell.surrogate) == measure(Arctan(3.0))
    wider = match_widths(Network([dataclasses.replace(one.layers[0], weight=jnp.ones((5, 8)))]), X)
    stays = match_widths(Network([dataclasses.replace(wider.layers[0], weight=jnp.zeros((5, 8)))]), X)
    assert stays.layers[0].cell == wider.layers[0].cell
    step = LIF(surrogate=lambda u: (u > 0).astype(u.dtype))  # with a derivative that is nobody's business
    assert match_widths(Network([Layer(jnp.ones((5, 8)), step)]), X).layers[0].cell.surrogate is step.surrogate


@pytest.mark.parametrize("keep", few(["peak", "area"], "area"))
def test_widths_follow_the_potentials_and_compile_nothing(keep, tmp_path):
    batches = [X[:, i : i + 2] for i in (0, 2, 4)]
    start = Network([
        Layer(weight(5, 8, 0.3), LIF(surrogate=InvSquareGrad(5.0))),
        Layer(lambda x: x @ jnp.ones((8, 2)), LeakyReadout()),
    ])  # fmt: skip
    trainable, static = partition(match_widths(start, X, ratio=2.0, keep=keep))
    adapt, optimizer, reports = AdaptWidths(static, X, ratio=2.0, keep=keep), optax.adam(0.1), []

    def loss(trainable, batch, key):
        return ((combine(trainable, static)(batch)[1] - 1) ** 2).mean(), {}

    def train(state, steps, *more):
        callbacks = [adapt, reports.append, *more]
        return fit(loss, state, batches, optimizer=optimizer, steps=steps, callbacks=callbacks)

    beginning, states = State.create(trainable, optimizer, KEY), []
    train(beginning, 1)
    reports.clear()
    assert (
        compilations(lambda: states.append(train(beginning, 3, Checkpoints(tmp_path)))) == 1
    )  # the update, of any fit
    state = train(states[0], 6)
    weights = [np.asarray(net.layers[0].weight) for net in (combine(state.trainable, static), start)]
    assert abs(weights[0] - weights[1]).max() > 0.05
    nets = [combine(report.state.trainable, static) for report in reports]
    widths = {float(jax.tree.leaves(net.layers[0].cell.surrogate)[-1]) for net in nets}
    assert len(widths) == 6
    for net in nets[2:5:2]:  # the callbacks after it are told of the widths that training goes on with
        found = measure(net.layers[0].cell.surrogate)
        spread = np.asarray(net.observe(X)[1][0].potential).std()
        assert found.half_width == pytest.approx(2 * spread, rel=1e-4)
        assert getattr(found, keep) == pytest.approx(getattr(measure(InvSquareGrad(5.0)), keep), rel=1e-4)
    again = train(Checkpoints(tmp_path).restore(beginning), 6)
    for a, b in zip(jax.tree.leaves(again.trainable), jax.tree.leaves(state.trainable), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_at_the_end_of_an_epoch():
    trainable, static = partition(match_widths(Network([Layer(weight(5, 8, 0.3), LIF())]), X))
    widths = []

    def loss(trainable, batch, key):
        return ((combine(trainable, static)(batch)[1] - 1) ** 2).mean(), {}

    def note(report):
        widths.append(float(combine(report.state.trainable, static).layers[0].cell.surrogate.width))

    callbacks = [AdaptWidths(static, X, each_epoch=True), note]
    fit(loss, trainable, [X, X], optimizer=optax.adam(0.1), key=KEY, epochs=2, callbacks=callbacks)
    assert widths[0] != widths[1] == widths[2] != widths[3]


def test_what_cannot_be():
    one = Network([Layer(weight(5, 8), LIF())])
    with pytest.raises(ValueError, match="match_widths: ratio must be > 0 and finite, got -1"):
        match_widths(one, X, ratio=-1)
    with pytest.raises(ValueError, match="match_widths: keep must be one of 'peak', 'area', got 'height'"):
        match_widths(one, X, keep="height")
    with pytest.raises(
        ValueError, match=r"match_widths: surrogate must have a finite half-width > 0, got LeakyRelu\(.*\)"
    ):
        match_widths(Network([Layer(weight(5, 8), LIF(surrogate=LeakyRelu()))]), X)

    def train(network, chosen=lambda path, leaf: True):
        trainable, static = partition(network, chosen)

        def loss(trainable, batch, key):
            return (combine(trainable, static)(batch)[1] ** 2).mean(), {}

        fit(loss, trainable, [X], optimizer=optax.sgd(0.1), key=KEY, callbacks=[AdaptWidths(static, X)])

    weights_alone = match_widths(one, X), lambda path, leaf: "weight" in path
    for network, chosen in ((one, lambda *_: True), weights_alone):
        with pytest.raises(ValueError, match="trainable contains no widths; call match_widths before partition"):
            train(network, chosen)
