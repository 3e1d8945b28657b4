"""Spiking networks made from ReLU networks, against a loop in NumPy that shares nothing with the
library.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from integer_networks import check_c
from networks import assert_close, assert_raises

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network, Window
from spikegrad.conversion import to_spiking
from spikegrad.integers import FixedLIF, quantize, replay
from spikegrad.neurons import Relu
from spikegrad.training import partition

STEPS = 5
RNG = np.random.default_rng(5)


def normal(*shape):
    return RNG.normal(0, 1, shape).astype(np.float32)


STEM, BRANCH, SKIP, OUT = normal(4, 2, 3, 3), normal(4, 4, 1, 1), normal(4, 4, 1, 1), normal(36, 3)
STEM_BIAS, BRANCH_BIAS, OUT_BIAS = normal(4, 1, 1), normal(4, 1, 1) + 2, normal(3)
IMAGES = RNG.uniform(0, 1, (1, 6, 2, 6, 6)).astype(np.float32)
FEATURES = normal(1, 50, 4)


def convolve(kernel, x, bias=None):
    out = jax.lax.conv(x, kernel, (1, 1), "SAME")
    return out if bias is None else out + bias[None]


def average(x):
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4


@pytest.fixture(scope="module")
def network():
    """A stem, a residual block with a bias within its function, average pooling, and a linear
    layer.
    """
    flat = jax.tree_util.Partial(lambda w, x: x.reshape(len(x), -1) @ w, OUT)
    branch = jax.tree_util.Partial(lambda k, b, x: convolve(k, x, b), BRANCH, BRANCH_BIAS)
    return Network({
        "stem": Layer(jax.tree_util.Partial(convolve, STEM), Relu(), bias=STEM_BIAS),
        "branch": Layer(branch, Relu()),
        "skip": Layer(jax.tree_util.Partial(convolve, SKIP), LeakyReadout(0.0), of="stem"),
        "sum": Join(lambda a, b: average(a) + average(b), of=("branch", "skip")),
        "block": Layer(None, Relu(), bias=np.float32(2)),
        "out": Layer(flat, LeakyReadout(0.0), bias=OUT_BIAS),
    })  # fmt: skip


def convolve_in_numpy(kernel, x):
    """With zeros around the image, place by place."""
    pad = kernel.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((len(x), len(kernel), *x.shape[2:]))
    for i, j in np.ndindex(*kernel.shape[2:]):
        window = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
        out += np.einsum("oc,bchw->bohw", kernel[:, :, i, j], window)
    return out


def average_in_numpy(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def run_in_numpy(x, thresholds, biases):
    """The mean outputs over the steps, of spikes that stand for thresholds. Biases have half a
    threshold per STEPS.
    """
    potentials = {name: 0.0 for name in thresholds}
    rates = dict.fromkeys(thresholds, 0.0)

    def fire(name, current):
        threshold = thresholds[name]
        potentials[name] = potentials[name] + current + biases[name]
        fired = potentials[name] >= threshold
        potentials[name] = potentials[name] - threshold * fired
        rates[name] = rates[name] + threshold * fired / STEPS
        return threshold * fired

    outputs = []
    for _ in range(STEPS):
        stem = fire("stem", convolve_in_numpy(STEM, x))
        branch = fire("branch", convolve_in_numpy(BRANCH, stem) + BRANCH_BIAS)
        skip = convolve_in_numpy(SKIP, stem)
        block = fire("block", average_in_numpy(branch) + average_in_numpy(skip))
        outputs.append(block.reshape(len(x), -1) @ OUT + OUT_BIAS)
    return rates | {"out": np.mean(outputs, 0)}


def activations_in_numpy(x):
    stem = np.maximum(convolve_in_numpy(STEM, x) + STEM_BIAS, 0)
    branch = np.maximum(convolve_in_numpy(BRANCH, stem) + BRANCH_BIAS, 0)
    block = np.maximum(
        average_in_numpy(branch) + average_in_numpy(convolve_in_numpy(SKIP, stem)) + 2, 0
    )
    return {"stem": stem, "branch": branch, "block": block}


@pytest.mark.slow
def test_a_residual_network_has_the_spikes_of_a_loop(network):
    spiking = to_spiking(network, IMAGES, STEPS)
    thresholds = {name: spiking.layers[name].cell.threshold for name in ("stem", "branch", "block")}
    _, outputs = jax.jit(spiking)(np.broadcast_to(IMAGES, (STEPS, *IMAGES.shape[1:])))
    # Half a threshold, then the mean difference from rounded activations, layer by layer, as a bias
    # can have it.
    biases = {"stem": STEM_BIAS, "branch": np.zeros(()), "block": np.float32(2)}
    biases = {name: bias + thresholds[name] / (2 * STEPS) for name, bias in biases.items()}
    for name, activations in activations_in_numpy(IMAGES[0]).items():
        rounded = (
            np.clip(np.floor(STEPS * activations / thresholds[name] + 0.5), 0, STEPS)
            * thresholds[name]
            / STEPS
        )
        error = rounded - run_in_numpy(IMAGES[0], thresholds, biases)[name]
        axes = (0, 2, 3) if biases[name].ndim else None
        biases[name] = biases[name] + error.mean(axes, keepdims=True).reshape(biases[name].shape)
        np.testing.assert_allclose(
            spiking.layers[name].bias, biases[name], atol=1e-6 * thresholds[name], rtol=1e-5
        )
    assert_close(outputs.mean(0), run_in_numpy(IMAGES[0], thresholds, biases)["out"], 1e-5)

    by_percentile = to_spiking(network, IMAGES, STEPS, percentile=99)
    # The ReLU network itself, and the errors of the thresholds among many others.
    for name, activations in activations_in_numpy(IMAGES[0]).items():

        def error(threshold, a=activations):
            levels = np.minimum(np.floor(STEPS * a / threshold + 0.5), STEPS)
            return ((levels * threshold / STEPS - a) ** 2).sum()

        others = np.linspace(0.01, 1.2, 400) * activations.max()
        assert error(thresholds[name]) <= 1.02 * min(map(error, others))
        got = by_percentile.layers[name].cell.threshold
        np.testing.assert_allclose(got, np.percentile(activations, 99), rtol=1e-5)


@pytest.mark.slow
def test_a_converted_network_runs_in_integers_and_in_c(tmp_path):
    """The outputs of all three are equal, and near those of the ReLU network."""
    pixels = RNG.integers(0, 256, (1, 8, 4)).astype(np.float32)
    relu = Network([
        Layer(normal(4, 12) / 255, Relu(), bias=normal(12)),
        Layer(normal(12, 3), LeakyReadout(0.0), bias=OUT_BIAS),
    ])  # fmt: skip
    over_time = np.broadcast_to(pixels, (16, *pixels.shape[1:]))
    integers, _ = quantize(to_spiking(relu, pixels, 16), "fixed", over_time)
    outputs = np.asarray(integers(over_time)[1])
    np.testing.assert_array_equal(replay(integers, over_time)[1], outputs)
    # The program prints potentials as integers, in the unit of the readout.
    printed = np.rint(outputs * integers.layers[-1].cell.unit)
    check_c(integers, over_time.astype(int), {"1": printed}, tmp_path)
    assert abs(outputs.mean(0) - relu(pixels)[1][0]).mean() < 0.1 * np.std(relu(pixels)[1])


@pytest.mark.slow
def test_a_converted_network_is_trained_on(network):
    spiking = to_spiking(network, IMAGES, STEPS)
    trainable, static = partition(spiking)
    assert (
        len(jax.tree.leaves(trainable)) == 5 + 4
    )  # weights, biases of their own and within functions

    def loss(trainable):
        merged = jax.tree.map(
            lambda a, b: b if a is None else a, trainable, static, is_leaf=lambda x: x is None
        )
        return (merged(jnp.tile(IMAGES, (STEPS, 1, 1, 1, 1)))[1].mean(0) ** 2).sum()

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(trainable))
    assert all(np.isfinite(g).all() and np.any(g) for g in gradients)


@pytest.mark.slow
@pytest.mark.parametrize("percentile", [None, 99])
def test_constant_currents_give_rounded_activations(percentile):
    """The number of spikes has a closed form: T a / threshold, rounded, within 0 and T."""
    layer = Layer(np.eye(4, dtype=np.float32), Relu(), bias=np.float32(0.25))
    spiking = to_spiking(Network([layer]), FEATURES, 7, percentile=percentile)
    threshold = spiking.layers[0].cell.threshold
    spikes = spiking(np.broadcast_to(FEATURES, (7, *FEATURES.shape[1:])))[1].sum(0)
    expected = np.clip(np.floor(7 * (FEATURES[0] + 0.25) / threshold + 0.5), 0, 7)
    np.testing.assert_array_equal(spikes, expected)


def test_relu_layers_have_no_memory():
    layer = Layer(np.eye(4, dtype=np.float32), Relu())
    sequence = normal(3, 5, 4)
    network = Network([layer, Layer(np.eye(4, dtype=np.float32), LeakyReadout(0.0))])
    np.testing.assert_array_equal(network(sequence)[1], np.maximum(sequence, 0))
    gradient = jax.grad(lambda x: network(x)[1].sum())(sequence)
    np.testing.assert_array_equal(gradient, sequence > 0)


def maximum(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID")


MATRIX = np.eye(4, dtype=np.float32)
REFUSED = {
    "spikes": (
        [Layer(MATRIX, LIF())],
        "TypeError: to_spiking: '0' must have Relu or LeakyReadout(0.0) cells, got LIF",
    ),
    "a leak": (
        [Layer(MATRIX, LeakyReadout(0.5))],
        "TypeError: to_spiking: '0' must have Relu or LeakyReadout(0.0)",
    ),
    "recurrence": (
        [Layer(MATRIX, Relu(), MATRIX)],
        "TypeError: to_spiking: '0' must read outputs of the same step",
    ),
    "a delay": (
        [Layer(Delayed(MATRIX, 1), Relu())],
        "TypeError: to_spiking: '0' must read outputs of the same step",
    ),
    "a window": (
        [Layer(Window(MATRIX[None]), Relu())],
        "TypeError: to_spiking: '0' must read outputs of the same",
    ),
    "max pooling": (
        [Layer(maximum, Relu())],
        "TypeError: to_spiking: '0' must be linear except for its cells: max",
    ),
    "a sigmoid": (
        [Layer(lambda x: jax.nn.sigmoid(x @ MATRIX), Relu())],
        "TypeError: to_spiking: '0' must be linear except for its cells: logistic is not linear",
    ),
    "a product": (
        {
            "a": Layer(MATRIX, Relu()),
            "b": Layer(MATRIX, Relu()),
            "c": Join(lambda a, b: a * b, ("a", "b")),
        },
        "TypeError: to_spiking: 'c' must be linear except for its cells: mul of two values",
    ),
    "statistics": (
        {"a": Layer(MATRIX, Relu()), "b": Join(lambda x: x - x.mean(), ("a",), over_time=True)},
        "TypeError: to_spiking: 'b' must not be a join over time. Use running statistics",
    ),
    "silence": (
        [Layer(MATRIX, Relu(), bias=np.float32(-100))],
        "ValueError: to_spiking: layer '0' must have finite "
        "activations above 0 at percentile 100. Pass other inputs or a higher percentile",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_entry_and_the_function(name):
    layers, message = REFUSED[name]
    assert_raises(lambda: to_spiking(Network(layers), FEATURES, 4), message)


def test_the_number_of_steps():
    network = Network([Layer(MATRIX, Relu())])
    assert_raises(
        lambda: to_spiking(network, FEATURES, 0),
        "ValueError: to_spiking: steps must be >= 1, got 0",
    )


@pytest.mark.every
def test_modules_of_equinox_and_flax():
    """Their outputs at many steps are near those of the ReLU network, with the biases
    within them.
    """
    keys = jax.random.split(jax.random.key(4), 2)
    rngs = nnx.Rngs(0)
    linear, norm = (
        nnx.Linear(72, 16, rngs=rngs),
        nnx.BatchNorm(16, rngs=rngs, use_running_average=True),
    )
    norm.mean[...] = jnp.linspace(-0.5, 0.5, 16)
    pooling = eqx.nn.AvgPool2d(2, 2)
    network = Network([
        Layer(eqx.filter_vmap(eqx.nn.Conv2d(2, 8, 3, padding=1, key=keys[0])), Relu()),
        Layer(lambda x: norm(linear(jax.vmap(pooling)(x).reshape(len(x), -1))), Relu()),
        Layer(eqx.filter_vmap(eqx.nn.Linear(16, 3, key=keys[1])), LeakyReadout(0.0)),
    ])  # fmt: skip
    spiking = to_spiking(network, IMAGES, 64)
    outputs = np.mean(spiking(np.broadcast_to(IMAGES, (64, *IMAGES.shape[1:])))[1], 0)
    expected = network(IMAGES)[1][0]
    assert np.std(outputs - expected) < 0.1 * np.std(expected)


@pytest.mark.every
def test_a_converted_convolution_runs_in_integers_and_in_c(tmp_path):
    """The threshold that a function multiplies its inputs by goes into its integers."""
    partial = jax.tree_util.Partial
    pixels = RNG.integers(0, 256, (1, 4, 2, 6, 6)).astype(np.float32)
    flat = partial(lambda w, x: x.reshape(len(x), -1) @ w, OUT)
    relu = Network({
        "stem": Layer(partial(convolve, STEM / 255), Relu(), bias=STEM_BIAS),
        "pool": Join(average, of="stem"),
        "branch": Layer(partial(convolve, BRANCH), Relu(), bias=BRANCH_BIAS),
        "out": Layer(flat, LeakyReadout(0.0), bias=OUT_BIAS),
    })  # fmt: skip
    over_time = np.broadcast_to(pixels, (8, *pixels.shape[1:]))
    spiking = to_spiking(relu, pixels, 8)
    target = FixedLIF(0, 1, bits=24)  # pixels of 8 bits need wide states
    integers, _ = quantize(spiking, target, over_time)
    outputs = np.asarray(integers(over_time)[1])
    np.testing.assert_array_equal(replay(integers, over_time)[1], outputs)
    printed = np.rint(outputs * integers.layers["out"].cell.unit)
    check_c(integers, over_time.reshape(8, 4, -1).astype(int), {"out": printed}, tmp_path)
    real = spiking(over_time)[1]
    assert abs(outputs - real).mean() < 0.1 * np.std(real)
