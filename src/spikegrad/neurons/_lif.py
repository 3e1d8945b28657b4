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
    r"""Leaky integrate-and-fire neurons.

    .. math:: u_t &= \beta\, v_{t-1} + g\, I_t \\ s_t &= H(u_t - \theta) \\ v_t &= R(u_t, s_t)

    with the step :math:`H`, the derivative of ``surrogate`` in the backward pass, and the reset

    .. math:: R(u, s) = \begin{cases} u - \theta s & \text{by subtraction} \\
              u\, (1 - s) + v_r\, s & \text{to a value} \\ u & \text{none.} \end{cases}

    Parameters
    ----------
    decay : float or array, default 0.9
        Decay factor :math:`\beta` of the potential per time step, from 0 to 1, dimensionless.
        :func:`decay_from_tau` converts a time constant. A neuron with a decay of 1 does not leak.
        An array, for example one value per neuron, broadcasts to the state.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, finite, in the unit of the potential. An array broadcasts to the
        state.
    surrogate : callable, default Sigmoid()
        The function from ``u - threshold`` to spikes: any surrogate, or a function with a custom
        derivative.
    reset : {"subtract", "value", "none"}
        The effect of a spike on the potential, by default ``"subtract"``.
    detach_reset : bool, default False
        If True, the spike in the reset is a constant in the derivative, and gradients flow only
        through the potential.
    reset_value : float or array, default 0.0
        The potential :math:`v_r` after a spike with ``reset="value"``, finite, in the unit of the
        potential. Keyword only. An array broadcasts to the state.
    delay_reset : bool, default False
        If True, the reset is one step later, after leak and input: :math:`u_t = R(\beta\, u_{t-1} +
        g\, I_t,\, s_{t-1})`. The state is then the potential before the reset. Keyword only.
    norm_input : bool, default False
        If True, the input gain :math:`g` is :math:`1 - \beta` instead of 1. A constant current then
        drives the potential to its own value for every time constant. Keyword only.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, and for a ``reset_value`` without ``reset="value"``.

    Notes
    -----
    The current is in the unit of the potential per step, or with ``norm_input`` in the unit of the
    potential. The potential is 0 at rest. For another potential at rest, subtract it from the
    threshold and the reset value.

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
        u = leaky_integration(self, state[0], current)
        if not self.delay_reset:
            return u
        # A delayed reset fires the state of the last step again, because the state holds no spike.
        return self._reset(u, self._spike(state[0], self.threshold))

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        # With a delayed reset the state stays as it fired, and integrate resets it.
        return u[0] if self.delay_reset else self._reset(u[0], s)

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
        # The threshold is a parameter, so the sign of the distance survives the sum.
        u = distance + self._in_shape_of(distance)[0].threshold
        return (u, *rest) if rest else u

    def linear_response(self) -> LinearResponse:
        return response_of_leak(self)._replace(threshold=self.threshold)


def _is_set(reset_value: Real) -> bool:
    """Return False for the default, 0, also as an array of one number that JAX may trace."""
    if isinstance(reset_value, float):
        return reset_value != 0
    array = jnp.asarray(reset_value)
    return array.ndim > 0 or (not isinstance(array, Tracer) and bool(np.asarray(array)))


class SynapticLIF(LIF, pure=True):
    r"""Leaky integrate-and-fire neurons with a synapse, a second leak of the input (current-based,
    CuBa).

    .. math:: i_t = \gamma\, i_{t-1} + I_t, \qquad u_t = \beta\, v_{t-1} + g\, i_t

    and spikes and resets as in :class:`LIF`. The state is the pair :math:`(v, i)`.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`LIF`.
    synaptic_decay : float or array, default 0.8
        Decay factor :math:`\gamma` of the synaptic current per time step, from 0 to 1,
        dimensionless. :func:`decay_from_tau` converts a time constant. An array broadcasts to the
        state.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain.

    Notes
    -----
    A :class:`Network` stores only the potential, and also the synaptic current if
    ``synaptic_decay`` is trained.

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
        # Only the potential resets, so the synapse outlasts a spike.
        return super()._after(s, u[0]), u[1]

    def linear_response(self) -> LinearResponse:
        return super().linear_response()._replace(synaptic_decay=self.synaptic_decay)


class MultiSynapticLIF(SynapticLIF, pure=True):
    r"""Leaky integrate-and-fire neurons with several receptors, each a synapse with its own decay
    (current-based).

    .. math:: i^r_t = \gamma_r\, i^r_{t-1} + I^r_t, \qquad u_t = \beta\, v_{t-1} + g \sum_r i^r_t

    and spikes and resets as in :class:`~spikegrad.LIF`. Currents have one more axis than the
    neurons: ``(batch, neurons, receptors)``, from weights of shape ``(inputs, neurons,
    receptors)``. The state is the pair :math:`(v, i)`. The potential :math:`v` has the shape of the
    outputs, ``(batch, neurons)``, and :math:`i` the shape of the currents.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`~spikegrad.LIF`. Arrays broadcast to ``(batch, neurons)``.
    synaptic_decay : array
        Decay factor :math:`\gamma_r` of each receptor per time step, from 0 to 1, dimensionless, of
        shape ``(receptors,)`` or ``(neurons, receptors)``. Keyword only.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, and if the last axis of the currents is not the
        receptors.

    Notes
    -----
    The potential without spikes is the sum of the potentials of one :class:`~spikegrad.SynapticLIF`
    for each receptor.

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
        return jnp.zeros(shape[:-1], dtype), jnp.zeros(shape, dtype)

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

        i = like(self.synaptic_decay, "synaptic_decay") * i + like(current, "current")
        cell, _ = self._in_shape_of(v)
        # i: (batch, neurons, receptors), v: (batch, neurons). ``super()._before`` would apply the
        # synapse of ``SynapticLIF`` a second time.
        return LIF._before(cell, i.sum(-1), v), i

    def _broadcast_to(
        self, dtype: DTypeLike, shape: tuple[int, ...], target: str = "x"
    ) -> MultiSynapticLIF:
        """Return the parameters of the potential. Those of the receptors have one more axis."""
        # A number is not broadcast, so the other parameters take the shape of the potential.
        of_potential = new_unchecked(
            type(self), self._values() | {"synaptic_decay": 0.0}
        )
        return super(MultiSynapticLIF, of_potential)._broadcast_to(dtype, shape, target)
