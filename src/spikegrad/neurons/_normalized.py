"""Neurons that normalize their potential."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import append_axes
from .._struct import Real, parameter
from ._lif import LIF
from ._spiking import share


class MPBN(LIF, pure=True):
    r"""Leaky integrate-and-fire neurons that normalize their potential over the batch before the
    threshold (MPBN).

    .. math:: u_t &= \beta\, v_{t-1} + g\, I_t \\
              s_t &= H\Big(\gamma\, \frac{u_t - \mu}{\sqrt{\sigma^2 + \epsilon}} + b - \theta\Big)
              \\
              v_t &= R(u_t, s_t)

    :math:`I_t` is the input, :math:`u_t` the potential before the reset, and :math:`v_t` the
    potential after it. A spike depends on the normalized potential, and the reset :math:`R` changes
    the potential without normalization. In training, :math:`\mu` and :math:`\sigma^2` are the mean
    and the variance of :math:`u_t`. They are computed in each time step over the unmasked examples
    and all axes except the channels (``axis``). Gradients flow through them. The step :math:`H` is
    1 if its argument is at least 0.

    Parameters
    ----------
    decay, threshold, surrogate, reset, detach_reset, reset_value, norm_input
        As in :class:`~spikegrad.LIF`, but with other defaults: ``decay=0.25``, ``threshold=0.5``
        and ``reset="value"``. ``decay`` is the factor by which the potential decays in each time
        step, from 0 to 1. A neuron spikes if its normalized potential is at least ``threshold``.
        ``surrogate`` computes spikes and their slope. ``reset`` is the effect of a spike:
        ``"subtract"`` subtracts the threshold, ``"value"`` sets the potential to ``reset_value``,
        and ``"none"`` changes nothing. ``detach_reset=True`` treats the spike in the reset as a
        constant in the backward pass. ``norm_input=True`` multiplies the input by :math:`1 -
        \beta`.
    gain : float or array, default 1.0
        Factor :math:`\gamma` of the normalized potential, without a unit. An array must broadcast
        to the state: ``(channels,)``, or ``(channels, 1, 1)`` for images with the channels first.
        Pass a JAX array to train it. Keyword only.
    bias : float or array, default 0.0
        Number :math:`b` that is added to the normalized potential, in the unit of the threshold. An
        array must broadcast to the state. Keyword only.
    mean, var : array, optional
        Running mean and variance, which replace :math:`\mu` and :math:`\sigma^2` of the batch, for
        inference. They must broadcast to the state. Pass both or neither. Keyword only.
    axis : int, default -1
        The axis of the channels in a state, whose first axis is the examples. Keyword only.
    epsilon : float, default 1e-5
        Small number :math:`\epsilon` above 0 that prevents a division by 0, in the squared unit of
        the potential. Keyword only.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or is outside its range, with ``delay_reset=True``, or if
        only one of ``mean`` and ``var`` is passed. Without ``mean`` and ``var``, also for states
        without an axis of examples.

    Notes
    -----
    Without ``mean`` and ``var``, the examples of a batch depend on each other. A network with a
    mask for each example, of shape ``(steps, batch)``, then needs ``backward="scan"``. A
    :class:`~spikegrad.Network` stores the potential of each neuron and time step in full precision,
    whatever the memory mode. Under ``jax.shard_map``, each device computes the statistics of its
    examples only.

    The cell does not update the running statistics. To update them in your training loop, call
    :meth:`statistics` with the states before the spike. :meth:`spikegrad.Network.observe` returns
    these states as ``activity[name].pre_spike``, with the time steps on the first axis. Guo et al.
    update the statistics in every time step. :meth:`folded` returns neurons without normalization
    for inference.

    References
    ----------
    Guo et al. 2023, "Membrane potential batch normalization for spiking neural networks", ICCV.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import unroll
    >>> from spikegrad.neurons import MPBN
    >>> cell = MPBN(gain=jnp.ones(3))
    >>> currents = jax.random.normal(jax.random.key(0), (20, 64, 3)) * jnp.array([
    ...     [[0.1, 1.0, 10.0]]
    ... ])
    >>> _, spikes = unroll(cell, currents)
    >>> [f"{rate:.1f}" for rate in spikes.mean((0, 1))]
    ['0.3', '0.3', '0.3']
    """

    nir_node = None

    decay: Real = share(0.25)
    threshold: Real = parameter(default=0.5)
    reset: str = parameter(default="value", choices=("subtract", "value", "none"))
    gain: Real = parameter(default=1.0, kw_only=True)
    bias: Real = parameter(default=0.0, kw_only=True)
    mean: ArrayLike | None = parameter(default=None, kind=object, kw_only=True)
    var: ArrayLike | None = parameter(default=None, kind=object, kw_only=True)
    axis: int = parameter(default=-1, integer=True, kw_only=True)
    epsilon: float = parameter(default=1e-5, above=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delay_reset:
            raise ValueError(
                "MPBN: delay_reset must be False, because the last spike depends on all examples"
            )
        if (self.mean is None) != (self.var is None):
            raise TypeError("MPBN: pass both mean and var, or neither in training")

    @property
    def couples_examples(self) -> bool:  # type: ignore[override]
        return self.mean is None

    def statistics(
        self, u: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return mean and biased variance of the potentials of one time step for each channel.

        ``u`` has the potentials before the spike, ``(batch, ...)``. ``mask``, booleans of shape
        ``(batch,)``, selects the examples that count.
        """
        if u.ndim < 2:
            raise ValueError(
                f"MPBN: states must be of shape (batch, ..., neurons), got {u.shape}; pass mean "
                "and var"
            )
        # All axes except the channels, the examples too: (batch, height, width, channels) ->
        # (channels,).
        channels = self.axis % u.ndim
        axes = tuple(n for n in range(u.ndim) if n != channels)
        selected = None
        # Without any active example the result is unused, but must be finite.
        if mask is not None:
            selected = append_axes(mask | ~mask.any(), u.ndim)
        # Axes of length 1 let the result broadcast to one example. The axis of examples goes away
        # by [0].
        mean = jnp.mean(u, axes, keepdims=True, where=selected)[0]
        var = jnp.var(u, axes, keepdims=True, where=selected)[0]
        return mean, var

    def normalized(self, u: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Return the normalized potential, which is compared with the threshold."""
        mean, var = self.mean, self.var
        if mean is None:
            mean, var = self.statistics(u, mask)
        cell = self._broadcast_to(u.dtype, u.shape, "v")

        def like(a: ArrayLike | None) -> jax.Array:
            return jnp.broadcast_to(jnp.asarray(a, u.dtype), u.shape)

        # Statistics have the rank of one example, so they are broadcast by hand.
        scaled = cell.gain * (u - like(mean))
        variance = like(var) + self.epsilon
        return scaled * jax.lax.rsqrt(variance) + cell.bias

    def fire(
        self, u: jax.Array, key: jax.Array | None = None, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        cell = self._broadcast_to(u.dtype, u.shape, "v")
        normalized = self.normalized(u, mask)
        s = cell._spike(normalized, cell.threshold, key)
        # The reset acts on the potential itself. Only the spike depends on the normalized
        # potential.
        return cell._reset(u, s), s

    def folded(self) -> LIF:
        r"""Return neurons without normalization that spike in the same time steps, for inference.

        The result is a :class:`~spikegrad.LIF`. Its threshold is the array :math:`(\theta - b)
        \sqrt{\sigma^2 + \epsilon} / \gamma + \mu`, so it compares the potential itself.

        Raises
        ------
        ValueError
            If ``mean`` and ``var`` are missing. Also for gains of 0 or less, which would reverse
            the comparison with the threshold. Also for ``reset="subtract"``, which would subtract
            the new threshold instead of :math:`\theta`.
        """
        if self.mean is None:
            raise ValueError("MPBN: folded needs running statistics; pass mean and var")
        gains = np.asarray(self.gain)
        if not np.all(gains > 0):
            raise ValueError(
                f"MPBN: folded needs gains above 0, got {float(np.min(gains)):g}"
            )
        if self.reset == "subtract":
            raise ValueError(
                "MPBN: folded needs reset='value' or 'none', got 'subtract', which uses the "
                "threshold"
            )
        deviation = jnp.sqrt(jnp.asarray(self.var) + self.epsilon)
        # The condition of a spike, solved for u. Dividing by the gain keeps the direction of the
        # inequality only for gains above 0.
        distance = (self.threshold - self.bias) * deviation / self.gain
        threshold = distance + jnp.asarray(self.mean)
        parameters: Any = {name: getattr(self, name) for name in LIF._domains}
        return LIF(**parameters | {"threshold": threshold})
