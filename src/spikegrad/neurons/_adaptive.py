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
    then decays (ALIF).

    .. math:: u_t &= \beta\, v_{t-1} + g\, I_t \\ s_t &= H(u_t - (\theta + a_t)) \\
              a_{t+1} &= \rho\, a_t + \kappa\, s_t

    :math:`I_t` is the input, :math:`u_t` the potential before the reset, :math:`v_t` the potential
    after it, and :math:`s_t` the spike. The step :math:`H` is 1 if its argument is at least 0. The
    *adaptation* :math:`a_t` is the amount by which the threshold is raised. So a neuron spikes if
    :math:`u_t` is at least :math:`\theta + a_t`, and it spikes less often after many spikes. Resets
    are as in :class:`LIF`, but a reset by subtraction subtracts the raised threshold :math:`\theta
    + a_t`. The state after a time step is the pair :math:`(v_t, a_{t+1})`, initially zeros. With
    ``delay_reset=True`` it is :math:`(u_t, a_t)`.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`LIF`, with the same defaults. ``decay`` is the factor by which the potential
        decays in each time step, from 0 to 1. A neuron spikes if its potential is at least
        ``threshold``. ``surrogate`` computes spikes and their slope. ``reset`` is the effect of a
        spike: ``"subtract"`` subtracts the threshold, ``"value"`` sets the potential to
        ``reset_value``, and ``"none"`` changes nothing. ``detach_reset=True`` treats the spike in
        the reset as a constant in the backward pass. ``delay_reset=True`` resets one time step
        after the spike. ``norm_input=True`` multiplies the input by :math:`1 - \beta`.
        ``threshold`` is the threshold without adaptation. ``reset`` has one more choice:
        ``"baseline"`` subtracts :math:`\theta` instead of :math:`\theta + a_t`.
    adaptation : float or array, default 0.2
        Increase :math:`\kappa` of the threshold at each spike, in the unit of the potential. Any
        finite number, or an array that broadcasts to the state.
    adaptation_decay : float or array, default 0.99
        Decay factor :math:`\rho` of the adaptation for one time step, at least 0 and at most 1,
        without a unit. With 0.99, the neuron remembers its spikes for about 100 time steps.
        :func:`decay_from_tau` converts a time constant to a decay factor. An array must broadcast
        to the state.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, as in :class:`LIF`, or for a
        surrogate with negative spikes, such as :func:`signed`.

    Notes
    -----
    With ``detach_reset=True``, gradients still flow through the spike to the adaptation. This spike
    is not a constant, because the adaptation is the long memory of the neuron.

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
        last_spike = self._spike(v, self._threshold(a))
        return self._adapted(last_spike, u, a)

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        return u if self.delay_reset else self._adapted(s, *u)

    def _adapted(self, s: jax.Array, u: jax.Array, a: jax.Array) -> State:
        # The threshold that this spike has crossed. The spike raises the threshold of the next
        # step only.
        subtracted = self.threshold if self.reset == "baseline" else self._threshold(a)
        v = self._reset(u, s, subtracted)
        a = self.adaptation_decay * a + self.adaptation * s
        return v, a

    def _threshold(self, *others: jax.Array) -> Real:
        return self.threshold + others[0]

    decode = Spiking.decode


