"""Every dtype in, the same dtype out, however parameters are given; and all numbers of a half
precision.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import enable_x64
from reference import DEFAULTS, RULE, every_half, standing, with_arrays

import spikegrad

pytestmark = pytest.mark.newest

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
    values = {
        k: PARAMETERS[kind](v) if k in case.numbers and k != "epsilon" else v
        for k, v in case.parameters.items()
    }
    return case.kind(**values)


def everything(surrogate, x, cotangent):
    """The spike, the curves and all first and second derivatives."""
    gradient = jax.grad(lambda x: surrogate(x).sum())
    spread = lambda value: jnp.broadcast_to(jnp.asarray(value, x.dtype), x.shape)  # noqa: E731
    pointwise = jax.tree.map(spread, with_arrays(surrogate))
    of_parameters, of_x = jax.grad(lambda s, x: s.surrogate_fun(x).sum(), (0, 1))(pointwise, x)
    return {
        "spike": surrogate(x),
        "primal": surrogate.surrogate_fun(x),
        "slope": surrogate.surrogate_grad(x),
        "gradient": jax.vjp(surrogate, x)[1](cotangent)[0],
        "tangent": jax.jvp(surrogate, (x,), (cotangent,))[1],
        "second": jax.grad(lambda x: gradient(x).sum())(x),
        "derivatives of the primal": [of_x, *jax.tree.leaves(of_parameters)],
    }


X = {dtype: every_half(dtype) for dtype in HALVES}
rng = np.random.default_rng(0)
# of many sizes, also too large and too small for a slope that has already been rounded
COTANGENTS = {
    d: np.ldexp(rng.normal(size=x.size), np.arange(x.size) % 26 - 15).astype(d)
    for d, x in X.items()
}


@pytest.mark.slow
@pytest.mark.parametrize("case", standing(DEFAULTS, RULE), ids=repr)
def test_half_precision_is_float64_rounded_once(case):
    """What is computed in float32 is off by so much, and then rounded: to the nearest number, but
    close to a tie.

    The gradient as well: the slope is not rounded before it meets the cotangent, nor lost where it
    is too small for the dtype alone.
    """
    # as float32 holds its parameters: constants of the program, and in bfloat16 arrays
    surrogate = jax.tree.map(lambda value: float(np.float32(value)), with_arrays(case.make()))
    arrays = jax.tree.map(np.float32, with_parameters(case, "float32 array"))

    @jax.jit
    def program(xs, cotangents, wide):
        found = {
            d: everything(arrays if d == "bfloat16" else surrogate, xs[d], cotangents[d])
            for d in HALVES
        }
        return found, {
            d: (surrogate.surrogate_fun(x), surrogate.surrogate_grad(x)) for d, x in wide.items()
        }

    with enable_x64():
        found, wide = jax.device_get(
            program(X, COTANGENTS, {dtype: x.astype(float) for dtype, x in X.items()})
        )
    for dtype in HALVES:
        x, cotangent, (primal, slope) = (
            X[dtype].astype(float),
            COTANGENTS[dtype].astype(float),
            wide[dtype],
        )
        np.testing.assert_array_equal(found[dtype]["spike"].astype(float), x >= 0)
        subnormal = (x != 0) & (np.abs(x) < np.finfo(np.float32).tiny)  # XLA takes them for 0
        for name, exact, factor in (
            ("primal", primal, 1.0),
            ("slope", slope, 1.0),
            ("gradient", slope, cotangent),
            ("tangent", slope, cotangent),
        ):
            peak = np.abs(exact[np.abs(x) <= 8]).max()
            error = np.where(np.abs(exact) >= peak / 1000, 1e-6, 2e-5) * np.abs(exact) + 1e-30
            error += (
                1e-6
                * peak
                * any(side.min() < 0 < side.max() for side in (exact[x < 0], exact[x > 0]))
            )
            with np.errstate(over="ignore"):
                ends = [
                    ((exact + sign * error) * factor).astype(dtype).astype(float)
                    for sign in (-1, 1)
                ]
            got = found[dtype][name].astype(float)
            wrong = ~subnormal & ~((np.minimum(*ends) <= got) & (got <= np.maximum(*ends)))
            assert not wrong.any(), (name, x[wrong][:8], got[wrong][:8], exact[wrong][:8])


@pytest.mark.parametrize(
    ("case", "dtype", "kind"),
    [
        pytest.param(
            case,
            dtype,
            kind,
            marks=[] if case.name in RULE and (i + j + k) % 3 == 0 else pytest.mark.every,
        )
        for i, case in enumerate(DEFAULTS)
        for j, dtype in enumerate(DTYPES)
        for k, kind in enumerate(list(PARAMETERS)[1:])
    ],
    ids=str,
)
def test_array_parameters_do_not_change_the_dtype(case, dtype, kind):
    with enable_x64():
        x = jax.ShapeDtypeStruct((2, 3), dtype)
        for out in jax.tree.leaves(
            jax.eval_shape(functools.partial(everything, with_parameters(case, kind)), x, x)
        ):
            assert out.dtype == dtype
            assert out.shape == (2, 3)
            assert not out.weak_type


@pytest.mark.parametrize(
    "x", [1, True, np.int8(-1), np.arange(-2, 2), np.array([True, False]), np.uint8([0, 3])]
)
@pytest.mark.parametrize("wide", [False, True])
def test_whole_numbers_become_the_default_float(x, wide):
    surrogate = spikegrad.Sigmoid()
    with enable_x64() if wide else jax.log_compiles(False):
        for value in (x, jnp.asarray(x)):
            for f in (
                surrogate,
                surrogate.surrogate_fun,
                surrogate.surrogate_grad,
                jax.jit(surrogate),
            ):
                got = f(value)
                assert got.dtype == (jnp.float64 if wide else jnp.float32)
                assert got.shape == np.shape(x)
        np.testing.assert_array_equal(surrogate(x), np.asarray(x).astype(float) >= 0)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_keeps_sixteen_bits_of_each_spike(dtype):
    surrogate, steps, neurons = spikegrad.Sigmoid(), 100, 32

    def loss(currents):
        def step(v, current):
            s = surrogate(v * jnp.asarray(0.9, dtype) + current)
            return v - s, s

        return jax.lax.scan(step, jnp.zeros(neurons, dtype), currents)[1].sum()

    report = spikegrad.reports.residual_report(loss, jnp.ones((steps, neurons), dtype))
    assert 2 * steps * neurons <= report.bytes < 2 * steps * neurons * 1.1
