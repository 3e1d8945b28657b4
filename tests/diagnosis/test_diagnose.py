"""The measures, issues and fixes of a diagnosis."""

import dataclasses
import functools
import json
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import few
from jax.flatten_util import ravel_pytree

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
    SynapticLIF,
    Window,
    bounded,
    diagnose,
    measure,
    parameter,
    rescaled,
    shifted,
)
from spikegrad.diagnosis import _diagnose, measures, trial
from spikegrad.diagnosis._diagnose import _advice, _doubt
from spikegrad.diagnosis.attainable import attainable_loss
from spikegrad.diagnosis.measures import observe_layer
from spikegrad.diagnosis.moves import (
    FitSlope,
    ReplaceOptimizer,
    ScalePart,
    ScaleRate,
    ShiftOutput,
    moves_of,
    neutral_moves,
    present_number,
)
from spikegrad.diagnosis.propose import state_of
from spikegrad.diagnosis.report import Issue
from spikegrad.diagnosis.search import STAGES, Candidate, SearchResult, Study, accepted, pruned
from spikegrad.diagnosis.trial import RATE
from spikegrad.network import Activity, DelayKernel, hidden_arrays
from spikegrad.neurons import QIF, RF, Izhikevich, Refractory, Relu, SymplecticAdLIF
from spikegrad.training import partition

# JAX as users have it: optax promotes.
pytestmark = [pytest.mark.usefixtures("default_promotion"), pytest.mark.ci]

STEPS, EXAMPLES, UNITS, HIDDEN = 20, 12, 10, 16
SPIKES = np.random.default_rng(0).random((STEPS, EXAMPLES, UNITS)) < 0.2
X = SPIKES.astype(np.float32)
LABELS = np.arange(EXAMPLES) % 2
EARLY = np.arange(STEPS) < 10


def matrix(seed, gain, n=HIDDEN, m=HIDDEN):
    return jnp.asarray(gain / n**0.5 * np.random.default_rng(seed).normal(size=(n, m)), jnp.float32)


# Healthy layers. Numbers of cells as arrays, with which networks share compiled programs.
FIRST, SECOND, OUT = matrix(1, 3.0, UNITS), matrix(2, 3.0), matrix(3, 1.0, m=2)
NUMBERS = LIF(0.9, surrogate=Sigmoid(4.0))
CELL = LIF(jnp.array(0.9), jnp.array(1.0), Sigmoid(jnp.array(4.0)))
READOUT = Layer(OUT, LeakyReadout(0.9))


def stack(first=FIRST, second=SECOND, cell=CELL, **changes):
    """Two layers of neurons and a readout, healthy by default. Keywords change the second cell."""
    first, second = (
        layer if isinstance(layer, Layer) else Layer(layer, cell)
        for layer, cell in ((first, cell), (second, dataclasses.replace(cell, **changes)))
    )
    return Network([first, second, READOUT])


HEALTHY = stack(cell=NUMBERS)


def with_bias(matrix, bias):
    """A weight function with a bias in it."""
    return jax.tree_util.Partial(lambda p, x: x @ p[0] + p[1], (matrix, bias))


def loss(out):
    scores = jax.nn.log_softmax(out.max(0))
    return -scores[jnp.arange(len(LABELS)), LABELS].mean()


@jax.jit
def value_and_gradient(network):
    return jax.value_and_grad(lambda network: loss(network(X, backward="scan")[1]))(network)


@jax.jit
def outputs_of(network, inputs):
    return network(inputs, backward="scan")[1]


def names(issues):
    return [(issue.kind, issue.place) for issue in issues]


def issues(network, inputs=X, **options):
    return names(diagnose(network, inputs, loss, train=False, **options).issues)


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


@pytest.mark.slow
def test_measures_of_a_layer_match_numpy():
    layer = diagnose(stack(), X, loss).layers["0"]
    spikes, u = simulated(X, FIRST)
    _, quiet = simulated(X, FIRST, fires=False)
    assert layer.rate == pytest.approx(spikes.mean(), rel=1e-5)
    assert layer.firing == pytest.approx(spikes.any((0, 1)).mean(), rel=1e-5)
    assert layer.drive == pytest.approx(quiet.std(), rel=1e-4)
    assert layer.recoil == pytest.approx(u.std() / quiet.std(), rel=1e-4)
    assert layer.distance == pytest.approx(((u - 1).mean(), u.std()), rel=1e-4)
    # the slope of Sigmoid(4) has a peak of 1 at the threshold
    slope = 4 / (np.exp(2 * (u - 1)) + np.exp(-2 * (u - 1))) ** 2
    assert layer.reach == pytest.approx(slope.mean(), rel=1e-3)
    assert layer.steepness == pytest.approx(1, rel=1e-3)


@pytest.mark.slow
def test_drive_is_that_without_spikes_also_for_a_delayed_reset():
    weight = matrix(1, 300.0, UNITS)
    network = stack(Layer(weight, LIF(0.9, reset="value", delay_reset=True)))
    _, quiet = simulated(X, weight, fires=False)
    assert diagnose(network, X, loss).layers["0"].drive == pytest.approx(quiet.std(), rel=1e-4)


@pytest.mark.slow
def test_masked_steps_do_not_count():
    mask = np.ones((STEPS, EXAMPLES), bool)
    mask[12:, :5] = False
    layer = diagnose(stack(), X, loss, mask=mask).layers["0"]
    spikes, u = simulated(X, FIRST)
    assert layer.rate == pytest.approx(spikes[mask].mean(), rel=1e-5)
    assert layer.distance == pytest.approx(((u - 1)[mask].mean(), u[mask].std()), rel=1e-4)


@pytest.mark.slow
def test_gradient_and_update_are_relative_to_the_weights():
    report = diagnose(HEALTHY, X, loss, optimizer=optax.sgd(0.5), train=False)
    value, gradient = value_and_gradient(HEALTHY)
    for name, layer in report.layers.items():
        g, w = (np.linalg.norm(tree.layers[name].weight) for tree in (gradient, HEALTHY))
        assert layer.gradient == pytest.approx(g / w, rel=1e-3)
        assert layer.update == pytest.approx(0.5 * g / w, rel=1e-3)
    assert report.loss == pytest.approx(float(value), rel=1e-5)


@pytest.mark.slow
def test_weights_of_named_inputs_are_trained():
    inputs = {"a": X, "b": 1 - X}
    layers = {"0": Layer({"a": FIRST, "b": SECOND[:UNITS]}, CELL), "1": READOUT}
    network = Network(layers, inputs=("a", "b"))
    # A mask of the optimizer has the names of the arrays.
    optimizer = optax.masked(optax.sgd(0.5), jax.tree.map(lambda _: True, partition(network)[0]))
    layer = diagnose(network, inputs, loss, optimizer=optimizer, train=False).layers["0"]
    gradient = jax.grad(lambda network: loss(network(inputs, backward="scan")[1]))(network)
    g, w = (np.linalg.norm(ravel_pytree(n.layers["0"])[0]) for n in (gradient, network))
    assert layer.gradient == pytest.approx(g / w, rel=1e-3)
    assert layer.update == pytest.approx(0.5 * g / w, rel=1e-3)


@pytest.mark.parametrize(
    ("network", "kind", "place"),
    [
        (stack(threshold=jnp.array(-1.0)), "saturated", "1"),
        pytest.param(
            stack(surrogate=-1.0 * Sigmoid(4.0)), "out of reach", "1", marks=pytest.mark.slow
        ),
        pytest.param(
            stack(surrogate=Sigmoid(jnp.array(0.1))), "vanishes", "1", marks=pytest.mark.slow
        ),
        pytest.param(
            stack(cell=NUMBERS, surrogate=Sigmoid(40.0)), "explodes", "1", marks=pytest.mark.slow
        ),
        (stack(surrogate=Sigmoid(jnp.array(40.0))), "explodes", "1"),
        (stack(surrogate=lambda x: (x >= 0).astype(x.dtype)), "out of reach", "1"),
        (stack(decay=jnp.array(1.5)), "explodes", "1"),
        (stack(second=matrix(2, 1e-3)), "silent", "1"),
        (stack(second=SECOND + 2), "saturated", "1"),
        pytest.param(
            stack(second=Layer(SECOND, CELL, bias=jnp.full(HIDDEN, -20.0))),
            "silent",
            "1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            stack(second=Layer(SECOND, CELL, recurrent=matrix(4, 40.0))),
            "saturated",
            "1",
            marks=pytest.mark.slow,
        ),
        (stack(second=Layer(SECOND, AdaptiveLIF(0.9, adaptation=40.0))), "silent", "1"),
        (stack(first=jnp.full((UNITS, HIDDEN), 0.5)), "alike", "0"),
    ],
)
def test_issue_names_the_layer_and_its_repair_has_none(network, kind, place):
    report = diagnose(network, X, loss, train=False)
    assert names(report.issues)[:1] == [(kind, place)]
    if report.issues[0].fixes:
        assert issues(report.repaired) == []


def test_healthy_network_has_no_issue():
    report = diagnose(stack(), X, loss)
    assert report.issues == ()
    assert report.repaired is not None
    assert "not trained" in report.verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "inputs", "mask", "expected", "reason"),
    [
        # Zeros are also equal for all examples.
        (HEALTHY, 0 * X, None, [("silent", "0"), ("vanishes", None)], "its inputs are zero"),
        (HEALTHY, X * EARLY[:, None, None], ~EARLY, [("silent", "0")], "the mask excludes"),
        (
            stack(second=Layer(Delayed(SECOND, STEPS), CELL)),
            X,
            None,
            [("silent", "1")],
            "delay of 20 steps is longer",
        ),
        (
            Network([Layer(FIRST, CELL), Layer(Delayed(OUT, STEPS), READOUT.cell)]),
            X,
            None,
            [("silent", "1")],
            "",
        ),
    ],
)
def test_silence_is_traced_to_inputs_mask_or_delay(network, inputs, mask, expected, reason):
    found = diagnose(network, inputs, loss, mask=mask, train=False).issues
    assert names(found)[: len(expected)] == expected
    assert len(found) == len(expected) or "delay" in found[0].description
    assert reason in found[0].description


@pytest.mark.slow
def test_inputs_that_tell_nothing_are_named():
    # The mean of equal numbers that are no spikes is rounded.
    for one_example in (X[:, :1], 0.1 * np.random.default_rng(1).normal(size=(STEPS, 1, UNITS))):
        _, issue = one_issue(stack(), np.repeat(one_example, EXAMPLES, 1).astype(np.float32))
        assert (issue.kind, issue.place) == ("vanishes", None)
        assert issue.description == "the inputs of all examples are equal"
    weights = {"cue": matrix(1, 3.0, UNITS, 2), "noise": matrix(2, 3.0, UNITS, 2)}
    network = Network({"out": Layer(weights, LeakyReadout(0.9))}, inputs=("cue", "noise"))
    first = diagnose(network, {"cue": 0 * X, "noise": X}, loss, train=False).issues[0]
    assert (first.kind, first.place, first.description) == ("silent", "out", "its inputs are zero")


