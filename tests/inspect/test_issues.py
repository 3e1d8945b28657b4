"""The bounds of each issue from both sides, the effect of each fix, and the trials that fixes pass."""

import dataclasses
import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import few

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Cell,
    Layer,
    LeakyReadout,
    Network,
    PiecewiseQuadratic,
    Sigmoid,
    SynapticLIF,
    bounded,
    diagnose,
    parameter,
    stochastic,
)
from spikegrad.inspect.diagnosis import Diagnosis, Fix, Issue, LayerReport, _trials
from spikegrad.inspect.diagnosis._issues import issues
from spikegrad.inspect.diagnosis._look import InputReport, Look, NetworkReport, Seen
from spikegrad.inspect.diagnosis._numbers import Recorded, factor_per_step, last_steps, numbers, offset_of_one_sign
from spikegrad.inspect.diagnosis._places import chain, places_of
from spikegrad.inspect.diagnosis._potential import find
from spikegrad.inspect.diagnosis._trials import Judged, Outcome, _helps, _worsens, checked, health
from spikegrad.neurons import QIF, TCLIF, AdLIF, Izhikevich, Refractory
from spikegrad.surrogates._algebra import shifted

STEPS, BATCH, INPUTS, NEURONS, OUTPUTS = 20, 6, 5, 8, 2
REPORT = LayerReport(
    name="layer 1",
    cell="LIF",
    fires=True,
    neurons=50,
    finite=True,
    rate=0.1,
    silent=0.1,
    always=0.0,
    mean=-1.0,
    std=0.5,
    firing=0.1,
    scale=1.0,
    at_rest=0.0,
    surrogate=Sigmoid(4.0),
    half_width=0.44,
    peak=1.0,
    at=0.0,
    area=1.0,
    at_threshold=1.0,
    within=0.2,
    reached=0.9,
    slope=0.2,
    current=0.0,
    drive=0.5,
    free=1.0,
    free_mean=0.0,
    gain=4.0,
    weights={"weight": 2.0},
    weight_gradients={"weight": 0.1},
    updates={"weight": 0.2},
    current_gradient=1.0,
    output_gradient=1.0,
    no_gradient=0.0,
    by_step=(0.5, 1.0),
    by_lag=(1.0, 0.9),
    factor=0.9,
    eight_bit_error=0.01,
)
"""A healthy layer."""
WHOLE = NetworkReport([LIF(0.9)], loss=1.0, losses_after=[2.0], reads=[0.0, 1.0], differ=[1.0, 1.0])


def judged(whole=WHOLE, **numbers):
    return [issue.kind for issue in issues([dataclasses.replace(REPORT, **numbers)], whole)]


# Each fault with numbers on either side of its bound, as docs/diagnose.md has them.
BOUNDS = {
    "silent": [
        ({"silent": 1.0}, {"silent": 0.999}),
        ({"silent": 0.95, "slope": 0.0199}, {"silent": 0.949, "slope": 0.0199}),
        ({"silent": 0.95, "slope": 0.0199}, {"silent": 0.95, "slope": 0.02}),
        ({"silent": 1.0}, {"silent": 1.0, "fires": False}),
        ({"quiet": 0.9, "slope": 0.0199}, {"quiet": 0.9, "slope": 0.02}),
        ({"quiet": 0.9, "slope": 0.0199}, {"quiet": 0.899, "slope": 0.0199}),
        ({"silent": 0.95, "quiet": 0.9}, {"silent": 0.949, "quiet": 0.9}),
        ({"silent": 0.95, "quiet": 0.9}, {"silent": 0.95, "quiet": 0.899}),
    ],
    "alike": [({"alike": True}, {}), ({"alike": True}, {"alike": True, "fires": False})],
    "saturated": [
        ({"mean": 28.0, "std": 21.0, "free": 12.0}, {"mean": 28.0, "std": 20.99, "free": 12.0}),
        (
            {"mean": -28.0, "std": 21.0, "free": 12.0},
            {"mean": -28.0, "std": 21.0, "free": 12.0, "scale": 1.01},
        ),
        # The threshold is 3, the potential without spikes 4, and 7.4 with feedback of 0.85 times the currents.
        (
            {"mean": 12.0, "std": 16.0, "scale": 3.0, "free": 4.0},
            {"mean": 12.0, "std": 15.99, "scale": 3.0, "free": 4.0},
        ),
        (
            {"mean": 19.1, "std": 25.6, "scale": 3.0, "free": 4.0, "drive": 0.2, "feedback": 0.17},
            {"mean": 19.1, "std": 25.3, "scale": 3.0, "free": 4.0, "drive": 0.2, "feedback": 0.17},
        ),
        ({"mean": 30.0}, {"mean": 30.0, "drive": None}),
        # The mean of each neuron is 4/5 of its potential.
        (
            {"mean": -6.0, "std": 8.0, "free": 9.0, "free_means": 7.21},
            {"mean": -6.0, "std": 7.99, "free": 9.0, "free_means": 7.21},
        ),
        (
            {"mean": -6.0, "std": 8.0, "free": 9.0, "free_means": 7.21},
            {"mean": -6.0, "std": 8.0, "free": 9.0, "free_means": 7.19},
        ),
        ({"mean": 30.0}, {"mean": 30.0, "free": np.inf}),
        ({"always": 0.5}, {"always": 0.499}),
        ({"firing": 0.8}, {"firing": 0.799}),
        ({"at_rest": 0.21}, {"at_rest": 0.2}),
        ({"at_rest": 0.21}, {"at_rest": 0.21, "scale": 0.0}),
        ({"always": 0.5}, {"always": 0.5, "fires": False}),
    ],
    "out of reach": [
        ({"reached": 0.0199}, {"reached": 0.02}),
        ({"slope": 0.99e-3, "rate": 0.01}, {"slope": 1e-3, "rate": 0.01}),
        ({"slope": 0.99e-3, "rate": 0.01}, {"slope": 0.99e-3, "rate": 0.0099}),
        ({"at_threshold": 0.99e-6}, {"at_threshold": -1.01e-6}),
    ],
    "explodes": [
        ({"by_lag": (1.0, 0.5, 8.5), "factor": 1.1}, {"by_lag": (1.0, 0.5, 8.49), "factor": 1.1}),
        # The gradient of an oscillator has zeros, and decays on the whole.
        ({"by_lag": (1.0, 0.5, 8.5), "factor": 1.1}, {"by_lag": (1.0, 0.5, 8.5), "factor": 1.0}),
        ({"by_lag": (1.0, 0.5, 17.0)}, {"by_lag": (1.0, 0.5, 16.9)}),
        ({"by_lag": (1.0, np.inf)}, {"by_lag": (1.0, 0.0, 1.0)}),
        ({"by_lag": (1.0, 17.0)}, {"by_lag": (18.0, 1.0)}),
    ],
    "overshoots": [
        ({"updates": {"weight": 5.0}}, {"updates": {"weight": 4.99}}),
        (
            {"updates": {"weight": 5.0}},
            {"updates": {"weight": 0.2, "bias": 9.0}, "weights": {"weight": 2.0, "bias": 1.0}},
        ),
    ],
    "stalls": [
        ({"updates": {"weight": 1.99e-4}}, {"updates": {"weight": 2.01e-4}}),
        ({"updates": {"weight": 1.99e-4}}, {"updates": {"weight": 0.0}}),
        # Usual weights of 50 neurons have a norm of sqrt(50).
        (
            {"weights": {"weight": 0.0}, "updates": {"weight": 7.0e-4}},
            {"weights": {"weight": 0.0}, "updates": {"weight": 7.1e-4}},
        ),
        (
            {"weights": {"weight": 2.0, "recurrent": 0.0}, "updates": {"weight": 0.0, "recurrent": 7.0e-4}},
            {"weights": {"weight": 2.0, "recurrent": 0.0}, "updates": {"weight": 2.01e-4, "recurrent": 7.0e-4}},
        ),
    ],
    "shrinks": [
        (
            {"decays": {"weight": 0.02}, "learned": {"weight": 0.0066}},
            {"decays": {"weight": 0.0199}, "learned": {"weight": 0.0066}},
        ),
        (
            {"decays": {"weight": 0.02}, "learned": {"weight": 0.0066}},
            {"decays": {"weight": 0.02}, "learned": {"weight": 0.0067}},
        ),
    ],
    "not finite": [
        ({"finite": False}, {}),
        ({"current_gradient": np.nan, "by_step": (np.nan, 1.0)}, {}),
        ({"updates": {"weight": np.nan}}, {}),
    ],
    "cut off": [({"no_gradient": 1.0}, {"no_gradient": 0.99})],
}


@pytest.mark.parametrize("fault", BOUNDS)
def test_verdict_begins_at_its_bound(fault):
    assert judged() == []
    for beyond, within in BOUNDS[fault]:
        assert judged(**beyond) == [fault], beyond
        assert judged(**within) == [], within


def test_layer_has_one_fault():
    """The first that holds, because the others follow from it."""
    faults = {"always": 0.9, "reached": 0.0, "by_lag": (1.0, 18.0)}
    assert judged(**faults) == ["saturated"]
    assert judged(**faults | {"always": 0.0}) == ["out of reach"]
    assert judged(**faults | {"always": 0.0, "reached": 0.5}) == ["explodes"]


def test_growth_from_outputs_to_currents_matters_to_layers_below():
    """In the lowest layer it changes the size of the weights' gradient only."""
    for changed, explodes in (
        ({"current_gradient": 17.0}, True),
        ({"current_gradient": 16.99}, False),
        ({"current_gradient": 20.0, "gain": 20.0}, True),
        ({"current_gradient": 19.9, "gain": 20.0}, False),
    ):
        layer, two = dataclasses.replace(REPORT, **changed), WHOLE._replace(cells=[LIF(0.9)] * 2)
        assert issues([layer, REPORT], two) == ()
        assert [(v.kind, v.index) for v in issues([REPORT, layer], two)] == [("explodes", 1)] * explodes


