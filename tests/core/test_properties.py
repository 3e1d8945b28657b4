"""Whatever the parameters, over twelve decades, and whatever the input, over the whole range of
float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from reference import DEFAULTS, SIGMOIDAL, standing

INPUTS = st.lists(
    st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-38, -1e-38]),
    min_size=16,
    max_size=16,
)
# from 1e-6 to 1e6, both signs where the domain has both
SCALES = st.floats(-6, 6).map(lambda decade: float(np.float32(10.0**decade)))
SIGNED = st.tuples(SCALES, st.sampled_from([-1.0, 1.0])).map(lambda pair: pair[0] * pair[1])


ABOVE_ONE = SCALES.map(lambda value: float(np.float32(1 + max(value, 1e-3))))
WITHIN = {"> 0": SCALES, ">= 0": SCALES, "> 1": ABOVE_ONE}


def parameters(case):
    return st.fixed_dictionaries(
        {name: WITHIN.get(case.row.domain.get(name), SIGNED) for name in case.numbers}
    )


@functools.partial(jax.jit, static_argnums=0)
def everything(kind, given, x):
    """Step, primal, slope, second derivative, and the derivatives of primal and slope in each
    parameter.
    """
    surrogate = kind(**given)
    slope, second = jax.jvp(surrogate.surrogate_grad, (x,), (jnp.ones_like(x),))
    each = jax.tree.map(lambda value: jnp.broadcast_to(value, x.shape), given)
    of_primal = jax.grad(lambda given: kind(**given).surrogate_fun(x).sum())(each)
    of_slope = jax.grad(lambda given: kind(**given).surrogate_grad(x).sum())(each)
    return surrogate(x), surrogate.surrogate_fun(x), slope, second, of_primal, of_slope


@pytest.mark.parametrize("case", standing(DEFAULTS), ids=repr)
def test_values_are_finite_and_within_bounds(case, request):
    never_falls = not case.signed and set(case.numbers) <= set(case.row.domain)

    @settings(max_examples=1000 if request.config.getoption("every") else 30, deadline=None)
    @given(parameters(case), INPUTS)
    def check(given, x):
        x = np.array(x, np.float32)
        x = np.where(
            np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x
        )  # as XLA on CPU takes them
        numbers = {name: jnp.float32(value) for name, value in given.items()}
        step, primal, slope, second, of_primal, of_slope = jax.device_get(
            everything(case.kind, numbers, x)
        )
        np.testing.assert_array_equal(step, x >= 0)
        for name, value in {"primal": primal, "slope": slope, "second": second}.items():
            assert not np.isnan(value).any(), (name, value)
        for name, value in {"primal": of_primal, "slope": of_slope}.items():
            for parameter, derivative in value.items():
                assert not np.isnan(derivative).any(), (name, parameter, derivative)
        assert np.isfinite(slope).all(), slope
        if never_falls:
            assert (slope >= 0).all()
            rise = np.diff(
                np.where(np.isfinite(primal), primal, np.sign(x) * 3e38)[np.argsort(x)].astype(
                    float
                )
            )
            assert (rise >= -1e-6 * np.abs(primal).max()).all(), "the primal falls"
        if SIGMOIDAL in case.row.traits:
            assert ((primal >= 0) & (primal <= 1)).all()

    check()
