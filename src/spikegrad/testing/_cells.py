"""The laws of cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._compat import in_double_precision
from .._struct import lifted
from ..network import Layer, Network
from ..network._storage import read, write
from ..neurons import Cell, unroll
from ._report import (
    DTYPES,
    Finding,
    Report,
    attempt,
    compare,
    copies,
    evaluated,
    peak_of,
    refuse_noise,
    reported,
)


def check_cell(
    cell: Cell, *, features: int | tuple[int, ...] = 5, drive: float = 1.0, steps: int = 12, raises: bool = True
) -> Report:
    r"""Check all that the library promises of a cell.

    A step is ``integrate``, then ``fire``; shapes and dtypes are kept, from the initial state on; examples of a batch
    do not see each other, nor does a NaN pass from one to the other; ``jit``, ``vmap`` and ``scan`` change nothing;
    forward mode is reverse mode; what ``encode`` makes of a state keeps the spike, and ``decode`` gives the state back;
    and in every mode of a :class:`spikegrad.Network`, recurrent, outputs and gradients are those of an explicit loop.

    Parameters
    ----------
    cell : Cell
        An instance. Its parameters may be arrays.
    features : int or tuple of int, default 5
        The neurons, ``features`` or of shape ``features``, to which arrays among the parameters must broadcast.
    drive : float, default 1.0
        Size of the currents, in the unit of the potential: such that the cell fires in some steps and not in others.
    steps : int, default 12
        Length of the sequences.
    raises : bool, default True
        Whether a broken law raises. Otherwise it is in the report alone.

    Returns
    -------
    Report
        Each law with its largest error; print it.

    Raises
    ------
    BrokenLawError
        An ``AssertionError`` that names the first broken law.
    TypeError
        If ``cell`` is no cell, or stochastic.

    Notes
    -----
    Errors are those of float64, relative to the largest value. Modes that keep states in few bits are off by more, and
    are compared by norm: ``"half"`` within 1 %, ``"8-bit"`` within 10 %.

    Examples
    --------
    >>> from spikegrad import LIF
    >>> from spikegrad.testing import check_cell
    >>> check_cell(LIF(0.9), steps=3).passed
    True
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"check_cell: cell must be a Cell, got {cell!r}")
    refuse_noise("check_cell", cell)
    shape = (features,) if isinstance(features, int) else tuple(features)
    with in_double_precision(), jax.numpy_rank_promotion("allow"):
        return reported(repr(cell), _laws_of_cell(cell, shape, drive, steps), raises)


_BATCH = 3


def _laws_of_cell(cell: Cell, features: tuple[int, ...], drive: float, steps: int) -> Iterator[Finding]:
    dtypes = _dtypes_of_cell(cell, features)
    yield dtypes
    if not dtypes.passed:
        return  # it would not run
    currents = drive * np.random.default_rng(0).uniform(-0.5, 1.5, (steps, _BATCH, *features))
    start = cell.initial_state((_BATCH, *features), jnp.dtype("float64"))
    first, currents = jnp.asarray(currents[0]), jnp.asarray(currents)
    states, (outs, before) = loop = jax.jit(lambda v, currents: _loop(cell, v, currents))(start, currents)
    varied = len(np.unique(outs)) > 1
    yield Finding("it fires and is silent", 0.0 if varied else math.inf, note="" if varied else "set drive")

    def without_first(v, outs):
        return jax.tree.map(lambda a: a[1:], v), outs[:, 1:]

    def broken():
        v, (outs, _) = _loop(cell, start, currents.at[steps // 2, 0].set(jnp.nan))
        return without_first(v, outs)

    def alone(v, currents):
        v, (outs, _) = _loop(cell, v, currents)
        return v, outs

    for law, got, expected in (
        ("a step is integrate, then fire", lambda: cell(start, first), cell.fire(cell.integrate(start, first))),
        ("jit changes nothing", lambda: _loop(cell, start, currents), loop),
        ("scan changes nothing", lambda: unroll(cell, currents, start), (states, outs)),
        (
            "vmap changes nothing: examples do not see each other",
            lambda: jax.vmap(alone, (0, 1), (0, 1))(start, currents),
            (states, outs),
        ),
        ("a NaN stays in its example", broken, without_first(states, outs)),
    ):
        yield _equal(law, attempt(got), expected)
    yield from _derivatives(cell, start, currents)
    yield from _encoding(cell, before, outs)
    yield from _modes(cell, features, drive, currents)
    yield from copies(cell, type(cell), lambda other: np.asarray(unroll(other, currents, start)[1]))


def _loop(cell: Cell, v: Any, currents: Any) -> tuple[Any, tuple[Any, Any]]:
    """The states at the end; the outputs and the states before the spike, of all steps."""
    outs, before = [], []
    for current in currents:
        before.append(cell.integrate(v, current))
        v, out = cell.fire(before[-1])
        outs.append(out)
    return v, (jnp.stack(outs), jax.tree.map(lambda *us: jnp.stack(us), *before))


def _equal(law: str, got: Any, expected: Any) -> Finding:
    if isinstance(got, Exception):
        return compare(law, got, expected, 1e-13)
    if jax.tree.structure(got) != jax.tree.structure(expected):
        return Finding(law, math.inf, note=f"{jax.tree.structure(got)} in place of {jax.tree.structure(expected)}")
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max(
        (compare(law, a, b, 1e-13, scale=peak_of(b)) for a, b in pairs), key=lambda finding: finding.error or 0.0
    )


def _dtypes_of_cell(cell: Cell, features: tuple[int, ...]) -> Finding:
    law, shape = "shapes and dtypes are kept", (2, *features)

    def types(tree):
        return jax.tree.map(lambda leaf: f"{jnp.dtype(leaf.dtype)} {list(leaf.shape)}", tree)

    for dtype in DTYPES:

        def step(current):
            v = cell.initial_state(current.shape, current.dtype)
            return v, *cell.fire(cell.integrate(v, current))

        found = attempt(jax.eval_shape, step, jax.ShapeDtypeStruct(shape, dtype))
        if isinstance(found, Exception):
            return compare(law, found, found, 0.0)
        before, after, out = map(types, found)
        if after != before:
            return Finding(law, math.inf, note=f"in {dtype} the state {before} becomes {after}")
        if out != f"{dtype} {list(shape)}":
            return Finding(law, math.inf, note=f"in {dtype} the output is {out}")
    return Finding(law)


def _derivatives(cell: Cell, start: Any, currents: jax.Array) -> Iterator[Finding]:
    weights = np.cos(np.arange(currents.size)).reshape(currents.shape)
    trained, rebuild = _trained(cell)
    inputs = currents, trained
    direction = jax.tree.map(lambda a: jnp.asarray(np.cos(np.arange(a.size) + 1.0).reshape(a.shape)), inputs)

    def run(inputs):
        return (weights * _loop(rebuild(inputs[1]), start, inputs[0])[1][0]).sum()

    def along(inputs):
        return sum(map(jnp.vdot, jax.tree.leaves(jax.grad(run)(inputs)), jax.tree.leaves(direction)))

    curves = {"gradient": jax.grad(run), "reverse": along, "forward": lambda p: jax.jvp(run, (p,), (direction,))[1]}
    found = evaluated(curves, inputs)
    law, gradient = "gradients are finite", found["gradient"]
    if isinstance(gradient, Exception):
        yield compare(law, gradient, gradient, 0.0)
        return
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    yield Finding(law, 0.0 if finite else math.inf)
    law, forward, reverse = "forward mode is reverse mode", found["forward"], found["reverse"]
    yield compare(law, forward, reverse, 1e-9, scale=peak_of(reverse))


def _trained(cell: Cell) -> tuple[list, Callable]:
    """The parameters as arrays, and the cell made of others."""
    leaves, tree = jax.tree.flatten(lifted(cell))
    which = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.floating)
    ]

    def rebuild(values):
        given = dict(zip(which, values, strict=True))
        return tree.unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)])

    return [jnp.asarray(leaves[i], jnp.float64) for i in which], rebuild


