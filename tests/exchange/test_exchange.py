"""To NIR and back: the graph does what the network does, by NIR's own equations."""

import itertools
import json
import re
import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

nir = pytest.importorskip("nir")

from nir_reference import images, networks, simulate, spikes_in, weights, with_readout  # noqa: E402

from spikegrad import LIF, AdaptiveLIF, Layer, LeakyReadout, Network, Refractory, SynapticLIF, bounded  # noqa: E402
from spikegrad.exchange import from_nir, to_nir  # noqa: E402

EULER, EXACT = {"dt": 1e-4, "discretization": "euler"}, {"dt": 1e-3, "discretization": "exact"}
ways = pytest.mark.parametrize("way", [EULER, EXACT], ids=lambda way: way["discretization"])


def run(network, inputs):
    return np.asarray(network(jnp.asarray(inputs), mode="scan")[1])


def reference(graph, inputs, way):
    """Of every example, by the equations."""
    found = [simulate(graph, inputs[:, n], way["dt"], way["discretization"]) for n in range(inputs.shape[1])]
    return np.stack(found, 1)


@ways
@pytest.mark.parametrize("name", networks())
def test_a_graph_gives_the_networks_spikes(name, way):
    network, inputs = networks()[name], spikes_in()
    spikes = run(network, inputs)
    assert 0.05 < spikes.mean() < 0.6
    for options in {}, {"unit_resistance": True}:
        np.testing.assert_array_equal(spikes, reference(to_nir(network, **way, **options), inputs, way))


@ways
@pytest.mark.parametrize("name", networks())
def test_export_and_import_restore_a_network(name, way, tmp_path):
    network, inputs = networks()[name], spikes_in()
    for options in {}, {"unit_resistance": True}:
        nir.write(tmp_path / "graph.nir", to_nir(network, **way, **options))
        back = from_nir(nir.read(tmp_path / "graph.nir"), **way)
        np.testing.assert_array_equal(run(network, inputs), run(back, inputs))
    for layer, before in zip(back.layers, network.layers, strict=True):
        assert type(layer.cell) is type(before.cell)
        assert layer.cell.threshold == pytest.approx(before.cell.threshold, rel=1e-7)
        assert layer.cell.decay == pytest.approx(before.cell.decay, rel=1e-9)


