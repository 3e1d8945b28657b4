"""Encodings of values over time: constant, rate, latency, deltas."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import brief, compute_dtype, real_array
from ._accepted import DataError, as_array, check_memory, integer, positive


def constant_encoding(x: Any, steps: int) -> jax.Array:
    """Repeat the values at every time step: a constant current.

    Parameters
    ----------
    x : array
        Values, in any unit.
    steps : int
        Number of steps, at least 1.

    Returns
    -------
    jax.Array
        ``(steps, *x.shape)``, in the dtype of ``x``. Integers and bools become the default float.

    Examples
    --------
    >>> from spikegrad.data import constant_encoding
    >>> constant_encoding([0.1, 0.7], 3)
    Array([[0.1, 0.7],
           [0.1, 0.7],
           [0.1, 0.7]], dtype=float32)
    """
    x = _checked("constant_encoding", x, steps)
    return jnp.broadcast_to(x, (steps, *x.shape))


def rate_encoding(x: Any, steps: int, key: jax.Array) -> jax.Array:
    """Draw independent spikes with probability ``x`` at each time step.

    Parameters
    ----------
    x : array
        Values from 0, no spike, to 1, a spike at every time step. Other values are clipped.
    steps : int
        Number of steps, at least 1.
    key : jax.Array
        Key for the spikes.

    Returns
    -------
    jax.Array
        ``(steps, *x.shape)``, bool, without a derivative with respect to ``x``.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.data import rate_encoding
    >>> rate_encoding([0.0, 0.25, 1.0], 1000, jax.random.key(0)).mean(0).round(1)
    Array([0. , 0.2, 1. ], dtype=float32)
    """
    x = _shares("rate_encoding", x, steps)
    of_two = getattr(key, "dtype", None) == np.uint32 and key.shape == (2,)  # a legacy key
    if not of_two and not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"rate_encoding: key must be one of jax.random.key, got {brief(key)}")
    return jax.random.uniform(key, (steps, *x.shape), x.dtype) < x[None]


def latency_encoding(x: Any, steps: int) -> jax.Array:
    r"""Encode each value as one spike, which is earlier for larger values.

    The spike is at time step :math:`\lfloor (1 - x) \cdot \text{steps} \rfloor`, counted from 0, and computed in the
    dtype of ``x``, at least in float32.

    Parameters
    ----------
    x : array
        Values: 1 spikes at the first time step, values just above 0 at the last, 0 never. Other values are clipped.
    steps : int
        Number of steps, at least 1.

    Returns
    -------
    jax.Array
        ``(steps, *x.shape)``, bool, without a derivative with respect to ``x``.

    Examples
    --------
    >>> from spikegrad.data import latency_encoding
    >>> latency_encoding([1.0, 0.6, 0.1, 0.0], 3).astype(int)
    Array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [0, 0, 1, 0]], dtype=int32)
    """
    x = _shares("latency_encoding", x, steps)
    when = jnp.where(x > 0, jnp.floor((1 - x) * steps), -1).astype(int)
    when = jnp.minimum(when, steps - 1)  # 1 - x rounds to 1 for the smallest values
    return jnp.arange(steps).reshape(-1, *[1] * x.ndim) == when[None]


def delta_encoding(x: Any, threshold: float) -> jax.Array:
    """Encode each change by a threshold as a spike, +1 for a rise and -1 for a fall [1]_.

    A reference starts at the first value. If the value differs from it by at least the threshold, a spike is emitted
    and the reference moves towards the value by one threshold. So slow changes are not lost, and fast changes take
    several time steps.

    Parameters
    ----------
    x : array
        Signals, ``(steps, ...)``.
    threshold : float
        In the unit of ``x``, greater than 0.

    Returns
    -------
    jax.Array
        -1, 0 and 1 in the shape and dtype of ``x``, and 0 at the first time step. Integers and bools become the default
        float. They have no derivative with respect to ``x``.

    References
    ----------
    .. [1] M. Miskowicz, "Send-on-delta concept: an event-based data reporting strategy", Sensors 6 (2006) 49-63.

    Examples
    --------
    >>> from spikegrad.data import delta_encoding
    >>> print(delta_encoding([0.0, 0.6, 1.1, 1.2, 3.3, 3.3, 0.0], 1.0))
    [ 0.  0.  1.  0.  1.  1. -1.]
    """
    x = _array("delta_encoding", x, may_be_nan=False)
    step_size = np.asarray(positive("delta_encoding", "threshold", threshold)).astype(x.dtype)
    if not 0 < step_size < np.inf:
        raise ValueError(f"delta_encoding: threshold must be above 0 and finite in {x.dtype}, got {threshold}")
    if not x.ndim or not len(x):
        raise ValueError(f"delta_encoding: x must have steps on its first axis, got shape {x.shape}")

    def step(reference, value):
        away = value - reference
        spike = jnp.where(jnp.abs(away) >= step_size, jnp.sign(away), jnp.zeros_like(away))
        return reference + step_size * spike, spike

    return jax.lax.stop_gradient(jax.lax.scan(step, x[0], x)[1])


def _shares(owner: str, x: Any, steps: int) -> jax.Array:
    """Return values from 0 to 1 in at least float32: half precision is too coarse to draw or to count time steps."""
    x = _checked(owner, x, steps, may_be_nan=False)
    return jnp.clip(x.astype(compute_dtype(x.dtype)), 0, 1)


def _checked(owner: str, x: Any, steps: int, may_be_nan: bool = True) -> jax.Array:
    x = _array(owner, x, may_be_nan)
    integer(owner, "steps", steps, 1, 2**31 - 1)
    check_memory(f"{owner}: {steps:,} steps of shape {x.shape}", steps * x.size * x.dtype.itemsize)
    return x


def _array(owner: str, x: Any, may_be_nan: bool = True) -> jax.Array:
    """Convert to a floating-point array. Reject NaN, which no spike can encode, if ``x`` is not on a device yet."""
    if isinstance(x, (list, tuple)) and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x)):
        x = jnp.asarray(x)
    known = not isinstance(x, jax.Array)
    if known:
        try:
            x = as_array(owner, "x", x, "buif", "real numbers")
        except DataError as error:
            raise TypeError(str(error)) from None
    x = real_array(x, owner)
    if known and not may_be_nan and bool(jnp.isnan(x).any()):
        raise ValueError(f"{owner}: x must not be NaN")
    return x
