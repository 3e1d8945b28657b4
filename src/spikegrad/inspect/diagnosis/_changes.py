"""The changes that remedies make to a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...network import Layer
from ...network._layer import _product, matrix_of
from ...neurons import parameters_of, with_parameters


def _with(layer: Layer, **changed: Any) -> Layer:
    return dataclasses.replace(layer, cell=with_parameters(layer.cell, **changed))


def _scaled(*names: str) -> Callable[[Layer, float], Layer]:
    def change(layer, factor):
        values = {name: getattr(layer, name) for name in names}
        return dataclasses.replace(layer, **{name: _times(factor, v) for name, v in values.items() if v is not None})

    return change


@dataclasses.dataclass(frozen=True)
class _Times:
    """A function of one step times a constant, which is not trained."""

    factor: float

    def __call__(self, function: Callable, x: jax.Array) -> jax.Array:
        return self.factor * function(x)


def _times(factor: float, value: Any) -> Any:
    if callable(value) and not hasattr(value, "__jax_array__"):
        return jax.tree_util.Partial(_Times(factor), value)
    return factor * jnp.asarray(value)


def _on_matrix(change: Callable[[jax.Array, Any], jax.Array]) -> Callable[[Layer, Any], Layer]:
    return lambda layer, value: dataclasses.replace(layer, weight=change(jnp.asarray(matrix_of(layer.weight)), value))


def _channels_scaled(matrix: jax.Array, pairs: Sequence[tuple[int, float]]) -> jax.Array:
    factors = np.ones((len(matrix), 1), np.float32)
    for channel, factor in pairs:
        factors[channel] = factor
    return matrix * jnp.asarray(factors, matrix.dtype)


@dataclasses.dataclass(frozen=True)
class _OfInputs:
    """A weight of inputs that are shifted and scaled first, by constants."""

    offset: float = 0.0
    factors: tuple[tuple[int, float], ...] = ()

    def __call__(self, weight: Any, x: jax.Array) -> jax.Array:
        x = x.astype(x.dtype if x.dtype == jnp.float64 else jnp.float32) - self.offset
        for channel, factor in self.factors:
            x = x.at[..., channel].multiply(factor)
        return _product(weight, x, "weight")


def _inputs_changed(layer: Layer, **changed: Any) -> Layer:
    return dataclasses.replace(layer, weight=jax.tree_util.Partial(_OfInputs(**changed), layer.weight))


def _lifted(layer: Layer, value: float) -> Layer:
    bias = jnp.asarray(value) if layer.bias is None else jnp.asarray(layer.bias) + value
    return dataclasses.replace(layer, bias=bias)


CHANGES: dict[str, Callable[[Layer, Any], Layer]] = {
    "feedforward weights": _scaled("weight", "bias"),
    "weights": _scaled("weight", "bias", "recurrent"),
    "recurrent weights": _scaled("recurrent"),
    "bias": _lifted,
    "weight offset": _on_matrix(lambda matrix, offset: matrix + offset),
    "input channels": _on_matrix(_channels_scaled),
    "inputs": lambda layer, pairs: _inputs_changed(layer, factors=pairs),
    "input offset": lambda layer, offset: _inputs_changed(layer, offset=offset),
    "threshold": lambda layer, value: _with(layer, threshold=value * parameters_of(layer.cell).threshold),
    "surrogate": lambda layer, value: _with(layer, surrogate=value),
    "adaptation": lambda layer, value: _with(layer, adaptation=value),
    "reset_value": lambda layer, value: _with(layer, reset_value=value),
    "decay": lambda layer, value: _with(layer, decay=value),
    "detach_reset": lambda layer, value: _with(layer, detach_reset=value),
}
