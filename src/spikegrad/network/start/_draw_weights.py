"""Initial weights, for every matrix of a network.

Layers are drawn in the order of a step. With inputs to measure, the network runs over the sequence,
and the outputs of the layers drawn so far determine the weights of the next one.

What is not optimal: each turn runs the complete network, also the layers that have no weights yet.
So the time grows with the square of the number of layers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ..._compat import match_varying_axes
from ..._device import this_device
from ..._pytree import Entries, PyTree, is_array, merge, split
from ..._struct import Real
from ..._surrogate import as_key
from ..engine._modes import Backward
from ..engine._run import CallArrays, run_sequence
from ..engine._schedule import Plan
from ..graph._connections import (
    Edge,
    Name,
    NamedArrays,
    NamedTrees,
    Weight,
    Window,
    inner_of,
    weights_of,
    with_inner,
)
from ..graph._delays import DelayKernel
from ..graph._graph import Graph, LayerFields, with_weights
from ..step._arguments import checked_key, checked_mask, named_inputs
from ..step._nodes import node_named
from ..step._observe import NetworkT
from ..step._past import lagged_sequence
from ._initial import Driven, Initializer, checked_rate
from ._response import measure_response

FEEDFORWARD = 0.9
"""Fraction of a potential's variance that comes from the sources below, if a layer has a loop, as
in the paper.
"""


def draw_weights(
    network: NetworkT,
    key: jax.Array,
    inputs: PyTree = None,
    *,
    rate: float | None = None,
    mask: ArrayLike | None = None,
    mean: float = 0.0,
    std: Real | Mapping[Name, Real | None] | None = None,
    weight: Initializer | None = None,
    recurrent: Initializer | None = None,
) -> NetworkT:
    r"""Draw random initial weights for all matrices of a network, scaled such that its neurons
    spike before training.

    Use it for a network that you built from layers, for example a graph. For fully connected
    layers, :meth:`spikegrad.Network.init` builds the layers and calls this function. Only the
    shapes and dtypes of the matrices are used, so they may be zeros.

    :func:`fluctuation_driven` draws the weights of one layer after the other, from the outputs of
    the sources of each layer. The potential of each neuron then fluctuates up to its threshold. All
    sources of a layer contribute equal parts to the variance of its potential. In a layer with
    recurrent weights, or other delayed weights that close a loop, these contribute 10% of the
    variance.

    Parameters
    ----------
    network : Network
        The network, a list or a graph of layers.
    key : array of jax.random.key
        Random key for the weights, and for the spikes of :func:`~spikegrad.stochastic` neurons.
    inputs : array_like or dict, optional
        A batch of training data to measure, as for a call of the network: ``(steps, examples,
        inputs)``.
    rate : float, optional
        The spike probability per time step of all inputs and neurons, above 0 and at most 1. Pass
        it instead of ``inputs``.
    mask : array of bool, optional
        The valid time steps of ``inputs``, as for a call of the network: False for padding.
    mean : float, default 0.0
        The mean of the potentials without spikes, in the unit of the potential. It comes only from
        sources outside of loops.
    std : float or dict, optional
        The standard deviation of the potentials without spikes, in the unit of the potential, or a
        dict from names of layers to it. By default, it is the threshold minus the mean, and 1 for
        readouts.
    weight : callable, optional
        An initializer ``weight(key, shape, dtype)``, such as ``jax.nn.initializers.he_normal()``.
        It replaces the default weights. Then neither ``inputs`` nor ``rate`` is needed.
    recurrent : callable, optional
        Another initializer for recurrent weights and other delayed weights that close a loop.

    Returns
    -------
    Network
        A copy of the network with new matrices. Functions, biases and delays do not change.

    Raises
    ------
    TypeError, ValueError
        As in :func:`fluctuation_driven`, for example if a source does not spike. The message names
        the layer.

    Notes
    -----
    Each matrix of a :class:`~spikegrad.Window` counts as a source. A :class:`DelayKernel` counts as
    one source, with its mean delay and width.

    The variance is correct on average over many random draws, also if sources are correlated. A
    single draw differs from it, most for few neurons and correlated inputs. For example, in a layer
    of m neurons with one common input, the relative standard deviation of the variance is
    :math:`\sqrt{2/m}`. Weights that close a loop are scaled to the outputs of the layer without the
    loop. The loop then changes these outputs, so their variance is approximate.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import LIF, Delayed, Layer, LeakyReadout, Network
    >>> from spikegrad.network import draw_weights
    >>> w = jnp.zeros((20, 20))
    >>> network = Network(
    ...     {
    ...         "hidden": Layer({"input": w, "hidden": Delayed(w, 2)}, LIF(0.9)),
    ...         "out": Layer(jnp.zeros((20, 3)), LeakyReadout(0.9)),
    ...     }
    ... )
    >>> spikes = jax.random.bernoulli(jax.random.key(1), 0.1, (50, 8, 20))
    >>> network = draw_weights(network, jax.random.key(0), spikes)
    >>> _, activity = network.observe(spikes)
    >>> bool(0.01 < activity["hidden"].output.mean() < 0.5)
    True
    >>> bool(0.3 < activity["out"].output.std() < 3)
    True
    """
    drawn = draw_layers(
        network.graph,
        named_inputs(network.inputs, inputs) if inputs is not None else None,
        key,
        rate=rate,
        mask=mask,
        mean=mean,
        std=std,
        weight=weight,
        recurrent=recurrent,
    )
    return dataclasses.replace(network, layers=network.layers | drawn)


def draw_layers(
    graph: Graph,
    x: Mapping[Name, jax.Array] | None,
    key: jax.Array,
    *,
    rate: float | None,
    mask: ArrayLike | None,
    mean: float,
    std: Real | Mapping[Name, Real | None] | None,
    weight: Initializer | None,
    recurrent: Initializer | None,
) -> dict[Name, Any]:
    """Return the layers of a graph with new matrices, see :func:`draw_weights`.

    ``x`` has the inputs to measure, by name.
    """
    drawing, spiking = jax.random.split(as_key("draw_weights", key))
    has_inputs_or_rate = (x is None) != (rate is None)
    if weight is None and not has_inputs_or_rate:
        raise TypeError("draw_weights: pass inputs to measure, or a rate, or weight")
    deviations = std if isinstance(std, Mapping) else dict.fromkeys(graph.layers, std)
    if not {*deviations} <= {*graph.layers}:
        raise ValueError(
            f"draw_weights: std must name layers of {[*graph.layers]}, got {[*deviations]}"
        )
    # A key of any kind will do if no layer draws.
    draws = any(layer.cell.draws for layer in graph.layers.values())
    noise = spiking if draws else None
    plan = Plan(Backward(), tuple(graph.nodes), this_device())
    if x is not None:
        mask = checked_mask(mask, x)
    # Arrays are arguments of the compiled function, so the weights of each turn do not
    # recompile it.
    _, functions = split(Entries(graph.nodes), is_array)

    @jax.jit
    def run(arrays: Entries, x: NamedArrays, mask: jax.Array | None) -> NamedArrays:
        nodes, x, mask, key = match_varying_axes(
            (merge(arrays, functions), x, mask, checked_key(noise))
        )
        drawn = graph._replace(nodes=dict(nodes))
        _, sequences = run_sequence(plan, drawn, CallArrays(x, {}, mask, key))
        return sequences

    def outputs() -> NamedTrees:
        """Return the outputs of all sources with the weights so far, or the rate of each."""
        if x is None:
            return dict.fromkeys((*graph.inputs, *graph.nodes), rate)
        nodes = Entries(graph.nodes) | drawn_layers
        arrays, _ = split(nodes, is_array)
        return {**x, **run(arrays, dict(x), mask)}

    # All weights are zeros until they are drawn. Values that a user passed would otherwise feed the
    # measurement.
    drawn_layers: dict[Name, Any] = {}
    for name, layer in graph.layers.items():
        forms = {label: _matrix(weight) for label, weight in layer.weights.items()}
        zeros = {
            label: np.zeros(form.shape, form.dtype)
            for label, form in forms.items()
            if form is not None
        }
        drawn_layers[name] = _with_matrices(layer, zeros)
    # Two turns for each component: weights outside of loops, then those that close one.
    turns = (False, weight), (True, recurrent or weight)
    # In the order of the signals, because the outputs of a source depend on its weights. Delayed
    # edges that close a loop come last, after all other weights of the loop.
    for names in graph.components():
        layers = [name for name in names if name in graph.layers]
        for closes_loop, initializer in turns:
            for name in layers:
                weights = _edges_to_draw(graph, name, closes_loop)
                if not weights:
                    continue
                # One key for each layer and turn. A layer without weights to draw takes none.
                drawing, subkey = jax.random.split(drawing)
                cell = graph.layers[name].cell
                # Several weights of a layer have the same cell, so its response is measured once.
                respond = functools.cache(functools.partial(measure_response, cell))
                edge_count = sum(map(len, weights.values()))
                # A loop gets its share only if it is drawn by the same rule as the other edges.
                share = 1.0
                other_weights = _edges_to_draw(graph, name, not closes_loop)
                if other_weights and not recurrent:
                    share = 1 - FEEDFORWARD if closes_loop else FEEDFORWARD
                rule = Driven(
                    cell,
                    None,
                    mask,
                    mean,
                    deviations.get(name),
                    respond,
                    # Variances of independent weights add up, so each edge gets an equal part.
                    share=share / edge_count,
                    # The mean of the potential comes only from the sources outside of the loop.
                    mean_share=0.0 if closes_loop else 1 / edge_count,
                )
                with node_named(name, graph):
                    sources = {} if initializer else outputs()
                    drawn_layers[name] = _draw(
                        subkey,
                        drawn_layers[name],
                        weights,
                        initializer,
                        rule,
                        sources,
                    )
    return drawn_layers


def _edges_to_draw(
    graph: Graph, name: Name, closes_loop: bool
) -> dict[str, list[Edge]]:
    """Return the edges of each weight of a layer with a matrix, by label: of delayed weights that
    close a loop, or of all others.
    """
    edges_of_weights = {}
    for label, weight in graph.nodes[name].weights.items():
        if _matrix(weight) is None:
            continue
        labels = weights_of(label, weight)
        edges = [edge for edge in graph.edges[name] if edge.label in labels]
        # a kernel of delays has one matrix for all its lags
        edges = edges if _is_window(weight) else edges[:1]
        # An edge of a loop without a delay takes part in the step itself, so it is drawn with
        # the forward weights.
        looped = graph.looped[name]
        is_feedback = all(e.label in looped and min(e.lags) > 0 for e in edges)
        if is_feedback == closes_loop:
            edges_of_weights[label] = edges
    return edges_of_weights


def _matrix(weight: Weight) -> Any:
    """Return shape and dtype of the array to draw of a weight, or None.

    A window has ``length`` as its first axis. Receptors are the last axis: ``(inputs, neurons,
    receptors)``.
    """
    inner = inner_of(weight)
    if isinstance(inner, DelayKernel):
        inner = inner.weight
    return jax.eval_shape(jnp.asarray, inner) if is_array(inner) else None


def _with_matrices(
    layer: LayerFields, matrices: Mapping[str, ArrayLike]
) -> LayerFields:
    """Return the layer with other matrices, by the labels in its ``weights``."""
    new = dict(layer.weights)
    for label, matrix in matrices.items():
        inner = inner_of(new[label])
        if isinstance(inner, DelayKernel):
            matrix = dataclasses.replace(inner, weight=matrix)
        new[label] = with_inner(new[label], matrix)
    return with_weights(layer, new)


def _draw(
    key: jax.Array,
    layer: LayerFields,
    weights: Mapping[str, list[Edge]],
    initializer: Initializer | None,
    rule: Driven,
    sources: Mapping[Name, PyTree],
) -> LayerFields:
    """Return a layer with matrices that have a share of the variance of its potential together."""
    matrices = {}
    for n, (label, edges) in enumerate(weights.items()):
        weight = layer.weights[label]
        key_of_weight = jax.random.fold_in(key, n)
        # One for each lag of a window, which are independent matrices.
        keys = jax.random.split(key_of_weight, len(edges))
        before = _matrix(weight)
        is_window = _is_window(weight)
        # The matrix of one lag.
        shape = before.shape[1:] if is_window else before.shape
        drawn = []
        for edge, subkey in zip(edges, keys, strict=True):
            draw = initializer
            if draw is None:
                rate = sources[edge.source]
                lag = edge.lags[0]
                is_late = lag > 0 or isinstance(weight, Window)
                # A rate is the same at each lag. Measured outputs arrive later, and the last ones
                # never do.
                if np.ndim(rate) and is_late:
                    rate = _arriving(weight, rate, lag, rule.mask)
                draw = rule._replace(rate=checked_rate(rate))
            drawn.append(draw(subkey, shape, before.dtype))
        matrices[label] = jnp.stack(drawn) if is_window else drawn[0]
    return _with_matrices(layer, matrices)


def _is_window(weight: Weight) -> bool:
    """If True, the first axis of the array has the lags of a window."""
    return isinstance(weight, Window) and is_array(weight.weight)


@functools.partial(jax.jit, static_argnums=2)
def _arriving(weight: Weight, x: jax.Array, lag: int, mask: jax.Array | None) -> Any:
    """Return the outputs of a source as the matrix reads them.

    A kernel of delays averages them over its lags.
    """
    kernel = weight.weight if isinstance(weight, Window) else None
    if not isinstance(kernel, DelayKernel):
        return lagged_sequence(x, lag, mask)
    # One matrix is drawn for all delays, so the source passes the mean kernel: weights of 1 at
    # the mean delay and width.
    mean_kernel = kernel._replaced(
        weight=jnp.ones((1, 1)),
        delay=jnp.mean(jnp.asarray(kernel.delay)),
        width=jnp.mean(jnp.asarray(kernel.width)),
    )
    spread = jnp.asarray(mean_kernel).ravel()
    x = x.astype(spread.dtype)
    return sum(part * lagged_sequence(x, lag, mask) for lag, part in enumerate(spread))