class SynapticAdaptiveLIF(AdaptiveLIF, pure=True):
    r"""Leaky integrate-and-fire neurons with an adaptive threshold and a synaptic current, which
    adds up inputs and decays.

    .. math:: i_t = \gamma\, i_{t-1} + I_t, \qquad u_t = \beta\, v_{t-1} + g\, i_t

    :math:`I_t` is the input, :math:`i_t` the synaptic current and :math:`u_t` the potential before
    the reset. Spikes, resets and the adaptation :math:`a`, which raises the threshold, are as in
    :class:`spikegrad.AdaptiveLIF`. The state is the triple :math:`(v, a, i)` of potential,
    adaptation and synaptic current.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`spikegrad.AdaptiveLIF`, with the same defaults. ``decay`` is the factor by
        which the potential decays in each time step, from 0 to 1. A neuron spikes if its potential
        is at least ``threshold``. ``surrogate`` computes spikes and their slope. ``reset`` is the
        effect of a spike: ``"subtract"`` subtracts the threshold, ``"value"`` sets the potential to
        ``reset_value``, and ``"none"`` changes nothing. ``detach_reset=True`` treats the spike in
        the reset as a constant in the backward pass. ``delay_reset=True`` resets one time step
        after the spike. ``norm_input=True`` multiplies the input by :math:`1 - \beta`.
        ``threshold`` is the threshold without adaptation, and ``reset="baseline"`` subtracts this
        threshold.
    adaptation, adaptation_decay : float or array, default 0.2 and 0.99
        ``adaptation`` is the increase of the threshold at each spike, in the unit of the potential.
        ``adaptation_decay`` is the factor by which the increase decays in each time step, from 0 to
        1.
    synaptic_decay : float or array, default 0.8
        Decay factor :math:`\gamma` of the synaptic current for one time step, at least 0 and at
        most 1, without a unit. An array must broadcast to the state.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, as in
        :class:`spikegrad.AdaptiveLIF`.

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
    u = self.decay * v + (1 - self.decay) * (current - w)
    return u, w


class AdLIF(Spiking, pure=True):
    r"""Leaky integrate-and-fire neurons whose potential and adaptation drive each other (adLIF), so
    they can oscillate.

    .. math:: u_t &= \alpha\, v_{t-1} + (1 - \alpha) (I_t - w_{t-1}) \\ s_t &= H(u_t - \theta) \\
              v_t &= u_t - \theta s_t \\ w_t &= \beta\, w_{t-1} + a\, u_t + b\, s_t

    :math:`I_t` is the input, :math:`u_t` the potential before the reset, and :math:`v_t` the
    potential after it. The *adaptation* :math:`w` is subtracted from the input of the next time
    step. It rises with the potential before the reset, and with each spike :math:`s_t`. The step
    :math:`H` is 1 if its argument is at least 0. The state is the pair :math:`(v, w)`, initially
    zeros.

    Parameters
    ----------
    decay : float or array, default 0.9
        Decay factor :math:`\alpha` of the potential for one time step, at least 0 and at most 1,
        without a unit. The input has the factor :math:`1 - \alpha`.
    adaptation_decay : float or array, default 0.98
        Decay factor :math:`\beta` of the adaptation for one time step, at least 0 and at most 1,
        without a unit.
    a : float or array, default 0.5
        Factor from the potential to the adaptation, without a unit. It must satisfy :math:`-(1 -
        \beta) \le a \le (1 + \alpha)(1 + \beta) / (1 - \alpha)`, because otherwise the state grows
        without input.
    b : float or array, default 1.0
        Increase of the adaptation at each spike, in the unit of the potential.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of the potential. A neuron spikes if :math:`u_t` is at
        least this number. A spike subtracts it from the potential.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``u - threshold``, and defines the slope for the
        backward pass. Pass any :class:`spikegrad.Surrogate`.
    detach_reset : bool, default False
        If True, the backward pass treats the spike in the reset as a constant. The spike in the
        adaptation always gets a gradient.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, or if the state would grow without
        input. JAX arrays are not checked, because they may be traced. To train ``a`` within a
        range, use :func:`spikegrad.bounded`.

    Notes
    -----
    The order of the updates is the order of the authors' library, sparch. sparch draws ``a`` from
    -1 to 1. About half of its neurons are therefore unstable. It also starts from random potentials
    and spikes.

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
            self._is_stable,
            "a must be from -(1 - adaptation_decay) to (1 + decay) (1 + adaptation_decay) / (1 - "
            "decay) to be stable",
            "decay",
            "adaptation_decay",
            "a",
        )

    @staticmethod
    def _is_stable(alpha: Real, beta: Real, a: Real) -> Real:
        # Without spikes the step is a matrix of trace alpha + beta - a (1 - alpha) and determinant
        # alpha beta. Its eigenvalues are within the unit circle if |trace| <= 1 + determinant <= 2.
        # Both sides are multiplied by 1 - alpha, which may be 0.
        is_above = -(1 - beta) <= a
        is_below = a * (1 - alpha) <= (1 + alpha) * (1 + beta)
        return is_above & is_below

    _before = _driven

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        v, w = u
        # The adaptation below reads ``v``, the potential before this reset, as in the equation of
        # w.
        after = v - self.threshold * self._for_reset(s)
        w = self.adaptation_decay * w + self.a * v + self.b * s
        return after, w


