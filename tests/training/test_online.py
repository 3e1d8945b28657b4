"""Gradients forward in time, against backpropagation through a plain loop with the other
paths cut.
"""

import dataclasses
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import few
from jax.lax import stop_gradient

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Backward,
    Cell,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    ReluGrad,
    Sigmoid,
    SynapticLIF,
    Window,
    parameter,
    stochastic,
)
from spikegrad.integers import Fixed, FixedLIF, Loihi
from spikegrad.neurons import MPBN, AdLIF, MultiSynapticLIF, Refractory
from spikegrad.training import Checkpoints, Online, State, combine, fit, partition

pytestmark = pytest.mark.newest

STEPS, BATCH, INPUTS = 6, 2, 3


class Cubic(Cell):
    """A cell of a user, with an array."""

    pull: float = parameter(default=0.1, at_least=0)

    def integrate(self, v, current):
        return v - self.pull * v * v * v + current

    def fire(self, u, key=None):
        s = Sigmoid()(u - 1, key=key)
        return u - s, s


CELLS = {
    "LIF": lambda n: LIF(0.8, 0.6, Arctan(2.0)),
    "detached": lambda n: LIF(0.8, 0.6, Arctan(2.0), detach_reset=True),
    "decays": lambda n: LIF(jnp.asarray(np.linspace(0.5, 0.9, n)), 0.6, Arctan(2.0), "value"),
    "synaptic": lambda n: SynapticLIF(0.8, 0.6, Arctan(2.0), synaptic_decay=0.7),
    "adaptive": lambda n: AdaptiveLIF(
        jnp.array(0.8),
        jnp.asarray(np.full(n, 0.6)),
        Arctan(2.0),
        adaptation=0.2,
        adaptation_decay=0.9,
    ),
    "AdLIF": lambda n: AdLIF(threshold=0.3),
    "refractory": lambda n: Refractory(LIF(jnp.array(0.8), 0.6, Arctan(2.0)), 2),
    "user": lambda n: Cubic(jnp.asarray(np.full((1, n), 0.3))),
    "readout": lambda n: LeakyReadout(0.7, norm_input=True),
}
OTTT = {  # the reset of OTTT has no derivative
    "detached": CELLS["detached"],
    "delayed": lambda n: LIF(0.8, 0.6, Arctan(2.0), detach_reset=True, delay_reset=True),
    "synaptic": lambda n: SynapticLIF(0.8, 0.6, Arctan(2.0), detach_reset=True, synaptic_decay=0.7),
    "readout": CELLS["readout"],
}


def squares(outputs, target):
    return sum(((out - target) ** 2).sum() for out in jax.tree.leaves(outputs))


def random_network(seed, cells, leak=0.8):
    """Two or three layers with random edges, and a leaky readout that reads one or two of them."""
    r = np.random.default_rng(seed)

    def matrix(*shape):
        return jnp.asarray(r.normal(0.2, 0.8, shape))

    layers, sizes = {}, {"input": INPUTS}
    for name in [*"abc"[: r.integers(1, 4)], "out"]:
        n = int(r.integers(2, 5))
        cell = LeakyReadout(leak) if name == "out" else cells[r.choice([*cells])](n)
        below = list(sizes)
        sources = {below[-1], *map(str, r.choice(below, r.integers(1, 3)))}
        weight = {}
        for source in sorted(sources):
            w = matrix(sizes[source], n)
            delayed = r.random() < 0.25 and (source != below[-1] or name != "out")
            weight[source] = Delayed(w, int(r.integers(1, 4))) if delayed else w
        if r.random() < 0.2:
            weight[below[-1]] = Window(matrix(2, sizes[below[-1]], n))
        recurrent = [None, matrix(n, n), Delayed(matrix(n, n), 2)][r.integers(3)]
        layers[name] = Layer(weight, cell, recurrent, matrix(n) if r.random() < 0.5 else None)
        sizes[name] = n
    outputs = [None, ("out", [*sizes][1])][r.integers(2)]
    mask = [None, r.random((STEPS, BATCH)) < 0.7][r.integers(2)]
    x = jnp.asarray(r.random((STEPS, BATCH, INPUTS)) < 0.5, float)
    return Network(layers, outputs=outputs), x, mask, jnp.asarray(r.normal(size=STEPS)), sizes


