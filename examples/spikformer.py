"""Spikformer (Zhou et al. 2023): spiking self-attention and an MLP, with
weights and statistics in Flax NNX.

Attention is a join of three layers of neurons, which send spikes for queries,
keys and values.

Run with ``python examples/spikformer.py``.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from image_task import cross_entropy, lines, report

from spikegrad import LIF, Join, Layer, Network, Sigmoid

LEARNING_RATE = 2.0


def neurons(of, threshold=1.0):
    cell = LIF(
        0.5,
        threshold,
        Sigmoid(4.0),
        reset="value",
        detach_reset=True,
        norm_input=True,
    )
    return Layer(lambda current: current, cell, of=of)


class LinearNorm(nnx.Module):
    def __init__(self, inputs, outputs, rngs):
        self.linear = nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))

    def layers(self, name, of):
        """A join that normalizes, and neurons that are called ``name``."""
        parts = nnx.split(self)

        def whole_sequence(x):
            module = nnx.merge(*parts, copy=True)  # it changes
            return module(x), nnx.state(module, nnx.BatchStat)

        training = not self.norm.use_running_average
        join = (
            Join(whole_sequence, of, over_time=True)
            if training
            else Join(nnx.merge(*parts), of)
        )
        return {f"{name}.norm": join, name: neurons(f"{name}.norm")}


class SpikformerBlock(nnx.Module):
    def __init__(self, size, heads, rngs, ratio=4):
        self.q, self.k, self.v, self.project = (
            LinearNorm(size, size, rngs) for _ in range(4)
        )
        self.up, self.down = (
            LinearNorm(size, ratio * size, rngs),
            LinearNorm(ratio * size, size, rngs),
        )
        self.heads = heads

    def attend(self, *qkv):
        """Attention without softmax, of spikes ``(examples, tokens, size)``."""
        q, k, v = (x.reshape(*x.shape[:2], self.heads, -1) for x in qkv)
        return 0.125 * jnp.einsum("blhe,bmhe,bmhd->blhd", q, k, v).reshape(
            qkv[0].shape
        )

    def attention(self, name, of):
        layers = {}
        for part in "qkv":
            layers |= getattr(self, part).layers(f"{name}.{part}", of)
        layers |= {
            f"{name}.attention": Join(
                self.attend, [f"{name}.{part}" for part in "qkv"]
            )
        }
        layers |= {
            f"{name}.attended": neurons(f"{name}.attention", threshold=0.5)
        }
        return layers | self.project.layers(
            f"{name}.project", f"{name}.attended"
        )

    def layers(self, name, of):
        """The layers of the block. The last one is called ``name`` and reads
        spikes or counts of ``of``."""
        layers = self.attention(name, of) | {
            f"{name}.sum": Join(jnp.add, (of, f"{name}.project"))
        }
        layers |= self.up.layers(
            f"{name}.up", f"{name}.sum"
        ) | self.down.layers(f"{name}.down", f"{name}.up")
        return layers | {name: Join(jnp.add, (f"{name}.sum", f"{name}.down"))}


class Spikformer(nnx.Module):
    def __init__(self, inputs, size, heads, classes, rngs):
        self.embed, self.block = (
            LinearNorm(inputs, size, rngs),
            SpikformerBlock(size, heads, rngs),
        )
        self.head = nnx.Linear(size, classes, rngs=rngs)

    def network(self):
        """From tokens ``(steps, examples, tokens, inputs)`` to scores of
        classes."""
        layers = self.embed.layers("embed", "input") | self.block.layers(
            "block", "embed"
        )
        return Network(
            layers | {"out": Join(lambda x: self.head(x.mean(1)), "block")}
        )

    def keep_statistics(self, states):
        """Store the states of joins over time, which are running statistics, in
        the modules of these names."""
        for name in states:
            if name.endswith(".norm"):
                nnx.update(
                    functools.reduce(getattr, name.split(".")[:-1], self),
                    states[name],
                )


def main(fast: bool = False):
    x, labels = lines()
    # 16 patches of 2 by 2
    x = (
        x.reshape(*x.shape[:2], 4, 2, 4, 2)
        .swapaxes(3, 4)
        .reshape(*x.shape[:2], 16, 4)
    )
    model = Spikformer(4, 32, 2, 4, nnx.Rngs(0))

    @nnx.jit
    def update(model):
        def loss(model):
            states, outputs = model.network()(x)
            return cross_entropy(outputs, labels), states

        (value, states), grads = nnx.value_and_grad(loss, has_aux=True)(model)
        model.keep_statistics(states)
        nnx.update(
            model,
            jax.tree.map(
                lambda p, g: p - LEARNING_RATE * g,
                nnx.state(model, nnx.Param),
                grads,
            ),
        )
        return value

    losses = [float(update(model)) for _ in range(20 if fast else 100)]
    model.eval()
    report(losses, model.network()(x)[1], labels)
    return losses


if __name__ == "__main__":
    main()
