"""Gradients of the modes that keep states in few bits: how far from those of mode "exact", over several networks.

The error is the norm of the difference, relative, of each array by itself: weights of each layer, decays of the
neurons and of the readout. A row has the median and the largest over all networks, seeds, thresholds from 0.01 to 100
and, for the weights, layers. Nothing is timed.
"""

from __future__ import annotations

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, report

from spikegrad import LIF, AdaptiveLIF, Layer, LeakyReadout, Network, Sigmoid, SynapticLIF

CELLS = {
    "LIF": lambda threshold, d: LIF(d[0], threshold, Sigmoid(4 / threshold)),
    "AdaptiveLIF": lambda threshold, d: AdaptiveLIF(
        d[0], threshold, Sigmoid(4 / threshold), adaptation=0.2 * threshold, adaptation_decay=d[1]
    ),
    "SynapticLIF": lambda threshold, d: SynapticLIF(d[0], threshold, Sigmoid(4 / threshold), synaptic_decay=d[1]),
}
NETWORKS = {  # layers, neurons of each, recurrent, steps
    "one recurrent layer": (1, 64, True, 100),
    "three recurrent layers": (3, 64, True, 100),
    "three layers": (3, 128, False, 100),
    "a long sequence": (1, 64, True, 500),
}
THRESHOLDS = jnp.array([0.01, 0.1, 1.0, 10.0, 100.0])
BATCH, INPUTS, OUTPUTS = 16, 70, 10


def gradients(cell: str, shape: tuple[int, int, bool, int], mode: str, seed: int):
    """Gradients for every threshold: of the weights by layer, the decays of the neurons, the decay of the readout."""
    depth, neurons, recurrent, steps = shape
    keys = jax.random.split(jax.random.key(seed), 2 * depth + 3)
    sizes = [INPUTS, *[neurons] * depth, OUTPUTS]
    weights = [
        jax.random.normal(k, (n, m)) * gain / np.sqrt(n)
        for k, n, m, gain in zip(keys, sizes[:-1], sizes[1:], [3.0, *[1.5] * (depth - 1), 1.0], strict=False)
    ]
    loops = [jax.random.normal(k, (neurons, neurons)) * 0.5 / np.sqrt(neurons) for k in keys[depth + 1 : 2 * depth + 1]]
    x = (jax.random.uniform(keys[-2], (steps, BATCH, INPUTS)) < 0.1).astype(jnp.float32)
    target = jax.random.normal(keys[-1], (BATCH, OUTPUTS))

    def loss(p, threshold):
        weights, loops, decays, leak = p
        layers = [
            Layer(w * threshold, CELLS[cell](threshold, decays), r * threshold if recurrent else None)
            for w, r in zip(weights, loops, strict=False)
        ]
        network = Network([*layers, Layer(weights[-1], LeakyReadout(leak))])
        return ((network(x, backward=mode)[1].mean(0) - target) ** 2).mean()

    p = weights, loops, (jnp.float32(0.9), jnp.float32(0.8)), jnp.float32(0.95)
    return jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(p, THRESHOLDS)


def errors(got, expected):
    for name, a, b in zip(("weights", "recurrent", "decays", "decay of the readout"), got, expected, strict=True):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            x, y = (np.asarray(v, float).reshape(len(THRESHOLDS), -1) for v in (x, y))
            size = np.linalg.norm(y, axis=1)
            if size.all():  # not of what a network does not use
                yield name, np.linalg.norm(x - y, axis=1) / size


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    rows = []
    for cell in CELLS:
        for mode in ("half", "8-bit"):
            found = defaultdict(list)
            for shape in NETWORKS.values():
                for seed in range(options.seeds):
                    exact = gradients(cell, shape, "exact", seed)
                    for name, error in errors(gradients(cell, shape, mode, seed), exact):
                        found["weights" if name == "recurrent" else name].extend(error)
            row = {"cell": cell, "mode": mode}
            for name, values in found.items():
                row |= {f"{name}, median": float(np.median(values)), f"{name}, most": float(max(values))}
            rows.append(row)
    report(rows, options.json)


if __name__ == "__main__":
    main()