def zero(x):
    return x - stop_gradient(x)


def backpropagation(online, x, targets, mask, sizes):
    """Return the loss and the gradients of each layer, with all paths cut that its rule does not
    take.

    A path goes through the state of the layer that learns, and from its output to the loss within a
    step. With e-prop it also goes through the state of a leaky readout that reads this layer. Reads
    of earlier steps are constants.
    """
    network, rule, feedback = online.network, online.rule, online.feedback
    numbers = {name: n for n, name in enumerate(network.layers)}
    fed_back = {name for matrices in feedback.values() for name in matrices}
    trainable, static = partition(network)

    def loss(trainable, learner):
        def cut(
            x, name, learns=True
        ):  # a constant unless this layer learns, or unless another one does
            is_live = (numbers.get(name) == learner) == learns
            return jax.tree.map(lambda x: jnp.where(is_live, x, stop_gradient(x)), x)

        graph = combine(trainable, static).graph

        def step(carry, now):
            states, past, total = carry
            (x, target, active), new = now, {}
            outputs = {"input": x}

            def hold(a, b):
                return jnp.where(active[:, None], a, b)

            for name, layer in graph.layers.items():
                direct = others = jnp.zeros(()) if layer.bias is None else layer.bias[None]
                for edge, weight in graph.connections(name):
                    (lag,) = edge.lags
                    read = past[edge.source][-lag] if lag else outputs[edge.source]
                    read = stop_gradient(read) if lag or edge.source in fed_back else read
                    direct = direct + cut(read, edge.source) @ weight
                    others = others + cut(read, edge.source, False) @ weight
                for source, matrix in feedback.get(name, {}).items():
                    direct = direct + zero(cut(outputs[source], source) @ matrix)
                    others = others + zero(cut(outputs[source], source, False) @ matrix)
                v, cell = states[name], layer.cell
                if rule == "eprop" and isinstance(cell, LeakyReadout):
                    after, out = cell.fire(cell.integrate(v, direct))
                    at_once = cell.fire(cell.integrate(stop_gradient(v), others))[1]
                    out = out + zero(cut(at_once, name, False))
                else:
                    current = direct + zero(cut(others, name, False))
                    after, out = cell.fire(cell.integrate(cut(v, name), current))
                new[name] = jax.tree.map(hold, after, v)
                outputs[name] = hold(out, 0.0)
            # masked steps do not count
            for name, old in past.items():
                past = past | {
                    name: jax.vmap(hold)(jnp.concatenate([old[1:], outputs[name][None]]), old)
                }
            chosen = {name: outputs[name] for name in network.graph.outputs}
            return (new, past, total + squares(chosen, target)), None

        entries = network.initial_state(x[0])
        states = {name: entries[name][0] for name in numbers}
        past = {name: jnp.zeros((4, BATCH, n)) for name, n in sizes.items()}
        active = jnp.ones((STEPS, BATCH), bool) if mask is None else jnp.asarray(mask)
        return jax.lax.scan(step, (states, past, jnp.zeros(())), (x, targets, active))[0][2]

    differentiate = jax.jit(jax.value_and_grad(loss))
    found = {name: differentiate(trainable, n) for name, n in numbers.items()}
    return found["out"][0], {name: gradients.layers[name] for name, (_, gradients) in found.items()}


def check(online, x, targets, mask, sizes, tolerance=1e-12):
    value, layers = backpropagation(online, x, targets, mask, sizes)
    _, got, gradients = jax.jit(
        lambda x: online.scan(online.start(x[0]), x, targets, squares, mask=mask)
    )(x)
    np.testing.assert_allclose(got, value, rtol=1e-12)
    assert jax.tree.structure(gradients) == jax.tree.structure(partition(online.network)[0])
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(layers))
    for name, wanted_of_layer in layers.items():
        for a, b in zip(
            jax.tree.leaves(gradients.layers[name]), jax.tree.leaves(wanted_of_layer), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * largest, err_msg=name)


