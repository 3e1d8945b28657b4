"""Neurons of chips, on integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from .._checks import brief
from .._struct import parameter, wiring
from ..neurons import Cell, LinearResponse, State
from ..surrogates import Sigmoid
from ._arithmetic import (
    Factor,
    Number,
    clipped,
    counted,
    fired,
    in_units,
    leaked,
    like,
    scaled,
    wrapped,
)


class RealNeuron(NamedTuple):
    """The parameters of a neuron on real numbers, from which a target makes its own."""

    decay: np.ndarray
    synaptic_decay: np.ndarray | None
    """None without a synapse."""
    threshold: np.ndarray | None
    """None for a readout, which never fires."""
    reset: str
    gain: np.ndarray
    """The factor of the input."""
    options: dict[str, Any]
    """The surrogate, and whether the reset is detached."""


class WeightFormat(NamedTuple):
    """The integers of a weight: ``low``, ``low + step``, ... ``high``."""

    low: int
    high: int
    step: int = 1


class IntegerCell(Cell, pure=True):
    """Base of the cells on integers.

    States and currents are integers in float32. :meth:`integrate` and :meth:`fire` also take
    integers of NumPy and terms of C, see ``_arithmetic.py``.
    """

    state_names = "potential", "synaptic current"
    state_scale: ClassVar[int] = 1
    """The unit of a state is this number times the unit of a weight."""

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest value of a state."""
        raise NotImplementedError

    def weight_format(self, bits: int) -> WeightFormat:
        """Return the integers of a weight of so many bits."""
        return WeightFormat(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def check(self, neuron: RealNeuron) -> None:
        """Raise if the target lacks a property of a real neuron."""

    def gain(self, neuron: RealNeuron) -> np.ndarray:
        """Return the factor of the weights that gives the currents of the real neuron."""
        return neuron.gain

    def converted(self, neuron: RealNeuron, scale: float) -> IntegerCell:
        """Return the cell with the parameters of a real neuron.

        One in the real network is ``scale`` in the weights.
        """
        raise NotImplementedError

    def factors(self) -> tuple[Any, Any, Any]:
        """Return the decay factors of potential and current, and the gain, as real numbers."""
        raise NotImplementedError

    def integrate(self, v: State, current: Number) -> State:
        raise NotImplementedError

    def fire(self: Any, u: State, key: Any = None) -> tuple[State, Number]:
        v, *others = u if isinstance(u, tuple) else (u,)
        if self.threshold is None:
            return u, in_units(v, self.unit)
        threshold = like(v, self.threshold)
        s = fired(v - threshold, self.unit, self.surrogate)
        if self.reset != "none":
            r = self._for_reset(s)
            v = v * (1 - r) if self.reset == "value" else v - r * threshold
        return ((v, *others) if others else v), s

    def linear_response(self: Any) -> LinearResponse:
        decay, synaptic_decay, gain = self.factors()
        return LinearResponse(decay, gain, synaptic_decay, self.threshold)

    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike) -> State:
        if jnp.finfo(dtype).nmant < 23:
            raise TypeError(
                f"{type(self).__name__}: integers need float32 or float64, got {dtype}"
            )
        return super().initial_state(shape, dtype)

    def _set_integers(self, **limits: tuple[int, int]) -> None:
        for name, (low, high) in limits.items():
            value = as_integers(
                type(self).__name__, name, getattr(self, name), low, high
            )
            object.__setattr__(self, name, value)

    def _set_unit(self: Any, threshold: int | float) -> None:
        unit = threshold if self.unit is None else self.unit
        object.__setattr__(self, "unit", float(np.mean(unit)))

    def _for_reset(self: Any, s: Number) -> Number:
        # Integers of NumPy and terms of C have no gradient to stop.
        is_traced = isinstance(s, jax.Array)
        return jax.lax.stop_gradient(s) if self.detach_reset and is_traced else s


def as_integers(owner: str, name: str, value: Any, low: int, high: int) -> Factor:
    """Return an integer, or a tuple of one for each neuron."""
    array = np.asarray(value)
    if array.ndim > 1 or array.dtype.kind not in "iuf" or (array % 1 != 0).any():
        raise TypeError(
            f"{owner}: {name} must be an integer, or one for each neuron, got {brief(value)}"
        )
    if (array < low).any() or (array > high).any():
        raise ValueError(
            f"{owner}: {name} must be from {low} to {high}, got {brief(value)}"
        )
    return _factor(array)


def _factor(array: Any) -> Factor:
    """Return the integers of an array as Python's, which are a part of the tree's structure."""
    integers = np.asarray(array).astype(int).tolist()
    return tuple(integers) if isinstance(integers, list) else integers


