"""Convolutions, pooling, joins and delays on integers, against loops over plain integers written
apart.
"""

from __future__ import annotations

import functools
import json
import re
import shutil

import integer_networks as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODES
from image_networks import Images, fixed_of
from networks import assert_raises

from spikegrad import LIF, Join, Layer, LeakyReadout, Network
from spikegrad._weights import Convolution
from spikegrad.integers import FixedLIF, dequantize, load, quantize, replay, save, to_c
from spikegrad.integers._functions import Argument, IntegerFunction, channels_of, read

FIRST = 47
"""A network with zeros around images, maxima, a concatenation, adaptive and refractory cells."""
SEEDS = [FIRST, *(pytest.param(n, marks=pytest.mark.every) for n in range(60) if n != FIRST)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks_of_images(seed, tmp_path):
    """The call in all modes, the replay, the file and the program in C compute the integers of the
    loops.
    """
    images = Images(seed)
    network = images.network()
    integers, report = images.quantized(network)
    layers = integers.layers
    # The integers are those of the kernels, with outputs first and the factor of the average.
    for name, label, geometry, divisor in (
        ("a", "weight", images.first, 1),
        ("c", "weight['pool']", images.third, images.divisor),
    ):
        weight = fixed_of(layers[name], label)
        rounded = np.rint(geometry["kernel"] / divisor * np.asarray(weight.scale))
        rounded = np.clip(rounded, weight.low, weight.high)
        assert (np.abs(weight.integers - rounded) <= 1).all()
        assert (weight.integers == rounded).mean() > 0.98
    expected = images.run_apart(layers)
    assert expected["a"].any()
    assert all(0 < row.peak <= 1 for row in report.layers)
    assert images.is_equal(layers, replay(integers, images.user), expected)
    for mode in MODES[:1] if seed == FIRST else MODES:
        call = integers(jnp.asarray(images.user, jnp.float32), backward=mode)
        assert images.is_equal(layers, call, expected), mode
    save(integers, tmp_path / "net.json")
    loaded = load(tmp_path / "net.json")
    assert images.is_equal(layers, replay(loaded, images.user), expected)
    if shutil.which("cc"):
        flat = {name: x.reshape(*x.shape[:2], -1) for name, x in expected.items()}
        reference.check_c(integers, images.user.reshape(*images.user.shape[:2], -1), flat, tmp_path)


KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 3)), jnp.float32)


def convolved(x):
    return jax.lax.conv_general_dilated(x, KERNEL, (2,), [(1, 1)])


def small_network():
    """A convolution of one dimension, the average of all places, and a transposition and slices
    before a product.
    """

    def averaged(x):
        sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 4), (1, 1, 4), "VALID")
        return 0.25 * sums

    return Network(
        {
            "a": Layer(convolved, LIF(0.8, 0.5, reset="value")),
            "means": Layer(averaged, LeakyReadout(0.9), of="a"),
            "turned": Layer(lambda x: x.mT.reshape(len(x), -1) @ TURNED, LIF(0.9), of="a"),
            "part": Layer(lambda x: (x[:, :, 1][:, ::-1] @ TURNED[:3])[:, 1:], LIF(0.9), of="a"),
        },
        outputs=["a", "means", "turned", "part"],
    )


TURNED = np.random.default_rng(2).normal(size=(12, 4)).astype(np.float32)
SPIKES = (np.random.default_rng(3).random((12, 3, 2, 8)) < 0.4).astype(np.int64)


