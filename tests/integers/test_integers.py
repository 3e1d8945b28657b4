"""Integer networks against plain integers of Python, replays, programs in C and published
series.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import integer_networks as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODES, few
from networks import assert_raises

import spikegrad
from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    SynapticLIF,
    strict,
)
from spikegrad.exchange import to_nir
from spikegrad.integers import (
    Fixed,
    FixedLIF,
    Loihi,
    Xylo,
    dequantize,
    fixed,
    load,
    quantize,
    replay,
    save,
    to_c,
)
from spikegrad.network import DelayKernel, Window, rounded_delays
from spikegrad.neurons import AdLIF, Refractory, SynapticAdaptiveLIF

pytestmark = pytest.mark.oldest

RECORDED = Path(__file__).resolve().parent.parent / "recorded" / "integers"


def equal(network, got, expected):
    states, outputs = reference.as_arrays(network, *got)
    for name in network.layers:
        np.testing.assert_array_equal(states[name], expected[0][name])
        np.testing.assert_allclose(outputs[name], expected[1][name], rtol=1e-6)


@pytest.mark.parametrize("target", reference.TARGETS)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.every) for n in range(1, 100))]
)
def test_random_networks(target, seed, tmp_path):
    """The call in a mode, the replay and the program in C compute the same integers."""
    place = reference.TARGETS.index(target)
    rng = np.random.default_rng([seed, place])
    network, inputs = reference.random_network(target, rng), reference.random_inputs(rng)
    expected = reference.run_apart(network, inputs)
    equal(network, replay(network, inputs), expected)
    # The modes take turns, and those of seed 0 take one of the three targets each.
    for mode in MODES[place::3] if seed == 0 else [MODES[seed % len(MODES)]]:
        equal(network, network(jnp.asarray(inputs, jnp.float32), backward=mode), expected)
    if shutil.which("cc"):
        reference.check_c(network, inputs, expected[1], tmp_path)
    save(network, tmp_path / "net.json")
    loaded = load(tmp_path / "net.json")
    equal(loaded, replay(loaded, inputs), expected)


def series(cell, currents):
    """States after each step, in the call and in integers."""
    v = cell.initial_state((1,), jnp.float32)
    integers = jax.tree.map(lambda x: np.asarray(x).astype(np.int64), v)
    rows = []
    for current in currents:
        v, _ = cell(v, jnp.array([float(current)]))
        integers, _ = cell.fire(cell.integrate(integers, np.array([current])))
        for a, b in zip(jax.tree.leaves(v), jax.tree.leaves(integers), strict=True):
            assert a.item() == b.item()
        rows.append([int(x.item()) for x in jax.tree.leaves(v)])
    return np.array(rows).T


@pytest.mark.slow
def test_loihi_of_lava():
    """Lava b6822fb, ``tests/lava/proc/lif/test_models.py``: the decays of current and potential,
    and a bias.
    """
    impulse = [128] + [0] * 7
    _, i = series(Loihi(du=2047, dv=0, vth=256), impulse)
    assert i.tolist() == [1 << (13 - n) for n in range(8)]
    # Lava's threshold of 256 is 16384, above the potentials.
    v, _ = series(Loihi(du=0, dv=2048, vth=256), impulse)
    assert v.tolist() == [8192, 12286, 14331, 15351, 15859, 16111, 16235, 16295]
    v, _ = series(Loihi(du=0, dv=0, vth=2**17 - 1, bias=(2**12 - 1) << 5), [0])
    assert v.tolist() == [(2**12 - 1) << 5]
    # A bias of 128 and a threshold of 8 << 6: every fifth step.
    spikes = spikegrad.unroll(Loihi(du=0, dv=0, vth=8, bias=2 << 6), jnp.zeros((10, 1)))[1]
    assert np.flatnonzero(spikes).tolist() == [4, 9]


def test_weights_of_lava_are_stored_unchanged():
    """Lava b6822fb, ``weightutils.py``: clipped and rounded down to steps of 2 for 8 bits, of 4 for
    7.
    """
    for bits in range(2, 9):
        form = Loihi(0, 0, 0).weight_format(bits)
        shift = 8 - bits + 1
        ours = Fixed(jnp.linspace(-400, 400, 999), 1.0, *form).integers
        assert (((np.clip(ours, -256, 255) >> shift) << shift) == ours).all()
        assert {*ours.tolist()} == {*range(-256, 256, 2**shift)}


def test_xylo_decays():
    """xylosim 0.1.3 ``XyloIAFNeuron.cpp``: 1000 at a dash of 4 decays to 0 in 89 steps, -1000 in
    74.
    """
    for start, steps in ((1000, 89), (-1000, 74)):
        cell, state = Xylo(4, 0, 2**15 - 1), (np.array([start]), np.array([0]))
        count = 0
        while state[0].item():
            state, _ = cell.fire(cell.integrate(state, np.array([0])))
            count += 1
        assert count == steps


@pytest.mark.parametrize("record", range(8))
def test_networks_of_xylosim(record):
    """xylosim 0.1.3 computes the same spikes and potentials. Its output neurons read the step
    before.
    """
    with np.load(RECORDED / "xylo.npz") as file:
        arrays = {
            name.split("/")[1]: file[name] for name in file.files if name.startswith(f"{record}/")
        }
    cells = [
        Xylo(
            *(arrays[name + suffix] for name in ("dash_mem", "dash_syn", "threshold")),
            n=n,
            bias=bias,
        )
        for suffix, n in (("", 31), ("_out", 1))
        for bias in arrays["bias" + suffix][:1]
    ]
    network = Network(
        {
            "hidden": Layer(arrays["in"], cells[0], recurrent=arrays["recurrent"]),
            "out": Layer(Delayed(arrays["out"], 1), cells[1]),
        },
        outputs=["hidden", "out"],
    )
    states, spikes = replay(network, arrays["inputs"][:, None])
    np.testing.assert_array_equal(spikes["hidden"][:, 0], arrays["spikes"])
    np.testing.assert_array_equal(spikes["out"][:, 0], arrays["spikes_out"])
    for name, suffix in (("hidden", ""), ("out", "_out")):
        np.testing.assert_array_equal(states[name][0][0], arrays["potential" + suffix][-1])


def test_rule_of_snn_mlir():
    """``SNNToLinalg.cpp``, read at 088a13f: -1000 at a factor of 0.9 stays at -9, where 9 * 3686 /
    4096 is rounded up to 9, and toward zero it does not.
    """
    factor = round(0.9 * 4096)
    for rounding, end in (("floor", -9), ("zero", 0)):
        v = FixedLIF(factor, 2000, rounding=rounding).integrate(np.array([-1000]), np.array([0]))
        for _ in range(200):
            v = FixedLIF(factor, 2000, rounding=rounding).integrate(v, np.array([0]))
        assert v.item() == end


SLOPE = {"surrogate": Arctan(2.0), "detach_reset": True}
CELLS = {  # with the decays of potential and current, and the gain of the current
    "fixed": (FixedLIF(3500, 120, synaptic_decay=3000, **SLOPE), 3500 / 4096, 3000 / 4096, 1.0),
    "loihi": (Loihi(du=1023, dv=512, vth=120, **SLOPE), 3584 / 4096, 3072 / 4096, 64.0),
    "xylo": (Xylo(3, 2, 120, n=1, **SLOPE), 1 - 1 / 8, 1 - 1 / 4, 1.0),
}


@pytest.mark.parametrize("name", CELLS)
def test_tangent_is_the_real_update(name):
    """The derivative of two steps against the chain rule by hand, in float64, without a spike
    between them.
    """
    cell, decay, synapse, gain = CELLS[name]
    unit = 64 * 120 + 1 if name == "loihi" else 120
    first = gain * synapse if name == "xylo" else gain  # a spike of Xylo decays in its step

    def spike(current):
        v, _ = cell(cell.initial_state((), jnp.float32), current)
        return cell(v, jnp.float32(0.0))[1]

    current = jnp.float32(60.0)
    (v, i), _ = cell(cell.initial_state((), jnp.float32), current)
    u, _ = cell.integrate((v, i), jnp.float32(0.0))
    x = (float(u) - cell.threshold) / unit
    # Arctan(alpha): alpha / 2 / (1 + (pi / 2 alpha x)^2)
    slope = 1.0 / (1 + (np.pi * x) ** 2)
    by_hand = slope / unit * first * (decay + synapse)
    np.testing.assert_allclose(jax.grad(spike)(current), by_hand, rtol=1e-5)
    assert jax.grad(spike)(current) > 0


@pytest.mark.parametrize("reset", ["subtract", "value"])
def test_late_resets_have_the_spikes_of_the_real_network(reset):
    """All numbers of the real network are integers over 2^12, but for a last neuron in each layer
    that is silent. Its weight of 2^-12 keeps the scale large. An integer neuron fires at its
    threshold, also if the real one is strict.
    """
    rng = np.random.default_rng(0)
    spikes = (rng.random((7, 4, 12)) < 0.5).astype(np.float64)
    weights = rng.integers(-8, 16, (12, 20)) / 16, rng.integers(-8, 16, (20, 5)) / 16
    for weight in weights:
        weight[:, -1] = 2.0**-12
    options = {"reset": reset, "delay_reset": True}
    surrogates = Arctan(), strict(Arctan())
    cells = (
        LIF(0.5, 1.03125, surrogates[0], **options),
        SynapticLIF(0.5, 1.03125, surrogates[1], synaptic_decay=0.5, **options),
    )
    x, expected = spikes, []
    for weight, synaptic_decay in zip(weights, (0, 0.5), strict=True):
        u = i = s = np.zeros((4, weight.shape[1]))
        outputs = []
        for step in x:
            i = synaptic_decay * i + step @ weight
            u = 0.5 * u + i - 1.03125 * s if reset == "subtract" else (0.5 * u + i) * (1 - s)
            s = (u >= 1.03125).astype(float)
            outputs.append(s)
        expected.append(x := np.array(outputs))
    layers = [Layer(jnp.asarray(w, jnp.float32), c) for w, c in zip(weights, cells, strict=True)]
    integers, _ = quantize(
        Network(layers, outputs=["0", "1"]),
        FixedLIF(0, 1, bits=24),
        spikes,
        bits=16,
        powers_of_two=True,
    )
    for _, outputs in (replay(integers, spikes), integers(jnp.asarray(spikes, jnp.float32))):
        for name, out in zip("01", expected, strict=True):
            assert out.mean() > 0.1
            np.testing.assert_array_equal(outputs[name], out)
    assert integers.layers["1"].cell.surrogate == Arctan()
    assert dequantize(integers).layers["1"].cell.delay_reset


@pytest.mark.slow
def test_gradient_reaches_all_weights():
    """Loihi: finite, and equal in modes "exact" and "scan"."""
    rng = np.random.default_rng(3)
    network, inputs = reference.random_network("loihi", rng), reference.random_inputs(rng)

    def loss(network, mode):
        return sum(
            (x**2).mean()
            for x in network(jnp.asarray(inputs, jnp.float32), backward=mode)[1].values()
        )

    expected, got = jax.jit(
        lambda network: [jax.grad(loss)(network, mode) for mode in ("scan", "exact")]
    )(network)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())


def test_clipped_weights_have_no_gradient():
    """A weight that is just the largest integer is not clipped."""
    weight = fixed(jnp.array([[0.3, -0.4, 1.27, -1.28, 5.0]]), scale=100.0)
    assert (weight.integers == [[30, -40, 127, -128, 127]]).all()
    assert weight.clipped == 1
    gradient = jax.grad(lambda w: jnp.asarray(w).sum())(weight)
    np.testing.assert_array_equal(gradient.value, [[100.0, 100.0, 100.0, 100.0, 0.0]])


def real_network(size, cell, readout=None):
    """Weights of this size, for which 3% of the neurons fire in a step."""
    rng = np.random.default_rng(1)
    spikes = jnp.asarray(rng.random((40, 6, 12)) < 0.2, jnp.float32)

    def weight(*shape, size=size):
        return jnp.asarray(rng.normal(0, size, shape), jnp.float32)

    readout = LeakyReadout(0.9) if readout is None else readout
    hidden = Layer(weight(12, 20), cell, weight(20, 20), weight(20, size=size / 10))
    return Network([hidden, Layer(weight(20, 3, size=0.4), readout, None, weight(3))]), spikes


@pytest.mark.slow
def test_a_large_weight_clips_for_finer_steps_of_the_others():
    """The integers of 3 bits are -4 to 3. Ones are exact for a scale of 2, and 4/3 for 1.5, which
    clips nothing.
    """
    weight = np.ones((12, 20), np.float32)
    weight[0, 0] = 2
    spikes = np.ones((2, 1, 12), np.float32)
    _, report = quantize(Network([Layer(weight, LIF(0.9))]), "fixed", spikes, bits=3)
    assert report.layers[0].scale == pytest.approx(2, rel=0.01)
    assert report.layers[0].tau[0] == pytest.approx(-1 / np.log(0.9))
    assert report.layers[0].clipped == 1


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["laplace", "standard_t"])
def test_scale_has_the_least_error_of_long_tails(tail):
    """Two bits, and the least error of a thousand scales in plain NumPy."""
    rng = np.random.default_rng(0)
    weight = rng.laplace(size=(100, 100)) if tail == "laplace" else rng.standard_t(3, (100, 100))
    scales = np.geomspace(0.1, 64, 1000) / np.abs(weight).max()
    errors = [np.linalg.norm(np.clip(np.rint(weight * s), -2, 1) / s - weight) for s in scales]
    network = Network([Layer(weight.astype(np.float32), LIF(0.9))])
    _, report = quantize(network, FixedLIF(0, 1, bits=24), np.ones((2, 1, 100)), bits=2)
    (row,) = report.layers
    assert row.error <= 1.01 * min(errors) / np.linalg.norm(weight)
    assert row.zeros < 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "size", "cell", "readout"),
    [
        (FixedLIF(0, 1, bits=24), 1.4, LIF(0.9, reset="subtract", norm_input=True), None),
        (
            "loihi",
            0.04,
            SynapticLIF(np.linspace(0.85, 0.95, 20), reset="value", synaptic_decay=0.75),
            None,
        ),
        (
            "xylo",
            0.05,
            SynapticLIF(0.875, synaptic_decay=0.75),
            SynapticLIF(0.875, synaptic_decay=0.75),
        ),
    ],
    ids=["fixed", "loihi", "xylo"],
)
def test_quantized_network_follows_the_real_one(target, size, cell, readout):
    """Before the first spike, potentials differ by the rounding alone. The time constants and
    scales are those of the report.
    """
    network, spikes = real_network(size, cell, readout)
    integers, report = quantize(network, target, spikes)
    _, real = network.observe(spikes[:3])
    _, whole = integers.observe(spikes, parts=("output", "pre_spike"))
    for name, row in zip(network.layers, report.layers, strict=True):
        u, v = (np.asarray(jax.tree.leaves(x[name].pre_spike)[0][:3]) for x in (real, whole))
        scale = row.scale * (64 if target == "loihi" else 1)
        silent = np.cumsum(np.asarray(real[name].output) != 0, 0) == 0
        if name == "0":
            # Two steps: a leak of Xylo takes at least 1 of a state that may be small.
            np.testing.assert_allclose((v / scale)[:2][silent[:2]], u[:2][silent[:2]], atol=0.03)
        largest = max(np.abs(x).max() for x in jax.tree.leaves(whole[name].pre_spike))
        np.testing.assert_allclose(
            row.peak, largest / 2 ** (15 if target == "xylo" else 23), rtol=1e-4
        )
        assert row.tau[0] == pytest.approx(row.tau[1], rel=0.01)
        assert row.error < 0.02
        assert 0 < row.peak <= 1
        assert f"{row.tau[0]:.3g} -> {row.tau[1]:.3g}" in str(report)
        assert name in str(report)
    columns = str(report).splitlines()[0]
    assert " tau " in columns
    assert ("synaptic tau" in columns) == any(row.synaptic_tau[0] for row in report.layers)
    assert ("adaptation tau" in columns) == any(row.adaptation_tau[0] for row in report.layers)
    _, out = replay(integers, spikes)
    np.testing.assert_array_equal(out, whole[name].output)
    rates = [row.rate for row in report.layers if row.rate is not None]
    assert all(abs(after - before) < 0.1 for before, after in rates)


ADAPTIVE = {"adaptation": 0.4, "adaptation_decay": 0.99, "synaptic_decay": 0.75}


@pytest.mark.parametrize("reset", ["subtract", "baseline"])
def test_adaptation_and_rest_follow_the_real_network(reset):
    """The spikes of a plain loop in float64, for all but a few neurons that round to another step.
    The real network of the integers has them too.
    """
    rng = np.random.default_rng(0)
    spikes = (rng.random((60, 4, 12)) < 0.3).astype(np.float64)
    weight = rng.normal(0, 0.4, (12, 20)).astype(np.float32)
    threshold = rng.uniform(0.8, 1.2, 20)
    cell = SynapticAdaptiveLIF(0.9, threshold, reset=reset, **ADAPTIVE)
    network = Network([Layer(jnp.asarray(weight), Refractory(cell, 2))])
    v, b, i, left = np.zeros((4, 4, 20))
    expected = []
    for x in spikes:
        i = 0.75 * i + x @ weight.astype(np.float64)
        u = np.where(left > 0, v, 0.9 * v + i)
        s = (u >= threshold + b) & (left == 0)
        v = u - s * (threshold + (b if reset == "subtract" else 0))
        b, left = 0.99 * b + 0.4 * s, np.where(s, 2, np.maximum(left - 1, 0))
        expected.append(s)
    integers, report = quantize(network, FixedLIF(0, 1, bits=24), spikes, bits=16)
    states, out = replay(integers, spikes)
    assert np.mean(out) > 0.05
    assert (out == np.array(expected)).mean() > 0.99
    assert report.layers[0].adaptation_tau == pytest.approx((99.5, 99.5), rel=0.02)
    assert report.layers[0].peak <= 1
    # The adaptation, in units of a threshold.
    unit = np.array(integers.layers["0"].cell.threshold) / threshold
    fraction = integers.layers["0"].cell.adaptation_fraction
    after = states["0"][2] / 2**fraction / unit
    np.testing.assert_allclose(after.mean(), b.mean(), rtol=0.02)
    again = dequantize(integers)
    assert (np.asarray(again(spikes)[1]) == out).mean() > 0.99
    assert again.layers["0"].cell.steps == 2


@pytest.mark.slow
@pytest.mark.slow
def test_learned_delays_become_integers(tmp_path):
    """Rounded delays are a window of matrices, and integers have the result of these matrices."""
    keys = jax.random.split(jax.random.key(0), 3)
    weight, out = jax.random.normal(keys[0], (4, 3)), jax.random.normal(keys[1], (3, 2))
    delays = np.array([[0.2, 3.8, 1.1], [2.6, 0.0, 4.0], [3.1, 1.7, 0.9], [2.2, 2.9, 1.0]])
    kernel = DelayKernel(weight, jnp.asarray(delays, jnp.float32), length=5)
    network = rounded_delays(
        Network([Layer(Window(kernel), LIF(0.9)), Layer(out, LeakyReadout(0.9))])
    )
    matrices = np.zeros((5, 4, 3), np.float32)
    lags = np.rint(delays).astype(int)
    np.put_along_axis(matrices, lags[None], np.asarray(weight)[None], 0)
    plain = Network([Layer(Window(jnp.asarray(matrices)), LIF(0.9)), network.layers["1"]])
    spikes = jax.random.bernoulli(keys[2], 0.3, (20, 2, 4)).astype(jnp.float32)
    integers, report = quantize(network, "fixed", spikes)
    expected, _ = quantize(plain, "fixed", spikes)
    np.testing.assert_array_equal(integers(spikes)[1], expected(spikes)[1])
    np.testing.assert_array_equal(integers(spikes)[1], replay(integers, np.asarray(spikes))[1])
    assert min(report.layers[0].rate) > 0.05
    assert to_c(integers, tmp_path / "delays").tables > 0


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_matrix_of_integers_keeps_the_input_gain():
    """A gain of 0.1 is no integer, so the weights become real numbers first."""
    matrix = np.array([[3, 1], [2, -1]], np.int8)
    spikes = jax.random.bernoulli(jax.random.key(0), 0.5, (10, 2, 2)).astype(jnp.float32)

    def network(weight):
        cell = LIF(0.9, 0.2, norm_input=True)
        return Network([Layer(weight, cell), Layer(jnp.ones((2, 2)), LeakyReadout(0.9))])

    integers, _ = quantize(network(jnp.asarray(matrix)), "fixed", spikes)
    expected, _ = quantize(network(jnp.asarray(matrix, jnp.float32)), "fixed", spikes)
    outputs = expected(spikes)[1]
    assert abs(outputs).max() > 0
    np.testing.assert_array_equal(integers(spikes)[1], outputs)


def test_quantized_network_trains():
    """Its gradient is that of the real network, but for the rounding."""
    network, spikes = real_network(0.14, LIF(0.9, reset="value", surrogate=Arctan(2.0)))
    integers, _ = quantize(network, FixedLIF(0, 1, bits=24), spikes, bits=16)

    def loss(network):
        return (network(spikes)[1] ** 2).mean()

    real, rounded = jax.jit(lambda *networks: [jax.grad(loss)(each) for each in networks])(
        network, integers
    )
    for name in network.layers:
        a, b = real.layers[name].weight, rounded.layers[name].weight.value
        assert np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) > 0.95
        assert 0.8 < np.linalg.norm(b) / np.linalg.norm(a) < 1.25


@pytest.mark.slow
@pytest.mark.parametrize("target", [pytest.param("fixed", marks=pytest.mark.every), "loihi"])
def test_nir_takes_the_rounded_network(target):
    """The real network of the rounded weights and time constants rounds to itself, and NIR has its
    parameters.
    """
    network, spikes = real_network(0.04, SynapticLIF(0.9, reset="value", synaptic_decay=0.75))
    rounded = dequantize(quantize(network, target, spikes)[0])
    again = dequantize(quantize(rounded, target, spikes)[0])
    for a, b in zip(rounded.layers.values(), again.layers.values(), strict=True):
        np.testing.assert_allclose(a.weight, b.weight, atol=2e-2)
        np.testing.assert_allclose(a.cell.decay, b.cell.decay, rtol=1e-6)
    graph = to_nir(rounded, dt=1e-3, discretization="euler")
    tau = 1e-3 / (1 - np.round(0.9 * 4096) / 4096)
    np.testing.assert_allclose(graph.nodes["1"].tau, tau, rtol=1e-5)


def layer(cell, weight=None):
    return Layer(jnp.ones((2, 2)) if weight is None else weight, cell)


def quantized(target, *layers, inputs=2):
    return lambda: quantize(Network([*layers]), target, np.ones((5, 1, inputs), int))


SPIKES, SYNAPTIC = np.ones((5, 1, 2), int), layer(SynapticLIF())
REAL, HALF = Network([layer(LIF())]), Network([layer(FixedLIF(0, 1), jnp.full((2, 2), 0.5))])
GRAPH = Network({"a": layer(LIF()), "j": Join(lambda x: x * x, of=["a"]), "b": layer(LIF())})
VALUE = layer(LIF(reset="value"))
RESET = Network({"a": VALUE, "j": Join(lambda x: x, of=["a"]), "b": VALUE})
REFUSED = {
    "ValueError: layer '0' on Loihi: it needs reset='value', not 'subtract'": quantized(
        "loihi", layer(LIF())
    ),
    "ValueError: layer '0' on FixedLIF: a weight is NaN or": quantized(
        "fixed", layer(LIF(), jnp.full((2, 2), np.nan))
    ),
    "ValueError: '0' on Xylo: each neuron has a synapse": quantized("xylo", layer(LIF())),
    "ValueError: '1' on Xylo: each neuron has a synapse and": quantized(
        "xylo", SYNAPTIC, layer(LeakyReadout())
    ),
    "ValueError: '0' on Xylo: it has no delays, got a Delayed": (
        quantized("xylo", layer(SynapticLIF(), Delayed(jnp.ones((2, 2)), 2)))
    ),
    "TypeError: a AdLIF has no counterpart. Use LIF, SynapticLIF, AdaptiveLIF": quantized(
        "fixed", layer(AdLIF())
    ),
    "ValueError: layer '0' on Loihi: it has no adaptation": quantized(
        "loihi", layer(AdaptiveLIF(reset="value"))
    ),
    "ValueError: layer '0' on Loihi: it has no refractory period. Use LIF": quantized(
        "loihi", layer(Refractory(LIF(reset="value"), 2))
    ),
    "ValueError: layer '0' on Xylo: it has no adaptation": quantized(
        "xylo", layer(SynapticAdaptiveLIF())
    ),
    "ValueError: needs an adaptation of at least 0": quantized(
        "fixed", layer(AdaptiveLIF(adaptation=-0.1))
    ),
    "ValueError: FixedLIF: adaptation and adaptation_decay must both be integers, got 3": (
        lambda: FixedLIF(0, 1, adaptation=3)
    ),
    "ValueError: FixedLIF: a readout without a threshold must have no adaptation": (
        lambda: FixedLIF(0, None, refractory=1)
    ),
    "ValueError: FixedLIF: adaptation must be an integer from 0 to 127": (
        lambda: FixedLIF(0, 1, adaptation=128, adaptation_decay=1, bits=8)
    ),
    "TypeError: layer '0' on FixedLIF: a function has no integers: tanh. Use products": (
        quantized("fixed", layer(LIF(), jnp.tanh))
    ),
    "TypeError: weight is a function, and only matrices have integers": quantized(
        "xylo", layer(SynapticLIF(), jnp.tanh)
    ),
    "ValueError: lacks the spike type": quantized(
        "fixed", layer(LIF(surrogate=spikegrad.stochastic(Arctan())))
    ),
    "ValueError: needs a threshold above 0, not -1": quantized("fixed", layer(LIF(threshold=-1.0))),
    "ValueError: needs a threshold above 0, not 0": quantized(
        "fixed", layer(LIF(threshold=jnp.array([0.0, 1.0])))
    ),
    "ValueError: quantize: bits must be an integer from 2 to 16, got 8.5": (
        lambda: quantize(REAL, "fixed", SPIKES, bits=8.5)
    ),
    "ValueError: fixed: bits must be an integer from 2 to 16, got 8.5": lambda: fixed(
        jnp.ones(2), 8.5
    ),
    "ValueError: FixedLIF: unit must be > 0": lambda: FixedLIF(0, 1, unit=0.0),
    "ValueError: FixedLIF: reset must not be late with an adaptation or a refractory": (
        lambda: FixedLIF(0, 1, refractory=1, reset="late_value")
    ),
    "ValueError: layer '0' on Loihi: it resets in the step of a spike, without delay_reset": (
        quantized("loihi", layer(LIF(reset="value", delay_reset=True)))
    ),
    "ValueError: layer '0' on FixedLIF: it resets in the step of a spike": quantized(
        "fixed", layer(AdaptiveLIF(delay_reset=True))
    ),
    "ValueError: resets to 0, without reset_value": quantized(
        "fixed", layer(LIF(reset="value", reset_value=0.5))
    ),
    "ValueError: fixed, loihi, xylo": quantized("chip", layer(LIF())),
    "ValueError: Xylo has 16 inputs and 1000 hidden neurons, the network has 17 and 2": (
        quantized("xylo", layer(SynapticLIF(), jnp.ones((17, 2))), SYNAPTIC, inputs=17)
    ),
    "ValueError: Xylo has 16 inputs and 1000 hidden neurons, the network has 2 and 1001": (
        quantized(
            "xylo",
            layer(SynapticLIF(), jnp.ones((2, 1001))),
            layer(SynapticLIF(), jnp.ones((1001, 2))),
        )
    ),
    "TypeError: join 'j' on FixedLIF: a function has no integers: mul of two values": (
        lambda: quantize(GRAPH, "fixed", SPIKES)
    ),
    "TypeError: join 'j' on Loihi: it has no joins": lambda: quantize(RESET, "loihi", SPIKES),
    "ValueError: rate_encoding": lambda: quantize(REAL, "fixed", SPIKES / 2),
    "TypeError: layer '0' has a LIF": lambda: replay(REAL, SPIKES),
    "TypeError: layer '0' has a LI": lambda: save(REAL, "x.json"),
    "TypeError: layer '0' has a L": lambda: to_c(REAL, "x"),
    "TypeError: layer '0' must have weights of integers": lambda: to_c(HALF, "x"),
    "ValueError: FixedLIF: decay must be an integer": lambda: FixedLIF(0.9, 1),
    "ValueError: FixedLIF: decay must be an integer from 0 to 4096": lambda: FixedLIF(5000, 1),
    "ValueError: threshold must be an integer from 1 to 127": lambda: FixedLIF(5, 200, bits=8),
    "ValueError: Loihi: du must be an integer from 0 to 4095": lambda: Loihi(4096, 0, 1),
    "ValueError: Xylo: dash_mem must be an integer from 0 to 15": lambda: Xylo(16, 0, 1),
    "ValueError: bits must be an integer from 2 to 16, got 1": lambda: fixed(jnp.ones(2), 1),
    "ValueError: scale must be > 0": lambda: fixed(jnp.ones(2), scale=0.0),
    "ValueError: one of int32, bytes, bits, events, got 'int8'": lambda: to_c(
        HALF, "x", inputs="int8"
    ),
    "ValueError: name in C, got 'my-net'": lambda: to_c(Network([layer(FixedLIF(0, 1))]), "my-net"),
    "TypeError: FixedLIF: integers need float32": (
        lambda: Network([layer(FixedLIF(0, 1), jnp.ones((2, 2), jnp.bfloat16))])(SPIKES)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_networks_and_parameters_that_are_refused(message):
    assert_raises(REFUSED[message], message)


def test_a_refractory_period_may_be_longer_than_a_state_is_wide():
    cell = FixedLIF(4096, 3, bits=4, refractory=20)
    network = Network([Layer(fixed(jnp.ones((1, 1)), scale=1.0), cell)])
    spikes = replay(network, np.ones((30, 1, 1), int))[1]
    # The potential counts 3 inputs, rests for 20 steps, and counts again.
    assert np.flatnonzero(spikes).tolist() == [2, 25]


def test_replay_raises_where_a_state_leaves_its_width():
    cell = FixedLIF(256, 100, fraction=8, bits=8, overflow="error", reset="none")
    network = Network({"hidden": Layer(fixed(jnp.full((2, 1), 30.0), scale=1.0), cell)})
    with pytest.raises(
        OverflowError, match="layer 'hidden', step 2: the state 180 is outside of -128 to 127"
    ):
        replay(network, SPIKES)
    saturating = dataclasses.replace(cell, overflow="saturate")
    states, _ = replay(
        Network({"hidden": dataclasses.replace(network.layers[0], cell=saturating)}), SPIKES
    )
    assert states["hidden"].item() == 127
    huge = Network([Layer(np.full((2, 1), 2**24), FixedLIF(0, 1))])
    with pytest.raises(
        OverflowError, match=r"layer '0', step 0: the products of the current .* 33554432"
    ):
        replay(huge, SPIKES)


def test_window_and_delay_survive_a_file(tmp_path):
    weight = fixed(jnp.ones((3, 2, 2)), scale=5.0)
    network = Network(
        [
            layer(FixedLIF(9, 1), Window(weight, delay=1)),
            layer(FixedLIF(9, 1), Delayed(weight.integers[0], 2)),
        ]
    )
    save(network, tmp_path / "net.json")
    first, second = (entry.weight for entry in load(tmp_path / "net.json").layers.values())
    assert (first.length, first.delay, second.delay) == (3, 1, 2)
    np.testing.assert_array_equal(second.weight, np.full((2, 2), 5))


def saved_network():
    """Plain integers in a mapping, a layer with the name of a key of the file, and each kind of
    weight.
    """
    eye = np.eye(2, dtype=int)
    first = Layer(
        Fixed(jnp.eye(2), 1.0, -128, 126, 2),
        Loihi(0, [0, 4], 9),
        recurrent=3 * eye,
        bias=jnp.ones(2),
        of="input",
    )
    second = Layer(
        {"class": 7 * eye, "input": Window(np.stack([eye, 5 * eye]), delay=1)}, FixedLIF(9, [1, 2])
    )
    third = Layer(
        Delayed(eye, 4), Xylo(1, 2, 3, n=4, bias=5), Window(eye[None], delay=2), of="class"
    )
    return Network({"class": first, "format": second, "last": third}, outputs=["format", "last"])


def test_files_keep_every_part_of_a_network(tmp_path):
    network = saved_network()
    save(network, tmp_path / "net.json")
    loaded = load(tmp_path / "net.json")
    assert [*loaded.layers] == ["class", "format", "last"]
    assert (loaded.inputs, loaded.outputs) == ("input", ("format", "last"))
    for name in network.layers:
        assert loaded.layers[name].cell == network.layers[name].cell
    inputs = reference.random_inputs(np.random.default_rng(0))[..., :2]
    expected, got = (replay(each, inputs)[1] for each in (network, loaded))
    for name, spikes in expected.items():
        assert spikes.any()
        np.testing.assert_array_equal(got[name], spikes)
    # A program of another language reads the delays.
    record = json.loads((tmp_path / "net.json").read_text())
    layers = record["layers"]
    assert [layers[0]["recurrent"]["delay"], layers[2]["weights"][0]["delay"]] == [1, 4]
    assert layers[1]["weights"][0]["array"] == {"integers": [[7, 0], [0, 7]]}


FIXED_ARRAY = "layers", 0, "weights", 0, "array"
WRONG = {  # the place in a file, its value there, and words of the message
    "top, a list": ((), [], "it must be a file of"),
    "format": (("format",), 1, "it must be a file of"),
    "no key": (("outputs",), ..., "the file must be a record of format, inputs, outputs, layers"),
    "another key": (("code",), "import os", "the file must be a record of"),
    "inputs": (("inputs",), 3, "the file.inputs must be a text"),
    "two inputs": (("inputs",), ["input", "more"], "no layer reads 'more'"),
    "outputs": (("outputs",), ["other"], "outputs must be names of"),
    "no layers": (("layers",), [], "layers must be a list that is not empty"),
    "layers by name": (("layers",), {"a": 1}, "layers must be a list"),
    "a text as layer": (("layers", 1), "a", "layers[1] must be a record of name, cell"),
    "name": (("layers", 0, "name"), 1, "layers[0].name must be a text"),
    "repeated name": (("layers", 1, "name"), "class", "layers[1].name must be a name of its own"),
    "name of the inputs": (("layers", 0, "name"), "input", "names both an entry and inputs"),
    "class": (
        ("layers", 0, "cell", "class"),
        "LIF",
        "layers[0].cell must be a record with a class of FixedLIF",
    ),
    "list as class": (
        ("layers", 0, "cell", "class"),
        ["Loihi"],
        "layers[0].cell must be a record with a class",
    ),
    "no class": (("layers", 0, "cell"), {"du": 1}, "layers[0].cell must be a record with a class"),
    "cell": (("layers", 0, "cell"), None, "layers[0].cell must be a record with a class"),
    "parameter": (("layers", 0, "cell", "more"), 1, "layers[0].cell must be a record of class, "),
    "decay": (
        ("layers", 1, "cell", "decay"),
        0.4,
        "layers[1].cell: FixedLIF: decay must be an integer from 0",
    ),
    "decay as text": (
        ("layers", 1, "cell", "decay"),
        "9",
        "layers[1].cell: FixedLIF: decay must be an integer",
    ),
    "decay as flag": (
        ("layers", 1, "cell", "decay"),
        True,
        "layers[1].cell: FixedLIF: decay must be an integer",
    ),
    "decays": (
        ("layers", 1, "cell", "decay"),
        [9, 0.4],
        "layers[1].cell.decay must be integers in nested lists",
    ),
    "three decays": (
        ("layers", 1, "cell", "decay"),
        [9, 9, 9],
        "'format' must have one decay for all of (2,) neurons, or an array that broadcasts",
    ),
    "record as decay": (
        ("layers", 1, "cell", "decay"),
        {},
        "layers[1].cell.decay must be a number, a text",
    ),
    "fraction": (
        ("layers", 1, "cell", "fraction"),
        99,
        "layers[1].cell: FixedLIF: fraction must be <= 12",
    ),
    "rounding": (
        ("layers", 1, "cell", "rounding"),
        "up",
        "layers[1].cell: FixedLIF: rounding must be one of",
    ),
    "unit": (("layers", 1, "cell", "unit"), -1.0, "layers[1].cell: FixedLIF: unit must be > 0"),
    "unit as text": (
        ("layers", 1, "cell", "unit"),
        "1",
        "layers[1].cell: FixedLIF: unit must be a real number",
    ),
    "flag": (
        ("layers", 1, "cell", "detach_reset"),
        1,
        "layers[1].cell: FixedLIF: detach_reset must be one of",
    ),
    "bias of a cell": (
        ("layers", 2, "cell", "bias"),
        2**20,
        "layers[2].cell: Xylo: bias must be <= 32767",
    ),
    "no weights": (
        ("layers", 0, "weights"),
        [],
        "layers[0].weights must be a list that is not empty",
    ),
    "source": (
        ("layers", 0, "weights", 0, "source"),
        "x",
        "'class' reads 'x', which is not one of",
    ),
    "number as source": (
        ("layers", 0, "weights", 0, "source"),
        0,
        "layers[0].weights[0].source must be a text",
    ),
    "repeated source": (
        ("layers", 1, "weights", 1, "source"),
        "class",
        "weights[1].source must be a source of its",
    ),
    "default of two": (
        ("layers", 1, "weights", 1, "source"),
        None,
        "weights[1].source must be a text",
    ),
    "delay": (
        ("layers", 2, "weights", 0, "delay"),
        -1,
        "layers[2].weights[0].delay: Delayed: delay must be >= 1",
    ),
    "half a delay": (
        ("layers", 2, "weights", 0, "delay"),
        1.5,
        "layers[2].weights[0].delay must be an integer",
    ),
    "window": (
        ("layers", 2, "weights", 0, "is_window"),
        1,
        "layers[2].weights[0].is_window must be true or false",
    ),
    "matrix as window": (
        ("layers", 2, "weights", 0, "is_window"),
        True,
        "nested lists of one length, 3 deep",
    ),
    "a cycle": (("layers", 2, "recurrent", "delay"), 0, "'last' form a cycle without a delay"),
    "a fraction": (
        (*FIXED_ARRAY, "integers", 0, 0),
        0.4,
        "layers[0].weights[0].array.integers must be integers in",
    ),
    "true": (
        (*FIXED_ARRAY, "integers", 0, 0),
        True,
        "layers[0].weights[0].array.integers must be integers in",
    ),
    "beyond the limit": (
        (*FIXED_ARRAY, "integers", 0, 0),
        10**6,
        "must be multiples of 2 from -128 to 126",
    ),
    "off the step": (
        (*FIXED_ARRAY, "integers", 0, 0),
        3,
        "must be multiples of 2 from -128 to 126",
    ),
    "beyond float32": (
        (*FIXED_ARRAY, "integers", 0, 0),
        2**70,
        "must be integers up to 16777216 in size",
    ),
    "other lengths": (
        (*FIXED_ARRAY, "integers", 0),
        [1],
        "integers must be integers in nested lists",
    ),
    "a row": (
        (*FIXED_ARRAY, "integers"),
        [2, 4],
        "integers must be integers in nested lists of one length, 2 deep",
    ),
    "three rows": (
        (*FIXED_ARRAY, "integers"),
        [[2, 2]] * 3,
        "must read 'input' by a weight for (3,) inputs, got one for (2,)",
    ),
    "an array of text": (
        (*FIXED_ARRAY, "integers"),
        "__import__('os')",
        "integers must be integers in nested",
    ),
    "scale": (
        (*FIXED_ARRAY, "scale"),
        0,
        "layers[0].weights[0].array.scale must be a number above 0, or nested lists",
    ),
    "no scale": (
        (*FIXED_ARRAY, "scale"),
        ...,
        "layers[0].weights[0].array must be a record of integers, scale",
    ),
    "low": (
        (*FIXED_ARRAY, "low"),
        300,
        "layers[0].weights[0].array: Fixed: low and high must be multiples of step",
    ),
    "high": (
        (*FIXED_ARRAY, "high"),
        1.5,
        "layers[0].weights[0].array.high must be an integer up to",
    ),
    "step": ((*FIXED_ARRAY, "step"), -1, "layers[0].weights[0].array: Fixed: step must be >= 1"),
    "bias": (
        ("layers", 0, "bias"),
        {"integers": [[1, 1]]},
        "'class' must have a bias for (2,) neurons",
    ),
    "three biases": (("layers", 0, "bias"), {"integers": [1, 1, 1]}, "layer 'class'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_are_wrong(name, tmp_path):
    """One message of one line, with the place. Nothing loads silently."""
    path, value, words = WRONG[name]
    file = tmp_path / "net.json"
    save(saved_network(), file)
    record = json.loads(file.read_text())
    *above, key = path or (None,)
    entry = record
    for part in above:
        entry = entry[part]
    if key is None:
        record = value
    elif value is ...:
        del entry[key]
    else:
        entry[key] = value
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        load(file)
    assert str(raised.value).startswith(f"load: {file}: ")
    assert "\n" not in str(raised.value)


def test_files_that_are_no_json(tmp_path):
    file = tmp_path / "net.json"
    save(saved_network(), file)
    text = file.read_text()
    for data in (
        b"",
        b"\xff\xfe",
        text[:-9].encode(),
        text.replace('"format": 3', '"format": 3, "format": 3').encode(),
        text.replace('"scale": 1.0', '"scale": NaN').encode(),
        b"[" * 10**5,
    ):
        file.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"load: .*net.json: it must be JSON of spikegrad.integers.save: "
        ):
            load(file)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize(("bits", "step"), [(2, 1), (3, 1), (4, 1), (4, 2), (8, 2), (9, 1)])
def test_packed_weights_in_c(bits, step, tmp_path):
    """Rows of 7 weights, which do not fill bytes. The tables have the bytes that the widths
    need.
    """
    rng, low = np.random.default_rng(bits), -(2 ** (bits - 1))
    first, second = (step * rng.integers(low, -low, shape) for shape in ((9, 7), (7, 3)))
    first[0, :2] = step * low, step * (-low - 1)  # the whole range
    cell = FixedLIF([4000] * 6 + [9], 6 * step)
    network = Network(
        {"a b": Layer(first, cell), "a-b": Layer(second, FixedLIF(0, None, unit=2.5))}
    )
    inputs = rng.integers(0, 2, (30, 1, 9))
    _, outputs = replay(network, inputs)
    expected = np.rint(outputs * 2.5).astype(int)
    assert np.abs(expected).max() > 0
    reference.check_c(network, inputs, {"a-b": expected}, tmp_path)
    report = to_c(network, tmp_path / "net")
    width = {2: 2, 3: 4, 4: 4, 8: 8, 9: 16}[bits]
    weights = 9 * -(-7 * width // 8) + 7 * -(-3 * width // 8)
    # 3 sources, 2 layers, 2 edges and an output of 4 bytes a number, and 7 + 1 leaks and 2 current
    # leaks of 2 bytes, 2 thresholds and 2 biases of 1 byte.
    numbers = 4 * (3 * 4 + 2 * 23 + 2 * 7 + 1)
    assert report.tables == numbers + 10 * 2 + 4 + weights
    assert report.operations == 9 * 7 + 7 * 3
    # 10 states of 2 bytes, no past outputs, 3 rows and 10 currents.
    assert report.state == 2 * 10 + 4 * (1 + 3 + 10)
    header = (tmp_path / "net.h").read_text()
    for line in (
        "A_B 0",
        "UNIT_A_B2 2.5",
        "SIZE_A_B2 3",
        "POTENTIAL_A_B2 7",
        "OUTPUT_A_B2 0",
        "INPUT_INPUT 0",
    ):
        assert line in header
    # The compiler agrees on the sizes, and C++ takes the header.
    check = f"""#include "net.c"
    typedef char state_size[sizeof(net_state) == {report.state} ? 1 : -1];
    enum {{ TABLES = sizeof source + sizeof layer + sizeof edge + sizeof output + sizeof leak +
                    sizeof threshold + sizeof bias + sizeof weight{width} }};
    typedef char tables_size[TABLES == {report.tables} ? 1 : -1];"""
    (tmp_path / "check.c").write_text(check)
    subprocess.run(["cc", "-std=c99", "-c", "check.c", "-o", "check.o"], cwd=tmp_path, check=True)
    assert 'extern "C" {' in header


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize(
    ("form", "size"), [("int32", 36), ("bytes", 9), ("bits", 2), ("events", 18)]
)
def test_forms_of_inputs_in_c(form, size, tmp_path):
    """Two inputs, one read with a delay, and a second layer with states of 24 bits. The program of
    the terminal, and the test beside it, which fails if one output changes.
    """
    rng = np.random.default_rng(1)
    first, second, third = (rng.integers(-9, 9, shape) for shape in ((5, 6), (4, 6), (6, 2)))
    weights = {"a": first, "b": Delayed(second, 3)}
    last = FixedLIF(2000, None, bits=24, unit=3.0)
    layers = {"hidden": Layer(weights, FixedLIF(4000, 9)), "out": Layer({"hidden": third}, last)}
    network = Network(layers, inputs=["a", "b"], outputs=["hidden", "out"])
    inputs = {"a": rng.integers(0, 2, (20, 3, 5)), "b": rng.integers(0, 2, (20, 3, 4))}
    _, outputs = replay(network, inputs)
    expected = {**outputs, "out": np.rint(outputs["out"] * 3).astype(int)}
    assert all(np.abs(x).max() > 0 for x in expected.values())
    both = np.concatenate([*inputs.values()], -1)
    reference.check_c(network, both, expected, tmp_path, inputs=form, examples=inputs)
    assert to_c(network, tmp_path / "net", inputs=form).inputs == size
    wrong = inputs | {"a": np.full((20, 3, 5), 2**8)}
    if form != "int32":
        with pytest.raises(ValueError, match=f"for inputs='{form}', got 256. Use inputs='int32'"):
            to_c(network, tmp_path / "net", inputs=form, examples=wrong)


def test_test_in_c_of_votes(tmp_path):
    """A join is an output. Its average is a sum in integers."""
    rng = np.random.default_rng(0)
    spikes = (rng.random((5, 2, 6)) < 0.5).astype(int)
    weight = jnp.asarray(rng.normal(0, 1, (6, 8)), jnp.float32)
    votes = Join(lambda x: x.reshape(len(x), 2, 4).mean(-1), of=["0"])
    network = Network({"0": Layer(weight, LIF()), "votes": votes}, outputs=["0", "votes"])
    integers, _ = quantize(network, "fixed", spikes)
    outputs = replay(integers, spikes)[1]
    sums = outputs["0"].reshape(5, 2, 2, 4).sum(-1)
    assert sums.any()
    np.testing.assert_array_equal(outputs["votes"], sums)
    reference.check_c(integers, spikes, outputs, tmp_path, examples=spikes)


def test_largest_input_in_c(tmp_path):
    """2^24 less 5 of the bias over the sum of sizes, 30, is 559,240.3."""
    network = Network(
        [Layer(np.array([[10], [-20]]), FixedLIF(0, None, bits=24), bias=np.array([5]))]
    )
    report = to_c(network, tmp_path / "net")
    assert report.largest_input == 559_240
    assert "#define NET_LARGEST_INPUT 559240 " in (tmp_path / "net.h").read_text()
    replay(network, np.full((1, 1, 2), 559_240))
    with pytest.raises(OverflowError):
        replay(network, np.full((1, 1, 2), 559_241))
    assert "largest input" in str(report)


class Slower(FixedLIF, pure=True):
    """A rule of its own, in NumPy and JAX alone."""

    def integrate(self, v, current):
        return super().integrate(v, current) - 1


def test_subclasses_have_no_files():
    """Replay runs their Python, and a file would lose it."""
    network = Network([Layer(np.full((2, 2), 3), Slower(4096, 10))])
    assert replay(network, SPIKES)[0]["0"].tolist() == [[5, 5]]  # 6 - 1, 10, 15 fires
    for write in save, to_c:
        assert_raises(
            lambda write=write: write(network, "net"),
            "TypeError: has a Slower. Use FixedLIF, Loihi, Xylo",
        )


def test_replay_refuses_sums_that_float32_rounds():
    """33 products of 32767 * 255 and their negatives cancel in integers, not in float32."""
    weight = np.full((66, 1), 32767)
    weight[33:] *= -1
    network = Network([Layer(weight, FixedLIF(0, None, bits=24))])
    with pytest.raises(OverflowError, match=r"step 1: the products of the current .* 551468610"):
        replay(network, np.stack([np.ones((1, 66), int), np.full((1, 66), 255)]))
    for inputs in (np.full((1, 1, 66), 2**62), np.full((1, 1, 66), -(2**63))):
        assert_raises(
            lambda x=inputs: replay(network, x),
            "ValueError: inputs must be integers up to 16777216",
        )
    large = Network([Layer(np.full((2, 1), 2.0**40), FixedLIF(0, 1))])
    assert_raises(
        lambda: replay(large, SPIKES), "TypeError: weights of integers up to 16777216 in size"
    )


@pytest.mark.slow
def test_masked_steps_do_not_count():
    """Rates, states and checks of inputs are those of the valid steps, and padding may be NaN."""
    network, spikes = real_network(0.14, LIF(0.9, reset="value", surrogate=Arctan(2.0)))
    _, expected = quantize(network, "fixed", spikes)
    mask = np.repeat(np.arange(2 * len(spikes)) < len(spikes), spikes.shape[1]).reshape(
        -1, spikes.shape[1]
    )
    padded = np.concatenate([spikes, np.full(spikes.shape, np.nan)])
    _, report = quantize(network, "fixed", padded, mask=mask)
    for row, other in zip(report.layers, expected.layers, strict=True):
        assert row.scale == other.scale
        assert row.rate == pytest.approx(other.rate)
    assert report.layers[0].rate[0] > 0.01


@pytest.mark.slow
def test_report_of_thresholds_and_time_constants():
    """The threshold of Loihi counts in units of a weight, so a small one moves."""
    weight = np.full((2, 2), 0.5, np.float32)
    network = Network(
        [Layer(weight, SynapticLIF(1.0, threshold=0.01, reset="value", synaptic_decay=0.5))]
    )
    integers, report = quantize(network, "loihi", SPIKES, bits=4)
    (row,), cell = report.layers, integers.layers["0"].cell
    assert row.tau == (np.inf, np.inf)
    assert row.threshold == (0.01, pytest.approx((64 * cell.vth + 1) / 64 / row.scale))
    assert "threshold" in str(report)


@pytest.mark.parametrize("target", few(["loihi", "xylo"], ci=["xylo"]))
def test_diagnosis_takes_integers(target):
    """A silent layer of integers is named, and a readout without a threshold is none."""
    cell = SynapticLIF(
        0.875, synaptic_decay=0.75, reset="subtract" if target == "xylo" else "value"
    )
    network, spikes = real_network(0.05, cell, cell if target == "xylo" else None)
    integers, _ = quantize(network, target, spikes)
    first = integers.layers["0"]
    quiet = dataclasses.replace(first.weight, value=first.weight.value * 0.02)
    quiet = dataclasses.replace(first, weight=quiet, recurrent=None, bias=None)
    broken = dataclasses.replace(integers, layers=integers.layers | {"0": quiet})
    report = spikegrad.diagnose(broken, spikes, lambda outputs: (outputs**2).mean(), train=False)
    # The surrogate of Xylo's cells is not measured, which the report says first.
    issue = report.issues[target == "xylo"]
    assert (issue.kind, issue.place) == ("silent", "0")
