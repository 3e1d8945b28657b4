"""A convolutional network, and the ways to take it over the steps of a sequence.

Three layers of 3 × 3 convolutions, 1 to 16 to 32 to 32 channels, each followed by leaky integrate-and-fire neurons, on
images of 28 × 28; the mean of the last layer's spikes over steps and pixels goes into a cross-entropy.

`alone` takes one layer after the other over the whole sequence: one convolution of all images of all steps, and a scan
of the neurons. A convolution is not in a loop there, and costs what it costs alone. `plain` is one scan over the steps
of all layers, as a recurrent network must be run. jaxpike's `unroll` does as `alone`, and its `unroll_checkpointed` has
convolutions in a loop.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from spikegrad import LIF, Arctan, Layer, Network

SIZE, CHANNELS, CLASSES = 28, (1, 16, 32, 32), 10
SLOW = ("plain", "scan", "jaxpike-checkpointed")
"""With convolutions in a loop as JAX derives them: 20 times the others' time, and more."""


def neurons() -> int:
    return SIZE * SIZE * sum(CHANNELS[1:])


def data(steps: int, batch: int):
    """Kernels, random spikes as images, and labels; currents are in the order of the threshold."""
    rng = np.random.default_rng(0)
    kernels = [
        jnp.asarray(rng.normal(0, (5 if n == 1 else 2) / math.sqrt(9 * n), (3, 3, n, m)), jnp.float32)
        for n, m in itertools.pairwise(CHANNELS)
    ]
    images = rng.random((steps, batch, SIZE, SIZE, 1), np.float32) < 0.1
    return kernels, jnp.asarray(images, jnp.float32), jnp.asarray(rng.integers(0, CLASSES, batch))


def convolve(x: jax.Array, kernel: jax.Array, padding: str = "SAME") -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def cross_entropy(spikes, labels):
    logits = 10 * spikes.mean((0, 2, 3))
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def integrate_and_fire(decay, fire, v, current):
    u = decay * v + current
    out = fire(u - 1)
    return u - out, out


def alone(kernels, x, labels, decay, fire):
    neuron = functools.partial(integrate_and_fire, decay, fire)
    for kernel in kernels:
        steps, batch = x.shape[:2]
        current = convolve(x.reshape(-1, *x.shape[2:]), kernel)
        current = current.reshape(steps, batch, *current.shape[1:])
        x = jax.lax.scan(neuron, jnp.zeros_like(current[0]), current)[1]
    return cross_entropy(x, labels)


def plain(kernels, x, labels, decay, fire):
    def step(states, x):
        new = []
        for v, kernel in zip(states, kernels, strict=True):
            v, x = integrate_and_fire(decay, fire, v, convolve(x, kernel))
            new.append(v)
        return new, x

    zeros = [jnp.zeros((*x.shape[1:-1], kernel.shape[-1])) for kernel in kernels]
    return cross_entropy(jax.lax.scan(step, zeros, x)[1], labels)


def ours(kernels, x, labels, decay, alpha, **options):
    cell = LIF(decay, 1.0, Arctan(alpha))
    network = Network([Layer(functools.partial(convolve, kernel=kernel), cell) for kernel in kernels])
    return cross_entropy(network(x, **options)[1], labels)


def peer(kernels, x, labels, decay, alpha, unroll):
    import equinox  # noqa: PLC0415
    import jaxpike  # noqa: PLC0415

    layers = []
    with jax.ensure_compile_time_eval():  # its neurons look at their parameters
        neuron = jaxpike.LIF(-1 / math.log(decay), surrogate=jaxpike.ATan(alpha))
    for kernel in kernels:
        layer = jaxpike.Conv2d(*kernel.shape[2:], 3, use_bias=False, key=jax.random.key(0))
        scaled = kernel / (1 - decay)  # its neurons take 1 - decay of their current
        layers += [equinox.tree_at(lambda layer: layer.weight, layer, scaled), neuron]
    return cross_entropy(getattr(jaxpike, unroll)(jaxpike.Sequential(*layers), x)[0], labels)


def variants(decay: float, alpha: float, fire: Callable, with_peers: bool) -> dict[str, Callable]:
    found = {"alone": functools.partial(alone, decay=decay, fire=fire)}
    for mode in ("exact", "half", "8-bit", "recompute", "scan"):
        found[mode] = functools.partial(ours, decay=decay, alpha=alpha, backward=mode)
    found["plain"] = functools.partial(plain, decay=decay, fire=fire)
    if with_peers:
        found["jaxpike"] = functools.partial(peer, decay=decay, alpha=alpha, unroll="unroll")
        found["jaxpike-checkpointed"] = functools.partial(peer, decay=decay, alpha=alpha, unroll="unroll_checkpointed")
    return found
