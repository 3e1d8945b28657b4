"""No surrogate is less accurate than is published, by the harness of the published table."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from reference import DEFAULTS, RULE, every_half, standing

sys.path.insert(0, str(ROOT / "benchmarks"))
from accuracy import HALF, QUANTITIES, TARGETS, against_float64, against_truth, sample

OPTIMISED = True


def exceeded(dtype, worst):
    return {
        key: float(worst[key]) for key, most in TARGETS[dtype].items() if not worst[key] <= most
    }


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", standing(DEFAULTS, RULE), ids=repr)
def test_every_number_of_sixteen_bits_and_every_exponent_of_single_precision(case):
    xs = {dtype: jnp.asarray(every_half(dtype)) for dtype in HALF} | {
        "float32": single_precision(case)
    }
    for quantity, found in against_float64(case, tuple(QUANTITIES), *xs.values()).items():
        for dtype, worst in zip(xs, found, strict=True):
            assert not exceeded(dtype, worst), (quantity, dtype, float(worst["at"]))


def single_precision(case):
    x = sample(case, np.float32, 10)
    return jnp.asarray(np.pad(x, (0, 8192 - x.size), mode="edge"))  # one shape for all


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", standing(DEFAULTS, RULE), ids=repr)
def test_double_precision_against_arbitrary_precision(case):
    x = sample(case, np.float64, 1)
    x = x[:: max(1, x.size // 300)]  # the whole sample is the benchmark's
    for quantity in QUANTITIES:
        worst = against_truth(case, quantity, x)
        assert not exceeded("float64", worst), (quantity, float(worst["at"]))
