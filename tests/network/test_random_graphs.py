"""Random graphs of ``benchmarks/random_graphs.py`` agree with a plain loop over time."""

import sys

import pytest
from conftest import ROOT, few

sys.path.insert(0, str(ROOT / "benchmarks"))
import random_graphs

pytestmark = pytest.mark.usefixtures("default_promotion")


# By default small graphs, which have layers in each mode, and each transform, form of weights and part of an activity,
# with masks, NaN in padding, truncation, states and two calls.
SEEDS = 279, 54, 183, 483, 152, 71, 0


@pytest.mark.parametrize("seed", few(dict.fromkeys([*SEEDS, 298, 310, 37, 129, 211, 218, 222, *range(60)]), *SEEDS))
def test_values_and_gradients_are_those_of_a_loop(seed, x64):
    graph = random_graphs.Graph(seed)
    error, message = random_graphs.compare(graph)
    assert error <= 1, f"{graph.transform}, {graph.options}: {message}"
