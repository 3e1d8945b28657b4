"""What diagnose counts, against NumPy and against the network itself, and what it says."""

import dataclasses
import functools
import importlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Cell,
    InvSquareGrad,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    diagnose,
    parameter,
    soft,
    stochastic,
)
from spikegrad.inspect.diagnosis import diagnose_layer
from spikegrad.neurons import EIF, QIF, AdLIF, Refractory

RNG = np.random.default_rng(0)
STEPS, BATCH, INPUTS, NEURONS, OUTPUTS = 12, 5, 4, 6, 2
DECAY, LEAK, ALPHA = 0.9, 0.8, 2.0


@pytest.fixture
def loose():
    """JAX as users have it: optax promotes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def weights():
    rng = np.random.default_rng(1)
    shapes = (INPUTS, NEURONS), (NEURONS, NEURONS), (NEURONS, OUTPUTS)
    return [rng.normal(0, 2 / np.sqrt(shape[0]), shape).astype(np.float32) for shape in shapes]


def spikes(steps=STEPS, batch=BATCH, inputs=INPUTS):
    return (np.random.default_rng(2).random((steps, batch, inputs)) < 0.4).astype(np.float32)


def two_layers():
    return of_weights(*weights())


def of_weights(w, r, out):
    return Network([Layer(w, LIF(DECAY, surrogate=Arctan(ALPHA)), r), Layer(out, LeakyReadout(LEAK))])


@jax.tree_util.Partial  # so pure networks of equal shapes run one compiled program
def loss(out):
    return (out[-1] ** 2).sum() / 2


# --- numbers ----------------------------------------------------------------------------------------------------------


def by_hand(matrices=None):
    """The network in float64: potentials, spikes, slopes, and what goes back of a cotangent of either layer."""
    w, r, out = (np.asarray(a, float) for a in matrices or weights())
    v, s, u, fired, potentials, readout = 0.0, np.zeros((BATCH, NEURONS)), [], [], [], 0.0
    for x in spikes().astype(float):
        u.append(DECAY * v + x @ w + s @ r)
        s = (u[-1] >= 1).astype(float)
        fired.append(s)
        v = u[-1] - s
        readout = LEAK * readout + s @ out
        potentials.append(readout)
    u, fired = np.array(u), np.array(fired)
    slope = ALPHA / 2 / (1 + (np.pi / 2 * ALPHA * (u - 1)) ** 2)

    def back_readout(ct):
        carried, found = 0.0, np.zeros_like(ct)
        for t in reversed(range(STEPS)):
            carried = ct[t] + LEAK * carried
            found[t] = carried
        return found

    def back_hidden(ct):
        ct_v, of_currents = np.zeros((BATCH, NEURONS)), np.zeros((STEPS + 1, BATCH, NEURONS))
        for t in reversed(range(STEPS)):
            ct_s = ct[t] + of_currents[t + 1] @ r.T
            of_currents[t] = ct_v + slope[t] * (ct_s - ct_v)
            ct_v = DECAY * of_currents[t]
        return of_currents[:-1]

    return u, fired, np.array(potentials), slope, back_hidden, back_readout


def at_the_end(like, seed_order):
    """The signs that the layers' own outputs of the last step are added with."""
    rng = np.random.default_rng(0)
    drawn = [rng.choice([-1.0, 1.0], (BATCH, n)) for n in (NEURONS, OUTPUTS)]
    ct = np.zeros_like(like)
    ct[-1] = drawn[seed_order]
    return ct


def norms(x):
    return np.sqrt((x**2).sum((1, 2)))


