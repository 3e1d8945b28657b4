"""The nodes of NIR. Each class reads a node as a part of a network, and writes the part as a node.

Another node needs a class here and its entry in ``OPERATIONS`` or ``MEMBRANES``. If functions of
users may have this operation, see ``_weights.py``, it also needs an entry in ``AFTER``.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import nir
import numpy as np

from .. import _weights as weights
from .._struct import Struct, parameter, wiring
from .._surrogate import spike_types
from ..neurons import LIF, Cell, LeakyReadout, SynapticLIF, decay_from_tau

MARK = "spikegrad"
"""The key of a node's metadata, for a dict with the source of its weights.

If ``late`` is true, the weights have the step that a loop in NIR takes by itself.
"""
Shape: TypeAlias = tuple[int, ...]
Array: TypeAlias = Any
"""An array of NumPy, or of JAX while a function runs."""
Node: TypeAlias = Any
"""A node of NIR. Its fields depend on its class."""
Operation: TypeAlias = Any
"""One of the classes of ``OPERATIONS``."""
Surrogate: TypeAlias = Callable[[Array], Array]


def numbers(node: Node, name: str, shape: Shape | None = None) -> Array:
    """Return a parameter of a node with this shape.

    Factors are multiplied in float64, and the weights are rounded once.
    """
    values = np.asarray(getattr(node, name), np.float64)
    return values if shape is None else np.broadcast_to(values, shape)


class Time:
    r"""The length of a time step, and the discretization of :math:`\tau \dot v = x - v`.

    A step is :math:`v_t = \beta v_{t-1} + (1 - \beta) x_t`, with the decay of
    :func:`~spikegrad.decay_from_tau`.
    """

    def __init__(self, dt: float, discretization: str) -> None:
        # It checks dt and the discretization, and every dt is shorter than an infinite tau.
        decay_from_tau(np.inf, dt, discretization)
        self.dt = float(dt)
        self.discretization = discretization

    def decay(self, tau: Array) -> Array:
        if self.discretization == "euler":
            # A time constant of one step may be rounded in the file.
            is_rounded = (tau < self.dt) & (tau > self.dt * (1 - 1e-6))
            tau = np.where(is_rounded, self.dt, tau)
        return np.asarray(decay_from_tau(tau, self.dt, self.discretization))

    def tau(self, name: str, decay: Array) -> tuple[Array, Array]:
        """Return the time constant, and the factor that compensates the factor of the input."""
        is_euler = self.discretization == "euler"
        # A decay of 0 has a time constant of 0 if exact, and of dt in Euler's method.
        has_tau = (decay < 1) & ((decay > 0) | is_euler)
        if not has_tau.all():
            raise ValueError(
                f"{name} must be below 1, or 1 for all neurons of a LIF, and above 0, or 0 with "
                f"discretization='euler', got {decay.min()} to {decay.max()}"
            )
        tau = self.dt / (1 - decay) if is_euler else -self.dt / np.log(decay)
        # A step in NIR multiplies its input by 1 - decay, and a cell without ``norm_input`` does
        # not.
        return tau, 1 / (1 - decay)


# --- operations: functions of the inputs of one step, and pytrees of their weights ----------------


class _Weights(Struct):
    """A product and a bias. The first axis of both has the outputs, or their channels."""

    weight: Array = parameter(kind=object)
    bias: Array | None = parameter(kind=object)

    def plus_bias(self, out: Array) -> Array:
        # The bias of a convolution has one number for each channel, with axes for the places.
        return out if self.bias is None else out + self.bias[None]

    @staticmethod
    def read_arrays(node: Node) -> tuple[Array, Array | None]:
        weight = numbers(node, "weight")
        if getattr(node, "bias", None) is None:
            return weight, None
        bias = numbers(node, "bias", weight.shape[:1])
        # (channels,) -> (channels, 1, 1) for a kernel of two axes, and (neurons,) stays for a
        # matrix.
        places = [1] * (weight.ndim - 2)
        return weight, bias.reshape(-1, *places)


class Linear(_Weights, pure=True):
    """``nir.Linear`` and ``nir.Affine``."""

    def __call__(self, x: Array) -> Array:
        # NIR has the outputs first, (neurons, inputs).
        return self.plus_bias(x.astype(self.weight.dtype) @ self.weight.T)

    @classmethod
    def read(cls, node: Node, shape: Shape) -> Linear:
        return cls(*cls.read_arrays(node))

    def write(self, shape: Shape) -> Node:
        if self.bias is None:
            return nir.Linear(self.weight)
        return nir.Affine(self.weight, self.bias)


class Conv(_Weights, pure=True):
    """``nir.Conv1d`` and ``nir.Conv2d``."""

    stride: Shape = wiring()
    padding: Shape | str = wiring()
    """The zeros on both sides of each axis, or the name of a padding of JAX."""
    dilation: Shape = wiring()
    groups: int = wiring()

    def __call__(self, x: Array) -> Array:
        padding = self.padding
        if not isinstance(padding, str):
            padding = [(n, n) for n in padding]
        out = jax.lax.conv_general_dilated(
            x.astype(self.weight.dtype),
            self.weight,
            self.stride,
            padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
        )
        return self.plus_bias(out)

    @classmethod
    def read(cls, node: Node, shape: Shape) -> Conv:
        weight, bias = cls.read_arrays(node)

        # Files have one number for all axes, or one for each.
        def of_axes(value: Array) -> Shape:
            return tuple(np.broadcast_to(value, weight.ndim - 2).tolist())

        is_name = isinstance(node.padding, str)
        padding = node.padding.upper() if is_name else of_axes(node.padding)
        stride = of_axes(node.stride)
        dilation = of_axes(node.dilation)
        return cls(weight, bias, stride, padding, dilation, int(node.groups))

    def write(self, shape: Shape) -> Node:
        bias = np.zeros(len(self.weight), self.weight.dtype)
        if self.bias is not None:
            bias = self.bias.reshape(-1)
        kind: Node = nir.Conv2d
        # The padding is numbers, because a function to write is traced. Only files say "same".
        axes: list[Any] = [shape[1:], self.stride, self.padding, self.dilation]
        # Conv1d has numbers where Conv2d has pairs.
        if len(shape) == 2:
            kind = nir.Conv1d
            axes = [values[0] for values in axes]
        size, stride, padding, dilation = axes
        node = kind(size, self.weight, stride, padding, dilation, self.groups, bias)
        # nir infers wrong types for groups and for kernels that are not square
        return _with_types(node, self, shape)


class Scale(Struct, pure=True):
    """``nir.Scale``."""

    factor: Array = parameter(kind=object)

    def __call__(self, x: Array) -> Array:
        return x.astype(self.factor.dtype) * self.factor[None]

    @classmethod
    def read(cls, node: Node, shape: Shape) -> Scale:
        return cls(numbers(node, "scale", shape))

    def write(self, shape: Shape) -> Node:
        return nir.Scale(self.factor)


class SumPool(Struct, pure=True):
    """``nir.SumPool2d``."""

    window: Shape = wiring()
    stride: Shape = wiring()
    padding: Shape = wiring()
    node: ClassVar[Node] = nir.SumPool2d

    def __call__(self, x: Array) -> Array:
        padding = (0, 0, *self.padding)
        return jax.lax.reduce_window(
            x,
            np.zeros((), x.dtype),
            jax.lax.add,
            (1, 1, *self.window),
            (1, 1, *self.stride),
            tuple((n, n) for n in padding),
        )

    @classmethod
    def read(cls, node: Node, shape: Shape) -> SumPool:
        if len(shape) != 3:
            raise ValueError(
                f"its input must be (channels, height, width), got {shape}"
            )

        # Files have one number for both axes, or one for each.
        def of_axes(value: Array) -> Shape:
            return tuple(np.broadcast_to(value, 2).tolist())

        window = of_axes(node.kernel_size)
        return cls(window, of_axes(node.stride), of_axes(node.padding))

    def write(self, shape: Shape) -> Node:
        fields = self.window, self.stride, self.padding
        node = self.node(*map(np.array, fields))
        # nir infers no types for pooling.
        return _with_types(node, self, shape)

    def is_average(self, factor: Array) -> bool:
        """Return True if the factor is one over the size of the window.

        Zeros around an image count or do not, which NIR does not define.
        """
        # Equal numbers in the dtype of the factor, because the user's average was rounded in it.
        share = factor.dtype.type(1 / math.prod(self.window))
        is_share = bool((factor == share).all())
        return is_share and not any(self.padding)


class AvgPool(SumPool, pure=True):
    """``nir.AvgPool2d``. Zeros around an image count."""

    node = nir.AvgPool2d

    def __call__(self, x: Array) -> Array:
        return super().__call__(x) * (1 / math.prod(self.window))


class Flatten(Struct, pure=True):
    """``nir.Flatten``. It counts the axes of an example, without the batch."""

    start: int = wiring(0)
    end: int = wiring(-1)

    def __call__(self, x: Array) -> Array:
        # The last axis of NIR is included, and may be -1.
        stop = self.end + 1 or None
        return jax.vmap(lambda x: jax.lax.collapse(x, self.start, stop))(x)

    @classmethod
    def read(cls, node: Node, shape: Shape) -> Flatten:
        return cls(int(node.start_dim), int(node.end_dim))

    def write(self, shape: Shape) -> Node:
        return nir.Flatten({"input": np.array(shape)}, self.start, self.end)


OPERATIONS: dict[type, Operation] = {
    nir.Linear: Linear,
    nir.Affine: Linear,
    nir.Conv1d: Conv,
    nir.Conv2d: Conv,
    nir.Scale: Scale,
    nir.SumPool2d: SumPool,
    nir.AvgPool2d: AvgPool,
    nir.Flatten: Flatten,
}


def output_shape(function: Operation, shape: Shape) -> Shape:
    """Return the shape of one example after a function.

    JAX checks strides, groups and paddings here.
    """
    # One example, without numbers.
    example = jax.ShapeDtypeStruct((1, *shape), jnp.result_type(float))
    return jax.eval_shape(operator.call, function, example).shape[1:]


def _with_types(node: Node, function: Operation, shape: Shape) -> Node:
    """Set the shapes of an example before and after a node, the node of a function."""
    node.input_type = {"input": np.array(shape)}
    node.output_type = {"output": np.array(output_shape(function, shape))}
    return node


def written(functions: Sequence[Operation], shape: Shape) -> list[Node]:
    """Return the nodes of functions, from the shape of an example before the first."""
    nodes = []
    for function in functions:
        nodes.append(function.write(shape))
        shape = output_shape(function, shape)
    return nodes


def scaled(functions: Sequence[Operation], factor: Array) -> list[Operation]:
    """Multiply the output: in the last weights if possible, or else by another function."""
    # A factor of 1 leaves no trace, so a network comes back in its form.
    rounded = factor.astype(jnp.result_type(float))
    if (rounded == 1).all():
        return [*functions]
    *before, last = functions or [None]
    rows = None
    if isinstance(last, _Weights):
        rows = per_channel(factor, len(last.weight))
    if rows is None:  # no weights, or several factors within a channel of a convolution
        return [*functions, Scale(factor)]

    def times(values: Array) -> Array:
        # The first axis of weights and bias has the outputs: (outputs,) -> (outputs, 1, ...).
        others = [1] * (values.ndim - 1)
        of_outputs = rows.reshape(-1, *others)
        return (values * of_outputs).astype(values.dtype)

    return [*before, jax.tree.map(times, last)]


def per_channel(values: Array, channels: int) -> Array | None:
    """Return one number for each channel, the first axis, or None if a channel has several."""
    # Bit-identical numbers, because a channel of NIR stores one of them.
    rows = values.reshape(channels, -1)
    first = rows[:, 0]
    is_equal = rows == first[:, None]
    return first if is_equal.all() else None


def delay_of(node: Node, dt: float) -> int:
    """Return the time steps of a ``nir.Delay``."""
    # A network delays a source as a whole.
    delays = np.unique(numbers(node, "delay"))
    if len(delays) != 1:
        raise ValueError(f"delay must be one number for all, got {delays}")
    # NIR has seconds.
    steps = delays[0] / dt
    nearest = round(steps)
    # Seconds are rounded in float32, or by a product with dt.
    if abs(steps - nearest) > 1e-6 * max(1.0, steps):
        raise ValueError(f"delay must be a multiple of {dt=}, got {delays[0]}")
    return nearest


# --- operations of functions in the order of NIR --------------------------------------------------


class AxisOrderError(ValueError):
    """The axes of an input have another order."""


class Signal(NamedTuple):
    """An array that depends on the inputs of a function, as the output of operations.

    The array in the function may have the numbers of NIR's array in another order, such as channels
    last, and ``places`` keeps track of them.
    """

    shape: Shape
    """The shape of one example in NIR."""
    places: Array
    """The position in NIR's array, for each number of the array in the function."""
    dtype: np.dtype
    functions: tuple[Operation, ...] = ()

    def in_nir(self, values: Array) -> Array:
        """Return values of the array, or one number for all, in NIR's order and shape."""
        # The inverse of ``places``: number n of the function goes to the position places[n] of NIR.
        values = np.broadcast_to(values, self.places.shape)
        ordered = np.empty(self.places.size, values.dtype)
        ordered[self.places.ravel()] = values.ravel()
        return ordered.reshape(self.shape)

    @property
    def is_slice(self) -> bool:
        """True if the array in the function has a part of the numbers of NIR's array."""
        return self.places.size < math.prod(self.shape)

    def is_like(self, other: Signal) -> bool:
        return self.shape == other.shape and np.array_equal(self.places, other.places)

    def is_in_order(self, axes: Shape) -> bool:
        """Return True if these axes of the array are the examples and then the axes of NIR."""
        # Positions in NIR's order are 0, 1, 2, ... The first axis is the example.
        in_order = np.arange(self.places.size).reshape(self.shape)
        places = self.places.transpose(axes)[0]
        return np.array_equal(places, in_order)

    def then(self, function: Operation, axes: Shape) -> Signal:
        """Return the output of another function, with the axes of NIR in these axes."""
        shape = output_shape(function, self.shape)
        places = np.arange(math.prod(shape)).reshape(1, *shape)
        # The function of the user continues in its own layout.
        places = places.transpose(np.argsort(axes))
        return Signal(shape, places, self.dtype, (*self.functions, function))


