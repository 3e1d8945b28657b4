"""Cells and networks whose code is on a page, against loops in NumPy."""

import doctest
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from networks import assert_close

from spikegrad import Layer, Network, Sigmoid, unroll
from spikegrad.network import MODES
from spikegrad.testing import CheckFailedError, check_cell

pytestmark = [pytest.mark.usefixtures("default_promotion"), pytest.mark.slow]
RNG = np.random.default_rng(4)


def names_of(page, *titles):
    """The names that the examples of some sections of a page define."""
    text, space = (ROOT / "docs" / page).read_text(), {}
    for title in titles:
        section = re.split(rf"^#+ {title}\n", text, flags=re.MULTILINE)[1]
        section = re.split("^#", section, flags=re.MULTILINE)[0]
        for example in doctest.DocTestParser().get_examples(section):
            exec(compile(example.source, page, "single"), space)
    return space


@pytest.fixture
def rotation():
    titles = "Leaky integrate-and-fire", "Networks", "Custom cells", "Complex states"
    return names_of("neurons.md", *titles)["Rotation"]


@pytest.mark.slow
def test_a_complex_state_is_that_of_a_loop(rotation):
    angle = np.linspace(0.1, 1.5, 6)
    currents = RNG.normal(0.3, 0.4, (40, 6)).astype(np.float32)
    last, spikes = jax.jit(lambda x: unroll(rotation(angle=jnp.float32(angle)), x))(currents)
    z, expected = np.zeros(6, complex), []
    for current in currents:
        z = 0.95 * np.exp(1j * angle) * z + current
        expected.append(z.real >= 1)
        z = z - expected[-1]
    assert 0.05 < np.mean(expected) < 0.6
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(last, z, rtol=1e-4, atol=1e-4)


def test_a_cell_with_a_complex_state_passes_the_check(rotation):
    assert check_cell(rotation(), steps=6).passed

    class Mixed(rotation, pure=True):
        def integrate(self, v, current):  # only the imaginary part mixes examples
            u = rotation.integrate(self, v, current)
            return jax.lax.complex(u.real, u.imag + 0 * u.imag.mean(0))

    with pytest.raises(CheckFailedError, match="examples do not see each other"):
        check_cell(Mixed(), steps=6)


@pytest.mark.slow
def test_gradients_of_a_complex_state_are_those_of_two_real_ones(rotation):
    class Real(rotation, pure=True):
        def initial_state(self, shape, dtype):
            return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

        def integrate(self, v, current):
            (x, y), keep = v, self.decay
            cos, sin = keep * jnp.cos(self.angle), keep * jnp.sin(self.angle)
            return cos * x - sin * y + current, sin * x + cos * y

        def fire(self, u):
            v, spikes = rotation.fire(self, jax.lax.complex(*u))
            return (v.real, v.imag), spikes

    x = RNG.normal(0.4, 1, (12, 3, 4)).astype(np.float32)
    weight, angle = jnp.asarray(RNG.normal(0, 0.5, (4, 5))), jnp.linspace(0.1, 1.5, 5)

    def loss(parameters, cell, mode):
        weight, angle = parameters
        return (Network([Layer(weight, cell(angle=angle))])(x, backward=mode)[1] ** 2).mean()

    @jax.jit
    def gradients(parameters):
        gradient = jax.grad(loss)
        of_modes = [gradient(parameters, rotation, mode) for mode in MODES]
        return gradient(parameters, Real, "scan"), of_modes

    expected, found = gradients((jnp.float32(weight), angle))
    assert all(np.abs(leaf).max() > 1e-3 for leaf in expected)
    for leaves in found:
        assert_close(leaves, expected, error=2e-5)


def silif_source(p, state, x):
    """SSM-inspired-LIF (bca1fbe), without its random initial states."""
    u, w, s = state
    alpha = jnp.exp(-jnp.exp(p["log_alpha"]) * jnp.exp(p["log_dt"]))
    beta = jnp.exp(-jnp.exp(p["log_beta"]) * jnp.exp(p["log_dt"]))
    a, b = jnp.clip(p["a"], 0.0, 1.0), jnp.clip(p["b"], 0.0, 2.0)
    w = beta * w + a * u + b * s
    u = alpha * (u - s) + (1 - alpha) * (x - w)
    s = Sigmoid()(u - 1)
    return (u, w, s), s


def csilif_source(p, state, x):
    """Likewise, with the real and the imaginary part as two numbers."""
    real, imag, s = state
    dt = jnp.exp(p["log_dt"])
    kept, turn = jnp.exp(-jnp.exp(p["log_rate"]) * dt), p["angle"] * dt
    real = real - 0.5 * s
    real, imag = (
        kept * (jnp.cos(turn) * real - jnp.sin(turn) * imag) + p["gain"] * x,
        kept * (jnp.sin(turn) * real + jnp.cos(turn) * imag),
    )
    s = Sigmoid()(2 * real - 1)
    return (real, imag, s), s


