"""What the command says of why a network does not learn."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("optax")

from spikegrad.cli import diagnosis, learning, main, networks

QUICK = ["--data", "digits", "--epochs", "1", "--hidden", "16,12", "--steps", "4", "--no-baseline"]


@pytest.fixture(autouse=True)
def optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def too_fast(tmp_path_factory):
    """A run at a learning rate with which nothing is learnt."""
    folder = tmp_path_factory.mktemp("run") / "fast"
    with jax.numpy_dtype_promotion("standard"):
        assert main(["train", *QUICK, "--lr", "50", "--output", str(folder)]) == 0
    return folder


def test_train_says_why_nothing_is_learnt(tmp_path, capsys):
    assert main(["train", *QUICK, "--lr", "50", "--output", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    said = "at the start, layer 1 is overshot: the first update is"
    assert [line for line in printed.err.splitlines() if f"nothing is learnt in epoch 1: {said}" in line]
    assert [line for line in printed.out.splitlines() if line.startswith(f"warning: {said}")]


def test_train_that_learns_says_so_and_where_to_look(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", *QUICK, "--lr", "0.02", "--epochs", "3", "--output", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "nothing is learnt" not in printed.err
    assert f"nothing is amiss in accuracy and rates; spikegrad diagnose {folder} looks closer" in printed.out


def test_a_run_is_diagnosed(too_fast, tmp_path, capsys):
    numbers, picture = tmp_path / "numbers.json", tmp_path / "picture.png"
    assert main(["diagnose", str(too_fast), "--start", "-o", str(numbers)]) == 0
    printed = capsys.readouterr().out
    assert "weights at the start, 128 examples of digits" in printed
    assert "layer 1 is overshot: the first update is" in printed
    found = json.loads(numbers.read_text())
    assert [layer["neurons"] for layer in found["layers"]] == [16, 12, 10]
    assert found["loss_after"] > found["loss"]
    assert main(["diagnose", str(too_fast), "-o", str(picture), "--examples", "40"]) == 0
    printed = capsys.readouterr().out
    assert "weights as trained, 40 examples of digits" in printed
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert main(["diagnose", str(too_fast), "-o", str(picture)]) == 2
    assert "exists; --force overwrites it" in capsys.readouterr().err
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("coding", ["current", "rate", "latency", "none"])
def test_the_layers_are_those_that_are_trained(coding):
    """Of every coding the logits, and so the loss, are those of the network itself."""
    rng = np.random.default_rng(0)
    network = networks.SpikingNetwork((6, 9, 3), networks.CELLS["lif"][0](0.8), 7, coding, readout="last")
    params = networks.init(network.sizes, jax.random.key(3), 0.7)
    x = rng.uniform(size=(5, 7, 6) if coding == "none" else (5, 6)).astype(np.float32)
    lengths = np.array([7, 2, 5, 1, 7]) if coding == "none" else None
    layers, inputs, mask = network.taken_apart(params, jnp.asarray(x), jax.random.key(0), lengths)
    expected, _, potentials = network(params, jnp.asarray(x), jax.random.key(0), lengths)
    np.testing.assert_allclose(layers(inputs, mask=mask)[1], potentials, rtol=1e-5, atol=1e-6)
    labels = rng.integers(3, size=5)
    found = diagnosis.examine(network, params, (x, labels, lengths), lambda x: x)
    np.testing.assert_allclose(found.loss, learning.cross_entropy(expected, labels).mean(), rtol=1e-5)
