"""What nodes of NIR do to the inputs of one step, as functions that are pytrees of their weights.

The first axis is that of the examples. Weights have the outputs, or channels of them, first, as in NIR.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
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
        axes = x.ndim - 1  # those of an example, which NIR counts
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


def _of_examples(values: jax.Array, x: jax.Array) -> jax.Array:
    """Values of one example, with the axis of examples."""
    return jnp.expand_dims(values, tuple(range(x.ndim - values.ndim)))