def after_rearrangement(rearrangement: weights.Rearrangement, signal: Signal) -> Signal:
    """Move the places. No node is needed, because weights and parameters move to NIR's order."""
    places = signal.places.ravel()
    if rearrangement.order is not None:
        places = places[np.array(rearrangement.order)]
    return signal._replace(places=places.reshape(rearrangement.shape))


def after_bias(bias: weights.Bias, signal: Signal) -> Signal:
    """Add a bias to the last weights."""
    *before, last = signal.functions or [None]
    if not isinstance(last, _Weights):
        raise ValueError("a sum without a product before it")
    # A convolution in NIR has one bias for each channel.
    ordered = signal.in_nir(np.asarray(bias.bias))
    values = per_channel(ordered, len(last.weight))
    if values is None:
        raise ValueError("a bias that differs within a channel")
    # (channels,) -> (channels, 1, 1) for images, as the bias of ``_Weights``.
    places = [1] * (last.weight.ndim - 2)
    total = values.astype(last.weight.dtype).reshape(-1, *places)
    if last.bias is not None:  # a sum of several biases
        total = last.bias + total
    with_bias = dataclasses.replace(last, bias=total)
    return signal._replace(functions=(*before, with_bias))


def after_factor(factor: weights.Factor, signal: Signal) -> Signal:
    """Multiply the last weights, or a sum of a window to the average, or add a scale."""
    values = signal.in_nir(np.asarray(factor.factor))
    *before, last = signal.functions or [None]
    if type(last) is SumPool and last.is_average(values):
        average = AvgPool(last.window, last.stride, last.padding)
        return signal._replace(functions=(*before, average))
    return signal._replace(functions=tuple(scaled(signal.functions, values)))


