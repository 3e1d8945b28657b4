"""Weights, neurons and gradients beside recordings of lava-dl, Rockpool and sinabs, see
``record_quantizers.py``.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spikegrad import Layer, Network, SlayerGrad, SynapticLIF, multi_spike, unroll
from spikegrad.integers import Fixed, FixedLIF, Loihi, fixed, quantize, replay

pytestmark = pytest.mark.slow

FILE = Path(__file__).resolve().parent.parent / "recorded" / "integers" / "quantizers.npz"


def record(name):
    with np.load(FILE) as file:
        return {
            key.removeprefix(f"{name}/"): file[key]
            for key in file.files
            if key.startswith(f"{name}/")
        }


@pytest.mark.parametrize("number", range(4))
def test_cuba_of_lava_dl(number):
    """lava-dl d825ac5, ``slayer/neuron/cuba.py``: weights, currents, potentials and spikes are
    equal. Its derivative ignores that a spike resets the potential, and equals this one without
    spikes.
    """
    recorded = record(f"lava/{number}")
    weight = Fixed(jnp.asarray(recorded["weight"]), 64.0, -256, 254, 2)
    np.testing.assert_array_equal(weight.integers, recorded["integers"])
    (current_decay, dv), (width, height) = recorded["decays"].tolist(), recorded["surrogate"]
    # slayer: height / (2 width) exp(-|v - threshold| / width), with potentials of 4096 a unit.
    surrogate = height / (2 * width) * SlayerGrad(1 / width)
    cell = Loihi(
        current_decay - 1,
        dv,
        int(recorded["threshold"]),
        surrogate=surrogate,
        unit=4096.0,
        detach_reset=True,
    )
    network = Network([Layer(weight, cell)])
    inputs = jnp.asarray(recorded["inputs"])[:, None]
    _, activity = network.observe(inputs, parts=("output", "pre_spike"))
    potential, current = activity["0"].pre_spike
    for array, name in (
        (potential, "potential"),
        (current, "current"),
        (activity["0"].output, "spikes"),
    ):
        np.testing.assert_array_equal(array[:, 0], recorded[name])
    np.testing.assert_array_equal(replay(network, inputs)[1][:, 0], recorded["spikes"])

    currents = inputs[:, 0] @ weight.integers.astype(np.float32)
    cotangent = recorded["cotangent"]
    gradient = jax.grad(lambda x: (unroll(cell, x)[1] * cotangent).sum())(currents)
    distance = np.abs(recorded["potential"] - cell.threshold) / 4096
    by_spike = cotangent * height / (2 * width) * np.exp(-distance / width)

    def by_hand(passes):
        """Return the derivative by the currents, with the factor of the potential that passes a
        spike.
        """
        v, i, rows = 0.0, 0.0, []
        for slope, factor in zip(by_spike[::-1], passes[::-1], strict=True):
            v = slope + factor * (1 - dv / 4096) * v
            i = v + (1 - current_decay / 4096) * i
            rows.append(i)
        return np.array(rows[::-1])

    # A current of 1 is 64 in the chip, and 1 / 64 in slayer.
    options = {"rtol": 2e-3, "atol": 2e-4 * np.abs(recorded["gradient"]).max()}
    np.testing.assert_allclose(by_hand(np.ones_like(by_spike)), recorded["gradient"], **options)
    np.testing.assert_allclose(by_hand(1 - recorded["spikes"]), 64 * gradient, **options)
    assert (number % 2 == 1) == (recorded["spikes"].max() == 0)


def test_global_quantize_of_rockpool():
    """Rockpool 3.1.0, ``quantize_methods.py``: integers at its scale, thresholds and bit shifts are
    equal, except for time constants below 4 steps, where 1 - exp(-dt / tau) is not dt / tau.
    """
    recorded = record("rockpool")
    for names, suffix in ((("weights_in", "weights_rec"), ""), (("weights_out",), "_out")):
        scale = 127 / max(np.abs(recorded[name]).max() for name in names)
        for name in names:
            weight = fixed(jnp.asarray(recorded[name], jnp.float32), scale=scale)
            np.testing.assert_array_equal(weight.integers, recorded[name + "_after"])
        thresholds = np.rint(recorded["threshold" + suffix] * scale)
        np.testing.assert_array_equal(thresholds, recorded[f"threshold{suffix}_after"])
    dash = recorded["dash_mem"]
    decay = np.exp(-(2.0**-dash))
    cell = SynapticLIF(
        decay, recorded["threshold"], surrogate=multi_spike(SlayerGrad(), 31), synaptic_decay=decay
    )
    inputs = np.ones((4, 1, 5), int)
    integers, _ = quantize(
        Network([Layer(jnp.asarray(recorded["weights_in"]), cell)]), "xylo", inputs
    )
    long = dash > 2
    for shifts, name in (
        (integers.layers["0"].cell.dash_mem, "mem"),
        (integers.layers["0"].cell.dash_syn, "syn"),
    ):
        np.testing.assert_array_equal(np.array(shifts)[long], recorded[f"dash_{name}_after"][long])
    assert (
        np.array(integers.layers["0"].cell.dash_mem)[~long] - recorded["dash_mem_after"][~long] == 1
    )


def test_discretized_layer_of_sinabs():
    """sinabs 3.1.3, ``dynapcnn/discretize.py``: weights, threshold, spikes and potentials of a
    layer of IAF neurons, which fire once a step here.
    """
    recorded = record("sinabs")
    threshold, whole = recorded["thresholds"]
    scale = 128 / np.abs(recorded["weight"]).max()  # the largest weight is negative
    weight = fixed(jnp.asarray(recorded["weight"]), scale=scale)
    np.testing.assert_array_equal(weight.integers, recorded["integers"])
    assert np.rint(threshold * scale) == whole
    network = Network([Layer(weight, FixedLIF(4096, int(whole), reset="subtract"))])
    inputs = recorded["inputs"][:, None].astype(int)
    _, activity = network.observe(inputs.astype(np.float32), parts=("output", "pre_spike"))
    np.testing.assert_array_equal(activity["0"].output[:, 0], recorded["spikes"])
    after = activity["0"].pre_spike - whole * activity["0"].output
    np.testing.assert_array_equal(after[:, 0], recorded["potential"])
    np.testing.assert_array_equal(replay(network, inputs)[1][:, 0], recorded["spikes"])
