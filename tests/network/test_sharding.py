"""Several devices, the ordinary way: batches and networks that are sharded are computed where they
are.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODES, STORAGES, few
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from networks import assert_close

import spikegrad
from spikegrad import (
    ERF,
    LIF,
    AdaptiveLIF,
    Arctan,
    Backward,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    unroll,
)

pytestmark = pytest.mark.newest

STEPS, BATCH, DEVICES = 20, 64, 4
KINDS = ("recurrent", "convolutional")
rng = np.random.default_rng(0)


def label(value):
    return getattr(value, "__name__", value)


def array(*shape, scale=1.0):
    return jnp.asarray(rng.normal(0, scale, shape), jnp.float32)


WEIGHTS = {
    "recurrent": (array(24, 32, scale=0.4), array(32, 32, scale=0.2), array(32, 4)),
    "convolutional": (array(3, 3, 2, 8, scale=0.5), array(3, 3, 8, 4, scale=0.3)),
}
INPUTS = {
    "recurrent": jnp.asarray(rng.uniform(0, 1.5, (STEPS, BATCH, 24)), jnp.float32),
    "convolutional": jnp.asarray(rng.uniform(0, 1.5, (STEPS, BATCH, 6, 6, 2)), jnp.float32),
}

MASK = jnp.asarray(rng.uniform(size=(STEPS, BATCH)) < 0.9)


def convolve(kernel, x):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def build(kind, weights):
    if kind == "convolutional":
        return Network([Layer(functools.partial(convolve, kernel), LIF()) for kernel in weights])
    first, second, out = weights
    return Network([Layer(first, AdaptiveLIF(), second), Layer(out, LeakyReadout())])


def loss(weights, x, mask=None, *, kind, **options):
    out = build(kind, weights)(x, mask=mask, **options)[1]
    return (out**2).mean()


def mesh_of(axis_type):
    if axis_type == AxisType.Explicit and not hasattr(jax, "set_mesh"):
        pytest.skip("this JAX has no jax.set_mesh")
    return jax.make_mesh(
        (DEVICES,), ("batch",), axis_types=(axis_type,), devices=jax.devices()[:DEVICES]
    )


@functools.cache
def quarter(kind, mode):
    """The compiled gradient of a quarter of the batch on one device."""
    gradient = jax.jit(jax.grad(functools.partial(loss, kind=kind, backward=mode)))
    return gradient.lower(
        WEIGHTS[kind], *jax.tree.map(lambda a: a[:, ::DEVICES], (INPUTS[kind], MASK))
    ).compile()


def one_device(kind, mode, weights=None):
    """The gradient of the batch: the mean of its quarters."""
    x, mask = np.asarray(INPUTS[kind]), np.asarray(MASK)
    run, weights = quarter(kind, mode), WEIGHTS[kind] if weights is None else weights
    parts = [run(weights, x[:, n::DEVICES], mask[:, n::DEVICES]) for n in range(DEVICES)]
    return jax.tree.map(lambda *parts: np.mean(parts, 0), *parts)


def placed(kind, mesh):
    batch, all_of_it = NamedSharding(mesh, P(None, "batch")), NamedSharding(mesh, P())
    return jax.device_put((WEIGHTS[kind], INPUTS[kind], MASK), (all_of_it, batch, batch))


def by_jit(run, kind):
    return jax.jit(jax.grad(run)), placed(kind, mesh_of(AxisType.Auto))


def by_explicit_mesh(run, kind):
    mesh = mesh_of(AxisType.Explicit)
    jax.set_mesh(mesh)
    return jax.jit(jax.grad(run)), placed(kind, mesh)


@pytest.fixture(autouse=True)
def _mesh_is_unset():
    yield
    if hasattr(jax, "set_mesh"):
        jax.set_mesh(None)


def by_shard_map(run, kind):
    mesh = mesh_of(AxisType.Auto)
    specs = (P(), P(None, "batch"), P(None, "batch"))
    mean = lambda *args: jax.lax.pmean(run(*args), "batch")  # noqa: E731
    if hasattr(jax, "shard_map"):
        split = jax.shard_map(mean, mesh=mesh, in_specs=specs, out_specs=P())
    else:
        from jax.experimental.shard_map import shard_map  # noqa: PLC0415

        split = shard_map(mean, mesh, specs, P())
    return jax.jit(jax.grad(split)), placed(kind, mesh)


WAYS = by_jit, by_explicit_mesh, by_shard_map
BY_DEFAULT = ("recurrent", "8-bit", by_jit), ("convolutional", "exact", by_explicit_mesh)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mode", "way"), few(itertools.product(KINDS, MODES, WAYS), *BY_DEFAULT), ids=label
)
def test_a_sharded_batch(kind, mode, way):
    """No device gathers the batch of the others, each takes the memory of its share, the gradient
    is that of one.
    """
    gradient, args = way(functools.partial(loss, kind=kind, backward=mode), kind)
    compiled = gradient.lower(*args).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
    assert memory_of(compiled) <= 1.1 * memory_of(quarter(kind, mode))
    # what is kept in few bits is rounded there after a sum in another order
    assert_close(compiled(*args), one_device(kind, mode), 1e-3 if mode in STORAGES else 1e-5)


def memory_of(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_an_explicit_mesh_that_the_arrays_alone_know_and_without_jit():
    mesh, expected = mesh_of(AxisType.Explicit), one_device("recurrent", "exact")
    args, gradient = placed("recurrent", mesh), jax.grad(functools.partial(loss, kind="recurrent"))
    assert_close(jax.jit(gradient)(*args), expected, 1e-5)
    jax.set_mesh(mesh)
    assert_close(gradient(*args), expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["8-bit", "recompute"])
def test_networks_side_by_side_one_a_device(mode):
    networks = [
        jax.tree.map(lambda w, scale=scale: scale * w, WEIGHTS["recurrent"])
        for scale in (1.0, 1.1, 0.9, 1.2)
    ]
    weights = jax.tree.map(lambda *w: jnp.stack(w), *networks)
    one = functools.partial(loss, x=INPUTS["recurrent"], mask=MASK, kind="recurrent", backward=mode)
    gradient = jax.jit(jax.vmap(jax.grad(one)))
    sharded = jax.device_put(weights, NamedSharding(mesh_of(AxisType.Auto), P("batch")))
    compiled = gradient.lower(sharded).compile()
    assert "all-gather" not in compiled.as_text()
    expected = [one_device("recurrent", mode, weights) for weights in networks]
    assert_close(
        compiled(sharded),
        jax.tree.map(lambda *w: np.stack(w), *expected),
        1e-3 if mode in STORAGES else 1e-5,
    )


@functools.cache
def numbers_for_all():
    """A function of numbers that no device has a share of, and of ``x``; and its gradient."""
    curve = spikegrad.truncated(spikegrad.shifted(ERF(), 0.1), 0.9)
    curve = spikegrad.learnable(spikegrad.multi_spike(curve, 2, 0.8, "nearest"))
    x = jnp.linspace(-1, 2, 2 * DEVICES)

    def run(curve, x):
        return (curve(x) * x).sum() + unroll(LIF(surrogate=spikegrad.signed(Arctan())), x[None])[
            1
        ].sum()

    return run, (curve, x), jax.jit(jax.grad(run, (0, 1)))(curve, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "axis_type", [AxisType.Explicit, AxisType.Auto], ids=["explicit mesh", "shard_map"]
)
def test_gradients_of_numbers_of_surrogates(axis_type):
    """Those of ``learnable``, of thresholds of kinds of spike and of compositions."""
    if not hasattr(jax, "shard_map"):
        pytest.skip("this JAX has it elsewhere")
    total, (curve, x), expected = numbers_for_all()
    run, mesh = total, mesh_of(axis_type)
    if axis_type == AxisType.Explicit:
        jax.set_mesh(mesh)
    else:
        of_all = lambda *args: jax.lax.psum(total(*args), "batch")  # noqa: E731
        run = jax.shard_map(of_all, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P())
    got = jax.jit(jax.grad(run, (0, 1)))(curve, jax.device_put(x, NamedSharding(mesh, P("batch"))))
    assert_close(got, expected, 1e-5)


@pytest.mark.slow
def test_drawn_spikes_on_an_explicit_mesh():
    """With a mask of each example, the number of its last step, which keys are made of, is sharded
    as well.
    """
    weights, x = array(4, 3), array(5, 2 * DEVICES, 4)
    mask = jnp.asarray(rng.uniform(size=x.shape[:2]) < 0.7)

    def run(weights, x, mask):
        network = Network([Layer(weights, LIF(surrogate=spikegrad.stochastic(Sigmoid())))])
        return network(x, mask=mask, backward=Backward(truncate=2), key=jax.random.key(0))[1].sum()

    expected = jax.jit(jax.grad(run))(weights, x, mask)
    mesh = mesh_of(AxisType.Explicit)
    jax.set_mesh(mesh)
    batch = NamedSharding(mesh, P(None, "batch"))
    args = jax.device_put((weights, x, mask), (NamedSharding(mesh, P()), batch, batch))
    assert_close(jax.jit(jax.grad(run))(*args), expected, 1e-5)
