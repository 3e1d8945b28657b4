"""Layers of any kind: whatever JAX can trace is a weight, and gradients reach what it
closes over.
"""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import few
from networks import assert_close

from spikegrad import LIF, Cell, Layer, Network, Sigmoid, Surrogate, bounded, diagnose, parameter
from spikegrad.training import combine, fit, partition

STEPS, BATCH, INPUTS, NEURONS = 6, 3, 5, 7
rng = np.random.default_rng(0)
W = jnp.asarray(rng.normal(0, 0.7, (INPUTS, NEURONS)), jnp.float32)
R = jnp.asarray(rng.normal(0, 0.3, (NEURONS, NEURONS)), jnp.float32)
X = jnp.asarray(rng.uniform(0, 1.5, (STEPS, BATCH, INPUTS)), jnp.float32)
WEIGHTS = jnp.asarray(rng.normal(size=(STEPS, BATCH, NEURONS)), jnp.float32)


def loss(network, x=X, **options):
    """Of all outputs, with different weights, so that nothing cancels."""
    return (WEIGHTS * network(x, **options)[1]).sum()


@functools.cache
def gradients():
    """Of a network of matrices: what every other form of the same function must give."""
    return jax.jit(jax.grad(lambda w, r: loss(Network([Layer(w, LIF(), r)])), (0, 1)))(W, R)


