"""Binary adding: surrogates and neurons in one network, as in NeuroSeqBench (arXiv:2502.09449).

A sequence has 100 bits, of which 9 are marked. The label is the number of marked ones. The networks have two layers of
128 neurons and a linear readout of the last spikes. Neurons, surrogates and learning rates are those of the published
code if it has them. The training is shorter.

    python benchmarks/binary_adding.py --folder runs/binary-adding \\
        --json benchmarks/results/binary-adding.json

The folder gets ``runs.jsonl``, a line for each run. Runs that it already has are not repeated, so an interrupted
benchmark continues, and ``--seeds`` may add runs. ``--only`` selects networks. Accuracies are those of the test set
after the last update. Nothing is chosen by them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import arguments, keep_memory, kept_in, report, setting
from jax.typing import ArrayLike

from spikegrad import (
    LIF,
    AdaptiveLIF,
    Arctan,
    Layer,
    MultiGaussianGrad,
    Network,
    PiecewiseLeakyRelu,
    PiecewiseQuadratic,
    Sigmoid,
    rescaled,
    training,
)
from spikegrad.data import binary_adding
from spikegrad.network import fold_normalization
from spikegrad.neurons import BRF, TCLIF, AdLIF, Cell, SymplecticAdLIF

WIDTHS, CLASSES = (2, 128, 128), 10
SMOOTHING = 0.2
SURROGATES = {  # with the formulas and the width 0.4 of the source
    "rectangle": 0.4 * PiecewiseLeakyRelu(c=0.0, w=0.2),
    "triangle": PiecewiseQuadratic(2.5),
    "multi-Gaussian": MultiGaussianGrad(sigma=0.2, scale=0.2),
    "sigmoid": Sigmoid(10.0),
    "arctan": rescaled(Arctan(), peak=2.5, half_width=np.pi / 10),
}
Parameters = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """The length of the training."""

    samples: int = 50_000
    held_out: int = 2000
    """Examples for the test, and as many for validation and for statistics."""
    epochs: int = 7
    """Of recurrent networks. The source has 50."""
    feed_forward_epochs: int = 2
    batch: int = 50
    seeds: int = 3


class Neuron(NamedTuple):
    """A neuron: its cell, its parameters and the layer around it."""

    cell: Callable[[Parameters, Any, bool], Cell]
    """``cell(parameters, surrogate, recurrent)``: those of the layer, and whether the network is recurrent."""
    start: Callable[[jax.Array], Parameters] = lambda key: {}
    """Initial values of trainable parameters."""
    lr: tuple[float, float] = (1e-3, 1e-3)
    """Feed-forward and recurrent."""
    normalized: bool = False
    """If True, the layer normalizes its input over steps and examples."""
    scale: float = 1.0
    """Initial gain of normalized inputs, and of orthogonal recurrent weights."""
    orthogonal: bool = False
    """If True, recurrent weights are initially orthogonal."""
    limited: bool = True
    """If True, gradients have a norm of at most 1."""


def between(key: jax.Array, low: float, high: float) -> jax.Array:
    return jax.random.uniform(key, (WIDTHS[1],), minval=low, maxval=high)


def lif(p: Parameters, surrogate: Any, recurrent: bool) -> Cell:
    return LIF(0.5 if recurrent else 0.98, 0.5, surrogate, "value")


def alif_start(key: jax.Array) -> Parameters:
    membrane, adaptation = jax.random.normal(key, (2, WIDTHS[1]))
    return {"membrane": 20 + 5 * membrane, "adaptation": 700 + 25 * adaptation}  # time constants in steps


def alif(p: Parameters, surrogate: Any, recurrent: bool) -> Cell:
    decay, rho = jnp.exp(-1 / p["membrane"]), jnp.exp(-1 / p["adaptation"])
    threshold = (0.4 if recurrent else 0.3) + 0.018  # the adaptation of the source starts at 0.01, and not at 0
    return AdaptiveLIF(
        decay, threshold, surrogate, adaptation=1.8 * (1 - rho), adaptation_decay=rho, delay_reset=True
    )  # fmt: skip


def tclif(p: Parameters, surrogate: Any, recurrent: bool) -> Cell:
    first, second = jax.nn.sigmoid(p["couplings"])
    return TCLIF(first, second, 0.5, 0.5, surrogate)


def adlif_start(key: jax.Array) -> Parameters:
    first, second = jax.random.split(key)
    return {
        "decay": between(first, *DECAYS),
        "adaptation_decay": between(second, *ADAPTATION_DECAYS),
        "a": jnp.zeros(WIDTHS[1]),
        "b": jnp.zeros(WIDTHS[1]),
    }


DECAYS, ADAPTATION_DECAYS = np.exp([-1 / 5, -1 / 25]), np.exp([-1 / 30, -1 / 120])


def adlif(p: Parameters, surrogate: Any, recurrent: bool) -> Cell:
    decay, rho = jnp.clip(p["decay"], *DECAYS), jnp.clip(p["adaptation_decay"], *ADAPTATION_DECAYS)
    return AdLIF(decay, rho, jnp.clip(p["a"], -1, 1), jnp.clip(p["b"], 0, 2), 0.5, surrogate)


def symplectic_start(key: jax.Array) -> Parameters:
    values = jax.random.uniform(key, (4, WIDTHS[1]))
    return dict(zip(("decay", "adaptation_decay", "a", "b"), values, strict=True))  # shares of their ranges


def symplectic(p: Parameters, surrogate: Any, recurrent: bool) -> Cell:
    membrane, adaptation, a, b = (jnp.clip(p[name], 0, 1) for name in ("decay", "adaptation_decay", "a", "b"))
    decay, rho = jnp.exp(-1 / (5 + 20 * membrane)), jnp.exp(-1 / (60 + 240 * adaptation))
    return SymplecticAdLIF(decay, rho, a, 2 * b, threshold=0.5, surrogate=surrogate)


def brf_start(key: jax.Array) -> Parameters:
    first, second = jax.random.split(key)
    return {"omega": between(first, 5, 10), "b": between(second, 2, 3)}


def brf(p: Parameters, surrogate: Any, recurrent: bool) -> Cell:
    return BRF(jnp.clip(p["omega"], 0, 99), jnp.abs(p["b"]), surrogate=surrogate)


NEURONS = {
    "LIF": Neuron(lif, lr=(5e-4, 5e-4)),
    "LIF, normalized": Neuron(lif, lr=(5e-4, 5e-4), normalized=True),
    "ALIF": Neuron(alif, alif_start, lr=(2.5e-3, 5e-4), limited=False),  # half of the published rates
    "TC-LIF": Neuron(tclif, lambda key: {"couplings": jnp.zeros(2)}, lr=(5e-4, 5e-4)),
    "adLIF": Neuron(adlif, adlif_start, lr=(5e-3, 1e-3), normalized=True, orthogonal=True),
    "SE-adLIF": Neuron(symplectic, symplectic_start, lr=(5e-3, 1e-3), normalized=True, orthogonal=True),
    "BRF": Neuron(brf, brf_start, normalized=True, scale=16.0, orthogonal=True),
}
LRS = {  # of LIF with other surrogates, feed-forward and recurrent
    "triangle": (8e-4, 3e-4),
    "multi-Gaussian": (1e-3, 5e-4),
    "sigmoid": (5e-4, 3e-4),
    "arctan": (5e-4, 3e-4),
}
PUBLISHED = {  # test accuracies, the best of all epochs, of one seed: feed-forward and recurrent
    ("LIF", "rectangle"): (0.324, 0.593),
    ("LIF", "triangle"): (0.315, 0.741),
    ("LIF", "multi-Gaussian"): (0.318, 0.686),
    ("LIF", "sigmoid"): (0.329, 0.761),
    ("ALIF", "rectangle"): (0.325, 0.674),
    ("TC-LIF", "rectangle"): (0.301, 0.307),
    ("adLIF", "rectangle"): (0.356, 0.897),
}


def networks(size: Size) -> list[dict[str, Any]]:
    """Return the setting of each network: neurons with one surrogate, and LIF neurons with each."""
    pairs = [("LIF", surrogate) for surrogate in SURROGATES]
    pairs += [(neuron, "rectangle") for neuron in NEURONS if neuron != "LIF"]
    return [
        {
            "neuron": neuron,
            "surrogate": surrogate,
            "recurrent": recurrent,
            "lr": (LRS.get(surrogate, NEURONS[neuron].lr) if neuron == "LIF" else NEURONS[neuron].lr)[recurrent],
            "samples": size.samples,
            "epochs": size.epochs if recurrent else size.feed_forward_epochs,
            "batch": size.batch,
        }
        for recurrent in (True, False)
        for neuron, surrogate in pairs
    ]


def start(key: jax.Array, setting: dict[str, Any]) -> Parameters:
    """Draw weights and biases evenly from -1/√n to 1/√n, with n the inputs, and the parameters of the neurons."""
    neuron = NEURONS[setting["neuron"]]
    keys = iter(jax.random.split(key, 12))

    def linear(inputs: int, outputs: int) -> Parameters:
        high = inputs**-0.5
        shapes = {"weight": (inputs, outputs), "bias": (outputs,)}
        return {
            name: jax.random.uniform(next(keys), shape, minval=-high, maxval=high) for name, shape in shapes.items()
        }

    layers = []
    for n, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        layer: Parameters = {"input": linear(inputs, outputs), "cell": neuron.start(next(keys))}
        if neuron.normalized:
            layer["gain"], layer["shift"] = jnp.full(outputs, neuron.scale), jnp.zeros(outputs)
        if setting["recurrent"] and n == 0:
            layer["recurrent"] = linear(outputs, outputs)
            if neuron.orthogonal:
                draw = jax.nn.initializers.orthogonal(neuron.scale)
                layer["recurrent"]["weight"] = draw(next(keys), (outputs, outputs))
        layers.append(layer)
    return {"layers": layers, "readout": linear(WIDTHS[-1], CLASSES)}


def run(parameters: Parameters, x: ArrayLike, setting: dict[str, Any], statistics: Any = None) -> tuple[Any, Any]:
    """Return logits ``(n, 10)`` for ``x (n, steps, 2)``, and mean and variance of the input currents of each layer.

    Normalized layers use given statistics, or without them those of ``x``.
    """
    neuron = NEURONS[setting["neuron"]]
    outputs = jnp.moveaxis(jnp.asarray(x), 1, 0)
    measured = []
    for n, layer in enumerate(parameters["layers"]):
        weight, bias = layer["input"]["weight"], layer["input"]["bias"]
        if neuron.normalized:
            if statistics is None:
                currents = outputs.astype(weight.dtype) @ weight + bias
                measured.append((currents.mean((0, 1)), currents.var((0, 1))))
            else:
                measured.append(statistics[n])
            mean, var = measured[-1]
            weight, bias = fold_normalization(
                weight, bias, mean=mean, var=var, gain=layer["gain"], shift=layer["shift"]
            )
        recurrent = None
        if "recurrent" in layer:
            recurrent = layer["recurrent"]["weight"]
            bias = bias + layer["recurrent"]["bias"]
        cell = neuron.cell(layer["cell"], SURROGATES[setting["surrogate"]], setting["recurrent"])
        _, outputs = Network([Layer(weight, cell, recurrent, bias)])(outputs)
    return outputs[-1] @ parameters["readout"]["weight"] + parameters["readout"]["bias"], measured


def loss(parameters: Parameters, batch: Any, key: jax.Array, setting: dict[str, Any]) -> tuple[jax.Array, dict]:
    """Cross-entropy with smoothed labels."""
    del key
    x, y = batch
    logits, _ = run(parameters, x, setting)
    targets = optax.smooth_labels(jax.nn.one_hot(y, CLASSES), SMOOTHING)
    return optax.softmax_cross_entropy(logits, targets).mean(), {"accuracy": (logits.argmax(-1) == y).mean()}


def optimizer(setting: dict[str, Any]) -> optax.GradientTransformation:
    """Adam for short training: twice the learning rate, which falls to 0, and for most neurons a limited gradient."""
    updates = setting["epochs"] * (setting["samples"] // setting["batch"])
    adam = optax.adam(optax.cosine_decay_schedule(2 * setting["lr"], updates))
    return optax.chain(optax.clip_by_global_norm(1.0), adam) if NEURONS[setting["neuron"]].limited else adam


def examples(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bits ``(samples, 100, 2)`` and labels."""
    x, y, _ = binary_adding(samples, seed=seed).as_batch()
    return np.moveaxis(x, 1, 0), y