def test_numbers_are_those_by_hand():
    u, fired, potentials, slope, back_hidden, back_readout = by_hand()
    found = diagnose(two_layers(), spikes(), loss)
    hidden, readout = found.layers
    assert 0.1 < fired.mean() < 0.9
    close = {"rtol": 2e-5}
    np.testing.assert_allclose(found.loss, (potentials[-1] ** 2).sum() / 2, **close)
    np.testing.assert_allclose(hidden.rate, fired.mean(), **close)
    assert hidden.silent == (fired.sum((0, 1)) == 0).mean()
    assert hidden.always == fired.all((0, 1)).mean()
    np.testing.assert_allclose([hidden.mean, hidden.std], [(u - 1).mean(), u.std()], **close)
    np.testing.assert_allclose([readout.mean, readout.std], [potentials.mean(), potentials.std()], **close)
    np.testing.assert_allclose(hidden.slope, slope.mean() / (ALPHA / 2), **close)
    assert hidden.within == (slope >= ALPHA / 4).mean() == (abs(u - 1) <= hidden.half_width).mean()
    np.testing.assert_allclose(sum(hidden.shares), 1)
    assert (hidden.scale, hidden.at_rest, hidden.firing) == (1, 0, np.float32(fired.mean()))
    assert (readout.scale, readout.at_rest, readout.fires) == (None, None, False)
    assert hidden.reached == (slope > 1e-6 * ALPHA / 2).mean()
    np.testing.assert_allclose(hidden.off, np.sqrt(((u - 1) ** 2).mean()), **close)
    np.testing.assert_allclose(hidden.widths, u.std() * np.pi * ALPHA / 2, **close)
    w, r, _ = (a.astype(float) for a in weights())
    below, before = spikes() @ w, np.concatenate([np.zeros((1, BATCH, NEURONS)), fired[:-1]])
    sizes = [np.sqrt((below**2).mean()), below.mean(), np.sqrt(((before @ r) ** 2).mean())]
    np.testing.assert_allclose([hidden.drive, hidden.current, hidden.feedback], sizes, **close)
    channels = [np.sqrt(((spikes()[:, :, [i]] * w[i]) ** 2).mean()) for i in range(INPUTS)]
    np.testing.assert_allclose(hidden.channels, channels, **close)
    np.testing.assert_allclose([hidden.offset, readout.offset], [w.mean(), weights()[2].mean()], **close)
    np.testing.assert_allclose(hidden.currents, below.mean((0, 1)), **close)
    np.testing.assert_allclose(hidden.gain, (hidden.free / hidden.drive) ** 2, **close)
    np.testing.assert_allclose(hidden.weights["recurrent"], np.linalg.norm(r), **close)

    ct = np.zeros_like(potentials)
    ct[-1] = potentials[-1]
    of_readout = back_readout(ct)
    ct_spikes = of_readout @ weights()[2].T.astype(float)
    of_hidden = back_hidden(ct_spikes)
    for layer, currents, received, inputs in (
        (hidden, of_hidden, ct_spikes, {"weight": spikes(), "recurrent": before}),
        (readout, of_readout, ct, {"weight": fired}),
    ):
        np.testing.assert_allclose(layer.by_step, norms(currents), **close)
        np.testing.assert_allclose(layer.current_gradient, np.linalg.norm(currents), **close)
        np.testing.assert_allclose(layer.output_gradient, np.linalg.norm(received), **close)
        for name, x in inputs.items():
            gradient = np.einsum("tbi,tbo->io", x, currents)
            np.testing.assert_allclose(layer.weight_gradients[name], np.linalg.norm(gradient), **close)
    np.testing.assert_allclose(hidden.by_lag, norms(back_hidden(at_the_end(fired, 0)))[::-1], **close)
    np.testing.assert_allclose(readout.by_lag, norms(back_readout(at_the_end(ct, 1)))[::-1], **close)
    np.testing.assert_allclose(readout.factor, LEAK, **close)


def test_first_update_and_the_loss_after_it():
    w, r, out = weights()
    found = diagnose(two_layers(), spikes(), loss, optimizer=optax.sgd(0.01), train=False)
    gradients = jax.grad(lambda w, r, out: loss(of_weights(w, r, out)(spikes())[1]), (0, 1, 2))(w, r, out)
    hidden, readout = found.layers
    sizes = [hidden.updates["weight"], hidden.updates["recurrent"], readout.updates["weight"]]
    np.testing.assert_allclose(sizes, [0.01 * np.linalg.norm(g) for g in gradients], rtol=1e-4)
    ratios = [size / np.linalg.norm(a) for size, a in zip(sizes, (w, r, out), strict=True)]
    np.testing.assert_allclose([hidden.update, readout.update], [max(ratios[:2]), ratios[2]], rtol=1e-5)
    after = by_hand([a - 0.01 * g for a, g in zip((w, r, out), gradients, strict=True)])[2]
    np.testing.assert_allclose(found.loss_after, (after[-1] ** 2).sum() / 2, rtol=1e-4)


def test_the_factor_per_step_is_the_decay_where_the_reset_passes_no_gradient():
    w, _, out = weights()
    cell = LIF(0.85, surrogate=InvSquareGrad(1.0), detach_reset=True)
    hidden, _ = diagnose(Network([Layer(w, cell), Layer(out, LeakyReadout(LEAK))]), spikes()).layers
    np.testing.assert_allclose(hidden.factor, 0.85, rtol=1e-5)


