"""Cue accumulation: 50 LIF and 50 adaptive neurons against 100 LIF neurons (Bellec et al. 2020, figure 4).

Seven cues come from the left or from the right. After a delay, the network reports the more frequent side. The settings
are those of the authors' tutorial, in 2250 steps of 1 ms. Its gradients are those of e-prop: spikes are constants in
recurrent currents and resets, so errors pass through the state of each neuron only. Training ends early if the error on
validation examples is below 5 %. The errors in the table are those of other examples. ``--gradient all`` trains with
all gradients.

    python benchmarks/cue_accumulation.py --folder runs/cue-accumulation \\
        --json benchmarks/results/cue-accumulation.json

The folder gets ``runs.jsonl``, a line for each run. Runs that it already has are not repeated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, keep_memory, kept_in, report, setting

from spikegrad import (
    AdaptiveLIF,
    Layer,
    LeakyReadout,
    Network,
    PiecewiseQuadratic,
    decay_from_tau,
    training,
)
from spikegrad.data import cue_accumulation
from spikegrad.neurons import Refractory

INPUTS, NEURONS, CLASSES, RECALL = 40, 100, 2, 150
MEMBRANE, ADAPTATION = decay_from_tau(20.0), decay_from_tau(2000.0)  # ms, in steps of 1 ms
THRESHOLD, REFRACTORY, RATE = 0.6, 4, 0.01  # RATE in spikes per step
STRENGTH = 1.7 * (1 - ADAPTATION) / (1 - MEMBRANE)
STOP = 0.05
BATCH, EVERY = 64, 20
"""Examples of an update, and updates from one validation to the next."""
Weights = list[jax.Array]
"""To the neurons, ``(40, 100)``; among them, ``(100, 100)``; to the readout, ``(100, 2)``."""


def start(key: jax.Array, setting: Any = None) -> Weights:
    keys = jax.random.split(key, 3)
    to_hidden = jax.random.normal(keys[0], (INPUTS, NEURONS)) / INPUTS**0.5
    recurrent = jax.random.normal(keys[1], (NEURONS, NEURONS)) / NEURONS**0.5
    return [to_hidden, recurrent, jax.nn.initializers.glorot_uniform()(keys[2], (NEURONS, CLASSES))]


def run(weights: Weights, x: jax.Array, adaptive: int, gradient: str = "all") -> tuple[jax.Array, jax.Array]:
    """Return logits of the recall, ``(150, n, 2)``, and spikes, for ``x (steps, n, 40)``. The last neurons adapt."""
    to_hidden, recurrent, to_readout = weights
    recurrent = recurrent * (1 - jnp.eye(NEURONS))
    local = gradient == "e-prop"
    strength = jnp.where(jnp.arange(NEURONS) < NEURONS - adaptive, 0.0, STRENGTH)
    surrogate = 0.3 * PiecewiseQuadratic(1 / THRESHOLD)
    cell = Refractory(
        AdaptiveLIF(
            MEMBRANE, THRESHOLD, surrogate, "baseline", local, adaptation=strength, adaptation_decay=ADAPTATION
        ),
        REFRACTORY,
    )
    hidden = Layer(to_hidden, cell, (lambda s: jax.lax.stop_gradient(s) @ recurrent) if local else recurrent)
    readout = Layer(to_readout, LeakyReadout(MEMBRANE, norm_input=True))
    _, activity = Network([hidden, readout]).observe(x, parts=("output",))
    return activity[-1].output[-RECALL:], activity[0].output


def loss(weights: Weights, batch: Any, key: jax.Array, setting: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy in each step of the recall, and the squared distance of each neuron to 10 Hz."""
    del key
    x, y = batch
    outputs, spikes = run(weights, x, setting["adaptive"], setting["gradient"])
    of_classes = optax.softmax_cross_entropy(outputs, jax.nn.one_hot(y, CLASSES)).mean()
    rates = spikes.mean((0, 1))
    return of_classes + ((rates - RATE) ** 2).sum(), {"error": error(outputs, y), "rate": rates.mean()}


