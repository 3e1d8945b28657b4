"""Leaky integrate-and-fire neurons, plain, with a synapse and with several receptors."""

from __future__ import annotations

from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from .._checks import brief, broadcast_checked
from .._struct import Real, new_unchecked, parameter
from ._cell import (
    LinearResponse,
    State,
    leaky_integration,
    response_of_leak,
)
from ._spiking import Spikes, Spiking, share, spikes


class LIF(Spiking, pure=True):
    r"""Leaky integrate-and-fire neurons: a potential that adds up inputs, decays, and spikes at a
    threshold.

    .. math:: u_t &= \beta\, v_{t-1} + g\, I_t \\ s_t &= H(u_t - \theta) \\ v_t &= R(u_t, s_t)

    In time step :math:`t`, :math:`I_t` is the input current and :math:`v_{t-1}` is the potential
    after the previous time step. :math:`u_t` is the potential before the reset, and :math:`s_t` is
    the spike. The step :math:`H` is 1 if its argument is at least 0, and 0 otherwise. The backward
    pass uses the slope of ``surrogate`` instead of the derivative of :math:`H`. A spike resets the
    potential by the function :math:`R`, which the parameter ``reset`` selects:

    .. math:: R(u, s) = \begin{cases} u - \theta s & \text{by subtraction} \\
              u\, (1 - s) + v_r\, s & \text{to a value} \\ u & \text{none.} \end{cases}

    Parameters
    ----------
    decay : float or array, default 0.9
        Decay factor :math:`\beta` of the potential for one time step, at least 0 and at most 1,
        without a unit. With 0.9, a neuron keeps 90% of its potential. With 1, the potential does
        not decay. :func:`decay_from_tau` converts a time constant to a decay factor. An array of a
        shape that broadcasts to the state, such as ``(neurons,)``, gives each neuron its value.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, in the unit of the potential. A neuron spikes if its potential is
        at least this number. Any finite number, or an array that broadcasts to the state.
    surrogate : callable, default Sigmoid()
        The function that computes spikes from ``u - threshold``, and defines the slope for the
        backward pass. Pass any :class:`Surrogate`, or a function of one array with a custom
        derivative.
    reset : {"subtract", "value", "none"}
        The effect of a spike on the potential. ``"subtract"`` (default) subtracts the threshold,
        ``"value"`` sets the potential to ``reset_value``, and ``"none"`` changes nothing.
    detach_reset : bool, default False
        If True, the backward pass treats the spike in the reset as a constant. Gradients then flow
        through the reset by the potential and by the threshold, but not by the spike. The forward
        pass does not change.
    reset_value : float or array, default 0.0
        The potential :math:`v_r` after a spike, in the unit of the potential. It requires
        ``reset="value"``. Any finite number, or an array that broadcasts to the state. Keyword
        only.
    delay_reset : bool, default False
        If True, the reset takes place one time step after the spike, after decay and input:
        :math:`u_t = R(\beta\, u_{t-1} + g\, I_t,\, s_{t-1})`. The state is then the potential
        before the reset. Keyword only.
    norm_input : bool, default False
        The factor :math:`g` of the input. If False, :math:`g` is 1. If True, it is :math:`1 -
        \beta`. A constant current then drives a potential without spikes to the value of the
        current, for each decay below 1. Keyword only.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, or if ``reset_value`` is passed
        without ``reset="value"``. JAX arrays are not checked, because they may be traced.

    Notes
    -----
    Training does not change Python numbers. To train a parameter, pass an array of JAX, or
    :func:`bounded`, which keeps it within its range.

    The potential starts at 0 and decays to 0. For a model with another potential at rest, subtract
    this potential from the threshold and from the reset value.

    The current is in the unit of the potential, because one time step adds it to the potential.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE
    Signal Processing Magazine 36(6):51-63.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF
    >>> cell = LIF(decay=0.5, threshold=1.0, reset="subtract")
    >>> v, s = cell(jnp.array([1.0, 0.0]), jnp.array([0.75, 0.75]))
    >>> v.tolist(), s.tolist()
    ([0.25, 0.75], [1.0, 0.0])
    """

    nir_node = "LIF"

    decay: Real = share(0.9)
    threshold: Real = parameter(default=1.0)
    surrogate: Spikes = spikes()
    reset: str = parameter(default="subtract", choices=("subtract", "value", "none"))
    detach_reset: bool = parameter(default=False)
    reset_value: Real = parameter(default=0.0, kw_only=True)
    delay_reset: bool = parameter(default=False, kw_only=True)
    norm_input: bool = parameter(default=False, kw_only=True)

    _hints = MappingProxyType(
        Spiking._hints
        | {
            "tau": "decay=decay_from_tau(tau, dt)",
            "tau_mem": "decay=decay_from_tau(tau_mem, dt)",
            "beta": "decay=beta",
            "v_reset": 'reset="value", reset_value=v_reset',
            "reset_mechanism": "reset",
            "reset_delay": "delay_reset",
            "decay_input": "norm_input",
            "tau_syn": "synaptic_decay=decay_from_tau(tau_syn, dt)",
            "alpha": "synaptic_decay=alpha",
            "tau_adaptation": "adaptation_decay=decay_from_tau(tau_adaptation, dt)",
            "rho": "adaptation_decay=rho",
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset != "value" and _is_set(self.reset_value):
            raise ValueError(
                f"{type(self).__name__}: reset_value requires reset='value', got "
                f"{brief(self.reset_value)}"
            )
        # The state holds the potential only, so ``integrate`` fires it again. A second draw would
        # give other spikes.
        if self.delay_reset:
            self._refuse("delay_reset, which computes the last spike again", "draws")
        if self.reset == "value":
            self._refuse_counts()

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        v = state[0]
        u = leaky_integration(self, v, current)
        if not self.delay_reset:
            return u
        # A delayed reset fires the state of the last step again, because the state holds no spike.
        last_spike = self._spike(v, self.threshold)
        return self._reset(u, last_spike)

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        # With a delayed reset the state stays as it fired, and integrate resets it.
        v = u[0]
        return v if self.delay_reset else self._reset(v, s)

    def _reset(
        self, u: jax.Array, s: jax.Array, threshold: Real | None = None
    ) -> jax.Array:
        if self.reset == "none":
            return u
        if self.reset == "value":
            return self._to_value(u, s)
        # Several spikes in one step subtract as many thresholds.
        threshold = self.threshold if threshold is None else threshold
        return u - threshold * self._for_reset(s)

    def decode(self, distance: jax.Array, rest: tuple[jax.Array, ...]) -> State:
        cell, _ = self._in_shape_of(distance)
        # The threshold is a parameter, so the sign of the distance survives the sum.
        u = distance + cell.threshold
        return (u, *rest) if rest else u

    def linear_response(self) -> LinearResponse:
        return response_of_leak(self)._replace(threshold=self.threshold)


def _is_set(reset_value: Real) -> bool:
    """Return False for the default, 0, also as an array of one number that JAX may trace."""
    if isinstance(reset_value, float):
        return reset_value != 0
    array = jnp.asarray(reset_value)
    if array.ndim > 0:
        return True
    return not isinstance(array, Tracer) and bool(np.asarray(array))


class SynapticLIF(LIF, pure=True):
    r"""Leaky integrate-and-fire neurons with a synaptic current, which adds up inputs and decays
    too (current-based, CuBa).

    .. math:: i_t = \gamma\, i_{t-1} + I_t, \qquad u_t = \beta\, v_{t-1} + g\, i_t

    :math:`I_t` is the input in time step :math:`t`, :math:`i_t` the synaptic current and
    :math:`u_t` the potential before the reset. One input spike acts on the potential for several
    time steps, because the synaptic current decays slowly. Spikes and resets are as in
    :class:`LIF`. The state is the pair :math:`(v, i)` of potential and synaptic current.

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
    synaptic_decay : float or array, default 0.8
        Decay factor :math:`\gamma` of the synaptic current for one time step, at least 0 and at
        most 1, without a unit. With 0, the neuron equals :class:`LIF`. :func:`decay_from_tau`
        converts a time constant to a decay factor. An array of a shape that broadcasts to the
        state, such as ``(neurons,)``, gives each neuron its value.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, as in :class:`LIF`.

    Notes
    -----
    For its backward pass, a :class:`Network` stores only the potential of each time step. If
    ``synaptic_decay`` is trained, it stores the synaptic current too.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE
    Signal Processing Magazine 36(6):51-63.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import SynapticLIF, unroll
    >>> cell = SynapticLIF(decay=1.0, synaptic_decay=0.5)
    >>> (v, i), spikes = unroll(cell, jnp.array([[0.75], [0.0], [0.0]]))
    >>> spikes[:, 0].tolist(), v.tolist(), i.tolist()
    ([0.0, 1.0, 0.0], [0.3125], [0.1875])
    """

    state_names = "potential", "synaptic current"
    nir_node = "CubaLIF"

    synaptic_decay: Real = share(0.8)

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        v, i = state
        # The synapse comes first, so an input acts on the potential in its own step.
        i = self.synaptic_decay * i + current
        return super()._before(i, v), i

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        v, i = u
        # Only the potential resets, so the synapse outlasts a spike.
        return super()._after(s, v), i

    def linear_response(self) -> LinearResponse:
        return super().linear_response()._replace(synaptic_decay=self.synaptic_decay)


class MultiSynapticLIF(SynapticLIF, pure=True):
    r"""Leaky integrate-and-fire neurons with several receptors: synaptic currents with different
    decays.

    .. math:: i^r_t = \gamma_r\, i^r_{t-1} + I^r_t, \qquad u_t = \beta\, v_{t-1} + g \sum_r i^r_t

    A *receptor* is a kind of synapse, for example a fast and a slow one. Receptor :math:`r` has its
    input :math:`I^r_t` and its synaptic current :math:`i^r_t`. The potential adds the synaptic
    currents of all receptors. Spikes and resets are as in :class:`~spikegrad.LIF`.

    Input currents have one more axis than the neurons: ``(batch, neurons, receptors)``. In a layer,
    use weights of shape ``(inputs, neurons, receptors)``. The state is the pair :math:`(v, i)`. The
    potential :math:`v` has the shape of the outputs, ``(batch, neurons)``. The synaptic currents
    :math:`i` have the shape of the input currents.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`~spikegrad.LIF`, with the same defaults. ``decay`` is the factor by which the
        potential decays in each time step, from 0 to 1. A neuron spikes if its potential is at
        least ``threshold``. ``surrogate`` computes spikes and their slope. ``reset`` is the effect
        of a spike: ``"subtract"`` subtracts the threshold, ``"value"`` sets the potential to
        ``reset_value``, and ``"none"`` changes nothing. ``detach_reset=True`` treats the spike in
        the reset as a constant in the backward pass. ``delay_reset=True`` resets one time step
        after the spike. ``norm_input=True`` multiplies the input by :math:`1 - \beta`. Arrays must
        broadcast to the potential, ``(batch, neurons)``.
    synaptic_decay : array
        Decay factor :math:`\gamma_r` of each receptor for one time step, at least 0 and at most 1,
        without a unit. Its shape is ``(receptors,)`` or ``(neurons, receptors)``. It has no
        default. Keyword only.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range. Also if the last axes of the
        currents and of ``synaptic_decay`` have different lengths.

    Notes
    -----
    As long as the neuron does not spike, its potential equals a sum over receptors. Each term is
    the potential of a :class:`~spikegrad.SynapticLIF` with the decay and the input of this
    receptor.

    Examples
    --------
    A fast and a slow receptor:

    >>> import numpy as np, jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import MultiSynapticLIF
    >>> cell = MultiSynapticLIF(decay=0.5, synaptic_decay=np.array([0.0, 0.5]))
    >>> # steps, neurons, receptors
    >>> currents = jnp.array([[[0.5, 0.25]], [[0.0, 0.0]], [[0.0, 0.0]]])
    >>> (v, i), spikes = unroll(cell, currents)
    >>> v.tolist(), i.tolist(), spikes.shape
    ([0.3125], [[0.0, 0.0625]], (3, 1))
    """

    state_names = "potential", "synaptic currents"
    nir_node = None

    synaptic_decay: Real = parameter(at_least=0, at_most=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not jnp.ndim(self.synaptic_decay):
            raise ValueError(
                f"{type(self).__name__}: synaptic_decay must be an array with a number for each "
                f"receptor, got {brief(self.synaptic_decay)}"
            )

    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike) -> State:
        receptors = jnp.shape(self.synaptic_decay)[-1]
        if shape[-1:] != (receptors,):
            raise ValueError(
                f"{type(self).__name__}: currents must have the {receptors} receptors of "
                "synaptic_decay as last axis, "
                f"got shape {shape}; use weights of shape (inputs, neurons, receptors)"
            )
        # The shape of a current is (batch, neurons, receptors), and the potential has no
        # receptors.
        potential = jnp.zeros(shape[:-1], dtype)
        currents = jnp.zeros(shape, dtype)
        return potential, currents

    def integrate(self, v: State, current: jax.Array) -> State:
        v, i = v

        def like(x: ArrayLike, name: str) -> jax.Array:
            return broadcast_checked(
                jnp.asarray(x),
                i.dtype,
                i.shape,
                type(self).__name__,
                name,
                "the receptors",
            )

        decay = like(self.synaptic_decay, "synaptic_decay")
        i = decay * i + like(current, "current")
        cell, _ = self._in_shape_of(v)
        # i: (batch, neurons, receptors), v: (batch, neurons). ``super()._before`` would apply the
        # synapse of ``SynapticLIF`` a second time.
        u = LIF._before(cell, i.sum(-1), v)
        return u, i

    def _broadcast_to(
        self, dtype: DTypeLike, shape: tuple[int, ...], target: str = "x"
    ) -> MultiSynapticLIF:
        """Return the parameters of the potential. Those of the receptors have one more axis."""
        # A number is not broadcast, so the other parameters take the shape of the potential.
        values = self._values() | {"synaptic_decay": 0.0}
        of_potential = new_unchecked(type(self), values)
        return super(MultiSynapticLIF, of_potential)._broadcast_to(dtype, shape, target)
