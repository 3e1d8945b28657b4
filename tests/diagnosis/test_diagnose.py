"""The measures, issues and fixes of a diagnosis."""

import dataclasses
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Cell,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    PiecewiseQuadratic,
    Sigmoid,
    Surrogate,
    Window,
    diagnose,
    measure,
    parameter,
    rescaled,
    shifted,
)
from spikegrad.neurons import RF, Refractory

# JAX as users have it: optax promotes.
pytestmark = pytest.mark.usefixtures("default_promotion")

STEPS, EXAMPLES, UNITS, HIDDEN = 20, 12, 10, 16
SPIKES = np.random.default_rng(0).random((STEPS, EXAMPLES, UNITS)) < 0.2
X = SPIKES.astype(np.float32)
CELL = LIF(0.9, surrogate=Sigmoid(4.0))
LABELS = np.arange(EXAMPLES) % 2


def matrix(seed, gain, n, m):
    return (gain / n**0.5 * np.random.default_rng(seed).normal(size=(n, m))).astype(np.float32)


def stack(first=None, second=None, **cell):
    """Two layers of neurons and a readout, healthy by default. Keywords change the second cell."""
    first = Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), CELL) if first is None else first
    cell = dataclasses.replace(CELL, **cell)
    second = Layer(jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)), cell) if second is None else second
    return Network([first, second, Layer(jnp.asarray(matrix(3, 1.0, HIDDEN, 2)), LeakyReadout(0.9))])


def loss(out):
    scores = jax.nn.log_softmax(out.max(0))
    return -scores[jnp.arange(len(LABELS)), LABELS].mean()


def issues(network, inputs=X, **options):
    return [(issue.kind, issue.place) for issue in diagnose(network, inputs, loss, train=False, **options).issues]


def simulated(inputs, weight, decay=0.9, threshold=1.0, fires=True):
    """Spikes and potentials of LIF neurons before the spike, in float64."""
    v, spikes, potentials = 0.0, [], []
    for x in np.asarray(inputs, np.float64):
        u = decay * v + x @ np.asarray(weight, np.float64)
        s = (u >= threshold) * float(fires)
        v = u - threshold * s
        spikes.append(s)
        potentials.append(u)
    return np.stack(spikes), np.stack(potentials)


def test_measures_of_a_layer_match_numpy():
    network = stack()
    layer = diagnose(network, X, loss).layers["0"]
    spikes, u = simulated(X, network.layers["0"].weight)
    _, quiet = simulated(X, network.layers["0"].weight, fires=False)
    assert layer.rate == pytest.approx(spikes.mean(), rel=1e-5)
    assert layer.firing == pytest.approx(spikes.any((0, 1)).mean(), rel=1e-5)
    assert layer.drive == pytest.approx(quiet.std(), rel=1e-4)
    assert layer.recoil == pytest.approx(u.std() / quiet.std(), rel=1e-4)
    assert layer.distance == pytest.approx(((u - 1).mean(), u.std()), rel=1e-4)
    # the slope of Sigmoid(4) has a peak of 1 at the threshold
    slope = 4 / (np.exp(2 * (u - 1)) + np.exp(-2 * (u - 1))) ** 2
    assert layer.reach == pytest.approx(slope.mean(), rel=1e-3)
    assert layer.steepness == pytest.approx(1, rel=1e-3)


def test_drive_is_that_without_spikes_also_for_a_delayed_reset():
    cell = LIF(0.9, reset="value", delay_reset=True)
    weight = jnp.asarray(matrix(1, 300.0, UNITS, HIDDEN))
    layer = diagnose(stack(first=Layer(weight, cell)), X, loss).layers["0"]
    _, quiet = simulated(X, weight, fires=False)
    assert layer.drive == pytest.approx(quiet.std(), rel=1e-4)


def test_masked_steps_do_not_count():
    mask = np.ones((STEPS, EXAMPLES), bool)
    mask[12:, :5] = False
    network = stack()
    layer = diagnose(network, X, loss, mask=mask).layers["0"]
    spikes, u = simulated(X, network.layers["0"].weight)
    assert layer.rate == pytest.approx(spikes[mask].mean(), rel=1e-5)
    assert layer.distance == pytest.approx(((u - 1)[mask].mean(), u[mask].std()), rel=1e-4)


