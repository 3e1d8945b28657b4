"""What the tests of the command share: options, examples, and parameters as plain arrays."""

import dataclasses

import numpy as np

from spikegrad.cli.options import Options
from spikegrad.data import Sequences

DEFAULTS = {
    field.name: field.metadata["click"].get("default") for field in dataclasses.fields(Options)
}
PLAIN = DEFAULTS | {
    "data": "mine.npz",
    "surrogate": "sigmoid",
    "epochs": 2,
    "seed": 0,
    "batch": 8,
    "hidden": (6,),
    "steps": 9,
    "encoding": "none",
    "lr": 1e-2,
    "shift": 0,
    "reset": "subtract",
    "detach_reset": False,
    "cell": "lif",
    "taus": (),
    "recurrent": False,
    "readout": "mean",
    "mode": "exact",
    "bin": 0.0,
    "pool": 1,
    "input_noise": 0.0,
}


def options(**changes):
    return Options(**{**PLAIN, **changes})


def images(x, y=None):
    """Images ``(n, ...)`` as sequences of one step."""
    return Sequences("images", np.asarray(x)[:, None], np.zeros(len(x), int) if y is None else y)


def only_line(capsys):
    """The only line that was printed, of an error."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("spikegrad: error: ")
    return line


def arrays(params):
    """The arrays of each layer by name, in float64."""
    names = ("weight", "bias", "recurrent")
    found = [{name: getattr(layer, name) for name in names} for layer in params]
    return [
        {k: np.asarray(v, np.float64) for k, v in layer.items() if v is not None} for layer in found
    ]