@pytest.mark.slow
def test_inputs_of_unusual_size_or_mean_are_standardized():
    channel = np.where(np.arange(UNITS) == 3, 3000, 1).astype(np.float32)
    currents = 0.3 * np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    for inputs in (X * channel, 1e-4 * X, currents + 50):
        first = diagnose(stack(), inputs, loss, train=False).issues[0]
        assert (first.kind, first.place) == ("unscaled", "0")
        # the wrapped weights and the pasted code give the same outputs
        scope = {"np": np, "inputs": inputs}
        exec(first.fixes[0].code, scope)
        assert hidden_arrays(first.apply(stack()), inputs) == []
        pasted = outputs_of(stack(), scope["inputs"].astype(np.float32))
        np.testing.assert_allclose(
            pasted, outputs_of(first.apply(stack()), inputs), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(
    "weight", [lambda w: w, lambda w: Delayed(w, 2), lambda w: Window(jnp.stack([w, w]))]
)
def test_inputs_of_any_weight_are_standardized(weight):
    inputs = 50 + 0.3 * np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    network = Network(
        {"out": Layer({"input": weight(matrix(1, 3.0, UNITS, 4))}, LeakyReadout(0.9))}
    )
    issue = diagnose(network, inputs, loss, train=False).issues[0]
    assert (issue.kind, issue.place) == ("unscaled", "out")
    assert "Means are from 50 to 50, sizes from 0.2" in issue.description
    expected = outputs_of(network, inputs - inputs.mean((0, 1)))
    np.testing.assert_allclose(outputs_of(issue.apply(network), inputs), expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "place", "text", "change", "options"),
    [
        ("silent", "sum", "of this join are 0", lambda a, b: a * 0 * b, {}),
        ("vanishes", "sum", "derivative of this join is 0", lambda a, b: jnp.round(a + b), {}),
        ("not finite", "sum", "derivative of this join is NaN", lambda a, b: jnp.sqrt(a * b), {}),
        ("not finite", "sum", "its outputs are the first", lambda a, b: jnp.log(a + b - 1), {}),
        (
            "vanishes",
            None,
            "gradient of the loss",
            jnp.add,
            {"loss": lambda out: (out.argmax(-1) * 1.0).mean()},
        ),
        (
            "vanishes",
            None,
            "reads no outputs after step 1",
            jnp.add,
            {"loss": lambda out: loss(out[:2])},
        ),
        (
            "silent",
            None,
            "step of 3 of 12 examples",
            jnp.add,
            {"mask": np.tile(np.arange(EXAMPLES) > 2, (STEPS, 1))},
        ),
        (
            "silent",
            None,
            "True marks a valid step",
            jnp.add,
            {"mask": np.zeros((STEPS, EXAMPLES), bool)},
        ),
    ],
)
def test_parts_that_pass_nothing_on_are_named(kind, place, text, change, options):
    network = Network(
        {
            "a": Layer(matrix(1, 3.0, UNITS, UNITS), CELL),
            "sum": Join(change, of=("a", "input")),
            # A name before the others in the alphabet, because JAX sorts the keys of a dict.
            "O": Layer(matrix(3, 1.0, UNITS, 2), LeakyReadout(0.9)),
        }
    )
    first = diagnose(network, X, **{"loss": loss, "train": False} | options).issues[0]
    assert (first.kind, first.place) == (kind, place)
    assert text in first.description


def test_gradient_is_lost_at_the_last_layer_without_one():
    weight = jax.tree_util.Partial(lambda w, x: jax.lax.stop_gradient(x @ w), matrix(2, 3.0, m=2))
    [issue] = diagnose(
        Network([Layer(FIRST, CELL), Layer(weight, READOUT.cell)]), X, loss, train=False
    ).issues
    assert (issue.kind, issue.place) == ("vanishes", "1")
    assert "the gradient of its weights is 0" in issue.description


@pytest.mark.slow
def test_nan_behind_a_mask_is_no_issue():
    mask = np.arange(STEPS) < 15
    assert issues(stack(), np.where(mask[:, None, None], X, np.nan), mask=mask) == []


@pytest.mark.slow
def test_array_of_thresholds_is_set():
    network = stack(threshold=jnp.full(HIDDEN, -20.0))
    report = diagnose(network, X, loss, train=False)
    assert names(report.issues) == [("saturated", "1")]
    scope = {"dataclasses": dataclasses, "np": np, "network": network}
    exec(report.code, scope)
    for repaired in (report.repaired, scope["network"]):
        np.testing.assert_array_equal(repaired.layers["1"].cell.threshold, np.ones(HIDDEN))


@pytest.mark.slow
def test_numbers_that_cover_a_range_are_left():
    # Their mean is far above the default of 1.
    thresholds = jnp.linspace(1.0, 60.0, HIDDEN)
    network = stack(1e-4 * FIRST, cell=LIF(0.9, thresholds, Sigmoid(4.0)))
    issue, *_ = diagnose(network, X, loss, train=False).issues
    assert (issue.kind, issue.place) == ("silent", "0")
    assert [type(fix) for fix in issue.fixes] == [ScalePart]
    # None is usual, although their mean is 0.
    network = stack(threshold=jnp.where(jnp.arange(HIDDEN) < HIDDEN // 2, -20.0, 20.0))
    *_, issue = diagnose(network, X, loss, train=False).issues
    assert [fix.text for fix in issue.fixes] == ["set its threshold to 1"]


@pytest.mark.slow
@pytest.mark.parametrize("factors", [(1, 1e3), (1e3, 1), (1e3, 1e3)])
def test_the_one_of_two_readouts_that_is_too_large_is_scaled(factors):
    readouts = {
        name: Layer(factor * OUT, READOUT.cell, of="0")
        for name, factor in zip("ab", factors, strict=True)
    }
    network = Network({"0": Layer(FIRST, CELL), **readouts}, outputs=("a", "b"))
    report = diagnose(network, X, lambda out: loss(out["a"]) + loss(out["b"]), train=False)
    expected = [name for name, factor in zip("ab", factors, strict=True) if factor > 1]
    assert names(report.issues) == [("too large", name) for name in expected]
    assert all(issue.fixes for issue in report.issues)


def test_layer_without_spikes_below_a_layer_with_spikes_is_no_readout():
    """If it is ten times smaller, the spikes are silent, and so are the outputs."""
    layers = [Layer(FIRST, Relu()), Layer(0.3 * SECOND, CELL), Layer(1e4 * OUT, READOUT.cell)]
    report = diagnose(Network(layers), X, loss, train=False)
    assert names(report.issues) == [("too large", "2")]
    assert [type(fix) for fix in report.issues[0].fixes] == [ScalePart]


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, -5], ids=["from 0 on", "below 0"])
@pytest.mark.parametrize(
    "joins", [{}, {"whole": Join(lambda out: out, "2")}], ids=["output", "below a join"]
)
def test_readout_that_is_too_large_is_scaled(joins, offset):
    network = stack()
    last = dataclasses.replace(READOUT, weight=1000 * OUT)
    network = dataclasses.replace(network, layers=network.layers | {"2": last, **joins})
    report = diagnose(network, X, lambda out: loss(out) + offset, train=False)
    assert names(report.issues) == [("too large", "2")]
    assert (f"from the lowest loss of {offset} on" in report.issues[0].description) == (offset < 0)
    assert loss(outputs_of(report.repaired, X)) < 1.5 * loss(jnp.zeros((STEPS, EXAMPLES, 2)))


@pytest.mark.slow
# With the smaller one, the first loss is usual, so no measure asks for another scale.
@pytest.mark.parametrize(("size", "found"), [(60, [("too large", "1")]), (40, [])])
def test_outputs_are_too_sure_although_less_sure_ones_learn(size, found):
    rng = np.random.default_rng(2)
    labels = np.arange(60) % 2
    rates = np.where((np.arange(UNITS) < 5) == labels[:, None], 0.32, 0.08)
    inputs = (rng.random((STEPS, 60, UNITS)) < rates).astype(np.float32)
    weight = rng.normal(size=(UNITS, HIDDEN)) * 3 / UNITS**0.5
    readout = size * rng.normal(size=(HIDDEN, 2)) / HIDDEN**0.5
    network = Network(
        [
            Layer(jnp.float32(weight), LIF(0.9)),
            Layer(jnp.float32(readout), LeakyReadout(0.9)),
        ]
    )

    def errors(out):
        scores = optax.softmax_cross_entropy_with_integer_labels(out[-1], jnp.asarray(labels))
        return scores.mean()

    report = diagnose(network, inputs, errors, optimizer=optax.adam(1e-2))
    assert report.outcome.learned > 0.6
    assert report.outcome.plain < -0.5
    assert names(report.issues) == found
    assert ("its outputs are too sure for other examples" in report.verdict) == (found == [])


@pytest.mark.slow
@pytest.mark.parametrize("factor", [3e3, 1e6], ids=["little gradient", "no gradient"])
def test_readout_that_saturates_a_bounded_loss_is_scaled(factor):
    def reward(out):
        chances = jax.nn.softmax(out.mean(0))
        return -chances[jnp.arange(EXAMPLES), jnp.arange(EXAMPLES) % 2].mean()

    network = stack()
    last = dataclasses.replace(READOUT, weight=factor * OUT)
    network = dataclasses.replace(network, layers=network.layers | {"2": last})
    report = diagnose(network, X, reward, train=False)
    assert names(report.issues) == [("too large", "2")]
    assert "saturate" in report.issues[0].description

    def gradient(out):
        return abs(jax.grad(reward)(out)).sum()

    usual = gradient(jnp.zeros((STEPS, EXAMPLES, 2)))
    assert gradient(outputs_of(network, X)) < usual / 30
    assert gradient(outputs_of(report.repaired, X)) >= usual / 2


def test_memory_shorter_than_the_task_is_lengthened():
    inputs = X * (np.arange(STEPS)[:, None, None] < 3)

    def at_the_end(out):
        return (out[-2:] ** 2).mean() + 1

    network = Network([Layer(matrix(1, 3.0, UNITS, 4), LeakyReadout(0.3))])
    report = diagnose(network, inputs, at_the_end, train=False)
    [issue] = report.issues
    assert issue.kind == "forgets"
    assert "in layer" not in str(issue)
    assert 0.9 < report.repaired.layers["0"].cell.decay < 0.97


GRAPH = Network(
    {
        "stem": Layer(FIRST, CELL),
        "a": Layer({"stem": matrix(2, 300.0)}, CELL),
        "sum": Join(lambda a, stem: a + stem, of=("a", "stem")),
        "out": READOUT,
    }
)


DELAYS = jnp.asarray(np.random.default_rng(4).uniform(0, 4, (UNITS, HIDDEN)), jnp.float32)
KERNELS = Network(
    [Layer(Window(DelayKernel(1e-2 * FIRST, bounded(DELAYS, 0, 4), 5)), CELL), READOUT]
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "kind", "place"),
    [
        (stack(cell=NUMBERS, threshold=30.0), "silent", "1"),
        (stack(first=FIRST - 2), "silent", "0"),
        (stack(second=jnp.zeros((HIDDEN, HIDDEN))), "silent", "1"),
        (stack(first=jnp.full((UNITS, HIDDEN), 0.5)), "alike", "0"),
        (stack(surrogate=PiecewiseQuadratic(300.0)), "out of reach", "1"),
        (stack(surrogate=shifted(Sigmoid(4.0), 30.0)), "out of reach", "1"),
        # A bias in a function, as a leaf or hidden, which its matrix hides from other moves.
        (stack(Layer(with_bias(FIRST, -10.0), CELL)), "silent", "0"),
        (GRAPH, "saturated", "a"),
    ],
)
def test_fixes_as_code_change_the_network_as_apply_does(network, kind, place):
    report = diagnose(network, X, loss, train=False)
    scope = {
        "dataclasses": dataclasses,
        "jax": jax,
        "network": network,
        "np": np,
        "rescaled": rescaled,
        "Sigmoid": Sigmoid,
    }
    exec(report.code, scope)
    before, pasted, repaired = (
        ravel_pytree(next(iter(value_and_gradient(n)[1].layers.values())).weight)[0]
        for n in (network, scope["network"], report.repaired)
    )
    np.testing.assert_allclose(pasted, repaired, rtol=2e-2, atol=1e-6)
    assert not np.allclose(before, repaired, rtol=0.1)
    assert names(report.issues)[0] == (kind, place)
    assert issues(report.repaired) == []


def test_factor_of_weights_leaves_learned_delays():
    moves = neutral_moves(KERNELS, {})
    move = next(m for m in moves if m.place == "0" and isinstance(m, ScalePart))
    move = dataclasses.replace(move, value=100.0)
    scope = {"network": KERNELS, "dataclasses": dataclasses, "jax": jax, "DelayKernel": DelayKernel}
    exec(move.code, scope)
    before = KERNELS.layers["0"].weight.weight
    for network in (move.apply(KERNELS), scope["network"]):
        kernel = network.layers["0"].weight.weight
        np.testing.assert_array_equal(kernel.delay.raw, before.delay.raw)
        np.testing.assert_allclose(kernel.weight, 100 * before.weight, rtol=1e-6)


@pytest.mark.slow
def test_mean_of_weights_is_subtracted_beside_learned_delays():
    kernel = DelayKernel(-30 * abs(FIRST), bounded(DELAYS, 0, 4), 5)
    network = Network([Layer(Window(kernel), CELL), READOUT])
    report = diagnose(network, X, loss, train=False)
    issue = report.issues[0]
    assert (issue.kind, issue.place) == ("silent", "0")
    assert issue.fixes[0].text == "subtract the mean from its weights"
    scope = {"network": network, "dataclasses": dataclasses, "jax": jax, "DelayKernel": DelayKernel}
    exec(report.code, scope)
    for repaired in (report.repaired, scope["network"]):
        changed = repaired.layers["0"].weight.weight
        np.testing.assert_array_equal(changed.delay.raw, kernel.delay.raw)
        assert abs(changed.weight.mean()) < 1e-3 * changed.weight.std()
        assert issues(repaired) == []