def test_layer_that_starves_a_silent_layer_is_named():
    two, silent = WHOLE._replace(cells=[LIF(0.9)] * 2), dataclasses.replace(REPORT, silent=1.0)
    for changed, named in (
        ({"silent": 0.8}, [("silent", 0)]),
        ({"silent": 0.79}, []),
        ({"silent": 0.8, "fires": False}, []),
        ({"silent": 0.8, "reached": 0.0}, [("out of reach", 0)]),
    ):
        found = issues([dataclasses.replace(REPORT, **changed), silent], two)
        assert [(issue.kind, issue.index) for issue in found] == [*named, ("silent", 1)], changed
    assert issues([dataclasses.replace(REPORT, silent=0.8), REPORT], two) == ()


def test_weights_of_neurons_that_are_not_linear_are_scaled_further():
    """The currents are in nA instead of pA."""
    weak = network(Izhikevich(), gain=0.03)
    [issue] = diagnose(weak, inputs(), LOSS).issues
    assert (issue.kind, issue.fix.change) == ("silent", "feedforward weights")
    assert [fix.change for fix in issue.fixes].count("feedforward weights") == 1
    assert diagnose(issue.fix.apply(weak), inputs(), LOSS).layers[0].rate > 0.01


def test_eight_bits_are_judged_in_their_mode():
    eight = WHOLE._replace(mode="8-bit")
    assert judged(eight, eight_bit_error=0.25) == ["too few bits"]
    assert judged(eight, eight_bit_error=0.249) == judged(eight._replace(mode="half"), eight_bit_error=0.25) == []


def test_gradient_vanishes_below_a_thousandth():
    """The share that arrives is the mean of the gradient over its largest, weighted by how much the inputs differ."""
    late = WHOLE._replace(differ=[1.0, 0.0], reads=[0.0, 1.0])
    assert judged(late, by_step=(0.99e-3, 1.0)) == ["vanishes"]
    assert judged(late, by_step=(1.01e-3, 1.0)) == []
    assert judged(late._replace(differ=[1.0, 1.0]), by_step=(0.0, 1.0)) == []
    three = late._replace(cells=[LIF(0.5), LIF(0.8), LIF(0.7)])
    [found] = issues([dataclasses.replace(REPORT, by_step=(0.99e-3, 1.0))] * 3, three)
    assert found.index == 1  # the layer that forgets least
    [found] = issues(
        [dataclasses.replace(REPORT, by_step=(1e-9, 0.0, 0.0, 1.0))],
        late._replace(differ=[1.0, 0.0, 0.0, 0.0], reads=[0.0, 0.0, 0.0, 1.0]),
    )
    assert (found.fix.change, found.fix.value) == ("decay", pytest.approx(np.exp(-1 / 3), rel=1e-3))


def test_gradient_vanishes_if_most_differences_get_none():
    """Of ten steps that differ, nine get less than a thousandth of the largest gradient. The others get all of it."""
    late = WHOLE._replace(differ=[1.0] * 10, reads=[0.0] * 9 + [1.0])
    [found] = issues([dataclasses.replace(REPORT, by_step=(0.99e-3,) * 9 + (1.0,))], late)
    assert found.kind == "vanishes"
    assert "90 % of the differences get less than a thousandth of the gradient" in str(found)
    assert (found.fix.change, found.fix.value) == ("decay", pytest.approx(np.exp(-1 / 4.5), rel=1e-3))
    assert judged(late, by_step=(0.99e-3,) * 8 + (1.01e-3, 1.0)) == []
    assert judged(late._replace(differ=[1.0] * 9 + [1.01]), by_step=(0.99e-3,) * 9 + (1.0,)) == []


def test_loss_may_read_before_the_inputs_differ():
    """It reads the first of 21 steps, and the mean of the steps that differ is 10."""
    first = WHOLE._replace(differ=[1.0] * 21, reads=[1.0] + [0.0] * 20)
    [found] = issues([dataclasses.replace(REPORT, by_step=(1.0,) + (0.0,) * 20)], first)
    assert (found.kind, found.fixes) == ("vanishes", ())
    assert "the loss reads the outputs 10 steps before the inputs differ" in str(found)


def test_update_overshoots_if_the_loss_rises():
    """Weights that begin small may change by more than their size."""
    large = {"updates": {"weight": 130.0}}
    assert judged(WHOLE._replace(losses_after=[0.99]), **large) == []
    for after in (1.01, np.nan, np.inf):
        assert judged(WHOLE._replace(losses_after=[after]), **large) == ["overshoots"]
    assert judged(WHOLE._replace(loss=np.nan, losses_after=[np.nan]), **large) == []


def test_small_weights_are_scaled_with_their_small_threshold_if_updates_are_large():
    """Only in the layers with such an update. The learning rate changes if it is too large for every layer."""
    numbers = (6.0, 0.03), (0.2, 0.01), (6.0, 0.04), (0.6, 0.01)
    layers = [dataclasses.replace(REPORT, updates={"weight": size}, scale=scale) for size, scale in numbers]
    whole = WHOLE._replace(cells=[LIF(), LIF(), LIF(), LeakyReadout()], losses_after=[2.0, 0.5])
    units, rate = issues(layers, whole)[-1].fixes
    changes = [(one.index, one.change, one.value) for one in (units, *units.others)]
    assert changes == [(0, "weights", 30.0), (0, "threshold", 30.0)]
    assert rate.change == "learning rate"
    assert [fix.change for fix in issues([layers[0]] * 2, whole)[-1].fixes] == ["learning rate"]


def test_update_overshoots_without_a_loss_if_it_is_as_large_as_all_weights():
    without = WHOLE._replace(loss=None, losses_after=(), cells=[LIF()] * 2)
    layers = [dataclasses.replace(REPORT, updates={"weight": size}) for size in (5.0, 4.99, 200.0)]
    assert issues(layers[1:], without) == ()
    [found] = issues(layers[::2], without)
    assert (found.kind, found.index, found.fix.value) == ("overshoots", 1, 0.001)


def test_learning_rate_is_a_third_of_the_best_that_was_tried():
    """The parts of the update are 1, 0.3, 0.1, and so on. If only some layers are overshot, it becomes a tenth."""
    fast, two = dataclasses.replace(REPORT, updates={"weight": 50.0}), WHOLE._replace(cells=[LIF()] * 2)
    for losses, factor in (([9.0, 0.8, 0.9], 0.09), ([9.0, 2.0, 1.8, 1.1, 0.9], 0.003)):
        [found] = issues([fast], WHOLE._replace(losses_after=losses))
        assert (found.fix.change, found.fix.value) == ("learning rate", factor)
        [found] = issues([fast, REPORT], two._replace(losses_after=losses))
        assert (found.index, found.fix.value) == (0, 0.1)
    [found] = issues([fast], WHOLE._replace(losses_after=[9.0, 2.0, 1.8, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1]))
    assert found.fixes == ()


def test_explosions_are_named_from_the_side_of_the_loss():
    """The other issues come from the inputs on."""
    growing, far = (dataclasses.replace(REPORT, **n) for n in ({"by_lag": (1.0, 18.0)}, {"mean": -50.0}))
    found = issues([growing, far, growing, REPORT, growing, far], WHOLE._replace(cells=[LIF()] * 6))
    assert [(v.kind, v.index) for v in found] == [
        *(("explodes", 4), ("saturated", 1), ("explodes", 2), ("explodes", 0), ("saturated", 5)),
    ]


def test_readout_that_forgets_gets_a_longer_time_constant():
    """The loss looks two steps late. A readout with a memory of two steps leaves the hidden layer."""
    late = WHOLE._replace(differ=[1.0, 0.0, 0.0], reads=[0.0, 0.0, 1.0])
    hidden = dataclasses.replace(REPORT, by_step=(1e-9, 1.0, 1.0))
    readout = dataclasses.replace(REPORT, fires=False, by_step=(0.0, 0.0, 1.0))
    for decays, hidden_steps, changed, index in (
        ((0.5, 0.0), (1e-9, 1.0, 1.0), {}, 1),
        ((0.9, 0.606), (1e-9, 1.0, 1.0), {}, 1),
        ((0.5, 0.607), (1e-9, 1.0, 1.0), {}, 0),
        ((0.9, 0.0), (1.0, 1.0, 1.0), {"weight_gradients": {"weight": 0.0}}, 1),  # no spike comes while the loss looks
        ((0.9, 0.4), (1.0, 1.0, 1.0), {"weight_gradients": {"weight": 0.9e-6}, "current_gradient": 1.0}, 1),
    ):
        layers = [dataclasses.replace(hidden, by_step=hidden_steps), dataclasses.replace(readout, **changed)]
        [found] = issues(layers, late._replace(cells=[LIF(decays[0]), LeakyReadout(decays[1])]))
        assert (found.kind, found.index, found.fix.value) == ("vanishes", index, pytest.approx(0.607, rel=1e-3))
    fed = dataclasses.replace(readout, weight_gradients={"weight": 1.1e-6}, current_gradient=1.0)
    layers = [dataclasses.replace(hidden, by_step=(1.0, 1.0, 1.0)), fed]
    assert issues(layers, late._replace(cells=[LIF(0.9), LeakyReadout(0.4)])) == ()


