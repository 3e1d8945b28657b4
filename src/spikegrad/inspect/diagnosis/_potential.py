"""The array of a state that makes a neuron fire, and its level at a spike.

A state may hold several arrays, in any order. A cell that defines ``encode`` gives its distance to
the threshold, and the potential is the array that raises this distance. For any other cell ``fire``
is tried. The potential is the array that makes a neuron at rest fire if it is large and keeps it
silent if it is low. A bisection finds the level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._pytree import is_inexact

_FAR = 1000000.5
"""A potential beyond any threshold.

It has a fraction, so a readout has an output with a fraction.
"""
_HALVINGS = 60


class Potential(NamedTuple):
    """The place of the potential in a state before the spike."""

    which: Any
    """The index among :func:`candidates`."""
    level: Any = None
    """The potential that makes a neuron at rest fire, or None if the cell defines ``encode``.

    It is NaN if the spikes
    depend on other examples, as with batch normalization."""
    spikes: Any = None
    """If True, the cell fires at this level, and its outputs are whole numbers."""


def candidates(u: Any, out: Any) -> tuple[list, Callable[[list], Any]]:
    """The arrays of a state that may be the potential, and a function that replaces them."""
    leaves, structure = jax.tree.flatten(u)
    places = [i for i, leaf in enumerate(leaves) if is_inexact(leaf) and leaf.shape == out.shape]

    def replaced(others: list) -> Any:
        given = list(leaves)
        for i, other in zip(places, others, strict=True):
            given[i] = other
        return structure.unflatten(given)

    return [leaves[i] for i in places], replaced


def select(which: Any, arrays: Sequence[Any]) -> Any:
    """The array of this number."""
    return jax.lax.select_n(which.astype(jnp.int32), *arrays)


def find(rest: Any, fire: Callable, distance: Callable | None) -> Potential:
    """The potential of a cell, from its state at rest, ``fire(u)[1]`` and ``distance(u)``, its
    ``encode``.
    """
    out = fire(rest)[1]
    arrays, replaced = candidates(rest, out)

    if not arrays:
        return Potential(jnp.zeros((), jnp.int32), jnp.zeros_like(out), jnp.zeros((), bool))

    def along(k: int, value: Any) -> list:
        return [value if i == k else a for i, a in enumerate(arrays)]

    if distance is not None:
        of = distance
        rises = [
            jax.jvp(lambda a, k=k: of(replaced(along(k, a))), (a,), (jnp.ones_like(a),))[1].mean()
            for k, a in enumerate(arrays)
        ]
        return Potential(jnp.argmax(jnp.stack(rises)))

    def output(k: int, potential: Any) -> Any:
        return fire(replaced(along(k, potential)))[1]

    def fires(k: int, potential: Any) -> Any:
        return abs(output(k, potential)) >= 0.5

    def level(k: int) -> tuple:
        low, high = (jnp.full_like(arrays[k], far) for far in (-_FAR, _FAR))
        gain = fires(k, high).mean() - fires(k, low).mean()

        def halved(_, bounds):
            low, high = bounds
            middle = low + (high - low) / 2
            there = fires(k, middle)
            return jnp.where(there, low, middle), jnp.where(there, middle, high)

        bounds = jax.lax.fori_loop(0, _HALVINGS, halved, (low, high))
        tried = [
            output(k, x)
            for x in (low, high, *bounds, arrays[k], arrays[k] + 0.3, bounds[1] * 0.7 + 0.2)
        ]
        whole = jnp.stack([(x == jnp.round(x)).all() for x in tried]).all()
        return gain, bounds[1], whole

    gains, levels, whole = zip(*map(level, range(len(arrays))), strict=True)
    gain = jnp.stack(gains)
    which = jnp.argmax(gain)
    # A NaN stays in its example, unless the spikes of other examples depend on it.
    _, spoilt = fire(replaced([a.at[0].set(jnp.nan) for a in arrays]))
    coupled = jnp.isnan(spoilt[1:]).any()
    known = jnp.where(coupled, jnp.nan, select(which, levels))
    return Potential(which, known, (coupled | (gain[which] > 0.5)) & jnp.stack(whole)[which])