def test_the_free_potential_is_that_without_spikes():
    """It holds its value in steps that do not take place, and these do not count."""
    w, r, _ = weights()
    active = np.random.default_rng(4).random((STEPS, BATCH)) < 0.7
    for mask in (None, active):
        hidden, *_ = diagnose(Network([Layer(w, AdaptiveLIF(DECAY), r)]), spikes(), mask=mask).layers
        there = np.ones_like(active) if mask is None else mask
        v, free = np.zeros((BATCH, NEURONS)), []
        for x, now in zip(spikes(), there, strict=True):
            v = np.where(now[:, None], DECAY * v + x @ w, v)
            free.append(v)
        means = np.array(free)[there].mean(0)  # of each neuron
        np.testing.assert_allclose(hidden.free_means, np.sqrt(np.mean(means**2)), rtol=1e-5)
        free = np.array(free)[there]
        np.testing.assert_allclose(hidden.free_each, np.sqrt(np.mean(np.square(free), 0)), rtol=1e-5)
        assert hidden.rate > 0.1
        np.testing.assert_allclose(
            [hidden.free, hidden.free_mean], [np.sqrt(np.mean(np.square(free))), np.mean(free)], rtol=1e-5
        )


def test_the_free_potential_is_measured_from_rest():
    w, *_ = weights()
    of = [
        diagnose(Network([Layer(w, EIF(rest=rest, rheobase=9.0 + rest))]), spikes()).layers[0] for rest in (0.0, -65.0)
    ]
    for name in ("free", "free_mean"):
        np.testing.assert_allclose(getattr(of[1], name), getattr(of[0], name), rtol=1e-3)


def test_steps_that_do_not_take_place_do_not_count():
    network, x, lengths = two_layers(), spikes(), np.array([12, 3, 7, 1, 9])
    of_last = jax.tree_util.Partial(lambda out: (out[7] ** 2).sum())
    whole = diagnose(network, x[:8], of_last)
    padded = jnp.asarray(x).astype(float).at[8:].set(jnp.nan)
    masked = diagnose(network, padded, of_last, mask=np.arange(STEPS)[:, None] < np.full(BATCH, 8))
    assert not masked.issues
    for a, b in zip(whole.layers, masked.layers, strict=True):
        for name in ("rate", "silent", "always", "mean", "std", "within", "slope", "free", "factor"):
            if getattr(a, name) is not None:  # a readout has no slope
                np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(a.by_lag, b.by_lag[:8], rtol=1e-5)
        np.testing.assert_allclose(a.by_step, b.by_step[:8], rtol=1e-5)
        assert not any((*b.by_lag[8:], *b.by_step[8:]))
    of_each = diagnose(network, x, of_last, mask=np.arange(STEPS)[:, None] < lengths).layers[0]
    fired, exists = by_hand()[1], (np.arange(STEPS)[:, None] < lengths)[:, :, None]
    np.testing.assert_allclose(of_each.rate, (fired * exists).sum() / lengths.sum() / NEURONS, rtol=1e-5)
    assert of_each.silent == ((fired * exists).sum((0, 1)) == 0).mean()
    assert all(of_each.by_lag[:12])  # of the longest, from its last step to its first


class Cubic(Cell):
    """A cell that does not say how far it is from a threshold."""

    pull: float = parameter(default=0.1, at_least=0)

    def integrate(self, v, current):
        return v - self.pull * v * v * v + current

    def fire(self, u):
        s = Sigmoid()(u - 1)
        return u - s, s


def test_key_draws_the_spikes_of_the_network():
    w, r, out = weights()
    network = Network([Layer(w, LIF(surrogate=stochastic(Sigmoid(4.0))), r), Layer(out, LeakyReadout(LEAK))])
    keys = jax.random.split(jax.random.key(5))
    for key in keys:
        found = diagnose(network, spikes(), loss, key=key)
        _, (fired, _) = network(spikes(), key=key, all_layers=True)
        np.testing.assert_allclose(found.layers[0].rate, fired.mean(), rtol=1e-6)
    assert network(spikes(), key=keys[0])[1].sum() != network(spikes(), key=keys[1])[1].sum()
    with pytest.raises(TypeError, match="stochastic"):
        diagnose(network, spikes(), loss)


