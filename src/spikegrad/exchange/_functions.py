"""Nodes of NIR as functions of the inputs of one time step. They are pytrees of their weights.

The first axis has the examples. Outputs, or their channels, are the first axis of weights, as in NIR.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass


@partial(register_dataclass, data_fields=["weight"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Product:
    weight: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(self.weight.dtype) @ self.weight.T


@partial(register_dataclass, data_fields=["weight"], meta_fields=["stride", "padding", "dilation", "groups"])
@dataclasses.dataclass(frozen=True)
class Convolution:
    weight: Any
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] | str
    dilation: tuple[int, ...]
    groups: int

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x.astype(self.weight.dtype),
            self.weight,
            self.stride,
            self.padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
        )


@partial(register_dataclass, data_fields=[], meta_fields=["first", "last"])
@dataclasses.dataclass(frozen=True)
class Flatten:
    first: int
    last: int

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.ndim - 1  # the axes of an example, which NIR counts
        before, after = self.first % axes + 1, self.last % axes + 2
        return x.reshape(*x.shape[:before], -1, *x.shape[after:])


@partial(register_dataclass, data_fields=["factor"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Scale:
    factor: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(self.factor.dtype) * _of_examples(self.factor, x)


@partial(register_dataclass, data_fields=["bias"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Shift:
    bias: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + _of_examples(self.bias, x)


@partial(register_dataclass, data_fields=["functions"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Chain:
    functions: tuple[Callable[[jax.Array], jax.Array], ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        for function in self.functions:
            x = function(x)
        return x


def add(*outputs: jax.Array) -> jax.Array:
    """The function of a join that adds its sources."""
    return reduce(jnp.add, outputs)


def _of_examples(values: jax.Array, x: jax.Array) -> jax.Array:
    """Add the axis of examples to values of one example."""
    return jnp.expand_dims(values, tuple(range(x.ndim - values.ndim)))
