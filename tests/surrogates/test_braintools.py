"""The same names, parameters and numbers as ``braintools.surrogate``, from whose users only the import changes."""

import functools
import importlib.metadata
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spikegrad.surrogates as surrogate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies, while it is imported
    peer = pytest.importorskip("braintools").surrogate


@pytest.fixture(autouse=True)
def lenient():
    """Its code relies on JAX's implicit promotions."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


classes = [name for name in peer.__all__ if inspect.isclass(getattr(peer, name)) and name != "Surrogate"]
functions = [name for name in peer.__all__ if not inspect.isclass(getattr(peer, name))]
X = jnp.linspace(-3.0, 3.0, 241)  # with 0 and both ends of every window


def settings(cls):
    default = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    return [default, {name: value + (1 if isinstance(value, int) else 0.5) for name, value in default.items()}]


def test_every_public_name_of_braintools_exists():
    assert len(classes) == len(functions) > 0
    assert set(peer.__all__) <= set(surrogate.__all__)


@pytest.mark.parametrize("name", classes + functions)
def test_signature(name):
    def parameters(of):
        return [(n, p.default) for n, p in inspect.signature(getattr(of, name)).parameters.items()]

    assert parameters(surrogate) == parameters(peer)


def primal(surrogate):
    """None where there is none, as of some of theirs."""
    try:
        return surrogate.surrogate_fun(X)
    except NotImplementedError:
        return None


@pytest.mark.parametrize("name", classes)
def test_slope_and_primal(name):
    @functools.partial(jax.jit, static_argnums=0)
    def curves(module):
        fires = [getattr(module, name)(**values) for values in settings(getattr(peer, name))]
        return [(s(X), s.surrogate_grad(X), jax.vmap(jax.grad(s))(X), primal(s)) for s in fires]

    for mine, theirs in zip(curves(surrogate), curves(peer), strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        for a, b in zip(mine[1:], theirs[1:], strict=True):
            if b is None:
                assert np.isfinite(a).all()
            else:  # float32 on their side, which cancels in the tails
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", functions)
def test_function(name):
    @jax.jit
    def spikes_and_slopes():
        pair = getattr(surrogate, name), getattr(peer, name)
        return [(f(X), jax.grad(lambda x, f=f: f(x).sum())(X)) for f in pair]

    mine, theirs = spikes_and_slopes()
    np.testing.assert_array_equal(mine[0], theirs[0])
    np.testing.assert_allclose(mine[1], theirs[1], rtol=2e-5, atol=2e-6)


def user_class(base):
    """As its documentation teaches to write one."""

    class MySurrogate(base):
        def __init__(self, alpha=1.0):
            super().__init__()
            self.alpha = alpha

        def surrogate_fun(self, x):
            return jnp.tanh(x * self.alpha) * 0.5 + 0.5

        def surrogate_grad(self, x):
            return self.alpha * 0.5 * (1 - jnp.tanh(x * self.alpha) ** 2)

    return MySurrogate


def test_a_users_class_moves_by_its_import():
    mine, theirs = (user_class(module.Surrogate)(alpha=2.0) for module in (surrogate, peer))
    assert mine(X).tolist() == theirs(X).tolist()
    np.testing.assert_allclose(*(jax.jit(jax.vmap(jax.grad(fire)))(X) for fire in (mine, theirs)), rtol=1e-6)
    np.testing.assert_allclose(mine.surrogate_fun(X), theirs.surrogate_fun(X), rtol=1e-6)
    for fire in (mine, theirs):
        fire.alpha = 3.0
    np.testing.assert_allclose(*(jax.jit(jax.vmap(jax.grad(fire)))(X) for fire in (mine, theirs)), rtol=1e-6)


def test_a_network_moves_by_its_import():
    def loss(weights, module):
        def step(v, i):
            spikes = module.sigmoid(v - 1.0, alpha=2.0)
            return 0.9 * v * (1 - spikes) + i @ weights, module.ReluGrad()(v - 0.5)

        return (jax.lax.scan(step, jnp.zeros(3), jnp.ones((8, 2)))[1] * jnp.arange(8.0)[:, None]).sum()

    weights = jnp.array([[0.3, 0.1, -0.2], [0.2, 0.5, 0.4]])
    np.testing.assert_allclose(jax.grad(loss)(weights, surrogate), jax.grad(loss)(weights, peer), rtol=1e-5)


# --- the differences, which are meant --------------------------------------------------------------------------------


pinned = pytest.mark.skipif(
    importlib.metadata.version("braintools") != "0.4.0", reason="the page on migration compares with 0.4.0"
)


@pinned
def test_second_derivative_of_a_product_of_spikes_is_complete():
    """``2 g(x)^2`` is the term that theirs loses."""
    mine, theirs = (module.Sigmoid(4.0) for module in (surrogate, peer))

    @jax.jit
    def derivatives(x):
        return [jax.grad(jax.grad(lambda x, s=s: s(x) ** 2))(x) for s in (mine, theirs)], jax.grad(mine)(x)

    second, slope = derivatives(0.3)
    np.testing.assert_allclose(second[0] - second[1], 2 * slope**2, rtol=1e-5)


@pinned
def test_values_that_differ():
    assert jnp.isnan(surrogate.sigmoid(jnp.nan))
    assert peer.sigmoid(jnp.nan) == 0
    bits, alpha = jnp.bfloat16(2.0), jnp.float32(4.0)
    of_mine, of_theirs = (jax.jit(jax.grad(module.Sigmoid()))(bits) for module in (surrogate, peer))
    assert (surrogate.ReluGrad().surrogate_fun(0.0), of_mine) > (0.49, 0.001)
    assert of_theirs == 0
    fires = [module.Sigmoid(alpha) for module in (surrogate, peer)]
    dtypes = [jax.eval_shape(lambda x, s=s: jax.jvp(s, (x,), (x,))[1], bits).dtype for s in fires]
    assert dtypes == [jnp.bfloat16, jnp.float32]
    assert [len(jax.tree.leaves(module.Sigmoid(alpha))) for module in (surrogate, peer)] == [1, 1]
    assert jax.tree.leaves(surrogate.Sigmoid(alpha)) == [alpha]
    assert jax.tree.leaves(peer.Sigmoid(alpha)) != [alpha]
    assert surrogate.sigmoid(jnp.array([1, -1])).dtype == peer.sigmoid(jnp.array([1, -1])).dtype == jnp.float32


@pinned
@pytest.mark.parametrize(
    ("error", "use"),
    [
        (AttributeError, lambda module: setattr(module.Sigmoid(4.0), "alpha", 2.0)),
        (ValueError, lambda module: module.Sigmoid(-1.0)),
        (TypeError, lambda module: module.Sigmoid("a")),
        (ValueError, lambda module: module.SquarewaveFourierSeries(n=0)),
        (TypeError, lambda module: module.sigmoid(jnp.array([-1.0 + 1.0j]))),
        (TypeError, lambda module: module.sigmoid([1.0, -1.0])),
    ],
)
def test_theirs_accepts_values_that_raise_here(error, use):
    with warnings.catch_warnings(action="ignore"):
        use(peer)
    with pytest.raises(error):
        use(surrogate)


@pinned
@pytest.mark.parametrize(
    ("error", "use"),
    [
        (NotImplementedError, lambda module: module.ReluGrad().surrogate_fun(0.5)),
        (TypeError, lambda module: hash(module.Sigmoid(jnp.array([1.0, 2.0])))),
    ],
)
def test_theirs_raises_for_uses_that_work_here(error, use):
    use(surrogate)
    with pytest.raises(error):
        use(peer)
