"""Neurons of several compartments."""

from __future__ import annotations

import jax

from .._struct import Real, parameter
from ._cell import State
from ._spiking import Spikes, Spiking, share, spikes


class TCLIF(Spiking, pure=True):
    r"""Neurons of a dendrite and a soma (TC-LIF), which keep what they have seen for long.

    .. math:: d_t &= d_{t-1} - \beta_1 u_{t-1} + I_t \\ u_t &= u_{t-1} + \beta_2 d_t \\
              s_t &= H(u_t - \theta)

    after which the spike subtracts :math:`\theta` from the soma :math:`u` and :math:`\gamma` from
    the dendrite :math:`d`. Between spikes nothing leaks: the two compartments exchange what they
    hold. The state is the pair :math:`(u, d)`, zeros at the start.

    Parameters
    ----------
    to_dendrite : float or array, default 0.5
        Coupling :math:`\beta_1` of the soma to the dendrite, from 0 to 1, dimensionless. The paper
        trains :math:`c_1` with :math:`\beta_1 = \sigma(c_1)`: here :func:`spikegrad.bounded` does
        so.
    to_soma : float or array, default 0.5
        Coupling :math:`\beta_2 = \sigma(c_2)` of the dendrite to the soma, from 0 to 1,
        dimensionless.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of the potential.
    dendritic_reset : float or array, default 0.5
        What a spike subtracts from the dendrite, :math:`\gamma`, in the unit of the potential.
    surrogate : callable, default Sigmoid()
        Makes spikes of ``u - threshold``.
    detach_reset : bool, default False
        Whether the spike in the resets is a constant for the derivative.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain.

    References
    ----------
    Zhang, Yang, Ma, Wu, Li, Tan 2024, "TC-LIF: a two-compartment spiking neuron model for long-term
    sequential modelling", AAAI 38(15):16838-16847.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import TCLIF
    >>> (u, d), spikes = unroll(TCLIF(), jnp.array([[1.0], [1.0], [0.0]]))
    >>> spikes[:, 0].tolist(), u.tolist(), d.tolist()
    ([0.0, 1.0, 0.0], [0.90625], [1.0625])
    """

    state_names = "soma", "dendrite"

    to_dendrite: Real = share(0.5)
    to_soma: Real = share(0.5)
    threshold: Real = parameter(default=1.0)
    dendritic_reset: Real = parameter(default=0.5)
    surrogate: Spikes = spikes()
    detach_reset: bool = parameter(default=False)

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        u, d = state
        # The dendrite reads the soma of the last step, and the soma reads the dendrite of this
        # step. With both from the last step the two would oscillate with growing amplitude.
        d = d - self.to_dendrite * u + current
        return u + self.to_soma * d, d

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        soma, dendrite = u
        s = self._for_reset(s)
        return soma - self.threshold * s, dendrite - self.dendritic_reset * s
