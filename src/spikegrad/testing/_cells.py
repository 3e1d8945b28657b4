"""The properties of cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._compat import in_double_precision
from .._pytree import inexact, is_inexact, merge
from ..network import Layer, Network
from ..network._modes import MODES
from ..network._storage import distance_at_rest
from ..neurons import Cell, linear_response, says_how_to_encode, unroll
from ._report import (
    DTYPES,
    CheckResult,
    Report,
    attempt,
    compare,
    copies,
    evaluated,
    peak_of,
    refuse_noise,
    reported,
    trainable,
)


def check_cell(
    cell: Cell, *, features: int | tuple[int, ...] = 5, drive: float = 1.0, steps: int = 12, raises: bool = True
) -> Report:
    r"""Check all that the library promises of a cell.

    The check has these properties, each for every step of a random sequence:

    - A step is ``integrate``, then ``fire``. Shapes and dtypes are preserved, from the initial state on.
    - Without spikes the potential is the linear response, if the cell declares one.
    - Examples of a batch are independent, and ``fire`` is elementwise. A NaN stays in its example.
    - ``jit``, ``vmap`` and ``scan`` change nothing. Forward mode and reverse mode agree.
    - The sign of the distance that ``encode`` returns is the spike, and ``decode`` returns the state.
    - In every mode, outputs and gradients of a recurrent :class:`spikegrad.Network` equal a plain loop.

    Parameters
    ----------
    cell : Cell
        An instance. Its parameters may be arrays.
    features : int or tuple of int, default 5
        Shape of the currents of one example, or its length. Array parameters must broadcast to it. A cell that sums
        over several receptors takes one more axis, ``features=(5, 2)`` for example.
    drive : float, default 1.0
        Size of the currents, in the unit of the potential. The cell must fire in some steps and be silent in others.
    steps : int, default 12
        Length of the sequences.
    raises : bool, default True
        If True, a property that does not hold raises. Otherwise it is only in the report.

    Returns
    -------
    Report
        Each property with its largest error. Print it.

    Raises
    ------
    CheckFailedError
        An ``AssertionError`` that names the first property that does not hold.
    TypeError
        If ``cell`` is not a cell, or stochastic.

    Notes
    -----
    Errors are relative to the largest value, in float64. Modes that store states in few bits have larger errors and are
    compared by norm: ``"half"`` within 1%, ``"8-bit"`` within 10%. Over many steps some dynamics amplify rounding
    errors, for example in quadratic neurons. The check measures this factor. Limits grow with it, and gradients that
    depend on rounding are not compared.

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
_SMALL = 1e-12  # relative change of currents that measures amplification


class _Trajectory(NamedTuple):
    """All steps of a cell, each array with the steps first."""

    v: Any
    """The state before the step."""
    current: jax.Array
    u: Any
    """The state before the spike."""
    after: tuple[Any, jax.Array]
    """The state after the step, and its output."""

    @property
    def out(self) -> jax.Array:
        return self.after[1]


def _step(cell: Cell, v: Any, current: jax.Array) -> tuple[Any, jax.Array]:
    return cell.fire(cell.integrate(v, current))


def _trajectory(cell: Cell, start: Any, currents: jax.Array) -> _Trajectory:
    def step(v, current):
        u = cell.integrate(v, current)
        after = cell.fire(u)
        return after[0], _Trajectory(v, current, u, after)

    start = jax.tree.map(jnp.asarray, start)
    return jax.jit(lambda start, currents: jax.lax.scan(step, start, currents)[1])(start, currents)


def _laws_of_cell(cell: Cell, features: tuple[int, ...], drive: float, steps: int) -> Iterator[CheckResult]:
    dtypes = _dtypes_of_cell(cell, features)
    yield dtypes
    if not dtypes.passed:
        return  # it would not run
    currents = jnp.asarray(drive * np.random.default_rng(0).uniform(-0.5, 1.5, (steps, _BATCH, *features)))
    trajectory = _trajectory(cell, cell.initial_state((_BATCH, *features), jnp.dtype("float64")), currents)
    varied = len(np.unique(trajectory.out)) > 1
    yield CheckResult("it fires and is silent", 0.0 if varied else math.inf, note="" if varied else "set drive")
    yield from _steps(cell, trajectory)
    yield _response(cell, trajectory)
    yield from _derivatives(cell, trajectory)
    yield from _encoding(cell, trajectory)
    yield from _modes(cell, features, drive, currents)
    yield from copies(cell, type(cell), lambda other: np.asarray(unroll(other, currents)[1]))


