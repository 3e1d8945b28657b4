"""Neurons with an adaptation that reduces their excitability after spikes."""

from __future__ import annotations

from typing import Any

import jax

from .._struct import Real, parameter
from ._cell import LinearResponse, State, leaky_integration
from ._lif import LIF
from ._spiking import Spikes, Spiking, share, spikes


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

    reset: str = parameter(
        default="subtract", choices=("subtract", "value", "none", "baseline")
    )
    adaptation: Real = parameter(default=0.2)
    adaptation_decay: Real = share(0.99)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse("adaptation, which spikes raise", "negative")

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        v, a = state
        u = leaky_integration(self, v, current)
        if not self.delay_reset:
            return u, a
        # The spike of the last step, which the state does not hold, follows from its state.
        # ``a`` is still the adaptation of the last step, so this is the threshold that the state
        # was compared with.
        return self._adapted(self._spike(v, self._threshold(a)), u, a)

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        return u if self.delay_reset else self._adapted(s, *u)

    def _adapted(self, s: jax.Array, u: jax.Array, a: jax.Array) -> State:
        # The threshold that this spike has crossed. The spike raises the threshold of the next
        # step only.
        subtracted = self.threshold if self.reset == "baseline" else self._threshold(a)
        return self._reset(
            u, s, subtracted
        ), self.adaptation_decay * a + self.adaptation * s

    def _threshold(self, *others: jax.Array) -> Real:
        return self.threshold + others[0]

    decode = Spiking.decode


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

    synaptic_decay: Real = share(0.8)

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        *adapting, i = state
        i = self.synaptic_decay * i + current
        return *super()._before(i, *adapting), i

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        *adapting, i = u
        return *super()._after(s, *adapting), i

    def linear_response(self) -> LinearResponse:
        return super().linear_response()._replace(synaptic_decay=self.synaptic_decay)


def _driven(self: Any, current: jax.Array, *state: jax.Array) -> State:
    """Return the potential after its leak and the current minus the adaptation, and the unchanged
    adaptation.
    """
    v, w = state
    # w of the last step: it changes in ``_after``, because it depends on this step's spike.
    return self.decay * v + (1 - self.decay) * (current - w), w


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

    decay: Real = share(0.9)
    adaptation_decay: Real = share(0.98)
    a: Real = parameter(default=0.5)
    b: Real = parameter(default=1.0)
    threshold: Real = parameter(default=1.0)
    surrogate: Spikes = spikes()
    detach_reset: bool = parameter(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_known(
            lambda alpha, beta, a: (
                # Without spikes the step is a matrix of trace alpha + beta - a (1 - alpha) and
                # determinant alpha beta. Its eigenvalues are within the unit circle if |trace| <=
                # 1 + determinant <= 2. Both sides are multiplied by 1 - alpha, which may be 0.
                (-(1 - beta) <= a) & (a * (1 - alpha) <= (1 + alpha) * (1 + beta))
            ),
            "a must be from -(1 - adaptation_decay) to (1 + decay) (1 + adaptation_decay) / (1 - "
            "decay) to be stable",
            *("decay", "adaptation_decay", "a"),
        )

    _before = _driven

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        v, w = u
        # The adaptation below reads ``v``, the potential before this reset, as in the equation of
        # w.
        after = v - self.threshold * self._for_reset(s)
        return after, self.adaptation_decay * w + self.a * v + self.b * s


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

    decay: Real = share(0.94)
    adaptation_decay: Real = share(0.99)
    a: Real = parameter(default=0.5)
    b: Real = parameter(default=1.0)
    q: Real = parameter(default=120.0)
    threshold: Real = parameter(default=1.0)
    surrogate: Spikes = spikes()
    detach_reset: bool = parameter(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_counts()
        self._check_known(
            self._is_stable,
            f"q * a must be from -1 to {self._BOUND} to be stable",
            *("decay", "adaptation_decay", "a", "q"),
        )

    _BOUND = "(1 + decay) (1 + adaptation_decay) / ((1 - decay) (1 - adaptation_decay))"

    @staticmethod
    def _is_stable(alpha: Real, rho: Real, a: Real, q: Real) -> Real:
        # As for ``AdLIF``, with trace alpha + rho - q a (1 - alpha) (1 - rho) and determinant
        # alpha rho.
        return (q * a >= -1) & (
            q * a * (1 - alpha) * (1 - rho) <= (1 + alpha) * (1 + rho)
        )

    _before = _driven

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        v, w = u
        # The rise below reads the potential after this reset, unlike that of ``AdLIF``.
        v = v * (1 - self._for_reset(s))
        rise = (1 - self.adaptation_decay) * self.q * (self.a * v + self.b * s)
        return v, self.adaptation_decay * w + rise


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
    def _is_stable(alpha: Real, rho: Real, a: Real, q: Real) -> Real:
        # Here q a is in the determinant, alpha rho + q a (1 - alpha) (1 - rho), which must be at
        # most 1. The trace is alpha + rho.
        is_at_most_one = q * a * (1 - alpha) * (1 - rho) <= 1 - alpha * rho
        return (q * a >= -1) & is_at_most_one

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        p, w = state
        return p + (1 - self.decay) * current, w

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        # u: the pair (u_t, w_{t-1}) of the docstring. w is the new w_t.
        v, w = super()._after(s, *u)
        # The adaptation acts one step later, so the state holds its part of the next potential.
        return self.decay * v - (1 - self.decay) * u[1], w