@pytest.mark.slow
@pytest.mark.parametrize("bias", few([-10.0, 10.0], -10.0))
@pytest.mark.parametrize("is_hidden", few([True, False], False))
def test_current_that_a_function_adds_is_taken_back(bias, is_hidden):
    weight = with_bias(SECOND, jnp.full(HIDDEN, bias))
    layer = Layer(weight, CELL, bias=jnp.ones(HIDDEN))
    if is_hidden:
        layer = Layer(lambda x: weight(x), CELL)  # noqa: PLW0108  (hides the arrays)
    report = diagnose(stack(second=layer), X, loss, train=False)
    assert names(report.issues)[0] == ("silent" if bias < 0 else "saturated", "1")
    np.testing.assert_allclose(report.repaired.layers["1"].bias, -bias, rtol=1e-5)
    assert issues(report.repaired) == []


@pytest.mark.slow
def test_shift_of_a_join_below_a_layer_without_weights_is_taken_back():
    mask = np.arange(STEPS) < 15
    network = Network(
        {
            "shifted": Join(lambda x: x @ FIRST - 25.0, "input"),
            "hidden": Layer(None, NUMBERS),
            "out": Layer(OUT, READOUT.cell),
        }
    )
    report = diagnose(network, X, loss, mask=mask, train=False)
    assert names(report.issues)[0] == ("silent", "hidden")
    mean = (X[:15] @ FIRST - 25.0).mean((0, 1))
    np.testing.assert_allclose(report.repaired.layers["hidden"].bias, -mean, rtol=1e-4)
    assert issues(report.repaired, mask=mask) == []


@pytest.mark.slow
def test_number_that_puts_the_slope_out_of_reach_is_set_before_the_layers_above():
    # The synapse adds up to ten inputs, so some neurons reach a threshold of 50.
    cell = SynapticLIF(0.9, synaptic_decay=0.9, threshold=50.0, surrogate=Sigmoid(4.0))
    report = diagnose(stack(Layer(3 * FIRST, cell)), X, loss, train=False)
    first = report.issues[0]
    assert (first.kind, first.place) == ("out of reach", "0")
    assert first.fixes[0].text == "set its threshold to 1"
    assert report.layers["0"].firing > 0.05


@pytest.mark.slow
def test_functions_as_weights_are_scaled():
    kernel = matrix(1, 1e-3, UNITS)
    for weight in (lambda x: x @ kernel, jax.tree_util.Partial(lambda k, x: x @ k, kernel)):
        report = diagnose(stack(Layer(weight, CELL)), X, loss, train=False)
        assert names(report.issues) == [("silent", "0")]
        assert diagnose(report.repaired, X).issues == ()
    large = Layer(
        lambda x: x @ abs(100 * 45e3 * kernel), HiddenSurrogate()
    )  # for which 45e3 is right, see below
    assert "scale its weights by 0.01" in str(diagnose(stack(large), X, loss, train=False))


@pytest.mark.slow
def test_mean_of_a_kernel_is_subtracted():
    kernel = FIRST[None] - 2
    weight = jax.tree_util.Partial(lambda k, x: x @ k[0], kernel)
    report = diagnose(stack(Layer(weight, CELL)), X, loss, train=False)
    assert names(report.issues)[0] == ("silent", "0")
    [repaired] = jax.tree.leaves(report.repaired.layers["0"].weight)
    np.testing.assert_allclose(repaired, kernel - kernel.mean(), atol=1e-5)
    assert issues(report.repaired) == []


@pytest.mark.slow
def test_slope_with_gradients_that_overflow_is_rescaled():
    network = stack(
        cell=dataclasses.replace(NUMBERS, surrogate=rescaled(NUMBERS.surrogate, peak=1e30))
    )
    assert not np.isfinite(value_and_gradient(network)[1].layers["0"].weight).all()
    report = diagnose(network, X, loss, train=False)
    assert names(report.issues) == [("explodes", "0"), ("explodes", "1")]
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


@pytest.mark.slow
@pytest.mark.parametrize("cell", [TwoCompartments(), OneCompartment(), Refractory(CELL, 2)])
def test_custom_and_wrapped_cells_are_measured_at_their_surrogate(cell):
    report = diagnose(stack(second=Layer(matrix(2, 3e-3), cell)), X, loss)
    assert names(report.issues) == [("silent", "1")]
    assert report.layers["1"].scale == pytest.approx(1)


class FailingSpikes(TwoCompartments):
    """Its spikes fail at random, with a key of the network, without which it cannot fire."""

    draws = True

    def fire(self, u, key=None):
        v, spikes = super().fire(u)
        keys = jnp.broadcast_to(key, u[0].shape[:1])
        kept = jax.vmap(lambda key, s: jax.random.bernoulli(key, 0.9, s.shape))(keys, spikes)
        return v, spikes * kept


def test_cell_that_draws_in_fire_is_measured_at_its_surrogate():
    network = stack(second=Layer(matrix(2, 3e-3), FailingSpikes()))
    report = diagnose(network, X, loss, train=False, key=jax.random.key(0))
    assert names(report.issues) == [("silent", "1")]
    assert report.layers["1"].scale == pytest.approx(1)


class HiddenSurrogate(Cell):
    """A custom cell that makes its surrogate in ``fire``, at a potential in millivolts."""

    threshold: float = parameter(default=15.0)

    def integrate(self, v, current):
        return 0.9 * v + current

    def fire(self, u):
        s = Sigmoid(0.3)(u - self.threshold)
        return u - s * u, s


class UnusedSurrogate(HiddenSurrogate):
    """Its field with a surrogate is not what fires."""

    surrogate: Callable = parameter(default=Sigmoid(4.0), kind=Callable)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [HiddenSurrogate, UnusedSurrogate])
@pytest.mark.parametrize(("threshold", "state"), [(15e3, "silent"), (-15e3, "saturated")])
def test_layer_without_a_field_of_its_surrogate_is_judged_by_its_spikes(kind, threshold, state):
    report = diagnose(stack(Layer(matrix(1, 45.0, UNITS), kind(threshold))), X, loss)
    assert names(report.issues)[:2] == [("not measured", "0"), (state, "0")]
    assert "its surrogate is not a field of the cell" in str(report.issues[0])
    assert report.repaired.layers["0"].cell.threshold == 15
    assert report.layers["0"].rate == (state == "saturated")


@pytest.mark.slow
@pytest.mark.parametrize("omega", [0.5, np.full(HIDDEN, 0.5)])
def test_repair_never_makes_an_invalid_cell(omega):
    """The default of omega is 10, which needs a shorter dt. That of dt gives smaller potentials."""
    report = diagnose(stack(Layer(FIRST, RF(omega, b=-0.3, dt=0.5, threshold=1e4))), X, loss)
    assert names(report.issues)[0] == ("silent", "0")
    assert (report.repaired.layers["0"].cell.threshold, report.repaired.layers["0"].cell.dt) == (
        1,
        0.5,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "scale", "expected"), [(20000, 1, ("not finite", "2")), (1, 6e4, ("unscaled", "0"))]
)
def test_weights_or_inputs_that_overflow_are_scaled(factor, scale, expected):
    network = jax.tree.map(lambda a: a.astype(jnp.float16), HEALTHY)
    large = dataclasses.replace(network.layers["2"], weight=factor * network.layers["2"].weight)
    network = dataclasses.replace(network, layers=network.layers | {"2": large})
    inputs = (scale * X).astype(np.float16)
    report = diagnose(network, inputs, lambda out: loss(out.astype(jnp.float32)))
    assert names(report.issues)[0] == expected
    assert not np.isfinite(outputs_of(network, inputs)).all()
    assert np.isfinite(outputs_of(report.repaired, inputs)).all()


@jax.custom_jvp
def spoilt(x):
    return x


spoilt.defjvp(lambda x, t: (x[0], t[0] * jnp.nan))


@pytest.mark.slow
def test_numbers_that_are_not_finite_are_named():
    first = diagnose(stack(second=SECOND.at[0, 0].set(jnp.nan)), X, loss).issues[0]
    assert (first.kind, first.place) == ("not finite", "1")
    assert "layers/1/weight has NaN" in first.description
    weight = jax.tree_util.Partial(
        lambda w, b, x: x @ spoilt(w) + spoilt(b), SECOND, jnp.zeros(HIDDEN)
    )
    report = diagnose(stack(second=Layer(weight, CELL)), X, loss, optimizer=optax.adam(1e-2))
    assert names(report.issues) == [("not finite", "1")]
    assert "the gradient of layers/1/weight" in report.issues[0].description
    [issue] = diagnose(stack(), X, lambda out: jnp.nan * out.sum()).issues
    assert (issue.kind, issue.place) == ("not finite", None)
    # Outputs that are too large for the loss are those of the readout.
    overflows = Network([Layer(FIRST, CELL), Layer(jnp.full((HIDDEN, 2), 1e30), READOUT.cell)])
    issues = diagnose(
        overflows, X, lambda out: (out**2).mean() - (out**2).mean() + loss(out)
    ).issues
    assert names(issues)[0] == ("not finite", "1")


@pytest.mark.slow
def test_potentials_of_nan_are_no_fault_of_the_slope():
    network = Network(
        {
            "0": Layer(FIRST, CELL),
            "divided": Join(lambda s: s / s.sum(-1, keepdims=True), of="0"),
            "1": Layer(SECOND, CELL),
            "2": READOUT,
        }
    )
    report = diagnose(network, X, loss, train=False)
    assert names(report.issues) == [("not finite", "divided")]


@pytest.mark.slow
def test_gradient_of_the_loss_that_is_nan_is_no_fault_of_a_layer():
    def root(out):  # finite, and its derivative is 0 times infinity
        return loss(out) + jnp.sqrt(((out - out) ** 2).sum())

    [issue] = diagnose(stack(), X, root, train=False).issues
    assert (issue.kind, issue.place) == ("not finite", None)
    assert "the gradient of the loss in the outputs" in issue.description


@pytest.mark.slow
def test_function_below_a_silent_layer_has_a_derivative():
    weight = jax.tree_util.Partial(lambda w, x: x @ w, SECOND)
    silent = LIF(0.9, threshold=80.0, surrogate=Sigmoid(4.0))
    network = stack(Layer(FIRST, silent), second=Layer(weight, CELL))
    report = diagnose(network, X, loss, train=False)
    assert report.layers["0"].firing == 0
    assert names(report.issues)[0] == ("silent", "0")
    assert not any("no derivative" in issue.description for issue in report.issues)


def test_slope_too_small_for_numbers_has_a_width():
    tiny = 1e-20 * Sigmoid(4.0)
    report = diagnose(stack(surrogate=tiny), X, loss, train=False)
    assert ("vanishes", "1") in names(report.issues)
    assert report.issues[0].fixes


@pytest.mark.slow
def test_first_update_tells_a_wrong_learning_rate():
    network = Network([Layer(FIRST, CELL), READOUT])
    for optimizer, kind in (
        (optax.adam(30.0), "overshoots"),
        (optax.adam(1e-8), "stalls"),
        (optax.chain(optax.adam(1e-2), optax.scale(-1)), "ascends"),
    ):
        report = diagnose(network, X, loss, optimizer=optimizer, train=False)
        assert names(report.issues) == [(kind, None)]
        assert diagnose(network, X, loss, optimizer=report.optimizer, train=False).issues == ()


def task():
    """Two classes by the rate of half of the channels."""
    rng = np.random.default_rng(3)
    labels = np.arange(60) % 2
    rates = np.where((np.arange(UNITS) % 2 == labels[:, None]), 0.4, 0.1)
    return (rng.random((STEPS, 60, UNITS)) < rates).astype(np.float32), labels


INPUTS, CLASSES = task()
NOISE = np.random.default_rng(5).integers(0, 2, 60)
"""Labels at random, of which a network learns examples by heart and no others."""


def mean(out):
    return out.mean(0)


def last(out):
    return out[-1]


def trained(network, inputs=INPUTS, labels=CLASSES, optimizer=None, read=mean, **options):
    def cross_entropy(out):
        scores = jax.nn.log_softmax(read(out.astype(jnp.float32)))
        return -scores[jnp.arange(len(labels)), labels].mean()

    return diagnose(
        network, inputs, cross_entropy, optimizer=optimizer or optax.adam(1e-2), **options
    )


