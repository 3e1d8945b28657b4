"""The command ``quantize``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import jax

from ..integers import TARGETS, QuantizationReport, quantize, replay, save, to_c
from ..network import Network
from ..training import partition
from . import runs, tables, trainer
from .networks import SpikingNetwork, spike_key
from .options import COUNT, PATH, Options, quiet_option
from .sources import sample

_MEASURED = 128
"""Number of training examples that measure the states."""
_REPLAYED = 64
"""Number of test examples that are run in integers of NumPy too."""


bits_option = click.option(
    "--bits", type=COUNT, default=8, help="Bits of a weight of integers."
)


@click.command("quantize", context_settings={"show_default": True})
@click.argument("run", type=PATH)
@click.option(
    "--target",
    type=click.Choice([*TARGETS]),
    required=True,
    help="Arithmetic and limits.",
)
@bits_option
@click.option(
    "--epochs",
    type=click.IntRange(0),
    default=0,
    help="Train the integers on, at a third of the learning rate of the run.",
)
@click.option(
    "--output", "-o", type=PATH, show_default="RUN/<target>-<bits>", help="New folder."
)
@quiet_option
def command(
    run: Path, target: str, bits: int, epochs: int, output: Path | None, quiet: bool
) -> None:
    """Convert a trained run to the integers of a chip, or of C.

    RUN is the folder that train wrote, with --reset value for loihi. Its inputs must be integers:
    images with --encoding rate or latency, or recordings of events. Writes network.json (all
    integers) and network.c with network.h (a program in C99), and prints the report and the test
    accuracy before and after.
    """
    convert(run, target, bits, epochs, output, quiet)


def convert(
    run: Path, target: str, bits: int, epochs: int, output: Path | None, quiet: bool
) -> None:
    """Convert a run, train the integers on, and write them."""
    saved = runs.read(run)
    network, options = saved.network, saved.options
    folder = run / f"{target}-{bits}" if output is None else output
    if folder.exists():
        raise runs.RunError(f"{folder} already exists; pass another --output")
    params, split = runs.read_parameters(saved), options.load()
    score = trainer.make_evaluator(network)
    before = score(params, split.test).accuracy(split.test.y)
    params, report = converted(network, params, split, target, bits)
    after = score(params, split.test).accuracy(split.test.y)
    accuracies = f"{before:.1%} in real numbers, {after:.1%} in integers"
    if epochs:
        settings = dataclasses.replace(options, epochs=epochs, lr=options.lr / 3)
        fit = trainer.fit(network, partition(params)[0], split, settings, quiet=quiet)
        params, trained = fit.params, fit.scores.accuracy(split.test.y)
        accuracies += f", {trained:.1%} trained on for {epochs} epochs"
    integers, inputs, _ = _network(network, params, sample(split.test, _REPLAYED))
    # A state that leaves its width raises here, before anything is written.
    replay(integers, inputs)
    folder.mkdir(parents=True)
    save(integers, folder / "network.json")
    to_c(integers, folder / "network")
    tables.say(str(report))
    tables.say(f"test accuracy {accuracies}", f"wrote {folder}")


def check(options: Options, split: Any, target: str, bits: int) -> None:
    """Raise for what the target lacks, with initial parameters."""
    network = options.network(split)
    params = trainer.starts(network, split.train)(jax.random.key(options.seed))
    converted(network, params, split, target, bits)


def converted(
    network: SpikingNetwork, params: Any, split: Any, target: str, bits: int
) -> tuple[Any, QuantizationReport]:
    """Return the parameters as integers, and the report. Raise for what the target lacks."""
    if network.encoding == "current":
        raise runs.RunError(
            "the network has real inputs; train it with --encoding rate or latency"
        )
    real, inputs, mask = _network(network, params, sample(split.train, _MEASURED))
    try:
        integers, report = quantize(real, target, inputs, bits=bits, mask=mask)
    except (TypeError, ValueError) as error:
        raise runs.RunError(str(error)) from error
    return tuple(integers.layers.values()), report


def _network(network: SpikingNetwork, params: Any, source: Any) -> tuple[Any, Any, Any]:
    """Return the layers as a network, and the inputs and mask of some examples."""
    x, _, mask = source.as_batch()
    return Network(params), network.inputs(x, spike_key(jax.random.key(0))), mask
