"""What the four examples share: a small classification task, the shape of the
network, its weights at the start.

Four patterns of input, each a firing rate for every input line, are sent as
random spikes for ``STEPS`` steps; the network tells which pattern it was.
Everything follows from the seeds.
"""

import itertools

import numpy as np

STEPS, SAMPLES, SIZES = 20, 64, (16, 32, 32, 4)
LAYERS = list(itertools.pairwise(SIZES))  # (inputs, outputs) of each
LEARNING_RATE = 0.5


def data():
    """Spikes ``(steps, samples, inputs)`` and labels ``(samples,)``."""
    rng = np.random.default_rng(1)
    labels = np.arange(SAMPLES, dtype=np.int32) % SIZES[-1]
    rates = rng.uniform(0.0, 0.6, (SIZES[-1], SIZES[0]))[labels]
    return (rng.random((STEPS, *rates.shape)) < rates).astype(
        np.float32
    ), labels


def initial_weights():
    """One matrix ``(inputs, outputs)`` per layer."""
    rng = np.random.default_rng(2)
    return [
        rng.normal(0, 1.5 / np.sqrt(n), (n, m)).astype(np.float32)
        for n, m in LAYERS
    ]
