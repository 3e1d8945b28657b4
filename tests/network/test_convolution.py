"""Convolutions in canonical form: the same values and derivatives, wherever the equations stand."""

import functools
import re
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import enable_x64
from jax import lax

from spikegrad import LIF, Backward, Join, Layer, LeakyReadout, Network
from spikegrad.network.engine._convolution import canonical, has_convolution

pytestmark = pytest.mark.newest

ORDERS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
CHANNELS_FIRST = ("NCHW", "OIHW", "NCHW")
CPU = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="what the compiler for CPU is given"
)


class Case(NamedTuple):
    """A convolution of images ``NHWC`` with a kernel ``HWIO``, in some order of their axes."""

    image: tuple = (3, 6, 5, 8)
    kernel: tuple = (3, 2, 8, 12)
    order: tuple = ORDERS[2]
    dtype: str = "float32"
    options: dict = MappingProxyType({})

    def function(self):
        options = {
            "window_strides": (1,) * (len(self.image) - 2),
            "padding": "SAME",
            **self.options,
        }
        return functools.partial(lax.conv_general_dilated, dimension_numbers=self.order, **options)

    def operands(self, whole=False):
        """Random normal numbers, or whole ones, of which a sum is the same in every order."""
        rng, canonical_order = np.random.default_rng(0), ORDERS[len(self.image) - 2]
        for shape, order, letters in zip(
            (self.image, self.kernel), self.order, canonical_order, strict=False
        ):
            shape = [shape[letters.index(letter)] for letter in order]
            yield jnp.asarray(
                rng.integers(-2, 3, shape) if whole else rng.normal(size=shape), self.dtype
            )


CASES = {
    "2d": Case(),
    "1d": Case((3, 9, 8), (4, 8, 12), ORDERS[1]),
    "3d": Case((2, 4, 5, 3, 8), (3, 2, 2, 8, 6), ORDERS[3]),
    "channels-first": Case(order=CHANNELS_FIRST),
    "axes-anywhere": Case(order=("CWNH", "WOIH", "HNCW")),
    "valid": Case(options={"padding": "VALID"}),
    "padding": Case(options={"padding": ((2, 0), (-1, 3))}),
    "strides": Case(options={"window_strides": (2, 3)}),
    "strides-channels-first": Case(order=CHANNELS_FIRST, options={"window_strides": (2, 2)}),
    "kernel-dilation": Case(options={"rhs_dilation": (2, 1)}),
    "image-dilation": Case(options={"lhs_dilation": (2, 3), "padding": ((1, 2), (0, 1))}),
    "one-by-one": Case(kernel=(1, 1, 8, 12)),
    "one-channel": Case((3, 6, 5, 1), (3, 3, 1, 12)),
    "groups": Case((3, 6, 5, 16), (3, 2, 8, 12), options={"feature_group_count": 2}),
    "groups-strides": Case(
        (3, 6, 5, 16), (3, 3, 8, 12), CHANNELS_FIRST, options={"feature_group_count": 2}
    ),
    "depthwise": Case(kernel=(3, 3, 1, 16), options={"feature_group_count": 8}),
    "groups-of-the-batch": Case((18, 6, 5, 8), (3, 2, 8, 18), options={"batch_group_count": 3}),
    "float16": Case(dtype="float16"),
    "bfloat16": Case(dtype="bfloat16"),
    "float64": Case(dtype="float64"),
    "integers": Case(dtype="int32"),
    "wider-result": Case(dtype="bfloat16", options={"preferred_element_type": jnp.float32}),
    "precision": Case(options={"precision": lax.Precision.HIGHEST}),
}
NO_GRADIENT = ["integers"] + ["wider-result"] * (jax.version.__version_info__ < (0, 8))
GROUPED = [name for name in CASES if name.startswith(("groups", "depthwise"))]


def with_derivatives(function):
    def call(x, kernel, cotangent):
        out, back = jax.vjp(function, x, kernel)
        return out, *back(cotangent)

    return call


def traced(name):
    """A case as a function: the result, and both gradients if it has them."""
    case = CASES[name]
    x, kernel = case.operands(whole=name in GROUPED or name == "integers")
    if name in NO_GRADIENT:
        return lambda *args: [case.function()(*args)], (x, kernel)
    out = jax.eval_shape(case.function(), x, kernel)
    cotangent = jnp.asarray(np.random.default_rng(1).integers(-2, 3, out.shape), out.dtype)
    return with_derivatives(case.function()), (x, kernel, cotangent)


