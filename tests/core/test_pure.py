"""``pure=True``: one compiled call outside ``jit``, for the class that says so and no other."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spikegrad
from spikegrad import Cell, Sigmoid, Surrogate, learnable, parameter
from spikegrad._struct import is_pure

X = jnp.linspace(-1.0, 1.0, 5)


def counting(**keywords):
    """A class that counts how often its formula is run by Python."""

    class Counting(Surrogate, **keywords):
        alpha: float = parameter(default=1.0)
        runs: ClassVar[list] = []

        def surrogate_grad(self, x):
            self.runs.append(x)
            return self.alpha / (1 + x * x)

        def surrogate_fun(self, x):
            self.runs.append(x)
            return self.alpha * jnp.arctan(x)

    return Counting


def slope(surrogate):
    return jax.grad(lambda x: surrogate(x).sum())(X)


@pytest.mark.parametrize("wrap", [lambda s: s, learnable], ids=["alone", "learnable"])
def test_a_pure_class_is_run_once_for_all_numbers(wrap):
    pure = counting(pure=True)
    slope(wrap(pure(1.0)))
    traced = len(pure.runs)
    assert traced
    for alpha in (2.0, 3.0):
        np.testing.assert_allclose(slope(wrap(pure(alpha))), alpha / (1 + X * X), rtol=1e-6)
    assert len(pure.runs) == traced


def test_any_other_class_is_run_every_time():
    other = counting()
    runs = []
    for _ in range(3):
        slope(other())
        runs.append(len(other.runs))
    assert runs[0] < runs[1] < runs[2]


def test_pure_is_not_inherited():
    pure = counting(pure=True)

    class Silent(pure):
        pass

    class Stated(pure, pure=True):
        pass

    assert [is_pure(cls) for cls in (pure, Silent, Stated)] == [True, False, True]
    assert [is_pure(cls()) for cls in (pure, Silent, Stated)] == [True, False, True]


def test_an_object_is_as_pure_as_what_it_holds():
    class Holder(Surrogate, pure=True):
        surrogate: Surrogate = parameter(kind=Surrogate)

        def surrogate_grad(self, x):
            return self.surrogate.surrogate_grad(x)

    assert is_pure(Holder)
    assert is_pure(Holder(Sigmoid()))
    assert not is_pure(Holder(counting()()))
    assert is_pure(learnable(Sigmoid()))
    assert not is_pure(learnable(counting()()))


def test_every_built_in_surrogate_is_pure():
    assert all(is_pure(spikegrad.get(name)) for name in spikegrad.names())
    assert not is_pure(Surrogate)
    assert not is_pure(jnp.tanh)
    assert not is_pure(object)


def test_cell_can_be_pure():
    class Mine(Cell, pure=True):
        pass

    class Other(Cell):
        pass

    assert is_pure(Mine())
    assert not is_pure(Other())


def test_an_object_that_changes_is_not_pure():
    with pytest.raises(TypeError, match=r"^Own: pure=True needs annotated parameters, got a custom __init__"):

        class Own(Surrogate, pure=True):
            def __init__(self):
                super().__init__()
