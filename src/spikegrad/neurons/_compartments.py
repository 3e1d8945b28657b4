"""Neurons of several compartments."""

from __future__ import annotations

import jax

from .._struct import Real, parameter
from ._cell import State
from ._spiking import Spikes, Spiking, share, spikes


class TCLIF(Spiking, pure=True):
    r"""Neurons with two compartments, a dendrite and a soma (TC-LIF), which remember inputs for a
    long time.

    .. math:: d_t &= d_{t-1} - \beta_1 u_{t-1} + I_t \\ u_t &= u_{t-1} + \beta_2 d_t \\
              s_t &= H(u_t - \theta)

    The dendrite has the potential :math:`d_t` and adds the input :math:`I_t`. The soma has the
    potential :math:`u_t` and reads the dendrite. The step :math:`H` is 1 if its argument is at
    least 0, and :math:`s_t` is the spike. A spike then subtracts :math:`\theta` from :math:`u_t`
    and :math:`\gamma` from :math:`d_t`. The potentials have no decay factor: between spikes, the
    soma lowers the dendrite by :math:`\beta_1 u_{t-1}`. The state is the pair :math:`(u, d)`,
    initially zeros.

    Parameters
    ----------
    to_dendrite : float or array, default 0.5
        Factor :math:`\beta_1` by which the soma lowers the dendrite in each time step, at least 0
        and at most 1, without a unit. The paper trains it. To do this, pass
        ``to_dendrite=bounded(0.5)`` with :func:`spikegrad.bounded`, which trains the number
        :math:`c_1` in :math:`\beta_1 = \sigma(c_1)` with the logistic function :math:`\sigma`.
    to_soma : float or array, default 0.5
        Factor :math:`\beta_2` by which the dendrite raises the soma in each time step, at least 0
        and at most 1, without a unit. It is trained in the same way, as :math:`\beta_2 =
        \sigma(c_2)`.
    threshold : float or array, default 1.0
        Threshold :math:`\theta` of the soma, in the unit of the potential. A neuron spikes if
        :math:`u_t` is at least this number. A spike subtracts it from the soma.
    dendritic_reset : float or array, default 0.5
        The number :math:`\gamma` that a spike subtracts from the dendrite, in the unit of the
        potential.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``u - threshold``, and defines the slope for the
        backward pass. Pass any :class:`spikegrad.Surrogate`.
    detach_reset : bool, default False
        If True, the backward pass treats the spike in both resets as a constant.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range. JAX arrays are not checked, because
        they may be traced.

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
