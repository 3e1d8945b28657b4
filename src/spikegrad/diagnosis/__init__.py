"""Diagnosis of networks that do not learn. :func:`spikegrad.diagnose` starts it, and this module
has the classes of its report.

>>> import jax, jax.numpy as jnp
>>> from spikegrad import LIF, Layer, Network, diagnose
>>> network = Network([Layer(0.01 * jnp.eye(4), LIF(0.9))])
>>> spikes = jax.random.bernoulli(jax.random.key(0), 0.2, (20, 8, 4))
>>> report = diagnose(network, spikes)
>>> [issue.kind for issue in report.issues]
['silent']
"""

from ._diagnose import diagnose
from .measures import LayerReport
from .moves import Move
from .report import Diagnosis, Issue
from .trial import Outcome

__all__ = ["Diagnosis", "Issue", "LayerReport", "Move", "Outcome", "diagnose"]
