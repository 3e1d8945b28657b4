"""Random graphs of ``benchmarks/random_graphs.py`` agree with a plain loop over time."""

import functools
import sys

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, few
from networks import assert_close

sys.path.insert(0, str(ROOT / "benchmarks"))
import random_graphs

pytestmark = pytest.mark.usefixtures("default_promotion")


# Small graphs, which have layers in each mode, and each transform, form of weights and part of an
# activity, with masks, NaN in padding, truncation, states and two calls.
SEEDS = 279, 54, 183, 483, 152, 71, 0
BY_DEFAULT = 483, 0


@pytest.mark.parametrize(
    "seed",
    few(
        dict.fromkeys([*SEEDS, 298, 310, 37, 129, 211, 218, 222, *range(60)]),
        *BY_DEFAULT,
        ci=SEEDS,
    ),
)
def test_values_and_gradients_are_those_of_a_loop(seed, x64):
    graph = random_graphs.Graph(seed)
    error, message = random_graphs.compare(graph)
    assert error <= 1, f"{graph.transform}, {graph.options}: {message}"


@pytest.mark.ci
@pytest.mark.every  # by default those of test_orders.py
@pytest.mark.parametrize("seed", [155, 380, 410, 528])
def test_second_derivatives_are_those_of_a_loop(seed, x64):
    """The gradient of the gradient times a direction, in modes exact, scan and recompute, with
    masks and truncation.
    """
    graph = random_graphs.Graph(seed)
    leaves, structure = jax.tree.flatten(graph.members[0])
    floats = {n: leaf for n, leaf in enumerate(leaves) if random_graphs.is_float(leaf)}

    def along(run):
        def value(trained):
            arrays = structure.unflatten([trained.get(n, leaf) for n, leaf in enumerate(leaves)])
            return random_graphs.loss(run(graph, arrays))

        def directional(trained):
            slopes = jax.tree.leaves(jax.grad(value)(trained))
            return sum(
                jnp.vdot(slope, jnp.sin(jnp.arange(slope.size) + 1).reshape(slope.shape))
                for slope in slopes
            )

        return jax.grad(directional)(floats)

    got = jax.jit(lambda: along(functools.partial(random_graphs.by_network, **graph.options)))()
    assert_close(got, along(random_graphs.by_loop), 1e-9, zero=True)
