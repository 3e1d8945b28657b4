"""Kernels of learned delays, against the formula in NumPy, and their gradients against finite
differences.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises

from spikegrad import Layer, LeakyReadout, Network, Window, bounded
from spikegrad.network import DelayKernel, rounded_delays
from spikegrad.training import Report, ShrinkDelays, State, partition

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 2))
LENGTH = 6
SHAPES = (3, 2), (3, 1), (1, 2)  # a delay for each synapse, axon or dendrite


def by_formula(w, d, width, kernel):
    """Hammouamri et al. 2024, as ``dcls`` has it: index c of a convolution is lag K - 1 - c."""
    lags = np.arange(LENGTH).reshape(-1, 1, 1)
    if kernel == "gaussian":
        spread = np.exp(-0.5 * ((lags - d) / width) ** 2)
    else:
        spread = np.maximum(0, 1 + width - abs(lags - d))
    return w * spread / spread.sum(0, keepdims=True)


@pytest.mark.parametrize("kernel", ["gaussian", "triangular"])
def test_kernels(kernel, x64):
    cases = {
        case: RNG.uniform(0, LENGTH - 1, case[0])
        for case in itertools.product(SHAPES, (0.27, 1.0, 4.0))
    }
    run = jax.jit(
        lambda w: [
            jnp.asarray(DelayKernel(w, d, LENGTH, case[1], kernel)) for case, d in cases.items()
        ]
    )
    for ((_, width), d), found in zip(cases.items(), run(W), strict=True):
        np.testing.assert_allclose(found, by_formula(W, d, width, kernel), rtol=1e-12, atol=1e-300)
    assert DelayKernel(jnp.asarray(W), 1.0, LENGTH).shape == (LENGTH, *W.shape)


def test_kernels_outside_are_finite(x64):
    """An array of delays is not checked. A triangular kernel that reaches no step is 0, and so is
    its gradient.
    """

    def kernel(d):
        return jnp.asarray(DelayKernel(jnp.asarray(W), d, LENGTH, 0.5, "triangular"))

    values, gradient = jax.jit(lambda d: (kernel(d), jax.grad(lambda d: kernel(d).sum())(d)))(
        np.full(W.shape, 7.0)
    )
    np.testing.assert_array_equal(values, np.zeros((LENGTH, *W.shape)))
    np.testing.assert_array_equal(gradient, np.zeros(W.shape))


def test_gradients_of_delays(x64):
    """Central differences of the potentials of a readout, whose window has the kernel."""
    x = jnp.asarray(RNG.normal(size=(9, 4, 3)))
    d = RNG.uniform(0.2, LENGTH - 1.2, W.shape)

    @jax.jit
    @jax.value_and_grad
    def total(d):
        kernel = DelayKernel(jnp.asarray(W), d, LENGTH, 0.8)
        out = Network({"out": Layer(Window(kernel), LeakyReadout(0.8))})(x)[1]
        return (out**2).sum()

    step = 1e-5
    for i, j in ((0, 0), (2, 1)):
        moved = np.zeros_like(d)
        moved[i, j] = step
        slope = (total(d + moved)[0] - total(d - moved)[0]) / (2 * step)
        np.testing.assert_allclose(total(d)[1][i, j], slope, rtol=1e-6)


@pytest.mark.parametrize("width", [0.0, 1.0])
def test_triangular_kernels_treat_both_sides_of_a_whole_delay_alike(x64, width):
    def kernel(d):
        return jnp.asarray(DelayKernel(jnp.ones((1, 1)), d, 7, width, "triangular"))[:, 0, 0]

    step = 1e-6
    low, slope, high = jax.jit(
        lambda: (kernel(3.0 - step), jax.jacobian(kernel)(3.0), kernel(3.0 + step))
    )()
    np.testing.assert_allclose(slope, (high - low) / (2 * step), atol=1e-6)


def test_no_gradient_reaches_a_width():
    kernel = DelayKernel(jnp.asarray(W), jnp.full(W.shape, 2.3), LENGTH, width=jnp.asarray(1.0))
    gradient = jax.jit(jax.grad(lambda kernel: (jnp.asarray(kernel) ** 2).sum()))(kernel)
    assert gradient.width == 0
    assert jnp.abs(gradient.delay).max() > 0


@pytest.mark.parametrize("kernel", ["gaussian", "triangular"])
def test_whole_delays(kernel):
    """Each weight stands at the nearest step alone, also at both ends."""
    d = np.asarray([[0.0, 5.0], [1.4, 1.6], [4.9, 0.2]])
    learned = DelayKernel(
        jnp.asarray(W), bounded(jnp.asarray(d.clip(0.01, 4.99)), 0, 5), LENGTH, kernel=kernel
    )
    network = rounded_delays(Network({"out": Layer(Window(learned), LeakyReadout(0.8))}))
    found = jax.jit(jnp.asarray)(network.layers["out"].weight.weight)
    wanted = np.where(np.arange(LENGTH).reshape(-1, 1, 1) == d.round(), W, 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def state_of(width):
    kernel = DelayKernel(jnp.asarray(W), jnp.full(W.shape, 2.0), LENGTH, width=width)
    trainable, _ = partition(Network({"out": Layer(Window(kernel), LeakyReadout(0.8))}))
    return trainable


@pytest.mark.parametrize(("step", "width"), [(0, 4.0), (5, 1.0), (10, 0.25), (99, 0.25)])
def test_widths_shrink_by_the_same_factor_each_update(step, width):
    state = State(state_of(jnp.asarray(4.0)), None, jax.random.key(0), step=step)
    new = ShrinkDelays(4.0, 0.25, updates=10)(_report(state)).trainable
    assert float(new.layers["out"].weight.weight.width) == pytest.approx(width)
    np.testing.assert_array_equal(new.layers["out"].weight.weight.weight, jnp.asarray(W))


def _report(state):
    """A report of nothing but a state, which is all that the callback reads."""
    report = object.__new__(Report)
    object.__setattr__(report, "state", state)
    return report


REFUSED = {
    "TypeError: DelayKernel: weight must be a matrix": lambda: DelayKernel(W[0], 1.0, 3),
    "ValueError: DelayKernel: delay must be >= 0, got -1.0": lambda: DelayKernel(W, -1.0, 3),
    "ValueError: DelayKernel: delay must be at most length - 1 = 2, got 2.1": lambda: DelayKernel(
        W, 2.1, 3
    ),
    "ValueError: DelayKernel: length must be >= 1, got 0": lambda: DelayKernel(W, 1.0, 0),
    "ValueError: DelayKernel: width must be >= 0, got -1.0": lambda: DelayKernel(
        W, 1.0, 3, width=-1.0
    ),
    "ValueError: kernel must be one of 'gaussian', 'triangular'": lambda: DelayKernel(
        W, 1.0, 3, kernel="box"
    ),
    "ValueError: ShrinkDelays: start, ": lambda: ShrinkDelays(0.0, 1.0, updates=3),
    "ValueError: ShrinkDelays: trainable must contain a DelayKernel with an array as width": (
        lambda: ShrinkDelays(2.0, 1.0, updates=3)(
            _report(State(state_of(2.0), None, jax.random.key(0)))
        )
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_delays(message):
    assert_raises(REFUSED[message], message)