def error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return (outputs.mean(0).argmax(-1) != y).mean()


errors = jax.jit(lambda weights, x, y, adaptive: error(run(weights, x, adaptive)[0], y), static_argnums=3)


def examples(samples: int, delay: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, y, _ = cue_accumulation(samples, delay=delay, seed=seed).as_batch()
    return x, y


def batches(delay: int, seed: int) -> Any:
    """Return new examples for each update."""

    def of_epoch(epoch: int) -> Iterator[Any]:
        first = 1_000_000 * (seed + 1) + EVERY * epoch
        return (examples(BATCH, delay, number) for number in range(first, first + EVERY))

    return of_epoch


def results(settings: Sequence[dict[str, Any]], seeds: int, held_out: int, path: Path | None, jobs: int | None) -> Any:
    """Train, and yield each run when it ends."""
    delay = settings[0]["delay"]
    validation, test = (examples(held_out, delay, seed) for seed in (1, 2))

    def stop(setting: dict[str, Any]) -> training.Callback:
        def reached(now: training.Report) -> bool:
            if not now.epoch_ended:
                return False
            found = float(errors(now.state.trainable, *validation, setting["adaptive"]))
            about = f"  {name_of(setting)}: {now.step} updates, error {found:.3f}"
            print(about, file=sys.stderr, flush=True)
            return found < STOP

        return reached

    def score(weights: Weights, setting: dict[str, Any]) -> dict[str, float]:
        of = {"validation": validation, "test": test}
        return {name: float(errors(weights, *part, setting["adaptive"])) for name, part in of.items()}

    return training.sweep(
        loss,
        start,
        lambda seed: batches(delay, seed),
        settings,
        optimizer=optax.adam(5e-3),
        seeds=range(seeds),
        steps=settings[0]["updates"],
        score=score,
        callbacks=lambda setting, seed: [stop(setting)],
        path=path,
        resume=path is not None,
        jobs=jobs,
    )


def name_of(setting: dict[str, Any]) -> str:
    return f"{NEURONS - setting['adaptive']} LIF, {setting['adaptive']} adaptive, {setting['gradient']}"


def summary(settings: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each network: test errors over seeds."""
    rows = []
    for one in settings:
        mine = [run for run in runs if all(run[name] == value for name, value in one.items())]
        tests = [run["test"] for run in mine]
        rows.append(
            {
                "network": name_of(one).rpartition(", ")[0],
                "gradient": one["gradient"],
                "seeds": len(tests),
                "error": float(np.mean(tests)),
                "min": min(tests),
                "max": max(tests),
                "updates": sorted(run["step"] for run in mine),
                "rate": float(np.mean([run["rate"] for run in mine])),
            }
        )
    return rows


def main(args: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="where runs are kept (nowhere)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=1600, help="most updates of a run")
    parser.add_argument("--gradient", choices=("e-prop", "all"), default="e-prop")
    parser.add_argument("--delay", type=int, default=1200, help="steps from the last cue to the end")
    parser.add_argument("--held-out", type=int, default=512, help="examples for validation, and as many for the test")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (all processors)")
    options = parser.parse_args(args)
    settings = [
        {"adaptive": adaptive, "gradient": options.gradient, "delay": options.delay, "updates": options.updates}
        for adaptive in (50, 0)
    ]
    runs = []
    for run in results(settings, options.seeds, options.held_out, kept_in(options.folder), options.jobs):
        runs.append(run)
        about = "  ".join(f"{name} {run[name]:.3g}" for name in ("seed", "step", "loss", "test", "seconds"))
        print(f"{name_of(run)}  {about}", file=sys.stderr, flush=True)
    rows = summary(settings, runs)
    report(rows, None)
    if options.json:
        size = {name: getattr(options, name) for name in ("seeds", "updates", "delay", "held_out")}
        about = {"setting": setting(), "size": size, "rows": rows}
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    keep_memory()
    main()
