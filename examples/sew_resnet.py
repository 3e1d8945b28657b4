"""SEW-ResNet (Fang et al. 2021) in plain JAX: a block of named layers, and a
network of blocks.

A residual block joins the spikes of two branches by a sum or by a gate. In
training, batch normalization uses the mean and variance over all steps and
examples. Its running statistics come back with the states.

Run with ``python examples/sew_resnet.py``.
"""

import jax
import jax.numpy as jnp
from image_task import train

from spikegrad import LIF, Join, Layer, Network, Sigmoid

CONNECT = {
    "ADD": jnp.add,
    "AND": jnp.multiply,
    "IAND": lambda identity, branch: identity * (1 - branch),
}
NEURONS = LIF(1.0, surrogate=Sigmoid(4.0), reset="value", detach_reset=True)


def convolve(x, kernel, stride=1):
    """``x`` is ``(examples, height, width, channels)``, ``kernel`` is
    ``(height, width, inputs, outputs)``."""
    edges = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        edges,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def conv_bn(name, of, params, running=None, stride=1):
    """A convolution and batch normalization: by running statistics, or in
    training over the whole sequence."""

    def normalize(y, mean, var):
        return (y - mean) * (params["scale"] / jnp.sqrt(var + 1e-5)) + params[
            "offset"
        ]

    def one_step(x):
        return normalize(convolve(x, params["kernel"], stride), *running[name])

    def whole_sequence(x):
        y = convolve(x.reshape(-1, *x.shape[2:]), params["kernel"], stride)
        mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
        return normalize(y, mean, var).reshape(*x.shape[:2], *y.shape[1:]), (
            mean,
            var,
        )

    return {
        name: Join(whole_sequence, of, over_time=True)
        if running is None
        else Join(one_step, of)
    }


def spikes(name, of, cell=NEURONS):
    return {name: Layer(lambda current: current, cell, of=of)}


def sew_block(name, of, params, running=None, *, connect="ADD", stride=1):
    """The layers of a block. The last one is called ``name`` and reads
    ``of``."""
    layers = conv_bn(
        f"{name}.conv1", of, params["conv1"], running, stride
    ) | spikes(f"{name}.sn1", f"{name}.conv1")
    layers |= conv_bn(
        f"{name}.conv2", f"{name}.sn1", params["conv2"], running
    ) | spikes(f"{name}.sn2", f"{name}.conv2")
    if "shortcut" in params:
        layers |= conv_bn(
            f"{name}.shortcut", of, params["shortcut"], running, stride
        )
        layers |= spikes(of := f"{name}.shortcut.sn", f"{name}.shortcut")
    return layers | {name: Join(CONNECT[connect], of=(of, f"{name}.sn2"))}


def max_pool(x):
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges
    )


def sew_resnet(params, running=None, *, connect="ADD"):
    """A stem, blocks, and a linear readout of the average over the image. A
    block with a shortcut halves the sides."""
    # for ImageNet, the stem halves the sides twice
    large = params["stem"]["kernel"].shape[0] == 7
    layers = conv_bn(
        "stem", "input", params["stem"], running, 2 if large else 1
    ) | spikes("stem.sn", "stem")
    layers |= {"pool": Join(max_pool if large else lambda x: x, "stem.sn")}
    of = "pool"
    for n, part in enumerate(params["blocks"]):
        layers |= sew_block(
            f"block{n}",
            of,
            part,
            running,
            connect=connect,
            stride=2 if "shortcut" in part else 1,
        )
        of = f"block{n}"
    return Network(
        layers
        | {
            "out": Join(
                lambda x: x.mean((1, 2)) @ params["weight"] + params["bias"], of
            )
        }
    )


SEW_RESNET_18 = {
    "channels": (64, 64, 64, 128, 128, 256, 256, 512, 512),
    "classes": 10,
    "inputs": 3,
    "side": 7,
}
"""For ``init``: channels of stem and blocks, and side of the stem's kernel."""


def init_conv(key, side, inputs, outputs):
    # by outputs
    kernel = jax.nn.initializers.he_normal(in_axis=-1, out_axis=-2)(
        key, (side, side, inputs, outputs)
    )
    return {
        "kernel": kernel,
        "scale": jnp.ones(outputs),
        "offset": jnp.zeros(outputs),
    }


def init_block(key, inputs, outputs, stride=1):
    keys = jax.random.split(key, 3)
    block = {
        "conv1": init_conv(keys[0], 3, inputs, outputs),
        "conv2": init_conv(keys[1], 3, outputs, outputs),
    }
    return block | (
        {"shortcut": init_conv(keys[2], 1, inputs, outputs)}
        if stride > 1 or inputs != outputs
        else {}
    )


def init(key, channels=(8, 8, 16), classes=4, inputs=1, side=3):
    first, last, *keys = jax.random.split(key, len(channels) + 1)
    blocks = [
        init_block(*block)
        for block in zip(keys, channels[:-1], channels[1:], strict=True)
    ]
    weight = jax.nn.initializers.lecun_normal()(last, (channels[-1], classes))
    stem = init_conv(first, side, inputs, channels[0])
    return {
        "stem": stem,
        "blocks": blocks,
        "weight": weight,
        "bias": jnp.zeros(classes),
    }


def main(fast: bool = False):
    return train(sew_resnet, init(jax.random.key(0)), fast)


if __name__ == "__main__":
    main()
