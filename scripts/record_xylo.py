"""Record the spikes of Xylo 2, as its simulator computes them, for ``tests/integers/test_integers.py``.

    pip install xylosim==0.1.3 numpy
    python scripts/record_xylo.py

Eight random networks: inputs, a recurrent layer and output neurons, with a bias in half of them. Each record has
``in``, ``recurrent`` and ``out`` (int8, inputs first), the shifts and thresholds of each neuron, ``inputs``, and the
spikes and potentials of both layers. Weights are small enough that no current saturates between two spikes of a step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from xylosim.v2 import XyloLayer, XyloSynapse

STEPS, INPUTS, HIDDEN, OUTPUTS = 60, 5, 8, 3
FILE = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "integers" / "xylo.npz"


def synapses(weight):
    return [[XyloSynapse(j, 0, int(w)) for j, w in enumerate(row)] for row in weight]


def record(seed):
    rng = np.random.default_rng(seed)
    arrays = {
        "in": rng.integers(-50, 50, (INPUTS, HIDDEN)),
        "recurrent": rng.integers(-12, 12, (HIDDEN, HIDDEN)),
        "out": rng.integers(-128, 128, (HIDDEN, OUTPUTS)),
        "inputs": rng.integers(0, 16, (STEPS, INPUTS)) * (rng.random((STEPS, INPUTS)) < 0.4),
    }
    for suffix, size in (("", HIDDEN), ("_out", OUTPUTS)):
        arrays |= {
            "dash_mem" + suffix: rng.integers(1, 8, size),
            "dash_syn" + suffix: rng.integers(1, 8, size),
            "threshold" + suffix: rng.integers(50, 2000, size),
            "bias" + suffix: np.full(size, rng.integers(-40, 40) if seed % 2 else 0),
        }
    # The simulator holds pointers to these lists, so they must live as long as it.
    connections = [synapses(arrays[name]) for name in ("in", "recurrent", "out")]
    layer = XyloLayer(
        synapses_in=connections[0],
        synapses_rec=connections[1],
        synapses_out=connections[2],
        aliases=[[] for _ in range(HIDDEN)],
        threshold=arrays["threshold"].tolist(),
        threshold_out=arrays["threshold_out"].tolist(),
        has_bias=bool(seed % 2),
        bias=arrays["bias"].tolist(),
        bias_out=arrays["bias_out"].tolist(),
        weight_shift_inp=0,
        weight_shift_rec=0,
        weight_shift_out=0,
        dash_mem=arrays["dash_mem"].tolist(),
        dash_mem_out=arrays["dash_mem_out"].tolist(),
        dash_syns=[[int(n)] for n in arrays["dash_syn"]],
        dash_syns_out=[[int(n)] for n in arrays["dash_syn_out"]],
        name="network",
    )
    arrays["spikes_out"] = np.array(layer.evolve(arrays["inputs"].tolist()))
    arrays["spikes"] = np.array(layer.rec_recurrent_spikes)
    arrays["potential"] = np.array(layer.rec_v_mem).T
    arrays["potential_out"] = np.array(layer.rec_v_mem_out).T
    return {f"{seed}/{name}": np.asarray(array, np.int16) for name, array in arrays.items()}


if __name__ == "__main__":
    np.savez_compressed(FILE, **{k: v for seed in range(8) for k, v in record(seed).items()})
