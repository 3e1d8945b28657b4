"""How accurate each surrogate is: its primal, its slope and the slope's derivative, in every dtype.

float64 is compared with arbitrary precision (``tests/reference.py``) on a sample that has every exponent, the knots and
their neighbors. float64 is then the reference of the narrower dtypes, whose inputs it holds exactly:
every one of the 65,536 of float16 and bfloat16, and for float32 the same sample, or with ``--all-float32`` every one of
the 2**32, which takes an hour.

    python benchmarks/accuracy.py --json FILE
    python benchmarks/accuracy.py --all-float32 --json FILE

Columns: the largest error in units in the last place (ulp) and where; the largest relative error where the value is at
least a thousandth of the peak (``core``) and where it is a normal number above 1e-30 (``tail``). Curves that cross zero
are measured against their peak throughout. Left out are the second derivative at a knot, which is a convention there,
the Fourier series beyond 2**24 periods, where float32 no longer has a phase, and subnormal inputs, which XLA on CPU
takes for zero.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, chosen, keep_memory, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from reference import CASES, Case, every_half

from spikegrad._checks import snake_case

HALF = ("float16", "bfloat16")
TARGETS = {  # the largest errors allowed
    "float16": {"ulp": 1.0},
    "bfloat16": {"ulp": 1.0},
    "float32": {"core": 1e-6, "tail": 2e-5},
    "float64": {"core": 1e-14, "tail": 1e-12},
}
QUANTITIES = {
    "primal": lambda s, x: s.surrogate_fun(x),
    "slope": lambda s, x: s.surrogate_grad(x),
    "second": lambda s, x: jax.jvp(s.surrogate_grad, (x,), (jnp.ones_like(x),))[1],
}


def sample(case: Case, dtype: type, per_exponent: int = 3) -> np.ndarray:
    """Numbers of every exponent, the knots, the neighbors of these and of zero, and the extremes.

    None is above 1e100, where mpmath's erfc gives up.
    """
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    exponents = np.arange(info.minexp, min(info.maxexp, 332))
    spread = np.ldexp(rng.uniform(1, 2, (per_exponent, exponents.size)), exponents).ravel().astype(dtype)
    near = rng.uniform(0, 30, 40 * per_exponent).astype(dtype)
    knots = np.abs(np.array([float(knot) for knot in case.knots(dtype)] + [0.0, 1.0], dtype))
    around = [knots]
    for direction in (0, np.inf):
        step = knots[knots > 0]
        for _ in range(3):
            step = np.nextafter(step, dtype(direction))
            around.append(step)
    edges = np.array([min(float(info.max), 1e100), info.tiny], dtype)
    x = np.concatenate([spread, near, *around, edges])
    return np.unique(np.concatenate([x, -x, np.array([-0.0], dtype)]))


@jax.jit
def _errors(value, error, exact, x, peak, signed) -> dict[str, Any]:
    """The largest errors: in units in the last place and where, and relative to the true value or to the peak."""
    info = jnp.finfo(x.dtype)
    size = jnp.where(signed, jnp.maximum(jnp.abs(exact), peak), jnp.abs(exact))
    # where the true value is beyond the dtype, or below its normal numbers, rounding to infinity or to zero is right
    error = jnp.where(jnp.isinf(value) & (jnp.abs(exact) >= float(info.max)), 0, error)
    error = jnp.where((value == 0) & (jnp.abs(exact) < float(info.tiny)), 0, error)
    exponent = jax.lax.bitcast_convert_type(jnp.asarray(size, jnp.float64), jnp.int64) >> 52
    exponent = jnp.maximum(exponent, max(int(info.minexp), -200) + 1023)  # 1e-30 is larger
    unit = jax.lax.bitcast_convert_type((exponent - info.nmant) << 52, jnp.float64)
    ulp = jnp.where(size >= 1e-30, error / unit, 0)
    relative = error / jnp.where(size > 0, size, 1)
    core = jnp.where(jnp.abs(exact) >= 1e-3 * peak, relative, 0)
    tail = jnp.where(jnp.abs(exact) > max(1e-30, float(info.tiny)), relative, 0)
    ulp, core, tail = jax.lax.optimization_barrier((ulp, core, tail))  # else each maximum computes them anew
    ulp = jnp.where(jnp.isnan(ulp), jnp.inf, ulp)
    worst = jnp.max(ulp)
    at = jnp.max(jnp.where(ulp == worst, jnp.asarray(x, jnp.float64), -jnp.inf))
    return {"ulp": worst, "at": at, "core": jnp.max(core), "tail": jnp.max(tail)}


def _sides() -> jax.Array:
    """Where to look for the scale of a curve."""
    half = jnp.linspace(0.001, 8, 8000, dtype=jnp.float64)
    return jnp.concatenate([half, -half])


def _scale(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The peak of a curve, and whether it crosses zero elsewhere than at the threshold, by its values there."""
    sides = values.reshape(2, -1)
    crosses = jnp.any(sides > 0, axis=1) & jnp.any(sides < 0, axis=1)
    return jnp.max(jnp.abs(sides)), jnp.any(crosses)


