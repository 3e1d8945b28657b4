"""Loss terms that keep a network's activity within bounds, as functions of its outputs."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._checks import broadcast_checked, compute_dtype, real_array
from .._struct import Domain
from ._outputs import over_time


def lower_bound(
    spikes: ArrayLike | Sequence[ArrayLike],
    bound: ArrayLike = 1e-3,
    strength: float = 100.0,
    *,
    power: int = 2,
    population: bool = False,
) -> jax.Array:
    r"""Compute a loss term that is above 0 for neurons that spike too rarely. Add it to the loss.

    .. math:: \lambda\, \big\langle \max(0,\, b - z)^p \big\rangle

    Here :math:`z` is the number of spikes of a neuron in a sequence. The mean is over examples and
    neurons. The gradient flows through the surrogate, so silent neurons learn to spike. The
    defaults are from the paper.

    Parameters
    ----------
    spikes : array_like or sequence of them
        Spikes of a layer, ``(steps, examples, neurons...)``, for example outputs of hidden layers
        from :meth:`spikegrad.Network.observe`. For a list of layers, the terms are added. If you
        called the network with a mask, masked time steps have outputs of 0 and do not count.
    bound : float or array, default 1e-3
        The smallest number :math:`b` of spikes per sequence without a loss. The default is nearly
        0, so only silent neurons have a loss. An array must broadcast to ``(examples,
        neurons...)``, or to ``(examples,)`` with ``population=True``, for example a rate times the
        length of each sequence.
    strength : float, default 100.0
        The factor :math:`\lambda` of the term, in the unit of the loss.
    power : {2, 1}
        The power :math:`p`: 2 for a square (default), or 1 for a linear term.
    population : bool, default False
        If True, bound the mean of :math:`z` over the neurons of a layer, instead of each neuron.

    Returns
    -------
    jax.Array
        The loss term, one number. For inputs in half precision, it is in float32.

    Raises
    ------
    ValueError
        If outputs have no axis of examples, if the sequence of outputs is empty, if ``power`` is
        not 1 or 2, or if the bound does not broadcast.

    References
    ----------
    Zenke, Vogels 2021, "The remarkable robustness of surrogate gradient learning for instilling
    complex function in spiking neural networks", Neural Computation 33(4):899-925.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.losses import lower_bound
    >>> def term(weight):
    ...     _, spikes = Network([Layer(weight, LIF())])(jnp.ones((20, 4, 3)))
    ...     return lower_bound(spikes)
    >>> silent = jnp.full((3, 5), 0.01)
    >>> print(f"{term(silent):.4f}")
    0.0001
    >>> bool((jax.grad(term)(silent) < 0).all())  # it falls as weights grow
    True
    """
    return _penalty(
        "lower_bound",
        spikes,
        bound,
        lambda count, bound: bound - count,
        strength=strength,
        power=power,
        population=population,
    )


def upper_bound(
    spikes: ArrayLike | Sequence[ArrayLike],
    bound: ArrayLike,
    strength: float = 0.1,
    *,
    power: int = 2,
    population: bool = True,
) -> jax.Array:
    r"""Compute a loss term that is above 0 for neurons that spike too often. Add it to the loss.

    .. math:: \lambda\, \big\langle \max(0,\, z - b)^p \big\rangle

    Here :math:`z` is the number of spikes in a sequence. By default, it is the mean over the
    neurons of a layer. The outer mean is over examples.

    Parameters
    ----------
    spikes : array_like or sequence of them
        Spikes of a layer, or a list of the spikes of several layers, as in :func:`lower_bound`.
    bound : float or array
        The largest number :math:`b` of spikes per sequence without a loss. An array broadcasts as
        in :func:`lower_bound`. The paper uses 4 for sequences of 200 ms and 7 for 700 ms, which are
        10 to 20 Hz.
    strength : float, default 0.1
        The factor :math:`\lambda` of the term, in the unit of the loss.
    power : {2, 1}
        The power :math:`p`: 2 for a square (default), or 1 for a linear term.
    population : bool, default True
        If True, bound the mean of :math:`z` over the neurons of a layer. If False, bound each
        neuron.

    Returns
    -------
    jax.Array
        The loss term, one number. For inputs in half precision, it is in float32.

    Raises
    ------
    ValueError
        As in :func:`lower_bound`.

    References
    ----------
    Rossbroich, Gygax, Zenke 2022, "Fluctuation-driven initialization for spiking neural network
    training", Neuromorphic Computing and Engineering 2(4):044016.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.losses import upper_bound
    >>> spikes = jnp.ones((6, 4, 5))  # six spikes of each neuron
    >>> print(f"{upper_bound(spikes, 4):.2f} {upper_bound(spikes, 7):.2f}")
    0.40 0.00
    >>> print(f"{upper_bound(spikes, 4, 1.0, power=1):.2f}")
    2.00
    """
    return _penalty(
        "upper_bound",
        spikes,
        bound,
        operator.sub,
        strength=strength,
        power=power,
        population=population,
    )


def voltage_bound(
    potentials: Any,
    low: float | None = None,
    high: float | None = None,
    strength: float = 1.0,
    *,
    power: int = 2,
    mask: ArrayLike | None = None,
) -> jax.Array:
    r"""Compute a loss term that is above 0 for potentials outside of bounds. Add it to the loss.

    .. math:: \lambda\, \big\langle \max(0,\, a - u)^p + \max(0,\, u - b)^p \big\rangle

    Here :math:`u` is the potential. The mean is over time steps, examples and neurons. Use it to
    keep potentials near the threshold, because the slope of a surrogate is nearly 0 far from the
    threshold. The term has a gradient at any distance from the threshold, because it does not use
    spikes.

    Parameters
    ----------
    potentials : array_like, or tuple of them
        Potentials ``(steps, examples, neurons...)``: outputs of a readout, or the states
        ``pre_spike`` from :meth:`spikegrad.Network.observe`. In a tuple, the first array is the
        potential.
    low, high : float, optional
        The lower bound :math:`a` and the upper bound :math:`b`, in the unit of the potential. None
        for no bound on this side. Pass one or both.
    strength : float, default 1.0
        The factor :math:`\lambda` of the term, in the unit of the loss.
    power : {2, 1}
        The power :math:`p`: 2 for a square (default), or 1 for a linear term.
    mask : array of bool, optional
        The valid time steps, ``(steps, examples)`` or ``(steps,)``: False for padding. The mean is
        over valid time steps only, and 0 without any. Without a mask, potentials of padding count
        too, as 0.

    Returns
    -------
    jax.Array
        The loss term, one number. For inputs in half precision, it is in float32.

    Raises
    ------
    ValueError
        If both bounds are missing, if ``power`` is not 1 or 2, or if the shape of the mask does not
        fit.
    TypeError
        If the mask is not boolean.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Layer, Network
    >>> from spikegrad.losses import voltage_bound
    >>> def term(weight):
    ...     network = Network([Layer(weight, LIF())])
    ...     _, activity = network.observe(jnp.ones((20, 4, 3)))
    ...     return voltage_bound(activity[0].potential, low=-1.0)
    >>> weight = jnp.full((3, 5), -0.5)  # far below the threshold
    >>> bool(term(weight) > 1), bool((jax.grad(term)(weight) < 0).all())
    (True, True)
    """
    if low is None and high is None:
        raise ValueError(
            "voltage_bound: low and high are missing. Pass at least one of them"
        )
    potential, *_ = jax.tree.leaves(potentials)
    u, valid = over_time("voltage_bound", "potentials", potential, mask)
    # Penalties of all potentials, (steps, examples, neurons...).
    beyond = jnp.zeros_like(u)
    if low is not None:
        beyond += _above(low - u, power, "voltage_bound")
    if high is not None:
        beyond += _above(u - high, power, "voltage_bound")
    if mask is None:
        return strength * beyond.mean()
    active = jnp.broadcast_to(valid, u.shape)
    total = strength * beyond.sum(where=active)
    # At least 1, because a batch may have no valid step.
    count = jnp.maximum(active.sum(dtype=u.dtype), 1)
    return total / count


def _penalty(
    owner: str,
    spikes: Any,
    bound: ArrayLike,
    excess_of: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    strength: float,
    power: int,
    population: bool,
) -> jax.Array:
    """Return the sum over layers of the mean penalty for spike counts beyond their bound.

    ``excess_of(count, bound)`` is above 0 beyond the bound.
    """
    layers = spikes if isinstance(spikes, (list, tuple)) else [spikes]
    if not layers:
        raise ValueError(f"{owner}: spikes must have one layer or more, got none")
    terms = []
    for layer in layers:
        z = real_array(layer, owner, "spikes")
        z = z.astype(compute_dtype(z.dtype))
        if z.ndim < 3:
            raise ValueError(
                f"{owner}: spikes must be (steps, examples, neurons), got {z.shape}"
            )
        # (steps, examples, neurons...) -> (examples, neurons...)
        z = z.sum(0)
        if population:
            # Neurons may have several axes, such as channels, height and width.
            # The population then has one count for each example: (examples,).
            neurons = tuple(range(1, z.ndim))
            z = z.mean(neurons)
        b = real_array(bound, owner, "bound")
        b = broadcast_checked(b, z.dtype, z.shape, owner, "bound", "spikes")
        excess = _above(excess_of(z, b), power, owner)
        # A mean for each layer, so the term of a layer does not depend on its number of neurons.
        terms.append(strength * excess.mean())
    return functools.reduce(operator.add, terms)


def _above(x: jax.Array, power: int, owner: str) -> jax.Array:
    Domain(choices=(1, 2)).check(owner, "power", power)
    # For power 1 the derivative is that of a rectifier, 0 at the bound itself.
    return jax.nn.relu(x) ** power
