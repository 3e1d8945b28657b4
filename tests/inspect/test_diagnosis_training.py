"""What a training on the given inputs shows: if a network learns, and which fix helps most."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from jax.tree_util import Partial

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Join,
    Layer,
    LeakyReadout,
    Network,
    PiecewiseQuadratic,
    Sigmoid,
    diagnose,
    measure,
    rescaled,
)
from spikegrad.inspect.diagnosis import Fix, Issue, LayerReport, _look, _trials
from spikegrad.inspect.diagnosis._issues import _weak, suspects
from spikegrad.inspect.diagnosis._look import Look, NetworkReport, Seen, Trained
from spikegrad.inspect.diagnosis._potential import find
from spikegrad.inspect.diagnosis._proposals import Case, against_activity, to_defaults, to_scale
from spikegrad.inspect.diagnosis._recorder import _along
from spikegrad.inspect.diagnosis._trials import checked
from spikegrad.neurons import EIF, HRF, MPBN, MultiSynapticLIF

optax = pytest.importorskip("optax")

STEPS, EXAMPLES, INPUTS, NEURONS, CLASSES = 20, 40, 12, 24, 2
LABELS = np.arange(EXAMPLES) % CLASSES
SLOPE, SIGMOID = PiecewiseQuadratic(2.0), Sigmoid(4.0)


@pytest.fixture(autouse=True)
def loose():
    """JAX as users have it: optax promotes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def matrix(seed, inputs, neurons, gain=1.0):
    drawn = np.random.default_rng(seed).normal(0, gain / np.sqrt(inputs), (inputs, neurons))
    return jnp.asarray(drawn, jnp.float32)


