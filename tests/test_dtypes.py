"""Every dtype in, the same dtype out; and every input the dtype has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import enable_x64
from reference import DEFAULTS, every_half

import spikegrad

every = pytest.mark.parametrize("case", DEFAULTS, ids=repr)
HALVES = ["float16", "bfloat16"]
DTYPES = [*HALVES, "float32", "float64"]
PARAMETERS = {
    "number": lambda value: value,
    "float16 array": jnp.float16,
    "bfloat16 array": jnp.bfloat16,
    "float32 array": jnp.float32,
    "NumPy array": lambda value: np.full(3, value),
}


def with_parameters(case, kind):
    values = {k: PARAMETERS[kind](v) if k in case.numbers and k != "epsilon" else v for k, v in case.parameters.items()}
    return getattr(spikegrad, case.name)(**values)


@pytest.mark.parametrize("kind", PARAMETERS)
@pytest.mark.parametrize("dtype", DTYPES)
@every
def test_everything_has_the_dtype_of_x(case, dtype, kind):
    with enable_x64():
        surrogate = with_parameters(case, kind)
        x = jax.ShapeDtypeStruct((2, 3), dtype)

        def everything(x):
            out, tangent = jax.jvp(surrogate, (x,), (x,))
            gradient = jax.grad(lambda x: surrogate(x).sum())(x)
            second = jax.grad(lambda x: jax.grad(lambda x: surrogate(x).sum())(x).sum())(x)
            return out, tangent, gradient, second, surrogate.surrogate_fun(x), surrogate.surrogate_grad(x)

        for out in jax.eval_shape(everything, x):
            assert out.dtype == dtype
            assert out.shape == (2, 3)
            assert not out.weak_type


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "number"), ("bfloat16", "float32 array")])
@every
def test_half_precision_is_single_precision_rounded_once(case, dtype, kind):
    surrogate = with_parameters(case, kind)
    x = jnp.asarray(every_half(dtype))
    wide = x.astype("float32")
    slope = jax.grad(lambda x: surrogate(x).sum())
    for f in (surrogate, surrogate.surrogate_fun, surrogate.surrogate_grad, slope):
        got = f(x)
        assert not jnp.isnan(got).any()
        np.testing.assert_array_equal(got, f(wide).astype(dtype))


def extremes(dtype):
    info = jnp.finfo(dtype)
    values = [0, info.tiny, info.tiny / 2, info.smallest_subnormal, 1, info.max / 2, info.max, np.inf]
    values = np.array([float(v) for v in values])
    return np.concatenate([values, -values]).astype(dtype)


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_are_finite_at_the_extremes(case, dtype):
    # the third derivative is not promised at infinity, nor the slope of a wave, which has no limit there
    with enable_x64():
        surrogate = case.make()
        x = jnp.asarray(np.concatenate([extremes(dtype), every_half(dtype) if dtype in HALVES else []], dtype=dtype))
        first = jax.grad(lambda x: surrogate(x).sum())
        second = jax.grad(lambda x: first(x).sum())
        for order, f in {"first": first, "second": second}.items():
            at = x[jnp.isfinite(x)] if case.signed and "Fourier" in case.name else x
            bad = at[~jnp.isfinite(f(at))]
            assert bad.size == 0, f"{order} derivative at {np.unique(np.asarray(bad))[:8]}"


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_primal_is_not_nan_at_the_extremes(case, dtype):
    with enable_x64():
        x = jnp.asarray(extremes(dtype))
        if "Fourier" in case.name:
            x = x[jnp.isfinite(x)]
        f = case.make().surrogate_fun(x)
        assert not jnp.isnan(f).any(), f"at {x[jnp.isnan(f)]}"


@jax.jit
def derivatives_of_the_primal(surrogate, x):
    """In x and in each parameter, at each point."""
    surrogate = jax.tree.map(lambda value: jnp.full(x.shape, value, x.dtype), surrogate)
    return jax.grad(lambda s, x: s.surrogate_fun(x).sum(), (1, 0))(surrogate, x)


@every
@pytest.mark.parametrize("at", ["finite", "infinite"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_of_the_primal_are_not_nan_at_the_extremes(case, dtype, at):
    # some have an infinite limit, such as x itself
    with enable_x64():
        x = extremes(dtype)
        x = x[np.isfinite(x.astype(float)) == (at == "finite")]
        if at == "infinite" and "Fourier" in case.name:
            pytest.skip("a wave has no limit")
        for got in jax.tree.leaves(derivatives_of_the_primal(case.make(), jnp.asarray(x))):
            assert not jnp.isnan(got).any(), f"at {x[np.asarray(jnp.isnan(got))]}"


@pytest.mark.parametrize("dtype", DTYPES)
@every
def test_nan_stays_nan(case, dtype):
    with enable_x64():
        x = jnp.array([1.0, jnp.nan, -1.0], dtype)
        surrogate = case.make()
        for f in (surrogate, jax.jit(surrogate), surrogate.surrogate_fun, surrogate.surrogate_grad):
            np.testing.assert_array_equal(jnp.isnan(f(x)), [False, True, False])


@pytest.mark.parametrize("x", [1, True, np.int8(-1), np.arange(-2, 2), np.array([True, False]), np.uint8([0, 3])])
@pytest.mark.parametrize("wide", [False, True])
def test_whole_numbers_become_the_default_float(x, wide):
    surrogate = spikegrad.Sigmoid()
    with enable_x64() if wide else jax.log_compiles(False):
        for value in (x, jnp.asarray(x)):
            for f in (surrogate, surrogate.surrogate_fun, surrogate.surrogate_grad, jax.jit(surrogate)):
                got = f(value)
                assert got.dtype == (jnp.float64 if wide else jnp.float32)
                assert got.shape == np.shape(x)
        np.testing.assert_array_equal(surrogate(x), np.asarray(x).astype(float) >= 0)


@pytest.mark.parametrize("x", [1j, np.complex64(1), np.ones(3, np.complex64), jnp.ones(3, jnp.complex64)])
@every
def test_complex_is_refused(case, x):
    surrogate = case.make()
    for f in (surrogate, surrogate.surrogate_fun, surrogate.surrogate_grad):
        with pytest.raises(TypeError, match=f"{case.name}: x must be real, got complex"):
            f(x)


@pytest.mark.parametrize("kind", PARAMETERS)
@pytest.mark.parametrize("dtype", HALVES)
def test_scan_with_a_half_precision_state(dtype, kind):
    surrogate = with_parameters(next(case for case in DEFAULTS if case.name == "Arctan"), kind)

    def loss(weight):
        def step(v, x):
            s = surrogate(v - 0.5)
            return (v - s) * jnp.asarray(0.9, dtype) + x * weight, s

        v, s = jax.lax.scan(step, jnp.zeros(3, dtype), jnp.ones((6, 3), dtype))
        return (v + s.sum(0)).sum()

    value, gradient = jax.value_and_grad(loss)(jnp.full(3, 0.3, dtype))
    tangent = jax.jvp(loss, (jnp.full(3, 0.3, dtype),), (jnp.ones(3, dtype),))[1]
    assert value.dtype == gradient.dtype == tangent.dtype == dtype
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(float(gradient.astype("float32").sum()), float(tangent), rtol=0.05)


def test_a_python_float_stays_a_python_float_in_precision():
    # not rounded to float32 on its way into a double-precision formula
    with enable_x64():
        got = spikegrad.ReluGrad(alpha=0.3, width=1.0).surrogate_grad(jnp.float64(0.0))
        assert float(got) == 0.3


@pytest.mark.parametrize("dtype", HALVES)
@every
def test_the_gradient_in_half_precision_is_rounded_once(case, dtype):
    # the slope is not rounded before it meets the cotangent, nor lost where it is too small for the dtype alone
    info = jnp.finfo(dtype)
    with enable_x64():
        surrogate = jax.tree.map(lambda value: float(np.float32(value)), case.make())
        x = jnp.asarray(every_half(dtype))
        if "Fourier" in case.name:
            x = x[jnp.abs(x) < 1e6]  # beyond, float32 has no phase
        spread = np.ldexp(np.random.default_rng(0).normal(size=x.size), np.arange(x.size) % 26 - 15)
        cotangent = jnp.asarray(spread, dtype)
        slope, factor = np.asarray(surrogate.surrogate_grad(x.astype(float))), np.asarray(cotangent, float)
        got = jax.vjp(surrogate, x)[1](cotangent)[0], jax.jvp(surrogate, (x,), (cotangent,))[1]
    exact = slope * factor
    exponent = np.maximum(np.frexp(exact)[1] - 1, int(info.minexp))
    half = np.ldexp(0.5, exponent - info.nmant)
    of_float32 = 2e-5 * np.abs(exact) + 1e-6 * np.abs(slope).max() * np.abs(factor) * case.signed
    for gradient in got:
        error = np.abs(np.asarray(gradient, float) - exact)
        np.testing.assert_array_less(np.where(np.abs(slope) < 1e-30, 0, error), half + of_float32)


def test_a_slope_below_the_smallest_float16_is_not_lost_on_a_scaled_loss():
    surrogate, x = spikegrad.Sigmoid(4.0), jnp.float16(-5)
    assert float(surrogate.surrogate_grad(x)) == 0
    scaled = jax.grad(lambda x: surrogate(x) * jnp.float16(2**15))(x)
    np.testing.assert_allclose(float(scaled), 2**15 * 4 * np.exp(-20), rtol=2**-10)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_keeps_sixteen_bits_of_each_spike(dtype):
    surrogate, steps, neurons = spikegrad.Sigmoid(), 100, 32

    def loss(currents):
        def step(v, current):
            s = surrogate(v * jnp.asarray(0.9, dtype) + current)
            return v - s, s

        return jax.lax.scan(step, jnp.zeros(neurons, dtype), currents)[1].sum()

    report = spikegrad.residual_report(loss, jnp.ones((steps, neurons), dtype))
    assert 2 * steps * neurons <= report.bytes < 2 * steps * neurons * 1.1


def test_slope_is_cast_to_x():
    x = jnp.array([0.5, -0.5], "bfloat16")
    got = jax.grad(lambda x: spikegrad.spike(x, jnp.float32(0.1) * jnp.ones(2)).sum())(x)
    assert got.dtype == "bfloat16"
