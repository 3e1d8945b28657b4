"""Convolutions, pooling, joins and delays on integers, against loops over plain integers written
apart.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from typing import Any

import integer_networks as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network, SynapticLIF
from spikegrad.integers import Fixed, FixedLIF, dequantize, load, quantize, replay, save, to_c

LAYOUTS = {"first": ("NCHW", "OIHW", "NCHW"), "last": ("NHWC", "HWIO", "NHWC")}


def convolve(x, kernel, stride, padding, dilation, groups):
    """Integers ``(channels, rows, columns)``. The kernel has outputs first."""
    outputs, per_group, high, wide = kernel.shape
    x = np.pad(x, [(0, 0), *padding])
    rows, columns = (
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:], (high, wide), stride, dilation, strict=True)
    )
    out = np.zeros((outputs, rows, columns), np.int64)
    for o, i, j in np.ndindex(out.shape):
        first = o // (outputs // groups) * per_group
        for c, k, m in np.ndindex(kernel.shape[1:]):
            place = i * stride[0] + k * dilation[0], j * stride[1] + m * dilation[1]
            out[o, i, j] += kernel[o, c, k, m] * x[(first + c, *place)]
    return out


def sum_windows(x, window, stride):
    rows, columns = ((n - w) // s + 1 for n, w, s in zip(x.shape[1:], window, stride, strict=True))
    out = np.zeros((len(x), rows, columns), np.int64)
    for c, i, j in np.ndindex(out.shape):
        top, left = i * stride[0], j * stride[1]
        out[c, i, j] = x[c, top : top + window[0], left : left + window[1]].sum()
    return out


def integers_of(layer: Layer, label: str) -> np.ndarray:
    leaves = jax.tree.leaves(layer.weights[label], is_leaf=lambda x: isinstance(x, Fixed))
    (weight,) = [leaf for leaf in leaves if isinstance(leaf, Fixed)]
    return weight.integers


class Images:
    """A random network of images, with what each function does, as the user writes it and as plain
    numbers.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([7, seed])
        self.layout = "last" if self.rng.random() < 0.5 else "first"
        self.size = tuple(int(n) for n in self.rng.integers(6, 8, 2))

    def convolution(self, inputs: int, outputs: int, shape=(3, 3), same=False) -> dict[str, Any]:
        some = self.rng.integers
        high, wide = shape
        groups = 2 if inputs % 2 == outputs % 2 == 0 and some(2) else 1
        kernel = self.rng.normal(0.1, 0.5, (outputs, inputs // groups, high, wide)).astype(
            np.float32
        )
        if same:
            return {
                "kernel": kernel,
                "stride": (1, 1),
                "padding": ((1, 1), (1, 1)),
                "dilation": (1, 1),
                "groups": groups,
            }
        padding = tuple((int(some(2)), int(some(2))) for _ in range(2))
        stride, dilation = (tuple(int(n) for n in some(1, 3, 2)) for _ in range(2))
        return {
            "kernel": kernel,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }

    def function(self, geometry: dict[str, Any]) -> Any:
        kernel = jnp.asarray(geometry["kernel"])
        if self.layout == "last":
            kernel = kernel.transpose(2, 3, 1, 0)
        return lambda x: jax.lax.conv_general_dilated(
            x,
            kernel,
            geometry["stride"],
            geometry["padding"],
            rhs_dilation=geometry["dilation"],
            dimension_numbers=LAYOUTS[self.layout],
            feature_group_count=geometry["groups"],
        )

    def pool(self, window, stride) -> Any:
        sizes = [
            (1, *each, 1) if self.layout == "last" else (1, 1, *each) for each in (window, stride)
        ]
        return lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, *sizes, "VALID")

    def to_layout(self, x: np.ndarray) -> np.ndarray:
        """From channels first to the order of the user."""
        return np.moveaxis(x, -3, -1) if self.layout == "last" else x

    def from_layout(self, x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x, -1, -3) if self.layout == "last" else x

    def network(self) -> Network:
        """Two convolutions with feedback, their sum, its sums or averages of windows, a third one
        and a product.
        """
        rng = self.rng
        self.first = self.convolution(2, 4, tuple(rng.integers(1, 4, 2)))
        self.second, self.third = self.convolution(4, 4, same=True), self.convolution(4, 6, (2, 2))
        self.back = self.convolution(4, 4, same=True)
        self.window, self.stride = (2, int(rng.integers(1, 3))), (int(rng.integers(1, 3)), 1)
        self.delay, self.divisor = int(rng.integers(1, 4)), int(rng.choice([1, 2 * self.window[1]]))
        self.spikes = (rng.random((8, 2, 2, *self.size)) < 0.4).astype(np.int64) * rng.integers(
            1, 3
        )
        bias = jnp.asarray(self.to_layout(rng.normal(0, 0.1, (4, 1, 1)).astype(np.float32)))
        a, c, pool = (
            self.function(self.first),
            self.function(self.third),
            self.pool(self.window, self.stride),
        )
        synaptic = SynapticLIF(0.8, threshold=2.0, reset="subtract", synaptic_decay=0.6)
        back = Delayed(self.function(self.back), self.delay)
        nodes = {
            "a": Layer(lambda x: a(x) + bias[None], LIF(0.9, 0.8, reset="value")),
            "b": Layer(self.function(self.second), LIF(0.7, 1.0, reset="none"), recurrent=back),
            "sum": Join(lambda a, b: a + b, of=["a", "b"]),
            "pool": Join(lambda x: pool(x) / self.divisor, of=["sum"]),
            "c": Layer({"pool": Delayed(c, self.delay)}, synaptic),
        }
        self.user = self.to_layout(self.spikes)
        outputs = Network(nodes, outputs=[*nodes])(jnp.asarray(self.user, float))[1]
        self.shapes = {name: np.shape(y)[2:] for name, y in outputs.items()}
        dense = rng.normal(0, 0.5, (int(np.prod(self.shapes["c"])), 3)).astype(np.float32)
        nodes["out"] = Layer(
            lambda x: x.reshape(len(x), -1) @ dense + 0.25, LeakyReadout(0.9), of="c"
        )
        return Network(nodes, outputs=[*nodes])

    def run_apart(self, layers: Any) -> dict[str, np.ndarray]:
        """Return the outputs of all nodes, in the layout of the user."""
        examples = [self.run_example(layers, x) for x in np.moveaxis(self.spikes, 1, 0)]
        outputs = {name: np.stack([example[name] for example in examples], 1) for name in layers}
        return {name: self.to_layout(x) if x.ndim == 5 else x for name, x in outputs.items()}

    def run_example(self, layers: Any, spikes: np.ndarray) -> dict[str, np.ndarray]:
        kernels = {name: integers_of(layers[name], "weight") for name in ("a", "b", "out")}
        kernels |= {
            "c": integers_of(layers["c"], "weight['pool']"),
            "back": integers_of(layers["b"], "recurrent"),
        }
        geometry = {"a": self.first, "b": self.second, "back": self.back, "c": self.third}
        history: dict[str, list[np.ndarray]] = {name: [] for name in layers}
        states: dict[str, np.ndarray] = {}

        def convolved(name: str, x: np.ndarray) -> np.ndarray:
            options = {key: value for key, value in geometry[name].items() if key != "kernel"}
            return convolve(x, kernels[name], **options)

        def fire(name: str, current: np.ndarray) -> None:
            bias = layers[name].bias
            if bias is not None:
                whole = self.from_layout(bias.integers) if current.ndim == 3 else bias.integers
                current = current + whole
            zeros = np.zeros((len(reference.STATES), *current.shape), np.int64)
            state = states.setdefault(name, zeros)
            history[name].append(reference.fire_all(layers[name].cell, state, current))

        for t, x in enumerate(spikes):
            fire("a", convolved("a", x))
            current = convolved("b", history["a"][t])
            if t >= self.delay:
                current = current + convolved("back", history["b"][t - self.delay])
            fire("b", current)
            history["sum"].append(history["a"][t] + history["b"][t])
            history["pool"].append(sum_windows(history["sum"][t], self.window, self.stride))
            late = history["pool"][max(t - self.delay, 0)] * (t >= self.delay)
            fire("c", convolved("c", late))
            fire("out", self.to_layout(history["c"][t]).ravel() @ kernels["out"])
        return {name: np.stack(rows) for name, rows in history.items()}


