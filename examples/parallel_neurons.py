"""Parallel spiking neurons (PSN, Fang et al. 2023), for joins over time.

A matrix over time maps the currents of all steps to potentials. A surrogate
makes spikes of these.
"""

import jax.numpy as jnp

from spikegrad import Arctan

SURROGATE = Arctan(2.0)


def lags(steps):
    t = jnp.arange(steps)
    return t[:, None] - t[None]


def masked(weight, order):
    lag = lags(len(weight))
    return jnp.where((lag >= 0) & (lag < order), weight, 0.0)


def sliding(weight, steps):
    lag, order = lags(steps), len(weight)
    newest_first = weight[::-1][jnp.clip(lag, 0, order - 1)]
    return jnp.where((lag >= 0) & (lag < order), newest_first, 0.0)


def parallel(matrix, bias, currents, surrogate=SURROGATE):
    """``matrix (steps, steps)``, ``currents (steps, batch, neurons)``."""
    potentials = jnp.tensordot(matrix, currents, 1)
    return surrogate(potentials + jnp.reshape(bias, (-1, 1, 1)))
