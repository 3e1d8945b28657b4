"""Random networks of images, with convolutions, pooling, joins, adaptive and refractory cells, and
their steps in loops over plain integers, written apart from the library.
"""

from __future__ import annotations

from typing import Any

import integer_networks as reference
import jax
import jax.numpy as jnp
import numpy as np

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    SynapticLIF,
)
from spikegrad.integers import Fixed, FixedLIF, quantize
from spikegrad.neurons import Refractory, SynapticAdaptiveLIF

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


def pool_windows(x, window, stride, combine):
    """Integers ``(channels, rows, columns)``, without a padding."""
    rows, columns = ((n - w) // s + 1 for n, w, s in zip(x.shape[1:], window, stride, strict=True))
    out = np.zeros((len(x), rows, columns), np.int64)
    for c, i, j in np.ndindex(out.shape):
        top, left = i * stride[0], j * stride[1]
        out[c, i, j] = combine(x[c, top : top + window[0], left : left + window[1]])
    return out


def following_maximum(x):
    """The maximum of each number and those below and to the right, without numbers beyond."""
    lowest = np.iinfo(np.int64).min
    x = np.pad(x, [(0, 0), (0, 1), (0, 1)], constant_values=lowest)
    return pool_windows(x, (2, 2), (1, 1), np.max)


def fixed_of(layer: Layer, label: str) -> Fixed:
    leaves = jax.tree.leaves(layer.weights[label], is_leaf=lambda x: isinstance(x, Fixed))
    (weight,) = [leaf for leaf in leaves if isinstance(leaf, Fixed)]
    return weight


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

    def pool(self, window, stride, combine, padding="VALID") -> Any:
        def sides(each, one):
            return (one, *each, one) if self.layout == "last" else (one, one, *each)

        start = -jnp.inf if combine is jax.lax.max else 0.0
        padding = padding if padding == "VALID" else sides(padding, (0, 0))
        sizes = sides(window, 1), sides(stride, 1)
        return lambda x: jax.lax.reduce_window(x, start, combine, *sizes, padding)

    def per_channel(self, low: float, high: float, channels: int) -> np.ndarray:
        values = self.rng.uniform(low, high, (channels, 1, 1)).astype(np.float32)
        return self.to_layout(values)

    def cell(self, channels: int) -> Any:
        """A cell with one number for each channel, or for all."""
        rng = self.rng
        is_synaptic, is_adaptive = rng.random(2) < 0.5
        options: dict[str, Any] = {"synaptic_decay": 0.6} if is_synaptic else {}
        resets = ["value", "subtract", "none"]
        if is_adaptive:
            options |= {"adaptation": self.per_channel(0.1, 0.6, channels)}
            options |= {"adaptation_decay": rng.uniform(0.8, 0.99)}
            resets.append("baseline")
        kind = {
            (False, False): LIF,
            (True, False): SynapticLIF,
            (False, True): AdaptiveLIF,
            (True, True): SynapticAdaptiveLIF,
        }[bool(is_synaptic), bool(is_adaptive)]
        decay = self.per_channel(0.6, 0.95, channels) if rng.random() < 0.5 else 0.8
        cell = kind(
            decay, self.per_channel(0.6, 1.5, channels), reset=str(rng.choice(resets)), **options
        )
        return Refractory(cell, int(rng.integers(1, 4))) if rng.random() < 0.3 else cell

    def to_layout(self, x: np.ndarray) -> np.ndarray:
        """From channels first to the order of the user."""
        return np.moveaxis(x, -3, -1) if self.layout == "last" else x

    def from_layout(self, x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x, -1, -3) if self.layout == "last" else x

    def has_empty_images(self) -> bool:
        """True if a window or a kernel is larger than its images."""
        zeros = ((1, 1), (0, 1)) if self.pads else ((0, 0), (0, 0))
        windows = {"kernel": np.ones(self.window), "stride": self.stride}
        sizes = np.add(self.size, np.sum(zeros, 1))
        smallest = sizes
        for geometry in (self.first, windows, self.third):
            padding = np.sum(geometry.get("padding", ((0, 0), (0, 0))), 1)
            kernel = np.subtract(geometry["kernel"].shape[-2:], 1) * geometry.get("dilation", 1) + 1
            sizes = (sizes + padding - kernel) // geometry["stride"] + 1
            smallest = np.minimum(smallest, sizes)
        return bool((smallest < 1).any())

    def network(self) -> Network:
        """Two convolutions with feedback, their sum or concatenation, its sums, averages or maxima
        of windows, a third convolution and a product.
        """
        rng = self.rng
        self.first = self.convolution(2, 4, tuple(rng.integers(1, 4, 2)))
        self.second, self.back = (self.convolution(4, 4, same=True) for _ in range(2))
        self.pads, self.joins_channels, self.has_maximum = (bool(x) for x in rng.random(3) < 0.4)
        self.third = self.convolution(8 if self.joins_channels else 4, 6, (2, 2))
        self.window, self.stride = (2, int(rng.integers(1, 3))), (int(rng.integers(1, 3)), 1)
        self.combine = str(rng.choice(["sum", "average", "maximum"]))
        self.delay = int(rng.integers(1, 4))
        self.divisor = 2 * self.window[1] if self.combine == "average" else 1
        if self.has_empty_images():
            self.first |= {"dilation": (1, 1)}
            self.third |= {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
        self.draw_spikes()
        bias = self.to_layout(rng.normal(0, 0.1, (4, 1, 1)).astype(np.float32))[None]
        a, b, c = (self.function(x) for x in (self.first, self.second, self.third))
        pool = self.pool(
            self.window, self.stride, jax.lax.max if self.combine == "maximum" else jax.lax.add
        )
        following = self.pool((2, 2), (1, 1), jax.lax.max, ((0, 1), (0, 1)))
        zeros = [(0, 0), *self.to_layout_of([(0, 0), (1, 1), (0, 1)])]
        channels = 3 if self.layout == "last" else 1
        back = Delayed(self.function(self.back), self.delay)
        synaptic = SynapticLIF(0.8, threshold=2.0, reset="subtract", synaptic_decay=0.6)
        join = (
            (lambda a, b: jnp.concatenate([a, b], channels))
            if self.joins_channels
            else (lambda a, b: a + b)
        )
        nodes = {
            "a": Layer(lambda x: a(jnp.pad(x, zeros) if self.pads else x) + bias, self.cell(4)),
            "b": Layer(
                lambda x: following(b(x) + bias) if self.has_maximum else b(x),
                self.cell(4),
                recurrent=back,
            ),
            "join": Join(join, of=["a", "b"]),
            "pool": Join(lambda x: pool(x) / self.divisor, of=["join"]),
            "c": Layer({"pool": Delayed(c, self.delay)}, synaptic),
        }
        outputs = jax.eval_shape(
            Network(nodes, outputs=[*nodes]), jax.ShapeDtypeStruct(self.user.shape, jnp.float32)
        )[1]
        size = int(np.prod(outputs["c"].shape[2:]))
        dense = rng.normal(0, 0.5, (size, 3)).astype(np.float32)
        nodes["out"] = Layer(
            lambda x: x.reshape(len(x), -1) @ dense + 0.25, LeakyReadout(0.9), of="c"
        )
        return Network(nodes, outputs=[*nodes])

    def draw_spikes(self) -> None:
        rng, shape = self.rng, (8, 2, 2, *self.size)
        self.spikes = (rng.random(shape) < 0.4).astype(np.int64) * rng.integers(1, 3)
        self.user = self.to_layout(self.spikes)

    def to_layout_of(self, sides: list[Any]) -> list[Any]:
        channels, *places = sides
        return [*places, channels] if self.layout == "last" else sides

    def run_apart(self, layers: Any) -> dict[str, np.ndarray]:
        """Return the outputs of all nodes, in the layout of the user."""
        examples = [self.run_example(layers, x) for x in np.moveaxis(self.spikes, 1, 0)]
        outputs = {name: np.stack([example[name] for example in examples], 1) for name in layers}
        return {name: self.to_layout(x) if x.ndim == 5 else x for name, x in outputs.items()}

    def run_example(self, layers: Any, spikes: np.ndarray) -> dict[str, np.ndarray]:
        kernels = {name: fixed_of(layers[name], "weight").integers for name in ("a", "b", "out")}
        kernels |= {
            "c": fixed_of(layers["c"], "weight['pool']").integers,
            "back": fixed_of(layers["b"], "recurrent").integers,
        }
        geometry = {"a": self.first, "b": self.second, "back": self.back, "c": self.third}
        history: dict[str, list[np.ndarray]] = {name: [] for name in layers}
        states: dict[str, np.ndarray] = {}

        def convolved(name: str, x: np.ndarray) -> np.ndarray:
            options = {key: value for key, value in geometry[name].items() if key != "kernel"}
            return convolve(x, kernels[name], **options)

        def fire(name: str, current: np.ndarray) -> None:
            # Parameters are arrays in the layout of the user.
            is_image, bias = current.ndim == 3, layers[name].bias
            current = self.to_layout(current) if is_image else current
            current = current + (0 if bias is None else bias.integers)
            zeros = np.zeros((len(reference.STATES), *current.shape), np.int64)
            out = reference.fire_all(layers[name].cell, states.setdefault(name, zeros), current)
            history[name].append(self.from_layout(out) if is_image else out)

        combine = np.max if self.combine == "maximum" else np.sum
        for t, x in enumerate(spikes):
            x = np.pad(x, [(0, 0), (1, 1), (0, 1)]) if self.pads else x
            fire("a", convolved("a", x))
            current = convolved("b", history["a"][t])
            if self.has_maximum:
                current = following_maximum(current)
            if t >= self.delay:
                current = current + convolved("back", history["b"][t - self.delay])
            fire("b", current)
            parts = history["a"][t], history["b"][t]
            history["join"].append(np.concatenate(parts) if self.joins_channels else sum(parts))
            pooled = pool_windows(history["join"][t], self.window, self.stride, combine)
            history["pool"].append(pooled)
            late = history["pool"][max(t - self.delay, 0)] * (t >= self.delay)
            fire("c", convolved("c", late))
            fire("out", self.to_layout(history["c"][t]).ravel() @ kernels["out"])
        return {name: np.stack(rows) for name, rows in history.items()}

    def quantized(self, network: Network) -> tuple[Network, Any]:
        """Return the network on integers of random formats, and the report."""
        rng = self.rng
        target = FixedLIF(
            0, 1, bits=int(rng.choice([16, 24])), rounding=str(rng.choice(["floor", "zero"]))
        )
        bits, (per_channel, powers_of_two) = int(rng.choice([2, 4, 8, 12])), rng.random(2) < 0.5
        return quantize(
            network,
            target,
            self.user,
            bits=bits,
            per_channel=bool(per_channel),
            powers_of_two=bool(powers_of_two),
        )

    def is_equal(self, layers: Any, run: Any, expected: dict[str, np.ndarray]) -> bool:
        """Return True if a call or a replay has these outputs of all nodes."""
        units = {"out": np.array(layers["out"].cell.unit)}
        return all(
            np.array_equal(np.rint(np.asarray(x, np.float64) * units.get(name, 1)), expected[name])
            for name, x in run[1].items()
        )
