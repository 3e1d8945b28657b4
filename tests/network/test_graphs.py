"""Networks as graphs, against a loop in Python that knows nothing of chunks, order or what is kept."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GRADIENT_ERRORS, MODES, assert_runs_agree, derivatives, few
from networks import observed, truncated_options

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Backward,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    Window,
    measure,
    signed,
    soft,
    stochastic,
)
from spikegrad.inspect.plot import graph
from spikegrad.network import match_widths
from spikegrad.neurons import Refractory

STEPS, BATCH, UNITS = 6, 3, 3
CELLS = {
    "LIF": LIF(0.8, 0.6),
    "adaptive": AdaptiveLIF(0.7, 0.5, adaptation=0.3, adaptation_decay=0.9),
    "synaptic": SynapticLIF(0.8, 0.6),
    "readout": LeakyReadout(0.7),
    "soft": LIF(0.9, 0.5, surrogate=soft(Sigmoid(2.0))),
    "signed": LIF(0.9, 0.5, surrogate=signed(Arctan(2.0))),
    "refractory": Refractory(LIF(0.8, 0.4), 2),
}
JOINS = {
    "add": lambda *x: sum(x),
    "gate": lambda a, *b: a * (1 - sum(b) / 2),
    "tanh": lambda *x: jnp.tanh(sum(x)),
}
INPUTS = ("x", "y")
RUNS = [
    {},
    {"backward": Backward(chunk=1)},
    {"backward": Backward(chunk=4)},
    {"backward": Backward("recompute", segment=4, chunk=2)},
    {"backward": Backward(segment=2, chunk=2)},
    {"backward": "scan"},
    {"backward": "half"},
    {"backward": Backward("8-bit", chunk=3)},
]


class Spec:
    """A random graph in plain data: entries in an order in which each reads earlier ones without a delay."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.nodes, self.params = {}, {}
        names = [f"n{k}" for k in rng.permutation(int(rng.integers(2, 9)))]
        for n, name in enumerate(names):
            earlier = [*INPUTS, *names[:n]]
            if n and rng.uniform() < 0.25:
                sources = rng.choice(earlier, size=min(len(earlier), int(rng.integers(1, 4))), replace=False)
                self.nodes[name] = ("join", str(rng.choice([*JOINS])), [str(source) for source in sources])
                continue
            # at least one edge without a delay, from anywhere before; more of any kind, from anywhere
            edges = {str(rng.choice(earlier)): ("plain", 0)}
            for source in rng.choice([*INPUTS, *names], size=int(rng.integers(0, 4)), replace=False):
                known = str(source) in earlier
                kinds = ["plain", "window", "function", "delayed"] if known else ["delayed", "window later"]
                edges.setdefault(str(source), (str(rng.choice(kinds)), int(rng.integers(1, 6))))
            self.nodes[name] = ("layer", str(rng.choice([*CELLS])), edges)
            for source, (kind, lag) in edges.items():
                shape = (lag, UNITS, UNITS) if kind.startswith("window") else (UNITS, UNITS)
                self.params[f"{name} of {source}"] = rng.normal(0.2, 0.7, shape)
            if rng.uniform() < 0.5:
                self.params[f"{name} bias"] = rng.normal(0, 0.2, UNITS)
        self.outputs = tuple(rng.choice(names, size=int(rng.integers(1, len(names) + 1)), replace=False).tolist())
        self.x = {name: rng.uniform(0, 1.5, (STEPS, BATCH, UNITS)) for name in INPUTS}
        self.mask = None if rng.uniform() < 0.4 else rng.uniform(size=(STEPS, BATCH)) < 0.7
        self.truncate = None if rng.uniform() < 0.6 else int(rng.integers(2, 6))
        self.run = rng.permutation(len(RUNS))

    def given(self):
        return {"params": jax.tree.map(jnp.asarray, self.params), "x": jax.tree.map(jnp.asarray, self.x)}

    def network(self, params):
        def weight(name, source, kind, lag):
            w = params[f"{name} of {source}"]
            made = {
                "plain": lambda: w,
                "delayed": lambda: Delayed(w, lag),
                "window": lambda: Window(w),
                "window later": lambda: Window(w, delay=1),
                "function": lambda: Window(lambda past: mixed(past) @ w, lag + 1),
            }
            return made[kind]()

        layers = {}
        for name, (kind, what, sources) in self.nodes.items():
            if kind == "join":
                layers[name] = Join(JOINS[what], sources)
            else:
                weights = {source: weight(name, source, *edge) for source, edge in sources.items()}
                layers[name] = Layer(weights, CELLS[what], bias=params.get(f"{name} bias"))
        return Network(layers, inputs=INPUTS, outputs=self.outputs)


