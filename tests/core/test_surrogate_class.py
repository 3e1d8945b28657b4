"""Users' own surrogates, in both forms: what they give, and that none is ever answered from a
cache.
"""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spikegrad import LIF, Sigmoid, Surrogate, parameter, unroll

X = np.float32([-1.5, -0.2, 0.0, 0.4, 2.0])
SPIKES = [0.0, 0.0, 1.0, 1.0, 1.0]


def slopes(surrogate, x=X):
    return jax.grad(lambda x: surrogate(x).sum())(x)


class FrozenGrad(Surrogate):
    alpha: float = parameter(default=1.0, above=0)

    def surrogate_grad(self, x):
        return self.alpha / jnp.cosh(self.alpha * x) ** 2


class FrozenFun(Surrogate):
    alpha: float = parameter(default=1.0, above=0)

    def surrogate_fun(self, x):
        return jnp.tanh(self.alpha * x)


class FrozenBoth(FrozenFun):
    def surrogate_grad(self, x):
        return self.alpha / jnp.cosh(self.alpha * x) ** 2


class MutableGrad(Surrogate):
    def __init__(self, alpha=1.0):
        super().__init__()
        self.alpha = alpha

    def surrogate_grad(self, x):
        return self.alpha / jnp.cosh(self.alpha * x) ** 2


class MutableFun(Surrogate):
    def __init__(self, alpha=1.0):  # without super().__init__()
        self.alpha = alpha

    def surrogate_fun(self, x):
        return jnp.tanh(self.alpha * x)


class MutableBoth(MutableFun):
    def surrogate_grad(self, x):
        return self.alpha / jnp.cosh(self.alpha * x) ** 2


every_form = pytest.mark.parametrize(
    "cls", [FrozenGrad, FrozenFun, FrozenBoth, MutableGrad, MutableFun, MutableBoth]
)


@every_form
def test_spikes_and_slopes(cls):
    fire = cls(2.0)
    want = 2 / np.cosh(2 * np.asarray(X)) ** 2
    assert fire(X).tolist() == SPIKES
    found = {
        "eager": slopes(fire),
        "surrogate_grad": fire.surrogate_grad(X),
        "jit": jax.jit(lambda x: slopes(fire, x))(X),
        "vmap": jax.jit(jax.vmap(jax.grad(fire)))(X),
        "jvp": jax.jit(lambda x: jax.jvp(fire, (x,), (jnp.ones_like(x),))[1])(X),
    }
    for way, got in found.items():  # the derivative of tanh is 1 - tanh^2, which cancels
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=way)


@every_form
def test_contract_of_the_methods(cls):
    """Half precision is float32 inside, ints become floats, NaN stays NaN: the formula never sees
    to it.
    """
    fire = cls(2.0)
    half = np.asarray(X, jnp.bfloat16)
    want = (2 / np.cosh(2 * half.astype(np.float32)) ** 2).astype(half.dtype)
    run = jax.jit(
        lambda x: (slopes(fire, x), fire.surrogate_grad(x), fire(3), fire(True), fire(jnp.nan))
    )
    in_x, slope, three, true, nan = run(half)
    assert in_x.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(slope, np.float32), np.asarray(want, np.float32))
    assert three.dtype == true.dtype == jnp.float32
    assert np.isnan(nan)
    assert np.isnan(jax.jit(fire.surrogate_grad)(np.float32(np.nan)))


@pytest.mark.parametrize("constant", [2, jnp.array(0.25)], ids=repr)
def test_a_constant_slope(constant):
    class Straight(Surrogate):
        def surrogate_grad(self, x):
            return constant

    assert slopes(Straight()).tolist() == [float(constant)] * 5
    assert jax.vmap(jax.grad(Straight()))(X).tolist() == [float(constant)] * 5
    assert (
        jax.eval_shape(slopes, Straight(), jax.ShapeDtypeStruct((5,), jnp.float16)).dtype
        == jnp.float16
    )


def test_a_class_that_defines_nothing_says_so():
    class Empty(Surrogate):
        pass

    with pytest.raises(
        NotImplementedError, match="Empty must define surrogate_grad or surrogate_fun"
    ):
        jax.grad(Empty())(1.0)
    with pytest.raises(NotImplementedError, match="Empty defines no surrogate_fun"):
        Empty().surrogate_fun(1.0)
    with pytest.raises(NotImplementedError, match="FrozenGrad defines no surrogate_fun"):
        FrozenGrad().surrogate_fun(1.0)


def test_a_plain_annotation_is_a_parameter_as_well():
    class Line(Surrogate):
        a: float
        b: float = 2.0

        def surrogate_grad(self, x):
            return self.a * x + self.b

    assert repr(Line(1)) == "Line(a=1.0, b=2.0)"
    assert float(jax.grad(Line(3.0))(2.0)) == 8.0
    with pytest.raises(TypeError, match="Line: a must be a real number or array, got 'x'"):
        Line("x")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        Line()