@pytest.mark.slow
def test_one_dimension_averages_and_transpositions(tmp_path):
    """The rounded real network, by NumPy in float64, has the spikes and potentials of the
    integers.
    """
    network = small_network()
    integers, report = quantize(network, "fixed", SPIKES)
    _, out = replay(integers, SPIKES)
    _, again = integers(jnp.asarray(SPIKES, jnp.float32))
    for name, values in out.items():
        np.testing.assert_array_equal(values, again[name])
        assert values.any()
    # The real network of the rounded weights, whose functions NIR and others read.
    _, real = dequantize(integers)(jnp.asarray(SPIKES, jnp.float32))
    assert np.mean(np.asarray(real["turned"]) == out["turned"]) > 0.97
    # The rows of the numbers that the slices leave out are zeros.
    assert np.mean(np.asarray(real["part"]) == out["part"]) > 0.97
    matrix = np.zeros((3, 4, 3))
    matrix[::-1, 1] = TURNED[:3, 1:]
    weight = fixed_of(integers.layers["part"], "weight")
    rounded = np.rint(matrix.reshape(12, 3) * np.asarray(weight.scale))
    np.testing.assert_array_equal(weight.integers, np.clip(rounded, weight.low, weight.high))
    assert np.abs(np.asarray(real["means"]) - out["means"]).mean() < 0.02
    assert [row.error < 0.02 for row in report.layers] == [True] * 4
    if shutil.which("cc"):
        flat = {n: x.reshape(*x.shape[:2], -1) for n, x in out.items()}
        flat["means"] = np.rint(flat["means"] * integers.layers["means"].cell.unit).astype(int)
        reference.check_c(integers, SPIKES.reshape(12, 3, -1), flat, tmp_path)


@pytest.mark.slow
def test_quantized_convolutions_train():
    """The gradient of the integers is that of the real network, but for the rounding."""
    network = Network([Layer(convolved, LIF(0.8, 0.5, reset="value"))])
    integers, _ = quantize(network, FixedLIF(0, 1, bits=24), SPIKES, bits=16)

    def loss(network):
        return (network(jnp.asarray(SPIKES, jnp.float32))[1] ** 2).mean()

    (gradient,) = [x for x in jax.tree.leaves(jax.grad(loss)(integers)) if x.ndim == 3]

    def real_loss(kernel):
        layer = Layer(
            lambda x: jax.lax.conv_general_dilated(x, kernel, (2,), [(1, 1)]),
            network.layers[0].cell,
        )
        return loss(Network([layer]))

    expected = jax.grad(real_loss)(KERNEL)
    assert np.vdot(gradient, expected) > 0.95 * np.linalg.norm(gradient) * np.linalg.norm(expected)
    assert 0.8 < np.linalg.norm(gradient) / np.linalg.norm(expected) < 1.25


def maximum(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2), (1, 1, 2), "VALID")


def quantized(nodes, target="fixed"):
    return lambda: quantize(Network(nodes), target, SPIKES)


