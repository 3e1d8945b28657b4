"""Neurons that their own spikes make less excitable."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from .._struct import Real, parameter
from ._cell import LinearResponse, State, leaky_integration, parts_of_state
from ._lif import LIF


class AdaptiveLIF(LIF, pure=True):
    r"""Leaky integrate-and-fire neurons whose threshold rises with each of their spikes, and falls back (ALIF).

    .. math:: u_t &= \beta\, v_{t-1} + g\, I_t \\ s_t &= H(u_t - (\theta + a_t)) \\
              a_{t+1} &= \rho\, a_t + \kappa\, s_t

    and resets as in :class:`LIF`, with the threshold of the moment: a reset by subtraction takes
    :math:`\theta + a_t`. The state after a step is the pair :math:`(v_t, a_{t+1})`, zeros at the start; with
    ``delay_reset``, :math:`(u_t, a_t)`.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`LIF`; ``threshold`` is that of a neuron that has not fired for long.
    adaptation : float or array, default 0.2
        How much :math:`\kappa` one spike raises the threshold, finite, in the unit of the potential. An array
        broadcasts to the state.
    adaptation_decay : float or array, default 0.99
        Share :math:`\rho` of the adaptation that is left after one step, from 0 to 1, dimensionless:
        :func:`decay_from_tau` makes it of a time constant. An array broadcasts to the state.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain.

    Notes
    -----
    With ``detach_reset`` the adaptation is still differentiated: it is how such a neuron remembers.

    References
    ----------
    Bellec, Salaj, Subramoney, Legenstein, Maass 2018, "Long short-term memory and learning-to-learn in networks of
    spiking neurons", NeurIPS 31:787-797.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import AdaptiveLIF, unroll
    >>> cell = AdaptiveLIF(decay=0.0, adaptation=0.5, adaptation_decay=0.5)
    >>> (v, a), spikes = unroll(cell, jnp.full((5, 1), 1.25))
    >>> spikes[:, 0].tolist()
    [1.0, 0.0, 1.0, 0.0, 0.0]
    """

    state_names = "potential", "adaptation"

    adaptation: Real = parameter(default=0.2)
    adaptation_decay: Real = parameter(default=0.99, at_least=0, at_most=1)

    _hints = MappingProxyType(
        LIF._hints
        | {"tau_adaptation": "adaptation_decay=decay_from_tau(tau_adaptation, dt)", "rho": "adaptation_decay=rho"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse("adaptation, which spikes raise", "negative")

    def integrate(self, v: State, current: jax.Array) -> State:
        v, a = parts_of_state(self, v)
        cell = self._broadcast_to(v.dtype, v.shape, "v")
        u = leaky_integration(cell, v, current)
        return cell._after(u, a, cell._spike(v, cell._raised(a))) if self.delay_reset else (u, a)

    def fire(self, u: State) -> tuple[State, jax.Array]:
        u, a = u
        cell = self._broadcast_to(u.dtype, u.shape, "v")
        s = cell._spike(u, cell._raised(a))
        return ((u, a) if self.delay_reset else cell._after(u, a, s)), s

    def _after(self, u: jax.Array, a: jax.Array, s: jax.Array) -> State:
        return self._after_spike(u, s, self._raised(a)), self.adaptation_decay * a + self.adaptation * s

    def _raised(self, a: jax.Array) -> jax.Array:
        return self.threshold + a

    def encode(self, u: State) -> tuple[jax.Array, Any]:
        u, a = u
        return u - self._broadcast_to(a.dtype, a.shape, "v")._raised(a), a

    def decode(self, distance: Any, rest: Any) -> State:
        threshold = self._broadcast_to(rest.dtype, rest.shape, "v")._raised(rest)
        u = distance + threshold
        # the adaptation is not what it was when the distance was taken: the sum may be rounded up to the threshold
        return jnp.where((distance < 0) & (u >= threshold), jnp.nextafter(threshold, -jnp.inf), u), rest

    def linear_response(self) -> LinearResponse:
        return super().linear_response()  # declared again with integrate: without spikes nothing adapts
