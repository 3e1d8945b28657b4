"""The network of bptt.py in torch: a plain loop over time, and that loop with the neurons of torch's libraries.

`torch` has a spike of its own, an `autograd.Function`. Where a library's neuron can compute the same, it stands in the
loop; where it cannot, its spike does:

- spikingjelly: `lif_step`, which is the step of its `LIFNode`, with its `ATan`. It decays by v - v / 20.
- sinabs: `lif_forward_single`, the step of its `LIFRecurrent`, with the slope below, since it has no arctan. The layer
  itself takes each step of its input by an index, which makes torch's backward pass quadratic in the steps.
- norse: `lif_box_feed_forward_step`, with the spike below as its threshold, since it has no arctan. It multiplies
  currents by 1 - decay, and the weights are divided by that.
- snntorch: its `atan` as the spike of the plain loop. `snntorch.Leaky` is its neuron, which computes something else:
  the reset comes a step later, after the decay, and detached, so that no gradient goes through it.

The spikes of snntorch are at x > 0 instead of x >= 0. Torch has as many threads as there are cores, like XLA.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakValueDictionary

import jax
import numpy as np

# Read at import. Threads that wait asleep make torch twice as slow; ones that spin for long take their cores from XLA.
os.environ.setdefault("GOMP_SPINCOUNT", "100000")

import torch

torch.set_num_threads(os.cpu_count() or 1)

Neuron = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # current, v -> spikes, v


def neurons(decay: float, alpha: float) -> dict[str, tuple[Neuron, float]]:
    """Those that can be had, of threshold 1, each with the factor that its weights need."""

    def slope(x):
        return alpha / 2 / (1 + (math.pi / 2 * alpha * x) ** 2)

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x >= 0).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            return slope(*ctx.saved_tensors) * g

    def plain(fire) -> Neuron:
        def step(current, v):
            u = decay * v + current
            s = fire(u - 1)
            return s, u - s

        return step

    found: dict[str, tuple[Neuron, float]] = {"torch": (plain(Spike.apply), 1)}
    with suppress(ModuleNotFoundError):
        import snntorch  # noqa: PLC0415

        atan = snntorch.surrogate.atan(alpha)
        found["snntorch"] = plain(atan), 1
        found["snntorch.Leaky"] = snntorch.Leaky(decay, spike_grad=atan), 1
    with suppress(ModuleNotFoundError):
        from spikingjelly.activation_based import functional, surrogate  # noqa: PLC0415

        options = 1 / (1 - decay), False, 1.0, None, surrogate.ATan(alpha)  # tau, decay_input, threshold, v_reset
        found["spikingjelly"] = lambda current, v: functional.lif_step(current, v, *options), 1
    with suppress(ModuleNotFoundError):
        from norse.torch.functional import lif_box, reset  # noqa: PLC0415

        lif_box.threshold = lambda x, method, alpha: Spike.apply(x)
        box = lif_box.LIFBoxParameters(torch.tensor(1 - decay), reset_method=reset.reset_subtract)

        def norse(current, v):
            s, state = lif_box.lif_box_feed_forward_step(current, lif_box.LIFBoxFeedForwardState(v), box, dt=1)
            return s, state.v

        found["norse"] = norse, 1 / (1 - decay)
    with suppress(ModuleNotFoundError):
        from sinabs.activation import MembraneSubtract, SingleSpike  # noqa: PLC0415
        from sinabs.layers.functional.lif import lif_forward_single  # noqa: PLC0415

        ends = 1.0, SingleSpike, MembraneSubtract(), lambda v, threshold: slope(v - threshold), None, False

        def sinabs(current, v):
            s, state = lif_forward_single(current, decay, None, {"v_mem": v}, *ends)
            return s, state["v_mem"]

        found["sinabs"] = sinabs, 1
    return found


def cross_entropy(weights, inputs, labels, decay: float, neuron: Neuron, factor: float) -> torch.Tensor:
    hidden, readout = weights
    hidden = [(w * factor, recurrent * factor) for w, recurrent in hidden] if factor != 1 else hidden
    states = [(torch.zeros(len(labels), len(recurrent)),) * 2 for _, recurrent in hidden]
    r, potentials = torch.zeros(len(labels), readout.shape[1]), []
    for x in inputs.unbind(0):  # the backward pass of an index is as large as all of the inputs
        for i, ((w, recurrent), (s, v)) in enumerate(zip(hidden, states, strict=True)):
            states[i] = x, _ = neuron(x @ w + s @ recurrent, v)
        r = decay * r + x @ readout
        potentials.append(r)
    return torch.nn.functional.cross_entropy(torch.stack(potentials).mean(0), labels)


class Step:
    """One training step: a call gives the loss and the gradient, in NumPy's arrays."""

    def __init__(self, weights, inputs, labels, *options):
        self.data, self.options = (inputs, labels), options
        self.weights, self.tree = jax.tree.flatten(weights)

    def loss(self) -> torch.Tensor:
        return cross_entropy(self.tree.unflatten(self.weights), *self.data, *self.options)

    def __call__(self):
        loss = self.loss()
        gradient = torch.autograd.grad(loss, self.weights)
        return loss.item(), self.tree.unflatten([g.numpy() for g in gradient])

    def saved(self) -> int:
        """Bytes kept for the backward pass: each storage once, and not those of the arguments."""
        kept = WeakValueDictionary()

        def pack(x):
            kept[id(x)] = x
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = self.loss()  # its graph holds what it saved; what was saved for nothing is no longer in `kept`
        storages = [x.untyped_storage() for x in kept.values()]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        for argument in (*self.weights, *self.data):
            sizes.pop(argument.untyped_storage().data_ptr(), None)
        del loss
        return sum(sizes.values())


def steps(weights, inputs, labels, decay: float, alpha: float) -> dict[str, Step]:
    tensor = lambda x: torch.tensor(np.asarray(x))  # noqa: E731
    weights = jax.tree.map(lambda w: tensor(w).requires_grad_(), weights)
    data = tensor(inputs), tensor(labels).long()
    return {name: Step(weights, *data, decay, *neuron) for name, neuron in neurons(decay, alpha).items()}
