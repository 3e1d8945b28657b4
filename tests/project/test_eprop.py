"""Pattern generation with e-prop: the losses that the test of NEST's e-prop neurons states."""

import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, few

sys.path.insert(0, str(ROOT / "benchmarks"))
import eprop as task

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("program", few(["forward", "backward"], "forward"))
def test_the_published_losses(x64, program):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        errors = task.losses(getattr(task, program), 5)
    np.testing.assert_allclose(errors, task.PUBLISHED, rtol=1e-12)