CASES = [*itertools.product(range(100), ("eprop", "ottt"))]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "rule"), few(CASES, (2, "eprop"), (0, "ottt")), ids=str)
def test_random_networks(x64, seed, rule):
    network, x, mask, targets, sizes = random_network(seed, CELLS if rule == "eprop" else OTTT)
    feedback = None
    if seed % 3 == 2:
        names = [*network.graph.layers][:-1]
        r = np.random.default_rng(seed)
        feedback = {
            "out": {name: jnp.asarray(r.normal(size=(sizes[name], sizes["out"]))) for name in names}
        }
    check(Online(network, rule, feedback), x, targets, mask, sizes)


# all their numbers are sums of a few powers of two, so every order of a sum gives equal bits
EXACT = {
    "LIF": lambda n: LIF(0.5, 1.0, ReluGrad(1.0)),
    "decays": lambda n: LIF(jnp.array([0.25, 0.5])[jnp.arange(n) % 2], 1.0, ReluGrad(1.0), "value"),
    "synaptic": lambda n: SynapticLIF(0.5, 1.0, ReluGrad(1.0), synaptic_decay=0.25),
    "adaptive": lambda n: AdaptiveLIF(
        jnp.array(0.5), jnp.full(n, 0.75), ReluGrad(1.0), adaptation=0.25, adaptation_decay=0.5
    ),
    "refractory": lambda n: Refractory(LIF(jnp.array(0.5), 1.0, ReluGrad(1.0)), 2),
    "readout": lambda n: LeakyReadout(0.5, norm_input=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", few(range(10), 0))
def test_local_has_the_bits_of_backpropagation_within_a_step(x64, seed):
    network, x, mask, targets, _ = random_network(seed, EXACT, leak=0.5)
    trainable, static = partition(network)
    trainable, targets = jax.tree.map(
        lambda a: np.round(4 * np.asarray(a)) / 4, (trainable, targets)
    )

    def loss(trainable):
        outputs = combine(trainable, static)(x, mask=mask, backward=Backward(truncate=1))[1]
        return squares(outputs, targets[:, None, None])

    def local(trainable):
        return Online(combine(trainable, static), "local").loss(x, targets, squares, mask=mask)

    want, got = (jax.jit(jax.value_and_grad(f))(trainable) for f in (loss, local))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def shallow(rule="eprop", **changed):
    r = np.random.default_rng(0)
    w, recurrent, out = (
        jnp.asarray(r.normal(0.2, 0.8, shape), "float32") for shape in ((3, 4), (4, 4), (4, 2))
    )
    layers = {
        "hidden": Layer(w, LIF(0.8, 0.6), recurrent, jnp.zeros(4)),
        "out": Layer(out, LeakyReadout(0.8)),
    }
    x = jnp.asarray(r.random((STEPS, BATCH, INPUTS)) < 0.5, "float32")
    return Online(Network(layers | changed), rule), x, jnp.asarray(r.normal(size=STEPS), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["eprop", "ottt", "local"])
def test_a_stream_continues_with_equal_bits(rule, tmp_path):
    online, x, targets = shallow(rule)
    start = online.start(x[0])
    step = jax.jit(lambda carry, x, target: online.step(carry, x, target, squares))
    scan = jax.jit(lambda carry, x, targets: online.scan(carry, x, targets, squares))
    carry, saved, total, outputs, key = start, None, None, [], jax.random.key(0)
    for t in range(STEPS):
        carry, out, gradients = step(carry, x[t], targets[t])
        total = gradients if total is None else jax.tree.map(np.add, total, gradients)
        outputs.append(out)
        if saved is not None:
            saved, *others = step(saved, x[t], targets[t])
            jax.tree.map(np.testing.assert_array_equal, (saved, *others), (carry, out, gradients))
        if t == 2:
            checkpoints = Checkpoints(tmp_path)
            checkpoints.save(State.create(carry, optax.identity(), key))
            saved = checkpoints.restore(State.create(start, optax.identity(), key)).trainable
    whole, _, gradients = scan(start, x, targets)
    first, _, of_first = scan(start, x[:3], targets[:3])
    again, _, of_second = scan(jax.tree.map(np.array, first), x[3:], targets[3:])
    for other in (carry, again):
        jax.tree.map(np.testing.assert_array_equal, other, whole)
    # XLA may fuse the sums of a scan, so these are equal but for their rounding.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), total, gradients
    )
    parts = jax.tree.map(np.add, of_first, of_second)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), parts, gradients
    )
    states, want = online.network(x)
    np.testing.assert_array_equal(np.stack(outputs), want)
    jax.tree.map(np.testing.assert_array_equal, whole.states, states)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps():
    online, x, _ = shallow()

    def memory(steps):
        scan = jax.jit(lambda x, y: online.scan(online.start(x[0]), x, y, squares)[1:])
        compiled = scan.lower(
            jax.ShapeDtypeStruct((steps, *x.shape[1:]), x.dtype), jnp.zeros(steps)
        ).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(100) == memory(1_000) == memory(10_000)