def after_product(product: weights.Product, signal: Signal) -> Signal:
    columns = _floats(np.asarray(product.weight).T)  # (outputs, inputs), as in NIR
    # Columns in the order of the function move to the order of NIR. Numbers that a slice leaves out
    # keep columns of zeros.
    inputs = math.prod(signal.shape)
    weight = np.zeros((len(columns), inputs), columns.dtype)
    weight[:, signal.places.ravel()] = columns
    functions = signal.functions
    if len(signal.shape) > 1:  # a matrix of NIR reads a vector
        functions = *functions, Flatten()
    functions = *functions, Linear(weight, None)
    # The result is a vector in NIR, whatever shape the function gives it.
    size = math.prod(product.shape)
    places = np.arange(size).reshape(product.shape)
    return Signal((size,), places, signal.dtype, functions)


def after_convolution(convolution: weights.Convolution, signal: Signal) -> Signal:
    if not signal.is_in_order(convolution.input_axes):
        raise AxisOrderError("a convolution of an array with its axes in another order")
    function = Conv(
        _floats(np.asarray(convolution.weight)),
        None,
        convolution.stride,
        _equal_sides(convolution.padding),
        convolution.dilation,
        convolution.groups,
    )
    return signal.then(function, convolution.output_axes)


def after_pooling(pooling: weights.SumPooling, signal: Signal) -> Signal:
    if len(signal.shape) != 3 or signal.places.ndim != 4:
        raise ValueError(
            "a sum of a window of other arrays than images. NIR has SumPool2d"
        )
    # NIR has channels first, and the user may have them first or last.
    orders = (0, 1, 2, 3), (0, 3, 1, 2)
    axes = next(filter(signal.is_in_order, orders), None)
    if axes is None or any(pooling.window[axis] != 1 for axis in axes[:2]):
        raise AxisOrderError("a sum of a window over channels or examples")
    places = axes[2:]
    window = tuple(pooling.window[axis] for axis in places)
    stride = tuple(pooling.stride[axis] for axis in places)
    padding = tuple(pooling.padding[axis] for axis in places)
    function = SumPool(window, stride, _equal_sides(padding))
    return signal.then(function, axes)


