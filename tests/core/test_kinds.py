"""Kinds of spike: what comes out, its derivatives, in cells and in every mode of a network, against
formulas.
"""

import functools
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODES, STORAGES, enable_x64, few
from networks import observed, value_and_gradient

import spikegrad
from spikegrad import (
    LIF,
    AdaptiveLIF,
    Cell,
    Layer,
    Network,
    PiecewiseLeakyRelu,
    Sigmoid,
    Surrogate,
    SynapticLIF,
    keep_slope,
    learnable,
    multi_spike,
    parameter,
    signed,
    soft,
    spike,
    stochastic,
    unroll,
)
from spikegrad.neurons import Refractory
from spikegrad.reports import residual_report

pytestmark = pytest.mark.newest

ALPHA, THETA, N = 3.0, 0.75, 3
KEY = jax.random.key(7)
KINDS = {
    "soft": lambda s, theta: soft(s),
    "stochastic": lambda s, theta: stochastic(s),
    "sum": lambda s, theta: multi_spike(s, N, theta),
    "nearest": lambda s, theta: multi_spike(s, N, theta, "nearest"),
    "signed": signed,
}
# at the thresholds, on both sides of them, between them, far off
X = np.array(
    [
        -9,
        -2 * THETA,
        -1.4,
        -1.0,
        -0.3,
        -1e-7,
        0,
        0.2,
        0.37,
        THETA,
        1.2,
        2 * THETA,
        2.0,
        3 * THETA,
        9,
    ]
)


def formulas(kind, x, alpha=ALPHA, theta=THETA):
    """Value, slope, its derivative, derivatives in alpha and in theta: of Sigmoid, in float64."""

    def f(x):
        return 1 / (1 + np.exp(-alpha * x))

    def g(x):
        return alpha * f(x) * f(-x)

    def dg(x):
        return alpha * g(x) * (1 - 2 * f(x))

    def of_alpha(x):
        return x * f(x) * f(-x)

    shifted = [(k, x - k * theta) for k in range(N)]
    count = sum((x >= k * theta).astype(float) for k in range(N))
    k = np.clip(np.floor(x / theta + 0.5), 0, N - 1)
    y, mirrored = x - k * theta, -x - 2 * theta
    match kind:
        case "soft":
            return f(x), g(x), dg(x), of_alpha(x), 0 * x
        case "stochastic":
            return None, g(x), dg(x), of_alpha(x), 0 * x
        case "sum":
            each = [sum(curve(y) for _, y in shifted) for curve in (g, dg, of_alpha)]
            return count, *each, -sum(k * g(y) for k, y in shifted)
        case "nearest":  # one level is as high as the primal rises between two
            return count, g(y), dg(y), of_alpha(y) + 2 * k * of_alpha(theta / 2), -k * g(y)
        case "signed":
            value = 1.0 * (x >= 0) - (x <= -2 * theta)
            return (
                value,
                g(x) + g(mirrored),
                dg(x) - dg(mirrored),
                of_alpha(x) - of_alpha(mirrored),
                2 * g(mirrored),
            )


def measured(kind, settings, x):
    def fire(x, alpha, theta):
        return settings(KINDS[kind](Sigmoid(alpha), theta))(x, key=KEY)

    args = x, jnp.full_like(x, ALPHA), jnp.full_like(x, THETA)
    ones = jnp.ones_like(x)
    value, slope = jax.jvp(lambda x: fire(x, *args[1:]), (x,), (ones,))
    reverse = jax.vjp(fire, *args)[1](ones)
    second = jax.jvp(lambda x: jax.vjp(lambda x: fire(x, *args[1:]), x)[1](ones)[0], (x,), (ones,))[
        1
    ]
    return value, slope, second, *reverse


SETTINGS = {
    "learnable": learnable,
    "plain": lambda s: s,
    "narrow": lambda s: keep_slope(learnable(s), "bfloat16"),
}


