"""Surrogates under every transformation equal the same surrogate called eagerly; nothing is traced
twice.

Those that ``check_surrogate`` knows are checked for every surrogate by test_testing.py.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compilations, few
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from reference import DEFAULTS, RULE, standing, with_arrays

import spikegrad

pytestmark = pytest.mark.oldest

some = pytest.mark.parametrize("case", standing(DEFAULTS, RULE), ids=repr)
X = jnp.concatenate(
    [jnp.linspace(-3, 3, 25), jnp.array([0.0, -0.0, 1e-3, -1e-3, 20.0, -20.0, 1e-30])]
).reshape(8, 4)


def loss(out):
    """Whose derivative is exact in every dtype, so that nothing but the slope is rounded."""
    return (out - out * out / 8).sum()


def of_loss(out):
    """That derivative."""
    return 1 - out / 4


def value_and_slope(surrogate, x):
    out, backward = jax.vjp(surrogate, x)
    return out, backward(of_loss(out))[0]


def scaled(surrogate, factors):
    """The surrogate with each parameter multiplied: one after another for a list, and stacked for
    an array.
    """
    return jax.tree.map(lambda value: value * factors, with_arrays(surrogate))


def check(got, expected, way=""):
    """Spikes bit for bit; slopes to four roundings, since XLA fuses a product and a sum into one
    rounding or two.
    """
    for a, b in zip(*(map(np.asarray, jax.tree.leaves(v)) for v in (got, expected)), strict=True):
        assert a.dtype == b.dtype
        if np.isin(b, (0, 1)).all():
            np.testing.assert_array_equal(a, b, err_msg=way)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=5e-7 * np.abs(b).max(), err_msg=way)


def check_each(found, expected):
    for way, got in found.items():
        check(got, expected, way)


WITHIN_JIT = {  # in one program
    "value_and_slope": value_and_slope,
    "grad": lambda s, x: (s(x), jax.grad(lambda x: loss(s(x)))(x)),
    "jvp": lambda s, x: jax.jvp(s, (x,), (of_loss(s(x)),)),
    "jit of the object": lambda s, x: value_and_slope(jax.jit(s), x),
    "vmap": lambda s, x: jax.vmap(lambda x: value_and_slope(s, x))(x),
    "nested vmap": lambda s, x: jax.vmap(jax.vmap(lambda x: value_and_slope(s, x), 0, 0), 1, 1)(x),
    "scan": lambda s, x: jax.lax.scan(lambda n, x: (n + 1, value_and_slope(s, x)), jnp.int32(0), x)[
        1
    ],
    "map": lambda s, x: jax.lax.map(lambda x: value_and_slope(s, x), x),
    "checkpoint": lambda s, x: value_and_slope(jax.checkpoint(s), x),
    "linearize": lambda s, x: (y := jax.linearize(s, x), (y[0], y[1](of_loss(y[0]))))[1],
    "cond": lambda s, x: jax.lax.cond(
        x.sum() > -1e9, lambda x: value_and_slope(s, x), lambda x: (x, x), x
    ),
    "while": lambda s, x: jax.lax.fori_loop(0, 2, lambda i, _: value_and_slope(s, x), (x, x)),
}


def ways(surrogate, x, names=WITHIN_JIT):
    return {name: WITHIN_JIT[name](surrogate, x) for name in names}


WAYS = {
    "an argument of jit": jax.jit(ways),
    "a constant of jit": lambda s, x: jax.jit(
        lambda x: ways(s, x, ("value_and_slope", "vmap", "scan"))
    )(x),
    "static": lambda s, x: {"": jax.jit(value_and_slope, static_argnums=0)(s, x)},
    "compiled ahead": lambda s, x: {"": jax.jit(value_and_slope).lower(s, x).compile()(s, x)},
    "without jit": lambda s, x: ways(s, x, ("jvp", "vmap", "linearize")),
}


@pytest.mark.parametrize("way", few(WAYS, "an argument of jit", "static"))
@some
def test_equals_eager(case, way):
    surrogate = case.make()
    check_each(WAYS[way](surrogate, X), value_and_slope(surrogate, X))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_equals_eager_in_half_precision(way):  # whose derivative takes another path
    surrogate, x = spikegrad.Arctan(), X.astype("bfloat16")
    check_each(WAYS[way](surrogate, x), value_and_slope(surrogate, x))


SETTINGS = {
    "learnable": spikegrad.learnable(spikegrad.Arctan(2.0)),
    "multi_spike": spikegrad.multi_spike(spikegrad.Arctan(2.0), 3, jnp.array(0.5)),
    "signed": spikegrad.signed(spikegrad.Arctan(2.0), jnp.array(0.5)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_of_a_compiled_vmap_are_those_of_each_example(name):
    """The threshold and other parameters are batched nowhere, their slopes are."""

    @jax.jit
    def gradients(surrogate, x):
        def each(surrogate, x):
            return jax.grad(lambda s, x: loss(s(x)), (0, 1))(surrogate, x)

        def batched(surrogate, x):
            return loss(jax.jit(jax.vmap(surrogate))(x))

        def over_time(x):
            return loss(
                jax.vmap(lambda x: spikegrad.unroll(spikegrad.LIF(0.9, 1.0, surrogate), x)[1])(
                    x[:, None]
                )
            )

        one_by_one = [each(surrogate, one) for one in x]
        parameters = jax.tree.map(
            lambda *each: sum(each), *[of_parameters for of_parameters, _ in one_by_one]
        )
        # a single step from rest: the spike of the current minus the threshold
        expected = [each(surrogate, one - 1)[1] for one in x]
        return (
            (
                jax.grad(batched, (0, 1))(surrogate, x),
                (parameters, jnp.stack([of_x for _, of_x in one_by_one])),
            ),
            (jax.grad(over_time)(x), jnp.stack(expected)),
        )

    for got, expected in gradients(SETTINGS[name], X):
        check(got, expected)


@some
def test_vmap_over_parameters(case):
    @jax.jit
    def slopes(
        surrogate, xs
    ):  # no constant: the XLA of JAX 0.6 folds a step of one along another axis wrongly
        factors = jnp.array([1.0, 0.625, 1.25])
        stacked, one_by_one = (
            scaled(surrogate, factors),
            [scaled(surrogate, factor) for factor in factors],
        )
        return {
            "same x": (
                jax.vmap(value_and_slope, (0, None))(stacked, X),
                _stack([value_and_slope(s, X) for s in one_by_one]),
            ),
            "an x for each": (
                jax.vmap(value_and_slope)(stacked, xs),
                each := _stack(
                    [value_and_slope(s, x) for s, x in zip(one_by_one, xs, strict=True)]
                ),
            ),
            "along another axis": (
                jax.vmap(value_and_slope, (0, -1))(stacked, jnp.moveaxis(xs, 0, -1)),
                each,
            ),
        }

    for way, (got, expected) in slopes(case.make(), jnp.stack([X, 2 * X, -X])).items():
        check(got, expected, way)


def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@some
def test_shard_map_over_devices(case):
    devices = jax.devices()
    assert len(devices) == 8
    mesh, spec = Mesh(np.array(devices), ("batch",)), PartitionSpec("batch")
    surrogate = case.make()
    x = jax.device_put(X, NamedSharding(mesh, spec))

    @jax.jit
    def split(surrogate, x):  # JAX splits the work itself, or is told to
        with_map = _shard_map(lambda x: value_and_slope(surrogate, x), mesh, spec)(x)
        outside = jax.grad(lambda x: loss(_shard_map(surrogate, mesh, spec)(x)))(x)
        return {
            "jit": value_and_slope(surrogate, x),
            "map": with_map,
            "grad of map": (with_map[0], outside),
        }

    found = split(surrogate, x)
    for out in jax.tree.leaves(found):  # shards are computed in place
        assert out.sharding.is_equivalent_to(x.sharding, x.ndim)
    check_each(jax.device_get(found), value_and_slope(surrogate, X))


def _shard_map(f, mesh, spec):
    if hasattr(jax, "shard_map"):
        return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)
    from jax.experimental.shard_map import shard_map  # noqa: PLC0415

    return shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)


@some
def test_export_round_trip(case):
    surrogate = case.make()
    exported = export.export(jax.jit(lambda x: value_and_slope(surrogate, x)))(X)
    loaded = export.deserialize(exported.serialize())
    check(loaded.call(X), value_and_slope(surrogate, X))
    # and once differentiated after the export
    spikes = export.deserialize(export.export(jax.jit(surrogate))(X).serialize(vjp_order=1))
    check(jax.grad(lambda x: loss(spikes.call(x)))(X), value_and_slope(surrogate, X)[1])


@some
def test_forward_alone_compiles_to_the_step(case):
    text = jax.jit(case.make()).lower(X).compile().as_text()
    operations = set(re.findall(r"= \S+ ([a-z][a-z0-9-]*)\(", text))
    step = {
        "parameter",
        "constant",
        "compare",
        "convert",
        "select",
        "broadcast",
        "fusion",
        "call",
        "copy",
        "bitcast",
    }
    assert operations <= step | {"iota", "not", "tuple"}, operations - step
    assert "compare" in operations  # the pattern does read the program


class Count:
    """A function of a surrogate that counts how often JAX runs it."""

    def __init__(self):
        self.traces = 0

    def __call__(self, surrogate, x):
        self.traces += 1
        return jax.grad(lambda x: surrogate(x).sum())(x)


@some
def test_another_parameter_does_not_trace_again(case):
    count, surrogate = Count(), case.make()
    jitted = jax.jit(count)
    for factor in (1.0, 0.625, 1.25):
        check(jitted(scaled(surrogate, factor), X), scaled(surrogate, factor).surrogate_grad(X))
    assert count.traces == 1


@pytest.mark.slow
@some
def test_eager_calls_with_other_parameters_do_not_compile_again(case):
    def use(surrogate):
        surrogate(X)
        surrogate.surrogate_fun(X)
        surrogate.surrogate_grad(X)
        jax.grad(lambda x: surrogate(x).sum())(X)
        jax.jvp(surrogate, (X,), (X,))

    surrogate = case.make()
    use(surrogate)
    first, *others = [scaled(surrogate, factor) for factor in (0.5, 1.25, 3.0)]
    use(first)
    assert compilations(lambda: [use(other) for other in others]) == 0
    assert compilations(lambda: jax.jit(lambda x: x + 3)(X)) == 1
