"""Functions of whole sequences within a network, such as batch normalization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spikegrad import LIF, Delayed, Join, Layer, LeakyReadout, Network
from spikegrad.network import fold_normalization
from spikegrad.reports import residual_report

pytestmark = pytest.mark.newest

BATCH, UNITS = 3, 4
CELL = LIF(0.8, 0.6)


def normalized(x, gain):
    """Batch normalization, and its statistics."""
    mean, var = x.mean((0, 1), keepdims=True), x.var((0, 1), keepdims=True)
    return gain[None, None] * (x - mean) / jnp.sqrt(var + 1e-5), {"mean": mean, "var": var}


RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0, 1.5, (12, BATCH, UNITS)), jnp.float32)
PARAMS = {
    **{
        name: jnp.asarray(RNG.normal(0.2, 0.7, (UNITS, UNITS)), jnp.float32)
        for name in ("stem", "branch", "deep")
    },
    "gain": jnp.asarray(RNG.uniform(0.5, 1.5, UNITS), jnp.float32),
}


def same(x):
    return x


def residual(params):
    """Two blocks of weights, batch normalization and neurons, and a sum that skips the second."""

    def block(name, of):
        norm = Join(lambda x: normalized(x @ params[name], params["gain"]), of, over_time=True)
        return {f"{name} norm": norm, name: Layer(same, CELL)}

    blocks = block("stem", "input") | block("branch", "stem")
    return Network(blocks | {"sum": Join(jnp.add, ("stem", "branch"))} | block("deep", "sum"))


@pytest.mark.parametrize(("mode", "arrays"), [("exact", 3), ("half", 1.5), ("8-bit", 0.94)])
def test_only_the_states_of_the_layers_are_kept(mode, arrays):
    x = jnp.zeros((60, 8, UNITS))
    bytes_of_a_layer = 4 * x.size
    report = residual_report(lambda p: residual(p)(x, backward=mode)[1].sum(), PARAMS)
    assert report.bytes <= 1.01 * arrays * bytes_of_a_layer


def test_a_delayed_read_of_a_join_over_time_goes_on():
    doubled = Join(lambda x: (2 * x, {"sum": x.sum()}), "input", over_time=True)
    readout = Layer({"norm": Delayed(PARAMS["stem"], 3)}, LeakyReadout(0.9))
    network = jax.jit(Network({"norm": doubled, "out": readout}))
    _, whole = network(X)
    states, before = network(X[:5])
    past, statistics = states["norm"]
    np.testing.assert_array_equal(past, 2 * X[2:5])
    assert float(statistics["sum"]) == pytest.approx(float(X[:5].sum()))
    _, after = network(X[5:], states)
    np.testing.assert_array_equal(whole, jnp.concatenate([before, after]))


@pytest.mark.slow
def test_finite_padding_stays_for_functions_that_are_singular_at_zero():
    mask = jnp.arange(len(X))[:, None] < jnp.array([[len(X), 4, 7]])

    def loss(w):
        network = Network(
            {
                "share": Join(
                    lambda x, mask: x / x.sum(-1, keepdims=True), "input", over_time=True
                ),
                "norm": Join(lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), "input"),
                "a": Layer(
                    {"share": w, "norm": w, "input": lambda x: jnp.log(x) @ w}, LIF(0.9, 0.5)
                ),
            }
        )
        return network(1 + X**2, mask=mask)[1].sum()

    assert jnp.isfinite(jax.jit(jax.grad(loss))(PARAMS["stem"])).all()


def test_joins_over_time_share_a_stage_where_they_can():
    """One loop over time for each block: the sum of two blocks is computed in that of the
    second.
    """
    program = jax.make_jaxpr(functools.partial(residual(PARAMS), backward="scan"))(X)
    assert len([equation for equation in program.eqns if equation.primitive.name == "scan"]) == 3


def joined(function):
    return Network(
        {"norm": Join(function, "input", over_time=True), "out": Layer(same, LeakyReadout(0.9))}
    )


LOOP = {"input": PARAMS["stem"], "norm": Delayed(PARAMS["stem"], 1)}


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            r"join 'norm' takes all steps at once.*through 'cell'; normalize the inputs of the "
            r"loop",
            lambda: Network(
                {"cell": Layer(LOOP, LIF()), "norm": Join(same, "cell", over_time=True)}
            ),
        ),
        (
            r"'stem norm' takes all steps at once.*fold a norm",
            lambda: residual(PARAMS).initial_state(X[0]),
        ),
        (
            r"'stem norm' takes all steps at once.*fold a norm",
            lambda: residual(PARAMS).step({}, X[0]),
        ),
        (
            r"join 'norm': function must take the mask of the call; write it as function\(input, "
            r"mask=None\)",
            lambda: joined(same)(X, mask=jnp.ones(12, bool)),
        ),
        (
            r"states of layer 'out' must be a pair \(state of the cell, last output\), got "
            r"'float32\[3, 4\]'",
            lambda: joined(same)(X, {"out": X[0]}),
        ),
        (
            r"join 'norm': .*leading axes steps and examples, \(12, 3\).*got .*float32\[4\]",
            lambda: joined(lambda x: x.mean((0, 1)))(X),
        ),
    ],
)
def test_functions_of_whole_sequences_that_are_refused(message, call):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("axis", [-1, 0])
def test_folded_weights_compute_the_normalized_currents(axis, x64):
    weight, x = RNG.normal(size=(5, UNITS)), RNG.normal(size=(BATCH, 5))
    bias, mean, shift = RNG.normal(size=(3, UNITS))
    var, gain = RNG.uniform(0.5, 2, UNITS), RNG.normal(size=UNITS)
    wanted = gain * (x @ weight + bias - mean) / np.sqrt(var + 1e-3) + shift
    given = weight if axis == -1 else weight.T
    folded, own = fold_normalization(
        given, bias, mean=mean, var=var, gain=gain, shift=shift, axis=axis, epsilon=1e-3
    )
    np.testing.assert_allclose(
        x @ (folded if axis == -1 else folded.T) + own[None], wanted, rtol=1e-12
    )