CASES = {
    ("float64", "learnable"): 1e-13,
    ("float32", "narrow"): 2**-8,
    ("bfloat16", "plain"): 2**-7,
}
MORE = {
    ("float64", "plain"): 1e-13,
    ("float16", "learnable"): 2**-9,
    ("bfloat16", "learnable"): 2**-7,
}


@functools.cache
def found(cases):
    with enable_x64():
        run = jax.jit(
            lambda: [
                [measured(kind, SETTINGS[s], jnp.asarray(X, d)) for kind in KINDS] for d, s in cases
            ]
        )
        arrays = jax.tree.map(lambda a: np.asarray(a, np.float64), run())
    return {case: dict(zip(KINDS, of, strict=True)) for case, of in zip(cases, arrays, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "cases",
    [tuple(CASES), pytest.param(tuple(MORE), marks=pytest.mark.every)],
    ids=lambda c: "-".join(map("-".join, c)),
)
def test_values_and_derivatives_are_the_formulas(kind, cases):
    for (dtype, settings), of in found(cases).items():
        check(kind, dtype, settings, of[kind], {**CASES, **MORE}[dtype, settings])


def check(kind, dtype, settings, got, error):
    value, slope, second, in_x, in_alpha, in_theta = got
    x = np.asarray(X.astype(jnp.dtype(dtype)), np.float64)
    want_value, want_slope, want_second, want_alpha, want_theta = formulas(kind, x)
    np.testing.assert_array_equal(slope, in_x)  # forward and reverse mode
    if kind == "stochastic":
        assert set(value) == {0, 1}
        assert (value[0], value[-1]) == (0, 1)
    elif kind == "soft":
        np.testing.assert_allclose(
            value, want_value, rtol=error, atol=1e-7 if dtype == "float16" else 0
        )
    else:
        np.testing.assert_array_equal(value, want_value)
    # absolute as well, where terms of opposite signs nearly cancel
    np.testing.assert_allclose(slope, want_slope, rtol=error, atol=1e-7)
    np.testing.assert_allclose(second, want_second, rtol=2 * error, atol=4 * error)
    np.testing.assert_allclose(in_theta, want_theta, rtol=error, atol=4 * error)
    np.testing.assert_allclose(
        in_alpha, 0 * x if settings == "plain" else want_alpha, rtol=error, atol=error
    )


class Asymmetric(Surrogate, pure=True):
    """Steep below the threshold and flat above, with a jump: no symmetry to hide behind."""

    width: float = parameter(default=0.5, above=0)

    def surrogate_fun(self, x):
        return jnp.where(x < 0, 0.4 * jnp.exp(x / self.width), 0.5 + 0.1 * jnp.tanh(x))

    def surrogate_grad(self, x):
        return jnp.where(x < 0, 0.4 * jnp.exp(x / self.width) / self.width, 0.1 / jnp.cosh(x) ** 2)


def test_signed_is_an_odd_function_of_the_potential():
    theta = 0.5
    v = np.arange(-64, 65, dtype=np.float32) / 32  # exact, the thresholds among them
    fire = signed(Asymmetric(), theta)
    run = jax.jit(lambda x: (fire(x), fire.surrogate_fun(x), fire.surrogate_grad(x)))
    (spikes, primal, slope), mirrored = run(v - np.float32(theta)), run(-v - np.float32(theta))
    np.testing.assert_array_equal(spikes, -mirrored[0])
    np.testing.assert_array_equal(spikes, np.sign(v) * (np.abs(v) >= theta))
    np.testing.assert_allclose(primal, -mirrored[1], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(slope, mirrored[2], rtol=1e-6)


@pytest.mark.slow
def test_multi_spike_of_one_is_the_step():
    x = jnp.asarray(np.append(X, [-0.0, np.inf, -np.inf, np.nan]), jnp.float32)
    plain, *others = (
        learnable(s)
        for s in (
            Asymmetric(),
            multi_spike(Asymmetric(), 1, 0.3),
            multi_spike(Asymmetric(), 1, 0.3, "nearest"),
        )
    )

    @jax.jit
    def run(s):
        value, back = jax.vjp(lambda s, x: s(x), s, x)
        in_s, in_x = back(jnp.ones_like(x).at[-3:].set(0))
        return value, in_x, in_s.surrogate

    for other in others:
        jax.tree.map(np.testing.assert_array_equal, run(other), run(plain))


@pytest.mark.slow
def test_the_count_is_of_multiples_that_are_reached():
    """Next to every multiple, though a quotient would be rounded across it."""
    theta = np.asarray([[0.1], [0.3], [0.7], [1.9]], np.float32)
    multiples = np.arange(200, dtype=np.float32) * theta
    beside = [np.nextafter(multiples[:, 1:], np.float32(s)) for s in (-1e9, 1e9)]
    for x in (multiples, *beside):
        wanted = np.clip((x[:, :, None] >= multiples[:, None, :150]).sum(2), 0, 150)
        np.testing.assert_array_equal(multi_spike(Sigmoid(), 150, theta)(x), wanted)
    for n in range(4):  # where a compiler knows by what it divides
        got = jax.jit(lambda x, n=n: multi_spike(Sigmoid(), 150, theta[n, 0], "nearest")(x))(
            multiples[n]
        )
        np.testing.assert_array_equal(got, np.minimum(np.arange(200) + 1, 150))


@pytest.mark.slow
def test_spike_types_of_nan_and_infinity():
    for make in KINDS.values():
        fire = make(Sigmoid(), 1.0)
        low, high, nan = fire(jnp.array([-jnp.inf, jnp.inf, jnp.nan]), key=KEY)
        assert low in (-1, 0)
        assert high in (1, N)
        assert jnp.isnan(nan)


@pytest.mark.slow
def test_the_mean_of_many_spikes_is_the_primal():
    """Within five standard errors, of 21 means: by chance beyond it once in 80,000 keys."""
    draws, x = 100_000, np.array([-3.0, -0.5, -0.1, 0.0, 0.3, 0.61, 1.0])
    clipped = PiecewiseLeakyRelu(c=0.05), lambda x: np.clip(x / 2 + 0.5, 0, 1)
    smooth = Sigmoid(4.0), lambda x: 1 / (1 + np.exp(-4 * x))
    for (curve, formula), dtype in (
        (clipped, np.float32),
        (smooth, np.float32),
        (smooth, jnp.bfloat16),
    ):
        at = np.asarray(x, dtype)
        p = formula(np.asarray(at, np.float64))
        fire = jax.jit(
            lambda x, curve=curve: stochastic(curve)(jnp.broadcast_to(x, (draws, 7)), key=KEY)
        )
        spikes = np.asarray(fire(at), np.float32)
        assert set(np.unique(spikes)) <= {0, 1}
        error = np.abs(spikes.mean(0) - p)
        assert np.all(error <= 5 * np.sqrt(p * (1 - p) / draws) + 1e-7), (curve, error)


@pytest.mark.slow
def test_keys():
    fire, x = stochastic(Sigmoid()), np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 2, 4)
    spikes, jitted = fire(x, key=KEY), jax.jit(lambda x, key: fire(x, key=key))
    assert np.array_equal(fire(x, key=KEY), spikes)
    assert not np.array_equal(jitted(x, jax.random.key(8)), spikes)
    assert np.array_equal(fire(x, key=jax.random.PRNGKey(7)), spikes)
    assert np.array_equal(jitted(x, KEY), spikes)

    @jax.jit
    def one_by_one():
        keys = jax.random.split(KEY, (3, 2))
        return fire(x, key=keys), jnp.stack(
            [fire(x[i, j], key=keys[i, j]) for i in range(3) for j in range(2)]
        )

    together, each = one_by_one()
    assert np.array_equal(together.reshape(each.shape), each)


class Noisy(Cell):
    """Draws on its own, without a stochastic surrogate."""

    draws = True

    def integrate(self, v, current):
        return v / 2 + current

    def fire(self, u, key=None):
        if key.ndim:  # one key for each example
            noise = jax.vmap(lambda key: jax.random.normal(key, u.shape[1:]))(key)
        else:
            noise = jax.random.normal(key, u.shape)
        s = Sigmoid()(u + noise - 1)
        return u - s, s


class Plain(Noisy):
    draws = False

    def fire(self, u):
        s = Sigmoid()(u - 1)
        return u - s, s


@pytest.mark.slow
def test_a_cell_that_draws_gets_the_key_and_no_other():
    x = np.random.default_rng(1).uniform(0, 2, (6, 2, 5)).astype(np.float32)
    identity = np.eye(5, dtype=np.float32)
    network = Network([Layer(identity, cell) for cell in (Noisy(), Plain(), LIF())])

    @jax.jit
    def run():
        of_noisy = [unroll(Noisy(), x, key=key)[1] for key in (KEY, jax.random.key(8))]
        first = x[0] + jax.random.normal(jax.random.fold_in(KEY, 0), x[0].shape) >= 1
        of_plain = unroll(Plain(), x, key=KEY)[1], unroll(Plain(), x)[1]
        return (
            of_noisy,
            first,
            of_plain,
            [network(x, key=KEY, backward=mode)[1] for mode in ("recompute", "scan")],
        )

    (noisy, again), first, of_plain, (recomputed, scanned) = run()
    assert not np.array_equal(noisy, again)
    assert np.array_equal(noisy[0], first)
    assert np.array_equal(*of_plain)
    assert np.array_equal(recomputed, scanned)
    assert scanned.any()


WRAPPERS = {
    "learnable": learnable,
    "bfloat16": functools.partial(keep_slope, dtype="bfloat16"),
    **{
        name: functools.partial(make, theta=THETA)
        for name, make in KINDS.items()
        if name != "signed"
    },
    "signed": functools.partial(signed, threshold=THETA),
}


def test_settings_are_one_object_in_every_order_or_a_reason():
    for names in [*itertools.product(WRAPPERS, repeat=2), *itertools.product(WRAPPERS, repeat=3)]:
        several = len(set(names) & set(KINDS)) > 1

        def under(names):
            return functools.reduce(lambda s, name: WRAPPERS[name](s), names, Sigmoid(2.0))

        if several:
            with pytest.raises(
                TypeError, match=r"surrogate already has a spike type, got .*. Use one spike type"
            ):
                under(names)
            continue
        surrogate, once = under(names), under(sorted(set(names)))
        assert surrogate == once
        assert hash(surrogate) == hash(once)
        assert repr(surrogate) == repr(once)
        assert eval(repr(surrogate), vars(spikegrad)) == surrogate
        assert pickle.loads(pickle.dumps(surrogate)) == surrogate
        assert jax.tree.map(lambda leaf: leaf, surrogate) == surrogate


STEPS, BATCH, INPUTS, NEURONS = 7, 3, 4, 5
rng = np.random.default_rng(221)  # of which every layer gives every number of spikes
INPUT = rng.uniform(0, 1.5, (STEPS, BATCH, INPUTS))
P = {
    "w": [
        rng.normal(mean, 0.8, (n, NEURONS))
        for n, mean in ((INPUTS, 0.3), (NEURONS, 0.5), (NEURONS, 0.05))
    ],
    "r": rng.normal(0, 0.4, (NEURONS, NEURONS)),
    "threshold": np.linspace(0.4, 0.8, NEURONS),
    "alpha": np.linspace(0.6, 1.2, NEURONS),  # so flat that the noise matters
}

MASK = rng.uniform(size=(STEPS, BATCH)) < 0.7
COTANGENTS = rng.normal(size=(3, STEPS, BATCH, NEURONS))


def build(p):
    s = learnable(Sigmoid(p["alpha"]))
    cells = [
        Refractory(LIF(0.8, p["threshold"], stochastic(s)), 1),
        AdaptiveLIF(0.8, p["threshold"], multi_spike(s, N), adaptation=0.2, adaptation_decay=0.7),
        SynapticLIF(0.7, p["threshold"], signed(s), synaptic_decay=0.6),
    ]
    return Network(
        [
            Layer(w, cell, None if n else p["r"])
            for n, (w, cell) in enumerate(zip(p["w"], cells, strict=True))
        ]
    )


def loop(p, inputs, mask):
    """The same in a loop of its own, each kind as a sum of spikes."""
    theta, zero = p["threshold"], jnp.zeros((BATCH, NEURONS))

    def plain(x):  # with the derivative in alpha that learnable gives
        at = jax.nn.sigmoid(p["alpha"] * x) * jax.nn.sigmoid(-p["alpha"] * x)
        lever = spike(jnp.broadcast_to(p["alpha"], x.shape), x * at)
        return spike(x, p["alpha"] * at) + lever - jax.lax.stop_gradient(lever)

    def drawn(x, t):
        key = functools.reduce(jax.random.fold_in, (t, 0), KEY)
        keys = jax.vmap(lambda b: jax.random.fold_in(key, b))(jnp.arange(BATCH))
        noise = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype))(keys)
        s = plain(x)
        return s + jax.lax.stop_gradient(
            (noise < jax.nn.sigmoid(p["alpha"] * x)).astype(x.dtype) - s
        )

    def fire(n, v, second, current, t):
        if n == 0:
            u = jnp.where(second > 0, v, 0.8 * v + current)
            s = jnp.where(second > 0, 0, drawn(u - theta, t))
            return u - theta * s, jnp.where(s > 0, 1.0, 0.0), s
        if n == 1:
            u, raised = 0.8 * v + current, theta + second
            s = sum(plain(u - (k + 1) * raised) for k in range(N))
            return u - raised * s, 0.7 * second + 0.2 * s, s
        i = 0.6 * second + current
        u = 0.7 * v + i
        s = plain(u - theta) - plain(-u - theta)
        return u - theta * s, i, s

    def step(states, now):
        t, below, active = now
        new = []
        for n, (v, second, s) in enumerate(states):
            new.append(fire(n, v, second, below @ p["w"][n] + (0 if n else s @ p["r"]), t))
            below = new[-1][2]
        held = jax.tree.map(lambda a, b: jnp.where(active[:, None], a, b), new, states)
        return held, jnp.stack([jnp.where(active[:, None], s, 0) for _, _, s in new])

    outs = jax.lax.scan(step, [(zero, zero, zero)] * 3, (jnp.arange(STEPS), inputs, mask))[1]
    return outs.swapaxes(0, 1)