def test_only_narrow_weights_get_a_wider_dtype():
    spoilt = dataclasses.replace(REPORT, current_gradient=math.nan)
    for dtypes, places in ((("float32", "bfloat16"), [1]), (("float16", "bfloat16"), [0, 1]), (("float32",) * 2, [])):
        layers = [dataclasses.replace(spoilt, dtype=dtype) for dtype in dtypes]
        [found] = issues(layers, WHOLE._replace(cells=[LIF()] * 2))
        assert found.kind == "not finite"
        assert [fix.index for one in found.fixes for fix in (one, *one.others)] == places


def test_update_that_is_not_finite_is_named_beside_a_silent_layer():
    """The gradient of a silent layer is 0, and without an epsilon Adam divides by it."""
    silent = dataclasses.replace(REPORT, silent=1.0, quiet=1.0, slope=0.0, firing=0.0, updates={"weight": math.nan})
    found = issues([silent], WHOLE._replace(cells=[LIF()]))
    assert [(issue.kind, issue.index) for issue in found] == [("silent", 0), ("not finite", 0)]


def test_epsilon_is_named_if_updates_would_be_large_without_it():
    """The weights have a norm of 2. The update becomes a tenth of them, and the epsilon a tenth of the gradient."""
    for update, without, fixes in (
        (2e-6, 0.02, {"epsilon": 1e-5, "learning rate": 1e5}),
        (2e-6, 6.1e-4, {"epsilon": 3.3e-4, "learning rate": 1e5}),
        (2e-6, 5.9e-4, {"learning rate": 1e5}),  # the learning rate is too small for any gradient
        (2e-6, np.inf, {"learning rate": 1e5}),
        (5.9e-4, 5.91e-3, {"epsilon": 0.01, "learning rate": 340.0}),
        (5.9e-4, 5.89e-3, None),
        (6.1e-4, 1.0, None),
    ):
        layer = dataclasses.replace(REPORT, updates={"weight": update}, without_epsilon={"weight": without})
        found = issues([layer], WHOLE)
        assert [issue.kind for issue in found] == ["stalls"] * (fixes is not None)
        assert all({fix.change: fix.value for fix in issue.fixes} == fixes for issue in found), (update, without)


def test_optimizer_stalls_if_its_first_thousand_updates_are_zero():
    still = dataclasses.replace(REPORT, updates={"weight": 0.0})
    assert issues([still], WHOLE._replace(idle_updates=999)) == ()
    [found] = issues([still], WHOLE._replace(idle_updates=1000))
    assert (found.kind, found.fixes) == ("stalls", ())


def test_a_schedule_that_hardly_rises_stalls():
    still = dataclasses.replace(REPORT, updates={"weight": 0.0})
    assert issues([still], WHOLE._replace(idle_updates=1, later_update=1.01e-4)) == ()
    [found] = issues([still], WHOLE._replace(idle_updates=1, later_update=1e-5))
    assert (found.kind, found.fix.change, found.fix.value) == ("stalls", "learning rate", 1e4)


def test_updates_that_are_rounded_away_stall():
    """An update of 0.02, a hundredth of the weights, in two layers."""
    small = dataclasses.replace(REPORT, updates={"weight": 0.02})
    for lost, other, stalls in ((0.0171, 0.02, True), (0.0169, 0.02, False), (0.02, 0.0169, False)):
        layers = [dataclasses.replace(small, rounded={"weight": part}) for part in (lost, other)]
        found = issues(layers, WHOLE._replace(cells=[LIF()] * 2))
        assert [(issue.kind, issue.fix.value) for issue in found] == [("stalls", 10.0)] * stalls


def test_weight_with_the_largest_decay_is_named():
    """Twice 0.04 of a weight and 0.08 of another, which a decay of 1/800 brings to 1/10,000."""
    strong = {"weights": {"weight": 2.0, "recurrent": 1.0}, "decays": {"weight": 0.08, "recurrent": 0.08}}
    layers = [REPORT, dataclasses.replace(REPORT, **strong, learned={"weight": 0.0, "recurrent": 0.01})]
    [found] = issues(layers, WHOLE._replace(cells=[LIF()] * 2))
    assert (found.index, found.fix.change, found.fix.value) == (1, "weight decay", 0.0013)
    assert "weight decay changes its recurrent by 8 % in one update, and the gradient by 1 %" in str(found)


def test_silent_layer_ends_the_list_of_verdicts():
    """Silence has one issue: layers above get no spikes, and no learning rate matters."""
    silent = dataclasses.replace(REPORT, silent=1.0, updates={"weight": 1e5})
    far = dataclasses.replace(REPORT, mean=-50.0)
    whole = WHOLE._replace(cells=[LIF()] * 3)
    assert [(v.kind, v.index) for v in issues([far, silent, far], whole)] == [("saturated", 0), ("silent", 1)]
    assert [(v.kind, v.index) for v in issues([silent, far, silent], whole)] == [("silent", 0)]


def test_zero_weights_above_are_no_cut():
    layers = [dataclasses.replace(REPORT, no_gradient=1.0), dataclasses.replace(REPORT, weights={"weight": 0.0})]
    whole = WHOLE._replace(cells=[LIF()] * 2)
    assert issues(layers, whole) == ()
    layers[1] = dataclasses.replace(layers[1], weights={"weight": 1e-9}, updates={})
    assert [(v.kind, v.index) for v in issues(layers, whole)] == [("cut off", 0)]


# --- proposals --------------------------------------------------------------------------------------------------------


def proposed(cell=None, **numbers):
    """The fixes of the one issue on a layer with these numbers, before they are tried."""
    [found] = issues([dataclasses.replace(REPORT, **numbers)], WHOLE._replace(cells=[cell or LIF(0.9)]))
    return {fix.change: fix.value for fix in reversed(found.fixes)}


def test_remedies_have_the_numbers_of_their_formulas():
    weak = {"silent": 1.0, "free": 0.04, "drive": 0.01}
    assert (proposed(**weak)["feedforward weights"], proposed(**weak)["threshold"]) == (25.0, 0.04)
    assert proposed(TCLIF(to_soma=0.0), **weak)["to_soma"] == 0.5
    assert not {"decay", "b"} & proposed(AdLIF(decay=0.0, b=0.0), **weak | {"silent": 0.99, "quiet": 1.0}).keys()
    assert "synaptic_decay" not in proposed(SynapticLIF(0.9, synaptic_decay=0.0), **weak)
    down = {"silent": 1.0, "free": 10.0, "free_mean": -9.0, "current": -2.5, "offset": -0.31}
    assert proposed(**down)["bias"] == 2.5
    assert proposed(**down)["weight offset"] == 0.31
    assert not {"bias", "weight offset"} & proposed(**down | {"free_mean": -7.9}).keys()
    busy = {"always": 0.9, "free": 5.0}
    assert proposed(**busy)["feedforward weights"] == 0.2
    own = busy | {"feedback": 6.0, "drive": 0.5}
    assert proposed(**own)["recurrent weights"] == 0.028
    assert proposed(**own)["weights"] == 0.2
    assert "recurrent weights" not in proposed(**own | {"feedback": 0.5})
    assert proposed(**busy, at_rest=0.51)["threshold"] == -1.0
    assert proposed(AdaptiveLIF(adaptation_decay=0.5, adaptation=11.0), **busy)["adaptation"] == 5.0
    assert proposed(AdaptiveLIF(adaptation_decay=0.5, adaptation=-0.1), **busy)["adaptation"] == 5.0
    assert proposed(AdaptiveLIF(adaptation_decay=0.5, adaptation=9.0), **busy)["adaptation"] == 0.2  # its default
    assert "adaptation" not in proposed(AdaptiveLIF(adaptation_decay=0.5, adaptation=0.4), **busy)
    assert proposed(AdLIF(b=-0.1), **busy)["b"] == proposed(AdLIF(b=2.1), **busy)["b"] == 1.0
    assert "b" not in proposed(AdLIF(b=1.9), **busy)
    assert proposed(AdLIF(b=0.033), **busy)["b"] == 1.0
    assert not {"b"} & (proposed(AdLIF(b=0.034), **busy).keys() | proposed(AdLIF(b=0.0), **busy).keys())
    driven = {"free": 0.1, "drive": 0.1, "mean": -9.0}
    [found] = issues([dataclasses.replace(REPORT, **driven)], WHOLE._replace(cells=[AdLIF(b=90.0)]))
    assert [fix.change for fix in found.fixes][:2] == ["b", "feedforward weights"]  # the cause first
    [found] = issues([dataclasses.replace(REPORT, finite=False)], WHOLE._replace(cells=[AdLIF(b=90.0)]))
    assert [fix.value for fix in found.fixes] == [1.0, 0.3, 0.1, 0.03, 0.01, 0.001]
    assert proposed(**busy | {"free": math.inf})["feedforward weights"] == 0.3
    sizes = proposed(**busy, channels=(0.0, 1.0, 31.0, 1.0, 1.0, 29.0))["input channels"]
    assert sizes == ((2, 0.032),)
    assert proposed(LIF(reset="value", reset_value=-1.0), **busy)["reset_value"] == 0
    assert "reset_value" not in proposed(LIF(reset="value", reset_value=0.9), **busy)
    assert not {"feedforward weights", "threshold"} & proposed(**busy | {"free": 1.0}).keys()  # both would scale by 1


def test_layers_of_the_same_cell_get_its_default_together():
    driven, two = dataclasses.replace(REPORT, free=0.1, drive=0.1, mean=-9.0), [AdLIF(b=90.0), AdLIF(b=90.0)]
    for cells, others in ((two, [1]), ([two[0], AdLIF(b=80.0)], []), ([two[0], LIF()], [])):
        found = issues([driven, REPORT], WHOLE._replace(cells=cells))[0].fix
        assert (found.change, found.index, [fix.index for fix in found.others]) == ("b", 0, others)


