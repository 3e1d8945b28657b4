"""A refractory period around a cell."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from .._struct import Real, parameter
from .._surrogate import in_units_of
from ._cell import Cell, State
from ._lif import LIF
from ._spiking import spikes_of


class Refractory(Cell, pure=True):
    r"""Neurons that cannot spike for some time steps after each of their spikes: a wrapper of a
    cell.

    For ``steps`` time steps after a spike, the potential of the neuron keeps the value after the
    reset and ignores the input. The neuron does not spike in these time steps. The other arrays of
    its state change as usual: a synaptic current decays and adds its inputs, and an adaptive
    threshold decays.

    Parameters
    ----------
    cell : LIF
        The neurons, a :class:`~spikegrad.LIF` or a cell derived from it, such as
        :class:`~spikegrad.SynapticLIF`. The cell must reset in the time step of its spike, so
        ``delay_reset`` must be False.
    steps : int
        The number of time steps without spikes after a spike, an integer of at least 1. Two spikes
        of a neuron are at least ``steps + 1`` time steps apart.

    Raises
    ------
    ValueError, TypeError
        If ``steps`` is not an integer of at least 1, or if ``cell`` is not derived from ``LIF``.
        Also for a cell with ``delay_reset=True`` and for :func:`~spikegrad.soft` spikes.

    Notes
    -----
    The state is a pair. Its first part is the state of the cell. Its second part is the number of
    time steps left until the neuron may spike again, an unsigned integer that has no gradient.
    While a neuron cannot spike, its potential is constant, so gradients pass through these time
    steps unchanged.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import LIF, unroll
    >>> from spikegrad.neurons import Refractory
    >>> states, spikes = unroll(
    ...     Refractory(LIF(decay=1.0), steps=2), jnp.full((8, 1), 0.5)
    ... )
    >>> spikes[:, 0].tolist()
    [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    """

    state_names = "the state of the cell", "steps left"

    cell: LIF = parameter(kind=LIF)
    steps: int = parameter(integer=True, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell.delay_reset:
            raise ValueError(
                "Refractory: cell must reset with its spike, got delay_reset=True"
            )
        self.cell._refuse("a refractory period, which follows spikes", "graded")

    @property
    def inner(self) -> LIF:  # type: ignore[override]
        return self.cell

    @property
    def couples_examples(self) -> bool:  # type: ignore[override]
        return self.cell.couples_examples

    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike) -> State:
        v = self.cell.initial_state(shape, dtype)
        # The currents of a cell with receptors have one more axis than its potential.
        shape = jax.tree.leaves(v)[0].shape
        return v, jnp.zeros(shape, np.min_scalar_type(self.steps))

    def integrate(self, v: State, current: jax.Array) -> State:
        v, left = v
        # The cell makes its complete step first, so a synaptic current or an adaptation does not
        # rest.
        after = self.cell.integrate(v, current)
        # The potential comes first.
        (u, *others), structure = jax.tree.flatten(after)
        is_resting = left > 0
        before = jax.tree.leaves(v)[0]
        u = jnp.where(is_resting, before, u)
        return structure.unflatten([u, *others]), left

    def fire(
        self, u: State, key: jax.Array | None = None, mask: jax.Array | None = None
    ) -> tuple[State, jax.Array]:
        u, left = u
        # A resting neuron neither fires nor resets nor adapts, so the surrogate itself is silent.
        # ``dataclasses.replace`` would make the surrogate static, but it holds a traced array.
        cell = copy.copy(self.cell)
        resting = _Resting(self.cell.surrogate, left)
        object.__setattr__(cell, "surrogate", resting)
        # A custom ``fire`` may take neither of these options.
        options = {}
        if key is not None:
            options["key"] = key
        if mask is not None:
            options["mask"] = mask
        v, s = cell.fire(u, **options)
        # ``left`` is unsigned, so it is raised to 1 before the subtraction.
        fewer = jnp.maximum(left, 1) - 1
        steps = jnp.asarray(self.steps, left.dtype)
        # Signed spikes may be -1.
        left = jnp.where(abs(s) > 0, steps, fewer)
        return (v, left), s

    def encode(self, u: State) -> tuple[jax.Array | None, Any]:
        u, left = u
        distance, others = self.cell.encode(u)
        return distance, (others, left)

    def decode(self, distance: jax.Array, rest: Any) -> State:
        others, left = rest
        return self.cell.decode(distance, others), left


class _Resting:
    """A surrogate that is silent where steps of rest are left."""

    def __init__(self, surrogate: Callable, left: jax.Array) -> None:
        self.surrogate = surrogate
        self.left = left

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        is_resting = self.left > 0
        return jnp.where(is_resting, 0, spikes_of(self.surrogate, x, key))

    def in_units_of(self, threshold: Real, x: jax.Array) -> _Resting:
        surrogate = in_units_of(self.surrogate, threshold, x)
        return _Resting(surrogate, self.left)
