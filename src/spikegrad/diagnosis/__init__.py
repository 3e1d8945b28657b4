"""Classes of the report of :func:`spikegrad.diagnose`, which finds out why a network does not
learn.

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
