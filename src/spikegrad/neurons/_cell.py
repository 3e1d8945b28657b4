"""The base class of cells, and functions that several cells share."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from .._checks import brief, broadcast_checked, is_float, real_array
from .._pytree import is_array
from .._struct import Real, Struct, is_pure, parts_of
from .._surrogate import spike_types

Step: TypeAlias = Callable[..., tuple[Any, jax.Array]]
State: TypeAlias = Any
"""The state of neurons between two time steps: an array, or a tuple of arrays with the potential
first.
"""


class LinearResponse(NamedTuple):
    """The potential of a cell as a linear function of its inputs, as long as it does not spike.

    In each time step, the synaptic current is ``i = synaptic_decay * i + x`` with the input ``x``.
    The potential is ``u = decay * u + gain * i``. :meth:`~spikegrad.Cell.linear_response` returns
    this record, and the initialization of weights uses it.
    """

    decay: Real
    gain: Real
    synaptic_decay: Real = 0.0
    threshold: Real | None = None
    """The threshold, relative to the potential at rest, or None if the cell never fires."""


class Cell(Struct):
    """Base class of neuron models without weights, such as :class:`LIF`. Subclass it for a custom
    model.

    A cell computes one time step: it maps a state and an input current to a new state and an
    output. The *state* is the array, or the tuple of arrays, that neurons carry from one time step
    to the next, such as the potential.

    To define a cell, annotate its parameters (see :func:`parameter`), and define two methods.
    :meth:`integrate` computes the state before a spike: decay and input. :meth:`fire` computes the
    spike from this state, and the state after the reset. A :class:`Network` stores only the state
    before the spike for its backward pass, because the spike and the reset follow from it.

    Define these attributes and methods too if they apply to your cell:

    - ``state_names``, the names of the arrays, if the state is a tuple of arrays.
    - :meth:`initial_state`, if the state at rest is not zeros.
    - :meth:`encode` and :meth:`decode`, to store the state in 16 or 8 bits (the memory modes
      ``"half"`` and ``"8-bit"``).
    - :meth:`linear_response`, for the initialization of weights. Without it, the response of the
      potential to inputs is measured.
    - ``inner``, a property or a field with the wrapped cell, if your cell wraps another cell.
      Initialization, surrogate widths and diagnosis then use the parameters of the wrapped cell.
    - ``couples_examples``, if :meth:`fire` mixes the examples of a batch.
    - ``nir_node``, if the exchange format NIR has this neuron model.

    Examples
    --------
    A neuron with a cubic leak:

    >>> import jax.numpy as jnp
    >>> from spikegrad import Cell, Sigmoid, Surrogate, parameter
    >>> class Cubic(Cell):
    ...     pull: float = parameter(default=0.1, at_least=0)
    ...     surrogate: Surrogate = parameter(default=Sigmoid(), kind=Surrogate)
    ...
    ...     def integrate(self, v, current):
    ...         return v - self.pull * v * v * v + current
    ...
    ...     def fire(self, u, key=None):
    ...         s = self.surrogate(u - 1, key=key)
    ...         return u - s, s
    >>> v, s = Cubic(pull=0.5)(jnp.array([0.0, 1.0]), jnp.array([0.75, 0.75]))
    >>> v.tolist(), s.tolist()
    ([0.75, 0.25], [0.0, 1.0])
    """

    state_names: ClassVar[tuple[str, ...]] = ("potential",)
    """Names of the arrays of the state, in the order of the tuple."""
    inner: ClassVar[Any] = None
    """The wrapped cell of a wrapper, otherwise None."""
    couples_examples: ClassVar[bool] = False
    """If True, :meth:`fire` mixes the examples of a batch, as batch normalization does.

    The method then has one more argument, ``fire(u, key=None, mask=None)``. The mask has the shape
    ``(batch,)`` and is True for the examples that count. A network with a mask for each example
    runs this cell only with ``backward="scan"``.
    """
    nir_node: ClassVar[str | None] = None
    """The node of the exchange format NIR that equals this cell:

    ``"LI"``, ``"LIF"`` or ``"CubaLIF"``, or None without an equivalent.

    The class must have the fields of :class:`LeakyReadout`, :class:`LIF` or :class:`SynapticLIF`.
    Subclasses do not inherit this value, because another ``integrate`` or ``fire`` defines another
    neuron.
    """

    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike) -> State:
        """Return the state before the first time step, by default zeros for each of
        ``state_names``.

        Parameters
        ----------
        shape : tuple of int
            Shape of the input current of one time step, such as ``(batch, neurons)``.
        dtype : dtype
            Dtype of the state, the dtype of the current.
        """
        zeros = [jnp.zeros(shape, dtype) for _ in self.state_names]
        return tuple(zeros) if len(zeros) > 1 else zeros[0]

    def integrate(self, v: State, current: jax.Array) -> State:
        """Return the state before the spike: apply the decay and add the input.

        ``v`` is the state after the previous time step, and ``current`` the input of this time
        step, of the shape ``(batch, neurons)``.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no integrate")

    @property
    def draws(self) -> bool:
        """True if spikes are random, so ``fire`` needs a random key.

        By default, it is True if a surrogate in a field or in a wrapped cell is
        :func:`spikegrad.stochastic`. A class with other random numbers overrides it.
        """
        if getattr(self.inner, "draws", False):
            return True
        return any(kind.draws for kind in spike_types(self))

    def fire(self, u: State, key: jax.Array | None = None) -> tuple[State, jax.Array]:
        """Return the state after the reset and the output, from ``u``, the state before the spike.

        The output is 1 for a spike and 0 otherwise, of the shape ``(batch, neurons)``. Each neuron
        must be computed separately, unless ``couples_examples`` is True.

        If ``draws`` is True, pass ``key`` to the surrogate, ``surrogate(x, key=key)``. A network
        passes one key for each example. Otherwise the method gets no key, and you may define
        ``fire(self, u)``.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no fire")

    def encode(self, u: State) -> tuple[jax.Array | None, Any]:
        """Split the state before the spike for storage in 16 or 8 bits: the distance to the
        threshold, and all other values.

        Define this method and ``decode`` for the memory modes ``"half"`` and ``"8-bit"`` of a
        :class:`~spikegrad.Network`. Without them, these modes store the state in full precision.

        Parameters
        ----------
        u : array or tuple of array
            The state before the spike, as ``integrate`` returns it.

        Returns
        -------
        distance : array or None
            The potential minus the threshold. It must be negative if and only if the neuron does
            not spike, because its sign is stored exactly. Its magnitude is rounded: in 8 bits by at
            most 1/16 of it, or by 1/40,000 of the largest magnitude of an example. None for a cell
            that never spikes.
        rest : pytree of arrays
            All other values that :meth:`decode` needs. They are stored in 16 bits.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no encode")

    def decode(self, distance: Any, rest: Any) -> State:
        """Return the state before the spike from the results of :meth:`~spikegrad.Cell.encode`."""
        raise NotImplementedError(f"{type(self).__name__} defines no decode")

    def linear_response(self) -> LinearResponse:
        """Return how the potential responds to inputs while the cell does not spike.

        :func:`spikegrad.network.fluctuation_driven` computes initial weights from it. Define it,
        together with ``integrate``, if the potential is a linear function of past inputs between
        spikes. Otherwise leave it out.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no linear_response")

    def __call__(
        self, v: State, current: ArrayLike, *, key: jax.Array | None = None
    ) -> tuple[State, jax.Array]:
        """Run one time step: the new state and the output.

        Parameters
        ----------
        v : array_like or tuple of array_like
            State after the previous time step.
        current : array_like
            Input of this time step. It is cast to the dtype of the state, and must broadcast to its
            shape. For a cell with receptors, it has one more axis than the potential: ``(batch,
            neurons, receptors)``.
        key : array of jax.random.key, optional
            The random key of this time step, for :func:`spikegrad.stochastic` spikes.

        Returns
        -------
        v : jax.Array or tuple of jax.Array
            State after this time step.
        out : jax.Array
            Output of this time step: spikes, or the potential for a cell that never spikes.
        """
        owner = type(self).__name__
        current = as_current(current, owner, "current")
        v = as_state(self, v, current.shape, owner)
        u = self.integrate(v, _matching(self, v, current))
        return fire(self, u, key)


def fire(
    cell: Cell, u: State, key: jax.Array | None = None, active: jax.Array | None = None
) -> tuple[State, jax.Array]:
    """Return ``cell.fire(u)``, with the key of a cell that draws, and the mask of a cell that
    couples examples.
    """
    # A custom fire(self, u) takes neither.
    options = {}
    if key is not None and cell.draws:
        options["key"] = key
    # One bool for all examples does not couple them: such a step is masked for all or for none.
    has_mask = active is not None and jnp.ndim(active) > 0
    if cell.couples_examples and has_mask:
        options["mask"] = active
    return method(cell, "fire")(u, **options)


def method(cell: Cell, name: str) -> Callable:
    """Return a method of a cell. JAX traces it once for all equal cells if they are pure."""
    # An impure cell may read globals, which a compiled program would remember.
    call = _call_compiled if is_pure(cell) else _call
    return functools.partial(call, cell, name)


def _call(cell, name, *args, **options):
    return getattr(cell, name)(*args, **options)


_call_compiled = jax.jit(_call, static_argnums=1)


def as_current(current: ArrayLike, owner: str, name: str) -> jax.Array:
    """Convert inputs to a floating-point array. Lists are array_like too."""
    if isinstance(current, (list, tuple)):
        current = np.asarray(current)
    return real_array(current, owner, name)


def as_state(cell: Any, v: State, shape: tuple[int, ...], owner: str) -> State:
    """Convert ``v`` to arrays, real if the initial state is real.

    ``shape`` is the shape of the current.
    """
    leaves = jax.tree.leaves(v)
    if not leaves:
        raise TypeError(
            f"{owner}: v must be the state, an array or a tuple of arrays, got {brief(v)}"
        )

    def as_real(leaf: ArrayLike) -> jax.Array:
        return real_array(leaf, owner, "v")

    if not isinstance(cell, Cell):
        return jax.tree.map(as_real, v)
    # Without the initial state, which takes time, if the arrays are known to be as the cell needs
    # them.
    are_floats = all(isinstance(leaf, jax.Array) and is_float(leaf) for leaf in leaves)
    if are_floats and len(leaves) == len(cell.state_names):
        return jax.tree.map(as_real, v)
    # The slow path: lists, NumPy arrays, or a state of integers.
    like = _initial(cell, shape, jnp.result_type(float))
    v = tuple(v) if isinstance(v, list) else v
    if jax.tree.structure(like) != jax.tree.structure(v):
        raise _wrong_state(cell, owner, like, v)

    def as_initial(leaf: ArrayLike, initial: jax.Array) -> jax.Array:
        # Integers, such as a counter of steps, stay integers.
        return as_real(leaf) if is_float(initial) else jnp.asarray(leaf)

    return jax.tree.map(as_initial, v, like)


def _matching(cell: Cell, v: State, current: jax.Array) -> jax.Array:
    """Return the current in the dtype of the state and in a shape that fits the state."""
    leaves = jax.tree.leaves(v)
    # A state may begin with integers, such as a counter, and a current in their dtype would be
    # truncated.
    like = next(filter(is_float, leaves), leaves[0])
    if current.shape != like.shape:
        initial = jax.tree.leaves(_initial(cell, current.shape, like.dtype))
        # A cell that sums over receptors has currents of another shape than its potential. If its
        # initial state for this current fits the state, nothing is broadcast.
        needed = [leaf.shape for leaf in initial]
        if needed != [leaf.shape for leaf in leaves]:
            return broadcast_checked(
                current, like.dtype, like.shape, type(cell).__name__, "current", "v"
            )
    return current.astype(like.dtype)


def _initial(cell: Cell, shape: tuple[int, ...], dtype: DTypeLike) -> State:
    """Return the initial state as arrays. Creating it is faster than tracing its shapes."""
    return jax.tree.map(jnp.asarray, cell.initial_state(shape, dtype))


def check_initial(
    cell: Cell, v: State, current: jax.Array, key: jax.Array | None = None
) -> None:
    """Raise if a step does not take the initial state ``v``, or does not return a state like it."""
    owner = type(cell).__name__
    if not jax.tree.leaves(v):
        raise TypeError(
            f"{owner}: initial_state must return one or more arrays, got {brief(v)}"
        )

    def state_after(v: State, current: jax.Array) -> State:
        u = method(cell, "integrate")(v, current)
        v, _ = fire(cell, u, key)
        return v

    after = jax.eval_shape(state_after, v, current)
    if jax.tree.structure(after) != jax.tree.structure(v):
        raise TypeError(
            f"{owner}: fire must return a state like the initial one, {_described(v)}, got "
            f"{_described(after)}; define initial_state(shape, dtype) to return a state like fire"
        )


def _described(state: State) -> str:
    if isinstance(state, (tuple, list, dict)):
        return f"a {type(state).__name__} of {len(state)}"
    return "one array" if is_array(state) else brief(state)


def _wrong_state(cell: Cell, owner: str, like: State, v: State) -> TypeError:
    """Return the error for a state of another structure than ``like``."""
    names = cell.state_names
    is_named = isinstance(like, tuple) and len(like) == len(names)
    form = f"a tuple ({', '.join(names)})" if is_named else _described(like)
    return TypeError(
        f"{owner}: v must be {form}, as returned by initial_state, got {_described(v)}"
    )


def warn_of_lost_leaks(owner: str, cell: Cell, v: State) -> None:
    """Warn if the arrays of a state have too few bits for a decay of their cell.

    A decay of 0.999 moves a potential by 0.001 of its size, and a potential in bfloat16 has 256
    values between 1 and 2. It then rounds back to its old value at each step, whether or not the
    product is computed in float32. Traced decays are unknown and not checked.
    """
    floats = filter(is_float, jax.tree.leaves(v))
    dtypes = {x.dtype for x in floats if x.dtype.itemsize == 2}
    cells = [part for part in parts_of(cell) if isinstance(part, Cell)]
    for dtype, part in itertools.product(dtypes, cells):
        for name, domain in part._domains.items():
            value = getattr(part, name)
            if hasattr(value, "_within"):  # a Bounded number
                value = value.value
            if domain.bounds != (0, 1) or isinstance(value, Tracer):
                continue
            leak = 1 - np.asarray(value, float)
            # For larger leaks, rates of spikes are within 5 % of those in float64. For smaller ones
            # they are off by 10 % or more.
            least = 2 * float(jnp.finfo(dtype).eps)
            if np.any((leak > 0) & (leak < least)):
                warnings.warn(
                    f"{owner}: {type(part).__name__}: {name}={brief(value)} changes the state by "
                    f"less than {dtype.name} resolves, so neurons leak at another rate or not at "
                    "all; use currents in float32: float32 weights, with backward='half' to save "
                    "memory, or a function as weight that returns float32",
                    stacklevel=2,
                )


def leaky_integration(cell: Any, v: jax.Array, current: jax.Array) -> jax.Array:
    """Return the potential after its leak, plus the input."""
    leaked = cell.decay * v
    if cell.norm_input:
        # With the gain 1 - decay a constant current is the fixed point: v = decay * v + (1 - decay)
        # * I has the solution v = I.
        current = (1 - cell.decay) * current
    return leaked + current


def response_of_leak(cell: Any) -> LinearResponse:
    """Return the linear response of :func:`leaky_integration`."""
    gain = 1 - cell.decay if cell.norm_input else 1.0
    return LinearResponse(cell.decay, gain)