@pytest.mark.slow
def test_stochastic_spikes_are_those_of_a_call():
    cell = LIF(0.8, 0.6, stochastic(Arctan(2.0)))
    online, x, targets = shallow(hidden=Layer(jnp.ones((3, 4)), cell))
    key = jax.random.key(3)

    @jax.jit
    def run(key):
        carry, _, _ = online.scan(online.start(x[0]), x, targets, squares, key=key)
        return carry.states, online.network(x, key=key)[0]

    jax.tree.map(np.testing.assert_array_equal, *run(key))
    with pytest.raises(TypeError, match="key is missing"):
        online.step(online.start(x[0]), x[0], targets[0], squares)


def test_joins_without_arrays_pass_signals():
    """A sum of two layers has the gradients of a readout that reads both."""
    online, x, targets = shallow()
    hidden, out = (
        dataclasses.replace(layer, of="input") for layer in online.network.layers.values()
    )
    both = {"hidden": hidden, "again": hidden}
    summed = both | {
        "sum": Join(lambda a, b: a + b, of=(*both,)),
        "out": dataclasses.replace(out, of="sum"),
    }
    double = both | {"out": Layer({name: out.weight for name in both}, out.cell)}

    def loss(network):
        return Online(network, "ottt").loss(x, targets, squares)

    run = jax.jit(lambda *networks: [jax.value_and_grad(loss)(network) for network in networks])
    a, b = run(Network(summed), Network(double))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    np.testing.assert_allclose(
        a[1].layers["hidden"].weight, b[1].layers["hidden"].weight, rtol=1e-4
    )


def test_a_readout_with_a_matrix_of_integers_filters_traces():
    """It is a constant, with the signals of the same matrix of floats."""
    online, x, targets = shallow()
    matrix = np.arange(8).reshape(4, 2) % 3 - 1
    networks = [
        Network({**online.network.layers, "out": Layer(m, LeakyReadout(0.8))})
        for m in (matrix, 1.0 * matrix)
    ]

    @jax.jit
    def run(x):
        return [
            Online(n).scan(Online(n).start(x[0]), x, targets, squares)[2].layers["hidden"]
            for n in networks
        ]

    integers, floats = run(x)
    assert np.abs(floats.weight).max() > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), integers, floats
    )


class Inhibition(Cell):
    def integrate(self, v, current):
        return 0.9 * v + current - v.mean(-1, keepdims=True)

    def fire(self, u, key=None):
        s = Sigmoid()(u - 1, key=key)
        return u - s, s


