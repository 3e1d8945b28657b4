"""The activity of the nodes of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import jax

from ..._pytree import Entries
from ...neurons import State


class Activity(NamedTuple):
    """The activity of a layer or join over time, each array of shape ``(steps, batch, ...)``.

    Masked steps are zeros. A join has outputs only. A part that was not asked for is None.
    """

    output: jax.Array | None
    pre_spike: State | None = None
    """The state before the spike, an array or a tuple of arrays, as the cell has it."""
    current: jax.Array | None = None
    """The current that the neurons integrate: weights times inputs, recurrence and bias."""

    @property
    def potential(self) -> jax.Array:
        """The potential before the spike, which is the first array of the state."""
        if self.pre_spike is None:
            raise ValueError(
                "Activity: potential is missing; observe a layer with 'pre_spike' among the parts"
            )
        return jax.tree.leaves(self.pre_spike)[0]


class NetworkFields(Protocol):
    """The parts of a :class:`~spikegrad.Network` that initial weights and widths need."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def layers(self) -> Entries: ...

    @property
    def inputs(self) -> str | Sequence[str]: ...

    @property
    def graph(self) -> Any:
        """A :class:`Graph`. Type checkers do not accept the remembered value as one."""
        ...

    @property
    def observe(self) -> Callable[..., tuple[Entries, Entries]]: ...


NetworkT = TypeVar("NetworkT", bound=NetworkFields)
"""A network. Functions return one of the same class."""
