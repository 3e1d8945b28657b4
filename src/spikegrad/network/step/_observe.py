"""The activity of the nodes of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import jax

from ..._pytree import Entries
from ...neurons import State


class Activity(NamedTuple):
    """The outputs, states and currents of a layer or join over time, as
    :meth:`spikegrad.Network.observe` returns them.

    Each array has the shape ``(steps, batch, ...)``. Masked time steps are zeros. A join has
    outputs only. A part that ``observe`` was not called with is None.
    """

    output: jax.Array | None
    pre_spike: State | None = None
    """The state after decay and input, before the spike and the reset: an array, or a tuple of
    arrays.
    """
    current: jax.Array | None = None
    """The input current of the neurons: weights times inputs, plus recurrent weights times outputs,
    plus bias.
    """

    @property
    def potential(self) -> jax.Array:
        """The potential before the spike: the first array of ``pre_spike``."""
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