def mixed(past):
    """A function of a window that is not linear, so that its derivative depends on the outputs."""
    return jnp.sin(sum((k + 1) * one for k, one in enumerate(past)))


def by_network(spec, given, **options):
    network = spec.network(given["params"])
    return observed(network, given["x"], mask=spec.mask, **truncated_options(options, spec.truncate))


def by_hand(spec, given):
    """One step after the other. Each source has a list of all that it put out, the latest first."""
    zero = jnp.zeros((BATCH, UNITS))
    params, deepest = given["params"], 8
    layers = {name: CELLS[what] for name, (kind, what, _) in spec.nodes.items() if kind == "layer"}
    states = {name: cell.initial_state(zero.shape, zero.dtype) for name, cell in layers.items()}
    past = {name: [zero] * deepest for name in (*INPUTS, *spec.nodes)}
    window, collected = np.zeros(BATCH, int), []
    for t in range(STEPS):
        active = np.ones(BATCH, bool) if spec.mask is None else spec.mask[t]
        keep = functools.partial(jnp.where, active[:, None])
        held = states, past
        if spec.truncate:
            cut = window < t // spec.truncate
            states, past = jax.tree.map(functools.partial(without_derivative, cut), held)
            window = np.where(active, t // spec.truncate, window)
        now = {name: given["x"][name][t] for name in INPUTS}
        before = {}
        new = dict(states)
        for name, (kind, what, sources) in spec.nodes.items():
            if kind == "join":
                now[name] = JOINS[what](*[now[source] for source in sources])
                continue
            current = zero + params.get(f"{name} bias", jnp.zeros(UNITS))[None]
            for source, (edge, lag) in sources.items():
                w = params[f"{name} of {source}"]
                recent = [now.get(source), *past[source]]
                if edge == "plain":
                    current = current + recent[0] @ w
                elif edge == "delayed":
                    current = current + recent[lag] @ w
                elif edge == "function":
                    current = current + mixed(recent[: lag + 1]) @ w
                else:
                    first = 1 if edge == "window later" else 0
                    current = current + sum(recent[first + k] @ w[k] for k in range(lag))
            before[name] = layers[name].integrate(states[name], current)
            new[name], now[name] = layers[name].fire(before[name])
        shifted = {name: [now[name], *past[name][:-1]] for name in past}
        states, past = jax.tree.map(keep, (new, shifted), held)
        shown = {name: now[name] for name in spec.nodes}, before
        collected.append(jax.tree.map(lambda a, keep=keep: keep(a, jnp.zeros_like(a)), shown))
    outs, before = jax.tree.map(lambda *steps: jnp.stack(steps), *collected)
    return states, outs, before


def without_derivative(where, a):
    return jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), jax.lax.stop_gradient(a), a)


def comparable(spec, found):
    """Cells' states without last outputs and pasts, which the loop by hand does not have."""
    states, outs, before = found
    layers = [name for name, (kind, *_) in spec.nodes.items() if kind == "layer"]
    return {name: states[name][0] for name in layers}, dict(outs), dict(before)


@pytest.mark.parametrize("seed", few(range(300), 2))
def test_random_graphs(seed, x64):
    if seed % 20 == 0:
        jax.clear_caches()  # hundreds of compiled graphs exceed what one process may map
    spec = Spec(seed)

    def run(given, **options):
        return comparable(spec, by_network(spec, given, **options))

    assert_runs_agree(run, functools.partial(by_hand, spec), spec.given(), [RUNS[n] for n in spec.run[:2]])


