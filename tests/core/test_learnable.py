"""The gradient in a parameter: none, unless asked for, and then that of the smooth primal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from reference import CASES, DEFAULTS, RULE, standing, with_arrays

import spikegrad
from spikegrad import learnable

pytestmark = pytest.mark.newest

WITH_PARAMETERS = (*RULE, "QPseudoSpike", "SlayerGrad")  # one, two and many, in all their places
last_settings = {
    case.name: case for case in CASES
}  # far from the defaults, at which a factor may be 1
x64 = pytest.mark.usefixtures("x64")
SHAPES = ((), (3,), (4, 1))  # that broadcast to (4, 3)


def spread(surrogate, x):
    """Each parameter in the shape of x, so that the gradient of a sum has the derivative at each
    point.
    """
    return jax.tree.map(lambda value: jnp.full(x.shape, value, x.dtype), with_arrays(surrogate))


def in_parameters(f):
    return lambda surrogate, x: jax.grad(lambda s: f(s, x).sum())(surrogate)


def in_x(f):
    return lambda surrogate, x: jax.grad(lambda x: f(surrogate, x).sum())(x)


def fire(surrogate, x):
    return surrogate(x)


@jax.jit
def derivatives(surrogate, x):
    """Of the learnable spike: first in the parameters; mixed in either order; both again without
    ``learnable``.
    """
    plain = spread(surrogate, x)
    spike = learnable(plain)
    first = in_parameters(fire)(spike, x)
    # a batch of directions, each along one parameter
    leaves, tree = jax.tree.flatten(spike)
    directions = tree.unflatten(
        [jnp.stack([jnp.full_like(p, q is p) for q in leaves]) for p in leaves]
    )
    along = jax.vmap(
        lambda direction: jax.jvp(lambda s: in_parameters(fire)(s, x), (spike,), (direction,))[1]
    )
    return {
        "value": (fire(spike, x), fire(plain, x)),
        "slope": (in_x(fire)(spike, x), in_x(fire)(plain, x)),
        "first": jax.tree.leaves(first),
        "none": jax.tree.leaves(in_parameters(fire)(plain, x)),
        "x of p": jax.tree.leaves(
            jax.jvp(lambda x: in_parameters(fire)(spike, x), (x,), (jnp.ones_like(x),))[1]
        ),
        "p of x": jax.tree.leaves(in_parameters(in_x(fire))(spike, x)),
        "p of x, plain": jax.tree.leaves(in_parameters(in_x(fire))(plain, x)),
        "second": [batch[i] for i, batch in enumerate(jax.tree.leaves(along(directions)))],
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", few(CASES, *map(last_settings.get, WITH_PARAMETERS)), ids=repr)
@x64
def test_derivatives_in_every_parameter(case):
    x = case.near_grid()
    got = jax.tree.map(np.asarray, derivatives(case.make(), jnp.asarray(x)))
    np.testing.assert_array_equal(*got["value"])
    np.testing.assert_array_equal(*got["slope"])
    assert len(got["first"]) == len(case.numbers)
    away = ~case.near_knot(x)
    for i, name in enumerate(case.numbers):

        def same(which, truth, at=away, rtol=1e-11, i=i, name=name):
            truth = truth.astype(float)
            atol = 1e-13 * max(1.0, np.abs(truth).max())
            np.testing.assert_allclose(
                got[which][i][at], truth[at], rtol, atol, err_msg=f"{which}, {name}"
            )

        assert not got["none"][i].any()
        same("first", case.parameter_slope(x, name), at=slice(None))
        same("second", case.parameter_slope(x, name, order=2), at=away & (np.abs(x) < 30))
        mixed = case.parameter_slope(x, name, of="grad")
        same("p of x", mixed)
        same("p of x, plain", mixed)
        epsilon = case.parameters.get(
            "epsilon", 0
        )  # which one paper has in the primal and not in the slope
        if name != "epsilon":
            same("x of p", mixed, rtol=1e-11 + epsilon)


@pytest.mark.slow
@pytest.mark.parametrize("case", standing(DEFAULTS, ("S2NN",)), ids=repr)
def test_gradients_have_the_shape_of_their_parameter(case):
    x = jnp.linspace(-2, 2, 12).reshape(4, 3)
    gradient = in_parameters(fire)

    @jax.jit
    def gradients(surrogate):
        filled = {
            shape: jax.tree.map(lambda v, n=shape: jnp.full(n, v), with_arrays(surrogate))
            for shape in SHAPES
        }
        pointwise = gradient(learnable(spread(surrogate, x)), x)
        return {shape: gradient(learnable(s), x) for shape, s in filled.items()}, pointwise

    found, pointwise = gradients(case.make())
    for shape in SHAPES:
        axes = tuple(i for i, n in enumerate((1,) * (2 - len(shape)) + shape) if n == 1)
        for got, points in zip(
            jax.tree.leaves(found[shape]), jax.tree.leaves(pointwise), strict=True
        ):
            assert got.shape == shape
            np.testing.assert_allclose(got, points.sum(axes).reshape(shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("parameter", ["float16", "bfloat16", "float32"])
def test_gradients_have_the_dtype_of_their_parameter(dtype, parameter):
    x = jnp.array([-1.0, 0.25, 0.5], dtype)
    spike = learnable(spikegrad.Arctan(jnp.ones(3, parameter)))
    out, backward = jax.vjp(lambda s, x: s(x), spike, x)
    in_spike, in_x = backward(jnp.ones_like(out))
    assert out.dtype == in_x.dtype == x.dtype
    got = in_spike.surrogate.alpha
    assert got.dtype == parameter
    half = np.pi / 2 * np.asarray(x, float)
    rtol = 4 * max(float(jnp.finfo(dtype).eps), float(jnp.finfo(parameter).eps))
    np.testing.assert_allclose(np.asarray(got, float), half / (1 + half**2) / np.pi, rtol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", few(["float32", "bfloat16"], "float32"))
def test_far_out_and_at_infinity_all_derivatives_are_finite(dtype, request):
    names = spikegrad.names() if request.config.getoption("every") else WITH_PARAMETERS
    fires = {name: learnable(spikegrad.get(name)) for name in names}

    def derivatives(fire, x):
        return jax.jvp(fire, (x,), (jnp.ones_like(x),)), jax.grad(
            lambda s: s(x).astype(jnp.float32)
        )(fire)

    of_all = jax.jit(lambda x: {name: derivatives(fire, x) for name, fire in fires.items()})
    for x in (np.inf, -np.inf, 3e38, -1e30):
        for name, values in of_all(jnp.asarray(x, dtype)).items():
            assert all(
                np.isfinite(np.asarray(leaf, np.float32)) for leaf in jax.tree.leaves(values)
            ), (name, x)