FAULTY = stack(cell=NUMBERS, threshold=30.0)


@pytest.mark.slow
def test_repaired_network_learns():
    texts = []
    report = trained(FAULTY, progress=texts.append)
    assert names(report.issues) == [("silent", "1")]
    assert report.repaired.layers["1"].cell.threshold == 1
    assert report.outcome.learned < 0.1
    assert report.outcome_repaired.learned > 0.6
    assert "with these changes" in report.verdict
    assert texts[:2] == ["measuring", "training"]


@pytest.mark.slow
def test_learning_network_has_no_issue_although_a_measure_is_outside():
    report = trained(stack(cell=NUMBERS, surrogate=Sigmoid(40.0)))  # which explodes, see above
    assert report.outcome.learned > 0.75
    assert report.issues == ()
    assert report.verdict.endswith("it learns")


@pytest.mark.slow
def test_network_that_learns_slowly_has_no_issue():
    report = trained(HEALTHY, optimizer=optax.adam(7e-4))
    assert 0.1 < report.outcome.learned < 0.6
    assert report.issues == ()
    assert "it learns, slowly: 240 updates remove " in report.verdict


@pytest.mark.slow
def test_labels_of_an_optimizer_fit_although_a_change_adds_a_node():
    """The standardization of inputs is a node, which the labels of a user do not have."""
    network = Network([Layer(FIRST, NUMBERS), READOUT])
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "readout" if "'1'" in str(path) else "others", network
    )
    rates = {"readout": optax.sgd(0.1, momentum=0.9), "others": optax.adam(1e-2)}
    optimizer = optax.partition(rates, lambda _: labels)
    report = trained(network, 1e-3 * INPUTS, optimizer=optimizer)
    assert [fix.text for fix in report.issues[0].fixes] == [
        "standardize the inputs 'input' by their means and sizes"
    ]
    assert report.outcome_repaired.learned > 0.6
    # The optimizer of the report fits the repaired network.
    parameters, _ = partition(report.repaired)
    state = report.optimizer.init(parameters)
    updates, _ = report.optimizer.update(parameters, state, parameters)
    np.testing.assert_allclose(updates.layers["1"].weight, -0.1 * OUT, rtol=1e-6)


@pytest.mark.slow
def test_line_search_runs_although_a_change_adds_a_node():
    network = Network([Layer(FIRST, NUMBERS), READOUT])
    report = trained(network, optimizer=optax.lbfgs())
    assert report.outcome.learned > 0.6


def study_after(initial, learns_in_part=True, silent=(), is_stuck=False):
    """A study with this outcome without changes, of a network that learns in more updates."""
    study = SimpleNamespace(
        initial=initial,
        is_sound=initial.is_partial and not initial.is_too_sure,
        is_stuck=is_stuck,
        is_slow=True,
        learns_in_part=learns_in_part,
        untrained=(),
        silent=silent,
        trials=SimpleNamespace(allows=lambda moves: True),
    )
    study.helps = functools.partial(Study.helps, study)
    return study


@pytest.mark.parametrize(
    ("kind", "before", "after", "expected"),
    [
        ("saturated", 0.65, 0.9, True),
        ("saturated", 0.65, 0.8, False),
        ("saturated", 0.8, 1.0, False),
        ("too large", 0.65, 0.9, False),
    ],
)
def test_network_that_learns_is_held_back_by_a_fault_that_leaves_twice_the_loss(
    kind, before, after, expected
):
    initial, repaired = (trial.Outcome(n, n, n, n) for n in (before, after))
    issue = Issue(kind, "1", "", (ScalePart("1", 0.1, "weight"),))

    def train(moves):
        return repaired

    train.allows = lambda moves: True
    changes = SimpleNamespace(issues=(issue,))
    study = SimpleNamespace(initial=initial, changes=changes, trials=train)
    assert Study.is_held_back.func(study) == expected


@pytest.mark.parametrize(("learned", "count"), [(0.5, 1), (0.3, 0)])
def test_change_is_an_issue_if_a_slow_network_then_learns_twice_as_much(learned, count):
    initial, repaired = (trial.Outcome(n, n, n, n) for n in (0.2, learned))
    issue = Issue("silent", "3", "", (ScaleRate(None, 2.0),))
    study = study_after(initial, silent=(issue,))
    found = accepted(study, Candidate((issue,), repaired, 0.0))
    assert len(found.issues) == count


@pytest.mark.parametrize(("learned", "places"), [(0.3, ["1", None]), (0.7, [None])])
def test_a_silent_layer_stays_an_issue_beside_a_rate_that_helps_in_part(learned, places):
    initial, repaired = (trial.Outcome(n, n, n, n) for n in (0.0, learned))
    silent = Issue("silent", "1", "", (ScalePart("1", 10.0, "weight"),))
    rate = Issue("stalls", None, "", (ScaleRate(None, 10.0),))
    study = study_after(initial, learns_in_part=False, silent=(silent,))
    found = accepted(study, Candidate((rate,), repaired, 0.0))
    assert [issue.place for issue in found.issues] == places
    # The fix of the silent layer does not help.
    assert moves_of(found.issues) == moves_of([rate])


@pytest.mark.parametrize("kind", ["too large", "stalls", "optimizer"])
@pytest.mark.parametrize(
    ("learned", "plain", "count"),
    [(0.5, 0.5, 0), (0.4, 0.4, 1), (0.2, 0.2, 1), (0.5, -1, 1)],
)
def test_fault_that_only_slows_a_network_is_no_issue(kind, learned, plain, count):
    slow = Issue(kind, "2", "", (ScalePart("2", 0.1, "weight"),))
    study = study_after(trial.Outcome(learned, learned, learned, plain))
    best = Candidate((slow,), trial.Outcome(0.9, 0.9, 0.9, 0.9), 0.9)
    assert len(accepted(study, best).issues) == count
    # A silent layer does more than that.
    best = best._replace(issues=(dataclasses.replace(slow, kind="silent"),))
    assert len(accepted(study, best).issues) == 1


@pytest.mark.parametrize(("learned", "count"), [(0.8, 1), (0.7, 0)])
def test_fault_that_more_updates_do_not_mend_is_an_issue(learned, count):
    """Outputs that saturate the value of a policy learn a half, and then no more."""
    readout = Issue("too large", "2", "", (ScalePart("2", 0.1, "weight"),))
    initial, repaired = (trial.Outcome(n, n, n, n) for n in (0.5, learned))
    study = study_after(initial, is_stuck=True)
    found = accepted(study, Candidate((readout,), repaired, learned))
    assert len(found.issues) == count


# Its outputs may be worse than constants for other examples, although less sure ones are not.
@pytest.mark.parametrize(
    ("learned", "plain", "count"), [(0.7, 0.7, 1), (0.5, 0.5, 2), (0.7, -3, 2)]
)
def test_readout_is_an_issue_if_the_network_does_not_learn_with_it(learned, plain, count):
    readout = Issue("too large", "2", "", (ScalePart("2", 0.1, "weight"),))
    rate = Issue("stalls", None, "", (ScaleRate(None, 1e4),))

    def train(moves):
        # Both are needed for the best outcome, and the rate for any.
        rest = learned if RATE in moves else 0.0
        return trial.Outcome(rest, rest, rest, plain)

    train.allows = lambda moves: True
    study = SimpleNamespace(trials=train, rate=(rate,), learns=lambda moves: False)
    best = Candidate((readout, rate), trial.Outcome(0.9, 0.9, 0.9, 0.9), 0.9)
    assert names(pruned(study, best).issues) == names((readout, rate)[-count:])


@pytest.mark.parametrize(
    ("faster", "plain", "count"), [(0.9, 0.4, 2), (0.7, 0.4, 1), (0.7, -3.0, 2)]
)
def test_pruning_leaves_what_a_slow_network_learns_in_more_updates(faster, plain, count):
    """The network with the slope learns slowly. It needs the rate to learn twice as fast, or to be
    less sure.
    """
    rate = Issue("stalls", None, "", (ScaleRate(None, 10.0),))
    slope = Issue("out of reach", "1", "", (ScalePart("1", 0.1, "weight"),))

    def train(moves):
        has_slope = slope.fixes[0].slot in moves
        if has_slope and RATE in moves:
            return trial.Outcome(faster, faster, faster, faster)
        return trial.Outcome(0.4, 0.4, 0.4, plain)

    train.allows = lambda moves: True
    study = SimpleNamespace(
        trials=train, rate=(), learns=lambda moves: slope.fixes[0].slot in moves
    )
    best = pruned(study, Candidate((slope, rate), train(moves_of([slope, rate])), faster))
    assert names(best.issues) == names((slope, rate)[:count])


def test_factor_of_the_rate_may_exceed_the_range_of_float16():
    rate = ScaleRate(None, 1e6)
    scope = {"optimizer": optax.sgd(1e-6), "optax": optax, "np": np}
    exec(rate.code, scope)
    weight = jnp.ones(3, jnp.float16)
    for optimizer in (rate.change_optimizer(optax.sgd(1e-6)), scope["optimizer"]):
        updates, _ = optimizer.update(weight / 2, optimizer.init(weight))
        changed = optax.apply_updates(weight, updates)
        assert changed.dtype == jnp.float16
        np.testing.assert_allclose(changed, 0.5, rtol=0.1)


@pytest.mark.slow
def test_change_is_an_issue_if_a_network_then_learns_in_a_quarter_of_the_updates():
    layer = Layer(SECOND, NUMBERS, bias=jnp.full(HIDDEN, -4.0))
    report = trained(stack(second=layer, cell=NUMBERS), optimizer=optax.adam(5e-3))
    assert 0.1 < report.outcome.learned < 0.6 < report.outcome_repaired.learned
    assert names(report.issues) == [("silent", "1")]
    np.testing.assert_allclose(report.repaired.layers["1"].bias, 0, atol=1e-6)


@pytest.mark.slow
def test_memory_is_lengthened_if_noise_after_the_cue_hides_the_gap():
    noise = np.random.default_rng(4).random((30, *INPUTS.shape[1:])) < 0.1
    inputs = np.concatenate([INPUTS[:8], noise.astype(np.float32)])
    network = Network([Layer(matrix(1, 3.0, UNITS, 2), LeakyReadout(0.4))])
    texts = []
    report = trained(network, inputs, read=last, progress=texts.append)
    assert texts.count("training with other learning rates") == 1
    assert names(report.issues)[0] == ("forgets", "0")
    assert report.outcome_repaired.learned > report.outcome.learned + 0.2


@pytest.mark.slow
def test_memory_longer_than_the_sequence_is_shortened():
    noise = np.random.default_rng(4).random((100, *INPUTS.shape[1:])) < 0.3
    inputs = np.concatenate([noise.astype(np.float32), INPUTS[:8]])
    report = trained(
        Network([Layer(matrix(1, 0.1, UNITS, 2), LeakyReadout(0.999))]), inputs, read=last
    )
    assert names(report.issues) == [("saturated", "0")]
    assert report.repaired.layers["0"].cell.decay == pytest.approx(0.907)
    assert report.outcome_repaired.held_out > report.outcome.held_out + 0.2


@pytest.mark.parametrize(
    "decay", [bounded(0.999), jnp.full(2, 0.999), 0.999], ids=["bounded", "array", "number"]
)
def test_number_of_any_kind_is_set_and_stays_what_it_was(decay):
    network = Network([Layer(OUT, LeakyReadout(decay))])
    move = present_number("0", network.layers["0"].cell, "decay").with_number(0.95)
    scope = {"dataclasses": dataclasses, "np": np, "bounded": bounded, "network": network}
    exec(move.code, scope)
    for changed in (move.apply(network), scope["network"]):
        found = changed.layers["0"].cell.decay
        np.testing.assert_allclose(np.asarray(jnp.asarray(found)), 0.95, rtol=1e-6)
        assert isinstance(found, (type(decay), np.ndarray))
        assert len(jax.tree.leaves(changed)) == len(jax.tree.leaves(network))
    assert move.text == "set its decay to 0.95"