# --- one network said in several ways -----------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0, 1.5, (12, BATCH, UNITS)), jnp.float32)
W, R, V = (jnp.asarray(RNG.normal(0.2, 0.7, (UNITS, UNITS)), jnp.float32) for _ in range(3))


def chain():
    return Network([Layer(W, LIF(0.8), recurrent=R), Layer(V, LeakyReadout(0.9))])


def named(**first):
    first = first or {"recurrent": R}
    return Network({"hidden": Layer(W, LIF(0.8), **first), "out": Layer(V, LeakyReadout(0.9))})


def squared(network, x=X, **options):
    return (network(x, **options)[1] ** 2).sum()


@pytest.mark.parametrize("mode", few(MODES, "exact", "8-bit"))
def test_a_list_is_a_chain(mode):
    (states, out), (by_name, same) = chain()(X, backward=mode), named()(X, backward=mode)
    np.testing.assert_array_equal(out, same)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, [*states.values()], [*by_name.values()]))
    found = jax.tree.leaves(jax.grad(squared)(chain(), backward=mode))
    for a, b in zip(found, jax.tree.leaves(jax.grad(squared)(named(), backward=mode)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["exact", "scan"])
def test_a_delay_of_one_step_onto_itself_is_recurrent(mode):
    loop = named(recurrent=Delayed(R, 1))
    np.testing.assert_array_equal(named()(X, backward=mode)[1], loop(X, backward=mode)[1])
    as_source = Network(
        {"hidden": Layer({"input": W, "hidden": Delayed(R, 1)}, LIF(0.8)), "out": Layer(V, LeakyReadout(0.9))}
    )
    np.testing.assert_array_equal(named()(X, backward=mode)[1], as_source(X, backward=mode)[1])


def test_the_order_of_entries_changes_nothing():
    entries = {"a": Layer(W, LIF(0.8), of="input"), "b": Layer({"a": R, "input": V}, LIF(0.8))}
    other = {"b": Layer({"input": V, "a": R}, LIF(0.8)), "a": Layer(W, LIF(0.8), of="input")}
    first, second = (Network(layers, outputs="b") for layers in (entries, other))
    np.testing.assert_array_equal(first(X)[1], second(X)[1])


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
    network = Network({"z": Layer(w, LIF()), "b": Layer(2 * w, LIF()), "a": Layer(w, LeakyReadout())})
    again = jax.tree.map(lambda leaf: leaf, network)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(network)]
    assert [*network.layers] == [*again.layers] == ["z", "b", "a"]
    assert paths == [".layers['z'].weight", ".layers['b'].weight", ".layers['a'].weight"]
    assert Network(network.layers) == network
    assert network.graph.outputs == ("a",)
    assert network.layers[-1] is network.layers["a"]
    assert [*(network.layers | {"b": network.layers["z"]})] == ["z", "b", "a"]


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
    np.testing.assert_allclose(value, loss(network), rtol=1e-6)
    # a layer without a weight leaks the sum of both layers
    _, outs, _ = observed(network, x)
    v = np.zeros((BATCH, UNITS))
    for t in range(STEPS):
        v = 0.9 * v + np.asarray(outs["stem"][t]) + np.asarray(outs["deep"][t])
        np.testing.assert_allclose(outs["out"][t], v, rtol=1e-5)


def test_step_gives_what_a_call_gives():
    network = looped()
    states, outs = network(X)
    now, step = network.initial_state(X[0]), jax.jit(network.step)
    for t, x in enumerate(X):
        now, out = step(now, x)
        assert jax.tree.all(jax.tree.map(lambda a, b, t=t: bool((a == b[t]).all()), out, outs))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), states, now)


def test_graphs_are_compared_and_hashed_by_value():
    def make(scale=1.0):
        weights = {"input": jnp.array(W), "a": Delayed(scale * R, 1)}
        return Network({"a": Layer(weights, LIF(0.8)), "sum": Join(jnp.add, ("a", "input"))})

    graph, other = make(), make()
    assert graph == other
    assert hash(graph) == hash(other)
    assert graph != make(scale=2.0)
    outs = jax.jit(graph)(X)[1]  # jit hashes the function
    np.testing.assert_allclose(outs, graph(X)[1], rtol=1e-6)


