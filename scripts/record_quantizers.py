"""Record the quantization of lava-dl, Rockpool and sinabs for ``tests/integers/test_quantizers.py``.

    pip install torch numpy sinabs==3.1.3 rockpool==3.1.0
    python scripts/record_quantizers.py LAVA_DL

``LAVA_DL`` is a folder with the repository lava-nc/lava-dl at commit d825ac5, which pip does not have.

- ``lava/k/...``: a CUBA layer of ``slayer``: real weights and their integers, the input spikes, currents, potentials
  before the reset and spikes as integers of the chip, and the derivative of the weighted spikes by the currents.
  In odd records no neuron fires.
- ``rockpool/...``: ``global_quantize`` of a random Xylo network.
- ``sinabs/...``: ``discretize_conv_spike`` of a layer of the DYNAP-CNN, and its spikes and potentials.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
from rockpool.transform.quantize_methods import global_quantize
from sinabs.layers import IAF

FILE = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "integers" / "quantizers.npz"
STEPS, INPUTS, NEURONS = 60, 6, 8


def slayer(checkout: Path):
    """Import the neurons of slayer alone. The package itself needs lava, which no index has."""
    folder = checkout / "src" / "lava" / "lib" / "dl" / "slayer"
    for name in ("lava", "lava.lib", "lava.lib.dl", "lava.lib.dl.slayer"):
        module = types.ModuleType(name)
        module.__path__ = [str(folder)] if name.endswith("slayer") else []
        sys.modules[name] = module
    return importlib.import_module("lava.lib.dl.slayer.neuron.cuba")


def lava(cuba, k):
    rng = np.random.default_rng(k)
    current_decay, voltage_decay = rng.integers(1, 2000, 2)
    threshold = (2**17 - 1 if k % 2 else float(rng.integers(100, 400))) / 64
    neuron = cuba.Neuron(threshold, current_decay / 4096, voltage_decay / 4096)
    weight = torch.tensor(rng.normal(0, 1.5, (INPUTS, NEURONS)), dtype=torch.float32)
    integers = neuron.quantize_8bit(weight)
    spikes = torch.tensor(rng.random((STEPS, INPUTS)) < 0.2, dtype=torch.float32)
    currents = (spikes @ integers).T[None].requires_grad_()  # (batch, neurons, steps)
    current, voltage = neuron.dynamics(currents)
    fired = neuron.spike(voltage)
    cotangent = torch.tensor(rng.normal(size=fired.shape), dtype=torch.float32)
    (fired * cotangent).sum().backward()
    unit = neuron.s_scale  # a state of 1 in slayer, in integers of the chip
    arrays = {
        "weight": weight,
        "integers": integers * neuron.w_scale,
        "decays": torch.tensor([neuron.device_params["iDecay"], neuron.device_params["vDecay"]]),
        "threshold": torch.tensor(neuron.device_params["vThMant"]),
        "inputs": spikes,
        "current": current[0].T * unit,
        "potential": voltage[0].T * unit,
        "spikes": fired[0].T,
        "cotangent": cotangent[0].T,
        "gradient": currents.grad[0].T,
        "surrogate": torch.tensor([neuron.tau_rho * cuba.TAU_RHO_MULT, neuron.scale_rho * cuba.SCALE_RHO_MULT]),
    }
    return {f"lava/{k}/{name}": array.detach().numpy() for name, array in arrays.items()}


def rockpool():
    rng = np.random.default_rng(0)
    shapes = {"weights_in": (5, NEURONS), "weights_rec": (NEURONS, NEURONS), "weights_out": (NEURONS, 3)}
    arrays = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    for suffix, size in (("", NEURONS), ("_out", 3)):
        arrays["threshold" + suffix] = rng.uniform(0.5, 3, size)
        # log2(tau / dt). The last are short, so 1 - exp(-dt / tau) is not dt / tau.
        for name in ("dash_mem", "dash_syn"):
            arrays[name + suffix] = np.linspace(5.8, 1.4, size)
    result = global_quantize(**arrays, dash_syn_2=arrays["dash_syn"])
    after = {name + "_after": np.squeeze(array) for name, array in result.items() if name in arrays}
    return {f"rockpool/{name}": array for name, array in (arrays | after).items()}


def sinabs():
    path = Path(importlib.util.find_spec("sinabs").origin).parent / "backend" / "dynapcnn" / "discretize.py"
    # The file alone, because its package needs the driver of the chip.
    spec = importlib.util.spec_from_file_location("discretize", path)
    discretize = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(discretize)
    rng = np.random.default_rng(1)
    conv = torch.nn.Conv2d(INPUTS, NEURONS, 1, bias=False)
    conv.weight.data = torch.tensor(rng.normal(0, 0.2, (NEURONS, INPUTS, 1, 1)), dtype=torch.float32)
    weight = conv.weight.detach().clone()
    # Without min_v_mem its default of -32768 sets the scale, and weights below 0.5 are 0.
    layer = IAF(spike_threshold=2.0, min_v_mem=-90.0)
    conv, layer = discretize.discretize_conv_spike(conv, layer)
    inputs = torch.tensor(rng.random((STEPS, INPUTS)) < 0.3, dtype=torch.float32)
    currents = conv(inputs[..., None, None])[None]
    potentials, spikes = [], []
    with torch.no_grad():
        for t in range(STEPS):
            spikes.append(layer(currents[:, t : t + 1])[0, 0, :, 0, 0])
            potentials.append(layer.v_mem[0, :, 0, 0].clone())
    assert torch.stack(spikes).max() == 1  # a neuron of FixedLIF fires once a step
    arrays = {
        "weight": weight[..., 0, 0].T,
        "integers": conv.weight[..., 0, 0].T,
        "thresholds": torch.stack([torch.tensor(2.0), layer.spike_threshold.float()]),
        "inputs": inputs,
        "spikes": torch.stack(spikes),
        "potential": torch.stack(potentials),
    }
    return {f"sinabs/{name}": array.detach().numpy() for name, array in arrays.items()}


if __name__ == "__main__":
    cuba = slayer(Path(sys.argv[1]))
    records = rockpool() | sinabs()
    for k in range(4):
        records |= lava(cuba, k)
    np.savez_compressed(FILE, **records)