def test_a_cell_that_is_not_linear_may_make_its_gradient_grow():
    """The potential of a QIF neuron rises by itself. Its growth is a fault if a fix ends it, or with feedback."""
    for cell, feedback, amplifies in ((QIF(), None, True), (QIF(), 0.1, False), (LIF(), None, False)):
        seen = Seen([dataclasses.replace(REPORT, feedback=feedback)], WHOLE._replace(cells=[cell]))
        assert _trials._amplifies(seen, 0) == amplifies


def test_recurrent_weights_of_one_sign_lose_their_mean():
    """Sixteen weights of each neuron with a deviation of 1, so their mean has one of 1/4."""
    matrix = np.tile([[1.0, -1.0], [-1.0, 1.0]], (8, 8))
    assert offset_of_one_sign(matrix + 0.74) is None
    assert offset_of_one_sign(matrix - 0.76) == pytest.approx(-0.76)
    strong = {"always": 0.9, "feedback": 6.0, "drive": 0.5, "recurrent_offset": -0.76}
    assert proposed(**strong)["recurrent offset"] == 0.76
    assert "recurrent offset" not in proposed(**strong | {"recurrent_offset": None})


def test_what_is_left_without_the_means_is_scaled_to_the_threshold():
    """Half of the power of the currents is in the mean of each neuron."""
    apart = {"free": 20.0, "free_means": 17.0, "currents": (5.0, -5.0), "drive": 50**0.5, "always": 0.9}
    [found] = issues([dataclasses.replace(REPORT, **apart)], WHOLE)
    alone, scaled, *_ = found.fixes
    assert (alone.change, alone.value, alone.others) == ("bias", (-5.0, 5.0), ())
    assert [(one.change, one.value) for one in scaled.others] == [("feedforward weights", 0.071)]
    assert "bias" not in proposed(**apart | {"free_means": 15.9})
    assert "bias" not in proposed(**apart | {"free": 1.1, "free_means": 0.99})  # the threshold is 1


def test_neurons_of_different_scales_are_scaled_one_by_one():
    wild = {"always": 0.9, "free": 6.1, "free_each": (0.5, 2.0, 20.0)}
    assert proposed(**wild)["feedforward weights"] == (2.0, 0.5, 0.05)
    assert proposed(**wild | {"free": 5.9})["feedforward weights"] == 0.17


def curve(surrogate):
    x = np.linspace(-100, 100, 400_001, dtype=np.float32)
    return x.astype(float), np.asarray(surrogate.surrogate_grad(x), float)


def test_slope_is_fitted_to_the_potentials():
    """Centered at the threshold, with an area over its height of one deviation, and as high as the reset bears."""
    away = {"surrogate": shifted(Sigmoid(4.0), 5.0), "at": 5.0}
    for given, height in (
        ({"reached": 0.0}, 1),
        ({"reached": 0.0, "std": 0.3} | away, 1),
        ({"by_lag": (1.0, 18.0), "scale": 4.0}, 0.25),
        ({"by_lag": (1.0, 18.0), "std": 0.2}, 1),
    ):
        x, slope = curve(proposed(**given)["surrogate"])
        assert x[slope.argmax()] == pytest.approx(0, abs=1e-3)
        assert slope.max() == pytest.approx(height, rel=1e-3)
        width = np.trapezoid(slope, x) / slope.max()
        assert width == pytest.approx(given.get("std", REPORT.std), rel=0.03)
    assert "surrogate" not in proposed(by_lag=(1.0, 18.0), std=0.95)


def test_step_without_a_slope_gets_one():
    step = {"surrogate": None, "peak": 0.0, "half_width": np.nan, "area": 0.0, "slope": 0.0, "reached": 0.0}
    x, slope = curve(proposed(**step)["surrogate"])
    assert slope.max() == pytest.approx(1, rel=1e-3)
    assert np.trapezoid(slope, x) == pytest.approx(REPORT.std, rel=0.03)
    endless = {"surrogate": None, "half_width": np.inf, "area": np.nan, "at_threshold": 0.0}
    assert "Sigmoid" in repr(proposed(**endless)["surrogate"])


def test_slope_grows_with_the_threshold_if_it_would_be_thin():
    """The box of this slope has a width of 1."""
    for free, is_thin in ((9.9, False), (10.1, True)):
        [found] = issues([dataclasses.replace(REPORT, always=0.9, free=free)], WHOLE)
        both = [fix for fix in found.fixes if fix.change == "threshold" and fix.others]
        assert bool(both) is is_thin
    [surrogate] = both[0].others
    x, slope = curve(surrogate.value)
    assert (both[0].value, surrogate.change) == (10.0, "surrogate")
    assert slope.max() == pytest.approx(0.1, rel=1e-3)
    assert np.trapezoid(slope, x) / slope.max() == pytest.approx(10.1, rel=0.03)


def test_slope_becomes_no_narrower_with_small_weights():
    grows = {"by_lag": (1.0, 18.0), "std": 0.2, "updates": {}}
    for norm, is_narrowed in ((0.69, False), (0.72, True)):  # 0.1 for each of 50 neurons
        assert ("surrogate" in proposed(**grows, weights={"weight": norm})) is is_narrowed


def test_function_of_one_sign_loses_its_mean():
    up = {"always": 0.9, "free": 10.0, "free_mean": 9.0, "current": 2.5, "channels": ()}
    assert proposed(**up)["mean current"] == 0
    assert "mean current" not in proposed(**up | {"offset": 0.3})
    layer = full_layer(weight=jax.tree_util.Partial(lambda kernel, x: x @ kernel, jnp.ones((INPUTS, NEURONS))))
    x = np.random.default_rng(0).random((3, INPUTS), np.float32)
    changed = Fix(0, "mean current", 0.0, "").apply(Network([layer])).layers[0].weight
    np.testing.assert_allclose(changed(x), 0, atol=1e-6)


def test_slope_is_widened_to_near_potentials():
    for off, is_near in ((0.4, False), (0.5, True), (2.1, True), (2.3, False)):
        found = proposed(silent=1.0, mean=-off, std=0.0)
        assert ("surrogate" in found) is is_near
        if is_near:
            x, slope = curve(found["surrogate"])
            assert slope[abs(x - off).argmin()] == pytest.approx(slope.max() / 2, rel=0.02)


def test_growth_is_undone_in_recurrence_and_reset():
    grows = {"by_lag": (1.0, 18.0), "feedback": 0.1, "factor": 4.0}
    assert proposed(**grows)["recurrent weights"] == 0.25
    assert "recurrent weights" not in proposed(**grows | {"factor": 0.9})
    assert proposed(LIF(), **grows)["detach_reset"] is True
    for cell in (LIF(reset="none"), LIF(detach_reset=True)):
        assert "detach_reset" not in proposed(cell, **grows)


@pytest.mark.parametrize(
    ("scale", "free", "first"), [(1.0, 0.04, "feedforward weights"), (20.0, 4.0, "threshold"), (0.1, 1.0, "threshold")]
)
def test_threshold_changes_first_if_it_comes_nearer_to_1(scale, free, first):
    """The size of a function's weights is unknown."""
    numbers = {"silent": 1.0, "free": free, "scale": scale, "mean": -scale, "channels": (), "updates": {}}
    [found] = issues([dataclasses.replace(REPORT, **numbers)], WHOLE)
    assert found.fix.change == first


def test_remedies_of_inputs_are_for_the_first_layer():
    of_inputs = InputReport(means=(0.6, -0.4, -0.6), stds=(0.5, 0.5, 0.5), channels=(1.0, 1.0, 31.0))
    shifted = WHOLE._replace(inputs={0: of_inputs})
    layer = dataclasses.replace(REPORT, always=0.9, free=5.0, channels=(1.0, 1.0, 1.0))

    def changes(whole, *layers):
        return {r.change: r.value for r in issues(layers, whole)[-1].fixes}

    found = changes(shifted, layer)
    assert (found["input offset"], found["inputs"]) == ((0.6, 0.0, -0.6), ((2, 0.032),))
    assert not {"input offset", "inputs"} & changes(shifted._replace(cells=[LIF()] * 2), REPORT, layer).keys()
    usual = WHOLE._replace(inputs={0: of_inputs._replace(means=(0.4,) * 3, channels=(1.0, 1.0, 29.0))})
    assert not {"input offset", "inputs", "input scale"} & changes(usual, layer).keys()


@pytest.mark.parametrize(("largest", "factor"), [(0.049, 100.0), (0.05, None), (50.0, None), (51.0, 0.02)])
def test_inputs_of_an_unusual_size_are_scaled(largest, factor):
    of_inputs = InputReport(largest, largest, (0.0,) * 3, (1.0,) * 3, (1.0,) * 3)
    [found] = issues([dataclasses.replace(REPORT, silent=1.0, free=0.01)], WHOLE._replace(inputs={0: of_inputs}))
    assert {fix.change: fix.value for fix in found.fixes}.get("input scale") == factor


def test_inputs_of_one_source_are_scaled():
    w = jnp.asarray([[1.0], [2.0]])
    network = Network({"a": Layer({"x": w, "far": w}, LIF())}, inputs=("x", "far"))
    of_inputs = InputReport(100.0, 100.0, (0.0,) * 2, (1.0,) * 2, (1.0,) * 2, "far")
    layer = dataclasses.replace(REPORT, always=0.9, free=5.0)
    [place] = places_of(network.graph, ("a",))
    [found] = issues([layer], WHOLE._replace(inputs={0: of_inputs}, known_places=[place]))
    assert "multiply its inputs from 'far' by 0.01" in found.fix.text
    weight = found.fix.apply(network).layers["a"].weight
    np.testing.assert_allclose(weight["far"](jnp.ones((1, 2))), [[0.03]], rtol=1e-6)
    assert weight["x"] is w


