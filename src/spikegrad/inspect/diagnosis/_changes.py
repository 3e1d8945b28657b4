"""The changes that remedies make to a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ...network import Layer
from ...neurons import parameters_of, with_parameters


def _with(layer: Layer, **changed: Any) -> Layer:
    return dataclasses.replace(layer, cell=with_parameters(layer.cell, **changed))


def _scaled(*names: str) -> Callable[[Layer, float], Layer]:
    def change(layer, factor):
        values = {name: getattr(layer, name) for name in names}
        return dataclasses.replace(layer, **{name: _times(factor, v) for name, v in values.items() if v is not None})

    return change


def _times(factor: float, value: Any) -> Any:
    if callable(value) and not hasattr(value, "__jax_array__"):
        return jax.tree_util.Partial(_called, factor, value)
    return factor * jnp.asarray(value)


def _called(factor: Any, function: Callable, x: jax.Array) -> jax.Array:
    return factor * function(x)


def _lifted(layer: Layer, value: float) -> Layer:
    bias = jnp.asarray(value) if layer.bias is None else jnp.asarray(layer.bias) + value
    return dataclasses.replace(layer, bias=bias)


CHANGES: dict[str, Callable[[Layer, Any], Layer]] = {
    "feedforward weights": _scaled("weight", "bias"),
    "weights": _scaled("weight", "bias", "recurrent"),
    "recurrent weights": _scaled("recurrent"),
    "bias": _lifted,
    "threshold": lambda layer, value: _with(layer, threshold=value * parameters_of(layer.cell).threshold),
    "surrogate": lambda layer, value: _with(layer, surrogate=value),
    "decay": lambda layer, value: _with(layer, decay=value),
    "detach_reset": lambda layer, value: _with(layer, detach_reset=value),
}