class SymplecticAdLIF(Spiking, pure=True):
    r"""Leaky integrate-and-fire neurons whose potential and adaptation drive each other, by the
    symplectic Euler method (SE-adLIF).

    .. math:: u_t &= \alpha\, v_{t-1} + (1 - \alpha) (I_t - w_{t-1}) \\ s_t &= H(u_t - \theta) \\
              v_t &= u_t (1 - s_t) \\ w_t &= \rho\, w_{t-1} + (1 - \rho)\, q\, (a\, v_t + b\, s_t)

    :math:`I_t` is the input, :math:`u_t` the potential before the reset, and :math:`v_t` the
    potential after it, which is 0 after a spike. The *adaptation* :math:`w` is subtracted from the
    input of the next time step. It rises with the potential of the same time step after the reset,
    and with each spike :math:`s_t`. Therefore ``a`` changes the frequency of the oscillation, but
    not how fast it decays. The step :math:`H` is 1 if its argument is at least 0. The state is the
    pair :math:`(v, w)`, initially zeros.

    Parameters
    ----------
    decay : float or array, default 0.94
        Decay factor :math:`\alpha` of the potential for one time step, at least 0 and at most 1,
        without a unit. The input has the factor :math:`1 - \alpha`.
    adaptation_decay : float or array, default 0.99
        Decay factor :math:`\rho` of the adaptation for one time step, at least 0 and at most 1,
        without a unit.
    a : float or array, default 0.5
        Factor from the potential to the adaptation, without a unit. The paper uses values from 0 to
        1. It must satisfy :math:`-1 \le q a \le (1 + \alpha)(1 + \rho) / ((1 - \alpha)(1 - \rho))`,
        because otherwise the state grows without input.
    b : float or array, default 1.0
        Increase of the adaptation at each spike, before the factor :math:`(1 - \rho)\, q`, in the
        unit of the potential. The paper uses values from 0 to 2.
    q : float or array, default 120.0
        Factor of the increases of the adaptation by the potential and by spikes, without a unit.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of the potential. A neuron spikes if :math:`u_t` is at
        least this number.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``u - threshold``, and defines the slope for the
        backward pass. Pass any :class:`spikegrad.Surrogate`.
    detach_reset : bool, default True
        If True, the backward pass treats the spike in the reset as a constant. The spike in the
        adaptation always gets a gradient.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, or if the state would grow without
        input. JAX arrays are not checked, because they may be traced. Also for surrogates with
        several or negative spikes, such as :func:`spikegrad.multi_spike` and
        :func:`spikegrad.signed`.

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
            "decay",
            "adaptation_decay",
            "a",
            "q",
        )

    _BOUND = "(1 + decay) (1 + adaptation_decay) / ((1 - decay) (1 - adaptation_decay))"

    @staticmethod
    def _is_stable(alpha: Real, rho: Real, a: Real, q: Real) -> Real:
        # As for ``AdLIF``, with trace alpha + rho - q a (1 - alpha) (1 - rho) and determinant
        # alpha rho.
        is_above = q * a >= -1
        is_below = q * a * (1 - alpha) * (1 - rho) <= (1 + alpha) * (1 + rho)
        return is_above & is_below

    _before = _driven

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        v, w = u
        # The rise below reads the potential after this reset, unlike that of ``AdLIF``.
        v = v * (1 - self._for_reset(s))
        rise = (1 - self.adaptation_decay) * self.q * (self.a * v + self.b * s)
        return v, self.adaptation_decay * w + rise


class EulerAdLIF(SymplecticAdLIF, pure=True):
    r"""Leaky integrate-and-fire neurons whose potential and adaptation drive each other, by the
    forward Euler method (EF-adLIF).

    These neurons equal :class:`SymplecticAdLIF`, except that the potential depends on the
    adaptation of one time step earlier:

    .. math:: u_t &= \alpha\, v_{t-1} + (1 - \alpha) (I_t - w_{t-2}), \\
              w_t &= \rho\, w_{t-1} + (1 - \rho)\, q\, (a\, v_t + b\, s_t)

    The state is the pair :math:`(p, w)`, initially zeros. Here :math:`p_t = \alpha v_t - (1 -
    \alpha) w_{t-1}` is the next potential without its input.

    Parameters
    ----------
    decay, adaptation_decay, a, b, threshold, surrogate, detach_reset
        As in :class:`SymplecticAdLIF`, with the same defaults. ``decay`` (:math:`\alpha`) and
        ``adaptation_decay`` (:math:`\rho`) are the factors by which potential and adaptation decay
        in each time step, from 0 to 1. ``a`` is the factor from the potential to the adaptation,
        and ``b`` the increase of the adaptation at each spike. ``a`` must satisfy :math:`-1 \le q a
        \le (1 - \alpha \rho) / ((1 - \alpha)(1 - \rho))`, because otherwise the state grows without
        input. This upper limit is much lower than the limit of :class:`SymplecticAdLIF`. A neuron
        spikes if its potential is at least ``threshold``. ``surrogate`` computes spikes and their
        slope. ``detach_reset=True`` treats the spike in the reset as a constant in the backward
        pass.
    q : float or array, default 65.0
        Factor of the increases of the adaptation by the potential and by spikes, without a unit.

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
        is_above = q * a >= -1
        is_below = q * a * (1 - alpha) * (1 - rho) <= 1 - alpha * rho
        return is_above & is_below

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        p, w = state
        u = p + (1 - self.decay) * current
        return u, w

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        # u: the pair (u_t, w_{t-1}) of the docstring. w is the new w_t.
        _, w_before = u
        v, w = super()._after(s, *u)
        # The adaptation acts one step later, so the state holds its part of the next potential.
        p = self.decay * v - (1 - self.decay) * w_before
        return p, w
