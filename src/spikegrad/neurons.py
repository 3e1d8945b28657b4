"""The cells a spiking network is built of: plain functions of a state and an input current.

A cell is a pytree of its parameters. Called with its state and the current of one step, it returns the new state and
its output; :func:`unroll` does so for every step of a sequence. Weights, delays and the layout of the network are
yours: any JAX code can stand between two cells.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._checks import brief, broadcast_checked, is_float, real_array
from ._compat import match_varying_axes, shard_as
from ._forward import Levels, Signed, Soft, Stochastic
from ._struct import Real, Struct, as_real, is_pure, parameter
from ._surrogate import as_key, fold_in, forwards, in_units_of, with_key
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
            1/16 of itself or 1/40,000 of the largest of an example. None for a cell that does not fire.
        rest : pytree of arrays
            Whatever else :meth:`decode` needs, kept in 16 bits.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no encode")

    def decode(self, distance: Any, rest: Any) -> State:
        """The inverse of :meth:`encode`."""
        raise NotImplementedError(f"{type(self).__name__} defines no decode")

    def __call__(self, v: State, current: ArrayLike, *, key: Any = None) -> tuple[State, jax.Array]:
        """One step.

        Parameters
        ----------
        v : array_like or tuple of array_like
            State before the step.
        current : array_like
            Input of this step; broadcasts to the state and is cast to its dtype.
        key : array of jax.random.key, optional
            The key of this step, for :func:`stochastic` spikes.

        Returns
        -------
        v : jax.Array or tuple of jax.Array
            State after the step.
        out : jax.Array
            Output of the step.
        """
        owner = type(self).__name__
        v = _as_state(self, v, owner)
        like = jax.tree.leaves(v)[0]
        current = broadcast_checked(
            real_array(current, owner, "current"), like.dtype, like.shape, owner, "current", "v"
        )
        return fire(self, self.integrate(v, current), key)


def fire(cell: Cell, u: State, key: Any = None) -> tuple[State, jax.Array]:
    """``cell.fire(u)``, with a key for what is drawn."""
    return (cell if key is None else with_key(cell, key)).fire(u)


def _as_state(cell: Any, v: State, owner: str) -> State:
    """``v`` as real arrays, and as integers and bools where the cell's own state has these."""
    leaves = jax.tree.leaves(v)
    if isinstance(cell, Cell) and any(hasattr(leaf, "dtype") and not is_float(leaf) for leaf in leaves[1:]):
        like = real_array(leaves[0], owner, "v")
        rest = cell.initial_state(like.shape, like.dtype)
        return jax.tree.map(lambda leaf, like: real_array(leaf, owner, "v") if is_float(like) else leaf, v, rest)
    return jax.tree.map(lambda leaf: real_array(leaf, owner, "v"), v)


def _both(cell: Cell, v: State, second: str, first: str = "potential") -> State:
    """The two parts of a state; an array of two rows has none."""
    if isinstance(v, (tuple, list)) and len(v) == 2:
        return v
    got = f"{type(v).__name__} of {len(v)}" if isinstance(v, (tuple, list)) else f"an array of shape {jnp.shape(v)}"
    raise TypeError(
        f"{type(cell).__name__}: v must be a tuple ({first}, {second}), as initial_state makes it, got {got}"
    )


def says_how_to_encode(cell: Cell) -> bool:
    """Whether ``encode`` belongs to the cell's own state: a class that redefines the state must redefine it too."""
    if isinstance(cell, Refractory) and not says_how_to_encode(cell.cell):
        return False
    order = type(cell).__mro__

    def depth(name: str) -> int:
        return next(n for n, cls in enumerate(order) if name in vars(cls))

    return depth("encode") <= min(map(depth, ("fire", "initial_state"))) and depth("encode") < order.index(Cell)


def _charged(cell: LIF | LeakyReadout, v: jax.Array, current: jax.Array) -> jax.Array:
    """What is left of the potential, and the input."""
    return cell.decay * v + ((1 - cell.decay) * current if cell.norm_input else current)


