"""The nodes of NIR. Each class reads a node as a part of a network, and writes the part as a node.

Another node needs a class here and its entry in ``OPERATIONS`` or ``MEMBRANES``. If an equation of
JAX gives an operation, it also needs an entry in ``PRIMITIVES``.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import nir
import numpy as np

from .._compat import bind
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
Equation: TypeAlias = Any
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
        self.dt, self.discretization = float(dt), discretization

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
        if not ((decay < 1) & ((decay > 0) | is_euler)).all():
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
        return weight, bias.reshape(-1, *[1] * (weight.ndim - 2))


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


class Convolution(_Weights, pure=True):
    """``nir.Conv1d`` and ``nir.Conv2d``."""

    stride: Shape = wiring()
    padding: tuple[tuple[int, int], ...] | str = wiring()
    dilation: Shape = wiring()
    groups: int = wiring()

    def __call__(self, x: Array) -> Array:
        out = jax.lax.conv_general_dilated(
            x.astype(self.weight.dtype),
            self.weight,
            self.stride,
            self.padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
        )
        return self.plus_bias(out)

    @classmethod
    def read(cls, node: Node, shape: Shape) -> Convolution:
        weight, bias = cls.read_arrays(node)

        # Files have one number for all axes, or one for each.
        def of_axes(value: Array) -> Shape:
            return tuple(np.broadcast_to(value, weight.ndim - 2).tolist())

        if isinstance(node.padding, str):
            padding = node.padding.upper()
        else:
            padding = tuple((n, n) for n in of_axes(node.padding))
        stride, dilation = of_axes(node.stride), of_axes(node.dilation)
        return cls(weight, bias, stride, padding, dilation, int(node.groups))

    def write(self, shape: Shape) -> Node:
        # Numbers, because a function to write is traced. Only files say "same".
        padding = tuple(low for low, _ in self.padding)
        bias = np.zeros(len(self.weight), self.weight.dtype)
        if self.bias is not None:
            bias = self.bias.reshape(-1)
        kind: Node = nir.Conv2d
        axes: list[Any] = [shape[1:], self.stride, padding, self.dilation]
        # Conv1d has numbers where Conv2d has pairs.
        if len(shape) == 2:
            kind, axes = nir.Conv1d, [values[0] for values in axes]
        size, stride, padding, dilation = axes
        node = kind(size, self.weight, stride, padding, dilation, self.groups, bias)
        # nir infers wrong types for groups and for kernels that are not square
        node.input_type = {"input": np.array(shape)}
        node.output_type = {"output": np.array(output_shape(self, shape))}
        return node


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
    nir.Conv1d: Convolution,
    nir.Conv2d: Convolution,
    nir.Scale: Scale,
    nir.Flatten: Flatten,
}


def output_shape(function: Operation, shape: Shape) -> Shape:
    """Return the shape of one example after a function.

    JAX checks strides, groups and paddings here.
    """
    example = jax.ShapeDtypeStruct((1, *shape), jnp.result_type(float))
    return jax.eval_shape(operator.call, function, example).shape[1:]


def scaled(functions: Sequence[Operation], factor: Array) -> list[Operation]:
    """Multiply the output: in the last weights if possible, or else by another function."""
    # A factor of 1 leaves no trace, so a network comes back in its form.
    if (factor.astype(jnp.result_type(float)) == 1).all():
        return [*functions]
    *before, last = functions or [None]
    rows = per_channel(factor, len(last.weight)) if isinstance(last, _Weights) else None
    if rows is None:
        return [*functions, Scale(factor)]

    def times(values: Array) -> Array:
        return (values * rows.reshape(-1, *[1] * (values.ndim - 1))).astype(
            values.dtype
        )

    return [*before, jax.tree.map(times, last)]


def per_channel(values: Array, channels: int) -> Array | None:
    """Return one number for each channel, the first axis, or None if a channel has several."""
    rows = values.reshape(channels, -1)
    return rows[:, 0] if (rows == rows[:, :1]).all() else None


def delay_of(node: Node, dt: float) -> int:
    """Return the time steps of a ``nir.Delay``."""
    # A network delays a source as a whole.
    delays = np.unique(numbers(node, "delay"))
    if len(delays) != 1:
        raise ValueError(f"delay must be one number for all, got {delays}")
    steps = delays[0] / dt
    # Seconds are rounded in float32, or by a product with dt.
    if abs(steps - round(steps)) > 1e-6 * max(1.0, steps):
        raise ValueError(f"delay must be a multiple of {dt=}, got {delays[0]}")
    return round(steps)


# --- the equations of JAX that give operations ----------------------------------------------------


class AxisOrderError(ValueError):
    """The axes of an input have another order."""


class Signal(NamedTuple):
    """An array that depends on the inputs of a function, as the output of operations.

    The function is traced with one example. Its arrays may have the numbers of NIR's array in
    another order, such as channels last, and ``places`` keeps track of them.
    """

    shape: Shape
    """The shape of one example in NIR."""
    places: Array
    """The position in NIR's array, for each number of the array in the function."""
    dtype: np.dtype
    functions: tuple[Operation, ...] = ()
    sources: tuple[int, ...] = (0,)
    """The arguments of the function that the signal adds up."""

    def in_nir(self, values: Array) -> Array:
        """Return values of the array, or one number for all, in NIR's order and shape."""
        values = np.broadcast_to(values, self.places.shape)
        ordered = np.empty(self.places.size, values.dtype)
        ordered[self.places.ravel()] = values.ravel()
        return ordered.reshape(self.shape)

    def is_like(self, other: Signal) -> bool:
        return self.shape == other.shape and np.array_equal(self.places, other.places)