@pytest.mark.every
def test_every_kind_of_layer_has_the_spikes_and_gradients_of_the_network():
    rng = np.random.default_rng(3)
    kernel = jnp.asarray(rng.normal(0, 1.0, (3, 1, 2, 2)), jnp.float32)
    draw = [jnp.asarray(rng.normal(0, 2 / np.sqrt(n), (n, m)), jnp.float32) for n, m in ((27, 8), (8, 8), (8, 5))]
    images = jnp.asarray(rng.random((10, 3, 1, 4, 4)) < 0.5)
    key = jax.random.key(5)

    def network(kernel, draw):
        a, b, c = draw
        return Network(
            [
                Layer(lambda x: jax.lax.conv(x.astype(jnp.float32), kernel, (1, 1), "VALID"), SynapticLIF(0.8)),
                Layer(
                    lambda x: x.reshape(len(x), -1) @ a, Refractory(LIF(surrogate=stochastic(Sigmoid(4.0))), steps=1), b
                ),
                Layer(c, Cubic(0.2), bias=jnp.full(5, 0.1)),
            ]
        )

    def total(out):
        return (out * jnp.arange(1.0, 6.0)[None, None]).mean()

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def expected(kernel, draw):
        states = network(kernel, draw)(images, key=key, mode="scan", all_layers=True, pre_spike=True)
        return total(states[1][-1]), states[1:]

    found = diagnose(network(kernel, draw), images, total, key=key)
    (of_kernel, (a, b, c)), (outs, pre_spike) = expected(kernel, draw)
    for layer, out in zip(found.layers, outs, strict=True):
        assert layer.fires
        assert layer.rate > 0
        np.testing.assert_allclose(layer.rate, out.mean(), rtol=1e-5)
    for name, n, gradient in (("weight", 0, of_kernel), ("weight", 1, a), ("recurrent", 1, b), ("weight", 2, c)):
        np.testing.assert_allclose(found.layers[n].weight_gradients[name], np.linalg.norm(gradient), rtol=1e-4)
    potential, _ = pre_spike[1]
    np.testing.assert_allclose(found.layers[1].mean, potential.mean() - 1, rtol=1e-4)
    assert [layer.neurons for layer in found.layers] == [27, 8, 5]
    cubic = found.layers[2]
    assert (cubic.scale, cubic.half_width) == (1, None)  # its threshold is found by trying
    np.testing.assert_allclose(cubic.mean, pre_spike[2].mean() - 1, rtol=1e-4)


def test_one_neuron_far_away_takes_the_others_out_of_8_bits():
    w = np.ones((1, 50), np.float32) * np.linspace(0.3, 1.5, 50, dtype=np.float32)
    x = np.ones((6, 3, 1), np.float32)
    network = Network([Layer(w, LIF(surrogate=Arctan(2.0)))])
    fine = diagnose(network, x, mode="8-bit")
    assert fine.layers[0].eight_bit_lost == 0
    assert fine.layers[0].eight_bit_error < 0.1
    assert not fine.issues
    w[0, -1] = -3e7
    coarse = diagnose(Network([Layer(w, LIF(surrogate=Arctan(2.0)))]), x, mode="8-bit")
    assert coarse.layers[0].eight_bit_lost > 0.9
    assert [v.kind for v in coarse.issues][-1] == "too few bits"


def test_a_layer_of_a_loop_of_ones_own_has_the_same_numbers():
    w, _, out = weights()
    cell, readout = LIF(DECAY, surrogate=Arctan(ALPHA)), LeakyReadout(LEAK)

    def run(w, extra):
        def step(state, now):
            (v, potential), (x, more) = state, now
            u = cell.integrate(v, x @ w + more)
            v, s = cell.fire(u)
            potential, _ = readout(potential, s @ out)
            return (v, potential), (u, s, potential)

        start = jnp.zeros((BATCH, NEURONS)), jnp.zeros((BATCH, OUTPUTS))
        return jax.lax.scan(step, start, (jnp.asarray(spikes()), extra))[1]

    zeros = jnp.zeros((STEPS, BATCH, NEURONS))
    (of_w, of_currents), (u, s, _) = jax.grad(lambda w, e: loss(run(w, e)[2]), (0, 1))(w, zeros), run(w, zeros)
    found = diagnose_layer(u - 1, s, cell.surrogate, gradient=of_currents, weight_gradients={"weight": of_w}).layers[0]
    expected = diagnose(Network([Layer(w, cell), Layer(out, readout)]), spikes(), loss).layers[0]
    for name in ("rate", "silent", "mean", "std", "within", "slope", "reached", "current_gradient", "half_width"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found.by_step, expected.by_step, rtol=1e-5)
    np.testing.assert_allclose(found.weight_gradients["weight"], expected.weight_gradients["weight"], rtol=1e-5)
    with pytest.raises(ValueError, match=r"diagnose_layer: spikes must be of shape \(12, 5, 6\), got \(11, 5, 6\)"):
        diagnose_layer(u - 1, s[1:], cell.surrogate)