LIF_CELL, FLAT = LIF(0.9, reset="value"), lambda x: x.reshape(len(x), -1)
REFUSED = {
    "TypeError: layer '0' on FixedLIF: a function has no integers: two products without "
    "neurons": quantized([Layer(lambda x: convolved(x).reshape(len(x), -1) @ TURNED, LIF_CELL)]),
    "TypeError: a maximum of a window after a bias that differs in it": quantized(
        [Layer(lambda x: maximum(convolved(x) + jnp.arange(4.0)[None, None]), LIF_CELL)]
    ),
    "TypeError: a maximum with a negative factor": quantized(
        [Layer(lambda x: maximum(-1.0 * convolved(x)), LIF_CELL)]
    ),
    "TypeError: join 'j' on FixedLIF: a function has no integers: a product or a bias before": (
        quantized(
            {
                "j": Join(lambda x, y: jnp.concatenate([x + 1, y], 1), of=["input", "input"]),
                "a": Layer(FLAT, LIF_CELL),
            }
        )
    ),
    "TypeError: join 'j' on FixedLIF: a function has no integers: a transposition or a slice "
    "before a sum": quantized(
        {
            "j": Join(lambda x, y: jnp.concatenate([x[:, 1:], y], 1), of=["input", "input"]),
            "a": Layer(FLAT, LIF_CELL),
        }
    ),
    "TypeError: a transposition or a slice that no product follows": quantized(
        [Layer(lambda x: convolved(x.mT.reshape(x.shape)), LIF_CELL)]
    ),
    "TypeError: a factor that differs between the numbers": quantized(
        [Layer(lambda x: convolved(x * jnp.arange(8.0)[None, None]), LIF_CELL)]
    ),
    "TypeError: layer '0' on Loihi: it has no sums or maxima of windows. Use a conv": quantized(
        [
            Layer(
                lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 2), (1, 1, 2), "VALID"),
                LIF_CELL,
            )
        ],
        "loihi",
    ),
    "TypeError: join 'j' on FixedLIF: it has weights. Put them into": quantized(
        {"j": Join(convolved, of=["input"]), "a": Layer(lambda x: FLAT(x) @ TURNED, LIF_CELL)}
    ),
    "TypeError: join 'j' on FixedLIF: it takes complete sequences. Fold a normalization": quantized(
        {
            "j": Join(lambda x: x - x.mean(0, keepdims=True), of=["input"], over_time=True),
            "a": Layer(convolved, LIF_CELL),
        }
    ),
    "TypeError: join 'j' on FixedLIF: an output loses its factor of -2, also the sign": quantized(
        {"a": Layer(convolved, LIF_CELL), "j": Join(lambda x: -2.0 * x, of=["a"])}
    ),
    "TypeError: join 'j' on FixedLIF: it adds averages and sums": quantized(
        {
            "h": Join(lambda x: x / 2, of=["input"]),
            "j": Join(lambda x, y: x + y, of=["h", "input"]),
            "a": Layer(convolved, LIF_CELL),
        }
    ),
}


@pytest.mark.slow
def test_maxima_of_inputs_need_numbers_in_c(tmp_path):
    network, _ = quantized([Layer(maximum, LIF_CELL)])()
    to_c(network, tmp_path / "net")
    for form in "bytes", "bits", "events":
        with pytest.raises(TypeError, match="maxima of the windows of 'input' need inputs='int32'"):
            to_c(network, tmp_path / "net", inputs=form)


@pytest.mark.parametrize("message", REFUSED)
def test_functions_that_have_no_integers(message):
    assert_raises(REFUSED[message], message)


PLACE = "layers", 0, "weights", 0, "function"
WRONG = {
    "class": (
        (*PLACE, "operations", 0, "class"),
        "os.system",
        "operations[0] must be a record with a class of",
    ),
    "field": (
        (*PLACE, "operations", 0, "code"),
        1,
        "operations[0] must be a record of class, weight, stride",
    ),
    "stride": (
        (*PLACE, "operations", 0, "stride"),
        [0],
        "operations[0].stride must be 1 integers of at least 1",
    ),
    "strides": (
        (*PLACE, "operations", 0, "stride"),
        [1, 1],
        "operations[0].stride must be 1 integers",
    ),
    "padding": (
        (*PLACE, "operations", 0, "padding"),
        [[1, -1]],
        "padding[0] must be 2 integers of at least 0",
    ),
    "axes": (
        (*PLACE, "operations", 0, "input_axes"),
        [0, 0, 1],
        "input_axes must be all axes of the array, once each",
    ),
    "groups": (
        (*PLACE, "operations", 0, "groups"),
        0,
        "operations[0].groups must be an integer of at least 1",
    ),
    "groups of one": (
        (*PLACE, "operations", 0, "groups"),
        3,
        "operations must be operations that fit each other",
    ),
    "shape": (
        (*PLACE, "arguments", 0, "shape"),
        [1, 3, 8],
        "operations must be operations that fit each other and the shape",
    ),
    "text": (
        (*PLACE, "arguments", 0, "shape"),
        "8",
        "function.arguments[0].shape must be a list",
    ),
    "list": ((*PLACE, "operations"), None, "function.operations must be a list"),
    "window": ((*PLACE[:-1], "is_window"), True, "is_window must be false for a function"),
    "order": (
        ("layers", 1, "function", "operations", 0, "order"),
        [1, 0],
        "operations[0].order must be null",
    ),
    "arguments": (
        (*PLACE, "arguments"),
        [{"shape": [1, 2, 8], "operations": []}] * 2,
        "function.arguments must be one record for each of 1 sources",
    ),
    "weights of an argument": (
        (*PLACE, "arguments", 0, "operations"),
        [{"class": "Factor", "factor": {"integers": 2}}],
        "function.arguments[0].operations must be operations without weights",
    ),
    "padding of a maximum": (
        (*PLACE, "arguments", 0, "operations"),
        [{"class": "MaxPooling", "window": [1, 1, 2], "stride": [1] * 3, "padding": [[0, 2]] * 3}],
        "operations[0].padding must be less than the window",
    ),
    "source": (("layers", 1, "of"), ["x"], "'j' reads 'x', which is not one of"),
    "sources": (("layers", 1, "of"), [], "layers[1].of must be a list that is not empty"),
    "moves": (
        ("layers", 1, "function", "operations", 0, "shape"),
        [1, 5],
        "layers[1].function.operations must be",
    ),
    "other inputs": (
        ("layers", 1, "of"),
        ["input"],
        "must read 'input' by a weight for (2, 8) inputs",
    ),
}