def results(
    settings: Sequence[dict[str, Any]], size: Size, path: Path | None, jobs: int | None
) -> Iterator[dict[str, Any]]:
    """Train, and yield each run when it ends."""
    train, validation, test = map(examples, (size.samples, size.held_out, size.held_out), (100, 101, 102))

    def score(parameters: Parameters, setting: dict[str, Any]) -> dict[str, float]:
        _, statistics = run(parameters, train[0][: size.held_out], setting)
        accuracies = {}
        for name, (x, y) in {"validation": validation, "test": test}.items():
            logits, _ = run(parameters, x, setting, statistics)
            accuracies[name] = float((logits.argmax(-1) == y).mean())
        return accuracies

    rows = np.arange(size.samples, dtype=np.int32)
    for epochs, of_length in itertools.groupby(settings, lambda setting: setting["epochs"]):
        yield from training.sweep(
            training.with_device_data(loss, train),
            start,
            lambda seed: training.ShuffledBatches(rows, size.batch, seed),
            list(of_length),
            optimizer=optimizer,
            seeds=range(size.seeds),
            epochs=epochs,
            updates_per_call=8,
            score=score,
            callbacks=lambda setting, seed: [functools.partial(show_epoch, setting, seed)],
            path=path,
            resume=path is not None,
            jobs=jobs,
        )