def _encoding(cell: Cell, before: Any, outs: Any) -> Iterator[Finding]:
    """What a network makes of the states of all steps in few bits, and back."""
    laws = [
        "decode is the inverse of encode",
        *(f"in mode {mode!r} the same neurons fire" for mode in ("half", "8-bit")),
    ]
    if not _encodes(cell):
        why = f"{type(cell).__name__} defines no encode: it is kept as it is"
        yield from (Finding(law, None, note=why) for law in laws)
        return
    yield _equal(laws[0], attempt(lambda: cell.decode(*cell.encode(before))), before)
    for mode, law in zip(("half", "8-bit"), laws[1:], strict=True):

        def again(mode=mode):
            encoded = cell.encode(before)
            return cell.fire(cell.decode(*read(mode, write(mode, encoded, before), encoded)))[1]

        fires = bool(np.isin(outs, (-1, 0, 1)).all())
        yield _equal(law, attempt(again), outs) if fires else Finding(law, None, note="it does not fire")


def _encodes(cell: Cell) -> bool:
    return type(cell).encode is not Cell.encode


def _modes(cell: Cell, features: tuple[int, ...], drive: float, currents: jax.Array) -> Iterator[Finding]:
    """A recurrent layer in a network against a loop, with the gradient of inputs, weights and parameters."""
    rng = np.random.default_rng(1)
    scale = drive * rng.uniform(0.5, 1.0, features), drive * rng.uniform(-0.5, 0.5, features)
    weights = np.cos(np.arange(currents.size)).reshape(currents.shape)
    trained, rebuild = _trained(cell)
    inputs = currents / drive, *map(jnp.asarray, scale), trained

    def by_hand(inputs):
        x, w, r, parameters = inputs
        mine = rebuild(parameters)
        v, out, outs = mine.initial_state(x.shape[1:], x.dtype), jnp.zeros_like(x[0]), []
        for current in x:
            v, out = mine.fire(mine.integrate(v, w * current + r * out))
            outs.append(out)
        return jnp.stack(outs)

    def by_network(mode):
        def run(inputs):
            x, w, r, parameters = inputs
            multiply = jax.tree_util.Partial(jnp.multiply)
            layer = Layer(jax.tree_util.Partial(multiply, w), rebuild(parameters), jax.tree_util.Partial(multiply, r))
            return Network([layer])(x, mode=mode)[1]

        return run

    def value_and_gradient(run):
        def loss(inputs):
            outs = run(inputs)
            return (weights * outs).sum(), outs

        (_, outs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)
        return np.asarray(outs), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

    expected, slopes = value_and_gradient(by_hand)
    modes = {"exact": 1e-9, "recompute": 1e-9, "scan": 1e-9} | ({"half": 1e-2, "8-bit": 0.1} if _encodes(cell) else {})
    for mode, limit in modes.items():
        values, gradients = (f"in mode {mode!r} {what} are those of a loop" for what in ("outputs", "gradients"))
        found = attempt(value_and_gradient, by_network(mode))
        if isinstance(found, Exception):
            yield compare(values, found, expected, 1e-9)
            continue
        yield compare(values, found[0], expected, 1e-9, scale=peak_of(expected))
        size = np.linalg.norm(slopes) or 1.0
        yield compare(gradients, np.linalg.norm(found[1] - slopes) / size, 0.0, limit, note="by norm")
