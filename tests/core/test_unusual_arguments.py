"""What users hand over besides numbers and arrays: huge integers, classes, foreign arrays, long strings."""

import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spikegrad
from spikegrad import (
    LIF,
    Cell,
    GaussianGrad,
    Sigmoid,
    SquarewaveFourierSeries,
    Surrogate,
    get,
    keep_slope,
    learnable,
    parameter,
    spike,
)


def refuses(error, message):
    return pytest.raises(error, match="^" + re.escape(message) + "$")


# --- integers ------------------------------------------------------------------------------------------------------

BIG = [2**31, 2**32, 2**32 + 1, 2**63, 2**100, 10**300, 10**400]


@pytest.mark.parametrize("size", [1, 2**31 - 1, *BIG], ids=lambda n: f"{n.bit_length()} bits")
def test_an_int_of_any_size_has_its_sign(size):
    assert float(Sigmoid()(-size)) == 0
    assert float(Sigmoid()(size)) == 1
    assert float(spike(-size, 1.0)) == 0


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64])
def test_every_numpy_integer_has_its_sign(dtype):
    info = np.iinfo(dtype)
    values = np.array([info.min, info.max, 0, *(-(2**k) for k in range(63) if -(2**k) >= info.min)], dtype)
    for given in (values, *values):
        np.testing.assert_array_equal(Sigmoid()(given), given >= 0)
        assert Sigmoid()(given).dtype == jnp.float32


@pytest.mark.parametrize("value", [2**32, 2**40])
def test_an_integer_parameter_is_not_cut_to_32_bits(value):
    for alpha in (value, np.int64(value), np.array([value, value])):
        assert np.all(np.asarray(Sigmoid(alpha).surrogate_grad(jnp.zeros(2))) == value / 4)


# --- objects that can be arrays ------------------------------------------------------------------------------------


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
    np.testing.assert_array_equal(given.surrogate_grad(Variable(x)), Sigmoid(alpha).surrogate_grad(x))
    np.testing.assert_array_equal(spike(Variable(x), Variable(alpha)), [0, 1])
    gradient = jax.grad(lambda a: jax.grad(lambda x: Sigmoid(Variable(a))(Variable(x)).sum())(x).sum())(alpha)
    np.testing.assert_array_equal(gradient, jax.grad(lambda a: jax.grad(lambda x: Sigmoid(a)(x).sum())(x).sum())(alpha))
    with refuses(TypeError, "Sigmoid: alpha must be a real number or array, got an array of complex64"):
        Sigmoid(Variable(jnp.ones(2, jnp.complex64)))
    with refuses(ValueError, "Sigmoid: alpha must be > 0, got array([-1.])"):
        Sigmoid(Variable(np.array([-1.0])))
    assert isinstance(LIF(decay=Variable(jnp.array(0.5))).decay, jax.Array)


def test_a_variable_of_flax():
    nnx = pytest.importorskip("flax.nnx")
    alpha = nnx.Param(jnp.array([2.0, 4.0]))
    assert Sigmoid(alpha) == Sigmoid(jnp.array([2.0, 4.0]))
    assert type(Sigmoid(alpha).alpha) is type(jnp.ones(2))
    np.testing.assert_array_equal(Sigmoid()(nnx.Param(jnp.array([-1.0, 1.0]))), [0, 1])


# --- what is not real ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        Sigmoid(),
        lambda x: Sigmoid().surrogate_grad(x),
        lambda x: Sigmoid().surrogate_fun(x),
        learnable(Sigmoid()),
        keep_slope(Sigmoid(), "bfloat16"),
        lambda x: keep_slope(Sigmoid(), "bfloat16").surrogate_grad(x),
        spikegrad.surrogates.sigmoid,
        lambda x: jax.jit(Sigmoid())(jnp.asarray(x)),
    ],
)
def test_complex_and_keys_are_refused_everywhere(ask):
    for x, shown in (
        (np.array([1j]), r"complex(64|128)"),
        (jnp.array([1j]), "complex64"),
        (np.complex64(1j), "complex64"),
        (jax.random.key(0), r"key<fry>"),
    ):
        with pytest.raises(TypeError, match=rf"^Sigmoid: x must be real, got {shown}(\n|$)"):
            ask(x)