def _equal_sides(padding: tuple[tuple[int, int], ...]) -> Shape:
    """Return the zeros on both sides of each axis, or raise if the sides differ."""
    # NIR pads both sides equally, as "SAME" does for kernels of odd sizes.
    if any(low != high for low, high in padding):
        raise ValueError(f"a padding of {padding}")
    return tuple(low for low, _ in padding)


def _floats(values: Array) -> Array:
    """Return a copy in a dtype of HDF5, which lacks bfloat16."""
    return np.array(values, np.promote_types(values.dtype, np.float32), order="C")


def after_maximum(pooling: weights.MaxPooling, signal: Signal) -> Signal:
    raise ValueError("a maximum of a window")


AFTER: dict[type[weights.Operation], Callable[[Any, Signal], Signal]] = {
    weights.Product: after_product,
    weights.Convolution: after_convolution,
    weights.SumPooling: after_pooling,
    weights.MaxPooling: after_maximum,
    weights.Factor: after_factor,
    weights.Bias: after_bias,
    weights.Rearrangement: after_rearrangement,
}
"""For each operation of a function of the user, the signal after it, or the reason against it."""


def after_function(function: Callable[..., Array], *signals: Signal) -> Signal:
    """Return the output of a function of the user, which adds its arguments once each."""
    examples = [
        jax.ShapeDtypeStruct(signal.places.shape, signal.dtype) for signal in signals
    ]
    value = weights.read_function(function, *examples)
    if any(term.operations for term in value.terms):
        raise ValueError("a concatenation")
    first, *others = signals
    if not all(map(first.is_like, others)):
        raise ValueError("a sum of arrays with their axes in several orders")
    signal = first._replace(functions=())
    for operation in value.operations:
        takes_slices = isinstance(operation, (weights.Rearrangement, weights.Product))
        if signal.is_slice and not takes_slices:
            break
        signal = AFTER[type(operation)](operation, signal)
    if signal.is_slice:
        raise ValueError("a slice that no product follows")
    return signal._replace(dtype=value.dtype)