def test_gradient_and_update_are_relative_to_the_weights():
    optax = pytest.importorskip("optax")
    network = stack()
    report = diagnose(network, X, loss, optimizer=optax.sgd(0.5), train=False)
    gradient = jax.grad(lambda network: loss(network(X)[1]))(network)
    for name, layer in report.layers.items():
        g, w = (np.linalg.norm(tree.layers[name].weight) for tree in (gradient, network))
        assert layer.gradient == pytest.approx(g / w, rel=1e-3)
        assert layer.update == pytest.approx(0.5 * g / w, rel=1e-3)
    assert report.loss == pytest.approx(float(loss(network(X)[1])), rel=1e-5)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (stack(threshold=-1.0), [("saturated", "1")]),
        (stack(surrogate=-1.0 * Sigmoid(4.0)), [("out of reach", "1")]),
        (stack(surrogate=Sigmoid(0.1)), [("vanishes", "1")]),
        (stack(surrogate=Sigmoid(40.0)), [("explodes", "1")]),
        (stack(surrogate=Sigmoid(jnp.asarray(40.0))), [("explodes", "1")]),
        (stack(surrogate=lambda x: (x >= 0).astype(x.dtype)), [("out of reach", "1")]),
        (stack(decay=jnp.asarray(1.5)), [("explodes", "1")]),
        (stack(second=Layer(jnp.asarray(matrix(2, 1e-3, HIDDEN, HIDDEN)), CELL)), [("silent", "1")]),
        (stack(second=Layer(jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)) + 2, CELL)), [("saturated", "1")]),
        (
            stack(second=Layer(jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)), CELL, bias=jnp.full(HIDDEN, -20.0))),
            [("silent", "1")],
        ),
        (
            stack(
                second=Layer(
                    jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)),
                    CELL,
                    recurrent=jnp.asarray(matrix(4, 40.0, HIDDEN, HIDDEN)),
                )
            ),
            [("saturated", "1")],
        ),
        (
            stack(second=Layer(jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)), AdaptiveLIF(0.9, adaptation=40.0))),
            [("saturated", "1")],
        ),
        (stack(first=Layer(jnp.full((UNITS, HIDDEN), 0.5), CELL)), [("alike", "0")]),
    ],
    ids=lambda case: str(case) if isinstance(case, list) else "",
)
def test_issue_names_the_layer_and_its_repair_has_none(network, expected):
    report = diagnose(network, X, loss, train=False)
    assert [(issue.kind, issue.place) for issue in report.issues][:1] == expected
    if report.issues[0].fixes:
        assert issues(report.repaired) == []


def test_healthy_network_has_no_issue():
    report = diagnose(stack(), X, loss)
    assert report.issues == ()
    assert report.repaired is not None
    assert "not trained" in report.verdict


@pytest.mark.parametrize(
    ("inputs", "mask", "reason", "others"),
    [
        # Zeros are also equal for all examples.
        (np.zeros_like(X), None, "its inputs are zero", [("vanishes", None)]),
        (np.where(np.arange(STEPS)[:, None, None] < 10, X, 0), np.arange(STEPS) >= 10, "the mask excludes", []),
    ],
)
def test_silence_is_traced_to_inputs_or_mask(inputs, mask, reason, others):
    issue, *more = diagnose(stack(), inputs, loss, mask=mask, train=False).issues
    assert [(other.kind, other.place) for other in more] == others
    assert (issue.kind, issue.place) == ("silent", "0")
    assert reason in issue.description


def test_silence_is_traced_to_a_delay():
    network = Network(
        {
            "stem": Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), CELL),
            "late": Layer(Delayed(jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)), STEPS), CELL),
            "out": Layer(jnp.asarray(matrix(3, 1.0, HIDDEN, 2)), LeakyReadout(0.9)),
        }
    )
    issue = diagnose(network, X, loss, train=False).issues[0]
    assert (issue.kind, issue.place) == ("silent", "late")
    assert "delay of 20 steps is longer than the sequence" in issue.description


def test_silence_is_traced_to_a_delay_of_the_readout():
    late = Layer(Delayed(jnp.asarray(matrix(3, 1.0, HIDDEN, 2)), STEPS), LeakyReadout(0.9))
    network = Network([Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), CELL), late])
    assert issues(network)[:1] == [("silent", "1")]


