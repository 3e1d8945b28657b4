"""The function of each surrogate is its class, called in one go."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import RULE

import spikegrad
from spikegrad import Surrogate, parameter
from spikegrad.surrogates import functional

X = jnp.linspace(-2.0, 2.0, 9)
NAMES = [name for name in spikegrad.names() if hasattr(spikegrad.surrogates, name)]
pairs = [(getattr(spikegrad.surrogates, name), type(spikegrad.get(name))) for name in NAMES]
every_pair = pytest.mark.parametrize(("function", "cls"), pairs, ids=NAMES)


def other_values(cls):
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    return {name: value + 1 if isinstance(value, int) else value + 0.75 for name, value in defaults.items()}


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
def test_name_and_documentation(function, cls):
    name = function.__name__
    assert getattr(spikegrad.surrogates, name) is function
    assert (function.__qualname__, function.__module__) == (name, cls.__module__)
    assert f":class:`{cls.__name__}`" in inspect.getdoc(function)
    assert f"``{name}(x, ...)``" in inspect.getdoc(function)


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
        np.testing.assert_allclose(got, want, rtol=3e-7, err_msg=way)  # XLA fuses a product and a sum, or does not
    assert not np.array_equal(found["default"][0], found["by keyword"][0])  # they do matter
    np.testing.assert_array_equal(function(X), cls()(X))
    np.testing.assert_array_equal(function(x=X, **values), cls(**values)(X))


@pytest.mark.parametrize(
    ("function", "cls"),
    [pytest.param(*pair, marks=() if pair[1].__name__ in RULE else pytest.mark.every) for pair in pairs],
    ids=NAMES,
)
def test_each_parameter_may_be_traced(function, cls):
    values = {name: value for name, value in other_values(cls).items() if not isinstance(value, int)}

    def slope(value, name):
        return jax.grad(lambda x: function(x, **{name: value}))(0.25)

    @jax.jit
    def derivatives(values):
        return {
            name: (
                slope(value, name),
                jax.vmap(slope, (0, None))(jnp.array([value, 2.0]), name),
                jax.grad(slope)(value, name),
            )
            for name, value in values.items()
        }

    @jax.jit
    def around(values):
        return {
            name: [cls(**{name: v + h}).surrogate_grad(0.25) for h in (0, -1e-2, 1e-2)] for name, v in values.items()
        }

    expected = around(values)
    for name, (traced, batch, derivative) in derivatives(values).items():
        want, below, above = expected[name]
        np.testing.assert_allclose([traced, batch[0]], [want, want], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(derivative, (above - below) / 2e-2, rtol=2e-2, atol=2e-3, err_msg=name)


def test_under_jit_with_static_names():
    fire = jax.jit(spikegrad.surrogates.squarewave_fourier_series, static_argnames="n")
    assert fire(X, n=3).tolist() == (X >= 0).tolist()


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


def test_functional_of_a_class_with_its_own_init():
    class Own(Surrogate):
        def __init__(self, height, *, width=2.0):
            super().__init__()
            self.height, self.width = height, width

        def surrogate_grad(self, x):
            return jnp.where(jnp.abs(x) < self.width, self.height, 0.0)

    own = functional(Own)
    assert str(inspect.signature(own).replace(return_annotation=inspect.Signature.empty)).endswith(
        "height, *, width=2.0)"
    )
    assert float(jax.grad(lambda x: own(x, 3.0, width=1.0))(0.5)) == 3.0


def test_names():
    """Capitals, digits and abbreviations: as the functions are called elsewhere."""
    want = {"ERF": "erf", "S2NN": "s2nn", "QPseudoSpike": "q_pseudo_spike", "SoftSign": "soft_sign", "Arctan": "arctan"}
    assert {cls.__name__: function.__name__ for function, cls in pairs if cls.__name__ in want} == want
