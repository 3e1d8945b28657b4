"""Weights at the start: the potentials that they make, against sums and simulations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from networks import assert_raises, observed

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Cell,
    Layer,
    LeakyReadout,
    Network,
    SynapticLIF,
    bounded,
    neurons,
    parameter,
)
from spikegrad.network import fluctuation_driven
from spikegrad.neurons import LinearResponse, MultiSynapticLIF, Refractory
from spikegrad.surrogates import sigmoid

pytestmark = pytest.mark.oldest

N, NEURONS = 300, 250
KEY = jax.random.key(3)

CELLS = {  # with decay, synaptic decay and gain
    "lif": (LIF(0.9), 0.9, 0.0, 1.0),
    "adaptive, norm_input": (AdaptiveLIF(0.8, norm_input=True), 0.8, 0.0, 0.2),
    "synaptic": (SynapticLIF(0.9, synaptic_decay=0.8), 0.9, 0.8, 1.0),
    "synaptic, norm_input": (
        SynapticLIF(0.95, synaptic_decay=0.7, norm_input=True),
        0.95,
        0.7,
        0.05,
    ),
    "refractory": (Refractory(SynapticLIF(0.7, synaptic_decay=0.7), steps=2), 0.7, 0.7, 1.0),
    "bounded": (LIF(bounded(0.9)), 0.9, 0.0, 1.0),
    "readout": (LeakyReadout(0.95), 0.95, 0.0, 1.0),
    "readout, norm_input": (LeakyReadout(0.95, norm_input=True), 0.95, 0.0, 0.05),
}


def potentials(currents, decay, synapse, gain, mask=None):
    """Without spikes, in float64: ``(steps, examples, neurons)``."""
    u = i = np.zeros(currents.shape[1:])
    out = []
    for t, current in enumerate(np.asarray(currents, np.float64)):
        there = True if mask is None else mask[t][:, None]
        i = np.where(there, synapse * i + current, i)
        u = np.where(there, decay * u + gain * i, u)
        out.append(u)
    return np.array(out)


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", CELLS)
def test_weights_solve_the_equations_of_the_paper_and_of_what_differs_between_neurons(name):
    cell, decay, synapse, gain = CELLS[name]
    impulse = np.zeros((2000, 1, 1))
    impulse[0] = 1
    kernel = potentials(impulse, decay, synapse, gain).ravel()
    for n, p, mean, std in ((300, 0.004, 0.0, None), (4, 0.2, 0.3, 0.7)):
        mu = mean / (n * p * kernel.sum())
        target = (
            (1.0 if std is None else std) ** 2 - mu**2 * n * p * (1 - p) * (kernel**2).sum()
        ) / n
        variance = target / (p * (1 - p) * (kernel**2).sum() + p**2 * kernel.sum() ** 2)
        weight = fluctuation_driven(cell, p, mean=mean, std=std)(KEY, (n, 20))
        np.testing.assert_allclose(
            weight, mu + np.sqrt(variance) * jax.random.normal(KEY, (n, 20)), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", ["lif", "synaptic, norm_input", "readout"])
def test_potentials_of_random_spikes(name):
    cell, decay, synapse, gain = CELLS[name]
    spikes = rng().random((400, 10, N)) < 0.05
    fired = rng().random((400, 10, NEURONS)) < 0.05  # as if neurons fired by themselves
    layer = Layer.init(KEY, N, NEURONS, cell, rate=0.05, mean=0.4, std=0.6, recurrent=True)
    parts = (spikes, layer.weight), (fired, layer.recurrent)
    below, feedback = (
        potentials(x @ np.asarray(w, float), decay, synapse, gain)[200:] for x, w in parts
    )
    assert below.var() / (below.var() + feedback.var()) == pytest.approx(0.9, rel=0.03)
    assert (below + feedback).std() == pytest.approx(0.6, rel=0.05)
    assert (below + feedback).mean() == pytest.approx(0.4, abs=0.05)


@pytest.mark.slow
def test_potentials_of_inputs_that_are_measured():
    """Real numbers that go on from step to step and from channel to channel, in sequences that are
    short.
    """
    steps, examples, channels = 30, 60, 8
    noise = rng().normal(size=(steps, examples, channels)) @ rng().normal(size=(channels, channels))
    mask = np.arange(steps)[:, None] < rng().integers(5, steps, examples)
    x = np.where(mask[:, :, None], potentials(noise, 0.9, 0.0, 1.0) + 1.5, 1e3)
    for name, mean in (("lif", 0.0), ("synaptic", 0.3), ("readout", -0.2)):
        cell, *decays = CELLS[name]
        draw = fluctuation_driven(cell, x.astype(np.float32), mask=mask, mean=mean, std=0.8)
        weight = np.asarray(draw(KEY, (channels, 4000)), np.float64)
        found = potentials(x @ weight, *decays, mask)[mask]
        assert found.std() == pytest.approx(0.8, rel=0.05)
        assert found.mean() == pytest.approx(mean, abs=0.05)


def test_neurons_with_decays_of_their_own():
    decays, few = np.repeat([0.5, 0.95], 200), 60
    cell = LIF(decays, threshold=np.repeat([1.0, 2.0], 200))
    spikes = rng().random((400, 6, few)) < 0.05
    for inputs in (0.05, spikes):
        weight = np.asarray(fluctuation_driven(cell, inputs)(KEY, (few, 400)), np.float64)
        found = potentials(spikes @ weight, decays, 0.0, 1.0)[0 if np.ndim(inputs) else 100 :]
        assert found[:, :, :200].std() == pytest.approx(1, rel=0.05)
        assert found[:, :, 200:].std() == pytest.approx(2, rel=0.05)


def test_convolutions():
    images = rng().random((40, 4, 10, 10, 3)) < 0.1
    windows = np.lib.stride_tricks.sliding_window_view(
        images, (5, 5), (2, 3)
    )  # those of a convolution
    for rate in (0.1, images):
        kernel = np.asarray(fluctuation_driven(LIF(0.8), rate)(KEY, (5, 5, 3, 64)), np.float64)
        currents = np.einsum("tbhwcij,ijcn->tbhwn", windows, kernel, optimize=True)
        found = potentials(currents, 0.8, 0.0, 1.0)
        assert found[0 if np.ndim(rate) else 20 :].std() == pytest.approx(1, rel=0.05)


@pytest.mark.slow
def test_each_layer_of_a_network_goes_by_the_spikes_of_the_one_below():
    spikes = rng().random((40, 12, 40)) < 0.1
    mask = np.arange(40)[:, None] < rng().integers(20, 40, 12)
    cell, readout = SynapticLIF(0.9, synaptic_decay=0.8), LeakyReadout(0.95)
    options = {"mask": mask, "recurrent": True, "std": 0.9, "bias": True}
    key = jax.random.key(3, impl="rbg")  # a key of any kind, because no spikes are drawn
    network = jax.jit(
        lambda: Network.init(key, spikes, (200, 150, 100), cell, readout, **options)
    )()
    first, second, last = network.layers.values()
    assert [layer.weight.shape for layer in network.layers.values()] == [
        (40, 200),
        (200, 150),
        (150, 100),
    ]
    assert (first.recurrent.shape, second.recurrent.shape, last.recurrent) == (
        (200, 200),
        (150, 150),
        None,
    )
    assert not any(np.any(layer.bias) for layer in network.layers.values())
    one, two, out = map(
        np.asarray, jax.jit(lambda: [*observed(network, spikes, mask=mask)[1].values()])()
    )

    def expected(x, weight, decays):
        """The standard deviation over all weights that might have been drawn."""
        traces = potentials(x, *decays, mask)[mask]
        return np.sqrt((np.asarray(weight, np.float64) ** 2).mean() * (traces**2).sum(1).mean())

    for x, s, layer in ((spikes, one, first), (one, two, second)):
        assert expected(x, layer.weight, (0.9, 0.8, 1)) == pytest.approx(
            0.9 * np.sqrt(0.9), rel=0.03
        )
        assert 0.01 < s[mask].mean() < 0.1
        before = np.concatenate(
            [np.zeros_like(s[:1]), s[:-1]]
        )  # their rate was measured without the feedback
        assert expected(before, layer.recurrent, (0.9, 0.8, 1)) == pytest.approx(
            0.9 * np.sqrt(0.1), rel=0.15
        )
    assert expected(two, last.weight, (0.95, 0, 1)) == pytest.approx(1, rel=0.03)
    assert out[mask].std() == pytest.approx(1, rel=0.25)


@pytest.mark.slow
def test_initializers_of_jax():
    he, even = (
        jax.nn.initializers.he_normal(),
        jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    )
    layer = Layer.init(
        KEY, 400, 200, LIF(), weight=he, recurrent=jax.nn.initializers.orthogonal(), bias=True
    )
    assert layer.weight.std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    recurrent = np.asarray(layer.recurrent)
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(200), atol=1e-4)
    assert not layer.bias.any()
    layer = Layer.init(KEY, 100, 400, LIF(), weight=even, recurrent=True, dtype=jnp.bfloat16)
    assert layer.weight.dtype == layer.recurrent.dtype == jnp.bfloat16
    for weight, n in ((layer.weight, 100), (layer.recurrent, 400)):
        weight = np.asarray(weight, np.float64)
        assert 0.98 / np.sqrt(n) < abs(weight).max() < 1.005 / np.sqrt(n)  # rounded
        assert weight.std() == pytest.approx(1 / np.sqrt(3 * n), rel=0.03)
    other = Layer.init(KEY, 100, 400, LIF(), rate=0.1, recurrent=even)
    whole = Layer.init(KEY, 100, 400, LIF(), rate=0.1)
    assert np.array_equal(other.weight, whole.weight)  # all of the deviation


@pytest.mark.slow
def test_keys_can_be_mapped_and_give_independent_weights():
    """Of layers of one size, whose weights would be the same if they shared a key."""

    def drawn(key):
        cell = LIF(jnp.full(20, 0.9))
        network = Network.init(key, 20, (20, 20, 20, 20), cell, cell, rate=0.1, recurrent=True)
        return [
            w
            for layer in network.layers.values()
            for w in (layer.weight, layer.recurrent)
            if w is not None
        ]

    keys = jax.random.split(KEY, 2)
    several, one = jax.jit(jax.vmap(drawn))(keys), drawn(keys[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5), several, one)
    correlations = np.corrcoef(np.stack([np.ravel(w) for w in one])) - np.eye(7)
    assert np.abs(correlations).max() < 0.2


@pytest.mark.slow
def test_inputs_may_be_of_another_precision(x64):
    spikes = np.random.default_rng(0).random((20, 4, 9)) < 0.3
    expected, found = jax.jit(lambda *inputs: [Layer.init(KEY, each, 5, LIF()) for each in inputs])(
        spikes, jnp.asarray(spikes, jnp.bfloat16)
    )
    assert found.weight.dtype == np.float64
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-12)


class Declared(LIF):
    """Another name and another leak, and what is declared of them."""

    def integrate(self, v, current):
        return 0.5 * v + 3 * current

    def linear_response(self):
        return LinearResponse(0.5, 3.0, threshold=2.0)


class TwoStates(Cell):
    """The threshold is in the code of ``fire`` alone."""

    decay: float = parameter(default=0.9)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(shape, int)

    def integrate(self, v, current):
        u, i, count = v
        i = 0.8 * i + current
        return self.decay * u + i, i, count

    def fire(self, u):
        u, i, count = u
        s = sigmoid(u - 2.5)
        return (u - s, i, count + 1), s


class Steady(Cell):
    """Fires without inputs, every ``1 / step`` steps."""

    step: float = parameter(default=0.25)

    def integrate(self, v, current):
        return v + self.step + current

    def fire(self, u):
        s = sigmoid(u - 1)
        return u * (1 - s), s


class Rotating(Cell):
    """Its state is complex, and the real part has a threshold of 1."""

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, jnp.complex64)

    def integrate(self, v, current):
        return jnp.asarray(0.9 * np.exp(0.7j), v.dtype) * v + current.astype(v.dtype)

    def fire(self, u):
        s = sigmoid(u.real - 1)
        return u - s.astype(u.dtype), s


class InOneArray(Cell):
    def initial_state(self, shape, dtype):
        return jnp.zeros((*shape, 2), dtype)

    def integrate(self, v, current):
        return jnp.stack([0.9 * v[..., 0] + current, v[..., 1]], -1)

    def fire(self, u):
        return u, (u[..., 0] >= 1).astype(u.dtype)


class WithBarrier(Cell):
    """A neuron that loses small currents."""

    def integrate(self, v, current):
        return 0.9 * v + jnp.where(abs(current) < 0.5, 0, current)

    def fire(self, u):
        return u, (u >= 1).astype(u.dtype)


MEASURED = {
    "several states": (TwoStates(), SynapticLIF(0.9, threshold=2.5, synaptic_decay=0.8), None),
    "decays of neurons": (
        TwoStates(np.array([[0.9, 0.5, 0.7]])),
        SynapticLIF(np.array([0.9, 0.5, 0.7])),
        2.5,
    ),
    "one receptor": (MultiSynapticLIF(0.9, synaptic_decay=np.array([0.8])), SynapticLIF(0.9), None),
}
WINDOW = rng().random((30, 4, 9)) < 0.3
HOLES = rng().random((30, 4)) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", few(MEASURED, "several states"))
@pytest.mark.parametrize("measured", few([False, True], True))
def test_a_measured_response_is_that_of_the_declared_cell(name, measured):
    cell, known, threshold = MEASURED[name]
    options = {"mean": 0.2} | ({"rate": WINDOW, "mask": HOLES} if measured else {"rate": 0.1})
    std = {} if threshold is None else {"std": threshold - 0.2}
    shape = (9, 3, 1) if name == "one receptor" else (9, 3)
    expected = fluctuation_driven(known, **options, **std)(KEY, (9, 3))
    found = fluctuation_driven(cell, **options)(KEY, shape)
    assert np.linalg.norm(found.reshape(9, 3) - expected) < 1e-4 * np.linalg.norm(expected)


def test_a_cell_that_fires_without_inputs_responds_until_then():
    """It is 0.67 below the threshold after its first step, and 0.01 after the third: a small pulse
    makes no spike.
    """
    n, p = 50, 0.1
    square = (p - p**2) * 3 + (3 * p) ** 2
    weight, normal = (
        fluctuation_driven(Steady(0.33), p)(KEY, (n, 7)),
        jax.random.normal(KEY, (n, 7)),
    )
    np.testing.assert_allclose(weight, 0.67 / np.sqrt(n * square) * normal, rtol=1e-4)


def test_a_complex_state_responds_by_its_real_part():
    time, (steps, _, n) = np.arange(30), WINDOW.shape
    response = 0.9**time * np.cos(0.7 * time)
    potentials = np.apply_along_axis(lambda x: np.convolve(x, response)[:steps], 0, WINDOW)
    normal = jax.random.normal(KEY, (n, 7))
    weight = fluctuation_driven(Rotating(), WINDOW)(KEY, (n, 7))
    expected = normal / np.sqrt(n * (potentials**2).mean())
    np.testing.assert_allclose(weight, expected, rtol=1e-4)


@pytest.mark.slow
def test_receptors_give_equal_parts_of_the_variance():
    gamma = np.array([0.3, 0.9])
    cell = MultiSynapticLIF(0.9, threshold=2.0, synaptic_decay=gamma)
    spikes = rng().random((300, 10, N)) < 0.05
    layer = Layer.init(KEY, spikes, (NEURONS, 2), cell, recurrent=True, bias=True)
    assert layer.weight.shape == (N, NEURONS, 2)
    assert layer.recurrent.shape == (NEURONS, NEURONS, 2)
    assert layer.bias.shape == (NEURONS, 2)
    parts = [
        potentials(spikes @ np.asarray(layer.weight, float)[..., r], 0.9, gamma[r], 1.0)
        for r in range(2)
    ]
    for part in parts:
        assert part.std() == pytest.approx(2.0 * np.sqrt(0.9 / 2), rel=0.05)
    assert sum(parts).std() == pytest.approx(2.0 * np.sqrt(0.9), rel=0.05)


UNDECLARED = [
    name
    for name in neurons.__all__
    if getattr(cls := getattr(neurons, name), "linear_response", None) is Cell.linear_response
    and hasattr(cls, "threshold")
]
"""Cells that fire and declare no linear response, so it is measured."""


@pytest.mark.slow
@pytest.mark.parametrize("name", UNDECLARED)
def test_cells_with_a_measured_response_fire_at_first(name):
    spikes = rng().random((60, 8, 40)) < 0.05
    network = Network.init(KEY, spikes, (30, 3), getattr(neurons, name)(), recurrent=True)
    fired, out = observed(network, spikes)[1].values()
    assert 0.005 < fired.mean() < 0.3
    assert 0.2 < out.std() < 5


@pytest.mark.parametrize("rate", [0.1, WINDOW])
def test_a_cell_declares_its_linear_response(rate):
    known = fluctuation_driven(LIF(0.5), rate, std=2.0)(KEY, (9, 5))
    np.testing.assert_allclose(
        fluctuation_driven(Declared(), rate)(KEY, (9, 5)), known / 3, rtol=1e-6
    )


SPIKES = np.zeros((3, 2, 4), bool)
REFUSED = {
    "ValueError: response must end within 4096 steps; pass inputs": lambda: fluctuation_driven(
        neurons.TCLIF(), 0.1
    ),
    "TypeError: the first array of the state of InOneArray must have the output's shape, (1, 2); "
    "define encode": (lambda: fluctuation_driven(InOneArray(), 0.1)),
    "ValueError: WithBarrier must respond to a small current at rest within 4096 steps; define": (
        lambda: fluctuation_driven(WithBarrier(), 0.1)
    ),
    "ValueError: rate must be > 0 and <= 1, got 1.5; for other inputs": lambda: fluctuation_driven(
        LIF(), 1.5
    ),
    "ValueError: std must be > 0, got -1": lambda: fluctuation_driven(LIF(), 0.1, std=-1.0),
    "ValueError: decay must be < 1 for a rate, got 1.0": lambda: fluctuation_driven(LIF(1.0), 0.1),
    "ValueError: inputs must be finite and not all 0": lambda: fluctuation_driven(LIF(), SPIKES),
    "ValueError: finite and not all 0, because": lambda: fluctuation_driven(
        LIF(), SPIKES * np.float32(np.nan)
    ),
    "ValueError: inputs must be (steps, examples, inputs), got (2,": lambda: fluctuation_driven(
        LIF(), SPIKES[0]
    ),
    "ValueError: std is too small: equal weights for mean 0.9": lambda: fluctuation_driven(
        LIF(), 0.1, mean=0.9, std=1e-3
    ),
    "TypeError: pass inputs to measure, or a rate": lambda: Layer.init(
        KEY, SPIKES, 2, LIF(), rate=0.1
    ),
    "ValueError: Network: layer '1': fluctuation_driven: inputs must be finite and not all 0": (
        lambda: Network.init(KEY, ~SPIKES, (3, 2), LIF(), std=1e-3)
    ),
}


@pytest.mark.parametrize("message", few(REFUSED, *[*REFUSED][1:]))
def test_initial_weights_that_are_refused(message):
    assert_raises(lambda: REFUSED[message]()(KEY, (4, 2)), message)


@pytest.mark.slow
def test_recurrent_weights_of_a_sequence_with_gaps_are_those_without():
    """To a network both are the same: a step that does not take place holds the last outputs."""
    x = (rng().random((40, 8, 20)) < 0.3).astype(np.float32)
    there = np.arange(40) % 3 < 2
    options = {"cell": LIF(0.9), "recurrent": True}
    gaps, none = jax.jit(
        lambda: [
            Layer.init(KEY, x, 16, mask=there, **options),
            Layer.init(KEY, x[there], 16, **options),
        ]
    )()
    np.testing.assert_allclose(gaps.recurrent, none.recurrent, rtol=1e-5)
    np.testing.assert_allclose(gaps.weight, none.weight, rtol=1e-5)