@functools.cache
def expected():
    with jax.numpy_rank_promotion("allow"):
        return value_and_gradient(
            lambda p, x: loop(p, x, MASK), given(), jnp.asarray(INPUT), COTANGENTS
        )


def given():
    return jax.tree.map(jnp.asarray, P)


def test_a_network_is_the_loop(x64):
    """In the mode that compiles fastest, because test_random_graphs.py has every mode."""
    spikes, gradient = expected()
    assert [(layer.min(), layer.max()) for layer in spikes] == [(0, 1), (0, N), (-1, 1)]

    def run(p, x):
        return jnp.stack([*observed(build(p), x, key=KEY, mask=MASK, backward="scan")[1].values()])

    got, got_gradient = value_and_gradient(run, given(), jnp.asarray(INPUT), COTANGENTS)
    assert np.array_equal(got, spikes)
    for one, want in zip(jax.tree.leaves(got_gradient), jax.tree.leaves(gradient), strict=True):
        assert np.linalg.norm(one - want) < 1e-12 * np.linalg.norm(want)


@pytest.mark.slow
def test_a_stream_draws_what_a_sequence_draws(x64):
    """Step by step, and for one example alone."""
    network = build(given())
    step = jax.jit(
        lambda states, now, t: network.step(states, now, key=jax.random.fold_in(KEY, t))[0]
    )
    states = network.initial_state(INPUT[0])
    for t, now in enumerate(INPUT):
        active = MASK[t][:, None]
        states = jax.tree.map(
            lambda a, b, m=active: np.where(m, a, b), step(states, now, t), states
        )
        for n, (_, s) in enumerate(states.values()):
            assert np.array_equal(np.where(active, s, 0), expected()[0][n, t])
    alone = network(INPUT[:, :1], key=KEY, mask=MASK[:, :1], backward="scan")[1]
    assert np.array_equal(alone, expected()[0][-1][:, :1])


