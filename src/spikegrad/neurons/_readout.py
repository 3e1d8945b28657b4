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
    r"""Leaky integrators that never fire: the usual last layer.

    .. math:: v_t = \kappa\, v_{t-1} + g\, I_t

    Parameters
    ----------
    decay : float or array, default 0.9
        Share :math:`\kappa` of the potential that is left after one step, from 0 to 1,
        dimensionless. 1 sums up. An array broadcasts to the state.
    norm_input : bool, default False
        The gain :math:`g` of the input: 1, or with ``norm_input`` :math:`1 - \kappa`. Given by
        name.

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
        return leaky_integration(self._broadcast_to(v.dtype, v.shape, "v"), v, current)

    def linear_response(self) -> LinearResponse:
        return response_of_leak(self)


class Relu(_Silent, pure=True):
    r"""Rectified units without a memory, for networks without spikes.

    .. math:: a_t = \max(0, I_t)

    A network of these layers computes each time step separately. Use it as the first layer of a
    spiking network, or train a network of them and convert it with
    :func:`spikegrad.conversion.to_spiking`.

    Notes
    -----
    The state is the current of the step. The next step ignores it.

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
