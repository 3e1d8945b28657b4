"""Cells: time of a training step of each cell over that of LIF, and the arrays that it keeps.

A layer of 512 neurons over 100 steps with a batch of 64, in the mode exact, with the default parameters of each cell.
``alone`` is the ratio of the times for currents that are given, ``network`` for currents that are a product with a
matrix of 512 x 512. Both are the forward and the backward pass, compiled. ``transcendental`` names the functions of a
step that need more than additions and products. ``states`` is the number of arrays of the state of a cell, and
``kept`` the number of float32 arrays of one value for each neuron, step and example that the backward pass is given.

    python benchmarks/cells.py --json FILE
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from _measure import arguments, interleave, keep_memory, ratio, report

from spikegrad import LIF, Layer, Network, neurons
from spikegrad.reports import residual_report

COSTLY = {"exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "erf", "pow", "sqrt", "rsqrt"}


def cells() -> dict[str, Any]:
    """The cells that fire and have a default for each parameter, and a cheaper order of one. LIF is the first."""
    found = {"LIF": LIF()}
    for name in sorted(neurons.__all__):
        cls = getattr(neurons, name)
        if inspect.isclass(cls) and issubclass(cls, neurons.Cell) and cls is not neurons.MultiSynapticLIF:
            parameters = inspect.signature(cls).parameters.values()
            if "surrogate" in {p.name for p in parameters} and all(p.default is not p.empty for p in parameters):
                found.setdefault(name, cls())
    found["Izhikevich, semi-implicit"] = neurons.Izhikevich(order="semi-implicit")
    return found


def transcendental(cell: Any, current: jax.Array) -> str:
    """The transcendental functions that one step computes for each neuron."""
    state = jax.tree.map(jnp.asarray, cell.initial_state(current.shape, current.dtype))
    step = jax.make_jaxpr(cell)(state, current)
    return ", ".join(sorted(COSTLY & of_neurons(step.jaxpr)))


def of_neurons(jaxpr: Any) -> set[str]:
    """The operations whose result has a value for each neuron."""
    names = {eqn.primitive.name for eqn in jaxpr.eqns if eqn.outvars[0].aval.size > 1}
    inner = (value for eqn in jaxpr.eqns for value in eqn.params.values() if hasattr(value, "jaxpr"))
    return names.union(*(of_neurons(value.jaxpr) for value in inner))


def loss_alone(cell: Any, currents: jax.Array) -> jax.Array:
    return Network([Layer(lambda x: x, cell)])(currents)[1].mean()


def loss_of_network(cell: Any, weight: jax.Array, inputs: jax.Array) -> jax.Array:
    return Network([Layer(weight, cell)])(inputs)[1].mean()


def main() -> None:
    keep_memory()
    parser = arguments(__doc__)
    parser.add_argument("--neurons", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    shape = options.steps, 64, options.neurons
    keys = jax.random.split(jax.random.key(0), 3)
    currents = jax.random.uniform(keys[0], shape)
    inputs = jax.random.bernoulli(keys[1], 0.1, shape).astype(jnp.float32)
    weight = jax.random.normal(keys[2], (options.neurons, options.neurons)) * 0.1
    alone, network, rows = {}, {}, []
    for name, cell in cells().items():
        compiled = jax.jit(jax.grad(functools.partial(loss_alone, cell))).lower(currents).compile()
        alone[name] = lambda run=compiled: jax.block_until_ready(run(currents))
        compiled = jax.jit(jax.grad(functools.partial(loss_of_network, cell))).lower(weight, inputs).compile()
        network[name] = lambda run=compiled: jax.block_until_ready(run(weight, inputs))
        kept = residual_report(functools.partial(loss_of_network, cell), weight, inputs).bytes
        rows.append(
            {
                "cell": name,
                "states": len(cell.state_names),
                "kept": kept / inputs.nbytes,
                "transcendental": transcendental(cell, currents[0]),
            }
        )
    for column, runs in (("alone", alone), ("network", network)):
        seconds = interleave(runs, options.rounds)
        for row in rows:
            found = ratio(seconds[row["cell"]], seconds["LIF"])
            row |= {column: found["ratio"], f"{column}_min": found["min"], f"{column}_max": found["max"]}
    report(rows, options.json)


if __name__ == "__main__":
    main()
