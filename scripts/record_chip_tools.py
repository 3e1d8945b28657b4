"""Record the outputs of Lava and XyloSim for networks that spikegrad writes, for ``tests/integers/test_chips.py``.

    python scripts/record_chip_tools.py write    with spikegrad and h5py: the networks and their inputs
    python scripts/record_chip_tools.py lava     with lava-nc b6822fb and lava-dl d825ac5 from their repositories
    python scripts/record_chip_tools.py rockpool with rockpool 3.1.0, samna 0.48.6 and xylosim 0.1.3

The three steps may run in environments of their own. Each adds to ``tests/recorded/integers/chip_tools.npz``.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "recorded" / "integers" / "chip_tools.npz"
SEEDS = 4


def recorded():
    return dict(np.load(FILE)) if FILE.exists() else {}


def bare(*names):
    """Let packages be found without running their own code, which imports what these checks do not need."""
    for name in names:
        parent = importlib.import_module(name.rpartition(".")[0])
        package = types.ModuleType(name)
        package.__path__ = [str(Path(place, name.rpartition(".")[2])) for place in parent.__path__]
        sys.modules[name] = package


def write():
    """Write the networks of the tests in the formats of both tools."""
    sys.path.insert(0, str(ROOT / "tests"))
    from integer_networks import chip_inputs, chip_network  # noqa: PLC0415

    from spikegrad.integers import to_netx, to_xylo  # noqa: PLC0415

    arrays = {}
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.net")
            to_netx(chip_network("loihi", seed), path)
            arrays[f"lava/{seed}/file"] = np.frombuffer(path.read_bytes(), np.uint8)
        arrays[f"lava/{seed}/inputs"] = chip_inputs("loihi", seed)
        for name, array in to_xylo(chip_network("xylo", seed)).items():
            arrays[f"xylo/{seed}/spec/{name}"] = array
        arrays[f"xylo/{seed}/inputs"] = chip_inputs("xylo", seed)
    return arrays


def lava():
    """Run netx on the files."""
    # Lava is for Python 3.10. Newer ones refuse dataclasses without a hash as defaults.
    field_of = dataclasses._get_field

    def with_hash(cls, name, kind, is_keyword):
        default = getattr(cls, name, None)
        if type(default).__hash__ is None and dataclasses.is_dataclass(default):
            type(default).__hash__ = object.__hash__
        return field_of(cls, name, kind, is_keyword)

    dataclasses._get_field = with_hash
    bare("lava.lib.dl.slayer")
    from lava.lib.dl.netx import hdf5  # noqa: PLC0415
    from lava.magma.core.run_conditions import RunSteps  # noqa: PLC0415
    from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: PLC0415
    from lava.proc.io.sink import RingBuffer as Sink  # noqa: PLC0415
    from lava.proc.io.source import RingBuffer as Source  # noqa: PLC0415

    arrays = {}
    for seed in range(SEEDS):
        inputs = recorded()[f"lava/{seed}/inputs"][:, 0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.net")
            path.write_bytes(recorded()[f"lava/{seed}/file"].tobytes())
            network = hdf5.Network(net_config=str(path))
            print(network)
            source, sink = Source(data=inputs.T), Sink(shape=network.out.shape, buffer=len(inputs))
            source.s_out.connect(network.inp)
            network.out.connect(sink.a_in)
            network.run(condition=RunSteps(num_steps=len(inputs)), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            arrays[f"lava/{seed}/spikes"] = np.asarray(sink.data.get()).T.astype(np.int16)
            network.stop()
    return arrays


def rockpool():
    """Run XyloSim on the specifications.

    Its classmethod and ``config_from_specification`` have two names for the bias of the hidden layer.
    """
    bare(*(f"rockpool.devices.xylo{suffix}" for suffix in ("", ".syns61201", ".syns61300")))
    from rockpool.devices.xylo.syns61201.xylo_sim import XyloSim  # noqa: PLC0415

    arrays = {}
    for seed in range(SEEDS):
        of_seed = {k.split("/", 2)[2]: v for k, v in recorded().items() if k.startswith(f"xylo/{seed}/")}
        spec = {name.removeprefix("spec/"): array for name, array in of_seed.items() if name.startswith("spec/")}
        simulator = XyloSim.from_specification(bias=spec.pop("bias_hidden"), **spec, verify_config=False)
        spikes, _, _ = simulator(of_seed["inputs"][:, 0], record=True)
        arrays[f"xylo/{seed}/spikes"] = np.asarray(spikes).reshape(len(of_seed["inputs"]), -1).astype(np.int16)
    return arrays


if __name__ == "__main__":
    step = {"write": write, "lava": lava, "rockpool": rockpool}[sys.argv[1]]
    found = step()  # before the file is read, because another step may have written it
    np.savez_compressed(FILE, **(recorded() | found))
