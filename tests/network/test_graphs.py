"""Networks as graphs: laws that random graphs do not have, names, and errors. test_random_graphs.py
has the values.
"""

import dataclasses
import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises, observed

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network, Window
from spikegrad._struct import as_arrays
from spikegrad.network.graph._graph import strongly_connected
from spikegrad.reports.plot import graph

pytestmark = pytest.mark.newest

STEPS, BATCH, UNITS = 6, 3, 3
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0, 1.5, (12, BATCH, UNITS)), jnp.float32)
W, R, V = (jnp.asarray(RNG.normal(0.2, 0.7, (UNITS, UNITS)), jnp.float32) for _ in range(3))


def named(**first):
    first = first or {"recurrent": R}
    return Network({"hidden": Layer(W, LIF(0.8), **first), "out": Layer(V, LeakyReadout(0.9))})


def test_a_list_is_a_chain_and_a_recurrent_weight_a_delay_of_one_step():
    as_source = {"input": W, "hidden": Delayed(R, 1)}
    networks = (
        named(),
        Network([Layer(W, LIF(0.8), recurrent=R), Layer(V, LeakyReadout(0.9))]),
        named(recurrent=Delayed(R, 1)),
        Network({"hidden": Layer(as_source, LIF(0.8)), "out": Layer(V, LeakyReadout(0.9))}),
    )
    wanted, *others = jax.jit(
        lambda: [([*states.values()], out) for states, out in (n(X) for n in networks)]
    )()
    for values in others:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), values, wanted)


def test_two_forms_of_one_network():
    """The order of entries changes nothing, and a join adds in a loop like the sources of a
    layer.
    """
    entries = {"a": Layer(W, LIF(0.8), of="input"), "b": Layer({"a": R, "input": V}, LIF(0.8))}
    other = {"b": Layer({"input": V, "a": R}, LIF(0.8)), "a": entries["a"]}
    # The layer before the join reads only delayed outputs of the loop, so its matrix gives the
    # shape of these.
    back = Layer(Delayed(R, 2), LIF(0.7), of="a")
    joined = {"sum": Join(lambda x, b: x + b, ("input", "b")), "a": Layer(W, LIF(0.8)), "b": back}
    summed = {"a": Layer({"input": W, "b": W}, LIF(0.8)), "b": back}
    pairs = (entries, other, "b"), (joined, summed, "a")
    for first, second in jax.jit(
        lambda: [[Network(n, outputs=out)(X)[1] for n in pair] for *pair, out in pairs]
    )():
        assert first.mean() > 0.1
        np.testing.assert_array_equal(first, second)


def looped():
    return Network(
        {
            "a": Layer({"input": Window(jnp.stack([W, V])), "b": Delayed(R, 2)}, LIF(0.8)),
            "gate": Join(lambda a, x: a * x, ("a", "input")),
            "b": Layer({"gate": W, "a": Delayed(V, 5)}, LIF(0.8)),
            "out": Layer(V, LeakyReadout(0.9), of="b"),
        },
        outputs=("out", "gate"),
    )


def test_entries_keep_the_order_in_which_they_were_written():
    w = jnp.eye(UNITS)
    network = Network(
        {"z": Layer(w, LIF()), "b": Layer(2 * w, LIF()), "a": Layer(w, LeakyReadout())}
    )
    again = jax.tree.map(lambda leaf: leaf, network)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(network)]
    assert [*network.layers] == [*again.layers] == ["z", "b", "a"]
    assert paths == [".layers['z'].weight", ".layers['b'].weight", ".layers['a'].weight"]
    assert Network(network.layers) == network
    assert network.graph.outputs == ("a",)
    assert network.layers[-1] is network.layers["a"]
    assert [*(network.layers | {"b": network.layers["z"]})] == ["z", "b", "a"]
    paths = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(looped())
    ]
    assert ".layers['a'].weight['b'].weight" in paths


