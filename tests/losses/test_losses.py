"""Losses over time against NumPy in float64, closed forms and quadrature."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import assert_raises

from spikegrad import LIF, Layer, LeakyReadout, Network, losses
from spikegrad.losses import (
    count_error,
    first_spike_time,
    potential_error,
    rate_error,
    reduce_time,
    smape,
    van_rossum,
)

RNG = np.random.default_rng(3)
STEPS, EXAMPLES, CLASSES = 12, 5, 4
OUTPUTS = RNG.normal(size=(STEPS, EXAMPLES, CLASSES)).astype(np.float32)
SPIKES = (RNG.random((STEPS, EXAMPLES, CLASSES)) < 0.2).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2])
LENGTHS = np.array([12, 1, 7, 12, 3])
MASK = np.arange(STEPS)[:, None] < LENGTHS
HOLES = MASK & (np.arange(STEPS) % 3 != 1)[:, None]
MASKS = {"all": None, "lengths": MASK, "holes": HOLES, "one": np.arange(STEPS) % 2 == 0}


def sequences(x, mask):
    """The valid steps of each example, ``(steps, classes)``."""
    mask = np.ones(STEPS, bool) if mask is None else mask
    mask = np.broadcast_to(mask.reshape(STEPS, -1), (STEPS, EXAMPLES))
    return [np.asarray(x, np.float64)[mask[:, b], b] for b in range(EXAMPLES)]


def softmax_sum(x):
    p = np.exp(x)
    return (p / p.sum(1, keepdims=True)).sum(0)


REFERENCE = {
    "mean": lambda x: x.mean(0),
    "sum": lambda x: x.sum(0),
    "max": lambda x: x.max(0),
    "last": lambda x: x[-1],
    "softmax_sum": softmax_sum,
}


def test_axes_in_the_other_order_are_named():
    labels = np.zeros(STEPS, int)
    for call, name, shape in (
        (lambda: losses.count_error(SPIKES, labels, 1), "labels", (STEPS,)),
        (lambda: losses.rate_error(SPIKES, LABELS, mask=MASK.T), "masks", (EXAMPLES, STEPS)),
        (lambda: reduce_time(OUTPUTS, mask=MASK[0]), "masks", (EXAMPLES,)),
        (
            lambda: losses.van_rossum(SPIKES, SPIKES.swapaxes(0, 1), 5.0),
            "targets",
            (EXAMPLES, STEPS, CLASSES),
        ),
        (lambda: losses.voltage_bound(OUTPUTS, 0.0, mask=MASK.T), "masks", (EXAMPLES, STEPS)),
    ):
        message = (
            f" are (steps, examples, ...): {STEPS} steps, {EXAMPLES} examples. The {name} of shape "
            f"{shape} fit the other "
            "order: move the axis with jnp.swapaxes(x, 0, 1)"
        )
        with pytest.raises(ValueError, match=re.escape(message) + "$"):
            call()
    with pytest.raises(ValueError, match=r"got float32 \(5,\)$"):  # the order is right
        losses.count_error(SPIKES, LABELS.astype(np.float32), 1)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
def test_reductions_are_those_of_the_valid_steps(reduction, mask):
    got = reduce_time(OUTPUTS, reduction, MASKS[mask])
    expected = [REFERENCE[reduction](x) for x in sequences(OUTPUTS, MASKS[mask])]
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)


def test_reductions_of_losses_of_each_step():
    each = np.asarray(
        jax.jit(jax.vmap(optax.softmax_cross_entropy_with_integer_labels, (0, None)))(
            OUTPUTS, LABELS
        )
    )
    expected = [np.mean(x) for x in sequences(each[:, :, None], MASK)]
    np.testing.assert_allclose(reduce_time(each, "mean", MASK), expected, rtol=1e-6)


@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
def test_masked_steps_have_no_gradient_and_no_example_is_nan(reduction):
    mask = HOLES.copy()
    mask[:, 0] = False  # an example without a valid step
    outputs = np.where(
        mask[:, :, None], OUTPUTS, np.nan
    )  # what stands in other steps does not matter
    run = jax.jit(jax.value_and_grad(lambda x: (reduce_time(x, reduction, mask) ** 2).sum()))
    got, grad = run(outputs)
    assert (np.asarray(grad)[~mask] == 0).all()
    assert np.isfinite(grad).all()
    assert (np.abs(np.asarray(grad)[:, 1:]).sum((0, 2)) > 0).all()
    assert (np.asarray(reduce_time(outputs, reduction, mask))[0] == 0).all()
    assert float(got) == pytest.approx(float(run(OUTPUTS)[0]))


PADDED = {
    "count_error": lambda x: count_error(x, LABELS, 3, mask=MASK),
    "rate_error": lambda x: rate_error(x, LABELS, mask=MASK),
    "potential_error": lambda x: potential_error(x, LABELS, mask=MASK),
    "first_spike_time": lambda x: first_spike_time(x, mask=MASK).sum(),
    "van_rossum": lambda x: van_rossum(x, 2 * x, 5.0, mask=MASK),
    "voltage_bound": lambda x: losses.voltage_bound(x, -0.5, 0.5, mask=MASK),
}


@pytest.mark.parametrize("name", PADDED)
def test_no_loss_reads_nan_in_masked_steps(name):
    value_and_grad = jax.jit(jax.value_and_grad(PADDED[name]))
    padded = jnp.asarray(np.where(MASK[:, :, None], OUTPUTS, np.nan))
    (got, gradient), (expected, of_zeros) = (
        value_and_grad(padded),
        value_and_grad(jnp.nan_to_num(padded)),
    )
    assert float(got) == float(expected)
    np.testing.assert_array_equal(gradient, of_zeros)
    assert (np.asarray(gradient)[~MASK] == 0).all()
    assert np.abs(gradient).sum() > 0


def test_softmax_sum_has_the_floor_that_the_docstring_says():
    steps, classes = 3, 10
    certain = np.where(np.arange(classes) == 2, np.float32(1e4), 0) * np.ones(
        (steps, 1, 1), np.float32
    )
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = jax.jit(lambda x: cross_entropy(reduce_time(x, "softmax_sum"), np.array([2])))(certain)
    assert float(loss[0]) == pytest.approx(np.log(1 + (classes - 1) * np.exp(-steps)), rel=1e-6)


@pytest.mark.parametrize("mask", MASKS)
def test_errors_of_counts_rates_and_potentials(mask):
    one_hot = np.eye(CLASSES)[LABELS]
    spikes, potentials = (sequences(x, MASKS[mask]) for x in (SPIKES, OUTPUTS))
    counts, steps = (
        np.array([x.sum(0) for x in spikes]),
        np.array([len(x) for x in spikes])[:, None],
    )
    targets = np.where(one_hot, 3.7, 0.4)  # no integers: they are not rounded
    assert float(count_error(SPIKES, LABELS, 3.7, 0.4, MASKS[mask])) == pytest.approx(
        np.mean((counts - targets) ** 2)
    )
    rates = np.mean((counts / steps - np.where(one_hot, 0.8, 0.2)) ** 2)
    assert float(rate_error(SPIKES, LABELS, mask=MASKS[mask])) == pytest.approx(rates)
    each = [
        ((x - np.where(row, 1.5, -0.5)) ** 2).mean()
        for x, row in zip(potentials, one_hot, strict=True)
    ]
    assert float(potential_error(OUTPUTS, LABELS, 1.5, -0.5, MASKS[mask])) == pytest.approx(
        np.mean(each)
    )


@pytest.mark.parametrize("mask", MASKS)
def test_first_spike_times_and_their_derivatives(mask):
    got = first_spike_time(SPIKES, MASKS[mask])
    expected = [
        [(*np.flatnonzero(n), len(n))[0] for n in x.T] for x in sequences(SPIKES, MASKS[mask])
    ]
    np.testing.assert_array_equal(got, expected)
    weights = RNG.normal(size=got.shape).astype(np.float32)
    grad = jax.jit(jax.grad(lambda s: (weights * first_spike_time(s, MASKS[mask])).sum()))(SPIKES)
    for b, part in enumerate(sequences(grad, MASKS[mask])):
        for n in range(CLASSES):
            wanted = np.zeros(len(part))
            wanted[min(expected[b][n], len(part) - 1)] = -weights[b, n]
            np.testing.assert_array_equal(part[:, n], wanted)
    assert np.count_nonzero(grad) == weights.size  # and none outside of the mask


def test_first_spike_times_wake_a_silent_network():
    def first(weight):
        return first_spike_time(Network([Layer(weight, LIF(0.9))])(jnp.ones((8, 2, 3)))[1])[0, 0]

    time, gradient = jax.jit(jax.value_and_grad(first))(jnp.full((3, 2), 0.01))
    assert time == 8
    assert np.isfinite(gradient).all()
    assert (gradient[:, 0] < 0).all()  # it falls as weights grow


def quadrature(difference, tau, per_step=20_000, tail=12):
    """The integral of the squared trace of one neuron, by midpoints: jumps stand at the starts of
    steps.
    """
    t = (np.arange(int((len(difference) + tail * tau) * per_step)) + 0.5) / per_step
    trace = sum(d * np.where(t >= n, np.exp(-(t - n) / tau), 0) for n, d in enumerate(difference))
    return (trace**2).sum() / per_step / tau


@pytest.mark.parametrize("mask", MASKS)
def test_van_rossum_is_the_integral(mask):
    targets = (RNG.random(SPIKES.shape) < 0.3).astype(np.float32)
    for tau in (0.7, 4.0):
        got = van_rossum(SPIKES[:, :, :1], targets[:, :, :1], tau, MASKS[mask])
        parts = sequences((SPIKES - targets)[:, :, :1], MASKS[mask])
        expected = np.mean([quadrature(x[:, 0], tau, 2_000) for x in parts])
        assert float(got) == pytest.approx(expected, rel=1e-4)


def test_van_rossum_of_one_spike_is_half_and_its_gradient_is_that_of_differences(x64):
    distance = jax.jit(jax.value_and_grad(van_rossum))
    one = np.zeros((9, 1, 1))
    one[4] = 1
    for tau in (1e-3, 1.0, 1e6):
        assert float(distance(one, np.zeros_like(one), tau)[0]) == pytest.approx(0.5)
    x, y = np.asarray(OUTPUTS, float), np.asarray(SPIKES, float)
    step = np.zeros_like(x)
    step[3, 0, 1] = 1e-6
    before, (_, grad), after = (distance(x + sign * step, y, 3.0, HOLES) for sign in (-1, 0, 1))
    assert float(grad[3, 0, 1]) == pytest.approx(float(after[0] - before[0]) / 2e-6, rel=1e-6)


def test_losses_of_half_precision_are_computed_in_float32():
    losses_of = jax.jit(
        lambda x: (
            reduce_time(x, "sum"),
            count_error(x, np.array([0]), 300, 300),
            first_spike_time(x),
        )
    )
    total, error, time = losses_of(np.ones((300, 1, 2), jnp.bfloat16))
    assert total[0, 0] == 300  # no bfloat16
    assert error == 0
    assert time.dtype == jnp.float32


def test_losses_take_what_a_network_returns():
    mask = jnp.asarray(MASK)
    network = Network(
        [Layer(jnp.ones((3, 6)) * 0.5, LIF(0.9)), Layer(jnp.ones((6, 4)), LeakyReadout(0.9))]
    )
    inputs = jnp.asarray(RNG.normal(size=(STEPS, EXAMPLES, 3)), jnp.float32)
    states, potentials = network(inputs, mask=mask)
    np.testing.assert_array_equal(reduce_time(potentials, "last", mask), states[-1][0])
    jitted = jax.jit(
        lambda x: van_rossum(
            network.observe(x, mask=mask)[1][0].output, 0 * x[..., :1] + 0, 5.0, mask
        )
    )
    with pytest.raises(
        ValueError, match=r"van_rossum: targets must have the shape of spikes \(12, 5, 6\), got"
    ):
        jitted(inputs)


@pytest.mark.parametrize("loss", [rate_error, lambda out, labels: count_error(out, labels, 3)])
def test_compiled_losses_close_over_labels(loss):
    """A function may be compiled with its labels as a constant, which are an array of JAX."""
    labels = jnp.asarray(LABELS)
    assert jax.jit(lambda out: loss(out, labels))(SPIKES) == pytest.approx(
        float(loss(SPIKES, LABELS)), rel=1e-6
    )
    above = labels + 1
    with pytest.raises(ValueError, match="labels must be from 0 to 3"):
        jax.jit(lambda out: loss(out, above))(SPIKES)


REFUSED = {
    "ValueError: reduction must be one of 'mean', ": lambda: reduce_time(OUTPUTS, "median"),
    "ValueError: outputs must be (steps, examples, ...)": lambda: reduce_time(OUTPUTS[:, 0, 0]),
    "ValueError: one step or more, got (0, 5, 4)": lambda: reduce_time(OUTPUTS[:0]),
    "ValueError: mask must be (12,) or (12, 5), got (5,)": lambda: reduce_time(
        OUTPUTS, mask=MASK[0]
    ),
    "TypeError: mask must be boolean, got float32": lambda: reduce_time(
        OUTPUTS, mask=MASK.astype(np.float32)
    ),
    "TypeError: outputs must be real, got complex64": lambda: reduce_time(
        OUTPUTS.astype(np.complex64)
    ),
    "ValueError: labels must be integers of shape (5,)": lambda: rate_error(SPIKES, LABELS[:2]),
    "ValueError: labels must be integers": lambda: rate_error(SPIKES, LABELS * 1.0),
    "ValueError: labels must be from 0 to 3": lambda: count_error(SPIKES, LABELS + 1, 3),
    "ValueError: outputs must be (steps, examples, classes)": lambda: rate_error(
        SPIKES[..., 0], LABELS
    ),
    "ValueError: tau must be > 0, got 0.0": lambda: van_rossum(SPIKES, SPIKES, 0.0),
    "ValueError: lower_bound: spikes must be (steps, examples, neurons), got (12, 5)": (
        lambda: losses.lower_bound(SPIKES[:, :, 0])
    ),
    "ValueError: lower_bound: spikes must have one layer or more, got none": lambda: (
        losses.lower_bound([])
    ),
    "ValueError: upper_bound: power must be one of 1, 2, got 3": lambda: losses.upper_bound(
        SPIKES, 4, power=3
    ),
    "ValueError: voltage_bound: low and high are missing. Pass at least": lambda: (
        losses.voltage_bound(SPIKES)
    ),
    "ValueError: lower_bound: bound of shape (5,) does not broadcast to spikes of shape (5, 4)": (
        lambda: losses.lower_bound(SPIKES, np.ones(5))
    ),
    "ValueError: lower_bound: bound of shape (3,) does not broadcast": lambda: losses.lower_bound(
        SPIKES, np.ones(3)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_invalid_arguments_raise(message):
    assert_raises(REFUSED[message], message)


@pytest.mark.slow
def test_smape_of_a_loop():
    """Pairs of zeros have no error, and no gradient that is not a number."""
    rng = np.random.default_rng(9)
    predictions, targets = rng.normal(size=(2, 6, 3)).astype(np.float32)
    predictions[0, 0] = targets[0, 0] = targets[1, 1] = 0
    errors = [
        abs(p - y) / (abs(p) + abs(y)) if p or y else 0
        for p, y in zip(predictions.flat, targets.flat, strict=True)
    ]
    value, gradient = jax.value_and_grad(smape)(predictions, targets)
    np.testing.assert_allclose(value, 200 * np.mean(errors), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert np.any(gradient)
    assert_raises(
        lambda: smape(predictions, targets[0]), "ValueError: smape: targets must have the shape of"
    )