SEEDS = [0, *(pytest.param(n, marks=pytest.mark.every) for n in range(1, 60))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks_of_images(seed, tmp_path):
    """The call in all modes, the replay, the file and the program in C compute the integers of the
    loops.
    """
    images = Images(seed)
    network, rng = images.network(), images.rng
    target = FixedLIF(
        0, 1, bits=int(rng.choice([16, 24])), rounding=str(rng.choice(["floor", "zero"]))
    )
    integers, report = quantize(network, target, images.user, bits=int(rng.choice([2, 4, 8, 12])))
    layers = integers.layers
    # The integers are those of the kernels, with outputs first and the factor of the average.
    limits = layers["a"].weight.operations[0].weight
    for row, label, geometry, divisor in (
        (report.layers[0], "weight", images.first, 1),
        (report.layers[2], "weight['pool']", images.third, images.divisor),
    ):
        rounded = np.rint(geometry["kernel"] / divisor * row.scale)
        rounded = np.clip(rounded, limits.low, limits.high)
        assert (np.abs(integers_of(layers[row.name], label) - rounded) <= 1).all()
        assert (integers_of(layers[row.name], label) == rounded).mean() > 0.98
    expected = images.run_apart(layers)
    assert expected["a"].any()
    assert expected["b"].any()

    def equal(run: Any) -> None:
        for name, values in run[1].items():
            unit = layers["out"].cell.unit if name == "out" else 1
            got = np.rint(np.asarray(values, np.float64) * unit)
            np.testing.assert_array_equal(got, expected[name], err_msg=name)

    equal(replay(integers, images.user))
    for mode in reference.MODES[:1] if seed == 0 else reference.MODES:
        equal(integers(jnp.asarray(images.user, jnp.float32), backward=mode))
    save(integers, tmp_path / "net.json")
    equal(replay(load(tmp_path / "net.json"), images.user))
    if shutil.which("cc"):
        flat = {name: x.reshape(*x.shape[:2], -1) for name, x in expected.items()}
        reference.check_c(integers, images.user.reshape(*images.user.shape[:2], -1), flat, tmp_path)


KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 3)), jnp.float32)