RECEPTORS = MultiSynapticLIF(synaptic_decay=np.array([0.5, 0.9]))
KERNEL = jax.tree_util.Partial(lambda w, x: x @ w, jnp.ones((3, 4)))
REFUSED = [
    (
        "eprop",
        {"hidden": Layer(KERNEL, LIF())},
        r"layer 'hidden': .*'eprop' .* the function weight. Pass a matrix",
    ),
    (
        "eprop",
        {"hidden": Layer(jnp.ones((3, 4, 2)), RECEPTORS)},
        r"receptors of MultiSynapticLIF. Pass rule='local'",
    ),
    ("local", {"hidden": Layer(jnp.ones((3, 4)), MPBN())}, r"MPBN reads all examples"),
    (
        "eprop",
        {"hidden": Layer(jnp.ones((3, 4)), Inhibition())},
        r"Inhibition mixes neurons. Pass rule='local'",
    ),
    (
        "eprop",
        {"out": Layer(jnp.ones((4, 2)), LeakyReadout(jnp.array([0.8, 0.9])))},
        r"layer 'out': .* one decay",
    ),
    (
        "eprop",
        {"out": Layer(jnp.ones((4, 2)), Loihi(4095, (819, 800), None))},
        r"one decay. .* parameters of Loihi",
    ),
    (
        "ottt",
        {"hidden": Layer(jnp.ones((3, 4)), LIF(jnp.full(4, 0.9)))},
        r"'ottt' needs numbers as parameters of LIF, got arrays as decay. Pass numbers, or "
        r"rule='eprop'",
    ),
    (
        "ottt",
        {"hidden": Layer(jnp.ones((3, 4)), Cubic())},
        r"a linear response, which Cubic does not declare. .*'eprop'",
    ),
    (
        "eprop",
        {"out": Join(lambda a: a, of=("hidden",), over_time=True)},
        r"join 'out' takes all steps at once",
    ),
    (
        "eprop",
        {"out": Join(jax.tree_util.Partial(jnp.multiply, jnp.ones((1, 4))), of=("hidden",))},
        r"join 'out'",
    ),
    ("rtrl", {}, r"rule must be one of .*'rtrl'"),
]


@pytest.mark.parametrize(
    ("rule", "changed", "message"), REFUSED, ids=[message for *_, message in REFUSED]
)
def test_a_rule_names_the_layer_that_it_cannot_learn(rule, changed, message):
    with pytest.raises((TypeError, ValueError), match=message):
        shallow(rule, **changed)[0].start(jnp.ones((BATCH, INPUTS)))


def test_inputs_need_examples():
    online, _, _ = shallow()
    with pytest.raises(
        ValueError, match=r"layer 'hidden' must have .* got \(4,\). Pass inputs of shape"
    ):
        online.start(jnp.ones(INPUTS))


def test_feedback_names_layers_below():
    online, _, _ = shallow()
    with pytest.raises(
        ValueError, match=r"must name layers below 'out', here \['hidden'\], got 'in'"
    ):
        Online(online.network, feedback={"out": {"in": jnp.ones((4, 2))}})


@pytest.mark.parametrize(
    ("feedback", "message"),
    [
        (
            {"out": {"hidden": np.ones((2, 4))}},
            r"feedback\['out'\]\['hidden'\] must be of shape \(4, 2\), .* \(2, 4\)",
        ),
        ({"out": {"hidden": np.ones((4, 1))}}, r"the neurons of 'hidden' and 'out', got \(4, 1\)"),
        (
            {"out": np.ones((4, 2))},
            r"feedback\['out'\] must be a dict of matrices by layer, got array",
        ),
    ],
)
def test_feedback_has_the_shape_of_the_neurons(feedback, message):
    online, x, targets = shallow()
    carry = online.start(x[0])
    with pytest.raises((TypeError, ValueError), match=message):
        Online(online.network, feedback=feedback).start(x[0])
    with pytest.raises(
        (TypeError, ValueError), match=message
    ):  # as in a compiled update, which starts nothing
        Online(online.network, feedback=feedback).step(carry, x[0], targets[0], squares)


INTEGERS = {
    "fixed": (
        FixedLIF(230, 100, 200, fraction=8, unit=100),
        FixedLIF(205, None, 128, fraction=8, unit=50),
    ),
    "loihi": (Loihi(2000, 400, 100, unit=6400), Loihi(4095, 819, None, unit=6400)),
}
"""Neurons and a readout. Those of fixed-point numbers have synapses."""