class FixedLIF(IntegerCell, pure=True):
    r"""Leaky integrate-and-fire neurons in fixed-point numbers, for FPGAs and programs in C.

    .. math:: i_t &= \operatorname{keep}(\lfloor \gamma\, i_{t-1} / 2^f \rfloor + I_t) \\
              u_t &= \operatorname{keep}(\lfloor \beta\, v_{t-1} / 2^f \rfloor + i_t) \\
              s_t &= [u_t \ge \theta]

    All values are integers. Without ``synaptic_decay``, :math:`i_t = I_t`, and the state is the
    potential alone.

    Parameters
    ----------
    decay : int or sequence of int
        Decay factor :math:`\beta` times :math:`2^f`, from 0 to :math:`2^f`. A sequence has one for
        each neuron.
    threshold : int, sequence of int or None
        Threshold :math:`\theta`, at least 1. A neuron with :math:`v > \theta`, as in snn-mlir, has
        the threshold :math:`\theta + 1`. None: the neuron never fires, and its output is the
        potential divided by ``unit``.
    synaptic_decay : int or sequence of int, optional
        Decay factor :math:`\gamma` of the synaptic current times :math:`2^f`.
    fraction : int, default 12
        The bits :math:`f` of a decay factor, from 1 to 12.
    bits : int, default 16
        The width of a state with its sign, from 2 to 24.
    rounding : {"floor", "zero"}
        Rounding of a decay: down, as an arithmetic shift, or toward zero. Rounded down, a negative
        state stays at about :math:`-1 / (1 - \beta)`.
    overflow : {"saturate", "wrap", "error"}
        A state beyond its width saturates or wraps. With ``"error"`` nothing happens in training
        and in C, and :func:`replay` raises.
    reset : {"value", "subtract", "none"}
        The effect of a spike on the potential: 0, minus :math:`\theta`, or none.
    surrogate : Surrogate, default Sigmoid()
        The slope of a spike, of :math:`(u - \theta)` divided by ``unit``.
    detach_reset : bool, default False
        If True, the spike in the reset is a constant in the derivative.
    unit : float, optional
        The value of a state that is 1 in the surrogate and in the output of a readout. By default
        the threshold, and 1 for a readout.

    Raises
    ------
    TypeError, ValueError
        For parameters that are not integers or out of their domains.

    References
    ----------
    The rule of snn-mlir (INTERA-GROUP, ``SNNToLinalg.cpp``) has ``fraction=12``,
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

    decay: Any = wiring()
    threshold: Any = wiring()
    synaptic_decay: Any = wiring(None)
    fraction: int = wiring(12)
    bits: int = wiring(16)
    rounding: str = parameter(default="floor", choices=("floor", "zero"))
    overflow: str = parameter(default="saturate", choices=("saturate", "wrap", "error"))
    reset: str = parameter(default="value", choices=("value", "subtract", "none"))
    surrogate: Callable = parameter(default=Sigmoid(), kind=Callable)
    detach_reset: bool = parameter(default=False)
    unit: Any = wiring(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_integers(fraction=(1, 12), bits=(2, 24))
        self._set_integers(decay=(0, 2**self.fraction))
        if self.synaptic_decay is not None:
            self._set_integers(synaptic_decay=(0, 2**self.fraction))
        if self.threshold is not None:
            self._set_integers(threshold=(1, self.limits[1]))
        self._set_unit(1 if self.threshold is None else self.threshold)

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return IntegerCell.state_names[: 1 + (self.synaptic_decay is not None)]

    @property
    def limits(self) -> tuple[int, int]:
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    def integrate(self, v: State, current: Number) -> State:
        if self.synaptic_decay is None:
            return self._keep(self._decayed(v, self.decay) + current)
        v, i = v
        # The synapse comes first, so an input acts on the potential in its own step.
        i = self._keep(self._decayed(i, self.synaptic_decay) + current)
        return self._keep(self._decayed(v, self.decay) + i), i

    def factors(self) -> tuple[Any, Any, Any]:
        one = 2**self.fraction
        synapse = self.synaptic_decay or 0
        return np.asarray(self.decay) / one, np.asarray(synapse) / one, 1.0

    def converted(self, neuron: RealNeuron, scale: float) -> FixedLIF:
        def factor(decay):
            return np.rint(decay * 2**self.fraction)

        synapse = neuron.synaptic_decay
        return self._replaced(
            decay=factor(neuron.decay),
            synaptic_decay=None if synapse is None else factor(synapse),
            threshold=_threshold(neuron, scale),
            reset=neuron.reset,
            unit=scale,
            **neuron.options,
        )

    def _decayed(self, x: Number, factor: Factor) -> Number:
        return scaled(x, factor, self.fraction, self.rounding)

    def _keep(self, x: Number) -> Number:
        if self.overflow == "error":
            return x
        return (
            clipped(x, *self.limits)
            if self.overflow == "saturate"
            else wrapped(x, self.bits)
        )


class Loihi(IntegerCell, pure=True):
    r"""The current-based neurons of Loihi 1 and 2.

    .. math:: i_t &= \operatorname{wrap}_{24}\bigl(\operatorname{trunc}
                     \bigl(i_{t-1} (4096 - d_u - 1) / 2^{12}\bigr) + 64 I_t\bigr) \\
              u_t &= \operatorname{clip}\bigl(\operatorname{trunc}
                     \bigl(v_{t-1} (4096 - d_v) / 2^{12}\bigr) + i_t + b\bigr) \\
              s_t &= [u_t > 64 \theta]

    and the potential is 0 after a spike. The current wraps in 24 bits. The potential saturates at
    :math:`\pm (2^{23} - 1)`.

    Parameters
    ----------
    du, dv : int or sequence of int
        Decays of current and potential, from 0 to 4095. ``du=4095`` is a neuron without a synapse.
    vth : int, sequence of int or None
        Threshold :math:`\theta` in units of 64, of 17 bits. None: the neuron never fires, and its
        output is the potential divided by ``unit``.
    bias : int, default 0
        Bias :math:`b` of the potential: a mantissa of 13 bits, shifted by up to 7.
    surrogate, detach_reset
        As in :class:`FixedLIF`.
    unit : float, optional
        As in :class:`FixedLIF`. By default :math:`64 \theta`, and 64 for a readout.

    Raises
    ------
    TypeError, ValueError
        For parameters that are not integers or out of their domains.

    Notes
    -----
    Weights have 8 bits and are even, from -256 to 254, see :class:`Fixed`. On the chip each
    connection takes one step, so the outputs of layer ``n`` come ``n`` steps later. A bias of the
    layer needs an input that fires at each step.

    References
    ----------
    Davies et al. 2018, "Loihi: a neuromorphic manycore processor with on-chip learning", IEEE
    Micro 38(1):82-99. The rounding is that of Intel's Lava, ``PyLifModelBitAcc``.

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

    state_scale = 64
    reset = "value"

    du: Any = wiring()
    dv: Any = wiring()
    vth: Any = wiring()
    bias: int = wiring(0)
    surrogate: Callable = parameter(default=Sigmoid(), kind=Callable)
    detach_reset: bool = parameter(default=False)
    unit: Any = wiring(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_integers(du=(0, 4095), dv=(0, 4095), bias=(-(2**19), 2**19))
        if self.vth is not None:
            self._set_integers(vth=(0, 2**17 - 1))
        self._set_unit(64 if self.vth is None else 64 * np.maximum(self.vth, 1))

    @property
    def limits(self) -> tuple[int, int]:
        return -(2**23), 2**23 - 1

    @property
    def threshold(self) -> Any:
        """The least potential that fires."""
        if self.vth is None:
            return None
        return _factor(64 * np.asarray(self.vth) + 1)

    def weight_format(self, bits: int) -> WeightFormat:
        # Weights of both signs lose their lowest bit, and fewer bits leave the high ones.
        step = 2 ** (9 - bits)
        return WeightFormat(-256, 256 - step, step)

    def integrate(self, v: State, current: Number) -> State:
        v, i = v
        # ds_offset of the chip: a decay of 0 still loses 1/4096.
        decayed = scaled(i, _factor(4095 - np.asarray(self.du)), 12, "zero")
        # 64 times 18 bits are the 24 bits of the current, and stay exact in float32.
        i = wrapped(decayed + wrapped(current, 18) * 64, 24)
        u = scaled(v, _factor(4096 - np.asarray(self.dv)), 12, "zero") + i
        return clipped(u + self.bias, 1 - 2**23, 2**23 - 1), i

    def factors(self) -> tuple[Any, Any, Any]:
        return 1 - np.asarray(self.dv) / 4096, (4095 - np.asarray(self.du)) / 4096, 64.0

    def check(self, neuron: RealNeuron) -> None:
        if neuron.threshold is not None and neuron.reset != "value":
            raise ValueError(
                f"a spike resets the potential to 0, not by reset={neuron.reset!r}; train with "
                "reset='value'"
            )

    def converted(self, neuron: RealNeuron, scale: float) -> Loihi:
        synapse = 0.0 if neuron.synaptic_decay is None else neuron.synaptic_decay
        return self._replaced(
            du=np.clip(np.rint((1 - synapse) * 4096) - 1, 0, 4095),
            dv=np.clip(np.rint((1 - neuron.decay) * 4096), 0, 4095),
            vth=_threshold(neuron, scale),
            unit=64 * scale,
            **neuron.options,
        )


class Xylo(IntegerCell, pure=True):
    r"""The neurons of Xylo 2, with one synapse.

    .. math:: i_t &= L(\operatorname{clip}(i_{t-1} + I_t), d_i) \\
              u_t &= \operatorname{clip}(v_{t-1} + \operatorname{clip}(
                     L(v_{t-1}, d_v) - v_{t-1} + i_t) + b) \\
              s_t &= \min(\lfloor u_t / \theta \rfloor, n), \qquad v_t = u_t - \theta s_t

    with the leak :math:`L(x, d) = x - (x \gg d)`, where a positive number loses at least 1. All
    sums saturate in 16 bits.

    Parameters
    ----------
    dash_mem, dash_syn : int or sequence of int
        Bit shifts :math:`d_v, d_i` of potential and current, from 0 to 15. A shift of :math:`d` is
        a decay factor of :math:`1 - 2^{-d}`.
    threshold : int or sequence of int
        Threshold :math:`\theta`, at least 1.
    n : int, default 31
        The largest number of spikes in a step. Output neurons of the chip have 1.
    bias : int, default 0
        Bias :math:`b` of the potential.
    surrogate : Surrogate, default Sigmoid()
        The slope of each spike, of :math:`u / \theta - k`, see :func:`~spikegrad.multi_spike`.
    detach_reset : bool, default False
        If True, the spikes in the reset are constants in the derivative.

    Raises
    ------
    TypeError, ValueError
        For parameters that are not integers or out of their domains.

    Notes
    -----
    A spike decays in the step in which it arrives. The chip adds the spikes of a step to the
    current one by one. The sum is that of this cell unless a part of it exceeds 16 bits. Output
    neurons of the chip read the spikes of the step before, so their outputs come one step later.

    References
    ----------
    Bos and Muir 2022, "Sub-mW neuromorphic SNN audio processing applications with Rockpool and
    Xylo", arXiv:2208.12991. The arithmetic is that of ``xylosim`` 0.1.3, ``XyloIAFNeuron.cpp``.

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

    reset = "subtract"

    dash_mem: Any = wiring()
    dash_syn: Any = wiring()
    threshold: Any = wiring()
    n: int = wiring(31)
    bias: int = wiring(0)
    surrogate: Any = parameter(default=Sigmoid(), kind=Callable)
    detach_reset: bool = parameter(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_integers(dash_mem=(0, 15), dash_syn=(0, 15), n=(1, 31))
        self._set_integers(threshold=(1, 2**15 - 1), bias=self.limits)

    @property
    def limits(self) -> tuple[int, int]:
        return -(2**15), 2**15 - 1

    def integrate(self, v: State, current: Number) -> State:
        v, i = v
        # The order of the sums decides where they saturate.
        i = leaked(self._keep(i + current), self.dash_syn)
        change = self._keep(self._keep(leaked(v, self.dash_mem) - v + i) + self.bias)
        return (self._keep(v + change), i)

    def fire(self, u: State, key: Any = None) -> tuple[State, Number]:
        v, i = u
        threshold = like(v, self.threshold)
        s = counted(v - threshold, self.threshold, self.n, self.surrogate)
        return (v - self._for_reset(s) * threshold, i), s

    def factors(self) -> tuple[Any, Any, Any]:
        synapse = 1 - 2.0 ** -np.asarray(self.dash_syn)
        return 1 - 2.0 ** -np.asarray(self.dash_mem), synapse, synapse

    def check(self, neuron: RealNeuron) -> None:
        if neuron.threshold is None:
            raise ValueError("its outputs are spikes: use SynapticLIF as readout")
        if neuron.synaptic_decay is None:
            raise ValueError("each neuron has a synapse: use SynapticLIF")
        if neuron.reset != "subtract":
            raise ValueError(
                f"a spike subtracts the threshold, not reset={neuron.reset!r}; train with "
                "reset='subtract'"
            )

    def gain(self, neuron: RealNeuron) -> np.ndarray:
        # A spike decays in the step of its arrival.
        return neuron.gain / (1 - 2.0 ** -_dash(neuron.synaptic_decay))

    def converted(self, neuron: RealNeuron, scale: float) -> Xylo:
        return self._replaced(
            dash_mem=_dash(neuron.decay),
            dash_syn=_dash(neuron.synaptic_decay),
            threshold=_threshold(neuron, scale),
            **neuron.options,
        )

    def _keep(self, x: Number) -> Number:
        return clipped(x, *self.limits)


def _dash(decay: Any) -> np.ndarray:
    """Return the bit shift with the nearest decay factor."""
    with np.errstate(divide="ignore"):
        return np.clip(np.rint(-np.log2(1 - np.asarray(decay))), 1, 15)


def _threshold(neuron: RealNeuron, scale: float) -> np.ndarray | None:
    if neuron.threshold is None:
        return None
    return np.maximum(np.rint(neuron.threshold * scale), 1)
