"""Fixes, and how each changes a layer."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._pytree import is_inexact
from ...network import Delayed, DelayKernel, Layer, Network, Window
from ...network._connections import matrix_of, product
from ...network._layer import with_weights
from ...network._network import with_nodes
from ...neurons import parameters_of, with_parameters
from ._places import feedback_weights


@dataclasses.dataclass(frozen=True)
class Fix:
    """A change of one layer, or of several together, against a fault. ``str`` returns its text."""

    index: int | str
    """Index into ``network.layers``: a position in a list, or a name."""
    change: str
    """The part that changes.

    ``"feedforward weights"``, ``"weights"``, ``"recurrent weights"``, ``"threshold"``,
    ``"learning rate"``, ``"weight decay"`` and ``"epsilon"`` are multiplied by ``value``. Recurrent
    weights include feedback from other layers. ``value`` is added to ``"bias"``, and to each weight
    for ``"weight offset"`` and ``"recurrent offset"``. A tuple has a number for each neuron.
    ``"input channels"`` multiplies the weights of some channels, and ``"inputs"`` the inputs
    themselves: ``value`` holds pairs of a channel and its factor. ``"input scale"`` multiplies all
    inputs, and ``"input limit"`` limits their size. ``"input offset"`` has a number for each
    channel, which is subtracted. ``"mean current"`` becomes 0 in each step. ``"dtype"`` is the new
    dtype of weights and
    bias. ``"mode"`` and other parameters of the cell, such as ``"surrogate"`` and ``"decay"``,
    become ``value``."""
    value: Any
    """The factor, the number that is added, or the new value."""
    text: str
    """The instruction, with its number."""
    source: str = ""
    """The name of the source whose inputs change, for a layer with several sources."""
    others: tuple[Fix, ...] = ()
    """The changes of other layers that belong to this change."""

    def __str__(self) -> str:
        return self.text

    def apply(self, network: Network) -> Network:
        """Return the changed network.

        Raises
        ------
        ValueError
            If the change is one of the optimizer or a mode, which a network does not have.
        """
        if self.change in OF_TRAINING:
            raise ValueError(
                f"Fix: apply changes a network, and this fix is a change of {self.change}: "
                f"{self.text}"
            )
        graph = network.graph
        nodes: dict[Any, Any] = dict(graph.nodes)
        for one in (self, *self.others):
            if one.change in _MULTIPLYING:
                feedback = feedback_weights(graph, one.index)
                nodes[one.index] = _multiplied(
                    nodes[one.index], one.value, _MULTIPLYING[one.change], feedback
                )
            else:
                change = CHANGES.get(one.change, functools.partial(_set, one.change))
                nodes[one.index] = _changed(nodes[one.index], one.source, change, one.value)
        return with_nodes(network, nodes)


def is_idle(fix: Fix) -> bool:
    """Whether a fix changes nothing, because it multiplies by 1."""
    return fix.change in (*_MULTIPLYING, "threshold", "learning rate") and fix.value == 1


# --- changes of a layer ---------------------------------------------------------------------------


def _changed(layer: Layer, source: str, change: Callable[[Layer, Any], Layer], value: Any) -> Layer:
    if not source:
        return change(layer, value)
    weights: Any = layer.weight
    alone = change(dataclasses.replace(layer, weight=weights[source], of=source), value)
    return dataclasses.replace(layer, weight={**weights, source: alone.weight})


def _multiplied(
    layer: Layer, factor: Any, parts: Collection[str], feedback: Collection[str]
) -> Layer:
    """Multiply parts of a layer: ``"sources"``, ``"bias"`` and ``"feedback"``."""

    def change(label: str, weight: Any) -> Any:
        return (
            _times(factor, weight)
            if ("feedback" if label in feedback else "sources") in parts
            else weight
        )

    layer = _each_weight(layer, change)
    if layer.bias is not None and "bias" in parts:
        layer = dataclasses.replace(layer, bias=_times(factor, layer.bias))
    return layer


def _each_weight(layer: Layer, change: Callable[[str, Any], Any]) -> Layer:
    """Change each weight by a function of its label and the weight."""
    return with_weights(
        layer, {label: change(label, weight) for label, weight in layer.weights.items()}
    )


def _times(factor: float | tuple[float, ...], value: Any) -> Any:
    if isinstance(value, (Delayed, Window, DelayKernel)):
        return dataclasses.replace(value, weight=_times(factor, value.weight))
    if callable(value) and not hasattr(value, "__jax_array__"):
        return jax.tree_util.Partial(_Times(factor), value)
    value = jnp.asarray(value)
    return jnp.asarray(factor, value.dtype) * value


@dataclasses.dataclass(frozen=True)
class _Times:
    """A function of one step times a constant, which is not trained."""

    factor: float | tuple[float, ...]

    def __call__(self, function: Callable, x: jax.Array) -> jax.Array:
        return _times(self.factor, function(x))


def _with_dtype(layer: Layer, dtype: str) -> Layer:
    """Store weights and bias in another dtype."""

    def stored(value: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_inexact(leaf) else leaf, value)

    layer = _each_weight(layer, lambda _, weight: stored(weight))
    return dataclasses.replace(layer, bias=stored(layer.bias))


def _set(name: str, layer: Layer, value: Any) -> Layer:
    """Give the cell another parameter."""
    return dataclasses.replace(layer, cell=with_parameters(layer.cell, **{name: value}))


def _multiply_threshold(layer: Layer, factor: float | tuple[float, ...]) -> Layer:
    threshold = parameters_of(layer.cell).threshold
    if isinstance(factor, tuple):
        threshold = jnp.asarray(threshold)
        return _set(
            "threshold",
            layer,
            jnp.asarray(factor, threshold.dtype).reshape(threshold.shape) * threshold,
        )
    return _set("threshold", layer, factor * threshold)


def _add_to_bias(layer: Layer, value: float | tuple[float, ...]) -> Layer:
    bias = 0.0 if layer.bias is None else jnp.asarray(layer.bias)
    return dataclasses.replace(layer, bias=bias + jnp.asarray(value, getattr(bias, "dtype", None)))


def _add_to_matrix(name: str, layer: Layer, offset: float) -> Layer:
    return dataclasses.replace(
        layer, **{name: jnp.asarray(matrix_of(getattr(layer, name))) + offset}
    )


def _multiply_rows(layer: Layer, pairs: Sequence[tuple[int, float]]) -> Layer:
    matrix = jnp.asarray(matrix_of(layer.weight))
    factors = np.ones((len(matrix), 1), np.float32)
    for channel, factor in pairs:
        factors[channel] = factor
    return dataclasses.replace(layer, weight=matrix * jnp.asarray(factors, matrix.dtype))


def _change_inputs(layer: Layer, **changed: Any) -> Layer:
    return dataclasses.replace(
        layer, weight=jax.tree_util.Partial(_OfInputs(**changed), layer.weight)
    )


@dataclasses.dataclass(frozen=True)
class _OfInputs:
    """A weight of inputs that are limited, shifted and scaled first, by constants."""

    offset: float | tuple[float, ...] = 0.0
    factors: tuple[tuple[int, float], ...] = ()
    scale: float = 1.0
    limit: float = math.inf

    def __call__(self, weight: Any, x: jax.Array) -> jax.Array:
        x = x.astype(x.dtype if x.dtype == jnp.float64 else jnp.float32)
        if self.limit < math.inf:
            x = jnp.clip(x, -self.limit, self.limit)
        offset, axes = jnp.asarray(self.offset, x.dtype), 0
        while (
            math.prod(x.shape[x.ndim - axes :]) < offset.size
        ):  # the channels are the last axes, flattened
            axes += 1
        x = (x - jnp.broadcast_to(offset.reshape(x.shape[x.ndim - axes :]), x.shape)) * self.scale
        for channel, factor in self.factors:
            x = x.at[..., channel].multiply(factor)
        return product(weight, x, "weight")


def _center(label: str, weight: Any) -> Any:
    """Subtract the mean over the neurons from the currents of a weight."""
    if label == "recurrent":
        return weight
    if isinstance(weight, Window) and (matrices := matrix_of(weight.weight)) is not None:
        return dataclasses.replace(weight, weight=matrices - jnp.mean(matrices, -1, keepdims=True))
    if isinstance(weight, (Delayed, Window)):
        return dataclasses.replace(weight, weight=_center(label, weight.weight))
    return jax.tree_util.Partial(_centered, weight)


def _centered(weight: Any, x: jax.Array) -> jax.Array:
    """Currents whose mean over the neurons is 0, ``(..., neurons)``."""
    current = product(weight, x, "weight")
    return current - current.mean(-1, keepdims=True)


_MULTIPLYING = {
    "feedforward weights": ("sources", "bias"),
    "weights": ("sources", "bias", "feedback"),
    "recurrent weights": ("feedback",),
}
CHANGES: dict[str, Callable[[Layer, Any], Layer]] = {
    "threshold": _multiply_threshold,
    "dtype": _with_dtype,
    "bias": _add_to_bias,
    "weight offset": functools.partial(_add_to_matrix, "weight"),
    "recurrent offset": functools.partial(_add_to_matrix, "recurrent"),
    "input channels": _multiply_rows,
    "inputs": lambda layer, pairs: _change_inputs(layer, factors=pairs),
    "input limit": lambda layer, limit: _change_inputs(layer, limit=limit),
    "input scale": lambda layer, factor: _change_inputs(layer, scale=factor),
    "mean current": lambda layer, _: _each_weight(layer, _center),
    "input offset": lambda layer, offset: _change_inputs(layer, offset=offset),
}
"""Changes of a layer by name, besides factors of weights and new values of other parameters of the
cell.
"""
OF_TRAINING = frozenset({"learning rate", "weight decay", "epsilon", "mode"})
"""The changes that a network cannot have."""