SILIF = {"log_alpha": 3.26, "log_beta": 1.6, "log_dt": -5.5, "a": 0.04, "b": 1.5}
CSILIF = {"log_rate": -0.7, "angle": 3.1, "log_dt": -1.5, "gain": 0.4}
# parameters, the step of the source, mean and deviation of the input
OF_FABRE = {
    "SiLIF": (SILIF, silif_source, (4, 6)),
    "CSiLIF": (CSILIF, csilif_source, (0.5, 1)),
}


@pytest.mark.parametrize("name", OF_FABRE)
def test_silif_neurons_fire_and_learn_as_the_code_of_their_paper(x64, name):
    numbers, source, (mean, deviation) = OF_FABRE[name]
    cell = names_of("cells.md", "SiLIF", "C-SiLIF")[name]
    x, weights = RNG.normal(mean, deviation, (200, 6)), RNG.normal(size=(200, 6))
    parameters = {key: value * RNG.uniform(0.98, 1, 6) for key, value in numbers.items()}

    def ours(p, x):
        spikes = unroll(cell(**p, surrogate=Sigmoid()), x)[1]
        return (weights * spikes).sum(), spikes

    def theirs(p, x):
        start = (jnp.zeros(6),) * 3
        spikes = jax.lax.scan(lambda state, x: source(p, state, x), start, x)[1]
        return (weights * spikes).sum(), spikes

    run = jax.jit(
        lambda *args: [jax.grad(each, (0, 1), has_aux=True)(*args) for each in (ours, theirs)]
    )
    (got, spikes), (wanted, expected) = run(parameters, x)
    np.testing.assert_array_equal(spikes, expected)
    assert 0.005 < expected.mean() < 0.6
    for found, known in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.abs(known).max() > 0
        np.testing.assert_allclose(found, known, rtol=1e-7, atol=1e-9 * np.abs(known).max())


@pytest.mark.parametrize("subtracts", [False, True])
def test_a_spiking_lstm_is_that_of_a_loop(subtracts):
    # Its own numbers, because the rate of spikes below depends on them.
    rng = np.random.default_rng(0)
    slstm = names_of("cells.md", "SiLIF", "Spiking LSTM")["slstm"]
    n, inputs, threshold = 5, 3, 0.2
    shapes = {"weight_ih": (4 * n, inputs), "weight_hh": (4 * n, n)}
    shapes |= {"bias_ih": (4 * n,), "bias_hh": (4 * n,)}
    state = {name: rng.normal(0, 1.5, shape).astype("f4") for name, shape in shapes.items()}
    x = rng.normal(size=(30, 4, inputs)).astype("f4")
    _, spikes = jax.jit(Network(slstm(state, threshold, subtracts)))(x)

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    # SLSTM of snnTorch, with the LSTMCell of PyTorch
    syn, mem, expected = np.zeros((4, n)), np.zeros((4, n)), []
    for step in x:
        gates = step @ state["weight_ih"].T + state["bias_ih"]
        gates = gates + mem @ state["weight_hh"].T + state["bias_hh"]
        i, f, g, o = np.split(gates, 4, axis=1)
        reset = mem > threshold
        syn = sigmoid(f) * syn + sigmoid(i) * np.tanh(g)
        mem = sigmoid(o) * np.tanh(syn) - subtracts * threshold * reset
        expected.append(mem > threshold)
    assert 0.05 < np.mean(expected) < 0.6
    np.testing.assert_array_equal(spikes, expected)


@pytest.mark.slow
def test_a_late_bias_and_trained_thresholds():
    titles = "From a ReLU network", "Biases that start later", "Train further"
    space = names_of("conversion.md", *titles)
    spikes, images = np.asarray(space["spikes"]), np.asarray(space["images"], np.float64)
    v, expected = 0.0, []
    for step in range(8):
        v = v + images @ np.asarray(space["w1"], np.float64) + (step > 0) * np.asarray(space["b1"])
        expected.append(v >= 1)
        v = v - expected[-1]
    assert (spikes == expected).mean() > 0.999  # a potential at the threshold
    network, before = space["dense"], space["to_spiking"](space["relu"], space["images"][None], 8)
    x = jnp.broadcast_to(space["images"], (8, 100, 20))
    (value, gradient), same = jax.jit(
        lambda n, m: (jax.value_and_grad(lambda n: (n(x)[1] ** 2).mean())(n), (m(x)[1] ** 2).mean())
    )(network, before)
    assert float(value) == pytest.approx(float(same), rel=1e-4)
    threshold = gradient.layers["0"].cell.threshold.raw
    assert threshold.shape == (50,)
    assert np.abs(threshold).max() > 1e-3