@pytest.mark.parametrize(("deviation", "factor"), [(10.1, 0.099), (9.9, None), (0.101, None), (0.099, 10.0)])
def test_inputs_without_their_means_are_scaled(deviation, factor):
    """The fix scales what is left, so its parts apply in the reverse order."""
    of_inputs = InputReport(99.0, 99.0, (99.0,) * 2, (deviation,) * 2, (99.0,) * 2)
    [found] = issues([dataclasses.replace(REPORT, always=0.9, free=5.0)], WHOLE._replace(inputs={0: of_inputs}))
    first = found.fix
    assert (first.change, first.value) == (("input scale", factor) if factor else ("input offset", (99.0,) * 2))
    if factor:
        x, w = jnp.full((1, 2), 100.0), jnp.asarray([[1.0], [2.0]])
        weight = first.apply(Network([Layer(w, LIF())])).layers[0].weight
        np.testing.assert_allclose(weight(x), [[3 * factor]], rtol=1e-5)


def test_weights_are_scaled_first_if_they_are_unusual():
    """The norm of a neuron's weights is usually about 1, here with 50 neurons."""
    for norm, gain, first in (
        (0.1, 20, "weights"),
        (7, 20, "threshold"),
        (700, 0.05, "weights"),
        (7, 0.05, "threshold"),
    ):
        numbers = {"silent": 1.0, "free": 1 / gain, "weights": {"weight": norm}, "channels": (1.0, 1.0), "updates": {}}
        [found] = issues([dataclasses.replace(REPORT, **numbers)], WHOLE)
        assert first in found.fix.change, norm


# --- changes ----------------------------------------------------------------------------------------------------------


def full_layer(dtype=jnp.float32, **others):
    rng = np.random.default_rng(0)
    w, r, b = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((INPUTS, NEURONS), (NEURONS, NEURONS), NEURONS))
    return Layer(**{"weight": w, "cell": AdaptiveLIF(0.9, 2.0), "recurrent": r, "bias": b} | others)


ARRAYS = {
    "feedforward weights": (0.5, {"weight": lambda w: w * 0.5, "bias": lambda b: b * 0.5}),
    "weights": (0.5, {"weight": lambda w: w * 0.5, "bias": lambda b: b * 0.5, "recurrent": lambda r: r * 0.5}),
    "recurrent weights": (0.5, {"recurrent": lambda r: r * 0.5}),
    "bias": ((0.5, -1.0) * 4, {"bias": lambda b: b + [0.5, -1.0] * 4}),
    "weight offset": (0.5, {"weight": lambda w: w + 0.5}),
    "recurrent offset": (0.5, {"recurrent": lambda r: r + 0.5}),
    "input channels": (((1, 0.5), (3, 0.25)), {"weight": lambda w: w * np.array([[1], [0.5], [1], [0.25], [1]])}),
}
PARAMETERS = {
    "threshold": (-0.5, {"threshold": -1.0}),
    "adaptation": (0.3, {"adaptation": 0.3}),
    "decay": (0.3, {"decay": 0.3}),
    "surrogate": (Arctan(3.0), {"surrogate": Arctan(3.0)}),
    "detach_reset": (True, {"detach_reset": True}),
    "reset_value": (0.0, {"reset_value": 0.0}),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_remedy_changes_what_it_names_and_nothing_else(dtype):
    layer = full_layer(dtype)
    network = Network([full_layer(dtype, weight=jnp.zeros((3, INPUTS), dtype), bias=None), layer])
    names = "weight", "recurrent", "bias"
    for change, (value, effects) in {**ARRAYS, **PARAMETERS}.items():
        other, changed = Fix(1, change, value, "").apply(network).layers
        assert other is network.layers[0]
        for name in names:
            before, after = getattr(layer, name), getattr(changed, name)
            expected = effects[name](np.asarray(before, np.float64)) if name in effects else before
            assert after.dtype == dtype
            np.testing.assert_array_equal(after, np.asarray(expected).astype(after.dtype), err_msg=change)
        cell_effects = {} if change in ARRAYS else effects
        assert changed.cell == dataclasses.replace(layer.cell, **cell_effects)
    for change in ("learning rate", "mode"):
        with pytest.raises(
            ValueError, match=f"Fix: apply changes a network, and this fix is a change of {change}: do it"
        ):
            Fix(1, change, 0.5, "do it").apply(network)


def test_factor_of_a_function_is_not_trained():
    kernel = jnp.ones((INPUTS, NEURONS))
    network = Network([full_layer(weight=jax.tree_util.Partial(lambda kernel, x: x @ kernel, kernel), bias=None)])
    scaled = Fix(0, "weights", 0.25, "").apply(network).layers[0].weight
    [leaf] = jax.tree.leaves(scaled)
    assert leaf is kernel
    np.testing.assert_array_equal(scaled(jnp.ones((1, INPUTS))), np.full((1, NEURONS), 0.25 * INPUTS))
    again = Fix(0, "weights", 0.25, "").apply(network).layers[0].weight
    assert jax.tree.structure(scaled) == jax.tree.structure(again)  # so it does not recompile
    lifted = Fix(0, "bias", 2.0, "").apply(network).layers[0]
    assert float(lifted.bias) == 2.0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, bool])
def test_inputs_are_changed_before_the_weights(dtype):
    layer, x = full_layer(), jnp.arange(2 * INPUTS).reshape(2, INPUTS).astype(dtype)
    wide = np.asarray(x, np.float64)
    for change, value, expected in (
        ("input offset", 3.0, wide - 3),
        ("input offset", tuple(range(INPUTS)), wide - np.arange(INPUTS)),
        ("inputs", ((1, 0.5), (3, 0.25)), wide * np.array([1, 0.5, 1, 0.25, 1])),
        ("input scale", 0.125, wide / 8),
    ):
        weight = Fix(0, change, value, "").apply(Network([layer])).layers[0].weight
        assert jax.tree.leaves(weight) == [layer.weight]
        np.testing.assert_allclose(weight(x), expected @ np.asarray(layer.weight, np.float64), rtol=1e-5)


def test_program_is_that_of_the_function():
    """Functions as weights, which differ in nothing else."""
    look = Look({"input": jnp.asarray(inputs())}, None, None, None, None, "exact")
    matrix = jnp.ones((INPUTS, NEURONS))
    drives = [
        look(Network([Layer(f, LIF())])).layers[0].drive for f in (lambda x: x @ matrix, lambda x: 2 * x @ matrix)
    ]
    assert drives[1] == pytest.approx(2 * drives[0])


def test_remedy_reaches_through_refractory():
    network = Network([full_layer(cell=Refractory(LIF(0.9, 3.0), 2))])
    cell = Fix(0, "threshold", 0.5, "").apply(network).layers[0].cell
    assert cell == Refractory(LIF(0.9, 1.5), 2)


# --- trials -----------------------------------------------------------------------------------------------------------


def test_remedy_helps_if_the_fault_ends_or_the_layer_is_much_better():
    before = Outcome(True, 2, 0.1)
    assert _helps(before, Outcome(False, 3, 0.0))
    assert _helps(before, Outcome(True, 2, 0.151))
    assert not _helps(before, Outcome(True, 2, 0.149))
    assert not _helps(before, Outcome(True, 3, 0.9))


class Untrained:
    """Shows networks without an optimizer."""

    def __init__(self, look):
        self.look = look

    def __call__(self, network):
        return self.look(network)

    def trained(self, network):
        return None


class Faulty(NamedTuple):
    """A report of three layers, of which nothing but the issues counts."""

    issues: tuple
    places: tuple = tuple(chain(3))


def test_trials_keep_and_order_the_remedies_that_help(monkeypatch):
    """Each value of a bias stands for what a trial shows: the health of the layer, and the layers with a fault."""
    shown = {
        1.0: (0.02, []),
        2.0: (0.001, []),  # nearly dead
        3.0: (0.01, [1]),  # in vain
        4.0: (0.09, [0]),  # breaks the layer below
        5.0: (0.02, [1]),  # better, but not cured
        6.0: (0.02, [2]),  # moves the fault up
    }

    def seen(slope, faulty):
        report = dataclasses.replace(REPORT, slope=slope, silent=0.0)
        return Seen([report] * 3, Faulty(tuple(Issue("fault", n, "") for n in faulty)))

    def seen_with(changed):
        [bias] = [float(layer.bias) for layer in changed.layers if layer.bias is not None]
        return seen(*shown[bias])

    def offered(*fixes):
        start = tuple(Issue("fault", n, "", own) for n, own in zip((1, 2), fixes, strict=False))
        found = checked(network, Untrained(seen_with), Seen(seen(0.01, []).layers, Faulty(start)))
        return [[fix.value for fix in issue.fixes] for issue in found]

    monkeypatch.setattr(_trials, "issues", lambda _, whole: whole.issues)
    network = Network([Layer(np.ones((2, 2)), LIF()) for _ in range(3)])
    biases = {value: Fix(1, "bias", value, "") for value in shown}
    assert offered([biases[value] for value in (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)]) == [[1, 6, 2]]
    assert offered([biases[3.0], biases[5.0]]) == [[5]]
    assert offered([biases[3.0]]) == [[]]
    again = dataclasses.replace(biases[1.0], text="in other words")
    assert offered([biases[1.0]], [again, Fix(2, "bias", 1.0, "")]) == [[1], [1]]
    refused = Fix(1, "decay", 7.0, ""), Fix(1, "adaptation", 0.1, "")  # not of this cell
    rate = Fix(1, "learning rate", 0.1, "")
    assert offered([*refused, rate]) == [[0.1]]
    assert offered([biases[1.0], rate]) == [[1, 0.1]]  # the rate leaves the layer as it is