@pytest.mark.parametrize("cut", few([1, 4, 11], 4))
def test_a_call_can_be_cut_in_two(cut):
    network = looped()

    def halves(x):
        states, before = network(x[:cut])
        states, after = network(x[cut:], states)
        return states, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), before, after)

    (whole, gradient), (parts, summed) = derivatives(network, X), derivatives(halves, X)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), whole, parts)
    np.testing.assert_allclose(summed, gradient, rtol=1e-5, atol=1e-5)


def test_loop_through_a_join():
    """The layer before the join reads only delayed outputs of the loop, so its matrix gives the shape of these."""
    rng = np.random.default_rng(3)
    w, r = (jnp.asarray(rng.normal(0, 0.8, (UNITS, UNITS)), jnp.float32) for _ in range(2))
    back = Layer(Delayed(r, 2), LIF(0.7), of="a")
    joined = Network({"sum": Join(lambda x, b: x + b, ("input", "b")), "a": Layer(w, LIF(0.8)), "b": back}, outputs="a")
    summed = Network({"a": Layer({"input": w, "b": w}, LIF(0.8)), "b": back}, outputs="a")
    want = summed(X)[1]
    assert want.mean() > 0.1
    for mode in ("exact", "scan"):
        np.testing.assert_array_equal(joined(X, backward=mode)[1], want)


def test_join_within_a_loop_is_zero_in_masked_steps():
    """Its outputs would be those of the bias and of the padding."""
    rng = np.random.default_rng(3)
    w, r = (jnp.asarray(rng.normal(0, 0.8, (UNITS, UNITS)), jnp.float32) for _ in range(2))
    back = Layer(Delayed(r, 2), LIF(0.7), of="a")
    nodes = {"sum": Join(lambda x, b: x + b + 1, ("input", "b")), "a": Layer(w, LIF(0.8)), "b": back}
    network = Network(nodes, outputs="a")
    mask = np.arange(len(X))[:, None] < np.resize([len(X), len(X) - 3], X.shape[1])
    out = np.asarray(observed(network, X, mask=mask)[1]["sum"])
    assert not out[~mask].any()
    assert out[mask].all()


def test_networks_side_by_side():
    scales = jnp.asarray([0.5, 1.0, 1.5])
    several = jax.vmap(lambda s: looped()(s * X)[1]["out"])(scales)
    np.testing.assert_allclose(several[1], looped()(X)[1]["out"], rtol=1e-6)


@pytest.mark.parametrize("mode", few(MODES, "exact", "recompute"))
def test_networks_that_share_a_layer(mode):
    """The shared outputs have no batch axis, and a term of the loss reads them."""
    x, weights = jnp.ones((STEPS, BATCH, UNITS)), jnp.arange(1.0, 5.0)[:, None, None] * W[None]

    def loss(shared, each):
        network = Network([Layer(shared, LIF(0.5, 0.5)), Layer(each, LeakyReadout(0.5))])
        spikes, out = observed(network, x, backward=mode)[1].values()
        return (out**2).mean() + spikes.sum()

    got = jax.grad(lambda shared, all_: jax.vmap(loss, (None, 0))(shared, all_).sum(), (0, 1))(V, weights)
    one_by_one = [jax.grad(loss, (0, 1))(V, each) for each in weights]
    expected = sum(shared for shared, _ in one_by_one), jnp.stack([each for _, each in one_by_one])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, expected)
    assert jnp.abs(expected[0]).max() > 0.1


def test_parts_have_names():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(looped())]
    assert ".layers['a'].weight['b'].weight" in paths
    assert ".layers['out'].weight" in paths