class LIF(Cell, pure=True):
    r"""Leaky integrate-and-fire neurons.

    .. math:: u_t &= \beta\, v_{t-1} + g\, I_t \\ s_t &= H(u_t - \theta) \\ v_t &= R(u_t, s_t)

    with :math:`H` the step, whose derivative is that of ``surrogate``, and the reset

    .. math:: R(u, s) = \begin{cases} u - \theta s & \text{by subtraction} \\
              u\, (1 - s) + v_r\, s & \text{to a value} \\ u & \text{none.} \end{cases}

    Parameters
    ----------
    decay : float or array, default 0.9
        Share :math:`\beta` of the potential that is left after one step, from 0 to 1, dimensionless:
        :func:`decay_from_tau` makes it of a time constant. 1 does not leak. An array (one per neuron, say) broadcasts
        to the state.
    threshold : float or array, default 1.0
        Threshold :math:`\theta`, finite, in the unit of the potential. An array broadcasts to the state.
    surrogate : callable, default Sigmoid()
        Makes spikes of ``u - threshold``: any surrogate, or any function with a derivative to your liking.
    reset : {"subtract", "value", "none"}
        What a spike does to the potential.
    detach_reset : bool, default False
        Whether the spike in the reset is a constant for the derivative, so that gradients flow through the potential
        alone.
    reset_value : float or array, default 0.0
        Where ``reset="value"`` puts the potential, :math:`v_r`, finite, in its unit; given by name. An array broadcasts
        to the state.
    delay_reset : bool, default False
        Whether the reset comes a step later, after leak and input: :math:`u_t = R(\beta\, u_{t-1} + g\, I_t,\,
        s_{t-1})`. The state is then the potential before the reset. Given by name.
    norm_input : bool, default False
        The gain :math:`g` of the input: 1, or with ``norm_input`` :math:`1 - \beta`, so that a constant current drives
        the potential to its own value, whatever the time constant. Given by name.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, and for a ``reset_value`` without ``reset="value"``.

    Notes
    -----
    The current is in the unit of the potential per step, or with ``norm_input`` in that of the potential. The potential
    is 0 at rest: of one that rests elsewhere, subtract that from threshold and reset value.

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
    reset: str = parameter(default="subtract", choices=("subtract", "value", "none"))
    detach_reset: bool = parameter(default=False, choices=(False, True))
    reset_value: Real = parameter(default=0.0, kw_only=True)
    delay_reset: bool = parameter(default=False, choices=(False, True), kw_only=True)
    norm_input: bool = parameter(default=False, choices=(False, True), kw_only=True)

    _hints = MappingProxyType(
        {
            "tau": "decay=decay_from_tau(tau, dt)",
            "tau_mem": "decay=decay_from_tau(tau_mem, dt)",
            "beta": "decay=beta",
            "v_threshold": "threshold=v_threshold",
            "v_th": "threshold=v_th",
            "v_reset": 'reset="value", reset_value=v_reset',
            "reset_mechanism": "reset",
            "reset_delay": "delay_reset",
            "decay_input": "norm_input",
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset != "value" and isinstance(self.reset_value, (float, np.ndarray)) and np.any(self.reset_value):
            owner, value = type(self).__name__, brief(self.reset_value)
            raise ValueError(f"{owner}: reset_value goes with reset='value', got {value} with reset={self.reset!r}")
        if self.delay_reset:
            self._refuse("delay_reset, which computes the last spike again", Stochastic)
        if self.reset == "value":
            self._refuse("reset='value', which takes one spike a step", Levels, Signed)

    def _refuse(self, what: str, *kinds: type) -> None:
        """Raise if the spikes are of a kind that does not go with something."""
        for forward in forwards(self.surrogate):
            if isinstance(forward, kinds):
                raise ValueError(f"{type(self).__name__}: {what}, does not go with {brief(self.surrogate)}")

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        fitted = self._fitted(v.dtype, v.shape, "v")
        u = _charged(fitted, v, current)
        return fitted._after_spike(u, fitted._spike(v, fitted.threshold), fitted.threshold) if self.delay_reset else u

    def fire(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        fitted = self._fitted(u.dtype, u.shape, "v")
        s = fitted._spike(u, fitted.threshold)
        return (u if self.delay_reset else fitted._after_spike(u, s, fitted.threshold)), s

    def _spike(self, u: jax.Array, threshold: Any) -> jax.Array:
        return in_units_of(self.surrogate, threshold, u)(u - threshold)

    def _after_spike(self, u: jax.Array, s: jax.Array, threshold: Any) -> jax.Array:
        if self.detach_reset:
            s = jax.lax.stop_gradient(s)
        if self.reset == "subtract":
            return u - threshold * s
        if self.reset == "value":
            return u * (1 - s) + self.reset_value * s
        return u

    def encode(self, u: jax.Array) -> tuple[jax.Array, Any]:
        return u - self._fitted(u.dtype, u.shape, "v").threshold, ()

    def decode(self, distance: Any, rest: Any) -> jax.Array:
        return distance + self._fitted(distance.dtype, distance.shape, "v").threshold


class SynapticLIF(LIF, pure=True):
    r"""Leaky integrate-and-fire neurons whose input passes a synapse, a second leak (current-based, CuBa).

    .. math:: i_t = \gamma\, i_{t-1} + I_t, \qquad u_t = \beta\, v_{t-1} + g\, i_t

    and spikes and resets as in :class:`LIF`. The state is the pair :math:`(v, i)`.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, delay_reset, norm_input
        As in :class:`LIF`.
    synaptic_decay : float or array, default 0.8
        Share :math:`\gamma` of the synaptic current that is left after one step, from 0 to 1, dimensionless:
        :func:`decay_from_tau` makes it of a time constant. An array broadcasts to the state.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain.

    Notes
    -----
    A :class:`Network` keeps the potential alone of the two arrays of its state, unless ``synaptic_decay`` is trained.

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
        LIF._hints | {"tau_syn": "synaptic_decay=decay_from_tau(tau_syn, dt)", "alpha": "synaptic_decay=alpha"}
    )

    def initial_state(self, shape: tuple[int, ...], dtype: Any) -> State:
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def integrate(self, v: State, current: jax.Array) -> State:
        v, i = _both(self, v, "synaptic current")
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

    adaptation: Real = parameter(default=0.2)
    adaptation_decay: Real = parameter(default=0.99, at_least=0, at_most=1)

    _hints = MappingProxyType(
        LIF._hints
        | {"tau_adaptation": "adaptation_decay=decay_from_tau(tau_adaptation, dt)", "rho": "adaptation_decay=rho"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse("adaptation, which spikes raise", Signed)

    def initial_state(self, shape: tuple[int, ...], dtype: Any) -> State:
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def integrate(self, v: State, current: jax.Array) -> State:
        v, a = _both(self, v, "adaptation")
        fitted = self._fitted(v.dtype, v.shape, "v")
        u = _charged(fitted, v, current)
        return fitted._after(u, a, fitted._spike(v, fitted._raised(a))) if self.delay_reset else (u, a)

    def fire(self, u: State) -> tuple[State, jax.Array]:
        u, a = u
        fitted = self._fitted(u.dtype, u.shape, "v")
        s = fitted._spike(u, fitted._raised(a))
        return ((u, a) if self.delay_reset else fitted._after(u, a, s)), s

    def _after(self, u: jax.Array, a: jax.Array, s: jax.Array) -> State:
        return self._after_spike(u, s, self._raised(a)), self.adaptation_decay * a + self.adaptation * s

    def _raised(self, a: jax.Array) -> jax.Array:
        return self.threshold + a

    def encode(self, u: State) -> tuple[jax.Array, Any]:
        u, a = u
        return u - self._fitted(a.dtype, a.shape, "v")._raised(a), a

    def decode(self, distance: Any, rest: Any) -> State:
        threshold = self._fitted(rest.dtype, rest.shape, "v")._raised(rest)
        u = distance + threshold
        # the adaptation is not what it was when the distance was taken: the sum may be rounded up to the threshold
        return jnp.where((distance < 0) & (u >= threshold), jnp.nextafter(threshold, -jnp.inf), u), rest


class Refractory(Cell, pure=True):
    r"""Neurons that rest for some steps after each of their spikes.

    A neuron that has fired holds the potential that its reset left, takes no input and does not fire for ``steps``
    steps. Whatever else its state has goes on: a synaptic current decays and takes input, an adaptation falls.

    Parameters
    ----------
    cell : LIF
        The neurons: :class:`LIF` or any cell derived from it, whose reset comes with the spike.
    steps : int
        The refractory period, at least 1: two spikes are at least ``steps + 1`` steps apart.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of its domain, or a cell with ``delay_reset``.

    Notes
    -----
    The state is the pair of the cell's own and the number of steps left, an integer of as few bytes as will do. The
    number has no derivative: while a neuron rests, gradients pass its potential unchanged.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, Refractory, unroll
    >>> states, spikes = unroll(Refractory(LIF(decay=1.0), steps=2), jnp.full((8, 1), 0.5))
    >>> spikes[:, 0].tolist()
    [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    """

    cell: LIF = parameter(kind=LIF)
    steps: int = parameter(integer=True, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell.delay_reset:
            raise ValueError("Refractory: cell must reset with its spike, got delay_reset=True")
        if any(isinstance(forward, Soft) for forward in forwards(self.cell)):
            raise ValueError(f"Refractory: cell must fire or not, got {brief(self.cell.surrogate)}")

    def initial_state(self, shape: tuple[int, ...], dtype: Any) -> State:
        return self.cell.initial_state(shape, dtype), jnp.zeros(shape, np.min_scalar_type(self.steps))

    def integrate(self, v: State, current: jax.Array) -> State:
        v, left = _both(self, v, "steps left", "the state of the cell")
        (u, *others), structure = jax.tree.flatten(self.cell.integrate(v, current))
        u = jnp.where(left > 0, jax.tree.leaves(v)[0], u)  # the potential, which comes first
        return structure.unflatten([u, *others]), left

    def fire(self, u: State) -> tuple[State, jax.Array]:
        u, left = u
        cell = copy.copy(self.cell)
        object.__setattr__(cell, "surrogate", _Resting(self.cell.surrogate, left))
        v, s = cell.fire(u)
        return (v, jnp.where(abs(s) > 0, jnp.asarray(self.steps, left.dtype), jnp.maximum(left, 1) - 1)), s

    def encode(self, u: State) -> tuple[Any, Any]:
        u, left = u
        distance, rest = self.cell.encode(u)
        return distance, (rest, left)

    def decode(self, distance: Any, rest: Any) -> State:
        rest, left = rest
        return self.cell.decode(distance, rest), left


def parameters_of(cell: Any) -> Any:
    """What has the parameters of a cell: the cell, or the one that it wraps."""
    return cell.cell if isinstance(cell, Refractory) else cell


def with_parameters(cell: Any, **changed: Any) -> Any:
    """The cell with other parameters, those of the one that it wraps."""
    inner = dataclasses.replace(parameters_of(cell), **changed)
    return dataclasses.replace(cell, cell=inner) if isinstance(cell, Refractory) else inner


class _Resting:
    """A surrogate that is silent where steps of rest are left."""

    def __init__(self, surrogate: Callable, left: jax.Array) -> None:
        self.surrogate, self.left = surrogate, left

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(self.left > 0, 0, self.surrogate(x))

    def in_units_of(self, threshold: Any, x: jax.Array) -> _Resting:
        return _Resting(in_units_of(self.surrogate, threshold, x), self.left)


class LeakyReadout(Cell, pure=True):
    r"""Leaky integrators that never fire: the usual last layer.

    .. math:: v_t = \kappa\, v_{t-1} + g\, I_t

    Parameters
    ----------
    decay : float or array, default 0.9
        Share :math:`\kappa` of the potential that is left after one step, from 0 to 1, dimensionless. 1 sums up. An
        array broadcasts to the state.
    norm_input : bool, default False
        The gain :math:`g` of the input: 1, or with ``norm_input`` :math:`1 - \kappa`. Given by name.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LeakyReadout
    >>> v, out = LeakyReadout(decay=0.5)(jnp.array([1.0]), jnp.array([0.25]))
    >>> v.tolist(), out.tolist()
    ([0.75], [0.75])
    """

    decay: Real = parameter(default=0.9, at_least=0, at_most=1)
    norm_input: bool = parameter(default=False, choices=(False, True), kw_only=True)

    _hints = MappingProxyType({name: LIF._hints[name] for name in ("tau", "tau_mem", "beta", "decay_input")})

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        return _charged(self._fitted(v.dtype, v.shape, "v"), v, current)

    def fire(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return u, u

    def encode(self, u: jax.Array) -> tuple[None, Any]:
        return None, u

    def decode(self, distance: Any, rest: Any) -> jax.Array:
        return rest


def decay_from_tau(tau: ArrayLike, dt: ArrayLike = 1.0, discretization: str = "exact") -> Any:
    r"""The share of a leaky quantity that is left after one step, of its time constant.

    .. math:: \beta = \begin{cases} e^{-\Delta t/\tau} & \text{exact: the solution of } \tau\, \dot v = -v \\
              1 - \Delta t/\tau & \text{Euler: one step of the forward Euler method} \end{cases}

    Parameters
    ----------
    tau : float or array
        Time constant :math:`\tau > 0`. Infinite: no leak.
    dt : float or array, default 1.0
        Length of a step :math:`\Delta t > 0`, in the unit of ``tau``.
    discretization : {"exact", "euler"}
        Euler's needs a step no longer than ``tau``.

    Returns
    -------
    float or array
        From 0 to 1, for any decay of a cell. The gain that goes with it is 1 less it: ``LIF(..., norm_input=True)``.

    Raises
    ------
    ValueError, TypeError
        For numbers out of these domains, of Python or NumPy; arrays of JAX are not looked at.

    Examples
    --------
    >>> from spikegrad import LIF, decay_from_tau
    >>> f"{decay_from_tau(20.0):.4f} {decay_from_tau(20.0, discretization='euler'):.4f}"
    '0.9512 0.9500'
    >>> LIF(decay=decay_from_tau(tau=20e-3, dt=5e-3, discretization="euler"), norm_input=True).decay
    0.75
    """
    tau, dt = _positive("tau", tau), _positive("dt", dt)
    share: Any = dt / tau
    known = not isinstance(share, jax.Array)
    if discretization == "exact":
        decay: Any = (np if known else jnp).exp(-share)
    elif discretization == "euler":
        if known and not np.all(share <= 1):
            raise ValueError(f"decay_from_tau: dt must be <= tau for discretization 'euler', got dt={dt} and tau={tau}")
        decay = 1 - share
    else:
        raise ValueError(f"decay_from_tau: discretization must be one of 'exact', 'euler', got {brief(discretization)}")
    return float(decay) if np.ndim(decay) == 0 and known else decay


def _positive(name: str, value: Any) -> Any:
    value = as_real("decay_from_tau", name, value)
    if not isinstance(value, jax.Array) and not np.all(value > 0):
        raise ValueError(f"decay_from_tau: {name} must be > 0, got {value}")
    return value


def unroll(cell: Step, currents: ArrayLike, v: State | None = None, *, key: Any = None) -> tuple[State, jax.Array]:
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
    key : array of jax.random.key, optional
        For :func:`stochastic` spikes: step ``t`` is given ``key=jax.random.fold_in(key, t)``. Another call on the same
        sequence needs another key.

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
        now = jax.eval_shape(lambda currents: currents.sum(0, dtype=currents.dtype), currents)  # there may be no step
        v = jax.tree.map(lambda leaf: shard_as(jnp.asarray(leaf), now), rest(now.shape, now.dtype))
        v = match_varying_axes(v, like=currents)
    start = _as_state(cell, v, "unroll")

    def step(v, current):
        return cell(v, current)

    if key is not None:
        keys, given = as_key("unroll", key), cast("Callable", cell)  # a callable of one's own need not take a key

        def keyed_step(v, now):
            current, t = now
            return given(v, current, key=fold_in(keys, t))

        return jax.lax.scan(keyed_step, start, (currents, jnp.arange(len(currents))))
    # scan keeps what it compiled for an equal function: right for a cell of this library, which is nothing but its
    # value, wrong for one that may have changed since
    return jax.lax.scan(cell if is_pure(cell) else step, start, currents)
