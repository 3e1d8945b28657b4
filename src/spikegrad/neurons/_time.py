"""Cells over time: their time constants, and every step of a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._compat import match_varying_axes, shard_as
from .._struct import Struct, as_real, is_pure
from .._surrogate import as_key, fold_in
from ._cell import Cell, State, Step, as_current, as_state, check_initial


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
    >>> euler = decay_from_tau(20.0, discretization="euler")
    >>> f"{decay_from_tau(20.0):.4f} {euler:.4f}"
    '0.9512 0.9500'
    >>> LIF(
    ...     decay=decay_from_tau(tau=20e-3, dt=5e-3, discretization="euler"),
    ...     norm_input=True,
    ... ).decay
    0.75
    """
    tau, dt = _positive("tau", tau), _positive("dt", dt)
    if not isinstance(dt, jax.Array) and not np.all(np.isfinite(dt)):  # infinite time constants forget nothing
        raise ValueError(f"decay_from_tau: dt must be finite, got {dt}")
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
    TypeError
        If ``cell`` is a :class:`Network`, which runs over time by itself, or another object that is not a step.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, unroll
    >>> v, spikes = unroll(LIF(decay=1.0), jnp.full((6, 1), 0.5))
    >>> spikes[:, 0].tolist()
    [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """
    _check_step(cell)
    currents = as_current(currents, "unroll", "currents")
    if currents.ndim == 0:
        raise ValueError("unroll: currents must have a time axis first, got a scalar")
    if v is None:
        rest = cell.initial_state if isinstance(cell, Cell) else jnp.zeros
        now = jax.eval_shape(lambda currents: currents.sum(0, dtype=currents.dtype), currents)  # there may be no step
        v = jax.tree.map(lambda leaf: shard_as(jnp.asarray(leaf), now), rest(now.shape, now.dtype))
        v = match_varying_axes(v, like=currents)
        try:
            return _scan(cell, currents, v, key)
        except (TypeError, ValueError):
            if isinstance(cell, Cell):  # the initial state may be the reason; to check it takes as long as a short run
                check_initial(cell, v, now, key=None if key is None else jax.random.key(0))
            raise
    return _scan(cell, currents, v, key)


def _scan(cell: Step, currents: jax.Array, v: State, key: Any) -> tuple[State, jax.Array]:
    start = as_state(cell, v, currents.shape[1:], "unroll")

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


def _check_step(cell: Any) -> None:
    expected = "unroll: cell must be a Cell or a function of state and current"
    if isinstance(cell, type):
        raise TypeError(f"{expected}, got the class {cell.__name__}: write {cell.__name__}()")
    if isinstance(cell, Struct) and not isinstance(cell, Cell):
        name = type(cell).__name__
        fix = "; call it instead: network(inputs)" if name == "Network" else ""
        raise TypeError(f"{expected}, got a {name}{fix}")