# --- neurons --------------------------------------------------------------------------------------


class Membrane(NamedTuple):
    """Neurons of NIR with a potential."""

    node: Node
    tau: str = ""
    """The name of the membrane's time constant. Empty: the membrane does not leak."""
    has_synapse: bool = False
    fires: bool = False

    def read(
        self, nodes: list[Node], shape: Shape, time: Time, surrogate: Surrogate
    ) -> tuple[Cell, Array]:
        """Return the cell, and the factor of its input that the weights get.

        A second node is the threshold of neurons that do not fire themselves.
        """
        node, *thresholds = nodes

        def values(name: str) -> Array:
            return numbers(node, name, shape)

        gain = values("r")
        v_leak = np.zeros(shape)
        fields: dict[str, Any] = {"decay": 1.0}
        if self.tau:
            # Potentials of cells are relative to the potential at rest.
            v_leak = values("v_leak")
            decay = time.decay(values(self.tau))
            fields["decay"] = _field(decay)
            # v_t = beta v_{t-1} + (1 - beta) r x_t: with r = 1, the cell has the factor 1 - beta
            # itself, and its weights keep the numbers of the file.
            fields["norm_input"] = bool((gain == 1).all())
            if not fields["norm_input"]:
                gain = gain * (1 - decay)
        else:
            # An ``I`` or ``IF`` integrates R times the current over time, so one step adds R dt.
            gain = gain * time.dt
        if self.has_synapse:
            decay = time.decay(values("tau_syn"))
            fields["synaptic_decay"] = _field(decay)
            gain = gain * values("w_in") * (1 - decay)
        if self.fires:
            threshold = values("v_threshold")
            fields["reset"] = "value"
            fields["reset_value"] = _field(values("v_reset") - v_leak)
        # A Threshold of its own resets nothing.
        elif thresholds:
            threshold = numbers(thresholds[0], "threshold", shape)
            fields["reset"] = "none"
        # The output is the potential itself, so it cannot be relative to v_leak.
        elif v_leak.any() or self.has_synapse:
            raise ValueError(
                "neurons without a Threshold output their potential, so v_leak must be 0 and a "
                "synapse is not supported. Add a Threshold"
            )
        else:
            return LeakyReadout(**fields), gain
        fields["threshold"] = _above(threshold - v_leak)
        cell = SynapticLIF if self.has_synapse else LIF
        return cell(surrogate=surrogate, **fields), gain

    def write(
        self, cell: Any, values: Callable[[str], Array], time: Time, **fields: Array
    ) -> Node:
        """Return the node of a cell. ``values`` has the parameters in NIR's order."""
        decay = values("decay")
        if self.tau:
            fields[self.tau], r = time.tau("decay", decay)
            fields["v_leak"] = np.zeros_like(decay)
            fields["r"] = np.ones_like(decay) if cell.norm_input else r
        elif cell.norm_input:
            raise ValueError(
                "decay must be below 1 with norm_input, or the input is scaled to 0"
            )
        else:
            # Without a leak, NIR adds r dt x in a step, and the cell adds x.
            fields["r"] = np.full_like(decay, 1 / time.dt)
        if self.has_synapse:
            name = "synaptic_decay"
            fields["tau_syn"], fields["w_in"] = time.tau(name, values(name))
        return self.node(**fields)


