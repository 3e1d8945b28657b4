"""Graphs to NIR and back: joins, several sources, inputs and outputs, loops and delays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few

nir = pytest.importorskip("nir")

from nir_reference import simulate, spikes_in, weights  # noqa: E402

from spikegrad import (  # noqa: E402
    LIF,
    Delayed,
    DelayKernel,
    Join,
    Layer,
    LeakyReadout,
    Network,
    SynapticLIF,
    Window,
)
from spikegrad.exchange import from_nir, to_nir  # noqa: E402
from spikegrad.exchange._loops import cuts, loops  # noqa: E402

EULER, EXACT = {"dt": 1e-4, "discretization": "euler"}, {"dt": 1e-3, "discretization": "exact"}
EVERY = pytest.mark.every
lif, synaptic = LIF(0.9, reset="value"), SynapticLIF(0.8, reset="value", synaptic_decay=0.5)
none = LIF(0.8, reset="none")


def add(a, b):
    return a + b


def w(inputs, neurons, seed=1, scale=1.5):
    return weights(inputs, neurons, seed=seed, scale=scale)


def networks():
    stem, out = Layer(w(12, 8), lif), Layer(w(8, 5, scale=5.0), lif)
    kernel = DelayKernel(jnp.asarray(w(8, 5, scale=6.0)), delay=jnp.asarray(2.3), length=4)
    found = {
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
                {"stem": w(8, 5, scale=4.0), "two": w(6, 5, scale=4.0)}, lif, bias=np.full(5, 0.1, np.float32)
            ),
        },
        "feedback": {"a": Layer({"input": w(12, 8), "b": Delayed(w(8, 8, 3), 1)}, lif), "b": Layer(w(8, 8), lif)},
        "delayed feedback": {
            "a": Layer({"input": w(12, 8), "b": Delayed(w(8, 8, 3), 3)}, lif, Delayed(w(8, 8, 4, 0.5), 2)),
            "b": Layer(w(8, 8), synaptic, Window(np.stack([w(8, 8, 5, 0.3), w(8, 8, 6, 0.3)]), delay=1)),
            "out": Layer(w(8, 5), none),
        },
        "loop through a join": {
            "both": Join(lambda x, b: sum([x, b]), of=("input", "b")),
            "a": Layer(w(12, 8), lif, of="both"),
            "b": Layer(Delayed(w(8, 12, 3), 2), lif, of="a"),
            "out": Layer(w(12, 5), lif, of="both"),
        },
        "two loops": {
            "a": Layer({"input": w(12, 8), "b": Delayed(w(8, 8, 3), 1), "c": Delayed(w(8, 8, 4), 2)}, lif),
            "b": Layer(Delayed(w(8, 8), 2), lif, of="a"),
            "c": Layer(w(8, 8), none, of="b"),
        },
        "delays": {
            "stem": stem,
            "late": Layer({"stem": Delayed(w(8, 8), 4), "input": Delayed(w(12, 8), 1)}, lif),
            "out": Layer(Window(np.stack([w(8, 5, seed) for seed in range(3)])), lif),
        },
        "learned delays": {"stem": stem, "out": Layer(Window(kernel), lif)},
        "sum as output": {"stem": stem, "two": Layer(w(8, 8, 2), lif), "sum": Join(add, of=("stem", "two"))},
        "names of a chain": {"stem": stem, "out": out},
        "no neurons": {"stem": stem, "out": Layer({"stem": w(8, 5), "input": w(12, 5)}, LeakyReadout(0.0))},
    }
    return {name: Network(layers) for name, layers in found.items()} | {
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
    out = network(jax.tree.map(jnp.asarray, inputs), mode="scan")[1]
    return jax.tree.map(np.asarray, out if isinstance(out, dict) else {network.outputs: out})


def reference(graph, inputs, way):
    """By the equations of NIR, for each example. An Output of several is called by what it reads."""
    of_each = [
        simulate(graph, jax.tree.map(lambda x, n=n: x[:, n], inputs), way["dt"], way["discretization"])
        for n in range(3)
    ]
    stacked = jax.tree.map(lambda *a: np.stack(a, 1), *of_each)
    return (
        {name.removesuffix(".output"): out for name, out in stacked.items()} if isinstance(stacked, dict) else stacked
    )


CHOSEN = "residual", "delayed feedback", "two inputs and outputs"


@pytest.mark.parametrize(("way", "options"), [(EULER, {}), pytest.param(EXACT, {"unit_resistance": True}, marks=EVERY)])
@pytest.mark.parametrize("name", few(networks(), *CHOSEN))
def test_graphs_keep_their_outputs_and_names(name, way, options, tmp_path):
    network = networks()[name]
    inputs = inputs_of(network)
    want = run(network, inputs)
    graph = to_nir(network, **way, **options)
    nir.write(tmp_path / "graph.nir", graph)
    back = from_nir(nir.read(tmp_path / "graph.nir"), **way)
    for ends in ("inputs", "outputs"):  # a file sorts names
        assert {*np.ravel(getattr(back, ends))} == {*np.ravel(getattr(network, ends))}
    assert {*network.layers} <= {*back.layers}
    found, again = reference(graph, inputs, way), run(back, inputs)
    for output, values in want.items():
        assert 0.005 < abs(values).mean() < 5
        of_nir = found[output] if isinstance(found, dict) else found
        np.testing.assert_allclose(values, of_nir, rtol=1e-4, atol=1e-5, err_msg=output)
        np.testing.assert_allclose(values, again[output], rtol=1e-4, atol=1e-5, err_msg=output)
    if name not in ("no neurons", "learned delays"):  # these come back in another form
        assert {*network.layers} == {*back.layers}
        for entry, layer in network.layers.items():
            again = back.layers[entry]
            assert type(again) is type(layer)
            if isinstance(layer, Layer):
                assert jax.tree.structure(layer._replaced(bias=None, of=again.of, cell=lif)) == jax.tree.structure(
                    again._replaced(bias=None, cell=lif)
                )


def test_list_with_longer_delays_is_a_list_again():
    network = Network([Layer(w(12, 8), lif, Delayed(w(8, 8, 3), 3)), Layer(w(8, 5), lif)])
    graph = to_nir(network, **EULER)
    assert [*graph.nodes] == ["input", "layer0.drive", "layer0.neurons", "layer1.drive", "layer1.neurons", "output"]
    assert [*graph.nodes["layer0.neurons"].nodes] == ["input", "neurons", "delay", "recurrent", "output"]
    np.testing.assert_allclose(graph.nodes["layer0.neurons"].nodes["delay"].delay, np.full(8, 2e-4))
    back = from_nir(graph, **EULER)
    assert back.layers[0].recurrent.delay == 3
    _, spikes = network(spikes_in())
    np.testing.assert_array_equal(back(spikes_in())[1], spikes)
    np.testing.assert_array_equal(reference(graph, spikes_in(), EULER), spikes)


def test_nodes_are_named_by_layers_and_sources():
    graph = to_nir(networks()["delayed feedback"], **EULER)
    assert [*graph.nodes] == [
        "input", "a.drive.input", "a.delay.b", "a.recurrent.b", "a", "b.drive.a", "b", "out.drive.b", "out.neurons",
        "out", "output",
    ]  # fmt: skip
    np.testing.assert_allclose(graph.nodes["a.delay.b"].delay, np.full(8, 2e-4))  # the loop takes one step
    assert "a.delay.b" not in to_nir(networks()["feedback"], **EULER).nodes


# --- graphs of other libraries ----------------------------------------------------------------------------------------


def graph_of(edges, **nodes):
    ends = {"input": nir.Input(np.array([1])), "output": nir.Output(np.array([1]))}
    return nir.NIRGraph({**ends, **nodes}, edges, type_check=False)


def linear(value):
    return nir.Linear(np.full((1, 1), value))


def scale():
    return nir.Scale(np.ones(1))


def impulse(graph, steps=5):
    out = from_nir(graph, **EULER)(jnp.zeros((steps, 1, 1)).at[0].set(1.0))[1]
    return np.ravel(out).tolist()


def test_loop_takes_one_step_as_in_nirtorch():
    """nirtorch 2.6 gives these outputs of a loop and of a sum, whatever the order of nodes and edges."""
    edges = [("input", "a"), ("a", "rec"), ("rec", "a"), ("a", "output")]
    for order in (edges, edges[::-1]):
        graph = graph_of(order, rec=linear(0.5), a=scale())
        assert impulse(graph) == [1, 0.5, 0.25, 0.125, 0.0625]
    edges = [("input", "a"), ("input", "b"), ("a", "output"), ("b", "output")]
    assert impulse(graph_of(edges, a=linear(1.0), b=linear(2.0))) == [3, 0, 0, 0, 0]
    # a delay of two steps adds to the step of the loop
    edges = [("input", "a"), ("a", "rec"), ("rec", "d"), ("d", "a"), ("a", "output")]
    graph = graph_of(edges, rec=linear(0.5), a=scale(), d=nir.Delay(np.full(1, 2e-4)))
    assert impulse(graph, 7) == [1, 0, 0, 0.5, 0, 0, 0.25]


def test_delay_after_a_bias_delays_the_bias():
    edges = [("input", "a"), ("a", "d"), ("d", "output")]
    graph = graph_of(edges, a=nir.Affine(np.ones((1, 1)), np.ones(1)), d=nir.Delay(np.full(1, 2e-4)))
    assert impulse(graph) == [0, 0, 2, 1, 1]


def test_sums_of_delayed_products_are_a_window():
    edges = [("input", "d"), ("d", "a"), ("input", "b"), ("a", "n"), ("b", "n"), ("n", "output")]
    node = nir.LI(tau=np.full(1, 1e-4), r=np.ones(1), v_leak=np.zeros(1))
    graph = graph_of(edges, d=nir.Delay(np.full(1, 2e-4)), a=linear(3.0), b=linear(5.0), n=node)
    np.testing.assert_array_equal(
        from_nir(graph, **EULER).layers["n"].weight.weight, np.array([5, 0, 3])[:, None, None]
    )
    assert impulse(graph) == [5, 0, 3, 0, 0]


def neurons():
    return nir.LIF(tau=np.full(1, 1e-3), r=np.ones(1), v_leak=np.zeros(1), v_threshold=np.full(1, 0.5))


def test_ambiguous_loop_is_refused():
    edges = [("input", "a"), ("input", "b"), ("a", "ab"), ("ab", "b"), ("b", "ba"), ("ba", "a"), ("b", "output")]
    nodes = {"a": neurons(), "b": neurons(), "ab": linear(0.5)}
    with pytest.raises(ValueError, match=r"^from_nir: NIR does not define which weights between \['a', 'b'\] arrive"):
        from_nir(graph_of(edges, **nodes, ba=linear(0.5)), **EULER)
    named = [tuple("a.recurrent" if name == "ba" else name for name in edge) for edge in edges]
    network = from_nir(graph_of(named, **nodes, **{"a.recurrent": linear(0.5)}), **EULER)
    assert network.layers["a"].weight["b"].delay == 1


def test_loops_without_a_common_choice_are_refused():
    d = Delayed(w(8, 8), 1)
    network = Network(
        {
            "a": Layer({"input": w(12, 8), "b": d}, lif),
            "b": Layer({"a": w(8, 8), "c": w(8, 8)}, lif),
            "c": Layer({"input": w(12, 8), "d": d}, lif),
            "d": Layer({"c": w(8, 8), "a": w(8, 8)}, lif),
        }
    )
    with pytest.raises(ValueError, match=r"no choice of delayed weights of 'a', 'b', 'c', 'd' has one in each loop"):
        to_nir(network, **EULER)


REFUSED = {
    r"the join 'gate' must add outputs of one shape": {
        "a": Layer(w(12, 8), lif),
        "b": Layer(w(8, 8), lif),
        "gate": Join(lambda a, b: a * (1 - b), of=("a", "b")),
    },
    r"the join 'twice' must add outputs": {"a": Layer(w(12, 8), lif), "twice": Join(lambda a: a + a, of="a")},
    r"the join 'first' must add outputs": {
        "a": Layer(w(12, 8), lif),
        "b": Layer(w(8, 8), lif),
        "first": Join(lambda a, b: a, of=("a", "b")),
    },
    r"the join 'more' must add outputs": {"a": Layer(w(12, 8), lif), "more": Join(lambda a: a + 1.0, of="a")},
    r"the join 'norm' takes complete sequences": {
        "norm": Join(lambda x: x - x.mean(0), of="input", over_time=True),
        "a": Layer(w(12, 8), lif),
    },
    r"'a' enters 'two.output' twice": {
        "a": Layer(w(12, 8), lif),
        "b": Layer(w(8, 8), lif),
        "one": Join(add, of=("a", "b")),
        "two": Join(add, of=("one", "a")),
    },
    r"'unread' must have readers or be an output": {
        "unread": Layer(w(12, 8), lif),
        "out": Layer(w(12, 8), lif, of="input"),
    },
    r"layer 'a' has a function of a window": {"a": Layer(Window(lambda x: x.sum(0), length=2), lif)},
    r"the name 'a\\x00.* must not have a null character": {"a\0": Layer(w(12, 8), lif)},
    r"two nodes would have the name 'output'": {"output": Layer(w(12, 8), lif)},
    r"layer 'a': Refractory|layer 'a': LIF resets by subtraction": {"a": Layer(w(12, 8), LIF())},
}


@pytest.mark.parametrize("message", REFUSED)
def test_graphs_that_nir_lacks_are_refused(message):
    with pytest.raises(ValueError, match=f"^to_nir: .*({message})"):
        to_nir(Network(REFUSED[message]), **EULER, input_shape=(12,))


def test_shapes_of_several_inputs():
    out = Layer(lambda x: x @ w(12, 5), lif)
    network = Network({"both": Join(add, of=("x", "y")), "out": out}, inputs=("x", "y"))
    for shape, message in (
        (None, "no weight of 'x' is a matrix: give input_shape"),
        ((12,), "input_shape must be a dict with the keys ['x', 'y'], got (12,)"),
        ({"x": (12,)}, "input_shape must have the keys ['x', 'y'], got ['x']"),
    ):
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            to_nir(network, **EULER, input_shape=shape)
    graph = to_nir(network, **EULER, input_shape={"x": (12,), "y": (12,)})
    assert {*from_nir(graph, **EULER).layers} == {"both", "out"}


def test_loops_and_cuts_of_a_graph():
    """Against all subsets, in random graphs."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        edges = [(int(a), int(b)) for a, b in rng.integers(0, 5, (8, 2))]
        cycles = loops("", edges)
        assert len({frozenset(cycle) for cycle in cycles}) == len(cycles)
        for cycle in cycles:
            assert [source for source, _ in cycle] == [cycle[-1][1], *(target for _, target in cycle[:-1])]
        unique = sorted({*edges})
        brute = {
            frozenset(chosen)
            for mask in range(2 ** len(unique))
            if all(
                len({*cycle} & (chosen := {e for k, e in enumerate(unique) if mask >> k & 1})) == 1 for cycle in cycles
            )
        }
        found = {*cuts(cycles, unique)}
        assert found <= brute
        assert all(any(one <= other for one in found) for other in brute)
        reach = np.zeros((5, 5), bool)
        for a, b in edges:
            reach[a, b] = True
        for _ in range(5):
            reach |= (reach.astype(int) @ reach.astype(int)) > 0
        assert {source for cycle in cycles for source, _ in cycle} == {n for n in range(5) if reach[n, n]}