@pytest.mark.slow
def test_every_layer_draws_on_its_own():
    """Coins, in two layers: neither are they the same, nor others than the keys of step, layer and
    example give.
    """
    coin = LIF(threshold=0.0, surrogate=NOISY, reset="none")
    network = Network([Layer(np.zeros((n, 64), np.float32), coin) for n in (INPUTS, 64)])
    outs = observed(network, np.asarray(INPUT, np.float32), key=KEY)[1]
    draw = jax.jit(
        lambda *place: jax.random.uniform(functools.reduce(jax.random.fold_in, place, KEY), (64,))
    )
    for n, spikes in outs.items():
        for t, b in np.ndindex(STEPS, BATCH):
            assert np.array_equal(np.asarray(spikes)[t, b], draw(t, int(n), b) < 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(MODES, "exact", "8-bit"))
def test_noise_is_not_a_residual(mode):
    def bytes_of(surrogate, x, mask):
        def loss(w, x, key, mask):
            network = Network([Layer(w, LIF(0.9, 0.5, surrogate, "value"), w)])
            return network(x, key=key, mask=mask, backward=mode)[1].sum()

        return residual_report(loss, jnp.ones((16, 16)), x, KEY, mask).bytes

    for mask in (None, jnp.ones((12, 3), bool)):
        x = jnp.ones((12, 3, 16))
        assert bytes_of(stochastic(Sigmoid()), x, mask) == bytes_of(Sigmoid(), x, mask)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [pytest.param("half", marks=pytest.mark.every), "8-bit"])