class TwoCompartments(Cell):
    """The dendrite comes first in the state, and the soma fires."""

    surrogate: object = parameter(default=Sigmoid(4.0), kind=object)
    threshold: float = parameter(default=1.0)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def integrate(self, v, current):
        dendrite = 0.7 * v[0] + current
        return dendrite, 0.8 * v[1] + 0.5 * dendrite

    def fire(self, u):
        s = self.surrogate(u[1] - self.threshold)
        return (u[0], u[1] - self.threshold * s), s


class Squashed(Cell):
    """A readout that says nothing of itself."""

    def integrate(self, v, current):
        return 0.9 * v + current

    def fire(self, u):
        return u, jnp.tanh(u)


def inputs():
    return (np.random.default_rng(2).random((STEPS, BATCH, INPUTS)) < 0.3).astype(np.float32)


def network(cell, gain=2.0, recurrent=None, readout=1.0, offset=0.0, bias=None, dtype=np.float32):
    rng = np.random.default_rng(1)
    w, r, out = (
        rng.normal(0, 1 / np.sqrt(n), (n, m)) for n, m in ((INPUTS, NEURONS), (NEURONS,) * 2, (NEURONS, OUTPUTS))
    )
    feedback = None if recurrent is None else (recurrent * r).astype(np.float32)
    bias = None if bias is None else jnp.asarray(bias, dtype)
    hidden = Layer(jnp.asarray(gain * w + offset, dtype), cell, feedback, bias)
    return Network([hidden, Layer((readout * out).astype(np.float32), LeakyReadout(0.9))])


LOSS = jax.tree_util.Partial(lambda y, out: ((out.mean(0) - y) ** 2).mean(), jnp.ones(()))


def test_cell_of_a_user_is_judged_by_the_array_that_fires():
    cell, w = TwoCompartments(), np.asarray(network(LIF()).layers[0].weight, np.float64)
    dendrite = soma = np.zeros((BATCH, NEURONS))
    potentials, fired = [], []
    for x in inputs().astype(float):
        dendrite = 0.7 * dendrite + x @ w
        soma = 0.8 * soma + 0.5 * dendrite
        potentials.append(soma)
        fired.append(soma >= 1)
        soma = soma - fired[-1]
    distance = np.array(potentials) - 1
    slope = 4 / (2 * np.cosh(2 * distance)) ** 2
    found = diagnose(network(cell), inputs(), LOSS)
    layer = found.layers[0]
    assert found.issues == ()
    assert layer.fires
    assert 0.02 < layer.rate < 0.5
    expected = [np.mean(fired), 1.0, distance.mean(), distance.std(), slope.mean(), (slope >= 0.5).mean()]
    got = [layer.rate, layer.scale, layer.mean, layer.std, layer.slope, layer.within]
    np.testing.assert_allclose(got, expected, rtol=2e-5)


@pytest.mark.parametrize("threshold", [-1.5, 0.0, 2.0])
def test_level_of_the_array_that_fires_is_its_threshold(threshold):
    """Also if neurons fire at rest, whatever the other array holds."""
    cell = TwoCompartments(threshold=threshold)
    found = find(cell.initial_state((3,), jnp.float32), cell.fire, None)
    assert (int(found.which), bool(found.spikes)) == (1, True)
    np.testing.assert_allclose(found.level, threshold, atol=1e-6)


def test_readout_of_a_user_does_not_fire():
    """Not even with outputs of zero, which are whole numbers."""
    silent = Network([*network(LIF()).layers[:1], Layer(jnp.zeros((NEURONS, OUTPUTS)), Squashed())])
    found = diagnose(silent, inputs(), LOSS)
    assert [layer.fires for layer in found.layers] == [True, False]
    assert found.issues == ()


class Fixed(Cell):
    """A cell whose threshold is no parameter."""

    threshold = 1.0

    def integrate(self, v, current):
        return 0.9 * v + current

    def fire(self, u):
        s = Sigmoid(4.0)(u - self.threshold)
        return u - s, s


def test_shared_fault_gets_one_fix_for_all_layers(monkeypatch):
    """It follows the first of its kind. Both are tried, and the trials need both biases here."""
    network = Network([Layer(np.ones((2, 2)), LIF()) for _ in range(3)])

    def seen_with(changed):
        cured = sum(layer.bias is not None for layer in changed.layers) == 2
        return Seen([REPORT] * 3, Faulty(() if cured else start))

    first, second = (Issue("fault", n, "", (Fix(n, "bias", n + 0.5, f"{n} it"),)) for n in (0, 2))
    start = (first, second)
    monkeypatch.setattr(_trials, "issues", lambda _, whole: whole.issues)
    found = checked(network, Untrained(seen_with), Seen([REPORT] * 3, Faulty(start)))
    [fix] = found[0].fixes
    assert str(fix) == "in layer 1, 0 it; in layer 3, 2 it"
    assert found[1].fixes == ()
    assert [layer.bias for layer in fix.apply(network).layers] == [0.5, None, 2.5]


def test_fix_that_harms_any_layer_is_rejected():
    def worsens(was, becomes, *faults, cell=None):
        whole = WHOLE._replace(cells=[cell or LIF(0.9)] * 3)

        def judged(numbers, found):
            layers = [REPORT, dataclasses.replace(REPORT, **numbers), REPORT]
            return Judged(None, None, Seen(layers, whole), found)

        new = tuple(Issue(fault, 2, "") for fault in faults)
        return _worsens(judged(was, (Issue("saturated", 0, ""),)), judged(becomes, new))

    assert worsens({}, {"finite": False})
    assert not worsens({"finite": False}, {"finite": False})
    assert worsens({"by_lag": (1.0, 10.0)}, {"by_lag": (1.0, 30.1)})
    assert not worsens({"by_lag": (1.0, 10.0)}, {"by_lag": (1.0, 29.9)})
    assert not worsens({}, {"by_lag": (1.0, 16.9)})
    assert not worsens({}, {"by_lag": (1.0, 99.0)}, cell=QIF())  # neurons that begin to fire
    assert worsens({}, {}, "silent")
    assert not worsens({}, {}, "overshoots")
    assert not worsens({"silent": 1.0}, {}, "silent")  # no spike reached the layer above


@pytest.mark.filterwarnings("error")
def test_infinite_inputs_print_no_warning():
    for value in (np.nan, np.inf):
        spoilt = np.where(np.arange(INPUTS) == 2, np.float32(value), inputs())
        assert [v.kind for v in diagnose(network(LIF()), spoilt, LOSS).issues] == ["not finite"]


class Choosing(Cell, pure=True):
    """A cell that branches on an option."""

    sharp: bool = parameter(default=True, kind=bool)

    def integrate(self, v, current):
        return 0.9 * v + current

    def fire(self, u):
        s = (u > 1).astype(u.dtype) if self.sharp else Sigmoid(4.0)(u - 1)
        return u - s, s


def test_cell_may_branch_on_an_option():
    assert [v.kind for v in diagnose(network(Choosing()), inputs(), LOSS).issues] == ["out of reach"]
    assert diagnose(network(Choosing(False)), inputs(), LOSS).issues == ()


def test_bounded_parameters_are_read_as_arrays():
    decay = bounded(np.full(NEURONS, 0.9, np.float32), 0, 1)
    assert diagnose(network(LIF(decay)), inputs(), LOSS).issues == ()
    strong = bounded(np.full(NEURONS, 60.0, np.float32), 0, 100)
    [issue, *_] = diagnose(network(AdaptiveLIF(decay, adaptation=strong)), inputs(), LOSS).issues
    assert issue.fix.change == "adaptation"
    far = bounded(np.full(NEURONS, -30.0, np.float32), -100, 0)
    found = diagnose(network(LIF(decay, reset="value", reset_value=far)), inputs(), LOSS).issues
    assert found[0].fix.change == "reset_value"


def test_constant_of_a_custom_cell_gets_no_fix():
    weak = network(Fixed(), gain=2e-3)
    [issue] = diagnose(weak, inputs(), LOSS).issues
    assert [fix.change for fix in issue.fixes] == ["feedforward weights"]
    assert diagnose(issue.fix.apply(weak), inputs(), LOSS).issues == ()


SILENT = {
    "weights": network(LIF(0.9), gain=2e-4),
    "bfloat16": network(LIF(0.9), gain=2e-3, dtype=jnp.bfloat16),
    "norm_input": network(LIF(0.99, norm_input=True), gain=0.5),
    "compartments": network(TwoCompartments(), gain=2e-3),
}


@pytest.mark.parametrize("kind", few(SILENT, "weights"))
def test_silence_is_named_first(kind):
    """With the default slope, which still reaches the potentials, and with an optimizer, whose update is large."""
    found = diagnose(SILENT[kind], inputs(), LOSS, optimizer=optax.adam(0.01))
    assert found.layers[0].slope > 0.02
    [issue] = found.issues
    assert (issue.kind, issue.index) == ("silent", 0)
    assert "learning rate" not in str(issue)
    assert diagnose(issue.fix.apply(SILENT[kind]), inputs(), LOSS).issues == ()


def test_silent_layer_that_training_wakes_is_no_issue(monkeypatch):
    """Its wide slope passes gradients, and the network learns in 30 updates."""
    monkeypatch.setattr(_trials, "TRAINED", 1)  # no order of fixes
    quiet, fast = network(LIF(0.9), gain=0.1), optax.adam(0.05)

    def kinds(network, optimizer=None):
        return [issue.kind for issue in diagnose(network, inputs(), LOSS, optimizer=optimizer).issues]

    assert kinds(quiet) == ["silent"]
    assert kinds(quiet, fast) == []
    assert kinds(network(LIF(0.9), gain=0.03), fast) == ["silent"]  # its inputs hardly matter
    still = diagnose(quiet, inputs(), lambda out: LOSS(out) + 10, optimizer=fast).issues  # the loss hardly falls
    assert [issue.kind for issue in still] == ["silent"]


