"""Un-jitted use: a call, and the gradient of its sum, on 128 elements.

Ratios to what JAX itself costs: a call to one jitted elementwise operation, the gradient to that of ``sum(x * x)``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from _measure import arguments, chosen, interleave, ratio, report

import spikegrad


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NAME,...", help="these surrogates alone")
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()

    x = jnp.linspace(-3, 3, 128)
    one = jax.jit(lambda x: x * 1.5)
    square = jax.grad(lambda x: jnp.sum(x * x))
    rows = []
    for name in chosen(spikegrad.names(), options.only):
        fire = spikegrad.get(name)
        function = spikegrad.surrogates.functional(type(spikegrad.get(name)))
        gradient = jax.grad(lambda x, fire=fire: jnp.sum(fire(x)))
        calls = interleave(
            {
                "jitted": lambda: one(x).block_until_ready(),
                "class": lambda fire=fire: fire(x).block_until_ready(),
                "function": lambda function=function: function(x).block_until_ready(),
            },
            options.rounds,
            200,
        )
        grads = interleave(
            {
                "square": lambda: square(x).block_until_ready(),
                "surrogate": lambda gradient=gradient: gradient(x).block_until_ready(),
            },
            options.rounds,
            20,
        )
        rows.append(
            {
                "surrogate": name,
                "call": ratio(calls["class"], calls["jitted"])["ratio"],
                "function": ratio(calls["function"], calls["jitted"])["ratio"],
                "grad": ratio(grads["surrogate"], grads["square"])["ratio"],
                "call_us": 1e6 * min(calls["class"]),
                "grad_us": 1e6 * min(grads["surrogate"]),
            }
        )
    report(rows, options.json)


if __name__ == "__main__":
    main()