def test_inputs_that_tell_nothing_are_named():
    equal = np.repeat(X[:, :1], EXAMPLES, 1)
    assert issues(stack(), equal) == [("vanishes", None)]
    weights = {"cue": jnp.asarray(matrix(1, 3.0, UNITS, 2)), "noise": jnp.asarray(matrix(2, 3.0, UNITS, 2))}
    network = Network({"out": Layer(weights, LeakyReadout(0.9))}, inputs=("cue", "noise"))
    first = diagnose(network, {"cue": 0 * X, "noise": X}, loss, train=False).issues[0]
    assert (first.kind, first.place, first.description) == ("silent", "out", "its inputs are zero")


def test_inputs_of_unusual_size_or_mean_are_standardized():
    channel = np.where(np.arange(UNITS) == 3, 3000, 1).astype(np.float32)
    currents = 0.3 * np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    for inputs in (X * channel, 1e-4 * X, currents + 50):
        report = diagnose(stack(), inputs, loss, train=False)
        assert (report.issues[0].kind, report.issues[0].place) == ("unscaled", "0")
        # the wrapped weights and the pasted code give the same outputs
        scope = {"np": np, "inputs": inputs}
        exec(report.issues[0].fixes[0].code, scope)
        pasted = report.issues[0].apply(stack())(inputs)[1]
        np.testing.assert_allclose(stack()(scope["inputs"].astype(np.float32))[1], pasted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("weight", [lambda w: w, lambda w: Delayed(w, 2), lambda w: Window(jnp.stack([w, w]))])
def test_inputs_of_any_weight_are_standardized(weight):
    inputs = 50 + 0.3 * np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    weight = weight(jnp.asarray(matrix(1, 3.0, UNITS, 4)))
    network = Network({"out": Layer({"input": weight}, LeakyReadout(0.9))})
    issue = diagnose(network, inputs, loss, train=False).issues[0]
    assert (issue.kind, issue.place) == ("unscaled", "out")
    assert "means are from 50 to 50, sizes from 0.2" in issue.description
    expected = network(inputs - inputs.mean((0, 1)))[1]
    np.testing.assert_allclose(issue.apply(network)(inputs)[1], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "place", "text", "change", "options"),
    [
        ("silent", "sum", "of this join are 0", lambda a, b: a * 0 * b, {}),
        ("vanishes", "sum", "derivative of this join is 0", lambda a, b: jnp.round(a + b), {}),
        ("not finite", "sum", "derivative of this join is NaN", lambda a, b: jnp.sqrt(a * b), {}),
        ("not finite", "sum", "its outputs are the first", lambda a, b: jnp.log(a + b - 1), {}),
        ("vanishes", None, "gradient of the loss", None, {"loss": lambda out: (out.argmax(-1) * 1.0).mean()}),
        ("vanishes", None, "reads no outputs after step 1", None, {"loss": lambda out: loss(out[:2])}),
        ("silent", None, "no step of 3 of 12 examples", None, {"mask": np.arange(EXAMPLES) * np.ones((STEPS, 1)) > 2}),
        ("silent", None, "True marks a valid step", None, {"mask": np.zeros((STEPS, EXAMPLES), bool)}),
    ],
)
def test_parts_that_pass_nothing_on_are_named(kind, place, text, change, options):
    network = Network(
        {
            "a": Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), CELL),
            "b": Layer(jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)), CELL),
            "sum": Join(change or (lambda a, b: a + b), of=("a", "b")),
            # A name before the others in the alphabet, because JAX sorts the keys of a dict.
            "O": Layer(jnp.asarray(matrix(3, 1.0, HIDDEN, 2)), LeakyReadout(0.9)),
        }
    )
    first = diagnose(network, X, **{"loss": loss, "train": False} | options).issues[0]
    assert (first.kind, first.place) == (kind, place)
    assert text in first.description


def test_gradient_is_lost_at_the_last_layer_without_one():
    weight = jax.tree_util.Partial(lambda w, x: jax.lax.stop_gradient(x @ w), jnp.asarray(matrix(2, 3.0, HIDDEN, 2)))
    network = Network([Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), CELL), Layer(weight, LeakyReadout(0.9))])
    [issue] = diagnose(network, X, loss, train=False).issues
    assert (issue.kind, issue.place) == ("vanishes", "1")
    assert "the gradient of its weights is 0" in issue.description


def test_nan_behind_a_mask_is_no_issue():
    mask = np.arange(STEPS) < 15
    assert issues(stack(), np.where(mask[:, None, None], X, np.nan), mask=mask) == []


