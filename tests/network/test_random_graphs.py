"""Random graphs of ``benchmarks/random_graphs.py`` agree with a plain loop over time."""

import sys

import jax
import pytest
from conftest import ROOT, few

sys.path.insert(0, str(ROOT / "benchmarks"))
import random_graphs


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# By default: batch statistics with a mask, a gradient of a vmap of learnable spikes, a delayed read
# of a join over time in two calls, and NaN in the padding.
@pytest.mark.parametrize("seed", few([218, 222, 211, 49, *range(20)], 218, 222, 211, 49))
def test_values_and_gradients_are_those_of_a_loop(seed, x64):
    graph = random_graphs.Graph(seed)
    error, message = random_graphs.compare(graph)
    assert error <= 1, f"{graph.transform}, {graph.options}: {message}"
