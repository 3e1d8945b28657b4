"""The numbers of NeuroBench, against its harness on recorded networks of snnTorch
(``record_neurobench.py``).
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from spikegrad import LIF, Layer, LeakyReadout, Network, Sigmoid, SynapticLIF, multi_spike, strict
from spikegrad.network import Window
from spikegrad.reports import neurobench

pytestmark = pytest.mark.slow

RECORDED = np.load(ROOT / "tests" / "recorded" / "costs" / "neurobench.npz")
NEURON = {"surrogate": strict(Sigmoid()), "delay_reset": True, "detach_reset": True}


def convolve(kernel, x):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)))


def flat(weight, x):
    return x.reshape(len(x), -1) @ weight


def networks(p):
    """The networks of snnTorch, from the recorded arrays of one of them."""
    partial = jax.tree_util.Partial
    return {
        "dense": lambda: [
            Layer(p["0.weight"].T, LIF(0.8, **NEURON), bias=p["0.bias"]),
            Layer(p["2.weight"].T, LIF(0.6, **NEURON), bias=p["2.bias"]),
        ],
        "convolution": lambda: [
            Layer(partial(convolve, p["0.weight"]), LIF(0.9, **NEURON)),
            Layer(partial(flat, p["3.weight"].T), LIF(0.5, **NEURON)),
        ],
        "recurrent": lambda: [
            Layer(p["0.weight"].T, SynapticLIF(0.8, synaptic_decay=0.5, **NEURON)),
            Layer(
                p["2.weight"].T,
                LIF(0.7, **NEURON),
                p["3.recurrent.weight"].T,
                p["3.recurrent.bias"],
            ),
        ],
    }


@pytest.mark.parametrize("name", ["dense", "convolution", "recurrent"])
def test_each_key_equals_the_harness(name):
    p = {
        key.partition("/")[2]: RECORDED[key] for key in RECORDED.files if key.startswith(f"{name}/")
    }
    expected = json.loads(str(p["results"]))
    report = neurobench(Network(networks(p)[name]()), p["inputs"])._asdict()
    # The footprint of snnTorch has the buffers of its neurons too.
    assert report.pop("Footprint") == expected.pop("parameters") < expected.pop("Footprint")
    assert report == expected


def test_definitions_on_a_network_that_torch_lacks():
    """Of a readout, a window, counts and drawn spikes, by a loop over values."""
    rng = np.random.default_rng(4)
    first, window = (
        rng.normal(0, 2, (3, 4)).astype(np.float32),
        rng.normal(0, 1, (2, 4, 2)).astype(np.float32),
    )
    first[0, 1] = window[1, 2, 0] = 0
    network = Network([
        Layer(first, LIF(0.5, surrogate=multi_spike(Sigmoid(), 3))),
        Layer(Window(window), LeakyReadout(0.9)),
    ])  # fmt: skip
    inputs = (rng.random((6, 2, 3)) < 0.5).astype(np.float32)
    report = neurobench(network, inputs)
    _, activity = network.observe(inputs)
    spikes = np.asarray(activity[0].output)
    assert spikes.max() > 1
    counts = {"Effective_MACs": 0, "Effective_ACs": 0, "Dense": 6 * 2 * (12 + 16)}

    def count(reads, matrix):
        kind = (
            "Effective_ACs"
            if all(value in (-1, 0, 1) for value in reads.ravel())
            else "Effective_MACs"
        )
        for example in reads:
            for value, row in zip(example, matrix, strict=True):
                counts[kind] += (value != 0) * sum(w != 0 for w in row)

    for t in range(6):
        count(inputs[t], first)
        for lag in (0, 1):
            count(spikes[t - lag] if t >= lag else np.zeros((2, 4)), window[lag])
    assert report.SynapticOperations == {name: total / 2 for name, total in counts.items()}
    assert report.ActivationSparsity == (spikes == 0).mean()
    assert report.ConnectionSparsity == round(2 / 28, 4)
    assert report.Footprint == 4 * 28
    potentials = np.zeros((2, 4))
    updates = 0
    for t in range(6):  # the potential before the spike, minus its spikes
        after = np.asarray(activity[0].potential)[t] - spikes[t]
        updates += after.size if t == 0 else (after != potentials).sum()
        potentials = after
    assert report.MembraneUpdates == updates / 2


def test_functions_keep_their_biases_out_of_the_sparsity():
    weight = jax.tree_util.Partial(
        lambda w, b, x: x @ w + b, jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.zeros((1, 2))
    )
    assert (
        neurobench(Network([Layer(weight, LIF())]), jnp.ones((3, 1, 2))).ConnectionSparsity == 0.5
    )


def test_one_example_without_a_batch_counts_as_a_batch_of_one():
    network = Network([Layer(jnp.ones((5, 3)), LIF())])
    spikes = jnp.asarray(np.random.default_rng(0).random((6, 1, 5)) < 0.4, jnp.float32)
    assert neurobench(network, spikes[:, 0]) == neurobench(network, spikes)


def test_arrays_that_functions_hold_are_named():
    kernel = jnp.zeros((3, 1, 3, 3))
    network = Network([Layer(lambda x: jax.lax.conv(x, kernel, (1, 1), "SAME"), LIF())])
    with pytest.warns(UserWarning, match=r"neurobench: .*: \[3, 1, 3, 3\] in weight of '0'"):
        neurobench(network, jnp.ones((2, 1, 1, 5, 5)))
