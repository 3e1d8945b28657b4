"""The function of each surrogate is its class, called in one go."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spikegrad
from spikegrad import Surrogate, parameter
from spikegrad.surrogates import functional

pytestmark = pytest.mark.oldest

X = jnp.linspace(-2.0, 2.0, 9)
NAMES = [name for name in spikegrad.names() if hasattr(spikegrad.surrogates, name)]
pairs = [(getattr(spikegrad.surrogates, name), type(spikegrad.get(name))) for name in NAMES]
every_pair = pytest.mark.parametrize(("function", "cls"), pairs, ids=NAMES)


def other_values(cls):
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    return {
        name: value + 1 if isinstance(value, int) else value + 0.75
        for name, value in defaults.items()
    }


def test_only_the_surrogates_of_braintools_have_one():
    classes = {type(spikegrad.get(name)).__name__ for name in spikegrad.names()}
    assert {type(spikegrad.get(name)).__name__ for name in NAMES} == classes & {*spikegrad.__all__}
    assert len(NAMES) == 18


@every_pair
def test_signature(function, cls):
    x, *rest = inspect.signature(function).parameters.values()
    assert (x.name, x.default) == ("x", inspect.Parameter.empty)
    assert rest == list(inspect.signature(cls).parameters.values())
    assert rest
    assert inspect.signature(function).return_annotation is jax.Array


@every_pair
def test_equal_to_the_class(function, cls):
    def slope(f):
        return jax.grad(lambda x: f(x).sum())(X)

    values = other_values(cls)
    others = list(values.values())

    @jax.jit
    def slopes():
        return {
            "default": (slope(function), cls().surrogate_grad(X)),
            "by keyword": (slope(lambda x: function(x, **values)), cls(**values).surrogate_grad(X)),
            "by position": (slope(lambda x: function(x, *others)), cls(*others).surrogate_grad(X)),
        }

    found = slopes()
    for way, (got, want) in found.items():
        np.testing.assert_allclose(
            got, want, rtol=3e-7, err_msg=way
        )  # XLA fuses a product and a sum, or does not
    assert not np.array_equal(found["default"][0], found["by keyword"][0])  # they do matter
    np.testing.assert_array_equal(function(X), cls()(X))
    np.testing.assert_array_equal(function(x=X, **values), cls(**values)(X))


def test_functional_of_a_users_class():
    class MyQSpike(Surrogate):
        """Mine."""

        beta: float = parameter(above=0)
        gamma: float = parameter(default=2.0)

        def surrogate_grad(self, x):
            return self.beta * self.gamma * x

    my_q_spike = functional(MyQSpike)
    assert my_q_spike.__name__ == "my_q_spike"
    assert list(inspect.signature(my_q_spike).parameters) == ["x", "beta", "gamma"]
    assert float(jax.grad(lambda x: my_q_spike(x, 3.0))(0.5)) == 3.0
    with pytest.raises(ValueError, match="MyQSpike: beta must be > 0, got -1"):
        my_q_spike(0.5, beta=-1)