@functools.cache
def small_file():
    nodes = {
        "a": Layer(convolved, LIF_CELL),
        "j": Join(FLAT, of=["a"]),
        "b": Layer(TURNED, LIF_CELL),
    }
    return quantize(Network(nodes), "fixed", SPIKES)[0]


@pytest.mark.parametrize("name", WRONG)
def test_files_with_functions_that_are_wrong(name, tmp_path):
    path, value, words = WRONG[name]
    file = tmp_path / "net.json"
    save(small_file(), file)
    record = json.loads(file.read_text())
    *above, key = path
    entry = record
    for part in above:
        entry = entry[part]
    entry[key] = value
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        load(file)
    assert str(raised.value).startswith(f"load: {file}: ")
    assert "\n" not in str(raised.value)


IMAGE = (2, 6, 5)
WEIGHT = np.random.default_rng(4).normal(size=(3, 2, 2, 2)).astype(np.float32)
ROWS = np.random.default_rng(5).normal(size=(60, 4)).astype(np.float32)
SPOTS = np.random.default_rng(6).normal(size=(1, *IMAGE)).astype(np.float32)
CHANNELS = np.arange(3.0, dtype=np.float32).reshape(1, 3, 1, 1)


def pooled(x, start, combine, window=(1, 1, 2, 2)):
    return jax.lax.reduce_window(x, start, combine, window, window, "VALID")


def convolved_padded(x):
    x = jnp.pad(x, [(0, 0), (0, 0), (2, 0), (0, 1)])
    return jax.lax.conv(x, WEIGHT, (1, 1), "VALID")


