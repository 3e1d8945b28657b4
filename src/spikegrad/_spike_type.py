"""The type of a spike: its forward output, and what others ask about it.

A type has a value, a primal and a slope, made of those of a curve. The rule in ``_surrogate.py`` takes the value for
the output, the slope for the derivative in ``x``, and under ``learnable`` the derivative of the primal for those in the
parameters. So each type is its formulas and a few flags. All types but the step are in ``_spike_types.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import jax

from ._checks import snake_case
from ._struct import Struct

Curve = Any
"""What has ``surrogate_fun`` and ``surrogate_grad``."""


class SpikeType(Struct):
    """How a spike looks, whatever its slope is. Cells, networks and checks read the flags and never the class."""

    is_step: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    """If True, the field ``key`` takes a random key before it fires."""
    graded: ClassVar[bool] = False
    """If True, outputs are not whole numbers, and a neuron neither fires nor rests."""
    negative: ClassVar[bool] = False
    """If True, outputs may be below 0."""
    several: ClassVar[bool] = False
    """If True, one step may have more than one spike."""
    needs_primal: ClassVar[bool] = False
    """If True, the output is made of the smooth primal."""
    needs_magnitude: ClassVar[bool] = False
    """If True, the sign of ``x`` does not tell which of a few values comes out."""

    @classmethod
    def _public_name(cls) -> str:
        return snake_case(cls.__name__)  # the public function that makes it

    def expression(self, curve: str) -> str:
        """The expression that makes it, around that of a curve."""
        return f"{self._public_name()}({curve})"

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        """What comes out of ``x``, in its dtype. NaN need not be thought of."""
        raise NotImplementedError

    def primal(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_fun(x)

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_grad(x)

    def own_slopes(self, curve: Curve, x: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Parameters of the type itself, in the shape of ``x``, each with the derivative in it."""
        del curve, x
        yield from ()

    def in_units_of(self, threshold: Any, x: jax.Array) -> SpikeType:
        """The same within a cell of this threshold, which broadcasts to ``x``."""
        del threshold, x
        return self


class Step(SpikeType, pure=True):
    is_step = True

    def expression(self, curve: str) -> str:
        return curve

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        return (x >= 0).astype(x.dtype)
