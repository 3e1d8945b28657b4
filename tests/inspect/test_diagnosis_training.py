"""What a training on the given inputs shows: if a network learns, and which fix helps most."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
from spikegrad.inspect.diagnosis import Fix, Issue, LayerReport, _trials
from spikegrad.inspect.diagnosis._issues import _weak
from spikegrad.inspect.diagnosis._look import Look, NetworkReport, Seen, Trained
from spikegrad.inspect.diagnosis._potential import find
from spikegrad.inspect.diagnosis._proposals import Case
from spikegrad.inspect.diagnosis._recorder import _along
from spikegrad.inspect.diagnosis._trials import checked
from spikegrad.neurons import EIF, MPBN, MultiSynapticLIF

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


def test_training_is_that_of_a_plain_loop():
    optimizer, net = optax.adam(0.01), stack(LIF(0.9, surrogate=SLOPE))
    own = Look({net.inputs: jnp.asarray(spikes())}, None, None, cross_entropy, optimizer, "exact")
    trained = own.trained(net)
    weights = [layer.weight for layer in net.layers]

    def outputs_of(weights):
        return Network([Layer(w, layer.cell) for w, layer in zip(weights, net.layers, strict=True)])(spikes())[1]

    def loss_of(weights):
        return cross_entropy(outputs_of(weights))

    state, gradient = optimizer.init(weights), jax.jit(jax.grad(loss_of))
    for number in range(100):
        if number == 30:
            for w, layer in zip(weights, trained.network.layers, strict=True):
                np.testing.assert_allclose(layer.weight, w, rtol=1e-3, atol=1e-4)
        change, state = optimizer.update(gradient(weights), state, weights)
        weights = optax.apply_updates(weights, change)
    assert trained.loss == pytest.approx(float(loss_of(weights)), rel=0.05, abs=1e-5)
    # Half of the examples get outputs of the other class, with probabilities near 0.
    order = np.random.default_rng(0).permutation(EXAMPLES)
    assert trained.mixed == pytest.approx(float(cross_entropy(outputs_of(weights)[:, order])), rel=0.05)
    assert trained.left == trained.loss / trained.mixed < 0.05
    assert math.isnan(Trained(net, 0.1, 0.0).left)


def test_without_loss_or_optimizer_nothing_is_trained():
    net = stack(LIF(0.9))
    given = {net.inputs: jnp.asarray(spikes())}
    assert Look(given, None, None, None, optax.sgd(0.1), "exact").trained(net) is None
    assert Look(given, None, None, cross_entropy, None, "exact").trained(net) is None


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
    """A look with given losses after training, by the bias of the layer, and without a fault if there is a bias."""

    def __init__(self, losses):
        self.losses = losses

    def bias(self, network):
        [layer] = network.layers
        return None if layer.bias is None else float(layer.bias)

    def __call__(self, network):
        return Seen([REPORT], NetworkReport([LIF()]))

    def trained(self, network):
        loss = self.losses[self.bias(network)]
        return None if loss is None else Trained(network, loss, 10.0)


def ordered(monkeypatch, losses, changes=("bias",) * 4):
    net = Network([Layer(np.ones((2, 2), np.float32), LIF())])
    fixes = tuple(Fix(0, change, float(n), f"fix {n}") for n, change in enumerate(changes, 1))
    first = [True]

    def faults(*_):
        return (Issue("saturated", 0, "", fixes),) if first.pop() else ()

    class Once(list):
        def pop(self):
            return list.pop(self) if self else False

    first = Once(first)
    monkeypatch.setattr(_trials, "issues", faults)
    shown = Shown({None: 8.0} | {float(n): loss for n, loss in enumerate(losses, 1)})
    [issue] = checked(net, shown, Seen([REPORT], NetworkReport([LIF()], loss=8.0)))
    return [int(fix.value) for fix in issue.fixes]


def test_fix_that_trains_much_better_comes_first(monkeypatch):
    """The network itself trains to 8. A gain of 4 is 0.8 of 5."""
    assert ordered(monkeypatch, (7.0, 3.0, 4.0, 0.0)) == [2, 3, 1, 4]  # the fourth is not trained
    assert ordered(monkeypatch, (4.0, 3.0, 7.0, 0.0)) == [1, 2, 3, 4]
    assert ordered(monkeypatch, (4.1, 3.0, 7.0, 0.0)) == [2, 1, 3, 4]
    assert ordered(monkeypatch, (math.nan, 3.0, None, 0.0)) == [2, 1, 3, 4]
    assert ordered(monkeypatch, (9.0, 8.5, 8.1, 0.0)) == [1, 2, 3, 4]  # all are worse than without


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
    descent = optax.chain(optax.scale_by_adam(), optax.scale(-0.01))
    assert diagnose(net, spikes(), cross_entropy, optimizer=descent).issues == ()


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
    [issue] = diagnose(net, spikes(), cross_entropy, optimizer=optax.adam(0.01)).issues
    assert (issue.kind, issue.fix.change, issue.fix.value) == ("not finite", "dtype", "float32")
    changed = issue.fix.apply(net)
    assert {str(layer.weight.dtype) for layer in changed.layers} == {"float32"}
    for old, new in zip(net.layers, changed.layers, strict=True):
        np.testing.assert_array_equal(old.weight, new.weight)


def test_weight_decay_of_the_wrong_sign_is_named():
    """It comes after the learning rate, so each update makes the weights larger by a tenth."""
    optimizer = optax.chain(optax.adam(1e-3), optax.add_decayed_weights(0.1))
    found = diagnose(stack(LIF(0.9, surrogate=SLOPE)), spikes(), cross_entropy, optimizer=optimizer)
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
    seen, saturated = Seen([layer], NetworkReport([LIF()], loss=1.0)), Issue("saturated", 0, "")
    for loss, expected in ((0.049, left), (0.051, [0])):
        trained = Trained(stack(LIF()), loss, 1.0)
        found = _trials._without_trained((saturated,), look(None), seen, trained)
        assert [issue.index for issue in found] == expected


class Steps(Look):
    """A look whose training leaves a given part of the loss, by the decay of the adaptation."""

    def __init__(self, left):
        self.left = left

    def __call__(self, network):
        return Seen([REPORT], NetworkReport([network.layers[0].cell]))

    def trained(self, network):
        return Trained(network, self.left[network.layers[0].cell.adaptation_decay], 1.0)


@pytest.mark.parametrize(("own", "better", "named"), [(0.13, 0.043, True), (0.11, 0.01, False), (0.13, 0.044, False)])
def test_unusual_parameter_is_an_issue_if_training_shows_it(monkeypatch, own, better, named):
    monkeypatch.setattr(_trials, "issues", lambda *_: ())
    cell = AdaptiveLIF(0.9, adaptation_decay=0.005)
    net = Network([Layer(np.ones((2, 3), np.float32), cell)])
    shown = Steps({0.005: own, AdaptiveLIF().adaptation_decay: better})
    found = checked(net, shown, shown(net))
    assert [issue.kind for issue in found] == ["slow"] * named
    if named:
        assert (found[0].index, found[0].fix.change, found[0].fix.value) == (0, "adaptation_decay", 0.99)
        assert "leave 13 % of the loss of mixed outputs, and 4.3 % with this fix" in str(found[0])


@pytest.mark.parametrize("threshold", [0.5, 15.0])
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
