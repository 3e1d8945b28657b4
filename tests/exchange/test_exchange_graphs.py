"""Graphs to NIR and back: joins, several sources, inputs and outputs, loops and delays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few

nir = pytest.importorskip("nir")

from nir_reference import simulate, spikes_in, weights  # noqa: E402

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network, SynapticLIF, Window  # noqa: E402
from spikegrad.exchange import from_nir, to_nir  # noqa: E402
from spikegrad.network import DelayKernel  # noqa: E402

EULER = {"dt": 1e-4, "discretization": "euler"}
EXACT = {"dt": 1e-3, "discretization": "exact"}
EVERY = pytest.mark.every
lif, synaptic = LIF(0.9, reset="value"), SynapticLIF(0.8, reset="value", synaptic_decay=0.5)
none = LIF(0.8, reset="none")


def add(a, b):
    return a + b


def w(inputs, neurons, seed=1, scale=1.5):
    return weights(inputs, neurons, seed=seed, scale=scale)


def networks():
    stem = Layer(w(12, 8), lif)
    kernel = DelayKernel(jnp.asarray(w(8, 5, scale=6.0)), delay=jnp.asarray(2.3), length=4)
    late = Delayed(w(8, 8, 3), 1)
    chains = {
        "residual": {
            "stem": stem,
            "one": Layer(w(8, 8), lif),
            "two": Layer(w(8, 8, 2), lif, bias=np.linspace(-0.1, 0.2, 8, dtype=np.float32)),
            "sum": Join(add, of=("stem", "two")),
            "out": Layer(w(8, 5), LeakyReadout(0.9)),
        },
        "two sources": {
            "stem": stem,
            "two": Layer(w(8, 6), synaptic, w(6, 6, 3, 0.5)),
            "out": Layer(
                {"stem": w(8, 5, scale=4.0), "two": w(6, 5, scale=4.0)},
                lif,
                bias=np.full(5, 0.1, np.float32),
            ),
        },
        "feedback": {"a": Layer({"input": w(12, 8), "b": late}, lif), "b": Layer(w(8, 8), lif)},
        "delayed feedback": {
            "a": Layer(
                {"input": w(12, 8), "b": Delayed(w(8, 8, 3), 3)}, lif, Delayed(w(8, 8, 4, 0.5), 2)
            ),
            "b": Layer(
                w(8, 8), synaptic, Window(np.stack([w(8, 8, 5, 0.3), w(8, 8, 6, 0.3)]), delay=1)
            ),
            "out": Layer(w(8, 5), none),
        },
        # The loop a, d, c, b leads back twice, so only the metadata define its steps.
        "overlapping loops": {
            "a": Layer({"input": w(12, 8), "b": late}, lif),
            "b": Layer({"a": w(8, 8), "c": w(8, 8, 5)}, lif),
            "c": Layer({"input": w(12, 8, 6), "d": late}, lif),
            "d": Layer({"c": w(8, 8), "a": w(8, 8, 7)}, lif),
        },
        "delays": {
            "stem": stem,
            "late": Layer({"stem": Delayed(w(8, 8), 4), "input": Delayed(w(12, 8), 1)}, lif),
            "out": Layer(Window(np.stack([w(8, 5, seed) for seed in range(3)])), lif),
        },
        "learned delays": {"stem": stem, "out": Layer(Window(kernel), lif)},
        "sum as output": {
            "stem": stem,
            "two": Layer(w(8, 8, 2), lif),
            "sum": Join(add, of=("stem", "two")),
        },
        "a layer called output": {"output": stem},
        "no neurons": {
            "stem": stem,
            "out": Layer({"stem": w(8, 5), "input": w(12, 5)}, LeakyReadout(0.0)),
        },
    }
    return {name: Network(layers) for name, layers in chains.items()} | {
        "two inputs and outputs": Network(
            {
                "low": Layer({"x": w(12, 8), "y": w(3, 8)}, lif),
                "high": Layer({"low": w(8, 8), "y": Delayed(w(3, 8), 2)}, none),
                "gate": Join(add, of=("low", "high")),
            },
            inputs=("x", "y"),
            outputs=("high", "gate"),
        )
    }


def inputs_of(network):
    if isinstance(network.inputs, str):
        return spikes_in()
    return {"x": spikes_in(), "y": spikes_in((3,), seed=1)}


def run(network, inputs):
    """Outputs by name."""
    out = network(jax.tree.map(jnp.asarray, inputs), backward="scan")[1]
    return jax.tree.map(np.asarray, out if isinstance(out, dict) else {outputs_of(network): out})


def outputs_of(network):
    return network.outputs or [*network.layers][-1]


def reference(graph, inputs, way):
    """The outputs of each example by the equations of NIR, by the names of Outputs."""
    examples = [
        simulate(graph, jax.tree.map(lambda x, n=n: x[:, n], inputs), **way) for n in range(3)
    ]
    return jax.tree.map(lambda *a: np.stack(a, 1), *examples)


CHOSEN = "residual", "delayed feedback", "overlapping loops", "two inputs and outputs"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "options"), [(EULER, {}), pytest.param(EXACT, {"unit_resistance": True}, marks=EVERY)]
)
@pytest.mark.parametrize("name", few(networks(), *CHOSEN))
def test_graphs_keep_their_outputs_and_names(name, way, options, tmp_path):
    network = networks()[name]
    inputs = inputs_of(network)
    outputs = run(network, inputs)
    graph = to_nir(network, **way, **options)
    nir.write(tmp_path / "graph.nir", graph)
    back = from_nir(nir.read(tmp_path / "graph.nir"), **way)
    for names in (lambda network: network.inputs, outputs_of):  # a file sorts names
        assert {*np.ravel(names(back))} == {*np.ravel(names(network))}
    assert {*network.layers} <= {*back.layers}
    again, of_nir = run(back, inputs), reference(graph, inputs, way)
    for output, values in outputs.items():
        assert 0.005 < abs(values).mean() < 5
        np.testing.assert_allclose(values, again[output], rtol=1e-4, atol=1e-5, err_msg=output)
        if name != "overlapping loops":
            by_name = of_nir[f"{output}.output"] if isinstance(of_nir, dict) else of_nir
            np.testing.assert_allclose(values, by_name, rtol=1e-4, atol=1e-5, err_msg=output)
    if name not in ("no neurons", "learned delays"):  # these come back in another form
        assert {*network.layers} == {*back.layers}
        for entry, layer in network.layers.items():
            after = back.layers[entry]
            assert type(after) is type(layer)
            if isinstance(layer, Layer):
                assert jax.tree.structure(
                    layer._replaced(bias=None, of=after.of, cell=lif)
                ) == jax.tree.structure(after._replaced(bias=None, cell=lif))


def test_list_with_longer_delays_is_a_list_again():
    recurrent = Delayed(w(8, 8, 3), 3)
    network = Network([Layer(w(12, 8), lif, recurrent), Layer(w(8, 5), lif)])
    graph = to_nir(network, **EULER)
    assert [*graph.nodes] == ["input", "0.drive.input", "0", "1.drive.0", "1", "output"]
    inner = graph.nodes["0"].nodes
    assert [*inner] == ["input", "neurons", "delay", "recurrent", "output"]
    np.testing.assert_allclose(inner["delay"].delay, np.full(8, 2e-4))
    back = from_nir(graph, **EULER)
    assert back.layers[0].recurrent.delay == 3
    _, spikes = network(spikes_in())
    np.testing.assert_array_equal(back(spikes_in())[1], spikes)
    np.testing.assert_array_equal(reference(graph, spikes_in(), EULER), spikes)


def test_feedback_without_weights():
    """An output that comes back as it is needs no node."""
    network = Network([Layer(w(12, 8), lif, lambda spikes: spikes)])
    graph = to_nir(network, **EULER)
    spikes = run(network, spikes_in())["0"]
    np.testing.assert_array_equal(reference(graph, spikes_in(), EULER), spikes)
    np.testing.assert_array_equal(run(from_nir(graph, **EULER), spikes_in())["0"], spikes)


def test_nodes_are_named_by_layers_and_sources():
    graph = to_nir(networks()["delayed feedback"], **EULER)
    assert [*graph.nodes] == [
        "input", "a.drive.input", "a.delay.b", "a.recurrent.b", "a", "b.drive.a", "b",
        "out.drive.b", "out.neurons", "out", "output",
    ]  # fmt: skip
    # the loop takes one step
    np.testing.assert_allclose(graph.nodes["a.delay.b"].delay, np.full(8, 2e-4))
    assert "a.delay.b" not in to_nir(networks()["feedback"], **EULER).nodes


def graph_of(edges, **nodes):
    ends = {"input": nir.Input(np.array([1])), "output": nir.Output(np.array([1]))}
    return nir.NIRGraph({**ends, **nodes}, edges, type_check=False)


def linear(value):
    return nir.Linear(np.full((1, 1), value))


def copy():
    """Neurons that output their input."""
    return nir.LI(tau=np.full(1, 1e-4), r=np.ones(1), v_leak=np.zeros(1))


def delay(steps):
    return nir.Delay(np.full(1, steps * 1e-4))


LOOP = [("input", "a"), ("a", "rec"), ("rec", "a"), ("a", "output")]
LATE_LOOP = [*LOOP[:2], ("rec", "d"), ("d", "a"), LOOP[3]]
INPUTS = [("input", "a"), ("input", "b")]
FEEDBACK = [
    *INPUTS,
    ("a", "ab"),
    ("ab", "b"),
    ("b", "d"),
    ("d", "ba"),
    ("ba", "a"),
    ("b", "output"),
]
SUM = [*INPUTS, ("a", "output"), ("b", "output")]
WINDOW = [("input", "d"), ("d", "a"), ("input", "b"), ("a", "n"), ("b", "n"), ("n", "output")]
LOOPED = {"a": copy(), "b": copy(), "ab": linear(2.0), "ba": linear(0.5)}
IMPULSES = {
    # nirtorch 2.6 gives these outputs of a loop and of a sum, in any order of nodes and edges
    "loop": (graph_of(LOOP, a=copy(), rec=linear(0.5)), [1, 0.5, 0.25, 0.125, 0.0625]),
    "reversed": (graph_of(LOOP[::-1], rec=linear(0.5), a=copy()), [1, 0.5, 0.25, 0.125, 0.0625]),
    "sum": (graph_of(SUM, a=linear(1.0), b=linear(2.0)), [3, 0, 0, 0, 0]),
    # a delay of two steps adds to the step of the loop
    "delay": (graph_of(LATE_LOOP, a=copy(), rec=linear(0.5), d=delay(2)), [1, 0, 0, 0.5, 0]),
    "through two layers": (graph_of(FEEDBACK, **LOOPED, d=delay(1)), [3, 0, 3, 0, 3]),
    "of one step": (graph_of(FEEDBACK, **LOOPED, d=delay(0)), [3, 3, 3, 3, 3]),
    # a delay after a bias delays the bias
    "bias": (
        graph_of(
            [("input", "a"), ("a", "d"), ("d", "output")],
            a=nir.Affine(np.ones((1, 1)), np.ones(1)),
            d=delay(2),
        ),
        [0, 0, 2, 1, 1],
    ),
    "window": (
        graph_of(WINDOW, d=delay(2), a=linear(3.0), b=linear(5.0), n=copy()),
        [5, 0, 3, 0, 0],
    ),
}


@pytest.mark.parametrize("name", IMPULSES)
def test_impulses(name):
    graph, outputs = IMPULSES[name]
    network = from_nir(graph, **EULER)
    state, out = network.initial_state(jnp.zeros((1, 1))), []
    for x in (1.0, 0.0, 0.0, 0.0, 0.0):
        state, y = network.step(state, jnp.full((1, 1), x))
        out.append(float(y[0, 0]))
    assert out == outputs


def test_sums_of_delayed_products_are_a_window():
    weight = from_nir(IMPULSES["window"][0], **EULER).layers["n"].weight.weight
    np.testing.assert_array_equal(weight, np.array([5, 0, 3])[:, None, None])


def test_loop_without_a_delay_is_named():
    edges = [edge for edge in FEEDBACK if "d" not in edge] + [("b", "ba")]
    graph = graph_of(edges, a=copy(), b=copy(), ab=linear(0.5), ba=linear(0.5))
    with pytest.raises(
        ValueError,
        match=r"^from_nir: a loop of several layers needs a Delay, .*'a', 'b' form a cycle",
    ):
        from_nir(graph, **EULER)


TWO = {"a": Layer(w(12, 8), lif), "b": Layer(w(8, 8), lif)}
REFUSED = {
    r"the join 'gate' must add its sources once each": TWO
    | {"gate": Join(lambda a, b: a * (1 - b), of=("a", "b"))},
    r"the join 'twice' must add its sources": TWO | {"twice": Join(lambda a: a + a, of="a")},
    r"the join 'first' must add its sources": TWO | {"first": Join(lambda a, b: a, of=("a", "b"))},
    r"the join 'more' must add its sources": TWO | {"more": Join(lambda a: a + 1.0, of="a")},
    r"the join 'norm' takes complete sequences": {
        "norm": Join(lambda x: x - x.mean(0), of="input", over_time=True),
        "a": Layer(w(12, 8), lif),
    },
    r"layer 'a' has a function of a window": {
        "a": Layer(Window(lambda x: x.sum(0), length=2), lif)
    },
    r"layer 'a': LIF: NIR does not reset by subtraction": {"a": Layer(w(12, 8), LIF())},
}


@pytest.mark.parametrize("message", REFUSED)
def test_graphs_that_nir_lacks_are_refused(message):
    with pytest.raises(ValueError, match=f"^to_nir: .*({message})"):
        to_nir(Network(REFUSED[message]), **EULER, input_shape=(12,))


def test_shapes_of_several_inputs():
    out = Layer(lambda x: x @ w(12, 5), lif)
    both = Join(add, of=("x", "y"))
    network = Network({"both": both, "out": out}, inputs=("x", "y"))
    for shape, message in (
        (None, "no weight of 'x' is a matrix: give input_shape"),
        ({"x": (12,)}, "no weight of 'y' is a matrix: give input_shape"),
        (3, "^to_nir: input_shape must be integers above 0, got"),
    ):
        with pytest.raises(ValueError, match=message):
            to_nir(network, **EULER, input_shape=shape)
    graph = to_nir(network, **EULER, input_shape={"x": (12,), "y": (12,)})
    assert {*from_nir(graph, **EULER).layers} == {"both", "out"}