def read_threshold(
    nodes: list[Node], shape: Shape, time: Time, surrogate: Surrogate
) -> tuple[Cell, Array]:
    """Read neurons without a state."""
    threshold = _above(numbers(nodes[0], "threshold", shape))
    return LIF(0.0, threshold, surrogate, "none"), np.ones(shape)


MEMBRANES = (
    Membrane(nir.LIF, "tau", fires=True),
    Membrane(nir.IF, fires=True),
    Membrane(nir.CubaLIF, "tau_mem", has_synapse=True, fires=True),
    Membrane(nir.LI, "tau"),
    Membrane(nir.I),
    Membrane(nir.CubaLI, "tau_mem", has_synapse=True),
)
WITHOUT_SPIKES = nir.LI, nir.I, nir.CubaLI
NEURONS: dict[type, Callable[..., tuple[Cell, Array]]] = {
    **{membrane.node: membrane.read for membrane in MEMBRANES},
    nir.Threshold: read_threshold,
}
"""The functions that read neurons."""


def kind_of(cell: Any) -> str:
    """Return the kind of node of a cell, or raise if NIR has none."""
    # Each class states its node for itself, because a subclass may have other equations.
    kind = vars(type(cell)).get("nir_node")
    if kind is None:
        raise ValueError("not supported by NIR. Train with LIF or SynapticLIF")
    if kind != "LI":
        if spike_types(cell):
            raise ValueError(
                f"to_nir writes the threshold of a plain step, and surrogate is "
                f"{cell.surrogate!r}. Use surrogate={cell.surrogate.surrogate!r}"
            )
        if cell.reset == "subtract":
            raise ValueError(
                "NIR does not reset by subtraction. Train with reset='value'"
            )
        if cell.delay_reset:
            raise ValueError(
                "NIR does not reset a step late. Train with delay_reset=False"
            )
    return kind


