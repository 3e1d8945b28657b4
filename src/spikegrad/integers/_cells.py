"""Neurons of chips, on integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from .._checks import brief
from .._struct import Domain, parameter, wiring
from ..neurons import Cell, LinearResponse, State
from ..surrogates import Sigmoid
from ._arithmetic import (
    Factor,
    Number,
    clipped,
    fired,
    in_units,
    leaked,
    like,
    scaled,
    where,
    wrapped,
)

POSITIVE = Domain(above=0)
"""The domain of scales and units. These are no parameters, because they are never trained."""


class WeightFormat(NamedTuple):
    """The integers of a weight: ``low``, ``low + step``, ... ``high``."""

    low: int
    high: int
    step: int = 1


def signed(bits: int, step: int = 1) -> WeightFormat:
    """Return the multiples of a step that two's complement has."""
    half = 2 ** (bits - 1)
    return WeightFormat(-half * step, (half - 1) * step, step)


def nested(array: np.ndarray) -> Any:
    """Return a number, or nested tuples of them, which are a part of a tree's structure."""
    if array.ndim == 0:
        return array.item()
    return tuple(nested(part) for part in array)


def static_positive(owner: str, name: str, value: Any) -> Any:
    """Return a number above 0 or nested tuples of them, or raise."""
    array = as_array(value) if isinstance(value, (tuple, list)) else value
    checked = POSITIVE.check(owner, name, array)
    return nested(np.asarray(checked, np.float64))


def as_array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # lists of several lengths
        return np.array(None)


def _are_integers(array: np.ndarray, least: int, most: int) -> bool:
    # A NaN differs from itself, so it is no integer here.
    allowed = np.clip(np.rint(array), least, most)
    return bool((array == allowed).all())


Leaks: TypeAlias = tuple[np.ndarray, np.ndarray | None]
"""A parameter of the potential, and one of the current."""


