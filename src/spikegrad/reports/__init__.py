"""Reports about a network: the arrays that it stores for the backward pass, and its operations and
energy on hardware. Plots are in :mod:`spikegrad.reports.plot`, which needs the extra ``plot``.

>>> import jax.numpy as jnp
>>> from spikegrad import LIF, Layer, Network
>>> from spikegrad.reports import residual_report
>>> network = Network([Layer(jnp.ones((20, 30)), LIF(0.9))])
>>> inputs = jnp.ones((50, 8, 20))
>>> residual_report(lambda net: net(inputs)[1].sum(), network).bytes > 0
True
"""

from ._connections import (
    NotLinearError as NotLinearError,  # for the library itself
    check_linear as check_linear,
)
from ._costs import cost_report
from ._energy import EnergyPrices
from ._neurobench import NeuroBenchReport, neurobench
from ._residuals import residual_report

__all__ = [
    "EnergyPrices",
    "NeuroBenchReport",
    "cost_report",
    "neurobench",
    "residual_report",
]
