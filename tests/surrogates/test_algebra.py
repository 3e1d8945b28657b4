"""Curves made of curves: what they are, against NumPy; and that settings of the rule end up around
the whole.
"""

import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, enable_x64
from networks import assert_raises

import spikegrad
from spikegrad import (
    Arctan,
    InvSquareGrad,
    LeakyRelu,
    ReluGrad,
    Sigmoid,
    SlayerGrad,
    Surrogate,
    shifted,
    stretched,
    truncated,
)

NAMES = {**vars(spikegrad), "jnp": jnp, "np": np}


def sigma(z):
    return 1 / (1 + np.exp(-z))


def logistic(x, a=4.0):
    return a * sigma(a * x) * sigma(-a * x)


def arctan(x, a=1.0):
    return np.arctan(np.pi * a * x / 2) / np.pi + 0.5


def cauchy(x, a=1.0):
    return a / 2 / (1 + (np.pi * a * x / 2) ** 2)


# the surrogate, its slope, its primal, and where it has knots
TRUTH = {
    "scaled": (
        0.3 * Sigmoid(),
        lambda x: 0.3 * logistic(x),
        lambda x: 0.5 + 0.3 * (sigma(4 * x) - 0.5),
        (),
    ),
    "mixture": (
        0.3 * Sigmoid() + 0.7 * Arctan(),
        lambda x: 0.3 * logistic(x) + 0.7 * cauchy(x),
        lambda x: 0.3 * sigma(4 * x) + 0.7 * arctan(x),
        (),
    ),
    "shifted": (
        shifted(Arctan(), 0.75),
        lambda x: cauchy(x - 0.75),
        lambda x: arctan(x - 0.75),
        (),
    ),
    "of a slope whose primal is 0 at the threshold": (
        2.0 * shifted(LeakyRelu(0.0, 1.0), -0.5),
        lambda x: np.where(x >= -0.5, 2.0, 0.0),
        lambda x: 2 * np.maximum(x + 0.5, 0),
        (-0.5,),
    ),
    "stretched": (
        stretched(SlayerGrad(2.0), 0.25),
        lambda x: np.exp(-8 * abs(x)),
        lambda x: 0.5 + np.sign(x) * (1 - np.exp(-8 * abs(x))) / 8,
        (0,),
    ),
    "truncated": (
        truncated(InvSquareGrad(4.0), 0.75),
        lambda x: (abs(x) <= 0.75) / (1 + 4 * abs(x)) ** 2,
        lambda x: 0.5 + (u := np.clip(x, -0.75, 0.75)) / (1 + 4 * abs(u)),
        (-0.75, 0, 0.75),
    ),
    "all of them": (
        2.0 * shifted(stretched(truncated(Sigmoid() + 0.5 * ReluGrad(1.0, 2.0), 1.5), 2.0), 1.0),
        lambda x: (
            2 * (abs(y := (x - 1) / 2) <= 1.5) * (logistic(y) + np.maximum(0, 1 - abs(y) / 2))
        ),
        lambda x: (
            0.5
            + 4 * (sigma(4 * (u := np.clip((x - 1) / 2, -1.5, 1.5))) - 0.5)
            + 2 * (2 * u - u * abs(u) / 2)
        ),
        (-2, 1, 4, 5),
    ),
}
ALL = {name: row[0] for name, row in TRUTH.items()}


@jax.jit
def curves(surrogates, x):
    """Of each: the primal, the slope, and the derivative of the slope."""

    def of(s):
        g, second = jax.jvp(s.surrogate_grad, (x,), (jnp.ones_like(x),))
        return {"f": s.surrogate_fun(x), "g": g, "second": second}

    return {name: of(s) for name, s in surrogates.items()}


@pytest.fixture(scope="module")
def found():
    """On one grid, in float64 and in float32."""
    x = np.unique(
        np.concatenate(
            [np.linspace(-6, 6, 97), *(s * np.geomspace(1e-6, 300, 40) for s in (-1, 1))]
        )
    )
    with enable_x64():
        return x, *(
            jax.device_get(curves(ALL, jnp.asarray(x, dtype))) for dtype in ("float64", "float32")
        )


