"""Slopes as wide as the potentials are spread."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._surrogate import Scaled, Surrogate, curve_of, with_curve
from ..neurons import Cell, parameters_of, with_parameters
from ..surrogates._algebra import Stretched
from ..surrogates._measures import measure
from ._connections import Name
from ._network import Network, with_nodes
from ._potentials import activity_of_layers, moments

_KEEP = ("peak", "area")


def match_widths(
    network: Network,
    inputs: Any,
    *,
    ratio: float = 1.0,
    keep: str = "peak",
    mask: ArrayLike | None = None,
    key: Any = None,
) -> Network:
    r"""The network with slopes as wide as its potentials are spread.

    The half-width at half of the peak of each layer's surrogate becomes

    .. math:: w = r\, \sigma_U,

    with :math:`\sigma_U` the standard deviation of the distance between potential and threshold, before the spike, over
    all steps, examples and neurons of the layer. So neurons see a slope where they are, neither too narrow for most
    of them nor so wide that it says nothing of the threshold.

    Parameters
    ----------
    network : Network
        Its layers may have weights of any kind.
    inputs : array_like or dict
        As the network takes them, ``(steps, examples, inputs)``: a batch of the training data say.
    ratio : float, default 1.0
        :math:`r > 0`, dimensionless.
    keep : {"peak", "area"}
        What stays of a slope as it gets wider.
    mask, key : optional
        As the network takes them.

    Returns
    -------
    Network
        With surrogates that are :func:`stretched` by an array, so that another width compiles nothing anew. Layers
        without a :class:`Surrogate`, such as readouts, stay as they are, and so does the width in a layer whose
        potentials are all equal. Called on what it has returned, it sets the same widths anew.

    Raises
    ------
    ValueError
        If a slope has no half-width to be changed.
    TypeError
        If its parameters are traced: it is not for ``jax.jit``.

    References
    ----------
    MPD-AGL (Jiang et al. 2025, "Adaptive gradient learning for spiking neural networks by exploiting membrane potential
    dynamics", IJCAI) has a rectangle of area 1 with the half-width :math:`\sigma_U`, each time anew: ``keep="area"``
    on ``ReluGrad`` or any other shape, and :class:`spikegrad.training.AdaptWidths`.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import LIF, Arctan, Network, match_widths, measure
    >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.05, (50, 8, 20))
    >>> network = Network.init(jax.random.key(0), spikes, (64, 10), LIF(0.9, surrogate=Arctan(10.0)))
    >>> network = match_widths(network, spikes)
    >>> _, _, (u,) = network(spikes, pre_spike=[0])
    >>> print(f"{measure(network.layers[0].cell.surrogate).half_width / u.std():.3f}")
    1.000
    """
    check_choices("match_widths", ratio, keep)
    return with_widths(network, spreads(network, inputs, mask=mask, key=key), ratio, keep)


def check_choices(owner: str, ratio: Any, keep: Any) -> None:
    """Raise for a ratio or a choice that no slope can be widened with."""
    if not (isinstance(ratio, numbers.Real) and 0 < float(ratio) < math.inf):
        raise ValueError(f"{owner}: ratio must be > 0 and finite, got {brief(ratio)}")
    if keep not in _KEEP:
        raise ValueError(f"{owner}: keep must be one of {', '.join(map(repr, _KEEP))}, got {brief(keep)}")


def spreads(network: Network, inputs: Any, **options: Any) -> dict[Name, jax.Array]:
    """The standard deviation of each layer's distance to the threshold, or of its potential if none is known.

    JAX can trace this, but not :func:`with_widths`.
    """
    return {
        name: moments(layer.potential if layer.distance is None else layer.distance, options.get("mask"))[1]
        for name, layer in activity_of_layers(network, inputs, **options).items()
    }


def with_widths(network: Network, deviations: Mapping[Name, Any], ratio: float, keep: str) -> Network:
    """The network whose slopes have half-widths of so many deviations."""
    changed = {}
    for name, layer in network.graph.layers.items():
        surrogate = surrogate_of(layer.cell)
        if isinstance(surrogate, Surrogate):
            new = _widened(surrogate, ratio * np.asarray(deviations[name], np.float64), keep)
            changed[name] = dataclasses.replace(layer, cell=with_parameters(layer.cell, surrogate=new))
    return with_nodes(network, changed)


def surrogate_of(cell: Cell) -> Any:
    return getattr(parameters_of(cell), "surrogate", None)


def _widened(surrogate: Surrogate, width: Any, keep: str) -> Surrogate:
    base, before = _before_widening(curve_of("match_widths", surrogate), keep)
    natural = measure(base).half_width
    if not 0 < natural < math.inf:
        raise ValueError(f"match_widths: the slope of {brief(base)} has no half-width to be changed")
    factor = float(width) / natural
    factor = jnp.asarray(factor if 0 < factor < math.inf else before, jnp.result_type(float))
    curve: Surrogate = Stretched(base, factor)
    return with_curve(surrogate, Scaled(1 / factor, curve) if keep == "area" else curve)


def _before_widening(curve: Surrogate, keep: str) -> tuple[Surrogate, Any]:
    """What a curve was before it was given a width in this way, and by how much it is wider since."""
    inner = curve
    if keep == "area" and isinstance(curve, Scaled) and isinstance(curve.surrogate, Stretched):
        inner = curve.surrogate
        if not np.allclose(np.asarray(curve.factor) * np.asarray(inner.width), 1):
            inner = curve
    elif keep == "area":
        return curve, 1.0
    return (inner.surrogate, inner.width) if isinstance(inner, Stretched) else (curve, 1.0)