def test_array_of_thresholds_is_set():
    report = diagnose(stack(threshold=jnp.full(HIDDEN, -20.0)), X, loss, train=False)
    assert [(issue.kind, issue.place) for issue in report.issues] == [("saturated", "1")]
    np.testing.assert_array_equal(report.repaired.layers["1"].cell.threshold, np.ones(HIDDEN))
    scope = {"dataclasses": dataclasses, "np": np, "network": stack(threshold=jnp.full(HIDDEN, -20.0))}
    exec(report.code, scope)
    np.testing.assert_array_equal(scope["network"].layers["1"].cell.threshold, np.ones(HIDDEN))


@pytest.mark.parametrize("joins", [{}, {"whole": Join(lambda out: out, "2")}], ids=["output", "below a join"])
def test_readout_that_is_too_large_is_scaled(joins):
    network = stack()
    last = dataclasses.replace(network.layers[-1], weight=1000 * network.layers[-1].weight)
    network = dataclasses.replace(network, layers=network.layers | {"2": last, **joins})
    report = diagnose(network, X, loss, train=False)
    assert [(issue.kind, issue.place) for issue in report.issues] == [("too large", "2")]
    assert loss(report.repaired(X)[1]) < 1.5 * loss(jnp.zeros((STEPS, EXAMPLES, 2)))


def test_memory_shorter_than_the_task_is_lengthened():
    inputs = np.where(np.arange(STEPS)[:, None, None] < 3, X, 0)
    report = diagnose(
        stack(first=Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), LIF(0.3)), decay=0.3),
        inputs,
        lambda out: (out[-2:] ** 2).mean() + 1,
        train=False,
    )
    forgets = [issue for issue in report.issues if issue.kind == "forgets"]
    assert not forgets  # the readout remembers
    network = Network([Layer(jnp.asarray(matrix(1, 3.0, UNITS, 4)), LeakyReadout(0.3))])
    report = diagnose(network, inputs, lambda out: (out[-2:] ** 2).mean() + 1, train=False)
    [issue] = report.issues
    assert issue.kind == "forgets"
    assert "in layer" not in str(issue)
    assert 0.9 < report.repaired.layers["0"].cell.decay < 0.97


def test_fixes_as_code_change_the_network_as_apply_does():
    graph = Network(
        {
            "stem": Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), CELL),
            "a": Layer({"stem": jnp.asarray(matrix(2, 300.0, HIDDEN, HIDDEN))}, CELL),
            "sum": Join(lambda a, stem: a + stem, of=("a", "stem")),
            "out": Layer(jnp.asarray(matrix(3, 1.0, HIDDEN, 2)), LeakyReadout(0.9)),
        }
    )
    networks = [
        (stack(threshold=30.0), "silent", "1"),
        (stack(second=Layer(jnp.asarray(matrix(2, 300.0, HIDDEN, HIDDEN)), CELL)), "saturated", "1"),
        (stack(first=Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)) - 2, CELL)), "silent", "0"),
        (stack(surrogate=PiecewiseQuadratic(300.0)), "out of reach", "1"),
        (stack(surrogate=shifted(Sigmoid(4.0), 30.0)), "out of reach", "1"),
        (graph, "saturated", "a"),
    ]
    for network, *expected in networks:
        report = diagnose(network, X, loss, train=False)
        scope = {"dataclasses": dataclasses, "jax": jax, "network": network, "rescaled": rescaled, "Sigmoid": Sigmoid}
        exec(report.code, scope)
        gradient = jax.jit(jax.grad(lambda network: loss(network(X)[1])))
        before, pasted, repaired = (
            gradient(n).layers["stem" if "stem" in n.layers else "0"].weight
            for n in (network, scope["network"], report.repaired)
        )
        np.testing.assert_allclose(pasted, repaired, rtol=2e-2, atol=1e-6)
        assert not np.allclose(before, repaired, rtol=0.1)
        assert [report.issues[0].kind, report.issues[0].place] == expected
        assert issues(report.repaired) == []


def test_functions_as_weights_are_scaled():
    kernel = jnp.asarray(matrix(1, 1e-3, UNITS, HIDDEN))
    for weight in (lambda x: x @ kernel, jax.tree_util.Partial(lambda k, x: x @ k, kernel)):
        report = diagnose(stack(first=Layer(weight, CELL)), X, loss, train=False)
        assert [(issue.kind, issue.place) for issue in report.issues] == [("silent", "0")]
        assert diagnose(report.repaired, X).issues == ()


