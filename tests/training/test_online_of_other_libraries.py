"""Online gradients against those of other libraries, which ``scripts/record_online.py`` recorded in
float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from spikegrad import LIF, AdaptiveLIF, Layer, LeakyReadout, Network, Sigmoid, get
from spikegrad.training import Online

pytestmark = pytest.mark.slow

RECORDED = {
    path.stem: np.load(path) for path in (ROOT / "tests" / "recorded" / "online").glob("*.npz")
}
DECAY, READOUT, THRESHOLD = 0.75, 0.5, 0.6


def arrays_of(library, case):
    file = RECORDED[library]
    return {
        key.partition("/")[2]: jnp.asarray(file[key])
        for key in file.files
        if key.partition("/")[0] == case
    }


def half_squares(outputs, target):
    return 0.5 * ((outputs - target) ** 2).sum()


def gradients_of(rule, layers, arrays, feedback=None):
    online = Online(Network(layers), rule, feedback)
    scan = jax.jit(
        lambda x: online.scan(online.start(x[0]), x, arrays["targets"], half_squares)[1:]
    )
    value, gradients = scan(arrays["inputs"])
    return value, gradients.layers


def equal(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["eprop_lif", "eprop_detached", "eprop_alif", "eprop_feedback"])
def test_eprop_of_sparx(x64, case):
    arrays = arrays_of("sparx", case)
    atan = get("sparx.ATan")
    cell = LIF(DECAY, THRESHOLD, atan, detach_reset=case == "eprop_detached")
    if case == "eprop_alif":
        cell = AdaptiveLIF(DECAY, THRESHOLD, atan, "baseline", adaptation=0.3, adaptation_decay=0.9)
    layers = {
        "hidden": Layer(arrays["below"], cell, arrays["among"]),
        "out": Layer(arrays["out"], LeakyReadout(READOUT), bias=arrays["bias"]),
    }
    feedback = {"out": {"hidden": arrays["feedback"]}} if case == "eprop_feedback" else None
    value, gradients = gradients_of("eprop", layers, arrays, feedback)
    equal(value, arrays["loss"])
    equal(gradients["hidden"].weight, arrays["d_below"])
    equal(gradients["hidden"].recurrent, arrays["d_among"])
    equal(gradients["out"].weight, arrays["d_out"])
    equal(gradients["out"].bias, arrays["d_bias"])


@pytest.mark.parametrize("case", ["d_rtrl", "eprop"])
def test_traces_of_braintrace(x64, case):
    """Without recurrence and with a readout of the present spikes, its rules are exact."""
    arrays = arrays_of("braintrace", case)
    layers = {
        "hidden": Layer(arrays["below"], LIF(DECAY, THRESHOLD, Sigmoid(4.0))),
        "out": Layer(arrays["out"], LeakyReadout(0.0)),
    }
    value, gradients = gradients_of("eprop", layers, arrays)
    equal(value, arrays["loss"])
    equal(gradients["hidden"].weight, arrays["d_below"])
    equal(gradients["out"].weight, arrays["d_out"])


def two_layers(arrays, *names):
    cell = LIF(
        DECAY, THRESHOLD, get("sparx.ATan") if "out" in arrays else Sigmoid(4.0), detach_reset=True
    )
    layers = {
        name: Layer(arrays[name], cell, bias=arrays.get(f"{name}_bias"))
        for name in ("first", "second")
    }
    return layers | ({"out": Layer(arrays["out"], LeakyReadout(0.0))} if "out" in arrays else {})


@pytest.mark.parametrize(("case", "rule"), [("sltt", "local"), ("ottt", "ottt")])
def test_rules_of_spikingjelly(x64, case, rule):
    arrays = arrays_of("spikingjelly", case)
    layers = two_layers(arrays)
    np.testing.assert_array_equal(Network(layers)(arrays["inputs"])[1], arrays["outputs"])
    _, gradients = gradients_of(rule, layers, arrays)
    for name in layers:
        equal(gradients[name].weight, arrays[f"d_{name}"])
        if f"d_{name}_bias" in arrays:
            equal(gradients[name].bias, arrays[f"d_{name}_bias"])


@pytest.mark.parametrize("library", ["spikingjelly", "sparx"])
def test_ottt_of_other_libraries_has_no_trace_of_inputs(x64, library):
    """Their first layer and their biases have the gradients of the present step."""
    arrays = arrays_of(library, {"spikingjelly": "ottt_plain", "sparx": "ottt"}[library])
    layers = two_layers(arrays)
    ottt, local = (gradients_of(rule, layers, arrays)[1] for rule in ("ottt", "local"))
    equal(ottt["second"].weight, arrays["d_second"])
    equal(local["first"].weight, arrays["d_first"])
    if library == "spikingjelly":
        for name in layers:
            equal(local[name].bias, arrays[f"d_{name}_bias"])
        return
    # Its readout has no memory, and learns from the traces of the spikes.
    outputs = Network(layers, outputs=("second", "out"))(arrays["inputs"])[1]
    trace, want = jnp.zeros_like(outputs["second"][0]), 0.0
    for spikes, out, target in zip(
        outputs["second"], outputs["out"], arrays["targets"], strict=True
    ):
        trace = DECAY * trace + spikes
        want += trace.T @ (out - target)
    equal(arrays["d_out"], want)
