"""Record numbers of NeuroBench's harness for ``tests/inspect/test_neurobench.py``.

    pip install torch numpy neurobench==2.3.0 snntorch==1.0.0
    python scripts/record_neurobench.py

Three networks of snnTorch, each with its weights, inputs ``(steps, batch, ...)`` and the results of
``Benchmark.run``:

- ``dense``: real inputs, two layers of ``Leaky``, weights of zero, biases.
- ``convolution``: spikes as inputs, a stride and padding, ``Leaky``, then a matrix.
- ``recurrent``: counts as inputs, ``Synaptic``, then ``RLeaky`` with a matrix of its spikes.

``parameters`` is the number of bytes of the parameters alone. The footprint also has buffers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import snntorch as snn
import torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics.static import ConnectionSparsity, Footprint
from neurobench.metrics.workload import ActivationSparsity, MembraneUpdates, SynapticOperations
from neurobench.models import SNNTorchModel
from torch import nn

FILE = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "costs" / "neurobench.npz"
STEPS, BATCH = 9, 5


def networks():
    dense = nn.Sequential(
        nn.Linear(12, 10), snn.Leaky(beta=0.8, init_hidden=True),
        nn.Linear(10, 4), snn.Leaky(beta=0.6, init_hidden=True, output=True),
    )  # fmt: skip
    convolution = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), snn.Leaky(beta=0.9, init_hidden=True), nn.Flatten(),
        nn.Linear(48, 4, bias=False), snn.Leaky(beta=0.5, init_hidden=True, output=True),
    )  # fmt: skip
    recurrent = nn.Sequential(
        nn.Linear(6, 7, bias=False), snn.Synaptic(alpha=0.5, beta=0.8, init_hidden=True),
        nn.Linear(7, 3, bias=False), snn.RLeaky(beta=0.7, linear_features=3, init_hidden=True, output=True),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    yield "dense", dense, rng.normal(0, 1, (STEPS, BATCH, 12))
    yield "convolution", convolution, rng.random((STEPS, BATCH, 2, 8, 8)) < 0.2
    yield "recurrent", recurrent, rng.poisson(0.4, (STEPS, BATCH, 6))


def main():
    torch.manual_seed(3)
    arrays = {}
    for name, network, inputs in networks():
        inputs = inputs.astype(np.float32)
        weights = [p for p in network.parameters() if p.ndim > 1]
        with torch.no_grad():
            for weight in weights:
                weight *= 3  # so that neurons fire
                weight[torch.rand(weight.shape) < 0.3] = 0
        x = torch.tensor(inputs).transpose(0, 1)  # NeuroBench has the batch first
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(BATCH)), batch_size=BATCH)
        metrics = [Footprint, ConnectionSparsity], [ActivationSparsity, SynapticOperations, MembraneUpdates]
        with torch.no_grad():
            results = Benchmark(SNNTorchModel(network), data, [], [], metrics).run(quiet=True)
        results["parameters"] = sum(p.numel() * p.element_size() for p in network.parameters())
        print(name, results)
        arrays |= {f"{name}/{key}": value.detach().numpy() for key, value in network.named_parameters()}
        arrays |= {f"{name}/inputs": inputs, f"{name}/results": json.dumps(results)}
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