@pytest.mark.every
@pytest.mark.parametrize("is_bounded", [True, False])
def test_memory_is_the_one_change_although_it_makes_the_readout_too_large(is_bounded):
    """The first loss is many times that of constant outputs, so "all changes" has a scale of the
    readout.
    """
    rng = np.random.default_rng(3)
    labels = np.arange(60) % 2
    inputs = (rng.random((150, 60, UNITS)) < 0.2).astype(np.float32)
    inputs[-15:] = rng.random((15, 60, UNITS)) < np.where(
        np.arange(UNITS) % 2 == labels[:, None], 0.3, 0.1
    )
    decay = bounded(0.999) if is_bounded else 0.999
    network = Network([Layer(FIRST, LIF(0.8)), Layer(OUT, LeakyReadout(decay))])
    texts = []
    report = trained(network, inputs, labels, read=last, progress=texts.append)
    assert "training with all changes" in texts
    assert names(report.issues) == [("saturated", "1")]
    assert report.outcome_repaired.learned > 0.6 > report.outcome.learned
    scope = {"dataclasses": dataclasses, "bounded": bounded, "network": network}
    exec(report.code, scope)
    for repaired in (report.repaired, scope["network"]):
        # A tenth of the sequence.
        assert float(repaired.layers["1"].cell.decay) == pytest.approx(1 - 1 / 15, abs=1e-3)
        assert type(repaired.layers["1"].cell.decay) is type(decay)


@pytest.mark.slow
def test_memory_is_lengthened_although_a_larger_rate_learns_the_noise_by_heart():
    rng = np.random.default_rng(6)
    labels = np.arange(80) % 2
    inputs = (rng.random((36, 80, 16)) < 0.12).astype(np.float32)
    inputs[:, :, :8] = 0
    cue = np.arange(8) // 4 == labels[:, None]
    inputs[:8, :, :8] = (rng.random((8, 80, 8)) < 0.7) & cue
    inputs[:8, :, 8:] = 0
    hidden, out = (
        Layer(matrix(1, 2.0, 16, 30), LIF(0.5)),
        Layer(matrix(2, 0.5, 30, 2), LeakyReadout(0.5)),
    )
    report = trained(Network([hidden, out]), inputs, labels, read=last)
    assert [issue.kind for issue in report.issues] == ["forgets"]
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.every
def test_first_update_that_is_infinite_is_named_and_cured():
    report = trained(jax.tree.map(lambda a: a.astype(jnp.float16), HEALTHY))
    assert names(report.issues) == [("overshoots", None)]
    assert "infinite" in report.issues[0].description
    assert report.repaired.layers["0"].weight.dtype == jnp.float32
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.every
def test_rate_is_found_once_weights_of_half_precision_are_wider():
    network = jax.tree.map(lambda a: a.astype(jnp.float16), HEALTHY)
    report = trained(network, optimizer=optax.adam(1e-5))
    assert names(report.issues) == [("overshoots", None), ("stalls", None)]
    assert report.outcome.learned < 0.1
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.every
def test_adam_is_tried_with_float32_because_float16_has_no_epsilon_for_it():
    network = jax.tree.map(lambda a: a.astype(jnp.float16), HEALTHY)
    report = trained(network, optimizer=optax.adamw(1e-2, weight_decay=100.0))
    assert names(report.issues) == [("overshoots", None), ("optimizer", None)]
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.slow
def test_loss_of_equal_outputs_without_a_gradient_does_not_hide_their_cause():
    """The squared distance of two embeddings has no gradient while all neurons fire."""
    layers = {"0": HEALTHY.layers["0"], "1": Layer(SECOND, NUMBERS, bias=50.0 + jnp.zeros(HIDDEN))}

    def distances(out):
        first, second = jnp.split(out.mean(0), 2)
        return -((first - second) ** 2).mean()

    report = diagnose(Network(layers), INPUTS, distances, optimizer=optax.adam(1e-2), budget=0)
    assert names(report.issues)[0] == ("saturated", "1")


@pytest.mark.slow
def test_network_that_cannot_learn_is_never_fine():
    report = trained(HEALTHY, 0 * INPUTS, NOISE)
    assert report.outcome.learned < 0.2
    assert [(issue.kind, issue.fixes) for issue in report.issues] == [
        ("silent", ()),
        ("vanishes", ()),
    ]
    # No training with changes, because nothing can be learned from equal inputs.
    assert "no change lets it learn: check what is outside of the network" in report.verdict


def test_no_other_rate_is_tried_for_a_part_at_a_usual_rate():
    rate = Issue("stalls", None, "", (ScaleRate(None, 1e4),))
    report = SimpleNamespace(ascent=None, update=1e-2)
    for issues, count in (((), 1), ((rate,), 7)):
        study = SimpleNamespace(
            is_slow=False, is_sound=True, rate=issues, changes=SimpleNamespace(report=report)
        )
        study.is_only_slow = Study.is_only_slow.fget(study)
        stage = [stage for stage in STAGES if stage.name == "other learning rates"][-1]
        assert len([*stage.attempts(study)]) == count


def test_adam_tries_all_of_its_rates():
    study = SimpleNamespace(is_slow=False, initial=trial.Outcome(0.0, 0.0, 0.0, 0.0))
    learned = trial.Outcome(0.7, 0.7, 0.7, 0.7)
    *_, stage = STAGES
    adam = Issue("optimizer", None, "", (ReplaceOptimizer(None, 1e-2),))
    assert stage.when(study, Candidate((adam,), learned, 0.0))
    # None is tried after other changes with which the network learns.
    assert not stage.when(study, Candidate((), learned, 0.0))


@pytest.mark.parametrize(("learned", "count"), [(0.7, 1), (0.97, 0)])
def test_other_slopes_of_a_network_that_learns_must_add_much(learned, count):
    study = SimpleNamespace(is_slow=False, initial=trial.Outcome(0.0, 0.0, 0.0, 0.0))
    best = Candidate((), trial.Outcome(learned, learned, learned, learned), learned)
    stages = [stage for stage in STAGES if stage.name == "other slopes" and stage.when(study, best)]
    assert [stage.margin for stage in stages] == [-0.1] * count


def test_slopes_are_also_tried_at_three_widths():
    *_, stage = (stage for stage in STAGES if stage.name == "other slopes")
    silent = Issue("silent", "1", "", (ScalePart("1", 3.0, "weight"),))
    slope = Issue("out of reach", "1", "", (FitSlope("1", (0.5, 0.4)),))
    fitted, wider = stage.trials(SimpleNamespace(slopes=(silent, slope)))
    assert fitted == (silent, slope)
    assert names(wider) == names(fitted)
    assert [issue.fixes for issue in wider] == [silent.fixes, (FitSlope("1", (0.5, 1.2)),)]


def test_single_changes_are_tried_if_all_together_do_not_help():
    *_, stage = (stage for stage in STAGES if stage.name == "single changes")
    scale, slope = (
        Issue("silent", "1", "", (ScalePart("1", 3.0, "weight"),)),
        Issue("out of reach", "1", "", (ScalePart("1", 0.1, "bias"),)),
    )
    hopeless = Issue("vanishes", "1", "")
    changes = SimpleNamespace(issues=(scale, hopeless, slope))
    assert [*stage.trials(SimpleNamespace(changes=changes))] == [(scale,), (slope,)]


@pytest.mark.parametrize(
    ("place", "learned", "count"),
    [("2", 0.1, 1), ("0", 0.1, 0), ("2", 0.9, 0), ("1", 0.9, 1)],
    ids=["cause", "an issue below", "only slow", "an issue of its layer"],
)
def test_shorter_memory_is_tried_if_it_may_be_the_cause(place, learned, count):
    """Of the middle one of three layers. It explains no issue below, and may slow a network."""
    *_, stage = (stage for stage in STAGES if stage.name == "shorter memories")
    memory, other = Issue("saturated", "1", ""), Issue("saturated", place, "")

    def train(moves, updates):
        return trial.Outcome(learned, learned, learned, learned)

    train.allows = lambda moves, updates: True
    study = SimpleNamespace(
        memories_alone=(memory, Issue("forgets", "0", "")),
        network=SimpleNamespace(first=SimpleNamespace(layers=dict.fromkeys("012"))),
        changes=SimpleNamespace(issues=(other,)),
        trials=train,
    )
    assert [*stage.trials(study)] == [(memory,)] * count


def test_moves_of_one_issue_are_left_out_too():
    threshold, scale = ScalePart("1", 0.1, "bias"), ScalePart("1", 3.0, "weight")
    issue = Issue("saturated", "1", "", (threshold, scale))

    def train(moves):
        # The scale does harm, and the other change is needed.
        learned = 0.0 if threshold.slot not in moves else 0.6 if scale.slot in moves else 0.9
        return trial.Outcome(learned, learned, learned, learned)

    train.allows = lambda moves: True
    study = SimpleNamespace(trials=train, rate=(), learns=lambda moves: False)
    best = pruned(study, Candidate((issue,), train(moves_of([issue])), 0.6))
    assert [i.fixes for i in best.issues] == [(threshold,)]
    assert best.outcome.learned == 0.9


@pytest.mark.slow
def test_rate_that_learns_wrong_labels_by_heart_is_no_fix():
    """A network learns the part of the loss that is no noise. More of it helps no other example."""
    rng = np.random.default_rng(3)
    labels = np.arange(120) % 2
    rates = np.where(np.arange(12) % 2 == labels[:, None], 0.5, 0.2)
    inputs = (rng.random((15, 120, 12)) < rates).astype(np.float32)
    labels = np.where(rng.random(120) < 0.15, 1 - labels, labels)
    network = Network.init(jax.random.key(0), inputs, (60, 2), LIF(0.9), LeakyReadout(0.9))
    report = trained(network, inputs, labels, optax.adam(1e-3))
    assert report.issues == ()
    assert report.outcome.trained < 0.5
    assert report.outcome.held_out > 0.35
    assert "it learns this part, also of other examples" in report.verdict


@pytest.mark.slow
def test_numbers_that_a_cell_refuses_are_not_proposed(monkeypatch):
    """A shorter memory of the adaptation makes this cell unstable."""
    with pytest.raises(ValueError, match="to be stable"):
        SymplecticAdLIF(0.9, 0.5)
    network = Network([Layer(OUT[:UNITS], SymplecticAdLIF(0.9, 0.98))])
    studies = []
    search = _diagnose.search
    monkeypatch.setattr(_diagnose, "search", lambda study: studies.append(study) or search(study))
    trained(network, INPUTS[:5])
    [study] = studies
    moves = [move for issue in study.memories_alone for move in issue.fixes]
    assert {move.parameter for move in moves} == {"decay"}
    for move in moves:
        move.apply(network)


@pytest.mark.slow
def test_bias_that_silences_a_relu_is_named():
    layers = [Layer(FIRST, Relu(), bias=jnp.full(HIDDEN, -30.0)), Layer(SECOND, NUMBERS)]
    report = trained(Network([*layers, Layer(OUT, LeakyReadout(0.9))]))
    assert names(report.issues) == [("silent", "0")]
    assert "subtract the mean from its bias" in str(report.issues[0])
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.slow
def test_trial_counts_only_examples_that_no_update_uses():
    report = trained(HEALTHY, labels=NOISE, optimizer=optax.adam(3e-2))
    assert report.outcome.trained > 0.5
    assert report.outcome.held_out < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("rate", few([1e-1, 1e-5], 1e-1))
def test_change_that_helps_no_other_examples_is_not_an_issue(rate):
    report = trained(HEALTHY, labels=NOISE, optimizer=optax.sgd(rate))
    assert report.issues == ()
    assert "it learns by heart at best (tried: all changes, " in report.verdict
    assert "check the labels" in report.verdict


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [lambda out: -loss(out), lambda out: 1 - jnp.log(loss(out))])
def test_loss_with_the_wrong_sign_is_doubted(wrong):
    report = diagnose(stack(), X, wrong, optimizer=optax.adam(1e-2))
    assert report.issues == ()
    assert (
        report.verdict
        == "not trained: the loss falls without limit as outputs grow, so check its sign"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "is_learned"), [(CLASSES, True), (NOISE, False)])
def test_loss_that_is_nan_for_constants_is_learned(labels, is_learned):
    """Minus the correlation with the class, which divides by the spread over examples."""
    targets = jax.nn.standardize(jnp.float32(labels))

    def correlation(out):
        # (examples,)
        return -(jax.nn.standardize(out.mean(0)[:, 0], epsilon=0) * targets).mean()

    network = Network([Layer(FIRST, CELL), READOUT])
    report = diagnose(network, INPUTS, correlation, optimizer=optax.adam(1e-2))
    assert report.verdict.endswith("it learns") == is_learned
    assert (report.outcome.learned > 0.6) == is_learned