def _steps(cell: Cell, trajectory: _Trajectory) -> Iterator[CheckResult]:
    """Check each step separately, from recorded states, because some dynamics amplify rounding errors."""

    def over_steps(step):
        return jax.vmap(step)(trajectory.v, trajectory.current)

    def once(v, current):
        return _step(cell, v, current)

    def by_scan(v, current):
        v, out = unroll(cell, current[None], v)
        return v, out[0]

    def by_example(v, current):
        axes = jax.tree.map(_example_axis, (v, jax.eval_shape(once, v, current)))
        return jax.vmap(once, (axes[0], 0), axes[1])(v, current)

    def broken():
        v = jax.tree.map(
            lambda a: a.at[:, 0].set(jnp.nan) if is_inexact(a) and _has_examples(a[0]) else a, trajectory.v
        )
        return without_first(jax.vmap(once)(v, trajectory.current.at[:, 0].set(jnp.nan)))

    def without_first(after):
        return jax.tree.map(lambda a: a[:, 1:] if _has_examples(a[0]) else None, after)

    expected = jax.jit(over_steps, static_argnums=0)(once)
    for law, got, right in (
        ("a step is integrate, then fire", lambda: over_steps(cell), over_steps(once)),
        ("jit changes nothing", lambda: over_steps(once), expected),
        ("scan changes nothing", lambda: over_steps(by_scan), expected),
        ("vmap changes nothing: examples do not see each other", lambda: over_steps(by_example), expected),
        ("a NaN stays in its example", broken, without_first(expected)),
    ):
        yield _equal(law, attempt(got), right)
    yield _elementwise(cell, trajectory)


def _has_examples(a: Any) -> bool:
    return a.shape[:1] == (_BATCH,)


def _example_axis(a: Any) -> int | None:
    return 0 if _has_examples(a) else None


