"""What was once wrong in the loop over time, and what it returns beside the outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODES, compilations, few

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Backward,
    Cell,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SynapticLIF,
    stochastic,
)

pytestmark = pytest.mark.oldest

rng = np.random.default_rng(0)


def array(*shape, scale=1.0):
    return jnp.asarray(rng.normal(0, scale, shape), jnp.float32)


X = jnp.asarray(rng.uniform(0, 1.5, (12, 3, 5)), jnp.float32)
W, R, OUT = array(5, 7, scale=0.7), array(7, 7, scale=0.4), array(7, 4)


def build(w=W, r=R, out=OUT, cell=LIF):
    return Network([Layer(w, cell(0.8), r), Layer(out, LeakyReadout(0.9))])


def relative(got, expected):
    """Of all leaves together, by the Euclidean norm."""
    a, b = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (got, expected)
    )
    assert np.any(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


LONG = Backward("half", chunk=3, segment=6)
"""With a chunk and a segment that are longer than the sequence."""


@pytest.mark.parametrize("mode", few([*MODES, LONG], "recompute", LONG))
def test_fewer_steps_than_layers(mode):
    network = Network([Layer(jnp.eye(5), LIF(threshold=0.1))] * 3)
    ends, outs = network(X[:1], backward=mode)
    assert outs.shape == (1, 3, 5)
    after, out = network.step(network.initial_state(X[0]), X[0])
    assert jnp.array_equal(outs[0], out)
    assert out.sum() > 0
    assert all(map(jnp.array_equal, jax.tree.leaves(ends), jax.tree.leaves(after)))


def test_the_mask_of_inputs_without_a_batch():
    """Its second axis would be that of the neurons."""
    network = Network([Layer(W, LIF())])
    with pytest.raises(
        ValueError, match=r"mask must be of bool and of shape .*, here of \(12,\), got"
    ):
        network(X[:, 0], mask=np.ones((12, 5), bool))
    mask = np.arange(12) % 3 > 0
    got = network(X[:, 0], mask=mask)[1]
    assert jnp.array_equal(got, network(X, mask=mask)[1][:, 0])
    assert not jnp.any(got[::3])


@pytest.mark.slow
def test_on_one_device_steps_and_examples_are_one_axis(monkeypatch):
    def gradient(mode):
        return jax.jit(jax.grad(lambda w: build(w)(X, backward=mode)[1].sum()))(W)

    several = gradient("exact")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    jax.clear_caches()
    assert relative(gradient("exact"), several) < 1e-6
    jax.clear_caches()


class Dividing(Cell):
    """Starts at 1, and must never be asked at 0, where it has no derivative."""

    def initial_state(self, shape, dtype):
        return jnp.ones(shape, dtype)

    def integrate(self, v, current):
        return 0.5 / v + current

    def fire(self, u):
        return 1 + u * u + jnp.log(u), Sigmoid(2.0)(u - 1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(MODES, "8-bit"))
def test_no_derivative_of_states_that_never_were(mode):
    x = jnp.abs(X)
    mask = jnp.asarray(rng.uniform(size=(12, 3)) < 0.5).at[:3].set(False)

    def loss(w, mode):
        return Network([Layer(w, Dividing()), Layer(jnp.abs(R), Dividing())])(
            x, backward=mode, mask=mask
        )[1].sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    assert jnp.all(jnp.isfinite(gradient(jnp.abs(W), mode)))
    assert relative(gradient(jnp.abs(W), mode), gradient(jnp.abs(W), "scan")) < 1e-5


CELLS = {
    "LIF": lambda t, d: LIF(d, t, Sigmoid(4 / t)),
    "SynapticLIF": lambda t, d: SynapticLIF(d, t, Sigmoid(4 / t), synaptic_decay=0.8 * d / 0.9),
    "AdaptiveLIF": lambda t, d: AdaptiveLIF(
        d, t, Sigmoid(4 / t), adaptation=0.2 * t, adaptation_decay=0.95 * d / 0.9
    ),
}


@functools.cache
def gradients_at(cell, mode):
    """Of the weights and of all decays, in one program for all thresholds, which are in the unit of
    the potential.
    """
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(100, 8, 5)) < 0.2, jnp.float32)

    def loss(p, threshold):
        w, r, out, decay, leak = p
        layers = [
            Layer(w * threshold, CELLS[cell](threshold, decay), r * threshold),
            Layer(out * threshold, LeakyReadout(leak)),
        ]
        return (
            jnp.cos(jnp.arange(4.0))[None, None] * Network(layers)(x, backward=mode)[1] / threshold
        ).mean()

    p = W + 0.3, R / 4, OUT, jnp.float32(0.9), jnp.float32(0.95)
    return jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(
        p, jnp.float32([0.01, 0.1, 1, 10, 100])
    )


@pytest.mark.slow
@pytest.mark.parametrize("cell", few(CELLS, "SynapticLIF"))
@pytest.mark.parametrize(
    ("mode", "of_weights", "of_decays"),
    [pytest.param("half", 2e-4, 3e-3, marks=pytest.mark.every), ("8-bit", 5e-3, 5e-2)],
)
def test_errors_of_few_bits_at_thresholds_of_any_size(mode, of_weights, of_decays, cell):
    """Of each parameter by itself. A decay is one number, the sum of terms of both signs; a
    readout's is kept well.
    """
    limits = of_weights, of_weights, 1e-6, of_decays, 1e-3
    both = (jax.tree.map(np.asarray, gradients_at(cell, each)) for each in (mode, "exact"))
    for got, expected, limit in zip(*both, limits, strict=True):
        for n in range(5):
            assert relative(got[n], expected[n]) < limit


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(MODES, "8-bit"))
def test_nan_and_infinity_stay_what_they_are(mode):
    x = X.at[4, 1, 2].set(jnp.nan).at[4, 2, 2].set(jnp.inf)
    w = jnp.abs(W)

    def alone(x):
        return jax.grad(lambda x: build(w)(x[:, None], backward=mode)[1].sum())(x)

    got = jax.jit(jax.vmap(alone, 1, 1))(x)
    assert jnp.all(jnp.isnan(got[:5, 1]))  # a broken potential does not pass as a number
    assert jnp.all(jnp.isfinite(got[:, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(MODES, "8-bit"))
def test_without_jit_a_network_is_compiled_once(mode):
    def run(w):
        return jax.value_and_grad(lambda w: build(w)(X, backward=mode)[1].sum())(w)

    assert compilations(lambda: run(W)) > 0
    assert compilations(lambda: run(W + 1)) <= 1  # the sum


def test_equal_layers_share_the_trace_of_their_cell():
    class Counted(LIF, pure=True):
        def integrate(self, v, current):
            calls.append(self)
            return super().integrate(v, current)

    calls = []
    network = Network([Layer(R, Counted())] * 7)
    jax.make_jaxpr(jax.grad(lambda network: network(jnp.ones((12, 3, 7)))[1].sum()))(network)
    assert len(calls) == 1


# JAX looks for leaks through all objects that there are.
@pytest.mark.parametrize("mode", few(MODES, ci=("exact", "scan")))
def test_tracers_do_not_leak(mode):
    def of_a_function(w, r):
        return Network([Layer(lambda x: x @ w, LIF(), r), Layer(r, LIF())])(X, backward=mode)[
            1
        ].sum()

    with jax.checking_leaks():
        jax.grad(of_a_function, (0, 1))(W, R)
        jax.jit(jax.grad(of_a_function, (0, 1)))(W, R)


@pytest.mark.slow
def test_every_mode_lowers_for_every_platform():
    def convolve(kernel, x):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def loss(w, kernel, mode):
        outs = build(w)(X, backward=mode)[1]
        images = jnp.ones((4, 2, 6, 6, 1))
        return (
            outs.sum()
            + Network([Layer(functools.partial(convolve, kernel), LIF())])(images, backward=mode)[
                1
            ].sum()
        )

    for mode in MODES:
        traced = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2).trace(
            W, jnp.ones((3, 3, 1, 4)), mode
        )
        lowered = traced.lower(lowering_platforms=("cuda", "rocm", "tpu")).as_text()
        assert "custom_call" not in lowered or "annotate" in lowered


@pytest.mark.slow
def test_export_with_an_open_batch():
    from jax import export  # noqa: PLC0415

    (batch,) = export.symbolic_shape("b")
    network = Network([Layer(W, LIF(), R)])
    run = jax.jit(jax.grad(lambda x: network(x, backward="8-bit")[1].sum()))
    exported = export.export(run)(jax.ShapeDtypeStruct((12, batch, 5), jnp.float32))
    assert relative(exported.call(X), run(X)) < 1e-6


@pytest.mark.slow
def test_a_network_as_labels():
    """It can be called, and a function that takes a pytree or a callable would call it."""
    optax = pytest.importorskip("optax")
    network = build(cell=lambda decay: LIF(jnp.array(decay)))
    labels = jax.tree.map(lambda leaf: "trained" if leaf.ndim == 2 else "kept", network)
    optimizer = optax.multi_transform(
        {"trained": optax.sgd(0.1), "kept": optax.set_to_zero()}, lambda params: labels
    )
    gradient = jax.grad(lambda network: network(X)[1].sum())(network)
    updates, _ = optimizer.update(gradient, optimizer.init(network))
    assert jnp.any(updates.layers[0].weight != 0)
    assert updates.layers[0].cell.decay == 0


@pytest.mark.slow
def test_the_backward_pass_draws_the_spikes_of_the_forward_pass():
    """The join reads all steps, so the backward pass computes the spikes again from what is
    stored.
    """
    mask = np.arange(12)[:, None] < [12, 7, 1]
    cell = LIF(0.8, 0.3, stochastic(Sigmoid()))

    @jax.grad
    def gradient(weights, mode):
        w, r, out = weights
        sums = Join(lambda s, mask: jnp.cumsum(s, 0), of="hidden", over_time=True)
        readout = Layer(out, LeakyReadout(0.9), of="sums")
        network = Network({"hidden": Layer(w, cell, r), "sums": sums, "out": readout})
        return jnp.sum(network(X, key=jax.random.key(1), mask=mask, backward=mode)[1] ** 2)

    modes = "scan", Backward(chunk=1)
    expected, got = jax.jit(lambda weights: [gradient(weights, mode) for mode in modes])(
        (W, R, OUT)
    )
    assert relative(got, expected) < 1e-5
