"""Fixes, and how each changes a layer."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...network import Layer, Network
from ...network._connections import matrix_of, product
from ...neurons import parameters_of, with_parameters


@dataclasses.dataclass(frozen=True)
class Fix:
    """A change of one layer, or of several together, against a fault. ``str`` returns its text."""

    index: int
    """Index into ``network.layers``."""
    change: str
    """The part that changes. ``"feedforward weights"``, ``"weights"``, ``"recurrent weights"``, ``"threshold"`` and
    ``"learning rate"`` are multiplied by ``value``. It is added to ``"bias"`` and to each ``"weight offset"``. A
    tuple has a number for each neuron. ``"surrogate"``, ``"decay"``, ``"adaptation"``, ``"reset_value"``,
    ``"detach_reset"`` and ``"mode"`` become it. ``"input channels"`` multiplies the weights of some channels, and
    ``"inputs"`` the inputs themselves: ``value`` holds pairs of a channel and its factor. ``"input offset"`` has a
    number for each channel, which is subtracted. ``"mean current"`` becomes 0 in each step."""
    value: Any
    """The factor, the number that is added, or the new value."""
    text: str
    """The instruction, with its number."""
    others: tuple[Fix, ...] = ()
    """The changes of other layers that belong to this change."""

    def __str__(self) -> str:
        return self.text

    def apply(self, network: Network) -> Network:
        """Return the changed network.

        Raises
        ------
        ValueError
            If the change is a learning rate or a mode, which a network does not have.
        """
        if self.change not in CHANGES:
            raise ValueError(f"Fix: a network has no {self.change}: {self.text}")
        layers: list[Any] = list(network.layers)
        for one in (self, *self.others):
            layers[one.index] = CHANGES[one.change](layers[one.index], one.value)
        return dataclasses.replace(network, layers=layers)


def is_idle(fix: Fix) -> bool:
    """Whether a fix changes nothing, because it multiplies by 1."""
    return fix.change in (*_MULTIPLYING, "learning rate") and fix.value == 1


# --- changes of a layer -----------------------------------------------------------------------------------------------


def _multiply(*names: str) -> Callable[[Layer, float], Layer]:
    def change(layer, factor):
        values = {name: getattr(layer, name) for name in names}
        return dataclasses.replace(layer, **{name: _times(factor, v) for name, v in values.items() if v is not None})

    return change


def _times(factor: float | tuple[float, ...], value: Any) -> Any:
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


def _set(name: str, layer: Layer, value: Any) -> Layer:
    """Give the cell another parameter."""
    return dataclasses.replace(layer, cell=with_parameters(layer.cell, **{name: value}))


def _multiply_threshold(layer: Layer, factor: float) -> Layer:
    return _set("threshold", layer, factor * parameters_of(layer.cell).threshold)


def _add_to_bias(layer: Layer, value: float | tuple[float, ...]) -> Layer:
    bias = 0.0 if layer.bias is None else jnp.asarray(layer.bias)
    return dataclasses.replace(layer, bias=bias + jnp.asarray(value, getattr(bias, "dtype", None)))


def _add_to_matrix(layer: Layer, offset: float) -> Layer:
    return dataclasses.replace(layer, weight=jnp.asarray(matrix_of(layer.weight)) + offset)


def _multiply_rows(layer: Layer, pairs: Sequence[tuple[int, float]]) -> Layer:
    matrix = jnp.asarray(matrix_of(layer.weight))
    factors = np.ones((len(matrix), 1), np.float32)
    for channel, factor in pairs:
        factors[channel] = factor
    return dataclasses.replace(layer, weight=matrix * jnp.asarray(factors, matrix.dtype))


def _change_inputs(layer: Layer, **changed: Any) -> Layer:
    return dataclasses.replace(layer, weight=jax.tree_util.Partial(_OfInputs(**changed), layer.weight))


@dataclasses.dataclass(frozen=True)
class _OfInputs:
    """A weight of inputs that are shifted and scaled first, by constants."""

    offset: float | tuple[float, ...] = 0.0
    factors: tuple[tuple[int, float], ...] = ()

    def __call__(self, weight: Any, x: jax.Array) -> jax.Array:
        x = x.astype(x.dtype if x.dtype == jnp.float64 else jnp.float32)
        offset, axes = jnp.asarray(self.offset, x.dtype), 0
        while math.prod(x.shape[x.ndim - axes :]) < offset.size:  # the channels are the last axes, flattened
            axes += 1
        x = x - jnp.broadcast_to(offset.reshape(x.shape[x.ndim - axes :]), x.shape)
        for channel, factor in self.factors:
            x = x.at[..., channel].multiply(factor)
        return product(weight, x, "weight")


def _centered(weight: Any, x: jax.Array) -> jax.Array:
    """Weights whose mean over the neurons is 0, ``(..., neurons)``, for a function."""
    current = product(weight, x, "weight")
    return current - current.mean(-1, keepdims=True)


_MULTIPLYING: dict[str, Callable[[Layer, Any], Layer]] = {
    "feedforward weights": _multiply("weight", "bias"),
    "weights": _multiply("weight", "bias", "recurrent"),
    "recurrent weights": _multiply("recurrent"),
    "threshold": _multiply_threshold,
}
CHANGES: dict[str, Callable[[Layer, Any], Layer]] = {
    **_MULTIPLYING,
    "bias": _add_to_bias,
    "weight offset": _add_to_matrix,
    "input channels": _multiply_rows,
    "inputs": lambda layer, pairs: _change_inputs(layer, factors=pairs),
    "mean current": lambda layer, _: dataclasses.replace(layer, weight=jax.tree_util.Partial(_centered, layer.weight)),
    "input offset": lambda layer, offset: _change_inputs(layer, offset=offset),
}
CHANGES |= {
    name: functools.partial(_set, name) for name in ("surrogate", "adaptation", "reset_value", "decay", "detach_reset")
}
