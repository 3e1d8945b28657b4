"""Scales of weights: the least error, one for each channel, powers of two, and exact sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises

from spikegrad import LIF, Layer, LeakyReadout, Network
from spikegrad.integers import (
    Fixed,
    FixedLIF,
    dequantize,
    fixed,
    load,
    quantize,
    replay,
    save,
    to_c,
)

RNG = np.random.default_rng(0)
LOUD = RNG.laplace(size=(30, 6)).astype(np.float32) * np.geomspace(0.1, 10, 6, dtype=np.float32)
"""Weights of neurons whose sizes differ by a factor of 100."""
SPIKES = (RNG.random((12, 2, 30)) < 0.3).astype(np.int64)


def least_error(weights, bits):
    """The least relative error of a thousand scales, in plain NumPy."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scales = high / np.abs(weights).max() * np.geomspace(1, 64, 1000)
    errors = [
        np.linalg.norm(np.clip(np.rint(weights * s), low, high) / s - weights) for s in scales
    ]
    return min(errors) / np.linalg.norm(weights)


@pytest.mark.slow
def test_each_neuron_has_the_scale_of_the_least_error(tmp_path):
    """The error of a neuron is that of the best scale for its weights. Its threshold has its scale,
    and so do replay, file, C and the real network of the integers.
    """
    threshold = np.geomspace(0.2, 20, 6)
    network = Network(
        {
            "hidden": Layer(LOUD, LIF(0.9, threshold, reset="value"), bias=LOUD[0] / 10),
            "out": Layer(RNG.normal(size=(6, 3)).astype(np.float32), LeakyReadout(0.8)),
        }
    )
    target = FixedLIF(0, 1, bits=24)
    integers, report = quantize(network, target, SPIKES, bits=3, per_channel=True)
    hidden = integers.layers["hidden"]
    errors = hidden.weight.integers / np.array(hidden.weight.scale) - LOUD
    relative = np.linalg.norm(errors, axis=0) / np.linalg.norm(LOUD, axis=0)
    for neuron in range(6):
        assert relative[neuron] <= 1.01 * least_error(LOUD[:, neuron], 3)
    scale = np.ravel(hidden.weight.scale)
    np.testing.assert_array_equal(hidden.cell.threshold, np.rint(threshold * scale))
    np.testing.assert_array_equal(hidden.bias.integers, np.rint(LOUD[0] / 10 * scale))
    assert np.array(integers.layers["out"].cell.unit).shape == (3,)
    _, out = replay(integers, SPIKES)
    _, again = integers(jnp.asarray(SPIKES, jnp.float32))
    np.testing.assert_array_equal(out, again)
    save(integers, tmp_path / "net.json")
    np.testing.assert_array_equal(replay(load(tmp_path / "net.json"), SPIKES)[1], out)
    to_c(integers, tmp_path / "net")
    units = [float(x) for x in integers.layers["out"].cell.unit]
    header = (tmp_path / "net.h").read_text()
    assert f"UNIT_OUT {{{','.join(map(repr, units))}}}" in header
    rounded = dequantize(integers).layers["hidden"]
    np.testing.assert_allclose(rounded.weight, hidden.weight.integers / scale, rtol=1e-6)
    np.testing.assert_allclose(rounded.cell.threshold, np.rint(threshold * scale) / scale)
    # One scale for all neurons loses those with small weights.
    _, one = quantize(network, target, SPIKES, bits=3)
    assert report.layers[0].error < one.layers[0].error
    assert report.layers[0].zeros < 0.5 < one.layers[0].zeros


@pytest.mark.slow
def test_channels_of_a_convolution_have_scales_and_gains():
    """Channels differ by a factor of 100, and ``norm_input`` has a gain for each. Potentials before
    a spike are the real ones but for the rounding.
    """
    sizes = np.geomspace(0.1, 10, 4, dtype=np.float32)
    kernel = jnp.asarray(
        RNG.normal(size=(4, 2, 3, 3)).astype(np.float32) * sizes[:, None, None, None]
    )
    decay = np.array([0.5, 0.7, 0.8, 0.9]).reshape(4, 1, 1)
    threshold = 100 * sizes.reshape(4, 1, 1)

    def pooled(x):
        x = jax.lax.conv(x, kernel, (1, 1), "SAME")
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    network = Network([Layer(pooled, LIF(decay, threshold, norm_input=True))])
    images = (RNG.random((5, 2, 2, 6, 6)) < 0.4).astype(np.float32)
    integers, report = quantize(
        network, FixedLIF(0, 1, bits=24), images, bits=12, per_channel=True, powers_of_two=True
    )
    scale = np.array(integers.layers["0"].cell.unit)
    assert scale.shape == (4, 1, 1)
    assert (np.log2(scale) % 1 == 0).all()
    assert np.unique(scale).size > 1
    _, real = network.observe(images, parts=("pre_spike",))
    _, whole = integers.observe(images, parts=("pre_spike",))
    expected = np.asarray(real["0"].pre_spike)
    got = np.asarray(whole["0"].pre_spike) / scale
    error = np.abs(got - expected).max((0, 1, 3, 4)) / np.abs(expected).max((0, 1, 3, 4))
    assert (error < 0.02).all(), error
    assert report.layers[0].error < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("per_channel", [False, True])
def test_sums_of_products_are_exact_in_float32(per_channel):
    """33 weights and their negatives cancel, but their sizes add up to more than 2^24 for inputs of
    255 at the scale of 16 bits. The scale becomes smaller, and a replay takes all such inputs.
    """
    weight = np.ones((66, 2), np.float32)
    weight[33:] = -1
    network = Network([Layer(weight, LIF(0.9))])
    inputs = np.full((2, 1, 66), 255)
    target = FixedLIF(0, 1, bits=24)
    integers, report = quantize(network, target, inputs, bits=16, per_channel=per_channel)
    sums = 255 * np.abs(integers.layers["0"].weight.integers).sum(0)
    assert 0.9 * 2**24 < sums.max() <= 2**24
    assert report.layers[0].clipped == 0
    replay(integers, inputs * RNG.integers(-1, 2, inputs.shape))
    # Spikes leave the 16 bits.
    few, _ = quantize(network, target, np.ones((2, 1, 66), int), bits=16, per_channel=per_channel)
    assert np.abs(few.layers["0"].weight.integers).max() == 2**15 - 1


@pytest.mark.slow
def test_wrong_scales_are_refused():
    for scale, message in (
        (
            [1.0, 2.0, 3.0],
            "ValueError: Fixed: scale must be a number or broadcast to the shape (2, 2)",
        ),
        ([1.0, 0.0], "ValueError: Fixed: scale must be > 0"),
        ([[1.0, 2.0], [3.0]], "TypeError: Fixed: scale must be a real number"),
    ):
        assert_raises(lambda scale=scale: Fixed(jnp.ones((2, 2)), scale, -2, 1), message)
    weight = fixed(jnp.full((2, 2), 0.3), scale=[10.0, 20.0])
    assert weight.integers.tolist() == [[3, 6], [3, 6]]