def test_what_else_is_known_of_a_layer():
    distance = jnp.asarray(RNG.normal(size=(6, 3, 2)), jnp.float32)
    fired = distance >= 0
    mask = np.arange(6)[:, None] < [4, 4, 4]
    falling = 0.5 ** (3.0 - np.arange(6))  # from the last step that takes place
    found = diagnose_layer(
        distance,
        fired,
        Arctan(ALPHA),
        threshold=-3.0,
        lagged=np.broadcast_to(falling[:, None, None], distance.shape),
        weights={"weight": np.full(4, 1.0)},
        updates={"weight": np.full(4, 3.0)},
        mask=mask,
        name="my layer",
    )
    [layer], [issue] = found.layers, found.issues
    assert (layer.scale, layer.update) == (3.0, 3.0)
    np.testing.assert_allclose([layer.rate, layer.mean], [fired[:4].mean(), distance[:4].mean()], rtol=1e-5)
    np.testing.assert_allclose(layer.factor, 0.5, rtol=1e-5)
    free = np.asarray(distance[:4], float) - 3  # nothing else is known of the potential without spikes
    np.testing.assert_allclose([layer.free, layer.free_mean], [np.sqrt((free**2).mean()), free.mean()], rtol=1e-5)
    assert str(issue).startswith("my layer is overshot: the first update is 3 times its weights")


# --- issues ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loose")
@pytest.mark.every
@pytest.mark.parametrize("name", ["plain_jax", "fit_flax_nnx", "fit_equinox"])
def test_no_false_alarm_on_the_examples(name, monkeypatch):
    optax = pytest.importorskip("optax")
    for framework in {"fit_flax_nnx": ["flax.nnx"], "fit_equinox": ["equinox"]}.get(name, ()):
        pytest.importorskip(framework)
    monkeypatch.syspath_prepend(ROOT / "examples")
    module = importlib.import_module(name)
    for network, x, loss, optimizer in EXAMPLES[name](module, optax):
        assert diagnose(network, x, loss, optimizer=optimizer).issues == ()


def plain_jax(module, optax):
    """Before and after training."""
    x, y = module.data()
    w, optimizer = module.initial_weights(), optax.sgd(module.LEARNING_RATE)

    def mean_cross_entropy(y, out):
        return optax.softmax_cross_entropy_with_integer_labels(out.mean(0), y).mean()

    for _ in range(2):
        cells = [*[module.hidden] * (len(w) - 1), module.readout]
        network = Network([Layer(own, cell) for own, cell in zip(w, cells, strict=True)])
        yield network, x, jax.tree_util.Partial(mean_cross_entropy, jnp.asarray(y)), optimizer
        for _ in range(20):
            _, w = module.train_step(w, x, y)


def fit_flax_nnx(module, optax):
    from flax import nnx  # noqa: PLC0415

    x, y = module.data()
    model = module.RecurrentNetwork(nnx.Rngs(0))
    network = Network(
        [
            Layer(model.inputs, model.cell, recurrent=model.recurrent),
            Layer(model.outputs, LeakyReadout(decay=0.8)),
        ]
    )

    def loss(out):
        return optax.softmax_cross_entropy_with_integer_labels(out[-module.CUE :].mean(0), jnp.asarray(y)).mean()

    yield network, np.swapaxes(x, 0, 1), loss, optax.adam(5e-3)


def fit_equinox(module, optax):
    from spikegrad.data import rate_encoding  # noqa: PLC0415

    images, y = module.data(128)
    model = module.ConvolutionalNetwork(jax.random.key(0))
    network = Network(
        [
            Layer(lambda x: 4 * jax.vmap(model.convolution)(x), model.cell),
            Layer(lambda x: jax.vmap(model.readout)(x.reshape(len(x), -1)), LeakyReadout(decay=0.8)),
        ]
    )
    x = rate_encoding(images, module.STEPS, jax.random.key(1)).astype(jnp.float32)

    def loss(out):
        return optax.softmax_cross_entropy_with_integer_labels(out.mean(0), jnp.asarray(y)).mean()

    yield network, x, loss, optax.adam(3e-3)


EXAMPLES = {"plain_jax": plain_jax, "fit_flax_nnx": fit_flax_nnx, "fit_equinox": fit_equinox}


def small(bias=0.0, decay=0.9, threshold=1.0, surrogate=None, wrap=lambda cell: cell):
    w, _, out = weights()
    return Network(
        [
            Layer(w, wrap(LIF(decay, threshold, surrogate or Sigmoid(4.0))), bias=jnp.full(NEURONS, bias)),
            Layer(out, LeakyReadout(LEAK)),
        ]
    )


