"""Settings of the rule: each does what it says whatever stands beside it, in every order, or says
why it cannot.
"""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from reference import with_arrays

from spikegrad import (
    S2NN,
    Arctan,
    GaussianGrad,
    Sigmoid,
    SquarewaveFourierSeries,
    Surrogate,
    keep_slope,
    learnable,
    parameter,
)

X = np.float32([-2.0, -0.75, -0.125, 0.0, 0.375, 1.5])
SPIKES = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


class Declared(Surrogate):
    """Both curves of tanh, of a width and a height."""

    alpha: float = parameter(default=2.0, above=0)
    height: float = parameter(default=0.5)

    def surrogate_fun(self, x):
        return self.height * jnp.tanh(self.alpha * x)

    def surrogate_grad(self, x):
        return self.height * self.alpha / jnp.cosh(self.alpha * x) ** 2


class SlopeAlone(Surrogate):
    alpha: float = parameter(default=2.0, above=0)

    def surrogate_grad(self, x):
        return 1 / (1 + (self.alpha * x) ** 2)


class PrimalAlone(Surrogate):
    alpha: float = parameter(default=2.0, above=0)

    def surrogate_fun(self, x):
        return jnp.arctan(self.alpha * x)


class Written(Surrogate):
    """With its own ``__init__``."""

    def __init__(self, alpha=2.0):
        super().__init__()
        self.alpha = alpha

    def surrogate_fun(self, x):
        return jnp.arctan(self.alpha * x)


CURVES = [
    Sigmoid(),
    GaussianGrad(0.25, 0.75),
    Arctan(jnp.full(6, 2.0)),
    SquarewaveFourierSeries(3),
    S2NN(),
    Declared(),
    Declared(jnp.full(6, 2.0), 0.5),
    SlopeAlone(),
    PrimalAlone(),
    Written(),
]
BY_DEFAULT = [curve for curve in CURVES if type(curve) in (Sigmoid, SlopeAlone, Written)] + [
    CURVES[5]
]
every_curve = pytest.mark.parametrize("curve", few(CURVES, *BY_DEFAULT), ids=repr)
DTYPES = ("bfloat16", "float8_e5m2", "float32")  # the last is not narrower than X
SETTINGS = {
    "learnable": learnable,
    **{dtype: functools.partial(keep_slope, dtype=dtype) for dtype in DTYPES},
}
PAIRS_AND_TRIPLES = [*itertools.product(SETTINGS, repeat=2), *itertools.product(SETTINGS, repeat=3)]


def under(settings, curve):
    return functools.reduce(lambda surrogate, name: SETTINGS[name](surrogate), settings, curve)


def measured(surrogate, x):
    """Value, slope, second derivative, and the gradient in each parameter that JAX sees."""
    total = lambda surrogate, x: surrogate(x).sum()  # noqa: E731
    slope = lambda x: jax.grad(total, 1)(surrogate, x)  # noqa: E731
    in_parameters = jax.tree.leaves(jax.grad(total)(surrogate, x)) if seen_by_jax(surrogate) else []
    return surrogate(x), slope(x), jax.jvp(slope, (x,), (jnp.ones_like(x),))[1], in_parameters


measured_compiled = jax.jit(measured)


def seen_by_jax(surrogate):
    return not isinstance(surrogate, Written)


def contradictions(settings, curve):
    """What may be said of settings that cannot be: one line for each reason."""
    if len(set(settings) - {"learnable"}) > 1:
        yield r"^keep_slope: dtype is already \w+, got \w+ as a second dtype. Call keep_slope once$"
    if "learnable" in settings and not seen_by_jax(curve):
        yield r"^learnable: \w+ has a custom __init__"
    if "learnable" in settings and isinstance(curve, SlopeAlone):
        yield r"^learnable: SlopeAlone must define surrogate_fun"


def methods(curve):
    """The slope, its derivative, and the primal's derivative in each parameter: by the two methods
    of a curve.
    """
    has_parameters = seen_by_jax(curve) and not isinstance(curve, SlopeAlone)

    @jax.jit
    def run(curve):
        in_parameters = (
            jax.grad(lambda c: c.surrogate_fun(X).sum())(curve) if has_parameters else None
        )
        return *jax.jvp(curve.surrogate_grad, (X,), (jnp.ones_like(X),)), jax.tree.leaves(
            in_parameters
        )

    return run(with_arrays(curve) if has_parameters else curve)


def check(curve, settings, got, expected):
    """Against methods that know of no setting."""
    value, slope, second, in_parameters = map(functools.partial(jax.tree.map, np.asarray), got)
    want_slope, want_second, wanted = expected
    dtype = next((jnp.dtype(name) for name in settings if name in DTYPES[:2]), None)
    error = 1e-5 if dtype is None else float(jnp.finfo(dtype).eps)
    assert value.tolist() == SPIKES
    for one, want in ((slope, want_slope), (second, want_second)):
        np.testing.assert_allclose(one, want, rtol=error, atol=1e-4 if dtype else 1e-6)
    if dtype is not None:  # kept in this dtype, and in no other
        np.testing.assert_array_equal(slope, slope.astype(dtype).astype(np.float32))
    if not seen_by_jax(curve):
        assert not in_parameters
        return
    for i, leaf in enumerate(in_parameters):
        np.testing.assert_allclose(
            leaf, wanted[i] if "learnable" in settings else 0, rtol=2e-5, atol=1e-6
        )


@every_curve
def test_settings_commute_or_raise(curve):
    expected, checked = methods(curve), set()
    for settings in PAIRS_AND_TRIPLES:
        reasons = "|".join(contradictions(settings, curve))
        if reasons:
            with pytest.raises(TypeError, match=reasons):
                under(settings, curve)
            continue
        surrogate, once = (under(each, curve) for each in (settings, sorted(set(settings))))
        assert surrogate == once
        assert hash(surrogate) == hash(once)
        assert repr(surrogate) == repr(once)
        assert jax.tree.structure(surrogate) == jax.tree.structure(once)
        if surrogate not in checked:
            check(curve, settings, measured_compiled(surrogate, X), expected)
            checked.add(surrogate)


def test_un_jitted_as_jitted():
    settings = ["bfloat16", "learnable"]
    check(Sigmoid(), settings, measured(under(settings, Sigmoid()), X), methods(Sigmoid()))


@pytest.mark.slow
def test_no_setting_is_lost_inside_a_curve():
    class Scaled(Surrogate):
        surrogate: Surrogate = parameter(kind=Surrogate)
        factor: float = parameter(default=2.0)

        def surrogate_fun(self, x):
            return self.factor * self.surrogate.surrogate_fun(x)

        def surrogate_grad(self, x):
            return self.factor * self.surrogate.surrogate_grad(x)

    for inner in (learnable(Arctan()), keep_slope(Arctan(), "bfloat16")):
        message = (
            f"Scaled: surrogate must be a curve without settings, got {inner!r}. Apply the settings"
        )
        with pytest.raises(TypeError, match="^" + re.escape(message)):
            Scaled(inner)
    gradient = jax.grad(lambda s: s(X).sum())(learnable(Scaled(Arctan())))
    assert gradient.surrogate.surrogate.alpha != 0
    assert gradient.surrogate.factor != 0


def test_a_class_that_calls_itself_takes_no_setting():
    class Loud(Sigmoid):
        def __call__(self, x):
            return 2 * super().__call__(x)

    for setting in SETTINGS.values():
        with pytest.raises(
            TypeError, match=r": Loud must not override __call__, which would ignore settings$"
        ):
            setting(Loud())