def write_neurons(cell: Any, signal: Signal, time: Time) -> list[Node]:
    """Return the nodes of a cell for this current. The first node receives the current."""
    kind = kind_of(cell)
    fires = kind != "LI"
    has_synapse = kind == "CubaLIF"

    def values(name: str) -> Array:
        value = getattr(cell, name)
        # bounded parameters become arrays, and numbers keep their 64 bits
        value = value if isinstance(value, float) else jnp.asarray(value)
        return signal.in_nir(np.asarray(value, np.float64))

    decay = values("decay")
    # A readout without a memory outputs its current.
    if not fires and not decay.any():
        return []
    # NIR has no neurons that fire without a reset, so these are a membrane and a Threshold.
    resets = fires and cell.reset == "value"
    # CubaLIF has no counterpart without a leak.
    leaks = has_synapse or bool((decay != 1).any())

    def is_suitable(membrane: Membrane) -> bool:
        return (
            membrane.has_synapse == has_synapse
            and membrane.fires == resets
            and bool(membrane.tau) == leaks
        )

    membrane = next(filter(is_suitable, MEMBRANES))
    if not fires:
        return [membrane.write(cell, values, time)]
    threshold = next_number(values("threshold"), signal.dtype, -np.inf)
    if not membrane.fires:
        return [membrane.write(cell, values, time), nir.Threshold(threshold)]
    reset = values("reset_value")
    return [membrane.write(cell, values, time, v_threshold=threshold, v_reset=reset)]


def next_number(threshold: Array, dtype: np.dtype, towards: float) -> Array:
    """Return the next number. NIR fires above a threshold, and a cell fires at its threshold."""
    # v > theta of NIR is v >= the next number above theta. A file in float32 keeps the difference.
    kind = np.promote_types(dtype, np.float32)
    return np.nextafter(threshold.astype(kind), towards)


def _above(threshold: Array) -> float | Array:
    return _field(next_number(threshold, jnp.result_type(float), np.inf))


def _field(values: Array) -> float | Array:
    """Return one number if all neurons have equal values, or else an array."""
    # A number is a constant of the network, and an array would get gradients.
    if (values == values.flat[0]).all():
        return float(values.flat[0])
    return jnp.asarray(values, jnp.result_type(float))