@pytest.fixture(scope="module")
def results():
    """Of each case what the function returns, and what its canonical form returns: one program for
    all of them.
    """
    with enable_x64():
        functions, args = zip(*map(traced, CASES), strict=True)
        both = jax.jit(
            lambda args: [(f(*a), canonical(f)(*a)) for f, a in zip(functions, args, strict=True)]
        )
        return dict(zip(CASES, jax.device_get(both(args)), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_the_same_bits(results, name):
    """With whole numbers where sums are taken in another order: in groups."""
    for expected, got in zip(*results[name], strict=True):
        assert got.dtype == expected.dtype
        assert np.any(expected != 0)
        np.testing.assert_array_equal(got, expected)


def convolutions(jaxpr, on="cpu"):
    """The parameters of all convolutions, of those that depend on the platform the ones for this
    platform.
    """
    for eqn in jaxpr.eqns:
        inner = [
            leaf for leaf in jax.tree.leaves(list(eqn.params.values())) if hasattr(leaf, "eqns")
        ]
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn.params
        elif eqn.primitive.name == "cond":
            yield from convolutions(inner[0 if on == "cpu" else 1], on)
        else:
            for nested in inner:
                yield from convolutions(nested, on)


def is_canonical(params):
    image, kernel, out = params["dimension_numbers"]
    n = len(image) - 2
    last = (0, n + 1, *range(1, n + 1))
    return (image, kernel, out) == (last, (n + 1, n, *range(n)), last) and params[
        "batch_group_count"
    ] == 1


LEFT_ALONE = ("depthwise", "few-channels")


@pytest.mark.parametrize("name", [name for name in CASES if name not in LEFT_ALONE])
def test_all_convolutions_are_canonical(name):
    with enable_x64():
        function, args = traced(name)
        before = list(convolutions(jax.make_jaxpr(function)(*args)))
        after = list(convolutions(jax.make_jaxpr(canonical(function))(*args)))
        elsewhere = list(convolutions(jax.make_jaxpr(canonical(function))(*args), on="cuda"))
    assert len(after) == len(before) == (1 if name in NO_GRADIENT else 3)
    assert name in NO_GRADIENT or not all(map(is_canonical, before))
    assert all(map(is_canonical, after))
    assert elsewhere == before


@pytest.mark.parametrize("name", ["depthwise", "few-channels", "canonical"])
def test_left_alone_where_nothing_is_gained(name):
    case = {
        "few-channels": Case(
            (3, 6, 5, 8), (3, 2, 4, 8), CHANNELS_FIRST, options={"feature_group_count": 2}
        ),
        "canonical": Case(),
    }.get(name) or CASES[name]
    function, args = case.function(), tuple(case.operands())
    assert str(jax.make_jaxpr(canonical(function))(*args)) == str(jax.make_jaxpr(function)(*args))


CONVOLVE = CASES["channels-first"].function()


@jax.custom_jvp
def own_jvp(x, kernel):
    return CONVOLVE(x, kernel)


@own_jvp.defjvp
def _own_jvp(primals, tangents):
    return own_jvp(*primals), 3 * jax.jvp(CONVOLVE, primals, tangents)[1]


@jax.custom_vjp
def own_vjp(x, kernel):
    return CONVOLVE(x, kernel)


own_vjp.defvjp(
    lambda x, kernel: (own_vjp(x, kernel), (x, kernel)),
    lambda kept, g: tuple(3 * ct for ct in jax.vjp(CONVOLVE, *kept)[1](g)),
)


def within_scan(x, kernel):
    return lax.scan(lambda c, x: (c + 1, CONVOLVE(x, kernel)), 0, x[None])[1][0]


def within_while(x, kernel):
    def body(carry):
        return carry[0] + 1, CONVOLVE(x, kernel)

    return lax.while_loop(
        lambda carry: carry[0] < 2, body, (0, jnp.zeros_like(CONVOLVE(x, kernel)))
    )[1]


NESTED = {
    "jit": jax.jit(CONVOLVE),
    "jit-in-jit": jax.jit(lambda *args: jax.nn.relu(jax.jit(CONVOLVE)(*args))),
    "checkpoint": jax.checkpoint(lambda *args: jax.nn.relu(CONVOLVE(*args))),
    "custom_jvp": own_jvp,
    "custom_vjp": own_vjp,
    "cond": lambda x, kernel: lax.cond(
        x[0, 0, 0, 0] > 0, CONVOLVE, lambda *args: 2 * CONVOLVE(*args), x, kernel
    ),
    "scan": within_scan,
    "while": within_while,
    "canonical": canonical(CONVOLVE),
}


@pytest.fixture(scope="module")
def nested_results():
    args = tuple(CASES["channels-first"].operands(whole=True))

    def both(args):
        def gradients(function):
            return jax.grad(lambda *args: jnp.sum(function(*args) ** 2), argnums=(0, 1))(*args)

        rows = {}
        for name, f in NESTED.items():
            rows[name] = [(f(*args), canonical(f)(*args))]
            if name != "while":  # has no gradient
                of_gradients = functools.partial(gradients, f)
                rows[name] += [
                    (gradients(f), gradients(canonical(f))),
                    (gradients(f), canonical(of_gradients)()),
                ]
        return rows

    return jax.device_get(jax.jit(both)(args))


@pytest.mark.parametrize("name", NESTED)
def test_nested_convolutions(nested_results, name):
    """The function and its gradient, also by a rule of its own, which is kept."""
    args = tuple(CASES["channels-first"].operands())
    assert has_convolution(jax.make_jaxpr(NESTED[name])(*args))
    assert not has_convolution(jax.make_jaxpr(jnp.tanh)(*args[:1]))
    gradient = jax.grad(lambda *args: jnp.sum(NESTED[name](*args)), argnums=(0, 1))
    for function in (NESTED[name], gradient) if name != "while" else (NESTED[name],):
        found = list(convolutions(jax.make_jaxpr(canonical(function))(*args)))
        assert found
        assert all(map(is_canonical, found))
    for expected, got in nested_results[name]:
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    if name.startswith("custom"):
        jax.tree.map(
            lambda got, plain: np.testing.assert_array_equal(got, 3 * plain),
            got,
            nested_results["jit"][1][0],
        )


def test_pytrees_and_what_a_function_closes_over():
    def call(form, kernel, x):
        function = form(
            lambda tree, nothing, scale: {
                "out": scale * CONVOLVE(tree["x"], kernel),
                "nothing": nothing,
            }
        )
        return function({"x": x}, None, 2.0)

    def results(form, x, kernel):
        return call(form, kernel, x), jax.grad(
            lambda kernel: jnp.sum(call(form, kernel, x)["out"])
        )(kernel)

    plain, ours = jax.jit(
        lambda *args: [results(form, *args) for form in (lambda f: f, canonical)]
    )(*CASES["channels-first"].operands())
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


def with_joins(kernel, out):
    """Two convolutions in joins, and a readout."""
    convolve = functools.partial(CONVOLVE, rhs=kernel)
    spikes = Layer(lambda current: current, LIF(0.5))
    return Network(
        {
            **{
                "input conv": Join(convolve, "input"),
                "a": spikes,
                "conv": Join(convolve, "a"),
                "b": spikes,
            },
            "readout": Layer(lambda x: x.mean((2, 3)) @ out, LeakyReadout(0.5)),
        }
    )


def with_layers(kernel, out):
    """The network of ``with_joins``, with the convolutions in the layers."""
    convolution = Layer(functools.partial(CONVOLVE, rhs=kernel), LIF(0.5))
    return Network(
        [convolution, convolution, Layer(lambda x: x.mean((2, 3)) @ out, LeakyReadout(0.5))]
    )


def gradient_of_network(network, **options):
    """The gradients of kernel, readout and inputs, over five steps of three examples with
    padding.
    """
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((8, 8, 3, 3), (8, 2))]
    x = jnp.asarray(rng.random((5, 3, 8, 4, 4)) < 0.3, jnp.float32)
    mask = jnp.arange(5)[:, None] < jnp.array([[5, 3, 4]])

    def loss(weights, x):
        return jnp.sum(network(*weights)(x, mask=mask, **options)[1] ** 2)

    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(weights, x), (weights, x)


@pytest.mark.slow
@CPU
def test_joins_of_networks_have_canonical_convolutions_only():
    """On CPU, no branch of the other platforms is left. The gradients are those of convolutions in
    layers.
    """
    lowered, args = gradient_of_network(with_joins)
    compiled = lowered.compile()
    assert set(re.findall(r"dim_labels=(\S+?)[,\s]", compiled.as_text())) == {"b01f_01io->b01f"}
    assert "conditional" not in compiled.as_text()
    got = compiled(*args)
    assert all(np.any(gradient) for gradient in jax.tree.leaves(got))
    other = gradient_of_network(with_layers)[0].compile()(*args)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, other)