@pytest.mark.every
def test_silent_layer_below_a_readout_that_learns_is_an_issue():
    """The loss falls because of the readout alone, and the layer stays as it is."""
    quiet, fast = network(LIF(0.9), gain=0.1), optax.adam(0.05)
    biased = Network([quiet.layers[0], dataclasses.replace(quiet.layers[1], bias=jnp.full(OUTPUTS, 3.0))])

    def frozen(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: "layers[0]" in jax.tree_util.keystr(path), params)

    optimizer = optax.chain(fast, optax.masked(optax.set_to_zero(), frozen))
    [issue] = diagnose(biased, inputs(), LOSS, optimizer=optimizer).issues
    assert issue.kind == "silent"


def test_zero_inputs_are_named():
    [issue] = diagnose(network(LIF()), 0 * inputs(), LOSS, optimizer=optax.adam(0.01)).issues
    assert str(issue) == "layer 1 is silent: its inputs are zero"
    [issue] = diagnose(network(LIF(), gain=0.0), inputs(), LOSS).issues
    assert str(issue) == "layer 1 is silent: its currents are zero"


def test_equal_neurons_stay_equal_unless_a_gradient_tells_them_apart():
    equal = network(LIF(0.9), gain=0.0, offset=0.4)
    assert diagnose(equal, inputs(), LOSS).issues == ()  # the readout's weights differ
    same = dataclasses.replace(equal.layers[1], weight=jnp.full((NEURONS, OUTPUTS), 0.3))
    zero = dataclasses.replace(equal.layers[1], weight=jnp.zeros((NEURONS, OUTPUTS)))  # its gradient is equal too
    for readout in (same, zero):
        [issue] = diagnose(Network([equal.layers[0], readout]), inputs(), LOSS).issues
        assert (issue.kind, issue.index, issue.fixes) == ("alike", 0, ())


def test_weights_that_are_rounded_get_no_gradient():
    def rounded(w, x):
        return x @ (jnp.round(4 * w) / 4)

    net = network(LIF(0.9))
    parts = [dataclasses.replace(layer, weight=jax.tree_util.Partial(rounded, layer.weight)) for layer in net.layers]
    [issue] = diagnose(Network(parts), inputs(), LOSS).issues
    assert (issue.kind, issue.index, issue.fixes) == ("cut off", 1, ())
    assert "none for its weights: its weight function may round them" in str(issue)


def test_layer_that_fires_for_few_examples_is_silent():
    wild = inputs() * np.where(np.arange(20) % 20 == 0, 1.0, 1e-3)[:, None][:BATCH]
    many = np.concatenate([wild] + [1e-3 * inputs()] * 3, 1).astype(np.float32)
    [issue] = diagnose(network(LIF(0.9, surrogate=PiecewiseQuadratic(1.5))), many, LOSS).issues
    assert str(issue).startswith("layer 1 is silent: no neuron fires in 95.8 % of the examples")


def shifted_recurrence(network):
    hidden, readout = network.layers
    return Network([dataclasses.replace(hidden, recurrent=hidden.recurrent + 1.0), readout])


FAULTY = {
    "recurrence": (network(LIF(0.9), recurrent=30.0), "recurrent weights"),
    "recurrence of one sign": (shifted_recurrence(network(LIF(0.9), recurrent=0.5)), "recurrent offset"),
    "adaptation": (network(AdaptiveLIF(0.9, adaptation=60.0)), "adaptation"),
    "negative adaptation": (network(AdaptiveLIF(0.9, adaptation=-1.0)), "adaptation"),
    "far reset": (network(LIF(0.9, reset="value", reset_value=-30.0)), "reset_value"),
    "sign": (network(LIF(0.9, threshold=-1.0)), "threshold"),
    "millivolts": (network(LIF(0.9, threshold=-50.0, reset="value", reset_value=-65.0)), "threshold"),
    "driven apart": (network(LIF(0.9), bias=30.0 * (-1) ** np.arange(NEURONS)), "bias"),
    "inhibition": (network(LIF(0.9), offset=-2.0), "weight offset"),
    "excitation": (network(LIF(0.9), offset=2.0), "weight offset"),
}


def key(fix):
    return fix.index, fix.change, repr(fix.value), len(fix.others)


@pytest.mark.parametrize(
    "kind",
    few(FAULTY, "recurrence of one sign", "negative adaptation", "sign", "millivolts", "driven apart"),
)
def test_remedy_that_is_offered_cures(kind):
    broken, change = FAULTY[kind]
    found = diagnose(broken, inputs(), LOSS)
    issue = found.issues[0]
    assert (issue.index, issue.fix.change) == (0, change)
    offered = [fix for v in found.issues for fix in v.fixes]
    assert len({key(fix) for fix in offered}) == len(offered)
    assert all(fix.value != 1 for fix in offered if fix.change != "detach_reset")
    after = diagnose(issue.fix.apply(broken), inputs(), LOSS)
    assert not after.issues
    assert 0.005 < after.layers[0].rate < 0.5


def test_health_is_the_active_share_times_the_mean_slope():
    def of(**numbers):
        return health(dataclasses.replace(REPORT, **numbers))

    assert of(silent=0.3, always=0.1, slope=0.05) == pytest.approx(0.6 * 0.05)
    assert of(slope=0.1) == of(slope=0.9) > of(slope=0.09)
    assert of(fires=False) == of(finite=False) == of(silent=0.5, always=0.5) == 0


def test_one_large_channel_is_scaled_alone():
    """The weights of the channel if these are large, and the inputs if those are."""
    large, healthy = np.where(np.arange(INPUTS) == 2, np.float32(3000), np.float32(1)), network(LIF(0.9))
    weight = healthy.layers[0].weight * large[:, None]
    heavy = Network([dataclasses.replace(healthy.layers[0], weight=weight), *healthy.layers[1:]])
    for broken, x, change in (
        (heavy, inputs(), "input channels"),
        (healthy, inputs() * large, "inputs"),
    ):
        [issue] = diagnose(broken, x, LOSS).issues
        assert issue.fix.change == change
        [(channel, factor)] = issue.fix.value
        assert channel == 2
        assert 1e-4 < factor < 1e-3
        assert diagnose(issue.fix.apply(broken), x, LOSS).issues == ()


@pytest.mark.parametrize("readout", [0.0, 1e-3])
def test_small_readout_is_healthy(readout):
    found = diagnose(network(LIF(0.9), readout=readout), inputs(), LOSS, optimizer=optax.adam(0.01))
    assert found.issues == ()


OPTIMIZERS = {
    "epsilon": (optax.adam(1e-3, eps=100), "stalls", "epsilon", "an optimizer's epsilon"),
    "decay": (optax.adamw(1e-3, weight_decay=50), "shrinks", "weight decay", "weight decay changes its"),
    "rate": (optax.adam(1e-8), "stalls", "learning rate", "hardly moves"),
    "zero": (optax.chain(optax.sgd(1e-3), optax.scale(0.0)), "stalls", None, "first 1000 updates are 0"),
    "set to zero": (optax.set_to_zero(), "stalls", None, "first 1000 updates are 0"),
    "decay of sgd": (optax.chain(optax.add_decayed_weights(50.0), optax.sgd(1e-3)), "shrinks", "weight decay", "5 %"),
}


@pytest.mark.parametrize("kind", few(OPTIMIZERS, "epsilon", "decay"))
def test_constant_of_an_optimizer_is_named(kind):
    optimizer, expected, change, words = OPTIMIZERS[kind]
    [issue] = diagnose(network(LIF(0.9)), inputs(), LOSS, optimizer=optimizer).issues
    assert issue.kind == expected
    assert words in str(issue)
    if change is None:
        assert issue.fixes == ()
    else:
        assert issue.fix.change == change
        with pytest.raises(ValueError, match=f"Fix: apply changes a network, and this fix is a change of {change}"):
            issue.fix.apply(network(LIF(0.9)))


@pytest.mark.every
@pytest.mark.parametrize("kind", ["epsilon", "decay"])
def test_constant_that_is_offered_ends_the_issue(kind):
    make, value = {
        "epsilon": (lambda eps: optax.adam(1e-3, eps=eps), 100.0),
        "decay": (lambda decay: optax.adamw(1e-3, weight_decay=decay), 50.0),
    }[kind]
    [issue] = diagnose(network(LIF(0.9)), inputs(), LOSS, optimizer=make(value)).issues
    assert diagnose(network(LIF(0.9)), inputs(), LOSS, optimizer=make(value * issue.fix.value)).issues == ()


USUAL = {
    "adam": optax.adam(1e-3),
    "fast adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-3),
    "adamw of 0.1": optax.adamw(1e-3, weight_decay=0.1),
    "sgd": optax.sgd(0.1),
    "momentum and decay": optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9)),
    "adam with decayed gradients": optax.chain(optax.add_decayed_weights(1e-2), optax.adam(1e-3)),
    "clipped": optax.chain(optax.clip_by_global_norm(1e3), optax.sgd(1e-5)),
    "clipped elements": optax.chain(optax.clip(100.0), optax.sgd(2e-5)),
    "noisy": optax.chain(optax.add_noise(1.0, 0.55, 0), optax.sgd(0.1)),
    "warmup": optax.adam(optax.linear_schedule(0.0, 1e-3, 100)),
    "several steps": optax.MultiSteps(optax.adam(1e-3), 8).gradient_transformation(),
    "many steps": optax.MultiSteps(optax.adam(1e-3), 256).gradient_transformation(),
    "lion": optax.lion(1e-4),
    "frozen readout": optax.multi_transform(
        {"train": optax.adam(1e-3), "freeze": optax.set_to_zero()},
        lambda network: jax.tree_util.tree_map_with_path(
            lambda path, _: "freeze" if ".layers[1]" in jax.tree_util.keystr(path) else "train", network
        ),
    ),
}