def test_states_in_few_bits_fire_equally(mode):
    """Also next to the thresholds. Without settling it, one in a few hundred would not."""
    u = np.float32(rng.uniform(-3, 4, 4096))
    multiples = np.float32(0.7) * rng.integers(-1, 5, 4096).astype(np.float32)
    potentials = [u, multiples, *(np.nextafter(multiples, np.float32(s)) for s in (-9, 9))]
    potentials.append(np.float32(multiples * (1 + rng.uniform(-0.01, 0.01, 4096))))
    unsettled, storage = 0, STORAGES[mode]
    for surrogate in (stochastic(Sigmoid(6.0)), multi_spike(Sigmoid(), 4), signed(Sigmoid())):

        @jax.jit
        def differing(u, surrogate=surrogate):
            cell = LIF(threshold=0.7, surrogate=surrogate)

            def fired(kept):
                decoded = cell.decode(*storage.read(kept, cell.encode(u)))
                return spikegrad.neurons.fire(cell, decoded, KEY)[1]

            wanted = spikegrad.neurons.fire(cell, u, KEY)[1]
            kept = storage.write(cell.encode(u))
            settled = storage.settle(kept, lambda kept: fired(kept) == wanted)
            return (fired(kept) != wanted).sum(), (fired(settled) != wanted).sum()

        for potential in potentials:
            before, after = differing(jnp.asarray(potential))
            unsettled += before
            assert after == 0
    assert unsettled > 100


