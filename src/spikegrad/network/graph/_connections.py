"""Edges between layers: plain, delayed or with a window of outputs; and joins of outputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ..._checks import brief, is_float
from ..._pytree import PyTree, as_static, is_array
from ..._struct import Struct, parameter, wiring

T = TypeVar("T")
Linear: TypeAlias = ArrayLike | Callable[[jax.Array], jax.Array]
Name: TypeAlias = str
"""The name of a layer, join or input. The layers of a list have their places for names."""
Weight: TypeAlias = Any
"""The weight of one source: a matrix, a function, a :class:`Delayed` or a :class:`Window`."""
Read: TypeAlias = Any
"""The outputs of a source that an edge reads: an array, or a tuple of arrays for a window."""
Reads: TypeAlias = dict[str, Read]
"""The reads of a node, by the labels of its edges."""
NamedArrays: TypeAlias = dict[Name, jax.Array]
"""An array for each source, by name: inputs, outputs, pasts or their cotangents."""
NamedTrees: TypeAlias = dict[Name, PyTree]
"""A pytree for each node, by name. The state before a spike may have several arrays."""


class Delayed(Struct):
    r"""A weight with a delay: it multiplies the output of the source ``delay`` time steps earlier.

    The current is :math:`W\, s_{t-d}`, with the output :math:`s` of the source. Pass a ``Delayed``
    object as ``weight`` or ``recurrent`` of a :class:`Layer`.

    Parameters
    ----------
    weight : array or callable
        The weight :math:`W`: a matrix ``(inputs, neurons)``, or a function, as in :class:`Layer`.
    delay : int
        The delay :math:`d` in time steps, an integer of at least 1. The argument ``recurrent`` of a
        layer has a delay of 1 without ``Delayed``.

    Raises
    ------
    TypeError, ValueError
        If ``delay`` is not an integer of at least 1, or if ``weight`` is neither a matrix nor a
        function.

    Notes
    -----
    Outputs before the first time step are zeros. Time steps with a False mask are skipped: they do
    not count for the delay.

    Examples
    --------
    A recurrent layer with a delay of three steps:

    >>> import jax.numpy as jnp
    >>> from spikegrad import Delayed, LIF, Layer, Network
    >>> network = Network([
    ...     Layer(jnp.full((1, 2), 2.0), LIF(0.5), recurrent=Delayed(jnp.eye(2), 3))
    ... ])
    >>> states, spikes = network(jnp.zeros((5, 1, 1)).at[0].set(1.0))
    >>> spikes[:, 0, 0]
    Array([1., 0., 0., 1., 0.], dtype=float32)
    """

    weight: Linear = parameter(kind=object)
    delay: int = parameter(integer=True, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("Delayed", "weight", self.weight)
        object.__setattr__(self, "weight", as_static(self.weight))


class Window(Struct):
    r"""A weight that reads the outputs of its source in several successive time steps.

    The current is :math:`\sum_{k<K} M_k\, s_{t-d-k}`, with the output :math:`s` of the source. So
    :math:`M_0` multiplies the latest output, and :math:`M_{K-1}` the oldest. Use it for delays of
    single synapses, filters and convolutions over time. Pass a ``Window`` object as ``weight`` or
    ``recurrent`` of a :class:`Layer`.

    Parameters
    ----------
    weight : array or callable
        An array :math:`M` of shape ``(K, inputs, neurons)``, or a function. The function gets the
        last ``K`` outputs, an array ``(K, batch, ...)``, and returns the current, ``(batch, ...)``.
        On the first axis, the latest output is first. For delays that are learned, pass a
        :class:`~spikegrad.network.DelayKernel`.
    length : int, optional
        The number :math:`K` of outputs, an integer of at least 1. A function needs it. For an
        array, leave it out: it is the length of the first axis.
    delay : int, default 0
        The delay :math:`d` of the latest output that is read, in time steps, an integer of at least
        0. As ``recurrent``, it must be at least 1.

    Raises
    ------
    TypeError, ValueError
        If an array does not have three axes, or if ``length`` is missing, below 1 or different from
        the array.

    Notes
    -----
    Outputs before the first time step are zeros. Time steps with a False mask are skipped: they do
    not count for the delays.

    Examples
    --------
    Each neuron reads the sum of the last three inputs:

    >>> import jax.numpy as jnp
    >>> from spikegrad import Layer, LeakyReadout, Network, Window
    >>> layer = Layer(Window(jnp.ones((3, 1, 1))), LeakyReadout(0.0))
    >>> states, sums = Network({"sum": layer})(jnp.arange(5.0).reshape(5, 1, 1))
    >>> sums[:, 0, 0]
    Array([0., 1., 3., 6., 9.], dtype=float32)
    """

    weight: Linear = parameter(kind=object)
    length: int | None = wiring(None)
    delay: int = parameter(default=0, integer=True, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        # A function has no shape. The first axis of an array has the lags.
        shape = _shape_of(self.weight)
        is_valid = callable(self.weight) if shape is None else len(shape) == 3
        if not is_valid:
            raise TypeError(
                "Window: weight must be callable or of shape (length, inputs, neurons), got "
                f"{brief(self.weight)}"
            )
        # After ``dataclasses.replace`` the length of the array is passed too, so an equal one is
        # right.
        length = self.length if shape is None else shape[0]
        is_count = isinstance(length, int) and length >= 1
        if not is_count or self.length not in (None, length):
            raise ValueError(
                "Window: length must be an integer >= 1 for a function, and the length of an "
                f"array or None for an array, got {self.length}"
            )
        if is_array(self.weight):
            check_real("Window", "weight", self.weight)
        object.__setattr__(self, "length", length)
        object.__setattr__(self, "weight", as_static(self.weight))


class Join(Struct):
    """A node of a network without neurons: it combines the outputs of other nodes in the same time
    step.

    For example, a join adds two layers (a residual connection), multiplies them (a gate), or
    concatenates them. Put it into the mapping of a :class:`Network`, like a :class:`Layer`. Other
    layers then read it by its name.

    Parameters
    ----------
    function : callable
        A function with one argument for each source, an array ``(batch, ...)``. It returns one
        array with the examples on the first axis. Arrays that it closes over get gradients.
    of : sequence of str
        The names of the sources (layers, joins or inputs), in the order of the arguments of
        ``function``.
    over_time : bool, default False
        If False, the function is called for each time step. If True, it is called once for the
        complete sequence, with arrays ``(steps, batch, ...)``, for example for a normalization over
        time. It returns one array ``(steps, batch, ...)``, or a pair of this array and a pytree of
        statistics. The network returns the statistics in its states. If the call of the network has
        a mask, the function gets it as ``mask=``, of shape ``(steps, batch)``.

    Raises
    ------
    TypeError
        If ``function`` is not a function, or if ``of`` is empty.

    Notes
    -----
    A join with ``over_time=True`` needs all time steps at once. So a network with it has no
    :meth:`Network.step`, and the join cannot be part of a loop of layers. The backward pass
    computes the join again, so it stores no arrays of the join.

    Examples
    --------
    >>> from spikegrad import Join
    >>> residual = Join(
    ...     lambda identity, branch: identity + branch, of=("stem", "branch")
    ... )
    >>> # IAND
    >>> gate = Join(
    ...     lambda identity, branch: identity * (1 - branch), of=("stem", "branch")
    ... )
    """

    function: Callable = parameter(kind=object)
    of: Sequence[str] = wiring()
    over_time: bool = wiring(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise TypeError(
                f"Join: function must be callable, got {brief(self.function)}"
            )
        object.__setattr__(self, "of", as_names(self.of))
        if not self.of:
            raise TypeError("Join: of must name one or more sources")
        object.__setattr__(self, "function", as_static(self.function))


class Edge(NamedTuple):
    """A connection from a source to a node."""

    label: str
    """Names the weight within its layer."""
    source: Name
    lags: tuple[int, ...]
    """The delay of each output, in steps. 0 is this step."""
    windowed: bool = False
    """If True, the weight is a function of several outputs, a tuple of arrays."""

    def read(self, read_lag: Callable[[int], jax.Array]) -> Read:
        """Read each lag by ``read_lag(lag)``. Return a tuple for a window, else one array."""
        reads = tuple(map(read_lag, self.lags))
        return reads if self.windowed else reads[0]


def reads_of(edges: Iterable[Edge], read: Callable[[Name, int], jax.Array]) -> Reads:
    """Return the reads of edges, by label. ``read(source, lag)`` returns an output."""
    reads = {}
    for edge in edges:
        read_lag = functools.partial(read, edge.source)
        reads[edge.label] = edge.read(read_lag)
    return reads


def as_names(names: Name | Iterable[Name]) -> tuple[Name, ...]:
    """Return one name or several as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def select(by_name: Mapping[Name, T], names: Iterable[Name]) -> dict[Name, T]:
    """Return the entries with these names."""
    return {name: by_name[name] for name in names}


