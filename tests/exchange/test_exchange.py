"""To NIR and back: the graph does what the network does, by NIR's equations."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

nir = pytest.importorskip("nir")

from networks import assert_raises  # noqa: E402
from nir_reference import images, networks, simulate, spikes_in, weights, with_readout  # noqa: E402

from spikegrad import (  # noqa: E402
    LIF,
    AdaptiveLIF,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    bounded,
    strict,
)
from spikegrad.exchange import from_nir, to_nir  # noqa: E402
from spikegrad.neurons import MultiSynapticLIF, Refractory  # noqa: E402

EULER = {"dt": 1e-4, "discretization": "euler"}
EXACT = {"dt": 1e-3, "discretization": "exact"}


def run(network, inputs):
    return np.asarray(network(jnp.asarray(inputs), backward="scan")[1])


def reference(graph, inputs, way):
    """The outputs of each example by the equations of NIR."""
    examples = [simulate(graph, inputs[:, n], **way) for n in range(inputs.shape[1])]
    return np.stack(examples, 1)


def assert_close(outputs, expected):
    """Spikes must be equal, and potentials may be rounded."""
    if np.isin(expected, (0, 1)).all():
        assert 0.01 < expected.mean() < 0.95
        np.testing.assert_array_equal(outputs, expected)
    else:
        assert expected.std() > 0.05
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def layer_of(cell, scale=1.0, recurrent=None):
    return Network([Layer(scale * weights(12, 6), cell, recurrent)])


DECAYS = np.linspace(0.5, 0.95, 6, dtype=np.float32)
CELLS = {
    **networks(),
    "readout": with_readout(LeakyReadout(0.9)),
    "readout, norm_input": with_readout(LeakyReadout(0.9, norm_input=True)),
    "readout without leak": with_readout(LeakyReadout(1.0)),
    "no readout": with_readout(LeakyReadout(0.0)),
    "no reset": layer_of(LIF(0.9, reset="none"), recurrent=-0.1 * abs(weights(6, 6))),
    "no reset, no leak": layer_of(LIF(1.0, reset="none"), recurrent=-0.1 * abs(weights(6, 6))),
    "no reset, synapse": layer_of(SynapticLIF(0.8, reset="none")),
    "reset value": layer_of(LIF(0.9, 1.5, reset="value", reset_value=-0.5), 4),
    "bounded": layer_of(
        LIF(bounded(0.8), bounded(0.7, 0.1, 2.0), reset="value", norm_input=True), 4
    ),
    "synapse, norm_input": layer_of(
        SynapticLIF(0.9, 0.8, reset="value", reset_value=0.25, norm_input=True), 4
    ),
    "each neuron": layer_of(LIF(DECAYS, jnp.linspace(0.5, 2, 6), reset="value")),
}
NODES = {
    "readout": nir.LI,
    "readout without leak": nir.I,
    "no readout": nir.Linear,
    "no reset": nir.NIRGraph,
    "no reset, synapse": nir.Threshold,
    "synapse, norm_input": nir.CubaLIF,
}


@pytest.mark.parametrize("name", CELLS)
def test_graphs_and_imports_have_the_outputs_of_the_network(name, tmp_path):
    network, inputs = CELLS[name], spikes_in()
    outputs = run(network, inputs)
    for way in EULER, EXACT:
        for unit_resistance in False, True:
            graph = to_nir(network, **way, unit_resistance=unit_resistance)
            assert_close(outputs, reference(graph, inputs, way))
    last = graph.nodes[str(len(network.layers) - 1)]
    assert name not in NODES or type(last) is NODES[name]
    # One of the ways for each network, because each import compiles.
    way = (EULER, EXACT)[[*CELLS].index(name) % 2]
    nir.write(tmp_path / "graph.nir", to_nir(network, **way))
    again = from_nir(nir.read(tmp_path / "graph.nir"), **way)
    assert_close(run(again, inputs), outputs)
    for layer, before in zip(again.layers.values(), network.layers.values(), strict=True):
        assert type(layer.cell) is type(before.cell)
        for field in ("decay", "threshold", "reset_value", "synaptic_decay"):
            if hasattr(before.cell, field):
                value, old = (jnp.asarray(getattr(one.cell, field)) for one in (layer, before))
                np.testing.assert_allclose(value, old, rtol=1e-6)
        assert layer.cell.norm_input == before.cell.norm_input


def test_a_potential_at_the_threshold_fires_on_both_sides():
    network = Network([Layer(np.eye(2, dtype=np.float32), LIF(1.0, reset="value"))])
    inputs = np.full((6, 1, 2), [0.5, 0.25], np.float32)
    graph = to_nir(network, **EULER)
    assert type(graph.nodes["0"]) is nir.IF
    threshold = float(np.float32(0.99999994))
    assert graph.nodes["0"].v_threshold.tolist() == [threshold] * 2
    spikes = np.array([[0, 1, 0, 1, 0, 1], [0, 0, 0, 1, 0, 0]]).T[:, None]
    np.testing.assert_array_equal(run(network, inputs), spikes)
    np.testing.assert_array_equal(reference(graph, inputs, EULER), spikes)
    assert from_nir(graph, **EULER).layers[0].cell == network.layers[0].cell


@pytest.mark.slow
def test_images_with_channels_last():
    network, inputs = images()
    graph = to_nir(network, **EULER, input_shape=(7, 5, 2))
    assert list(graph.nodes) == [
        "input",
        "0.drive.input",
        "0",
        "1.flatten.0",
        "1.drive.0",
        "1",
        "output",
    ]
    assert graph.input_type["input"].tolist() == [2, 7, 5]
    spikes, first = run(network, inputs), np.moveaxis(inputs, -1, 2)
    assert_close(spikes, reference(graph, first, EULER))
    scaled = to_nir(network, **EULER, input_shape=(7, 5, 2), unit_resistance=True)
    assert_close(spikes, reference(scaled, first, EULER))
    again = from_nir(graph, **EULER)

    @jax.jit
    def loss(network):
        outputs = network(first, backward="scan")[1]
        return outputs.sum(), outputs

    grads, outputs = jax.grad(loss, has_aux=True)(again)
    assert_close(outputs, spikes)
    leaves = [leaf for leaf in jax.tree.leaves(grads) if getattr(leaf, "ndim", 0) > 1]
    assert sorted(leaf.shape for leaf in leaves) == [(4, 1, 1), (4, 2, 3, 3), (5, 24)]
    assert all((leaf != 0).any() for leaf in leaves)
    with pytest.raises(ValueError, match="give input_shape"):
        to_nir(network, **EULER)


def convolution(kernel, strides=(1, 1), padding="VALID", dilation=(1, 1), groups=1):
    kernel = np.random.default_rng(3).normal(size=kernel).astype(np.float32)

    def convolve(x):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=groups
        )

    return convolve


def turned(x):
    return x.reshape(-1, 4, 3).mT.reshape(-1, 12) @ weights(12, 4)


def sums(x):
    bias = jnp.asarray([0.5, -1.0, 2.0, 0.25])
    return x @ jnp.asarray(weights(12, 4)) - jnp.arange(4.0)[None] + bias[None]


def convolved_sums(x):
    bias = jnp.asarray([0.5, -1.0, 2.0, 0.25])[None, :, None, None]
    return convolution((4, 2, 3, 3))(x) + bias - jnp.arange(4.0)[None, :, None, None]


IMAGE = 2, 7, 6


def pooling(window, strides=None, padding="VALID", channels_last=False):
    """Sums of windows in a layout of images."""

    def pool(x):
        sizes = [
            (1, *each, 1) if channels_last else (1, 1, *each)
            for each in (window, strides or window)
        ]
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, *sizes, padding)

    return pool


def pooled_channels_last(x):
    x = jax.lax.conv_general_dilated(
        x.transpose(0, 2, 3, 1),
        KERNEL_LAST,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return pooling((2, 2), channels_last=True)(x).reshape(len(x), -1) @ weights(16, 4) / 4


KERNEL_LAST = np.random.default_rng(4).normal(size=(3, 3, 2, 4)).astype(np.float32)
FUNCTIONS = {
    "plain": (convolution((4, 2, 3, 3)), IMAGE),
    "strides and dilation": (convolution((4, 2, 2, 3), (2, 1), dilation=(2, 1)), IMAGE),
    "padded": (convolution((4, 2, 3, 3), (2, 2), [(1, 1), (2, 2)]), IMAGE),
    "same": (convolution((4, 2, 3, 5), padding="SAME"), IMAGE),
    "groups": (convolution((4, 1, 3, 3), groups=2), IMAGE),
    "one dimension": (convolution((4, 2, 3), (2,), [(1, 1)], (1,)), IMAGE[:2]),
    "sums": (sums, (12,)),
    "a matrix on the left": (lambda x: (weights(12, 4).T @ x.T).T, (12,)),
    "slices": (
        lambda x: x[:, 1, 1:].reshape(-1, 5, 6)[:, :, 1][:, ::-1] @ weights(5, 4),
        (2, 6, 6),
    ),
    "sums of a convolution": (convolved_sums, IMAGE),
    "another order of the inputs": (turned, (12,)),
    "sums of windows": (
        lambda x: convolution((4, 2, 3, 3))(
            pooling((2, 3), (1, 1), [(0, 0)] * 2 + [(1, 1)] * 2)(x)
        ),
        IMAGE,
    ),
    "averages": (lambda x: convolution((4, 2, 3, 3))(pooling((2, 2), (1, 1))(x) / 4), IMAGE),
    "averages last": (lambda x: pooling((2, 2))(convolution((4, 2, 2, 3))(x)) / 4, IMAGE),
    "sums with channels last": (pooled_channels_last, IMAGE),
    "a factor": (lambda x: 0.25 * convolution((4, 2, 3, 3))(jnp.float32(3) * x), IMAGE),
}
POOLS = {
    "sums of windows": nir.SumPool2d,
    "averages": nir.AvgPool2d,
    "averages last": nir.AvgPool2d,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function, example = FUNCTIONS[name]
    bias = None
    if len(example) > 1 and name not in (
        "averages last",
        "sums with channels last",
        "slices",
    ):  # no weights, or no channels, at their end
        bias = jnp.arange(4.0).reshape(4, *[1] * (len(example) - 1))
    network = Network([Layer(function, LeakyReadout(0.5), bias=bias)])
    inputs = np.random.default_rng(8).normal(size=(2, 1, *example)).astype(np.float32)
    graph = to_nir(network, **EULER, input_shape=example)
    assert name not in POOLS or POOLS[name] in map(type, graph.nodes.values())
    outputs = run(network, inputs)
    assert_close(outputs, reference(graph, inputs, EULER))
    assert_close(outputs, run(from_nir(graph, **EULER), inputs))


@pytest.mark.slow
def test_joins_that_pool():
    """A sum of two convolutions, averaged before a product. Both files and networks keep the
    numbers.
    """
    flat = Layer(lambda x: x.reshape(len(x), -1) @ weights(16, 5), ZERO)
    nodes = {
        name: Layer(convolution((4, 2, 3, 3)), ZERO, bias=jnp.full((4, 1, 1), bias), of="input")
        for name, bias in (("a", 0.1), ("b", -0.1))
    }
    pool = Join(lambda a, b: pooling((2, 2))(a + b) / 4, of=["a", "b"])
    network, inputs = Network({**nodes, "pool": pool, "c": flat}), spikes_in(IMAGE)[:8]
    graph = to_nir(network, **EULER, input_shape=IMAGE)
    assert type(graph.nodes["pool.join"]) is nir.AvgPool2d
    spikes = run(network, inputs)
    assert_close(spikes, reference(graph, inputs, EULER))
    assert_close(spikes, run(from_nir(graph, **EULER), inputs))


def test_two_convolutions_of_one_source():
    """A layer has one function for each source, so a join gives the source a second name."""
    first, second = convolution((4, 2, 3, 3)), convolution((4, 2, 5, 5), padding=[(1, 1)] * 2)
    weights = {"input": first, "again": Delayed(second, 2), "more": second}
    joins = {name: Join(lambda x: x, of=["input"]) for name in ("again", "more")}
    network = Network(joins | {"a": Layer(weights, ZERO)})
    graph, inputs = to_nir(network, **EULER, input_shape=IMAGE), spikes_in(IMAGE)[:8]
    spikes = run(network, inputs)
    assert_close(spikes, reference(graph, inputs, EULER))
    again = from_nir(graph, **EULER)
    assert {*again.layers} == {"again", "more", "a"}
    assert_close(run(again, inputs), spikes)
    # Without the metadata of to_nir, as other libraries write it.
    for node in graph.nodes.values():
        node.metadata.clear()
    assert_close(run(from_nir(graph, **EULER), inputs), spikes)


@pytest.mark.slow
def test_modules_of_frameworks():
    eqx, nnx = pytest.importorskip("equinox"), pytest.importorskip("flax.nnx")
    key = jax.random.key(0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        first = eqx.nn.Conv2d(2, 3, 3, key=key)
        second = eqx.nn.Linear(3 * 5 * 3, 4, key=key)
        lif = LIF(0.9, 0.2, reset="value")
        dense = jax.vmap(eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), second]))
        back = jax.vmap(eqx.nn.Linear(4, 4, key=key))
        equinox = Network([Layer(jax.vmap(first), lif), Layer(dense, lif, recurrent=back)])
        kernel = nnx.Conv(2, 3, (3, 3), padding="VALID", rngs=nnx.Rngs(0))
        linear = nnx.Linear(3 * 5 * 3, 4, rngs=nnx.Rngs(1))
        flat = Layer(lambda x: linear(x.reshape(len(x), -1)), lif)
        flax = Network([Layer(kernel, lif), flat])
        inputs = spikes_in((2, 7, 5))[:15]
        last = np.moveaxis(inputs, 2, -1)
        for network, example, values in ((equinox, (2, 7, 5), inputs), (flax, (7, 5, 2), last)):
            graph = to_nir(network, **EULER, input_shape=example)
            spikes = run(network, values)
            assert_close(spikes, reference(graph, inputs, EULER))
            assert_close(spikes, run(from_nir(graph, **EULER), inputs))


def each(value, n=4):
    return np.full(n, value)


def lif(n=4, **changes):
    values = {"tau": 1e-3, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.5, "v_reset": 0.0} | changes
    return nir.LIF(**{key: each(value, n) for key, value in values.items()})


def cuba(tau_syn=5e-4, r=2.0, v_leak=0.1):
    values = (tau_syn, 1e-3, r, v_leak, 0.5 + v_leak, v_leak)
    return nir.CubaLIF(*map(each, values), w_in=each(3.0))


def line(*nodes, **options):
    return nir.NIRGraph.from_list(*nodes, **options)


def loop(neurons, weight):
    """Recurrent neurons without a subgraph."""
    nodes = {
        "input": nir.Input(np.array([12])),
        "in": nir.Linear(8 * weights(12, 4).T),
        "a": neurons,
        "w": weight,
        "output": nir.Output(np.array([4])),
    }
    edges = [("input", "in"), ("in", "a"), ("a", "w"), ("w", "a"), ("a", "output")]
    return nir.NIRGraph(nodes, edges, type_check=False)


def recurrent(neurons, weight):
    """Recurrent neurons in a subgraph, as snnTorch writes them."""
    flat = loop(neurons, weight)
    nodes = {name: flat.nodes[name] for name in ("a", "w", "output")}
    nodes["input"] = nir.Input(np.array([4]))
    edges = [("input", "a"), ("a", "w"), ("w", "a"), ("a", "output")]
    return line(flat.nodes["in"], nir.NIRGraph(nodes, edges))


BACK = nir.Affine(-weights(4, 4).T, np.linspace(-0.02, 0.05, 4))
FOREIGN = {
    "a resistance, a rest": line(
        nir.Linear(4 * weights(12, 4).T), lif(r=1.5, v_leak=0.2, v_reset=0.2, v_threshold=1.0)
    ),
    "a reset below rest": line(nir.Linear(8 * weights(12, 4).T), lif(v_leak=0.1, v_reset=-0.4)),
    "a scale, two products": line(
        nir.Affine(weights(12, 8).T, np.full(8, 0.3)),
        nir.Scale(np.linspace(2, 4, 8)),
        nir.Linear(weights(8, 4).T),
        lif(),
    ),
    "neurons alone": line(lif(12, r=20.0)),
    "neurons on neurons": line(lif(12, r=20.0), nir.Scale(np.linspace(0.5, 3, 12)), lif(12, r=5.0)),
    "a bias last": line(
        nir.Linear(8 * weights(12, 4).T), lif(), nir.Affine(weights(4, 3).T, np.arange(3.0))
    ),
    "a threshold": line(nir.Linear(weights(12, 4).T), nir.Threshold(each(0.4))),
    "a synapse": line(nir.Linear(3 * weights(12, 4).T), cuba()),
    "recurrent": loop(lif(r=3.0), BACK),
    "recurrent, with a synapse": loop(cuba(v_leak=0.0), BACK),
    "recurrent, in a subgraph": recurrent(lif(r=3.0), BACK),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_graphs_of_others(name):
    way = (EULER, EXACT)[[*FOREIGN].index(name) % 2]
    graph, inputs = FOREIGN[name], spikes_in()[:25]
    network = from_nir(graph, **way)
    assert {*network.layers} <= {*graph.nodes}
    assert not name.startswith("recurrent") or network.layers[0].recurrent.shape == (4, 4)
    assert_close(run(network, inputs), reference(graph, inputs, way))


def test_a_time_constant_of_one_step_forgets_all():
    for tau in (EULER["dt"], EULER["dt"] * (1 - 1e-7)):
        assert from_nir(line(lif(tau=tau)), **EULER).layers[0].cell.decay == 0
    cell = from_nir(line(lif(tau=1.25 * EULER["dt"])), **EULER).layers[0].cell
    assert cell.decay == pytest.approx(0.2)


class Stated(LIF):
    nir_node = "LIF"


class Inherited(Stated):
    pass


W = np.ones((3, 2), np.float32)
ZERO = LIF(0.9, reset="value")
STRICT = LIF(0.9, surrogate=strict(Sigmoid()), reset="value")
RECEPTORS = MultiSynapticLIF(0.9, synaptic_decay=np.array([0.5, 0.8]), reset="value")
SPOT = jnp.zeros((1, 4, 5, 4)).at[0, 1, 2, 2].set(1.0)
NOT_WRITTEN = {
    "layer '0': MultiSynapticLIF: not supported by NIR. Train with LIF or SynapticLIF": [
        Layer(np.ones((3, 2, 2), np.float32), RECEPTORS, np.ones((2, 2, 2), np.float32))
    ],
    r"layer '0': LIF: .* surrogate is strict\(.*\). Use surrogate=Sigmoid\(alpha=4.0\)$": [
        Layer(W, STRICT)
    ],
    "the join 'pool' must add its sources once each, .*. Put other functions into the weights "
    ".*: a maximum of a window": {
        "a": Layer(FUNCTIONS["plain"][0], ZERO),
        "pool": Join(
            lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *[(1, 1, 2, 2)] * 2, "VALID"),
            ["a"],
        ),
        "b": Layer(lambda x: x.reshape(len(x), -1) @ np.ones((16, 3), np.float32), ZERO),
    },
    "layer '1': LIF: .* subtraction. Train with reset='value'": [Layer(W, ZERO), Layer(W.T, LIF())],
    "layer '0': LIF: .* late. Train with delay_reset=False": [
        Layer(W, LIF(reset="value", delay_reset=True))
    ],
    "LIF: decay must be below 1 with norm_input": [
        Layer(W, LIF(1.0, reset="value", norm_input=True))
    ],
    "layer '0': Refractory: not supported by NIR": [Layer(W, Refractory(ZERO, 2))],
    "layer '0': AdaptiveLIF: not supported by NIR. Train with LIF": [
        Layer(W, AdaptiveLIF(reset="value"))
    ],
    "layer '0': Inherited: not supported by NIR": [Layer(W, Inherited(0.9, reset="value"))],
    "SynapticLIF: synaptic_decay must be below 1": [
        Layer(W, SynapticLIF(reset="value", synaptic_decay=1.0))
    ],
    "LIF: decay must be below 1, or 1 for all": [
        Layer(W, LIF(np.array([0.5, 1.0]), reset="value"))
    ],
    "LIF: decay must be .* 0 with discretization='euler', got 0.0": [
        Layer(W, LIF(0.0, reset="value"))
    ],
    "layer '0' has a function that NIR does not support: tanh": [
        Layer(lambda x: jnp.tanh(x @ W), ZERO)
    ],
    "does not support: add of two values": [Layer(lambda x: x @ W + x @ W, ZERO)],
    "does not support: a difference from a constant": [Layer(lambda x: 1 - x @ W, ZERO)],
    "does not support: a padding of": [Layer(convolution((4, 2, 2, 2), padding="SAME"), ZERO)],
    "does not support: a slice that no product follows": [Layer(lambda x: x[:, 1:], ZERO)],
    "a bias that differs within a channel": [
        Layer(lambda x: FUNCTIONS["plain"][0](x) + SPOT, ZERO)
    ],
}


@pytest.mark.parametrize("message", NOT_WRITTEN)
def test_export_rejects_networks_that_nir_lacks(message):
    shape = IMAGE if any(word in message for word in ("channel", "padding", "pool")) else (3,)
    with (
        pytest.raises(ValueError, match=f"^to_nir: .*{message}"),
        jax.numpy_rank_promotion("allow"),
    ):
        to_nir(Network(NOT_WRITTEN[message]), **EXACT, input_shape=shape)


def test_a_class_states_its_node_for_itself():
    graphs = [
        to_nir(Network([Layer(W, cell(0.9, reset="value"))]), **EULER) for cell in (LIF, Stated)
    ]
    for field in ("tau", "r", "v_threshold", "v_reset"):
        one, other = (getattr(graph.nodes["0"], field) for graph in graphs)
        np.testing.assert_array_equal(one, other)


def changed(node, **changes):
    for name, value in changes.items():
        setattr(node, name, value)
    return line(node, type_check=False)


def conv(**changes):
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    node = nir.Conv2d((8, 8), np.ones((4, 2, 3, 3)), **options, bias=np.zeros(4))
    return changed(node, **changes)


def edited(*edges):
    """A graph with these edges between an Input, two neurons and an Output."""
    ends = {"input": nir.Input(np.array([4])), "output": nir.Output(np.array([4]))}
    return nir.NIRGraph({**ends, "a": lif(), "b": lif()}, list(edges), type_check=False)


def edited_pool(shape):
    two = np.array([2, 2])
    nodes = {
        "input": nir.Input(shape),
        "sumpool2d": nir.SumPool2d(two, two, 0 * two),
        "output": nir.Output(shape),
    }
    return nir.NIRGraph(nodes, [("input", "sumpool2d"), ("sumpool2d", "output")], type_check=False)


class Unknown(nir.NIRNode):
    """A node of a later version of NIR."""

    def __init__(self):
        self.input_type = self.output_type = {"input": np.array([4])}


def unknown():
    graph = line(lif())
    graph.nodes["node"] = Unknown()
    return graph


IN, AB, OUT = ("input", "a"), ("a", "b"), ("b", "output")
NOT_READ = {
    "'sumpool2d' (SumPool2d): its input must be (channels, height, width), got (4,)": (
        lambda: edited_pool(np.array([4]))
    ),
    "'node' (Unknown) is not supported. Use Linear, Affine": unknown,
    "'delay' (Delay): delay must be one number for all": lambda: line(
        nir.Delay(np.arange(4.0)), lif()
    ),
    "'delay' (Delay): delay must be a multiple of dt=0.0001": lambda: line(
        nir.Delay(each(1.5e-4)), lif()
    ),
    "'lif' (LIF): decay_from_tau: dt must be <= tau for discretization 'euler', got": lambda: line(
        lif(tau=1e-5)
    ),
    "'cubalif' (CubaLIF): decay_from_tau: dt must be <= tau": lambda: line(cuba(tau_syn=5e-5)),
    "'li' (LI): neurons without a Threshold output their potential, so v_leak must be 0": (
        lambda: line(nir.LI(each(1.0), each(1.0), each(1.0)))
    ),
    "'lif' (LIF): operands could not be broadcast": lambda: line(
        nir.Linear(np.ones((7, 3))), lif(), type_check=False
    ),
    "'scale' (Scale): operands could not be broadcast": lambda: line(
        lif(), nir.Scale(np.ones(9)), type_check=False
    ),
    "'w' (Linear): dot_general requires contracting dimensions": lambda: loop(
        lif(), nir.Linear(np.ones((4, 5)))
    ),
    "'affine' (Affine): operands could not be broadcast": (
        lambda: changed(nir.Affine(np.ones((4, 4)), np.ones(4)), bias=np.ones(3))
    ),
    "'conv2d' (Conv2d): operands could not be broadcast": lambda: conv(bias=np.zeros(9)),
    "'conv2d' (Conv2d): conv_general_dilated": lambda: conv(groups=3),
    "'input' (Input): the shape must be integers above 0, got array([-4])": lambda: changed(
        nir.Input(np.array([-4]))
    ),
    "does not exist in the graph": lambda: edited(IN, AB, OUT, ("a", "c")),
    "no input reaches 'output'. Remove them": lambda: edited(IN, AB),
    "no input reaches 'a', 'b'. Remove them": lambda: edited(("input", "output"), AB, ("b", "a")),
}


@pytest.mark.parametrize("message", NOT_READ)
def test_graphs_that_are_no_network(message):
    with pytest.raises((ValueError, TypeError), match=f"^from_nir: .*{re.escape(message)}"):
        from_nir(NOT_READ[message](), **EULER)


@pytest.mark.parametrize(
    "convert", [lambda way: to_nir(CELLS["lif"], **way), lambda way: from_nir(line(lif()), **way)]
)
def test_time_is_stated(convert):
    for way, message in (
        (EULER | {"dt": 0.0}, "ValueError: dt must be > 0, got 0.0"),
        (EULER | {"dt": "1"}, "TypeError: dt must be a real number"),
        (EULER | {"dt": np.inf}, "ValueError: dt must be finite, got inf"),
        (
            EULER | {"discretization": "Euler"},
            "ValueError: discretization must be one of 'exact', 'euler'",
        ),
    ):
        assert_raises(lambda way=way: convert(way), message)


RECORDED = json.loads((ROOT / "tests" / "recorded" / "nir.json").read_text())
SPIKES = [
    pytest.param(name, case, id=f"{library}: {name}")
    for library, of in RECORDED["libraries"].items()
    for name, case in of["cases"].items()
]
DIFFERENT = {"norse: lif": 72, "norse: lif, recurrent": 117}  # without unit_resistance


@pytest.mark.parametrize(("name", "case"), SPIKES)
def test_other_libraries_give_the_same_spikes(name, case, request):
    size = np.prod(case["shape"])
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(case["bits"]), np.uint8))[:size]
    if name == "images":
        network, inputs = images()
        spikes = run(network, inputs)[:, 0]
    else:
        spikes = run(CELLS[name.removesuffix(", unit resistance")], spikes_in())
    different = (spikes != bits.reshape(case["shape"])).sum()
    assert different == DIFFERENT.get(request.node.callspec.id, 0)