def ranking(out, labels):
    """Each example of class 1 should have a larger output than each one of class 0."""
    score = out.mean(0)[:, 0]
    return jax.nn.softplus(score[labels == 0] - score[labels == 1][:, None]).mean()


def contrast(out, labels):
    """Supervised contrastive loss (Khosla et al. 2020): directions are like those of the class."""
    direction = mean(out) / norm(mean(out))[:, None]
    itself = jnp.eye(len(labels), dtype=bool)
    scores = jax.nn.log_softmax(direction @ direction.T / 0.1, where=~itself)
    is_same = (labels[:, None] == labels) & ~itself
    return -jnp.mean(scores, where=is_same)


def probability(out, labels):
    """Minus the logarithm of a mean, and no mean of logarithms."""
    return -jnp.log(jax.nn.softmax(out.mean(0))[jnp.arange(len(labels)), labels].mean())


@pytest.mark.slow
@pytest.mark.parametrize("compare", [ranking, contrast, probability])
@pytest.mark.parametrize(("labels", "is_learned"), few([(CLASSES, True), (NOISE, False)]))
def test_loss_that_compares_examples_is_learned(compare, labels, is_learned):
    network = Network([Layer(FIRST, CELL), READOUT])
    report = diagnose(network, INPUTS, lambda out: compare(out, labels), optimizer=optax.adam(1e-2))
    assert ("it learns" in report.verdict.split("; ")) == is_learned


# A likelihood with a learned scale falls without limit. With the wrong sign, losses are below 0.
@pytest.mark.parametrize(
    ("constant", "learned", "is_doubted"),
    [(2.0, 0.7, False), (2.0, 0.5, True), (-2.0, 0.7, True)],
)
def test_loss_without_a_limit_is_not_doubted_if_the_network_learns(constant, learned, is_doubted):
    attainable = SimpleNamespace(is_bounded=False, has_room=True)
    study = SimpleNamespace(
        network=SimpleNamespace(attainable=attainable, first=SimpleNamespace(constant=constant)),
        initial=trial.Outcome(learned, learned, learned, learned),
    )
    assert ("check its sign" in _doubt(study)) == is_doubted


def probabilities(out):
    return jax.nn.log_softmax(out.mean(0))


CLASS = np.eye(2, dtype=np.float32)[CLASSES]
LOSSES = {
    # Of rates from 0 to 1: the logarithm of 1 + exp(-1).
    "rates": (lambda out: -(CLASS * probabilities(out)).sum(-1).mean(), 0.31326, True),
    "constant": (lambda out: 5 - (CLASS * probabilities(out)).sum(-1).mean(), 5.0, False),
    # The entropy of labels of 0.9 and 0.1.
    "smooth": (
        lambda out: -((0.8 * CLASS + 0.1) * probabilities(out)).sum(-1).mean(),
        0.32508,
        False,
    ),
    "negative": (lambda out: ((out.mean(0) - CLASS) ** 2).mean() - 2, -2.0, False),
    "cosine": (lambda out: -cosine(out).mean(), -1.0, False),
    # Its gradient is 0 while the outputs of all examples are equal.
    "between examples": (lambda out: -jnp.tanh(out.mean(0).var(0).sum()), -1.0, False),
    "mean squares": (lambda out: ((out.mean(0) - CLASS) ** 2).mean(), 0.0, False),
}


def cosine(out):
    target, mean = 2 * CLASS - 1, out.mean(0)
    return (target * mean).sum(-1) / jnp.sqrt(2 * (mean**2).sum(-1) + 1e-6)


@pytest.mark.slow
def test_attainable_loss_is_that_of_the_best_outputs():
    """Closed forms. Outputs near the best ones count, so those of logarithms are a little
    higher.
    """
    for loss, floor, is_spiking in LOSSES.values():
        network = Network([Layer(FIRST[:, :2], CELL if is_spiking else READOUT.cell)])
        problem = trial.Problem(network, {"input": jnp.asarray(INPUTS)}, loss, None, None, None)
        measured = measures.measuring(problem, {})({})
        attainable = attainable_loss(problem, measured)
        assert attainable.is_bounded
        room = attainable.constant - floor
        assert attainable.floor == pytest.approx(floor, abs=0.1 * room)
        assert (attainable.floor == 0) == (floor == 0)


@pytest.mark.slow
def test_outputs_that_saturate_the_loss_hide_no_better_ones():
    # Class 0 for all examples is better than no class, and the softmax has no gradient there.
    weight = jnp.full((UNITS, 2), 1e4) * jnp.array([1, -1])

    def reward(out):
        return -(jax.nn.softmax(out.mean(0)) * (CLASS + jnp.array([0.2, 0]))).sum(-1).mean()

    network = Network([Layer(weight, READOUT.cell)])
    problem = trial.Problem(network, {"input": jnp.asarray(INPUTS)}, reward, None, None, None)
    attainable = attainable_loss(problem, measures.measuring(problem, {})({}))
    assert attainable.has_room
    assert attainable.floor == pytest.approx(-1.1, abs=0.02)


RANDOM = np.random.default_rng(8)
COUNTS = np.float32(RANDOM.poisson(3.0, len(CLASSES)))
PRICES = np.float32(4e5 + RANDOM.normal(size=len(CLASSES)))
QUANTILE = 0.9


def norm(x):
    return jnp.sqrt((x**2).sum(-1))


def pinball(error, maximum):
    return maximum(QUANTILE * error, (QUANTILE - 1) * error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "constant"),
    [
        # Poisson: the mean of counts.
        (
            lambda out: (jnp.exp(out[-1, :, 0]) - COUNTS * out[-1, :, 0]).mean(),
            COUNTS.mean() * (1 - np.log(COUNTS.mean())),
        ),
        # The quantile is one of the targets: (targets, constants).
        (
            lambda out: pinball(COUNTS - out[-1, :, 0], jnp.maximum).mean(),
            pinball(np.subtract.outer(COUNTS, COUNTS), np.maximum).mean(0).min(),
        ),
        (lambda out: ((out[-1, :, 0] - PRICES) ** 2).mean(), PRICES.astype(float).var()),
        # NaN at outputs of 0. The best direction is between those of both classes.
        (
            lambda out: 1 - ((CLASS * mean(out)).sum(-1) / norm(mean(out))).mean(),
            1 - np.sqrt(0.5),
        ),
        # Outputs of the last step of examples that are as long as their class says. Constants are
        # equal over time, and may not use it.
        (
            lambda out: (
                -jax.nn.log_softmax(out[CLASSES, np.arange(len(CLASSES))])[
                    np.arange(len(CLASSES)), CLASSES
                ].mean()
            ),
            np.log(2),
        ),
    ],
)
def test_constants_of_a_loss_are_the_best_ones(loss, constant):
    network = Network([Layer(FIRST[:, :2], READOUT.cell)])
    problem = trial.Problem(network, {"input": jnp.asarray(INPUTS)}, loss, None, None, None)
    attainable = attainable_loss(problem, measures.measuring(problem, {})({}))
    assert attainable.is_bounded
    assert attainable.constant == pytest.approx(constant, rel=1e-3)
    assert attainable.constant_outputs.shape == (len(INPUTS), 1, 2)
    outputs = jnp.broadcast_to(attainable.constant_outputs, (len(INPUTS), len(CLASSES), 2))
    assert float(loss(outputs)) == pytest.approx(constant, rel=1e-3)


@pytest.mark.slow
def test_rounding_of_a_cross_entropy_is_no_constant_with_a_low_loss():
    """In float32, the logarithm of the sum of exponentials of logits of 1e8 is 1e8."""
    classes = np.eye(3, dtype=np.float32)[np.arange(len(CLASSES)) % 3]

    def entropy(out):
        logits = 30 * out.mean(0)
        return (jax.nn.logsumexp(logits, -1) - (classes * logits).sum(-1)).mean()

    network = Network([Layer(matrix(3, 1.0, UNITS, 3), READOUT.cell)])
    problem = trial.Problem(network, {"input": jnp.asarray(INPUTS)}, entropy, None, None, None)
    attainable = attainable_loss(problem, measures.measuring(problem, {})({}))
    assert attainable.constant == pytest.approx(np.log(3), rel=1e-3)


@pytest.mark.slow
def test_half_of_the_fall_counts_for_a_likelihood_of_angles():
    """Von Mises: log I0(k) - k cos(angle), which right angles lower as -log(2 pi k) / 2."""
    angles = np.where(CLASSES[:, None], [np.cos(2.5), np.sin(2.5)], [np.cos(0.3), np.sin(0.3)])

    def likelihood(out):
        mean = out.mean(0)
        size = jnp.sqrt((mean**2).sum(-1) + 1e-12)
        return (jnp.log(jax.scipy.special.i0e(size)) + size - (angles * mean).sum(-1)).mean()

    network = Network([Layer(FIRST[:, :2], READOUT.cell)])
    attainable = []
    for loss in (likelihood, lambda out: -likelihood(out)):
        problem = trial.Problem(network, {"input": jnp.asarray(INPUTS)}, loss, None, None, None)
        attainable.append(attainable_loss(problem, measures.measuring(problem, {})({})))
    sizes = np.linalg.norm(attainable[0].outputs.mean(0), axis=-1)
    best = -np.log(2 * np.pi * sizes).mean() / 2
    assert attainable[0].floor == pytest.approx(best / 2, rel=0.05)
    # With the wrong sign, outputs that ignore the inputs lower it too.
    assert [a.is_bounded for a in attainable] == [True, False]


@pytest.mark.slow
def test_half_of_the_way_counts_for_the_logarithm_of_an_error():
    def loss(out):
        return jnp.log(((out.mean(0) - CLASS) ** 2).mean() + 1e-3)

    network = Network([Layer(FIRST[:, :2], READOUT.cell)])
    problem = trial.Problem(network, {"input": jnp.asarray(INPUTS)}, loss, None, None, None)
    report = measures.measuring(problem, {})({})
    attainable = attainable_loss(problem, report)
    # Half of the errors is a quarter of their squares.
    squares = np.exp(attainable.constant) - 1e-3
    assert attainable.floor == pytest.approx(np.log(squares / 4 + 1e-3), rel=1e-3)

    # A floor near 0 is none of 0, because perfect outputs are far below it.
    def near_zero(out):
        return loss(out) - attainable.floor + 0.01

    assert attainable_loss(problem._replace(loss=near_zero), report).floor == pytest.approx(
        0.01, abs=1e-4
    )


@pytest.mark.every
@pytest.mark.parametrize("name", LOSSES)
def test_learning_is_judged_against_the_attainable_loss(name):
    loss, _, is_spiking = LOSSES[name]
    out = Layer(matrix(3, 3.0, m=2), NUMBERS) if is_spiking else Layer(0.1 * OUT, READOUT.cell)
    healthy = dataclasses.replace(HEALTHY, layers=HEALTHY.layers | {"2": out})
    report = diagnose(healthy, INPUTS, loss, optimizer=optax.adam(1e-2))
    assert report.issues == (), str(report)
    assert 0.6 < report.outcome.learned <= 1
    assert report.verdict.endswith("it learns")
    faulty = dataclasses.replace(FAULTY, layers=FAULTY.layers | {"2": out})
    report = diagnose(faulty, INPUTS, loss, optimizer=optax.adam(1e-2))
    assert names(report.issues) == [("silent", "1")]
    assert "no change lets it learn" not in report.verdict


@pytest.mark.slow
def test_gate_that_a_bias_closes_gets_its_fix():
    layers = {
        "context": Layer(matrix(4, 1.0, UNITS), READOUT.cell, bias=jnp.full(HIDDEN, -300.0)),
        "hidden": Layer(FIRST, NUMBERS, of="input"),
        "gate": Join(lambda c, s: jax.nn.sigmoid(c) * s, of=("context", "hidden")),
        "out": READOUT,
    }
    [issue] = diagnose(Network(layers), X, loss, train=False).issues
    assert (issue.kind, issue.place) == ("silent", "gate")
    assert [(move.place, move.text) for move in issue.fixes] == [
        ("context", "subtract the mean from its bias")
    ]


def direction(out):
    """Its gradient is NaN at outputs of 0."""
    out = out.mean(0)
    return -((CLASS * out).sum(-1) / jnp.sqrt((out**2).sum(-1))).mean()