def against_float64(case: Case, quantities: tuple[str, ...], *xs: jax.Array) -> dict[str, list[dict[str, Any]]]:
    """The largest errors of each quantity over each x, in a dtype narrower than float64.

    Parameters are as float32 holds them.
    """
    return {
        quantity: [_errors(value, jnp.abs(value - exact), exact, x, *scale) for x, value, exact in each]
        for quantity, (each, scale) in _all_in_both(case, quantities, *xs).items()
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _all_in_both(case: Case, quantities: tuple[str, ...], *xs: jax.Array) -> dict[str, Any]:
    """One program: compiled quantity by quantity, they take twice as long."""
    return {quantity: _in_both(case, quantity, *xs) for quantity in quantities}


def _in_both(case: Case, quantity: str, *xs: jax.Array) -> tuple[Any, ...]:
    """Each x, less what is left out, and the values there, in its dtype and in float64; the scale of the curve."""
    given = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in case.parameters.items()}
    surrogate = case.kind(**given)
    curve = functools.partial(QUANTITIES[quantity], surrogate)
    xs = [jnp.where(left_out(case, quantity, x.astype(jnp.float32), jnp), jnp.asarray(0.5, x.dtype), x) for x in xs]
    exact = curve(jnp.concatenate([*(x.astype(jnp.float64) for x in xs), _sides()]))
    *exacts, sides = jnp.split(exact, np.cumsum([x.size for x in xs]))
    values = [curve(x).astype(jnp.float64) for x in xs]
    exacts, values = jax.lax.optimization_barrier((exacts, values))
    return list(zip(xs, values, exacts, strict=True)), _scale(sides)


def left_out(case: Case, quantity: str, x: Any, xp: Any) -> Any:
    """Where nothing is claimed: see above."""
    a = xp.abs(x)
    out = (a > 0) & (a < float(jnp.finfo(x.dtype).tiny))
    if quantity == "second":
        out |= functools.reduce(lambda p, q: p | q, (x == float(knot) for knot in case.knots(np.float32)), out)
    return out | (a >= float(case.parameters.get("t_period", np.inf)) * (1 << 24))


def against_truth(case: Case, quantity: str, x: np.ndarray) -> dict[str, Any]:
    """The largest errors over x, in float64 or float32, against arbitrary precision."""
    x = x[~left_out(case, quantity, x, np)]
    surrogate = case.make()
    truth = {"primal": case.fun, "slope": case.grad, "second": functools.partial(case.grad, order=1)}[quantity](x)
    value = np.asarray(QUANTITIES[quantity](surrogate, jnp.asarray(x)), np.float64)
    error = np.array([float(abs(t - v)) for t, v in zip(truth, value, strict=True)])
    exact = np.array([float(t) for t in truth])
    return _errors(value, error, exact, x, *_scale(QUANTITIES[quantity](surrogate, _sides())))


@functools.partial(jax.jit, static_argnums=(0, 1))
def every_float32(case: Case, quantity: str, chunk: int = 1 << 18) -> dict[str, Any]:
    """The largest errors over every float32, a part at a time that fits into a cache."""

    def body(worst, part):
        x = jax.lax.bitcast_convert_type(part * jnp.uint32(chunk) + jnp.arange(chunk, dtype=jnp.uint32), jnp.float32)
        (row,) = against_float64(case, (quantity,), jnp.where(jnp.isfinite(x), x, 0))[quantity]
        worst["at"] = jnp.where(row["ulp"] > worst["ulp"], row.pop("at"), worst["at"])
        return worst | {key: jnp.maximum(value, worst[key]) for key, value in row.items()}, None

    parts = jnp.arange((1 << 32) // chunk, dtype=jnp.uint32)
    return jax.lax.scan(body, dict.fromkeys(("ulp", "at", "core", "tail"), jnp.float64(0)), parts)[0]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NAME,...", help="these surrogates alone")
    parser.add_argument("--dtype", metavar="NAME,...", help="these dtypes alone")
    parser.add_argument("--all-float32", action="store_true", help="every float32, default parameters")
    options = parser.parse_args()
    keep_memory()
    jax.config.update("jax_enable_x64", True)

    rows = []
    dtypes = chosen((*HALF, "float32", "float64"), options.dtype)
    for case in CASES:
        name = snake_case(case.name)
        if not chosen([name], options.only) or (options.all_float32 and case.setting):
            continue
        xs = {d: jnp.asarray(every_half(d)) for d in dtypes if d in HALF}
        if "float32" in dtypes:
            xs["float32"] = jnp.asarray(sample(case, np.float32, 40))
        narrow = against_float64(case, tuple(QUANTITIES), *xs.values()) if xs and not options.all_float32 else {}
        for quantity in QUANTITIES:
            if options.all_float32:
                found = {"every float32": every_float32(case, quantity)}
            else:
                found = dict(zip(xs, narrow.get(quantity, ()), strict=True))
                if "float64" in dtypes:
                    found["float64"] = against_truth(case, quantity, sample(case, np.float64, 1))
            for dtype, worst in found.items():
                numbers = {key: float(value) for key, value in worst.items()}
                rows.append({"surrogate": str(case), "quantity": quantity, "dtype": dtype} | numbers)
                print(rows[-1], file=sys.stderr)
    report(rows, options.json)


if __name__ == "__main__":
    main()