def issue(network, x=None, **options):
    [found] = diagnose(network, spikes() if x is None else x, **options).issues
    return found


def test_neurons_that_are_held_down_get_a_bias():
    found = issue(small(bias=-5.0))
    assert (found.kind, found.index) == ("silent", 0)
    assert [fix.change for fix in found.fixes] == ["bias"]  # no factor of the weights would lift them
    lifted = found.fix.apply(small(bias=-5.0))
    assert diagnose(lifted, spikes()).layers[0].current == pytest.approx(0, abs=0.05)


@pytest.mark.every
def test_long_memory_is_no_explosion():
    """Gradients of one sign add up in slow synapses and membranes, as the currents themselves do."""
    rng = np.random.default_rng(0)
    cell = SynapticLIF(0.97, synaptic_decay=0.95)
    network = Network(
        [
            Layer(rng.normal(0, 0.02, (20, 30)).astype(np.float32), cell),
            Layer(np.full((30, 1), 0.1, np.float32), LeakyReadout(0.97)),
        ]
    )
    x = (rng.random((150, 8, 20)) < 0.2).astype(np.float32)
    found = diagnose(network, x, lambda out: out.mean())
    assert found.layers[0].current_gradient > 8 * found.layers[0].output_gradient
    assert found.issues == ()


def test_what_comes_of_a_fault_is_not_named():
    w, r, out = weights()
    cell = LIF(DECAY)
    network = Network([Layer(w, LIF(DECAY, 100.0)), Layer(r, cell), Layer(out, LeakyReadout(LEAK))])
    assert issue(network).index == 0  # and not the second layer, which gets nothing
    assert "its inputs are zero" in str(issue(network, np.zeros_like(spikes())))


def test_not_finite_and_cut_off():
    w, _, out = weights()
    network = Network([Layer(w * np.float32(np.nan), LIF()), Layer(out, LeakyReadout())])
    assert issue(network).kind == "not finite"
    assert issue(network).fix is None
    cut = issue(small(), loss=lambda out: out.sum() * 0)
    assert (cut.kind, cut.index) == ("cut off", 1)
    of_the_loss = issue(small(), loss=lambda out: jnp.log(out[:, :, 0] * 0).sum())
    assert str(of_the_loss) == "layer 2 gets a gradient of the loss that is NaN or infinite"
    assert (of_the_loss.kind, of_the_loss.index) == ("not finite", 1)


def test_large_inputs_of_half_precision_are_scaled():
    """Currents of counts of a converter exceed 65,504, the largest number of float16."""
    w, _, out = weights()
    network = Network([Layer(w.astype(np.float16), LIF(DECAY)), Layer(out, LeakyReadout(LEAK))])
    found = issue(network, 60000 * spikes().astype(np.float16))
    assert (found.kind, found.index, found.fix.change) == ("not finite", 0, "input scale")


@pytest.mark.usefixtures("loose")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_what_rounding_takes_from_an_update(dtype):
    w, _, out = (jnp.asarray(a, dtype) for a in weights())
    network = Network([Layer(w, LIF(DECAY)), Layer(out, LeakyReadout(LEAK))])
    change = np.float32(2e-3)
    optimizer = optax.stateless(lambda gradients, _: jax.tree.map(lambda g: jnp.full_like(g, change), gradients))
    layers = diagnose(network, spikes(), loss, optimizer=optimizer, train=False).layers
    for layer, weight in zip(layers, (w, out), strict=True):
        given = np.float32(jnp.asarray(change, dtype))
        wide = np.asarray(weight, np.float32)
        lost = given - (np.asarray((wide + given).astype(weight.dtype), np.float32) - wide)
        expected = np.linalg.norm(lost) / np.linalg.norm(np.full_like(wide, given))
        assert layer.rounded_away == pytest.approx(expected, rel=1e-4)
        assert (expected > 0.1) == (dtype == jnp.bfloat16)


class TurnedByNumPy(LIF):
    """A cell that branches on a number and gives it to NumPy."""

    angle: float = parameter(default=0.3)

    def integrate(self, v, current):
        return np.cos(self.angle) * v + current if self.angle > 0 else v


def test_cells_may_use_their_numbers_outside_jax():
    found = diagnose(own_cell(TurnedByNumPy(), 3.0), spikes(), loss)
    assert found.issues == ()
    decay = diagnose(own_cell(LIF(math.cos(0.3)), 3.0), spikes(), loss)
    assert found.layers[0].std == pytest.approx(decay.layers[0].std, rel=1e-5)


