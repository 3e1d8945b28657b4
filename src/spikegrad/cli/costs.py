"""The synaptic operations of a run, as one line."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..data import Sequences
from ..inspect import cost_report
from .networks import Params, SpikingNetwork, spike_key
from .sources import examples, spaced

EXAMPLES = 128
"""The costs are a mean over this number of examples."""


def line(network: SpikingNetwork, params: Params, source: Sequences) -> str:
    """Return the synaptic operations of the spiking network per example, next to a dense network."""
    x, _, lengths = examples(source, spaced(len(source), EXAMPLES))
    params = jax.tree.map(np.asarray, params)  # each process counts separately
    key = jax.random.key(0)
    steps = None if lengths is None else jnp.asarray(lengths)
    layers, inputs, mask = network.taken_apart(params, network.prepare(jnp.asarray(x)), key, steps)
    report = cost_report(layers, inputs, mask=mask, key=spike_key(params, key))
    cost, n = report.total, report.examples
    # a spike costs an addition per connection, any other value a multiplication
    products = cost.graded.effective + cost.real.effective
    return (
        f"synaptic operations per example: {cost.synaptic_operations / n:,.0f} ({products / n:,.0f} multiplications), "
        f"dense {cost.dense / n:,.0f}"
    )