class Product:
    """A function of its own state."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return x @ self.value


class Variable(Product):
    """An array of a framework, although it can be called."""

    def __jax_array__(self):
        return self.value

    def __call__(self):
        raise AssertionError("an array is not called")


FORMS = {
    "a lambda": lambda w: lambda x: x @ w,
    "functools.partial": lambda w: functools.partial(jnp.dot, b=w),
    "jax.vmap": lambda w: jax.vmap(lambda x: w.T @ x),
    "jax.jit": lambda w: jax.jit(lambda x: x @ w),
    "jax.checkpoint": lambda w: jax.checkpoint(lambda x: jnp.dot(x, w)),
    "jax.tree_util.Partial": lambda w: jax.tree_util.Partial(lambda w, x: x @ w, w),
    "a bound method": lambda w: Product(w).__call__,
    "an array that can be called": Variable,
}


@pytest.mark.parametrize(
    "form", few(FORMS, "jax.checkpoint", "a bound method", "an array that can be called")
)
def test_functions_that_close_over_their_weights(form):
    of = FORMS[form]
    gradient = jax.grad(lambda w, r: loss(Network([Layer(of(w), LIF(), of(r))])), (0, 1))
    assert_close(jax.jit(gradient)(W, R), gradients())


def test_matrix_within_bounds():
    """The chain rule: its raw values get the gradient of the matrix times that of the bound."""
    raw, jacobian = jax.vjp(lambda raw: -2 + 4 * jax.nn.sigmoid(raw), jnp.log((2 + W) / (2 - W)))
    weight = bounded(W, -2, 2)
    found = jax.jit(jax.grad(lambda weight: loss(Network([Layer(weight, LIF(), R)]))))(weight)
    np.testing.assert_allclose(raw, W, rtol=1e-5)
    (expected,) = jacobian(gradients()[0])
    assert_close(found.raw, expected)


@pytest.mark.slow
def test_module_of_equinox_for_one_example():
    """``eqx.filter_vmap`` keeps its arrays trainable. Without a map, or with one of JAX, a line
    says so.
    """
    eqx = pytest.importorskip("equinox")
    linear = eqx.nn.Linear(INPUTS, NEURONS, key=jax.random.key(0))
    network = Network([Layer(eqx.filter_vmap(linear), LIF(threshold=0.1), R)])
    trainable, static = partition(network)
    got = jax.jit(jax.grad(lambda trainable: loss(combine(trainable, static))))(trainable)

    def by_hand(w):
        return loss(
            Network([Layer(lambda x: x @ w[0].T + w[1], LIF(threshold=0.1), R)]), backward="scan"
        )

    expected = jax.jit(jax.grad(by_hand))((linear.weight, linear.bias[None]))
    assert_close(jax.tree.leaves(got)[:2], [expected[0], expected[1][0]])
    with pytest.raises(
        TypeError, match=r"one example pass .* for a module of Equinox eqx.filter_vmap\(weight\)"
    ):
        Network([Layer(linear, LIF(), R)])(X)
    with pytest.warns(
        UserWarning, match=r"layers/0/weight holds arrays that are not .*eqx.filter_vmap"
    ):
        trainable, _ = partition(Network([Layer(jax.vmap(linear), LIF())]))
    with pytest.raises(
        ValueError, match=r"fit: trainable has no floating-point array to train.*eqx.filter_vmap"
    ):
        fit(lambda *_: (0.0, {}), trainable, [X], optimizer=optax.sgd(0.1), key=jax.random.key(0))
    with pytest.raises(ValueError, match="diagnose: network has no floating-point array to train"):
        diagnose(Network([Layer(jnp.tanh, LIF())]), X, jnp.sum, optimizer=optax.sgd(0.1))


def test_a_function_that_needs_floats_is_told_what_it_gets():
    kernel = jnp.ones((2, 1, 3, 3))
    network = Network([Layer(lambda x: jax.lax.conv(x, kernel, (1, 1), "SAME"), LIF())])
    with pytest.raises(TypeError, match="weight takes its inputs as they are, here bool; convert"):
        network(jnp.ones((2, 1, 1, 4, 4), bool))


@pytest.mark.slow
def test_flax_nnx_modules_and_variables():
    nnx = pytest.importorskip("flax.nnx")
    linear = nnx.Linear(INPUTS, NEURONS, rngs=nnx.Rngs(0))
    linear.kernel[...] = W

    def by_module(linear):
        return loss(Network([Layer(linear, LIF(), R)]))

    def by_variable(linear):
        return loss(Network([Layer(linear.kernel, LIF(), nnx.Param(R))]))

    for of in (by_module, by_variable):
        got = nnx.jit(nnx.grad(of))(linear)
        assert_close(got["kernel"][...], gradients()[0])


@pytest.mark.slow
def test_brainstate():
    brainstate = pytest.importorskip("brainstate")
    linear = brainstate.nn.Linear(INPUTS, NEURONS)
    states = linear.states(brainstate.ParamState)
    with jax.numpy_rank_promotion("allow"):  # which its own layers need
        gradient = brainstate.transform.grad(
            lambda: loss(Network([Layer(linear, LIF(threshold=0.1))])), states
        )
        got = brainstate.transform.jit(gradient)()

        def by_hand(p):
            return loss(
                Network([Layer(lambda x: x @ p["weight"] + p["bias"], LIF(threshold=0.1))]),
                backward="scan",
            )

        (parameters,) = (state.value for state in states.values())
        assert_close(*got.values(), jax.jit(jax.grad(by_hand))(parameters))


def test_gradient_of_a_network_with_numbers():
    """Numbers among its fields are differentiated as well, compiled or not."""
    network = Network([Layer(W, LIF(0.9, 0.8), R, bias=0.1)])
    got, expected = jax.jit(
        lambda n: [jax.grad(loss)(n), jax.grad(functools.partial(loss, backward="scan"))(n)]
    )(network)
    assert float(got.layers[0].cell.decay) != 0 != float(got.layers[0].bias)
    assert_close(got, expected, zero=True)  # a step does not depend on its surrogate's alpha


class Connected(Cell):
    """With all kinds of leaves and states that have no derivative."""

    allowed: jax.Array = parameter(kind=object)
    index: jax.Array = parameter(kind=object)
    key: jax.Array = parameter(kind=object)

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)

    def integrate(self, v, current):
        v, last, refractory = v
        current = jnp.where(
            self.allowed[None] & jax.random.bernoulli(self.key, 0.9, current.shape), current, 0
        )
        return (
            0.9 * v + jnp.where(refractory, jnp.zeros_like(current), current)[:, self.index],
            last,
            refractory,
        )

    def fire(self, u):
        u, last, _ = u
        s = Sigmoid(2.0)(u - 0.3)
        return (u - 0.3 * s, jnp.where(s > 0, 0, last + 1), s > 0), s


@pytest.mark.slow
def test_leaves_and_states_without_a_derivative():
    """A mask of connections, an index and a random key; a counter and a flag."""
    allowed = jnp.asarray(np.arange(NEURONS) % 3 > 0)
    cell = Connected(allowed, jnp.arange(NEURONS)[::-1], jax.random.key(1))

    def product(w, key, x):
        return jnp.where(jax.random.bernoulli(key, 0.8, x.shape), x, 0) @ w

    def of(w, r, mode):
        weight = jax.tree_util.Partial(product, w, jax.random.key(2))
        return loss(Network([Layer(weight, cell, r)]), backward=mode)

    assert_close(
        *jax.jit(lambda w, r: [jax.grad(of, (0, 1))(w, r, mode) for mode in ("exact", "scan")])(
            W, R
        )
    )


def test_the_gradient_of_a_layer_with_an_integer_leaf():
    mask = jnp.asarray(np.arange(35).reshape(5, 7) % 2)
    got = jax.grad(lambda network: loss(network), allow_int=True)(Network([Layer(mask, LIF(), R)]))  # noqa: PLW0108
    layer = got.layers[0]
    assert layer.weight.dtype == jax.dtypes.float0
    assert jnp.any(layer.recurrent != 0)


def test_matrices_of_integers_do_not_truncate_what_comes_in():
    mask = np.arange(35).reshape(5, 7) % 2

    def run(r, dtype):
        return jax.value_and_grad(
            lambda r: loss(Network([Layer(jnp.asarray(mask, dtype), LIF(), r)]))
        )(r)

    expected, *others = jax.jit(
        lambda r: [run(r, dtype) for dtype in (jnp.float32, jnp.int32, bool)]
    )(R)
    for got in others:
        assert_close(got, expected)


@pytest.mark.slow
def test_a_matrix_in_half_precision_beside_one_in_single():
    """Each computes in its own dtype, the current in the wider one."""

    def of(w, r, mode, product=lambda w: w):
        return loss(Network([Layer(product(w), LIF(), r), Layer(r, LIF())]), backward=mode)

    def product(w):
        return lambda x: x.astype(w.dtype) @ w

    half = W.astype(jnp.bfloat16)
    expected = jax.jit(jax.grad(functools.partial(of, product=product), (0, 1)), static_argnums=2)(
        half, R, "scan"
    )
    got = jax.jit(jax.grad(of, (0, 1)), static_argnums=2)(half, R, "exact")
    assert [g.dtype for g in got] == [jnp.bfloat16, jnp.float32]
    # XLA rounds the same product here, and keeps it in single precision there
    assert_close(got, expected, 2e-2)


class Mutable(Surrogate):
    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

    def surrogate_grad(self, x):
        return jnp.exp(-self.alpha * x * x)


class MutableCell(Cell):
    def __init__(self, decay):
        super().__init__()
        self.decay = decay

    def integrate(self, v, current):
        return self.decay * v + current

    def fire(self, u):
        s = Sigmoid(2.0)(u - 1)
        return u - s, s


@pytest.mark.slow
@pytest.mark.parametrize(
    ("thing", "field", "value", "layer"),
    [
        (Product(W), "value", -W, lambda o: Layer(o, LIF(), R)),
        (
            Variable(jnp.zeros(NEURONS)),
            "value",
            jnp.ones(NEURONS),
            lambda o: Layer(W, LIF(), bias=o),
        ),
        (MutableCell(0.5), "decay", 0.99, lambda o: Layer(W, o)),
        pytest.param(
            Mutable(1.0),
            "alpha",
            3.0,
            lambda o: Layer(W, LIF(surrogate=o), R),
            marks=pytest.mark.every,
        ),
    ],
    ids=["weight", "bias", "cell", "surrogate"],
)
def test_a_network_sees_that_an_object_has_changed(thing, field, value, layer):
    """Those with an ``__init__`` of their own, and functions: nothing is answered from a cache."""

    def run(network):
        def weighted(w):
            outs = network(w * X)[1]
            return (WEIGHTS * outs).sum(), outs

        return jax.grad(weighted, has_aux=True)(1.0)

    thing = copy.copy(thing)
    network = Network([layer(thing)])
    before = run(network)
    changed = copy.copy(thing)
    setattr(changed, field, value)
    setattr(thing, field, value)
    got, expected = run(network), run(Network([layer(changed)]))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert not np.array_equal(before[0], got[0])