def edges_of(label: str, source: Name, weight: Weight) -> list[Edge]:
    """The edges of a weight."""
    if isinstance(weight, Delayed):
        return [Edge(label, source, (weight.delay,))]
    if not isinstance(weight, Window):
        return [Edge(label, source, (0,))]
    # The latest output first, as the first axis of the weight.
    lags = range(weight.delay, weight.delay + (weight.length or 0))
    if _shape_of(weight.weight) is None:
        return [Edge(label, source, tuple(lags), windowed=True)]
    # One edge per lag. All modes add the products in this order, and long delays do not wait for a
    # loop.
    return [Edge(f"{label}[{k}]", source, (lag,)) for k, lag in enumerate(lags)]


def depths_of(edges: Iterable[Edge], layers: Collection[Name]) -> dict[Name, int]:
    """Return the number of past outputs that edges need, for each source that needs more than a
    layer's last one.
    """
    deepest: dict[Name, int] = {}
    for edge in edges:
        depth = deepest.get(edge.source, 0)
        deepest[edge.source] = max(depth, *edge.lags)
    # A layer has its last output in its state anyway. Joins and inputs have no state, so even
    # a delay of 1 needs a past.
    depths_in_state = dict.fromkeys(layers, 1)
    return {
        name: depth
        for name, depth in deepest.items()
        if depth > depths_in_state.get(name, 0)
    }


