"""Training of the command's networks, by one loop for spiking and non-spiking ones."""

from ._loop import (
    CODINGS,
    DivergedError,
    Fit,
    Model,
    Params,
    Progress,
    ReluNetwork,
    Scores,
    SpikingNetwork,
    count,
    cross_entropy,
    fit,
    init,
    make_evaluator,
    random_shift,
)

__all__ = [
    "CODINGS",
    "DivergedError",
    "Fit",
    "Model",
    "Params",
    "Progress",
    "ReluNetwork",
    "Scores",
    "SpikingNetwork",
    "count",
    "cross_entropy",
    "fit",
    "init",
    "make_evaluator",
    "random_shift",
]
