"""The cells a spiking network is built of: plain functions of a state and an input current.

A cell is a pytree of its parameters. Called with its state and the current of one step, it returns the new state and
its output; :func:`unroll` does so for every step of a sequence. Weights, delays and the layout of the network are
yours: any JAX code can stand between two cells.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._checks import broadcast_checked, real_array
from ._struct import Real, Struct, is_pure, parameter
from .surrogates import Sigmoid

Step: TypeAlias = Callable[[Any, jax.Array], tuple[Any, jax.Array]]
State: TypeAlias = Any
"""An array, or a tuple of arrays of the same shape where a neuron remembers more than a potential."""


class Cell(Struct):
    """What a neuron is: how it integrates and how it fires.

    Subclass it, annotate the parameters (see :func:`parameter`) and define :meth:`integrate` and :meth:`fire`. The step
    is cut in two there because everything that happens at a spike can be computed again from the state before it: a
    :class:`Network` keeps this one array per step for the backward pass, and nothing else.

    Examples
    --------
    A neuron whose potential is pulled back to zero the more, the further away it is:

    >>> import jax.numpy as jnp
    >>> from spikegrad import Cell, Sigmoid, parameter
    >>> class Cubic(Cell):
    ...     pull: float = parameter(default=0.1, at_least=0)
    ...
    ...     def integrate(self, v, current):
    ...         return v - self.pull * v * v * v + current
    ...
    ...     def fire(self, u):
    ...         s = Sigmoid()(u - 1)
    ...         return u - s, s
    >>> v, s = Cubic(pull=0.5)(jnp.array([0.0, 1.0]), jnp.array([0.75, 0.75]))
    >>> v.tolist(), s.tolist()
    ([0.75, 0.25], [0.0, 1.0])
    """

    def initial_state(self, shape: tuple[int, ...], dtype: Any) -> State:
        """The state at rest: zeros, unless a cell says otherwise.

        Parameters
        ----------
        shape : tuple of int
            Shape of the current.
        dtype : dtype
            Dtype of the state.
        """
        return jnp.zeros(shape, dtype)

    def integrate(self, v: State, current: jax.Array) -> State:
        """The state before the spike: what is left of ``v``, the state after the last spike, and the current."""
        raise NotImplementedError(f"{type(self).__name__} defines no integrate")

    def fire(self, u: State) -> tuple[State, jax.Array]:
        """The state after the spike, and the output, of ``u``, the state before the spike. Elementwise."""
        raise NotImplementedError(f"{type(self).__name__} defines no fire")

    def encode(self, u: State) -> tuple[jax.Array | None, Any]:
        """What is kept of ``u`` in low precision: its distance to the threshold, and the rest.

        Define it, and :meth:`decode`, for the modes ``"half"`` and ``"8-bit"`` of a :class:`Network`. Without it, they
        keep the state as it is.

        Parameters
        ----------
        u : array or tuple of array
            The state before the spike.

        Returns
        -------
        distance : array or None
            Not negative where the neuron fires, negative elsewhere; its sign is always kept. In 8 bits its error is
            1/32 of itself or 1/400 of the largest of an example. None for a cell that does not fire.
        rest : pytree of arrays
            Whatever else :meth:`decode` needs, kept in 16 bits.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no encode")

    def decode(self, distance: Any, rest: Any) -> State:
        """The inverse of :meth:`encode`."""
        raise NotImplementedError(f"{type(self).__name__} defines no decode")

    def __call__(self, v: State, current: ArrayLike) -> tuple[State, jax.Array]:
        """One step.

        Parameters
        ----------
        v : array_like or tuple of array_like
            State before the step.
        current : array_like
            Input of this step; broadcasts to the state and is cast to its dtype.

        Returns
        -------
        v : jax.Array or tuple of jax.Array
            State after the step.
        out : jax.Array
            Output of the step.
        """
        owner = type(self).__name__
        v = jax.tree.map(lambda leaf: real_array(leaf, owner, "v"), v)
        like = jax.tree.leaves(v)[0]
        current = broadcast_checked(
            real_array(current, owner, "current"), like.dtype, like.shape, owner, "current", "v"
        )
        return self.fire(self.integrate(v, current))


def says_how_to_encode(cell: Cell) -> bool:
    """Whether ``encode`` belongs to the cell's own state: a class that redefines the state must redefine it too."""
    order = type(cell).__mro__

    def depth(name: str) -> int:
        return next(n for n, cls in enumerate(order) if name in vars(cls))

    return depth("encode") <= min(map(depth, ("fire", "initial_state"))) and depth("encode") < order.index(Cell)