@ways
@pytest.mark.parametrize(
    "readout", [LeakyReadout(0.9), LeakyReadout(0.9, norm_input=True), LeakyReadout(1.0), LeakyReadout(0.0)], ids=repr
)
def test_a_readout_gives_the_same_potentials(readout, way):
    network, inputs = with_readout(readout), spikes_in()
    graph = to_nir(network, **way)
    kind = {0.9: nir.LI, 1.0: nir.I}.get(readout.decay)
    assert type(graph.nodes.get("layer1.neurons")) is (kind or type(None))
    potentials = run(network, inputs)
    np.testing.assert_allclose(potentials, reference(graph, inputs, way), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(potentials, run(from_nir(graph, **way), inputs), rtol=1e-4, atol=1e-5)


@ways
@pytest.mark.parametrize(
    "cell", [LIF(0.9, reset="none"), LIF(1.0, reset="none"), SynapticLIF(0.8, reset="none")], ids=repr
)
def test_no_reset_is_a_leaky_integrator_and_a_threshold(cell, way):
    back = -0.1 * abs(weights(6, 6))
    network, inputs = Network([Layer(weights(12, 6), cell, back)]), spikes_in()
    graph = to_nir(network, **way)
    spikes = run(network, inputs)
    assert 0 < spikes.mean() < 1
    np.testing.assert_array_equal(spikes, reference(graph, inputs, way))
    again = from_nir(graph, **way)
    assert again.layers[0].cell.reset == "none"
    np.testing.assert_array_equal(spikes, run(again, inputs))


def test_a_potential_at_the_threshold_fires_on_both_sides():
    network = Network([Layer(np.eye(2, dtype=np.float32), LIF(1.0, reset="value"))])
    inputs = np.full((6, 1, 2), [0.5, 0.25], np.float32)
    graph = to_nir(network, **EULER)
    assert type(graph.nodes["layer0.neurons"]) is nir.IF
    assert graph.nodes["layer0.neurons"].v_threshold.tolist() == [float(np.float32(0.99999994))] * 2
    want = np.array([[0, 1, 0, 1, 0, 1], [0, 0, 0, 1, 0, 0]]).T[:, None]
    np.testing.assert_array_equal(run(network, inputs), want)
    np.testing.assert_array_equal(reference(graph, inputs, EULER), want)
    back = from_nir(graph, **EULER)
    assert back.layers[0].cell == network.layers[0].cell
    np.testing.assert_array_equal(run(back, inputs), want)
    above = nir.NIRGraph.from_list(nir.Linear(np.eye(2)), nir.IF(r=np.full(2, 1e4), v_threshold=np.ones(2)))
    np.testing.assert_array_equal(run(from_nir(above, **EULER), inputs), reference(above, inputs, EULER))


@pytest.mark.parametrize(
    "cell",
    [
        LIF(0.9, 1.5, reset="value", reset_value=-0.5),
        LIF(bounded(0.8), bounded(0.7, 0.1, 2.0), reset="value", norm_input=True),
        SynapticLIF(0.9, 0.8, reset="value", reset_value=0.25, norm_input=True),
    ],
    ids=["reset value", "bounded", "synapse"],
)
def test_options_of_cells(cell):
    network, inputs = Network([Layer(4 * weights(12, 6), cell)]), spikes_in()
    graph = to_nir(network, **EXACT)
    spikes = run(network, inputs)
    assert 0.05 < spikes.mean() < 0.9
    np.testing.assert_array_equal(spikes, reference(graph, inputs, EXACT))
    back = from_nir(graph, **EXACT)
    assert back.layers[0].cell.norm_input == cell.norm_input
    np.testing.assert_array_equal(spikes, run(back, inputs))


def test_parameters_of_each_neuron():
    decays, thresholds = np.linspace(0.5, 0.95, 6, dtype=np.float32), np.linspace(0.5, 2, 6, dtype=np.float32)
    network = Network([Layer(weights(12, 6), LIF(decays, jnp.asarray(thresholds), reset="value"))])
    graph, inputs = to_nir(network, **EXACT), spikes_in()
    np.testing.assert_allclose(np.exp(-1e-3 / graph.nodes["layer0.neurons"].tau), decays, rtol=1e-6)
    back = from_nir(graph, **EXACT)
    np.testing.assert_allclose(back.layers[0].cell.threshold, thresholds, rtol=1e-7)
    spikes = run(network, inputs)
    np.testing.assert_array_equal(spikes, run(back, inputs))
    np.testing.assert_array_equal(spikes, reference(graph, inputs, EXACT))


# --- functions ---------------------------------------------------------------------------------------------------


def test_images_with_channels_last():
    network, inputs = images()
    graph = to_nir(network, **EULER, input_shape=(7, 5, 2))
    assert list(graph.nodes) == [
        "input", "layer0.drive", "layer0.neurons", "layer1.flatten", "layer1.drive", "layer1.neurons", "output",
    ]  # fmt: skip
    assert graph.input_type["input"].tolist() == [2, 7, 5]
    spikes, first = run(network, inputs), np.moveaxis(inputs, -1, 2)
    assert 0.05 < spikes.mean() < 0.6
    np.testing.assert_array_equal(spikes, reference(graph, first, EULER))
    np.testing.assert_array_equal(spikes, run(from_nir(graph, **EULER), first))
    scaled = to_nir(network, **EULER, input_shape=(7, 5, 2), unit_resistance=True)
    np.testing.assert_array_equal(spikes, run(from_nir(scaled, **EULER), first))


CONVOLUTIONS = {
    "plain": ((4, 2, 3, 3), (1, 1), "VALID", (1, 1), 1),
    "strides and dilation": ((4, 2, 2, 3), (2, 1), "VALID", (2, 1), 1),
    "padded": ((4, 2, 3, 3), (2, 2), [(1, 1), (2, 2)], (1, 1), 1),
    "same, even": ((4, 2, 2, 4), (1, 1), "SAME", (1, 1), 1),
    "groups": ((4, 1, 3, 3), (1, 1), "VALID", (1, 1), 2),
    "one dimension": ((4, 2, 3), (2,), [(1, 1)], (1,), 1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    shape, strides, padding, dilation, groups = CONVOLUTIONS[name]
    rng = np.random.default_rng(3)
    kernel, example = rng.normal(size=shape).astype(np.float32), (2, 7, 6)[: len(shape) - 1]

    def convolve(x):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=groups
        )

    bias = jnp.arange(4.0).reshape(4, *[1] * (len(shape) - 2))
    network = Network([Layer(convolve, LeakyReadout(0.5), bias=bias)])
    inputs = rng.normal(size=(2, 1, *example)).astype(np.float32)
    graph = to_nir(network, **EULER, input_shape=example)
    want = run(network, inputs)
    np.testing.assert_allclose(want, reference(graph, inputs, EULER), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(want, run(from_nir(graph, **EULER), inputs), rtol=1e-4, atol=1e-5)


def test_sums_and_differences_are_one_bias():
    rng = np.random.default_rng(8)
    kernel, example = rng.normal(size=(4, 2, 3, 3)).astype(np.float32), (2, 5, 6)
    one, two, matrix = jnp.arange(4.0), jnp.asarray([0.5, -1.0, 2.0, 0.25]), jnp.asarray(weights(12, 4))

    def convolve(x):
        return jax.lax.conv(x, kernel, (1, 1), "VALID") + one[None, :, None, None] - two[None, :, None, None]

    def dense(x):
        return x @ matrix - one[None] + two[None]

    for function, shape in ((dense, (12,)), (convolve, example)):
        network = Network([Layer(function, LeakyReadout(0.5))])
        inputs = rng.normal(size=(2, 1, *shape)).astype(np.float32)
        graph = to_nir(network, **EULER, input_shape=shape)
        np.testing.assert_allclose(run(network, inputs), reference(graph, inputs, EULER), rtol=1e-4, atol=1e-5)
    spot = jnp.zeros((1, 4, 3, 4)).at[0, 1, 2, 2].set(1.0)
    with pytest.raises(ValueError, match="a bias that differs within a channel"):
        to_nir(Network([Layer(lambda x: convolve(x) + spot, LeakyReadout(0.5))]), **EULER, input_shape=example)


@pytest.mark.every
def test_modules_of_frameworks():
    eqx, nnx = pytest.importorskip("equinox"), pytest.importorskip("flax.nnx")
    key = jax.random.key(0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        first, second = eqx.nn.Conv2d(2, 3, 3, key=key), eqx.nn.Linear(3 * 5 * 3, 4, key=key)
        lif = LIF(0.9, 0.2, reset="value")
        dense = jax.vmap(eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), second]))
        equinox = Network(
            [Layer(jax.vmap(first), lif), Layer(dense, lif, recurrent=jax.vmap(eqx.nn.Linear(4, 4, key=key)))]
        )
        kernel = nnx.Conv(2, 3, (3, 3), padding="VALID", rngs=nnx.Rngs(0))
        linear = nnx.Linear(3 * 5 * 3, 4, rngs=nnx.Rngs(1))
        flax = Network([Layer(kernel, lif), Layer(lambda x: linear(x.reshape(len(x), -1)), lif)])
        inputs = spikes_in((2, 7, 5))[:15]
        for network, example, images in (
            (equinox, (2, 7, 5), inputs),
            (flax, (7, 5, 2), np.moveaxis(inputs, 2, -1)),
        ):
            graph = to_nir(network, **EULER, input_shape=example)
            spikes = run(network, images)
            assert 0 < spikes.mean() < 1
            np.testing.assert_array_equal(spikes, reference(graph, inputs, EULER))
            np.testing.assert_array_equal(spikes, run(from_nir(graph, **EULER), inputs))


def test_gradients_reach_what_was_read():
    network, _ = images()
    back = from_nir(to_nir(network, **EULER, input_shape=(7, 5, 2)), **EULER)
    inputs = jnp.asarray(np.moveaxis(spikes_in((7, 5, 2)), -1, 2)[:5])
    grads = jax.grad(lambda network: network(inputs, mode="scan")[1].sum())(back)
    leaves = [leaf for leaf in jax.tree.leaves(grads) if isinstance(leaf, jax.Array) and leaf.ndim > 1]
    assert sorted(leaf.shape for leaf in leaves) == [(4, 1, 1), (4, 2, 3, 3), (5, 24)]
    assert all((leaf != 0).any() for leaf in leaves)


# --- graphs of others --------------------------------------------------------------------------------------------


def lif(n=4, **changes):
    values = {"tau": 1e-3, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.5, "v_reset": 0.0} | changes
    return nir.LIF(**{key: np.full(n, value) for key, value in values.items()})


FOREIGN = {
    "a resistance, a rest": [nir.Linear(4 * weights(12, 4).T), lif(r=1.5, v_leak=0.2, v_reset=0.2, v_threshold=1.0)],
    "a reset below rest": [nir.Linear(8 * weights(12, 4).T), lif(v_leak=0.1, v_reset=-0.4)],
    "a scale, two products": [
        nir.Affine(weights(12, 8).T, np.full(8, 0.3)),
        nir.Scale(np.linspace(2, 4, 8)),
        nir.Linear(weights(8, 4).T),
        lif(),
    ],
    "neurons alone": [lif(12, r=20.0)],
    "neurons on neurons": [lif(12, r=20.0), nir.Scale(np.linspace(0.5, 3, 12)), lif(12, r=5.0)],
    "a bias last": [nir.Linear(8 * weights(12, 4).T), lif(), nir.Affine(weights(4, 3).T, np.arange(3.0))],
    "a threshold": [nir.Linear(weights(12, 4).T), nir.Threshold(np.full(4, 0.4))],
    "a synapse": [
        nir.Linear(3 * weights(12, 4).T),
        nir.CubaLIF(*(np.full(4, v) for v in (5e-4, 1e-3, 2.0, 0.1, 0.6, 0.1)), w_in=np.full(4, 3.0)),
    ],
}  # fmt: skip


@ways
@pytest.mark.parametrize("name", FOREIGN)
def test_graphs_of_others(name, way):
    graph, inputs = nir.NIRGraph.from_list(*FOREIGN[name]), spikes_in()[:25]
    want = reference(graph, inputs, way)
    assert want.std() > 0.05
    np.testing.assert_allclose(run(from_nir(graph, **way), inputs), want, rtol=1e-4, atol=1e-5)


def test_a_graph_within_a_graph():
    """How snnTorch writes recurrent neurons."""
    inner = nir.NIRGraph(
        {
            "input": nir.Input(np.array([4])), "lif": lif(), "w_rec": nir.Affine(weights(4, 4), np.full(4, 0.5)),
            "output": nir.Output(np.array([4])),
        },
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )  # fmt: skip
    nodes = {"input": nir.Input(np.array([12])), "fc": nir.Affine(8 * weights(12, 4).T, np.full(4, 0.4)), "rnn": inner}
    edges = [("input", "fc"), ("fc", "rnn"), ("rnn", "output")]
    graph = nir.NIRGraph(nodes | {"output": nir.Output(np.array([4]))}, edges)
    flat = nir.NIRGraph(
        {"input": graph.nodes["input"], "fc": graph.nodes["fc"], "lif": lif(), "w": inner.nodes["w_rec"],
         "output": graph.nodes["output"]},
        [("input", "fc"), ("fc", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "output")],
    )  # fmt: skip
    inputs, way = spikes_in()[:25], {"dt": 2e-4, "discretization": "euler"}
    want = reference(flat, inputs, way)
    assert 0.05 < want.mean() < 0.95
    for one in graph, flat:
        network = from_nir(one, **way)
        assert network.layers[0].recurrent.shape == (4, 4)
        np.testing.assert_array_equal(run(network, inputs), want)


# --- errors ------------------------------------------------------------------------------------------------------


class Stated(LIF):
    nir_node = "LIF"


class Inherited(Stated):
    pass


def test_a_class_states_its_node_for_itself():
    written = [to_nir(Network([Layer(W, cell(0.9, reset="value"))]), **EULER) for cell in (LIF, Stated)]
    for field in ("tau", "r", "v_threshold", "v_reset"):
        np.testing.assert_array_equal(*(getattr(graph.nodes["layer0.neurons"], field) for graph in written))
    with pytest.raises(ValueError, match="layer 0: Inherited is not supported by NIR"):
        to_nir(Network([Layer(W, Inherited(0.9, reset="value"))]), **EULER)


W = np.ones((3, 2), np.float32)
ZERO = LIF(0.9, reset="value")


def turned(x):
    return x.reshape(-1, 2, 3).mT.reshape(-1, 6)


NOT_WRITTEN = {
    "layer 1: LIF resets by subtraction, .* reset='value'": [Layer(W, ZERO), Layer(W.T, LIF())],
    "layer 0: LIF resets a step late, .* delay_reset=False": [Layer(W, LIF(reset="value", delay_reset=True))],
    "layer 0: LIF: decay must be below 1 with norm_input": [Layer(W, LIF(1.0, reset="value", norm_input=True))],
    "layer 0: Refractory is not supported by NIR": [Layer(W, Refractory(ZERO, 2))],
    "layer 0: AdaptiveLIF is not supported by NIR; train with LIF": [Layer(W, AdaptiveLIF(reset="value"))],
    "SynapticLIF: synaptic_decay must be below 1": [Layer(W, SynapticLIF(reset="value", synaptic_decay=1.0))],
    "LIF: decay must be below 1, or 1 for all": [Layer(W, LIF(np.array([0.5, 1.0]), reset="value"))],
    "LIF: decay must be above 0 with discretization='exact'": [Layer(W, LIF(0.0, reset="value"))],
    "layer 0 has a function that NIR does not support: tanh": [Layer(lambda x: jnp.tanh(x @ W), ZERO)],
    "does not support: add of two values": [Layer(lambda x: x @ W + x @ W, ZERO)],
    "layer 1 .* transpose to another order": [Layer(W @ np.ones((2, 6)), ZERO), Layer(turned, ZERO)],
    "does not support: rev": [Layer(lambda x: x[:, ::-1] @ W, ZERO)],
    "does not support: a result that does not depend": [Layer(lambda x: jnp.ones((len(x), 2)), ZERO)],
    "does not support: a product along some": [Layer(lambda x: x[..., None] @ W[:1], ZERO)],
    "layer 0 is recurrent without": [Layer(W, ZERO, recurrent=lambda s: s)],
}


@pytest.mark.parametrize("message", NOT_WRITTEN)
def test_export_rejects_networks_that_nir_lacks(message):
    with pytest.raises(ValueError, match=f"^to_nir: .*{message}"), jax.numpy_rank_promotion("allow"):
        to_nir(Network(NOT_WRITTEN[message]), **EXACT, input_shape=(3,))


def graph(*nodes):
    return nir.NIRGraph.from_list(*nodes)


def skipping():
    nodes = {"input": nir.Input(np.array([4])), "a": lif(), "b": nir.Linear(np.ones((3, 4))), "c": lif(3)}
    nodes["output"] = nir.Output(np.array([3]))
    edges = [("input", "a"), ("a", "b"), ("b", "c"), ("a", "output"), ("c", "output")]
    return nir.NIRGraph(nodes, edges, type_check=False)


def pool():
    return nir.SumPool2d(kernel_size=np.array([2, 2]), stride=np.array([2, 2]), padding=np.array([0, 0]))


NOT_READ = {
    "'pool' \\(SumPool2d\\) is not supported; use Affine": lambda: line(lif(), pool=pool(), b=lif()),
    "'delay' \\(Delay\\): delay must be one number for all": lambda: graph(nir.Delay(np.arange(4.0)), lif()),
    "'delay' \\(Delay\\): delay must be a multiple of dt": lambda: graph(nir.Delay(np.full(4, 1.5e-4)), lif()),
    "'delay' \\(Delay\\): delay must be at most 536,870,911 time steps of dt=0.0001, .*, got 10,000,000,000,000$": (
        lambda: graph(nir.Delay(np.full(4, 1e9)), lif())
    ),
    "'lif' \\(LIF\\): Euler's method needs a dt of at most": lambda: graph(lif(tau=1e-5)),
    "'lif' \\(LIF\\): time constants must be > 0, got 0.0": lambda: graph(lif(tau=0.0)),
    "'li' \\(LI\\): v_leak must be 0": lambda: graph(nir.LI(np.ones(4), np.ones(4), np.ones(4))),
    "outputs must have one shape to be added": skipping,
}


@pytest.mark.parametrize("message", NOT_READ)
def test_graphs_that_are_no_network(message):
    with pytest.raises(ValueError, match=f"^from_nir: .*{message}"):
        from_nir(NOT_READ[message](), **EULER)


def line(node, **nodes):
    """A graph of one node, unchecked, as a file of another library may have it, or as one that was changed."""
    names = ["input", "node", *nodes, "output"]
    kinds = [nir.Input(np.asarray(node.input_type["input"])), node, *nodes.values()]
    last = nir.Output(np.asarray(kinds[-1].output_type["output"]))
    return nir.NIRGraph(
        dict(zip(names, [*kinds, last], strict=True)), list(itertools.pairwise(names)), type_check=False
    )


def each(value):
    return np.full(4, value)


def conv(**changes):
    values = {
        "input_shape": (8, 8), "weight": np.ones((4, 2, 3, 3)), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1),
        "groups": 1, "bias": np.zeros(4),
    }  # fmt: skip
    node = nir.Conv2d(**values)
    for name, value in changes.items():
        setattr(node, name, value)
    return node


