"""Widths by the potential: against its standard deviation in NumPy, once and while training,
compiled once.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import compilations
from networks import assert_raises, observed

import spikegrad
from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    measure,
)
from spikegrad.network import match_widths
from spikegrad.neurons import MPBN, Izhikevich, Refractory
from spikegrad.training import AdaptWidths, Checkpoints, Report, State, combine, fit, partition

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
X = (RNG.random((12, 6, 5)) < 0.3).astype(np.float32)
MASK = np.arange(12)[:, None] < np.array([12, 3, 7, 12, 1, 9])


def weight(n, m, scale=1.0):
    return jnp.asarray(scale * RNG.normal(size=(n, m)), jnp.float32)


def surrogate_of(cell):
    return getattr(cell, "cell", cell).surrogate


@pytest.mark.slow
def test_slopes_are_as_wide_as_potentials_are_spread():
    theta, learned = jnp.linspace(0.5, 2, 7), spikegrad.learnable(Arctan(5.0))
    before = Network(
        {
            "a": Layer(weight(5, 8, 0.6), Refractory(AdaptiveLIF(surrogate=learned), 2)),
            "join": Join(lambda x: x, "a"),
            "b": Layer(
                weight(8, 7, 2.0), SynapticLIF(threshold=theta, surrogate=0.5 * Sigmoid(8.0))
            ),
            "out": Layer(weight(7, 2), LeakyReadout()),
        }
    )
    after = match_widths(before, X, ratio=0.7, keep="area", mask=MASK)
    assert after.layers["out"].cell == before.layers["out"].cell
    states = jax.jit(lambda: observed(before, X, mask=MASK)[2])()
    ((u, a), _), (v, _) = jax.tree.map(np.asarray, (states["a"], states["b"]))
    for name, distance in (("a", u - a - 1), ("b", v - np.asarray(theta)[None, None])):
        old, new = (measure(surrogate_of(net.layers[name].cell)) for net in (before, after))
        assert new.half_width == pytest.approx(0.7 * distance.astype(float)[MASK].std(), rel=1e-5)
        assert new.area == pytest.approx(old.area, rel=1e-5)
        assert new.peak != pytest.approx(old.peak, rel=0.1)
    assert surrogate_of(after.layers["a"].cell).learn
    again = match_widths(after, X, ratio=0.7, keep="area", mask=MASK)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, after)


@pytest.mark.parametrize(
    ("surrogate", "keep"),
    [
        (3.0 * spikegrad.stretched(Arctan(3.0), jnp.array(2.0)), "area"),
        (spikegrad.shifted(Arctan(), 1.0), "peak"),
    ],
)
def test_curves_that_have_been_stretched_or_shifted_before(surrogate, keep):
    one = Network([Layer(jnp.ones((5, 8)), LIF(surrogate=surrogate))])
    new = measure(match_widths(one, X, keep=keep).layers[0].cell.surrogate)
    assert new.half_width == pytest.approx(
        np.asarray(one.observe(X)[1][0].potential).std(), rel=1e-5
    )
    assert getattr(new, keep) == pytest.approx(getattr(measure(surrogate), keep), rel=1e-5)


class Cubed(LIF):
    """A custom cell with a unit of its own, and another name of the field."""

    def _spike(self, u, threshold, key=None):
        return super()._spike(u**3 / 100, threshold, key)


@pytest.mark.slow
def test_widths_are_in_the_unit_in_which_the_surrogate_is_called():
    mpbn, izhikevich, cubed = MPBN(0.5, gain=2.0, bias=0.3), Izhikevich(width=5.0), Cubed(0.9)
    nodes = {
        "mpbn": Layer(100 * weight(5, 8), mpbn, of="input"),
        "resting": Layer(100 * weight(5, 8), Refractory(mpbn, 2), of="input"),
        "izhikevich": Layer(20 * weight(5, 4), izhikevich, of="input"),
        "cubed": Layer(10 * weight(5, 4), cubed, of="input"),
    }
    before = Network(nodes, outputs=[*nodes])
    options = {"mask": MASK, "keep": "area"}
    states = jax.tree.map(np.float64, observed(before, X, mask=MASK, backward="scan")[2])

    def normalized(u):
        chosen = [of_step[active] for of_step, active in zip(u, MASK, strict=True)]
        mean, var = (np.stack([f(a, 0) for a in chosen])[:, None] for f in (np.mean, np.var))
        return 2.0 * (u - mean) / np.sqrt(var + 1e-5) + 0.3 - 0.5

    arguments = {
        "mpbn": normalized(states["mpbn"]),
        "resting": normalized(states["resting"][0]),
        "izhikevich": (states["izhikevich"][0] - 30) / 5,
        "cubed": states["cubed"] ** 3 / 100 - 1,
    }
    trainable, static = partition(match_widths(before, X, **options))
    moved = jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim == 0 else leaf, trainable)
    report = Report(State.create(moved, optax.sgd(0.1), KEY), 1, True, {}, {}, 1, None)
    adapted = AdaptWidths(static, X, **options)(report).trainable
    for after in (trainable, adapted):
        for name, layer in combine(after, static).layers.items():
            width = measure(surrogate_of(layer.cell)).half_width
            assert width == pytest.approx(arguments[name][MASK].std(), rel=1e-4), name


@pytest.mark.slow
def test_modules_with_functions_among_their_leaves():
    eqx = pytest.importorskip("equinox")
    module = eqx.filter_vmap(eqx.nn.MLP(5, 8, 4, 1, key=KEY))
    one = Network([Layer(module, LIF(surrogate=Arctan(3.0)))])
    new = measure(match_widths(one, X).layers[0].cell.surrogate)
    spread = jax.jit(lambda x: one.observe(x)[1][0].potential.std())(X)
    assert new.half_width == pytest.approx(float(spread), rel=1e-5)


@pytest.mark.slow
def test_potentials_of_spikes_that_are_drawn_are_those_of_the_key():
    cell, widths = LIF(surrogate=spikegrad.stochastic(Arctan(3.0))), []
    drawn = Network([Layer(weight(5, 8, 2.0), cell), Layer(weight(8, 6), LIF())])
    for seed in (1, 2):
        key = jax.random.key(seed)
        after = match_widths(drawn, X, key=key)
        for layer, u in zip(
            after.layers.values(), observed(drawn, X, key=key)[2].values(), strict=True
        ):
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
    stays = match_widths(
        Network([dataclasses.replace(wider.layers[0], weight=jnp.zeros((5, 8)))]), X
    )
    assert stays.layers[0].cell == wider.layers[0].cell
    step = LIF(
        surrogate=lambda u: (u > 0).astype(u.dtype)
    )  # with a derivative that is nobody's business
    assert (
        match_widths(Network([Layer(jnp.ones((5, 8)), step)]), X).layers[0].cell.surrogate
        is step.surrogate
    )


def loss_of(static, trainable, batch, key):
    return ((combine(trainable, static)(batch)[1] - 1) ** 2).mean(), {}


@pytest.mark.slow
def test_widths_follow_the_potentials_and_compile_nothing(tmp_path):
    batches, curve = [X[:, i : i + 2] for i in (0, 2, 4)], spikegrad.InvSquareGrad(5.0)
    readout = Layer(lambda x: x @ jnp.ones((8, 2)), LeakyReadout())
    start = Network([Layer(weight(5, 8, 0.3), LIF(surrogate=curve)), readout])
    trainable, static = partition(match_widths(start, X, ratio=2.0, keep="area"))
    adapt, optimizer, reports = AdaptWidths(static, X, ratio=2.0, keep="area"), optax.adam(0.1), []
    loss = functools.partial(loss_of, static)

    def train(state, steps, *more):
        callbacks = [adapt, reports.append, *more]
        return fit(loss, state, batches, optimizer=optimizer, steps=steps, callbacks=callbacks)

    beginning, states = State.create(trainable, optimizer, KEY), []
    train(beginning, 1)
    reports.clear()
    # the update, of any fit
    assert compilations(lambda: states.append(train(beginning, 3, Checkpoints(tmp_path)))) == 1
    state = train(states[0], 6)
    weights = [
        np.asarray(net.layers[0].weight) for net in (combine(state.trainable, static), start)
    ]
    assert abs(weights[0] - weights[1]).max() > 0.05
    nets = [combine(report.state.trainable, static) for report in reports]
    widths = {float(jax.tree.leaves(net.layers[0].cell.surrogate)[-1]) for net in nets}
    assert len(widths) == 6
    spread_of = jax.jit(lambda net: net.observe(X)[1][0].potential.std())
    for net in nets[
        2:5:2
    ]:  # the callbacks after it are told of the widths that training goes on with
        found, spread = measure(net.layers[0].cell.surrogate), float(spread_of(net))
        assert found.half_width == pytest.approx(2 * spread, rel=1e-4)
        assert found.area == pytest.approx(measure(curve).area, rel=1e-4)
    again = train(Checkpoints(tmp_path).restore(beginning), 6)
    jax.tree.map(np.testing.assert_array_equal, again.trainable, state.trainable)


@pytest.mark.slow
def test_only_at_the_end_of_an_epoch():
    trainable, static = partition(match_widths(Network([Layer(weight(5, 8, 0.3), LIF())]), X))
    loss, widths = functools.partial(loss_of, static), []

    def note(report):
        widths.append(float(combine(report.state.trainable, static).layers[0].cell.surrogate.width))

    callbacks = [AdaptWidths(static, X, each_epoch=True), note]
    fit(loss, trainable, [X, X], optimizer=optax.adam(0.1), key=KEY, epochs=2, callbacks=callbacks)
    assert widths[0] != widths[1] == widths[2] != widths[3]


def train_widths(network, chosen=lambda path, leaf: True):
    trainable, static = partition(network, chosen)
    callbacks = [AdaptWidths(static, X)]
    fit(
        functools.partial(loss_of, static),
        trainable,
        [X],
        optimizer=optax.sgd(0.1),
        key=KEY,
        callbacks=callbacks,
    )


ONE = Network([Layer(weight(5, 8), LIF())])
ENDLESS = Network([Layer(weight(5, 8), LIF(surrogate=spikegrad.LeakyRelu()))])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            "ValueError: keep must be one of 'peak', 'area', got 'height'",
            lambda: match_widths(ONE, X, keep="height"),
        ),
        (
            "ValueError: must have a finite half-width > 0, got LeakyRelu(",
            lambda: match_widths(ENDLESS, X),
        ),
        (
            "ValueError: trainable contains no widths. Call match_widths before partition",
            lambda: train_widths(ONE),
        ),
        (
            "ValueError: trainable contains no widths",
            lambda: train_widths(match_widths(ONE, X), lambda path, leaf: "weight" in path),
        ),
    ],
)
def test_widths_that_cannot_be_matched(message, call):
    assert_raises(call, message)