class LIF(Cell, pure=True):
    r"""Leaky integrate-and-fire neurons.

    .. math:: u_t &= \beta\, v_{t-1} + I_t \\ s_t &= H(u_t - \theta) \\
              v_t &= \begin{cases} u_t - \theta s_t & \text{reset by subtraction} \\
              u_t (1 - s_t) & \text{reset to zero} \\ u_t & \text{no reset} \end{cases}

    with :math:`H` the step, whose derivative is that of ``surrogate``.

    Parameters
    ----------
    decay : float or array, default 0.9
        Share :math:`\beta` of the potential that is left after one step, from 0 to 1, dimensionless:
        :math:`\beta = e^{-\Delta t/\tau}` for a membrane time constant :math:`\tau` and a step :math:`\Delta t` in the
        same unit of time. 1 does not leak. An array (one per neuron, say) broadcasts to the state.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, finite, in the unit of the potential. An array broadcasts to the state.
    surrogate : callable, default Sigmoid()
        Makes spikes of ``u - threshold``: any surrogate, or any function with a derivative to your liking.
    reset : {"subtract", "zero", "none"}
        What a spike does to the potential.
    detach_reset : bool, default False
        Whether the reset is a constant for the derivative, so that gradients flow through the potential alone.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain.

    Notes
    -----
    The current is in the unit of the potential per step: a membrane resistance, or a factor :math:`1 - \beta` that
    keeps the gain independent of the time constant, belongs to the weights.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE Signal Processing
    Magazine 36(6):51-63.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF
    >>> cell = LIF(decay=0.5, threshold=1.0, reset="subtract")
    >>> v, s = cell(jnp.array([1.0, 0.0]), jnp.array([0.75, 0.75]))
    >>> v.tolist(), s.tolist()
    ([0.25, 0.75], [1.0, 0.0])
    """

    decay: Real = parameter(default=0.9, at_least=0, at_most=1)
    threshold: Real = parameter(default=1.0)
    surrogate: Callable[[jax.Array], jax.Array] = parameter(default=Sigmoid(), kind=Callable)
    reset: str = parameter(default="subtract", choices=("subtract", "zero", "none"))
    detach_reset: bool = parameter(default=False, choices=(False, True))

    _hints = MappingProxyType(
        {
            "tau": "decay=exp(-dt / tau)",
            "tau_mem": "decay=exp(-dt / tau_mem)",
            "beta": "decay=beta",
            "v_threshold": "threshold=v_threshold",
        }
    )

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        return self._fitted(v.dtype, v.shape, "v").decay * v + current

    def fire(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._fire_at(self._fitted(u.dtype, u.shape, "v").threshold, u)

    def _fire_at(self, threshold: Any, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        s = self.surrogate(u - threshold)
        reset = jax.lax.stop_gradient(s) if self.detach_reset else s
        if self.reset == "subtract":
            return u - threshold * reset, s
        if self.reset == "zero":
            return u * (1 - reset), s
        return u, s

    def encode(self, u: jax.Array) -> tuple[jax.Array, Any]:
        return u - self._fitted(u.dtype, u.shape, "v").threshold, ()

    def decode(self, distance: Any, rest: Any) -> jax.Array:
        return distance + self._fitted(distance.dtype, distance.shape, "v").threshold


class SynapticLIF(LIF, pure=True):
    r"""Leaky integrate-and-fire neurons whose input passes a synapse, a second leak (current-based, CuBa).

    .. math:: i_t = \gamma\, i_{t-1} + I_t, \qquad u_t = \beta\, v_{t-1} + i_t

    and spikes and resets as in :class:`LIF`. The state is the pair :math:`(v, i)`.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset
        As in :class:`LIF`.
    synaptic_decay : float or array, default 0.8
        Share :math:`\gamma` of the synaptic current that is left after one step, from 0 to 1, dimensionless:
        :math:`\gamma = e^{-\Delta t/\tau_\mathrm{syn}}`. An array broadcasts to the state.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain.

    Notes
    -----
    Of the two arrays of its state a :class:`Network` keeps the potential alone, unless ``synaptic_decay`` is trained.

    References
    ----------
    Neftci, Mostafa, Zenke 2019, "Surrogate gradient learning in spiking neural networks", IEEE Signal Processing
    Magazine 36(6):51-63.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import SynapticLIF, unroll
    >>> cell = SynapticLIF(decay=1.0, synaptic_decay=0.5)
    >>> (v, i), spikes = unroll(cell, jnp.array([[0.75], [0.0], [0.0]]))
    >>> spikes[:, 0].tolist(), v.tolist(), i.tolist()
    ([0.0, 1.0, 0.0], [0.3125], [0.1875])
    """

    synaptic_decay: Real = parameter(default=0.8, at_least=0, at_most=1)

    _hints = MappingProxyType(
        LIF._hints | {"tau_syn": "synaptic_decay=exp(-dt / tau_syn)", "alpha": "synaptic_decay=alpha"}
    )

    def initial_state(self, shape: tuple[int, ...], dtype: Any) -> State:
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def integrate(self, v: State, current: jax.Array) -> State:
        v, i = v
        i = self._fitted(i.dtype, i.shape, "v").synaptic_decay * i + current
        return super().integrate(v, i), i

    def fire(self, u: State) -> tuple[State, jax.Array]:
        u, i = u
        v, s = super().fire(u)
        return (v, i), s

    def encode(self, u: State) -> tuple[jax.Array, Any]:
        u, i = u
        return super().encode(u)[0], i

    def decode(self, distance: Any, rest: Any) -> State:
        return super().decode(distance, ()), rest


class AdaptiveLIF(LIF, pure=True):
    r"""Leaky integrate-and-fire neurons whose threshold rises with each of their spikes, and falls back (ALIF).

    .. math:: u_t &= \beta\, v_{t-1} + I_t \\ s_t &= H(u_t - (\theta + a_t)) \\
              a_{t+1} &= \rho\, a_t + \kappa\, s_t

    and resets as in :class:`LIF`, with the threshold of the moment: a reset by subtraction takes
    :math:`\theta + a_t`. The state after a step is the pair :math:`(v_t, a_{t+1})`, zeros at the start.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset
        As in :class:`LIF`; ``threshold`` is that of a neuron that has not fired for long.
    adaptation : float or array, default 0.2
        How much :math:`\kappa` one spike raises the threshold, finite, in the unit of the potential. An array
        broadcasts to the state.
    adaptation_decay : float or array, default 0.99
        Share :math:`\rho` of the adaptation that is left after one step, from 0 to 1, dimensionless:
        :math:`\rho = e^{-\Delta t/\tau_a}`. An array broadcasts to the state.

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

    adaptation: Real = parameter(default=0.2)
    adaptation_decay: Real = parameter(default=0.99, at_least=0, at_most=1)

    _hints = MappingProxyType(
        LIF._hints | {"tau_adaptation": "adaptation_decay=exp(-dt / tau_adaptation)", "rho": "adaptation_decay=rho"}
    )

    def initial_state(self, shape: tuple[int, ...], dtype: Any) -> State:
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def integrate(self, v: State, current: jax.Array) -> State:
        v, a = v
        return super().integrate(v, current), a

    def fire(self, u: State) -> tuple[State, jax.Array]:
        u, a = u
        v, s = self._fire_at(self._raised(a), u)
        fitted = self._fitted(a.dtype, a.shape, "v")
        return (v, fitted.adaptation_decay * a + fitted.adaptation * s), s

    def _raised(self, a: jax.Array) -> jax.Array:
        return self._fitted(a.dtype, a.shape, "v").threshold + a

    def encode(self, u: State) -> tuple[jax.Array, Any]:
        u, a = u
        return u - self._raised(a), a

    def decode(self, distance: Any, rest: Any) -> State:
        threshold = self._raised(rest)
        u = distance + threshold
        # the adaptation is not what it was when the distance was taken: the sum may be rounded up to the threshold
        return jnp.where((distance < 0) & (u >= threshold), jnp.nextafter(threshold, -jnp.inf), u), rest


class LeakyReadout(Cell, pure=True):
    r"""Leaky integrators that never fire: the usual last layer.

    .. math:: v_t = \kappa\, v_{t-1} + I_t

    Parameters
    ----------
    decay : float or array, default 0.9
        Share :math:`\kappa` of the potential that is left after one step, from 0 to 1, dimensionless. 1 sums up. An
        array broadcasts to the state.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LeakyReadout
    >>> v, out = LeakyReadout(decay=0.5)(jnp.array([1.0]), jnp.array([0.25]))
    >>> v.tolist(), out.tolist()
    ([0.75], [0.75])
    """

    decay: Real = parameter(default=0.9, at_least=0, at_most=1)

    _hints = LIF._hints

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        return self._fitted(v.dtype, v.shape, "v").decay * v + current

    def fire(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return u, u

    def encode(self, u: jax.Array) -> tuple[None, Any]:
        return None, u

    def decode(self, distance: Any, rest: Any) -> jax.Array:
        return rest


def unroll(cell: Step, currents: ArrayLike, v: State | None = None) -> tuple[State, jax.Array]:
    """Run a cell over time, by ``jax.lax.scan``.

    Parameters
    ----------
    cell : callable
        ``v, out = cell(v, current)``, such as :class:`LIF` or :class:`LeakyReadout`.
    currents : array_like
        Inputs, time first: ``(steps, ...)``.
    v : array_like or tuple of array_like, optional
        State before the first step, at rest if not given: :meth:`Cell.initial_state`, or zeros for another callable.
        Give the state that a former call returned to go on with a sequence.

    Returns
    -------
    v : jax.Array or tuple of jax.Array
        State after the last step.
    out : jax.Array
        Outputs of every step, ``(steps, ...)``.

    Raises
    ------
    ValueError
        If ``currents`` has no time axis.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, unroll
    >>> v, spikes = unroll(LIF(decay=1.0), jnp.full((6, 1), 0.5))
    >>> spikes[:, 0].tolist()
    [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """
    currents = real_array(currents, "unroll", "currents")
    if currents.ndim == 0:
        raise ValueError("unroll: currents must have a time axis first, got a scalar")
    if v is None:
        rest = cell.initial_state if isinstance(cell, Cell) else jnp.zeros
        v = rest(currents.shape[1:], currents.dtype)
    start = jax.tree.map(lambda leaf: real_array(leaf, "unroll", "v"), v)

    def step(v, current):
        return cell(v, current)

    # scan keeps what it compiled for an equal function: right for a cell of this library, which is nothing but its
    # value, wrong for one that may have changed since
    return jax.lax.scan(cell if is_pure(cell) else step, start, currents)
