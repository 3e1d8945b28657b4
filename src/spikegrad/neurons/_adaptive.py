"""Neurons with an adaptation that reduces their excitability after spikes."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax

from .._struct import Real, parameter
from ..surrogates import Sigmoid
from ._cell import LinearResponse, State, leaky_integration, parts_of_state
from ._lif import LIF
from ._spiking import Spiking, check_known, from_distance


class AdaptiveLIF(LIF, pure=True):
    r"""Leaky integrate-and-fire neurons with an adaptive threshold, which rises with each spike and
    decays (ALIF).

    .. math:: u_t &= \beta\, v_{t-1} + g\, I_t \\ s_t &= H(u_t - (\theta + a_t)) \\
              a_{t+1} &= \rho\, a_t + \kappa\, s_t

    and resets as in :class:`LIF`, with the current threshold: a reset by subtraction subtracts
    :math:`\theta + a_t`. The state after a step is the pair :math:`(v_t, a_{t+1})`, initially
    zeros. With ``delay_reset`` it is :math:`(u_t, a_t)`.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`LIF`. ``threshold`` is the threshold :math:`\theta` without adaptation. An
        additional reset, ``"baseline"``, subtracts :math:`\theta` instead of :math:`\theta + a_t`.
    adaptation : float or array, default 0.2
        Increase :math:`\kappa` of the threshold per spike, finite, in the unit of the potential. An
        array broadcasts to the state.
    adaptation_decay : float or array, default 0.99
        Decay factor :math:`\rho` of the adaptation per time step, from 0 to 1, dimensionless.
        :func:`decay_from_tau` converts a time constant. An array broadcasts to the state.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain.

    Notes
    -----
    With ``detach_reset`` the adaptation is still differentiated, because it is the memory of the
    neuron.

    References
    ----------
    Bellec, Salaj, Subramoney, Legenstein, Maass 2018, "Long short-term memory and learning-to-learn
    in networks of spiking neurons", NeurIPS 31:787-797.

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

    reset: str = parameter(default="subtract", choices=("subtract", "value", "none", "baseline"))
    adaptation: Real = parameter(default=0.2)
    adaptation_decay: Real = parameter(default=0.99, at_least=0, at_most=1)

    _hints = MappingProxyType(
        LIF._hints
        | {
            "tau_adaptation": "adaptation_decay=decay_from_tau(tau_adaptation, dt)",
            "rho": "adaptation_decay=rho",
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse("adaptation, which spikes raise", "negative")

    def integrate(self, v: State, current: jax.Array) -> State:
        v, a = parts_of_state(self, v)
        return self._integrate_parts(v, a, current)

    def _integrate_parts(self, v: jax.Array, a: jax.Array, current: jax.Array) -> State:
        cell = self._broadcast_to(v.dtype, v.shape, "v")
        u = leaky_integration(cell, v, current)
        return cell._after(u, a, cell._spike(v, cell._threshold(a))) if self.delay_reset else (u, a)

    def fire(self, u: State, key: jax.Array | None = None) -> tuple[State, jax.Array]:
        u, a = u
        cell = self._broadcast_to(u.dtype, u.shape, "v")
        s = cell._spike(u, cell._threshold(a), key)
        return ((u, a) if self.delay_reset else cell._after(u, a, s)), s

    def _after(self, u: jax.Array, a: jax.Array, s: jax.Array) -> State:
        subtracted = self.threshold if self.reset == "baseline" else self._threshold(a)
        return self._after_spike(u, s, subtracted), self.adaptation_decay * a + self.adaptation * s

    def _threshold(self, *others: Any) -> Any:
        (a,) = others
        return self.threshold + a

    def encode(self, u: State) -> tuple[jax.Array, Any]:
        u, a = u
        return u - self._broadcast_to(a.dtype, a.shape, "v")._threshold(a), a

    def decode(self, distance: Any, rest: Any) -> State:
        threshold = self._broadcast_to(rest.dtype, rest.shape, "v")._threshold(rest)
        return from_distance(distance, threshold), rest  # the adaptation was rounded to 16 bits

    def linear_response(self) -> LinearResponse:
        return (
            super().linear_response()
        )  # declared again with integrate, which stays linear without spikes


class SynapticAdaptiveLIF(AdaptiveLIF, pure=True):
    r"""Neurons with an adaptive threshold and a synapse, a second leak of the input.

    .. math:: i_t = \gamma\, i_{t-1} + I_t, \qquad u_t = \beta\, v_{t-1} + g\, i_t

    and spikes, resets and adaptation as in :class:`spikegrad.AdaptiveLIF`. The state is the triple
    :math:`(v, a, i)`.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`spikegrad.AdaptiveLIF`.
    adaptation, adaptation_decay : float or array, default 0.2 and 0.99
        As in :class:`spikegrad.AdaptiveLIF`.
    synaptic_decay : float or array, default 0.8
        Decay factor :math:`\gamma` of the synaptic current per time step, from 0 to 1,
        dimensionless. An array broadcasts to the state.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain.

    References
    ----------
    Bellec et al. 2018, see :class:`spikegrad.AdaptiveLIF`. The synapse is the one of
    :class:`spikegrad.SynapticLIF`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import SynapticAdaptiveLIF
    >>> cell = SynapticAdaptiveLIF(
    ...     decay=0.0, adaptation=0.5, adaptation_decay=0.5, synaptic_decay=0.5
    ... )
    >>> (v, a, i), spikes = unroll(cell, jnp.array([[2.0], [0.0], [0.0]]))
    >>> spikes[:, 0].tolist(), i.tolist()
    ([1.0, 0.0, 0.0], [0.5])
    """

    state_names = "potential", "adaptation", "synaptic current"

    synaptic_decay: Real = parameter(default=0.8, at_least=0, at_most=1)

    _hints = MappingProxyType(
        AdaptiveLIF._hints
        | {"tau_syn": "synaptic_decay=decay_from_tau(tau_syn, dt)", "alpha": "synaptic_decay=alpha"}
    )

    def integrate(self, v: State, current: jax.Array) -> State:
        v, a, i = parts_of_state(self, v)
        i = self._broadcast_to(i.dtype, i.shape, "v").synaptic_decay * i + current
        return *self._integrate_parts(v, a, i), i

    def fire(self, u: State, key: jax.Array | None = None) -> tuple[State, jax.Array]:
        *u, i = u
        v, s = super().fire(tuple(u), key)
        return (*v, i), s

    def encode(self, u: State) -> tuple[jax.Array, Any]:
        u, a, i = u
        distance, a = super().encode((u, a))
        return distance, (a, i)

    def decode(self, distance: Any, rest: Any) -> State:
        a, i = rest
        return *super().decode(distance, a), i

    def linear_response(self) -> LinearResponse:
        return super().linear_response()._replace(synaptic_decay=self.synaptic_decay)


class AdLIF(Spiking, pure=True):
    r"""Neurons with coupled potential and adaptation (adLIF), which can resonate.

    .. math:: u_t &= \alpha\, v_{t-1} + (1 - \alpha) (I_t - w_{t-1}) \\ s_t &= H(u_t - \theta) \\
              v_t &= u_t - \theta s_t \\ w_t &= \beta\, w_{t-1} + a\, u_t + b\, s_t

    The adaptation depends on the potential before the reset. The state is the pair :math:`(v, w)`,
    initially zeros.

    Parameters
    ----------
    decay : float or array, default 0.9
        Decay factor :math:`\alpha` of the potential per time step, from 0 to 1, dimensionless.
    adaptation_decay : float or array, default 0.98
        Decay factor :math:`\beta` of the adaptation per time step, from 0 to 1, dimensionless.
    a : float or array, default 0.5
        Coupling of the adaptation to the potential, dimensionless. The subthreshold dynamics are
        stable for :math:`-(1 - \beta) \le a \le (1 + \alpha)(1 + \beta) / (1 - \alpha)`.
    b : float or array, default 1.0
        Increase of the adaptation per spike, in the unit of the potential.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of the potential.
    surrogate : callable, default Sigmoid()
        The function from ``u - threshold`` to spikes.
    detach_reset : bool, default False
        If True, the spike in the reset is a constant in the derivative. The spike in the adaptation
        never is.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, and for unstable numbers. JAX arrays, which may be
        trained, are not checked. Use :func:`spikegrad.bounded` for their bounds.

    Notes
    -----
    The order of the updates follows the authors' code, sparch. sparch draws ``a`` from -1 to 1,
    which makes half of the neurons unstable, and starts from random potentials and spikes.

    References
    ----------
    Bittar, Garner 2022, "A surrogate gradient spiking baseline for speech command recognition",
    Frontiers in Neuroscience 16:865897.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import AdLIF
    >>> _, spikes = unroll(AdLIF(a=0.05, b=2.0), jnp.full((60, 1), 8.0))
    >>> spikes[:, 0].nonzero()[0].tolist()
    [1, 2, 5, 11, 24, 41, 58]
    """

    state_names = "potential", "adaptation"

    decay: Real = parameter(default=0.9, at_least=0, at_most=1)
    adaptation_decay: Real = parameter(default=0.98, at_least=0, at_most=1)
    a: Real = parameter(default=0.5)
    b: Real = parameter(default=1.0)
    threshold: Real = parameter(default=1.0)
    surrogate: Callable[[jax.Array], jax.Array] = parameter(default=Sigmoid(), kind=Callable)
    detach_reset: bool = parameter(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known(
            self,
            lambda alpha, beta, a: (
                (-(1 - beta) <= a) & (a * (1 - alpha) <= (1 + alpha) * (1 + beta))
            ),
            "a must be from -(1 - adaptation_decay) to (1 + decay) (1 + adaptation_decay) / (1 - "
            "decay) to be stable",
            decay=self.decay,
            adaptation_decay=self.adaptation_decay,
            a=self.a,
        )

    def integrate(self, v: State, current: jax.Array) -> State:
        return _driven(self, v, current)

    def fire(self, u: State, key: jax.Array | None = None) -> tuple[State, jax.Array]:
        u, w = u
        cell = self._broadcast_to(u.dtype, u.shape, "v")
        s = cell._spike(u, cell.threshold, key)
        return (
            u - cell.threshold * self._for_reset(s),
            cell.adaptation_decay * w + cell.a * u + cell.b * s,
        ), s

    encode, decode = Spiking.encode, Spiking.decode


def _driven(cell: AdLIF | SymplecticAdLIF, v: State, current: jax.Array) -> State:
    """Return the potential after its leak and the current minus the adaptation, and the unchanged
    adaptation.
    """
    v, w = parts_of_state(cell, v)
    cell = cell._broadcast_to(v.dtype, v.shape, "v")
    return cell.decay * v + (1 - cell.decay) * (current - w), w


class SymplecticAdLIF(Spiking, pure=True):
    r"""Neurons with coupled potential and adaptation, by the symplectic Euler method (SE-adLIF).

    .. math:: u_t &= \alpha\, v_{t-1} + (1 - \alpha) (I_t - w_{t-1}) \\ s_t &= H(u_t - \theta) \\
              v_t &= u_t (1 - s_t) \\ w_t &= \rho\, w_{t-1} + (1 - \rho)\, q\, (a\, v_t + b\, s_t)

    The adaptation depends on the potential of this step after the reset. The damping is therefore
    independent of the coupling. The state is the pair :math:`(v, w)`, initially zeros.

    Parameters
    ----------
    decay : float or array, default 0.94
        Decay factor :math:`\alpha` of the potential per time step, from 0 to 1, dimensionless.
    adaptation_decay : float or array, default 0.99
        Decay factor :math:`\rho` of the adaptation per time step, from 0 to 1, dimensionless.
    a : float or array, default 0.5
        Coupling of the adaptation to the potential, dimensionless, from 0 to 1 in the paper. The
        subthreshold dynamics are stable for :math:`-1 \le q a \le (1 + \alpha)(1 + \rho) / ((1 -
        \alpha)(1 - \rho))`.
    b : float or array, default 1.0
        Increase of the adaptation per spike, in the unit of the potential, from 0 to 2 in the
        paper.
    q : float or array, default 120.0
        Scale of the adaptation, dimensionless.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of the potential.
    surrogate : callable, default Sigmoid()
        The function from ``u - threshold`` to spikes.
    detach_reset : bool, default True
        If True, the spike in the reset is a constant in the derivative. The spike in the adaptation
        never is.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, for unstable numbers, and for spikes that are counts or
        negative.

    References
    ----------
    Baronig, Ferrand, Sabathiel, Legenstein 2025, "Advancing spatio-temporal processing through
    adaptation in spiking neural networks", Nature Communications 16.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import SymplecticAdLIF
    >>> _, spikes = unroll(SymplecticAdLIF(), jnp.full((100, 1), 10.0))
    >>> spikes[:, 0].nonzero()[0].tolist()
    [1, 4, 7, 12]
    """

    state_names = "potential", "adaptation"

    decay: Real = parameter(default=0.94, at_least=0, at_most=1)
    adaptation_decay: Real = parameter(default=0.99, at_least=0, at_most=1)
    a: Real = parameter(default=0.5)
    b: Real = parameter(default=1.0)
    q: Real = parameter(default=120.0)
    threshold: Real = parameter(default=1.0)
    surrogate: Callable[[jax.Array], jax.Array] = parameter(default=Sigmoid(), kind=Callable)
    detach_reset: bool = parameter(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse("a reset to 0, which takes one spike a step", "multiple", "negative")
        values = {name: getattr(self, name) for name in ("decay", "adaptation_decay", "a", "q")}
        check_known(
            self, self._is_stable, f"q * a must be from -1 to {self._BOUND} to be stable", **values
        )

    _BOUND = "(1 + decay) (1 + adaptation_decay) / ((1 - decay) (1 - adaptation_decay))"

    @staticmethod
    def _is_stable(alpha: Any, rho: Any, a: Any, q: Any) -> Any:
        return (q * a >= -1) & (q * a * (1 - alpha) * (1 - rho) <= (1 + alpha) * (1 + rho))

    def integrate(self, v: State, current: jax.Array) -> State:
        return _driven(self, v, current)

    def fire(self, u: State, key: jax.Array | None = None) -> tuple[State, jax.Array]:
        u, w = u
        cell = self._broadcast_to(u.dtype, u.shape, "v")
        s = cell._spike(u, cell.threshold, key)
        v = u * (1 - self._for_reset(s))
        return (v, cell._adaptation(v, w, s)), s

    def _adaptation(self, v: jax.Array, w: jax.Array, s: jax.Array) -> jax.Array:
        return self.adaptation_decay * w + (1 - self.adaptation_decay) * self.q * (
            self.a * v + self.b * s
        )

    encode, decode = Spiking.encode, Spiking.decode


class EulerAdLIF(SymplecticAdLIF, pure=True):
    r"""Neurons with coupled potential and adaptation, by the forward Euler method (EF-adLIF).

    Like :class:`SymplecticAdLIF`, except that the potential depends on the adaptation one step
    earlier:

    .. math:: u_t &= \alpha\, v_{t-1} + (1 - \alpha) (I_t - w_{t-2}), \\
              w_t &= \rho\, w_{t-1} + (1 - \rho)\, q\, (a\, v_t + b\, s_t)

    The state is the pair :math:`(p, w)`, initially zeros, with :math:`p_t = \alpha v_t - (1 -
    \alpha) w_{t-1}`, the part of the next potential that does not depend on the input.

    Parameters
    ----------
    decay, adaptation_decay, a, b, threshold, surrogate, detach_reset
        As in :class:`SymplecticAdLIF`. The subthreshold dynamics are stable for
        :math:`-1 \le q a \le (1 - \alpha \rho) / ((1 - \alpha)(1 - \rho))`, a much lower bound.
    q : float or array, default 65.0
        Scale of the adaptation, dimensionless.

    Raises
    ------
    ValueError, TypeError
        As in :class:`SymplecticAdLIF`.

    References
    ----------
    Baronig et al. 2025, see :class:`SymplecticAdLIF`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import EulerAdLIF
    >>> _, spikes = unroll(EulerAdLIF(), jnp.full((100, 1), 10.0))
    >>> spikes[:, 0].nonzero()[0].tolist()
    [1, 3, 5, 8, 11, 15, 20, 27]
    """

    state_names = "part of the potential", "adaptation"

    q: Real = parameter(default=65.0)

    _BOUND = "(1 - decay adaptation_decay) / ((1 - decay) (1 - adaptation_decay))"

    @staticmethod
    def _is_stable(alpha: Any, rho: Any, a: Any, q: Any) -> Any:
        return (q * a >= -1) & (q * a * (1 - alpha) * (1 - rho) <= 1 - alpha * rho)

    def integrate(self, v: State, current: jax.Array) -> State:
        p, w = parts_of_state(self, v)
        return p + (1 - self._broadcast_to(p.dtype, p.shape, "v").decay) * current, w

    def fire(self, u: State, key: jax.Array | None = None) -> tuple[State, jax.Array]:
        (v, after), s = super().fire(u, key)
        cell = self._broadcast_to(v.dtype, v.shape, "v")
        return (cell.decay * v - (1 - cell.decay) * u[1], after), s

    encode, decode = Spiking.encode, Spiking.decode
