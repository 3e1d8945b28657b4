"""A slope kept in fewer bits: the same spikes, a rounded gradient, a smaller residual."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import DEFAULTS, RULE, standing

from spikegrad import Sigmoid, keep_slope

pytestmark = pytest.mark.oldest

OPTIMISED = True
X = jnp.linspace(-3, 3, 241)
DTYPES = ("bfloat16", "float16", "float8_e5m2", "float8_e4m3fn")


def slope(surrogate, x):
    return jax.vmap(jax.grad(surrogate))(x)


@pytest.mark.parametrize("case", standing(DEFAULTS, RULE), ids=repr)
def test_spikes_are_the_same_and_the_gradient_is_within_a_rounding(case):
    surrogate = case.make()
    fires = {dtype: keep_slope(surrogate, dtype) for dtype in DTYPES}

    @jax.jit
    def curves():
        return {
            dtype: (fire(X), slope(fire, X)) for dtype, fire in fires.items()
        }, surrogate.surrogate_grad(X)

    found, exact = curves()
    for dtype, (spikes, got) in found.items():
        np.testing.assert_array_equal(spikes, surrogate(X))
        assert got.dtype == X.dtype
        least = float(jnp.finfo(dtype).smallest_subnormal)
        fits = np.abs(exact) <= float(jnp.finfo(dtype).max)
        np.testing.assert_allclose(
            got[fits], exact[fits], rtol=float(jnp.finfo(dtype).eps) / 2, atol=least, err_msg=dtype
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "share"), [("bfloat16", 0.55), ("float8_e5m2", 0.8), ("float8_e4m3fn", 0.8)]
)
def test_a_scan_keeps_less(dtype, share):
    if dtype == "bfloat16" and jax.__version_info__ < (0, 12):
        pytest.skip("XLA before that of JAX 0.12 keeps a float32 copy beside it")
    steps, neurons = 200, 1024

    def bytes_of(surrogate):
        def loss(weight, currents):
            def step(v, current):
                v = 0.9 * v + current * weight
                s = surrogate(v - 1)
                return v - s, s

            return jax.lax.scan(step, jnp.zeros(neurons), currents)[1].mean()

        arguments = jnp.ones(neurons), jnp.ones((steps, neurons))
        return (
            jax.jit(jax.grad(loss)).lower(*arguments).compile().memory_analysis().temp_size_in_bytes
        )

    assert bytes_of(keep_slope(Sigmoid(), dtype)) <= share * bytes_of(Sigmoid())
