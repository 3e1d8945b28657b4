"""Neurons against a loop in NumPy whose derivative is written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spikegrad
from spikegrad import (
    LIF,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    Surrogate,
    SynapticLIF,
    learnable,
    parameter,
    unroll,
)
from spikegrad.neurons import Refractory

pytestmark = pytest.mark.oldest

STEPS, SIZE = 12, 4
rng = np.random.default_rng(0)
CURRENTS = rng.uniform(-0.3, 0.9, (STEPS, SIZE))
WEIGHTS = rng.normal(size=(STEPS, SIZE))  # what the loss makes of each spike
START = rng.uniform(-0.5, 0.5, SIZE)
FINAL = rng.normal(size=SIZE)  # and of the last state


def step(x):
    return (x >= 0).astype(x.dtype)


def sigmoid_slope(x, alpha=4.0):
    return alpha / (2 * np.cosh(alpha * x / 2)) ** 2


def run(decay, threshold, reset, currents, v, value=0.0, delay=False, norm=False):
    """Potentials before the reset, spikes, potentials after; with a delay, the state is that
    before.
    """

    def after(u, s):
        return {"subtract": u - threshold * s, "value": u * (1 - s) + value * s, "none": u}[reset]

    us, ss, vs = [], [], [v]
    for current in currents:
        u = decay * vs[-1] + (1 - decay if norm else 1) * current
        if delay:
            u = after(u, step(vs[-1] - threshold))
        s = step(u - threshold)
        us.append(u)
        ss.append(s)
        vs.append(u if delay else after(u, s))
    return np.array(us), np.array(ss), np.array(vs)


def gradient(decay, threshold, reset, detach, currents, v, value=0.0, delay=False, norm=False):
    """Backpropagation through time by hand, of ``jax_loss``.

    In decay, threshold, reset value, the currents and the first state.
    """
    us, ss, vs = run(decay, threshold, reset, currents, v, value=value, delay=delay, norm=norm)
    gain = 1 - decay if norm else 1
    of = {name: np.zeros_like(v) for name in ("decay", "threshold", "value")}
    of_currents = np.zeros_like(currents)

    def through_reset(u, s, of_v):
        """Of the potential before the reset, and of the spike."""
        of["threshold"] -= s * of_v * (reset == "subtract")
        of["value"] += s * of_v * (reset == "value")
        of_u = of_v * (1 - s if reset == "value" else 1)
        of_s = of_v * {"subtract": -threshold, "value": value - u, "none": 0.0}[reset]
        return of_u, 0.0 if detach else of_s

    def through_spike(u, of_s):
        slope = sigmoid_slope(u - threshold) * of_s
        of["threshold"] -= slope
        return slope

    of_v, of_s_next = FINAL, 0.0
    for t in reversed(range(len(currents))):
        if delay:
            of_u = of_v + through_spike(us[t], WEIGHTS[t] + of_s_next)
            charged = decay * vs[t] + gain * currents[t]
            of_u, of_s_next = through_reset(charged, step(vs[t] - threshold), of_u)
        else:
            of_u, of_s = through_reset(us[t], ss[t], of_v)
            of_u = of_u + through_spike(us[t], WEIGHTS[t] + of_s)
        of["decay"] += of_u * (vs[t] - (currents[t] if norm else 0))
        of_currents[t] = gain * of_u
        of_v = decay * of_u
    if delay:
        of_v = of_v + through_spike(vs[0], of_s_next)
    return of["decay"], of["threshold"], of["value"], of_currents, of_v


resets = pytest.mark.parametrize("reset", ["subtract", "value", "none"])


def jax_loss(cell, currents, v):
    v, spikes = unroll(cell, currents, v)
    return (WEIGHTS * spikes).sum() + (FINAL * v).sum()


@resets
@pytest.mark.parametrize("delay", [False, True])
def test_potentials_and_spikes(x64, reset, delay):
    value, start = 0.1 * (reset == "value"), START + 0.4  # of which some would fire
    cell = LIF(
        decay=0.8,
        threshold=0.6,
        reset=reset,
        reset_value=value,
        delay_reset=delay,
        norm_input=delay,
    )
    currents = CURRENTS * (5 if delay else 1)
    _, spikes, vs = run(0.8, 0.6, reset, currents, start, value=value, delay=delay, norm=delay)
    assert 5 < spikes.sum() < spikes.size - 5
    v, out = unroll(cell, currents, start)
    np.testing.assert_array_equal(out, spikes)
    np.testing.assert_allclose(v, vs[-1], rtol=1e-12)
    v = start
    for t in range(STEPS):
        v, s = cell(v, currents[t])
        np.testing.assert_array_equal(s, spikes[t])
        np.testing.assert_allclose(v, vs[t + 1], rtol=1e-12)


@resets
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(
    ("kind", "delay", "norm"),
    [("numbers", False, False), ("one per neuron", False, True), ("one per neuron", True, False)],
)
def test_gradients(x64, reset, detach, kind, delay, norm):
    decay, threshold = (
        (0.8, 0.6)
        if kind == "numbers"
        else (np.linspace(0.5, 0.9, SIZE), np.linspace(0.4, 0.8, SIZE))
    )
    value = 0.0
    if reset == "value":
        value = 0.1 if kind == "numbers" else np.linspace(0.05, 0.1, SIZE)
    options = {"reset": reset, "detach_reset": detach, "delay_reset": delay, "norm_input": norm}
    cell = LIF(
        jnp.asarray(decay), jnp.asarray(threshold), reset_value=jnp.asarray(value), **options
    )
    currents, start = CURRENTS * (3 if norm else 1), START + 0.4 * delay
    of_cell, *of_data = jax.grad(jax_loss, argnums=(0, 1, 2))(cell, currents, start)
    want = gradient(decay, threshold, reset, detach, currents, start, value, delay, norm)
    parameters = decay, threshold, value
    want = (
        *(w if np.ndim(p) else w.sum() for w, p in zip(want[:3], parameters, strict=True)),
        *want[3:],
    )
    for got, expected in zip(
        (of_cell.decay, of_cell.threshold, of_cell.reset_value, *of_data), want, strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


class Cauchy(Surrogate):
    gamma: float = parameter(default=0.5, above=0)

    def surrogate_grad(self, x):
        return 1 / (1 + (x / self.gamma) ** 2)


class Own(Surrogate):
    def __init__(self):
        super().__init__()

    def surrogate_grad(self, x):
        return 0.5


KINDS = (
    spikegrad.get("relu_grad"),
    Cauchy(),
    Own(),
    learnable(Sigmoid(2.0)),
    spikegrad.surrogates.arctan,
    jnp.tanh,
)


@pytest.mark.parametrize(
    "surrogate", KINDS, ids=lambda s: s.__name__ if hasattr(s, "__name__") else str(s)
)
def test_any_surrogate(surrogate):
    """One step: the spike is the surrogate's, and its derivative in the current is too."""
    cell = LIF(decay=0.5, threshold=0.75, surrogate=surrogate, reset="none")
    v, current, x = np.float32([0.5, 1.0]), np.float32([0.25, 0.75]), np.float32([-0.25, 0.5])

    @jax.jit
    def run():
        slopes = (
            jax.grad(lambda i: cell(v, i)[1].sum())(current),
            jax.grad(lambda x: surrogate(x).sum())(x),
        )
        return cell(v, current), surrogate(x), slopes, unroll(cell, jnp.ones((3, 2)))[1]

    (new, s), expected, slopes, spikes = run()
    assert new.tolist() == [0.5, 1.25]
    np.testing.assert_array_equal(s, expected)
    np.testing.assert_allclose(*slopes, rtol=1e-6)
    assert spikes.shape == (3, 2)


