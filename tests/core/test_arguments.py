"""Unusual and wrong arguments: messages name them with their values, and all real numbers are
taken.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ROWS

import spikegrad
from spikegrad import (
    LIF,
    GaussianGrad,
    LeakyReadout,
    ReluGrad,
    Sigmoid,
    SquarewaveFourierSeries,
    Surrogate,
    learnable,
    spike,
    unroll,
)


def refuses(error, message):
    """The message is exactly this (JAX may add notes of its own after it)."""
    return pytest.raises(error, match=re.compile(re.escape(message) + r"($|\n)"))


classes = [type(spikegrad.get(name)) for name in spikegrad.names()]
fields = [
    (cls, name, domain)
    for cls in (*classes, LIF, LeakyReadout)
    for name, domain in cls._domains.items()
]


def of_fields(rows):
    return pytest.mark.parametrize(
        ("cls", "name", "domain"),
        [pytest.param(*row, id=f"{row[0].__name__}.{row[1]}") for row in rows],
    )


numbers = [row for row in fields if row[2].number]
every_number = of_fields(numbers)
one_of_each_domain = of_fields(
    {domain: (cls, name, domain) for cls, name, domain in reversed(numbers)}.values()
)


@every_number
def test_parameter_that_is_no_number_is_named(cls, name, domain):
    with refuses(TypeError, f"{cls.__name__}: {name} must be a real number or array, got 'a'"):
        cls(**{name: "a"})
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(
            ValueError, match=rf"^{cls.__name__}: {name} must be (finite|[<>]=? [01]), got {value}$"
        ):
            cls(**{name: value})


@one_of_each_domain
def test_not_a_real_number(cls, name, domain):
    for value, shown in (
        ("1.0", "'1.0'"),
        ("a" * 1_000_000, f"'{'a' * 99}... (1,000,002 characters)"),
        (None, "None"),
        (True, "True"),
        (np.True_, "np.True_"),
        (1j, "1j"),
        ([1.0], "[1.0]"),
        (np.array([1j]), "array([0.+1.j])"),
        (np.array(["a"]), "array(['a'], dtype='<U1')"),
        (jnp.array([True]), "Array([ True], dtype=bool)"),
        (jax.random.key(0), "Array((), dtype=key<fry>) overlaying:"),
    ):
        with refuses(
            TypeError, f"{cls.__name__}: {name} must be a real number or array, got {shown}"
        ):
            cls(**{name: value})


def test_bounds_are_what_they_are_documented_to_be():
    """The bounds above are read from the code; these are not."""
    expected = {name: row.domain for name, row in ROWS.items()}
    expected |= {cell: {"decay": ">= 0, <= 1"} for cell in ("LIF", "LeakyReadout")}
    found = {}
    for cls, name, domain in fields:
        bounds = {">": domain.above, ">=": domain.at_least, "<=": domain.at_most}
        text = ", ".join(f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None)
        found.setdefault(cls.__name__, {}).update({name: text} if text else {})
    assert found == expected


def test_a_traced_or_jax_value_is_never_read():
    assert jax.jit(lambda a: Sigmoid(a)(0.3))(-1.0) == 1.0
    Sigmoid(jnp.array(-1.0))


@pytest.mark.slow
def test_number_of_terms():
    for value, error, message in (
        (0, ValueError, ">= 1, got 0"),
        (1_000_000, ValueError, "<= 128, got 1000000"),
        (2.0, TypeError, "an integer, got 2.0"),
        (True, TypeError, "an integer, got True"),
        (None, TypeError, "an integer, got None"),
    ):
        with refuses(error, f"SquarewaveFourierSeries: n must be {message}"):
            SquarewaveFourierSeries(n=value)
    with pytest.raises(
        TypeError, match=r"SquarewaveFourierSeries: n must be an integer, got .*Trace"
    ):
        jax.jit(lambda n: SquarewaveFourierSeries(n=n)(0.3))(2)
    assert SquarewaveFourierSeries(n=np.int64(3)).n == 3
    assert float(SquarewaveFourierSeries(n=128).surrogate_grad(0.0)) == 4 * 128 / 8


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"Sigmoid.*unexpected keyword argument 'beta'"):
        Sigmoid(beta=1.0)
    with pytest.raises(
        TypeError, match=r"Sigmoid.*takes from 1 to 2 positional arguments but 3 were given"
    ):
        Sigmoid(1.0, 2.0)
    with pytest.raises(TypeError, match=r"Sigmoid.*unexpected keyword argument 'beta'"):
        spikegrad.surrogates.sigmoid(0.3, beta=1.0)
    with pytest.raises(
        TypeError, match=r"sigmoid: x is missing. Use Sigmoid\(\) to pass the surrogate"
    ):
        spikegrad.surrogates.sigmoid(alpha=1.0)


ways = pytest.mark.parametrize(
    "call",
    [
        lambda s, x: s(x),
        lambda s, x: s.surrogate_grad(x),
        lambda s, x: s.surrogate_fun(x),
        lambda s, x: learnable(s).surrogate_grad(x),
        lambda s, x: spikegrad.surrogates.sigmoid(x, alpha=s.alpha),
    ],
    ids=["call", "surrogate_grad", "surrogate_fun", "learnable", "function"],
)


@ways
def test_not_a_real_input(call):
    for x, message in (
        (1j, "must be a real number or array, got complex"),
        (jnp.array([1j]), "must be real, got complex64"),
        ("1.0", "must be a real number or array, got str"),
        (None, "must be a real number or array, got NoneType"),
        ([0.1, 0.2], "must be a real number or array, got list"),
    ):
        with pytest.raises(TypeError, match=rf"^(Sigmoid|_?[Ll]earnable\S*): x {message}$"):
            call(Sigmoid(), x)


def test_not_a_real_input_of_the_rule():
    with refuses(TypeError, "spike: x must be real, got complex64"):
        spike(jnp.array(1j), 1.0)
    with refuses(TypeError, "spike: slope must be real, got complex64"):
        spike(1.0, jnp.array(1j))
    with refuses(TypeError, "spike: slope must be a real number or array, got NoneType"):
        spike(1.0, None)
    with refuses(ValueError, "spike: slope of shape (2, 3) does not broadcast to x of shape (3,)"):
        spike(jnp.ones(3), jnp.ones((2, 3)))


@pytest.mark.parametrize(
    "how",
    [
        lambda s, x: s(x),
        lambda s, x: s.surrogate_grad(x),
        lambda s, x: s.surrogate_fun(x),
        jax.jit(lambda s, x: s(x)),
        lambda s, x: jax.grad(lambda x: s(x).sum())(x),
        lambda s, x: learnable(s)(x),
    ],
    ids=["call", "surrogate_grad", "surrogate_fun", "jit", "grad", "learnable"],
)
def test_a_parameter_that_does_not_broadcast(how):
    """A peer returned a scalar for three slopes and a scalar x, and raised only in the gradient."""
    for shape, x_shape in (
        ((3,), ()),
        ((3,), (3, 2)),
        ((2, 3), (3,)),
        ((1, 1), (5,)),
        ((0,), (2,)),
    ):
        for array in (np.ones, jnp.ones):
            message = f"of shape {shape} does not broadcast to x of shape {x_shape}"
            with pytest.raises(ValueError, match="ReluGrad.*width.*" + re.escape(message)):
                how(ReluGrad(width=array(shape)), jnp.ones(x_shape))


def answering(value):
    class Mine(Surrogate):
        def surrogate_grad(self, x):
            return value

    return Mine()


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_formula_with_a_wrong_result_raises(run):
    for value, error, message in (
        (jnp.ones((2, 3)), ValueError, "of shape (2, 3) does not broadcast to x of shape (3,)"),
        (jnp.ones(4), ValueError, "of shape (4,) does not broadcast to x of shape (3,)"),
        (None, TypeError, "must be a real number or array, got NoneType"),  # no return statement
        (jnp.ones(3, jnp.complex64), TypeError, "must be real, got complex64"),
    ):
        for ask in (
            answering(value).surrogate_grad,
            jax.grad(lambda x, value=value: answering(value)(x).sum()),
        ):
            with refuses(error, f"Mine: surrogate_grad(x) {message}"):
                run(ask)(jnp.ones(3))


def test_learnable_of_the_wrong_thing():
    class Own(Sigmoid):
        def __init__(self):
            super().__init__()

    for value in (3, "sigmoid", jnp.tanh, Sigmoid, LIF()):
        fix = ". Write get('sigmoid')" if value == "sigmoid" else ""
        with refuses(TypeError, f"learnable: surrogate must be a Surrogate, got {value!r}{fix}"):
            learnable(value)
    with refuses(
        TypeError,
        "learnable: Own has a custom __init__, which hides its parameters from JAX. Declare them "
        "by annotations",
    ):
        learnable(Own())


def test_a_neuron_of_wrong_parameters():
    for given, error, message in (
        ({"decay": -0.1}, ValueError, "decay must be >= 0, got -0.1"),
        ({"decay": np.array([0.5, 2.0])}, ValueError, "decay must be <= 1, got array([0.5, 2. ])"),
        ({"decay": "0.9"}, TypeError, "decay must be a real number or array, got '0.9'"),
        ({"threshold": np.inf}, ValueError, "threshold must be finite, got inf"),
        (
            {"reset": "sub"},
            ValueError,
            "reset must be one of 'subtract', 'value', 'none', got 'sub'",
        ),
        ({"reset": None}, ValueError, "reset must be one of 'subtract', 'value', 'none', got None"),
        ({"detach_reset": 1}, ValueError, "detach_reset must be one of False, True, got 1"),
        ({"surrogate": 3}, TypeError, "surrogate must be a function, got 3"),
        (
            {"surrogate": Sigmoid},
            TypeError,
            "surrogate must be an instance, got the class Sigmoid: write Sigmoid()",
        ),
    ):
        with refuses(error, f"LIF: {message}"):
            LIF(**given)


@pytest.mark.parametrize("cell", [LIF(), LeakyReadout()], ids=repr)
def test_a_neuron_of_wrong_input(cell):
    name = type(cell).__name__
    for current_shape in ((3,), (2, 2), (1, 2)):
        with refuses(
            ValueError,
            f"{name}: current of shape {current_shape} does not broadcast to v of shape (2,)",
        ):
            cell(jnp.zeros(2), jnp.zeros(current_shape))
    with refuses(TypeError, f"{name}: current must be a real number or array, got str"):
        cell(0.0, "a")
    with refuses(TypeError, f"{name}: v must be a real number or array, got complex"):
        cell(1j, 0.0)
    with refuses(ValueError, f"{name}: decay of shape (3,) does not broadcast to v of shape (2,)"):
        dataclasses.replace(cell, decay=np.full(3, 0.5))(jnp.zeros(2), 0.0)


def test_unroll_of_the_wrong_thing():
    with refuses(ValueError, "unroll: currents must have a time axis first, got a scalar"):
        unroll(LIF(), 1.0)
    with refuses(TypeError, "unroll: currents must be real, got complex64"):
        unroll(LIF(), [[1.0j]])
    message = (
        "unroll: v must have the shapes [(2,)] for currents of shape (5, 2), got [()]; "
        "leave v out to start at rest"
    )
    with refuses(ValueError, message):
        unroll(LIF(), jnp.ones((5, 2)), v=0.0)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64]
)
def test_every_numpy_integer_has_its_sign(dtype):
    info = np.iinfo(dtype)
    values = np.array(
        [info.min, info.max, 0, *(-(2**k) for k in range(63) if -(2**k) >= info.min)], dtype
    )
    for given in (values, *values):
        np.testing.assert_array_equal(Sigmoid()(given), given >= 0)
        assert Sigmoid()(given).dtype == jnp.float32


@pytest.mark.parametrize("value", [2**32, 2**40])
def test_an_integer_parameter_is_not_cut_to_32_bits(value):
    for alpha in (value, np.int64(value), np.array([value, value])):
        assert np.all(np.asarray(Sigmoid(alpha).surrogate_grad(jnp.zeros(2))) == value / 4)


class Variable:
    """As the variables of a neural-network library: an array within, and no number of its own."""

    def __init__(self, value):
        self.value = value

    def __jax_array__(self):
        return self.value


def test_a_variable_is_its_array():
    x, alpha = jnp.array([-0.5, 0.25]), jnp.array([2.0, 4.0])
    given = Sigmoid(Variable(alpha))
    assert isinstance(given.alpha, jax.Array)
    assert given == Sigmoid(alpha)
    np.testing.assert_array_equal(given(Variable(x)), Sigmoid(alpha)(x))
    np.testing.assert_array_equal(
        given.surrogate_grad(Variable(x)), Sigmoid(alpha).surrogate_grad(x)
    )
    np.testing.assert_array_equal(spike(Variable(x), Variable(alpha)), [0, 1])
    gradient = jax.grad(
        lambda a: jax.grad(lambda x: Sigmoid(Variable(a))(Variable(x)).sum())(x).sum()
    )(alpha)
    np.testing.assert_array_equal(
        gradient, jax.grad(lambda a: jax.grad(lambda x: Sigmoid(a)(x).sum())(x).sum())(alpha)
    )
    with refuses(
        TypeError,
        "Sigmoid: alpha must be a real number or array, got Array([1.+0.j], dtype=complex64)",
    ):
        Sigmoid(Variable(jnp.ones(1, jnp.complex64)))
    with refuses(ValueError, "Sigmoid: alpha must be > 0, got array([-1.])"):
        Sigmoid(Variable(np.array([-1.0])))
    assert isinstance(LIF(decay=Variable(jnp.array(0.5))).decay, jax.Array)


def test_a_repr_is_not_shortened():
    assert repr(GaussianGrad(jnp.ones(32))).count("1.0") == 32