@pytest.mark.parametrize("name", TRUTH)
def test_against_numpy(name, found):
    x, exact, single = found
    _, slope, primal, knots = TRUTH[name]
    with np.errstate(over="ignore"):
        g, f = slope(x), primal(x)
    away = np.all([abs(x - knot) > 1e-3 for knot in (np.inf, *knots)], axis=0)
    h = 1e-5
    with np.errstate(over="ignore"):
        second = (slope(x + h) - slope(x - h)) / (2 * h)
    peak = abs(g).max()
    got = exact[name]
    np.testing.assert_allclose(got["g"], g, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(got["f"], f, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(got["second"][away], second[away], rtol=1e-5, atol=1e-7 * peak)
    x32 = x.astype(np.float32).astype(float)
    with np.errstate(over="ignore"):
        g32, f32 = slope(x32), primal(x32)
    for key, want in (("g", g32), ("f", f32)):
        assert single[name][key].dtype == np.float32
        relative = abs(single[name][key] - want) / np.maximum(abs(want), 1e-30)
        far = abs(want) < 1e-3 * abs(want).max()
        assert relative[~far].max(initial=0) < 1e-6, key
        assert relative[far & (abs(want) > 1e-30)].max(initial=0) < 1e-4, key


def test_a_factor_costs_one_rounding():
    x = jnp.linspace(-3, 3, 1001)
    for s in (Sigmoid(), InvSquareGrad()):
        scaled = (jnp.float32(0.3) * s).surrogate_grad(x)
        np.testing.assert_array_equal(scaled, np.float32(0.3) * np.asarray(s.surrogate_grad(x)))


@pytest.mark.slow
def test_the_primal_keeps_its_value_at_the_threshold():
    two = [
        0.3 * Sigmoid(),
        stretched(Arctan(), 3.0),
        truncated(Sigmoid(), 0.25),
        Sigmoid() + Arctan(),
        2 * (3 * Sigmoid()),
    ]
    assert [float(s.surrogate_fun(0.0)) for s in two] == [0.5] * 5
    none = [3 * LeakyRelu(), stretched(LeakyRelu(), 3.0), LeakyRelu() + LeakyRelu(0.5)]
    assert [float(s.surrogate_fun(0.0)) for s in none] == [0.0] * 3
    assert float((LeakyRelu() + Sigmoid()).surrogate_fun(0.0)) == 0.5
    assert float(shifted(Sigmoid(), 0.25).surrogate_fun(0.25)) == 0.5


SETTINGS = {
    "learnable": spikegrad.learnable,
    "bfloat16": functools.partial(spikegrad.keep_slope, dtype="bfloat16"),
    "soft": spikegrad.soft,
    "multi_spike": functools.partial(spikegrad.multi_spike, n=3),
}
OPERATIONS = {
    "scaled": lambda s: 0.3 * s,
    "from the right": lambda s: s * 0.3,
    "array": lambda s: jnp.array([0.5, 2.0]) * s,
    "numpy": lambda s: np.array([0.5, 2.0], np.float32) * s,
    "bounded": lambda s: spikegrad.bounded(0.5, 0.0, 1.0) * s,
    "added": lambda s: s + s,
    "shifted": lambda s: shifted(s, 0.5),
    "stretched": lambda s: stretched(s, 2.0),
    "truncated": lambda s: truncated(s, 2.0),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_settings_end_up_around_the_whole(operation):
    change, curve = OPERATIONS[operation], Sigmoid()
    for names in (["learnable"], ["bfloat16", "learnable"], ["soft", "learnable"], ["multi_spike"]):
        under = lambda s: functools.reduce(lambda s, name: SETTINGS[name](s), names, s)  # noqa: E731, B023
        wanted = under(change(curve))
        for got in (change(under(curve)), under(change(under(curve)))):
            assert got == wanted
            assert hash(got) == hash(wanted)
            assert repr(got) == repr(wanted)
            assert jax.tree.structure(got) == jax.tree.structure(wanted)
    whole = change(curve)
    if operation != "bounded":
        assert eval(repr(whole), NAMES) == whole
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert jax.tree.map(lambda leaf: leaf, whole) == whole
    assert isinstance(whole, Surrogate)


def test_traced_and_batched_numbers():
    @jax.jit
    def slope(factor, center, width):
        s = factor * shifted(stretched(truncated(Sigmoid(), 1.0), width), center)
        return s.surrogate_grad(0.75), jax.grad(
            lambda c: shifted(Sigmoid(), c).surrogate_grad(0.25)
        )(center)

    got, in_center = jax.vmap(slope)(
        jnp.array([0.5, 2.0]), jnp.array([0.5, -0.25]), jnp.array([2.0, 4.0])
    )
    np.testing.assert_allclose(got, [0.5 * logistic(0.125), 2 * logistic(0.25)], rtol=1e-6)
    h = 1e-5
    np.testing.assert_allclose(
        in_center,
        [(logistic(0.25 - c - h) - logistic(0.25 - c + h)) / (2 * h) for c in (0.5, -0.25)],
        rtol=1e-5,
    )


class Loud(Sigmoid):
    def __call__(self, x):
        return 2 * super().__call__(x)


class SlopeAlone(Surrogate):
    alpha: float = spikegrad.parameter(default=2.0, above=0)

    def surrogate_grad(self, x):
        return 1 / (1 + (self.alpha * x) ** 2)


class Written(Surrogate):
    def __init__(self):
        super().__init__()

    def surrogate_fun(self, x):
        return jnp.arctan(x)


S, ALONE = Sigmoid(), (shifted(SlopeAlone(), 1.0), Sigmoid() + 2 * SlopeAlone())
REFUSED = {
    "TypeError: *: factor must be a real number or array, got 'a'": lambda: "a" * S,
    "TypeError: *: factor must be a real number or array, got Arctan(alpha=1.0)": lambda: (
        S * Arctan()
    ),
    "ValueError: *: factor must be finite, got nan": lambda: np.nan * S,
    "TypeError: +: surrogate must be a Surrogate, got 1": lambda: S + 1,
    "ValueError: stretched: width must be > 0, got 0.0": lambda: stretched(S, 0),
    "ValueError: truncated: half_width must be > 0, got -1.0": lambda: truncated(S, -1),
    "ValueError: shifted: center of shape (2,) does not broadcast to x of shape (3,)": (
        lambda: shifted(S, np.ones(2))(jnp.ones(3))
    ),
    "TypeError: shifted: surrogate must be a Surrogate, got 'sigmoid'": lambda: shifted(
        "sigmoid", 1
    ),
    "TypeError: *: Loud must not override __call__, which would ignore settings": lambda: (
        2 * Loud()
    ),
    f"TypeError: +: {spikegrad.learnable(S)!r} and Arctan(alpha=1.0) have different settings. "
    f"Apply the settings": (lambda: spikegrad.learnable(S) + Arctan()),
    "TypeError: learnable: SlopeAlone must define surrogate_fun": lambda: spikegrad.learnable(
        ALONE[0]
    ),
    "TypeError: learnable: SlopeAlone must define": lambda: spikegrad.learnable(ALONE[1]),
    "NotImplementedError: SlopeAlone defines no surrogate_fun": lambda: ALONE[0].surrogate_fun(0.0),
    "NotImplementedError: SlopeAlone defines no": lambda: ALONE[1].surrogate_fun(0.0),
    "TypeError: learnable: Written has a custom __init__": lambda: spikegrad.learnable(
        2 * Written()
    ),
    "ValueError: *: factor of shape (3,) does not broadcast to x": lambda: (jnp.ones(3) * S)(
        jnp.ones(2)
    ),
    "ValueError: Sigmoid: alpha of shape (3,) does not broadcast to x": (
        lambda: shifted(Sigmoid(jnp.ones(3)), 1.0)(jnp.ones(2))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_compositions_that_are_refused(message):
    assert_raises(REFUSED[message], message)


def test_compositions_of_a_slope_or_a_primal_alone_have_a_gradient():
    assert np.isfinite(jax.jit(lambda x: [jax.grad(whole)(x) for whole in ALONE])(0.5)).all()
    assert float(jax.jit((2 * Written()).surrogate_grad)(0.0)) == 2


# --- every shape of the field: the formulas of the page, in its order, beside what it says that
# they are here

GIVEN = {
    "A": 0.75,
    "a": 0.25,
    "k": 3.0,
    "K": 5.0,
    "w": 0.5,
    "W": 1.0,
    "m": 0.5,
    "q": 2.5,
    "r": 3.5,
    "p": 0.1,
    "n": 4,
    "T": 1.5,
    "pi": np.pi,
}
A, a, k, K, w, W, m, q, r, p, n, T, _ = GIVEN.values()


def bell(x, m, w):
    return np.exp(-((x - m) ** 2) / (2 * w**2))


def density(x, m, w):
    return bell(x, m, w) / (w * np.sqrt(2 * np.pi))


def q_tail(x, q):
    return (1 + 2 * abs(x) / (q - 1)) ** -q


def to_multiple(x):
    return abs(x - T * np.maximum(np.round(x / T), 0))


SHAPES = [
    lambda x: 4 * A * sigma(k * x) * sigma(-k * x),
    lambda x: A * np.maximum(0, 1 - abs(x) / w),
    lambda x: A * np.exp(-k * abs(x)),
    lambda x: A / (1 + k * abs(x)) ** 2,
    lambda x: A / (1 + (k * x) ** 2),
    lambda x: A / (1 + k * abs(x)),
    lambda x: A * bell(x, 0, w),
    lambda x: A * q_tail(k * x, q),
    lambda x: (1 + (x / w) ** 2) ** -1.5,
    lambda x: np.minimum(1 / np.maximum(abs(x), 1e-9), A),
    lambda x: A * (1 - 0.28 * (k * x) ** 2) / (1 + 0.28 * (k * x) ** 2) ** 2,
    lambda x: A * (abs(x) <= w),
    lambda x: (abs(x) <= w) / (1 + k * abs(x)) ** 2,
    lambda x: (abs(x) <= 0.5) * k / (2 * np.tanh(k / 2)) / np.cosh(k * x) ** 2,
    np.ones_like,
    lambda x: np.where(x < 0, a, A),
    lambda x: A * (x >= -w),
    lambda x: 1 / (1 + k * np.maximum(-x, 0)) ** 2,
    lambda x: A * np.exp(k * np.minimum(x, 0)),
    lambda x: p / w * np.exp(np.minimum(x / w, 10)),
    lambda x: A * np.exp(-k * abs(x - 1)),
    lambda x: A * sigma(k * x),
    lambda x: np.where(x <= 0, a, 1 / np.maximum(x, 1)),
    lambda x: np.where(x < 0, k * sigma(k * x) * sigma(-k * x), A / (1 + abs(x))),
    lambda x: 1 + np.clip(k * x, -1, 1),
    lambda x: np.where(x < 0, A, -A),
    lambda x: A * bell(x, m, w),
    lambda x: A * bell(x, 0, w) + a * bell(x, m, W),
    lambda x: A * (1.15 * density(x, 0, w) - 0.15 * (density(x, w, 6 * w) + density(x, -w, 6 * w))),
    lambda x: A * q_tail(k * x, q) + a * q_tail(K * x, r),
    lambda x: 1 + 1 / np.cosh(k * x) ** 2,
    lambda x: 4 / T * sum(np.cos((2 * i - 1) * 2 * np.pi * x / T) for i in (1, 2, 3)),
    lambda x: np.exp(-to_multiple(x) / w) / T,
    lambda x: A * np.exp(-np.where(x < 0, 1, 2) * to_multiple(x) / w),
    lambda x: 1 / (1 + k * abs(x - np.clip(np.round(x), 0, n - 1))) ** 2,
    lambda x: 1.0 * ((x >= 0) & (x <= n)),
]


def test_every_shape_of_the_field():
    table = (ROOT / "docs" / "shapes.md").read_text()
    codes = re.findall(r"\| `([^`]+)` \|$", table, re.MULTILINE)
    assert len(codes) == len(SHAPES)
    here = [eval(code, {**NAMES, **vars(spikegrad.surrogates), **GIVEN}) for code in codes]
    x = np.concatenate(
        [np.linspace(-4, 4, 161) + 1e-3, [-10.0, 0.0, 5.0]]
    )  # off the edges, which differ elsewhere

    @jax.jit
    def slopes(surrogates, x):
        return [surrogate.surrogate_grad(x) for surrogate in surrogates]

    with enable_x64():
        got = jax.device_get(slopes(here, x))
    for code, slope, found in zip(codes, SHAPES, got, strict=True):
        np.testing.assert_allclose(found, slope(x), rtol=1e-12, atol=1e-13, err_msg=code)
