"""Compiled, elementwise, on many elements: forward and vjp as ratios to the memory limit.

The limit of the forward is a copy (one read, one write), that of the vjp a product (two reads, one write). Beside them
stands what one exponential takes, which many slopes have: that of the product ``ct * exp(-x * x)``, column ``exp``. All
contenders of a surrogate run in turn within each round, and the allocator keeps its memory, so that neither the
machine's drift nor page faults of fresh outputs are measured.

    python benchmarks/elementwise.py --dtype float32 --json FILE
    python benchmarks/elementwise.py --dtype bfloat16 --peers
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, chosen, interleave, keep_memory, ratio, report

import spikegrad

COMPOSED = {  # by the names of their operations, of a curve that is at the limit itself
    "scaled": "0.3 * sigmoid",
    "added": "sigmoid + arctan",
    "shifted": "shifted(sigmoid, 0.5)",
    "stretched": "stretched(sigmoid, 2.0)",
    "truncated": "truncated(sigmoid, 1.0)",
}


def peers(spec: str) -> dict[str, Callable]:
    """The same surrogate in other libraries, those installed: the same formula where they have it."""
    found: dict[str, Callable] = {}
    try:
        import braintools.surrogate as tools  # noqa: PLC0415

        if (theirs := getattr(tools, type(spikegrad.get(spec)).__name__, None)) is not None:
            found["braintools"] = theirs()
    except ImportError:
        pass
    try:
        import spyx.axn  # noqa: PLC0415

        of_spyx = {
            "inv_square_grad": lambda: spyx.axn.superspike(100.0),
            "arctan": lambda: spyx.axn.arctan(0.5),
            "piecewise_leaky_relu": lambda: spyx.axn.boxcar(2.0, 0.5),
            "relu_grad": lambda: spyx.axn.triangular(1.0),
        }
        if spec in of_spyx:
            found["spyx"] = of_spyx[spec]()
    except ImportError:
        pass
    try:
        import jaxpike.surrogate as pike  # noqa: PLC0415

        of_pike = {
            "inv_square_grad": lambda: pike.FastSigmoid(100.0),
            "arctan": lambda: pike.ATan(1.0),
            "piecewise_quadratic": lambda: pike.Triangular(1.0),
            "piecewise_leaky_relu": lambda: pike.Boxcar(2.0),
        }
        if spec in of_pike:
            found["jaxpike"] = of_pike[spec]()
    except ImportError:
        pass
    return found


def measure(
    specs: Iterable[str], dtype: str, elements: int, rounds: int, with_peers: bool = False
) -> list[dict[str, Any]]:
    """A row for each surrogate and library."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=elements), dtype)
    ct = jnp.asarray(rng.normal(size=elements), dtype)
    copy = jax.jit(lambda x: x * 1.5)
    product = jax.jit(lambda x, ct: x * ct)
    exponential = jax.jit(lambda x, ct: ct * jnp.exp(-x * x))
    rows = []
    for spec in specs:
        contenders = {"spikegrad": spikegrad.get(spec)} | (
            peers(spec) if with_peers and spec in spikegrad.names() else {}
        )
        forward = {name: jax.jit(fire) for name, fire in contenders.items()}
        backward = {
            name: jax.jit(lambda x, ct, fire=fire: jax.vjp(fire, x)[1](ct)[0]) for name, fire in contenders.items()
        }
        runs = {
            "copy": lambda: copy(x).block_until_ready(),
            "product": lambda: product(x, ct).block_until_ready(),
            "exp": lambda: exponential(x, ct).block_until_ready(),
        }
        for name in contenders:
            runs[f"{name} forward"] = lambda f=forward[name]: f(x).block_until_ready()
            runs[f"{name} vjp"] = lambda f=backward[name]: f(x, ct).block_until_ready()
        seconds = interleave(runs, rounds)
        for name in contenders:
            vjp = ratio(seconds[f"{name} vjp"], seconds["product"])
            rows.append(
                {
                    "surrogate": spec,
                    "library": name,
                    "dtype": dtype,
                    "forward": ratio(seconds[f"{name} forward"], seconds["copy"])["ratio"],
                    "vjp": vjp["ratio"],
                    "vjp_min": vjp["min"],
                    "vjp_max": vjp["max"],
                    "exp": ratio(seconds["exp"], seconds["product"])["ratio"],
                }
            )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--dtype", default="float32", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--only", metavar="NAME,...", help="these surrogates alone")
    parser.add_argument("--peers", action="store_true", help="also the other libraries that are installed")
    parser.add_argument("--elements", type=int, default=1 << 24)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    keep_memory()
    specs = [COMPOSED.get(name, name) for name in chosen([*spikegrad.names(), *COMPOSED], options.only)]
    if "q_pseudo_spike" in specs:
        specs.append("q_pseudo_spike(alpha=2.3)")
    rows = measure(specs, options.dtype, options.elements, options.rounds, options.peers)
    report(rows, options.json)


if __name__ == "__main__":
    main()
