"""Inputs of the networks of the command, scores, and the training loop."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import images, options

from spikegrad import LIF
from spikegrad.cli import trainer
from spikegrad.cli.networks import SpikingNetwork
from spikegrad.cli.tasks import task_of
from spikegrad.cli.trainer import fit, random_shift
from spikegrad.data import latency_encoding, load, rate_encoding
from spikegrad.training import DivergedError

SIZES = (6, 9, 7, 3)
RNG = np.random.default_rng(0)


def parameters_of(network, gain):
    """Initial weights times ``gain``. Biases are 0."""
    return jax.tree.map(lambda leaf: gain * leaf, network.init(jax.random.key(1)))


@pytest.mark.parametrize(
    ("encoding", "encode"), [("latency", latency_encoding), ("rate", rate_encoding)]
)
def test_images_are_encoded_on_their_scale(encoding, encode):
    x, key = RNG.integers(0, 17, (5, 2, 3)), jax.random.key(3)
    network = SpikingNetwork(SIZES, LIF(), steps=4, encoding=encoding, high=16.0)
    expected = encode((x / 16).reshape(5, 6).astype(np.float32), 4, *([key] * (encoding == "rate")))
    assert np.array_equal(network.inputs(jnp.asarray(x)[None], key), expected)


@pytest.mark.slow
def test_shifts_move_images_and_zeros_move_in():
    images = np.zeros((400, 7, 7), np.float32)
    images[:, 3, 3] = 1
    moved = np.asarray(random_shift(images, 2, jax.random.key(0)))
    assert (moved.sum((1, 2)) == 1).all()
    _, row, column = np.nonzero(moved)
    assert set(row) == set(column) == {1, 2, 3, 4, 5}
    assert len(set(zip(row, column, strict=True))) == 25
    corner = np.ones((50, 4, 4, 3), np.float32)
    sums = np.asarray(random_shift(corner, 2, jax.random.key(0))).sum((1, 2, 3))
    assert set(sums) == {
        3 * (4 - a) * (4 - b) for a in range(3) for b in range(3)
    }  # channels move together


@pytest.mark.slow
def test_noise_is_normal_and_new_for_each_key():
    seen = []

    class Network:
        task = task_of("mean")

        def __call__(self, params, x, key, mask):
            seen.append((np.asarray(x), jax.random.key_data(key)))
            return x[0], [x], x

    x = RNG.normal(size=(20, 64, 9)).astype(np.float32)
    loss = trainer.loss_of(Network(), options(input_noise=0.25))
    for key in (0, 1, 0):
        loss({}, (x, np.zeros(64, int), None), jax.random.key(key))
    (first, encoding), (second, other), (again, _) = seen
    assert np.array_equal(first, again)
    assert not np.array_equal(encoding, other)
    noise = np.array([first, second]) - x
    count = noise[0].size
    np.testing.assert_allclose(noise.mean((1, 2, 3)), 0, atol=5 * 0.25 / np.sqrt(count))
    np.testing.assert_allclose(noise.std((1, 2, 3)), 0.25, rtol=5 / np.sqrt(2 * count))
    within = (np.abs(noise) < 0.25).mean()  # of a normal distribution
    assert within == pytest.approx(0.6827, abs=5 * np.sqrt(0.22 / noise.size))
    for a, b in (
        (noise[0], noise[1]),
        (noise[0, :10], noise[0, 10:]),
        (noise[0, :, :32], noise[0, :, 32:]),
    ):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)


@pytest.mark.slow
def test_scores_do_not_depend_on_how_examples_are_batched():
    x = RNG.uniform(size=(700, 6)).astype(np.float32)  # more than one batch, the last one padded
    network = SpikingNetwork(SIZES, LIF(), steps=5, encoding="current")
    params = tuple(
        dataclasses.replace(layer, bias=jnp.linspace(-0.5, 0.3, len(layer.bias)))
        for layer in parameters_of(network, 1.4)
    )
    scores = trainer.score(network, params, images(x))
    logits, spikes, _ = jax.jit(lambda params, x: network(params, x, jax.random.key(0)))(
        params, x[None]
    )
    np.testing.assert_allclose(scores.predictions, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores.rates, [s.mean() for s in spikes], rtol=1e-3)
    silent = [float((np.asarray(s).sum((0, 1)) == 0).mean()) for s in spikes]
    assert scores.silent == silent
    assert 0 < max(silent) < 1


NETWORK = SpikingNetwork((64, 32, 10), LIF(), steps=4, encoding="current", high=16.0)


@pytest.fixture(autouse=True, scope="module")
def one_update_in_each_call():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_WORK", 1.0)
        yield


def small(data, seed=0, **changes):
    given = options(encoding="current", epochs=3, batch=64, lr=2e-2, shift=1, seed=seed)
    return fit(NETWORK, NETWORK.init(jax.random.key(0)), data, given, **changes)


def leaves(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result[0])]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def learnt(digits):
    with jax.numpy_dtype_promotion("standard"):
        return small(digits)


@pytest.mark.slow
def test_training_learns_and_the_seed_decides(digits, learnt):
    params, results = learnt
    assert results["curves"]["loss"] == sorted(results["curves"]["loss"], reverse=True)
    assert results["curves"]["test"][-1] == results["test"] > 0.6
    assert results["test"] == trainer.score(NETWORK, params, digits.test).metric
    assert not results["interrupted"]
    assert not same(learnt, small(digits, seed=1))


def test_held_out_examples_have_no_part_in_training(digits, learnt):
    """The seed alone decides, so another training has the same bits."""
    test = images(16 - digits.test.x[:, 0], digits.test.y[::-1].copy())
    spoilt = dataclasses.replace(digits, test=test)
    other = small(spoilt)
    assert same(learnt, other)
    assert other[1]["curves"]["test"] != learnt[1]["curves"]["test"]


@pytest.mark.slow
def test_stopping_keeps_what_was_learnt_and_a_resumed_run_gives_the_same_bits(
    digits, learnt, tmp_path
):
    seen = []
    options = {"folder": tmp_path, "minutes": 0.0}
    first, stopped = small(digits, callbacks=[seen.append], stop=lambda: len(seen) == 4, **options)
    assert stopped["interrupted"]
    assert [now.step for now in seen] == [1, 2, 3, 4, 5]
    assert len(stopped["curves"]["test"]) == stopped["epochs"] == 1
    start = NETWORK.init(jax.random.key(0))
    assert not np.array_equal(first[0].weight, start[0].weight)
    assert stopped["rates"] == trainer.score(NETWORK, first, digits.test).rates
    rest = small(digits, callbacks=[seen.append], **options)
    assert seen[5].step == 6
    assert same(learnt, rest)
    curves = learnt[1]["curves"]
    assert rest[1]["curves"] == curves
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 67))
    assert {
        "network",
        "step",
        "epoch",
        "seconds",
        "loss",
        "accuracy",
        "rates",
        "learning_rate",
    } <= set(lines[0])
    assert [line["test"] for line in lines if line.get("epoch_ended")] == curves["test"]
    assert lines[33]["learning_rate"] == pytest.approx(2e-2 * (1 + np.cos(np.pi * 33 / 66)) / 2)
    assert (
        small(digits, callbacks=[seen.append], **options)[1]["curves"] == curves
    )  # of a finished one nothing is left
    assert len(seen) == 66


@pytest.mark.slow
def test_divergence_keeps_the_last_good_parameters(digits):
    good = []
    x = digits.train.x[:, 0].copy()
    x[200] = np.inf
    broken = dataclasses.replace(digits, train=images(x, digits.train.y))
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) at update \d+, in epoch 1"
    ) as diverged:
        small(broken, callbacks=[lambda now: good.append(now.step)])
    assert 0 < good[-1] < 22
    start = NETWORK.init(jax.random.key(0))
    last = diverged.value.state.trainable
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last))
    assert not np.array_equal(last[0].weight, start[0].weight)