def test_mean_of_a_kernel_is_subtracted():
    kernel = jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN))[None] - 2
    weight = jax.tree_util.Partial(lambda k, x: x @ k[0], kernel)
    report = diagnose(stack(first=Layer(weight, CELL)), X, loss, train=False)
    assert (report.issues[0].kind, report.issues[0].place) == ("silent", "0")
    [repaired] = jax.tree.leaves(report.repaired.layers["0"].weight)
    np.testing.assert_allclose(repaired, kernel - kernel.mean(), atol=1e-5)
    assert issues(report.repaired) == []


def test_slope_with_gradients_that_overflow_is_rescaled():
    steep = dataclasses.replace(CELL, surrogate=rescaled(CELL.surrogate, peak=1e30))
    network = stack(first=Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), steep), surrogate=steep.surrogate)
    assert not np.isfinite(jax.grad(lambda n: loss(n(X)[1]))(network).layers["0"].weight).all()
    report = diagnose(network, X, loss, train=False)
    assert [(issue.kind, issue.place) for issue in report.issues] == [("explodes", "0"), ("explodes", "1")]
    assert issues(report.repaired) == []


class TwoCompartments(Cell):
    """A custom cell that declares nothing but its surrogate. The potential comes second."""

    surrogate: Callable = parameter(default=Sigmoid(4.0), kind=Callable)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def integrate(self, v, current):
        dendrite = 0.7 * v[0] + current
        return dendrite, 0.8 * v[1] + 0.5 * dendrite

    def fire(self, u):
        s = self.surrogate(u[1] - 1)
        return (u[0], u[1] - s), s


class OneCompartment(TwoCompartments):
    """The field takes surrogates only, and no function."""

    surrogate: Surrogate = parameter(default=Sigmoid(4.0), kind=Surrogate)


@pytest.mark.parametrize("cell", [TwoCompartments(), OneCompartment(), Refractory(CELL, 2)])
def test_custom_and_wrapped_cells_are_measured_at_their_surrogate(cell):
    small = stack(second=Layer(jnp.asarray(matrix(2, 3e-3, HIDDEN, HIDDEN)), cell))
    assert issues(small) == [("silent", "1")]
    assert diagnose(small, X, loss).layers["1"].scale == pytest.approx(1)


class HiddenSurrogate(Cell):
    """A custom cell that makes its surrogate in ``fire``, at a potential in millivolts."""

    threshold: float = parameter(default=15.0)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype)

    def integrate(self, v, current):
        return 0.9 * v + current

    def fire(self, u):
        s = Sigmoid(0.3)(u - self.threshold)
        return u - s * u, s


class UnusedSurrogate(HiddenSurrogate):
    """Its field with a surrogate is not what fires."""

    surrogate: Callable = parameter(default=Sigmoid(4.0), kind=Callable)


@pytest.mark.parametrize("kind", [HiddenSurrogate, UnusedSurrogate])
@pytest.mark.parametrize(("threshold", "state"), [(15e3, "silent"), (-15e3, "saturated")])
def test_layer_without_a_field_of_its_surrogate_is_judged_by_its_spikes(kind, threshold, state):
    network = stack(first=Layer(jnp.asarray(matrix(1, 45.0, UNITS, HIDDEN)), kind(threshold)))
    report = diagnose(network, X, loss)
    assert [(issue.kind, issue.place) for issue in report.issues[:2]] == [("not measured", "0"), (state, "0")]
    assert "its surrogate is not a field of the cell" in str(report.issues[0])
    assert report.repaired.layers["0"].cell.threshold == 15
    assert report.layers["0"].rate == (state == "saturated")


@pytest.mark.parametrize("omega", [0.5, np.full(HIDDEN, 0.5)])
def test_repair_never_makes_an_invalid_cell(omega):
    """The default of omega is 10, which needs a shorter dt. That of dt gives smaller potentials."""
    cell = RF(omega, b=-0.3, dt=0.5, threshold=1e4)
    report = diagnose(stack(first=Layer(jnp.asarray(matrix(1, 3.0, UNITS, HIDDEN)), cell)), X, loss)
    assert (report.issues[0].kind, report.issues[0].place) == ("silent", "0")
    assert (report.repaired.layers["0"].cell.threshold, report.repaired.layers["0"].cell.dt) == (1, 0.5)


