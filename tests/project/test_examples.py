"""The examples run, learn, and compute one and the same gradient in every framework."""

import contextlib
import importlib
import warnings

import jax
import numpy as np
import pytest
from conftest import ROOT, few

EXAMPLES = ROOT / "examples"
FRAMEWORKS = {
    "plain_jax": None,
    "with_equinox": "equinox",
    "with_flax_nnx": "flax.nnx",
    "with_brainstate": "brainstate",
}
TRAINED = {
    "fit_equinox": "equinox",
    "fit_flax_nnx": "flax.nnx",
}  # by spikegrad.training.fit, networks of their own
LOOPS = {"learned_delays": None, "feedback": None}
BLOCKS = {"sew_resnet": None, "ms_resnet": None, "spikformer": "flax.nnx"}
every_framework = pytest.mark.parametrize("name", FRAMEWORKS)


@pytest.fixture(autouse=True)
def in_the_folder(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


@contextlib.contextmanager
def example(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the framework's own, while it is imported
        if framework := (FRAMEWORKS | TRAINED | LOOPS | BLOCKS)[name]:
            pytest.importorskip(framework)
            pytest.importorskip("optax")
        module = importlib.import_module(name)
    # the frameworks' layers rely on JAX's implicit promotions; plain JAX has to do without
    strict = "standard", "allow"
    if name == "plain_jax":
        strict = "strict", "raise"
    with jax.numpy_dtype_promotion(strict[0]), jax.numpy_rank_promotion(strict[1]):
        yield module


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        *FRAMEWORKS,
        *TRAINED,
        *LOOPS,
        *BLOCKS,
        "task",
        "image_task",
        "export_network",
        "losses_of_other_libraries",
        "orbax_checkpoints",
        "parallel_neurons",
        "other_resets",
    }


LOSSES = *FRAMEWORKS, *TRAINED, *LOOPS, *BLOCKS


IN_CI = "with_equinox", "with_brainstate", "fit_equinox", "fit_flax_nnx"


@pytest.mark.slow
@pytest.mark.parametrize("name", few(LOSSES, "plain_jax", "with_flax_nnx", "feedback", ci=IN_CI))
def test_the_loss_falls(name, capsys):
    with example(name) as module:
        losses = module.main(fast=True)
    assert losses[0] > 1.3
    assert losses[-1] < 0.6 * losses[0]
    assert f"loss {losses[-1]:.4f}" in capsys.readouterr().out


def numpy_gradients(task):
    """Backpropagation through time by hand, for the network that all of them describe."""
    spikes, labels = task.data()
    weights = [w.astype(float) for w in task.initial_weights()]
    inputs, slopes = [spikes.astype(float)], []
    for w in weights[:-1]:
        v, us, outs = 0.0, [], []
        for current in inputs[-1] @ w:
            u = 0.9 * v + current
            s = (u >= 1.0).astype(float)
            v = u - s
            us.append(u)
            outs.append(s)
        slopes.append(
            1 / (1 + (np.pi * (np.array(us) - 1.0)) ** 2)
        )  # of the arctangent at alpha = 2
        inputs.append(np.array(outs))
    v, total = 0.0, 0.0
    for current in inputs[-1] @ weights[-1]:
        v = 0.9 * v + current
        total = total + v
    scores = total / len(spikes)
    of_scores = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    of_scores[np.arange(len(labels)), labels] -= 1
    of_scores /= len(labels)

    grads, carried = [], 0.0
    of_currents = np.zeros((*inputs[-1].shape[:-1], scores.shape[-1]))
    for t in reversed(range(len(spikes))):
        carried = of_scores / len(spikes) + 0.9 * carried
        of_currents[t] = carried
    grads.append(np.einsum("tbi,tbo->io", inputs[-1], of_currents))
    for layer in reversed(range(len(slopes))):
        of_spikes = of_currents @ weights[layer + 1].T
        of_currents, of_v = np.zeros_like(of_spikes), 0.0
        for t in reversed(range(len(spikes))):
            of_u = of_v + slopes[layer][t] * (of_spikes[t] - of_v)  # the reset subtracts the spike
            of_currents[t] = of_u
            of_v = 0.9 * of_u
        grads.append(np.einsum("tbi,tbo->io", inputs[layer], of_currents))
    return grads[::-1]


@pytest.mark.slow
@every_framework
def test_the_gradient_is_the_one_by_hand(name):
    with example(name) as module:
        grads = module.gradients()
    want = numpy_gradients(importlib.import_module("task"))
    assert [g.shape for g in grads] == [w.shape for w in want]
    for got, expected in zip(grads, want, strict=True):
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_an_exported_network_gives_the_same_potentials(capsys):
    export = importlib.import_module("export_network")
    network, spikes, potentials, last = export.main(fast=True)
    want = np.asarray(network(spikes, backward="scan")[1])
    np.testing.assert_allclose(potentials, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last, want[-1], rtol=1e-5, atol=1e-5)
    assert "('cpu', 'cuda', 'rocm', 'tpu')" in capsys.readouterr().out


def test_blocks_have_the_published_number_of_parameters():
    """Those of the modules of SpikingJelly 2.0.0. ``test_graphs_of_other_libraries.py`` counts
    Spikformer's block.
    """
    example = importlib.import_module("sew_resnet")

    def count(function, *args, **options):
        shapes = jax.eval_shape(lambda key: function(key, *args, **options), jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count(example.init_block, 8, 8) == 1184
    assert count(example.init_block, 8, 16, stride=2) == 3680
    assert count(example.init, **example.SEW_RESNET_18) == 11_181_642