def spikes():
    """The first half of the inputs fires in the first class, and the second half in the second class."""
    rates = np.where((np.arange(INPUTS) < INPUTS // 2) == (LABELS[:, None] == 0), 0.5, 0.05)
    return (np.random.default_rng(0).random((STEPS, EXAMPLES, INPUTS)) < rates).astype(np.float32)


@Partial  # so pure networks of equal shapes run one compiled program
def cross_entropy(out):
    return optax.softmax_cross_entropy_with_integer_labels(out.mean(0).astype(jnp.float32), LABELS).mean()


def stack(cell, gains=(2.0, 4.0), dtype=jnp.float32):
    sizes = [INPUTS, *[NEURONS] * len(gains)]
    hidden = [
        Layer(matrix(n, a, b, gain).astype(dtype), cell)
        for n, (a, b, gain) in enumerate(zip(sizes[:-1], sizes[1:], gains, strict=True))
    ]
    return Network([*hidden, Layer(matrix(9, NEURONS, CLASSES), LeakyReadout(0.9))])


def look(optimizer):
    return Look({"input": jnp.asarray(spikes())}, None, None, cross_entropy, optimizer, "exact")


def test_training_is_that_of_a_plain_loop(x64):
    """The labels of some examples are wrong, so the examples that are held out are learned in part.

    In single precision, other roundings change a few spikes, and the updates after them.
    """
    optimizer, inputs = optax.adam(0.01), jnp.asarray(spikes(), jnp.float64)
    layers = stack(LIF(0.9, surrogate=SLOPE)).layers
    net = Network([Layer(layer.weight.astype(jnp.float64), layer.cell) for layer in layers])
    labels = jnp.asarray(np.where(np.random.default_rng(1).random(EXAMPLES) < 0.2, 1 - LABELS, LABELS))
    weights = [layer.weight for layer in net.layers]

    def loss(out, of=slice(None)):
        return optax.softmax_cross_entropy_with_integer_labels(out.mean(0)[of], labels[of]).sum() / EXAMPLES

    def outputs_of(weights):
        return Network([Layer(w, layer.cell) for w, layer in zip(weights, net.layers, strict=True)])(inputs)[1]

    @jax.jit
    def update(weights, state, used):
        gradient = jax.grad(lambda weights: loss(outputs_of(weights), used))(weights)
        change, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, change), state

    def after(updates, used):
        changed, state = weights, optimizer.init(weights)
        for _ in range(updates):
            changed, state = update(changed, state, used)
        return changed

    def lowest(outs, *parts):
        """The lowest loss if all outputs keep a part of their distance from zero, or from the mean output."""
        constants = np.zeros_like(outs), outs.mean(1, keepdims=True)
        return min(float(loss(other + part * (outs - other))) for part in parts for other in constants)

    trained = Look({net.inputs: inputs}, None, None, loss, optimizer, "exact").trained(net)
    for w, layer in zip(after(30, np.arange(EXAMPLES)), trained.network.layers, strict=True):
        np.testing.assert_allclose(layer.weight, w, rtol=1e-5, atol=1e-6)
    outs = np.array(outputs_of(after(100, np.arange(EXAMPLES))))
    assert trained.left == pytest.approx(float(loss(outs)) / lowest(outs, 0.0), rel=1e-4)
    folds = np.random.default_rng(0).permutation(EXAMPLES) % 4
    for fold in range(4):
        outs[:, folds == fold] = outputs_of(after(100, np.flatnonzero(folds != fold)))[:, folds == fold]
    expected = 1 - lowest(outs, 1.0, 0.3, 0.1) / lowest(outs, 0.0)
    assert trained.learned == pytest.approx(expected, rel=1e-4)
    assert 1 - float(loss(outs)) / lowest(outs, 0.0) < 0.9 * expected < 0.8 * (1 - trained.left), "they are too sure"


def test_no_more_is_learned_than_by_updates_on_all(monkeypatch):
    """A learning rate may be too large for all examples, and not for a part of them."""
    net = stack(LIF(0.9, surrogate=SLOPE))
    given, parts = {"input": jnp.asarray(spikes())}, {}
    for left in (0.7, 1.2):
        own = Look(given, None, None, cross_entropy, optax.adam(0.01), "exact")
        monkeypatch.setattr(own, "_training", lambda _, left=left: lambda start, _: (start[0], left, 0.9))
        parts[left] = own.trained(net).learned
    assert parts == {0.7: pytest.approx(0.3), 1.2: 0.0}


def test_training_with_another_learning_rate_or_epsilon(monkeypatch):
    """A larger rate is that of the optimizer. An epsilon that is not used anywhere else has an effect like its own."""
    monkeypatch.setattr(_look, "FEW", EXAMPLES + 1)  # no examples are held out, which takes a quarter of the time
    net = stack(LIF(0.9, surrogate=SLOPE))
    for optimizer, fix, same in (
        (optax.adam(1e-4), Fix(0, "learning rate", 100.0, ""), optax.adam(0.01)),
        (optax.adam(0.01, eps=1.0), Fix(0, "epsilon", 1e-3, ""), optax.adam(0.01, eps=1e-3)),
    ):
        own, other = look(optimizer), look(same)
        expected = other.trained(net).left
        assert own.trained(net, fix).left == pytest.approx(expected, rel=0.05)
        assert own.trained(net).left > 1.5 * expected


def test_few_examples_are_all_trained_on():
    """Then the examples that are used are judged."""
    few = {"input": jnp.asarray(spikes()[:, :10])}

    def loss(out):
        return optax.softmax_cross_entropy_with_integer_labels(out.mean(0), LABELS[:10]).mean()

    net = Network(stack(LIF(0.9, surrogate=SLOPE)).layers)
    own = Look({net.inputs: few["input"]}, None, None, loss, optax.adam(0.01), "exact")
    trained = own.trained(net)
    assert trained.learned == pytest.approx(1 - trained.left, abs=1e-5)


def test_without_loss_or_optimizer_nothing_is_trained():
    net = stack(LIF(0.9))
    given = {net.inputs: jnp.asarray(spikes())}
    assert Look(given, None, None, None, optax.sgd(0.1), "exact").trained(net) is None
    assert Look(given, None, None, cross_entropy, None, "exact").trained(net) is None


def test_training_is_compiled_even_without_jit(monkeypatch):
    monkeypatch.setattr(_look, "ALL", 20)
    calls = []

    def loss(out):
        calls.append(out.shape)
        return cross_entropy(out)

    net = stack(LIF(0.9, surrogate=SLOPE), gains=(2.0,))
    with jax.disable_jit():
        Look({net.inputs: jnp.asarray(spikes())}, None, None, loss, optax.adam(0.01), "exact").trained(net)
    assert 0 < len(calls) < 20


def test_diagnosis_trains_unless_told_not_to(monkeypatch):
    """A slope that is 30 thresholds wide learns little, which only training shows."""

    def refuse(*args):
        raise RuntimeError("trained")

    monkeypatch.setattr(Look, "_training", refuse)
    net = stack(LIF(0.9, surrogate=rescaled(SLOPE, peak=1, half_width=30.0)))
    given = net, spikes(), cross_entropy
    with pytest.raises(RuntimeError, match="trained"):
        diagnose(*given, optimizer=optax.adam(0.01))
    found = diagnose(*given, optimizer=optax.adam(0.01), train=False)
    assert found.loss_after < found.loss
    assert found.issues == ()


@pytest.mark.every
def test_a_network_that_learns_has_no_growing_gradient():
    """Its threshold is in millivolts, so the reset makes the gradient grow. The optimizer divides by its size."""
    net = stack(LIF(0.9, 20.0, surrogate=rescaled(SIGMOID, peak=1, half_width=5.0)), gains=(40.0,))
    assert [issue.kind for issue in diagnose(net, spikes(), cross_entropy).issues] == ["explodes"]
    assert diagnose(net, spikes(), cross_entropy, optimizer=optax.adam(0.01)).issues == ()


@pytest.mark.every
def test_fix_need_not_end_faults_of_the_optimizer():
    net = stack(LIF(0.9, 20.0, surrogate=rescaled(SIGMOID, peak=1, half_width=5.0)), gains=(40.0,))
    [issue] = diagnose(net, spikes(), cross_entropy, optimizer=optax.sgd(1e-9)).issues
    assert issue.kind == "explodes"
    assert issue.fix  # although the updates stay too small


REPORT = LayerReport(
    name="layer 1",
    cell="LIF",
    fires=True,
    neurons=3,
    finite=True,
    rate=0.1,
    silent=0.0,
    always=0.0,
    mean=0.0,
    std=1.0,
    slope=0.2,
    scale=1.0,
)


FLAT = {"surrogate": Sigmoid(0.02), "half_width": 88.1, "peak": 0.005, "at": 0.0, "area": 1.0} | {
    "weights": {"weight": 1.0},
    "updates": {"weight": 1e-6},
}


class Shown:
    """A look at one layer. The part that it learns follows from its bias, and it has no fault if it has a bias."""

    def __init__(self, learned, left=1.0):
        self.learned, self.left = learned, left

    def bias(self, network):
        [layer] = network.layers
        return None if layer.bias is None else float(layer.bias)

    def __call__(self, network):
        often = dataclasses.replace(REPORT, firing=0.5)
        return Seen([often], NetworkReport([LIF()], losses_after=[1.0] * (self.bias(network) is None)))

    def trained(self, network):
        learned = self.learned[self.bias(network)]
        return None if learned is None else Trained(network, self.left, learned)


def found_in(monkeypatch, shown, kind="saturated"):
    net = Network([Layer(np.ones((2, 2), np.float32), LIF())])
    fixes = tuple(Fix(0, "bias", float(n), f"fix {n}") for n in range(1, len(shown.learned)))
    faults = (Issue(kind, 0, "", fixes),)
    monkeypatch.setattr(_trials, "issues", lambda _, network: faults if network.losses_after else ())
    return checked(net, shown, shown(net))


def test_fix_that_trains_much_better_comes_first(monkeypatch):
    """A fix is as good as the best if the network learns at most 0.2 less with it, and half as much.

    The fourth is not trained.
    """
    for learned, order in (
        ((0.3, 0.9, 0.85, 1.0), [2, 3, 1, 4]),
        ((0.71, 0.9, 0.3, 1.0), [1, 2, 3, 4]),
        ((0.69, 0.9, 0.3, 1.0), [2, 1, 3, 4]),
        ((0.09, 0.16, 0.1, 1.0), [1, 2, 3, 4]),
        ((0.07, 0.16, 0.1, 1.0), [2, 3, 1, 4]),
        ((math.nan, 0.9, None, 1.0), [2, 1, 3, 4]),
    ):
        [issue] = found_in(monkeypatch, Shown({None: 0.0} | {float(n): part for n, part in enumerate(learned, 1)}))
        assert [int(fix.value) for fix in issue.fixes] == order, learned


@pytest.mark.parametrize(
    ("kind", "left", "learned", "better", "found"),
    [
        ("out of reach", 0.09, 0.5, 0.71, True),
        ("out of reach", 0.09, 0.5, 0.69, False),
        ("out of reach", 0.09, 0.7, 0.86, True),
        ("out of reach", 0.09, 0.7, 0.84, False),
        ("out of reach", 0.09, 0.85, 0.96, True),
        ("out of reach", 0.09, 0.85, 0.94, False),
        ("out of reach", 0.11, 0.5, 0.5, True),
        ("saturated", 0.09, 0.94, 0.94, True),
        ("saturated", 0.09, 0.96, 0.96, False),
        ("saturated", 0.11, 0.96, 0.96, True),
    ],
)
def test_issue_of_a_network_that_learns_is_one_if_a_fix_lets_it_learn_more(
    monkeypatch, kind, left, learned, better, found
):
    issues = found_in(monkeypatch, Shown({None: learned, 1.0: better}, left), kind)
    assert [issue.kind for issue in issues] == [kind] * found


def test_scales_of_several_layers_are_one_fix():
    """All weights are far too small. The second factor is that of an own diagnosis after the first."""
    net = stack(LIF(0.9, surrogate=SLOPE), gains=(0.05, 0.05))
    [issue] = diagnose(net, spikes(), cross_entropy).issues
    [other] = issue.fix.others
    assert (issue.fix.index, other.index) == (0, 1)
    [alone] = diagnose(dataclasses.replace(issue.fix, others=()).apply(net), spikes(), cross_entropy).issues
    assert next(fix.value for fix in alone.fixes if fix.change == other.change) == pytest.approx(other.value)
    assert alone.index == 1


def test_updates_along_the_gradient_are_named():
    net = stack(LIF(0.9, surrogate=SLOPE))
    ascent = optax.chain(optax.scale_by_adam(), optax.scale(0.01))
    [issue] = diagnose(net, spikes(), cross_entropy, optimizer=ascent).issues
    assert (issue.kind, issue.fix.change, issue.fix.value) == ("ascends", "learning rate", -1.0)


def test_low_slopes_that_stop_a_layer_are_raised():
    net = stack(LIF(0.9, surrogate=1e-4 * SLOPE))

    def other_labels(out):  # which the readout alone cannot learn
        labels = np.random.default_rng(1).integers(CLASSES, size=EXAMPLES)
        return optax.softmax_cross_entropy_with_integer_labels(out.mean(0), labels).mean()

    [issue] = diagnose(net, spikes(), other_labels, optimizer=optax.sgd(0.01)).issues
    assert (issue.kind, issue.index) == ("vanishes", 0)
    assert "the slope's peak is 0.0002" in str(issue)
    changed = issue.fix.apply(net)
    peaks = [float(layer.cell.surrogate.surrogate_grad(jnp.zeros(()))) for layer in changed.layers[:2]]
    np.testing.assert_allclose(peaks, 1.0, rtol=1e-6)


def test_update_in_half_precision_gets_a_wider_dtype():
    """Adam's epsilon of 1e-8 is 0 in float16."""
    net = stack(LIF(0.9, surrogate=SLOPE), dtype=jnp.float16)
    [issue] = diagnose(net, spikes(), cross_entropy, optimizer=optax.adam(0.01), train=False).issues
    assert (issue.kind, issue.fix.change, issue.fix.value) == ("not finite", "dtype", "float32")
    changed = issue.fix.apply(net)
    assert {str(layer.weight.dtype) for layer in changed.layers} == {"float32"}
    for old, new in zip(net.layers, changed.layers, strict=True):
        np.testing.assert_array_equal(old.weight, new.weight)


def test_weight_decay_of_the_wrong_sign_is_named():
    """It comes after the learning rate, so each update makes the weights larger by a tenth."""
    optimizer = optax.chain(optax.adam(1e-3), optax.add_decayed_weights(0.1))
    found = diagnose(stack(LIF(0.9, surrogate=SLOPE)), spikes(), cross_entropy, optimizer=optimizer, train=False)
    for layer in found.layers:
        assert layer.decays["weight"] == pytest.approx(0.1 * layer.weights["weight"], rel=1e-5)
    [issue] = found.issues
    assert (issue.kind, issue.fix.change, issue.fix.value) == ("shrinks", "weight decay", 0.001)


def test_noise_of_an_optimizer_is_no_weight_decay():
    rng = np.random.default_rng(0)
    w, noise = (jnp.asarray(rng.normal(size=(100, 100)), jnp.float32) for _ in range(2))
    np.testing.assert_allclose(_along(w, noise - 0.1 * w), -0.1 * w, atol=0.05 * float(abs(w).max()))
    assert not _along(jnp.zeros(3), jnp.ones(3)).any()


def test_small_outputs_of_a_join_are_scaled():
    def mean(a):
        return 1e-3 * a

    net = Network(
        {
            "one": Layer(matrix(0, INPUTS, NEURONS, 2.0), LIF(0.9, surrogate=SLOPE)),
            "mean": Join(mean, of=("one",)),
            "two": Layer({"mean": matrix(1, NEURONS, NEURONS, 4.0)}, LIF(0.9, surrogate=SLOPE)),
            "out": Layer(matrix(2, NEURONS, CLASSES), LeakyReadout(0.9)),
        }
    )
    [issue] = diagnose(net, spikes(), cross_entropy).issues
    assert (issue.kind, issue.index, issue.fix.change, issue.fix.source) == ("silent", "two", "input scale", "mean")
    assert issue.fix.value >= 1000
    assert diagnose(issue.fix.apply(net), spikes(), cross_entropy).issues == ()


def test_parameter_whose_default_is_zero_is_reset():
    """The potential at rest is in millivolts, and all else has no unit."""
    net = stack(EIF(rest=-65.0, surrogate=SLOPE), gains=(2.0,))
    [issue] = diagnose(net, spikes(), cross_entropy).issues
    assert (issue.kind, issue.fix.change, issue.fix.value) == ("silent", "rest", 0)


def test_inhibition_that_holds_a_layer_down_is_lowered():
    lateral = -17.0 * (1 - np.eye(NEURONS, dtype=np.float32))
    net = stack(AdaptiveLIF(0.95, adaptation=0.05, surrogate=SLOPE), gains=(2.0,))
    held = Network([dataclasses.replace(net.layers[0], recurrent=lateral), net.layers[1]])
    found = diagnose(held, spikes(), cross_entropy).issues[0]
    assert (found.index, found.fix.change) == (0, "recurrent weights")
    assert diagnose(found.fix.apply(held), spikes(), cross_entropy).issues == ()


@pytest.mark.parametrize(("firing", "mean", "left"), [(0.09, -7.9, []), (0.11, -7.9, [0]), (0.09, -8.1, [0])])
def test_strong_adaptation_of_a_network_that_learns_is_no_issue(firing, mean, left):
    layer = dataclasses.replace(REPORT, firing=firing, mean=mean, std=6.0)
    seen = Seen([layer], NetworkReport([LIF()], loss=1.0))
    judged = _trials.Judged(stack(LIF()), look(None), seen, (Issue("saturated", 0, ""),))
    for part, expected in ((0.09, left), (0.11, [0])):
        found = _trials._without_trained(judged, Trained(judged.network, part, 0.5))
        assert [issue.index for issue in found] == expected


class Steps(Look):
    """A look whose training depends on the decay of the adaptation, or on a fix: the parts left and learned."""

    def __init__(self, parts):
        self.parts = parts

    def __call__(self, network):
        return Seen([REPORT], NetworkReport([network.layers[0].cell]))

    def trained(self, network, fix=None):
        if fix is None:
            return Trained(network, *self.parts[network.layers[0].cell.adaptation_decay])
        return Trained(network, *self.parts.get((fix.change, fix.value), self.parts.get(fix.change)))


@pytest.mark.parametrize(
    ("left", "learned", "better", "named"),
    [
        (0.2, 0.4, (0.0, 0.61), True),
        (0.2, 0.4, (0.0, 0.59), False),
        (0.2, 0.44, (0.0, 0.65), True),
        (0.2, 0.46, (0.0, 0.67), False),
        (0.29, 0.1, (0.0, 0.29), False),
        (0.31, 0.1, (0.1, 0.11), True),
        (0.31, 0.1, (0.1, 0.1), False),
        (0.31, 0.1, (0.11, 0.29), False),
    ],
)
def test_unusual_parameter_is_an_issue_if_training_shows_it(monkeypatch, left, learned, better, named):
    monkeypatch.setattr(_trials, "issues", lambda *_: ())
    cell = AdaptiveLIF(0.9, adaptation_decay=0.005)
    net = Network([Layer(np.ones((2, 3), np.float32), cell)])
    parts = {0.005: (left, learned), AdaptiveLIF().adaptation_decay: better, "learning rate": (1.0, 0.0)}
    shown = Steps(parts)
    found = checked(net, shown, shown(net))
    assert [issue.kind for issue in found] == ["slow"] * named
    if named:
        assert (found[0].index, found[0].fix.change, found[0].fix.value) == (0, "adaptation_decay", 0.99)
        own, with_fix = (f"{100 * part:.3g} %" for part in (learned, better[1]))
        assert f"learns {own} of examples that the updates do not use, and {with_fix} with this fix" in str(found[0])


def test_fix_of_several_issues_is_trained_once():
    """Training takes most of the time. Two issues share the decay, in other words."""
    net = Network([Layer(np.ones((2, 3), np.float32), LIF(0.9))])
    trainings = []

    class Counted(Steps):
        def trained(self, network, fix=None):
            trainings.append(network.layers[0].cell.decay)

    judged = _trials.Judged(net, Counted({}), Seen([REPORT], NetworkReport([LIF()])), ())
    for decay, text in ((0.5, "one"), (0.7, "two"), (0.5, "three")):
        judged.trained(Fix(0, "decay", decay, text))
    assert trainings == [0.5, 0.7]


@pytest.mark.parametrize(("left", "factors"), [(0.29, []), (0.31, [100.0]), (0.89, [100.0]), (0.91, [10.0])])
def test_learning_rate_is_to_blame_only_if_the_examples_are_not_learned(monkeypatch, left, factors):
    monkeypatch.setattr(_trials, "issues", lambda *_: ())
    net = Network([Layer(np.ones((2, 3), np.float32), AdaptiveLIF(0.9))])
    shown = Steps({AdaptiveLIF().adaptation_decay: (left, 0.4), "learning rate": (0.0, 1.0)})
    found = checked(net, shown, shown(net))
    expected = [("slow", "learning rate", factor) for factor in factors]
    assert [(issue.kind, issue.fix.change, issue.fix.value) for issue in found] == expected


def test_best_of_several_learning_rates_is_offered(monkeypatch):
    monkeypatch.setattr(_trials, "issues", lambda *_: ())
    net = Network([Layer(np.ones((2, 3), np.float32), AdaptiveLIF(0.9))])
    rates = {("learning rate", 10.0): (0.5, 0.6), ("learning rate", 100.0): (0.2, 0.7), "learning rate": (1.0, 0.0)}
    shown = Steps({AdaptiveLIF().adaptation_decay: (0.95, 0.0)} | rates)
    [found] = checked(net, shown, shown(net))
    assert (found.fix.change, found.fix.value) == ("learning rate", 100.0)
    assert "learns 0 % of examples that the updates do not use, and 70 % with this fix" in str(found)


@pytest.mark.parametrize("threshold", few([0.5, 15.0], 15.0))
def test_neurons_with_batch_normalization(threshold):
    """Their level depends on the other examples, so they are judged by their spikes."""
    cell = MPBN(0.8, threshold, SLOPE)
    state = jnp.zeros((EXAMPLES, NEURONS))
    found = find(state, cell.fire, None)
    assert bool(jnp.isnan(found.level).all())
    assert bool(found.spikes)
    net = Network([
        Layer(matrix(0, INPUTS, NEURONS, 2.0), cell),
        Layer(matrix(1, NEURONS, CLASSES), LeakyReadout(0.9)),
    ])  # fmt: skip
    seen = diagnose(net, spikes(), cross_entropy, optimizer=optax.adam(0.01))
    assert (seen.layers[0].fires, seen.layers[0].scale) == (True, None)
    if threshold == 0.5:
        assert seen.issues == ()
        return
    [issue] = seen.issues
    assert (issue.kind, issue.fix.change) == ("silent", "threshold")
    assert float(issue.fix.apply(net).layers[0].cell.threshold) == 0.5


def test_slope_of_coupled_neurons_is_that_of_each_neuron():
    """Its sum over the steps, from the whole Jacobian. Other examples add random parts, which cancel on average."""
    cell, w = MPBN(0.8, surrogate=PiecewiseQuadratic(0.5)), matrix(0, INPUTS, 3, 2.0)
    net = Network([Layer(w, cell), Layer(matrix(1, 3, CLASSES), LeakyReadout(0.9))])
    given = Look({net.inputs: jnp.asarray(spikes())}, None, None, None, None, "exact")
    slope = np.asarray(given._run(net)["layers"][0].slope)
    before = net(spikes(), pre_spike=True)[2][0]

    def own(u):
        return jnp.einsum("bnbn->bn", jax.jacobian(lambda u: cell.fire(u)[1])(u))

    expected = np.asarray(jax.lax.map(own, before))
    assert slope.mean() == pytest.approx(expected.mean(), rel=0.1)
    assert np.corrcoef(slope.ravel(), expected.ravel())[0, 1] > 0.95


def test_outliers_of_inputs_are_limited():
    """Missing values are coded as -999."""
    rng = np.random.default_rng(3)
    x = np.where(rng.random((STEPS, EXAMPLES, INPUTS)) < 0.06, -999.0, rng.normal(size=(STEPS, EXAMPLES, INPUTS)))
    net = stack(LIF(0.9, surrogate=SLOPE), gains=(1.0,))
    [issue] = diagnose(net, x.astype(np.float32), cross_entropy).issues
    assert (issue.kind, issue.fix.change) == ("saturated", "input limit")
    usual = np.quantile(abs(x[x != 0]), 0.9)
    assert issue.fix.value == pytest.approx(2 * usual, rel=0.01)
    weight = issue.fix.apply(net).layers[0].weight
    np.testing.assert_allclose(
        weight(jnp.asarray(x[0], jnp.float32)),
        np.clip(x[0], -issue.fix.value, issue.fix.value) @ np.asarray(net.layers[0].weight, np.float64),
        rtol=1e-4,
        atol=1e-4,
    )


def test_slope_that_is_far_too_wide_becomes_narrower():
    """The width of a sigmoid was passed as its steepness."""
    [issue] = _weak([Case(0, [dataclasses.replace(REPORT, **FLAT)], NetworkReport([LIF()]))]).fixes
    assert issue.value.surrogate_grad(jnp.zeros(())) == pytest.approx(1.0)
    assert measure(issue.value).half_width == pytest.approx(1.0, rel=1e-3)


def test_thresholds_of_both_signs_get_the_default():
    rng = np.random.default_rng(4)
    signs = np.where(np.arange(NEURONS) % 3, -1, 1)  # two of three neurons fire at rest
    threshold = jnp.asarray(signs * rng.uniform(0.5, 1.5, NEURONS), jnp.float32)
    net = stack(LIF(0.9, threshold, surrogate=SLOPE), gains=(2.0,))
    issue = diagnose(net, spikes(), cross_entropy).issues[0]
    assert (issue.kind, issue.fix.change) == ("saturated", "threshold")
    np.testing.assert_allclose(issue.fix.apply(net).layers[0].cell.threshold, 1.0, rtol=1e-6)


def test_receptors_have_no_mean_current_of_a_neuron():
    """Inhibition is 60 times too strong. A bias would have one number for each neuron and receptor."""
    weight = abs(np.random.default_rng(5).normal(size=(INPUTS, NEURONS, 2))) * [0.3, -18.0]
    cell = MultiSynapticLIF(0.9, surrogate=SLOPE, synaptic_decay=np.asarray([0.4, 0.7], np.float32))
    layers = [Layer(jnp.asarray(weight, jnp.float32), cell), Layer(matrix(1, NEURONS, CLASSES), LeakyReadout(0.9))]
    found = diagnose(Network(layers), spikes(), cross_entropy)
    assert found.layers[0].currents == ()
    assert found.issues[0].kind == "silent"


def test_histogram_of_equal_potentials():
    """A bias holds them at a number beside which float32 has no room for bins."""
    net = Network([Layer(jnp.zeros((INPUTS, 2)), LeakyReadout(0.0), bias=jnp.full(2, 1e24))])
    [layer] = diagnose(net, spikes(), Partial(lambda out: out.mean())).layers
    assert sum(layer.shares) == pytest.approx(1.0)
    assert layer.edges[0] < 1e24 < layer.edges[-1]


def test_input_gain_is_left_out_in_all_layers_of_the_cell():
    """The weights are for a gain of 1."""
    net = stack(LIF(0.98, surrogate=SLOPE, norm_input=True), gains=(0.5, 0.5))
    fixes = {fix.change: fix for issue in diagnose(net, spikes(), cross_entropy).issues for fix in issue.fixes}
    fix = fixes["norm_input"]
    assert [(one.index, one.value) for one in (fix, *fix.others)] == [(0, False), (1, False)]
    assert "leave out its input gain of 0.02 (`norm_input=False`)" in str(fix)
    for free, offered in ((0.02, True), (0.14, True), (0.15, False), (1.0, False)):  # without the gain: 50 times more
        layer = dataclasses.replace(REPORT, free=free)
        found = against_activity(Case(0, [layer], NetworkReport([LIF(0.98, norm_input=True)])))
        assert ("norm_input" in [fix.change for fix in found]) == offered


def test_slow_network_gets_other_slopes_epsilon_and_learning_rate():
    """Candidates of a network in which nothing else is unusual."""
    wide = {"surrogate": Sigmoid(0.1), "half_width": 17.6, "peak": 0.025, "area": 1.0}
    narrow = {"surrogate": Sigmoid(100.0), "half_width": 0.0176, "peak": 25.0, "area": 1.0}
    for slope, changes in ((wide, ["surrogate"]), (narrow, ["surrogate"] * 2), ({}, [])):
        layer = dataclasses.replace(REPORT, **slope, updates={"weight": 1e-3}, weights={"weight": 1.0})
        found = [*suspects([layer], NetworkReport([LIF()]))]
        assert [fix.change for fix in found] == [*changes, *["learning rate"] * 5]
        for fix in found[: len(changes)]:
            assert 0.1 < measure(fix.value).half_width <= 1
            assert measure(fix.value).peak == pytest.approx(1.0)
    slowed = dataclasses.replace(REPORT, updates={"weight": 1e-3}, weights={"weight": 1.0})
    slowed = dataclasses.replace(slowed, without_epsilon={"weight": 0.1})
    found = [*suspects([slowed], NetworkReport([LIF()]))]
    assert [(fix.change, fix.value) for fix in found[:2]] == [("epsilon", 1e-3), ("epsilon", 1e-6)]
    assert [fix.value for fix in found[2:]] == [10, 100, 1000, 0.1, 0.01]


@pytest.mark.parametrize(
    ("cell", "changed", "expected"),
    [
        (HRF(20.0, dt=0.004), {}, [("dt", 0.01)]),
        (HRF(20.0, dt=0.006), {}, []),
        (LIF(reset="none"), {}, [("reset", "subtract")]),
        (LIF(), {"free": 0.49}, [("feedforward weights", pytest.approx(2.0, rel=0.05))]),
        (LIF(), {"free": 2.1}, [("feedforward weights", pytest.approx(0.48, rel=0.05))]),
        (LIF(), {"free": 0.51}, []),
        (LIF(), {"free": 1.9}, []),
    ],
    ids=str,
)
def test_slow_network_gets_defaults_resets_and_scales(cell, changed, expected):
    layer = dataclasses.replace(REPORT, updates={"weight": 1e-3}, weights={"weight": 1.0}, **changed)
    found = [(fix.change, fix.value) for fix in suspects([layer], NetworkReport([cell]))]
    assert found == [*expected, *(("learning rate", factor) for factor in (10.0, 100.0, 1000.0, 0.1, 0.01))]


def test_decay_without_a_default_is_unusual_if_it_is_close_to_one():
    """The new time constant is a fifth of 50 steps. 1 - decay must be 30 times as large."""
    for decay, found in ((0.9998, [0.9]), (0.9968, [0.9]), (0.9966, [])):
        layer = dataclasses.replace(REPORT, by_lag=(1.0,) * 50)
        changes = [
            fix.value for fix in to_defaults(Case(0, [layer], NetworkReport([LIF(decay)]))) if fix.change == "decay"
        ]
        assert changes == found


def test_short_memories_become_as_long_as_the_inputs():
    """The time constants of 50 steps are short below 10. That of the readout changes first."""
    report = dataclasses.replace(REPORT, by_lag=(1.0,) * 50)
    layers = [report, dataclasses.replace(report, fires=False)]
    for decays, expected in (
        ((0.05, 0.05), [[1], [0, 1]]),
        ((0.89, 0.95), [[0]]),
        ((0.95, 0.89), [[1]]),
        ((0.91, 0.91), []),
    ):
        network = NetworkReport([LIF(decays[0]), LeakyReadout(decays[1])])
        found = [fix for fix in suspects(layers, network) if fix.change == "decay"]
        assert [[one.index for one in (fix, *fix.others)] for fix in found] == expected
        assert all(one.value == 0.98 for fix in found for one in (fix, *fix.others))


def test_high_slopes_become_lower_with_a_large_threshold():
    """The reset passes back height times threshold, so the gradient grows if this is much larger than 1."""
    for threshold, free, steep in ((60.0, 12.0, True), (1.0, 0.1, False), (60.0, 4.9, False), (60.0, 5.4, True)):
        layer = dataclasses.replace(REPORT, surrogate=SIGMOID, half_width=0.44, peak=1.0, at=0.0, area=1.0)
        layer = dataclasses.replace(layer, scale=threshold, free=free, std=free)
        found = to_scale(Case(0, [layer], NetworkReport([LIF(0.9, threshold)])))
        both = [fix for fix in found if [one.change for one in (fix, *fix.others)] == ["threshold", "surrogate"]]
        assert len(both) == steep
        for fix in both:
            assert measure(fix.others[0].value).peak == pytest.approx(1 / free, rel=0.05)