@pytest.mark.slow
@pytest.mark.parametrize("readouts", [2, 4000])
def test_chunks_of_networks_with_convolutions(readouts):
    """A chunk is one step, except for large products that a chunk computes together."""
    out = jnp.ones((8, readouts))
    programs = [
        gradient_of_network(
            lambda kernel, _: with_joins(kernel, out), backward=Backward(chunk=chunk)
        )[0].as_text()
        for chunk in (None, 1)
    ]
    assert (programs[0] == programs[1]) == (readouts == 2)


def test_vmap():
    """Over whole numbers: a convolution of which both operands are mapped is one in groups."""
    function, _ = traced("channels-first")
    args = [*CASES["channels-first"].operands(whole=True)]
    args = [*args, jnp.ones_like(CONVOLVE(*args))]

    def both(args):
        rows = []
        for axes in ((0, None, 0), (None, 0, 0), (0, 0, 0)):
            stacked = [
                a if axis is None else jnp.stack([a, 2 * a])
                for a, axis in zip(args, axes, strict=True)
            ]
            forms = function, canonical(function)
            rows += [
                (
                    *(jax.vmap(f, axes)(*stacked) for f in forms),
                    canonical(jax.vmap(function, axes))(*stacked),
                )
            ]
        return rows

    for expected, *forms in jax.jit(both)(args):
        for got in forms:
            jax.tree.map(np.testing.assert_array_equal, got, expected)