def trace_copy(equation: Equation, operands: list, signal: Signal) -> Signal:
    return signal._replace(dtype=equation.outvars[0].aval.dtype)


def trace_move(equation: Equation, operands: list, signal: Signal) -> Signal:
    """Move the numbers. No node is needed, because weights and parameters move to NIR's order."""
    # The equation moves the places as it moves the numbers.
    (places,) = map(
        np.asarray, bind(equation, [jnp.asarray(signal.places), *operands[1:]])
    )
    if places.size != signal.places.size:
        raise ValueError(f"{equation.primitive.name} to another number of values")
    return signal._replace(places=places)


def trace_sum(equation: Equation, operands: list, signal: Signal) -> Signal:
    """Add a bias to the last weights, or add several arguments of a join."""
    left, right = operands
    name = equation.primitive.name
    # Only a join may add two signals, and only unchanged ones.
    if isinstance(left, Signal) and isinstance(right, Signal):
        if (
            name == "sub"
            or left.functions
            or right.functions
            or not left.is_like(right)
        ):
            raise ValueError(f"{name} of two values that depend on the inputs")
        return left._replace(sources=left.sources + right.sources)
    # The signal would need the factor -1.
    if name == "sub" and right is signal:
        raise ValueError("a difference from a constant")
    bias = np.asarray(right if left is signal else left)
    if not signal.functions and not bias.any():
        return signal  # Python's sum starts at 0
    *before, last = signal.functions or [None]
    if not isinstance(last, _Weights):
        raise ValueError("a sum without a product before it")
    # A convolution in NIR has one bias for each channel.
    bias = per_channel(
        signal.in_nir(-bias if name == "sub" else bias), len(last.weight)
    )
    if bias is None:
        raise ValueError("a bias that differs within a channel")
    bias = bias.astype(last.weight.dtype).reshape(-1, *[1] * (last.weight.ndim - 2))
    bias = bias if last.bias is None else last.bias + bias
    return signal._replace(functions=(*before, dataclasses.replace(last, bias=bias)))


def trace_product(equation: Equation, operands: list, signal: Signal) -> Signal:
    # Axes of the batch have one example, or they would be missing in the sum.
    axes, _ = equation.params["dimension_numbers"]
    place = int(operands[1] is signal)
    summed, rows = axes[place], axes[1 - place]
    size = signal.places.size
    if math.prod(signal.places.shape[axis] for axis in summed) != size:
        raise ValueError("a product along some of the axes of an example")
    # The rows of the matrix follow the axes of the signal, and then NIR's order.
    rows = [row for _, row in sorted(zip(summed, rows, strict=True))]
    matrix = np.moveaxis(np.asarray(operands[1 - place]), rows, range(len(rows)))
    weight = _floats(matrix.reshape(size, -1).T)
    # Columns in the order of the function move to the order of NIR. The copy is needed, because
    # both sides overlap.
    weight[:, signal.places.ravel()] = weight.copy()
    flatten = [Flatten()] if len(signal.shape) > 1 else []
    functions = (*signal.functions, *flatten, Linear(weight, None))
    out = equation.outvars[0].aval
    places = np.arange(out.size).reshape(out.shape)
    return Signal((out.size,), places, out.dtype, functions, signal.sources)