@pytest.mark.parametrize("kind", few(USUAL, "several steps", "clipped elements"))
def test_usual_optimizer_gets_no_alarm(kind):
    assert diagnose(network(LIF(0.9)), inputs(), LOSS, optimizer=USUAL[kind]).issues == ()


# --- numbers of a layer ---------------------------------------------------------------------------------------------


def test_numbers_of_slopes_are_in_units_of_the_slope():
    rng = np.random.default_rng(0)
    slope = 10.0 ** rng.uniform(-9, 0, (6, 3, 50)).astype(np.float32)
    slope[0, 0, 0] = 1
    narrow = (slope * rng.uniform(0.5, 1.5, slope.shape)).astype(np.float32)
    for unit in (1.0, 1e3):
        seen = Recorded(slope, slope, slope, unit * slope, narrow=(slope < 0.1, unit * narrow))
        found = numbers(seen, np.ones((6, 3), bool), True, unit)
        assert found["reached"] == pytest.approx((slope > 1e-6).mean())
        assert found["within"] == pytest.approx((slope >= 0.5).mean())
        assert found["slope"] == pytest.approx(slope.mean(), rel=1e-5)
        assert found["eight_bit_lost"] == pytest.approx((slope < 0.1).mean())
        assert found["eight_bit_error"] == pytest.approx(abs(narrow - slope).sum() / slope.sum(), rel=1e-4)


def test_lags_begin_at_the_last_step_and_leave_out_zeros():
    active = np.random.default_rng(0).random((9, 200)) < 0.5
    active[3] = True
    assert last_steps(active).tolist() == [np.flatnonzero(example)[-1] for example in active.T]
    assert factor_per_step([8.0, 0.0, 2.0, np.inf, 0.5, np.nan, 0.125]) == pytest.approx(0.5)
    assert factor_per_step([1.0, 0.0]) is None


def test_steps_and_examples_count_if_they_take_place():
    """Against the network itself, with stochastic neurons, one of which always fires, and thresholds of any sign."""
    rng, key, x = np.random.default_rng(0), jax.random.key(1), inputs()
    thresholds = jnp.asarray([-9.0, -1.0, 0.0, 0.5, 1.0, 1.0, 1.5, 2.0])
    cell = LIF(0.5, thresholds, stochastic(Sigmoid(4.0)))
    judged = Network([network(cell).layers[0], Layer(np.ones((NEURONS, OUTPUTS), np.float32), LeakyReadout(0.9))])
    active = rng.random((STEPS, BATCH)) < 0.6
    spoilt = np.where(active[:, :, None], x, 1e3 * rng.normal(size=x.shape)).astype(np.float32)
    layers, whole = Look({"input": jnp.asarray(spoilt)}, jnp.asarray(active), key, LOSS, None, "exact")(judged)
    _, (out, potentials), (u, _) = judged(x, mask=active, key=key, all_layers=True, pre_spike=True)
    hidden, fired, there = layers[0], np.asarray(out)[active], np.where(active[:, :, None], x, 0)
    assert hidden.always == (fired == 1).all(0).mean() > 0
    assert hidden.silent == (fired == 0).all(0).mean()
    assert (hidden.at_rest, hidden.scale) == (3 / 8, pytest.approx(2.0))
    distance = (np.asarray(u, float) - np.asarray(thresholds, float))[active]
    got = [hidden.rate, hidden.mean, hidden.std, whole.loss]
    np.testing.assert_allclose(got, [fired.mean(), distance.mean(), distance.std(), LOSS(potentials)], rtol=1e-4)
    apart = there - there.mean(1, keepdims=True)
    np.testing.assert_allclose(whole.differ, np.sqrt((apart**2).sum((1, 2))), rtol=1e-5)
    rows = [[np.sqrt(np.mean(np.square(x[active], dtype=float), 0)) for x in (there, np.asarray(out))]]
    for layer, rms, own in zip(layers, rows[0], judged.layers, strict=True):
        sizes = rms * np.sqrt(np.mean(np.square(own.weight, dtype=float), 1))
        np.testing.assert_allclose(layer.channels, sizes, rtol=1e-5)


# --- table, data and figure -------------------------------------------------------------------------------------------

OTHER = dataclasses.replace(
    REPORT, name="layer 2", fires=False, neurons=3, within=None, slope=None, half_width=None, factor=None, scale=None
)
SHOWN = dataclasses.replace(
    REPORT,
    always=0.02,
    edges=(-3.0, -1.0, 0.5),
    shares=(0.75, 0.25),
    no_gradient=0.04,
    weight_gradients={"weight": 3.0, "bias": 4.0},
    current_gradient=0.06,
)


def test_table_has_each_number_under_its_heading():
    first, *rows = [line.split("  ") for line in str(Diagnosis((SHOWN, OTHER), ())).splitlines()[:14]]
    table = {cells[0]: [cell.strip() for cell in cells[1:] if cell.strip()] for cells in (first, *rows)}
    assert table == {
        "layer": ["layer 1", "layer 2"],
        "neurons": ["50", "3"],
        "rate": ["0.100"],
        "silent": ["10.0 %"],
        "always": ["2.0 %"],
        "potential": ["-1 ± 0.5", "-1 ± 0.5"],
        "half-width": ["0.44"],
        "within": ["20.0 %"],
        "slope": ["0.2"],
        "weights": ["5.0e+00", "1.0e-01"],
        "currents": ["6.0e-02", "1.0e+00"],
        "no gradient": ["4.0 %", "0.0 %"],
        "per step": ["0.9"],
        "": [],
    }


def test_data_has_every_field():
    issue = Issue("silent", 1, "finding", (Fix(1, "bias", 2.5, "add it"), Fix(1, "surrogate", Arctan(2.0), "")))
    found = json.loads(json.dumps(Diagnosis((SHOWN, OTHER), (issue,), 0.5, np.inf).to_dict(), allow_nan=False))
    assert (found["loss"], found["loss_after"]) == (0.5, None)
    for layer, written in zip((SHOWN, OTHER), found["layers"], strict=True):
        for field in dataclasses.fields(LayerReport):
            value = getattr(layer, field.name)
            expected = list(value) if isinstance(value, tuple) else repr(value) if field.name == "surrogate" else value
            assert written[field.name] == expected, field.name
    assert found["issues"] == [
        {
            "kind": "silent",
            "index": 1,
            "description": "finding",
            "fixes": [
                {"index": 1, "change": "bias", "value": 2.5, "text": "add it", "source": "", "others": []},
                {
                    "index": 1,
                    "change": "surrogate",
                    "value": "Arctan(alpha=2.0)",
                    "text": "",
                    "source": "",
                    "others": [],
                },
            ],
        }
    ]


def test_figure_draws_the_numbers():
    pytest.importorskip("matplotlib")
    figure = Diagnosis((SHOWN, OTHER), ()).plot()
    first, second, *others = figure.axes
    lags = next(axes for axes in others if axes.get_title() == "gradient over lags")
    shares = next(axes for axes in others if axes.get_title().startswith("neurons, and potentials"))
    [stairs] = first.patches
    np.testing.assert_array_equal(stairs.get_data().values, SHOWN.shares)
    np.testing.assert_array_equal(stairs.get_data().edges, SHOWN.edges)
    assert (first.get_xlabel(), second.get_xlabel()) == ("potential − threshold", "potential")
    slope = next(axes for axes in others if axes.get_ylabel() == "slope")
    x, y = slope.lines[0].get_data()
    np.testing.assert_allclose(y, 1 / np.cosh(2 * x) ** 2, rtol=1e-4)
    assert [line.get_label() for line in lags.lines] == ["layer 1, × 0.9 per step", "layer 2"]
    np.testing.assert_allclose(lags.lines[0].get_ydata(), [1.0, 0.9])
    bars = {(round(bar.get_x() + bar.get_width() / 2), round(bar.get_height(), 6)) for bar in shares.patches}
    assert bars == {(0, 10.0), (1, 2.0), (2, 20.0), (3, 4.0), (3, 0.0)}
    five = [axes for axes in Diagnosis((SHOWN,) * 5, ()).plot().axes if axes.get_visible()]
    assert sum(axes.get_title().startswith("layer 1") for axes in five) == 5
    assert len(five) == 5 * 2 + 2  # each with its slope
    narrow = {"surrogate": shifted(Sigmoid(4000.0), -2.0), "at": -2.0, "half_width": 0.44e-3, "peak": 1000.0}
    for given, limits in ((narrow, (0, 1050)), ({"surrogate": -1 * Sigmoid(4.0), "peak": -1.0}, (-1.05, 0))):
        shown = Diagnosis((dataclasses.replace(SHOWN, **given),), ()).plot()
        slope = next(axes for axes in shown.axes if axes.get_ylabel() == "slope")
        assert slope.get_ylim() == pytest.approx(limits)
        assert max(abs(slope.lines[0].get_ydata())) == pytest.approx(max(map(abs, limits)) / 1.05, rel=0.05)
    labels = [label.get_text() for label in shares.get_xticklabels()]
    assert labels == ["never fire", "always fire", "within half-width", "no gradient"]
