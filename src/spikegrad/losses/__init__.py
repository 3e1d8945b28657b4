"""Losses for outputs over time, and loss terms that keep spike rates and potentials within bounds.
Losses compare outputs with labels, rates, spike times or values.

>>> import jax.numpy as jnp
>>> from spikegrad.losses import reduce_time
>>> potentials = jnp.ones((50, 8, 3))  # steps, examples, classes
>>> mask = jnp.arange(50)[:, None] < jnp.full((1, 8), 30)
>>> reduce_time(potentials, "mean", mask).shape
(8, 3)

Outputs have the shape that :class:`spikegrad.Network` returns: ``(steps, examples, classes)``.
Masks have the shape ``(steps, examples)`` or ``(steps,)``. They are True for valid time steps and
False for padding. For inputs in half precision, all functions compute in float32.
"""

from ._bounds import lower_bound, upper_bound, voltage_bound
from ._outputs import (
    REDUCTIONS,
    count_error,
    first_spike_time,
    potential_error,
    rate_error,
    reduce_time,
    smape,
    van_rossum,
)

__all__ = [
    "REDUCTIONS",
    "count_error",
    "first_spike_time",
    "lower_bound",
    "potential_error",
    "rate_error",
    "reduce_time",
    "smape",
    "upper_bound",
    "van_rossum",
    "voltage_bound",
]
