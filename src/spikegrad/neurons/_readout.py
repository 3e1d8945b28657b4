"""Neurons that never fire: leaky readouts, and rectified units without a memory."""

from __future__ import annotations

import jax

from .._struct import Real, parameter
from ._cell import Cell, LinearResponse, leaky_integration, response_of_leak
from ._lif import LIF
from ._spiking import share


class _Silent(Cell, pure=True):
    """A cell without spikes. Its output is a function of its potential."""

    def _output(self, u: jax.Array) -> jax.Array:
        return u

    def fire(
        self, u: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        return u, self._output(u)

    def encode(self, u: jax.Array) -> tuple[None, jax.Array]:
        # Without a spike there is no sign to preserve, so the potential is stored as the
        # remainder, in 16 bits.
        return None, u

    def decode(self, distance: object, rest: jax.Array) -> jax.Array:
        return rest


class LeakyReadout(_Silent, pure=True):
    r"""Neurons that never spike: a potential that adds up inputs and decays. The usual last layer.

    .. math:: v_t = \kappa\, v_{t-1} + g\, I_t

    :math:`I_t` is the input in time step :math:`t`, and :math:`v_t` is the potential. The output of
    a time step is the potential, and the state is the potential too. Losses use it as the score of
    a class.

    Parameters
    ----------
    decay : float or array, default 0.9
        Decay factor :math:`\kappa` of the potential for one time step, at least 0 and at most 1,
        without a unit. With 0.9, the potential keeps 90% of its value. With 1, it is the sum of all
        inputs so far. An array of a shape that broadcasts to the state, such as ``(neurons,)``,
        gives each neuron its value.
    norm_input : bool, default False
        The factor :math:`g` of the input. If False, :math:`g` is 1. If True, it is :math:`1 -
        \kappa`, and a constant input drives the potential to the value of this input. Keyword only.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LeakyReadout
    >>> v, out = LeakyReadout(decay=0.5)(jnp.array([1.0]), jnp.array([0.25]))
    >>> v.tolist(), out.tolist()
    ([0.75], [0.75])
    """

    nir_node = "LI"

    decay: Real = share(0.9)
    norm_input: bool = parameter(default=False, kw_only=True)

    _hints = LIF._hints

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        cell = self._broadcast_to(v.dtype, v.shape, "v")
        return leaky_integration(cell, v, current)

    def linear_response(self) -> LinearResponse:
        return response_of_leak(self)


class Relu(_Silent, pure=True):
    r"""Rectified linear units, neurons without a memory and without spikes.

    .. math:: a_t = \max(0, I_t)

    The output :math:`a_t` depends only on the input :math:`I_t` of the same time step. Use these
    neurons in the first layer of a spiking network. You can also train a network that has only
    these neurons, and convert it to a spiking network with :func:`spikegrad.conversion.to_spiking`.

    Notes
    -----
    The state is the input of the last time step. The next time step ignores it.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.neurons import Relu
    >>> state, out = Relu()(jnp.array([1.0, 1.0]), jnp.array([-0.5, 0.25]))
    >>> out.tolist()
    [0.0, 0.25]
    """

    def integrate(self, v: jax.Array, current: jax.Array) -> jax.Array:
        return current

    def _output(self, u: jax.Array) -> jax.Array:
        # Not jnp.maximum, whose derivative at 0 is 1/2.
        return jax.nn.relu(u)

    def linear_response(self) -> LinearResponse:
        return LinearResponse(decay=0.0, gain=1.0)
