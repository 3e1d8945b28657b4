"""The temporary memory of compiled gradients, from their buffers: nothing runs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spikegrad import LIF, Backward, Join, Layer, Network
from spikegrad._device import CPU, Work
from spikegrad.network.engine._schedule import schedule

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
    current = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )
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


@pytest.mark.parametrize(
    "chunk", [4, *(pytest.param(chunk, marks=pytest.mark.every) for chunk in (1, 2, None))]
)
def test_stages_hold_the_arrays_of_one_loop_at_a_time(chunk):
    """Four layers store four arrays, or fewer bytes. The normalizations of one stage need some
    more.
    """
    if jax.__version_info__ < (0, 12):
        pytest.skip("XLA before that of JAX 0.12 holds the arrays of all stages at once")
    exact, half, eight_bit = (
        of_blocks(Backward(mode, chunk=chunk)) for mode in ("exact", "half", "8-bit")
    )
    assert exact < 9
    assert half < 0.85 * exact
    assert eight_bit < half


def of_graph(aggregate):
    """Layers of a graph network, whose nodes are the examples of a step."""

    def network(weights):
        def layer(weight):
            return Layer(lambda x: aggregate(x @ weight), LIF(0.9))

        return Network([layer(weight) for weight in weights])

    return network


@pytest.mark.slow
def test_chunks_are_short_if_their_arrays_leave_the_cache():
    """One chunk of all ten steps would hold more rebuilt arrays than stored ones."""
    nodes, features = 2048, 32
    weights, (x,) = shapes(*[(features, features)] * 3), shapes((10, nodes, features))
    network = of_graph(lambda x: jnp.roll(x, 1, 0))
    exact = temporary(network, weights, x, "exact")
    assert exact < 0.9 * temporary(network, weights, x, "scan")
    assert exact < 0.5 * temporary(network, weights, x, Backward(chunk=10))


def test_chunks_are_longer_if_weights_outweigh_their_states():
    def chunks(states, *weights):
        return [schedule(10, Backward(), CPU, Work(weights=n, states=states)) for n in weights]

    lengths = [parts[0].chunk for parts in chunks(40_000, 0, 22_000, 50_000, 100_000)]
    assert lengths == [1, 2, 5, 10]
    assert [schedule(n, Backward())[0].chunk for n in (5, 7, 100, 1000)] == [5, 7, 10, 10]


@pytest.mark.slow
def test_loops_compute_no_gradients_of_constants():
    """A function closes over a matrix of 13 x 13, which is not differentiated here."""
    (weight, matrix), (x,) = shapes((5, 5), (13, 13)), shapes((4, 13, 5))

    def loss(weight, matrix, x):
        network = of_graph(lambda x: matrix @ x)([weight])
        return network(x, backward=Backward(chunk=2))[1].sum()

    def products(argnums):
        compiled = jax.jit(jax.grad(loss, argnums)).lower(weight, matrix, x).compile()
        return len(re.findall(r"= f32\[13,13\]\S* dot\(", compiled.as_text()))

    assert products((0, 1)) > 0
    assert products(0) == 0


def test_lengths_may_be_integers_of_numpy():
    assert Backward(chunk=np.int64(3), truncate=np.int8(2)) == Backward(chunk=3, truncate=2)
    assert type(Backward(unroll=np.int64(3)).unroll) is int
