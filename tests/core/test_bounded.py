"""Parameters that stay within bounds while they are trained."""

import dataclasses
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODES, STORAGES, few

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    bounded,
    learnable,
)
from spikegrad.surrogates import Bounded

rng = np.random.default_rng(0)
X = jnp.asarray(rng.uniform(0, 1, (12, 3, 4)), jnp.float32)
W = jnp.asarray(rng.normal(0.2, 0.7, (4, 5)), jnp.float32)
DECAYS = jnp.linspace(0.5, 0.9, 5)


def sigmoid(r):
    return 1 / (1 + np.exp(-r))


@pytest.mark.parametrize(
    ("low", "high", "formula"),
    [
        (0.0, 1.0, sigmoid),
        (-2.0, 3.0, lambda r: -2 + 5 * sigmoid(r)),
        (0.5, math.inf, lambda r: 0.5 + np.exp(r)),
        (-math.inf, 0.5, lambda r: 0.5 - np.exp(r)),
        (-math.inf, math.inf, lambda r: r),
    ],
)
def test_value_and_derivative(x64, low, high, formula):
    value_and_slope = jax.jit(jax.value_and_grad(lambda raw: Bounded(raw, low, high).value))
    for raw in (-3.0, 0.0, 0.7, 4.0):
        value, slope = value_and_slope(raw)
        np.testing.assert_allclose(value, formula(raw), rtol=1e-12)
        difference = (formula(raw + 1e-6) - formula(raw - 1e-6)) / 2e-6
        np.testing.assert_allclose(slope, difference, rtol=1e-7)
        np.testing.assert_allclose(bounded(formula(raw), low, high).raw, raw, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_within_bounds_however_far(dtype):
    """Also where a sum of bound and distance is rounded."""
    raw = np.float32([*np.linspace(-100, 100, 2001), -np.inf, np.inf, 3e38, -3e38])
    with np.errstate(over="ignore"):
        raw = raw.astype(dtype)
    for low, high in ((0.0, 1.0), (-9.9, -9.8), (-0.7, 1e-3), (1e-3, 1e3)):
        value = np.asarray(Bounded(jnp.asarray(raw), low, high).value, np.float64)
        lower, upper = (np.float64(np.asarray(bound, dtype)) for bound in (low, high))
        assert value.min() >= lower
        assert value.max() <= upper
        assert np.all(np.diff(value[:2001]) >= 0)


def test_the_bounds_are_the_parameter_s_own():
    cell = SynapticLIF(
        bounded(0.9), threshold=bounded(1.0, 0.1, 10.0), synaptic_decay=bounded(DECAYS, low=0.4)
    )
    assert (cell.decay.low, cell.decay.high) == (0, 1)
    assert (cell.threshold.low, cell.threshold.high) == (0.1, 10)
    assert (cell.synaptic_decay.low, cell.synaptic_decay.high) == (
        np.float32(0.4).item() and 0.4,
        1,
    )
    alpha = Sigmoid(bounded(4.0)).alpha
    assert (alpha.low, alpha.high) == (0, math.inf)
    np.testing.assert_allclose(
        [cell.decay.value, cell.threshold.value, alpha.value], [0.9, 1, 4], rtol=1e-6
    )
    np.testing.assert_allclose(cell.synaptic_decay.value, DECAYS, rtol=1e-6)
    assert bounded(1.0).raw == 1


def test_bounds_reject_invalid_arguments():
    for make, message in (
        (lambda: LIF(bounded(1.0)), "LIF: decay must be > 0 and < 1 to be bounded, got 1.0"),
        (lambda: LIF(bounded(0.9, 0.95)), "bounded: value must be > 0.95 to be bounded, got 0.9"),
        (
            lambda: LIF(bounded(np.array([0.5, 0.0]))),
            "LIF: decay must be > 0 and < 1 to be bounded, got [0.5 0. ]",
        ),
        (lambda: Sigmoid(bounded(-1.0)), "Sigmoid: alpha must be > 0 to be bounded, got -1.0"),
        (lambda: bounded(math.nan), "bounded: value must be finite to be bounded, got nan"),
        (lambda: bounded(0.5, 1.0, 0.0), "bounded: low must be below high, got 1 and 0"),
    ):
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            make()
        assert str(raised.value) == message
    with pytest.raises(TypeError, match="bounded: value must be a real number or array, got 'a'"):
        bounded("a")
    with pytest.raises(TypeError, match="LIF: surrogate must be a function, got Bounded"):
        LIF(surrogate=bounded(1.0))


def test_bounded_number_is_a_record():
    cell = LIF(bounded(0.9), surrogate=Arctan(bounded(2.0)))
    for again in (
        eval(
            repr(cell),
            {"LIF": LIF, "Arctan": Arctan, "Bounded": Bounded, "jnp": jnp, "inf": math.inf},
        ),
        pickle.loads(pickle.dumps(cell)),
        dataclasses.replace(cell),
        jax.tree.map(lambda leaf: leaf, cell),
        jax.jit(lambda cell: cell)(
            dataclasses.replace(cell, threshold=jnp.float32(1), reset_value=jnp.float32(0))
        ),
    ):
        assert again.decay == cell.decay
        assert again.surrogate == cell.surrogate
        assert hash(again.decay) == hash(cell.decay)
    assert cell != LIF(bounded(0.8), surrogate=Arctan(bounded(2.0)))
    paths = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(cell)[0]
    ]
    assert paths == [".decay.raw", ".surrogate.alpha.raw"]
    assert isinstance(cell.decay.raw, jax.Array)  # which is what frameworks train
    hidden = jax.tree.map(lambda leaf: None, cell)
    assert hidden.decay.raw is None


