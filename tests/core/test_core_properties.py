"""Properties of the gradient rule, of spike types within a cell, and of numbers, that hold for any
curve.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import RULE

from spikegrad import (
    LIF,
    AdaptiveLIF,
    LeakyReadout,
    Surrogate,
    SynapticLIF,
    get,
    measure,
    multi_spike,
    names,
    rescaled,
    signed,
    surrogates,
)


class Straight(Surrogate):
    """A slope and a primal that return what they are given."""

    def surrogate_fun(self, x):
        return x

    def surrogate_grad(self, x):
        return x


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_formulas_are_given_finite_numbers_of_at_least_32_bits(dtype, x64):
    largest = np.asarray(jnp.finfo(jnp.float32 if dtype.endswith("16") else dtype).max, np.float64)
    given = []

    class Looking(Straight):
        def surrogate_grad(self, x):
            given.append(x)
            return x

    x = jnp.array([-np.inf, -1.5, 0.0, 1.5, np.inf], dtype)
    for curve in (Looking().surrogate_grad, Straight().surrogate_fun):
        out = curve(x)
        assert out.dtype == dtype
        np.testing.assert_array_equal(out[1:-1], x[1:-1])
        assert out[0] == -out[-1] < 0
    (seen,) = given
    assert seen.dtype == ("float32" if dtype.endswith("16") else dtype)
    np.testing.assert_array_equal(np.asarray(seen, np.float64), [-largest, -1.5, 0.0, 1.5, largest])


@pytest.mark.parametrize("own", [1.0, 0.6, "array"])
@pytest.mark.parametrize("kind", ["multi_spike", "signed"])
def test_spike_types_scale_with_the_threshold_of_the_cell(kind, own, x64):
    """In value and gradient, whichever of the two thresholds is an array."""
    theta = np.array([0.5, 1.0, 1.7])
    own = np.array([0.4, 1.0, 1.3]) if own == "array" else own
    t = np.broadcast_to(own, (3,))[None]
    curve = surrogates.PiecewiseQuadratic()
    fire = multi_spike(curve, 3, own) if kind == "multi_spike" else signed(curve, own)
    u = np.linspace(-4.0, 6.0, 101)[:, None] + [0.011, 0.012, 0.013]

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def run(theta, u):
        spikes = LIF(threshold=theta, surrogate=fire, reset="none").fire(u)[1]
        return spikes.sum(), spikes

    distance, unit = u - theta[None], t * theta[None]
    g = lambda x: np.asarray(curve.surrogate_grad(x))  # noqa: E731
    if kind == "multi_spike":
        places = [distance - k * unit for k in range(3)]
        value = sum((x >= 0).astype(float) for x in places)
        in_u = sum(map(g, places))
        in_theta = -sum((1 + k * t) * g(x) for k, x in enumerate(places))
    else:
        mirrored = -distance - 2 * unit
        value = (distance >= 0).astype(float) - (mirrored >= 0)
        in_u = g(distance) + g(mirrored)
        in_theta = -in_u + 2 * t * g(mirrored)
    slopes, spikes = run(theta, u)
    np.testing.assert_array_equal(spikes, value)
    np.testing.assert_allclose(slopes[1], in_u, atol=1e-12)
    np.testing.assert_allclose(slopes[0], in_theta.sum(0), atol=1e-10)


@pytest.mark.parametrize("name", RULE)
@pytest.mark.parametrize("factor", [0.3, -2.0])
def test_measures_of_a_product_and_of_a_mirror(name, factor):
    """A factor scales peak and area with its sign, and nothing else; a slope is symmetric or it is
    not.
    """
    curve = getattr(surrogates, name)()
    found, scaled = measure(curve), measure(factor * curve)
    np.testing.assert_allclose(
        (scaled.peak, scaled.area), (factor * found.peak, factor * found.area), rtol=1e-9
    )
    np.testing.assert_allclose(
        (scaled.half_width, *scaled.support), (found.half_width, *found.support), rtol=1e-9
    )
    assert scaled.symmetric == found.symmetric
    wanted = measure(rescaled(factor * curve, peak=1.5, half_width=0.7))
    np.testing.assert_allclose(
        (wanted.peak, wanted.half_width, wanted.at), (1.5, 0.7, found.at), rtol=1e-6
    )


RECORDS = [LIF(), SynapticLIF(), AdaptiveLIF(), LeakyReadout(), *map(get, names())]


def test_parameters_take_their_closed_bounds_and_no_open_one():
    checked = 0
    for record in RECORDS:
        for name, domain in type(record)._domains.items():
            if not domain.number:
                continue
            sides = (
                (domain.above, True, -1),
                (domain.at_least, False, -1),
                (domain.at_most, False, 1),
            )
            for bound, is_open, outwards in sides:
                if bound is None:
                    continue
                beyond = np.nextafter(bound, outwards * np.inf)
                for value in (bound, np.array([bound, bound]), beyond):
                    if is_open or value is beyond:
                        with pytest.raises(ValueError, match=f": {name} must be (>|<)"):
                            dataclasses.replace(record, **{name: value})
                    else:
                        assert np.all(
                            getattr(dataclasses.replace(record, **{name: value}), name) == bound
                        )
                    checked += 1
    assert checked > 60


def test_records_are_equal_if_type_dtype_shape_and_values_are():
    """The bytes of zeros do not show their dtype or shape."""
    makers = [
        lambda array=array, dtype=dtype, shape=shape: array(shape, dtype)
        for array in (
            lambda *args: jnp.asarray(np.zeros(*args)),
            np.zeros,
            lambda *args: jnp.asarray(np.ones(*args)),
        )
        for dtype in ("float16", "bfloat16", "float32")
        for shape in ((2,), (1, 2))
    ]
    for make, other in itertools.product(makers, makers):
        a, b = LIF(threshold=make()), LIF(threshold=other())
        one, two = np.asarray(make()), np.asarray(other())
        same = one.dtype == two.dtype and one.shape == two.shape and bool((one == two).all())
        assert (a == b) == same
        assert not same or hash(a) == hash(b)
    assert LIF(0.5) != SynapticLIF(0.5) != LIF(jnp.float32(0.5)) != LIF(0.5)


def test_waves_are_right_at_any_number_of_periods():
    """Beyond 2^12 periods their number has more bits than a product in float32 can hold beside a
    period's.
    """
    rng = np.random.default_rng(0)
    for period in np.float32([3.25, 0.7, 1.1e-3, 57.3]):
        x = (np.exp2(rng.uniform(0, 23.9, 4000)) * rng.choice([-1, 1], 4000) * period).astype(
            np.float32
        )
        exact = np.float64(x) / np.float64(period)  # both have 24 bits
        rest = (np.float64(x) - np.round(exact) * np.float64(period)) / np.float64(period)
        wave = surrogates.SquarewaveFourierSeries(1, jnp.asarray(period)).surrogate_grad(
            jnp.asarray(x)
        )
        np.testing.assert_allclose(wave * period / 4, np.cos(2 * np.pi * rest), atol=5e-6)