def test_a_key_is_no_parameter():
    with refuses(TypeError, "Sigmoid: alpha must be a real number or array, got an array of key<fry>"):
        Sigmoid(jax.random.key(0))


# --- classes, and names of other libraries -------------------------------------------------------------------------


def test_class_instead_of_an_instance_raises():
    with refuses(TypeError, "LIF: surrogate must be an instance, got the class Sigmoid: write Sigmoid()"):
        LIF(surrogate=Sigmoid)

    class Scaled(Surrogate):
        surrogate: Surrogate = parameter(kind=Surrogate)

    with refuses(TypeError, "Scaled: surrogate must be an instance, got the class Sigmoid: write Sigmoid()"):
        Scaled(Sigmoid)


def test_a_hint_for_a_parameter_of_another_name():
    class Leaky(Cell):
        _hints: ClassVar = {"tau": "decay = exp(-dt / tau)"}
        decay: float = parameter(default=0.9)

    class WithTau(Leaky):
        tau: float = parameter(default=2.0)

    class Written(Leaky):
        def __init__(self, tau):
            super().__init__(decay=1 - 1 / tau)

    with refuses(TypeError, "Leaky: no parameter tau; give decay = exp(-dt / tau)"):
        Leaky(tau=20.0)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'tua'"):
        Leaky(tua=20.0)
    assert WithTau(tau=3.0).tau == 3.0
    assert Written(tau=2.0).decay == 0.5


# --- bounds and messages -------------------------------------------------------------------------------------------


def test_the_number_of_terms_is_bounded():
    with refuses(ValueError, "SquarewaveFourierSeries: n must be <= 128, got 1000000"):
        SquarewaveFourierSeries(n=1_000_000)
    with refuses(ValueError, "SquarewaveFourierSeries: n must be <= 128, got <int>"):
        SquarewaveFourierSeries(n=10**5000)
    assert float(SquarewaveFourierSeries(n=128).surrogate_grad(0.0)) == 4 * 128 / 8


LONG = "a" * 1_000_000


@pytest.mark.parametrize(
    "ask",
    [
        lambda: get(LONG),
        lambda: get("(" * 1_000_000),
        lambda: get(f"{LONG}(1)"),
        lambda: get(f"sigmoid('{LONG}')"),
        lambda: get(f"sigmoid({LONG}=1)"),
        lambda: get(f"sigmoid(alpha={LONG})"),
        lambda: get(f"sigmoid(1){' ' * 1_000_000}", alpha=2),
        lambda: get("sigmoid", **{LONG: 1}),
        lambda: get([LONG]),
        lambda: Sigmoid(LONG),
        lambda: Sigmoid([0.0] * 1_000_000),
        lambda: Sigmoid(-np.ones((999,))),
        lambda: SquarewaveFourierSeries(n=LONG),
        lambda: LIF(reset=LONG),
        lambda: LIF(surrogate=LONG),
        lambda: learnable(LONG),
        lambda: keep_slope(Sigmoid(), LONG),
        lambda: keep_slope(LONG, "bfloat16"),
    ],
)
def test_no_message_is_longer_than_one_reads(ask):
    with pytest.raises((TypeError, ValueError)) as caught:
        ask()
    assert len(str(caught.value)) < 700


def test_shortened_message_has_the_full_length():
    with refuses(
        TypeError, f"Sigmoid: alpha must be a real number or array, got '{'a' * 99}... (1,000,002 characters)"
    ):
        Sigmoid(LONG)
    with refuses(TypeError, "learnable: surrogate must be a Surrogate, got 'sigmoid'"):
        learnable("sigmoid")
    assert repr(GaussianGrad(jnp.ones(32))).count("1.0") == 32  # a repr is no message
