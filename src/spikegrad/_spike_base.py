"""The base class of spike types, and the step.

A spike type computes a value, a smooth step and a slope from a curve. The rule in
``_surrogate.py`` returns the value. It uses the slope as the derivative in ``x`` and, under
``learnable``, the derivative of the smooth step in the parameters. So a spike type consists of
formulas and a few flags. The types besides the step are in ``_spike_types.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import jax

from ._checks import snake_case
from ._pytree import is_array
from ._struct import Real, Struct, expression_of

Curve = Any
"""An object with ``surrogate_fun`` and ``surrogate_grad``."""


class SpikeType(Struct):
    """The forward output of a spike.

    Cells, networks and checks read the flags and never the class.
    """

    is_step: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    """If True, :meth:`value` draws from the key of the call."""
    graded: ClassVar[bool] = False
    """If True, outputs are real numbers instead of counts."""
    negative: ClassVar[bool] = False
    """If True, outputs may be below 0."""
    multiple: ClassVar[bool] = False
    """If True, one step may have more than one spike."""
    needs_smooth_step: ClassVar[bool] = False
    """If True, the output is computed from the smooth step."""
    needs_magnitude: ClassVar[bool] = False
    """If True, the sign of ``x`` does not determine the output."""

    @classmethod
    def _public_name(cls) -> str:
        return snake_case(cls.__name__)  # the public function that sets it

    def expression(self, curve: str) -> str:
        """Return the expression that makes this surrogate, given the expression of its curve."""
        arguments = [*self._values().values()]
        # Without defaults at the end. Arrays are no defaults.
        for field in reversed(dataclasses.fields(self)):  # type: ignore[arg-type]
            last = arguments[-1]
            if is_array(last) or last != field.default:
                break
            arguments.pop()
        texts = [curve, *map(expression_of, arguments)]
        return f"{self._public_name()}({', '.join(texts)})"

    def value(
        self, curve: Curve, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Return the forward output in the dtype of ``x``. The caller handles NaN."""
        raise NotImplementedError

    def smooth_step(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_fun(x)

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_grad(x)

    def own_slopes(
        self, curve: Curve, x: jax.Array
    ) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Yield the parameters of the type in the shape of ``x``, each with the derivative in
        it."""
        del curve, x
        yield from ()

    def in_units_of(self, threshold: Real, x: jax.Array) -> SpikeType:
        """Return the type for a cell with this threshold, which broadcasts to ``x``."""
        del threshold, x
        return self


class UnitStep(SpikeType, pure=True):
    """The default spike type: 1 for ``x >= 0``, else 0."""

    is_step = True

    def expression(self, curve: str) -> str:
        return curve

    def value(
        self, curve: Curve, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        return (x >= 0).astype(x.dtype)
