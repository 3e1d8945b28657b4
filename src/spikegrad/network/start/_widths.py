"""Surrogate widths that match the spread of the potentials."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ..._checks import append_axes, brief, compute_dtype
from ..._pytree import PyTree, is_array, merge, split
from ..._struct import Domain
from ..._surrogate import Scaled, Surrogate, curve_of, with_curve
from ...neurons import surrogate_arguments, surrogate_of, with_surrogate
from ...surrogates import Stretched, measure
from ..graph._connections import NamedArrays
from ..step._observe import NetworkFields, NetworkT


def match_widths(
    network: NetworkT,
    inputs: PyTree,
    *,
    ratio: float = 1.0,
    keep: str = "peak",
    mask: ArrayLike | None = None,
    key: jax.Array | None = None,
) -> NetworkT:
    r"""Set the width of each surrogate of a network to the spread of the potentials, so that most
    neurons get a gradient.

    The half-width of a slope is the distance from its peak at which it has half of the height of
    the peak. For each layer, the half-width of the slope of the surrogate becomes

    .. math:: w = r\, \sigma_U.

    Here :math:`\sigma_U` is the standard deviation of the argument of the surrogate, over all time
    steps, examples and neurons of the layer. For most cells, this argument is the potential before
    the reset minus the threshold. :class:`~spikegrad.neurons.MPBN` normalizes the potential first,
    and :class:`~spikegrad.neurons.Izhikevich` divides the difference by its ``width``.

    Parameters
    ----------
    network : Network
        The network, with weights of any kind.
    inputs : array_like or dict
        Inputs of the network, ``(steps, examples, inputs)``, for example a batch of training data.
    ratio : float, default 1.0
        The ratio :math:`r` of the half-width to the standard deviation, above 0, without a unit.
    keep : {"peak", "area"}
        ``"peak"`` (default) keeps the height of the slope, so a wider slope has a larger area.
        ``"area"`` keeps the area, so a wider slope is lower.
    mask, key : optional
        Valid time steps, and random key of :func:`~spikegrad.stochastic` spikes, as in a call of
        the network.

    Returns
    -------
    Network
        A copy of the network whose surrogates are :func:`~spikegrad.stretched` by an array, so
        another width does not recompile. Layers without a surrogate, such as readouts, do not
        change. The width of a layer with constant potentials does not change either. A second call
        replaces the widths of the first call.

    Raises
    ------
    ValueError
        If a slope does not have a half-width.
    TypeError
        If the parameters of a surrogate are traced, as in ``jax.jit``. Call this function outside
        of it.

    References
    ----------
    MPD-AGL (Jiang et al. 2025, "Adaptive gradient learning for spiking neural networks by
    exploiting membrane potential dynamics", IJCAI) uses a rectangle of area 1 with the half-width
    :math:`\sigma_U`, and updates it in training. To update widths in training, use the callback
    :class:`spikegrad.training.AdaptWidths` with ``keep="area"``.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import LIF, Arctan, Network, measure
    >>> from spikegrad.network import match_widths
    >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.1, (50, 8, 20))
    >>> network = Network.init(
    ...     jax.random.key(0), spikes, (30, 3), LIF(0.9, surrogate=Arctan(10.0))
    ... )
    >>> network = match_widths(network, spikes)
    >>> u = network.observe(spikes)[1][0].potential
    >>> print(
    ...     f"{measure(network.layers[0].cell.surrogate).half_width / u.std():.3f}"
    ... )
    1.000
    """
    Domain(choices=("peak", "area")).check("match_widths", "keep", keep)
    arrays, others = split(network, is_array)
    leaves, structure = jax.tree.flatten(others)
    spreads = jax.device_get(
        _spreads(tuple(leaves), structure, arrays, inputs, mask, key)
    )
    changed = {}
    for name, spread in spreads.items():
        layer = network.graph.layers[name]
        width = ratio * float(spread)
        widened = _widened(surrogate_of(layer.cell), width, keep)
        cell = with_surrogate(layer.cell, widened)
        changed[name] = dataclasses.replace(layer, cell=cell)
    return dataclasses.replace(network, layers=network.layers | changed)


# compiled once for all calls with the same functions and shapes
@functools.partial(jax.jit, static_argnums=(0, 1))
def _spreads(
    leaves: tuple,
    structure: Any,
    arrays: NetworkFields,
    inputs: PyTree,
    mask: ArrayLike | None,
    key: jax.Array | None,
) -> NamedArrays:
    """Return the standard deviation of the argument of each layer's surrogate, over all valid
    steps, examples and neurons.
    """
    network = merge(arrays, structure.unflatten(leaves))
    # "scan", because the other modes refuse masks for cells that couple examples.
    _, activity = network.observe(
        inputs, parts=("pre_spike",), mask=mask, key=key, backward="scan"
    )
    valid = None if mask is None else jnp.asarray(mask)
    spreads = {}
    for name, layer in network.graph.layers.items():
        # A function with a custom derivative has no width to set.
        if not isinstance(surrogate_of(layer.cell), Surrogate):
            continue
        x = surrogate_arguments(layer.cell, activity[name].pre_spike, valid)
        if x is None:
            continue
        # A sum of many values in float16 would overflow or stop growing.
        x = x.astype(compute_dtype(x.dtype))
        counted = jnp.asarray(True if valid is None else append_axes(valid, x.ndim))
        counted = jnp.broadcast_to(counted, x.shape)
        spreads[name] = jnp.std(x, where=counted)
    return spreads


def _widened(surrogate: Surrogate, width: float, keep: str) -> Surrogate:
    curve = curve_of("match_widths", surrogate)
    # A scale and a width, such as those of an earlier call, are replaced instead of nested.
    scale = None
    before = 1.0
    if isinstance(curve, Scaled):
        scale = curve.factor
        curve = curve.surrogate
    if isinstance(curve, Stretched):
        before = curve.width
        curve = curve.surrogate
    natural = measure(curve).half_width
    if not 0 < natural < math.inf:
        raise ValueError(
            f"match_widths: surrogate must have a finite half-width > 0, got {brief(curve)}"
        )
    # NumPy computes them, because JAX would compile each operation.
    factor = width / natural
    before = np.asarray(before)
    dtype = jnp.result_type(float)
    # Constant potentials have a spread of 0. Such a layer keeps its width.
    factor = factor if 0 < factor < math.inf else before
    curve = Stretched(curve, jnp.asarray(factor, dtype))
    if keep == "area":
        # A curve that is f times as wide has f times the area.
        if scale is None:
            scale = 1.0
        scale = jnp.asarray(np.asarray(scale) * before / factor, dtype)
    return with_curve(surrogate, curve if scale is None else Scaled(scale, curve))
