"""lava-dl 0.6.0 and its repository, ``lava.lib.dl.slayer``: the spike, and its parameters in each
neuron.
"""

from ..._spike_types import strict
from ..._struct import Real
from ..._surrogate import Surrogate
from .. import PiecewiseExp
from ._ratio import ratio

ABSENT = {
    "rf": "its spike has a complex input",
    "adrf": "its spike has a complex input",
    "graded_spike": "its output is the potential, with the slope scale_rho * OneSidedExp(1 / "
    "tau_rho)",
}


def Spike(tau_rho: Real, scale_rho: Real) -> Surrogate:
    """Two-sided exponential of area scale_rho, Shrestha and Orchard 2018."""
    return scale_rho * PiecewiseExp(ratio(1, tau_rho))


def _of_neuron(threshold: Real, tau_grad: Real, scale_grad: Real) -> Surrogate:
    return Spike(100 * tau_grad * threshold, 0.1 * scale_grad)


def cuba(threshold: Real, tau_grad: Real = 1, scale_grad: Real = 1) -> Surrogate:
    """Spike of its current-based neuron, 100 thresholds wide.

    It fires for x > 0, in lava-dl for x ≥ 0.01/4096.
    """
    return strict(_of_neuron(threshold, tau_grad, scale_grad))


def alif(threshold: Real, tau_grad: Real = 1, scale_grad: Real = 1) -> Surrogate:
    """Spike of its adaptive neuron. It works like cuba, except that it fires for x ≥ 0."""
    return _of_neuron(threshold, tau_grad, scale_grad)


def rf_iz(threshold: Real, tau_grad: Real = 1, scale_grad: Real = 1) -> Surrogate:
    """Spike of Izhikevich's resonator. It works like alif."""
    return _of_neuron(threshold, tau_grad, scale_grad)


def adrf_iz(threshold: Real, tau_grad: Real = 1, scale_grad: Real = 1) -> Surrogate:
    """Spike of Izhikevich's adaptive resonator. It works like alif."""
    return _of_neuron(threshold, tau_grad, scale_grad)