def test_a_check_of_two_parameters_together():
    class Window(Surrogate):
        low: float = parameter(default=-1.0)
        high: float = parameter(default=1.0)

        def __post_init__(self):
            super().__post_init__()
            if self.low >= self.high:
                raise ValueError("Window: low must be < high")

        def surrogate_grad(self, x):
            return (x > self.low) & (x < self.high)

    assert slopes(Window(-0.5, 0.5)).tolist() == [0, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="low must be < high"):
        Window(1.0, 0.0)
    zeros = jax.tree.map(
        lambda _: 0, Window(jnp.array(-1.0), jnp.array(1.0))
    )  # a rebuilt tree is not checked
    assert zeros.low == 0


GLOBAL = 1.0


def mutable():
    fire = MutableGrad(1.0)
    return fire, lambda value: setattr(fire, "alpha", value)


def frozen_class_attribute():
    class Shared(Surrogate):
        alpha = 1.0  # no annotation: no parameter

        def surrogate_grad(self, x):
            return self.alpha / jnp.cosh(self.alpha * x) ** 2

    return Shared(), lambda value: setattr(Shared, "alpha", value)


def frozen_global_primal():
    class Reader(Surrogate):
        def surrogate_fun(self, x):
            return jnp.tanh(GLOBAL * x)

    return Reader(), lambda value: globals().update(GLOBAL=value)


def mutable_subclass_of_a_builtin():
    class Tanh(Sigmoid):
        def __init__(self, alpha):
            super().__init__(alpha=alpha)

        def surrogate_grad(self, x):
            return self.alpha / jnp.cosh(self.alpha * x) ** 2

    fire = Tanh(1.0)
    return fire, lambda value: setattr(fire, "alpha", value)


@pytest.fixture(autouse=True)
def reset_the_global():
    yield
    globals().update(GLOBAL=1.0)


@pytest.mark.parametrize(
    "make",
    [mutable, frozen_class_attribute, frozen_global_primal, mutable_subclass_of_a_builtin],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda fire: fire.surrogate_grad(0.25),
        lambda fire: jax.grad(fire)(0.25),
        lambda fire: jax.jit(jax.grad(fire))(0.25),  # a new function each time
        lambda fire: jax.grad(lambda i: LIF(1.0, 0.0, fire, reset="none")(0.0, i)[1])(0.25),
        lambda fire: jax.grad(
            lambda i: unroll(LIF(1.0, 0.0, fire, reset="none"), i[None])[1].sum()
        )(jnp.array(0.25)),
    ],
    ids=["surrogate_grad", "grad", "jit", "lif", "unroll"],
)
def test_a_changed_surrogate_is_never_answered_stale(make, ask):
    fire, change = make()
    for alpha in (1.0, 3.0):
        change(alpha)
        np.testing.assert_allclose(ask(fire), alpha / np.cosh(alpha * 0.25) ** 2, rtol=1e-5)


class Own(Sigmoid):
    def __init__(self, alpha, note=""):
        super().__init__(alpha=alpha)
        self.note = note


def test_a_subclass_with_its_own_init_is_a_mutable_object_of_its_own():
    one, other = Own(2.0), Own(2.0)
    assert one == one  # noqa: PLR0124
    assert one != other
    assert hash(one) != hash(other)
    assert one != Sigmoid(2.0)
    assert Sigmoid(2.0) != one
    one.alpha = 8.0
    one.extra = 1
    assert float(jax.grad(one)(0.0)) == 2.0  # alpha / 4
    del one.extra
    assert not hasattr(one, "extra")
    assert repr(one) == "Own(alpha=8.0, note='')"
    assert jax.tree.leaves(one) == []  # a part of the structure, so it may be in an argument of jit
    assert float(jax.jit(lambda fire: jax.grad(fire)(0.0))(one)) == 2.0
    assert (
        vars(copy.deepcopy(one))
        == vars(pickle.loads(pickle.dumps(one)))
        == {"alpha": 8.0, "note": ""}
    )


def test_a_subclass_that_only_overrides_the_slope_stays_frozen():
    class Doubled(Sigmoid):
        factor: float = parameter(default=2.0)

        def surrogate_grad(self, x):
            return self.factor * super().surrogate_grad(x)

    fire = Doubled(alpha=4.0)
    assert fire == Doubled(4.0)
    assert fire != Sigmoid(4.0)
    assert hash(fire) == hash(Doubled(4.0))
    assert repr(fire) == "Doubled(alpha=4.0, factor=2.0)"
    assert float(jax.grad(fire)(0.0)) == 2.0
    assert float(fire.surrogate_fun(0.0)) == 0.5
    assert float(jax.grad(Doubled(jnp.array(8.0)))(0.0)) == 4.0
    with pytest.raises(ValueError, match=r"Doubled: alpha must be > 0, got -1\.0"):
        Doubled(-1)
    per_neuron = Doubled(jnp.array([4.0, 8.0]), jnp.array([1.0, 10.0]))
    assert jax.jit(slopes)(per_neuron, np.zeros((3, 2), np.float32)).tolist() == [[1.0, 20.0]] * 3
