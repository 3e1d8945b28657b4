"""``pure=True``: one compiled call outside ``jit``, for the class that states it and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spikegrad import Cell, Surrogate, learnable, parameter, shifted, unroll

X = jnp.linspace(-1.0, 1.0, 5)
RUNS = []
"""Python's runs of a formula, or of a step."""


class Pure(Surrogate, pure=True):
    alpha: float = parameter(default=1.0)

    def surrogate_grad(self, x):
        RUNS.append(x)
        return self.alpha / (1 + x * x)

    def surrogate_fun(self, x):
        RUNS.append(x)
        return self.alpha * jnp.arctan(x)


class Silent(Pure):
    """A subclass has other methods, so it must state it again."""


class Stated(Pure, pure=True):
    pass


class Holder(Surrogate, pure=True):
    surrogate: Surrogate = parameter(kind=Surrogate)

    def surrogate_grad(self, x):
        return self.surrogate.surrogate_grad(x)


def runs_again(make):
    """True if another object with other numbers runs Python again, which it then does correctly."""
    for n, alpha in enumerate((1.0, 2.0, 3.0)):
        slope = jax.grad(lambda x, alpha=alpha: make(alpha)(x).sum())(X)
        np.testing.assert_allclose(slope, alpha / (1 + X * X), rtol=1e-6)
        if n == 0:
            RUNS.clear()
    return bool(RUNS)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Pure, False),
        (Stated, False),
        (Silent, True),
        (lambda alpha: learnable(Pure(alpha)), False),
        (lambda alpha: learnable(Silent(alpha)), True),
        (lambda alpha: shifted(Pure(alpha), 0.0), False),
        (lambda alpha: Holder(Pure(alpha)), False),
        (lambda alpha: Holder(Silent(alpha)), True),
    ],
    ids=[
        "pure",
        "stated again",
        "subclass",
        "learnable",
        "learnable subclass",
        "composed",
        "holder",
        "of a subclass",
    ],
)
def test_only_pure_classes_of_pure_parts_run_once_for_all_numbers(make, expected):
    assert runs_again(make) == expected


@pytest.mark.parametrize("pure", [True, False])
def test_scan_of_a_pure_cell_is_compiled_once(pure):
    class Leaky(Cell, pure=pure):
        def integrate(self, v, current):
            RUNS.append(v)
            return v / 2 + current

        def fire(self, u):
            return u, u

    cell = Leaky()
    unroll(cell, X)
    RUNS.clear()
    unroll(cell, X)
    assert bool(RUNS) != pure


def test_an_object_that_changes_is_not_pure():
    with pytest.raises(
        TypeError, match=r"^Own: pure=True needs annotated parameters, got a custom __init__"
    ):

        class Own(Surrogate, pure=True):
            def __init__(self):
                super().__init__()