def own_cell(cell, scale=1.0):
    w, _, out = weights()
    return Network([Layer(scale * w, cell), Layer(out, LeakyReadout(LEAK))])


def test_parameters_that_drive_the_potentials_get_their_defaults():
    found = issue(own_cell(AdLIF(0.9, 0.98, b=-100.0), 3.0))
    assert (found.kind, found.fix.change, found.fix.value) == ("saturated", "b", 1.0)
    better = found.fix.apply(own_cell(AdLIF(0.9, 0.98, b=-100.0), 3.0))
    assert better.layers[0].cell.b == AdLIF().b
    assert diagnose(better, spikes(), loss).issues == ()
    assert [fix.change for fix in found.fixes].count("b") == 1


def test_potentials_without_a_limit_get_smaller_weights():
    found = issue(own_cell(QIF(), 1000.0))
    assert (found.kind, found.fix.change) == ("saturated", "feedforward weights")
    assert found.fix.value < 0.1
    assert diagnose(found.fix.apply(own_cell(QIF(), 1000.0)), spikes(), loss).issues == ()


def test_soft_spikes_are_no_saturation():
    found = diagnose(small(surrogate=soft(Sigmoid(4.0))), spikes(), loss)
    assert found.issues == ()
    assert (found.layers[0].rate > 0.1, found.layers[0].always) == (True, 0)
    wide_open = issue(small(bias=3.0, surrogate=soft(Sigmoid(4.0))))
    assert wide_open.kind == "saturated"


def test_remedies_reach_any_layer():
    """Within Refractory, and with functions for weights or arrays for thresholds."""
    network = small(threshold=jnp.full(NEURONS, 60.0), wrap=lambda cell: Refractory(cell, steps=1))
    found = issue(network)
    # with a threshold of 60, a reset passes 60 times the slope, so larger weights do not help
    assert [fix.change for fix in found.fixes] == ["threshold"]
    assert diagnose(found.fix.apply(network), spikes()).layers[0].rate > 0.01
    w, _, out = weights()
    weak = Network([Layer(lambda x: x @ jnp.asarray(w / 100), LIF()), Layer(out, LeakyReadout())])
    scaled = next(r for r in issue(weak).fixes if r.change == "feedforward weights").apply(weak)
    np.testing.assert_allclose(diagnose(scaled, spikes()).layers[0].free, 1, rtol=0.05)


def test_a_diagnosis_is_text_and_data_and_a_figure():
    found = diagnose(small(threshold=60.0), spikes(), loss)
    table, _, said = str(found).partition("\n\n")
    assert table.splitlines()[0].split() == ["layer", "layer", "1", "layer", "2"]
    assert "half-width" in table
    assert max(map(len, table.splitlines())) < 80
    assert said == str(found.issues[0])
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["layers"][0]["silent"] == 1
    assert again["layers"][0]["surrogate"] == "Sigmoid(alpha=4.0)"
    assert again["issues"][0]["fixes"][0]["value"] == found.issues[0].fix.value
    pytest.importorskip("matplotlib")
    figure = found.plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["layer 1, rate 0", "layer 2"]
    assert "gradient over lags" in titles
    slope = next(axes for axes in figure.axes if axes.get_ylabel() == "slope").lines[0].get_xdata()
    assert slope.min() < -1 < 0.4 < slope.max() < 1  # both flanks, above potentials that are all below the threshold
    w, _, out = weights()
    broken = Network([Layer(w * np.float32(np.nan), LIF()), Layer(out, LeakyReadout())])
    assert len(diagnose(broken, spikes(), loss).plot().axes) == 4  # two potentials, of nothing; lags; shares


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match="diagnose: network must be a Network, got 3"):
        diagnose(3, spikes())
    with pytest.raises(ValueError, match=r"diagnose: mode must be one of 'exact', .*, got 'fast'"):
        diagnose(small(), spikes(), mode="fast")
    with pytest.raises(ValueError, match="inputs must be of shape"):
        diagnose(small(), np.zeros(3))
    optimizer = pytest.importorskip("optax").sgd(1e3)
    too_fast = issue(small(), loss=loss, optimizer=optimizer)
    assert too_fast.kind == "overshoots"
    with pytest.raises(ValueError, match="Fix: apply changes a network, and this fix is a change of learning rate"):
        too_fast.fix.apply(small())