MOVED = {  # with the kinds of operations that stay
    "bias before a product": (lambda x: (x - 0.5).reshape(1, -1) @ ROWS, "Rearrangement Product"),
    "bias before padding": (
        lambda x: jax.lax.conv(x + SPOTS, WEIGHT, (1, 1), "SAME") / 3,
        "Convolution",
    ),
    "bias before an average": (
        lambda x: pooled(jax.lax.conv(x, WEIGHT, (1, 1), "VALID") + CHANNELS, 0.0, jax.lax.add) / 4,
        "Convolution SumPooling",
    ),
    "bias before a maximum": (
        lambda x: pooled(
            2 * (jax.lax.conv(x, WEIGHT, (1, 1), "VALID") + CHANNELS), -jnp.inf, jax.lax.max
        ),
        "Convolution MaxPooling",
    ),
    "global average": (
        lambda x: convolved_padded(x).mean((2, 3)).reshape(1, 3) + 1,
        "SumPooling Convolution SumPooling Rearrangement",
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_biases_and_factors_move_behind(name):
    """The function of integers and its bias compute the function of the user."""
    function, kinds = MOVED[name]
    reading = read(function, [IMAGE], 1.0)
    assert [type(x).__name__ for x in reading.function.operations] == kinds.split()
    x = np.random.default_rng(7).normal(size=(1, *IMAGE)).astype(np.float32)
    expected = function(x)
    bias = np.asarray(reading.bias)
    bias = bias.reshape((1,) * (expected.ndim - bias.ndim) + bias.shape)
    np.testing.assert_allclose(reading.function(x) + bias, expected, rtol=1e-4, atol=1e-5)


def test_channels_of_a_function():
    """Neurons behind a pooling have the channel of their window, unless it mixes channels."""

    def of_neurons(combine, start, window):
        def function(x):
            return pooled(jax.lax.conv(x, WEIGHT, (1, 1), "VALID"), start, combine, window)

        return channels_of(read(function, [IMAGE], 1.0).function).of_neuron

    for combine, start in ((jax.lax.add, 0.0), (jax.lax.max, -jnp.inf)):
        apart = of_neurons(combine, start, (1, 1, 2, 2))
        np.testing.assert_array_equal(
            apart, np.broadcast_to(np.arange(3)[:, None, None], (3, 2, 2))
        )
        assert (of_neurons(combine, start, (1, 3, 1, 1)) == 0).all()


@pytest.mark.slow
def test_parameters_of_channels_in_c(tmp_path):
    """The program keeps one number for a channel, for channels first and last, and of a bias. The
    leak of a current that the neurons lack is one more number.
    """
    kernel = np.arange(1, 9).reshape(2, 1, 2, 2)
    convolution = Convolution(kernel, (1, 1), ((0, 0),) * 2, (1, 1), 1, (0, 1, 2, 3), (0, 1, 2, 3))
    last = Convolution(kernel, (1, 1), ((0, 0),) * 2, (1, 1), 1, (0, 3, 1, 2), (0, 3, 1, 2))
    spikes = (np.random.default_rng(8).random((20, 2, 1, 5, 4)) < 0.5).astype(np.int64)
    for operation, shape in ((convolution, (2, 1, 1)), (last, (2,))):
        size = (1, 1, 5, 4) if operation is convolution else (1, 5, 4, 1)
        function = IntegerFunction((Argument(size),), (operation,))
        cell = FixedLIF(
            np.array([100, 4000]).reshape(shape),
            np.array([9, 7]).reshape(shape),
            adaptation=np.array([3, 0]).reshape(shape),
            adaptation_decay=4000,
            refractory=1,
        )
        network = Network([Layer(function, cell, bias=np.array([-1, 1]).reshape(shape))])
        inputs = spikes.reshape(20, 2, *size[1:])
        _, out = replay(network, inputs)
        assert 0 < out.mean() < 0.5
        flat = [x.reshape(20, 2, -1) for x in (inputs, out)]
        reference.check_c(network, flat[0], {"0": flat[1]}, tmp_path)
        source = (tmp_path / "net.c").read_text()
        for table in ("leak[3]", "threshold[2]", "bias[2]", "adaptation[2]", "adaptation_decay[1]"):
            assert f"_t {table} = " in source, table


@pytest.mark.slow
def test_report_of_a_convolution_in_c(tmp_path):
    """3 kernels of 2 channels and 3 places at 4 places of 8, of which the padding leaves
    out one.
    """
    integers, _ = quantize(Network([Layer(convolved, LIF_CELL)]), "fixed", SPIKES)
    report = to_c(integers, tmp_path / "net")
    assert report.operations == 4 * 3 * 2 * 3
    assert report.state == 2 * 12 + 4 * (1 + 2 + 12)