def convolved(x):
    return jax.lax.conv_general_dilated(x, KERNEL, (2,), [(1, 1)])


def small_network():
    """A convolution of one dimension, the average of all places, and a transposition before a
    product.
    """

    def averaged(x):
        sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 4), (1, 1, 4), "VALID")
        return 0.25 * sums

    return Network(
        {
            "a": Layer(convolved, LIF(0.8, 0.5, reset="value")),
            "means": Layer(averaged, LeakyReadout(0.9), of="a"),
            "turned": Layer(lambda x: x.mT.reshape(len(x), -1) @ TURNED, LIF(0.9), of="a"),
        },
        outputs=["a", "means", "turned"],
    )


TURNED = np.random.default_rng(2).normal(size=(12, 4)).astype(np.float32)
SPIKES = (np.random.default_rng(3).random((12, 3, 2, 8)) < 0.4).astype(np.int64)


@pytest.mark.every
@pytest.mark.ci
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
    assert np.abs(np.asarray(real["means"]) - out["means"]).mean() < 0.02
    assert [row.error < 0.02 for row in report.layers] == [True] * 3
    if shutil.which("cc"):
        flat = {n: x.reshape(*x.shape[:2], -1) for n, x in out.items()}
        flat["means"] = np.rint(flat["means"] * integers.layers["means"].cell.unit).astype(int)
        reference.check_c(integers, SPIKES.reshape(12, 3, -1), flat, tmp_path)


@pytest.mark.every
@pytest.mark.ci
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


def quantized(nodes, target="fixed"):
    return lambda: quantize(Network(nodes), target, SPIKES)


LIF_CELL, FLAT = LIF(0.9, reset="value"), lambda x: x.reshape(len(x), -1)
REFUSED = {
    "TypeError: layer '0' on FixedLIF: a function has no integers: two products without "
    "neurons": quantized([Layer(lambda x: convolved(x).reshape(len(x), -1) @ TURNED, LIF_CELL)]),
    "TypeError: a bias before another operation": quantized(
        [Layer(lambda x: convolved(x + 1.0), LIF_CELL)]
    ),
    "TypeError: a transposition that no product follows": quantized(
        [Layer(lambda x: convolved(x.mT.reshape(x.shape)), LIF_CELL)]
    ),
    "TypeError: a factor that differs between the numbers": quantized(
        [Layer(lambda x: convolved(x * jnp.arange(8.0)[None, None]), LIF_CELL)]
    ),
    "TypeError: layer '0' on Loihi: it has no sums of windows; use a convolution": quantized(
        [
            Layer(
                lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 2), (1, 1, 2), "VALID"),
                LIF_CELL,
            )
        ],
        "loihi",
    ),
    "TypeError: join 'j' on FixedLIF: it has weights; put them into": quantized(
        {"j": Join(convolved, of=["input"]), "a": Layer(lambda x: FLAT(x) @ TURNED, LIF_CELL)}
    ),
    "TypeError: join 'j' on FixedLIF: it takes complete sequences; fold a normalization": quantized(
        {
            "j": Join(lambda x: x - x.mean(0, keepdims=True), of=["input"], over_time=True),
            "a": Layer(convolved, LIF_CELL),
        }
    ),
    "TypeError: join 'j' on FixedLIF: it adds averages and sums": quantized(
        {
            "h": Join(lambda x: x / 2, of=["input"]),
            "j": Join(lambda x, y: x + y, of=["h", "input"]),
            "a": Layer(convolved, LIF_CELL),
        }
    ),
}


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
        (*PLACE, "shape"),
        [1, 3, 8],
        "operations must be operations that fit each other and the shape",
    ),
    "text": ((*PLACE, "shape"), "8", "function.shape must be a list"),
    "list": ((*PLACE, "operations"), None, "function.operations must be a list"),
    "window": ((*PLACE[:-1], "is_window"), True, "is_window must be false for a function"),
    "order": (
        ("layers", 1, "function", "operations", 0, "order"),
        [1, 0],
        "operations[0].order must be null",
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


def test_report_of_a_convolution_in_c(tmp_path):
    """3 kernels of 2 channels and 3 places at 4 places of 8, of which the padding leaves
    out one.
    """
    integers, _ = quantize(Network([Layer(convolved, LIF_CELL)]), "fixed", SPIKES)
    report = to_c(integers, tmp_path / "net")
    assert report.operations == 4 * 3 * 2 * 3
    assert report.state == 4 * (12 + 1 + 2 + 12)