def test_weights_that_overflow_are_scaled_down():
    network = jax.tree.map(lambda a: a.astype(jnp.float16), stack())
    large = dataclasses.replace(network.layers["2"], weight=20000 * network.layers["2"].weight)
    network = dataclasses.replace(network, layers=network.layers | {"2": large})
    report = diagnose(network, X, lambda out: loss(out.astype(jnp.float32)))
    assert [(issue.kind, issue.place) for issue in report.issues] == [("not finite", "2")]
    assert np.isfinite(report.repaired(X)[1]).all()


def test_inputs_that_overflow_are_standardized():
    network = jax.tree.map(lambda a: a.astype(jnp.float16), stack())
    assert not np.isfinite(network((6e4 * X).astype(np.float16))[1]).all()
    report = diagnose(network, (6e4 * X).astype(np.float16), lambda out: loss(out.astype(jnp.float32)))
    assert [(issue.kind, issue.place) for issue in report.issues] == [("unscaled", "0")]
    assert np.isfinite(report.repaired((6e4 * X).astype(np.float16))[1]).all()


def test_numbers_that_are_not_finite_are_named():
    optax = pytest.importorskip("optax")
    broken = jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)).at[0, 0].set(jnp.nan)
    first = diagnose(stack(second=Layer(broken, CELL)), X, loss).issues[0]
    assert (first.kind, first.place) == ("not finite", "1")
    assert "layers/1/weight has NaN" in first.description

    @jax.custom_jvp
    def spoilt(x):
        return x

    spoilt.defjvp(lambda x, t: (x[0], t[0] * jnp.nan))
    arrays = jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)), jnp.zeros(HIDDEN)
    weight = jax.tree_util.Partial(lambda w, b, x: x @ spoilt(w) + spoilt(b), *arrays)
    report = diagnose(stack(second=Layer(weight, CELL)), X, loss, optimizer=optax.adam(1e-2))
    assert [(issue.kind, issue.place) for issue in report.issues] == [("not finite", "1")]
    assert "the gradient of layers/1/weight" in report.issues[0].description
    [issue] = diagnose(stack(), X, lambda out: jnp.nan * out.sum()).issues
    assert (issue.kind, issue.place) == ("not finite", None)
    # Outputs that are too large for the loss are those of the readout.
    overflows = dataclasses.replace(
        stack(), layers=stack().layers | {"2": Layer(jnp.full((HIDDEN, 2), 1e30), LeakyReadout(0.9))}
    )
    issues = diagnose(overflows, X, lambda out: (out**2).mean() - (out**2).mean() + loss(out)).issues
    assert [(issue.kind, issue.place) for issue in issues[:1]] == [("not finite", "2")]


def test_first_update_tells_a_wrong_learning_rate():
    optax = pytest.importorskip("optax")
    for optimizer, kind in (
        (optax.adam(30.0), "overshoots"),
        (optax.adam(1e-8), "stalls"),
        (optax.chain(optax.adam(1e-2), optax.scale(-1)), "ascends"),
    ):
        report = diagnose(stack(), X, loss, optimizer=optimizer, train=False)
        assert [(issue.kind, issue.place) for issue in report.issues] == [(kind, None)]
        again = diagnose(stack(), X, loss, optimizer=report.optimizer, train=False)
        assert again.issues == ()


# --- with trainings -----------------------------------------------------------------------------------


def task(count=60):
    """Two classes by the rate of half of the channels."""
    rng = np.random.default_rng(3)
    labels = np.arange(count) % 2
    rates = np.where((np.arange(UNITS) % 2 == labels[:, None]), 0.4, 0.1)
    return (rng.random((STEPS, count, UNITS)) < rates).astype(np.float32), labels


def loss_of(labels):
    def cross_entropy(out):
        return -jax.nn.log_softmax(out.mean(0))[jnp.arange(len(labels)), labels].mean()

    return cross_entropy


def test_repaired_network_learns():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    texts = []
    report = diagnose(stack(threshold=30.0), inputs, loss_of(labels), optimizer=optax.adam(1e-2), progress=texts.append)
    assert [(issue.kind, issue.place) for issue in report.issues] == [("silent", "1")]
    assert report.repaired.layers["1"].cell.threshold == 1
    assert report.outcome.learned < 0.1
    assert report.outcome_repaired.learned > 0.6
    assert "with these changes" in report.verdict
    assert texts[:2] == ["measuring", "training"]
    again = diagnose(report.repaired, inputs, loss_of(labels), optimizer=optax.adam(1e-2))
    assert again.issues == ()
    assert again.verdict.endswith("it learns")


