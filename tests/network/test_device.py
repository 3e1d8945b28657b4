"""The defaults for a GPU, on a processor: equal results, and programs that a GPU captures as
graphs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few
from networks import assert_close

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Backward,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    _device,
    stochastic,
)
from spikegrad._device import Work
from spikegrad.network.engine._schedule import schedule

STEPS, BATCH, CHUNK = 4, 3, 2
FIRE = Sigmoid(4.0)
rng = np.random.default_rng(0)


def array(*shape, scale=1.0):
    return jnp.asarray(rng.normal(0, scale, shape), jnp.float32)


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


WEIGHTS = {
    "a": array(5, 6, scale=0.9),
    "b": array(4, 6, scale=0.9),
    "recurrent": array(6, 6, scale=0.3),
    "delayed": array(6, 6, scale=0.4),
    "drawn": array(6, 6, scale=0.6),
    "out": array(6, 2),
    "kernel": array(3, 3, 2, 3, scale=0.6),
    "joined": array(3, 3, 3, 3, scale=0.4),
    "pixels": array(3, 2),
}
INPUTS = {"a": array(STEPS, BATCH, 5), "b": array(STEPS, BATCH, 4)}
IMAGES = array(STEPS, BATCH, 4, 4, 2)
MASK = jnp.asarray(rng.uniform(size=(STEPS, BATCH)) < 0.8)


def graph(w):
    """A network of two inputs, with feedback, a delay, a join and stochastic spikes."""
    nodes = {
        "hidden": Layer(
            {"a": w["a"], "b": w["b"], "hidden": Delayed(w["recurrent"], 1)},
            AdaptiveLIF(0.9, surrogate=FIRE),
        ),
        "late": Layer(
            {"hidden": w["delayed"], "late": Delayed(w["recurrent"], 2)}, LIF(0.8, surrogate=FIRE)
        ),
        "sum": Join(jnp.add, ("hidden", "late")),
        "drawn": Layer(w["drawn"], LIF(0.8, surrogate=stochastic(FIRE))),
        "out": Layer(w["out"], LeakyReadout(0.9)),
    }
    return Network(nodes, inputs=("a", "b"))


def images(w):
    """A layer with a convolution, and a join with one."""
    nodes = {
        "first": Layer(functools.partial(convolve, kernel=w["kernel"]), LIF(0.8, surrogate=FIRE)),
        "joined": Join(lambda x: convolve(x, w["joined"]), "first"),
        "second": Layer(lambda current: current, LIF(0.8, surrogate=FIRE)),
        "out": Layer(lambda x: x.mean((1, 2)) @ w["pixels"], LeakyReadout(0.9)),
    }
    return Network(nodes)


def loss(w, backward):
    _, out = graph(w)(INPUTS, key=jax.random.key(0), mask=MASK, backward=backward)
    _, seen = images(w)(IMAGES, backward=backward)
    return (out**2).sum() + (seen**2).sum(), (out, seen)


@pytest.fixture
def on_gpu(monkeypatch):
    """The library's answer to the only question for the device."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def gradient(backward):
    return jax.jit(jax.value_and_grad(functools.partial(loss, backward=backward), has_aux=True))(
        WEIGHTS
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(("exact", "half", "8-bit", "recompute"), "exact"))
def test_defaults_for_a_gpu_give_the_results_of_those_for_a_processor(mode, monkeypatch):
    backward = Backward(mode, chunk=CHUNK)
    (_, outputs), expected = gradient(backward)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (_, outputs_of_gpu), got = gradient(backward)
    assert all(map(np.any, outputs))
    assert_close(outputs_of_gpu, outputs)
    assert_close(got, expected, 1e-5)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("mode", "around"), [("exact", 0), ("half", 0), ("8-bit", 0), ("recompute", 1)]
)
def test_chunks_contain_no_loop(mode, around):
    """``around`` is the number of loops around a loop over chunks. Gradients of large matrices need
    none.
    """
    if around and jax.__version_info__ < (0, 12):
        pytest.skip("JAX before 0.12 writes an inner loop as a function of its own")
    matrix, x = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((512, 512), (40, 2, 512)))

    def run(w, r, x):
        layers = Layer(w, LIF(0.9), r), Layer(w, AdaptiveLIF(0.9))
        return Network(layers)(x, backward=mode)[1].sum()

    program = jax.jit(jax.grad(run, (0, 1))).lower(matrix, matrix, x).as_text()
    indents = {
        len(line) - len(line.lstrip()) for line in program.splitlines() if "stablehlo.while" in line
    }
    assert len(indents) == around + 1


def test_deep_networks_have_short_chunks_on_a_gpu():
    def chunk(mode, device, layers, steps=100, **options):
        return schedule(steps, Backward(mode), device, Work(layers, **options))[0].chunk

    gpu, processor = _device.GPU, _device.CPU
    assert [chunk("exact", gpu, layers) for layers in (1, 9, 18, 100)] == [10, 10, 5, 1]
    assert [chunk("8-bit", gpu, layers) for layers in (1, 5, 9)] == [10, 5, 5]
    assert {chunk("exact", processor, layers) for layers in (1, 100)} == {10}
    for layers in range(1, 100):  # no default leaves a loop in a chunk
        for mode in ("exact", "8-bit", "recompute"):
            length = chunk(mode, gpu, layers, steps=110)
            assert gpu.unroll_of_chunk(length, layers) == length
    assert [gpu.unroll_of_chunk(length, 9) for length in (1, 10, 50)] == [1, 10, 10]
    assert chunk("exact", gpu, 4, steps=8, convolves=True) == 8
    assert chunk("exact", processor, 4, steps=8, convolves=True) == 1


@pytest.mark.parametrize("mode", ["half", "8-bit", "recompute"])
def test_few_steps_are_several_chunks_where_memory_is_saved(mode):
    (part,) = schedule(8, Backward(mode), _device.GPU, Work(layers=4, convolves=True))
    assert part.chunk == 4
    assert part.segment == (4 if mode == "recompute" else 8)
