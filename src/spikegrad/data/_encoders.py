"""Encodings of values over time: constant, rate, latency, deltas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax.core import Tracer

from .._checks import compute_dtype, real_array


def constant_encoding(x: npt.ArrayLike, steps: int) -> jax.Array:
    """Repeat values in each time step, as a constant input current.

    Parameters
    ----------
    x : array
        The values, such as images ``(batch, pixels)``.
    steps : int
        Number of time steps, at least 1.

    Returns
    -------
    jax.Array
        An array ``(steps, *x.shape)`` in the dtype of ``x``. Integers and booleans become the
        default float.

    Examples
    --------
    >>> from spikegrad.data import constant_encoding
    >>> constant_encoding([0.1, 0.7], 3)
    Array([[0.1, 0.7],
           [0.1, 0.7],
           [0.1, 0.7]], dtype=float32)
    """
    x = real_array(jnp.asarray(x), "constant_encoding")
    return jnp.broadcast_to(x, (steps, *x.shape))


def rate_encoding(x: npt.ArrayLike, steps: int, key: jax.Array) -> jax.Array:
    """Encode each value as random spikes: in each time step, a spike occurs with a probability
    equal to the value.

    Parameters
    ----------
    x : array
        The values, from 0 for no spikes to 1 for a spike in each time step. Values outside of 0 to
        1 are clipped.
    steps : int
        Number of time steps, at least 1.
    key : jax.Array
        Random key for the spikes, such as ``jax.random.key(0)``. Use another key for each batch.

    Returns
    -------
    jax.Array
        Spikes ``(steps, *x.shape)``, bool. No gradient flows to ``x``.

    Raises
    ------
    ValueError
        If ``x`` has NaN and is not traced.

    Examples
    --------
    >>> import jax
    >>> from spikegrad.data import rate_encoding
    >>> rate_encoding([0.0, 0.25, 1.0], 1000, jax.random.key(0)).mean(0).round(1)
    Array([0. , 0.2, 1. ], dtype=float32)
    """
    x = _probability("rate_encoding", x)
    return jax.random.bernoulli(key, x[None], (steps, *x.shape))


def latency_encoding(x: npt.ArrayLike, steps: int) -> jax.Array:
    r"""Encode each value as the time of one spike: the larger the value, the earlier the spike.

    The spike is in time step :math:`\lfloor (1 - x) \cdot \text{steps} \rfloor`, counted from 0. It
    is computed in the dtype of ``x``, at least in float32.

    Parameters
    ----------
    x : array
        The values. 1 spikes in the first time step, values just above 0 in the last, and 0 never.
        Values outside of 0 to 1 are clipped.
    steps : int
        Number of time steps, at least 1.

    Returns
    -------
    jax.Array
        Spikes ``(steps, *x.shape)``, bool. No gradient flows to ``x``.

    Raises
    ------
    ValueError
        If ``x`` has NaN and is not traced.

    Examples
    --------
    >>> from spikegrad.data import latency_encoding
    >>> latency_encoding([1.0, 0.6, 0.1, 0.0], 3).astype(int)
    Array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [0, 0, 1, 0]], dtype=int32)
    """
    x = _probability("latency_encoding", x)
    # Step -1 is none of them, so a value of 0 has no spike.
    step = jnp.floor((1 - x) * steps)
    time = jnp.where(x > 0, step, -1).astype(int)
    time = jnp.minimum(time, steps - 1)  # 1 - x rounds to 1 for the smallest values
    # (steps, ...): True at the step of the spike.
    return jax.nn.one_hot(time, steps, dtype=bool, axis=0)


def delta_encoding(x: npt.ArrayLike, threshold: float) -> jax.Array:
    """Encode the changes of signals as spikes: +1 for a rise by a threshold, and -1 for a fall
    [1]_.

    For each signal, a reference starts at the first value. If the value differs from the reference
    by at least the threshold, a spike occurs, and the reference moves toward the value by one
    threshold. So slow changes add up to a spike, and a fast change gives spikes in several time
    steps.

    Parameters
    ----------
    x : array
        The signals, with the time steps on the first axis: ``(steps, ...)``.
    threshold : float
        The change that gives a spike, above 0, in the unit of ``x``.

    Returns
    -------
    jax.Array
        -1, 0 or 1 in the shape and dtype of ``x``, and 0 in the first time step. Integers and
        booleans become the default float. No gradient flows to ``x``.

    Raises
    ------
    ValueError
        If ``x`` has NaN and is not traced.

    References
    ----------
    .. [1] M. Miskowicz, "Send-on-delta concept: an event-based data reporting strategy", Sensors 6
       (2006) 49-63.

    Examples
    --------
    >>> from spikegrad.data import delta_encoding
    >>> print(delta_encoding([0.0, 0.6, 1.1, 1.2, 3.3, 3.3, 0.0], 1.0))
    [ 0.  0.  1.  0.  1.  1. -1.]
    """
    x = _without_nan("delta_encoding", x)
    step_size = jnp.asarray(threshold, x.dtype)

    def step(reference: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        away = value - reference
        is_far = jnp.abs(away) >= step_size
        spike = jnp.where(is_far, jnp.sign(away), jnp.zeros_like(away))
        # By one threshold, not to the value: smaller changes add up until they spike.
        return reference + step_size * spike, spike

    _, spikes = jax.lax.scan(step, x[0], x)
    return jax.lax.stop_gradient(spikes)


def _without_nan(owner: str, x: npt.ArrayLike) -> jax.Array:
    """Return real numbers. A NaN has no spikes, so a missing value would go unnoticed."""
    x = real_array(jnp.asarray(x), owner)
    # The values of a traced array are unknown.
    if not isinstance(x, Tracer) and bool(jnp.isnan(x).any()):
        raise ValueError(
            f"{owner}: x must not have NaN; replace missing values, as jnp.nan_to_num does"
        )
    return x


def _probability(owner: str, x: npt.ArrayLike) -> jax.Array:
    """Return values from 0 to 1."""
    x = _without_nan(owner, x)
    # Half precision is too coarse to draw from or to count time steps.
    return jnp.clip(x.astype(compute_dtype(x.dtype)), 0, 1)
