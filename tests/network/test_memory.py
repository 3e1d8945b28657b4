"""The temporary memory of compiled gradients, from their buffers: nothing runs."""

import functools

import jax
import jax.numpy as jnp
import pytest

from spikegrad import LIF, Backward, Join, Layer, Network

BATCH, SIZE, CHANNELS = 2, 8, 8


def temporary(network, weights, x, backward):
    """Temporary bytes of the gradient of a network's outputs in its weights."""

    def loss(weights, x):
        return network(weights)(x, backward=backward)[1].sum()

    return jax.jit(jax.grad(loss)).lower(weights, x).compile().memory_analysis().temp_size_in_bytes


def shapes(*arrays):
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arrays]


def convolve_and_normalize(x, kernel):
    """Convolve the images of all steps and examples, and normalize each channel."""
    numbers = ("NHWC", "HWIO", "NHWC")
    images = x.reshape(-1, *x.shape[2:])
    current = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    mean, var = (reduce(current, (0, 1, 2), keepdims=True) for reduce in (jnp.mean, jnp.var))
    return ((current - mean) * jax.lax.rsqrt(var + 1e-5)).reshape(*x.shape[:2], *current.shape[1:])


def normalized(kernels):
    """Blocks of a convolution, batch normalization over time, and neurons."""
    nodes, above = {}, "input"
    for n, kernel in enumerate(kernels):
        norm = functools.partial(convolve_and_normalize, kernel=kernel)
        nodes[f"norm {n}"] = Join(norm, above, over_time=True)
        nodes[f"{n}"], above = Layer(lambda current: current, LIF(0.5)), f"{n}"
    return Network(nodes)


@functools.cache
def of_blocks(backward, steps=16):
    kernels = shapes(*[(3, 3, CHANNELS, CHANNELS)] * 4)
    (x,) = shapes((steps, BATCH, SIZE, SIZE, CHANNELS))
    return temporary(normalized, kernels, x, backward) / (4 * x.size)


@pytest.mark.parametrize("chunk", [4, pytest.param(None, marks=pytest.mark.every)])
def test_stages_hold_the_arrays_of_one_loop_at_a_time(chunk):
    """Four layers store four arrays, or fewer bytes. The normalizations of one stage need some more."""
    exact, half, eight_bit = (of_blocks(Backward(mode, chunk=chunk)) for mode in ("exact", "half", "8-bit"))
    assert exact < 9
    assert half < 0.85 * exact
    assert eight_bit < half
