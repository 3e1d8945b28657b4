"""The properties of cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike

from .._pytree import PyTree, is_inexact
from ..network import MODES, Layer, Network
from ..neurons import Cell, linear_response, says_how_to_encode
from ._report import (
    DTYPES,
    CheckReport,
    CheckResult,
    Laws,
    NotApplicable,
    broken,
    compare,
    peak_of,
    report_of,
    trainable,
)


def check_cell(
    cell: Cell,
    *,
    features: int | tuple[int, ...] = 5,
    drive: float = 1.0,
    steps: int = 12,
    raises: bool = True,
) -> CheckReport:
    r"""Check that a custom cell has all properties that spikegrad needs. Call it in a test of your
    cell.

    It runs the cell on random sequences, and checks these properties in each time step:

    - A call computes ``integrate`` and then ``fire``, also within ``jit``, ``vmap`` and ``scan``.
      States keep the shapes and dtypes of the initial state.
    - Without spikes, the potential equals ``linear_response``, if the cell defines it.
    - The examples of a batch do not affect each other, and ``fire`` computes each neuron
      separately. A NaN stays in its example.
    - The distance that ``encode`` returns is negative exactly if the neuron does not spike, and
      ``decode`` returns the state.
    - In each memory mode, outputs and gradients of a recurrent :class:`spikegrad.Network` with the
      cell equal a plain loop.

    Parameters
    ----------
    cell : Cell
        An instance of the cell, such as ``MyCell()``. Its parameters may be arrays.
    features : int or tuple of int, default 5
        Number of neurons, or shape of the currents of one example. Array parameters must broadcast
        to it. A cell with receptors needs one more axis, such as ``features=(5, 2)``.
    drive : float, default 1.0
        Size of the random currents, in the unit of the potential. Choose it such that the cell
        spikes in some time steps and not in others.
    steps : int, default 12
        Number of time steps of the sequences.
    raises : bool, default True
        If True, raise an error for a property that does not hold. If False, only report it.

    Returns
    -------
    CheckReport
        The result for each property, with its largest error. ``print`` shows them.

    Raises
    ------
    CheckFailedError
        An ``AssertionError`` that names the first property that does not hold.
    TypeError
        If ``cell`` is not a cell, or if its spikes are random.

    Notes
    -----
    Errors are relative to the largest value, in float64. Modes that store states in few bits have
    larger errors and are compared by norm: ``"half"`` within 1%, ``"8-bit"`` within 10%. Over many
    steps some dynamics amplify rounding errors, for example in quadratic neurons. The check
    measures this factor. Limits grow with it, and gradients that depend on rounding are not
    compared.

    Examples
    --------
    >>> from spikegrad import LIF
    >>> from spikegrad.testing import check_cell
    >>> check_cell(LIF(0.9), steps=3).passed
    True
    """
    shape = (features,) if isinstance(features, int) else tuple(features)
    laws = partial(_laws, cell, shape, drive, steps)
    return report_of(Cell, cell, laws, raises)


_BATCH = 3
_SMALL = 1e-12  # relative change of currents that measures amplification


class _Trajectory(NamedTuple):
    """All steps of a cell, each array with the steps first: ``(steps, batch, *features)``."""

    v: PyTree
    """The state before the step."""
    current: jax.Array
    u: PyTree
    """The state before the spike."""
    after: tuple[PyTree, jax.Array]
    """The state after the step, and its output."""


def _trajectory(cell: Cell, currents: jax.Array) -> _Trajectory:
    def step(v: PyTree, current: jax.Array) -> tuple[PyTree, _Trajectory]:
        u = cell.integrate(v, current)
        after = cell.fire(u)
        return after[0], _Trajectory(v, current, u, after)

    def run(currents: jax.Array) -> _Trajectory:
        start = cell.initial_state(currents.shape[1:], currents.dtype)
        start = jax.tree.map(jnp.asarray, start)
        return jax.lax.scan(step, start, currents)[1]

    return jax.jit(run)(currents)


def _laws(cell: Cell, features: tuple[int, ...], drive: float, steps: int) -> Laws:
    yield "shapes and dtypes are preserved", partial(_types, cell, features)
    rng = np.random.default_rng(0)
    shape = steps, _BATCH, *features
    # Negative currents too, so some steps are silent.
    currents = drive * rng.uniform(-0.5, 1.5, shape)
    trajectory = _trajectory(cell, jnp.asarray(currents))
    for name, law in _LAWS.items():
        yield name, partial(law, cell, trajectory)
    yield from _laws_of_networks(cell, features, drive, trajectory)


def _types(cell: Cell, features: tuple[int, ...]) -> CheckResult:
    """Trace a step from the initial state in every dtype."""
    shape = (2, *features)

    def step(current):
        v = cell.initial_state(current.shape, current.dtype)
        return v, *cell(v, current)

    def type_of(leaf: jax.Array) -> str:
        return f"{jnp.dtype(leaf.dtype)} {list(leaf.shape)}"

    def types(tree: PyTree) -> PyTree:
        return jax.tree.map(type_of, tree)

    for dtype in DTYPES:
        try:
            current = jax.ShapeDtypeStruct(shape, dtype)
            v, after, out = jax.eval_shape(step, current)
        except (TypeError, ValueError) as error:
            first_line = str(error).partition("\n")[0]
            return broken(
                f"{type(error).__name__}: {first_line}. For currents of another shape pass "
                f"features=, here {features}"
            )
        before = types(v)
        after = types(after)
        if after != before:
            return broken(f"in {dtype} the state {before} becomes {after}")
        # An output has the first axes of the currents or of the state, examples and neurons at
        # least.
        of_state = [leaf.shape for leaf in jax.tree.leaves(v)]
        shapes = [shape, *of_state]
        rank = max(2, out.ndim)
        has_shape = any(out.shape == known[:rank] for known in shapes)
        has_dtype = out.dtype == _output_dtype(v, dtype)
        if not (has_shape and has_dtype):
            return broken(f"in {dtype} the output is {types(out)}")
    return CheckResult("")


def _output_dtype(v: PyTree, dtype: DTypeLike) -> DTypeLike:
    """Return the dtype of the outputs: that of the currents, or of the parts of a complex state.

    No complex dtype has parts of 16 bits.
    """
    for leaf in jax.tree.leaves(v):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return jnp.finfo(leaf.dtype).dtype
    return dtype


def _varies(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    _, out = trajectory.after
    varies = len(np.unique(out)) > 1
    return CheckResult("") if varies else broken("set drive")


# --- steps: each is checked from its recorded state, because some dynamics amplify errors ---------


def _call(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    """Compare the recorded steps, of a compiled loop, with an eager call that maps over them."""
    eager = jax.vmap(cell)(trajectory.v, trajectory.current)
    return compare(eager, trajectory.after, 1e-13)


def _examples(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    def steps(inputs):
        return jax.vmap(cell)(*inputs)

    inputs = trajectory.v, trajectory.current
    return _independent(steps, inputs, axis=1, size=_BATCH)


def _neurons(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    """The neurons are on the axis after the examples."""
    neurons = trajectory.after[1].shape[2:3]
    if neurons in ((), (1,)):
        raise NotApplicable("it has one neuron")
    return _independent(jax.vmap(cell.fire), trajectory.u, axis=2, size=neurons[0])


def _independent(f: Callable, inputs: PyTree, axis: int, size: int) -> CheckResult:
    """Set index 0 of an axis to NaN, and compare all others."""

    def has_axis(a: jax.Array) -> bool:
        return a.shape[axis : axis + 1] == (size,)

    def spoilt(a: jax.Array) -> jax.Array:
        if not (has_axis(a) and is_inexact(a)):
            return a
        # NaN spreads to all results of arithmetic that depends on it.
        first = (*[slice(None)] * axis, 0)
        return a.at[first].set(jnp.nan)

    def others(tree: PyTree) -> list[jax.Array]:
        with_axis = filter(has_axis, jax.tree.leaves(tree))
        return [jnp.delete(a, 0, axis) for a in with_axis]

    results = f(jax.tree.map(spoilt, inputs))
    # An error would be NaN, so the limit is only for programs that round otherwise.
    return compare(others(results), others(f(inputs)), 1e-13)


def _response(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    """Compare the potential with the declared recursion, for currents too small to make a spike."""
    response = linear_response(cell) if cell.inner is None else None
    if response is None:
        raise NotApplicable(f"{type(cell).__name__} declares no linear_response")

    # i_t = gamma i_{t-1} + x_t, then u_t = beta u_{t-1} + gain i_t.
    def leak(state: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        u, i = state
        i = response.synaptic_decay * i + x
        u = response.decay * u + response.gain * i
        return (u, i), u

    currents = _SMALL * trajectory.current
    quiet = _trajectory(cell, currents)
    if response.threshold is not None and quiet.after[1].any():
        raise NotApplicable("it fires at rest")
    zero = jnp.zeros_like(currents[0])
    _, expected = jax.lax.scan(leak, (zero, zero), currents)
    # The first array of a state is the potential.
    potential = jax.tree.leaves(quiet.u)[0]
    return compare(potential, expected, 1e-12)


# --- encode and decode ----------------------------------------------------------------------------


def _encoded(cell: Cell, trajectory: _Trajectory) -> PyTree:
    if not says_how_to_encode(cell):
        name = type(cell).__name__
        raise NotApplicable(
            f"{name} does not encode its state: modes store it unchanged"
        )
    return cell.encode(trajectory.u)


def _inverse(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    distance, rest = _encoded(cell, trajectory)
    return compare(cell.decode(distance, rest), trajectory.u, 1e-13)


def _sign(cell: Cell, trajectory: _Trajectory) -> CheckResult:
    """Count the neurons that do not begin to fire at distance 0."""
    distance, rest = _encoded(cell, trajectory)
    _, out = trajectory.after
    is_spike = np.isin(out, (-1, 0, 1))
    if distance is None or not is_spike.all():
        raise NotApplicable("it does not fire")

    def fires_at(part: float) -> jax.Array:
        """Return the neurons that fire at this distance, in units of the largest one."""
        same = jnp.full_like(distance, part * peak_of(distance))
        _, out = cell.fire(cell.decode(same, rest))
        return out > 0

    # A neuron may rest, at any distance.
    is_able = fires_at(1.0) & ~fires_at(-1.0)
    fires_above = fires_at(1e-9)
    fires_below = fires_at(-1e-9)
    is_wrong = is_able & (~fires_above | fires_below)
    return CheckResult("", float(is_wrong.sum()), note="neurons")


_LAWS = {
    "it fires and is silent": _varies,
    "a step is integrate, then fire, with jit and vmap too": _call,
    "examples do not see each other": _examples,
    "fire is elementwise: neurons do not see each other": _neurons,
    "without spikes the potential is the declared linear response": _response,
    "decode is the inverse of encode": _inverse,
    "the sign of the distance is the spike": _sign,
}


# --- gradients ------------------------------------------------------------------------------------


def _laws_of_networks(
    cell: Cell, features: tuple[int, ...], drive: float, trajectory: _Trajectory
) -> Laws:
    """Check the gradient of a recurrent layer in inputs, weights and parameters, in every mode."""
    rng = np.random.default_rng(1)
    feedforward = drive * rng.uniform(0.5, 1.0, features)
    recurrent = drive * rng.uniform(-0.5, 0.5, features)
    parameters, rebuild = trainable(cell)
    # Currents and weights of size 1 have gradients of one size.
    currents = trajectory.current
    _, out = trajectory.after
    inputs = currents / drive, feedforward, recurrent, parameters
    # An output of another shape than the currents cannot be fed back.
    feeds_back = currents.shape[: out.ndim] == out.shape

    def loss(inputs, mode):
        """Return a sum of the outputs with different weights, and the outputs."""
        x, w, r, values = inputs

        def feedback(out: jax.Array) -> jax.Array:
            """All receptors of a neuron get its output."""
            # (batch, neurons) -> (batch, neurons, 1) for currents (batch, neurons, receptors)
            missing = (1,) * (r.ndim + 1 - out.ndim)
            return r * out.reshape(out.shape + missing)

        # Elementwise weights fit features of any shape.
        recurrent = feedback if feeds_back else None
        layer = Layer(lambda x: w * x, rebuild(values), recurrent)
        _, outs = Network([layer])(x, backward=mode)
        # Different weights for all outputs, so errors of two outputs cannot cancel.
        weights = jnp.cos(jnp.arange(outs.size))
        return jnp.vdot(weights, outs), outs

    # jit compiles each mode once
    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)

    def outputs_and_gradient(inputs, mode):
        (_, outs), gradient = compiled(inputs, mode)
        return outs, ravel_pytree(gradient)[0]

    outs, expected = outputs_and_gradient(inputs, "scan")
    # Mode "scan" is JAX's own derivative, so it is the reference of all others.
    is_finite = jnp.isfinite(expected).all()
    yield "gradients are finite", lambda: CheckResult("") if is_finite else broken("")
    size = float(jnp.linalg.norm(expected)) or 1.0
    # Some dynamics amplify rounding errors, which are not the same in two programs.
    # Where a spike moves, no limit holds.
    # A change of a relative 1e-12, far above rounding in float64 and far below any effect of the
    # network.
    noise = 1 + _SMALL * rng.uniform(-1, 1, currents.shape)
    near_currents = currents / drive * noise
    near_inputs = near_currents, feedforward, recurrent, parameters
    near_outs, near = outputs_and_gradient(near_inputs, "scan")
    change = jnp.linalg.norm(near - expected) / size
    amplification = float(change / _SMALL)
    change_of_outs = jnp.abs(near_outs - outs).max()
    if change_of_outs > 1e-6 * peak_of(outs):
        amplification = math.inf
    exact = max(1e-9, 1e-13 * amplification)

    def law(mode, limit):
        """Compare outputs, then the gradient by norm."""
        # Modes of few bits change the states by far more than rounding does.
        most = 1e8 if limit == exact else 10
        if amplification > most:
            change = "the dynamics amplify a relative change of the currents"
            raise NotApplicable(f"{change} by {amplification:.0e}")
        mode_outs, gradient = outputs_and_gradient(inputs, mode)
        result = compare(mode_outs, outs, exact, note="outputs")
        error = jnp.linalg.norm(gradient - expected) / size
        by_norm = compare(error, 0.0, limit, scale=1.0, note="gradients, by norm")
        return by_norm if result.passed else result

    for mode, (storage, *_) in MODES.items():
        can_run = not storage.encodes or says_how_to_encode(cell)
        if mode != "scan" and can_run:
            limit = storage.gradient_error or exact
            yield (
                f"in mode {mode!r} a network equals mode 'scan'",
                partial(law, mode, limit),
            )