def test_learning_network_has_no_issue_although_a_measure_is_outside():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    network = stack(surrogate=Sigmoid(40.0))
    assert issues(network, X) == [("explodes", "1")]
    report = diagnose(network, inputs, loss_of(labels), optimizer=optax.adam(1e-2))
    assert report.outcome.learned > 0.75
    assert report.issues == ()


def test_network_that_learns_slowly_has_no_issue():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    report = diagnose(stack(), inputs, loss_of(labels), optimizer=optax.adam(7e-4))
    assert 0.1 < report.outcome.learned < 0.6
    assert report.issues == ()
    assert "it learns, slowly: 240 updates remove " in report.verdict


def test_change_is_an_issue_if_a_network_then_learns_in_a_quarter_of_the_updates():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    layer = Layer(jnp.asarray(matrix(2, 3.0, HIDDEN, HIDDEN)), CELL, bias=jnp.full(HIDDEN, -4.0))
    report = diagnose(stack(second=layer), inputs, loss_of(labels), optimizer=optax.adam(5e-3))
    assert 0.1 < report.outcome.learned < 0.6 < report.outcome_repaired.learned
    assert [(issue.kind, issue.place) for issue in report.issues] == [("silent", "1")]
    np.testing.assert_allclose(report.repaired.layers["1"].bias, 0, atol=1e-6)


def test_memory_is_lengthened_if_noise_after_the_cue_hides_the_gap():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    noise = np.random.default_rng(4).random((30, *inputs.shape[1:])) < 0.1
    inputs = np.concatenate([inputs[:8], noise.astype(np.float32)])
    network = Network([Layer(jnp.asarray(matrix(1, 3.0, UNITS, 2)), LeakyReadout(0.4))])

    def last(out):
        return -jax.nn.log_softmax(out[-1])[jnp.arange(len(labels)), labels].mean()

    texts = []
    report = diagnose(network, inputs, last, optimizer=optax.adam(1e-2), progress=texts.append)
    assert texts.count("training with other learning rates") == 1
    assert (report.issues[0].kind, report.issues[0].place) == ("forgets", "0")
    assert report.outcome_repaired.learned > report.outcome.learned + 0.2


def test_memory_longer_than_the_sequence_is_shortened():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    noise = np.random.default_rng(4).random((100, *inputs.shape[1:])) < 0.3
    inputs = np.concatenate([noise.astype(np.float32), inputs[:8]])
    network = Network([Layer(jnp.asarray(matrix(1, 0.1, UNITS, 2)), LeakyReadout(0.999))])

    def last(out):
        return -jax.nn.log_softmax(out[-1])[jnp.arange(len(labels)), labels].mean()

    report = diagnose(network, inputs, last, optimizer=optax.adam(1e-2))
    assert [(issue.kind, issue.place) for issue in report.issues] == [("saturated", "0")]
    assert report.repaired.layers["0"].cell.decay == pytest.approx(0.907)
    assert report.outcome_repaired.held_out > report.outcome.held_out + 0.2


def test_memory_is_lengthened_although_a_larger_rate_learns_the_noise_by_heart():
    optax = pytest.importorskip("optax")
    rng = np.random.default_rng(6)
    labels = np.arange(80) % 2
    inputs = (rng.random((36, 80, 16)) < 0.12).astype(np.float32)
    inputs[:, :, :8] = 0
    cue = np.arange(8) // 4 == labels[:, None]
    inputs[:8, :, :8] = (rng.random((8, 80, 8)) < 0.7) & cue
    inputs[:8, :, 8:] = 0
    network = Network(
        [
            Layer(jnp.asarray(matrix(1, 2.0, 16, 30)), LIF(0.5)),
            Layer(jnp.asarray(matrix(2, 0.5, 30, 2)), LeakyReadout(0.5)),
        ]
    )

    def last(out):
        return -jax.nn.log_softmax(out[-1])[jnp.arange(80), labels].mean()

    report = diagnose(network, inputs, last, optimizer=optax.adam(1e-2))
    assert [issue.kind for issue in report.issues] == ["forgets"]
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.every
def test_first_update_that_is_infinite_is_named_and_cured():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    network = jax.tree.map(lambda a: a.astype(jnp.float16), stack())

    def in_float32(out):
        return loss_of(labels)(out.astype(jnp.float32))

    report = diagnose(network, inputs, in_float32, optimizer=optax.adam(1e-2))
    assert [(issue.kind, issue.place) for issue in report.issues] == [("overshoots", None)]
    assert "infinite" in report.issues[0].description
    assert report.repaired.layers["0"].weight.dtype == jnp.float32
    assert report.outcome_repaired.learned > 0.6


