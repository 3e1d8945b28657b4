"""MS-ResNet (Hu et al. 2024): residual blocks that add currents, so that no
neurons lie between blocks.

Parameters are those of ``sew_resnet.py``. A block differs in its order:
neurons, convolution, batch normalization. The authors start with a scale of
0.5, and of 0 at the end of each block.

Run with ``python examples/ms_resnet.py``.
"""

import jax
import jax.numpy as jnp
from image_task import train
from sew_resnet import conv_bn, init, spikes

from spikegrad import LIF, Join, Network, PiecewiseLeakyRelu

BOX = PiecewiseLeakyRelu(c=0.0, w=0.5)
NEURONS = LIF(0.25, 0.5, BOX, reset="value", detach_reset=True)


def ms_block(name, of, params, running=None, *, stride=1):
    """The layers of a block. The last one is called ``name`` and reads the
    currents ``of``."""
    layers = spikes(f"{name}.sn1", of, NEURONS)
    layers |= conv_bn(
        f"{name}.conv1", f"{name}.sn1", params["conv1"], running, stride
    )
    layers |= spikes(f"{name}.sn2", f"{name}.conv1", NEURONS)
    layers |= conv_bn(f"{name}.conv2", f"{name}.sn2", params["conv2"], running)
    if "shortcut" in params:
        layers |= conv_bn(
            f"{name}.shortcut", of, params["shortcut"], running, stride
        )
        of = f"{name}.shortcut"
    return layers | {name: Join(jnp.add, of=(of, f"{name}.conv2"))}


def ms_resnet(params, running=None):
    """A stem, blocks, neurons, and a linear readout of the average over the
    image."""
    layers, of = conv_bn("stem", "input", params["stem"], running), "stem"
    for n, block in enumerate(params["blocks"]):
        layers |= ms_block(
            f"block{n}",
            of,
            block,
            running,
            stride=2 if "shortcut" in block else 1,
        )
        of = f"block{n}"
    layers |= spikes("last", of, NEURONS)
    return Network(
        layers
        | {
            "out": Join(
                lambda x: x.mean((1, 2)) @ params["weight"] + params["bias"],
                "last",
            )
        }
    )


def main(fast: bool = False):
    return train(ms_resnet, init(jax.random.key(0)), fast)


if __name__ == "__main__":
    main()
