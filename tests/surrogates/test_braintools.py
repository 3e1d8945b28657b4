"""The same names, parameters and numbers as ``braintools.surrogate``, from whose users only the
import changes.
"""

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


classes = [
    name for name in peer.__all__ if inspect.isclass(getattr(peer, name)) and name != "Surrogate"
]
functions = [name for name in peer.__all__ if not inspect.isclass(getattr(peer, name))]
X = jnp.linspace(-3.0, 3.0, 241)  # with 0 and both ends of every window


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


@functools.cache
def computed():
    """Of each name what each library computes, in one program."""

    def of_class(cls, values):
        fires = [
            cls(**values),
            cls(**{name: v + (1 if isinstance(v, int) else 0.5) for name, v in values.items()}),
        ]
        return [(s(X), jax.vmap(jax.grad(s))(X), s.surrogate_grad(X), primal(s)) for s in fires]

    def of_function(function):
        return [(function(X), jax.grad(lambda x: function(x).sum())(X))]

    def of(module):
        defaults = {
            name: inspect.signature(getattr(peer, name)).parameters.values() for name in classes
        }
        found = {
            n: of_class(getattr(module, n), {p.name: p.default for p in ps})
            for n, ps in defaults.items()
        }
        return found | {name: of_function(getattr(module, name)) for name in functions}

    return jax.jit(lambda: (of(surrogate), of(peer)))()


@pytest.mark.slow
@pytest.mark.parametrize("name", classes + functions)
def test_spikes_slopes_and_primals(name):
    for mine, theirs in zip(*(library[name] for library in computed()), strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        for a, b in zip(mine[1:], theirs[1:], strict=True):
            if b is None:
                assert np.isfinite(a).all()
            else:  # float32 on their side, which cancels in the tails
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


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


@pytest.mark.slow
def test_a_users_class_moves_by_its_import():
    mine, theirs = (user_class(module.Surrogate)(alpha=2.0) for module in (surrogate, peer))
    assert mine(X).tolist() == theirs(X).tolist()
    np.testing.assert_allclose(
        *(jax.jit(jax.vmap(jax.grad(fire)))(X) for fire in (mine, theirs)), rtol=1e-6
    )
    np.testing.assert_allclose(mine.surrogate_fun(X), theirs.surrogate_fun(X), rtol=1e-6)
    for fire in (mine, theirs):
        fire.alpha = 3.0
    np.testing.assert_allclose(
        *(jax.jit(jax.vmap(jax.grad(fire)))(X) for fire in (mine, theirs)), rtol=1e-6
    )


pinned = pytest.mark.skipif(
    importlib.metadata.version("braintools") != "0.4.0",
    reason="the page on migration compares with 0.4.0",
)


@pinned
def test_second_derivative_of_a_product_of_spikes_is_complete():
    """``2 g(x)^2`` is the term that theirs loses."""
    mine, theirs = (module.Sigmoid(4.0) for module in (surrogate, peer))

    @jax.jit
    def derivatives(x):
        return [jax.grad(jax.grad(lambda x, s=s: s(x) ** 2))(x) for s in (mine, theirs)], jax.grad(
            mine
        )(x)

    second, slope = derivatives(0.3)
    np.testing.assert_allclose(second[0] - second[1], 2 * slope**2, rtol=1e-5)
