"""Spikes and resets of all cells with the fields ``threshold`` and ``surrogate``."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._struct import Real, parameter
from .._surrogate import in_units_of, spike_types
from ..surrogates import Sigmoid
from ._cell import Cell, State

Spikes: TypeAlias = Callable[..., jax.Array]
"""A surrogate, or a function with a custom derivative, from potential to spikes."""


def spikes() -> Any:
    """Declare the field of the surrogate."""
    return parameter(default=Sigmoid(), kind=Callable)


def share(default: float) -> Any:
    """Declare a number from 0 to 1: a decay factor per time step, or a coupling."""
    return parameter(default=default, at_least=0, at_most=1)


class Spiking(Cell, pure=True):
    """A cell with the fields ``threshold``, ``surrogate`` and perhaps ``detach_reset``.

    A class defines ``_before`` and ``_after``, which read parameters in the shape of the state. The
    first array of its state is compared with ``_threshold``, which may depend on the others. A
    class that redefines ``fire`` must also declare ``encode`` and ``decode`` again, because these
    describe it.
    """

    _hints = MappingProxyType(
        {
            "v_threshold": "threshold=v_threshold",
            "v_th": "threshold=v_th",
            **dict.fromkeys(
                ("spike_grad", "surrogate_function", "spike_fn", "spk_fun"),
                "surrogate=Sigmoid(), or another surrogate",
            ),
        }
    )

    def integrate(self, v: State, current: jax.Array) -> State:
        cell, arrays = self._in_shape_of(v)
        return cell._before(current, *arrays)

    def fire(self, u: State, key: jax.Array | None = None) -> tuple[State, jax.Array]:
        cell, (first, *others) = self._in_shape_of(u)
        threshold = cell._threshold(*others)
        s = cell._spike(first, threshold, key)
        return cell._after(s, first, *others), s

    def _in_shape_of(self, state: State) -> tuple[Self, tuple[jax.Array, ...]]:
        """Return the cell with parameters in the shape of a state, and the arrays of the state."""
        # An array with two rows is not a state of two arrays.
        arrays = state if isinstance(state, tuple) else (state,)
        first = arrays[0]
        cell = self._broadcast_to(first.dtype, first.shape, "v")
        return cell, arrays

    def _before(self, current: jax.Array, *state: jax.Array) -> State:
        """Return the state before the spike, from the arrays of the state after the last one."""
        raise NotImplementedError

    def _after(self, s: jax.Array, *u: jax.Array) -> State:
        """Return the state after the spikes ``s``, from the arrays of the state before them."""
        raise NotImplementedError

    def _spike(
        self: Any, u: jax.Array, threshold: Real, key: jax.Array | None = None
    ) -> jax.Array:
        surrogate = in_units_of(self.surrogate, threshold, u)
        # ``encode`` computes this difference too, so the sign of a stored distance is the spike.
        return spikes_of(surrogate, u - threshold, key)

    def _threshold(self: Any, *others: jax.Array) -> Real:
        """Return the present threshold, which may depend on the other arrays of a state."""
        del others
        return self.threshold

    def _for_reset(self: Any, s: jax.Array) -> jax.Array:
        """Return the spike as the reset uses it."""
        # Only the reset is detached. An adaptation reads ``s`` itself, because it is the memory of
        # the neuron.
        return jax.lax.stop_gradient(s) if self.detach_reset else s

    def _to_value(self: Any, u: jax.Array, s: jax.Array) -> jax.Array:
        """Return the potential after a reset to ``reset_value``."""
        s = self._for_reset(s)
        # A select, ``jnp.where(s > 0, ...)``, would have the same values but no derivative in s.
        return u * (1 - s) + self.reset_value * s

    def _refuse(self: Any, feature: str, *flags: str) -> None:
        """Raise if the spike type has a flag that the feature does not support."""
        for kind in spike_types(self.surrogate):
            if any(getattr(kind, flag) for flag in flags):
                raise ValueError(
                    f"{type(self).__name__}: {feature}, does not go with {brief(self.surrogate)}"
                )

    def _refuse_counts(self) -> None:
        self._refuse(
            "a reset to a value, which takes one spike a step", "multiple", "negative"
        )

    def _check_known(
        self, holds: Callable[..., ArrayLike], message: str, *names: str
    ) -> None:
        """Raise if a condition on several parameters does not hold.

        JAX arrays may be traced, and are not checked.
        """
        values = [getattr(self, name) for name in names]
        known = all(isinstance(value, (float, np.ndarray)) for value in values)
        if known and not np.all(holds(*values)):
            pairs = zip(names, values, strict=True)
            got = ", ".join(f"{name}={brief(value)}" for name, value in pairs)
            raise ValueError(f"{type(self).__name__}: {message}, got {got}")

    def encode(self, u: State) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        cell, (first, *others) = self._in_shape_of(u)
        # Only the first array becomes a distance. The threshold may depend on the others, so
        # ``decode`` gets them back first.
        distance = first - cell._threshold(*others)
        return distance, tuple(others)

    def decode(self, distance: jax.Array, rest: tuple[jax.Array, ...]) -> State:
        cell, _ = self._in_shape_of(distance)
        threshold = jnp.asarray(cell._threshold(*rest), distance.dtype)
        threshold = jnp.broadcast_to(threshold, distance.shape)
        u = distance + threshold
        # The threshold depends on arrays that were rounded to 16 bits. A sum that is rounded up to
        # it would fire, although the distance is negative.
        would_fire = (distance < 0) & (u >= threshold)
        below = jnp.nextafter(threshold, -jnp.inf)
        u = jnp.where(would_fire, below, u)
        return (u, *rest) if rest else u


def spikes_of(surrogate: Spikes, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Call a surrogate. A function with a custom derivative takes no key and needs none."""
    return surrogate(x) if key is None else surrogate(x, key=key)