def test_keys_of_graphs():
    cell = LIF(0.8, surrogate=stochastic(Sigmoid(2.0)))
    network = Network({"a": Layer({"input": W, "b": Delayed(R, 3)}, cell), "b": Layer(V, cell, of="a")})
    key = jax.random.key(1)

    def run(**options):
        def loss(x):
            out = network(x, key=key, **options)[1]
            return (out**2).sum(), out

        return jax.jit(jax.grad(loss, has_aux=True))(X)

    gradient, spikes = run()
    for options in ({"backward": "scan"}, {"backward": "8-bit"}, {"backward": Backward(chunk=5)}):
        found, out = run(**options)
        np.testing.assert_array_equal(out, spikes)
        if options != {"backward": "8-bit"}:
            np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-5)


# --- errors that name the nodes -----------------------------------------------------------------------------------

L = Layer(W, LIF(0.8))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Network({"a": Layer({"b": W}, LIF()), "b": Layer(W, LIF(), of="a")}), ValueError, "'a' -> 'b' -> 'a'"),
        (lambda: Network({"a": Layer({"input": W, "a": R}, LIF())}), ValueError, "'a' -> 'a' form a cycle"),
        (lambda: Network({"a": Layer({"x": W}, LIF())}), ValueError, "'a' reads 'x', which is not one of 'input', 'a'"),
        (lambda: Network({"a": L, "j": Join(jnp.add, ("a", "c"))}), ValueError, "'j' reads 'c', which is not one of"),
        (lambda: Network({"input": L}), ValueError, "'input' names both an entry and inputs"),
        (lambda: Network({"a": L}, outputs="b"), ValueError, r"outputs must be names of \['a'\], got 'b'"),
        (
            lambda: Network({"b": Layer(R, LIF(), of="a"), "a": Layer(W, LIF(), of="input")}),
            ValueError,
            "the last entry 'a' is the output by default, but 'b' reads it in the same step; name the outputs",
        ),
        (lambda: Network({"a": L}, inputs=("x", "x")), ValueError, "inputs must be different names"),
        (lambda: Network({"a": L}, inputs=("x", "y")), ValueError, "'a' must name one source of"),
        (lambda: Network({1: L}), TypeError, "names of layers must be strings, got 1"),
        (lambda: Network({"a": W}), TypeError, "layers must be one or more Layer objects"),
        (lambda: Network([L], outputs="a"), ValueError, "outputs must be names of"),
        (lambda: Network([L], outputs=()), TypeError, "outputs must be a name or names"),
        (lambda: Layer({"a": W}, LIF(), of="a"), ValueError, "weight names the sources"),
        (lambda: Layer({}, LIF()), TypeError, "must have names of sources as keys"),
        (lambda: Delayed(W, 0), ValueError, "Delayed: delay must be >= 1, got 0"),
        (lambda: Delayed(None, 1), TypeError, "Delayed: weight must be a matrix or callable"),
        (lambda: Window(W), TypeError, r"Window: weight must be of shape \(length, inputs, neurons\)"),
        (lambda: Window(jnp.sin), TypeError, "Window: length must be an integer for a function, got None"),
        (lambda: Window(jnp.sin, 0), ValueError, "Window: length must be >= 1, got 0"),
        (lambda: Window(W[None], 2), ValueError, "Window: length must equal the length of the array, 1, got 2"),
        (lambda: Join(3, ("a",)), TypeError, "Join: function must be callable, got 3"),
        (lambda: Join(jnp.add, ()), TypeError, "Join: of must name one or more sources"),
        (
            lambda: Network({"a": Layer({"input": W, "b": Delayed(R, 1)}, LIF()), "b": Layer(V[:, :2], LIF(), of="a")})(
                X
            ),
            ValueError,
            "layer 'a': Layer: weight.* of shape",
        ),
        (
            lambda: Network(
                {"a": Layer({"input": W, "b": W[:, :2]}, LIF()), "b": Layer(W, LIF(), of="input")}, outputs="a"
            )(X),
            ValueError,
            r"Network: layer 'a': Layer: weight\['b'\] gives a current of shape \(3, 2\), weight\['input'\] one of",
        ),
        (
            lambda: Network({"a": L, "j": Join(lambda a: a.sum(), "a")})(X),
            TypeError,
            "join 'j': Join: function must return one array of floats with the examples in front",
        ),
        (
            lambda: Network({"a": Layer({"b": Delayed(W, 1)}, LIF()), "b": Layer({"a": Delayed(W, 1)}, LIF())})(X),
            ValueError,
            "'a', 'b' read only each other and no inputs",
        ),
        (
            lambda: Network({"a": Layer(Window(lambda x: x[0] @ W, 30), LIF())})(X),
            ValueError,
            "'a' reads a window of 30 outputs of 'input', longer than the 12 steps",
        ),
        (lambda: Network({"a": L}, inputs=("x", "y"))(X), ValueError, "'a' must name one source of"),
        (
            lambda: Network({"a": Layer({"x": W, "y": W}, LIF())}, inputs=("x", "y"))(X),
            TypeError,
            r"inputs must be a dict of arrays with the keys \['x', 'y'\]",
        ),
        (
            lambda: Network({"a": Layer({"x": W, "y": W}, LIF())}, inputs=("x", "y"))({"x": X, "y": X[:3]}),
            ValueError,
            "all inputs must agree in steps and examples",
        ),
        (lambda: named()(X, [1]), TypeError, "states must be a mapping"),
        (lambda: named().observe(X, layers=["x"]), ValueError, "layers must be names of"),
    ],
)
def test_bad_graphs(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_widths_of_graphs():
    network = Network(
        {"a": Layer(W, LIF(0.8, surrogate=Arctan(3.0))), "j": Join(jnp.tanh, "a"), "out": Layer(V, LeakyReadout())}
    )
    matched = match_widths(network, X)
    _, _, before = observed(matched, X)
    width = measure(matched.layers["a"].cell.surrogate).half_width
    assert width == pytest.approx(float((before["a"] - 1).std()), rel=1e-4)


@pytest.mark.parametrize(
    ("of_mesh", "masked"),
    [
        pytest.param("auto", False, marks=pytest.mark.every),
        ("auto", True),
        ("explicit", False),
        pytest.param("explicit", True, marks=pytest.mark.every),
    ],
)
def test_a_sharded_batch_of_a_graph(of_mesh, masked):
    x = jnp.tile(X, (1, 4, 1))[:, :8]
    mask = jnp.asarray(np.random.default_rng(1).uniform(size=x.shape[:2]) < 0.7) if masked else None
    network = looped()

    @jax.jit
    def run(x, mask):
        return jax.grad(lambda x: (network(x, mask=mask)[1]["out"] ** 2).sum())(x)

    wanted = run(x, mask)
    kind = getattr(jax.sharding.AxisType, of_mesh.capitalize()) if hasattr(jax.sharding, "AxisType") else None
    mesh = jax.make_mesh((4,), ("batch",), **({} if kind is None else {"axis_types": (kind,)}))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "batch"))
    given = jax.device_put(x, spec), None if mask is None else jax.device_put(mask, spec)
    np.testing.assert_allclose(run(*given), wanted, rtol=1e-5, atol=1e-6)


