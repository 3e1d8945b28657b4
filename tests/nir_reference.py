"""What the equations of NIR say of a graph, one step after the other, in NumPy and float64; and
networks to try.
"""

import jax
import jax.numpy as jnp
import nir
import numpy as np

from spikegrad import LIF, Layer, Network, SynapticLIF


def simulate(graph, inputs, dt, discretization):
    """Outputs ``(steps, ...)`` of one example, of inputs ``(steps, ...)``. What comes back comes a
    step later.

    Of several inputs or outputs a dict. Neurons take their steps in the order of the nodes.
    """
    nodes, edges = flat(graph)
    sources = {name: [a for a, b in edges if b == name] for name in nodes}
    states = {
        name: Neurons(node, dt, discretization)
        for name, node in nodes.items()
        if hasattr(node, "r")
    }
    delays = {
        name: [np.zeros(np.shape(node.delay))] * round(np.ravel(node.delay)[0] / dt)
        for name, node in nodes.items()
        if isinstance(node, nir.Delay)
    }
    starts, ends = (
        [n for n in graph.nodes if isinstance(nodes.get(n), kind)]
        for kind in (nir.Input, nir.Output)
    )
    inputs = inputs if isinstance(inputs, dict) else {starts[0]: inputs}
    delayed = {}  # of this step

    def value(name, x):
        if name in states:
            return states[name].out
        if name in delays:
            if name not in delayed:
                delays[name].append(into(name, x))
                delayed[name] = delays[name].pop(0)
            return delayed[name]
        return x[name] if name in starts else apply(nodes[name], into(name, x))

    def into(name, x):
        return sum(value(source, x) for source in sources[name])

    outputs = {end: [] for end in ends}
    for t in range(len(inputs[starts[0]])):
        x = {name: np.asarray(inputs[name][t], float) for name in starts}
        delayed.clear()
        for name, neurons in states.items():  # in the order of the layers
            neurons.step(into(name, x))
        for end in ends:
            outputs[end].append(value(end, x))
    found = {end: np.array(of) for end, of in outputs.items()}
    return found if len(ends) > 1 else found[ends[0]]


def flat(graph, name=""):
    """Nodes and edges of a graph and of those within it, whose inputs and outputs pass on what they
    get.
    """
    nodes, edges = {}, []
    for key, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            inner = flat(node, f"{name}{key} ")
            nodes |= inner[0]
            edges += inner[1]
        else:
            nodes[name + key] = node
    for source, target in graph.edges:
        source = f"{source} output" if isinstance(graph.nodes[source], nir.NIRGraph) else source
        target = f"{target} input" if isinstance(graph.nodes[target], nir.NIRGraph) else target
        edges.append((name + source, name + target))
    return nodes, edges


class Neurons:
    def __init__(self, node, dt, discretization):
        def decay(tau):
            return (
                np.exp(-dt / np.float64(tau))
                if discretization == "exact"
                else 1 - dt / np.float64(tau)
            )

        self.node, self.dt = node, dt
        self.beta = decay(getattr(node, "tau", getattr(node, "tau_mem", np.inf)))
        self.gamma = decay(node.tau_syn) if hasattr(node, "tau_syn") else None
        self.rest = np.float64(getattr(node, "v_leak", 0)) + np.zeros(np.shape(node.r))
        self.v, self.i, self.out = self.rest, 0.0, np.zeros(np.shape(node.r))

    def step(self, current):
        node = self.node
        if self.gamma is not None:
            self.i = self.gamma * self.i + (1 - self.gamma) * node.w_in * current
            current = self.i
        if isinstance(node, (nir.I, nir.IF)):
            self.v = self.v + self.dt * node.r * current
        else:
            self.v = self.beta * self.v + (1 - self.beta) * (self.rest + node.r * current)
        self.out = self.v
        if hasattr(node, "v_threshold"):
            fires = self.v > node.v_threshold
            self.v, self.out = np.where(fires, node.v_reset, self.v), fires.astype(float)