def test_a_pure_network_is_compiled_once_whatever_its_numbers():
    runs = importlib.import_module("spikegrad.inspect.diagnosis._look")
    probe = jax.tree_util.Partial(lambda y, out: ((out[-1] - y) ** 2).mean(), jnp.ones((BATCH, OUTPUTS)))
    diagnose(small(), spikes(), probe)
    compiled = [program._cache_size() for program in runs._COMPILED.values()]
    diagnose(small(threshold=2.0, decay=0.5, surrogate=Sigmoid(1.0)), spikes(), probe)
    assert [program._cache_size() for program in runs._COMPILED.values()] == compiled


def test_differences_of_large_inputs_do_not_overflow():
    look = importlib.import_module("spikegrad.inspect.diagnosis._look")
    assert look._differences(np.full((1, 3, 1), 3e38, np.float32)) == [0.0]


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optax.lbfgs(), marks=pytest.mark.every),
        optax.polyak_sgd(),
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1), opaque_mode=True),
        optax.MultiSteps(optax.adam(0.1), 1).gradient_transformation(),
    ],
    ids=["lbfgs", "polyak", "sam", "several steps"],
)
def test_whatever_trains_the_network(optimizer):
    found = diagnose(small(), spikes(), loss, optimizer=optimizer)
    assert np.isfinite(found.loss_after)
    assert found.loss_after != found.loss


def frozen_first_layer(params):
    frozen = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path).startswith(".layers[0]"), params
    )
    assert jax.tree.structure(params) == jax.tree.structure(small(decay=jnp.full(NEURONS, 0.9)))
    return frozen


def test_optimizer_gets_the_structure_of_the_network():
    network = small(decay=jnp.full(NEURONS, 0.9))
    freeze = optax.masked(optax.set_to_zero(), frozen_first_layer)
    labels = jax.tree.map({True: "frozen", False: "trained"}.get, frozen_first_layer(network))
    by_labels = optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optax.adam(0.01)}, lambda _: labels)
    whole = diagnose(network, spikes(), loss, optimizer=optax.adam(0.01), train=False)
    for optimizer in (optax.chain(optax.adam(0.01), freeze), by_labels):
        found = diagnose(network, spikes(), loss, optimizer=optimizer, train=False)
        assert found.issues == ()
        assert [layer.update for layer in found.layers] == pytest.approx([0, whole.layers[1].update])
        assert found.layers[1].update > 0


def test_optimizer_gets_arrays_of_functions_that_are_no_leaves():
    w = jnp.asarray(small().layers[0].weight)
    closed = Network([dataclasses.replace(small().layers[0], weight=lambda x: x @ w), *small().layers[1:]])
    updates = [
        [layer.update for layer in diagnose(network, spikes(), loss, optimizer=optax.adam(0.01), train=False).layers]
        for network in (small(), closed)
    ]
    assert updates[1] == pytest.approx(updates[0], rel=1e-5)


def test_error_of_a_loss_says_the_order_of_axes():
    def batch_first(outputs):
        return optax.softmax_cross_entropy_with_integer_labels(outputs.mean(1), np.zeros(8, int)).mean()

    with pytest.raises(ValueError, match="Incompatible shapes") as raised:
        diagnose(small(), spikes(), batch_first)
    steps, examples, _ = spikes().shape
    assert raised.value.__notes__[-1].endswith(f"are (steps, examples, ...): {steps} steps, {examples} examples")


def test_optimizer_for_another_structure_is_refused():
    optimizer = optax.multi_transform({"fast": optax.adam(0.1)}, {"weights": "fast"})
    message = "diagnose: optimizer must take the arrays of the network, in its structure, got ValueError"
    with pytest.raises(ValueError, match=message):
        diagnose(small(), spikes(), loss, optimizer=optimizer)


def test_masks_and_arrays_of_a_layer():
    d = np.full((4, 2, 3), -1)
    d[:, 0] = 1
    there = np.array([[True, False]] * 4)
    [of_one] = diagnose_layer(d, d > 0, Sigmoid(), mask=there, gradient=d.tolist()).layers
    assert of_one.rate == 1
    for mask, error in (
        (there.T, "got bool\\[2, 4\\]"),
        (there * 1.0, "got float64"),
        (there & False, "at least one valid step"),
    ):
        with pytest.raises(ValueError, match=f"diagnose_layer: mask .*{error}"):
            diagnose_layer(d, d > 0, Sigmoid(), mask=mask)
    with pytest.raises(ValueError, match="diagnose: mask must contain at least one valid step"):
        diagnose(small(), spikes(), mask=np.zeros(len(spikes()), bool))