def test_a_graph_that_is_drawn():
    figure = graph(looped())
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"a\nLIF", "b\nLIF", "out\nLeakyReadout", "gate", "input", "2", "5", "0-1"} <= {*texts}


def test_what_must_run_step_by_step():
    """A loop, unless its delays are as long as a chunk: then all that it reads is known when the chunk starts."""
    network = looped()  # b reads a by way of the gate, a reads b two steps later
    assert sorted(map(len, network.graph.components(chunk=3))) == [1, 3]
    assert sorted(map(len, network.graph.components(chunk=2))) == [1, 1, 1, 1]


def test_compiler_does_not_sort_a_constant_mask():
    """A delay sorts the mask. The program of a constant mask does this at run time too."""
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=shape)) for shape in ((2, 3), (3, 3))]
    x, mask = jnp.ones((12, 2, 2)), jnp.arange(12)[:, None] < jnp.array([[12, 7]])

    def loss(weights, mask):
        layer = Layer({"input": weights[0], "a": Delayed(weights[1], 2)}, LIF(0.5))
        return jnp.sum(Network({"a": layer})(x, mask=mask)[1])

    argument = jax.jit(jax.grad(loss)).lower(weights, mask).compile()
    constant = jax.jit(jax.grad(lambda weights: loss(weights, mask))).lower(weights).compile()
    sorts = [len(re.findall(r" sort\(", program.as_text())) for program in (argument, constant)]
    assert sorts[0] == sorts[1] > 0