def similarity(out):
    """Its gradient is 0 at outputs of 0."""
    out = out.mean(0)
    return ((out @ out.T - CLASS @ CLASS.T) ** 2).mean()


@pytest.mark.every
@pytest.mark.parametrize("loss", [direction, similarity])
def test_zeros_without_a_gradient_are_drawn(loss):
    layers = HEALTHY.layers | {"2": Layer(0 * OUT, READOUT.cell)}
    network = dataclasses.replace(HEALTHY, layers=layers)
    report = diagnose(network, INPUTS, loss, optimizer=optax.adam(1e-2))
    assert names(report.issues)[0] == ("vanishes", "2")
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [jnp.nan, SECOND.at[3, 4].set(jnp.inf)], ids=["all", "one"])
def test_weights_that_are_not_finite_are_replaced(numbers):
    network = stack(second=0 * SECOND + numbers, cell=NUMBERS)
    report, issue = one_issue(network)
    assert (issue.kind, issue.place) == ("not finite", "1")
    repaired = np.asarray(report.repaired.layers["1"].weight)
    usual = np.isfinite(network.layers["1"].weight)
    np.testing.assert_array_equal(repaired[usual], SECOND[usual])
    assert 0 < abs(repaired[~usual]).max() < 4 / HIDDEN**0.5
    scope = {"network": network, "jax": jax, "dataclasses": dataclasses}
    exec(report.code, scope)
    np.testing.assert_array_equal(scope["network"].layers["1"].weight, repaired)
    assert trained(report.repaired).issues == ()


@pytest.mark.every
def test_faults_behind_numbers_that_are_not_finite_are_found():
    network = stack(second=jnp.nan * SECOND, cell=NUMBERS, threshold=30.0)
    first = dataclasses.replace(network.layers["0"], weight=FIRST.at[0, 0].set(jnp.inf))
    network = dataclasses.replace(network, layers=network.layers | {"0": first})
    report = trained(network)
    assert names(report.issues) == [("not finite", "0"), ("not finite", "1"), ("silent", "1")]
    assert report.outcome is None
    assert report.outcome_repaired.learned > 0.6
    assert report.verdict.startswith("once its numbers are finite, 60 updates")
    assert trained(report.repaired, optimizer=report.optimizer).issues == ()


@pytest.mark.every
def test_zeros_of_a_readout_are_usual():
    network = dataclasses.replace(
        HEALTHY, layers=HEALTHY.layers | {"2": Layer(0 * OUT, READOUT.cell)}
    )
    assert trained(network).issues == ()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["input", "1"])
def test_weights_of_one_source_are_scaled(source):
    weight = {"input": FIRST, "1": Delayed(matrix(5, 1.0), 1)}
    huge = weight | {source: jax.tree.map(lambda w: 300 * w, weight[source])}
    layers = {"0": Layer(huge, NUMBERS), "1": Layer(SECOND, NUMBERS), "2": READOUT}
    report, issue = one_issue(Network(layers))
    assert (issue.kind, issue.place) == ("saturated", "0")
    [move] = issue.fixes
    assert move.text.startswith(f"scale its weights of '{source}' by")
    # The statements do what the move does.
    names = {"network": Network(layers), "jax": jax, "dataclasses": dataclasses}
    exec(move.code, names)
    wanted = ravel_pytree(report.repaired)[0]
    np.testing.assert_allclose(ravel_pytree(names["network"])[0], wanted, rtol=1e-5)


@pytest.mark.slow
def test_weights_of_the_weakest_source_are_scaled():
    """Neurons that wait for spikes of two sources are silent if one is too weak."""
    weight = {"a": 0.003 * FIRST, "b": FIRST}
    layers = {"0": Layer(weight, LIF(0.9, threshold=12.0)), "1": READOUT}
    inputs = {"a": X, "b": X}
    issue = diagnose(Network(layers, inputs=("a", "b")), inputs, loss, train=False).issues[0]
    assert (issue.kind, issue.place) == ("silent", "0")
    assert [fix.text for fix in issue.fixes] == ["scale its weights of 'a' by 3.3e+02"]


@pytest.mark.slow
def test_number_keeps_its_bounds_that_exclude_the_default():
    far = bounded(jnp.full(HIDDEN, 200.0), 100.0, 1000.0)
    issue = diagnose(stack(threshold=far), X, loss, train=False).issues[0]
    assert (issue.kind, issue.place) == ("silent", "1")
    assert [fix.text.split(" by ")[0] for fix in issue.fixes] == ["scale its weights"]


@pytest.mark.slow
def test_inputs_that_are_equal_for_all_examples_are_named():
    """Other inputs differ, and the layer of the equal ones learns nothing of an example."""
    inputs = {"a": X, "b": jnp.broadcast_to(X[:, :1], X.shape)}
    layers = {"0": Layer({"a": FIRST, "b": SECOND[:UNITS]}, CELL), "1": READOUT}
    [issue] = diagnose(Network(layers, inputs=("a", "b")), inputs, loss, train=False).issues
    assert (issue.kind, issue.place) == ("vanishes", None)
    assert "the inputs 'b' of all examples are equal" in issue.description


@pytest.mark.slow
def test_bias_is_found_although_the_potential_without_spikes_overflows():
    network = Network([Layer(10 * FIRST, Izhikevich(), bias=jnp.full(HIDDEN, 800.0)), READOUT])
    first = diagnose(network, X, loss, train=False).issues[0]
    assert (first.kind, first.place) == ("saturated", "0")
    assert [fix.text for fix in first.fixes] == ["subtract the mean from its bias"]
    assert "nan" not in first.description


@pytest.mark.every
def test_issue_without_whose_fix_least_is_learned_comes_first():
    # The readout comes first in a list from the inputs to the outputs, and only slows the learning.
    network = dataclasses.replace(
        HEALTHY, layers=HEALTHY.layers | {"2": Layer(20 * OUT, READOUT.cell)}
    )
    report = trained(network, optimizer=optax.adam(1e-7))
    assert names(report.issues)[0] == ("stalls", None)


@pytest.mark.every
def test_rate_that_is_enough_alone_is_the_cause():
    """The gradient of an angle is small for large outputs, so the readout seems too large."""

    def angle(out):
        out = out.mean(0)
        return -((CLASS * out).sum(-1) / jnp.sqrt((out**2).sum(-1) + 1e-6)).mean()

    report = diagnose(HEALTHY, INPUTS, angle, optimizer=optax.adam(1e-7))
    assert names(report.issues) == [("stalls", None)]
    assert report.outcome_repaired.learned > 0.8


def test_neurons_that_a_negative_mean_silences_are_silent():
    layer = measures.LayerReport("0", 10, True, rate=0.2, firing=0.5, drive=11.0, offset=-1.2)
    assert state_of(layer)[0] == "silent"
    assert state_of(dataclasses.replace(layer, offset=1.2))[0] == "saturated"
    assert state_of(dataclasses.replace(layer, offset=0.0))[0] == "saturated"


@pytest.mark.every
def test_decay_that_only_a_large_rate_makes_large_is_no_issue():
    report = trained(HEALTHY, optimizer=optax.adamw(1e3, weight_decay=1e-3))
    assert names(report.issues) == [("overshoots", None)]
    # Here the decay itself is too large.
    report = trained(HEALTHY, optimizer=optax.adamw(1e-2, weight_decay=100.0))
    assert names(report.issues)[0] == ("shrinks", None)


@pytest.mark.every
def test_small_weights_are_named_although_a_larger_rate_makes_up_for_them():
    report = trained(stack(matrix(1, 3e-4, UNITS), cell=NUMBERS), optimizer=optax.adam(1e-4))
    assert names(report.issues)[0] == ("silent", "0")
    assert report.outcome_repaired.learned > 0.6


@pytest.mark.slow
def test_budget_of_no_time_trains_once():
    texts = []
    report = trained(FAULTY, budget=0.0, progress=texts.append)
    assert texts == ["measuring", "training"]
    assert [(issue.kind, issue.fixes) for issue in report.issues] == [("silent", ())]
    assert (
        "the budget of 0 seconds ended before all changes were tried: pass a larger budget"
        in report.verdict
    )
    assert "no change lets it learn" not in report.verdict


@pytest.mark.every
def test_training_that_would_exceed_the_budget_does_not_start(monkeypatch):
    """With a clock by which a compilation takes 20 seconds and an update a tenth of a second."""
    now, compiled = [0.0], trial.compiled

    def slow(function, *args, **options):
        run, compilation = compiled(function, *args, **options), [20.0]

        def call(moves, *arguments):
            now[0] += compilation.pop() if compilation else 0.0
            now[0] += arguments[-1] / 10 if arguments else 0.0
            return run(moves, *arguments)

        return call

    monkeypatch.setattr(trial, "compiled", slow)
    monkeypatch.setattr(trial.time, "monotonic", lambda: now[0])
    # Nothing to learn from, and one spike, because equal inputs would end the search.
    inputs = 0 * INPUTS
    inputs[0, 0, 0] = 1
    # 20 seconds and 6 for each training of one program, and as many again for an optimizer.
    for budget, spent in ((30, 26), (33, 32), (1000, None)):
        now[0] = 0.0
        report = trained(HEALTHY, inputs, NOISE, budget=budget)
        assert ("the budget of" in report.verdict) == (spent is not None)
        assert now[0] == pytest.approx(spent) if spent else 33 < now[0] < budget


@pytest.mark.slow
def test_report_as_text_data_and_figure():
    report = diagnose(FAULTY, X, loss, train=False)
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
    report = diagnose(stack(surrogate=PiecewiseQuadratic(300.0)), X, loss, train=False)
    shape = measure(report.repaired.layers["1"].cell.surrogate)
    _, spread = report.layers["1"].distance
    assert shape.peak == pytest.approx(1, rel=1e-2)
    assert shape.area / shape.peak == pytest.approx(min(spread, 2.0), rel=0.1)


@pytest.mark.parametrize(
    ("outcome", "result", "text"),
    [
        # The part that is learned of all examples, with noise in the targets.
        (
            (0.4, 0.45, 0.4),
            {},
            "it learns this part, also of other examples, and no change adds enough",
        ),
        (
            (0.1, 0.45, 0.1),
            {},
            "no change lets it learn (tried: all changes): check what is outside",
        ),
        ((0.1, 0.1, 0.1), {}, "no change lets it learn"),
        (
            (0.1, 0.1, 0.1),
            {"repaired": trial.Outcome(0.4, 0.4, 0.4, 0.4)},
            "no other change adds to it",
        ),
        (
            (0.4, 0.45, 0.4),
            {"is_cut": True},
            "the budget of 7 seconds ended before all changes were tried",
        ),
    ],
)
def test_verdict_tells_no_help_from_some(outcome, result, text):
    study = SimpleNamespace(
        initial=trial.Outcome(*outcome, outcome[-1]), longer=None, budget=trial.Budget(7)
    )
    study.learns_in_part = Study.learns_in_part.func(study)
    found = SearchResult((), None, ("all changes",))._replace(**result)
    assert text in _advice(study, found)


@pytest.mark.slow
def test_inputs_of_symbols_stay_integers():
    rng = np.random.default_rng(7)
    labels = np.arange(40) % 2
    # Words 0 to 299 for one class, and 300 to 599 for the other.
    words = rng.integers(0, 300, (STEPS, 40)) + 300 * labels
    table = jnp.asarray(rng.normal(size=(600, UNITS)), jnp.float32)
    lookup = jax.tree_util.Partial(lambda table, x: table[x], table)
    network = Network([Layer(lookup, CELL), Layer(matrix(3, 1.0, UNITS, 2), READOUT.cell)])
    assert diagnose(network, words, lambda out: (out**2).mean()).issues == ()
    one_hot = jax.tree_util.Partial(lambda table, x: (x[:, None] == jnp.arange(600)) @ table, table)
    for weight, symbols in (
        (lookup, {"input"}),
        (one_hot, {"input"}),
        (lambda x: x[:, None] * table[:1], set()),
    ):
        problem = trial.Problem(
            Network([Layer(weight, CELL)]), {"input": jnp.asarray(words)}, None, None, None, None
        )
        assert trial.symbols_of(problem) == symbols
    # Counts are numbers.
    assert issues(stack(), (1000 * X).astype(np.int32))[0] == ("unscaled", "0")