def _elementwise(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    """Change the potentials of one neuron and compare all others. Neurons are on the axis after the examples."""
    law, neurons = "fire is elementwise: neurons do not see each other", trajectory.out.shape[2:3]
    if neurons in ((), (1,)):
        return CheckResult(law, None, note="it has one neuron")

    def others(after):
        return jax.tree.map(lambda a: a[:, :, 1:] if a.shape[2:3] == neurons else None, after)

    def changed(change):
        def leaf(a):
            return a.at[:, :, 0].set(change(a[:, :, 0])) if is_inexact(a) and a.shape[2:3] == neurons else a

        return lambda: others(jax.vmap(cell.fire)(jax.tree.map(leaf, trajectory.u)))

    changes = (lambda a: jnp.full_like(a, jnp.nan)), (lambda a: 3 * a + jnp.max(jnp.abs(a)))
    found = (_equal(law, attempt(changed(change)), others(trajectory.after)) for change in changes)
    return max(found, key=lambda result: result.error or 0.0)


def _equal(law: str, got: Any, expected: Any) -> CheckResult:
    if isinstance(got, Exception):
        return compare(law, got, expected, 1e-13)
    if jax.tree.structure(got) != jax.tree.structure(expected):
        return CheckResult(law, math.inf, note=f"{jax.tree.structure(got)} instead of {jax.tree.structure(expected)}")
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max((compare(law, a, b, 1e-13, scale=peak_of(b)) for a, b in pairs), key=lambda result: result.error or 0.0)


def _response(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    """Compare the potential with the declared recursion, for currents that are too small to make a spike."""
    law = "without spikes the potential is the declared linear response"
    response = linear_response(cell) if cell.inner is None else None
    if response is None:
        return CheckResult(law, None, note=f"{type(cell).__name__} declares no linear_response")

    def leak(state, x):
        u, i = state
        i = response.synaptic_decay * i + x
        u = response.decay * u + response.gain * i
        return (u, i), u

    currents = _SMALL * trajectory.current
    quiet = _trajectory(cell, cell.initial_state(currents.shape[1:], currents.dtype), currents)
    if response.threshold is not None and quiet.out.any():
        return CheckResult(law, None, note="it fires at rest")
    expected = jax.lax.scan(leak, (jnp.zeros_like(currents[0]),) * 2, currents)[1]
    potential = jax.tree.leaves(quiet.u)[0]
    return compare(law, potential, expected, 1e-12, scale=peak_of(expected))


def _dtypes_of_cell(cell: Cell, features: tuple[int, ...]) -> CheckResult:
    law, shape = "shapes and dtypes are preserved", (2, *features)
    hint = ""
    if len(features) == 1 and type(cell).initial_state is not Cell.initial_state:
        hint = f"; for a cell of several receptors, pass features=({features[0]}, receptors)"

    def types(tree):
        return jax.tree.map(lambda leaf: f"{jnp.dtype(leaf.dtype)} {list(leaf.shape)}", tree)

    for dtype in DTYPES:

        def step(current):
            v = cell.initial_state(current.shape, current.dtype)
            return v, *cell.fire(cell.integrate(v, current))

        found = attempt(jax.eval_shape, step, jax.ShapeDtypeStruct(shape, dtype))
        if isinstance(found, Exception):
            result = compare(law, found, found, 0.0)
            return result._replace(note=result.note + hint)
        before, after, out = map(types, found)
        if after != before:
            return CheckResult(law, math.inf, note=f"in {dtype} the state {before} becomes {after}")
        shapes = {shape[:n] for n in range(min(2, len(shape)), len(shape) + 1)}
        shapes |= {leaf.shape[:n] for leaf in jax.tree.leaves(found[0]) for n in range(2, len(leaf.shape) + 1)}
        if found[2].dtype != dtype or found[2].shape not in shapes:
            return CheckResult(law, math.inf, note=f"in {dtype} the output is {out}{hint}")
    return CheckResult(law)


def _derivatives(cell: Cell, trajectory: _Trajectory) -> Iterator[CheckResult]:
    """Check derivatives of each step in its state, its current and the parameters."""
    trained, rebuild = trainable(cell)
    inputs = inexact(trajectory.v), trajectory.current, trained

    def waves(tree, shift):
        return jax.tree.map(lambda a: jnp.asarray(np.cos(np.arange(a.size) + shift).reshape(a.shape)), tree)

    direction, cotangent = waves(inputs, 1.0), waves(inexact(trajectory.after), 0.0)

    def run(inputs):
        v, currents, parameters = inputs
        return inexact(jax.vmap(lambda v, i: _step(rebuild(parameters), v, i))(merge(v, trajectory.v), currents))

    def dot(a, b):
        return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))

    def pulled(inputs):
        return jax.vjp(run, inputs)[1](cotangent)[0]

    curves = {
        "gradient": pulled,
        "reverse": lambda p: dot(pulled(p), direction),
        "forward": lambda p: dot(jax.jvp(run, (p,), (direction,))[1], cotangent),
    }
    found = evaluated(curves, inputs)
    law, gradient = "gradients are finite", found["gradient"]
    if isinstance(gradient, Exception):
        yield compare(law, gradient, gradient, 0.0)
        return
    leaves = jax.tree.leaves(gradient)
    yield CheckResult(law, 0.0 if all(np.isfinite(leaf).all() for leaf in leaves) else math.inf)
    size = max(map(peak_of, leaves))
    yield compare("forward mode is reverse mode", found["forward"], found["reverse"], 1e-11, scale=size)


def _encoding(cell: Cell, trajectory: _Trajectory) -> Iterator[CheckResult]:
    """Encode the states of all steps, store them in few bits, and decode them."""
    inverse, sign = "decode is the inverse of encode", "the sign of the distance is the spike"
    same = {name: f"in mode {name!r} spikes do not change" for name, mode in MODES.items() if mode.storage.encodes}
    if not says_how_to_encode(cell):
        why = f"{type(cell).__name__} does not encode its state: modes store it unchanged"
        yield from (CheckResult(law, None, note=why) for law in (inverse, sign, *same.values()))
        return
    outs, us = trajectory.out, trajectory.u
    encoded = attempt(cell.encode, us)
    if isinstance(encoded, Exception):
        yield compare(inverse, encoded, us, 0.0)
        return
    yield _equal(inverse, attempt(lambda: cell.decode(*encoded)), us)
    fires = encoded[0] is not None and bool(np.isin(outs, (-1, 0, 1)).all())
    if not fires:
        yield from (CheckResult(law, None, note="it does not fire") for law in (sign, *same.values()))
        return
    yield compare(sign, attempt(_wrong_signs, cell, *encoded), 0, 0.0, note="neurons next to the threshold")
    for mode, law in same.items():

        def again(mode=mode):
            at_rest = distance_at_rest(cell, encoded, trajectory.current.shape)
            storage = MODES[mode].storage
            kept = storage.write(encoded, at_rest)
            return cell.fire(cell.decode(*storage.read(kept, encoded, at_rest)))[1]

        yield _equal(law, attempt(again), outs)


