"""The spikes that norse and snnTorch give on graphs of ``spikegrad.exchange.to_nir``, for the tests of ``exchange``.

Needs torch, norse, snntorch and nirtorch beside this library with its extra ``nir``. Writes
``tests/recorded/nir.json``: of each library and network the outputs of every step and example as bits, or the error.
"""

import importlib.metadata
import json
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import nir
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from nir_reference import images, networks, spikes_in  # noqa: E402

from spikegrad.exchange import to_nir  # noqa: E402

WAY = {"dt": 1e-4, "discretization": "euler"}  # the step of snnTorch is a constant of its source


def norse(graph):
    import norse.torch  # noqa: PLC0415

    module = norse.torch.from_nir(graph, dt=WAY["dt"])

    def run(sequence):
        state, outs = None, []
        for x in sequence:
            out, state = module(x, state)
            outs.append(out)
        return torch.stack(outs)

    return run


def snntorch(graph):
    from snntorch.import_nir import import_from_nir  # noqa: PLC0415

    module = import_from_nir(graph)

    def run(sequence):
        outs, state = [], None
        for x in sequence:
            out, state = module(x, state)
            outs.append(out)
        return torch.stack(outs)

    return run


def record(library, network, inputs, **options):
    with TemporaryDirectory() as folder:
        path = Path(folder, "graph.nir")
        nir.write(path, to_nir(network, **WAY, **options))
        graph = nir.read(path)
    try:
        with torch.no_grad():
            spikes = library(graph)(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()
    except Exception as error:  # whatever it is, a user would get it
        return {"options": options, "error": f"{type(error).__name__}: {error}"}
    assert set(np.unique(spikes)) <= {0, 1}, np.unique(spikes)
    return {"options": options, "shape": spikes.shape, "bits": np.packbits(spikes.astype(bool)).tobytes().hex()}


def main():
    warnings.simplefilter("ignore")
    found = {}
    for library in (norse, snntorch):
        cases = {}
        for name, network in networks().items():
            inputs = spikes_in()
            cases[name] = record(library, network, inputs)
            if library is norse:  # which ignores the resistance of a LIF
                cases[f"{name}, unit resistance"] = record(library, network, inputs, unit_resistance=True)
        network, inputs = images()
        first = np.moveaxis(inputs, -1, 2)[:, 0]  # one example, without an axis: a Flatten there counts all axes
        cases["images"] = record(library, network, first, input_shape=(7, 5, 2), unit_resistance=library is norse)
        version = importlib.metadata.version(library.__name__)
        found[library.__name__] = {"version": version, "torch": torch.__version__, "cases": cases}
    target = ROOT / "tests" / "recorded" / "nir.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"nir": nir.version, **WAY, "libraries": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
