"""Time constants of cells, and runs of a cell over a sequence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import broadcasts
from .._compat import match_varying_axes, shard_as
from .._struct import Domain, Struct, is_pure
from .._surrogate import as_key, fold_in
from ._cell import Cell, State, Step, as_current, as_state, warn_of_lost_leaks


def decay_from_tau(
    tau: ArrayLike, dt: ArrayLike = 1.0, discretization: str = "exact"
) -> Any:
    r"""Convert a time constant to a decay factor, the factor that multiplies a potential in each
    time step.

    .. math:: \beta = \begin{cases} e^{-\Delta t/\tau} & \text{exact: the solution of } \tau\, \dot
              v = -v \\
              1 - \Delta t/\tau & \text{Euler: one step of the forward Euler method} \end{cases}

    Parameters
    ----------
    tau : float or array
        Time constant :math:`\tau`, above 0, in any unit of time. With infinity, the decay factor is
        1 and nothing decays.
    dt : float or array, default 1.0
        Length :math:`\Delta t` of a time step, above 0, in the unit of ``tau``.
    discretization : {"exact", "euler"}
        ``"exact"`` (default) computes :math:`e^{-\Delta t/\tau}`, the exact decay in one time step.
        ``"euler"`` computes :math:`1 - \Delta t/\tau`, as in some libraries and papers, and
        requires ``dt <= tau``.

    Returns
    -------
    float or array
        The decay factor :math:`\beta`, from 0 to 1. Pass it to any parameter of a cell that is a
        decay, such as ``decay`` or ``synaptic_decay``. Models with a time constant often multiply
        the input by :math:`1 - \beta`. For these, use ``LIF(..., norm_input=True)`` too.

    Raises
    ------
    ValueError, TypeError
        If ``tau`` or ``dt`` is not a number above 0, or if ``dt > tau`` with ``"euler"``. JAX
        arrays are not checked, because they may be traced.

    Examples
    --------
    >>> from spikegrad import LIF, decay_from_tau
    >>> euler = decay_from_tau(20.0, discretization="euler")
    >>> f"{decay_from_tau(20.0):.4f} {euler:.4f}"
    '0.9512 0.9500'
    >>> LIF(
    ...     decay=decay_from_tau(tau=20e-3, dt=5e-3, discretization="euler"),
    ...     norm_input=True,
    ... ).decay
    0.75
    """
    owner = "decay_from_tau"
    tau = Domain(above=0, bound=True).check(owner, "tau", tau)  # may be infinite
    dt = Domain(above=0).check(owner, "dt", dt)
    Domain(choices=("exact", "euler")).check(owner, "discretization", discretization)
    share: Any = dt / tau
    known = not isinstance(share, jax.Array)  # JAX arrays may be traced
    if discretization == "exact":
        # NumPy computes in float64 and returns a constant. JAX arrays may be traced.
        exp = np.exp if known else jnp.exp
        decay = exp(-share)
    elif known and not np.all(share <= 1):
        raise ValueError(
            f"{owner}: dt must be <= tau for discretization 'euler', got dt={dt} and tau={tau}; "
            "pass a smaller dt or discretization='exact'"
        )
    else:
        decay = 1 - share
    is_number = known and np.ndim(decay) == 0
    return float(decay) if is_number else decay


def unroll(
    cell: Step,
    currents: ArrayLike,
    v: State | None = None,
    *,
    key: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """Run one cell over time, without weights.

    Parameters
    ----------
    cell : callable
        A cell, such as :class:`LIF`, or a function that computes one time step: ``v, out = cell(v,
        current)``.
    currents : array_like
        Inputs of the neurons, with the time steps on the first axis: ``(steps, ...)``, for example
        ``(steps, batch, neurons)``.
    v : array_like or tuple of array_like, optional
        State before the first time step. By default it is the state at rest,
        :meth:`Cell.initial_state`, or zeros for a function. To continue a sequence, pass the state
        that the previous call returned.
    key : array of jax.random.key, optional
        Random key for :func:`stochastic` spikes. Time step ``t`` gets ``key=jax.random.fold_in(key,
        t)``. A call that continues a sequence needs another key. By default the cell gets no key.

    Returns
    -------
    v : jax.Array or tuple of jax.Array
        State after the last time step.
    out : jax.Array
        Outputs of all time steps, ``(steps, ...)``. For neurons that spike, these are the spikes.

    Raises
    ------
    ValueError
        If ``currents`` is a single number, or if the shape of ``v`` does not fit ``currents``.
    TypeError
        If ``cell`` is neither a cell nor a function. Call a :class:`Network` directly,
        ``network(inputs)``, because it runs over time itself.

    Notes
    -----
    The loop is ``jax.lax.scan``, so gradients store all arrays of every time step. A
    :class:`Network` needs less memory.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, unroll
    >>> v, spikes = unroll(LIF(decay=1.0), jnp.full((6, 1), 0.5))
    >>> spikes[:, 0].tolist()
    [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """
    Domain(kind=Callable).check("unroll", "cell", cell)
    if isinstance(cell, Struct) and not isinstance(cell, Cell):
        raise TypeError(
            "unroll: cell must be a Cell or a function of state and current, got a "
            f"{type(cell).__name__}; a Network runs over time by itself: network(inputs)"
        )
    currents = as_current(currents, "unroll", "currents")
    if currents.ndim == 0:
        raise ValueError("unroll: currents must have a time axis first, got a scalar")
    if v is None:
        initial_state = cell.initial_state if isinstance(cell, Cell) else jnp.zeros
        # Also for 0 steps.
        now = jax.eval_shape(lambda currents: currents.sum(0), currents)

        def sharded(leaf: ArrayLike) -> jax.Array:
            return shard_as(jnp.asarray(leaf), now)

        v = jax.tree.map(sharded, initial_state(now.shape, now.dtype))
        v = match_varying_axes(v, like=currents)
    # The steps are the first axis of the currents, so the state has the shape of the others.
    start = as_state(cell, v, currents.shape[1:], "unroll")
    if isinstance(cell, Cell):
        _check_start(cell, start, currents)
        warn_of_lost_leaks("unroll", cell, start)

    if key is None:
        # scan reuses the program that it compiled for an equal function. This is correct for pure
        # cells. Other cells may have changed since, so they get a new function.
        step = cell if is_pure(cell) else functools.partial(cell)
        return jax.lax.scan(step, start, currents)
    keys = as_key("unroll", key)

    def keyed_step(v, now):
        current, t = now
        return cell(v, current, key=fold_in(keys, t))

    # The number of the step and not a split key, so a step has one key whatever the length of the
    # sequence.
    numbers = jnp.arange(len(currents))
    return jax.lax.scan(keyed_step, start, (currents, numbers))


def _check_start(cell: Cell, start: State, currents: jax.Array) -> None:
    """Raise if the currents of a step do not broadcast to a state."""

    def shapes_of(state: State) -> list[tuple[int, ...]]:
        return [tuple(leaf.shape) for leaf in jax.tree.leaves(state)]

    def initial_state(currents: jax.Array) -> State:
        return cell.initial_state(currents.shape[1:], currents.dtype)

    at_rest = jax.eval_shape(initial_state, currents)
    shapes = shapes_of(start)
    needed = shapes_of(at_rest)
    if not all(map(broadcasts, needed, shapes)):
        raise ValueError(
            f"unroll: v must have the shapes {needed} for currents of shape {currents.shape}, got "
            f"{shapes}; leave v out to start at rest"
        )
