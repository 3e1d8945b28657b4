"""The experiments of Gygax and Zenke 2025 in ``benchmarks/not_a_gradient.py``, against NumPy in
double precision.
"""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from spikegrad import Sigmoid, soft

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # a reader's JAX
        yield importlib.import_module("not_a_gradient")


def logistic(x):
    return np.exp(-np.logaddexp(0, -x))


def by_hand(weights, output, slope):
    """Output and surrogate gradient of the five weights, the last axis."""
    w, v1, v2, u1, u2 = np.moveaxis(np.asarray(weights, np.float64), -1, 0)

    def rise(x):
        return slope * logistic(slope * x) * logistic(-slope * x)

    g = logistic(output * w)
    h1, h2 = logistic(output * v1 * g), logistic(output * v2 * g)
    of_last = rise(u1 * h1 + u2 * h2)
    back1, back2 = of_last * u1 * rise(v1 * g), of_last * u2 * rise(v2 * g)
    gradient = [
        (back1 * v1 + back2 * v2) * rise(w),
        back1 * g,
        back2 * g,
        of_last * h1,
        of_last * h2,
    ]
    return logistic(output * (u1 * h1 + u2 * h2)), np.stack(gradient, -1)


def turn_by_hand(output, slope):
    ortho_group = pytest.importorskip("scipy.stats").ortho_group
    first, second = ortho_group.rvs(5, random_state=124)[:2]
    angle = np.linspace(0, 2 * np.pi, 1500, endpoint=False)
    weights = 1.8 * (np.sin(angle)[:, None] * first + np.cos(angle)[:, None] * second)
    tangents = 1.8 * (np.cos(angle)[:, None] * first - np.sin(angle)[:, None] * second)
    outputs, gradients = by_hand(weights, output, slope)
    return outputs, (gradients * tangents).sum(-1) * 2 * np.pi / 1500