class IntegerCell(Cell, pure=True):
    """Base class of neurons whose states are integers: :class:`FixedLIF`, :class:`Loihi` and
    :class:`Xylo`.

    In JAX, states and currents are integers that are stored as float32, so a network can be
    trained. ``integrate`` and ``fire`` also accept integers of NumPy, which :func:`replay` uses.
    Both give equal results.
    """

    state_names = "potential", "synaptic current"
    state_scale = 1
    """Factor between the units of states and weights: a weight of 1 changes the state by this
    number.
    """
    weight_bits = 16
    """Largest number of bits of a weight, with its sign."""
    weight_span = 0
    """Number of bits of a weight including its zeros at the end, if it has some."""
    resets = "value", "subtract", "none", "baseline"
    is_synaptic = False
    """If True, all neurons have a synaptic current and spike, and delays are not supported."""
    sizes = np.inf, np.inf
    """Largest numbers of inputs and of hidden neurons."""
    # The following are parameters, constants or properties of a subclass. Without an annotation,
    # because that would declare a parameter of this class.
    integer_names = "", "", ""
    """Names of the parameters for the decay of the potential, the decay of the current, and the
    threshold.
    """
    most_leak = 0
    """Largest value of the parameters for decays."""
    bits = 16
    """Number of bits of a state, with its sign."""
    fraction = 0
    """Number of fractional bits of a decay factor."""
    n = 1
    """Largest number of spikes of a neuron in one time step."""
    reset = "value"
    threshold = unit = cast(Any, None)

    surrogate: Callable = parameter(default=Sigmoid(), kind=Callable, kw_only=True)
    detach_reset: bool = parameter(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (least, most) in self.integer_domains.items():
            value = getattr(self, name)
            if value is None and not self.is_synaptic:
                continue  # a readout, or neurons without a synapse or an adaptation
            array = as_array(value)
            is_number = array.dtype.kind in "iuf"
            if not is_number or not _are_integers(array, least, most):
                raise ValueError(
                    f"{type(self).__name__}: {name} must be an integer from {least} to {most}, or "
                    f"an array of them that broadcasts to the neurons, got {brief(value)}"
                )
            # Tuples have a hash, which JAX needs for the static parts of a pytree.
            object.__setattr__(self, name, nested(array.astype(int)))
        if self.unit is not None:
            unit = static_positive(type(self).__name__, "unit", self.unit)
            object.__setattr__(self, "unit", unit)
        else:
            # One number, because the real network has one surrogate for all neurons.
            unit = self.state_scale if self.threshold is None else self.threshold
            object.__setattr__(self, "unit", float(np.mean(unit)))

    @property
    def integer_domains(self) -> dict[str, tuple[int, int]]:
        """Smallest and largest value of each parameter that may differ between neurons."""
        decay, synaptic_decay, threshold = self.integer_names
        leak = 0, self.most_leak
        # A vth of 0 is exceeded by 1.
        least = int(threshold == "threshold")
        most = self.limits[1] // self.state_scale
        return {decay: leak, synaptic_decay: leak, threshold: (least, most)}

    @property
    def leaks(self) -> tuple[np.ndarray, np.ndarray]:
        """The integers by which one time step multiplies or shifts the potential and the current to
        let them decay.
        """
        # Without a synapse, a current decays to 0 within its step.
        decay, synaptic_decay, _ = (getattr(self, name) for name in self.integer_names)
        return np.asarray(decay), np.asarray(synaptic_decay or 0)

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value of a state."""
        return signed(self.bits)[:2]

    def weight_format(self, bits: int) -> WeightFormat:
        """Return the range and the step of the integers of a weight with this number of bits."""
        return signed(bits, 2 ** max(0, self.weight_span - bits))

    def parts_of(self, state: State) -> dict[str, Number]:
        """Return the arrays of a state by their names."""
        return dict(zip(self.state_names, jax.tree.leaves(state), strict=True))

    def fire(self, u: State, key: Any = None) -> tuple[State, Number]:
        # A state is the potential, or a tuple that starts with it.
        v, *others = jax.tree.leaves(u)
        if self.threshold is None:
            return u, in_units(v, self.unit)
        threshold = like(v, self.threshold)
        s = fired(v, threshold, self.n, self.unit, self.surrogate)
        v = self._after(v, s, threshold)
        state = (v, *others) if others else v
        return state, s

    def _after(self, v: Number, s: Number, threshold: Number) -> Number:
        """Return the potential after the spikes."""
        r = jax.lax.stop_gradient(s) if self.detach_reset else s  # nothing for integers
        if self.reset == "none":
            return v
        # Also for "late_value". The caller chooses the step and the threshold.
        if self.reset.endswith("value"):
            return v * (1 - r)
        # "subtract", "baseline" and "late_subtract" differ only in step and threshold.
        return v - r * threshold

    def linear_response(self) -> LinearResponse:
        # A decay factor is an integer over 2**fraction. The rounding of a step is not linear.
        decay, synaptic_decay = (leak / 2**self.fraction for leak in self.leaks)
        return LinearResponse(
            decay, float(self.state_scale), synaptic_decay, self.threshold
        )

    def leaks_of(self, decay: np.ndarray, synaptic_decay: np.ndarray) -> Leaks:
        """Convert decay factors to the parameters for decays, before rounding. The second is None
        without a synapse.
        """
        raise NotImplementedError

    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike) -> State:
        # float16 and bfloat16 do not have all integers of a state.
        if jnp.finfo(dtype).nmant < 23:
            raise TypeError(
                f"{type(self).__name__}: integers need float32 or float64, got {dtype}"
            )
        return super().initial_state(shape, dtype)


class FixedLIF(IntegerCell, pure=True):
    r"""Leaky integrate-and-fire neurons in fixed-point numbers, for FPGAs and programs in C.

    .. math:: i_t &= \operatorname{keep}(\lfloor \gamma\, i_{t-1} / 2^f \rfloor + I_t) \\
              u_t &= \operatorname{keep}(\lfloor \beta\, v_{t-1} / 2^f \rfloor + i_t) \\
              s_t &= [u_t \ge \theta]

    All values are integers. :math:`I_t` is the input current, :math:`i_t` the synaptic current,
    :math:`u_t` the potential before the reset, :math:`v_t` the potential after it, and :math:`s_t`
    the spike. An integer decay factor with :math:`f` fractional bits represents a number from 0 to
    1: :math:`\beta / 2^f`. :math:`\lfloor x \rfloor` rounds down, or toward zero with
    ``rounding="zero"``. :math:`\operatorname{keep}` keeps a state within its bits, as ``overflow``
    selects. Without ``synaptic_decay``, :math:`i_t = I_t`.

    With ``adaptation``, each spike adds :math:`a` to the integer :math:`b`, which has :math:`g`
    fractional bits, raises the threshold, and decays:

    .. math:: s_t &= [u_t \ge \theta + \lfloor b_t / 2^g \rfloor] \\
              b_{t+1} &= \min(\lfloor \rho\, b_t / 2^f \rfloor + a s_t,\, 2^{n-1} - 1)

    A late reset takes place in the time step after the spike. A late reset by subtraction is

    .. math:: u_t = \operatorname{keep}(\lfloor \beta\, u_{t-1} / 2^f \rfloor - \theta s_{t-1}
              + i_t)

    and a late reset to a value sets :math:`u_t = 0`. With ``refractory``, a neuron does not spike
    for this number of time steps after a spike, and its potential is constant, as in
    :class:`~spikegrad.neurons.Refractory`.

    The state is a tuple of the potential, the synaptic current, the adaptation :math:`b` and the
    remaining refractory time steps. Parts that the neuron does not have are left out, and the state
    of a neuron with one part is an array. Usually you need not write these neurons yourself,
    because :func:`quantize` does it.

    Parameters
    ----------
    decay : int or array of int
        The decay factor :math:`\beta` of the potential as an integer, from 0 to :math:`2^f`. With
        ``fraction=12``, 4096 is a decay of 1, and 3686 is a decay of 0.9. An array of a shape that
        broadcasts to the neurons gives each neuron or channel its value.
    threshold : int, array of int or None
        The threshold :math:`\theta`, an integer of at least 1. The neuron spikes if its potential
        is at least this number. For a neuron that spikes only above a number, such as the neuron of
        snn-mlir, add 1 to this number. With None, the neuron never spikes, and its output is the
        potential divided by ``unit`` (a readout).
    synaptic_decay : int or array of int, optional
        The decay factor :math:`\gamma` of the synaptic current as an integer, from 0 to
        :math:`2^f`. By default the neuron has no synaptic current.
    adaptation : int or array of int, optional
        The increase :math:`a` of the adaptation at each spike, an integer of at least 0. By default
        the neuron has no adaptation.
    adaptation_decay : int or array of int, optional
        The decay factor :math:`\rho` of the adaptation as an integer, from 0 to :math:`2^f`. It is
        required with ``adaptation``.
    adaptation_fraction : int, default 0
        The number :math:`g` of fractional bits of the adaptation, from 0 to 12. A decaying
        adaptation loses at least 1 in each time step. So use more bits if the adaptation must decay
        slowly.
    refractory : int, default 0
        The number of time steps without spikes after a spike, from 0 to 32,767.
    fraction : int, default 12
        The number :math:`f` of fractional bits of decay factors, from 1 to 12.
    bits : int, default 16
        The number :math:`n` of bits of a state with its sign, from 2 to 24.
    rounding : {"floor", "zero"}
        How a decay rounds: ``"floor"`` (default) rounds down, as an arithmetic shift does.
        ``"zero"`` rounds toward zero. If the decay rounds down, a negative state does not reach 0.
        It stays at about :math:`-1 / (1 - \beta / 2^f)`.
    overflow : {"saturate", "wrap", "error"}
        The result if a state does not fit into its bits. ``"saturate"`` (default) takes the nearest
        integer that fits. ``"wrap"`` wraps around to the other sign. With ``"error"``,
        :func:`replay` raises an error, and neither training nor C programs check it.
    reset : {"value", "subtract", "none", "baseline", "late_value", "late_subtract"}
        The effect of a spike on the potential. ``"value"`` (default) sets it to 0, ``"subtract"``
        subtracts the present threshold, and ``"none"`` changes nothing. With an adaptation,
        ``"baseline"`` subtracts :math:`\theta` without the adaptation. ``"late_value"`` and
        ``"late_subtract"`` do this one time step later, as ``delay_reset`` of
        :class:`~spikegrad.LIF`.
    surrogate : Surrogate, default Sigmoid()
        The slope of a spike in training. Its argument is the potential minus the threshold, divided
        by ``unit``.
    detach_reset : bool, default False
        If True, the backward pass treats the spike in the reset as a constant.
    unit : float or array, optional
        The potential that counts as 1 for the surrogate and for the output of a readout.
        By default the mean threshold, and 1 for a readout. An array must broadcast to the neurons.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer, or is outside its range. Also for an adaptation or a
        refractory period together with ``threshold=None`` or with a late reset.

    References
    ----------
    The neuron of the compiler snn-mlir (INTERA-GROUP, ``SNNToLinalg.cpp``) has ``fraction=12``,
    ``rounding="floor"`` and ``reset="value"``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.integers import FixedLIF
    >>> cell = FixedLIF(decay=230, threshold=100, fraction=8)
    >>> v, spikes = unroll(cell, jnp.array([60.0, 60.0, -5.0]))
    >>> v.item(), spikes.tolist()
    (-5.0, [0.0, 1.0, 0.0])
    """

    integer_names = "decay", "synaptic_decay", "threshold"
    resets = *IntegerCell.resets, "late_value", "late_subtract"

    decay: Any = wiring()
    threshold: Any = wiring()
    synaptic_decay: Any = wiring(None)
    adaptation: Any = wiring(None)
    adaptation_decay: Any = wiring(None)
    adaptation_fraction: int = parameter(
        default=0, integer=True, at_least=0, at_most=12
    )
    refractory: int = parameter(default=0, integer=True, at_least=0, at_most=2**15 - 1)
    fraction: int = parameter(default=12, integer=True, at_least=1, at_most=12)
    bits: int = parameter(default=16, integer=True, at_least=2, at_most=24)
    rounding: str = parameter(default="floor", choices=("floor", "zero"))
    overflow: str = parameter(default="saturate", choices=("saturate", "wrap", "error"))
    reset: str = parameter(default="value", choices=resets)
    unit: Any = wiring(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.adaptation is None) != (self.adaptation_decay is None):
            raise ValueError(
                "FixedLIF: adaptation and adaptation_decay must both be integers, got "
                f"{brief(self.adaptation)} and {brief(self.adaptation_decay)}"
            )
        has_memory = self.adaptation is not None or self.refractory > 0
        if self.reset.startswith("late") and has_memory:
            raise ValueError(
                "FixedLIF: reset must not be late with an adaptation or a refractory period, got "
                f"{self.reset!r}"
            )
        if self.threshold is None and has_memory:
            raise ValueError(
                "FixedLIF: a readout without a threshold must have no adaptation and no "
                "refractory period. Leave them out"
            )

    @property
    def has_memory_of_spikes(self) -> bool:
        """True if a spike affects later time steps otherwise than by a reset in its time step."""
        adapts = self.adaptation is not None
        rests = self.refractory > 0
        return adapts or rests or self.resets_late

    @property
    def resets_late(self) -> bool:
        """True if spikes reset the potential, one time step later."""
        return self.reset.startswith("late") and self.threshold is not None

    @property
    def most_leak(self) -> int:
        return 2**self.fraction

    @property
    def integer_domains(self) -> dict[str, tuple[int, int]]:
        return super().integer_domains | {
            "adaptation": (0, self.limits[1]),
            "adaptation_decay": (0, self.most_leak),
        }

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        has = {
            "potential": True,
            "synaptic current": self.synaptic_decay is not None,
            "adaptation": self.adaptation is not None,
            "steps left": self.refractory > 0,
        }
        return tuple(name for name, is_there in has.items() if is_there)

    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike) -> State:
        state = super().initial_state(shape, dtype)
        if not self.refractory:
            return state
        # The steps left are counted in the smallest unsigned type, which has no derivative.
        # They are the last part of the state.
        *others, _ = state
        count_type = np.min_scalar_type(self.refractory)
        return *others, jnp.zeros(shape, count_type)

    def integrate(self, v: State, current: Number) -> State:
        parts = self.parts_of(v)
        if "synaptic current" in parts:
            # The synapse comes first, so an input acts on the potential in its own step.
            i = parts["synaptic current"]
            current = self._sum(i, self.synaptic_decay, current)
            parts["synaptic current"] = current
        v = parts["potential"]
        if self.resets_late:
            u = self._sum_after_spikes(v, current)
        else:
            u = self._sum(v, self.decay, current)
        if "steps left" in parts:
            # The synapse goes on during a rest, and the potential stays.
            u = where(parts["steps left"] > 0, v, u)
        parts["potential"] = u
        return _as_state(parts)

    def fire(self, u: State, key: Any = None) -> tuple[State, Number]:
        if not self.has_memory_of_spikes:
            return super().fire(u, key)
        parts = self.parts_of(u)
        v = parts["potential"]
        baseline = present = like(v, self.threshold)
        if "adaptation" in parts:
            # The adaptation is never negative, so the threshold stays above 0.
            raised = scaled(parts["adaptation"], 1, self.adaptation_fraction, "floor")
            present = baseline + raised
        s = fired(v, present, 1, self.unit, self.surrogate)
        if "steps left" in parts:
            left = parts["steps left"]
            s = where(left > 0, 0, s)
            # Unsigned in training, so 1 is subtracted from 1 or more.
            steps = np.asarray(self.refractory, left.dtype)
            has_fired = s > 0
            one_less = where(left > 1, left, 1) - 1
            parts["steps left"] = where(has_fired, steps, one_less)
        # The reset takes the threshold of this step, the adaptation below that of later ones.
        subtracted = baseline if self.reset == "baseline" else present
        if not self.resets_late:
            parts["potential"] = self._after(v, s, subtracted)
        if "adaptation" in parts:
            increase = like(v, self.adaptation)
            b = parts["adaptation"]
            b = scaled(b, self.adaptation_decay, self.fraction, "floor")
            parts["adaptation"] = clipped(b + increase * s, *self.limits)
        return _as_state(parts), s

    def _sum_after_spikes(self, v: Number, current: Number) -> Number:
        """Return the potential after the current and the late reset."""
        threshold = like(v, self.threshold)
        # The state has no spikes, so it fires again.
        s = fired(v, threshold, 1, self.unit, self.surrogate)
        x = scaled(v, self.decay, self.fraction, self.rounding)
        if self.reset == "late_value":
            # The reset comes after the current, which is lost too, as in LIF with delay_reset.
            return self._after(self._kept(x, current), s, threshold)
        # After a spike, x is not negative. So it has its width also without the threshold.
        return self._kept(self._after(x, s, threshold), current)

    def _sum(self, x: Number, factor: Factor, current: Number) -> Number:
        """Return the state ``x`` after its decay, plus the current, in its width."""
        return self._kept(scaled(x, factor, self.fraction, self.rounding), current)

    def _kept(self, x: Number, current: Number) -> Number:
        """Return the sum in the width of a state."""
        if self.overflow == "wrap":
            return wrapped(x, current, self.bits)
        total = x + current
        # With "error" the replay raises.
        return clipped(total, *self.limits) if self.overflow == "saturate" else total

    def leaks_of(self, decay: np.ndarray, synaptic_decay: np.ndarray) -> Leaks:
        leak = decay * self.most_leak
        if not synaptic_decay.any():
            return leak, None
        return leak, synaptic_decay * self.most_leak


def _as_state(parts: dict[str, Number]) -> State:
    potential, *others = parts.values()
    return (potential, *others) if others else potential


class Loihi(IntegerCell, pure=True):
    r"""Current-based leaky integrate-and-fire neurons with the integer arithmetic of Intel's chips
    Loihi 1 and 2.

    .. math:: i_t &= \operatorname{wrap}_{24}\bigl(\operatorname{trunc}
                     \bigl(i_{t-1} (4096 - d_u - 1) / 2^{12}\bigr) + 64 I_t\bigr) \\
              u_t &= \operatorname{clip}\bigl(\operatorname{trunc}
                     \bigl(v_{t-1} (4096 - d_v) / 2^{12}\bigr) + i_t + b\bigr) \\
              s_t &= [u_t > 64 \theta]

    All values are integers. :math:`I_t` is the input, :math:`i_t` the synaptic current, :math:`u_t`
    the potential before the reset, and :math:`s_t` the spike. A spike sets the potential to 0.
    :math:`\operatorname{trunc}` rounds toward zero. A current that does not fit into 24 bits wraps
    around to the other sign. The potential is clipped to :math:`\pm (2^{23} - 1)`. The state is the
    pair of potential and synaptic current. Usually you need not write these neurons yourself,
    because :func:`quantize` with the target ``"loihi"`` does it.

    Parameters
    ----------
    du, dv : int or sequence of int
        The decays :math:`d_u` of the current and :math:`d_v` of the potential, integers from 0 to
        4095. A larger number decays faster. With ``du=4095``, the current does not last longer than
        its time step, as in :class:`~spikegrad.LIF`.
    vth : int, sequence of int or None
        The threshold :math:`\theta` in units of 64, an integer of 17 bits. With None, the neuron
        never spikes, and its output is the potential divided by ``unit`` (a readout).
    bias : int, default 0
        The bias :math:`b`, which each time step adds to the potential. On the chip, it is an
        integer of 13 bits, shifted by at most 7 bits.
    surrogate, detach_reset
        As in :class:`FixedLIF`. ``surrogate`` is the slope of a spike in training. Its argument is
        the potential minus the threshold, divided by ``unit``. ``detach_reset=True`` treats the
        spike in the reset as a constant in the backward pass.
    unit : float or array, optional
        As in :class:`FixedLIF`: the potential that counts as 1. By default it is the
        smallest potential that spikes, and 64 for a readout.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer, or is outside its range.

    Notes
    -----
    Weights are even integers from -256 to 254, which have 8 bits. ``fixed(weight, step=2)`` makes
    them.

    On the chip, each connection between layers takes one time step, so the spikes of later layers
    are later than here. With ``Delayed(weight, 1)`` as weights between layers, a network has the
    delays of the chip. The chip has no bias of a layer. Use an input that spikes in each time step
    instead.

    References
    ----------
    Davies et al. 2018, "Loihi: a neuromorphic manycore processor with on-chip learning", IEEE Micro
    38(1):82-99. The rounding is the one of Intel's library Lava, ``PyLifModelBitAcc``.

    Examples
    --------
    The decay of Lava's tests:

    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.integers import Loihi
    >>> cell = Loihi(du=0, dv=4095, vth=2**17 - 1)
    >>> (v, i), spikes = unroll(cell, jnp.array([128.0, 0.0, 0.0]))
    >>> i.item()
    8188.0
    """

    # Weights of both signs lose their lowest bit, and fewer bits leave the high ones.
    weight_bits = 8
    weight_span = 9
    state_scale = 64
    bits = 24
    fraction = 12
    resets = ("value",)
    reset = "value"
    integer_names = "dv", "du", "vth"
    most_leak = 4095

    du: Any = wiring()
    dv: Any = wiring()
    vth: Any = wiring()
    # 13 bits with a sign, shifted by up to 7 bits.
    bias: int = parameter(default=0, integer=True, at_least=-(2**19), at_most=2**19)
    unit: Any = wiring(None)

    @property
    def leaks(self) -> tuple[np.ndarray, np.ndarray]:
        # ds_offset of the chip: a current with a decay of 0 still loses 1/4096.
        return 4096 - np.asarray(self.dv), 4095 - np.asarray(self.du)

    @property
    def threshold(self) -> Any:
        """The smallest potential that spikes."""
        # The chip spikes above 64 * vth. A cell here spikes at its threshold, hence the 1.
        return None if self.vth is None else 64 * np.asarray(self.vth) + 1

    def integrate(self, v: State, current: Number) -> State:
        v, i = v
        leak, current_leak = self.leaks
        v = scaled(v, leak, 12, "zero")
        i = scaled(i, current_leak, 12, "zero")
        # The chip wraps the current and saturates the potential.
        i = wrapped(i, 64 * current, 24)
        # Symmetric as in PyLifModelBitAcc: -2**23 of two's complement is no potential.
        # A bias may lift the sum above 2**24, where float32 rounds. The clip hides this.
        most = 2**23 - 1
        return clipped(v + i + self.bias, -most, most), i

    def leaks_of(self, decay: np.ndarray, synaptic_decay: np.ndarray) -> Leaks:
        return 4096 - decay * 4096, 4095 - synaptic_decay * 4096


class Xylo(IntegerCell, pure=True):
    r"""Leaky integrate-and-fire neurons with a synaptic current and the integer arithmetic of
    SynSense's chip Xylo 2.

    .. math:: i_t &= L(\operatorname{clip}(i_{t-1} + I_t), d_i) \\
              u_t &= \operatorname{clip}(v_{t-1} + \operatorname{clip}(
                     L(v_{t-1}, d_v) - v_{t-1} + i_t) + b) \\
              s_t &= \min(\lfloor u_t / \theta \rfloor, n), \qquad v_t = u_t - \theta s_t

    All values are integers. :math:`I_t` is the input, :math:`i_t` the synaptic current, :math:`u_t`
    the potential before the reset, :math:`v_t` the potential after it, and :math:`s_t` the number
    of spikes. The leak :math:`L(x, d) = x - (x \gg d)` shifts by :math:`d` bits, and a positive
    number loses at least 1. :math:`\operatorname{clip}` takes the nearest integer of 16 bits. The
    state is the pair of potential and synaptic current. Usually you need not write these neurons
    yourself, because :func:`quantize` with the target ``"xylo"`` does it.

    Parameters
    ----------
    dash_mem, dash_syn : int or sequence of int
        The bit shifts :math:`d_v` of the potential and :math:`d_i` of the current, integers from 0
        to 15. A shift of :math:`d` is a decay factor of :math:`1 - 2^{-d}`: 1 is 1/2, 2 is 3/4, and
        3 is 7/8.
    threshold : int or sequence of int
        The threshold :math:`\theta`, an integer of at least 1.
    n : int, default 31
        Largest number of spikes of a neuron in one time step, from 1 to 31. Use 1 for the output
        neurons of the chip.
    bias : int, default 0
        The bias :math:`b`, an integer of 16 bits, which each time step adds to the potential.
    surrogate : Surrogate, default Sigmoid()
        The slope of each spike in training. The argument for spike :math:`k` is :math:`u - k
        \theta`, divided by ``unit``, as in :func:`~spikegrad.multi_spike`.
    detach_reset : bool, default False
        If True, the backward pass treats the spikes in the reset as constants.
    unit : float or array, optional
        The potential that counts as 1 for the surrogate. By default the mean threshold.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer, or is outside its range.

    Notes
    -----
    An input spike decays already in the time step in which it arrives. The chip adds the input
    spikes of a time step to the current one after the other, and clips after each. This cell adds
    all input spikes first. So the results differ if a part of the sum exceeds 16 bits.

    Output neurons of the chip read the spikes of the previous time step, so their outputs are one
    time step later than here.

    References
    ----------
    Bos and Muir 2022, "Sub-mW neuromorphic SNN audio processing applications with Rockpool and
    Xylo", arXiv:2208.12991. The arithmetic is the one of ``xylosim`` 0.1.3, ``XyloIAFNeuron.cpp``.

    Examples
    --------
    Positive and negative potentials leak differently:

    >>> import jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.integers import Xylo
    >>> cell = Xylo(dash_mem=2, dash_syn=15, threshold=100)
    >>> (v, i), spikes = unroll(cell, jnp.array([[251.0, -251.0]]))
    >>> v.tolist(), spikes.tolist()
    ([50.0, -250.0], [[2.0, 0.0]])
    """

    weight_bits = 8
    bits = 16
    is_synaptic = True
    sizes = 16, 1000
    resets = ("subtract",)
    reset = "subtract"
    integer_names = "dash_mem", "dash_syn", "threshold"
    most_leak = 15

    dash_mem: Any = wiring()
    dash_syn: Any = wiring()
    threshold: Any = wiring()
    n: int = parameter(default=31, integer=True, at_least=1, at_most=31)
    bias: int = parameter(default=0, integer=True, at_least=-(2**15), at_most=2**15 - 1)
    unit: Any = wiring(None)

    def integrate(self, v: State, current: Number) -> State:
        def keep(x):
            return clipped(x, *self.limits)

        v, i = v
        # The order of the sums decides where they saturate.
        i = leaked(keep(i + current), self.dash_syn)
        change = keep(leaked(v, self.dash_mem) - v + i)
        change = keep(change + self.bias)
        return keep(v + change), i

    def linear_response(self) -> LinearResponse:
        # Of the leak x - (x >> dash), without its rounding.
        decay, gain = (1 - 2.0**-dash for dash in self.leaks)
        # A spike decays in the step of its arrival.
        return LinearResponse(decay, gain, gain, self.threshold)  # type: ignore[arg-type]

    def leaks_of(self, decay: np.ndarray, synaptic_decay: np.ndarray) -> Leaks:
        # A decay factor x is 1 - 2**-dash. With a shift of 0 nothing of a spike would reach the
        # potential, and 15 is the largest shift.
        least = 2.0**-self.most_leak
        lost = np.clip(1 - decay, least, 0.5)
        synaptic_lost = np.clip(1 - synaptic_decay, least, 0.5)
        return -np.log2(lost), -np.log2(synaptic_lost)


CHIPS = FixedLIF, Loihi, Xylo
"""The cells with a rule in files and in C."""