def apply(node, x):
    if isinstance(node, nir.Threshold):
        return (x > node.threshold).astype(float)
    if isinstance(node, nir.Scale):
        return x * node.scale
    if isinstance(node, nir.Flatten):
        assert (node.start_dim, node.end_dim) == (0, -1)
        return x.reshape(-1)
    if isinstance(node, (nir.Linear, nir.Affine)):
        return np.float64(node.weight) @ x + getattr(node, "bias", 0)
    if isinstance(node, nir.Conv1d):
        padding = node.padding if isinstance(node.padding, str) else (0, node.padding)
        kernel, steps, spread = node.weight[:, :, None], (1, node.stride), (1, node.dilation)
        two = nir.Conv2d(
            (1, node.input_shape), kernel, steps, padding, spread, node.groups, node.bias
        )
        return convolution(two, x[:, None])[:, 0]
    rules = {nir.Conv2d: convolution, nir.SumPool2d: pooling, nir.AvgPool2d: pooling}
    return rules[type(node)](node, x) if type(node) in rules else x


def pooling(node, x):
    (high, wide), (down, right), (top, left) = map(
        np.ravel, (node.kernel_size, node.stride, node.padding)
    )
    x = np.pad(x, [(0, 0), (top, top), (left, left)])
    rows = [
        [
            x[:, i : i + high, j : j + wide].sum((1, 2))
            for j in range(0, x.shape[2] - wide + 1, right)
        ]
        for i in range(0, x.shape[1] - high + 1, down)
    ]
    out = np.moveaxis(np.array(rows), -1, 0)
    return out / (high * wide) if isinstance(node, nir.AvgPool2d) else out


def convolution(node, x):
    kernel = np.asarray(node.weight, np.float64)
    outs, per_group, *size = kernel.shape
    reach = [d * (n - 1) for d, n in zip(node.dilation, size, strict=True)]
    pads = (
        [(r // 2, r - r // 2) for r in reach]
        if node.padding == "same"
        else [(p, p) for p in node.padding]
    )
    x = np.pad(x, [(0, 0), *pads])
    rows, columns = (
        (n - r - 1) // s + 1 for n, r, s in zip(x.shape[1:], reach, node.stride, strict=True)
    )
    out = np.empty((outs, rows, columns))
    for o in range(outs):
        group = o // (outs // node.groups) * per_group
        for i in range(rows):
            for j in range(columns):
                top, left = i * node.stride[0], j * node.stride[1]
                seen = x[
                    group : group + per_group,
                    top : top + reach[0] + 1 : node.dilation[0],
                    left : left + reach[1] + 1 : node.dilation[1],
                ]
                out[o, i, j] = (kernel[o] * seen).sum() + node.bias[o]
    return out


STEPS, INPUTS, EXAMPLES = 40, 12, 3


def spikes_in(shape=(INPUTS,), seed=0):
    """Spikes ``(steps, examples, ...)``."""
    return (np.random.default_rng(seed).random((STEPS, EXAMPLES, *shape)) < 0.3).astype(np.float32)


def weights(*shape, seed=1, scale=1.5):
    return (
        np.random.default_rng([seed, *shape])
        .normal(0.05, scale / np.sqrt(shape[0]), shape)
        .astype(np.float32)
    )


def networks():
    """By name: what the libraries that read NIR are given too, of one decay and threshold for each
    layer.
    """
    lif, synaptic = LIF(0.9, reset="value"), SynapticLIF(0.85, reset="value", synaptic_decay=0.6)
    bias = np.linspace(-0.1, 0.2, 8, dtype=np.float32)
    back = 0.4 * weights(16, 16)
    return {
        "lif": Network(
            [
                Layer(weights(12, 16), lif),
                Layer(weights(16, 8), LIF(0.8, 1.3, reset="value"), bias=bias),
            ]
        ),
        "synaptic": Network(
            [Layer(weights(12, 16), synaptic), Layer(weights(16, 8), synaptic, bias=bias)]
        ),
        "lif, recurrent": Network([Layer(weights(12, 16), lif, back), Layer(weights(16, 8), lif)]),
        "synaptic, recurrent": Network(
            [Layer(weights(12, 16), synaptic, back), Layer(weights(16, 8), synaptic)]
        ),
    }


def images():
    """A network of a convolution, and spikes of one example."""
    kernel = np.random.default_rng(5).normal(0.1, 0.5, (3, 3, 2, 4)).astype(np.float32)

    def convolve(x):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def dense(x):
        return x.reshape(len(x), -1) @ jnp.asarray(weights(3 * 2 * 4, 5, seed=4))

    lif = LIF(0.9, reset="value")
    return Network(
        [Layer(convolve, lif, bias=jnp.linspace(-0.2, 0.1, 4)), Layer(dense, lif)]
    ), spikes_in((7, 5, 2))


def with_readout(readout):
    return Network(
        [Layer(weights(12, 16), LIF(0.9, reset="value")), Layer(weights(16, 5), readout)]
    )