@pytest.mark.parametrize(
    "dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__
)
def test_the_state_gives_the_dtype(dtype):
    """Numbers of few bits, so that every format gives exactly the same."""
    numbers = np.array([[0.5, 1.0], [1.0, 0.0], [0.25, 1.5], [2.0, 1.0]])
    currents = [numbers.astype(d) for d in (jnp.float16, jnp.bfloat16, np.float32, np.float64)]
    cell = LIF(decay=0.5, threshold=jnp.array([1.0, 0.75]), reset="value")

    def from_rest(i):
        return unroll(cell, i, jnp.zeros(2, dtype))

    @jax.jit
    def outputs_and_slopes():
        total = jax.grad(lambda i: from_rest(i)[1].astype(jnp.float32).sum())
        return [from_rest(i) for i in (*currents, np.eye(4, 2, dtype=int))], [
            total(jnp.asarray(i)) for i in currents
        ]

    outputs, slopes = outputs_and_slopes()
    for (v, out), given in zip(outputs, (*currents, np.eye(4, 2)), strict=True):
        _, spikes, vs = run(0.5, np.array([1.0, 0.75]), "value", given.astype(float), np.zeros(2))
        assert v.dtype == out.dtype == dtype
        np.testing.assert_array_equal(np.asarray(v, float), vs[-1])
        np.testing.assert_array_equal(np.asarray(out, float), spikes)
    for slope, given in zip(slopes, currents, strict=True):
        assert slope.dtype == jnp.asarray(given).dtype
        assert np.isfinite(np.asarray(slope, float)).all()


@pytest.mark.parametrize(
    ("dtype", "stuck", "known"), [("bfloat16", 0.999, 0.98), ("float16", 0.9999, 0.995)]
)
def test_potentials_that_16_bits_cannot_decay(dtype, stuck, known):
    """The potential that never leaks, and one that leaks as it should, beside powers of the
    decay.
    """
    start, currents = jnp.ones(2, dtype), jnp.zeros((50, 2), dtype)
    for decay in (stuck, np.array([0.5, stuck])):
        with pytest.warns(
            UserWarning, match=f"unroll: LeakyReadout: decay=.* less than {dtype} resolves"
        ):
            v, _ = unroll(LeakyReadout(decay), currents, start)
        assert v[1] == 1 > stuck**50 + 0.004
    v, _ = unroll(LeakyReadout(known), currents, start)
    np.testing.assert_allclose(v.astype(float), known**50, rtol=0.15)
    unroll(LeakyReadout(1.0), currents, start)  # never leaks on purpose
    unroll(LeakyReadout(stuck), currents.astype("float32"))


