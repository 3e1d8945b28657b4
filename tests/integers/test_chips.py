"""Networks in the formats of chips' tools, against recorded outputs of these tools."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from conftest import ROOT
from integer_networks import chip_inputs, chip_network

from spikegrad import LIF, Delayed, Layer, Network
from spikegrad.integers import Loihi, Xylo, quantize, replay, to_netx, to_xylo

RECORDED = dict(np.load(ROOT / "tests" / "recorded" / "integers" / "chip_tools.npz"))
SEEDS = range(4)


def entries(file, prefix=""):
    """Return the arrays of an HDF5 file by path."""
    found = {}
    for key, value in file.items():
        is_group = hasattr(value, "items")
        found |= entries(value, f"{prefix}{key}/") if is_group else {prefix + key: value[()]}
    return found


def late(network, *, first):
    """On a chip, each layer reads the outputs of the step before. On Xylo, the first does not."""
    layers = {}
    for n, (name, layer) in enumerate(network.layers.items()):
        weight = Delayed(layer.weight, 1) if n or first else layer.weight
        layers[name] = Layer(weight, layer.cell, layer.recurrent)
    return Network(layers)


@pytest.mark.parametrize("seed", SEEDS)
def test_netx_computes_the_network(seed, tmp_path):
    """Lava has read the recorded file, which is that of ``to_netx``, and run its processes."""
    h5py = pytest.importorskip("h5py")
    network = chip_network("loihi", seed)
    to_netx(network, tmp_path / "net.net")
    (tmp_path / "recorded.net").write_bytes(RECORDED[f"lava/{seed}/file"].tobytes())
    with h5py.File(tmp_path / "net.net") as ours, h5py.File(tmp_path / "recorded.net") as theirs:
        found, expected = entries(ours), entries(theirs)
    assert {*found} == {*expected}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    _, spikes = replay(late(network, first=True), chip_inputs("loihi", seed))
    lava = RECORDED[f"lava/{seed}/spikes"]
    assert 0.005 < lava.mean() < 0.9
    np.testing.assert_array_equal(spikes[:, 0], lava)


@pytest.mark.parametrize("seed", SEEDS)
def test_rockpool_computes_the_network(seed):
    """XyloSim has run the recorded specification, which is that of ``to_xylo``."""
    network = chip_network("xylo", seed)
    specification = to_xylo(network)
    prefix = f"xylo/{seed}/spec/"
    expected = {k.removeprefix(prefix): v for k, v in RECORDED.items() if k.startswith(prefix)}
    assert {*specification} == {*expected}
    for name, array in expected.items():
        np.testing.assert_array_equal(specification[name], array, err_msg=name)
    _, spikes = replay(late(network, first=False), chip_inputs("xylo", seed))
    simulated = RECORDED[f"xylo/{seed}/spikes"]
    assert 0.01 < simulated.mean() < 0.9
    np.testing.assert_array_equal(spikes[:, 0], simulated)


@pytest.mark.slow
def test_quantized_networks_have_files_of_chips(tmp_path):
    """A readout never fires on Loihi, so its potentials can be read."""
    h5py = pytest.importorskip("h5py")
    spikes = jax.random.bernoulli(jax.random.key(1), 0.2, (20, 4, 6))
    network = Network.init(jax.random.key(0), spikes, (5, 2), LIF(0.9, reset="value"))
    integers, _ = quantize(network, "loihi", spikes)
    to_netx(integers, tmp_path / "net.net")
    with h5py.File(tmp_path / "net.net") as file:
        found = entries(file["layer"])
    assert found["2/neuron/vThMant"] << 6 > 2**23
    np.testing.assert_array_equal(found["1/weight"], integers.layers["0"].weight.integers.T)
    assert found["1/weight"].shape == (5, 6)


ONES, LOIHI, XYLO = np.full((2, 2), 2), Loihi(0, 0, 5), Xylo(1, 1, 5)
LAST = Layer(ONES, Xylo(1, 1, 5, n=1))


def netx(*layers):
    return lambda: to_netx(Network([*layers]), "never")


def xylo(*layers):
    return lambda: to_xylo(Network([*layers]))


REFUSED = {
    "to_netx: layer '0' must be a Loihi, got a Xylo": netx(Layer(ONES, XYLO)),
    "to_netx: layer '0' must have no bias": netx(Layer(ONES, LOIHI, bias=np.array([1, 0]))),
    "to_netx: layer '0' must have no delays": netx(Layer(Delayed(ONES, 1), LOIHI)),
    "to_netx: layer '0' must have one dv for": netx(Layer(ONES, Loihi(0, [1, 2], 5))),
    "to_netx: layer '0' must have a bias in multiples of 64, got 65": netx(
        Layer(ONES, Loihi(0, 0, 5, bias=65))
    ),
    "to_netx: layer 'b' must read the layer before, got 'input'": lambda: to_netx(
        Network({"a": Layer(ONES, LOIHI), "b": Layer({"a": ONES, "input": ONES}, LOIHI)}), "never"
    ),
    "to_netx: network must have one input": lambda: to_netx(
        Network([Layer({"x": ONES, "y": ONES}, LOIHI)], inputs=["x", "y"]), "never"
    ),
    "to_xylo: network must have a hidden layer and an output layer": xylo(Layer(ONES, XYLO)),
    "to_xylo: layer '1' must have n=1, got 31": xylo(Layer(ONES, XYLO), Layer(ONES, XYLO)),
    "to_xylo: weights_in must be from -128 to 127, got 200": xylo(Layer(100 * ONES, XYLO), LAST),
    "to_xylo: layer '0' must be a Xylo, got a Loihi": xylo(Layer(ONES, LOIHI), LAST),
}


@pytest.mark.parametrize("message", REFUSED)
def test_formats_refuse_by_name(message):
    if message.startswith("to_netx"):
        pytest.importorskip("h5py")
    with pytest.raises((TypeError, ValueError)) as raised:
        REFUSED[message]()
    assert str(raised.value).startswith(message)
