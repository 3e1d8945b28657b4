"""Pattern generation with e-prop: the published losses, and the cost of gradients that go forward in time.

100 recurrent neurons generate a waveform of 1,000 steps (Bellec et al. 2020). The test of the e-prop neurons of NEST
states the losses of five updates, together with those of the authors' program. Two programs compute them here:
backpropagation with ``stop_gradient`` on recurrent spikes, and ``training.Online`` forward in time. Trainings of
several seeds compare e-prop with random feedback, e-prop with the weights of the readout, and backpropagation. Their
error is relative to that of the mean of the target. Then sequences of three sizes are timed, with the memory of each
compiled program and the number of steps for which e-prop and backpropagation need equal memory.

    python benchmarks/eprop.py --json benchmarks/results/eprop.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, interleave, keep_memory, ratio, report, setting

from spikegrad import LIF, Layer, LeakyReadout, Network, ReluGrad
from spikegrad.training import Online

PUBLISHED = 101.964356999041, 103.466731126205, 103.340607074771, 103.680244037686, 104.412775748752
INPUTS, NEURONS, STEPS = 100, 100, 1000
LEAK, RATE, STRENGTH, LEARNING_RATE = float(np.exp(-1 / 30)), 0.01, 150.0, 1e-4
Weights = tuple[jax.Array, jax.Array, jax.Array]
"""To the neurons, among them, and to the readout."""


def task(seed: int = 1) -> tuple[Weights, jax.Array, jax.Array, jax.Array]:
    """Return weights, feedback weights, input spikes and the target. The published draws have seed 1."""
    r = np.random.RandomState(seed)
    to_neurons, among, out, feedback = (
        (r.randn(*shape) / 10).astype("float32").astype(float)
        for shape in ((INPUTS, NEURONS), (NEURONS, NEURONS), (NEURONS, 1), (NEURONS, 1))
    )
    np.fill_diagonal(among, 0)
    spikes = (r.rand(STEPS, INPUTS) < 0.05).astype(float)
    spikes[0] = 0
    amplitudes, phases = r.uniform(0.5, 2, 4), r.uniform(0, 2 * np.pi, 4)
    periods = np.array([1000, 500, 333, 200])
    turns = np.linspace(0, 2 * np.pi * (STEPS // periods), STEPS)
    target = (amplitudes * np.sin(turns + phases)).sum(-1)
    target -= target[0]
    target /= np.abs(target).max()
    weights = jnp.asarray(to_neurons), jnp.asarray(among), jnp.asarray(out)
    return weights, jnp.asarray(feedback), jnp.asarray(spikes)[:, None], jnp.asarray(target)[:, None, None]


def network(weights: Weights, cell: LIF, cut: bool = False, feedback: Any = None) -> Network:
    """Return neurons and readout, for backpropagation with the paths of e-prop if ``cut``."""
    to_neurons, among, out = weights
    recurrent = (lambda s: jax.lax.stop_gradient(s) @ among) if cut else among

    def with_feedback(s):
        signal = s @ feedback
        return jax.lax.stop_gradient(s) @ out + (signal - jax.lax.stop_gradient(signal))

    readout = Layer(out if feedback is None else with_feedback, LeakyReadout(LEAK, norm_input=True))
    return Network({"hidden": Layer(to_neurons, cell, recurrent), "out": readout}, outputs=("hidden", "out"))


CELL = LIF(LEAK, 0.03, ReluGrad(10 / 0.03, 0.03), norm_input=True, detach_reset=True, delay_reset=True)


def backward(
    weights: Weights, feedback: jax.Array | None, x: jax.Array, target: jax.Array, cut: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Return the loss with the cost of firing rates, and the error."""
    outputs = network(weights, CELL, cut, feedback)(x)[1]
    error = 0.5 * ((outputs["out"] - target) ** 2).sum()
    rates = outputs["hidden"].mean((0, 1))
    return error + STRENGTH * ((rates - RATE) ** 2).sum(), error