@pytest.mark.parametrize("mode", few(MODES, "exact", "scan"))
def test_layers_that_states_leave_out_start_at_rest(mode):
    network = named()
    rest, ends = network.initial_state(X[0]), network(X)[0]
    for start in ({"hidden": ends["hidden"]}, rest | {"hidden": ends["hidden"]}):
        states, out = network(X, start, backward=mode)
        expected = network(X, dict(rest) | {"hidden": ends["hidden"]})
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), (states, out), expected)
    assert not np.array_equal(out, network(X)[1])
    _, by_step = network.step({"hidden": ends["hidden"]}, X[0])
    np.testing.assert_allclose(by_step, out[0], rtol=1e-5)


@pytest.mark.parametrize("mode", few(MODES, "exact", "8-bit", "scan"))
def test_observed_currents_and_their_gradients(mode):
    """A current is the products and the bias of a step. Its gradient passes to all that it is made of."""
    inputs, bias = jnp.asarray(RNG.normal(size=X.shape)), jnp.linspace(-0.2, 0.2, UNITS)
    mask = jnp.arange(len(X))[:, None] < jnp.asarray([[12, 9, 5]])

    def observe(w, r):
        layers = {"hidden": Layer(w, LIF(0.8), r, bias), "out": Layer({"hidden": Delayed(V, 2)}, LeakyReadout(0.9))}
        return Network(layers).observe(inputs, mask=mask, backward=mode)[1]

    def by_steps(w, r):
        v, s, currents = jnp.zeros((BATCH, UNITS)), jnp.zeros((BATCH, UNITS)), []
        for x, active in zip(inputs, mask, strict=True):
            current = x @ w + bias[None] + s @ r
            currents.append(jnp.where(active[:, None], current, 0))
            after = LIF(0.8)(v, current)
            v, s = (jnp.where(active[:, None], a, b) for a, b in zip(after, (v, s), strict=True))
        return jnp.stack(currents)

    activity = observe(W, R)
    np.testing.assert_allclose(activity["hidden"].current, by_steps(W, R), rtol=1e-5, atol=1e-5)
    delayed = jnp.zeros_like(X).at[2:].set(activity["hidden"].output[:-2] @ V)
    delayed = jnp.where(mask[..., None], delayed, 0)
    np.testing.assert_allclose(activity["out"].current, delayed, rtol=1e-5, atol=1e-5)
    got = jax.grad(lambda w, r: (observe(w, r)["hidden"].current ** 2).sum(), (0, 1))(W, R)
    expected = jax.grad(lambda w, r: (by_steps(w, r) ** 2).sum(), (0, 1))(W, R)
    for a, b in zip(got, expected, strict=True):
        assert np.linalg.norm(a - b) < GRADIENT_ERRORS.get(mode, 1e-5) * np.linalg.norm(b)
    plain = Network([Layer(W, LIF(0.8), R, bias)])
    np.testing.assert_array_equal(plain(inputs, mask=mask)[1], activity["hidden"].output)


def test_parts_and_layers_that_are_observed():
    network = looped()
    _, activity = network.observe(X, layers=["gate", "b"], parts=["current"])
    assert [*activity] == ["gate", "b"]
    assert activity["gate"] == (None, None, None)
    assert activity["b"].output is None
    assert activity["b"].pre_spike is None
    assert activity["b"].current.shape == X.shape
    for name in ("gate", "b"):
        with pytest.raises(ValueError, match="potential is missing; observe a layer with 'pre_spike' among the parts"):
            activity[name].potential  # noqa: B018
    with pytest.raises(ValueError, match=r"Network: parts must be names of \['output', 'pre_spike', 'current'\]"):
        network.observe(X, parts=["potential"])