PARAMETERS = {
    "tau r v_leak v_threshold v_reset": lif,
    "r v_threshold v_reset": lambda: nir.IF(each(1e3), each(0.5), each(0.0)),
    "tau r v_leak": lambda: nir.LI(each(1e-2), each(1.0), each(0.0)),
    "r": lambda: nir.I(each(1.0)),
    "tau_syn tau_mem r v_leak v_threshold v_reset w_in": lambda: nir.CubaLIF(
        *map(each, (1e-2, 1e-2, 1.0, 0.0, 0.5, 0.0)), w_in=each(1.0)
    ),
    "threshold": lambda: nir.Threshold(each(0.5)),
    "weight": lambda: nir.Linear(np.ones((4, 3))),
    "weight bias": lambda: nir.Affine(np.ones((4, 3)), np.zeros(4)),
    "scale": lambda: nir.Scale(each(2.0)),
    "weight bias ": conv,
}
BROKEN = {
    **{
        str(v): (lambda a, v=v: np.where(np.arange(a.size).reshape(a.shape) == 1, v, a))
        for v in (np.nan, np.inf, -np.inf)
    },
    "complex": lambda a: a.astype(complex),
    "text": lambda a: a.astype(str),
    "objects": lambda a: a.astype(object),
    "dates": lambda a: a.astype("i8").astype("M8[s]"),
    "one word": lambda a: "abc",
    "one less": lambda a: a[:-1],
    "an axis before": lambda a: a[None],
    "axes after": lambda a: a[..., None, None, None],
    "none": lambda a: a[:0],
    "beyond float32": lambda a: np.full(a.shape, 1e300),
    "beyond float64": lambda a: np.full(a.shape, np.longdouble("1e4000")),
}
RIGHT = {
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(">f8"),
    "one number": lambda a: a.flat[0],
    "lists": lambda a: a.tolist(),
}