def forward(weights: Weights, feedback: jax.Array, x: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return them by the rule that goes forward in time. The rates need a first pass."""
    net = network(weights, CELL)
    outputs = net(x)[1]
    rates = outputs["hidden"].mean((0, 1))
    of_spike = jax.lax.stop_gradient(2 * STRENGTH * (rates - RATE) / STEPS)

    def loss(outputs, target):
        return 0.5 * ((outputs["out"] - target) ** 2).sum() + (outputs["hidden"] @ of_spike).sum()

    online = Online(net, feedback={"out": {"hidden": feedback}})
    return online.loss(x, target, loss), 0.5 * ((outputs["out"] - target) ** 2).sum()


def losses(loss: Callable[..., Any], updates: int) -> list[float]:
    """Return the errors before each update of gradient descent."""
    weights, feedback, x, target = task()

    @jax.jit
    def update(weights):
        (_, error), gradients = jax.value_and_grad(loss, has_aux=True)(weights, feedback, x, target)
        gradients = gradients[0], gradients[1] * (1 - jnp.eye(NEURONS)), gradients[2]
        return jax.tree.map(lambda w, g: w - LEARNING_RATE * g, weights, gradients), error

    errors = []
    for _ in range(updates):
        weights, error = update(weights)
        errors.append(float(error))
    return errors


def published(updates: int) -> list[dict[str, Any]]:
    columns = {name: losses(loss, updates) for name, loss in (("backward", backward), ("forward", forward))}
    rows = []
    for n in range(updates):
        row = {"update": n + 1, "published": PUBLISHED[n]}
        for name, errors in columns.items():
            row |= {name: errors[n], f"difference of {name}": abs(errors[n] / PUBLISHED[n] - 1)}
        rows.append(row)
    return rows


def trained(updates: int, seeds: int) -> list[dict[str, Any]]:
    """Return the normalized error before and after training with Adam, by the gradient, over seeds."""
    rows = []
    for name, cut in (("random feedback", True), ("weights of the readout", True), ("backpropagation", False)):
        errors = []
        for seed in range(1, seeds + 1):
            weights, feedback, x, target = task(seed)
            loss = partial(
                backward, feedback=feedback if name == "random feedback" else None, x=x, target=target, cut=cut
            )
            optimizer = optax.adam(3e-3)

            @jax.jit
            def update(carry, loss=loss, optimizer=optimizer):
                weights, moments = carry
                (_, error), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
                gradients = gradients[0], gradients[1] * (1 - jnp.eye(NEURONS)), gradients[2]
                changes, moments = optimizer.update(gradients, moments)
                return (optax.apply_updates(weights, changes), moments), error

            scale = 0.5 * float(((target - target.mean()) ** 2).sum())
            carry = weights, optimizer.init(weights)
            of_seed = []
            for _ in range(updates + 1):
                carry, error = update(carry)
                of_seed.append(float(error) / scale)
            errors.append((of_seed[0], of_seed[-1]))
        first, last = np.array(errors).T
        rows.append(
            {"gradient": name, "seeds": seeds, "updates": updates, "error at the start": first.mean()}
            | {"error": last.mean(), "min": last.min(), "max": last.max()}
        )
    return rows


def cost(neurons: int, steps: int, batch: int, rounds: int) -> dict[str, Any]:
    """Return the time and memory of a sequence in each rule over those of backpropagation in mode "exact"."""
    r = np.random.default_rng(0)
    shapes = (INPUTS, neurons), (neurons, neurons), (neurons, 2)
    weights = tuple(jnp.asarray(r.normal(size=shape) / shape[0] ** 0.5, "float32") for shape in shapes)
    x = jnp.asarray(r.random((steps, batch, INPUTS)) < 0.05, "float32")
    target = jnp.zeros((steps, batch, 2), "float32")
    cell = LIF(LEAK, 0.03, ReluGrad(10 / 0.03, 0.03), norm_input=True)

    def squares(outputs, target):
        return ((outputs["out"] - target) ** 2).sum()

    def exact(weights):
        return squares(network(weights, cell)(x)[1], target)

    contenders = {"exact": exact}
    for rule in ("eprop", "ottt", "local"):
        contenders[rule] = lambda weights, rule=rule: Online(network(weights, cell), rule).loss(x, target, squares)
    compiled = {name: jax.jit(jax.grad(loss)).lower(weights).compile() for name, loss in contenders.items()}
    memory = {name: program.memory_analysis().temp_size_in_bytes for name, program in compiled.items()}
    runs = {name: lambda run=run: jax.block_until_ready(run(weights)) for name, run in compiled.items()}
    seconds = interleave(runs, rounds)
    of_traces = Online(network(weights, cell)).cost(x).traces
    row = {"neurons": neurons, "steps": steps, "batch": batch, "ms": 1e3 * min(seconds["exact"])}
    for rule in ("eprop", "ottt", "local"):
        row |= {f"{rule}, time": ratio(seconds[rule], seconds["exact"])["ratio"]}
        row |= {f"{rule}, memory": memory[rule] / memory["exact"]}
    return row | {"traces, MB": of_traces / 1e6, "crossover, steps": round(steps * memory["eprop"] / memory["exact"])}


def main(args: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--trained", type=int, default=300, help="updates of each training")
    parser.add_argument("--seeds", type=int, default=5, help="of the trainings")
    parser.add_argument("--sizes", default="50x1000,100x1000,200x1000", help="neurons x steps")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(args)
    jax.config.update("jax_enable_x64", True)  # the costs are of float32
    tables = {"losses": published(options.updates)}
    tables["trained"] = trained(options.trained, options.seeds)
    sizes = [map(int, size.split("x")) for size in options.sizes.split(",")]
    tables["cost"] = [cost(*size, options.batch, options.rounds) for size in sizes]
    for rows in tables.values():
        report(rows, None)
        print()
    if options.json:
        options.json.write_text(json.dumps({"setting": setting(), **tables}, indent=1) + "\n")


if __name__ == "__main__":
    keep_memory()
    main()