def test_network_that_cannot_learn_is_never_fine():
    optax = pytest.importorskip("optax")
    inputs, _ = task(40)
    noise = np.random.default_rng(5).integers(0, 2, 40)
    report = diagnose(stack(), inputs * 0, loss_of(noise), optimizer=optax.adam(1e-2), budget=60)
    assert report.outcome.learned < 0.2
    assert [(issue.kind, issue.fixes) for issue in report.issues] == [("silent", ()), ("vanishes", ())]
    assert "(tried: all changes, other memories, other learning rates, " in report.verdict
    assert "check what is outside of the network" in report.verdict


def test_trial_counts_only_examples_that_no_update_uses():
    """With labels at random, a network learns its examples by heart and no others."""
    optax = pytest.importorskip("optax")
    inputs, _ = task()
    noise = np.random.default_rng(5).integers(0, 2, 60)
    report = diagnose(stack(), inputs, loss_of(noise), optimizer=optax.adam(3e-2))
    assert report.outcome.trained > 0.5
    assert report.outcome.held_out < 0.2


@pytest.mark.parametrize("rate", few([1e-1, 1e-5], 1e-1))
def test_change_that_helps_no_other_examples_is_not_an_issue(rate):
    optax = pytest.importorskip("optax")
    inputs, _ = task()
    noise = np.random.default_rng(5).integers(0, 2, 60)
    report = diagnose(stack(), inputs, loss_of(noise), optimizer=optax.sgd(rate))
    assert report.issues == ()
    assert "it learns by heart at best (tried: all changes, " in report.verdict
    assert "check the labels" in report.verdict


def test_loss_with_the_wrong_sign_is_doubted():
    optax = pytest.importorskip("optax")
    report = diagnose(stack(), X, lambda out: -loss(out), optimizer=optax.adam(1e-2))
    assert report.verdict == "not trained: the loss of constant outputs is not positive, so check its sign"


@pytest.mark.every
def test_small_weights_are_named_although_a_larger_rate_makes_up_for_them():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    network = stack(first=Layer(jnp.asarray(matrix(1, 3e-4, UNITS, HIDDEN)), CELL))
    report = diagnose(network, inputs, loss_of(labels), optimizer=optax.adam(1e-4))
    assert (report.issues[0].kind, report.issues[0].place) == ("silent", "0")
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.every
def test_loss_of_which_more_than_all_is_removed_is_doubted():
    optax = pytest.importorskip("optax")
    inputs, labels = task()
    report = diagnose(stack(), inputs, lambda out: loss_of(labels)(out) - 0.4, optimizer=optax.adam(1e-2))
    assert "check the labels and the loss" in report.verdict


def test_budget_of_no_time_trains_once():
    optax = pytest.importorskip("optax")
    inputs, labels = task(32)
    texts = []
    diagnose(
        stack(threshold=30.0),
        inputs,
        loss_of(labels),
        optimizer=optax.adam(1e-2),
        budget=0.0,
        progress=texts.append,
    )
    assert "training at other learning rates" not in texts


def test_report_as_text_data_and_figure():
    pytest.importorskip("matplotlib")
    report = diagnose(stack(threshold=30.0), X, loss, train=False)
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["layer", "neurons", "rate"]
    assert lines[2].split()[0] == "1"
    assert "layer '1' is silent" in str(report)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["issues"][0]["fixes"][0]["text"] == "set its threshold to 1"
    axes = report.plot().axes
    assert len(axes) >= 3
    assert {low for low, _ in (ax.get_ylim() for ax in axes)} == {0.0}  # of bars and of slopes


def test_slope_of_a_repair_covers_the_potentials():
    network = stack(surrogate=PiecewiseQuadratic(300.0))
    report = diagnose(network, X, loss, train=False)
    shape = measure(report.repaired.layers["1"].cell.surrogate)
    _, spread = report.layers["1"].distance
    assert shape.peak == pytest.approx(1, rel=1e-2)
    assert shape.area / shape.peak == pytest.approx(min(spread, 2.0), rel=0.1)


def test_diagnose_takes_networks_only():
    with pytest.raises(TypeError, match="diagnose: network must be a Network, got"):
        diagnose([CELL], X, loss)