def refused(graph, error=(ValueError, TypeError), **options):
    """The message of an error of one clear line, without a warning before."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error) as caught:
            from_nir(graph, **EULER | options)
    message = str(caught.value)
    assert message.startswith(("from_nir: ", "LIF: "))
    assert message.isprintable()
    assert len(message) <= 400
    return message


@pytest.mark.parametrize("names", PARAMETERS)
def test_parameters_of_nodes_are_real_finite_and_of_one_shape(names):
    make = PARAMETERS[names]
    for name in names.split():
        good = from_nir(line(make()), **EULER)
        for change, functions in (("broken", BROKEN), ("right", RIGHT)):
            for kind, function in functions.items():
                node = make()
                setattr(node, name, function(np.array(getattr(node, name), float)))
                if change == "broken":
                    assert kind == "one less" or name.split("_")[-1] in refused(line(node)), kind
                elif not (kind == "one number" and name in ("weight", "bias")):
                    again = from_nir(line(node), **EULER)
                    same = jax.tree.map(np.array_equal, again, good)
                    assert kind == "one number" or all(jax.tree.leaves(same)), kind
                    assert str(again.layers[0].cell) == str(good.layers[0].cell)
        if name not in ("bias",):
            setattr(node, name, None)
            assert f"{name} must be an array of real numbers" in refused(line(node))


@ways
def test_recurrent_weights_have_the_resistance_too(way):
    inputs = spikes_in()
    for cell in (lif(r=30.0), nir.CubaLIF(*map(each, (5e-4, 1e-3, 20.0, 0.0, 0.5, 0.0)), w_in=each(3.0))):
        given = loop(nir.Affine(-weights(4, 4).T, np.linspace(-0.02, 0.05, 4)))
        given.nodes |= {"input": nir.Input(np.array([12])), "a": cell, "in": nir.Linear(weights(12, 4).T)}
        given.nodes["output"] = given.nodes.pop("output")
        given.edges = [("input", "in"), ("in", "a"), *given.edges[1:]]
        want = reference(given, inputs, way)
        assert 0.05 < want.mean() < 0.8
        np.testing.assert_array_equal(run(from_nir(given, **way), inputs), want)


def test_a_time_constant_of_one_step_forgets_all():
    for tau in (EULER["dt"], EULER["dt"] * (1 - 1e-7)):
        assert from_nir(graph(lif(tau=tau)), **EULER).layers[0].cell.decay == 0
    assert from_nir(graph(lif(tau=1.25 * EULER["dt"])), **EULER).layers[0].cell.decay == pytest.approx(0.2)


def test_time_constants_are_above_zero():
    for name in ("tau_syn", "tau_mem"):
        for tau in (0.0, -1.0, 1e-6):
            node = PARAMETERS["tau_syn tau_mem r v_leak v_threshold v_reset w_in"]()
            setattr(node, name, each(tau))
            assert "time constant" in refused(line(node))


STRAIGHT = [("input", "a"), ("a", "b"), ("b", "output")]
EDGES = {
    r"edges must be between nodes of the graph, got \('a', 'c'\) without a node 'c'": [*STRAIGHT, ("a", "c")],
    "without a node 'd'": [*STRAIGHT, ("d", "a")],
    r"'(input|output)' \(\w+\) is not on the way from Input to Output": [],
    r"'\w+' \(\w+\) is not on the way from Input to Output; remove": STRAIGHT[:2],
    r"'a' \(LIF\) is not on the way from Input to Output": [("input", "output"), ("a", "b"), ("b", "a")],
    r"'b' \(LIF\) is not on the way": [("input", "a"), ("a", "output"), ("b", "b")],
    r"'\w+' \(\w+\) is not on the way from Input": [("input", "a"), ("a", "b"), ("b", "a")],
    "the Output 'output' must be the end of a path, got an edge to 'a'": [*STRAIGHT, ("output", "a")],
    "the Input 'input' must be the start of a path, got an edge from 'a'": [*STRAIGHT, ("a", "input")],
    r"edge \('a', 'b'\) occurs twice": [*STRAIGHT, ("a", "b")],
    "edges must be pairs of names of nodes, got .*'b'": [("input", "a", "b")],
    "edges must be pairs of names of nodes, got .*b'a'": [(b"input", b"a")],
    "edges must be pairs of names of nodes, got .*None": [(None, "a")],
    "edges must be pairs of names of nodes, got None": None,
    "edges must be pairs of names of nodes, got .1, 2": [1, 2],
}


@pytest.mark.parametrize("message", EDGES)
def test_edges_are_between_nodes_that_the_input_reaches(message):
    ends = {"input": nir.Input(np.array([4])), "output": nir.Output(np.array([4]))}
    given = nir.NIRGraph({**ends, "a": lif(), "b": lif()}, STRAIGHT, type_check=False)
    assert len(from_nir(given, **EULER).layers) == 2
    given.edges = EDGES[message]
    assert re.search(message, refused(given))
    # the same within another graph
    given.edges = STRAIGHT
    outer = line(given)
    outer.nodes["node"].edges = EDGES[message]
    refused(outer)


def test_graph_without_nodes_or_edges_is_rejected():
    for name in ("nodes", "edges"):
        given = graph(lif())
        delattr(given, name)
        assert f"{name} must be" in refused(given)


def test_nodes_of_a_graph_are_nodes_of_nir():
    for nodes, message in (
        (None, "nodes must be a dict"),
        ([], "nodes must be a dict"),
        ({}, "must have an Input and an Output"),
        ({"input": None}, "nodes must be NIR nodes by their names, got None"),
        ({1: lif()}, "nodes must be NIR nodes by their names, got .*by 1"),
        ({f"i{n}": nir.Input(np.array([4])) for n in range(2000)}, "an Input and an Output, got .*characters"),
    ):
        given = line(lif())
        given.nodes, given.edges = nodes, []
        assert re.search(message, refused(given))
    itself, deep = line(lif()), line(lif())
    itself.nodes["node"] = itself
    for _ in range(2000):
        outer = line(lif())
        outer.nodes["node"], deep = deep, outer
    for given in (itself, deep):
        assert "must not contain itself" in refused(given)
    clash = line(line(lif()))
    clash.nodes["node/node"] = lif()
    assert "two nodes have the name 'node/node'" in refused(clash)
    strange = line(lif())
    strange.nodes["a\n\x1b[31m" + "b" * 10_000] = nir.Delay(each(1.0))
    assert "is not on the way" in refused(strange)


def loop(node):
    nodes = {"input": nir.Input(np.array([4])), "a": lif(), "w": node, "output": nir.Output(np.array([4]))}
    return nir.NIRGraph(nodes, [("input", "a"), ("a", "w"), ("w", "a"), ("a", "output")], type_check=False)


def flat(first, last):
    node = nir.Flatten({"input": np.array([2, 3, 4])}, 0, -1)
    node.start_dim, node.end_dim = first, last
    return node


SHAPES = {
    "the input must have shape (6,), got (5,)": lambda: line(
        nir.Linear(np.ones((5, 3))), b=nir.Linear(np.ones((4, 6)))
    ),
    "r must have the shape of the input, (7,), got (4,)": lambda: line(nir.Linear(np.ones((7, 3))), a=lif()),
    "scale must have the shape of the input, (4,), got (9,)": lambda: line(lif(), b=nir.Scale(np.ones(9))),
    "threshold must have the shape of the input, (4,), got (9,)": lambda: line(
        nir.CubaLI(*map(each, (1e-2, 1e-2, 1.0, 0.0))), t=nir.Threshold(np.ones(9))
    ),
    "the input must have shape (5,), got (4,)": lambda: loop(nir.Linear(np.ones((4, 5)))),
    "the output must have shape (4,), got (5,)": lambda: loop(nir.Linear(np.ones((5, 4)))),
    "bias must have shape (4,), got (3,)": lambda: loop(nir.Affine(np.ones((4, 4)), np.ones(3))),
    "is not supported": lambda: loop(pool()),
    "start_dim and end_dim must be axes of (2, 3, 4) in order, got 9 and -1": lambda: line(flat(9, -1)),
    "start_dim and end_dim must be axes of (2, 3, 4) in order, got 0 and 3": lambda: line(flat(0, 3)),
    "start_dim and end_dim must be axes of (2, 3, 4) in order, got 2 and 0": lambda: line(flat(2, 0)),
    "start_dim must be an integer": lambda: line(flat(np.nan, -1)),
    **{
        f"{name} must be {message}": lambda changes={name: value}: line(conv(**changes))
        for name, value, message in (
            ("stride", (0, 0), "1 or more, got (0, 0)"),
            ("stride", (-1, 1), "1 or more, got (-1, 1)"),
            ("stride", 1.5, "an integer or 2 integers, got 1.5"),
            ("stride", (1, 1, 1), "an integer or 2 integers, got (1, 1, 1)"),
            ("stride", None, "an integer or 2 integers, got None"),
            ("dilation", 0, "1 or more, got 0"),
            ("padding", "reflect", "'same', 'valid' or integers, got 'reflect'"),
            ("padding", b"\xff", "'same', 'valid' or integers"),
            ("padding", (-1, -1), "0 or more, got (-1, -1)"),
            ("groups", 0, "1 or more, got 0"),
            ("groups", np.nan, "an integer or 1 integers, got nan"),
        )
    },
    "does not take an input of shape (2, 8, 8)": lambda: line(conv(groups=3)),
    "does not take an input of shape (2, 8, 8): Python int too large": lambda: line(conv(stride=10**30)),
    "must have 1 to 2,147,483,647 values, got shape (4, 2000000006, 2000000006)": lambda: line(conv(padding=10**9)),
    "values, got shape (4, 0, 0)": lambda: line(conv(weight=np.ones((4, 2, 30, 30)))),
    "must have 4 axes, got shape (4, 2, 3)": lambda: line(conv(weight=np.ones((4, 2, 3)))),
    "bias must have shape (4,), got (9,)": lambda: line(conv(bias=np.zeros(9))),
}


@pytest.mark.parametrize("message", SHAPES)
def test_shapes_of_nodes_fit_their_inputs(message):
    assert message in refused(SHAPES[message]())


def test_shapes_of_the_ends_are_those_of_the_nodes():
    for name, message in (("output", "shape of the Output"), ("input", "must have shape")):
        given = line(nir.Linear(np.ones((4, 3))), b=lif())
        given.nodes[name] = {"input": nir.Input, "output": nir.Output}[name](np.array([99]))
        assert message in refused(given)
        for strange in (np.array([-4]), np.array([0.5]), np.array(["a"]), np.array([])):
            given.nodes[name] = {"input": nir.Input, "output": nir.Output}[name](strange)
            refused(given)
    unknown = line(nir.Linear(8 * weights(12, 4).T), b=lif())
    unknown.nodes["input"].input_type = {"input": None}
    inputs = spikes_in()
    np.testing.assert_array_equal(
        run(from_nir(unknown, **EULER), inputs),
        run(from_nir(graph(*list(unknown.nodes.values())[1:3]), **EULER), inputs),
    )


def test_a_product_that_overflows_is_named():
    given = line(nir.Linear(np.full((4, 3), 1e30)), a=lif(r=1e30))
    assert "a weight times the factors after it must be finite in float32" in refused(given)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_graph_has_no_parameter_that_is_not_finite(bad):
    values = jnp.full(4, bad)
    for layer, field in (
        (Layer(np.full((3, 4), bad, np.float32), ZERO), "weight"),
        (Layer(W, ZERO, bias=values[:2]), "bias"),
        (Layer(np.ones((3, 4)), ZERO, np.full((4, 4), bad)), "weight"),
        (Layer(np.ones((3, 4)), LIF(0.9, values, reset="value")), "threshold"),
        (Layer(np.ones((3, 4)), LIF(0.9, reset="value", reset_value=values)), "reset_value"),
    ):
        with pytest.raises(
            ValueError, match=rf"^to_nir: ('layer0[^']*' \(\w+\)|layer 0: LIF): {field} must be finite in"
        ):
            to_nir(Network([layer]), **EXACT)
    for decay, message in ((np.nan, "decay must be finite"), (-0.5, "decay must be 0 or more")):
        with pytest.raises(ValueError, match=message):
            to_nir(Network([Layer(W, LIF(jnp.full(2, decay), reset="value"))]), **EULER)
    for shape in ((3.5,), "abc", 3, ((3,),), (), (0,), (None,)):
        with pytest.raises(ValueError, match=r"^to_nir: input_shape must be integers above 0, got"):
            to_nir(with_readout(LeakyReadout()), **EULER, input_shape=shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dt": 0.0}, "dt must be finite and > 0, got 0.0"),
        ({"dt": "1"}, "dt must be a number of seconds, got '1'"),
        ({"dt": 10**400}, "dt must be finite and > 0, got"),
        ({"dt": np.nan}, "dt must be finite and > 0, got nan"),
        ({"dt": np.inf}, "dt must be finite and > 0, got inf"),
        ({"discretization": []}, "discretization must be 'exact' or 'euler', got []"),
        ({"discretization": "Euler"}, "discretization must be 'exact' or 'euler', got 'Euler'"),
    ],
)
def test_time_is_stated(changes, message):
    for convert, given in (to_nir, with_readout(LeakyReadout())), (from_nir, graph(lif())):
        with pytest.raises((ValueError, TypeError), match="^" + re.escape(f"{convert.__name__}: {message}")):
            convert(given, **EULER | changes)
        with pytest.raises(TypeError, match="must be a "):
            convert(None, **EULER)


def test_time_is_a_real_number_of_any_kind():
    for dt in (np.float16(1e-4), np.longdouble("1e-4"), Fraction(1, 10_000)):
        cell = from_nir(graph(lif()), **EULER | {"dt": dt}).layers[0].cell
        assert cell.decay == pytest.approx(1 - float(dt) / 1e-3)


def test_a_node_that_lacks_a_parameter_is_named():
    node = lif()
    del node.tau
    assert "'node' (LIF): tau must be an array of real numbers, got object" in refused(line(node))


def test_a_function_first_needs_a_shape():
    with pytest.raises(ValueError, match="give input_shape"):
        to_nir(images()[0], **EULER)


# --- what other libraries make of it, as scripts/record_nir.py has recorded it -------------------------------------

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
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(case["bits"]), np.uint8))[:size].reshape(case["shape"])
    if name == "images":
        network, inputs = images()
        spikes = run(network, inputs)[:, 0]
    else:
        spikes = run(networks()[name.removesuffix(", unit resistance")], spikes_in())
    assert (spikes != bits).sum() == DIFFERENT.get(request.node.callspec.id, 0)