def show_epoch(setting: dict[str, Any], seed: int, now: training.Report) -> None:
    if now.epoch_ended:
        about = f"seed {seed}, epoch {now.epoch}, training accuracy {now.epoch_metrics['accuracy']:.3f}"
        print(f"  {name_of(setting)}, {about}", file=sys.stderr, flush=True)


def summary(settings: Iterable[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each network: test accuracies over seeds, next to the published one."""
    rows = []
    for one in settings:
        mine = [run for run in runs if all(run[name] == value for name, value in one.items())]
        tests = [run["test"] for run in sorted(mine, key=lambda run: run["seed"])]
        if tests:
            published = PUBLISHED.get((one["neuron"], one["surrogate"]))
            rows.append(
                one
                | {
                    "seeds": len(tests),
                    "mean": float(np.mean(tests)),
                    "min": min(tests),
                    "max": max(tests),
                    "deviation": float(np.std(tests, ddof=1)) if len(tests) > 1 else None,
                    "validation": float(np.mean([run["validation"] for run in mine])),
                    "training": float(np.mean([run["accuracy"] for run in mine])),
                    "published": published[one["recurrent"]] if published else None,
                }
            )
    return rows


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's coefficient, for numbers without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def correlations(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return rank correlations between mean and published accuracies of recurrent networks."""
    found = {}
    known = [row for row in rows if row["recurrent"] and row["published"]]
    for name, chosen in {
        "surrogates": [row for row in known if row["neuron"] == "LIF"],
        "neurons": [row for row in known if row["surrogate"] == "rectangle"],
    }.items():
        if len(chosen) > 2:
            found[name] = rank_correlation([row["mean"] for row in chosen], [row["published"] for row in chosen])
    return found


_SHOWN = ("neuron", "surrogate", "recurrent", "mean", "min", "max", "published")
"""The columns that are printed."""


def main(args: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="where runs are kept (nowhere)")
    parser.add_argument("--only", nargs="*", default=["*"], help="names of networks, such as 'LIF, *, recurrent'")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (all processors)")
    for field in dataclasses.fields(Size):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = parser.parse_args(args)
    size = Size(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Size)})
    settings = [one for one in networks(size) if any(fnmatch(name_of(one), only) for only in options.only)]
    path = kept_in(options.folder)
    runs = []
    for run in results(settings, size, path, options.jobs):
        runs.append(run)
        about = "  ".join(f"{name} {run[name]:.3g}" for name in ("seed", "lr", "loss", "accuracy", "test", "seconds"))
        print(f"{len(runs)}/{len(settings) * size.seeds}  {name_of(run)}  {about}", file=sys.stderr, flush=True)
    rows = summary(settings, runs)
    report([{name: row[name] for name in _SHOWN} for row in rows], None)
    found = correlations(rows)
    for name, value in found.items():
        print(f"rank correlation with the published accuracies, {name}: {value:.2f}")
    if options.json:
        about = {"setting": setting(), "size": dataclasses.asdict(size), "rank correlations": found, "rows": rows}
        options.json.write_text(json.dumps(about, indent=1) + "\n")


def name_of(setting: dict[str, Any]) -> str:
    kind = "recurrent" if setting["recurrent"] else "feed-forward"
    return f"{setting['neuron']}, {setting['surrogate']}, {kind}"


if __name__ == "__main__":
    keep_memory()
    main()
