"""Spikes and resets: what all cells with the fields ``threshold``, ``surrogate`` and
``detach_reset`` share.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import brief
from .._surrogate import in_units_of, spike_types
from ..surrogates import get
from ._cell import Cell, State


class Spiking(Cell, pure=True):
    """A cell with the fields ``threshold``, ``surrogate`` and ``detach_reset``, in the order that
    it likes.

    A class with a ``fire`` of its own declares ``encode, decode = Spiking.encode, Spiking.decode``
    if they apply.
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

    def __post_init__(self: Any) -> None:
        if isinstance(self.surrogate, str):
            raise TypeError(
                f"{type(self).__name__}: surrogate must be a Callable, "
                f"{_instead_of(self.surrogate)}"
            )
        Cell.__post_init__(self)

    def _refuse(self: Any, feature: str, *flags: str) -> None:
        """Raise if the spike type has a flag that does not go with something."""
        for kind in spike_types(self.surrogate):
            if any(getattr(kind, flag) for flag in flags):
                raise ValueError(
                    f"{type(self).__name__}: {feature}, does not go with {brief(self.surrogate)}"
                )

    def _spike(
        self: Any, u: jax.Array, threshold: ArrayLike, key: jax.Array | None = None
    ) -> jax.Array:
        return spikes_of(in_units_of(self.surrogate, threshold, u), u - threshold, key)

    def _threshold(self: Any, *others: Any) -> Any:
        """Return the present threshold, which may depend on the other arrays of a state."""
        del others
        return self.threshold

    def _for_reset(self: Any, s: jax.Array) -> jax.Array:
        """The spike as the reset uses it."""
        return jax.lax.stop_gradient(s) if self.detach_reset else s

    def encode(self, u: State) -> tuple[jax.Array | None, Any]:
        """The distance of the first array of a state, or of the only one, to the threshold of the
        moment.
        """
        first, *others = u if isinstance(u, tuple) else (u,)
        return first - self._broadcast_to(first.dtype, first.shape, "v")._threshold(*others), tuple(
            others
        )

    def decode(self, distance: Any, rest: Any) -> State:
        threshold = self._broadcast_to(distance.dtype, distance.shape, "v")._threshold(*rest)
        u = from_distance(
            distance, jnp.broadcast_to(jnp.asarray(threshold, distance.dtype), distance.shape)
        )
        return (u, *rest) if rest else u


def spikes_of(surrogate: Callable, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Call a surrogate. A function with a custom derivative takes no key and needs none."""
    return surrogate(x) if key is None else surrogate(x, key=key)


def _instead_of(name: str) -> str:
    """The rest of a message about the name of a surrogate."""
    try:
        surrogate = get(name)
    except Exception:
        return f"got {brief(name)}; write an instance such as Sigmoid()"
    return (
        f"got {brief(name)}; write {surrogate if '(' in name else f'{type(surrogate).__name__}()'}"
    )


def from_distance(distance: jax.Array, threshold: jax.Array) -> jax.Array:
    """The potential at a distance from a threshold that was rounded, on the same side of it."""
    u = distance + threshold
    return jnp.where((distance < 0) & (u >= threshold), jnp.nextafter(threshold, -jnp.inf), u)


def check_known(cell: Cell, holds: Callable[..., Any], message: str, **values: Any) -> None:
    """Raise if a condition on several parameters does not hold.

    Arrays of JAX may be traced, and are not checked.
    """
    if any(
        isinstance(value, jax.Array) or not isinstance(value, (float, np.ndarray))
        for value in values.values()
    ):
        return
    if not np.all(holds(*values.values())):
        got = ", ".join(f"{name}={brief(value)}" for name, value in values.items())
        raise ValueError(f"{type(cell).__name__}: {message}, got {got}")