@pytest.mark.slow
def test_a_network_names_the_layer_that_cannot_decay():
    weight = jnp.eye(3, dtype=jnp.bfloat16)
    resting = Refractory(SynapticLIF(0.9, synaptic_decay=0.999), 2)
    network = Network({"a": Layer(weight, LIF(0.95)), "slow": Layer(weight, resting)})
    with pytest.warns(
        UserWarning, match="Network: layer 'slow': SynapticLIF: synaptic_decay=0.999"
    ):
        network(jnp.zeros((4, 2, 3)))

    def wide(x):
        return jnp.dot(x.astype(weight.dtype), weight, preferred_element_type=jnp.float32)

    states, _ = Network([Layer(wide, SynapticLIF(0.9, synaptic_decay=0.999))])(
        jnp.ones((100, 2, 3))
    )
    (_, i), _ = states["0"]
    np.testing.assert_allclose(i, (1 - 0.999**100) / (1 - 0.999), rtol=1e-5)


def test_without_a_state_the_currents_give_the_dtype():
    for dtype in (jnp.bfloat16, jnp.float32):
        v, out = unroll(LIF(jnp.array(0.5)), jnp.ones((3, 2), dtype))
        assert v.dtype == out.dtype == dtype
    assert unroll(LIF(), np.ones((3, 2), int))[1].dtype == jnp.float32


@pytest.mark.parametrize(
    "cell", [LIF(0.8, 0.6), LeakyReadout(0.8), Refractory(LIF(0.9, 0.5), 3)], ids=repr
)
def test_going_on_with_a_sequence(cell):
    def at_once(currents):
        v, outs = unroll(cell, currents)
        return (WEIGHTS.astype(np.float32) * outs).sum(), (v, outs)

    def in_two(currents):
        v, first = unroll(cell, currents[:5])
        v, second = unroll(cell, currents[5:], v)
        outs = jnp.concatenate([first, second])
        return (WEIGHTS.astype(np.float32) * outs).sum(), (v, outs)

    run = jax.jit(
        lambda currents: [jax.grad(run, has_aux=True)(currents) for run in (in_two, at_once)]
    )
    (got, values), (expected, whole) = run(jnp.asarray(CURRENTS, jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, values, whole)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    half = unroll(cell, np.float32(CURRENTS[:5]))[0]
    v, _ = unroll(
        cell, np.float32(CURRENTS[5:]), jax.tree.map(np.asarray, half)
    )  # from a file, say
    jax.tree.map(np.testing.assert_array_equal, v, whole[0])


def test_leaky_readout(x64):
    decay = np.linspace(0.5, 1, SIZE)
    powers = np.array(
        [[decay ** max(t - k, 0) * (k <= t) for k in range(STEPS)] for t in range(STEPS)]
    )
    want = (
        np.einsum("tkn,kn->tn", powers, CURRENTS)
        + decay ** np.arange(1, STEPS + 1)[:, None] * START
    )
    v, out = unroll(LeakyReadout(decay), CURRENTS, START)
    np.testing.assert_allclose(out, want, rtol=1e-12)
    np.testing.assert_array_equal(v, out[-1])
    of_currents = jax.grad(lambda c: (WEIGHTS * unroll(LeakyReadout(decay), c)[1]).sum())(CURRENTS)
    np.testing.assert_allclose(of_currents, np.einsum("tkn,tn->kn", powers, WEIGHTS), rtol=1e-10)

    def numpy_loss(d):
        v = np.zeros(SIZE)
        total = 0.0
        for t in range(STEPS):
            v = d * v + CURRENTS[t]
            total += (WEIGHTS[t] * v).sum()
        return total

    of_decay = jax.grad(lambda d: (WEIGHTS * unroll(LeakyReadout(d), CURRENTS)[1]).sum())(0.8)
    np.testing.assert_allclose(
        of_decay, (numpy_loss(0.8 + 1e-6) - numpy_loss(0.8 - 1e-6)) / 2e-6, rtol=1e-6
    )


def test_shapes():
    for shape in ((), (3,), (2, 3), (2, 1, 3)):
        v, out = unroll(LIF(), jnp.ones((5, *shape)))
        assert v.shape == shape
        assert out.shape == (5, *shape)
    v, out = LIF()(jnp.zeros((2, 3)), jnp.ones(3))  # a current for all
    assert v.shape == out.shape == (2, 3)
    assert unroll(LIF(), jnp.ones((0, 3)))[1].shape == (0, 3)


def test_nan_stays_nan():
    v, out = unroll(LIF(reset="subtract"), jnp.array([[0.5, 0.5], [jnp.nan, 0.5], [0.5, 0.5]]))
    assert np.isnan(v).tolist() == [True, False]
    assert np.isnan(out).tolist() == [[False, False], [True, False], [True, False]]