@pytest.mark.slow
def test_a_network_of_functions_is_an_argument_of_jit():
    """Functions are part of its structure: the arrays alone are traced and get gradients."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(UNITS, UNITS)))
    network = Network(
        {
            "stem": Layer(w, LIF(0.9, 0.5)),
            "deep": Layer(lambda x: 2 * x, LIF(0.9, 0.5), recurrent=Delayed(jnp.tanh, 2)),
            "sum": Join(jnp.add, ("stem", "deep")),
            "out": Layer(None, LeakyReadout(0.9)),
        }
    )
    x = jnp.ones((STEPS, BATCH, UNITS))

    def loss(network):
        return (network(x)[1] ** 2).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(network)
    (leaf,) = jax.tree.leaves(gradient)
    assert leaf.shape == w.shape
    # a layer without a weight leaks the sum of both layers
    _, outs, _ = jax.jit(lambda: observed(network, x))()
    np.testing.assert_allclose(value, (outs["out"] ** 2).sum(), rtol=1e-6)
    v = np.zeros((BATCH, UNITS))
    for t in range(STEPS):
        v = 0.9 * v + np.asarray(outs["stem"][t]) + np.asarray(outs["deep"][t])
        np.testing.assert_allclose(outs["out"][t], v, rtol=1e-5)


def test_step_gives_what_a_call_gives():
    network = looped()
    states, outs = jax.tree.map(np.asarray, jax.jit(network)(X))
    now, step = network.initial_state(X[0]), jax.jit(network.step)
    for t, x in enumerate(np.asarray(X)):
        now, out = step(now, x)
        jax.tree.map(lambda a, b, t=t: np.testing.assert_array_equal(a, b[t]), out, outs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), states, now)


def test_graphs_are_compared_and_hashed_by_value():
    def make(scale=1.0):
        weights = {"input": jnp.array(W), "a": Delayed(scale * R, 1)}
        return Network({"a": Layer(weights, LIF(0.8)), "sum": Join(jnp.add, ("a", "input"))})

    graph, other = make(), make()
    assert graph == other
    assert hash(graph) == hash(other)  # which jax.jit needs
    assert graph != make(scale=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("backward", ["exact", "scan"])
def test_joins_that_change_the_width_of_single_examples(backward):
    """Under vmap, an example has no axis of examples."""
    wide = jnp.concatenate([V, W])
    nodes = {
        "a": Layer(W, LIF(0.8), recurrent=R),
        "both": Join(lambda a, x: jnp.concatenate([a, x], -1), ("a", "input")),
        "half": Join(lambda x: x[..., :2], "input"),
        "out": Layer({"both": wide, "half": W[:2]}, LeakyReadout(0.9)),
    }

    def run(weight, x):
        network = Network(nodes | {"a": dataclasses.replace(nodes["a"], weight=weight)})
        return network(x, backward=backward)[1]

    def both(weight):
        return run(weight, X), jax.vmap(functools.partial(run, weight), 1, 1)(X)

    together, single = jax.jit(both)(W)
    np.testing.assert_allclose(single, together, rtol=1e-5)
    of_both = jax.jit(jax.jacobian(lambda weight: [(out**2).sum() for out in both(weight)]))(W)
    np.testing.assert_allclose(*of_both, rtol=1e-4)


@pytest.mark.slow
def test_networks_that_share_a_layer():
    """The shared outputs have no batch axis, and a term of the loss reads them."""
    x, weights = jnp.ones((STEPS, BATCH, UNITS)), jnp.arange(1.0, 5.0)[:, None, None] * W[None]

    def loss(shared, each):
        network = Network([Layer(shared, LIF(0.5, 0.5)), Layer(each, LeakyReadout(0.5))])
        spikes, out = observed(network, x)[1].values()
        return (out**2).mean() + spikes.sum()

    got = jax.jit(
        jax.grad(lambda shared, all_: jax.vmap(loss, (None, 0))(shared, all_).sum(), (0, 1))
    )(V, weights)
    alone = jax.jit(jax.grad(loss, (0, 1)))
    one_by_one = [alone(V, each) for each in weights]
    expected = sum(shared for shared, _ in one_by_one), jnp.stack([each for _, each in one_by_one])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, expected)
    assert jnp.abs(expected[0]).max() > 0.1


L, HALF = Layer(W, LIF(0.8)), V[:, :2]
X_AND_Y = {"a": Layer({"x": W, "y": W}, LIF())}
BACK = {"a": Layer({"input": W, "b": Delayed(R, 1)}, LIF()), "b": Layer(HALF, LIF(), of="a")}
ONLY_EACH_OTHER = {"a": Layer({"b": Delayed(W, 1)}, LIF()), "b": Layer({"a": Delayed(W, 1)}, LIF())}
REFUSED = {
    "ValueError: 'a', 'b' form a cycle": lambda: Network(
        {"a": Layer({"b": W}, LIF()), "b": Layer(W, LIF(), of="a")}
    ),
    "ValueError: 'a' form a cycle without a delay": lambda: Network(
        {"a": Layer({"input": W, "a": R}, LIF())}
    ),
    "ValueError: 'a' reads 'x', which is not one of 'input', 'a'": lambda: Network(
        {"a": Layer({"x": W}, LIF())}
    ),
    "ValueError: 'j' reads 'c', which is not one of": lambda: Network(
        {"a": L, "j": Join(jnp.add, ("a", "c"))}
    ),
    "ValueError: 'input' names both an entry and inputs": lambda: Network({"input": L}),
    "ValueError: outputs must be names of ['a'], got 'b'": lambda: Network({"a": L}, outputs="b"),
    "ValueError: the last entry 'a' is the output by default, but 'b' reads it in the same step; "
    "name the outputs": (
        lambda: Network({"b": Layer(R, LIF(), of="a"), "a": Layer(W, LIF(), of="input")})
    ),
    "ValueError: 'a' reads None, which is not one of 'x', 'y', 'a'": lambda: Network(
        {"a": L}, inputs=("x", "y")
    ),
    "TypeError: layers must be one or more Layer objects": lambda: Network({"a": W}),
    "ValueError: Delayed: delay must be >= 1, got 0": lambda: Delayed(W, 0),
    "TypeError: Window: weight must be callable or of shape (length, inputs, neurons)": lambda: (
        Window(W)
    ),
    "ValueError: Window: length must be an integer >= 1 for a function": lambda: Window(jnp.sin),
    "ValueError: layer 'a': Layer: weight['b'] of shape": lambda: Network(BACK)(X),
    "ValueError: layer 'a': Layer: weight['b'] gives a current of shape (3, 2), weight['input'] "
    "one of": (
        lambda: Network(
            {"b": Layer(W, LIF(), of="input"), "a": Layer({"input": W, "b": HALF}, LIF())}
        )(X)
    ),
    "TypeError: join 'j': Join: function must return one array of floats with the examples in "
    "front": (lambda: Network({"a": L, "j": Join(lambda a: a.sum(), "a")})(X)),
    "ValueError: 'a', 'b' read only each other and no inputs": lambda: Network(ONLY_EACH_OTHER)(X),
    "TypeError: inputs must be a dict of arrays with the keys ['x', 'y']": (
        lambda: Network(X_AND_Y, inputs=("x", "y"))(X)
    ),
    "ValueError: all inputs must agree in steps and examples": (
        lambda: Network(X_AND_Y, inputs=("x", "y"))({"x": X, "y": X[:3]})
    ),
    "ValueError: layers must be names of": lambda: named().observe(X, layers=["x"]),
    "ValueError: parts must be names of ['output', 'pre_spike', 'current']": lambda: (
        named().observe(X, parts=["u"])
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_graphs_that_are_refused(message):
    assert_raises(REFUSED[message], message)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("of_mesh", "masked"), [("auto", False), ("auto", True), ("explicit", True)]
)
@pytest.mark.every  # by default those of test_sharding.py
def test_a_sharded_batch_of_a_graph(of_mesh, masked):
    """Delays, a loop, and a join over time."""
    x = jnp.tile(X, (1, 4, 1))[:, :8]
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=x.shape[:2]) < 0.7) if masked else None
    centred = Join(lambda x, mask=None: x - x.mean((0, 1), keepdims=True), "b", over_time=True)
    nodes = {name: node for name, node in looped().layers.items() if name != "out"}
    network = Network(
        nodes | {"centred": centred, "out": Layer(V, LeakyReadout(0.9))}, outputs=("out", "gate")
    )

    @jax.jit
    def run(x, mask):
        return jax.grad(lambda x: (network(x, mask=mask)[1]["out"] ** 2).sum())(x)

    wanted = run(x, mask)
    kind = (
        getattr(jax.sharding.AxisType, of_mesh.capitalize())
        if hasattr(jax.sharding, "AxisType")
        else None
    )
    mesh = jax.make_mesh((4,), ("batch",), **({} if kind is None else {"axis_types": (kind,)}))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "batch"))
    given = jax.device_put(x, spec), None if mask is None else jax.device_put(mask, spec)
    np.testing.assert_allclose(run(*given), wanted, rtol=1e-5, atol=1e-6)


def test_a_graph_that_is_drawn():
    (axes,) = graph(looped()).axes
    texts = [text.get_text() for text in axes.texts]
    assert {"a\nLIF", "b\nLIF", "out\nLeakyReadout", "gate", "input", "2", "5", "0-1"} <= {*texts}
    assert all(axes.viewLim.contains(*text.get_position()) for text in axes.texts)
    # Only lines to the next column are straight. Others would cross the nodes in between.
    arrows = [text.arrow_patch for text in axes.texts if not text.get_text()]
    bends = [arrow.get_connectionstyle().rad != 0 for arrow in arrows]
    assert bends == [False, True, False, True, True, False, False]


def test_what_must_run_step_by_step():
    """A loop, unless its delays are as long as a chunk: then all that it reads is known when the
    chunk starts.
    """
    network = looped()  # b reads a by way of the gate, a reads b two steps later
    assert sorted(map(len, network.graph.components(chunk=3))) == [1, 3]
    assert sorted(map(len, network.graph.components(chunk=2))) == [1, 1, 1, 1]


@pytest.mark.slow
def test_compiler_does_not_sort_a_constant_mask():
    """A delay sorts the mask. The program of a constant mask does this at run time too."""
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=shape)) for shape in ((2, 3), (3, 3))]
    x, mask = jnp.ones((12, 2, 2)), jnp.arange(12)[:, None] < jnp.array([[12, 7]])

    def run(weights, mask):
        layer = Layer({"input": weights[0], "a": Delayed(weights[1], 2)}, LIF(0.5))
        return Network({"a": layer})(x, mask=mask)[1].sum()

    gradient = jax.grad(run)
    lowered = (
        jax.jit(gradient).lower(weights, mask),
        jax.jit(functools.partial(gradient, mask=mask)).lower(weights),
    )
    sorts = [len(re.findall(r" sort\(", program.compile().as_text())) for program in lowered]
    assert sorts[0] == sorts[1] > 0


def test_layers_that_states_leave_out_start_at_rest():
    network = named()
    ends = network(X)[0]
    states, out = network(X, {"hidden": ends["hidden"]})
    expected = network(X, network.initial_state(X[0]) | {"hidden": ends["hidden"]})
    jax.tree.map(np.testing.assert_array_equal, (states, out), expected)
    assert not np.array_equal(out, network(X)[1])
    _, by_step = network.step({"hidden": ends["hidden"]}, X[0])
    np.testing.assert_allclose(by_step, out[0], rtol=1e-5)


@pytest.mark.slow
def test_parts_and_layers_that_are_observed():
    network = looped()
    _, activity = network.observe(X, layers=["gate", "b"], parts=["current"])
    assert [*activity] == ["gate", "b"]
    assert activity["gate"] == (None, None, None)
    assert activity["b"].output is None
    assert activity["b"].pre_spike is None
    assert activity["b"].current.shape == X.shape
    for name in ("gate", "b"):
        with pytest.raises(
            ValueError,
            match="potential is missing; observe a layer with 'pre_spike' among the parts",
        ):
            activity[name].potential  # noqa: B018


def test_components_of_random_graphs():
    """Two nodes are in one component if each reaches the other, and no component comes before one
    that it reads.
    """
    for seed in range(200):
        rng = np.random.default_rng(seed)
        names = [str(n) for n in rng.permutation(int(rng.integers(1, 9)))]
        reads = rng.random((len(names),) * 2) < rng.random() / 2
        sources = {a: [b for j, b in enumerate(names) if reads[i, j]] for i, a in enumerate(names)}
        reached = reads | np.eye(len(names), dtype=bool)
        for _ in names:  # the closure by squaring: paths of any length
            reached = reached @ reached
        together = reached & reached.T
        expected = {
            tuple(b for j, b in enumerate(names) if together[i, j]) for i in range(len(names))
        }
        components = strongly_connected(sources)
        assert {*components} == expected
        assert len(components) == len(expected)
        known = set()
        for component in components:
            known |= {*component}
            assert all({*sources[name]} <= known for name in component)


def test_a_chain_longer_than_pythons_stack():
    layers = [Layer(W, LIF(0.8))] * 1200
    network = Network(layers)
    assert network.graph.components() == [(str(n),) for n in range(1200)]
    loop = Network(
        [Layer({"input": W, "1199": Delayed(W, 1)}, LIF(0.8)), *layers[1:]], outputs="1199"
    )
    assert [*map(len, loop.graph.components())] == [1200]


@pytest.mark.every  # a minute
def test_a_long_chain_is_traced_and_drawn():
    network = Network.init(jax.random.key(0), UNITS, [UNITS] * 1200, LIF(0.8), rate=0.1)
    assert network.layers[-1].weight.std() > 0
    gradient = jax.jit(jax.grad(lambda network: network(X)[1].sum())).trace(network)
    assert len(jax.tree.leaves(gradient.out_info)) == 1200


def test_a_network_builds_its_graph_once():
    network = named()
    assert network.graph is network.graph
    # Networks with other arrays or numbers have graphs of their own.
    others = (
        jax.tree.map(lambda x: 2 * x, network),
        as_arrays(network),
        pickle.loads(pickle.dumps(network)),
    )
    for other in (*others, dataclasses.replace(network, inputs="x")):
        assert other.graph is not network.graph
        assert all(other.graph.nodes[name] is other.layers[name] for name in other.layers)