@pytest.mark.slow
def test_finite_differences_of_a_soft_network_hold(x64):
    """Of every parameter: weights, thresholds, widths."""
    direction = jax.tree.map(lambda a: np.random.default_rng(0).normal(size=a.shape), P)

    def loss(p):
        s = soft(learnable(Sigmoid(p["alpha"])))
        cells = LIF(0.8, p["threshold"], s), AdaptiveLIF(0.9, p["threshold"], s, "value")
        layers = [Layer(w, cell) for w, cell in zip(p["w"], cells, strict=False)]
        return (COTANGENTS[0] * Network(layers)(jnp.asarray(INPUT))[1]).sum()

    h, run = 1e-5, jax.jit(jax.value_and_grad(loss))
    ahead, behind = (
        run(jax.tree.map(lambda a, d, s=s: a + s * d, P, direction))[0] for s in (h, -h)
    )
    along = sum(
        np.vdot(*pair) for pair in zip(*map(jax.tree.leaves, (run(P)[1], direction)), strict=True)
    )
    np.testing.assert_allclose(along, (ahead - behind) / (2 * h), rtol=1e-7)


def test_cells_and_unroll_take_a_key():
    cell, currents = LIF(0.9, 1.0, stochastic(Sigmoid())), np.asarray(INPUT[:, 0], np.float32)
    v, spikes = unroll(cell, currents, key=KEY)
    step = jax.jit(lambda v, current, t: cell(v, current, key=jax.random.fold_in(KEY, t)))
    one = np.zeros(INPUTS, np.float32)
    for t, current in enumerate(currents):
        one, s = step(one, current, t)
        assert np.array_equal(s, spikes[t])
    np.testing.assert_allclose(one, v, rtol=1e-6)