def test_bounded_number_acts_as_its_value():
    b, x = bounded(0.25, 0.0, 1.0), jnp.float32(0.25)
    for f in (
        lambda x: 1 - x,
        lambda x: x - 1,
        lambda x: 2 * x + x / 2,
        lambda x: 1 / x,
        lambda x: -x + 3.0,
        lambda x: x**2 + 2.0**x,
        lambda x: jnp.exp(jnp.asarray(x)) * x,
        lambda x: jnp.ones(3) * x,
    ):
        np.testing.assert_allclose(*jax.jit(lambda b, x, f=f: (f(b), f(x)))(b, x), rtol=1e-6)


def cells(decay, second, alpha):
    """Layers of all kinds, with these parameters."""
    fire = learnable(Sigmoid(alpha))
    return [
        SynapticLIF(decay, 0.8, fire, synaptic_decay=second, norm_input=True),
        AdaptiveLIF(decay, 0.6, Arctan(alpha), adaptation_decay=second),
        LeakyReadout(second),
    ]


def loss(made, mode):
    layers = [Layer(w, cell) for w, cell in zip((3 * W, jnp.eye(5), jnp.eye(5)), made, strict=True)]
    return (jnp.cos(jnp.arange(5.0)) * Network(layers)(X, backward=mode)[1]).sum()


@pytest.mark.parametrize("mode", few(MODES, ci=("exact", "8-bit")))
def test_in_every_mode_the_gradient_is_that_of_the_value_times_its_own(mode):
    """Numbers, and one per neuron: against the same cells of plain arrays, and the chain rule by
    hand.
    """
    values = jnp.float32(0.8), DECAYS, jnp.float32(3.0)
    with jax.numpy_rank_promotion("allow"):
        want, of_values = jax.jit(jax.value_and_grad(lambda v: loss(cells(*v), mode)))(values)
        got, of_cells = jax.jit(jax.value_and_grad(lambda made: loss(made, mode)))(
            cells(*map(bounded, values))
        )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    synaptic, adaptive, readout = of_cells
    decay, second, alpha = (np.asarray(v, np.float64) for v in values)
    low_precision = mode in STORAGES
    for grads, value, slope in (
        ((synaptic.decay, adaptive.decay), of_values[0], decay * (1 - decay)),
        (
            (synaptic.synaptic_decay, adaptive.adaptation_decay, readout.decay),
            of_values[1],
            second * (1 - second),
        ),
        ((synaptic.surrogate.surrogate.alpha,), of_values[2], alpha),
    ):
        np.testing.assert_allclose(
            sum(g.raw for g in grads),
            slope * value,
            rtol=1e-3 if low_precision else 1e-4,
            atol=1e-5,
        )