def inner_of(weight: Weight) -> Any:
    """Return the matrix or function of a weight, without its delays."""
    return weight.weight if isinstance(weight, (Delayed, Window)) else weight


def with_inner(weight: Weight, inner: Any) -> Weight:
    """Return a weight with another matrix or function, and with the delays that it has."""
    is_delayed = isinstance(weight, (Delayed, Window))
    return dataclasses.replace(weight, weight=inner) if is_delayed else inner


def function_of(weight: Weight) -> Callable | None:
    """Return the function of a weight, or None for a matrix."""
    inner = inner_of(weight)
    # A variable of a framework is an array, although it is callable.
    is_function = callable(inner) and not hasattr(inner, "__jax_array__")
    return inner if is_function else None


def weights_of(label: str, weight: Weight) -> dict[str, Weight]:
    """The weights of these edges, by label."""
    inner = inner_of(weight)
    # The labels are those of edges_of: one for each lag of a window of matrices.
    matrices = matrix_of(inner) if isinstance(weight, Window) else None
    if matrices is None:
        return {label: inner}
    return {f"{label}[{k}]": matrix for k, matrix in enumerate(jnp.asarray(matrices))}


def matrix_of(weight: Weight) -> Any:
    """Return the array of a weight, or None.

    A variable of a framework is an array, although it is callable.
    """
    if isinstance(weight, (jax.Array, np.ndarray)):
        return weight
    return weight.__jax_array__() if hasattr(weight, "__jax_array__") else None


def _shape_of(weight: Weight) -> tuple[int, ...] | None:
    """Return the shape of a matrix or of a window of matrices, or None for a function."""
    # The shape of a kernel of delays does not compute it.
    is_known = hasattr(weight, "__jax_array__") and hasattr(weight, "shape")
    matrix = weight if is_known else matrix_of(weight)
    return None if matrix is None else matrix.shape


def check_weight(owner: str, name: str, value: Weight) -> None:
    """Raise if a weight is neither a matrix nor callable."""
    matrix = matrix_of(value)
    # The third axis has the receptors of a neuron.
    is_valid = callable(value) if matrix is None else matrix.ndim in (2, 3)
    if not is_valid:
        raise TypeError(
            f"{owner}: {name} must be a matrix or callable, got {brief(value)}"
        )
    if matrix is not None:
        check_real(owner, name, matrix)


def check_real(owner: str, name: str, array: jax.Array | np.ndarray) -> None:
    """Raise if an array is complex. A conversion to a real dtype would drop its imaginary part."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(
            f"{owner}: {name} must be real, got {array.dtype}; pass real and imaginary parts as "
            "separate arrays"
        )


def product(weight: Weight, x: Read, name: str) -> jax.Array:
    """Multiply a weight by its inputs, an array or a tuple of arrays."""
    # x: (batch, ...), or for a window a tuple of these, stacked to (lags, batch, ...).
    step = x
    if isinstance(x, tuple):
        step = x[0]
        x = jnp.stack(x)
    matrix = matrix_of(weight)
    if matrix is None:
        try:
            out = weight(x)
        except (TypeError, ValueError) as error:
            if "dtype" in str(error):
                error.add_note(
                    f"{name} takes its inputs as they are, here {x.dtype}; convert them in the "
                    "function, as x.astype(float)"
                )
                raise
            error.add_note(
                f"{name} takes all examples of a step, here {x.shape}; for a function of one "
                f"example pass jax.vmap({name}), for a module of Equinox eqx.filter_vmap({name})"
            )
            raise
        if not (isinstance(out, jax.Array) and is_float(out)):
            raise TypeError(
                f"Layer: {name} must return one array of floats, got "
                f"{getattr(out, 'dtype', type(out).__name__)} from {brief(weight)}"
            )
        has_examples = step.ndim > 1
        if has_examples and out.shape[:1] != step.shape[:1]:
            raise ValueError(
                f"Layer: {name} must return a row for each of {len(step)} examples, got shape "
                f"{out.shape} for an input of shape {x.shape}; for a function of one example "
                f"pass jax.vmap({name})"
            )
        return out
    if x.shape[-1:] != matrix.shape[:1]:
        raise ValueError(
            f"Layer: {name} of shape {matrix.shape} does not take an input of shape {x.shape}"
        )
    check_real("Layer", f"the input of {name}", x)
    matrix = jnp.asarray(matrix)
    if not is_float(matrix):
        dtype = x.dtype if is_float(x) else jnp.result_type(float)
        matrix = matrix.astype(dtype)
    # ``dot_general`` does not promote, so x takes the dtype of the matrix.
    x = x.astype(matrix.dtype)
    # (..., inputs) and (inputs, neurons) -> (..., neurons). Leading axes stay apart, since devices
    # may share one of them.
    summed_axes = (x.ndim - 1,), (0,)
    batch_axes = (), ()
    return jax.lax.dot_general(x, matrix, (summed_axes, batch_axes))