@pytest.mark.slow
def test_array_hidden_in_a_function_is_named_before_any_layer():
    # A cue of which the layer remembers too little, but nothing except for a bias is trained.
    inputs = INPUTS * (np.arange(STEPS)[:, None, None] < 3)
    array = FIRST[:, :2]
    hidden = Layer(lambda x: x @ array, LeakyReadout(0.3), bias=jnp.zeros(2), of="input")
    network = Network({"hidden": hidden})
    report = trained(network, inputs, read=last, budget=0)
    assert names(report.issues) == [("not trained", "hidden"), ("forgets", "hidden")]
    assert "layer 'hidden' is not trained: an array of shape [10, 2] is hidden" in str(report)
    assert "jax.tree_util.Partial" in str(report)
    # The network has no optimizer here, so nothing is to be trained.
    assert issues(network)[:1] != [("not trained", "hidden")]


def test_network_that_hides_all_of_its_arrays_has_an_issue_for_each():
    functions = (lambda x: x @ FIRST), (lambda x: x @ OUT)
    network = Network([Layer(functions[0], NUMBERS), Layer(functions[1], READOUT.cell)])
    report = diagnose(network, X, loss, optimizer=optax.adam(1e-2))
    assert names(report.issues) == [("not trained", "0"), ("not trained", "1")]
    assert report.verdict.startswith("not trained")


def one_issue(network, inputs=X, loss=loss, **options):
    report = diagnose(network, inputs, loss, train=False, **options)
    [issue] = report.issues
    return report, issue


@pytest.mark.slow
def test_function_without_a_derivative_is_named_before_its_consequences():
    held = jax.tree_util.Partial(lambda w, x: x @ jax.lax.stop_gradient(w), 300 * SECOND)
    first = diagnose(stack(second=Layer(held, CELL)), X, loss, train=False).issues[0]
    assert (first.kind, first.place) == ("vanishes", "1")
    assert "no derivative in its arrays, as after stop_gradient" in first.description
    cut = jax.tree_util.Partial(lambda w, x: jax.lax.stop_gradient(x) @ w, SECOND)
    _, issue = one_issue(stack(second=Layer(cut, CELL)))
    assert (issue.kind, issue.place) == ("vanishes", "1")
    assert "pass no gradient on" in issue.description


@pytest.mark.slow
def test_loss_without_a_gradient_prevents_a_training():
    """Its outputs may have a lower loss than constants, although nothing learns."""

    def score(out):
        return (out.argmax(-1) * 1.0).mean()

    report = diagnose(stack(), 1000 * X, score, optimizer=optax.adam(1e-2))
    assert names(report.issues) == [("vanishes", None)]
    assert report.outcome is None


@pytest.mark.slow
def test_period_of_rest_as_long_as_the_sequence_is_shortened():
    report, issue = one_issue(stack(second=Layer(SECOND, Refractory(NUMBERS, 200))))
    assert (issue.kind, issue.place) == ("silent", "1")
    assert "rest for 200 steps after a spike, and the sequence has 20" in issue.description
    scope = {
        "dataclasses": dataclasses,
        "network": stack(second=Layer(SECOND, Refractory(NUMBERS, 200))),
    }
    exec(report.code, scope)
    assert report.repaired.layers["1"].cell.steps == scope["network"].layers["1"].cell.steps == 2


def test_rest_does_not_hide_a_bias():
    """The potential without spikes shows the bias although each neuron fires once."""
    cell, bias = Refractory(CELL, 2 * STEPS), jnp.full(HIDDEN, 30.0)
    report = diagnose(stack(second=Layer(SECOND, cell, bias=bias)), X, loss, train=False)
    assert names(report.issues) == [("silent", "1"), ("saturated", "1")]
    repaired = report.repaired.layers["1"]
    assert repaired.cell.steps == 2
    assert abs(repaired.bias).max() < 1e-5


def test_bias_of_a_neuron_that_diverges_without_spikes_is_subtracted():
    """The square of a potential far below rest makes QIF neurons fire."""
    layer = Layer(FIRST, QIF(), bias=jnp.full(HIDDEN, -60.0))
    network = Network([layer, READOUT])
    report, issue = one_issue(network)
    assert (issue.kind, issue.place) == ("saturated", "0")
    assert abs(report.repaired.layers["0"].bias).max() < 1e-5


def test_weights_of_a_neuron_that_diverges_without_spikes_are_scaled():
    network = Network([Layer(300 * FIRST, QIF()), READOUT])
    issue = diagnose(network, X, loss, train=False).issues[0]
    assert (issue.kind, issue.place) == ("saturated", "0")
    [move] = issue.fixes
    assert 1 / 3000 < move.value < 1 / 30
    assert issues(move.apply(network)) == []


@pytest.mark.slow
def test_delay_above_the_length_is_shortened():
    report = diagnose(stack(second=Layer(Delayed(SECOND, 50), CELL)), X, loss, train=False)
    issue = report.issues[0]
    assert (issue.kind, issue.place) == ("silent", "1")
    assert "delay of 50 steps is longer" in issue.description
    assert report.repaired.layers["1"].weight.delay == 1


@pytest.mark.slow
@pytest.mark.parametrize("delays", [DELAYS[:1], DELAYS])
def test_learned_delays_behind_the_sequence_are_drawn_again(delays):
    """Delays in milliseconds, although a step has ten."""
    kernel = DelayKernel(FIRST, bounded(60 + delays, 50, 70), 71)
    network = Network([Layer(Window(kernel), CELL), READOUT])
    issue = diagnose(network, X, loss, train=False).issues[0]
    assert (issue.kind, issue.place) == ("silent", "0")
    assert "learned delays of 60" in issue.description
    [move] = issue.fixes
    scope = {"network": network, "dataclasses": dataclasses, "jax": jax}
    scope |= {"DelayKernel": DelayKernel, "bounded": bounded}
    exec(move.code, scope)
    for repaired in (move.apply(network), scope["network"]):
        drawn = repaired.layers["0"].weight.weight.delay.value
        assert drawn.shape == delays.shape
        assert 1 <= drawn.min() < drawn.max() <= STEPS // 2
        assert issues(repaired) == []


def test_weights_that_overflow_products_are_scaled():
    report = diagnose(stack(first=3e38 * jnp.sign(FIRST)), X, loss, train=False)
    issue = report.issues[0]
    assert (issue.kind, issue.place) == ("not finite", "0")
    assert "its weights are as large as 3e+38" in issue.description
    assert abs(report.repaired.layers["0"].weight).max() < 10
    assert np.isfinite(outputs_of(report.repaired, X)).all()


@pytest.mark.slow
def test_biases_that_silence_most_neurons_are_scaled():
    bias = jnp.where(jnp.arange(HIDDEN) == 3, 0.0, -20.0)
    report, issue = one_issue(stack(second=Layer(SECOND, CELL, bias=bias)))
    assert (issue.kind, issue.place) == ("silent", "1")
    assert "6% of its neurons ever fire" in issue.description
    assert abs(report.repaired.layers["1"].bias).max() < 0.1
    assert issues(report.repaired) == []


class Broken(Surrogate):
    """A slope that is NaN far from the threshold."""

    def surrogate_grad(self, x):
        return jnp.where(abs(x) < 1, 1 - abs(x), jnp.sqrt(-abs(x)))


@pytest.mark.slow
def test_slope_of_nan_is_replaced():
    report, issue = one_issue(stack(cell=NUMBERS, surrogate=Broken()))
    assert (issue.kind, issue.place) == ("not finite", "1")
    assert "its slope is NaN at some of its potentials" in issue.description
    gradient = value_and_gradient(report.repaired)[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_update_of_exactly_zero_is_the_optimizer():
    report = trained(stack(cell=NUMBERS), labels=NOISE, optimizer=optax.set_to_zero(), budget=0)
    assert names(report.issues)[:3] == [("stalls", "0"), ("stalls", "1"), ("stalls", "2")]
    assert (
        "its first update is exactly 0, although its gradient is not"
        in report.issues[0].description
    )


@pytest.mark.parametrize(
    "joins", [{}, {"whole": Join(lambda out: out, "2")}], ids=["layer", "join"]
)
def test_shift_of_an_output_is_added_by_a_join(joins):
    network = dataclasses.replace(HEALTHY, layers=HEALTHY.layers | joins)
    [output] = network.graph.outputs
    move = ShiftOutput(output, np.float32([200, 100]))
    scope = {"dataclasses": dataclasses, "jax": jax, "np": np, "network": network, "Join": Join}
    exec(move.code, scope)
    expected = outputs_of(network, X) + np.float32([200, 100])
    for changed in (move.apply(network), scope["network"]):
        np.testing.assert_allclose(outputs_of(changed, X), expected, rtol=1e-6)
        assert hidden_arrays(changed, X) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("power", "means"), [(2, (200, 200)), (1, (200, 200)), (2, (200, 0)), (2, (4e5, 4e5))]
)
def test_mean_of_targets_far_above_their_spread_is_added_to_the_outputs(power, means):
    targets = np.float32(means + CLASS - CLASS.mean(0))

    def errors(out):
        return (abs(out.mean(0) - targets) ** power).mean()

    network = dataclasses.replace(
        HEALTHY, layers=HEALTHY.layers | {"2": Layer(0.1 * OUT, READOUT.cell)}
    )
    report = diagnose(network, INPUTS, errors, optimizer=optax.adam(1e-2))
    assert names(report.issues) == [("unscaled", None)]
    evidence = f"outputs '2' with a mean of {means[0]:.3g} and a spread of"
    assert evidence in report.issues[0].description
    assert report.outcome_repaired.learned > 0.6 > report.outcome.learned
    scope = {"dataclasses": dataclasses, "jax": jax, "np": np, "network": network, "Join": Join}
    exec(report.code, scope)
    for repaired in (report.repaired, scope["network"]):
        outputs = outputs_of(repaired, INPUTS)
        np.testing.assert_allclose(outputs.mean((0, 1)), means, atol=3)
        # Constants are meant, so nobody is warned of them.
        assert hidden_arrays(repaired, INPUTS) == []


@pytest.mark.every
def test_mean_of_targets_of_one_of_several_outputs_is_named():
    """No join can shift it, because the loss reads the outputs by their names."""
    readout = Layer(0.1 * OUT, READOUT.cell, of="1")
    layers = HEALTHY.layers | {"far": readout, "near": readout}
    network = dataclasses.replace(HEALTHY, layers=layers, outputs=("far", "near"))
    targets = np.float32(CLASS - CLASS.mean(0))

    def errors(out):
        far, near = out["far"].mean(0), out["near"].mean(0)
        return ((far - targets - 200) ** 2).mean() + ((near - targets) ** 2).mean()

    report = diagnose(network, INPUTS, errors, optimizer=optax.adam(1e-2))
    assert names(report.issues)[0] == ("unscaled", None)
    assert "outputs 'far' with a mean of 200 and a spread of" in report.issues[0].description
    assert report.issues[0].fixes == ()


def test_inputs_that_no_layer_reads_are_named():
    network = Network(
        {"out": Layer(matrix(1, 3.0, UNITS, 2), LeakyReadout(0.9), of="cue")},
        inputs=("cue", "noise"),
    )
    [issue] = diagnose(network, {"cue": X, "noise": X}, loss, train=False).issues
    assert (issue.kind, issue.place) == ("silent", None)
    assert "no layer reads the inputs 'noise'" in issue.description


def test_diagnose_takes_a_function_as_loss():
    with pytest.raises(
        TypeError, match=r"diagnose: loss must be a function .*, got .*. Pass lambda outputs: loss"
    ):
        diagnose(HEALTHY, X, LABELS)


def test_diagnose_takes_networks_only():
    with pytest.raises(TypeError, match="diagnose: network must be a Network, got"):
        diagnose([CELL], X, loss)


@pytest.mark.slow
def test_potentials_without_spikes_hold_in_masked_steps():
    """As in the network: a masked step neither decays nor integrates."""
    rng = np.random.default_rng(0)
    current = rng.normal(size=(9, 3, 4)).astype(np.float32)
    active = rng.random((9, 3)) < 0.6
    cell = LIF(0.8)
    activity = Activity(output=jnp.zeros_like(current), pre_spike=current, current=current)
    found = observe_layer(cell, jax.tree.map(jnp.asarray, activity), active)
    v, wanted = np.zeros((3, 4)), []
    for now, valid in zip(current.astype(np.float64), active, strict=True):
        u = 0.8 * v + now
        wanted.append(u - 1.0)
        v = np.where(valid[:, None], u, v)
    assert found is not None
    np.testing.assert_allclose(found.quiet, wanted, atol=1e-5)