@pytest.mark.slow
@pytest.mark.parametrize("target", few(INTEGERS, "fixed"))
def test_integers_learn_online(target):
    """One hidden layer without recurrence, so e-prop is backpropagation, also through a readout of
    integers.
    """
    r = np.random.default_rng(0)
    x = jnp.asarray(r.random((8, 2, 3)) < 0.5, jnp.float32)
    targets = jnp.asarray(r.normal(size=8), jnp.float32)

    def matrix(*shape):
        return Fixed(jnp.asarray(r.normal(0.4, 0.4, shape), jnp.float32), 100.0, -128, 126, 2)

    cell, readout = INTEGERS[target]
    network = Network([Layer(matrix(3, 4), cell, bias=matrix(4)), Layer(matrix(4, 2), readout)])

    def through_time(network):
        return squares(network(x)[1], targets[:, None, None])

    def forward_in_time(network):
        online = Online(network)
        return online.scan(online.start(x[0]), x, targets, squares)[1:]

    run = jax.jit(
        lambda network: (jax.value_and_grad(through_time)(network), forward_in_time(network))
    )
    (value, want), (got_value, got) = run(network)
    np.testing.assert_allclose(got_value, value, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    with pytest.raises(
        TypeError,
        match=r"linear response, which (FixedLIF|Loihi) does not declare. Pass rule='eprop'",
    ):
        Online(network, "ottt")


@pytest.mark.slow
def test_the_start_is_linear_in_the_layers():
    """Counted in calls of Python functions: it was cubic."""

    def calls(layers):
        cells = [*[LIF(0.9)] * (layers - 1), LeakyReadout(0.9)]
        online, count = (
            Online(Network([Layer(jnp.ones((2, 2)), cell) for cell in cells])),
            itertools.count(),
        )
        sys.setprofile(lambda frame, event, argument: next(count) if event == "call" else None)
        try:
            online.start(jnp.ones((1, 2)))
        finally:
            sys.setprofile(None)
        return next(count)

    calls(5)  # JAX traces and compiles what later starts find
    assert calls(40) < 10 * calls(5)


def test_fit_warns_of_arrays_that_functions_of_an_online_network_hide():
    weight = jnp.ones((INPUTS, 4))
    network = Network(
        [Layer(lambda x: x @ weight, LIF(0.9)), Layer(jnp.ones((4, 2)), LeakyReadout())]
    )

    def loss(network, x, key):
        return Online(network, "local").loss(x, jnp.ones(STEPS), squares), {}

    x = np.ones((STEPS, BATCH, INPUTS), np.float32)
    with pytest.warns(
        UserWarning, match=r"fit: functions hold .* \[3, 4\] in weight of '0'. To train them"
    ):
        fit(loss, network, [x], optimizer=optax.sgd(0.1), key=jax.random.key(0))


@pytest.mark.slow
def test_cost_compares_traces_with_residuals():
    x = jax.ShapeDtypeStruct((100, BATCH, INPUTS), jnp.float32)
    eprop, ottt, local = (shallow(rule)[0].cost(x) for rule in ("eprop", "ottt", "local"))
    hidden, out = (INPUTS + 4 + 1) * 4, (4 + 1) * 2  # rows of a trace: the sources and the bias
    assert eprop.traces == 4 * BATCH * (2 * hidden + out)
    assert ottt.traces == 2 * 4 * BATCH * (hidden // 4 + out // 2)
    assert (local.traces, local.crossover) == (0, 0)
    of_step = 4 * BATCH * 4  # the potentials before the spike; those of the readout have no reader
    assert 100 * of_step <= eprop.residuals["exact"] < 106 * of_step
    assert (
        eprop.residuals["8-bit"]
        < eprop.residuals["half"]
        < eprop.residuals["exact"]
        < eprop.residuals["scan"]
    )
    assert 0.94 * eprop.traces < eprop.crossover * of_step < eprop.traces + of_step


@pytest.mark.slow
def test_cosine_compares_with_all_paths():
    online, x, targets = shallow()
    feedforward = dataclasses.replace(online.network.layers["hidden"], recurrent=None)
    exact = Online(Network({**online.network.layers, "hidden": feedforward}))
    np.testing.assert_allclose(exact.cosine(x, targets, squares), 1, rtol=1e-5)

    trainable, static = partition(online.network)
    mask = np.arange(STEPS) < 4

    def through_time(trainable):
        return squares(combine(trainable, static)(x, mask=mask)[1], targets[:, None, None])

    local = Online(online.network, "local")

    @jax.jit
    def gradients():
        of_local = local.scan(local.start(x[0]), x, targets, squares, mask=mask)[2]
        return of_local, jax.grad(through_time)(trainable)

    trees = gradients()
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in trees)
    want = np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))
    assert want < 0.99
    np.testing.assert_allclose(local.cosine(x, targets, squares, mask=mask), want, rtol=1e-5)
