"""A cell without spikes, which shows the argument of its surrogate.

The cell itself computes the argument: the distance to the threshold, in the unit in which it calls
its surrogate. So measurements need no rule for the threshold, the normalization or the unit of each
class.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._surrogate import Surrogate
from ._cell import Cell, State, fire as fire_cell
from ._declared import parameters_of, with_parameters


class Recorder(Surrogate):
    """A surrogate that never fires and remembers its argument."""

    def __init__(self) -> None:
        self.x: jax.Array | None = None

    def __call__(self, x: Any, **options: Any) -> jax.Array:
        del options
        self.x = x
        return jnp.zeros_like(x)


class QuietCell(NamedTuple):
    """A cell whose surrogate never fires."""

    cell: Any
    recorder: Recorder

    def state_and_distance(
        self, u: State, active: ArrayLike | None = None
    ) -> tuple[State, Any]:
        """Return the state after no spike, and the argument of the surrogate.

        ``u`` is the state of one step, and ``active`` are the unmasked examples, ``(batch,)``. The
        argument is None if the cell calls another surrogate than the one in its field.
        """
        # The cell calls the recorder in place of its surrogate, or never.
        self.recorder.x = None
        try:
            mask = None if active is None else jnp.asarray(active)
            # The argument does not depend on the key of a cell that draws.
            key = jax.random.key(0) if self.cell.draws else None
            v, _ = fire_cell(self.cell, u, key, mask)
        except (TypeError, NotImplementedError):
            # The cell derives another surrogate from it, such as a stretched one.
            return u, None
        return v, self.recorder.x


def surrogate_of(cell: Any) -> Any:
    """Return the surrogate in a field of a cell, or None for a cell that never fires."""
    field = _surrogate_field(cell)
    return None if field is None else getattr(parameters_of(cell), field)


def with_surrogate(cell: Any, surrogate: Any) -> Any:
    """Return the cell with another surrogate in its field."""
    field = _surrogate_field(cell)
    if field is None:
        raise ValueError(f"{type(cell).__name__}: no field has a surrogate")
    return with_parameters(cell, **{field: surrogate})


def quiet_cell(cell: Cell) -> QuietCell:
    """Return a cell that fires with a recorder in the field of its surrogate."""
    recorder = Recorder()
    return QuietCell(with_surrogate(cell, recorder), recorder)


def surrogate_arguments(
    cell: Cell, states: State, mask: jax.Array | None = None
) -> jax.Array | None:
    """Return the arguments of the surrogate for the states before the spike of all steps.

    ``states`` has arrays ``(steps, batch, ...)``, ``mask`` is ``(steps, batch)`` or ``(steps,)``.
    """
    quiet = quiet_cell(cell)

    def argument(u: State, active: jax.Array | None) -> jax.Array | None:
        _, x = quiet.state_and_distance(u, active)
        return x

    # vmap over the steps, because ``fire`` takes the state of one step.
    return jax.vmap(argument)(states, mask)


def _surrogate_field(cell: Any) -> str | None:
    # Of the inner cell of a wrapper, such as Refractory.
    fields = vars(parameters_of(cell))
    if fields.get("threshold", 1) is None:
        return None
    for name, value in fields.items():
        # The field of the library also takes functions.
        is_function = name == "surrogate" and callable(value)
        if is_function or isinstance(value, Surrogate):
            return name
    return None