def trace_convolution(equation: Equation, operands: list, signal: Signal) -> Signal:
    params, out = equation.params, equation.outvars[0].aval
    images, kernels, outputs = params["dimension_numbers"]
    if len(images) > 4 or set(params["lhs_dilation"]) != {1}:
        raise ValueError(
            "a convolution of three dimensions or a transposed convolution"
        )
    # The axes of any layout in the order of NIR: examples, channels, places.
    places = signal.places.transpose(images)[0]
    if not np.array_equal(places, np.arange(places.size).reshape(signal.shape)):
        raise AxisOrderError("a convolution of an array with its axes in another order")
    weight = _floats(np.asarray(operands[1]).transpose(kernels))
    # NIR pads both sides equally, as "SAME" does for kernels of odd sizes.
    if any(low != high for low, high in params["padding"]):
        raise ValueError(f"a padding of {params['padding']}")
    convolution = Convolution(
        weight,
        None,
        params["window_strides"],
        params["padding"],
        params["rhs_dilation"],
        params["feature_group_count"],
    )
    shape = tuple(out.shape[axis] for axis in outputs[1:])
    # The function continues in its own layout.
    places = np.arange(out.size).reshape(1, *shape).transpose(np.argsort(outputs))
    functions = (*signal.functions, convolution)
    return Signal(shape, places, out.dtype, functions, signal.sources)


def _floats(values: Array) -> Array:
    """Return a copy in a dtype of HDF5, which lacks bfloat16."""
    return np.array(values, np.promote_types(values.dtype, np.float32), order="C")


PRIMITIVES: dict[str, Callable[[Equation, list, Signal], Signal]] = {
    "dot_general": trace_product,
    "conv_general_dilated": trace_convolution,
    **dict.fromkeys(("add", "add_any", "sub"), trace_sum),
    **dict.fromkeys(("convert_element_type", "copy", "copy_p"), trace_copy),
    **dict.fromkeys(
        ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose"),
        trace_move,
    ),
}

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

        gain, v_leak = values("r"), np.zeros(shape)
        fields: dict[str, Any] = {"decay": 1.0}
        # Potentials of cells are relative to the potential at rest.
        if self.tau:
            v_leak, decay = values("v_leak"), time.decay(values(self.tau))
            fields["decay"] = _field(decay)
            fields["norm_input"] = bool((gain == 1).all())
            gain = gain if fields["norm_input"] else gain * (1 - decay)
        else:
            # An ``I`` or ``IF`` integrates R times the current over time, so one step adds R dt.
            gain = gain * time.dt
        if self.has_synapse:
            decay = time.decay(values("tau_syn"))
            fields["synaptic_decay"] = _field(decay)
            gain = gain * values("w_in") * (1 - decay)
        if self.fires:
            threshold, fields["reset"] = values("v_threshold"), "value"
            fields["reset_value"] = _field(values("v_reset") - v_leak)
        elif thresholds:
            threshold = numbers(thresholds[0], "threshold", shape)
            fields["reset"] = "none"
        # The output is the potential itself, so it cannot be relative to v_leak.
        elif v_leak.any() or self.has_synapse:
            raise ValueError(
                "neurons without a Threshold output their potential, so v_leak must be 0 and a "
                "synapse is not supported; add a Threshold"
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
        raise ValueError("not supported by NIR; train with LIF or SynapticLIF")
    if kind != "LI":
        if spike_types(cell):
            raise ValueError(
                f"to_nir writes the threshold of a plain step, and surrogate is "
                f"{cell.surrogate!r}; use surrogate={cell.surrogate.surrogate!r}"
            )
        if cell.reset == "subtract":
            raise ValueError(
                "NIR does not reset by subtraction; train with reset='value'"
            )
        if cell.delay_reset:
            raise ValueError(
                "NIR does not reset a step late; train with delay_reset=False"
            )
    return kind


def write_neurons(cell: Any, signal: Signal, time: Time) -> list[Node]:
    """Return the nodes of a cell for this current. The first node receives the current."""
    kind = kind_of(cell)
    fires, has_synapse = kind != "LI", kind == "CubaLIF"

    def values(name: str) -> Array:
        value = getattr(cell, name)
        # bounded parameters become arrays, and numbers keep their 64 bits
        value = value if isinstance(value, float) else jnp.asarray(value)
        return signal.in_nir(np.asarray(value, np.float64))

    decay = values("decay")
    # A readout without a memory outputs its current.
    if not fires and not decay.any():
        return []
    traits = has_synapse, fires and cell.reset == "value"
    # CubaLIF has no counterpart without a leak.
    leaks = has_synapse or bool((decay != 1).any())
    membrane = next(m for m in MEMBRANES if m[2:] == traits and bool(m.tau) == leaks)
    if not fires:
        return [membrane.write(cell, values, time)]
    threshold = next_number(values("threshold"), signal.dtype, -np.inf)
    if not membrane.fires:
        return [membrane.write(cell, values, time), nir.Threshold(threshold)]
    reset = values("reset_value")
    return [membrane.write(cell, values, time, v_threshold=threshold, v_reset=reset)]


def next_number(threshold: Array, dtype: np.dtype, towards: float) -> Array:
    """Return the next number. NIR fires above a threshold, and a cell fires at its threshold."""
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