def test_resets_of_several_and_of_negative_spikes():
    v, s = LIF(1.0, 0.5, multi_spike(Sigmoid(), 4))(
        np.zeros(5), np.array([0.375, 0.5, 1.125, 1.5, 9.0])
    )
    assert (s.tolist(), v.tolist()) == ([0, 1, 2, 3, 4], [0.375, 0, 0.125, 0, 7])
    v, s = LIF(1.0, 0.5, signed(Sigmoid()))(np.zeros(4), np.array([-0.75, -0.5, -0.25, 0.75]))
    assert (s.tolist(), v.tolist()) == ([-1, -1, 0, 1], [-0.25, 0, -0.25, 0.25])
    _, spikes = unroll(Refractory(LIF(1.0, 0.5, signed(Sigmoid())), 2), jnp.full((5, 1), -0.5))
    assert spikes[:, 0].tolist() == [-1, 0, 0, -1, 0]


class SlopeAlone(Surrogate):
    def surrogate_grad(self, x):
        return jnp.exp(-jnp.abs(x))


class Loud(Sigmoid):
    def __call__(self, x):
        return 2 * super().__call__(x)


NOISY = stochastic(Sigmoid())
LAYERS = Network([Layer(jnp.ones((2, 3)), LIF(surrogate=NOISY))])