def test_around_a_circle(example):
    turn = jax.jit(
        lambda output, slope: example.around_a_circle(soft(example.Mismatched(output, slope)))
    )
    for slope, published in ((1.0, False), (5.0, True), (20.0, True)):
        outputs, changes = turn(1e4, slope)
        wanted, wanted_changes = turn_by_hand(1e4, slope)
        np.testing.assert_allclose(outputs, wanted, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(changes, wanted_changes, rtol=1e-9, atol=1e-12)
        assert abs(changes.sum()) > (0.3 if published else 0.04)
        # the nearer the output is to the slope's own, the nearer to 0, in proportion in the end;
        # and there it is 0
        near, nearer, own = (
            abs(float(turn(ratio * slope, slope)[1].sum())) for ratio in (1.01, 1.001, 1)
        )
        assert 0.1 * abs(changes.sum()) > near > 8 * nearer > 0
        assert own < 1e-13


def test_signs_along_a_line(example):
    line, _, true = example.along_a_line(soft(Sigmoid(100.0)))
    weights = np.broadcast_to([0, 0.05, 0.1, 1, -1], (line.size, 5)).copy()
    weights[:, 0] = line
    np.testing.assert_allclose(true, by_hand(weights, 100, 100)[1][:, 0], rtol=1e-9, atol=1e-12)
    for slope in (15.0, 30.0):
        surrogate = example.along_a_line(soft(example.Mismatched(100.0, slope)))[2]
        np.testing.assert_allclose(
            surrogate, by_hand(weights, 100, slope)[1][:, 0], rtol=1e-9, atol=1e-12
        )
        wrong = np.flatnonzero(true * surrogate < 0)
        assert wrong.size > 100
        assert (np.diff(wrong) == 1).all()  # one interval, about 0
        assert line[wrong[0]] < 0 < line[wrong[-1]]
        at_peak = np.argmax(np.where(line > 0, true, 0))
        assert (at_peak in wrong) == (
            slope == 15
        )  # the wider one is wrong where the derivative is greatest


ALPHA, DECAY = 10.0, 0.9


def patterns_by_hand(weights, inputs, target):
    """Of each pattern of spikes of a network of squared error: probability, loss, and surrogate
    gradients by hand.
    """
    *hidden, last = weights
    for bits in itertools.product((0.0, 1.0), repeat=len(inputs) * sum(w.shape[1] for w in hidden)):
        spikes = np.reshape(bits, (len(inputs), len(hidden), -1))
        v = [np.zeros(w.shape[1]) for w in hidden]
        distances, probability, readout, total = np.zeros_like(spikes), 1.0, 0.0, 0.0
        for t, x in enumerate(inputs):
            for n, w in enumerate(hidden):
                u = DECAY * v[n] + x @ w
                distances[t, n], x = u - 1, spikes[t, n]
                probability *= np.prod(
                    np.where(x > 0, logistic(ALPHA * (u - 1)), logistic(-ALPHA * (u - 1)))
                )
                v[n] = u - x
            readout = DECAY * readout + x @ last
            total = total + readout
        error = total / len(inputs) - target
        yield spikes, distances, probability, error @ error / 2, error


def mean_by_hand(weights, inputs, target):
    return sum(p * loss for _, _, p, loss, _ in patterns_by_hand(weights, inputs, target))


def mean_surrogate_by_hand(weights, inputs, target, alpha):
    """Backpropagation through time in each pattern."""
    *hidden, last = weights
    sums = [np.zeros_like(w) for w in weights]
    for spikes, distances, p, _, error in patterns_by_hand(weights, inputs, target):
        slopes = alpha * logistic(alpha * distances) * logistic(-alpha * distances)
        of_readout, of_v = np.zeros(last.shape[1]), [np.zeros(w.shape[1]) for w in hidden]
        for t in reversed(range(len(inputs))):
            of_readout = error / len(inputs) + DECAY * of_readout
            sums[-1] += p * np.outer(spikes[t, -1], of_readout)
            of_spikes = of_readout @ last.T
            for n in reversed(range(len(hidden))):
                of_u = of_v[n] + slopes[t, n] * (of_spikes - of_v[n])
                sums[n] += p * np.outer(spikes[t, n - 1] if n else inputs[t], of_u)
                of_v[n], of_spikes = DECAY * of_u, of_u @ hidden[n].T
    return sums


def network(example, depth, **sizes):
    weights, inputs, _ = example.drawn_network(jax.random.key(depth), depth, examples=1, **sizes)
    return weights, inputs[0], jnp.array([0.3, -0.4])


def gradients(example, weights, inputs, loss, noise, *surrogates):
    """With each of the surrogates, None for the true one: mean loss and gradient."""

    def mean(weights, surrogate):
        return example.mean_loss(weights, inputs, loss, example.CELL, noise, surrogate)

    return jax.jit(lambda weights: [jax.value_and_grad(mean)(weights, s) for s in surrogates])(
        weights
    )


def squared(target):
    return lambda out: ((out - target) ** 2).sum() / 2


@pytest.mark.slow
def test_the_true_gradient_and_the_mean_of_surrogate_gradients(example):
    assert example.NOISE.alpha == ALPHA
    assert example.CELL.decay == DECAY
    weights, inputs, target = network(example, 2)
    found = gradients(
        example, weights, inputs, squared(target), example.NOISE, None, Sigmoid(ALPHA), Sigmoid(3.0)
    )
    weights, rest = [np.asarray(w) for w in weights], (np.asarray(inputs), np.asarray(target))
    assert sum(p for _, _, p, *_ in patterns_by_hand(weights, *rest)) == pytest.approx(1, abs=1e-12)
    for loss, _ in found:
        assert float(loss) == pytest.approx(mean_by_hand(weights, *rest), rel=1e-12)
    for n, w in enumerate(weights):  # one direction of each layer by differences
        direction = np.random.default_rng(n).normal(size=w.shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = list(weights)
            moved[n] = w + step * direction
            ends.append(mean_by_hand(moved, *rest))
        assert float((found[0][1][n] * direction).sum()) == pytest.approx(
            (ends[0] - ends[1]) / 2e-5, rel=1e-6
        )
    for (_, surrogate), alpha in zip(found[1:], (ALPHA, 3.0), strict=True):
        for got, wanted in zip(
            surrogate, mean_surrogate_by_hand(weights, *rest, alpha), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-14)
