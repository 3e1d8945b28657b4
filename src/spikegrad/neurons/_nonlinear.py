"""Neurons with a nonlinear potential between spikes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .._struct import Real, parameter
from ._cell import State
from ._spiking import Spikes, Spiking, share, spikes, spikes_of


class _ResetToValue(Spiking, pure=True):
    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_counts()


class _Escaping(_ResetToValue, pure=True):
    """Neurons that start at rest."""

    def initial_state(self: Any, shape: tuple[int, ...], dtype: DTypeLike) -> State:
        return jnp.broadcast_to(jnp.asarray(self.rest, dtype), shape)

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        return self._to_value(u[0], s)


class QIF(_Escaping, pure=True):
    r"""Quadratic integrate-and-fire neurons (QIF), whose potential rises by itself above a critical
    value.

    .. math:: u_t &= v_{t-1} + \frac1\tau \big(I_t + a\, (v_{t-1} - v_0)(v_{t-1} - v_c)\big), \\
              s_t &= H(u_t - \theta), \qquad v_t = u_t (1 - s_t) + v_r s_t

    :math:`I_t` is the input, :math:`v` the potential after the reset, :math:`u_t` the potential
    before it, and :math:`s_t` the spike. The step :math:`H` is 1 if its argument is at least 0.
    Without input, a potential below the critical potential :math:`v_c` returns to :math:`v_0`, and
    a potential above :math:`v_c` rises up to a spike. The state is the potential :math:`v`.

    Parameters
    ----------
    tau : float or array, default 2.0
        Time constant :math:`\tau`, above 0, in time steps. The potential changes more slowly with a
        larger number.
    critical : float or array, default 0.8
        Critical potential :math:`v_c`, in the unit of the potential. Above it, the neuron reaches
        the threshold without input.
    rest : float or array, default 0.0
        Potential :math:`v_0` at rest, in the unit of the potential. Neurons start from it, and
        return to it without input.
    a : float or array, default 1.0
        Factor of the quadratic term, above 0, in 1 per unit of the potential.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of the potential. A neuron spikes if :math:`u_t` is at
        least this number.
    reset_value : float or array, default 0.0
        Potential :math:`v_r` after a spike, in the unit of the potential.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``u - threshold``, and defines the slope for the
        backward pass. Pass any :class:`spikegrad.Surrogate`.
    detach_reset : bool, default False
        If True, the backward pass treats the spike in the reset as a constant.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range. Also for surrogates with several or
        negative spikes, such as :func:`spikegrad.multi_spike` and :func:`spikegrad.signed`.

    Notes
    -----
    One time step equals one of SpikingJelly's ``QIFNode``. Its default reset value is -0.1, so pass
    ``reset_value=-0.1`` to reproduce it.

    References
    ----------
    Ermentrout, Kopell 1986, "Parabolic bursting in an excitable system coupled with a slow
    oscillation", SIAM Journal on Applied Mathematics 46(2):233-253.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import QIF
    >>> _, spikes = unroll(QIF(), jnp.tile(jnp.array([0.1, 0.5]), (12, 1)))
    >>> spikes.sum(0).tolist()
    [0.0, 2.0]
    """

    tau: Real = parameter(default=2.0, above=0)
    critical: Real = parameter(default=0.8)
    rest: Real = parameter(default=0.0)
    a: Real = parameter(default=1.0, above=0)
    threshold: Real = parameter(default=1.0)
    reset_value: Real = parameter(default=0.0)
    surrogate: Spikes = spikes()
    detach_reset: bool = parameter(default=False)

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        (v,) = state
        # A parabola with zeros at rest, which attracts, and at the critical potential, which
        # repels: above it the drift is positive without any current.
        drift = self.a * (v - self.rest) * (v - self.critical)
        return v + (current + drift) / self.tau


class EIF(_Escaping, pure=True):
    r"""Exponential integrate-and-fire neurons (EIF), whose potential rises exponentially above a
    *rheobase*.

    .. math:: u_t = v_{t-1} + \frac1\tau
              \big(I_t + v_0 - v_{t-1} + \Delta\, e^{(v_{t-1} - \theta_\mathrm{rh}) / \Delta}\big)

    :math:`I_t` is the input, :math:`v` the potential after the reset and :math:`u_t` the potential
    before it. Spikes and resets are as in :class:`QIF`. The state is the potential :math:`v`.

    Parameters
    ----------
    tau : float or array, default 2.0
        Time constant :math:`\tau`, above 0, in time steps. The potential changes more slowly with a
        larger number.
    rheobase : float or array, default 0.8
        Potential :math:`\theta_\mathrm{rh}` at which the exponential term begins to dominate, in
        the unit of the potential.
    sharpness : float or array, default 1.0
        Width :math:`\Delta` of the exponential term, above 0, in the unit of the potential. The
        rise is steeper with a smaller number.
    rest : float or array, default 0.0
        Potential :math:`v_0` toward which the linear term pulls, in the unit of the potential.
        Neurons start from it.
    threshold, reset_value, surrogate, detach_reset
        As in :class:`QIF`, with the same defaults. A neuron spikes if its potential is at least
        ``threshold``. A spike sets the potential to ``reset_value``. ``surrogate`` computes spikes
        and their slope. ``detach_reset=True`` treats the spike in the reset as a constant in the
        backward pass.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range. Also for surrogates with several or
        negative spikes, such as :func:`spikegrad.multi_spike` and :func:`spikegrad.signed`.

    Notes
    -----
    If a potential far above the rheobase does not spike, the exponential overflows in the next time
    step. So choose a threshold that is at most a few times ``sharpness`` above the rheobase.

    References
    ----------
    Fourcaud-Trocmé, Hansel, van Vreeswijk, Brunel 2003, "How spike generation mechanisms determine
    the neuronal response to fluctuating inputs", Journal of Neuroscience 23(37):11628-11640. One
    time step equals one of SpikingJelly's ``EIFNode``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import EIF
    >>> _, spikes = unroll(EIF(), jnp.tile(jnp.array([-0.5, 0.5]), (12, 1)))
    >>> spikes.sum(0).tolist()
    [0.0, 4.0]
    """

    tau: Real = parameter(default=2.0, above=0)
    rheobase: Real = parameter(default=0.8)
    sharpness: Real = parameter(default=1.0, above=0)
    rest: Real = parameter(default=0.0)
    threshold: Real = parameter(default=1.0)
    reset_value: Real = parameter(default=0.0)
    surrogate: Spikes = spikes()
    detach_reset: bool = parameter(default=False)

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        (v,) = state
        # v is the potential after the reset, usually below the threshold, so the exponential stays
        # small.
        rise = self.sharpness * jnp.exp((v - self.rheobase) / self.sharpness)
        return v + (current + self.rest - v + rise) / self.tau


class AdEx(_ResetToValue, pure=True):
    r"""Adaptive exponential integrate-and-fire neurons (AdEx) with a synaptic current, in the order
    of operations of the library norse.

    .. math:: i_t &= \gamma\, i_{t-1} + I_t \\
              u_t &= v_{t-1} + (1 - \beta) \big(\Delta\, e^{(v_{t-1} - \theta)/\Delta} - v_{t-1} +
              i_t - a_{t-1}\big) \\
              s_t &= H(u_t - \theta), \qquad v_t = u_t (1 - s_t) + v_r s_t \\
              a_t &= a_{t-1} + (1 - \rho) (c\, v_{t-1} - a_{t-1}) + d\, s_t

    :math:`I_t` is the input, :math:`i` the synaptic current, and :math:`a` the adaptation, which
    reduces the potential after spikes. :math:`u_t` is the potential before the reset, :math:`v_t`
    the potential after it, and :math:`s_t` the spike. The step :math:`H` is 1 if its argument is at
    least 0. The state is the triple :math:`(v, a, i)`, initially zeros.

    Parameters
    ----------
    decay : float or array, default 0.9
        Decay factor :math:`\beta` of the potential for one time step, at least 0 and at most 1,
        without a unit.
    synaptic_decay : float or array, default 0.8
        Decay factor :math:`\gamma` of the synaptic current for one time step, at least 0 and at
        most 1, without a unit.
    adaptation_decay : float or array, default 0.998
        Decay factor :math:`\rho` of the adaptation for one time step, at least 0 and at most 1,
        without a unit.
    coupling : float or array, default 4.0
        Factor :math:`c` from the potential to the adaptation, without a unit.
    adaptation : float or array, default 0.02
        Increase :math:`d` of the adaptation at each spike, in the unit of the potential.
    sharpness : float or array, default 0.5
        Width :math:`\Delta` of the exponential term, above 0, in the unit of the potential. The
        rise is steeper with a smaller number.
    threshold, reset_value, surrogate, detach_reset
        As in :class:`QIF`, with the same defaults. A neuron spikes if its potential is at least
        ``threshold``. A spike sets the potential to ``reset_value``. ``surrogate`` computes spikes
        and their slope. ``detach_reset=True`` treats the spike in the reset as a constant in the
        backward pass. :math:`\theta` is also the potential at which the exponential term begins to
        dominate.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range. Also for surrogates with several or
        negative spikes, such as :func:`spikegrad.multi_spike` and :func:`spikegrad.signed`.

    Notes
    -----
    The leak pulls the potential toward 0. The defaults equal the defaults of norse for its time
    step of 1 ms. To convert a time constant of norse, use ``decay_from_tau(tau, dt,
    discretization="euler")``.

    References
    ----------
    Brette, Gerstner 2005, "Adaptive exponential integrate-and-fire model as an effective
    description of neuronal activity", Journal of Neurophysiology 94(5):3637-3642.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import AdEx
    >>> (v, a, i), spikes = unroll(AdEx(), jnp.full((30, 1), 0.5))
    >>> int(spikes.sum()), bool(a > 0)
    (5, True)
    """

    state_names = "potential", "adaptation", "synaptic current"

    decay: Real = share(0.9)
    synaptic_decay: Real = share(0.8)
    adaptation_decay: Real = share(0.998)
    coupling: Real = parameter(default=4.0)
    adaptation: Real = parameter(default=0.02)
    sharpness: Real = parameter(default=0.5, above=0)
    threshold: Real = parameter(default=1.0)
    reset_value: Real = parameter(default=0.0)
    surrogate: Spikes = spikes()
    detach_reset: bool = parameter(default=False)

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        v, a, i = state
        i = self.synaptic_decay * i + current
        rise = self.sharpness * jnp.exp((v - self.threshold) / self.sharpness)
        # The synaptic current is the new one, the adaptation that of the last step.
        u = v + (1 - self.decay) * (rise - v + i - a)
        # Driven by the potential before the step, as in norse. The spike adds to it in ``_after``.
        a_drift = self.coupling * v - a
        a = a + (1 - self.adaptation_decay) * a_drift
        return u, a, i

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        v, a, i = u
        v = self._to_value(v, s)
        a = a + self.adaptation * s
        return v, a, i


class Izhikevich(_ResetToValue, pure=True):
    r"""Izhikevich's neurons, which spike in regular, bursting and other patterns, in millivolts and
    milliseconds.

    .. math:: \dot v = 0.04\, v^2 + 5 v + 140 - w + I, \qquad \dot w = a\, (b\, v - w)

    :math:`v` is the potential in mV, :math:`w` is the *recovery*, which pulls the potential down
    after spikes, and :math:`I` is the input. A neuron spikes if :math:`v` is at least
    ``threshold``. A spike sets :math:`v` to :math:`c` and adds :math:`d` to :math:`w`. The state is
    the pair :math:`(v, w)`, initially :math:`(c, b\,c)`. Inputs are large numbers, such as 10.

    Parameters
    ----------
    a : float or array, default 0.02
        Rate of the recovery :math:`w`, above 0, in 1/ms. The recovery is slower with a smaller
        number.
    b : float or array, default 0.2
        Factor from the potential to the recovery, in 1/ms.
    c : float or array, default -65.0
        Potential after a spike, and the initial potential, in mV.
    d : float or array, default 8.0
        Increase of the recovery at each spike, in mV/ms.
    threshold : float or array, default 30.0
        Potential at which the neuron spikes, in mV.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``(v - threshold) / width``, and defines the slope
        for the backward pass. Pass any :class:`spikegrad.Surrogate`.
    width : float or array, default 10.0
        Number of mV that count as 1 for the surrogate, above 0. A larger number gives potentials
        far from the threshold more gradient.
    detach_reset : bool, default False
        If True, the backward pass treats the spike in the resets of :math:`v` and :math:`w` as a
        constant.
    order : {"published", "semi-implicit", "euler"}
        Numerical method of one time step. Spikes depend on it. ``"published"`` (default) is the
        program of the paper: two half steps of :math:`v`, then :math:`w` from the new :math:`v`.
        ``"semi-implicit"`` makes one step of :math:`v`, then :math:`w` from the new :math:`v`.
        ``"euler"`` computes both from the old values.
    dt : float, default 1.0
        Length of a time step, above 0, in ms.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range. Also for surrogates with several or
        negative spikes, such as :func:`spikegrad.multi_spike` and :func:`spikegrad.signed`.

    References
    ----------
    Izhikevich 2003, "Simple model of spiking neurons", IEEE Transactions on Neural Networks
    14(6):1569-1572.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import Izhikevich
    >>> _, spikes = unroll(Izhikevich(), jnp.full((200, 1), 10.0))
    >>> spikes[:, 0].nonzero()[0].tolist()
    [3, 30, 78, 140, 194]
    """

    state_names = "potential", "recovery"

    a: Real = parameter(default=0.02, above=0)
    b: Real = parameter(default=0.2)
    c: Real = parameter(default=-65.0)
    d: Real = parameter(default=8.0)
    threshold: Real = parameter(default=30.0)
    surrogate: Spikes = spikes()
    width: Real = parameter(default=10.0, above=0)
    detach_reset: bool = parameter(default=False)
    order: str = parameter(
        default="published", choices=("published", "semi-implicit", "euler")
    )
    dt: float = parameter(default=1.0, above=0)

    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike) -> State:
        v = jnp.broadcast_to(jnp.asarray(self.c, dtype), shape)
        return v, jnp.asarray(self.b, dtype) * v

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        v, w = state

        def advanced(v: jax.Array, dt: Real) -> jax.Array:
            # The coefficients of the paper, equation 1, for mV and ms. w is constant within the
            # step, also in both half steps.
            rise = 0.04 * v * v + 5 * v + 140
            return v + dt * (rise - w + current)

        if self.order == "published":
            # The published program makes two half steps of v for numerical stability.
            half = self.dt / 2
            u = advanced(advanced(v, half), half)
        else:
            u = advanced(v, self.dt)
        source = v if self.order == "euler" else u
        w = w + self.dt * self.a * (self.b * source - w)
        return u, w

    def _spike(
        self, u: jax.Array, threshold: Real, key: jax.Array | None = None
    ) -> jax.Array:
        # Potentials are in mV and surrogates have a width of about 1, so without a unit the slope
        # would miss almost all potentials.
        distance = (u - threshold) / self.width
        return spikes_of(self.surrogate, distance, key)

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        v, w = u
        s = self._for_reset(s)
        # Both resets use ``s`` of ``_for_reset``, because w jumps in the reset of the paper,
        # equation 3.
        v = v * (1 - s) + self.c * s
        w = w + self.d * s
        return v, w


class CLIF(Spiking, pure=True):
    r"""Complementary leaky integrate-and-fire neurons (CLIF): each recent spike makes the next
    reset stronger.

    .. math:: u_t &= \beta\, v_{t-1} + I_t \\ s_t &= H(u_t - \theta) \\
              m_t &= m_{t-1}\, \sigma\big((1 - \beta)\, u_t\big) + s_t \\
              v_t &= u_t - s_t (\theta + \sigma(m_t))

    :math:`I_t` is the input, :math:`u_t` the potential before the reset, and :math:`v_t` the
    potential after it. The *complement* :math:`m` rises with each spike :math:`s_t`, and decays
    faster at low potentials. A spike subtracts :math:`\theta + \sigma(m_t)`, a number between
    :math:`\theta + 0.73` and :math:`\theta + 1`. Here :math:`\sigma` is the logistic function, and
    the step :math:`H` is 1 if its argument is at least 0. The state is the pair :math:`(v, m)`,
    initially zeros.

    Parameters
    ----------
    decay : float or array, default 0.5
        Decay factor :math:`\beta` of the potential for one time step, at least 0 and at most 1,
        without a unit.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of the potential. A neuron spikes if :math:`u_t` is at
        least this number.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``u - threshold``, and defines the slope for the
        backward pass. Pass any :class:`spikegrad.Surrogate`.
    detach_reset : bool, default False
        If True, the backward pass treats the spike in the reset as a constant. The spike in
        :math:`m` always gets a gradient.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, or for surrogates with negative
        spikes, such as :func:`spikegrad.signed`.

    References
    ----------
    Huang et al. 2024, "CLIF: complementary leaky integrate-and-fire neuron for spiking neural
    networks", ICML, arXiv:2402.04663. One time step equals one of SpikingJelly's neuron of this
    name.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import CLIF
    >>> _, spikes = unroll(CLIF(), jnp.full((8, 1), 1.0))
    >>> spikes[:, 0].tolist()
    [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    """

    state_names = "potential", "complement"

    decay: Real = share(0.5)
    threshold: Real = parameter(default=1.0)
    surrogate: Spikes = spikes()
    detach_reset: bool = parameter(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse("a reset that spikes increase", "negative")

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        v, m = state
        # The complement moves with the spike of this step, in ``_after``.
        return self.decay * v + current, m

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        v, m = u
        # The potential before the reset, and the spike of this step: the reset below uses the new
        # m.
        m = m * jax.nn.sigmoid((1 - self.decay) * v) + s
        fall = self.threshold + jax.nn.sigmoid(m)
        return v - self._for_reset(s) * fall, m
