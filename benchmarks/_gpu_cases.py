"""Networks whose training steps are compiled for a GPU, and the same networks in plain JAX.

A case has shapes instead of arrays, because nothing runs. The plain form takes a scan as an argument:
``jax.lax.scan``, or one with ``jax.checkpoint`` around segments of about the square root of the number of steps.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

import spikegrad
from spikegrad import LIF, AdaptiveLIF, Delayed, Join, Layer, LeakyReadout, Network, Sigmoid, stochastic
from spikegrad.neurons import Cell, Refractory

PyTree: TypeAlias = Any
FIRE = Sigmoid(4.0)
CELL, ADAPTIVE, READOUT = LIF(0.9, surrogate=FIRE), AdaptiveLIF(0.9, surrogate=FIRE), LeakyReadout(0.9)
INPUTS, CLASSES, DELAY = 700, 20, 10


class Case(NamedTuple):
    weights: PyTree
    inputs: PyTree
    steps: int
    network: Callable[..., jax.Array]
    """``network(weights, inputs, backward)``: the outputs of all steps."""
    plain: Callable[..., jax.Array]
    """``plain(weights, inputs, scan)``: these outputs."""


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def loss(outputs: jax.Array) -> jax.Array:
    return (outputs.mean(0) ** 2).sum()


def checkpointed(step: Callable, carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """Scan with ``jax.checkpoint`` around each segment."""
    steps = len(jax.tree.leaves(xs)[0])
    near = math.sqrt(steps)
    segment = min((n for n in range(1, steps + 1) if steps % n == 0), key=lambda n: abs(math.log(n / near)))
    xs = jax.tree.map(lambda a: a.reshape(-1, segment, *a.shape[1:]), xs)
    carry, outs = jax.lax.scan(jax.checkpoint(functools.partial(jax.lax.scan, step)), carry, xs)
    return carry, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), outs)


def at_rest(cell: Cell, batch: int, neurons: int, dtype: Any) -> tuple[PyTree, jax.Array]:
    """Return the state and the output of a layer before the first step."""
    rest = jax.tree.map(jnp.asarray, cell.initial_state((batch, neurons), dtype))
    return rest, jnp.zeros((batch, neurons), dtype)


def chain(
    hidden: Sequence[int], steps: int, batch: int, cell: Cell = CELL, recurrent: bool = False, dtype: Any = jnp.float32
) -> Case:
    """Return fully connected layers and a readout."""
    sizes = [INPUTS, *hidden, CLASSES]
    cells = [*[cell] * len(hidden), READOUT]
    weights = [shape(*pair, dtype=dtype) for pair in itertools.pairwise(sizes)]
    loops = [shape(n, n, dtype=dtype) if recurrent else None for n in hidden]

    def network(weights, inputs, backward):
        matrices, loops = weights
        layers = [Layer(w, c, r) for w, c, r in zip(matrices, cells, [*loops, None], strict=True)]
        return Network(layers)(inputs, backward=backward)[1]

    def plain(weights, inputs, scan):
        matrices, loops = weights

        def step(states, x):
            new = []
            for w, c, r, (v, s) in zip(matrices, cells, [*loops, None], states, strict=True):
                v, x = c(v, x @ w if r is None else x @ w + s @ r)
                new.append((v, x))
            return new, x

        start = [at_rest(c, batch, w.shape[1], dtype) for c, w in zip(cells, matrices, strict=True)]
        return scan(step, start, inputs)[1]

    return Case((weights, loops), shape(steps, batch, INPUTS, dtype=dtype), steps, network, plain)


def masked(steps: int, batch: int, neurons: int) -> Case:
    """Return a layer and a readout, with a mask for each example."""
    weights = shape(INPUTS, neurons), shape(neurons, CLASSES)
    inputs = shape(steps, batch, INPUTS), shape(steps, batch, dtype=bool)

    def network(weights, inputs, backward):
        x, mask = inputs
        hidden, out = weights
        return Network([Layer(hidden, CELL), Layer(out, READOUT)])(x, mask=mask, backward=backward)[1]

    def plain(weights, inputs, scan):
        hidden, out = weights

        def step(states, now):
            x, active = now
            active = active[:, None]
            v, r = states
            v_new, s = CELL(v, x @ hidden)
            r_new, y = READOUT(r, jnp.where(active, s, 0) @ out)
            return (jnp.where(active, v_new, v), jnp.where(active, r_new, r)), jnp.where(active, y, 0)

        return scan(step, (jnp.zeros((batch, neurons)), jnp.zeros((batch, CLASSES))), inputs)[1]

    return Case(weights, inputs, steps, network, plain)


def delayed(steps: int, batch: int, neurons: int) -> Case:
    """Return a layer that reads its spikes of ten steps ago, and a readout."""
    weights = shape(INPUTS, neurons), shape(neurons, neurons), shape(neurons, CLASSES)

    def network(weights, inputs, backward):
        w, r, out = weights
        return Network([Layer(w, CELL, Delayed(r, DELAY)), Layer(out, READOUT)])(inputs, backward=backward)[1]

    def plain(weights, inputs, scan):
        w, r, out = weights

        def step(states, x):
            v, past, p = states
            v, s = CELL(v, x @ w + past[0] @ r)
            p, y = READOUT(p, s @ out)
            return (v, jnp.concatenate([past[1:], s[None]]), p), y

        start = jnp.zeros((batch, neurons)), jnp.zeros((DELAY, batch, neurons)), jnp.zeros((batch, CLASSES))
        return scan(step, start, inputs)[1]

    return Case(weights, shape(steps, batch, INPUTS), steps, network, plain)


def two_inputs(steps: int, batch: int, neurons: int) -> Case:
    """Return a layer with two inputs, and a readout."""
    weights = {"a": shape(INPUTS, neurons), "b": shape(INPUTS // 2, neurons), "out": shape(neurons, CLASSES)}
    inputs = {"a": shape(steps, batch, INPUTS), "b": shape(steps, batch, INPUTS // 2)}

    def network(weights, inputs, backward):
        hidden = Layer({"a": weights["a"], "b": weights["b"]}, CELL)
        nodes = {"hidden": hidden, "out": Layer(weights["out"], READOUT)}
        return Network(nodes, inputs=("a", "b"))(inputs, backward=backward)[1]

    def plain(weights, inputs, scan):
        def step(states, x):
            v, p = states
            v, s = CELL(v, x["a"] @ weights["a"] + x["b"] @ weights["b"])
            p, y = READOUT(p, s @ weights["out"])
            return (v, p), y

        return scan(step, (jnp.zeros((batch, neurons)), jnp.zeros((batch, CLASSES))), inputs)[1]

    return Case(weights, inputs, steps, network, plain)


def residual(steps: int, batch: int, neurons: int) -> Case:
    """Return three layers with sums of their spikes, and a readout."""
    weights = [shape(INPUTS, neurons), shape(neurons, neurons), shape(neurons, neurons), shape(neurons, CLASSES)]

    def network(weights, inputs, backward):
        a, b, c, out = weights
        nodes = {
            "a": Layer(a, CELL),
            "b": Layer(b, CELL),
            "ab": Join(jnp.add, ("a", "b")),
            "c": Layer(c, CELL),
            "abc": Join(jnp.add, ("ab", "c")),
            "out": Layer(out, READOUT),
        }
        return Network(nodes)(inputs, backward=backward)[1]

    def plain(weights, inputs, scan):
        a, b, c, out = weights

        def step(states, x):
            va, vb, vc, p = states
            va, x = CELL(va, x @ a)
            vb, s = CELL(vb, x @ b)
            x = x + s
            vc, s = CELL(vc, x @ c)
            p, y = READOUT(p, (x + s) @ out)
            return (va, vb, vc, p), y

        rest = jnp.zeros((batch, neurons))
        return scan(step, (rest, rest, rest, jnp.zeros((batch, CLASSES))), inputs)[1]

    return Case(weights, shape(steps, batch, INPUTS), steps, network, plain)


def drawn(steps: int, batch: int, neurons: int) -> Case:
    """Return a layer with stochastic spikes, and a readout."""
    cell = LIF(0.9, surrogate=stochastic(FIRE))
    weights = shape(INPUTS, neurons), shape(neurons, CLASSES)

    def network(weights, inputs, backward):
        hidden, out = weights
        layers = [Layer(hidden, cell), Layer(out, READOUT)]
        return Network(layers)(inputs, key=jax.random.key(0), backward=backward)[1]

    def plain(weights, inputs, scan):
        hidden, out = weights

        def step(states, now):
            t, x = now
            v, p = states
            v, s = cell(v, x @ hidden, key=jax.random.fold_in(jax.random.key(0), t))
            p, y = READOUT(p, s @ out)
            return (v, p), y

        start = jnp.zeros((batch, neurons)), jnp.zeros((batch, CLASSES))
        return scan(step, start, (jnp.arange(steps), inputs))[1]

    return Case(weights, shape(steps, batch, INPUTS), steps, network, plain)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolutions(steps: int, batch: int, size: int = 28, channels: Sequence[int] = (1, 16, 32, 32)) -> Case:
    """Return three convolutions and a readout of all pixels."""
    kernels = [shape(3, 3, *pair) for pair in itertools.pairwise(channels)]
    features = size * size * channels[-1]

    def network(weights, inputs, backward):
        kernels, out = weights
        layers = [Layer(functools.partial(convolve, kernel=kernel), CELL) for kernel in kernels]
        readout = Layer(lambda x: x.reshape(len(x), -1) @ out, READOUT)
        return Network([*layers, readout])(inputs, backward=backward)[1]

    def plain(weights, inputs, scan):
        kernels, out = weights

        def step(states, x):
            new = []
            for v, kernel in zip(states[:-1], kernels, strict=True):
                v, x = CELL(v, convolve(x, kernel))
                new.append(v)
            p, y = READOUT(states[-1], x.reshape(batch, -1) @ out)
            return [*new, p], y

        start = [jnp.zeros((batch, size, size, kernel.shape[-1])) for kernel in kernels]
        return scan(step, [*start, jnp.zeros((batch, CLASSES))], inputs)[1]

    weights = kernels, shape(features, CLASSES)
    return Case(weights, shape(steps, batch, size, size, channels[0]), steps, network, plain)


def norm_convolve(params: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """Convolve all steps, and normalize by the mean and variance over steps, examples and pixels."""
    y = convolve(x.reshape(-1, *x.shape[2:]), params["kernel"])
    y = (y - y.mean((0, 1, 2))) * jax.lax.rsqrt(y.var((0, 1, 2)) + 1e-5) * params["scale"] + params["offset"]
    return y.reshape(*x.shape[:2], *y.shape[1:])


def norm_shapes(inputs: int, outputs: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"kernel": shape(3, 3, inputs, outputs), "scale": shape(outputs), "offset": shape(outputs)}


def pool(x: jax.Array) -> jax.Array:
    """Halve both sides of images ``(steps, batch, height, width, channels)``."""
    window = (1, 1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def unchanged(current: jax.Array) -> jax.Array:
    return current


def fired(scan: Callable, currents: jax.Array) -> jax.Array:
    """Return the spikes of neurons in all steps."""
    return scan(CELL, jnp.zeros_like(currents[0]), currents)[1]


def mean_readout(x: jax.Array, out: jax.Array) -> jax.Array:
    return x.mean((-3, -2)) @ out


def sew_block(steps: int, batch: int, size: int = 32, channels: int = 16) -> Case:
    """Return a stem and a block of SEW-ResNet, with batch normalization over steps and examples."""
    names = "stem", "first", "second"
    weights = {name: norm_shapes(2 if name == "stem" else channels, channels) for name in names}

    def network(weights, inputs, backward):
        norms, out = weights
        nodes: dict[str, Any] = {}
        above = "input"
        for name in names:
            nodes[f"{name} norm"] = Join(functools.partial(norm_convolve, norms[name]), above, over_time=True)
            nodes[name] = Layer(unchanged, CELL)
            above = name
        nodes["sum"] = Join(jnp.add, ("stem", "second"))
        nodes["out"] = Layer(functools.partial(mean_readout, out=out), READOUT)
        return Network(nodes)(inputs, backward=backward)[1]

    def plain(weights, inputs, scan):
        norms, out = weights
        stem = fired(scan, norm_convolve(norms["stem"], inputs))
        branch = fired(scan, norm_convolve(norms["first"], stem))
        branch = fired(scan, norm_convolve(norms["second"], branch))
        return scan(READOUT, jnp.zeros((batch, CLASSES)), mean_readout(stem + branch, out))[1]

    shapes = weights, shape(channels, CLASSES)
    return Case(shapes, shape(steps, batch, size, size, 2), steps, network, plain)


def dvs_gesture_net(steps: int, batch: int, size: int = 128, channels: int = 128) -> Case:
    """Return the network of Fang et al. 2021 for DVS gestures, without dropout: five convolutions with batch
    normalization over steps and examples and with pooling, then two matrices.
    """
    stages, votes = 5, 10
    norms = [norm_shapes(2 if n == 0 else channels, channels) for n in range(stages)]
    matrices = shape((size >> stages) ** 2 * channels, 512), shape(512, 11 * votes)

    def stage(params, x, first):
        return norm_convolve(params, x if first else pool(x))

    def flat(x):
        return pool(x).reshape(*x.shape[:2], -1)

    def network(weights, inputs, backward):
        norms, (first, last) = weights
        nodes: dict[str, Any] = {}
        above = "input"
        for n, params in enumerate(norms):
            nodes[f"norm {n}"] = Join(functools.partial(stage, params, first=n == 0), above, over_time=True)
            nodes[above := f"spikes {n}"] = Layer(unchanged, CELL)
        nodes["flat"] = Join(lambda x: flat(x[None])[0], above)
        nodes["hidden"] = Layer(first, CELL)
        nodes["out"] = Layer(last, CELL)
        return voted(Network(nodes)(inputs, backward=backward)[1])

    def plain(weights, inputs, scan):
        norms, matrices = weights
        x = inputs
        for n, params in enumerate(norms):
            x = fired(scan, stage(params, x, n == 0))
        x = flat(x)
        for matrix in matrices:
            x = fired(scan, x @ matrix)
        return voted(x)

    def voted(x):
        return x.reshape(*x.shape[:2], 11, votes).mean(-1)

    return Case((norms, matrices), shape(steps, batch, size, size, 2), steps, network, plain)


def each_cell(steps: int, batch: int, neurons: int) -> Case:
    """Return a layer of each kind of neuron that has defaults for all parameters, without a plain form."""
    found = [
        kind()
        for kind in vars(spikegrad.neurons).values()
        if isinstance(kind, type) and issubclass(kind, Cell) and has_defaults(kind)
    ]
    cells = [*found, Refractory(CELL, 2)]

    def network(weights, inputs, backward):
        outputs = [Network([Layer(weights, cell)])(inputs, backward=backward)[1] for cell in cells]
        return sum(outputs[1:], outputs[0])

    def plain(weights, inputs, scan):
        raise NotImplementedError

    return Case(shape(neurons, neurons), shape(steps, batch, neurons), steps, network, plain)


def has_defaults(kind: type) -> bool:
    parameters = inspect.signature(kind).parameters.values()
    return kind is not Cell and all(p.default is not p.empty for p in parameters)


CASES: dict[str, Callable[[], Case]] = {
    "one layer": lambda: chain([512], 200, 64),
    "recurrent": lambda: chain([512], 200, 64, recurrent=True),
    "recurrent adaptive": lambda: chain([512], 200, 64, ADAPTIVE, recurrent=True),
    "four layers": lambda: chain([512] * 4, 100, 64),
    "eight layers": lambda: chain([256] * 8, 100, 64),
    "three convolutions": lambda: convolutions(8, 64),
    "SEW block": lambda: sew_block(8, 64),
    "DVSGestureNet": lambda: dvs_gesture_net(16, 16),
    "masks per example": lambda: masked(200, 64, 512),
    "delay": lambda: delayed(200, 64, 512),
    "two inputs": lambda: two_inputs(200, 64, 512),
    "joins": lambda: residual(100, 64, 512),
    "stochastic": lambda: drawn(200, 64, 512),
    "bfloat16": lambda: chain([512], 200, 64, dtype=jnp.bfloat16),
}
COMPILED = CASES | {"each cell": lambda: each_cell(20, 2, 8)}
"""Cases that are compiled for a device and need not be counted."""
