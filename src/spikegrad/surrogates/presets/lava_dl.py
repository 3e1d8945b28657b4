"""lava-dl 0.6.0 and its repository, ``lava.lib.dl.slayer``: the spike, and what neurons make of their parameters."""

from ..._spike_types import strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import PiecewiseExp
from ._ratio import ratio

ABSENT = {
    "rf": "its spike has a complex input",
    "adrf": "its spike has a complex input",
    "graded_spike": "its output is the potential: its slope is scale_rho * OneSidedExp(1 / tau_rho)",
}


def Spike(tau_rho: Real, scale_rho: Real) -> Surrogate:
    """Two-sided exponential of area scale_rho, Shrestha and Orchard 2018."""
    return scale_rho * PiecewiseExp(ratio(1, tau_rho))


def _of_neuron(threshold: Real, tau_grad: Real, scale_grad: Real) -> Surrogate:
    return Spike(100 * tau_grad * threshold, 0.1 * scale_grad)


def cuba(threshold: Real, tau_grad: Real = 1, scale_grad: Real = 1) -> Surrogate:
    """That of its current-based neuron: a hundred thresholds wide; fires where x > 0, there from x = 0.01/4096 on."""
    return strict(_of_neuron(threshold, tau_grad, scale_grad))


def alif(threshold: Real, tau_grad: Real = 1, scale_grad: Real = 1) -> Surrogate:
    """That of its adaptive neuron: as that of cuba, but it fires where x ≥ 0."""
    return _of_neuron(threshold, tau_grad, scale_grad)


def rf_iz(threshold: Real, tau_grad: Real = 1, scale_grad: Real = 1) -> Surrogate:
    """That of Izhikevich's resonator: as that of alif."""
    return _of_neuron(threshold, tau_grad, scale_grad)


def adrf_iz(threshold: Real, tau_grad: Real = 1, scale_grad: Real = 1) -> Surrogate:
    """That of Izhikevich's adaptive resonator: as that of alif."""
    return _of_neuron(threshold, tau_grad, scale_grad)
