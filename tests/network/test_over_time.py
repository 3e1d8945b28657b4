"""Functions of whole sequences within a network, such as batch normalization, against layers run one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network
from spikegrad.inspect import residual_report
from spikegrad.network import fold_normalization

BATCH, UNITS = 3, 4
CELL = LIF(0.8, 0.6)


def normalized(x, gain, mask=None):
    """Batch normalization over the steps that took place, and its statistics."""
    wide = jnp.ones_like(x) if mask is None else jnp.broadcast_to(mask[..., None], x.shape).astype(x.dtype)

    def mean_of(a):
        return (wide * a).sum((0, 1), keepdims=True) / wide.sum((0, 1), keepdims=True)

    mean = mean_of(x)
    var = mean_of((x - mean) ** 2)
    return gain[None, None] * (x - mean) / jnp.sqrt(var + 1e-5), {"mean": mean, "var": var}


# --- one network in several ways ------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0, 1.5, (12, BATCH, UNITS)), jnp.float32)
PARAMS = {
    **{name: jnp.asarray(RNG.normal(0.2, 0.7, (UNITS, UNITS)), jnp.float32) for name in ("stem", "branch", "deep")},
    "gain": jnp.asarray(RNG.uniform(0.5, 1.5, UNITS), jnp.float32),
}


def same(x):
    return x


def residual(params, function=normalized, cell=CELL):
    """Two blocks of weights, batch normalization and neurons, and a sum that skips the second."""

    def block(name):
        return lambda x, mask=None: function(x @ params[name], params["gain"], mask)

    return Network(
        {
            "stem norm": Join(block("stem"), "input", over_time=True),
            "stem": Layer(same, cell),
            "branch norm": Join(block("branch"), "stem", over_time=True),
            "branch": Layer(same, cell),
            "sum": Join(lambda a, b: a + b, ("stem", "branch")),
            "deep norm": Join(block("deep"), "sum", over_time=True),
            "deep": Layer(same, cell),
        }
    )


def squared(params, x=X, **options):
    weights = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return (weights * residual(params)(x, **options)[1]).sum()


@pytest.mark.parametrize(("mode", "arrays"), [("exact", 3), ("half", 1.5), ("8-bit", 0.94)])
def test_only_the_states_of_the_layers_are_kept(mode, arrays):
    x = jnp.zeros((60, 8, UNITS))
    bytes_of_a_layer = 4 * x.size
    report = residual_report(lambda p: residual(p)(x, backward=mode)[1].sum(), PARAMS)
    assert report.bytes <= 1.01 * arrays * bytes_of_a_layer


@pytest.mark.every
def test_second_derivatives(x64):
    params, x = jax.tree.map(lambda a: a.astype(float), (PARAMS, X))

    def twice(mode):
        return jax.grad(lambda p: sum(jnp.vdot(g, g) for g in jax.tree.leaves(jax.grad(squared)(p, x, backward=mode))))

    exact, scan = (jax.jit(twice(mode))(params) for mode in ("exact", "scan"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8), exact, scan)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(scan))


def delayed_norm(function):
    return Network(
        {
            "norm": Join(function, "input", over_time=True),
            "out": Layer({"norm": Delayed(PARAMS["stem"], 3)}, LeakyReadout(0.9)),
        }
    )


@pytest.mark.parametrize("with_statistics", few([True, False], True))
def test_a_delayed_read_of_a_join_over_time_goes_on(with_statistics):
    def doubled(x, mask=None):
        del mask
        return (2 * x, {"sum": x.sum()}) if with_statistics else 2 * x

    network = jax.jit(delayed_norm(doubled).__call__)
    _, whole = network(X)
    states, before = network(X[:5])
    past, statistics = states["norm"] if with_statistics else (states["norm"], None)
    np.testing.assert_array_equal(past, 2 * X[2:5])
    assert statistics is None or float(statistics["sum"]) == pytest.approx(float(X[:5].sum()))
    _, after = network(X[5:], states)
    np.testing.assert_array_equal(whole, jnp.concatenate([before, after]))


def test_finite_padding_stays_for_functions_that_are_singular_at_zero():
    mask = jnp.arange(len(X))[:, None] < jnp.array([[len(X), 4, 7]])

    def loss(w):
        network = Network(
            {
                "share": Join(lambda x, mask: x / x.sum(-1, keepdims=True), "input", over_time=True),
                "norm": Join(lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), "input"),
                "a": Layer({"share": w, "norm": w, "input": lambda x: jnp.log(x) @ w}, LIF(0.9, 0.5)),
            }
        )
        return network(1 + X**2, mask=mask)[1].sum()

    assert jnp.isfinite(jax.jit(jax.grad(loss))(PARAMS["stem"])).all()


def test_joins_over_time_share_a_stage_where_they_can():
    """One loop over time for each block: the sum of two blocks is computed in that of the second."""
    program = jax.make_jaxpr(functools.partial(residual(PARAMS), backward="scan"))(X)
    assert len([equation for equation in program.eqns if equation.primitive.name == "scan"]) == 3


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_function_of_whole_sequences_in_a_loop():
    w = PARAMS["stem"]
    with pytest.raises(
        ValueError, match=r"join 'norm' takes all steps at once.*through 'cell'; normalize the inputs of the loop"
    ):
        Network({"cell": Layer({"input": w, "norm": Delayed(w, 1)}, LIF()), "norm": Join(same, "cell", over_time=True)})


def test_a_network_that_needs_all_steps_has_no_step():
    network = residual(PARAMS)
    for call in (lambda: network.initial_state(X[0]), lambda: network.step({}, X[0])):
        with pytest.raises(TypeError, match=r"join 'stem norm' takes all steps at once.*fold a normalization"):
            call()


def norm_of(function):
    return Network({"norm": Join(function, "input", over_time=True), "out": Layer(same, LeakyReadout(0.9))})


def test_what_a_function_of_whole_sequences_must_take_and_return():
    with pytest.raises(TypeError, match=r"join 'norm': the call has a mask.*function\(..., mask\)"):
        norm_of(lambda x: x)(X, mask=jnp.ones(len(X), bool))
    with pytest.raises(TypeError, match=r"join 'norm': .*leading axes steps and examples, \(12, 3\).*got float32\[4\]"):
        norm_of(lambda x: x.mean((0, 1)))(X)


# --- inference ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 0])
def test_folded_weights_compute_the_normalized_currents(axis, x64):
    weight, x = RNG.normal(size=(5, UNITS)), RNG.normal(size=(BATCH, 5))
    bias, mean, shift = RNG.normal(size=(3, UNITS))
    var, gain = RNG.uniform(0.5, 2, UNITS), RNG.normal(size=UNITS)
    wanted = gain * (x @ weight + bias - mean) / np.sqrt(var + 1e-3) + shift
    given = weight if axis == -1 else weight.T
    folded, own = fold_normalization(given, bias, mean=mean, var=var, gain=gain, shift=shift, axis=axis, epsilon=1e-3)
    np.testing.assert_allclose(x @ (folded if axis == -1 else folded.T) + own[None], wanted, rtol=1e-12)