REFUSED = {
    "TypeError: stochastic: key is missing. Pass it as surrogate(x, key=key)": lambda: NOISY(0.3),
    "TypeError: stochastic: key is missing. Pass it as": lambda: LAYERS(jnp.ones((4, 2))),
    "TypeError: stochastic: key must be one of jax.random.key, got 3": lambda: NOISY(0.3, key=3),
    "TypeError: Network: key must be one of jax.random.key(seed, impl='threefry2x32'), got "
    "key<rbg>()": (lambda: LAYERS(jnp.ones((4, 2)), key=jax.random.key(0, impl="rbg"))),
    "ValueError: stochastic: keys must have the leading axes of x, (3,), got shape (2,)": (
        lambda: NOISY(jnp.ones(3), key=jax.random.split(KEY))
    ),
    "TypeError: soft: SlopeAlone must define surrogate_fun": lambda: soft(SlopeAlone()),
    "TypeError: multi_spike: Loud must not override __call__": lambda: multi_spike(Loud(), 3),
    "TypeError: signed: surrogate must be a Surrogate, got 3": lambda: signed(3),
    "ValueError: multi_spike: threshold must be > 0, got -1.0": lambda: multi_spike(
        Sigmoid(), 2, -1
    ),
    "ValueError: multi_spike: slopes must be one of 'sum', 'nearest', 'first', got 'all'": (
        lambda: multi_spike(Sigmoid(), 2, 1, "all")
    ),
    "ValueError: signed: threshold must be > 0, got 0.0": lambda: signed(Sigmoid(), 0),
    "ValueError: multi_spike: n must be <= 256, the largest exact count in bfloat16, got 257": (
        lambda: multi_spike(Sigmoid(), 257)(jnp.ones(2, jnp.bfloat16))
    ),
    "ValueError: LIF: a reset to a value, which takes one spike a step, does not go with "
    "multi_spike(Sigmoid(": (lambda: LIF(surrogate=multi_spike(Sigmoid(), 2), reset="value")),
    "ValueError: LIF: delay_reset, which computes the last spike again, does not go with "
    "stochastic": (lambda: LIF(surrogate=NOISY, delay_reset=True)),
    "ValueError: AdaptiveLIF: adaptation, which spikes raise, does not go with signed": (
        lambda: AdaptiveLIF(surrogate=signed(Sigmoid()))
    ),
    "ValueError: LIF: a refractory period, which follows spikes, does not go with "
    "soft(Sigmoid(alpha=4.0))": (lambda: Refractory(LIF(surrogate=soft(Sigmoid())), 2)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_spike_types_reject_invalid_arguments(message):
    with pytest.raises((TypeError, ValueError)) as raised:
        REFUSED[message]()
    assert f"{type(raised.value).__name__}: {raised.value}".startswith(message)


def test_nir_has_none_but_the_step():
    exchange = pytest.importorskip("spikegrad.exchange", reason="an extra")
    for make in KINDS.values():
        network = Network(
            [Layer(np.ones((2, 3)), LIF(0.9, 1.0, make(Sigmoid(), 1.0), reset="none"))]
        )
        with pytest.raises(ValueError, match="to_nir writes the threshold of a plain step"):
            exchange.to_nir(network, dt=1e-3, discretization="euler")


@pytest.mark.parametrize("n", [18, 300])
def test_slopes_of_many_levels_are_a_loop(x64, n):
    """Next to a sum in NumPy, also in the distance and to the second order; a program of constant
    size.
    """
    x, theta, alpha = np.array([-1.3, 0.2, 4.6, 250.0]), 0.7, 3.0
    k = np.arange(n)
    e = np.exp(-alpha * np.abs(x[:, None] - k * theta))
    slope = alpha * e / (1 + e) ** 2
    bend = -np.sign(x[:, None] - k * theta) * alpha**2 * e * (1 - e) / (1 + e) ** 3

    def fire(x, theta):
        return multi_spike(Sigmoid(alpha), n, theta)(x)

    derivatives = jax.vmap(
        lambda x: (*jax.grad(fire, (0, 1))(x, theta), jax.grad(jax.grad(fire))(x, theta))
    )
    wanted = slope.sum(1), -(k * slope).sum(1), bend.sum(1)
    for got, want in zip(jax.jit(derivatives)(x), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    assert len(str(jax.make_jaxpr(jax.grad(fire))(0.3, theta))) < 20_000


def test_counts_up_to_a_million():
    assert multi_spike(Sigmoid(), 1_000_000, slopes="nearest")(jnp.float32(5e5)) == 500_001