def _wrong_signs(cell: Cell, distance: jax.Array, rest: Any) -> Any:
    """Count the neurons that do not begin to fire at distance 0."""
    size = peak_of(distance)

    def fires(at):
        return cell.fire(cell.decode(jnp.full_like(distance, at * size), rest))[1] > 0

    able = fires(1.0) & ~fires(-1.0)  # a neuron may rest
    return (able & (~fires(1e-9) | fires(-1e-9))).sum()


def _modes(cell: Cell, features: tuple[int, ...], drive: float, currents: jax.Array) -> Iterator[CheckResult]:
    """Compare a recurrent layer in a network with a loop, with the gradient of inputs, weights and parameters."""
    rng = np.random.default_rng(1)
    scale = drive * rng.uniform(0.5, 1.0, features), drive * rng.uniform(-0.5, 0.5, features)
    trained, rebuild = trainable(cell)
    inputs = currents / drive, *map(jnp.asarray, scale), trained
    start = cell.initial_state(currents.shape[1:], currents.dtype)
    silent = jax.eval_shape(lambda v, i: _step(cell, v, i)[1], start, currents[0])
    weights = np.cos(np.arange(len(currents) * silent.size)).reshape(len(currents), *silent.shape)

    def feedback(r, out):
        """Add recurrent input to all receptors of a neuron, if currents have more axes than outputs."""
        return r * out.reshape(out.shape + (1,) * (len(features) + 1 - out.ndim))

    recurrent = (_BATCH, *features)[: len(silent.shape)] == silent.shape

    def by_hand(inputs):
        x, w, r, parameters = inputs
        mine = rebuild(parameters)

        def step(state, x):
            v, out = state
            state = _step(mine, v, w * x + (feedback(r, out) if recurrent else 0))
            return state, state[1]

        first = jax.tree.map(jnp.asarray, mine.initial_state(x.shape[1:], x.dtype)), jnp.zeros(silent.shape, x.dtype)
        return jax.lax.scan(step, first, x)[1]

    def by_network(mode):
        def run(inputs):
            x, w, r, parameters = inputs
            layer = Layer(lambda x: w * x, rebuild(parameters), (lambda out: feedback(r, out)) if recurrent else None)
            return Network([layer])(x, mode=mode)[1]

        return run

    def value_and_gradient(run):
        def loss(inputs):
            outs = run(inputs)
            return (weights * outs).sum(), outs

        compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))

        def found(inputs):
            (_, outs), gradient = compiled(inputs)
            return np.asarray(outs), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

        return found

    hand = value_and_gradient(by_hand)
    expected, slopes = hand(inputs)
    size = np.linalg.norm(slopes) or 1.0
    nearly, slopes_nearly = hand((inputs[0] * (1 + _SMALL * rng.uniform(-1, 1, currents.shape)), *inputs[1:]))
    differ = np.abs(nearly - expected).max() > 1e-6 * peak_of(expected)
    amplified = math.inf if differ else float(np.linalg.norm(slopes_nearly - slopes) / size / _SMALL)
    exact = max(1e-9, 1e-13 * amplified)
    for mode in sorted(MODES, key=lambda name: MODES[name].storage.encodes):
        storage = MODES[mode].storage
        if storage.encodes and not says_how_to_encode(cell):
            continue
        limit = storage.gradient_error or exact
        values, gradients = (f"in mode {mode!r} {what} equal the loop's {what}" for what in ("outputs", "gradients"))
        if amplified > (1e8 if limit == exact else 10):
            why = f"the dynamics amplify a relative change of the currents by {amplified:.0e}"
            yield from (CheckResult(law, None, note=why) for law in (values, gradients))
            continue
        found = attempt(value_and_gradient(by_network(mode)), inputs)
        if isinstance(found, Exception):
            yield compare(values, found, expected, 1e-9)
            continue
        yield compare(values, found[0], expected, exact, scale=peak_of(expected))
        yield compare(gradients, np.linalg.norm(found[1] - slopes) / size, 0.0, limit, note="by norm")
