"""Cells with the resets of snnax and of the ALIF of Yin et al. 2021.

Copy a class into your code. The page on migration shows their parameters, and
``tests/neurons/test_other_libraries.py`` compares them with the original loops.
"""

import jax

from spikegrad import Cell, MultiGaussianGrad, get, parameter, strict


class DetachedReset(Cell, pure=True):
    """The ``LIF`` of snnax with ``stop_reset_grad=True``: the complete reset is
    a constant in the derivative.

    For ``LIFSoftReset``, ``reset`` is the spike times ``reset_value``.
    """

    decay: float = parameter(at_least=0, at_most=1)
    synaptic_decay: float = parameter(at_least=0, at_most=1)
    threshold: float = parameter(default=1.0)
    reset_value: float = parameter(default=0.0)
    state_names = "potential", "synaptic current"

    def integrate(self, v, current):
        v, i = v
        a, b = self.decay, self.synaptic_decay
        return a * v + (1 - a) * i, b * i + (1 - b) * current

    def fire(self, u):
        u, i = u
        s = get("snnax.superspike_surrogate(10)")(u - self.threshold)
        reset = jax.lax.stop_gradient((u - self.reset_value) * s)
        return (u - reset, i), s


class RaisedReset(Cell, pure=True):
    """The ALIF of Yin et al. 2021, which subtracts the threshold after it has
    risen by the last spike."""

    decay: float = parameter(at_least=0, at_most=1)
    adaptation_decay: float = parameter(at_least=0, at_most=1)
    adaptation: float = parameter(default=1.8)
    threshold: float = parameter(default=0.01)
    state_names = "potential", "adaptation", "spike"

    def integrate(self, v, current):
        v, b, s = v
        rho = self.adaptation_decay
        b = rho * b + (1 - rho) * s
        threshold = self.threshold + self.adaptation * b
        v = self.decay * v + (1 - self.decay) * current - threshold * s
        return v, b, s

    def fire(self, u):
        u, b, _ = u
        threshold = self.threshold + self.adaptation * b
        s = strict(MultiGaussianGrad())(u - threshold)
        return (u, b, s), s
